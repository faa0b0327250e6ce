"""Elementwise results: scipy's values, types and errors, and nothing of the matrix kept."""

import operator
import warnings

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given
from hypothesis import strategies as st
from strategies import matrices

import diskcsr
from diskcsr.compute import elementwise, estimates

OF_TWO = {
    "A + B": operator.add,
    "B + A": lambda A, B: B + A,
    "A - B": operator.sub,
    "B - A": lambda A, B: B - A,
    "A / B": operator.truediv,
    "A == B": operator.eq,
    "A != B": operator.ne,
    "A < B": operator.lt,
    "A <= B": operator.le,
    "A > B": operator.gt,
    "A >= B": operator.ge,
    "A.multiply(B)": lambda A, B: A.multiply(B),
    "A.maximum(B)": lambda A, B: A.maximum(B),
    "A.minimum(B)": lambda A, B: A.minimum(B),
}
OF_ARRAYS = {"A * B": operator.mul, "B * A": lambda A, B: B * A}
OF_ONE = {
    "abs": abs,
    "-A": operator.neg,
    "round": round,
    "power": lambda A: A.power(2),
    "power(0)": lambda A: A.power(0),
    "power as": lambda A: A.power(2, dtype=np.float64),
    "astype": lambda A: A.astype(np.complex64),
    "astype safe": lambda A: A.astype("i2", casting="safe"),
    "astype same": lambda A: A.astype(A.dtype),
    "real": lambda A: A.real,
    "imag": lambda A: A.imag,
    "tocoo": lambda A: A.tocoo(),
    **{name: operator.methodcaller(name) for name in ("sqrt", "sin", "log1p", "sign", "ceil")},
    "np.sqrt": np.sqrt,
}


@pytest.fixture(params=["one block", "many blocks"])
def block_bytes(request, monkeypatch):
    """Blocks of the usual size, and of a line or two."""
    if request.param == "many blocks":
        for module in (elementwise, estimates):
            monkeypatch.setattr(module, "BLOCK_BYTES", 100)


def of_scipy(name, function, plain, other):
    """What scipy says to an operand, but where an old one reads beyond its arrays."""
    shaped_otherwise = sp.issparse(other) and other.shape != plain.shape
    if name in ("A.maximum(B)", "A.minimum(B)") and shaped_otherwise:
        return ValueError("inconsistent shapes")
    return outcome(function, plain, other)


def outcome(function, *arguments):
    """What comes of a call: a result, or an error."""
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return function(*arguments)
        except (ArithmeticError, NotImplementedError, TypeError, ValueError) as problem:
            return problem


def same(ours, theirs):
    """Compare outcomes: class, dtype, shape, values; of errors the class."""
    assert type(ours) is type(theirs)
    if sp.issparse(theirs):
        assert ours.format == theirs.format
        assert (ours.dtype, ours.shape) == (theirs.dtype, theirs.shape)
        ours, theirs = ours.toarray(), theirs.toarray()
    if not isinstance(theirs, Exception):
        ours, theirs = np.asarray(ours), np.asarray(theirs)
        assert ours.dtype == theirs.dtype
        np.testing.assert_array_equal(ours, theirs)


def operands(shape):
    """All that may stand beside a matrix of `shape`, and what may not."""
    rng = np.random.default_rng(0)
    some = sp.random_array(shape, density=0.5, rng=rng, format="csr")
    rows, columns = shape
    return {
        **{f"number {n!r}": n for n in (2, 0, -1.5, 1j, True, np.nan, np.float32(3), np.int64(2))},
        "0-d": np.array(2.5),
        "csr": some,
        "csc": some.tocsc(),
        "coo": some.tocoo(),
        "csr_matrix": sp.csr_matrix(some),
        "dense": rng.integers(0, 3, shape),
        "np.matrix": sp.csr_matrix(rng.random(shape)).todense(),
        "1-d": rng.random(columns),
        "column": rng.random((rows, 1)),
        "row": rng.random((1, columns)),
        "sparse row": some[[0]],
        "sparse column": some[:, [0]],
        "too few rows": some[:-1],
        "too many columns": rng.random((rows, columns + 1)),
        "3-d": rng.random((2, rows, columns)),
        "list": rng.integers(0, 3, shape).tolist(),
        "None": None,
        "text": "x",
        "object": object(),
    }


