"""Products with dense matrices, by tiles and without; Gram matrices by BLAS and by the kernel.

Counts as those of lazy.py, in memory; one thread, and its processor time, the least of some rounds.
What is compiled without tiles is so in a process of its own, which keeps nothing of it.
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import scipy.sparse as sp
from common import count, machine, script, versions
from lazy import blocks

from diskcsr import kernels
from diskcsr.compute import products

WIDTHS = ((16, "f8"), (50, "f4"), (60, "f8"))


def least(work, rounds):
    """Return the least processor time in seconds; what is compiled is not counted."""
    work()
    times = []
    for _ in range(rounds):
        start = time.thread_time()
        work()
        times.append(time.thread_time() - start)
    return min(times)


def by_tiles(A, rounds):
    """Return the nanoseconds a stored value of ``A.T @ (A @ D)``, for each width."""
    arrays, found = (A.data, A.indices, A.indptr), []
    for width, dtype in WIDTHS:
        D = np.random.default_rng(0).normal(size=(A.shape[1], width)).astype(dtype)
        out = np.zeros_like(D)
        seconds = least(lambda: kernels.products.gram_product(*arrays, D, out), rounds)  # noqa: B023
        found.append(seconds / A.nnz * 1e9)
    return found


def gram_matrices(A, columns, rounds):
    """Return the microseconds a row of a Gram matrix by the kernel, and by BLAS; and the share."""
    popular = np.sort(np.argsort(-np.bincount(A.indices, minlength=A.shape[1]))[:columns])
    some = A[:, popular].astype(np.float64)
    arrays, half = (some.data, some.indices, some.indptr), np.zeros((columns, columns))
    kernel = least(lambda: kernels.products.half_gram(*arrays, 0, columns, half), 1)
    blas = least(lambda: products._add_filled(arrays, half, products._DENSE_BYTES), rounds)
    share = some.nnz / some.shape[0] / columns
    return [seconds / some.shape[0] * 1e6 for seconds in (kernel, blas)] + [share]


def child(job):
    """Measure; print the answer as JSON."""
    if not job["tiles"]:
        kernels.products._TILES = 1 << 30  # before anything is compiled
    A = sp.vstack(list(blocks(job["rows"], job["columns"])), format="csr")
    answer = {"products": by_tiles(A, job["rounds"])}
    if job["tiles"]:
        answer["gram"] = gram_matrices(A[:256], job["selected"], job["rounds"])
    print(json.dumps(answer))


def measure(args, folder, tiles):
    """Have a process measure, in which nothing is compiled yet."""
    job = {"tiles": tiles, "rows": args.rows, "columns": args.columns}
    job |= {"selected": args.selected, "rounds": args.rounds}
    compiled = {"NUMBA_CACHE_DIR": str(Path(folder, f"tiles-{tiles}")), "OPENBLAS_NUM_THREADS": "1"}
    command = [sys.executable, __file__, "--child", json.dumps(job)]
    env = {**os.environ, **compiled}
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=env)
    return json.loads(done.stdout.splitlines()[-1])


def run(args, folder):
    """Print both tables."""
    print(f"{machine()}\n{versions()}\n{args.rows:,} x {args.columns:,}, one thread")
    tiled, whole = (measure(args, folder, tiles) for tiles in (True, False))
    print("A.T @ (A @ D), ns a stored value\ncolumns      tiles   whole   ratio")
    for (width, dtype), one, other in zip(
        WIDTHS, tiled["products"], whole["products"], strict=True
    ):
        print(f"{width:4} {dtype:5}{one:8.1f}{other:8.1f}{one / other:8.2f}")
    kernel, blas, share = tiled["gram"]
    print(f"Gram matrix of {args.selected:,} columns, {share:.0%} stored, us a row:", end=" ")
    print(f"kernel {kernel:,.0f}, BLAS {blas:,.0f}")
    return {"tiles": tiled, "whole": whole}


OPTIONS = {
    "--rows": count(2048),
    "--columns": count(27_998),
    "--selected": count(2000, "columns of the Gram matrix, the most popular ones"),
    "--rounds": count(5),
}


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        child(json.loads(sys.argv[2]))
    else:
        script(run, __doc__, "50 MB", OPTIONS)
