"""Three zarr arrays read by hand."""

from typing import Any

from scipy.sparse import csr_array

from .plain_h5py import CHUNK, Sliced


class PlainZarr(Sliced):
    """zarr, one slice a row."""

    title = "zarr by hand"
    needs = ("zarr",)
    brings = "diskcsr[bench-peers]"
    note = "zarr's default compression"

    def __init__(self, path: str, name: str, where: dict[str, Any]) -> None:
        import zarr

        super().__init__(path, name, where)
        group: Any = zarr.open_group(path, mode="r")
        self.data, self.indices, self.indptr = group["data"], group["indices"], group["indptr"][:]
        self.shape = tuple(group.attrs["shape"])

    @classmethod
    def write(cls, path: str, matrix: Any, storage: dict[str, Any]) -> None:
        import zarr

        matrix = csr_array(matrix)
        group = zarr.open_group(path, mode="w")
        group.attrs["shape"] = list(matrix.shape)
        for name in ("data", "indices", "indptr"):
            values = getattr(matrix, name)
            chunk = max(1, min(storage.get("chunks") or CHUNK, values.size))
            array = group.create_array(
                name, shape=values.shape, dtype=values.dtype, chunks=(chunk,)
            )
            array[:] = values
