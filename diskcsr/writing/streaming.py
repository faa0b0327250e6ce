"""Streams of what there is: of a matrix wherever it is, turned or in another order; of blocks."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from ..axis import CSR, Axis
from ..blocks.contents import Contents
from ..blocks.view import View
from ..blocks.walk import affordable, blocks
from ..keys.plan import plan_batches
from ..machine.options import memory_for, options
from ..machine.threads import ordered_map
from ..protocol.handle import contents_of
from ..streams.stream import Stream, as_matrix, portion_of, relabelled, stream_matrix, summed
from ..streams.transpose import Memory, count_indices, transpose
from .matrices import check_block, in_memory

__all__ = [
    "Means",
    "memory_of",
    "nbytes_of",
    "permuted",
    "stream_blocks",
    "stream_of",
    "transposed",
]

#: Bytes of a block on its way from file to file, of which there are some half a dozen at a time.
_BLOCK_BYTES = 1 << 23


@dataclass(frozen=True)
class Means:
    """What the work on the way to a file may use.

    Attributes
    ----------
    memory : Memory or None
        None where no more than blocks of the usual size is needed.
    folder : path
        Where files may be made that are removed in the end.
    advance : callable
        Is told of the bytes of values and indices handled.
    """

    memory: Memory | None
    folder: Path
    advance: Callable[[int], None]


def stream_of(matrix: Any, axis: Axis, means: Means, **changes: bool) -> Stream:
    """Stream a matrix, wherever it is, in the format of `axis`; `changes` as of `tidied`."""
    shown = contents_of(matrix)
    if shown is None:
        matrix = as_matrix(matrix, axis)
        return stream_matrix(matrix, axis, [matrix], int(matrix.nnz), **changes)
    shown.check()
    if shown.axis is not axis:
        stream = transposed(matrix, shown, means)
        return summed(stream) if changes.get("sum_duplicates") else stream
    memory = means.memory
    walk = matrix.iter_blocks(affordable(_BLOCK_BYTES) if memory is None else memory.block)
    nnz = shown.nnz if shown.counts else None
    found = (block for _, block in walk) if shown.counts else _telling(walk, shown, means.advance)
    return stream_matrix(matrix, axis, found, nnz, **changes)


def _telling(
    walk: Iterator[tuple[int, Any]], shown: Contents, advance: Callable[[int], None]
) -> Iterator[Any]:
    """Give blocks; tell of what is dropped of the lines on the way, which nobody writes."""
    per_element = shown.dtype.itemsize + 4
    for first, block in walk:
        read = int(shown.lengths(range(first, first + block.indptr.size - 1)).sum())
        yield block
        advance((read - block.nnz) * per_element)


def transposed(matrix: Any, shown: Contents, means: Means) -> Stream:
    """Stream a matrix on disk in the other format."""
    assert means.memory is not None
    return transpose(
        matrix,
        shown.axis,
        matrix.iter_blocks,
        partial(_count, shown, means.advance),
        nnz=shown.nnz if shown.counts else None,
        memory=means.memory,
        folder=means.folder,
        advance=means.advance,
    )


def _count(
    shown: Contents, advance: Callable[[int], None], counts: np.ndarray, max_bytes: int
) -> None:
    """Count the minor indices, from the stored indices alone."""
    item = shown.dtype.itemsize + 4
    if isinstance(shown, View):
        for block in blocks(shown, max_bytes=max_bytes):
            count_indices(block.indices, counts)
            advance(block.indices.size * item)
        return
    step = max(1, max_bytes // 8)
    nnz = shown.nnz
    spans = ((lo, min(lo + step, nnz)) for lo in range(0, nnz, step))
    parts = ordered_map(lambda span: shown.part("indices", *span), spans, options.num_threads)
    for indices in parts:
        count_indices(indices, counts)
        advance(indices.size * item)


def memory_of(max_memory: int | None, n_minor: int) -> Memory:
    """Divide what may be taken by the turning of a matrix of so many minor indices."""
    given = memory_for(max_memory, Memory.least(n_minor), "converting a matrix")
    return Memory.divide(given, n_minor)


def nbytes_of(matrix: Any) -> int:
    """The bytes of values and indices that are read of a matrix, wherever it is."""
    shown = contents_of(matrix)
    count = int(matrix.nnz) if shown is None else shown.elements
    return count * (np.dtype(matrix.dtype).itemsize + 4)


def stream_blocks(given: Iterable[Any], axis: Axis, changes: dict[str, bool]) -> Stream:
    """Stream blocks of which nothing is known in advance.

    Raises
    ------
    ValueError
        When there is no block, or one is no matrix or of another width than the first.
    TypeError
        When the values of one cannot be cast to the dtype of the first.
    """
    numbered = in_memory(given, axis)
    first = next(numbered, None)
    if first is None:
        raise ValueError(
            "there is no block to write: the first one tells the number of columns and the dtype"
        )
    n_minor, dtype = axis.swap(first[1].shape)[1], np.dtype(first[1].dtype)

    def portions() -> Iterator[Any]:
        for number, block in chain([first], numbered):
            check_block(block, f"block {number}", axis, n_minor, dtype, "the first block")
            data, indices, lengths = portion_of(block, **changes)
            yield data.astype(dtype, copy=False), indices, lengths

    return Stream(axis, n_minor, dtype, portions())


def permuted(
    matrix: Any, axis: Axis, order: np.ndarray, means: Means, changes: dict[str, bool]
) -> Stream:
    """Stream a matrix with its rows in another order."""
    shown = contents_of(matrix)
    if shown is None:
        matrix = as_matrix(matrix, CSR)[order].asformat(axis.format)
        return stream_matrix(matrix, axis, [matrix], int(matrix.nnz), **changes)
    shown.check()
    if axis is shown.axis and axis.major == 0:
        blocks = (matrix.fetch(order[a:b]) for a, b in _buffers(shown, order, means))
        return stream_matrix(matrix, axis, blocks, shown.nnz if shown.counts else None, **changes)
    if axis.minor == 0:  # the rows are what the indices say
        stream = stream_of(matrix, axis, means, **changes)
        return relabelled(stream, np.argsort(order), sort=changes["sort"])
    raise ValueError(
        "permute_rows cannot change the format from csc to csr as well: convert first, then permute"
    )


def _buffers(shown: Contents, order: np.ndarray, means: Means) -> Iterator[tuple[int, int]]:
    assert means.memory is not None
    # Reading makes copies where dtypes differ: a bucket is a third of the memory.
    most = max(1, means.memory.bucket // (shown.dtype.itemsize + 8))
    yield from plan_batches(shown.lengths(order), most)
