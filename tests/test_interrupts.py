"""Signals and refused writes amid what writes: one exception, the old state or the new."""

import asyncio
import fcntl
import itertools
import os
import re
import resource
import signal
import subprocess
import sys
import threading
import time

import interrupted
import numpy as np
import pytest
import scipy.sparse as sp

import diskcsr
from diskcsr.errors import WriteError
from diskcsr.machine import interrupts
from diskcsr.machine.interrupts import (
    allowing,
    check,
    deferred,
    protected,
    pulled,
    stand_by,
    stand_down,
)

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork"),
    pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning"),
]
#: Of the calls of an operation every so many-th is tried, beginning with another for each fault;
#: ``python tests/interrupted.py`` tries all.
STEP = {"any line": 4001}
#: And of those with many calls every so many times as many-th.
MANY = {"from_dask": 4, "from_dask, again": 7}


# ------------------------------------------------------------------------------ every operation


@pytest.fixture(scope="module", autouse=True)
def loaded():
    interrupted.warm_up()


@pytest.mark.parametrize("fault", interrupted.FAULTS)
@pytest.mark.parametrize("kind", interrupted.KINDS)
def test_one_exception_and_the_old_state_or_the_new(kind, fault):
    first = sum(map(ord, kind + fault)) % 7
    step = STEP.get(fault, 97) * MANY.get(kind, 1)
    found = dict(interrupted.trials(kind, fault, step, first))
    assert [what for what in found.values() if what.startswith("!")] == []
    assert found, "nothing was tried"


@pytest.mark.parametrize("kind", ["append", "assign, gzip", "File, assignment", "write"])
def test_a_second_interrupt_while_the_first_is_cleaned_up_after(kind):
    found = dict(interrupted.trials(kind, "raise after", 19, 3, times=4))
    bad = [what for what in found.values() if what.startswith("!")]
    # When even the rollback was cut short, or the journal's removal, the next one to open the file
    # does it.
    left = re.compile(r"files left: \{'(m|new)\.h5-journal'\}$")
    assert [what for what in bad if left.search(what) is None] == []
    assert len(found) > 1


@pytest.mark.parametrize("kind", [kind for kind in interrupted.KINDS if kind != "from_dask, again"])
def test_a_limit_of_the_size_of_files(kind, tmp_path):
    operation = interrupted.KINDS[kind]
    refused = set()
    for number, limit in enumerate([1, 9000, 30_000]):
        folder = tmp_path / str(number)
        folder.mkdir()
        interrupted.prepare(folder, operation)
        refused.add(interrupted.in_child(lambda: limited(operation, folder, limit)))  # noqa: B023
    assert refused <= {"refused", "undone later", "done"}
    assert "refused" in refused


def limited(operation, folder, limit):
    before, files = interrupted.descriptors(), set(os.listdir(folder))
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    try:
        operation.run(folder)
    except OSError as problem:
        text = f"{type(problem).__name__}: {problem}"
        refused = problem.with_traceback(None)
        refused.__cause__ = refused.__context__ = None
    else:
        return "done"
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
    assert isinstance(refused, WriteError), text
    assert refused.errno == 27, text
    # A spill file has no name: its folder is named. Parts have names of their own.
    named = re.sub(r"\.parts/.*", "", refused.filename)
    assert named in {str(folder / "m.h5"), str(folder / "new.h5"), str(folder)}, text
    assert not interrupted.descriptors() - before
    left = set(os.listdir(folder)) - files
    if left == {"m.h5-journal"}:  # the limit forbids to write what was there back, too
        assert "is undone when it is opened next" in text
        with diskcsr.File(folder / "m.h5", "r"):
            pass
        assert operation.states(folder) == operation.steps()[0]
        return "undone later"
    assert left <= {"new.h5"}
    assert operation.states(folder) == operation.steps()[0]
    operation.run(folder)
    assert operation.states(folder) == operation.steps()[-1]
    return "refused"


# ------------------------------------------------------------------------------- the caller's code


def blocks_then(act):
    yield sp.csr_array(np.eye(3))
    act()
    yield sp.csr_array(np.eye(3))


def fail():
    raise RuntimeError("of the caller")


