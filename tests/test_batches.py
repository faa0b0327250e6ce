"""Batch row fetch: the rows asked for, in memory that is used again; and epochs made of it."""

import gc
import os
import pickle
import platform
import subprocess
import sys
import threading
import tracemalloc
from pathlib import Path

import h5py
import numpy as np
import pytest
from filtered import FILTERS, chunks_of, count_matrix, overwrite, store
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse import csc_array, csr_array, csr_matrix, vstack
from strategies import matrices

import diskcsr
from diskcsr import Buffers, DiskCSC, DiskCSR
from diskcsr.blocks.contents import Contents

ROWS = 103


@pytest.fixture(params=["none", "shuffle+gzip"])
def path(request, tmp_path):
    return store(tmp_path / "m.h5", count_matrix(ROWS), chunk=100, steps=FILTERS[request.param])


@pytest.fixture
def matrix():
    return count_matrix(ROWS)


@pytest.fixture
def array(path):
    with diskcsr.open(path) as opened:
        yield opened


def same(found, expected, build=csr_array):
    assert type(found) is build
    assert found.dtype == expected.dtype
    assert found.shape == expected.shape
    assert found.indices.dtype == found.indptr.dtype == np.int32
    assert np.array_equal(found.toarray(), expected.toarray())
    found.check_format(full_check=True)


def our_threads():
    """Threads of this package, less the pool's, which stays."""
    names = [thread.name for thread in threading.enumerate()]
    return [name for name in names if "diskcsr" in name and not name.startswith("diskcsr_")]


def address(batch):
    return batch.data.ctypes.data, batch.indices.ctypes.data


# --------------------------------------------------------------------------------------- fetch

KEYS = [
    [3, 50, 3, 102, 0],
    [],
    [-1, -103],
    np.array([7], np.uint8),
    np.arange(103)[::-1],
    slice(None),
    slice(90, 3, -7),
    slice(5, 5),
    np.arange(103) % 3 == 1,
    [True] * 103,
    range(4, 60, 5),
    5,
]


@pytest.mark.parametrize("rows", KEYS, ids=str)
def test_fetch_is_indexing(array, matrix, rows):
    expected = matrix[np.atleast_1d(np.arange(ROWS)[rows])]
    same(array.fetch(rows), expected)
    buffers = Buffers()
    same(array.fetch(rows, out=buffers), expected)


@given(matrix=matrices(), data=st.data())
def test_fetch_of_any_matrix(tmp_path_factory, matrix, data):
    path = tmp_path_factory.mktemp("fetch") / "m.h5"
    store(path, matrix, chunk=4, steps=FILTERS["gzip"])
    n = matrix.shape[0] if matrix.format == "csr" else matrix.shape[1]
    rows = data.draw(st.lists(st.integers(-n, n - 1), max_size=12) if n else st.just([]))
    buffers = Buffers()
    with diskcsr.open(path) as A:
        for wanted in (rows, rows[::-1], rows[:2]):
            found = A.fetch(wanted, out=buffers)
            wanted = np.array(wanted, int)
            expected = matrix[wanted] if matrix.format == "csr" else matrix[:, wanted]
            assert type(found) is (csr_array if matrix.format == "csr" else csc_array)
            assert found.dtype == matrix.dtype
            assert found.shape == expected.shape
            assert np.array_equal(found.toarray(), expected.toarray())


def test_fetch_of_a_csc_gives_columns(tmp_path, matrix):
    columns = [5, 39, 0, 5]
    path = store(tmp_path / "m.h5", matrix.tocsc(), chunk=50, steps=FILTERS["lzf"])
    with diskcsr.open(path) as A:
        same(A.fetch(columns), matrix.tocsc()[:, columns], csc_array)
        same(A.T.fetch(columns), matrix.T.tocsr()[columns])


def test_fetch_has_the_flavour_of_the_array(path, matrix):
    with diskcsr.open(path, spmatrix=True) as A:
        same(A.fetch([3, 1]), matrix[[3, 1]], csr_matrix)


def test_fetch_into_buffers_uses_the_same_memory(array, matrix):
    buffers = Buffers()
    first = array.fetch(np.arange(60), out=buffers)
    where, nbytes = address(first), buffers.nbytes
    assert 0 < nbytes < 1.2 * (8 * first.nnz + 4 * 61) + 1000
    rng = np.random.default_rng(0)
    for _ in range(20):
        rows = rng.integers(0, ROWS, 40)
        batch = array.fetch(rows, out=buffers)
        same(batch, matrix[rows])
        assert address(batch) == where
    assert buffers.nbytes == nbytes
    assert np.shares_memory(batch.data, first.data)


