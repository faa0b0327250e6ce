"""What is changed in an open file is committed, or undone, as a whole."""

import atexit
import contextlib
import errno
import os
import weakref
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

import h5py
from h5py import h5f, h5fd, h5i, h5o

from ...errors import CorruptFileError, DiskCSRError, WriteError, raise_if_systems
from ...machine.interrupts import check, deferred
from ..journal.fileobject import JournalFile
from .anew import ReadAnew

__all__ = [
    "all_or_nothing",
    "changing",
    "check_writing",
    "close_file",
    "driver_of",
    "flush_file",
    "give_up",
    "hdf5_version",
    "journal_of",
    "path_of",
    "raise_cause",
    "register",
    "register_anew",
    "serial_of",
    "read_anew_of",
    "telling_damage",
    "transaction",
    "undo",
    "what_is_left",
]

#: By HDF5's serial number of an open file. HDF5 holds the object itself. The references have no
#: callbacks: a signal that came in one would be lost.
_journals: dict[int, "weakref.ref[JournalFile]"] = {}
_anew: dict[int, "weakref.ref[ReadAnew]"] = {}


def serial_of(identifier: Any) -> int:
    """Return HDF5's serial number of an open file, or of the one an object is in.

    Raises
    ------
    CorruptFileError
        When the object, or the file's root, is damaged: HDF5 looks at it.
    """
    try:
        return int(h5o.get_info(identifier).fileno)
    except RuntimeError as problem:
        name = os.fsdecode(h5f.get_name(identifier))
        raise CorruptFileError(f"{name}: HDF5 cannot look into it: {problem}") from problem


def driver_of(identifier: h5f.FileID) -> int:
    return identifier.get_access_plist().get_driver()


def register(file: h5py.File, journal: JournalFile) -> None:
    """Note that a file was opened through a journal."""
    for serial in [key for key, known in list(_journals.items()) if known() is None]:
        _journals.pop(serial, None)
    _journals[serial_of(file.id)] = weakref.ref(journal)


def hdf5_version() -> str:
    """Return the version of the HDF5 library in use."""
    return h5py.version.hdf5_version


def journal_of(item: Any) -> JournalFile | None:
    """Return the journal of the file an h5py File, Group or Dataset is in, None without one."""
    # HDF5 looks into the file for its serial number, and a damaged one may not even give that.
    if not item or driver_of(h5i.get_file_id(item.id)) == h5fd.SEC2:
        return None
    known = _journals.get(serial_of(item.id))
    return None if known is None else known()


def register_anew(file: h5py.File, anew: ReadAnew) -> None:
    """Note that a file is read through a `ReadAnew`."""
    for serial in [key for key, known in list(_anew.items()) if known() is None]:
        _anew.pop(serial, None)
    _anew[serial_of(file.id)] = weakref.ref(anew)


def read_anew_of(file: h5py.File) -> ReadAnew | None:
    """Return what a file is read through, None when that is no `ReadAnew`."""
    if not _anew or file.driver != "fileobj":
        return None
    known = _anew.get(serial_of(file.id))
    return None if known is None else known()


def path_of(file: h5py.File) -> str | None:
    """Return the absolute path of an open file, or None when it is no ordinary file."""
    journal = journal_of(file)
    if journal is not None:
        return journal.path
    anew = read_anew_of(file)
    if anew is not None:
        return str(anew.name)
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
def _in_turn(
    file: h5py.File,
    how: Callable[[h5py.File, JournalFile], contextlib.AbstractContextManager[None]],
) -> Iterator[None]:
    """Keep signals back, and other threads waiting, while a file is changed as `how` has it.

    A file without a journal is flushed at the end, no more.
    """
    journal = journal_of(file)
    if journal is None:
        with deferred():
            yield
            h5py.File.flush(file)
        return
    with journal.turn, deferred(), how(file, journal):
        yield


def changing(group: h5py.Group) -> contextlib.AbstractContextManager[None]:
    """Keep signals back while a file is changed in the block, and commit at its end.

    Unlike a `transaction` it does not undo what was done before the block raised, and the file
    stays open: whoever changes it so puts it in order again. Only when the system refused a write
    all since the last commit is undone, and the file is closed.

    Raises
    ------
    WriteError
        When the system refuses to write.
    """
    return _in_turn(group.file, _change)


