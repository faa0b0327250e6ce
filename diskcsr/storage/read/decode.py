"""Reading filtered data: chunks come as they are stored and are decoded in the thread pool."""

from collections import deque
from functools import partial
from typing import Any, NamedTuple, TypeAlias

import h5py
import numpy as np

from ...errors import CorruptFileError
from ...keys.plan import Plan
from ...machine.cache import cache
from ..claims.heldchunks import HeldChunks, RawChunk
from ..codecs.codec import Pipeline
from ..codecs.pipeline import copy_pieces, decode_whole, fill_value, gather_pieces, stages_of
from .filechunks import FileChunks
from .jobs import EndingJob, Job
from .readers import Reader, check_pieces, native_dtype
from .remote import BroughtChunks, RemoteChunks

__all__ = ["DecodeReader", "chunk_pieces"]

#: Where the stored bytes of chunks come from.
Chunks: TypeAlias = FileChunks | HeldChunks | RemoteChunks

#: The most chunks a thread takes at a time, and the most elements it then checks at once.
_MOST_CHUNKS, _MOST_ELEMENTS = 16, 1 << 17


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
    """Undoes the filters of chunks outside HDF5, of several at once.

    Each touched chunk is read and decoded once a call, and only the wanted elements are written,
    to their final places.

    Parameters
    ----------
    dset : h5py.Dataset
    where, why : str
    chunks : FileChunks, HeldChunks or RemoteChunks
        Where its stored bytes come from.
    pipeline : Pipeline
        One that is not `unsupported`.
    """

    name = "decode"
    shares = True

    def __init__(
        self,
        dset: h5py.Dataset,
        where: str,
        chunks: Chunks,
        pipeline: Pipeline,
        why: str,
    ) -> None:
        stored = dset.id.get_storage_size()
        super().__init__(where, native_dtype(dset.dtype), dset.size, stored, why)
        self._chunks, self._pipeline = chunks, pipeline
        #: What tells the value of chunks that were never written, and its type in the file.
        self._creation = dset.id.get_create_plist(), dset.dtype
        self._stages: dict[int, tuple] = {}

    def jobs(self, plan: Plan, out: np.ndarray, limit: int | None, threads: int) -> list[Job]:
        if plan.size == 0:
            return []
        pieces = chunk_pieces(plan, self._chunks.length)
        self._count(plan.range_lo.size, 0, pieces.chunks.size)
        call = cache.new_call()
        chunks = self._chunks.bring(pieces, call)
        group = _chunks_at_a_time(pieces, threads)
        firsts = range(0, pieces.chunks.size, group)
        left = deque((first, min(first + group, pieces.chunks.size)) for first in firsts)
        work: Job = partial(self._work, chunks, pieces, left, out, limit, call)
        if isinstance(chunks, BroughtChunks):
            work = EndingJob(work, chunks.end)
        return [work] * min(threads, len(left))

    def _work(
        self,
        source: Chunks,
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
                    self._gather_chunk(source.find(chunk), lo, hi, at, out, call)
                except CorruptFileError as problem:
                    raise CorruptFileError(f"{self.where}, chunk {chunk}: {problem}") from problem
            if limit is not None:
                some = slice(ptr[0], ptr[-1])
                wanted = pieces.lo[some], pieces.hi[some], pieces.at[some]
                check_pieces(*wanted, out, limit, self.where)

    def _gather_chunk(
        self,
        found: RawChunk | None,
        lo: np.ndarray,
        hi: np.ndarray,
        at: np.ndarray,
        out: np.ndarray,
        call: int,
    ) -> None:
        """Write the wanted elements of one chunk to their places."""
        length, pipeline = self._chunks.length, self._pipeline
        if found is None:
            fill = fill_value(*self._creation, pipeline)
            for first, last, to in zip(lo, hi, at, strict=True):
                out[to : to + last - first] = fill
            return
        stages = self._stages_of(found.mask)
        if lo.size == 1 and hi[0] - lo[0] == length:
            decode_whole(self._raw(found), stages, pipeline, out[at[0] : at[0] + length])
            return
        key = found.key()
        values = cache.get(key, call)
        if values is None:
            raw = self._raw(found)
            if not cache.admits(length * self.dtype.itemsize, call):
                gather_pieces(raw, stages, pipeline, lo, hi, at, out)
                return
            values = np.empty(length, self.dtype)
            cache.put(key, decode_whole(raw, stages, pipeline, values), call)
        copy_pieces(values, lo, hi, at, out)

    def _stages_of(self, mask: int) -> tuple:
        """Return the filters to undo of a chunk; nearly all chunks have the same."""
        stages = self._stages.get(mask)
        if stages is None:
            stages = self._stages[mask] = stages_of(self._pipeline, mask)
        return stages

    def _raw(self, found: RawChunk) -> Any:
        raw, whole = found.read(), self._pipeline.nbytes
        self._count(0, len(raw))
        if not self._pipeline.filters and len(raw) < whole:
            # The end of a contiguous dataset.
            return bytes(raw) + bytes(whole - len(raw))
        return raw


def _chunks_at_a_time(pieces: ChunkPieces, threads: int) -> int:
    """How many chunks a thread takes: few enough that all threads end at about the same time."""
    n = pieces.chunks.size
    elements = int((pieces.hi - pieces.lo).sum())
    return max(1, min(_MOST_CHUNKS, n // (8 * threads), _MOST_ELEMENTS * n // max(1, elements)))
