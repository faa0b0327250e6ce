"""Files on a server: the values, what is asked for, and what becomes of answers that are wrong.

The server is a thread of this process; it counts, and fails as it is told.
"""

import gc
import importlib.util
import io
import multiprocessing
import os
import pickle
import re
import signal
import threading
from concurrent.futures import Future
from itertools import pairwise
from pathlib import Path

import h5py
import numpy as np
import pytest
import scipy.sparse as sp
from conformance.stored import write_by_hand
from hypothesis import given
from hypothesis import strategies as st

import diskcsr
from diskcsr.__main__ import main
from diskcsr.storage.claims.chunks import index_chunks
from diskcsr.storage.remote.downloads import LONGEST, Download
from diskcsr.storage.remote.extents import plan_requests, waves
from diskcsr.storage.remote.fileobject import RemoteFile
from diskcsr.storage.remote.remote import Remote
from diskcsr.storage.remote.urls import is_url, shown_url

fsspec = pytest.importorskip("fsspec", reason="remote files are read by fsspec (extra 'remote')")
#: What the server of these tests takes up while it ends, it does not close (bench/webserver.py).
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")
#: Of what takes a web server.
web = pytest.mark.skipif(
    importlib.util.find_spec("aiohttp") is None,
    reason="fsspec reads https by aiohttp (extra 'remote')",
)


