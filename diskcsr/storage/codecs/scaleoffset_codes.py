"""What HDF5's scaleoffset filter stores: its parameters, and the codes of elements.

Source of the layout: H5Zscaleoffset.c. A chunk is ``u32 bits``, ``u8`` length of the minimum, the
minimum, zeros up to byte 21 (all little-endian), then the codes of the elements back to back,
`bits` bits each, highest first. An element is its code plus the minimum; where the dataset has a
fill value, the highest code stands for that. Floats are first multiplied by a power of ten and
rounded.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ... import kernels
from .codec import Bytes, Cd

__all__ = ["ScaleOffset", "encode", "gather_codes"]


class ScaleOffset:
    """The parameters of one dataset's filter, from its client data.

    That is: scale type, scale factor, elements of a chunk, class (0 integer, 1 float), element
    size, signed, big-endian, fill value defined, fill value (32-bit words, lowest first).
    """

    header = 21

    def __init__(self, cd: Cd) -> None:
        self.factor = int(np.uint32(cd[1]).view(np.int32))
        self.chunk, self.size = cd[2], cd[4]
        self.is_float, self.is_signed, self.is_big = cd[3] == 1, cd[5] == 1, cd[6] == 1
        self.full = 8 * self.size
        #: An integer filter set to the full width stores the elements as they are, no header.
        self.is_identity = not self.is_float and self.factor == self.full
        self.fill: int | None = None
        if cd[7]:
            words = (*cd[8:10], 0, 0)
            self.fill = (words[0] | words[1] << 32) & ((1 << self.full) - 1)

    @property
    def kind(self) -> str:
        """The dtype of the elements, native."""
        return f"{'f' if self.is_float else 'i' if self.is_signed else 'u'}{self.size}"

    def scale(self) -> Any:
        """Return ``10 ** factor``, rounded to the type of the elements."""
        return np.dtype(self.kind).type(10.0**self.factor)

    def scalar(self, bits: int) -> Any:
        """Return the value of the elements' type that has these bits."""
        mask = (1 << self.full) - 1
        return np.array([bits & mask], np.uint64).astype(f"u{self.size}").view(self.kind)[0]


def gather_codes(
    so: ScaleOffset,
    payload: Bytes,
    bits: int,
    minimum: int,
    lo: NDArray,
    hi: NDArray,
    at: NDArray,
    out: NDArray,
) -> None:
    """Write the elements ``lo[k]:hi[k]`` of a payload to ``out[at[k]:]``; no other is decoded."""
    has_fill = so.fill is not None
    fill_code = np.uint64((1 << bits) - 1 if has_fill else (1 << 64) - 1)
    fill = so.fill or 0
    if so.is_float:
        first, last = so.scalar(minimum), so.scalar(fill)
        kernels.scaleoffset.gather_floats(
            payload, np.uint64(bits), lo, hi, at, first, so.scale(), fill_code, last, out
        )
    else:
        kernels.scaleoffset.gather_integers(
            payload,
            np.uint64(bits),
            lo,
            hi,
            at,
            np.uint64(minimum),
            fill_code,
            np.uint64(fill),
            out.view(f"u{so.size}"),
        )


def encode(data: Bytes, cd: Cd) -> Bytes:
    so = ScaleOffset(cd)
    if so.is_identity:
        return data
    values = data.view(so.kind)
    if so.is_big:
        values = values.byteswap()
    codes, bits, minimum = (_float_codes if so.is_float else _integer_codes)(so, values)
    spare = 1 if bits < so.full else 0  # HDF5 adds a byte to whatever it packs
    out = np.zeros(so.header + data.size * bits // so.full + spare, np.uint8)
    header = bits.to_bytes(4, "little") + b"\x08" + minimum.to_bytes(8, "little")
    out[:13] = np.frombuffer(header, np.uint8)
    if bits == so.full:
        out[so.header : so.header + data.size] = values.view(np.uint8)
    elif bits:
        kernels.scaleoffset.pack_codes(codes, np.uint64(bits), out[so.header :])
    return out


def _integer_codes(so: ScaleOffset, values: NDArray) -> tuple[NDArray, int, int]:
    """Return the codes of the elements, their bits and the minimum (two's complement, 64 bits)."""
    is_fill = None if so.fill is None else values == so.scalar(so.fill)
    real = values if is_fill is None else values[~is_fill]
    low, high = (int(real.min()), int(real.max())) if real.size else (0, 0)
    if so.factor > 0:
        bits = so.factor  # the user's width: what does not fit is cut, as in HDF5
    elif high - low > (1 << so.full) - 3:
        return values, so.full, 0
    else:
        span = high - low + 1 + (is_fill is not None)
        bits = (span - 1).bit_length()
    minimum = low & ((1 << 64) - 1)
    if bits == so.full:
        return values, bits, minimum
    codes = values.astype(np.uint64) - np.array([minimum], np.uint64)
    if is_fill is not None:
        codes[is_fill] = (1 << bits) - 1
    return codes, bits, minimum


def _float_codes(so: ScaleOffset, values: NDArray) -> tuple[NDArray, int, int]:
    """As `_integer_codes`, but the minimum is the bits of the smallest element."""
    if not np.isfinite(values).all():
        raise ValueError("scaleoffset cannot store infinite values or NaN")
    scale = so.scale()
    is_fill = None
    if so.fill is not None:  # what rounds to the fill value is the fill value
        with np.errstate(over="ignore"):
            distance = np.abs(values - so.scalar(so.fill)).astype(np.float64)
        is_fill = distance < 10.0**-so.factor
    real = values if is_fill is None else values[~is_fill]
    low, high = (real.min(), real.max()) if real.size else (values.dtype.type(0),) * 2
    with np.errstate(over="ignore"):
        width = float(_round(high * scale - low * scale))
        if not width <= 2.0 ** (so.full - 1):
            return values, so.full, 0
        bits = (int(width) + (is_fill is not None)).bit_length()
        minimum = int(np.array([low]).view(f"u{so.size}")[0])
        if bits >= so.full:
            return values, so.full, minimum
        codes = _round(values * scale - low * scale)
    if is_fill is not None:
        codes[is_fill] = 0
    codes = codes.astype(np.uint64)
    if is_fill is not None:
        codes[is_fill] = (1 << bits) - 1
    return codes, bits, minimum


def _round(values: Any) -> Any:
    """Round half away from zero, as C's lround does; numpy's rint rounds half to even."""
    whole = np.trunc(values)
    return whole + np.copysign(np.abs(values - whole) >= 0.5, values)
