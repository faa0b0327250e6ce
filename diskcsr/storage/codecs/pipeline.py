"""HDF5's filter pipeline, undone and applied outside HDF5.

HDF5 runs filters under its global lock, one chunk at a time. The functions here take the bytes of a
chunk as they lie in the file and touch nothing else, so any number of threads may run them. Filters
were applied in the order of the dataset's creation property list and are undone in reverse; bit i
of a chunk's *filter mask* says that filter i was left out for that chunk. A chunk at the edge of a
dataset is stored at full length.

`FILTERS` has one row per filter, `DECODERS` and `ENCODERS` are its functions by HDF5's filter id.
"""

import functools
import importlib.metadata
import threading
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import h5py
import numpy as np
from numpy.typing import ArrayLike, NDArray

from ...errors import CorruptFileError
from . import functions as codecs
from .functions import Bytes, Cd, as_bytes, find_library, need
from .scaleoffset import (
    ScaleOffset,
    decode_scaleoffset,
    encode_scaleoffset,
    gather_scaleoffset,
)

__all__ = [
    "DECODERS",
    "ENCODERS",
    "FILTERS",
    "Filter",
    "Pipeline",
    "codec_report",
    "copy_pieces",
    "decode_chunk",
    "decode_whole",
    "encode_chunk",
    "gather_chunk",
    "gather_pieces",
    "pipeline_of",
    "stages_of",
    "unsupported",
]

DEFLATE, SHUFFLE, FLETCHER32, SCALEOFFSET = 1, 2, 3, 6
LZF, BLOSC, LZ4, BITSHUFFLE, ZSTD, BLOSC2 = 32000, 32001, 32004, 32008, 32015, 32026

#: A thread keeps its two buffers between calls up to this size each, in bytes.
_KEPT = 8 << 20
#: Up to this many pieces are copied from Python: a kernel would cost more to call.
_FEW = 8
_UNSIGNED = {size: np.dtype(f"u{size}") for size in (2, 4, 8)}


@dataclass(frozen=True)
class Filter:
    """One filter of a dataset: HDF5's id, a name, and the client data."""

    id: int
    name: str
    cd: tuple[int, ...]


@dataclass(frozen=True)
class Pipeline:
    """How the chunks of one dataset are encoded.

    Attributes
    ----------
    filters : tuple of Filter
        In the order they were applied.
    dtype : numpy.dtype
        Of an element in the file, byte order included; a void where the stored type is not one that
        numpy has bit for bit (`unsupported` then says so).
    chunk : int
        Elements per chunk.
    """

    filters: tuple[Filter, ...]
    dtype: np.dtype
    chunk: int

    @property
    def nbytes(self) -> int:
        """Bytes of a decoded chunk."""
        return self.chunk * self.dtype.itemsize

    @property
    def native(self) -> np.dtype:
        """The dtype of a decoded chunk."""
        return self.dtype.newbyteorder("=")


@dataclass(frozen=True)
class _Row:
    """A filter: its functions, what they need, and why that was chosen.

    `libraries` are modules in order of preference, empty for kernels of our own; `extra` is the
    extra of this package that brings them.
    """

    name: str
    decode: Callable[[Bytes, Cd, Bytes], Bytes]
    encode: Callable[[Bytes, Cd], Bytes] | None
    keeps_length: bool = False
    least_cd: int = 0
    libraries: tuple[str, ...] = ()
    extra: str = ""
    why: str = "a kernel of this package, compiled by numba"


