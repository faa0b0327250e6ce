"""What the codecs share: bytes as arrays, numbers in headers, and doubts about both."""

import struct
from typing import Any

import numpy as np

from ...errors import CorruptFileError
from .codec import Bytes

__all__ = ["as_bytes", "block_length", "need", "number"]

_BIG = struct.Struct(">I")


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


def number(data: Bytes, start: int, length: int, order: Any = "little") -> int:
    """Return the unsigned integer in ``data[start:start + length]``, which must be there."""
    need(start + length <= data.size, f"ends after {data.size} bytes, inside a header")
    return int.from_bytes(data[start : start + length].tobytes(), order)


def block_length(data: Bytes, place: int) -> int:
    """Return the length at `place`, big-endian, of the block that follows, which must be there."""
    if place + 4 <= data.size:
        (length,) = _BIG.unpack_from(data.data, place)
        if 0 < length <= data.size - place - 4:
            return length
    raise CorruptFileError(f"cut short or wrong at byte {place}, where a block begins")
