"""blosc2 (32026): a contiguous Blosc 2 frame of one chunk. It is read, not written."""

import functools

import numpy as np

from . import libraries
from .blosc import buffer_sizes
from .codec import Bytes, Cd, Codec, Pipeline
from .data import need, number

__all__ = ["CODEC"]


def decode(data: Bytes, cd: Cd, dest: Bytes) -> Bytes:
    need(data[2:10].tobytes() == b"b2frame\0", "not a Blosc 2 frame")
    header, frame = number(data, 11, 4, "big"), number(data, 16, 8, "big")
    size, packed = number(data, 30, 8, "big"), number(data, 39, 8, "big")
    need(header <= frame <= data.size, f"claims to be {frame} bytes long, of {data.size}")
    need(0 < size <= dest.size, f"claims {size} bytes, of at most {dest.size}")
    need(packed <= frame - header, f"claims a chunk of {packed} bytes, more than there are")
    chunk = data[header:frame]
    if packed:
        length, found = buffer_sizes(chunk, dest)
        need(found == size, f"the chunk holds {found} bytes, the frame says {size}")
        _decode_chunk(chunk[:length], dest[:size])
    else:  # nothing but zeros: only the list of chunk offsets is there, and says so in its top byte
        offset = np.empty(8, np.uint8)
        length, found = buffer_sizes(chunk, offset)
        need(found == 8, "a frame of other than one chunk")
        _decode_chunk(chunk[:length], offset)
        need(offset[7] == 0x81, f"a chunk of the unknown kind {offset[7]:#x}")
        dest[:size] = 0
    return dest[:size]


def _decode_chunk(chunk: Bytes, dest: Bytes) -> None:
    # Bits 4 to 6 of the last header byte: 0 ordinary, 1 zeros, 2 NaN, 3 one value. The libraries
    # leave a chunk of kind 4, "uninitialized", as the memory was.
    kind = number(chunk, 31, 1) >> 4 & 7
    need(kind < 4, f"a chunk of the kind {kind}, which has no values")
    library = libraries.find(*CODEC.libraries)
    if library is None:
        raise ImportError("the blosc2 filter needs imagecodecs or blosc2")
    if library.__name__ == "imagecodecs":
        decompress = functools.partial(library.blosc2_decode, numthreads=1, out=dest)
        result = libraries.call(decompress, chunk)
        need(np.size(result) == dest.size, "the chunk decodes to another length")
    else:
        libraries.call(functools.partial(library.decompress2, nthreads=1), chunk, dest)


def refuse(cd: Cd, pipeline: Pipeline, length: int | None) -> str | None:
    return f"blosc2 chunks of {cd[7]} dimensions" if len(cd) > 7 and cd[7] > 1 else None


CODEC = Codec(
    id=32026,
    name="blosc2",
    decode=decode,
    refuse=refuse,
    libraries=("imagecodecs", "blosc2"),  # of the two, imagecodecs releases the GIL
    extra="blosc2",
    plugin="Blosc2",
)
