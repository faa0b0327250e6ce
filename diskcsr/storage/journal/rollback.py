"""Rolling a file back to its last commit, by the journal beside it.

The idea is that of SQLite's rollback journal (https://www.sqlite.org/atomiccommit.html); the format
is our own, see `diskcsr.storage.journal.records`. A journal is *hot* while a transaction is under
way. What lies behind the old end of the file has no records: undoing cuts it off.
"""

import contextlib
import errno
import fcntl
import os
import time
import zlib
from typing import Any

from ...errors import LockedFileError, RollbackError
from ...machine.interrupts import check
from ...machine.options import options
from .names import open_as_journal
from .records import (
    COLD,
    HEAD,
    SAMPLE,
    Head,
    Record,
    find_records,
    is_cold,
    journal_path,
    sample_offsets,
)
from .turns import mark

__all__ = ["damage_of", "fsync_folder", "is_hot", "pwrite_all", "roll_back", "settle", "try_lock"]

#: A writer waits so long, in seconds, for a reader's look to end.
BRIEFLY = 0.25
_POLL = 0.001
_NO_LOCKS = {errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK, errno.EINVAL}


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


def roll_back(data: int, journal: int, head: Head, path: str) -> None:
    """Put a file back to its last commit. Interrupted, it can be done again.

    Parameters
    ----------
    data, journal : int
        Descriptors of the file, for writing, and of its journal.
    head : Head
        Of the journal. It is left as it is: the caller makes the journal cold afterwards.
    path : str
        Of the file, for messages.

    Raises
    ------
    RollbackError
        When the journal is damaged, or that of another file; nothing is written then.
    """
    records = find_records(journal, head, path)
    _check_identity(data, head, records, path)
    for offset, length, position in records:
        pwrite_all(data, os.pread(journal, length, position), offset)
    os.ftruncate(data, head.size)
    mark(data)
    os.fsync(data)


def _check_identity(data: int, head: Head, records: list[Record], path: str) -> None:
    """Compare the parts of the file that the transaction left alone with the head.

    Device and inode would tell a copied pair of file and journal apart from the original, though
    rolling back is right there; and not tell a file whose contents were replaced.
    """
    size = os.fstat(data).st_size
    kept = sum(
        max(0, offset + length - max(offset, size)) for offset, length, _ in records
    )  # of what was cut off
    same = kept == max(0, head.size - size)
    for i, offset in enumerate(sample_offsets(head.size)):
        end = min(offset + SAMPLE, head.size)
        if any(at < end and offset < at + length for at, length, _ in records):
            continue
        old = zlib.crc32(os.pread(data, end - offset, offset))
        same &= old == int.from_bytes(head.samples[4 * i : 4 * i + 4], "little")
    if not same:
        raise RollbackError(
            f"{path}: the journal beside it, {journal_path(path)}, does not belong to this file, "
            "which was replaced since; if this file is as it should be, give the journal another "
            "name, and keep it as long as the other file may be wanted"
        )


# ----------------------------------------------------------------------------------- for readers


def is_hot(path: Any) -> bool:
    """Whether a transaction on the file is under way, or was interrupted."""
    try:
        journal = open_as_journal(journal_path(path), os.O_RDONLY)
    except FileNotFoundError:
        return False
    try:
        return not is_cold(os.pread(journal, HEAD.size, 0))
    finally:
        os.close(journal)


def damage_of(path: Any) -> str | None:
    """Say what is wrong with the journal of a file; None when nothing is, or it is written to."""
    try:
        journal = open_as_journal(journal_path(path), os.O_RDONLY)
    except FileNotFoundError:
        return None
    try:
        if try_lock(journal):
            head = Head.read(journal, os.fsdecode(path))
            if head is not None:
                find_records(journal, head, os.fsdecode(path))
    except RollbackError as problem:
        return str(problem)
    finally:
        os.close(journal)
    return None


def settle(path: Any, deadline: float | None = None) -> None:
    """See to it that a file can be read: undo the transaction of a writer that was killed.

    Does nothing when the file has no journal.

    Parameters
    ----------
    path : path-like
    deadline : float, optional
        Until when, of `time.monotonic`, to wait for a writer that is in the middle of a
        transaction. Default: as long as `options.lock_timeout` says.

    Raises
    ------
    LockedFileError
        When a living writer does not come to the end of its transaction.
    RollbackError
        When a transaction must be undone and this process may not write to the file, or the journal
        is damaged or belongs to another file.
    """
    name = journal_path(path)
    if not os.path.exists(name):
        return
    if deadline is None:
        deadline = time.monotonic() + options.lock_timeout
    while not _settle_once(name.removesuffix("-journal"), name):
        if time.monotonic() > deadline:
            raise LockedFileError(
                f"{os.fsdecode(path)}: another program is in the middle of changing it"
            )
        check()
        time.sleep(_POLL)


def _settle_once(path: str, name: str) -> bool:
    """Return False while a writer is in a transaction."""
    try:
        journal = open_as_journal(name, os.O_RDONLY)
    except FileNotFoundError:
        return True
    try:
        if not try_lock(journal):
            return is_cold(os.pread(journal, HEAD.size, 0))
        if os.fstat(journal).st_nlink == 0:  # removed meanwhile
            return False
        if not os.path.exists(path):
            return True  # it may come back, and want its journal then
        head = Head.read(journal, path)
        if head is not None:
            _undo(path, name, head)
        with contextlib.suppress(OSError):
            os.unlink(name)
        return True
    finally:
        os.close(journal)


def _undo(path: str, name: str, head: Head) -> None:
    """Roll back; the journal's lock is held."""
    try:
        data = os.open(path, os.O_RDWR)
    except OSError as problem:
        raise RollbackError(
            f"{path}: a write to it was interrupted and must be undone before it can be read; "
            f"someone who may write to the file must open it once ({problem.strerror})"
        ) from problem
    try:
        journal = open_as_journal(name, os.O_RDWR)
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
        roll_back(data, journal, head, path)
        pwrite_all(journal, COLD, 0)
    finally:
        os.close(journal)
        os.close(data)
