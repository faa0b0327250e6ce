"""Sums, statistics and products of a matrix on disk, beside scipy's of the same one in memory.

``python bench/compute.py FILE [NAME]`` prints, for each operation, the median over some rounds of
its time here, in memory and of walking over all blocks, and of the processor time of all threads
beside that of scipy, which depends less on what else the machine does: on two cores of which
nothing else has need, the time is half of it. Rounds take turns, so that a busy machine slows all
of them down alike.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse.linalg as spl

import diskcsr

ROUNDS = 5
COLUMNS = 50
WIDTHS = (9, 9, 7, 7, 9, 7, 6, 7)


@cache
def dense(rows: int, columns: int = COLUMNS) -> np.ndarray:
    """Return a dense factor; of one column a vector."""
    numbers = np.random.default_rng(0).random((rows, columns), np.float32)
    return numbers[:, 0] if columns == 1 else numbers


def gram(A: Any) -> Any:
    """Multiply by the matrix and by its transpose: here in one pass."""
    return diskcsr.gram_product(A, dense(A.shape[1]))


OPERATIONS: dict[str, Callable[[Any], Any]] = {
    "sum()": lambda A: A.sum(),
    "sum(0)": lambda A: A.sum(axis=0),
    "sum(1)": lambda A: A.sum(axis=1),
    "mean(0)": lambda A: A.mean(axis=0),
    "max(0)": lambda A: A.max(axis=0),
    "max(1)": lambda A: A.max(axis=1),
    "argmax(1)": lambda A: A.argmax(axis=1),
    "count_nonzero(0)": lambda A: A.count_nonzero(axis=0),
}
PRODUCTS: dict[str, Callable[[Any], Any]] = {
    "A @ x": lambda A: A @ dense(A.shape[1], 1),
    "A.T @ y": lambda A: A.T @ dense(A.shape[0], 1),
    "A @ D": lambda A: A @ dense(A.shape[1]),
    "A.T @ D": lambda A: A.T @ dense(A.shape[0]),
    "gram_product": gram,
    "svds(k=10)": lambda A: spl.svds(A, 10, rng=0, tol=1e-3),
}
#: What scipy has no method for.
OURS: dict[str, Callable[[Any], Any]] = {
    "var(0)": lambda A: A.var(axis=0),
    "describe(0)": lambda A: diskcsr.describe(A, 0),
}


def walk(array: Any) -> None:
    """Read everything, and do nothing with it."""
    for _ in array.iter_blocks():
        pass


def timed(function: Callable[[Any], Any], argument: Any) -> tuple[float, float]:
    """Seconds that a call takes, and of all threads together at work."""
    begin, worked = time.perf_counter(), time.process_time()
    function(argument)
    return time.perf_counter() - begin, time.process_time() - worked


def resident(field: str) -> int:
    """Return bytes of resident memory: "VmRSS", or since it was set back "VmHWM", the most."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith(field))


def more_memory(function: Callable[[Any], Any], array: Any) -> float:
    """Megabytes that a call takes at the most, above what there was."""
    Path("/proc/self/clear_refs").write_text("5")  # proc(5): sets the peak back
    before = resident("VmRSS")
    function(array)
    return (resident("VmHWM") - before) / 1e6


def main() -> None:
    """Measure, and print a line for each operation."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file")
    parser.add_argument("name", nargs="?")
    parser.add_argument("--only", nargs="*", help="operations to measure")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument(
        "--slow", action="store_true", help="measure scipy where it takes long, too"
    )
    given = parser.parse_args()
    with diskcsr.open(given.file, given.name) as array:
        memory = array.to_memory()
        bandwidth = memory.data.nbytes / timed(np.sum, memory.data)[0] / 1e9
        print(f"{array!r}\nnumpy adds up the values at {bandwidth:.1f} GB/s")
        print("ms; cpu: ratio of processor times; M/s: millions of values a second of processor")
        print("time; MB: resident, above the start")
        names = ("here", "memory", "ratio", "cpu", "walk", "ratio", "M/s", "MB")
        heads = zip(names, WIDTHS, strict=True)
        print(" " * 18 + "".join(f"{head:>{width}}" for head, width in heads))
        for name, function in (OPERATIONS | OURS | PRODUCTS).items():
            if given.only and name not in given.only:
                continue
            quick = name.startswith(("sum", "mean")) or name in PRODUCTS
            known = name not in OURS and (given.slow or quick)
            function(array)  # once, so that all kernels are compiled
            times = []
            for _ in range(given.rounds):
                there = timed(function, memory) if known else (float("nan"),) * 2
                times.append((*timed(function, array), *there, timed(walk, array)[0]))
            here, worked, there, _, read = (
                1000 * statistics.median(part) for part in zip(*times, strict=True)
            )
            to_memory = statistics.median(a / c for a, _, c, _, _ in times)
            to_work = statistics.median(b / d for _, b, _, d, _ in times)
            to_walk = statistics.median(a / e for a, _, _, _, e in times)
            rate = array.nnz / worked / 1000
            print(
                f"{name:18}{here:9.0f}{there:9.0f}{to_memory:7.2f}{to_work:7.2f}{read:9.0f}"
                f"{to_walk:7.2f}{rate:6.0f}{more_memory(function, array):7.0f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
