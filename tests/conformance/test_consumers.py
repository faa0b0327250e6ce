"""Other people's functions give the same for a matrix on disk as for a plain one.

The calls are the rows of ``calls_*.py``. Of each everything is compared: type, dtype, shape and
values, what it raised and warned of, and what it left of its argument. The files never change.
"""

import sys
import warnings
from contextlib import nullcontext
from operator import getitem

import numpy as np
import pytest
from scipy import sparse

import diskcsr

from .calls import MATRICES, Call, make
from .calls_others import ANNDATA, OTHERS
from .calls_scipy import CONSTRUCT, CSGRAPH, LINALG, NUMPY, OPERATORS
from .calls_sklearn import ESTIMATORS, SKLEARN
from .stored import LAYOUT_MARKS, Library, Shelf

CALLS = [
    *ESTIMATORS,
    *SKLEARN,
    *LINALG,
    *CSGRAPH,
    *CONSTRUCT,
    *NUMPY,
    *OPERATORS,
    *ANNDATA,
    *OTHERS,
]
# Scipy's class, and how its twin is stored. Of format, flavour and layout every pair of two occurs.
# The four combinations left out differ from these in nothing that a consumer could see: layouts
# and formats share what hands arrays out, and the flavours share it with one another.
STORED = [
    ("csr_array", "raw"),
    ("csc_array", "gzip"),
    ("csr_matrix", "gzip"),
    ("csc_matrix", "raw"),
]
CASES = [
    pytest.param(
        call, kind, layout, mode, id=f"{call}-{kind}-{layout}-{mode}", marks=LAYOUT_MARKS[layout]
    )
    for call in CALLS
    for kind, layout in STORED
    for mode in (("r", "c") if call.inplace else ("r",))
]


@pytest.fixture(scope="module", autouse=True)
def _workers():
    """End joblib's worker processes with the tests that started them."""
    yield
    loky = sys.modules.get("joblib.externals.loky")
    if loky is not None:
        loky.get_reusable_executor().shutdown(wait=True)


class Done:
    """What came of a call."""

    def __init__(self, call, matrices):
        self.matrices, self.result, self.error = matrices, None, None
        self.stored = [matrix.nnz for matrix in matrices]
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                self.result = call.run(*matrices)
            except Exception as error:
                self.error = error
        self.warned = {warning.category for warning in caught}


@pytest.mark.parametrize(("call", "kind", "layout", "mode"), CASES)
def test_same_as_plain(call, kind, layout, mode, tmp_path):
    pytest.importorskip(call.needs)
    shelf = Shelf(Library(tmp_path, layout), mode)
    matrices = [make(name, kind) for name in call.matrices]
    disk = Done(call, [shelf.put(matrix, spmatrix="matrix" in kind) for matrix in matrices])
    plain = Done(call, matrices)

    refusal = call.refusal(kind)
    if refusal is not None:
        assert isinstance(plain.error, refusal), f"not refused by plain scipy: {plain.error!r}"
        assert type(disk.error) is type(plain.error)
    else:
        for done in (plain, disk):
            if done.error is not None:
                raise done.error
        Same(call, plain.matrices, disk.matrices).check(disk.result, plain.result)
    assert disk.warned <= plain.warned
    for ours, theirs, stored in zip(disk.matrices, plain.matrices, disk.stored, strict=True):
        check_argument(ours, theirs, stored, call)
    assert shelf.close() == []


def check_argument(ours, theirs, stored, call):
    """Assert that a call left the same of its arguments.

    Of some scipy adds up repeated entries in place, where what is in a file is left as it is.
    """
    assert ours.shape == theirs.shape
    assert ours.nnz in (theirs.nnz, stored)
    np.testing.assert_allclose(ours.toarray(), theirs.toarray(), rtol=call.rtol)
    if call.inplace:
        for name in ("data", "indices", "indptr"):
            np.testing.assert_allclose(getattr(ours, name), getattr(theirs, name), rtol=call.rtol)


