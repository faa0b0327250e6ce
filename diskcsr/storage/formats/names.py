"""Names of rows or columns, as they are stored beside a matrix."""

from typing import Any

import h5py
import numpy as np

from ...errors import CorruptFileError, FormatError

__all__ = ["read_names"]


def read_names(file: h5py.File, key: str) -> np.ndarray:
    """Read the names in a file.

    Parameters
    ----------
    file : h5py.File
    key : str
        A dataset of text, or the group of a table of AnnData (as "var"), whose index they are.

    Returns
    -------
    (n,) object array
        Of str.

    Raises
    ------
    KeyError
        When there is no such object.
    FormatError
        When it holds no names.
    CorruptFileError
        When they cannot be read.
    """
    where = f"{file.filename}: {key!r}"
    try:
        if key not in file:
            raise KeyError(f"{file.filename}: no object {key!r} to take the names of columns from")
        found: Any = file[key]
        if isinstance(found, h5py.Group):
            index = found.attrs.get("_index", "_index")
            index = index.decode() if isinstance(index, bytes) else str(index)
            if index not in found:
                raise FormatError(f"{where} is no table with an index: it has no {index!r}")
            found = found[index]
        if found.ndim != 1 or h5py.check_string_dtype(found.dtype) is None:
            raise FormatError(f"{where} holds no names: {found.dtype} of shape {found.shape}")
        return np.asarray(found.asstr()[:], dtype=object)
    except (OSError, RuntimeError, UnicodeDecodeError) as problem:
        raise CorruptFileError(f"{where}: HDF5 cannot read the names: {problem}") from problem
