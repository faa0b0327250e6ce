"""The door: blocks come in order, folds are the same to the last bit in any number of threads."""

import os
import signal
import threading
import time

import h5py
import numpy as np
import pytest
from hypothesis import given
from numpy.testing import assert_array_equal
from scipy.sparse import csc_array, csr_array, vstack
from strategies import matrices

import diskcsr
from diskcsr.blocks import contents as contents_module
from diskcsr.blocks import walk
from diskcsr.blocks.canonical import canonical, is_canonical
from diskcsr.blocks.walk import Block, blocks, fold
from diskcsr.kernels import reduce as kernels
from diskcsr.machine.options import options
from diskcsr.protocol.handle import contents_of

SHAPE = (700, 90)


@pytest.fixture(scope="module")
def matrix():
    rng = np.random.default_rng(8)
    dense = rng.standard_normal(SHAPE) * (rng.random(SHAPE) < 0.2)
    dense[100:300] = 0  # whole blocks without an element
    dense[400] = 1.5  # one line longer than a block
    return csr_array(dense)


@pytest.fixture(params=["raw", "gzip", "csc", "handed out"])
def array(request, matrix, tmp_path):
    how = {"compression": "gzip", "chunks": 100} if request.param == "gzip" else {"chunks": 300}
    matrix = matrix.T if request.param == "csc" else matrix
    with diskcsr.write(tmp_path / "m.h5", matrix, **how) as opened:
        if request.param == "handed out":
            opened.data, opened.indices, opened.indptr  # noqa: B018
        yield opened


def stacked(some, n_minor):
    """Put blocks together again."""
    parts = [csr_array(block[1:], shape=(block.last - block.first, n_minor)) for block in some]
    return vstack(parts, format="csr")


def add_up(state, block):
    """A step whose result depends on the order of the additions."""
    for value in block.data.tolist():
        state += value / 3
    return state


def joined(left, right):
    return left * 1.1 + right


# ------------------------------------------------------------------------------------- in order


@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize("max_bytes", [1, 500, 1 << 20])
def test_blocks_in_order(array, matrix, max_bytes, threads):
    with options.set(num_threads=threads):
        found = list(blocks(contents_of(array), max_bytes=max_bytes))
    assert [block.first for block in found] == [0, *(block.last for block in found[:-1])]
    assert found[-1].last == SHAPE[0]
    assert all(block.indptr[0] == 0 for block in found)
    assert all(block.nbytes <= max(500, max_bytes) or block.data.size == 90 for block in found)
    whole = stacked(found, SHAPE[1])
    assert_array_equal(whole.toarray(), matrix.toarray())
    assert whole.dtype == matrix.dtype


def test_blocks_of_some_lines(array, matrix):
    majors = np.array([5, 5, 699, 0, 400])
    found = list(blocks(contents_of(array), majors, max_bytes=300))
    assert_array_equal(stacked(found, SHAPE[1]).toarray(), matrix.toarray()[majors])


def test_blocks_go_through_transforms_in_order(array, matrix):
    def negated(block):
        return block._replace(data=-block.data)

    def added(block):
        return block._replace(data=block.data + block.first)

    some = blocks(contents_of(array), range(50), through=[negated, added], max_bytes=1 << 20)
    (block,) = some
    assert_array_equal(block.data, -matrix[:50].data)
    others = list(blocks(contents_of(array), through=[added, negated], max_bytes=1000))
    assert_array_equal(
        others[1].data, -matrix[others[1].first : others[1].last].data - others[1].first
    )


def test_blocks_that_were_given_stay_as_they_are(array, matrix):
    found = list(blocks(contents_of(array), max_bytes=400))
    assert_array_equal(np.concatenate([block.data for block in found]), matrix.data)


# ------------------------------------------------------------------------------------- any order


def test_a_fold_sees_each_line_once(array, matrix):
    def step(state, block):
        return [*state, (block.first, block.last, block.data.sum())]

    for threads in (1, 2, 5):
        with options.set(num_threads=threads):
            seen = fold(contents_of(array), list, step, lambda a, b: a + b, max_bytes=600)
        assert [first for first, _, _ in seen] == [0, *(last for _, last, _ in seen[:-1])]
        assert seen[-1][1] == SHAPE[0]
        np.testing.assert_allclose(sum(part for *_, part in seen), matrix.data.sum())


