"""Principal components from raw counts in a file: time, memory, exactness, and where time goes.

Counts with the statistics of the neurons workload, of cells of eighty kinds, are written block by
block, raw and with gzip. Each measurement is a process of its own: counts are divided by the size
of their cell, logarithms are taken, and of 2,000 genes that vary most, or of all, the components
are found; ``A.lazy`` stores nothing of it. At the first size, if it is not too large for that, the
components are compared with those of ARPACK in memory, and must be the same, bit for bit, with 1, 2
and 5 threads. "error" is the sine of the largest angle between the two spaces. Beside it are
scikit-learn's TruncatedSVD (which does not centre) and, where it is installed, scanpy's pca, of the
same matrix loaded into memory.
"""

import hashlib
import importlib.util
import json
import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import scipy.sparse as sp
from common import count, machine, script, some_of, versions

import diskcsr
from diskcsr.bench.workloads import WORKLOADS, odds_of, present

KINDS, BLOCK, RUN = 80, 1024, 64


def blocks(cells, columns, seed=0):
    """Yield blocks of raw counts; runs of 64 cells are of one kind, which has genes of its own."""
    neurons, rng = WORKLOADS["neurons"], np.random.default_rng(seed)
    common = rng.lognormal(0, neurons.spread, columns).astype(np.float32)
    strength = np.linspace(1.5, 0.3, KINDS)[:, None]
    kinds = common * np.exp(strength * rng.normal(size=(KINDS, columns))).astype(np.float32)
    for first in range(0, cells, BLOCK):
        size = min(BLOCK, cells - first)
        lengths = neurons.lengths(rng, size) * (columns / neurons.columns)
        odds = odds_of(common, lengths)
        found = [
            present(odds[a : a + RUN], kinds[rng.integers(KINDS)], rng) for a in range(0, size, RUN)
        ]
        indices = np.concatenate([part for _, part in found])
        indptr = np.concatenate([[0], np.cumsum(np.concatenate([part for part, _ in found]))])
        values = neurons.values(rng, indices.size)
        yield sp.csr_array((values, indices, indptr), (size, columns))


# ------------------------------------------------------------------------ in a process of its own


def peak():
    """The most memory that this process has had resident, in MiB."""
    return int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1]) / 1024


def timed(work):
    """Return what `work` does, and the seconds it takes."""
    start = time.perf_counter()
    result = work()
    return result, time.perf_counter() - start


def recipe(A, genes):
    """Return the lazy array of log counts, of the genes that vary most where `genes` says so."""
    total = A.sum(axis=1).astype(np.float32)
    L = np.log1p(A.lazy / (total[:, None] / np.float32(1e4)))
    if genes is None:
        return L
    variance = L.var(axis=0)
    return L[:, np.sort(np.argsort(-variance, kind="stable")[:genes])]


def by_diskcsr(A, job):
    """Find the components of what is in the file; say how long each part of a pass takes."""
    diskcsr.linalg.pca(recipe(A.lazy[:100], None), 3, rng=0, tol=1)  # compiled before it is timed
    L, made = timed(lambda: recipe(A, job["genes"]))
    found, seconds = timed(lambda: diskcsr.linalg.pca(L, job["k"], rng=0, tol=job["tol"]))
    most = peak()
    digest = hashlib.sha256(np.ascontiguousarray(found.scores))
    digest.update(np.ascontiguousarray(found.components))
    D = np.random.default_rng(0).normal(size=(L.shape[1], job["k"] + 10))
    parts = {
        "read": timed(lambda: A.sum(axis=0))[1],
        "log counts": timed(lambda: L.sum(axis=0))[1],
        "product": timed(lambda: diskcsr.gram_product(L, D))[1],
    }
    answer = {"seconds": made + seconds, "selection": made, "peak": most, "parts": parts}
    return found.components, {**answer, "passes": found.passes, "digest": digest.hexdigest()}


def by_arpack(A, job):
    """Find the components in memory to machine precision."""
    X = recipe(A, job["genes"]).to_memory().astype(np.float64)
    mean, T = X.mean(axis=0), X.T.tocsr()
    centred = sp.linalg.LinearOperator(
        X.shape,
        # scipy below 1.16 gives columns.
        matvec=lambda v: X @ v.ravel() - mean @ v.ravel(),
        rmatvec=lambda u: T @ u.ravel() - mean * u.sum(),
        dtype=np.float64,
    )
    (_, s, components), seconds = timed(lambda: sp.linalg.svds(centred, job["k"], tol=0))
    order = np.argsort(-s)
    return components[order], {"seconds": seconds, "peak": peak()}


def by_sklearn(A, job):
    """Load the matrix and decompose it in memory, by scikit-learn's randomised method."""
    from sklearn.decomposition import TruncatedSVD

    X, made = timed(lambda: recipe(A, job["genes"]).to_memory())
    svd = TruncatedSVD(job["k"], random_state=0)
    _, seconds = timed(lambda: svd.fit_transform(X))
    return svd.components_, {"seconds": made + seconds, "selection": made, "peak": peak()}


def by_scanpy(A, job):
    """Load the matrix and decompose it in memory, as scanpy does."""
    import scanpy

    X, made = timed(lambda: sp.csr_matrix(recipe(A, job["genes"]).to_memory()))
    atlas = scanpy.AnnData(X)
    _, seconds = timed(lambda: scanpy.pp.pca(atlas, n_comps=job["k"]))
    components = atlas.varm["PCs"].T
    return components, {"seconds": made + seconds, "selection": made, "peak": peak()}


