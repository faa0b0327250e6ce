"""A matrix on its way into a file: portions of bounded size, in storage order."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from scipy.sparse import issparse

from ..axis import Axis

__all__ = [
    "Portion", "Stream", "as_matrix", "portion_of", "relabelled", "stream_matrix", "summed",
    "tidied",
]  # fmt: skip

#: Values, minor indices, and the lengths of the rows that end in the portion. A row longer than a
#: portion lies in several, and has its length in the last of them.
Portion: TypeAlias = tuple[np.ndarray, np.ndarray, np.ndarray]


@dataclass(frozen=True)
class Stream:
    """What a file is written from.

    Attributes
    ----------
    axis : Axis
    n_minor : int
    dtype : numpy.dtype
    portions : iterable of Portion
        Can be gone through once.
    n_major, nnz : int or None
        None where only the end of the portions tells.
    """

    axis: Axis
    n_minor: int
    dtype: np.dtype
    portions: Iterable[Portion]
    n_major: int | None = None
    nnz: int | None = None


def as_matrix(matrix: Any, axis: Axis) -> Any:
    """Return a matrix in memory in the wanted format: itself where it has it.

    Raises
    ------
    ValueError
        When it is no matrix of numbers.
    """
    if not issparse(matrix):
        dense = np.asarray(matrix)
        if dense.ndim != 2 or dense.dtype.kind not in "biufc":
            raise ValueError(
                f"cannot store {type(matrix).__name__} (dtype {dense.dtype}, {dense.ndim} "
                "dimensions): give a scipy sparse matrix or a two-dimensional numeric array"
            )
        matrix = axis.array(dense.astype(dense.dtype.newbyteorder("="), copy=False))
    if matrix.ndim != 2:
        raise ValueError(f"only matrices can be stored, not arrays of shape {matrix.shape}")
    return matrix.asformat(axis.format)


def tidied(block: Any, *, sort: bool = True, sum_duplicates: bool = False) -> Any:
    """Return a compressed block with its lines in order; the given one is left as it is."""
    if sum_duplicates and not block.has_canonical_format:
        block = block.copy()
        block.sum_duplicates()
    return block.sorted_indices() if sort and not block.has_sorted_indices else block


def portion_of(block: Any, **changes: bool) -> Portion:
    """Make a portion of a compressed block in memory; `changes` as of `tidied`."""
    block = tidied(block, **changes)
    lengths = np.diff(block.indptr).astype(np.int64, copy=False)
    return block.data[: block.nnz], block.indices[: block.nnz], lengths


def stream_matrix(matrix: Any, axis: Axis, blocks: Iterable[Any], **changes: bool) -> Stream:
    """Stream a matrix whose blocks have the format of `axis`."""
    n_major, n_minor = axis.swap(matrix.shape)
    # Summing makes fewer of them: how many, the end tells.
    nnz = None if changes.get("sum_duplicates") else int(matrix.nnz)
    portions = (portion_of(block, **changes) for block in blocks)
    return Stream(axis, n_minor, np.dtype(matrix.dtype), portions, n_major, nnz)


# ------------------------------------------------------------------------- streams from streams


def summed(stream: Stream) -> Stream:
    """Add up duplicates; rows in several portions are joined first."""
    portions = (portion_of(block, sum_duplicates=True) for block in _whole_rows(stream))
    return Stream(stream.axis, stream.n_minor, stream.dtype, portions, stream.n_major)


def relabelled(stream: Stream, places: np.ndarray, *, sort: bool = True) -> Stream:
    """Send each minor index `i` to ``places[i]``; rows in several portions are joined first."""
    portions = (portion_of(block, sort=sort) for block in _whole_rows(stream, places))
    return Stream(stream.axis, stream.n_minor, stream.dtype, portions, stream.n_major, stream.nnz)


def _whole_rows(stream: Stream, places: np.ndarray | None = None) -> Iterator[Any]:
    """Yield blocks of whole rows, their minor indices perhaps sent to other places."""
    parts: list[Portion] = []
    for portion in stream.portions:
        parts.append(portion)
        lengths = portion[2]
        if not lengths.size:
            continue
        values, minor = (np.concatenate(some) for some in list(zip(*parts, strict=True))[:2])
        parts = []
        if places is not None:
            minor = places[minor]
        shape = stream.axis.swap((lengths.size, stream.n_minor))
        yield stream.axis.array((values, minor, np.append(0, lengths.cumsum())), shape=shape)
