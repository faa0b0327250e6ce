"""A list of files is one array: below each other or side by side, nothing is copied."""

import gc
import json
import os
import pickle
import resource
import shutil
import subprocess
import sys
import tracemalloc

import h5py
import numpy as np
import pytest
from filtered import count_matrix
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from parts import write_parts
from scipy.sparse import csc_array, csr_array, csr_matrix, sparray
from strategies import keys, matrices
from test_selection import check_key
from test_virtual import READS

import diskcsr
from diskcsr import ClosedFileError, CorruptFileError, FormatError, StaleFileError

PLAIN = count_matrix().tocsr()
EDGES = [11, 11, 40]  # the second part is empty
both_formats = pytest.mark.parametrize("format", ["csr", "csc"])
LAYOUTS = {"raw": ["raw"], "gzip": ["gzip"], "mixed": ["raw", "gzip"]}


@pytest.fixture
def paths(tmp_path):
    return write_parts(tmp_path, PLAIN, EDGES)


def fds():
    return len(os.listdir("/proc/self/fd"))


def sevens(path):
    """Have another program write other values; this one may have the file open."""
    copy = path.with_suffix(".copy")
    shutil.copy(path, copy)
    with h5py.File(copy, "r+") as file:
        file["X/data"][:] = 7
    path.write_bytes(copy.read_bytes())


def equal(got, expected):
    """Be sure that two results are the same: type, shape, dtype and values."""
    assert type(got) is type(expected)
    if hasattr(expected, "toarray"):
        assert got.format == expected.format
        got, expected = got.toarray(), expected.toarray()
    assert got.dtype == expected.dtype
    assert_array_equal(got, expected)


# -------------------------------------------------------------------------------- it is one array


@pytest.mark.parametrize("read", READS.values(), ids=READS)
@pytest.mark.parametrize("layouts", LAYOUTS.values(), ids=LAYOUTS)
@both_formats
def test_it_is_read_as_the_matrix_that_it_is(tmp_path, format, layouts, read):
    plain = PLAIN.asformat(format)
    with diskcsr.open(write_parts(tmp_path, plain, EDGES, layouts)) as A:
        assert A.shape == plain.shape
        assert A.nnz == plain.nnz
        equal(read(A), read(plain))
        assert A.reader.bytes_read > 0


@given(data=st.data(), layouts=st.sampled_from(list(LAYOUTS.values())), spmatrix=st.booleans())
@settings(max_examples=150)
def test_any_key_of_any_matrix(tmp_path_factory, data, layouts, spmatrix):
    plain = data.draw(matrices(spmatrix=spmatrix))
    n_major = plain.indptr.size - 1
    edges = sorted(data.draw(st.lists(st.integers(0, n_major), max_size=4)))
    folder = tmp_path_factory.getbasetemp() / "drawn"
    folder.mkdir(exist_ok=True)
    files = write_parts(folder, plain, edges, layouts)
    with diskcsr.open(files, spmatrix=not isinstance(plain, sparray)) as disk:
        for key in data.draw(st.lists(keys(plain.shape), min_size=1, max_size=4)):
            check_key(disk, plain, key)


WORK = {
    "sums": lambda A: A.sum(1),
    "counts": lambda A: A.count_nonzero(axis=0),
    "extremes": lambda A: A.max(0).toarray(),
    "product": lambda A: A @ np.ones((A.shape[1], 3)),
    "of the transpose": lambda A: A.T @ np.ones(A.shape[0]),
    "sum": lambda A: A + A,
    "scaled": lambda A: 2 * A,
    "dense": lambda A: A.toarray(),
    "copy": lambda A: A.copy(),
    "nonzero": lambda A: A.nonzero()[1],
    "in order": lambda A: np.array([A.has_sorted_indices, A.has_canonical_format]),
    "rows": lambda A: np.concatenate([row.toarray() for row in A]),
    "row pointers": lambda A: np.array(A.indptr),
}


@pytest.mark.parametrize("work", WORK.values(), ids=WORK)
@both_formats
def test_what_computes_with_it(tmp_path, format, work):
    plain = PLAIN.asformat(format)
    with diskcsr.open(write_parts(tmp_path, plain, EDGES)) as A:
        equal(work(A), work(plain))


