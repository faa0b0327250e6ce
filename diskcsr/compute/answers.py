"""The form of an answer: scipy's own, asked of a matrix that has no elements or few.

Which axes there are, what `out` may be, whether a result is an array or a matrix, its type and what
is complained of differ between scipy's classes and versions. So scipy is asked, with a matrix of
the same class, shape and type in which nothing is stored, or only what decides.
"""

from typing import Any

import numpy as np

from ..axis import CSC, CSR
from ..machine.options import require_memory

__all__ = ["ask", "empty", "fill", "of_lines", "one_axis"]


def empty(container: Any, shape: tuple[int, int], dtype: np.dtype) -> Any:
    """Return scipy's matrix of this class, shape and type, without elements.

    Raises
    ------
    MemoryBudgetError
        When even its row pointers do not fit the memory budget.
    """
    what = f"the row pointers of a matrix of shape {shape}"
    require_memory(4 * (max(shape) + 1), what, "Raise diskcsr.options.memory_budget.")
    return container(shape, dtype=dtype)


def ask(matrix: Any, method: str, out: Any = None, /, **arguments: Any) -> Any:
    """Have scipy's matrix answer; what it raises is raised before anything was read.

    `out` is left as it is.
    """
    if isinstance(out, np.ndarray):
        out = np.empty_like(out)
    given = {} if out is None else {"out": out}
    with np.errstate(all="ignore"):
        return getattr(matrix, method)(**arguments, **given)


def one_axis(axis: Any) -> int | None:
    """Return 0 or 1; None for both axes. scipy has accepted `axis`."""
    if isinstance(axis, tuple):
        if len(axis) != 1:
            return None
        axis = axis[0]
    return None if axis is None else int(axis) % 2


def fill(form: Any, values: np.ndarray, out: Any = None) -> Any:
    """Return `values` in the form of an answer of scipy's; in `out` where given."""
    if out is not None:
        form = out
    if isinstance(form, np.ndarray):
        np.copyto(form, np.reshape(values, form.shape), casting="unsafe")
        return form
    return values.reshape(()).astype(np.asarray(form).dtype)[()]


def of_lines(container: Any, axis: int | None, data: np.ndarray, lengths: Any, width: int) -> Any:
    """Return scipy's matrix of lines along an axis, the first places of each being filled."""
    indptr = np.concatenate(([0], np.cumsum(lengths)))
    indices = np.arange(data.size) - np.repeat(indptr[:-1], lengths)
    axis_of_lines = CSC if axis == 0 else CSR
    shape = axis_of_lines.swap((indptr.size - 1, width))
    return container(axis_of_lines.array((data, indices, indptr), shape=shape))
