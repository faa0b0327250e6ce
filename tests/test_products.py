"""Matrix products: scipy's values, types, errors; nothing loaded; the same in all threads."""

import pickle
import threading
import time
import tracemalloc
import warnings

import h5py
import numpy as np
import pytest
import scipy.sparse as sp
import scipy.sparse.linalg as spl
from hypothesis import given
from hypothesis import strategies as st
from strategies import DTYPES, matrices

import diskcsr
from diskcsr.blocks import walk
from diskcsr.compute import elementwise, products, sparse_products


@pytest.fixture(params=["scipy's code", "kernels"])
def way(request, monkeypatch):
    """Small matrices are multiplied by scipy's own code, in one block; larger ones by kernels."""
    if request.param == "kernels":
        make_small(monkeypatch)


def make_small(monkeypatch):
    """Have small matrices count as large."""
    for module in (products, sparse_products):
        monkeypatch.setattr(module, "FEW", 0)
    monkeypatch.setattr(sparse_products, "BLOCK_BYTES", 200)
    monkeypatch.setattr(sparse_products, "_MANY_ROWS", 300)
    monkeypatch.setattr(elementwise, "BLOCK_BYTES", 200)
    monkeypatch.setattr(walk.fold, "__kwdefaults__", walk.fold.__kwdefaults__ | {"max_bytes": 200})


