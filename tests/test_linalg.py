"""diskcsr.linalg: singular values and principal components, against numpy's of the dense matrix."""

import contextlib
import importlib.util
import signal
import tracemalloc
import warnings

import h5py
import numpy as np
import pytest
from scipy.sparse import csr_array, random_array, vstack

import diskcsr
from diskcsr.compute import blas
from diskcsr.compute.blas import one_blas_thread
from diskcsr.compute.eigen import beside, largest_eigenpairs
from diskcsr.compute.gram import Totals, gram_and_totals, gram_matrix, in_singles, products_and_gram
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
    monkeypatch.setattr("diskcsr.compute.gram._FILLED", filled)
    monkeypatch.setattr("diskcsr.compute.gram._DENSE_BYTES", 8 * 300 * 7)
    monkeypatch.setattr("diskcsr.compute.gram.BLOCK_BYTES", 1 << 12)
    rng = np.random.default_rng(columns)
    dense = rng.integers(-9, 9, (150, columns)) * (rng.random((150, columns)) < 0.1)
    dense[70:90] = rng.integers(-9, 9, (20, columns))  # some blocks are filled
    dense = dense.astype(dtype)
    shown = contents_of(store(csr_array(dense)))
    for singles in (False, True):  # of whole numbers they are exact
        totals = Totals.of_nothing(columns)
        found = gram_matrix(shown, singles=singles, totals=totals)
        assert found.dtype == np.float64
        np.testing.assert_array_equal(found, dense.T.astype(float) @ dense)
        np.testing.assert_array_equal(totals.sums, dense.sum(0, dtype=float))
        assert totals.squares.tolist() == [(dense.astype(float) ** 2).sum()]


def test_gram_matrix_of_what_is_not_in_order_or_not_finite(store, monkeypatch):
    """Duplicates count as their sum; a NaN is one of the columns it meets."""
    arrays = np.array([1.0, 2, 4, 8, 16]), np.array([1, 0, 1, 2, 2]), np.array([0, 3, 5])
    A = store(csr_array(arrays, shape=(2, 4)))
    for filled in (0, 2):
        monkeypatch.setattr("diskcsr.compute.gram._FILLED", filled)
        dense = np.array([[2.0, 5, 0, 0], [0, 0, 24, 0]])
        totals = Totals.of_nothing(4)
        found = gram_matrix(contents_of(A), totals=totals)
        np.testing.assert_array_equal(found, dense.T @ dense)
        assert totals.sums.tolist() == [2, 5, 24, 0]
        assert totals.squares.tolist() == [4 + 25 + 24**2]
    B = store(csr_array([[np.nan, 0, 1], [0, 2, 1]]), name="B")
    monkeypatch.setattr("diskcsr.compute.gram._FILLED", 0)
    expected = [[np.nan, 0, np.nan], [0, 4, 2], [np.nan, 2, 2]]
    np.testing.assert_array_equal(gram_matrix(contents_of(B)), expected)


def test_single_precision_is_not_that_of_a_gram_matrix(store):
    values = np.float32([[1 + 2.0**-20, 0.1], [3, 0.7]])
    exact = values.astype(float).T @ values
    np.testing.assert_allclose(
        gram_matrix(contents_of(store(csr_array(values)))), exact, rtol=1e-15
    )


# ------------------------------------------------------------------------------- single precision


def counts(rows=3000, columns=400, seed=0, factor=1.0):
    """A matrix of singles large enough for them to be multiplied as such."""
    return spread(rows, columns, seed).astype(np.float32) * np.float32(factor)


def error_of(found, exact):
    return abs(found - exact).max() / abs(exact).max()


@pytest.mark.parametrize("width", [1, 16, 17, 60, 64, 65, 130])
@pytest.mark.parametrize("totals", [True, False])
def test_a_product_in_singles(store, width, totals):
    matrix = counts()
    shown, dense = contents_of(store(matrix)), np.random.default_rng(1).normal(size=(400, width))
    wide, rounded = matrix.astype(float), dense.astype(np.float32)
    assert in_singles(shown)
    exact = wide.T @ (wide @ rounded.astype(float))
    found, other = gram_and_totals(shown, rounded, totals=totals)
    assert (found.shape, found.dtype) == ((400, width), np.float64)
    assert 1e-12 < error_of(found, exact) < 1e-6
    in_doubles, _ = gram_and_totals(shown, dense, totals=totals)
    assert error_of(in_doubles, wide.T @ (wide @ dense)) < 1e-14
    assert (other is not None) is totals
    if totals:
        np.testing.assert_allclose(other.sums, wide.sum(0), rtol=1e-13)
        np.testing.assert_allclose(other.squares, (wide.toarray() ** 2).sum(), rtol=1e-13)


