"""Virtual datasets: each part is read where it lies, by the reader that its own dataset has.

HDF5 reads the parts one after the other, under its lock, a chunk at a time, and opens their files
anew each time. What it maps to where is asked of it once; see "Virtual Dataset Layout" in HDF5's
reference manual of `H5Pset_virtual`.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import h5py
import numpy as np

from ..claims.links import stays_inside
from ..claims.sound import check_sound, open_source
from ..codecs.pipeline import lacking_in_hdf5
from .descriptor import Descriptor
from .parts import PartsReader, descriptors_for_parts
from .readers import Reader, native_dtype

__all__ = ["VirtualReader", "find_parts"]

#: Chooses the reader of a part.
Choose = Callable[[h5py.Dataset, str, Descriptor], Reader]


class Part(NamedTuple):
    """One part of a virtual dataset.

    Attributes
    ----------
    lo, hi : int
        Its elements, of the virtual dataset.
    first : int
        Which element of its own dataset the first of them is.
    reader : Reader
        Of its own dataset.
    open_to_hdf5 : bool
        Whether HDF5 can read it, too.
    """

    lo: int
    hi: int
    first: int
    reader: Reader
    open_to_hdf5: bool = True


class VirtualReader(PartsReader):
    """Reads the parts of a virtual dataset, all at a time.

    Parameters
    ----------
    dset : h5py.Dataset
    where : str
    parts : list of Part
        In their order, without gaps.
    check_unchanged : callable
        Of the file with the virtual dataset.
    """

    name = "virtual"

    def __init__(
        self,
        dset: h5py.Dataset,
        where: str,
        parts: list[Part],
        check_unchanged: Callable[[], None],
    ) -> None:
        readers = [part.reader for part in parts]
        edges = np.array([0, *(part.hi for part in parts)])
        super().__init__(where, native_dtype(dset.dtype), edges)
        self._parts = parts
        self.firsts = np.array([part.first for part in parts], np.int64)
        self.copies = all(reader.copies for reader in readers)  # type: ignore[misc]
        self.shares = all(reader.shares for reader in readers)  # type: ignore[misc]
        checks = [reader.check_unchanged for reader in readers if reader.check_unchanged]
        # Each file once; and no method of this reader, which would keep its files open.
        self.check_unchanged = partial(_do_all, list(dict.fromkeys([check_unchanged, *checks])))
        self.check_itself = check_unchanged
        self.describe(readers)
        for reader in readers:
            reader.count_for(self)

    def part(self, number: int) -> Reader:
        return self._parts[number].reader

    def count_for(self, whole: Reader) -> None:
        super().count_for(whole)
        for part in self._parts:
            part.reader.count_for(whole)

    def lies_in_one(self) -> bool:
        return all(part.reader.lies_in_one() for part in self._parts)

    @property
    def open_to_hdf5(self) -> bool:
        """Whether HDF5 can read all parts."""
        return all(part.open_to_hdf5 for part in self._parts)


def _do_all(checks: list[Callable[[], None]]) -> None:
    for check in checks:
        check()


def find_parts(dset: h5py.Dataset, descriptor: Descriptor, choose: Choose) -> list[Part] | str:
    """Find the parts of a virtual dataset, or say why only HDF5 can put it together.

    Each is opened once, and checked by the choice of its reader. What is left to HDF5 has to be
    checked by `check_sound`.

    Parameters
    ----------
    dset : h5py.Dataset
        One-dimensional and virtual.
    descriptor : Descriptor
        Of its file. It keeps those of the other files.
    choose : callable
        Given a dataset, how messages call it, and a descriptor of its file, returns its reader.

    Raises
    ------
    CorruptFileError
        When a part is missing or damaged, or the dataset is a source of itself.
    """
    if stays_inside(dset.file):
        check_sound(dset)
    properties = dset.id.get_create_plist()
    count, parts = properties.get_virtual_count(), []
    files = len({properties.get_virtual_filename(number) for number in range(count)})
    if files > descriptors_for_parts():
        return f"its {files} files are more than should be open at a time (ulimit -n)"
    for number in range(count):
        file = properties.get_virtual_filename(number)
        name = properties.get_virtual_dsetname(number)
        if "%" in file + name:
            return "its parts may be numbered"
        with open_source(dset, file, name) as source:
            if native_dtype(source.dtype) != native_dtype(dset.dtype) or source.ndim != 1:
                return f"its part {number} is of another type"
            lo, hi = _run(properties.get_virtual_vspace(number), dset.size)
            first, last = _run(properties.get_virtual_srcspace(number), source.size)
            if lo < 0 or hi - lo != last - first or last > source.size:
                return f"its part {number} is not one run of elements that are there"
            if source.is_virtual:
                check_sound(dset)  # it may lead back to where it comes from
            reader = choose(source, _called(dset, source), descriptor.other(source.file))
            if not reader.check_unchanged or reader.name == "h5py":
                return f"its part {number} is read by HDF5: {reader.why}"
            open_to_hdf5 = lacking_in_hdf5(source) is None
            if isinstance(reader, VirtualReader):
                open_to_hdf5 = reader.open_to_hdf5
        parts.append(Part(lo, hi, first, reader, open_to_hdf5))
    parts.sort(key=lambda part: part.lo)
    ends = [0, *(part.hi for part in parts)]
    if [part.lo for part in parts] != ends[:-1] or ends[-1] != dset.size:
        return "its parts overlap or leave something out"
    return parts


def _called(dset: h5py.Dataset, source: h5py.Dataset) -> str:
    where = f"{dset.file.filename}, dataset {dset.name!r}"
    return f"{where}, its part in {source.file.filename}, dataset {source.name!r}"


def _run(space: h5py.h5s.SpaceID, size: int) -> tuple[int, int]:
    """Return the first element of a selection and the one behind its last; (-1, 0): it is no run.

    `size` is what all is, for a selection that does not know.
    """
    if space.get_select_type() == h5py.h5s.SEL_ALL:
        return 0, size
    try:
        (lo,), (hi,) = space.get_select_bounds()
    except (
        RuntimeError,
        ValueError,
    ):  # as of one that grows with its source, or has two dimensions
        return -1, 0
    return (int(lo), int(hi) + 1) if space.get_select_npoints() == hi - lo + 1 else (-1, 0)
