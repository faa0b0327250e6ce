"""A look at the bytes of an object's header, where HDF5 would believe what it finds.

HDF5 asks the system for as much memory as a string claims to have, and walks a heap that holds
strings for as long as its records lead on. Here such claims are compared with the file beforehand.
What is not understood is left to HDF5: newer structures that have checksums, and odd sizes.

Source: HDF5 File Format Specification, version 3.0, III.E (global heap), IV.A (object headers).
"""

import struct
from collections.abc import Callable, Generator
from contextlib import closing
from functools import cached_property
from typing import Any, TypeVar

import h5py

from ...errors import CorruptFileError
from .peek import bring, peek

__all__ = ["Asked", "check_strings", "tree_nodes"]

_LAYOUT, _ATTRIBUTE, _CONTINUATION = 0x08, 0x0C, 0x10
#: The largest header, and heap of strings, that is looked at.
_MOST_BYTES = 1 << 24
#: Of a string in an attribute: its length, and the heap and the record where its bytes are.
_STRING = struct.Struct("<IQI")
_RECORD = struct.Struct("<HHIQ")
#: How a node of a version 1 B-tree of chunks begins: signature, level, children. A key of two
#: numbers and a child follow one another then, and one more key.
_NODE, _KEY, _CHILD = struct.Struct("<5sBH16x"), 24, 8
#: Children that a node has room for, unless the file says otherwise.
_CHILDREN = 64
_NODE_BYTES = _NODE.size + _CHILDREN * (_KEY + _CHILD) + _KEY


_Found = TypeVar("_Found")


class _Unknown(Exception):
    """Something that only HDF5 understands."""


class Asked(h5py.Group):
    """A group while it is asked what it is, and nobody changes it: what is found is kept."""

    def __init__(self, group: h5py.Group) -> None:
        super().__init__(group.id)
        #: Attributes, by name.
        self.found: dict[str, Any] = {}

    @cached_property
    def file(self) -> h5py.File:
        return super().file

    @cached_property
    def look(self) -> "_Look":
        return _Look(self.file)


def _twice(
    file: h5py.File, look: Callable[[], _Found], alarmed: Callable[[_Found], bool]
) -> _Found:
    """Look at a file; where that alarms, and HDF5 may hold what is new, once more without that."""
    found = look()
    if alarmed(found) and file.mode != "r":
        h5py.File.flush(file)
        found = look()
    return found


def check_strings(group: h5py.Group, name: str) -> str | None:
    """Say what is wrong with strings of variable length in an attribute; None when nothing is."""
    return _twice(group.file, lambda: _wrong_string(group, name), lambda found: found is not None)


def _wrong_string(group: h5py.Group, name: str) -> str | None:
    """Do what `check_strings` does with what is written in the file."""
    try:
        file = group.file
        # Of a file open for writing a second look is to see what is new.
        kept = isinstance(group, Asked) and file.mode == "r"
        look = group.look if kept else _Look(file)
        value = look.attribute(_address(group), name.encode())
    except (_Unknown, struct.error):
        return None
    for at in range(0, len(value) - _STRING.size + 1, _STRING.size):
        length, heap, index = _STRING.unpack_from(value, at)
        problem = look.record(heap, index, length) if length else None
        if problem is not None:
            return (
                f"a string claims {length} bytes in record {index} of the heap at {heap}, {problem}"
            )
    return None


def tree_nodes(dset: h5py.Dataset) -> dict[int, int]:
    """Return where the nodes of a version 1 B-tree of chunks lie, and how long each is at least.

    None are returned of other indexes, and where the file is open for writing: HDF5 may have put
    something else there meanwhile. Whether they go round in circles is looked at all the same.

    Raises
    ------
    CorruptFileError
        When a node leads back to one above it: HDF5 2.0.0 then runs out of stack.
    """
    file = dset.file
    nodes = _twice(file, lambda: _nodes(dset), lambda found: found is None)
    if nodes is None:
        name = f"{file.filename}, dataset {dset.name!r}"
        raise CorruptFileError(f"{name}: its index is damaged: it goes round in circles")
    if file.mode != "r":
        return {}
    # In the first version of the superblock there is no choice but this.
    least = _CHILDREN if file.id.get_create_plist().get_version()[0] == 0 else 0
    return {
        address: _NODE.size + max(used, least) * (_KEY + _CHILD) + _KEY
        for address, used in nodes.items()
    }


def _nodes(dset: h5py.Dataset) -> dict[int, int] | None:
    """Return what `_Look.nodes` does of the index of a dataset; nothing where it has no such."""
    try:
        look = _Look(dset.file)
        layout = look.layout(_address(dset))
        version, layout_class, dimensions, root = struct.unpack_from("<BBBQ", layout)
        if (version, layout_class, dimensions) != (3, 2, 2):  # of one dimension, and the element
            return {}
        return look.nodes(root)
    except (_Unknown, struct.error):
        return {}


def _address(item: h5py.Group | h5py.Dataset) -> int:
    return int(h5py.h5g.get_objinfo(item.id).objno[0])


