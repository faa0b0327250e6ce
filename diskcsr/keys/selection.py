"""Turn what a user writes between the brackets into what must be read and what is done in memory.

`normalize` is the one door: later stages never look at the key again. Its law is numpy's (and so
scipy's) indexing; keys that scipy refuses are refused with scipy's own exception.
"""

import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from scipy.sparse import dok_array, issparse, sparray

from ..axis import Axis

__all__ = ["AxisKey", "Selection", "grid_of", "is_grid", "keys_of", "normalize", "outer"]

#: One axis of a key: an int in range, a range, or an int64 array of 1 or 2 dimensions, in range.
AxisKey: TypeAlias = "int | range | np.ndarray"


@dataclass(frozen=True)
class Selection:
    """A key, restated as what to read and what to do with it in memory.

    Attributes
    ----------
    majors : range or (k,) int64 array
        The major indices to read, in this order. An array may repeat some.
    wanted : None, range or (m,) int64 array
        The minor indices to keep, ascending and unique; None keeps all.
    points : None or (point_ptr, point_minor)
        For a pointwise key: which minor indices are asked of each stored major index, as the
        `find_points` kernel takes them.
    finish : None or callable
        What turns the in-memory block (majors x wanted) into the result; None where the block is
        the result.
    element : None or (int, int)
        The major and minor index of a key that asks for one element.
    """

    majors: Any
    wanted: Any = None
    points: tuple[np.ndarray, np.ndarray] | None = None
    finish: Callable[[Any], Any] | None = None
    element: tuple[int, int] | None = None


def normalize(key: Any, shape: tuple[int, int], axis: Axis) -> Selection:
    """Analyse an indexing key.

    Parameters
    ----------
    key : object
        What stood between the brackets.
    shape : (int, int)
        Rows and columns of the matrix.
    axis : Axis
        Its orientation.

    Returns
    -------
    Selection

    Raises
    ------
    IndexError
        As scipy raises it.

    Examples
    --------
    >>> from diskcsr.axis import CSR
    >>> normalize((slice(2, 9, 3), slice(None)), (10, 4), CSR).majors
    range(2, 9, 3)
    """
    # What fetch loops are made of: one element, and rows by their numbers.
    if type(key) is tuple and len(key) == 2 and type(key[0]) is type(key[1]) is int:
        row, col = key
        if 0 <= row < shape[0] and 0 <= col < shape[1]:
            return _select(row, col, shape, axis)
    try:
        if type(key) is np.ndarray and key.ndim == 1 and key.dtype.kind == "i":
            return _select(_index_array(key, shape[0]), range(shape[1]), shape, axis)
        keys, template = _split(key, shape)
        _check_together(*keys)
    except _NotOursError:
        raise _refusal(key, shape) from None
    if template is None:
        return _select(keys[0], keys[1], shape, axis)
    new_shape = _shape_with_new_axes(_between_new_axes(template, keys), shape)
    if new_shape is None:
        raise _refusal(key, shape)
    return _select_with_new_axes(keys, template, new_shape, shape, axis)


def outer(key: Any, shape: tuple[int, int], axis: Axis) -> Selection:
    """Analyse a key of ``A.oindex``: every axis is selected on its own, as `numpy.ix_` does.

    Raises
    ------
    IndexError
        When there are more than two parts, a new axis, or one part has more than one dimension.
    """
    parts = key if isinstance(key, tuple) else (key,)
    keys: list[AxisKey] = []
    try:
        for part, length in zip(_expand_ellipsis(parts), shape, strict=True):
            keys.append(_axis_key(part, length))
    except _NotOursError:
        raise IndexError(
            f"oindex takes an integer, slice, index list or mask for each axis of {shape}, "
            f"not {key!r}"
        ) from None
    rows, cols = keys
    if any(isinstance(part, np.ndarray) and part.ndim != 1 for part in keys):
        raise IndexError("oindex takes index lists of one dimension")
    if isinstance(rows, np.ndarray) and isinstance(cols, np.ndarray):
        rows, cols = rows[:, None], cols[None, :]
    return _select(rows, cols, shape, axis)


