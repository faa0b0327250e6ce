"""Maps of files: what of them counts as memory of the process stays within one budget."""

import gc
import mmap
import os
import threading
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse as sp
from numpy.testing import assert_array_equal

import diskcsr
from diskcsr.kernels import CHARGE_SHIFT, WINDOW_SHIFT
from diskcsr.storage.read import direct, windows
from diskcsr.storage.read.windows import MappedPages, Window

UNIT = 1 << CHARGE_SHIFT
N_ROWS, N_COLUMNS, PER_ROW = 4000, 6000, 500

needs_smaps = pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="Linux alone")


@pytest.fixture(autouse=True)
def pages(monkeypatch):
    """A budget of this test's own."""
    own = MappedPages()
    monkeypatch.setattr(windows, "mapped_pages", own)
    monkeypatch.setattr(direct, "mapped_pages", own)
    monkeypatch.setattr("diskcsr.storage.read.descriptor.mapped_pages", own)
    return own


def matrix():
    """16 MB of values and indices."""
    rng = np.random.default_rng(0)
    first = rng.integers(0, N_COLUMNS - 10 * PER_ROW, (N_ROWS, 1))
    indices = (first + 10 * np.arange(PER_ROW)).astype(np.int32).reshape(-1)
    data = rng.random(indices.size, dtype=np.float32)
    indptr = np.arange(0, indices.size + 1, PER_ROW, dtype=np.int32)
    return sp.csr_array((data, indices, indptr), shape=(N_ROWS, N_COLUMNS))


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    X = matrix()
    path = tmp_path_factory.mktemp("windows") / "m.h5"
    diskcsr.write(path, X).close()
    return path, X


def resident(path):
    """How many bytes of maps of a file are in the page table of this process, from the system."""
    total, ours = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if "-" in line.split(" ", 1)[0]:
            ours = line.endswith(str(path))
        elif ours and line.startswith("Rss:"):
            total += int(line.split()[1]) * 1024
    return total


def fetch(A, X, rows):
    """Fetch rows, which are compared, and return the bytes that were read beside the map."""
    own = windows.mapped_pages
    before = own._read
    got, want = A[rows], X[rows]
    for name in ("data", "indices", "indptr"):
        assert_array_equal(getattr(got, name), getattr(want, name))
    return own._read - before


# ------------------------------------------------------------------------------ loops of fetches


@needs_smaps
@pytest.mark.parametrize("units", [1, 2, 3])
@pytest.mark.parametrize("count", [20, 300])
def test_a_loop_of_fetches_keeps_no_more_mapped_than_allowed(stored, pages, units, count):
    path, X = stored
    rng = np.random.default_rng(units)
    with diskcsr.options.set(map_bytes=units * UNIT + 5), diskcsr.open(path) as A:
        most = 0
        for _ in range(60):
            fetch(A, X, rng.choice(N_ROWS, count, replace=False))
            assert pages.entered_bytes() <= units * UNIT
            most = max(most, resident(path))
    assert 0 < most <= units * UNIT


@needs_smaps
def test_rows_that_were_fetched_before_come_from_the_map(stored):
    path, X = stored
    rows = np.random.default_rng(0).permutation(N_ROWS)[:500]
    with diskcsr.open(path) as A:
        assert fetch(A, X, rows) >= 500 * PER_ROW * 8
        assert fetch(A, X, rows) == 0
        assert fetch(A, X, rows[::-2]) == 0
        mapped = resident(path)
        assert fetch(A, X, rows[:100]) == 0
        assert resident(path) == mapped  # no page was entered for it


@needs_smaps
@pytest.mark.parametrize("settings", [{"memory_map": False}, {"map_bytes": 0}, {"map_bytes": 9}])
def test_without_a_map_everything_is_read(stored, settings):
    path, X = stored
    rows = np.arange(0, N_ROWS, 9)
    with diskcsr.options.set(**settings), diskcsr.open(path) as A:
        for _ in range(2):
            assert fetch(A, X, rows) == 0  # nobody counts
            assert resident(path) == 0


