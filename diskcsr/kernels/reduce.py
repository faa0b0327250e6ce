"""Kernels of sums and statistics over blocks of whole lines.

All are ``nogil`` (they run in a thread pool) and cached on disk. With ``NUMBA_DISABLE_JIT=1`` they
run as plain Python. Those that add or summarize across lines take indices as the file has them,
and return -1, or the place of the first that is out of range; what they wrote is of no use then.
Indices of the others are in range: they were checked when they were read.

The elements of a line are looked at in a slice of their own: that no place in it is negative, the
compiler sees for itself, and then it uses vectors, which is four times as fast.
"""

import numpy as np

from .caching import njit

__all__ = [
    "add_all",
    "add_at",
    "add_exactly",
    "add_lines",
    "first_extremes_at",
    "first_extremes_of_lines",
    "is_canonical",
    "spread_at",
    "spread_lines",
    "summarize_at",
    "summarize_lines",
]


@njit(cache=True, nogil=True)
def is_canonical(indices, indptr):
    """Whether the indices of each line ascend, and none occurs twice."""
    for line in range(indptr.size - 1):
        some = indices[indptr[line] : indptr[line + 1]]
        descends = False
        for i in range(1, some.size):
            descends |= some[i] <= some[i - 1]
        if descends:
            return False
    return True


# ------------------------------------------------------------------------------------------ sums


# The order of additions is free here: where it matters, `add_exactly` is used.
@njit(cache=True, nogil=True, fastmath={"reassoc", "nsz"})
def add_all(values, out):
    """Add all values to ``out[0]``, whose type they are added up in.

    Both halves at a time: at the start of each page of a file the processor waits for memory, and
    two such waits pass together.
    """
    half = values.size // 2
    one, two = values[:half], values[half : 2 * half]
    total = out[0]
    other = total - total
    for i in range(half):
        total += one[i]
        other += two[i]
    if values.size % 2:
        total += values[-1]
    out[0] = total + other


@njit(cache=True, nogil=True, fastmath={"reassoc", "nsz"})
def add_lines(values, indptr, out):
    """Add the values of line k to ``out[k]``, whose type they are added up in."""
    for line in range(indptr.size - 1):
        some = values[indptr[line] : indptr[line + 1]]
        total = out[line]
        for i in range(some.size):
            total += some[i]
        out[line] = total


@njit(cache=True, nogil=True)
def _two_sum(a, b):
    """Return ``a + b`` as it is rounded, and what was lost (Knuth)."""
    total = a + b
    part = total - a
    return total, (a - (total - part)) + (b - part)


@njit(cache=True, nogil=True)
def add_exactly(values, indptr, out, lost):
    """Add the values of line k to ``out[k] + lost[k]``: as if with twice the digits.

    What is lost in each addition is added up beside the sum. Four sums run side by side, so that
    none waits for the last addition.
    """
    for line in range(indptr.size - 1):
        a, e = out[line], lost[line]
        b = c = d = f = g = h = a - a
        some = values[indptr[line] : indptr[line + 1]]
        whole = some.size // 4 * 4
        for i in range(0, whole, 4):
            a, x = _two_sum(a, some[i])
            b, y = _two_sum(b, some[i + 1])
            c, z = _two_sum(c, some[i + 2])
            d, w = _two_sum(d, some[i + 3])
            e += x
            f += y
            g += z
            h += w
        for i in range(whole, some.size):
            a, x = _two_sum(a, some[i])
            e += x
        a, x = _two_sum(a, b)
        c, y = _two_sum(c, d)
        a, z = _two_sum(a, c)
        out[line] = a
        lost[line] = (e + f) + (g + h) + ((x + y) + z)


@njit(cache=True, nogil=True)
def add_at(values, indices, out):
    """Add each value to ``out[its index]``; indices are unsigned."""
    end = np.uint64(out.size)
    for i in range(indices.size):
        at = np.uint64(indices[i])
        if at >= end:
            return i
        out[at] += values[i]
    return -1


# ------------------------------------------------------------------------------------- statistics


@njit(cache=True, nogil=True)
def spread_lines(values, indptr, spread):
    """Take the values of line k into row k of the state; see `spread_at`."""
    for line in range(indptr.size - 1):
        some = values[indptr[line] : indptr[line + 1]]
        if some.size == 0:
            continue
        if spread[line, 0] == 0:
            spread[line, 1] = some[0]
        shift, first, second = spread[line, 1], spread[line, 2], spread[line, 3]
        for i in range(some.size):
            d = some[i] - shift
            first += d
            second += d * d
        spread[line, 0] += some.size
        spread[line, 2], spread[line, 3] = first, second


@njit(cache=True, nogil=True)
def _take(x, at, spread):
    """Take a value into one row of `spread`."""
    if spread[at, 0] == 0:
        spread[at, 1] = x
    spread[at, 0] += 1
    d = x - spread[at, 1]
    spread[at, 2] += d
    spread[at, 3] += d * d


