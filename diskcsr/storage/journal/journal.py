"""A file that keeps a rollback journal while it is written to: all of a transaction or nothing."""

import contextlib
import io
import os
import stat
import threading
import weakref
from typing import Any

from ...errors import DiskCSRError, LockedFileError, WriteError
from ...machine.interrupts import protected, stand_by, stand_down
from .naming import open_journal, remove_left_behind, rename_new
from .records import COLD, HEAD, PAGE, Head, journal_path
from .rollback import BRIEFLY, fsync_folder, pwrite_all, roll_back, try_lock
from .saving import AT_ONCE, Saving
from .turns import mark

__all__ = ["Journal"]

#: HDF5 rewrites its superblock when it closes a file, also when nothing has changed.
_SMALL = PAGE

#: All that have descriptors, by their `id`; no callbacks, in which a signal would be lost.
_open_files: dict[int, "weakref.ref[Journal]"] = {}


class Journal:
    """A file open for writing, whose changes are kept by `commit` only.

    The first change after a commit begins a transaction. Before bytes that were there at the last
    commit are changed or cut off, they are saved to the journal beside the file. If the process is
    killed, whoever opens the file next puts them back; see `settle`.

    Parameters
    ----------
    path : path-like
    mode : {"r+", "x"}
        Open an existing file, or make a new one.
    name : str, optional
        What messages call the file, where it has another name for the time being.
    durable : bool, default False
        Wait for the disk in each transaction, so that a loss of power does no harm either.
        Otherwise only the end of the process does none, however it comes.

    Raises
    ------
    LockedFileError
        When the file is open elsewhere, in another process or in this one.
    RollbackError
        When an earlier transaction must be undone and cannot be.

    Notes
    -----
    Only the process that opened the file may write to it: a forked child can read, and what it
    writes raises. The journal goes by the name: several names of one file (hard links) must not be
    used in turn.
    """

    _data = _journal = -1
    _saving: Saving

    def __init__(
        self, path: Any, mode: str = "r+", *, durable: bool = False, name: str | None = None
    ) -> None:
        if mode not in ("r+", "x"):
            raise ValueError(f"mode must be 'r+' or 'x', not {mode!r}")
        self.path = os.path.realpath(os.fsdecode(path))
        #: What messages say.
        self.name = name or self.path
        self.durable = durable
        self.pid = os.getpid()
        #: Held by whoever is in a transaction; see `diskcsr.storage.files.transactions`.
        self.turn = threading.RLock()
        #: How many transactions, and other changes, are under way within one another.
        self.depth = self.changing = 0
        #: What went wrong first: nothing can be committed any more.
        self.problem: BaseException | None = None
        #: Whether HDF5 letting go of the file in good order means a commit.
        self.commit_when_dropped = False
        self.closed = self.dead = False
        #: Whether what was in the journal has been dealt with.
        self._cold = False
        self._lock = threading.RLock()
        flags = os.O_RDWR | (os.O_CREAT | os.O_EXCL if mode == "x" else 0)
        try:
            self._data = os.open(self.path, flags, 0o666)
        except OSError as problem:
            problem.filename = self.name  # nobody knows the name for the time being
            raise
        try:
            self._take(new=mode == "x")
        except BaseException as problem:
            if mode == "x":
                self.discard()
            else:
                self.close()
            ours = (None, journal_path(self.path))  # names that say nothing to the caller
            if isinstance(problem, OSError) and problem.strerror and problem.filename in ours:
                what = "its journal" if problem.filename else "it"
                text = (
                    f"{problem.strerror}; {what} cannot be opened for writing, nothing was changed"
                )
                raise WriteError(problem.errno, text, self.name) from problem
            raise
        _open_files[id(self)] = weakref.ref(self)
        stand_by()

    def _take(self, new: bool) -> None:
        """Lock the file and its journal, and undo what a killed writer began."""
        mode = os.fstat(self._data).st_mode
        if not stat.S_ISREG(mode):
            raise OSError(f"{self.path}: not an ordinary file, so it cannot have a journal")
        # Who turns off HDF5's locks has other programs' locks ignored; ours is on the journal too.
        ignored = os.environ.get("HDF5_USE_FILE_LOCKING", "").upper() in ("FALSE", "0")
        if not ignored and not try_lock(self._data, BRIEFLY):
            raise self._locked()
        while self._journal < 0:
            journal = open_journal(self.path, new=new, durable=self.durable)
            try:
                if not try_lock(journal, BRIEFLY):
                    raise self._locked()
                if os.fstat(journal).st_nlink:  # else removed by its last user just now
                    self._journal = journal
            finally:
                if self._journal < 0:
                    os.close(journal)
        with contextlib.suppress(OSError):  # who may read the file may read what it was
            os.fchmod(self._journal, stat.S_IMODE(mode))
        if not new:
            head = Head.read(self._journal, self.path)
            if head is not None:
                roll_back(self._data, self._journal, head, self.path)
        pwrite_all(self._journal, COLD, 0)
        if os.fstat(self._journal).st_size > AT_ONCE:
            os.ftruncate(self._journal, HEAD.size)
        self._size = os.fstat(self._data).st_size
        self._saving = Saving(self._data, self._journal, self._size, self.durable)
        self._cold = True
        if self.durable:
            os.fsync(self._journal)
            fsync_folder(self.path)

    def _locked(self) -> LockedFileError:
        return LockedFileError(
            f"{self.path} cannot be opened for writing: it is open elsewhere, in another program "
            "or in this one"
        )

    def pwrite(self, raw: Any, offset: int) -> int:
        """Write at `offset` as part of the transaction; for any thread.

        Parameters
        ----------
        raw : buffer
        offset : int

        Returns
        -------
        int
            Its length in bytes: everything is written, or an exception raised.
        """
        view = memoryview(raw).cast("B")
        try:
            with self._lock:
                self._check_open()
                if not self.dead and not self._changes_nothing(view, offset):
                    self._check_owner()
                    self._saving.save(offset, offset + len(view))
                    pwrite_all(self._data, view, offset)
                    self._size = max(self._size, offset + len(view))
        except BaseException as problem:
            self._doom(problem)
            raise
        return len(view)

    @property
    def size(self) -> int:
        """Bytes the file has now."""
        return self._size

    def pread(self, offset: int, length: int) -> bytes:
        """Read what the file has at `offset` now."""
        self._check_open()
        return os.pread(self._data, length, offset)

    def _doom(self, problem: BaseException) -> None:
        """Note what went wrong: from then on the transaction can only be rolled back."""
        self.problem = self.problem or problem

    def check(self) -> None:
        """Raise what went wrong since the last commit: there is no point in writing on."""
        if self.problem is not None:
            raise self.problem

    def _changes_nothing(self, view: memoryview, offset: int) -> bool:
        hot = self._saving.head is not None
        if hot or len(view) > _SMALL or offset + len(view) > self._size:
            return False
        return os.pread(self._data, len(view), offset) == view

    # -------------------------------------------------------------------------- transactions

    @property
    def hot(self) -> bool:
        """Whether something has changed since the last commit."""
        return self._saving.head is not None

    def commit(self) -> None:
        """Keep all changes, and begin a new transaction with the next one.

        What HDF5 still holds in memory is not among them: flush the `h5py.File` first.

        Raises
        ------
        OSError
            What went wrong in an earlier write. Nothing is committed then, now or later.
        """
        with self._lock:
            self._check_open()
            if self.dead:
                return
            self._check_owner()
            self.check()
            if not self.hot:
                return
            mark(self._data)
            if self.durable:
                os.fsync(self._data)
            self._saving.cool()
            self._saving.committed = self._size

    def _check_owner(self) -> None:
        if os.getpid() != self.pid:
            raise DiskCSRError(
                f"{self.path} was opened for writing by process {self.pid}; this one, forked from "
                "it, can only read it"
            )

    def roll_back(self) -> None:
        """Undo all changes since the last commit; after it, whatever is written is ignored.

        HDF5 still holds in memory what was undone: its file can only be closed then.
        """
        with self._lock:
            self._check_open()
            self._check_owner()
            self.dead = True
            head = self._saving.head
            if head is not None:
                roll_back(self._data, self._journal, head, self.path)
                self._size = self._saving.committed
                self._saving.cool()

    def close(self) -> None:
        """Release the file, and remove the journal. Closing twice does nothing.

        Without a commit before it, the journal stays, and the next one to open the file undoes what
        was changed since the last.
        """
        with self._lock:
            if self.closed:
                return
            try:
                if self._cold and not self.hot and os.getpid() == self.pid:
                    self._remove_journal(self.path)
            finally:
                self._release()

    def discard(self) -> None:
        """Release the file and remove it, and the journal with it, whatever was written."""
        with self._lock:
            self.dead = True
            try:
                with contextlib.suppress(OSError):
                    os.unlink(self.path)
            finally:  # each step is tried, whatever becomes of those before
                try:
                    with contextlib.suppress(OSError):
                        os.unlink(journal_path(self.path))
                finally:
                    self.close()

    def _remove_journal(self, path: str) -> None:
        name = journal_path(path)
        with contextlib.suppress(OSError):
            # Another file may have been moved here, with its own journal.
            if os.path.samestat(os.stat(name), os.fstat(self._journal)):
                os.unlink(name)
                if self.durable:
                    fsync_folder(path)

    def _release(self) -> None:
        """Close the descriptors, and with them the locks: a forked child's copies hold them too."""
        self.closed = True
        descriptors = self._journal, self._data
        self._journal = self._data = -1
        try:
            if descriptors[0] >= 0:
                os.close(descriptors[0])
        finally:
            try:
                if descriptors[1] >= 0:
                    os.close(descriptors[1])
            finally:  # last: handlers may be called, and raise
                if _open_files.pop(id(self), None) is not None:
                    stand_down()

    @protected
    def __del__(self) -> None:
        if self._data < 0:
            return
        mine = self.commit_when_dropped and os.getpid() == self.pid
        if mine and not (self.depth or self.problem or self.dead):
            with contextlib.suppress(OSError):
                self.commit()
        self.close()

    def _check_open(self) -> None:
        if self.closed:
            raise io.UnsupportedOperation(f"{self.path}: the file is closed")

    def move(self, path: str, *, replace: bool) -> None:
        """Rename the file, between two transactions, and its journal with it.

        Raises
        ------
        FileExistsError
            When there is a file at `path` and `replace` is false.
        """
        with self._lock:
            old, path = self.path, os.path.realpath(path)
            # Without its journal, which is empty, a file is as good; so that goes first.
            try:
                if replace:
                    os.replace(journal_path(old), journal_path(path))
                    os.replace(old, path)
                else:
                    remove_left_behind(path)
                    rename_new(journal_path(old), journal_path(path), path)
                    rename_new(old, path, path)
                self.path = path
            except BaseException as problem:
                if isinstance(problem, OSError) and not isinstance(problem, FileExistsError):
                    self._doom(problem)
                self._remove_journal(path)
                raise
            if self.durable:
                fsync_folder(path)

    def _leave_to_parent(self) -> None:
        """In a forked child: keep the file for reading, without the parent's locks."""
        self._lock = threading.RLock()
        self.turn = threading.RLock()
        inherited, self._data = self._data, -1
        with contextlib.suppress(OSError):
            data = os.open(self.path, os.O_RDONLY)
            if os.path.sameopenfile(data, inherited):
                self._data = data
            else:
                os.close(data)
        os.close(inherited)
        os.close(self._journal)
        self._journal = -1


def _in_child() -> None:
    for known in list(_open_files.values()):
        file = known()
        if file is not None and not file.closed:
            file._leave_to_parent()


os.register_at_fork(after_in_child=_in_child)
