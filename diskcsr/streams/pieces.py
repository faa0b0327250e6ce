"""A matrix on its way into a file: pieces of bounded size, in storage order."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Any, TypeAlias

import numpy as np
from scipy.sparse import issparse

from ..axis import Axis

__all__ = ["Piece", "Stream", "as_matrix", "piece_of", "stream_blocks", "stream_matrix"]

#: Values, minor indices, and the lengths of the rows that end in the piece. A row longer than a
#: piece lies in several, and has its length in the last of them.
Piece: TypeAlias = tuple[np.ndarray, np.ndarray, np.ndarray]


@dataclass(frozen=True)
class Stream:
    """What a file is written from.

    Attributes
    ----------
    axis : Axis
    n_minor : int
    dtype : numpy.dtype
    pieces : iterable of Piece
        Can be gone through once.
    n_major, nnz : int or None
        None where only the end of the pieces tells.
    """

    axis: Axis
    n_minor: int
    dtype: np.dtype
    pieces: Iterable[Piece]
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


def piece_of(block: Any, *, sort: bool = True, sum_duplicates: bool = False) -> Piece:
    """Make a piece of a compressed block in memory, which is left as it is."""
    if sum_duplicates and not block.has_canonical_format:
        block = block.copy()
        block.sum_duplicates()
    if sort and not block.has_sorted_indices:
        block = block.sorted_indices()
    lengths = np.diff(block.indptr).astype(np.int64, copy=False)
    return block.data[: block.nnz], block.indices[: block.nnz], lengths


def stream_matrix(matrix: Any, axis: Axis, blocks: Iterable[Any], **changes: bool) -> Stream:
    """Stream a matrix whose blocks have the format of `axis`."""
    n_major, n_minor = axis.swap(matrix.shape)
    # Summing makes fewer of them: how many, the end tells.
    nnz = None if changes.get("sum_duplicates") else int(matrix.nnz)
    pieces = (piece_of(block, **changes) for block in blocks)
    return Stream(axis, n_minor, np.dtype(matrix.dtype), pieces, n_major, nnz)


def stream_blocks(
    blocks: Iterable[Any], axis: Axis, expand: Callable[[Any], Iterator[Any] | None]
) -> Stream:
    """Stream blocks of which nothing is known in advance.

    Parameters
    ----------
    blocks : iterable
        Sparse matrices or dense two-dimensional arrays, one below the other (of a CSC: side by
        side).
    axis : Axis
    expand : callable
        Gives the blocks in `axis`'s format of what is itself too large for memory, else None.

    Raises
    ------
    ValueError
        When there is no block, or one is no matrix or of another width than the first.
    TypeError
        When the values of one cannot be cast to the dtype of the first.
    """
    blocks = iter(blocks)
    try:
        first = next(blocks)
    except StopIteration:
        raise ValueError(
            "there is no block to write: the first one tells the number of columns and the dtype"
        ) from None
    parts = _parts(first, axis, expand)
    head = next(parts)
    n_minor, dtype = axis.swap(head.shape)[1], np.dtype(head.dtype)

    def pieces() -> Iterator[Piece]:
        later = (_parts(block, axis, expand) for block in blocks)
        for number, some in enumerate(chain([chain([head], parts)], later)):
            for block in some:
                _check_block(number, block, axis, n_minor, dtype)
                data, indices, lengths = piece_of(block)
                yield data.astype(dtype, copy=False), indices, lengths

    return Stream(axis, n_minor, dtype, pieces())


def _parts(block: Any, axis: Axis, expand: Callable[[Any], Iterator[Any] | None]) -> Iterator[Any]:
    expanded = expand(block)
    return iter([as_matrix(block, axis)]) if expanded is None else expanded


def _check_block(number: int, block: Any, axis: Axis, n_minor: int, dtype: np.dtype) -> None:
    width = axis.swap(block.shape)[1]
    if width != n_minor:
        raise ValueError(
            f"block {number} has shape {block.shape}: {width} along axis {axis.minor}, where the "
            f"first block has {n_minor}"
        )
    if not np.can_cast(block.dtype, dtype, "same_kind"):
        raise TypeError(
            f"block {number} has dtype {block.dtype}, which cannot be cast to {dtype}, that of "
            "the first block"
        )
