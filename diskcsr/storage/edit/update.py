"""Changing a stored matrix: assign to its values, append rows to it.

Everything is checked before anything is written, and what is written is one transaction: where the
file has a journal, a process that dies in the middle leaves the state before.
"""

import uuid
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Any

import h5py
import numpy as np

from ...blocks.contents import Contents
from ...breakeven import BLOCK_ELEMENTS
from ...errors import FormatError, ReadOnlyError, StaleFileError
from ...keys.assignment import Change, apply_change
from ...keys.widths import index_dtype
from ..codecs.pipeline import lacking_in_hdf5, may_round, pipeline_of, unsupported
from ..files.transactions import check_writing, telling_damage, transaction
from ..formats.conventions import ARRAYS, Header
from ..formats.tags import stamp, tags_of
from ..read.choose import choose_reader
from ..read.source import Source
from ..write.arrays import ArrayWriter, check_exact, create_like
from ..write.groups import chunk_length

__all__ = ["append_blocks", "assign", "scale"]

#: Bytes of new values that are kept between checking an assignment and writing it.
_KEPT_CHANGES = 1 << 26
#: Stored values that are appended in one transaction, when there are that many.
_COMMITTED = 1 << 22


# ------------------------------------------------------------------------------------- assignment


def assign(source: Source, change: Change) -> None:
    """Write new values of stored entries.

    Raises
    ------
    StructureError
        When an entry that is not stored would get a value; nothing was written.
    ValueError
        When a value would be rounded by the filter it is stored with; nothing was written.
    """
    data = writable(source, "data")
    kept: list[tuple[np.ndarray, np.ndarray, np.ndarray]] | None = []
    size = 0
    for changed in _new_values(source, change):  # all of them, before the first is written
        check_exact(data, changed[2])
        size += sum(array.nbytes for array in changed)
        if kept is not None:
            kept.append(changed)
            kept = kept if size <= _KEPT_CHANGES else None
    with transaction(source.group), telling_damage(source.where):
        check = check_writing(source.group)
        for starts, stops, values in _new_values(source, change) if kept is None else kept:
            check()
            _write_runs(data, starts, stops, values)
    source.changed()


