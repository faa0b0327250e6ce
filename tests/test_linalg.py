"""diskcsr.linalg: singular values and principal components, against numpy's of the dense matrix."""

import contextlib
import importlib.util
import signal
import tracemalloc
import warnings

import numpy as np
import pytest
from scipy.sparse import csr_array, random_array

import diskcsr
from diskcsr.compute import blas
from diskcsr.compute.blas import one_blas_thread
from diskcsr.compute.eigen import beside, largest_eigenpairs
from diskcsr.compute.products import gram_matrix
from diskcsr.compute.svd import Products, takes_gram_matrix
from diskcsr.linalg import pca, svds
from diskcsr.protocol.handle import contents_of

with contextlib.suppress(ImportError):
    import threadpoolctl
needs_threadpoolctl = pytest.mark.skipif(
    importlib.util.find_spec("threadpoolctl") is None, reason="threadpoolctl is not installed"
)
both = pytest.mark.parametrize("format", ["csr", "csc"])


def spread(rows, columns, seed=0, dtype=np.float64, density=0.1):
    """A sparse matrix whose singular values fall off."""
    rng = np.random.default_rng(seed)
    matrix = random_array((rows, columns), density=density, rng=rng, format="csr")
    return csr_array(matrix * rng.lognormal(0, 1.5, columns)).astype(dtype)


def subspace_error(found, exact):
    """The sine of the largest angle between the spaces of rows."""
    return np.linalg.norm(exact - (exact @ found.T) @ found, 2)


@pytest.fixture
def store(tmp_path):
    def put(matrix, format="csr", **storage):
        return diskcsr.write(tmp_path / "m.h5", matrix.asformat(format), overwrite=True, **storage)

    return put


def check_svds(A, dense, k, rtol=1e-9, **options):
    u, s, vt = svds(A, k, rng=0, **options)
    exact_u, exact_s, exact_vt = np.linalg.svd(dense, full_matrices=False)
    assert (u.shape, s.shape, vt.shape) == ((dense.shape[0], k), (k,), (k, dense.shape[1]))
    assert u.dtype == s.dtype == vt.dtype == np.float64
    assert np.all(s[:-1] >= s[1:])
    np.testing.assert_allclose(s, exact_s[:k], rtol=rtol, atol=1e-9 * exact_s[0])
    np.testing.assert_allclose(u.T @ u, np.eye(k), atol=1e-9)
    np.testing.assert_allclose(vt @ vt.T, np.eye(k), atol=1e-9)
    assert subspace_error(vt, exact_vt[:k]) < 1e-4
    assert subspace_error(u.T, exact_u[:, :k].T) < 1e-4
    np.testing.assert_allclose(dense @ vt.T, u * s, atol=1e-4 * s[0])
    furthest = np.take_along_axis(vt, np.abs(vt).argmax(1)[:, None], 1)
    assert np.all(furthest > 0)


@both
@pytest.mark.parametrize("shape", [(400, 90), (90, 400), (120, 120)])
@pytest.mark.parametrize("few_columns", [0, 5000])
def test_svds(store, format, shape, few_columns, monkeypatch):
    monkeypatch.setattr("diskcsr.compute.svd._FEW_COLUMNS", few_columns)
    matrix = spread(*shape)
    check_svds(store(matrix, format), matrix.toarray(), 8)
    check_svds(matrix.asformat(format), matrix.toarray(), 8)


@both
def test_svds_of_all_there_are(store, format):
    matrix = spread(12, 7, density=0.9)
    check_svds(store(matrix, format), matrix.toarray(), 7)
    check_svds(store(matrix.T, format), matrix.toarray().T, 7)


@pytest.mark.parametrize("dtype", [np.float32, np.int16, np.uint8, np.bool_])
def test_svds_of_other_dtypes(store, dtype):
    matrix = random_array((200, 60), density=0.2, rng=np.random.default_rng(1), format="csr")
    matrix.data = np.ceil(matrix.data * 9)
    matrix = matrix.astype(dtype)
    check_svds(store(matrix), matrix.toarray().astype(float), 3)


