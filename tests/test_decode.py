"""The decoding reader: what it serves is what h5py reads, and each chunk is decoded once a call."""

import itertools
import subprocess
import sys
import zlib
from collections import Counter
from dataclasses import replace

import h5py
import numpy as np
import pytest
from filtered import (
    FILTERS,
    PLUGINS,
    as_stored,
    chunks_of,
    count_matrix,
    create,
    hdf5plugin,
    overwrite,
    store,
)
from hypothesis import example, given, settings
from hypothesis import strategies as st
from strategies import indptrs, major_indices

import diskcsr
from diskcsr.keys.plan import plan_reads
from diskcsr.storage.codecs import libraries
from diskcsr.storage.codecs.table import CODECS
from diskcsr.storage.read.decode import chunk_pieces

DATA = [
    "?", "i1", "u1", "<i2", ">i2", "<u4", ">u4", "<i8", ">u8", "<f2", ">f2", "<f4", ">f4", "<f8",
    ">f8", "<c8", ">c8", "<c16", ">c16",
]  # fmt: skip
INDICES = ["<i4", ">i4", "<i8", ">i8", "<u4", ">u4", "<u8", ">u8", "<u2", ">i2", "i1", "u1"]
POINTERS = ["<i8", "<i4", ">i8", ">i4", "<u8", ">u4", "<u2"]
CHECKED = [name for name in FILTERS if "gzip" in name or "fletcher32" in name]
#: Decoded chunks kept: none, too few, all.
CACHES = [0, 600, 1 << 20]


def same(found, expected):
    """The same stored entries in the same order, of the same types."""
    assert found.dtype == expected.dtype
    assert found.data.dtype.isnative
    assert found.shape == expected.shape
    assert found.indices.dtype == found.indptr.dtype == np.int32
    assert found.indptr.tolist() == expected.indptr.tolist()
    assert found.indices.tolist() == expected.indices.tolist()
    assert found.data.tobytes() == expected.data.astype(found.dtype).tobytes()


def all_decoded(array, names=("data", "indices", "indptr")):
    return all(array.reader[name].name == "decode" for name in names)


@pytest.fixture
def decoded(monkeypatch):
    """Count how often each chunk is inflated, by its stored bytes."""
    counts = Counter()
    deflate = CODECS[1]

    def counted(data, cd, dest):
        counts[data.tobytes()] += 1
        return deflate.decode(data, cd, dest)

    monkeypatch.setitem(CODECS, 1, replace(deflate, decode=counted))
    return counts


@pytest.fixture(autouse=True)
def empty_cache():
    diskcsr.cache.clear()
    yield
    diskcsr.cache.clear()


# ------------------------------------------------------------------------------------- the law


@pytest.mark.parametrize("filter", FILTERS)
@given(
    data=st.sampled_from(DATA),
    indices=st.sampled_from(INDICES),
    pointers=st.sampled_from(POINTERS),
    chunk=st.integers(1, 90) | st.sampled_from([10_000]),
    cached=st.sampled_from(CACHES),
    threads=st.sampled_from([1, 2, 5]),
    rows=major_indices(60, 80),
    mask=st.none() | st.lists(st.booleans(), min_size=60, max_size=60),
)
@settings(max_examples=15)
def test_rows_are_what_h5py_reads(
    tmp_path_factory, filter, data, indices, pointers, chunk, cached, threads, rows, mask
):
    path = tmp_path_factory.mktemp("decode") / "m.h5"
    dtypes = {"data": data, "indices": indices, "indptr": pointers}
    store(path, count_matrix(), dtypes=dtypes, chunk=chunk, steps=FILTERS[filter])
    whole = as_stored(path)
    some = rows if mask is None else np.flatnonzero(mask)
    diskcsr.cache.clear()
    with diskcsr.options.set(cache_bytes=cached, num_threads=threads), diskcsr.open(path) as A:
        if filter not in ("none", "scaleoffset"):
            assert all_decoded(A)
        for _ in range(2):  # the second time from the cache, where there is one
            same(A[some], whole[some])
        same(A[10:50:3], whole[10:50:3])
        same(A[20:40], whole[20:40])
        same(A.to_memory(), whole)
        assert A[7, 3] == whole[7, 3]
        assert diskcsr.cache.info().nbytes <= cached


