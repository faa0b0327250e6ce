"""Store sparse matrices so that every peer reads them, and read fast."""

import os
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from ...keys.widths import index_dtype
from ...streams.pieces import Piece, Stream
from ..files.files import flush_file, open_to_write
from ..formats.conventions import ARRAYS, Header
from ..formats.tags import check_tags, default_tags, stamp
from .arrays import ArrayWriter, create_array

__all__ = ["Storage", "chunk_length", "write_stream", "write_virtual"]

#: Elements of a chunk: 256 kB of float32 or int32.
CHUNK = 1 << 16
#: Elements that a writer is given at a time: it may copy them.
_STEP = 1 << 22
#: Bytes of chunks that HDF5 holds back, per dataset: enough to complete one that was begun. Its own
#: default, 8 MiB since HDF5 2.0, is memory that a writer of whole chunks has no use for.
_CACHE = 1 << 20
#: Bytes of HDF5's records of a chunk, and some to spare: a node of 2 kB for every 32 at least.
_RECORD = 64
#: What follows the records should not begin with a page of the file: numpy's large arrays begin 16
#: bytes into a page, and AMD's processors copy from the beginning of one page to a little after
#: that of another at a third of their speed (glibc's bug 30994).
_OFF_PAGE = 1 << 10


@dataclass(frozen=True)
class Storage:
    """How a matrix is stored; see `diskcsr.write` for the parameters."""

    compression: str | None = None
    compression_opts: Any = None
    shuffle: bool | None = None
    chunks: int | None = None
    tags: str | None = None
    overwrite: bool = False

    def __post_init__(self) -> None:
        if self.tags is not None:
            check_tags(self.tags)
        if self.chunks is not None and (int(self.chunks) != self.chunks or self.chunks < 1):
            raise ValueError(f"chunks must be a positive number of elements, not {self.chunks!r}")


def write_stream(
    file: Any,
    stream: Stream,
    name: str,
    storage: Storage,
    advance: Callable[[int], None] = lambda nbytes: None,
) -> None:
    """Store what a stream brings as group `name`; nothing of it stays when the stream fails.

    Parameters
    ----------
    file : path or h5py.Group
    stream : Stream
    name : str
    storage : Storage
    advance : callable
        Is told of the bytes of values and indices that were written.
    """
    chunks = 2 * (stream.nnz or 0) // (storage.chunks or CHUNK)
    with _target(file, chunks) as parent, _new_group(parent, name, storage) as group:
        shape = stream.axis.swap((_store(group, stream, storage, advance), stream.n_minor))
        _stamp(parent, group, stream.axis.format, shape, storage)


def write_virtual(
    file: Any,
    name: str,
    storage: Storage,
    format: str,
    shape: tuple[int, int],
    indptr: np.ndarray,
    layouts: dict[str, h5py.VirtualLayout],
) -> None:
    """Store row pointers, and beside them datasets that lie in other files."""
    with _target(file) as parent, _new_group(parent, name, storage) as group:
        for part, layout in layouts.items():
            group.create_virtual_dataset(part, layout)
        pointers = _Array(group, "indptr", np.dtype(np.int64), indptr.size, storage)
        pointers.append(indptr)
        pointers.finish()
        _stamp(parent, group, format, shape, storage)


def _stamp(
    parent: h5py.Group, group: h5py.Group, format: str, shape: tuple[int, int], storage: Storage
) -> None:
    header = Header(format, shape, *ARRAYS, "h5sparse")
    stamp(group, header, storage.tags or default_tags(parent))


@contextmanager
def _new_group(parent: h5py.Group, name: str, storage: Storage) -> Iterator[h5py.Group]:
    """Give a group to fill, which gets its name at the end.

    Only then are the groups on the way to it made as well: a failure leaves what was there.
    """
    if name in parent and not storage.overwrite:
        raise ValueError(
            f"{parent.file.filename}: {parent.name!r} already has an object {name!r}; pass "
            "overwrite=True to replace it"
        )
    temporary = f"writing-{uuid.uuid4().hex}"
    group = parent.create_group(temporary)
    try:
        yield group
    except BaseException:
        del parent[temporary]
        raise
    if name in parent:
        del parent[name]
    parent.move(temporary, name)


