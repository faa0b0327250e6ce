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


def _array(group: h5py.Group, name: str, kinds: str) -> np.ndarray | None:
    link = group.get(name, getlink=True)
    if link is None:
        return None
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
    try:
        values = dset[:]
    except Exception as problem:
        raise Unreadable(name) from problem
    if values.dtype.kind == "b":
        return values.view(np.uint8) != 0
    return values.astype(values.dtype.newbyteorder("="))


PLAIN = ("data", "indices", "indptr")


def read_slowly(group: h5py.Group) -> Slow:
    """Read a group with the tags of h5sparse, of AnnData, or with none but a shape.

    Raises
    ------
    Refused
        When its header alone makes it unreadable. What is wrong in the arrays is in the result.
    """
    attributes = _attributes(group)
    return walk(group, _format(attributes), _shape(attributes))


def walk(
    group: h5py.Group,
    format: str | None,
    shape: tuple[int, int],
    names: tuple[str, str, str] = PLAIN,
    *,
    iso: bool = False,
    logical: bool = False,
) -> Slow:
    """Read the arrays of these names as a matrix of this format, if need be the one that fits.

    With `iso` there is one value for all entries; with `logical`, bytes are truth values.
    """
    indptr = _array(group, names[2], "iu")
    indices, data = _array(group, names[1], "iu"), _array(group, names[0], "biufc")
    if format is None:  # then the length of indptr must tell, and nothing may be absent
        there = indptr is not None and indices is not None and data is not None
        lengths = dict(zip(("csr", "csc"), shape, strict=True))
        fitting = [f for f, n in lengths.items() if there and indptr.size == n + 1]
        if len(fitting) != 1:
            raise Refused(f"no tag, fitting {fitting}")
        format = fitting[0]
    n_major, n_minor = shape if format == "csr" else shape[::-1]
    if indptr is None or indptr.size != n_major + 1:
        raise Refused("indptr")
    if iso:
        if data is None or data.size != 1:
            raise Refused("one value for all")
        data = np.repeat(data, 0 if indices is None else indices.size)
    if (data is None) != (indices is None):
        there = indices if data is None else data
        if there is not None and there.size:
            raise Refused("data or indices")
        indices = None
    if logical and data is not None:
        data = data != 0
    dtype = np.dtype(np.float64) if data is None else data.dtype
    if dtype == np.float16:
        dtype = np.dtype(np.float32)
    slow = Slow(format, shape, dtype, int(indptr[-1]))
    _walk_lines(slow, [int(pointer) for pointer in indptr], indices, data, n_minor)
    return slow


def _walk_lines(slow: Slow, pointers: list[int], indices: Any, data: Any, n_minor: int) -> None:
    stored = 0 if data is None or indices is None else min(data.size, indices.size)
    for i in range(len(pointers) - 1):
        lo, hi = pointers[i], pointers[i + 1]
        good = 0 <= lo <= hi <= stored and (i > 0 or lo == 0)
        line = None
        if good and hi > lo:
            line = [(int(indices[k]), data[k]) for k in range(lo, hi)]
            if any(not 0 <= j < n_minor for j, _ in line):
                line = None
        elif good:
            line = []
        slow.lines.append(line)
        slow.pointed.append(good)
        slow.totals.append(sum(data[lo:hi].tolist()) if good and hi > lo else 0)
        slow.repeated |= line is not None and len({j for j, _ in line}) < len(line)
    slow.broken = pointers[0] != 0 or any(line is None for line in slow.lines)
