"""One function per HDF5 filter and direction: bytes in, bytes out (see `scaleoffset` for that one).

A decoder is ``decode(data, cd, dest) -> array``: ``data`` are the stored bytes (uint8, read-only),
``cd`` the filter's client data, ``dest`` a uint8 array of the most bytes there may be. It returns
what it decoded: a part of ``dest``, or an array of its own where a library insists on that. Bytes
that cannot be decoded into ``dest`` are `CorruptFileError`; no claim found in them is believed
before it is compared with the lengths at hand. An encoder is ``encode(data, cd) -> array``.

The layouts come from the sources of the filters (HDF5, h5py, and the registered plugins); kernels,
and with them numba, and libraries are imported when first used.
"""

import functools
import importlib
import struct
import zlib
from collections.abc import Callable
from types import ModuleType
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ...errors import CorruptFileError

__all__ = ["Bytes", "Cd", "as_bytes", "find_library", "gather_planes", "need", "number"]

Bytes: TypeAlias = NDArray[np.uint8]
Cd: TypeAlias = tuple[int, ...]

_BIG, _LITTLE = struct.Struct(">I"), struct.Struct("<I")
_BLOSC_CODECS = (b"blosclz", b"lz4", b"lz4hc", b"snappy", b"zlib", b"zstd")
_WHOLE = np.zeros(1, np.int64)
#: By level of zlib: the lowest of libdeflate that makes files of sparse counts smaller than zlib
#: does, shuffled or not (measured: bench/codecs.py). The rest as they are.
_LIBDEFLATE_LEVELS = {3: 2, 4: 2, 5: 3, 6: 5, 7: 6}


@functools.cache
def find_library(*names: str) -> ModuleType | None:
    """Import and return the first of the modules that is installed and works, None without any."""
    for name in names:
        try:
            return importlib.import_module(name)
        except ImportError:
            continue
    return None


def _library(name: str) -> ModuleType:
    library = find_library(name)
    if library is None:
        raise ImportError(f"this filter needs {name.partition('.')[0]}")
    return library


def as_bytes(buffer: Any) -> Bytes:
    """Return a read-only uint8 array over any contiguous buffer, without a copy.

    Read-only, because numba compiles a kernel once for arrays that are and once for those not.
    """
    view = memoryview(buffer)
    if view.nbytes == 0:
        return np.empty(0, np.uint8)
    array = np.frombuffer(view, np.uint8)
    array.flags.writeable = False
    return array


def need(condition: bool, message: str) -> None:
    """Raise CorruptFileError unless the condition holds."""
    if not condition:
        raise CorruptFileError(message)


def _call(function: Callable[..., Any], *args: Any) -> Any:
    """Call a library with bytes that may be anything; its complaint becomes a CorruptFileError."""
    try:
        return function(*args)
    except MemoryError:
        raise
    except Exception as error:  # every library has exceptions of its own
        raise CorruptFileError(f"{type(error).__name__}: {error}") from error


def number(data: Bytes, start: int, length: int, order: Any = "little") -> int:
    """Return the unsigned integer in ``data[start:start + length]``, which must be there."""
    need(start + length <= data.size, f"ends after {data.size} bytes, inside a header")
    return int.from_bytes(data[start : start + length].tobytes(), order)


# deflate (1): one zlib stream.


def decode_deflate(data: Bytes, cd: Cd, dest: Bytes) -> Bytes:
    library = find_library("deflate")
    if library is not None:
        return as_bytes(_call(library.zlib_decompress, data, dest.size))
    stream = zlib.decompressobj()
    # One byte more than there may be, so that the decoder goes on to the checksum at the end.
    text = _call(stream.decompress, data, dest.size + 1)
    need(len(text) <= dest.size, f"decodes to more than {dest.size} bytes")
    need(stream.eof, "the stream is cut short")
    return as_bytes(text)


def encode_deflate(data: Bytes, cd: Cd) -> Bytes:
    level = min(cd[0], 9) if cd else 6
    library = find_library("deflate")
    if library is not None and level > 0:
        return as_bytes(library.zlib_compress(data, _LIBDEFLATE_LEVELS.get(level, level)))
    return as_bytes(zlib.compress(data.data, level))


