"""Multiplying: matrix products with what is dense, what is sparse, and what is in a file."""

from typing import Any

import numpy as np
from scipy.sparse import issparse

from ..compute import gram, products, sparse_products
from ..machine.progress import Progress
from .handle import Handle

__all__ = ["Multiplying", "gram_product"]


class Multiplying(Handle):
    """The part of a disk array that multiplies; `dot` of scipy comes here, too."""

    def __matmul__(self, other: Any) -> Any:
        return self._times(other, False)

    def __rmatmul__(self, other: Any) -> Any:
        return self._times(other, True)

    def _times(self, other: Any, reflected: bool) -> Any:
        """Return ``self @ other``, or ``other @ self``, without loading this matrix."""
        own = sparse_products.Factor(self._contents(), self._scipy_class)
        if not issparse(other):
            return products.times_dense(own.matrix, own.container, other, reflected)
        if isinstance(other, Handle):
            theirs = sparse_products.Factor(other._contents(), other._scipy_class)
        else:
            theirs = sparse_products.Factor(other, type(other))
        return sparse_products.times(*((theirs, own) if reflected else (own, theirs)))


def gram_product(A: Any, dense: Any, *, progress: Progress = None) -> Any:
    """Return ``A.T @ (A @ dense)``, in one pass of the file.

    Each step of an iterative singular value decomposition, and each of ridge regression, is such a
    product; made of two it takes two passes.

    Parameters
    ----------
    A : DiskCSR, DiskCSC, or a sparse array in memory
        Of a DiskCSC it takes two passes.
    dense : (n,) or (n, k) array_like
        As many rows as `A` has columns.
    progress : None, bool or callable
        True shows a bar; a function is called with bytes done and bytes in all; default
        ``diskcsr.options.progress``.

    Returns
    -------
    (n,) or (n, k) array
        Of the dtype that the two products would have. The number of threads changes no bit of it.

    Raises
    ------
    ValueError
        When the shapes do not fit.
    MemoryBudgetError
        When the result does not fit the memory budget.

    Notes
    -----
    Of complex values `A.T` is the transpose, not its conjugate.

    Examples
    --------
    >>> import diskcsr, numpy as np, os, scipy.sparse as sp, tempfile
    >>> path = os.path.join(tempfile.mkdtemp(), "m.h5")
    >>> A = diskcsr.write(path, sp.csr_array([[1, 0, 2], [0, 3, 0]]))
    >>> diskcsr.gram_product(A, np.eye(3))
    array([[1., 0., 2.],
           [0., 9., 0.],
           [2., 0., 4.]])
    """
    if not isinstance(A, Handle):
        return A.T @ (A @ dense)
    if issparse(dense):
        raise TypeError("gram_product multiplies by a dense array; A.T @ (A @ B) takes a sparse B")
    return gram.gram_product(A._contents(), A._scipy_class, np.asarray(dense), progress)
