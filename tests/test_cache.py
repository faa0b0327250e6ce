"""The cache of decoded chunks: a budget that is kept, and never a chunk of another file."""

import os
import threading

import h5py
import numpy as np
import pytest
from filtered import FILTERS, as_stored, count_matrix, store

import diskcsr
from diskcsr.machine.cache import CacheInfo, ChunkCache, cache

KB = 1000


@pytest.fixture(autouse=True)
def emptied():
    cache.clear()
    with diskcsr.options.set(cache_bytes=1 << 20):
        yield
    cache.clear()


@pytest.fixture
def budget():
    """Ten chunks of 100 bytes."""
    with diskcsr.options.set(cache_bytes=1000):
        yield ChunkCache()


@pytest.fixture
def path(tmp_path):
    return store(tmp_path / "m.h5", count_matrix(200, 100), chunk=256, steps=FILTERS["gzip"])


def chunk(value, nbytes=100):
    return np.full(nbytes, value, np.uint8)


def use(held, numbers):
    """One call that wants these chunks, as the decoding reader does it; how many were found."""
    call, hits = held.new_call(), 0
    for number in numbers:
        found = held.get((number,), call)
        if found is None:
            if held.admits(100, call):
                held.put((number,), chunk(number), call)
        else:
            assert np.all(found == number)
            hits += 1
    return hits


# ------------------------------------------------------------------------------- the cache alone


def test_what_was_put_is_found(budget):
    call = budget.new_call()
    one = chunk(1)
    budget.put(("file", 1), one, call)
    assert budget.get(("file", 1), call) is one
    assert budget.get(("file", 2), call) is None
    assert budget.get(("other", 1), call) is None
    assert budget.info() == CacheInfo(hits=1, misses=2, chunks=1, nbytes=100, max_bytes=1000)


def test_chunks_are_read_only(budget):
    budget.put((1,), chunk(1), budget.new_call())
    with pytest.raises(ValueError, match="read-only"):
        budget.get((1,), 0)[0] = 2


def test_the_budget_is_kept(budget):
    for number in range(100):
        for _ in range(budget.RECENT + 2):
            budget.new_call()
        budget.put((number,), chunk(number % 250, 37 + number), budget.new_call())
        info = budget.info()
        assert info.nbytes <= 1000
        assert info.nbytes == sum(entry.chunk.nbytes for entry in budget._entries.values())
    assert info.chunks > 3
    assert budget.get((99,), budget.new_call()) is not None  # the last is there
    assert budget.get((0,), budget.new_call()) is None  # the first made room


def test_a_chunk_too_large_is_not_kept(budget):
    call = budget.new_call()
    assert budget.admits(250, call)
    assert not budget.admits(251, call)
    assert not budget.admits(0, call)
    budget.put((1,), chunk(1, 251), call)
    assert budget.info().chunks == 0


def test_a_second_copy_is_not_counted(budget):
    call = budget.new_call()
    first = chunk(1)
    budget.put((1,), first, call)
    budget.put((1,), chunk(1), call)
    assert budget.info().nbytes == 100
    assert budget.get((1,), call) is first


def test_a_cycle_longer_than_the_budget_keeps_a_part(budget):
    """Replacing the oldest would always drop the one needed next, and never find any."""
    assert use(budget, range(20)) == 0
    for _ in range(50):
        assert use(budget, range(20)) >= 9
    assert budget.info().nbytes <= 1000


def test_random_chunks_are_found_as_often_as_the_budget_allows(budget):
    rng = np.random.default_rng(0)
    hits = sum(use(budget, rng.permutation(40)[:20]) for _ in range(200))
    assert hits > 200 * 20 * (10 / 40) * 0.8


def test_what_is_not_used_any_more_makes_room(budget):
    use(budget, range(10))
    for _ in range(budget.RECENT + 2):
        use(budget, range(100, 110))
    assert use(budget, range(100, 110)) == 10
    assert use(budget, range(10)) == 0


def test_clear(budget):
    use(budget, range(5))
    use(budget, range(5))
    assert budget.info()[:4] == (5, 5, 5, 500)
    budget.clear()
    assert budget.info() == (0, 0, 0, 0, 1000)
    assert use(budget, range(5)) == 0


def test_a_lower_budget_frees_memory_at_the_next_call(budget):
    use(budget, range(10))
    with diskcsr.options.set(cache_bytes=450):
        assert use(budget, range(6, 10)) == 4  # the youngest stayed
        assert budget._nbytes == 400
        assert budget.info().max_bytes == 450


@pytest.mark.parametrize("size", [0, -1])
def test_off(budget, size):
    use(budget, range(10))
    with diskcsr.options.set(cache_bytes=size):
        assert use(budget, range(10)) == 0
        assert budget._nbytes == len(budget._entries) == 0
        assert not budget.admits(1, budget.new_call())
        assert budget.info()[2:] == (0, 0, size)
    assert use(budget, range(10)) == 0
    assert use(budget, range(10)) == 10


