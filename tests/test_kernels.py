"""Every kernel of the row fetch gives what its plain-Python twin in naive.py gives."""

import mmap
import os
from contextlib import contextmanager

import naive
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numba import config
from strategies import indptrs, major_indices

from diskcsr.kernels import (
    CHARGE_SHIFT,
    LEDGER,
    MAY_ENTER,
    MAY_WAIT,
    WAS_READ,
    planning,
    ranges,
    reduce,
    transpose,
    triplets,
)
from diskcsr.kernels import rows as kernels


def ledger(may_enter=1 << 20):
    """What a kernel is told it may do, and where it notes what it did."""
    entries = np.zeros(LEDGER, np.int64)
    entries[MAY_ENTER] = may_enter
    return entries


NONE = np.zeros(0, np.uint8)
NO_WINDOW = (0, 0, NONE, NONE, ledger(0))
binary = st.integers(0, 1)
BLOCK = 1 << kernels.WINDOW_SHIFT


def equal(got, want):
    """Assert that two tuples of arrays are equal, dtypes included."""
    assert len(got) == len(want)
    for one, other in zip(got, want, strict=True):
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one, other)


def spans(indptr, rows):
    """The arguments `plan_ranges` takes for some rows: spans in file order, and their places."""
    order = np.argsort(rows, kind="stable")
    lo, hi = indptr[rows], indptr[rows + 1]
    dst = np.cumsum([0, *(hi - lo)], dtype=np.int64)[:-1]
    return lo[order], hi[order], dst[order]


@st.composite
def spans_of_rows(draw, max_rows=12):
    indptr = draw(indptrs(max_rows))
    return spans(indptr, draw(major_indices(indptr.size - 1)))


def test_every_public_kernel_has_a_twin():
    modules = (kernels, ranges, reduce, transpose, triplets)
    names = [(module, name) for module in modules for name in module.__all__]
    functions = {name for module, name in names if callable(getattr(module, name))}
    assert {name for name in functions if not hasattr(naive, name)} == set()


# ------------------------------------------------------------------------------------- planning


@given(spans_of_rows(), st.integers(0, 12), st.integers(1, 40))
@example(spans(np.array([0, 0, 2, 2, 5]), np.array([3, 1, 1, 0, 2])), 0, 1)
# A repeated row behind a straight run longer than max_range: the run stays straight.
@example(spans(np.arange(0, 50, 5), np.array([*range(9), 8])), 0, 10)
@example(spans(np.arange(0, 50, 5), np.array([4, *range(9), 4])), 3, 10)
# What follows a row that was cut off like this is measured from that row on.
@example(spans(np.arange(0, 50, 5), np.array([*range(6), 5, 7, 6, 8])), 0, 15)
def test_plan_ranges(rows, max_gap, max_range):
    got = ranges.plan_ranges(*rows, max_gap, max_range)
    equal(got, naive.plan_ranges(*rows, max_gap, max_range))


@given(spans_of_rows(), st.integers(0, 12), st.integers(1, 40), st.integers(1, 9))
def test_a_few_rows_are_planned_alike_without_the_compiler(rows, max_gap, max_range, longest):
    limits = max_gap, max_range, longest
    want = naive.plan_rows(*rows, *limits)
    equal(ranges.plan_rows(*rows, *limits), want)
    equal(planning.plan_rows(*(part.tolist() for part in rows), *limits), want)


def test_plan_ranges_keeps_scratch_small_when_a_row_repeats():
    # The whole matrix, and its last row once more: only that row needs scratch space.
    indptr = np.arange(0, 1010, 10)
    rows = np.array([*range(100), 99])
    plan = ranges.plan_ranges(*spans(indptr, rows), 0, 64)
    assert plan[0].tolist() == [0, 990]
    assert plan[1].tolist() == [990, 1000]
    assert plan[2].tolist() == [0, 1, 3]
    assert plan[5].tolist() == [0, 990, 1000]


