"""h5sparse 0.1: one slice of rows, nothing else."""

from typing import Any

from .base import Adapter, h5_filters


class H5Sparse(Adapter):
    """h5sparse.File."""

    title = "h5sparse"
    by_plugin = True
    needs = ("h5sparse", "pkg_resources")
    brings = "diskcsr[bench-peers]"

    def __init__(self, path: str, name: str, where: dict[str, Any]) -> None:
        import h5sparse

        super().__init__(path, name, where)
        self.file = h5sparse.File(path, "r")
        self.X = self.file[name]

    def load(self) -> Any:
        return self.X[:]

    def close(self) -> None:
        self.file.close()

    @classmethod
    def write(cls, path: str, matrix: Any, storage: dict[str, Any]) -> None:
        import h5sparse
        from scipy.sparse import csr_matrix

        with h5sparse.File(path, "w") as file:
            chunks = (storage["chunks"],) if storage.get("chunks") else True
            data = csr_matrix(matrix)
            file.create_dataset("X", data=data, chunks=chunks, **h5_filters(storage))