@contextmanager
def _target(file: Any, chunks: int = 0) -> Iterator[h5py.Group]:
    """Give the group to write into: an open one, an existing file, or a new one.

    `chunks` is about how many there will be, so that HDF5 keeps its records of them in one place.
    """
    if isinstance(file, h5py.Group):
        yield h5py.Group(file.id)
        flush_file(h5py.Group(file.id).file)
        return
    path = Path(os.fsdecode(file))
    if path.exists():
        with open_to_write(path, "r+") as existing:
            yield existing
        return
    # A new name, opened with "x": ext4 writes a file out at once when it is closed after having
    # been made empty, as "w" does, and that takes longer than all the rest.
    temporary = path.parent / f".{path.name}.{uuid.uuid4().hex}"
    try:
        records = (1 << max(10, (_RECORD * chunks).bit_length())) + _OFF_PAGE
        with h5py.File(temporary, "x", rdcc_nbytes=_CACHE, meta_block_size=records) as new:
            yield new
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


class _Array:
    """One dataset that is filled, of a length that is known or not."""

    def __init__(
        self, group: h5py.Group, name: str, dtype: np.dtype, length: int | None, storage: Storage
    ) -> None:
        self._length, self._filled = length or 0, 0
        # Whoever comes without a length has at least a chunk, or its length was found out.
        chunk = storage.chunks or (CHUNK if length is None else chunk_length(length))
        self._writer: ArrayWriter = create_array(
            group,
            name,
            self._length,
            dtype.newbyteorder("<"),
            chunk,
            storage.compression,
            storage.compression_opts,
            storage.shuffle,
        )
        self._dset = group[name]

    def append(self, values: np.ndarray) -> None:
        for first in range(0, values.size, _STEP):
            some = values[first : first + _STEP]
            self._filled += some.size
            if self._filled > self._length:
                self._length = self._filled
                self._dset.resize((self._length,))
            self._writer.append(some)

    def finish(self) -> None:
        self._writer.finish()


def _store(
    group: h5py.Group, stream: Stream, storage: Storage, advance: Callable[[int], None]
) -> int:
    """Write the three arrays; return how many rows there were."""
    index = index_dtype(stream.n_minor)
    pieces, n_major, nnz = _look_ahead(stream)
    data = _Array(group, "data", stream.dtype, nnz, storage)
    indices = _Array(group, "indices", index, nnz, storage)
    length = None if n_major is None else n_major + 1
    indptr = _Array(group, "indptr", np.dtype(np.int64), length, storage)
    indptr.append(np.zeros(1, np.int64))
    rows = stored = 0
    for values, minor, lengths in pieces:
        data.append(values)
        indices.append(minor)
        indptr.append(stored + np.cumsum(lengths))
        rows += lengths.size
        stored += int(lengths.sum())
        advance(values.nbytes + minor.size * index.itemsize)
        # While the next piece is made, this one need not be kept.
        del values, minor
    for array in (data, indices, indptr):
        array.finish()
    return rows


def _look_ahead(stream: Stream) -> tuple[Iterator[Piece], int | None, int | None]:
    """Learn the sizes of a small stream from its first pieces; see `chunk_length`."""
    pieces = iter(stream.pieces)
    if stream.nnz is not None:
        return pieces, stream.n_major, stream.nnz
    first: list[Piece] = []
    stored = 0
    for piece in pieces:
        first.append(piece)
        stored += piece[0].size
        if stored > CHUNK:
            return chain(first, pieces), stream.n_major, None
    return iter(first), sum(lengths.size for _, _, lengths in first), stored


def chunk_length(length: int) -> int:
    """The default chunk of a dataset: `CHUNK`, or the power of two that holds a small one."""
    return min(CHUNK, max(1024, 1 << max(length - 1, 0).bit_length()))
