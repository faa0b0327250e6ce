"""The stored matrices that are one: opened when they are read, and no more at a time than may be.

Each is a `Source` of its own, with its readers, its row pointers and its checks.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import CorruptFileError, StaleFileError
from ..keys.widths import INT32_MAX
from ..machine.options import require_memory
from ..storage.formats.conventions import ARRAYS
from ..storage.read.parts import CastReader, PartsReader, descriptors_for_parts
from ..storage.read.pointers import ArrayPointers, FilePointers, worth_all
from ..storage.read.readers import Reader, native_dtype, scatter
from ..storage.read.source import Source
from .address import Address

__all__ = ["Files", "JoinedPointers", "JoinedReader", "Part", "PointersReader", "index_dtype_of"]


@dataclass(frozen=True)
class Part:
    """One of the matrices that are one, open or not.

    Attributes
    ----------
    address : Address
        Where it is, and in which state of its file.
    n_major : int
    nnz : int
        Stored elements.
    stored : mapping
        The dtypes in which readers give "data" and "indices".
    """

    address: Address
    n_major: int
    nnz: int
    stored: dict[str, np.dtype]

    @classmethod
    def of(cls, source: Source) -> "Part":
        """Describe an open matrix, of which one row pointer is read for it.

        Raises
        ------
        ValueError
            When it is in no ordinary file.
        """
        address = Address.of(source)
        if address is None:
            raise ValueError(f"{source.where} is in no ordinary file: it cannot be one of many")
        n_major = source.axis.swap(source.shape)[0]
        stored = {"data": source.dtype, "indices": np.dtype(np.int32)}
        for name in stored:
            dset = source.dataset(name)
            if dset is not None:
                stored[name] = native_dtype(dset.dtype)
        return cls(address, n_major, source.pointers.count(n_major), stored)

    @property
    def where(self) -> str:
        """What messages call it."""
        return f"{self.address.path}, group {self.address.name!r}"

    def open(self) -> Source:
        """Open it, in the state that it was in.

        Raises
        ------
        StaleFileError
            When its file was changed since.
        OSError
            When it is not there any more.
        """
        source = self.address.open()
        if source.freshness.as_shown != self.address.state:
            source.close()
            raise StaleFileError(
                f"{self.where}, one of several files, was changed after it was opened; refresh(), "
                "or opening them anew, shows what is there now"
            )
        return source


class Files:
    """The parts, those open that were read last.

    Parameters
    ----------
    parts : sequence of Part
    sources : dict of int to Source
        Those that are open already; they are closed with the others.

    Attributes
    ----------
    tallies : dict of str to Reader
        By the name of an array, what counts the reading of its parts.
    """

    def __init__(self, parts: Sequence[Part], sources: dict[int, Source]) -> None:
        self.parts = parts
        self.tallies = {name: Reader("", np.dtype(np.int64), 0, 0, "") for name in ARRAYS}
        self._lock = threading.RLock()
        #: Makes what is raised instead of opening one.
        self._refusal: Callable[[], Exception] | None = None
        self._open: OrderedDict[int, Source] = OrderedDict()
        for number, source in sources.items():
            self._keep(number, source)

    def source(self, number: int) -> Source:
        """Return a part, opened if need be."""
        found = self._open.get(number)
        if found is not None and len(self._open) == len(self.parts):
            return found
        with self._lock:
            found = self._open.get(number)
            if self._refusal is not None:
                raise self._refusal()
            if found is None:
                self._keep(number, found := self.parts[number].open())
            self._open.move_to_end(number)
            return found

    def _keep(self, number: int, source: Source) -> None:
        """Keep a source open, and let go of those that were not read for long.

        They are closed with their last reference: a thread may be reading just now.
        """
        self._open[number] = source
        while len(self._open) > most_open():
            self._open.popitem(last=False)

    def reader(self, number: int, name: str) -> Reader:
        """Return the reader of one of the three arrays of a part."""
        reader = self.source(number).reader(name)
        reader.count_for(self.tallies[name])
        return reader

    def pointers(self, number: int) -> FilePointers:
        """Return the row pointers of a part."""
        self.reader(number, "indptr")  # which counts from then on
        return self.source(number).pointers

    def opened(self) -> list[Source]:
        """Return the parts that are open now."""
        with self._lock:
            return list(self._open.values())

    def check_unchanged(self) -> None:
        """Raise `StaleFileError` when a file that is open was changed."""
        for source in self.opened():
            source.freshness.check_unchanged()

    def close(self, refusal: Callable[[], Exception]) -> None:
        """Close all that are open, and from now on raise what `refusal` makes."""
        with self._lock:
            self._refusal = refusal
            sources, self._open = self._open, OrderedDict()
        for source in sources.values():
            source.close()


def most_open() -> int:
    """How many parts may be open at a time: each is opened by HDF5 and by us."""
    return max(1, descriptors_for_parts() // 2)


class JoinedReader(PartsReader):
    """Reads "data" or "indices" of several matrices as if they were one array.

    Parameters
    ----------
    where : str
    name : {"data", "indices"}
    files : Files
    edges : (k + 1,) int64 array
        Where the elements of each part begin.
    dtype : numpy.dtype
        Of the values in memory; what is read is of the parts' own type where they have one.
    tables : sequence, optional
        Of indices: what becomes of those of each part; see `Columns.maps`.
    """

    name = "joined"

    def __init__(
        self,
        where: str,
        name: str,
        files: Files,
        edges: np.ndarray,
        dtype: np.dtype,
        tables: Sequence[np.ndarray | None] = (),
    ) -> None:
        stored = {part.stored[name] for part in files.parts}
        self._tables = tables if any(table is not None for table in tables) else ()
        self._casts = len(stored) > 1 or bool(self._tables)
        super().__init__(where, dtype if self._casts else stored.pop(), edges)
        self._array, self._files = name, files
        self.check_unchanged = files.check_unchanged
        self.why = f"{len(files.parts)} files, each read by itself"
        self.count_for(files.tallies[name])

    def part(self, number: int) -> Reader:
        source = self._files.source(number)
        reader = self._files.reader(number, self._array)
        table = self._tables[number] if self._tables else None
        if reader.shares and reader.dtype == self.dtype and table is None:
            return reader
        through = source.dtype if self._array == "data" and self._casts else None
        return CastReader(reader, self.dtype, through, source, table)

    def lies_in_one(self) -> bool:
        # Of those that are not open yet it is not known, and walking finds out.
        opened = self._files.opened()
        return not self._tables and all(
            source.reader(self._array).lies_in_one() for source in opened
        )

    def look(self) -> None:
        """Look at all parts, to say what reads them and how many bytes they take."""
        numbers = range(len(self._files.parts))
        self.describe([self._files.reader(number, self._array) for number in numbers])


class PointersReader(Reader):
    """Row pointers of the whole, which are computed from those of the parts."""

    name = "joined"
    copies = True
    shares = True

    def __init__(self, where: str, pointers: "JoinedPointers", files: Files) -> None:
        why = f"computed from those of {len(files.parts)} files"
        super().__init__(where, np.dtype(np.int64), pointers.n_major + 1, 0, why)
        self._pointers, self._files = pointers, files
        self.count_for(files.tallies["indptr"])

    def _gather(self, plan: Any, out: np.ndarray, limit: int | None) -> None:
        scatter(self._pointers.whole(), 0, plan, out)

    def look(self) -> None:
        """Look at all parts, to say how many bytes they take."""
        numbers = range(len(self._files.parts))
        self.stored_bytes = sum(self._files.reader(n, "indptr").stored_bytes for n in numbers)


class JoinedPointers:
    """Row pointers of several matrices as those of one; see `RowPointers`.

    Parameters
    ----------
    where : str
    files : Files
    lines, edges : (k + 1,) int64 array
        Where the lines and the elements of each part begin.
    """

    def __init__(self, where: str, files: Files, lines: np.ndarray, edges: np.ndarray) -> None:
        self._where, self._files, self._lines, self._edges = where, files, lines, edges
        self._all: ArrayPointers | None = None
        self._array: np.ndarray | None = None
        #: How many were read singly, and whether something is wrong with one of all.
        self._read_singly, self._unsound = 0, False

    @property
    def n_major(self) -> int:
        """Lines there are."""
        return int(self._lines[-1])

    def whole(self) -> np.ndarray:
        """Read and check all; int64. Kept from then on."""
        if self._array is None:
            what = f"{self._where}: indptr"
            require_memory(8 * (self.n_major + 1), what, "Select less at a time.")
            array = np.zeros(self.n_major + 1, np.int64)
            for number, part in enumerate(self._files.parts):
                begin, end = int(self._lines[number]), int(self._lines[number + 1])
                if part.n_major:
                    pointers = self._files.pointers(number)
                    own = pointers.whole()
                    np.add(own[1:], self._edges[number], out=array[begin + 1 : end + 1])
                    pointers.forget()  # once is enough
            self._array, self._all = array, ArrayPointers(array)
        return self._array

    def are_surely(self, array: np.ndarray) -> bool:
        """Whether these are known to be the row pointers that the files hold."""
        return self._array is not None and np.array_equal(array, self._array)

    def spans(self, stored: Any) -> tuple[np.ndarray, np.ndarray]:
        """Return where the elements of lines begin and end; see `RowPointers.spans`."""
        if self._all is None:
            run = isinstance(stored, range) and stored.step == 1
            every = run and len(stored) == self.n_major
            if run and len(stored) != 1 and not every:
                return self._of_run(stored)
            self._read_singly += len(stored)
            if not (every or self._keep_all()):
                return self._of_lines(np.asarray(stored, dtype=np.int64))
            self.whole()
        assert self._all is not None
        return self._all.spans(stored)

    def _keep_all(self) -> bool:
        """Read all if that is worth it and they are sound; else lines can be read one by one."""
        if self._unsound or not worth_all(self._read_singly, self.n_major, Reader.page):
            return False
        try:
            self.whole()
        except (CorruptFileError, MemoryError):
            self._unsound = True
        return not self._unsound

    def _of_run(self, lines: range) -> tuple[np.ndarray, np.ndarray]:
        starts, stops = np.empty(len(lines), np.int64), np.empty(len(lines), np.int64)
        first, last = self._lines.searchsorted([lines.start, lines.stop - 1], side="right") - 1
        for number in range(int(first), int(last) + 1):
            begin, end = int(self._lines[number]), int(self._lines[number + 1])
            lo, hi = max(begin, lines.start), min(end, lines.stop)
            if lo < hi:
                found = self._files.pointers(number).spans(range(lo - begin, hi - begin))
                for whole, own in zip((starts, stops), found, strict=True):
                    place = whole[lo - lines.start : hi - lines.start]
                    np.add(own, self._edges[number], out=place)
        return starts, stops

    def _of_lines(self, lines: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        starts, stops = np.empty(lines.size, np.int64), np.empty(lines.size, np.int64)
        part = self._lines.searchsorted(lines, side="right") - 1
        for number in np.unique(part).tolist():
            at = np.flatnonzero(part == number)
            found = self._files.pointers(number).spans(lines[at] - self._lines[number])
            for whole, own in zip((starts, stops), found, strict=True):
                whole[at] = own + self._edges[number]
        return starts, stops

    def count(self, n_major: int) -> int:
        """Return the number of stored elements of the first lines."""
        if n_major == self.n_major:
            return int(self._edges[-1])
        return int(self.spans(range(n_major, n_major + 1))[0][0])

    def count_at_hand(self) -> int | None:
        """Return the number of stored elements, which is known."""
        return int(self._edges[-1])


def index_dtype_of(parts: Sequence[Part], n_minor: int) -> np.dtype:
    """Return a signed type that holds the indices of all parts."""
    small = all(part.stored["indices"].itemsize <= 4 for part in parts)
    longest = max(n_minor, *(max(part.address.shape) for part in parts))
    return np.dtype(np.int32 if small and longest <= INT32_MAX else np.int64)
