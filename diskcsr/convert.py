"""From file to file within a given memory: conversion and concatenation."""

import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

import numpy as np
from scipy.sparse import hstack, issparse, vstack

from .axis import CSR, Axis
from .blocks.contents import Contents
from .handle import contents_of, open_array
from .importing.imported import SourceOptions
from .keys.plan import plan_batches
from .machine.options import memory_for, require_memory
from .machine.progress import reporting
from .matrices import (
    Means,
    axis_for,
    blocks_of,
    check_block,
    folder_of,
    imported,
    in_memory,
    opened,
    stream_of,
    transposed,
)
from .reading import Reading
from .storage.edit.virtual import write_joined
from .storage.formats.fields import MAX_LENGTH
from .storage.formats.opening import is_file_like
from .storage.write.groups import write_stream
from .storage.write.keywords import Storage, StorageKeywords, takes_storage
from .streams.stream import Stream, as_matrix, portion_of, relabelled, stream_matrix
from .streams.transpose import Memory
from .triplets import store_imported

if TYPE_CHECKING:
    from .array import DiskCSC, DiskCSR

__all__ = ["Conversion", "concat", "convert", "store"]


def _memory(max_memory: int | None, n_minor: int) -> Memory:
    given = memory_for(max_memory, Memory.least(n_minor), "converting a matrix")
    return Memory.divide(given, n_minor)


def _nbytes(matrix: Any) -> int:
    shown = contents_of(matrix)
    count = int(matrix.nnz) if shown is None else shown.elements
    return count * (np.dtype(matrix.dtype).itemsize + 4)


def store(file: Any, matrix: Any, name: str, format: str | None, storage: Storage) -> None:
    """Store a matrix, wherever it is, or an iterable of blocks; see `diskcsr.write`."""
    if is_file_like(matrix):
        raise ValueError(
            f"cannot store {type(matrix).__name__} {matrix!r}: give a matrix; diskcsr.convert "
            "takes files"
        )
    blocks = blocks_of(matrix)
    if blocks is None:
        _store_matrix(file, matrix, name, format, storage)
        return
    storage.refuse(("max_memory",), "an iterable of blocks takes what its blocks take")
    with reporting(storage.progress, None) as advance:
        stream = _stream_blocks(blocks, axis_for(None, format), storage.changes)
        write_stream(file, stream, name, storage, advance)


def _stream_blocks(blocks: Iterable[Any], axis: Axis, changes: dict[str, bool]) -> Stream:
    """Stream blocks of which nothing is known in advance.

    Raises
    ------
    ValueError
        When there is no block, or one is no matrix or of another width than the first.
    TypeError
        When the values of one cannot be cast to the dtype of the first.
    """
    numbered = in_memory(blocks, axis)
    first = next(numbered, None)
    if first is None:
        raise ValueError(
            "there is no block to write: the first one tells the number of columns and the dtype"
        )
    n_minor, dtype = axis.swap(first[1].shape)[1], np.dtype(first[1].dtype)

    def portions() -> Iterator[Any]:
        for number, block in chain([first], numbered):
            check_block(block, f"block {number}", axis, n_minor, dtype, "the first block")
            data, indices, lengths = portion_of(block, **changes)
            yield data.astype(dtype, copy=False), indices, lengths

    return Stream(axis, n_minor, dtype, portions())


def _store_matrix(
    file: Any,
    matrix: Any,
    name: str,
    format: str | None,
    storage: Storage,
    order: np.ndarray | None = None,
) -> None:
    """Store one matrix anew, its rows perhaps in another order; see `convert`."""
    axis, shown = axis_for(matrix, format), contents_of(matrix)
    _check_apart([matrix], file)
    turned = shown is not None and shown.axis is not axis
    straight = not turned and order is None
    plain = storage.max_memory is None and straight
    width = shown.n_minor if shown is not None and turned else 0
    memory = None if plain else _memory(storage.max_memory, width)
    # Of a transposition each entry is counted, distributed and written; where some are dropped on
    # the way nobody knows how many.
    known = issparse(matrix) and (shown is None or shown.counts or straight)
    total = _nbytes(matrix) * (3 if turned else 1) if known else None
    with reporting(storage.progress, total) as advance:
        means = Means(memory, folder_of(file), advance)
        if order is None:
            stream = stream_of(matrix, axis, means, **storage.changes)
        else:
            stream = _permuted(matrix, axis, order, means, storage.changes)
        write_stream(file, stream, name, storage, advance)