_NUMCODECS = "releases the GIL and decodes into the caller's memory"
FILTERS: dict[int, _Row] = {
    DEFLATE: _Row(
        "deflate",
        codecs.decode_deflate,
        codecs.encode_deflate,
        libraries=("deflate", "zlib"),
        extra="codecs",
        why="libdeflate, the fastest inflate measured",
    ),
    SHUFFLE: _Row(
        "shuffle", codecs.decode_shuffle, codecs.encode_shuffle, keeps_length=True, least_cd=1
    ),
    FLETCHER32: _Row("fletcher32", codecs.decode_fletcher32, codecs.encode_fletcher32),
    SCALEOFFSET: _Row("scaleoffset", decode_scaleoffset, encode_scaleoffset, least_cd=8),
    LZF: _Row("lzf", codecs.decode_lzf, codecs.encode_lzf),
    LZ4: _Row(
        "lz4",
        codecs.decode_lz4,
        codecs.encode_lz4,
        libraries=("numcodecs.lz4",),
        extra="codecs",
        why=_NUMCODECS,
    ),
    ZSTD: _Row(
        "zstd",
        codecs.decode_zstd,
        codecs.encode_zstd,
        libraries=("numcodecs.zstd",),
        extra="codecs",
        why=_NUMCODECS,
    ),
    BLOSC: _Row(
        "blosc",
        codecs.decode_blosc,
        codecs.encode_blosc,
        libraries=("numcodecs.blosc",),
        extra="codecs",
        why=_NUMCODECS,
    ),
    BLOSC2: _Row(
        "blosc2",
        codecs.decode_blosc2,
        None,
        libraries=("imagecodecs", "blosc2"),
        extra="blosc2",
        why="of the two, imagecodecs releases the GIL",
    ),
    BITSHUFFLE: _Row("bitshuffle", codecs.decode_bitshuffle, None, least_cd=3),
}
DECODERS = {id: row.decode for id, row in FILTERS.items()}
ENCODERS = {id: row.encode for id, row in FILTERS.items() if row.encode is not None}


def pipeline_of(dset: h5py.Dataset) -> Pipeline:
    """Read how a dataset's chunks are encoded from its creation property list.

    A dataset without chunks counts as one chunk without filters.
    """
    plist = dset.id.get_create_plist()
    filters = []
    for i in range(plist.get_nfilters()):
        id, _, cd, name = plist.get_filter(i)
        row = FILTERS.get(id)
        text = row.name if row else bytes(name).decode("utf-8", "replace")
        # h5py has room for 16 values of client data; what it returns beyond is not the file's.
        filters.append(Filter(int(id), text, tuple(int(value) for value in cd[:16])))
    chunk = dset.size if dset.chunks is None else int(np.prod(dset.chunks))
    return Pipeline(tuple(filters), _stored_dtype(dset), int(chunk or 0))


def _stored_dtype(dset: h5py.Dataset) -> np.dtype:
    """Return the numpy dtype with exactly the stored bits, or a void of the same size."""
    stored, dtype = dset.id.get_type(), dset.dtype
    void = np.dtype((np.void, max(stored.get_size(), 1)))
    if dtype.kind not in "biufcV" or stored != h5py.h5t.py_create(dtype, logical=True):
        return void  # an object, or bits that HDF5 would convert while reading
    if dtype.kind != "V":
        return np.dtype(dtype.str)
    # A complex number as a pair of floats under other names than h5py's, as MATLAB writes.
    names = dtype.names or ()
    if len(names) == 2 and dtype[0] == dtype[1] and dtype[0].str[1:] in ("f4", "f8"):
        half = dtype[0].itemsize
        fields = dtype.fields or {}
        if [fields[name][1] for name in names] == [0, half] and dtype.itemsize == 2 * half:
            return np.dtype(f"{dtype[0].str[0]}c{2 * half}")
    return void


def unsupported(pipeline: Pipeline, *, encode: bool = False) -> str | None:
    """Say why a pipeline cannot be decoded (or encoded) here; None when it can.

    Libraries that the filters need are imported to find out.
    """
    if pipeline.dtype.kind not in "biufc":
        return "the stored type is none of numpy's"
    length: int | None = pipeline.nbytes  # that the next filter gets, None when it varies
    for filter in pipeline.filters:
        row = FILTERS.get(filter.id)
        reason = None
        if row is None or (encode and row.encode is None):
            direction = "encoder" if encode else "decoder"
            reason = f"filter {filter.id} ({filter.name}) has no {direction} here"
        elif len(filter.cd) < row.least_cd:
            reason = f"{row.name} has {len(filter.cd)} parameters, not {row.least_cd}"
        elif row.libraries and find_library(*row.libraries) is None:
            reason = f"{row.name} needs the {row.extra!r} extra"
        else:
            reason = _bad_parameters(filter, pipeline, length)
        if reason is not None:
            return reason
        length = _length_after(filter, length)
    return None


def _length_after(filter: Filter, length: int | None) -> int | None:
    """Return how many bytes a filter makes of `length` bytes, None when that varies."""
    if length is None:
        return None
    if filter.id == FLETCHER32:
        return length + 4
    keeps = FILTERS[filter.id].keeps_length
    if filter.id == BITSHUFFLE:
        keeps = len(filter.cd) < 5 or filter.cd[4] == 0
    return length if keeps else None


