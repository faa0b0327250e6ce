"""Reductions of matrices on disk: what scipy says of the same matrix in memory, and numpy."""

import math
import pickle
import tracemalloc
import warnings

import h5py
import numpy as np
import pytest
import scipy
from conformance.stored import write_by_hand
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from packaging.version import Version
from scipy.sparse import csc_array, csr_array, csr_matrix, issparse, random_array
from strategies import DTYPES, matrices

import diskcsr
from diskcsr.compute import extremes, statistics, summary, sums
from diskcsr.machine.options import options
from diskcsr.protocol.handle import contents_of

AXES = (None, 0, 1, -1, -2)
#: scipy before 1.16 counts an entry of booleans that is stored twice as two.
OLD = Version(scipy.__version__) < Version("1.16")


@pytest.fixture(scope="module", params=["numpy", "kernels"])
def work(request):
    """Few elements go through numpy, many through the kernels: every test tries both."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (sums, summary, extremes, statistics):
            patch.setattr(module, "FEW", sums.FEW if request.param == "numpy" else -1)
        yield request.param


def stored(tmp_path_factory, matrix, layout="raw"):
    path = tmp_path_factory.mktemp("m") / "m.h5"
    write_by_hand(path, matrix, layout)
    return diskcsr.open(path, "X", spmatrix=not isinstance(matrix, csr_array | csc_array))


def outcome(of, name, *arguments, **keywords):
    """What a method gives or raises; numpy's warnings of numbers are of no interest."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return getattr(of, name)(*arguments, **keywords)
    except Exception as problem:
        return problem


def same(found, expected, exact=True, dtype=None):
    """Assert that two outcomes are of one kind and, to rounding in `dtype`, equal."""
    if isinstance(expected, Exception):
        assert type(found) is type(expected), (found, expected)
        assert str(found) == str(expected)
        return
    assert not isinstance(found, Exception), found
    if issparse(expected):
        assert type(found) is type(expected)
        assert found.shape == expected.shape
        assert found.dtype == expected.dtype
        assert found.nnz == expected.nnz
        found, expected = found.toarray(), expected.toarray()
    if not isinstance(expected, int | np.intp) or type(found) is not int:
        assert type(found) is type(expected)
        assert found.dtype == expected.dtype
    assert np.shape(found) == np.shape(expected)
    if exact or np.asarray(expected).dtype.kind in "biu":
        assert_array_equal(found, expected)
    else:
        kinds = [np.asarray(expected).dtype, dtype]
        tolerance = 50 * max(float(np.finfo(kind).eps) for kind in kinds if kind.kind in "fc")
        assert_allclose(found, expected, rtol=tolerance, atol=tolerance)


def with_nan(data, matrix):
    """Perhaps put NaN, infinities and zeros among the values."""
    if matrix.dtype.kind == "f" and matrix.data.size:
        odd = data.draw(st.lists(st.sampled_from([np.nan, np.inf, -np.inf, -0.0]), max_size=2))
        places = st.integers(0, matrix.data.size - 1)
        for value in odd:
            matrix.data[data.draw(places)] = value
    return matrix


# -------------------------------------------------------------------------------- as scipy has it


@pytest.mark.parametrize("spmatrix", [False, True], ids=["array", "matrix"])
@given(data=st.data())
def test_sums_and_means(tmp_path_factory, work, spmatrix, data):
    matrix = with_nan(data, data.draw(matrices(spmatrix=spmatrix)))
    axis = data.draw(st.sampled_from(AXES))
    dtype = data.draw(st.sampled_from((None, None, np.float64, np.float32, np.int64, np.int8)))
    with stored(tmp_path_factory, matrix) as A:
        for name in ("sum", "mean"):
            expected = outcome(matrix.copy(), name, axis=axis, dtype=dtype)
            if matrix.dtype == bool and not matrix.copy().has_canonical_format and (OLD or dtype):
                continue  # whether an entry that is stored twice counts twice
            if dtype in (np.int64, np.int8) and (name == "mean" or matrix.dtype.kind not in "biu"):
                continue  # fractions are cut off from what was rounded here and there
            found = outcome(A, name, axis=axis, dtype=dtype)
            same(found, expected, exact=False, dtype=matrix.dtype)
        assert contents_of(A).held == {}


