"""Kernels that turn rows into columns: count, cut into buckets, put in order.

A counting sort in two steps, as in Gustavson, "Two fast algorithms for sparse matrices" (ACM TOMS
4, 1978), the first of which only separates what will not fit into memory together.

All are ``nogil`` (they run in a thread pool) and cached on disk. With ``NUMBA_DISABLE_JIT=1`` they
run as plain Python.
"""

import numpy as np

from .caching import njit

__all__ = ["count", "partition", "place"]


@njit(cache=True, nogil=True)
def count(indices, counts):
    """Add to ``counts[i]`` how often `i` occurs in `indices`; all must be in range."""
    for i in range(indices.size):
        counts[indices[i]] += 1


@njit(cache=True, nogil=True)
def partition(data, indices, indptr, first, bucket_of, bucket_lo, values, majors, minors):
    """Sort the entries of a block by bucket, otherwise keeping their order.

    Parameters
    ----------
    data, indices, indptr : arrays
        A compressed block.
    first : int
        Major index of its first row.
    bucket_of : (n_minor,) integer array
        The bucket of each minor index.
    bucket_lo : (k,) int64 array
        The least minor index of each bucket.
    values, majors, minors : arrays, one element an entry
        Filled; minor indices count from the least one of their bucket.

    Returns
    -------
    (k + 1,) int64 array
        The entries of bucket b are ``ptr[b]:ptr[b + 1]``.
    """
    k = bucket_lo.size
    ptr = np.zeros(k + 1, np.int64)
    for i in range(indptr[0], indptr[-1]):
        ptr[bucket_of[indices[i]] + 1] += 1
    for b in range(k):
        ptr[b + 1] += ptr[b]
    at = ptr[:-1].copy()
    for row in range(indptr.size - 1):
        for i in range(indptr[row], indptr[row + 1]):
            b = bucket_of[indices[i]]
            p = at[b]
            at[b] = p + 1
            values[p] = data[i]
            majors[p] = first + row
            minors[p] = indices[i] - bucket_lo[b]
    return ptr


@njit(cache=True, nogil=True)
def place(values, majors, minors, at, data, indices):
    """Put entries where their minor index says: entry i goes to ``at[minors[i]]``, which moves on.

    Parameters
    ----------
    values, majors, minors : arrays, one element an entry
    at : int64 array
        The next free place of each minor index; changed.
    data, indices : arrays
        Filled with the values and with the major indices.
    """
    for i in range(minors.size):
        p = at[minors[i]]
        at[minors[i]] = p + 1
        data[p] = values[i]
        indices[p] = majors[i]
