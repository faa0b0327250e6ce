"""Reducing: sums, extremes and statistics of a whole matrix, in one pass of the file.

Each gives what scipy's method of the name gives, in memory that does not grow with the matrix:
nothing is handed out, nothing is kept. Beside its result an operation takes a few MB a thread, and
along the minor axis a state for each minor index, for at most 16 parts of the matrix at a time and
128 MiB in all (or one state, when that takes more).
"""

from typing import Any

from ..compute.extremes import extreme_of, place_of
from ..compute.norms import norm_of
from ..compute.statistics import (
    Description,
    count_of,
    description_of,
    diagonal_of,
    variance_of,
)
from ..compute.sums import mean_of, sum_of
from .handle import Handle, contents_of

__all__ = ["Reducing", "describe", "norm"]


class Reducing(Handle):
    """The part of a disk array that adds up and compares."""

    def sum(self, axis: Any = None, dtype: Any = None, out: Any = None) -> Any:
        """Sum over an axis, or over all elements, as in scipy.

        Single precision is added up in double. Doubles are added up with what rounding loses,
        except across the lines that lie together, which scipy's plain sums are no better at. Of a
        whole matrix, and across its storage order, no more is read than is needed.

        Takes 8 (of complex numbers 16) bytes for each minor index, where these are summed.
        """
        return sum_of(self._contents(), self._scipy_class, axis, dtype, out)

    def mean(self, axis: Any = None, dtype: Any = None, out: Any = None) -> Any:
        """Mean over an axis, or over all elements, as in scipy; see `sum`."""
        return mean_of(self._contents(), self._scipy_class, axis, dtype, out)

    def var(self, axis: Any = None, dtype: Any = None, out: Any = None, *, ddof: float = 0) -> Any:
        """Variance over an axis, or over all elements: `numpy.var` of the dense array.

        Parameters
        ----------
        axis, dtype, out
            As of `mean`.
        ddof : float
            What is subtracted from the number of elements that the sum of squares is divided by.

        Returns
        -------
        number, ndarray or numpy.matrix
            In the form of a mean: 1-D of arrays, 2-D of matrices.

        Notes
        -----
        Takes about 70 bytes for each minor index, where these are what there is a result for.
        """
        return variance_of(self._contents(), self._scipy_class, axis, dtype, out, ddof)

    def std(self, axis: Any = None, dtype: Any = None, out: Any = None, *, ddof: float = 0) -> Any:
        """Standard deviation: the square root of `var`."""
        return variance_of(self._contents(), self._scipy_class, axis, dtype, out, ddof, root=True)

    def max(self, axis: Any = None, out: Any = None, *, explicit: bool = False) -> Any:
        """Maximum over an axis, or over all elements, as in scipy; takes what `var` does."""
        return extreme_of(self._contents(), self._scipy_class, "max", axis, out, explicit)

    def min(self, axis: Any = None, out: Any = None, *, explicit: bool = False) -> Any:
        """Minimum over an axis, or over all elements, as in scipy; takes what `var` does."""
        return extreme_of(self._contents(), self._scipy_class, "min", axis, out, explicit)

    def nanmax(self, axis: Any = None, out: Any = None, *, explicit: bool = False) -> Any:
        """Maximum but for NaN, as in scipy; takes what `var` does."""
        return extreme_of(self._contents(), self._scipy_class, "nanmax", axis, out, explicit)

    def nanmin(self, axis: Any = None, out: Any = None, *, explicit: bool = False) -> Any:
        """Minimum but for NaN, as in scipy; takes what `var` does."""
        return extreme_of(self._contents(), self._scipy_class, "nanmin", axis, out, explicit)

    def argmax(self, axis: Any = None, out: Any = None, *, explicit: bool = False) -> Any:
        """Where the maximum is, as in scipy; takes about 40 bytes a row or minor index."""
        return place_of(self._contents(), self._scipy_class, "argmax", axis, out, explicit)

    def argmin(self, axis: Any = None, out: Any = None, *, explicit: bool = False) -> Any:
        """Where the minimum is, as in scipy; takes about 40 bytes a row or minor index."""
        return place_of(self._contents(), self._scipy_class, "argmin", axis, out, explicit)

    def count_nonzero(self, axis: Any = None) -> Any:
        """Count what is not zero, entries of one place added up before; takes what `var` does."""
        return count_of(self._contents(), self._scipy_class, axis)

    def diagonal(self, k: int = 0) -> Any:
        """Return the `k`-th diagonal, as in scipy; only lines that it meets are read."""
        return diagonal_of(self._contents(), self._scipy_class, k)


