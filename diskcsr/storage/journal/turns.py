"""A writer and those who read beside it take turns, and changes can be told by a file's time.

A transaction takes a lock on the journal that readers share: a reader who looks at the file has the
next transaction wait, and waits for the one under way. Both wait a short time only: the lock is a
courtesy, and nothing depends on it.
"""

import contextlib
import fcntl
import os
import struct
import sys
import time
from collections.abc import Iterator
from typing import Any

from .records import journal_path

__all__ = ["end_turn", "held", "mark", "take_turn"]

#: A transaction waits so long, in seconds, for readers to have looked, and then does not.
_POLITE = 0.02
_POLL = 0.0005
#: Locks of an open file, not of the process, on a part of it. Others come to nothing.
_SET_LOCK = getattr(fcntl, "F_OFD_SETLK", None) if sys.maxsize > 1 << 32 else None
#: The `struct flock` of 64-bit systems: kind, whence, start, length, process.
_LOCK = struct.Struct("hhqqi4x")


def mark(descriptor: int) -> None:
    """Give a file a time of change of its own, which whatever is written to it later replaces.

    The system's clock for it stands still for some milliseconds, in which several changes of the
    same length would look like one. Only who owns the file may set its time.
    """
    found = os.fstat(descriptor)
    little = int.from_bytes(os.urandom(2), "little") + 1
    with contextlib.suppress(OSError):
        os.utime(descriptor, ns=(found.st_atime_ns, found.st_mtime_ns + little))


def take_turn(journal: int) -> None:
    """Wait, not for long, for readers that are looking; no other then begins to."""
    deadline = time.monotonic() + _POLITE
    while not _lock(journal, fcntl.F_WRLCK) and time.monotonic() < deadline:
        time.sleep(_POLL)


def end_turn(journal: int) -> None:
    """Let readers look."""
    _lock(journal, fcntl.F_UNLCK)


@contextlib.contextmanager
def held(path: Any, deadline: float) -> Iterator[None]:
    """Have writers of ours wait before they begin another transaction."""
    try:
        journal = os.open(journal_path(path), os.O_RDONLY | os.O_NONBLOCK)
    except OSError:  # nobody writes, or there is no telling
        journal = None
    # Not in the handler: of what is raised meanwhile, that would be the context.
    if journal is None:
        yield
        return
    try:
        while not _lock(journal, fcntl.F_RDLCK) and time.monotonic() < deadline:
            time.sleep(_POLL)
        yield
    finally:
        os.close(journal)


def _lock(descriptor: int, kind: int) -> bool:
    """Set or take back a lock; False when someone else's stands against it."""
    if _SET_LOCK is None:
        return True
    try:
        fcntl.fcntl(descriptor, _SET_LOCK, _LOCK.pack(kind, os.SEEK_SET, 0, 1, 0))
    except (BlockingIOError, PermissionError):  # as POSIX has it, either of them
        return False
    except OSError:  # a file system without such locks
        return True
    return True
