"""Writing compressed data: chunks are encoded in the thread pool and stored as they are."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import h5py
import numpy as np
from h5py._objects import phil

from ..options import options
from ..threads import ordered_map
from .codecs.pipeline import (
    BLOSC,
    DEFLATE,
    LZ4,
    SHUFFLE,
    ZSTD,
    Pipeline,
    encode_chunk,
    pipeline_of,
    unsupported,
)

__all__ = ["PRESETS", "ArrayWriter", "Preset", "check_exact", "create_array", "create_like"]


@dataclass(frozen=True)
class Preset:
    """A way to store the arrays, by name.

    Attributes
    ----------
    about : str
        Who reads it, and what it is for.
    keywords : dict
        For ``h5py.Group.create_dataset``.
    shuffle : bool
        Whether HDF5's byte shuffle comes first, unless the caller decides.
    filter : int
        HDF5's id of a filter that h5py has no name for, or 0.
    level : int
        The default level.
    levels : range
        The levels there are; empty where there is nothing to choose.
    """

    about: str
    keywords: dict[str, Any] = field(default_factory=dict)
    shuffle: bool = False
    filter: int = 0
    level: int = 0
    levels: range = range(0)


#: What ``compression=`` may be.
PRESETS: dict[str | None, Preset] = {
    None: Preset("read fastest, everywhere"),
    "gzip": Preset("read everywhere", {"compression": "gzip"}, True, level=4, levels=range(10)),
    "lzf": Preset("read by every h5py", {"compression": "lzf"}, shuffle=True),
    "scaleoffset": Preset("integers only; read everywhere, any element alone", {"scaleoffset": 0}),
    "zstd": Preset("small and fast; readers need hdf5plugin", {}, True, ZSTD, 3, range(1, 23)),
    "lz4": Preset("fastest to decode; readers need hdf5plugin", shuffle=True, filter=LZ4),
    "blosc": Preset("blosc with lz4; readers need hdf5plugin", {}, False, BLOSC, 5, range(10)),
}
PRESETS["raw"] = PRESETS[None]
_BLOSC_LZ4, _BLOSC_SHUFFLE = 1, 1
#: Filters that HDF5 itself completes for a dataset's type and chunks, and how many of the values
#: stored with them a user sets: shuffle (2) and fletcher32 (3) none, nbit (5) none, scaleoffset (6)
#: two, lzf none.
_SET_BY_HDF5 = {2: 0, 3: 0, 5: 0, 6: 2, 32000: 0}
#: Whole floating numbers up to here the scaleoffset filter surely keeps: it stores differences to
#: the smallest of a chunk, and float32 counts by one up to twice this.
_LARGEST = 1 << 23


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
    preset = PRESETS.get(compression)
    if preset is None:
        known = ", ".join(repr(name) for name in PRESETS)
        raise ValueError(f"compression must be one of {known}, not {compression!r}")
    if "scaleoffset" in preset.keywords and (dtype.kind not in "iuf" or dtype.itemsize > 8):
        raise ValueError(f"compression='scaleoffset' cannot store values of dtype {dtype}")
    if level is not None and level not in preset.levels:
        levels = f"{preset.levels[0]} to {preset.levels[-1]}" if preset.levels else "left out"
        raise ValueError(
            f"compression_opts of compression={compression!r} must be {levels}, not {level!r}"
        )
    keywords = dict(preset.keywords)
    if preset.shuffle if shuffle is None else shuffle:
        keywords["shuffle"] = True
    if "compression" in keywords and preset.level:
        keywords["compression_opts"] = preset.level if level is None else level
    if preset.filter:
        dset = _create_plugin(group, name, length, dtype, chunk, preset, level, keywords)
    elif not keywords:
        dset = _create_raw(group, name, length, dtype, chunk)
    else:
        dset = group.create_dataset(
            name, (length,), dtype, chunks=(chunk,), maxshape=(None,), **keywords
        )
    return ArrayWriter(dset)


def _create_raw(
    group: h5py.Group, name: str, length: int, dtype: np.dtype, chunk: int
) -> h5py.Dataset:
    """Create a dataset without filters, whose chunks HDF5 lays out at once and side by side.

    Else it finds room for each chunk when it is first written, with chunks of other datasets and
    its own records between them; an array that lies in one piece can be mapped.
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