# shuffle (2): byte planes; bytes past the last whole element follow as they are.


def decode_shuffle(data: Bytes, cd: Cd, dest: Bytes) -> Bytes:
    need(data.size <= dest.size, f"{data.size} bytes, more than {dest.size}")
    size = cd[0]
    count = data.size // size
    if size == 1 or count <= 1:
        return data
    whole = count * size
    join_planes(data[:whole], size, dest[:whole])
    dest[whole : data.size] = data[whole:]
    return dest[: data.size]


def join_planes(planes: Bytes, size: int, dest: Bytes) -> None:
    """Write the elements, `size` bytes each, whose byte planes `planes` are."""
    count = planes.size // size
    if size in (2, 4, 8):
        ends = np.array([count], np.int64)
        gather_planes(planes, count, _WHOLE, ends, _WHOLE, dest.view(f"u{size}"))
    else:
        dest.reshape(count, size)[...] = planes.reshape(size, count).T


def gather_planes(
    planes: Bytes, count: int, lo: NDArray, hi: NDArray, at: NDArray, out: NDArray
) -> None:
    """Write the elements ``lo[k]:hi[k]`` to ``out[at[k]:]``, an array of uint16, 32 or 64."""
    from ...kernels import codecs as kernels

    kernel = {2: kernels.gather_planes_2, 4: kernels.gather_planes_4, 8: kernels.gather_planes_8}
    kernel[out.itemsize](planes, count, lo, hi, at, out)


def encode_shuffle(data: Bytes, cd: Cd) -> Bytes:
    size = cd[0]
    count = data.size // size
    if size == 1 or count <= 1:
        return data
    whole = count * size
    out = np.empty_like(data)
    if size in (2, 4, 8):
        from ...kernels import codecs as kernels

        kernels.split_planes(data[:whole].view(f"u{size}"), out[:whole])
    else:
        out[:whole].reshape(size, count)[...] = data[:whole].reshape(count, size).T
    out[whole:] = data[whole:]
    return out


# fletcher32 (3): the data, then four bytes of checksum.


def decode_fletcher32(data: Bytes, cd: Cd, dest: Bytes) -> Bytes:
    from ...kernels import codecs as kernels

    stored = number(data, max(0, data.size - 4), 4)
    found = int(kernels.fletcher32(data[:-4]))
    # HDF5 1.6.2 swapped the bytes of each half, and every later release accepts that.
    swapped = (found & 0x00FF00FF) << 8 | (found & 0xFF00FF00) >> 8
    message = f"the checksum is {found:#010x}, not {stored:#010x} as stored"
    need(stored in (found, swapped), message)
    return data[:-4]


def encode_fletcher32(data: Bytes, cd: Cd) -> Bytes:
    from ...kernels import codecs as kernels

    out = np.empty(data.size + 4, np.uint8)
    out[:-4] = data
    out[-4:] = np.frombuffer(int(kernels.fletcher32(data)).to_bytes(4, "little"), np.uint8)
    return out


# lzf (32000), h5py's own: a bare stream.


def decode_lzf(data: Bytes, cd: Cd, dest: Bytes) -> Bytes:
    from ...kernels import codecs as kernels

    length = int(kernels.lzf_decompress(data, dest))
    if length < 0:
        reasons = {
            kernels.TRUNCATED: "the stream is cut short",
            kernels.TOO_LONG: f"decodes to more than {dest.size} bytes",
            kernels.BEFORE_START: "the stream refers to bytes before its first",
        }
        raise CorruptFileError(reasons[length])
    return dest[:length]


