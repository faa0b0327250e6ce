"""Counts, variances, the diagonal, and all at once: `describe`."""

import math
from typing import Any, NamedTuple

import numpy as np

from .. import kernels
from ..blocks.walk import Block, BlockSource, blocks, fold
from ..keys.widths import index_dtype
from .answers import ask, empty, fill, one_axis
from .summary import Spread, Summary, summarize
from .sums import FEW, unsigned

__all__ = ["Description", "count_of", "description_of", "diagonal_of", "stored_of", "variance_of"]

#: Bytes of the lines that are looked at together for their element on the diagonal.
_DIAGONAL = 1 << 21


def count_of(source: BlockSource, container: Any, axis: Any) -> Any:
    """``A.count_nonzero(axis)``."""
    form = ask(empty(container, source.shape, source.dtype), "count_nonzero", axis=axis)
    axis = one_axis(axis)

    def end(summary: Summary) -> tuple[np.ndarray, np.ndarray]:
        return summary.stored, summary.counts[:, 0]

    stored, zeros = summarize(source, axis, end)
    count = stored - zeros
    if axis is None:
        return type(form)(count[0])
    if axis == source.axis.minor and not zeros.any():
        # scipy then takes them from the row pointers.
        return count.astype(index_dtype(source.nnz, source.n_minor))
    return count.astype(np.intp, copy=False)


def stored_of(source: Any, container: Any, axis: Any) -> Any:
    """``A.getnnz(axis)``: what is stored, whatever its value; no values are read."""
    ask(empty(container, source.shape, source.dtype), "getnnz", axis=axis)
    axis = one_axis(axis)
    if axis is None:
        return source.nnz
    if axis == source.axis.minor:
        if source.counts:
            lengths = source.lengths()
        else:
            walk = blocks(source, max_bytes=_DIAGONAL)
            lengths = np.concatenate([[0][:0], *(np.diff(block.indptr) for block in walk)])
        return lengths.astype(index_dtype(int(lengths.sum()), source.n_minor))
    few, n = source.elements <= FEW, source.n_minor

    def step(state: np.ndarray, block: Block) -> np.ndarray:
        if few:
            state += np.bincount(block.indices, minlength=n)
        else:
            kernels.transpose.count(unsigned(block.indices), state)
        return state

    def start() -> np.ndarray:
        return np.zeros(n, np.int64)

    return fold(source, start, step, np.add, state_bytes=8 * n, only="indices")


def variance_of(
    source: BlockSource,
    container: Any,
    axis: Any,
    dtype: Any,
    out: Any,
    ddof: float,
    root: bool = False,
) -> Any:
    """``A.var(axis, dtype, out, ddof=...)``, or its square root."""
    real = np.result_type(source.dtype, np.float32) if source.dtype.kind in "fc" else np.float64
    real = np.empty(0, real).real.dtype
    form = ask(empty(container, source.shape, real), "mean", out, axis=axis, dtype=dtype)
    axis = one_axis(axis)
    n = math.prod(source.shape) if axis is None else source.shape[axis]

    def end(summary: Spread) -> tuple[np.ndarray]:
        with np.errstate(all="ignore"):
            found = _share(summary.moments(n)[1], n - ddof)
            return (np.sqrt(found) if root else found,)

    (found,) = summarize(source, axis, end, of=Spread)
    return fill(form, found, out)


def _share(squares: np.ndarray, n: float) -> np.ndarray:
    return squares / n if n > 0 else np.full_like(squares, np.nan)


def diagonal_of(source: BlockSource, container: Any, k: int) -> Any:
    """``A.diagonal(k)``: lines that it does not meet are not read."""
    form = ask(empty(container, source.shape, source.dtype), "diagonal", k=k)
    ahead = source.axis.swap((k, -k))[0]
    first = max(0, -ahead)
    lines = range(first, first + form.size)
    for block in blocks(source, lines, max_bytes=_DIAGONAL):
        line = np.repeat(np.arange(block.first, block.last), np.diff(block.indptr))
        there = block.indices == line + (first + ahead)
        np.add.at(form, line[there], block.data[there])
    return form


class Description(NamedTuple):
    """What `diskcsr.describe` found; numbers of a whole matrix, else (n,) arrays.

    Attributes
    ----------
    count : int
        Elements that each number is made of, those that are not stored among them.
    stored, nonzeros
        How many of them are stored, entries of one place counted once, and how many are not zero.
    sum, mean, variance
        In double precision at least.
    min, max
        In the dtype of the matrix; NaN where there is a NaN.
    """

    count: int  # type: ignore[assignment]  # tuples have a method of that name
    stored: Any
    sum: Any
    mean: Any
    variance: Any
    min: Any
    max: Any
    nonzeros: Any


def description_of(
    source: BlockSource, axis: int | None, ddof: float, progress: Any = None
) -> Description:
    """Describe a matrix; see `diskcsr.describe`."""
    n = math.prod(source.shape) if axis is None else source.shape[axis]

    def end(summary: Summary) -> tuple[np.ndarray, ...]:
        stored, (zeros, nans) = summary.stored, summary.counts.T
        mean, squares = summary.moments(n)
        mean = np.where(np.isfinite(mean), mean, summary.sums / n)  # of infinite values
        values = summary.extremes.astype(source.dtype)
        with_zero = stored < n
        least, most = (
            np.where(with_zero, np.where(stored > 0, ufunc(one, 0), 0), one).astype(source.dtype)
            for one, ufunc in zip(values.T, (np.minimum, np.maximum), strict=True)
        )
        if (nans > 0).any():
            least[nans > 0] = most[nans > 0] = np.nan
        variance = _share(squares, n - ddof)
        sums = summary.sums.view(np.uint64) if source.dtype.kind == "u" else summary.sums
        return stored, sums, mean, variance, least, most, stored - zeros

    found = summarize(source, axis, end, progress)
    if axis is None:
        return Description(n, *(part[0] for part in found))
    return Description(n, *found)