def _create_plugin(
    group: h5py.Group,
    name: str,
    length: int,
    dtype: np.dtype,
    chunk: int,
    preset: Preset,
    level: Any,
    keywords: dict[str, Any],
) -> h5py.Dataset:
    """Create a dataset with a filter this process's HDF5 need not have: we encode it ourselves."""
    properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    properties.set_chunk((chunk,))
    if keywords.get("shuffle"):
        properties.set_shuffle()
    size = dtype.itemsize
    level = preset.level if level is None else int(level)
    data = {
        ZSTD: (level,),
        LZ4: (0,),
        BLOSC: (2, 2, size, size * chunk, level, _BLOSC_SHUFFLE, _BLOSC_LZ4),
    }[preset.filter]
    properties.set_filter(preset.filter, h5py.h5z.FLAG_OPTIONAL, data)
    return _create(group, name, length, dtype, properties)


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
            if number == BLOSC:
                # Blosc is told the size of an element and of a chunk, which nobody corrects here.
                values = (*values[:2], dtype.itemsize, dtype.itemsize * chunk, *values[4:])
            elif number in _SET_BY_HDF5:
                values = values[: _SET_BY_HDF5[number]]
            new.set_filter(number, flags, values)
    dset = _create(group, name, length, dtype, new)
    for key, value in like.attrs.items():
        dset.attrs[key] = value
    return dset


def check_exact(dset: h5py.Dataset, values: np.ndarray, pipeline: Pipeline | None = None) -> None:
    """Raise `ValueError` when the scaleoffset filter of a dataset would round these values."""
    if dset.dtype.kind != "f":
        return
    pipeline = pipeline or pipeline_of(dset)
    if "scaleoffset" not in {filter.name for filter in pipeline.filters}:
        return
    values = values.astype(pipeline.native, copy=False)
    if not np.all((np.abs(values) <= _LARGEST) & (values == np.rint(values))):
        raise ValueError(
            f"{dset.file.filename}, {dset.name!r}: compression='scaleoffset' stores whole numbers "
            f"up to {_LARGEST} only, and would round other values"
        )


class ArrayWriter:
    """Fills a dataset from its beginning, or from an element on, block by block.

    Chunks of filtered data are encoded side by side, outside HDF5; what no encoder here does is
    left to h5py.

    Parameters
    ----------
    dset : h5py.Dataset
        Chunked, one-dimensional, as long as it is to be.
    start : int
        The first element to write. Those before it, and those behind the last one written, stay.
    """

    def __init__(self, dset: h5py.Dataset, start: int = 0) -> None:
        self._dset = dset
        self._pipeline: Pipeline = pipeline_of(dset)
        filters = {filter.id for filter in self._pipeline.filters}
        reason = unsupported(self._pipeline, encode=True)
        if reason is not None and filters - {DEFLATE, SHUFFLE} and not self._hdf5_can(filters):
            raise ValueError(f"cannot compress {dset.name!r}: {reason}")
        self._parallel = bool(filters) and reason is None
        self._written = start
        self._rest = np.empty(0, self._pipeline.native)
        if self._parallel and start % self._pipeline.chunk:
            # Chunks are written whole: what stands before `start` in the first is written again.
            self._written -= start % self._pipeline.chunk
            self._rest = self._existing(self._written, start)

    @staticmethod
    def _hdf5_can(filters: set[int]) -> bool:
        return all(h5py.h5z.filter_avail(number) for number in filters)

    def append(self, values: np.ndarray) -> None:
        """Store the next values.

        Raises
        ------
        ValueError
            When there is no more room, or scaleoffset would round them.
        """
        values = np.ascontiguousarray(values, self._pipeline.native)
        check_exact(self._dset, values, self._pipeline)
        if not self._parallel:
            end = self._written + values.size
            self._dset[self._written : end] = values
            self._written = end
            return
        length = self._pipeline.chunk
        if self._rest.size:
            values = np.concatenate([self._rest, values])
        whole = values.size - values.size % length
        self._encode(values[i : i + length] for i in range(0, whole, length))
        # A copy: it must not keep a whole block alive.
        self._rest = values[whole:].copy()

    def finish(self) -> None:
        """Store the last chunk, filled up with what is there, or with zeros as HDF5 does."""
        if self._rest.size:
            length = self._pipeline.chunk
            last = np.zeros(length, self._pipeline.native)
            last[: self._rest.size] = self._rest
            end = self._written + self._rest.size
            behind = self._existing(end, min(self._written + length, self._dset.size))
            last[self._rest.size : self._rest.size + behind.size] = behind
            self._encode([last])
            self._rest = self._rest[:0]

    def _existing(self, lo: int, hi: int) -> np.ndarray:
        """Read elements ``lo:hi``, none when there are none."""
        if hi <= lo:
            return np.empty(0, self._pipeline.native)
        return np.ascontiguousarray(self._dset[lo:hi], self._pipeline.native)

    def _encode(self, chunks: Any) -> None:
        encoded: Iterator[bytes] = ordered_map(
            lambda chunk: encode_chunk(chunk, self._pipeline), chunks, ahead=2 * options.num_threads
        )
        for raw in encoded:
            with phil:  # h5py before 3.16 forgets its own lock here (its issue 2764)
                self._dset.id.write_direct_chunk((self._written,), raw, 0)
            self._written += self._pipeline.chunk