@njit(cache=True, nogil=True)
def spread_at(values, indices, spread):
    """Take each value into the state of its index.

    Parameters
    ----------
    values, indices : (k,) array
    spread : (n, 4) float64 array
        How many values there are; one of them, the first that came; the sum of what the values
        differ from it, and the sum of the squares of that. Differences from a value of their own
        are small, so what the variance is made of does not cancel out.
    """
    end = np.uint64(spread.shape[0])
    for i in range(indices.size):
        at = np.uint64(indices[i])
        if at >= end:
            return i
        _take(values[i], at, spread)
    return -1


@njit(cache=True, nogil=True)
def summarize_lines(values, indptr, spread, counts, sums, extremes):
    """Take the values of line k into row k of each state; see `summarize_at`.

    All of it in one go: additions to one sum wait for each other, those to several do not.
    """
    for line in range(indptr.size - 1):
        some = values[indptr[line] : indptr[line + 1]]
        if some.size == 0:
            continue
        if spread[line, 0] == 0:
            spread[line, 1] = some[0]
        shift, first, second = spread[line, 1], spread[line, 2], spread[line, 3]
        zeros, nans, total = counts[line, 0], counts[line, 1], sums[line]
        least, most = extremes[line, 0], extremes[line, 1]
        for i in range(some.size):
            x = some[i]
            zeros += x == 0
            nans += x != x
            least = x if x < least else least
            most = x if x > most else most
            total += x
            d = x - shift
            first += d
            second += d * d
        spread[line, 0] += some.size
        spread[line, 2], spread[line, 3] = first, second
        counts[line, 0], counts[line, 1], sums[line] = zeros, nans, total
        extremes[line, 0], extremes[line, 1] = least, most


@njit(cache=True, nogil=True)
def summarize_at(values, indices, spread, counts, sums, extremes):
    """Take each value into the states of its index.

    Parameters
    ----------
    values, indices : (k,) array
    spread : (n, 4) float64 array
        As of `spread_at`.
    counts : (n, 2) int64 array
        How many of the values are 0, and how many NaN: seldom one, so that its memory is seldom
        touched.
    sums : (n,) array
    extremes : (n, 2) array
        The least and the largest; NaN is neither.
    """
    end = np.uint64(sums.size)
    for i in range(indices.size):
        at, x = np.uint64(indices[i]), values[i]
        if at >= end:
            return i
        _take(x, at, spread)
        if x == 0:
            counts[at, 0] += 1
        if x != x:
            counts[at, 1] += 1
        if x < extremes[at, 0]:
            extremes[at, 0] = x
        if x > extremes[at, 1]:
            extremes[at, 1] = x
        sums[at] += x
    return -1


# --------------------------------------------------------------------------- where the largest is


@njit(cache=True, nogil=True)
def first_extremes_of_lines(values, indices, indptr, largest, best, where):
    """Find the first of the largest values of each line, and the first place without a value.

    Parameters
    ----------
    values, indices, indptr : arrays
        A canonical block of k lines.
    largest : bool
        Else the first of the least values. NaN is taken for more extreme than all.
    best : (k,) array
        Filled, where a line has values.
    where : (k, 4) int64 array
        Filled: the index of the first of the extreme values, where a line has values; how many
        values stand before it in the line; the least index without a value; how many values there
        are.
    """
    for line in range(indptr.size - 1):
        some = values[indptr[line] : indptr[line + 1]]
        places = indices[indptr[line] : indptr[line + 1]]
        found, missing = 0, 0
        for i in range(some.size):
            missing += places[i] == missing
            x, y = some[i], some[found]
            if y == y and (x != x or (x > y if largest else x < y)):
                found = i
        if some.size:
            best[line] = some[found]
            where[line, 0] = places[found]
        where[line, 1] = found
        where[line, 2] = missing
        where[line, 3] = some.size


@njit(cache=True, nogil=True)
def first_extremes_at(values, indices, indptr, first, largest, best, where):
    """Take each value of a block into the state of its index; the block begins with line `first`.

    Parameters
    ----------
    values, indices, indptr : arrays
        A canonical block.
    first : int
    largest : bool
        As of `first_extremes_of_lines`.
    best : (n,) array
    where : (n, 4) int64 array
        The line of the first of the extreme values; how many values came before it; the first line
        without a value; how many values there are.
    """
    for line in range(indptr.size - 1):
        for i in range(indptr[line], indptr[line + 1]):
            at, x = indices[i], values[i]
            y = best[at]
            if where[at, 3] == 0 or (y == y and (x != x or (x > y if largest else x < y))):
                best[at] = x
                where[at, 0] = first + line
                where[at, 1] = where[at, 3]
            where[at, 2] += where[at, 2] == first + line
            where[at, 3] += 1
