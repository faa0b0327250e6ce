"""The stored bytes of chunks, straight from a file that nobody writes to."""

import os
import threading
from functools import partial
from typing import Any

from ...breakeven import KEPT_BYTES
from ...errors import CorruptFileError
from ..claims.chunks import ChunkIndex
from ..claims.heldchunks import RawChunk, check_claim
from .descriptor import Descriptor

__all__ = ["FileChunks"]


class _Space(threading.local):
    """Memory of each thread that stored bytes are read to."""

    def __init__(self) -> None:
        self._kept = memoryview(bytearray())

    def get(self, nbytes: int) -> memoryview:
        if len(self._kept) >= nbytes:
            return self._kept[:nbytes]
        if nbytes > KEPT_BYTES:
            return memoryview(bytearray(nbytes))
        self._kept = memoryview(bytearray(nbytes + nbytes // 2))
        return self._kept[:nbytes]


_space = _Space()


class FileChunks:
    """The chunks of a dataset, read through our own descriptor; see `HeldChunks`.

    Parameters
    ----------
    descriptor : Descriptor
    index : ChunkIndex
    name : str
        Of the dataset.
    whole : int
        Bytes of a decoded chunk.

    Attributes
    ----------
    length : int
        Elements a chunk.
    """

    def __init__(self, descriptor: Descriptor, index: ChunkIndex, name: str, whole: int) -> None:
        self.length = index.length
        self._descriptor, self._index, self._whole = descriptor, index, whole
        self._key = (*descriptor.identity, name)

    def bring(self, pieces: Any, call: int) -> "FileChunks":
        """Have the kernel begin to read all chunks: a disk serves many requests at a time.

        Returns
        -------
        FileChunks
            Where to `find` those chunks.
        """
        chunks = pieces.chunks
        if chunks.size > 1 and hasattr(os, "posix_fadvise"):
            fd, offset, nbytes = self._descriptor.fd, self._index.offset, self._index.nbytes
            for chunk in chunks.tolist():
                if offset[chunk] >= 0:
                    os.posix_fadvise(fd, offset[chunk], nbytes[chunk], os.POSIX_FADV_WILLNEED)
        return self

    def find(self, chunk: int) -> RawChunk | None:
        """Find a chunk; None when it was never written.

        Raises
        ------
        CorruptFileError
            When it cannot be where the file says it is; by its ``read``, when it is not there.
        """
        index = self._index
        if chunk in index.damage:
            raise CorruptFileError(f"it cannot be where it is said to be: {index.damage[chunk]}")
        if index.offset[chunk] < 0:
            return None
        read, key = partial(self._read, chunk), partial(self._key_of, chunk)
        return RawChunk(int(index.mask[chunk]), read, key)

    def _key_of(self, chunk: int) -> tuple:
        return (*self._key, chunk)

    def _read(self, chunk: int) -> memoryview:
        """Read the stored bytes of a chunk, to memory that this thread uses again."""
        offset, nbytes = int(self._index.offset[chunk]), int(self._index.nbytes[chunk])
        check_claim(nbytes, self._whole)
        raw = _space.get(nbytes)
        found = os.preadv(self._descriptor.fd, [raw], offset)
        if found != nbytes:
            raise CorruptFileError(f"the file ends after {found} of its {nbytes} bytes")
        return raw
