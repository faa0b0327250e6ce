"""What a file holds and how it is read, as plain data: one dictionary for each matrix."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from ...blocks.contents import Contents
from ...blocks.joined import Joined
from ...errors import FormatError, RemoteError, StaleFileError
from ...keys.widths import INT32_MAX
from ...machine.options import options
from ...machine.progress import Progress, heard, reporting, to_the_end
from ..codecs.pipeline import pipeline_of
from ..codecs.table import faster_decoders
from ..files.files import open_to_read
from ..files.transactions import close_file
from ..formats.conventions import ARRAYS
from ..formats.detect import describe, find
from ..formats.others import not_hdf5
from ..journal.names import check_ordinary
from ..read.direct import DirectReader
from ..read.source import Source
from ..read.untrusted import call_apart, check_alone
from ..remote.fileobject import open_remote, remote_of, telling_cause
from ..remote.urls import check_options, is_url, refuse_remote, shown_url
from .scan import is_sorted, work_of
from .stored import ignore

__all__ = ["array_facts", "info", "info_apart"]

#: Elements whose order is looked at without being asked for: a moment's work.
_CHEAP = 1 << 20
#: The default chunk, and how far from it chunks are worth a hint.
_CHUNK, _TINY, _HUGE = 1 << 16, 1 << 12, 1 << 20
#: Small chunks that there have to be before they slow reading, where they are decoded or not.
_MANY_DECODED, _MANY = 64, 10_000


def info(
    file: Any,
    name: str | None = None,
    *,
    deep: bool = False,
    untrusted: bool = False,
    progress: Progress = None,
    storage_options: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Say which sparse matrices a file holds, how they are stored and what reads them.

    Parameters
    ----------
    file : path or URL, or list of these or of pairs with a name
        An HDF5 file; of several, what is said of each of their matrices.
    name : str, optional
        One group only.
    deep : bool
        Read all indices to say whether they are sorted, however many there are.
    untrusted : bool
        Have all of it done by a process with limits, as in `diskcsr.open`: this one does not open
        the file at all. Files that lead to others are refused.
    progress : bool or callable, optional
        As of `diskcsr.write`; told with `deep` alone, as nothing else takes long.
    storage_options : dict, optional
        Of URLs; see `diskcsr.open`.

    Returns
    -------
    dict
        Plain data: "file", "bytes", "matrices" (a list of dictionaries) and "instead": what there
        is where no sparse matrix is. Of several files "file" is a list, and each matrix has one. Of
        each matrix "name", "format", "convention", "shape", "nnz", "density", "dtype", "sorted",
        "stored_bytes", "memory_bytes", "ratio", "arrays" (what is known of each of the three,
        "reader" and "filters" among it) and "hints" at what would make it faster to read. A matrix
        that cannot be opened has an "error".

    Raises
    ------
    OSError, FormatError, KeyError
        When the file cannot be opened or has no object `name`.
    ValueError
        When a file that is `untrusted` is on a server, or `storage_options` are for none.
    CorruptFileError
        When an `untrusted` file crashed that process, or exceeded its limits.

    See Also
    --------
    diskcsr.check : looks for damage.

    Notes
    -----
    ``python -m diskcsr info`` prints the same.

    Examples
    --------
    >>> import diskcsr, numpy as np, os, scipy.sparse as sp, tempfile
    >>> path = os.path.join(tempfile.mkdtemp(), "m.h5")
    >>> diskcsr.write(path, sp.csr_array(np.eye(3))).close()
    >>> (matrix,) = diskcsr.info(path)["matrices"]
    >>> matrix["name"], matrix["shape"], matrix["nnz"], matrix["arrays"]["data"]["reader"]
    ('/X', [3, 3], 3, 'direct')
    """
    if isinstance(file, list | tuple):
        how: dict[str, Any] = {"deep": deep, "untrusted": untrusted, "progress": progress}
        return _of_several(file, name, how, storage_options)
    if is_url(file):
        if untrusted:
            refuse_remote(file, "untrusted=True")
        return _of_url(file, name, deep, progress if deep else None, storage_options)
    check_options(storage_options, file)
    path = os.fsdecode(os.fspath(file))
    check_ordinary(path)
    with open(path, "rb"):
        pass  # the system's own words for what is missing or forbidden
    progress = progress if deep else None
    if untrusted:
        limits: dict[str, Any] = {
            "seconds": options.untrusted_seconds,
            "memory": options.untrusted_bytes,
        }
        found: dict[str, Any] = call_apart(
            _facts, path, name, deep, True, progress=progress, **limits
        )
        return found
    return _facts(path, name, deep, progress=progress)


