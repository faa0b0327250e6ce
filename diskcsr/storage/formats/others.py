"""Files that are no HDF5: told by their names and beginnings, and the call that is for them."""

import os
from typing import Any

import h5py

__all__ = [
    "BEGINS", "COMPRESSED", "SUFFIXES", "kind_by_name", "kind_of", "not_hdf5", "refuse_other_name",
]  # fmt: skip

#: What follows the name of a file that is compressed as a whole.
COMPRESSED = (".gz", ".bz2")


def _packed(*suffixes: str) -> tuple[str, ...]:
    return tuple(suffix + more for suffix in suffixes for more in ("", *COMPRESSED))


#: How the names of files end, by their kind as ``source_kind=`` and ``kind=`` have it.
SUFFIXES = {
    "mtx": _packed(".mtx"),
    "csv": _packed(".csv", ".tsv", ".tab"),
    "parquet": (".parquet", ".pq"),
    "svmlight": _packed(".svmlight", ".libsvm", ".svm"),
    "npz": (".npz",),
    "zarr": (".zarr",),
}
#: How files begin that say by it what they are.
BEGINS = {"mtx": b"%%MatrixMarket", "parquet": b"PAR1", "npz": b"PK"}
#: What people call them.
_TITLES = {
    "mtx": "Matrix Market", "csv": "CSV", "parquet": "Parquet", "svmlight": "svmlight",
    "npz": "npz", "zarr": "zarr",
}  # fmt: skip
#: What `diskcsr.convert` reads, and `diskcsr.export` writes.
_READ = ("mtx", "csv", "parquet", "svmlight", "npz")
_WRITTEN = ("mtx", "npz", "parquet", "zarr")


def kind_by_name(path: Any) -> str | None:
    """Tell the kind of a file by its name; None where that is not one of these.

    >>> kind_by_name("counts.MTX.gz")
    'mtx'
    """
    name = os.fsdecode(path).lower().rstrip("/")
    return next((kind for kind, ends in SUFFIXES.items() if name.endswith(ends)), None)


def kind_of(path: Any) -> str | None:
    """Tell the kind of a file by its name, or else by how it begins."""
    named = kind_by_name(path)
    if named is not None:
        return named
    try:
        with open(path, "rb") as file:
            begin = file.read(128)
    except OSError:
        return None  # whoever opens it says why not
    kind = next((kind for kind, begins in BEGINS.items() if begin.startswith(begins)), None)
    return None if kind == "npz" and b".npy" not in begin else kind  # much else is a zip file


def not_hdf5(file: Any) -> str:
    """Say that a file is no HDF5, and what takes it.

    >>> not_hdf5("r.csv")
    "is not an HDF5 file but CSV, by its name: diskcsr.convert('r.csv', 'r.h5') makes HDF5 of it"
    """
    kind = kind_of(file) if isinstance(file, str | bytes | os.PathLike) else None
    if kind is None or kind not in _READ:
        return (
            "is not an HDF5 file; diskcsr.convert makes one of Matrix Market, CSV, Parquet and "
            "others (source_kind= says of which, where the name of a file does not tell)"
        )
    name = os.fsdecode(file)
    how = "by its name" if kind_by_name(name) else "by how it begins"
    call = f"diskcsr.convert({name!r}, {_hdf5_name(name)!r})"
    return f"is not an HDF5 file but {_TITLES[kind]}, {how}: {call} makes HDF5 of it"


def refuse_other_name(path: Any) -> None:
    """Refuse to write HDF5 under the name of another kind, which nobody would take for it.

    Raises
    ------
    ValueError
        When the name is one, and not that of an HDF5 file that is there already.
    """
    kind, name = kind_by_name(path), os.fsdecode(path)
    if kind is None or (os.path.isfile(name) and h5py.is_hdf5(name)):
        return
    instead = _hdf5_name(name)
    advice = f"diskcsr.export(A, {name!r}) writes that; for HDF5 choose"
    raise ValueError(
        f"{name!r} is the name of a file of another kind, {_TITLES[kind]}, and what is written "
        f"here is HDF5: {advice if kind in _WRITTEN else 'choose'} another name, as {instead!r}"
    )


def _hdf5_name(name: str) -> str:
    """The name of the same file as HDF5, in the working folder."""
    base = os.path.basename(name.rstrip("/"))
    found = [end for ends in SUFFIXES.values() for end in ends if base.lower().endswith(end)]
    longest = max(map(len, found), default=0)
    stem = base[: len(base) - longest] if longest else os.path.splitext(base)[0]
    return f"{stem or 'matrix'}.h5"
