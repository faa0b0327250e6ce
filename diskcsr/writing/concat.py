"""Matrices below each other, or side by side, in one file."""

import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

import numpy as np
from scipy.sparse import hstack, issparse, vstack

from ..axis import Axis
from ..blocks.contents import Contents
from ..blocks.joined import parts_of
from ..importing.imported import SourceOptions
from ..keys.plan import plan_batches
from ..machine.progress import reporting
from ..protocol.handle import contents_of, open_array
from ..storage.edit.virtual import write_joined
from ..storage.formats.fields import MAX_LENGTH
from ..storage.write.groups import write_stream
from ..storage.write.keywords import Storage, StorageKeywords, takes_storage
from ..streams.stream import Stream, as_matrix, portion_of
from ..streams.transpose import Memory
from .matrices import axis_for, check_apart, folder_of, imported, opened
from .streaming import Means, memory_of, nbytes_of, stream_of, transposed
from .triplets import store_imported

if TYPE_CHECKING:
    from ..array import DiskCSC, DiskCSR

__all__ = ["concat"]

#: What cannot be said of values and indices that stay where they are.
_NOT_VIRTUAL = (
    "compression", "compression_opts", "shuffle", "chunks", "index_dtype", "max_memory",
    "sum_duplicates", "progress",
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
        check_apart(parts, file)
        if virtual:
            write_joined(file, name, how, target, _in_files(parts), axis)
            return open_array(file, name)
        memory = memory_of(how.max_memory, max(target.swap(part.shape)[0] for part in parts))
        with reporting(how.progress, sum(map(nbytes_of, parts))) as advance:
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


def _in_files(parts: list[Any]) -> list[Contents | None]:
    """Return what each part shows; one that lies in several files itself, file by file."""
    found: list[Contents | None] = []
    for shown in map(contents_of, parts):
        several = isinstance(shown, Contents) and not shown.held and shown.axis is shown.source.axis
        found += map(Contents.stored, parts_of(shown.source)) if several else [shown]  # type: ignore[union-attr]
    return found


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
