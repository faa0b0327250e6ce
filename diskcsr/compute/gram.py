"""Products of a matrix's transpose and the matrix: with a dense one, or as a dense one, in a pass.

Values in single precision may be multiplied in it, several times as fast, by who says so and looks
at what comes out, as `products_and_gram` lets him: after some thousand lines it is added up in
doubles.
"""

from collections import deque
from collections.abc import Callable
from functools import cache, partial
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from .. import kernels
from ..axis import CSR
from ..blocks.canonical import FEW, canonical, is_canonical
from ..blocks.contents import Contents
from ..blocks.walk import (
    Block,
    BlockSource,
    affordable,
    blocks,
    fold,
    require_in_range,
)
from ..machine.options import options
from ..machine.progress import Progress
from ..machine.threads import share
from .answers import empty
from .blas import one_blas_thread
from .estimates import BLOCK_BYTES, Estimate
from .products import (
    across,
    add,
    along,
    arrays_for,
    as_lines,
    is_as_is,
    prepared,
    require,
    states,
    states_of,
)

__all__ = [
    "Totals",
    "gram_and_totals",
    "gram_matrix",
    "gram_product",
    "in_singles",
    "products_and_gram",
]

#: Bytes of lines that are made dense at a time, at most.
_DENSE_BYTES = 1 << 23
#: The share of a block that is stored from which on its Gram matrix is BLAS's. Of 2,000 columns of
#: which half is stored the kernel takes 3 to 8 times as long (bench/products.py).
_FILLED = 1 / 6
#: Columns of a Gram matrix that a thread computes at a time, and lines that it makes dense.
_TOGETHER, _LINES = 256, 128
#: The most bytes of a block that is multiplied by panels, and the least number of blocks.
_PANEL_BLOCK, _BLOCKS = 1 << 24, 64
#: Lines whose sums may be singles: as many as have an element in each column, from here to there.
_FEWEST, _MOST_LINES = 1024, 4096
#: Of singles whose largest is between these the squares, too, are singles.
_LEAST, _MOST = 1e-12, 1e12


# ------------------------------------------------------------------------------ with a dense matrix


class _Part(NamedTuple):
    """What a fold over the blocks of a matrix adds up."""

    start: Callable[[], Any]
    step: Callable[[Any, Block], Any]
    join: Callable[[Any, Any], Any]
    nbytes: int
    straight: bool = False
    max_bytes: int = 1 << 22
    scratch: int = 0


class Totals(NamedTuple):
    """What means and variances of the columns are made of.

    Attributes
    ----------
    sums : (n,) float64 array
        Of the columns.
    squares : (1,) float64 array
        The sum of the squares of all elements.
    """

    sums: np.ndarray
    squares: np.ndarray

    @classmethod
    def of_nothing(cls, n: int) -> "Totals":
        return cls(np.zeros(n), np.zeros(1))

    def take(self, block: Block) -> None:
        """Add the elements of a block."""
        data = block.data
        if data.dtype not in (np.float32, np.float64):
            data = data.astype(np.float64)
        ones = np.ones(block.last - block.first)
        arrays = data, block.indices, block.indptr
        require_in_range(kernels.products.add_lines(*arrays, ones, self.sums))
        if not is_canonical(block):  # of two elements of one place it is the sum that is squared
            data = canonical(block._replace(data=data.astype(np.float64))).data
        for first in range(0, data.size, FEW):  # without a second block in memory
            self.squares[0] += np.square(data[first : first + FEW], dtype=np.float64).sum()

    def join(self, other: "Totals") -> "Totals":
        """Take those of later blocks into these."""
        return Totals(*map(add, self, other))


