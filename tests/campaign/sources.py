"""Sound files to be damaged: every convention, layout, filter and type, written by plain h5py."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import scipy.sparse as sp
from filtered import FILTERS, PLUGINS, create

__all__ = ["CONVENTIONS", "NAMES", "Source", "build", "draw", "matrix_of"]

_DTYPES = ["f4", "f8", "f2", "i1", "u2", "i8", ">f8", ">i4", "?", "c8"]
_INDEX_DTYPES = ["i4", "i8", "u4", ">i4", "i2", "u8", "u1"]
_LIBVERS = ["earliest", "earliest", "v108", "v110", "latest"]

PLAIN = ("data", "indices", "indptr")
#: What the three arrays are called, where not as h5sparse calls them.
NAMES = {
    "binsparse": ("values", "indices_1", "pointers_to_1"),
    "matlab": ("data", "ir", "jc"),
}


@dataclass(frozen=True)
class Source:
    """A sound file: what `build` makes it of."""

    convention: str = "h5sparse"
    format: str = "csr"
    shape: tuple[int, int] = (6, 5)
    density: float = 0.4
    dtype: str = "f4"
    index: str = "i4"
    pointer: str = "i8"
    chunk: int = 0  # 0: contiguous
    filter: str = "none"
    libver: str = "earliest"
    seed: int = 0
    ordered: bool = True  # whether the indices of a line are sorted, and there once
    spare: int = 0  # elements behind the last line

    @property
    def names(self) -> tuple[str, str, str]:
        return NAMES.get(self.convention, PLAIN)


def draw(rng: np.random.Generator, filtered: bool) -> Source:
    """Draw a source; with `filtered`, of several filtered chunks."""
    convention = str(rng.choice(_LIKELY))
    top = 40 if filtered or rng.integers(4) == 0 else 9
    shape = tuple(int(n) for n in rng.integers(0 if rng.integers(9) == 0 else 1, top, size=2))
    format = "csc" if convention in ("matlab", "10x") else str(rng.choice(["csr", "csc"]))
    if convention in ("10x", "untagged") and shape[0] == shape[1]:
        shape = (shape[0] + 1, shape[1])  # so that the length of indptr tells the format
    filters = [*FILTERS, *PLUGINS][1 if filtered else 0 :]
    chunk = int(rng.choice([7, 16, 64])) if filtered else int(rng.choice([0, 0, 3, 16, 64]))
    return Source(
        convention,
        format,
        shape,
        float(rng.choice([0.1, 0.3, 0.6])),
        str(rng.choice(["f4", "f8", "u1", "i8"] if convention == "binsparse" else _DTYPES)),
        str(rng.choice(["i4", "i8", "u4", "u8"] if convention == "binsparse" else _INDEX_DTYPES)),
        str(rng.choice(["i4", "i8", "u4", "u8"] if convention == "binsparse" else _POINTERS)),
        chunk,
        str(rng.choice(filters)) if chunk and (filtered or rng.integers(2)) else "none",
        str(rng.choice(_LIBVERS)),
        int(rng.integers(1 << 16)),
        bool(rng.integers(4)),
        int(rng.integers(3)) if convention in ("h5sparse", "anndata", "both") else 0,
    )


_POINTERS = ["i4", "i8", "u4", ">i4", "i2", "u8"]


def matrix_of(source: Source) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return data, indices and indptr as they are stored."""
    rng = np.random.default_rng(source.seed)
    n_major, n_minor = source.shape if source.format == "csr" else source.shape[::-1]
    counts = rng.binomial(n_minor, source.density, size=n_major)
    lines = [rng.permutation(n_minor)[:count] for count in counts]
    if source.ordered:
        lines = [np.sort(line) for line in lines]
    elif n_minor:
        lines = [np.append(line, line[:1]) for line in lines]  # the first of each is there twice
    indptr = np.append(0, np.cumsum([len(line) for line in lines]))
    indices = np.concatenate([np.zeros(0, int), *lines, np.zeros(source.spare, int)])
    data = rng.integers(1, 9, size=indices.size)
    return (
        data.astype(source.dtype),
        indices.astype(source.index),
        indptr.astype(source.pointer),
    )


