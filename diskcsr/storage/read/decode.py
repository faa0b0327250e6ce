"""Reading filtered data: chunks come straight from the file and are decoded in the thread pool."""

import os
import threading
from collections import deque
from functools import partial
from typing import NamedTuple

import h5py
import numpy as np

from ... import kernels
from ...breakeven import FEW_PIECES, KEPT_BYTES
from ...errors import CorruptFileError
from ...keys.plan import Plan
from ...machine.cache import cache
from ..claims.chunks import ChunkIndex
from ..codecs.codec import Pipeline
from ..codecs.pipeline import copy_pieces, decode_whole, gather_pieces, stages_of
from .descriptor import Descriptor
from .readers import Job, Reader, check_indices, native_dtype

__all__ = ["DecodeReader", "chunk_pieces"]

#: The most chunks a thread takes at a time, and the most elements it then checks at once.
_MOST_CHUNKS, _MOST_ELEMENTS = 16, 1 << 17


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


class ChunkPieces(NamedTuple):
    """What a plan wants of each touched chunk.

    Attributes
    ----------
    chunks : (n,) int64 array
        The touched chunks, ascending.
    ptr : (n + 1,) int64 array
        Pieces ``ptr[i]:ptr[i + 1]`` are of chunk ``chunks[i]``.
    lo, hi : (p,) int64 array
        First and one-past-last element of each piece, counted from the chunk's start.
    at : (p,) int64 array
        Where each goes in the result.
    """

    chunks: np.ndarray
    ptr: np.ndarray
    lo: np.ndarray
    hi: np.ndarray
    at: np.ndarray


def chunk_pieces(plan: Plan, length: int) -> ChunkPieces:
    """Cut the pieces of a plan at chunk boundaries and sort them by chunk.

    Examples
    --------
    >>> from diskcsr.keys.plan import plan_span
    >>> chunk_pieces(plan_span(8, 21, np.array([0, 13])), 10).chunks
    array([0, 1, 2])
    """
    first = plan.piece_lo // length
    count = (plan.piece_hi - 1) // length - first + 1
    piece = np.repeat(np.arange(count.size), count)
    within = np.arange(piece.size) - np.repeat(np.cumsum(count) - count, count)
    chunk = first[piece] + within
    lo = np.maximum(plan.piece_lo[piece], chunk * length)
    hi = np.minimum(plan.piece_hi[piece], (chunk + 1) * length)
    at = plan.piece_dst[piece] + lo - plan.piece_lo[piece]
    if np.any(chunk[1:] < chunk[:-1]):
        # A row asked for twice that spans chunks: each chunk is still visited once.
        order = np.argsort(chunk, kind="stable")
        chunk, lo, hi, at = chunk[order], lo[order], hi[order], at[order]
    starts = np.flatnonzero(np.append(True, chunk[1:] != chunk[:-1]))
    touched = chunk[starts]
    offset = chunk * length
    return ChunkPieces(touched, np.append(starts, chunk.size), lo - offset, hi - offset, at)