def test_buffers_grow_when_they_must(array, matrix):
    buffers = Buffers()
    kept = array.fetch([1], out=buffers)
    copy = kept.copy()
    big = array.fetch(slice(None), out=buffers)
    same(big, matrix)
    # New memory was taken, so what lay in the old is still there.
    same(kept, copy)
    assert "kB" in repr(buffers)


def test_buffers_in_use():
    buffers = Buffers()
    assert not buffers.in_use()
    view = buffers.take("a", 10, np.float32)[2:5].view(np.uint8)[1:]
    assert buffers.in_use()
    held = memoryview(view)
    del view
    assert buffers.in_use()
    del held
    assert not buffers.in_use()


@pytest.mark.parametrize("filter", ["none", "shuffle+gzip", "lzf", "scaleoffset"])
def test_fetching_allocates_nothing_that_grows_with_the_batch(tmp_path, filter):
    """In the steady state: what is left are row numbers and plans."""
    matrix = count_matrix(200, 8000, 0.5)
    path = store(tmp_path / "m.h5", matrix, chunk=4096, steps=FILTERS[filter])
    buffers = Buffers()
    rows = np.random.default_rng(0).integers(0, 200, 100)
    with diskcsr.open(path) as A, diskcsr.options.set(num_threads=2, cache_bytes=0):
        for _ in range(4):
            batch = A.fetch(rows, out=buffers)
        nbytes = batch.data.nbytes + batch.indices.nbytes
        assert nbytes > 2_500_000
        tracemalloc.start()
        try:
            for _ in range(3):
                batch = A.fetch(rows, out=buffers)
                tracemalloc.reset_peak()
            before = tracemalloc.get_traced_memory()[0]
            batch = A.fetch(rows, out=buffers)
            peak = tracemalloc.get_traced_memory()[1] - before
        finally:
            tracemalloc.stop()
    assert np.array_equal(batch.data, matrix[rows].data)
    assert peak < nbytes / 8


_FAULTS = """
import resource, sys
import numpy as np, diskcsr

diskcsr.set_num_threads(1)
with diskcsr.open(sys.argv[1]) as A:
    for k in [600, 580, 620, 600] * 6:
        rows = np.arange(k)[::-1]
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        batch = A[rows]
        print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
        del batch
"""


@pytest.mark.alone
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the allocator of glibc")
def test_memory_of_freed_results_is_used_again(tmp_path):
    """Batches of about one size: the pages of one serve the next."""
    matrix = csr_array(np.ones((650, 600), np.float32))
    path = tmp_path / "m.h5"
    diskcsr.write(path, matrix).close()
    keys = {"MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_TOP_PAD_"}
    found = subprocess.run(
        [sys.executable, "-c", _FAULTS, str(path)],
        env={key: value for key, value in os.environ.items() if key not in keys},
        capture_output=True,
        text=True,
        check=True,
    )
    faults = [int(line) for line in found.stdout.split()]
    pages = 580 * 600 * 8 // 4096  # of a result; without it all of them are new in each fetch
    assert len(faults) == 24
    assert sorted(faults[4:])[10] < pages / 20


@pytest.mark.parametrize(
    "rows", [[103], [-104], [0, 1000], [True] * 5, np.ones(104, bool), [0.5], "a", [[1, 2]], None]
)
def test_fetch_refuses_what_indexing_refuses(array, rows):
    with pytest.raises(IndexError):
        array.fetch(rows)


def test_fetch_of_a_closed_array(path):
    with diskcsr.open(path) as A:
        A.fetch([1])
    with pytest.raises(diskcsr.ClosedFileError):
        A.fetch([1])


def test_fetch_of_arrays_that_were_handed_out(array, matrix):
    """They, not the file, are the truth; the buffers hold a copy."""
    array.data[:] = 5
    buffers = Buffers()
    batch = array.fetch([4, 2], out=buffers)
    assert np.all(batch.data == 5)
    batch.data[:] = 6
    assert np.all(array.data == 5)
    array.release()
    same(array.fetch([4, 2], out=buffers), matrix[[4, 2]])


# -------------------------------------------------------------------------------------- epochs


