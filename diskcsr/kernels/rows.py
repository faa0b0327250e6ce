"""Kernels of the row fetch: plan ranges, read them with pread, scatter, check, filter.

All are ``nogil`` (they run in a thread pool) and cached on disk. With ``NUMBA_DISABLE_JIT=1`` they
run as plain Python.
"""

import ctypes
import os

import numpy as np
from numba import config, types

from . import WINDOW_SHIFT
from .caching import njit

__all__ = [
    "OUT_OF_RANGE",
    "SHORT_FILE",
    "advise",
    "first_bad_index",
    "first_bad_piece",
    "find_listed",
    "find_points",
    "gather",
    "gather_indices",
    "plan_ranges",
    "scatter",
    "split_ranges",
]

# Outcomes of the gather kernels; 0 is success.
SHORT_FILE, OUT_OF_RANGE = 1, 2

if config.DISABLE_JIT:
    _libc = ctypes.CDLL(None)
    _libc.pread.restype = ctypes.c_ssize_t
    _libc.pread.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int64]

    # ctypes takes Python's own integers as addresses, not numpy's.
    def _pread(*arguments):
        return _libc.pread(*map(int, arguments))

    def _memcpy(*arguments):
        ctypes.memmove(*map(int, arguments))

    _fadvise = os.posix_fadvise if hasattr(os, "posix_fadvise") else None
else:
    # libc itself, called from compiled code. Addresses travel as integers: the same register on
    # every 64-bit ABI, and what ``array.ctypes.data`` gives.
    _pread = types.ExternalFunction(
        "pread", types.intp(types.int32, types.intp, types.intp, types.int64)
    )
    _memcpy = types.ExternalFunction("memcpy", types.intp(types.intp, types.intp, types.intp))
    _fadvise = types.ExternalFunction(
        "posix_fadvise", types.int32(types.int32, types.int64, types.int64, types.int32)
    )


