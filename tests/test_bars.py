"""What shows progress: which bar is chosen, what it says, and that it costs the work nothing."""

import io
import os
import signal
import sys
import threading
import time
import types

import numpy as np
import pytest
from scipy.sparse import csr_array

import diskcsr
from diskcsr.machine import bars
from diskcsr.machine.apart import _TOLD, Ended, run_apart
from diskcsr.machine.progress import reporting, telling, to_the_end

# ------------------------------------------------------------------------------------ which it is


class Terminal(io.StringIO):
    def isatty(self):
        return True


def on_terminal(monkeypatch):
    """Have a terminal for standard error; return what is written to it."""
    stream = Terminal()
    monkeypatch.setattr(sys, "stderr", stream)
    return stream


def without(monkeypatch, *names):
    real = bars.find_spec
    monkeypatch.setattr(bars, "find_spec", lambda name: None if name in names else real(name))


def use():
    with bars.bar("testing") as tell:
        tell(0, 4000)
        tell(1000, 4000)
        tell(4000, 4000)


def test_a_terminal_without_libraries_has_a_line(monkeypatch):
    terminal = on_terminal(monkeypatch)
    without(monkeypatch, "rich", "tqdm")
    use()
    written = terminal.getvalue()
    assert written.split("\r\033[K")[1:] == [
        "testing: 0 % of 4.0 kB", "testing: 100 % of 4.0 kB", "",
    ]  # fmt: skip
    assert "\n" not in written


def test_a_terminal_with_rich(monkeypatch):
    terminal = on_terminal(monkeypatch)
    pytest.importorskip("rich", reason="rich is not installed")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    threads, out = threading.active_count(), sys.stdout
    with bars.bar("testing") as tell:
        tell(4000, 4000)
        assert threading.active_count() == threads
        assert sys.stdout is out
        assert sys.stderr is terminal
    assert "testing" in terminal.getvalue()
    assert "100%" in terminal.getvalue()


@pytest.mark.parametrize("where", ["terminal", "notebook"])
def test_tqdm(monkeypatch, where):
    class Tqdm:
        def __init__(self, **keywords):
            self.n, self.total, self.said = 0, None, [keywords]
            made.append(self)

        def update(self, more):
            self.n += more

        def refresh(self):
            self.said.append(self.total)

        def close(self):
            self.said.append("closed")

    made = []
    on_terminal(monkeypatch)
    fake = types.SimpleNamespace(tqdm=Tqdm)
    monkeypatch.setitem(sys.modules, "tqdm", types.SimpleNamespace(auto=fake))
    monkeypatch.setitem(sys.modules, "tqdm.auto", fake)
    missing = {"rich"} if where == "terminal" else set()
    monkeypatch.setattr(bars, "find_spec", lambda name: None if name in missing else name)
    if where == "notebook":
        shell = types.SimpleNamespace(kernel=object())
        ipython = types.SimpleNamespace(get_ipython=lambda: shell)
        monkeypatch.setitem(sys.modules, "IPython", ipython)
    use()
    (one,) = made
    assert (one.n, one.total) == (4000, 4000)
    assert one.said == [{"desc": "testing", "unit": "B", "unit_scale": True}, 4000, "closed"]


def test_lines_where_there_is_no_terminal(monkeypatch, capsys):
    use()
    assert capsys.readouterr().err == ""  # it took no time
    monkeypatch.setattr(bars, "_PATIENCE", 0.02)
    with bars.bar("testing") as tell:
        for done in range(0, 5000, 1000):
            time.sleep(0.03)
            tell(done, None)
        tell(4000, 4000)
    said = capsys.readouterr().err.splitlines()
    assert said[0] == "testing: 1.0 kB"  # the time runs from the first that is told
    assert said[-1] == "testing: 100 % of 4.0 kB"
    assert len(said) > 2


def test_no_standard_error(monkeypatch):
    monkeypatch.setattr(sys, "stderr", None)
    monkeypatch.setattr(bars, "_PATIENCE", -1.0)
    use()


