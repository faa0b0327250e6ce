"""Many fetches and many openings: memory, descriptors and threads stay what they were.

``python tests/long_runs.py`` makes a million fetches and opens a file ten thousand times, on an
uncompressed and a compressed file, and prints what the process holds as it goes.
"""

import argparse
import gc
import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import scipy.sparse as sp

import diskcsr

ROWS, COLUMNS = 2000, 50
#: Bytes by which memory may grow after the warm-up: a leak of 16 bytes a fetch is seen in a
#: million of them.
SLACK = 16 << 20
FILES = {"raw": None, "gzip": "gzip"}


@dataclass(frozen=True)
class Held:
    """What a process holds: bytes of its own memory, descriptors, threads."""

    memory: int
    descriptors: int
    threads: int

    @classmethod
    def now(cls) -> "Held":
        gc.collect()
        fields = Path("/proc/self/statm").read_text().split()
        # Resident and not shared: pages of files that were read from a map are the system's.
        memory = (int(fields[1]) - int(fields[2])) * os.sysconf("SC_PAGE_SIZE")
        return cls(memory, len(os.listdir("/proc/self/fd")), threading.active_count())


def fetches(path: Path, count: int, rng: np.random.Generator) -> Iterator[int]:
    """Fetch rows, elements and columns of one array, each in turn; yield how many were made."""
    matrix = sp.csr_array(prepared())
    with diskcsr.open(path) as A:
        buffers = diskcsr.Buffers()
        for number in range(count):
            rows = rng.integers(0, ROWS, size=1 + number % 5)
            kind = number % 10
            if kind < 6:
                A[rows]
            elif kind < 8:
                A.fetch(rows, out=buffers)
            elif kind == 8:
                row, column = int(rows[0]), number % COLUMNS
                assert A[row, column] == matrix[row, column]
            else:
                got = A[rows]
                np.testing.assert_array_equal(got.toarray(), matrix[rows].toarray())
            yield number + 1


def openings(path: Path, count: int, rng: np.random.Generator) -> Iterator[int]:
    """Open and close a file, read a little, and leave every tenth to the collector."""
    expected = prepared()
    for number in range(count):
        row = int(rng.integers(ROWS))
        A = diskcsr.open(path)
        np.testing.assert_array_equal(A[row].toarray().ravel(), expected[row])
        if number % 3 == 0:
            A[[row, 0, 7]]
        if number % 10:
            A.close()
        del A
        yield number + 1


def changes(path: Path, count: int, rng: np.random.Generator) -> Iterator[int]:
    """Open a file to change it, and change a row."""
    expected = sp.csr_array(prepared())
    for number in range(count):
        row = int(rng.integers(ROWS))
        with diskcsr.open(path, mode="r+") as A:
            A[row : row + 1] = expected[[row]]
        yield number + 1


def prepared() -> np.ndarray:
    """The matrix that is stored."""
    rng = np.random.default_rng(0)
    return rng.integers(1, 100, (ROWS, COLUMNS)) * (rng.random((ROWS, COLUMNS)) < 0.2)


WORK: dict[str, Callable[[Path, int, np.random.Generator], Iterator[int]]] = {
    "fetches": fetches,
    "openings": openings,
    "changes": changes,
}


def run(name: str, file: str, count: int, *, reports: int = 10) -> None:
    """Do one kind of work so many times; print what is held at times, and compare it.

    Raises
    ------
    AssertionError
        When more is held at the end than after a tenth of the work.
    """
    began = time.monotonic()
    before: Held | None = None
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "m.h5")
        matrix = sp.csr_array(prepared())
        diskcsr.write(path, matrix, compression=FILES[file], chunks=1024).close()
        for done in WORK[name](path, count, np.random.default_rng(1)):
            if done % max(count // reports, 1) == 0:
                held = Held.now()
                before = before or held
                print(
                    f"{file:5} {done:9,} {name:9} {time.monotonic() - began:7.1f} s: "
                    f"{held.memory / 1e6:6.1f} MB, {held.descriptors} descriptors, "
                    f"{held.threads} threads",
                    flush=True,
                )
    assert before is not None
    assert held.memory - before.memory < SLACK, f"memory grew from {before} to {held}"
    assert held.descriptors <= before.descriptors, f"descriptors grew from {before} to {held}"
    # A thread of the pool begins when all others are late.
    most = max(before.threads, 1 + diskcsr.options.num_threads)
    assert held.threads <= most, f"threads grew from {before} to {held}"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--fetches", type=int, default=1_000_000)
    parser.add_argument("--openings", type=int, default=10_000)
    parser.add_argument("--changes", type=int, default=2_000)
    parser.add_argument("--files", nargs="*", default=list(FILES))
    chosen = vars(parser.parse_args())
    for file in chosen["files"]:
        for name in filter(chosen.get, WORK):
            run(name, file, chosen[name])


if __name__ == "__main__":
    main()
