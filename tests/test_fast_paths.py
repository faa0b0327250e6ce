"""A fast path skips work whose result is known: it gives what the long way gives."""

import h5py
import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import example, given
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

import diskcsr
from diskcsr import axis
from diskcsr.axis import CSC, CSR, matrix_of
from diskcsr.errors import CorruptFileError
from diskcsr.keys import plan
from diskcsr.keys.selection import normalize
from diskcsr.storage.read import direct
from diskcsr.storage.read.readers import Reader

N_ROWS, N_COLUMNS = 60, 40


@pytest.fixture(scope="module")
def X():
    rng = np.random.default_rng(0)
    dense = rng.integers(1, 9, (N_ROWS, N_COLUMNS)) * (rng.random((N_ROWS, N_COLUMNS)) < 0.3)
    dense[rng.random(N_ROWS) < 0.2] = 0
    return sp.csr_array(dense.astype(np.float32))


@pytest.fixture(scope="module", params=["contiguous", "in pieces"])
def array(request, X, tmp_path_factory):
    """The matrix in a file, its arrays in one piece each or in several."""
    path = tmp_path_factory.mktemp("fast") / "m.h5"
    with h5py.File(path, "w") as file:
        group = file.create_group("X")
        group.attrs.update({"h5sparse_format": "csr", "h5sparse_shape": X.shape})
        for name in ("data", "indices", "indptr"):
            values = getattr(X, name)
            if request.param == "contiguous":
                group[name] = values
                continue
            made = group.create_dataset(name, values.shape, values.dtype, chunks=(37,))
            for first in reversed(range(0, values.size, 37)):  # they lie in this order in the file
                made[first : first + 37] = values[first : first + 37]
                file.flush()
    with diskcsr.open(path) as A:
        assert (A.reader["data"].extent_offset.size > 1) == (request.param == "in pieces")
        yield A


def assert_same(got, want):
    """Two of scipy's matrices are equal down to the dtypes of their arrays."""
    assert type(got) is type(want)
    assert got.shape == want.shape
    for name in ("data", "indices", "indptr"):
        one, other = getattr(got, name), getattr(want, name)
        assert one.dtype == other.dtype
        assert_array_equal(one, other)


# --------------------------------------------------------------------------------- few rows


@given(st.lists(st.integers(0, N_ROWS - 1), max_size=12), st.integers(0, 40), st.integers(1, 90))
def test_a_few_rows_without_kernels(array, X, rows, max_gap, max_range):
    limits = {"max_gap": max_gap, "max_range": max_range, "max_segment": 50}
    found = []
    for few in (10**6, -1):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(direct, "FEW_PIECES", few)
            patch.setattr(plan, "FEW_PIECES", few)
            starts, stops = array._contents().spans(np.array(rows, np.int64))
            made = plan.plan_reads(starts, stops, **limits)
            found.append((*made.pieces, *array._contents().read(made)))
    for one, other in zip(*found, strict=True):
        assert one.dtype == other.dtype
        assert_array_equal(one, other)
    if rows:
        assert_same(array[rows], X[rows])


@pytest.mark.parametrize("few", [10**6, -1])
def test_a_wrong_index_is_found_on_both_ways(tmp_path, monkeypatch, few):
    monkeypatch.setattr(direct, "FEW_PIECES", few)
    path = tmp_path / "m.h5"
    diskcsr.write(path, sp.csr_array(np.eye(20, dtype=np.float32))).close()
    with h5py.File(path, "r+") as file:
        file["X/indices"][11] = 20
    with diskcsr.open(path) as A:
        assert A[[3, 9, 15]].nnz == 3
        with pytest.raises(CorruptFileError, match="index 20 is out of range for a minor axis"):
            A[[3, 11, 15]]


# -------------------------------------------------------------------------------- one run


@given(st.data())
def test_a_run_is_what_a_plan_of_it_gives(array, X, data):
    lo = data.draw(st.integers(0, X.nnz))
    hi = data.draw(st.integers(lo, X.nnz))
    for name, limit in (("data", None), ("indices", N_COLUMNS)):
        reader = array.reader[name]
        before = reader.bytes_read
        run = reader.run(lo, hi, limit)
        took = reader.bytes_read - before
        planned = Reader.run(reader, lo, hi, limit)
        assert reader.bytes_read - before == 2 * took == 2 * (hi - lo) * 4
        assert run.dtype == planned.dtype
        assert_array_equal(run, planned)
        assert_array_equal(run, getattr(X, name)[lo:hi])


@pytest.mark.parametrize("read", [lambda reader, *run: reader.run(*run), Reader.run])
def test_a_run_with_a_wrong_index(array, read):
    reader = array.reader["indices"]
    with pytest.raises(CorruptFileError, match="is out of range for a minor axis of length 3"):
        read(reader, 0, 100, 3)


