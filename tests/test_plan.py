"""Laws of the planner: what is read, and where it goes, whatever rows are wanted."""

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from strategies import indptrs, major_indices

from diskcsr.keys.plan import MAX_GAP, MAX_RANGE, Plan, plan_batches, plan_reads, plan_span


@st.composite
def wanted_rows(draw):
    indptr = draw(indptrs())
    return indptr, draw(major_indices(indptr.size - 1))


def limits_of(max_gap, max_range, max_segment):
    return {"max_gap": max_gap, "max_range": max_range, "max_segment": max_segment}


limits = st.builds(limits_of, st.integers(0, 12), st.integers(1, 40), st.integers(1, 20))


def plan_of(indptr, rows, **limits):
    return plan_reads(indptr[rows], indptr[rows + 1], **limits)


def carry_out(plan, stored):
    """Read the ranges of a plan from an array and copy the pieces, as the kernels do."""
    out = np.full(plan.size, -1, dtype=stored.dtype)
    for r in range(plan.range_lo.size):
        read = stored[plan.range_lo[r] : plan.range_hi[r]]
        for p in range(plan.range_ptr[r], plan.range_ptr[r + 1]):
            lo, hi = plan.piece_lo[p] - plan.range_lo[r], plan.piece_hi[p] - plan.range_lo[r]
            assert 0 <= lo < hi <= read.size
            out[plan.piece_dst[p] : plan.piece_dst[p] + hi - lo] = read[lo:hi]
    return out


def spread(sizes):
    """Row pointers of rows of these lengths."""
    return np.cumsum([0, *sizes], dtype=np.int64)


# -------------------------------------------------------------------------------- plan_reads


@given(wanted_rows(), limits)
@example((spread([5] * 9), np.array([*range(9), 8])), limits_of(0, 8, 9))
@example((spread([3, 0, 0, 2]), np.array([3, 2, 1, 0])), limits_of(0, 1, 1))
def test_a_plan_gives_the_rows_in_the_order_wanted(rows, limits):
    indptr, wanted = rows
    stored = np.arange(100, 100 + indptr[-1])
    plan = plan_of(indptr, wanted, **limits)
    pieces = [stored[indptr[row] : indptr[row + 1]] for row in wanted]
    np.testing.assert_array_equal(carry_out(plan, stored), np.concatenate([[], *pieces]))
    np.testing.assert_array_equal(plan.indptr, spread(map(len, pieces)))
    assert plan.size == sum(map(len, pieces))
    for name in Plan.__dataclass_fields__:
        assert getattr(plan, name).dtype == np.int64, name


@given(wanted_rows(), limits)
def test_no_element_is_read_twice_and_ranges_ascend(rows, limits):
    plan = plan_of(*rows, **limits)
    assert np.all(plan.range_lo < plan.range_hi)
    assert np.all(plan.range_hi[:-1] <= plan.range_lo[1:])
    assert np.all(np.diff(plan.piece_lo) >= 0)
    assert np.all(np.diff(plan.piece_hi) >= 0)
    # Every range has a piece, every piece a range; a range alone with its piece is that piece.
    assert plan.range_ptr[0] == 0
    assert plan.range_ptr[-1] == plan.piece_lo.size
    counts = np.diff(plan.range_ptr)
    assert np.all(counts >= 1)
    single = plan.range_ptr[:-1][counts == 1]
    np.testing.assert_array_equal(plan.piece_lo[single], plan.range_lo[counts == 1])
    np.testing.assert_array_equal(plan.piece_hi[single], plan.range_hi[counts == 1])


@given(wanted_rows(), limits)
def test_no_more_is_read_than_the_rows_and_their_gaps(rows, limits):
    indptr, wanted = rows
    plan = plan_of(indptr, wanted, **limits)
    lengths = np.diff(indptr)
    once = np.unique(wanted)
    needed = int(lengths[once].sum())
    filled = once[lengths[once] > 0]
    span = int(indptr[filled[-1] + 1] - indptr[filled[0]]) if filled.size else 0
    assert needed <= plan.elements_read <= span
    gaps = max(filled.size - 1, 0) * limits["max_gap"]
    assert plan.elements_read <= needed + gaps
    read = {i for lo, hi in zip(plan.range_lo, plan.range_hi, strict=True) for i in range(lo, hi)}
    assert plan.elements_read == len(read)
    if limits["max_gap"] == 0:
        assert plan.elements_read == needed


@given(wanted_rows(), limits)
def test_ranges_that_need_scratch_space_are_short(rows, limits):
    indptr, wanted = rows
    plan = plan_of(indptr, wanted, **limits)
    counts, lengths = np.diff(plan.range_ptr), plan.range_hi - plan.range_lo
    longest_row = int(np.diff(indptr).max(initial=0))
    assert np.all(lengths[counts > 1] <= max(limits["max_range"], longest_row))
    assert np.all(lengths[counts == 1] <= limits["max_segment"])


