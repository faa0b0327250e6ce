"""Which state of a file is shown, and that nothing is remembered of files that are closed."""

import contextlib
import os
import pickle
import threading

import h5py
import numpy as np
import pytest
from scipy.sparse import csr_array

import diskcsr
from diskcsr.errors import StaleFileError
from diskcsr.storage.files import freshness
from diskcsr.storage.files.freshness import Freshness, is_shown_as_it_is


@pytest.fixture
def path(tmp_path):
    diskcsr.write(tmp_path / "m.h5", csr_array(np.eye(5))).close()
    return tmp_path / "m.h5"


def test_what_is_known_of_a_file(path):
    with h5py.File(path, "r") as file:
        fresh = Freshness(file)
        assert fresh.path == os.path.realpath(path)
        assert fresh.now() == fresh.as_shown == (path.stat().st_size, path.stat().st_mtime_ns)
        assert fresh.is_current()
        assert is_shown_as_it_is(file, os.path.realpath(path))
        fresh.check_unchanged()
        with path.open("ab") as other:
            other.write(b"more")
        assert not fresh.is_current()
        # Whoever comes later is shown what HDF5 has read already.
        assert Freshness(file).as_shown == fresh.as_shown
        assert not is_shown_as_it_is(file, os.path.realpath(path))
        with pytest.raises(StaleFileError, match="was changed after it was opened"):
            fresh.check_unchanged()
        path.unlink()
        assert fresh.now() is None


def test_a_file_that_is_no_ordinary_one(path):
    with h5py.File(path, "r", driver="core") as file:
        fresh = Freshness(file)
        assert fresh.path is None
        assert fresh.now() is None
        assert fresh.is_current()


def test_a_relative_path_stays_what_it_was(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with diskcsr.open("m.h5") as A:
        monkeypatch.chdir("/")
        assert A[3, 3] == 1
        with pickle.loads(pickle.dumps(A)) as again:
            assert again.shape == (5, 5)
            assert again.filename == os.path.realpath(path)


def test_files_that_are_closed_are_forgotten(tmp_path, monkeypatch):
    monkeypatch.setattr(freshness, "_first_seen", {})
    monkeypatch.setattr(freshness, "_MANY", 8)
    monkeypatch.setattr(freshness, "_most", 8)
    kept = tmp_path / "kept.h5"
    diskcsr.write(kept, csr_array(np.eye(5))).close()
    most = 0
    with diskcsr.open(kept):
        for i in range(50):
            path = tmp_path / f"{i}.h5"
            diskcsr.write(path, csr_array(np.eye(5))).close()
            diskcsr.open(path).close()
            most = max(most, len(freshness._first_seen))
        assert os.path.realpath(kept) in freshness._first_seen
    assert most <= 9


def test_a_file_that_another_thread_closes_meanwhile(path, tmp_path, monkeypatch):
    other = tmp_path / "other.h5"
    diskcsr.write(other, csr_array(np.eye(5))).close()
    opened = h5py.File(other, "r")
    closer = threading.Thread(target=opened.close)
    serial_of = freshness.serial_of

    def slowly(identifier):
        with contextlib.suppress(RuntimeError):  # it was started before
            closer.start()
        closer.join(0.2)
        return serial_of(identifier)

    with diskcsr.open(path) as A:
        monkeypatch.setattr(freshness, "_most", 0)
        monkeypatch.setattr(freshness, "serial_of", slowly)
        freshness._forget_closed()
        closer.join()
        assert not opened
        assert A[3, 3] == 1


def test_many_open_files_are_remembered(tmp_path, monkeypatch):
    monkeypatch.setattr(freshness, "_first_seen", {})
    monkeypatch.setattr(freshness, "_MANY", 4)
    monkeypatch.setattr(freshness, "_most", 4)
    arrays = []
    for i in range(20):
        path = tmp_path / f"{i}.h5"
        diskcsr.write(path, csr_array(np.eye(5))).close()
        arrays.append(diskcsr.open(path))
    assert len(freshness._first_seen) >= 20
    for array in arrays:
        array.close()


def test_opening_asks_for_the_path_once(path, monkeypatch):
    asked, path_of = [], freshness.path_of
    monkeypatch.setattr(freshness, "path_of", lambda file: asked.append(file) or path_of(file))
    diskcsr.open(path).close()
    assert len(asked) == 1
