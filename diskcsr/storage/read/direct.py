"""Reading unfiltered data: its bytes come straight from the file, or from a map of it."""

import mmap
import os
from functools import partial

import h5py
import numpy as np

from ... import kernels
from ...breakeven import FEW_PIECES, LONG_RANGE
from ...errors import CorruptFileError
from ...keys.plan import Plan
from ...machine.options import options
from .descriptor import Descriptor
from .readers import Job, Reader, check_indices, native_dtype
from .windows import mapped_pages

__all__ = ["DirectReader"]

#: Reads only what is in memory (preadv2(2)); 0 where the system cannot.
_NOWAIT = getattr(os, "RWF_NOWAIT", 0)
_NONE = np.zeros(0, np.uint8)


class DirectReader(Reader):
    """Reads unfiltered data from the file itself, outside HDF5's lock and in parallel."""

    name = "direct"
    copies = True
    shares = True

    def __init__(
        self, dset: h5py.Dataset, where: str, descriptor: Descriptor, extents: tuple
    ) -> None:
        dtype = native_dtype(dset.dtype)
        stored = dset.id.get_storage_size()
        super().__init__(where, dtype, dset.size, stored, "unfiltered, in the machine's own layout")
        self._descriptor = descriptor
        self.check_unchanged = descriptor.check_unchanged
        #: First element of each run of bytes (and the size at the end), and its file offset.
        self.extent_start, self.extent_offset = extents

    def run(self, lo: int, hi: int, limit: int | None = None) -> np.ndarray:
        # A plan of one range takes longer to make and to look through than a line to read.
        nbytes = (hi - lo) * self.dtype.itemsize
        if not 0 < nbytes <= LONG_RANGE:
            return super().run(lo, hi, limit)
        self._descriptor.check_unchanged()
        self._count(1, nbytes)
        out = np.empty(hi - lo, self.dtype)
        self._read_straight(lo, out, 0)
        self._descriptor.check_unchanged()
        if limit is not None:
            check_indices(out, limit, self.where)
        self.finish(out)
        return out

    def jobs(self, plan: Plan, out: np.ndarray, limit: int | None, threads: int) -> list[Job]:
        self._descriptor.check_unchanged()
        self._count(plan.range_lo.size, plan.elements_read * self.dtype.itemsize)
        if plan.piece_lo.size <= FEW_PIECES and not plan.of_many:
            return [partial(self._read_few, plan, out, limit)] if plan.size else []
        # Rows are read from two arrays at once: of as many parts each, the threads that are sooner
        # done with one take more.
        parts = plan.parts(threads)
        return [partial(self._read_part, plan, part, out, limit) for part in parts]

    def view(self, lo: int, hi: int) -> np.ndarray | None:
        size = self.dtype.itemsize
        e = int(np.searchsorted(self.extent_start, lo, side="right")) - 1
        offset = int(self.extent_offset[e]) + (lo - int(self.extent_start[e])) * size
        in_one = lo < hi <= self.extent_start[e + 1] and offset % self.dtype.alignment == 0
        if not in_one or not options.memory_map or self.dtype == np.bool_:
            return None
        self._descriptor.check_unchanged()
        begin = offset - offset % mmap.ALLOCATIONGRANULARITY
        nbytes = (hi - lo) * size
        if hasattr(os, "posix_fadvise"):
            # While these are looked at, a disk can bring what follows.
            os.posix_fadvise(self._descriptor.fd, offset + nbytes, nbytes, os.POSIX_FADV_WILLNEED)
        try:
            length = offset + nbytes - begin
            mapped = mmap.mmap(self._descriptor.fd, length, prot=mmap.PROT_READ, offset=begin)
        except (OSError, ValueError):
            return None  # beyond the end of the file, or no address space: reading says which
        self._count(1, nbytes)
        return np.frombuffer(mapped, self.dtype, hi - lo, offset - begin)

    def _read_few(self, plan: Plan, out: np.ndarray, limit: int | None) -> None:
        """Carry out a plan of a few pieces without a kernel."""
        lo, hi, ptr, piece_lo, piece_hi, piece_dst = (part.tolist() for part in plan.pieces)
        flags = _NOWAIT
        for r in range(len(lo)):
            first, last = ptr[r], ptr[r + 1]
            alone = last - first == 1
            dst, size = piece_dst[first], hi[r] - lo[r]
            target = out[dst : dst + size] if alone else np.empty(size, out.dtype)
            if not self._read_straight(lo[r], target, flags):
                flags = 0
                self._advise(plan.range_lo[r:], plan.range_hi[r:])
                self._read_straight(lo[r], target, flags)
            if not alone:
                for p in range(first, last):
                    piece = target[piece_lo[p] - lo[r] : piece_hi[p] - lo[r]]
                    out[piece_dst[p] : piece_dst[p] + piece.size] = piece
            if limit is not None:  # the rest of `out` may be another reader's
                for p in range(first, last):
                    dst = piece_dst[p]
                    piece = out[dst : dst + piece_hi[p] - piece_lo[p]]
                    check_indices(piece, limit, self.where)

    def _advise(self, range_lo: np.ndarray, range_hi: np.ndarray) -> None:
        """Have the disk begin to read all ranges: it serves many requests at a time."""
        if range_lo.size > 1 and hasattr(os, "posix_fadvise"):
            size, fd = self.dtype.itemsize, self._descriptor.fd
            for lo, hi in zip(range_lo.tolist(), range_hi.tolist(), strict=True):
                e, offset = self._place(lo)
                length = (min(hi, int(self.extent_start[e + 1])) - lo) * size
                os.posix_fadvise(fd, offset, length, os.POSIX_FADV_WILLNEED)

    def _place(self, lo: int) -> tuple[int, int]:
        """Return the extent that element `lo` lies in, and the element's offset in the file."""
        e = 0
        if len(self.extent_offset) > 1:
            e = int(self.extent_start.searchsorted(lo, side="right")) - 1
        start = int(self.extent_start[e])
        return e, int(self.extent_offset[e]) + (lo - start) * self.dtype.itemsize

    def _read_straight(self, lo: int, target: np.ndarray, flags: int) -> bool:
        """Read the elements from `lo` on; False when `flags` forbid to wait and that is needed."""
        left = target.view(np.uint8).data
        size, fd = self.dtype.itemsize, self._descriptor.fd
        e, offset = self._place(lo)
        while left:
            end = min(len(left), (int(self.extent_start[e + 1]) - lo) * size)
            try:
                n = os.preadv(fd, [left[:end]], offset, flags)
            except OSError:
                if not flags:
                    raise
                return False  # it is on the disk, or the file system cannot tell
            if n <= 0 or (n % size and n < end):
                if flags:
                    return False
                self._ends_early(lo)
            left = left[n:]
            lo += n // size
            if left:
                e, offset = self._place(lo)
        return True

    def _read_part(
        self, plan: Plan, part: tuple[int, int], out: np.ndarray, limit: int | None
    ) -> None:
        # What is read in long stretches is not mapped: it would leave no room for rows.
        nbytes = plan.elements_read * out.itemsize
        long = nbytes > plan.range_lo.size * LONG_RANGE
        window = None if long else self._descriptor.window()
        ledger = np.zeros(kernels.LEDGER, np.int64)
        if window is None:
            file = (self._descriptor.fd, 0, 0, _NONE, _NONE, ledger)
            self._gather_part(file, plan, part, out, limit)
            return
        # No more than the ranges touch, nor than lie between the first and the last.
        span = int(plan.range_hi[part[1] - 1] - plan.range_lo[part[0]]) * out.itemsize
        units = (min(nbytes, span) >> kernels.CHARGE_SHIFT) + 2 * (part[1] - part[0])
        units = min(units, (span >> kernels.CHARGE_SHIFT) + 2 * self.extent_offset.size)
        ledger[kernels.MAY_ENTER] = mapped_pages.reserve(window, units)
        marks = window.warm, window.charged
        file = (self._descriptor.fd, window.address, window.size, *marks, ledger)
        try:
            self._gather_part(file, plan, part, out, limit)
        finally:
            unused, was_read = ledger[kernels.MAY_ENTER], ledger[kernels.WAS_READ]
            mapped_pages.settle(window, int(unused), int(was_read))

    def _gather_part(
        self, file: tuple, plan: Plan, part: tuple[int, int], out: np.ndarray, limit: int | None
    ) -> None:
        extents = (self.extent_start, self.extent_offset)
        checked = limit is not None and out.dtype in (np.int32, np.int64)
        if checked:
            status, at = kernels.rows.gather_indices(file, extents, plan.pieces, *part, out, limit)
        else:
            raw = out.view(np.uint8)
            status, at = kernels.rows.gather(file, extents, out.itemsize, plan.pieces, *part, raw)
        if status == kernels.rows.SHORT_FILE:
            self._ends_early(at)
        if limit is not None and (status or not checked):
            # Which one it is, is looked up only now that something is wrong.
            for p in range(plan.range_ptr[part[0]], plan.range_ptr[part[1]]):
                start = plan.piece_dst[p]
                piece = out[start : start + plan.piece_hi[p] - plan.piece_lo[p]]
                check_indices(piece, limit, self.where)

    def _ends_early(self, at: int) -> None:
        raise CorruptFileError(
            f"{self.where}: the file ends before element {at} of {self.size} that it claims to hold"
        )

    def contiguous_offset(self) -> int | None:
        if len(self.extent_offset) != 1 or self.extent_offset[0] % self.dtype.alignment:
            return None
        return int(self.extent_offset[0])

    @property
    def descriptor(self) -> Descriptor:
        return self._descriptor
