"""What needs memory for all of a matrix: checked before it begins, with nothing kept of it."""

import tracemalloc

import numpy as np
import pytest
import scipy.sparse as sp

import diskcsr
from diskcsr.compute import elementwise, estimates
from diskcsr.storage.read.arrays import WholeArrays

both_layouts = pytest.mark.parametrize("layout", ["raw", "gzip"])
both_formats = pytest.mark.parametrize("format", ["csr", "csc"])

SHAPE, NNZ = (2000, 50), 40_000
BUDGET = 200_000  # less than half of the 480,000 bytes of values and indices

#: Each makes something of about the size of the matrix, or larger.
RESULTS = {
    "2 * A": lambda A: 2 * A,
    "A + A": lambda A: A + A,
    "A + B": lambda A: A + A.copy(),
    "-A": lambda A: -A,
    "A > 0": lambda A: A > 0,
    "A >= -1": lambda A: A >= -1,
    "abs": abs,
    "multiply": lambda A: A.multiply(A),
    "multiply by a row": lambda A: A.multiply(np.ones(50)),
    "multiply by dense": lambda A: A.multiply(np.ones(SHAPE)),
    "A + dense": lambda A: A + np.ones(SHAPE),
    "power": lambda A: A.power(2),
    "astype": lambda A: A.astype(np.float32),
    "sqrt": lambda A: A.sqrt(),
    "tocoo": lambda A: A.tocoo(),
    "tocsc": lambda A: A.tocsc(copy=True),
    "tocsr": lambda A: A.tocsr(copy=True),
    "tolil": lambda A: A.tolil(),
    "todok": lambda A: A.todok(),
    "todia": lambda A: A.todia(),
    "tobsr": lambda A: A.tobsr(),
    "tobsr of a size": lambda A: A.tobsr((2, 2)),
    "asformat": lambda A: A.asformat("coo"),
    "toarray": lambda A: A.toarray(),
    "todense": lambda A: A.todense(),
    "copy": lambda A: A.copy(),
    "reshape": lambda A: A.reshape((50, 2000)),
    "nonzero": lambda A: A.nonzero(),
    "find": sp.find,
    "tril": sp.tril,
    "T.copy": lambda A: A.T.copy(),
}


@pytest.fixture
def plain():
    rng = np.random.default_rng(0)
    indices = np.argsort(rng.random(SHAPE), axis=1)[:, :20]
    indices = np.sort(indices).ravel().astype(np.int32)
    arrays = np.ones(NNZ), indices, np.arange(0, NNZ + 1, 20, dtype=np.int32)
    return sp.csr_array(arrays, shape=SHAPE)


@both_layouts
@both_formats
@pytest.mark.parametrize("what", RESULTS)
@pytest.mark.filterwarnings("ignore::scipy.sparse.SparseEfficiencyWarning")
def test_results_over_the_budget_are_refused(store, plain, layout, format, what):
    A = store(plain.asformat(format), layout=layout)
    with (
        diskcsr.options.set(memory_budget=BUDGET),
        pytest.raises(diskcsr.MemoryBudgetError) as caught,
    ):
        RESULTS[what](A)
    for part in (A.filename, f"{BUDGET} bytes", "memory_budget"):
        assert part in str(caught.value)
    assert not A._held()


@both_layouts
@pytest.mark.parametrize("what", ["2 * A", "tocoo", "tolil", "tocsc", "toarray"])
def test_the_message_names_result_and_scratch(store, plain, layout, what):
    A = store(plain, layout=layout)
    message = r"\(result \d+\.\d kB, scratch \d+\.\d kB\) takes|\(result \d\.\d MB, scratch"
    with (
        diskcsr.options.set(memory_budget=BUDGET),
        pytest.raises(diskcsr.MemoryBudgetError, match=message),
    ):
        RESULTS[what](A)


def _peak(work):
    """Bytes that some work takes at its peak; at times Python's own tables grow meanwhile."""
    tracemalloc.start()
    work()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return peak


@both_formats
@pytest.mark.parametrize("what", [what for what in RESULTS if what not in ("find", "tril")])
@pytest.mark.filterwarnings("ignore::scipy.sparse.SparseEfficiencyWarning")
def test_estimates_are_kept(store, plain, format, what, monkeypatch):
    """What an operation takes at its peak is at most what the guard was told of."""
    for module in (elementwise, estimates):
        monkeypatch.setattr(module, "BLOCK_BYTES", 10_000)
    asked = []
    seen = estimates.require_memory
    monkeypatch.setattr(
        estimates, "require_memory", lambda n, *more: asked.append(n) or seen(n, *more)
    )
    A = store(plain.asformat(format), layout="gzip")
    monkeypatch.setattr(diskcsr.options, "num_threads", 1)
    monkeypatch.setattr(diskcsr.options, "cache_bytes", 0)
    RESULTS[what](A)  # kernels are compiled, chunks are known
    if not asked:
        asked = [estimates.matrix_bytes(A._contents())]  # of a plain load, by Contents.read
    peak = min(_peak(lambda: RESULTS[what](A)) for _ in range(2))
    other = NNZ * 12 * (what == "A + B") + 8 * NNZ * 2.5 * ("dense" in what)
    assert peak <= max(asked) * 1.1 + other + 300_000


