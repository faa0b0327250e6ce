"""Kernels that multiply blocks of whole lines by dense arrays, along either axis.

A block is three arrays: line r has the values ``data[indptr[r]:indptr[r + 1]]`` at the minor
indices of the same place. The block's values, the factor and the result have one dtype: whoever
calls casts first, as scipy does. Minor indices are in range; they need not be sorted or unique.

Each number of a result is added up in the order in which the elements are stored. Subscripts are
made unsigned: of signed ones numba asks each time whether they count from the end, which takes as
long as the product itself. All are ``nogil`` (they run in a thread pool) and cached on disk. With
``NUMBA_DISABLE_JIT=1`` they run as plain Python.
"""

import numpy as np

from .caching import njit

__all__ = ["add_lines", "add_lines_dense", "gram", "gram_product", "lines_dense", "lines_dot"]


@njit(cache=True, nogil=True)
def lines_dot(data, indices, indptr, x, zero, out):
    """Set ``out[r]`` to the product of line r and the vector `x`, summed in the type of `zero`."""
    for r in range(indptr.size - 1):
        total = zero
        for i in range(np.uint64(indptr[r]), np.uint64(indptr[r + 1])):
            total += (zero + data[i]) * x[np.uint64(indices[i])]
        out[r] = total


@njit(cache=True, nogil=True)
def add_lines(data, indices, indptr, y, out):
    """Add to the vector `out` the lines, each multiplied by its ``y[r]``."""
    for r in range(indptr.size - 1):
        factor = y[r]
        for i in range(np.uint64(indptr[r]), np.uint64(indptr[r + 1])):
            out[np.uint64(indices[i])] += data[i] * factor


@njit(cache=True, nogil=True)
def lines_dense(data, indices, indptr, dense, out):
    """Set ``out[r, :]`` to the product of line r and the dense matrix, whose rows are minor."""
    width = dense.shape[1]
    for r in range(indptr.size - 1):
        line = out[r]
        line[:] = 0
        for i in range(np.uint64(indptr[r]), np.uint64(indptr[r + 1])):
            value, row = data[i], dense[np.uint64(indices[i])]
            for k in range(width):
                line[k] += value * row[k]


@njit(cache=True, nogil=True)
def add_lines_dense(data, indices, indptr, dense, out):
    """Add to ``out[j, :]`` the elements at j, each multiplied by its line's ``dense[r, :]``."""
    width = dense.shape[1]
    for r in range(indptr.size - 1):
        line = dense[r]
        for i in range(np.uint64(indptr[r]), np.uint64(indptr[r + 1])):
            value, row = data[i], out[np.uint64(indices[i])]
            for k in range(width):
                row[k] += value * line[k]


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
    width = dense.shape[1]
    line = np.empty(width, out.dtype)
    for r in range(indptr.size - 1):
        line[:] = 0
        start, stop = np.uint64(indptr[r]), np.uint64(indptr[r + 1])
        for i in range(start, stop):
            value, row = data[i], dense[np.uint64(indices[i])]
            for k in range(width):
                line[k] += value * row[k]
        for i in range(start, stop):
            value, row = data[i], out[np.uint64(indices[i])]
            for k in range(width):
                row[k] += value * line[k]


@njit(cache=True, nogil=True)
def gram(data, indices, indptr, first, last, out):
    """Add to rows `first` to `last` of `out` those of the block's transpose times the block.

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
