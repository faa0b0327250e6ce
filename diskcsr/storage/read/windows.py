"""Maps of unfiltered files, and one budget for all their pages that this process has entered.

What was read of a file once can be copied from a map the next time, without a system call. But
pages of a map count as memory of the process for as long as they are in its page table, so there
may be no more of them than ``diskcsr.options.map_bytes`` allows. A part that was entered stays: it
is found again in the next epoch, where replacing the oldest would always drop what is needed next.
All is given back, and entered anew, once so much was read beside the maps that entering as much
again costs next to nothing of that: maybe other rows, or other files, are in use by now.
"""

import mmap
import os
import threading
import weakref

import numpy as np

from ...kernels import CHARGE_SHIFT, WINDOW_SHIFT
from ...machine.options import options

__all__ = ["MappedPages", "Window", "mapped_pages"]

#: All maps are given back when this many times the budget was read beside them.
_REFILL = 8


class Window:
    """A map of a file.

    Parameters
    ----------
    fd : int
        Descriptor of the file, needed no longer afterwards.
    size : int
        Bytes of the file.

    Attributes
    ----------
    address, size : int
        Where the map lies in memory, and its length in bytes.
    warm : uint8 array
        1 for each block of ``1 << WINDOW_SHIFT`` bytes that is entered in the page table.
    charged : uint8 array
        1 for each unit of ``1 << CHARGE_SHIFT`` bytes of which some may be.
    entered : int
        Units charged, or reserved by a call that is under way; `MappedPages` keeps it.

    Raises
    ------
    OSError, ValueError
        When the file cannot be mapped.
    """

    def __init__(self, fd: int, size: int) -> None:
        self._map = mmap.mmap(fd, size, prot=mmap.PROT_READ)
        self._bytes = np.frombuffer(self._map, np.uint8)
        self.address, self.size = self._bytes.ctypes.data, size
        self.warm = np.zeros((size >> WINDOW_SHIFT) + 1, np.uint8)
        self.charged = np.zeros((size >> CHARGE_SHIFT) + 1, np.uint8)
        self.entered = 0

    def give_back(self) -> None:
        """Take all pages out of the page table; who reads from the map meanwhile enters them."""
        self.warm[:] = 0
        self.charged[:] = 0
        self.entered = 0
        self._map.madvise(mmap.MADV_DONTNEED)


class MappedPages:
    """The budget of all windows of this process; safe to use from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._windows: weakref.WeakSet[Window] = weakref.WeakSet()
        #: Units entered, more when windows are gone since it was counted; bytes read since all
        #: were given back.
        self._entered = self._read = 0
        #: How many windows there were when it was counted last.
        self._counted = 0

    def add(self, window: Window) -> None:
        """Count the pages of a window from now on, for as long as it is there."""
        with self._lock:
            self._windows.add(window)

    def reserve(self, window: Window, units: int) -> int:
        """Return how many units, of the `units` that a call might enter, it may: `settle` them.

        A call that is ended by a signal in between leaves them reserved until all are given back.
        """
        budget = max(0, options.map_bytes) >> CHARGE_SHIFT
        with self._lock:
            units = max(0, min(units, window.charged.size - window.entered))
            if self._entered + units > budget:
                self._make_room(budget)
            granted = max(0, min(units, budget - self._entered))
            window.entered += granted
            self._entered += granted
            return granted

    def _make_room(self, budget: int) -> None:
        many_read = self._read >= _REFILL * options.map_bytes
        if not many_read and self._entered <= budget and len(self._windows) == self._counted:
            return
        windows = list(self._windows)
        self._counted = len(windows)
        self._entered = sum(window.entered for window in windows)
        if many_read or self._entered > budget:  # the budget was lowered
            for window in windows:
                window.give_back()
            self._entered = self._read = 0

    def settle(self, window: Window, unused: int, nbytes: int) -> None:
        """Take back what a call did not enter of what was reserved, and note what it read."""
        with self._lock:
            # When all was given back meanwhile, nothing is reserved any more.
            unused = min(unused, window.entered)
            window.entered -= unused
            self._entered -= unused
            self._read += nbytes

    def entered_bytes(self) -> int:
        """Return how many bytes of maps are in the page table, at most."""
        with self._lock:
            return sum(window.entered for window in self._windows) << CHARGE_SHIFT

    def _after_fork(self) -> None:
        """In a forked child: a thread of the parent may have held the lock."""
        self._lock = threading.Lock()


mapped_pages = MappedPages()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=mapped_pages._after_fork)
