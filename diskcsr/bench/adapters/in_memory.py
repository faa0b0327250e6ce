"""scipy.sparse in memory: the reference."""

from typing import Any

import numpy as np
from scipy.sparse import load_npz, save_npz

from ..source import Matrix
from .base import Adapter, Subscripted, shuffled


class Indexed(Subscripted):
    """Whatever indexes as scipy does: the matrix is `self.X`."""

    def load(self) -> Any:
        return self.X.copy()

    def sums(self) -> tuple[Any, Any]:
        return self.X.sum(axis=1), self.X.sum(axis=0)

    def matvec(self, x: np.ndarray) -> Any:
        return self.X @ x

    def rmatvec(self, y: np.ndarray) -> Any:
        return self.X.T @ y

    def gram(self, dense: np.ndarray) -> Any:
        return self.X.T @ (self.X @ dense)

    def describe(self) -> Any:
        if 0 in self.X.shape:
            return []
        # In single precision so many values lose what the variance is made of.
        wide = self.X.astype(np.result_type(self.X.dtype, np.float64))
        mean = wide.mean(axis=0)
        squares = abs(wide).power(2).mean(axis=0)
        ends = [] if wide.dtype.kind == "c" else [wide.min(axis=0), wide.max(axis=0)]
        return [mean, squares - abs(mean) ** 2, *(end.toarray() for end in ends)]

    def svds(self, k: int) -> Any:
        if k == 0:
            return np.zeros(0)
        from scipy.sparse import linalg

        X = self.X if self.X.dtype.kind in "fc" else self.X.astype(np.float64)
        return np.sort(linalg.svds(X, k, return_singular_vectors=False))[::-1]

    def minibatches(self, size: int, seed: int, block: int) -> Any:
        order = shuffled(self.X.shape[0], seed, block)
        return (self.X[order[i : i + size]] for i in range(0, order.size, size))


class InMemory(Indexed):
    """scipy in memory; writes with scipy.sparse.save_npz."""

    title = "scipy in memory"
    reads_files = True
    counts_reads = False
    note = "write: scipy.sparse.save_npz"

    def __init__(self, path: str, name: str, where: dict[str, Any]) -> None:
        super().__init__(path, name, where)
        self.X = Matrix(where).load() if where else load_npz(path)

    @classmethod
    def reopened(cls, path: str, where: dict[str, Any]) -> Adapter:
        return cls(path, "X", {})

    @classmethod
    def write(cls, path: str, matrix: Any, storage: dict[str, Any]) -> None:
        with open(path, "wb") as file:
            save_npz(file, matrix, compressed=storage.get("compression") not in (None, "raw"))
