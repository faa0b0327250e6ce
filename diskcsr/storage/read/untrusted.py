"""Files of unknown origin: looked at in a process of their own, before this one opens them.

There is damage on which the HDF5 library itself crashes, never returns or asks for gigabytes. Here
a process with limits does first all that this one will have HDF5, and other libraries, do with the
file. It is no sandbox: it may do whatever this process may.
"""

import os
import sys
from collections.abc import Callable
from typing import Any

import h5py
import numpy as np

from ...errors import CorruptFileError, DiskCSRError, FormatError, StaleFileError
from ...keys.plan import plan_span
from ...machine.apart import Ended, run_apart
from ...machine.options import format_bytes, options
from ...machine.progress import Progress, telling
from ...machine.threads import set_num_threads
from ..files.files import open_to_read
from ..files.transactions import read_anew_of
from ..formats.conventions import ARRAYS
from ..formats.detect import walk_groups
from ..formats.opening import find_group
from .direct import DirectReader
from .readers import Reader
from .source import Source

__all__ = ["Guard", "call_apart", "check_alone", "open_untrusted"]

#: Which file it is, in which state: device, inode, size, and times of the last changes.
Identity = tuple[int, ...]

#: Elements, and row pointers, read in one go.
_BLOCK = 1 << 20
#: Signals that neither damage nor a limit brings about.
_FROM_OUTSIDE = {"SIGTERM", "SIGINT", "SIGHUP"}


class Guard:
    """What stands before a file that is not trusted, each time it is opened.

    Parameters
    ----------
    path : str
    name : str or None
        The group.
    hints : dict
        What the user says of the matrix; see `Source`.
    """

    def __init__(self, path: str, name: str | None, hints: dict[str, Any]) -> None:
        self._path, self._name, self._hints = path, name, hints
        self._seen: Identity = ()

    def open(self) -> h5py.File:
        """Look at all of the file in a process with limits, and then open it here.

        Raises
        ------
        CorruptFileError
            When the process crashed, or exceeded `options.untrusted_seconds` or `untrusted_bytes`.
        FormatError
            When the file leads to others.
        StaleFileError
            When it was changed meanwhile.
        Exception
            Whatever opening or reading it raises.
        """
        self._seen = call_apart(
            _look, self._path, self._name, self._hints, options.num_threads,
            seconds=options.untrusted_seconds, memory=options.untrusted_bytes,
        )  # fmt: skip
        file = open_to_read(self._path)
        try:
            anew = read_anew_of(file)
            self.check(anew.fileno() if anew else file.id.get_vfd_handle())
        except BaseException:
            file.close()
            raise
        return file

    def check(self, fd: int) -> None:
        """Raise `StaleFileError` unless this is the file that was looked at, as it was then."""
        if _identity(fd) != self._seen:
            raise StaleFileError(f"{self._path} was changed while it was looked at; open it again")


def open_untrusted(
    path: str, name: str | None, hints: dict[str, Any]
) -> tuple[h5py.Group, h5py.File, Guard]:
    """Do what `open_group` does with a path, once the file was looked at."""
    guard = Guard(path, name, hints)
    file = guard.open()
    try:
        return find_group(file, name), file, guard
    except BaseException:
        file.close()
        raise


def call_apart(
    function: Callable[..., Any],
    path: str,
    *args: Any,
    progress: Progress = None,
    what: str = "reading",
    **limits: Any,
) -> Any:
    """Call a function on a file by `run_apart`; say of the file what ended the process.

    With `progress` the function is given, as its keyword, something to tell how far it is.

    Raises
    ------
    CorruptFileError
        When the file crashed it, or had it exceed a limit.
    DiskCSRError
        When somebody ended it, or it could not be started.
    """
    if not sys.executable:
        raise DiskCSRError(f"{path}: this Python cannot start the process that is to look at it")
    try:
        with telling(progress, what) as tell:
            return run_apart(function, path, *args, tell=tell, **limits)
    except Ended as end:
        if end.signal in _FROM_OUTSIDE:
            what = f"{path}: {end.signal} ended the process that looked at it"
            raise DiskCSRError(what) from end
        raise CorruptFileError(f"{path}: {_fate(end, **limits)}") from end
    except MemoryError as problem:
        most = format_bytes(limits.get("memory", 0))
        raise CorruptFileError(
            f"{path}: looking at it takes more than {most} of memory "
            "(diskcsr.options.untrusted_bytes)"
        ) from problem


