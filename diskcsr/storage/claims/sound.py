"""Whether HDF5 can be left alone with a dataset: looked at first, as it looks at nothing itself.

A virtual dataset is read from others. Where it leads back to itself HDF5 crashes, and where a
source is not there, or has lost chunks, HDF5 reads zeros without a word.
"""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import h5py

from ...errors import CorruptFileError, FormatError, LockedFileError, RollbackError
from ..files.files import open_to_read
from ..files.transactions import close_file
from ..journal.names import check_ordinary
from .chunks import Places, check_chunks
from .links import stays_inside

__all__ = ["check_sound", "open_source", "plain_name"]

#: How many virtual datasets may lead on to one another: each is one more call inside of HDF5.
_DEEPEST = 32
#: A block's number in the name of a source: which ones there are, only HDF5 finds out.
_NUMBERED = re.compile(r"(?:[^%]|%%)*%\d*b")


def check_sound(dset: h5py.Dataset) -> Places | None:
    """Check what HDF5 does not check when it reads a dataset.

    Returns
    -------
    Places or None
        Where its bytes lie in its own file, where that is known.

    Raises
    ------
    CorruptFileError
        When a chunk is not where it can be, or a virtual dataset lacks a source or is its own.
    FormatError
        When a virtual dataset has sources in files that HDF5 does not find.
    """
    if dset.is_virtual:
        _check_virtual(dset, [], set())
        return None
    return check_chunks(dset) if dset.chunks and dset.size else None


def _check_virtual(dset: h5py.Dataset, above: list[tuple], sound: set[tuple]) -> None:
    """Check the sources of a dataset that is itself a source of those `above`."""
    where = f"{dset.file.filename}, dataset {dset.name!r}"
    one = _identity(dset)
    if one in above:
        raise CorruptFileError(f"{where}: this virtual dataset is a source of itself")
    if len(above) == _DEEPEST:
        raise CorruptFileError(f"{where}: more than {_DEEPEST} virtual datasets lead here")
    if one in sound:
        return
    if not dset.is_virtual:
        check_sound(dset)
    else:
        names = {(source.file_name, source.dset_name) for source in dset.virtual_sources()}
        if stays_inside(dset.file) and any(file != "." for file, _ in names):
            raise FormatError(
                f"{where}: parts of it are in other files, which HDF5 does not find while this one "
                "is open for writing or behind a Python file object; open it by its path with "
                "mode 'r' or 'c'"
            )
        for file, name in sorted(names):
            if _NUMBERED.match(file) or _NUMBERED.match(name):
                continue
            with open_source(dset, plain_name(file), plain_name(name)) as source:
                _check_virtual(source, [*above, one], sound)
    sound.add(one)


def plain_name(name: str) -> str:
    """Return what a virtual dataset calls a file or dataset as it is called elsewhere."""
    return name.replace("%%", "%")


def _identity(dset: h5py.Dataset) -> tuple:
    """Say which dataset of which file this is."""
    return os.path.realpath(dset.file.filename), h5py.h5g.get_objinfo(dset.id).objno


@contextmanager
def open_source(dset: h5py.Dataset, file: str, name: str) -> Iterator[h5py.Dataset]:
    """Open a source of a virtual dataset, at a committed state of its file.

    Raises
    ------
    CorruptFileError
        When it is not there.
    LockedFileError, RollbackError
        As `diskcsr.storage.files.files.open_to_read` does.
    """
    where = f"{dset.file.filename}, dataset {dset.name!r}"
    lost = f"{where}: its source {name!r} in {file!r} cannot be opened, and reads as zeros"
    opened = None
    try:
        try:
            if file != ".":
                check_ordinary(_path(dset, file))
                opened = open_to_read(_path(dset, file))
            found = (opened or dset.file)[name]
        except (LockedFileError, RollbackError):
            raise
        except (OSError, KeyError, RuntimeError, ValueError) as problem:
            raise CorruptFileError(f"{lost}: {problem}") from problem
        if not isinstance(found, h5py.Dataset):
            raise CorruptFileError(f"{lost}: it is no dataset")
        yield found
    finally:
        if opened is not None:
            close_file(opened)


def _path(dset: h5py.Dataset, file: str) -> Path:
    """Find the file of a source where HDF5 looks for it."""
    folder = Path(os.path.realpath(dset.file.filename)).parent
    prefix = os.environ.get("HDF5_VDS_PREFIX", "").replace("${ORIGIN}", str(folder))
    places = [Path(prefix, file)] if prefix else []
    places += [folder / file, Path(file), folder / Path(file).name]
    return next((place for place in places if place.exists()), Path(file))
