"""Columns of AnnData's tables: one value for each row (or column) of the matrix beside them.

Which encodings there are: anndata's page "On-disk format". A column is a dataset, or a group of
codes and categories, or of values and a mask of those that are missing.
"""

from dataclasses import dataclass
from typing import Any

import h5py
import numpy as np

from ...errors import CorruptFileError, FormatError, raise_if_systems
from ..claims.sound import check_sound
from .fields import locate, member, read_text

__all__ = ["Column", "find_member", "read_column"]

#: The parts of a group that a column may be, and which of them has an entry a row.
_CODED, _MASKED = ("codes", "categories"), ("values", "mask")


@dataclass(frozen=True, eq=False)
class Column:
    """A column in memory.

    Attributes
    ----------
    values : (n, ...) array
        Numbers; text as objects; or codes.
    categories : (k,) array or None
        What codes stand for; -1 is a missing value.
    """

    values: np.ndarray
    categories: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, rows: Any) -> np.ndarray:
        """Return decoded entries; of what is missing NaN, of text None."""
        some = self.values[rows]
        if self.categories is None:
            return some
        return self.categories[some]

    def chosen(self, rows: np.ndarray) -> "Column":
        """Return some entries as a column."""
        return Column(self.values[rows], self.categories)


def find_member(root: h5py.Group, name: str) -> Any:
    """Return the dataset or group of a path.

    Raises
    ------
    KeyError
        When there is none.
    CorruptFileError, FormatError
        When something on the way cannot be opened.
    """
    found: Any = root
    for part in filter(None, name.split("/")):
        inside = member(found, part) if isinstance(found, h5py.Group) else None
        if inside is None:
            there = ", ".join(found) if isinstance(found, h5py.Group) else "no members"
            raise KeyError(f"{locate(root)}: no object {name!r}; {found.name!r} has {there}")
        found = inside
    return found


def read_column(root: h5py.Group, name: str) -> Column:
    """Read a column of a table, or an array with an entry a row.

    Parameters
    ----------
    root : h5py.Group
        Where the path begins.
    name : str
        As "obs/cell_type"; "obs/cell_type/codes" is the numbers of its categories.

    Returns
    -------
    Column
        All of it is in memory.

    Raises
    ------
    KeyError
        When there is no such object.
    FormatError
        When it is no column.
    CorruptFileError
        When it cannot be read, or its parts contradict each other.
    """
    found = find_member(root, name)
    if isinstance(found, h5py.Dataset):
        values, categories = _values(found), _old_categories(found)
        return Column(values) if categories is None else _coded(found, values, categories)
    for parts, make in ((_CODED, _coded), (_MASKED, _masked)):
        inside = [member(found, part) for part in parts] if isinstance(found, h5py.Group) else []
        if inside and all(isinstance(part, h5py.Dataset) for part in inside):
            return make(found, *(_values(part) for part in inside))
    encoding = read_text(found, "encoding-type", lenient=True)
    raise FormatError(f"{locate(root)}: {name!r} ({encoding}) is no column")


def _values(dset: h5py.Dataset) -> np.ndarray:
    """Read a dataset; text as an array of objects."""
    where = f"{dset.file.filename}, dataset {dset.name!r}"
    if dset.shape is None or not dset.shape:
        raise FormatError(f"{where}: an entry a row expected, found shape {dset.shape}")
    try:
        text = h5py.check_string_dtype(dset.dtype) is not None
        if len(dset.shape) == 1:
            check_sound(dset)
        values = dset.asstr(errors="replace")[()] if text else dset[()]
    except (MemoryError, FormatError, CorruptFileError):
        raise
    except Exception as problem:  # whatever HDF5 and its filters raise of what is damaged
        raise_if_systems(problem, dset.file.filename)
        raise CorruptFileError(f"{where}: cannot be read: {problem}") from problem
    if not text and values.dtype.kind not in "biufc":
        raise FormatError(f"{where}: numbers or text expected, found type {values.dtype}")
    if text:
        return np.asarray(values, object)
    return values.astype(values.dtype.newbyteorder("="), copy=False)


def _old_categories(dset: h5py.Dataset) -> np.ndarray | None:
    """Return what codes of anndata 0.7 and before stand for: an attribute leads there."""
    reference = dset.attrs.get("categories") if "categories" in dset.attrs else None
    if not isinstance(reference, h5py.Reference) or not reference:
        return None
    return _values(dset.file[reference])


def _coded(group: Any, codes: np.ndarray, categories: np.ndarray) -> Column:
    """Check codes; what is missing gets a category of its own, behind all others."""
    where = f"{group.file.filename}, {group.name!r}"
    if codes.ndim != 1 or categories.ndim != 1 or codes.dtype.kind not in "iu":
        raise FormatError(f"{where}: codes and categories expected, found {codes.dtype}")
    if codes.size and not -1 <= codes.min() <= codes.max() < categories.size:
        raise CorruptFileError(
            f"{where}: codes from {codes.min()} to {codes.max()}, and there are {categories.size} "
            "categories"
        )
    if codes.size and codes.min() < 0:  # numpy takes the last of -1
        return Column(codes, np.append(_with_missing(categories), _nothing(categories)))
    return Column(codes, categories)


def _masked(group: Any, values: np.ndarray, mask: np.ndarray) -> Column:
    """Put what stands for a missing value where the mask is true."""
    if mask.shape != values.shape:
        raise CorruptFileError(
            f"{group.file.filename}, {group.name!r}: a mask of shape {mask.shape} for values of "
            f"shape {values.shape}"
        )
    mask = mask.astype(bool)
    if mask.any():
        values = _with_missing(values)
        values[mask] = _nothing(values)
    return Column(values)


def _with_missing(values: np.ndarray) -> np.ndarray:
    """Return values as a type that has one for what is missing."""
    return values.copy() if values.dtype.kind in "Ofc" else values.astype(np.float64)


def _nothing(values: np.ndarray) -> Any:
    return None if values.dtype.kind == "O" else np.nan
