"""Products with dense matrices, by tiles, without, by panels; Gram matrices by BLAS and the kernel.

Counts as those of lazy.py, in memory; one thread, and its processor time, the least of some rounds.
What is compiled without tiles is so in a process of its own, which keeps nothing of it.
"""

import json
import os
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import scipy.sparse as sp
from common import count, machine, script, versions
from lazy import blocks

import diskcsr
from diskcsr import kernels
from diskcsr.compute import gram

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


def by_panels(A, rounds):
    """Return the nanoseconds a stored value of ``A.T @ (A @ D)`` in singles, of 64 columns."""
    panel = np.random.default_rng(0).normal(size=(A.shape[1], 64)).astype(np.float32)
    part, out = np.zeros_like(panel), np.zeros(panel.shape)

    def work():
        for first in range(0, A.shape[0], 1024):
            arrays = A.data, A.indices, A.indptr[first : first + 1025]
            kernels.panels.gram_panel(*arrays, panel, part, (0,) * 4)
            kernels.panels.add_part(part, out)

    return least(work, rounds) / A.nnz * 1e9


def gram_matrices(A, columns, rounds):
    """Return the microseconds a row of a Gram matrix by the kernel, by BLAS, and by it in singles.

    And the share of it that is stored.
    """
    popular = np.sort(np.argsort(-np.bincount(A.indices, minlength=A.shape[1]))[:columns])
    some, half = A[:, popular], np.zeros((columns, columns))
    singles = some.data, some.indices, some.indptr
    doubles = some.data.astype(np.float64), some.indices, some.indptr
    taken = [least(lambda: kernels.products.half_gram(*doubles, 0, columns, half), 1)]
    for arrays in (doubles, singles):
        work = partial(gram._add_filled, arrays, half, gram._DENSE_BYTES)
        taken.append(least(work, rounds))
    share = some.nnz / some.shape[0] / columns
    return [seconds / some.shape[0] * 1e6 for seconds in taken] + [share]


def child(job):
    """Measure; print the answer as JSON."""
    diskcsr.set_num_threads(1)  # whose time is measured
    if not job["tiles"]:
        kernels.products._TILES = 1 << 30  # before anything is compiled
    A = sp.vstack(list(blocks(job["rows"], job["columns"])), format="csr")
    answer = {"products": by_tiles(A, job["rounds"])}
    if job["tiles"]:
        answer["panels"] = by_panels(A, job["rounds"])
        answer["gram"] = gram_matrices(A[:1024], job["selected"], job["rounds"])
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
    print(f"  64 singles, by panels {tiled['panels']:.1f}")
    kernel, blas, singles, share = tiled["gram"]
    print(f"Gram matrix of {args.selected:,} columns, {share:.0%} stored, us a row:", end=" ")
    print(f"kernel {kernel:,.0f}, BLAS {blas:,.0f}, in singles {singles:,.0f}")
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
