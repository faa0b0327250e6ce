"""The planner's loops: which ranges of a stored array give the wanted rows.

They stand here uncompiled, for a few rows: those are planned sooner than the compiler is imported.
`diskcsr.kernels.ranges` compiles the same functions for many.
"""

import numpy as np

__all__ = ["plan_ranges", "plan_rows", "split_ranges"]


def plan_ranges(lo, hi, dst, max_gap, max_range):
    """Merge row spans into disk ranges and, inside them, contiguous pieces.

    Parameters
    ----------
    lo, hi : (k,) int64 array, or list where this is not compiled
        First and one-past-last stored element of each wanted row, ascending in `lo`.
    dst : (k,) int64 array, or list
        Where each row begins in the result, in elements.
    max_gap, max_range : int
        Spans at most `max_gap` elements apart share a range of at most `max_range` elements.
        Spans that overlap (a row asked for twice) always do, so no element is read twice; only
        a row longer than `max_range` then makes a longer range of several pieces.

    Returns
    -------
    range_lo, range_hi : (r,) int64 array
        What to read.
    range_ptr : (r + 1,) int64 array
        The pieces of range i are ``range_ptr[i]:range_ptr[i + 1]``.
    piece_lo, piece_hi, piece_dst : (p,) int64 array
        What to copy out of the ranges, and where to.
    """
    k = len(lo)
    range_lo = np.empty(k, np.int64)
    range_hi = np.empty(k, np.int64)
    range_ptr = np.empty(k + 1, np.int64)
    piece_lo = np.empty(k, np.int64)
    piece_hi = np.empty(k, np.int64)
    piece_dst = np.empty(k, np.int64)
    r = -1  # the open range
    p = -1  # the open piece
    for i in range(k):
        if hi[i] <= lo[i]:
            continue
        joins = False
        if r >= 0:
            single = range_ptr[r] == p
            follows = lo[i] == piece_hi[p] and dst[i] == piece_dst[p] + piece_hi[p] - piece_lo[p]
            fits = hi[i] - range_lo[r] <= max_range
            if follows and (single or fits):
                # One longer copy; alone in its range it is read straight to its place.
                piece_hi[p] = hi[i]
                range_hi[r] = hi[i]
                continue
            joins = lo[i] < range_hi[r] or (lo[i] - range_hi[r] <= max_gap and fits)
            long = range_hi[r] - range_lo[r] > max_range
            if joins and single and long and lo[i] > range_lo[r] and p + 1 < i:
                # A row asked for twice, at the end of a long straight read. Only that row has two
                # places to go to: the rest stays straight. (Rows were merged, so there is space.)
                range_hi[r] = lo[i]
                range_lo[r + 1] = lo[i]
                range_hi[r + 1] = piece_hi[p]
                range_ptr[r + 1] = p + 1
                piece_lo[p + 1] = lo[i]
                piece_hi[p + 1] = piece_hi[p]
                piece_dst[p + 1] = piece_dst[p] + lo[i] - piece_lo[p]
                piece_hi[p] = lo[i]
                r += 1
                p += 1
        if not joins:
            r += 1
            range_lo[r] = lo[i]
            range_hi[r] = hi[i]
            range_ptr[r] = p + 1
        elif hi[i] > range_hi[r]:
            range_hi[r] = hi[i]
        p += 1
        piece_lo[p] = lo[i]
        piece_hi[p] = hi[i]
        piece_dst[p] = dst[i]
    range_ptr[r + 1] = p + 1
    return (
        range_lo[: r + 1],
        range_hi[: r + 1],
        range_ptr[: r + 2],
        piece_lo[: p + 1],
        piece_hi[: p + 1],
        piece_dst[: p + 1],
    )


def split_ranges(range_lo, range_hi, range_ptr, piece_lo, piece_hi, piece_dst, longest):
    """Cut ranges that are one long piece into segments, so that threads can share them.

    Takes and returns the arrays of `plan_ranges`; no returned single-piece range exceeds
    `longest` elements.
    """
    extra = 0
    for r in range(range_lo.size):
        if range_ptr[r + 1] - range_ptr[r] == 1:
            extra += (range_hi[r] - range_lo[r] - 1) // longest
    if extra == 0:
        return range_lo, range_hi, range_ptr, piece_lo, piece_hi, piece_dst
    n, m = range_lo.size + extra, piece_lo.size + extra
    new_lo, new_hi, new_ptr = (
        np.empty(n, np.int64),
        np.empty(n, np.int64),
        np.empty(n + 1, np.int64),
    )
    out_lo, out_hi, out_dst = np.empty(m, np.int64), np.empty(m, np.int64), np.empty(m, np.int64)
    r = 0
    p = 0
    for i in range(range_lo.size):
        start, stop = range_ptr[i], range_ptr[i + 1]
        if stop - start == 1:
            for lo in range(range_lo[i], range_hi[i], longest):
                hi = min(lo + longest, range_hi[i])
                new_lo[r], new_hi[r], new_ptr[r] = lo, hi, p
                out_lo[p], out_hi[p] = lo, hi
                out_dst[p] = piece_dst[start] + lo - piece_lo[start]
                r += 1
                p += 1
        else:
            new_lo[r], new_hi[r], new_ptr[r] = range_lo[i], range_hi[i], p
            r += 1
            for q in range(start, stop):
                out_lo[p], out_hi[p], out_dst[p] = piece_lo[q], piece_hi[q], piece_dst[q]
                p += 1
    new_ptr[n] = m
    return new_lo, new_hi, new_ptr, out_lo, out_hi, out_dst


def plan_rows(lo, hi, dst, max_gap, max_range, longest):
    """Merge row spans by `plan_ranges`, and cut what results by `split_ranges`."""
    return split_ranges(*plan_ranges(lo, hi, dst, max_gap, max_range), longest)