def describe(
    array: Any, axis: int | None = 0, *, ddof: float = 1, progress: Any = None
) -> Description:
    """Describe a matrix on disk: counts, sum, mean, variance, least and largest, in one pass.

    Parameters
    ----------
    array : DiskCSR or DiskCSC
    axis : {0, 1, None}
        Along which axis; 0 gives numbers for each column, 1 for each row, None for all elements.
    ddof : float
        The sum of squares is divided by the number of elements less this; as in
        `scipy.stats.describe` 1 unless said otherwise.
    progress : bool or callable, optional
        True shows a bar; a function is called with bytes done and bytes in all. Default:
        ``diskcsr.options.progress``.

    Returns
    -------
    Description
        A named tuple of `count`, `stored`, `sum`, `mean`, `variance`, `min`, `max` and `nonzeros`;
        elements that are not stored count as the zeros that they are.

    Raises
    ------
    TypeError
        When `array` is no matrix on disk.
    ValueError
        When there is no such axis, or nothing along it.

    Notes
    -----
    Takes about 70 bytes for each minor index (for each column of a DiskCSR, where `axis` is 0), and
    a few MB a thread, however large the matrix is.

    Examples
    --------
    >>> import diskcsr, os, scipy.sparse as sp, tempfile
    >>> path = os.path.join(tempfile.mkdtemp(), "m.h5")
    >>> A = diskcsr.write(path, sp.csr_array([[1, 0, 2], [3, 0, 0]]))
    >>> found = diskcsr.describe(A, axis=0)
    >>> found.sum.tolist(), found.nonzeros.tolist(), found.max.tolist()
    ([4, 0, 2], [2, 0, 1], [3, 0, 2])
    """
    contents = contents_of(array)
    if contents is None:
        raise TypeError(f"describe takes a matrix on disk, not {type(array).__name__}")
    if axis not in (0, 1, -1, -2, None):
        raise ValueError(f"axis must be 0, 1 or None, not {axis!r}")
    axis = None if axis is None else axis % 2
    if 0 in (contents.shape if axis is None else contents.shape[axis : axis + 1]):
        raise ValueError(f"there is nothing to describe along axis {axis} of {contents.shape}")
    return description_of(contents, axis, ddof, progress)


def norm(array: Any, ord: Any = None, axis: Any = None) -> Any:
    """Norm of a matrix on disk, or of its rows or columns, in one pass.

    Parameters
    ----------
    array : DiskCSR or DiskCSC
    ord, axis
        As of `scipy.sparse.linalg.norm`: of a matrix None or "fro", 1, -1, numpy.inf and
        -numpy.inf; of vectors these numbers, 0 and any power, None being 2.

    Returns
    -------
    number or (n,) array

    Raises
    ------
    TypeError, ValueError
        As scipy raises them, and a TypeError when `array` is no matrix on disk.
    NotImplementedError
        For `ord` 2 of a matrix: ``svds(A, k=1)`` of scipy finds it.

    Notes
    -----
    `scipy.sparse.linalg.norm` gives the same, but asks for `A.data`, or for ``abs(A)``, and so has
    all values in memory. Takes 8 bytes, with an infinite `ord` about 70, for each minor index.

    Examples
    --------
    >>> import diskcsr, os, scipy.sparse as sp, tempfile
    >>> path = os.path.join(tempfile.mkdtemp(), "m.h5")
    >>> A = diskcsr.write(path, sp.csr_array([[3.0, 0.0], [4.0, 0.0]]))
    >>> float(diskcsr.norm(A)), diskcsr.norm(A, 1, axis=0).tolist()
    (5.0, [7.0, 0.0])
    """
    contents = contents_of(array)
    if contents is None:
        raise TypeError(f"norm takes a matrix on disk, not {type(array).__name__}")
    return norm_of(contents, array._scipy_class, ord, axis)
