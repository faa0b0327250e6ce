"""What ``A[key] = value`` asks for: which stored values change, and that nothing else would.

The sparsity structure stays as it is. Of the stored entries that the key selects each gets its new
value, zero where the right side has none; a value other than zero where nothing is stored is
refused. Pure, no I/O; knows major and minor only.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.sparse import issparse

from ..axis import Axis
from ..errors import StructureError
from .selection import AxisKey, is_grid, keys_of

__all__ = ["Change", "Values", "apply_change", "parse_change"]


@dataclass(frozen=True)
class Change:
    """An assignment, restated by major and minor index.

    Attributes
    ----------
    major : (k,) int64 array
        The major indices to read, ascending and unique.
    minor : (m,) int64 array or None
        For a grid: the minor indices, ascending and unique. None for single points.
    values : Values
        What is assigned.
    """

    major: np.ndarray
    minor: np.ndarray | None
    values: "Values"


class Values:
    """The right side of an assignment, as points: what each major index gets.

    Parameters
    ----------
    ptr : (k + 1,) int64 array or None
        The points of `Change.major[i]` are ``ptr[i]:ptr[i + 1]``; None for one value everywhere.
    minor : (p,) int64 array or None
        Minor index of each point, ascending within each major one.
    value : (p,) array, or a scalar
    """

    def __init__(self, ptr: np.ndarray | None, minor: np.ndarray | None, value: Any) -> None:
        self.ptr, self.minor, self.value = ptr, minor, value

    def points(
        self, first: int, last: int, minor: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray, Any]:
        """Return counter, minor index and value of the points of major indices ``first:last``."""
        if self.ptr is None:
            wanted = np.empty(0, np.int64) if minor is None else minor
            counter = np.repeat(np.arange(last - first), wanted.size)
            return counter, np.tile(wanted, last - first), np.full(counter.size, self.value)
        ptr = self.ptr[first : last + 1]
        some = slice(int(ptr[0]), int(ptr[-1]))
        counter = np.repeat(np.arange(last - first), np.diff(ptr))
        assert self.minor is not None
        return counter, self.minor[some], self.value[some]


def parse_change(
    key: Any, value: Any, shape: tuple[int, int], axis: Axis, dtype: np.dtype
) -> Change:
    """Analyse an assignment.

    Parameters
    ----------
    key : object
        What stood between the brackets: what indexing takes, without new axes.
    value : scalar, array_like, or sparse array or matrix
        Broadcast as numpy does; where an index is repeated, the last value counts.
    shape : (int, int)
        Rows and columns of the matrix.
    axis : Axis
    dtype : numpy.dtype
        Of the stored values, which `value` is cast to, as scipy does.

    Raises
    ------
    IndexError
        As indexing.
    ValueError
        When `value` does not fit the selection.
    TypeError
        When `value` is no number, or complex and `dtype` is not.
    """
    row, col = keys_of(key, shape)
    if not issparse(value):
        value = _numbers(value)
    if value.dtype.kind == "c" and dtype.kind != "c":
        raise TypeError(f"cannot assign complex values to a matrix of dtype {dtype}")
    if is_grid(row, col):
        return _grid(row, col, value, axis, dtype)
    return _points(row, col, value, axis, dtype)


def _numbers(value: Any) -> np.ndarray:
    array = np.asarray(value)
    if array.dtype.kind not in "biufc":
        raise TypeError(f"cannot assign {type(value).__name__} (dtype {array.dtype}): no numbers")
    return array


def _as_list(key: AxisKey) -> np.ndarray:
    if isinstance(key, int):
        return np.array([key], np.int64)
    return np.asarray(key, np.int64).reshape(-1)


def _last_of_each(indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the unique indices, ascending, and where each stands last."""
    unique, backwards = np.unique(indices[::-1], return_index=True)
    return unique, indices.size - 1 - backwards


def _grid(row: AxisKey, col: AxisKey, value: Any, axis: Axis, dtype: np.dtype) -> Change:
    rows, cols = _as_list(row), _as_list(col)
    full = (rows.size, cols.size)
    result = tuple(n for n, part in zip(full, (row, col), strict=True) if not isinstance(part, int))
    (major, take_major), (minor, take_minor) = map(_last_of_each, axis.swap((rows, cols)))
    if not issparse(value) and value.ndim == 0:
        scalar = value.astype(dtype)
        return Change(major, minor, Values(None, None, scalar))
    if issparse(value):
        array = axis.array(_fit_sparse(value, full, result), dtype=dtype)
        # Compressed along the major axis, so seen as (major, minor) it is a csr_array.
        block = axis.across(array)
    else:
        block = axis.swapped(_fit_dense(value, full, result).astype(dtype))
    block = block[take_major][:, take_minor]
    if issparse(block):
        block.sum_duplicates()
        return Change(major, minor, Values(block.indptr, minor[block.indices], block.data))
    counter, place = np.nonzero(block)
    ptr = np.searchsorted(counter, np.arange(major.size + 1))
    return Change(major, minor, Values(ptr, minor[place], block[counter, place]))