@both_layouts
@both_formats
@pytest.mark.parametrize("order", [None, "C", "F"])
def test_dense_arrays_take_no_more_than_they_hold(store, plain, layout, format, order, monkeypatch):
    wide = sp.hstack([plain] * 10, format=format)
    for module in (elementwise, estimates):
        monkeypatch.setattr(module, "BLOCK_BYTES", 20_000)
    A = store(wide, layout=layout)
    A.toarray(order=order)
    tracemalloc.start()
    dense = A.toarray(order=order)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    np.testing.assert_array_equal(dense, wide.toarray())
    assert dense.flags[f"{order or {'csr': 'C', 'csc': 'F'}[format]}_CONTIGUOUS"]
    assert peak < 1.3 * dense.nbytes


@both_formats
@pytest.mark.parametrize("order", ["C", "F"])
def test_a_dense_array_is_filled_where_the_caller_says(store, plain, format, order):
    A = store(plain.asformat(format))
    out = np.ones(SHAPE, order=order)
    assert A.toarray(out=out) is out
    np.testing.assert_array_equal(out, plain.toarray())
    for wrong in (np.ones((3, 3)), np.ones(SHAPE, np.float32)):
        with pytest.raises(ValueError, match="out") as ours:
            A.toarray(out=wrong)
        with pytest.raises(ValueError, match="out") as theirs:
            plain.toarray(out=wrong)
        assert str(ours.value) == str(theirs.value)


@both_formats
@pytest.mark.filterwarnings("ignore::scipy.sparse.SparseEfficiencyWarning")
def test_conversions_are_those_of_scipy(store, format):
    plain = sp.random_array((30, 20), density=0.3, format=format, rng=0, dtype=np.float32)
    A = store(plain, layout="gzip")
    for name in ("coo", "csr", "csc", "lil", "dok", "dia", "bsr"):
        ours, theirs = A.asformat(name), plain.asformat(name)
        assert (ours.format, ours.dtype, ours.shape) == (name, theirs.dtype, theirs.shape)
        np.testing.assert_array_equal(ours.toarray(), theirs.toarray())
    for ours, theirs in zip(A.nonzero(), plain.nonzero(), strict=True):
        assert ours.dtype == theirs.dtype
        np.testing.assert_array_equal(ours, theirs)
    for shape, how in [((20, 30), {}), ((-1, 6), {"order": "F"})]:
        ours, theirs = A.reshape(shape, **how), plain.reshape(shape, **how)
        assert (type(ours), ours.shape) == (type(theirs), theirs.shape)
        np.testing.assert_array_equal(ours.toarray(), theirs.toarray())
    assert not A._held()


# ------------------------------------------------------------------------------ the three arrays


@pytest.mark.parametrize("part", ["data", "indices"])
def test_a_matrix_counts_as_a_whole(store, plain, part):
    """Either array alone would fit."""
    A = store(plain, layout="gzip")
    with (
        diskcsr.options.set(memory_budget=400_000),
        pytest.raises(diskcsr.MemoryBudgetError, match="and what belongs to it"),
    ):
        getattr(A, part)
    assert not A._held()
    with diskcsr.options.set(memory_budget=500_000):
        getattr(A, part)


def failing(monkeypatch, name):
    """Have memory run out when an array is loaded."""
    load = WholeArrays._load

    def fails(self, part, *rest):
        if part == name:
            raise MemoryError
        return load(self, part, *rest)

    monkeypatch.setattr(WholeArrays, "_load", fails)


def test_after_a_failure_in_the_middle_nothing_stays_loaded(store, plain, monkeypatch):
    A = store(plain, layout="gzip")
    failing(monkeypatch, "data")
    loaded = A.indices
    with pytest.raises(MemoryError):
        A.data  # noqa: B018
    assert set(A._held()) <= {"indptr"}
    np.testing.assert_array_equal(loaded, plain.indices)
    np.testing.assert_array_equal(A[:5].toarray(), plain[:5].toarray())


def test_after_a_failure_changes_are_kept(store, plain, monkeypatch):
    A = store(plain, layout="gzip", mode="c")
    A.indices[:20] = A.indices[:20][::-1]
    failing(monkeypatch, "data")
    with pytest.raises(MemoryError):
        A.data  # noqa: B018
    assert "indices" in A._held()


# ------------------------------------------------------------------------------------ printing


@both_layouts
@both_formats
@pytest.mark.parametrize(("shape", "density"), [((300, 20), 0.3), ((5000, 3), 0.0034), ((4, 5), 0)])
@pytest.mark.parametrize("most", [50, 7, 4, 3, 10**6])
def test_printing_is_that_of_scipy(store, layout, format, shape, density, most):
    plain = sp.random_array(shape, density=density, format=format, rng=0)
    A = store(plain, layout=layout)
    A.maxprint = plain.maxprint = most
    assert str(A) == str(plain)
    assert not A._held()


def test_printing_reads_what_it_prints(store):
    plain = sp.random_array((20_000, 100), density=0.5, format="csr", rng=0)
    A = store(plain, by="diskcsr", compression="gzip", chunks=1000)
    with diskcsr.options.set(memory_budget=100_000):
        assert str(A) == str(plain)
    assert A.reader["data"].bytes_read < 0.01 * A.reader["data"].stored_bytes
