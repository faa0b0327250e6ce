"""A reader of h5sparse and AnnData groups in plain Python, which distrusts every number.

It shares nothing with diskcsr: arrays are read whole with h5py and walked entry by entry. Used as
the reference where a file may contradict itself.
"""

from dataclasses import dataclass, field
from typing import Any

import h5py
import numpy as np


class Refused(Exception):
    """The group is no sparse matrix, or its header contradicts itself."""


class Unreadable(Refused):
    """HDF5 does not give what an array holds."""


class TooLong(Refused):
    """An array is longer than what is worth walking entry by entry."""


@dataclass
class Slow:
    """A stored matrix, row by row (of a CSC: column by column).

    Attributes
    ----------
    format : {"csr", "csc"}
    shape : (int, int)
    dtype : numpy.dtype
        Of the values in memory: native, float16 widened to float32.
    nnz : int
        The last row pointer, whatever it says.
    lines : list
        Per major index a list of (minor index, value), or None where what is stored of it
        contradicts itself.
    pointed : list of bool
        Per major index whether its two row pointers make sense.
    totals : list
        Per major index the sum of what is stored of it, whatever the indices are; 0 where the
        pointers make no sense.
    repeated : bool
        Whether one entry is stored twice.
    broken : bool
        Whether anything at all is wrong with the row pointers or the indices.
    damaged : bool
        Whether bytes of the file are known to be not what HDF5 wrote.
    """

    format: str
    shape: tuple[int, int]
    dtype: np.dtype
    nnz: int
    lines: list[list[tuple[int, Any]] | None] = field(default_factory=list)
    pointed: list[bool] = field(default_factory=list)
    totals: list[Any] = field(default_factory=list)
    repeated: bool = False
    broken: bool = False
    damaged: bool = False

    @property
    def may_fail(self) -> bool:
        """Whether an error is an acceptable answer."""
        return self.broken or self.damaged

    @property
    def major(self) -> int:
        return 0 if self.format == "csr" else 1

    def dense(self, lines: Any = None) -> np.ndarray:
        """Return the dense matrix; of lines that are not asked for, zeros."""
        out = np.zeros(self.shape if self.major == 0 else self.shape[::-1], self.dtype)
        for i in range(len(self.lines)) if lines is None else lines:
            for j, value in self.lines[i]:
                out[i, j] += value
        return out if self.major == 0 else out.T

    def whole(self, lines: Any) -> bool:
        """Whether nothing contradicts itself in these lines."""
        return all(self.lines[i] is not None for i in lines)


def _text(value: Any) -> str:
    if isinstance(value, np.ndarray) and value.size == 1:
        value = value.item()
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace")
    if not isinstance(value, str):
        raise Refused(f"not text: {value!r}")
    return value.strip("\0 ")


def _attributes(group: h5py.Group) -> dict[str, Any]:
    try:
        return {name: group.attrs[name] for name in group.attrs if name in _NAMES}
    except Exception as problem:
        raise Refused("attributes") from problem


_NAMES = ("h5sparse_format", "h5sparse_shape", "encoding-type", "encoding-version", "shape")


_FORMATS = {"csr", "csc", "coo", "bsr", "dia", "dok", "lil"}


def _format(attributes: dict[str, Any]) -> str | None:
    """Return what the tags say; None when there is no tag."""
    found = set()
    if "h5sparse_format" in attributes:
        found.add(_bare(_text(attributes["h5sparse_format"])))
    try:
        encoding = _bare(_text(attributes.get("encoding-type")))
    except Refused:
        encoding = ""
    if encoding in _FORMATS:  # AnnData tags other things than matrices, too
        found.add(encoding)
        version = attributes.get("encoding-version", "")
        if not isinstance(version, h5py.Empty) and _text(version) not in ("", "0.1.0"):
            raise Refused("version")
    if not found:
        return None
    if len(found) != 1 or not found <= {"csr", "csc"}:
        raise Refused(f"format {found}")
    return found.pop()


def _bare(text: str) -> str:
    return text.lower().removesuffix("_matrix").removesuffix("_array")


def _shape(attributes: dict[str, Any]) -> tuple[int, int]:
    found = set()
    for name in ("h5sparse_shape", "shape"):
        if name in attributes and not isinstance(attributes[name], h5py.Empty):
            numbers = np.asarray(attributes[name]).ravel().tolist()
            if len(numbers) != 2:
                raise Refused(f"{name} {numbers}")
            for number in numbers:
                if type(number) not in (int, float) or not 0 <= number < 2**63:
                    raise Refused(f"{name} {numbers}")
                if number != int(number):
                    raise Refused(f"{name} {numbers}")
            found.add(tuple(int(number) for number in numbers))
    if len(found) != 1:
        raise Refused(f"shapes {found}")
    return found.pop()


@dataclass
class _Array:
    """What was read of an array: `values`, or None where there is none; and which of them not."""

    values: np.ndarray | None
    unread: np.ndarray = field(default_factory=lambda: np.zeros(0, bool))

    @property
    def size(self) -> int:
        return 0 if self.values is None else self.values.size

    def whole(self, lo: int, hi: int) -> bool:
        """Whether all between two positions was read."""
        return not self.unread[lo:hi].any()