def _new_values(
    source: Source, change: Change
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Yield where the stored elements of some rows begin and end, and what they become."""
    contents = Contents.stored(source)

    def describe(major: int, minor: int) -> str:
        return f"{source.where}: element {source.axis.swap((major, minor))}"

    per_row = 1 if change.minor is None else max(1, change.minor.size)
    step = max(1, 4 * BLOCK_ELEMENTS // per_row)
    for begin in range(0, change.major.size, step):
        rows = change.major[begin : begin + step]
        # One after the other: nothing may be read ahead of what is written meanwhile.
        for first, plan in contents.plans(rows, BLOCK_ELEMENTS * (contents.dtype.itemsize + 4)):
            new = apply_change(
                change, begin + first, contents.read(plan), contents.n_minor, describe
            )
            yield *contents.spans(rows[first : first + plan.indptr.size - 1]), new


def _write_runs(
    data: h5py.Dataset, starts: np.ndarray, stops: np.ndarray, values: np.ndarray
) -> None:
    """Write rows to their places; those that follow one another together."""
    some = stops > starts
    starts, stops = starts[some], stops[some]
    if not starts.size:
        return
    new = np.append(True, starts[1:] != stops[:-1])
    first = np.flatnonzero(new)
    last = np.append(first[1:], starts.size) - 1
    writer = ArrayWriter(data, int(starts[0]), tested=True)
    at = 0
    for lo, hi in zip(starts[first].tolist(), stops[last].tolist(), strict=True):
        writer.move(lo)
        writer.append(values[at : at + hi - lo])
        at += hi - lo
    writer.finish()


def scale(source: Source, operation: Callable[[np.ndarray, Any], np.ndarray], factor: Any) -> None:
    """Replace every stored value by ``operation(values, factor)``, an in-place ufunc of numpy."""
    data = writable(source, "data")
    operation(np.empty(0, source.dtype), factor)  # numpy's own complaint, before anything changes
    nnz, reader = Contents.stored(source).nnz, source.reader("data")

    def scaled() -> Iterator[tuple[int, np.ndarray]]:
        for lo in range(0, nnz, 4 * BLOCK_ELEMENTS):
            values = reader.run(lo, min(lo + 4 * BLOCK_ELEMENTS, nnz))
            yield lo, operation(values.astype(source.dtype, copy=False), factor)

    if may_round(pipeline_of(data)):
        with telling_damage(source.where):
            for _, values in scaled():
                check_exact(data, values)
    with transaction(source.group), telling_damage(source.where):
        check = check_writing(source.group)
        for lo, values in scaled():
            check()
            writer = ArrayWriter(data, lo, tested=True)
            writer.append(values)
            writer.finish()
    source.changed()


def writable(source: Source, name: str) -> h5py.Dataset:
    """Return a dataset of a matrix that may be written to, its chunks checked.

    Raises
    ------
    CorruptFileError
        When what the file says of the chunks cannot be: writing would make it worse.
    ReadOnlyError
        When the file is not open for writing.
    FormatError
        When there is no such dataset or it is another array as well, one value stands for all,
        or nothing here encodes it.
    StaleFileError
        When the group was deleted or replaced.
    """
    source.check_open()
    if source.group.file.mode == "r":
        raise ReadOnlyError(f"{source.where}: the file is open read-only")
    if source.group.name is None:
        raise StaleFileError(f"{source.where} is no longer there: it was deleted")
    stored = getattr(source.header, name)
    if stored is None or source.header.iso:
        why = "one value stands for all stored ones" if stored else "there is no such dataset"
        raise FormatError(
            f"{source.where}: {name!r} cannot be written to: {why}; copy the matrix with "
            "diskcsr.write first"
        )
    source.reader(name)
    dset = source.group[stored]
    for other in ARRAYS:
        if other != name and source.dataset(other) == dset:
            raise FormatError(
                f"{source.where}: {name!r} cannot be written to: it is one dataset with {other!r}; "
                "copy the matrix with diskcsr.write first"
            )
    lacking = lacking_in_hdf5(dset)
    if lacking is not None and unsupported(pipeline_of(dset), encode=True) is not None:
        raise FormatError(f"{source.where}: {name!r} {lacking}")
    return dset


# ---------------------------------------------------------------------------------------- append


def append_blocks(source: Source, blocks: Iterable[Any]) -> None:
    """Append compressed blocks along the major axis, a whole number of them at a time.

    Parameters
    ----------
    source : Source
    blocks : iterable of csr_array or csc_array
        Of the source's orientation, indices sorted and in range, values that may be cast. A block
        with a longer minor axis makes that of the matrix longer.

    Raises
    ------
    FormatError
        When the convention of the group is one that is only read.
    """
    for name in ARRAYS:
        writable(source, name)
    if tags_of(source.header) is None:
        raise FormatError(
            f"{source.where}: cannot append to a matrix stored as {source.header.convention}; "
            "copy it with diskcsr.write first"
        )
    if source.hints["shape"] is not None:
        raise FormatError(f"{source.where}: cannot append to a part of a matrix (shape= was given)")
    for some in _together(_exact(source, blocks)):
        with transaction(source.group), telling_damage(source.where):
            header = _append(source, some)
        source.changed(header)


def _exact(source: Source, blocks: Iterable[Any]) -> Iterator[Any]:
    """Refuse a block whose values would not be stored as they are, before it is written."""
    for block in blocks:
        check_exact(source.group[source.header.data], block.data)
        yield block


def _together(blocks: Iterable[Any]) -> Iterator[list[Any]]:
    """Gather small blocks, so that thousands of them are few transactions."""
    some: list[Any] = []
    stored = 0
    try:
        for block in blocks:
            some.append(block)
            stored += block.nnz + block.shape[0] + block.shape[1]
            if stored >= _COMMITTED:
                yield some
                some, stored = [], 0
    except Exception:  # a wrong block: those before it stay
        if some:
            yield some
        raise
    if some:
        yield some


def _append(source: Source, blocks: list[Any]) -> Header:
    """Write some blocks; return what the group then says of itself."""
    group, header, stored = source.group, source.header, Contents.stored(source)
    n_major, n_minor, nnz = stored.n_major, stored.n_minor, stored.nnz
    pointers = [np.empty(0, np.int64)]
    end = nnz
    for block in blocks:
        pointers.append(block.indptr[1:].astype(np.int64) + end)
        end += block.nnz
        n_minor = max(n_minor, source.axis.swap(block.shape)[1])
    indptr = np.concatenate(pointers)
    _extend(group, header.data, nnz, [block.data for block in blocks], 0)
    _extend(group, header.indices, nnz, [block.indices for block in blocks], n_minor - 1)
    _extend(group, header.indptr, n_major + 1, [indptr], end)
    shape = source.axis.swap((n_major + indptr.size, n_minor))
    tags = tags_of(header)
    assert tags is not None  # seen to before
    # Tags of the other convention are removed: AnnData's append leaves some that then contradict.
    header = replace(header, shape=shape)
    stamp(group, header, tags)
    return header


def _extend(
    group: h5py.Group, name: str | None, length: int, parts: list[np.ndarray], largest: int
) -> None:
    """Write `parts` behind the first `length` elements of a dataset; `largest` must fit it."""
    assert name is not None
    new = length + sum(part.size for part in parts)
    dset = group[name]
    dtype = dset.dtype
    if dtype.kind in "iu" and largest > np.iinfo(dtype).max:
        dtype = index_dtype(largest).newbyteorder("<")
    chunk = _chunk_for(dset, new)
    fixed = dset.maxshape[0] is not None and dset.maxshape[0] < new
    if dtype != dset.dtype or fixed or chunk != (dset.chunks or (0,))[0]:
        dset = _rewrite(group, name, length, dtype, chunk)
    dset.resize((new,))
    writer = ArrayWriter(dset, length, tested=True)
    for part in parts:
        writer.append(part.astype(dtype.newbyteorder("="), copy=False))
    writer.finish()


def _chunk_for(dset: h5py.Dataset, length: int) -> int:
    """The chunk a dataset of this length should have: its own, unless that is much too short.

    A dataset that began small would otherwise be in many small chunks for ever. Chunks grow at
    least fourfold, so all rewriting together costs no more than a part of what is appended.
    """
    wanted = chunk_length(length)
    own = dset.chunks[0] if dset.chunks else 0
    return wanted if 4 * own <= wanted else own


def _rewrite(
    group: h5py.Group, name: str, length: int, dtype: np.dtype, chunk: int
) -> h5py.Dataset:
    """Replace a dataset by one that holds its first elements and can grow."""
    old = group[name]
    where = f"{group.file.filename}, dataset {old.name!r}"
    reader = choose_reader(old, where, "it is written anew", known=True)
    temporary = f"writing-{uuid.uuid4().hex}"
    new = create_like(group, temporary, old, length, dtype, chunk)
    writer = ArrayWriter(new)
    for lo in range(0, length, 4 * BLOCK_ELEMENTS):
        writer.append(reader.run(lo, min(lo + 4 * BLOCK_ELEMENTS, length)))
    writer.finish()
    del group[name]
    group.move(temporary, name)
    return group[name]
