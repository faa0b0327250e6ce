"""Every way a dataset can be stored is read right, by whichever reader, and it is said why."""

import gc
import io
import os
import struct
import threading
import time
from pathlib import Path

import h5py
import numpy as np
import pytest
import scipy.sparse as sp
from numpy.testing import assert_array_equal

import diskcsr
from diskcsr.keys.plan import plan_span
from diskcsr.storage.read.readers import ConstantReader, H5Reader, Wanted, gather_together

PARTS = ("data", "indices", "indptr")
N, WIDTH = 60, 40
CHUNK = 64  # does not divide the number of elements: the last chunk is not full


def lengths():
    """Row pointers of 60 rows, some empty, 700 elements or so."""
    counts = np.random.default_rng(0).integers(0, 25, size=N)
    counts[[0, 5, 6, -1]] = 0
    return np.append(0, np.cumsum(counts))


def arrays(dtype="f4", index="i4", pointer="i8"):
    """data, indices, indptr; small whole numbers, so that every dtype and filter holds them."""
    indptr = lengths()
    rng = np.random.default_rng(1)
    rows = [np.sort(rng.choice(WIDTH, n, replace=False)) for n in np.diff(indptr)]
    data = rng.integers(1, 100, size=indptr[-1])
    dtype = np.dtype(dtype)
    data = (data + 1j * data[::-1] if dtype.kind == "c" else data).astype(dtype)
    return data, np.concatenate(rows).astype(index), indptr.astype(pointer)


# --------------------------------------------------------------------------------------- layouts


def _plain(**options):
    def make(group, name, values):
        group.create_dataset(name, data=values, **options)

    return make


def _chunked(**options):
    def make(group, name, values):
        chunks = min(CHUNK, len(values))
        group.create_dataset(name, data=values, chunks=(chunks,), maxshape=(None,), **options)

    return make


def _one_chunk(group, name, values):
    _plain(chunks=(len(values),))(group, name, values)


def _fixed(group, name, values):
    _plain(chunks=(min(CHUNK, len(values)),))(group, name, values)


def _scaleoffset(group, name, values):
    decimals = 1 if values.dtype.kind == "f" else 0
    _chunked(scaleoffset=decimals)(group, name, values)


def _low_level(group, name, values, set_up):
    properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    set_up(properties)
    space = h5py.h5s.create_simple(values.shape)
    kind = h5py.h5t.py_create(values.dtype, logical=True)
    made = h5py.h5d.create(group.id, name.encode(), kind, space, properties)
    h5py.Dataset(made)[...] = values


def _compact(group, name, values):
    _low_level(group, name, values, lambda p: p.set_layout(h5py.h5d.COMPACT))


def _allocated_early(group, name, values):
    def set_up(properties):
        properties.set_chunk((min(CHUNK, values.size),))
        properties.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)

    _low_level(group, name, values, set_up)


def _external(group, name, values):
    beside = f"{group.file.filename}.{name}.raw"
    files = [(beside, 0, values.nbytes)]
    group.create_dataset(name, values.shape, values.dtype, external=files)[...] = values


def _virtual(group, name, values):
    half = values.size // 2
    layout = h5py.VirtualLayout(values.shape, values.dtype)
    for i, part in enumerate((values[:half], values[half:])):
        beside = f"{group.file.filename}.{name}{i}.h5"
        with h5py.File(beside, "w") as source:
            source["part"] = part
        source = h5py.VirtualSource(beside, "part", part.shape, dtype=part.dtype)
        layout[i * half : i * half + part.size] = source
    group.create_virtual_dataset(name, layout)


