"""The checksum of HDF5's fletcher32 filter.

With ``NUMBA_DISABLE_JIT=1`` it runs as plain Python, so no 64-bit sum may overflow: numpy scalars
would warn.
"""

import numpy as np
from numba import njit

__all__ = ["checksum"]

_U = np.uint64
_U32 = np.uint32
_8, _16, _8_32 = _U(8), _U(16), _U32(8)


@njit(cache=True, nogil=True)
def checksum(data):
    """Return the checksum of HDF5's fletcher32 filter, as an int.

    Source: Fletcher's two sums, modulo 65535, over big-endian 16-bit words; a last odd byte counts
    as the high half of a word. As in HDF5, a sum that is a multiple of 65535 is written as 65535
    unless every word was zero.
    """
    words = data.size // 2
    sum1, sum2 = _U(0), _U(0)
    anything = False
    start = 0
    while start < words:
        n = min(360, words - start)  # 32-bit sums of 360 words cannot overflow
        part = data[2 * start : 2 * start + 2 * n]
        part1, part2 = _U32(0), _U32(0)
        for i in range(n):
            word = _U32(part[2 * i]) << _8_32 | _U32(part[2 * i + 1])
            part1 = _U32(part1 + word)
            part2 = _U32(part2 + _U32(word * _U32(n - i)))
        sum2 = (sum2 + _U(n) * sum1 + _U(part2)) % _U(65535)
        sum1 = (sum1 + _U(part1)) % _U(65535)
        anything = anything or part1 != 0
        start += n
    if data.size % 2:
        word64 = _U(data[data.size - 1]) << _8
        sum1 = (sum1 + word64) % _U(65535)
        sum2 = (sum2 + sum1) % _U(65535)
        anything = anything or word64 != 0
    if anything and sum1 == 0:
        sum1 = _U(65535)
    if anything and sum2 == 0:
        sum2 = _U(65535)
    return sum2 << _16 | sum1
