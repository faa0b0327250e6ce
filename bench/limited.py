"""A matrix larger than the memory: every operation, under a limit of address space.

``python bench/limited.py FILE [NAME] [--limit BYTES]`` limits itself to 1 GiB (RLIMIT_AS), shows
that scipy cannot load the matrix there, and then runs each operation on the file: its time, and the
most memory that was resident. Answers are compared with those of a walk over the blocks.
"""

import argparse
import multiprocessing
import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import scipy.sparse as sp
import scipy.sparse.linalg as spl

import diskcsr

COLUMNS = 50


def load_with_scipy(path: str, name: str) -> None:
    """Do what a program without this library does."""
    try:
        with h5py.File(path) as file:
            group = file[name]
            arrays = tuple(group[part][:] for part in ("data", "indices", "indptr"))
            sp.csr_array(arrays, shape=tuple(group.attrs["shape"]))
        print("scipy loads it: choose a larger matrix, or a smaller limit", flush=True)
    except MemoryError as problem:
        print(f"scipy: MemoryError: {problem}", flush=True)


def operations(A: Any) -> dict[str, tuple[Callable[[], Any], Callable[[Any, int], Any] | None]]:
    """Operations, and what tells a part of the right answer from a block and its first row."""
    rng = np.random.default_rng(0)
    rows, columns = A.shape
    x, y = rng.random(columns, np.float32), rng.random(rows, np.float32)
    wide = rng.random((columns, COLUMNS), np.float32)
    tall = rng.random((rows, COLUMNS), np.float32)
    few = np.arange(0, columns, max(1, columns // 100))

    def across(factor: np.ndarray) -> Callable[[Any, int], Any]:
        return lambda block, first: block.T @ factor[first : first + block.shape[0]]

    return {
        "A.sum(0)": (lambda: A.sum(axis=0), lambda block, first: block.sum(axis=0)),
        "A.sum(1)": (lambda: A.sum(axis=1), None),
        "A.mean(0)": (lambda: A.mean(axis=0), None),
        "A.var(0)": (lambda: A.var(axis=0), None),
        "A.max(1)": (lambda: A.max(axis=1), None),
        "A.argmax(1)": (lambda: A.argmax(axis=1), None),
        "describe(A, 0)": (lambda: diskcsr.describe(A, 0).sum, lambda b, first: b.sum(axis=0)),
        "A @ x": (lambda: A @ x, None),
        "x @ A": (lambda: y @ A, across(y)),
        "A.T @ y": (lambda: A.T @ y, across(y)),
        f"A @ D, {COLUMNS} columns": (lambda: A @ wide, None),
        f"A.T @ D, {COLUMNS} columns": (lambda: A.T @ tall, across(tall)),
        f"gram_product, {COLUMNS} columns": (
            lambda: diskcsr.gram_product(A, wide),
            lambda block, first: block.T @ (block @ wide),
        ),
        "svds(A, 10)": (lambda: spl.svds(A, 10, rng=0, tol=1e-3)[1], None),
        "lsmr(A, y), 10 steps": (lambda: spl.lsmr(A, y.astype(float), maxiter=10)[0], None),
        "A[:, 100 columns]": (lambda: A[:, few], None),
        "A @ B, B sparse": (lambda: A @ sp.eye_array(columns, format="csr")[:, few[:20]], None),
        "A > 30": (lambda: (A[: rows // 20] > 30).nnz, None),
        "str(A)": (lambda: str(A), None),
    }


def peak() -> float:
    """The most megabytes that this process has had resident."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def right(A: Any, found: Any, of_block: Callable[[Any, int], Any]) -> bool:
    """Whether an answer is the sum of those of all blocks."""
    total = sum(
        of_block(block, first).astype(np.float64) for first, block in A.iter_blocks(1 << 24)
    )
    return np.allclose(found, total, rtol=1e-3)


def main() -> None:
    """Run all there is, and print a line for each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file")
    parser.add_argument("name", nargs="?", default="X")
    parser.add_argument("--limit", type=int, default=1 << 30)
    parser.add_argument("--only", nargs="*", help="operations to run")
    given = parser.parse_args()
    resource.setrlimit(resource.RLIMIT_AS, (given.limit, given.limit))
    child = multiprocessing.get_context("fork").Process(
        target=load_with_scipy, args=(given.file, given.name)
    )
    child.start()  # what it takes is not counted here
    child.join()
    with diskcsr.open(given.file, given.name) as A:
        size = Path(given.file).stat().st_size
        print(f"{A!r}\n{size / 1e6:.0f} MB of file, limit {given.limit / 1e6:.0f} MB")
        print(f"{'':28}{'s':>8}{'peak MB':>9}  right")
        for title, (operation, of_block) in operations(A).items():
            if given.only and title not in given.only:
                continue
            begin = time.perf_counter()
            try:
                found = operation()
            except MemoryError as problem:
                print(f"{title:28} {type(problem).__name__}: {problem}", flush=True)
                continue
            seconds, most = time.perf_counter() - begin, peak()
            said = "" if of_block is None else right(A, found, of_block)
            print(f"{title:28}{seconds:8.1f}{most:9.0f}  {said}", flush=True)
        print(f"held after all: {sorted(A._held())}")


if __name__ == "__main__":
    main()
