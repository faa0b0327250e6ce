"""Contents: one snapshot of what an array shows, from which whole lines are read."""

import copy
import pickle
from dataclasses import FrozenInstanceError

import h5py
import numpy as np
import pytest
from numpy.testing import assert_array_equal
from scipy.sparse import csc_array, csr_array

import diskcsr
from diskcsr.axis import CSC, CSR
from diskcsr.blocks import contents as module
from diskcsr.blocks.contents import Contents
from diskcsr.machine.buffers import Buffers
from diskcsr.protocol.handle import contents_of
from diskcsr.storage.read.pointers import _ALONE

N_ROWS, N_COLUMNS = 211, 37


@pytest.fixture(scope="module")
def matrix():
    rng = np.random.default_rng(3)
    dense = rng.random((N_ROWS, N_COLUMNS)) * (rng.random((N_ROWS, N_COLUMNS)) < 0.3)
    return csr_array(dense)


@pytest.fixture(params=[None, "gzip"], ids=["raw", "gzip"])
def path(request, matrix, tmp_path):
    diskcsr.write(tmp_path / "m.h5", matrix, compression=request.param, chunks=500).close()
    return tmp_path / "m.h5"


@pytest.fixture
def array(path):
    with diskcsr.open(path) as opened:
        yield opened


def matrix_of(contents, block):
    shape = contents.axis.swap((block[2].size - 1, contents.n_minor))
    return contents.axis.array(block, shape=shape)


def same(found, expected):
    assert found.dtype == expected.dtype
    assert found.shape == expected.shape
    assert_array_equal(found.toarray(), expected.toarray())


def test_what_it_says(array, matrix):
    contents = contents_of(array)
    assert contents.axis is CSR
    assert contents.shape == (N_ROWS, N_COLUMNS)
    assert (contents.n_major, contents.n_minor) == (N_ROWS, N_COLUMNS)
    assert contents.dtype == np.float64
    assert contents.nnz == matrix.nnz
    assert contents.held == {}
    assert contents_of(array.T).shape == (N_COLUMNS, N_ROWS)
    assert contents_of(array.T).axis is CSC
    assert contents_of(array.T).n_major == N_ROWS
    assert contents_of(matrix) is None


def test_it_cannot_be_changed(array):
    with pytest.raises(FrozenInstanceError):
        contents_of(array).shape = (1, 1)


@pytest.mark.parametrize(
    "stored",
    [range(N_ROWS), range(3, 3), range(5, 90), range(100, 2, -7), np.array([7, 0, 7, 210, 3])],
    ids=str,
)
def test_lines(array, matrix, stored):
    contents = contents_of(array)
    expected = matrix[list(stored)] if len(stored) else matrix[:0]
    assert_array_equal(contents.lengths(stored), np.diff(expected.indptr))
    starts, stops = contents.spans(stored)
    assert starts.dtype == stops.dtype == np.int64
    assert_array_equal(starts, matrix.indptr[list(stored)])
    block = contents.read(contents.plan(stored))
    assert block[1].dtype == block[2].dtype == np.int32
    same(matrix_of(contents, block), expected)
    buffers = Buffers()
    same(matrix_of(contents, contents.read(contents.plan(stored), buffers)), expected)
    assert buffers.nbytes > 0 or not len(stored)


def test_all_lines_have_lengths(array, matrix):
    assert_array_equal(contents_of(array).lengths(), np.diff(matrix.indptr))
    assert contents_of(array).lengths().dtype == np.int64


def test_elements_and_parts(array, matrix):
    contents = contents_of(array)
    for major, minor in [(0, 0), (210, 36), (7, 3), (99, 20)]:
        found = contents.element(major, minor)
        assert type(found) is np.float64
        assert found == matrix[major, minor]
    assert_array_equal(contents.part("indices", 10, 700), matrix.indices[10:700])
    assert_array_equal(contents.part("data", 0, 3), matrix.data[:3])
    with pytest.raises(diskcsr.CorruptFileError, match="ask for elements 0 to"):
        contents.part("data", 0, matrix.nnz + 1)


def test_what_was_handed_out_is_the_truth(array, matrix):
    before = contents_of(array)
    array.data[:] = 5
    contents = contents_of(array)
    assert set(contents.held) == {"data"}
    data, indices, _ = contents.read(contents.plan(range(N_ROWS)))
    assert_array_equal(data, np.full(matrix.nnz, 5.0))
    assert_array_equal(indices, matrix.indices)
    # A snapshot of before knows nothing of it, and what the file holds has not changed.
    assert before.held == {}
    stored = Contents.stored(contents.source)
    assert_array_equal(stored.read(stored.plan(range(9)))[0], matrix.data[: matrix.indptr[9]])
    assert not contents.is_as_stored()
    assert before.is_as_stored()


def test_row_pointers_that_were_handed_out(array, matrix):
    array.indptr[1:] = array.indptr[1]
    contents = contents_of(array)
    assert contents.nnz == matrix.indptr[1]
    assert_array_equal(contents.lengths()[1:], np.zeros(N_ROWS - 1))
    assert contents.lengths(np.array([5, 0])).tolist() == [0, matrix.indptr[1]]