@pytest.mark.parametrize(
    ("act", "error"), [(interrupted.send_signal, KeyboardInterrupt), (fail, RuntimeError)]
)
def test_in_the_blocks_of_the_caller(tmp_path, act, error):
    path, new = tmp_path / "m.h5", tmp_path / "new.h5"
    diskcsr.write(path, sp.csr_array(np.eye(3))).close()
    with pytest.raises(error):
        diskcsr.write(new, blocks_then(act))
    with pytest.raises(error):
        diskcsr.write(path, blocks_then(act), name="Y")
    with pytest.raises(error), diskcsr.open(path, mode="r+") as A:
        A.append(blocks_then(act))
    with diskcsr.File(path, "a") as file, pytest.raises(error):
        diskcsr.write(file, blocks_then(act), name="Y")
    assert sorted(os.listdir(tmp_path)) == ["m.h5"]
    with diskcsr.File(path, "r") as file:
        assert sorted(file) == ["X"]
        assert file["X"].shape[0] in (3, 6)


def change_dataset(file):
    file["y"] = np.arange(3)


def append_to_another(file):
    file["A"].append(np.ones((1, 3)))


@pytest.mark.parametrize(
    ("act", "error"),
    [
        (diskcsr.File.flush, None),
        (change_dataset, None),
        (append_to_another, ValueError),
        (diskcsr.File.close, ValueError),
    ],
)
def test_blocks_that_commit_the_file_they_go_to(tmp_path, act, error):
    """What is half written of a matrix is in no commit, whoever asks for one."""
    path = tmp_path / "m.h5"
    diskcsr.write(path, sp.csr_array(np.eye(3)), name="A").close()
    pid = os.fork()
    if pid == 0:
        file = diskcsr.File(path, "a")

        def blocks():
            yield sp.csr_array(np.eye(3))
            try:
                act(file)
            except ValueError as problem:
                if error is not None and str(path) in str(problem):
                    os._exit(3)
                os._exit(1)
            os.kill(os.getpid(), signal.SIGKILL)

        diskcsr.write(file, blocks(), name="X")
        os._exit(2)
    status = os.waitpid(pid, 0)[1]
    if error is None:
        assert os.WTERMSIG(status) == signal.SIGKILL
    else:
        assert os.WEXITSTATUS(status) == 3
    with diskcsr.File(path, "r") as file:
        assert list(file) == ["A"]
        assert file["A"].shape == (3, 3)


def test_in_the_function_that_shows_progress(tmp_path):
    def progress(done, total):
        interrupted.send_signal()

    with pytest.raises(KeyboardInterrupt):
        diskcsr.write(tmp_path / "m.h5", sp.csr_array(np.eye(3)), progress=progress)
    assert os.listdir(tmp_path) == []