@both_formats
def test_lines_are_fetched_walked_and_batched(tmp_path, format):
    plain = PLAIN.asformat(format)
    with diskcsr.open(write_parts(tmp_path, plain, EDGES)) as A:
        axis = 0 if format == "csr" else 1
        lines = [-1, 0, 39, 38, 39, 11]
        some = plain[lines] if axis == 0 else plain[:, lines]
        equal(A.fetch(lines), some)
        equal(A.fetch(lines, out=diskcsr.Buffers()), some)
        dense = np.concatenate([block.toarray() for _, block in A.iter_blocks(2000)], axis)
        assert_array_equal(dense, plain.toarray())
        batches = A.batches(7, shuffle=True, rng=0, return_rows=True)
        seen = []
        for rows, batch in pickle.loads(pickle.dumps(batches)):
            equal(batch, plain[rows] if axis == 0 else plain[:, rows])
            seen += rows.tolist()
        assert sorted(seen) == list(range(plain.shape[axis]))


def test_it_is_lazy_written_converted_and_joined_again(paths, tmp_path):
    with diskcsr.open(paths) as A:
        lazy = np.log1p(A.lazy[5:50][:, [3, 1]] / 2)
        assert lazy.dtype == np.float32
        assert_allclose(lazy.toarray(), np.log1p(PLAIN.toarray()[5:50][:, [3, 1]] / 2), 1e-6)
        for stored in (
            diskcsr.write(tmp_path / "a.h5", A),
            diskcsr.convert(A, tmp_path / "b.h5", format="csc"),
            A.save(tmp_path / "c.h5", compression="gzip"),
            diskcsr.concat([A, A], tmp_path / "d.h5")[: PLAIN.shape[0]],
        ):
            assert_array_equal(stored.toarray(), PLAIN.toarray())
        with diskcsr.File(tmp_path / "e.h5", "w") as file:
            file["X"] = A
            assert_array_equal(file["X"].toarray(), PLAIN.toarray())
        with pytest.raises(ValueError, match=r"part0\.h5 is open for reading"):
            diskcsr.write(paths[0], A)


def test_joined_virtually_it_refers_to_its_files(paths, tmp_path):
    with diskcsr.open(paths) as A, h5py.File(paths[0]) as first:
        more = diskcsr.concat([A, paths[0]], tmp_path / "all.h5", virtual=True)
        assert more.reader["data"].name == "virtual"
        rows = first["X/indptr"].size - 1
    dense = PLAIN.toarray()
    assert_array_equal(more.toarray(), np.concatenate([dense, dense[:rows]]))


def test_files_and_groups(tmp_path, paths):
    with h5py.File(tmp_path / "more.h5", "w") as file, h5py.File(paths[0]) as first:
        first.copy("X", file, "layers/counts")
        first.copy("X", file, "other")
    twice = [
        (tmp_path / "more.h5", "layers/counts"),
        paths[0],
        (str(tmp_path / "more.h5"), "other"),
    ]
    expected = np.tile(PLAIN[:11].toarray(), (3, 1))
    with diskcsr.open(twice) as A:
        assert_array_equal(A.toarray(), expected)
        assert A.files == [
            (str(tmp_path / "more.h5"), "/layers/counts"),
            (str(paths[0]), "/X"),
            (str(tmp_path / "more.h5"), "/other"),
        ]
        assert A.filename == str(tmp_path / "more.h5")
    with diskcsr.open((paths[0], paths[2]), "X") as A:
        assert A.shape == (40, PLAIN.shape[1])
    with diskcsr.open([paths[0]]) as A:
        equal(A[:], PLAIN[:11])


def test_what_it_shows(paths):
    with diskcsr.open(paths) as A:
        assert repr(A) == f"{repr(PLAIN).removesuffix('>')} in 4 files>".replace(
            "Compressed", "Compressed"
        )
        assert str(A).startswith(repr(A))
        html = A._repr_html_()
        assert "4: " in html
        assert "part0.h5" in html
        assert A.reader["data"].why == "4 parts, each read by itself: direct, h5py, decode"
        assert A.reader["indptr"].why == "computed from those of 4 files"
        assert A.reader.stored_bytes > 0
        with pytest.raises(ValueError, match="a matrix of 4 files has no group of its own"):
            A.group  # noqa: B018


