"""The conventions for keeping a sparse matrix in HDF5, one row each.

A row looks at attributes, the types and lengths of datasets, and datasets of one or two numbers.
What it does not understand it refuses by name.
"""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import h5py
import numpy as np

from ...axis import CSC, CSR
from ...errors import CorruptFileError, DiskCSRError, FormatError
from .fields import (
    array_or_none,
    dataset_or_none,
    lengths,
    locate,
    member,
    read_attribute,
    read_lengths,
    read_text,
    shorten,
)

__all__ = ["ARRAYS", "FORMATS", "SHAPE_TAGS", "WRITTEN", "Format", "Header", "Hints", "Shape"]

Shape = tuple[int, int]

ARRAYS = ("data", "indices", "indptr")
#: The attributes that say a shape, h5sparse's and AnnData's.
SHAPE_TAGS = ("h5sparse_shape", "shape")


@dataclass(frozen=True)
class Header:
    """What a group says about the matrix in it.

    Attributes
    ----------
    format : {"csr", "csc"}
    shape : (int, int)
        Rows, columns.
    data, indices : str or None
        Names of the datasets; both None when they are absent because nothing is stored.
    indptr : str
    convention : str
        Names of the rows of `FORMATS` that recognised the group, joined by "+".
    iso : bool
        `data` has length 1 and holds the value of every stored entry (binsparse).
    dtype : numpy.dtype or None
        Type of the values where the stored type does not tell it: booleans kept as bytes (MATLAB
        logical, binsparse bint8), and values that are absent. None elsewhere.
    """

    format: str
    shape: Shape
    data: str | None
    indices: str | None
    indptr: str
    convention: str
    iso: bool = False
    dtype: np.dtype | None = None


@dataclass(frozen=True)
class Hints:
    """What the user says of a matrix; None where the file is to say it."""

    format: str | None = None
    shape: Shape | None = None


@dataclass(frozen=True)
class Format:
    """One on-disk convention.

    Attributes
    ----------
    name : str
    recognise : callable
        ``(group, hints) -> Header or None``. None means the group does not carry the marks; a
        group that does but cannot be read raises.
    stamp : callable or None
        ``(group, header)``: write the attributes. None for conventions that are only read.
    looks_for : str
        What the marks are, for the message when nothing was recognised.
    tags : tuple of str
        The attributes that `stamp` writes.
    tagged : bool
        Whether the marks are tags meant to be such. Otherwise (names of datasets alone) the row
        is tried only when no tag was found.
    """

    name: str
    recognise: Callable[[h5py.Group, Hints], Header | None]
    stamp: Callable[[h5py.Group, Header], None] | None
    looks_for: str
    tags: tuple[str, ...] = ()
    tagged: bool = True


# --------------------------------------------------------------------------------------- the rows


def _file_shape(group: h5py.Group, *attributes: str, dataset: bool = False) -> Shape | None:
    """Return the shape a group states, in whichever places; None when in none.

    Raises
    ------
    FormatError
        When two places disagree.
    """
    said: dict[str, Any] = {}
    for name in attributes:
        value = read_attribute(group, name)
        if value is not None:
            place = f"attribute {name!r}"
            said[place] = lengths(value, 2, locate(group, place))
    if dataset and (stored := read_lengths(group, "shape", 2)) is not None:
        said["dataset 'shape'"] = stored
    if len(set(said.values())) > 1:
        both = " but ".join(f"{place} says {shape}" for place, shape in said.items())
        raise FormatError(f"{locate(group)}: {both}; pass shape= to settle it")
    return next(iter(said.values()), None)


def _tag_shape(group: h5py.Group, hints: Hints) -> Shape:
    """Return the shape of a group with h5sparse's or AnnData's tags.

    Either kind may hold only the other's shape: AnnData's append replaces `h5sparse_shape` by
    `shape` and leaves `h5sparse_format`.
    """
    shape = hints.shape or _file_shape(group, *SHAPE_TAGS)
    if shape is None:
        raise FormatError(
            f"{locate(group)}: neither attribute 'h5sparse_shape' nor 'shape' is there to give "
            "the shape; pass shape="
        )
    return shape


_SPARSE_NAME = re.compile(r"(?P<format>\w+?)(_(matrix|array))?", re.ASCII | re.IGNORECASE)
_SCIPY_FORMATS = ("csr", "csc", "coo", "bsr", "dia", "dok", "lil")


def _sparse_format(text: str | None) -> str | None:
    """Return scipy's format name in ``csr``, ``csr_matrix`` or ``csr_array``; None in others.

    >>> _sparse_format("csc_array"), _sparse_format("coo_matrix"), _sparse_format("dict")
    ('csc', 'coo', None)
    """
    match = _SPARSE_NAME.fullmatch(text or "")
    name = match["format"].lower() if match else None
    return name if name in _SCIPY_FORMATS else None


def _supported(group: h5py.Group, attribute: str, name: str | None) -> str:
    """Return a format name from a tag, if it is one of the two."""
    if name in (CSR.format, CSC.format):
        return str(name)
    where = locate(group, f"attribute {attribute!r}")
    raise FormatError(
        f"{where}: unsupported sparse format {shorten(read_text(group, attribute))}; supported "
        "are csr and csc"
    )