def encode_lzf(data: Bytes, cd: Cd) -> Bytes:
    from ...kernels import codecs as kernels

    out = np.empty(data.size + data.size // 32 + 2, np.uint8)
    return out[: int(kernels.lzf_compress(data, out))]


# zstd (32015): one frame that says its content's size.


def zstd_size(data: Bytes) -> int:
    """Return the content size in the header of a zstd frame (RFC 8878, section 3.1.1)."""
    need(number(data, 0, 4) == 0xFD2FB528, "not a zstd frame")
    descriptor = number(data, 4, 1)
    single_segment = bool(descriptor & 0x20)
    start = 5 + (not single_segment) + (0, 1, 2, 4)[descriptor & 3]
    length = (int(single_segment), 2, 4, 8)[descriptor >> 6]
    need(length > 0, "the zstd frame does not say how long its content is")
    return number(data, start, length) + (256 if length == 2 else 0)


def decode_zstd(data: Bytes, cd: Cd, dest: Bytes) -> Bytes:
    size = zstd_size(data)
    need(0 < size <= dest.size, f"claims {size} bytes, of at most {dest.size}")
    _call(_library("numcodecs.zstd").decompress, data, dest[:size])
    return dest[:size]


def encode_zstd(data: Bytes, cd: Cd) -> Bytes:
    level = int(np.uint32(cd[0]).view(np.int32)) if cd else 3  # the plugin's default
    return as_bytes(_library("numcodecs.zstd").compress(data, level))


# lz4 (32004): u64 length, u32 block length (big-endian), then blocks behind their u32 length.


def decode_lz4(data: Bytes, cd: Cd, dest: Bytes) -> Bytes:
    size, block = number(data, 0, 8, "big"), number(data, 8, 4, "big")
    need(0 < size <= dest.size, f"claims {size} bytes, of at most {dest.size}")
    need(block > 0, "claims blocks of no bytes")
    work, place = data.copy(), 12
    for start in range(0, size, block):
        target = dest[start : min(start + block, size)]
        length = _block_length(data, place)
        place += 4
        if length == target.size:  # stored as it is
            target[:] = data[place : place + length]
        else:
            _lz4_block(work, place, length, target)
        place += length
    return dest[:size]


def _block_length(data: Bytes, place: int) -> int:
    """Return the length at `place`, big-endian, of the block that follows, which must be there."""
    if place + 4 <= data.size:
        (length,) = _BIG.unpack_from(data.data, place)
        if 0 < length <= data.size - place - 4:
            return length
    raise CorruptFileError(f"cut short or wrong at byte {place}, where a block begins")


def _lz4_block(work: Bytes, place: int, length: int, target: Bytes) -> None:
    """Decode the LZ4 block of `length` bytes at `place`; the four bytes before are overwritten."""
    # numcodecs wants the decoded length there, little-endian, where HDF5 has the encoded one.
    _LITTLE.pack_into(work.data, place - 4, target.size)
    _call(_library("numcodecs.lz4").decompress, work[place - 4 : place + length], target)


def encode_lz4(data: Bytes, cd: Cd) -> Bytes:
    block = min(cd[0] if cd and cd[0] else 1 << 30, data.size)
    compress = _library("numcodecs.lz4").compress
    parts = [data.size.to_bytes(8, "big"), block.to_bytes(4, "big")]
    for start in range(0, data.size, block):
        piece = data[start : start + block]
        packed = compress(piece)[4:]  # less numcodecs' own header
        stored = piece.tobytes() if len(packed) >= piece.size else packed
        parts += [len(stored).to_bytes(4, "big"), stored]
    return as_bytes(b"".join(parts))


# blosc (32001): one Blosc 1 buffer.


def decode_blosc(data: Bytes, cd: Cd, dest: Bytes) -> Bytes:
    packed, size = _blosc_sizes(data, dest)
    _call(_library("numcodecs.blosc").decompress, data[:packed], dest[:size])
    return dest[:size]


def _blosc_sizes(data: Bytes, dest: Bytes) -> tuple[int, int]:
    """Return the lengths, encoded and decoded, in the header that Blosc 1 and 2 share."""
    size, packed = number(data, 4, 4), number(data, 12, 4)
    need(0 < size <= dest.size, f"claims {size} bytes, of at most {dest.size}")
    need(16 <= packed <= data.size, f"claims to be {packed} bytes long, of {data.size}")
    return packed, size


def encode_blosc(data: Bytes, cd: Cd) -> Bytes:
    values = tuple(cd) + (0, 0, 0, 0, 5, 1, 0)[len(cd) :]  # the plugin's defaults
    size, level, shuffle, codec = values[2], values[4], values[5], values[6]
    if size in (2, 4, 8) and data.size % size == 0:
        data = data.view(f"u{size}")
    compress = _library("numcodecs.blosc").compress
    return as_bytes(compress(data, _BLOSC_CODECS[codec], level, shuffle))


# blosc2 (32026): a contiguous Blosc 2 frame of one chunk.


def decode_blosc2(data: Bytes, cd: Cd, dest: Bytes) -> Bytes:
    need(data[2:10].tobytes() == b"b2frame\0", "not a Blosc 2 frame")
    header, frame = number(data, 11, 4, "big"), number(data, 16, 8, "big")
    size, packed = number(data, 30, 8, "big"), number(data, 39, 8, "big")
    need(header <= frame <= data.size, f"claims to be {frame} bytes long, of {data.size}")
    need(0 < size <= dest.size, f"claims {size} bytes, of at most {dest.size}")
    need(packed <= frame - header, f"claims a chunk of {packed} bytes, more than there are")
    chunk = data[header:frame]
    if packed:
        length, found = _blosc_sizes(chunk, dest)
        need(found == size, f"the chunk holds {found} bytes, the frame says {size}")
        _blosc2_chunk(chunk[:length], dest[:size])
    else:  # nothing but zeros: only the list of chunk offsets is there, and says so in its top byte
        offset = np.empty(8, np.uint8)
        length, found = _blosc_sizes(chunk, offset)
        need(found == 8, "a frame of other than one chunk")
        _blosc2_chunk(chunk[:length], offset)
        need(offset[7] == 0x81, f"a chunk of the unknown kind {offset[7]:#x}")
        dest[:size] = 0
    return dest[:size]


def _blosc2_chunk(chunk: Bytes, dest: Bytes) -> None:
    # Bits 4 to 6 of the last header byte: 0 ordinary, 1 zeros, 2 NaN, 3 one value. The libraries
    # leave a chunk of kind 4, "uninitialized", as the memory was.
    kind = number(chunk, 31, 1) >> 4 & 7
    need(kind < 4, f"a chunk of the kind {kind}, which has no values")
    library = find_library("imagecodecs", "blosc2")
    if library is None:
        raise ImportError("the blosc2 filter needs imagecodecs or blosc2")
    if library.__name__ == "imagecodecs":
        result = _call(functools.partial(library.blosc2_decode, numthreads=1, out=dest), chunk)
        need(np.size(result) == dest.size, "the chunk decodes to another length")
    else:
        _call(functools.partial(library.decompress2, nthreads=1), chunk, dest)


# bitshuffle (32008): bit planes in blocks, perhaps each block compressed by lz4 or zstd.


def decode_bitshuffle(data: Bytes, cd: Cd, dest: Bytes) -> Bytes:
    from ...kernels import codecs as kernels

    size, codec = cd[2], cd[4] if len(cd) > 4 else 0
    if codec:
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
    if codec:
        data = _bitshuffle_blocks(data, codec, count, stored, block, size)
    planes = np.empty(total, np.uint8)
    kernels.join_bit_planes(as_bytes(data[: stored * size]), size, block, count, planes)
    planes.reshape(size, count)[:, stored:] = data[stored * size :].reshape(count - stored, size).T
    if size == 1:
        return planes
    join_planes(as_bytes(planes), size, dest[:total])
    return dest[:total]


def _bitshuffle_blocks(
    data: Bytes, codec: int, count: int, stored: int, block: int, size: int
) -> Bytes:
    """Decompress the blocks of a bitshuffle stream, and put the uncompressed tail behind them."""
    out = np.empty(count * size, np.uint8)
    work, place = data.copy(), 12
    for start in range(0, stored, block):
        target = out[start * size : min(start + block, stored) * size]
        length = _block_length(data, place)
        place += 4
        if codec == 2:
            _lz4_block(work, place, length, target)
        else:
            found = decode_zstd(data[place : place + length], (), target)
            need(found.size == target.size, f"a block of {found.size} bytes, not {target.size}")
        place += length
    tail = out[stored * size :]
    need(place + tail.size <= data.size, "the last elements are missing")
    tail[:] = data[place : place + tail.size]
    return out