@pytest.mark.parametrize("spmatrix", [False, True], ids=["array", "matrix"])
@given(data=st.data())
def test_extremes(tmp_path_factory, work, spmatrix, data):
    matrix = with_nan(data, data.draw(matrices(spmatrix=spmatrix)))
    axis = data.draw(st.sampled_from(AXES))
    explicit = data.draw(st.booleans())
    with stored(tmp_path_factory, matrix) as A:
        for name in ("max", "min", "nanmax", "nanmin", "argmax", "argmin"):
            asked = {"axis": axis, "explicit": explicit}
            expected = outcome(matrix.copy(), name, **asked)
            same(outcome(A, name, **asked), expected)
        assert contents_of(A).held == {}


@pytest.mark.parametrize("spmatrix", [False, True], ids=["array", "matrix"])
@given(data=st.data())
def test_counts_and_diagonals(tmp_path_factory, work, spmatrix, data):
    matrix = data.draw(matrices(spmatrix=spmatrix))
    axis, k = data.draw(st.sampled_from(AXES)), data.draw(st.integers(-8, 8))
    with stored(tmp_path_factory, matrix) as A:
        found = outcome(A, "count_nonzero", axis=axis)
        expected = outcome(matrix.copy(), "count_nonzero", axis=axis)
        assert_array_equal(found, expected)
        assert np.shape(found) == np.shape(expected)
        same(outcome(A, "diagonal", k), outcome(matrix, "diagonal", k))
        same(outcome(A, "trace", k), outcome(matrix, "trace", k))
        if spmatrix:
            for along in (axis, 2):
                found, expected = outcome(A, "getnnz", along), outcome(matrix, "getnnz", along)
                if isinstance(expected, Exception):
                    same(found, expected)
                else:
                    assert_array_equal(found, expected)
        assert contents_of(A).held == {}


@given(data=st.data())
def test_variances(tmp_path_factory, work, data):
    matrix = data.draw(matrices(dtypes=DTYPES, spmatrix=data.draw(st.booleans())))
    axis, ddof = data.draw(st.sampled_from(AXES)), data.draw(st.sampled_from((0, 1)))
    dense = np.asarray(matrix.toarray())
    dense = dense.astype(np.float64) if dense.dtype.kind in "biu" else dense
    if 0 in matrix.shape:
        return
    with stored(tmp_path_factory, matrix) as A:
        for name in ("var", "std"):
            expected = outcome(np, name, dense, axis=axis, ddof=ddof)
            found = getattr(A, name)(axis=axis, ddof=ddof)
            form = A.mean(axis=axis)
            assert np.shape(found) == np.shape(form)
            assert type(found) is type(form) or axis is None
            assert found.dtype == expected.dtype
            n = dense.size if axis is None else dense.shape[axis]
            if n > ddof:
                tolerance = 100 * float(np.finfo(found.dtype).eps)
                assert_allclose(
                    np.ravel(found),
                    np.ravel(expected),
                    rtol=tolerance,
                    atol=tolerance if name == "var" else tolerance**0.5,
                )
            else:
                assert np.isnan(found).all()
            assert_array_equal(getattr(np, name)(A, axis, ddof=ddof), found)


@given(data=st.data())
def test_describe(tmp_path_factory, work, data):
    matrix = with_nan(data, data.draw(matrices()))
    axis = data.draw(st.sampled_from(AXES))
    along = matrix.shape if axis is None else matrix.shape[axis % 2 : axis % 2 + 1]
    with stored(tmp_path_factory, matrix) as A:
        if 0 in along:
            with pytest.raises(ValueError, match="there is nothing to describe along axis"):
                diskcsr.describe(A, axis)
            return
        found = diskcsr.describe(A, axis, ddof=0)
        matrix.sum_duplicates()
        dense = matrix.toarray()
        with np.errstate(all="ignore"):
            assert found.count == math.prod(along)
            pattern = csr_array(matrix, copy=True)
            pattern.data = np.ones(pattern.nnz)
            assert_array_equal(found.stored, pattern.sum(axis))
            assert_array_equal(found.nonzeros, np.count_nonzero(dense, axis))
            for name, expected in (
                ("sum", dense.sum(axis)),
                ("mean", dense.mean(axis)),
                ("variance", dense.var(axis)),
            ):
                value = getattr(found, name)
                assert np.shape(value) == np.shape(expected)
                tolerance = 100 * float(np.finfo(np.asarray(dense.mean(axis)).dtype).eps)
                assert_allclose(value, expected, rtol=tolerance, atol=tolerance)
            for name, expected in (("min", dense.min(axis)), ("max", dense.max(axis))):
                assert_array_equal(getattr(found, name), expected)
                assert getattr(found, name).dtype == matrix.dtype
        assert contents_of(A).held == {}


