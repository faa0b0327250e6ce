"""Rollback journals: what is in one, and how a file is put back to its last commit.

The idea is that of SQLite's rollback journal (https://www.sqlite.org/atomiccommit.html); the format
is our own. The journal of ``m.h5`` is ``m.h5-journal`` beside it: a header, then records, all
little-endian. The header is valid (the journal is *hot*) only while a transaction is under way.
Each record holds bytes of the file as they were at the last commit. What lies behind the old end of
the file has no records: undoing cuts it off.
"""

import contextlib
import errno
import fcntl
import os
import struct
import time
import zlib
from dataclasses import dataclass
from typing import Any

from ...errors import LockedFileError, RollbackError
from .names import open_journal

__all__ = [
    "HEADER",
    "PAGE",
    "Header",
    "fsync_folder",
    "is_hot",
    "journal_path",
    "new_header",
    "pack_record",
    "pwrite_all",
    "roll_back",
    "settle",
    "try_lock",
]

#: Bytes are saved in multiples of a page, at most so many in one record.
PAGE = 4096
MAX_RECORD = 1 << 20

_MAGIC, _VERSION = b"dcsr-jnl", 1
_SAMPLES, _SAMPLE = 8, 512
#: magic, version, page, size of the file at the commit, nonce, checksums of samples, checksum
HEADER = struct.Struct(f"<8sIIQQ{4 * _SAMPLES}sI")
#: offset in the file, length, checksum of nonce, offset, length and the bytes that follow
RECORD = struct.Struct("<QII")
_KEY = struct.Struct("<QQI")

#: A reader waits so long, in seconds, for a transaction to end; a writer for a reader's look.
PATIENCE, BRIEFLY = 1.0, 0.25
_POLL = 0.005
_NO_LOCKS = {errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK, errno.EINVAL}


@dataclass(frozen=True)
class Header:
    """The header of a hot journal."""

    size: int
    nonce: int
    samples: bytes

    def pack(self) -> bytes:
        body = HEADER.pack(_MAGIC, _VERSION, PAGE, self.size, self.nonce, self.samples, 0)[:-4]
        return body + zlib.crc32(body).to_bytes(4, "little")

    @classmethod
    def read(cls, journal: int) -> "Header | None":
        """Return the header of a hot journal, None of a cold one."""
        raw = os.pread(journal, HEADER.size, 0)
        if len(raw) < HEADER.size or not any(raw):
            return None
        magic, version, page, size, nonce, samples, checksum = HEADER.unpack(raw)
        if magic != _MAGIC or checksum != zlib.crc32(raw[:-4]):
            return None
        if (version, page) != (_VERSION, PAGE):
            raise RollbackError(f"a journal of version {version} with pages of {page} bytes")
        return cls(size, nonce, samples)


def journal_path(path: Any) -> str:
    """Where the journal of a file lies: beside the file itself, whatever links lead there."""
    return os.path.realpath(os.fsdecode(path)) + "-journal"


def new_header(data: int, size: int) -> Header:
    """Describe the open file `data`, of `size` bytes, as it is now."""
    samples = b"".join(_sample(data, at).to_bytes(4, "little") for at in _sample_offsets(size))
    return Header(size, int.from_bytes(os.urandom(8), "little"), samples)