def test_a_bar_ends_with_what_it_is_for(monkeypatch):
    terminal = on_terminal(monkeypatch)
    without(monkeypatch, "rich", "tqdm")

    def fail():
        with reporting(True, 100) as advance:
            advance(50)
            raise ValueError("half-way")

    with pytest.raises(ValueError, match="half-way"):
        fail()
    assert terminal.getvalue().endswith("\r\033[K")


# --------------------------------------------------------------------------------- what it is told


def test_what_may_be_asked_for():
    told = []
    with reporting(lambda *now: told.append(now), 10) as advance:
        advance(4)
        advance(6)
    assert told == [(4, 10), (10, 10)]
    for nothing in (None, False):
        with telling(nothing, "x") as tell:
            assert tell is None
        with reporting(nothing, 10) as advance:
            advance(3)
    for use in (lambda: telling("yes", "x"), lambda: reporting(3, None)):
        with pytest.raises(TypeError, match="progress must be None, True or a function"), use():
            pass


def test_work_that_is_known_only_about():
    told = []
    for steps in ([3, 3], [5, 9, 2], [], [10]):
        told.clear()
        with to_the_end(told.append, 10) as step:
            for nbytes in steps:
                step(nbytes)
        assert sum(told) == 10
        assert min(told) > 0


# ------------------------------------------------------------------------- from a process apart


def work(steps, seconds, progress=None):
    for done in range(steps):
        time.sleep(seconds)
        if progress is not None:
            progress(done + 1, steps)
    return "done", progress is not None


def end_by(number, progress):
    progress(1, 2)
    os.kill(os.getpid(), number)


def hang(progress):
    progress(1, 2)
    time.sleep(600)


def leave(code, progress):
    os._exit(code)


def look(path, progress):
    os.stat(path)


def write_nonsense(raw, progress):
    os.write(pipe_of(progress), raw)
    return len(raw)


def pipe_of(progress):
    return next(cell.cell_contents for cell in progress.__closure__ if cell.cell_contents > 2)


def fill_the_pipe(progress):
    pipe, records = pipe_of(progress), 0
    while records < 100_000:
        try:
            os.write(pipe, _TOLD.pack(records, -1))
        except BlockingIOError:
            break
        records += 1
    began = time.monotonic()
    for done in range(1000):
        progress(done, done)
    return records, time.monotonic() - began


def test_a_process_tells_how_far_it_is():
    told = []
    caller = threading.get_ident()

    def tell(*now):
        assert threading.get_ident() == caller
        told.append(now)

    assert run_apart(work, 6, 0.1, silence=60) == ("done", False)
    assert run_apart(work, 6, 0.1, silence=60, tell=tell) == ("done", True)
    assert told == sorted(told)
    assert len(told) > 2
    assert told[-1] == (6, 6)


def test_a_process_that_dies_or_hangs_while_it_tells():
    told = []
    tell = lambda *now: told.append(now)  # noqa: E731
    for number, name in ((signal.SIGSEGV, "SIGSEGV"), (signal.SIGKILL, "SIGKILL")):
        with pytest.raises(Ended, match=name) as caught:
            run_apart(end_by, number, silence=60, tell=tell)
        assert not caught.value.silent
    began = time.monotonic()
    with pytest.raises(Ended, match="SIGALRM") as caught:
        run_apart(hang, silence=1, tell=tell)
    assert caught.value.silent
    with pytest.raises(Ended, match="SIGALRM"):
        run_apart(hang, seconds=1, tell=tell)
    assert time.monotonic() - began < 60
    assert told == [(1, 2)] * 4
    with pytest.raises(diskcsr.DiskCSRError, match="failed"):
        run_apart(leave, 3, silence=60, tell=tell)
    with pytest.raises(FileNotFoundError, match="nothing there"):
        run_apart(look, "/nothing there", silence=60, tell=tell)