def keys_of(key: Any, shape: tuple[int, int]) -> tuple[AxisKey, AxisKey]:
    """Validate a key without new axes; return its row and column keys.

    Raises
    ------
    IndexError
        As `normalize`, and for new axes.
    """
    try:
        (row, col), template = _split(key, shape)
        _check_together(row, col)
    except _NotOursError:
        raise _refusal(key, shape) from None
    if template is not None:
        raise IndexError("cannot assign to a key with new axes")
    return row, col


def is_grid(row: AxisKey, col: AxisKey) -> bool:
    """Whether two keys select all pairs of their rows and columns, and not single points."""
    arrays = [part for part in (row, col) if isinstance(part, np.ndarray)]
    if len(arrays) == 2:
        return _is_outer(*arrays)
    return all(part.ndim == 1 for part in arrays)


def grid_of(key: Any, shape: tuple[int, int]) -> tuple[Any, Any] | None:
    """Return the rows and the columns of a key that gives a matrix of some of each, in order.

    Returns
    -------
    rows, columns : range or (k,) int64 array
        None, instead of both, for any other key: `normalize` takes it, or refuses it.
    """
    try:
        (row, col), template = _split(key, shape)
        _check_together(row, col)
    except _NotOursError:
        return None
    if template is not None or isinstance(row, int) or isinstance(col, int):
        return None
    if isinstance(row, np.ndarray) and isinstance(col, np.ndarray):
        return (row.reshape(-1), col.reshape(-1)) if _is_outer(row, col) else None
    one_dimensional = all(isinstance(part, range) or part.ndim == 1 for part in (row, col))
    return (row, col) if one_dimensional else None


# ------------------------------------------------------------------------------- reading the key


class _NotOursError(Exception):
    """A key that is out of range, or that only scipy can judge."""


def _split(key: Any, shape: tuple[int, int]) -> tuple[list[AxisKey], tuple | None]:
    """Validate a key: its row and column keys, and its template where it has new axes.

    In the template ``None`` stands for a new axis, ``...`` for itself, 0 for a row or column key.
    """
    parts = key if isinstance(key, tuple) else (key,)
    given = tuple(part for part in parts if part is not None)
    alone = [part for part in given if part is not Ellipsis]
    mask = _as_mask(alone[0], 2) if len(alone) == 1 and len(given) <= 2 else None
    if mask is not None:
        # It takes both axes; an ellipsis beside it stands for nothing.
        parts = tuple(part for part in parts if part is not Ellipsis)
    template = None
    if any(part is None for part in parts):
        template = tuple(part if part is None or part is Ellipsis else 0 for part in parts)
    if mask is not None:
        if mask.shape != tuple(shape):
            raise _NotOursError
        if template is not None:
            at = template.index(0)
            template = (*template[:at], 0, 0, *template[at + 1 :])
        return [np.asarray(part, dtype=np.int64) for part in mask.nonzero()], template
    keys = [_axis_key(part, n) for part, n in zip(_expand_ellipsis(given), shape, strict=True)]
    return keys, template


def _expand_ellipsis(parts: tuple) -> tuple:
    """Fill up to two parts with full slices, where ``...`` stands or at the end."""
    where = [i for i, part in enumerate(parts) if part is Ellipsis]
    if len(where) > 1 or len(parts) - len(where) > 2:
        raise _NotOursError
    fill = (slice(None),) * (2 - len(parts) + len(where))
    at = where[0] if where else len(parts)
    return parts[:at] + fill + parts[at + 1 :]


def _as_mask(part: Any, ndim: int) -> Any:
    """Return `part` as a dense or sparse boolean array of `ndim` dimensions, else None."""
    if issparse(part):
        return part if part.dtype.kind == "b" and part.ndim == ndim else None
    if isinstance(part, list | tuple):
        first: Any = part
        for _ in range(ndim):
            if not isinstance(first, list | tuple | np.ndarray) or len(first) == 0:
                return None
            first = first[0]
        if not isinstance(first, bool | np.bool_):
            return None
        part = np.asarray(part)
    if getattr(part, "ndim", None) == ndim and getattr(part, "dtype", None) == np.bool_:
        return np.asarray(part)
    return None


