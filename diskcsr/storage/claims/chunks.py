"""Where each chunk of a dataset lies in the file, found in one pass and checked.

What a file says of its chunks is as untrusted as all else in it. One wrong bit can put a chunk
outside of its dataset, and HDF5 then reads zeros in its place without a word.
"""

from dataclasses import dataclass, field
from typing import Any

import h5py
import numpy as np

from ...errors import CorruptFileError, raise_if_systems
from ...machine.alive import alive
from ..files.lock import hdf5_locked
from .headers import tree_nodes
from .peek import peek

__all__ = [
    "ChunkIndex",
    "Places",
    "check_chunks",
    "index_chunks",
    "refuse_empty",
    "refuse_overlap",
    "unwritten",
    "written_chunks",
]

#: A contiguous dataset that needs decoding is treated as chunks of this many elements.
DIVISION = 1 << 16
_UNDEFINED = 1 << 62  # beyond any file: HDF5's "no address", and nonsense
#: Chunks an index has room for, however few of them are there: a length alone costs nothing.
_MOST_EMPTY = 1 << 20
#: Elements of row pointers or indices that may never have been written.
_MOST_EMPTY_ELEMENTS = 1 << 26
#: Chunks compared, at most, to learn whether addresses count the user block.
_COMPARED = 64
#: What HDF5 tells of a chunk, in its order.
_ENTRY = np.dtype([("first", "u8", (1,)), ("mask", "u4"), ("address", "u8"), ("nbytes", "u8")])
#: Entries that are turned into an array at a time: objects that are kept cost the collector time.
_BATCH = 1 << 10
#: Bytes that a superblock takes at least, an object's header, and an entry of an index.
_SUPERBLOCK, _HEADER, _LEAST = 48, 16, 8

_SHUFFLE = h5py.h5z.FILTER_SHUFFLE
#: How a node of a version 1 B-tree of chunks begins.
_NODE = b"TREE\1"

