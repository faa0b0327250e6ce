"""Private memory maps of stored arrays: writable for code that insists, and never written back."""

import mmap
import sys
from pathlib import Path

import numpy as np

from .direct import DirectReader

__all__ = ["is_map", "is_untouched", "map_private"]

# mmap(2). Python names it from 3.13 on. Without it the kernel sets memory aside for the whole map,
# in case all of it were written to, and refuses maps larger than RAM.
_MAP_NORESERVE = getattr(mmap, "MAP_NORESERVE", 0x4000 if sys.platform == "linux" else 0)


def map_private(reader: DirectReader, size: int) -> np.ndarray | None:
    """Map the first `size` elements of a dataset, or return None where they lie in several extents.

    Returns
    -------
    (size,) array or None
        A plain ndarray, copy-on-write: changes stay in this process.
    """
    offset = reader.contiguous_offset()
    if offset is None or size == 0:
        return None
    reader.descriptor.check_unchanged()
    begin = offset - offset % mmap.ALLOCATIONGRANULARITY
    length = offset - begin + size * reader.dtype.itemsize
    try:
        mapped = mmap.mmap(
            reader.descriptor.fd,
            length,
            flags=mmap.MAP_PRIVATE | _MAP_NORESERVE,
            prot=mmap.PROT_READ | mmap.PROT_WRITE,
            offset=begin,
        )
    except (OSError, ValueError):
        return None  # beyond the end of the file, or no address space: reading says which
    return np.frombuffer(mapped, reader.dtype, size, offset - begin)


def is_map(array: np.ndarray) -> bool:
    """Whether an array is one that `map_private` made."""
    return isinstance(getattr(array.base, "obj", array.base), mmap.mmap)


def is_untouched(array: np.ndarray) -> bool:
    """Whether a mapped array surely still holds what the file holds.

    Linux counts the pages of a private map that were written to ("Anonymous" in /proc/self/smaps,
    proc(5)). Elsewhere, and for arrays that are no map, the answer is no.
    """
    if not is_map(array):
        return False
    address = array.ctypes.data
    inside = False
    try:
        with Path("/proc/self/smaps").open() as lines:
            for line in lines:
                head = line.split(" ", 1)[0]
                if "-" in head:
                    low, high = (int(part, 16) for part in head.split("-"))
                    inside = low < address + array.nbytes and address < high
                elif inside and head == "Anonymous:" and int(line.split()[1]):
                    return False
    except (OSError, ValueError):
        return False
    return True
