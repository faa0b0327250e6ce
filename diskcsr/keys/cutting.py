"""A plan over an array that lies in parts, cut at their edges. Pure, no I/O."""

import numpy as np

from ..breakeven import FEW_PIECES
from .plan import Plan

__all__ = ["cut_plan"]


def cut_plan(
    plan: Plan, edges: np.ndarray, firsts: np.ndarray | None = None
) -> list[tuple[int, Plan]]:
    """Cut a plan into one for each part that it touches, all at once.

    Parameters
    ----------
    plan : Plan
    edges : (k + 1,) int64 array
        Part i has the elements ``edges[i]:edges[i + 1]``; ascending, empty ones may be among them.
    firsts : (k,) int64 array, optional
        Which element of its own array the first of each part is; default 0.

    Returns
    -------
    list of (int, Plan)
        The number of each part, ascending, and what is wanted of it, counted as its own array
        counts. The places it goes to are those of the whole plan.

    Examples
    --------
    >>> from diskcsr.keys.plan import plan_span
    >>> for part, own in cut_plan(plan_span(3, 8, np.array([0, 5])), np.array([0, 5, 20])):
    ...     part, own.range_lo.tolist(), own.range_hi.tolist(), own.piece_dst.tolist()
    (0, [3], [5], [0])
    (1, [0], [3], [2])
    """
    lo, hi, dst = plan.piece_lo, plan.piece_hi, plan.piece_dst
    if not lo.size:
        return []
    shifts = edges[:-1] if firsts is None else edges[:-1] - firsts
    part = edges.searchsorted(lo, side="right") - 1
    last = edges.searchsorted(hi, side="left") - 1  # of the last element
    if part[0] == part.max() == last.max():  # as most blocks of a walk
        return [(int(part[0]), _shifted(plan, shifts[part[0]]))]
    of_range = np.arange(plan.range_lo.size).repeat(np.diff(plan.range_ptr))
    if (last > part).any():
        lo, hi, dst, part, of_range = _split(lo, hi, dst, part, last, of_range, edges)
    shift = shifts[part]
    lo, hi = lo - shift, hi - shift
    new_part = np.append(True, part[1:] != part[:-1])
    new_range = new_part | np.append(True, of_range[1:] != of_range[:-1])
    begins = np.append(np.flatnonzero(new_range), lo.size)  # of ranges, in pieces
    range_lo, range_hi = lo[begins[:-1]], hi[begins[1:] - 1]
    pieces = np.append(np.flatnonzero(new_part), lo.size)  # of parts, in pieces
    sizes = np.add.reduceat(hi - lo, pieces[:-1]).tolist()
    numbers = part[pieces[:-1]].tolist()
    ranges = begins.searchsorted(pieces).tolist()
    bounds = pieces.tolist()
    kind = Plan if plan.piece_lo.size <= FEW_PIECES and not plan.of_many else _PartPlan
    cut = []
    for i, number in enumerate(numbers):
        a, b, r, s = bounds[i], bounds[i + 1], ranges[i], ranges[i + 1]
        indptr = np.array([0, sizes[i]])
        own = (range_lo[r:s], range_hi[r:s], begins[r : s + 1] - a, lo[a:b], hi[a:b], dst[a:b])
        cut.append((number, kind(*own, indptr)))
    return cut


class _PartPlan(Plan):
    """A part of a plan of many pieces."""

    @property
    def of_many(self) -> bool:
        return True


def _shifted(plan: Plan, shift: int) -> Plan:
    """Return a plan all of which is of one part."""
    if not shift:
        return plan
    lo, hi, ptr, piece_lo, piece_hi, piece_dst = plan.pieces
    own = lo - shift, hi - shift, ptr, piece_lo - shift, piece_hi - shift, piece_dst
    return Plan(*own, plan.indptr)


def _split(
    lo: np.ndarray,
    hi: np.ndarray,
    dst: np.ndarray,
    part: np.ndarray,
    last: np.ndarray,
    of_range: np.ndarray,
    edges: np.ndarray,
) -> tuple[np.ndarray, ...]:
    """Cut the pieces that reach over edges, and order all by their parts."""
    count = last - part + 1
    piece = np.arange(lo.size).repeat(count)
    within = np.arange(piece.size) - (count.cumsum() - count).repeat(count)
    part = part[piece] + within
    begin, end = np.maximum(lo[piece], edges[part]), np.minimum(hi[piece], edges[part + 1])
    at = dst[piece] + begin - lo[piece]
    some = np.flatnonzero(end > begin)  # parts without elements may lie between others
    # What is asked for twice goes over the same edge twice.
    some = some[np.argsort(part[some], kind="stable")]
    return begin[some], end[some], at[some], part[some], of_range[piece[some]]
