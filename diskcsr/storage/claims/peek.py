"""The bytes of a file that HDF5 has open, read past HDF5."""

import contextlib
import os
import weakref
from collections.abc import Callable
from typing import Any

import h5py

from ...errors import CorruptFileError
from ..files.lock import hdf5_locked
from ..files.transactions import journal_of, read_anew_of, serial_of

__all__ = ["bring", "note_bytes", "noted", "peek"]

#: Python's file objects that HDF5 reads through, by its serial number of the open file. HDF5 holds
#: the objects themselves.
_given: dict[int, "weakref.ref[Any]"] = {}


def note_bytes(file: h5py.File, through: Any) -> None:
    """Note the Python file object that a file was opened through: HDF5 does not tell it."""
    for serial in [key for key, known in list(_given.items()) if known() is None]:
        _given.pop(serial, None)
    # Without a note nobody looks past HDF5.
    with contextlib.suppress(TypeError, CorruptFileError):
        _given[serial_of(file.id)] = weakref.ref(through)


def noted(file: h5py.File) -> Any:
    """Return the Python file object that a file was opened through; None where none was noted."""
    if file.driver != "fileobj":
        return None
    known = _given.get(serial_of(file.id))
    return None if known is None else known()


def bring(file: h5py.File, offsets: list[int], nbytes: int) -> None:
    """Have a file that is far away bring some bytes, all at once, that are looked at next."""
    through = noted(file)
    if hasattr(through, "bring"):
        through.bring(offsets, nbytes)


def peek(file: h5py.File) -> tuple[Callable[[int, int], bytes], int] | None:
    """Return a function that reads bytes of a file, and how many there are.

    What HDF5 has in memory and has not written yet is not among them.

    Returns
    -------
    (callable, int) or None
        The function takes an offset and a length. None where only HDF5 knows where bytes lie: in
        memory (driver "core"), in several files, elsewhere in the net, or behind a Python file
        object that somebody else gave to h5py.
    """
    journal = journal_of(file)
    if journal is not None:
        return journal.pread, journal.size
    if file.driver == "sec2":
        fd = file.id.get_vfd_handle()
        return lambda offset, length: os.pread(fd, length, offset), os.fstat(fd).st_size
    through = read_anew_of(file) or noted(file)
    if through is None:
        return None

    def read(offset: int, length: int) -> bytes:
        with hdf5_locked():  # under which HDF5 moves it to and fro
            through.seek(offset)
            return bytes(through.read(length))

    with hdf5_locked():
        return read, through.seek(0, os.SEEK_END)