@given(
    n=st.integers(1, 60),
    batch_size=st.integers(1, 70),
    shuffle=st.booleans(),
    block_size=st.integers(1, 20),
    buffer_size=st.none() | st.integers(1, 100),
    drop_last=st.booleans(),
    data=st.data(),
)
def test_every_row_once(
    tmp_path_factory, n, batch_size, shuffle, block_size, buffer_size, drop_last, data
):
    path = tmp_path_factory.mktemp("epoch") / "m.h5"
    matrix = count_matrix(n, 9, 0.5)
    store(path, matrix, chunk=16, steps=FILTERS["gzip"])
    key = data.draw(
        st.one_of(
            st.none(),
            st.lists(st.integers(-n, n - 1), max_size=30),
            st.builds(
                slice,
                st.none() | st.integers(-n, n),
                st.none() | st.integers(-n, n),
                st.sampled_from([None, 1, 2, 3, -1, -2]),
            ),
            st.lists(st.booleans(), min_size=n, max_size=n).map(np.array),
        )
    )
    wanted = np.arange(n)[slice(None) if key is None else np.array(key, int) if
                          isinstance(key, list) else key]  # fmt: skip
    with diskcsr.open(path) as A:
        batches = A.batches(
            batch_size,
            shuffle=shuffle,
            rng=3,
            block_size=block_size,
            buffer_size=buffer_size,
            drop_last=drop_last,
            rows=key,
            return_rows=True,
        )
        found = list(batches)
    count = wanted.size // batch_size if drop_last else -(-wanted.size // batch_size)
    assert len(batches) == len(found) == count
    sizes = [batch.shape[0] for _, batch in found]
    assert all(size == batch_size for size in sizes[:-1])
    assert sum(sizes) == (count * batch_size if drop_last else wanted.size)
    for rows, batch in found:
        assert rows.dtype == np.int64
        assert type(batch) is csr_array
        assert np.array_equal(batch.toarray(), matrix[rows].toarray())
    order = np.concatenate([np.empty(0, int), *(rows for rows, _ in found)])
    if not shuffle:
        assert order.tolist() == wanted[: order.size].tolist()
    elif not drop_last:
        assert sorted(order) == sorted(wanted)
    else:
        left = list(wanted)
        for row in order:
            left.remove(row)  # each as often as it is wanted, not more


@pytest.mark.parametrize(("block_size", "buffer_size"), [(1, None), (8, 32), (8, 1000), (40, 10)])
def test_the_order_depends_on_rng_and_epoch_alone(array, block_size, buffer_size):
    def order(rng, threads, epochs=1):
        with diskcsr.options.set(num_threads=threads):
            batches = array.batches(
                10,
                shuffle=True,
                rng=rng,
                block_size=block_size,
                buffer_size=buffer_size,
                return_rows=True,
            )
            runs = [np.concatenate([rows for rows, _ in batches]) for _ in range(epochs)]
        assert batches.epoch == epochs
        return [run.tolist() for run in runs]

    first = order(0, 1, 3)
    for threads in (1, 2, 4):
        assert order(0, threads, 3) == first
    assert first[0] != first[1] != first[2] != first[0]
    assert order(1, 1)[0] != first[0]
    assert all(sorted(run) == list(range(ROWS)) for run in first)
    assert order(None, 1)[0] != order(None, 1)[0]


def test_a_generator_as_rng(array):
    def order(rng):
        batches = array.batches(10, shuffle=True, rng=rng, return_rows=True)
        return [rows.tolist() for _ in range(2) for rows, _ in batches]

    assert order(np.random.default_rng(5)) == order(np.random.default_rng(5))
    used = np.random.default_rng(5)
    assert order(used) != order(used)


@pytest.mark.parametrize("rng", [-1, 0.5, "0", np.random.RandomState(0)])
def test_what_rng_cannot_be(array, rng):
    with pytest.raises(ValueError, match="rng must be a"):
        array.batches(10, shuffle=True, rng=rng)


def test_positions_come_first(array):
    """As of `iter_blocks`: where the rows are, then the rows."""
    ((first, block),) = array.iter_blocks()
    ((rows, batch),) = array.batches(ROWS, return_rows=True)
    assert (first, rows.tolist()) == (0, list(range(ROWS)))
    same(batch, block)


