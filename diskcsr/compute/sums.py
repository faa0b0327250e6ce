"""Sums and means: over all, along lines, or across them; one pass of the file."""

import math
from functools import cache, partial
from typing import Any

import numpy as np
from scipy.sparse import csr_array

from .. import kernels
from ..blocks.canonical import canonical
from ..blocks.walk import Block, BlockSource, Transform, fold, require_in_range
from .answers import ask, empty, fill, one_axis

__all__ = ["FEW", "mean_of", "sum_of", "sums"]

#: Up to this many elements numpy does the work: no compiler is loaded for so few.
FEW = 1 << 16
#: What small integers are turned into for the kernels, so that there need be few of these.
_WIDENED: dict[str, np.dtype] = {
    **dict.fromkeys("?bBhH", np.dtype(np.int32)),
    **dict.fromkeys("IlLqQ", np.dtype(np.int64)),
    "F": np.dtype(np.complex128),
}


def sum_of(source: BlockSource, container: Any, axis: Any, dtype: Any, out: Any) -> Any:
    """``A.sum(axis, dtype, out)``; see `diskcsr.protocol.reducing.Reducing.sum`."""
    few = empty(container, source.shape, source.dtype)
    form = ask(few, "sum", out, axis=axis, dtype=dtype)
    axis = one_axis(axis)
    through: list[Transform] = []
    kind = source.dtype
    if axis is None and kind.kind == "b":
        through = [canonical]  # an entry that is stored twice is true once
    first = dtype is not None and _converts_first()
    if dtype is not None and np.dtype(dtype) != kind and (axis is None or first):
        # Values are converted before they are added up; before that scipy 1.18 adds up duplicates.
        kind = np.dtype(dtype)
        if first and canonical not in through:
            through.append(canonical)
        through.append(partial(_converted, kind))
    return fill(form, sums(source, axis, kind, through), out)


@cache
def _converts_first() -> bool:
    """Whether scipy converts values before it adds them up along an axis: from 1.18 on it does."""
    return int(csr_array([[0.6], [0.8]]).sum(axis=0, dtype=int)[0]) == 0


def mean_of(source: BlockSource, container: Any, axis: Any, dtype: Any, out: Any) -> Any:
    """``A.mean(axis, dtype, out)``; see `diskcsr.protocol.reducing.Reducing.mean`."""
    few = empty(container, source.shape, source.dtype)
    form = ask(few, "mean", out, axis=axis, dtype=dtype)
    axis = one_axis(axis)
    share = 1.0 / math.prod(source.shape if axis is None else source.shape[axis : axis + 1])
    kind = source.dtype
    if kind.char in "?bBhHiIfF":
        # No sum of these is too large for what they are added up in.
        return fill(form, sums(source, axis, kind, ()) * share, out)
    if kind.kind in "iu":
        kind = np.dtype(np.float64)
    return fill(form, sums(source, axis, kind, [partial(_shared, kind, share)]), out)


def _converted(dtype: np.dtype, block: Block) -> Block:
    # That imaginary parts go is what scipy has warned of, when it was asked about the result.
    data = block.data.real if block.data.dtype.kind == "c" and dtype.kind in "iuf" else block.data
    return block._replace(data=data.astype(dtype, copy=False))


def _shared(dtype: np.dtype, share: float, block: Block) -> Block:
    return block._replace(data=block.data.astype(dtype, copy=False) * dtype.type(share))


def sums(
    source: BlockSource, axis: int | None, dtype: np.dtype, through: Any, progress: Any = None
) -> np.ndarray:
    """Add up all values, or those of each line or of each minor index.

    Parameters
    ----------
    source : BlockSource
    axis : {0, 1, None}
        Which axis is added up.
    dtype : dtype
        Of the values, when they went through `through`.
    through : sequence of Transform
    progress : optional
        As of `fold`.

    Returns
    -------
    (n,) array; (1,) where all are added up
        Of integers int64 or uint64, with what does not fit cut off; of floating-point numbers at
        least double precision.

    Notes
    -----
    Single precision is added up in double. Doubles along lines and over all are added up with what
    each addition loses; across lines one after the other, within each of the cuts.
    """
    few = source.elements <= FEW or dtype.char in "gG"
    how: Any
    if axis == source.axis.major:
        how = _Across(source.n_minor, dtype, few)
    elif axis is None:
        how = _Over(dtype, few)
    else:
        how = _Along(source.n_major, dtype, few)
    only = None if canonical in through or axis == source.axis.major else "data"
    state = fold(
        source,
        how.start,
        how.step,
        how.join,
        through=through,
        state_bytes=how.state_bytes,
        only=only,
        straight=not few and not is_widened(dtype),
        progress=progress,
    )
    total = how.end(state)
    return total.view(np.uint64) if dtype.kind == "u" else total


