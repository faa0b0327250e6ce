"""The chunk index: where HDF5 put what, in whatever layout; and tables that lie."""

import contextlib
import os
import struct
import tracemalloc
import zlib

import h5py
import numpy as np
import pytest
from filtered import (
    FILTERS,
    as_stored,
    chunks_of,
    count_matrix,
    create,
    overwrite,
    patch_chunk_table,
    store,
)
from hypothesis import given
from hypothesis import strategies as st

import diskcsr
from diskcsr.storage.claims import chunks
from diskcsr.storage.claims.chunks import ChunkIndex, index_chunks
from diskcsr.storage.read.descriptor import Descriptor

#: How HDF5 keeps the table of chunks: as a version 1 B-tree; as a single chunk, a fixed array, an
#: implicit or an extensible array.
TABLES = {
    "b-tree": {"libver": "earliest"},
    "growing": {"libver": "latest"},
    "fixed": {"libver": "latest", "growing": False},
}


@pytest.fixture
def indexed(tmp_path):
    """Write a dataset, and return its index, all its bytes, and the values."""

    def indexed(values, *, chunk=10, steps=(), libver=None, growing=True, userblock=0, put=None):
        path = tmp_path / "d.h5"
        with h5py.File(path, "w", libver=libver, userblock_size=userblock) as file:
            file["before"] = np.arange(77)
            if put is None:
                create(file, "d", values, chunk=chunk, steps=steps, growing=growing)
            else:
                put(file)
        with h5py.File(path, "r") as file:
            index = index_chunks(file["d"])
            return index, path.read_bytes(), file["d"][:]

    return indexed


def values_of(index, raw, dtype):
    """What unfiltered chunks hold that lie where an index says; unwritten ones hold zeros."""
    found = []
    for offset, nbytes in zip(index.offset.tolist(), index.nbytes.tolist(), strict=True):
        some = raw[offset : offset + nbytes] if offset >= 0 else b""
        found.append(np.frombuffer(some, dtype) if some else np.zeros(index.length, dtype))
    return np.concatenate(found)


# ----------------------------------------------------------------------------------- what it says


@pytest.mark.parametrize("userblock", [0, 512, 4096])
@pytest.mark.parametrize("size", [1, 9, 10, 11, 95])
def test_contiguous(indexed, size, userblock):
    index, raw, values = indexed(np.arange(size) * 3, chunk=None, userblock=userblock)
    assert index.length == size
    assert index.nbytes.tolist() == [size * 8]
    assert index.mask.tolist() == [0]
    assert values_of(index, raw, "i8").tolist() == values.tolist() == [3 * i for i in range(size)]
    starts, offsets = index.extents(size, 8)
    assert (starts.tolist(), offsets.tolist()) == ([0, size], index.offset.tolist())


