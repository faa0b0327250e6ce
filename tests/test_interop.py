"""What other libraries do with an array on disk."""

import pickle
import sys

import numpy as np
import pytest
from scipy.sparse import csc_array, csr_array, random_array

import diskcsr
from diskcsr.protocol.handle import contents_of

anndata = pytest.importorskip("anndata")


@pytest.fixture(params=[None, "gzip"], ids=["raw", "gzip"])
def compression(request):
    return request.param


@pytest.mark.parametrize("make", [csr_array, csc_array])
def test_an_anndata_of_it_has_its_size_without_loading_it(tmp_path, make, compression):
    rng = np.random.default_rng(0)
    matrix = make(random_array((500, 90), density=0.1, rng=rng, dtype=np.float32))
    diskcsr.write(tmp_path / "m.h5", matrix, compression=compression).close()
    with diskcsr.open(tmp_path / "m.h5") as A:
        both = anndata.AnnData(A, layers={"again": A})
        read = A.reader["data"].bytes_read
        size = sys.getsizeof(both)
        assert A.reader["data"].bytes_read == read
        assert contents_of(A).held == {}
        loaded = anndata.AnnData(A.to_memory(), layers={"again": A.to_memory()})
        assert size == sys.getsizeof(loaded) > 2 * 8 * matrix.nnz
        assert A.data.shape == (matrix.nnz,)  # handed out as ever
        assert sys.getsizeof(both) == size
        np.testing.assert_array_equal(A.toarray(), matrix.toarray())


def test_a_pickle_stays_small_after_sums_and_products(tmp_path, compression):
    rng = np.random.default_rng(1)
    matrix = csr_array(random_array((3000, 200), density=0.2, rng=rng))
    diskcsr.write(tmp_path / "m.h5", matrix, compression=compression).close()
    with diskcsr.open(tmp_path / "m.h5") as A:
        before = len(pickle.dumps(A))
        assert before < 1000 < 12 * matrix.nnz
        for axis in (None, 0, 1):
            A.sum(axis), A.mean(axis), A.max(axis), diskcsr.describe(A, axis)
        A @ np.ones(200), np.ones(3000) @ A, A.T @ np.ones((3000, 2)), A @ np.ones((200, 2))
        diskcsr.gram_product(A, np.ones(200)), A.T @ A
        assert len(pickle.dumps(A)) == before
        again = pickle.loads(pickle.dumps(A))
        np.testing.assert_array_equal(again.toarray(), matrix.toarray())
        again.close()