def _of_several(
    files: Any, name: str | None, how: dict[str, Any], options: dict[str, Any] | None
) -> dict[str, Any]:
    """Say of each file what `info` says of it; `options` are of those that are URLs."""
    places = [given if isinstance(given, tuple) else (given, name) for given in files]
    if places and not any(is_url(path) for path, _ in places):
        check_options(options, places[0][0])
    found = [
        info(path, own, **how, storage_options=options if is_url(path) else None)
        for path, own in places
    ]
    matrices = [{"file": one["file"], **matrix} for one in found for matrix in one["matrices"]]
    instead = next((one["instead"] for one in found if one["instead"] is not None), None)
    total = sum(one["bytes"] for one in found)
    files = [one["file"] for one in found]
    return {"file": files, "bytes": total, "matrices": matrices, "instead": instead}


def info_apart(
    file: str, name: str | None, deep: bool, silence: float, progress: Progress = None
) -> dict[str, Any]:
    """Do what `info` does in a process that HDF5 may crash, without a limit but on silence.

    Of a file on a server in this one, where requests are under way.
    """
    if is_url(file):
        return info(file, name, deep=deep, progress=progress)
    check_ordinary(file)
    with open(file, "rb"):
        pass
    progress = progress if deep else None
    found: dict[str, Any] = call_apart(_facts, file, name, deep, progress=progress, silence=silence)
    return found


def _facts(
    path: str, name: str | None, deep: bool, alone: bool = False, progress: Progress = None
) -> dict[str, Any]:
    if not h5py.is_hdf5(path):
        raise FormatError(f"{path!r} {not_hdf5(path)}")
    with open_to_read(path) as opened:
        if alone:
            check_alone(opened)
        found = _matrices(opened, name, deep, progress)
    return {"file": path, "bytes": Path(path).stat().st_size, **found}


def _of_url(
    url: str, name: str | None, deep: bool, progress: Progress, options: dict[str, Any] | None
) -> dict[str, Any]:
    """Say of a file on a server what `info` says of one at hand."""
    opened = open_remote(url, options)
    try:
        through = remote_of(opened)
        with telling_cause(through):
            found = _matrices(opened, name, deep, progress)
        return {"file": shown_url(url), "bytes": through.remote.size if through else 0, **found}
    finally:
        close_file(opened)


def _matrices(
    opened: h5py.File, name: str | None, deep: bool, progress: Progress
) -> dict[str, Any]:
    names = find(opened) if name is None else [name]
    work = [_work_of(opened, one) for one in names] if progress else [0] * len(names)
    matrices = []
    with reporting(progress, sum(work), "reading") as advance:
        for one, total in zip(names, work, strict=True):
            with to_the_end(advance, total) as told, heard(told) as step:
                matrices.append(_matrix(opened, one, deep, step))
    return {"matrices": matrices, "instead": None if matrices else describe(opened)}


def _work_of(file: h5py.File, name: str) -> int:
    try:
        return work_of(file[name], whole=False)
    except Exception:  # whoever opens it says why not
        return 0


def _matrix(
    file: h5py.File, name: str, deep: bool, advance: Callable[[int], None] = ignore
) -> dict[str, Any]:
    try:
        group = file[name]
    except Exception as problem:
        there = ", ".join(find(file)) or describe(file)
        raise KeyError(f"{file.filename}: no object {name!r}; it has {there}") from problem
    if not isinstance(group, h5py.Group):
        raise FormatError(f"{file.filename}: {name!r} is {describe(group)}, no group")
    through = remote_of(file)
    try:
        source = Source(group, None)
        try:
            return _opened(source, deep, advance)
        finally:
            source.close()
    except (RemoteError, StaleFileError):
        raise
    except Exception as problem:  # of damage, HDF5 tells with nearly any exception
        if through is not None and through.problem is not None:
            raise  # for what the server did
        text = " ".join(str(problem).removeprefix(f"{file.filename}, ").split())
        return {"name": group.name, "error": text}


def _opened(source: Source, deep: bool, advance: Callable[[int], None]) -> dict[str, Any]:
    contents = Contents.stored(source)
    n_major, n_minor, nnz = contents.n_major, contents.n_minor, contents.nnz
    arrays = {part: array_facts(source, part) for part in ARRAYS}
    stored = sum(array["stored_bytes"] for array in arrays.values())
    memory = sum(array["memory_bytes"] for array in arrays.values())
    ordered = None
    if deep or nnz <= _CHEAP:
        ordered = is_sorted(source.group, source.header, advance)
    facts = {
        "name": source.name,
        "error": None,
        "format": source.axis.format,
        "convention": source.header.convention,
        "shape": list(source.shape),
        "nnz": nnz,
        "density": nnz / (n_major * n_minor) if n_major and n_minor else 0.0,
        "dtype": str(source.dtype),
        "sorted": ordered,
        "stored_bytes": stored,
        "memory_bytes": memory,
        "ratio": _ratio(memory, stored),
        "arrays": arrays,
    }
    return facts | {"hints": _hints(source, arrays, n_minor, ordered)}


