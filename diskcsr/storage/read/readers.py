"""How the bytes of one stored array arrive: what readers have in common, and reading through h5py.

A reader serves one dataset; `diskcsr.storage.read.choose` says which. Unfiltered data in the
machine's own layout has its reader in `diskcsr.storage.read.direct`, filtered data that can be
decoded here in `diskcsr.storage.read.decode`.
"""

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar, NamedTuple

import h5py
import numpy as np

from ... import kernels
from ...breakeven import FEW_PIECES, SHARED_BYTES
from ...errors import CorruptFileError, FormatError, raise_if_systems
from ...keys.plan import Plan, plan_span
from ...machine.interrupts import deferred
from ...machine.options import format_bytes, options
from ...machine.threads import share
from ..codecs.pipeline import lacking_in_hdf5
from .jobs import Job, ended_together

__all__ = [
    "ArrayReader",
    "ConstantReader",
    "H5Reader",
    "Reader",
    "Readers",
    "Job",
    "Wanted",
    "check_indices",
    "check_pieces",
    "gather_together",
    "native_dtype",
    "scatter",
]

#: Elements that h5py reads at a time where the dataset has chunks.
H5_BLOCK = 1 << 21


def native_dtype(dtype: np.dtype) -> np.dtype:
    """Return the dtype that values of a stored `dtype` have in memory, as numpy itself spells it.

    Native byte order; MATLAB's and HDF5's compound complex numbers as complex. The object is
    numpy's own, not h5py's equal one: callers compare with ``is`` (``numpy.asarray`` does).
    """
    if dtype.names is not None and len(dtype.names) == 2:
        return np.result_type(dtype[0], np.complex64)
    return np.dtype(dtype.newbyteorder("=").str)


