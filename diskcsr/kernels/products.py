"""Kernels that multiply blocks of whole lines by dense arrays, along either axis.

A block is three arrays: line r has the values ``data[indptr[r]:indptr[r + 1]]`` at the minor
indices of the same place, which need not be sorted or unique. The factor and the result have one
dtype, and the block's values too, or one that is exact in it: whoever calls casts first, as scipy
does.

All but `gram` take indices as the file has them. Each is looked at once, in the moment it is used:
a pass of its own takes a third as long as the product, and others may write to a file in between.
They return -1, or the number of the first line that has an index out of range; what they wrote is
of no use then. Subscripts are made unsigned: a negative one is a large one, and of signed ones
numba asks each time whether they count from the end, which takes as long as the product itself.

Each number of a result is added up in an order that depends on the block alone. All are ``nogil``
(they run in a thread pool) and cached on disk. With ``NUMBA_DISABLE_JIT=1`` they run as plain
Python.
"""

import numpy as np

from .caching import njit

__all__ = ["add_lines", "add_lines_dense", "gram", "gram_product", "lines_dense", "lines_dot"]

#: Numbers of a result that is multiplied again: at most 256 kB.
_TOGETHER = 1 << 15


# In any order, the processor can fetch several numbers of the vector at a time.
@njit(cache=True, nogil=True, fastmath={"reassoc", "nsz"})
def lines_dot(data, indices, indptr, x, zero, out):
    """Set ``out[r]`` to the product of line r and the vector `x`, summed in the type of `zero`.

    An index out of range is taken for the last one until the line was gone through.
    """
    last = np.uint64(max(1, x.size) - 1)
    for r in range(indptr.size - 1):
        values = data[indptr[r] : indptr[r + 1]]
        minors = indices[indptr[r] : indptr[r + 1]]
        if minors.size and not x.size:
            return r
        total, most = zero, np.uint64(0)
        for i in range(minors.size):
            minor = np.uint64(minors[i])
            most = max(most, minor)
            total += (zero + values[i]) * x[min(minor, last)]
        if most > last:
            return r
        out[r] = total
    return -1


@njit(cache=True, nogil=True)
def add_lines(data, indices, indptr, y, out):
    """Add to the vector `out` the lines, each multiplied by its ``y[r]``."""
    end = np.uint64(out.size)
    for r in range(indptr.size - 1):
        factor = y[r]
        for i in range(np.uint64(indptr[r]), np.uint64(indptr[r + 1])):
            minor = np.uint64(indices[i])
            if minor >= end:
                return r
            out[minor] += data[i] * factor
    return -1


@njit(cache=True, nogil=True)
def lines_dense(data, indices, indptr, dense, out):
    """Set ``out[r, :]`` to the product of line r and the dense matrix, whose rows are minor.

    For four elements at a time the numbers of the line are fetched and put back once; they are
    added up one after the other all the same.
    """
    width, end = dense.shape[1], np.uint64(dense.shape[0])
    for r in range(indptr.size - 1):
        line = out[r]
        line[:] = 0
        values = data[indptr[r] : indptr[r + 1]]
        minors = indices[indptr[r] : indptr[r + 1]]
        fours = minors.size // 4 * 4
        for i in range(0, fours, 4):
            a, b = np.uint64(minors[i]), np.uint64(minors[i + 1])
            c, d = np.uint64(minors[i + 2]), np.uint64(minors[i + 3])
            if max(max(a, b), max(c, d)) >= end:
                return r
            p, q, s, t = values[i], values[i + 1], values[i + 2], values[i + 3]
            one, two, three, four = dense[a], dense[b], dense[c], dense[d]
            for k in range(width):
                total = (line[k] + p * one[k]) + q * two[k]
                line[k] = (total + s * three[k]) + t * four[k]
        for i in range(fours, minors.size):
            minor = np.uint64(minors[i])
            if minor >= end:
                return r
            value, row = values[i], dense[minor]
            for k in range(width):
                line[k] += value * row[k]
    return -1


@njit(cache=True, nogil=True)
def add_lines_dense(data, indices, indptr, dense, out):
    """Add to ``out[j, :]`` the elements at j, each multiplied by its line's ``dense[r, :]``."""
    width, end = dense.shape[1], np.uint64(out.shape[0])
    for r in range(indptr.size - 1):
        line = dense[r]
        for i in range(np.uint64(indptr[r]), np.uint64(indptr[r + 1])):
            minor = np.uint64(indices[i])
            if minor >= end:
                return r
            value, row = data[i], out[minor]
            for k in range(width):
                row[k] += value * line[k]
    return -1


@njit(cache=True, nogil=True)
def gram_product(data, indices, indptr, dense, out):
    """Add to `out` the product of the block's transpose, the block, and a dense matrix.

    So many lines are multiplied by the matrix, and then by what came out, that neither the matrix
    nor `out` has to come to the cache anew for each, and few enough that what came out stays there.

    Parameters
    ----------
    data, indices, indptr : arrays
        The block.
    dense, out : (n_minor, k) arrays
    """
    width, n = dense.shape[1], indptr.size - 1
    step = max(1, _TOGETHER // max(1, width))
    lines = np.empty((min(n, step), width), out.dtype)
    for first in range(0, n, step):
        some = indptr[first : min(n, first + step) + 1]
        bad = lines_dense(data, indices, some, dense, lines)
        if bad < 0:  # looked at again: the file may have been written to since
            bad = add_lines_dense(data, indices, some, lines, out)
        if bad >= 0:
            return first + bad
    return -1


@njit(cache=True, nogil=True)
def gram(data, indices, indptr, first, last, out):
    """Add to rows `first` to `last` of `out` those of the block's transpose times the block.

    Its indices are in range.

    Parameters
    ----------
    data, indices, indptr : arrays
        The block.
    first, last : int
        Which rows of the product; other threads add the others.
    out : (n_minor, n_minor) array
    """
    for r in range(indptr.size - 1):
        start, stop = np.uint64(indptr[r]), np.uint64(indptr[r + 1])
        for i in range(start, stop):
            if first <= indices[i] < last:
                value, row = data[i], out[np.uint64(indices[i])]
                for j in range(start, stop):
                    row[np.uint64(indices[j])] += value * data[j]