def _fate(end: Ended, seconds: float = 0, silence: float = 0, memory: int = 0) -> str:
    if end.silent and seconds:
        return (
            f"looking at it takes more than {seconds:g} s (diskcsr.options.untrusted_seconds; "
            f"{end.signal} ended the process)"
        )
    if end.silent:
        return f"looking at it makes no progress ({end.signal} after {silence:g} s of silence)"
    if end.signal == "SIGKILL":
        return (
            "SIGKILL ended the process that looked at it, which the system sends where memory "
            "runs out"
        )
    return f"it crashes the HDF5 library ({end.signal})"


def _identity(fd: int) -> Identity:
    found = os.fstat(fd)
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


# ------------------------------------------------------------------------------ in that process


def _look(path: str, name: str | None, hints: dict[str, Any], threads: int) -> Identity:
    """Do with a file all that readers do with it."""
    set_num_threads(threads)
    with open_to_read(path) as file:
        identity = _identity(file.id.get_vfd_handle())
        check_alone(file)
        source = Source(find_group(file, name), None, **hints)
        readers = source.readers()
        n_major = source.axis.swap(source.shape)[0]
        for first in range(0, n_major, _BLOCK):
            source.pointers.spans(range(first, min(first + _BLOCK, n_major)))
        for part in ARRAYS:
            _read_through(readers[part])
        source.close()
    return identity


def _read_through(reader: Reader) -> None:
    """Read what HDF5 or a decompressor have to touch; of bytes that lie there plainly, nothing."""
    if isinstance(reader, DirectReader):
        return  # what they say is checked whenever they are read
    for lo in range(0, reader.size, _BLOCK):
        hi = min(lo + _BLOCK, reader.size)
        reader.gather(plan_span(lo, hi, np.array([0, hi - lo])), np.empty(hi - lo, reader.dtype))


def check_alone(file: h5py.File) -> None:
    """Raise `FormatError` where a file leads to others, of which its author knows nothing good.

    No group or dataset can be reached by its name but through a link that is looked at here: links
    by name lead on to those.
    """
    try:
        _check_links(file)
    except (KeyError, OSError, RuntimeError) as problem:
        raise CorruptFileError(
            f"{file.filename}: its groups cannot be listed: {problem}"
        ) from problem


def _check_links(file: h5py.File) -> None:
    for name, group in walk_groups(file):
        for raw in group.id:
            where = f"{file.filename}: {name.rstrip('/')}/{os.fsdecode(raw)}"
            kind = group.id.links.get_info(raw).type
            if kind == h5py.h5l.TYPE_HARD:
                if h5py.h5g.get_objinfo(group.id, raw).type == h5py.h5g.DATASET:
                    _check_dataset(group, raw, where)
            elif kind != h5py.h5l.TYPE_SOFT:
                raise FormatError(f"{where} is a link to another file, which untrusted=True bars")


def _check_dataset(group: h5py.Group, raw: bytes, where: str) -> None:
    try:
        properties = h5py.h5d.open(group.id, raw).get_create_plist()
    except (KeyError, OSError, RuntimeError, ValueError):
        return  # nobody can read it then, and who tries will say so
    others = properties.get_external_count() > 0
    if properties.get_layout() == h5py.h5d.VIRTUAL:
        count = properties.get_virtual_count()
        others |= any(properties.get_virtual_filename(number) != "." for number in range(count))
    if others:
        raise FormatError(f"{where} has its values in another file, which untrusted=True bars")
