"""The filter pipeline of a dataset: chunks through a list of filters, whichever those are.

Filters were applied in the order of the dataset's creation property list and are undone in reverse;
bit i of a chunk's *filter mask* says that filter i was left out for that chunk. A chunk at the edge
of a dataset is stored at full length.
"""

import functools
import threading
from typing import Any, NamedTuple

import h5py
import numpy as np
from numpy.typing import ArrayLike, NDArray

from ... import kernels
from ...breakeven import FEW_PIECES, KEPT_BYTES
from ...errors import CorruptFileError
from . import libraries
from .codec import Bytes, Filter, Pipeline
from .data import as_bytes, need
from .table import CODECS

__all__ = [
    "copy_pieces",
    "decode_whole",
    "encode_chunk",
    "fill_value",
    "gather_pieces",
    "lacking_in_hdf5",
    "may_round",
    "pipeline_of",
    "rounding",
    "stages_of",
    "unsupported",
]


def pipeline_of(dset: h5py.Dataset) -> Pipeline:
    """Read how a dataset's chunks are encoded from its creation property list.

    A dataset without chunks counts as one chunk without filters.
    """
    plist = dset.id.get_create_plist()
    filters = []
    for i in range(plist.get_nfilters()):
        id, _, cd, name = plist.get_filter(i)
        codec = CODECS.get(id)
        text = codec.name if codec else bytes(name).decode("utf-8", "replace")
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
        reason = _unsupported(filter, pipeline, length, encode)
        if reason is not None:
            return reason
        length = _length_after(filter, length)
    return None


def _unsupported(
    filter: Filter, pipeline: Pipeline, length: int | None, encode: bool
) -> str | None:
    codec = CODECS.get(filter.id)
    if codec is None or codec.decode is None or (encode and codec.encode is None):
        return _has_none(filter, "encoder" if encode else "decoder")
    if len(filter.cd) < codec.parameters:
        return f"{codec.name} has {len(filter.cd)} parameters, not {codec.parameters}"
    if codec.libraries and libraries.find(*codec.libraries) is None:
        return f"{codec.name} needs the {codec.extra!r} extra"
    return codec.refuse(filter.cd, pipeline, length)


def lacking_in_hdf5(dset: h5py.Dataset) -> str | None:
    """Say which filter of a dataset this process's HDF5 does not have; None when it has them all.

    The words follow the dataset's name.
    """
    for filter in pipeline_of(dset).filters:
        if not h5py.h5z.filter_avail(filter.id):
            codec = CODECS.get(filter.id)
            help = "; import hdf5plugin to read it" if codec and codec.plugin else ""
            return (
                f"was stored with filter {filter.id} ({filter.name}), which HDF5 does not have "
                f"here{help}"
            )
    return None


def _has_none(filter: Filter, what: str) -> str:
    return f"filter {filter.id} ({filter.name}) has no {what} here"


def _length_after(filter: Filter, length: int | None) -> int | None:
    """Return how many bytes a filter makes of `length` bytes, None when that varies."""
    return None if length is None else CODECS[filter.id].length_after(filter.cd, length)


def may_round(pipeline: Pipeline) -> bool:
    """Whether there are values that a filter would not keep as they are; see `rounding`."""
    codecs = (CODECS.get(filter.id) for filter in pipeline.filters)
    return any(codec is not None and codec.rounds is not None for codec in codecs)


def rounding(values: NDArray, pipeline: Pipeline) -> str | None:
    """Say which filter would not keep these values as they are, and why; None when all do."""
    for filter in pipeline.filters:
        codec = CODECS.get(filter.id)
        reason = codec.rounds(values) if codec and codec.rounds else None
        if reason is not None:
            return f"compression={filter.name!r} {reason}"
    return None


# --------------------------------------------------------------------------------- decoding


class Stage(NamedTuple):
    """A filter to undo: it must give exactly, or where that varies at most, `length` bytes.

    `gathers` says that of this filter, the last to undo, only the wanted elements can be undone.
    """

    filter: Filter
    length: int
    exact: bool
    gathers: bool


