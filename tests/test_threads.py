"""The thread pool: results in order, errors passed on, nothing that waits for itself."""

import gc
import multiprocessing
import os
import signal
import threading
import time
import weakref
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from scipy.sparse import csr_array

import diskcsr
from diskcsr.machine import threads
from diskcsr.machine.options import options
from diskcsr.machine.threads import ordered_map, run_parts

#: Seconds after which something that takes none is taken to hang.
PATIENCE = 60


@pytest.fixture(autouse=True, params=[1, 2, 5])
def num_threads(request):
    """Every test runs in the calling thread alone, and with fewer and more threads than parts."""
    with options.set(num_threads=request.param):
        yield request.param


several_threads = pytest.mark.parametrize("num_threads", [2, 5], indirect=True)


def slowly_square(number):
    """The lower the number, the longer it takes: results come in the wrong order."""
    time.sleep(max(0, 5 - number) / 1000)
    return number**2


class Failure(Exception):
    """What a part raises."""


def fail_on(*bad):
    """A function that raises for some numbers, and the numbers it finished otherwise."""
    done = []

    def function(number):
        if number in bad:
            raise Failure(number)
        time.sleep(0.01)
        done.append(number)
        return number

    return function, done


# -------------------------------------------------------------------------------- run_parts


@pytest.mark.parametrize("n", [0, 1, 2, 3, 20])
def test_run_parts_keeps_the_order(n):
    assert run_parts(slowly_square, list(range(n))) == [i**2 for i in range(n)]


def test_run_parts_uses_this_thread_and_the_pool(num_threads):
    names = run_parts(lambda _: threading.current_thread().name, list(range(4)))
    here = threading.current_thread().name
    assert names[0] == here
    if num_threads == 1:
        assert set(names) == {here}
    else:
        assert all(name.startswith("diskcsr") for name in names[1:])


@several_threads
def test_run_parts_runs_side_by_side(num_threads):
    barrier = threading.Barrier(2)
    # Each part waits for the other: one after the other, they would wait in vain.
    assert sorted(run_parts(lambda _: barrier.wait(PATIENCE), [0, 1])) == [0, 1]


several_processors = pytest.mark.skipif(
    not hasattr(os, "sched_getaffinity") or len(os.sched_getaffinity(0)) < 2,
    reason="needs two processors, and a system that says which (Linux)",
)


@pytest.mark.alone
@several_processors
@several_threads
def test_threads_wake_up_elsewhere_and_may_then_run_anywhere(num_threads):
    run_parts(slowly_square, list(range(6)))  # the threads are there
    everywhere = os.sched_getaffinity(0)
    threads._send_away()
    assert threads._workers
    for worker in threads._workers:
        assert len(os.sched_getaffinity(worker)) == len(everywhere) - 1
    for _ in range(20):
        found = run_parts(lambda _: os.sched_getaffinity(0), list(range(num_threads + 1)))
        assert found == [everywhere] * (num_threads + 1)
        assert list(ordered_map(lambda _: os.sched_getaffinity(0), range(4), 4)) == [everywhere] * 4
    assert os.sched_getaffinity(0) == everywhere


@pytest.mark.alone
@several_processors
@several_threads
def test_a_thread_that_is_pinned_keeps_its_processor(num_threads):
    everywhere = os.sched_getaffinity(0)
    run_parts(slowly_square, list(range(6)))
    one = {min(everywhere)}
    os.sched_setaffinity(0, one)
    try:
        assert run_parts(slowly_square, [1, 2, 3]) == [1, 4, 9]
        assert os.sched_getaffinity(0) == one
    finally:
        os.sched_setaffinity(0, everywhere)


@pytest.mark.parametrize("bad", [(0,), (2,), (4,), (1, 3), (0, 4)])
def test_run_parts_raises_the_first_error_when_nothing_runs_any_more(bad, num_threads):
    function, done = fail_on(*bad)
    with pytest.raises(Failure) as caught:
        run_parts(function, list(range(5)))
    assert caught.value.args == (bad[0],)
    finished = list(done)
    if num_threads > 1:
        assert sorted(finished) == [i for i in range(5) if i not in bad]
    time.sleep(0.03)
    assert done == finished
    assert run_parts(slowly_square, [1, 2, 3]) == [1, 4, 9]  # the pool is none the worse for it


@pytest.mark.parametrize("depth", [2, 3])
def test_parts_that_have_parts_do_not_wait_for_each_other(depth):
    def count(level):
        if level == 0:
            return 1
        inner = sum(run_parts(count, [level - 1] * 4))
        return inner + sum(ordered_map(count, [level - 1] * 4, 2))

    assert in_time(lambda: count(depth)) == 8**depth


def in_time(function):
    """Return what `function` returns, or fail when it hangs."""
    found = []
    thread = threading.Thread(target=lambda: found.append(function()), daemon=True)
    thread.start()
    thread.join(PATIENCE)
    assert not thread.is_alive(), "deadlock"
    return found[0]


