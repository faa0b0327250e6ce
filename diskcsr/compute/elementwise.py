"""Elementwise results in memory: made block by block, by scipy's own code, of no second copy.

Whatever scipy does to a matrix element by element it does to a block of its lines as well. What the
result is (its class, its dtype, whether zeros become something else) is found by doing the same to
matrices of two rows and columns, or one where there is one.
"""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from scipy.sparse import coo_array, coo_matrix, issparse

from ..axis import Axis
from ..blocks.contents import Contents
from ..blocks.walk import affordable, blocks
from ..blocks.whole import load
from ..keys.widths import index_dtype
from ..machine.options import options
from .estimates import BLOCK_BYTES, Estimate, block_scratch, compressed_bytes, matrix_bytes

__all__ = ["Lines", "elementwise", "loaded", "matrix_blocks"]


class Lines:
    """Another operand that lies in a file: a function gives what stands beside some lines."""

    def __init__(self, read: Callable[[int, int], Any], shown: Contents, container: Any) -> None:
        self.read = read
        self.shape, self.dtype, self.nnz = shown.shape, shown.dtype, shown.elements
        self.container = container


def matrix_blocks(
    shown: Contents, container: Any, most: int | None = None, *, told: bool = True
) -> Iterator[tuple[int, int, Any]]:
    """Walk the lines of a matrix as scipy's matrices, the next ones read while one is used.

    Unless it is within another walk (`told` is false), ``diskcsr.options.progress`` is told.

    Yields
    ------
    first, last : int
        Which lines.
    block : matrix of class `container`
    """

    progress = options.progress if told else None
    for block in blocks(shown, max_bytes=affordable(most or BLOCK_BYTES), progress=progress):
        shape = shown.axis.swap((block.last - block.first, shown.n_minor))
        arrays = block.data, block.indices, block.indptr
        yield block.first, block.last, container(arrays, shape=shape)


def loaded(shown: Contents, container: Any) -> Any:
    """Load a matrix, under the memory guard."""
    return container(load(shown), shape=shown.shape)


def elementwise(
    shown: Contents, container: Any, operation: Callable, *rest: Any, joins: bool = False
) -> Any:
    """Return what `operation` makes of a matrix, and perhaps of other operands.

    Parameters
    ----------
    shown : Contents
    container : type
        scipy's class of the matrix in memory.
    operation : callable
        Given a matrix and the other operands; returns what scipy returns.
    *rest : scalar, dense array, sparse array or Lines
        The other operands.
    joins : bool
        Whether something may come out where only another operand has something.

    Raises
    ------
    MemoryBudgetError
        When the most that the result can take, and what is needed to make it, does not fit.
    """
    parts = [part for one in rest if (part := _cut(one, shown, joins)) is not None]
    if len(parts) < len(rest) or 0 in shown.shape:
        return _at_once(shown, container, operation, rest)
    probe = operation(_empty(container, shown), *(_alike(one) for one in rest))
    if probe is NotImplemented:
        return probe
    result = _result_for(probe, shown, rest if joins else ())
    if result is None:
        return _at_once(shown, container, operation, rest)
    what = f"{shown.source.where}: the result of {_name_of(operation)}"
    Estimate(result.nbytes, block_scratch(shown)).require(what, _instead(shown))
    if not any(isinstance(one, Lines) for one in rest) and matrix_bytes(shown) <= BLOCK_BYTES:
        return operation(loaded(shown, container), *rest)
    common = np.result_type(
        shown.dtype, *(one.dtype for one in rest if np.ndim(one) or issparse(one))
    )
    result.begin()
    for first, last, block in _slabs(shown, container, result.full):
        if last - first == 1:
            # What is left of a column is a number here, and numpy below 2 would round it.
            block = block.astype(common, copy=False)
        beside = (part(first, last) for part in parts if part is not None)
        part = operation(block, *beside)
        # Of a single line scipy may give another format than of several.
        result.add(first, last, part.asformat(probe.format) if issparse(probe) else part)
    return result.finish(type(probe))


