"""Plain-Python twins of the kernels in diskcsr.kernels.products: see `naive`."""

import numpy as np


def _elements(data, indices, indptr):
    """Yield line, minor index and value of each element of a block, as stored."""
    for line in range(len(indptr) - 1):
        for i in range(indptr[line], indptr[line + 1]):
            yield line, int(indices[i]), data[i]


def lines_dot(data, indices, indptr, x, zero, out):
    """Twin of `products.lines_dot`."""
    out[:] = 0
    for line, minor, value in _elements(data, indices, indptr):
        out[line] += value * x[minor]


def add_lines(data, indices, indptr, y, out):
    """Twin of `products.add_lines`."""
    for line, minor, value in _elements(data, indices, indptr):
        out[minor] += value * y[line]


def lines_dense(data, indices, indptr, dense, out):
    """Twin of `products.lines_dense`."""
    out[:] = 0
    for line, minor, value in _elements(data, indices, indptr):
        out[line] += value * dense[minor]


def add_lines_dense(data, indices, indptr, dense, out):
    """Twin of `products.add_lines_dense`."""
    for line, minor, value in _elements(data, indices, indptr):
        out[minor] += value * dense[line]


def gram_product(data, indices, indptr, dense, out):
    """Twin of `products.gram_product`."""
    lines = np.zeros((len(indptr) - 1, dense.shape[1]), out.dtype)
    lines_dense(data, indices, indptr, dense, lines)
    add_lines_dense(data, indices, indptr, lines, out)


def gram(data, indices, indptr, first, last, out):
    """Twin of `products.gram`."""
    elements = list(_elements(data, indices, indptr))
    for line, row, value in elements:
        for other, column, factor in elements:
            if line == other and first <= row < last:
                out[row, column] += value * factor
