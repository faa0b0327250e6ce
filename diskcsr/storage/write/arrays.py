"""Writing compressed data: chunks are encoded in the thread pool and stored as they are."""

from collections.abc import Iterator
from itertools import chain
from typing import Any

import h5py
import numpy as np

from ...errors import CorruptFileError
from ...machine.options import options
from ...machine.threads import ordered_map
from ..claims.heldchunks import HeldChunks
from ..codecs import table
from ..codecs.codec import Cd, Codec, Pipeline
from ..codecs.pipeline import (
    decode_whole,
    encode_chunk,
    fill_value,
    may_round,
    pipeline_of,
    rounding,
    stages_of,
    unsupported,
)
from ..codecs.shuffle import CODEC as SHUFFLE
from ..files.lock import hdf5_locked
from ..files.transactions import check_writing

__all__ = ["ArrayWriter", "check_exact", "create_array", "create_like"]

#: Elements that are converted, tested and written at a time: they may be copied for it.
_STEP = 1 << 22


def create_array(
    group: h5py.Group,
    name: str,
    length: int,
    dtype: np.dtype,
    chunk: int,
    compression: str | None,
    level: Any = None,
    shuffle: bool | None = None,
) -> "ArrayWriter":
    """Create a one-dimensional dataset that can grow, and return what fills it.

    Raises
    ------
    ValueError
        When `compression` is no preset, `level` none of its levels, or what encodes it is not
        installed.
    """
    filters = _filters(dtype, chunk, compression, level, shuffle)
    if not filters:
        return ArrayWriter(_create_raw(group, name, length, dtype, chunk))
    properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    properties.set_chunk((chunk,))
    properties.set_obj_track_times(False)
    for codec, cd in filters:
        # Optional: this process's HDF5 need not have the filter, for the chunks are encoded here.
        properties.set_filter(codec.id, h5py.h5z.FLAG_OPTIONAL, cd)
    return ArrayWriter(_create(group, name, length, dtype, properties))


def _filters(
    dtype: np.dtype, chunk: int, compression: str | None, level: Any, shuffle: bool | None
) -> list[tuple[Codec, Cd]]:
    """Return the filters of a new dataset in the order of writing, with their client data."""
    found = table.find_preset(compression)
    levels = found[1].levels if found else range(0)
    if level is not None and level not in levels:
        known = f"{levels[0]} to {levels[-1]}" if levels else "left out"
        raise ValueError(
            f"compression_opts of compression={compression!r} must be {known}, not {level!r}"
        )
    shuffling: list[tuple[Codec, Cd]] = [(SHUFFLE, ())]  # HDF5 itself knows the size
    if found is None:
        return shuffling if shuffle else []
    codec, preset = found
    if not preset.stores(dtype):
        raise ValueError(f"compression={compression!r} cannot store values of dtype {dtype}")
    level = preset.level if level is None else int(level)
    filters: list[tuple[Codec, Cd]] = [(codec, preset.client_data(dtype, chunk, level))]
    if not (preset.shuffle if shuffle is None else shuffle):
        return filters
    return filters + shuffling if preset.before_shuffle else shuffling + filters


def _create_raw(
    group: h5py.Group, name: str, length: int, dtype: np.dtype, chunk: int
) -> h5py.Dataset:
    """Create a dataset without filters, whose chunks HDF5 lays out at once and side by side.

    Else it finds room for each chunk when it is first written, with chunks of other datasets and
    its own records between them; an array that lies in one extent can be mapped.
    """
    properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    properties.set_chunk((chunk,))
    properties.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    properties.set_fill_time(h5py.h5d.FILL_TIME_NEVER)  # all of it is written in a moment
    return _create(group, name, length, dtype, properties)


def _create(
    group: h5py.Group, name: str, length: int, dtype: np.dtype, properties: Any
) -> h5py.Dataset:
    space = h5py.h5s.create_simple((length,), (h5py.h5s.UNLIMITED,))
    stored = h5py.h5t.py_create(dtype, logical=True)
    return h5py.Dataset(h5py.h5d.create(group.id, name.encode(), stored, space, properties))


