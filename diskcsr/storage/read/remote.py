"""Reading from a file on a server: the planned extents alone, many of them at a time."""

from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import h5py
import numpy as np

from ...errors import CorruptFileError
from ...keys.plan import Plan
from ...machine.cache import cache
from ...machine.options import options
from ..claims.chunks import ChunkIndex
from ..claims.heldchunks import RawChunk, check_claim, most_claimed
from ..remote.downloads import LONGEST, Download
from ..remote.extents import waves
from ..remote.fileobject import RemoteFile, remote_of
from .jobs import EndingJob, Job
from .readers import Reader, check_pieces, native_dtype, scatter_pieces

__all__ = ["BroughtChunks", "RemoteChunks", "RemoteDescriptor", "RemoteReader", "page_bytes"]

#: Bytes that are put to their places at a time.
_BLOCK = 4 << 20


class RemoteDescriptor:
    """What a `Descriptor` is of a local file; see there."""

    def __init__(self, through: RemoteFile) -> None:
        self._through, self.remote = through, through.remote
        self.identity = through.remote.identity

    def covers(self, file: h5py.File) -> bool:
        return remote_of(file) is self._through

    def check_unchanged(self) -> None:
        """Raise `StaleFileError` when the file was changed, or what kept HDF5 from reading it."""
        self._through.check_unchanged()

    def close(self) -> None:
        """Do nothing: the connections are fsspec's."""


def page_bytes() -> int:
    """Return how many bytes come in the time that a request costs."""
    return int(options.remote_bandwidth * options.remote_latency / options.remote_connections)


class RemoteChunks:
    """The chunks of a dataset in a remote file; see `FileChunks`, whose parameters these are.

    A chunk that was not brought before is asked for alone.
    """

    def __init__(
        self, descriptor: RemoteDescriptor, index: ChunkIndex, name: str, whole: int
    ) -> None:
        self.length = index.length
        self._remote, self._index, self._whole = descriptor.remote, index, whole
        self._key = (*descriptor.identity, name)

    def bring(self, pieces: Any, call: int) -> "RemoteChunks":
        """Ask for all chunks that one call wants and the cache has not."""
        chunks, index = pieces.chunks, self._index
        offset, nbytes = index.offset[chunks], index.nbytes[chunks]
        there = (offset >= 0) & (nbytes > 0) & (offset + nbytes <= self._remote.size)
        there &= nbytes <= most_claimed(self._whole)  # whoever finds the others says so
        # Of a chunk that is wanted whole the cache is not asked.
        counts, first = np.diff(pieces.ptr), pieces.ptr[:-1]
        whole = (counts == 1) & (pieces.hi[first] - pieces.lo[first] == self.length)
        for at in np.flatnonzero(there).tolist():
            chunk = int(chunks[at])
            held = not whole[at] and cache.holds((*self._key, chunk), call)
            there[at] = not held and chunk not in index.damage
        return BroughtChunks(self, chunks[there]) if there.any() else self

    def find(self, chunk: int) -> RawChunk | None:
        """Find a chunk; None when it was never written. Raises as `FileChunks.find` does."""
        index = self._index
        if chunk in index.damage:
            raise CorruptFileError(f"it cannot be where it is said to be: {index.damage[chunk]}")
        if index.offset[chunk] < 0:
            return None
        key = (*self._key, chunk)
        return RawChunk(int(index.mask[chunk]), partial(self._read, chunk), lambda: key)

    def _read(self, chunk: int) -> Any:
        offset, nbytes = int(self._index.offset[chunk]), int(self._index.nbytes[chunk])
        check_claim(nbytes, self._whole)
        found = max(0, self._remote.size - offset)
        if found < nbytes:
            raise CorruptFileError(f"the file ends after {found} of its {nbytes} bytes")
        return self._remote.read(offset, offset + nbytes)