SYSTEMS = {
    "diskcsr": by_diskcsr,
    "arpack": by_arpack,
    "scikit-learn": by_sklearn,
    "scanpy": by_scanpy,
}


def child(job):
    """Do what a job says; print the answer as JSON."""
    diskcsr.set_num_threads(job["threads"])
    with diskcsr.open(job["path"]) as A:
        components, answer = SYSTEMS[job["system"]](A, job)
    np.save(job["components"], components)
    print(json.dumps(answer))


# --------------------------------------------------------------------------------------- the rest


def measure(path, system, **job):
    """Have a process measure; return its answer, the components with it."""
    components = path.with_suffix(".npy")
    job = {"path": str(path), "system": system, "components": str(components), **job}
    command = [sys.executable, __file__, "--child", json.dumps(job)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    found = np.load(components)
    components.unlink()
    return {**json.loads(done.stdout.splitlines()[-1]), "components": found}


def angle(found, exact):
    """Return the sine of the largest angle between two spaces with orthonormal rows."""
    return float(np.linalg.norm(exact - (exact @ found.T) @ found, 2))


def show(title, answer, more=""):
    """Print a line of the table; return what is kept of an answer."""
    passes = answer.get("passes", "")
    print(
        f"{title:<32}{answer['seconds']:>9.1f}{answer.get('selection', 0):>11.1f}"
        f"{passes:>8}{answer['peak']:>10,.0f}  {more}",
        flush=True,
    )
    return {key: value for key, value in answer.items() if key != "components"}


def at_size(files, cells, args, first):
    """Measure all there is of one size; return what is kept."""
    kept = {}
    print(f"{'':<32}{'seconds':>9}{'selection':>11}{'passes':>8}{'peak MiB':>10}")
    for genes in [{"selected": args.genes, "all": None}[what] for what in args.what]:
        job = {"genes": genes, "k": args.components, "tol": args.tol, "threads": args.threads}
        what = "all genes" if genes is None else f"{genes:,} genes"
        any_file = next(iter(files.values()))
        exact = measure(any_file, "arpack", **job)["components"] if first else None
        for name, path in files.items():
            answer = measure(path, "diskcsr", **job)
            parts = ", ".join(f"{part} {took:.2f}" for part, took in answer["parts"].items())
            more = f"a pass in s: {parts}"
            if first:
                answer["error"] = angle(answer["components"], exact)
                more += f"; error {answer['error']:.1e}"
            kept[f"{what}, {name}"] = show(f"{what}, {name}", answer, more)
            others = set(args.compare) - {args.threads} if first and path == any_file else ()
            for threads in sorted(others):
                again = measure(path, "diskcsr", **{**job, "threads": threads})
                if again["digest"] != answer["digest"]:
                    raise SystemExit(f"{what}, {name}: other bits with {threads} threads")
        for system in ("scikit-learn", "scanpy") if cells <= args.exact else ():
            module = "sklearn" if system == "scikit-learn" else system
            if importlib.util.find_spec(module) is None:
                print(f"{what}, {system}: not installed")
                continue
            title = f"{what}, {system}, in memory"
            kept[title] = show(title, measure(any_file, system, **job))
    if first:
        print(f"the same bits with {', '.join(map(str, args.compare))} threads")
    return kept


def made(folder, cells, columns):
    """Return the files with so many cells, by name; make those that are not there."""
    files = {name: Path(folder) / f"{name}-{cells}-{columns}.h5" for name in ("raw", "gzip")}
    if not files["raw"].exists():
        diskcsr.write(files["raw"], blocks(cells, columns)).close()
    if not files["gzip"].exists():
        diskcsr.convert(files["raw"], files["gzip"], compression="gzip").close()
    return files


def run(args, folder):
    """Print a table for each size."""
    print(f"{machine()}\n{versions()}\n{args.components} components, tol {args.tol:g}")
    results = {}
    for number, cells in enumerate(args.cells):
        files = made(args.keep or folder, cells, args.columns)
        with diskcsr.open(files["raw"]) as A:
            print(f"\n{A.shape[0]:,} x {A.shape[1]:,}, {A.nnz:,} values; ", end="")
        sizes = (f"{name} {path.stat().st_size / 1e6:,.0f} MB" for name, path in files.items())
        print(", ".join(sizes), flush=True)
        first = number == 0 and cells <= args.exact
        wanted = {name: files[name] for name in args.files}
        results[str(cells)] = at_size(wanted, cells, args, first=first)
        if not args.keep:
            for path in files.values():
                path.unlink()
    return results


OPTIONS = {
    "--cells": {"type": int, "nargs": "+", "default": [20_000], "help": "sizes, the least first"},
    "--columns": count(WORKLOADS["neurons"].columns, "genes in all"),
    "--genes": count(2000, "genes that are selected"),
    "--components": count(50),
    "--tol": {"type": float, "default": 1e-6, "help": "as of diskcsr.linalg.pca"},
    "--what": some_of(["selected", "all"]),
    "--exact": count(200_000, "cells up to which others do the same in memory"),
    "--keep": {"help": "where files are made that are not there yet, and stay"},
    "--files": some_of(["raw", "gzip"]),
    "--compare": {"type": int, "nargs": "+", "default": [1, 2, 5], "help": "numbers of threads"},
    "--threads": {"type": int, "default": 2, "help": "of diskcsr (default: 2)"},
}


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        child(json.loads(sys.argv[2]))
    else:
        script(run, __doc__, "25 kB a cell", OPTIONS)
