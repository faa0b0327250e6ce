"""Byte planes and bit planes: what the shuffle and bitshuffle filters make of elements.

A *gather* kernel takes the ranges ``lo[k]:hi[k]`` of a chunk (elements) and writes them to ``out``
from element ``at[k]`` on; a whole chunk is one range. Arrays called ``data`` and ``planes`` are
uint8, the machine is little-endian. Kernels trust the lengths of their arrays and the ranges, which
their callers in `diskcsr.storage.codecs` check. With ``NUMBA_DISABLE_JIT=1`` they run as plain
Python, so no 64-bit sum may overflow: numpy scalars would warn.
"""

import numpy as np

from .caching import njit

__all__ = [
    "gather_2",
    "gather_4",
    "gather_8",
    "join_bits",
    "split",
]

# Signed indices may be negative, which costs a test per access and keeps loops from vectorising.
# So indices here are unsigned, or run from 0 over a slice.
_U = np.uint64
_U32 = np.uint32
_7, _14, _28, _32, _255 = _U(7), _U(14), _U(28), _U(32), _U(255)
_8_32, _16_32, _24_32 = _U32(8), _U32(16), _U32(24)

# Shuffle: plane b holds byte b of every element, `count` bytes. One kernel per element size,
# because the loops vectorise only when the planes are spelled out (20-40 GB/s against 1).


@njit(cache=True, nogil=True)
def _join(p0, p1, p2, p3, i):
    """Return the 32-bit number that has byte i of each of the planes, `p0` lowest."""
    low = _U32(p0[i]) | _U32(p1[i]) << _8_32
    return low | _U32(p2[i]) << _16_32 | _U32(p3[i]) << _24_32


@njit(cache=True, nogil=True)
def gather_2(planes, count, lo, hi, at, out):
    """Gather ranges of 2-byte elements (`out` is uint16) from byte planes."""
    for k in range(lo.size):
        first, n = lo[k], hi[k] - lo[k]
        target = out[at[k] : at[k] + n]
        p0 = planes[first : first + n]
        p1 = planes[count + first : count + first + n]
        for i in range(n):
            target[i] = _U32(p0[i]) | _U32(p1[i]) << _8_32


@njit(cache=True, nogil=True)
def gather_4(planes, count, lo, hi, at, out):
    """Gather ranges of 4-byte elements (`out` is uint32) from byte planes."""
    for k in range(lo.size):
        first, n = lo[k], hi[k] - lo[k]
        target = out[at[k] : at[k] + n]
        p0 = planes[first : first + n]
        p1 = planes[count + first : count + first + n]
        p2 = planes[2 * count + first : 2 * count + first + n]
        p3 = planes[3 * count + first : 3 * count + first + n]
        for i in range(n):
            target[i] = _join(p0, p1, p2, p3, i)


@njit(cache=True, nogil=True)
def gather_8(planes, count, lo, hi, at, out):
    """Gather ranges of 8-byte elements (`out` is uint64) from byte planes."""
    for k in range(lo.size):
        first, n = lo[k], hi[k] - lo[k]
        target = out[at[k] : at[k] + n]
        p0 = planes[first : first + n]
        p1 = planes[count + first : count + first + n]
        p2 = planes[2 * count + first : 2 * count + first + n]
        p3 = planes[3 * count + first : 3 * count + first + n]
        p4 = planes[4 * count + first : 4 * count + first + n]
        p5 = planes[5 * count + first : 5 * count + first + n]
        p6 = planes[6 * count + first : 6 * count + first + n]
        p7 = planes[7 * count + first : 7 * count + first + n]
        for i in range(n):
            low = _join(p0, p1, p2, p3, i)
            high = _join(p4, p5, p6, p7, i)
            target[i] = _U(low) | _U(high) << _32


@njit(cache=True, nogil=True)
def split(values, planes):
    """Write the byte planes of unsigned `values`: what the shuffle filter stores."""
    n = values.size
    for b in range(values.itemsize):
        plane = planes[b * n : (b + 1) * n]
        shift = _U(8 * b)
        for i in range(n):
            plane[i] = (_U(values[i]) >> shift) & _255


@njit(cache=True, nogil=True)
def join_bits(data, size, block, count, planes):
    """Turn the bit planes of bitshuffle into the byte planes of shuffle.

    Source of the format: the bitshuffle library. Inside a block of n elements, bit k of byte b of
    all of them fills row ``8 b + k``, n/8 bytes, first element in the lowest bit.

    Parameters
    ----------
    data : (stored * size,) uint8 array
        Whole blocks of `block` elements and perhaps one shorter; `stored` is a multiple of 8.
    size : int
        Bytes per element.
    block : int
        Elements per block, a multiple of 8.
    count : int
        Elements per byte plane, at least `stored`; what lies beyond `stored` is not written.
    planes : (count * size,) uint8 array
        Receives the byte planes.
    """
    stored = data.size // size
    words = np.empty(block // 8, np.uint64)
    for start in range(0, stored, block):
        n = min(block, stored - start)
        width = n // 8
        for b in range(size):
            row = start * size + 8 * b * width
            r0 = data[row : row + width]
            r1 = data[row + width : row + 2 * width]
            r2 = data[row + 2 * width : row + 3 * width]
            r3 = data[row + 3 * width : row + 4 * width]
            r4 = data[row + 4 * width : row + 5 * width]
            r5 = data[row + 5 * width : row + 6 * width]
            r6 = data[row + 6 * width : row + 7 * width]
            r7 = data[row + 7 * width : row + 8 * width]
            for g in range(width):  # one byte of each of 8 elements, bit by bit
                low = _join(r0, r1, r2, r3, g)
                high = _join(r4, r5, r6, r7, g)
                words[g] = _U(low) | _U(high) << _32
            for g in range(width):
                # Transpose 8 x 8 bits: swap bits, pairs, then quarters across the diagonal.
                x = words[g]
                t = (x ^ (x >> _7)) & _U(0x00AA00AA00AA00AA)
                x ^= t ^ (t << _7)
                t = (x ^ (x >> _14)) & _U(0x0000CCCC0000CCCC)
                x ^= t ^ (t << _14)
                t = (x ^ (x >> _28)) & _U(0x00000000F0F0F0F0)
                words[g] = x ^ t ^ (t << _28)
            source = words[:width].view(np.uint8)
            target = planes[b * count + start : b * count + start + n]
            for i in range(n):  # four times as fast as one assignment
                target[i] = source[i]