@needs_smaps
def test_walks_map_nothing(stored):
    path, X = stored
    with diskcsr.open(path) as A:
        assert sum(block.nnz for _, block in A.iter_blocks()) == X.nnz
        assert_array_equal(A.to_memory().data, X.data)
        assert resident(path) == 0


@needs_smaps
def test_a_part_stays_until_so_much_was_read_that_entering_it_again_is_nothing(stored, pages):
    path, X = stored
    last = np.arange(1500, 1800)[::-1]
    some = np.arange(0, 600, 2)
    with diskcsr.open(path) as A:
        fetch(A, X, some)
        budget = pages.entered_bytes()  # just what these rows need
    del A
    gc.collect()
    assert (pages.entered_bytes(), budget % UNIT, budget > 0) == (0, 0, True)
    with diskcsr.options.set(map_bytes=budget, num_threads=1), diskcsr.open(path) as A:
        fetch(A, X, some)
        assert pages.entered_bytes() == budget
        assert fetch(A, X, some) == 0
        while pages._read < 8 * budget:
            assert fetch(A, X, some) == 0
            assert fetch(A, X, last) == 300 * PER_ROW * 8  # there is no room for these
        fetch(A, X, last)  # now there is
        fetch(A, X, last)
        assert fetch(A, X, last) == 0
        assert fetch(A, X, some) > 0
        assert resident(path) <= budget


@needs_smaps
def test_a_budget_that_was_lowered_holds_from_the_next_fetch_on(stored):
    path, X = stored
    with diskcsr.open(path) as A:
        fetch(A, X, np.arange(0, N_ROWS, 3))
        assert resident(path) > 4 * UNIT
        with diskcsr.options.set(map_bytes=UNIT):
            fetch(A, X, np.arange(1, N_ROWS, 3))
            assert resident(path) <= UNIT


@needs_smaps
def test_files_share_the_budget_and_give_their_part_back_when_closed(stored, tmp_path, pages):
    path, X = stored
    other = tmp_path / "other.h5"
    diskcsr.write(other, X).close()
    rows = np.arange(0, N_ROWS, 2)
    with diskcsr.options.set(map_bytes=3 * UNIT, num_threads=1):
        with diskcsr.open(path) as A, diskcsr.open(other) as B:
            fetch(A, X, rows)
            fetch(B, X, rows)
            assert 0 < resident(path) + resident(other) <= 3 * UNIT
            assert resident(other) == 0
        del A
        gc.collect()
        assert pages.entered_bytes() == 0
        with diskcsr.open(other) as B:
            fetch(B, X, rows)
            assert 0 < resident(other) <= 3 * UNIT
            assert pages.entered_bytes() == 3 * UNIT


def test_threads_that_fetch_while_all_is_given_back(stored, pages):
    path, X = stored
    stop, wrong = threading.Event(), []

    def work(seed):
        rng = np.random.default_rng(seed)
        while not stop.is_set():
            rows = rng.choice(N_ROWS, 50, replace=False)
            if (A[rows] != X[rows]).nnz:
                wrong.append(rows)

    with diskcsr.options.set(map_bytes=2 * UNIT), diskcsr.open(path) as A:
        A[np.arange(20)]
        workers = [threading.Thread(target=work, args=(seed,)) for seed in range(3)]
        for worker in workers:
            worker.start()
        for _ in range(200):
            for window in list(pages._windows):
                window.give_back()
            stop.wait(0.001)
        stop.set()
        for worker in workers:
            worker.join(60)
            assert not worker.is_alive()
    assert wrong == []


# ------------------------------------------------------------------------------------ the budget