ORDERS = (None, "fro", "f", 1, -1, np.inf, -np.inf, 0, 2, 3, 2.5)


@given(data=st.data())
def test_norms(tmp_path_factory, work, data):
    from scipy.sparse import linalg

    matrix = data.draw(matrices(spmatrix=data.draw(st.booleans())))
    if matrix.dtype == bool:
        # scipy 1.18 counts a place as often as it is stored, but not in the norm of all places.
        matrix.sum_duplicates()
    order = data.draw(st.sampled_from(ORDERS))
    axis = data.draw(st.sampled_from((None, 0, 1, -1, (0,), (0, 1), (1, 0), (0, 0), 2, 0.5, "0")))
    both = axis is None or (isinstance(axis, tuple) and len(axis) == 2 and axis != (0, 0))
    with stored(tmp_path_factory, matrix) as A:
        if both and order == 2:
            with pytest.raises(NotImplementedError, match="svds"):
                diskcsr.norm(A, order, axis)
            return
        # numpy's powers of small integers wrap round; ours are of doubles.
        known = matrix.astype(np.float64) if matrix.dtype.kind in "iu" else matrix.copy()
        expected = outcome(linalg, "norm", known, order, axis)
        found = outcome(diskcsr, "norm", A, order, axis)
        if isinstance(expected, ValueError) and "negative integer powers" in str(expected):
            return  # of numpy's integers, of which there are none here
        if isinstance(expected, Exception):
            # Of nothing: numpy's own words, or those of the class that scipy goes through.
            assert isinstance(found, type(expected))
        elif not isinstance(found, ValueError) or 0 not in matrix.shape:
            # Of matrices some versions of scipy return matrices.
            expected = np.abs(np.asarray(expected)).reshape(-1 if np.ndim(expected) else ())
            assert np.shape(found) == np.shape(expected)
            tolerance = 50 * float(np.finfo(np.result_type(matrix.dtype, np.float32)).eps)
            assert_allclose(found, expected, rtol=tolerance, atol=tolerance)
        assert contents_of(A).held == {}


@pytest.mark.parametrize("function", [diskcsr.norm, diskcsr.describe])
def test_only_of_matrices_on_disk(function):
    with pytest.raises(TypeError, match="takes a matrix on disk, not csr_array"):
        function(csr_array((2, 2)))


# ------------------------------------------------------------------------------- many elements


@pytest.fixture(scope="module")
def large():
    """More elements than numpy does alone; a dense column, an empty one, empty rows."""
    rng = np.random.default_rng(4)
    matrix = random_array((900, 700), density=0.3, rng=rng, format="lil")
    matrix[:, [5]] = rng.random((900, 1))
    matrix[:, [9]] = 0
    matrix[100:120] = 0
    matrix = csr_array(matrix)
    matrix.data = rng.standard_normal(matrix.nnz) * 10.0 ** rng.integers(-6, 6, matrix.nnz)
    return matrix


REDUCTIONS = {
    "sum": lambda A, axis: A.sum(axis),
    "mean": lambda A, axis: A.mean(axis),
    "var": lambda A, axis: A.var(axis),
    "std": lambda A, axis: A.std(axis),
    "max": lambda A, axis: A.max(axis),
    "nanmin": lambda A, axis: A.nanmin(axis),
    "argmax": lambda A, axis: A.argmax(axis),
    "count_nonzero": lambda A, axis: A.count_nonzero(axis),
    "describe": lambda A, axis: np.array(diskcsr.describe(A, axis)[1:]),
    "norm": lambda A, axis: diskcsr.norm(A, None, axis),
}


