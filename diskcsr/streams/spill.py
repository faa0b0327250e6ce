"""A file for what does not fit into memory: it has no name, and goes when it is closed."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import WriteError
from ..machine.interrupts import deferred

__all__ = ["Spill", "as_moved", "moved", "spill_file"]

#: Dtypes by size that kernels move values as, whatever they mean.
_MOVED: dict[int, Any] = {1: "u1", 2: "u2", 4: "u4", 8: "u8", 16: "c16", 32: ("c16", (2,))}


def moved(dtype: np.dtype) -> np.dtype:
    """The dtype as which kernels move values of `dtype`: one for each size.

    >>> moved(np.dtype("f4")), moved(np.dtype("i4"))
    (dtype('uint32'), dtype('uint32'))
    """
    return np.dtype(_MOVED[dtype.itemsize])


def as_moved(values: np.ndarray) -> np.ndarray:
    """View values as what kernels move them as."""
    dtype = moved(values.dtype)
    values = np.ascontiguousarray(values).view(dtype.base)
    return values.reshape(-1, *dtype.shape)


class Spill:
    """Arrays in a file, each at the place that the caller keeps account of."""

    def __init__(self, fd: int, folder: Path) -> None:
        self._fd, self._folder = fd, folder

    def write(self, array: np.ndarray, offset: int) -> None:
        """Store an array.

        Raises
        ------
        WriteError
            When the system refuses: the disk is full, a limit reached.
        """
        left = _bytes(array)
        try:
            while left:
                done = os.pwrite(self._fd, left, offset)
                left, offset = left[done:], offset + done
        except OSError as problem:
            text = (
                f"a file for what does not fit into max_memory could not be written: "
                f"{problem.strerror}. It is removed, and nothing else was changed"
            )
            raise WriteError(problem.errno, text, os.fspath(self._folder)) from problem

    def read(self, array: np.ndarray, offset: int) -> np.ndarray:
        """Fill an array with what was stored, and return it."""
        left = _bytes(array)
        while left:
            done = os.preadv(self._fd, [left], offset)
            if done <= 0:
                raise OSError("the file for what does not fit into max_memory was cut short")
            left, offset = left[done:], offset + done
        return array


def _bytes(array: np.ndarray) -> memoryview:
    return array.reshape(-1).view(np.uint8).data


@contextmanager
def spill_file(folder: Path) -> Iterator[Spill]:
    """Give a spill file in `folder`: whatever happens, it does not stay."""
    with deferred():
        made = tempfile.TemporaryFile(dir=folder, prefix=".spill-", buffering=0)  # noqa: SIM115
    with made as file:
        yield Spill(file.fileno(), folder)
