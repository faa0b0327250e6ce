"""A.lazy: what is selected and done lazily gives what numpy gives, and reads only what it must."""

import pickle

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.sparse import csc_array, csr_array, issparse, random_array
from strategies import axis_keys, matrices

import diskcsr

ROWS, COLUMNS = 83, 37
both = pytest.mark.parametrize("format", ["csr", "csc"])


def counts(dtype=np.float32):
    matrix = random_array((ROWS, COLUMNS), density=0.2, rng=np.random.default_rng(5), format="csr")
    matrix.data = np.ceil(matrix.data * 9).astype(dtype)
    return matrix


@pytest.fixture
def lazy(tmp_path):
    """Return a function that stores a matrix and gives its lazy array."""

    def make(matrix, format="csr", **storage):
        matrix = matrix.asformat(format)
        return diskcsr.write(tmp_path / "m.h5", matrix, overwrite=True, **storage).lazy

    return make


def check(array, expected, format):
    """Compare a lazy array with the dense one it stands for, every way it is read."""
    kind = (diskcsr.DiskCSR, csr_array) if format == "csr" else (diskcsr.DiskCSC, csc_array)
    assert isinstance(array, kind)
    assert "not computed" in repr(array)
    assert (array.shape, array.dtype, array.format) == (expected.shape, expected.dtype, format)
    loaded = array.to_memory()
    assert type(loaded) is kind[1]
    loaded.check_format()
    assert loaded.dtype == expected.dtype
    assert np.array_equal(loaded.toarray(), expected)
    assert np.array_equal(array.toarray(), expected)
    turned = array.T
    assert turned.format == ("csc" if format == "csr" else "csr")
    assert np.array_equal(turned.toarray(), expected.T)
    assert np.array_equal(pickle.loads(pickle.dumps(array)).toarray(), expected)
    major = 0 if format == "csr" else 1
    together = [block.toarray() for _, block in array.iter_blocks(max_bytes=500)]
    if together:
        assert np.array_equal(np.concatenate(together, axis=major), expected)
    assert array.nnz == loaded.nnz
    assert not array.__dict__.get("data") is not None  # nothing was handed out on the way


# ------------------------------------------------------------------------------------ selections


@both
@given(data=st.data())
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_selections_of_selections(lazy, format, data):
    matrix = data.draw(matrices(formats=[format]))
    array, expected = lazy(matrix, format), matrix.toarray()
    for _ in range(data.draw(st.integers(1, 3))):
        axis = data.draw(st.sampled_from([0, 1]))
        key = data.draw(axis_keys(expected.shape[axis]))
        key = key.toarray() if issparse(key) else key
        full = (key, slice(None)) if axis == 0 else (slice(None), key)
        if expected[full].ndim != 2:
            continue
        array, expected = array[full], expected[full]
        assert "not computed" in repr(array)
    assert array.shape == expected.shape
    assert np.array_equal(array.toarray(), expected)
    assert np.array_equal(array.T.toarray(), expected.T)


@both
def test_grids(lazy, format):
    array, expected = lazy(counts(), format), counts().toarray()
    rows, columns = np.array([5, 0, 5, 80]), np.array([36, 1, 1])
    grid = expected[np.ix_(rows, columns)]
    check(array[np.ix_(rows, columns)], grid, format)
    check(array.oindex[rows, columns], grid, format)
    check(array[rows][:, columns], grid, format)
    check(array.oindex[expected[:, 0] > 0, 3:9], expected[expected[:, 0] > 0, 3:9], format)
    check(array.oindex[rows], expected[rows], format)
    with pytest.raises(IndexError, match="oindex"):
        array.oindex[rows[:, None], columns]


