"""What plain h5py reads of a file, by the convention it was written in; without the library."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from slow_reader import Refused, Slow, TooLong, Unreadable, read_slowly, walk
from trust_operations import read_by_h5py

from . import bits, filters, sources, structures
from .cases import Case
from .sources import NAMES, PLAIN

__all__ = ["Truth", "make", "mended", "read", "truth_of", "write_probe"]

#: ("slow", what was read), or "refused", "unreadable", "long" or "closed" with the reason.
Truth = tuple[str, Any]


def make(case: Case, folder: Path) -> tuple[Case, Truth]:
    """Write ``original.h5`` and ``case.h5``; return the case with its damage, and the first one."""
    assert case.source is not None
    original, path = folder / "original.h5", folder / "case.h5"
    sources.build(original, case.source)
    raw = original.read_bytes()
    if case.damage is None:
        rng = np.random.default_rng([case.seed, case.number, 1])
        case = case.replace(damage=bits.draw(rng, raw))
    assert case.damage is not None
    path.write_bytes(bits.apply(raw, case.damage) if case.kind == "bytes" else raw)
    if case.kind != "bytes":
        step = structures if case.kind == "structures" else filters
        step.apply(path, case.source, case.damage)
    return case, read(original, case.source.convention)


def read(path: Path, convention: str) -> Truth:
    """Read a matrix, and look at all else that there is."""
    truth = truth_of(path, convention)
    read_by_h5py(path)
    return truth


def mended(path: Path, convention: str) -> Truth:
    """Read a matrix, and what cannot be read of it from the file before it was damaged.

    HDF5 gives up at times where what was stored is still there.
    """
    with h5py.File(path.with_name("original.h5"), "r") as file:
        return truth_of(path, convention, other=file["X"])


def truth_of(
    path: Path, convention: str, name: str = "X", other: h5py.Group | None = None
) -> Truth:
    """Read a matrix by plain h5py alone."""
    try:
        with h5py.File(path, "r") as file:
            group = file[name]
            if not isinstance(group, h5py.Group):
                return "refused", "no group"
            read = _READERS.get(convention, read_slowly)
            return "slow", read(group, piecewise=True, other=other)
    except TooLong as problem:
        return "long", str(problem)
    except Unreadable as problem:
        return "unreadable", f"{problem}: {problem.__cause__}"
    except Refused as problem:
        return "refused", str(problem)
    except Exception as problem:
        return "closed", f"{type(problem).__name__}: {problem}"


def _numbers(value: Any, count: int) -> list[int]:
    numbers = np.asarray(value).ravel().tolist()
    if len(numbers) != count or any(type(n) not in (int, float) for n in numbers):
        raise Refused(f"lengths {value!r}")
    if any(not 0 <= n < 2**63 or n != int(n) for n in numbers):
        raise Refused(f"lengths {value!r}")
    return [int(n) for n in numbers]


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _binsparse(group: h5py.Group, **how: Any) -> Slow:
    try:
        said = json.loads(_text(group.attrs["binsparse"]))
        said = said.get("binsparse", said)
        format, types = str(said["format"]).lower(), said["data_types"]
        iso = str(types["values"]).startswith("iso[")
        logical = "bint8" in str(types["values"])
    except (KeyError, ValueError, AttributeError, TypeError, OSError, RuntimeError) as problem:
        raise Refused(f"binsparse: {problem}") from problem
    rows, columns = _numbers(said.get("shape"), 2)
    if format not in ("csr", "csc"):
        raise Refused(format)
    return walk(group, format, (rows, columns), NAMES["binsparse"], iso=iso, logical=logical, **how)


def _matlab(group: h5py.Group, **how: Any) -> Slow:
    try:
        (rows,) = _numbers(group.attrs["MATLAB_sparse"], 1)
        columns = group["jc"].size - 1
    except (KeyError, OSError, RuntimeError, AttributeError) as problem:
        raise Refused(f"matlab: {problem}") from problem
    try:
        logical = "logical" in _text(group.attrs.get("MATLAB_class", ""))
    except (OSError, RuntimeError, UnicodeError):
        logical = False
    return walk(group, "csc", (rows, max(columns, 0)), NAMES["matlab"], logical=logical, **how)


def _h5io(group: h5py.Group, **how: Any) -> Slow:
    try:
        format = _text(group.attrs["TITLE"]).removesuffix("_matrix")
        parts = [group[f"shape/idx_{axis}"][()] for axis in (0, 1)]
    except (KeyError, OSError, RuntimeError, AttributeError, UnicodeError) as problem:
        raise Refused(f"h5io: {problem}") from problem
    (rows,), (columns,) = (_numbers(part, 1) for part in parts)
    if format not in ("csr", "csc"):
        raise Refused(format)
    return walk(group, format, (rows, columns), **how)


def _shape_dataset(group: h5py.Group) -> tuple[int, int]:
    try:
        rows, columns = _numbers(group["shape"][()], 2)
    except (KeyError, OSError, RuntimeError, AttributeError, TypeError) as problem:
        raise Refused(f"shape: {problem}") from problem
    return rows, columns


_READERS: dict[str, Callable[..., Slow]] = {
    "binsparse": _binsparse,
    "matlab": _matlab,
    "h5io": _h5io,
    "10x": lambda group, **how: walk(group, "csc", _shape_dataset(group), **how),
    "untagged": lambda group, **how: walk(group, None, _shape_dataset(group), **how),
}


def write_probe(path: Path) -> str:
    """Open a file for writing by plain h5py and change what there is, as an append would."""
    with h5py.File(path, "r+") as file:
        group = file["X"]
        names = [name for name in group if name in (*PLAIN, *NAMES["binsparse"], *NAMES["matlab"])]
        for name in names:
            dset = group[name]
            values = dset[()]
            if dset.chunks and dset.maxshape == (None,):
                dset.resize((dset.size + 9,))
            for lo in range(0, min(values.size, 3000), 3):  # parts of chunks, which it reads first
                dset[lo : lo + 2] = values[lo : lo + 2]
        group.attrs["h5sparse_shape"] = np.array([3, 3])
        file.create_group("more")["data"] = np.arange(9)
        del file["X"]
    return "ok"
