"""The matrix that is measured, and the right answers: plain arrays or h5py, never diskcsr's engine.

A generated matrix lies in a folder as three flat files, which may be larger than memory; a user's
own stays in its file and is read with h5py. Answers are put together block by block.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from scipy.sparse import csr_array, hstack, issparse, vstack

from ..axis import CSR, Axis, axis_of
from ..machine.options import require_memory
from ..storage.files.files import open_to_read
from ..storage.formats.detect import detect

__all__ = ["Matrix", "digest", "generate", "row_marks"]

BLOCK_BYTES = 1 << 26


def generate(folder: Path, blocks: Iterable[Any]) -> dict[str, Any]:
    """Append blocks of rows to flat files of `folder`; return what `Matrix` takes."""
    folder.mkdir()
    indptr, shape, dtype = [np.zeros(1, np.int64)], (0, 0), "f4"
    with (folder / "data").open("wb") as data, (folder / "indices").open("wb") as indices:
        for block in blocks:
            block.data.tofile(data)
            block.indices.astype(np.int32).tofile(indices)
            indptr.append(indptr[-1][-1] + block.indptr[1:])
            shape, dtype = (shape[0] + block.shape[0], block.shape[1]), block.dtype.str
    starts = np.concatenate(indptr)
    starts.astype(np.int32 if starts[-1] < 2**31 else np.int64).tofile(folder / "indptr")
    meta = {"shape": shape, "dtype": dtype, "indptr": "i4" if starts[-1] < 2**31 else "i8"}
    (folder / "meta.json").write_text(json.dumps(meta))
    return {"folder": str(folder)}


class _Flat:
    """A file of nothing but numbers; slices are read, so that they are no one's mapped pages."""

    def __init__(self, path: Path, dtype: np.dtype) -> None:
        self.path, self.dtype = path, dtype

    def __getitem__(self, span: slice) -> np.ndarray:
        offset = span.start * self.dtype.itemsize
        return np.fromfile(self.path, self.dtype, span.stop - span.start, offset=offset)

    def mapped(self) -> np.ndarray:
        """Return all of it as a memory map; nothing cannot be mapped."""
        size = self.path.stat().st_size
        return np.memmap(self.path, self.dtype, "r") if size else np.zeros(0, self.dtype)