def _fit_dense(value: np.ndarray, full: tuple, result: tuple) -> np.ndarray:
    """Broadcast to the selection's shape, whose axes of a single number may be left out."""
    try:
        return np.broadcast_to(value, result).reshape(full)
    except ValueError:
        try:
            return np.broadcast_to(value, full)
        except ValueError:
            raise ValueError(
                f"cannot assign values of shape {value.shape} to a selection of shape {result}"
            ) from None


def _fit_sparse(value: Any, full: tuple, result: tuple) -> Any:
    """`_fit_dense` for a sparse array: repeated along an axis of length 1 by indexing."""
    if value.ndim == 1:
        value = value.reshape((1, -1)) if len(result) != 1 else value
        if value.shape == result:
            value = value.reshape(full)
    if value.ndim == 2 and value.shape != full and value.shape in {full[::-1]} and 1 in full:
        # A row given where a column is selected, or the other way round.
        value = value.reshape(full) if len(result) == 1 else value
    value = value.tocsr()
    if value.ndim == 2 and value.shape != full:
        for at, (n, wanted) in enumerate(zip(value.shape, full, strict=True)):
            if n == 1 and wanted != 1:
                repeat = np.zeros(wanted, np.int64)
                value = value[repeat] if at == 0 else value[:, repeat]
    if value.shape != full:
        raise ValueError(
            f"cannot assign a sparse array of shape {value.shape} to a selection of shape {result}"
        )
    return value


def _points(row: AxisKey, col: AxisKey, value: Any, axis: Axis, dtype: np.dtype) -> Change:
    rows, cols = np.broadcast_arrays(row, col)
    if issparse(value):
        value = value.toarray()
    try:
        values = np.broadcast_to(value, rows.shape).astype(dtype).reshape(-1)
    except ValueError:
        raise ValueError(
            f"cannot assign values of shape {value.shape} to a selection of shape {rows.shape}"
        ) from None
    all_major, all_minor = axis.swap((rows.reshape(-1), cols.reshape(-1)))
    order = np.lexsort((np.arange(all_major.size), all_minor, all_major))
    by_major, by_minor = all_major[order], all_minor[order]
    last = np.ones(order.size, bool)  # of several values for one point
    last[:-1] = (by_major[1:] != by_major[:-1]) | (by_minor[1:] != by_minor[:-1])
    by_major, by_minor = by_major[last], by_minor[last]
    major, first = np.unique(by_major, return_index=True)
    ptr = np.append(first, by_major.size).astype(np.int64)
    return Change(major.astype(np.int64), None, Values(ptr, by_minor, values[order][last]))


def apply_change(
    change: Change,
    first: int,
    block: tuple[np.ndarray, np.ndarray, np.ndarray],
    n_minor: int,
    describe: Any,
) -> np.ndarray:
    """Return the new values of a block of rows.

    Parameters
    ----------
    change : Change
    first : int
        The block begins with ``change.major[first]``.
    block : (data, indices, indptr)
        What is stored of its rows. Indices may be in any order, and twice.
    n_minor : int
        Length of the minor axis.
    describe : callable
        ``(major, minor) -> str``: the position in the user's words.

    Returns
    -------
    (nnz,) array

    Raises
    ------
    StructureError
        When a value other than zero goes where nothing is stored.
    """
    data, indices, indptr = block
    n_major = indptr.size - 1
    rank = np.repeat(np.arange(n_major), np.diff(indptr))
    keys = rank * np.int64(n_minor) + indices
    counter, minor, value = change.values.points(first, first + n_major, change.minor)
    points = counter * np.int64(n_minor) + minor
    new = data.copy()
    if change.minor is None:
        new[_is_in(keys, points)] = 0
    else:
        whole = change.minor.size == n_minor
        new[slice(None) if whole else _is_in(indices, change.minor)] = 0
    order = None if np.all(keys[1:] >= keys[:-1]) else np.argsort(keys, kind="stable")
    at = np.searchsorted(keys, points, sorter=order)
    found = at < keys.size
    at = at[found] if order is None else order[at[found]]
    match = keys[at] == points[found]
    found[found] = match
    missing = np.flatnonzero(~found & (value != 0))
    if missing.size:
        bad = missing[0]
        where = describe(int(change.major[first + counter[bad]]), int(minor[bad]))
        raise StructureError(
            f"{where} is not stored, and assignment does not change which entries are: it cannot "
            f"become {value[bad]} (the first of {missing.size} such positions in this block)"
        )
    new[at[match]] = value[found]
    return new


def _is_in(array: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Whether each entry of `array` is in `wanted`, which ascends."""
    if wanted.size == 0:
        return np.zeros(array.size, bool)
    at = np.minimum(np.searchsorted(wanted, array), wanted.size - 1)
    return wanted[at] == array