def plain(result):
    return result.toarray() if issparse(result) else np.asarray(result)


@pytest.mark.parametrize("layout", ["raw", "gzip", "handed out"])
@pytest.mark.parametrize("make", [csr_array, csc_array], ids=["csr", "csc"])
def test_no_number_of_threads_changes_a_bit(store, large, make, layout):
    compression = "gzip" if layout == "gzip" else None
    A = store(make(large), by="diskcsr", compression=compression)
    if layout == "handed out":
        A.data, A.indices, A.indptr  # noqa: B018
    for reduce in REDUCTIONS.values():
        for axis in (None, 0, 1):
            found = []
            for threads in (1, 2, 5):
                with options.set(num_threads=threads):
                    found.append(plain(reduce(A, axis)))
            assert found[0].tobytes() == found[1].tobytes() == found[2].tobytes()


@pytest.mark.parametrize("axis", [None, 0, 1])
def test_many_elements_are_what_few_are(store, large, axis, monkeypatch):
    A = store(large, by="diskcsr")
    found = {name: plain(reduce(A, axis)) for name, reduce in REDUCTIONS.items()}
    for module in (sums, summary, extremes, statistics):
        monkeypatch.setattr(module, "FEW", 1 << 40)
    for name, reduce in REDUCTIONS.items():
        assert_allclose(found[name], plain(reduce(A, axis)), rtol=1e-9)


# ------------------------------------------------------------------------------------ precision


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("make", [csr_array, csc_array], ids=["csr", "csc"])
def test_sums_are_at_least_as_close_as_those_of_scipy(store, large, make, dtype):
    matrix = make(large.astype(dtype))
    A = store(matrix)
    dense = matrix.toarray().astype(np.float64)
    for axis in (None, 0, 1):
        lines = [dense.ravel()] if axis is None else (dense if axis == 1 else dense.T)
        exact = np.array([math.fsum(line) for line in lines])
        here = np.abs(np.ravel(A.sum(axis)).astype(np.float64) - exact)
        there = np.abs(np.ravel(matrix.sum(axis)).astype(np.float64) - exact)
        if dtype == np.float32 or axis != A._axis.major:
            assert np.all(here <= there)
            assert_allclose(here, 0, atol=np.finfo(dtype).eps * np.abs(exact).max())
        else:
            # Plain sums of doubles, as scipy's are.
            assert here.sum() <= 1.5 * there.sum()


def test_variances_do_not_cancel_out(store, work):
    values = 1e9 + np.arange(90_000, dtype=np.float64).reshape(300, 300) % 7
    A = store(csr_array(values))
    for axis in (None, 0, 1):
        assert_allclose(A.var(axis), values.var(axis), rtol=1e-9)


def test_integers_wrap_around_as_those_of_scipy(store, work):
    for dtype in (np.int64, np.uint64, np.int8, np.uint32):
        most = np.full((3, 4), np.iinfo(dtype).max, dtype)
        matrix = csr_array(most)
        A = store(matrix)
        for axis in (None, 0, 1):
            same(A.sum(axis), matrix.sum(axis))
            same(A.sum(axis, dtype=np.int8), matrix.sum(axis, dtype=np.int8))
            same(A.max(axis), matrix.max(axis))
            same(A.mean(axis), matrix.mean(axis), exact=False, dtype=np.dtype(np.float64))


def test_means_of_the_largest_numbers(store, work):
    matrix = csr_array(np.full((3, 4), 1e308))
    A = store(matrix)
    for axis in (None, 0, 1):
        assert_allclose(A.mean(axis), matrix.mean(axis), rtol=1e-15)


# ------------------------------------------------------------------------------------------ out


