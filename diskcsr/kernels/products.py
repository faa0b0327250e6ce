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
    """Set ``out[r, :]`` to the product of line r and the dense matrix, whose rows are minor."""
    width, end = dense.shape[1], np.uint64(dense.shape[0])
    for r in range(indptr.size - 1):
        line = out[r]
        line[:] = 0
        for i in range(np.uint64(indptr[r]), np.uint64(indptr[r + 1])):
            minor = np.uint64(indices[i])
            if minor >= end:
                return r
            value, row = data[i], dense[minor]
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

    A line is multiplied by the matrix and at once by what came out, while it is in the cache.

    Parameters
    ----------
    data, indices, indptr : arrays
        The block.
    dense, out : (n_minor, k) arrays
    """
    width, end = dense.shape[1], np.uint64(out.shape[0])
    line = np.empty(width, out.dtype)
    for r in range(indptr.size - 1):
        line[:] = 0
        start, stop = np.uint64(indptr[r]), np.uint64(indptr[r + 1])
        for i in range(start, stop):
            minor = np.uint64(indices[i])
            if minor >= end:
                return r
            value, row = data[i], dense[minor]
            for k in range(width):
                line[k] += value * row[k]
        for i in range(start, stop):
            minor = np.uint64(indices[i])
            if minor >= end:  # the file may have been written to since
                return r
            value, row = data[i], out[minor]
            for k in range(width):
                row[k] += value * line[k]
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
