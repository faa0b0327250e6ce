"""Norms: those of `scipy.sparse.linalg.norm` that one pass of the file gives."""

from functools import partial
from typing import Any

import numpy as np

from ..blocks.canonical import canonical
from ..blocks.walk import Block, BlockSource
from .answers import ask, empty, fill, one_axis
from .summary import Summary, summarize
from .sums import sums

__all__ = ["norm_of"]

_FROBENIUS = (None, "f", "fro")


def norm_of(source: BlockSource, container: Any, order: Any, axis: Any) -> Any:
    """Return a norm of a matrix, or of its rows or columns; see `diskcsr.norm`."""
    along = _checked(axis)
    if along is not None:
        return _of_vectors(source, container, order, along)
    first = axis[0] % 2 if axis is not None else 0
    if order in _FROBENIUS:
        total = np.sqrt(_powers(source, None, 2))
        return total.astype(_fractional(source.dtype))[0]
    if order in (1, -1, np.inf, -np.inf):
        added = first if abs(order) == 1 else 1 - first
        totals = _absolute_sums(source, container, added)
        return (totals.max if order > 0 else totals.min)()
    if order in (2, -2):
        raise NotImplementedError(
            "the largest singular value is found by scipy.sparse.linalg.svds(A, k=1), in several "
            "passes of the file"
        )
    raise ValueError("Invalid norm order for matrices.")


def _checked(axis: Any) -> int | None:
    """Return the one axis that is meant, or None for both; scipy's complaints about others."""
    if axis is None:
        return None
    if not isinstance(axis, tuple):
        message = "'axis' must be None, an integer or a tuple of integers"
        try:
            whole = int(axis)
        except TypeError as problem:
            raise TypeError(message) from problem
        if whole != axis:
            raise TypeError(message)
        axis = (whole,)
    if len(axis) not in (1, 2):
        raise ValueError("Improper number of dimensions to norm.")
    if not all(-2 <= one < 2 for one in axis):
        raise ValueError(f"Invalid axis {axis!r}: a matrix has the axes 0 and 1")
    if len(axis) == 2 and axis[0] % 2 == axis[1] % 2:
        raise ValueError("Duplicate axes given.")
    return one_axis(axis) if len(axis) == 1 else None


def _of_vectors(source: BlockSource, container: Any, order: Any, axis: int) -> Any:
    if order in (np.inf, -np.inf):
        return _extremes(source, axis, order > 0)
    if order == 0:
        return summarize(source, axis, _nonzeros)[0]
    if order == 1:
        return _absolute_sums(source, container, axis)
    try:
        power = float(2 if order is None else order)
    except (TypeError, ValueError) as problem:
        raise ValueError("Invalid norm order for vectors.") from problem
    with np.errstate(all="ignore"):
        total = _powers(source, axis, power) ** (1 / power)
    return total.astype(_fractional(source.dtype))


def _fractional(dtype: np.dtype) -> np.dtype:
    """The type of real numbers, with fractions, that is as precise as `dtype`."""
    real = np.empty(0, dtype).real.dtype
    return real if real.kind == "f" else np.dtype(np.float64)


def _absolute(block: Block) -> Block:
    return block._replace(data=np.abs(block.data))


def _powered(power: float, dtype: np.dtype, block: Block) -> Block:
    size = np.abs(block.data).astype(dtype, copy=False)
    with np.errstate(all="ignore"):
        return block._replace(data=size * size if power == 2 else size**power)


def _powers(source: BlockSource, axis: int | None, power: float) -> np.ndarray:
    """Sums of powers of the absolute values: in double precision, so that no square is lost."""
    wide = np.result_type(_fractional(source.dtype), np.float64)
    return sums(source, axis, wide, [canonical, partial(_powered, power, wide)])


def _absolute_sums(source: BlockSource, container: Any, axis: int) -> np.ndarray:
    real = np.abs(np.empty(0, source.dtype)).dtype
    form = np.ravel(ask(empty(container, source.shape, real), "sum", axis=axis))
    return fill(form, sums(source, axis, real, [canonical, _absolute]))


def _nonzeros(summary: Summary) -> tuple[np.ndarray]:
    return (summary.stored - summary.counts[:, 0],)


def _extremes(source: BlockSource, axis: int, largest: bool) -> np.ndarray:
    """The largest or the least absolute value, those that are not stored being 0."""
    if source.shape[axis] == 0:
        raise ValueError("zero-size array to reduction operation")
    n = source.shape[axis]
    real = np.abs(np.empty(0, source.dtype)).dtype

    def end(summary: Summary) -> tuple[np.ndarray]:
        stored, nans = summary.stored, summary.counts[:, 1]
        found = summary.extremes[:, int(largest)].astype(real)
        found[stored == 0 if largest else stored < n] = 0
        if nans.any():
            found[nans > 0] = np.nan
        return (found,)

    return summarize(source, axis, end, through=[_absolute], dtype=real)[0]
