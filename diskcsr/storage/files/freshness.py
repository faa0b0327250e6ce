"""Which state of a file HDF5 shows, and whether the file is still in it.

HDF5 keeps what it has read of a file as long as the file is open anywhere in the process, and files
that are open together share it. So a matrix that is opened from a file which another program has
changed meanwhile may be shown as it was when the file was opened first.
"""

import io
import os
from typing import TypeAlias

import h5py

from .transactions import path_of

__all__ = ["Freshness", "State"]

#: Size of a file, and the time of its last change.
State: TypeAlias = tuple[int, int]

#: By path of a file that is read: HDF5's number of it, as long as it is open, and its state then.
_first_seen: dict[str, tuple[int, State]] = {}
#: How many of these there may be before those of closed files are looked for.
_MANY = 64
_most = _MANY


class Freshness:
    """What is known of the state of one open file.

    Parameters
    ----------
    file : h5py.File
    stream : io.FileIO, optional
        What HDF5 reads the file through, when it is no file that HDF5 itself opened.
    path : str, optional
        The path of the file that `stream` reads.

    Attributes
    ----------
    path : str or None
        The file's absolute path, or None when it is no ordinary file.
    as_shown : State or None
        The state in which HDF5 shows it; None when there is no telling.
    streamed : bool
        Whether it is read through `stream`: nobody else looks at its state before it is read.
    """

    def __init__(
        self, file: h5py.File, stream: io.FileIO | None = None, path: str | None = None
    ) -> None:
        self.path = path_of(file) if stream is None else path
        self.streamed = stream is not None
        self.as_shown = self.now()
        if self.as_shown is not None and not self.streamed and file.mode == "r":
            self.as_shown = self._first_state(file, self.as_shown)

    def _first_state(self, file: h5py.File, now: State) -> State:
        """State of the file when HDF5 began to read it, perhaps for another array."""
        assert self.path is not None
        try:
            number = h5py.h5o.get_info(file.id).fileno
        except RuntimeError:  # damage; whoever reads what is damaged will say so
            return now
        if _first_seen.get(self.path, (0, now))[0] != number:
            _forget_closed()
            _first_seen[self.path] = (number, now)
        return _first_seen[self.path][1]

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

    def is_seen_first(self, file: h5py.File) -> bool:
        """Whether HDF5 began to read `file`, of the same path, in its present state."""
        seen = (h5py.h5o.get_info(file.id).fileno, self.now())
        return _first_seen.get(self.path or "") == seen


def _forget_closed() -> None:
    """Forget files that are open no more, once there may be many."""
    global _most
    if len(_first_seen) < _most:
        return
    identifiers = h5py.h5f.get_obj_ids(h5py.h5f.OBJ_ALL, h5py.h5f.OBJ_FILE)
    still_open = {h5py.h5o.get_info(identifier).fileno for identifier in identifiers}
    for path, (number, _) in list(_first_seen.items()):
        if number not in still_open:
            _first_seen.pop(path, None)
    # Looking costs a moment for each open file: it is done again when there are twice as many.
    _most = max(_MANY, 2 * len(_first_seen))