@pytest.mark.parametrize("factor", [1e-30, 1e-13, 1e15, 1e30])
def test_what_singles_cannot_hold_is_multiplied_in_doubles(store, factor):
    """Each block for itself; a Gram matrix by the kernel and by BLAS."""
    matrix = csr_array(vstack([counts(factor=factor), counts(seed=1)]))
    shown, wide = contents_of(store(matrix)), matrix.astype(float)
    dense = np.random.default_rng(1).normal(size=(400, 20)).astype(np.float32)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("diskcsr.compute.gram._PANEL_BLOCK", 1 << 16)
        found, _ = gram_and_totals(shown, dense, totals=False)
        assert error_of(found, wide.T @ (wide @ dense.astype(float))) < 1e-6
        patch.setattr("diskcsr.compute.gram.BLOCK_BYTES", 1 << 16)
        for filled in (0, 2):
            patch.setattr("diskcsr.compute.gram._FILLED", filled)
            found = gram_matrix(shown, singles=True)
            assert error_of(found, (wide.T @ wide).toarray()) < 1e-6


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_finite_stays_where_it_is_in_singles(store, value):
    matrix = counts()
    matrix.data[70] = value
    A = contents_of(store(matrix))
    dense = np.zeros((400, 3), np.float32)
    dense[:, 1] = 1
    found, _ = gram_and_totals(A, dense, totals=False)
    with np.errstate(invalid="ignore"):
        expected = matrix.astype(float).T @ (matrix.astype(float) @ dense.astype(float))
    np.testing.assert_array_equal(np.isfinite(found), np.isfinite(expected))


@pytest.mark.parametrize("index", [-1, 400, 1 << 30])
def test_an_index_out_of_range_is_told_of_singles(tmp_path, index):
    diskcsr.write(tmp_path / "m.h5", counts()).close()
    with h5py.File(tmp_path / "m.h5", "r+") as file:
        file["X/indices"][5000] = index
    with diskcsr.open(tmp_path / "m.h5") as A:
        for work in (gram_and_totals, products_and_gram):
            keywords = {"totals": False} if work is gram_and_totals else {}
            with pytest.raises(diskcsr.CorruptFileError, match="out of range"):
                work(contents_of(A), np.ones((400, 3), np.float32), **keywords)


def true_residual(found, X):
    """What `tol` bounds, computed from the dense matrix."""
    V, s = found.components.T, found.singular_values
    U = found.scores / s
    return np.linalg.norm(X.T @ U - V * s, axis=0).max() / s[0]


@pytest.mark.parametrize("few_columns", [0, 5000])
@pytest.mark.parametrize("case", ["far from zero", "wide", "one far column", "falling"])
@pytest.mark.parametrize("tol", [1e-5, 1e-4])
def test_what_singles_do_not_tell_is_found_in_doubles(store, monkeypatch, few_columns, case, tol):
    """Where the means are taken off most of the square, and where values fall off steeply."""
    monkeypatch.setattr("diskcsr.compute.svd._FEW_COLUMNS", few_columns)
    rng, k = np.random.default_rng(0), 5
    if case == "far from zero":
        dense = rng.normal(300, np.linspace(0.5, 3, 30), (4000, 30))
    elif case == "wide":  # the basis does not soon have all dimensions that there are
        dense, k = rng.normal(300, np.linspace(0.5, 3, 300), (1500, 300)), 3
    else:
        dense = rng.poisson(1, (4000, 30)) * 0.1 ** np.arange(0, 3, 0.1)
        dense[:, 3] += 1e4 * (case == "one far column")
    dense = dense.astype(np.float32)
    A = store(csr_array(dense))
    assert in_singles(contents_of(A))
    found = pca(A, k, rng=0, tol=tol)
    X = dense.astype(float) - dense.mean(0, dtype=float)
    s = np.linalg.svd(X, compute_uv=False)
    assert true_residual(found, X) < 1.01 * tol
    np.testing.assert_allclose(found.singular_values, s[:k], rtol=10 * tol**2 + 1e-10)
    ratio = s[:k] ** 2 / (s**2).sum()
    np.testing.assert_allclose(found.explained_variance_ratio, ratio, rtol=1e-6)
    if case != "falling":  # it was done again
        plain = pca(A, k, rng=0, tol=9e-6)
        assert found.passes > plain.passes


