"""Kernels of sums and statistics over blocks of whole lines.

All are ``nogil`` (they run in a thread pool) and cached on disk. With ``NUMBA_DISABLE_JIT=1`` they
run as plain Python.
"""

from numba import njit

__all__ = ["is_canonical"]


@njit(cache=True, nogil=True)
def is_canonical(indices, indptr):
    """Whether the indices of each line ascend, and none occurs twice."""
    for line in range(indptr.size - 1):
        descends = False
        for i in range(indptr[line] + 1, indptr[line + 1]):
            descends |= indices[i] <= indices[i - 1]
        if descends:
            return False
    return True
