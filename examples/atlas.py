"""From the raw counts of a cell atlas to its principal components, neighbours and clusters.

Everything is computed from the counts in an h5ad file: nothing is written, no matrix is loaded.
Each step prints its time and the most memory that the process has had so far, beyond that at its
start. Without a file an atlas of ``--cells`` cells of eight kinds is made, block by block; with
``--memory-limit`` it may be three times as large as the address space of the process (RLIMIT_AS).
"""

import argparse
import resource
import tempfile
import time
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import h5py
import numpy as np
from scipy.sparse import csr_array

import diskcsr
from diskcsr.__main__ import parse_size

GENES, MITOCHONDRIAL, KINDS, MOLECULES = 5000, 13, 8, 2000


def most():
    """Return the most resident memory so far, in MiB: that of the process alone (Linux)."""
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) / 1024


BEGAN = most()


@contextmanager
def step(title):
    """Print the time of a step, and the peak of resident memory."""
    start = time.perf_counter()
    yield
    seconds, peak = time.perf_counter() - start, most() - BEGAN
    print(f"{title:<34}{seconds:8.1f} s   peak {peak:6.0f} MiB", flush=True)


def add_limit(parser):
    """Let a command line set a limit to the address space of its process."""
    limit = "of address space, as 1GiB"
    parser.add_argument("--memory-limit", type=parse_size, help=limit)


def set_limit(args):
    """Set the limit that was asked for (RLIMIT_AS)."""
    if args.memory_limit:
        resource.setrlimit(resource.RLIMIT_AS, (args.memory_limit,) * 2)


def counts(kinds, rng, block=500):
    """Yield the counts of cells of these kinds, in blocks of rows.

    A kind has a few hundred genes that are ten times as frequent as elsewhere, a twentieth of all
    cells the mitochondrial ones: they are dying, and to be filtered out.
    """
    common = rng.lognormal(0, 1.5, GENES)
    common[:MITOCHONDRIAL] = 0.05 * common.sum() / MITOCHONDRIAL
    profiles = np.where(rng.random((KINDS, GENES)) < 0.05, 10, 1) * common
    profiles *= MOLECULES / profiles.sum(axis=1, keepdims=True)
    for first in range(0, kinds.size, block):
        rates = profiles[kinds[first : first + block]]
        rates *= rng.lognormal(0, 0.4, (len(rates), 1))
        rates[rng.random(len(rates)) < 0.05, :MITOCHONDRIAL] *= 10
        yield csr_array(rng.poisson(rates).astype(np.float32))


def make_atlas(path, cells):
    """Write an h5ad file of raw counts, as AnnData does; return the kind of each cell."""
    rng = np.random.default_rng(0)
    kinds = rng.integers(0, KINDS, cells)
    diskcsr.write(path, counts(kinds, rng), "X", tags="anndata").close()
    genes = [f"MT-{i}" if i < MITOCHONDRIAL else f"GENE{i}" for i in range(GENES)]
    with h5py.File(path, "r+") as file:
        file.attrs.update({"encoding-type": "anndata", "encoding-version": "0.1.0"})
        for frame, names in {"obs": [f"cell{i}" for i in range(cells)], "var": genes}.items():
            index = file.create_dataset(f"{frame}/_index", data=names, dtype=h5py.string_dtype())
            file[frame].attrs.update({"_index": "_index", "column-order": np.zeros(0)})
            for one, kind in (file[frame], "dataframe"), (index, "string-array"):
                one.attrs.update({"encoding-type": kind, "encoding-version": "0.2.0"})
    return kinds


def normalised_dispersion(mean, variance, bins=20):
    """How much more genes vary than others of their mean: z-scores of log(variance / mean)."""
    dispersion = np.log(np.maximum(variance, 1e-12) / np.maximum(mean, 1e-12))
    of = np.searchsorted(np.quantile(mean, np.linspace(0, 1, bins + 1)[1:-1]), mean)
    size = np.bincount(of, minlength=bins)[of]
    dispersion -= np.bincount(of, dispersion)[of] / size
    return dispersion / np.sqrt(np.bincount(of, dispersion**2)[of] / size + 1e-12)


def good(A, genes):
    """Return which cells and genes to keep, and the size factors of these cells."""
    mitochondrial = np.char.startswith(np.char.upper(genes.astype(str)), "MT-")
    with step("cells and genes described"):
        of_cells, of_genes = diskcsr.describe(A, 1), diskcsr.describe(A, 0)
        total = np.asarray(of_cells.sum, np.float32)
        fraction = (A @ mitochondrial.astype(np.float32)) / np.maximum(total, 1)
    cells = (of_cells.nonzeros >= 200) & (fraction < 0.2)
    print(f"    median of a cell: {np.median(of_cells.nonzeros):,.0f} genes, ", end="")
    print(f"{np.median(fraction):.1%} mitochondrial; kept: {cells.sum():,} of {A.shape[0]:,} cells")
    return cells, of_genes.nonzeros >= 10, total[cells] / np.median(total[cells])


def analyse(path, top, components):
    """Do all steps; return the kept cells and their scores."""
    with h5py.File(path) as file:
        genes = file["var"][file["var"].attrs["_index"]].asstr()[:]
    with diskcsr.open(path, "X") as A:
        cells, kept, size = good(A, genes)
        L = np.log1p(A.lazy[cells][:, kept] / size[:, None])  # no more than a recipe so far
        with step("log counts described"):
            log_counts = diskcsr.describe(L, 0)
        score = normalised_dispersion(log_counts.mean, log_counts.variance)
        variable = np.sort(np.argsort(-score, kind="stable")[:top])
        print(f"    {variable.size:,} genes chosen by normalised dispersion of the log counts")
        with step(f"{components} principal components"):
            found = diskcsr.linalg.pca(L[:, variable], components, rng=0, tol=1e-4)
    print(f"    {found.explained_variance_ratio.sum():.1%} of the variance, {found.passes} passes")
    return cells, found.scores


def cluster(scores):
    """Find neighbours and clusters with scanpy, where it is installed."""
    if find_spec("scanpy") is None:
        print("scanpy is not installed: neighbours and clusters are left out")
        return
    import scanpy as sc

    atlas = sc.AnnData(obsm={"X_pca": scores})
    with step("neighbours and clusters"):
        sc.pp.neighbors(atlas, use_rep="X_pca")
        sc.tl.leiden(atlas, flavor="igraph", n_iterations=2, directed=False)
    print(f"    {atlas.obs['leiden'].nunique()} clusters")


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("file", nargs="?", help="an h5ad file with raw counts in X")
    parser.add_argument("--cells", type=int, default=20_000, help="to make (%(default)s)")
    parser.add_argument("--genes", type=int, default=2000, help="highly variable (%(default)s)")
    parser.add_argument("--components", type=int, default=50, help="(%(default)s)")
    add_limit(parser)
    args = parser.parse_args(argv)
    set_limit(args)
    if args.file:
        return cluster(analyse(args.file, args.genes, args.components)[1])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "atlas.h5ad")
        with step(f"{args.cells:,} cells made"):
            kinds = make_atlas(path, args.cells)
        print(f"    a file of {path.stat().st_size / 1e6:,.0f} MB")
        cells, scores = analyse(path, args.genes, args.components)
    centres = np.array([scores[kinds[cells] == kind].mean(axis=0) for kind in range(KINDS)])
    nearest = ((centres**2).sum(axis=1) - 2 * scores @ centres.T).argmin(axis=1)
    print(f"    {np.mean(nearest == kinds[cells]):.1%} of the cells lie nearest to their own kind")
    return cluster(scores)


if __name__ == "__main__":
    main()
