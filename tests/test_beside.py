"""Reading beside a writer: a committed state, or an error of ours that says what is the matter."""

import contextlib
import os
import subprocess
import sys
import time

import h5py
import numpy as np
import pytest
from beside import KINDS, READERS, beside
from scipy.sparse import csc_array, csr_array

import diskcsr
from diskcsr import options
from diskcsr.errors import CorruptFileError, LockedFileError, StaleFileError
from diskcsr.storage.files.files import open_to_write
from diskcsr.storage.files.transactions import transaction
from diskcsr.storage.journal import turns
from diskcsr.storage.read import source as source_module

pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
DENSE = np.array([[1, 0, 2, 0, 0], [0, 0, 0, 0, 0], [0, 3, 4, 0, 5], [0, 0, 0, 0, 6.0]])


@pytest.fixture
def path(tmp_path):
    diskcsr.write(tmp_path / "m.h5", csr_array(DENSE)).close()
    return tmp_path / "m.h5"


def elsewhere(program, *arguments):
    """Run a program in another process."""
    program = f"import sys, h5py, numpy as np, diskcsr, scipy.sparse as sp\n{program}"
    subprocess.run([sys.executable, "-c", program, *map(str, arguments)], check=True)


APPEND = """
with diskcsr.open(sys.argv[1], mode="r+") as A:
    A.append(7 * np.ones((1, 5)))
"""
ASSIGN = """
with diskcsr.open(sys.argv[1], mode="r+") as A:
    A[:] = 2 * A[:]
"""
SECOND = 'diskcsr.write(sys.argv[1], sp.csc_array(np.eye(3)), "Y").close()'


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("kind", KINDS)
def test_whatever_is_read_was_committed(tmp_path, kind):
    """`python tests/beside.py` does it for minutes."""
    changes, found, wrong = beside(kind, tmp_path, 1)
    assert wrong == []
    assert changes > 0
    for reader in READERS:
        counts = found[reader]
        assert counts["attempts"] > 0
        assert counts["consistent"] + counts["Locked"] + counts["Stale"] == counts["attempts"]


# --------------------------------------------------------------------------------------- opening


@contextlib.contextmanager
def changing_once(monkeypatch, change, times=1):
    """Have the file changed after its group was found, and before its datasets are looked at."""
    real, done = source_module.detect, []

    def detect(*args, **keywords):
        found = real(*args, **keywords)
        if len(done) < times:
            done.append(None)
            change()
        return found

    monkeypatch.setattr(source_module, "detect", detect)
    yield done


def test_a_change_while_it_is_opened(path, monkeypatch):
    with (
        options.set(lock_timeout=60),
        changing_once(monkeypatch, lambda: elsewhere(APPEND, path)) as done,
        diskcsr.open(path) as A,
    ):
        assert len(done) == 1
        assert A.shape == (5, 5)
        assert A.toarray()[4].tolist() == [7.0] * 5


def test_a_file_that_changes_again_and_again(path, monkeypatch):
    with (
        options.set(lock_timeout=0.05),
        changing_once(monkeypatch, lambda: os.utime(path), 10**6),
        pytest.raises(LockedFileError, match=r"m\.h5: another program changes it again and again"),
    ):
        diskcsr.open(path)


def test_damage_is_damage_when_nobody_writes(path):
    with h5py.File(path, "r+") as file:
        file["X"].attrs["shape"] = np.array([9, 5])
        file["X"].attrs["h5sparse_shape"] = np.array([9, 5])
    begin = time.monotonic()
    with options.set(lock_timeout=60), pytest.raises(CorruptFileError, match="needs 10"):
        diskcsr.open(path)
    assert time.monotonic() - begin < 30


@pytest.mark.parametrize("timeout", [0, 0.2])
def test_locked_by_another_program(path, timeout):
    with (
        h5py.File(path, "r+"),
        options.set(lock_timeout=timeout),
        diskcsr_in_a_child(path, timeout) as (kind, text, seconds),
    ):
        assert kind == "LockedFileError"
        assert f"{path}: another program has it open for writing" in text
        assert timeout <= seconds < timeout + 30


@contextlib.contextmanager
def diskcsr_in_a_child(path, timeout):
    """Open in another process; yield the error, its text, and how long it took."""
    program = """
import sys, time, diskcsr
diskcsr.options.lock_timeout = float(sys.argv[2])
begin = time.monotonic()
try:
    diskcsr.open(sys.argv[1])
except Exception as problem:
    print(type(problem).__name__, time.monotonic() - begin, problem)
"""
    found = subprocess.run(
        [sys.executable, "-c", program, str(path), str(timeout)],
        capture_output=True,
        text=True,
        check=True,
    )
    kind, seconds, text = found.stdout.split(" ", 2)
    yield kind, text, float(seconds)


def test_waiting_ends_with_the_lock(path):
    """A program that writes for a moment does not make opening fail."""
    program = """
import sys, time, h5py
with h5py.File(sys.argv[1], "r+"):
    print(flush=True)
    time.sleep(0.3)
"""
    with (
        options.set(lock_timeout=60),
        subprocess.Popen([sys.executable, "-c", program, path], stdout=subprocess.PIPE) as other,
    ):
        other.stdout.readline()
        with diskcsr.open(path) as A:
            assert A.shape == (4, 5)


# ------------------------------------------------------------------- files open in this process


