"""The stored bytes of chunks as HDF5 has them: of files in which it may hold what is not there yet.

While a file is open for writing, or behind something that only HDF5 reads, there is no way past it.
But it need not decode: where the filters of a damaged chunk give too few bytes, it takes what lies
in memory behind them, and says nothing.
"""

import hashlib
from collections.abc import Callable, Hashable
from functools import partial
from typing import Any, NamedTuple

import h5py
import numpy as np

from ...errors import CorruptFileError, raise_if_systems
from ...machine.interrupts import deferred
from ..files.lock import hdf5_locked
from .chunks import written_chunks

__all__ = ["HeldChunks", "RawChunk", "check_claim", "most_claimed"]


class RawChunk(NamedTuple):
    """A chunk that was found.

    Attributes
    ----------
    mask : int
        Its filter mask: bit i is set where filter i was left out.
    read : callable
        Gives its bytes as stored; use them before the same thread reads another chunk.
    key : callable
        Gives what tells apart all contents that any chunk may have.
    """

    mask: int
    read: Callable[[], Any]
    key: Callable[[], tuple]


class HeldChunks:
    """The chunks of a dataset, handed over by HDF5 one at a time.

    Parameters
    ----------
    dset : h5py.Dataset
        Chunked, one-dimensional; what the file says of its chunks was checked.
    whole : int
        Bytes of a decoded chunk.
    encoding : hashable
        How the chunks are encoded: two with the same bytes, alike encoded, hold the same values.

    Attributes
    ----------
    length : int
        Elements a chunk.
    """

    def __init__(self, dset: h5py.Dataset, whole: int, encoding: Hashable) -> None:
        self.length: int = dset.chunks[0]
        self._dset, self._whole, self._encoding = dset, whole, encoding
        #: The numbers of the chunks that are there, listed when the first was not found.
        self._written: np.ndarray | None = None

    def bring(self, pieces: Any, call: int) -> "HeldChunks":
        """Return where to `find` the chunks of a call: here. HDF5 reads when it is asked to."""
        return self

    def find(self, chunk: int) -> RawChunk | None:
        """Read a chunk; None when it was never written.

        What HDF5 holds of it in its own cache is written out before.

        Raises
        ------
        CorruptFileError
            When HDF5 does not find it, or it claims more bytes than it can have.
        """
        try:
            # A file open for writing is read through callbacks; and h5py before 3.16 forgets its
            # own lock here (its issue 2764).
            with hdf5_locked():
                mask, raw = self._dset.id.read_direct_chunk((chunk * self.length,))
        except (MemoryError, OSError, RuntimeError) as problem:
            # Of a chunk that is not there HDF5 1.14.2 leaves open how large it is.
            if self._is_unwritten(chunk):
                return None
            if isinstance(problem, MemoryError):
                raise
            raise_if_systems(problem, self._dset.file.filename)
            raise CorruptFileError(f"HDF5 could not read it: {problem}") from problem
        check_claim(len(raw), self._whole)
        return RawChunk(mask, lambda: raw, partial(self._key, mask, raw))

    def _is_unwritten(self, chunk: int) -> bool:
        """Whether a chunk that HDF5 did not find is not listed, either."""
        if self._written is None:
            with deferred():
                self._written = written_chunks(self._dset)
        at = int(np.searchsorted(self._written, chunk))
        return at == self._written.size or self._written[at] != chunk

    def _key(self, mask: int, raw: bytes) -> tuple:
        # The contents themselves: nobody says when HDF5 changes a chunk.
        return hashlib.blake2b(raw, digest_size=16).digest(), mask, self._encoding


def most_claimed(whole: int) -> int:
    """Return the most bytes a chunk may take that is `whole` bytes long when it is decoded."""
    return 2 * whole + (1 << 16)


def check_claim(nbytes: int, whole: int) -> None:
    """Raise `CorruptFileError` when a chunk takes more bytes than its elements can need."""
    if nbytes > most_claimed(whole):
        raise CorruptFileError(f"claims {nbytes} stored bytes for {whole}")
