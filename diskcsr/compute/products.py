"""Products with dense arrays: folds over the blocks of a matrix, which is never loaded.

Lines are multiplied by a dense array whose rows are minor ("along lines": each line gives a row of
the result), or by one whose rows are major ("across lines": each line adds to all of the result).
Which of the two a product is depends on the format and on the side that the array stands on.
"""

from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
from scipy.linalg.blas import dsyrk

from .. import kernels
from ..axis import CSR
from ..blocks.canonical import FEW
from ..blocks.contents import Contents
from ..blocks.walk import (
    Block,
    BlockSource,
    affordable,
    blocks,
    fold,
    require_in_range,
    room_for_states,
)
from ..machine.options import options
from ..machine.progress import Progress
from ..machine.threads import share
from .answers import empty
from .estimates import BLOCK_BYTES, Estimate

__all__ = ["gram_matrix", "gram_product", "times_dense"]

#: Bytes of lines that are made dense at a time, at most.
_DENSE_BYTES = 1 << 23
#: The share of a block that is stored from which on its Gram matrix is BLAS's. Of 2,000 columns of
#: which half is stored the kernel takes 8 times as long (bench/products.py), of a sixth as long.
_FILLED = 1 / 6


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
    along = shown.axis.keeps_rows is not reflected
    _require(shown, form.nbytes, 0 if along else _states(form))
    dense, out = np.asarray(other), np.asarray(form)
    if reflected:
        dense, out = dense.T, out.T
    (_along if along else _across)(shown, dense, out)
    return form


def gram_product(shown: Contents, container: Any, dense: Any, progress: Progress) -> Any:
    """Return ``A.T @ (A @ dense)``: of rows in one pass over them, of columns in two."""
    none = empty(container, (0, shown.shape[1]), shown.dtype)  # the rows do not show in the result
    form = none.T @ (none @ dense)
    out, dense = np.asarray(form), np.asarray(dense)
    _require(shown, form.nbytes, _states(form))
    if not shown.axis.keeps_rows:
        between = np.zeros((shown.n_minor, *dense.shape[1:]), (none @ dense).dtype)
        _across(shown, dense, between, progress)
        _along(shown, between, out, progress)
        return form
    factor, by_scipy = _prepared(shown, dense, out.dtype)

    def start() -> np.ndarray:
        return np.zeros(factor.shape, out.dtype)

    def step(state: np.ndarray, block: Block) -> np.ndarray:
        if by_scipy:
            lines = _lines(shown, block)
            state += lines.T @ (lines @ factor)
        else:
            arrays = _arrays(block, out.dtype)
            require_in_range(kernels.products.gram_product(*arrays, factor, state))
        return state

    size = factor.size * out.dtype.itemsize
    straight = not by_scipy and _is_as_is(shown.dtype, out.dtype)
    found = fold(shown, start, step, _add, state_bytes=size, straight=straight, progress=progress)
    out[...] = found.reshape(out.shape)
    return form


def gram_matrix(source: BlockSource, sums: np.ndarray | None = None) -> np.ndarray:
    """Return ``A.T @ A`` of lines A as a dense array of doubles, in one pass.

    Parameters
    ----------
    source : BlockSource
    sums : (n_minor,) float64 array, optional
        What the sums of the columns of A are added to.

    Raises
    ------
    MemoryBudgetError
        When it does not fit the memory budget.
    """
    n = source.n_minor
    what = f"a dense matrix of {n} x {n}"
    scratch = affordable(_DENSE_BYTES)
    Estimate(8 * n * n, scratch).require(what, "Select fewer columns.")
    half = np.zeros((n, n))
    edges = np.linspace(0, n, 4 * options.num_threads + 1).astype(np.int64).tolist()

    def add(arrays: tuple, first: int, last: int) -> None:
        kernels.products.half_gram(*arrays, first, last, half)

    for block in blocks(source, max_bytes=affordable(BLOCK_BYTES), progress=options.progress):
        # Not as they are: the product of two singles would be a single.
        arrays = block.data.astype(half.dtype, copy=False), block.indices, block.indptr
        if sums is not None:
            ones = np.ones(block.last - block.first)
            require_in_range(kernels.products.add_lines(*arrays, ones, sums))
        # A NaN is one of its own column and those that meet it, not of the zeros beside it.
        if arrays[0].size > _FILLED * n * (arrays[2].size - 1) and np.isfinite(arrays[0]).all():
            _add_filled(arrays, half, scratch)
        else:
            # Each thread adds rows of its own, so that their number changes no bit.
            share(partial(add, arrays, *part) for part in pairwise(edges))
    return _with_transpose(half)


