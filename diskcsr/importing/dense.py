"""Dense matrices in HDF5 files, read block by block: zeros are dropped, NaN is kept."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from ..axis import Axis
from ..storage.formats.dense import open_dense
from ..streams.stream import Stream
from .imported import Imported, Kind, SourceOptions

__all__ = ["DENSE", "imported_dense"]

#: Bytes of a block in memory. What is left of it without zeros may be five times as much.
_BLOCK = 1 << 24


@contextmanager
def open_dataset(path: Path, said: SourceOptions) -> Iterator[Imported]:
    """Open a file with a dense matrix: an h5ad, a loom file, or any with one of two dimensions."""
    with imported_dense(path, said.source_name) as found:
        yield found


@contextmanager
def imported_dense(file: Any, name: str | None) -> Iterator[Imported]:
    """Open a dense dataset of two dimensions, of a path or of an open file."""
    with open_dense(file, name) as (dataset, turned):
        shape = dataset.shape[::-1] if turned else dataset.shape
        dtype = np.dtype(dataset.dtype.newbyteorder("=").str)

        def stream(axis: Axis, **changes: bool) -> Stream | None:
            return _stream(dataset, axis, turned, dtype)

        yield Imported(_parts(dataset, turned, dtype), shape, dtype, "csr", "keep", stream)


def _stream(dataset: Any, axis: Axis, turned: bool, dtype: np.dtype) -> Stream | None:
    """Stream lines of `axis`, where blocks of whole lines are read without reading chunks twice."""
    along = 1 - axis.major if turned else axis.major  # the dimension of the dataset they run along
    n_major, n_minor = dataset.shape[along], dataset.shape[1 - along]
    step = _step(dataset, along, dtype)
    if step is None:
        return None

    def portions() -> Iterator[Any]:
        for first in range(0, n_major, step):
            some = slice(first, first + step)
            block = dataset[some] if along == 0 else dataset[:, some].T
            line, minor = np.nonzero(block)
            lengths = np.bincount(line, minlength=block.shape[0])
            yield block[line, minor].astype(dtype, copy=False), minor, lengths

    return Stream(axis, n_minor, dtype, portions(), n_major)


def _step(dataset: Any, along: int, dtype: np.dtype) -> int | None:
    """How many lines along a dimension to read at a time; None where that would be slow."""
    line = max(1, dataset.shape[1 - along] * dtype.itemsize)
    most = max(1, _BLOCK // line)
    if dataset.chunks is None:
        return most if along == 0 else None
    chunk = dataset.chunks[along]
    if chunk > most:
        # It would be read again for each block: once more is all that is taken.
        return chunk if chunk <= 2 * most else None
    return most // chunk * chunk


def _parts(dataset: Any, turned: bool, dtype: np.dtype) -> Iterator[Any]:
    """Yield triplets, tile by tile."""
    rows, columns = dataset.shape
    high, wide = dataset.chunks or (1, columns)
    # As many chunks side by side, and then below one another, as a block may have.
    most = max(1, _BLOCK // dtype.itemsize)
    wide = min(columns, max(1, most // high // wide) * wide) if wide else 1
    high = min(rows, max(1, most // max(1, wide) // high) * high) if high else 1
    for top in range(0, rows, max(1, high)):
        for left in range(0, columns, max(1, wide)):
            tile = dataset[top : top + high, left : left + wide]
            row, column = np.nonzero(tile)
            values = tile[row, column].astype(dtype, copy=False)
            pair = row + top, column + left
            yield *(pair[::-1] if turned else pair), values


DENSE = Kind(
    "dense",
    "a dense dataset of an HDF5 file: of an h5ad, a loom file, or any",
    open_dataset,
    takes=("source_name",),
)
