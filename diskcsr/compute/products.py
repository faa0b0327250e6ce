"""Products with dense arrays: folds over the blocks of a matrix, which is never loaded.

Lines are multiplied by a dense array whose rows are minor ("along lines": each line gives a row of
the result), or by one whose rows are major ("across lines": each line adds to all of the result).
Which of the two a product is depends on the format and on the side that the array stands on.
"""

from typing import Any

import numpy as np

from .. import kernels
from ..axis import CSR
from ..blocks.canonical import FEW
from ..blocks.contents import Contents
from ..blocks.walk import Block, BlockSource, fold, require_in_range, room_for_states
from ..machine.progress import Progress
from .answers import empty
from .estimates import Estimate

__all__ = [
    "across",
    "add",
    "along",
    "arrays_for",
    "as_lines",
    "is_as_is",
    "prepared",
    "require",
    "states",
    "states_of",
    "times_dense",
]


def times_dense(shown: Contents, container: Any, other: Any, reflected: bool = False) -> Any:
    """Return the product of a matrix and a dense array, or of anything that scipy takes for one.

    Parameters
    ----------
    shown : Contents
    container : type
        scipy's class of the matrix in memory.
    other : array_like
    reflected : bool
        Whether `other` stands on the left.

    Returns
    -------
    array, matrix or NotImplemented
        As scipy has it; what scipy raises is raised before anything is read.
    """
    none = empty(container, shown.shape, shown.dtype)
    form = none.__rmatmul__(other) if reflected else none.__matmul__(other)
    if not isinstance(form, np.ndarray):
        return form
    by_lines = shown.axis.keeps_rows is not reflected
    require(shown, form.nbytes, 0 if by_lines else states(form))
    dense, out = np.asarray(other), np.asarray(form)
    if reflected:
        dense, out = dense.T, out.T
    (along if by_lines else across)(shown, dense, out)
    return form


def states(form: np.ndarray) -> int:
    """Return what the states of all cuts take, where each is as large as the result."""
    return states_of(form.size * _widened(form.dtype).itemsize)


def states_of(nbytes: int) -> int:
    """Return what the states of all cuts take, of so many bytes each."""
    return max(nbytes, min(16 * nbytes, room_for_states()))


def require(shown: Contents, result: int, scratch: int) -> None:
    what = f"{shown.source.where}: a dense product"
    instead = "Multiply by fewer columns at a time, or raise diskcsr.options.memory_budget."
    Estimate(result, scratch).require(what, instead)


def prepared(source: BlockSource, dense: np.ndarray, dtype: np.dtype) -> tuple:
    """Return a factor as kernels want it, and whether scipy's own code is to be used instead."""
    by_scipy = source.elements <= FEW or dtype.char in "?gG"
    return np.ascontiguousarray(_columns(dense), None if by_scipy else dtype), by_scipy


def _columns(array: np.ndarray) -> np.ndarray:
    return array[:, None] if array.ndim == 1 else array


def arrays_for(block: Block, dtype: np.dtype) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    data = block.data if is_as_is(block.data.dtype, dtype) else block.data.astype(dtype)
    return data, block.indices, block.indptr


def is_as_is(values: np.dtype, dtype: np.dtype) -> bool:
    """Whether kernels take these values for such a result as they are: what a cast would give."""
    return values == dtype or (values.char, dtype.char) == ("f", "d")


def as_lines(source: BlockSource, block: Block) -> Any:
    """Return a block as a csr_array of its lines."""
    shape = (block.last - block.first, source.n_minor)
    return CSR.array((block.data, block.indices, block.indptr), shape=shape)


def add(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    left += right
    return left


def along(
    source: BlockSource, dense: np.ndarray, out: np.ndarray, progress: Progress = None
) -> None:
    """Multiply each line by `dense`: its row of `out` is written, and nothing else kept."""
    factor, by_scipy = prepared(source, dense, out.dtype)
    rows = _columns(out)
    vector, zero = factor[:, 0] if factor.shape[1] == 1 else None, _widened(out.dtype).type(0)

    def step(state: None, block: Block) -> None:
        some = rows[block.first : block.last]
        if by_scipy:
            some[...] = as_lines(source, block) @ factor
        elif vector is not None:
            arrays = arrays_for(block, out.dtype)
            require_in_range(kernels.products.lines_dot(*arrays, vector, zero, some[:, 0]))
        else:
            arrays = arrays_for(block, out.dtype)
            require_in_range(kernels.products.lines_dense(*arrays, factor, some))

    straight = not by_scipy and is_as_is(source.dtype, out.dtype)
    fold(source, lambda: None, step, lambda *_: None, straight=straight, progress=progress)


def across(
    source: BlockSource, dense: np.ndarray, out: np.ndarray, progress: Progress = None
) -> None:
    """Add up the lines, each multiplied by its own row of `dense`."""
    one = dense.ndim == 1 or dense.shape[1] == 1
    dtype = _widened(out.dtype) if one else out.dtype
    factor, by_scipy = prepared(source, dense, dtype)
    shape = (source.n_minor,) if one else (source.n_minor, factor.shape[1])

    def start() -> np.ndarray:
        return np.zeros(shape, dtype)

    def step(state: np.ndarray, block: Block) -> np.ndarray:
        some = factor[block.first : block.last]
        some = some[:, 0] if one else some
        if by_scipy:
            state += as_lines(source, block).T @ some
        elif one:
            arrays = arrays_for(block, out.dtype)
            require_in_range(kernels.products.add_lines(*arrays, some, state))
        else:
            arrays = arrays_for(block, out.dtype)
            require_in_range(kernels.products.add_lines_dense(*arrays, some, state))
        return state

    size = dtype.itemsize * source.n_minor * factor.shape[1]
    straight = not by_scipy and is_as_is(source.dtype, out.dtype)
    found = fold(source, start, step, add, state_bytes=size, straight=straight, progress=progress)
    out[...] = found.reshape(out.shape)


def _widened(dtype: np.dtype) -> np.dtype:
    """The type in which a product with a vector is added up: double precision where it is less."""
    return np.result_type(dtype, np.float64) if dtype.kind in "fc" else dtype