def test_no_number_of_threads_changes_a_bit(array):
    found = []
    for threads in (1, 2, 5):
        with options.set(num_threads=threads):
            found.append(fold(contents_of(array), float, add_up, joined, max_bytes=600))
    assert found[0] == found[1] == found[2]


def test_the_cuts_depend_on_the_matrix_alone(array, monkeypatch):
    contents = contents_of(array)
    for count in (1, 2, 7, 16, 5000):
        runs = contents.cuts(count)
        assert len(runs) <= count
        assert [line for run in runs for line in run] == list(range(SHAPE[0]))
        sizes = [int(contents.lengths(run).sum()) for run in runs]
        assert max(sizes) <= contents.nnz / count + 90
        with options.set(num_threads=5):
            assert contents.cuts(count) == runs
    # Of a long matrix row pointers are looked at here and there.
    monkeypatch.setattr(contents_module, "WALK", 100)
    monkeypatch.setattr(contents_module, "GRID", 50)
    runs = contents.cuts(7)
    assert [line for run in runs for line in run] == list(range(SHAPE[0]))
    assert len(runs) == 7


def test_large_states_are_few(array, monkeypatch):
    started = []

    def start():
        started.append(threading.get_ident())
        return 0.0

    monkeypatch.setattr(walk, "STATES", 1000)
    counts = []
    for state_bytes in (0, 100, 300, 2000):
        started.clear()
        fold(contents_of(array), start, add_up, joined, max_bytes=100, state_bytes=state_bytes)
        counts.append(len(started))
    assert counts == [16, 10, 3, 1]
    # A small budget is another reason.
    started.clear()
    monkeypatch.setattr(walk, "STATES", 1 << 27)
    with options.set(memory_budget=10_000):
        fold(contents_of(array), start, add_up, joined, max_bytes=100, state_bytes=1000)
    assert len(started) == 5
    started.clear()
    fold(contents_of(array), start, add_up, joined)  # all of it is no more than a block
    assert len(started) == 1


@pytest.mark.parametrize("shape", [(0, 5), (5, 0), (0, 0), (5, 5)])
def test_nothing_stored(store, shape):
    contents = contents_of(store(csr_array(shape)))
    assert sum(block.last - block.first for block in blocks(contents, max_bytes=10)) == shape[0]
    assert fold(contents, lambda: 7, lambda state, block: state + block.data.size, max) == 7


def test_what_was_handed_out_is_the_truth(array, matrix):
    array.data[:] = 2
    total = fold(contents_of(array), float, lambda s, block: s + block.data.sum(), max)
    assert total == 2 * matrix.nnz
    array.release()
    total = fold(contents_of(array), float, lambda s, block: s + block.data.sum(), max)
    np.testing.assert_allclose(total, matrix.data.sum())


def test_nothing_is_handed_out_and_nothing_kept(array):
    held = set(contents_of(array).held)
    diskcsr.cache.clear()
    fold(contents_of(array), float, add_up, joined, max_bytes=600)
    assert set(contents_of(array).held) == held


def test_a_fold_within_a_fold(array):
    contents = contents_of(array)

    def step(state, block):
        return state + fold(contents, float, add_up, joined, max_bytes=5000)

    with options.set(num_threads=5):
        found = fold(contents, float, step, lambda a, b: a + b, max_bytes=5000)
    with options.set(num_threads=1):
        assert found == fold(contents, float, step, lambda a, b: a + b, max_bytes=5000)


# ------------------------------------------------------------------------------- how it may end