def test_info_of_several_files(paths):
    found = diskcsr.info([*paths[:2], (paths[2], "X")])
    assert found["file"] == list(map(str, paths[:3]))
    assert found["bytes"] == sum(path.stat().st_size for path in paths[:3])
    assert [one["shape"][0] for one in found["matrices"]] == [11, 0, 29]
    assert [one["file"] for one in found["matrices"]] == found["file"]
    assert found["instead"] is None


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_any_number_of_threads(paths, threads):
    rows = np.random.default_rng(threads).integers(0, PLAIN.shape[0], 300)
    with diskcsr.options.set(num_threads=threads), diskcsr.open(paths) as A:
        equal(A[rows], PLAIN[rows])


def test_changes_in_memory(paths):
    with diskcsr.open(paths, mode="c") as A:
        A.data[:] = 3
        assert A.sum() == 3 * PLAIN.nnz
        A.release()
        assert A.sum() == PLAIN.sum()


# ---------------------------------------------------------------------------------- dtypes differ


@pytest.mark.parametrize(
    ("dtypes", "result"),
    [
        ("ff", "f"), ("fd", "d"), ("if", "d"), ("?b", "b"), ("??", "?"), ("Bh", "h"), ("ef", "f"),
        ("ee", "f"), ("fF", "F"), ("lL", "d"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("layout", ["raw", "gzip"])
def test_values_are_promoted(tmp_path, dtypes, result, layout):
    files, dense = [], []
    for number, code in enumerate(dtypes):
        whole = PLAIN[:50].astype("f" if code == "e" else code)
        (path,) = write_parts(tmp_path, whole, [], [layout])
        files.append(path.rename(tmp_path / f"{number}.h5"))
        if code == "e":
            with h5py.File(files[-1], "r+") as file:
                half = file["X/data"][:].astype("f2")
                del file["X/data"]
                file["X/data"] = half
        dense.append(whole.toarray())
    expected = np.concatenate(dense).astype(result)
    with diskcsr.open(files) as A:
        assert A.dtype == np.dtype(result)
        equal(A.toarray(), expected)
        equal(A[[70, 3]].toarray(), expected[[70, 3]])
        equal(A.sum(0), csr_array(expected).sum(0))


@pytest.mark.parametrize("codes", ["il", "iI", "iL", "LL"])
def test_indices_of_different_types(tmp_path, codes):
    files = []
    for number, code in enumerate(codes):
        (path,) = write_parts(tmp_path, PLAIN, [], ["gzip"])
        files.append(path.rename(tmp_path / f"{number}.h5"))
        with h5py.File(files[-1], "r+") as file:
            indices = file["X/indices"][:].astype(code)
            del file["X/indices"]
            file["X/indices"] = indices
    dense = np.tile(PLAIN.toarray(), (2, 1))
    with diskcsr.open(files) as A:
        assert_array_equal(A.toarray(), dense)
        assert_array_equal(A[[-1, 0]].toarray(), dense[[-1, 0]])
        assert A.indices.dtype.kind == "i"
    with h5py.File(files[1], "r+") as file:
        file["X/indices"][5] = PLAIN.shape[1]
    with diskcsr.open(files) as A, pytest.raises(CorruptFileError, match=r"1\.h5.*out of range"):
        A.toarray()


def test_one_value_that_stands_for_all(tmp_path):
    # Of such a part the reader fills what it is asked for; the others' places are not its own.
    plain = PLAIN[:20]
    ones = csr_array((np.ones(plain.nnz), plain.indices, plain.indptr), shape=plain.shape)
    (path,) = write_parts(tmp_path, plain.astype("d"), [], ["raw"])
    path = path.rename(tmp_path / "plain.h5")
    about = {
        "version": "0.1",
        "format": "CSR",
        "shape": plain.shape,
        "number_of_stored_values": plain.nnz,
        "data_types": {"values": "iso[float64]", "indices_1": "int32", "pointers_to_1": "int32"},
    }
    with h5py.File(tmp_path / "iso.h5", "w") as file:
        group = file.create_group("X")
        group.attrs["binsparse"] = json.dumps({"binsparse": about})
        group["values"], group["indices_1"] = np.ones(1), plain.indices
        group["pointers_to_1"] = plain.indptr
    with diskcsr.open([path, tmp_path / "iso.h5", path]) as A:
        dense = np.concatenate([plain.toarray(), ones.toarray(), plain.toarray()])
        assert_array_equal(A.toarray(), dense)
        assert_array_equal(A[[45, 25, 3]].toarray(), dense[[45, 25, 3]])


def test_parts_that_only_hdf5_reads(tmp_path):
    (path,) = write_parts(tmp_path, PLAIN, [], ["raw"])
    path = path.rename(tmp_path / "plain.h5")
    shutil.copy(path, tmp_path / "compact.h5")
    with h5py.File(tmp_path / "compact.h5", "r+") as file:
        for name in ("data", "indices"):
            values = file["X"][name][:]
            del file["X"][name]
            layout = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
            layout.set_layout(h5py.h5d.COMPACT)
            space = h5py.h5s.create_simple(values.shape)
            kind = h5py.h5t.py_create(values.dtype)
            h5py.h5d.create(file["X"].id, name.encode(), kind, space, layout).write(
                h5py.h5s.ALL, h5py.h5s.ALL, values
            )
    with diskcsr.open([path, tmp_path / "compact.h5"]) as A:
        dense = np.tile(PLAIN.toarray(), (2, 1))
        assert_array_equal(A.toarray(), dense)
        assert_array_equal(A[[3, -3, 5]].toarray(), dense[[3, -3, 5]])
        assert "direct, h5py" in A.reader["data"].why


# ------------------------------------------------------------------------------- what is refused


def test_what_does_not_fit_is_named(tmp_path, paths):
    narrow, columns = tmp_path / "narrow.h5", tmp_path / "columns.h5"
    diskcsr.write(narrow, PLAIN[:, :5]).close()
    diskcsr.write(columns, PLAIN.tocsc()).close()
    width = PLAIN.shape[1]
    with pytest.raises(FormatError, match=rf"narrow\.h5.* has 5 columns, .*part0.* has {width}"):
        diskcsr.open([*paths, narrow])
    with pytest.raises(FormatError, match=r"columns\.h5.* holds a csc matrix, .*part0.* a csr one"):
        diskcsr.open([*paths, columns])
    with pytest.raises(FileNotFoundError, match=r"absent\.h5"):
        diskcsr.open([*paths, tmp_path / "absent.h5"])
    with pytest.raises(KeyError, match=r"part0\.h5: no object 'Y'"):
        diskcsr.open(paths, "Y")
    with pytest.raises(ValueError, match="nothing to open"):
        diskcsr.open([])
    with pytest.raises(TypeError, match="given by their paths"):
        diskcsr.open([PLAIN])
    with pytest.raises(ValueError, match="'r\\+' changes one file"):
        diskcsr.open(paths, mode="r+")
    with pytest.raises(ValueError, match="shape= is said of one file"):
        diskcsr.open(paths, shape=(3, 4))
    with diskcsr.open(paths) as A, pytest.raises(diskcsr.ReadOnlyError):
        A[0, 0] = 1


def test_a_row_pointer_that_reaches_into_another_part(tmp_path, paths):
    with h5py.File(paths[3], "r+") as file:
        file["X/indptr"][0] = 2
    with diskcsr.open(paths) as A:
        with pytest.raises(CorruptFileError, match=r"part3\.h5.*must begin with 0"):
            A.toarray()
        assert_array_equal(A[:11].toarray(), PLAIN[:11].toarray())
        for _ in range(30):  # the sound ones are read all the same
            assert_array_equal(A[[12]].toarray(), PLAIN[[12]].toarray())


def test_untrusted_files(paths):
    with diskcsr.open(paths[:2], untrusted=True) as A:
        equal(A[:], PLAIN[:11])
        assert_array_equal(pickle.loads(pickle.dumps(A)).toarray(), PLAIN[:11].toarray())


# ------------------------------------------------------------------------- open, closed, pickled


def test_it_is_closed(paths):
    before = fds()
    A = diskcsr.open(paths)
    A[[0, -1]]
    assert not A.closed
    A.close()
    assert A.closed
    with pytest.raises(ClosedFileError, match="the files are closed"):
        A[0]
    del A
    gc.collect()
    assert fds() == before
    A = diskcsr.open(paths)
    A.sum()
    del A  # without a collection: nothing goes round in a circle
    assert fds() == before


def test_files_that_do_not_fit_are_closed(tmp_path, paths):
    diskcsr.write(tmp_path / "narrow.h5", PLAIN[:, :5]).close()
    before = fds()
    with pytest.raises(FormatError):
        diskcsr.open([*paths, tmp_path / "narrow.h5"])
    gc.collect()
    assert fds() == before


def test_pickles_are_addresses(paths):
    with diskcsr.open(paths) as A:
        sent = pickle.dumps(A)
        assert len(sent) < 4000
        B, T = pickle.loads(sent), pickle.loads(pickle.dumps(A.T))
        assert not B._source.files.opened()  # none is opened before it is read
        equal(B[[0, -1]], PLAIN[[0, -1]])
        assert B.files == A.files
        assert type(T) is type(A.T)
        equal(T[:], PLAIN.T)
        lazy = pickle.loads(pickle.dumps(2 * A.lazy[3:9]))
        assert_array_equal(lazy.toarray(), 2 * PLAIN[3:9].toarray())
        A.data[0] = 7
        changed = pickle.loads(pickle.dumps(A))
        assert type(changed) is csr_array
        assert changed.data[0] == 7


def test_a_pickle_of_parts_that_changed(paths):
    with diskcsr.open(paths) as A:
        sent = pickle.dumps(A)
    sevens(paths[3])
    B = pickle.loads(sent)
    assert (B[41:].data == 7).all()
    diskcsr.write(paths[2], PLAIN[:3], overwrite=True).close()
    with pytest.raises(StaleFileError, match=r"part2\.h5.* was a csr matrix of shape"):
        pickle.loads(sent)
    paths[2].unlink()
    with pytest.raises(FileNotFoundError, match=r"part2\.h5"):
        pickle.loads(sent)


def test_another_process_reads_it(paths):
    program = (
        "import pickle, sys; A = pickle.load(sys.stdin.buffer); print(A.shape, float(A.sum()))"
    )
    with diskcsr.open(paths) as A:
        command = [sys.executable, "-c", program]
        done = subprocess.run(command, input=pickle.dumps(A), capture_output=True, check=True)
    assert done.stdout.decode().strip() == f"{PLAIN.shape} {float(PLAIN.sum())}"


# ------------------------------------------------------------------------------ files that change


def test_a_part_that_is_changed_is_named(paths):
    with diskcsr.open(paths) as A:
        equal(A[[0, 12, -1]], PLAIN[[0, 12, -1]])
        sevens(paths[2])
        with pytest.raises(StaleFileError, match=r"part2\.h5 was changed"):
            A[[0, 12]]
        for work in (lambda: A.sum(0), lambda: A @ np.ones(A.shape[1]), lambda: A[:]):
            with pytest.raises(StaleFileError, match=r"part2\.h5 was changed"):
                work()
        equal(A[[0, -1]], PLAIN[[0, -1]])  # of parts as they were
        A.refresh()
        assert (A[12:40].data == 7).all()
        equal(A[[0, -1]], PLAIN[[0, -1]])


def test_a_part_that_grows(paths):
    with diskcsr.open(paths[:2]) as A:
        T, indptr = A.T, A.indptr
        with diskcsr.open(paths[0], mode="r+") as first:
            first.append(PLAIN[20:22])
        assert A.shape == (11, PLAIN.shape[1])
        A.refresh()
        assert A.shape == T.shape[::-1] == (13, PLAIN.shape[1])
        assert A.indptr is not indptr
        assert_array_equal(A[11:].toarray(), PLAIN[20:22].toarray())


def test_a_refresh_that_comes_to_nothing_can_be_tried_again(paths, tmp_path):
    with diskcsr.open(paths) as A:
        paths[2].rename(tmp_path / "away.h5")
        with pytest.raises(StaleFileError, match=r"part2\.h5"):
            A.refresh()
        with pytest.raises(StaleFileError, match="try it again"):
            A[0]
        (tmp_path / "away.h5").rename(paths[2])
        A.refresh()
        equal(A[:], PLAIN)
        diskcsr.write(paths[2], PLAIN[:5, :5], overwrite=True).close()
        with pytest.raises(StaleFileError, match=r"part2\.h5.* has 5 columns"):
            A.refresh()


# ------------------------------------------------------------------------------- how many are open


@pytest.fixture
def few_files():
    """Let a process have few files open."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)

    def limit(count):
        resource.setrlimit(resource.RLIMIT_NOFILE, (count, limits[1]))

    yield limit
    resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def test_no_more_files_are_open_than_may_be(tmp_path, few_files):
    edges = np.linspace(0, PLAIN.shape[0], 41)[1:-1].astype(int)
    paths = write_parts(tmp_path, PLAIN, edges)
    few_files(128)  # so 16 parts at a time, and those that a thread read last
    most = 2 * (16 + diskcsr.options.num_threads)
    before = fds()
    with diskcsr.open(paths) as A:
        equal(A[:], PLAIN)
        equal(A[::-1], PLAIN[::-1])
        assert fds() - before <= most
        equal(A.sum(0), PLAIN.sum(0))
        equal(A.fetch([3, 50, 7]), PLAIN[[3, 50, 7]])
        assert 0 < len(A._source.files.opened()) <= 16
        assert fds() - before <= most
    assert fds() == before


def test_a_part_that_changed_while_it_was_closed_is_named(tmp_path, few_files):
    edges = np.linspace(0, PLAIN.shape[0], 21)[1:-1].astype(int)
    paths = write_parts(tmp_path, PLAIN, edges)
    few_files(64)
    with diskcsr.open(paths) as A:
        A[-1]
        sevens(paths[1])
        row = int(edges[0])
        with pytest.raises(StaleFileError, match=r"part1\.h5.*one of several files, was changed"):
            A[row]
        A.refresh()
        assert (A[[row]].data == 7).all()


# ----------------------------------------------------------------------------------------- memory


@pytest.mark.parametrize("dtypes", ["ff", "fd"])
def test_no_more_memory_than_the_result(tmp_path, dtypes):
    """Of parts of another type there is a second copy of what is read of one of them at a time."""
    rng = np.random.default_rng(0)
    files = []
    for number, code in enumerate(dtypes * 4):
        n, row = 2000, 100
        indices = np.sort(rng.integers(0, 10_000, (n, row)), 1).astype("i4").reshape(-1)
        pointers = np.arange(0, n * row + 1, row)
        part = csr_array((np.ones(n * row, code), indices, pointers), shape=(n, 10_000))
        files.append(tmp_path / f"{number}.h5")
        diskcsr.write(files[-1], part).close()
    with diskcsr.options.set(num_threads=1), diskcsr.open(files) as A:
        A[[0, 1]], A.sum(0)
        tracemalloc.start()
        whole = A[:]
        held = sum(getattr(whole, name).nbytes for name in ("data", "indices", "indptr"))
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        once = 2000 * 100 * (4 + 8)
        # And the row pointers: of all, and of one part.
        assert peak < held + (once if len(set(dtypes)) > 1 else 0) + 8 * 20_000 + 400_000


def test_flavours(paths):
    with diskcsr.open(paths, spmatrix=True) as A:
        assert isinstance(A, csr_matrix)
        assert isinstance(A[:3], csr_matrix)
    with diskcsr.open(paths) as A:
        assert isinstance(A.T, csc_array)


def test_files_on_a_server_are_opened_one_at_a_time(tmp_path):
    with pytest.raises(ValueError, match=r"https://host/m\.h5 is on a server"):
        diskcsr.open(["https://host/m.h5?token=secret"])
    path = tmp_path / "m.h5"
    diskcsr.write(path, csr_array(np.eye(2))).close()
    with pytest.raises(ValueError, match="storage_options= is said of a URL"):
        diskcsr.open([path], storage_options={})
    with pytest.raises(ValueError, match="mode must be one of"):
        diskcsr.open([path], mode="w")
