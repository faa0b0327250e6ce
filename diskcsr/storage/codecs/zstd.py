"""zstd (32015): one frame that says its content's size. Small and fast; HDF5 needs hdf5plugin."""

import numpy as np

from . import libraries
from .codec import Bytes, Cd, Codec, Preset
from .data import as_bytes, need, number

__all__ = ["CODEC", "decode"]


def decode(data: Bytes, cd: Cd, dest: Bytes) -> Bytes:
    size = _content_size(data)
    need(0 < size <= dest.size, f"claims {size} bytes, of at most {dest.size}")
    libraries.call(libraries.library("numcodecs.zstd").decompress, data, dest[:size])
    return dest[:size]


def _content_size(data: Bytes) -> int:
    """Return the content size in the header of a zstd frame (RFC 8878, section 3.1.1)."""
    need(number(data, 0, 4) == 0xFD2FB528, "not a zstd frame")
    descriptor = number(data, 4, 1)
    single_segment = bool(descriptor & 0x20)
    start = 5 + (not single_segment) + (0, 1, 2, 4)[descriptor & 3]
    length = (int(single_segment), 2, 4, 8)[descriptor >> 6]
    need(length > 0, "the zstd frame does not say how long its content is")
    return number(data, start, length) + (256 if length == 2 else 0)


def encode(data: Bytes, cd: Cd) -> Bytes:
    level = int(np.uint32(cd[0]).view(np.int32)) if cd else 3  # the plugin's default
    return as_bytes(libraries.library("numcodecs.zstd").compress(data, level))


CODEC = Codec(
    id=32015,
    name="zstd",
    decode=decode,
    encode=encode,
    preset=Preset(
        name="zstd",
        client_data=lambda dtype, chunk, level: (level,),
        level=3,
        levels=range(1, 23),
        shuffle=True,
    ),
    # It releases the GIL and decodes into the caller's memory.
    libraries=("numcodecs.zstd",),
    extra="codecs",
    plugin="Zstd",
)
