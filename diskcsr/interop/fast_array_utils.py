"""fast-array-utils: its sums, extremes, means and variances go over the file.

Scanpy takes these from ``fast_array_utils.stats``, which chooses by type; what it has for a
csr_array asks for `data`, and so loads it. There is no public way to add a type. Private names used
here, found alike in fast-array-utils 1.3 to 1.5: ``stats._generic_ops.generic_op`` (sum, min and
max) and ``stats._is_constant.is_constant_``, which are `functools.singledispatch` functions, and
``stats._mean_var.mean_var_``, which is none, and is looked up by its name in each call.
"""

import warnings
from collections.abc import Callable
from functools import wraps
from typing import Any

import numpy as np
from scipy.sparse import issparse

__all__ = ["register"]

#: Types that values are converted to on their way from the file.
_KNOWN = "?bBhHiIlLqQfdFD"


def register(classes: dict[type, type], describe: Callable[..., Any]) -> None:
    """Give our types functions of their own; warn when fast-array-utils has changed."""
    try:
        from fast_array_utils.stats import _generic_ops, _is_constant, _mean_var

        reduced = _reducing(_generic_ops.generic_op)
        constant = _constant(_is_constant.is_constant_, describe)
        for one in classes:
            _generic_ops.generic_op.register(one, reduced)
            _is_constant.is_constant_.register(one, constant)
        _mean_var.mean_var_ = _mean_and_variance(_mean_var.mean_var_, tuple(classes))
    except (ImportError, AttributeError, TypeError) as problem:
        warnings.warn(
            f"this version of fast-array-utils chooses its functions otherwise ({problem!r}): of a "
            "DiskCSR they load all values",
            stacklevel=2,
        )


def _usual(dispatched: Any, matrix: Any) -> Callable[..., Any]:
    """Return what is done with scipy's class of the same kind."""
    return dispatched.dispatch(matrix._scipy_class)


def _reducing(dispatched: Any) -> Callable[..., Any]:
    """Return what sums up, or finds the least and the largest, as of scipy's classes."""

    def reduced(
        matrix: Any, op: str, *, axis: int | None = None, dtype: Any = None, **others: Any
    ) -> Any:
        if dtype is not None and np.dtype(dtype).char not in _KNOWN:
            return _usual(dispatched, matrix)(matrix, op, axis=axis, dtype=dtype, **others)
        if axis is None:
            return _of_values(matrix, op, dtype)
        # Of arrays, whose results are of one dimension; converted before, as by scipy's class.
        array = matrix.lazy if dtype is None else matrix.lazy.astype(dtype)
        result = getattr(array, op)(axis=axis)
        return result.toarray().squeeze() if issparse(result) else result

    return reduced


def _of_values(matrix: Any, op: str, dtype: Any) -> Any:
    """Reduce all stored values, as numpy does it with `data`: the zeros between do not count."""
    how = {} if dtype is None else {"dtype": dtype}
    form = np.ones(1, matrix.dtype)
    kind = getattr(form, op)(**how).dtype
    if op == "sum":
        # What is narrow is added up in what is wide, so that the parts lose nothing.
        wide = np.result_type(kind, np.float64) if kind.kind in "fc" else kind
        parts = [block.data.sum(dtype=wide) for _, block in matrix.iter_blocks()]
        return np.array(parts, wide).sum(dtype=wide).astype(kind)
    parts = [getattr(block.data, op)() for _, block in matrix.iter_blocks() if block.nnz]
    return getattr(np.array(parts, matrix.dtype), op)()


def _constant(dispatched: Any, describe: Callable[..., Any]) -> Callable[..., Any]:
    """Return what tells whether all values of a line, or all there are, are the same."""

    def constant(matrix: Any, *, axis: int | None = None) -> Any:
        if 0 in matrix.shape or matrix.dtype.kind == "c":
            return _usual(dispatched, matrix)(matrix, axis=axis)
        found = describe(matrix, axis)
        same = found.min == found.max
        return bool(same) if axis is None else same

    return constant


def _mean_and_variance(usual: Callable[..., Any], classes: tuple[type, ...]) -> Callable[..., Any]:
    """Return what finds means and variances, of our classes in two passes."""

    @wraps(usual)
    def mean_var(
        matrix: Any, /, *, axis: int | None = None, correction: int = 0, **others: Any
    ) -> Any:
        ours = not others and isinstance(matrix, classes)
        if not ours or matrix.dtype.kind == "c" or 0 in matrix.shape:
            return usual(matrix, axis=axis, correction=correction, **others)
        # `describe` takes one pass and loses less; but this is what is found in memory, and of
        # counts, whose squares add up without rounding, bit for bit. Local regressions, which
        # Scanpy fits to them, make much of little.
        n = matrix.shape[0] * matrix.shape[1] if axis is None else matrix.shape[axis]
        values = matrix.lazy.astype(np.float64)
        mean = values.sum(axis=axis) / n
        variance = values.power(2).sum(axis=axis) / n - mean**2
        if correction and n != 1:
            variance = variance * (n / (n - correction))
        return mean, variance

    return mean_var
