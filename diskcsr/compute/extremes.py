"""Minima, maxima and where they are: one pass of the file, then scipy's own rules."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from .. import kernels
from ..blocks.canonical import canonical
from ..blocks.walk import Block, BlockSource, fold
from .answers import ask, empty, fill, of_lines, one_axis
from .summary import Summary, lines_of, summarize
from .sums import FEW, unsigned, widened

__all__ = ["extreme_of", "place_of"]


def extreme_of(
    source: BlockSource, container: Any, method: str, axis: Any, out: Any, explicit: bool
) -> Any:
    """``A.max(axis, out, explicit=...)`` and the like.

    For each line that there is one result of, scipy is given a line with the one value that
    decides, twice where no zero is left out.
    """
    asked = {"axis": axis, "explicit": explicit}
    ask(empty(container, source.shape, source.dtype), method, out, **asked)
    axis = one_axis(axis)
    n = source.shape[0] * source.shape[1] if axis is None else source.shape[axis]
    largest, ignored = method.endswith("max"), method.startswith("nan")

    def end(summary: Summary) -> tuple[np.ndarray, np.ndarray]:
        stored, nans = summary.stored, summary.counts[:, 1]
        values = summary.extremes[:, int(largest)].astype(source.dtype)
        unknown = (stored > 0) & (nans == stored if ignored else nans > 0)
        if unknown.any():
            values[unknown] = np.nan
        return values, np.minimum(stored, 1) + (stored == n) * (n > 1)

    values, copies = summarize(source, axis, end)
    few = of_lines(container, axis, np.repeat(values, copies), copies, min(n, 2))
    return ask(few, method, **asked)


# ------------------------------------------------------------------------------ where they are


@dataclass
class _Places:
    """Of each line or minor index: its most extreme value, and where that is.

    Attributes
    ----------
    best : (n,) array
    where : (n, 4) int64 array
        Its place; how many stored ones come before it; the first place where nothing is stored; how
        many stored ones there are.
    end : int
        Place behind those that were looked at; -1 when there were none.
    """

    best: np.ndarray
    where: np.ndarray
    end: int = -1

    @classmethod
    def blank(cls, n: int, dtype: np.dtype) -> "_Places":
        return cls(np.zeros(n, dtype), np.zeros((n, 4), np.int64))

    def begin(self, first: int) -> None:
        """Say where the first block begins."""
        if self.end < 0:
            self.where[:, 2] = first

    def join(self, other: "_Places", largest: bool) -> "_Places":
        """Take what comes after this one into it."""
        if self.end < 0:
            return other
        more = _more_extreme(other.best, self.best, largest)
        better = (other.where[:, 3] > 0) & (more | (self.where[:, 3] == 0))
        full = self.where[:, 2] == self.end
        self.best[better] = other.best[better]
        self.where[better, 0] = other.where[better, 0]
        self.where[better, 1] = (self.where[:, 3] + other.where[:, 1])[better]
        self.where[full, 2] = other.where[full, 2]
        self.where[:, 3] += other.where[:, 3]
        self.end = other.end
        return self


def _more_extreme(these: np.ndarray, those: np.ndarray, largest: bool) -> np.ndarray:
    """Whether these come before those: NaN is the most extreme of all, as of `numpy.argmax`."""
    further = these > those if largest else these < those
    return (those == those) & ((these != these) | further)


def _of_lines(block: Block, largest: bool, few: bool) -> _Places:
    """Look for the extreme of each line of a canonical block."""
    n = block.indptr.size - 1
    if not few:
        found = _Places.blank(n, widened(block.data[:0]).dtype)
        arrays = widened(block.data), unsigned(block.indices), block.indptr
        kernels.reduce.first_extremes_of_lines(*arrays, largest, found.best, found.where)
        return found
    found = _Places.blank(n, block.data.dtype)
    found.where[:, 3] = np.diff(block.indptr)
    extreme = np.argmax if largest else np.argmin
    for line in np.flatnonzero(found.where[:, 3]):
        some = slice(block.indptr[line], block.indptr[line + 1])
        values, indices = block.data[some], block.indices[some]
        at = extreme(values)
        gaps = np.flatnonzero(indices != np.arange(indices.size))
        found.best[line] = values[at]
        found.where[line, :3] = indices[at], at, gaps[0] if gaps.size else indices.size
    return found


def _places(source: BlockSource, axis: int, largest: bool) -> _Places:
    """Find the extremes along an axis, for each index of the other."""
    few = source.elements <= FEW or source.dtype.char in "FDgGLQ"
    along = axis == source.axis.minor
    dtype = source.dtype if few else widened(np.empty(0, source.dtype)).dtype

    def step(state: Any, block: Block) -> Any:
        if along:
            return [*state, _of_lines(block, largest, few)]
        if few:
            found = _of_lines(lines_of(block, source.n_minor), largest, few)
            found.where[:, [0, 2]] += block.first
            found.end = block.last
            return state.join(found, largest)
        state.begin(block.first)
        arrays = widened(block.data), unsigned(block.indices), block.indptr
        kernels.reduce.first_extremes_at(*arrays, block.first, largest, state.best, state.where)
        state.end = block.last
        return state

    def join(left: Any, right: Any) -> Any:
        return left + right if along else left.join(right, largest)

    def start() -> Any:
        return [] if along else _Places.blank(source.n_minor, dtype)

    size = source.n_minor * (dtype.itemsize + 32)
    found = fold(source, start, step, join, through=[canonical], state_bytes=size)
    if not along:
        return found
    parts = found or [_Places.blank(0, dtype)]
    best, where = (np.concatenate([getattr(p, name) for p in parts]) for name in ("best", "where"))
    return _Places(best, where)


def place_of(
    source: BlockSource, container: Any, method: str, axis: Any, out: Any, explicit: bool
) -> Any:
    """``A.argmax(axis, out, explicit=...)`` and ``argmin``."""
    few = empty(container, source.shape, source.dtype)
    if source.nnz:  # that nothing is stored may be what is complained of
        few = container(([source.dtype.type(1)], [0], np.arange(few.indptr.size) > 0), few.shape)
    form = ask(few, method, out, axis=axis, explicit=explicit)
    axis, largest = one_axis(axis), method.endswith("max")
    if axis is None:
        return _place_of_all(source, largest, explicit) if source.nnz else form
    found = _places(source, axis, largest)
    place, before, missing, count = found.where.T
    if not explicit:
        zero = source.dtype.type(0)
        beyond = found.best > zero if largest else found.best < zero
        of_zero = np.where(found.best == zero, np.minimum(before, missing), missing)
        place = np.where(beyond | (count == source.shape[axis]), place, of_zero)
    return fill(form, np.where(count > 0, place, 0))


def _place_of_all(source: BlockSource, largest: bool, explicit: bool) -> Any:
    """Return the place in row-major order; an `explicit` one among the stored ones."""
    found = _places(source, 1, largest)
    place, before, missing, count = found.where.T
    rows = np.flatnonzero(count)
    row = rows[(np.argmax if largest else np.argmin)(found.best[rows])]
    extreme, zero = found.best[row], source.dtype.type(0)
    position = count[:row].sum() + before[row]
    if explicit:
        return np.intp(position)
    n_rows, width = map(int, source.shape)
    if (extreme > zero if largest else extreme < zero) or count.sum() == n_rows * width:
        return int(row) * width + int(place[row])
    gap = int(np.argmax(count < width))
    first = gap * width + int(missing[gap])
    return min(first, np.intp(position)) if extreme == zero else first
