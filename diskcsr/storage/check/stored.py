"""The three arrays of a group that may be broken, and how they are read block by block."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import h5py
import numpy as np

from ...keys.plan import plan_batches, plan_span
from ...machine.alive import alive
from ..formats.conventions import ARRAYS
from ..formats.fields import array_or_none
from ..read.choose import choose_reader
from ..read.descriptor import Descriptor
from ..read.readers import H5Reader, Reader
from ..read.virtual import VirtualReader
from .problems import Scan, brief

__all__ = ["BLOCK", "Stored", "ignore", "open_arrays", "readable_blocks", "row_blocks", "signed"]

#: Elements, and row pointers, looked at in one go.
BLOCK = 1 << 20
#: Elements that were never written and yet are looked at: a length alone costs a file nothing.
_MOST_EMPTY = 1 << 26


def ignore(nbytes: int) -> None:
    """Be told how far things are where nobody asks."""


@dataclass(frozen=True)
class Stored:
    """One of the three arrays: its dataset, the dataset's own name, and the reader.

    `advance` is told of the bytes that were read, or could not be.
    """

    name: str
    dset: h5py.Dataset
    reader: Reader
    advance: Callable[[int], None] = ignore

    def is_own(self, group: h5py.Group) -> bool:
        """Whether its bytes are in the group's file and belong to no other object, too."""
        elsewhere = self.dset.is_virtual or self.dset.external
        linked = h5py.h5g.get_objinfo(self.dset.id).nlink > 1
        return not (elsewhere or linked or self.dset.file.filename != group.file.filename)

    @property
    def size(self) -> int:
        """Number of elements."""
        return int(self.dset.size)

    def read(self, lo: int, hi: int) -> np.ndarray:
        """Read elements ``lo:hi``."""
        alive()
        out = np.empty(hi - lo, self.reader.dtype)
        try:
            if hi > lo:
                self.reader.gather(plan_span(lo, hi, np.array([0, hi - lo])), out)
        finally:
            self.advance(out.nbytes)
        return out

    def read_by_hdf5(self, lo: int, hi: int) -> np.ndarray:
        """Read elements ``lo:hi`` through HDF5, whichever reader serves the array."""
        slow = H5Reader(self.dset, self.reader.where, "for comparison")
        return replace(self, reader=slow).read(lo, hi)

    def hdf5_decodes(self) -> bool:
        """Whether HDF5 has all filters that the dataset is stored with."""
        if isinstance(self.reader, VirtualReader):
            return self.reader.open_to_hdf5
        properties = self.dset.id.get_create_plist()
        numbers = (properties.get_filter(i)[0] for i in range(properties.get_nfilters()))
        return all(map(h5py.h5z.filter_avail, numbers))


def open_arrays(
    group: h5py.Group,
    names: tuple[str, ...],
    found: Scan,
    advance: Callable[[int], None] = ignore,
) -> dict[str, Stored]:
    """Open those of the three arrays that are there and can be read in reasonable time."""
    descriptor: Descriptor | str = "the file is no ordinary one open for reading"
    if group.file.driver == "sec2" and group.file.mode == "r":
        descriptor = Descriptor(group.file)
    arrays = {}
    for part, name in zip(ARRAYS, names, strict=True):
        try:
            dset = array_or_none(group, name, integer=part != "data")
            if dset is None:
                continue
            where = f"{group.file.filename}, dataset {dset.name!r}"
            stored = Stored(name, dset, choose_reader(dset, where, descriptor), advance)
            empty = _unwritten(dset)
            if empty > _MOST_EMPTY:
                what = f"of its {dset.size} elements {empty} were never written"
                found.add("error", "unwritten", what, name)
                continue
            arrays[part] = stored
        except MemoryError:
            raise  # it says nothing of the file
        except Exception as problem:
            found.add("error", "dataset", brief(problem, group), name)
    return arrays


def _unwritten(dset: h5py.Dataset) -> int:
    """Elements of a dataset that take no place in the file: they read as zeros."""
    if dset.is_virtual or dset.external:
        return 0
    if dset.chunks:
        return int(dset.size - dset.id.get_num_chunks() * dset.chunks[0])
    return int(dset.size - dset.id.get_storage_size() // dset.dtype.itemsize)


def signed(values: np.ndarray) -> np.ndarray:
    """Return integers as int64; those beyond it as the largest, which is as wrong."""
    if values.dtype == np.uint64:
        values = np.minimum(values, np.uint64(np.iinfo(np.int64).max))
    return values.astype(np.int64, copy=False)


def readable_blocks(
    array: Stored, lo: int, hi: int, found: Scan
) -> Iterator[tuple[int, np.ndarray]]:
    """Read ``lo:hi`` block by block; of those that cannot be read, note each chunk at fault."""
    for first in range(lo, hi, BLOCK):
        last = min(first + BLOCK, hi)
        try:
            values = array.read(first, last)
        except MemoryError:
            raise  # it says nothing of the file
        except Exception:
            yield from _readable_chunks(array, first, last, found)
        else:
            yield first, values


def _readable_chunks(
    array: Stored, lo: int, hi: int, found: Scan
) -> Iterator[tuple[int, np.ndarray]]:
    length = array.dset.chunks[0] if array.dset.chunks else max(array.size, 1)
    for chunk in range(lo // length, -(-hi // length)):
        first, last = max(lo, chunk * length), min(hi, (chunk + 1) * length)
        try:
            values = array.read(first, last)
        except MemoryError:
            raise  # it says nothing of the file
        except Exception as problem:
            what = f"a chunk cannot be read: {brief(problem, array.dset)}"
            advice = "Restore the file from a copy; the other chunks can be read."
            found.add("error", "chunk", what, array.name, position=chunk, advice=advice)
        else:
            yield first, values


def row_blocks(indptr: Stored, rows: int) -> Iterator[tuple[int, np.ndarray]]:
    """Walk good row pointers in blocks of whole rows of at most `BLOCK` elements, or one row.

    Yields
    ------
    first : int
        Major index of the first row.
    pointers : (k + 1,) int64 array
    """
    for begin in range(0, rows, BLOCK):
        pointers = signed(indptr.read(begin, min(begin + BLOCK, rows) + 1))
        for first, last in plan_batches(np.diff(pointers), BLOCK):
            yield begin + first, pointers[first : last + 1]