@pytest.mark.parametrize("data", DATA)
@pytest.mark.parametrize("filter", ["none", "shuffle+gzip", "scaleoffset", "lzf"])
def test_every_type_of_values(tmp_path, filter, data):
    """Values that use all bits, so that no byte is anywhere but in its place."""
    matrix = count_matrix(200, 50)
    rng = np.random.default_rng(1)
    kind, size = np.dtype(data).kind, np.dtype(data).itemsize
    if kind in "iu":
        info = np.iinfo(data)
        matrix.data = rng.integers(info.min, info.max, matrix.nnz, info.dtype.newbyteorder("="))
        matrix.data[:2] = info.min, info.max
    elif kind == "b":
        matrix.data = rng.random(matrix.nnz) < 0.5
    elif filter != "scaleoffset":
        values = rng.standard_normal(matrix.nnz) * (1 if size == 2 else 1e20)
        values[:4] = np.nan, np.inf, -np.inf, -0.0
        matrix.data = values.astype(np.dtype(data).newbyteorder("="))
        if kind == "c":
            matrix.data.imag = values[::-1]
    store(tmp_path / "m.h5", matrix, dtypes={"data": data}, chunk=100, steps=FILTERS[filter])
    whole = as_stored(tmp_path / "m.h5")
    rows = rng.integers(0, 200, 300)
    with diskcsr.open(tmp_path / "m.h5") as A:
        same(A[rows], whole[rows])
        same(A[3:190], whole[3:190])
        same(A.to_memory(), whole)
        native = np.dtype(data).isnative
        unfiltered = filter == "none" or (filter == "scaleoffset" and kind in "bc")
        direct = unfiltered and native
        if not (filter == "scaleoffset" and size == 2 and kind == "f"):
            assert A.reader["data"].name == ("direct" if direct else "decode")


