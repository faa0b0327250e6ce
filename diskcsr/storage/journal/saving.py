"""What a transaction changes, saved to the journal before it is changed."""

import contextlib
import os
from typing import Any

import numpy as np

from .records import COLD, HEADER, MAX_RECORD, PAGE, Header, new_header, pack_record
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
    header : Header or None
        Of the transaction that is under way.
    committed : int
        Size of the file at the last commit.
    """

    def __init__(self, data: int, journal: int, size: int, durable: bool) -> None:
        self._data, self._journal, self._durable = data, journal, durable
        self.committed = size
        self.header: Header | None = None
        #: The pages that were there at the last commit, and are saved.
        self._saved = np.zeros(0, dtype=bool)

    def save(self, start: int, stop: int) -> None:
        """Save what was there at the last commit between two offsets, once in a transaction."""
        missing = np.zeros(0, np.intp)
        if self.header is None:
            take_turn(self._journal)
            header = new_header(self._data, self.committed)
            self._saved = np.zeros(-(-self.committed // PAGE), dtype=bool)
        else:
            header = self.header
        if start < self.committed:
            first, last = start // PAGE, -(-min(stop, self.committed) // PAGE)
            missing = np.flatnonzero(~self._saved[first:last]) + first
        if not len(missing) and self.header is not None:
            return
        header = self._write_records(header, missing)
        if self._durable and len(missing):
            os.fsync(self._journal)  # what is counted must be there
        self._write_header(header)
        self._saved[missing] = True

    def _write_records(self, header: Header, pages: Any) -> Header:
        """Write records of some pages to the journal; return the header that counts them."""
        parts: list[bytes] = []
        number = header.records
        for first, behind in _runs(pages):
            offset = first * PAGE
            old = os.pread(self._data, min(behind * PAGE, self.committed) - offset, offset)
            parts += pack_record(header.nonce, number, offset, old)
            number += 1
            if len(parts) * MAX_RECORD // 2 > AT_ONCE:
                header = self._append(parts, header)
                parts = []
        return self._append(parts, header) if parts else header

    def _append(self, parts: list[bytes], header: Header) -> Header:
        nbytes = pwrite_all(self._journal, b"".join(parts), header.end)
        return header.counting(nbytes, len(parts) // 2)

    def _write_header(self, header: Header) -> None:
        """Have records counted: from then on what they saved may be changed."""
        try:
            pwrite_all(self._journal, header.pack(), 0)
            if self._durable:
                os.fsync(self._journal)
            self.header = header
        except BaseException:
            # Nothing was changed by it yet, and the records may be written anew.
            with contextlib.suppress(OSError):
                pwrite_all(self._journal, self.header.pack() if self.header else COLD, 0)
            raise

    def cool(self) -> None:
        """Make the journal invalid; the moment when the transaction is over."""
        long = self.header is not None and self.header.end > AT_ONCE
        pwrite_all(self._journal, COLD, 0)
        if long:
            os.ftruncate(self._journal, HEADER.size)
        if self._durable:
            os.fsync(self._journal)
        self.header = None
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
