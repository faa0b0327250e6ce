"""Kernels that multiply blocks of whole lines by dense arrays, along either axis.

A block is three arrays: line r has the values ``data[indptr[r]:indptr[r + 1]]`` at the minor
indices of the same place, which need not be sorted or unique. The factor and the result have one
dtype, and the block's values too, or one that is exact in it: whoever calls casts first, as scipy
does.

All but `gram` and `half_gram` take indices as the file has them. Each is looked at once, in the
moment it is used: a pass of its own takes a third as long as the product, and others may write to a
file in between. They return -1, or the number of the first line that has an index out of range;
what they wrote is of no use then. Subscripts are made unsigned: a negative one is a large one, and
of signed ones numba asks each time whether they count from the end, which takes as long as the
product itself.

Each number of a result is added up in an order that depends on the block alone. All are ``nogil``
(they run in a thread pool) and cached on disk. With ``NUMBA_DISABLE_JIT=1`` they run as plain
Python.
"""

import numpy as np

from .caching import njit

__all__ = [
    "add_lines",
    "add_lines_dense",
    "gram",
    "gram_product",
    "half_gram",
    "lines_dense",
    "lines_dot",
]

#: Numbers of lines that stay in the cache of a core, with a tile: at most 256 kB.
_TOGETHER = 1 << 15
#: Bytes of the rows of a dense matrix that do. With 28,000 rows of 60 doubles, of which lines use
#: 2,400 each, a product and that of its transpose take 0.6 of the time without tiles
#: (bench/products.py).
_TILE = 1 << 18
#: The tiles of a matrix, 6 MB, up to which it is faster whole.
_TILES = 24
#: The elements of a line that use a tile for which the search for where they end is nothing.
_RUN = 8


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
def first_from(minors, first, last, bound):
    """Return the place from `first` on, before `last`, of the first index that is `bound` or more.

    Where they do not ascend it is some place all the same. Most are near, so steps grow.
    """
    step = 8
    while first + step < last and minors[first + step] < bound:
        first += step
        step *= 2
    last = min(last, first + step)
    while first < last:
        middle = (first + last) // 2
        if minors[middle] < bound:
            first = middle + 1
        else:
            last = middle
    return first


@njit(cache=True, nogil=True)
def rows_together(rows, width, itemsize, lines, elements):
    """Return how many rows of a dense matrix are used at a time, of `rows`.

    So few that they stay in the cache while all lines use them. All of them, where most stay in one
    of the caches anyway, or where lines have too few elements in so few rows for it to be worth it.
    """
    some = max(1, _TILE // max(1, width * itemsize))
    if rows < _TILES * some or elements < _RUN * lines * (rows // some):
        return max(1, rows)
    return some


@njit(cache=True, nogil=True)
def first_bad(indices, indptr, end, found):
    """Return the first line that has an index out of range; `found`, should there be none now."""
    for r in range(indptr.size - 1):
        for i in range(indptr[r], indptr[r + 1]):
            if np.uint64(indices[i]) >= end:
                return r
    return found


@njit(cache=True, nogil=True)
def _add_rows(values, minors, dense, line):
    """Add to `line` the rows of `dense` at `minors`, each times its value; say if there are all.

    For four elements at a time the numbers of the line are fetched and put back once; they are
    added up one after the other all the same.
    """
    width, end = dense.shape[1], np.uint64(dense.shape[0])
    fours = minors.size // 4 * 4
    for i in range(0, fours, 4):
        a, b = np.uint64(minors[i]), np.uint64(minors[i + 1])
        c, d = np.uint64(minors[i + 2]), np.uint64(minors[i + 3])
        if max(max(a, b), max(c, d)) >= end:
            return False
        p, q, s, t = values[i], values[i + 1], values[i + 2], values[i + 3]
        one, two, three, four = dense[a], dense[b], dense[c], dense[d]
        for k in range(width):
            total = (line[k] + p * one[k]) + q * two[k]
            line[k] = (total + s * three[k]) + t * four[k]
    for i in range(fours, minors.size):
        minor = np.uint64(minors[i])
        if minor >= end:
            return False
        value, row = values[i], dense[minor]
        for k in range(width):
            line[k] += value * row[k]
    return True


@njit(cache=True, nogil=True)
def _add_to_rows(values, minors, line, out):
    """Add to the rows of `out` at `minors` the line, each time times its value; say if all are."""
    width, end = line.size, np.uint64(out.shape[0])
    for i in range(minors.size):
        minor = np.uint64(minors[i])
        if minor >= end:
            return False
        value, row = values[i], out[minor]
        for k in range(width):
            row[k] += value * line[k]
    return True


@njit(cache=True, nogil=True)
def _by_tiles(data, indices, indptr, dense, lines, along):
    """Multiply some lines by a matrix, or add them to one, a tile of its rows after the other.

    Every element is used once, in whichever tile, and those of a line in the order they have.
    """
    n, rows = indptr.size - 1, dense.shape[0]
    elements = indptr[n] - indptr[0]
    tile = rows_together(rows, dense.shape[1], dense.itemsize, n, elements)
    at = indptr[:n].copy()
    if along:
        lines[:] = 0
    for first in range(0, max(1, rows), tile):
        for r in range(n):
            a, b = at[r], indptr[r + 1]
            if first + tile < rows:
                b = first_from(indices, a, b, first + tile)
            if along:
                good = _add_rows(data[a:b], indices[a:b], dense, lines[r])
            else:
                good = _add_to_rows(data[a:b], indices[a:b], lines[r], dense)
            if not good:
                return first_bad(indices, indptr, np.uint64(rows), r)
            at[r] = b
    return -1


@njit(cache=True, nogil=True)
def _lines_at_a_time(width):
    """Return of how many lines the numbers stay in the cache."""
    return max(1, _TOGETHER // max(1, width))


@njit(cache=True, nogil=True)
def _in_groups(data, indices, indptr, dense, lines, along):
    """Do as `_by_tiles` with so many lines at a time as stay in the cache."""
    n, step = indptr.size - 1, _lines_at_a_time(dense.shape[1])
    for first in range(0, n, step):
        last = min(n, first + step)
        some = indptr[first : last + 1]
        bad = _by_tiles(data, indices, some, dense, lines[first:last], along)
        if bad >= 0:
            return first + bad
    return -1


@njit(cache=True, nogil=True)
def lines_dense(data, indices, indptr, dense, out):
    """Set ``out[r, :]`` to the product of line r and the dense matrix, whose rows are minor."""
    return _in_groups(data, indices, indptr, dense, out, True)


@njit(cache=True, nogil=True)
def add_lines_dense(data, indices, indptr, dense, out):
    """Add to ``out[j, :]`` the elements at j, each multiplied by its line's ``dense[r, :]``."""
    return _in_groups(data, indices, indptr, out, dense, False)


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
    step = _lines_at_a_time(width)
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


@njit(cache=True, nogil=True)
def half_gram(data, indices, indptr, first, last, out):
    """Add to rows `first` to `last` of `out` what, with its transpose, is `gram`'s.

    Of two elements of a line the product is added once, in the row of the one stored first; of one
    with itself half of it. Indices are in range. The parameters are those of `gram`, of doubles.
    """
    for r in range(indptr.size - 1):
        start, stop = np.uint64(indptr[r]), np.uint64(indptr[r + 1])
        for i in range(start, stop):
            if first <= indices[i] < last:
                at, value = np.uint64(indices[i]), data[i]
                row = out[at]
                row[at] += 0.5 * value * value
                for j in range(i + np.uint64(1), stop):
                    row[np.uint64(indices[j])] += value * data[j]