def test_many_threads_at_once():
    def work(seed):
        numbers = list(range(seed, seed + 10))
        assert run_parts(slowly_square, numbers) == [i**2 for i in numbers]
        assert list(ordered_map(slowly_square, numbers, 3)) == [i**2 for i in numbers]
        return seed

    with ThreadPoolExecutor(12) as callers:
        assert list(callers.map(work, range(24), timeout=PATIENCE)) == list(range(24))


def test_a_task_of_the_pool_is_known_by_its_own_thread_only(num_threads):
    run_parts(slowly_square, [1, 2, 3])
    names = run_parts(lambda _: threading.current_thread().name, [0, 1])
    assert (names[1] != names[0]) == (num_threads > 1)  # this thread still gives work away


# ------------------------------------------------------------------------------ ordered_map


@pytest.mark.parametrize("ahead", [0, 1, 3, 50])
@pytest.mark.parametrize("n", [0, 1, 2, 12])
def test_ordered_map_keeps_the_order(n, ahead):
    assert list(ordered_map(slowly_square, range(n), ahead)) == [i**2 for i in range(n)]
    assert list(ordered_map(slowly_square, iter(range(n)), ahead)) == [i**2 for i in range(n)]


@pytest.mark.parametrize("ahead", [1, 3])
def test_ordered_map_looks_ahead_a_little(ahead):
    taken, started = [], []

    def items():
        for i in range(20):
            taken.append(i)
            yield i

    def function(i):
        started.append(i)
        return i

    for i, result in enumerate(ordered_map(function, items(), ahead)):
        assert result == i
        assert len(taken) <= max(i + 1 + ahead, 2)
        assert len(started) <= i + 1 + ahead
    assert sorted(started) == list(range(20))


def test_ordered_map_raises_in_its_turn():
    function, _ = fail_on(3)
    results = ordered_map(function, range(8), 4)
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(Failure, match="3"):
        next(results)
    assert list(results) == []


def test_ordered_map_passes_on_what_its_items_raise():
    def items():
        yield from range(4)
        raise Failure("items")

    seen = []
    with pytest.raises(Failure, match="items"):
        seen.extend(ordered_map(slowly_square, items(), 2))
    assert run_parts(slowly_square, [1, 2]) == [1, 4]


def test_ordered_map_stopped_early_leaves_nothing_running():
    function, done = fail_on()
    results = ordered_map(function, range(100), 5)
    assert next(results) == 0
    results.close()
    finished = list(done)
    time.sleep(0.03)
    assert done == finished
    assert len(finished) <= 8


def test_the_consumer_of_ordered_map_may_use_the_pool():
    def work():
        return [
            sum(run_parts(slowly_square, [result] * 4))
            for result in ordered_map(slowly_square, range(8), 8)
        ]

    assert in_time(work) == [4 * i**4 for i in range(8)]


# ------------------------------------------------------------------------- the number of threads


def test_set_num_threads(num_threads):
    for n in (1, 4, np.int64(2)):
        diskcsr.set_num_threads(n)
        assert options.num_threads == n
        assert type(options.num_threads) is int
        running, most = [], []

        def work(_, running=running, most=most):
            running.append(1)
            time.sleep(0.005)
            most.append(len(running))
            running.pop()

        run_parts(work, list(range(12)))
        assert max(most) <= n + (n > 1)  # the pool, and the thread that called it
    for bad in (0, -1, 1.5, "2", None):
        with pytest.raises(ValueError, match="num_threads must be a positive integer"):
            diskcsr.set_num_threads(bad)


def test_the_number_of_threads_may_change_at_any_time():
    stop = threading.Event()

    def change():
        for i in range(10**6):
            diskcsr.set_num_threads(1 + i % 4)
            if stop.wait(0.0005):
                return

    changer = threading.Thread(target=change, daemon=True)
    changer.start()
    try:
        for i in range(40):
            numbers = list(range(i, i + 6))
            want = [number**2 for number in numbers]
            assert in_time(lambda numbers=numbers: run_parts(slowly_square, numbers)) == want
            assert list(ordered_map(slowly_square, numbers, 2)) == want
    finally:
        stop.set()
        changer.join(PATIENCE)


@several_threads
def test_a_pool_of_another_size_replaces_the_old_one(num_threads):
    run_parts(slowly_square, [1, 2])
    old = weakref.ref(threads._get_pool())
    workers = list(old()._threads)
    diskcsr.set_num_threads(num_threads + 1)
    assert threads._get_pool() is not old()
    assert threads._get_pool() is threads._get_pool()
    # Nobody holds the old one: its threads end.
    for worker in workers:
        worker.join(PATIENCE)
        assert not worker.is_alive()
    assert old() is None