def test_svds_of_too_few_dimensions(store):
    rank_one = csr_array(np.outer(np.arange(30.0), np.arange(20.0)))
    u, s, vt = svds(store(rank_one), 3, rng=0)
    assert s[0] == pytest.approx(np.linalg.norm(np.arange(30.0)) * np.linalg.norm(np.arange(20.0)))
    assert np.all(s[1:] < 1e-6 * s[0])
    np.testing.assert_allclose(u.T @ u, np.eye(3), atol=1e-9)
    np.testing.assert_allclose(vt @ vt.T, np.eye(3), atol=1e-9)
    u, s, vt = svds(store(csr_array((30, 20))), 3, rng=0)
    assert s.tolist() == [0, 0, 0]
    np.testing.assert_allclose(u.T @ u, np.eye(3), atol=1e-9)


@pytest.mark.parametrize("most_products", [60, 1])
def test_of_a_large_gram_matrix_few_are_found_exactly(store, monkeypatch, most_products):
    """By the iteration; by all eigenpairs where it does not get there."""
    monkeypatch.setattr("diskcsr.compute.svd._LARGE_GRAM", 100)
    monkeypatch.setattr("diskcsr.compute.svd._MOST_PRODUCTS", most_products)
    solved, eigh = [], np.linalg.eigh
    monkeypatch.setattr(np.linalg, "eigh", lambda matrix: solved.append(1) or eigh(matrix))
    matrix = spread(400, 120)
    A = store(matrix, "csr")
    U, s, Vt = svds(A, 5, rng=0)
    assert len(solved) == (most_products == 1)
    u, exact, vt = np.linalg.svd(matrix.toarray())
    np.testing.assert_allclose(s, exact[:5], rtol=1e-12)
    assert subspace_error(Vt, vt[:5]) < 1e-9
    assert subspace_error(U.T, u[:, :5].T) < 1e-9


@pytest.mark.parametrize("filled", [0, 1 / 6, 2])
@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.int8])
@pytest.mark.parametrize("columns", [1, 40, 300])
def test_gram_matrix(store, monkeypatch, filled, dtype, columns):
    """By the kernel, by BLAS of lines that are made dense, and by each where it is faster."""
    monkeypatch.setattr("diskcsr.compute.products._FILLED", filled)
    monkeypatch.setattr("diskcsr.compute.products._DENSE_BYTES", 8 * 300 * 7)
    monkeypatch.setattr("diskcsr.compute.products.BLOCK_BYTES", 1 << 12)
    rng = np.random.default_rng(columns)
    dense = rng.integers(-9, 9, (150, columns)) * (rng.random((150, columns)) < 0.1)
    dense[70:90] = rng.integers(-9, 9, (20, columns))  # some blocks are filled
    dense = dense.astype(dtype)
    found = gram_matrix(contents_of(store(csr_array(dense))))
    assert found.dtype == np.float64
    np.testing.assert_array_equal(found, dense.T.astype(float) @ dense)


def test_gram_matrix_of_what_is_not_in_order_or_not_finite(store, monkeypatch):
    """Duplicates count as their sum; a NaN is one of the columns it meets."""
    arrays = np.array([1.0, 2, 4, 8, 16]), np.array([1, 0, 1, 2, 2]), np.array([0, 3, 5])
    A = store(csr_array(arrays, shape=(2, 4)))
    for filled in (0, 2):
        monkeypatch.setattr("diskcsr.compute.products._FILLED", filled)
        dense = np.array([[2.0, 5, 0, 0], [0, 0, 24, 0]])
        np.testing.assert_array_equal(gram_matrix(contents_of(A)), dense.T @ dense)
    B = store(csr_array([[np.nan, 0, 1], [0, 2, 1]]), name="B")
    monkeypatch.setattr("diskcsr.compute.products._FILLED", 0)
    expected = [[np.nan, 0, np.nan], [0, 4, 2], [np.nan, 2, 2]]
    np.testing.assert_array_equal(gram_matrix(contents_of(B)), expected)


def test_single_precision_is_not_that_of_a_gram_matrix(store):
    values = np.float32([[1 + 2.0**-20, 0.1], [3, 0.7]])
    exact = values.astype(float).T @ values
    np.testing.assert_allclose(
        gram_matrix(contents_of(store(csr_array(values)))), exact, rtol=1e-15
    )


@pytest.mark.parametrize(
    ("columns", "a_row", "once"),
    [
        (2000, 8, True),
        (2000, 300, True),
        (2000, 2000, True),
        (4000, 8, True),
        (4000, 1000, False),
        (4000, 4000, True),  # the fuller lines are, the more an iteration costs, and BLAS not
        (5001, 8, False),  # it would take more memory than that
    ],
)
def test_a_gram_matrix_is_taken_where_that_is_faster(columns, a_row, once):
    products = Products((10_000, columns), 10_000 * a_row, *[lambda block: block] * 5)
    assert takes_gram_matrix(products, 50) is once


