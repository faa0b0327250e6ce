"""The file object through which HDF5 reads and writes a file that has a journal."""

import os
from typing import Any

from ...machine.interrupts import protected
from .journal import Journal

__all__ = ["JournalFile"]

#: Hardly any metadata of HDF5 is longer.
_METADATA = 1 << 16
#: No offset in a file can be greater, though an address in a damaged file may be.
_LAST = (1 << 63) - 1
#: How often something that was interrupted is begun anew.
_TRIES = 100


class JournalFile(Journal):
    """A `Journal` as `h5py.File` takes one for a file.

    Notes
    -----
    No exception may leave what h5py calls: it would travel through HDF5, which goes on calling
    meanwhile. Signals are kept back for that reason; other exceptions are kept when they are raised
    within, HDF5 is told that all is well, and `commit` raises them. Where one was raised before the
    first step of a call all the same, the next call finds out.
    """

    def __init__(self, *args: Any, **keywords: Any) -> None:
        self._position = 0
        #: What HDF5 wrote and could not be written: it may want to read it again soon.
        self._lost: list[tuple[int, bytes]] = []
        #: Whether HDF5 said where it would read or write, and that has not been done yet.
        self._called = False
        super().__init__(*args, **keywords)

    @protected
    def __repr__(self) -> str:
        return self.name  # what h5py takes as the name of the file

    @protected
    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        if self._called and whence != os.SEEK_CUR:
            self._doom(InterruptedError(f"{self.path}: a call by HDF5 was cut short"))
        self._called = whence == os.SEEK_SET
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size}[whence]
        self._position = base + offset
        return self._position

    @protected
    def tell(self) -> int:
        self._called = False
        return self._position

    @protected
    def readinto(self, buffer: Any) -> int:
        """Fill all of `buffer`, with zeros behind the end of the file, as HDF5 wants it.

        Raises
        ------
        OSError
            When it cannot be read: of that HDF5 must know.
        """
        self._check_open()
        view = memoryview(buffer).cast("B")
        if self._position + len(view) > _LAST:
            raise OSError(f"{self.path}: nothing can be at offset {self._position}")
        for _ in range(_TRIES):
            try:
                self._fill(view)
                break
            except Exception as problem:
                self._called = False
                if self.depth or self.changing:  # HDF5 gives up in the middle of a change
                    self._doom(problem)
                raise
            except BaseException as interrupt:  # read again: it is raised by the commit
                self._doom(interrupt)
        else:
            raise OSError(f"{self.path}: reading was interrupted again and again")
        self._position += len(view)
        self._called = False
        return len(view)

    def _fill(self, view: memoryview) -> None:
        done = 0
        while done < len(view):
            n = os.preadv(self._data, [view[done:]], self._position + done)
            if n == 0:
                view[done:] = bytes(len(view) - done)
                break
            done += n
        for offset, lost in self._lost:
            _overlay(view, self._position, lost, offset)

    def read(self, size: int = -1) -> bytes:
        """Return bytes up to the end of the file."""
        left = max(0, self._size - self._position)
        buffer = bytearray(left if size < 0 else min(size, left))
        self.readinto(buffer)
        return bytes(buffer)

    @protected
    def write(self, raw: Any) -> int:
        """Write at the position; what goes wrong is raised by `commit`."""
        view = memoryview(raw).cast("B")
        try:
            self.pwrite(view, self._position)
        except BaseException as problem:
            self._doom(problem)
            if len(view) <= _METADATA:
                self._lost.append((self._position, bytes(view)))
        self._position += len(view)
        self._called = False
        return len(view)

    @protected
    def flush(self) -> None:
        """Do nothing: HDF5 asks for it also when only a part of what it holds was written."""

    @protected
    def truncate(self, size: int | None = None) -> int:
        """Set the size of the file; what goes wrong is raised by `commit`."""
        size = self._position if size is None else size
        try:
            with self._lock:
                self._check_open()
                if size != self._size and not self.dead:
                    self._check_owner()
                    self._saving.save(size, self._saving.committed)
                    os.ftruncate(self._data, size)
                    self._size = size
        except BaseException as problem:
            self._doom(problem)
        return size

    def roll_back(self) -> None:
        self._lost.clear()
        super().roll_back()


def _overlay(view: memoryview, position: int, lost: bytes, offset: int) -> None:
    """Put into a view of the file at `position` the part of `lost`, at `offset`, it covers."""
    start, stop = max(position, offset), min(position + len(view), offset + len(lost))
    if start < stop:
        view[start - position : stop - position] = lost[start - offset : stop - offset]