@takes_storage
def convert(
    source: Any,
    file: Any,
    name: str = "X",
    *,
    source_name: str | None = None,
    source_kind: str | None = None,
    fields: Iterable[str | int] | None = None,
    labels: str | None = None,
    shape: tuple[int, int] | None = None,
    dtype: Any = None,
    duplicates: str | None = None,
    format: str | None = None,
    permute_rows: bool = False,
    rng: np.random.Generator | int | None = None,
    **storage: Unpack[StorageKeywords],
) -> "DiskCSR | DiskCSC":
    """Store a matrix anew: in the other format, otherwise compressed, or from a file of any kind.

    Nothing is loaded whole: what is no sparse matrix in HDF5 comes piece by piece, and is sorted as
    `diskcsr.from_triplets` does it.

    Parameters
    ----------
    source : DiskCSR, DiskCSC, sparse matrix, path, or h5py.Group
        What is stored.
    file, name, format
        Of what is written; see `diskcsr.write`.
    source_name : str, optional
        Group or dense dataset in the source file; needed only when there are several matrices.
    source_kind : str, optional
        What the source is, where neither its name nor its beginning tells:

        - "hdf5": a sparse matrix that `diskcsr.open` opens.
        - "dense": a dense dataset of an HDF5 file; the X of an h5ad or the matrix of a loom file
          (which is genes x cells, and turned round) without `source_name`. Zeros are dropped.
        - "mtx": Matrix Market, perhaps compressed.
        - "10x": a folder of 10x Genomics; stored are features x barcodes, and in the group of the
          matrix the datasets ``barcodes``, ``features``, ``feature_names``, ``feature_types``.
        - "csv": a text of fields, with their names above or without, perhaps compressed; "parquet":
          a Parquet file, or a folder of them. They take pyarrow.
        - "svmlight": rows that begin with a label; these are stored as the dataset ``labels`` of
          the group. It takes scikit-learn.
        - "npz": what `scipy.sparse.save_npz` wrote.
    fields : two or three names or numbers, optional
        The fields of a CSV or Parquet file that are row, column and value. Default: the first
        three. Without a value all are ones.
    labels : {"appearance", "sorted"}, optional
        Row and column of a CSV or Parquet file are no indices, but labels, which are numbered in
        the order in which they appear, or sorted (for which the file is read twice). They are kept
        in memory and stored as the datasets ``row_names`` and ``column_names`` of the group.
        Strings are labels anyway, whole numbers only when this is given.
    shape, dtype, duplicates : optional
        As in `diskcsr.from_triplets`, of what is no sparse matrix in HDF5.
    permute_rows : bool
        Store the rows in random order. They are fetched in buffers in the new order: a compressed
        source is decoded once a buffer.
    rng : numpy.random.Generator, int or None
        Where that order comes from: it is ``numpy.random.default_rng(rng).permutation(rows)``.
    **storage
        How it is stored, and within how much memory; see `diskcsr.write`.

    Returns
    -------
    DiskCSR or DiskCSC
        What was stored, mode "r".

    Raises
    ------
    ValueError
        When an argument is not understood, or `max_memory` is less than what is needed.
    FormatError
        When a source is damaged, or cannot be told.
    ImportError
        When a library is not installed that reads the source, or tqdm, when a bar is wanted.

    Examples
    --------
    >>> import diskcsr, os, scipy.sparse as sp, tempfile
    >>> folder = tempfile.mkdtemp()
    >>> A = diskcsr.write(os.path.join(folder, "a.h5"), sp.eye_array(3, format="csr"))
    >>> diskcsr.convert(A, os.path.join(folder, "b.h5"), format="csc").format
    'csc'
    """
    how = Storage.of(storage)
    reading = SourceOptions(
        source_name, None if fields is None else tuple(fields), labels, shape, dtype, duplicates
    )
    with ExitStack() as stack:
        found = stack.enter_context(imported(source, source_kind, reading))
        if found is not None:
            if permute_rows or rng is not None:
                raise ValueError("permute_rows=: convert to HDF5 first, then permute the rows")
            _check_apart([source], file)
            store_imported(file, found, name, format, how)
        else:
            matrix = stack.enter_context(opened(source, source_name))
            order = _order(matrix, permute_rows, rng)
            _store_matrix(file, matrix, name, format, how, order)
    return open_array(file, name)