@functools.lru_cache(maxsize=1024)
def stages_of(pipeline: Pipeline, mask: int) -> tuple[Stage, ...]:
    """Return the stages of a chunk with this filter mask, in the order of undoing.

    Raises
    ------
    NotImplementedError
        When there is no decoder for one of the filters.
    """
    stages: list[Stage] = []
    length: int | None = pipeline.nbytes
    most = pipeline.nbytes
    for i, filter in enumerate(pipeline.filters):
        if mask >> i & 1:
            continue
        codec = CODECS.get(filter.id)
        if codec is None or codec.decode is None:
            raise NotImplementedError(_has_none(filter, "decoder"))
        exact = length is not None
        gathers = (
            not stages and codec.gather is not None and codec.gathers(filter.cd, pipeline.dtype)
        )
        stages.append(Stage(filter, most if length is None else length, exact, gathers))
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
            if length > KEPT_BYTES:
                return np.empty(length, np.uint8)
            self.buffers[which] = np.empty(length, np.uint8)
        return self.buffers[which][:length]


_scratch = _Scratch()


def _undo(raw: Any, stages: tuple[Stage, ...], dest: Bytes | None) -> Bytes:
    """Undo the stages; the last may use `dest`, which must be as long as what it gives.

    The result may lie in `dest`, in `raw` or in the thread's scratch memory: use it before the next
    call.
    """
    data = as_bytes(raw)
    free = 0  # the scratch buffer that `data` is not in
    for i, (filter, length, exact, _) in enumerate(stages):
        if dest is not None and i == len(stages) - 1:
            target = dest
        else:
            target = _scratch.get(free, length)
        decode = CODECS[filter.id].decode
        assert decode is not None  # `stages_of` has seen to it
        try:
            data = as_bytes(decode(data, filter.cd, target))
            fits = data.size == length or (not exact and data.size < length)
            need(fits, f"decodes to {data.size} bytes, not {length}")
        except CorruptFileError as error:
            raise _named(filter, error) from error.__cause__
        if np.may_share_memory(data, target):
            free = 1 - free
    return data


def _named(filter: Filter, error: CorruptFileError) -> CorruptFileError:
    return CorruptFileError(f"filter {filter.id} ({filter.name}) cannot be undone: {error}")


def decode_whole(
    raw: Any, stages: tuple[Stage, ...], pipeline: Pipeline, out: NDArray
) -> NDArray[Any]:
    """Decode one chunk.

    Parameters
    ----------
    raw : bytes-like
        The chunk as stored.
    stages : tuple of Stage
        Of the chunk's filter mask: `stages_of`.
    pipeline : Pipeline
        One that is not `unsupported`.
    out : (pipeline.chunk,) array
        Receives the values: of dtype ``pipeline.native``, contiguous.

    Returns
    -------
    (pipeline.chunk,) array
        `out`, in native byte order.

    Raises
    ------
    CorruptFileError
        When the bytes are not what the filters make of a chunk; a checksum is compared. `out` may
        then have been written to.

    Examples
    --------
    >>> pipeline = Pipeline((Filter(1, "deflate", (6,)),), np.dtype(">i4"), 3)
    >>> raw = encode_chunk(np.array([1, 2, 3], np.int32), pipeline)
    >>> decode_whole(raw, stages_of(pipeline, 0), pipeline, np.empty(3, np.int32))
    array([1, 2, 3], dtype=int32)
    >>> decode_whole(raw[:-1], stages_of(pipeline, 0), pipeline, np.empty(3, np.int32))
    Traceback (most recent call last):
    ...
    diskcsr.errors.CorruptFileError: filter 1 (deflate) cannot be undone: ...
    """
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