def _many_extents(group, name, values):
    """Chunks written last to first, and another dataset's between them."""
    _chunked()(group, name, np.zeros_like(values[:1]))
    dset, other = group[name], group.create_dataset(f"{name}-between", (0,), "i1", maxshape=(None,))
    dset.resize(values.shape)
    for lo in range((values.size - 1) // CHUNK * CHUNK, -1, -CHUNK):
        dset[lo : lo + CHUNK] = values[lo : lo + CHUNK]
        other.resize((other.size + 100,))
        other[-100:] = 1


MAKERS = {
    "contiguous": (_plain(), {}),
    "chunked": (_chunked(), {}),
    "one chunk": (_one_chunk, {}),
    "huge chunk": (_plain(chunks=(5000,), maxshape=(None,)), {}),
    "many extents": (_many_extents, {}),
    "allocated early": (_allocated_early, {}),
    "compact": (_compact, {}),
    "external": (_external, {}),
    "virtual": (_virtual, {}),
    "gzip": (_chunked(compression="gzip"), {}),
    "gzip 9 + shuffle": (_chunked(compression="gzip", compression_opts=9, shuffle=True), {}),
    "lzf": (_chunked(compression="lzf"), {}),
    "lzf + shuffle": (_chunked(compression="lzf", shuffle=True), {}),
    "shuffle": (_chunked(shuffle=True), {}),
    "fletcher32": (_chunked(fletcher32=True), {}),
    "gzip + fletcher32": (_chunked(compression="gzip", fletcher32=True), {}),
    "scaleoffset": (_scaleoffset, {}),
    "latest": (_chunked(), {"libver": "latest"}),
    "latest, fixed": (_fixed, {"libver": "latest"}),
    "latest, early": (_allocated_early, {"libver": "latest"}),
    "latest, one chunk": (_one_chunk, {"libver": "latest"}),
    "latest, gzip": (_chunked(compression="gzip", shuffle=True), {"libver": "latest"}),
    "user block": (_plain(), {"userblock_size": 512}),
    "user block, chunked": (_chunked(), {"userblock_size": 1024}),
    "user block, gzip": (_chunked(compression="gzip"), {"userblock_size": 512}),
    "paged": (_chunked(), {"fs_strategy": "page", "fs_page_size": 4096}),
}
DTYPES = [*"?bBhHiIqQefdgFDG", ">f8", ">i2", ">c16"]
#: What a filter is not for: HDF5 refuses to make such a dataset.
UNFIT = {"scaleoffset": "?egFDG"}


def write(path, made_by, data, indices, indptr, **options):
    """Store a matrix; what h5py then reads is the reference."""
    with h5py.File(path, "w", **options) as file:
        group = file.create_group("X")
        group.attrs["h5sparse_format"] = "csr"
        group.attrs["h5sparse_shape"] = (indptr.size - 1, WIDTH)
        for name, values in zip(PARTS, (data, indices, indptr), strict=True):
            made_by(group, name, values)
    return path


def reference(path):
    """The matrix as h5py and scipy alone read it, in types that scipy has."""
    with h5py.File(path, "r") as file:
        data, indices, indptr = (file["X"][name][:] for name in PARTS)
        shape = tuple(file["X"].attrs["h5sparse_shape"])
    if data.dtype.names is not None:
        data = data["real"] + 1j * data["imag"]
    data = data.astype(np.float32 if data.dtype == np.float16 else data.dtype.newbyteorder("="))
    return sp.csr_array((data, indices.astype(np.int64), indptr.astype(np.int64)), shape=shape)


ROWS = [
    np.s_[:],
    np.s_[7:50],
    np.s_[::-1],
    np.s_[np.array([40, 3, 3, 17])],
    np.s_[np.random.default_rng(2).permutation(N)],
    np.s_[np.random.default_rng(3).integers(-N, N, size=90)],
    np.s_[:, 5:30:4],
]


def check(A, expected):
    """Assert that rows, entries and whole arrays come out as they should."""
    assert A.dtype == expected.dtype
    assert A.nnz == expected.nnz
    dense = expected.toarray()
    for key in ROWS:
        result = A[key]
        assert result.dtype == expected.dtype
        assert_array_equal(result.toarray(), dense[key])
    for i, j in ((3, 7), (-2, 0), (17, int(expected.indices[expected.indptr[17]]))):
        assert A[i, j] == dense[i, j]
    for name in PARTS:
        array = getattr(A, name)
        assert_array_equal(array, getattr(expected, name))
        assert array.dtype.isnative
    assert_array_equal(A.toarray(), dense)


# ------------------------------------------------------------------------ every layout and dtype


@pytest.mark.parametrize(
    ("layout", "dtype"),
    [
        (layout, dtype)
        for layout in MAKERS
        for dtype in DTYPES
        if np.dtype(dtype).char not in UNFIT.get(layout, "")
    ],
)
def test_values(tmp_path, layout, dtype):
    make, options = MAKERS[layout]
    path = write(tmp_path / "m.h5", make, *arrays(dtype), **options)
    with diskcsr.open(path) as A:
        check(A, reference(path))


@pytest.mark.parametrize("index", ["i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", ">i4", ">u8"])
@pytest.mark.parametrize(
    "layout", ["contiguous", "chunked", "gzip", "lzf + shuffle", "scaleoffset"]
)
def test_indices_and_pointers(tmp_path, layout, index):
    pointer = index if np.dtype(index).itemsize > 1 else index.replace("1", "2")
    path = write(tmp_path / "m.h5", MAKERS[layout][0], *arrays(index=index, pointer=pointer))
    with diskcsr.open(path) as A:
        result = A[[4, 2]]
        assert result.indices.dtype == result.indptr.dtype == np.int32
        check(A, reference(path))
        assert A.indices.dtype == A.indptr.dtype
        assert A.indices.dtype in (np.int32, np.int64)
    with diskcsr.open(path) as A, pytest.raises(IndexError):
        A[N]


@pytest.mark.parametrize("layout", ["contiguous", "chunked", "gzip"])
@pytest.mark.parametrize("dtype", ["f4", "f8", ">f8"])
def test_matlabs_complex_numbers(tmp_path, layout, dtype):
    def make(group, name, values):
        if name == "data":
            pairs = np.zeros(values.size, [("real", dtype), ("imag", dtype)])
            pairs["real"], pairs["imag"] = values.real, values.imag
            values = pairs
        MAKERS[layout][0](group, name, values)

    path = write(tmp_path / "m.h5", make, *arrays("c16"))
    with diskcsr.open(path) as A:
        assert A.dtype == (np.complex64 if dtype == "f4" else np.complex128)
        check(A, reference(path).astype(A.dtype))


@pytest.mark.parametrize("layout", ["contiguous", "chunked", "gzip", "shuffle"])
def test_booleans_that_are_neither_0_nor_1(tmp_path, layout):
    # HDF5 keeps an enumeration in a byte and does not look at it.
    data, indices, indptr = arrays("?")
    raw = np.arange(data.size).astype(np.uint8)
    path = write(tmp_path / "m.h5", MAKERS[layout][0], raw.view(np.bool_), indices, indptr)
    with diskcsr.open(path) as A:
        for values in (A[:].data, A[np.arange(N)[::-1]][::-1].data, A.data):
            assert values.dtype == np.bool_
            assert_array_equal(values.view(np.uint8), raw != 0)


FILL = 7


@pytest.mark.parametrize("filters", [{}, {"compression": "gzip"}, {"shuffle": True}])
@pytest.mark.parametrize("dtype", ["f8", "?", "c8", ">i4", "f2"])
def test_chunks_that_were_never_written_hold_the_fill_value(tmp_path, dtype, filters):
    data, indices, indptr = arrays(dtype)

    def make(group, name, values):
        if name != "data":
            group[name] = values
            return
        fill = np.array(FILL).astype(dtype)[()]
        dset = group.create_dataset(
            name, values.shape, values.dtype, chunks=(CHUNK,), fillvalue=fill, **filters
        )
        dset[CHUNK : 3 * CHUNK] = values[CHUNK : 3 * CHUNK]

    path = write(tmp_path / "m.h5", make, data, indices, indptr)
    expected = reference(path)
    assert expected.data[0] == np.array(FILL).astype(dtype)  # the reference itself
    with diskcsr.open(path) as A:
        check(A, expected)


def test_datasets_that_were_never_written(tmp_path):
    path = tmp_path / "m.h5"
    for layout in ({}, {"chunks": (10,)}, {"chunks": (10,), "compression": "gzip"}):
        with h5py.File(path, "w") as file:
            group = file.create_group("X")
            group.attrs["h5sparse_format"], group.attrs["h5sparse_shape"] = "csr", (3, 4)
            group.create_dataset("data", (30,), "f4", fillvalue=2.5, **layout)
            group.create_dataset("indices", (30,), "i4", fillvalue=1, **layout)
            group["indptr"] = [0, 10, 10, 30]
        with diskcsr.open(path) as A:
            assert_array_equal(A.toarray(), [[0, 25, 0, 0], [0, 0, 0, 0], [0, 50, 0, 0]])
            assert_array_equal(A.data, np.full(30, 2.5, np.float32))


def test_nothing_stored(tmp_path):
    for name, (make, options) in MAKERS.items():
        if name in ("virtual", "external", "one chunk", "latest, one chunk", "compact"):
            continue
        if "fixed" in name or "early" in name or name == "many extents":
            continue
        path = tmp_path / "m.h5"
        empty = np.zeros(0)
        with h5py.File(path, "w", **options) as file:
            group = file.create_group("X")
            group.attrs["h5sparse_format"], group.attrs["h5sparse_shape"] = "csr", (3, 4)
            for part in ("data", "indices"):
                values = empty.astype("f4" if part == "data" else "i4")
                layout = {} if name in ("contiguous", "user block") else {"chunks": (8,)}
                group.create_dataset(part, data=values, maxshape=(None,), **layout)
            make(group, "indptr", np.zeros(4, np.int64))
        with diskcsr.open(path) as A:
            assert A.nnz == 0
            assert A.dtype == np.float32
            assert_array_equal(A[[2, 0]].toarray(), np.zeros((2, 4)))
            assert A[1, 1] == 0
            assert A.data.size == A.indices.size == 0


# ------------------------------------------------------------------------------ who reads, and why

WHY = {
    "contiguous": ("direct", "unfiltered"),
    "chunked": ("direct", "unfiltered"),
    "many extents": ("direct", "unfiltered"),
    "latest": ("direct", "unfiltered"),
    "user block": ("direct", "unfiltered"),
    "user block, chunked": ("direct", "unfiltered"),
    "compact": ("h5py", "compact"),
    "external": ("h5py", "external"),
    "virtual": ("virtual", "2 parts"),
    "gzip": ("decode", "deflate"),
    "lzf + shuffle": ("decode", "lzf"),
    "fletcher32": ("decode", "fletcher32"),
    "scaleoffset": ("decode", "scaleoffset"),
}


@pytest.mark.parametrize("layout", WHY)
def test_which_reader_and_why(tmp_path, layout):
    make, options = MAKERS[layout]
    path = write(tmp_path / "m.h5", make, *arrays(), **options)
    name, why = WHY[layout]
    with diskcsr.open(path) as A:
        for part in PARTS:
            reader = A.reader[part]
            assert reader.name == name
            assert why in reader.why
            assert str(path) in reader.where
            assert part in repr(reader)
            assert reader.stored_bytes > 0 or layout in ("virtual", "external")
        assert len(A.reader) == 3
        with pytest.raises(KeyError):
            A.reader["nothing"]
        lines = repr(A.reader).splitlines()
        assert [line.split()[:2] for line in lines] == [[part, name] for part in PARTS]


def test_conversion_is_a_reason(tmp_path):
    path = write(tmp_path / "m.h5", _plain(), *arrays(">f8"))
    with diskcsr.open(path) as A:
        assert A.reader["data"].name != "direct"
        assert "conversion" in A.reader["data"].why
        assert A.reader["indices"].name == "direct"


def test_files_that_only_h5py_can_read(tmp_path):
    path = write(tmp_path / "m.h5", _plain(), *arrays())
    expected = reference(path)
    with h5py.File(path, "r", driver="core") as file:
        A = diskcsr.open(file)
        assert {reader.name for reader in A.reader.values()} == {"h5py"}
        assert "'core'" in A.reader["data"].why
        check(A, expected)
    with diskcsr.open(io.BytesIO(path.read_bytes())) as A:
        assert "'fileobj'" in A.reader["data"].why
        check(A, expected)
    with path.open("rb") as raw, diskcsr.open(raw) as A:
        assert A.reader["data"].name == "h5py"
        check(A, expected)
    with h5py.File(path, "r+") as file:
        A = diskcsr.open(file)
        assert "open for writing" in A.reader["data"].why
        check(A, expected)


def test_data_that_were_not_flushed_are_seen(tmp_path):
    path = write(tmp_path / "m.h5", _plain(), *arrays())
    with h5py.File(path, "r+") as file:
        A = diskcsr.open(file)
        before = A[:]
        file["X/data"][0] = 12345.0
        first = before.tocoo().coords[0][0], before.tocoo().coords[1][0]
        assert A[first] == 12345.0
        assert A[:].data[0] == 12345.0
        before.data[0] = 12345.0
        assert_array_equal(A.toarray(), before.toarray())


@pytest.mark.parametrize("layout", ["contiguous", "chunked", "gzip", "lzf + shuffle", "user block"])
def test_the_fast_readers_read_what_h5py_reads(tmp_path, layout):
    # The same file twice: as an ordinary file, and as HDF5 hands it over.
    make, options = MAKERS[layout]
    path = write(tmp_path / "m.h5", make, *arrays("f8"), **options)
    with diskcsr.open(path) as A, h5py.File(path, "r", driver="core") as file:
        B = diskcsr.open(file)
        if file["X/data"].compression is None:
            assert A.reader["data"].name != B.reader["data"].name == "h5py"
        else:
            assert A.reader["data"].name == B.reader["data"].name == "decode"
            for part in ("data", "indices"):
                assert "'core'" in B.reader[part].why
                assert_array_equal(B.reader[part].run(0, A.nnz), file["X"][part][: A.nnz])
        for key in ROWS:
            ours, theirs = A[key], B[key]
            for part in PARTS:
                one, other = getattr(ours, part), getattr(theirs, part)
                assert one.dtype == other.dtype
                assert_array_equal(one, other)


# ------------------------------------------------------------ files that change, end, or are closed


@pytest.fixture(params=[True, False], ids=["map", "no map"])
def memory_map(request):
    with diskcsr.options.set(memory_map=request.param):
        yield request.param


LAYOUTS = ["contiguous", "chunked", "gzip"]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_file_that_was_written_to_is_stale(tmp_path, memory_map, layout):
    path = write(tmp_path / "m.h5", MAKERS[layout][0], *arrays())
    A = diskcsr.open(path)
    A[np.arange(N)[::-1]]
    A[3:5]
    with path.open("r+b") as raw:
        raw.seek(-1, io.SEEK_END)
        raw.write(b"\0")
    os.utime(path, ns=(1, 1))  # where the clock is coarse
    # 5 and 17 are not kept in any cache, and neither is what serves whole arrays.
    for use in (lambda: A[np.arange(N)], lambda: A[17], lambda: A.data, lambda: A.to_memory()):
        with pytest.raises(diskcsr.StaleFileError, match=r"m\.h5.*changed.*open it again"):
            use()
    assert issubclass(diskcsr.StaleFileError, OSError)
    A.close()


@pytest.mark.parametrize("opened", ["before", "after"])
def test_a_file_that_was_replaced_stays_what_it_was(tmp_path, opened):
    path = write(tmp_path / "m.h5", _plain(), *arrays("f4"))
    expected = reference(path)
    A = diskcsr.open(path)
    if opened == "before":
        A[3]
    write(tmp_path / "n.h5", _plain(), *(array * 0 for array in arrays("f4")))
    os.replace(tmp_path / "n.h5", path)
    assert_array_equal(A.toarray(), expected.toarray())
    if opened == "after":
        assert "replaced" in A.reader["data"].why
    A.close()
    with diskcsr.open(path) as B:
        assert B.nnz == 0


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_file_that_is_truncated_while_open(tmp_path, memory_map, layout):
    path = write(tmp_path / "m.h5", MAKERS[layout][0], *arrays())
    A = diskcsr.open(path)
    A[np.arange(N)[::-1]]
    os.truncate(path, 2048)
    for use in (lambda: A[np.arange(N)], lambda: A.indices, lambda: A[3:9]):
        with pytest.raises((diskcsr.StaleFileError, diskcsr.CorruptFileError)):
            use()
    A.close()


def _shorten(path, size):
    """Cut a file off and tell its superblock (version 0, HDF5 format specification) so."""
    raw = bytearray(path.read_bytes())
    assert raw[:9] == b"\x89HDF\r\n\x1a\n\0"
    assert struct.unpack_from("<Q", raw, 40)[0] == len(raw)
    struct.pack_into("<Q", raw, 40, size)
    path.write_bytes(raw[:size])


FILTERS = {
    "contiguous": {},
    "chunked": {"chunks": (50,)},
    "gzip": {"chunks": (50,), "compression": "gzip"},
}


@pytest.mark.parametrize("layout", FILTERS)
def test_a_file_that_ends_too_early(tmp_path, memory_map, layout):
    path = tmp_path / "m.h5"
    parts = dict(zip(PARTS, arrays(), strict=True))
    with h5py.File(path, "w") as file:  # all that describes the arrays comes before the indices
        group = file.create_group("X")
        group.attrs["h5sparse_format"], group.attrs["h5sparse_shape"] = "csr", (N, WIDTH)
        for name, values in parts.items():
            group.create_dataset(name, values.shape, values.dtype, **FILTERS[layout])
        for name in ("data", "indptr"):
            group[name][...] = parts[name]
        group["indices"][:50] = parts["indices"][:50]
        file.flush()
        group["indices"][50:] = parts["indices"][50:]
    with h5py.File(path, "r") as file:
        dset = file["X/indices"]
        begins = [dset.id.get_offset() or 0]
        if dset.chunks:
            dset.id.chunk_iter(lambda info: begins.append(info.byte_offset))
    _shorten(path, max(begins) + 5)
    if layout == "contiguous":  # recent versions of HDF5 notice, and so do we
        with pytest.raises(diskcsr.CorruptFileError, match=r"m\.h5"), diskcsr.open(path) as A:
            A[N - 2]
        return
    with diskcsr.open(path) as A:
        assert_array_equal(A[1].toarray(), reference_rows(parts)[1])
        for use in (
            lambda: A[N - 2],
            lambda: A[np.arange(N)],
            lambda: A[np.arange(N)[::-1]],
            lambda: A.indices,
            lambda: A[:, 3],
            lambda: A.to_memory(),
        ):
            with pytest.raises(diskcsr.CorruptFileError, match=r"m\.h5.*indices.*ends"):
                use()


def reference_rows(parts):
    return sp.csr_array(tuple(parts.values()), shape=(N, WIDTH)).toarray()


def test_a_file_that_hdf5_knows_to_be_truncated(tmp_path):
    path = write(tmp_path / "m.h5", _plain(), *arrays())
    os.truncate(path, path.stat().st_size - 100)
    with pytest.raises(OSError, match="truncated"):
        diskcsr.open(path)


def test_what_is_no_hdf5_file(tmp_path):
    (tmp_path / "text").write_text("not this")
    (tmp_path / "empty").write_bytes(b"")
    for name in ("text", "empty"):
        with pytest.raises(diskcsr.FormatError, match=f"{name}.*not an HDF5 file"):
            diskcsr.open(tmp_path / name)
    with pytest.raises(FileNotFoundError):
        diskcsr.open(tmp_path / "nothing.h5")
    with pytest.raises(IsADirectoryError):
        diskcsr.open(tmp_path)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("used", [True, False])
def test_a_file_closed_underneath(tmp_path, layout, used):
    path = write(tmp_path / "m.h5", MAKERS[layout][0], *arrays())
    with h5py.File(path, "r") as file:
        A = diskcsr.open(file)
        if used:
            A[3], A[np.arange(N)[::-1]]
    assert A.closed
    for use in (lambda: A[3], lambda: A[np.arange(N)], lambda: A.data, lambda: A.toarray()):
        with pytest.raises(diskcsr.ClosedFileError, match=r"m\.h5.*closed"):
            use()
    A.close()


# ------------------------------------------------------------------------------------ descriptors

needs_proc = pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs /proc")


def _open_files():
    gc.collect()
    return len(os.listdir("/proc/self/fd"))


@needs_proc
@pytest.mark.parametrize("layout", LAYOUTS)
def test_no_descriptor_is_left_behind(tmp_path, layout):
    path = write(tmp_path / "m.h5", MAKERS[layout][0], *arrays())

    def closed():
        A = diskcsr.open(path)
        A[np.arange(N)[::-1]], A.data
        A.close()

    def dropped():
        A = diskcsr.open(path).T
        A[:, [3, 4]], A.indices

    def failed():
        with pytest.raises(KeyError):
            diskcsr.open(path, "nothing")
        with pytest.raises(diskcsr.FormatError):
            diskcsr.DiskCSC(path)
        with pytest.raises(diskcsr.CorruptFileError):
            diskcsr.open(path, shape=(N + 5, WIDTH))
        with pytest.raises(ValueError, match="mode"):
            diskcsr.open(path, mode="w")

    def passed_in():
        with h5py.File(path, "r") as file:
            diskcsr.open(file)[[5, 3, 1]]

    closed()  # pools and the like are made once
    before = _open_files()
    for way in (closed, dropped, failed, passed_in):
        for _ in range(20):
            way()
        assert _open_files() == before, way.__name__


@needs_proc
def test_descriptors_are_not_inherited(tmp_path):
    path = write(tmp_path / "m.h5", _plain(), *arrays())
    with diskcsr.open(path) as A:
        A[3]
        ours = [
            int(fd)
            for fd in os.listdir("/proc/self/fd")
            if os.path.realpath(f"/proc/self/fd/{fd}") == str(path.resolve())
        ]
        # One of them is HDF5's, which is its affair.
        assert len(ours) == 2
        assert sum(os.get_inheritable(fd) for fd in ours) <= 1


def test_readers_count_right_in_several_threads():
    """A count is two steps, reading and writing it: a thread must not come in between."""
    reader = ConstantReader("here", np.float64(1), 10, "for a test")

    class Slow(int):
        """A number that takes a while to be added, so that other threads get their turn."""

        def __radd__(self, other):
            time.sleep(1e-4)
            return other + int(self)

    def count():
        for _ in range(20):
            reader._count(1, Slow(8), 2)

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (reader.ranges_read, reader.bytes_read, reader.chunks_read) == (80, 640, 160)


def test_reading_together_finishes_each(tmp_path):
    """Stored booleans that are neither 0 nor 1 are put right, whoever asks for them."""
    with h5py.File(tmp_path / "m.h5", "w") as file:
        for name in "ab":
            raw = file.create_dataset(name, data=np.array([0, 1, 1, 0], bool))
            raw.id.write(
                h5py.h5s.ALL, h5py.h5s.ALL, np.array([0, 2, -1, 0], np.int8), raw.id.get_type()
            )
    with h5py.File(tmp_path / "m.h5", "r") as file:
        plan = plan_span(0, 4, np.array([0, 4]))
        wanted = [
            Wanted(H5Reader(file[name], name, "for a test"), plan, np.empty(4, bool), None)
            for name in "ab"
        ]
        gather_together(wanted)
        alone = np.empty(4, bool)
        wanted[0].reader.gather(plan, alone)
        for out in (wanted[0].out, wanted[1].out, alone):
            assert out.view(np.uint8).tolist() == [0, 1, 1, 0]
        assert wanted[0].reader.bytes_read == 2 * wanted[1].reader.bytes_read == 8
