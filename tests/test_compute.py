"""Reductions of matrices on disk: what scipy says of the same matrix in memory, and numpy."""

import math
import warnings

import numpy as np
import pytest
import scipy
from conformance.stored import write_by_hand
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from packaging.version import Version
from scipy.sparse import csc_array, csr_array, issparse
from strategies import DTYPES, matrices

import diskcsr
from diskcsr.compute import extremes, statistics, summary, sums
from diskcsr.handle import contents_of

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
            if OLD and name == "sum" and matrix.dtype == bool and axis is None:
                continue
            if dtype in (np.int64, np.int8) and matrix.dtype.kind not in "biu":
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