def load_server():
    path = Path(__file__).resolve().parent.parent / "bench" / "webserver.py"
    spec = importlib.util.spec_from_file_location("webserver", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.WebServer


ROWS, COLUMNS = 3000, 400
DENSE = sp.random_array(
    (ROWS, COLUMNS), density=0.1, rng=np.random.default_rng(1), dtype=np.float32
).toarray()


def big_endian(path):
    X = sp.csr_array(DENSE)
    with h5py.File(path, "w") as file:
        group = file.create_group("X")
        group.attrs["h5sparse_format"], group.attrs["h5sparse_shape"] = "csr", X.shape
        group.create_dataset("data", data=X.data.astype(">f8"))
        group.create_dataset("indices", data=X.indices.astype(">i4"), chunks=(5000,))
        group.create_dataset("indptr", data=X.indptr.astype("i8"))


def with_user_block(path):
    X = sp.csr_array(DENSE)
    with h5py.File(path, "w", userblock_size=512) as file:
        diskcsr.write(file, X, "X", chunks=4096, compression="gzip")


LAYOUTS = {
    "raw": lambda path: diskcsr.write(path, sp.csr_array(DENSE), chunks=4096).close(),
    "csc": lambda path: diskcsr.write(path, sp.csc_array(DENSE), chunks=4096).close(),
    "gzip": lambda path: diskcsr.write(
        path, sp.csr_array(DENSE), chunks=4096, compression="gzip"
    ).close(),
    "contiguous": lambda path: write_by_hand(path, sp.csr_array(DENSE), "raw"),
    "big-endian": big_endian,
    "user block": with_user_block,
}


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """Paths of the matrix in each layout."""
    folder = tmp_path_factory.mktemp("stored")
    for name, make in LAYOUTS.items():
        make(folder / f"{name.replace(' ', '-')}.h5")
    return folder


@pytest.fixture
def server(stored):
    """A server of these files, which counts what is asked of it."""
    files = {path.name: path.read_bytes() for path in stored.iterdir()}
    diskcsr.cache.clear()
    with load_server()(files) as server:
        yield server


@pytest.fixture
def impatient():
    with diskcsr.options.set(remote_timeout=0.3, remote_retries=1):
        yield


OPERATIONS = {
    "rows": lambda A: A[[7, 2000, 7, 3]].toarray(),
    "slice": lambda A: A[100:900].toarray(),
    "mask": lambda A: A[np.arange(ROWS) % 50 == 3].toarray(),
    "columns": lambda A: A[:, [3, 7]].toarray(),
    "element": lambda A: np.array([[A[17, 3], A[1, 1]]]),
    "whole": lambda A: A.to_memory().toarray(),
    "arrays": lambda A: sp.csr_array(A).toarray(),
    "blocks": lambda A: np.array([block.sum() for _, block in A.iter_blocks(50_000)]).sum(),
    "batches": lambda A: np.array(sum(b.sum() for b in A.batches(64, shuffle=True, rng=0))),
    "sum": lambda A: A.sum(axis=0),
    "product": lambda A: A @ np.arange(COLUMNS),
    "transpose": lambda A: A.T @ np.arange(ROWS),
    "lazy": lambda A: (A.lazy[10:50] * 2)[[3, 5]].toarray(),
    "nnz": lambda A: np.array(A.nnz),
}


@web
@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_all_is_as_of_a_file_at_hand(server, stored, layout, operation):
    name = f"{layout.replace(' ', '-')}.h5"
    with diskcsr.open(server.url(name), "X") as A, diskcsr.open(stored / name, "X") as B:
        assert type(A) is type(B)
        got, expected = (OPERATIONS[operation](one) for one in (A, B))
        assert got.dtype == expected.dtype
        assert np.array_equal(got, expected)
        assert (A.shape, A.dtype) == (B.shape, B.dtype)


@web
def test_against_numpy(server):
    for name in ("raw.h5", "gzip.h5", "csc.h5", "big-endian.h5", "user-block.h5"):
        with diskcsr.open(server.url(name)) as A:
            rows = np.array([2999, 0, 5, 5])
            assert np.array_equal(A[rows].toarray(), DENSE[rows])
            assert np.array_equal(A.to_memory().toarray(), DENSE)
            assert {one.name for one in A.reader.values()} <= {"remote", "decode"}


@web
def test_what_was_read_is_written_to_a_file_here(server, tmp_path):
    with diskcsr.open(server.url("gzip.h5"), "X") as A:
        diskcsr.write(tmp_path / "here.h5", A).close()
        A.save(tmp_path / "turned.h5", format="csc").close()
    for name in ("here.h5", "turned.h5"):
        with diskcsr.open(tmp_path / name) as B:
            assert np.array_equal(B.toarray(), DENSE)
    diskcsr.convert(server.url("raw.h5"), tmp_path / "converted.h5", compression="gzip").close()
    with diskcsr.open(tmp_path / "converted.h5") as B:
        assert np.array_equal(B.toarray(), DENSE)


# --------------------------------------------------------------------------------- what is asked


def touched_chunks(path, rows):
    """Offsets and bytes of the chunks of data and indices in which the rows lie."""
    offset, nbytes = [], []
    with h5py.File(path) as file:
        indptr = file["X/indptr"][:]
        for name in ("data", "indices"):
            index = index_chunks(file[f"X/{name}"])
            wanted = {
                chunk
                for row in rows
                for chunk in range(
                    indptr[row] // index.length, (indptr[row + 1] - 1) // index.length + 1
                )
            }
            chunks = sorted(wanted)
            offset.append(index.offset[chunks])
            nbytes.append(index.nbytes[chunks])
    return offset, nbytes


@web
@pytest.mark.parametrize("step", [1, 7, 40, 500])
def test_chunks_are_asked_for_and_hardly_more(server, stored, step):
    rows = np.arange(0, ROWS, step)[::-1]
    offset, nbytes = touched_chunks(stored / "gzip.h5", rows)
    gap = int(1e8 * 0.02 / 64)
    planned = sum(
        plan_requests(*one, max_gap=gap, longest=LONGEST).lo.size
        for one in zip(offset, nbytes, strict=True)
    )
    with diskcsr.open(server.url("gzip.h5")) as A:
        A.nnz  # noqa: B018
        _ = A.indptr, A.reader  # row pointers and chunk indexes: what is asked for once
        metadata = server.sent
        server.clear()
        got = A.fetch(rows)
        assert np.array_equal(got.toarray(), DENSE[rows])
        total = sum(int(one.sum()) for one in nbytes)
        assert total <= server.sent <= 1.1 * total
        assert planned <= len(server.requests) <= 2 * planned
        assert metadata < 1 << 20
        server.clear()
        again = A.fetch(rows)
        assert np.array_equal(again.toarray(), DENSE[rows])
        assert server.requests == []  # decoded chunks are kept


@web
def test_rows_that_are_stored_as_they_are(server):
    rows = np.random.default_rng(0).permutation(ROWS)[:300]
    with diskcsr.open(server.url("raw.h5")) as A:
        _ = A.indptr, A.reader
        server.clear()
        assert np.array_equal(A[rows].toarray(), DENSE[rows])
        wanted = 8 * np.count_nonzero(DENSE[rows])
        assert wanted <= server.sent <= 1.1 * wanted
        assert len(server.requests) <= 2 * rows.size
        server.clear()
        assert np.array_equal(A[rows].toarray(), DENSE[rows])
        assert server.requests == []
        with diskcsr.options.set(cache_bytes=0):
            assert np.array_equal(A[rows].toarray(), DENSE[rows])
        assert wanted <= server.sent <= 1.1 * wanted


@web
def test_to_open_takes_a_few_requests(server):
    with diskcsr.open(server.url("gzip.h5"), "X") as A:
        assert A.shape == DENSE.shape
        assert len(server.requests) <= 3


@web
def test_an_index_of_many_chunks_is_not_read_with_what_lies_between(server, tmp_path):
    """Its nodes lie all over the file; they come alone, a level at a time."""
    X = sp.random_array((400, 4000), density=0.5, rng=np.random.default_rng(2), format="csr")
    diskcsr.write(tmp_path / "m.h5", X, compression="gzip", chunks=256).close()
    server.files["m.h5"] = contents = (tmp_path / "m.h5").read_bytes()
    with diskcsr.open(server.url("m.h5"), "X") as A:
        _ = A.indptr, A.reader
        nodes = 2 * 2096 * 2 * X.nnz // 256 // 32
        assert server.sent < nodes + (1 << 20) < len(contents) // 3
        assert np.array_equal(A[[7, 300]].toarray(), X[[7, 300]].toarray())


@web
def test_requests_go_out_together(server):
    server.latency = 0.05
    rows = np.arange(0, ROWS, 60)
    with diskcsr.open(server.url("raw.h5"), "X") as A:
        _ = A.indptr, A.reader
        most = watch_most(server)
        server.clear()
        A.fetch(rows)
        assert len(server.requests) > 50
        assert 32 < max(most) <= 64


def watch_most(server):
    """A list of how many requests were being answered when each came."""
    answer, now, found = server._answer, 0, []

    async def watched(request, writer):
        nonlocal now
        now += 1
        found.append(now)
        try:
            return await answer(request, writer)
        finally:
            now -= 1

    server._answer = watched
    return found


# ------------------------------------------------------------------------ pure planning of requests

EXTENTS = st.lists(st.tuples(st.integers(0, 300), st.integers(1, 50)), min_size=1, max_size=40)


@given(EXTENTS, st.integers(0, 100), st.integers(1, 300), st.randoms())
def test_requests_bring_each_extent_whole(steps, max_gap, longest, random):
    ends = np.cumsum([gap + size for gap, size in steps])
    extents = [(int(e) - size, size) for e, (_, size) in zip(ends, steps, strict=True)]
    random.shuffle(extents)
    offset, nbytes = np.array(extents).T
    plan = plan_requests(offset, nbytes, max_gap=max_gap, longest=longest)
    assert np.all(plan.lo[plan.request] <= offset)
    assert np.all(offset + nbytes <= plan.hi[plan.request])
    assert np.all(plan.lo[1:] >= plan.hi[:-1])
    asked, wanted = int((plan.hi - plan.lo).sum()), int(nbytes.sum())
    assert wanted <= asked <= wanted + wanted // 10
    assert all(
        hi - lo <= max(longest, nbytes.max()) for lo, hi in zip(plan.lo, plan.hi, strict=True)
    )


def test_what_is_merged():
    offset, nbytes = np.array([0, 100, 230, 2000]), np.array([100, 100, 100, 1000])
    requests = [
        plan_requests(offset, nbytes, max_gap=gap, longest=longest)
        for gap, longest in ((0, 9999), (30, 9999), (9999, 9999), (30, 150))
    ]
    assert [one.lo.tolist() for one in requests] == [
        [0, 230, 2000],
        [0, 2000],
        [0, 2000],  # the other gap would be more than a tenth of all
        [0, 100, 230, 2000],
    ]


@given(st.lists(st.integers(1, 30), max_size=30), st.integers(1, 60))
def test_waves(sizes, most):
    edges = waves(np.array(sizes, np.int64), most)
    assert edges[0] == 0
    assert edges[-1] == len(sizes)
    for a, b in pairwise(edges):
        assert b == a + 1 or sum(sizes[a:b]) <= most


def test_little_is_on_its_way_at_a_time():
    """However much is read: no more than 36 MiB are here, or asked for, and not used yet."""

    class Endless:
        on_the_way = most = 0

        def begin(self, ranges):
            future = Future()
            self.on_the_way += sum(hi - lo for lo, hi in ranges)
            self.most = max(self.most, self.on_the_way)
            future.set_result([b"\0" * (hi - lo) for lo, hi in ranges])
            return future

        def wait(self, future):
            return future.result()

    for size in (1 << 20, 9 << 20):
        remote = Endless()
        offset = np.arange(60, dtype=np.int64) * 2 * size
        download = Download(remote, offset, np.full(60, size))
        for extent in range(60):
            found = len(download.read(extent))
            remote.on_the_way -= found
        assert remote.on_the_way == 0
        # Beside what is given out, which counts until it is used.
        assert 32 << 20 <= remote.most <= (32 << 20) + max(size, 4 << 20) + size


def test_all_threads_are_told_why_a_download_ended():
    """One meets the failure, the others only that nothing more comes."""
    futures = []

    class Failing:
        def begin(self, ranges):
            futures.append(Future())
            return futures[-1]

        def wait(self, future):
            return future.result(10)

    size = 4 << 20
    download = Download(Failing(), np.arange(2) * 2 * size, np.full(2, size))
    assert len(futures) == 2
    told = []

    def read():
        try:
            download.read(0)
        except Exception as problem:
            told.append(problem)

    thread = threading.Thread(target=read)
    thread.start()
    futures[1].set_exception(diskcsr.RemoteError("no more"))
    with pytest.raises(diskcsr.RemoteError, match="no more"):
        download.read(1)
    thread.join(10)
    assert [str(problem) for problem in told] == ["no more"]


# --------------------------------------------------------------------------- answers that are wrong

PASSING = [500, 503, 429, 408, "cut", "slow"]


@web
@pytest.mark.parametrize("fault", PASSING)
@pytest.mark.parametrize("name", ["raw.h5", "gzip.h5"])
def test_what_fails_once_is_asked_for_again(server, name, fault):
    failed = set()

    def once(number, lo, hi):
        first = (lo, hi) not in failed
        failed.add((lo, hi))
        return fault if first and number % 5 == 3 else None

    server.fault = once
    with (
        diskcsr.options.set(remote_timeout=1.0),
        diskcsr.open(server.url(name), "X") as A,
    ):
        assert np.array_equal(A[::100].toarray(), DENSE[::100])
    assert server.asked > 5


@web
@pytest.mark.parametrize("fault", PASSING)
def test_what_fails_always_is_told(server, impatient, fault):
    with diskcsr.open(server.url("gzip.h5") + "?key=secret", "X") as A:
        _ = A.indptr, A.reader
        server.fault = lambda number, lo, hi: fault
        url = re.escape(server.url("gzip.h5"))
        with pytest.raises(diskcsr.RemoteError, match=rf"^{url}, bytes \d+ to \d+: ") as told:
            A[5:9]
        assert isinstance(told.value, OSError)
        assert "asked for 2 times" in str(told.value)
        assert "secret" not in str(told.value)
        server.fault = None
        assert np.array_equal(A[5:9].toarray(), DENSE[5:9])


@web
def test_a_failure_while_hdf5_reads_is_never_called_damage(server, impatient):
    """Whichever request of all that opening and reading takes fails, for good."""
    url = server.url("gzip.h5")
    with diskcsr.options.set(remote_retries=0, cache_bytes=0):
        with diskcsr.open(url, "X") as A:
            A[::500]
        made = {(lo, hi) for _, lo, hi in server.requests}
        assert len(made) > 5
        for failing in made:
            server.fault = lambda number, lo, hi, failing=failing: (
                500 if (lo, hi) == failing else None
            )
            with (
                pytest.raises(diskcsr.RemoteError, match="status 500"),
                diskcsr.open(url, "X") as A,
            ):
                A[::500]


@web
@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("whole", "gives whole files only"),
        ("other", r"answered with bytes \d+ to \d+ of \d+"),
        ("untold", "Content-Range None"),
        ("encoded", "bytes that are encoded"),
        (302, "status 302"),
        (418, "status 418"),
    ],
)
def test_a_server_that_answers_something_else(server, fault, message):
    server.fault = lambda number, lo, hi: fault
    with pytest.raises(diskcsr.RemoteError, match=message) as told:
        diskcsr.open(server.url("raw.h5"), "X")
    assert server.url("raw.h5") in str(told.value)
    assert server.asked == 1


