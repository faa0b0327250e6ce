"""Threads, forked and spawned processes: no deadlock, no abort, right values."""

import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import textwrap
import threading
import time
import warnings
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager

import h5py
import numpy as np
import pytest
from filtered import FILTERS, as_stored, count_matrix, store

import diskcsr

ROWS = 300
#: Nothing here takes a tenth of it; a deadlock would take forever.
PATIENCE = 60


@pytest.fixture(params=["none", "shuffle+gzip"])
def path(request, tmp_path):
    matrix = count_matrix(ROWS, 200, 0.3)
    return store(tmp_path / "m.h5", matrix, chunk=512, steps=FILTERS[request.param])


@pytest.fixture
def compressed(tmp_path):
    matrix = count_matrix(ROWS, 200, 0.3)
    return store(tmp_path / "m.h5", matrix, chunk=512, steps=FILTERS["shuffle+gzip"])


@pytest.fixture(autouse=True)
def few_threads():
    """More threads than cores, and a cache that holds a part of what is read."""
    with diskcsr.options.set(num_threads=3, cache_bytes=20_000):
        yield


def fetch_and_compare(array, whole, seed, times=10):
    """Return how many fetches went wrong."""
    rng = np.random.default_rng(seed)
    buffers = diskcsr.Buffers()
    wrong = 0
    for i in range(times):
        rows = rng.integers(0, ROWS, 40)
        expected = whole[rows]
        found = array.fetch(rows, out=buffers) if i % 2 else array[rows]
        same = np.array_equal(found.indptr, expected.indptr)
        same &= np.array_equal(found.indices, expected.indices)
        wrong += not (same and np.array_equal(found.data, expected.data))
    return wrong


