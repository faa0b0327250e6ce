"""Sums, means and components by Dask: several worker processes beside one, and without Dask.

The counts of lazy.py, written block by block with gzip. Each system finds sums of genes, means of
cells, and 50 principal components of log counts of 2,000 genes. With Dask each task opens the file
itself; of the components the Gram matrices of blocks are added up, and the eigenvectors of the sum
are found by one process. Workers have one thread each, as have the processes that diskcsr alone is
measured in; what these compile is kept beforehand. All answers are compared.
"""

import numpy as np
from common import count, machine, print_busy, script, versions
from lazy import angle, blocks, timed

import diskcsr
from diskcsr.bench.machine import Others
from diskcsr.bench.workloads import WORKLOADS


def log_counts(A, genes):
    """Return the lazy array of log counts of the genes that are most common."""
    size = A.sum(axis=1).astype(np.float32)
    common = np.sort(np.argsort(-diskcsr.describe(A, 0).nonzeros, kind="stable")[:genes])
    return np.log1p(A.lazy / (size[:, None] / np.float32(1e4)))[:, common]


def components(gram, total, rows, k):
    """Return principal components from a Gram matrix and sums of columns."""
    mean = total / rows
    _, vectors = np.linalg.eigh(gram - rows * np.outer(mean, mean))
    return vectors[:, ::-1][:, :k].T


def gram_of(block):
    """Return the Gram matrix and the sums of a block; a worker does it."""
    dense = block.toarray().astype(np.float64)
    return dense.T @ dense, dense.sum(0)


def added(parts):
    """Add up what `gram_of` returned."""
    grams, sums = zip(*parts, strict=True)
    return sum(grams), sum(sums)


def each_timed(work, seconds):
    """Return what each of some functions returns; note the seconds."""
    found = {name: timed(function) for name, function in work.items()}
    seconds |= {name: took for name, (_, took) in found.items()}
    return {name: answer for name, (answer, _) in found.items()}


def by_dask(A, L, args, seconds):
    """Compute on whichever scheduler Dask is set to; note the seconds."""
    import dask

    D, E = A.to_dask(chunks=args.chunk), L.to_dask(chunks=args.chunk)
    parts = [dask.delayed(gram_of)(block) for block in E.to_delayed().ravel()]
    # In groups: a worker holds few of these matrices.
    groups = [dask.delayed(added)(parts[i : i + 4]) for i in range(0, len(parts), 4)]
    total = dask.delayed(added)(groups)
    work = {
        "sum": lambda: np.asarray(D.sum(axis=0).compute()).ravel(),
        "mean": lambda: np.asarray(D.mean(axis=1).compute()).ravel(),
        "components": lambda: components(*total.compute(), A.shape[0], args.components),
    }
    return each_timed(work, seconds)


def alone(A, L, args, seconds):
    """Compute by diskcsr itself, in one thread."""
    work = {
        "sum": lambda: A.sum(axis=0),
        "mean": lambda: A.mean(axis=1),
        "components": lambda: diskcsr.linalg.pca(L, args.components, rng=0).components,
    }
    return each_timed(work, seconds)


def in_cluster(A, L, args, processes, folder):
    """Compute on so many worker processes; return the seconds and the answers."""
    import dask
    from distributed import Client, LocalCluster

    seconds = {}
    how = {"n_workers": processes, "threads_per_worker": 1, "dashboard_address": None}
    with (
        dask.config.set({"temporary_directory": folder}),
        LocalCluster(processes=True, **how) as cluster,
        Client(cluster) as client,
    ):
        client.run(diskcsr.set_num_threads, 1)
        by_dask(A.lazy[: 4 * args.chunk], L[: 4 * args.chunk], args, {})  # imports, and compiles
        answers = by_dask(A, L, args, seconds)
    return seconds, answers


def compare(name, got, expected):
    """Raise SystemExit unless the answers are those of another system."""
    for what in ("sum", "mean"):
        if not np.allclose(got[what], expected[what], rtol=1e-5):
            raise SystemExit(f"{name}: another {what}")
    error = angle(got["components"], expected["components"])
    if error > 1e-4:
        raise SystemExit(f"{name}: other components, {error:.1e} away")
    return error


def run(args, folder):
    """Print a line for each system; return what is kept."""
    print(f"{machine()}\n{versions()}")
    path = f"{folder}/m.h5"
    others, results = Others(), {}
    diskcsr.write(path, blocks(args.cells, args.columns), compression="gzip").close()
    diskcsr.set_num_threads(1)
    with diskcsr.open(path) as A:
        print(f"{A.shape[0]:,} x {A.shape[1]:,}, {A.nnz:,} values; tasks of {args.chunk:,} rows")
        print(f"{'seconds':<24}{'sum':>9}{'mean':>9}{'components':>12}{'error':>10}")
        L = log_counts(A, args.genes)
        alone(A.lazy[:100], L[:100], args, {})
        seconds = {}
        expected = alone(A, L, args, seconds)
        systems = {"diskcsr, one thread": (seconds, expected)}
        for processes in args.processes:
            name = f"Dask, {processes} process{'es' if processes > 1 else ''}"
            systems[name] = in_cluster(A, L, args, processes, folder)
        for name, (took, answers) in systems.items():
            error = compare(name, answers, expected)
            times = "".join(f"{took[what]:>{w}.2f}" for what, w in (("sum", 9), ("mean", 9)))
            print(f"{name:<24}{times}{took['components']:>12.2f}{error:>10.1e}")
            results[name] = {**took, "error": error}
    print_busy(others)
    return results


OPTIONS = {
    "--cells": count(20_000),
    "--columns": count(WORKLOADS["neurons"].columns, "genes in all"),
    "--genes": count(2000, "genes of which there are components, the most common ones"),
    "--components": count(50),
    "--chunk": count(1024, "rows of a task"),
    "--processes": {"type": int, "nargs": "+", "default": [1, 2, 4], "help": "numbers of workers"},
}


if __name__ == "__main__":
    script(run, __doc__, "10 kB a cell", OPTIONS, needs=("distributed",))