def build(path: Path, source: Source) -> None:
    """Write ``X`` of a file."""
    with h5py.File(path, "w", libver=source.libver) as file:
        group = file.create_group("X")
        for name, values in zip(source.names, matrix_of(source), strict=True):
            if source.filter in PLUGINS:
                options = {**PLUGINS[source.filter], "chunks": (source.chunk,)}
                group.create_dataset(name, data=values, maxshape=(None,), **options)
            else:
                create(group, name, values, chunk=source.chunk, steps=FILTERS[source.filter])
        CONVENTIONS[source.convention](group, source)


# ---------------------------------------------------------------------------- what writers leave


def _h5sparse(group: h5py.Group, source: Source) -> None:
    group.attrs["h5sparse_format"] = source.format
    group.attrs["h5sparse_shape"] = np.array(source.shape)


def _anndata(group: h5py.Group, source: Source) -> None:
    group.attrs["encoding-type"] = f"{source.format}_matrix"
    group.attrs["encoding-version"] = "0.1.0"
    group.attrs["shape"] = np.array(source.shape)


def _both(group: h5py.Group, source: Source) -> None:
    _h5sparse(group, source)
    _anndata(group, source)


def _binsparse(group: h5py.Group, source: Source) -> None:
    values, indices, pointers = (np.dtype(d).name for d in _dtypes(source))
    said: dict[str, Any] = {
        "version": "0.1",
        "format": source.format.upper(),
        "shape": list(source.shape),
        "number_of_stored_values": group["indices_1"].size,
        "data_types": {"values": values, "indices_1": indices, "pointers_to_1": pointers},
    }
    group.attrs["binsparse"] = json.dumps({"binsparse": said} if source.seed % 2 else said)


def _dtypes(source: Source) -> tuple[str, str, str]:
    return source.dtype, source.index, source.pointer


def _matlab(group: h5py.Group, source: Source) -> None:
    group.attrs["MATLAB_sparse"] = np.uint64(source.shape[0])
    group.attrs["MATLAB_class"] = np.bytes_(b"double")


def _h5io(group: h5py.Group, source: Source) -> None:
    group.attrs["TITLE"] = f"{source.format}_matrix"
    shape = group.create_group("shape")
    shape.attrs["TITLE"] = "tuple"
    for axis in (0, 1):
        shape.create_dataset(f"idx_{axis}", data=[source.shape[axis]])


def _tenx(group: h5py.Group, source: Source) -> None:
    group["shape"] = np.array(source.shape, np.int32)
    group["barcodes"] = np.array([b"AC-1"] * source.shape[1], "S4")


def _untagged(group: h5py.Group, source: Source) -> None:
    group["shape"] = np.array(source.shape)
    group.attrs["CLASS"] = np.bytes_(b"GROUP")


CONVENTIONS: dict[str, Callable[[h5py.Group, Source], None]] = {
    "h5sparse": _h5sparse,
    "anndata": _anndata,
    "both": _both,
    "binsparse": _binsparse,
    "matlab": _matlab,
    "h5io": _h5io,
    "10x": _tenx,
    "untagged": _untagged,
}
_LIKELY = [*CONVENTIONS, "h5sparse", "h5sparse", "anndata", "anndata", "both", "both"]


def in_memory(slow: Any) -> Any:
    """Return what was read line by line as scipy's array, entries in the order they have."""
    lines = [line or [] for line in slow.lines]
    indptr = np.append(0, np.cumsum([len(line) for line in lines]))
    data = np.array([value for line in lines for _, value in line], slow.dtype)
    indices = np.array([index for line in lines for index, _ in line], np.int64)
    kind = sp.csr_array if slow.format == "csr" else sp.csc_array
    return kind((data, indices, indptr), shape=slow.shape)
