"""fletcher32 (3): the data, then four bytes of checksum."""

import numpy as np

from ... import kernels
from .codec import Bytes, Cd, Codec
from .data import need, number

__all__ = ["CODEC"]


def decode(data: Bytes, cd: Cd, dest: Bytes) -> Bytes:
    stored = number(data, max(0, data.size - 4), 4)
    found = int(kernels.fletcher32.checksum(data[:-4]))
    # HDF5 1.6.2 swapped the bytes of each half, and every later release accepts that.
    swapped = (found & 0x00FF00FF) << 8 | (found & 0xFF00FF00) >> 8
    message = f"the checksum is {found:#010x}, not {stored:#010x} as stored"
    need(stored in (found, swapped), message)
    return data[:-4]


def encode(data: Bytes, cd: Cd) -> Bytes:
    out = np.empty(data.size + 4, np.uint8)
    out[:-4] = data
    checksum = int(kernels.fletcher32.checksum(data))
    out[-4:] = np.frombuffer(checksum.to_bytes(4, "little"), np.uint8)
    return out


CODEC = Codec(
    id=3,
    name="fletcher32",
    decode=decode,
    encode=encode,
    length_after=lambda cd, length: length + 4,
    renew=lambda cd, dtype, chunk: (),
)
