"""The largest singular values, and principal components as a function."""

from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from scipy.sparse import issparse

from ..compute.gram import Totals, gram_and_totals, gram_matrix, in_singles, products_and_gram
from ..compute.svd import Products, Triplets, singular_triplets
from ..protocol.handle import contents_of
from ..protocol.multiplying import gram_product
from ..protocol.reducing import describe

__all__ = ["PCAResult", "pca", "svds"]

#: The share of the squares that the variance is at least for one to be taken off the other.
_LOST = 1e-6


def svds(
    A: Any,
    k: int = 6,
    *,
    rng: np.random.Generator | int | None = None,
    tol: float = 1e-6,
    max_passes: int = 50,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the largest singular values and their vectors, in few passes of the file.

    Parameters
    ----------
    A : DiskCSR, DiskCSC, lazy array, or a sparse array in memory
        (m, n), of real numbers.
    k : int
        How many; at least 1 and at most ``min(m, n)``.
    rng : numpy.random.Generator, int or None
        Of the vectors the iteration begins with. With the same one the same bits come out, whatever
        the number of threads.
    tol : float
        The iteration ends when for each of the k ``norm(A.T @ u - s * v) <= tol * s[0]``. The
        error of a singular value is then of the order of ``tol**2``, that of a vector of ``tol``
        times ``s[0]`` over the distance of its value from the next.
    max_passes : int
        The iteration ends after so many products with a block, with a warning if `tol` is not met.

    Returns
    -------
    U : (m, k) float64 array
    s : (k,) float64 array
        Descending, as of `numpy.linalg.svd`; `scipy.sparse.linalg.svds` has them ascending.
    Vt : (k, n) float64 array
        The number furthest from zero in each row is positive.

    Raises
    ------
    ValueError
        When there are not `k` singular values, or `A` is complex.

    Warns
    -----
    RuntimeWarning
        When `max_passes` were made before `tol` was met.

    Notes
    -----
    A block Davidson iteration on ``A.T @ A``, or ``A @ A.T`` where there are fewer rows, which
    spans the Krylov space of [1]_; each product is one pass of a file whose lines lie along the
    longer axis, and two of others. Of log counts of cells 50 vectors took 10 to 20 passes for `tol`
    of 1e-4; for 1e-6 about three more are needed. One of them gives `U`. To begin with the vectors
    of a sample of the rows spares no pass, unless rare rows are left out of account. Up to 5,000
    columns with short rows ``A.T @ A`` itself is computed in one pass instead. Singular values
    below about 1e-8 of the first are not told from zero.

    Where `tol` is 1e-5 or more, values in single precision that are stored by rows are multiplied
    in it, in half of the time, and what comes out is added up in doubles. The last pass computes
    the residuals in doubles; where they are above `tol` the iteration goes on in doubles from
    there. So it is where values are far from zero and near each other. A lazy array that is divided
    by doubles is one of doubles.

    Memory is that of the result, and of up to 16 blocks of ``k + max(10, k / 5)`` vectors along
    the shorter axis.

    References
    ----------
    .. [1] C. Musco and C. Musco, "Randomized block Krylov methods for stronger and faster
       approximate singular value decomposition", 2015, arXiv:1504.05477.

    Examples
    --------
    >>> import diskcsr, numpy as np, os, scipy.sparse as sp, tempfile
    >>> path = os.path.join(tempfile.mkdtemp(), "m.h5")
    >>> A = diskcsr.write(path, sp.csr_array(np.diag([3.0, 1.0, 2.0])))
    >>> U, s, Vt = diskcsr.linalg.svds(A, 2, rng=0)
    >>> s
    array([3., 2.])
    """
    products, k = _products_of(A, k)
    found = _triplets(products, k, rng, tol, max_passes)
    return found.u, found.s, found.vt


@dataclass(frozen=True)
class PCAResult:
    """Principal components, in the shapes that scikit-learn's PCA has.

    Attributes
    ----------
    scores : (m, k) float64 array
        The rows of the matrix in the space of the components.
    components : (k, n) float64 array
        Orthonormal rows; of each the number furthest from zero is positive.
    explained_variance, explained_variance_ratio, singular_values : (k,) float64 array
        Of the centred (and scaled) matrix; variances divide by m - 1.
    mean : (n,) float64 array
        What was taken off each column, before it was scaled; zeros without centring.
    scale : (n,) float64 array
        What each column was divided by; ones without scaling.
    passes : int
        How often the file was gone through, statistics and scores included.
    """

    scores: np.ndarray
    components: np.ndarray
    explained_variance: np.ndarray
    explained_variance_ratio: np.ndarray
    singular_values: np.ndarray
    mean: np.ndarray
    scale: np.ndarray
    passes: int


def pca(
    A: Any,
    k: int,
    *,
    center: bool = True,
    scale: bool = False,
    rng: np.random.Generator | int | None = None,
    tol: float = 1e-6,
    max_passes: int = 50,
) -> PCAResult:
    """Find the principal components of the rows; nothing becomes dense.

    Parameters
    ----------
    A : DiskCSR, DiskCSC, lazy array, or a sparse array in memory
        (m, n), m at least 2, of real numbers: m rows of n features.
    k : int
        How many components.
    center : bool
        Whether the mean of each column is taken off. It is taken off the products.
    scale : bool
        Whether each column is divided by its standard deviation (with m - 1); columns that do not
        vary are left as they are.
    rng, tol, max_passes
        As of `svds`.

    Returns
    -------
    PCAResult

    Raises
    ------
    ValueError
        As `svds`, and where there are fewer than two rows.

    Warns
    -----
    RuntimeWarning
        As `svds`.

    Notes
    -----
    It is `svds`, the last pass of which gives the scores. Means and variances come with the first
    pass over rows on disk; they take one of their own where columns are scaled, where there are
    fewer rows than columns, and where columns vary so little that their squares do not show it.

    Examples
    --------
    >>> import diskcsr, numpy as np, os, scipy.sparse as sp, tempfile
    >>> path = os.path.join(tempfile.mkdtemp(), "m.h5")
    >>> dense = np.array([[1.0, 2.0, 0.0], [3.0, 6.0, 0.0], [5.0, 10.0, 0.0]])
    >>> found = diskcsr.linalg.pca(diskcsr.write(path, sp.csr_array(dense)), 1, rng=0)
    >>> found.explained_variance.round(6), found.explained_variance_ratio.round(6)
    (array([20.]), array([1.]))
    """
    m = A.shape[0]
    if m < 2:
        raise ValueError(f"there is no variance with n_samples={m}: pca takes at least two rows")
    products, k = _products_of(A, k)
    moments = _Moments(A)
    if not scale:
        products = moments.by_the_way(products)
    factor = np.ones(A.shape[1])
    if scale:
        factor = np.sqrt(np.where(moments.variance > 0, moments.variance, 1))
        A = (A.lazy if contents_of(A) is not None else A) / factor[None]
        products, k = _products_of(A if contents_of(A) is not None else A.tocsr(), k)
    products = products.centred(lambda: moments.mean / factor) if center else products
    triplets = _triplets(products, k, rng, tol, max_passes)
    total = float((moments.variance / factor**2).sum()) if scale else moments.total(center)
    if scale and not center:
        total += float(((moments.mean / factor) ** 2).sum()) * m / (m - 1)
    explained = triplets.s**2 / (m - 1)
    scores = triplets.u
    scores *= triplets.s
    return PCAResult(
        scores=scores,
        components=triplets.vt,
        explained_variance=explained,
        explained_variance_ratio=explained / total if total else np.zeros_like(explained),
        singular_values=triplets.s,
        mean=moments.mean if center else np.zeros_like(factor),
        scale=factor,
        passes=triplets.passes + moments.passes,
    )


class _Moments:
    """Means and variances of the columns: found by the way, or else in a pass of their own."""

    def __init__(self, A: Any) -> None:
        self._A = A
        self._totals: Totals | None = None
        self._described: tuple[np.ndarray, np.ndarray] | None = None

    def by_the_way(self, products: Products) -> Products:
        """Return the products, the first of which finds the means, too."""
        shown = _by_rows(self._A)
        if shown is None:
            return products

        def gram(block: np.ndarray) -> np.ndarray:
            if self._totals is not None:
                return products.gram(block)
            result, self._totals = gram_and_totals(shown, block, totals=True)
            return result

        def whole(singles: bool) -> np.ndarray:
            if self._totals is not None:
                return products.gram_matrix(singles)
            totals = Totals.of_nothing(shown.n_minor)
            result = gram_matrix(shown, singles=singles, totals=totals)
            self._totals = totals
            return result

        return products._replace(gram=gram, gram_matrix=whole)

    @property
    def passes(self) -> int:
        """How many passes of the file were made for them alone."""
        return int(self._described is not None)

    @property
    def mean(self) -> np.ndarray:
        """The (n,) means."""
        return self._describe()[0] if self._totals is None else self._totals.sums / self._A.shape[0]

    @property
    def variance(self) -> np.ndarray:
        """The (n,) variances, with one less than there are rows."""
        return self._describe()[1]

    def total(self, center: bool) -> float:
        """Return the sum of the variances, or of those around zero."""
        m = self._A.shape[0]
        around = m * float(self.mean @ self.mean)
        if self._totals is not None:
            squares = float(self._totals.squares[0])
            # Of columns far from zero, as of time stamps, it is lost in the squares.
            if not center or not squares - around < _LOST * squares:
                return (squares - around if center else squares) / (m - 1)
        return float(self.variance.sum()) + (0 if center else around / (m - 1))

    def _describe(self) -> tuple[np.ndarray, np.ndarray]:
        if self._described is None:
            self._described = _moments(self._A)
        return self._described


def _moments(A: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return means and variances (with one less than there are rows) of the columns."""
    if contents_of(A) is not None:
        found = describe(A, 0, ddof=1)
        return np.asarray(found.mean, np.float64), np.asarray(found.variance, np.float64)
    m = A.shape[0]
    mean = np.asarray(A.sum(axis=0, dtype=np.float64)).reshape(-1) / m
    centred = A.astype(np.float64).tocsc(copy=True)
    centred.sum_duplicates()
    columns = np.repeat(np.arange(A.shape[1]), np.diff(centred.indptr))
    centred.data -= mean[columns]
    squares = np.bincount(columns, centred.data**2, A.shape[1])
    return mean, (squares + (m - np.diff(centred.indptr)) * mean**2) / (m - 1)


def _products_of(A: Any, k: int) -> tuple[Products, int]:
    """Check what is to be decomposed; return what is asked of it."""
    if not issparse(A) or A.ndim != 2:
        raise TypeError(f"a sparse matrix is decomposed here, not {type(A).__name__}")
    if A.dtype.kind == "c":
        raise ValueError("complex matrices are not decomposed here: scipy.sparse.linalg.svds is")
    if int(k) != k or not 1 <= k <= min(A.shape):
        raise ValueError(f"k must be from 1 to {min(A.shape)} of shape {A.shape}, not {k!r}")
    shown, rows = contents_of(A), _by_rows(A)
    singles = rows is not None and in_singles(rows)

    def gram(block: np.ndarray) -> np.ndarray:
        if rows is None:
            return gram_product(A, block)
        return gram_and_totals(rows, block, totals=False)[0]

    products = Products(
        A.shape,
        A.nnz if shown is None else shown.elements,
        gram=gram,
        gram_of_rows=lambda block: gram_product(A.T, block),
        forth=lambda block: A @ block,
        back=lambda block: A.T @ block,
        gram_matrix=partial(_gram_matrix, A),
        checked=partial(products_and_gram, rows) if singles else None,
    )
    return products, int(k)


def _gram_matrix(A: Any, singles: bool) -> np.ndarray:
    shown = _by_rows(A)
    if shown is None:
        return np.asarray(A.T @ (A @ np.eye(A.shape[1])))
    return gram_matrix(shown, singles=singles)


def _by_rows(A: Any) -> Any:
    """Return what a pass goes over of a matrix on disk, or a lazy one, by rows; None of others."""
    shown = contents_of(A)
    return shown if shown is not None and shown.axis.keeps_rows else None


def _triplets(products: Products, k: int, rng: Any, tol: float, max_passes: int) -> Triplets:
    return singular_triplets(
        products, k, np.random.default_rng(rng), tol=tol, max_passes=max_passes
    )
