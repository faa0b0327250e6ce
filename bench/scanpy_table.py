"""Scanpy's functions on matrices that stay in their file: the answers, what is read, the memory.

    python bench/scanpy_table.py [--cells N] [--genes N] [--functions NAME ...] [--json OUT]

An AnnData with the statistics of counts, and one of their logarithms, are written with gzip. Each
function works on the object as anndata loads it, and on what diskcsr.interop.anndata.read_h5ad
gives, of both flavours; each in a process of its own, where it has worked on a small object before,
so that what is imported and compiled at first use is no part of it. The answer is all that the
function returns, and the object as it leaves it. "same" is bit for bit; a number is the largest
difference, over the largest value of the same array. "read" is what came from the file, compressed
as it is; "loaded" is what of the three arrays was handed out, and stays; "peak" is the most memory
that was resident, above what was before the call: in memory the matrix is there already. Where the
newer flavour fails, the object is tried with a csr_array in memory, too.
"""

import importlib.util
import multiprocessing
import pickle
import re
import warnings
from importlib.metadata import version
from pathlib import Path

import numpy as np
import scipy.sparse as sp
from common import Others, count, machine, print_busy, script, some_of, versions

import diskcsr

KINDS, BLOCK = 4, 1000
#: Of the object that is worked on before: so many values that the kernels of large ones are used.
SMALL = (1000, 1200)
MEMORY, MATRIX, ARRAY = "memory", "matrix", "array"
#: An array in memory: it is tried where `ARRAY` fails.
PLAIN = "array in memory"
#: Up to here it is rounding: sums in another order. Single precision keeps seven digits of them,
#: and fewer of distances, which are differences of numbers that are nearly the same.
ROUNDING = 1e-3

# ------------------------------------------------------------------------------ what is looked at


def counts(cells, genes, seed=0):
    """Yield blocks of counts of cells that are of four kinds; cell i of kind ``i % 4``."""
    rng = np.random.default_rng(seed)
    common = rng.lognormal(-3, 1.2, genes)
    kinds = common * np.exp(0.8 * rng.normal(size=(KINDS, genes)))
    for first in range(0, cells, BLOCK):
        rows = np.arange(first, min(first + BLOCK, cells))
        size = rng.lognormal(0, 0.4, (rows.size, 1))
        yield sp.csr_array(rng.poisson(size * kinds[rows % KINDS]).astype(np.float32))


