"""Sums and statistics of a matrix on disk, beside scipy's of the same matrix in memory.

``python bench/compute.py FILE [NAME]`` prints, for each operation, the median over some rounds of
its time here, in memory and of walking over all blocks. Rounds take turns, so that a busy machine
slows all of them down alike.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import diskcsr

ROUNDS = 5

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
#: What scipy has no method for.
OURS: dict[str, Callable[[Any], Any]] = {
    "var(0)": lambda A: A.var(axis=0),
    "describe(0)": lambda A: diskcsr.describe(A, 0),
}


def walk(array: Any) -> None:
    """Read everything, and do nothing with it."""
    for _ in array.iter_blocks():
        pass


def timed(function: Callable[[Any], Any], argument: Any) -> float:
    """Seconds that a call takes."""
    begin = time.perf_counter()
    function(argument)
    return time.perf_counter() - begin


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
        print(f"{array!r}\n{'ms':20}{'here':>9}{'memory':>9}{'ratio':>7}{'walk':>9}{'ratio':>7}")
        for name, function in (OPERATIONS | OURS).items():
            if given.only and name not in given.only:
                continue
            known = name in OPERATIONS and (given.slow or name.startswith(("sum", "mean")))
            function(array)  # once, so that all kernels are compiled
            times = []
            for _ in range(given.rounds):
                there = timed(function, memory) if known else float("nan")
                times.append((timed(function, array), there, timed(walk, array)))
            here, there, read = (
                1000 * statistics.median(part) for part in zip(*times, strict=True)
            )
            to_memory = statistics.median(a / b for a, b, _ in times)
            to_walk = statistics.median(a / c for a, _, c in times)
            print(f"{name:20}{here:9.0f}{there:9.0f}{to_memory:7.2f}{read:9.0f}{to_walk:7.2f}")


if __name__ == "__main__":
    main()