class BroughtChunks(RemoteChunks):
    """Chunks that one call asked for."""

    def __init__(self, all_chunks: RemoteChunks, chunks: np.ndarray) -> None:
        self.__dict__.update(all_chunks.__dict__)
        self._places = {chunk: at for at, chunk in enumerate(chunks.tolist())}
        index = self._index
        self._download = Download(self._remote, index.offset[chunks], index.nbytes[chunks])

    def end(self, problem: BaseException) -> None:
        """Wait for no chunk any more; see `EndingJob`."""
        self._download.cancel(problem)

    def _read(self, chunk: int) -> Any:
        at = self._places.pop(chunk, None)
        return super()._read(chunk) if at is None else self._download.read(at)


class _Segments(NamedTuple):
    """Elements that lie side by side in the file, and which of them go where.

    Attributes
    ----------
    lo, hi : (s,) int64 array
        Elements of each segment, ascending.
    offset : (s,) int64 array
        Where it begins in the file.
    ptr : (s + 1,) int64 array
        Pieces ``ptr[i]:ptr[i + 1]`` are of segment i.
    piece_lo, piece_hi, piece_dst : (p,) int64 array
        Elements of each piece, and its place in the result.
    """

    lo: np.ndarray
    hi: np.ndarray
    offset: np.ndarray
    ptr: np.ndarray
    piece_lo: np.ndarray
    piece_hi: np.ndarray
    piece_dst: np.ndarray