@both
def test_other_keys_are_computed_as_scipy_does(lazy, format):
    matrix = counts().asformat(format)
    array = np.multiply(lazy(matrix, format), 2)
    twice = 2 * matrix
    assert array[3, 4] == twice[3, 4]
    assert type(array[3, 4]) is type(twice[3, 4])
    for key in (3, (slice(None), 2), ([1, 2], [3, 4]), twice.toarray() > 9):
        got, expected = array[key], twice[key]
        assert type(got) is type(expected)
        assert (got.shape, got.dtype) == (expected.shape, expected.dtype)
        dense = got.toarray() if issparse(got) else got
        assert np.array_equal(dense, expected.toarray() if issparse(expected) else expected)
    with pytest.raises(IndexError):
        array[ROWS]
    with pytest.raises(IndexError):
        array[[0, ROWS]]


# ------------------------------------------------------------------------------------ arithmetic

SIZE = np.arange(1, ROWS + 1, dtype=np.float64)[:, None]
WEIGHT = np.linspace(0.1, 2, COLUMNS, dtype=np.float32)
STEPS = {
    "times a number": lambda x: x * 2.5,
    "a number times": lambda x: 3 * x,
    "divided by a number": lambda x: x / 7,
    "divided by a column": lambda x: x / SIZE,
    "times a column": lambda x: x * SIZE,
    "times a row": lambda x: x * WEIGHT,
    "a row times": lambda x: WEIGHT * x,
    "a row of two dimensions times": lambda x: WEIGHT[None] * x,
    "a column times": lambda x: SIZE * x,
    "negative": lambda x: -x,
    "absolute": lambda x: abs(-x),
    "log1p": np.log1p,
    "expm1": np.expm1,
    "sqrt": np.sqrt,
    "sign": np.sign,
    "square": np.square,
    "rint": lambda x: np.rint(x / 2),
    "minimum": lambda x: np.minimum(x, 4),
    "maximum": lambda x: np.maximum(x, 0),
    "clip": lambda x: np.clip(x, 0, 3),
    "power": lambda x: x**2,
    "a root": lambda x: np.power(x, 0.5),
    "greater": lambda x: x > 4,
    "greater than a row": lambda x: x > WEIGHT,
    "at least": lambda x: x >= 2,
    "not equal": lambda x: x != 0,
    "equal": lambda x: x == 3,
    "less": lambda x: -x < -3,
    "astype": lambda x: x.astype(np.float64),
    "a pattern": lambda x: (x > 4).astype(np.float64),
    "astype int": lambda x: (x / 2).astype(np.int32),
    "normalized": lambda x: np.log1p(x / SIZE * 1e4),
}


@both
@pytest.mark.parametrize("name", STEPS)
@pytest.mark.parametrize("dtype", [np.float32, np.int16])
def test_steps(lazy, format, name, dtype):
    matrix = counts(dtype)
    check(STEPS[name](lazy(matrix, format)), STEPS[name](matrix.toarray()), format)


@both
def test_selections_choose_from_operands(lazy, format):
    array, expected = lazy(counts(), format), counts().toarray()
    rows, columns = np.array([70, 2, 2, 9]), np.array([30, 4, 12])
    done, wanted = np.log1p(array / SIZE) * WEIGHT, np.log1p(expected / SIZE) * WEIGHT
    check(done[rows][:, columns], wanted[rows][:, columns], format)
    check(done[:, columns][rows][::-1] * 2, wanted[:, columns][rows][::-1] * 2, format)
    more = np.arange(4.0)[:, None]
    check(done[rows] * more, wanted[rows] * more, format)


@both
def test_repeated_elements_are_added_up_before_functions(tmp_path, format):
    kind = csr_array if format == "csr" else csc_array
    matrix = kind((np.array([1.0, 2, 4, -4]), np.array([2, 2, 0, 0]), np.array([0, 2, 4, 4])))
    path = tmp_path / "m.h5"
    array = diskcsr.write(path, matrix, sort_indices=False).lazy
    assert array.nnz == 4
    expected = matrix.toarray()
    assert np.array_equal((array * 2).toarray(), expected * 2)
    check(np.square(array), np.square(expected), format)
    check(array != 0, expected != 0, format)
    assert (array != 0).nnz == 1
    assert array[tuple(np.argwhere(expected)[0])] == 3


