"""Finding the group of a sparse matrix in what the user gives."""

import io
import os
from typing import Any

import h5py

from ...errors import FormatError, ReadOnlyError
from ..claims.links import refuse_foreign
from ..claims.peek import note_bytes
from ..files.files import open_to_read, open_to_write
from ..files.transactions import close_file
from ..remote.fileobject import open_remote, remote_of, telling_cause
from ..remote.urls import check_options, is_url, shown_url
from . import detect as formats
from .dense import advice
from .others import not_hdf5

__all__ = ["find_group", "is_file_like", "is_url", "open_group"]


def is_file_like(candidate: Any) -> bool:
    """Whether something names or is a file or group, and not the contents of a matrix."""
    return isinstance(candidate, str | bytes | os.PathLike | h5py.Group) or (
        hasattr(candidate, "read") and hasattr(candidate, "seek")
    )


def open_group(
    file: Any,
    name: str | None,
    write: bool = False,
    storage_options: dict[str, Any] | None = None,
) -> tuple[h5py.Group, h5py.File | None]:
    """Open what `file` is and find the group of the matrix in it.

    Parameters
    ----------
    file : path, URL, h5py.File, h5py.Group or Python file object
    name : str or None
    write : bool
        Open for writing; a file passed in open must be open for that.
    storage_options : dict, optional
        Of a URL; see `diskcsr.open`.

    Returns
    -------
    group : h5py.Group
    owned : h5py.File or None
        The file, when it was opened here and is ours to close.

    Raises
    ------
    FormatError
        When the file is no HDF5 file, or holds no sparse matrix, or several and `name` is None.
    OSError
        When it cannot be opened.
    KeyError
        When there is no object `name`.
    ReadOnlyError
        When it was passed in open read-only and `write` is true.
    """
    if isinstance(file, h5py.Group):
        if write and file and file.file.mode == "r":
            raise ReadOnlyError(f"{file.file.filename} is open read-only: no mode 'r+' over it")
        # A subclass of h5py's may give anything for a name.
        return find_group(h5py.Group(file.id), name), None
    if isinstance(file, bytes):
        file = os.fsdecode(file)
    if is_url(file):
        return _open_url(file, name, write, storage_options)
    check_options(storage_options, file)
    try:
        if hasattr(file, "read"):
            owned = h5py.File(file, "r+" if write else "r")
            note_bytes(owned, file)
        else:
            owned = open_to_write(file, "r+") if write else open_to_read(file)
    except OSError as problem:
        if problem.errno is None and not _is_hdf5(file):  # what has a number the system said
            raise FormatError(f"{_name_of(file)!r} {not_hdf5(file)}") from problem
        raise
    try:
        return find_group(owned, name), owned
    except BaseException:
        close_file(owned)
        raise


def _open_url(
    url: str, name: str | None, write: bool, storage_options: dict[str, Any] | None
) -> tuple[h5py.Group, h5py.File]:
    if write:
        raise ReadOnlyError(f"{shown_url(url)} is on a server: it can be read, and not written to")
    owned = open_remote(url, storage_options)
    try:
        with telling_cause(remote_of(owned)):
            return find_group(owned, name), owned
    except BaseException:
        close_file(owned)
        raise


def _name_of(file: Any) -> Any:
    """What messages call a path or a file object."""
    return os.fsdecode(file) if isinstance(file, str | os.PathLike) else file


def _is_hdf5(file: Any) -> bool:
    if isinstance(file, io.IOBase) or hasattr(file, "read"):
        return False
    return bool(h5py.is_hdf5(os.fspath(file)))


def find_group(group: h5py.Group, name: str | None) -> h5py.Group:
    """Return the group of the matrix `name`, or of the only one; raises as `open_group` does."""
    where = group.file.filename
    if name is None:
        names = formats.find(group)
        if len(names) == 1:
            return group[names[0]]
        if formats.is_sparse(group):
            return group
        if not names:
            raise FormatError(
                f"{where}: no sparse matrix found in {group.name!r}; it has "
                f"{formats.describe(group)}{advice(group, None)}"
            )
        raise FormatError(f"{where}: several sparse matrices: {', '.join(names)}; give a name")
    try:
        refuse_foreign(group, name)
        found = group[name]
    except FormatError:
        raise
    except (KeyError, ValueError, RuntimeError, OSError) as problem:
        there = ", ".join(formats.find(group)) or formats.describe(group)
        raise KeyError(
            f"{where}: no object {name!r} in {group.name!r}; it has {there}"
        ) from problem
    if not isinstance(found, h5py.Group):
        kind = "a dense dataset" if isinstance(found, h5py.Dataset) else "no group"
        raise FormatError(
            f"{where}: {name!r} is {kind}, not the group of a sparse matrix{advice(group, name)}"
        )
    return found
