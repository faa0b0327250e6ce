"""Kernels of the row fetch: read ranges with pread, scatter, check, filter.

All are ``nogil`` (they run in a thread pool) and cached on disk. With ``NUMBA_DISABLE_JIT=1`` they
run as plain Python.
"""

import ctypes
import os

import numpy as np
from numba import config, types

from . import _VECTOR, CHARGE_SHIFT, MAY_ENTER, MAY_WAIT, WAS_READ, WINDOW_SHIFT
from .caching import njit

__all__ = [
    "OUT_OF_RANGE",
    "SHORT_FILE",
    "advise",
    "first_bad_index",
    "first_bad_piece",
    "find_listed",
    "find_points",
    "first_above",
    "gather",
    "gather_indices",
    "scatter",
]

# Outcomes of the gather kernels; 0 is success.
SHORT_FILE, OUT_OF_RANGE = 1, 2

_libc = ctypes.CDLL(None)
# Linux with glibc, or a recent musl, reads what is in memory alone (preadv2(2), RWF_NOWAIT).
_CAN_ASK = hasattr(_libc, "preadv2") and hasattr(os, "RWF_NOWAIT")
_CAN_ADVISE = hasattr(_libc, "posix_fadvise")
_NOWAIT = getattr(os, "RWF_NOWAIT", 0)

if config.DISABLE_JIT:
    _libc.pread.restype = ctypes.c_ssize_t
    _libc.pread.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int64]

    if _CAN_ASK:
        _libc.preadv2.restype = ctypes.c_ssize_t
        _libc.preadv2.argtypes = [
            ctypes.c_int,
            ctypes.c_void_p,
            ctypes.c_int,
            ctypes.c_int64,
            ctypes.c_int,
        ]

    # ctypes takes Python's own integers as addresses, not numpy's.
    def _pread(*arguments):
        return _libc.pread(*map(int, arguments))

    def _preadv2(*arguments):
        return _libc.preadv2(*map(int, arguments))

    def _memcpy(*arguments):
        ctypes.memmove(*map(int, arguments))

    _fadvise = os.posix_fadvise if hasattr(os, "posix_fadvise") else None
else:
    # libc itself, called from compiled code. Addresses travel as integers: the same register on
    # every 64-bit ABI, and what ``array.ctypes.data`` gives.
    _pread = types.ExternalFunction(
        "pread", types.intp(types.int32, types.intp, types.intp, types.int64)
    )
    _preadv2 = types.ExternalFunction(
        "preadv2", types.intp(types.int32, types.intp, types.int32, types.int64, types.int32)
    )
    _memcpy = types.ExternalFunction("memcpy", types.intp(types.intp, types.intp, types.intp))
    _fadvise = types.ExternalFunction(
        "posix_fadvise", types.int32(types.int32, types.int64, types.int64, types.int32)
    )


@njit(cache=True, nogil=True)
def first_above(ascending, value):
    """Return the place of the first entry that is greater than a value; the size if none is.

    As ``numpy.searchsorted(ascending, value, side="right")``, for which numba fills an array.
    """
    low, high = 0, ascending.size
    while low < high:
        middle = (low + high) // 2
        if ascending[middle] <= value:
            low = middle + 1
        else:
            high = middle
    return low


@njit(cache=True, nogil=True)
def _is_warm(file, offset, size):
    """Whether ``size`` bytes of a file are mapped, and all their blocks were read before."""
    _, window, mapped, warm, _, _ = file
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
    e = first_above(start, lo) - 1
    begin = offset[e] + (lo - start[e]) * itemsize
    if hi > start[e + 1] or not _is_warm(file, begin, (hi - lo) * itemsize):
        return 0
    return file[1] + begin


if _CAN_ASK:

    @njit(cache=True, nogil=True)
    def _read_at_hand(file, address, size, offset):
        """Read what of some bytes is in memory, and return how many; 0 or less for none."""
        fd, ledger = file[0], file[5]
        ledger[_VECTOR] = address
        ledger[_VECTOR + 1] = size
        return _preadv2(fd, ledger.ctypes.data + 8 * _VECTOR, 1, offset, _NOWAIT)

else:

    @njit(cache=True, nogil=True)
    def _read_at_hand(file, address, size, offset):
        """There is no telling what is in memory."""
        return 0


@njit(cache=True, nogil=True)
def _copy_bytes(file, offset, size, address):
    """Copy ``size`` bytes of a file to a memory address; False when they cannot be had.

    A block of ``1 << WINDOW_SHIFT`` bytes that was entered before is copied from the map: its pages
    are in memory, so that costs no system call. The rest is read, which many threads can do at
    once.
    """
    fd, window, mapped, _, _, ledger = file
    if _is_warm(file, offset, size):
        _memcpy(address, window + offset, size)
        return True
    done = 0
    while done < size:
        if ledger[MAY_WAIT]:
            n = _pread(fd, address + done, size - done, offset + done)
        else:
            n = _read_at_hand(file, address + done, size - done, offset + done)
        if n <= 0:
            return False
        done += n
    ledger[WAS_READ] += size
    if window != 0 and offset >= 0 and offset + size <= mapped:
        _enter(file, offset, size)
    return True


@njit(cache=True, nogil=True)
def _enter(file, offset, size):
    """Enter the blocks of bytes just read into the page table, as far as the ledger allows.

    Touching the map now, when the pages are surely in memory, has the kernel enter all pages of a
    block at once; the byte goes where the mark goes.
    """
    _, window, _, warm, charged, ledger = file
    marks = np.int64(warm.ctypes.data)
    for block in range(offset >> WINDOW_SHIFT, ((offset + size - 1) >> WINDOW_SHIFT) + 1):
        if warm[block]:
            continue
        charge = block >> (CHARGE_SHIFT - WINDOW_SHIFT)
        if charged[charge] == 0:
            if ledger[MAY_ENTER] <= 0:
                continue
            ledger[MAY_ENTER] -= 1
            charged[charge] = 1
        _memcpy(marks + block, window + max(offset, block << WINDOW_SHIFT), 1)
        warm[block] = 1


