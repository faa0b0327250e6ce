"""Matrices joined without copying: HDF5 virtual datasets over the files they lie in."""

import os
from typing import Any

import h5py
import numpy as np

from ...axis import Axis
from ..read.source import Source
from ..write.groups import Storage, write_virtual

__all__ = ["write_joined"]


def write_joined(
    file: Any,
    name: str,
    storage: Storage,
    target: Axis,
    sources: list[Source | None],
    axis: int,
) -> None:
    """Store row pointers, and `data` and `indices` as virtual datasets over the sources.

    Raises
    ------
    ValueError
        When that is not possible.
    """
    checked = _checked(sources, target, axis)
    folder = os.path.dirname(
        os.path.realpath(file.file.filename if hasattr(file, "file") else os.fsdecode(file))
    )
    sizes = [source.nnz(target.swap(source.shape)[0], {}) for source in checked]
    layouts = {}
    for part in ("data", "indices"):
        dtype = _stored(checked[0], part).dtype
        layout = h5py.VirtualLayout((sum(sizes),), dtype)
        begin = 0
        for source, size in zip(checked, sizes, strict=True):
            if size:
                dset = _stored(source, part)
                place = _place(source.path or "", folder)
                whole = h5py.VirtualSource(place, dset.name, dset.shape, dset.dtype)
                layout[begin : begin + size] = whole[:size]
            begin += size
        layouts[part] = layout
    pointers = [np.zeros(1, np.int64)]
    for source, start in zip(checked, np.cumsum([0, *sizes[:-1]]), strict=True):
        pointers.append(source.spans(range(target.swap(source.shape)[0]), {})[1] + start)
    n_major = sum(target.swap(source.shape)[0] for source in checked)
    shape = target.swap((n_major, target.swap(checked[0].shape)[1]))
    indptr = np.concatenate(pointers)
    write_virtual(file, name, storage, target.format, shape, indptr, layouts)


def _checked(sources: list[Source | None], target: Axis, axis: int) -> list[Source]:
    """Return the sources, or say why they cannot be joined without copying."""
    if axis != target.major:
        raise ValueError(
            f"virtual=True joins {target.format} matrices along axis {target.major} only: along "
            f"axis {axis} the rows would have to be merged"
        )
    found: list[Source] = []
    for number, source in enumerate(sources):
        problem = None
        if source is None or source.path is None:
            problem = "is not in a file, or was changed in memory"
        elif source.axis is not target:
            problem = f"is stored as {source.axis.format}, not as {target.format}"
        elif source.header.iso or source.header.data is None or source.header.indices is None:
            problem = "does not store a value for each entry"
        else:
            found.append(source)
            for part in ("data", "indices"):
                own, first = _stored(source, part).dtype, _stored(found[0], part).dtype
                if own != first:
                    problem = f"stores {part!r} as {own}, the first as {first}"
        if problem:
            raise ValueError(f"virtual=True cannot join array {number}: it {problem}")
    return found


def _stored(source: Source, part: str) -> h5py.Dataset:
    return source.group[getattr(source.header, part)]


def _place(path: str, folder: str) -> str:
    """How the virtual dataset names a file: HDF5 looks beside the file first, and formats names."""
    real = os.path.realpath(path)
    name = os.path.basename(real) if os.path.dirname(real) == folder else real
    return name.replace("%", "%%")
