"""Matrix Market files, and the folders of 10x Genomics, whose matrix is one.

Who reads them: scipy's own reader (which is fast_matrix_market) reads a file as a whole, and so
does that package when it is used alone. But both read from any stream. So the body is cut into
blocks of lines, and each block is given to scipy's reader below a header of its own: numbers are
parsed by the library that knows how, in all threads, while only a block is in memory. CSV readers
were no choice: a line may have any spaces between its numbers.
"""

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from ..loading import load
from ..machine.options import require_memory
from .imported import Imported, Kind, SourceOptions, byte_blocks, damaged, open_bytes

__all__ = ["MARKET", "TENX", "find_matrix"]

#: Bytes of text that are read at a time: about half as much again are its numbers.
_BLOCK = 1 << 24
#: What a header may say, and the dtype of the values.
_FIELDS = {
    "real": np.float64,
    "integer": np.int64,
    "unsigned-integer": np.uint64,
    "complex": np.complex128,
    "pattern": np.float64,
}
_SYMMETRIES = ("general", "symmetric", "skew-symmetric", "hermitian")


@dataclass(frozen=True)
class _Head:
    """What the first lines of a file say."""

    layout: str
    field: str
    symmetry: str
    shape: tuple[int, int]
    entries: int


def _read_head(path: Path, file: BinaryIO) -> _Head:
    """Read up to the line of sizes, and check that it is understood."""
    words = file.readline(1024).decode("latin-1").lower().split()
    if len(words) != 5 or words[0].lstrip("%") != "matrixmarket" or words[1] != "matrix":
        raise damaged(path, "it does not begin as a Matrix Market file does (%%MatrixMarket ...)")
    _, _, layout, field, symmetry = words
    known = {
        layout: ("coordinate", "array"),
        field: tuple(_FIELDS),
        symmetry: _SYMMETRIES,
    }
    for word, may_be in known.items():
        if word not in may_be:
            raise damaged(path, f"its header says {word!r}, where {', '.join(may_be)} are known")
    for line in iter(file.readline, b""):
        if line.strip() and not line.lstrip().startswith(b"%"):
            break
    else:
        raise damaged(path, "it has no line of sizes")
    try:
        rows, columns, *rest = map(int, line.split())
        (entries,) = rest if layout == "coordinate" else (*rest, 0)
    except ValueError:
        raise damaged(path, f"its line of sizes is {line.decode('latin-1').strip()!r}") from None
    if min(rows, columns, entries) < 0 or (symmetry != "general" and rows != columns):
        raise damaged(path, f"a {symmetry} matrix cannot be {rows} x {columns}")
    return _Head(layout, field, symmetry, (rows, columns), entries)


@contextmanager
def open_market(path: Path, said: SourceOptions) -> Iterator[Imported]:
    """Open a Matrix Market file, compressed or not."""
    with open_bytes(path) as file:
        head = _read_head(path, file)
        parts = _coordinates if head.layout == "coordinate" else _dense
        yield Imported(parts(path, file, head), head.shape, _FIELDS[head.field])


def _coordinates(path: Path, file: BinaryIO, head: _Head) -> Iterator[Any]:
    """Yield the triplets of a file of coordinates, both halves of a symmetric one."""
    rows, columns = head.shape
    seen = 0
    for block, lines in _blocks(file):
        first = f"%%MatrixMarket matrix coordinate {head.field} {head.symmetry}\n"
        part = _parsed(path, f"{first}{rows} {columns} {lines}\n", block, seen)
        row, column = part.coords
        yield row, column, part.data
        seen += lines
    _check_count(path, seen, head.entries)


def _dense(path: Path, file: BinaryIO, head: _Head) -> Iterator[Any]:
    """Yield the triplets of a file of all values, column after column, but for its zeros."""
    seen, total = 0, _stored(head)
    for block, lines in _blocks(file):
        if seen + lines > total:
            seen += lines
            break
        first = f"%%MatrixMarket matrix array {head.field} general\n"
        values = np.ravel(_parsed(path, f"{first}{lines} 1\n", block, seen))
        found = np.flatnonzero(values)
        row, column = _places(head, seen + found)
        yield row, column, values[found]
        if head.symmetry != "general":
            below = row != column
            yield column[below], row[below], _mirrored(head.symmetry, values[found][below])
        seen += lines
    _check_count(path, seen, total)


