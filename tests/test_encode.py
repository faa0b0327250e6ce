"""Parallel writing: every preset, read by h5py and by diskcsr, at every length around a chunk."""

import threading
import tracemalloc
import zlib

import h5py
import numpy as np
import pytest
from filtered import chunks_of, count_matrix, hdf5plugin
from hypothesis import given, settings
from hypothesis import strategies as st
from naive_codecs import decode_chunk
from scipy.sparse import csc_array, csr_array
from strategies import matrices

import diskcsr
from diskcsr.storage.codecs import libraries, table
from diskcsr.storage.codecs.pipeline import pipeline_of
from diskcsr.storage.write import arrays as encode
from diskcsr.storage.write.arrays import create_array

PLAIN = [None, "raw", "gzip", "lzf", "scaleoffset"]  # that every h5py reads
EXTRA = ["zstd", "lz4", "blosc"]
TYPES = "?bBhHiIqQfdFD"
NAMES = ("data", "indices", "indptr")
FILTERS = {
    None: (),
    "raw": (),
    "gzip": ("shuffle", "deflate"),
    "lzf": ("shuffle", "lzf"),
    "scaleoffset": ("scaleoffset",),
    "zstd": ("shuffle", "zstd"),
    "lz4": ("shuffle", "lz4"),
    "blosc": ("blosc",),
}


@pytest.fixture(params=EXTRA)
def extra(request):
    pytest.importorskip("numcodecs")
    return request.param


def same(found, expected):
    assert found.dtype == expected.dtype
    assert found.shape == expected.shape
    assert np.array_equal(found.indptr, expected.indptr)
    assert np.array_equal(found.indices, expected.indices)
    assert found.data.tobytes() == expected.data.tobytes()


def by_h5py(path, name="X"):
    with h5py.File(path, "r") as file:
        group = file[name]
        build = {"csr": csr_array, "csc": csc_array}[group.attrs["h5sparse_format"]]
        data, indices, indptr = (group[part][:] for part in NAMES)
        assert indices.dtype == np.int32
        assert indptr.dtype == np.int64
        return build((data, indices, indptr), shape=tuple(group.attrs["h5sparse_shape"]))


def filters_of(dset):
    return tuple(filter.name for filter in pipeline_of(dset).filters)


def typed(dtype, **kwargs):
    """Values of a type: whole numbers, of which scaleoffset keeps every one."""
    matrix = count_matrix(**kwargs).astype(dtype)
    if matrix.dtype.kind == "c":
        matrix.data = matrix.data - 1j * matrix.data[::-1]
    if matrix.dtype.kind in "if":
        matrix.data[::3] *= -1
    return matrix


# ----------------------------------------------------------------------------- what is written


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("preset", PLAIN)
def test_plain_h5py_reads_what_was_written(tmp_path, preset, dtype):
    if preset == "scaleoffset" and dtype in "?FD":
        pytest.skip("refused, see below")
    matrix = typed(dtype)
    with diskcsr.write(tmp_path / "m.h5", matrix, compression=preset, chunks=100) as A:
        same(A.to_memory(), matrix)
        same(A[[50, 3, 3]], matrix[[50, 3, 3]])
        assert A.reader["data"].name == ("direct" if preset in (None, "raw") else "decode")
    same(by_h5py(tmp_path / "m.h5"), matrix)
    with h5py.File(tmp_path / "m.h5") as file:
        for name in NAMES:
            dset = file["X"][name]
            assert filters_of(dset) == FILTERS[preset]
            assert dset.chunks == (100,)
            assert dset.maxshape == (None,)
            assert dset.dtype == dset.dtype.newbyteorder("<")


@pytest.mark.parametrize("dtype", TYPES)
def test_diskcsr_reads_what_was_written(tmp_path, extra, dtype):
    matrix = typed(dtype)
    with diskcsr.write(tmp_path / "m.h5", matrix, compression=extra, chunks=100) as A:
        same(A.to_memory(), matrix)
        same(A[[50, 3, 3]], matrix[[50, 3, 3]])
        assert A.reader["data"].name == "decode"
        assert A.reader["data"].why == "filtered by " + ", ".join(FILTERS[extra])


@pytest.mark.skipif(hdf5plugin is None, reason="needs hdf5plugin")
@pytest.mark.parametrize(
    ("dtype", "shuffle"), [*((dtype, None) for dtype in TYPES), ("f", True), ("f", False)]
)
def test_the_plugins_read_what_was_written(tmp_path, extra, shuffle, dtype):
    matrix = typed(dtype)
    diskcsr.write(tmp_path / "m.h5", matrix, compression=extra, chunks=100, shuffle=shuffle).close()
    same(by_h5py(tmp_path / "m.h5"), matrix)