def _bad_parameters(filter: Filter, pipeline: Pipeline, length: int | None) -> str | None:
    """Say why the client data of a filter cannot be what the filter itself wrote."""
    cd = filter.cd
    if filter.id == SHUFFLE and cd[0] == 0:
        return "shuffle of elements of no bytes"
    if filter.id == SCALEOFFSET:
        return _bad_scaleoffset(cd, pipeline, length)
    if filter.id == BLOSC and len(cd) > 6 and (cd[6] == 3 or cd[6] > 5):
        return f"blosc with the compressor {cd[6]} (snappy is 3) has no decoder here"
    if filter.id == BLOSC2 and len(cd) > 7 and cd[7] > 1:
        return f"blosc2 chunks of {cd[7]} dimensions"
    if filter.id == BITSHUFFLE:
        if cd[2] == 0 or len(cd) < 4 or cd[3] % 8:
            return f"bitshuffle with the parameters {cd}"
        if len(cd) > 4 and cd[4] not in (0, 2, 3):
            return f"bitshuffle with the compressor {cd[4]}"
        if len(cd) > 4 and cd[4] and find_library("numcodecs.zstd") is None:
            return "bitshuffle with lz4 or zstd needs the 'codecs' extra"
    return None


def _bad_scaleoffset(cd: Cd, pipeline: Pipeline, length: int | None) -> str | None:
    dtype = pipeline.dtype
    if length != pipeline.nbytes:
        return "scaleoffset after a filter that changes the length"
    so = ScaleOffset(cd)
    is_big = dtype.byteorder == ">"
    expected = (dtype.kind == "f", dtype.kind == "i", dtype.itemsize, pipeline.chunk)
    found = (so.is_float, so.is_signed and not so.is_float, so.size, so.chunk)
    known = so.kind in ("f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8")
    if not known or expected != found or (so.size > 1 and so.is_big != is_big):
        return f"scaleoffset with parameters of another type, {cd}"
    if cd[0] != (0 if so.is_float else 2) or (not so.is_float and so.factor > so.full):
        return f"scaleoffset of type {cd[0]} and factor {so.factor}"
    if so.is_float and not -300 <= so.factor <= 300:
        return f"scaleoffset with the decimal factor {so.factor}"
    return None


class _Stage(NamedTuple):
    """A filter to undo: it must give exactly, or where that varies at most, `length` bytes."""

    filter: Filter
    length: int
    exact: bool


@functools.lru_cache(maxsize=1024)
def stages_of(pipeline: Pipeline, mask: int) -> tuple[_Stage, ...]:
    """Return the stages of a chunk with this filter mask, in the order of undoing."""
    stages = []
    length: int | None = pipeline.nbytes
    most = pipeline.nbytes
    for i, filter in enumerate(pipeline.filters):
        if mask >> i & 1:
            continue
        stages.append(_Stage(filter, most if length is None else length, length is not None))
        if filter.id not in FILTERS:
            reason = f"filter {filter.id} ({filter.name}) has no decoder here"
            raise NotImplementedError(reason)
        length = _length_after(filter, length)
        # Nobody's filter doubles data; whoever claims it does is not believed.
        most = 2 * most + (1 << 16) if length is None else length
    return tuple(reversed(stages))


class _Scratch(threading.local):
    """Two buffers of each thread, for what a filter leaves to the next."""

    def __init__(self) -> None:
        self.buffers = [np.empty(0, np.uint8), np.empty(0, np.uint8)]

    def get(self, which: int, length: int) -> Bytes:
        if self.buffers[which].size < length:
            if length > _KEPT:
                return np.empty(length, np.uint8)
            self.buffers[which] = np.empty(length, np.uint8)
        return self.buffers[which][:length]


_scratch = _Scratch()


def _undo(raw: Any, stages: tuple[_Stage, ...], dest: Bytes | None) -> Bytes:
    """Undo the stages; the last may use `dest`, which must be as long as what it gives.

    The result may lie in `dest`, in `raw` or in the thread's scratch memory: use it before the next
    call.
    """
    data = as_bytes(raw)
    free = 0  # the scratch buffer that `data` is not in
    for i, (filter, length, exact) in enumerate(stages):
        if dest is not None and i == len(stages) - 1:
            target = dest
        else:
            target = _scratch.get(free, length)
        try:
            data = as_bytes(DECODERS[filter.id](data, filter.cd, target))
            fits = data.size == length or (not exact and data.size < length)
            need(fits, f"decodes to {data.size} bytes, not {length}")
        except CorruptFileError as error:
            raise _named(filter, error) from error.__cause__
        if np.may_share_memory(data, target):
            free = 1 - free
    return data


