"""Mend what can be mended without guessing.

All changes are made to a copy of the file beside it. Only when the copy was looked at again and is
better than the original does it take the original's name, so an interruption at any time, or a
failure, leaves the file as it was.
"""

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np

from ...axis import axis_of
from ...errors import FormatError
from ...machine.alive import waiting
from ...machine.options import format_bytes, require_memory
from ..formats.conventions import Header
from ..formats.tags import stamp, tags_there
from .problems import Scan
from .scan import scan
from .stored import open_arrays, row_blocks

__all__ = ["repair_file"]


def repair_file(path: str, scans: list[Scan], copy: str) -> tuple[list[str], dict[str, str]]:
    """Repair the matrices of a file.

    Parameters
    ----------
    path : str
    scans : list of Scan
        What was found in it.
    copy : str
        A name beside it for the copy that is worked on.

    Returns
    -------
    done : list of str
        What was done.
    left : dict
        By group, why nothing was done although something might have been.

    Raises
    ------
    OSError
        When there is no room for the copy, or another program has the file open.
    """
    wanted = [found for found in scans if found.clip or found.restamp or found.unsorted]
    left = {
        found.name: "nothing was changed: it has errors that cannot be repaired"
        for found in wanted
        if any(p.severity == "error" and not p.repairable for p in found.problems)
    }
    wanted = [found for found in wanted if found.name not in left]
    done: list[str] = []
    if wanted:
        with _replacing(os.path.realpath(path), copy):
            for found in wanted:
                try:
                    with h5py.File(copy, "r+") as file:
                        done += _repair(file[found.name], found)
                except Exception as problem:  # as a filter that this HDF5 does not have
                    raise FormatError(f"{found.name} cannot be repaired: {problem}") from problem
            with h5py.File(copy, "r") as file:
                for found in wanted:
                    _check_better(found, scan(file[found.name]))
    return done, left


def _check_better(before: Scan, after: Scan) -> None:
    """Refuse a copy in which anything is wrong that cannot have been before."""
    kinds = {problem.kind for problem in before.problems if not problem.repairable}
    for problem in after.problems:
        if problem.kind not in kinds and problem.severity != "note":
            raise FormatError(f"the repaired copy was discarded, it has: {problem}")


@contextmanager
def _replacing(path: str, copy: str) -> Iterator[None]:
    """Make a copy of a file to work on, and put it in the file's place at the end."""
    room, size = shutil.disk_usage(os.path.dirname(path)).free, os.path.getsize(path)
    if room < size:
        raise OSError(
            f"{path}: the repair works on a copy, which takes {format_bytes(size)}; "
            f"{format_bytes(room)} are free"
        )
    with open(path, "rb+") as original:
        # The lock that HDF5 takes: nobody writes meanwhile.
        fcntl.flock(original, fcntl.LOCK_EX | fcntl.LOCK_NB)
        try:
            with waiting():
                shutil.copyfile(path, copy)
                shutil.copystat(path, copy)
            yield
            with open(copy, "rb+") as written:
                os.fsync(written)
            os.replace(copy, path)
        except BaseException:
            Path(copy).unlink(missing_ok=True)
            raise


def _repair(group: h5py.Group, found: Scan) -> list[str]:
    """Change one group of the copy, and say what was done."""
    header = found.header
    assert header is not None  # without one, nothing is planned
    done = []
    if found.clip:
        done += _clip(group, header, *found.clip)
        header = replace(header, shape=_clipped(header, found.clip[0]))
    if found.restamp or (found.header is not None and header.shape != found.header.shape):
        stamp(group, header, tags_there(group))
        done.append(f"{group.name}: tags written: {header.format}, shape {header.shape}")
    if found.unsorted:
        done.append(_sort(group, header))
    return done


def _clipped(header: Header, rows: int) -> tuple[int, int]:
    axis = axis_of(header.format)
    return axis.swap((rows, axis.swap(header.shape)[1]))


def _clip(group: h5py.Group, header: Header, rows: int, elements: int) -> list[str]:
    done = []
    values = None if header.iso else header.data
    for name, length in ((header.indptr, rows + 1), (header.indices, elements), (values, elements)):
        if name is not None and group[name].size > length:
            done.append(f"{group[name].name}: {group[name].size} entries cut to {length}")
            group[name].resize((length,))
    return done


def _sort(group: h5py.Group, header: Header) -> str:
    """Sort the indices of each row, and the values with them; equal indices keep their order."""
    names = (header.data or "", header.indices or "", header.indptr)
    arrays = open_arrays(group, names, Scan(group.name))
    moved = [arrays[part] for part in ("indices",) + ("data",) * (not header.iso)]
    count, axis = 0, axis_of(header.format)
    for _, pointers in row_blocks(arrays["indptr"], axis.swap(header.shape)[0]):
        lo, hi = int(pointers[0]), int(pointers[-1])
        require_memory(40 * (hi - lo), f"{group.name}: sorting a row", "Raise the budget.")
        row = np.repeat(np.arange(pointers.size - 1), np.diff(pointers))
        order = np.lexsort((arrays["indices"].read(lo, hi), row))
        astray = order != np.arange(order.size)
        if astray.any():
            count += np.unique(row[astray]).size
            for array in moved:
                array.dset[lo:hi] = array.read(lo, hi)[order]
    return f"{group.name}: indices of {count} {axis.majors} sorted"
