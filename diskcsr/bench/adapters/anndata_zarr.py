"""anndata's backed sparse dataset in zarr."""

from typing import Any

from .anndata_h5ad import AnnDataH5ad


class AnnDataZarr(AnnDataH5ad):
    """As in HDF5, over a zarr group with zarr's own compression."""

    title = "anndata (zarr)"
    needs = ("anndata", "zarr")
    brings = "diskcsr[bench-peers]"
    reads_files = False
    note = "zarr's default compression"

    @staticmethod
    def _open(path: str) -> Any:
        import zarr

        return zarr.open_group(path, mode="r")

    def close(self) -> None:
        self.file.store.close()

    @classmethod
    def write(cls, path: str, matrix: Any, storage: dict[str, Any]) -> None:
        import zarr
        from anndata.io import write_elem

        write_elem(zarr.open_group(path, mode="w"), "X", matrix)