@njit(cache=True, nogil=True)
def plan_ranges(lo, hi, dst, max_gap, max_range):
    """Merge row spans into disk ranges and, inside them, contiguous pieces.

    Parameters
    ----------
    lo, hi : (k,) int64 array
        First and one-past-last stored element of each wanted row, ascending in `lo`.
    dst : (k,) int64 array
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
    k = lo.size
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


@njit(cache=True, nogil=True)
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


@njit(cache=True, nogil=True)
def _is_warm(file, offset, size):
    """Whether ``size`` bytes of a file are mapped, and all their blocks were read before."""
    _, window, mapped, warm = file
    last = (offset + size - 1) >> WINDOW_SHIFT
    if window == 0 or offset < 0 or last >= warm.size or offset + size > mapped:
        return False
    all_warm = True
    for block in range(offset >> WINDOW_SHIFT, last + 1):
        all_warm &= warm[block] != 0
    return all_warm


@njit(cache=True, nogil=True)
def _in_window(file, extents, itemsize, lo, hi):
    """Address in the map of elements ``lo:hi``, if they can be copied from there; else 0.

    A range with gaps then needs no scratch memory: only its pieces are touched.
    """
    start, offset = extents
    e = np.searchsorted(start, lo, side="right") - 1
    begin = offset[e] + (lo - start[e]) * itemsize
    if hi > start[e + 1] or not _is_warm(file, begin, (hi - lo) * itemsize):
        return 0
    return file[1] + begin


@njit(cache=True, nogil=True)
def _copy_bytes(file, offset, size, address):
    """Copy ``size`` bytes of a file to a memory address; False when it ends too early.

    `file` is (descriptor, address of a map of the file or 0, bytes mapped, warm). A block of
    ``1 << WINDOW_SHIFT`` bytes that was read before is copied from the map: its pages are in
    memory, so that costs no system call. The rest is read, which many threads can wait for at once.
    """
    fd, window, mapped, warm = file
    if _is_warm(file, offset, size):
        _memcpy(address, window + offset, size)
        return True
    first = offset >> WINDOW_SHIFT
    last = (offset + size - 1) >> WINDOW_SHIFT
    inside = offset >= 0 and last < warm.size
    done = 0
    while done < size:
        n = _pread(fd, address + done, size - done, offset + done)
        if n <= 0:
            return False
        done += n
    if inside:
        marks = np.int64(warm.ctypes.data)
        for block in range(first, last + 1):
            if window != 0 and offset + size <= mapped:
                # Touching the map now, when the pages are surely in memory, has the kernel enter
                # all of them into our page table; the byte goes where the mark goes.
                _memcpy(marks + block, window + max(offset, block << WINDOW_SHIFT), 1)
            warm[block] = 1
    return True


@njit(cache=True, nogil=True)
def _read(file, extents, itemsize, lo, hi, address):
    """Read elements ``lo:hi`` to a memory address; False when the file ends too early."""
    start, offset = extents
    e = np.searchsorted(start, lo, side="right") - 1
    while lo < hi:
        stop = min(hi, start[e + 1])
        size = (stop - lo) * itemsize
        if not _copy_bytes(file, offset[e] + (lo - start[e]) * itemsize, size, address):
            return False
        address += size
        lo = stop
        e += 1
    return True


@njit(cache=True, nogil=True)
def advise(file, extents, itemsize, range_lo, range_hi):
    """Have the kernel begin to read the ranges that were not read before, all at once.

    A disk serves many requests at a time; reading the ranges one by one would wait for each. Linux
    alone (posix_fadvise, POSIX_FADV_WILLNEED = 3).
    """
    fd, _, _, warm = file
    start, offset = extents
    for r in range(range_lo.size):
        e = np.searchsorted(start, range_lo[r], side="right") - 1
        begin = offset[e] + (range_lo[r] - start[e]) * itemsize
        size = (min(range_hi[r], start[e + 1]) - range_lo[r]) * itemsize
        block = begin >> WINDOW_SHIFT
        if block >= warm.size or warm[block] == 0:
            _fadvise(fd, begin, size, 3)


@njit(cache=True, nogil=True)
def _scratch(plan, first, last, itemsize):
    """Space for the longest range that has more than one piece."""
    range_lo, range_hi, range_ptr = plan[:3]
    longest = 0
    for r in range(first, last):
        if range_ptr[r + 1] - range_ptr[r] > 1:
            longest = max(longest, range_hi[r] - range_lo[r])
    return np.empty(longest * itemsize, np.uint8)


@njit(cache=True, nogil=True)
def _gather_range(file, extents, itemsize, plan, r, scratch, address):
    """Read range `r` of a plan and copy its pieces to their places."""
    range_lo, range_hi, range_ptr, piece_lo, piece_hi, piece_dst = plan
    lo, hi = range_lo[r], range_hi[r]
    p = range_ptr[r]
    if range_ptr[r + 1] - p == 1:
        return _read(file, extents, itemsize, lo, hi, address + piece_dst[p] * itemsize)
    base = _in_window(file, extents, itemsize, lo, hi)
    if base == 0:
        base = np.int64(scratch.ctypes.data)
        if not _read(file, extents, itemsize, lo, hi, base):
            return False
    for p in range(range_ptr[r], range_ptr[r + 1]):
        _memcpy(
            address + piece_dst[p] * itemsize,
            base + (piece_lo[p] - lo) * itemsize,
            (piece_hi[p] - piece_lo[p]) * itemsize,
        )
    return True


@njit(cache=True, nogil=True)
def gather(file, extents, itemsize, plan, first, last, out):
    """Read ranges ``first:last`` of a plan from an unfiltered dataset to their final places.

    Parameters
    ----------
    file : (int, int, int, uint8 array)
        Descriptor; address and size of a map of the file (0 and 0 without); which blocks of
        ``1 << WINDOW_SHIFT`` bytes were read before. The last is updated.
    extents : (e + 1,) int64 array, (e,) int64 array
        First element of each run of bytes that lies in one piece in the file, and at the end the
        length of the dataset; where each run begins in the file, in bytes.
    itemsize : int
        Bytes an element.
    plan : tuple of six int64 arrays
        As `plan_ranges` gives it.
    out : (n * itemsize,) uint8 array
        The result, written in place.

    Returns
    -------
    status, position : int
        0, or `SHORT_FILE` and the first element of the range that could not be read.
    """
    scratch = _scratch(plan, first, last, itemsize)
    address = np.int64(out.ctypes.data)
    for r in range(first, last):
        if not _gather_range(file, extents, itemsize, plan, r, scratch, address):
            return SHORT_FILE, plan[0][r]
    return 0, 0


@njit(cache=True, nogil=True)
def gather_indices(file, extents, plan, first, last, out, limit):
    """`gather` for indices: each is also checked to lie in ``[0, limit)``, while still in cache.

    `out` is the typed int32 or int64 result. Returns also ``(OUT_OF_RANGE, position)``.
    """
    range_lo, _, range_ptr, piece_lo, piece_hi, piece_dst = plan
    itemsize = out.itemsize
    scratch = _scratch(plan, first, last, itemsize)
    address = np.int64(out.ctypes.data)
    for r in range(first, last):
        if not _gather_range(file, extents, itemsize, plan, r, scratch, address):
            return SHORT_FILE, range_lo[r]
        for p in range(range_ptr[r], range_ptr[r + 1]):
            start = piece_dst[p]
            if first_bad_index(out[start : start + piece_hi[p] - piece_lo[p]], limit) >= 0:
                return OUT_OF_RANGE, range_lo[r]
    return 0, 0


@njit(cache=True, nogil=True)
def first_bad_index(indices, limit):
    """Position of the first entry outside ``[0, limit)``, or -1."""
    if indices.size == 0:
        return -1
    least = most = indices[0]
    for i in range(indices.size):
        # No comparison with `limit`, an int64, and no early exit: the compiler then takes as many
        # entries at a time as fit a register.
        least = min(least, indices[i])
        most = max(most, indices[i])
    if least < 0 or most >= limit:
        for i in range(indices.size):
            if indices[i] < 0 or indices[i] >= limit:
                return i
    return -1


@njit(cache=True, nogil=True)
def scatter(block, block_lo, itemsize, piece_lo, piece_hi, piece_dst, out):
    """Copy to `out` what of the pieces lies in `block`, the elements from `block_lo` on.

    `block` and `out` are uint8 views of contiguous arrays of elements of `itemsize` bytes.
    """
    block_hi = block_lo + block.size // itemsize
    source = np.int64(block.ctypes.data)
    target = np.int64(out.ctypes.data)
    # Pieces ascend in both ends, so those that touch the block are neighbours.
    first = np.searchsorted(piece_hi, block_lo, side="right")
    for p in range(first, piece_lo.size):
        if piece_lo[p] >= block_hi:
            break
        lo = max(piece_lo[p], block_lo)
        hi = min(piece_hi[p], block_hi)
        if lo < hi:
            _memcpy(
                target + (piece_dst[p] + lo - piece_lo[p]) * itemsize,
                source + (lo - block_lo) * itemsize,
                (hi - lo) * itemsize,
            )


@njit(cache=True, nogil=True)
def first_bad_piece(lo, hi, at, out, limit):
    """First of the pieces ``out[at[p]:at[p] + hi[p] - lo[p]]`` not all in ``[0, limit)``, or -1."""
    for p in range(lo.size):
        if first_bad_index(out[at[p] : at[p] + hi[p] - lo[p]], limit) >= 0:
            return p
    return -1


@njit(cache=True, nogil=True)
def find_listed(indices, wanted):
    """Positions of the entries of `indices` that are wanted.

    Parameters
    ----------
    indices : (n,) integer array
        Minor indices, in range of `wanted`.
    wanted : (n_minor,) uint8 array
        1 where the minor index is wanted.

    Returns
    -------
    (k,) int64 array
        Ascending.
    """
    count = 0
    for i in range(indices.size):
        count += np.int64(wanted[indices[i]])
    # One slot more: the loop below always writes, and only then decides to keep.
    found = np.empty(count + 1, np.int64)
    k = 0
    for i in range(indices.size):
        found[k] = i
        k += np.int64(wanted[indices[i]])
    return found[:count]


@njit(cache=True, nogil=True)
def find_points(indptr, indices, point_ptr, point_minor):
    """Positions of the stored entries that a list of (row, minor index) points asks for.

    Parameters
    ----------
    indptr, indices : integer arrays
        A compressed block of k rows.
    point_ptr : (k + 1,) int64 array
        The points of row i are ``point_minor[point_ptr[i]:point_ptr[i + 1]]``, ascending.
    point_minor : (m,) int64 array

    Returns
    -------
    (n,) int64 array
        Ascending; duplicated entries are all there.
    """
    found = np.empty(indices.size, np.int64)
    n = 0
    for row in range(indptr.size - 1):
        lo, hi = point_ptr[row], point_ptr[row + 1]
        if lo == hi:
            continue
        points = point_minor[lo:hi]
        for i in range(indptr[row], indptr[row + 1]):
            at = np.searchsorted(points, np.int64(indices[i]))
            if at < points.size and points[at] == indices[i]:
                found[n] = i
                n += 1
    return found[:n]
