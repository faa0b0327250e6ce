"""AnnData's files, and those of 10x Genomics: a matrix with the names of its rows and columns.

All but the matrix is written by the software that owns the format, anndata; its matrix is put
beside that block by block, as anndata's own writers would need all of it.
"""

import warnings
from pathlib import Path
from typing import Any

import numpy as np

from ..loading import load_extra
from ..machine.options import require_memory
from ..storage.formats.others import SUFFIXES
from ..storage.write.groups import write_stream
from ..storage.write.keywords import Storage
from .exported import Exported, Target

__all__ = ["H5AD", "TENX", "ZARR"]

#: Elements of a chunk in a zarr store: a megabyte or less, as anndata makes them.
_CHUNK = 1 << 17


def write_h5ad(path: Path, exported: Exported) -> None:
    """Write an AnnData file with this as its X."""
    _annotated(exported, path).write_h5ad(path)
    storage = Storage(tags="anndata", compression=exported.compression)
    write_stream(path, exported.stream(sort=True), "X", storage, exported.advance)


def write_zarr(path: Path, exported: Exported) -> None:
    """Write an AnnData store in zarr with this as its X, by zarr's own writer."""
    adata = _annotated(exported, path)
    zarr = load_extra("zarr", f"writing {path}", "zarr")
    adata.write_zarr(path)
    group = zarr.open_group(path, mode="r+").create_group("X")
    group.attrs.update(
        {
            "encoding-type": f"{exported.axis.format}_matrix",
            "encoding-version": "0.1.0",
            "shape": list(exported.shape),
        }
    )
    count, index = exported.count, exported.index

    def created(name: str, size: int, dtype: np.dtype) -> Any:
        return group.create_array(
            name, shape=(size,), dtype=dtype, chunks=(min(_CHUNK, size) or 1,)
        )

    data, indices = created("data", count, exported.dtype), created("indices", count, index)
    lengths = [np.zeros(1, np.int64)]
    # A chunk is written once: what does not fill one waits for the next block.
    waiting, at = (np.empty(0, index), np.empty(0, exported.dtype)), 0

    def flush(whole: bool) -> tuple[np.ndarray, np.ndarray]:
        nonlocal at
        end = waiting[0].size if whole else waiting[0].size // _CHUNK * _CHUNK
        for array, part in zip((indices, data), waiting, strict=True):
            array[at : at + end] = part[:end]
        at += end
        return waiting[0][end:], waiting[1][end:]

    for values, minors, some in exported.portions():
        lengths.append(some)
        new = minors.astype(index, copy=False), values
        waiting = tuple(map(np.concatenate, zip(waiting, new, strict=True)))  # type: ignore
        waiting = flush(whole=False)
    flush(whole=True)
    indptr = np.concatenate(lengths).cumsum()
    created("indptr", indptr.size, index)[:] = indptr.astype(index, copy=False)
    with warnings.catch_warnings():  # that it is no part of zarr's specification yet
        warnings.simplefilter("ignore")
        zarr.consolidate_metadata(path)  # again, or X would not be seen


def _is_store(path: Path) -> bool:
    """Whether a folder is a store of AnnData in zarr."""
    zarr = load_extra("zarr", f"replacing {path}", "zarr")
    try:
        found = zarr.open_group(path, mode="r").attrs["encoding-type"]
    except Exception:  # of what else a folder may hold, zarr tells with nearly any exception
        return False
    return found == "anndata"


def write_tenx(path: Path, exported: Exported) -> None:
    """Write what Cell Ranger 3 and later does: features x barcodes, by barcodes.

    Its layout is that of 10x Genomics' page on feature-barcode matrices in HDF5.
    """
    if exported.axis.major == 0:
        raise ValueError(
            f"a file of 10x Genomics holds features x barcodes by barcodes, not by features: "
            f"export A.T of a {exported.axis.format} of cells x genes"
        )
    features, barcodes = _names(exported)
    storage = Storage(compression=exported.compression or "gzip")
    beside = {
        "shape": np.array(exported.shape, dtype=np.int32),
        "barcodes": _bytes(barcodes),
        "features/id": _bytes(features),
        "features/name": _bytes(features),
        "features/feature_type": np.full(len(features), b"Gene Expression"),
        "features/genome": np.full(len(features), b"unknown"),
        "features/_all_tag_keys": np.array([b"genome"]),
    }
    stream = exported.stream(sort=True)
    write_stream(path, stream, "matrix", storage, exported.advance, lambda: beside)


def _names(exported: Exported) -> tuple[np.ndarray, np.ndarray]:
    """The names of rows and columns, which are their numbers where the user gives none."""
    require_memory(40 * sum(exported.shape), "names of rows and columns", "Raise the budget.")
    rows, columns = exported.shape
    return (
        np.arange(rows).astype(str) if exported.row_names is None else exported.row_names,
        np.arange(columns).astype(str) if exported.column_names is None else exported.column_names,
    )


def _bytes(names: np.ndarray) -> np.ndarray:
    return (
        np.char.encode(np.asarray(names, dtype=str), "utf-8") if len(names) else np.array([], "S1")
    )


def _annotated(exported: Exported, path: Path) -> Any:
    """An AnnData of nothing but names."""
    anndata, pandas = (
        load_extra(name, f"writing {path}", "anndata") for name in ("anndata", "pandas")
    )
    rows, columns = _names(exported)
    return anndata.AnnData(obs=pandas.DataFrame(index=rows), var=pandas.DataFrame(index=columns))


_ALL = ("row_names", "column_names", "compression")
H5AD = Target("h5ad", "an AnnData file, with X", (".h5ad",), write_h5ad, _ALL, hdf5=True)
ZARR = Target(
    "zarr",
    "an AnnData store in zarr, with X",
    SUFFIXES["zarr"],
    write_zarr,
    _ALL[:2],
    is_one=_is_store,
)
TENX = Target("10x", "HDF5 of 10x Genomics, version 3", (), write_tenx, _ALL, hdf5=True)
