"""The on-disk conventions: which group is a sparse matrix, and what its parts are called.

`FORMATS` has one row per convention. Only attributes, the types and lengths of datasets, and
datasets of one or two numbers are looked at here: opening a matrix costs the same whatever its
size. What `indptr` and `indices` hold is checked when they are read.

A file may say anything. Whatever it says, the functions here return an answer or raise
`FormatError` or `CorruptFileError`; what a row does not understand it refuses by name.
"""

import operator
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import h5py
import numpy as np

from ...axis import axis_of
from ...errors import ClosedFileError, CorruptFileError, DiskCSRError, FormatError, raise_if_systems
from ..claims.headers import Asked
from .conventions import ARRAYS, FORMATS, Format, Header, Hints, Shape
from .fields import MAX_LENGTH, array_or_none, dataset_or_none, locate, read_text

__all__ = [
    "FORMATS",
    "Format",
    "Header",
    "Hints",
    "describe",
    "detect",
    "find",
    "is_sparse",
    "walk_groups",
]


# ---------------------------------------------------------------------------------------- reading


def detect(group: h5py.Group, *, format: str | None = None, shape: Any = None) -> Header:
    """Say what the sparse matrix in a group is, from its attributes and the types of its datasets.

    Parameters
    ----------
    group : h5py.Group
    format : {"csr", "csc"}, optional
        Settles what the file leaves open, or says in two ways. It cannot contradict the file.
    shape : (int, int), optional
        Used instead of what the file says.

    Raises
    ------
    FormatError
        When the group is no sparse matrix, or one that is not supported, or ambiguous.
    CorruptFileError
        When a part is missing or has the wrong number of dimensions.
    ClosedFileError
        When the file is closed.
    TypeError, ValueError
        When `format` or `shape` is not a format or a shape at all.
    """
    hints = Hints(None if format is None else axis_of(format).format, _given_shape(shape))
    if not group:
        raise ClosedFileError("the file of this group is closed")
    if not isinstance(group, h5py.Group):
        raise FormatError(f"{group.file.filename}: {group.name!r} is {describe(group)}, no group")
    if not isinstance(group, h5py.File):
        group = Asked(group)
    try:
        headers = _recognise(group, hints)
        if not headers:
            looked = "; ".join(f"{row.name}: {row.looks_for}" for row in FORMATS)
            raise FormatError(
                f"{locate(group)} is no sparse matrix; it has {describe(group)}. "
                f"Looked for {looked}"
            )
        return _checked(group, _merged(group, headers, hints))
    except (DiskCSRError, MemoryError):
        raise
    except Exception as problem:  # HDF5 meets damage in a file with nearly any exception
        raise_if_systems(problem, group.file.filename)
        raise CorruptFileError(f"{locate(group)}: cannot be read: {problem}") from problem


def _given_shape(shape: Any) -> Shape | None:
    """Check the `shape` argument of a user."""
    if shape is None:
        return None
    rows, columns = (operator.index(length) for length in shape)
    if not (0 <= rows <= MAX_LENGTH and 0 <= columns <= MAX_LENGTH):
        raise ValueError(f"shape must be two lengths of axes, not {shape!r}")
    return rows, columns


def _recognise(group: h5py.Group, hints: Hints) -> list[Header]:
    """Ask every tagged row; only when none answers, the others, of which the first counts."""
    headers: list[Header] = []
    for row in FORMATS:
        if not (headers and not row.tagged):
            header = row.recognise(group, hints)
            headers += [header] if header else []
    return headers


def _merged(group: h5py.Group, headers: list[Header], hints: Hints) -> Header:
    """Make one header of several that have to agree."""
    first = headers[0]
    names = "+".join(header.convention for header in headers)
    said = {header.format: header.convention for header in headers}
    if len(said) > 1 and hints.format is None:
        both = " but ".join(f"{convention} says {format}" for format, convention in said.items())
        raise FormatError(f"{locate(group)}: tags in conflict: {both}; pass format= to settle it")
    format = hints.format or first.format
    if format not in said:
        raise FormatError(
            f"{locate(group)}: format={format!r} contradicts the file: {first.convention} says "
            f"{first.format} (open it as that and take .T for the transpose)"
        )
    for other in headers[1:]:
        for name in ("shape", "data", "indices", "indptr", "iso", "dtype"):
            one, two = getattr(first, name), getattr(other, name)
            if one != two:
                raise FormatError(
                    f"{locate(group)}: tags in conflict on {name}: {first.convention} says {one} "
                    f"but {other.convention} says {two}"
                )
    return replace(first, format=format, convention=names)


