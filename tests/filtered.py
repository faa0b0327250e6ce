"""Files whose three arrays are filtered, chunked and typed exactly as a test wants them."""

import struct
import warnings
from pathlib import Path

import h5py
import numpy as np
from scipy.sparse import csr_array

try:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import hdf5plugin
except ImportError:
    hdf5plugin = None

__all__ = ["FILTERS", "PLUGINS", "as_stored", "count_matrix", "create", "hdf5plugin", "store"]

DEFLATE, SHUFFLE, FLETCHER32, SCALEOFFSET, LZF = 1, 2, 3, 6, 32000

#: Filters as (HDF5's id, client data), in the order in which they are applied.
FILTERS = {
    "none": (),
    "gzip": ((DEFLATE, (4,)),),
    "shuffle": ((SHUFFLE, ()),),
    "fletcher32": ((FLETCHER32, ()),),
    "lzf": ((LZF, ()),),
    "scaleoffset": ((SCALEOFFSET, None),),
    "shuffle+gzip": ((SHUFFLE, ()), (DEFLATE, (1,))),
    "shuffle+lzf+fletcher32": ((SHUFFLE, ()), (LZF, ()), (FLETCHER32, ())),
    "gzip+shuffle": ((DEFLATE, (1,)), (SHUFFLE, ())),
    "scaleoffset+shuffle+gzip": ((SCALEOFFSET, None), (SHUFFLE, ()), (DEFLATE, (9,))),
    "fletcher32+gzip+fletcher32": ((FLETCHER32, ()), (DEFLATE, (2,)), (FLETCHER32, ())),
}

#: Filters that HDF5 has only with hdf5plugin, as keywords of create_dataset.
PLUGINS = {}
if hdf5plugin is not None:
    PLUGINS = {
        "zstd": dict(hdf5plugin.Zstd(clevel=3)),
        "shuffle+zstd": dict(hdf5plugin.Zstd(clevel=3), shuffle=True),
        "lz4": dict(hdf5plugin.LZ4()),
        "blosc lz4": dict(hdf5plugin.Blosc(cname="lz4", shuffle=1)),
        "blosc zstd, bits": dict(hdf5plugin.Blosc(cname="zstd", shuffle=2)),
        "bitshuffle": dict(hdf5plugin.Bitshuffle(cname="none")),
        "bitshuffle lz4": dict(hdf5plugin.Bitshuffle(cname="lz4")),
        "blosc2": dict(hdf5plugin.Blosc2(cname="zstd", clevel=2)),
    }


def count_matrix(rows=60, columns=40, density=0.2, dtype="f4", seed=0):
    """Return a csr_array of small whole numbers, some rows empty."""
    rng = np.random.default_rng(seed)
    dense = rng.integers(1, 90, (rows, columns)) * (rng.random((rows, columns)) < density)
    dense[rng.random(rows) < 0.1] = 0
    return csr_array(dense.astype(dtype))


def create(group, name, values, dtype=None, *, chunk=32, steps=(), fill=None, growing=True):
    """Create and fill a dataset with these filters in this order (h5py's own keeps to one).

    Without `chunk` it is contiguous. scaleoffset keeps whole numbers, and is left out for types
    that it cannot store.
    """
    dtype = np.dtype(values.dtype if dtype is None else dtype)
    properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    if chunk:
        properties.set_chunk((chunk,))
        for number, data in steps:
            if number == SHUFFLE:
                properties.set_shuffle()
            elif number == FLETCHER32:
                properties.set_fletcher32()
            elif number == SCALEOFFSET:
                if dtype.kind in "iuf" and dtype.itemsize * (dtype.kind == "f") in (0, 4, 8):
                    kind = h5py.h5z.SO_FLOAT_DSCALE if dtype.kind == "f" else h5py.h5z.SO_INT
                    properties.set_scaleoffset(kind, 0)
            else:
                properties.set_filter(number, h5py.h5z.FLAG_OPTIONAL, data)
    if fill is not None:
        properties.set_fill_value(np.array(fill, dtype))
    most = (h5py.h5s.UNLIMITED,) if chunk and growing else (len(values),)
    space = h5py.h5s.create_simple((len(values),), most)
    stored = h5py.h5t.py_create(dtype, logical=True)
    where = h5py.h5d.create(group.id, name.encode(), stored, space, properties)
    dset = h5py.Dataset(where)
    if len(values):
        dset[:] = np.asarray(values).astype(dtype)
    return dset


def store(path, matrix, *, dtypes=None, chunk=32, steps=(), keywords=None, **file_options):
    """Write ``path:/X``: each array in the dtype `dtypes` gives for it, all filtered alike."""
    dtypes = dtypes or {}
    with h5py.File(path, "w", **file_options) as file:
        group = file.create_group("X")
        group.attrs["h5sparse_format"] = matrix.format
        group.attrs["h5sparse_shape"] = np.array(matrix.shape, np.int64)
        for name in ("data", "indices", "indptr"):
            values = getattr(matrix, name)
            dtype = dtypes.get(name, values.dtype)
            if keywords is None:
                create(group, name, values, dtype, chunk=chunk, steps=steps)
            else:
                group.create_dataset(
                    name, data=values.astype(dtype), chunks=(chunk,), maxshape=(None,), **keywords
                )
    return path


def as_stored(path, name="X"):
    """Return the csr_array that h5py reads from the file; float16 is float32 in memory."""
    with h5py.File(path, "r") as file:
        data, indices, indptr = (file[name][part][:] for part in ("data", "indices", "indptr"))
        shape = tuple(file[name].attrs["h5sparse_shape"])
    data = data.astype(data.dtype.newbyteorder("="))
    if data.dtype == np.float16:
        data = data.astype(np.float32)
    return csr_array((data, indices.astype(np.int64), indptr.astype(np.int64)), shape=shape)


def chunks_of(path, name):
    """Return (first element, mask, address, stored bytes) of every chunk, as HDF5 tells them."""
    with h5py.File(path, "r") as file:
        dset = file[name]
        info = [dset.id.get_chunk_info(i) for i in range(dset.id.get_num_chunks())]
    return [(i.chunk_offset[0], i.filter_mask, i.byte_offset, i.size) for i in info]


def overwrite(path, offset, raw):
    """Change bytes of a file in place."""
    with Path(path).open("r+b") as file:
        file.seek(offset)
        file.write(raw)


def patch_chunk_table(path, name, first, *, address=None, nbytes=None):
    """Change what the (version 1) B-tree says of the chunk that begins at element `first`.

    A key is stored size (u32), filter mask (u32), first element (u64), 0 (u64); the chunk's address
    (u64) follows. Source: HDF5 File Format Specification, III.A.1.
    """
    (found,) = [chunk for chunk in chunks_of(path, name) if chunk[0] == first]
    _, mask, place, size = found
    old = struct.pack("<IIQQQ", size, mask, first, 0, place)
    new = struct.pack(
        "<IIQQQ",
        size if nbytes is None else nbytes,
        mask,
        first,
        0,
        place if address is None else address,
    )
    raw = Path(path).read_bytes()
    assert raw.count(old) == 1
    overwrite(path, raw.index(old), new)
