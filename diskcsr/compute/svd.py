"""Singular vectors of a matrix that is never loaded, its columns' means taken off or not.

All that is asked of the matrix are products with blocks of vectors. Centring is done to these
products, so that nothing becomes dense. In the space of the columns, with ``X = A - 1 mean'``,

    X' X D = A' (A D) - rows * mean (mean' D),

and in that of the rows, with ``w = A mean``,

    X X' D = A (A' D) - w (1' D) - 1 (w' D) + (mean' mean) 1 (1' D).
"""

import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from .eigen import Eigenpairs, beside, largest_eigenpairs

__all__ = ["Products", "Triplets", "singular_triplets", "takes_gram_matrix"]

#: Vectors beyond those that are wanted, which make these come in fewer passes.
_BEYOND = 10
#: The basis has at most so many times the columns of its first block.
_WIDEST = 8
#: Columns up to which the Gram matrix itself may be what is cheapest to compute, once.
_FEW_COLUMNS = 5000
#: The products with a block that an iteration is taken to need, where both ways are weighed.
_USUAL_PASSES = 8
#: Nanoseconds that a core takes: for the product of a stored value and a number of a block, and
#: that of its transpose; for two elements of a line in a Gram matrix; for two numbers of a line
#: that was made dense; and for reading a value.
_TIMES_BLOCK, _PAIR, _DENSE_PAIR, _READING = 0.5, 0.75, 0.02, 5
#: Rows of a Gram matrix from which on the few eigenpairs wanted are iterated for: all 2,000 of
#: such a matrix take seconds, 60 of them tenths of one.
_LARGE_GRAM = 1000
#: The least `tol` for which values in single precision are multiplied in it, and the share of it
#: that is aimed at then.
_SINGLES, _SAFE = 1e-5, 0.8
#: So many products after which residuals in singles are as large as before are the last.
_STAYS = 4
#: The residual at which these are exact, and the products after which they are not looked for.
_EXACT = 1e-11
_MOST_PRODUCTS = 60