def test_a_column_of_every_line_beside_rare_ones(store):
    """A sum of as many singles as there are lines would be off by a thousandth."""
    n = 120_000
    rows, rare = np.arange(n), np.random.default_rng(0).integers(1, 3000, n)
    data = np.repeat(np.float32(0.1), 2 * n)
    places = np.concatenate([rows, rows]), np.concatenate([0 * rows, rare])
    A = csr_array((data, places), shape=(n, 3000))
    dense = np.zeros((3000, 16), np.float32)
    dense[0] = 1
    found, _ = gram_and_totals(contents_of(store(A)), dense, totals=False)
    assert error_of(found, A.T.astype(float) @ (A.astype(float) @ dense.astype(float))) < 5e-5


@pytest.mark.parametrize("dtype", ["i1", "?", "u2", "i8", "e", "f4", ">f4", ">f8"])
@pytest.mark.parametrize("few_columns", [0, 5000])
def test_pca_of_duplicates_of_any_type(tmp_path, monkeypatch, dtype, few_columns):
    """Sums of what is at one place are not cut off by a narrow type; its order of bytes is told."""
    monkeypatch.setattr("diskcsr.compute.svd._FEW_COLUMNS", few_columns)
    rng, n = np.random.default_rng(0), 300
    indices = np.sort(rng.integers(0, 12, (n, 8)), axis=1).ravel().astype(np.int32)
    data = (np.full(8 * n, 100) if dtype[-2:] != "i8" else rng.integers(0, 9, 8 * n)).astype(dtype)
    with h5py.File(tmp_path / "m.h5", "w") as file:
        group = file.create_group("X")
        group.attrs.update({"h5sparse_format": "csr", "h5sparse_shape": (n, 12)})
        group["data"], group["indices"] = data, indices
        group["indptr"] = np.arange(0, 8 * n + 1, 8, dtype=np.int32)
    wide = csr_array((data.astype(float), indices, np.arange(0, 8 * n + 1, 8)), shape=(n, 12))
    dense = wide.toarray()
    with diskcsr.open(tmp_path / "m.h5") as A:
        for tol in (1e-6, 1e-4):
            found = pca(A, 3, rng=0, tol=tol)
            np.testing.assert_allclose(found.mean, dense.mean(0), rtol=1e-12)
            s = np.linalg.svd(dense - dense.mean(0), compute_uv=False)
            np.testing.assert_allclose(found.singular_values, s[:3], rtol=1e-6)
            ratio = s[:3] ** 2 / (s**2).sum()
            np.testing.assert_allclose(found.explained_variance_ratio, ratio, rtol=1e-6)


def test_a_budget_for_a_small_gram_matrix_does_not_depend_on_the_processors(store):
    A = store(spread(2000, 200))
    for threads in (1, 64):
        with diskcsr.options.set(memory_budget=5_000_000, num_threads=threads):
            assert pca(A, 3, rng=0).components.shape == (3, 200)


def test_which_products_are_in_singles(store, monkeypatch):
    """Those of singles, of rows, where `tol` allows."""

    def seen(shown, dense, **keywords):
        dtypes.add(dense.dtype.name)
        return gram_and_totals(shown, dense, **keywords)

    dtypes = set()
    monkeypatch.setattr("diskcsr.linalg.decomposition.gram_and_totals", seen)
    monkeypatch.setattr("diskcsr.compute.svd._FEW_COLUMNS", 0)
    for dtype, format, tol, expected in (
        ("f4", "csr", 1e-4, {"float32"}),
        ("f4", "csr", 1e-6, {"float64"}),
        ("f8", "csr", 1e-4, {"float64"}),
        ("f4", "csc", 1e-4, set()),
    ):
        dtypes.clear()
        svds(store(counts().astype(dtype), format), 3, rng=0, tol=tol)
        assert dtypes == expected


@pytest.mark.parametrize("few_columns", [0, 5000])
@pytest.mark.parametrize("center", [True, False])
def test_pca_in_singles(store, monkeypatch, few_columns, center):
    monkeypatch.setattr("diskcsr.compute.svd._FEW_COLUMNS", few_columns)
    matrix, k, tol = counts(), 5, 2e-5
    dense = matrix.toarray().astype(float)
    found = pca(store(matrix), k, rng=0, tol=tol, center=center)
    X = dense - (dense.mean(0) if center else 0)
    _, s, vt = np.linalg.svd(X, full_matrices=False)
    np.testing.assert_allclose(found.singular_values, s[:k], rtol=1e-6)
    ratio = s[:k] ** 2 / (s**2).sum()
    np.testing.assert_allclose(found.explained_variance_ratio, ratio, rtol=1e-6)
    np.testing.assert_allclose(found.mean, dense.mean(0) if center else 0 * dense[0], atol=1e-9)
    apart = np.diff(-s[: k + 1]).min() / s[0]
    assert subspace_error(found.components, vt[:k]) < tol / apart
    U = found.scores / found.singular_values
    np.testing.assert_allclose(U.T @ U, np.eye(k), atol=1e-9)
    np.testing.assert_allclose(found.components @ found.components.T, np.eye(k), atol=1e-9)
    # The first product, the others and the scores: nothing for the means alone.
    with diskcsr.options.set(progress=lambda done, total: passes.append(done == total)):
        passes = []
        again = pca(store(matrix), k, rng=0, tol=tol, center=center)
    assert sum(passes) == again.passes
    np.testing.assert_array_equal(again.scores, found.scores)