def write_objects(folder, cells, genes, compression="gzip"):
    """Write the objects that functions work on; return {what: path}."""
    import anndata
    import pandas as pd

    paths = {what: Path(folder) / f"{what}.h5ad" for what in ("counts", "logs", "few")}
    rng = np.random.default_rng(1)
    obs = pd.DataFrame(
        {"kind": pd.Categorical([f"k{i % KINDS}" for i in range(cells)]), "age": rng.random(cells)},
        index=[f"c{i}" for i in range(cells)],
    )
    names = [f"MT-{i}" if i < 10 else f"g{i}" for i in range(genes)]
    var = pd.DataFrame({"mt": np.arange(genes) < 10}, index=names)
    some = np.arange(0, genes, max(1, genes // 100))
    with diskcsr.write(Path(folder) / "matrix.h5", counts(cells, genes)) as A:
        obs["size"] = A.sum(axis=1)
        L = np.log1p(A.lazy / (obs["size"].to_numpy(np.float32)[:, None] / np.float32(1e3)))
        for what, X in {"counts": A, "logs": L, "few": L[:, some]}.items():
            here = var.iloc[some] if what == "few" else var
            adata = anndata.AnnData(sp.csr_matrix(X.to_memory()), obs=obs, var=here)
            adata.write_h5ad(paths[what], compression=compression)
    return paths


def read_object(path, flavour):
    """Read an object: into memory, or with its matrix in the file."""
    import anndata

    from diskcsr.interop.anndata import read_h5ad

    if flavour in (MATRIX, ARRAY):
        return read_h5ad(path, spmatrix=flavour == MATRIX)
    adata = anndata.read_h5ad(path)
    adata.X = (sp.csr_array if flavour == PLAIN else sp.csr_matrix)(adata.X)
    return adata


# ---------------------------------------------------------------------------------- the functions

#: Each with the object that it works on, and what is done: a function of (scanpy, object). Newer
#: and older versions lack some: these raise AttributeError.
FUNCTIONS = {
    "pp.calculate_qc_metrics": (
        "counts",
        lambda sc, a: sc.pp.calculate_qc_metrics(
            a, qc_vars=["mt"], percent_top=(20, 50), inplace=True
        ),
    ),
    "pp.filter_cells": ("counts", lambda sc, a: sc.pp.filter_cells(a, min_counts=_middle(a))),
    "pp.filter_genes": (
        "counts",
        lambda sc, a: sc.pp.filter_genes(a, min_cells=a.n_obs // 10),
    ),
    "pp.normalize_total": ("counts", lambda sc, a: sc.pp.normalize_total(a, target_sum=1e4)),
    "pp.log1p": ("counts", lambda sc, a: sc.pp.log1p(a)),
    "pp.normalize_total, pp.log1p": (
        "counts",
        lambda sc, a: (sc.pp.normalize_total(a), sc.pp.log1p(a))[0],
    ),
    "pp.highly_variable_genes, seurat": (
        "logs",
        lambda sc, a: sc.pp.highly_variable_genes(a, n_top_genes=a.n_vars // 5),
    ),
    "pp.highly_variable_genes, cell_ranger": (
        "logs",
        lambda sc, a: sc.pp.highly_variable_genes(
            a, n_top_genes=a.n_vars // 5, flavor="cell_ranger"
        ),
    ),
    "pp.highly_variable_genes, batch_key": (
        "logs",
        lambda sc, a: sc.pp.highly_variable_genes(a, n_top_genes=a.n_vars // 5, batch_key="kind"),
    ),
    "pp.highly_variable_genes, seurat_v3": (
        "counts",
        lambda sc, a: sc.pp.highly_variable_genes(a, n_top_genes=a.n_vars // 5, flavor="seurat_v3"),
    ),
    "experimental.pp.highly_variable_genes": (
        "counts",
        lambda sc, a: sc.experimental.pp.highly_variable_genes(a, n_top_genes=a.n_vars // 5),
    ),
    "adata[:, genes].copy()": ("logs", lambda sc, a: a[:, :: max(1, a.n_vars // 50)].copy()),
    "tl.score_genes": (
        "logs",
        lambda sc, a: sc.tl.score_genes(a, list(a.var_names[20:40]), random_state=0),
    ),
    "tl.rank_genes_groups, t-test": (
        "logs",
        lambda sc, a: sc.tl.rank_genes_groups(a, "kind", method="t-test"),
    ),
    "tl.rank_genes_groups, wilcoxon": (
        "logs",
        lambda sc, a: sc.tl.rank_genes_groups(a, "kind", method="wilcoxon"),
    ),
    "tl.rank_genes_groups, use_raw": (
        "logs",
        lambda sc, a: (
            setattr(a, "raw", a),
            sc.tl.rank_genes_groups(a, "kind", method="t-test", use_raw=True),
        )[1],
    ),
    "tl.dendrogram, no components": (
        "logs",
        lambda sc, a: sc.tl.dendrogram(a, "kind", var_names=list(a.var_names[20:40])),
    ),
    "get.obs_df": ("logs", lambda sc, a: sc.get.obs_df(a, keys=["kind", *a.var_names[20:24]])),
    "get.aggregate": (
        "logs",
        lambda sc, a: sc.get.aggregate(a, "kind", ["sum", "mean", "var", "count_nonzero"]),
    ),
    "pp.pca": ("logs", lambda sc, a: sc.pp.pca(a, n_comps=KINDS - 1)),
    "pp.pca, not centred": (
        "logs",
        lambda sc, a: sc.pp.pca(a, n_comps=KINDS - 1, zero_center=False, random_state=0),
    ),
    "pp.pca, chunked": (
        "logs",
        lambda sc, a: sc.pp.pca(a, n_comps=KINDS - 1, chunked=True, chunk_size=BLOCK),
    ),
    "tl.pca, pp.neighbors": (
        "logs",
        lambda sc, a: (
            sc.tl.pca(a, n_comps=KINDS - 1),
            sc.pp.neighbors(a, n_neighbors=5, use_rep="X_pca", transformer="sklearn"),
        )[1],
    ),
    "pp.scale, not centred": ("few", lambda sc, a: sc.pp.scale(a, zero_center=False)),
    "pp.scale": ("few", lambda sc, a: sc.pp.scale(a, max_value=10)),
    "pp.regress_out": ("few", lambda sc, a: sc.pp.regress_out(a, ["age"])),
    "pp.downsample_counts": (
        "counts",
        lambda sc, a: sc.pp.downsample_counts(a, counts_per_cell=_middle(a), random_state=0),
    ),
    "pp.sample": ("counts", lambda sc, a: sc.pp.sample(a, 0.1, rng=0)),
    "pp.subsample": ("counts", lambda sc, a: sc.pp.subsample(a, 0.1, random_state=0)),
    "pl.highest_expr_genes": ("counts", lambda sc, a: _shown(sc.pl.highest_expr_genes, a)),
    "pl.dotplot": (
        "logs",
        lambda sc, a: (
            sc.pl.dotplot(a, list(a.var_names[20:24]), "kind", return_fig=True).dot_color_df
        ),
    ),
}


def _middle(adata):
    """Return a number of counts that half of the cells have."""
    return int(adata.obs["size"].median())


def _shown(plot, adata):
    """Return the names that a plot shows, and where its boxes lie."""
    axes = plot(adata, n_top=10, show=False)
    names = [label.get_text() for label in axes.get_yticklabels()]
    return {"names": names, "boxes": np.concatenate([line.get_xdata() for line in axes.lines])}


# ----------------------------------------------------------------------------------- the answers


def flat(value, name=""):
    """Yield (name, array) of all that an answer consists of."""
    import pandas as pd

    if hasattr(value, "obs_names"):
        parts = {"X": value.X, "obs": value.obs, "var": value.var, "uns": dict(value.uns)}
        parts |= {"cells": list(value.obs_names), "genes": list(value.var_names)}
        for part in ("layers", "obsm", "varm", "obsp"):
            found = {str(k): v for k, v in getattr(value, part).items() if k is not None}
            parts[part] = found
        yield from flat(parts, name)
    elif sp.issparse(value):
        whole = sp.csr_array(value, copy=True)
        whole.sum_duplicates()
        parts = {"shape": whole.shape, "data": whole.data, "indices": whole.indices}
        yield from flat({f"{value.format} {k}": v for k, v in parts.items()}, name)
    elif isinstance(value, pd.DataFrame):
        yield from flat({"index": list(value.index), **{str(k): value[k] for k in value}}, name)
    elif isinstance(value, dict):
        for key in sorted(value):
            yield from flat(value[key], f"{name} {key}".strip())
    elif isinstance(value, np.ndarray) and value.dtype.names:
        yield from flat({key: value[key] for key in value.dtype.names}, name)
    elif isinstance(value, tuple) and any(hasattr(part, "shape") for part in value):
        yield from flat({str(i): part for i, part in enumerate(value)}, name)
    elif value is not None:
        array = np.asarray(value)
        yield name, array.astype(str) if array.dtype.kind == "O" else array


def answer(function, sc, adata):
    """Do what a function does; return all that came of it: {name: array}."""
    returned = function(sc, adata)
    return dict(flat({"returned": returned, "object": adata}))


def difference(found, expected):
    """Return the largest difference of two answers; text, where they are not alike."""
    if found.keys() != expected.keys():
        return f"one has {', '.join(sorted(found.keys() ^ expected.keys()))}"
    most = 0.0
    for name, right in expected.items():
        value = found[name]
        if value.shape != right.shape or value.dtype.kind != right.dtype.kind:
            return f"{name}: {value.dtype} {value.shape}, not {right.dtype} {right.shape}"
        if right.dtype.kind not in "fc":
            if not np.array_equal(value, right):
                return f"{name}: {int((value != right).sum())} of {right.size}"
            continue
        if value.dtype != right.dtype:
            return f"{name}: {value.dtype}, not {right.dtype}"
        if not np.array_equal(np.isfinite(value), np.isfinite(right)):
            return f"{name}: other values are infinite or NaN"
        finite = np.isfinite(right)
        off = np.abs(value[finite] - right[finite]).max(initial=0)
        if off:
            most = max(most, float(off / np.abs(right[finite]).max()))
    return most if most < ROUNDING else f"a difference of {most:.1e}"


# ------------------------------------------------------------------------ in a process of its own


def status(word):
    """Return a number of /proc/self/status, in bytes."""
    text = Path("/proc/self/status").read_text()
    return 1024 * int(re.search(rf"{word}:\s+(\d+)", text)[1])


def child(name, flavour, small, large, out):
    """Do one function on one flavour, on a small object first; leave the answer in a file."""
    warnings.simplefilter("ignore")
    import matplotlib
    import scanpy as sc

    matplotlib.use("agg")
    sc.settings.verbosity = 0
    what, function = FUNCTIONS[name]
    result = {}
    try:
        answer(function, sc, read_object(small[what], flavour))
        adata = read_object(large[what], flavour)
        X = adata.X
        stays = flavour in (MATRIX, ARRAY)
        read = X.reader.bytes_read if stays else 0
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
        start = status("VmRSS")
        returned = function(sc, adata)
        result["peak"] = max(0, status("VmHWM") - start)
        if stays:
            result["read"] = X.reader.bytes_read - read
            parts = [vars(X)[part] for part in ("data", "indices", "indptr") if part in vars(X)]
            result["loaded"] = sum(part.nbytes for part in parts)
        result["answer"] = dict(flat({"returned": returned, "object": adata}))
    except Exception as problem:
        result["error"] = f"{type(problem).__name__}: {problem}".partition("\n")[0]
    with open(out, "wb") as file:
        pickle.dump(result, file)


# --------------------------------------------------------------------------------------- the rest


def measure(context, name, flavour, small, large, folder, timeout):
    """Have a process do a function; return what it left."""
    out = Path(folder) / "answer.pickle"
    out.unlink(missing_ok=True)
    process = context.Process(target=child, args=(name, flavour, small, large, out))
    process.start()
    process.join(timeout)
    if process.is_alive():
        process.kill()
        process.join()
        return {"error": f"not done after {timeout} s"}
    if not out.exists():
        return {"error": f"the process ended with {process.exitcode}"}
    with open(out, "rb") as file:
        return pickle.load(file)


def line_of(found, expected):
    """Return what is kept of a measurement: the verdict, and numbers of bytes."""
    if "error" in found:
        return {"verdict": "error", "error": found["error"]}
    off = difference(found["answer"], expected["answer"])
    if isinstance(off, str):
        verdict = f"differs: {off}"
    else:
        verdict = "same" if off == 0 else f"{off:.0e}"
    return {"verdict": verdict, **{k: found[k] for k in ("read", "loaded", "peak") if k in found}}


def show(name, lines):
    """Print what there is of one function."""

    def mega(line, key):
        return f"{line[key] / 1e6:>8,.1f}" if key in line else f"{'':>8}"

    memory = lines[MEMORY]
    print(f"{name:<39}{'':<8}{'':>16}{mega(memory, 'peak')}", end="")
    notes = [f"{MEMORY}: {memory['error']}"] if "error" in memory else []
    for flavour in (MATRIX, ARRAY):
        line = lines.get(flavour, {"verdict": ""})
        verdict, _, note = line["verdict"].partition(": ")
        numbers = "".join(mega(line, key) for key in ("read", "loaded", "peak"))
        print(f"   {verdict:<8}{numbers}", end="")
        notes += [f"{flavour}: {text}" for text in (note, line.get("error")) if text]
    if PLAIN in lines:
        notes.append(f"{PLAIN}: {lines[PLAIN].get('error') or 'no error'}")
    print("".join(f"\n    {note[:115]}" for note in notes), flush=True)


def run(args, folder):
    """Make the objects, go through the functions, print the table; return the results."""
    if importlib.util.find_spec("scanpy") is None:
        raise SystemExit("scanpy is not installed")
    about = {"machine": machine(), "versions": {"scanpy": version("scanpy"), **versions()}}
    for value in about.values():
        print(", ".join(f"{key} {item}" for key, item in value.items()))
    folders = [Path(folder) / size for size in ("small", "large")]
    for one in folders:
        one.mkdir()
    small = write_objects(folders[0], *SMALL, args.compression)
    large = write_objects(folders[1], args.cells, args.genes, args.compression)
    for what, path in large.items():
        with diskcsr.open(path, "X") as A:
            print(
                f"{what}: {A.shape[0]:,} x {A.shape[1]:,}, {A.nnz:,} values of {A.dtype}, "
                f"{8 * A.nnz / 1e6:,.0f} MB, in the file {path.stat().st_size / 1e6:,.0f}"
            )
    columns = "".join(f"   {'answer':<8}{'read':>8}{'loaded':>8}{'peak':>8}" for _ in range(2))
    print(f"\nin MB{'':<51}in memory   {'matrix flavour':<35}array flavour")
    print(f"{'':<63}{'peak':>8}{columns}")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["scanpy", "diskcsr.interop.anndata"])
    others, kept = Others(), {}
    for name in args.functions:

        def job(flavour, name=name):
            return measure(context, name, flavour, small, large, folder, args.timeout)

        expected = job(MEMORY)
        kept[name] = {MEMORY: line_of(expected, expected)}
        if "error" not in expected:
            kept[name] |= {one: line_of(job(one), expected) for one in (MATRIX, ARRAY)}
            if "error" in kept[name][ARRAY]:
                kept[name][PLAIN] = line_of(job(PLAIN), expected)
        show(name, kept[name])
    return about | {"functions": kept, "busy_with_others": print_busy(others)}


OPTIONS = {
    "--cells": count(20_000),
    "--genes": count(3_000),
    "--compression": {"default": "gzip", "choices": ["gzip", "lzf", None], "help": "of the files"},
    "--functions": some_of(FUNCTIONS),
    "--timeout": count(120, "seconds that a function may take"),
}


if __name__ == "__main__":
    script(run, __doc__, "200 MB", OPTIONS)
