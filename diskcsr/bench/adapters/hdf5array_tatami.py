"""hdf5array (BiocPy): a delayed sparse matrix in HDF5."""

from typing import Any

import numpy as np

from .plain_h5py import PlainH5py


class Hdf5Array(PlainH5py):
    """hdf5array.Hdf5CompressedSparseMatrix, through delayedarray."""

    title = "hdf5array"
    needs = ("hdf5array", "delayedarray")
    brings = "diskcsr[bench-peers]"
    writes = False
    reads_files = False
    mask: Any = None
    scalar: Any = None
    minibatches: Any = None
    note = "the Python port of the R package"

    def __init__(self, path: str, name: str, where: dict[str, Any]) -> None:
        import hdf5array

        super().__init__(path, name, where)
        self.X = hdf5array.Hdf5CompressedSparseMatrix(
            path, name, shape=self.shape, by_column=bool(self.axis.major)
        )

    def _extract(self, rows: Any, columns: Any) -> Any:
        import delayedarray

        return delayedarray.to_scipy_sparse_matrix(
            delayedarray.extract_sparse_array(self.X, (rows, columns)), "csr"
        )

    def rows(self, rows: np.ndarray) -> Any:
        unique, back = np.unique(rows, return_inverse=True)
        return self._extract(unique, range(self.shape[1]))[back]

    def columns(self, columns: np.ndarray) -> Any:
        unique, back = np.unique(columns, return_inverse=True)
        return self._extract(range(self.shape[0]), unique)[:, back]

    def load(self) -> Any:
        return self._extract(range(self.shape[0]), range(self.shape[1]))
