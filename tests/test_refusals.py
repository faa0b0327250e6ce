"""What HDF5 refuses to open, to read or to change: one clear error, and the file as it was."""

import errno
import os

import h5py
import numpy as np
import pytest
from filtered import FILTERS, chunks_of, count_matrix, overwrite, store

import diskcsr

MATRIX = count_matrix()


@pytest.fixture
def path(tmp_path):
    return store(tmp_path / "m.h5", MATRIX, steps=FILTERS["gzip"], libver="latest")


def replace(path):
    diskcsr.write(path, MATRIX, "X", overwrite=True)


def append(path):
    with diskcsr.open(path, mode="r+") as A:
        A.append(MATRIX)


def scale(path):
    with diskcsr.open(path, mode="r+") as A:
        A *= 2


def test_a_matrix_that_cannot_be_removed_is_not_replaced(path):
    raw = path.read_bytes()
    at = raw.index(b"OHDR", raw.index(b"indices"))  # of the first of the arrays
    overwrite(path, at + 30, bytes([raw[at + 30] ^ 1]))
    before = path.read_bytes()
    with pytest.raises(diskcsr.CorruptFileError, match="cannot change it") as caught:
        replace(path)
    assert str(path) in str(caught.value)
    assert path.read_bytes() == before
    with pytest.raises(diskcsr.CorruptFileError), diskcsr.File(path, "r+") as file:
        file["X"] = MATRIX
    with h5py.File(path) as file:
        assert list(file) == ["X"]


@pytest.mark.parametrize("change", [append, scale])
def test_a_chunk_that_cannot_be_read_is_not_changed(path, change):
    place = chunks_of(path, "X/data")[-1]
    overwrite(path, place[2], bytes(place[3]))
    before = path.read_bytes()
    with pytest.raises(diskcsr.CorruptFileError, match=r"chunk 14: filter 1 .* cannot be undone"):
        change(path)
    assert path.read_bytes() == before


@pytest.mark.parametrize("number", [errno.EIO, errno.EACCES, errno.EMFILE])
def test_what_the_system_refuses_is_no_damage(path, monkeypatch, number):
    real = os.pread

    def refuse(*args):
        raise OSError(number, os.strerror(number))

    with diskcsr.open(path) as A:
        monkeypatch.setattr(os, "pread", refuse)
        with pytest.raises(OSError, match=os.strerror(number)) as caught:
            A[:]
        assert caught.value.errno == number
        assert caught.value.filename == str(path)
        monkeypatch.setattr(os, "pread", real)
        assert np.array_equal(A.toarray(), MATRIX.toarray())


def test_an_error_while_hdf5_is_making_a_call_is_told_as_itself(path, monkeypatch):
    def refuse(*args):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "preadv", refuse)
    with pytest.raises(OSError, match="Input/output error"):
        diskcsr.open(path, mode="r+")