@pytest.mark.parametrize("userblock", [0, 512, 4096])
@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize("size", [1, 9, 10, 11, 95])
def test_chunked(indexed, size, table, userblock):
    if table == "fixed" and size < 10:
        pytest.skip("HDF5 refuses chunks longer than a fixed length")
    index, raw, values = indexed(np.arange(size) * 3 + 1, userblock=userblock, **TABLES[table])
    count = -(-size // 10)
    assert index.length == 10
    assert index.offset.dtype == index.nbytes.dtype == np.int64
    assert index.mask.dtype == np.uint32
    assert index.nbytes.tolist() == [80] * count  # the last is stored whole
    assert index.mask.tolist() == [0] * count
    assert values_of(index, raw, "i8")[:size].tolist() == values.tolist()


@pytest.mark.parametrize("userblock", [0, 1024])
@pytest.mark.parametrize("table", TABLES)
def test_filtered(indexed, table, userblock):
    steps = FILTERS["gzip"]
    index, raw, values = indexed(
        np.arange(95) % 7, steps=steps, userblock=userblock, **TABLES[table]
    )
    found = [
        np.frombuffer(zlib.decompress(raw[a : a + n]), "i8")
        for a, n in zip(index.offset.tolist(), index.nbytes.tolist(), strict=True)
    ]
    assert np.concatenate(found)[:95].tolist() == values.tolist()


@pytest.mark.parametrize("steps", ["none", "gzip"])
@pytest.mark.parametrize("userblock", [0, 1024])
@pytest.mark.parametrize("table", TABLES)
def test_chunks_never_written(indexed, table, userblock, steps):
    def put(file):
        options = TABLES[table]
        fixed = options.get("growing", True) is False
        dset = file.create_dataset(
            "d",
            (95,),
            "i8",
            chunks=(10,),
            maxshape=None if fixed else (None,),
            compression=None if steps == "none" else "gzip",
        )
        dset[20:40] = np.arange(20)
        dset[90:] = 7

    index, raw, values = indexed(None, put=put, userblock=userblock, libver=TABLES[table]["libver"])
    written = [2, 3, 9]
    assert np.flatnonzero(index.offset >= 0).tolist() == written
    assert np.all(index.nbytes[index.offset < 0] == 0)
    assert index.extents(95, 8) is None
    if steps == "none":
        assert values_of(index, raw, "i8")[:95].tolist() == values.tolist()


def test_a_filter_mask(indexed):
    """Chunk 1 was stored without the second filter, chunk 3 without any."""
    parts = [np.arange(10, dtype="i8") + 10 * i for i in range(5)]
    shuffled = [part.view("u1").reshape(10, 8).T.tobytes() for part in parts]

    def put(file):
        keywords = {"chunks": (10,), "compression": "gzip", "shuffle": True}
        dset = file.create_dataset("d", (50,), "i8", **keywords)
        for i, part in enumerate(parts):
            dset[10 * i : 10 * i + 10] = part
        dset.id.write_direct_chunk((10,), shuffled[1], 0b10)
        dset.id.write_direct_chunk((30,), parts[3].tobytes(), 0b11)

    index, raw, values = indexed(None, put=put)
    assert values.tolist() == list(range(50))  # HDF5 understands it, too
    assert index.mask.tolist() == [0, 2, 0, 3, 0]
    assert index.nbytes.tolist()[1] == index.nbytes.tolist()[3] == 80
    assert raw[index.offset[3] : index.offset[3] + 80] == parts[3].tobytes()


@pytest.mark.parametrize("mask", [0b001, 0b010, 0b100, 0b011, 0b111])
def test_masked_chunks_are_read_right(tmp_path, mask):
    """Of the filters shuffle, deflate and fletcher32, those that the mask names were left out."""
    matrix = count_matrix()
    steps = (*FILTERS["shuffle+gzip"], *FILTERS["fletcher32"])
    path = store(tmp_path / "m.h5", matrix, chunk=50, steps=steps)
    values = matrix.data[100:150]
    raw = values.tobytes() if mask & 1 else values.view("u1").reshape(50, 4).T.tobytes()
    raw = raw if mask & 2 else zlib.compress(raw)
    if not mask & 4:
        pytest.importorskip("numba")
        from diskcsr.storage.codecs.fletcher32 import CODEC

        raw = CODEC.encode(np.frombuffer(raw, np.uint8), ()).tobytes()
    with h5py.File(path, "r+") as file:
        file["X/data"].id.write_direct_chunk((100,), raw, mask)
    assert np.array_equal(as_stored(path).data, matrix.data)
    with diskcsr.open(path) as A:
        assert A.reader["data"].name == "decode"
        assert np.array_equal(A.to_memory().data, matrix.data)
        rows = [30, 15, 12, 14, 13]
        assert np.array_equal(A[rows].toarray(), matrix[rows].toarray())


@given(
    lengths=st.lists(st.integers(1, 5), min_size=1, max_size=8),
    length=st.integers(1, 9),
    itemsize=st.sampled_from([1, 4, 8]),
    short=st.integers(0, 8),
)
def test_extents_join_what_lies_side_by_side(lengths, length, itemsize, short):
    """Runs of that many chunks, apart from one another; some run backwards in the file."""
    offsets, place = [], 10_000
    for i, run in enumerate(lengths):
        place += -3000 if i % 3 == 2 else 777
        offsets += [place + k * length * itemsize for k in range(run)]
        place = offsets[-1] + length * itemsize
    n = len(offsets)
    index = ChunkIndex(
        length, np.array(offsets), np.full(n, length * itemsize), np.zeros(n, np.uint32)
    )
    size = n * length - min(short, length - 1)
    starts, places = index.extents(size, itemsize)
    assert starts.size == places.size + 1 == len(lengths) + 1
    assert starts[-1] == size
    for element in range(size):
        e = np.searchsorted(starts, element, side="right") - 1
        expected = offsets[element // length] + element % length * itemsize
        assert places[e] + (element - starts[e]) * itemsize == expected


def test_a_dataset_written_at_once_is_one_extent(tmp_path):
    matrix = count_matrix(300, 200)
    path = store(tmp_path / "m.h5", matrix, chunk=100)
    with diskcsr.open(path) as A:
        reader = A.reader["data"]
        assert reader.name == "direct"
        n = -(-matrix.nnz // 100)
        assert len(reader.extent_offset) < n / 5
        assert np.array_equal(A.to_memory().data, matrix.data)


def test_datasets_written_turn_by_turn(tmp_path):
    matrix = count_matrix(300, 200)
    path = tmp_path / "m.h5"
    store(path, matrix, chunk=100)
    with h5py.File(path, "r+") as file:
        for name in ("data", "indices"):
            del file["X"][name]
            create(file["X"], name, np.empty(0, getattr(matrix, name).dtype), chunk=100)
        for first in range(0, matrix.nnz, 100):
            for name in ("data", "indices"):
                values = getattr(matrix, name)[first : first + 100]
                file["X"][name].resize((first + values.size,))
                file["X"][name][first:] = values
    with diskcsr.open(path) as A:
        assert len(A.reader["data"].extent_offset) > 10
        assert np.array_equal(A[::-1].toarray(), matrix.toarray()[::-1])


@pytest.mark.parametrize("length", [1, (1 << 16) - 1, 1 << 16, (1 << 16) + 1, 200_000])
def test_divided(length):
    index = ChunkIndex(length, np.array([1000]), np.array([length * 4]), np.zeros(1, np.uint32))
    divided = index.divided(length, 4)
    assert divided.length == chunks.DIVISION
    assert divided.offset.size == -(-length // chunks.DIVISION)
    assert divided.offset[0] == 1000
    assert np.array_equal(divided.offset[:-1] + divided.nbytes[:-1], divided.offset[1:])
    assert divided.nbytes.sum() == length * 4


@pytest.mark.parametrize("chunk", [None, 10])
def test_what_has_no_index(indexed, chunk):
    assert indexed(np.empty(0), chunk=chunk)[0] == "it is empty"


def test_contiguous_but_never_written(indexed):
    index, _, values = indexed(None, put=lambda file: file.create_dataset("d", (9,), "i4"))
    assert index == "it was never written"
    assert values.tolist() == [0] * 9


# ------------------------------------------------------------------------------------ user block


@pytest.mark.parametrize("chunk", [None, 30])
@pytest.mark.parametrize("filter", ["none", "gzip"])
@pytest.mark.parametrize("libver", ["earliest", "latest"])
def test_files_with_a_user_block(tmp_path, libver, filter, chunk):
    matrix = count_matrix()
    path = tmp_path / "m.h5"
    store(path, matrix, chunk=chunk, steps=FILTERS[filter], libver=libver, userblock_size=2048)
    overwrite(path, 0, b"some other program's header")
    with diskcsr.open(path) as A:
        fast = "decode" if filter == "gzip" and chunk else "direct"
        assert A.reader["data"].name == A.reader["indptr"].name == fast
        assert np.array_equal(A.to_memory().toarray(), matrix.toarray())
        assert np.array_equal(A[[50, 2]].toarray(), matrix[[50, 2]].toarray())


def test_where_addresses_count_from_is_found_by_comparing(tmp_path):
    """Chunks that look the same at both places tell nothing; others are asked."""
    values = np.zeros(1000, "i8")
    values[770] = 1
    path = tmp_path / "m.h5"
    with h5py.File(path, "w", userblock_size=512) as file:
        create(file, "d", values, chunk=8)  # 64 bytes each: 512 bytes on, there is another zero
        create(file, "same", np.zeros(10_000, "i8"), chunk=8)
    with h5py.File(path, "r") as file:
        index = index_chunks(file["d"])
        if isinstance(index, ChunkIndex):
            found = values_of(index, path.read_bytes(), "i8")
            assert np.array_equal(found[:1000], values)
        else:
            assert "user block" in index
        vague = index_chunks(file["same"])
        assert (
            not isinstance(vague, ChunkIndex) or not values_of(vague, path.read_bytes(), "i8").any()
        )


# ------------------------------------------------------------------------------------ many chunks


def test_many_chunks(tmp_path):
    matrix = count_matrix(3000, 100)
    path = store(tmp_path / "m.h5", matrix, chunk=3)
    with h5py.File(path, "r") as file:
        index = index_chunks(file["X/data"])
        assert index.offset.size == -(-matrix.nnz // 3) > 15_000
        told = {first // 3: place for first, _, place, _ in chunks_of(path, "X/indptr")}
        pointers = index_chunks(file["X/indptr"])
        assert pointers.offset.tolist() == [told[i] for i in range(pointers.offset.size)]
    with diskcsr.open(path) as A:
        rows = [2999, 0, 1500, 1]
        assert np.array_equal(A[rows].toarray(), matrix[rows].toarray())
        assert np.array_equal(A.to_memory().data, matrix.data)


@pytest.mark.parametrize("filter", [None, "gzip"])
def test_a_length_alone_costs_nothing(tmp_path, filter):
    """10**12 elements of which none was written: an index of them would fill the memory."""
    path = tmp_path / "m.h5"
    with h5py.File(path, "w") as file:
        group = file.create_group("X")
        group.attrs["h5sparse_format"] = "csr"
        group.attrs["h5sparse_shape"] = [3, 5]
        for name, dtype in (("data", "f4"), ("indices", "i4")):
            keywords = {"chunks": (16,), "compression": filter}
            group.create_dataset(name, (10**12,), dtype, **keywords)[:2] = 1
        group["indptr"] = [0, 1, 2, 3]
    tracemalloc.start()
    try:
        with diskcsr.open(path) as A:
            reader = A.reader["data"]
            why = "of its 62500000000 chunks only 1 were ever written"
            assert (reader.name, reader.why) == (
                ("decode", f"filtered by deflate, and read by HDF5: {why}")
                if filter
                else ("h5py", why)
            )
            assert A[[2, 0]].toarray().tolist() == [[0, 0, 0, 0, 0], [0, 1, 0, 0, 0]]
        assert tracemalloc.get_traced_memory()[1] < 50_000_000
    finally:
        tracemalloc.stop()


# ----------------------------------------------------------------------------------- hostile files


def hostile(tmp_path, filter, **what):
    """A file whose table lies about the third chunk of the values."""
    matrix = count_matrix()
    path = store(tmp_path / "m.h5", matrix, chunk=50, steps=FILTERS[filter], libver="earliest")
    patch_chunk_table(path, "X/data", 100, **what)
    rows = np.flatnonzero((matrix.indptr[:-1] < 100) | (matrix.indptr[:-1] >= 160))
    return path, matrix, rows[matrix.indptr[rows + 1] <= 100]


@pytest.mark.parametrize(
    "address", [1 << 20, 1 << 40, (1 << 62) - 8, 1 << 62, (1 << 63) - 8, 1 << 63, (1 << 64) - 2]
)
@pytest.mark.parametrize("filter", ["none", "gzip", "shuffle+gzip", "lzf", "fletcher32"])
def test_addresses_beyond_the_file(tmp_path, filter, address):
    path, matrix, fine = hostile(tmp_path, filter, address=address)
    with diskcsr.open(path) as A:
        for read in (lambda: A[:], lambda: A[::-1], lambda: A.to_memory(), lambda: A.data.sum()):
            with pytest.raises(diskcsr.CorruptFileError, match=r"group '/X', dataset 'data'"):
                read()
        with pytest.raises(diskcsr.CorruptFileError):
            list(A.batches(10))
        # What lies elsewhere is served.
        assert fine.size > 3
        assert np.array_equal(A[fine].toarray(), matrix[fine].toarray())


@pytest.mark.parametrize("address", [0, 1, 96, 800])
@pytest.mark.parametrize("filter", ["gzip", "lzf", "fletcher32", "scaleoffset"])
def test_addresses_of_something_else(tmp_path, filter, address):
    """Whatever lies there is no chunk; of lzf and scaleoffset some bytes could be one."""
    path, matrix, fine = hostile(tmp_path, filter, address=address)
    with diskcsr.open(path) as A:
        if filter in ("gzip", "fletcher32"):
            with pytest.raises(diskcsr.CorruptFileError):
                A.to_memory()
        else:
            with contextlib.suppress(diskcsr.CorruptFileError):
                assert A.to_memory().nnz == matrix.nnz
        assert np.array_equal(A[fine].toarray(), matrix[fine].toarray())


@pytest.mark.parametrize("nbytes", [0, 1, 7, 1 << 20, (1 << 31) - 1, 1 << 31, (1 << 32) - 1])
@pytest.mark.parametrize("filter", ["gzip", "shuffle+gzip", "lzf", "fletcher32", "shuffle"])
def test_absurd_sizes(tmp_path, filter, nbytes):
    path, matrix, fine = hostile(tmp_path, filter, nbytes=nbytes)
    tracemalloc.start()
    try:
        with diskcsr.open(path) as A:
            for read in (lambda: A.to_memory(), lambda: A[np.arange(60)[::-1]]):
                with pytest.raises(diskcsr.CorruptFileError, match="chunk 2: "):
                    read()
            assert np.array_equal(A[fine].toarray(), matrix[fine].toarray())
        # The claim is not believed.
        assert tracemalloc.get_traced_memory()[1] < 100_000_000
    finally:
        tracemalloc.stop()


def test_two_chunks_at_one_place(tmp_path):
    """HDF5 never stores them so: at least one of them is not where the table says."""
    matrix = count_matrix()
    path = store(tmp_path / "m.h5", matrix, chunk=50, libver="earliest")
    (place,) = [place for first, _, place, _ in chunks_of(path, "X/data") if first == 0]
    patch_chunk_table(path, "X/data", 100, address=place)
    with diskcsr.open(path) as A:
        assert A.reader["data"].why == "unfiltered, but damaged"
        with pytest.raises(diskcsr.CorruptFileError, match=r"chunk 0: .* another chunk lies there"):
            A[0]
        with pytest.raises(diskcsr.CorruptFileError, match="another chunk lies there"):
            A.to_memory()
        assert np.array_equal(A[59].toarray(), matrix[59].toarray())


@given(data=st.data())
def test_a_damaged_table_does_no_harm(tmp_path_factory, data):
    """Refused, or served as HDF5 has it; never a crash. The B-tree's node is what is damaged."""
    path = tmp_path_factory.mktemp("tree") / "m.h5"
    matrix = count_matrix()
    store(path, matrix, chunk=50, steps=FILTERS["gzip"], libver="earliest")
    first, mask, place, size = chunks_of(path, "X/data")[0]
    raw = path.read_bytes()
    node = raw.index(struct.pack("<IIQQQ", size, mask, first, 0, place)) - 24
    assert raw[node : node + 4] == b"TREE"
    # Not the links to neighbours: HDF5 itself may then go round in circles.
    at = data.draw(st.integers(0, 7) | st.integers(24, 24 + 10 * 32))
    overwrite(path, node + at, data.draw(st.binary(min_size=1, max_size=4)))
    try:
        with diskcsr.open(path) as A:
            found = A[[50, 3, 20]]
    except diskcsr.DiskCSRError:
        return
    assert found.shape == (3, 40)
    assert found.indices.tolist() == matrix[[50, 3, 20]].indices.tolist()


def test_a_checksummed_table_that_is_damaged(tmp_path):
    """Of the newer tables HDF5 compares checksums, and lists no chunk."""
    path = store(
        tmp_path / "m.h5", count_matrix(), chunk=50, steps=FILTERS["gzip"], libver="latest"
    )
    place = chunks_of(path, "X/data")[3][2]
    raw = path.read_bytes()
    at = raw.index(struct.pack("<Q", place))
    overwrite(path, at, struct.pack("<Q", place + 8))
    with diskcsr.open(path) as A, pytest.raises(diskcsr.CorruptFileError):
        A.to_memory()


# ----------------------------------------------------------------------------------- the descriptor


def test_a_descriptor_covers_its_own_file_alone(tmp_path):
    for name in "ab":
        store(tmp_path / f"{name}.h5", count_matrix())
    with h5py.File(tmp_path / "a.h5", "r") as a, h5py.File(tmp_path / "b.h5", "r") as b:
        descriptor = Descriptor(a)
        assert descriptor.covers(a)
        assert descriptor.covers(a["X/data"].file)
        assert not descriptor.covers(b)
        with h5py.File("c.h5", "w", driver="core", backing_store=False) as c:
            assert not descriptor.covers(c)
        fd = descriptor.fd
        descriptor.close()
        descriptor.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)
