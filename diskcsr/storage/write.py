"""Store sparse matrices so that every peer reads them, and read fast."""

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from scipy.sparse import csr_array, issparse

from ..axis import CSR, Axis, axis_of
from . import formats
from .encode import ArrayWriter, create_array

__all__ = ["write_matrix"]

#: Elements of a chunk: 256 kB of float32 or int32.
CHUNK = 1 << 16
_INT32_MAX = np.iinfo(np.int32).max


def write_matrix(
    file: Any,
    matrix: Any,
    name: str,
    format: str | None,
    *,
    storage: dict[str, Any],
    chunks: int | None,
    tags: str | None,
    overwrite: bool,
) -> Any:
    """Store `matrix` as group `name`; see `diskcsr.write` for the parameters.

    Returns
    -------
    path or h5py.Group
        Where it was stored, to be opened with `name`.
    """
    if tags not in (None, "both", "anndata", "h5sparse"):
        raise ValueError(f"tags must be 'both', 'anndata' or 'h5sparse', not {tags!r}")
    if chunks is not None and (int(chunks) != chunks or chunks < 1):
        raise ValueError(f"chunks must be a positive number of elements, not {chunks!r}")
    axis = _target_axis(matrix, format)
    matrix = _sparse(matrix, axis)
    with _target(file) as parent:
        if name in parent and not overwrite:
            raise ValueError(
                f"{parent.file.filename}: {parent.name!r} already has an object {name!r}; pass "
                "overwrite=True to replace it"
            )
        # Made aside and renamed at the end, when also the groups on the way to it are made: a
        # failure leaves what was there.
        temporary = f"writing-{uuid.uuid4().hex}"
        group = parent.create_group(temporary)
        try:
            _store(group, matrix, axis, chunks, storage)
            header = formats.Header(
                axis.format, tuple(matrix.shape), "data", "indices", "indptr", "h5sparse"
            )
            formats.stamp(group, header, tags or formats.default_tags(parent))
        except BaseException:
            del parent[temporary]
            raise
        if name in parent:
            del parent[name]
        parent.move(temporary, name)
    return file


def _target_axis(matrix: Any, format: str | None) -> Axis:
    if format is not None:
        return axis_of(format)
    try:
        return axis_of(getattr(matrix, "format", ""))
    except ValueError:
        return CSR


def _sparse(matrix: Any, axis: Axis) -> Any:
    """Return `matrix` in the wanted format: itself where it has it, on disk or in memory."""
    if not issparse(matrix):
        dense = np.asarray(matrix)
        if dense.ndim != 2 or dense.dtype.kind not in "biufc":
            raise ValueError(
                f"cannot store {type(matrix).__name__} (dtype {dense.dtype}, {dense.ndim} "
                "dimensions): give a scipy sparse matrix or a two-dimensional numeric array"
            )
        matrix = csr_array(dense.astype(dense.dtype.newbyteorder("="), copy=False))
    if matrix.ndim != 2:
        raise ValueError(f"only matrices can be stored, not arrays of shape {matrix.shape}")
    return matrix.asformat(axis.format)


@contextmanager
def _target(file: Any) -> Iterator[h5py.Group]:
    """Give the group to write into: an open one, an existing file, or a new one."""
    if isinstance(file, h5py.Group):
        yield file
        file.file.flush()
        return
    path = Path(os.fsdecode(file))
    if path.exists():
        with h5py.File(path, "r+") as existing:
            yield existing
        return
    # A new name, opened with "x": ext4 writes a file out at once when it is closed after having
    # been made empty, as "w" does, and that takes longer than all the rest.
    temporary = path.parent / f".{path.name}.{uuid.uuid4().hex}"
    try:
        with h5py.File(temporary, "x") as new:
            yield new
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _store(
    group: h5py.Group, matrix: Any, axis: Axis, chunks: int | None, storage: dict[str, Any]
) -> None:
    """Write the three arrays, indices sorted."""
    n_major, n_minor = axis.swap(matrix.shape)
    nnz = matrix.nnz
    index = np.dtype(np.int32 if n_minor <= _INT32_MAX else np.int64)

    def create(name: str, length: int, dtype: np.dtype) -> ArrayWriter:
        chunk = chunks or _chunk_length(length)
        return create_array(group, name, length, dtype.newbyteorder("<"), chunk, **storage)

    data, indices = create("data", nnz, matrix.dtype), create("indices", nnz, index)
    indptr = create("indptr", n_major + 1, np.dtype(np.int64))
    indptr.append(np.zeros(1, np.int64))
    stored = 0
    for block in _blocks(matrix):
        block = block if block.has_sorted_indices else block.sorted_indices()
        data.append(block.data[: block.nnz])
        indices.append(block.indices[: block.nnz])
        indptr.append(block.indptr[1:].astype(np.int64) + stored)
        stored += block.nnz
    for writer in (data, indices, indptr):
        writer.finish()


def _blocks(matrix: Any) -> Iterator[Any]:
    """Walk a matrix in memory at once, one on disk block by block."""
    if hasattr(matrix, "iter_blocks"):
        for _, block in matrix.iter_blocks():
            yield block
    else:
        yield matrix


def _chunk_length(length: int) -> int:
    """The default chunk of a dataset: `CHUNK`, or the power of two that holds a small one."""
    return min(CHUNK, max(1024, 1 << max(length - 1, 0).bit_length()))
