"""Looking at a file that others may be writing to: at one committed state of it, or not at all.

Whoever looks takes down the file's size and time before and afterwards. If they differ, what was
read in between may be of two states, and is read anew: an error that was met then says nothing.
Beside a writer with one transaction after another that could go on for ever, so both take turns;
see `diskcsr.storage.journal.turns`.
"""

import os
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

from ...errors import LockedFileError
from ...machine.interrupts import check, deferred
from ...machine.options import options
from ..journal.names import check_ordinary
from ..journal.rollback import is_hot, settle
from ..journal.turns import held

__all__ = ["consistently"]

T = TypeVar("T")

#: Seconds between two attempts.
_POLL = 0.0005

#: Which files are being looked at, by each thread.
_under_way = threading.local()


def consistently(path: Any, attempt: Callable[[], T], discard: Callable[[T], None]) -> T:
    """Return what `attempt` reads of a file, when the file did not change meanwhile.

    Parameters
    ----------
    path : path-like
    attempt : callable
        Opens the file and reads of it. It is called again when the file changed.
    discard : callable
        Gives up what an attempt returned; what raises has done so itself.

    Raises
    ------
    LockedFileError
        When that takes longer than `options.lock_timeout`: another program has the file locked, is
        in the middle of changing it, or changes it again and again.
    Exception
        What `attempt` raises of a file that does not change.
    """
    path = os.fsdecode(path)
    under_way = vars(_under_way).setdefault("paths", set())
    if path in under_way:
        return attempt()  # whoever is outside looks whether it changed
    check_ordinary(path)
    deadline = time.monotonic() + options.lock_timeout
    while True:
        under_way.add(path)
        try:
            with deferred():
                return _attempt(path, attempt, discard, deadline)
        except _Unsettled as unsettled:
            if time.monotonic() >= deadline:
                raise LockedFileError(f"{path}: {unsettled}") from unsettled.__cause__
        finally:
            under_way.discard(path)
        check()
        time.sleep(_POLL)


class _Unsettled(Exception):
    """Why what was read cannot be relied on, this time."""


def _attempt(
    path: str, attempt: Callable[[], T], discard: Callable[[T], None], deadline: float
) -> T:
    settle(path, deadline)
    with held(path, deadline):
        before = _state(path)
        if is_hot(path):
            raise _Unsettled("another program is in the middle of changing it")
        changing = "another program changes it again and again"
        try:
            found = attempt()
        except Exception as problem:
            if _is_about_locks(problem):
                text = f"another program has it open for writing ({problem})"
                raise _Unsettled(text) from problem
            if before == _state(path) and not is_hot(path):
                raise
            raise _Unsettled(changing) from problem
        try:
            if before != _state(path) or is_hot(path):
                raise _Unsettled(changing)
        except BaseException:  # to look may fail, too
            discard(found)
            raise
        return found


def _is_about_locks(problem: Exception) -> bool:
    """Whether a file cannot be opened because of whoever else has it open."""
    if not isinstance(problem, OSError):
        return False
    of_hdf5 = ("unable to lock file", "already open for write")
    return isinstance(problem, BlockingIOError) or any(text in str(problem) for text in of_hdf5)


def _state(path: Any) -> tuple[int, ...] | None:
    try:
        found = os.stat(path)
    except OSError:
        return None  # h5py says it better
    return found.st_ino, found.st_size, found.st_mtime_ns
