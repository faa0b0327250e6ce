"""Sparse arrays in memory that are blocks of a Dask array: Dask reduces and multiplies them.

Dask asks the blocks of an array for what numpy's arrays do and scipy's do not: sums that keep their
dimensions, ``numpy.matmul``. Of blocks of scipy's own classes ``D.sum()`` and ``D @ x`` fail
(Dask 2026.8).
"""

from typing import Any

import numpy as np
from scipy.sparse import csc_array, csr_array, issparse

__all__ = ["BLOCKS", "CSCBlock", "CSRBlock"]

#: Of ufuncs of two arguments the operators that scipy's classes have for them.
_OPERATORS = {
    np.add: ("__add__", "__radd__"),
    np.subtract: ("__sub__", "__rsub__"),
    np.multiply: ("__mul__", "__rmul__"),
    np.true_divide: ("__truediv__", "__rtruediv__"),
    np.power: ("__pow__", "__rpow__"),
    np.equal: ("__eq__", "__eq__"),
    np.not_equal: ("__ne__", "__ne__"),
    np.less: ("__lt__", "__gt__"),
    np.less_equal: ("__le__", "__ge__"),
    np.greater: ("__gt__", "__lt__"),
    np.greater_equal: ("__ge__", "__le__"),
}
_METHODS: dict[Any, str] = {np.absolute: "__abs__", np.negative: "__neg__"}


class _Block:
    """What a block does that scipy's arrays do otherwise, or not at all."""

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **kwargs: Any) -> Any:
        if method != "__call__" or kwargs.pop("out", None) is not None:
            return NotImplemented
        if len(inputs) == 1:
            function = getattr(self, _METHODS.get(ufunc, ufunc.__name__), None)
            return NotImplemented if function is None else function()
        first = inputs[0] is self
        other = inputs[1] if first else inputs[0]
        if ufunc is np.matmul:
            # Dask gives the result one more dimension, so that it has to be a dense one.
            block: Any = self
            result = block.__matmul__(other) if first else block.__rmatmul__(other)
            return result.toarray() if issparse(result) else result
        if ufunc not in _OPERATORS:
            return NotImplemented
        if isinstance(other, np.ndarray) and ufunc is np.true_divide and not first:
            return NotImplemented
        return getattr(self, _OPERATORS[ufunc][not first])(other)

    # ------------------------------------------------------------------------- what is reduced

    @property
    def size(self) -> int:
        """Number of elements, as of numpy's arrays: without any there is no largest for Dask."""
        rows, columns = self.shape  # type: ignore[attr-defined]
        return int(rows) * int(columns)

    def sum(
        self, axis: Any = None, dtype: Any = None, out: Any = None, keepdims: bool = False
    ) -> Any:
        """Sum up; `keepdims` as numpy has it."""
        result = super().sum(axis=_one(axis), dtype=dtype, out=out)  # type: ignore[misc]
        return _kept(self, result, axis, keepdims)

    def max(self, axis: Any = None, out: Any = None, keepdims: bool = False) -> Any:
        """Return the largest; `keepdims` as numpy has it, and the result is dense then."""
        result = super().max(axis=_one(axis), out=out)  # type: ignore[misc]
        return _kept(self, result, axis, keepdims)

    def min(self, axis: Any = None, out: Any = None, keepdims: bool = False) -> Any:
        """Return the least; `keepdims` as numpy has it, and the result is dense then."""
        result = super().min(axis=_one(axis), out=out)  # type: ignore[misc]
        return _kept(self, result, axis, keepdims)

    # ------------------------------------------------------------------ what stays such a block

    def __getitem__(self, key: Any) -> Any:
        return _block(super().__getitem__(key))  # type: ignore[misc]

    def take(self, indices: Any, axis: Any = None, out: Any = None, mode: str = "raise") -> Any:
        """Return rows (axis 0) or columns (1); ``numpy.take`` comes here."""
        if axis not in (0, 1):
            raise ValueError(f"rows (axis=0) or columns (1) are taken, not axis={axis!r}")
        return self[indices] if axis == 0 else self[:, indices]

    def __mul__(self, other: Any) -> Any:
        return self.multiply(other)

    __rmul__ = __mul__

    def __truediv__(self, other: Any) -> Any:
        return _block(super().__truediv__(other))  # type: ignore[misc]

    def __sub__(self, other: Any) -> Any:
        if isinstance(other, np.ndarray) and other.ndim == 2:
            # Of one row or column, too: what Dask's variance takes away from a block is its mean.
            return self.toarray() - other  # type: ignore[attr-defined]
        return _block(super().__sub__(other))  # type: ignore[misc]

    def multiply(self, other: Any) -> Any:
        """Multiply elementwise; what is sparse stays a block."""
        return _block(super().multiply(other))  # type: ignore[misc]

    def transpose(self, axes: Any = None, copy: bool = False) -> Any:
        """Return the transpose, a block of the other format."""
        return _block(super().transpose(axes=axes, copy=copy))  # type: ignore[misc]

    T = property(transpose)

    def tocsr(self, copy: bool = False) -> Any:
        """Return a block of rows."""
        return _block(super().tocsr(copy=copy))  # type: ignore[misc]

    def tocsc(self, copy: bool = False) -> Any:
        """Return a block of columns."""
        return _block(super().tocsc(copy=copy))  # type: ignore[misc]


class CSRBlock(_Block, csr_array):  # type: ignore[misc]
    """A `scipy.sparse.csr_array` that Dask can reduce and multiply."""


class CSCBlock(_Block, csc_array):  # type: ignore[misc]
    """A `scipy.sparse.csc_array` that Dask can reduce and multiply."""


#: By scipy's name of the format.
BLOCKS: dict[str, Any] = {one((0, 0)).format: one for one in (CSRBlock, CSCBlock)}


def _block(result: Any) -> Any:
    """Return a sparse result of two dimensions as a block, and anything else as it is."""
    if not issparse(result) or result.ndim != 2 or isinstance(result, _Block):
        return result
    found = result if result.format in BLOCKS else result.tocsr()
    return BLOCKS[found.format](found)


def _one(axis: Any) -> int | None:
    """Return one axis, or None for both; Dask gives a tuple."""
    if not isinstance(axis, tuple):
        return axis
    return None if len(axis) != 1 else axis[0]


def _kept(block: Any, result: Any, axis: Any, keepdims: Any) -> Any:
    if not keepdims:
        return result
    dense = result.toarray() if issparse(result) else np.asarray(result)
    axis = _one(axis)
    shape = [1, 1] if axis is None else list(block.shape)
    if axis is not None:
        shape[axis] = 1
    return dense.reshape(shape)
