"""The kernels that multiply blocks, against their naive twins."""

from itertools import pairwise

import naive_products
import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given
from hypothesis import strategies as st
from strategies import matrices

from diskcsr import kernels

#: What products come in; scipy's own code multiplies the other types of values.
DTYPES = tuple(np.dtype(code) for code in "bHiILfdFD")


@st.composite
def blocks(draw):
    """A csr matrix with small whole numbers, so that every order of adding up gives the same."""
    return draw(matrices(formats=("csr",), dtypes=DTYPES))


def whole(rng, shape, dtype):
    numbers = rng.integers(0, 4, shape).astype(dtype)
    return numbers - 1j * numbers[::-1] if dtype.kind == "c" else numbers


def both(name, block, *arguments, out, module=kernels.products, more=()):
    """Run a kernel and its twin on what is in `out`; compare, and return the result."""
    arrays = block.data, block.indices, block.indptr
    expected = out.copy()
    bad = getattr(naive_products, name)(*arrays, *arguments, expected, *more)
    assert getattr(module, name)(*arrays, *arguments, out, *more) == bad
    assert out.dtype == expected.dtype
    np.testing.assert_array_equal(out, expected)
    return out


@given(blocks(), st.integers(0, 99))
def test_products_with_vectors(block, seed):
    rng, (n, m) = np.random.default_rng(seed), block.shape
    x, y = whole(rng, m, block.dtype), whole(rng, n, block.dtype)
    out = both("lines_dot", block, x, block.dtype.type(0), out=whole(rng, n, block.dtype))
    np.testing.assert_array_equal(out, block @ x)
    before = whole(rng, m, block.dtype)
    out = both("add_lines", block, y, out=before.copy())
    np.testing.assert_array_equal(out, before + block.T @ y)


@given(blocks(), st.integers(0, 3), st.integers(0, 99))
def test_products_with_dense_matrices(block, width, seed):
    rng, (n, m) = np.random.default_rng(seed), block.shape
    wide, tall = whole(rng, (m, width), block.dtype), whole(rng, (n, width), block.dtype)
    out = both("lines_dense", block, wide, out=tall.copy())
    np.testing.assert_array_equal(out, block @ wide)
    before = whole(rng, (m, width), block.dtype)
    out = both("add_lines_dense", block, tall, out=before.copy())
    np.testing.assert_array_equal(out, before + block.T @ tall)
    out = both("gram_product", block, wide, out=before.copy())
    np.testing.assert_array_equal(out, before + block.T @ (block @ wide))


def large(seed, in_order):
    """A block, and a matrix of so many rows that they are used a tile after the other."""
    rng = np.random.default_rng(seed)
    rows, width, lengths = 1800, 512, rng.integers(200, 400, 70)
    lengths[3] = 0
    indptr = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    indices = rng.integers(0, rows, indptr[-1]).astype(np.int32)
    if in_order:
        for a, b in pairwise(indptr):
            indices[a:b].sort()
    data, wide = rng.random(indices.size), rng.random((rows, width))
    together = kernels.products.rows_together(rows, width, 8, len(lengths), indices.size)
    assert 0 < together <= rows // 24
    return data, indices, indptr, wide


@pytest.mark.parametrize("name", ["lines_dense", "add_lines_dense", "gram_product"])
def test_tiles_change_no_bit_of_lines_in_order(name):
    *arrays, wide = large(0, in_order=True)
    tall = np.random.default_rng(1).random((70, wide.shape[1]))
    factor, out = (tall, wide) if name == "add_lines_dense" else (wide, tall)
    if name == "gram_product":
        out = np.ones_like(wide)
    expected = out.copy()
    assert getattr(naive_products, name)(*arrays, factor, expected) == -1
    assert getattr(kernels.products, name)(*arrays, factor, out) == -1
    np.testing.assert_array_equal(out, expected)


