"""lzf (32000), h5py's own: a bare LZF stream. Every h5py reads it."""

import numpy as np

from ... import kernels
from ...errors import CorruptFileError
from .codec import Bytes, Cd, Codec, Preset

__all__ = ["CODEC"]


def decode(data: Bytes, cd: Cd, dest: Bytes) -> Bytes:
    lzf = kernels.lzf
    length = int(lzf.decompress(data, dest))
    if length < 0:
        reasons = {
            lzf.TRUNCATED: "the stream is cut short",
            lzf.TOO_LONG: f"decodes to more than {dest.size} bytes",
            lzf.BEFORE_START: "the stream refers to bytes before its first",
        }
        raise CorruptFileError(reasons[length])
    return dest[:length]


def encode(data: Bytes, cd: Cd) -> Bytes:
    out = np.empty(data.size + data.size // 32 + 2, np.uint8)
    return out[: int(kernels.lzf.compress(data, out))]


CODEC = Codec(
    id=32000,
    name="lzf",
    decode=decode,
    encode=encode,
    renew=lambda cd, dtype, chunk: (),
    preset=Preset(name="lzf", client_data=lambda dtype, chunk, level: (), shuffle=True),
)
