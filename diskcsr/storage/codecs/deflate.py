"""deflate (1), h5py's "gzip": one zlib stream. Everything reads it."""

import zlib

from . import libraries
from .codec import Bytes, Cd, Codec, Preset
from .data import as_bytes, need

__all__ = ["CODEC"]

#: By level of zlib: the lowest of libdeflate that makes files of sparse counts smaller than zlib
#: does, shuffled or not (measured: bench/codecs.py). The rest as they are.
_LIBDEFLATE_LEVELS = {3: 2, 4: 2, 5: 3, 6: 5, 7: 6}


def decode(data: Bytes, cd: Cd, dest: Bytes) -> Bytes:
    library = libraries.find(*CODEC.libraries)
    if library is not None and library is not zlib:
        found = libraries.call(
            library.zlib_decompress, data, dest.size, errors=(library.DeflateError,)
        )
        return as_bytes(found)
    stream = zlib.decompressobj()
    # One byte more than there may be, so that the decoder goes on to the checksum at the end.
    text = libraries.call(stream.decompress, data, dest.size + 1, errors=(zlib.error,))
    need(len(text) <= dest.size, f"decodes to more than {dest.size} bytes")
    need(stream.eof, "the stream is cut short")
    return as_bytes(text)


def encode(data: Bytes, cd: Cd) -> Bytes:
    level = min(cd[0], 9) if cd else 6
    library = libraries.find(*CODEC.libraries)
    if library is not None and library is not zlib and level > 0:
        return as_bytes(library.zlib_compress(data, _LIBDEFLATE_LEVELS.get(level, level)))
    return as_bytes(zlib.compress(data.data, level))


CODEC = Codec(
    id=1,
    name="deflate",
    decode=decode,
    encode=encode,
    preset=Preset(
        name="gzip",
        client_data=lambda dtype, chunk, level: (level,),
        level=4,
        levels=range(10),
        shuffle=True,
    ),
    libraries=("deflate", "zlib"),  # libdeflate is the fastest inflate measured
    extra="codecs",
    slow="gzip is decoded by zlib: libdeflate is faster",
)
