"""HDF5 files opened so that writes are atomic, and that readers never see half of one."""

import atexit
import contextlib
import errno
import fcntl
import os
import shutil
import uuid
import weakref
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

import h5py
from h5py import h5f, h5fd, h5i, h5o

from ...errors import DiskCSRError, LockedFileError, WriteError
from ...machine.interrupts import check, deferred
from .journal import JournalFile
from .rollback import is_hot, journal_path, settle

__all__ = [
    "JournaledFile",
    "changing",
    "check_writing",
    "close_file",
    "flush_file",
    "hdf5_version",
    "journal_of",
    "new_file",
    "open_to_read",
    "open_to_write",
    "path_of",
    "transaction",
]

#: How often a file is opened anew because it changed just then.
_TRIES = 100
#: By HDF5's serial number of an open file. HDF5 holds the object itself. The references have no
#: callbacks: a signal that came in one would be lost.
_journals: dict[int, "weakref.ref[JournalFile]"] = {}


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
    """Open an HDF5 file for reading, at a committed state.

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
        When a transaction does not come to an end.
    RollbackError
        When one must be undone, and cannot be by this process.
    OSError
        As `h5py.File` does; also when another program has the file open for writing.
    """
    for _ in range(_TRIES):
        with deferred():
            settle(path)
            before = _state(path)
            file = _open_unlocked(path, keywords)
            # What HDF5 read while opening may be of two states when a transaction began meanwhile.
            if not is_hot(path) and _state(path) == before:
                return file
            file.close()
    raise LockedFileError(f"{os.fsdecode(path)}: it changes all the time")


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
            raise
        file = h5py.File(os.fspath(path), "r", locking=False, **keywords)
    else:
        # Files that are open already share the descriptor, and the lock of the first.
        if h5f.get_obj_count(file.id, h5f.OBJ_FILE) == 1:
            with contextlib.suppress(OSError, RuntimeError, NotImplementedError):
                fcntl.flock(file.id.get_vfd_handle(), fcntl.LOCK_UN)
    return file


def _state(path: Any) -> tuple[int, ...] | None:
    try:
        found = os.stat(path)
    except OSError:
        return None  # h5py says it better
    return found.st_ino, found.st_size, found.st_mtime_ns


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
    path = os.path.realpath(os.fsdecode(path))
    if mode not in ("r+", "a", "x", "w-", "w"):
        raise ValueError(f"mode must be 'r+', 'a', 'x', 'w-' or 'w', not {mode!r}")
    exists = os.path.exists(path)
    if exists and mode in ("x", "w-"):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), path)
    with deferred():
        if mode == "r+" or (mode == "a" and exists):
            _refuse_second_writer(path)
            file = _attach(JournalFile(path, "r+", durable=durable), "r+", keywords)
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
        _give_up(journal)
        _raise_cause(problem, journal, "nothing was changed")
    journal.commit_when_dropped = True
    for serial in [key for key, known in list(_journals.items()) if known() is None]:
        _journals.pop(serial, None)
    _journals[_serial(file.id)] = weakref.ref(journal)
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
        _raise_cause(problem, journal, "nothing was changed")
    return file


def _begin(path: str, durable: bool, keywords: dict[str, Any]) -> tuple[JournaledFile, JournalFile]:
    """Make an HDF5 file under a temporary name."""
    folder, name = os.path.split(path)
    # A new name: ext4 writes a file out at once when it is closed after having been made empty,
    # and that takes longer than all the rest.
    temporary = os.path.join(folder, f".{name}.{uuid.uuid4().hex}")
    journal = JournalFile(temporary, "x", durable=durable, name=path)
    try:
        return _attach(journal, "w", keywords), journal
    except BaseException:
        journal.discard()
        raise


def _abandon(file: h5py.File, journal: JournalFile, path: str) -> None:
    """Close a file that was begun, and remove it unless it has its name `path` already."""
    if journal.path == path:
        _undo(file, journal)
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
            _raise_cause(problem, journal, "nothing was left")


def _refuse_second_writer(path: str) -> None:
    """Raise when h5py has the file open for writing in this process, perhaps without a lock."""
    for other in h5f.get_obj_ids(h5f.OBJ_ALL, h5f.OBJ_FILE):
        if other.get_intent() == h5f.ACC_RDONLY or _driver(other) != h5fd.SEC2:
            continue
        with contextlib.suppress(FileNotFoundError):
            if os.path.samefile(other.name, path):
                raise LockedFileError(f"{path} is open for writing in this process, by h5py")


# ------------------------------------------------------------------------------- open files


def _serial(identifier: Any) -> int:
    return h5o.get_info(identifier).fileno


def _driver(identifier: h5f.FileID) -> int:
    return identifier.get_access_plist().get_driver()


def hdf5_version() -> str:
    """Return the version of the HDF5 library in use."""
    return h5py.version.hdf5_version


def journal_of(item: Any) -> JournalFile | None:
    """Return the journal of the file an h5py File, Group or Dataset is in, None without one."""
    # HDF5 looks into the file for its serial number, and a damaged one may not even give that.
    if not item or _driver(h5i.get_file_id(item.id)) == h5fd.SEC2:
        return None
    known = _journals.get(_serial(item.id))
    return None if known is None else known()


def path_of(file: h5py.File) -> str | None:
    """Return the absolute path of an open file, or None when it is no ordinary file."""
    journal = journal_of(file)
    if journal is not None:
        return journal.path
    if file.driver in ("fileobj", "core", "ros3", "family", "split"):
        return None
    return os.path.realpath(os.fsdecode(file.filename))


