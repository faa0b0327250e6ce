"""Memory that is filled again and again: where batches of rows are fetched to."""

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import numpy as np

from .options import format_bytes

__all__ = ["Buffers", "Spare", "as_whole", "take"]


class Buffers:
    """Reusable memory for ``A.fetch(rows, out=buffers)``.

    It grows to the largest batch seen, and from then on fetching allocates nothing. What was
    fetched into it is overwritten by the next fetch into it.

    Examples
    --------
    >>> import diskcsr, os, scipy.sparse as sp, tempfile
    >>> A = diskcsr.write(os.path.join(tempfile.mkdtemp(), "m.h5"), sp.eye_array(9, format="csr"))
    >>> buffers = diskcsr.Buffers()
    >>> for rows in ([1, 3, 5], [8, 0]):
    ...     print(A.fetch(rows, out=buffers).sum())
    3.0
    2.0
    """

    #: How much more than asked for is taken, so that slightly larger batches fit, too.
    SLACK = 1.125

    def __init__(self) -> None:
        self._memory: dict[str, np.ndarray] = {}

    def take(self, name: str, size: int, dtype: Any) -> np.ndarray:
        """Return an uninitialised (size,) array in the memory called `name`."""
        nbytes = size * np.dtype(dtype).itemsize
        memory = self._memory.get(name)
        if memory is None or memory.size < nbytes:
            memory = self._memory[name] = np.empty(int(nbytes * self.SLACK) + 64, np.uint8)
        return as_whole(memory[:nbytes].view(dtype))

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return sum(memory.size for memory in self._memory.values())

    def in_use(self) -> bool:
        """Whether an array fetched into this memory is still referred to from somewhere."""
        # Every view refers to the owner of its memory; two references are the dictionary's and
        # that of the call.
        return any(sys.getrefcount(self._memory[name]) > 2 for name in self._memory)

    def __repr__(self) -> str:
        return f"<Buffers: {format_bytes(self.nbytes)}>"


class Spare:
    """Memory that lay in results, to be used again once nobody has them any more.

    Several threads may use it. In another process, forked or sent a copy, it begins with none.
    """

    #: Memory that callers hold on to is theirs; keeping track of three is enough.
    MOST = 3

    def __init__(self) -> None:
        self._begin()

    def _begin(self) -> None:
        self._all: list[Buffers] = []
        self._lock, self._process = threading.Lock(), os.getpid()

    def __reduce__(self) -> Any:
        return Spare, ()

    def __len__(self) -> int:
        return len(self._all)

    @contextmanager
    def taken(self) -> Iterator[Buffers]:
        """Give memory that no result lies in, or new; while it is filled nobody else gets it."""
        if self._process != os.getpid():
            self._begin()  # a thread that did not come along may have held the lock
        buffers = self._free()
        try:
            yield buffers
        finally:
            with self._lock:
                self._all = [*self._all[1 - self.MOST :], buffers]

    def _free(self) -> Buffers:
        with self._lock:
            for i, buffers in enumerate(self._all):
                if not buffers.in_use():
                    return self._all.pop(i)
        return Buffers()


def as_whole(part: np.ndarray) -> np.ndarray:
    """Return the same elements in the same memory, as an array that does not look like a part.

    scipy copies the arrays that a matrix is made of when they are less than half of what they are
    a view on.
    """
    if part.size == 0:
        return np.empty(0, part.dtype)
    # Behind a memoryview numpy does not look for the owner of the memory.
    return np.frombuffer(part.data, part.dtype)


def take(buffers: Buffers | None, name: str, size: int, dtype: Any) -> np.ndarray:
    """Return an uninitialised array: in `buffers`, or new without."""
    if buffers is not None:
        return buffers.take(name, size, dtype)
    keep_freed(size * np.dtype(dtype).itemsize)
    return np.empty(size, dtype)


#: The largest block that the C library was taught to keep, and the most that glibc can be taught on
#: a 64-bit system: M_MMAP_THRESHOLD of mallopt(3).
_kept, _MOST = 1 << 16, 1 << 25


def keep_freed(nbytes: int) -> None:
    """Have the C library keep blocks of `nbytes` that are freed, for the next of that size.

    glibc hands freed memory back to the system when it is more than twice the largest block freed
    so far. The two arrays of a batch of rows come to just that: now one batch is a little over it,
    now the next is under, and filling pages that are new to the process takes longer than fetching
    the rows. A larger block that is freed untouched moves the limit. Other C libraries decide for
    themselves, and so do users who set glibc's thresholds.
    """
    global _kept
    if sys.platform == "linux" and _kept * 3 // 4 < nbytes < _MOST and _kept < _MOST:
        _kept = min(2 * nbytes, _MOST)
        malloc, free = _allocator()
        free(malloc(_kept - (1 << 13)))  # a page or two are glibc's own


@cache
def _allocator() -> tuple[Any, Any]:
    import ctypes

    library = ctypes.CDLL(None)
    malloc, free = library.malloc, library.free
    malloc.restype, malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
    free.restype, free.argtypes = None, [ctypes.c_void_p]
    return malloc, free
