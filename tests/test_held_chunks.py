"""Files open for writing: HDF5 hands their chunks over, and they are decoded as everywhere else."""

import io
import zlib

import h5py
import numpy as np
import pytest
from filtered import FILTERS, count_matrix, create, store
from numpy.testing import assert_array_equal
from scipy.sparse import csr_array

import diskcsr
from diskcsr import CorruptFileError
from diskcsr.storage.claims.heldchunks import HeldChunks
from diskcsr.storage.codecs.pipeline import pipeline_of
from diskcsr.storage.files.transactions import transaction
from diskcsr.storage.write import arrays
from diskcsr.storage.write.arrays import ArrayWriter

PARTS = ("data", "indices", "indptr")
#: What is read, for matrices of either format.
READS = {
    "all": lambda A: A.to_memory(),
    "rows": lambda A: A[[5, 1, 5]],
    "columns": lambda A: A[:, 3:9],
    "slice": lambda A: A[::-7],
    "sum": lambda A: A.sum(0),
    "element": lambda A: A[17, 11],
}
PLAIN = count_matrix()


def stored(path, format, filters, chunk=32):
    return store(path, PLAIN.asformat(format), chunk=chunk, steps=FILTERS[filters])


def damage(path, part, number, change, **file_options):
    """Have `change` make other bytes of those of a chunk, through HDF5 itself."""
    with h5py.File(path, "r+", **file_options) as file:
        dset = file["X"][part]
        first = (number * dset.chunks[0],)
        mask, raw = dset.id.read_direct_chunk(first)
        dset.id.write_direct_chunk(first, bytes(change(bytearray(raw))), mask)


def outcomes(path, mode):
    """Everything that is read in a mode: bytes and dtypes, or the error."""
    found = {}
    with diskcsr.open(path, mode=mode) as A:
        for name, read in READS.items():
            try:
                value = read(A)
            except CorruptFileError as problem:
                found[name] = type(problem), str(problem)
                continue
            if isinstance(value, csr_array) or hasattr(value, "indptr"):
                arrays = [getattr(value, part) for part in PARTS]
            else:
                arrays = [np.asarray(value)]
            found[name] = [(array.dtype, array.shape, array.tobytes()) for array in arrays]
    return found


def short(raw):
    """Encode so few elements that HDF5 would fill up with what lies in memory."""
    return zlib.compress(np.arange(3, dtype="i4").tobytes())


def long(raw):
    return zlib.compress(bytes(9 * 32))


@pytest.mark.parametrize("change", [short, long], ids=["short", "long"])
@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("format", ["csr", "csc"])
def test_chunks_of_another_length_are_refused_in_both_modes(tmp_path, format, part, change):
    path = stored(tmp_path / "m.h5", format, "gzip")
    damage(path, part, 1, change)
    by_mode = [outcomes(path, mode) for mode in ("r", "r+")]
    assert by_mode[0] == by_mode[1]
    kind, text = by_mode[1]["all"]
    assert kind is CorruptFileError
    assert f"dataset {part!r}, chunk 1: filter 1 (deflate) cannot be undone: " in text


@pytest.mark.parametrize("filters", ["gzip", "shuffle+gzip", "lzf", "fletcher32", "scaleoffset"])
@pytest.mark.parametrize("format", ["csr", "csc"])
@pytest.mark.parametrize("part", PARTS)
def test_flipped_bits_give_the_same_in_both_modes(tmp_path, format, part, filters):
    path = stored(tmp_path / "m.h5", format, filters)
    sound = path.read_bytes()
    for seed in range(6):
        path.write_bytes(sound)
        rng = np.random.default_rng(seed)

        def flip(raw, rng=rng):
            raw[int(rng.integers(len(raw)))] ^= 1 << int(rng.integers(8))
            return raw

        damage(path, part, int(rng.integers(2)), flip)
        by_mode = [outcomes(path, mode) for mode in ("r", "r+")]
        assert by_mode[0] == by_mode[1]
        if filters == "fletcher32":
            assert by_mode[1]["all"][0] is CorruptFileError
            assert "checksum" in by_mode[1]["all"][1]


@pytest.mark.parametrize("cut", [1, 5, -1])
def test_chunks_cut_short_are_refused_in_both_modes(tmp_path, cut):
    path = stored(tmp_path / "m.h5", "csr", "shuffle+gzip")
    damage(path, "data", 2, lambda raw: raw[:cut])
    by_mode = [outcomes(path, mode) for mode in ("r", "r+")]
    assert by_mode[0] == by_mode[1]
    assert by_mode[1]["all"][0] is CorruptFileError


def doubled(A, dense):
    A[3:9] = 2 * A[3:9]
    dense[3:9] *= 2
    return dense


def scaled(A, dense):
    A *= 3
    return dense * np.float32(3)


def appended(A, dense):
    more = PLAIN[:7] if A.format == "csr" else PLAIN[:, :7]
    A.append(more.asformat(A.format))
    return np.concatenate([dense, more.toarray()], axis=0 if A.format == "csr" else 1)


