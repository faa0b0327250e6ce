"""Matrices that scipy saved: ``.npz`` files, whose arrays are not loaded.

Such a file is a zip archive of numpy's files. An array that is stored as it is, which is what
``save_npz(..., compressed=False)`` writes, is mapped; a compressed one is decompressed as it is
needed, one part after another, for it can only be read from its beginning.
"""

import mmap
import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy
from scipy.sparse import load_npz

from ..axis import Axis, axis_of
from ..machine.options import require_memory
from ..streams.stream import Stream, portion_of
from .imported import Imported, Kind, SourceOptions, damaged, in_blocks_of_lines

__all__ = ["NPZ"]

#: Elements that are read at a time.
_STEP = 1 << 21


class _Member:
    """An array of the archive, read from its beginning to its end."""

    def __init__(self, path: Path, archive: zipfile.ZipFile, name: str, stack: ExitStack) -> None:
        self._path = path
        self.name = name
        try:
            info = archive.getinfo(f"{name}.npy")
        except KeyError:
            raise damaged(path, f"its array {name!r} is missing") from None
        self._file: Any = stack.enter_context(archive.open(info))
        version = npy.read_magic(self._file)
        read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
        self.shape, _, self.dtype = read(self._file)
        if self.dtype.hasobject:
            raise damaged(path, f"its array {name!r} holds Python objects")
        self.size = int(np.prod(self.shape, dtype=np.int64))
        self._at = 0
        self._mapped: np.ndarray | None = None
        if info.compress_type == zipfile.ZIP_STORED and self.size:
            self._mapped = self._map(info, self._file.tell())

    def _map(self, info: zipfile.ZipInfo, before: int) -> np.ndarray:
        with self._path.open("rb") as file:
            file.seek(info.header_offset)
            # The lengths of name and extra field stand at the end of the local header.
            *_, name, extra = struct.unpack("<26xHH", file.read(30))
            offset = info.header_offset + 30 + name + extra + before
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        return np.frombuffer(mapped, self.dtype, self.size, offset)

    def take(self, count: int) -> np.ndarray:
        """The next elements."""
        begin, self._at = self._at, self._at + count
        if self._mapped is not None:
            return self._mapped[begin : self._at]
        try:
            some = self._file.read(count * self.dtype.itemsize)
        except (zipfile.BadZipFile, zlib.error, EOFError) as problem:
            raise damaged(self._path, f"its array {self.name!r}: {problem}") from problem
        if len(some) != count * self.dtype.itemsize:
            raise damaged(self._path, f"its array {self.name!r} is cut short")
        return np.frombuffer(some, self.dtype)

    def whole(self) -> np.ndarray:
        """All elements, in memory, within the budget."""
        what = f"{self._path}: loading its {self.name}"
        require_memory(self.size * self.dtype.itemsize, what, "Raise the budget.")
        return np.array(self.take(self.size)).reshape(self.shape)


@contextmanager
def open_npz(path: Path, said: SourceOptions) -> Iterator[Imported]:
    """Open a matrix that `scipy.sparse.save_npz` wrote."""
    with ExitStack() as stack:
        try:
            archive = stack.enter_context(zipfile.ZipFile(path))
            names = {name.removesuffix(".npy") for name in archive.namelist()}
        except zipfile.BadZipFile as problem:
            raise damaged(path, f"it is no .npz: {problem}") from problem
        if not {"format", "shape", "data"} <= names:
            raise damaged(path, f"it is no sparse matrix, but holds {', '.join(sorted(names))}")

        def member(name: str) -> _Member:
            return _Member(path, archive, name, stack)

        format = member("format").whole().item()
        format = format.decode() if isinstance(format, bytes) else str(format)
        shape = tuple(map(int, member("shape").whole()))
        if len(shape) != 2:
            raise damaged(path, f"it holds an array of shape {shape}, no matrix")
        axis = _axis_or_none(format)
        if axis is not None:
            yield _compressed(path, axis, shape, member)
        elif {"row", "col"} <= names:
            yield _coordinates(shape, [member(name) for name in ("row", "col", "data")])
        else:
            size = sum(info.file_size for info in archive.infolist())
            require_memory(size, f"{path}: loading it", "Raise the budget.")
            coo = load_npz(path).tocoo()
            yield Imported([(coo.row, coo.col, coo.data)], shape, coo.dtype)


def _axis_or_none(format: str) -> Axis | None:
    try:
        return axis_of(format)
    except ValueError:
        return None


def _coordinates(shape: tuple[int, int], members: list[_Member]) -> Imported:
    def parts() -> Iterator[Any]:
        size = members[-1].size
        for first in range(0, size, _STEP):
            yield tuple(one.take(min(_STEP, size - first)) for one in members)

    return Imported(parts(), shape, members[-1].dtype.newbyteorder("="))


def _compressed(path: Path, axis: Axis, shape: tuple[int, int], member: Any) -> Imported:
    indptr = member("indptr").whole().astype(np.int64)
    data, indices = member("data"), member("indices")
    n_major, n_minor = axis.swap(shape)
    increasing = indptr.size == n_major + 1 and indptr[0] == 0 and (np.diff(indptr) >= 0).all()
    if not increasing or indptr[-1] > min(data.size, indices.size):
        raise damaged(path, "its indptr does not go with its shape and its other arrays")
    dtype = data.dtype.newbyteorder("=")

    def blocks() -> Iterator[tuple[int, np.ndarray, np.ndarray, np.ndarray]]:
        for first, last in in_blocks_of_lines(indptr, _STEP):
            ptr = indptr[first : last + 1] - indptr[first]
            minors, values = indices.take(int(ptr[-1])), data.take(int(ptr[-1]))
            if minors.size and not 0 <= minors.min() <= minors.max() < n_minor:
                raise damaged(path, f"an index is out of range: the shape is {shape}")
            yield first, values.astype(dtype, copy=False), minors, ptr

    def parts() -> Iterator[Any]:
        for first, values, minors, ptr in blocks():
            lines = np.arange(first, first + ptr.size - 1)
            yield *axis.swap((np.repeat(lines, np.diff(ptr)), minors)), values

    def stream(wanted: Axis, **changes: bool) -> Stream | None:
        if wanted is not axis:
            return None
        made = (
            axis.array((values, minors, ptr), shape=axis.swap((ptr.size - 1, n_minor)))
            for _, values, minors, ptr in blocks()
        )
        portions = (portion_of(block, **changes) for block in made)
        nnz = None if changes.get("sum_duplicates") else int(indptr[-1])
        return Stream(axis, n_minor, dtype, portions, n_major, nnz)

    return Imported(parts(), shape, dtype, axis.format, "keep", stream)


NPZ = Kind("npz", "a matrix saved by scipy.sparse.save_npz", open_npz)
