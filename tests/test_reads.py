"""What is read: which elements of which arrays, how often, and in how large pieces.

Every way to the bytes is watched: ``os.preadv``, the kernels that read, and h5py's datasets. What
they touched is compared with where h5py says that the elements lie.
"""

import io
import os
import sys
import threading
import tracemalloc
from itertools import pairwise
from pathlib import Path

import h5py
import numpy as np
import pytest
import scipy.sparse as sp
from numpy.testing import assert_array_equal

import diskcsr
from diskcsr.blocks.contents import Contents
from diskcsr.kernels import rows as kernels
from diskcsr.keys import plan
from diskcsr.machine.cache import cache
from diskcsr.protocol import reading

PARTS = ("data", "indices", "indptr")
N_ROWS, N_COLUMNS, PER_ROW = 400, 5000, 1000
CHUNK = 1500


@pytest.fixture(scope="module")
def plain():
    """400 rows of 1,000 stored elements each: a gap of five rows is longer than `plan.MAX_GAP`."""
    assert plan.MAX_GAP < 5 * PER_ROW
    rng = np.random.default_rng(0)
    columns = [np.sort(rng.choice(N_COLUMNS, PER_ROW, replace=False)) for _ in range(N_ROWS)]
    arrays = (
        rng.random(N_ROWS * PER_ROW, dtype=np.float32),
        np.concatenate(columns).astype(np.int32),
        np.arange(0, N_ROWS * PER_ROW + 1, PER_ROW, dtype=np.int32),
    )
    return sp.csr_array(arrays, shape=(N_ROWS, N_COLUMNS))


LAYOUTS = {
    "contiguous": {},
    "chunked": {"chunks": (CHUNK,), "maxshape": (None,)},
    "gzip": {
        "chunks": (CHUNK,),
        "maxshape": (None,),
        "compression": "gzip",
        "compression_opts": 1,
        "shuffle": True,
    },
}


def write(path, plain, **layout):
    with h5py.File(path, "w") as file:
        group = file.create_group("X")
        group.attrs["h5sparse_format"] = plain.format
        group.attrs["h5sparse_shape"] = plain.shape
        for part in PARTS:
            group.create_dataset(part, data=getattr(plain, part), **layout)
    return path


@pytest.fixture(scope="module", params=LAYOUTS)
def stored(request, plain, tmp_path_factory):
    """(layout, path) of the matrix, stored in each layout."""
    path = tmp_path_factory.mktemp("reads") / f"{request.param}.h5"
    return request.param, write(path, plain, **LAYOUTS[request.param])


class Record:
    """Byte ranges that were read, and how often h5py was asked for a dataset."""

    def __init__(self):
        self.ranges = []
        self.datasets = []
        self._lock = threading.Lock()

    def add(self, offset, nbytes):
        with self._lock:
            self.ranges.append((int(offset), int(nbytes)))

    def clear(self):
        self.ranges.clear()
        self.datasets.clear()

    def counts(self, path, part):
        """How often each stored element of an array was read; of a filtered one, each chunk."""
        with h5py.File(path, "r") as file:
            dset = file["X"][part]
            places, width = _places(dset)
        times = np.zeros(places.size, int)
        for offset, nbytes in self.ranges:
            times += (places >= offset) & (places + width <= offset + nbytes)
        return times

    def bytes_of(self, path, part):
        """Bytes that were read of an array."""
        with h5py.File(path, "r") as file:
            _, width = _places(file["X"][part])
        return int((self.counts(path, part) * width).sum())


def _places(dset):
    """Offset in the file, and bytes, of what can be read alone: an element, or a chunk."""
    itemsize = dset.dtype.itemsize
    if not dset.chunks:
        return dset.id.get_offset() + itemsize * np.arange(dset.size), itemsize
    chunks = []
    dset.id.chunk_iter(lambda info: chunks.append((info.byte_offset, info.size)))
    offsets, sizes = np.array(chunks).T
    if dset.compression:
        return offsets, sizes
    inside = itemsize * np.arange(dset.chunks[0])
    return (offsets[:, None] + inside).ravel()[: dset.size], itemsize