OTHERS = operands((9, 7))
every_dtype = pytest.mark.parametrize("dtype", [np.float32, np.int8, np.bool_, np.complex128])
every_class = pytest.mark.parametrize(
    "build", [sp.csr_array, sp.csc_array, sp.csr_matrix, sp.csc_matrix]
)


def stored(store, build, dtype):
    plain = build(sp.random_array((9, 7), density=0.4, rng=1))
    plain.data = np.arange(-5, plain.nnz - 5)
    plain = plain.astype(dtype)
    return store(plain, spmatrix=isinstance(plain, sp.spmatrix)), plain


@every_class
@every_dtype
def test_with_another_operand(store, build, dtype, block_bytes):
    A, plain = stored(store, build, dtype)
    operations = OF_TWO if isinstance(plain, sp.spmatrix) else OF_TWO | OF_ARRAYS
    for name, operation in operations.items():
        for other in OTHERS.values():
            same(outcome(operation, A, other), of_scipy(name, operation, plain, other))


@every_class
@every_dtype
def test_with_another_array_on_disk(store, build, dtype, block_bytes):
    A, plain = stored(store, build, dtype)
    B, _ = stored(store, build, dtype)
    beside = build(plain.T).T  # of the other format
    turned = store(beside, spmatrix=isinstance(plain, sp.spmatrix))
    for name, operation in OF_TWO.items():
        for other, theirs in ((A, plain), (B, plain), (turned, beside)):
            same(outcome(operation, A, other), outcome(operation, plain, theirs))
        same(outcome(operation, A, A.T), of_scipy(name, operation, plain, plain.T))


@every_class
@every_dtype
def test_alone(store, build, dtype, block_bytes):
    A, plain = stored(store, build, dtype)
    for operation in OF_ONE.values():
        same(outcome(operation, A), outcome(operation, plain))
    assert not A._held()


@given(matrices(), st.sampled_from(sorted(OF_ONE)), st.booleans())
def test_any_matrix(tmp_path_factory, matrix, name, many):
    path = tmp_path_factory.mktemp("any") / "m.h5"
    A = diskcsr.write(path, matrix, sort_indices=False)
    with pytest.MonkeyPatch.context() as patch:
        if many:
            patch.setattr(elementwise, "BLOCK_BYTES", 30)
            patch.setattr(estimates, "BLOCK_BYTES", 30)
        same(outcome(OF_ONE[name], A), outcome(OF_ONE[name], matrix.copy()))
        for operation in (operator.add, operator.ne, operator.ge):
            same(outcome(operation, A, A), outcome(operation, matrix.copy(), matrix.copy()))
    assert not A._held()
    A.close()


def test_warnings_are_those_of_scipy(store, block_bytes):
    A, _ = stored(store, sp.csr_array, np.float32)
    with pytest.warns(sp.SparseEfficiencyWarning, match="using >= is inefficient"):
        A >= -1  # noqa: B015
    with np.errstate(invalid="raise"), pytest.raises(FloatingPointError):
        (-A).sqrt()


def test_what_was_handed_out_is_the_truth(store, block_bytes):
    A, plain = stored(store, sp.csr_array, np.float32)
    A.data[:] = 7
    plain.data[:] = 7
    for name in ("A + B", "A > B", "A.multiply(B)"):
        same(OF_TWO[name](A, plain), OF_TWO[name](plain, plain))


@pytest.mark.parametrize("layout", ["raw", "gzip"])
def test_nothing_is_kept_and_pickles_stay_small(store, layout):
    import pickle

    A = store(sp.random_array((400, 300), density=0.2, rng=0, format="csr"), layout=layout)
    before = len(pickle.dumps(A))
    for operation in OF_TWO.values():
        outcome(operation, A, A)
        outcome(operation, A, 2)
    for operation in OF_ONE.values():
        outcome(operation, A)
    assert not A._held()
    assert len(pickle.dumps(A)) == before < 1000


def test_an_array_in_pieces_is_computed_like_one_in_one_piece(store):
    plain = sp.random_array((400, 30), density=0.2, rng=0, format="csr")
    A = store((plain[i : i + 7] for i in range(0, 400, 7)), by="diskcsr", chunks=50)
    same(A + A, plain + plain)
    same(abs(-A), abs(-plain))
    assert not A._held()
