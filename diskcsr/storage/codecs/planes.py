"""Byte planes: plane b holds byte b of every element. Shuffle and bitshuffle make them."""

import numpy as np
from numpy.typing import NDArray

from ... import kernels
from .codec import Bytes

__all__ = ["KERNEL_SIZES", "gather_planes", "join_planes", "split_planes"]

#: Bytes per element for which there are kernels; numpy does the others.
KERNEL_SIZES = (2, 4, 8)
_WHOLE = np.zeros(1, np.int64)


def gather_planes(
    planes: Bytes, count: int, lo: NDArray, hi: NDArray, at: NDArray, out: NDArray
) -> None:
    """Write the elements ``lo[k]:hi[k]`` to ``out[at[k]:]``, an array of uint16, 32 or 64."""
    of_planes = kernels.planes
    kernel = {2: of_planes.gather_2, 4: of_planes.gather_4, 8: of_planes.gather_8}
    kernel[out.itemsize](planes, count, lo, hi, at, out)


def join_planes(planes: Bytes, size: int, dest: Bytes) -> None:
    """Write the elements, `size` bytes each, whose byte planes `planes` are."""
    count = planes.size // size
    if size in KERNEL_SIZES:
        ends = np.array([count], np.int64)
        gather_planes(planes, count, _WHOLE, ends, _WHOLE, dest.view(f"u{size}"))
    else:
        dest.reshape(count, size)[...] = planes.reshape(size, count).T


def split_planes(elements: Bytes, size: int, planes: Bytes) -> None:
    """Write the byte planes of elements of `size` bytes each."""
    count = elements.size // size
    if size in KERNEL_SIZES:
        kernels.planes.split(elements.view(f"u{size}"), planes)
    else:
        planes.reshape(size, count)[...] = elements.reshape(count, size).T