def test_many_threads_at_once(budget):
    errors = []

    def hammer(seed):
        rng = np.random.default_rng(seed)
        try:
            for i in range(400):
                use(budget, rng.integers(0, 30, 8))
                if i % 50 == seed:
                    budget.clear()
                if i % 20 == seed:
                    diskcsr.options.cache_bytes = int(rng.integers(0, 1500))
                    budget.info()
        except BaseException as error:  # would be lost with the thread
            errors.append(error)

    threads = [threading.Thread(target=hammer, args=(seed,), daemon=True) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not any(thread.is_alive() for thread in threads)
    assert errors == []
    info = budget.info()
    assert 0 <= info.nbytes <= info.max_bytes
    assert info.nbytes == sum(entry.chunk.nbytes for entry in budget._entries.values())


def test_what_it_says_of_itself(budget):
    use(budget, range(5))
    assert repr(budget) == "<ChunkCache: 5 chunks, 500 B of 1.0 kB, 0 hits, 5 misses>"


# -------------------------------------------------------------------------- as the arrays use it


def test_it_is_one_of_the_process():
    assert diskcsr.cache is cache


def test_chunks_are_found_at_the_next_call(path):
    whole = as_stored(path)
    with diskcsr.open(path) as A:
        for rows, expected in (([3, 90, 150], 0), ([150, 3, 3], 1)):
            before = diskcsr.cache.info()
            assert np.array_equal(A[rows].toarray(), whole[rows].toarray())
            after = diskcsr.cache.info()
            assert (after.hits > before.hits) == expected
            assert (after.misses > before.misses) == (not expected)
        assert after.chunks == after.misses > 0


def test_whole_chunks_do_not_come_here(path):
    with diskcsr.open(path) as A:
        A.to_memory()
        assert diskcsr.cache.info().chunks <= 3  # the last of each dataset is wanted in part


def test_uncompressed_data_do_not_come_here(tmp_path):
    with diskcsr.open(store(tmp_path / "m.h5", count_matrix(), chunk=64)) as A:
        A[[3, 50]]
        assert diskcsr.cache.info() == (0, 0, 0, 0, 1 << 20)


def test_the_budget_holds_for_all_arrays(tmp_path):
    arrays = []
    for i in range(3):
        path = tmp_path / f"{i}.h5"
        store(path, count_matrix(200, 100, seed=i), chunk=256, steps=FILTERS["gzip"])
        arrays.append((diskcsr.open(path), as_stored(path)))
    rng = np.random.default_rng(0)
    with diskcsr.options.set(cache_bytes=10 * KB):
        for _ in range(10):
            for A, whole in arrays:
                rows = rng.integers(0, 200, 5)
                assert np.array_equal(A[rows].toarray(), whole[rows].toarray())
                assert 0 < diskcsr.cache.info().nbytes <= 10 * KB
    for A, _ in arrays:
        A.close()


def test_two_arrays_over_one_file_share_chunks(path):
    with diskcsr.open(path) as A, diskcsr.open(path) as B:
        A[[3, 90]]
        before = diskcsr.cache.info()
        found = B[[90, 3]]
        after = diskcsr.cache.info()
        assert after.misses - before.misses <= 2  # the row pointers, perhaps
        assert after.hits > before.hits
        assert np.array_equal(found.toarray(), as_stored(path)[[90, 3]].toarray())


def test_datasets_and_groups_of_one_file_are_told_apart(tmp_path):
    path = store(tmp_path / "m.h5", count_matrix(seed=0), chunk=64, steps=FILTERS["gzip"])
    with h5py.File(path, "r+") as file:
        file.copy("X", "Y")
        file["Y/data"][:] = file["X/data"][:] * 2
    with diskcsr.open(path, "X") as X, diskcsr.open(path, "Y") as Y:
        for _ in range(2):
            assert np.array_equal(2 * X[[3, 40]].toarray(), Y[[3, 40]].toarray())


@pytest.mark.parametrize("how", ["in place", "replaced", "removed"])
def test_a_rewritten_file_is_read_anew(tmp_path, how):
    """The same name, the same shape, other values."""
    path = tmp_path / "m.h5"
    for seed in range(4):
        matrix = count_matrix(200, 100)
        matrix.data = np.random.default_rng(seed).integers(1, 99, matrix.nnz).astype("f4")
        target = path if how == "in place" else tmp_path / "new.h5"
        if how == "removed" and path.exists():
            path.unlink()
        store(target, matrix, chunk=256, steps=FILTERS["gzip"])
        # The clock of the file system need not tick between two writes; time does pass.
        os.utime(target, ns=(seed * 10**9, seed * 10**9))
        if how != "in place":
            os.replace(target, path)
        with diskcsr.open(path) as A:
            for _ in range(2):
                assert np.array_equal(A[[3, 90]].toarray(), matrix[[3, 90]].toarray())


def test_a_file_changed_while_open_is_refused_even_where_chunks_are_kept(path):
    with diskcsr.open(path) as A:
        A[[3, 90]], A[[3, 90]]
        os.utime(path, ns=(0, 0))
        with pytest.raises(diskcsr.StaleFileError):
            A[[3, 90]]


def test_turning_it_off_and_on(path):
    whole = as_stored(path)
    with diskcsr.open(path) as A:
        for size in (0, 5 * KB, 1 << 20, 0, 1 << 20):
            diskcsr.options.cache_bytes = size
            for _ in range(3):
                assert np.array_equal(A[[3, 90]].toarray(), whole[[3, 90]].toarray())
            assert diskcsr.cache.info().nbytes <= size
            assert (diskcsr.cache.info().chunks > 0) == (size > 0)