@pytest.mark.parametrize("bad", [-1, 1800, 1 << 30])
def test_tiles_use_every_element_of_lines_in_any_order(bad):
    data, indices, indptr, wide = large(2, in_order=False)
    lines = np.zeros((70, wide.shape[1]))
    assert kernels.products.lines_dense(data, indices, indptr, wide, lines) == -1
    block = sp.csr_array((data, indices, indptr), shape=(70, len(wide)))
    np.testing.assert_allclose(lines, block @ wide, rtol=1e-12)
    out = np.zeros_like(wide)
    assert kernels.products.add_lines_dense(data, indices, indptr, lines, out) == -1
    np.testing.assert_allclose(out, block.T @ (block @ wide), rtol=1e-12)
    # Of two bad lines it is the first that is told, though the other is met with before.
    indices[indptr[11] - 1] = indices[indptr[20]] = bad
    for name, factor, result in (("lines_dense", wide, lines), ("gram_product", wide, out)):
        assert getattr(kernels.products, name)(data, indices, indptr, factor, result) == 10
    assert kernels.products.add_lines_dense(data, indices, indptr, lines, out) == 10


# ----------------------------------------------------------------------------------------- panels


def panel_of(dense, lanes):
    """The first columns of a matrix, so many as a panel has, and zeros of its size."""
    width = kernels.panels.VECTOR * lanes
    panel = np.zeros((len(dense), width), np.float32)
    panel[:, : dense.shape[1]] = dense[:, :width]
    return panel, np.zeros_like(panel)


@given(
    matrices(formats=("csr",), dtypes=(np.dtype("f4"),)),
    st.sampled_from([1, 2, 4]),
    st.sampled_from(["i4", "i8", "u4", "u8"]),
    st.integers(0, 99),
)
def test_a_gram_product_by_panels(block, lanes, index, seed):
    rng, m = np.random.default_rng(seed), block.shape[1]
    panel, _ = panel_of(whole(rng, (m, 9), np.dtype("f4")), lanes)
    before = whole(rng, panel.shape, panel.dtype)
    matrix, block = block, block.copy()
    block.indices = block.indices.astype(index)
    more = {"module": kernels.panels, "more": ((0,) * lanes,)}
    out = both("gram_panel", block, panel, out=before.copy(), **more)
    np.testing.assert_array_equal(out, before + matrix.T @ (matrix @ panel))


@pytest.mark.parametrize("in_order", [True, False])
@pytest.mark.parametrize("lanes", [1, 4])
def test_panels_by_tiles(in_order, lanes):
    rng = np.random.default_rng(3)
    rows, n, length = 30_000, 300, 330
    indptr = np.arange(0, n * length + 1, length, dtype=np.int32)
    indices = rng.integers(0, rows, n * length).astype(np.int32)
    if in_order:
        indices = np.sort(indices.reshape(n, length)).ravel()
    data = rng.integers(1, 4, n * length).astype(np.float32)
    panel, part = panel_of(rng.integers(-3, 4, (rows, 5)), lanes)
    together = kernels.products.rows_together(*panel.shape, 4, n, n * length)
    assert (together < rows) == (lanes == 4)
    assert kernels.panels.gram_panel(data, indices, indptr, panel, part, (0,) * lanes) == -1
    block = sp.csr_array((data.astype(float), indices, indptr), shape=(n, rows))
    np.testing.assert_array_equal(part, block.T @ (block @ panel.astype(float)))
    # Of two bad lines it is the first that is told.
    for bad in (rows, -1, 1 << 30):
        indices[[indptr[41] - 1, indptr[200]]] = bad
        arrays = data, indices, indptr, panel, part, (0,) * lanes
        assert kernels.panels.gram_panel(*arrays) == 40


def test_a_panel_without_rows():
    arrays = np.ones(1, np.float32), np.zeros(1, np.int32), np.array([0, 0, 1], np.int32)
    panel, part = panel_of(np.zeros((0, 1)), 1)
    assert kernels.panels.gram_panel(*arrays, panel, part, (0,)) == 1
    none = arrays[0][:0], arrays[1][:0], np.zeros(3, np.int32)
    assert kernels.panels.gram_panel(*none, panel, part, (0,)) == -1