@njit(cache=True, nogil=True)
def _read(file, extents, itemsize, lo, hi, address):
    """Read elements ``lo:hi`` to a memory address; False when they cannot be had."""
    start, offset = extents
    e = first_above(start, lo) - 1
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
    """Have the kernel begin to read the ranges that are not mapped, all at once.

    A disk serves many requests at a time; reading the ranges one by one would wait for each
    (posix_fadvise, POSIX_FADV_WILLNEED = 3).
    """
    fd, _, _, warm, _, _ = file
    start, offset = extents
    for r in range(range_lo.size):
        e = first_above(start, range_lo[r]) - 1
        begin = offset[e] + (range_lo[r] - start[e]) * itemsize
        size = (min(range_hi[r], start[e + 1]) - range_lo[r]) * itemsize
        block = begin >> WINDOW_SHIFT
        if block >= warm.size or warm[block] == 0:
            _fadvise(fd, begin, size, 3)


@njit(cache=True, nogil=True)
def _may_wait_now(file, extents, itemsize, range_lo, range_hi):
    """From now on wait for the disk, which is told of what is to come; False when it was before."""
    ledger = file[5]
    if ledger[MAY_WAIT]:
        return False
    ledger[MAY_WAIT] = 1
    if _CAN_ADVISE:
        advise(file, extents, itemsize, range_lo, range_hi)
    return True


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
    file : (int, int, int, uint8 array, uint8 array, int64 array)
        Descriptor; address and size of a map of the file (0 and 0 without); which blocks of
        ``1 << WINDOW_SHIFT`` bytes of it are in the page table, and which of ``1 << CHARGE_SHIFT``
        bytes were charged for; the ledger, see `diskcsr.kernels.LEDGER`. The last three are
        updated.
    extents : (e + 1,) int64 array, (e,) int64 array
        First element of each extent in the file, and at the end the
        length of the dataset; where each run begins in the file, in bytes.
    itemsize : int
        Bytes an element.
    plan : tuple of six int64 arrays
        As `diskcsr.kernels.ranges.plan_ranges` gives it.
    out : (n * itemsize,) uint8 array
        The result, written in place.

    Returns
    -------
    status, position : int
        0, or `SHORT_FILE` and the first element of the range that could not be read.

    Notes
    -----
    While all that is wanted is in memory, the disk is not heard of. The first range that is not has
    it told of all the rest.
    """
    range_lo, range_hi = plan[:2]
    scratch = _scratch(plan, first, last, itemsize)
    address = np.int64(out.ctypes.data)
    r = first
    while r < last:
        if _gather_range(file, extents, itemsize, plan, r, scratch, address):
            r += 1
        elif not _may_wait_now(file, extents, itemsize, range_lo[r:last], range_hi[r:last]):
            return SHORT_FILE, range_lo[r]
    return 0, 0


@njit(cache=True, nogil=True)
def gather_indices(file, extents, plan, first, last, out, limit):
    """`gather` for indices: each is also checked to lie in ``[0, limit)``, while still in cache.

    `out` is the typed int32 or int64 result. Returns also ``(OUT_OF_RANGE, position)``.
    """
    range_lo, range_hi, range_ptr, piece_lo, piece_hi, piece_dst = plan
    itemsize = out.itemsize
    scratch = _scratch(plan, first, last, itemsize)
    address = np.int64(out.ctypes.data)
    r = first
    while r < last:
        if not _gather_range(file, extents, itemsize, plan, r, scratch, address):
            if _may_wait_now(file, extents, itemsize, range_lo[r:last], range_hi[r:last]):
                continue
            return SHORT_FILE, range_lo[r]
        for p in range(range_ptr[r], range_ptr[r + 1]):
            start = piece_dst[p]
            if first_bad_index(out[start : start + piece_hi[p] - piece_lo[p]], limit) >= 0:
                return OUT_OF_RANGE, range_lo[r]
        r += 1
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
    first = first_above(piece_hi, block_lo)
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
def find_listed(indices, indptr, places):
    """Find the entries of a block whose minor indices are wanted.

    Parameters
    ----------
    indices, indptr : integer arrays
        Of the block; minor indices in range of `places`.
    places : (n_minor,) int32 array
        The place of each minor index among those wanted, counted from 1; 0 where it is not.

    Returns
    -------
    found : (k,) int64 array
        Positions, ascending.
    kept : (k,) array
        Their places, counted from 0.
    starts : array, as `indptr`
    """
    starts, count, last = np.zeros_like(indptr), 0, np.uint64(places.size - 1)
    for line in range(indptr.size - 1):
        for i in range(np.uint64(indptr[line]), np.uint64(indptr[line + 1])):
            count += places[min(np.uint64(indices[i]), last)] > 0
        starts[line + 1] = count
    # One slot more: the loop always writes, and only then decides to keep. A file may have been
    # written to since: then what it gives is of no use, but stays in its place.
    found, kept = np.zeros(count + 1, np.int64), np.zeros(count + 1, indices.dtype)
    k, most = np.uint64(0), np.uint64(count)
    for i in range(indices.size):
        place = places[min(np.uint64(indices[i]), last)]
        found[k], kept[k] = i, max(place, 1) - 1
        k = min(most, k + np.uint64(place > 0))
    return found[:count], kept[:count], starts


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
            at = first_above(points, np.int64(indices[i])) - 1
            if at >= 0 and points[at] == indices[i]:
                found[n] = i
                n += 1
    return found[:n]
