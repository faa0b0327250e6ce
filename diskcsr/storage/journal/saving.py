"""What a transaction changes, saved to the journal before it is changed."""

import contextlib
import os
from typing import Any

import numpy as np

from .records import COLD, HEAD, MAX_RECORD, PAGE, Head, new_head, pack_record
from .rollback import pwrite_all
from .turns import end_turn, take_turn

__all__ = ["AT_ONCE", "Saving"]

#: So much is saved before it is written out; a larger journal is cut back after a commit.
AT_ONCE = 4 * MAX_RECORD


class Saving:
    """The journal of a file while it is written to, transaction by transaction.

    Parameters
    ----------
    data, journal : int
        Descriptors of the file and of its journal, which is cold. They stay the caller's.
    size : int
        Of the file, as it is committed.
    durable : bool
        Wait for the disk.

    Attributes
    ----------
    head : Head or None
        Of the transaction that is under way.
    committed : int
        Size of the file at the last commit.
    """

    def __init__(self, data: int, journal: int, size: int, durable: bool) -> None:
        self._data, self._journal, self._durable = data, journal, durable
        self.committed = size
        self.head: Head | None = None
        #: The pages that were there at the last commit, and are saved.
        self._saved = np.zeros(0, dtype=bool)

    def save(self, start: int, stop: int) -> None:
        """Save what was there at the last commit between two offsets, once in a transaction."""
        missing = np.zeros(0, np.intp)
        if self.head is None:
            take_turn(self._journal)
            head = new_head(self._data, self.committed)
            self._saved = np.zeros(-(-self.committed // PAGE), dtype=bool)
        else:
            head = self.head
        if start < self.committed:
            first, last = start // PAGE, -(-min(stop, self.committed) // PAGE)
            missing = np.flatnonzero(~self._saved[first:last]) + first
        if not len(missing) and self.head is not None:
            return
        head = self._write_records(head, missing)
        if self._durable and len(missing):
            os.fsync(self._journal)  # what is counted must be there
        self._write_head(head)
        self._saved[missing] = True

    def _write_records(self, head: Head, pages: Any) -> Head:
        """Write records of some pages to the journal; return the head that counts them."""
        parts: list[bytes] = []
        number = head.records
        for first, behind in _runs(pages):
            offset = first * PAGE
            old = os.pread(self._data, min(behind * PAGE, self.committed) - offset, offset)
            parts += pack_record(head.nonce, number, offset, old)
            number += 1
            if len(parts) * MAX_RECORD // 2 > AT_ONCE:
                head = self._append(parts, head)
                parts = []
        return self._append(parts, head) if parts else head

    def _append(self, parts: list[bytes], head: Head) -> Head:
        nbytes = pwrite_all(self._journal, b"".join(parts), head.end)
        return head.counting(nbytes, len(parts) // 2)

    def _write_head(self, head: Head) -> None:
        """Have records counted: from then on what they saved may be changed."""
        try:
            pwrite_all(self._journal, head.pack(), 0)
            if self._durable:
                os.fsync(self._journal)
            self.head = head
        except BaseException:
            # Nothing was changed by it yet, and the records may be written anew.
            with contextlib.suppress(OSError):
                pwrite_all(self._journal, self.head.pack() if self.head else COLD, 0)
            raise

    def cool(self) -> None:
        """Make the journal invalid; the moment when the transaction is over."""
        long = self.head is not None and self.head.end > AT_ONCE
        pwrite_all(self._journal, COLD, 0)
        if long:
            os.ftruncate(self._journal, HEAD.size)
        if self._durable:
            os.fsync(self._journal)
        self.head = None
        end_turn(self._journal)


def _runs(pages: Any) -> list[tuple[int, int]]:
    """Join ascending page numbers to (first, behind the last), no longer than a record may be."""
    most = MAX_RECORD // PAGE
    runs: list[tuple[int, int]] = []
    for page in map(int, pages):
        if runs and runs[-1][1] == page and page - runs[-1][0] < most:
            runs[-1] = (runs[-1][0], page + 1)
        else:
            runs.append((page, page + 1))
    return runs