@pytest.fixture
def window(tmp_path):
    path = tmp_path / "bytes"
    path.write_bytes(bytes(range(256)) * (6 * UNIT // 256))
    fd = os.open(path, os.O_RDONLY)
    try:
        made = Window(fd, 6 * UNIT)
    finally:
        os.close(fd)
    assert made.warm.size == (6 * UNIT >> WINDOW_SHIFT) + 1
    assert made.charged.size == 7
    return made


def test_reserving_and_settling(pages, window):
    pages.add(window)
    with diskcsr.options.set(map_bytes=4 * UNIT):
        assert pages.reserve(window, 3) == 3
        assert pages.reserve(window, 3) == 1
        assert pages.reserve(window, 3) == 0
        pages.settle(window, 2, 10)  # the first entered one alone
        assert pages.entered_bytes() == 2 * UNIT
        assert pages.reserve(window, 9) == 2
        assert pages.reserve(window, 0) == 0


def test_no_more_is_reserved_than_the_file_has(pages, window):
    pages.add(window)
    assert pages.reserve(window, 100) == 7
    assert pages.reserve(window, 100) == 0


def test_what_a_window_had_is_free_when_it_is_gone(pages, window, tmp_path):
    pages.add(window)
    fd = os.open(tmp_path / "bytes", os.O_RDONLY)
    gone = Window(fd, 2 * UNIT)
    os.close(fd)
    pages.add(gone)
    with diskcsr.options.set(map_bytes=3 * UNIT):
        assert pages.reserve(gone, 3) == 3
        assert pages.reserve(window, 3) == 0
        del gone
        gc.collect()
        assert pages.reserve(window, 4) == 3


def test_giving_back(pages, window):
    pages.add(window)
    pages.reserve(window, 3)
    window.warm[5] = window.charged[0] = 1
    window.give_back()
    assert not window.warm.any()
    assert not window.charged.any()
    assert window.entered == 0
    # A call that reserved before and settles now takes nothing from what others have.
    pages.settle(window, 2, 0)
    assert pages.entered_bytes() == 0
    assert window._bytes[257] == 1  # the bytes are there as ever


def test_a_window_maps_nothing_that_is_not_there(tmp_path):
    path = tmp_path / "empty"
    path.touch()
    fd = os.open(path, os.O_RDONLY)
    try:
        with pytest.raises((OSError, ValueError)):
            Window(fd, mmap.PAGESIZE)
    finally:
        os.close(fd)


# ---------------------------------------------------------------------------------- cold files


@pytest.mark.skipif(not hasattr(os, "RWF_NOWAIT"), reason="the system cannot tell")
@pytest.mark.parametrize("error", [BlockingIOError, OSError])
def test_a_few_rows_that_are_not_in_memory_are_asked_for_at_once(stored, monkeypatch, error):
    path, X = stored
    preadv, told, asked = os.preadv, [], []

    def cold(fd, buffers, offset, flags=0):
        asked.append(flags)
        if flags:
            raise error
        return preadv(fd, buffers, offset)

    monkeypatch.setattr(os, "preadv", cold)
    monkeypatch.setattr(os, "posix_fadvise", lambda *arguments: told.append(arguments))
    rows = np.array([3, 700, 1500, 2500])
    with diskcsr.open(path) as A:
        A.indptr  # noqa: B018
        asked.clear()
        assert_array_equal(A.fetch(rows).data, X[rows].data)
    # Of each array the disk is told of all four, and then they are waited for.
    assert [size for _, _, size, _ in told] == [PER_ROW * 4] * 8
    assert asked == [os.RWF_NOWAIT, 0, 0, 0, 0] * 2


def test_a_file_that_is_not_in_memory_is_read_right(stored):
    path, X = stored
    rng = np.random.default_rng(0)
    for count in (1, 5, 200):
        with path.open("rb") as file:
            os.fsync(file.fileno())
            if hasattr(os, "posix_fadvise"):
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        with diskcsr.open(path) as A:
            fetch(A, X, rng.choice(N_ROWS, count, replace=False))