class _Look:
    """Bytes of a file, by addresses as HDF5 counts them."""

    def __init__(self, file: h5py.File) -> None:
        found = peek(file)
        if found is None or file.id.get_create_plist().get_sizes() != (8, 8):
            raise _Unknown
        (self._bytes, self._size), self._base = found, file.userblock_size
        self._file = file

    def _read(self, address: int, size: int) -> bytes:
        offset = address + self._base
        if size > _MOST_BYTES or offset + size > self._size:
            raise _Unknown
        return self._bytes(offset, size)

    def attribute(self, address: int, name: bytes) -> bytes:
        """Return the value of an attribute as it stands in the header of an object."""
        # Closed here: what is raised where it is closed by being forgotten gets lost.
        with closing(self.messages(address)) as messages:
            for kind, flags, message in messages:
                if kind == _ATTRIBUTE and not flags & 2:
                    found, value = _split_attribute(message)
                    if found == name:
                        return value
        raise _Unknown

    def layout(self, address: int) -> bytes:
        """Return the message of a dataset's header that says how it is laid out."""
        with closing(self.messages(address)) as messages:
            for kind, _, message in messages:
                if kind == _LAYOUT:
                    return message
        raise _Unknown

    def messages(self, address: int) -> Generator[tuple[int, int, bytes], None, None]:
        """Yield kind, flags and contents of the messages of a header, of either version."""
        start = self._read(address, 16)
        if start[0] == 1:
            size, tracked, newer, skipped = struct.unpack_from("<I", start, 8)[0], False, False, 16
        elif start[:5] == b"OHDR\2":
            flags, newer = start[5], True
            tracked = bool(flags & 4)
            at = 6 + 16 * bool(flags & 0x20) + 4 * bool(flags & 0x10)
            width = 1 << (flags & 3)
            size = int.from_bytes(self._read(address + at, width), "little")
            skipped = at + width
        else:
            raise _Unknown
        blocks = [(address + skipped, size)]
        for number in range(1 << 10):  # no header has as many
            if number == len(blocks):
                return
            block = self._read(*blocks[number])
            for kind, flags, message in _split_block(block, newer, tracked):
                if kind == _CONTINUATION:
                    begin, length = struct.unpack("<QQ", message[:16])
                    # The newer ones have a signature before, and a checksum behind.
                    blocks.append((begin + 4, length - 8) if newer else (begin, length))
                yield kind, flags, message

    def nodes(self, root: int) -> dict[int, int] | None:
        """Return how many children each node of a B-tree of chunks has, by address.

        None when a node comes twice: whoever follows its children may never come to an end.
        """
        found: dict[int, int] = {}
        level = [root]
        while level:
            below: list[int] = []
            bring(self._file, [address + self._base for address in level], _NODE_BYTES)
            for address in level:
                if address in found:
                    return None
                signature, depth, used = _NODE.unpack(self._read(address, _NODE.size))
                if signature != b"TREE\1":
                    raise _Unknown  # HDF5 says so
                found[address] = used
                if depth:
                    raw = self._read(address + _NODE.size, used * (_KEY + _CHILD))
                    below += [
                        int.from_bytes(raw[at : at + _CHILD], "little")
                        for at in range(_KEY, len(raw), _KEY + _CHILD)
                    ]
            level = below
        return found

    def record(self, heap: int, index: int, length: int) -> str | None:
        """Say why these bytes of a heap cannot be read, None when they can."""
        if heap + self._base + 16 > self._size:
            return "which lies behind the file's end"
        start = self._read(heap, 16)
        (size,) = struct.unpack_from("<Q", start, 8)
        if start[:5] != b"GCOL\1":
            return "where there is no heap"
        if heap + self._base + size > self._size:
            return "which reaches behind the file's end"
        raw, at = self._read(heap, size), 16
        found: int | None = None
        while at + _RECORD.size <= size:
            number, _, _, stored = _RECORD.unpack_from(raw, at)
            step = stored if number == 0 else _RECORD.size + stored + -stored % 8
            if step < _RECORD.size or at + step > size:
                return f"whose record at {heap + at} claims {stored} bytes"
            if number == index:
                found = stored
            at += step
        if found is None:
            return "which has no such record"
        return None if found >= length else f"which has {found} bytes"


def _split_block(block: bytes, newer: bool, tracked: bool) -> list[tuple[int, int, bytes]]:
    """Return kind, flags and contents of the messages in a part of a header."""
    head = struct.Struct("<BHB" + "xx" * tracked if newer else "<HHB3x")
    found, at = [], 0
    while at + head.size <= len(block):
        kind, size, flags = head.unpack_from(block, at)
        found.append((kind, flags, block[at + head.size : at + head.size + size]))
        at += head.size + size
    return found


def _split_attribute(message: bytes) -> tuple[bytes, bytes]:
    """Return name and value of an attribute message."""
    version, _, *sizes = struct.unpack_from("<BBHHH", message)
    if version not in (1, 2, 3):
        raise _Unknown
    at = 9 if version == 3 else 8
    name = message[at : at + sizes[0]].split(b"\0")[0]
    for size in sizes:
        at += size + (-size % 8 if version == 1 else 0)
    return name, message[at:]
