"""Parts of a group, read with distrust: attributes, and datasets of one or two numbers.

h5py meets types it does not know, damaged objects and links to nowhere with nearly any exception.
Here all of them become `FormatError` or `CorruptFileError` that name file, object and value.
"""

import math
import reprlib
from typing import Any

import h5py
import numpy as np

from ...errors import CorruptFileError, FormatError, raise_if_systems
from ..claims.headers import Asked, check_strings
from ..claims.links import refuse_foreign
from ..claims.sound import check_sound

__all__ = [
    "MAX_LENGTH",
    "array_or_none",
    "dataset_or_none",
    "lengths",
    "locate",
    "member",
    "read_attribute",
    "read_lengths",
    "read_text",
    "shorten",
]

#: Longest axis there can be: what int64 indices reach.
MAX_LENGTH = 2**63 - 1
#: Bytes an attribute, or the chunk of a dataset of two numbers, may have: the largest that occur
#: are far smaller (10x files keep two numbers in a chunk of 16384), so more is damage.
_MAX_BYTES = 1 << 24

_repr = reprlib.Repr()
_repr.maxstring = _repr.maxother = 80


def shorten(value: Any) -> str:
    """Return a repr that fits a message."""
    return _repr.repr(value)


class Place:
    """A group, or a part of one, as messages call it.

    Nearly all that is read is fine: what it is called is put together for the message alone.
    """

    def __init__(self, group: h5py.Group, *parts: str) -> None:
        self._group, self._parts = group, parts

    def __str__(self) -> str:
        group = self._group
        return ", ".join((group.file.filename, f"group {group.name!r}", *self._parts))


def locate(group: h5py.Group, *parts: str) -> Place:
    """Return file and group, and the parts of it named, for a message."""
    return Place(group, *parts)


def read_attribute(group: h5py.Group, name: str) -> Any:
    """Return an attribute; None when it is absent or has a null dataspace."""
    if not isinstance(group, Asked):
        return _read_attribute(group, name)
    if name not in group.found:
        group.found[name] = _read_attribute(group, name)
    return group.found[name]


def _read_attribute(group: h5py.Group, name: str) -> Any:
    try:
        # Without h5py's dictionary of attributes: of most groups most of them are absent.
        if not h5py.h5a.exists(group.id, name.encode()):
            return None
        attribute = h5py.h5a.open(group.id, name.encode())
        if attribute.shape is None:
            return None
        size = math.prod(attribute.shape) * attribute.get_type().get_size()
        if size > _MAX_BYTES:
            raise OverflowError(f"it claims {size} bytes")
        if attribute.get_type().detect_class(h5py.h5t.STRING) and (
            attribute.get_type().is_variable_str()
        ):
            problem = check_strings(group, name)
            if problem is not None:
                raise ValueError(problem)
        return group.attrs[name]
    except MemoryError:
        raise
    except Exception as problem:  # h5py raises six kinds for types and bytes it cannot decode
        raise_if_systems(problem, group.file.filename)
        where = locate(group, f"attribute {name!r}")
        raise FormatError(f"{where}: cannot be read: {problem}") from problem


def read_text(group: h5py.Group, name: str, *, lenient: bool = False) -> str | None:
    """Return a text attribute, be it str or bytes, a scalar or an array of one.

    None when it is absent, and with `lenient` also when it is no text.
    """
    value = read_attribute(group, name)
    if value is None:
        return None
    text = value.item() if isinstance(value, np.ndarray) and value.size == 1 else value
    if isinstance(text, bytes):
        text = text.decode("utf-8", "replace")
    if not isinstance(text, str):
        if lenient:
            return None
        where = locate(group, f"attribute {name!r}")
        raise FormatError(f"{where}: text expected, found {shorten(value)}")
    return text.strip("\0 ")