def blas_threads():
    every = threadpoolctl.threadpool_info()
    return {one["num_threads"] for one in every if one["user_api"] == "blas"}


@needs_threadpoolctl
def test_blas_works_in_one_thread_meanwhile():
    def product(block):
        seen.append(blas_threads())
        return np.arange(20.0)[:, None] * block

    seen = []
    with threadpoolctl.threadpool_limits(2):
        before = blas_threads()
        largest_eigenpairs(
            product,
            np.eye(20, 3),
            2,
            is_good=lambda *_: np.ones(3, bool),
            max_passes=2,
            max_width=9,
        )
        assert blas_threads() == before
    assert seen == [{1}]


def test_an_interrupt_while_threads_of_blas_are_set(monkeypatch):
    def interrupted(name):
        signal.raise_signal(signal.SIGINT)
        return load(name)

    load = blas.load
    monkeypatch.setattr(blas, "load", interrupted)
    with pytest.raises(KeyboardInterrupt), one_blas_thread():
        pass
    assert blas._users == 0
    assert blas._limit is None


@needs_threadpoolctl
def test_the_last_of_several_threads_gives_blas_its_threads_back():
    with threadpoolctl.threadpool_limits(2):
        before = blas_threads()
        first, second = one_blas_thread(), one_blas_thread()
        first.__enter__()
        second.__enter__()
        first.__exit__(None, None, None)
        assert blas_threads() == {1}
        second.__exit__(None, None, None)
        assert blas_threads() == before


@pytest.mark.parametrize("problem", [ImportError, AttributeError, RuntimeError])
def test_threads_of_blas_that_cannot_be_set_are_let_be(monkeypatch, problem):
    def fail(name):
        raise problem

    monkeypatch.setattr("diskcsr.compute.blas.load", fail)
    with one_blas_thread():
        pass


def test_the_number_of_threads_changes_no_bit(store, monkeypatch):
    A = store(spread(3000, 300), compression="gzip", chunks=1 << 12)
    found = []
    for threads in (1, 2, 5):
        with diskcsr.options.set(num_threads=threads):
            for few_columns in (0, 5000):
                monkeypatch.setattr("diskcsr.compute.svd._FEW_COLUMNS", few_columns)
                found.append((*svds(A, 5, rng=7), pca(A, 5, rng=7).scores))
    for one in found[2::2]:
        assert all(map(np.array_equal, found[0], one))
    for one in found[3::2]:
        assert all(map(np.array_equal, found[1], one))


def test_a_tolerance_that_is_not_met_is_told(store):
    A = store(spread(400, 90))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("diskcsr.compute.svd._FEW_COLUMNS", 0)
        with pytest.warns(RuntimeWarning, match=r"after 2 products .* raise max_passes or tol"):
            svds(A, 8, rng=0, max_passes=2, tol=1e-12)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            svds(A, 8, rng=0, tol=1e-3)


@pytest.mark.parametrize(
    ("matrix", "k", "error", "match"),
    [
        (csr_array((4, 3)), 4, ValueError, r"k must be from 1 to 3"),
        (csr_array((4, 3)), 0, ValueError, r"k must be from 1 to 3"),
        (csr_array((4, 3)), 1.5, ValueError, r"k must be from 1 to 3"),
        (csr_array((4, 3), dtype=complex), 1, ValueError, "complex"),
        (np.eye(3), 1, TypeError, "sparse"),
    ],
)
def test_what_is_refused(matrix, k, error, match):
    with pytest.raises(error, match=match):
        svds(matrix, k)


# --------------------------------------------------------------------------- principal components