def check_writing(item: Any) -> Callable[[], None]:
    """Return a function that raises what stands against writing on to the file of an h5py object.

    That is a signal that was kept back, or what the system refused: HDF5 is told that all is well.
    """
    journal = journal_of(item)
    if journal is None:
        return check

    def check_both() -> None:
        check()
        journal.check()

    return check_both


@contextlib.contextmanager
def changing(group: h5py.Group) -> Iterator[None]:
    """Keep signals back while a file is changed in the block, and commit at its end.

    Unlike a `transaction` it does not undo what was done before the block raised, and the file
    stays open: whoever changes it so puts it in order again. Only when the system refused a write
    all since the last commit is undone, and the file is closed.

    Raises
    ------
    WriteError
        When the system refuses to write.
    """
    file = group.file
    journal = journal_of(file)
    if journal is None:
        with deferred():
            yield
            h5py.File.flush(file)
        return
    with journal.turn, deferred():
        try:
            yield
            h5py.File.flush(file)
            if not journal.depth:
                journal.commit()
        except BaseException as problem:
            if journal.problem is None or journal.depth:
                raise
            _undo(file, journal)
            _raise_cause(problem, journal, _what_is_left(journal))


def flush_file(file: h5py.File) -> None:
    """Write out what HDF5 holds of a file, and commit it unless a transaction is under way.

    Raises
    ------
    WriteError
        When the system refused to write; all since the last commit was undone then, and the file
        is closed.
    """
    with changing(file):
        pass


def close_file(file: h5py.File) -> None:
    """Close an `h5py.File`; commit what was written to it when it has a journal.

    `h5py.File.close` alone does the same in the end, unless HDF5 fails to write something out.

    Raises
    ------
    ValueError
        When a transaction is under way.
    WriteError
        When the system refused to write something; all since the last commit was undone.
    """
    journal = journal_of(file)
    if journal is None:
        with deferred():
            h5py.File.close(file)
        return
    with journal.turn, deferred():
        if journal.depth:
            raise ValueError(f"{journal.path} cannot be closed in the middle of a transaction")
        try:
            h5py.File.close(file)
            journal.commit()
        except BaseException as problem:
            _undo(file, journal)
            _raise_cause(problem, journal, _what_is_left(journal))
        journal.close()


def _undo(file: h5py.File, journal: JournalFile) -> None:
    """Undo what was not committed, and close the file: what HDF5 holds of it is no longer so."""
    try:
        # HDF5 writes out what it has, and reads some of it back: undone only after that.
        with contextlib.suppress(Exception):
            h5py.File.close(file)
    finally:
        _give_up(journal)


def _give_up(journal: JournalFile) -> None:
    """Undo what was not committed; when even that fails the next one to open the file will."""
    try:
        if journal.hot:
            with contextlib.suppress(OSError):
                journal.roll_back()
        journal.dead = True
    finally:
        journal.close()


def _what_is_left(journal: JournalFile) -> str:
    if journal.hot:
        return "what was changed since the last commit is undone when it is opened next"
    return "it was put back to its last commit"


def _raise_cause(problem: BaseException, journal: JournalFile, left: str) -> NoReturn:
    """Raise what a failure comes from, rather than what HDF5 made of it."""
    cause = journal.problem
    if cause is None or not isinstance(problem, Exception):
        raise problem
    if isinstance(cause, DiskCSRError) or not isinstance(cause, OSError):
        raise cause
    text = f"{cause.strerror or cause}; the file could not be written, {left}"
    raise WriteError(cause.errno or errno.EIO, text, journal.name) from cause


@contextlib.contextmanager
def transaction(group: h5py.Group) -> Iterator[None]:
    """Do all that is written to a file in the block, or nothing of it.

    At the end of the block its changes are committed. When it raises, they are undone, and the file
    is closed: what HDF5 has in memory of it is no longer so. Of blocks within blocks only the
    outermost commits or undoes. Other threads wait for their turn. Signals are kept back in the
    block; see `diskcsr.machine.interrupts`.

    A file without a journal is flushed at the end, no more.

    Parameters
    ----------
    group : h5py.Group
        A file or any group in it.

    Raises
    ------
    WriteError
        When the system refuses to write.
    """
    file = group.file
    journal = journal_of(file)
    if journal is None:
        with deferred():
            yield
            h5py.File.flush(file)
        return
    with journal.turn, deferred():
        if journal.depth:
            yield
            return
        flush_file(file)  # what came before is not ours to undo
        journal.depth += 1
        try:
            yield
            check()
            h5py.File.flush(file)
            journal.commit()
        except BaseException as problem:
            _undo(file, journal)
            _raise_cause(problem, journal, _what_is_left(journal))
        finally:
            journal.depth -= 1


@atexit.register
def _close_all() -> None:
    """Close what is still open. Left to HDF5, that comes after Python's end, and crashes."""
    for journal_id, known in list(_journals.items()):
        journal = known()
        if journal is None:
            continue
        if os.getpid() != journal.pid or journal.depth:
            journal.dead = True
        for item in h5f.get_obj_ids(h5f.OBJ_ALL, h5f.OBJ_ALL):
            with contextlib.suppress(Exception):
                if item.valid and _serial(item) == journal_id:
                    file = h5py.File(h5i.get_file_id(item))
                    (h5py.File.close if journal.dead else close_file)(file)
                    break
