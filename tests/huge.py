"""A file with more than 2^31 compressed values: written, read, appended to, and turned.

``python tests/huge.py`` takes some minutes, about 12 GB in the folder for temporary files while the
matrix is turned (``--folder`` names another), and less than 2 GB of memory. Every value of both
files is compared with the one it must be. What was written is removed.
"""

import argparse
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import scipy.sparse as sp

import diskcsr

COLUMNS = 1000
#: Rows of a block; all rows of one have the same values, which compresses well.
BLOCK = 1 << 10


def values(rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """The values that are stored at some places."""
    return ((rows // BLOCK + columns) % 250 + 1).astype(np.uint8)


def block(first: int, last: int) -> sp.csr_array:
    """Some rows of the matrix, in which every value is stored."""
    rows = np.arange(first, last)[:, None]
    data = values(rows, np.arange(COLUMNS)).ravel()
    indices = np.tile(np.arange(COLUMNS, dtype=np.int32), last - first)
    indptr = np.arange(last - first + 1) * COLUMNS
    return sp.csr_array((data, indices, indptr), shape=(last - first, COLUMNS))


def blocks(first: int, last: int) -> Iterator[sp.csr_array]:
    return (block(row, min(row + BLOCK, last)) for row in range(first, last, BLOCK))


class Figures:
    """Prints what each step took, and sums up how many values were compared."""

    def __init__(self) -> None:
        self.compared = 0

    def step(self, name: str, work: Callable[[], int]) -> None:
        """Do something that returns how many values it compared, and print what it took."""
        restarts = restart_peak()
        began = time.monotonic()
        compared = work()
        self.compared += compared
        print(
            f"{name:34} {time.monotonic() - began:8.1f} s {compared:15,} values compared, "
            f"{peak(restarts) / 1e6:7.0f} MB at the most",
            flush=True,
        )


def restart_peak() -> bool:
    """Have the system begin anew with the most memory in use; whether it can do so."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True


def peak(restarted: bool) -> int:
    """The most memory that this process had, since `restart_peak` if that could be done."""
    if restarted:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return 1024 * int(line.split()[1])
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def compare_places(matrix: diskcsr.DiskCSR | diskcsr.DiskCSC, rng: np.random.Generator) -> int:
    """Compare some elements, those where the count of values passes 2^31 among them."""
    n_rows = matrix.shape[0]
    line = COLUMNS if isinstance(matrix, diskcsr.DiskCSR) else n_rows
    rows = rng.integers(0, n_rows, 20)
    columns = rng.integers(0, COLUMNS, 20)
    for position in (2**31 - 1, 2**31, 2**31 + 1, matrix.nnz - 1):
        major, minor = divmod(min(position, matrix.nnz - 1), line)
        row, column = (major, minor) if line == COLUMNS else (minor, major)
        rows, columns = np.append(rows, row), np.append(columns, column)
    expected = values(rows, columns)
    for row, column, value in zip(rows.tolist(), columns.tolist(), expected, strict=True):
        assert matrix[row, column] == value, (row, column)
    np.testing.assert_array_equal(np.asarray(matrix[rows, columns]).ravel(), expected)
    return 2 * len(rows)


def compare_lines(matrix: diskcsr.DiskCSR | diskcsr.DiskCSC, rng: np.random.Generator) -> int:
    """Compare some whole lines, the last among them: rows of a CSR, columns of a CSC."""
    n_rows = matrix.shape[0]
    rows, columns = np.arange(n_rows), np.arange(COLUMNS)
    if isinstance(matrix, diskcsr.DiskCSR):
        rows = np.append(rng.integers(0, n_rows, 300), n_rows - 1)
        found = matrix[rows]
    else:
        columns = np.array([int(rng.integers(0, COLUMNS)), COLUMNS - 1])
        found = matrix[:, columns]
    assert found.nnz == rows.size * columns.size
    np.testing.assert_array_equal(found.toarray(), values(rows[:, None], columns))
    return found.nnz


def compare_all(matrix: diskcsr.DiskCSR | diskcsr.DiskCSC) -> int:
    """Compare all that is stored, indices and values, block by block."""
    seen = 0
    by_row = isinstance(matrix, diskcsr.DiskCSR)
    n_minor = COLUMNS if by_row else matrix.shape[0]
    minor = np.arange(n_minor)
    for first, part in matrix.iter_blocks(max_bytes=1 << 24):
        lines = np.arange(first, first + part.shape[0 if by_row else 1])
        assert part.nnz == lines.size * n_minor
        assert (part.indices.reshape(lines.size, n_minor) == minor).all()
        rows, columns = (lines[:, None], minor) if by_row else (minor, lines[:, None])
        assert (part.data.reshape(lines.size, n_minor) == values(rows, columns)).all()
        seen += part.nnz
    assert seen == matrix.nnz
    return seen


def run(folder: Path, count: int, compression: str) -> int:
    """Do all steps with at least `count` values; return how many were compared."""
    figures, rng = Figures(), np.random.default_rng(0)
    source, turned = folder / "huge.h5", folder / "turned.h5"
    n_rows = -(-count // COLUMNS)
    more = max(n_rows // 1000, 1)

    def write() -> int:
        diskcsr.write(source, blocks(0, n_rows), compression=compression).close()
        return 0

    def append() -> int:
        with diskcsr.open(source, mode="r+") as A:
            A.append(blocks(n_rows, n_rows + more))
        return 0

    def turn() -> int:
        kept = {"format": "csc", "compression": compression, "max_memory": 1 << 29}
        diskcsr.convert(source, turned, **kept).close()
        return 0

    figures.step("write", write)
    with diskcsr.open(source) as A:
        assert A.shape == (n_rows, COLUMNS)
        figures.step("elements", lambda: compare_places(A, rng))
        figures.step("rows", lambda: compare_lines(A, rng))
    figures.step("append", append)
    with diskcsr.open(source) as A:
        assert (A.shape, A.dtype) == ((n_rows + more, COLUMNS), np.uint8)
        figures.step("elements after appending", lambda: compare_places(A, rng))
        figures.step("all, by rows", lambda: compare_all(A))
    figures.step("turn into columns", turn)
    with diskcsr.open(turned) as A:
        assert isinstance(A, diskcsr.DiskCSC)
        assert (A.shape, A.dtype) == ((n_rows + more, COLUMNS), np.uint8)
        figures.step("elements of the turned", lambda: compare_places(A, rng))
        figures.step("columns", lambda: compare_lines(A, rng))
        figures.step("all, by columns", lambda: compare_all(A))
    sizes = ", ".join(
        f"{path.name} {path.stat().st_size / 1e6:.0f} MB" for path in (source, turned)
    )
    print(f"{(n_rows + more) * COLUMNS:,} values, {figures.compared:,} compared; {sizes}")
    return figures.compared


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--values", type=int, default=2**31 + 2_000_000)
    parser.add_argument("--compression", default="gzip")
    parser.add_argument("--folder", type=Path, default=None)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=chosen.folder) as folder:
        run(Path(folder), chosen.values, chosen.compression)
    if chosen.values <= 2**31:
        sys.exit("every value was right, but there were fewer than 2^31")


if __name__ == "__main__":
    main()