def test_a_run_beyond_the_array(array, X):
    contents = array._contents()
    for lo, hi in ((0, X.nnz + 1), (-1, 3)):
        with pytest.raises(CorruptFileError, match=f"ask for elements {lo} to {hi}, but it holds"):
            contents.part("data", lo, hi)


def test_stored_booleans_are_put_right_in_a_run(tmp_path):
    path = tmp_path / "m.h5"
    diskcsr.write(path, sp.csr_array(np.eye(3, dtype=bool))).close()
    with h5py.File(path) as file:
        offset = file["X/data"].id.get_chunk_info(0).byte_offset
    with path.open("r+b") as file:
        file.seek(offset + 1)
        file.write(b"\x07")  # true for C, and for numpy no boolean at all
    with diskcsr.open(path) as A:
        reader = A.reader["data"]
        for run in (reader.run(0, 3), Reader.run(reader, 0, 3)):
            assert run.dtype == bool
            assert run.view(np.uint8).tolist() == [1, 1, 1]


# ----------------------------------------------------------------------------------- keys

SHAPES = st.tuples(st.integers(1, 6), st.integers(1, 6))


def outcome(key, shape, of):
    """What `normalize` makes of a key, or the exception it raises."""
    try:
        selection = normalize(key, shape, of)
    except IndexError as error:
        return type(error), str(error)
    stored, wanted = selection.majors, selection.wanted
    return (
        stored if isinstance(stored, range) else np.asarray(stored).tolist(),
        wanted if wanted is None or isinstance(wanted, range) else np.asarray(wanted).tolist(),
        selection.points is None,
        selection.finish is None,
        selection.element,
    )


@given(SHAPES, st.integers(-7, 7), st.integers(-7, 7), st.sampled_from([CSR, CSC]))
@example((3, 4), 0, 4, CSR)
def test_one_element_is_known_at_once(shape, row, col, of):
    long = outcome((np.int64(row), np.int64(col)), shape, of)
    got = outcome((row, col), shape, of)
    if got[0] is IndexError:
        assert long[0] is IndexError
    else:
        assert got == long
        assert got[-1] == of.swap((row % shape[0], col % shape[1]))


ROWS = st.lists(st.integers(-7, 7), max_size=6).map(lambda rows: np.array(rows, np.int64))


@given(SHAPES, ROWS, st.sampled_from(["i1", "i4", "i8"]), st.sampled_from([CSR, CSC]))
def test_rows_by_their_numbers_are_known_at_once(shape, rows, dtype, of):
    rows = rows.astype(dtype)
    got = outcome(rows, shape, of)
    long = outcome((rows, slice(None)), shape, of)
    if got[0] is IndexError:
        assert long[0] is IndexError
    else:
        assert got == long


@pytest.mark.parametrize(
    "rows", [np.array([0.0]), np.array([True, False, True]), np.array([[0], [1]]), np.array([])]
)
def test_other_arrays_are_looked_at_as_ever(rows):
    got, long = outcome(rows, (3, 4), CSR), outcome((rows, slice(None)), (3, 4), CSR)
    if got[0] is IndexError:  # the message shows the key as it was written
        assert long[0] is IndexError
    else:
        assert got == long


# -------------------------------------------------------------------------- scipy's matrices


@pytest.mark.parametrize(
    "container",
    [sp.csr_array, sp.csc_array, sp.csr_matrix, sp.csc_matrix],
    ids=lambda c: c.__name__,
)
@pytest.mark.parametrize("index", [np.int32, np.int64])
@pytest.mark.parametrize("dtype", ["?", "i1", "u8", "f4", "f8", "c16", "g"])
def test_a_matrix_is_what_scipy_makes_of_the_arrays(container, index, dtype):
    arrays = (
        np.array([1, 0, 3], dtype),
        np.array([0, 2, 1], index),
        np.array([0, 2, 3], index),
    )
    shape = axis.axis_of(container((1, 1)).format).swap((2, 3))
    want = container(arrays, shape=shape)
    got = matrix_of(container, arrays, shape)
    assert_same(got, want)
    assert vars(got).keys() == vars(want).keys()
    assert {k: v for k, v in vars(got).items() if not isinstance(v, np.ndarray)} == {
        k: v for k, v in vars(want).items() if not isinstance(v, np.ndarray)
    }
    assert got.has_canonical_format == want.has_canonical_format
    assert_array_equal((got + got).toarray(), (want + want).toarray())
    if index is np.int32:
        assert got.data is arrays[0]
        assert got.indices is arrays[1]
        assert got.indptr is arrays[2]


def test_values_that_scipy_has_no_matrices_of(array):
    arrays = np.array(["a"], "U1"), np.array([0], np.int32), np.array([0, 1], np.int32)
    found = []
    for make in (
        lambda: sp.csr_array(arrays, shape=(1, 1)),
        lambda: matrix_of(sp.csr_array, arrays, (1, 1)),
    ):
        try:
            found.append(make().dtype)
        except (TypeError, ValueError) as error:
            found.append((type(error), str(error)))
    assert found[0] == found[1]
