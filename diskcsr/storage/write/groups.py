"""Store sparse matrices so that every peer reads them, and read fast."""

import errno
import os
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from ...keys.widths import index_dtype
from ...machine.interrupts import allowing, deferred, pulled
from ...streams.stream import Portion, Stream
from ..codecs import table
from ..files.files import new_file, open_to_read, open_to_write
from ..files.transactions import (
    all_or_nothing,
    changing,
    check_writing,
    close_file,
    telling_damage,
    transaction,
)
from ..formats.conventions import ARRAYS, Header
from ..formats.others import refuse_other_name
from ..formats.tags import default_tags, stamp
from ..journal.names import check_ordinary
from .arrays import ArrayWriter, create_array
from .keywords import Storage

__all__ = ["check_target", "chunk_length", "write_stream", "write_virtual"]

#: Elements of a chunk: 256 kB of float32 or int32.
CHUNK = 1 << 16
#: Bytes of chunks that HDF5 holds back, per dataset: enough to complete one that was begun. Its own
#: default, 8 MiB since HDF5 2.0, is memory that a writer of whole chunks has no use for.
_CACHE = 1 << 20
#: Bytes of row pointers that wait, and what numpy takes for an array beside its elements.
_WAITING, _OBJECT = 1 << 26, 112
#: Chunks that HDF5's records of a small dataset have room for anyway.
_FEW_CHUNKS = 64
#: Arrays should not begin with a page of the file: numpy's large arrays begin 16 bytes into a page,
#: and AMD's processors copy from the beginning of one page to a little after that of another at a
#: third of their speed (glibc's bug 30994). What comes before an array moves it on by some hundred
#: bytes; from the second half of a page that could lead to the next.
_PAGE = 4096
#: Datasets of a group that is being written: room that must stay taken meanwhile.
_ROOM, _PAD = "room", "pad"


