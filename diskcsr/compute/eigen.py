"""The largest eigenvalues of a matrix that is known by its products alone.

The method is a block Davidson iteration without a preconditioner, which spans the same space as the
block Krylov method of Musco and Musco (2015, arXiv:1504.05477): a basis is kept whole, together
with the matrix's products with it, Rayleigh and Ritz's method finds the best vectors in it, and the
residuals of those that are not yet good enough are what the basis is widened by. A vector costs no
more products once it is good. When the basis has its greatest width it is replaced by its best
vectors, which costs no product either.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.linalg import eigh, qr

from .blas import one_blas_thread

__all__ = ["Eigenpairs", "beside", "largest_eigenpairs"]

#: A direction is dropped from a new block when less than this is left of it after what it has in
#: common with the basis was taken off: the rest would be rounding.
_LEFT = 1e-10


@dataclass(frozen=True)
class Eigenpairs:
    """Eigenvalues, descending, and what belongs to them.

    Attributes
    ----------
    values : (k,) float64 array
    vectors : (n, k) float64 array
        Orthonormal columns.
    residuals : (k,) float64 array
        The length of ``matrix @ v - value * v`` of each.
    passes : int
        How many products with a block were made.
    """

    values: np.ndarray
    vectors: np.ndarray
    residuals: np.ndarray
    passes: int


@one_blas_thread()
def largest_eigenpairs(
    product: Callable[[np.ndarray], np.ndarray],
    start: np.ndarray,
    k: int,
    *,
    is_good: Callable[[np.ndarray, np.ndarray], np.ndarray],
    max_passes: int,
    max_width: int,
) -> Eigenpairs:
    """Find the `k` largest eigenvalues of a symmetric matrix without negative ones.

    Parameters
    ----------
    product : function of an (n, b) array
        Returns the (n, b) product of the matrix with it.
    start : (n, b) array
        The first block, k columns or more; those beyond k make the others come faster.
    k : int
    is_good : function of (eigenvalues, residuals)
        Returns for each whether it is good enough.
    max_passes : int
        The most products with a block to make.
    max_width : int
        The most columns the basis may have; at least three times those of `start` are used.

    Returns
    -------
    Eigenpairs
        The best found; fewer than k where the matrix has no more dimensions.
    """
    n, width = start.shape
    max_width = min(n, max(max_width, 3 * width))
    basis = images = np.empty((n, 0))
    block, passes = start, 0
    while True:
        if basis.shape[1] + block.shape[1] > max_width:
            basis, images = _narrowed(basis, images, min(max_width - block.shape[1], 2 * width))
        block = beside(basis, block)
        if block.shape[1]:
            image, passes = np.asarray(product(block), np.float64), passes + 1
            basis, images = np.hstack([basis, block]), np.hstack([images, image])
        values, rotation = _ritz(basis, images)
        best = rotation[:, : min(width, rotation.shape[1])]
        vectors, rest = basis @ best, images @ best
        rest -= vectors * values[: best.shape[1]]
        residuals = np.linalg.norm(rest, axis=0)
        good = is_good(values[: best.shape[1]], residuals)
        if not block.shape[1] or passes >= max_passes or basis.shape[1] == n or good[:k].all():
            return Eigenpairs(values[:k], vectors[:, :k], residuals[:k], passes)
        # Of those beyond k what helps is their direction; they need not be good themselves.
        block = rest[:, ~good]


def _ritz(basis: np.ndarray, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the eigenvalues in a basis, descending, and their vectors' coordinates."""
    small = basis.T @ images
    values, rotation = eigh((small + small.T) / 2)
    return values[::-1], rotation[:, ::-1]


def _narrowed(basis: np.ndarray, images: np.ndarray, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Replace a basis by its best vectors."""
    rotation = _ritz(basis, images)[1][:, :width]
    return basis @ rotation, images @ rotation


def beside(basis: np.ndarray, block: np.ndarray) -> np.ndarray:
    """Return an orthonormal basis of what a block adds to a basis."""
    lengths = np.linalg.norm(block, axis=0)
    block = block[:, lengths > 0] / lengths[lengths > 0]
    for turn in range(2):  # the second takes off what rounding left of the basis
        block = block - basis @ (basis.T @ block)
        if not block.shape[1]:
            return block
        block, triangle, _ = qr(block, mode="economic", pivoting=True)
        sizes = np.abs(np.diagonal(triangle))
        block = block[:, sizes > (_LEFT if turn == 0 else 0.5)]
    return block