@given(st.integers(0, 99))
def test_a_part_is_added_in_doubles(seed):
    rng = np.random.default_rng(seed)
    part, out = rng.random((5, 16)).astype(np.float32), rng.random((5, 16)) * 1e9
    expected_part, expected = part.copy(), out.copy()
    naive_products.add_part(expected_part, expected)
    kernels.panels.add_part(part, out)
    np.testing.assert_array_equal(out, expected)
    np.testing.assert_array_equal(part, expected_part)
    assert not part.any()


# ----------------------------------------------------------------------------------- Gram matrices


@given(blocks(), st.data())
def test_gram(block, data):
    m = block.shape[1]
    cut = data.draw(st.integers(0, m))
    out = np.zeros((m, m), block.dtype)
    both("gram", block, cut, m, out=out)
    assert not out[:cut].any()
    both("gram", block, 0, cut, out=out)
    np.testing.assert_array_equal(out, (block.T @ block).toarray())


@given(matrices(formats=("csr",), dtypes=(np.dtype(float),)), st.data())
def test_half_a_gram_matrix(block, data):
    m = block.shape[1]
    cut = data.draw(st.integers(0, m))
    out = np.zeros((m, m))
    both("half_gram", block, cut, m, out=out)
    assert not out[:cut].any()
    both("half_gram", block, 0, cut, out=out)
    np.testing.assert_array_equal(out + out.T, (block.T @ block).toarray())


@pytest.mark.parametrize("dtype", [np.float32, np.complex64])
def test_a_vector_product_is_added_up_in_the_type_asked_for(dtype):
    """1 + 2**-24 is 1 in single precision, in any order."""
    data = np.array([1, 2.0**-24], dtype)
    indices, indptr = np.arange(2, dtype=np.int32), np.array([0, 2], np.int32)
    zero = np.result_type(dtype, np.float64).type(0)
    x, out = np.ones(2, dtype), np.zeros(1, zero.dtype)
    kernels.products.lines_dot(data, indices, indptr, x, zero, out)
    assert out[0] == 1 + 2.0**-24
    kernels.products.lines_dot(data, indices, indptr, x, dtype(0), out)
    assert out[0] == 1


@pytest.mark.parametrize("index", [np.int32, np.int64])
@pytest.mark.parametrize("bad", [5, 1 << 30, -1])
@pytest.mark.parametrize("line", [0, 2])
def test_an_index_out_of_range_ends_it(index, bad, line):
    indptr = np.array([0, 20, 20, 60], np.int32)
    indices = (np.arange(60) % 5).astype(index)
    indices[{0: 19, 2: 31}[line]] = bad
    data, x, y = np.ones(60), np.ones(5), np.ones(3)
    wide, tall = np.ones((5, 3)), np.ones((3, 3))
    calls = {
        "lines_dot": (x, 0.0, np.zeros(3)),
        "add_lines": (y, np.zeros(5)),
        "lines_dense": (wide, np.zeros((3, 3))),
        "add_lines_dense": (tall, np.zeros((5, 3))),
        "gram_product": (wide, np.zeros((5, 3))),
    }
    for name, arguments in calls.items():
        assert getattr(naive_products, name)(data, indices, indptr, *arguments) == line
        assert getattr(kernels.products, name)(data, indices, indptr, *arguments) == line


def test_no_index_is_in_range_of_an_empty_vector():
    indptr, out = np.array([0, 0, 1], np.int32), np.zeros(2)
    arrays = np.ones(1), np.zeros(1, np.int32), indptr
    assert kernels.products.lines_dot(*arrays, np.empty(0), 0.0, out) == 1
    assert kernels.products.lines_dot(*arrays, np.ones(1), 0.0, out) == -1
    assert out.tolist() == [0, 1]