@both
def test_methods_are_scipys(lazy, format):
    matrix = counts().asformat(format)
    array = lazy(matrix, format)
    for name in ("log1p", "sqrt", "expm1", "sign", "floor", "rint", "sin", "tanh"):
        check(getattr(array, name)(), getattr(matrix, name)().toarray(), format)
    check(array.multiply(WEIGHT), matrix.multiply(WEIGHT).toarray(), format)
    check(array.power(3), matrix.power(3).toarray(), format)
    check(array.power(2, dtype=np.float64), matrix.power(2, dtype=np.float64).toarray(), format)


def above(values):
    return values > 3


@both
def test_map(lazy, format):
    array, expected = lazy(counts(), format), counts().toarray()
    check(array.map(np.tanh), np.tanh(expected), format)
    check(array.map(above, dtype=np.int8), (expected > 3).astype(np.int8), format)

    def shifted(x):
        return x + 1

    with pytest.raises(ValueError, match=r"shifted makes 1\.0 of a zero"):
        array.map(shifted)
    with pytest.raises(ValueError, match="must take an array of values"):
        array.map(np.sum)


@pytest.mark.parametrize(
    "function",
    [
        np.cos,
        np.exp,
        lambda x: x > -1,
        lambda x: x == 0,
        lambda x: np.maximum(x, 1),
        lambda x: np.clip(x, 1, 2),
        lambda x: x**0,
        lambda x: x < WEIGHT,
    ],
)
def test_what_makes_something_of_a_zero_is_refused(lazy, function):
    with pytest.raises(ValueError, match=r"of a zero: .* A\[rows\]\.toarray\(\)"):
        function(lazy(counts()))


@both
def test_with_other_matrices_it_is_scipys_array(lazy, format):
    matrix = counts().asformat(format)
    array, dense = lazy(matrix, format) * 2, np.ones((ROWS, COLUMNS))
    twice = matrix * 2
    for function in (
        lambda x: x + dense,
        lambda x: dense + x,
        lambda x: dense - x,
        lambda x: x + matrix,
        lambda x: x.multiply(matrix),
        lambda x: x * matrix,
        lambda x: x * dense,
        lambda x: x > matrix,
        lambda x: x @ np.ones(COLUMNS),
        lambda x: np.ones(ROWS) @ x,
        lambda x: x @ matrix.T,
        lambda x: x.sum(axis=0),
        lambda x: x.max(axis=1),
        lambda x: x.mean(),
    ):
        got, expected = function(array), function(twice)
        assert type(got) is type(expected)
        assert (got.shape, got.dtype) == (expected.shape, expected.dtype)
        got, expected = (x.toarray() if issparse(x) else x for x in (got, expected))
        assert np.allclose(got, expected, rtol=1e-6)


def test_complex(lazy):
    matrix = counts().astype(complex) * (1 + 2j)
    array = lazy(matrix)
    check(array.conj(), matrix.toarray().conj(), "csr")
    check(abs(array), abs(matrix.toarray()), "csr")


# ---------------------------------------------------------------------------- where it is taken


@both
def test_batches_and_fetch(lazy, format):
    done = np.log1p(lazy(counts(), format) * WEIGHT)[:, 5:30]
    expected = np.log1p(counts().toarray() * WEIGHT)[:, 5:30]
    major = 0 if format == "csr" else 1
    together = [block.toarray() for block in pickle.loads(pickle.dumps(done.batches(9)))]
    assert np.array_equal(np.concatenate(together, axis=major), expected)
    some = [4, 0, 20]
    assert np.array_equal(done.fetch(some).toarray(), expected.take(some, axis=major))


