"""What an array shows: one immutable snapshot, from which whole lines are read.

Arrays that were handed out may have been changed by who holds them, so they are the truth from then
on; all else is read from the file. Nothing but `Contents` knows which is which.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NoReturn

import numpy as np

from .. import kernels
from ..axis import Axis, axis_of
from ..errors import CorruptFileError
from ..keys.plan import Plan, plan_batches, plan_reads, plan_span
from ..keys.widths import index_dtype
from ..machine.buffers import Buffers, take
from ..machine.options import options, require_memory
from ..storage.formats.conventions import ARRAYS
from ..storage.read.arrays import INSTEAD
from ..storage.read.pointers import ArrayPointers, RowPointers
from ..storage.read.readers import ArrayReader, Reader, Wanted, gather_together
from ..storage.read.source import Source
from .address import Address
from .joined import JoinedAddress, address_of
from .nofile import NoFile
from .walk import Block

__all__ = ["Contents"]

#: Rows whose pointers are looked at in one go when a whole matrix is walked, and how many are where
#: a longer one is cut.
WALK, GRID = 1 << 20, 1 << 12
#: How many times as large blocks are that take no memory: there are the fewer to be planned.
SEEN = 4


@dataclass(frozen=True, slots=True, eq=False)
class Contents:
    """What an array shows at one moment.

    Attributes
    ----------
    source : Source
        The stored matrix. What is read from it later is what the file holds then.
    held : mapping
        The arrays that were handed out, by name.
    axis : Axis
        The array's own: that of the source, or of its transpose.
    shape : (int, int)
        The array's own.

    Notes
    -----
    It can be pickled: by address while what was handed out is as the file has it, else by value.
    """

    source: Source
    held: Mapping[str, np.ndarray]
    axis: Axis
    shape: tuple[int, int]

    @classmethod
    def stored(cls, source: Source) -> "Contents":
        """Return what the file holds, whatever was handed out."""
        return cls(source, {}, source.axis, source.shape)

    @classmethod
    def in_memory(
        cls, arrays: Mapping[str, np.ndarray], axis: Axis, shape: tuple[int, int]
    ) -> "Contents":
        """Return what three arrays hold; there is no file."""
        source: Any = NoFile(axis, shape, arrays["data"].dtype)
        return cls(source, arrays, axis, shape)

    @property
    def n_major(self) -> int:
        """Length of the major axis."""
        return self.axis.swap(self.shape)[0]

    @property
    def n_minor(self) -> int:
        """Length of the minor axis."""
        return self.axis.swap(self.shape)[1]

    @property
    def dtype(self) -> np.dtype:
        """Of the values."""
        return self.held["data"].dtype if "data" in self.held else self.source.dtype

    @property
    def nnz(self) -> int:
        """Number of stored elements."""
        return self.pointers.count(self.n_major)

    @property
    def counts(self) -> bool:
        """Whether row pointers alone say how many elements each line has: they do."""
        return True

    @property
    def elements(self) -> int:
        """Number of stored elements that are read when all lines are."""
        return self.nnz

    def nnz_at_hand(self) -> int | None:
        """Return the number of stored elements; None when the file would have to be read."""
        return self.nnz if "indptr" in self.held else self.source.pointers.count_at_hand()

    @property
    def pointers(self) -> RowPointers:
        """The row pointers: those that were handed out, or the file's."""
        if "indptr" in self.held:
            return ArrayPointers(self.held["indptr"])
        return self.source.pointers

    def reader(self, name: str) -> Reader:
        """Return what gives "data" or "indices": the array itself once it was handed out."""
        if name in self.held:
            return ArrayReader(f"{self.source.where}, array {name!r} in memory", self.held[name])
        return self.source.reader(name)

    def is_as_stored(self) -> bool:
        """Whether all that is shown surely equals what the file holds."""
        shape = self.source.shape if self.axis is self.source.axis else self.source.shape[::-1]
        return self.shape == shape and all(
            self.source.arrays.is_as_stored(name, array) for name, array in self.held.items()
        )

    # ---------------------------------------------------------------------------- whole lines

    def spans(self, majors: Any) -> tuple[np.ndarray, np.ndarray]:
        """Return where the elements of lines begin and end.

        Parameters
        ----------
        majors : range or (k,) int64 array
            Major indices, in range.

        Returns
        -------
        starts, stops : (k,) int64 array
        """
        return self.pointers.spans(majors)

    def lengths(self, majors: Any = None) -> np.ndarray:
        """Return how many elements lines have; all lines where `majors` is not given."""
        starts, stops = self.spans(range(self.n_major) if majors is None else majors)
        return stops - starts

    def plan(self, majors: Any) -> Plan:
        """Plan the reads that give the wanted lines; `majors` as of `spans`."""
        return _planned(majors, *self.spans(majors))

    def cuts(self, count: int) -> list[range]:
        """Cut the lines into at most `count` runs of about equal numbers of elements.

        They depend on the matrix and on `count` alone. Of a very long matrix only some row
        pointers are looked at, and lines between them stay together.
        """
        n, nnz = self.n_major, self.nnz
        if count < 2 or not nnz:
            return [range(n)] if n else []
        if n <= WALK:
            lines = np.arange(n + 1)
            starts = self.spans(range(n))[0]
        else:
            lines = np.linspace(0, n, GRID).astype(np.int64)
            starts = self.spans(lines[:-1])[0]
        inner = lines[np.searchsorted(starts, nnz * np.arange(1, count) // count)]
        edges = np.unique(np.concatenate(([0], inner, [n]))).tolist()
        return [range(a, b) for a, b in pairwise(edges)]

    def plans(self, majors: Any, max_bytes: int) -> Iterator[tuple[int, Plan]]:
        """Plan the wanted lines in blocks of bounded size.

        Parameters
        ----------
        majors : range or (k,) int64 array
            Major indices, in range.
        max_bytes : int
            The most bytes of values and indices a block holds, unless one line holds more.

        Yields
        ------
        first : int
            The block's place in `majors`.
        plan : Plan
        """
        most = max(1, max_bytes // (self.dtype.itemsize + index_dtype(self.n_minor).itemsize))
        for begin in range(0, len(majors), WALK):
            some = majors[begin : begin + WALK]
            starts, stops = self.spans(some)
            for first, last in plan_batches(stops - starts, most):
                place = slice(first, last)
                yield begin + first, _planned(some[place], starts[place], stops[place])

    def block(
        self, first: int, plan: Plan, buffers: Buffers | None = None, only: str | None = None
    ) -> Block:
        """Read the block of a plan; see `read`."""
        return Block(first, *self.read(plan, buffers, only))

    def walk(
        self,
        majors: range,
        max_bytes: int,
        buffers: Buffers,
        only: str | None = None,
        straight: bool = False,
    ) -> Iterator[Block]:
        """Give whole lines, one block after the other in the same memory.

        Parameters
        ----------
        majors : range
            Major indices, in range.
        max_bytes : int
            As of `plans`.
        buffers : Buffers
        only : {"data", "indices"}, optional
        straight : bool
            Whether the indices of what is looked at where it lies need not be checked, and blocks
            of it may be `SEEN` times as large, for they take no memory.

        Yields
        ------
        Block
            Its `first` is a major index.
        """
        self.source.check_open()
        larger = max_bytes * SEEN if straight and self._can_be_seen() else max_bytes
        for first, plan in self.plans(majors, larger):
            place = majors.start + first
            seen = self._seen(place, plan, only, not straight)
            if seen is not None:
                yield seen
                # Others may have changed it while it was looked at.
                self._check_unchanged(*((plan.range_lo[0], plan.range_hi[-1]) if plan.size else ()))
            elif larger > max_bytes:  # it reaches from one part of the matrix into the next
                runs = self._runs(place, plan)
                for run in runs:
                    yield from self.walk(run, max_bytes, buffers, only, len(runs) > 1)
            else:
                yield self.block(place, plan, buffers, only)

    def _runs(self, first: int, plan: Plan) -> list[range]:
        """Cut the lines of a plan, from `first` on, where parts of the matrix end."""
        lo = int(plan.range_lo[0]) if plan.size else 0
        ends = self.reader("data").edges_within(lo, lo + plan.size) - lo
        n = plan.indptr.size - 1
        lines = np.unique(np.concatenate(([0], plan.indptr.searchsorted(ends), [n]))).tolist()
        return [range(first + a, first + b) for a, b in pairwise(lines)]

    def _can_be_seen(self) -> bool:
        """Whether both arrays lie in their file in one piece each, and can be looked at there."""
        in_one = all(self.reader(name).lies_in_one() for name in ("data", "indices"))
        return in_one and options.memory_map

    def refuse(self, majors: range) -> NoReturn:
        """Say which minor index of some lines is out of range: one of them is, or was.

        Raises
        ------
        CorruptFileError
        """
        self.read(self.plan(majors))  # which checks all that it reads
        self._check_unchanged()
        raise CorruptFileError(
            f"{self.source.where}: a minor index of {self.axis.majors} {majors.start} to "
            f"{majors.stop} was out of range, and is not any more"
        )

    def _check_unchanged(self, lo: int = 0, hi: int | None = None) -> None:
        """Raise `StaleFileError` when a file that elements ``lo:hi`` are in was changed."""
        readers = [self.reader(name) for name in ("data", "indices")]
        for reader in readers:
            for check in reader.checks_within(lo, reader.size if hi is None else hi):
                check()

    def _seen(self, first: int, plan: Plan, only: str | None, check: bool) -> Block | None:
        """Return the block of a plan of whole lines where it is, if it need not be read."""
        lo, hi = (int(plan.range_lo[0]), int(plan.range_hi[-1])) if plan.size else (0, 0)
        index = index_dtype(plan.size, self.n_minor)
        seen = {"data": np.empty(0, self.dtype), "indices": np.empty(0, index)}
        for name in seen if plan.size else ():
            if only in (None, name):
                reader = self.reader(name)
                part = None if hi > reader.size else reader.view(lo, hi)
                if part is None or part.dtype != seen[name].dtype:
                    return None
                seen[name] = part
        if (
            check
            and seen["indices"].size
            and kernels.rows.first_bad_index(seen["indices"], self.n_minor) >= 0
        ):
            return None  # reading them says which
        indptr = plan.indptr.astype(index, copy=False)
        return Block(first, seen["data"], seen["indices"], indptr)

    def read(
        self, plan: Plan, buffers: Buffers | None = None, only: str | None = None
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Carry out a plan, into `buffers` where given; of "data" or "indices" `only` if asked.

        Returns
        -------
        data, indices, indptr : array
            A compressed block: the values in `self.dtype`; both index arrays int32 where that
            holds every index and the number of elements, else int64. What was not to be read is
            empty.

        Raises
        ------
        CorruptFileError
            When an index is out of range or the file cannot be read.
        MemoryBudgetError
            When the block does not fit the memory budget; nothing was read.
        """
        self.source.check_open()
        n_minor = self.n_minor
        self.require_room(plan.size, plan.indptr.size - 1)
        wanted = {
            name: self._wanted(name, plan, limit, buffers)
            for name, limit in (("data", None), ("indices", n_minor))
            if only in (None, name)
        }
        gather_together(tuple(wanted.values()))
        index = index_dtype(plan.size, n_minor)
        data, indices = (
            _converted(wanted[name].out, dtype, f"own {name}", buffers)
            if name in wanted
            else np.empty(0, dtype)
            for name, dtype in (("data", self.dtype), ("indices", index))
        )
        return data, indices, _converted(plan.indptr, index, "indptr", buffers)

    def require_room(self, elements: int, lines: int) -> None:
        """Raise `MemoryBudgetError` when lines of so many elements do not fit the budget."""
        nbytes = elements * (self.source.dtype.itemsize + 4) + 8 * (lines + 1)
        require_memory(nbytes, f"{self.source.where}: reading {lines} rows", INSTEAD)

    def element(self, major: int, minor: int) -> np.generic:
        """Return one element: duplicates added up, 0 where nothing is stored.

        The indices of its line are read, and of the values those that are wanted. The result is
        that of reading the line and indexing it, without the matrix in between.
        """
        starts, stops = self.spans(range(major, major + 1))
        line = self.part("indices", int(starts[0]), int(stops[0]))
        found = np.flatnonzero(line == minor)
        dtype = self.dtype
        if found.size == 0:
            return dtype.type(0)
        values = self.part("data", int(starts[0] + found[0]), int(starts[0] + found[-1]) + 1)
        return values[found - found[0]].astype(dtype).sum(dtype=dtype)

    def part(self, name: str, lo: int, hi: int) -> np.ndarray:
        """Read elements ``lo:hi`` of "data" or "indices", in the dtype they are stored in."""
        self.source.check_open()
        reader = self.reader(name)
        _check_reach(reader, lo, hi)
        return reader.run(lo, hi, self.n_minor if name == "indices" else None)

    def _wanted(self, name: str, plan: Plan, limit: int | None, buffers: Buffers | None) -> Wanted:
        reader = self.reader(name)
        if plan.range_hi.size:
            _check_reach(reader, plan.range_lo[0], plan.range_hi[-1])
        return Wanted(reader, plan, take(buffers, name, plan.size, reader.dtype), limit)

    # -------------------------------------------------------------------------------- pickling

    def check(self) -> None:
        """Raise what can be found wrong before a line is read; whoever believes lengths asks.

        Raises
        ------
        CorruptFileError
            When row pointers or indices are not where they can be, or claim what is not there.
        """
        if not self.held:
            self.source.check_indices_there(self.nnz)

    def address(self) -> Address | JoinedAddress | None:
        """Return where to find all this again; None when it is not in a file as it is shown."""
        self.source.check_open()
        found = address_of(self.source)
        return found if found is not None and self.is_as_stored() else None

    def __reduce__(self) -> Any:
        address = self.address()
        if address is not None:
            return _found, (address, self.axis.format, self.shape)
        arrays: Mapping[str, np.ndarray] = self.held
        if set(arrays) != set(ARRAYS):
            block = self.read(self.plan(range(self.n_major)))
            arrays = dict(zip(ARRAYS, block, strict=True))
        return _in_memory, (dict(arrays), self.axis.format, self.shape)


def _found(address: Address | JoinedAddress, format: str, shape: tuple[int, int]) -> Contents:
    return Contents(address.open(), {}, axis_of(format), shape)


def _in_memory(arrays: dict[str, np.ndarray], format: str, shape: tuple[int, int]) -> Contents:
    return Contents.in_memory(arrays, axis_of(format), shape)


def _check_reach(reader: Reader, lo: int, hi: int) -> None:
    """No plan reaches past the end of an array, whoever made its row pointers."""
    if hi > reader.size or lo < 0:
        raise CorruptFileError(
            f"{reader.where}: row pointers ask for elements {lo} to {hi}, but it holds "
            f"{reader.size}"
        )


def _planned(majors: Any, starts: np.ndarray, stops: np.ndarray) -> Plan:
    if isinstance(majors, range) and (majors.step == 1 or len(majors) == 1) and starts.size:
        indptr = np.append(starts, stops[-1]) - starts[0]
        return plan_span(int(starts[0]), int(stops[-1]), indptr)
    return plan_reads(starts, stops)


def _converted(
    array: np.ndarray, dtype: np.dtype, name: str, buffers: Buffers | None
) -> np.ndarray:
    if array.dtype == dtype:
        return array
    out = take(buffers, name, array.size, dtype)
    np.copyto(out, array, casting="unsafe")
    return out