class Matrix:
    """A matrix to take blocks of.

    Parameters
    ----------
    where : dict
        ``{"folder": ...}`` of `generate`, or ``{"file": ..., "group": ...}`` with the full name of
        a group in an HDF5 file.
    """

    axis: Axis
    shape: tuple[int, int]
    data: Any
    indices: Any

    def __init__(self, where: dict[str, Any]) -> None:
        self.file: Any = None
        if "folder" in where:
            self._from_folder(Path(where["folder"]))
        else:
            self._from_file(where["file"], where["group"])
        self.nnz = int(self.indptr[-1])

    def _from_folder(self, folder: Path) -> None:
        meta = json.loads((folder / "meta.json").read_text())
        self.shape, self.axis = tuple(meta["shape"]), CSR
        self.indptr = np.fromfile(folder / "indptr", meta["indptr"])
        self.dtype, self._fill = np.dtype(meta["dtype"]), False
        self.data = _Flat(folder / "data", self.dtype)
        self.indices = _Flat(folder / "indices", np.dtype(np.int32))

    def _from_file(self, file: str, name: str) -> None:
        self.file = open_to_read(file)
        group = self.file[name]
        header = detect(group)
        self.axis, self.shape, self._fill = axis_of(header.format), header.shape, header.iso
        self.indptr = group[header.indptr][:].astype(np.int64)
        self.data = group[header.data] if header.data else np.zeros(0, header.dtype or float)
        self.indices = group[header.indices] if header.indices else np.zeros(0, np.int32)
        dtype = np.dtype(header.dtype or self.data.dtype).newbyteorder("=")
        self.dtype = np.dtype(np.float32) if dtype == np.float16 else dtype

    def close(self) -> None:
        """Close the file, if there is one."""
        if self.file is not None:
            self.file.close()

    @property
    def nbytes(self) -> int:
        """Bytes of the values and of the indices as they are stored."""
        return self.nnz * self.entry_bytes

    @property
    def entry_bytes(self) -> int:
        """Bytes of one stored value and its index."""
        return int(self.dtype.itemsize + self.indices.dtype.itemsize)

    def block(self, first: int, last: int) -> Any:
        """Return rows (of a CSC: columns) `first` to `last` in memory."""
        start, stop = int(self.indptr[first]), int(self.indptr[last])
        data = np.repeat(self.data[:1], stop - start) if self._fill else self.data[start:stop]
        dtype = np.int32 if max(*self.shape, stop - start) < 2**31 else np.int64
        parts = (
            np.asarray(data, self.dtype),
            np.asarray(self.indices[start:stop], dtype),
            (self.indptr[first : last + 1].astype(np.int64) - start).astype(dtype),
        )
        shape = self.axis.swap((last - first, self.shape[self.axis.minor]))
        return self.axis.array(parts, shape)

    def blocks(self) -> Iterator[tuple[int, Any]]:
        """Yield (first row, block) of about 64 MB each."""
        first, n, step = 0, self.shape[self.axis.major], BLOCK_BYTES // self.entry_bytes
        while first < n:
            last = int(np.searchsorted(self.indptr, int(self.indptr[first]) + step, "right")) - 1
            last = min(n, max(first + 1, last))
            yield first, self.block(first, last)
            first = last

    def load(self) -> Any:
        """Return all of it in memory.

        Raises
        ------
        MemoryBudgetError
            When it does not fit.
        """
        require_memory(self.nbytes, "the whole matrix", "leave out systems that hold it in memory")
        return self.block(0, self.shape[self.axis.major])

    def mapped(self) -> Any:
        """Return a scipy array over the flat files; of an HDF5 file everything in memory."""
        if self.file is not None:
            return self.load()
        parts = [flat.mapped() for flat in (self.data, self.indices)]
        return csr_array((*parts, self.indptr), self.shape)

    def take(self, axis: int, which: np.ndarray) -> Any:
        """Return the chosen rows (axis 0) or columns (axis 1), in the order asked for."""
        join = (vstack, hstack)
        if axis == self.axis.major:
            parts = [self.block(int(i), int(i) + 1) for i in which] or [self.block(0, 0)]
            return join[axis](parts, format=self.axis.format)
        parts = [part[which] if axis == 0 else part[:, which] for _, part in self.blocks()]
        empty = self.block(0, 0)
        parts = parts or [empty[which] if axis == 0 else empty[:, which]]
        return join[1 - axis](parts, format=self.axis.format)

    def sums(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the sums of rows and of columns."""
        totals = [np.zeros(n, self.block(0, 0).sum(axis=0).dtype) for n in self.shape]
        for first, part in self.blocks():
            major, minor = self.axis.major, self.axis.minor
            totals[major][first : first + part.shape[major]] = part.sum(axis=minor)
            totals[minor] += part.sum(axis=major)
        return totals[0], totals[1]

    def matvec(self, x: np.ndarray) -> np.ndarray:
        """Return the product with a vector, or with a dense matrix."""
        out = np.zeros((self.shape[0], *x.shape[1:]), np.result_type(self.dtype, x.dtype))
        for first, part in self.blocks():
            if self.axis.major == 0:
                out[first : first + part.shape[0]] = part @ x
            else:
                out += part @ x[first : first + part.shape[1]]
        return out

    def rmatvec(self, y: np.ndarray) -> np.ndarray:
        """Return the product of the transpose with a vector, or with a dense matrix."""
        out = np.zeros((self.shape[1], *y.shape[1:]), np.result_type(self.dtype, y.dtype))
        for first, part in self.blocks():
            last = first + part.shape[self.axis.major]
            if self.axis.major == 0:
                out += part.T @ y[first:last]
            else:
                out[first:last] = part.T @ y
        return out

    def describe(self) -> list[np.ndarray]:
        """Return mean, variance, least and largest value of each column; of complex ones not these.

        A matrix without elements has none of them.
        """
        if 0 in self.shape:
            return []
        n, wide = self.shape[0], np.result_type(self.dtype, np.float64)
        total, squares = np.zeros(self.shape[1], wide), np.zeros(self.shape[1])
        ends = np.full((2, self.shape[1]), [[np.inf], [-np.inf]])
        for first, part in self.blocks():
            columns = slice(first, first + part.shape[1]) if self.axis.major else slice(None)
            total[columns] += part.astype(wide).sum(axis=0)
            squares[columns] += abs(part.astype(wide)).power(2).sum(axis=0)
            if wide.kind == "f":
                found = (part.min(axis=0).toarray(), part.max(axis=0).toarray())
                for end, ufunc in enumerate((np.minimum, np.maximum)):
                    ends[end, columns] = ufunc(ends[end, columns], found[end].reshape(-1))
        mean = total / n
        return [mean, squares / n - abs(mean) ** 2, *(ends if wide.kind == "f" else ())]

    def singular_values(self, k: int) -> np.ndarray:
        """Return the `k` largest, descending, by ARPACK."""
        if k == 0:
            return np.zeros(0)
        from scipy.sparse import linalg  # which no other operation needs

        make: Any = linalg.LinearOperator
        wide = np.result_type(self.dtype, np.float64)
        operator = make(
            self.shape,
            matvec=lambda x: self.matvec(x.reshape(-1)),
            rmatvec=lambda y: np.conj(self.rmatvec(np.conj(y.reshape(-1)))),
            dtype=wide,
        )
        start = np.random.default_rng(0).standard_normal(min(self.shape)).astype(wide)
        found = linalg.svds(operator, k, return_singular_vectors=False, v0=start)
        return np.sort(found)[::-1]


# ----------------------------------------------------------------------------- comparing answers


def digest(parts: Any, axis: Axis) -> list:
    """Say what a sparse matrix holds, whatever the order and the types of its indices.

    Parameters
    ----------
    parts : sparse array, or iterable of (first row, block)
        Blocks follow each other; their digest is that of the whole.
    axis : Axis
        Rows or columns are gone through, so that blocks of either kind can be hashed.

    Returns
    -------
    list
        Shape, type, number of stored values and a hash: equal lists are equal matrices.
    """
    if issparse(parts):
        parts = [(0, parts)]
    elif not hasattr(parts, "__iter__") or isinstance(parts, np.ndarray):
        return ["not a sparse matrix", type(parts).__name__]
    hashes = [hashlib.blake2b(digest_size=16) for _ in range(3)]
    major, minor, stored, dtype = 0, 0, 0, ""
    for _, part in parts:
        part = axis.array(_widened(part))
        if not part.has_canonical_format:
            part = part.copy()
            part.sum_duplicates()
        kinds = {"data": "", "indices": "i8", "indptr": "i8"}
        for (name, to), state in zip(kinds.items(), hashes, strict=True):
            values = np.diff(part.indptr) if name == "indptr" else getattr(part, name)
            for start in range(0, values.size, 1 << 16):
                piece = values[start : start + (1 << 16)]
                state.update(np.ascontiguousarray(piece.astype(to) if to else piece).data)
        major += part.shape[axis.major]
        minor, dtype, stored = part.shape[axis.minor], part.dtype.str, stored + part.nnz
    text = "".join(state.hexdigest() for state in hashes)
    return [list(axis.swap((major, minor))), dtype, int(stored), text]


def _widened(part: Any) -> Any:
    """Return 16-bit floats as 32-bit ones: scipy cannot compute with them."""
    return part.astype(np.float32) if part.dtype == np.float16 else part


def row_marks(block: Any) -> np.ndarray:
    """Return a number for each row that depends on what it holds, not on where it is."""
    block = csr_array(block)
    place = (block.indices.astype(np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    values = np.asarray(block.data)
    bits = values.real.astype(np.float64).view(np.uint64)
    if np.iscomplexobj(values):
        bits = bits + values.imag.astype(np.float64).view(np.uint64) * np.uint64(0xC2B2AE3D27D4EB4F)
    bits = bits | np.uint64(1)
    marks = np.concatenate([np.zeros(1, np.uint64), np.cumsum(place * bits, dtype=np.uint64)])
    return marks[block.indptr[1:]] - marks[block.indptr[:-1]]