@contextlib.contextmanager
def _change(file: h5py.File, journal: JournalFile) -> Iterator[None]:
    journal.changing += 1
    try:
        yield
        h5py.File.flush(file)
        # Of blocks within blocks the outermost commits: until then its work is half done.
        if not journal.depth and journal.changing == 1:
            journal.commit()
    except BaseException as problem:
        if journal.problem is None or journal.depth or journal.changing > 1:
            raise
        undo(file, journal)
        raise_cause(problem, journal, what_is_left(journal))
    finally:
        journal.changing -= 1


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
        if journal.depth or journal.changing:
            what = "a transaction" if journal.depth else "a change to it"
            raise ValueError(f"{journal.path} cannot be closed in the middle of {what}")
        try:
            h5py.File.close(file)
            journal.commit()
        except BaseException as problem:
            undo(file, journal)
            raise_cause(problem, journal, what_is_left(journal))
        journal.close()


def undo(file: h5py.File, journal: JournalFile) -> None:
    """Undo what was not committed, and close the file: what HDF5 holds of it is no longer so."""
    try:
        # HDF5 writes out what it has, and reads some of it back: undone only after that.
        with contextlib.suppress(Exception):
            h5py.File.close(file)
    finally:
        give_up(journal)


def give_up(journal: JournalFile) -> None:
    """Undo what was not committed; when even that fails the next one to open the file will."""
    try:
        if journal.hot:
            with contextlib.suppress(OSError):
                journal.roll_back()
        journal.dead = True
    finally:
        journal.close()


def what_is_left(journal: JournalFile) -> str:
    if journal.hot:
        return "what was changed since the last commit is undone when it is opened next"
    return "it was put back to its last commit"


def raise_cause(problem: BaseException, journal: JournalFile, left: str) -> NoReturn:
    """Raise what a failure comes from, rather than what HDF5 made of it."""
    while isinstance(problem, SystemError) and problem.__cause__ is not None:
        problem = problem.__cause__  # HDF5 made a call while an error of another was on its way
    cause = journal.problem
    if cause is None or not isinstance(problem, Exception):
        raise problem
    if isinstance(cause, DiskCSRError) or not isinstance(cause, OSError):
        raise cause
    text = f"{cause.strerror or cause}; the file could not be written, {left}"
    raise WriteError(cause.errno or errno.EIO, text, journal.name) from cause


@contextlib.contextmanager
def all_or_nothing(item: Any) -> Iterator[None]:
    """Do what leaves a file half changed when it fails, as a damaged one may have it.

    Within a change, that is undone then and the file closed, whoever would put it in order again.

    Raises
    ------
    CorruptFileError
        When HDF5 fails.
    """
    journal = journal_of(item)
    try:
        with telling_damage(f"{item.file.filename}, {item.name!r}", ValueError):
            yield
    except BaseException as problem:
        if journal is not None:
            journal.problem = journal.problem or problem
        raise


@contextlib.contextmanager
def telling_damage(where: str, *others: type[Exception]) -> Iterator[None]:
    """Call it damage of the file when HDF5 fails to change it.

    `others` are errors, besides the usual ones, that nothing but HDF5 can raise in the block.

    Raises
    ------
    CorruptFileError
        When it does so for no reason of the system's.
    """
    told: tuple[type[Exception], ...] = (OSError, RuntimeError, KeyError, *others)
    try:
        yield
    except told as problem:
        if isinstance(problem, DiskCSRError):
            raise
        raise_if_systems(problem, where)
        raise CorruptFileError(f"{where}: HDF5 cannot change it: {problem}") from problem


def transaction(group: h5py.Group) -> contextlib.AbstractContextManager[None]:
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
    return _in_turn(group.file, _transact)


@contextlib.contextmanager
def _transact(file: h5py.File, journal: JournalFile) -> Iterator[None]:
    if journal.depth:
        yield
        return
    if journal.changing:
        raise ValueError(
            f"{journal.path} is being written to: what makes the blocks of a matrix that goes "
            "there cannot change it"
        )
    flush_file(file)  # what came before is not ours to undo
    journal.depth += 1
    try:
        yield
        check()
        h5py.File.flush(file)
        journal.commit()
    except BaseException as problem:
        undo(file, journal)
        raise_cause(problem, journal, what_is_left(journal))
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
                if item.valid and serial_of(item) == journal_id:
                    file = h5py.File(h5i.get_file_id(item))
                    (h5py.File.close if journal.dead else close_file)(file)
                    break