def _named(filter: Filter, error: CorruptFileError) -> CorruptFileError:
    return CorruptFileError(f"filter {filter.id} ({filter.name}) cannot be undone: {error}")


def decode_chunk(
    raw: Any, mask: int, pipeline: Pipeline, out: NDArray | None = None
) -> NDArray[Any]:
    """Decode one chunk.

    Parameters
    ----------
    raw : bytes-like
        The chunk as stored.
    mask : int
        The chunk's filter mask.
    pipeline : Pipeline
        One that is not `unsupported`.
    out : (pipeline.chunk,) array, optional
        Receives the values: of dtype ``pipeline.native``, contiguous.

    Returns
    -------
    (pipeline.chunk,) array
        `out`, or a new array, in native byte order.

    Raises
    ------
    CorruptFileError
        When the bytes are not what the filters make of a chunk; the checksum of fletcher32 is
        compared. `out` may then have been written to.

    Examples
    --------
    >>> pipeline = Pipeline((Filter(1, "deflate", (6,)),), np.dtype(">i4"), 3)
    >>> raw = encode_chunk(np.array([1, 2, 3], np.int32), pipeline)
    >>> decode_chunk(raw, 0, pipeline)
    array([1, 2, 3], dtype=int32)
    >>> decode_chunk(raw[:-1], 0, pipeline)
    Traceback (most recent call last):
    ...
    diskcsr.errors.CorruptFileError: filter 1 (deflate) cannot be undone: ...
    """
    if out is None:
        out = np.empty(pipeline.chunk, pipeline.native)
    elif out.shape != (pipeline.chunk,) or out.dtype != pipeline.native:
        message = f"out is {out.dtype}{out.shape}, not {pipeline.native}({pipeline.chunk},)"
        raise ValueError(message)
    elif not (out.flags.c_contiguous and out.flags.aligned and out.flags.writeable):
        raise ValueError("out must be contiguous, aligned and writeable")
    return decode_whole(raw, stages_of(pipeline, mask), pipeline, out)


def decode_whole(
    raw: Any, stages: tuple[_Stage, ...], pipeline: Pipeline, out: NDArray
) -> NDArray[Any]:
    """Do what `decode_chunk` does, for a caller that has the stages and is sure of `out`."""
    dest = out.view(np.uint8)
    data = _undo(raw, stages, dest)
    _check_length(data, pipeline)
    if data.ctypes.data != dest.ctypes.data:
        dest[:] = data
    if not pipeline.dtype.isnative:
        out.byteswap(inplace=True)
    return out


def _check_length(data: Bytes, pipeline: Pipeline) -> None:
    if data.size != pipeline.nbytes:
        raise CorruptFileError(f"a chunk of {data.size} bytes, not {pipeline.nbytes}")


def gather_chunk(
    raw: Any,
    mask: int,
    pipeline: Pipeline,
    lo: ArrayLike,
    hi: ArrayLike,
    at: ArrayLike,
    out: NDArray,
) -> None:
    """Write only the elements ``lo[k]:hi[k]`` of a chunk, to ``out[at[k]:]``.

    The same values as ``decode_chunk(...)[lo[k]:hi[k]]``, with less work where the filters allow:
    shuffle is undone for the wanted elements alone, and of scaleoffset no others are unpacked.

    Parameters
    ----------
    raw, mask, pipeline
        As for `decode_chunk`.
    lo, hi : (k,) int64 array
        First and one-past-last element of each range, within the chunk.
    at : (k,) int64 array
        Where each range begins in `out`.
    out : 1-D array
        Of dtype ``pipeline.native``, contiguous.

    Raises
    ------
    CorruptFileError
        As `decode_chunk`.
    """
    lo, hi, at = (np.ascontiguousarray(values, np.int64) for values in (lo, hi, at))
    if out.dtype != pipeline.native or out.ndim != 1 or not out.flags.c_contiguous:
        raise ValueError(f"out must be contiguous and {pipeline.native}, not {out.dtype}")
    if lo.size == 0:
        return
    if np.any((lo < 0) | (hi < lo) | (at < 0)) or hi.max() > pipeline.chunk:
        raise ValueError(f"ranges outside a chunk of {pipeline.chunk} elements")
    if (at + (hi - lo)).max() > out.size:
        raise ValueError(f"ranges beyond the {out.size} elements of out")
    if np.any(lo[1:] < lo[:-1]):
        order = np.argsort(lo)
        lo, hi, at = lo[order], hi[order], at[order]
    gather_pieces(raw, stages_of(pipeline, mask), pipeline, lo, hi, at, out)