def gather_pieces(
    raw: Any,
    stages: tuple[Stage, ...],
    pipeline: Pipeline,
    lo: NDArray,
    hi: NDArray,
    at: NDArray,
    out: NDArray,
) -> None:
    """Write only the elements ``lo[k]:hi[k]`` of a chunk, to ``out[at[k]:]``.

    The same values as ``decode_whole(...)[lo[k]:hi[k]]``, with less work where the last filter to
    undo allows: then no other elements are undone.

    Parameters
    ----------
    raw, stages, pipeline
        As for `decode_whole`.
    lo, hi : (k,) int64 array
        First and one-past-last element of each piece, within the chunk; `lo` ascending.
    at : (k,) int64 array
        Where each piece begins in `out`.
    out : 1-D array
        Of dtype ``pipeline.native``, contiguous, and as long as it takes.

    Raises
    ------
    CorruptFileError
        As `decode_whole`.
    """
    last = stages[-1] if stages else None
    if last is not None and last.gathers:
        data = _undo(raw, stages[:-1], None)
        gather = CODECS[last.filter.id].gather
        assert gather is not None  # `stages_of` has seen to it
        try:
            gather(data, last.filter.cd, pipeline.chunk, lo, hi, at, out)
        except CorruptFileError as error:
            raise _named(last.filter, error) from error.__cause__
        return
    data = _undo(raw, stages, None)
    _check_length(data, pipeline)
    copy_pieces(data.view(pipeline.dtype), lo, hi, at, out)


def copy_pieces(values: NDArray, lo: NDArray, hi: NDArray, at: NDArray, out: NDArray) -> None:
    """Write ``values[lo[k]:hi[k]]``, `lo` ascending, to ``out[at[k]:]`` in its byte order."""
    if lo.size > FEW_PIECES and values.dtype == out.dtype:
        source = as_bytes(values)
        kernels.rows.scatter(source, 0, out.itemsize, lo, hi, at, out.view(np.uint8))
        return
    for first, last, to in zip(lo.tolist(), hi.tolist(), at.tolist(), strict=True):
        out[to : to + last - first] = values[first:last]


def fill_value(properties: h5py.h5p.PropDCID, dtype: np.dtype, pipeline: Pipeline) -> NDArray[Any]:
    """Return what chunks hold that were never written: zeros where their writer left it open.

    Ask for it only when there is such a chunk, and not through ``Dataset.fillvalue``: in a file
    whose fill value is damaged, that crashes HDF5 2.0.0.

    Parameters
    ----------
    properties : h5py.h5p.PropDCID
        With which the dataset was created.
    dtype : numpy.dtype
        Of the dataset, as h5py gives it.
    pipeline : Pipeline
        Of the dataset.

    Returns
    -------
    () array
        Of dtype ``pipeline.native``.

    Raises
    ------
    CorruptFileError
        When it is damaged.
    """
    fill = np.zeros((), dtype)
    try:
        if properties.fill_value_defined() == h5py.h5d.FILL_VALUE_USER_DEFINED:
            properties.get_fill_value(fill)
    except (OSError, RuntimeError, ValueError) as problem:
        raise CorruptFileError(f"its fill value is damaged: {problem}") from problem
    # A complex number that HDF5 knows as a pair has such a fill value, too.
    fill = fill if fill.dtype.names is None else fill.view(pipeline.dtype)
    return fill.astype(pipeline.native)


# --------------------------------------------------------------------------------- encoding


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
        What `decode_whole` and HDF5 decode to `values` (or to what the filters keep of them, see
        `rounding`). Data that do not compress come out a little longer than they were.
    """
    array = np.asarray(values)
    if array.shape != (pipeline.chunk,) or array.dtype.newbyteorder("=") != pipeline.native:
        found = f"{array.dtype}{array.shape}"
        raise ValueError(f"a chunk is {pipeline.native}({pipeline.chunk},), not {found}")
    data = as_bytes(np.ascontiguousarray(array, pipeline.dtype))
    for filter in pipeline.filters:
        codec = CODECS.get(filter.id)
        if codec is None or codec.encode is None:
            raise NotImplementedError(_has_none(filter, "encoder"))
        data = as_bytes(codec.encode(data, filter.cd))
    return data.tobytes()