def _add_filled(arrays: tuple, half: np.ndarray, scratch: int) -> None:
    """Add to half a Gram matrix that of lines which fill so much of it that BLAS is faster."""
    data, indices, indptr = arrays
    n, lines = len(half), indptr.size - 1
    step = max(1, scratch // (8 * n))
    for first in range(0, lines, step):
        some = indptr[first : first + step + 1]
        part = slice(some[0], some[-1])
        shape = (some.size - 1, n)
        block = CSR.array((data[part], indices[part], some - some[0]), shape=shape)
        diagonal = half.diagonal().copy()
        # Of the transpose, which BLAS takes for its own, the lower half is our upper one.
        dense = block.toarray()
        dsyrk(1.0, dense.T, beta=1.0, c=half.T, lower=1, overwrite_c=1)
        np.fill_diagonal(half, (half.diagonal() + diagonal) / 2)


def _with_transpose(half: np.ndarray) -> np.ndarray:
    """Add its own transpose to a square array, in place."""
    for first in range(0, len(half), 256):
        rows = slice(first, first + 256)
        both = half[rows, first:] + half[first:, rows].T
        half[rows, first:] = both
        half[first:, rows] = both.T
    return half


def _states(form: np.ndarray) -> int:
    """Return what the states of all cuts take, where each is as large as the result."""
    state = form.size * _widened(form.dtype).itemsize
    return max(state, min(16 * state, room_for_states()))


def _require(shown: Contents, result: int, scratch: int) -> None:
    what = f"{shown.source.where}: a dense product"
    instead = "Multiply by fewer columns at a time, or raise diskcsr.options.memory_budget."
    Estimate(result, scratch).require(what, instead)


def _prepared(source: BlockSource, dense: np.ndarray, dtype: np.dtype) -> tuple:
    """Return a factor as kernels want it, and whether scipy's own code is to be used instead."""
    by_scipy = source.elements <= FEW or dtype.char in "?gG"
    return np.ascontiguousarray(_columns(dense), None if by_scipy else dtype), by_scipy


def _columns(array: np.ndarray) -> np.ndarray:
    return array[:, None] if array.ndim == 1 else array


def _arrays(block: Block, dtype: np.dtype) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    data = block.data if _is_as_is(block.data.dtype, dtype) else block.data.astype(dtype)
    return data, block.indices, block.indptr


def _is_as_is(values: np.dtype, dtype: np.dtype) -> bool:
    """Whether kernels take these values for such a result as they are: what a cast would give."""
    return values == dtype or (values.char, dtype.char) == ("f", "d")


def _lines(source: BlockSource, block: Block) -> Any:
    """Return a block as a csr_array of its lines."""
    shape = (block.last - block.first, source.n_minor)
    return CSR.array((block.data, block.indices, block.indptr), shape=shape)


def _add(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    left += right
    return left


def _along(
    source: BlockSource, dense: np.ndarray, out: np.ndarray, progress: Progress = None
) -> None:
    """Multiply each line by `dense`: its row of `out` is written, and nothing else kept."""
    factor, by_scipy = _prepared(source, dense, out.dtype)
    rows = _columns(out)
    vector, zero = factor[:, 0] if factor.shape[1] == 1 else None, _widened(out.dtype).type(0)

    def step(state: None, block: Block) -> None:
        some = rows[block.first : block.last]
        if by_scipy:
            some[...] = _lines(source, block) @ factor
        elif vector is not None:
            arrays = _arrays(block, out.dtype)
            require_in_range(kernels.products.lines_dot(*arrays, vector, zero, some[:, 0]))
        else:
            arrays = _arrays(block, out.dtype)
            require_in_range(kernels.products.lines_dense(*arrays, factor, some))

    straight = not by_scipy and _is_as_is(source.dtype, out.dtype)
    fold(source, lambda: None, step, lambda *_: None, straight=straight, progress=progress)


def _across(
    source: BlockSource, dense: np.ndarray, out: np.ndarray, progress: Progress = None
) -> None:
    """Add up the lines, each multiplied by its own row of `dense`."""
    one = dense.ndim == 1 or dense.shape[1] == 1
    dtype = _widened(out.dtype) if one else out.dtype
    factor, by_scipy = _prepared(source, dense, dtype)
    shape = (source.n_minor,) if one else (source.n_minor, factor.shape[1])

    def start() -> np.ndarray:
        return np.zeros(shape, dtype)

    def step(state: np.ndarray, block: Block) -> np.ndarray:
        some = factor[block.first : block.last]
        some = some[:, 0] if one else some
        if by_scipy:
            state += _lines(source, block).T @ some
        elif one:
            arrays = _arrays(block, out.dtype)
            require_in_range(kernels.products.add_lines(*arrays, some, state))
        else:
            arrays = _arrays(block, out.dtype)
            require_in_range(kernels.products.add_lines_dense(*arrays, some, state))
        return state

    size = dtype.itemsize * source.n_minor * factor.shape[1]
    straight = not by_scipy and _is_as_is(source.dtype, out.dtype)
    found = fold(source, start, step, _add, state_bytes=size, straight=straight, progress=progress)
    out[...] = found.reshape(out.shape)


def _widened(dtype: np.dtype) -> np.dtype:
    """The type in which a product with a vector is added up: double precision where it is less."""
    return np.result_type(dtype, np.float64) if dtype.kind in "fc" else dtype