@pytest.mark.parametrize("name", ["sum", "mean", "var", "std"])
@pytest.mark.parametrize("axis", [None, 0, 1])
def test_results_are_put_where_they_are_wanted(store, name, axis):
    dense = np.arange(12.0).reshape(3, 4)
    A = store(csr_array(dense))
    expected = getattr(dense, name)(axis)
    out = np.full(np.shape(expected), 7, np.float32)
    assert getattr(A, name)(axis, out=out) is out
    assert_allclose(out, expected, rtol=1e-6)
    before = np.zeros(5)
    with pytest.raises(ValueError, match=r"dimension|shape"):
        getattr(A, name)(0, out=before)
    assert not before.any()


@pytest.mark.parametrize("name", ["max", "min", "argmax", "argmin", "nanmax"])
def test_where_there_is_no_out(store, name):
    matrix = csr_array(np.eye(3))
    same(outcome(store(matrix), name, out=np.zeros(3)), outcome(matrix, name, out=np.zeros(3)))


def test_functions_of_numpy(store):
    dense = np.arange(12.0).reshape(3, 4)
    A = store(csr_array(dense))
    for function in (np.sum, np.mean, np.var, np.std, np.max, np.argmax):
        assert_allclose(plain(function(A, axis=0)).ravel(), function(dense, axis=0))
        assert function(A) == function(dense)


# --------------------------------------------------------------------------------------- memory


@pytest.mark.parametrize("make", [csr_array, csc_array], ids=["csr", "csc"])
@pytest.mark.parametrize("compression", [None, "gzip"])
def test_memory_does_not_grow_with_the_matrix(store, make, compression):
    rng = np.random.default_rng(0)
    rows, columns, per = 8000, 500, 400
    indices = np.sort(rng.permuted(np.tile(np.arange(columns), (rows, 1)), axis=1)[:, :per])
    indptr = np.arange(rows + 1) * per
    matrix = csr_array((rng.random(rows * per), indices.ravel(), indptr), shape=(rows, columns))
    A = store(make(matrix), by="diskcsr", compression=compression)
    nbytes = 12 * matrix.nnz  # 38 MB
    del matrix, indices
    small = len(pickle.dumps(A))
    for reduce in REDUCTIONS.values():
        for axis in (None, 0, 1):
            reduce(A, axis)  # what is imported and compiled stays
    with options.set(memory_budget=6 << 20, cache_bytes=1 << 20):
        for name, reduce in REDUCTIONS.items():
            for axis in (None, 0, 1):
                tracemalloc.start()
                reduce(A, axis)
                A.diagonal()
                _, peak = tracemalloc.get_traced_memory()
                tracemalloc.stop()
                # Two threads with a block each, and what is made of it.
                assert peak < 24 << 20 < nbytes, (name, axis, peak)
    assert contents_of(A).held == {}
    assert len(pickle.dumps(A)) == small < 1000


def test_counting_what_is_stored_reads_no_values(store):
    A = store(csr_matrix(np.eye(300)), spmatrix=True)
    assert A.getnnz(0).tolist() == A.getnnz(1).tolist() == [1] * 300
    assert A.getnnz() == 300
    assert A.reader["data"].bytes_read == 0


def test_sums_of_lines_read_no_indices(store):
    A = store(csr_array(np.eye(300)))
    assert A.sum() == A.sum(1).sum() == 300
    assert A.reader["indices"].bytes_read == 0


def test_what_was_handed_out_is_what_is_added_up(store, work):
    A = store(csr_array(np.eye(3)), mode="c")
    A.data[0] = 5
    assert A.sum() == 7
    assert A.max() == 5
    assert A.sum(0).tolist() == [5, 1, 1]
    A.release()
    assert A.sum() == 3


@pytest.mark.parametrize("memory_map", [True, False])
def test_broken_indices_are_found(store, tmp_path, memory_map):
    A = store(csr_array(np.eye(300)))
    with h5py.File(tmp_path / "b.h5", "w") as file, h5py.File(A.filename) as sound:
        sound.copy("X", file)
        file["X/indices"][200] = 300
    with options.set(memory_map=memory_map), diskcsr.open(tmp_path / "b.h5") as B:
        for reduce in (lambda: B.sum(0), lambda: B.max(1), lambda: diskcsr.describe(B)):
            with pytest.raises(diskcsr.CorruptFileError, match="index 300 is out of range"):
                reduce()