@pytest.mark.parametrize(
    "raw",
    [
        b"\x80\x04garbage that is no number at all, and no pickle",
        _TOLD.pack(-5, 10),
        _TOLD.pack(20, 10),
        _TOLD.pack(5, -7),
        _TOLD.pack(5, 10)[:11],
        b"\xff" * 4096,
    ],
)
def test_numbers_alone_come_through(raw):
    told = []
    assert run_apart(write_nonsense, raw, silence=60, tell=lambda *now: told.append(now)) == len(
        raw
    )
    for done, total in told:  # garbage may be numbers, too
        assert type(done) is int
        assert total is None or 0 <= done <= total


def test_nobody_waits_for_a_reader_that_is_slow():
    records, seconds = run_apart(fill_the_pipe, silence=60, tell=lambda *now: time.sleep(0.5))
    assert records > 1000
    assert seconds < 2


@pytest.mark.parametrize("error", [KeyboardInterrupt, ZeroDivisionError])
def test_what_a_listener_raises_ends_the_process(error):
    def tell(done, total):
        raise error

    threads, began = threading.active_count(), time.monotonic()
    with pytest.raises(error):
        run_apart(hang, silence=60, tell=tell)
    assert time.monotonic() - began < 30
    assert threading.active_count() == threads


# ------------------------------------------------------------------------------------------ check


@pytest.fixture
def stored(tmp_path):
    rng = np.random.default_rng(0)
    matrix = csr_array(rng.random((300, 40)) * (rng.random((300, 40)) < 0.3))
    diskcsr.write(tmp_path / "m.h5", matrix, compression="gzip", chunks=500).close()
    diskcsr.write(tmp_path / "m.h5", matrix, "Y").close()
    return tmp_path / "m.h5"


@pytest.mark.parametrize("isolated", [True, False])
def test_a_check_tells_how_far_it_is(stored, isolated):
    told = []
    report = diskcsr.check(stored, isolated=isolated, progress=lambda *now: told.append(now))
    assert report.ok
    assert report.matrices == ["/X", "/Y"]
    (total,) = {total for _, total in told}
    with diskcsr.open(stored, "X") as A:
        assert total == 2 * (3 * A.nnz * (8 + 4) + 4 * (A.shape[0] + 1) * 8)
    assert told == sorted(told)
    assert told[-1] == (total, total)
    assert diskcsr.check(stored, isolated=isolated).matrices == report.matrices


def test_a_check_of_a_damaged_file_comes_to_its_end(stored):
    import h5py

    with h5py.File(stored, "r+") as file:
        for number in (0, 3):
            place = file["X/data"].id.get_chunk_info(number)
            file["X/data"].id.write_direct_chunk(place.chunk_offset, b"\0" * 20)
        del file["Y/indices"]
    told = []
    report = diskcsr.check(stored, progress=lambda *now: told.append(now))
    assert {problem.kind for problem in report.problems} >= {"chunk", "missing"} or not report.ok
    assert told == sorted(told)
    assert told[-1][0] == told[-1][1]


@pytest.mark.parametrize("isolated", [True, False])
def test_what_a_listener_raises_is_no_damage(stored, isolated):
    def tell(done, total):
        raise ZeroDivisionError("of the listener")

    with pytest.raises(ZeroDivisionError, match="of the listener"):
        diskcsr.check(stored, isolated=isolated, progress=tell)
    with pytest.raises(ZeroDivisionError, match="of the listener"):
        diskcsr.info(stored, deep=True, untrusted=isolated, progress=tell)
    with diskcsr.File(stored) as file:
        with pytest.raises(ZeroDivisionError):
            diskcsr.check(file, progress=tell)
        assert diskcsr.check(file).matrices == ["/X", "/Y"]
        assert diskcsr.check(file).ok


def test_a_check_with_a_bar(stored, monkeypatch, capsys):
    monkeypatch.setattr(bars, "_PATIENCE", 0.0)
    assert diskcsr.check(stored, progress=True).ok
    said = capsys.readouterr().err.splitlines()
    assert said[-1].startswith("checking: 100 % of ")
    with pytest.raises(TypeError, match="progress must be"):
        diskcsr.check(stored, progress="yes")


