"""BPCells' compressed directory, through its Python package."""

from typing import Any

import numpy as np

from .base import Adapter


class BPCells(Adapter):
    """bpcells.experimental.DirMatrix: whole numbers, given back as the type asked for."""

    title = "BPCells"
    needs = ("bpcells",)
    brings = "diskcsr[bench-peers] with Python 3.11 or 3.12"
    note = "keeps unsigned 32-bit integers only"

    def __init__(self, path: str, name: str, where: dict[str, Any]) -> None:
        from bpcells.experimental import DirMatrix

        from ..source import Matrix

        super().__init__(path, name, where)
        self.X = DirMatrix(path)
        self.dtype = Matrix(where).dtype

    def rows(self, rows: np.ndarray) -> Any:
        return self.X[rows.tolist(), :].astype(self.dtype)

    def runs(self, rows: np.ndarray) -> Any:
        return self.rows(rows)

    def columns(self, columns: np.ndarray) -> Any:
        return self.X[:, columns.tolist()].astype(self.dtype)

    def load(self) -> Any:
        return self.X[:, :].astype(self.dtype)

    @classmethod
    def write(cls, path: str, matrix: Any, storage: dict[str, Any]) -> None:
        import shutil

        from bpcells.experimental import DirMatrix
        from scipy.sparse import csr_matrix

        if np.any(matrix.data != np.rint(matrix.data)):
            raise NotImplementedError("keeps whole numbers only")
        shutil.rmtree(path, ignore_errors=True)
        DirMatrix.from_scipy_sparse(csr_matrix(matrix).astype(np.uint32), path)
