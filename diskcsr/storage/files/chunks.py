"""Where each chunk of a dataset lies in the file, found in one pass."""

import os
from dataclasses import dataclass

import h5py
import numpy as np
from h5py._objects import phil

from ...errors import CorruptFileError

__all__ = ["ChunkIndex", "index_chunks"]

#: A contiguous dataset that needs decoding is treated as chunks of this many elements.
PIECE = 1 << 16
_UNDEFINED = 1 << 62  # beyond any file: HDF5's "no address", and nonsense
#: Chunks an index has room for, however few of them are there: a length alone costs nothing.
_MOST_EMPTY = 1 << 20
#: Chunks compared, at most, to learn whether addresses count the user block.
_COMPARED = 64


@dataclass(frozen=True)
class ChunkIndex:
    """Places of the chunks of a one-dimensional dataset.

    Attributes
    ----------
    length : int
        Elements a chunk; the last one is stored whole, too.
    offset : (n,) int64 array
        Where each begins in the file, in bytes; -1 for one that was never written.
    nbytes : (n,) int64 array
        Stored bytes of each.
    mask : (n,) uint32 array
        Its filter mask: bit i is set where filter i was left out.
    """

    length: int
    offset: np.ndarray
    nbytes: np.ndarray
    mask: np.ndarray

    def extents(self, size: int, itemsize: int) -> tuple[np.ndarray, np.ndarray] | None:
        """Join unfiltered chunks that follow one another in the file.

        Returns
        -------
        start, offset : (e + 1,) and (e,) int64 array, or None
            First element and file offset of each run of bytes, as the gather kernels take them;
            None when a chunk was never written.
        """
        if self.offset.size == 0 or self.offset.min() < 0:
            return None
        new = np.ones(self.offset.size, bool)
        new[1:] = np.diff(self.offset) != self.length * itemsize
        first = np.flatnonzero(new)
        return np.append(first * self.length, size), self.offset[first]

    def cut(self, size: int, itemsize: int) -> "ChunkIndex":
        """Cut the one piece of a contiguous dataset into chunks that can be decoded alone."""
        offset = self.offset[0] + np.arange(0, size, PIECE, dtype=np.int64) * itemsize
        nbytes = np.full(offset.size, PIECE * itemsize, np.int64)
        nbytes[-1] = (size - (offset.size - 1) * PIECE) * itemsize
        return ChunkIndex(PIECE, offset, nbytes, np.zeros(offset.size, np.uint32))


def index_chunks(dset: h5py.Dataset, fd: int) -> ChunkIndex | str:
    """Build the index of a contiguous or chunked dataset, or say why that cannot be done.

    Parameters
    ----------
    dset : h5py.Dataset
        One-dimensional.
    fd : int
        A descriptor of its file, to learn how the file's HDF5 counts addresses.
    """
    size, itemsize = dset.size, dset.dtype.itemsize
    if size == 0:
        return "it is empty"
    if not dset.chunks:
        start = dset.id.get_offset()
        if start is None or start >= _UNDEFINED:
            return "it was never written"
        # One piece, unless its values must be converted: see `ChunkIndex.cut`.
        one = np.array([start]), np.array([size * itemsize]), np.zeros(1, np.uint32)
        return ChunkIndex(size, *one)
    length = dset.chunks[0]
    count = -(-size // length)
    table: list[tuple[int, int, int, int]] = []
    try:
        dset.id.chunk_iter(
            lambda info: table.append(
                (info.chunk_offset[0] // length, info.byte_offset, info.size, info.filter_mask)
            )
        )
        base = _address_base(dset, table, length, fd)
    except (OSError, RuntimeError) as problem:
        return f"HDF5 cannot list its chunks: {problem}"
    _check_table(dset, table)
    if base is None:
        return "its file has a user block, and what chunk addresses count from is unclear"
    if count > 2 * len(table) + _MOST_EMPTY:
        return f"of its {count} chunks only {len(table)} were ever written"
    index = ChunkIndex(
        length, np.full(count, -1, np.int64), np.zeros(count, np.int64), np.zeros(count, np.uint32)
    )
    for number, offset, nbytes, mask in table:
        if number < count:
            # Nonsense stays nonsense: there is nothing to read there.
            index.offset[number] = min(offset + base, _UNDEFINED)
            index.nbytes[number] = min(nbytes, _UNDEFINED)
            index.mask[number] = mask
    return index


def _check_table(dset: h5py.Dataset, table: list[tuple[int, int, int, int]]) -> None:
    """Raise `CorruptFileError` where the index contradicts itself; HDF5 would read on."""
    where = f"{dset.file.filename}, dataset {dset.name!r}"
    if len({number for number, *_ in table}) < len(table):
        raise CorruptFileError(f"{where}: its index lists a chunk twice")
    whole = dset.chunks[0] * dset.id.get_type().get_size()
    if not dset.id.get_create_plist().get_nfilters():
        for number, _, nbytes, _ in table:
            if nbytes != whole:
                raise CorruptFileError(
                    f"{where}: chunk {number} takes {nbytes} bytes, but its elements {whole}"
                )


def _address_base(dset: h5py.Dataset, table: list, length: int, fd: int) -> int | None:
    """What to add to a chunk's address to have its offset in the file.

    Some versions of HDF5 leave out a user block before the HDF5 file proper, others count it; so
    the bytes that HDF5 itself reads are compared with those at both places.
    """
    block = dset.file.userblock_size
    if not block or not table:
        return 0
    for number, offset, nbytes, _ in table[:_COMPARED]:
        with phil:  # h5py before 3.16 forgets its own lock here (its issue 2764)
            stored = dset.id.read_direct_chunk((number * length,))[1]
        fits = [os.pread(fd, nbytes, offset + base) == stored for base in (0, block)]
        if fits[0] != fits[1]:
            return 0 if fits[0] else block
    return None