def lengths(value: Any, count: int, where: object) -> tuple[int, ...]:
    """Turn what a file holds into `count` lengths of axes."""
    numbers = value if isinstance(value, list) else np.asarray(value).ravel()[:9].tolist()
    if len(numbers) != count:
        expected = "one number" if count == 1 else f"{count} numbers"
        raise FormatError(f"{where}: {expected} expected, found {shorten(value)}")
    for number in numbers:
        whole = type(number) is int or (type(number) is float and number.is_integer())
        if not whole or not 0 <= number <= MAX_LENGTH:
            raise FormatError(
                f"{where}: {shorten(number)} is not the length of an axis (an integer from 0 "
                f"to {MAX_LENGTH})"
            )
    return tuple(int(number) for number in numbers)


def member(group: h5py.Group, name: str) -> Any:
    """Return the object `name` of a group; None when there is no link of this name."""
    try:
        refuse_foreign(group, name)
        return group[name] if group.id.links.exists(name.encode()) else None
    except (MemoryError, FormatError):
        raise
    except Exception as problem:  # links to nowhere, to themselves, to damaged objects
        raise_if_systems(problem, group.file.filename)
        raise CorruptFileError(
            f"{locate(group)}: {name!r} cannot be opened: {problem}"
        ) from problem


def dataset_or_none(group: h5py.Group, name: str) -> h5py.Dataset | None:
    """Return the dataset `name`, or None when nothing of that name, or something else, is there."""
    try:
        found = member(group, name)
    except (CorruptFileError, FormatError):
        return None
    return found if isinstance(found, h5py.Dataset) else None


def array_or_none(group: h5py.Group, name: str | None, *, integer: bool) -> h5py.Dataset | None:
    """Return one of the three arrays, its dimensions and type checked; None when absent."""
    found = None if name is None else member(group, name)
    if found is None:
        return None
    if not isinstance(found, h5py.Dataset):
        kind = "a group" if isinstance(found, h5py.Group) else "a named type"
        raise CorruptFileError(f"{locate(group)}: {name!r} is {kind}, not a dataset")
    where = locate(group, f"dataset {name!r}")
    if found.shape is None or len(found.shape) != 1:
        raise CorruptFileError(f"{where}: one dimension expected, found shape {found.shape}")
    try:
        dtype = found.dtype
    except MemoryError:
        raise
    except Exception as problem:  # numpy has no such type
        raise FormatError(f"{where}: unsupported type: {problem}") from problem
    if not (_is_integer(dtype) if integer else _is_numeric(dtype)):
        kind = "integers" if integer else "numbers"
        raise FormatError(f"{where}: {kind} expected, found type {dtype}")
    return found


def _is_integer(dtype: np.dtype) -> bool:
    return dtype.kind in "iu" and h5py.check_enum_dtype(dtype) is None


def _is_numeric(dtype: np.dtype) -> bool:
    if dtype.names in (("r", "i"), ("real", "imag")):  # complex, as h5py and MATLAB spell it
        return dtype[0] == dtype[1] and dtype[0].kind == "f" and dtype[0].itemsize in (4, 8)
    return _is_integer(dtype) or dtype.kind in "bfc"


def read_lengths(group: h5py.Group, name: str, count: int) -> tuple[int, ...] | None:
    """Read a dataset of `count` lengths of axes; None when it is absent or no dataset."""
    found = dataset_or_none(group, name)
    if found is None:
        return None
    where = locate(group, f"dataset {name!r}")
    if found.shape is None or found.size != count or found.dtype.kind not in "iuf":
        raise FormatError(
            f"{where}: {count} numbers expected, found shape {found.shape}, type {found.dtype}"
        )
    if np.prod(found.chunks or 0, dtype=float) * found.dtype.itemsize > _MAX_BYTES:
        raise CorruptFileError(f"{where}: chunks of {found.chunks} elements for {count} numbers")
    if found.ndim == 1:
        check_sound(found)
    try:
        value = found[()]
    except MemoryError:
        raise
    except Exception as problem:  # whatever the filters of a damaged chunk raise
        raise_if_systems(problem, group.file.filename)
        raise CorruptFileError(f"{where}: cannot be read: {problem}") from problem
    return lengths(value, count, where)