def side_by_side(work, n):
    """Call ``work(i)`` in `n` threads that begin together; fail rather than wait forever."""
    barrier = threading.Barrier(n)
    results = []

    def run(i):
        barrier.wait()
        results.append(work(i))

    threads = [threading.Thread(target=run, args=(i,), daemon=True) for i in range(n)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert not any(thread.is_alive() for thread in threads), "deadlock"
    assert len(results) == n, "a thread failed"
    return results


@contextmanager
def forking():
    """Python 3.12 warns of forks with threads around, which is what these tests are about."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*multi-threaded.*", category=DeprecationWarning)
        yield


def in_child(work):
    """Return what `work` returns in a forked child; the child is ended when it hangs."""
    read, write = os.pipe()
    with forking():
        pid = os.fork()
    if pid == 0:
        try:
            os.close(read)
            os.write(write, pickle.dumps(work()))
        finally:
            os._exit(0)
    os.close(write)
    deadline = time.monotonic() + PATIENCE
    while os.waitpid(pid, os.WNOHANG) == (0, 0):
        if time.monotonic() > deadline:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            pytest.fail("the forked child hangs")
        time.sleep(0.01)
    with os.fdopen(read, "rb") as pipe:
        raw = pipe.read()
    assert raw, "the forked child failed"
    return pickle.loads(raw)


# ------------------------------------------------------------------------------------- threads


def test_many_threads_fetch_from_one_array(path):
    whole = as_stored(path)
    with diskcsr.open(path) as A:
        assert side_by_side(lambda i: fetch_and_compare(A, whole, i), 8) == [0] * 8


def test_the_first_use_by_many_threads_at_once(path):
    """Readers, row pointers, descriptor, map and pool are all made then."""
    whole = as_stored(path)
    for _ in range(5):
        with diskcsr.open(path) as A:
            assert side_by_side(lambda i, A=A: fetch_and_compare(A, whole, i, 1), 6) == [0] * 6


def test_many_threads_fetch_from_two_arrays_over_one_file(path):
    whole = as_stored(path)
    with diskcsr.open(path) as A, diskcsr.open(path) as B:
        pair = [A, B.T.T]
        found = side_by_side(lambda i: fetch_and_compare(pair[i % 2], whole, i), 8)
        assert found == [0] * 8


def test_threads_that_do_different_things(path):
    whole = as_stored(path)
    total = whole.sum()

    def work(i):
        if i % 4 == 0:
            return fetch_and_compare(A, whole, i)
        if i % 4 == 1:
            return int(sum(batch.sum() for batch in A.batches(32, shuffle=True)) != total)
        if i % 4 == 2:
            return int(A.to_memory().sum() != total)
        return int(sum(block.sum() for _, block in A.iter_blocks(5000)) != total)

    with diskcsr.open(path) as A:
        assert side_by_side(work, 8) == [0] * 8


def test_threads_of_a_pool_that_also_write(path, tmp_path):
    """Encoding and decoding share the pool; tasks that wait for tasks would hang."""
    whole = as_stored(path)

    def work(i):
        target = tmp_path / f"{i}.h5"
        with diskcsr.open(path) as A, diskcsr.write(target, A, compression="gzip", chunks=500) as B:
            return fetch_and_compare(B, whole, i, 3)

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(work, range(16), timeout=PATIENCE)) == [0] * 16


def test_the_number_of_threads_changes_meanwhile(path):
    whole = as_stored(path)
    stop = threading.Event()

    def change():
        n = 0
        while not stop.is_set():
            n += 1
            diskcsr.set_num_threads(1 + n % 4)
            time.sleep(0.001)

    changer = threading.Thread(target=change, daemon=True)
    changer.start()
    try:
        with diskcsr.open(path) as A:
            assert side_by_side(lambda i: fetch_and_compare(A, whole, i), 4) == [0] * 4
    finally:
        stop.set()
        changer.join(PATIENCE)


def test_threads_while_h5py_holds_its_lock_now_and_then(path):
    """Metadata and data of other files are read through h5py at the same time."""
    whole = as_stored(path)

    def work(i):
        if i % 2:
            with h5py.File(path, "r") as file:
                return int(not np.array_equal(file["X/data"][:], whole.data))
        with diskcsr.open(path) as A:
            return fetch_and_compare(A, whole, i, 3)

    assert side_by_side(work, 6) == [0] * 6


# ---------------------------------------------------------------------------------------- fork


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
class TestFork:
    def test_child_and_parent_both_fetch(self, path):
        whole = as_stored(path)
        with diskcsr.open(path) as A:
            assert fetch_and_compare(A, whole, 0) == 0  # pool, cache and kernels are in use
            assert in_child(lambda: fetch_and_compare(A, whole, 1)) == 0
            assert fetch_and_compare(A, whole, 2) == 0

    def test_children_of_children(self, path):
        whole = as_stored(path)
        with diskcsr.open(path) as A:
            fetch_and_compare(A, whole, 0)

            def child():
                mine = fetch_and_compare(A, whole, 1)
                return mine + in_child(lambda: fetch_and_compare(A, whole, 2))

            assert in_child(child) == 0

    def test_a_child_opens_and_writes_files_of_its_own(self, path, tmp_path):
        whole = as_stored(path)
        with diskcsr.open(path) as A:
            fetch_and_compare(A, whole, 0)

            def child():
                target = tmp_path / "child.h5"
                with diskcsr.write(target, A, compression="gzip", chunks=300) as B:
                    return fetch_and_compare(B, whole, 1)

            assert in_child(child) == 0
            with diskcsr.open(tmp_path / "child.h5") as B:
                assert fetch_and_compare(B, whole, 2) == 0

    def test_an_epoch_in_the_child(self, path):
        whole = as_stored(path)
        with diskcsr.open(path) as A:
            batches = A.batches(32, shuffle=True, rng=0, buffer_size=64)
            assert sum(batch.sum() for batch in batches) == whole.sum()
            assert in_child(lambda: float(sum(batch.sum() for batch in batches))) == whole.sum()

    def test_in_the_middle_of_an_epoch(self, path):
        """The child drops the parent's iterator, and goes through an epoch of its own."""
        whole = as_stored(path)
        with diskcsr.open(path) as A:
            batches = A.batches(32, buffer_size=32)
            iterator = iter(batches)
            total = float(next(iterator).sum())

            def child():
                nonlocal iterator
                del iterator
                return float(sum(batch.sum() for batch in batches))

            assert in_child(child) == whole.sum()
            assert total + sum(batch.sum() for batch in iterator) == whole.sum()

    def test_while_other_threads_fetch(self, path):
        """Whatever lock they hold at that moment, the child has its own."""
        whole = as_stored(path)
        stop = threading.Event()

        def keep_fetching():
            wrong = 0
            while not stop.is_set():
                wrong += fetch_and_compare(A, whole, 3, 1)
            return wrong

        with diskcsr.open(path) as A, ThreadPoolExecutor(2) as pool:
            fetch_and_compare(A, whole, 0)
            busy = [pool.submit(keep_fetching) for _ in range(2)]
            try:
                for seed in range(8):
                    assert in_child(lambda s=seed: fetch_and_compare(A, whole, s, 2)) == 0
            finally:
                stop.set()
            assert [future.result(PATIENCE) for future in busy] == [0, 0]

    def test_the_cache_in_the_child_keeps_its_books(self, path):
        whole = as_stored(path)
        with diskcsr.open(path) as A:
            fetch_and_compare(A, whole, 0)

            def child():
                diskcsr.options.cache_bytes = 0
                wrong = fetch_and_compare(A, whole, 1)
                return wrong, diskcsr.cache.info().chunks, diskcsr.cache.info().nbytes

            assert in_child(child) == (0, 0, 0)

    def test_multiprocessing_by_fork(self, path):
        whole = as_stored(path)
        with diskcsr.open(path) as A:
            assert fetch_and_compare(A, whole, 0) == 0
            with forking(), ProcessPoolExecutor(2, multiprocessing.get_context("fork")) as pool:
                found = list(pool.map(work_by_path, [path] * 4, range(4), timeout=PATIENCE))
                shared = list(pool.map(work_by_handle, [A] * 4, range(4), timeout=PATIENCE))
            assert found == shared == [0] * 4
            assert fetch_and_compare(A, whole, 5) == 0


def work_by_path(path, seed):
    with diskcsr.open(path) as A:
        return fetch_and_compare(A, as_stored(path), seed, 3)


def work_by_handle(array, seed):
    return fetch_and_compare(array, as_stored(array.filename), seed, 3)


# --------------------------------------------------------------------------------------- spawn

#: A spawned process imports this module again; from a script of its own it has less to import.
SPAWNING = """
    import multiprocessing, sys
    from concurrent.futures import ProcessPoolExecutor
    import numpy as np
    import diskcsr

    def work(array, seed):
        rows = np.random.default_rng(seed).integers(0, array.shape[0], 40)
        batches = array.batches(16, shuffle=True, rng=seed)
        return type(array).__name__, array[rows].sum(), sum(batch.sum() for batch in batches)

    if __name__ == "__main__":
        with diskcsr.open(sys.argv[1]) as A:
            whole = A.to_memory()
            context = multiprocessing.get_context(sys.argv[2])
            with ProcessPoolExecutor(2, context) as pool:
                found = list(pool.map(work, [A, A.T.T, A], range(3), timeout=60))
            expected = [work(A, seed) for seed in range(3)]
            assert found == expected, (found, expected)
            assert found[0][0] == "DiskCSR"
            assert found[0][2] == whole.sum()
        print("done")
"""


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_pickled_handles_in_processes_from_scratch(compressed, tmp_path, method):
    if method not in multiprocessing.get_all_start_methods():
        pytest.skip(f"there is no {method} here")
    script = tmp_path / "spawning.py"
    script.write_text(textwrap.dedent(SPAWNING))
    found = subprocess.run(
        [sys.executable, str(script), str(compressed), method],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert (found.stdout, found.returncode) == ("done\n", 0), found.stderr


def test_joblib_workers(compressed):
    joblib = pytest.importorskip("joblib")
    whole = as_stored(compressed)
    with diskcsr.open(compressed) as A:
        for backend in ("threading", "loky"):
            parallel = joblib.Parallel(n_jobs=2, backend=backend, timeout=PATIENCE)
            rows = [np.random.default_rng(seed).integers(0, ROWS, 20) for seed in range(4)]
            found = parallel(joblib.delayed(diskcsr.DiskCSR.__getitem__)(A, some) for some in rows)
            for some, part in zip(rows, found, strict=True):
                assert np.array_equal(part.toarray(), whole[some].toarray())
    if hasattr(joblib.externals, "loky"):
        joblib.externals.loky.get_reusable_executor().shutdown()


# ------------------------------------------------------------------------------ the program's end

ENDINGS = {
    "an epoch that was begun": "it = iter(A.batches(8, buffer_size=8)); next(it)",
    "blocks that were begun": "it = A.iter_blocks(2000); next(it)",
    "an array left open": "A.fetch(range(40))",
    "an exit in the loop": "[sys.exit(0) for batch in A.batches(8, buffer_size=8)]",
}


@pytest.mark.parametrize("ending", ENDINGS)
def test_the_program_ends(compressed, ending):
    code = f"import sys, diskcsr; A = diskcsr.open(sys.argv[1]); A[:]; {ENDINGS[ending]}"
    found = subprocess.run(
        [sys.executable, "-c", code, str(compressed)],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert (found.returncode, found.stderr) == (0, "")
