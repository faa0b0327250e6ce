"""Products of two sparse matrices of which one, or both, are in a file: sparse, as scipy has them.

What is in a file is read in blocks. A product is rows beside one another, each block's own, or a
sum of as many products as there are blocks of the inner dimension. Turned over, ``(B.T @ A.T).T``,
all others are of these two kinds.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial, reduce
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from scipy.sparse import hstack, issparse, vstack

from .. import kernels
from ..axis import CSR
from ..blocks.canonical import FEW
from ..blocks.contents import Contents
from ..blocks.walk import Block, affordable, blocks
from ..machine.options import options, require_memory
from ..machine.threads import share
from .answers import empty
from .elementwise import loaded, matrix_blocks
from .estimates import BLOCK_BYTES, compressed_bytes, matrix_bytes

__all__ = ["Factor", "times"]

#: Of a product of a matrix and its own transpose: how many terms there must be for each place of
#: the result, so that they are added up in a dense array.
_DENSE = 0.125
#: Bytes of the rows that are multiplied together by columns in a file, where there is that much.
_MANY_ROWS = 1 << 28


class Factor(NamedTuple):
    """One side of a product."""

    matrix: Any  # Contents, or scipy's matrix in memory
    container: Any  # scipy's class of it in memory

    @property
    def stored(self) -> bool:
        """Whether it is in a file."""
        return not issparse(self.matrix)

    @property
    def T(self) -> "Factor":
        """Its transpose, of which nothing is read."""
        if not self.stored:
            return Factor(self.matrix.T, type(self.matrix.T))
        shown = self.matrix
        turned = replace(shown, axis=shown.axis.transposed, shape=shown.shape[::-1])
        return Factor(turned, type(empty(self.container, (1, 1), shown.dtype).T))

    def empty(self) -> Any:
        """Return scipy's matrix of this kind without elements."""
        if self.stored:
            return empty(self.container, self.matrix.shape, self.matrix.dtype)
        return type(self.matrix)(self.matrix.shape, dtype=self.matrix.dtype)

    def nbytes(self) -> int:
        """Return what it takes in memory."""
        return matrix_bytes(self.matrix)

    def load(self) -> "Factor":
        """Return it in memory, under the memory guard."""
        return Factor(loaded(self.matrix, self.container), self.container)


def times(left: Factor, right: Factor) -> Any:
    """Return the product of two sparse matrices, at least one of which is in a file.

    Raises
    ------
    MemoryBudgetError
        As soon as what there is of the result, or a side that must be loaded, does not fit.
    """
    if not left.stored and left.matrix.ndim != 2:
        return left.matrix @ right.load().matrix
    if not right.stored and right.matrix.ndim != 2:
        return left.load().matrix @ right.matrix
    form = left.empty() @ right.empty()
    if any(side.matrix.nnz == 0 for side in (left, right)):
        return form
    found = _product(left, right)
    return type(form)(found.asformat(form.format).astype(form.dtype, copy=False))


def _product(left: Factor, right: Factor) -> Any:
    if not left.stored:
        return _product(right.T, left.T).T
    if not left.matrix.axis.keeps_rows:
        if right.stored and not right.matrix.axis.keeps_rows:
            return _product(right.T, left.T).T
        dense = _dense_gram(left, right)
        return _sum_of(left, _rows_of(right)) if dense is None else dense
    if right.stored and not right.matrix.axis.keeps_rows:
        return _rows_by_columns(left, right)
    if right.stored and left.nbytes() < right.nbytes():
        return _product(right.T, left.load().T).T
    return _row_by_row(left, right.load().matrix if right.stored else right.matrix)


def _row_by_row(left: Factor, right: Any) -> Any:
    """Multiply the rows of `left`, a block at a time, by a matrix in memory."""
    right, rows = right.tocsr(), _Beside()
    for _, _, block in matrix_blocks(left.matrix, left.container):
        rows.add(block @ right)
    return vstack(rows.parts, format="csr")


