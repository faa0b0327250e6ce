"""Which reader serves a dataset: the fastest that is sure to read it right."""

from dataclasses import replace

import h5py

from ..claims.chunks import ChunkIndex, index_chunks
from ..claims.heldchunks import HeldChunks
from ..claims.sound import check_sound
from ..codecs.pipeline import Pipeline, pipeline_of, unsupported
from .decode import DecodeReader
from .descriptor import Descriptor
from .direct import DirectReader
from .filechunks import FileChunks
from .readers import H5Reader, Reader
from .remote import RemoteChunks, RemoteDescriptor, RemoteReader, page_bytes
from .virtual import VirtualReader, find_parts

__all__ = ["choose_reader"]


def choose_reader(
    dset: h5py.Dataset,
    where: str,
    descriptor: Descriptor | RemoteDescriptor | str,
    known: bool = False,
) -> Reader:
    """Choose a reader; its ``why`` says why it is not a faster one.

    Whichever it is, what the file says of the dataset's chunks was checked before.

    Parameters
    ----------
    dset : h5py.Dataset
        One-dimensional.
    where : str
        How messages call it.
    descriptor : Descriptor, RemoteDescriptor or str
        Our own descriptor of its file, or why there is none.
    known : bool
        Whether its chunks were checked, and only HDF5 itself has written to them since.

    Raises
    ------
    CorruptFileError
        When what the file says of the chunks cannot be.
    """
    if dset.is_virtual and isinstance(descriptor, Descriptor) and descriptor.covers(dset.file):
        parts = find_parts(dset, descriptor, choose_reader)
        if isinstance(parts, str):
            return _slow_reader(dset, where, f"virtual, and {parts}", known)
        return VirtualReader(dset, where, parts, descriptor.check_unchanged)
    index = descriptor if isinstance(descriptor, str) else _find_bytes(dset, descriptor)
    if isinstance(index, str) or isinstance(descriptor, str):
        return _slow_reader(dset, where, str(index), known)
    pipeline = pipeline_of(dset)
    reason = unsupported(pipeline)
    if reason is not None:
        return _slow_reader(dset, where, reason, known)
    reader = _fast_reader(dset, where, descriptor, index, pipeline)
    reader.places = index.places()
    return reader


def _slow_reader(dset: h5py.Dataset, where: str, why: str, known: bool) -> Reader:
    """Have HDF5 read a dataset, which is looked at first; decode it here where that is possible."""
    places = None if known else check_sound(dset)
    pipeline = pipeline_of(dset)
    reader: Reader
    if dset.size and dset.chunks and pipeline.filters and unsupported(pipeline) is None:
        chunks = HeldChunks(dset, pipeline.nbytes, pipeline)
        why = f"filtered by {_names(pipeline)}, and read by HDF5: {why}"
        reader = DecodeReader(dset, where, chunks, pipeline, why)
    else:
        reader = H5Reader(dset, where, why)
    reader.places = places
    return reader


def _names(pipeline: Pipeline) -> str:
    return ", ".join(filter.name for filter in pipeline.filters)


def _fast_reader(
    dset: h5py.Dataset,
    where: str,
    descriptor: Descriptor | RemoteDescriptor,
    index: ChunkIndex,
    pipeline: Pipeline,
) -> Reader:
    """Choose how bytes are read whose places are known."""
    if not pipeline.filters and pipeline.dtype.isnative:
        extents = index.extents(dset.size, dset.dtype.itemsize)
        if extents is not None:
            if isinstance(descriptor, RemoteDescriptor):
                return RemoteReader(dset, where, descriptor, extents)
            return DirectReader(dset, where, descriptor, extents)
    why = f"filtered by {_names(pipeline)}"
    if not pipeline.filters:
        why = f"stored as {pipeline.dtype}, needs conversion"
        if pipeline.dtype.isnative:
            why = f"unfiltered, but {'damaged' if index.damage else 'not written everywhere'}"
    if not dset.chunks:
        index = index.divided(dset.size, dset.dtype.itemsize)
        pipeline = replace(pipeline, chunk=index.length)
    if isinstance(descriptor, RemoteDescriptor):
        remote = RemoteChunks(descriptor, index, dset.name, pipeline.nbytes)
        reader = DecodeReader(dset, where, remote, pipeline, f"{why}, on a server")
        reader.page = page_bytes()
    else:
        chunks = FileChunks(descriptor, index, dset.name, pipeline.nbytes)
        reader = DecodeReader(dset, where, chunks, pipeline, why)
    reader.check_unchanged = descriptor.check_unchanged
    return reader


def _find_bytes(dset: h5py.Dataset, descriptor: Descriptor | RemoteDescriptor) -> ChunkIndex | str:
    """Where the bytes lie in the file, or why only HDF5 can tell."""
    if not descriptor.covers(dset.file):
        return "a link leads to it, in another file"
    properties = dset.id.get_create_plist()
    if properties.get_layout() not in (h5py.h5d.CONTIGUOUS, h5py.h5d.CHUNKED):
        return "stored in a layout (compact) that only HDF5 resolves"
    if properties.get_external_count():
        return "stored in external files"
    return index_chunks(dset)