@web
@pytest.mark.parametrize("fault", ["long", "endless"])
def test_no_answer_is_read_further_than_asked_for(server, fault):
    with diskcsr.open(server.url("raw.h5"), "X") as A:
        _ = A.indptr, A.reader
        server.fault = lambda number, lo, hi: fault
        assert np.array_equal(A[5:9].toarray(), DENSE[5:9])


@web
def test_a_size_that_cannot_be(server):
    """Whoever asks for what is said to be there finds out."""
    server.fault = lambda number, lo, hi: "vast"
    with pytest.raises(diskcsr.RemoteError, match=r"raw\.h5, bytes .* of 100000000000000000$"):
        diskcsr.open(server.url("raw.h5"), "X")


@web
def test_a_file_that_is_not_there(server):
    with pytest.raises(FileNotFoundError, match=r"nothing\.h5"):
        diskcsr.open(server.url("nothing.h5"), "X")


@web
def test_a_file_that_may_not_be_read(server):
    server.fault = lambda number, lo, hi: 403
    with pytest.raises(PermissionError, match=r"status 403.*raw\.h5"):
        diskcsr.open(server.url("raw.h5"), "X")


@web
@pytest.mark.parametrize("contents", [b"", b"<html>", b"\x89HDF\r\n\x1a\n" + bytes(500)])
def test_what_is_no_hdf5_file(server, contents):
    server.files["page.h5"] = contents
    with pytest.raises((diskcsr.FormatError, OSError)) as told:
        diskcsr.open(server.url("page.h5"))
    assert not isinstance(told.value, diskcsr.RemoteError)
    assert server.url("page.h5") in str(told.value)