def _axis_key(part: Any, length: int) -> AxisKey:
    """Validate one part of a key against the length of its axis."""
    if isinstance(part, slice):
        return range(*part.indices(length))
    if not isinstance(part, np.ndarray | list | tuple) and not issparse(part):
        try:
            return _checked_int(operator.index(part), length)
        except TypeError:
            pass
    mask = _as_mask(part, 1)
    if mask is not None:
        if mask.shape != (length,):
            raise _NotOursError
        return np.asarray(mask.nonzero()[0], dtype=np.int64)
    if issparse(part):
        raise _NotOursError
    return _index_array(part, length)


def _checked_int(index: int, length: int) -> int:
    if not -length <= index < length:
        raise _NotOursError
    return index + length if index < 0 else index


def _index_array(part: Any, length: int) -> AxisKey:
    try:
        array = np.asarray(part)
    except (ValueError, TypeError):
        raise _NotOursError from None
    if array.ndim == 0 and array.dtype.kind in "iu":
        return _checked_int(int(array), length)
    if array.ndim not in (1, 2) or (array.dtype.kind not in "iu" and array.size):
        raise _NotOursError
    if array.size == 0:
        return np.zeros(array.shape, np.int64)
    low = array.min()
    if array.max() >= length or low < -length:
        raise _NotOursError
    array = array.astype(np.int64, copy=False)
    return np.where(array < 0, array + length, array) if low < 0 else array


def _check_together(row: AxisKey, col: AxisKey) -> None:
    """Check what numpy checks about two parts together."""
    if isinstance(row, np.ndarray) and isinstance(col, np.ndarray):
        try:
            np.broadcast_shapes(row.shape, col.shape)
        except ValueError:
            raise _NotOursError from None
    for one, other in ((row, col), (col, row)):
        if isinstance(one, np.ndarray) and one.ndim == 2 and isinstance(other, range):
            raise _NotOursError  # more than two dimensions


def _ask_scipy(key: Any, shape: tuple[int, int]) -> None:
    """Let an empty scipy array of this shape judge a key: it raises what scipy raises."""
    dok_array(shape, dtype=np.int8)[key]


def _refusal(key: Any, shape: tuple[int, int]) -> IndexError:
    """Raise scipy's own exception for a key it refuses; else return one of ours."""
    _ask_scipy(key, shape)
    parts = [
        f"an array of {part.dtype} with shape {part.shape}"
        if hasattr(part, "dtype")
        else repr(part)
        for part in (key if isinstance(key, tuple) else (key,))
    ]
    return IndexError(
        f"cannot index a matrix of shape {shape} with {', '.join(parts)}: use integers, slices, "
        "integer or boolean arrays"
    )


# ------------------------------------------------------------------------------ what to read


def _select(row: AxisKey, col: AxisKey, shape: tuple[int, int], axis: Axis) -> Selection:
    """Build the Selection of two validated keys."""
    major, minor = axis.swap((row, col))
    n_minor = shape[axis.minor]
    if isinstance(row, np.ndarray) and isinstance(col, np.ndarray) and not _is_outer(row, col):
        return _select_points(major, minor, axis)
    if isinstance(major, np.ndarray) and isinstance(minor, range) and minor == range(n_minor):
        return Selection(major)
    majors, local_major = _major_part(major, minor)
    wanted, local_minor = _minor_part(minor, n_minor)
    element = (major, minor) if isinstance(major, int) and isinstance(minor, int) else None
    if local_major is None and local_minor is None:
        return Selection(majors, wanted)
    row, col = axis.swap((local_major, local_minor))
    return Selection(majors, wanted, None, lambda block: _apply(block, row, col), element)


def _is_outer(row: np.ndarray, col: np.ndarray) -> bool:
    """Whether two index arrays select a grid (what `numpy.ix_` gives) and not single points."""
    return row.ndim == 2 and row.shape[1] == 1 and (col.ndim == 1 or col.shape[0] == 1)


def _major_part(key: AxisKey, minor: AxisKey) -> tuple[Any, Any]:
    """What to read along the major axis, and what is left to do there afterwards."""
    if isinstance(key, int):
        return range(key, key + 1), 0
    if isinstance(key, range):
        return key, None
    # Each row once: its minor entries are filtered before rows are ordered and repeated.
    majors, inverse = np.unique(key, return_inverse=True)
    if isinstance(minor, range) and majors.size == key.size and np.array_equal(majors, key):
        return majors, None
    return majors, inverse.reshape(key.shape)


