"""HDF5 files opened so that writes are atomic, and that readers never see half of one."""

import contextlib
import errno
import fcntl
import os
import shutil
import uuid
from collections.abc import Iterator
from functools import partial
from typing import Any

import h5py
from h5py import h5f, h5fd

from ...errors import LockedFileError
from ...machine.interrupts import check, deferred
from ..journal.fileobject import JournalFile
from ..journal.names import check_ordinary, named
from ..journal.records import journal_path
from .anew import ReadAnew
from .freshness import is_shown_as_it_is
from .lock import hdf5_locked
from .looking import consistently
from .superblock import check_superblock
from .transactions import (
    close_file,
    driver_of,
    flush_file,
    give_up,
    raise_cause,
    register,
    register_anew,
    undo,
)

__all__ = ["JournaledFile", "new_file", "open_to_read", "open_to_write"]


class JournaledFile(h5py.File):
    """An `h5py.File` with a journal: `flush` and `close` are commits, what is between them is not.

    Inside of a `transaction` they leave the commit to its end.
    """

    def flush(self) -> None:
        flush_file(self)

    def close(self) -> None:
        close_file(self)


# -------------------------------------------------------------------------------- for readers


def open_to_read(path: Any, **keywords: Any) -> h5py.File:
    """Open an HDF5 file for reading, at a committed state: that which it is in now.

    A transaction that was interrupted is undone first. No lock is kept, so that a writer can open
    the file meanwhile: look at its size and time before trusting what was read earlier.

    Parameters
    ----------
    path : path-like
    **keywords
        Of `h5py.File`.

    Raises
    ------
    LockedFileError
        When another program does not let it be read for `options.lock_timeout` seconds.
    RollbackError
        When a transaction must be undone, and cannot be by this process.
    OSError
        As `h5py.File` does.
    """
    return consistently(path, partial(_open_now, path, keywords), h5py.File.close)


def _open_now(path: Any, keywords: dict[str, Any]) -> h5py.File:
    """Open a file so that HDF5 shows what is in it now.

    Files that are open together in a process share what HDF5 has read. Not so Python's file
    objects.
    """
    file = _open_unlocked(path, keywords)
    path = os.path.realpath(os.fsdecode(path))
    if not keywords and not is_shown_as_it_is(file, path):
        file.close()
        anew = ReadAnew(path)
        file = h5py.File(anew, "r")
        register_anew(file, anew)
    return file


def _open_unlocked(path: Any, keywords: dict[str, Any]) -> h5py.File:
    """Open without a lock in the end, but refused as h5py is when a foreign writer has one.

    ``locking=False`` would do, but HDF5 refuses to open one file with two settings of it in one
    process, and users open with the default. So the lock is taken as always, and then dropped.
    """
    try:
        file = h5py.File(os.fspath(path), "r", **keywords)
    except OSError as problem:
        about_locks = isinstance(problem, BlockingIOError) or "lock" in str(problem)
        ours = os.path.exists(journal_path(path))
        if not about_locks or ("don't match" not in str(problem) and not ours):
            raise named(problem, path) from problem
        file = h5py.File(os.fspath(path), "r", locking=False, **keywords)
    else:
        # Files that are open already share the descriptor, and the lock of the first.
        if h5f.get_obj_count(file.id, h5f.OBJ_FILE) == 1:
            with contextlib.suppress(OSError, RuntimeError, NotImplementedError):
                fcntl.flock(file.id.get_vfd_handle(), fcntl.LOCK_UN)
    return file


# -------------------------------------------------------------------------------- for writers


def open_to_write(
    path: Any, mode: str = "r+", *, durable: bool = False, **keywords: Any
) -> JournaledFile:
    """Open an HDF5 file for writing, with a journal.

    Parameters
    ----------
    path : path-like
    mode : {"r+", "a", "x", "w-", "w"}
        As for `h5py.File`. A new file appears under its name, empty, when this returns; with "w" it
        takes the place of another only then.
    durable : bool, default False
        See `JournalFile`.
    **keywords
        Of `h5py.File`.

    Raises
    ------
    LockedFileError
        When the file is open elsewhere, for writing or, by a program that locks it, for reading.
    RollbackError
        When an interrupted transaction cannot be undone.
    """
    if mode not in ("r+", "a", "x", "w-", "w"):
        raise ValueError(f"mode must be 'r+', 'a', 'x', 'w-' or 'w', not {mode!r}")
    if mode in ("x", "w-") and os.path.lexists(path):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), os.fsdecode(path))
    check_ordinary(path, new=mode != "r+")
    path = os.path.realpath(os.fsdecode(path))
    exists = os.path.exists(path)
    with deferred():
        if mode == "r+" or (mode == "a" and exists):
            _refuse_second_writer(path)
            journal = JournalFile(path, "r+", durable=durable)
            try:
                check_superblock(journal)
            except BaseException:
                give_up(journal)
                raise
            file = _attach(journal, "r+", keywords)
        elif exists:
            file = _replace(path, durable, keywords)
        else:
            file = _create(path, durable, keywords)
        try:
            check()
        except BaseException:
            close_file(file)
            raise
        return file