def write_stream(
    file: Any,
    stream: Stream,
    name: str,
    storage: Storage,
    advance: Callable[[int], None] = lambda nbytes: None,
    beside: Callable[[], Mapping[str, np.ndarray]] = dict,
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
    beside : callable
        Gives more datasets of the group, of numbers or strings; asked when the stream has ended.

    Notes
    -----
    A file that was given by its path is closed at the end, and whoever reads the result opens it
    anew. HDF5 cannot make a file that it has open for writing one that is read: it would stay
    locked, for appends by others too, as long as the result lives; be read through HDF5 alone, for
    that may hold what it has not written; and be written to once more when it is closed.
    """
    # Filtered chunks find room one by one when they are written: there is nothing to prepare.
    raw = storage.compression in (None, "raw") and not storage.shuffle
    chunks = 2 * (stream.nnz or 0) // (storage.chunks or CHUNK) if raw else 0
    with _target(file) as parent, _new_group(parent, name, storage, chunks) as group:
        alike = _tags_of(parent, storage) == "anndata"
        rows = _store(group, stream, storage, advance, alike)
        shape = stream.axis.swap((rows, stream.n_minor))
        for other, values in allowing(beside).items():
            _store_beside(group, other, values)
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
        index = group["indices"].dtype
        alike = index.kind == "i" and _tags_of(parent, storage) == "anndata"
        create = partial(_create, group, "indptr", storage=storage)
        wanted = np.dtype(index.newbyteorder("=")) if alike else np.dtype(np.int64)
        pointers = _RowPointers(create, wanted, indptr.size, int(indptr[-1]))
        pointers.append(indptr[1:])
        pointers.finish()
        _stamp(parent, group, format, shape, storage)


def _store_beside(group: h5py.Group, name: str, values: np.ndarray) -> None:
    """Store a dataset of numbers, or of strings as every reader of HDF5 has them."""
    check_writing(group)()
    strings = values.dtype.kind == "O"
    group.create_dataset(name, data=values, dtype=h5py.string_dtype() if strings else None)


def _stamp(
    parent: h5py.Group, group: h5py.Group, format: str, shape: tuple[int, int], storage: Storage
) -> None:
    header = Header(format, shape, *ARRAYS, "h5sparse")
    stamp(group, header, _tags_of(parent, storage))


def _tags_of(parent: h5py.Group, storage: Storage) -> str:
    """Return which attributes a matrix in a group gets."""
    return storage.tags or default_tags(parent)


def check_target(file: Any, name: str, storage: Storage) -> None:
    """Raise what writing a group would begin with: for those who have long work to do before it."""
    table.find_preset(storage.compression)
    if isinstance(file, h5py.Group):
        _check_free(file, name, storage)
        return
    check_ordinary(file, new=True)
    refuse_other_name(file)
    path = Path(os.fsdecode(file))
    if path.exists():
        with deferred():
            existing = open_to_read(path)
            try:
                _check_free(existing, name, storage)
            finally:
                close_file(existing)
    elif not os.path.isdir(os.path.dirname(os.path.realpath(path))):
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), os.fspath(path))


def _check_free(parent: h5py.Group, name: str, storage: Storage) -> None:
    where = f"{parent.file.filename}, {parent.name!r}"
    if not name:
        raise ValueError(f"{where}: the name of a matrix must not be empty")
    with telling_damage(where):
        taken = name in parent
        above = name.rstrip("/").rpartition("/")[0]
        while above and above not in parent:
            above = above.rpartition("/")[0]
        inside = bool(above) and parent.get(above, getclass=True) is not h5py.Group
    if inside:
        raise ValueError(f"{where}: {above!r} is no group, so there cannot be an object {name!r}")
    if taken and not storage.overwrite:
        raise ValueError(
            f"{parent.file.filename}: {parent.name!r} already has an object {name!r}; pass "
            "overwrite=True to replace it"
        )


@contextmanager
def _new_group(
    parent: h5py.Group, name: str, storage: Storage, chunks: int = 0
) -> Iterator[h5py.Group]:
    """Give a group to fill, which gets its name at the end.

    Only then are the groups on the way to it made as well: a failure leaves what was there.
    `chunks` is about how many its arrays will have, where they are laid out at once.
    """
    _check_free(parent, name, storage)
    temporary = f"writing-{uuid.uuid4().hex}"
    with telling_damage(f"{parent.file.filename}, {parent.name!r}", ValueError):
        group = _begin_group(parent, temporary, chunks)
    try:
        yield group
        for taken in (_ROOM, _PAD):
            if taken in group:
                del group[taken]
        check_writing(parent)()
        with all_or_nothing(parent):
            if name in parent:
                del parent[name]
            parent.move(temporary, name)
    except BaseException:
        if temporary in parent:
            del parent[temporary]
        raise


def _begin_group(parent: h5py.Group, name: str, chunks: int) -> h5py.Group:
    """Make a group whose arrays will lie in one extent each, where they are laid out at once.

    HDF5 makes a record of chunks when the one before is full, wherever the file ends then: between
    the chunks of an array, which then cannot be mapped. But it first takes records that became
    free. So a dataset of as many chunks, of a byte each, is made and deleted; the group, made in
    between, keeps its place from being given back to the end of the file.
    """
    if chunks <= _FEW_CHUNKS:
        return parent.create_group(name)
    count = -(-(chunks + chunks // 8 + 5 * _FEW_CHUNKS) // 8) * 8
    other = f"room-{uuid.uuid4().hex}"
    _lay_out(parent, other, count, chunk=1)
    group = parent.create_group(name)
    del parent[other]
    # Its bytes stay taken, or short chunks of an array would be put there.
    end = parent.file.id.get_filesize() % _PAGE
    _lay_out(group, _ROOM, count)
    if end > _PAGE // 2:
        _lay_out(group, _PAD, _PAGE // 2)
    return group


def _lay_out(group: h5py.Group, name: str, nbytes: int, chunk: int | None = None) -> None:
    """Make a dataset of bytes for which room is found now, and nothing is written."""
    properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    if chunk is not None:
        properties.set_chunk((chunk,))
    properties.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    properties.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    space = h5py.h5s.create_simple((nbytes,), (nbytes if chunk is None else h5py.h5s.UNLIMITED,))
    h5py.h5d.create(group.id, name.encode(), h5py.h5t.STD_I8LE, space, properties)


@contextmanager
def _target(file: Any) -> Iterator[h5py.Group]:
    """Give the group to write into: an open one, an existing file, or a new one."""
    if isinstance(file, h5py.Group):
        group = h5py.Group(file.id)
        with changing(group):
            yield group
        return
    check_ordinary(file, new=True)
    refuse_other_name(file)
    path = Path(os.fsdecode(file))
    if path.exists():
        with deferred(), open_to_write(path, "r+") as existing, transaction(existing):
            yield existing
        return
    with new_file(path, rdcc_nbytes=_CACHE) as new:
        yield new


def _create(
    group: h5py.Group, name: str, dtype: np.dtype, length: int | None, storage: Storage
) -> ArrayWriter:
    """Create one of the arrays, of a length that is known or not."""
    # Whoever comes without a length has at least a chunk, or its length was found out.
    chunk = storage.chunks or (CHUNK if length is None else chunk_length(length))
    return create_array(
        group,
        name,
        length or 0,
        dtype.newbyteorder("<"),
        chunk,
        storage.compression,
        storage.compression_opts,
        storage.shuffle,
    )


def _store(
    group: h5py.Group,
    stream: Stream,
    storage: Storage,
    advance: Callable[[int], None],
    alike: bool,
) -> int:
    """Write the three arrays; return how many rows there were.

    `alike`: row pointers are of the type of the indices, where that can tell them all.
    """
    index = storage.indices_as(stream.n_minor)
    counted = index_dtype(stream.n_minor).itemsize  # as those have it who say how much there is
    portions, n_major, nnz = _look_ahead(stream)
    data = _create(group, "data", stream.dtype, nnz, storage)
    indices = _create(group, "indices", index, nnz, storage)
    length = None if n_major is None else n_major + 1
    create = partial(_create, group, "indptr", storage=storage)
    indptr = _RowPointers(create, index if alike else np.dtype(np.int64), length, nnz)
    rows = stored = 0
    for values, minor, lengths in pulled(portions):
        data.append(values)
        indices.append(minor)
        indptr.append(stored + np.cumsum(lengths))
        rows += lengths.size
        stored += int(lengths.sum())
        allowing(advance, values.nbytes + minor.size * counted)
        # While the next portion is made, this one need not be kept.
        del values, minor
    for array in (data, indices, indptr):
        array.finish()
    return rows


class _RowPointers:
    """Row pointers on their way to a file: of the type wanted, where that can tell them all.

    anndata has the arrays in memory as a file has them, and hands them to software that takes row
    pointers and indices of one type alone: scikit-learn and Scanpy do. How many elements there will
    be is not always known. Pointers wait for that, until they take more than some memory.

    Parameters
    ----------
    create : callable
        ``create(dtype, length)`` makes the dataset.
    index : dtype
        What is wanted; else they are int64.
    length, nnz : int or None
        How many pointers and elements there will be.
    """

    def __init__(
        self,
        create: Callable[[np.dtype, int | None], ArrayWriter],
        index: np.dtype,
        length: int | None,
        nnz: int | None,
    ) -> None:
        self._create, self._index, self._length = create, index, length
        self._most = int(np.iinfo(index).max)
        self._waiting, self._size, self._nbytes = [np.zeros(1, np.int64)], 1, 0
        self._writer: ArrayWriter | None = None
        if nnz is not None:
            self._begin(narrow=nnz <= self._most)
        elif index == np.int64:
            self._begin(narrow=True)

    def append(self, ends: np.ndarray) -> None:
        """Take where some more rows end; int64."""
        if self._writer is not None:
            self._writer.append(ends.astype(self._dtype, copy=False))
            return
        self._waiting.append(ends)
        self._size += ends.size
        self._nbytes += ends.nbytes + _OBJECT
        if self._nbytes > _WAITING or (ends.size and ends[-1] > self._most):
            self._begin(narrow=False)

    def finish(self) -> None:
        """Write what waits, and the last chunk."""
        if self._writer is None:
            self._length = self._size
            self._begin(narrow=True)
        assert self._writer is not None
        self._writer.finish()

    def _begin(self, narrow: bool) -> None:
        self._dtype = self._index if narrow else np.dtype(np.int64)
        self._writer = self._create(self._dtype, self._length)
        for ends in self._waiting:
            self._writer.append(ends.astype(self._dtype, copy=False))
        self._waiting = []


def _look_ahead(stream: Stream) -> tuple[Iterator[Portion], int | None, int | None]:
    """Learn the sizes of a small stream from its first portions; see `chunk_length`."""
    portions = allowing(iter, stream.portions)
    if stream.nnz is not None:
        return portions, stream.n_major, stream.nnz
    first: list[Portion] = []
    stored = 0
    for portion in pulled(portions):
        first.append(portion)
        stored += portion[0].size
        if stored > CHUNK:
            return chain(first, portions), stream.n_major, None
    return iter(first), sum(lengths.size for _, _, lengths in first), stored


def chunk_length(length: int) -> int:
    """The default chunk of a dataset: `CHUNK`, or the power of two that holds a small one."""
    return min(CHUNK, max(1024, 1 << max(length - 1, 0).bit_length()))