@given(wanted_rows())
def test_neighbours_and_near_rows_are_read_together(rows):
    indptr, wanted = rows
    wide = {"max_range": 10**9, "max_segment": 10**9}
    once = np.unique(wanted)
    assert plan_of(indptr, wanted, max_gap=10**9, **wide).range_lo.size <= 1
    plan = plan_of(indptr, wanted, max_gap=0, **wide)
    # The fewest ranges there can be: one for each run of rows without a stored element between.
    filled = once[np.diff(indptr)[once] > 0]
    runs = int(np.count_nonzero(indptr[filled][1:] > indptr[filled + 1][:-1])) + bool(filled.size)
    assert plan.range_lo.size == runs


def test_the_defaults():
    indptr = np.arange(0, 10**6, 1000)
    near, far = np.array([0, 5]), np.array([0, 6])  # 4,000 and 5,000 elements apart
    assert MAX_GAP == 4096
    assert plan_of(indptr, near).range_lo.size == 1
    assert plan_of(indptr, near[::-1]).elements_read == 6000
    assert plan_of(indptr, far).range_lo.size == 2
    # A straight run may be long, a range with several pieces not.
    run = plan_of(indptr, np.arange(900))
    assert run.elements_read == 900_000
    assert run.range_lo.size == run.piece_lo.size == 4
    backwards = plan_of(indptr, np.arange(900)[::-1])
    assert (backwards.range_hi - backwards.range_lo).max() <= MAX_RANGE
    assert backwards.range_lo.size == 14


def test_no_rows():
    plan = plan_of(np.array([0, 3]), np.zeros(0, np.int64))
    assert (plan.size, plan.elements_read, plan.parts(4)) == (0, 0, [])
    assert plan.indptr.tolist() == [0]
    empty = plan_of(np.array([0, 0, 0]), np.array([1, 0, 1]))
    assert (empty.size, empty.elements_read, empty.parts(4)) == (0, 0, [])
    assert empty.indptr.tolist() == [0, 0, 0, 0]


# --------------------------------------------------------------------------------- plan_span


@pytest.mark.parametrize(
    ("lo", "hi"), [(0, 0), (7, 7), (0, 1), (3, 10), (0, 1 << 18), (5, (1 << 18) + 6), (9, 1 << 20)]
)
def test_a_span_is_read_straight_to_its_place(lo, hi):
    indptr = np.array([0, hi - lo])
    plan = plan_span(lo, hi, indptr)
    stored = np.arange(hi)
    np.testing.assert_array_equal(carry_out(plan, stored), stored[lo:hi])
    assert plan.elements_read == plan.size == hi - lo
    assert plan.indptr is indptr
    assert np.all(np.diff(plan.range_ptr) == 1)
    assert np.all(plan.range_hi - plan.range_lo <= 1 << 18)
    assert plan.range_lo.size == -(-(hi - lo) // (1 << 18))
    for array in plan.pieces:
        assert array.dtype == np.int64


# ------------------------------------------------------------------------------------- parts


@given(wanted_rows(), limits, st.integers(1, 9))
def test_parts_cover_all_ranges_once(rows, limits, n):
    plan = plan_of(*rows, **limits)
    parts = plan.parts(n)
    covered = [r for first, last in parts for r in range(first, last)]
    assert covered == list(range(plan.range_lo.size))
    assert len(parts) <= n
    assert all(first < last for first, last in parts)


@given(st.lists(st.integers(1, 30), min_size=1, max_size=40), st.integers(1, 9))
@example([1, 1], 2)
@example([1, 1, 100], 3)
def test_parts_are_about_equal(lengths, n):
    ends = np.cumsum(lengths, dtype=np.int64)
    places = np.arange(ends.size + 1)
    plan = Plan(ends - lengths, ends, places, ends - lengths, ends, ends - lengths, ends)
    total, longest = sum(lengths), max(lengths)
    assert [r for part in plan.parts(n) for r in range(*part)] == list(range(len(lengths)))
    for first, last in plan.parts(n):
        assert first < last
        assert sum(lengths[first:last]) <= total / n + longest


# ------------------------------------------------------------------------------ plan_batches


@given(st.lists(st.integers(0, 9), max_size=30), st.integers(1, 30))
def test_batches(lengths, max_elements):
    batches = list(plan_batches(np.array(lengths, dtype=np.int64), max_elements))
    assert [row for first, last in batches for row in range(first, last)] == list(
        range(len(lengths))
    )
    for first, last in batches:
        size = sum(lengths[first:last])
        assert size <= max_elements or last == first + 1
        # Each is as long as it may be.
        assert last == len(lengths) or size + lengths[last] > max_elements


def test_batches_of_many_rows_that_hold_nothing():
    assert list(plan_batches(np.zeros(10**6, np.int64), 1)) == [(0, 10**6)]


def test_batches_beyond_int32():
    lengths = np.array([1 << 31, 1 << 31, 1], np.int64)
    assert list(plan_batches(lengths, (1 << 31) + 1)) == [(0, 1), (1, 3)]