def _rows_by_columns(left: Factor, right: Factor) -> Any:
    """Multiply rows by columns, both in files: the columns are read once for each block of rows."""
    most = max(BLOCK_BYTES, min(_MANY_ROWS, options.memory_limit() // 16))
    rows = _Beside()
    for _, _, block in matrix_blocks(left.matrix, left.container, most):
        columns = _Beside(rows)
        for _, _, other in matrix_blocks(right.matrix, right.container, told=False):
            columns.add((block @ other).tocsr())
        rows.add(hstack(columns.parts, format="csr"))
    return vstack(rows.parts, format="csr")


class _Beside:
    """Parts of a result that come to stand beside one another, as long as they fit the budget.

    Parameters
    ----------
    more : _Beside, optional
        Other parts that are in memory meanwhile.
    """

    def __init__(self, more: "_Beside | None" = None) -> None:
        self.parts: list[Any] = []
        self.nbytes: int = more.nbytes if more else 0

    def add(self, part: Any) -> None:
        """Keep a part."""
        self.parts.append(part)
        self.nbytes += _size_of(part)
        _require(2 * self.nbytes)  # once in parts and once as a whole


# ------------------------------------------------------------- sums over the inner dimension


def _rows_of(right: Factor) -> Callable[[int, int], Any]:
    """Return what reads rows of a side that keeps them, or of one in memory."""
    if not right.stored:
        matrix = right.matrix.tocsr()
        return lambda first, last: matrix[first:last]
    shown = right.matrix

    def read(first: int, last: int) -> Any:
        arrays = shown.read(shown.plan(range(first, last)))
        return right.container(arrays, shape=(last - first, shown.shape[1]))

    return read


def _sum_of(left: Factor, rows: Callable[[int, int], Any]) -> Any:
    """Add up the products of some columns of `left` and as many rows, block by block.

    Sums of as many blocks each are added, so that no number is added to many times.
    """
    sums: list[tuple[int, Any]] = []
    for first, last, block in matrix_blocks(left.matrix, left.container):
        count, part = 1, block @ rows(first, last)
        while sums and sums[-1][0] == count:
            part = sums.pop()[1] + part
            count *= 2
        sums.append((count, part))
        _require(2 * sum(_size_of(one) for _, one in sums))
    return reduce(lambda total, part: part + total, [part for _, part in reversed(sums)])


def _dense_gram(left: Factor, right: Factor) -> Any:
    """Return the product of a matrix's transpose and the matrix, if nearly all of it is filled.

    It is then added up in a dense array. None where it is another product, or emptier, or where
    there is no room for that.
    """
    shown, n = left.matrix, left.matrix.n_minor
    if not (right.stored and _are_one(shown, right.matrix)) or shown.elements <= FEW:
        return None
    terms = int((shown.lengths().astype(np.float64) ** 2).sum())
    nbytes = n * n * shown.dtype.itemsize + compressed_bytes(min(terms, n * n), n, n, shown.dtype)
    if terms < _DENSE * n * n or shown.dtype.char in "?gG" or 2 * nbytes > options.memory_limit():
        return None
    out = np.zeros((n, n), shown.dtype)
    edges = np.linspace(0, n, 4 * options.num_threads + 1).astype(np.int64)

    parts = list(pairwise(edges))
    for block in blocks(shown, max_bytes=affordable(BLOCK_BYTES), progress=options.progress):
        share(partial(_add_gram, block, out, part) for part in parts)
    step = max(1, BLOCK_BYTES // (n * out.itemsize))
    rows = [CSR.array(out[first : first + step]) for first in range(0, n, step)]
    return vstack(rows, format="csr").T  # it is symmetric


def _add_gram(block: Block, out: np.ndarray, part: tuple[int, int]) -> None:
    kernels.products.gram(block.data, block.indices, block.indptr, *part, out)


def _are_one(one: Any, other: Any) -> bool:
    """Whether one is the transpose of the other, with nothing changed in memory."""
    if not (isinstance(one, Contents) and isinstance(other, Contents)):
        return False
    same = one.source is other.source and not one.held and not other.held
    return same and one.axis is not other.axis and one.shape == other.shape[::-1]


def _size_of(part: Any) -> int:
    return part.data.nbytes + part.indices.nbytes + part.indptr.nbytes


def _require(nbytes: int) -> None:
    what = "what there is of a sparse product, and what it is put together from,"
    require_memory(nbytes, what, "Multiply fewer rows or columns at a time, or raise the budget.")