def _write_text(group: h5py.Group, name: str, text: str) -> None:
    group.attrs.create(name, text, shape=(), dtype=h5py.string_dtype("utf-8"))


def _write_shape(group: h5py.Group, name: str, shape: Shape) -> None:
    group.attrs.create(name, np.array(shape, "<i8"), shape=(2,), dtype="<i8")


def _h5sparse(group: h5py.Group, hints: Hints) -> Header | None:
    text = read_text(group, "h5sparse_format")
    if text is None:
        return None
    name = _supported(group, "h5sparse_format", _sparse_format(text))
    return Header(name, _tag_shape(group, hints), *ARRAYS, "h5sparse")


def _stamp_h5sparse(group: h5py.Group, header: Header) -> None:
    _write_text(group, "h5sparse_format", header.format)
    _write_shape(group, "h5sparse_shape", header.shape)


def _anndata(group: h5py.Group, hints: Hints) -> Header | None:
    name = _sparse_format(read_text(group, "encoding-type", lenient=True))
    if name is None:  # AnnData tags everything it writes: dict, dataframe, array, ...
        return None
    name = _supported(group, "encoding-type", name)
    version = read_text(group, "encoding-version")
    if version not in (None, "", "0.1.0"):
        where = locate(group, "attribute 'encoding-version'")
        raise FormatError(f"{where}: unsupported version {shorten(version)}; known is '0.1.0'")
    return Header(name, _tag_shape(group, hints), *ARRAYS, "anndata")


def _stamp_anndata(group: h5py.Group, header: Header) -> None:
    _write_text(group, "encoding-type", f"{header.format}_matrix")
    _write_text(group, "encoding-version", "0.1.0")
    _write_shape(group, "shape", header.shape)


# Keys of a descriptor, binsparse specification 0.1: https://graphblas.org/binsparse-specification/
_BINSPARSE_KEYS = {"version", "format", "shape", "number_of_stored_values", "data_types"}
_BINSPARSE_TYPES = re.compile(r"(iso\[)?((?:u?int(?:8|16|32|64)|float(?:32|64)|bint8))(?(1)\])")


def _binsparse(group: h5py.Group, hints: Hints) -> Header | None:
    text = read_text(group, "binsparse")
    if text is None:
        return None
    where = locate(group, "attribute 'binsparse'")
    said = _descriptor(text, where)
    iso, dtype = _binsparse_types(said, where)
    shape = hints.shape
    if shape is None:
        rows, columns = lengths(said.get("shape"), 2, f"{where}, key 'shape'")
        shape = (rows, columns)
    name = str(said["format"]).lower()
    header = Header(name, shape, "values", "indices_1", "pointers_to_1", "binsparse", iso)
    values = array_or_none(group, "values", integer=False)
    stored = dtype if values is None else values.dtype.newbyteorder("=")
    if values is None or (dtype.kind == "b" and stored.kind in "biu" and stored.itemsize == 1):
        header = replace(header, dtype=dtype)
    elif stored != dtype:
        raise FormatError(f"{where}: dataset 'values' has type {stored}, not {dtype} as said here")
    indices = array_or_none(group, "indices_1", integer=True)
    count = said.get("number_of_stored_values")
    if hints.shape is None and count is not None and count != (indices.size if indices else 0):
        raise CorruptFileError(
            f"{where}: number_of_stored_values is {shorten(count)}, but dataset 'indices_1' "
            + (f"has {indices.size} entries" if indices else "is absent")
        )
    return header


def _descriptor(text: str, where: object) -> dict[str, Any]:
    """Parse a descriptor, wrapped (the specification) or flat; refuse what is not known."""
    try:
        said = json.loads(text)
    except (ValueError, RecursionError) as problem:
        raise FormatError(f"{where}: not JSON: {problem}") from problem
    if isinstance(said, dict) and "binsparse" in said:
        said = said["binsparse"]
    if not isinstance(said, dict):
        raise FormatError(f"{where}: not a binsparse descriptor: {shorten(text)}")
    if said.get("fill") is False:  # the same as no such key
        del said["fill"]
    for key in said.keys() - _BINSPARSE_KEYS:
        raise FormatError(f"{where}: unsupported {key!r}: {shorten(said[key])}")
    if said.get("version", "0.1") not in ("0.1", "0.1.0", 0.1):
        raise FormatError(f"{where}: unsupported version {shorten(said['version'])}")
    if said.get("format") not in ("CSR", "CSC"):
        raise FormatError(
            f"{where}: unsupported format {shorten(said.get('format'))}; supported are CSR, CSC"
        )
    return said


def _binsparse_types(said: dict[str, Any], where: object) -> tuple[bool, np.dtype]:
    """Return whether all values are one, and their type."""
    types = said.get("data_types")
    text = types.get("values") if isinstance(types, dict) else None
    match = _BINSPARSE_TYPES.fullmatch(text) if isinstance(text, str) else None
    if match is None:
        raise FormatError(f"{where}: unsupported type of values {shorten(text)}")
    for name in ("indices_1", "pointers_to_1"):
        kind = types.get(name) if isinstance(types, dict) else None
        if not isinstance(kind, str) or not re.fullmatch(r"u?int(8|16|32|64)", kind):
            raise FormatError(f"{where}: unsupported type of {name} {shorten(kind)}")
    return match[1] is not None, np.dtype(np.bool_ if match[2] == "bint8" else match[2])