@pytest.fixture
def record(monkeypatch):
    """Watch all reads; what was decoded earlier is forgotten."""
    record = Record()
    cache.clear()
    preadv, pread = os.preadv, os.pread

    def watched_preadv(fd, buffers, offset, *flags):
        n = preadv(fd, buffers, offset, *flags)
        record.add(offset, n)
        return n

    def watched_pread(fd, n, offset):
        raw = pread(fd, n, offset)
        record.add(offset, len(raw))
        return raw

    def watched(kernel, plan_at, itemsize_of):
        def call(file, extents, *rest):
            (ranges_lo, ranges_hi), (first, last) = rest[plan_at][:2], rest[plan_at + 1 :][:2]
            start, offset = extents
            size = itemsize_of(rest)
            for lo, hi in zip(ranges_lo[first:last], ranges_hi[first:last], strict=True):
                at = lo
                while at < hi:  # a range may lie in several extents
                    e = np.searchsorted(start, at, side="right") - 1
                    end = min(hi, start[e + 1])
                    record.add(offset[e] + (at - start[e]) * size, (end - at) * size)
                    at = end
            return kernel(file, extents, *rest)

        return call

    monkeypatch.setattr(os, "preadv", watched_preadv)
    monkeypatch.setattr(os, "pread", watched_pread)
    monkeypatch.setattr(kernels, "gather", watched(kernels.gather, 1, lambda rest: rest[0]))
    monkeypatch.setattr(
        kernels,
        "gather_indices",
        watched(kernels.gather_indices, 0, lambda rest: rest[3].itemsize),
    )
    get = h5py.Dataset.__getitem__

    def watched_get(dset, key, *rest, **more):
        record.datasets.append((dset.name, key))
        return get(dset, key, *rest, **more)

    monkeypatch.setattr(h5py.Dataset, "__getitem__", watched_get)
    return record


def dense(result):
    return result.toarray() if sp.issparse(result) else result


def wanted(rows):
    """Element numbers of some rows, each once."""
    rows = np.unique(np.asarray(rows, dtype=int))
    return (rows[:, None] * PER_ROW + np.arange(PER_ROW)).ravel()


def touched_by(rows):
    """Which elements may be read for some rows: theirs, and gaps too short to skip."""
    rows = np.unique(np.asarray(rows, dtype=int))
    may = np.zeros(N_ROWS * PER_ROW, bool)
    may[wanted(rows)] = True
    for a, b in pairwise(rows):
        if (b - a - 1) * PER_ROW <= plan.MAX_GAP:
            may[(a + 1) * PER_ROW : b * PER_ROW] = True
    return may