@both
@pytest.mark.parametrize("shape", [(300, 40), (40, 90)])
@pytest.mark.parametrize("center", [True, False])
@pytest.mark.parametrize("scale", [True, False])
@pytest.mark.parametrize("few_columns", [0, 5000])
def test_pca(store, format, shape, center, scale, few_columns, monkeypatch):
    monkeypatch.setattr("diskcsr.compute.svd._FEW_COLUMNS", few_columns)
    matrix = spread(*shape).tolil()
    matrix[:, 3] = 0  # a column that does not vary
    dense, k = matrix.toarray(), 6
    for A in (store(matrix.tocsr(), format), matrix.asformat(format)):
        found = pca(A, k, center=center, scale=scale, rng=0)
        deviation = dense.std(0, ddof=1)
        factor = np.where(deviation > 0, deviation, 1) if scale else np.ones(shape[1])
        X = dense / factor
        mean = dense.mean(0) if center else np.zeros(shape[1])
        X = X - mean / factor
        u, s, vt = np.linalg.svd(X, full_matrices=False)
        np.testing.assert_allclose(found.singular_values, s[:k], rtol=1e-6)
        np.testing.assert_allclose(found.explained_variance, s[:k] ** 2 / (shape[0] - 1), rtol=1e-6)
        ratio = s[:k] ** 2 / (s**2).sum()
        np.testing.assert_allclose(found.explained_variance_ratio, ratio, rtol=1e-6)
        np.testing.assert_allclose(found.mean, mean, atol=1e-12)
        np.testing.assert_allclose(found.scale, factor, rtol=1e-9)
        assert found.scores.shape == (shape[0], k)
        assert found.components.shape == (k, shape[1])
        np.testing.assert_allclose(np.abs(found.scores), np.abs(u * s)[:, :k], atol=1e-4 * s[0])
        assert subspace_error(found.components, vt[:k]) < 1e-4
        # Means and variances come with the Gram matrix of rows on disk; then there are the scores.
        together = format == "csr" and not scale and shape[0] > shape[1] and few_columns
        if together and isinstance(A, diskcsr.DiskCSR):
            assert found.passes == 2
        np.testing.assert_allclose(X @ found.components.T, found.scores, atol=1e-4 * s[0])


@pytest.mark.parametrize("offset", [1e5, 1.7e9])
def test_shares_of_variance_beside_a_column_of_time_stamps(store, offset):
    """What is lost in squares is not taken from them; there is one pass more."""
    rng = np.random.default_rng(0)
    dense = rng.normal(size=(500, 5)) * [1, 2, 3, 4, 1e3]
    dense[:, 4] += offset
    found = pca(store(csr_array(dense)), 2, rng=0)
    s = np.linalg.svd(dense - dense.mean(0), compute_uv=False)
    np.testing.assert_allclose(found.explained_variance_ratio[0], s[0] ** 2 / (s**2).sum(), 1e-6)
    assert found.passes == 2 + (offset > 1e5)


def test_a_gram_matrix_is_in_memory_once(store):
    n = 1200
    A = store(random_array((2000, n), density=0.02, rng=np.random.default_rng(0), format="csr"))
    pca(A, 2, rng=0)
    tracemalloc.start()
    with diskcsr.options.set(num_threads=1):
        pca(A, 2, rng=0)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1.5 * 8 * n**2


def test_pca_of_lazy_counts(store):
    rng = np.random.default_rng(2)
    counts = csr_array(rng.poisson(rng.lognormal(-1, 1, (250, 60))).astype(np.float32))
    size = counts.sum(axis=1)[:, None] + 1
    genes = np.arange(0, 60, 2)
    lazy = np.log1p(store(counts).lazy / size * 1e3)[:, genes]
    dense = np.log1p(counts.toarray() / size * 1e3)[:, genes]
    found = pca(lazy, 5, rng=0)
    s = np.linalg.svd(dense - dense.mean(0), compute_uv=False)
    np.testing.assert_allclose(found.singular_values, s[:5], rtol=1e-5)
    scaled = pca(lazy, 5, scale=True, rng=0)
    s = np.linalg.svd((dense - dense.mean(0)) / dense.std(0, ddof=1), compute_uv=False)
    np.testing.assert_allclose(scaled.singular_values, s[:5], rtol=1e-5)
    assert not lazy.__dict__.get("data", ())  # nothing was loaded


def test_pca_fits_a_budget_far_below_the_matrix(store):
    matrix = random_array((20_000, 200), density=0.2, rng=np.random.default_rng(0), format="csr")
    A = store(matrix.astype(np.float32), compression="gzip")  # 6.4 MB with its indices
    with diskcsr.options.set(memory_budget=5_000_000):
        with pytest.raises(diskcsr.MemoryBudgetError):
            A.to_memory()
        s = svds(A, 3, rng=0)[1]
    np.testing.assert_allclose(s, svds(matrix, 3, rng=0)[1], rtol=1e-5)


