"""fast-array-utils: what Scanpy takes from it for a matrix on disk goes over the file."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse as sp

import diskcsr

stats = pytest.importorskip("fast_array_utils.stats", reason="fast-array-utils is not installed")

#: Of each kind a dtype, with the largest of its values.
DTYPES = {"float32": 9, "float64": 9, "int32": 2**30, "int8": 100, "uint16": 60_000, "bool": 1}
AXES = [None, 0, 1]


def matrix(dtype, format="csr", shape=(60, 25)):
    rng = np.random.default_rng(0)
    X = sp.random_array(shape, density=0.3, format=format, rng=rng)
    values = rng.integers(1, DTYPES[dtype] + 1, X.nnz)
    X.data = (values / 7 if dtype.startswith("float") else values).astype(dtype)
    return X


@pytest.fixture(params=["csr", "csc", "csr_matrix", "lazy"])
def pair(request, store):
    """A function that gives a matrix on disk, and scipy's array of the same values."""

    def pair(dtype="float32", **how):
        format = request.param[:3].replace("laz", "csr")
        X = matrix(dtype, format, **how)
        A = store(X, layout="gzip", spmatrix=request.param == "csr_matrix")
        return (A.lazy if request.param == "lazy" else A), X

    return pair


def check(A, found, expected, exact=True):
    """Compare two answers; nothing was handed out for the first."""
    assert not {"data", "indices", "indptr"} & set(vars(A))
    assert type(found) is type(expected)
    assert np.shape(found) == np.shape(expected)
    if isinstance(expected, np.ndarray | np.generic):
        assert found.dtype == expected.dtype
    np.testing.assert_allclose(found, expected, rtol=0 if exact else 1e-5, atol=0)


@pytest.mark.parametrize("axis", AXES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_sums(pair, dtype, axis):
    A, X = pair(dtype)
    check(A, stats.sum(A, axis=axis), stats.sum(X, axis=axis), exact=dtype[0] != "f")
    check(A, stats.mean(A, axis=axis), stats.mean(X, axis=axis), exact=dtype[0] != "f")


@pytest.mark.parametrize("axis", AXES)
@pytest.mark.parametrize("to", ["float64", "float32", "int64", "int32"])
def test_sums_of_converted_values(pair, axis, to):
    A, X = pair("float32")
    check(A, stats.sum(A, axis=axis, dtype=to), stats.sum(X, axis=axis, dtype=to), exact=False)
    check(A, stats.mean(A, axis=axis, dtype=to), stats.mean(X, axis=axis, dtype=to), exact=False)


@pytest.mark.parametrize("axis", AXES)
@pytest.mark.parametrize("dtype", ["float32", "int32", "uint16"])
@pytest.mark.parametrize("op", ["min", "max"])
def test_extremes(pair, op, dtype, axis):
    A, X = pair(dtype)
    check(A, getattr(stats, op)(A, axis=axis), getattr(stats, op)(X, axis=axis))


@pytest.mark.parametrize("axis", AXES)
@pytest.mark.parametrize("correction", [0, 1])
@pytest.mark.parametrize("dtype", ["float32", "float64", "int8"])
def test_means_and_variances(pair, dtype, axis, correction):
    A, X = pair(dtype)
    found = stats.mean_var(A, axis=axis, correction=correction)
    dense = X.toarray().astype(np.float64)
    expected = dense.mean(axis), dense.var(axis, ddof=correction)
    for one, other in zip(found, expected, strict=True):
        check(A, one, other, exact=False)


@pytest.mark.parametrize("axis", AXES)
def test_means_and_variances_are_those_of_scipys_class(store, axis):
    X = matrix("float32")
    A = store(X)
    pairs = zip(stats.mean_var(A, axis=axis), stats.mean_var(X, axis=axis), strict=True)
    for one, other in pairs:
        check(A, one, other, exact=False)


def test_of_one_row_the_variance_is_not_corrected(pair):
    A, X = pair(shape=(1, 25))
    mean, variance = stats.mean_var(A, axis=0, correction=1)
    np.testing.assert_array_equal(mean, X.toarray()[0].astype(np.float64))
    np.testing.assert_array_equal(variance, np.zeros(25))


@pytest.mark.parametrize("axis", AXES)
@pytest.mark.parametrize("full", [True, False])
def test_constant(store, axis, full):
    dense = np.zeros((4, 3), np.float32)
    dense[1] = 2
    dense[:, 2] = 2
    dense[:] = 2 if full else dense
    X = sp.csr_array(dense)
    A = store(X)
    check(A, stats.is_constant(A, axis=axis), stats.is_constant(X, axis=axis))


def test_what_was_handed_out_is_the_truth(store):
    A = store(matrix("float32"))
    A.data[:] = 1
    assert stats.sum(A) == A.nnz
    np.testing.assert_array_equal(stats.sum(A, axis=0), A.count_nonzero(axis=0))
    np.testing.assert_allclose(stats.mean_var(A, axis=1)[0], A.count_nonzero(axis=1) / A.shape[1])


@pytest.mark.parametrize("shape", [(0, 5), (5, 0)])
def test_nothing_to_add_up(store, shape):
    A, X = store(sp.csr_array(shape)), sp.csr_array(shape)
    for axis in AXES:
        np.testing.assert_array_equal(stats.sum(A, axis=axis), stats.sum(X, axis=axis))
    with pytest.raises(ValueError, match="zero-size"):
        stats.max(A)


def test_what_it_has_no_function_for_loads(store):
    X = matrix("float64")
    A = store(X)
    found = stats.sum(A, dtype=np.longdouble)
    assert found.dtype == np.longdouble
    assert found == pytest.approx(float(X.sum()))


def run(program, *arguments):
    """Run a program in a fresh process; return the lines that it prints."""
    words = [sys.executable, "-W", "error::UserWarning", "-c", program, *map(str, arguments)]
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout.split()


def test_it_is_not_imported_for_it(tmp_path):
    path = tmp_path / "m.h5"
    diskcsr.write(path, matrix("float32")).close()
    program = (
        "import sys, diskcsr\n"
        "A = diskcsr.open(sys.argv[1])\n"
        "print('fast_array_utils' in sys.modules)\n"
        "from fast_array_utils import stats\n"
        "B = diskcsr.open(sys.argv[1])\n"
        "stats.sum(A, axis=0), stats.mean_var(B, axis=0)\n"
        "print(sorted(vars(A)), sorted(vars(B)))\n"
    )
    assert run(program, path) == ["False", "['maxprint']", "['maxprint']"]


def test_another_version_is_told_of(monkeypatch):
    from diskcsr.interop import HANDED, fast_array_utils

    for name in ("_generic_ops", "_is_constant", "_mean_var"):
        monkeypatch.setitem(sys.modules, f"fast_array_utils.stats.{name}", None)
        monkeypatch.delattr(f"fast_array_utils.stats.{name}", raising=False)
    with pytest.warns(UserWarning, match="chooses its functions otherwise"):
        fast_array_utils.register(HANDED.classes, HANDED.describe)
    assert Path(fast_array_utils.__file__).name == "fast_array_utils.py"