def gather_pieces(
    raw: Any,
    stages: tuple[_Stage, ...],
    pipeline: Pipeline,
    lo: NDArray,
    hi: NDArray,
    at: NDArray,
    out: NDArray,
) -> None:
    """Do what `gather_chunk` does, for a caller that is sure of the rest and has `lo` ascending."""
    inner = stages[-1].filter if stages else None
    size = pipeline.dtype.itemsize
    if inner is not None and inner.id == SCALEOFFSET:
        data = _undo(raw, stages[:-1], None)
        try:
            gather_scaleoffset(data, inner.cd, lo, hi, at, out)
        except CorruptFileError as error:
            raise _named(inner, error) from None
        return
    if inner is not None and inner.id == SHUFFLE and _is_planes(inner.cd, pipeline.dtype):
        data = _undo(raw, stages[:-1], None)
        _check_length(data, pipeline)
        codecs.gather_planes(data, pipeline.chunk, lo, hi, at, out.view(_UNSIGNED[size]))
        return
    data = _undo(raw, stages, None)
    _check_length(data, pipeline)
    copy_pieces(data.view(pipeline.dtype), lo, hi, at, out)


def _is_planes(cd: Cd, dtype: np.dtype) -> bool:
    """Whether shuffle with this client data leaves the byte planes of whole elements."""
    return cd[0] == dtype.itemsize and cd[0] in _UNSIGNED and dtype.isnative


def copy_pieces(values: NDArray, lo: NDArray, hi: NDArray, at: NDArray, out: NDArray) -> None:
    """Write ``values[lo[k]:hi[k]]``, `lo` ascending, to ``out[at[k]:]`` in its byte order."""
    if lo.size > _FEW and values.dtype == out.dtype:
        from ...kernels import rows as kernels

        source = as_bytes(values)
        kernels.scatter(source, 0, out.itemsize, lo, hi, at, out.view(np.uint8))
        return
    for first, last, to in zip(lo.tolist(), hi.tolist(), at.tolist(), strict=True):
        out[to : to + last - first] = values[first:last]


def encode_chunk(values: ArrayLike, pipeline: Pipeline) -> bytes:
    """Encode one chunk as HDF5's own filters would store it; the filter mask is 0.

    Parameters
    ----------
    values : (pipeline.chunk,) array_like
        A whole chunk, of the dtype of `pipeline` in any byte order; the last of a dataset must be
        filled up.
    pipeline : Pipeline
        One for which ``unsupported(pipeline, encode=True)`` is None.

    Returns
    -------
    bytes
        What `decode_chunk` and HDF5 decode to `values` (of scaleoffset, what that filter keeps of
        them). Data that do not compress come out a little longer than they were.
    """
    array = np.asarray(values)
    if array.shape != (pipeline.chunk,) or array.dtype.newbyteorder("=") != pipeline.native:
        found = f"{array.dtype}{array.shape}"
        raise ValueError(f"a chunk is {pipeline.native}({pipeline.chunk},), not {found}")
    data = as_bytes(np.ascontiguousarray(array, pipeline.dtype))
    for filter in pipeline.filters:
        if filter.id not in ENCODERS:
            message = f"filter {filter.id} ({filter.name}) has no encoder here"
            raise NotImplementedError(message)
        data = as_bytes(ENCODERS[filter.id](data, filter.cd))
    return data.tobytes()


def codec_report() -> list[tuple[str, str, str, str]]:
    """List what decodes each filter: its name, the library in use, its version, and why that one.

    Where nothing does, library and version are empty and the reason names the missing extra.

    Examples
    --------
    >>> codec_report()[1]
    ('shuffle', 'numba', '...', 'a kernel of this package, compiled by numba')
    """
    report = []
    for row in FILTERS.values():
        if not row.libraries:
            report.append((row.name, "numba", importlib.metadata.version("numba"), row.why))
            continue
        module = find_library(*row.libraries)
        if module is None:
            report.append((row.name, "", "", f"needs the {row.extra!r} extra"))
        elif module is zlib:
            why = f"the standard library's; the {row.extra!r} extra brings a faster one"
            report.append((row.name, "zlib", zlib.ZLIB_RUNTIME_VERSION, why))
        else:
            library = module.__name__.partition(".")[0]
            report.append((row.name, library, importlib.metadata.version(library), row.why))
    return report