@pytest.mark.parametrize("data", [">i4", ">f8", ">c16", ">u2"])
@pytest.mark.parametrize("length", [1, 100, (1 << 16) - 1, 1 << 16, (1 << 16) + 1, 200_000])
def test_contiguous_data_in_the_other_byte_order(tmp_path, data, length):
    """Cut into pieces that are decoded alone; the last ends with the dataset."""
    matrix = count_matrix(length // 50 + 1, 100, 0.5)
    per_row = np.diff(np.linspace(0, length, matrix.shape[0] + 1).astype(int))
    rng = np.random.default_rng(2)
    matrix = type(matrix)(
        (
            rng.integers(0, 9000, length),
            rng.integers(0, 100, length),
            np.append(0, np.cumsum(per_row)),
        ),
        shape=matrix.shape,
    )
    dtypes = {"data": data, "indices": ">i4", "indptr": ">i8"}
    store(tmp_path / "m.h5", matrix, dtypes=dtypes, chunk=None)
    whole = as_stored(tmp_path / "m.h5")
    rows = rng.integers(0, matrix.shape[0], 40)
    with diskcsr.open(tmp_path / "m.h5") as A:
        assert all_decoded(A)
        assert "needs conversion" in A.reader["data"].why
        same(A[rows], whole[rows])
        same(A.to_memory(), whole)


@pytest.mark.skipif(hdf5plugin is None, reason="needs hdf5plugin")
@pytest.mark.parametrize("name", PLUGINS)
@given(chunk=st.integers(1, 600), rows=major_indices(60), data=st.sampled_from(DATA[1:]))
@settings(max_examples=10)
def test_what_the_plugins_wrote(tmp_path_factory, name, chunk, rows, data):
    path = tmp_path_factory.mktemp("plugins") / "m.h5"
    store(path, count_matrix(), dtypes={"data": data}, chunk=chunk, keywords=PLUGINS[name])
    whole = as_stored(path)
    with diskcsr.open(path) as A:
        for _ in range(2):
            same(A[rows], whole[rows])
        same(A.to_memory(), whole)


@pytest.mark.parametrize("fill", [None, 7])
@pytest.mark.parametrize("filter", ["none", "gzip", "shuffle+gzip", "scaleoffset", "fletcher32"])
def test_chunks_that_were_never_written_hold_the_fill_value(tmp_path, filter, fill):
    matrix = count_matrix()
    path = store(tmp_path / "m.h5", matrix, chunk=16, steps=FILTERS[filter])
    with h5py.File(path, "r+") as file:
        del file["X/data"]
        data = create(
            file["X"], "data", np.empty(0, "f4"), chunk=16, steps=FILTERS[filter], fill=fill
        )
        data.resize((matrix.nnz,))
        data[40:90] = matrix.data[40:90]
    whole = as_stored(path)
    assert np.all(whole.data[:32] == (fill or 0))
    with diskcsr.open(path) as A:
        assert A.reader["data"].name == "decode"
        if filter == "none":
            assert A.reader["data"].why == "unfiltered, but not written everywhere"
        same(A[[5, 3, 50, 3]], whole[[5, 3, 50, 3]])
        same(A.to_memory(), whole)


@pytest.mark.parametrize("order", "<>")
def test_complex_numbers_that_hdf5_knows_as_a_pair(tmp_path, order):
    """As MATLAB writes them; the last chunks were never written."""
    matrix = count_matrix()
    path = store(tmp_path / "m.h5", matrix, chunk=16, steps=FILTERS["gzip"])
    values = np.zeros(matrix.nnz, [("real", f"{order}f8"), ("imag", f"{order}f8")])
    values["real"], values["imag"] = matrix.data, matrix.data[::-1]
    values[200:] = 0
    with h5py.File(path, "r+") as file:
        del file["X/data"]
        keywords = {"chunks": (16,), "compression": "gzip", "maxshape": (None,)}
        data = file["X"].create_dataset("data", (matrix.nnz,), values.dtype, **keywords)
        data[:200] = values[:200]
    matrix = matrix.astype(complex)
    matrix.data = values["real"] + 1j * values["imag"]
    with diskcsr.open(path) as A:
        assert A.reader["data"].name == "decode"
        same(A.to_memory(), matrix)
        same(A[[50, 2]], matrix[[50, 2]])


# -------------------------------------------------------------------------------- once a call


@pytest.mark.parametrize("cached", CACHES)
@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize(
    "rows",
    [
        pytest.param(range(60), id="all"),
        pytest.param(list(range(60))[::-1], id="backwards"),
        pytest.param([30] * 50, id="one"),
        pytest.param([0, 59, 1, 58, 0, 59, 1, 58] * 5, id="ends"),
        pytest.param(np.random.default_rng(0).integers(0, 60, 500), id="random"),
    ],
)
def test_each_touched_chunk_is_decoded_once_a_call(tmp_path, decoded, cached, threads, rows):
    matrix = count_matrix(60, 400, 0.5)
    matrix.data = np.arange(matrix.nnz, dtype=np.float32)  # no two chunks alike
    path = store(tmp_path / "m.h5", matrix, chunk=64, steps=FILTERS["shuffle+gzip"])
    spans = [np.arange(*matrix.indptr[row : row + 2]) // 64 for row in rows]
    touched = set(np.concatenate(spans).tolist())
    stored = {first // 64: size for first, _, _, size in chunks_of(path, "X/data")}
    with h5py.File(path) as file:
        raw = {i: file["X/data"].id.read_direct_chunk((i * 64,))[1] for i in touched}
    with diskcsr.open(path) as A, diskcsr.options.set(cache_bytes=cached, num_threads=threads):
        A[:1], A[[0]]  # the row pointers are known now
        diskcsr.cache.clear()
        decoded.clear()
        before = A.reader["data"].bytes_read
        same(A[rows], matrix[rows])
        assert {raw[i]: decoded[raw[i]] for i in touched} == dict.fromkeys(raw.values(), 1)
        assert A.reader["data"].bytes_read - before == sum(stored[i] for i in touched)
        # Of both arrays, and nothing else.
        assert len(decoded) <= 2 * len(touched)
        assert max(decoded.values()) <= 1 or len(set(raw.values())) < len(touched)


def test_a_cached_chunk_is_not_decoded_again(tmp_path, decoded):
    path = store(tmp_path / "m.h5", count_matrix(), chunk=64, steps=FILTERS["gzip"])
    with diskcsr.open(path) as A:
        A[[3, 50, 20]], A[[3, 50, 20]]
        decoded.clear()
        same(A[[20, 3, 3, 50]], as_stored(path)[[20, 3, 3, 50]])
        assert not decoded


@given(indptr=indptrs(), rows=st.data(), length=st.integers(1, 12))
@example(indptr=np.array([0, 30]), rows=None, length=4)
def test_pieces_by_chunk(indptr, rows, length):
    """Every wanted element in exactly one piece, every touched chunk once, in ascending order."""
    rows = [0, 0, 0] if rows is None else rows.draw(major_indices(indptr.size - 1))
    plan = plan_reads(indptr[rows], indptr[np.add(rows, 1, dtype=int)], max_gap=3, max_segment=5)
    if plan.size == 0:
        return
    pieces = chunk_pieces(plan, length)
    assert np.all(np.diff(pieces.chunks) > 0)
    assert pieces.ptr[0] == 0
    assert pieces.ptr[-1] == pieces.lo.size
    assert np.all(np.diff(pieces.ptr) > 0)
    assert np.all((pieces.lo >= 0) & (pieces.lo < pieces.hi) & (pieces.hi <= length))
    found = np.full(plan.size, -1)
    for chunk, (a, b) in zip(pieces.chunks, itertools.pairwise(pieces.ptr), strict=True):
        for lo, hi, at in zip(pieces.lo[a:b], pieces.hi[a:b], pieces.at[a:b], strict=True):
            assert np.all(found[at : at + hi - lo] == -1)
            found[at : at + hi - lo] = np.arange(chunk * length + lo, chunk * length + hi)
    wanted = [np.arange(indptr[row], indptr[row + 1]) for row in rows]
    assert found.tolist() == np.concatenate(wanted).tolist()


# ------------------------------------------------------------------------- what cannot be trusted


@pytest.mark.parametrize(("threads", "cached"), [(1, 1 << 20), (2, 0), (5, 600)])
@pytest.mark.parametrize("index", INDICES)
@pytest.mark.parametrize("bad", [40, -1])
def test_an_index_out_of_range_is_refused(tmp_path, index, bad, threads, cached):
    if bad < 0 and np.dtype(index).kind == "u":
        bad = np.iinfo(index).max
    matrix = count_matrix()
    wrong = matrix.indices.astype(np.dtype(index).newbyteorder("="))
    wrong[matrix.indptr[30]] = bad
    path = store(tmp_path / "m.h5", matrix, chunk=30, steps=FILTERS["gzip"])
    with h5py.File(path, "r+") as file:
        del file["X/indices"]
        create(file["X"], "indices", wrong, index, chunk=30, steps=FILTERS["gzip"])
    with diskcsr.open(path) as A, diskcsr.options.set(cache_bytes=cached, num_threads=threads):
        assert A.reader["indices"].name == "decode"
        same(A[[3, 59]], matrix[[3, 59]])
        for read in (
            lambda: A[[30]],
            lambda: A[[59, 30, 3]],
            lambda: A[:],
            lambda: A.fetch(np.arange(60)),
            lambda: A.to_memory(),
            lambda: A[30, 2],
        ):
            with pytest.raises(diskcsr.CorruptFileError, match=rf"index {bad} is out of range"):
                read()
        same(A[[3, 59]], matrix[[3, 59]])


def test_an_index_is_not_wrapped_to_one_in_range(tmp_path):
    path = store(
        tmp_path / "m.h5",
        count_matrix(),
        dtypes={"indices": "u8"},
        chunk=30,
        steps=FILTERS["gzip"],
    )
    with h5py.File(path, "r+") as file:
        file["X/indices"][3] = 2**32 + 5
    with diskcsr.open(path) as A:
        with pytest.raises(diskcsr.CorruptFileError, match="index 4294967301 is out of range"):
            A[:]
        with pytest.raises(diskcsr.CorruptFileError, match="index 4294967301 is out of range"):
            A.indices  # noqa: B018


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("filter", CHECKED)
def test_changed_bytes_are_refused(tmp_path, filter, threads):
    """Every filter here has a checksum."""
    matrix = count_matrix()
    path = store(tmp_path / "m.h5", matrix, chunk=30, steps=FILTERS[filter])
    first, _, address, nbytes = chunks_of(path, "X/data")[4]
    overwrite(path, address + nbytes // 2, bytes(8))
    row = int(np.searchsorted(matrix.indptr, first, side="right"))
    expected = rf"m\.h5, group '/X', dataset 'data', chunk {first // 30}: filter \d+"
    with diskcsr.open(path) as A, diskcsr.options.set(num_threads=threads):
        for read in (lambda: A[[row, 2]], lambda: A[:], lambda: A.to_memory(), lambda: A.data):
            with pytest.raises(diskcsr.CorruptFileError, match=expected):
                read()
        with pytest.raises(diskcsr.CorruptFileError):
            next(iter(A.batches(60)))
        # The other array, and the other chunks, are still served.
        assert A.indices.tolist() == matrix.indices.tolist()
        same(A[[2, 1]], matrix[[2, 1]])


def test_a_file_cut_short_while_open_is_refused(tmp_path):
    path = store(tmp_path / "m.h5", count_matrix(), chunk=30, steps=FILTERS["gzip"])
    with diskcsr.open(path) as A:
        A[[3]]
        with path.open("r+b") as file:
            file.truncate(path.stat().st_size // 2)
        with pytest.raises(diskcsr.StaleFileError, match="was changed after it was opened"):
            A[[3, 40]]


@given(st.data())
@settings(max_examples=80)
def test_no_change_of_stored_bytes_does_harm(tmp_path_factory, data):
    """Refused, or served with types and indices as they must be; never a crash."""
    filter = data.draw(st.sampled_from(list(FILTERS)))
    matrix = count_matrix()
    path = tmp_path_factory.mktemp("bytes") / "m.h5"
    store(path, matrix, chunk=50, steps=FILTERS[filter])
    name = data.draw(st.sampled_from(["data", "indices", "indptr"]))
    _, _, address, nbytes = data.draw(st.sampled_from(chunks_of(path, f"X/{name}")))
    place = data.draw(st.integers(0, nbytes - 1))
    overwrite(path, address + place, data.draw(st.binary(min_size=1, max_size=6)))
    with diskcsr.open(path) as A:
        try:
            found = A[[50, 3, 20, 59, 3]]
        except diskcsr.CorruptFileError:
            return
        assert found.shape == (5, 40)
        assert found.indptr[0] == 0
        assert np.all(np.diff(found.indptr) >= 0)
        assert np.all((found.indices >= 0) & (found.indices < 40))


# ----------------------------------------------------------------------------- who serves it, why


@pytest.mark.parametrize(
    ("filter", "name", "why"),
    [
        ("none", "direct", "unfiltered, in the machine's own layout"),
        ("gzip", "decode", "filtered by deflate"),
        ("shuffle+lzf+fletcher32", "decode", "filtered by shuffle, lzf, fletcher32"),
    ],
)
def test_the_reader_says_why(tmp_path, filter, name, why):
    path = store(tmp_path / "m.h5", count_matrix(), steps=FILTERS[filter])
    with diskcsr.open(path) as A:
        for part in ("data", "indices", "indptr"):
            assert (A.reader[part].name, A.reader[part].why) == (name, why)
        assert f"data    {name}" in repr(A.reader)


def unknown_filter(path, matrix):
    """Data behind a filter that nobody has; it is optional, and left out for every chunk."""
    store(path, matrix, chunk=50)
    with h5py.File(path, "r+") as file:
        del file["X/data"]
        create(file["X"], "data", matrix.data, chunk=50, steps=((511, (1, 2)),))


def test_an_unknown_filter_is_left_to_h5py(tmp_path):
    matrix = count_matrix()
    unknown_filter(tmp_path / "m.h5", matrix)
    with diskcsr.open(tmp_path / "m.h5") as A:
        assert A.reader["data"].name == "h5py"
        assert A.reader["data"].why.startswith("filter 511 (")
        assert A.reader["data"].why.endswith("has no decoder here")
        assert A.reader["indices"].name == "direct"
        same(A[[5, 1, 5]], matrix[[5, 1, 5]])


@pytest.fixture
def no_extras(monkeypatch):
    """As if none of the packages of the extras were installed."""

    def standard(*names):
        return zlib if "zlib" in names else None

    monkeypatch.setattr(libraries, "find", standard)


def test_without_extras_gzip_is_still_decoded_here(tmp_path, no_extras):
    path = store(tmp_path / "m.h5", count_matrix(), steps=FILTERS["shuffle+gzip"])
    whole = as_stored(path)
    with diskcsr.open(path) as A, diskcsr.options.set(num_threads=2):
        assert all_decoded(A)
        same(A[[5, 1, 5]], whole[[5, 1, 5]])
        same(A.to_memory(), whole)


@pytest.mark.parametrize("compression", ["zstd", "lz4", "blosc"])
def test_without_extras_the_reason_names_the_one_that_helps(tmp_path, monkeypatch, compression):
    pytest.importorskip("numcodecs")
    matrix = count_matrix()
    diskcsr.write(tmp_path / "m.h5", matrix, compression=compression).close()
    with diskcsr.open(tmp_path / "m.h5") as A:
        assert all_decoded(A)
        same(A[[5, 1, 5]], matrix[[5, 1, 5]])
    monkeypatch.setattr(libraries, "find", lambda *names: None)
    with diskcsr.open(tmp_path / "m.h5") as A:
        for name in ("data", "indices", "indptr"):
            assert A.reader[name].name == "h5py"
            assert A.reader[name].why == f"{compression} needs the 'codecs' extra"
        if hdf5plugin is None:
            with pytest.raises(diskcsr.FormatError, match="which HDF5 does not have here; import"):
                A[[5]]
        else:
            same(A[[5, 1, 5]], matrix[[5, 1, 5]])


def test_a_dataset_in_another_file_is_found_by_hdf5(tmp_path):
    """An external link leads to it; at its address in this file lie other bytes."""
    matrix = count_matrix()
    other = store(tmp_path / "other.h5", matrix, chunk=30, steps=FILTERS["gzip"])
    path = store(tmp_path / "m.h5", matrix * 2, chunk=30)
    with h5py.File(path, "r+") as file:
        for name in ("data", "indices"):
            del file["X"][name]
            file["X"][name] = h5py.ExternalLink(other.name, f"/X/{name}")
    with diskcsr.open(path) as A:
        assert A.reader["data"].name == "decode"
        why = "filtered by deflate, and read by HDF5: a link leads to it, in another file"
        assert A.reader["data"].why == why
        assert A.reader["indptr"].name == "direct"
        same(A[[5, 1, 5]], matrix[[5, 1, 5]])


def test_a_group_in_another_file_is_read_there(tmp_path):
    matrix = count_matrix()
    other = store(tmp_path / "other.h5", matrix, chunk=30, steps=FILTERS["gzip"])
    with h5py.File(tmp_path / "m.h5", "w") as file:
        file["X"] = h5py.ExternalLink(other.name, "/X")
    with diskcsr.open(tmp_path / "m.h5", "X") as A:
        assert all_decoded(A)
        same(A[[5, 1, 5]], matrix[[5, 1, 5]])


def test_slices_and_elements_need_no_compiler(tmp_path):
    """Of gzip alone: nothing of it is a kernel."""
    path = store(tmp_path / "m.h5", count_matrix(), chunk=200, steps=FILTERS["gzip"])
    code = (
        "import sys, diskcsr; A = diskcsr.open(sys.argv[1]); A[3:9], A[5, 3], A.reader;"
        "assert 'numba' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code, str(path)], check=True, timeout=60)
