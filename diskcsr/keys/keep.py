"""Drop from a block what a selection does not want on the minor axis."""

import numpy as np

from .. import kernels
from .selection import Selection

__all__ = ["Keep"]


class Keep:
    """Drops from a block what a selection does not want on the minor axis."""

    #: Up to this length of the minor axis a table of places (four bytes each) is made.
    TABLE = 1 << 26

    def __init__(self, selection: Selection, n_minor: int) -> None:
        wanted = selection.wanted
        self._points = selection.points
        self._wanted = None if wanted is None else np.asarray(wanted, dtype=np.int64)
        self.n_minor = n_minor if wanted is None else len(wanted)
        self._places: np.ndarray | None = None
        if self._wanted is not None and self._points is None and n_minor <= self.TABLE:
            # Zeros take no memory before they are looked at.
            self._places = np.zeros(max(1, n_minor), np.int32)
            self._places[self._wanted] = np.arange(1, self.n_minor + 1)

    def __call__(
        self, first: int, data: np.ndarray, indices: np.ndarray, indptr: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Filter the block whose rows begin at place `first` of the selection."""
        if self._wanted is None:
            return data, indices, indptr
        if self._places is not None:
            found, kept, starts = kernels.rows.find_listed(indices, indptr, self._places)
            return data.take(found), kept, starts
        found = self._find(first, indices, indptr)
        kept = np.searchsorted(self._wanted, indices[found])
        starts = np.searchsorted(found, indptr).astype(indptr.dtype)
        return data[found], kept.astype(indices.dtype, copy=False), starts

    def _find(self, first: int, indices: np.ndarray, indptr: np.ndarray) -> np.ndarray:
        if indices.size == 0:
            return np.empty(0, np.int64)
        if self._points is not None:
            ptr, minor = self._points
            some = ptr[first : first + indptr.size]
            return kernels.rows.find_points(indptr, indices, some, minor)
        assert self._wanted is not None
        at = np.searchsorted(self._wanted, indices)
        at[at == self._wanted.size] = 0
        return np.flatnonzero(self._wanted[at] == indices)
