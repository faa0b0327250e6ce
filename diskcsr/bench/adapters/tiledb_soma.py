"""TileDB-SOMA's sparse array."""

from typing import Any

import numpy as np
from scipy.sparse import csr_array

from .base import Adapter


class TileDBSoma(Adapter):
    """tiledbsoma.SparseNDArray: reads by coordinates, in any order."""

    title = "tiledbsoma"
    needs = ("tiledbsoma", "pyarrow")
    brings = "diskcsr[bench-peers]"

    def __init__(self, path: str, name: str, where: dict[str, Any]) -> None:
        import tiledbsoma

        super().__init__(path, name, where)
        self.X = tiledbsoma.SparseNDArray.open(path)

    def _read(self, axis: int, which: Any) -> Any:
        coords: list[Any] = [slice(None), slice(None)]
        coords[axis] = slice(None) if which is None else np.unique(which)
        table = self.X.read(tuple(coords)).tables().concat()
        places = [table.column(f"soma_dim_{k}").to_numpy() for k in (0, 1)]
        data = table.column("soma_data").to_numpy()
        found = csr_array((data, tuple(places)), self.X.shape)
        if which is None:
            return found
        return found[which] if axis == 0 else found[:, which]

    def rows(self, rows: np.ndarray) -> Any:
        return self._read(0, rows)

    def runs(self, rows: np.ndarray) -> Any:
        return self._read(0, rows)

    def columns(self, columns: np.ndarray) -> Any:
        return self._read(1, columns)

    def load(self) -> Any:
        return self._read(0, None)

    def close(self) -> None:
        self.X.close()

    @classmethod
    def write(cls, path: str, matrix: Any, storage: dict[str, Any]) -> None:
        import shutil

        import pyarrow as pa
        import tiledbsoma

        shutil.rmtree(path, ignore_errors=True)
        kind = pa.from_numpy_dtype(matrix.dtype)
        with tiledbsoma.SparseNDArray.create(path, type=kind, shape=matrix.shape) as array:
            array.write(pa.SparseCOOTensor.from_scipy(matrix.tocoo()))
