"""Finding a dense matrix where there is no sparse one."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import h5py

from ...errors import FormatError
from ..files.files import open_to_read
from ..files.transactions import close_file
from .detect import describe

__all__ = ["advice", "is_dense", "open_dense"]

#: Where dense matrices lie that are the only one of their file: AnnData's, loom's.
_USUAL = ("X", "matrix")


def is_dense(file: Any, name: str | None) -> bool:
    """Whether a path, or an open file or group, has a dense matrix of that name, or a usual one."""
    try:
        with open_dense(file, name):
            return True
    except (OSError, ValueError, KeyError):
        return False


@contextmanager
def open_dense(file: Any, name: str | None) -> Iterator[tuple[h5py.Dataset, bool]]:
    """Give a dense dataset of two dimensions, and whether it is to be read the other way round.

    Loom files hold genes x cells, where all others hold cells x genes.

    Parameters
    ----------
    file : path, h5py.File or h5py.Group
    name : str or None
        None: X or matrix, or else the only dataset of two dimensions at the top.

    Raises
    ------
    FormatError
        When there is none.
    """
    if isinstance(file, h5py.Group):
        yield _found(h5py.Group(file.id), name)
        return
    opened = open_to_read(os.fsdecode(file))
    try:
        yield _found(opened, name)
    finally:
        close_file(opened)


def _found(group: h5py.Group, name: str | None) -> tuple[h5py.Dataset, bool]:
    where = group.file.filename
    if name is None:
        matrices = [key for key in group if _is_matrix(_get(group, key))]
        usual = [key for key in _USUAL if key in matrices] or matrices
        if len(usual) != 1:
            listed = ", ".join(usual) or describe(group)
            raise FormatError(f"{where}: no dense matrix to choose: it has {listed}; give a name")
        name = usual[0]
    dataset = _get(group, name)
    if not _is_matrix(dataset):
        has = "nothing" if dataset is None else describe(dataset)
        raise FormatError(f"{where}: {name!r} is no dense matrix of numbers: it has {has}")
    beside = dataset.parent
    return dataset, name.strip("/") == "matrix" and {"row_attrs", "col_attrs"} <= set(beside)


def advice(group: h5py.Group, name: str | None) -> str:
    """Say which call makes a sparse matrix of a dense one; nothing where there is none."""
    try:
        dataset, _ = _found(group, name)
    except FormatError:
        return ""
    found = f"{group.name}/{name or dataset.name.rpartition('/')[2]}".strip("/")
    where = group.file.filename
    return f"; diskcsr.convert({where!r}, 'new.h5', source_name={found!r}) makes a sparse one of it"


def _get(group: h5py.Group, name: str) -> Any:
    try:
        return group[name]
    except (KeyError, ValueError, RuntimeError, OSError):
        return None


def _is_matrix(found: Any) -> bool:
    if not isinstance(found, h5py.Dataset) or found.shape is None or len(found.shape) != 2:
        return False
    return found.dtype.kind in "biufc"