@both
@pytest.mark.parametrize("other", ["csr", "csc"])
@pytest.mark.parametrize("storage", [{}, {"compression": "gzip"}])
def test_write_convert_concat(lazy, tmp_path, format, other, storage):
    done = np.log1p(lazy(counts(), format) * WEIGHT)[::2, ::3]
    expected = np.log1p(counts().toarray() * WEIGHT)[::2, ::3]
    written = diskcsr.write(tmp_path / "w.h5", done, **storage)
    assert written.format == format
    assert np.array_equal(written.toarray(), expected)
    saved = done.save(tmp_path / "s.h5", format=other, **storage)
    assert (saved.format, saved.dtype) == (other, expected.dtype)
    assert np.array_equal(saved.toarray(), expected)
    joined = diskcsr.concat([done, done], tmp_path / "c.h5", format=other)
    assert np.array_equal(joined.toarray(), np.concatenate([expected, expected]))
    with pytest.raises(ValueError, match=r"lazy|virtual"):
        diskcsr.concat([done, done], tmp_path / "v.h5", axis=0 if format == "csr" else 1,
                       virtual=True)  # fmt: skip
    with pytest.raises(ValueError, match="open for reading as a source"):
        diskcsr.write(tmp_path / "m.h5", done, "other")


def test_only_the_wanted_rows_are_read(lazy):
    array = lazy(counts())
    some = np.log1p(array[10:13] * 2)
    some.to_memory()
    stored = int(np.diff(counts().indptr)[10:13].sum())
    assert [array.reader[part].bytes_read for part in ("data", "indices")] == [4 * stored] * 2
    repr(some), some.T, some.explain(), some.shape, some.dtype
    some[:2], some * 2, np.sqrt(some), some.lazy
    assert [array.reader[part].bytes_read for part in ("data", "indices")] == [4 * stored] * 2


def test_memory_is_bounded_where_columns_are_few(lazy, monkeypatch):
    matrix = random_array((3000, 400), density=0.3, rng=np.random.default_rng(0), format="csr")
    array = lazy(matrix)
    monkeypatch.setattr("diskcsr.blocks.view._BYTES", 1 << 16)
    some = np.log1p(array[:, :4])
    with diskcsr.options.set(memory_budget=1 << 20):
        assert np.allclose(some.to_memory().toarray(), np.log1p(matrix[:, :4].toarray()))
        with pytest.raises(diskcsr.MemoryBudgetError, match="lazy"):
            np.log1p(array).to_memory()


def test_explain(lazy):
    done = np.log1p(lazy(counts())[:9][:, [3, 1]] / SIZE[:9] * 1e4)
    lines = done.explain().splitlines()
    assert "83 x 37, float32" in lines[0]
    assert lines[1].startswith("9 of 83 rows: ")
    assert lines[2].startswith("2 of 37 columns: ")
    assert lines[-1] == "log1p -> float64"
    assert len(lines) == 7


def test_arrays_are_handed_out_and_are_the_truth_then(lazy):
    done = lazy(counts()) * 2
    done.data[:] = 1
    ones = (counts() != 0).toarray()
    assert np.array_equal(done.toarray(), ones)
    assert np.array_equal((done * 3)[5:].toarray(), 3 * ones[5:])
    assert np.array_equal(done.T.toarray(), ones.T)
    assert np.array_equal(pickle.loads(pickle.dumps(done)).toarray(), ones)
    done.release()
    assert np.array_equal(done.toarray(), 2 * counts().toarray())


def test_what_it_refuses(lazy, tmp_path):
    array = lazy(counts())
    with pytest.raises(diskcsr.ReadOnlyError):
        array[0, 0] = 1
    with pytest.raises(ValueError, match="refreshed"):
        array.refresh()
    with pytest.raises(TypeError, match=r"diskcsr\.open"):
        type(array)(tmp_path / "m.h5")
    with pytest.raises(ValueError, match="out="):
        np.clip(array, 0, 1, out=np.empty(1))
    with pytest.raises(TypeError):
        np.add.reduce(array)
    before = array
    array *= 2
    assert np.array_equal(array.toarray(), 2 * before.toarray())
    array /= 4
    assert np.array_equal(array.toarray(), before.toarray() / 2)
