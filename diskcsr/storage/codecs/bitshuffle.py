"""bitshuffle (32008): bit planes in blocks, perhaps each block compressed by lz4 or zstd.

It is read, not written.
"""

import numpy as np

from ... import kernels
from . import libraries, lz4, zstd
from .codec import Bytes, Cd, Codec, Pipeline
from .data import as_bytes, block_length, need, number
from .planes import join_planes

__all__ = ["CODEC"]

_NOTHING, _LZ4, _ZSTD = 0, 2, 3


def _compressor(cd: Cd) -> int:
    return cd[4] if len(cd) > 4 else _NOTHING


def decode(data: Bytes, cd: Cd, dest: Bytes) -> Bytes:
    size, compressor = cd[2], _compressor(cd)
    if compressor:
        total, block_bytes = number(data, 0, 8, "big"), number(data, 8, 4, "big")
        need(0 < total <= dest.size, f"claims {total} bytes, of at most {dest.size}")
        block = block_bytes // size
    else:
        total, block = data.size, cd[3]
        need(total <= dest.size, f"{total} bytes, more than {dest.size}")
        if block == 0:  # the library's default: 8 KiB, at least 128 elements
            block = max(8192 // size // 8 * 8, 128)
    need(total % size == 0, f"{total} bytes are no multiple of {size}")
    need(block > 0 and block % 8 == 0, f"claims blocks of {block} elements")
    count = total // size
    stored = count // 8 * 8  # the last elements, fewer than eight, follow as they are
    block = max(8, min(block, stored))
    if compressor:
        data = _decode_blocks(data, compressor, count, stored, block, size)
    planes = np.empty(total, np.uint8)
    kernels.planes.join_bits(as_bytes(data[: stored * size]), size, block, count, planes)
    planes.reshape(size, count)[:, stored:] = data[stored * size :].reshape(count - stored, size).T
    if size == 1:
        return planes
    join_planes(as_bytes(planes), size, dest[:total])
    return dest[:total]


def _decode_blocks(
    data: Bytes, compressor: int, count: int, stored: int, block: int, size: int
) -> Bytes:
    """Decompress the blocks of a bitshuffle stream, and put the uncompressed tail behind them."""
    out = np.empty(count * size, np.uint8)
    work, place = data.copy(), 12
    for start in range(0, stored, block):
        target = out[start * size : min(start + block, stored) * size]
        length = block_length(data, place)
        place += 4
        if compressor == _LZ4:
            lz4.decode_block(work, place, length, target)
        else:
            found = zstd.decode(data[place : place + length], (), target)
            need(found.size == target.size, f"a block of {found.size} bytes, not {target.size}")
        place += length
    tail = out[stored * size :]
    need(place + tail.size <= data.size, "the last elements are missing")
    tail[:] = data[place : place + tail.size]
    return out


def refuse(cd: Cd, pipeline: Pipeline, length: int | None) -> str | None:
    if cd[2] == 0 or len(cd) < 4 or cd[3] % 8:
        return f"bitshuffle with the parameters {cd}"
    compressor = _compressor(cd)
    if compressor not in (_NOTHING, _LZ4, _ZSTD):
        return f"bitshuffle with the compressor {compressor}"
    if compressor != _NOTHING and libraries.find("numcodecs.zstd") is None:
        return "bitshuffle with lz4 or zstd needs the 'codecs' extra"
    return None


CODEC = Codec(
    id=32008,
    name="bitshuffle",
    decode=decode,
    length_after=lambda cd, length: length if _compressor(cd) == _NOTHING else None,
    parameters=3,
    refuse=refuse,
    plugin="Bitshuffle",
)