def _checked(group: h5py.Group, header: Header) -> Header:
    """Check that the datasets are there and of the right kind; drop those that may be absent."""
    indptr = array_or_none(group, header.indptr, integer=True)
    data = array_or_none(group, header.data, integer=False)
    indices = array_or_none(group, header.indices, integer=True)
    if indptr is None:
        raise CorruptFileError(f"{locate(group)}: dataset {header.indptr!r} is missing")
    if data is None or indices is None:
        missing = header.data if data is None else header.indices
        alone = indices if data is None else data
        if alone is not None and alone.size and not (header.iso and indices is None):
            raise CorruptFileError(f"{locate(group)}: dataset {missing!r} is missing")
        if data is not None and data.dtype.names is None and header.dtype is None:
            header = replace(header, dtype=np.dtype(data.dtype.newbyteorder("=").str))
        return replace(header, data=None, indices=None, iso=False)
    if header.iso and data.size != 1:
        where = locate(group, f"dataset {header.data!r}")
        raise CorruptFileError(f"{where}: one value expected (iso), found {data.size}")
    return header


def is_sparse(group: Any) -> bool:
    """Whether a group carries the marks of a sparse matrix.

    True also for a tagged group that `detect` refuses, so that opening it says why. Groups without
    a tag count when `detect` needs no help with them.
    """
    if not isinstance(group, h5py.Group) or not group:
        return False
    for row in FORMATS:
        try:
            header = row.recognise(group, Hints())
            if header is not None:
                return row.tagged or bool(_checked(group, header))
        except MemoryError:
            raise
        except Exception as problem:  # detect() tells what is wrong with a tag
            raise_if_systems(problem, group.file.filename)
            return row.tagged
    return False


def walk_groups(root: h5py.Group) -> Iterator[tuple[str, h5py.Group]]:
    """Walk the groups below `root`, itself first, each once; links by name are left."""
    pending, seen = [(root.name or "/", root)], set()
    while pending:
        name, group = pending.pop()
        if group in seen:  # hard links may form a cycle
            continue
        seen.add(group)
        yield name, group
        for raw in group.id:
            if group.id.links.get_info(raw).type != h5py.h5l.TYPE_HARD:
                continue
            # Not `h5o.get_info`, which walks the chunk index of a dataset, however damaged.
            if h5py.h5g.get_objinfo(group.id, raw).type != h5py.h5g.GROUP:
                continue
            try:
                child = raw.decode()
            except UnicodeDecodeError:  # nobody could open it by name
                continue
            pending.append((f"{name.rstrip('/')}/{child}", group[raw]))


def find(root_group: h5py.Group) -> list[str]:
    """Return the full names of all sparse groups below a group, itself included, sorted.

    Raises
    ------
    CorruptFileError
        When the tree of groups cannot be walked.
    ClosedFileError
        When the file is closed.
    """
    if not root_group:
        raise ClosedFileError("the file of this group is closed")
    try:
        return sorted(name for name, group in walk_groups(root_group) if is_sparse(group))
    except MemoryError:
        raise
    except Exception as problem:
        raise_if_systems(problem, root_group.file.filename)
        raise CorruptFileError(
            f"{locate(root_group)}: its groups cannot be listed: {problem}"
        ) from problem


def describe(root: Any) -> str:
    """Say in a few words what an object that is no sparse group has instead; never raises."""
    try:
        if isinstance(root, h5py.Dataset):
            return f"dense dataset {root.name.lstrip('/')!r} {root.shape}"
        return _describe_group(root)
    except Exception as problem:
        return f"contents that cannot be listed ({problem})"


def _describe_group(root: h5py.Group) -> str:
    encoding = read_text(root, "encoding-type", lenient=True)
    owner = " of an AnnData object" if encoding == "anndata" else ""
    for name in ("matrix", "X"):
        dense = dataset_or_none(root, name)
        if dense is None or (name == "matrix" and not {"row_attrs", "col_attrs"} <= set(root)):
            continue
        return f"dense dataset {name!r} {dense.shape}{owner or ' of a loom file' * (name != 'X')}"
    for name, group in walk_groups(root):
        if is_sparse(group):
            return f"a sparse matrix in {name!r}: give that name"
        if all(dataset_or_none(group, part) for part in ARRAYS):
            return (
                f"data, indices and indptr in {name!r} with nothing to say what they are: give "
                "that name, format= and shape="
            )
    names = sorted(root)
    if not names:
        return "nothing in it"
    listed = ", ".join(names[:12]) + ", ..." * (len(names) > 12)
    return f"{listed}{owner and owner + ' without X'}"