# ------------------------------------------------------------------------------------- processes


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
@pytest.mark.parametrize("holds_the_lock", [False, True])
def test_a_forked_child_makes_a_pool_of_its_own(num_threads, holds_the_lock):
    assert run_parts(slowly_square, [1, 2, 3]) == [1, 4, 9]
    if holds_the_lock:
        # Another thread was about to look at the pool: in the child it will never let go.
        locked, release = threading.Event(), threading.Event()

        def hold():
            with threads._lock:
                locked.set()
                release.wait(PATIENCE)

        holder = threading.Thread(target=hold, daemon=True)
        holder.start()
        assert locked.wait(PATIENCE)
    child = os.fork()
    if child == 0:
        ok = False
        try:
            ok = run_parts(slowly_square, [1, 2, 3]) == [1, 4, 9]
            ok &= list(ordered_map(slowly_square, range(5), 2)) == [0, 1, 4, 9, 16]
        finally:
            os._exit(0 if ok else 1)  # whatever happened, pytest must not go on here
    if holds_the_lock:
        release.set()
        holder.join(PATIENCE)
    assert exit_code(child) == 0
    assert run_parts(slowly_square, [1, 2, 3]) == [1, 4, 9]


def exit_code(child):
    """Wait for a child; end it and fail when it hangs."""
    for _ in range(PATIENCE * 100):
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    pytest.fail("the forked child hangs")


def fetch(array, rows, n):
    """What a worker process does: rows of an array that came to it, by pickle or by fork."""
    with options.set(num_threads=n):
        return os.getpid(), array[rows]


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
@pytest.mark.parametrize(
    ("num_threads", "method"),
    [(1, "fork"), (2, "fork"), (5, "fork"), (2, "spawn")],
    indirect=["num_threads"],
)
def test_worker_processes_read_what_the_parent_reads(store, num_threads, method):
    matrix = csr_array(np.arange(1, 2001).reshape(50, 40))
    array = store(matrix)
    rows = list(range(0, 50, 3)) * 2
    assert (array[rows] != matrix[rows]).nnz == 0  # the pool, the map and the kernels are in use
    context = multiprocessing.get_context(method)
    with context.Pool(2) as pool:
        jobs = [pool.apply_async(fetch, (array, rows, num_threads)) for _ in range(4)]
        results = [job.get(PATIENCE) for job in jobs]
    for process, got in results:
        assert process != os.getpid()
        assert type(got) is csr_array
        assert (got != matrix[rows]).nnz == 0
    assert (array[rows] != matrix[rows]).nnz == 0


# ------------------------------------------------------------------------------ no more threads


@pytest.fixture(params=[0, 1, 3])
def few_threads(request, monkeypatch):
    """The system gives so many threads, and then no more."""
    started, start = [], threading.Thread.start

    def refuse(thread):
        if len(started) >= request.param:
            raise RuntimeError("can't start new thread")
        started.append(thread)
        start(thread)

    monkeypatch.setattr(threads, "_pool", None)
    monkeypatch.setattr(threading.Thread, "start", refuse)
    return request.param


def counted():
    """A function that takes its time, and the numbers it was called with."""
    calls = []

    def function(number):
        calls.append(number)
        time.sleep(0.002)
        return number**2

    return function, calls


@pytest.mark.usefixtures("few_threads")
@pytest.mark.parametrize("run", [run_parts, lambda f, items: list(ordered_map(f, items, 3))])
def test_all_is_done_once_where_there_are_no_more_threads(run):
    function, calls = counted()
    assert run(function, list(range(20))) == [number**2 for number in range(20)]
    time.sleep(0.02)  # for who might do it again
    assert sorted(calls) == list(range(20))


@pytest.mark.usefixtures("few_threads")
@pytest.mark.parametrize("run", [run_parts, lambda f, items: list(ordered_map(f, items, 3))])
def test_errors_come_out_where_there_are_no_more_threads(run):
    function, done = fail_on(2)
    with pytest.raises(Failure):
        run(function, list(range(6)))
    before = len(done)
    time.sleep(0.05)
    assert len(done) == before


@pytest.mark.usefixtures("few_threads")
def test_steps_are_told_of_where_there_are_no_more_threads():
    told = []

    def work(item):
        for _ in range(3):
            time.sleep(0.001)
            yield 1
        return item**2

    found = threads.run_in_steps(work, list(range(8)), told.append)
    assert found == [item**2 for item in range(8)]
    assert sum(told) == 24


def test_an_exception_does_not_keep_itself_alive(request):
    class Large:
        pass

    seen = []

    def function(number):
        large = Large()
        seen.append(weakref.ref(large))
        raise Failure(number)

    gc.disable()
    request.addfinalizer(gc.enable)
    with pytest.raises(Failure) as caught:
        run_parts(function, [1, 2])
    del caught
    deadline = time.monotonic() + PATIENCE  # another thread has it until it looks for more to do
    while any(ref() for ref in seen):
        assert time.monotonic() < deadline
        time.sleep(0.001)