#: Where some bytes lie in a file: offset and length of each run.
Places = tuple[np.ndarray, np.ndarray]
_NOWHERE: Places = (np.zeros(0, np.int64), np.zeros(0, np.int64))


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
    damage : dict
        By number, what is wrong with chunks that cannot be where the file says they are. The others
        can be read.
    nodes : (offset, nbytes)
        Where the index itself lies, as far as that is known.
    """

    length: int
    offset: np.ndarray
    nbytes: np.ndarray
    mask: np.ndarray
    damage: dict[int, str] = field(default_factory=dict)
    nodes: Places = _NOWHERE

    def extents(self, size: int, itemsize: int) -> tuple[np.ndarray, np.ndarray] | None:
        """Join unfiltered chunks that follow one another in the file.

        Returns
        -------
        start, offset : (e + 1,) and (e,) int64 array, or None
            First element and file offset of each run of bytes, as the gather kernels take them;
            None when a chunk was never written, or is damaged.
        """
        if self.offset.size == 0 or self.offset.min() < 0 or self.damage:
            return None
        new = np.ones(self.offset.size, bool)
        new[1:] = np.diff(self.offset) != self.length * itemsize
        first = np.flatnonzero(new)
        return np.append(first * self.length, size), self.offset[first]

    def places(self) -> Places:
        """Return where in the file the chunks lie that were written, and their index."""
        written = self.offset >= 0
        written[list(self.damage)] = False
        return _together((self.offset[written], self.nbytes[written]), self.nodes)

    def divided(self, size: int, itemsize: int) -> "ChunkIndex":
        """Divide the one extent of a contiguous dataset into chunks that can be decoded alone."""
        offset = self.offset[0] + np.arange(0, size, DIVISION, dtype=np.int64) * itemsize
        nbytes = np.full(offset.size, DIVISION * itemsize, np.int64)
        nbytes[-1] = (size - (offset.size - 1) * DIVISION) * itemsize
        return ChunkIndex(DIVISION, offset, nbytes, np.zeros(offset.size, np.uint32))


def index_chunks(dset: h5py.Dataset) -> ChunkIndex | str:
    """Build the index of a contiguous or chunked dataset, or say why that cannot be done.

    Parameters
    ----------
    dset : h5py.Dataset
        One-dimensional.

    Raises
    ------
    CorruptFileError
        When what the file says of the chunks cannot be.
    """
    size, itemsize = dset.size, dset.dtype.itemsize
    if size == 0:
        return "it is empty"
    if not dset.chunks:
        start = dset.id.get_offset()
        if start is None or start >= _UNDEFINED:
            return "it was never written"
        # One extent, unless its values must be converted: see `ChunkIndex.divided`.
        one = np.array([start]), np.array([size * itemsize]), np.zeros(1, np.uint32)
        return ChunkIndex(size, *one)
    table, nodes = _checked_table(dset)
    base = _address_base(dset, table)
    if base is None:
        return "its file has a user block, and what chunk addresses count from is unclear"
    length = dset.chunks[0]
    count = -(-size // length)
    if count > 2 * len(table) + _MOST_EMPTY:
        return f"of its {count} chunks only {len(table)} were ever written"
    places = np.full(count, -1, np.int64), np.zeros(count, np.int64), np.zeros(count, np.uint32)
    index = ChunkIndex(length, *places, nodes=nodes)
    number = (table["first"][:, 0] // np.uint64(length)).astype(np.int64)
    index.offset[number], index.nbytes[number] = _places(table, base)
    index.mask[number] = table["mask"]
    for at, why in _misplaced(dset, table, nodes, base).items():
        index.damage[int(number[at])] = why
    return index


def check_chunks(dset: h5py.Dataset) -> Places:
    """Check the index of a dataset that HDF5 itself is to read or write.

    HDF5 looks a chunk up by other numbers than those that it lists: where these are damaged, it
    misses chunks that are there, and reads zeros. So each chunk that is listed is looked up, too.

    Returns
    -------
    Places
        Where the chunks lie in the file, counted as HDF5 counts.

    Raises
    ------
    CorruptFileError
        When what the file says of the chunks cannot be.
    """
    table, nodes = _checked_table(dset)
    for at, why in _misplaced(dset, table, nodes, 0).items():
        raise CorruptFileError(f"{_name(dset)}: {_describe(table[at])}, but {why}")
    nothing = bytearray()
    for number, first in enumerate(table["first"][:, 0].tolist()):
        if number % _BATCH == 0:
            alive()
        try:
            with hdf5_locked():  # h5py before 3.16 forgets its own lock here (its issue 2764)
                dset.id.read_direct_chunk((first,), out=nothing)
        except ValueError:
            continue  # found: it is longer than nothing, and so was not read
        except (OSError, RuntimeError) as problem:
            raise_if_systems(problem, dset.file.filename)
            raise CorruptFileError(
                f"{_name(dset)}: HDF5 lists the chunk at element {first}, and does not find it: "
                f"{problem}"
            ) from problem
    # With a user block it is not known what these addresses count from.
    return _together(_places(table, 0), _NOWHERE if dset.file.userblock_size else nodes)


def unwritten(dset: h5py.Dataset, size: int) -> np.ndarray:
    """Return the numbers of those chunks below element `size` that were never written.

    A contiguous dataset is one chunk. In other layouts nothing is ever missing.
    """
    layout = dset.id.get_create_plist().get_layout()
    if layout == h5py.h5d.CONTIGUOUS and not dset.external:
        return np.arange(int(size > 0 and dset.id.get_offset() is None))
    if layout != h5py.h5d.CHUNKED:
        return np.arange(0)
    length = dset.chunks[0]
    missing = np.ones(-(-size // length), bool)
    number = written_chunks(dset)
    missing[number[number < missing.size]] = False
    return np.flatnonzero(missing)


def written_chunks(dset: h5py.Dataset) -> np.ndarray:
    """Return the numbers of the chunks of a dataset that were ever written, ascending."""
    first = _checked_table(dset)[0]["first"][:, 0]
    return (first // np.uint64(dset.chunks[0])).astype(np.int64)


def refuse_empty(dset: h5py.Dataset, used: int, where: str) -> None:
    """Raise `CorruptFileError` where most of so many elements in use were never written.

    A length alone costs a file nothing, and whoever believes it reads zeros for hours. Its index
    was checked before.
    """
    if used <= _MOST_EMPTY_ELEMENTS:
        return
    size = dset.size
    properties = dset.id.get_create_plist()
    layout, written = properties.get_layout(), size
    if layout == h5py.h5d.CHUNKED:
        written = dset.id.get_num_chunks() * dset.chunks[0]
    elif layout == h5py.h5d.CONTIGUOUS and not properties.get_external_count():
        written = 0 if dset.id.get_offset() is None else size
    elif layout == h5py.h5d.VIRTUAL:
        count = properties.get_virtual_count()
        spaces = (properties.get_virtual_vspace(number) for number in range(count))
        written = sum(space.get_select_npoints() for space in spaces)
    if used - written > _MOST_EMPTY_ELEMENTS:
        raise CorruptFileError(
            f"{where}: of the {used} elements in use no more than {written} were ever written"
        )


def refuse_overlap(one: Places, other: Places, where: str) -> None:
    """Raise `CorruptFileError` where two arrays claim the same bytes of a file."""
    offset, nbytes = _together(one, other)
    for at in np.flatnonzero(_overlapping(offset, nbytes))[:1]:
        raise CorruptFileError(f"{where} claim the same bytes of the file, at offset {offset[at]}")


def _together(one: Places, other: Places) -> Places:
    return np.concatenate([one[0], other[0]]), np.concatenate([one[1], other[1]])


def _overlapping(offset: np.ndarray, nbytes: np.ndarray) -> np.ndarray:
    """Say of each run of bytes whether it and the one before or behind it in the file overlap."""
    found = np.zeros(offset.size, bool)
    order = np.arange(offset.size)
    if np.any(offset[1:] < offset[:-1]):
        order = np.argsort(offset, kind="stable")
        offset, nbytes = offset[order], nbytes[order]
    early = offset[1:] < offset[:-1] + nbytes[:-1]
    found[order[1:][early]] = True
    found[order[:-1][early]] = True
    return found


# -------------------------------------------------------------------------------- what HDF5 lists


def _name(dset: h5py.Dataset) -> str:
    return f"{dset.file.filename}, dataset {dset.name!r}"


def _checked_table(dset: h5py.Dataset) -> tuple[np.ndarray, Places]:
    """List the chunks of a dataset, and check which of them are listed.

    Every kind of index that HDF5 has lists the chunks of one dimension in their order, and those of
    the dataset alone.

    Returns
    -------
    table : array of _ENTRY
    nodes : Places
        Where the index itself lies, as far as that is known.
    """
    found = tree_nodes(dset)
    at = np.array(list(found), np.int64) + dset.file.userblock_size
    nodes = at, np.array(list(found.values()), np.int64)
    length, size, room = dset.chunks[0], dset.size, dset.file.id.get_filesize()
    table = _list(dset, min(-(-size // length), room // _LEAST + 1))
    first = table["first"][:, 0]
    for wrong, why in (
        (first % np.uint64(length) != 0, f"chunks have {length} elements"),
        (first >= size, f"the dataset has {size} elements"),
        (np.append(False, first[1:] <= first[:-1]), "chunks are listed out of order, or twice"),
    ):
        for at in np.flatnonzero(wrong)[:1]:
            raise CorruptFileError(
                f"{_name(dset)}: its index is damaged: {_describe(table[at])}, but {why}"
            )
    _refuse_nodes(dset, table, room)
    return table, nodes


def _refuse_nodes(dset: h5py.Dataset, table: np.ndarray, room: int) -> None:
    """Raise `CorruptFileError` where what is listed as chunks are nodes of the B-tree itself.

    A node whose level is damaged lists its children as chunks. Each of them stands for many chunks,
    and these then are missing: so where none is, there is nothing to look at.
    """
    length, first = dset.chunks[0], table["first"][:, 0]
    behind = np.append(first[1:], np.uint64(-(-dset.size // length) * length))
    alone = (behind - first > length) & (table["nbytes"] <= room)
    for at in first[alone][:_COMPARED].tolist():
        try:
            with hdf5_locked():  # h5py before 3.16 forgets its own lock here (its issue 2764)
                stored = dset.id.read_direct_chunk((at,))[1]
        except (OSError, RuntimeError):
            continue  # whoever reads this chunk will say so
        if stored.startswith(_NODE):
            raise CorruptFileError(
                f"{_name(dset)}: its index is damaged: it lists a part of itself as the chunk at "
                f"element {at}"
            )


def _describe(entry: Any) -> str:
    (first,), _, address, nbytes = entry.tolist()
    return f"the chunk at element {first} is said to take {nbytes} bytes at {address}"


def _places(table: np.ndarray, base: int) -> Places:
    """Return offsets and lengths; nonsense stays nonsense: there is nothing to read there."""
    offset, nbytes = (
        np.minimum(table[name], np.uint64(_UNDEFINED)).astype(np.int64)
        for name in ("address", "nbytes")
    )
    return np.minimum(offset + base, _UNDEFINED), nbytes


def _list(dset: h5py.Dataset, most: int) -> np.ndarray:
    """Return what HDF5 lists: of an index that goes round in circles, no more than can be true."""
    parts: list[np.ndarray] = []
    some: list[Any] = []

    def note(entry: Any) -> bool | None:
        some.append(entry)
        return fold() if len(some) == _BATCH else None

    def fold() -> bool | None:
        """Keep what was listed; anything but None ends the iteration."""
        alive()
        try:
            parts.append(np.fromiter(some, _ENTRY, len(some)))
        except (TypeError, ValueError):  # h5py tells None of a chunk that has no address
            return True  # raised below: no exception should pass through HDF5
        some.clear()
        return True if _BATCH * len(parts) > most else None

    try:
        dset.id.chunk_iter(note)
    except (OSError, RuntimeError) as problem:
        raise_if_systems(problem, dset.file.filename)
        raise CorruptFileError(
            f"{_name(dset)}: HDF5 cannot list its chunks: {problem}"
        ) from problem
    if fold() and some:
        raise CorruptFileError(f"{_name(dset)}: its index lists a chunk without an address")
    table = np.concatenate(parts)
    if len(table) > most:
        raise CorruptFileError(
            f"{_name(dset)}: its index lists more than the {most} chunks that there can be"
        )
    return table


def _misplaced(dset: h5py.Dataset, table: np.ndarray, nodes: Places, base: int) -> dict[int, str]:
    """Say which entries of an index tell of bytes that cannot be those of a chunk, and why."""
    offset, nbytes = _places(table, base)
    room = dset.file.id.get_filesize()
    stored = dset.chunks[0] * dset.id.get_type().get_size()
    properties = dset.id.get_create_plist()
    # Where all filters were left out but shuffle, which keeps the length, HDF5 looks at no length.
    filters = [properties.get_filter(i)[0] for i in range(properties.get_nfilters())]
    resizing = np.uint32(sum(1 << i for i, number in enumerate(filters) if number != _SHUFFLE))
    raw = table["mask"] & resizing == resizing
    found: dict[int, str] = {}

    def note(wrong: np.ndarray, why: str) -> None:
        for at in np.flatnonzero(wrong).tolist():
            found.setdefault(at, why)

    note(np.where(raw, nbytes != stored, nbytes == 0), f"its elements are {stored} bytes")
    # In this order, and so without overflow.
    note((nbytes > room) | (offset > room - nbytes), f"the file ends after {room} bytes")
    for others, what in (
        (_NOWHERE, "another chunk"),
        (_occupied(dset, nodes, base), "something else"),
    ):
        sane = np.ones(len(table), bool)
        sane[list(found)] = False
        crowded = np.zeros(len(table), bool)
        extents = _together((offset[sane], nbytes[sane]), others)
        crowded[sane] = _overlapping(*extents)[: np.count_nonzero(sane)]
        note(crowded, f"{what} lies there")
    return found


def _occupied(dset: h5py.Dataset, nodes: Places, base: int) -> Places:
    """Return where in the file other things surely lie: at least a part of each."""
    block = dset.file.userblock_size
    superblock = np.array([0]), np.array([_SUPERBLOCK + base])
    if block and not base:
        return superblock  # what addresses count from is not known
    # Not by `h5o.get_info`, which tells the lengths, too: it walks the whole index to count its
    # bytes, and has no end where that goes round in circles.
    items = {int(h5py.h5g.get_objinfo(i.id).objno[0]) for i in (dset, dset.parent, dset.file)}
    headers = np.array(sorted(items)) + block, np.full(len(items), _HEADER)
    return _together(_together(superblock, headers), nodes)


def _address_base(dset: h5py.Dataset, table: np.ndarray) -> int | None:
    """What to add to a chunk's address to have its offset in the file.

    Some versions of HDF5 leave out a user block before the HDF5 file proper, others count it; so
    the bytes that HDF5 itself reads are compared with those at both places.
    """
    block = dset.file.userblock_size
    if not block or not len(table):
        return 0
    found = peek(dset.file)
    if found is None:
        return None
    room = dset.file.id.get_filesize()
    for (first,), _, address, nbytes in table[:_COMPARED].tolist():
        if nbytes > room or address > room - nbytes:
            continue  # damaged
        with hdf5_locked():  # h5py before 3.16 forgets its own lock here (its issue 2764)
            stored = dset.id.read_direct_chunk((first,))[1]
        fits = [found[0](address + base, nbytes) == stored for base in (0, block)]
        if fits[0] != fits[1]:
            return 0 if fits[0] else block
    return None
