"""The one file that knows rows from columns; everywhere else it is *major* and *minor*."""

from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import numpy as np
from scipy.sparse import csc_array, csc_matrix, csr_array, csr_matrix

__all__ = ["CSC", "CSR", "VALUES", "Axis", "axis_of", "matrix_of"]

#: The types of values that scipy has sparse matrices of.
VALUES = frozenset("?bBhHiIlLqQfdgFDG")


@dataclass(frozen=True)
class Axis:
    """Which axis of a matrix its compressed storage runs along.

    Attributes
    ----------
    format : {"csr", "csc"}
        scipy's name of the storage format.
    major : {0, 1}
        The axis ``indptr`` runs along: 0 (rows) for CSR, 1 (columns) for CSC.
    array, matrix : type
        scipy's in-memory classes of this format.
    """

    format: str
    major: int
    array: Any
    matrix: Any

    @property
    def minor(self) -> int:
        """The other axis: the one ``indices`` point along."""
        return 1 - self.major

    @property
    def majors(self) -> str:
        """What the major axis counts, in a user's words."""
        return ("rows", "columns")[self.major]

    @property
    def keeps_rows(self) -> bool:
        """Whether rows are what lies together; iterating over a matrix goes over its rows."""
        return self.major == 0

    def swap(self, pair: Any) -> tuple[Any, Any]:
        """Turn a (row, column) pair into (major, minor), or back: it is its own inverse.

        Examples
        --------
        >>> CSR.swap((3, 5)), CSC.swap((3, 5))
        ((3, 5), (5, 3))
        """
        first, second = pair
        return (first, second) if self.major == 0 else (second, first)

    def swapped(self, dense: Any) -> Any:
        """View a dense (row, column) array as (major, minor), or back."""
        return dense if self.major == 0 else dense.T

    def across(self, compressed: Any) -> Any:
        """View a compressed array of this axis as the csr_array of (major, minor) it is."""
        return compressed if self.major == 0 else compressed.T

    def holds(self, matrix: Any) -> bool:
        """Whether a sparse matrix of scipy's is compressed along this axis."""
        return bool(matrix.format == self.format)

    @property
    def dense_order(self) -> Literal["C", "F"]:
        """The memory order in which a dense array is filled fastest: scipy's default too."""
        return "C" if self.major == 0 else "F"

    @property
    def transposed(self) -> "Axis":
        """The axis of the transpose over the same three arrays."""
        return CSC if self is CSR else CSR


CSR = Axis("csr", 0, csr_array, csr_matrix)
CSC = Axis("csc", 1, csc_array, csc_matrix)


def axis_of(name: str) -> Axis:
    """Return the axis of a scipy format name.

    Raises
    ------
    ValueError
        When `name` is neither ``"csr"`` nor ``"csc"``.
    """
    for axis in (CSR, CSC):
        if axis.format == name:
            return axis
    raise ValueError(f"format must be 'csr' or 'csc', not {name!r}")


@cache
def _blank(container: Any) -> dict[str, Any]:
    """What scipy keeps in a matrix, beside arrays and shape."""
    own = ("data", "indices", "indptr", "_shape")
    return {name: value for name, value in vars(container((0, 0))).items() if name not in own}


def matrix_of(
    container: Any, arrays: tuple[np.ndarray, np.ndarray, np.ndarray], shape: tuple[int, int]
) -> Any:
    """Make scipy's matrix of arrays that are known to be sound and of their full length.

    It is ``container(arrays, shape=shape)``. scipy would look at the arrays again, which takes as
    long as fetching a dozen rows.

    Parameters
    ----------
    container : type
        csr_array, csc_array or the matrix flavour of one.
    arrays : (data, indices, indptr)
    shape : (int, int)

    Examples
    --------
    >>> import numpy as np
    >>> arrays = np.array([5.0]), np.array([1], np.int32), np.array([0, 1], np.int32)
    >>> matrix_of(csr_array, arrays, (1, 2)).toarray()
    array([[0., 5.]])
    """
    data, indices, indptr = arrays
    if not (indices.dtype == indptr.dtype == np.int32 and data.dtype.char in VALUES):
        return container(arrays, shape=shape)  # scipy may have them otherwise
    matrix = object.__new__(container)
    vars(matrix).update(_blank(container), data=data, indices=indices, indptr=indptr, _shape=shape)
    return matrix