@pytest.mark.parametrize("walk", [10, 100, 1000])
def test_a_walk_reads_the_row_pointers_once(array, matrix, monkeypatch, walk):
    monkeypatch.setattr(module, "WALK", walk)
    contents = contents_of(array)
    found = [contents.block(*planned) for planned in contents.plans(range(N_ROWS), 60 * 12)]
    assert [block.first for block in found] == [0, *(block.last for block in found[:-1])]
    assert found[-1].last == N_ROWS
    assert_array_equal(np.concatenate([block.data for block in found]), matrix.data)
    assert all(block.data.size <= 60 for block in found)
    # Runs of rows share the pointer between them.
    runs = -(-N_ROWS // walk)
    if array.reader["indptr"].name == "direct":
        itemsize = array.reader["indptr"].dtype.itemsize
        assert array.reader["indptr"].bytes_read == (N_ROWS + runs) * itemsize
    assert array.reader["indptr"].ranges_read == runs


# -------------------------------------------------------------------------------------- pickling


def copies(contents):
    yield pickle.loads(pickle.dumps(contents))
    yield copy.deepcopy(contents)
    cloudpickle = pytest.importorskip("cloudpickle")
    yield cloudpickle.loads(cloudpickle.dumps(contents))


def test_rows_asked_for_one_at_a_time_keep_all_row_pointers(array, matrix):
    """After some of them a row costs no read of its pointers any more."""
    expected = matrix[[7]].toarray()[0]
    read = []
    for row in range(3 * _ALONE):
        assert_array_equal(array[row].toarray(), matrix[row].toarray())
        assert array[7, 5] == expected[5]
        read.append(array.reader["indptr"].bytes_read)
    if array.reader["indptr"].name == "direct":  # of a compressed file the chunk is kept
        assert read[2] < read[3]
    assert read[-1] == read[_ALONE]


def test_of_broken_row_pointers_the_others_are_read_one_at_a_time(tmp_path, matrix):
    path = tmp_path / "b.h5"
    diskcsr.write(path, matrix).close()
    with h5py.File(path, "r+") as file:
        file["X/indptr"][101] = -1
    with diskcsr.open(path) as array:
        for row in range(3 * _ALONE):
            assert_array_equal(array[row].toarray(), matrix[row].toarray())
        for row in (100, 101):
            with pytest.raises(diskcsr.CorruptFileError, match="indptr"):
                array[row]
        assert array[200, 3] == matrix[200, 3]


def test_pickled_by_address(array, matrix):
    for flip in (False, True):
        contents = contents_of(array.T if flip else array)
        assert len(pickle.dumps(contents)) < 1000
        for other in copies(contents):
            assert other.source is not contents.source
            assert other.axis is contents.axis
            assert (other.shape, other.dtype, other.nnz) == (
                contents.shape,
                np.float64,
                matrix.nnz,
            )
            block = other.read(other.plan(range(N_ROWS)))
            same(matrix_of(other, block), matrix.T if flip else matrix)
            other.source.close()


def test_pickled_by_value_once_changed(array, matrix):
    array.data[0] = 7
    array.indices  # noqa: B018 - handed out
    expected = matrix.copy()
    expected.data[0] = 7
    contents = contents_of(array)
    for other in copies(contents):
        array.data[1] = -1  # of no matter to a copy
        for again in (other, pickle.loads(pickle.dumps(other))):
            assert again.nnz == matrix.nnz
            block = again.read(again.plan(range(N_ROWS)))
            same(matrix_of(again, block), expected)
            assert again.element(0, int(matrix.indices[0])) == 7
        array.data[1] = expected.data[1]


def test_arrays_handed_out_and_left_as_they_are_go_by_address(tmp_path, matrix):
    diskcsr.write(tmp_path / "m.h5", matrix).close()
    with diskcsr.open(tmp_path / "m.h5") as array:
        assert array.data[0] == matrix.data[0]
        assert array.indptr[1] == matrix.indptr[1]
        assert contents_of(array).is_as_stored()
        assert len(pickle.dumps(contents_of(array))) < 1000
        # An array of the caller's own is not the file's, whatever it holds.
        array.data = array.data.copy()
        assert not contents_of(array).is_as_stored()


def test_a_matrix_that_is_another_by_now(tmp_path, matrix):
    path = tmp_path / "m.h5"
    diskcsr.write(path, matrix).close()
    with diskcsr.open(path) as array:
        saved = pickle.dumps(contents_of(array))
    diskcsr.write(path, matrix[:9], overwrite=True).close()
    with pytest.raises(diskcsr.StaleFileError, match=r"shape \(211, 37\).*shape \(9, 37\)"):
        pickle.loads(saved)
    diskcsr.write(path, csc_array(matrix), overwrite=True).close()
    with pytest.raises(diskcsr.StaleFileError, match=r"was a csr matrix.*is a csc one"):
        pickle.loads(saved)
    with h5py.File(path, "a"):  # nothing was left open
        pass


def test_contents_of_a_closed_file(array):
    array.close()
    with pytest.raises(diskcsr.ClosedFileError):
        pickle.dumps(contents_of(array))
    with pytest.raises(diskcsr.ClosedFileError):
        contents_of(array).part("data", 0, 1)
