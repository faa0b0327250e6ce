"""The row pointers of a stored matrix: as few as are needed are read, and all are checked."""

from collections.abc import Callable
from typing import Any, Protocol, cast

import numpy as np

from ...errors import CorruptFileError, MemoryBudgetError
from ...keys.plan import plan_reads, plan_span
from ...machine.options import require_memory
from .readers import Reader

__all__ = ["ArrayPointers", "FilePointers", "RowPointers", "worth_all"]

#: Rows that are asked for one at a time: after so many of them all are read, of a longer matrix
#: when so many bytes come to each, which are read and checked in the time of a row alone.
_ALONE, _BYTES_ALONE = 8, 1 << 16
#: Row pointers whose memory is worth a question.
_MANY = 1 << 20


class RowPointers(Protocol):
    """Where the stored elements of each row begin and end."""

    def spans(self, stored: Any) -> tuple[np.ndarray, np.ndarray]:
        """Return where the stored elements of each wanted row begin and end.

        Parameters
        ----------
        stored : range or (k,) int64 array
            Major indices, in range.

        Returns
        -------
        starts, stops : (k,) int64 array
        """

    def count(self, n_major: int) -> int:
        """Return the number of stored elements of the first `n_major` rows."""


def worth_all(singly: int, n_major: int, page: int) -> bool:
    """Whether reading all costs no more than so many that are read singly, each with its page."""
    return singly * page >= 8 * n_major


class ArrayPointers:
    """Row pointers that are in memory as an array; see `RowPointers`."""

    def __init__(self, pointers: np.ndarray) -> None:
        self._pointers = pointers

    def spans(self, stored: Any) -> tuple[np.ndarray, np.ndarray]:
        if isinstance(stored, range) and stored.step == 1:
            some = self._pointers[stored.start : stored.stop + 1].astype(np.int64, copy=False)
            return some[:-1], some[1:]
        rows = np.asarray(stored, dtype=np.int64)
        starts, stops = self._pointers[rows], self._pointers[rows + 1]
        return starts.astype(np.int64, copy=False), stops.astype(np.int64, copy=False)

    def count(self, n_major: int) -> int:
        return int(self._pointers[n_major])


