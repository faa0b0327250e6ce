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
