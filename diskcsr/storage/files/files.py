"""HDF5 files opened so that writes are atomic, and that readers never see half of one."""

import atexit
import contextlib
import fcntl
import os
import shutil
import uuid
import weakref
from collections.abc import Iterator
from typing import Any

import h5py
from h5py import h5f, h5fd, h5i, h5o

from ...errors import LockedFileError
from .journal import JournalFile
from .rollback import is_hot, journal_path, settle

__all__ = [
    "JournaledFile",
    "close_file",
    "flush_file",
    "hdf5_version",
    "journal_of",
    "open_to_read",
    "open_to_write",
    "path_of",
    "transaction",
]

#: How often a file is opened anew because it changed just then.
_TRIES = 100
#: By HDF5's serial number of an open file. HDF5 holds the object itself.
_journals: "weakref.WeakValueDictionary[int, JournalFile]" = weakref.WeakValueDictionary()


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
        raise FileExistsError(f"{path} exists")
    if mode == "r+" or (mode == "a" and exists):
        _refuse_second_writer(path)
        return _attach(JournalFile(path, "r+", durable=durable), "r+", keywords)
    if not exists:
        return _create(path, durable, keywords)
    _refuse_second_writer(path)
    replaced = JournalFile(path, "r+", durable=durable)  # for its lock
    try:
        return _create(path, durable, keywords, replaces=True)
    finally:
        replaced.close()


def _attach(journal: JournalFile, mode: str, keywords: dict[str, Any]) -> JournaledFile:
    try:
        file = JournaledFile(journal, mode, **keywords)
    except BaseException:
        if journal.hot:
            journal.roll_back()
        journal.close()
        raise
    journal.commit_when_dropped = True
    _journals[_serial(file.id)] = journal
    return file


def _create(
    path: str, durable: bool, keywords: dict[str, Any], replaces: bool = False
) -> JournaledFile:
    """Make an empty HDF5 file aside, and give it its name when it is one."""
    folder, name = os.path.split(path)
    temporary = os.path.join(folder, f".{name}.{uuid.uuid4().hex}")
    journal = JournalFile(temporary, "x", durable=durable)
    journal.name = path
    try:
        file = _attach(journal, "w", keywords)
        try:
            flush_file(file)
            if replaces:
                shutil.copymode(path, temporary)
            journal.move(path, replace=replaces)
        except BaseException:
            close_file(file)
            raise
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
    return file


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
    return _journals.get(_serial(item.id))


def path_of(file: h5py.File) -> str | None:
    """Return the absolute path of an open file, or None when it is no ordinary file."""
    journal = journal_of(file)
    if journal is not None:
        return journal.path
    if file.driver in ("fileobj", "core", "ros3", "family", "split"):
        return None
    return os.path.realpath(os.fsdecode(file.filename))


def flush_file(file: h5py.File) -> None:
    """Write out what HDF5 holds of a file, and commit it unless a transaction is under way."""
    journal = journal_of(file)
    if journal is None:
        h5py.File.flush(file)
        return
    with journal.turn:
        h5py.File.flush(file)
        if not journal.depth:
            journal.commit()


def close_file(file: h5py.File) -> None:
    """Close an `h5py.File`; commit what was written to it when it has a journal.

    `h5py.File.close` alone does the same in the end, unless HDF5 fails to write something out.

    Raises
    ------
    ValueError
        When a transaction is under way.
    """
    journal = journal_of(file)
    if journal is None:
        h5py.File.close(file)
        return
    with journal.turn:
        if journal.depth:
            raise ValueError(f"{journal.path} cannot be closed in the middle of a transaction")
        try:
            h5py.File.close(file)
            journal.commit()
        except BaseException:
            _give_up(journal)
            raise
        journal.close()


def _give_up(journal: JournalFile) -> None:
    """Undo what was not committed; when even that fails the next one to open the file will."""
    with contextlib.suppress(OSError):
        journal.roll_back()
    journal.close()


@contextlib.contextmanager
def transaction(group: h5py.Group) -> Iterator[None]:
    """Do all that is written to a file in the block, or nothing of it.

    At the end of the block its changes are committed. When it raises, they are undone, and the file
    is closed: what HDF5 has in memory of it is no longer so. Of blocks within blocks only the
    outermost commits or undoes. Other threads wait for their turn.

    A file without a journal is flushed at the end, no more.

    Parameters
    ----------
    group : h5py.Group
        A file or any group in it.
    """
    file = group.file
    journal = journal_of(file)
    if journal is None:
        yield
        h5py.File.flush(file)
        return
    with journal.turn:
        if journal.depth:
            yield
            return
        flush_file(file)  # what came before is not ours to undo
        journal.depth += 1
        try:
            yield
            h5py.File.flush(file)
            journal.commit()
        except BaseException:
            # HDF5 writes out what it has, and reads some of it back: undone only after that.
            with contextlib.suppress(Exception):
                h5py.File.close(file)
            _give_up(journal)
            raise
        finally:
            journal.depth -= 1


@atexit.register
def _close_all() -> None:
    """Close what is still open. Left to HDF5, that comes after Python's end, and crashes."""
    for journal_id, journal in list(_journals.items()):
        if os.getpid() != journal.pid or journal.depth:
            journal.dead = True
        for item in h5f.get_obj_ids(h5f.OBJ_ALL, h5f.OBJ_ALL):
            with contextlib.suppress(Exception):
                if item.valid and _serial(item) == journal_id:
                    file = h5py.File(h5i.get_file_id(item))
                    (h5py.File.close if journal.dead else close_file)(file)
                    break
