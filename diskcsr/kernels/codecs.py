"""Kernels that undo and apply the HDF5 filters for which no library is needed.

All are ``nogil`` (they run in a thread pool) and cached on disk. With ``NUMBA_DISABLE_JIT=1`` they
run as plain Python, so no 64-bit sum here may overflow: numpy scalars would warn.

Kernels trust the lengths of their arrays and the ranges ``lo``, ``hi``, ``at``; the callers in
`diskcsr.storage.codecs.pipeline` check those. They do not trust the bytes.

A *gather* kernel takes the ranges ``lo[k]:hi[k]`` of a chunk (elements) and writes them to ``out``
from element ``at[k]`` on; a whole chunk is one range. Arrays called ``data``, ``planes`` and
``payload`` are uint8. The machine is little-endian.
"""

import numpy as np
from numba import njit

__all__ = [
    "BEFORE_START",
    "TOO_LONG",
    "TRUNCATED",
    "fletcher32",
    "gather_floats",
    "gather_integers",
    "gather_planes_2",
    "gather_planes_4",
    "gather_planes_8",
    "join_bit_planes",
    "lzf_compress",
    "lzf_decompress",
    "pack_codes",
    "split_planes",
]

# What lzf_decompress returns instead of a length.
TRUNCATED, TOO_LONG, BEFORE_START = -1, -2, -3

# Signed indices may be negative, which costs a test per access and keeps loops from vectorising.
# So indices here are unsigned, or run from 0 over a slice.
_U = np.uint64
_U32 = np.uint32
_1, _2, _3, _5, _7, _8 = _U(1), _U(2), _U(3), _U(5), _U(7), _U(8)
_14, _16, _24, _28, _31, _32 = _U(14), _U(16), _U(24), _U(28), _U(31), _U(32)
_40, _48, _56, _64, _255 = _U(40), _U(48), _U(56), _U(64), _U(255)
_8_32, _16_32, _24_32 = _U32(8), _U32(16), _U32(24)

_BLOCK = 1024  # codes unpacked at a time: they stay in the first-level cache


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


# Shuffle: plane b holds byte b of every element, `count` bytes. One kernel per element size,
# because the loops vectorise only when the planes are spelled out (20-40 GB/s against 1).


@njit(cache=True, nogil=True)
def _join(p0, p1, p2, p3, i):
    """Return the 32-bit number that has byte i of each of the planes, `p0` lowest."""
    low = _U32(p0[i]) | _U32(p1[i]) << _8_32
    return low | _U32(p2[i]) << _16_32 | _U32(p3[i]) << _24_32


@njit(cache=True, nogil=True)
def gather_planes_2(planes, count, lo, hi, at, out):
    """Gather ranges of 2-byte elements (`out` is uint16) from byte planes."""
    for k in range(lo.size):
        first, n = lo[k], hi[k] - lo[k]
        target = out[at[k] : at[k] + n]
        p0 = planes[first : first + n]
        p1 = planes[count + first : count + first + n]
        for i in range(n):
            target[i] = _U32(p0[i]) | _U32(p1[i]) << _8_32


@njit(cache=True, nogil=True)
def gather_planes_4(planes, count, lo, hi, at, out):
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
def gather_planes_8(planes, count, lo, hi, at, out):
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
def split_planes(values, planes):
    """Write the byte planes of unsigned `values`: what the shuffle filter stores."""
    n = values.size
    for b in range(values.itemsize):
        plane = planes[b * n : (b + 1) * n]
        shift = _U(8 * b)
        for i in range(n):
            plane[i] = (_U(values[i]) >> shift) & _255


@njit(cache=True, nogil=True)
def join_bit_planes(data, size, block, count, planes):
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


@njit(cache=True, nogil=True)
def fletcher32(data):
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
        piece = data[2 * start : 2 * start + 2 * n]
        part1, part2 = _U32(0), _U32(0)
        for i in range(n):
            word = _U32(piece[2 * i]) << _8_32 | _U32(piece[2 * i + 1])
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


@njit(cache=True, nogil=True)
def lzf_decompress(data, out):  # noqa: C901  (split into functions it runs at half the speed)
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
def lzf_compress(data, out):
    """Encode `data` as a bare LZF stream (see `lzf_decompress`) and return its length.

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


# Scale-offset: element i is the `bits` bits from bit ``i * bits`` on, highest first.


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