def test_pca_of_one_row_is_refused(store):
    with pytest.raises(ValueError, match="at least two"):
        pca(csr_array((1, 4)), 1)


def test_pca_of_what_does_not_vary(store):
    found = pca(store(csr_array(np.ones((5, 4)))), 2, rng=0)
    np.testing.assert_allclose(found.singular_values, 0, atol=1e-6)
    np.testing.assert_allclose(found.mean, 1)


# ------------------------------------------------------------------------------------ estimator


def test_estimator_is_scikit_learns(store):
    decomposition = pytest.importorskip("sklearn.decomposition")
    from sklearn.base import clone
    from sklearn.pipeline import make_pipeline

    matrix = spread(200, 30)
    A, dense = store(matrix), matrix.toarray()
    ours = clone(diskcsr.linalg.PCA(5, random_state=0))
    theirs = decomposition.PCA(5, svd_solver="full").fit(dense)
    scores = ours.fit_transform(A)
    assert ours.n_features_in_ == 30
    assert ours.get_feature_names_out().tolist() == [f"pca{i}" for i in range(5)]
    for name in ("explained_variance_", "explained_variance_ratio_", "singular_values_", "mean_"):
        np.testing.assert_allclose(getattr(ours, name), getattr(theirs, name), rtol=1e-6)
    np.testing.assert_allclose(np.abs(ours.components_), np.abs(theirs.components_), atol=1e-5)
    np.testing.assert_allclose(ours.transform(A), scores, atol=1e-8)
    np.testing.assert_allclose(ours.transform(matrix[:7]), scores[:7], atol=1e-8)
    back = ours.inverse_transform(scores)
    np.testing.assert_allclose(back, theirs.inverse_transform(theirs.transform(dense)), atol=1e-4)
    scaled = diskcsr.linalg.PCA(5, scale=True, random_state=0).fit(A)
    np.testing.assert_allclose(scaled.transform(A), pca(A, 5, scale=True, rng=0).scores, atol=1e-8)
    pipeline = make_pipeline(diskcsr.linalg.PCA(3, random_state=0)).fit(A)
    assert pipeline.transform(A[:4]).shape == (4, 3)


def test_estimator_passes_scikit_learns_checks():
    pytest.importorskip("sklearn")
    from sklearn.exceptions import SkipTestWarning
    from sklearn.utils.estimator_checks import check_estimator

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SkipTestWarning)  # of what scipy's environment settles
        check_estimator(diskcsr.linalg.PCA(n_components=1, random_state=0))


def test_scikit_learn_is_imported_only_for_the_estimator():
    assert "PCA" in dir(diskcsr.linalg)
    with pytest.raises(AttributeError, match="no attribute 'LDA'"):
        diskcsr.linalg.LDA  # noqa: B018


# ------------------------------------------------------------------------------------ eigenpairs


def test_eigenpairs_of_a_narrow_basis():
    rng = np.random.default_rng(0)
    vectors = np.linalg.qr(rng.standard_normal((60, 60)))[0]
    values = 0.7 ** np.arange(60.0)
    matrix = vectors * values @ vectors.T
    calls = []

    def product(block):
        calls.append(block.shape)
        return matrix @ block

    found = largest_eigenpairs(
        product,
        rng.standard_normal((60, 6)),
        4,
        is_good=lambda values, residuals: residuals < 1e-9,
        max_passes=100,
        max_width=1,  # three blocks wide all the same: it is narrowed again and again
    )
    np.testing.assert_allclose(found.values, values[:4], rtol=1e-9)
    np.testing.assert_allclose(np.abs(found.vectors.T @ vectors[:, :4]), np.eye(4), atol=1e-7)
    assert found.passes == len(calls) > 3
    assert min(width for _, width in calls) < 6  # what is good is multiplied no more


def test_beside_leaves_out_what_the_basis_has():
    basis = np.eye(5)[:, :2]
    block = np.column_stack([basis[:, 0] + basis[:, 1], np.ones(5), np.ones(5), np.zeros(5)])
    found = beside(basis, block)
    assert found.shape == (5, 1)
    np.testing.assert_allclose(np.abs(found[:, 0]), np.array([0, 0, 1, 1, 1]) / np.sqrt(3))
    assert beside(basis, basis).shape == (5, 0)
