"""blosc (32001): one Blosc 1 buffer. Written with lz4 inside; HDF5 needs hdf5plugin."""

import numpy as np

from . import libraries
from .codec import Bytes, Cd, Codec, Pipeline, Preset
from .data import as_bytes, need, number

__all__ = ["CODEC", "buffer_sizes"]

_COMPRESSORS = (b"blosclz", b"lz4", b"lz4hc", b"snappy", b"zlib", b"zstd")
_LZ4, _BYTE_SHUFFLE = 1, 1
#: What the plugin takes for parameters that are not there.
_DEFAULTS = (0, 0, 0, 0, 5, 1, 0)


def decode(data: Bytes, cd: Cd, dest: Bytes) -> Bytes:
    packed, size = buffer_sizes(data, dest)
    libraries.call(libraries.library("numcodecs.blosc").decompress, data[:packed], dest[:size])
    return dest[:size]


def buffer_sizes(data: Bytes, dest: Bytes) -> tuple[int, int]:
    """Return the lengths, encoded and decoded, in the header that Blosc 1 and 2 share."""
    size, packed = number(data, 4, 4), number(data, 12, 4)
    need(0 < size <= dest.size, f"claims {size} bytes, of at most {dest.size}")
    need(16 <= packed <= data.size, f"claims to be {packed} bytes long, of {data.size}")
    return packed, size


def encode(data: Bytes, cd: Cd) -> Bytes:
    values = tuple(cd) + _DEFAULTS[len(cd) :]
    size, level, shuffle, codec = values[2], values[4], values[5], values[6]
    if size in (2, 4, 8) and data.size % size == 0:
        data = data.view(f"u{size}")
    compress = libraries.library("numcodecs.blosc").compress
    return as_bytes(compress(data, _COMPRESSORS[codec], level, shuffle))


def refuse(cd: Cd, pipeline: Pipeline, length: int | None) -> str | None:
    if len(cd) > 6 and (cd[6] == 3 or cd[6] >= len(_COMPRESSORS)):
        return f"blosc with the compressor {cd[6]} (snappy is 3) has no decoder here"
    return None


def client_data(dtype: np.dtype, chunk: int, level: int) -> Cd:
    """Versions of the filter and of the format, then what Blosc is told of the data."""
    return (2, 2, dtype.itemsize, dtype.itemsize * chunk, level, _BYTE_SHUFFLE, _LZ4)


def renew(cd: Cd, dtype: np.dtype, chunk: int) -> Cd:
    """Blosc is told the size of an element and of a chunk, which nobody else corrects."""
    return (*cd[:2], dtype.itemsize, dtype.itemsize * chunk, *cd[4:])


CODEC = Codec(
    id=32001,
    name="blosc",
    decode=decode,
    encode=encode,
    refuse=refuse,
    renew=renew,
    preset=Preset(name="blosc", client_data=client_data, level=5, levels=range(10)),
    # It releases the GIL and decodes into the caller's memory.
    libraries=("numcodecs.blosc",),
    extra="codecs",
    plugin="Blosc",
)
