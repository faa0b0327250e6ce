"""The row pointers of a stored matrix: as few as are needed are read, and all are checked."""

import threading
from collections.abc import Mapping
from typing import Any, cast

import numpy as np

from ...axis import Axis
from ...errors import CorruptFileError
from ...keys.plan import plan_reads, plan_span
from ...machine.options import require_memory

__all__ = ["RowPointers"]

#: Scattered row pointers are read one by one, a page of the file each, until reading all of them
#: would not have touched more.
_PAGE = 4096


class RowPointers:
    """The part of a `Source` that knows where rows begin and end."""

    where: str
    axis: Axis
    shape: tuple[int, int]
    lock: threading.RLock
    reader: Any  # of `Source`
    _read_array: Any
    #: Elements there are to point to.
    _stored: int
    _indptr: np.ndarray | None
    _last_pointer: int | None
    _pointers_read: int

    def _forget_pointers(self) -> None:
        self._indptr = None
        self._last_pointer = None
        self._pointers_read = 0

    def _all_pointers(self) -> np.ndarray:
        """Read and check the whole of indptr; int64. Kept from then on."""
        if self._indptr is None:
            n_major = self.axis.swap(self.shape)[0]
            require_memory(
                8 * (n_major + 1), f"{self.where}: indptr", "Select fewer rows at a time."
            )
            pointers = self._read_array("indptr", n_major + 1).astype(np.int64, copy=False)
            self._check_pointers(pointers, "all")
            self._indptr = pointers
        return self._indptr

    def has_pointers(self, array: np.ndarray) -> bool:
        """Whether these surely are the row pointers that the file holds."""
        return self._indptr is not None and np.array_equal(array, self._indptr)

    def _check_pointers(self, pointers: np.ndarray, first: Any) -> None:
        """Check consecutive row pointers; `first` is the major index of the first, or "all"."""
        start = 0 if first == "all" else first
        problem = at = None
        down = np.flatnonzero(pointers[1:] < pointers[:-1])
        if start == 0 and pointers[0] != 0:
            problem, at = "must begin with 0", 0
        elif down.size:
            at = int(down[0]) + 1
            problem = f"must not decrease (from {pointers[at - 1]})"
        elif pointers[0] < 0 or pointers[-1] > self._stored:
            at = 0 if pointers[0] < 0 else int(np.argmax(pointers > self._stored))
            problem = f"must lie in [0, {self._stored}], the stored elements"
        if problem:
            raise CorruptFileError(
                f"{self.where}: 'indptr' {problem}; entry {start + cast(int, at)} is "
                f"{pointers[cast(int, at)]}"
            )

    def _held_pointers(self, held: Mapping[str, np.ndarray]) -> np.ndarray | None:
        """The row pointers that are in memory already, whoever holds them; else None."""
        if "indptr" not in held:
            return self._indptr
        return held["indptr"]

    def spans(self, stored: Any, held: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """Return where the stored elements of each wanted row begin and end.

        Parameters
        ----------
        stored : range or (k,) int64 array
            Major indices, in range.
        held : mapping
            Arrays that were handed out.

        Returns
        -------
        starts, stops : (k,) int64 array
        """
        pointers = self._held_pointers(held)
        if isinstance(stored, range) and stored.step == 1:
            if pointers is None:
                pointers = self._some_pointers(stored.start, stored.stop)
            else:
                pointers = pointers[stored.start : stored.stop + 1].astype(np.int64, copy=False)
            return pointers[:-1], pointers[1:]
        rows = np.asarray(stored, dtype=np.int64)
        if pointers is None and self._worth_all(rows.size):
            pointers = self._all_pointers()
        if pointers is not None:
            return (
                pointers[rows].astype(np.int64, copy=False),
                pointers[rows + 1].astype(np.int64, copy=False),
            )
        return self._scattered_pointers(rows)

    def _worth_all(self, wanted: int) -> bool:
        self._pointers_read += wanted
        return self._pointers_read * _PAGE >= 8 * self.axis.swap(self.shape)[0]

    def _some_pointers(self, first: int, last: int) -> np.ndarray:
        """Read and check the pointers of rows ``first:last``."""
        if last <= first:
            return np.zeros(1, np.int64)
        reader = self.reader("indptr")
        raw = np.empty(last - first + 1, reader.dtype)
        reader.gather(plan_span(first, last + 1, np.array([0, raw.size])), raw)
        pointers = raw.astype(np.int64, copy=False)
        self._check_pointers(pointers, first)
        if first == 0 and last == self.axis.swap(self.shape)[0]:
            self._indptr = pointers
        return pointers

    def _scattered_pointers(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Read the two pointers of each row alone."""
        reader = self.reader("indptr")
        raw = np.empty(2 * rows.size, reader.dtype)
        reader.gather(plan_reads(rows, rows + 2), raw)
        starts, stops = raw.astype(np.int64, copy=False).reshape(-1, 2).T.copy()
        for bad in np.flatnonzero((starts > stops) | (starts < 0) | (stops > self._stored))[:1]:
            self._check_pointers(np.array([starts[bad], stops[bad]]), int(rows[bad]))
        for first in np.flatnonzero(rows == 0)[:1]:
            self._check_pointers(np.array([starts[first], stops[first]]), 0)
        # Each pair may be fine and yet reach into another row: the kernels count on it not to.
        order = np.argsort(rows, kind="stable")
        row, end, begin = rows[order], stops[order[:-1]], starts[order[1:]]
        for at in np.flatnonzero((begin < end) & (row[1:] > row[:-1]))[:1]:
            raise CorruptFileError(
                f"{self.where}: 'indptr' must not decrease; entry {row[at] + 1} is {end[at]}, but "
                f"entry {row[at + 1]} is {begin[at]}"
            )
        return starts, stops

    def nnz(self, n_major: int, held: Mapping[str, np.ndarray]) -> int:
        """Return the number of stored elements of the first `n_major` rows."""
        pointers = self._held_pointers(held)
        if pointers is not None:
            return int(pointers[n_major])
        if n_major == 0:
            return 0
        with self.lock:
            if self._last_pointer is None:
                self._last_pointer = int(self._some_pointers(n_major - 1, n_major)[-1])
        return self._last_pointer
