"""Codes of a fixed width, as HDF5's scaleoffset filter packs them.

Element i is the `bits` bits from bit ``i * bits`` on, highest first. A *gather* kernel takes the
ranges ``lo[k]:hi[k]`` of a chunk (elements) and writes them to ``out`` from element ``at[k]`` on; a
whole chunk is one range. ``payload`` is uint8, the machine is little-endian. Kernels trust the
lengths of their arrays and the ranges, which their callers in `diskcsr.storage.codecs` check. With
``NUMBA_DISABLE_JIT=1`` they run as plain Python, so no 64-bit sum may overflow: numpy scalars would
warn.
"""

import numpy as np

from .caching import njit

__all__ = ["gather_floats", "gather_integers", "pack_codes"]

# Signed indices may be negative, which costs a test per access and keeps loops from vectorising.
# So indices here are unsigned, or run from 0 over a slice.
_U = np.uint64
_1, _2, _3, _5, _7, _8 = _U(1), _U(2), _U(3), _U(5), _U(7), _U(8)
_16, _24, _32 = _U(16), _U(24), _U(32)
_40, _48, _56, _64, _255 = _U(40), _U(48), _U(56), _U(64), _U(255)

_BLOCK = 1024  # codes unpacked at a time: they stay in the first-level cache


@njit(cache=True, nogil=True)
def _load8_big(data, i):
    """Return the 8 bytes from `i` on as a big-endian number."""
    return (
        _U(data[i]) << _56
        | _U(data[i + _1]) << _48
        | _U(data[i + _2]) << _40
        | _U(data[i + _3]) << _32
        | _U(data[i + _U(4)]) << _24
        | _U(data[i + _5]) << _16
        | _U(data[i + _U(6)]) << _8
        | _U(data[i + _7])
    )


@njit(cache=True, nogil=True)
def _window_near_end(payload, byte, skip):
    """Return 64 bits from bit `skip` of `byte` on; what lies beyond the payload is zero."""
    window = _U(0)
    for j in range(9):
        place = byte + _U(j)
        if place < _U(payload.size):
            up = 56 - 8 * j + np.int64(skip)  # its lowest bit in the window
            value = _U(payload[place])
            window |= value << _U(up) if up >= 0 else value >> _U(-up)
    return window


@njit(cache=True, nogil=True)
def _unpack(payload, bits, first, codes):
    """Fill `codes` (uint64) with the codes of the elements from `first` on."""
    down = _64 - bits
    n = codes.size
    # Elements whose eight (nine) bytes all lie in the payload need no care.
    last_bit = 8 * (payload.size - 9) + 7
    inside = min(n, max(0, last_bit // np.int64(bits) - first + 1)) if last_bit >= 0 else 0
    begin = _U(first) * bits
    if bits <= _U(57):
        for i in range(inside):
            bit = begin + _U(i) * bits
            codes[i] = _load8_big(payload, bit >> _3) << (bit & _7) >> down
    else:
        for i in range(inside):
            bit = begin + _U(i) * bits
            byte, skip = bit >> _3, bit & _7
            codes[i] = (
                _load8_big(payload, byte) << skip | _U(payload[byte + _8]) >> (_8 - skip)
            ) >> down
    for i in range(inside, n):
        bit = begin + _U(i) * bits
        codes[i] = _window_near_end(payload, bit >> _3, bit & _7) >> down


@njit(cache=True, nogil=True)
def gather_integers(payload, bits, lo, hi, at, minimum, fill_code, fill, out):
    """Gather ranges of integers that HDF5's scaleoffset filter packed.

    Parameters
    ----------
    payload : uint8 array
        The packed codes: all of the chunk, ``ceil(chunk * bits / 8)`` bytes or more.
    bits : np.uint64
        Bits per code, 1 to 63.
    lo, hi, at : (k,) int64 array
    minimum, fill : np.uint64
        What is added to a code, and what `fill_code` stands for, modulo 2**64.
    fill_code : np.uint64
        ``2**64 - 1`` when no fill value is defined (no code is as large).
    out : unsigned array
        Receives the values modulo ``2**(8 * itemsize)``.
    """
    # code + minimum modulo 2**64, by a sum that never overflows
    negated = ~minimum + _1 if minimum != _U(0) else minimum
    mask = _U(0xFFFFFFFFFFFFFFFF) >> _U(64 - 8 * out.itemsize)
    buffer = np.empty(_BLOCK, np.uint64)
    for k in range(lo.size):
        for first in range(lo[k], hi[k], _BLOCK):
            n = min(_BLOCK, hi[k] - first)
            codes = buffer[:n]
            _unpack(payload, bits, first, codes)
            start = at[k] + first - lo[k]
            target = out[start : start + n]
            for i in range(n):
                code = codes[i]
                value = code - negated if code >= negated else code + minimum
                target[i] = (fill if code == fill_code else value) & mask


@njit(cache=True, nogil=True)
def gather_floats(payload, bits, lo, hi, at, minimum, scale, fill_code, fill, out):
    """Gather ranges of floats that scaleoffset packed: ``code / scale + minimum``.

    `minimum`, `scale` and `fill` are scalars of the type of `out` (float32 or float64), and the
    arithmetic is of that type, as in HDF5; the rest is as in `gather_integers`.
    """
    buffer = np.empty(_BLOCK, np.uint64)
    for k in range(lo.size):
        for first in range(lo[k], hi[k], _BLOCK):
            n = min(_BLOCK, hi[k] - first)
            codes = buffer[:n]
            _unpack(payload, bits, first, codes)
            start = at[k] + first - lo[k]
            target = out[start : start + n]
            for i in range(n):
                target[i] = codes[i]
            for i in range(n):
                value = target[i] / scale + minimum
                target[i] = fill if codes[i] == fill_code else value


@njit(cache=True, nogil=True)
def pack_codes(codes, bits, payload):
    """Write uint64 `codes` back to back, their `bits` (1 to 63) low bits each, highest first.

    `payload` holds ``ceil(codes.size * bits / 8)`` bytes or more; the rest is left alone.
    """
    o = 0
    pending, held = _U(0), _U(0)  # bits not yet written, and how many (under 8 between codes)
    for i in range(codes.size):
        for part in range(2):  # the bits above the lowest 32, then those: 39 fit in `pending`
            if part == 0:
                if bits <= _32:
                    continue
                width, value = bits - _32, codes[i] >> _32
            else:
                width, value = min(bits, _32), codes[i]
            pending = pending << width | value & ((_1 << width) - _1)
            held += width
            while held >= _8:
                held -= _8
                payload[o] = (pending >> held) & _255
                o += 1
            pending &= (_1 << held) - _1
    if held > _U(0):
        payload[o] = pending << (_8 - held) & _255