def gram_product(shown: Contents, container: Any, dense: Any, progress: Progress) -> Any:
    """Return ``A.T @ (A @ dense)``: of rows in one pass over them, of columns in two."""
    none = empty(container, (0, shown.shape[1]), shown.dtype)  # the rows do not show in the result
    form = none.T @ (none @ dense)
    out, dense = np.asarray(form), np.asarray(dense)
    require(shown, form.nbytes, states(form))
    if not shown.axis.keeps_rows:
        between = np.zeros((shown.n_minor, *dense.shape[1:]), (none @ dense).dtype)
        across(shown, dense, between, progress)
        along(shown, between, out, progress)
        return form
    out[...] = _folded(shown, _whole(shown, dense, out.dtype), progress).reshape(out.shape)
    return form


def in_singles(shown: Contents) -> bool:
    """Whether `gram_and_totals` multiplies blocks of singles as such, and so much faster."""
    return shown.axis.keeps_rows and shown.dtype == np.float32 and shown.elements > FEW


def gram_and_totals(
    shown: Contents, dense: np.ndarray, *, totals: bool, progress: Progress = None
) -> tuple[np.ndarray, Totals | None]:
    """Return ``A.T @ (A @ dense)`` of rows A as doubles, and from the same pass what else is asked.

    Parameters
    ----------
    shown : Contents
        Rows.
    dense : (n, b) array
        Of singles where these are to be multiplied as such: see `in_singles`. What that takes
        beside must fit the memory budget, or they are multiplied as doubles.
    totals : bool
        Whether `Totals` are asked for.
    progress
        As of `fold`.

    Raises
    ------
    MemoryBudgetError
        When it does not fit the memory budget.
    """
    singles = dense.dtype == np.float32 and in_singles(shown)
    part = _by_panels(shown, dense) if singles else None
    if (
        part is None
        or 8 * dense.size + part.scratch + states_of(part.nbytes) > options.memory_limit()
    ):
        part, singles = _whole(shown, dense, np.dtype(np.float64)), False
        require(shown, 8 * dense.size, states_of(part.nbytes))
    part = _both(part, _totals(shown.n_minor)) if totals else part
    found = _folded(shown, part, progress)
    product, other = found if totals else (found, None)
    return np.hstack(product)[:, : dense.shape[1]] if singles else product, other


def products_and_gram(
    shown: Contents, dense: np.ndarray, progress: Progress = None
) -> tuple[np.ndarray, np.ndarray]:
    """Return ``A @ dense`` and ``A.T @ (A @ dense)`` of rows A in doubles, from one pass.

    Parameters
    ----------
    shown : Contents
        Rows.
    dense : (n, b) array

    Returns
    -------
    lines : (m, b) float64 array
    product : (n, b) float64 array

    Raises
    ------
    MemoryBudgetError
        When these do not fit the memory budget; nothing was read.
    """
    dense = np.ascontiguousarray(dense, np.float64)
    width, size = dense.shape[1], dense.nbytes
    require(shown, 8 * shown.n_major * width + size, states_of(size))
    lines = np.empty((shown.n_major, width))

    def step(state: np.ndarray, block: Block) -> np.ndarray:
        arrays, some = arrays_for(block, lines.dtype), lines[block.first : block.last]
        require_in_range(kernels.products.lines_dense(*arrays, dense, some))
        require_in_range(kernels.products.add_lines_dense(*arrays, some, state))
        return state

    part = _Part(lambda: np.zeros(dense.shape), step, add, size)
    return lines, _folded(shown, part, progress)


def _folded(shown: Contents, part: _Part, progress: Progress) -> Any:
    return fold(
        shown,
        part.start,
        part.step,
        part.join,
        max_bytes=part.max_bytes,
        state_bytes=part.nbytes,
        straight=part.straight,
        progress=progress,
    )


def _both(one: _Part, other: _Part) -> _Part:
    """Return what adds up two things at a time."""
    return one._replace(
        start=lambda: (one.start(), other.start()),
        step=lambda state, block: (one.step(state[0], block), other.step(state[1], block)),
        join=lambda left, right: (one.join(left[0], right[0]), other.join(left[1], right[1])),
        nbytes=one.nbytes + other.nbytes,
        straight=False,
    )


