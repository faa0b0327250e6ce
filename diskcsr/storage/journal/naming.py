"""How files and their journals get their names: complete, and never those of others."""

import contextlib
import errno
import os
import uuid

from ...errors import LockedFileError
from .names import open_as_journal
from .records import COLD, journal_path
from .rollback import pwrite_all, try_lock

__all__ = ["open_journal", "remove_left_behind", "rename_new"]

#: How often a journal that vanishes is looked for again.
_TRIES = 100


def open_journal(path: str, *, new: bool, durable: bool) -> int:
    """Open the journal of a file for writing, and make one if there is none.

    Parameters
    ----------
    path : str
        Of the file.
    new : bool
        Whether the file is not anyone's yet.
    durable : bool
        Wait for the disk.

    Returns
    -------
    int
        A descriptor. Nothing is locked yet, and others may remove the journal meanwhile.
    """
    name = journal_path(path)
    if new:
        return open_as_journal(name, os.O_RDWR | os.O_CREAT)
    for _ in range(_TRIES):  # others may make and remove it meanwhile
        with contextlib.suppress(FileNotFoundError):
            return open_as_journal(name, os.O_RDWR)
        with contextlib.suppress(FileExistsError):
            _make_journal(path, durable)
    raise LockedFileError(f"{path} cannot be opened for writing: its journal comes and goes")


def _make_journal(path: str, durable: bool) -> None:
    """Make a journal that has its head before it has its name: one cut off can be told."""
    folder, own = os.path.split(path)
    aside = os.path.join(folder, f".{own[:40]}.{uuid.uuid4().hex}-journal")
    try:
        journal = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    except OSError as problem:
        problem.filename = journal_path(path)
        raise
    try:
        pwrite_all(journal, COLD, 0)
        if durable:
            os.fsync(journal)
        rename_new(aside, journal_path(path), path)
    finally:
        try:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(aside)
        finally:
            os.close(journal)


def remove_left_behind(path: str) -> None:
    """Remove the journal of a file that is gone, and leave that of one that is there alone."""
    name = journal_path(path)
    try:
        journal = open_as_journal(name, os.O_RDONLY)
    except FileNotFoundError:
        return
    try:
        if not try_lock(journal) or os.path.exists(path):
            raise _taken(path)
        if os.fstat(journal).st_nlink:  # else removed just now
            os.unlink(name)
    finally:
        os.close(journal)


def rename_new(old: str, new: str, path: str) -> None:
    """Rename a file; raise `FileExistsError`, about `path`, when there is one of the new name."""
    try:
        os.link(old, new)
    except FileExistsError:
        raise _taken(path) from None
    except OSError as problem:
        # A file system without hard links.
        if problem.errno not in (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS):
            raise
        if os.path.exists(new):
            raise _taken(path) from problem
        os.rename(old, new)
    else:
        os.unlink(old)


def _taken(path: str) -> FileExistsError:
    return FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), path)