class DecodeReader(Reader):
    """Reads chunks outside HDF5 and undoes their filters in several threads at once.

    Each touched chunk is read and decoded once a call, and only the wanted elements are written,
    to their final places.
    """

    name = "decode"

    def __init__(
        self,
        dset: h5py.Dataset,
        where: str,
        descriptor: Descriptor,
        index: ChunkIndex,
        pipeline: Pipeline,
    ) -> None:
        names = ", ".join(filter.name for filter in pipeline.filters)
        why = f"filtered by {names}" if names else f"stored as {pipeline.dtype}, needs conversion"
        if not names and pipeline.dtype.isnative:
            why = f"unfiltered, but {'damaged' if index.damage else 'not written everywhere'}"
        stored = dset.id.get_storage_size()
        super().__init__(where, native_dtype(dset.dtype), dset.size, stored, why)
        self._descriptor, self._index, self._pipeline = descriptor, index, pipeline
        self.check_unchanged = descriptor.check_unchanged
        #: What tells the value of chunks that were never written, and its type in the file.
        self._creation = dset.id.get_create_plist(), dset.dtype
        self._key = (*descriptor.identity, dset.name)
        self._stages: dict[int, tuple] = {}

    def jobs(self, plan: Plan, out: np.ndarray, limit: int | None, threads: int) -> list[Job]:
        if plan.size == 0:
            return []
        pieces = chunk_pieces(plan, self._index.length)
        self._count(plan.range_lo.size, 0, pieces.chunks.size)
        self._advise(pieces.chunks)
        group = _chunks_at_a_time(pieces, threads)
        firsts = range(0, pieces.chunks.size, group)
        left = deque((first, min(first + group, pieces.chunks.size)) for first in firsts)
        work = partial(self._work, pieces, left, out, limit, cache.new_call())
        return [work] * min(threads, len(left))

    def _advise(self, chunks: np.ndarray) -> None:
        """Have the kernel begin to read all chunks: a disk serves many requests at a time."""
        if chunks.size > 1 and hasattr(os, "posix_fadvise"):
            fd, offset, nbytes = self._descriptor.fd, self._index.offset, self._index.nbytes
            for chunk in chunks.tolist():
                if offset[chunk] >= 0:
                    os.posix_fadvise(fd, offset[chunk], nbytes[chunk], os.POSIX_FADV_WILLNEED)

    def _work(
        self,
        pieces: ChunkPieces,
        left: deque[tuple[int, int]],
        out: np.ndarray,
        limit: int | None,
        call: int,
    ) -> None:
        """Take neighbouring chunks, a few at a time, until none is left."""
        while True:
            try:
                first, last = left.popleft()
            except IndexError:
                return
            ptr = pieces.ptr[first : last + 1].tolist()
            chunks = pieces.chunks[first:last].tolist()
            for chunk, begin, end in zip(chunks, ptr[:-1], ptr[1:], strict=True):
                some = slice(begin, end)
                lo, hi, at = pieces.lo[some], pieces.hi[some], pieces.at[some]
                try:
                    self._gather_chunk(chunk, lo, hi, at, out, call)
                except CorruptFileError as problem:
                    raise CorruptFileError(f"{self.where}, chunk {chunk}: {problem}") from problem
            if limit is not None:
                some = slice(ptr[0], ptr[-1])
                self._check(pieces.lo[some], pieces.hi[some], pieces.at[some], out, limit)

    def _gather_chunk(
        self,
        chunk: int,
        lo: np.ndarray,
        hi: np.ndarray,
        at: np.ndarray,
        out: np.ndarray,
        call: int,
    ) -> None:
        """Write the wanted elements of one chunk to their places."""
        length, pipeline = self._index.length, self._pipeline
        if chunk in self._index.damage:
            raise CorruptFileError(
                f"it cannot be where it is said to be: {self._index.damage[chunk]}"
            )
        if self._index.offset[chunk] < 0:
            fill = self._fill_value()
            for first, last, to in zip(lo, hi, at, strict=True):
                out[to : to + last - first] = fill
            return
        stages = self._stages_of(chunk)
        if lo.size == 1 and hi[0] - lo[0] == length:
            decode_whole(self._raw(chunk), stages, pipeline, out[at[0] : at[0] + length])
            return
        key = (*self._key, chunk)
        values = cache.get(key, call)
        if values is None:
            raw = self._raw(chunk)
            if not cache.admits(length * self.dtype.itemsize, call):
                gather_pieces(raw, stages, pipeline, lo, hi, at, out)
                return
            values = np.empty(length, self.dtype)
            cache.put(key, decode_whole(raw, stages, pipeline, values), call)
        copy_pieces(values, lo, hi, at, out)

    def _fill_value(self) -> np.ndarray:
        """Return what chunks hold that were never written: zeros where their writer left it open.

        Asked for only when there is such a chunk, and not through ``Dataset.fillvalue``: in a file
        whose fill value is damaged, that crashes HDF5 2.0.0.
        """
        properties, dtype = self._creation
        fill = np.zeros((), dtype)
        try:
            if properties.fill_value_defined() == h5py.h5d.FILL_VALUE_USER_DEFINED:
                properties.get_fill_value(fill)
        except (OSError, RuntimeError, ValueError) as problem:
            raise CorruptFileError(f"its fill value is damaged: {problem}") from problem
        # A complex number that HDF5 knows as a pair has such a fill value, too.
        fill = fill if fill.dtype.names is None else fill.view(self._pipeline.dtype)
        return fill.astype(self.dtype)

    def _stages_of(self, chunk: int) -> tuple:
        """Return the filters to undo of a chunk; nearly all chunks have the same."""
        mask = int(self._index.mask[chunk])
        stages = self._stages.get(mask)
        if stages is None:
            stages = self._stages[mask] = stages_of(self._pipeline, mask)
        return stages

    def _raw(self, chunk: int) -> memoryview:
        """Read the stored bytes of a chunk, to memory that this thread uses again."""
        offset, nbytes = int(self._index.offset[chunk]), int(self._index.nbytes[chunk])
        whole = self._pipeline.nbytes
        if nbytes > 2 * whole + (1 << 16):
            raise CorruptFileError(f"claims {nbytes} stored bytes for {whole}")
        raw = _space.get(nbytes)
        found = os.preadv(self._descriptor.fd, [raw], offset)
        if found != nbytes:
            raise CorruptFileError(f"the file ends after {found} of its {nbytes} bytes")
        self._count(0, nbytes)
        if not self._pipeline.filters and nbytes < whole:
            # The end of a contiguous dataset.
            return memoryview(bytes(raw) + bytes(whole - nbytes))
        return raw

    def _check(
        self, lo: np.ndarray, hi: np.ndarray, at: np.ndarray, out: np.ndarray, limit: int
    ) -> None:
        by_kernel = lo.size > FEW_PIECES and out.dtype in (np.int32, np.int64)
        if by_kernel and kernels.rows.first_bad_piece(lo, hi, at, out, limit) < 0:
            return
        for first, last, to in zip(lo, hi, at, strict=True):
            check_indices(out[to : to + last - first], limit, self.where)


def _chunks_at_a_time(pieces: ChunkPieces, threads: int) -> int:
    """How many chunks a thread takes: few enough that all threads end at about the same time."""
    n = pieces.chunks.size
    elements = int((pieces.hi - pieces.lo).sum())
    return max(1, min(_MOST_CHUNKS, n // (8 * threads), _MOST_ELEMENTS * n // max(1, elements)))