def create_like(
    group: h5py.Group, name: str, like: h5py.Dataset, length: int, dtype: np.dtype, chunk: int
) -> h5py.Dataset:
    """Create an empty dataset that can grow, with the filters of another.

    Its dtype, length and chunks may differ.
    """
    properties = like.id.get_create_plist()
    new = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    new.set_chunk((chunk,))
    if properties.get_layout() == h5py.h5d.CHUNKED:
        for i in range(properties.get_nfilters()):
            number, flags, values, _ = properties.get_filter(i)
            codec = table.CODECS.get(number)
            if codec is not None:
                values = codec.renew(values, dtype, chunk)
            new.set_filter(number, flags, values)
    dset = _create(group, name, length, dtype, new)
    for key, value in like.attrs.items():
        dset.attrs[key] = value
    return dset


def check_exact(dset: h5py.Dataset, values: np.ndarray, pipeline: Pipeline | None = None) -> None:
    """Raise `ValueError` when a filter of a dataset would round these values."""
    pipeline = pipeline or pipeline_of(dset)
    if not may_round(pipeline):
        return
    reason = rounding(values.astype(pipeline.native, copy=False), pipeline)
    if reason is not None:
        raise ValueError(f"{dset.file.filename}, {dset.name!r}: {reason}")


class ArrayWriter:
    """Fills a dataset from its beginning, or from an element on, block by block.

    It grows as far as it must. Chunks of filtered data are encoded side by side, outside HDF5; what
    no encoder here does is left to h5py. They are encoded where they lie: of a block only what
    begins or ends inside a chunk is copied.

    Parameters
    ----------
    dset : h5py.Dataset
        Chunked, one-dimensional. Made as long as it is to be, it can be laid out in one extent.
    start : int
        The first element to write. Those before it, and those behind the last one written, stay.
    tested : bool
        Whether the caller has seen to it that no filter rounds the values (`check_exact`).
    """

    def __init__(self, dset: h5py.Dataset, start: int = 0, *, tested: bool = False) -> None:
        self._dset = dset
        self._pipeline: Pipeline = pipeline_of(dset)
        self._tested = tested
        filters = {filter.id for filter in self._pipeline.filters}
        reason = unsupported(self._pipeline, encode=True)
        if reason is not None and not all(map(h5py.h5z.filter_avail, filters)):
            raise ValueError(f"cannot compress {dset.name!r}: {reason}")
        self._parallel = bool(filters) and reason is None
        #: Whether what is in its chunks can be read here, and not by HDF5 alone.
        self._decodes = bool(filters) and unsupported(self._pipeline) is None
        self._check = check_writing(dset)
        #: Where the next value goes, and how long the dataset is.
        self._filled, self._length = start, dset.size
        #: Before which element there may be chunks of others, with other filter masks.
        self._old_length = dset.size
        #: The first element that is not stored, nor in a chunk that is begun.
        self._written = start
        #: The chunk that is begun, and how many of its elements are there.
        self._begun = np.empty(0, self._pipeline.native)
        self._count = 0
        #: A chunk as it was found, by its number: parts of it may be wanted again.
        self._found: tuple[int, np.ndarray] | None = None
        self._go_to(start)

    def _go_to(self, start: int) -> None:
        """Go on at an element, with no chunk begun."""
        self._written = self._filled = start
        within = start % self._pipeline.chunk if self._pipeline.filters else 0
        if within:
            # Chunks are written whole: what stands before `start` in the first is written again.
            before = self._existing(start - within, start)
            if self._parallel:
                self._written -= within
                self._begin(before)

    def move(self, start: int) -> None:
        """Go on at another element. Those that are left out stay as they are."""
        at, length = self._written + self._count, self._pipeline.chunk
        if self._count and at <= start and at // length == start // length:
            self._begin(self._existing(at, start))
            self._filled = start
        else:
            self.finish()
            self._go_to(start)

    def append(self, values: np.ndarray) -> None:
        """Store the next values.

        Raises
        ------
        ValueError
            When a filter would round them.
        OSError, KeyboardInterrupt
            When there is no point in writing on; see `check_writing`.
        """
        for first in range(0, values.size, _STEP):
            self._check()
            self._append(values[first : first + _STEP])

    def _append(self, values: np.ndarray) -> None:
        values = np.ascontiguousarray(values, self._pipeline.native)
        if not self._tested:
            check_exact(self._dset, values, self._pipeline)
        self._filled += values.size
        if self._filled > self._length:
            self._length = self._filled
            self._dset.resize((self._length,))
        if not self._parallel:
            end = self._written + values.size
            self._dset[self._written : end] = values
            self._written = end
            return
        length = self._pipeline.chunk
        filled, begun = 0, []
        if self._count:
            filled = min(length - self._count, values.size)
            self._begin(values[:filled])
            if self._count < length:
                return
            begun = [self._begun]
        end = values.size - (values.size - filled) % length
        whole = (values[i : i + length] for i in range(filled, end, length))
        self._encode(chain(begun, whole))
        self._count = 0
        self._begin(values[end:])

    def finish(self) -> None:
        """Store the last chunk, filled up with what is there, or with zeros as HDF5 does."""
        if self._count:
            end = self._written + self._count
            behind = min(self._written + self._pipeline.chunk, self._dset.size)
            self._begin(self._existing(end, behind))
            self._begun[self._count :] = 0
            self._encode([self._begun])
            self._count = 0

    def _begin(self, values: np.ndarray) -> None:
        """Put values into the chunk that is begun, which has room for them."""
        if values.size and not self._begun.size:
            self._begun = np.empty(self._pipeline.chunk, self._pipeline.native)
        self._begun[self._count : self._count + values.size] = values
        self._count += values.size

    def _existing(self, lo: int, hi: int) -> np.ndarray:
        """Read elements ``lo:hi``, which lie in one chunk; none when there are none.

        Raises
        ------
        CorruptFileError
            When the chunk cannot be decoded: HDF5 would not always say so.
        """
        if hi <= lo:
            return np.empty(0, self._pipeline.native)
        if not self._decodes:
            return np.ascontiguousarray(self._dset[lo:hi], self._pipeline.native)
        number, within = divmod(lo, self._pipeline.chunk)
        if self._found is None or self._found[0] != number:
            self._found = number, self._decoded(number)
        return self._found[1][within : within + hi - lo]

    def _decoded(self, number: int) -> np.ndarray:
        """Read a chunk as it is stored."""
        dset, pipeline = self._dset, self._pipeline
        try:
            found = HeldChunks(dset, pipeline.nbytes, pipeline).find(number)
            if found is None:
                fill = fill_value(dset.id.get_create_plist(), dset.dtype, pipeline)
                return np.full(pipeline.chunk, fill, pipeline.native)
            values = np.empty(pipeline.chunk, pipeline.native)
            return decode_whole(found.read(), stages_of(pipeline, found.mask), pipeline, values)
        except CorruptFileError as problem:
            where = f"{dset.file.filename}, dataset {dset.name!r}, chunk {number}"
            raise CorruptFileError(f"{where}: {problem}") from problem

    def _encode(self, chunks: Any) -> None:
        self._found = None
        encoded: Iterator[bytes] = ordered_map(
            lambda chunk: encode_chunk(chunk, self._pipeline), chunks, ahead=2 * options.num_threads
        )
        for raw in encoded:
            self._put(raw)
            self._written += self._pipeline.chunk

    def _put(self, raw: bytes) -> None:
        """Store the bytes of the next chunk, to which all filters were applied."""
        place, chunks = (self._written,), self._dset.id
        with hdf5_locked():  # h5py before 3.16 forgets its own lock here (its issue 2764)
            if self._written < self._old_length:
                old = chunks.get_chunk_info_by_coord(place)
                # Of a chunk that takes the place of one as long HDF5 (1.14.2, 2.0.0) does not store
                # the filter mask; where that was another, one of another length comes between.
                if old.filter_mask and old.size == len(raw):
                    chunks.write_direct_chunk(place, raw + b"\0", 0)
            chunks.write_direct_chunk(place, raw, 0)