def _mirrored(symmetry: str, values: np.ndarray) -> np.ndarray:
    if symmetry == "skew-symmetric":
        return -values
    return values.conj() if symmetry == "hermitian" else values


def _starts(head: _Head) -> np.ndarray:
    """Where each column begins in the list of values: of a symmetric matrix its lower half is."""
    rows, columns = head.shape
    if head.symmetry == "general":
        return np.arange(columns + 1, dtype=np.int64) * rows
    strictly = head.symmetry == "skew-symmetric"
    return np.append(0, np.cumsum(np.arange(rows, 0, -1, dtype=np.int64) - strictly))


def _stored(head: _Head) -> int:
    return int(_starts(head)[-1])


def _places(head: _Head, at: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns of values by their places in the list."""
    starts = _starts(head)
    columns = np.searchsorted(starts, at, side="right") - 1
    rows = at - starts[columns]
    if head.symmetry != "general":
        rows += columns + (head.symmetry == "skew-symmetric")
    return rows, columns


def _blocks(file: BinaryIO) -> Iterator[tuple[bytes, int]]:
    """Yield blocks of lines, and how many each has; blank lines are left out."""
    for block in byte_blocks(file, _BLOCK):
        if re.search(rb"(?:\A|\n)\s*\n", block):
            block = b"".join(line + b"\n" for line in block.split(b"\n") if line.strip())
        if block:
            yield block, block.count(b"\n")


def _parsed(path: Path, head: str, block: bytes, seen: int) -> Any:
    try:
        return load("scipy.io").mmread(io.BytesIO(head.encode() + block), spmatrix=False)
    except (ValueError, OverflowError) as problem:
        # It counts the lines of what it was given, of which two were not in the file.
        text = re.sub(r"^Line (\d+): ", lambda m: f"entry {seen + int(m[1]) - 2}: ", str(problem))
        raise damaged(path, f"after entry {seen}: {text}") from problem


def _check_count(path: Path, seen: int, promised: int) -> None:
    if seen != promised:
        raise damaged(path, f"its line of sizes promises {promised} entries, but it has {seen}")


# ----------------------------------------------------------------------------- folders of 10x


def find_matrix(folder: Path) -> Path | None:
    """The matrix of a folder of 10x Genomics; None where there is none."""
    names = ("matrix.mtx.gz", "matrix.mtx")
    return next((folder / name for name in names if (folder / name).is_file()), None)


@contextmanager
def open_tenx(folder: Path, said: SourceOptions) -> Iterator[Imported]:
    """Open a folder of 10x Genomics: features x barcodes, as in its HDF5 files."""
    matrix = find_matrix(folder)
    if matrix is None:
        raise damaged(folder, "it has no matrix.mtx and no matrix.mtx.gz")
    with open_market(matrix, said) as found:
        shape = found.shape
        assert shape is not None
        features = _read_table(folder, ("features.tsv.gz", "features.tsv", "genes.tsv"), shape[0])
        barcodes = _read_table(folder, ("barcodes.tsv.gz", "barcodes.tsv"), shape[1])
        columns = zip(count(), ("features", "feature_names", "feature_types"))
        beside = {name: features[:, i] for i, name in columns if i < features.shape[1]}
        beside["barcodes"] = barcodes[:, 0]
        yield replace(found, format="csc", beside=lambda: beside)


def _read_table(folder: Path, names: tuple[str, ...], length: int) -> np.ndarray:
    """Read a small table of strings: one line for each row, or column, of the matrix."""
    path = next((folder / name for name in names if (folder / name).is_file()), None)
    if path is None:
        raise damaged(folder, f"it has none of {', '.join(names)}")
    require_memory(40 * path.stat().st_size, f"{path}: loading it", "Raise the budget.")
    with open_bytes(path) as file:
        lines = [line.split("\t") for line in file.read().decode("utf-8").splitlines()]
    if len(lines) != length:
        raise damaged(path, f"it has {len(lines)} lines, where the matrix has {length} of them")
    if len({len(line) for line in lines}) > 1:
        raise damaged(path, "its lines have different numbers of fields")
    return np.array(lines, dtype=object).reshape(length, -1 if length else 1)


MARKET = Kind("mtx", "Matrix Market", open_market)
TENX = Kind("10x", "a folder of 10x Genomics", open_tenx)
