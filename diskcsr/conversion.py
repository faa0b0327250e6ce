"""From file to file within a given memory: conversion, concatenation, streaming writes."""

import os
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import numpy as np
from scipy.sparse import hstack, issparse, load_npz, vstack

from .axis import CSR, Axis, axis_of
from .handle import Handle, open_source
from .options import options, require_memory
from .plan import plan_batches
from .progress import Progress, reporting
from .reading import Reading
from .storage.convert import Memory, count_indices, transpose
from .storage.opening import is_file_like
from .storage.streams import Stream, as_matrix, piece_of, stream_blocks, stream_matrix
from .storage.virtual import write_joined
from .storage.write import Storage, write_stream
from .threads import ordered_map

__all__ = ["Conversion", "concat", "convert", "write_any"]

_DEFAULT_MEMORY = 1 << 30


def _open(file: Any, name: str | None) -> Any:
    source = open_source(file, name, "r", None, None)
    return Handle._classes[source.axis, False]._over(source, "r", {})


def _on_disk(matrix: Any) -> bool:
    return isinstance(matrix, Reading)


def _axis_of(matrix: Any, format: str | None) -> Axis:
    """The format to write: what is asked for, else that of the matrix, else rows."""
    if format is not None:
        return axis_of(format)
    try:
        return axis_of(getattr(matrix, "format", ""))
    except ValueError:
        return CSR


def _memory(max_memory: int | None, n_minor: int) -> Memory:
    if max_memory is None:
        least = Memory.least(n_minor)
        require_memory(least, "converting a matrix", "Raise the budget.")
        max_memory = max(least, min(options.memory_limit(), _DEFAULT_MEMORY))
    return Memory.divide(int(max_memory), n_minor)


def _folder(file: Any) -> Path:
    name = file.file.filename if hasattr(file, "file") else os.fsdecode(file)
    return Path(name).resolve().parent


def _nbytes(matrix: Any) -> int:
    return int(matrix.nnz) * (np.dtype(matrix.dtype).itemsize + 4)


def _transposed(
    matrix: Any, memory: Memory, folder: Path, advance: Callable[[int], None]
) -> Stream:
    """Stream a matrix on disk in the other format."""
    count = partial(_count, matrix, advance)
    blocks: Callable[[int], Iterable[tuple[int, Any]]] = matrix.iter_blocks
    return transpose(
        matrix, matrix._axis, blocks, count, memory=memory, folder=folder, advance=advance
    )


