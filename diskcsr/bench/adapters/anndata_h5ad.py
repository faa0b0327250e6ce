"""anndata's backed sparse dataset in HDF5."""

from typing import Any, ClassVar

import h5py

from .base import Subscripted, h5_filters, register_filters


class AnnDataH5ad(Subscripted):
    """anndata.io.sparse_dataset: indexing and to_memory; it has no sums, products or batches."""

    title = "anndata (h5ad)"
    by_plugin = True
    needs: ClassVar[tuple[str, ...]] = ("anndata",)
    brings = "diskcsr[bench]"
    reads_files = True

    def __init__(self, path: str, name: str, where: dict[str, Any]) -> None:
        from anndata.io import sparse_dataset

        super().__init__(path, name, where)
        self.file = self._open(path)
        group = self.file[name]
        if not {"encoding-type", "h5sparse_format"} & set(group.attrs):
            raise NotImplementedError("reads its own format only")
        self.X = sparse_dataset(group)

    @staticmethod
    def _open(path: str) -> Any:
        register_filters()
        return h5py.File(path, "r")

    def load(self) -> Any:
        return self.X.to_memory()

    def close(self) -> None:
        self.file.close()

    @classmethod
    def write(cls, path: str, matrix: Any, storage: dict[str, Any]) -> None:
        from anndata.io import write_elem

        with h5py.File(path, "w") as file:
            write_elem(file, "X", matrix, dataset_kwargs=h5_filters(storage))
