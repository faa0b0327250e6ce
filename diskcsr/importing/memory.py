"""Matrices in memory that are no compressed ones: COO, DOK and LIL, without a copy of the whole."""

from collections.abc import Iterator
from itertools import islice
from typing import Any

import numpy as np
from scipy.sparse import issparse

from .imported import Imported

__all__ = ["imported_from"]

#: Entries that are taken at a time.
_STEP = 1 << 20


def imported_from(matrix: Any) -> Imported | None:
    """Take such a matrix for what it is; None for all others."""
    if not issparse(matrix) or matrix.ndim != 2:
        return None
    parts = _PARTS.get(matrix.format)
    if parts is None:
        return None
    return Imported(parts(matrix), (int(matrix.shape[0]), int(matrix.shape[1])), matrix.dtype)


def _of_coo(matrix: Any) -> Iterator[Any]:
    for first in range(0, matrix.nnz, _STEP):
        some = slice(first, first + _STEP)
        yield matrix.row[some], matrix.col[some], matrix.data[some]


def _of_dok(matrix: Any) -> Iterator[Any]:
    items = iter(matrix.items())
    while some := list(islice(items, _STEP)):
        places = np.array([place for place, _ in some], np.int64)
        yield *places.T, np.array([value for _, value in some], matrix.dtype)


def _of_lil(matrix: Any) -> Iterator[Any]:
    lengths = np.fromiter(map(len, matrix.rows), np.int64, matrix.shape[0])
    step = max(1, _STEP // max(1, int(lengths.max(initial=1))))
    for first in range(0, matrix.shape[0], step):
        some = slice(first, first + step)
        rows = np.repeat(np.arange(first, first + lengths[some].size), lengths[some])
        columns = [column for row in matrix.rows[some] for column in row]
        values = [value for row in matrix.data[some] for value in row]
        yield rows, np.array(columns, np.int64), np.array(values, matrix.dtype)


_PARTS = {"coo": _of_coo, "dok": _of_dok, "lil": _of_lil}
