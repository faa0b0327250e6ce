"""Drop from a block what a selection does not want on the minor axis."""

import numpy as np

from .. import kernels
from .selection import Selection

__all__ = ["Keep"]


class Keep:
    """Drops from a block what a selection does not want on the minor axis."""

    #: Up to this length of the minor axis a lookup table (a byte each) is made.
    TABLE = 1 << 28
    #: And up to this one the place of each among the wanted ones, of four bytes.
    PLACES = 1 << 22

    def __init__(self, selection: Selection, n_minor: int) -> None:
        wanted = selection.wanted
        self._points = selection.points
        self._wanted = None if wanted is None else np.asarray(wanted, dtype=np.int64)
        self.n_minor = n_minor if wanted is None else len(wanted)
        self._table: np.ndarray | None = None
        if self._wanted is not None and self._points is None and n_minor <= self.TABLE:
            self._table = np.zeros(n_minor, np.uint8)
            self._table[self._wanted] = 1
        self._places: np.ndarray | None = None
        if self._table is not None and n_minor <= self.PLACES:
            self._places = np.zeros(n_minor, np.int32)
            self._places[self._wanted] = np.arange(self.n_minor)

    def __call__(
        self, first: int, data: np.ndarray, indices: np.ndarray, indptr: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Filter the block whose rows begin at place `first` of the selection."""
        if self._wanted is None:
            return data, indices, indptr
        found = self._find(first, indices, indptr)
        minors = indices[found]
        if self._places is not None:
            kept = self._places[minors]
        else:
            kept = np.searchsorted(self._wanted, minors)
        starts = np.searchsorted(found, indptr).astype(indptr.dtype)
        return data[found], kept.astype(indices.dtype, copy=False), starts

    def _find(self, first: int, indices: np.ndarray, indptr: np.ndarray) -> np.ndarray:
        if indices.size == 0:
            return np.empty(0, np.int64)
        if self._points is not None:
            ptr, minor = self._points
            some = ptr[first : first + indptr.size]
            return kernels.rows.find_points(indptr, indices, some, minor)
        if self._table is not None:
            return kernels.rows.find_listed(indices, self._table)
        assert self._wanted is not None
        at = np.searchsorted(self._wanted, indices)
        at[at == self._wanted.size] = 0
        return np.flatnonzero(self._wanted[at] == indices)
