"""Kernels that put triplets in order: (major, minor) as one number, a radix sort, and back.

A key is the major index followed by the bits of the minor one, a non-negative int64, so that one
sort settles both. The sort is the least-significant-digit radix sort (Knuth, TAOCP 3, 5.2.5), a
pass a digit: it keeps the order of equal keys, and takes no pass for bits that all keys share.

All are ``nogil`` (they run in a thread pool) and cached on disk. With ``NUMBA_DISABLE_JIT=1`` they
run as plain Python.
"""

import numpy as np

from .caching import njit

__all__ = ["pack", "sort_pass", "survey", "unpack"]


@njit(cache=True, nogil=True)
def pack(majors, minors, n_major, n_minor, bits, keys):
    """Fill `keys` with ``majors << bits | minors``.

    Parameters
    ----------
    majors, minors : integer arrays of one length
    n_major, n_minor : int
        What the indices must be less than.
    bits : int
        Of a minor index.
    keys : int64 array

    Returns
    -------
    (int, int, int)
        The position of the first index out of range, -1 when there is none; then the largest
        major and the largest minor index, -1 when there are none.
    """
    largest_major, largest_minor = -1, -1
    for i in range(majors.size):
        major, minor = np.int64(majors[i]), np.int64(minors[i])
        if major < 0 or major >= n_major or minor < 0 or minor >= n_minor:
            return i, largest_major, largest_minor
        largest_major, largest_minor = max(largest_major, major), max(largest_minor, minor)
        keys[i] = major << bits | minor
    return -1, largest_major, largest_minor


@njit(cache=True, nogil=True)
def survey(keys):
    """Return the bits in which keys differ, and whether they are in order (equal ones may be)."""
    varying, ordered = 0, True
    for i in range(1, keys.size):
        varying |= keys[i] ^ keys[0]
        ordered &= keys[i - 1] <= keys[i]
    return varying, ordered


@njit(cache=True, nogil=True)
def sort_pass(keys, values, shift, width, to_keys, to_values):
    """Sort by the `width` bits of the keys from bit `shift` on; equal ones keep their order.

    Parameters
    ----------
    keys, values : arrays, one element an entry
    shift, width : int
    to_keys, to_values : arrays
        Filled.
    """
    mask = (1 << width) - 1
    at = np.zeros(1 << width, np.int64)
    for i in range(keys.size):
        at[keys[i] >> shift & mask] += 1
    before = 0
    for digit in range(at.size):
        count = at[digit]
        at[digit] = before
        before += count
    for i in range(keys.size):
        digit = keys[i] >> shift & mask
        p = at[digit]
        at[digit] = p + 1
        to_keys[p] = keys[i]
        to_values[p] = values[i]


@njit(cache=True, nogil=True)
def unpack(keys, bits, first, minors, lengths):
    """Take keys in order apart.

    Parameters
    ----------
    keys : int64 array
    bits : int
        Of a minor index.
    first : int
        The major index that ``lengths[0]`` is of.
    minors : integer array
        Filled.
    lengths : int64 array
        How many keys each major index has is added to it.
    """
    mask = (1 << bits) - 1
    for i in range(keys.size):
        minors[i] = keys[i] & mask
        lengths[(keys[i] >> bits) - first] += 1
