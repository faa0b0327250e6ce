"""Our own descriptor of a file: the way past HDF5's lock, and a window on what was read before."""

import os
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Literal

import h5py

from ...errors import StaleFileError
from ...kernels import CHARGE_SHIFT
from ...machine.interrupts import deferred
from ...machine.options import available_memory, options
from ..files.anew import ReadAnew
from ..files.transactions import read_anew_of, serial_of
from .windows import Window, mapped_pages

__all__ = ["Descriptor"]


class Descriptor:
    """Our own file descriptor: reading through it takes no lock of HDF5.

    Parameters
    ----------
    file : h5py.File
        Must be an ordinary file, opened read-only.
    anew : ReadAnew, optional
        What HDF5 reads it through, when it has not opened it itself.

    Raises
    ------
    OSError
        When the file cannot be opened again, or its name now means another file.
    """

    def __init__(self, file: h5py.File, anew: ReadAnew | None = None) -> None:
        self.path = os.path.realpath(file.filename)
        self._serial = serial_of(file.id)
        self._lock = threading.Lock()
        #: False when there can be none.
        self._window: Window | Literal[False] | None = None
        #: The file that led to this one, if any did.
        self._part_of: str | None = None
        #: Of other files that this one leads to, by their paths.
        self._others: dict[str, Descriptor] = {}
        with deferred():  # a signal in between would leave it open
            self.fd = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            theirs = os.fstat(anew.fileno() if anew else file.id.get_vfd_handle())
            ours = os.fstat(self.fd)
            if (theirs.st_dev, theirs.st_ino) != (ours.st_dev, ours.st_ino):
                raise OSError(f"{self.path} was replaced after it was opened")
            self._state = (ours.st_size, ours.st_mtime_ns)
            #: Which file this is, in which state: a key for what was learned from it.
            self.identity = (ours.st_dev, ours.st_ino, *self._state)
        except BaseException:
            self.close()
            raise

    def covers(self, file: h5py.File) -> bool:
        """Whether it is of this file: an external link may have led to another one."""
        if file.driver != "sec2":
            return serial_of(file.id) == self._serial
        theirs = os.fstat(file.id.get_vfd_handle())
        return (theirs.st_dev, theirs.st_ino) == self.identity[:2]

    def check_unchanged(self) -> None:
        """Raise `StaleFileError` when the file was written to since it was opened."""
        now = os.fstat(self.fd)
        if (now.st_size, now.st_mtime_ns) != self._state:
            part, what = "", "it"
            if self._part_of is not None:
                part, what = f", a part of {self._part_of},", "that"
            raise StaleFileError(
                f"{self.path}{part} was changed after it was opened; open {what} again to read "
                "what is there"
            )

    def other(self, file: h5py.File) -> "Descriptor":
        """Return a descriptor of a file that this one leads to, or of this one; kept with it.

        Raises
        ------
        OSError
            As for a new one.
        """
        if self.covers(file):
            return self
        path = os.path.realpath(file.filename)
        with self._lock:
            found = self._others.get(path)
            if found is None or not found.covers(file):
                found = self._others[path] = Descriptor(file, read_anew_of(file))
                found._part_of = self._part_of or self.path
            return found

    def window(self) -> Window | None:
        """Return a map of the file, made when first wanted; None where there is to be none.

        A file that is a large part of the memory there is has none: little of it would be found.
        """
        if not options.memory_map or options.map_bytes < 1 << CHARGE_SHIFT:
            return None
        if self._window is None:
            with self._lock:
                self._window = self._window or self._map()
        return self._window or None

    def _map(self) -> "Window | Literal[False]":
        size = self._state[0]
        if 0 < size <= available_memory() // 2:
            with suppress(OSError, ValueError):
                window = Window(self.fd, size)
                mapped_pages.add(window)
                return window
        return False

    def close(self) -> None:
        """Close the descriptor; a second call does nothing."""
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)
        for other in self._others.values():
            other.close()

    def __del__(self, close: Callable[[int], None] = os.close) -> None:
        # `close` is bound here: at the interpreter's end the module's names are gone.
        fd, self.fd = getattr(self, "fd", -1), -1
        if fd >= 0:
            close(fd)