def test_a_dataset_of_h5py_is_written_whole(tmp_path):
    """HDF5 may call back at any time, as when the last reference to a dataset goes."""
    code = (
        "import os, signal, sys, threading, time, numpy as np, diskcsr\n"
        "file = diskcsr.File(sys.argv[1], 'w')\n"
        "file.create_dataset('y', data=np.zeros(50_000), chunks=(500,))\n"
        "kill = lambda: (time.sleep(float(sys.argv[2])), os.kill(os.getpid(), signal.SIGINT))\n"
        "threading.Thread(target=kill).start()\n"
        "try:\n"
        "    for n in range(10**6):\n"
        "        file['y'][...] = n\n"
        "except KeyboardInterrupt:\n"
        "    file.close()\n"
        "    with diskcsr.File(sys.argv[1], 'r') as file:\n"
        "        y = file['y'][:]\n"
        "    print('whole', set(y) <= {n - 1, n} and n > 0)\n"
    )
    for seconds in ("0.02", "0.05"):
        done = subprocess.run(
            [sys.executable, "-c", code, str(tmp_path / "m.h5"), seconds],
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert (done.returncode, done.stdout, done.stderr) == (0, "whole True\n", "")
        assert os.listdir(tmp_path) == ["m.h5"]


# --------------------------------------------------------------------------------- the mechanism


def test_nested_blocks_handle_at_the_end_of_the_outermost():
    done = []
    with pytest.raises(KeyboardInterrupt), deferred():  # noqa: PT012
        with deferred():
            interrupted.send_signal()
        done.append("inner")
        interrupted.send_signal()
        done.append("outer")
    assert done == ["inner", "outer"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_check_and_allowing_handle_at_once():
    with deferred():
        interrupted.send_signal()
        with pytest.raises(KeyboardInterrupt):
            check()
        with pytest.raises(KeyboardInterrupt):
            allowing(interrupted.send_signal)
        interrupted.send_signal()
        with pytest.raises(KeyboardInterrupt):
            allowing(int)
        assert allowing(int, "7") == 7


def test_pulled_is_interrupted_where_the_items_come_from():
    items = pulled(itertools.chain([1], (interrupted.send_signal() for _ in range(1)), [3]))
    with deferred():
        assert next(items) == 1
        with pytest.raises(KeyboardInterrupt):
            next(items)


def test_each_handler_is_called_whatever_the_others_raise(monkeypatch):
    called = []

    def handler(number, frame):
        called.append(signal.Signals(number).name)
        raise SystemExit(number)

    saved = signal.signal(signal.SIGTERM, handler), signal.signal(signal.SIGUSR1, handler)
    try:
        with pytest.raises(SystemExit), deferred():  # noqa: PT012
            for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGTERM):
                signal.raise_signal(number)
        assert called == ["SIGTERM", "SIGUSR1"]
        assert signal.getsignal(signal.SIGTERM) is handler
    finally:
        signal.signal(signal.SIGTERM, saved[0])
        signal.signal(signal.SIGUSR1, saved[1])


def test_a_protected_function_comes_to_its_end():
    done = []

    @protected
    def work():
        interrupted.send_signal()
        done.append("all of it")

    stand_by()
    try:
        with pytest.raises(KeyboardInterrupt):  # noqa: PT012
            work()
            for _ in range(1000):
                threading.Event().wait(0.01)
    finally:
        stand_down()
    assert done == ["all of it"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_what_came_in_a_protected_function_ends_a_wait():
    @protected
    def work():
        interrupted.send_signal()

    stand_by()
    began = time.monotonic()
    try:
        with pytest.raises(KeyboardInterrupt):  # noqa: PT012
            work()
            time.sleep(20)
    finally:
        stand_down()
    assert time.monotonic() - began < 10


def test_a_file_that_is_dropped_is_closed_and_the_signal_comes_out(tmp_path, monkeypatch):
    file = diskcsr.File(tmp_path / "m.h5", "w")
    file["y"] = np.arange(10)
    real, before = os.unlink, interrupted.descriptors()

    def unlink(path):
        real(path)
        interrupted.send_signal()

    monkeypatch.setattr(os, "unlink", unlink)
    with pytest.raises(KeyboardInterrupt):  # noqa: PT012
        del file
        time.sleep(20)
    left = interrupted.descriptors()
    assert (before - left).total() == 2, "the file and its journal"
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert os.listdir(tmp_path) == ["m.h5"]


def test_what_was_noted_keeps_nothing_open(tmp_path):
    @protected
    def work():
        interrupted.send_signal()

    def drop():
        file = diskcsr.File(tmp_path / "m.h5", "w")
        work()
        return file.filename

    done = []
    with pytest.raises(KeyboardInterrupt), deferred():  # noqa: PT012
        name = drop()
        with open(name) as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        done.append("closed")
    assert done == ["closed"]


@pytest.mark.parametrize("name", ["SIGTERM", "SIGALRM", "SIGXCPU", "SIGCHLD"])
def test_signals_for_which_programs_have_handlers_that_raise(name):
    def handler(number, frame):
        assert frame is not None
        raise SystemExit(number)

    number, done = getattr(signal, name), []
    saved = signal.signal(number, handler)
    try:
        with pytest.raises(SystemExit), deferred():  # noqa: PT012
            signal.raise_signal(number)
            done.append("all of it")
    finally:
        signal.signal(number, saved)
    assert done == ["all of it"]


def test_a_loop_of_asyncio_hears_of_a_signal_once():
    @protected
    def work():
        signal.raise_signal(signal.SIGUSR1)

    called = []

    async def main():
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGUSR1, called.append, 1)
        stand_by()
        work()
        with deferred():
            signal.raise_signal(signal.SIGUSR1)
        await asyncio.sleep(0.1)
        stand_down()
        loop.remove_signal_handler(signal.SIGUSR1)

    asyncio.run(main())
    assert called == [1, 1]


def test_a_forked_child_leaves_to_its_parent_what_its_parent_noted():
    @protected
    def work():
        interrupted.send_signal()
        return os.fork()

    stand_by()
    try:
        with pytest.raises(KeyboardInterrupt):  # noqa: PT012
            child = work()
            if child == 0:
                try:
                    time.sleep(0.1)
                    with deferred():
                        pass
                    os._exit(0)
                finally:
                    os._exit(1)
            time.sleep(20)
    finally:
        stand_down()
    assert os.waitpid(child, 0)[1] == 0


def test_a_handler_that_was_kept_elsewhere_passes_signals_on():
    """As a notebook keeps the handler it finds and puts it back after each cell."""
    stand_by()
    kept = signal.getsignal(signal.SIGINT)
    stand_down()
    signal.signal(signal.SIGINT, kept)
    with pytest.raises(KeyboardInterrupt):
        interrupted.send_signal()
    with deferred():
        pass
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_other_threads_are_left_alone():
    seen = []

    def work():
        with deferred():
            seen.append(interrupts._depth)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [0]