class RemoteReader(Reader):
    """Reads unfiltered data of a remote file: no more of it than is wanted, but for small gaps."""

    name = "remote"

    def __init__(
        self, dset: h5py.Dataset, where: str, descriptor: RemoteDescriptor, extents: tuple
    ) -> None:
        why = "unfiltered, in the machine's own layout, on a server"
        super().__init__(
            where, native_dtype(dset.dtype), dset.size, dset.id.get_storage_size(), why
        )
        self._remote, self._key = descriptor.remote, descriptor.identity
        self.check_unchanged = descriptor.check_unchanged
        self._extent_start, self._extent_offset = extents
        self.page = page_bytes()

    def jobs(self, plan: Plan, out: np.ndarray, limit: int | None, threads: int) -> list[Job]:
        if plan.size == 0:
            return []
        segments = self._segments(plan)
        size = self.dtype.itemsize
        nbytes = (segments.hi - segments.lo) * size
        call = cache.new_call()
        self._refuse_beyond(segments, nbytes)
        held = self._held(segments.offset, nbytes, call)
        missing = np.array([part is None for part in held])
        download = Download(self._remote, segments.offset[missing], nbytes[missing])
        self._count(int(missing.sum()), int(nbytes[missing].sum()))
        places = np.cumsum(missing) - 1
        edges = waves(nbytes, _BLOCK)
        left = deque(range(edges.size - 1))

        def bytes_of(segment: int) -> Any:
            found = held[segment]
            if found is None:
                found = download.read(int(places[segment]))
                self._keep(int(segments.offset[segment]), found, call)
            return found

        work = partial(self._work, segments, edges, left, bytes_of, out, limit)
        return [EndingJob(work, download.cancel)] * min(threads, len(left))

    def _work(
        self,
        segments: _Segments,
        edges: np.ndarray,
        left: deque[int],
        bytes_of: Callable[[int], Any],
        out: np.ndarray,
        limit: int | None,
    ) -> None:
        """Put the segments of one run after the other to their places, until none is left."""
        size = self.dtype.itemsize
        while True:
            try:
                run = left.popleft()
            except IndexError:
                return
            first, last = int(edges[run]), int(edges[run + 1])
            lo, hi = segments.lo[first:last], segments.hi[first:last]
            starts = np.append(0, np.cumsum(hi - lo))
            block = np.empty(int(starts[-1]) * size, np.uint8)
            for at, segment in enumerate(range(first, last)):
                place = slice(int(starts[at]) * size, int(starts[at + 1]) * size)
                block[place] = np.frombuffer(bytes_of(segment), np.uint8)
            begin, end = int(segments.ptr[first]), int(segments.ptr[last])
            moved = np.repeat(starts[:-1] - lo, np.diff(segments.ptr[first : last + 1]))
            some = slice(begin, end)
            piece_lo, piece_hi = segments.piece_lo[some] + moved, segments.piece_hi[some] + moved
            to = segments.piece_dst[some]
            scatter_pieces(block.view(self.dtype), piece_lo, piece_hi, to, out)
            if limit is not None:
                check_pieces(piece_lo, piece_hi, to, out, limit, self.where)

    def _refuse_beyond(self, segments: _Segments, nbytes: np.ndarray) -> None:
        """Raise `CorruptFileError` where elements cannot be: the file is not as long."""
        beyond = (segments.offset < 0) | (segments.offset + nbytes > self._remote.size)
        for at in np.flatnonzero(beyond)[:1].tolist():
            raise CorruptFileError(
                f"{self.where}: the file ends before element {segments.hi[at] - 1} of {self.size} "
                "that it claims to hold"
            )

    def _segments(self, plan: Plan) -> _Segments:
        """Say which elements are to be read, each once, and where they lie in the file."""
        lo, hi = plan.piece_lo, plan.piece_hi
        reach = np.maximum.accumulate(hi)
        begins = np.flatnonzero(np.append(True, lo[1:] > reach[:-1]))
        seg_lo, seg_hi = lo[begins], reach[np.append(begins[1:], lo.size) - 1]
        size = self.dtype.itemsize
        seg_lo, seg_hi = _divide(seg_lo, seg_hi, self._extent_start)
        most = LONGEST // size
        longest = int((seg_hi - seg_lo).max())
        if longest > most:
            edges = np.arange(0, self.size, most, dtype=np.int64)
            seg_lo, seg_hi = _divide(seg_lo, seg_hi, edges)
        extent = np.searchsorted(self._extent_start, seg_lo, side="right") - 1
        offset = self._extent_offset[extent] + (seg_lo - self._extent_start[extent]) * size
        which, piece_lo, piece_hi = _cut(lo, hi, seg_lo)
        piece, segment = which
        dst = plan.piece_dst[piece] + piece_lo - lo[piece]
        order = np.argsort(segment, kind="stable")  # an element wanted twice comes from one segment
        ptr = np.searchsorted(segment[order], np.arange(seg_lo.size + 1))
        return _Segments(seg_lo, seg_hi, offset, ptr, piece_lo[order], piece_hi[order], dst[order])

    def _held(self, offset: np.ndarray, nbytes: np.ndarray, call: int) -> list[Any]:
        """Return what the cache has of the segments, None for each that it has not."""
        if not options.cache_bytes:
            return [None] * offset.size
        keys = zip(offset.tolist(), nbytes.tolist(), strict=True)
        return [cache.get((*self._key, *key), call) for key in keys]

    def _keep(self, offset: int, found: memoryview, call: int) -> None:
        if cache.admits(len(found), call):
            cache.put((*self._key, offset, len(found)), np.frombuffer(found, np.uint8).copy(), call)


def _cut(
    lo: np.ndarray, hi: np.ndarray, edges: np.ndarray
) -> tuple[tuple[np.ndarray, np.ndarray], np.ndarray, np.ndarray]:
    """Cut spans of elements at ascending edges: which span and which part between two edges each
    piece is of, and its elements.
    """
    first = np.searchsorted(edges, lo, side="right") - 1
    count = np.searchsorted(edges, hi - 1, side="right") - first
    span = np.repeat(np.arange(lo.size), count)
    part = first[span] + np.arange(span.size) - np.repeat(np.cumsum(count) - count, count)
    ends = np.append(edges[1:], np.iinfo(np.int64).max)
    return (span, part), np.maximum(lo[span], edges[part]), np.minimum(hi[span], ends[part])


def _divide(lo: np.ndarray, hi: np.ndarray, edges: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return _cut(lo, hi, edges)[1:]