def check_elements(record, stored, rows):
    """Assert that data and indices were read at `rows`, each element once, and little else."""
    layout, path = stored
    for part in ("data", "indices"):
        times = record.counts(path, part)
        if layout == "gzip":
            chunks = np.unique(wanted(rows) // CHUNK)
            expected = np.zeros(times.size, int)
            expected[chunks] = 1
            assert_array_equal(times, expected)
            continue
        assert times.max() <= 1
        assert times[wanted(rows)].all()
        assert not times[~touched_by(rows)].any()


# ----------------------------------------------------------------------------------------- opening


def test_opening_reads_no_array(stored, record):
    _, path = stored
    A = diskcsr.open(path)
    assert A.shape == (N_ROWS, N_COLUMNS)
    assert A.dtype == np.float32
    assert A.T.shape == (N_COLUMNS, N_ROWS)
    assert (A.ndim, A.format, A.name) == (2, "csr", "/X")
    assert record.datasets == []
    A.close()
    # What was read is what says how long the strings of attributes are.
    assert sum(nbytes for _, nbytes in record.ranges) < 20_000
    with h5py.File(path) as file:
        for dset in file["X"].values():
            for place, length in extents_of(dset):
                assert not [r for r in record.ranges if r[0] < place + length and place < sum(r)]


def extents_of(dset):
    """Return (offset, bytes) of all there is of a dataset in its file."""
    if dset.chunks is None:
        return [(dset.id.get_offset(), dset.size * dset.dtype.itemsize)]
    chunks = [dset.id.get_chunk_info(i) for i in range(dset.id.get_num_chunks())]
    return [(chunk.byte_offset, chunk.size) for chunk in chunks]


def _cost(function):
    """Bytes and system calls that this process reads with, while `function` runs."""

    def now():
        fields = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
        return np.array([int(fields["rchar"]), int(fields["syscr"])])

    now()
    reading_it = now() - now()  # what looking itself costs; negative
    before = now()
    function()
    return now() - before + reading_it


needs_proc = pytest.mark.skipif(not Path("/proc/self/io").exists(), reason="only Linux counts it")


@needs_proc
@pytest.mark.parametrize("layout", LAYOUTS)
def test_opening_costs_the_same_whatever_the_size(tmp_path, plain, layout):
    small = write(tmp_path / "small.h5", plain[:3, :3], **LAYOUTS[layout])
    large = write(tmp_path / "large.h5", plain, **LAYOUTS[layout])
    assert large.stat().st_size > 20 * small.stat().st_size
    costs = []
    for path in (small, small, large):  # the first time more is imported
        opened = []  # kept open while we count
        costs.append(_cost(lambda path=path: opened.append(diskcsr.open(path, "X"))))  # noqa: B023
        opened.pop().close()
    (few_bytes, few_calls), (many_bytes, many_calls) = costs[1:]
    assert few_calls > 0
    assert abs(many_bytes - few_bytes) < 4096
    assert abs(many_calls - few_calls) <= 4


@pytest.mark.parametrize("what", ["nnz", "repr", "dtype and shape"])
def test_what_needs_one_pointer_reads_one(stored, record, what):
    layout, path = stored
    with diskcsr.open(path) as A:
        if what == "nnz":
            assert A.nnz == N_ROWS * PER_ROW
        elif what == "repr":
            assert "400000 stored elements" in repr(A)
        else:
            assert (A.dtype, A.shape) == (np.float32, (N_ROWS, N_COLUMNS))
    assert record.counts(path, "data").sum() == record.counts(path, "indices").sum() == 0
    times = record.counts(path, "indptr")
    if layout == "gzip":
        assert times[:-1].sum() == 0
    else:  # the one before it shows whether it can be
        assert times[:-2].sum() == 0
    assert times.sum() <= 2


# ------------------------------------------------------------------------------------------- rows


@pytest.mark.parametrize("i", [0, 7, N_ROWS - 1])
def test_a_scalar_touches_one_row(stored, record, plain, i):
    layout, path = stored
    with diskcsr.open(path) as A:
        for j in (0, int(plain.indices[i * PER_ROW + 5])):
            record.clear()
            assert A[i, j] == plain[i, j]
            for part in ("data", "indices"):
                times = record.counts(path, part)
                if layout == "gzip":
                    assert set(np.flatnonzero(times)) <= set(wanted([i]) // CHUNK)
                else:
                    assert set(np.flatnonzero(times)) <= set(wanted([i]))
                assert times.max() <= 1
            times = record.counts(path, "indptr")
            pointers = {0} if layout == "gzip" else {i, i + 1}
            assert set(np.flatnonzero(times)) <= pointers


@pytest.mark.parametrize(
    "key",
    [
        np.s_[7],
        np.s_[-1],
        np.s_[3:9],
        np.s_[3:300:50],
        np.s_[300:3:-50],
        np.s_[390:],
        np.s_[np.array([5, 300, 100, 7])],
        np.s_[np.array([300, 5, 300, 5, 5])],
        np.s_[[True] * 3 + [False] * (N_ROWS - 3)],
        np.s_[np.arange(N_ROWS)[::-13]],
        np.s_[np.arange(0, N_ROWS, 3)],
        np.s_[np.array([], int)],
        np.s_[[5, 100], [3, 4]],
        np.s_[np.array([[5], [200]]), np.array([[1, 2]])],
        np.s_[[300, 200, 300], 4],
        np.s_[100:102, 3:9],
        np.s_[[3, 300], ::-7],
        np.s_[None, 200],
    ],
    ids=lambda key: repr(key)[:40],
)
def test_only_the_rows_asked_for_are_read(stored, record, plain, key):
    rows = key[[part is not None for part in key].index(True)] if isinstance(key, tuple) else key
    rows = np.arange(N_ROWS)[rows].ravel()
    with diskcsr.open(stored[1]) as A:
        result = A[key]
    assert_array_equal(dense(result), plain.toarray()[key])
    if rows.size == 0:
        assert record.counts(stored[1], "data").sum() == 0
    else:
        check_elements(record, stored, rows)


def test_oindex_reads_its_rows(stored, record, plain):
    with diskcsr.open(stored[1]) as A:
        result = A.oindex[[300, 2, 300], [9, 8]]
    assert_array_equal(result.toarray(), plain.toarray()[np.ix_([300, 2, 300], [9, 8])])
    check_elements(record, stored, [300, 2])


def test_a_transpose_reads_the_same(stored, record, plain):
    with diskcsr.open(stored[1]) as A:
        result = A.T[:, [300, 100]]
    assert_array_equal(result.toarray(), plain.toarray()[[300, 100]].T)
    check_elements(record, stored, [300, 100])


@pytest.mark.parametrize("n", [3, 40, 200])
def test_order_and_repeats_change_nothing(stored, record, n):
    rows = np.random.default_rng(1).choice(N_ROWS, n, replace=False)
    seen = []
    for some in (np.sort(rows), rows, np.concatenate([rows, rows[::-1], rows])):
        with diskcsr.open(stored[1]) as A:
            record.clear()
            cache.clear()
            A[some]
            check_elements(record, stored, rows)
            seen.append([record.counts(stored[1], part).tolist() for part in ("data", "indices")])
    if stored[0] != "gzip":
        assert seen[0] == seen[1] == seen[2]


# ---------------------------------------------------------------------------------- row pointers


def test_pointers_are_read_where_they_are_needed(tmp_path, record):
    # So many rows that a few scattered pointers are cheaper than all of them.
    n = 300_000
    matrix = sp.csr_array((np.ones(n), np.zeros(n, np.int32), np.arange(n + 1)), shape=(n, 2))
    path = write(tmp_path / "m.h5", matrix)
    cases = [
        (np.s_[77_777], [77_777, 77_778]),
        (np.s_[5:9], range(5, 10)),
        (np.s_[[200_000, 9, 100_000]], [9, 10, 100_000, 100_001, 200_000, 200_001]),
        (np.s_[0, 1], [0, 1]),
    ]
    for key, pointers in cases:
        with diskcsr.open(path) as A:
            record.clear()
            A[key]
            assert np.flatnonzero(record.counts(path, "indptr")).tolist() == list(pointers)
            assert A.nnz == n
            expected = sorted({*pointers, n - 1, n})
            assert np.flatnonzero(record.counts(path, "indptr")).tolist() == expected
    with diskcsr.open(path) as A:
        record.clear()
        for _ in range(3):
            A[::-1]
            A[np.arange(n)]
            A.nnz  # noqa: B018
        assert record.counts(path, "indptr").max() == 1  # all were read once, and kept


def test_many_scattered_pointers_are_read_at_once(stored, record):
    _, path = stored
    with diskcsr.open(path) as A:
        A[np.arange(0, N_ROWS, 2)]
        record.clear()
        A[np.arange(1, N_ROWS, 2)]
        assert record.counts(path, "indptr").sum() == 0


# --------------------------------------------------------------------------- streaming in blocks


@pytest.fixture
def small_blocks(monkeypatch):
    """Blocks of 80 kB; return the sizes of those that were read."""
    monkeypatch.setattr(reading, "BLOCK_ELEMENTS", 10_000)
    sizes, read = [], Contents.read

    def watched(contents, plan, *rest, **more):
        sizes.append(plan.size * 8)
        return read(contents, plan, *rest, **more)

    monkeypatch.setattr(Contents, "read", watched)
    return sizes


@pytest.mark.parametrize(
    "key",
    [
        np.s_[:, 7],
        np.s_[:, [7, 3, 7]],
        np.s_[:, 100:200:7],
        np.s_[::-1, 4],
        np.s_[:, np.arange(N_COLUMNS) % 50 == 0],
        np.s_[np.arange(N_ROWS)[::-1], 4:9],
        np.s_[np.arange(N_ROWS), np.arange(N_ROWS)],
    ],
    ids=lambda key: repr(key)[:40],
)
def test_columns_are_streamed(stored, record, plain, small_blocks, key):
    layout, path = stored
    with diskcsr.options.set(cache_bytes=0), diskcsr.open(path) as A:
        tracemalloc.start()
        try:
            result = A[key]
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    expected = plain.toarray()[key]
    assert_array_equal(dense(result), expected)
    total = N_ROWS * PER_ROW * 8
    assert len(small_blocks) >= total // 80_000
    assert max(small_blocks) <= 80_000
    assert peak < total // 2
    for part in ("data", "indices"):
        times = record.counts(path, part)
        if layout != "gzip":
            assert times.max() == 1
        else:  # a chunk may lie in two blocks
            assert times.min() >= 1
            assert times.sum() <= times.size + len(small_blocks)


def test_iter_blocks_reads_each_element_once(stored, record):
    layout, path = stored
    with diskcsr.open(path) as A:
        for _, block in A.iter_blocks(max_bytes=80_000):
            assert block.nnz * 8 <= 80_000
    if layout != "gzip":
        for part in ("data", "indices"):
            assert_array_equal(record.counts(path, part), 1)
        assert record.counts(path, "indptr").max() == 1


def test_iter_blocks_reads_ahead_only_a_little(stored, record):
    layout, path = stored
    with diskcsr.open(path) as A:
        blocks = A.iter_blocks(max_bytes=80_000)
        next(blocks)
        blocks.close()
        read = record.counts(path, "data").sum()
        per_block = 10_000 if layout != "gzip" else 10_000 // CHUNK + 2
        assert read <= (diskcsr.options.num_threads + 2) * per_block


def test_toarray_reads_each_element_once(stored, record, plain):
    layout, path = stored
    with diskcsr.open(path) as A:
        assert_array_equal(A.toarray(), plain.toarray())
    for part in ("data", "indices"):
        times = record.counts(path, part)
        assert times.min() == 1
        assert times.max() == 1 if layout != "gzip" else times.max() <= 2


# ------------------------------------------------------------------------------ the books are right


def test_the_readers_count_what_was_read(stored, record, plain):
    layout, path = stored
    with diskcsr.open(path) as A:
        assert A.reader.bytes_read == 0
        for key in (np.s_[5], np.s_[[300, 2, 17, 2]], np.s_[40:50], np.s_[::37], np.s_[9, 9]):
            A[key]
            for part in PARTS:
                read = record.bytes_of(path, part)
                if layout == "gzip":  # what it has kept it need not read again
                    assert A.reader[part].bytes_read >= read
                else:
                    assert A.reader[part].bytes_read == read
        assert A.reader.bytes_read == sum(A.reader[part].bytes_read for part in PARTS)
        with h5py.File(path, "r") as file:
            sizes = {part: file["X"][part].id.get_storage_size() for part in PARTS}
        assert {part: A.reader[part].stored_bytes for part in PARTS} == sizes
        assert A.reader.stored_bytes == sum(sizes.values())
        assert 0 < A.reader.bytes_read < A.reader.stored_bytes


@needs_proc
@pytest.mark.skipif(sys.platform != "linux", reason="advice is Linux's")
def test_the_kernels_read_no_more_than_they_were_asked_to(tmp_path, plain):
    # The kernel of the operating system counts, too: this needs no trust in our own wrappers.
    path = write(tmp_path / "m.h5", plain)
    rows = np.arange(0, N_ROWS, 9)  # too many to be read from Python, too far apart to be joined
    with diskcsr.options.set(memory_map=False, num_threads=1), diskcsr.open(path) as A:
        A[rows]
        before = A.reader.bytes_read
        read, _ = _cost(lambda: A[rows + 1])
        counted = A.reader.bytes_read - before
    assert counted == rows.size * PER_ROW * 8
    assert counted <= read <= counted + 4096


# ---------------------------------------------------------------------------------- through h5py


class Watched:
    """A dataset that notes which chunks are asked for."""

    def __init__(self, dset):
        self._dset = dset
        self.asked = []

    def __getattr__(self, name):
        return getattr(self._dset, name)

    def __getitem__(self, key):
        assert isinstance(key, slice)
        assert key.step in (None, 1)
        self.asked.append((key.start, key.stop))
        return self._dset[key]


@pytest.mark.parametrize("layout", ["contiguous", "chunked"])
@pytest.mark.parametrize("n", [1, 5, 60])
def test_h5py_reads_each_chunk_once_a_call(tmp_path, plain, layout, n):
    path = write(tmp_path / "m.h5", plain, **LAYOUTS[layout])
    A = diskcsr.open(io.BytesIO(path.read_bytes()), "X")
    watched = {}
    for part in PARTS:
        reader = A.reader[part]
        assert reader.name == "h5py"
        reader._dset = watched[part] = Watched(reader._dset)
    rng = np.random.default_rng(n)
    rows = rng.choice(N_ROWS, n)
    for some in (rows, np.concatenate([rows[::-1], rows]), np.sort(rows)):
        for part in PARTS:
            watched[part].asked.clear()
        before = {part: A.reader[part].chunks_read for part in PARTS}
        assert_array_equal(A[some].toarray(), plain[some].toarray())
        for part in ("data", "indices"):
            asked = watched[part].asked
            if layout == "chunked":
                chunks = [c for lo, hi in asked for c in range(lo // CHUNK, -(-hi // CHUNK))]
                assert sorted(chunks) == np.unique(wanted(rows) // CHUNK).tolist()
                assert A.reader[part].chunks_read - before[part] == len(chunks)
                continue
            elements = np.concatenate([np.arange(lo, hi) for lo, hi in asked])
            assert np.unique(elements).size == elements.size
            assert set(wanted(rows)) <= set(elements)
            assert touched_by(rows)[elements].all()


def test_h5py_reads_a_long_run_in_bounded_pieces(tmp_path, plain, monkeypatch):
    monkeypatch.setattr("diskcsr.storage.read.readers.H5_BLOCK", 4 * CHUNK)
    path = write(tmp_path / "m.h5", plain, **LAYOUTS["chunked"])
    A = diskcsr.open(io.BytesIO(path.read_bytes()), "X")
    A.reader["data"]._dset = watched = Watched(A.reader["data"]._dset)
    assert_array_equal(A[:].data, plain.data)
    assert max(hi - lo for lo, hi in watched.asked) == 4 * CHUNK


# ------------------------------------------------------------------------------------ handing out


def test_maps_read_nothing(tmp_path, plain, record):
    path = write(tmp_path / "m.h5", plain)
    with diskcsr.open(path) as A:
        assert_array_equal(A.data[[0, -1]], plain.data[[0, -1]])
        assert record.counts(path, "data").sum() == 0
        assert A.reader["data"].bytes_read == 0


def test_what_was_handed_out_is_not_read_again(stored, record, plain):
    _, path = stored
    with diskcsr.open(path) as A:
        A.data, A.indices, A.indptr  # noqa: B018
        record.clear()
        for key in (np.s_[5], np.s_[[300, 2]], np.s_[:, 7], np.s_[3, 4], np.s_[:]):
            A[key]
        A.sum()
        A @ np.ones(N_COLUMNS)
        assert record.ranges == []
        assert record.datasets == []


def test_the_fixture_writes_what_it_says(tmp_path, plain):
    # The harness itself: its idea of where elements lie, against the bytes of the file.
    for layout, options in LAYOUTS.items():
        path = write(tmp_path / f"{layout}.h5", plain, **options)
        raw = path.read_bytes()
        with h5py.File(path, "r") as file:
            for part in PARTS:
                places, width = _places(file["X"][part])
                if layout == "gzip":
                    assert places.size == -(-getattr(plain, part).size // CHUNK)
                    continue
                for at in (0, 7, -1):
                    stored = raw[places[at] : places[at] + width]
                    assert stored == getattr(plain, part)[at].tobytes()
