"""Plain-Python twins of the kernels of codecs, slow and plainly right, and one chunk at a time.

Arguments are as in ``diskcsr.kernels``; numbers are Python's, bytes are strings of bits where bits
matter.
"""

import numpy as np

from diskcsr.storage.codecs.pipeline import decode_whole, gather_pieces, stages_of


def decode_chunk(raw, mask, pipeline, out=None):
    """Decode a chunk with this filter mask, as a reader does that wants all of it."""
    if out is None:
        out = np.empty(pipeline.chunk, pipeline.native)
    return decode_whole(raw, stages_of(pipeline, mask), pipeline, out)


def gather_chunk(raw, mask, pipeline, lo, hi, at, out):
    """Write the elements ``lo[k]:hi[k]`` of a chunk to ``out[at[k]:]``, as a reader of parts does.

    Of a file nobody is sure, of a plan one can be: ranges lie inside, and are sorted here.
    """
    lo, hi, at = (np.asarray(values, np.int64) for values in (lo, hi, at))
    order = np.argsort(lo, kind="stable")
    gather_pieces(raw, stages_of(pipeline, mask), pipeline, lo[order], hi[order], at[order], out)


def gather_planes(planes, count, lo, hi, at, out):
    size = out.itemsize
    for first, last, to in zip(lo, hi, at, strict=True):
        for i in range(first, last):
            element = bytes(int(planes[b * count + i]) for b in range(size))
            out[to + i - first] = int.from_bytes(element, "little")


def split_planes(values, planes):
    elements = [int(value).to_bytes(values.itemsize, "little") for value in values]
    planes[:] = [element[b] for b in range(values.itemsize) for element in elements]


def join_bit_planes(data, size, block, count, planes):
    bits = "".join(f"{byte:08b}"[::-1] for byte in data.tolist())
    stored = len(data) // size
    for start in range(0, stored, block):
        n = min(block, stored - start)
        rows = bits[8 * start * size : 8 * (start + n) * size]
        for i in range(n):
            element = rows[i::n]  # bit k of row k, for every k
            for b in range(size):
                planes[b * count + start + i] = int(element[8 * b : 8 * b + 8][::-1], 2)


def fletcher32(data):
    padded = bytes(data) + b"\0" * (len(data) % 2)
    sum1 = sum2 = 0
    for i in range(0, len(padded), 2):
        sum1 = _fold(sum1 + int.from_bytes(padded[i : i + 2], "big"))
        sum2 = _fold(sum2 + sum1)
    return sum2 << 16 | sum1


def _fold(value):
    """Reduce modulo 65535 the way HDF5 does: a positive sum never becomes 0."""
    while value > 0xFFFF:
        value = (value & 0xFFFF) + (value >> 16)
    return value


def lzf_decompress(data, room):
    """Return the decoded bytes, or None where the stream is broken or longer than `room`."""
    data, out = bytes(data), bytearray()
    i = 0
    while i < len(data):
        control = data[i]
        if control < 32:
            literal = data[i + 1 : i + control + 2]
            if len(literal) != control + 1:
                return None
            out += literal
            i += control + 2
        else:
            head = 3 if control >> 5 == 7 else 2
            if i + head > len(data):
                return None
            length = (control >> 5) + (data[i + 1] if head == 3 else 0) + 2
            back = (control & 31) * 256 + data[i + head - 1] + 1
            if back > len(out):
                return None
            for _ in range(length):
                out.append(out[-back])
            i += head
        if len(out) > room:
            return None
    return bytes(out)


def codes(payload, bits, chunk):
    """Return the codes of all elements of a scaleoffset payload."""
    text = "".join(f"{byte:08b}" for byte in payload.tolist())
    return [int(text[i * bits : (i + 1) * bits], 2) for i in range(chunk)]


def gather_integers(payload, bits, lo, hi, at, minimum, fill_code, fill, out):
    found = codes(payload, int(bits), max(hi, default=0))
    for first, last, to in zip(lo, hi, at, strict=True):
        for i in range(first, last):
            value = int(fill) if found[i] == fill_code else found[i] + int(minimum)
            out[to + i - first] = value % (1 << 8 * out.itemsize)


def gather_floats(payload, bits, lo, hi, at, minimum, scale, fill_code, fill, out):
    found = codes(payload, int(bits), max(hi, default=0))
    for first, last, to in zip(lo, hi, at, strict=True):
        for i in range(first, last):
            value = out.dtype.type(found[i]) / scale + minimum
            out[to + i - first] = fill if found[i] == fill_code else value


def pack_codes(values, bits, payload):
    text = "".join(f"{int(value) % (1 << bits):0{bits}b}" for value in values)
    text += "0" * (-len(text) % 8)
    payload[: len(text) // 8] = [int(text[i : i + 8], 2) for i in range(0, len(text), 8)]


def unpack_planes(planes, size):
    """Return the elements of byte planes, by numpy."""
    return np.ascontiguousarray(np.reshape(planes, (size, -1)).T).reshape(-1)