class Same:
    """Compares results, whatever they are made of.

    Results are in memory: a disk array is accepted only where plain scipy returns its very
    argument, or where the call is said to give `handles`.
    """

    def __init__(self, call, plain, disk):
        self.call = call
        self.twins = [(theirs, ours) for theirs, ours in zip(plain, disk, strict=True)]

    def check(self, got, want):
        for theirs, ours in self.twins:
            if want is theirs:
                assert got is ours
                return
        if isinstance(got, DISK) and self.call.handles:
            assert isinstance(got, type(want))
        else:
            assert type(got) is type(want)
        if sparse.issparse(want):
            self.check_sparse(got, want)
        elif isinstance(want, np.ndarray | np.generic):
            self.check_values(np.asarray(got), np.asarray(want))
        elif isinstance(want, dict):
            self.check(list(got), list(want))
            self.check(list(got.values()), list(want.values()))
        elif isinstance(want, list | tuple):
            assert len(got) == len(want)
            for one, other in zip(got, want, strict=True):
                self.check(one, other)
        elif isinstance(want, float | complex):
            assert got == pytest.approx(want, rel=self.call.rtol, nan_ok=True)
        else:
            assert got == want

    def check_sparse(self, got, want):
        assert got.format == want.format
        assert got.nnz == want.nnz
        assert index_dtype(got) == index_dtype(want)
        assert got.dtype == want.dtype
        self.check_values(got.toarray(), want.toarray())

    def check_values(self, got, want):
        assert got.shape == want.shape
        assert got.dtype == want.dtype
        if want.dtype.kind in "fc":
            scale = np.abs(want[np.isfinite(want)]).max(initial=0)
            np.testing.assert_allclose(got, want, rtol=self.call.rtol, atol=self.call.rtol * scale)
        else:
            np.testing.assert_array_equal(got, want)


DISK = (diskcsr.DiskCSR, diskcsr.DiskCSC, diskcsr.DiskCSRMatrix, diskcsr.DiskCSCMatrix)


def index_dtype(matrix):
    """Return the dtype of a matrix's index arrays, of the formats that have some."""
    arrays = matrix.coords if matrix.format == "coo" else [getattr(matrix, "indices", None)]
    return {array.dtype for array in arrays if array is not None}


@pytest.mark.parametrize("layout", ["raw", "gzip"])
def test_worker_processes_read_the_file(tmp_path, layout):
    joblib = pytest.importorskip("joblib")
    plain = make("counts", "csr_array")
    shelf = Shelf(Library(tmp_path, layout), "c")
    array = shelf.put(plain)

    def in_worker(*calls):
        return joblib.Parallel(n_jobs=2, backend="loky")(joblib.delayed(f)(*a) for f, *a in calls)

    names = in_worker([type, array], [type, array.T])
    assert names == [diskcsr.DiskCSR, diskcsr.DiskCSC]  # sent by name, read over there
    assert not {"data", "indices", "indptr"} & set(vars(array))  # and nothing of it was read here

    array.data[0] = 77  # now it differs from the file, and only its values will do
    kind, rows = in_worker([type, array], [getitem, array, slice(0, 3)])
    assert kind is sparse.csr_array
    plain.data[0] = 77
    assert rows.toarray().tolist() == plain[:3].toarray().tolist()
    assert shelf.close() == []


@pytest.mark.parametrize(
    ("got", "want"),
    [
        (1.0, 1),
        (1.0 + 1e-9, 1.0),
        ([1], (1,)),
        ([1], [1, 2]),
        ({"a": 1}, {"b": 1}),
        (None, 0),
        (np.float32(1), np.float64(1)),
        (np.ones(3), np.ones((1, 3))),
        (np.ones(3), np.ma.ones(3)),
        (np.ones(3), np.ones(3, dtype=int)),
        (np.array([1, np.nan]), np.array([1, 2.0])),
        (sparse.csr_array([[1]]), sparse.csc_array([[1]])),
        (sparse.csr_array([[1]]), sparse.csr_matrix([[1]])),
        (sparse.csr_array([[1]]), sparse.csr_array([[1.0]])),
        (sparse.csr_array([[1, 0]]), sparse.csr_array([[0, 1]])),
        (sparse.csr_array(([0], [0], [0, 1])), sparse.csr_array([[0]])),
        (sparse.csr_array([[1]]), sparse.csr_array(([1], [0], [0, 1]), shape=(1, 2**32))[:, :1]),
    ],
)
def test_differences_are_seen(got, want):
    same = Same(Call("any", abs), [], [])
    same.check(got, got)
    same.check(want, want)
    for one, other in ((got, want), (want, got)):
        with pytest.raises(AssertionError):
            same.check(one, other)


def test_results_on_disk_are_seen(tmp_path):
    plain = make("counts", "csr_array")
    disk = Shelf(Library(tmp_path, "raw"), "r").put(plain)
    for handles, refused in ((False, pytest.raises(AssertionError)), (True, nullcontext())):
        same = Same(Call("any", abs, handles=handles), [plain], [disk])
        same.check(disk, plain)  # its very argument
        with refused:
            same.check(disk, plain.copy())
    with pytest.raises(AssertionError):
        same.check(disk.copy(), plain)


def test_every_call_has_a_name_of_its_own():
    names = [str(call) for call in CALLS]
    assert sorted(names) == sorted(set(names))
    assert {name for call in CALLS for name in call.matrices} == set(MATRICES)