def outcome(function, *arguments):
    """What comes of a call: a result, or an error."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return function(*arguments)
        except (TypeError, ValueError) as problem:
            return problem


def same(ours, theirs, tolerance=1e-5):
    """Compare outcomes: class, dtype, shape, values; of errors the class."""
    assert type(ours) is type(theirs), ours
    if isinstance(theirs, Exception):
        return
    assert (ours.dtype, ours.shape) == (theirs.dtype, theirs.shape)
    if theirs.dtype == object:  # of scipy 1.15, times an array of three dimensions: of matrices
        for mine, other in zip(ours.flat, theirs.flat, strict=True):
            same(mine, other, tolerance)
        return
    if sp.issparse(theirs):
        assert ours.format == theirs.format
        ours, theirs = ours.toarray(), theirs.toarray()
    np.testing.assert_allclose(
        np.asarray(ours).astype("G"),
        np.asarray(theirs).astype("G"),
        rtol=tolerance,
        atol=tolerance,
    )


PRODUCTS = {
    "A @ B": lambda A, B: A @ B,
    "B @ A": lambda A, B: B @ A,
    "A.T @ B": lambda A, B: A.T @ B,
    "B @ A.T": lambda A, B: B @ A.T,
    "A.dot(B)": lambda A, B: A.dot(B),
}
OF_MATRICES = {"A * B": lambda A, B: A * B, "B * A": lambda A, B: B * A}


def factors(rng):
    """Whatever may stand beside a matrix of 9 rows and 7 columns, and what may not."""
    some = sp.random_array((7, 9), density=0.5, rng=rng, format="csr")
    dense = {
        f"{shape} of {dtype}": rng.integers(0, 4, shape).astype(dtype)
        for shape in (7, 9, (7, 1), (1, 7), (7, 4), (9, 4), (4, 9), (9, 0), (2, 7, 3))
        for dtype in ("f4", "i1", "c16", "?", "g")
    }
    return dense | {
        "list": [1] * 7,
        "lists": [[1, 2]] * 9,
        "Fortran": np.asfortranarray(rng.random((7, 4))),
        "strided": rng.random((14, 8))[::2, ::2],
        "np.matrix": sp.csr_matrix(rng.random((7, 3))).todense(),
        "number": 2,
        "0-d": np.array(2.0),
        "text": "x",
        **{f"sparse {name}": some.asformat(name) for name in ("csr", "csc", "coo")},
        "turned": some.T,
        "csr_matrix": sp.csr_matrix(some),
        "1-d sparse": sp.coo_array(rng.integers(0, 2, 7)),
        "nothing stored": sp.csr_array((7, 9)),
        "another shape": sp.csr_array((3, 3)),
    }


@pytest.mark.parametrize("build", [sp.csr_array, sp.csc_array, sp.csr_matrix, sp.csc_matrix])
@pytest.mark.parametrize("dtype", ["?", "i1", "u2", "f4", "f8", "c8"])
def test_products_are_those_of_scipy(store, build, dtype, way):
    rng = np.random.default_rng(0)
    plain = build(sp.random_array((9, 7), density=0.4, rng=1))
    plain.data = np.arange(-5, plain.nnz - 5)
    plain = plain.astype(dtype)
    A = store(plain, spmatrix=isinstance(plain, sp.spmatrix))
    operations = PRODUCTS | OF_MATRICES if isinstance(plain, sp.spmatrix) else PRODUCTS
    for operation in operations.values():
        for other in factors(rng).values():
            same(outcome(operation, A, other), outcome(operation, plain, other))
            A.release()  # of another class, a matrix on the left looks into ours


@pytest.mark.parametrize("formats", [(a, b) for a in ("csr", "csc") for b in ("csr", "csc")])
@pytest.mark.parametrize("densities", [(0.4, 0.2), (0.2, 0.4)])
def test_products_of_two_on_disk(store, formats, densities, way):
    plain, beside = (
        sp.random_array((30, 30), density=density, rng=1, format=format)
        for format, density in zip(formats, densities, strict=True)
    )
    A, B = store(plain, layout="gzip"), store(beside)
    for operation in PRODUCTS.values():
        same(operation(A, B), operation(plain, beside))
    for ours, theirs in [(A.T @ A, plain.T @ plain), (A @ A.T, plain @ plain.T)]:
        same(ours, theirs)
    assert not A._held()
    assert not B._held()


@given(matrices(dtypes=[one for one in DTYPES if one.char != "?"]), st.integers(0, 3), st.data())
def test_any_matrix(tmp_path_factory, matrix, width, data):
    """Whole numbers, so that every order of adding up gives the same."""
    path = tmp_path_factory.mktemp("any") / "m.h5"
    A = diskcsr.write(path, matrix, sort_indices=False)
    (n, m), rng = matrix.shape, np.random.default_rng(0)
    with pytest.MonkeyPatch.context() as patch:
        if data.draw(st.booleans(), "kernels"):
            make_small(patch)
        for shape in (m, (m, width)):
            other = rng.integers(0, 4, shape).astype(data.draw(st.sampled_from("bHfdF")))
            same(A @ other, matrix @ other)
            same(other.T @ A.T, other.T @ matrix.T)
            same(diskcsr.gram_product(A, other), matrix.T @ (matrix @ other))
        other = rng.integers(0, 4, (n, width)).astype("f")
        same(A.T @ other, matrix.T @ other)
        same(other.T @ A, other.T @ matrix)
        same(A.T @ A, matrix.T @ matrix)
        same(A @ A.T, matrix @ matrix.T)
    assert not A._held()
    A.close()


def test_gram_product(store, way):
    rng = np.random.default_rng(0)
    for format in ("csr", "csc"):
        plain = sp.random_array((40, 12), density=0.3, format=format, rng=rng, dtype=np.float32)
        A = store(plain, layout="gzip")
        for dense in (rng.random(12), rng.random((12, 5)), np.ones((12, 1), "i2"), [1] * 12):
            same(diskcsr.gram_product(A, dense), plain.T @ (plain @ dense))
            same(diskcsr.gram_product(plain, dense), plain.T @ (plain @ dense))
        with pytest.raises(ValueError, match="mismatch"):
            diskcsr.gram_product(A, np.ones(11))
        with pytest.raises(TypeError, match="takes a sparse B"):
            diskcsr.gram_product(A, plain.T)


@pytest.mark.parametrize(("format", "passes"), [("csr", 1), ("csc", 2)])
def test_passes_of_a_gram_product(store, format, passes):
    plain = sp.random_array((40, 12), density=0.3, format=format, rng=0, dtype=np.float32)
    told = []
    progress = lambda done, total: told.append((done, total))  # noqa: E731
    diskcsr.gram_product(store(plain), np.ones(12), progress=progress)
    assert [done for done, total in told if done == total] == [plain.nnz * 8] * passes


# ------------------------------------------------------------------------------- how it is done


@pytest.fixture
def large(store, monkeypatch):
    """A matrix of many blocks and cuts, and the same in memory."""
    defaults = walk.fold.__kwdefaults__ | {"max_bytes": 100_000}
    monkeypatch.setattr(walk.fold, "__kwdefaults__", defaults)
    plain = sp.random_array((3000, 400), density=0.15, rng=0, format="csr", dtype=np.float32)
    return store(plain, by="diskcsr", compression="gzip", chunks=5000), plain


DENSE = np.random.default_rng(0).standard_normal((400, 6)).astype(np.float32)
TALL = np.random.default_rng(1).standard_normal((3000, 6)).astype(np.float32)
STREAMED = {
    "A @ x": lambda A: A @ DENSE[:, 0],
    "A @ D": lambda A: A @ DENSE,
    "x @ A": lambda A: TALL[:, 0] @ A,
    "D @ A": lambda A: TALL.T @ A,
    "A.T @ x": lambda A: A.T @ TALL[:, 0],
    "A.T @ D": lambda A: A.T @ TALL,
    "A.dot": lambda A: A.dot(DENSE),
    "gram_product": lambda A: diskcsr.gram_product(A, DENSE),
}
TO_SPARSE = {
    "A.T @ A": lambda A: A.T @ A,
    "A[:, :5] @ A": lambda A: sp.eye_array(3000, format="csr")[:5] @ A,
}


@pytest.mark.parametrize("what", STREAMED | TO_SPARSE)
def test_threads_change_no_bit(large, what):
    A, plain = large
    function = (STREAMED | TO_SPARSE)[what]
    found = []
    for threads in (1, 2, 5):
        with diskcsr.options.set(num_threads=threads):
            result = function(A)
        found.append(result.toarray() if sp.issparse(result) else result)
    expected = function(plain)
    np.testing.assert_allclose(
        found[0], expected.toarray() if sp.issparse(expected) else expected, rtol=1e-3, atol=1e-3
    )
    assert found[0].tobytes() == found[1].tobytes() == found[2].tobytes()
    assert not A._held()
    assert len(pickle.dumps(A)) < 1000


@pytest.mark.parametrize("what", STREAMED)
def test_a_budget_far_below_the_matrix_is_enough(large, what):
    A, plain = large
    with diskcsr.options.set(memory_budget=plain.nnz * 2):
        with pytest.raises(diskcsr.MemoryBudgetError):
            A.to_memory()
        same(STREAMED[what](A), STREAMED[what](plain), 1e-3)
    assert not A._held()


def test_a_gram_product_takes_nothing_as_long_as_the_matrix(store):
    n, dense = 200_000, np.ones((20, 40))
    rng = np.random.default_rng(0)
    A = store(sp.random_array((n, 20), density=0.3, rng=rng, format="csr"))
    diskcsr.gram_product(A, dense)
    tracemalloc.start()
    with diskcsr.options.set(num_threads=1):
        diskcsr.gram_product(A, dense)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < n * 40 * 8 / 4


def test_sums_of_many_columns_are_fewer_where_the_budget_is_small(large):
    """Sixteen of the size of the result do not fit; one does."""
    A, plain = large
    dense = np.random.default_rng(0).normal(size=(400, 100))
    with diskcsr.options.set(memory_budget=3 * dense.nbytes):
        found = diskcsr.gram_product(A, dense)
    expected = plain.T @ (plain @ dense)
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-9 * abs(expected).max())


def test_results_over_the_budget_are_refused(large):
    A, _ = large
    with diskcsr.options.set(memory_budget=2_000_000):
        for refused in (
            lambda: A @ np.ones((400, 100)),
            lambda: A.T @ np.ones((3000, 1000)),
            lambda: diskcsr.gram_product(A, np.ones((400, 1000))),
            lambda: A.T @ A,
            lambda: A @ A.T,
            lambda: A @ sp.eye_array(400, format="csr"),
        ):
            with pytest.raises(diskcsr.MemoryBudgetError, match="product"):
                refused()
    assert not A._held()


def test_products_with_vectors_are_exact_to_the_last_bits(large):
    """Added up in double precision, whatever the dtype: closer to the exact value than scipy."""
    A, plain = large
    exact = plain.astype(np.float64) @ DENSE[:, 0].astype(np.float64)
    np.testing.assert_array_equal(A @ DENSE[:, 0], exact.astype(np.float32))
    exact = plain.astype(np.float64).T @ TALL[:, 0].astype(np.float64)
    np.testing.assert_allclose(A.T @ TALL[:, 0], exact.astype(np.float32), rtol=1e-6, atol=1e-6)


def test_a_dense_gram_matrix_is_added_up_densely(large, monkeypatch):
    A, plain = large
    monkeypatch.setattr(sparse_products, "_sum_of", None)
    same(A.T @ A, plain.T @ plain, 1e-3)
    C = A.T  # a DiskCSC: its rows are not together
    same(C @ C.T, plain.T @ plain, 1e-3)


def test_what_was_handed_out_is_multiplied(large):
    A, plain = large
    A.data[:] = 1
    plain = plain.copy()
    plain.data[:] = 1
    for function in (STREAMED | TO_SPARSE).values():
        same(function(A), function(plain), 1e-3)


def test_progress_of_products(large):
    A, plain = large
    told = []
    with diskcsr.options.set(progress=lambda done, total: told.append((done, total))):
        A @ DENSE
    assert told[-1] == (plain.nnz * 8, plain.nnz * 8)
    assert len(told) > 1


def test_an_interrupt_ends_a_product_within_a_block(large):
    A, plain = large

    class Stop(Exception):
        pass

    def stop(done, total):
        raise Stop

    before = threading.active_count()
    with diskcsr.options.set(progress=stop), pytest.raises(Stop):
        A.T @ TALL
    assert threading.active_count() <= before + diskcsr.options.num_threads
    same(A @ DENSE, plain @ DENSE, 1e-3)


def test_a_closed_file(large):
    A, _ = large
    A.close()
    for function in (STREAMED | TO_SPARSE).values():
        with pytest.raises(diskcsr.ClosedFileError):
            function(A)


# ---------------------------------------------------------------------- what is built on products


def square(plain):
    return (plain.T @ plain + 10 * sp.eye_array(plain.shape[1])).tocsr()


SOLVERS = {
    "aslinearoperator": lambda A: spl.aslinearoperator(A).rmatmat(TALL),
    "svds": lambda A: spl.svds(A, 4, rng=0)[1],
    "svds by lobpcg": lambda A: spl.svds(A, 3, rng=0, solver="lobpcg", tol=1e-4)[1],
    "lsqr": lambda A: spl.lsqr(A, TALL[:, 0].astype(float))[0],
    "lsmr": lambda A: spl.lsmr(A, TALL[:, 0].astype(float), atol=1e-9, btol=1e-9)[0],
    "onenormest": lambda A: spl.onenormest(A.T @ A),
}
OF_SQUARE = {
    "eigsh": lambda A: spl.eigsh(A, 4, v0=np.ones(400))[0],
    "cg": lambda A: spl.cg(A, np.ones(400), rtol=1e-6)[0],
    "gmres": lambda A: spl.gmres(A, np.ones(400), rtol=1e-6)[0],
    "minres": lambda A: spl.minres(A, np.ones(400), rtol=1e-8)[0],
    "lobpcg": lambda A: spl.lobpcg(A, DENSE[:, :3].copy(), tol=1e-4, maxiter=300)[0],
    "expm_multiply": lambda A: spl.expm_multiply(A * 1e-3, np.ones(400)),
}


@pytest.mark.parametrize("what", SOLVERS)
@pytest.mark.filterwarnings("ignore:Exited:UserWarning")
def test_solvers_run_on_the_file(large, what):
    A, plain = large
    with diskcsr.options.set(memory_budget=1_400_000 if what != "onenormest" else 10**8):
        found = SOLVERS[what](A)
    np.testing.assert_allclose(found, SOLVERS[what](plain), rtol=1e-3, atol=1e-4)
    assert not A._held()


@pytest.mark.parametrize("what", OF_SQUARE)
def test_solvers_of_square_matrices(store, large, what):
    plain = square(large[1])
    A = store(plain, by="diskcsr", compression="gzip")
    budget = plain.nnz * 4 if what != "expm_multiply" else 10**8
    with diskcsr.options.set(memory_budget=budget):
        found = OF_SQUARE[what](A)
    np.testing.assert_allclose(found, OF_SQUARE[what](plain), rtol=1e-2, atol=1e-3)
    assert not A._held()


ESTIMATORS = ["TruncatedSVD", "TruncatedSVD by arpack", "Ridge by lsqr", "Ridge by sparse_cg"]


def fits(name, A):
    """Fit an estimator of scikit-learn, and return something of what it found."""
    from sklearn.decomposition import TruncatedSVD
    from sklearn.linear_model import Ridge

    if name.startswith("Ridge"):
        ridge = Ridge(solver=name.split()[-1], fit_intercept=False, tol=1e-9, copy_X=False)
        return ridge.fit(A, TALL[:, 0].astype(float)).coef_
    algorithm = "arpack" if name.endswith("arpack") else "randomized"
    return TruncatedSVD(3, algorithm=algorithm, random_state=0).fit(A).singular_values_


@pytest.mark.parametrize("name", ESTIMATORS)
def test_estimators_run_on_the_file(store, name):
    """scikit-learn looks into the three arrays, too: they are mapped, or loaded if they fit."""
    pytest.importorskip("sklearn")
    plain = sp.random_array((3000, 400), density=0.15, rng=0, format="csr", dtype=np.float64)
    expected = fits(name, plain)
    with diskcsr.options.set(memory_budget=plain.nnz * 6):
        mapped = store(plain)
        np.testing.assert_allclose(fits(name, mapped), expected, rtol=1e-4, atol=1e-5)
        assert len(pickle.dumps(mapped)) < 1000
        with pytest.raises(diskcsr.MemoryBudgetError, match="iter_blocks"):
            fits(name, store(plain, layout="gzip"))
    np.testing.assert_allclose(fits(name, store(plain, layout="gzip")), expected, rtol=1e-4)


def test_products_do_not_outlast_an_interrupt(large):
    """No thread works on once the call has ended."""
    A, _ = large
    with diskcsr.options.set(progress=lambda done, total: 1 / 0), pytest.raises(ZeroDivisionError):
        A @ DENSE
    read = A.reader.bytes_read
    time.sleep(0.05)
    assert A.reader.bytes_read == read


STRAIGHT = {
    "sum(0)": lambda A, rows, columns: A.sum(axis=0),
    "A @ x": lambda A, rows, columns: A @ columns[:, 0],
    "A @ D": lambda A, rows, columns: A @ columns,
    "A.T @ y": lambda A, rows, columns: A.T @ rows[:, 0],
    "A.T @ D": lambda A, rows, columns: A.T @ rows,
    "gram_product": lambda A, rows, columns: diskcsr.gram_product(A, columns),
}


@pytest.mark.parametrize("how", ["mapped", "read", "gzip", "handed out", "doubles"])
@pytest.mark.parametrize("bad", [300, -1])
def test_indices_that_are_looked_at_once_are_checked(tmp_path, how, bad):
    """What is in memory, or mapped, is checked by the kernels that use it, and only there."""
    rng = np.random.default_rng(0)
    matrix = sp.random_array((2000, 300), density=0.2, format="csr", rng=rng, dtype=np.float32)
    path = tmp_path / "m.h5"
    with diskcsr.write(path, matrix, compression="gzip" if how == "gzip" else None):
        pass
    with h5py.File(path, "r+") as file:
        file["X/indices"][matrix.nnz // 2] = bad
    rows, columns = (rng.random((n, 3), np.float32) for n in matrix.shape)
    if how == "doubles":  # values of single precision are taken as they are
        rows, columns = rows.astype(np.float64), columns.astype(np.float64)
    assert matrix.nnz > products.FEW
    with diskcsr.options.set(memory_map=how != "read"), diskcsr.open(path, mode="c") as A:
        if how == "handed out":
            matrix.indices[matrix.nnz // 2] = bad
            vars(A).update(data=matrix.data, indices=matrix.indices, indptr=matrix.indptr)
        for operation in STRAIGHT.values():
            for threads in (1, 2):
                with (
                    diskcsr.options.set(num_threads=threads),
                    pytest.raises(diskcsr.CorruptFileError, match=f"index {bad} is out of range"),
                ):
                    operation(A, rows, columns)


@pytest.mark.parametrize("values", [np.float32, np.float64, np.int16])
@pytest.mark.parametrize("factor", [np.float32, np.float64])
def test_large_blocks_that_lie_in_the_file_are_what_small_ones_are(tmp_path, values, factor):
    rng = np.random.default_rng(1)
    matrix = sp.random_array((3000, 300), density=0.3, format="csr", rng=rng)
    matrix.data = (matrix.data * 100).astype(values)
    rows, columns = (rng.random((n, 3)).astype(factor) for n in matrix.shape)
    with diskcsr.write(tmp_path / "m.h5", matrix) as A:
        for operation in STRAIGHT.values():
            expected = np.asarray(
                operation(matrix, rows, columns)
                if operation is not STRAIGHT["gram_product"]
                else matrix.T @ (matrix @ columns)
            )
            found = []
            for memory_map in (True, False):
                for threads in (1, 2, 5):
                    with diskcsr.options.set(memory_map=memory_map, num_threads=threads):
                        found.append(np.asarray(operation(A, rows, columns)))
                        assert found[-1].dtype == expected.dtype
                        assert found[-1].tobytes() == found[3 * (not memory_map)].tobytes()
                np.testing.assert_allclose(found[-1], expected, rtol=1e-4)