def test_blocks_stay_together_in_a_buffer(array):
    batches = array.batches(
        8, shuffle=True, rng=1, block_size=8, buffer_size=32, return_rows=True, rows=slice(0, 96)
    )
    order = np.concatenate([rows for rows, _ in batches])
    for first in range(0, 96, 32):
        some = order[first : first + 32]
        blocks, counts = np.unique(some // 8, return_counts=True)
        assert counts.tolist() == [8] * 4
        assert np.any(np.diff(blocks) != 1) or first == 64
        # Within the buffer rows are shuffled singly.
        assert len({tuple(batch // 8) for batch in some.reshape(4, 8)}) > 1
        assert any(len(set(batch // 8)) > 1 for batch in some.reshape(4, 8))


def test_fully_random_rows_are(array):
    """Each place of the order is taken by rows from everywhere: no row stays near where it lies."""
    batches = array.batches(ROWS, shuffle=True, rng=0, return_rows=True)
    places = np.array([rows for _ in range(300) for rows, _ in batches])
    assert abs(places.mean(axis=0) - (ROWS - 1) / 2).max() < 10


def test_kept_batches_are_never_overwritten(array, matrix):
    for buffer_size in (1, 10, 37, 1000):
        kept = list(array.batches(5, buffer_size=buffer_size))
        same(vstack(kept, format="csr"), matrix)
        views = [batch.data[1:] for batch in array.batches(5, buffer_size=buffer_size)]
        assert [view.tolist() for view in views] == [batch.data[1:].tolist() for batch in kept]


def test_two_epochs_at_a_time_do_not_share_memory(array, matrix):
    batches = array.batches(10, buffer_size=10)
    for _ in range(5):
        pairs = zip(batches, batches, strict=True)
        for i, (one, two) in enumerate(pairs):
            same(one, matrix[10 * i : 10 * i + 10])
            same(two, matrix[10 * i : 10 * i + 10])


def test_two_threads_that_share_the_batches(array, matrix):
    batches = array.batches(4, buffer_size=4)
    wrong = []

    def work():
        for _ in range(6):
            for i, batch in enumerate(batches):
                if not np.array_equal(batch.toarray(), matrix[4 * i : 4 * i + 4].toarray()):
                    wrong.append(i)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not any(thread.is_alive() for thread in threads)
    assert not wrong


def test_batches_of_a_csc_are_columns(tmp_path, matrix):
    path = store(tmp_path / "m.h5", matrix.tocsc(), chunk=50, steps=FILTERS["gzip"])
    with diskcsr.open(path) as A:
        batches = A.batches(7, shuffle=True, rng=0, return_rows=True)
        assert len(batches) == 6
        for columns, batch in batches:
            same(batch, matrix.tocsc()[:, columns], csc_array)


@pytest.mark.parametrize(("format", "majors"), [("csr", "rows"), ("csc", "columns")])
def test_messages_say_which_lines_are_meant(tmp_path, matrix, format, majors):
    path = tmp_path / "m.h5"
    A = diskcsr.write(path, matrix, format=format)
    number = A.shape[0 if format == "csr" else 1]
    calls = [
        lambda rows: A.fetch(rows),
        lambda rows: A.batches(3, rows=rows),
    ]
    for call in calls:
        for rows in ([number], [-number - 1], [True] * (number + 1), [0.5], "all", [[0, 1]]):
            with pytest.raises(
                IndexError, match=f"^{majors} are .* {number} {majors}: not "
            ) as caught:
                call(rows)
            assert repr(rows) in str(caught.value)
    with pytest.raises(
        ValueError, match=f"batch_size must be a positive number of {majors}, not 0"
    ):
        A.batches(0)
    assert f"of 7 {majors}, in order" in repr(A.batches(7))
    with (
        diskcsr.options.set(memory_budget=100),
        pytest.raises(MemoryError, match=f"some {majors} at"),
    ):
        A.toarray()
    A.close()
    with diskcsr.open(path, mode="r+") as B:
        with pytest.raises(diskcsr.ReadOnlyError, match=f"append\\(\\) adds {majors}"):
            B.resize(1, 1)
        minors = "columns" if format == "csr" else "rows"
        with pytest.raises(ValueError, match=f"block 0 .*: 2 {minors}, where the matrix"):
            B.append([1, 2])


@pytest.mark.parametrize("kind", [DiskCSR, DiskCSC])
def test_fetch_is_indexing_along_what_is_stored(tmp_path, matrix, kind):
    A = diskcsr.write(tmp_path / "m.h5", matrix, format="csr" if kind is DiskCSR else "csc")
    plain = A.to_memory()
    some = [3, 0, -1, 3]
    same(A.fetch(some), plain[some] if kind is DiskCSR else plain[:, some], type(plain))


def test_the_matrix_without_rows(tmp_path):
    path = store(tmp_path / "m.h5", csr_array((0, 5), dtype=np.float32))
    with diskcsr.open(path) as A:
        for options in ({}, {"shuffle": True}, {"drop_last": True}):
            batches = A.batches(3, **options)
            assert len(batches) == 0
            assert list(batches) == []


def test_rows_without_entries(tmp_path):
    path = store(tmp_path / "m.h5", csr_array((10, 5), dtype=np.float32))
    with diskcsr.open(path) as A:
        assert [batch.shape for batch in A.batches(4)] == [(4, 5), (4, 5), (2, 5)]


@pytest.mark.parametrize("name", ["batch_size", "block_size", "buffer_size"])
@pytest.mark.parametrize("value", [0, -1, 2.5])
def test_sizes_must_be_positive_integers(array, name, value):
    with pytest.raises(ValueError, match=f"{name} must be a positive number of rows, not {value}"):
        array.batches(**{"batch_size": 4, name: value})


def test_rows_must_exist(array):
    with pytest.raises(IndexError):
        array.batches(4, rows=[103])
    with pytest.raises(IndexError):
        array.batches(4, rows=[True])


def test_what_it_says_of_itself(array):
    ordered = array.batches(10, buffer_size=100)
    assert repr(ordered) == "<Batches: 11 of 10 rows, in order, 100 fetched at a time>"
    shuffled = array.batches(10, shuffle=True, block_size=4, buffer_size=25)
    assert repr(shuffled) == (
        "<Batches: 11 of 10 rows, shuffled, blocks of 4, 20 fetched at a time>"
    )
    assert shuffled.buffer_size == 20


# ------------------------------------------------------------------------------ memory, threads


def test_memory_stays_flat_over_an_epoch(tmp_path):
    matrix = count_matrix(400, 1000, 0.5)
    path = store(tmp_path / "m.h5", matrix, chunk=4096, steps=FILTERS["shuffle+gzip"])
    buffer_bytes = matrix.nnz * 8 // 40
    with diskcsr.open(path) as A, diskcsr.options.set(cache_bytes=0):
        batches = A.batches(5, buffer_size=10, shuffle=True, rng=0)
        places = set()
        list(zip(batches, range(20), strict=False))  # kernels are compiled now
        gc.collect()
        tracemalloc.start()
        try:
            total = 0
            for batch in batches:
                places.add(address(batch)[0])
                total += batch.nnz
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    assert total == matrix.nnz
    # Three buffers: one that is used, one that is fetched, one with the batch the loop still has.
    # Each is cut into two batches, at a place that varies.
    assert len(batches._lines._spare) <= 3
    assert peak < 4 * buffer_bytes * Buffers.SLACK + 300_000
    assert peak < matrix.nnz * 8 / 2


def test_early_break_leaves_no_thread(array):
    for stop in (0, 1, 5):
        for i, _ in enumerate(array.batches(4, buffer_size=8)):
            if i == stop:
                break
        assert our_threads() == []
    array.fetch([1])  # still open and well


def test_an_exception_in_the_consumer_leaves_no_thread(array):
    def consume():
        for i, _ in enumerate(array.batches(4, buffer_size=8, shuffle=True)):
            if i == 3:
                raise KeyError("consumer")

    with pytest.raises(KeyError, match="consumer"):
        consume()
    assert our_threads() == []


def test_an_iterator_that_is_dropped_or_never_begun_leaves_no_thread(array):
    never = iter(array.batches(4))
    begun = iter(array.batches(4, buffer_size=4))
    next(begun)
    assert our_threads() != []
    del never, begun
    gc.collect()
    assert our_threads() == []


def test_a_finished_epoch_leaves_no_thread(array):
    list(array.batches(4, buffer_size=8))
    assert our_threads() == []


def test_the_array_closed_in_the_middle(path):
    with diskcsr.open(path) as A:
        batches = iter(A.batches(4, buffer_size=4))
        next(batches)
    with pytest.raises(diskcsr.ClosedFileError):
        list(batches)
    assert our_threads() == []


@pytest.mark.parametrize("threads", [1, 2])
def test_an_error_while_fetching_reaches_the_consumer(tmp_path, threads):
    matrix = count_matrix(ROWS)
    path = store(tmp_path / "m.h5", matrix, chunk=50, steps=FILTERS["gzip"])
    first, _, place, nbytes = chunks_of(path, "X/data")[10]
    overwrite(path, place + nbytes // 2, bytes(8))
    bad = int(np.searchsorted(matrix.indptr, first, side="right")) - 1
    with diskcsr.open(path) as A, diskcsr.options.set(num_threads=threads):
        got = []

        def consume():
            for rows, batch in A.batches(2, buffer_size=2, return_rows=True):
                same(batch, matrix[rows])
                got.extend(rows)

        with pytest.raises(diskcsr.CorruptFileError, match="chunk 10: filter 1"):
            consume()
        assert got == list(range(bad - bad % 2))
        assert our_threads() == []
        # The next epoch begins anew, and meets it again.
        assert len(list(A.batches(2, buffer_size=2, rows=slice(0, bad)))) == -(-bad // 2)


def test_a_file_changed_in_the_middle_is_noticed(path, matrix):
    with diskcsr.open(path) as A:
        batches = iter(A.batches(2, buffer_size=2))
        next(batches)
        with path.open("ab") as file:
            file.write(b"more")
        with pytest.raises(diskcsr.StaleFileError):
            list(batches)


def test_the_next_buffer_is_fetched_while_this_one_is_used(array, monkeypatch):
    fetched = threading.Event()
    batches = array.batches(4, buffer_size=4)
    read, calls = Contents.read, []

    def counted(contents, plan, buffers):
        calls.append(threading.current_thread().name)
        if len(calls) == 2:
            fetched.set()
        return read(contents, plan, buffers)

    monkeypatch.setattr(Contents, "read", counted)
    iterator = iter(batches)
    next(iterator)
    assert fetched.wait(10)
    assert len(calls) <= 2  # and not more than that one
    iterator.close()


@pytest.mark.parametrize("library", ["pickle", "cloudpickle"])
@pytest.mark.parametrize("flip", [False, True], ids=["array", "transpose"])
def test_a_pickled_copy_goes_through_the_same_epochs(array, library, flip):
    library = pytest.importorskip(library)
    source = array.T if flip else array
    batches = source.batches(10, shuffle=True, block_size=3, buffer_size=40, return_rows=True)
    list(batches)
    again = library.loads(library.dumps(batches))
    assert len(library.dumps(batches)) < 3000
    assert (again.epoch, len(again), repr(again)) == (1, len(batches), repr(batches))
    for _ in range(2):
        for (rows, batch), (numbers, other) in zip(batches, again, strict=True):
            assert np.array_equal(rows, numbers)
            same(other, batch, type(batch))


def test_pickled_while_an_epoch_is_on(array, matrix):
    batches = array.batches(40, rows=[5, 1, 77], shuffle=True, rng=3)
    running = iter(batches)
    again = pickle.loads(pickle.dumps(batches))
    assert again.epoch == 1
    (batch,) = running
    assert sorted(batch.sum(1)) == sorted(matrix[[5, 1, 77]].sum(1))
    (batch,), (other,) = batches, again
    same(other, batch)


def test_a_pickled_copy_has_what_was_changed_in_memory(path, matrix):
    with diskcsr.open(path, mode="c") as A:
        A.data[:] = np.arange(A.nnz)
        expected = list(A.batches(20))
        again = pickle.loads(pickle.dumps(A.batches(20)))
    for batch, other in zip(expected, again, strict=True):
        same(other, batch)


def test_batches_keep_the_flavour_of_the_array(path):
    with diskcsr.open(path, spmatrix=True) as A:
        again = pickle.loads(pickle.dumps(A.batches(50)))
        assert [type(batch) for batch in again] == [csr_matrix] * 3


@pytest.mark.skipif(sys.platform != "linux", reason="wants /proc")
def test_files_are_closed_after_epochs(path):
    def descriptors():
        links = Path("/proc/self/fd").iterdir()
        return sum(link.is_symlink() and link.readlink() == path for link in list(links))

    with diskcsr.open(path) as A:
        list(A.batches(10, shuffle=True))
        assert descriptors() >= 1
    del A
    gc.collect()
    assert descriptors() == 0


@pytest.mark.parametrize(("filters", "name"), [("none", "h5py"), ("gzip", "decode")])
def test_through_h5py_alone(tmp_path, matrix, filters, name):
    """What no fast reader serves comes in batches all the same."""
    path = store(tmp_path / "m.h5", matrix, chunk=50, steps=FILTERS[filters])
    with h5py.File(path, "r", driver="core") as file:
        A = diskcsr.open(file)
        assert A.reader["data"].name == name
        for rows, batch in A.batches(10, shuffle=True, rng=0, return_rows=True):
            same(batch, matrix[rows])
