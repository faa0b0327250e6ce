"""Matrices joined without copying: HDF5 virtual datasets over the files they lie in."""

import os
from pathlib import Path
from typing import Any, TypeGuard

import h5py
import numpy as np

from ...axis import Axis
from ...blocks.contents import Contents
from ...errors import raise_if_systems
from ..claims.sound import check_sound, plain_name
from ..files.files import open_to_read
from ..formats.conventions import Header
from ..write.groups import write_virtual
from ..write.keywords import Storage

__all__ = ["sources_of", "write_joined"]


def write_joined(
    file: Any,
    name: str,
    storage: Storage,
    target: Axis,
    parts: list[Contents | None],
    axis: int,
) -> None:
    """Store row pointers, and `data` and `indices` as virtual datasets over other files.

    Parameters
    ----------
    file, name, storage
        As of `diskcsr.storage.write.groups.write_virtual`.
    target : Axis
        Of the joined matrix.
    parts : list of Contents
        What is joined; None for a matrix that is in no file.
    axis : {0, 1}
        Along which it is joined.

    Raises
    ------
    ValueError
        When that is not possible.
    CorruptFileError
        When a chunk of a part is not where it can be.
    """
    checked = _checked(parts, target, axis)
    folder = os.path.dirname(
        os.path.realpath(file.file.filename if hasattr(file, "file") else os.fsdecode(file))
    )
    sizes = [part.nnz for part in checked]
    layouts = {}
    for array in ("data", "indices"):
        dtype = _dataset(checked[0], array).dtype
        layout = h5py.VirtualLayout((sum(sizes),), dtype)
        begin = 0
        for part, size in zip(checked, sizes, strict=True):
            if size:
                dset = _dataset(part, array)
                check_sound(dset)  # whoever reads the joined matrix may not look first
                place = _place(part.source.path or "", folder)
                whole = h5py.VirtualSource(place, dset.name, dset.shape, dset.dtype)
                layout[begin : begin + size] = whole[:size]
            begin += size
        layouts[array] = layout
    lengths = np.concatenate([part.lengths() for part in checked])
    indptr = np.append(0, lengths.cumsum())
    shape = target.swap((lengths.size, checked[0].n_minor))
    write_virtual(file, name, storage, target.format, shape, indptr, layouts)


def sources_of(file: Any, name: str | None = None) -> set[Path] | None:
    """Return the files that virtual datasets of a file refer to, by the paths they give.

    Parameters
    ----------
    file : path
    name : str, optional
        Of one matrix; default all that the file has.

    Returns
    -------
    set of Path or None
        Empty where there is no such file or matrix; None where the file is damaged.

    Raises
    ------
    OSError, MemoryError
        When it is the system that does not let it be read: that may be over soon.
    """
    found: set[Path] = set()

    def add(_: str, thing: Any) -> None:
        if isinstance(thing, h5py.Dataset) and thing.is_virtual:
            names = {source.file_name for source in thing.virtual_sources()}
            found.update(Path(plain_name(name)) for name in names)

    try:
        with open_to_read(os.fsdecode(file)) as opened:
            group = opened if name is None else opened.get(name)
            if group is not None:
                group.visititems(add)
    except FileNotFoundError:
        pass
    except Exception as problem:  # of damage, HDF5 tells with nearly any exception
        if isinstance(problem, MemoryError):
            raise
        raise_if_systems(problem, file)
        return None
    return found


def _checked(parts: list[Contents | None], target: Axis, axis: int) -> list[Contents]:
    """Return the parts, or say why they cannot be joined without copying."""
    if axis != target.major:
        raise ValueError(
            f"virtual=True joins {target.format} matrices along axis {target.major} only: along "
            f"axis {axis} the rows would have to be merged"
        )
    found: list[Contents] = []
    for number, part in enumerate(parts):
        problem = None
        if not _is_in_a_file(part):
            problem = "is not in a file, or was changed in memory"
        elif part.axis is not target:
            problem = f"is stored as {part.axis.format}, not as {target.format}"
        elif _has_no_values(part.source.header):
            problem = "does not store a value for each entry"
        else:
            found.append(part)
            for name in ("data", "indices"):
                own, first = _dataset(part, name).dtype, _dataset(found[0], name).dtype
                if own != first:
                    problem = f"stores {name!r} as {own}, the first as {first}"
        if problem:
            raise ValueError(f"virtual=True cannot join array {number}: it {problem}")
    return found


def _has_no_values(header: Header) -> bool:
    return header.iso or header.data is None or header.indices is None


def _is_in_a_file(part: Contents | None) -> TypeGuard[Contents]:
    """Whether a part lies in a file just as it is shown."""
    if not isinstance(part, Contents) or part.held or part.axis is not part.source.axis:
        return False
    return part.source.path is not None


def _dataset(part: Contents, name: str) -> h5py.Dataset:
    return part.source.dataset(name)


def _place(path: str, folder: str) -> str:
    """How the virtual dataset names a file: HDF5 looks beside the file first, and formats names."""
    real = os.path.realpath(path)
    below = os.path.commonpath([real, folder]) == folder
    name = os.path.relpath(real, folder) if below else real
    return name.replace("%", "%%")