@given(spans_of_rows(), st.integers(0, 12), st.integers(1, 40), st.integers(1, 9))
def test_split_ranges(rows, max_gap, max_range, longest):
    plan = naive.plan_ranges(*rows, max_gap, max_range)
    equal(ranges.split_ranges(*plan, longest), naive.split_ranges(*plan, longest))


# ------------------------------------------------------------------------------------ gathering


@st.composite
def layouts(draw, itemsize, near_block=False):
    """Where a dataset lies: (extents, bytes of the file it needs).

    Runs of elements lie in any order in the file, with gaps; with `near_block` one of the gaps
    puts the run behind it on or about the edge of a 64 kB block.
    """
    lengths = draw(st.lists(st.integers(1, 30), min_size=1, max_size=5))
    offsets, end = [0] * len(lengths), draw(st.integers(0, 9))
    jump = draw(st.integers(0, len(lengths) - 1)) if near_block else -1
    for place, e in enumerate(draw(st.permutations(range(len(lengths))))):
        if place == jump:
            end = max(end, draw(st.integers(1, 2)) * BLOCK - draw(st.integers(0, 200)))
        offsets[e] = end
        end += lengths[e] * itemsize + draw(st.sampled_from((0, 0, 1, 7, 16)))
    starts = np.cumsum([0, *lengths], dtype=np.int64)
    return (starts, np.array(offsets, np.int64)), end


@st.composite
def plans(draw, size):
    """A plan over `size` elements, as the kernels take it, and the size of its result."""
    edges = draw(st.lists(st.integers(0, size), max_size=9))
    indptr = np.array(sorted([0, *edges, size]), np.int64)
    lo, hi, dst = spans(indptr, draw(major_indices(indptr.size - 1, max_size=8)))
    plan = naive.plan_ranges(lo, hi, dst, draw(st.integers(0, 9)), draw(st.integers(1, 60)))
    plan = naive.split_ranges(*plan, draw(st.integers(1, 60)))
    return plan, int((hi - lo).sum())


@st.composite
def cases(draw, itemsizes=(1, 2, 4, 8, 16, 32), near_block=False):
    """Everything a gather kernel is called with, but the file."""
    itemsize = draw(st.sampled_from(itemsizes))
    extents, end = draw(layouts(itemsize, near_block))
    plan, size = draw(plans(int(extents[0][-1])))
    return itemsize, extents, end, plan, size, *_run(draw, plan)


def _run(draw, plan):
    edges = st.integers(0, plan[0].size)
    return sorted((draw(edges), draw(edges))) if draw(st.booleans()) else (0, plan[0].size)


@contextmanager
def stored(content):
    """A descriptor of an unnamed file with these bytes."""
    fd = os.memfd_create("kernels")
    try:
        os.write(fd, content)
        yield fd
    finally:
        os.close(fd)


@contextmanager
def window(fd, size):
    """A map of the first `size` bytes of a file, as the kernels take it; nothing is warm."""
    view = np.frombuffer(mmap.mmap(fd, size, prot=mmap.PROT_READ), np.uint8)
    warm = np.zeros((size >> kernels.WINDOW_SHIFT) + 1, np.uint8)
    charged = np.zeros((size >> CHARGE_SHIFT) + 1, np.uint8)
    yield view.ctypes.data, size, warm, charged, ledger()


def noise(size, seed=0):
    return np.random.default_rng(seed).bytes(size)


def plan_of(lo, hi):
    """A plan that reads one range to the beginning of the result."""
    lists = ([lo], [hi], [0, 1], [lo], [hi], [0])
    return tuple(np.array(part, np.int64) for part in lists)


def gathered(module, fd, case, *, mapped=NO_WINDOW):
    """Status and result of `gather` in one of the two modules."""
    itemsize, extents, _, plan, size, first, last = case
    out = np.full(size * itemsize, 170, np.uint8)
    status = module.gather((fd, *mapped), extents, itemsize, plan, first, last, out)
    return tuple(int(number) for number in status), out


@given(cases())
def test_gather(case):
    with stored(noise(case[2])) as fd:
        want_status, want = gathered(naive, fd, case)
        status, out = gathered(kernels, fd, case)
    assert status == want_status == (0, 0)
    np.testing.assert_array_equal(out, want)