# --------------------------------------------------------------------------------- whole matrices

WHOLE = {
    "to_memory": lambda A: A.to_memory(),
    "toarray": lambda A: A.toarray(),
    "columns": lambda A: A[:, [5, 1, 7]],
    "mask of columns": lambda A: A[:, np.arange(40) % 2 == 0],
    "2 * A": lambda A: 2 * A,
    "A > 0": lambda A: A > 0.5,
    "A + B": lambda A: A + csr_array(A.shape),
    "tocoo": lambda A: A.tocoo(),
    "A @ A.T": lambda A: A @ csr_array(A.to_memory().T),
    "sum": lambda A: A.sum(),
}


@pytest.fixture
def small_blocks(monkeypatch):
    """Several blocks of a small matrix."""
    monkeypatch.setattr("diskcsr.blocks.whole._BLOCK", 2000)
    for module in ("elementwise", "conversions", "sparse_products"):
        monkeypatch.setattr(f"diskcsr.compute.{module}.BLOCK_BYTES", 2000)
    monkeypatch.setattr("diskcsr.protocol.reading.BLOCK_ELEMENTS", 20)


@pytest.mark.parametrize("what", WHOLE)
@pytest.mark.parametrize("name", ["X", "Y"])
def test_what_goes_over_a_whole_matrix_tells_how_far_it_is(stored, small_blocks, what, name):
    told = []
    with diskcsr.open(stored, name) as A:
        expected = WHOLE[what](A)
        with diskcsr.options.set(progress=lambda *now: told.append(now)):
            found = WHOLE[what](A)
        assert type(found) is type(expected)
        assert found.dtype == expected.dtype
        for part in ("data", "indices", "indptr"):
            if hasattr(expected, "format") and expected.format in ("csr", "csc"):
                assert getattr(found, part).dtype == getattr(expected, part).dtype
                np.testing.assert_array_equal(getattr(found, part), getattr(expected, part))
        dense = found.toarray() if hasattr(found, "toarray") else found
        np.testing.assert_array_equal(dense, getattr(expected, "toarray", lambda: expected)())
        total = A.nnz * (8 + 4)
        assert told[-1] == (total, total)
        assert len({now for now in told if now == (total, total)}) == 1
        if what != "sum":
            assert len(told) > 3


def test_what_reads_a_few_rows_tells_nobody(stored):
    told = []
    with (
        diskcsr.options.set(progress=lambda *now: told.append(now)),
        diskcsr.open(stored, "X") as A,
    ):
        for found in (A[3], A[2:9], A[[1, 5]], A[3:6, [2, 4]], A[4, 5]):
            assert found is not None
    assert told == []


def test_a_load_over_the_budget_is_refused_before_it_is_told(stored):
    told = []
    settings = {"memory_budget": 2000, "progress": lambda *now: told.append(now)}
    with (
        diskcsr.open(stored, "X") as A,
        diskcsr.options.set(**settings),
        pytest.raises(diskcsr.MemoryBudgetError, match="reading 300 rows"),
    ):
        A.to_memory()
    assert told == []


@pytest.mark.parametrize(
    "lazy",
    [
        lambda A: A.lazy,
        lambda A: A.lazy[:, [5, 1, 7]],
        lambda A: np.log1p(A.lazy),
        lambda A: A.lazy > 0.5,
    ],
    ids=["all", "columns", "log1p", "above"],
)
def test_what_is_lazy_is_loaded_all_the_same(stored, lazy):
    with diskcsr.open(stored, "X") as A:
        expected = lazy(A).to_memory()
        with diskcsr.options.set(progress=lambda *now: None):
            found = lazy(A).to_memory(), lazy(A).tocsc().tocsr(), lazy(A)[:]
        for one in found:
            assert one.dtype == expected.dtype
            np.testing.assert_array_equal(one.toarray(), expected.toarray())