def _count(matrix: Any, advance: Callable[[int], None], counts: np.ndarray, max_bytes: int) -> None:
    """Count the minor indices, from the stored indices alone where they are the truth."""
    item = matrix.dtype.itemsize + 4
    if matrix._held():
        parts: Iterable[np.ndarray] = (block.indices for _, block in matrix.iter_blocks(max_bytes))
    else:
        step = max(1, max_bytes // 8)
        nnz, read = matrix.nnz, matrix._source._part
        spans = ((lo, min(lo + step, nnz)) for lo in range(0, nnz, step))
        parts = ordered_map(
            lambda span: read("indices", *span, counts.size, {}), spans, options.num_threads
        )
    for indices in parts:
        count_indices(indices, counts)
        advance(indices.size * item)


def _stream(
    matrix: Any,
    axis: Axis,
    memory: Memory | None,
    folder: Path,
    advance: Callable[[int], None],
    **changes: bool,
) -> Stream:
    """Stream a matrix, wherever it is, in the format of `axis`; None walks it in blocks as ever."""
    if not _on_disk(matrix):
        matrix = as_matrix(matrix, axis)
        return stream_matrix(matrix, axis, [matrix], **changes)
    if matrix._axis is axis:
        walk = matrix.iter_blocks() if memory is None else matrix.iter_blocks(memory.block)
        return stream_matrix(matrix, axis, (block for _, block in walk), **changes)
    assert memory is not None
    stream = _transposed(matrix, memory, folder, advance)
    if not changes.get("sum_duplicates"):
        return stream
    return _summed(stream)


def _summed(stream: Stream) -> Stream:
    """Add up duplicates; a row in several pieces is put together first."""

    def pieces() -> Iterator[Any]:
        for values, minor, lengths in _whole_rows(stream):
            arrays = (values, minor, np.append(0, lengths.cumsum()))
            shape = stream.axis.swap((lengths.size, stream.n_minor))
            yield piece_of(stream.axis.array(arrays, shape=shape), sum_duplicates=True)

    return Stream(stream.axis, stream.n_minor, stream.dtype, pieces(), stream.n_major)


def write_any(
    file: Any, matrix: Any, name: str, format: str | None, storage: Storage, progress: Progress
) -> None:
    """Store a matrix, wherever it is, or an iterable of blocks; see `diskcsr.write`."""
    if _is_blocks(matrix):
        axis = axis_of(format) if format is not None else CSR

        def expand(block: Any) -> Iterator[Any] | None:
            if not _on_disk(block) or block._axis is not axis:
                return None
            return (part for _, part in block.iter_blocks())

        stream = stream_blocks(matrix, axis, expand)
        with reporting(progress, None) as advance:
            write_stream(file, stream, name, storage, advance)
        return
    if is_file_like(matrix):
        raise ValueError(
            f"cannot store {type(matrix).__name__} {matrix!r}: give a matrix; diskcsr.convert "
            "takes files"
        )
    convert(matrix, file, name, format=format, progress=progress, **vars(storage)).close()


def _is_blocks(matrix: Any) -> bool:
    """Whether these are blocks to go through, and not a matrix or a nested list of numbers."""
    if issparse(matrix) or hasattr(matrix, "__array__") or isinstance(matrix, str | bytes):
        return False
    if isinstance(matrix, list | tuple):
        return bool(matrix) and all(issparse(b) or np.ndim(b) == 2 for b in matrix)
    return isinstance(matrix, Iterable)


def convert(
    source: Any,
    file: Any,
    name: str = "X",
    *,
    source_name: str | None = None,
    format: str | None = None,
    compression: str | None = None,
    compression_opts: Any = None,
    shuffle: bool | None = None,
    chunks: int | None = None,
    tags: str | None = None,
    overwrite: bool = False,
    sort_indices: bool = True,
    sum_duplicates: bool = False,
    shuffle_rows: Any = None,
    max_memory: int | None = None,
    progress: Progress = None,
) -> Any:
    """Store a matrix anew: in the other format, otherwise compressed, or in another order.

    Parameters
    ----------
    source : DiskCSR, DiskCSC, sparse matrix or path
        A path of an HDF5 file, of a Matrix Market file (``.mtx``, ``.mtx.gz``) or of a scipy
        ``.npz``. The last two are loaded whole, under the memory guard; a matrix on disk is not.
    file, name, format, compression, compression_opts, shuffle, chunks, tags, overwrite
        Of what is written; see `diskcsr.write`.
    source_name : str, optional
        Group in the source file; needed only when there are several sparse matrices.
    sort_indices : bool
        False keeps the indices of each row in the order they have, where the format stays.
    sum_duplicates : bool
        Add up entries of the same place.
    shuffle_rows : int or numpy.random.Generator, optional
        Seed of a random order of the rows. Rows are fetched in buffers in the new order: a
        compressed source is decoded once a buffer.
    max_memory : int, optional
        Bytes this may take beyond what the process has; default 1 GiB, or the memory budget where
        that is less.
    progress : bool or callable, optional
        True shows a bar; a function is called with bytes done and bytes in all.

    Returns
    -------
    DiskCSR or DiskCSC
        What was stored, mode "r".

    Raises
    ------
    ValueError
        When an argument is not understood, or `max_memory` is less than what is needed.
    MemoryBudgetError
        When a source that must be loaded does not fit the budget.
    ImportError
        When a bar is wanted and tqdm is not installed.

    Examples
    --------
    >>> import diskcsr, os, scipy.sparse as sp, tempfile
    >>> folder = tempfile.mkdtemp()
    >>> A = diskcsr.write(os.path.join(folder, "a.h5"), sp.eye_array(3, format="csr"))
    >>> A.to_csc(os.path.join(folder, "b.h5")).format
    'csc'
    """
    storage = Storage(compression, compression_opts, shuffle, chunks, tags, overwrite)
    with _opened(source, source_name) as matrix:
        axis, folder = _axis_of(matrix, format), _folder(file)
        _check_apart([matrix], file)
        turned = _on_disk(matrix) and matrix._axis is not axis
        plain = max_memory is None and not turned and shuffle_rows is None
        memory = None if plain else _memory(max_memory, matrix._n_minor if turned else 0)
        changes = {"sort": sort_indices, "sum_duplicates": sum_duplicates}
        # Of a transposition each entry is counted, distributed and written.
        total = _nbytes(matrix) * (3 if turned else 1) if issparse(matrix) else None
        with reporting(progress, total) as advance:
            if shuffle_rows is None or memory is None:
                stream = _stream(matrix, axis, memory, folder, advance, **changes)
            else:
                stream = _shuffled(matrix, axis, shuffle_rows, memory, folder, advance, changes)
            write_stream(file, stream, name, storage, advance)
    return _open(file, name)


def _shuffled(
    matrix: Any,
    axis: Axis,
    seed: Any,
    memory: Memory,
    folder: Path,
    advance: Callable[[int], None],
    changes: dict[str, bool],
) -> Stream:
    """Stream a matrix with its rows in random order."""
    order = np.random.default_rng(seed).permutation(matrix.shape[0])
    if not _on_disk(matrix):
        matrix = as_matrix(matrix, CSR)[order].asformat(axis.format)
        return stream_matrix(matrix, axis, [matrix], **changes)
    if axis is matrix._axis is CSR:
        blocks = (matrix.fetch(order[a:b]) for a, b in _buffers(matrix, order, memory))
        return stream_matrix(matrix, axis, blocks, **changes)
    if axis.minor == 0:  # the rows are what the indices say
        stream = _stream(matrix, axis, memory, folder, advance, **changes)
        return _relabelled(stream, np.argsort(order))
    raise ValueError(
        "shuffle_rows cannot change the format from csc to csr as well: convert first, then shuffle"
    )


def _buffers(matrix: Any, order: np.ndarray, memory: Memory) -> Iterator[tuple[int, int]]:
    starts, stops = matrix._source.spans(order, matrix._held())
    # Reading makes copies where dtypes differ: a bucket is a third of the memory.
    yield from plan_batches(stops - starts, max(1, memory.bucket // (matrix.dtype.itemsize + 8)))


def _relabelled(stream: Stream, places: np.ndarray) -> Stream:
    """Send each minor index to its place; pieces with parts of rows are put together first."""

    def pieces() -> Iterator[Any]:
        for values, minor, lengths in _whole_rows(stream):
            pointers = np.append(0, lengths.cumsum())
            shape = stream.axis.swap((lengths.size, stream.n_minor))
            yield piece_of(stream.axis.array((values, places[minor], pointers), shape=shape))

    return Stream(stream.axis, stream.n_minor, stream.dtype, pieces(), stream.n_major, stream.nnz)


def _whole_rows(stream: Stream) -> Iterator[Any]:
    held: list[Any] = []
    for piece in stream.pieces:
        held.append(piece)
        if piece[2].size:
            data, indices, _ = zip(*held, strict=True)
            yield np.concatenate(data), np.concatenate(indices), piece[2]
            held = []


@contextmanager
def _opened(source: Any, name: str | None = None) -> Iterator[Any]:
    """Give what a source is: a matrix on disk, closed at the end if opened here, or in memory."""
    if not is_file_like(source):
        yield source
        return
    path = os.fsdecode(source) if isinstance(source, str | bytes | os.PathLike) else ""
    if path.endswith((".mtx", ".mtx.gz")):
        yield _load_market(path)
    elif path.endswith(".npz"):
        with ZipFile(path) as members:
            size = sum(member.file_size for member in members.infolist())
        require_memory(size, f"{path}: loading it", "Raise the budget.")
        yield load_npz(path)
    else:
        with _open(source, name) as matrix:
            yield matrix


def _load_market(path: str) -> Any:
    from scipy.io import mminfo, mmread

    rows, columns, entries, *_ = mminfo(path)
    # Read as triplets of 8 bytes, then compressed.
    require_memory(40 * entries, f"{path}: loading {rows} x {columns}", "Raise the budget.")
    return as_matrix(mmread(path, spmatrix=False), CSR)


def _check_apart(matrices: list[Any], file: Any) -> None:
    path = None if hasattr(file, "file") else os.path.realpath(os.fsdecode(file))
    for matrix in matrices:
        source = matrix._source.path if _on_disk(matrix) else None
        if source is not None and path is not None and os.path.realpath(source) == path:
            raise ValueError(
                f"{source} is open for reading as a source: write to another file, and rename it"
            )


def concat(
    arrays: Iterable[Any],
    file: Any,
    name: str = "X",
    *,
    axis: int = 0,
    format: str | None = None,
    virtual: bool = False,
    compression: str | None = None,
    compression_opts: Any = None,
    shuffle: bool | None = None,
    chunks: int | None = None,
    tags: str | None = None,
    overwrite: bool = False,
    max_memory: int | None = None,
    progress: Progress = None,
) -> Any:
    """Put matrices below each other, or side by side, in one file.

    Parameters
    ----------
    arrays : iterable
        DiskCSR, DiskCSC, scipy matrices, paths and (path, name) pairs, of any formats and dtypes.
    file, name, compression, compression_opts, shuffle, chunks, tags, overwrite
        Of what is written; see `diskcsr.write`.
    axis : {0, 1}
        0: below each other. 1: side by side.
    format : {"csr", "csc"}, optional
        Default: that of the first.
    virtual : bool
        Copy nothing but the row pointers: values and indices are HDF5 virtual datasets over the
        source files, which any HDF5 reader follows. Only along the axis of the format.
    max_memory, progress
        As of `diskcsr.convert`.

    Returns
    -------
    DiskCSR or DiskCSC
        What was stored, mode "r", with the dtype that `numpy.result_type` gives.

    Raises
    ------
    ValueError
        When there is nothing to join, the other lengths differ, or `virtual` is not possible.

    Examples
    --------
    >>> import diskcsr, os, scipy.sparse as sp, tempfile
    >>> path = os.path.join(tempfile.mkdtemp(), "all.h5")
    >>> diskcsr.concat([sp.eye_array(2, format="csr"), sp.eye_array(2)], path).shape
    (4, 2)
    """
    if axis not in (0, 1):
        raise ValueError(f"axis must be 0 or 1, not {axis!r}")
    storage = Storage(compression, compression_opts, shuffle, chunks, tags, overwrite)
    folder = _folder(file)
    with ExitStack() as stack:
        pairs = (pair if isinstance(pair, tuple) else (pair, None) for pair in arrays)
        parts = [stack.enter_context(_opened(*pair)) for pair in pairs]
        target = _check_parts(parts, axis, format)
        _check_apart(parts, file)
        if virtual:
            sources = [_plain_source(part) for part in parts]
            write_joined(file, name, storage, target, sources, axis)
            return _open(file, name)
        memory = _memory(max_memory, max(target.swap(part.shape)[0] for part in parts))
        total = sum(map(_nbytes, parts))
        with reporting(progress, total) as advance:
            join = _joined_major if axis == target.major else _joined_minor
            stream = join(parts, target, memory, folder, stack)
            write_stream(file, stream, name, storage, advance)
    return _open(file, name)


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
    return _axis_of(parts[0], format)


def _plain_source(part: Any) -> Any:
    """The source of a matrix that is as its file has it; else None."""
    plain = _on_disk(part) and not part._held() and not part._flipped
    return part._source if plain else None


def _ignore(nbytes: int) -> None:
    """Work on the way to what is written is not reported."""


def _joined_major(
    parts: list[Any], target: Axis, memory: Memory, folder: Path, stack: ExitStack
) -> Stream:
    """One part after the other."""
    dtype = np.result_type(*(part.dtype for part in parts))

    def pieces() -> Iterator[Any]:
        for part in parts:
            for values, *rest in _stream(part, target, memory, folder, _ignore).pieces:
                yield values.astype(dtype, copy=False), *rest

    n_major = sum(target.swap(part.shape)[0] for part in parts)
    n_minor = target.swap(parts[0].shape)[1]
    nnz = sum(int(part.nnz) for part in parts)
    return Stream(target, n_minor, dtype, pieces(), n_major, nnz)


def _joined_minor(
    parts: list[Any], target: Axis, memory: Memory, folder: Path, stack: ExitStack
) -> Stream:
    """The same rows of all parts at a time."""
    stacked = vstack if target.minor == 0 else hstack
    dtype = np.result_type(*(part.dtype for part in parts))
    aligned = [_aligned(part, target, memory, folder, stack) for part in parts]
    n_major = target.swap(parts[0].shape)[0]
    n_minor = sum(target.swap(part.shape)[1] for part in parts)

    def pieces() -> Iterator[Any]:
        lengths = sum(_lengths(part) for part in aligned) + np.zeros(n_major, np.int64)
        for lo, hi in plan_batches(lengths, max(1, memory.bucket // (dtype.itemsize + 12))):
            key = target.swap((slice(lo, hi), slice(None)))
            some = [part[key] for part in aligned]
            yield piece_of(stacked(some, format=target.format, dtype=dtype))

    nnz = sum(int(part.nnz) for part in parts)
    return Stream(target, n_minor, dtype, pieces(), n_major, nnz)


def _lengths(part: Any) -> np.ndarray:
    if not _on_disk(part):
        return np.diff(part.indptr).astype(np.int64)
    starts, stops = part._source.spans(range(part._n_major), part._held())
    return stops - starts


def _aligned(part: Any, target: Axis, memory: Memory, folder: Path, stack: ExitStack) -> Any:
    """A part in the target's format: itself, or what is put into a file that is removed later."""
    if not _on_disk(part):
        return as_matrix(part, target)
    if part._axis is target:
        return part
    aside = stack.enter_context(tempfile.TemporaryDirectory(prefix=".concat-", dir=folder))
    path = os.path.join(aside, "part.h5")
    write_stream(path, _transposed(part, memory, folder, _ignore), "X", Storage())
    return stack.enter_context(_open(path, "X"))


class Conversion(Reading):
    """The part of a disk array that writes other files."""

    def to_csr(self, file: Any, name: str = "X", **options: Any) -> Any:
        """Store as CSR in another file, within bounded memory; see `diskcsr.convert`."""
        return convert(self, file, name, format=CSR.format, **options)

    def to_csc(self, file: Any, name: str = "X", **options: Any) -> Any:
        """Store as CSC in another file, within bounded memory; see `diskcsr.convert`."""
        return convert(self, file, name, format=CSR.transposed.format, **options)

    def shuffle_rows(self, file: Any, name: str = "X", *, seed: Any, **options: Any) -> Any:
        """Store with the rows in random order in another file; see `diskcsr.convert`."""
        return convert(self, file, name, shuffle_rows=seed, **options)
