"""Other people's functions give the same for a matrix on disk as for a plain one.

The rows are in ``consumers.py``. Of each call everything is compared: type, dtype, shape, values,
what it raised and warned of, and what it left of its argument. The files never change.
"""

import sys
import warnings

import numpy as np
import pytest
from scipy import sparse

import diskcsr

from .consumers import CALLS, make
from .stored import Library, Shelf

# Scipy's class, and how its twin is stored. The matrix flavours share what reads their files with
# the arrays: one layout each will do.
STORED = [
    ("csr_array", "raw"),
    ("csr_array", "gzip"),
    ("csc_array", "raw"),
    ("csc_array", "gzip"),
    ("csr_matrix", "raw"),
    ("csc_matrix", "gzip"),
]
CASES = [
    pytest.param(call, kind, layout, mode, id=f"{call}-{kind}-{layout}-{mode}")
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
    for ours, theirs in zip(disk.matrices, plain.matrices, strict=True):
        check_argument(ours, theirs, call)
    assert shelf.close() == []


def check_argument(ours, theirs, call):
    """Assert that a call left the same of its arguments."""
    assert ours.shape == theirs.shape
    assert ours.nnz == theirs.nnz
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
