"""scaleoffset (6): fixed-width codes, so any element is read without the others.

HDF5 itself has it, and it is lossless for integers. The layout is told in `scaleoffset_codes`.
"""

import numpy as np
from numpy.typing import NDArray

from .codec import Bytes, Cd, Codec, Pipeline, Preset
from .data import need, number
from .scaleoffset_codes import ScaleOffset, encode, gather_codes

__all__ = ["CODEC"]

_WHOLE = np.zeros(1, np.int64)
_OF_FLOATS, _OF_INTEGERS = 0, 2
#: Whole floating numbers up to here are surely kept: differences to the smallest of a chunk are
#: stored, and float32 counts by one up to twice this.
_LARGEST = 1 << 23


def gather(
    data: Bytes, cd: Cd, count: int, lo: NDArray, hi: NDArray, at: NDArray, out: NDArray
) -> None:
    """Write the elements ``lo[k]:hi[k]`` to ``out[at[k]:]``, native; no other is decoded."""
    so = ScaleOffset(cd)
    raw = out.view(f"u{so.size}")
    if so.is_identity:
        need(data.size == so.chunk * so.size, f"{data.size} bytes, not {so.chunk * so.size}")
        values = data.view(f"{'>' if so.is_big else '<'}u{so.size}")
        return _copy_ranges(values, lo, hi, at, raw)
    bits, length = number(data, 0, 4), min(number(data, 4, 1), 8)
    minimum = number(data, 5, length)
    need(bits <= so.full, f"claims {bits} bits for elements of {so.full}")
    least = so.header + (so.chunk * bits + 7) // 8
    need(data.size >= least, f"{data.size} bytes, {bits} bits an element need {least}")
    payload = data[so.header :]
    if bits == so.full:  # not packed, and in the byte order of the machine that wrote it
        payload = payload[: so.chunk * so.size]
        return _copy_ranges(payload.view(f"<u{so.size}"), lo, hi, at, raw)
    if bits == 0:  # every code is 0, which is the highest: the fill value, where there is one
        value = minimum if so.fill is None else so.fill
        return _copy_ranges(np.broadcast_to(so.scalar(value), so.chunk), lo, hi, at, out)
    return gather_codes(so, payload, bits, minimum, lo, hi, at, out)


def _copy_ranges(values: NDArray, lo: NDArray, hi: NDArray, at: NDArray, out: NDArray) -> None:
    for first, last, to in zip(lo, hi, at, strict=True):
        out[to : to + last - first] = values[first:last]


def decode(data: Bytes, cd: Cd, dest: Bytes) -> Bytes:
    so = ScaleOffset(cd)
    size = so.chunk * so.size
    need(size <= dest.size, f"holds {size} bytes, of at most {dest.size}")
    out = dest[:size].view(so.kind)
    gather(data, cd, so.chunk, _WHOLE, np.array([so.chunk], np.int64), _WHOLE, out)
    if so.is_big:
        out.byteswap(inplace=True)
    return dest[:size]


def refuse(cd: Cd, pipeline: Pipeline, length: int | None) -> str | None:
    dtype = pipeline.dtype
    if length != pipeline.nbytes:
        return "scaleoffset after a filter that changes the length"
    so = ScaleOffset(cd)
    is_big = dtype.byteorder == ">"
    expected = (dtype.kind == "f", dtype.kind == "i", dtype.itemsize, pipeline.chunk)
    found = (so.is_float, so.is_signed and not so.is_float, so.size, so.chunk)
    known = so.kind in ("f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8")
    if not known or expected != found or (so.size > 1 and so.is_big != is_big):
        return f"scaleoffset with parameters of another type, {cd}"
    wanted = _OF_FLOATS if so.is_float else _OF_INTEGERS
    if cd[0] != wanted or (not so.is_float and so.factor > so.full):
        return f"scaleoffset of type {cd[0]} and factor {so.factor}"
    if so.is_float and not -300 <= so.factor <= 300:
        return f"scaleoffset with the decimal factor {so.factor}"
    return None


def rounds(values: NDArray) -> str | None:
    if values.dtype.kind != "f" or np.all(
        (np.abs(values) <= _LARGEST) & (values == np.rint(values))
    ):
        return None
    return f"stores whole numbers up to {_LARGEST} only, and would round other values"


CODEC = Codec(
    id=6,
    name="scaleoffset",
    decode=decode,
    encode=encode,
    gather=gather,
    parameters=8,
    refuse=refuse,
    renew=lambda cd, dtype, chunk: cd[:2],
    rounds=rounds,
    preset=Preset(
        name="scaleoffset",
        client_data=lambda dtype, chunk, level: (
            _OF_FLOATS if dtype.kind == "f" else _OF_INTEGERS,
            0,
        ),
        before_shuffle=True,
        stores=lambda dtype: dtype.kind in "iuf" and dtype.itemsize <= 8,
    ),
)
