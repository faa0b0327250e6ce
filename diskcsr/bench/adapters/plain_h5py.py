"""Three arrays read by hand with slices of h5py, as people do without a library."""

from typing import Any

import h5py
import numpy as np
from scipy.sparse import csr_array

from ...axis import CSR, axis_of
from ...storage.formats.detect import detect
from .base import Adapter, h5_filters, register_filters, shuffled

CHUNK = 1 << 16


class Sliced(Adapter):
    """Rows by a loop over slices: subclasses set data, indices, indptr, shape, axis."""

    data: Any
    indices: Any
    indptr: np.ndarray
    shape: tuple[int, int]
    axis: Any = CSR

    def rows(self, rows: np.ndarray) -> Any:
        if self.axis.major:
            raise NotImplementedError("rows of a matrix stored by columns")
        spans = [slice(int(self.indptr[i]), int(self.indptr[i + 1])) for i in rows]
        parts = [
            np.concatenate([dset[span] for span in spans] or [dset[:0]])
            for dset in (self.data, self.indices)
        ]
        indptr = np.concatenate([[0], np.cumsum([span.stop - span.start for span in spans])])
        return self.axis.array((*parts, indptr.astype(np.int64)), (len(rows), self.shape[1]))

    def runs(self, rows: np.ndarray) -> Any:
        return self.rows(rows)

    def mask(self, mask: np.ndarray) -> Any:
        return self.rows(np.flatnonzero(mask))

    def scalar(self, i: int, j: int) -> Any:
        i, j = self.axis.swap((i, j))
        span = slice(int(self.indptr[i]), int(self.indptr[i + 1]))
        values = self.data[span][self.indices[span] == j]
        return values.sum(dtype=self.data.dtype)

    def load(self) -> Any:
        return self.axis.array((self.data[:], self.indices[:], self.indptr), self.shape)

    def minibatches(self, size: int, seed: int, block: int) -> Any:
        order = shuffled(self.shape[0], seed, block)
        return (self.rows(order[i : i + size]) for i in range(0, order.size, size))


class PlainH5py(Sliced):
    """h5py, one slice a row."""

    title = "h5py by hand"
    by_plugin = True
    reads_files = True

    def __init__(self, path: str, name: str, where: dict[str, Any]) -> None:
        super().__init__(path, name, where)
        register_filters()
        self.file = h5py.File(path, "r")
        group = self.file[name]
        header = detect(group)
        if header.iso or header.dtype is not None or header.data is None:
            raise NotImplementedError("values that are not stored one by one")
        if group[header.data].dtype == "f2":
            raise NotImplementedError("scipy has no 16-bit floats")
        self.axis, self.shape = axis_of(header.format), header.shape
        self.data, self.indices = group[header.data], group[header.indices]
        self.indptr = group[header.indptr][:]

    def close(self) -> None:
        self.file.close()

    @classmethod
    def write(cls, path: str, matrix: Any, storage: dict[str, Any]) -> None:
        matrix = csr_array(matrix)
        with h5py.File(path, "w") as file:
            group = file.create_group("X")
            group.attrs["encoding-type"] = "csr_matrix"
            group.attrs["encoding-version"] = "0.1.0"
            group.attrs["shape"] = matrix.shape
            for name in ("data", "indices", "indptr"):
                values = getattr(matrix, name)
                chunk = (max(1, min(storage.get("chunks") or CHUNK, values.size)),)
                group.create_dataset(
                    name, data=values, chunks=chunk, maxshape=(None,), **h5_filters(storage)
                )
