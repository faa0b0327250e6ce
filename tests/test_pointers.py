"""Row pointers that do not fit the memory budget are read a few at a time."""

import numpy as np
import pytest
import scipy.sparse as sp

import diskcsr

N = 200_000


@pytest.fixture(params=["raw", "gzip"])
def long(request, tmp_path):
    """A matrix with many rows, of which each has one element."""
    X = sp.csr_array((np.arange(N) + 1, np.arange(N) % 7, np.arange(N + 1)), shape=(N, 7))
    with diskcsr.write(tmp_path / "m.h5", X, compression=request.param) as A:
        yield A, X


def test_rows_are_read_however_many_were_before(long):
    A, X = long
    rng = np.random.default_rng(0)
    with diskcsr.options.set(memory_budget=1_000_000):
        for _ in range(6):
            rows = rng.integers(N, size=300)
            assert np.array_equal(A[rows].toarray(), X[rows].toarray())
        assert A[N - 1, (N - 1) % 7] == N
        with pytest.raises(diskcsr.MemoryBudgetError, match=r"indptr takes 1\.6 MB"):
            _ = A.indptr
    assert np.array_equal(A.indptr, X.indptr)


def test_a_walk_takes_little_at_a_time(long):
    A, X = long
    with diskcsr.options.set(memory_budget=8_000_000):
        assert sum(block.sum() for _, block in A.iter_blocks(100_000)) == X.sum()
        assert np.array_equal(A.sum(axis=0), X.sum(axis=0))


def test_all_are_read_where_they_fit(long):
    A, X = long
    rows = np.arange(0, N, 400)
    A[rows]
    read = A.reader["indptr"].bytes_read
    A[rows + 1]
    assert A.reader["indptr"].bytes_read == read
    assert np.array_equal(A[rows + 1].toarray(), X[rows + 1].toarray())