def _slabs(shown: Contents, container: Any, full: bool) -> Iterator[tuple[int, int, Any]]:
    """Walk a matrix in blocks; in thinner ones where each place of them will hold something."""
    for first, last, block in matrix_blocks(shown, container):
        if not full:
            yield first, last, block
            continue
        step = max(1, BLOCK_BYTES // (16 * shown.n_minor))
        for begin in range(first, last, step):
            end = min(begin + step, last)
            some = shown.axis.swap((slice(begin - first, end - first), slice(None)))
            yield begin, end, block[some]


def _name_of(operation: Callable) -> str:
    return getattr(operation, "__name__", "an operation").strip("_")


def _instead(shown: Contents) -> str:
    return (
        f"Work on some {shown.axis.majors} at a time with iter_blocks(), write them to a file with "
        "diskcsr.write(), or raise diskcsr.options.memory_budget."
    )


def _at_once(shown: Contents, container: Any, operation: Callable, rest: tuple) -> Any:
    """Have scipy do it to the whole matrix; first to an empty one, for its errors."""
    tried = operation(container(shown.shape, dtype=shown.dtype), *rest)
    if not (issparse(tried) or isinstance(tried, np.ndarray)):
        return tried  # NotImplemented, or False for the question whether shapes are equal
    size = matrix_bytes(shown)
    what = f"{shown.source.where}: loading it for {_name_of(operation)}"
    Estimate(size, size).require(what, _instead(shown))
    return operation(loaded(shown, container), *rest)


# ------------------------------------------------------------------------------- other operands


def _cut(other: Any, shown: Contents, joins: bool) -> Callable[[int, int], Any] | None:
    """Return what gives the part of an operand beside some lines; None when it has no such."""
    if isinstance(other, Lines):
        return other.read if other.shape == shown.shape else None
    if np.isscalar(other):
        return lambda first, last: other
    if issparse(other):
        if not _broadcasts(other.shape, shown.shape) or (joins and other.shape != shown.shape):
            return None
        other = other.asformat(shown.axis.format)
    elif not isinstance(other, np.ndarray) or other.dtype == object or other.ndim > 2:
        return None
    shape = (1,) * (2 - other.ndim) + other.shape
    if other.ndim == 0 or not _broadcasts(shape, shown.shape):
        return (lambda first, last: other) if other.ndim == 0 else None
    if shape[shown.axis.major] == 1 or other.ndim <= shown.axis.minor:
        return lambda first, last: other
    place = (slice(None),) * (shown.axis.major if other.ndim == 2 else 0)
    return lambda first, last: other[(*place, slice(first, last))]


def _broadcasts(shape: tuple[int, ...], onto: tuple[int, int]) -> bool:
    """Whether an operand of `shape` lies beside every line: all of it, or the same everywhere."""
    return len(shape) == 2 and all(n in (1, own) for n, own in zip(shape, onto, strict=True))


def _small(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(min(n, 2) for n in shape)


def _empty(container: Any, like: Any) -> Any:
    return container(_small(like.shape), dtype=like.dtype)


def _alike(other: Any) -> Any:
    """Return a small operand of the same kind; the same one when it is a number."""
    if isinstance(other, Lines):
        return _empty(other.container, other)
    if issparse(other):
        return _empty(type(other), other)
    if isinstance(other, np.ndarray) and other.ndim:
        return np.ones_like(other, shape=_small(other.shape))
    return other


# --------------------------------------------------------------------------------------- results


def _result_for(probe: Any, shown: Contents, joined: tuple) -> Any:
    """Return what collects the blocks of a result like `probe`; None when nothing here does."""
    places = shown.shape[0] * shown.shape[1]
    if isinstance(probe, np.ndarray):
        return _Dense(shown.shape, probe.dtype, shown.axis)
    if not issparse(probe) or probe.shape != _small(shown.shape):
        return None
    most = shown.elements
    for other in joined:
        if hasattr(other, "nnz"):
            most += other.nnz * (places // max(1, other.shape[0] * other.shape[1]))
    most = places if probe.nnz else most
    if shown.axis.holds(probe):
        return _Compressed(shown.shape, probe.dtype, shown.axis, most, probe.nnz > 0)
    if isinstance(probe, coo_array | coo_matrix):
        return _Triplets(shown.shape, probe.dtype, shown.axis, most)
    return None


class _Dense:
    """A dense result."""

    full = True

    def __init__(self, shape: tuple[int, int], dtype: np.dtype, axis: Axis) -> None:
        self._shape, self._dtype, self._axis = shape, dtype, axis
        self.nbytes = shape[0] * shape[1] * dtype.itemsize

    def begin(self) -> None:
        self._out = np.empty(self._shape, self._dtype, self._axis.dense_order)

    def add(self, first: int, last: int, part: Any) -> None:
        self._out[self._axis.swap((slice(first, last), slice(None)))] = part

    def finish(self, container: Any) -> Any:
        return self._out.view(container)


class _Compressed:
    """A result in the format of the matrix, with room for the most elements it can have."""

    def __init__(
        self, shape: tuple[int, int], dtype: np.dtype, axis: Axis, most: int, full: bool
    ) -> None:
        self._shape, self._dtype, self._axis, self._most = shape, dtype, axis, most
        self._n_major, self._n_minor = axis.swap(shape)
        self.full = full
        self.nbytes = compressed_bytes(most, self._n_major, self._n_minor, dtype)

    def begin(self) -> None:
        index = index_dtype(self._most, self._n_minor)
        self._data = np.empty(self._most, self._dtype)
        self._indices = np.empty(self._most, index)
        self._indptr = np.zeros(self._n_major + 1, index)

    def add(self, first: int, last: int, part: Any) -> None:
        at = self._indptr[first]
        self._indptr[first + 1 : last + 1] = at + part.indptr[1:]
        stop = self._indptr[last]
        self._data[at:stop], self._indices[at:stop] = part.data, part.indices

    def finish(self, container: Any) -> Any:
        arrays = (*_shortened(self._indptr[-1], self._data, self._indices), self._indptr)
        return container(arrays, shape=self._shape)


class _Triplets:
    """A result in coordinates, with room for the most elements it can have."""

    full = False

    def __init__(self, shape: tuple[int, int], dtype: np.dtype, axis: Axis, most: int) -> None:
        self._shape, self._dtype, self._axis, self._most = shape, dtype, axis, most
        self._index = index_dtype(max(shape))
        self.nbytes = most * (dtype.itemsize + 2 * self._index.itemsize)
        self._filled = 0

    def begin(self) -> None:
        self._data = np.empty(self._most, self._dtype)
        self._places = tuple(np.empty(self._most, self._index) for _ in self._shape)

    def add(self, first: int, last: int, part: Any) -> None:
        some = slice(self._filled, self._filled + part.data.size)
        self._data[some] = part.data
        for places, own in zip(self._places, (part.row, part.col), strict=True):
            places[some] = own
        self._places[self._axis.major][some] += self._index.type(first)
        self._filled = some.stop

    def finish(self, container: Any) -> Any:
        data, *places = _shortened(self._filled, self._data, *self._places)
        return container((data, tuple(places)), shape=self._shape)


def _shortened(size: int, *arrays: np.ndarray) -> tuple[np.ndarray, ...]:
    """Give back what is left over of arrays, without copying them."""
    for array in arrays:
        array.resize(int(size), refcheck=False)
    return arrays