def _total_dtype(dtype: np.dtype) -> np.dtype:
    """What values are added up in. Unsigned integers wrap around as signed ones do."""
    return np.dtype(np.int64) if dtype.kind in "biu" else np.result_type(dtype, np.float64)


def widened(values: np.ndarray) -> np.ndarray:
    """Return values in a type that there are kernels for."""
    dtype = values.dtype
    if dtype == np.uint64:
        return values.view(np.int64)
    return values.astype(_WIDENED.get(dtype.char, dtype), copy=False)


def is_widened(dtype: np.dtype) -> bool:
    """Whether `widened` makes a new array of values of this type."""
    return dtype.char in _WIDENED and dtype.itemsize != _WIDENED[dtype.char].itemsize


class _Across:
    """Across lines: one sum for each minor index. The state is those sums."""

    def __init__(self, n: int, dtype: np.dtype, few: bool) -> None:
        self._n, self._dtype, self._few = n, _total_dtype(dtype), few
        self.state_bytes = n * self._dtype.itemsize

    def start(self) -> np.ndarray:
        return np.zeros(self._n, self._dtype)

    def step(self, state: np.ndarray, block: Block) -> np.ndarray:
        if self._few:
            np.add.at(state, block.indices, block.data.astype(self._dtype, copy=False))
        else:
            found = kernels.reduce.add_at(widened(block.data), unsigned(block.indices), state)
            require_in_range(found)
        return state

    @staticmethod
    def join(left: np.ndarray, right: np.ndarray) -> np.ndarray:
        left += right
        return left

    @staticmethod
    def end(state: np.ndarray) -> np.ndarray:
        return state


def unsigned(indices: np.ndarray) -> np.ndarray:
    """View indices, none of which is negative, as what a kernel need not test for that."""
    return indices.view(np.uint32 if indices.itemsize == 4 else np.uint64)


class _Lines:
    """Sums of runs of values, and what they lost to rounding."""

    def __init__(self, dtype: np.dtype, few: bool) -> None:
        self._dtype, self._few = _total_dtype(dtype), few
        #: The additions of which lose something that counts.
        self._exactly = dtype.char in "dD"

    def _sums(self, values: np.ndarray, indptr: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        out = np.zeros(indptr.size - 1, self._dtype)
        lost = np.zeros_like(out) if self._exactly or self._few else out[:0]
        if self._few:
            some = indptr[1:] > indptr[:-1]
            if some.any():
                out[some] = np.add.reduceat(values, indptr[:-1][some], dtype=self._dtype)
        elif self._exactly:
            kernels.reduce.add_exactly(values, indptr, out, lost)
        else:
            kernels.reduce.add_lines(widened(values), indptr, out)
        return out, lost


class _Along(_Lines):
    """Along lines: one sum for each. Each block has the lines that it knows all of."""

    state_bytes = 0

    def __init__(self, n: int, dtype: np.dtype, few: bool) -> None:
        super().__init__(dtype, few)
        self._out = np.zeros(n, self._dtype)

    def start(self) -> None:
        return None

    def step(self, state: None, block: Block) -> None:
        self._out[block.first : block.last] = _rounded(*self._sums(block.data, block.indptr))

    def join(self, left: None, right: None) -> None:
        return None

    def end(self, state: None) -> np.ndarray:
        return self._out


class _Over(_Lines):
    """Over all: the state is the sum and what it lost."""

    state_bytes = 16

    def start(self) -> tuple[np.ndarray, np.ndarray]:
        return np.zeros(1, self._dtype), np.zeros(1, self._dtype)

    def step(self, state: Any, block: Block) -> Any:
        if not self._few and not self._exactly:
            # What is not kept beside the sum is not joined either.
            kernels.reduce.add_all(widened(block.data), state[0])
            return state
        indptr = np.array([0, block.data.size])
        return self.join(state, self._sums(block.data, indptr))

    @staticmethod
    def join(left: Any, right: Any) -> Any:
        with np.errstate(all="ignore"):
            total = left[0] + right[0]
            part = total - left[0]
            error = (left[0] - (total - part)) + (right[0] - part)
            lost = left[1] + error
            return total, lost + right[1] if right[1].size else lost

    @staticmethod
    def end(state: Any) -> np.ndarray:
        return _rounded(*state)


def _rounded(total: np.ndarray, lost: np.ndarray) -> np.ndarray:
    """Add what a sum lost to it; of infinite sums nobody knows that."""
    if not lost.size:
        return total
    with np.errstate(all="ignore"):
        return np.where(np.isfinite(lost), total + lost, total)
