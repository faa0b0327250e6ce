"""Every kernel of diskcsr.kernels.reduce gives what its plain-Python twin in naive.py gives."""

import math

import naive
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import indptrs

from diskcsr.compute.summary import Spread, Summary
from diskcsr.kernels import reduce as kernels

#: Those that there are kernels for: all others are turned into one of them, or left to numpy.
DTYPES = tuple(map(np.dtype, (np.int32, np.int64, np.float32, np.float64)))


@st.composite
def blocks(draw, dtypes=DTYPES, nan=True, canonical=True, n_minor=9):
    """Draw a block: values, indices and row pointers, of which the indices are unsigned."""
    indptr = draw(indptrs(max_rows=7, max_length=n_minor))
    dtype = draw(st.sampled_from(dtypes))
    small = st.integers(-3, 3)
    if dtype.kind in "fc":
        odd = [math.nan, math.inf, -math.inf] if nan else [1e17, -1e17, 1e-9]
        small |= st.sampled_from([*odd, 0.1, -0.0])
    size = int(indptr[-1])
    values = draw(st.lists(small, min_size=size, max_size=size))
    minor = st.integers(0, n_minor - 1)
    indices = []
    for length in np.diff(indptr).tolist():
        line = draw(st.lists(minor, min_size=length, max_size=length, unique=canonical))
        indices += sorted(line) if canonical else line
    values = np.array(values, np.float64).astype(dtype)
    if dtype.kind == "c":
        values = values - 1j * values[::-1]
    return values, np.array(indices, draw(st.sampled_from((np.uint32, np.uint64)))), indptr


def both(name, arguments, *states):
    """What a kernel and its twin make of the same states."""
    one, other = ([state.copy() for state in states] for _ in range(2))
    with np.errstate(all="ignore"):
        found = getattr(kernels, name)(*arguments, *one)
        expected = getattr(naive, name)(*arguments, *other)
    if name in ("add_at", "spread_at", "summarize_at"):
        assert found == expected == -1
    return zip(one, other, strict=True)


@given(blocks(canonical=False))
def test_is_canonical(block):
    _, indices, indptr = block
    assert kernels.is_canonical(indices, indptr) == naive.is_canonical(indices, indptr)


def total_of(dtype):
    return np.int64 if dtype.kind == "i" else np.result_type(dtype, np.float64)


@pytest.mark.parametrize("name", ["add_lines", "add_at"])
@given(data=st.data())
def test_plain_sums(name, data):
    values, indices, indptr = data.draw(blocks(canonical=False))
    of_lines = name == "add_lines"
    state = np.ones(indptr.size - 1 if of_lines else 9, total_of(values.dtype))
    for one, other in both(name, (values, indptr if of_lines else indices), state):
        assert one.dtype == other.dtype
        np.testing.assert_allclose(one, other, rtol=1e-14, atol=1e-14)


@given(blocks(canonical=False))
def test_the_sum_of_all(block):
    state = np.ones(1, total_of(block[0].dtype))
    ((one, other),) = both("add_all", block[:1], state)
    assert one.dtype == other.dtype
    np.testing.assert_allclose(one, other, rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize("index", [np.uint32, np.uint64])
@pytest.mark.parametrize("bad", [5, 6, -1])
@pytest.mark.parametrize("place", [0, 3])
def test_an_index_out_of_range_ends_it(index, bad, place):
    values = np.arange(1.0, 5.0)
    indices = np.array([1, 0, 4, 2], np.dtype(f"i{np.dtype(index).itemsize}"))
    indices[place] = bad
    of_all = {
        "add_at": [np.zeros(5)],
        "spread_at": blank(Spread, 5, values.dtype),
        "summarize_at": blank(Summary, 5, values.dtype),
    }
    for name, states in of_all.items():
        twins = [state.copy() for state in states]
        found = getattr(kernels, name)(values, indices.view(index), *states)
        assert found == place
        assert getattr(naive, name)(values, indices.view(index), *twins) == place
        for one, other in zip(states, twins, strict=True):
            np.testing.assert_array_equal(one, other)


@given(blocks(dtypes=(np.dtype(np.float64), np.dtype(np.complex128)), nan=False))
def test_exact_sums(block):
    values, _, indptr = block
    zeros = np.zeros(indptr.size - 1, values.dtype)
    (one, other), (lost, rest) = both("add_exactly", (values, indptr), zeros, zeros)
    # As if with twice the digits: only the last of those may differ.
    most = max([1.0, *np.abs(values)])
    np.testing.assert_allclose(one + lost, other + rest, rtol=2e-16, atol=1e-28 * most)


def blank(kind, n, dtype):
    return [array.copy() for array in kind.blank(n, dtype).arrays]


@pytest.mark.parametrize("of_lines", [True, False])
@pytest.mark.parametrize("kind", [Spread, Summary])
@given(data=st.data())
def test_summaries(kind, of_lines, data):
    values, indices, indptr = data.draw(blocks(canonical=False))
    name = {Spread: "spread", Summary: "summarize"}[kind] + ("_lines" if of_lines else "_at")
    states = blank(kind, indptr.size - 1 if of_lines else 9, values.dtype)
    if of_lines and indptr.size == 1:
        return  # its twin cannot tell which dtype no lines have
    for one, other in both(name, (values, indptr if of_lines else indices), *states):
        assert one.dtype == other.dtype
        np.testing.assert_allclose(one, other, rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize("largest", [True, False])
@given(block=blocks())
def test_extremes_of_lines(largest, block):
    values, _, indptr = block
    n = indptr.size - 1
    states = np.zeros(n, values.dtype), np.zeros((n, 4), np.int64)
    for one, other in both("first_extremes_of_lines", (*block, largest), *states):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("largest", [True, False])
@given(data=st.data())
def test_extremes_across_lines(largest, data):
    values, indices, indptr = data.draw(blocks())
    first = data.draw(st.integers(0, 3))
    states = np.zeros(9, values.dtype), np.full((9, 4), [0, 0, first, 0])
    arguments = (values, indices, indptr, first, largest)
    for one, other in both("first_extremes_at", arguments, *states):
        np.testing.assert_array_equal(one, other)