def _order(matrix: Any, permute_rows: bool, rng: Any) -> np.ndarray | None:
    """Draw the order in which rows are stored; None when they stay as they are."""
    if permute_rows:
        rows = matrix.shape[0]
        require_memory(8 * rows, f"an order of {rows} rows", "Raise the budget.")
        return np.random.default_rng(rng).permutation(matrix.shape[0])
    if rng is not None:
        raise ValueError("rng= says how rows are permuted, which needs permute_rows=True")
    return None


def _permuted(
    matrix: Any, axis: Axis, order: np.ndarray, means: Means, changes: dict[str, bool]
) -> Stream:
    """Stream a matrix with its rows in another order."""
    shown = contents_of(matrix)
    if shown is None:
        matrix = as_matrix(matrix, CSR)[order].asformat(axis.format)
        return stream_matrix(matrix, axis, [matrix], int(matrix.nnz), **changes)
    shown.check()
    if axis is shown.axis and axis.major == 0:
        blocks = (matrix.fetch(order[a:b]) for a, b in _buffers(shown, order, means))
        return stream_matrix(matrix, axis, blocks, shown.nnz if shown.counts else None, **changes)
    if axis.minor == 0:  # the rows are what the indices say
        stream = stream_of(matrix, axis, means, **changes)
        return relabelled(stream, np.argsort(order), sort=changes["sort"])
    raise ValueError(
        "permute_rows cannot change the format from csc to csr as well: convert first, then permute"
    )