def _matlab(group: h5py.Group, hints: Hints) -> Header | None:
    rows = read_attribute(group, "MATLAB_sparse")
    if rows is None:
        return None
    jc = array_or_none(group, "jc", integer=True)
    if jc is None or jc.size == 0:
        raise CorruptFileError(f"{locate(group)}: dataset 'jc' is missing or empty")
    (n_rows,) = (0,) if hints.shape else lengths(rows, 1, locate(group, "MATLAB_sparse"))
    shape = hints.shape or (n_rows, jc.size - 1)
    logical = read_text(group, "MATLAB_class", lenient=True) == "logical"
    dtype = np.dtype(np.bool_) if logical else None
    return Header(CSC.format, shape, "data", "ir", "jc", "matlab", dtype=dtype)


def _h5io(group: h5py.Group, hints: Hints) -> Header | None:
    # PyTables, too, gives every group a TITLE, of any text.
    name = _sparse_format(read_text(group, "TITLE", lenient=True))
    parts = member(group, "shape") if name else None
    if not isinstance(parts, h5py.Group):
        return None
    name = _supported(group, "TITLE", name)
    shape = hints.shape
    if shape is None:
        rows, columns = read_lengths(parts, "idx_0", 1), read_lengths(parts, "idx_1", 1)
        if rows is None or columns is None:
            raise FormatError(f"{locate(parts)}: no datasets 'idx_0' and 'idx_1'; pass shape=")
        shape = (rows[0], columns[0])
    return Header(name, shape, *ARRAYS, "h5io")


def _tenx(group: h5py.Group, hints: Hints) -> Header | None:
    if not all(dataset_or_none(group, name) for name in (*ARRAYS, "shape", "barcodes")):
        return None
    shape = hints.shape or _file_shape(group, dataset=True)
    indptr = array_or_none(group, "indptr", integer=True)
    if shape is None or indptr is None:
        return None
    if _fitting(shape, indptr.size) == [CSR.format]:  # rows of barcodes: not a 10x matrix
        return None
    return Header(CSC.format, shape, *ARRAYS, "10x")


def _untagged(group: h5py.Group, hints: Hints) -> Header | None:
    if not all(dataset_or_none(group, name) for name in ARRAYS):
        return None
    indptr = array_or_none(group, "indptr", integer=True)
    length = 0 if indptr is None else indptr.size
    try:
        stated = _file_shape(group, *SHAPE_TAGS, dataset=True)
    except DiskCSRError:
        if hints.shape is None:
            raise
        stated = None
    shape = hints.shape or stated
    if shape is None:
        wanted = "shape=" if hints.format else "format= and shape="
        raise FormatError(f"{locate(group)}: nothing says the shape of this matrix; pass {wanted}")
    fitting = _fitting(stated or shape, length)
    if hints.format is not None:
        if stated and len(fitting) == 1 and hints.format not in fitting:
            raise FormatError(
                f"{locate(group)}: format={hints.format!r} contradicts the {length} entries of "
                f"'indptr': with shape {stated} they make it {fitting[0]}"
            )
        fitting = [hints.format]
    if len(fitting) != 1:
        raise FormatError(
            f"{locate(group)}: nothing says csr or csc, and 'indptr' has {length} entries, which "
            f"fits {' and '.join(fitting) or 'neither'} with shape {shape}; pass format="
        )
    return Header(fitting[0], shape, *ARRAYS, "untagged")


def _fitting(shape: Shape, length: int) -> list[str]:
    """Return the formats in which a matrix of this shape has an indptr of this length."""
    return [axis.format for axis in (CSR, CSC) if shape[axis.major] + 1 == length]


FORMATS: tuple[Format, ...] = (
    Format(
        "h5sparse",
        _h5sparse,
        _stamp_h5sparse,
        "attribute 'h5sparse_format'",
        ("h5sparse_format", "h5sparse_shape"),
    ),
    Format(
        "anndata",
        _anndata,
        _stamp_anndata,
        "attribute 'encoding-type' csr_matrix/csc_matrix",
        ("encoding-type", "encoding-version", "shape"),
    ),
    Format("binsparse", _binsparse, None, "attribute 'binsparse' with a JSON descriptor"),
    Format("matlab", _matlab, None, "attribute 'MATLAB_sparse'"),
    Format("h5io", _h5io, None, "attribute 'TITLE' csr_matrix/csc_matrix and a group 'shape'"),
    Format("10x", _tenx, None, "datasets data, indices, indptr, shape, barcodes", tagged=False),
    Format("untagged", _untagged, None, "datasets data, indices, indptr", tagged=False),
)
#: The conventions that are written, by name.
WRITTEN = {row.name: row for row in FORMATS if row.stamp is not None}
