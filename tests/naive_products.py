"""Plain-Python twins of the kernels in diskcsr.kernels.products: see `naive`."""

import numpy as np


def _elements(data, indices, indptr):
    """Yield line, minor index and value of each element of a block, as stored."""
    for line in range(len(indptr) - 1):
        for i in range(indptr[line], indptr[line + 1]):
            yield line, int(indices[i]), data[i]


def _bad_line(indices, indptr, n_minor):
    """The first line that has an index out of range, or -1."""
    for line in range(len(indptr) - 1):
        some = indices[indptr[line] : indptr[line + 1]].tolist()
        if not all(0 <= minor < n_minor for minor in some):
            return line
    return -1


def lines_dot(data, indices, indptr, x, zero, out):
    """Twin of `products.lines_dot`."""
    bad = _bad_line(indices, indptr, len(x))
    if bad >= 0:
        return bad
    out[:] = 0
    for line, minor, value in _elements(data, indices, indptr):
        out[line] += value * x[minor]
    return -1


def add_lines(data, indices, indptr, y, out):
    """Twin of `products.add_lines`."""
    bad = _bad_line(indices, indptr, len(out))
    if bad >= 0:
        return bad
    for line, minor, value in _elements(data, indices, indptr):
        out[minor] += value * y[line]
    return -1


def lines_dense(data, indices, indptr, dense, out):
    """Twin of `products.lines_dense`."""
    bad = _bad_line(indices, indptr, len(dense))
    if bad >= 0:
        return bad
    out[:] = 0
    for line, minor, value in _elements(data, indices, indptr):
        out[line] += value * dense[minor]
    return -1


def add_lines_dense(data, indices, indptr, dense, out):
    """Twin of `products.add_lines_dense`."""
    bad = _bad_line(indices, indptr, len(out))
    if bad >= 0:
        return bad
    for line, minor, value in _elements(data, indices, indptr):
        out[minor] += value * dense[line]
    return -1


def gram_product(data, indices, indptr, dense, out):
    """Twin of `products.gram_product`."""
    bad = _bad_line(indices, indptr, len(dense))
    if bad >= 0:
        return bad
    lines = np.zeros((len(indptr) - 1, dense.shape[1]), out.dtype)
    lines_dense(data, indices, indptr, dense, lines)
    add_lines_dense(data, indices, indptr, lines, out)
    return -1


def gram_panel(data, indices, indptr, panel, part, lanes):
    """Twin of `panels.gram_panel`, of whole numbers."""
    assert panel.shape[1] == 16 * len(lanes)
    return gram_product(data, indices, indptr, panel, part)


def add_part(part, out):
    """Twin of `panels.add_part`."""
    out += part
    part[:] = 0


def gram(data, indices, indptr, first, last, out):
    """Twin of `products.gram`."""
    elements = list(_elements(data, indices, indptr))
    for line, row, value in elements:
        for other, column, factor in elements:
            if line == other and first <= row < last:
                out[row, column] += value * factor


def half_gram(data, indices, indptr, first, last, out):
    """Twin of `products.half_gram`."""
    elements = list(_elements(data, indices, indptr))
    for at, (line, row, value) in enumerate(elements):
        if first <= row < last:
            out[row, row] += 0.5 * value * value
            for other, column, factor in elements[at + 1 :]:
                if line == other:
                    out[row, column] += value * factor