def _ratio(memory: int, stored: int) -> float | None:
    return round(memory / stored, 3) if stored else None


def array_facts(source: Source, part: str) -> dict[str, Any]:
    """Collect what is known of one of the three arrays, without reading it."""
    reader = source.readers()[part] if isinstance(source, Joined) else source.reader(part)
    name = None if isinstance(source, Joined) else getattr(source.header, part)
    facts: dict[str, Any] = {
        "dataset": name,
        "dtype": str(reader.dtype),
        "size": 0,
        "chunks": None,
        "maxshape": None,
        "filters": [],
        "stored_bytes": 0,
        "memory_bytes": 0,
        "ratio": None,
        "reader": reader.name,
        "why": reader.why,
        "extents": None,
    }
    if isinstance(source, Joined):
        memory, stored = reader.size * reader.dtype.itemsize, reader.stored_bytes
        sizes = {"size": reader.size, "stored_bytes": stored, "memory_bytes": memory}
        return facts | sizes | {"ratio": _ratio(memory, stored)}
    if name is None:
        return facts
    dset = source.group[name]
    memory, stored = reader.size * reader.dtype.itemsize, int(dset.id.get_storage_size())
    filters = [{"id": f.id, "name": f.name, "options": list(f.cd)} for f in _filters(dset)]
    return facts | {
        "dtype": str(dset.dtype),
        "size": int(dset.size),
        "chunks": int(dset.chunks[0]) if dset.chunks else None,
        "maxshape": dset.maxshape[0],
        "filters": filters,
        "extents": len(reader.extent_offset) if isinstance(reader, DirectReader) else None,
        "stored_bytes": stored,
        "memory_bytes": memory,
        "ratio": _ratio(memory, stored),
    }


def _filters(dset: h5py.Dataset) -> Any:
    return pipeline_of(dset).filters


# ----------------------------------------------------------------------------------------- hints


def _hints(
    source: Source, arrays: dict[str, dict[str, Any]], n_minor: int, ordered: bool | None
) -> list[str]:
    """Say what would make the matrix faster to read, or possible to append to."""
    hints = [hint for part in ARRAYS for hint in _array_hints(part, arrays[part])]
    filters = {one["id"] for array in arrays.values() for one in array["filters"]}
    hints += faster_decoders(filters)
    indices = arrays["indices"]
    if indices["size"] and np.dtype(indices["dtype"]).itemsize == 8 and n_minor <= INT32_MAX:
        hints.append(
            f"indices are {indices['dtype']} where int32 would do: convert halves their size"
        )
    if ordered is False:
        hints.append(
            f"indices are not sorted within {source.axis.majors}: convert, or check --repair"
        )
    if source.axis.minor == 0:
        hints.append(
            "columns are contiguous, rows are not: where rows are wanted, convert the "
            "matrix to the format that keeps rows together (convert --format)"
        )
    fixed = [
        array["dataset"]
        for array in arrays.values()
        if array["dataset"] and array["maxshape"] is not None
    ]
    if fixed:
        hints.append(f"{', '.join(fixed)}: of fixed length, cannot be appended to: convert")
    return hints


def _array_hints(part: str, array: dict[str, Any]) -> list[str]:
    name, chunk = array["dataset"], array["chunks"]
    hints = []
    if array["reader"] == "h5py" and array["size"]:
        why = array["why"]
        advice = "install it" if "extra" in why else "rewrite it with convert"
        hints.append(f"{name} is read through h5py, which is slow ({why}): {advice}")
    if (array["extents"] or 1) > 1:
        hints.append(
            f"{name} lies in {array['extents']} extents: what computes with all of it loads it "
            "instead of mapping it; convert stores it in one"
        )
    # Row pointers are read as a whole and kept. Chunks that are not decoded cost no more than their
    # places, of which it takes many to be noticed.
    many = _MANY_DECODED if array["filters"] else _MANY
    if part != "indptr" and chunk and chunk < _TINY and array["size"] > many * chunk:
        hints.append(f"{name}: chunks of {chunk} elements are tiny; {_CHUNK} is the default")
    if chunk and chunk > _HUGE and array["filters"]:
        hints.append(
            f"{name}: chunks of {chunk} elements are huge, and one row decodes a whole one; "
            f"{_CHUNK} is the default"
        )
    return hints