@pytest.mark.parametrize("filters", ["gzip", "shuffle+gzip", "scaleoffset", "lzf", "fletcher32"])
@pytest.mark.parametrize("format", ["csr", "csc"])
def test_what_was_changed_is_read_within_the_transaction(tmp_path, format, filters):
    path = stored(tmp_path / "m.h5", format, filters)
    dense = PLAIN.toarray()
    with diskcsr.File(path, "r+") as file:
        A = file["X"]
        assert {A.reader[part].name for part in PARTS} == {"decode"}
        with transaction(file):
            for change in (doubled, scaled, appended, doubled, appended):
                dense = change(A, dense)
                assert (A.dtype, A.shape) == (dense.dtype, dense.shape)
                assert_array_equal(A[[5, 1, -1]].toarray(), dense[[5, 1, -1]])
                assert_array_equal(A[:, ::-2].toarray(), dense[:, ::-2])
                assert_array_equal(A.toarray(), dense)
                assert A[3, 3] == dense[3, 3]
                A.release()
    with diskcsr.open(path) as A:
        assert_array_equal(A.toarray(), dense)
    assert diskcsr.check(path).ok


@pytest.mark.parametrize("driver", [None, "core"])
def test_what_hdf5_has_not_written_yet_is_read(tmp_path, driver):
    path = stored(tmp_path / "m.h5", "csr", "gzip")
    with h5py.File(path, "r+", driver=driver) as file:
        A = diskcsr.open(file)
        row = PLAIN[[5]]
        for value in (7, 8, 9):
            file["X/data"][PLAIN.indptr[5]] = row.data[0] = value
            assert_array_equal(A[[5]].toarray(), row.toarray())


def test_chunks_that_were_never_written_hold_the_fill_value(tmp_path):
    path = stored(tmp_path / "m.h5", "csr", "gzip")
    with h5py.File(path, "r+") as file:
        del file["X/data"]
        dset = create(file["X"], "data", np.zeros(0, "f4"), steps=FILTERS["gzip"], fill=3)
        dset.resize((PLAIN.nnz,))
        dset[40:50] = 5
    for mode in ("r", "r+"):
        with diskcsr.open(path, mode=mode) as A:
            expected = np.full(PLAIN.nnz, 3, "f4")
            expected[40:50] = 5
            read = A.to_memory().data
            assert read.dtype == np.float32
            assert_array_equal(read, expected)
    with diskcsr.open(path, mode="r+") as A:
        A.append(PLAIN[:1])  # into a chunk that was never written
        assert_array_equal(A.to_memory().data, np.append(expected, PLAIN[[0]].data))