def test_what_was_added_is_seen_beside_an_older_handle(path):
    """Files that are open together in a process share what HDF5 has read."""
    with diskcsr.open(path) as A:
        A[0]
        elsewhere(SECOND, path)
        with diskcsr.open(path, "Y") as B, diskcsr.open(path, "X") as C:
            assert B.format == "csc"
            np.testing.assert_array_equal(B.toarray(), np.eye(3))
            np.testing.assert_array_equal(C.toarray(), DENSE)
            assert B.filename == C.filename == str(path)
            assert C.reader["data"].name == "direct"
        with diskcsr.File(path) as file:
            assert sorted(file) == ["X", "Y"]
        with pytest.raises(StaleFileError):
            A[1]


def test_what_was_added_is_seen_beside_a_file_of_h5py(path):
    with h5py.File(path, "r", locking=False) as file:
        assert list(file) == ["X"]
        elsewhere(SECOND, path)
        with diskcsr.open(path, "Y") as B:
            np.testing.assert_array_equal(B.toarray(), np.eye(3))


def test_a_file_of_h5py_that_is_older_than_what_is_in_it(path):
    """We see it only now: HDF5 shows what it read before the file grew."""
    with h5py.File(path, "r", locking=False) as file:
        assert file["X/data"].shape == (6,)
        elsewhere(APPEND, path)
        with pytest.raises(StaleFileError, match="opening the file anew"):
            diskcsr.open(file, "X")
        with diskcsr.open(path) as A:
            assert A.shape == (5, 5)


# --------------------------------------------------------------------- arrays that stay open


@pytest.mark.parametrize("compression", [None, "gzip", "lzf"])
@pytest.mark.parametrize("change", [APPEND, ASSIGN])
def test_a_change_while_it_is_read(tmp_path, monkeypatch, compression, change):
    """Between the row pointers and the values, or as the values are read."""
    path = tmp_path / "m.h5"
    diskcsr.write(path, csr_array(DENSE), compression=compression).close()
    with diskcsr.open(path) as A:
        reader = A.reader["data"]
        real = reader.jobs

        def jobs(*args):
            elsewhere(change, path)
            return real(*args)

        monkeypatch.setattr(reader, "jobs", jobs)
        with pytest.raises(StaleFileError, match="was changed after it was opened"):
            A[[0, 2]]
        A.refresh()
        expected = 2 * DENSE if change == ASSIGN else np.vstack([DENSE, 7 * np.ones(5)])
        np.testing.assert_array_equal(A.toarray(), expected)


def test_what_looks_like_damage_is_none_in_a_file_that_changed(path, monkeypatch):
    with diskcsr.open(path) as A:
        reader = A.reader["indices"]

        def jobs(*args):
            os.utime(path)
            raise CorruptFileError("torn")

        monkeypatch.setattr(reader, "jobs", jobs)
        with pytest.raises(StaleFileError):
            A[[0, 2]]
    with diskcsr.open(path) as A:
        monkeypatch.setattr(A.reader["indices"], "jobs", lambda *args: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            A[[0, 2]]


def test_refresh_waits_and_can_be_tried_again(path):
    with diskcsr.open(path) as A, open_to_write(path) as file:
        with options.set(lock_timeout=0.05), transaction(file):
            file["X/data"][0] = 9
            h5py.File.flush(file)
            with pytest.raises(LockedFileError, match="in the middle of changing"):
                A.refresh()
            with pytest.raises(StaleFileError, match=r"refresh\(\) was not possible"):
                A[0]
            with pytest.raises(LockedFileError):
                A.refresh()
        A.refresh()
        assert A[0, 0] == 9
        A.close()
        with pytest.raises(ValueError, match="closed"):
            A.refresh()


def test_a_file_that_another_one_took_the_place_of_stays_as_it_was(path, tmp_path):
    diskcsr.write(tmp_path / "new.h5", csc_array(2 * DENSE), "X").close()
    with diskcsr.open(path) as A:
        A[0]
        os.replace(tmp_path / "new.h5", path)
        np.testing.assert_array_equal(A[[0, 2]].toarray(), DENSE[[0, 2]])
        with pytest.raises(StaleFileError, match="is a csc one now"):
            A.refresh()


# ----------------------------------------------------------------------------- times and turns


def test_each_commit_has_a_time_of_its_own(path):
    """Also those within one tick of the clock; and no later write has it by chance."""
    times = []
    with open_to_write(path) as file:
        for n in range(20):
            file.attrs["n"] = n
            file.flush()
            times.append(path.stat().st_mtime_ns)
    assert len(set(times)) == len(times)


def test_what_is_raised_in_a_look_has_no_journal_in_its_context(path):
    assert not os.path.exists(turns.journal_path(path))
    with pytest.raises(KeyError) as caught, turns.held(path, time.monotonic()):
        raise KeyError
    assert caught.value.__context__ is None


@pytest.mark.skipif(turns._SET_LOCK is None, reason="the system has no such locks")
def test_a_writer_waits_for_a_look_and_not_for_long(path, monkeypatch):
    monkeypatch.setattr(turns, "_POLITE", 0.3)
    with open_to_write(path) as file:
        with turns.held(path, time.monotonic()):
            begin = time.monotonic()
            file.attrs["n"] = 1
            file.flush()
            assert time.monotonic() - begin >= 0.3
        monkeypatch.setattr(turns, "_POLITE", 60)
        begin = time.monotonic()
        file.attrs["n"] = 2
        file.flush()
        assert time.monotonic() - begin < 30
        with turns.held(path, time.monotonic() + 60):
            assert file.attrs["n"] == 2