def _totals(n: int) -> _Part:
    def step(state: Totals, block: Block) -> Totals:
        state.take(block)
        return state

    return _Part(lambda: Totals.of_nothing(n), step, Totals.join, 8 * n)


def _whole(shown: Contents, dense: np.ndarray, dtype: np.dtype) -> _Part:
    """Return what adds up a product of any type."""
    factor, by_scipy = prepared(shown, dense, dtype)

    def start() -> np.ndarray:
        return np.zeros(factor.shape, dtype)

    def step(state: np.ndarray, block: Block) -> np.ndarray:
        if by_scipy:
            lines = as_lines(shown, block)
            state += lines.T @ (lines @ factor)
        else:
            arrays = arrays_for(block, dtype)
            require_in_range(kernels.products.gram_product(*arrays, factor, state))
        return state

    straight = not by_scipy and is_as_is(shown.dtype, dtype)
    return _Part(start, step, add, factor.size * dtype.itemsize, straight)


def _by_panels(shown: Contents, dense: np.ndarray) -> _Part:
    """Return what adds up a product with singles, a panel of it after the other."""
    n, width = dense.shape
    few = kernels.panels.VECTOR
    panels = []
    for first in range(0, width, 4 * few):
        columns = dense[:, first : first + 4 * few]
        lanes = next(lanes for lanes in (1, 2, 4) if columns.shape[1] <= few * lanes)
        panel = _aligned((n, few * lanes))
        panel[:, : columns.shape[1]] = columns
        panels.append((panel, (0,) * lanes))
    spare: deque[list[np.ndarray]] = deque()

    @cache
    def in_doubles() -> list[np.ndarray]:
        return [panel.astype(np.float64) for panel, _ in panels]

    def start() -> list[np.ndarray]:
        return [np.zeros(panel.shape) for panel, _ in panels]

    def step(state: list[np.ndarray], block: Block) -> list[np.ndarray]:
        # Kernels go by addresses; what a function of the user's returns may lie in any way.
        data, indices, indptr = map(np.ascontiguousarray, block[1:])
        lines = min(_MOST_LINES, max(_FEWEST, -(-n * (indptr.size - 1) // max(1, data.size))))
        # Of very short lines a part would take longer to add up than to compute.
        if not _are_moderate(data) or lines * data.size < n * (indptr.size - 1):
            for factor, out in zip(in_doubles(), state, strict=True):
                found = kernels.products.gram_product(data, indices, indptr, factor, out)
                require_in_range(found)
            return state
        try:
            parts = spare.pop()
        except IndexError:
            parts = [_aligned(panel.shape) for panel, _ in panels]
        for first in range(0, indptr.size - 1, lines):
            arrays = data, indices, indptr[first : first + lines + 1]
            for (panel, lanes), part, out in zip(panels, parts, state, strict=True):
                require_in_range(kernels.panels.gram_panel(*arrays, panel, part, lanes))
                kernels.panels.add_part(part, out)
        spare.append(parts)
        return state

    def join(left: list[np.ndarray], right: list[np.ndarray]) -> list[np.ndarray]:
        return list(map(add, left, right))

    size = sum(panel.size for panel, _ in panels)
    most = affordable(max(1 << 22, min(_PANEL_BLOCK, 8 * shown.elements // _BLOCKS)))
    threads = min(options.num_threads, 16)
    scratch = (4 * threads + 4 + 8) * size + 4 * min(most * threads, 8 * shown.elements)
    return _Part(start, step, join, 8 * size, max_bytes=most, scratch=scratch)


def _aligned(shape: tuple[int, int]) -> np.ndarray:
    """Return zeros in single precision that begin where a line of a processor's cache does."""
    size, line = 4 * shape[0] * shape[1], 64
    memory = np.zeros(size + line, np.uint8)
    first = -memory.ctypes.data % line
    return memory[first : first + size].view(np.float32).reshape(shape)


def _are_moderate(data: np.ndarray) -> bool:
    """Whether a single can hold the squares of all that matter among singles, and no NaN is here.

    The largest counts: beside its square those of much smaller ones are nothing.
    """
    largest = np.maximum(data.max(initial=0), -data.min(initial=0))
    return not data.size or bool(_LEAST < largest < _MOST)


# ------------------------------------------------------------------------------- as a dense matrix


def gram_matrix(
    source: BlockSource, *, singles: bool = False, totals: Totals | None = None
) -> np.ndarray:
    """Return ``A.T @ A`` of lines A as a dense array of doubles, in one pass.

    Parameters
    ----------
    source : BlockSource
    singles : bool
        Whether lines of singles that are full enough may be multiplied in single precision.
    totals : Totals, optional
        What all elements are added to.

    Raises
    ------
    MemoryBudgetError
        When it does not fit the memory budget.
    """
    n = source.n_minor
    what = f"a dense matrix of {n} x {n}"
    scratch = affordable(_DENSE_BYTES)
    products = 8 * n * _TOGETHER * min(options.num_threads, -(-n // _TOGETHER))
    Estimate(8 * n * n, scratch + min(products, 8 * n * n)).require(what, "Select fewer columns.")
    half = np.zeros((n, n))
    edges = np.linspace(0, n, 4 * options.num_threads + 1).astype(np.int64).tolist()

    def add_rows(arrays: tuple, first: int, last: int) -> None:
        kernels.products.half_gram(*arrays, first, last, half)

    with one_blas_thread():
        for block in blocks(source, max_bytes=affordable(BLOCK_BYTES), progress=options.progress):
            data, indices, indptr = block.data, block.indices, block.indptr
            if totals is not None:
                totals.take(block)
            is_full = data.size > _FILLED * n * (indptr.size - 1)
            if is_full and singles and data.dtype == np.float32 and _are_moderate(data):
                _add_filled((data, indices, indptr), half, scratch)
                continue
            # The product of two singles would be a single.
            arrays = data.astype(half.dtype, copy=False), indices, indptr
            # A NaN is one of its own column and those that meet it, not of the zeros beside it.
            if is_full and np.isfinite(arrays[0]).all():
                _add_filled(arrays, half, scratch)
            else:
                # Each thread adds rows of its own, so that their number changes no bit.
                share(partial(add_rows, arrays, *part) for part in pairwise(edges))
    return _with_transpose(half)


def _add_filled(arrays: tuple, half: np.ndarray, scratch: int) -> None:
    """Add to half a Gram matrix that of lines which fill so much of it that BLAS is faster."""
    data, indices, indptr = arrays
    n = len(half)
    most = _FEWEST if data.itemsize == 4 else indptr.size
    step = min(most, indptr.size - 1, max(1, scratch // (data.itemsize * n)))
    dense = np.empty((step, n), data.dtype)

    def fill(lines: range, first: int) -> None:
        some = indptr[lines[0] : lines[-1] + 2]
        part = slice(some[0], some[-1])
        matrix = CSR.array((data[part], indices[part], some - some[0]), shape=(len(lines), n))
        matrix.toarray(out=dense[first : first + len(lines)])

    def multiply(count: int, first: int) -> None:
        last = min(n, first + _TOGETHER)
        product = dense[:count, first:last].T @ dense[:count, first:]
        product[:, : last - first] /= 2  # both halves of it are here
        half[first:last, first:] += product

    for first in range(0, indptr.size - 1, step):
        lines = range(indptr.size - 1)[first : first + step]
        share(partial(fill, lines[i : i + _LINES], i) for i in range(0, len(lines), _LINES))
        share(partial(multiply, len(lines), i) for i in range(0, n, _TOGETHER))


def _with_transpose(half: np.ndarray) -> np.ndarray:
    """Add its own transpose to a square array, in place."""
    for first in range(0, len(half), 256):
        rows = slice(first, first + 256)
        both = half[rows, first:] + half[first:, rows].T
        half[rows, first:] = both
        half[first:, rows] = both.T
    return half