def test_the_number_of_threads_changes_no_bit_of_singles(store, monkeypatch):
    A = store(counts(20_000), compression="gzip", chunks=1 << 12)
    monkeypatch.setattr("diskcsr.compute.gram._PANEL_BLOCK", 1 << 18)
    for few_columns, filled in ((0, 1), (5000, 0)):
        monkeypatch.setattr("diskcsr.compute.svd._FEW_COLUMNS", few_columns)
        monkeypatch.setattr("diskcsr.compute.gram._FILLED", filled)
        found = []
        for threads in (1, 2, 5):
            with diskcsr.options.set(num_threads=threads):
                found.append(pca(A, 5, rng=7, tol=1e-4).scores)
        assert all(np.array_equal(found[0], one) for one in found[1:])


def test_memory_of_a_product_in_singles(store, monkeypatch):
    """Of panels, states and blocks: nothing as long as the matrix, and nothing for each block.

    Kernels take a megabyte beside, which is not seen here.
    """
    monkeypatch.setattr("diskcsr.compute.gram._PANEL_BLOCK", 1 << 20)
    A = store(counts(60_000, 300))
    dense = np.ones((300, 60), np.float32)
    gram_and_totals(contents_of(A), dense, totals=True)
    tracemalloc.start()
    with diskcsr.options.set(num_threads=1):
        gram_and_totals(contents_of(A), dense, totals=True)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    states = 16 * 300 * 64 * 8
    assert peak < 2 * states + 6 * (1 << 20) < 60_000 * 30 * 8


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


@pytest.mark.parametrize(("tol", "strength"), [(1e-6, 6), (1e-4, 20)])
def test_rare_rows_are_not_left_out(store, monkeypatch, tol, strength):
    """What the last rows have in columns of their own is large, and all other rows are alike."""
    rng, n, k = np.random.default_rng(0), 16_000, 4
    profiles = rng.poisson(1, (20, 280))
    dense = np.zeros((n, 300), np.float32)
    dense[:-40, :280] = profiles[rng.integers(20, size=n - 40)]
    dense[-40:, 280:] = strength * rng.poisson(9, (40, 20))
    A = store(csr_array(dense))
    monkeypatch.setattr("diskcsr.compute.svd._FEW_COLUMNS", 0)
    s = np.linalg.svd(dense.astype(float), compute_uv=False)
    for seed in range(5):
        np.testing.assert_allclose(svds(A, k, rng=seed, tol=tol)[1], s[:k], rtol=1e-5)


def test_values_that_a_function_leaves_in_strides_are_multiplied(store):
    matrix, dense = counts(), np.random.default_rng(1).normal(size=(400, 20)).astype(np.float32)
    L = store(matrix).lazy.map(lambda x: x.astype("c8").real)
    found, _ = gram_and_totals(contents_of(L), dense, totals=True)
    wide = matrix.astype(float)
    assert error_of(found, wide.T @ (wide @ dense.astype(float))) < 1e-6


def test_scores_over_the_budget_are_refused_before_anything_is_taken(store):
    A = contents_of(store(counts(20_000)))
    tracemalloc.start()
    refused = pytest.raises(diskcsr.MemoryBudgetError, match="product")
    with diskcsr.options.set(memory_budget=10_000_000), refused:
        products_and_gram(A, np.ones((400, 100)))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 * 20_000 * 100 / 4


def test_a_small_budget_is_one_for_doubles(store):
    """Panels of many threads need not fit."""
    A = store(counts(6000, 3000))
    with diskcsr.options.set(memory_budget=60_000_000, num_threads=64):
        U, s, _ = svds(A, 3, rng=0, tol=1e-4)
    exact = np.linalg.svd(A.toarray().astype(float), compute_uv=False)[:3]
    np.testing.assert_allclose(s, exact, rtol=1e-6)
    assert U.shape == (6000, 3)


def test_a_tolerance_that_is_not_met_in_singles_is_told(store, monkeypatch):
    monkeypatch.setattr("diskcsr.compute.svd._FEW_COLUMNS", 0)
    with pytest.warns(RuntimeWarning, match=r"after 2 products .* raise max_passes or tol"):
        svds(store(counts()), 8, rng=0, max_passes=2, tol=1e-5)


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
