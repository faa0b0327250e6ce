"""Which state of a file HDF5 shows, and whether the file is still in it.

HDF5 keeps what it has read of a file as long as the file is open anywhere in the process, and files
that are open together share it. So a matrix that is opened from a file which another program has
changed meanwhile may be shown as it was when the file was opened first.
"""

import os
from contextlib import suppress
from typing import TypeAlias

import h5py

from ...errors import CorruptFileError, StaleFileError
from .anew import ReadAnew
from .lock import hdf5_locked
from .transactions import path_of, read_anew_of, serial_of

__all__ = ["Freshness", "State", "is_shown_as_it_is"]

#: Size of a file, and the time of its last change.
State: TypeAlias = tuple[int, int]

#: By path of a file that is read: HDF5's number of it, as long as it is open, and its state then.
_first_seen: dict[str, tuple[int, State]] = {}
#: How many of these there may be before those of closed files are looked for.
_MANY = 64
_most = _MANY
#: Of a file that HDF5 shows as it was before we knew it.
_UNKNOWN: State = (-1, -1)


class Freshness:
    """What is known of the state of one open file.

    Parameters
    ----------
    file : h5py.File

    Attributes
    ----------
    path : str or None
        The file's absolute path, or None when it is no ordinary file.
    as_shown : State or None
        The state in which HDF5 shows it; None when there is no telling.
    """

    def __init__(self, file: h5py.File) -> None:
        self.path = path_of(file)
        self.as_shown = self.now()
        #: What HDF5 reads a file through that it has open for reading alone.
        self._through: ReadAnew | h5py.h5f.FileID | None = None
        if file.mode == "r" and self.path is not None:
            self._through = read_anew_of(file) or (file.id if file.driver == "sec2" else None)
        if self.as_shown is not None and file.mode == "r" and read_anew_of(file) is None:
            assert self.path is not None
            self.as_shown = _first_state(file, self.path, self.as_shown)

    def now(self) -> State | None:
        """Return the state of the file itself, or None when it is no ordinary one."""
        if self.path is None:
            return None
        try:
            found = os.stat(self.path)
        except OSError:  # it was opened, and then lost its name
            return None
        return found.st_size, found.st_mtime_ns

    def is_current(self) -> bool:
        """Whether what HDF5 shows is what the file holds."""
        return self.now() == self.as_shown

    def check_unchanged(self) -> None:
        """Raise `StaleFileError` when what HDF5 reads is no longer in the state it shows.

        A file that another one has taken the place of stays as it was.
        """
        through = self._through
        if through is None or self.as_shown is None:
            return
        fd = through.fileno() if isinstance(through, ReadAnew) else through.get_vfd_handle()
        found = os.fstat(fd)
        if (found.st_size, found.st_mtime_ns) != self.as_shown:
            raise StaleFileError(
                f"{self.path} was changed after it was opened; refresh(), or opening the file "
                "anew, shows what is there now"
            )


def is_shown_as_it_is(file: h5py.File, path: str) -> bool:
    """Whether HDF5 shows a file, just opened, as it is now; false when that is not known."""
    try:
        found = os.stat(path)
    except OSError:
        return True
    now = found.st_size, found.st_mtime_ns
    return _first_state(file, path, now) == now


def _first_state(file: h5py.File, path: str, now: State) -> State:
    """State of a file when HDF5 began to read it, perhaps for another array."""
    try:
        number = serial_of(file.id)
        length = file.id.get_filesize()
    except (CorruptFileError, RuntimeError):  # whoever reads what is damaged will say so
        return now
    if _first_seen.get(path, (0, now))[0] != number:
        _forget_closed()
        # One that was opened elsewhere in this process is seen first now, and may be older.
        _first_seen[path] = (number, now if length == now[0] else _UNKNOWN)
    return _first_seen[path][1]


def _forget_closed() -> None:
    """Forget files that are open no more, once there may be many."""
    global _most
    if len(_first_seen) < _most:
        return
    still_open = set()
    with hdf5_locked():  # or other threads close meanwhile what is looked at
        for identifier in h5py.h5f.get_obj_ids(h5py.h5f.OBJ_ALL, h5py.h5f.OBJ_FILE):
            with suppress(CorruptFileError):  # then it is not among those that were seen, either
                still_open.add(serial_of(identifier))
    for path, (number, _) in list(_first_seen.items()):
        if number not in still_open:
            _first_seen.pop(path, None)
    # Looking costs a moment for each open file: it is done again when there are twice as many.
    _most = max(_MANY, 2 * len(_first_seen))
