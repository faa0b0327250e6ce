"""Plan, then read: which ranges of a stored array give the wanted rows. Pure, no I/O."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np

from .. import kernels
from ..breakeven import FEW_PIECES

__all__ = ["MAX_GAP", "Plan", "plan_batches", "plan_reads", "plan_span"]

#: Elements between two rows up to which reading on costs no more than a second read: about 16 kB,
#: the price of one system call on warm data.
MAX_GAP = 4096
#: Elements of the longest range that is read to scratch memory; it should stay in a core's cache.
MAX_RANGE = 1 << 16
#: Elements of the longest segment that one thread reads at a time.
MAX_SEGMENT = 1 << 18


@dataclass(frozen=True)
class Plan:
    """What to read from `data` and `indices` alike, in elements, and where it goes.

    Attributes
    ----------
    range_lo, range_hi : (r,) int64 array
        The ranges to read, ascending.
    range_ptr : (r + 1,) int64 array
        The pieces of range i are ``range_ptr[i]:range_ptr[i + 1]``.
    piece_lo, piece_hi, piece_dst : (p,) int64 array
        What is wanted of the ranges, ascending, and its place in the result.
    indptr : (k + 1,) int64 array
        Row pointers of the block that results.
    """

    range_lo: np.ndarray
    range_hi: np.ndarray
    range_ptr: np.ndarray
    piece_lo: np.ndarray
    piece_hi: np.ndarray
    piece_dst: np.ndarray
    indptr: np.ndarray

    @property
    def of_many(self) -> bool:
        """Whether it is a part of one of many pieces: compiled code is there for few, too, then."""
        return False

    @property
    def size(self) -> int:
        """Elements of the result."""
        return int(self.indptr[-1])

    @cached_property
    def elements_read(self) -> int:
        """Elements the ranges cover: the result, plus gaps, minus what is asked for twice."""
        return int((self.range_hi - self.range_lo).sum())

    @property
    def pieces(self) -> tuple[np.ndarray, ...]:
        """The six arrays that the gather kernels take, in their order."""
        return (
            self.range_lo,
            self.range_hi,
            self.range_ptr,
            self.piece_lo,
            self.piece_hi,
            self.piece_dst,
        )

    def parts(self, n: int) -> list[tuple[int, int]]:
        """Cut the ranges into at most `n` runs of about equal size: (first, last) pairs."""
        count = self.range_lo.size
        n = min(n, count)
        if n < 2:
            return [(0, count)] if count else []
        sizes = self.range_hi - self.range_lo
        ends = np.cumsum(sizes)
        # A range goes to the part that its middle lies in.
        cuts = np.searchsorted(ends - sizes / 2, ends[-1] * np.arange(1, n) / n)
        edges = np.unique(np.concatenate(([0], cuts, [count])))
        return [(int(a), int(b)) for a, b in pairwise(edges)]


def plan_span(lo: int, hi: int, indptr: np.ndarray) -> Plan:
    """Plan one contiguous run of rows; `indptr` is that of the resulting block.

    Examples
    --------
    >>> plan_span(10, 14, np.array([0, 1, 4])).elements_read
    4
    """
    starts = np.arange(lo, hi, MAX_SEGMENT, dtype=np.int64)
    stops = np.minimum(starts + MAX_SEGMENT, hi)
    return Plan(starts, stops, np.arange(starts.size + 1), starts, stops, starts - lo, indptr)


def plan_reads(
    starts: np.ndarray,
    stops: np.ndarray,
    *,
    max_gap: int = MAX_GAP,
    max_range: int = MAX_RANGE,
    max_segment: int = MAX_SEGMENT,
    few: bool | None = None,
) -> Plan:
    """Merge the spans of the wanted rows into few disk ranges.

    Parameters
    ----------
    starts, stops : (k,) int64 array
        The stored elements of each wanted row, in the order wanted; rows may repeat.
    max_gap, max_range, max_segment : int
        Spans at most `max_gap` elements apart are read as one range of at most `max_range`
        elements; a longer stretch that goes to one place is cut into segments of `max_segment`.
    few : bool, optional
        Whether to plan without compiled code, which changes nothing but the time it takes; default:
        where there are few rows.

    Returns
    -------
    Plan

    Examples
    --------
    >>> indptr = np.array([0, 2, 4, 9, 11])
    >>> rows = np.array([3, 0, 1])
    >>> plan = plan_reads(indptr[rows], indptr[rows + 1], max_gap=0)
    >>> plan.range_lo, plan.range_hi, plan.indptr
    (array([0, 9]), array([ 4, 11]), array([0, 2, 4, 6]))
    """
    indptr = np.zeros(starts.size + 1, np.int64)
    np.cumsum(stops - starts, out=indptr[1:])
    lo, hi, dst = starts, stops, indptr[:-1]
    if starts.size > 1 and np.any(starts[1:] < starts[:-1]):
        order = np.argsort(starts, kind="stable")
        # Empty rows share a start with the row behind them; they give no piece, so order is moot.
        lo, hi, dst = starts[order], stops[order], dst[order]
    if few is None:
        few = starts.size <= FEW_PIECES
    planner: Any = kernels.planning if few else kernels.ranges
    if few:
        lo, hi, dst = lo.tolist(), hi.tolist(), dst.tolist()
    arrays: list[Any] = [*planner.plan_rows(lo, hi, dst, max_gap, max_range, max_segment), indptr]
    return Plan(*arrays)


def plan_batches(lengths: np.ndarray, max_elements: int) -> Iterator[tuple[int, int]]:
    """Cut rows of the given lengths into runs of at most `max_elements`, at least a row each.

    Examples
    --------
    >>> list(plan_batches(np.array([3, 3, 3, 10, 1]), 6))
    [(0, 2), (2, 3), (3, 4), (4, 5)]
    """
    ends = np.cumsum(lengths)
    first = 0
    while first < lengths.size:
        before = ends[first - 1] if first else 0
        last = max(first + 1, int(np.searchsorted(ends, before + max_elements, side="right")))
        yield first, last
        first = last