@pytest.mark.parametrize("preset", [*PLAIN, *EXTRA])
@given(matrix=matrices(dtypes=[np.dtype("i4"), np.dtype("f8")]), chunk=st.integers(1, 20))
@settings(max_examples=12)
def test_any_matrix(tmp_path_factory, preset, matrix, chunk):
    if preset in EXTRA:
        pytest.importorskip("numcodecs")
    path = tmp_path_factory.mktemp("encode") / "m.h5"
    with diskcsr.write(path, matrix, compression=preset, chunks=chunk) as A:
        assert A.format == matrix.format
        found = A.to_memory()
        assert found.has_sorted_indices
        assert np.array_equal(found.toarray(), matrix.toarray())
        assert found.dtype == matrix.dtype
    if preset in PLAIN:
        assert np.array_equal(by_h5py(path).toarray(), matrix.toarray())


@pytest.mark.parametrize("preset", [*PLAIN, *EXTRA])
@pytest.mark.parametrize("length", [0, 1, 63, 64, 65, 127, 128, 1000])
@pytest.mark.parametrize("threads", [1, 3])
def test_lengths_around_a_chunk(tmp_path, preset, length, threads):
    if preset in EXTRA:
        pytest.importorskip("numcodecs")
    values = np.arange(1, length + 1, dtype=np.int32)
    matrix = csr_array((values, np.zeros(length, np.int32), np.arange(length + 1)), (length, 3))
    path = tmp_path / "m.h5"
    with (
        diskcsr.options.set(num_threads=threads),
        diskcsr.write(path, matrix, compression=preset, chunks=64) as A,
    ):
        same(A.to_memory(), matrix)
    with h5py.File(path) as file:
        assert file["X/data"].shape == (length,)
        assert file["X/data"].id.get_num_chunks() == -(-length // 64)
    # The last chunk is filled up with zeros, as HDF5 does it; no filter was left out.
    assert all(mask == 0 for _, mask, _, _ in chunks_of(path, "X/data"))
    if preset in PLAIN:
        same(by_h5py(path), matrix)
    if preset in ("gzip", "lzf") and length == 65:
        with h5py.File(path) as file:
            raw = file["X/data"].id.read_direct_chunk((64,))[1]
            last = decode_chunk(raw, 0, pipeline_of(file["X/data"]))
        assert last.tolist() == [65] + [0] * 63


def test_it_grows_after_it_was_written(tmp_path):
    """What h5py appends goes into the chunk that was filled up."""
    matrix = count_matrix()
    diskcsr.write(tmp_path / "m.h5", matrix, compression="gzip", chunks=64).close()
    with h5py.File(tmp_path / "m.h5", "r+") as file:
        data = file["X/data"]
        data.resize((matrix.nnz + 5,))
        assert data[matrix.nnz :].tolist() == [0] * 5
        data[matrix.nnz :] = 9
        assert np.array_equal(data[: matrix.nnz], matrix.data)


# ------------------------------------------------------------------------------------- options


@pytest.mark.parametrize("preset", ["gzip", "lzf", "scaleoffset", "zstd", "lz4", "blosc"])
@pytest.mark.parametrize("shuffle", [True, False])
def test_shuffle_can_be_chosen(tmp_path, preset, shuffle):
    if preset in EXTRA:
        pytest.importorskip("numcodecs")
    matrix = count_matrix()
    path = tmp_path / "m.h5"
    with diskcsr.write(path, matrix, compression=preset, shuffle=shuffle, chunks=64) as A:
        same(A.to_memory(), matrix)
    with h5py.File(path) as file:
        found = filters_of(file["X/data"])
    assert ("shuffle" in found) == shuffle
    assert [name for name in found if name != "shuffle"] == [preset.replace("gzip", "deflate")]


@pytest.mark.parametrize(
    ("preset", "levels"), [("gzip", (0, 1, 9)), ("zstd", (1, 19, 22)), ("blosc", (0, 1, 9))]
)
def test_levels(tmp_path, preset, levels):
    if preset in EXTRA:
        pytest.importorskip("numcodecs")
    matrix = count_matrix(200, 300)
    sizes = []
    for level in levels:
        path = tmp_path / f"{level}.h5"
        options = {"compression": preset, "compression_opts": level}
        with diskcsr.write(path, matrix, **options) as A:
            same(A.to_memory(), matrix)
            sizes.append(A.reader.stored_bytes)
        with h5py.File(path) as file:
            *_, last = pipeline_of(file["X/data"]).filters
            assert last.cd[4 if preset == "blosc" else 0] == level
    assert sizes[-1] < sizes[0]


@pytest.mark.parametrize(
    ("preset", "level"),
    [
        ("gzip", 10), ("gzip", -1), ("gzip", "high"), ("zstd", 0), ("zstd", -3), ("zstd", 23),
        ("blosc", 10), ("blosc", -1), ("lz4", 1), ("lzf", 1), ("scaleoffset", 3), ("raw", 0),
        (None, 4),
    ],
)  # fmt: skip
def test_levels_there_are_not(tmp_path, preset, level):
    path = tmp_path / "m.h5"
    with pytest.raises(ValueError, match=f"compression_opts of compression={preset!r} must be"):
        diskcsr.write(path, count_matrix(), compression=preset, compression_opts=level)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("preset", ["zip", "", "GZIP", 4, "szip"])
def test_unknown_presets(tmp_path, preset):
    expected = "compression must be one of None, 'raw', 'gzip', .* not "
    with pytest.raises(ValueError, match=expected):
        diskcsr.write(tmp_path / "m.h5", count_matrix(), compression=preset)
    assert list(tmp_path.iterdir()) == []


def test_the_presets_there_are():
    assert set(table.preset_names()) == {*PLAIN, *EXTRA}
    assert table.preset_names()[: len(PLAIN)] == [None, "raw", "gzip", "scaleoffset", "lzf"]
    assert table.find_preset(None) is table.find_preset("raw") is None


# --------------------------------------------------------------------------------- scaleoffset


@pytest.mark.parametrize(
    "value", [0.5, -1.25, np.nan, np.inf, -np.inf, 2.0**23 + 1, 1e30, 1e-30], ids=str
)
@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_scaleoffset_never_rounds(tmp_path, dtype, value):
    matrix = count_matrix(dtype=dtype)
    matrix.data[-1] = value
    with pytest.raises(ValueError, match=r"stores whole numbers up to 8388608 only, and would"):
        diskcsr.write(tmp_path / "m.h5", matrix, compression="scaleoffset", chunks=64)
    assert list(tmp_path.iterdir()) == []
    # In a file that exists everything else stays.
    with h5py.File(tmp_path / "old.h5", "w") as file:
        file["other"] = [1, 2]
        file.create_group("X").attrs["keep"] = 1
    with pytest.raises(ValueError, match="whole numbers"):
        diskcsr.write(tmp_path / "old.h5", matrix, compression="scaleoffset", overwrite=True)
    with h5py.File(tmp_path / "old.h5") as file:
        assert sorted(file) == ["X", "other"]
        assert file["X"].attrs["keep"] == 1


@pytest.mark.parametrize("dtype", ["?", "F", "D", "g", "G"])
def test_scaleoffset_has_types_it_cannot_store(tmp_path, dtype):
    matrix = typed(dtype)
    expected = f"compression='scaleoffset' cannot store values of dtype {matrix.dtype}"
    with pytest.raises(ValueError, match=expected):
        diskcsr.write(tmp_path / "m.h5", matrix, compression="scaleoffset")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("dtype", ["i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8"])
def test_scaleoffset_keeps_every_integer(tmp_path, dtype):
    info = np.iinfo(dtype)
    matrix = count_matrix(dtype=dtype)
    rng = np.random.default_rng(0)
    matrix.data = rng.integers(info.min, info.max, matrix.nnz, dtype, endpoint=True)
    matrix.data[:2] = info.min, info.max
    matrix.data[64:128] = 0
    matrix.data[128:192] = info.max
    path = tmp_path / "m.h5"
    with diskcsr.write(path, matrix, compression="scaleoffset", chunks=64) as A:
        same(A.to_memory(), matrix)
    same(by_h5py(path), matrix)


@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_scaleoffset_keeps_whole_numbers(tmp_path, dtype):
    matrix = count_matrix(dtype=dtype)
    rng = np.random.default_rng(0)
    matrix.data = rng.integers(-(2**23), 2**23, matrix.nnz, endpoint=True).astype(dtype)
    matrix.data[:4] = -(2**23), 2**23, 0, 1
    matrix.data[64:128] = 0
    path = tmp_path / "m.h5"
    with diskcsr.write(path, matrix, compression="scaleoffset", chunks=64) as A:
        assert np.array_equal(A.to_memory().data, matrix.data)
    assert np.array_equal(by_h5py(path).data, matrix.data)


# ------------------------------------------------------------------------------ without extras


@pytest.fixture
def no_extras(monkeypatch):
    def standard(*names):
        return zlib if "zlib" in names else None

    monkeypatch.setattr(libraries, "find", standard)
    monkeypatch.setattr(h5py.h5z, "filter_avail", lambda number: number < 32001)


@pytest.mark.parametrize("preset", EXTRA)
def test_without_extras_the_error_names_what_helps(tmp_path, no_extras, preset):
    with pytest.raises(ValueError, match=f"{preset} needs the 'codecs' extra"):
        diskcsr.write(tmp_path / "m.h5", count_matrix(), compression=preset)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("preset", PLAIN)
def test_without_extras_the_others_are_written(tmp_path, no_extras, preset):
    matrix = count_matrix()
    with diskcsr.write(tmp_path / "m.h5", matrix, compression=preset, chunks=64) as A:
        same(A.to_memory(), matrix)
    same(by_h5py(tmp_path / "m.h5"), matrix)


@pytest.mark.skipif(hdf5plugin is None, reason="needs hdf5plugin")
def test_with_the_plugins_alone_hdf5_does_it(tmp_path, monkeypatch, extra):
    monkeypatch.setattr(libraries, "find", lambda *names: None)
    matrix = count_matrix()
    with diskcsr.write(tmp_path / "m.h5", matrix, compression=extra, chunks=64) as A:
        same(A.to_memory(), matrix)


# ------------------------------------------------------------------------------ the writer itself


@given(
    sizes=st.lists(st.integers(0, 40), max_size=12),
    chunk=st.integers(1, 25),
    preset=st.sampled_from(PLAIN),
)
@settings(max_examples=60)
def test_any_blocks_give_the_same_file(sizes, chunk, preset):
    values = np.arange(sum(sizes), dtype=np.int64) * 3
    with h5py.File("m.h5", "w", driver="core", backing_store=False) as file:
        writer = create_array(file, "x", values.size, values.dtype, chunk, preset)
        for block in np.split(values, np.cumsum(sizes)):
            writer.append(block)
        writer.finish()
        writer.finish()  # there is nothing left to do
        assert file["x"][:].tolist() == values.tolist()


def test_chunks_are_encoded_in_the_pool_and_stored_in_order(monkeypatch):
    names = set()
    whole = encode.encode_chunk

    def noting(chunk, pipeline):
        names.add(threading.current_thread().name)
        return whole(chunk, pipeline)

    monkeypatch.setattr(encode, "encode_chunk", noting)
    values = np.arange(100_000, dtype=np.int32)
    with (
        h5py.File("m.h5", "w", driver="core", backing_store=False) as file,
        diskcsr.options.set(num_threads=2),
    ):
        writer = create_array(file, "x", values.size, values.dtype, 500, "gzip")
        writer.append(values)
        writer.finish()
        assert np.array_equal(file["x"][:], values)
    assert names <= {"diskcsr_0", "diskcsr_1"}
    assert names


# ------------------------------------------------------------------------------------ streaming


@pytest.mark.parametrize("preset", ["raw", "gzip", "scaleoffset"])
def test_an_array_on_disk_is_copied_block_by_block(tmp_path, monkeypatch, preset):
    """With blocks much smaller than the matrix, at every other place than the chunks."""
    matrix = count_matrix(300, 50)
    diskcsr.write(tmp_path / "a.h5", matrix, chunks=77).close()
    with diskcsr.open(tmp_path / "a.h5") as A:
        blocks = []
        iter_blocks = diskcsr.DiskCSR.iter_blocks

        def small(self, max_bytes=None):
            for first, block in iter_blocks(self, 1000):
                blocks.append(first)
                yield first, block

        monkeypatch.setattr(diskcsr.DiskCSR, "iter_blocks", small)
        with diskcsr.write(tmp_path / "b.h5", A, compression=preset, chunks=64) as B:
            monkeypatch.undo()
            same(B.to_memory(), matrix)
        assert len(blocks) > 10
        assert "data" not in A.__dict__  # nothing was loaded on the way


def test_copying_takes_bounded_memory(tmp_path):
    rng = np.random.default_rng(0)
    n = 6_000_000
    matrix = csr_array(
        (
            rng.integers(0, 9, n).astype(np.float32),
            np.tile(np.arange(600, dtype=np.int32), n // 600),
            np.arange(0, n + 1, 600, dtype=np.int32),
        ),
        shape=(n // 600, 1000),
    )
    diskcsr.write(tmp_path / "a.h5", matrix).close()
    with (
        diskcsr.open(tmp_path / "a.h5") as A,
        diskcsr.options.set(num_threads=2, memory_budget=10**9),
    ):
        blocks = list(A.iter_blocks())
        biggest = max(block.nnz for _, block in blocks) * 8
        del blocks
        tracemalloc.start()
        try:
            target = diskcsr.write(tmp_path / "b.h5", A, compression="lzf")
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        target.close()
    # As it is written, a block is read ahead for each thread.
    assert peak < 5 * biggest + 20_000_000


@pytest.mark.parametrize("format", ["csr", "csc"])
def test_another_format(tmp_path, format):
    matrix = count_matrix()
    with (
        diskcsr.write(tmp_path / "a.h5", matrix, compression="gzip") as A,
        diskcsr.write(tmp_path / "b.h5", A, format=format, compression="lzf", chunks=64) as B,
    ):
        assert B.format == format
        same(B.to_memory(), matrix.asformat(format))