def _sample_offsets(size: int) -> list[int]:
    return [size * i // _SAMPLES for i in range(_SAMPLES)]


def _sample(data: int, offset: int) -> int:
    return zlib.crc32(os.pread(data, _SAMPLE, offset))


def pack_record(nonce: int, offset: int, old: bytes) -> list[bytes]:
    """Return the parts of the record that saves the bytes `old` at `offset`."""
    return [RECORD.pack(offset, len(old), _checksum(nonce, offset, old)), old]


def _checksum(nonce: int, offset: int, old: bytes) -> int:
    return zlib.crc32(old, zlib.crc32(_KEY.pack(nonce, offset, len(old))))


# ------------------------------------------------------------------------------- files and locks


def try_lock(descriptor: int, patience: float = 0.0) -> bool:
    """Take the exclusive ``flock`` of an open file; False when someone else holds it.

    A file system that has no such locks counts as one where nobody else is.
    """
    deadline = time.monotonic() + patience
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except OSError as problem:
            if problem.errno in _NO_LOCKS:
                return True
            if problem.errno not in (errno.EAGAIN, errno.EACCES):
                raise
        if time.monotonic() >= deadline:
            return False
        time.sleep(_POLL)


def pwrite_all(descriptor: int, raw: Any, offset: int) -> int:
    """Write all of `raw` at `offset`, in as many calls as the system wants; return its length."""
    view = memoryview(raw).cast("B")
    done = 0
    while done < len(view):
        done += os.pwrite(descriptor, view[done:], offset + done)
    return done


def fsync_folder(path: str) -> None:
    """Put a file's name, or that it is gone, on the disk."""
    folder = os.open(os.path.dirname(path) or ".", os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


# ----------------------------------------------------------------------------------- rolling back


def roll_back(data: int, journal: int, header: Header, path: str) -> None:
    """Put a file back to its last commit. Interrupted, it can be done again.

    Parameters
    ----------
    data, journal : int
        Descriptors of the file, for writing, and of its journal.
    header : Header
        Of the journal. It is left as it is: the caller makes the journal cold afterwards.
    path : str
        Of the file, for messages.

    Raises
    ------
    RollbackError
        When the journal is that of another file; nothing is written then.
    """
    records = _find_records(journal, header)
    _check_identity(data, header, records, path)
    for offset, length, position in records:
        pwrite_all(data, os.pread(journal, length, position), offset)
    os.ftruncate(data, header.size)
    os.fsync(data)


def _find_records(journal: int, header: Header) -> list[tuple[int, int, int]]:
    """Return (offset, length, position in the journal) of each whole record.

    One that does not match its checksum was not finished, or is left from an earlier transaction;
    then the bytes it is about were not touched yet, and there is nothing behind it.
    """
    records: list[tuple[int, int, int]] = []
    position = HEADER.size
    while True:
        raw = os.pread(journal, RECORD.size, position)
        if len(raw) < RECORD.size:
            return records
        offset, length, checksum = RECORD.unpack(raw)
        position += RECORD.size
        if length > MAX_RECORD or offset + length > header.size:
            return records
        old = os.pread(journal, length, position)
        if len(old) < length or _checksum(header.nonce, offset, old) != checksum:
            return records
        records.append((offset, length, position))
        position += length


def _check_identity(data: int, header: Header, records: list, path: str) -> None:
    """Compare the parts of the file that the transaction left alone with the header.

    Device and inode would tell a copied pair of file and journal apart from the original, though
    rolling back is right there; and not tell a file whose contents were replaced.
    """
    size = os.fstat(data).st_size
    kept = sum(
        max(0, offset + length - max(offset, size)) for offset, length, _ in records
    )  # of what was cut off
    same = kept == max(0, header.size - size)
    for i, offset in enumerate(_sample_offsets(header.size)):
        end = min(offset + _SAMPLE, header.size)
        if any(at < end and offset < at + length for at, length, _ in records):
            continue
        old = zlib.crc32(os.pread(data, end - offset, offset))
        same &= old == int.from_bytes(header.samples[4 * i : 4 * i + 4], "little")
    if not same:
        raise RollbackError(
            f"{path}: the journal beside it, {journal_path(path)}, does not belong to this file, "
            "which was replaced since; remove the journal if the file is as it should be"
        )


# ----------------------------------------------------------------------------------- for readers


def is_hot(path: Any) -> bool:
    """Whether a transaction on the file is under way, or was interrupted."""
    try:
        journal = open_journal(journal_path(path), os.O_RDONLY)
    except FileNotFoundError:
        return False
    try:
        return Header.read(journal) is not None
    finally:
        os.close(journal)


def settle(path: Any) -> None:
    """See to it that a file can be read: undo the transaction of a writer that was killed.

    Does nothing when the file has no journal. Waits a second at most for a writer that is in the
    middle of a transaction.

    Parameters
    ----------
    path : path-like

    Raises
    ------
    LockedFileError
        When a living writer does not come to the end of its transaction.
    RollbackError
        When a transaction must be undone and this process may not write to the file, or the journal
        belongs to another file.
    """
    name = journal_path(path)
    if not os.path.exists(name):
        return
    deadline = time.monotonic() + PATIENCE
    while not _settle_once(name.removesuffix("-journal"), name):
        if time.monotonic() > deadline:
            raise LockedFileError(
                f"{os.fsdecode(path)}: another program is in the middle of changing it"
            )
        time.sleep(_POLL)


def _settle_once(path: str, name: str) -> bool:
    """Return False while a writer is in a transaction."""
    try:
        journal = open_journal(name, os.O_RDONLY)
    except FileNotFoundError:
        return True
    try:
        if not try_lock(journal):
            return Header.read(journal) is None
        if os.fstat(journal).st_nlink == 0:  # removed meanwhile
            return False
        header = Header.read(journal)
        if header is not None:
            _undo(path, name, header)
        with contextlib.suppress(OSError):
            os.unlink(name)
        return True
    finally:
        os.close(journal)


def _undo(path: str, name: str, header: Header) -> None:
    """Roll back; the journal's lock is held."""
    try:
        data = os.open(path, os.O_RDWR)
    except FileNotFoundError:
        return  # the file was removed, its journal was not
    except OSError as problem:
        raise RollbackError(
            f"{path}: a write to it was interrupted and must be undone before it can be read; "
            f"someone who may write to the file must open it once ({problem.strerror})"
        ) from problem
    try:
        journal = open_journal(name, os.O_RDWR)
    except OSError as problem:
        os.close(data)
        raise RollbackError(
            f"{path}: a write to it was interrupted and must be undone before it can be read; "
            f"someone who may write to {name} must open it once ({problem.strerror})"
        ) from problem
    try:
        if not try_lock(data, BRIEFLY):
            raise LockedFileError(
                f"{path}: a write to it was interrupted and must be undone, but another program "
                "has the file open"
            )
        roll_back(data, journal, header, path)
        pwrite_all(journal, bytes(HEADER.size), 0)
    finally:
        os.close(journal)
        os.close(data)