@pytest.mark.parametrize("threads", [1, 2])
def test_each_touched_chunk_is_read_once_a_call(tmp_path, threads):
    path = stored(tmp_path / "m.h5", "csr", "gzip")
    rows = [30, 5, 30, 6, 5]
    with diskcsr.open(path, mode="r+") as A, diskcsr.options.set(num_threads=threads):
        diskcsr.cache.clear()
        for part in ("data", "indices"):
            reader = A.reader[part]
            touched = {e // 32 for r in rows for e in range(PLAIN.indptr[r], PLAIN.indptr[r + 1])}
            with h5py.File(io.BytesIO(path.read_bytes())) as file:
                dset = file["X"][part]
                sizes = [len(dset.id.read_direct_chunk((32 * c,))[1]) for c in touched]
            for bytes_read in (sum(sizes), 0):  # the second time they are in the cache
                before = reader.chunks_read, reader.bytes_read
                assert_array_equal(A[rows].toarray(), PLAIN[rows].toarray())
                assert reader.chunks_read - before[0] == len(touched)
                if part == "data":
                    assert reader.bytes_read - before[1] == bytes_read
        assert diskcsr.cache.info().hits > 0


def test_the_cache_knows_chunks_by_their_contents(tmp_path):
    path = stored(tmp_path / "m.h5", "csr", "gzip")
    with h5py.File(path, "r+") as file:
        dset = file["X/data"]
        pipeline = pipeline_of(dset)
        chunks = HeldChunks(dset, pipeline.nbytes, pipeline)
        before = chunks.find(1).key()
        assert chunks.find(1).key() == before != chunks.find(2).key()
        dset[32:64] = dset[64:96]
        assert chunks.find(1).key() == chunks.find(2).key() != before


@pytest.mark.parametrize(
    "change",
    [
        lambda A: A.append(PLAIN[:1]),
        lambda A: A.__setitem__(slice(55, 60), 2 * PLAIN[55:60]),
        lambda A: A.__imul__(2),
    ],
    ids=["append", "assign", "scale"],
)
def test_a_chunk_that_is_too_short_is_not_written_to(tmp_path, change):
    """HDF5 would take what is missing from what lies in memory, and store it."""
    path = stored(tmp_path / "m.h5", "csr", "gzip")
    last = (PLAIN.nnz - 1) // 32
    damage(path, "data", last, short)
    before = path.read_bytes()
    with diskcsr.open(path, mode="r+") as A, pytest.raises(CorruptFileError) as caught:
        change(A)
    assert f"chunk {last}: filter 1 (deflate) cannot be undone" in str(caught.value)
    assert path.read_bytes() == before


@pytest.mark.parametrize("kind", ["contiguous", "chunked", "virtual", "unknown filter"])
def test_what_needs_no_decoding_or_has_no_decoder_is_left_to_hdf5(tmp_path, kind):
    path = store(tmp_path / "m.h5", PLAIN, chunk=0 if kind == "contiguous" else 32)
    with h5py.File(path, "r+") as file:
        if kind == "virtual":
            layout = h5py.VirtualLayout((PLAIN.nnz,), "f4")
            file.move("X/data", "elsewhere")
            layout[:] = h5py.VirtualSource(".", "elsewhere", (PLAIN.nnz,), "f4")
            file["X"].create_virtual_dataset("data", layout)
        elif kind == "unknown filter":
            del file["X/data"]
            create(file["X"], "data", PLAIN.data, steps=((511, (1, 2)),))
    with diskcsr.open(path, mode="r+") as A:
        assert A.reader["data"].name == "h5py"
        assert_array_equal(A.toarray(), PLAIN.toarray())


@pytest.mark.parametrize("filters", ["none", "gzip", "scaleoffset"])
@pytest.mark.parametrize("rows", [[3, 4, 9, 50], [59, 0, 30, 29, 1], list(range(0, 60, 2))])
def test_each_chunk_that_an_assignment_touches_is_written_once(
    tmp_path, monkeypatch, filters, rows
):
    path = stored(tmp_path / "m.h5", "csr", filters)
    dense = PLAIN.toarray()
    dense[rows] *= 5
    written = []
    encode = arrays.encode_chunk
    monkeypatch.setattr(arrays, "encode_chunk", lambda *a: written.append(1) or encode(*a))
    with diskcsr.open(path, mode="r+") as A:
        A[rows] = 5 * A[rows]
        assert_array_equal(A.toarray(), dense)
    starts, stops = PLAIN.indptr[rows], PLAIN.indptr[np.add(rows, 1)]
    spans = zip(starts.tolist(), stops.tolist(), strict=True)
    touched = {element // 32 for span in spans for element in range(*span)}
    assert len(written) == (0 if filters == "none" else len(touched))
    with diskcsr.open(path) as A:
        assert_array_equal(A.toarray(), dense)


def test_a_writer_goes_anywhere(tmp_path):
    """Forth and back, within a chunk and to others, also behind the end."""
    rng = np.random.default_rng(5)
    for growing in range(20):
        with h5py.File(tmp_path / "m.h5", "w") as file:
            expected = np.arange(200, dtype="i4")
            dset = create(file, "x", expected, chunk=32, steps=FILTERS["shuffle+gzip"])
            writer = ArrayWriter(dset, int(rng.integers(200)))
            for _ in range(15):
                start = int(rng.integers(expected.size + 1))
                values = rng.integers(0, 1000, rng.choice([0, 1, 5, 40, 100])).astype("i4")
                if not growing % 2:
                    values = values[: expected.size - start]
                behind = max(0, start + values.size - expected.size)
                expected = np.append(expected, np.zeros(behind, "i4"))
                expected[start : start + values.size] = values
                writer.move(start)
                writer.append(values)
            writer.finish()
            assert_array_equal(dset[:], expected)


@pytest.mark.parametrize("compression", ["lzf", "gzip"])
@pytest.mark.parametrize("format", ["csr", "csc"])
def test_a_chunk_that_skipped_its_filter_is_replaced_by_one_as_long(tmp_path, format, compression):
    # HDF5 stores no new filter mask for a chunk whose stored length stays.
    path, length = tmp_path / "m.h5", 16
    plain = csr_array(np.ones((4, 12), np.float32)).asformat(format)
    diskcsr.write(path, plain, compression=compression, shuffle=False, chunks=length).close()
    with h5py.File(path, "r+") as file:
        dset = file["X/data"]
        raw = np.arange(length, dtype=np.float32).tobytes()
        dset.id.write_direct_chunk((length,), raw, 1)
        pipeline = pipeline_of(dset)
        seed = next(n for n in range(10**5) if size(pipeline, n) == len(raw))
    fitting = values(seed)
    with diskcsr.open(path, mode="r+") as A:
        whole = A[:]
        assert_array_equal(whole.data[length : 2 * length], np.arange(length))
        whole.data[length : 2 * length] = fitting
        A[:] = whole
        assert_array_equal(A[:].data, whole.data)
    with h5py.File(path) as file:
        assert_array_equal(file["X/data"][:], whole.data)
        assert file["X/data"].id.get_chunk_info(1).filter_mask == 0
        assert file["X/data"].id.get_chunk_info(1).size == len(raw)


def values(seed):
    """Sixteen numbers of which about some can be compressed."""
    rng = np.random.default_rng(seed)
    return np.where(rng.random(16) < rng.random(), rng.random(16), 1).astype(np.float32)


def size(pipeline, seed):
    return len(arrays.encode_chunk(values(seed), pipeline))