def _array(
    group: h5py.Group, name: str, kinds: str, piecewise: bool, other: h5py.Group | None = None
) -> _Array:
    link = group.get(name, getlink=True)
    if link is None:
        return _Array(None)
    try:
        dset = group[name]
        dtype = dset.dtype
        if not isinstance(dset, h5py.Dataset) or len(dset.shape) != 1 or dtype.kind not in kinds:
            raise Refused(name)
        if dset.size > 10**6:
            raise TooLong(f"{name} of {dset.size} elements")
        if dtype.kind != "b" and h5py.check_enum_dtype(dtype) is not None:
            raise Refused(name)
    except Refused:
        raise
    except Exception as problem:
        raise Refused(name) from problem
    unread = np.zeros(dset.shape, bool)
    try:
        values = dset[:]
    except Exception as problem:
        if not piecewise:
            raise Unreadable(name) from problem
        values, unread = _by_chunks(dset)
        _mend(values, unread, name, other)
    if values.dtype.kind == "b":
        return _Array(values.view(np.uint8) != 0, unread)
    return _Array(values.astype(values.dtype.newbyteorder("=")), unread)


def _by_chunks(dset: h5py.Dataset) -> tuple[np.ndarray, np.ndarray]:
    """Read each chunk alone; return zeros, and True, for those that cannot be read."""
    values, unread = np.zeros(dset.shape, dset.dtype), np.zeros(dset.shape, bool)
    step = dset.chunks[0] if dset.chunks else max(dset.size, 1)
    for lo in range(0, dset.size, step):
        try:
            values[lo : lo + step] = dset[lo : lo + step]
        except Exception:
            unread[lo : lo + step] = True
    return values, unread


def _mend(values: np.ndarray, unread: np.ndarray, name: str, other: h5py.Group | None) -> None:
    """Take what was not read from another group, if it has an array of that length."""
    if other is not None and name in other and other[name].shape == values.shape:
        values[unread] = other[name][:].astype(values.dtype)[unread]
        unread[:] = False


PLAIN = ("data", "indices", "indptr")


def read_slowly(group: h5py.Group, **how: Any) -> Slow:
    """Read a group with the tags of h5sparse, of AnnData, or with none but a shape; see `walk`.

    Raises
    ------
    Refused
        When its header alone makes it unreadable. What is wrong in the arrays is in the result.
    """
    attributes = _attributes(group)
    return walk(group, _format(attributes), _shape(attributes), **how)


def walk(
    group: h5py.Group,
    format: str | None,
    shape: tuple[int, int],
    names: tuple[str, str, str] = PLAIN,
    *,
    iso: bool = False,
    logical: bool = False,
    piecewise: bool = False,
    other: h5py.Group | None = None,
) -> Slow:
    """Read the arrays of these names as a matrix of this format, if need be the one that fits.

    With `iso` there is one value for all entries; with `logical`, bytes are truth values. With
    `piecewise`, what HDF5 cannot read spoils the lines alone that lie in it, or is taken from the
    group `other`.
    """
    indptr = _array(group, names[2], "iu", piecewise, other)
    indices = _array(group, names[1], "iu", piecewise, other)
    data = _array(group, names[0], "biufc", piecewise, other)
    there = [one.values is not None for one in (data, indices, indptr)]
    if format is None:  # then the length of indptr must tell, and nothing may be absent
        lengths = dict(zip(("csr", "csc"), shape, strict=True))
        fitting = [f for f, n in lengths.items() if all(there) and indptr.size == n + 1]
        if len(fitting) != 1:
            raise Refused(f"no tag, fitting {fitting}")
        format = fitting[0]
    n_major, n_minor = shape if format == "csr" else shape[::-1]
    if not there[2] or indptr.size != n_major + 1:
        raise Refused("indptr")
    if iso:
        if data.size != 1:
            raise Refused("one value for all")
        data = _Array(np.repeat(data.values, indices.size), np.repeat(data.unread, indices.size))
    if there[0] != there[1]:
        if data.size or indices.size:
            raise Refused("data or indices")
        indices = _Array(None)
    if logical and data.values is not None:
        data.values = data.values != 0
    dtype = np.dtype(np.float64) if data.values is None else data.values.dtype
    if dtype == np.float16:
        dtype = np.dtype(np.float32)
    slow = Slow(format, shape, dtype, int(indptr.values[-1]))
    _walk_lines(slow, indptr, indices, data, n_minor)
    return slow


def _walk_lines(slow: Slow, indptr: _Array, indices: _Array, data: _Array, n_minor: int) -> None:
    pointers, stored = [int(pointer) for pointer in indptr.values], min(data.size, indices.size)
    for i in range(len(pointers) - 1):
        lo, hi = pointers[i], pointers[i + 1]
        good = 0 <= lo <= hi <= stored and (i > 0 or lo == 0) and indptr.whole(i, i + 2)
        line = None
        if good and hi > lo and indices.whole(lo, hi) and data.whole(lo, hi):
            line = [(int(indices.values[k]), data.values[k]) for k in range(lo, hi)]
            if any(not 0 <= j < n_minor for j, _ in line):
                line = None
        elif good and hi == lo:
            line = []
        slow.lines.append(line)
        slow.pointed.append(good and (hi == lo or data.whole(lo, hi)))
        slow.totals.append(sum(data.values[lo:hi].tolist()) if good and hi > lo else 0)
        slow.repeated |= line is not None and len({j for j, _ in line}) < len(line)
    slow.broken = pointers[0] != 0 or any(line is None for line in slow.lines)