@given(cases(near_block=True), st.integers(0, 400))
def test_gather_with_a_window(case, beyond):
    itemsize, extents, end, plan, _, first, last = case
    with stored(noise(end)) as fd:
        _, want = gathered(naive, fd, case)
        # Of a file that grew after it was mapped, the end is not in the map.
        with window(fd, max(end - beyond, 1)) as mapped:
            warm = mapped[2]
            status, out = gathered(kernels, fd, case, mapped=mapped)
            assert status == (0, 0)
            np.testing.assert_array_equal(out, want)
            touched = naive.blocks_read(extents, itemsize, plan, first, last, kernels.WINDOW_SHIFT)
            marked = set(np.flatnonzero(warm).tolist())
            assert set(warm.tolist()) <= {0, 1}
            assert marked == touched if beyond == 0 else marked <= touched
            # Once more, some of it from the map: the same answer and the same marks.
            status, out = gathered(kernels, fd, case, mapped=mapped)
            assert status == (0, 0)
            np.testing.assert_array_equal(out, want)
            assert set(np.flatnonzero(warm).tolist()) == marked
            if beyond == 0:
                # All of it now comes from the map: the descriptor is not needed any more.
                status, out = gathered(kernels, -1, case, mapped=mapped)
                assert status == (0, 0)
                np.testing.assert_array_equal(out, want)


def test_gather_reads_blocks_that_are_not_warm():
    size = 3 * BLOCK
    content = noise(size)
    extents = np.array([0, size], np.int64), np.array([0], np.int64)
    edges = [(0, 10), (BLOCK - 5, BLOCK + 5), (2 * BLOCK, 2 * BLOCK + 1), (size - 1, size)]
    with stored(content) as fd, window(fd, size) as mapped:
        for warm in ([1, 0, 0], [0, 1, 1], [1, 1, 1]):
            mapped[2][:3] = warm
            for lo, hi in edges:
                plan = plan_of(lo, hi)
                out = np.zeros(hi - lo, np.uint8)
                needs = range(lo >> kernels.WINDOW_SHIFT, ((hi - 1) >> kernels.WINDOW_SHIFT) + 1)
                readable = all(warm[block] for block in needs)
                # No descriptor: only what is warm can be had.
                status, at = kernels.gather((-1, *mapped), extents, 1, plan, 0, 1, out)
                assert (status, at) == ((0, 0) if readable else (kernels.SHORT_FILE, lo))
                assert (out.tobytes() == content[lo:hi]) == readable
                assert mapped[2][:3].tolist() == warm  # a failed read marks nothing


@pytest.mark.parametrize("lo", [0, 1, BLOCK - 1, BLOCK, BLOCK + 1])
@pytest.mark.parametrize("hi", [BLOCK + 2, 2 * BLOCK - 1, 2 * BLOCK, 2 * BLOCK + 1, 3 * BLOCK])
@pytest.mark.parametrize("mapped", [False, True])
def test_gather_marks_the_blocks_it_entered(lo, hi, mapped):
    content = noise(3 * BLOCK)
    extents = np.array([0, 3 * BLOCK], np.int64), np.array([0], np.int64)
    with stored(content) as fd, window(fd, len(content)) as whole:
        file = (fd, *whole) if mapped else (fd, 0, 0, *whole[2:])
        out = np.zeros(hi - lo, np.uint8)
        assert tuple(kernels.gather(file, extents, 1, plan_of(lo, hi), 0, 1, out)) == (0, 0)
        assert out.tobytes() == content[lo:hi]
        want = [int(mapped and lo < end * BLOCK and hi > (end - 1) * BLOCK) for end in (1, 2, 3)]
        assert whole[2].tolist() == [*want, 0]