def break_indices(path, *at):
    with h5py.File(path, "r+") as file:
        for place in at:
            file["X/indices"][place] = 10**6


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_the_first_broken_line_is_named(tmp_path, matrix, threads):
    path = tmp_path / "m.h5"
    diskcsr.write(path, matrix).close()
    break_indices(path, matrix.nnz // 2, matrix.nnz - 1)
    with (
        options.set(num_threads=threads),
        diskcsr.open(path) as array,
        pytest.raises(diskcsr.CorruptFileError, match="index 1000000 is out of range"),
    ):
        fold(contents_of(array), float, add_up, joined, max_bytes=600)


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_of_several_failures_the_first_is_raised(array, threads):
    ended = []

    def step(state, block):
        if block.last > 350:
            time.sleep(0.001)
            ended.append(block.first)
            raise RuntimeError(block.first)
        return state

    with options.set(num_threads=threads), pytest.raises(RuntimeError) as caught:
        fold(contents_of(array), int, step, max, max_bytes=200)
    first = caught.value.args[0]
    assert first == min(ended) < 400
    before = len(ended)
    time.sleep(0.02)
    assert len(ended) == before  # nobody works on


@pytest.mark.parametrize("threads", [1, 2])
def test_ctrl_c_ends_within_a_block(array, threads):
    steps = []

    def step(state, block):
        steps.append(block.first)
        if len(steps) == 3:
            os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.002)
        return state

    with options.set(num_threads=threads), pytest.raises(KeyboardInterrupt):
        fold(contents_of(array), int, step, max, max_bytes=10)
    assert len(steps) <= 3 + 40 * threads
    before = len(steps)
    time.sleep(0.02)
    assert len(steps) == before
    assert fold(contents_of(array), int, lambda state, block: state + 1, max) == 1


# -------------------------------------------------------------------------------------- progress


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_progress_is_told_in_the_calling_thread(array, matrix, threads):
    told = []

    def tell(done, total):
        told.append((done, total, threading.get_ident()))

    for setting in ({"progress": tell}, {}):
        told.clear()
        with options.set(num_threads=threads, progress=None if setting else tell):
            fold(contents_of(array), float, add_up, joined, max_bytes=600, **setting)
        total = matrix.nnz * 12
        assert told[-1][:2] == (total, total)
        assert [done for done, *_ in told] == sorted(done for done, *_ in told)
        assert {thread for *_, thread in told} == {threading.get_ident()}


def test_progress_may_end_it(array):
    def tell(done, total):
        raise RuntimeError("enough")

    with pytest.raises(RuntimeError, match="enough"):
        fold(contents_of(array), float, add_up, joined, max_bytes=600, progress=tell)


# ------------------------------------------------------------------------------------- canonical


@given(matrices(max_side=9))
def test_canonical_is_what_scipy_makes(matrix):
    major = matrix if matrix.format == "csr" else matrix.T
    arrays = major.data.copy(), major.indices.copy(), major.indptr.copy()
    block = Block(3, *(part.copy() for part in arrays))
    found = canonical(block)
    for part, before in zip(block[1:], arrays, strict=True):
        assert_array_equal(part, before)  # the block itself is as it was
    expected = csr_array(arrays, shape=major.shape)
    sound = expected.has_canonical_format
    assert is_canonical(block) == kernels.is_canonical(block.indices, block.indptr) == sound
    assert (found is block) == sound
    expected.sum_duplicates()
    assert found.first == 3
    for one, other in zip(
        found[1:], (expected.data, expected.indices, expected.indptr), strict=True
    ):
        assert_array_equal(one, other)
    assert found.data.dtype == matrix.dtype
    assert found.indices.dtype == block.indices.dtype
    assert is_canonical(found)


def test_large_blocks_are_told_apart_too(monkeypatch):
    n = 70_000
    sound = Block(0, np.ones(n), np.arange(n, dtype=np.int32), np.array([0, n]))
    assert canonical(sound) is sound
    twice = sound._replace(indices=np.r_[0, np.arange(n - 1)].astype(np.int32))
    found = canonical(twice)
    assert found.data.size == n - 1
    assert found.data[0] == 2


def test_iter_blocks_of_both_formats(store, matrix):
    for made in (matrix, csc_array(matrix)):
        A = store(made)
        found = list(A.iter_blocks(500))
        assert [first for first, _ in found] == [
            block.first for block in blocks(contents_of(A), max_bytes=500)
        ]
        for first, block in found:
            last = first + block.shape[A._axis.major]
            lines = A._axis.swap((slice(first, last), slice(None)))
            assert type(block) is A._scipy_class
            assert_array_equal(block.toarray(), matrix.toarray()[lines])
