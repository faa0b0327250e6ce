"""shuffle (2): byte planes; bytes past the last whole element follow as they are."""

import numpy as np
from numpy.typing import NDArray

from .codec import Bytes, Cd, Codec, Pipeline
from .data import need
from .planes import KERNEL_SIZES, gather_planes, join_planes, split_planes

__all__ = ["CODEC"]


def decode(data: Bytes, cd: Cd, dest: Bytes) -> Bytes:
    need(data.size <= dest.size, f"{data.size} bytes, more than {dest.size}")
    size = cd[0]
    count = data.size // size
    if size == 1 or count <= 1:
        return data
    whole = count * size
    join_planes(data[:whole], size, dest[:whole])
    dest[whole : data.size] = data[whole:]
    return dest[: data.size]


def encode(data: Bytes, cd: Cd) -> Bytes:
    size = cd[0]
    count = data.size // size
    if size == 1 or count <= 1:
        return data
    whole = count * size
    out = np.empty_like(data)
    split_planes(data[:whole], size, out[:whole])
    out[whole:] = data[whole:]
    return out


def gather(
    data: Bytes, cd: Cd, count: int, lo: NDArray, hi: NDArray, at: NDArray, out: NDArray
) -> None:
    need(data.size == count * cd[0], f"decodes to {data.size} bytes, not {count * cd[0]}")
    gather_planes(data, count, lo, hi, at, out.view(f"u{cd[0]}"))


def gathers(cd: Cd, dtype: np.dtype) -> bool:
    """Whether what is stored are the byte planes of whole elements."""
    return cd[0] == dtype.itemsize and cd[0] in KERNEL_SIZES and dtype.isnative


def refuse(cd: Cd, pipeline: Pipeline, length: int | None) -> str | None:
    return "shuffle of elements of no bytes" if cd[0] == 0 else None


CODEC = Codec(
    id=2,
    name="shuffle",
    decode=decode,
    encode=encode,
    gather=gather,
    gathers=gathers,
    length_after=lambda cd, length: length,
    parameters=1,
    refuse=refuse,
    renew=lambda cd, dtype, chunk: (),
)