@web
def test_no_server(impatient):
    with pytest.raises(diskcsr.RemoteError, match=r"http://127\.0\.0\.1:1/m\.h5, bytes 0 to"):
        diskcsr.open("http://127.0.0.1:1/m.h5")


@web
def test_damage_is_told_as_of_a_file_at_hand(server, stored):
    raw = bytearray((stored / "gzip.h5").read_bytes())
    with h5py.File(stored / "gzip.h5") as file:
        place = int(index_chunks(file["X/data"]).offset[2])
    raw[place : place + 40] = bytes(40)
    server.files["damaged.h5"] = bytes(raw)
    server.files["short.h5"] = bytes(raw[: len(raw) // 2])
    with (
        diskcsr.open(server.url("damaged.h5"), "X") as A,
        pytest.raises(diskcsr.CorruptFileError, match=r"damaged\.h5, .*'data', chunk 2: "),
    ):
        A.to_memory()
    with (
        pytest.raises((diskcsr.CorruptFileError, OSError)) as told,
        diskcsr.open(server.url("short.h5"), "X") as A,
    ):
        A.to_memory()
    assert not isinstance(told.value, diskcsr.RemoteError)


@web
def test_an_array_that_ends_behind_the_file(server):
    """HDF5 before 2.0 does not look whether what lies in one piece is there."""
    ends = r"\.h5, .*'data'.*the file ends (after 0 of its \d+ bytes|before element \d+ of \d+)"
    for name in ("raw.h5", "big-endian.h5", "gzip.h5"):
        with diskcsr.open(server.url(name), "X") as A:
            reader = A.reader["data"]
            places = getattr(reader, "_extent_offset", None)
            if places is None:
                places = reader._chunks._index.offset
            places += 10**9
            server.clear()
            with pytest.raises(diskcsr.CorruptFileError, match=ends):
                A[ROWS - 9 :]
            assert all(hi <= len(server.files[name]) for _, _, hi in server.requests)


@web
def test_an_index_out_of_range(server, tmp_path):
    X = sp.csr_array(DENSE)
    with h5py.File(tmp_path / "m.h5", "w") as file:
        diskcsr.write(file, X, "X", chunks=4096)
        file["X/indices"][5000] = COLUMNS
    server.files["m.h5"] = (tmp_path / "m.h5").read_bytes()
    with diskcsr.open(server.url("m.h5"), "X") as A:
        assert np.array_equal(A[[0]].toarray(), DENSE[[0]])
        row = int(np.searchsorted(X.indptr, 5000, side="right")) - 1
        for rows in ([row], np.arange(ROWS)):
            with pytest.raises(diskcsr.CorruptFileError, match="index 400 is out of range"):
                A[rows]


# ------------------------------------------------------------------------------ files that change


def other(path):
    """A file of the same shape with other values."""
    stored = io.BytesIO()
    with h5py.File(path) as file, h5py.File(stored, "w") as copy:
        file.copy("X", copy)
        copy["X/data"][...] = copy["X/data"][:] * 2
    return stored.getvalue()


@web
@pytest.mark.parametrize("name", ["raw.h5", "gzip.h5"])
def test_a_change_is_noticed(server, stored, name):
    with diskcsr.open(server.url(name), "X") as A:
        assert np.array_equal(A[[5]].toarray(), DENSE[[5]])
        server.files[name] = other(stored / name)
        with pytest.raises(diskcsr.StaleFileError, match=r"changed on the server"):
            A[2000:2010]
        A.refresh()
        assert np.array_equal(A[2000:2010].toarray(), 2 * DENSE[2000:2010])


@web
@pytest.mark.parametrize("longer", [1, -1])
def test_a_change_is_noticed_by_the_size(server, longer):
    server.tagged = False
    with diskcsr.open(server.url("raw.h5"), "X") as A:
        assert np.array_equal(A[[5]].toarray(), DENSE[[5]])
        contents = server.files["raw.h5"]
        server.files["raw.h5"] = contents + b"\0" if longer == 1 else contents[:-1]
        with pytest.raises(diskcsr.StaleFileError, match=r"changed on the server"):
            A[2000:2010]


@web
def test_a_file_that_is_gone(server):
    with diskcsr.open(server.url("raw.h5"), "X") as A:
        A[[5]]
        contents = server.files.pop("raw.h5")
        with pytest.raises(diskcsr.StaleFileError, match="no longer there"):
            A[2000:2010]
        with pytest.raises(FileNotFoundError):
            A.refresh()
        server.files["raw.h5"] = contents
        A = diskcsr.open(server.url("raw.h5"), "X")
        assert np.array_equal(A[[7]].toarray(), DENSE[[7]])


@web
def test_refresh_that_fails_can_be_done_again(server, impatient):
    with diskcsr.open(server.url("raw.h5"), "X") as A:
        server.fault = lambda number, lo, hi: 500
        with pytest.raises(diskcsr.RemoteError):
            A.refresh()
        with pytest.raises(diskcsr.StaleFileError, match="try it again"):
            A[[5]]
        server.fault = None
        A.refresh()
        assert np.array_equal(A[[5]].toarray(), DENSE[[5]])


# ------------------------------------------------------------------- what is asked of an array here


@web
@pytest.mark.parametrize("mode", ["r+", "c"])
def test_it_can_only_be_read(server, mode):
    with pytest.raises(diskcsr.ReadOnlyError, match=rf"on a server: mode must be 'r', not '{mode}"):
        diskcsr.open(server.url("raw.h5"), "X", mode=mode)
    assert server.asked == 0
    with diskcsr.open(server.url("raw.h5"), "X") as A, pytest.raises(diskcsr.ReadOnlyError):
        A[0:2] = A[0:2]


@web
def test_what_does_not_go_with_a_url(server, stored):
    with pytest.raises(ValueError, match=r"on this machine, not http.*: download it first"):
        diskcsr.open(server.url("raw.h5"), "X", untrusted=True)
    with pytest.raises(ValueError, match="storage_options are for URLs"):
        diskcsr.open(stored / "raw.h5", "X", storage_options={"anon": True})
    with pytest.raises(ValueError, match="nonsense"):
        diskcsr.open("nonsense://host/m.h5")


@web
def test_options_reach_the_server_and_nobody_else(server):
    options = {"headers": {"X-Key": "secret-key"}}
    url = server.url("raw.h5").replace("//", "//me:password@") + "?signature=secret"
    A = diskcsr.DiskCSR(url, "X", storage_options=options)
    assert np.array_equal(A[[3]].toarray(), DENSE[[3]])
    assert all(headers[b"x-key"] == b"secret-key" for headers in server.headers)
    assert A.filename == server.url("raw.h5")
    address = A._contents().address()
    for text in (A._repr_html_(), repr(A.reader), repr(address), repr(A.group)):
        assert "secret" not in text
    assert server.url("raw.h5") in A._repr_html_()
    server.headers.clear()
    B = pickle.loads(pickle.dumps(A))
    assert np.array_equal(B[[3]].toarray(), DENSE[[3]])
    assert all(headers[b"x-key"] == b"secret-key" for headers in server.headers)
    A.close()
    with pytest.raises(diskcsr.ClosedFileError):
        A[[3]]
    B.close()


def rows_of(array, rows, answers):
    answers.put(array[rows].toarray())


@web
@pytest.mark.parametrize("method", ["fork", "spawn"])
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
@pytest.mark.parametrize("name", ["raw.h5", "gzip.h5"])
def test_other_processes(server, method, name):
    context = multiprocessing.get_context(method)
    with diskcsr.open(server.url(name), "X") as A:
        assert np.array_equal(A[[3]].toarray(), DENSE[[3]])
        answers = context.Queue()
        process = context.Process(target=rows_of, args=(A, [2000, 9], answers))
        process.start()
        assert np.array_equal(answers.get(timeout=60), DENSE[[2000, 9]])
        process.join()
        assert np.array_equal(A[[4]].toarray(), DENSE[[4]])


@web
def test_threads(server):
    wrong = []
    with diskcsr.open(server.url("gzip.h5"), "X") as A:

        def read(seed):
            rng = np.random.default_rng(seed)
            for _ in range(5):
                rows = rng.integers(ROWS, size=20)
                if not np.array_equal(A[rows].toarray(), DENSE[rows]):
                    wrong.append(rows)

        threads = [threading.Thread(target=read, args=(seed,)) for seed in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert not wrong
        assert not any(thread.is_alive() for thread in threads)


@web
def test_who_waits_can_be_interrupted(server):
    """A server that says nothing more does not keep Ctrl-C from being heard."""
    with diskcsr.open(server.url("gzip.h5"), "X") as A:
        _ = A.indptr, A.reader
        server.fault = lambda number, lo, hi: "slow"
        timer = threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT))
        timer.start()
        with pytest.raises(KeyboardInterrupt):
            A[5:9]
        timer.join()
        server.fault = None
        assert np.array_equal(A[5:9].toarray(), DENSE[5:9])


@web
def test_no_garbage_is_collected_while_hdf5_waits(server, monkeypatch):
    """Another thread would wait for h5py's lock then, and this one for that thread."""
    seen = []
    read = Remote.read

    def watched(self, lo, hi):
        seen.append(gc.isenabled())
        return read(self, lo, hi)

    monkeypatch.setattr(Remote, "read", watched)
    through = RemoteFile(Remote(server.url("contiguous.h5")))
    through.seek(600_000)
    assert len(through.read(1000)) == 1000
    assert seen == [False]
    assert gc.isenabled()


@web
def test_what_hdf5_reads_itself(server, tmp_path):
    """Compact datasets have no place of their own; virtual ones lead elsewhere."""
    X = sp.csr_array(DENSE[:20])
    with h5py.File(tmp_path / "m.h5", "w") as file:
        group = file.create_group("X")
        group.attrs["h5sparse_format"], group.attrs["h5sparse_shape"] = "csr", X.shape
        group["data"], group["indices"] = X.data, X.indices
        properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        properties.set_layout(h5py.h5d.COMPACT)
        space, kind = h5py.h5s.create_simple((21,)), h5py.h5t.NATIVE_INT64
        dset = h5py.h5d.create(group.id, b"indptr", kind, space, properties)
        dset.write(space, space, X.indptr.astype("i8"))
    server.files["compact.h5"] = (tmp_path / "m.h5").read_bytes()
    with diskcsr.open(server.url("compact.h5")) as A:
        assert np.array_equal(A.toarray(), DENSE[:20])
        assert A.reader["indptr"].name == "h5py"


# -------------------------------------------------------------------- other places than web servers


@pytest.fixture
def in_memory(stored):
    """Files of fsspec's file system in memory: one that knows no concurrent calls."""
    fs = fsspec.filesystem("memory")
    for path in stored.iterdir():
        fs.pipe_file(f"/{path.name}", path.read_bytes())
    diskcsr.cache.clear()
    yield fs
    fs.store.clear()


@pytest.mark.parametrize("name", ["raw.h5", "gzip.h5"])
def test_another_file_system(in_memory, stored, name):
    with diskcsr.open(f"memory://{name}", "X") as A:
        rows = [2000, 3, 3]
        assert np.array_equal(A[rows].toarray(), DENSE[rows])
        assert np.array_equal(A.to_memory().toarray(), DENSE)
        in_memory.pipe_file(f"/{name}", other(stored / name))
        with pytest.raises(diskcsr.StaleFileError, match=rf"memory://{name} was changed"):
            A[100:200]
        A.refresh()
        assert np.array_equal(A[100:200].toarray(), 2 * DENSE[100:200])
        in_memory.rm(f"/{name}")
        with pytest.raises(diskcsr.StaleFileError, match="no longer there"):
            A[1000:1100]


def test_a_file_system_that_gives_too_little(in_memory, monkeypatch):
    with (
        diskcsr.options.set(remote_retries=1),
        diskcsr.open("memory://raw.h5", "X") as A,
    ):
        _ = A.indptr, A.reader
        cat = type(in_memory).cat_file
        for change, message in (
            (lambda raw: raw[:-1], "bytes came; it was asked for 2 times"),
            (lambda raw: raw + b"x", "bytes were returned"),
        ):
            monkeypatch.setattr(
                type(in_memory),
                "cat_file",
                lambda *args, change=change, **keywords: change(cat(*args, **keywords)),
            )
            with pytest.raises(diskcsr.RemoteError, match=message):
                A[5:9]


def test_no_such_file(in_memory):
    with pytest.raises(FileNotFoundError, match=r"memory://nothing\.h5"):
        diskcsr.open("memory://nothing.h5")


@web
@pytest.mark.filterwarnings(
    "ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"
)
@pytest.mark.parametrize("kind", ["simplecache", "filecache", "blockcache"])
def test_a_cache_on_disk(server, tmp_path, kind):
    """fsspec's own: what is in it is not asked for again, by another process neither."""
    options = {kind: {"cache_storage": str(tmp_path / "cache")}}
    url = f"{kind}::{server.url('gzip.h5')}"
    for _ in range(2):
        server.clear()
        fsspec.filesystem("http").invalidate_cache()
        with diskcsr.open(url, "X", storage_options=options) as A:
            assert np.array_equal(A[[2000, 5]].toarray(), DENSE[[2000, 5]])
            diskcsr.cache.clear()
    assert os.listdir(tmp_path / "cache")
    assert server.sent < 10_000
    del A
    type(fsspec.core.url_to_fs(url, **options)[0]).clear_instance_cache()
    gc.collect()  # of what fsspec leaves open


def test_a_file_at_hand_as_a_url(stored):
    with diskcsr.open(f"file://{stored / 'raw.h5'}", "X") as A:
        assert np.array_equal(A[[2000, 5]].toarray(), DENSE[[2000, 5]])


@pytest.fixture(scope="module")
def bucket():
    """The address of an S3 server of moto's, in a thread."""
    pytest.importorskip("s3fs", reason="s3:// is read by s3fs")
    moto = pytest.importorskip("moto.server", reason="the S3 server of these tests is moto's")
    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
def test_s3(bucket, stored):
    options = {"key": "k", "secret": "s", "client_kwargs": {"endpoint_url": bucket}}
    fs = fsspec.filesystem("s3", **options)
    fs.mkdir("cells")
    for name in ("raw.h5", "gzip.h5"):
        fs.pipe_file(f"cells/{name}", (stored / name).read_bytes())
        diskcsr.cache.clear()
        with diskcsr.open(f"s3://cells/{name}", "X", storage_options=options) as A:
            rows = np.arange(0, ROWS, 70)
            assert np.array_equal(A[rows].toarray(), DENSE[rows])
            assert np.array_equal(A.to_memory().toarray(), DENSE)
            B = pickle.loads(pickle.dumps(A))
            assert np.array_equal(B[[3]].toarray(), DENSE[[3]])
            fs.pipe_file(f"cells/{name}", other(stored / name))
            with pytest.raises(diskcsr.StaleFileError, match=rf"s3://cells/{name} was changed"):
                A[1000:1010]
            B.close()
    with pytest.raises(FileNotFoundError, match=r"s3://cells/nothing\.h5"):
        diskcsr.open("s3://cells/nothing.h5", storage_options=options)


# ------------------------------------------------------------------------------------------ looking


@web
@pytest.mark.parametrize("deep", [False, True])
@pytest.mark.parametrize("name", ["raw.h5", "gzip.h5", "csc.h5"])
def test_what_is_in_it(server, stored, name, deep):
    url, path = server.url(name) + "?key=secret", str(stored / name)
    found, here = (diskcsr.info(place, deep=deep) for place in (url, path))
    assert found.pop("file") == server.url(name)
    assert here.pop("file") == path
    one, other = found["matrices"][0], here["matrices"][0]
    for part, ours in other["arrays"].items():
        theirs = one["arrays"][part]
        for key in ("reader", "why", "extents"):
            theirs.pop(key), ours.pop(key)
        assert theirs == ours, part
    assert one == other
    assert found == here
    both = diskcsr.info([url, path], storage_options={})
    assert both["file"] == [server.url(name), path]
    assert [matrix["nnz"] for matrix in both["matrices"]] == [here["matrices"][0]["nnz"]] * 2


@web
def test_the_command_looks_at_it(server, capsys):
    assert main(["info", server.url("gzip.h5") + "?key=secret"]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith(server.url("gzip.h5"))
    assert "secret" not in shown
    assert main(["check", server.url("gzip.h5")]) == 2
    assert "download it first" in capsys.readouterr().err
    assert main(["info", server.url("nothing.h5")]) == 2
    assert server.url("nothing.h5") in capsys.readouterr().err


@web
def test_what_info_and_check_refuse(server, stored):
    url = server.url("raw.h5")
    with pytest.raises(ValueError, match="untrusted=True needs a file on this machine"):
        diskcsr.info(url, untrusted=True)
    with pytest.raises(ValueError, match=r"check, .* needs a file on this machine, not http://"):
        diskcsr.check(url)
    with pytest.raises(ValueError, match="storage_options are for URLs"):
        diskcsr.info(stored / "raw.h5", storage_options={})
    with pytest.raises(ValueError, match="storage_options are for URLs"):
        diskcsr.info([stored / "raw.h5"], storage_options={})
    with pytest.raises(KeyError, match=r"raw\.h5: no object 'Y'"):
        diskcsr.info(url, "Y")


@web
def test_a_server_that_fails_is_not_called_damage(server, impatient):
    url = server.url("gzip.h5")
    server.clear()
    diskcsr.info(url)
    for first in range(server.asked):
        server.clear()
        diskcsr.cache.clear()
        server.fault = lambda number, lo, hi, first=first: 500 if number >= first else None
        with pytest.raises(diskcsr.errors.RemoteError):
            diskcsr.info(url)
        server.fault = None


# ------------------------------------------------------------------------------------------- names


@pytest.mark.parametrize(
    ("text", "url", "shown"),
    [
        ("https://h/m.h5", True, "https://h/m.h5"),
        ("http://u:p@h:80/m.h5?sig=1#x", True, "http://h:80/m.h5"),
        ("s3://b/m.h5", True, "s3://b/m.h5"),
        ("blockcache::https://u@h/m.h5", True, "blockcache::https://h/m.h5"),
        ("m.h5", False, "m.h5"),
        ("/a/b/m.h5", False, "/a/b/m.h5"),
        ("a::b.h5", False, "a::b.h5"),
    ],
)
def test_what_is_a_url(text, url, shown):
    assert is_url(text) == url
    assert shown_url(text) == shown
    assert not is_url(Path(text))


def test_without_fsspec(monkeypatch):
    def missing(name):
        raise ImportError(f"No module named {name!r}")

    monkeypatch.setattr("diskcsr.loading.load", missing)
    with pytest.raises(ImportError, match=r"h/m\.h5: reading it takes .*'diskcsr\[remote\]'"):
        diskcsr.open("https://h/m.h5?key=1")
