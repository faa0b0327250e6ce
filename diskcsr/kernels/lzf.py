"""The LZF streams of h5py's filter, decoded and encoded.

Kernels trust the lengths of their arrays, which their callers in `diskcsr.storage.codecs` check.
They do not trust the bytes. Arrays are uint8, the machine is little-endian. With
``NUMBA_DISABLE_JIT=1`` they run as plain Python, so no 64-bit sum may overflow: numpy scalars would
warn.
"""

import numpy as np

from .caching import njit

__all__ = ["BEFORE_START", "TOO_LONG", "TRUNCATED", "compress", "decompress"]

# What decompress returns instead of a length.
TRUNCATED, TOO_LONG, BEFORE_START = -1, -2, -3

# Signed indices may be negative, which costs a test per access and keeps loops from vectorising.
# So indices here are unsigned, or run from 0 over a slice.
_U = np.uint64
_1, _2, _3, _5, _7, _8 = _U(1), _U(2), _U(3), _U(5), _U(7), _U(8)
_16, _24, _31, _32 = _U(16), _U(24), _U(31), _U(32)
_40, _48, _56, _255 = _U(40), _U(48), _U(56), _U(255)


@njit(cache=True, nogil=True)
def _load8(data, i):
    """Return the 8 bytes from `i` on as a little-endian number (compiles to one load)."""
    return (
        _U(data[i])
        | _U(data[i + _1]) << _8
        | _U(data[i + _2]) << _16
        | _U(data[i + _3]) << _24
        | _U(data[i + _U(4)]) << _32
        | _U(data[i + _5]) << _40
        | _U(data[i + _U(6)]) << _48
        | _U(data[i + _7]) << _56
    )


@njit(cache=True, nogil=True)
def _store8(data, i, value):
    """Write `value` to the 8 bytes from `i` on, little-endian (compiles to one store)."""
    data[i] = value & _255
    data[i + _1] = (value >> _8) & _255
    data[i + _2] = (value >> _16) & _255
    data[i + _3] = (value >> _24) & _255
    data[i + _U(4)] = (value >> _32) & _255
    data[i + _5] = (value >> _40) & _255
    data[i + _U(6)] = (value >> _48) & _255
    data[i + _7] = (value >> _56) & _255


@njit(cache=True, nogil=True)
def decompress(data, out):  # noqa: C901  (split into functions it runs at half the speed)
    """Decode a bare LZF stream into `out`.

    Source of the format: liblzf. A byte c below 32 is followed by c + 1 literal bytes; any other
    copies ``(c >> 5) + 2`` bytes (one more length byte follows when ``c >> 5`` is 7) from
    ``((c & 31) << 8) + next byte + 1`` bytes back.

    Returns
    -------
    int
        How many bytes were written, or `TRUNCATED`, `TOO_LONG` (more than `out` holds) or
        `BEFORE_START` (a copy from before the first byte). Bytes of `out` past the returned length
        may have been overwritten.
    """
    stop, room = _U(data.size), _U(out.size)
    i, o = _U(0), _U(0)
    while i < stop:
        c = _U(data[i])
        i += _1
        if c < _32:
            n = c + _1
            if i + n > stop:
                return TRUNCATED
            if o + n > room:
                return TOO_LONG
            if i + n + _8 <= stop and o + n + _8 <= room:
                for j in range(_U(0), n, _8):  # eight at a time may run past n, not past the ends
                    _store8(out, o + j, _load8(data, i + j))
            else:
                for j in range(_U(0), n):
                    out[o + j] = data[i + j]
            i += n
        else:
            n = c >> _5
            if n == _7:
                if i >= stop:
                    return TRUNCATED
                n += _U(data[i])
                i += _1
            n += _2
            if i >= stop:
                return TRUNCATED
            back = ((c & _31) << _8) + _U(data[i]) + _1
            i += _1
            if back > o:
                return BEFORE_START
            if o + n > room:
                return TOO_LONG
            if back >= _8 and o + n + _8 <= room:
                for j in range(_U(0), n, _8):
                    _store8(out, o + j, _load8(out, o - back + j))
            elif back == _1:
                last = out[o - _1]
                for j in range(_U(0), n):
                    out[o + j] = last
            else:  # the copy may overlap itself: byte by byte
                for j in range(_U(0), n):
                    out[o + j] = out[o - back + j]
        o += n
    return np.int64(o)


@njit(cache=True, nogil=True)
def compress(data, out):
    """Encode `data` as a bare LZF stream (see `decompress`) and return its length.

    `out` must hold ``data.size + data.size // 32 + 2`` bytes, the length when nothing repeats.
    """
    size = data.size
    seen = np.full(1 << 14, -1, np.int64)  # where a 3-byte sequence with this hash last began
    i = 0  # read up to here
    o = 1  # out[o - 1 - literals] is the open run's length byte
    literals = 0
    while i < size:
        back, n = 0, 0
        if i + 2 < size:
            key = np.int64(data[i]) << 16 | np.int64(data[i + 1]) << 8 | np.int64(data[i + 2])
            slot = ((key * 2654435761) >> 18) & 0x3FFF
            candidate = seen[slot]
            seen[slot] = i
            if candidate >= 0 and i - candidate <= 8192:
                longest = min(size - i, 264)
                while n < longest and data[candidate + n] == data[i + n]:
                    n += 1
                back = i - candidate - 1
        if n < 3:
            out[o] = data[i]
            i += 1
            o += 1
            literals += 1
            if literals == 32:
                out[o - 33] = 31
                literals = 0
                o += 1
            continue
        if literals:
            out[o - literals - 1] = literals - 1
        else:
            o -= 1  # no run was open: take its length byte back
        if n - 2 < 7:
            out[o] = (n - 2) << 5 | back >> 8
        else:
            out[o] = 7 << 5 | back >> 8
            o += 1
            out[o] = n - 9
        out[o + 1] = back & 255
        o += 3
        literals = 0
        i += n
    if literals:
        out[o - literals - 1] = literals - 1
    else:
        o -= 1
    return o
