"""Names of files, looked at before anything is opened by them, and put into what HDF5 says."""

import errno
import os
import stat
from typing import Any

from ...errors import RollbackError

__all__ = ["check_ordinary", "named", "open_as_journal"]

_KINDS = {
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def check_ordinary(path: Any, *, new: bool = False) -> None:
    """Raise unless a name is that of an ordinary file, or with `new` of none.

    Opening a pipe waits for somebody at its other end, perhaps for ever.

    Raises
    ------
    ValueError
        When no file can have this name, for a null byte in it.
    OSError
        When there is something else of this name, or what the system says of it: it is too long, or
        links lead round in circles; FileNotFoundError when nothing is there.
    """
    name = os.fsdecode(path)
    if "\0" in name:
        raise ValueError(f"the name of a file cannot have a null byte in it: {name!r}")
    if not name:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), name)
    try:
        mode = os.stat(name).st_mode
    except FileNotFoundError:
        if new:
            return
        raise
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), name)
    if not stat.S_ISREG(mode):
        kind = _KINDS.get(stat.S_IFMT(mode), "something else")
        raise OSError(errno.EINVAL, f"{kind}, not an ordinary file", name)


def named(problem: OSError, path: Any) -> OSError:
    """Return an error of HDF5 with the file's name in it."""
    name, text = os.fsdecode(path), str(problem)
    if name in text:
        return problem
    if problem.errno is None:
        return OSError(f"{name}: {text}")
    return type(problem)(problem.errno, problem.strerror or text, name)


def open_as_journal(name: str, flags: int) -> int:
    """Open what has the name of a file's journal, which must be an ordinary file.

    Raises
    ------
    RollbackError
        When it is not: what it is a link to, say, must not be taken for a journal and written to.
    OSError
        When it cannot be opened.
    """
    why = "a link"
    try:
        journal = os.open(name, flags | os.O_NONBLOCK | os.O_NOFOLLOW, 0o666)
    except OSError as problem:
        if problem.errno not in (errno.ELOOP, errno.EISDIR, errno.ENXIO):
            raise
        why = {errno.EISDIR: "a directory", errno.ENXIO: "a socket or pipe"}.get(problem.errno, why)
    else:
        try:
            mode = os.fstat(journal).st_mode
        except BaseException:
            os.close(journal)
            raise
        if stat.S_ISREG(mode):
            return journal
        os.close(journal)
        why = "a directory" if stat.S_ISDIR(mode) else _KINDS.get(stat.S_IFMT(mode), why)
    raise RollbackError(
        f"{name} is {why}, where the journal of the file beside it would be: remove or rename it"
    )