class Reader:
    """Serves one stored array; the base of all readers.

    Attributes
    ----------
    name : str
        What users see: "direct", "decode", "virtual", "remote", "h5py", "memory" or "constant".
    why : str
        Why this reader and not a faster one.
    where : str
        File and object, for messages.
    dtype : numpy.dtype
        Of the values as read: native, numpy's own.
    size : int
        Stored elements.
    stored_bytes : int
        Bytes the dataset takes in the file.
    places : (offset, nbytes) or None
        Where the bytes lie in the file; None where that is not known.
    check_unchanged : callable or None
        Raises `StaleFileError` when the file was changed since it was opened; None where nothing
        can.
    bytes_read, ranges_read, chunks_read : int
        Totals since opening. Bytes are those of the file, for "h5py" those of the elements.

    copies : bool
        Whether its reading costs no more than copying the bytes.
    page : int
        Bytes that are read in the time that it takes to find some; at least a page of the file.
    shares : bool
        Whether it writes to, and checks, its own places in `out` alone: others may read to the rest
        at the same time.

    Notes
    -----
    A new kind of reader says how it reads in `jobs`, or in `_gather` when it does so in one go.
    `jobs` and `finish` are for `gather_together` alone, which does neither without the other.
    """

    name: ClassVar[str]
    copies: ClassVar[bool] = False
    page: int = 4096
    shares: ClassVar[bool] = False

    def __init__(self, where: str, dtype: np.dtype, size: int, stored_bytes: int, why: str) -> None:
        self.where, self.dtype, self.size = where, dtype, size
        self.stored_bytes, self.why = stored_bytes, why
        self.places: tuple[np.ndarray, np.ndarray] | None = None
        self.check_unchanged: Callable[[], None] | None = None
        #: The same for its own file alone, where its parts are in others.
        self.check_itself: Callable[[], None] | None = None
        #: Ranges, chunks and bytes; several threads read at a time.
        self._counts, self._counting = [0, 0, 0], threading.Lock()

    def __repr__(self) -> str:
        return f"<{self.name} reader of {self.where}: {self.why}>"

    def gather(self, plan: Plan, out: np.ndarray, limit: int | None = None) -> None:
        """Read what `plan` wants into `out`.

        Parameters
        ----------
        plan : Plan
        out : (plan.size,) array
            Contiguous, of this reader's dtype.
        limit : int, optional
            For indices: each value must lie in ``[0, limit)``.

        Raises
        ------
        CorruptFileError
            When the file ends too early, cannot be decoded, or an index is out of range.
        """
        gather_together((Wanted(self, plan, out, limit),))

    def run(self, lo: int, hi: int, limit: int | None = None) -> np.ndarray:
        """Read elements ``lo:hi``; see `gather`."""
        out = np.empty(hi - lo, self.dtype)
        self.gather(plan_span(lo, hi, np.array([0, hi - lo])), out, limit)
        return out

    def jobs(self, plan: Plan, out: np.ndarray, limit: int | None, threads: int) -> list[Job]:
        """Split a `gather` into at most `threads` calls; when all are done, `finish` it."""
        return [partial(self._gather, plan, out, limit)] if plan.size else []

    def split(self, wanted: "Wanted", cuts: dict[Any, Any]) -> "list[Wanted]":
        """Say which readers read what is wanted of this one: itself, or those of its parts.

        Parameters
        ----------
        wanted : Wanted
            Of this reader.
        cuts : dict
            Plans that were cut already, for arrays that lie in the same parts.
        """
        return [wanted]

    def view(self, lo: int, hi: int) -> np.ndarray | None:
        """Return elements ``lo:hi`` where they are, unchecked; None where they have to be read.

        They must not be written to, and are there only while the array is.
        """
        return None

    def contiguous_offset(self) -> int | None:
        """Where the array lies in the file, when it lies there in one aligned piece."""
        return None

    def checks_within(self, lo: int, hi: int) -> list[Callable[[], None]]:
        """Return what raises `StaleFileError` when a file with elements ``lo:hi`` was changed."""
        return [] if self.check_unchanged is None else [self.check_unchanged]

    def lies_in_one(self) -> bool:
        """Whether the array, or each of its parts, lies in its file in one aligned piece."""
        return self.contiguous_offset() is not None

    def edges_within(self, lo: int, hi: int) -> np.ndarray:
        """Return the elements behind `lo` and before `hi` at which another part begins."""
        return np.zeros(0, np.int64)

    def finish(self, out: np.ndarray) -> None:
        """Put right what the bytes of the file may have got wrong."""
        if out.dtype == np.bool_:
            # A stored boolean is a byte that may hold anything; numpy's may be 0 or 1 alone.
            raw = out.view(np.uint8)
            np.minimum(raw, 1, out=raw)

    def _gather(self, plan: Plan, out: np.ndarray, limit: int | None) -> None:
        raise NotImplementedError

    @property
    def ranges_read(self) -> int:
        return self._counts[0]

    @property
    def chunks_read(self) -> int:
        return self._counts[1]

    @property
    def bytes_read(self) -> int:
        return self._counts[2]

    def count_for(self, whole: "Reader") -> None:
        """Count what is read as read by another reader, of which this one reads a part."""
        self._counts, self._counting = whole._counts, whole._counting

    def _count(self, ranges: int, nbytes: int, chunks: int = 0) -> None:
        with self._counting:
            for kind, more in enumerate((ranges, chunks, nbytes)):
                self._counts[kind] += more


class Wanted(NamedTuple):
    """What is to be read by one reader, and to where; see `Reader.gather`."""

    reader: Reader
    plan: Plan
    out: np.ndarray
    limit: int | None