class Products(NamedTuple):
    """What is asked of a matrix, each a pass of its file or two.

    Attributes
    ----------
    shape : (int, int)
    nnz : int or None
        The stored values, about.
    gram : function of an (n, b) array
        ``A.T @ (A @ D)``.
    gram_of_rows : function of an (m, b) array
        ``A @ (A.T @ D)``.
    forth : function of an (n, b) array
        ``A @ D``.
    back : function of an (m, b) array
        ``A.T @ D``.
    gram_matrix : function of a bool
        ``A.T @ A``, dense; of whoever asks for it. True: single precision will do.
    checked : function of an (n, b) array, or None
        ``A @ D`` and ``A.T @ (A @ D)`` in doubles, where `gram` multiplies blocks of singles much
        faster, and `gram_matrix` may, so that what they come to needs to be looked at.
    """

    shape: tuple[int, int]
    nnz: int | None
    gram: Callable[[np.ndarray], np.ndarray]
    gram_of_rows: Callable[[np.ndarray], np.ndarray]
    forth: Callable[[np.ndarray], np.ndarray]
    back: Callable[[np.ndarray], np.ndarray]
    gram_matrix: Callable[[bool], np.ndarray]
    checked: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]] | None = None

    def centred(self, mean_of: Callable[[], np.ndarray]) -> "Products":
        """Return the products of the matrix less the mean of each column.

        The means are asked for after the first product: it may be what they come from.
        """
        rows = self.shape[0]
        weighted = None

        def less(product: np.ndarray, block: np.ndarray) -> np.ndarray:
            mean = mean_of()
            return product - rows * np.outer(mean, mean @ block)

        def gram(block: np.ndarray) -> np.ndarray:
            return less(self.gram(block), block)

        def gram_of_rows(block: np.ndarray) -> np.ndarray:
            nonlocal weighted
            result, mean = self.gram_of_rows(block), mean_of()
            if weighted is None:
                weighted = self.forth(mean[:, None])[:, 0]
            total = block.sum(0)
            taken = np.outer(weighted, total) + (weighted @ block - float(mean @ mean) * total)
            return result - taken

        def gram_matrix(singles: bool) -> np.ndarray:
            result, mean = self.gram_matrix(singles), mean_of()
            for first in range(0, len(result), 256):  # there is no second one of that size
                some = slice(first, first + 256)
                result[some] -= rows * np.outer(mean[some], mean)
            return result

        def forth(block: np.ndarray) -> np.ndarray:
            result = np.asarray(self.forth(block), dtype=np.float64)
            result -= mean_of() @ block
            return result

        def checked(block: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            assert self.checked is not None
            lines, product = self.checked(block)
            lines -= mean_of() @ block  # as long as the matrix: there is no second one
            return lines, less(product, block)

        return self._replace(
            gram=gram,
            gram_of_rows=gram_of_rows,
            forth=forth,
            back=lambda block: self.back(block) - np.outer(mean_of(), block.sum(0)),
            gram_matrix=gram_matrix,
            checked=None if self.checked is None else checked,
        )


class Triplets(NamedTuple):
    """Singular values, descending, and their vectors.

    Attributes
    ----------
    u : (m, k) float64 array
    s : (k,) float64 array
    vt : (k, n) float64 array
    passes : int
        Products with a block that were made.
    residual : float
        The greatest length of ``A.T @ u - s * v`` of the k, over the greatest singular value.
    """

    u: np.ndarray
    s: np.ndarray
    vt: np.ndarray
    passes: int
    residual: float


def singular_triplets(
    products: Products,
    k: int,
    rng: np.random.Generator,
    *,
    tol: float,
    max_passes: int,
) -> Triplets:
    """Find the `k` largest singular values and their vectors.

    Parameters
    ----------
    products : Products
    k : int
        Less than or equal to both lengths.
    rng : numpy.random.Generator
        Of the first block.
    tol : float
        When to stop: see `Triplets`.
    max_passes : int
        When to stop, whatever `tol`.

    Returns
    -------
    Triplets
        The signs are such that of each row of `vt` the number furthest from zero is positive.
    """
    rows, columns = products.shape
    in_columns = columns <= rows
    found, others = _found(products, k, rng, tol, max_passes)
    scale = _scale(found.values, 1)
    residual = float((found.residuals / np.where(scale > 0, scale, 1)).max(initial=0))
    if not (found.residuals <= tol * _scale(found.values, min(rows, columns))).all():
        warnings.warn(
            f"after {found.passes} products with a block the residual is {residual:.2g} of the "
            f"largest singular value, where tol is {tol:.2g}: raise max_passes or tol",
            RuntimeWarning,
            stacklevel=4,
        )
    vectors, passes = found.vectors, found.passes
    if others is None:
        others = np.asarray((products.forth if in_columns else products.back)(vectors), np.float64)
        passes += 1
    # The length of A v is a better singular value than the root of an eigenvalue is.
    s = np.sqrt(np.einsum("ij,ij->j", others, others))  # without the squares in memory
    order = np.argsort(-s, kind="stable")
    if (order[1:] < order[:-1]).any():
        s, vectors, others = s[order], vectors[:, order], others[:, order]
    others = _normalized(others, s, rng)
    u, v = (others, vectors) if in_columns else (vectors, others)
    furthest = np.take_along_axis(v, np.abs(v).argmax(0)[None], 0)[0]
    signs = np.where(furthest < 0, -1.0, 1.0)
    u *= signs  # along the longer axis as a rule: there is no second one of that size
    return Triplets(u, s, (v * signs).T, passes, residual)


def _found(
    products: Products, k: int, rng: np.random.Generator, tol: float, max_passes: int
) -> tuple[Eigenpairs, np.ndarray | None]:
    """Return eigenpairs along the shorter axis, and products with them if there are any already."""
    rows, columns = products.shape
    n, in_columns = min(rows, columns), columns <= rows
    whole = takes_gram_matrix(products, k)
    start = np.empty((n, 0)) if whole else rng.standard_normal((n, _width(n, k)))

    def good(values: np.ndarray, residuals: np.ndarray) -> np.ndarray:
        return residuals <= tol * _scale(values, n)

    def iterated(product: Any, is_good: Any, most: int) -> Eigenpairs:
        width = _WIDEST * start.shape[1]
        return largest_eigenpairs(
            product, start, k, is_good=is_good, max_passes=most, max_width=width
        )

    passes = 0
    if products.checked is not None and in_columns and tol >= _SINGLES:
        if whole:
            found = _exact(products.gram_matrix(True), k, rng)
        else:
            is_good = _while_it_helps(k, _SAFE * tol, n)
            found = iterated(_rounded(products.gram), is_good, max(1, max_passes // 2))
        passes = found.passes + 1
        others, images = products.checked(found.vectors)
        found = _looked_at(found, others, images)
        spent = passes >= max_passes and not whole
        if spent or good(found.values, found.residuals).all():
            return replace(found, passes=passes), others
        del others, images  # as long as the matrix
        if not whole:
            start[:, :k] = found.vectors
    if whole:
        found = _exact(products.gram_matrix(False), k, rng)
    else:
        product = products.gram if in_columns else products.gram_of_rows
        found = iterated(product, good, max_passes - passes)
    return replace(found, passes=found.passes + passes), None


def _while_it_helps(k: int, tol: float, n: int) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """Return what says which eigenpairs are good: all are, once residuals no longer get smaller.

    Below what rounding makes of them they do not.
    """
    worst: list[float] = []

    def is_good(values: np.ndarray, residuals: np.ndarray) -> np.ndarray:
        scale = _scale(values, n)
        worst.append(float((residuals[:k] / np.where(scale > 0, scale, 1)[:k]).max(initial=0)))
        stays = len(worst) > _STAYS and min(worst[-_STAYS:]) > 0.7 * min(worst[:-_STAYS])
        return (residuals <= tol * scale) | stays

    return is_good


def _looked_at(found: Eigenpairs, others: np.ndarray, images: np.ndarray) -> Eigenpairs:
    """Return the best vectors in the space of some, given what the matrix makes of these.

    `others`, their products with the matrix, become those of the best vectors.
    """
    small = found.vectors.T @ images
    values, rotation = np.linalg.eigh((small + small.T) / 2)
    values, rotation = values[::-1], rotation[:, ::-1]
    for first in range(0, len(others), 4096):  # there is no second one of that size
        some = slice(first, first + 4096)
        others[some] = others[some] @ rotation
    vectors = found.vectors @ rotation
    residuals = np.linalg.norm(images @ rotation - vectors * values, axis=0)
    return Eigenpairs(values, vectors, residuals, found.passes)


def _width(n: int, k: int) -> int:
    """Return of how many vectors the first block of an iteration is."""
    return min(n, k + max(_BEYOND, k // 5))


def _rounded(product: Callable[[np.ndarray], np.ndarray]) -> Callable[[np.ndarray], np.ndarray]:
    """Return the product with a block of singles; means are taken off for the same block."""
    return lambda block: product(block.astype(np.float32))


def _scale(values: np.ndarray, n: int) -> np.ndarray:
    """What turns a residual of an eigenvector into that of singular vectors, over the largest.

    ``A.T u - s v`` is ``(A.T A v - s**2 v) / s``. What rounding leaves is not asked for.
    """
    values = np.maximum(values, 0)
    largest = values.max(initial=0)
    return np.sqrt(np.maximum(values, n * np.finfo(float).eps * largest) * largest)


def takes_gram_matrix(products: Products, k: int) -> bool:
    """Whether one Gram matrix costs less than the usual number of products with a block."""
    rows, columns = products.shape
    if columns > min(rows, _FEW_COLUMNS) or products.nnz is None or not rows:
        return False
    a_row = products.nnz / rows
    once = min(_PAIR * a_row**2, _DENSE_PAIR * columns**2)
    again = a_row * (_TIMES_BLOCK * (k + _BEYOND) + _READING)
    return once + _READING * a_row < _USUAL_PASSES * again


def _exact(gram: np.ndarray, k: int, rng: np.random.Generator) -> Eigenpairs:
    """Return the largest eigenpairs of a matrix in memory, as exact as rounding allows.

    Of a large one a few are found by the iteration in a fraction of the time that all of them take.
    """
    n = len(gram)
    width = _width(n, k)
    if n >= _LARGE_GRAM and 3 * width < n:
        found = largest_eigenpairs(
            lambda block: gram @ block,
            rng.standard_normal((n, width)),
            k,
            is_good=lambda values, residuals: residuals <= _EXACT * _scale(values, n),
            max_passes=_MOST_PRODUCTS,
            max_width=_WIDEST * width,
        )
        if (found.residuals <= _EXACT * _scale(found.values, n)).all():
            return replace(found, residuals=np.zeros(k), passes=1)
    values, vectors = np.linalg.eigh(gram)
    return Eigenpairs(values[::-1][:k], vectors[:, ::-1][:, :k], np.zeros(k), 1)


def _normalized(vectors: np.ndarray, lengths: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Divide vectors by their lengths; in place of those without any, take others at right angles.

    `lengths` descend.
    """
    some = int((lengths > len(vectors) * np.finfo(float).eps * lengths.max(initial=0)).sum())
    vectors[:, :some] /= lengths[:some]
    if some < lengths.size:
        fill = rng.standard_normal((len(vectors), lengths.size - some))
        vectors[:, some:] = beside(vectors[:, :some], fill)
    return vectors