@pytest.mark.skipif(not config.DISABLE_JIT, reason="compiled code calls libc, not Python")
def test_gather_reads_on_when_the_system_gives_less_than_asked_for(monkeypatch):
    content = noise(100)
    extents = np.array([0, 60, 100], np.int64), np.array([40, 0], np.int64)
    pread = kernels._pread
    monkeypatch.setattr(kernels, "_pread", lambda fd, to, size, at: pread(fd, to, min(size, 7), at))
    for at_hand in (0, 3):  # of what is asked for without waiting, nothing or a little comes
        monkeypatch.setattr(
            kernels,
            "_read_at_hand",
            lambda file, to, size, at, most=at_hand: pread(file[0], to, min(size, most), at),
        )
        out = np.zeros(80, np.uint8)
        with stored(content) as fd:
            file = (fd, 0, 0, NONE, NONE, ledger(0))
            status = kernels.gather(file, extents, 1, plan_of(10, 90), 0, 1, out)
        assert tuple(status) == (0, 0)
        assert out.tobytes() == content[50:] + content[:30]
        assert (file[5][MAY_WAIT], file[5][WAS_READ]) == (at_hand == 0, 80)


@pytest.mark.parametrize("allowed", [0, 1, 2, 3, 9])
def test_gather_enters_no_more_than_it_may(allowed):
    unit = 1 << CHARGE_SHIFT
    content = noise(4 * unit)
    extents = np.array([0, 4 * unit], np.int64), np.array([0], np.int64)
    # One range in the first unit, one in the second, one over the two behind, one in the first.
    places = [(unit // 2, 8), (unit + 5, 1), (3 * unit - 4, 8), (unit - 9, 9)]
    lo = np.array([place for place, _ in places])
    size = np.array([size for _, size in places])
    dst = np.cumsum(size) - size
    plan = (lo, lo + size, np.arange(5), lo, lo + size, dst)
    want = b"".join(content[a : a + n] for a, n in places)
    with stored(content) as fd, window(fd, len(content)) as mapped:
        warm, charged, entries = mapped[2:]
        entries[MAY_ENTER] = allowed
        # What lies in units that were entered is not read again.
        left = [8 * (allowed < 1), 1 * (allowed < 2), 8 * (allowed < 4), 9 * (allowed < 1)]
        for was_read in (26, sum(left)):
            entries[WAS_READ] = 0
            out = np.zeros(26, np.uint8)
            assert tuple(kernels.gather((fd, *mapped), extents, 1, plan, 0, 4, out)) == (0, 0)
            assert out.tobytes() == want
            assert charged.sum() == min(allowed, 4)
            assert warm.sum() == min(allowed, 4) + (allowed > 0)
            assert entries[MAY_ENTER] == allowed - min(allowed, 4)
            assert entries[WAS_READ] == was_read


def test_gather_beyond_the_end_of_the_map():
    # The file grew after it was mapped: nothing is there, at these addresses, to be touched.
    content = noise(BLOCK)
    extents = np.array([0, BLOCK], np.int64), np.array([0], np.int64)
    plan = plan_of(60_000, 60_010)
    with stored(content) as fd, window(fd, 1000) as mapped:
        for _ in range(2):
            out = np.zeros(10, np.uint8)
            status = kernels.gather((fd, *mapped), extents, 1, plan, 0, 1, out)
            assert tuple(status) == (0, 0)
            assert out.tobytes() == content[60_000:60_010]


@given(cases(), st.integers(0, 2**31))
def test_gather_from_a_file_that_ends_too_early(case, cut):
    itemsize, _, end, plan, _, _, _ = case
    with stored(noise(cut % (end + 1))) as fd:
        want_status, want = gathered(naive, fd, case)
        status, out = gathered(kernels, fd, case)
    assert status == want_status
    if status[0] == 0:
        np.testing.assert_array_equal(out, want)
        return
    assert status[0] == kernels.SHORT_FILE
    # The ranges before the one that failed are complete.
    failed = plan[0].tolist().index(status[1])
    for p in range(plan[2][case[5]], plan[2][failed]):
        place = slice(plan[5][p] * itemsize, (plan[5][p] + plan[4][p] - plan[3][p]) * itemsize)
        np.testing.assert_array_equal(out[place], want[place])


@given(
    cases(itemsizes=(4, 8)), st.integers(1, 9), st.lists(st.integers(0, 200), max_size=2), st.data()
)
def test_gather_indices(case, limit, bad_places, data):
    itemsize, extents, end, plan, size, first, last = case
    dtype = np.dtype(f"<i{itemsize}")
    values = np.random.default_rng(0).integers(0, limit, extents[0][-1]).astype(dtype)
    for place in bad_places:
        bad = data.draw(st.sampled_from((-1, limit, np.iinfo(dtype).min, np.iinfo(dtype).max)))
        values[place % values.size] = bad
    content = bytearray(end)
    for i, value in enumerate(values):
        at = naive.element_offset(extents, itemsize, i)
        content[at : at + itemsize] = value.tobytes()
    cut = data.draw(st.sampled_from((end, end, end // 2)))
    with stored(bytes(content[:cut])) as fd:
        want = np.full(size, -7, dtype)
        out = want.copy()
        want_status = naive.gather_indices((fd,), extents, plan, first, last, want, limit)
        file = (fd, *NO_WINDOW)
        status = kernels.gather_indices(file, extents, plan, first, last, out, limit)
    assert tuple(map(int, status)) == want_status
    if want_status[0] == 0:
        np.testing.assert_array_equal(out, want)


def test_gather_takes_offsets_beyond_4_gb():
    # A sparse file: nothing is stored before the data.
    offset = (5 << 30) + 3
    fd = os.memfd_create("kernels")
    try:
        os.pwrite(fd, b"0123456789", offset)
        extents = np.array([0, 10], np.int64), np.array([offset], np.int64)
        plan = tuple(
            np.array(part, np.int64) for part in ([2, 6], [4, 10], [0, 1, 2], [2, 6], [4, 10])
        )
        plan += (np.array([4, 0], np.int64),)
        out = np.zeros(6, np.uint8)
        status = kernels.gather((fd, *NO_WINDOW), extents, 1, plan, 0, 2, out)
    finally:
        os.close(fd)
    assert tuple(status) == (0, 0)
    assert out.tobytes() == b"678923"


def test_advise_only_tells_the_kernel():
    content = noise(3 * BLOCK)
    extents = np.array([0, BLOCK, 3 * BLOCK], np.int64), np.array([BLOCK, 0], np.int64)
    ranges = np.array([0, BLOCK - 9, BLOCK + 5]), np.array([10, BLOCK + 9, 2 * BLOCK])
    with stored(content) as fd, window(fd, len(content)) as mapped:
        mapped[2][1] = 1
        kernels.advise((fd, *mapped), extents, 1, *ranges)
        assert mapped[2].tolist() == [0, 1, 0, 0]
        kernels.advise((fd, *NO_WINDOW), extents, 1, *ranges)
        assert os.pread(fd, len(content), 0) == content


@pytest.mark.skipif(not config.DISABLE_JIT, reason="compiled code calls libc, not Python")
@given(cases(near_block=True), st.data())
def test_advise(case, data):
    itemsize, extents, end, plan, *_ = case
    warm = data.draw(hnp.arrays(np.uint8, (end >> kernels.WINDOW_SHIFT) + 1, elements=binary))
    calls = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kernels, "_fadvise", lambda *arguments: calls.append(arguments))
        kernels.advise((5, 0, 0, warm, NONE, ledger()), extents, itemsize, *plan[:2])
    want = naive.advise(extents, itemsize, *plan[:2], warm, kernels.WINDOW_SHIFT)
    assert calls == [(5, begin, size, os.POSIX_FADV_WILLNEED) for begin, size in want]


# -------------------------------------------------------------------------- checks and filters


@pytest.mark.parametrize("dtype", [np.int32, np.int64, np.uint32])
@pytest.mark.parametrize("size", [0, 1, 7, 100])
def test_first_bad_index(size, dtype):
    indices = np.arange(size, dtype=dtype) % 10
    assert kernels.first_bad_index(indices, 10) == naive.first_bad_index(indices, 10) == -1
    for at in range(size):
        for bad in (10, 11, -1, np.iinfo(dtype).max, np.iinfo(dtype).min):
            if bad < 0 and np.dtype(dtype).kind == "u":
                continue
            for later in (0, 1):
                spoiled = indices.copy()
                spoiled[at + later :: 5] = dtype(bad)
                want = naive.first_bad_index(spoiled, 10)
                assert kernels.first_bad_index(spoiled, 10) == want


@given(spans_of_rows(), st.sampled_from((np.int32, np.int64)), st.lists(st.integers(-1, 9)))
def test_first_bad_piece(rows, dtype, values):
    *_, lo, hi, dst = naive.plan_ranges(*rows, 3, 20)
    out = np.resize(np.array([3, *values], dtype), int((hi - lo).sum()))
    for limit in (1, 8, 10):
        want = naive.first_bad_piece(lo, hi, dst, out, limit)
        assert kernels.first_bad_piece(lo, hi, dst, out, limit) == want


@given(spans_of_rows(), st.sampled_from((1, 2, 8, 32)), st.data())
def test_scatter(rows, itemsize, data):
    *_, lo, hi, dst = naive.plan_ranges(*rows, 3, 20)
    size = int((hi - lo).sum())
    end = int(hi.max()) if hi.size else 0
    block_lo = data.draw(st.integers(0, end + 2))
    length = data.draw(st.integers(0, end + 2))
    block = np.frombuffer(noise(length * itemsize), np.uint8)
    out = np.full(size * itemsize, 170, np.uint8)
    want = out.copy()
    kernels.scatter(block, block_lo, itemsize, lo, hi, dst, out)
    naive.scatter(block, block_lo, itemsize, lo, hi, dst, want)
    np.testing.assert_array_equal(out, want)


@given(indptrs(max_rows=6), st.sets(st.integers(0, 9)), st.data())
def test_find_listed(indptr, wanted, data):
    size = int(indptr[-1])
    indices = data.draw(st.lists(st.integers(0, 9), min_size=size, max_size=size))
    places = np.zeros(10, np.int32)
    places[sorted(wanted)] = np.arange(1, len(wanted) + 1)
    for dtype in (np.int32, np.int64, np.uint16):
        arguments = np.array(indices, dtype), indptr.astype(dtype), places
        equal(kernels.find_listed(*arguments), naive.find_listed(*arguments))


@pytest.mark.parametrize("bad", [-1, 10, 1 << 40])
def test_find_listed_of_indices_that_others_changed_stays_in_its_arrays(bad):
    places, indices = np.ones(10, np.int32), np.array([1, bad, 3])
    places[3] = 0
    # As if there had been more, and fewer, when they were counted.
    for indptr in ([0, 2, 3], [0, 2, 2, 1, 3], [0, 1]):
        found, kept, starts = kernels.find_listed(indices, np.array(indptr), places)
        assert set(found.tolist()) <= {0, 1, 2}
        assert set(kept.tolist()) <= {0}
        assert len(found) == len(kept) == starts[-1]


@given(st.lists(st.integers(-3, 12), max_size=20), st.integers(-4, 13))
def test_first_above(entries, value):
    ascending = np.array(sorted(entries), np.int64)
    assert kernels.first_above(ascending, value) == naive.first_above(ascending, value)


@given(indptrs(max_rows=6), st.data())
def test_find_points(indptr, data):
    dtype = data.draw(st.sampled_from((np.int32, np.int64)))
    minor = st.integers(0, 5)
    size = int(indptr[-1])
    indices = np.array(data.draw(st.lists(minor, min_size=size, max_size=size)), dtype)
    points = [
        sorted(data.draw(st.lists(minor, max_size=5, unique=data.draw(st.booleans()))))
        for _ in range(indptr.size - 1)
    ]
    point_ptr = np.cumsum([0, *map(len, points)], dtype=np.int64)
    point_minor = np.array([i for row in points for i in row], np.int64)
    arguments = indptr.astype(dtype), indices, point_ptr, point_minor
    equal([kernels.find_points(*arguments)], [naive.find_points(*arguments)])


@given(st.data())
def test_the_kernels_of_a_transposition(data):
    n_minor = data.draw(st.integers(1, 12))
    indptr = data.draw(indptrs())
    size = int(indptr[-1])
    drawn = data.draw(st.lists(st.integers(0, n_minor - 1), min_size=size, max_size=size))
    indices = np.array(drawn, data.draw(st.sampled_from((np.int32, np.int64))))
    values = np.arange(size, dtype=np.float32)
    counts, want = np.zeros(n_minor, np.int64), np.zeros(n_minor, np.int64)
    transpose.count(indices, counts)
    naive.count(indices, want)
    equal([counts], [want])

    cuts = sorted(data.draw(st.sets(st.integers(1, n_minor), max_size=3)) | {0, n_minor})
    lo = np.array(cuts[:-1], np.int64)
    bucket_of = np.repeat(np.arange(lo.size, dtype=np.int32), np.diff(cuts))
    results = []
    for module in (transpose, naive):
        parts = [np.zeros(size, kind) for kind in (np.float32, np.int32, np.uint16)]
        ptr = module.partition(values, indices, indptr, 7, bucket_of, lo, *parts)
        results.append([np.asarray(ptr, np.int64), *parts])
    equal(*results)

    _, some, majors, minors = results[0]
    within = np.diff(np.append(lo, n_minor)).max()
    first = minors[: int(results[0][0][1])]
    places = np.concatenate([[0], np.cumsum(np.bincount(first, minlength=within))[:-1]])
    placed = []
    for module in (transpose, naive):
        at, out = places.copy(), (np.zeros(size, np.float32), np.zeros(size, np.int32))
        module.place(some[: first.size], majors[: first.size], first, at, *out)
        placed.append([at, *out])
    equal(*placed)


#: Of the triplets below: major and minor indices, the bits of a minor one.
pairs = st.lists(st.tuples(st.integers(-1, 40), st.integers(-1, 9)), max_size=30)


@given(pairs, st.sampled_from((np.int32, np.int64)), st.sampled_from((4, 31)))
def test_pack(drawn, dtype, bits):
    majors, minors = np.array(drawn, dtype).reshape(-1, 2).T.copy()
    results = []
    for module in (triplets, naive):
        keys = np.full(majors.size, -7)
        found = module.pack(majors, minors, 39, 9, bits, keys)
        results.append([np.array(found), keys])
    equal(*results)


@given(st.lists(st.integers(0, 2**62 - 1) | st.integers(0, 20), max_size=30))
@example([])
@example([3, 3, 5])
@example([2**61, 5, 0])
def test_survey(drawn):
    keys = np.array(drawn, np.int64)
    assert tuple(map(int, triplets.survey(keys))) == naive.survey(keys)


@given(
    st.lists(st.integers(0, 2**40), max_size=30),
    st.integers(0, 40),
    st.integers(1, 12),
    st.sampled_from(("u1", "u2", "u4", "u8", "c16", "(2,)c16")),
)
def test_sort_pass(drawn, shift, width, dtype):
    keys, kind = np.array(drawn, np.int64), np.dtype(dtype)
    values = np.zeros(keys.size, kind)
    values[:] = np.arange(keys.size).reshape(-1, *[1] * len(kind.shape))
    results = []
    for module in (triplets, naive):
        out = np.full_like(keys, -1), np.zeros_like(values)
        module.sort_pass(keys, values, shift, width, *out)
        results.append(list(out))
    equal(*results)


@given(
    st.lists(st.integers(5 * 16, 9 * 16 - 1), max_size=30), st.sampled_from((np.int32, np.int64))
)
def test_unpack(drawn, dtype):
    keys, results = np.array(sorted(drawn), np.int64), []
    for module in (triplets, naive):
        out = np.full(keys.size, -1, dtype), np.zeros(4, np.int64)
        module.unpack(keys, 4, 5, *out)
        results.append(list(out))
    equal(*results)