def gather_together(wanted: Sequence[Wanted]) -> None:
    """Read from several arrays at a time, in the threads that there are.

    Raises
    ------
    CorruptFileError
        As of `Reader.gather`.
    StaleFileError
        When the file was changed since it was opened: what was read may be of several states.
    """
    cuts: dict[Any, Any] = {}
    parts = [part for one in wanted for part in one.reader.split(one, cuts)]
    threads = options.num_threads if _worth_sharing(parts) else 1
    each = -(-threads * len(wanted) // max(1, len(parts)))  # several parts are work for several
    jobs: list[Job] = []
    try:
        for reader, plan, out, limit in parts:
            jobs += reader.jobs(plan, out, limit, each)
        jobs = ended_together(jobs)
        if threads == 1:
            for job in jobs:
                job()
        else:
            share(jobs)
    except CorruptFileError:
        _check_unchanged(wanted, parts)  # what looks like damage in a file that changes is none
        raise
    _check_unchanged(wanted, parts)
    for reader, _, out, _ in wanted:
        reader.finish(out)


def _worth_sharing(wanted: Sequence[Wanted]) -> bool:
    """Whether several threads are sooner done with it than one, counting the hand-over."""
    if not all(reader.copies for reader, *_ in wanted):
        return True
    return sum(plan.size * reader.dtype.itemsize for reader, plan, *_ in wanted) >= SHARED_BYTES


def _check_unchanged(wanted: Sequence[Wanted], parts: Sequence[Wanted]) -> None:
    """Check each file that was read once: that of an array and those of its parts that were."""
    checks = [one.reader.check_itself for one in wanted]
    checks += [part.reader.check_unchanged for part in parts]
    for check in dict.fromkeys(checks):
        if check is not None:
            check()


def check_indices(indices: np.ndarray, limit: int, where: str) -> None:
    """Raise `CorruptFileError` unless all `indices` lie in ``[0, limit)``."""
    if indices.size and (indices.min() < 0 or indices.max() >= limit):
        at = int(np.flatnonzero((indices < 0) | (indices >= limit))[0])
        raise CorruptFileError(
            f"{where}: index {indices[at]} is out of range for a minor axis of length {limit}"
        )


def check_pieces(
    lo: np.ndarray, hi: np.ndarray, at: np.ndarray, out: np.ndarray, limit: int, where: str
) -> None:
    """Raise `CorruptFileError` unless all indices of some pieces, put to `at`, are in range."""
    by_kernel = lo.size > FEW_PIECES and out.dtype in (np.int32, np.int64)
    if by_kernel and kernels.rows.first_bad_piece(lo, hi, at, out, limit) < 0:
        return
    for first, last, to in zip(lo, hi, at, strict=True):
        check_indices(out[to : to + last - first], limit, where)


def scatter(block: np.ndarray, block_lo: int, plan: Plan, out: np.ndarray) -> None:
    """Copy to their places in `out` the wanted elements that lie in `block`."""
    scatter_pieces(block, plan.piece_lo, plan.piece_hi, plan.piece_dst, out, block_lo)


def scatter_pieces(
    block: np.ndarray,
    piece_lo: np.ndarray,
    piece_hi: np.ndarray,
    piece_dst: np.ndarray,
    out: np.ndarray,
    block_lo: int = 0,
) -> None:
    """Copy to their places in `out` what of ascending pieces lies in `block`."""
    if piece_lo.size > FEW_PIECES:
        pieces = (piece_lo, piece_hi, piece_dst)
        size = out.itemsize
        kernels.rows.scatter(block.view(np.uint8), block_lo, size, *pieces, out.view(np.uint8))
        return
    for lo, hi, dst in zip(piece_lo, piece_hi, piece_dst, strict=True):
        a, b = max(lo, block_lo), min(hi, block_lo + block.size)
        if a < b:
            out[dst + a - lo : dst + b - lo] = block[a - block_lo : b - block_lo]


class ArrayReader(Reader):
    """An array that was handed out: from then on it, not the file, is the truth."""

    name = "memory"
    copies = True

    def __init__(self, where: str, array: np.ndarray) -> None:
        super().__init__(where, array.dtype, array.size, 0, "the array was handed out")
        self._array = np.ascontiguousarray(array)

    def view(self, lo: int, hi: int) -> np.ndarray | None:
        return self._array[lo:hi]

    def _gather(self, plan: Plan, out: np.ndarray, limit: int | None) -> None:
        scatter(self._array, 0, plan, out)
        if limit is not None:
            check_indices(out, limit, self.where)


class ConstantReader(Reader):
    """One value that stands for all stored ones (binsparse ``iso``), or for none at all."""

    name = "constant"
    copies = True

    def __init__(self, where: str, value: Any, size: int, why: str) -> None:
        value = np.asarray(value)
        super().__init__(where, value.dtype, size, value.nbytes, why)
        self._value = value

    def _gather(self, plan: Plan, out: np.ndarray, limit: int | None) -> None:
        out[...] = self._value


class H5Reader(Reader):
    """Reads anything h5py reads: one chunk at a time under one lock, but never wrong."""

    name = "h5py"

    def __init__(self, dset: h5py.Dataset, where: str, why: str) -> None:
        dtype = native_dtype(dset.dtype)
        super().__init__(where, dtype, dset.size, dset.id.get_storage_size(), why)
        self._dset = dset

    def _gather(self, plan: Plan, out: np.ndarray, limit: int | None) -> None:
        if self._dset.chunks:
            runs = self._chunk_runs(plan, self._dset.chunks[0])
        else:
            runs = list(zip(plan.range_lo.tolist(), plan.range_hi.tolist(), strict=True))
            self._count(len(runs), plan.elements_read * self.dtype.itemsize)
        for lo, hi in runs:
            scatter(self._read(lo, hi), lo, plan, out)
        if limit is not None:
            check_indices(out, limit, self.where)

    def _chunk_runs(self, plan: Plan, chunk: int) -> list[tuple[int, int]]:
        """Element ranges of whole chunks, each touched chunk in exactly one of them."""
        longest = max(1, H5_BLOCK // chunk)
        runs: list[tuple[int, int]] = []
        first, last = -1, -2  # of the open run, in chunks
        firsts = (plan.piece_lo // chunk).tolist()
        lasts = ((plan.piece_hi - 1) // chunk).tolist()
        chunks = 0
        for a, b in zip(firsts, lasts, strict=True):
            a = max(a, last + 1)
            if a > b:
                continue
            chunks += b - a + 1
            if a > last + 1 or last < first:
                if last >= first:
                    runs.append((first, last))
                first = a
            last = b
        runs.append((first, last))
        cut = [
            (start * chunk, min(min(start + longest, b + 1) * chunk, self.size))
            for a, b in runs
            for start in range(a, b + 1, longest)
        ]
        nbytes = sum(hi - lo for lo, hi in cut) * self.dtype.itemsize
        self._count(len(cut), nbytes, chunks)
        return cut

    def _read(self, lo: int, hi: int) -> np.ndarray:
        try:
            with deferred():  # a file open for writing is read through callbacks
                values = self._dset[lo:hi]
        except (OSError, RuntimeError) as problem:
            raise_if_systems(problem, self._dset.file.filename)
            lacking = lacking_in_hdf5(self._dset)
            if lacking is not None:  # the file is as sound as ever
                raise FormatError(f"{self.where} {lacking}") from problem
            raise CorruptFileError(
                f"{self.where}: HDF5 could not read elements {lo} to {hi}: {problem}"
            ) from problem
        if values.shape != (hi - lo,):
            raise CorruptFileError(f"{self.where} ends before element {hi}")
        if values.dtype.names is not None:
            real, imag = (values[name] for name in values.dtype.names)
            values = real + 1j * imag
        return np.ascontiguousarray(values.astype(self.dtype, copy=False))


class Readers(Mapping[str, Reader]):
    """Which reader serves each dataset of an array, and why; what was read so far.

    A mapping of "data", "indices", "indptr" to readers.
    """

    def __init__(self, readers: dict[str, Reader]) -> None:
        self._readers = readers

    def __getitem__(self, name: str) -> Reader:
        return self._readers[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._readers)

    def __len__(self) -> int:
        return len(self._readers)

    @property
    def bytes_read(self) -> int:
        """Bytes of elements read from the file since it was opened."""
        return sum(reader.bytes_read for reader in self.values())

    @property
    def stored_bytes(self) -> int:
        """Bytes the datasets take in the file."""
        return sum(reader.stored_bytes for reader in self.values())

    def __repr__(self) -> str:
        return "\n".join(
            f"{name:8}{reader.name:9}{format_bytes(reader.bytes_read)} read of "
            f"{format_bytes(reader.stored_bytes)} stored; {reader.why}"
            for name, reader in self.items()
        )