def _minor_part(key: AxisKey, length: int) -> tuple[Any, Any]:
    """Which minor indices to keep, and what is left to do on that axis afterwards."""
    if isinstance(key, int):
        return range(key, key + 1), 0
    if isinstance(key, range):
        backwards = key.step < 0
        ascending = key[::-1] if backwards else key
        return (
            None if ascending == range(length) else ascending,
            slice(None, None, -1) if backwards else None,
        )
    wanted, inverse = np.unique(key, return_inverse=True)
    return wanted, inverse.reshape(key.shape)


def _select_points(major: Any, minor: Any, axis: Axis) -> Selection:
    """A pointwise key: of each row keep just the entries that are asked for."""
    major, minor = np.broadcast_arrays(major, minor)
    majors, local_major = np.unique(major, return_inverse=True)
    wanted, local_minor = np.unique(minor, return_inverse=True)
    local_major, local_minor = local_major.reshape(-1), local_minor.reshape(-1)
    order = np.lexsort((local_minor, local_major))
    point_ptr = np.searchsorted(local_major[order], np.arange(majors.size + 1)).astype(np.int64)
    points = (point_ptr, wanted[local_minor[order]])
    row, col = axis.swap((local_major.reshape(major.shape), local_minor.reshape(major.shape)))
    return Selection(majors, wanted, points, lambda block: block[row, col])


def _select_with_new_axes(
    keys: list[AxisKey],
    template: tuple,
    new_shape: tuple[int, ...],
    shape: tuple[int, int],
    axis: Axis,
) -> Selection:
    """A key with new axes: read the grid, let scipy do the rest in memory.

    `new_shape` is what numpy makes of the key. scipy needs help: before 1.16 it puts the new axis
    of ``A[0, None]`` last, and in all versions that of ``A[None, rows, cols]``.
    """
    major, minor = axis.swap(keys)
    majors, local_major = _major_part(major, 0)
    wanted, local_minor = _minor_part(minor, shape[axis.minor])
    local = [slice(None) if part is None else part for part in (local_major, local_minor)]
    final = _between_new_axes(template, axis.swap(local))

    def finish(block: Any) -> Any:
        result = block[final]
        if not isinstance(block, sparray) or result.shape == new_shape:
            return result
        return result.reshape(new_shape)

    return Selection(majors, wanted, finish=finish)


def _shape_with_new_axes(full: tuple, shape: tuple[int, int]) -> tuple[int, ...] | None:
    """The shape numpy gives a key with new axes, or None when it has over two dimensions."""
    arrays = [part.shape for part in full if isinstance(part, np.ndarray)]
    lengths = tuple(
        1 if part is None else len(part) for part in full if part is None or isinstance(part, range)
    )
    if len(lengths) + len(np.broadcast_shapes(*arrays)) > 2:
        return None
    if not arrays:
        return lengths
    # Only numbers are beside the arrays now. numpy is asked where the new axis goes.
    return np.broadcast_to(np.int8(0), shape)[full].shape


def _between_new_axes(template: tuple, keys: Any) -> tuple:
    """Put row and column keys back between the new axes of the original key."""
    full: list = []
    left = list(keys)
    for i, part in enumerate(template):
        if part is None:
            full.append(None)
        elif part is Ellipsis:
            after = sum(p is not None for p in template[i + 1 :])
            full += left[: len(left) - after]
            left = left[len(left) - after :]
        else:
            full.append(left.pop(0))
    return tuple(full + left)


# ------------------------------------------------------------------------- finishing in memory


def _apply(block: Any, row: Any, col: Any) -> Any:
    """Apply what is left of a key, one axis at a time unless both must go together.

    An index array beside a strided slice comes out wrong on scipy's CSR (scipy gh-25588); alone
    on its axis each is right.
    """
    if isinstance(row, np.ndarray | int) and isinstance(col, np.ndarray | int):
        return block[row, col]
    # The axis that a number would drop goes last.
    for part, is_row in sorted(
        ((row, True), (col, False)), key=lambda pair: isinstance(pair[0], int)
    ):
        if part is not None:
            block = block[part, :] if is_row else block[:, part]
    return block