def _attach(journal: JournalFile, mode: str, keywords: dict[str, Any]) -> JournaledFile:
    try:
        file = JournaledFile(journal, mode, **keywords)
    except BaseException as problem:
        give_up(journal)
        if isinstance(problem, OSError) and journal.problem is None:
            raise named(problem, journal.name) from problem
        raise_cause(problem, journal, "nothing was changed")
    try:
        register(file, journal)
    except BaseException:
        h5py.File.close(file)
        give_up(journal)
        raise
    journal.commit_when_dropped = True
    return file


def _replace(path: str, durable: bool, keywords: dict[str, Any]) -> JournaledFile:
    _refuse_second_writer(path)
    replaced = JournalFile(path, "r+", durable=durable)  # for its lock
    try:
        return _create(path, durable, keywords, replaces=True)
    finally:
        replaced.close()


def _create(
    path: str, durable: bool, keywords: dict[str, Any], replaces: bool = False
) -> JournaledFile:
    """Make an empty HDF5 file aside, and give it its name when it is one."""
    file, journal = _begin(path, durable, keywords)
    try:
        flush_file(file)
        if replaces:
            shutil.copymode(path, journal.path)
        journal.move(path, replace=replaces)
    except BaseException as problem:
        _abandon(file, journal, path)
        raise_cause(problem, journal, "nothing was changed")
    return file


def _begin(path: str, durable: bool, keywords: dict[str, Any]) -> tuple[JournaledFile, JournalFile]:
    """Make an HDF5 file under a temporary name."""
    folder, name = os.path.split(path)
    # A new name: ext4 writes a file out at once when it is closed after having been made empty,
    # and that takes longer than all the rest.
    # The beginning of a long one must do: file systems take 255 bytes.
    temporary = os.path.join(folder, f".{name[:40]}.{uuid.uuid4().hex}")
    journal = JournalFile(temporary, "x", durable=durable, name=path)
    try:
        return _attach(journal, "w", keywords), journal
    except BaseException:
        journal.discard()
        raise


def _abandon(file: h5py.File, journal: JournalFile, path: str) -> None:
    """Close a file that was begun, and remove it unless it has its name `path` already."""
    if journal.path == path:
        undo(file, journal)
        return
    try:
        with contextlib.suppress(Exception):
            h5py.File.close(file)
    finally:
        journal.discard()


@contextlib.contextmanager
def new_file(path: Any, *, durable: bool = False, **keywords: Any) -> Iterator[JournaledFile]:
    """Make a file that is there, complete, when the block ends; when it raises, nothing is.

    Signals are kept back in the block; see `diskcsr.machine.interrupts`.

    Parameters
    ----------
    path : path-like
        No file must have this name.
    durable : bool, default False
        Wait for the disk at the end.
    **keywords
        Of `h5py.File`.

    Raises
    ------
    WriteError
        When the system refuses to write.
    FileExistsError
        When a file of this name appeared meanwhile.
    """
    check_ordinary(path, new=True)
    path = os.path.realpath(os.fsdecode(path))
    with deferred():
        file, journal = _begin(path, durable, keywords)
        try:
            yield file
            check()
            with journal.turn:
                h5py.File.close(file)
                journal.commit()
            journal.move(path, replace=False)
            journal.close()
        except BaseException as problem:
            _abandon(file, journal, path)
            raise_cause(problem, journal, "nothing was left")


def _refuse_second_writer(path: str) -> None:
    """Raise when h5py has the file open for writing in this process, perhaps without a lock."""
    with hdf5_locked():  # or other threads close meanwhile what is looked at
        for other in h5f.get_obj_ids(h5f.OBJ_ALL, h5f.OBJ_FILE):
            if other.get_intent() == h5f.ACC_RDONLY or driver_of(other) != h5fd.SEC2:
                continue
            with contextlib.suppress(FileNotFoundError):
                if os.path.samefile(other.name, path):
                    raise LockedFileError(f"{path} is open for writing in this process, by h5py")