class FilePointers:
    """Row pointers that are in a file; see `RowPointers`. What was read of all is kept.

    Parameters
    ----------
    where : str
        How messages call the matrix.
    n_major : int
        Rows.
    elements : int
        Elements there are to point to.
    reader : callable
        Gives the reader of the dataset.
    """

    def __init__(
        self, where: str, n_major: int, elements: int, reader: Callable[[], Reader]
    ) -> None:
        self._where, self._n_major, self._elements = where, n_major, elements
        self._reader = reader
        self._all: ArrayPointers | None = None
        self._array: np.ndarray | None = None
        #: That of the last row, and how many were read singly.
        self._last: int | None = None
        #: How many were read singly, and of how many rows that were asked for alone.
        self._read_singly = self._read_alone = 0
        #: Whether something is wrong with one of them: then the other rows can be read one by one.
        self._unsound = False

    def whole(self) -> np.ndarray:
        """Read and check the whole of indptr; int64. Kept from then on."""
        if self._array is None:
            what = f"{self._where}: indptr"
            require_memory(8 * (self._n_major + 1), what, "Select less at a time.")
            self._keep(self._read(0, self._n_major + 1, "all"))
        return cast(np.ndarray, self._array)

    def _keep(self, pointers: np.ndarray) -> None:
        self._array, self._all = pointers, ArrayPointers(pointers)

    def forget(self) -> None:
        """Give back the memory of what was read."""
        self._array = self._all = None

    def are_surely(self, array: np.ndarray) -> bool:
        """Whether these are known to be the row pointers that the file holds."""
        return self._array is not None and np.array_equal(array, self._array)

    def spans(self, stored: Any) -> tuple[np.ndarray, np.ndarray]:
        if self._all is not None:
            return self._all.spans(stored)
        if isinstance(stored, range) and stored.step == 1:
            if len(stored) == 1 and self._keep_all():
                return self.spans(stored)
            pointers = self._consecutive(stored.start, stored.stop)
            return pointers[:-1], pointers[1:]
        if self._worth_all(len(stored)):
            try:
                self.whole()
            except MemoryBudgetError:
                self._read_singly = -(1 << 62)  # they never fit
            else:
                return self.spans(stored)
        return self._scattered(np.asarray(stored, dtype=np.int64))

    def count(self, n_major: int) -> int:
        if self._all is not None:
            return self._all.count(n_major)
        if n_major == 0:
            return 0
        if self._last is None:
            last = int(self._consecutive(n_major - 1, n_major)[-1])
            if last == 0:
                # Who hears that nothing is stored looks no further; the others may contradict it.
                for first in range(0, n_major, _MANY):
                    self._consecutive(first, min(first + _MANY, n_major))
            self._last = last
        return self._last

    def count_at_hand(self) -> int | None:
        """Return the number of stored elements; None when the file would have to be read."""
        if self._all is not None or self._n_major == 0:
            return self.count(self._n_major)
        return self._last

    def _worth_all(self, wanted: int) -> bool:
        """Whether all may as well be read: one by one, each with its page, touched as much."""
        self._read_singly += wanted
        return worth_all(self._read_singly, self._n_major, self._reader().page)

    def _keep_all(self) -> bool:
        """Read all for a row that is asked for alone, if that is worth it and they are sound."""
        self._read_alone += 1
        if self._read_alone <= max(_ALONE, 8 * self._n_major // _BYTES_ALONE):
            return False
        if not self._unsound:
            try:
                self.whole()
            except (CorruptFileError, MemoryError):
                self._unsound = True
        return not self._unsound

    def _consecutive(self, first: int, last: int) -> np.ndarray:
        """Read and check the pointers of rows ``first:last``."""
        if last <= first:
            return np.zeros(1, np.int64)
        pointers = self._read(first, last + 1, first)
        if first == 0 and last == self._n_major:
            self._keep(pointers)
        return pointers

    def _read(self, lo: int, hi: int, first: Any) -> np.ndarray:
        reader = self._reader()
        if hi - lo > _MANY:
            require_memory(8 * (hi - lo), f"{self._where}: indptr", "Select less at a time.")
        raw = np.empty(hi - lo, reader.dtype)
        reader.gather(plan_span(lo, hi, np.array([0, hi - lo])), raw)
        pointers = raw.astype(np.int64, copy=False)
        self._check(pointers, first)
        return pointers

    def _scattered(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Read the two pointers of each row alone."""
        reader = self._reader()
        raw = np.empty(2 * rows.size, reader.dtype)
        reader.gather(plan_reads(rows, rows + 2), raw)
        starts, stops = raw.astype(np.int64, copy=False).reshape(-1, 2).T.copy()
        for bad in np.flatnonzero((starts > stops) | (starts < 0) | (stops > self._elements))[:1]:
            self._check(np.array([starts[bad], stops[bad]]), int(rows[bad]))
        for first in np.flatnonzero(rows == 0)[:1]:
            self._check(np.array([starts[first], stops[first]]), 0)
        # Each pair may be fine and yet reach into another row: the kernels count on it not to.
        order = np.argsort(rows, kind="stable")
        row, end, begin = rows[order], stops[order[:-1]], starts[order[1:]]
        for at in np.flatnonzero((begin < end) & (row[1:] > row[:-1]))[:1]:
            raise CorruptFileError(
                f"{self._where}: 'indptr' must not decrease; entry {row[at] + 1} is {end[at]}, but "
                f"entry {row[at + 1]} is {begin[at]}"
            )
        return starts, stops

    def _check(self, pointers: np.ndarray, first: Any) -> None:
        """Check consecutive row pointers; `first` is the major index of the first, or "all"."""
        start = 0 if first == "all" else first
        problem = at = None
        down = np.flatnonzero(pointers[1:] < pointers[:-1])
        if start == 0 and pointers[0] != 0:
            problem, at = "must begin with 0", 0
        elif down.size:
            at = int(down[0]) + 1
            problem = f"must not decrease (from {pointers[at - 1]})"
        elif pointers[0] < 0 or pointers[-1] > self._elements:
            at = 0 if pointers[0] < 0 else int(np.argmax(pointers > self._elements))
            problem = f"must lie in [0, {self._elements}], the stored elements"
        if problem:
            raise CorruptFileError(
                f"{self._where}: 'indptr' {problem}; entry {start + cast(int, at)} is "
                f"{pointers[cast(int, at)]}"
            )
