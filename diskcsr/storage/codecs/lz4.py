"""lz4 (32004): u64 length, u32 block length (big-endian), then blocks behind their u32 length.

The fastest of the compressors to decode; HDF5 needs hdf5plugin.
"""

import struct

from . import libraries
from .codec import Bytes, Cd, Codec, Preset
from .data import as_bytes, block_length, need, number

__all__ = ["CODEC", "decode_block"]

_LITTLE = struct.Struct("<I")


def decode(data: Bytes, cd: Cd, dest: Bytes) -> Bytes:
    size, block = number(data, 0, 8, "big"), number(data, 8, 4, "big")
    need(0 < size <= dest.size, f"claims {size} bytes, of at most {dest.size}")
    need(block > 0, "claims blocks of no bytes")
    work, place = data.copy(), 12
    for start in range(0, size, block):
        target = dest[start : min(start + block, size)]
        length = block_length(data, place)
        place += 4
        if length == target.size:  # stored as it is
            target[:] = data[place : place + length]
        else:
            decode_block(work, place, length, target)
        place += length
    return dest[:size]


def decode_block(work: Bytes, place: int, length: int, target: Bytes) -> None:
    """Decode the LZ4 block of `length` bytes at `place`; the four bytes before are overwritten."""
    # numcodecs wants the decoded length there, little-endian, where HDF5 has the encoded one.
    _LITTLE.pack_into(work.data, place - 4, target.size)
    decompress = libraries.library("numcodecs.lz4").decompress
    libraries.call(decompress, work[place - 4 : place + length], target)


def encode(data: Bytes, cd: Cd) -> Bytes:
    block = min(cd[0] if cd and cd[0] else 1 << 30, data.size)
    compress = libraries.library("numcodecs.lz4").compress
    parts = [data.size.to_bytes(8, "big"), block.to_bytes(4, "big")]
    for start in range(0, data.size, block):
        plain = data[start : start + block]
        packed = compress(plain)[4:]  # less numcodecs' own header
        stored = plain.tobytes() if len(packed) >= plain.size else packed
        parts += [len(stored).to_bytes(4, "big"), stored]
    return as_bytes(b"".join(parts))


CODEC = Codec(
    id=32004,
    name="lz4",
    decode=decode,
    encode=encode,
    preset=Preset(name="lz4", client_data=lambda dtype, chunk, level: (0,), shuffle=True),
    # It releases the GIL and decodes into the caller's memory.
    libraries=("numcodecs.lz4",),
    extra="codecs",
    plugin="LZ4",
)