def _buffers(shown: Contents, order: np.ndarray, means: Means) -> Iterator[tuple[int, int]]:
    assert means.memory is not None
    # Reading makes copies where dtypes differ: a bucket is a third of the memory.
    most = max(1, means.memory.bucket // (shown.dtype.itemsize + 8))
    yield from plan_batches(shown.lengths(order), most)


def _check_apart(matrices: list[Any], file: Any) -> None:
    """Refuse to write into a file that is read meanwhile, by its path or as a matrix on disk."""
    path = None if hasattr(file, "file") else os.path.realpath(os.fsdecode(file))
    for matrix in matrices:
        shown = contents_of(matrix)
        source = matrix if shown is None else shown.source.path
        if path is None or not isinstance(source, str | bytes | os.PathLike):
            continue
        source = os.fsdecode(source)
        if os.path.realpath(source) == path:
            raise ValueError(
                f"{source} is open for reading as a source: write to another file, and rename it"
            )


# ---------------------------------------------------------------------------------- concatenation


#: What cannot be said of values and indices that stay where they are.
_NOT_VIRTUAL = (
    "compression", "compression_opts", "shuffle", "chunks", "max_memory", "sum_duplicates",
    "progress",
)  # fmt: skip


@takes_storage
def concat(
    arrays: Iterable[Any],
    file: Any,
    name: str = "X",
    *,
    axis: int = 0,
    format: str | None = None,
    virtual: bool = False,
    **storage: Unpack[StorageKeywords],
) -> "DiskCSR | DiskCSC":
    """Put matrices below each other, or side by side, in one file.

    Parameters
    ----------
    arrays : iterable
        DiskCSR, DiskCSC, scipy matrices, paths and (path, name) pairs, of any formats and dtypes.
    file, name
        Of what is written; see `diskcsr.write`.
    axis : {0, 1}
        0: below each other. 1: side by side.
    format : {"csr", "csc"}, optional
        Default: that of the first.
    virtual : bool
        Copy nothing but the row pointers: values and indices are HDF5 virtual datasets over the
        source files, which any HDF5 reader follows. Only along the axis of the format. They stay as
        they are, in the order they have: of `storage` there are `tags` and `overwrite` then.
    **storage
        How it is stored, and within how much memory; see `diskcsr.write`.

    Returns
    -------
    DiskCSR or DiskCSC
        What was stored, mode "r", with the dtype that `numpy.result_type` gives.

    Raises
    ------
    ValueError
        When there is nothing to join, the other lengths differ, or `virtual` is not possible, or
        not with one of these keywords.

    Examples
    --------
    >>> import diskcsr, os, scipy.sparse as sp, tempfile
    >>> path = os.path.join(tempfile.mkdtemp(), "all.h5")
    >>> diskcsr.concat([sp.eye_array(2, format="csr"), sp.eye_array(2)], path).shape
    (4, 2)
    """
    if axis not in (0, 1):
        raise ValueError(f"axis must be 0 or 1, not {axis!r}")
    how = Storage.of(storage)
    if virtual:
        how.refuse(_NOT_VIRTUAL, "virtual=True leaves values and indices where and as they are")
    with ExitStack() as stack:
        pairs = (pair if isinstance(pair, tuple) else (pair, None) for pair in arrays)
        folder = folder_of(file)
        parts = [_part(given, of, folder, stack) for given, of in pairs]
        target = _check_parts(parts, axis, format)
        _check_apart(parts, file)
        if virtual:
            write_joined(file, name, how, target, list(map(contents_of, parts)), axis)
            return open_array(file, name)
        memory = _memory(how.max_memory, max(target.swap(part.shape)[0] for part in parts))
        with reporting(how.progress, sum(map(_nbytes, parts))) as advance:
            # Work on the way to what is written is not reported.
            means = Means(memory, folder_of(file), _ignore)
            if axis == target.major:
                stream = _joined_major(parts, target, means, how.changes)
            else:
                aligned = [_aligned(part, target, means, stack) for part in parts]
                stream = _joined_minor(aligned, target, memory, how.changes)
            write_stream(file, stream, name, how, advance)
    return open_array(file, name)


def _part(source: Any, name: str | None, folder: Path, stack: ExitStack) -> Any:
    """Open a part: what is no sparse matrix in HDF5 becomes one first."""
    reading = SourceOptions(name)
    with imported(source, None, reading) as found:
        if found is None:
            return stack.enter_context(opened(source, name))
        path = _temporary(folder, stack)
        store_imported(path, found, "X", None, Storage())
    return stack.enter_context(open_array(path, "X"))


def _temporary(folder: Path, stack: ExitStack) -> str:
    """A path of a file to make, which is removed at the end."""
    made = tempfile.TemporaryDirectory(prefix=".concat-", dir=folder)
    return os.path.join(stack.enter_context(made), "part.h5")


def _ignore(nbytes: int) -> None:
    pass


def _check_parts(parts: list[Any], axis: int, format: str | None) -> Axis:
    if not parts:
        raise ValueError("there is nothing to join: give at least one matrix")
    for number, part in enumerate(parts):
        if not issparse(part) or part.ndim != 2:
            raise ValueError(f"array {number} is no sparse matrix but {type(part).__name__}")
        if part.shape[1 - axis] != parts[0].shape[1 - axis]:
            raise ValueError(
                f"array {number} has shape {part.shape}, which does not fit that of the first, "
                f"{parts[0].shape}, along axis {1 - axis}"
            )
        shown = contents_of(part)
        if shown is not None:
            shown.check()
    if sum(part.shape[axis] for part in parts) > MAX_LENGTH:
        raise ValueError(f"joined along axis {axis} they have more than {MAX_LENGTH} of these")
    return axis_for(parts[0], format)


def _joined_major(parts: list[Any], target: Axis, means: Means, changes: dict[str, bool]) -> Stream:
    """One part after the other."""
    dtype = np.result_type(*(part.dtype for part in parts))

    def portions() -> Iterator[Any]:
        for part in parts:
            for values, *rest in stream_of(part, target, means, **changes).portions:
                yield values.astype(dtype, copy=False), *rest

    n_major = sum(target.swap(part.shape)[0] for part in parts)
    n_minor = target.swap(parts[0].shape)[1]
    return Stream(target, n_minor, dtype, portions(), n_major, _stored(parts, changes))


def _joined_minor(
    aligned: list[Any], target: Axis, memory: Memory, changes: dict[str, bool]
) -> Stream:
    """The same rows of all parts, which have the target's format, at a time."""
    stacked = vstack if target.minor == 0 else hstack
    dtype = np.result_type(*(part.dtype for part in aligned))
    n_major = target.swap(aligned[0].shape)[0]
    n_minor = sum(target.swap(part.shape)[1] for part in aligned)

    def portions() -> Iterator[Any]:
        lengths = sum(_lengths(part) for part in aligned) + np.zeros(n_major, np.int64)
        for lo, hi in plan_batches(lengths, max(1, memory.bucket // (dtype.itemsize + 12))):
            key = target.swap((slice(lo, hi), slice(None)))
            some = [part[key] for part in aligned]
            yield portion_of(stacked(some, format=target.format, dtype=dtype), **changes)

    return Stream(target, n_minor, dtype, portions(), n_major, _stored(aligned, changes))


def _stored(parts: list[Any], changes: dict[str, bool]) -> int | None:
    """Count the stored values of all parts; None where they become fewer on the way."""
    known = all(shown is None or shown.counts for shown in map(contents_of, parts))
    return sum(int(part.nnz) for part in parts) if known and not changes["sum_duplicates"] else None


def _lengths(part: Any) -> np.ndarray:
    shown = contents_of(part)
    return np.diff(part.indptr).astype(np.int64) if shown is None else shown.lengths()


def _aligned(part: Any, target: Axis, means: Means, stack: ExitStack) -> Any:
    """A part in the target's format: itself, or what is put into a file that is removed later."""
    shown = contents_of(part)
    if shown is None:
        return as_matrix(part, target)
    if shown.axis is target:
        return part
    path = _temporary(means.folder, stack)
    write_stream(path, transposed(part, shown, means), "X", Storage())
    return stack.enter_context(open_array(path, "X"))


class Conversion(Reading):
    """The part of a disk array that writes other files."""

    @takes_storage
    def save(
        self,
        file: Any,
        name: str = "X",
        *,
        format: str | None = None,
        permute_rows: bool = False,
        rng: np.random.Generator | int | None = None,
        **storage: Unpack[StorageKeywords],
    ) -> "DiskCSR | DiskCSC":
        """Store this matrix in another file, within bounded memory.

        Parameters
        ----------
        file, name, format
            Of what is written; see `diskcsr.write`. The default format is this one's.
        permute_rows, rng
            Store the rows in random order; see `diskcsr.convert`.
        **storage
            How it is stored, and within how much memory; see `diskcsr.write`.

        Returns
        -------
        DiskCSR or DiskCSC
            What was stored, mode "r".

        Raises
        ------
        ValueError
            When `file` is the one this matrix is read from, or an argument is not understood.

        Examples
        --------
        >>> A.save("columns.h5", format="csc", compression="gzip")  # doctest: +SKIP
        """
        return convert(
            self, file, name, format=format, permute_rows=permute_rows, rng=rng, **storage
        )
