"""Triplets in any order become the matrix that numpy makes of them, within a given memory."""

import errno
import os
import signal
from pathlib import Path

import h5py
import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

import diskcsr
from diskcsr.streams import runs
from diskcsr.streams.triplets import least_memory

FORMATS = ("csr", "csc")
both_formats = pytest.mark.parametrize("format", FORMATS)
memories = pytest.mark.parametrize("memory", ["all", "spilling"])


def bytes_of(memory):
    return least_memory() if memory == "spilling" else None


def drawn(n, shape, dtype, seed=0):
    rng = np.random.default_rng(seed)
    values = rng.integers(1, 100, n).astype(dtype)
    return rng.integers(0, shape[0], n), rng.integers(0, shape[1], n), values


def in_parts(arrays, size):
    """Cut triplets into parts; one of them is empty."""
    yield tuple(array[:0] for array in arrays)
    for first in range(0, arrays[0].size, size):
        yield tuple(array[first : first + size] for array in arrays)


def entries(A):
    """What is stored, as (row, column, value) in the order of the file."""
    coo = A.to_memory().tocoo()
    return list(zip(coo.row.tolist(), coo.col.tolist(), coo.data.tolist(), strict=True))


def expected(arrays, duplicates, format):
    """The same in plain Python."""
    places = {}
    for row, column, value in zip(*(array.tolist() for array in arrays), strict=True):
        places.setdefault((row, column), []).append(value)
    if duplicates == "sum":
        places = {place: [sum(values)] for place, values in places.items()}
    elif duplicates == "last":
        places = {place: values[-1:] for place, values in places.items()}
    order = sorted(places, key=lambda place: place if format == "csr" else place[::-1])
    return [(*place, value) for place in order for value in places[place]]


def left(folder):
    return sorted(os.listdir(folder))


@both_formats
@memories
@pytest.mark.parametrize("duplicates", ["sum", "last", "keep"])
def test_what_becomes_of_duplicates(tmp_path, format, memory, duplicates):
    arrays = drawn(90_000, (300, 250), np.int64)
    with diskcsr.from_triplets(
        tmp_path / "t.h5",
        in_parts(arrays, 7_001),
        duplicates=duplicates,
        format=format,
        max_memory=bytes_of(memory),
    ) as A:
        assert (A.format, A.shape, A.dtype) == (format, (300, 250), np.int64)
        assert entries(A) == expected(arrays, duplicates, format)
        assert (A.indices.dtype, A.has_canonical_format) == (np.int32, duplicates != "keep")
    assert left(tmp_path) == ["t.h5"]
    warnings = [problem.where for problem in diskcsr.check(tmp_path / "t.h5").problems]
    assert warnings == (["/X/indices"] if duplicates == "keep" else [])


@memories
@pytest.mark.parametrize("dtype", "?bBhHiIlLfdgFDG")
def test_every_dtype(tmp_path, dtype, memory):
    n = 20_000 if memory == "all" else 70_000
    arrays = drawn(n, (200, 100), dtype)
    with diskcsr.from_triplets(
        tmp_path / "t.h5", in_parts(arrays, 9_999), duplicates="last", max_memory=bytes_of(memory)
    ) as A:
        assert A.dtype == np.dtype(dtype)
        dense = np.zeros((200, 100), dtype)
        dense[arrays[0], arrays[1]] = arrays[2]  # numpy, too, lets the last one win
        assert_array_equal(A.toarray(), dense)


@pytest.mark.parametrize("dtype", "?bBfFgG")
def test_sums_have_the_dtype_of_the_values(tmp_path, dtype):
    part = [0, 0, 0, 1], [1, 1, 1, 0], np.array([1, 1, 1, 1], dtype)
    with diskcsr.from_triplets(tmp_path / "t.h5", [part]) as A:
        assert A.dtype == np.dtype(dtype)
        assert_array_equal(A.toarray(), np.array([[0, 3], [1, 0]]).astype(dtype))


@given(st.data())
def test_runs_cut_into_buckets_are_sorted(tmp_path_factory, data):
    """Whatever the sizes of runs and buckets, and however often a key comes."""
    import contextlib

    keys = np.array(data.draw(st.lists(st.integers(0, 12) | st.integers(0, 2**61), max_size=60)))
    keys = keys.astype(np.int64)
    values, size = np.arange(keys.size, dtype=np.int32), data.draw(st.integers(1, 20))
    bucket, held = data.draw(st.integers(1, 20)), data.draw(st.sampled_from((0, 30, 100)))
    with contextlib.ExitStack() as stack, pytest.MonkeyPatch.context() as patch:
        patch.setattr(runs, "_SAMPLE", data.draw(st.integers(1, 8)))
        sorter = runs.Runs(values.dtype, held, bucket, tmp_path_factory.getbasetemp(), stack)
        for first in range(0, keys.size, size):
            some = slice(first, first + size)
            sorter.add(runs.sort_entries(keys[some].copy(), values[some].copy()))
        assert sorter.together == (keys.size <= held)
        found = list(sorter.buckets(lambda entries: entries))
    order = np.argsort(keys, kind="stable")
    assert_array_equal(np.concatenate([keys[:0], *(one[0] for one in found)]), keys[order])
    assert_array_equal(np.concatenate([values[:0], *(one[1] for one in found)]), values[order])
    if held < keys.size:
        assert max(one[0].size for one in found) <= bucket


@both_formats
@pytest.mark.parametrize("duplicates", ["sum", "last", "keep"])
def test_one_place_more_often_than_a_bucket_holds(tmp_path, format, duplicates):
    n = 300_000
    arrays = np.full(n, 3), np.full(n, 2), np.arange(n)
    arrays[0][::1000] = 1
    with diskcsr.from_triplets(
        tmp_path / "t.h5",
        in_parts(arrays, 10_000),
        format=format,
        duplicates=duplicates,
        max_memory=least_memory(),
    ) as A:
        assert A.shape == (4, 3)
        assert entries(A) == expected(arrays, duplicates, format)


def test_empty_lines_before_between_and_behind(tmp_path):
    part = [5, 99_000, 5], [3, 0, 1], [1.0, 2.0, 3.0]
    for format in FORMATS:
        path = tmp_path / f"{format}.h5"
        with diskcsr.from_triplets(
            path, [part], (200_000, 7), format=format, max_memory=least_memory()
        ) as A:
            assert A.shape == (200_000, 7)
            assert entries(A) == expected(list(map(np.array, part)), "keep", format)
            assert A.indptr.size == (200_001 if format == "csr" else 8)


def test_indices_up_to_the_last_bit(tmp_path):
    largest = 2**31 - 1
    path = tmp_path / "t.h5"
    with diskcsr.from_triplets(path, [([0, 1], [largest, 0], [1, 2])]) as A:
        assert A.shape == (2, 2**31)
        assert (A.indices.dtype, entries(A)) == (np.int64, [(0, largest, 1), (1, 0, 2)])
    wide = 2**60
    part = np.array([1, 0], np.uint64), np.array([wide - 1, 5], np.uint64)
    with diskcsr.from_triplets(path, [part], (2, wide), overwrite=True) as A:
        assert (A.shape, A.dtype) == ((2, wide), np.float64)
        assert entries(A) == [(0, 5, 1.0), (1, wide - 1, 1.0)]


def test_no_values_are_ones(tmp_path):
    parts = [([0, 0], [1, 1]), (np.array([1], np.uint8), np.array([0], np.int16), None)]
    with diskcsr.from_triplets(tmp_path / "a.h5", parts) as A:
        assert A.dtype == np.float64
        assert_array_equal(A.toarray(), [[0, 2], [1, 0]])
    with diskcsr.from_triplets(tmp_path / "b.h5", parts, dtype=np.int8) as A:
        assert A.dtype == np.int8
        assert_array_equal(A.toarray(), [[0, 2], [1, 0]])


@pytest.mark.parametrize("shape", [(0, 0), (0, 5), (5, 0), (4, 4)])
@both_formats
def test_nothing_but_a_shape(tmp_path, shape, format):
    for number, parts in enumerate(([], [([], [], [])], [([], [])])):
        path = tmp_path / f"{number}.h5"
        with diskcsr.from_triplets(path, parts, shape, format=format, dtype="f4") as A:
            assert (A.shape, A.nnz, A.dtype, A.format) == (shape, 0, np.float32, format)


def test_zeros_and_nan_are_stored(tmp_path):
    part = [0, 0, 1], [0, 1, 1], [0.0, np.nan, -0.0]
    with diskcsr.from_triplets(tmp_path / "t.h5", [part]) as A:
        assert A.nnz == 3
        assert_array_equal(A.data, [0.0, np.nan, -0.0])


WRONG = {
    "negative": (([0, -1], [0, 0]), ValueError, "part 1, position 1: row index -1 is negative"),
    "negative column": (([0, 1], [0, -5]), ValueError, "position 1: column index -5 is negative"),
    "outside": (
        ([0, 4], [0, 0]),
        ValueError,
        r"part 1, position 1: row index 4 is out of range: the shape is \(4, 3\)",
    ),
    "outside, column": (([0], [3]), ValueError, "position 0: column index 3 is out of range"),
    "huge": (
        (np.array([2**64 - 1], np.uint64), [0]),
        ValueError,
        "row index 18446744073709551615 is out of range",
    ),
    "fractions": (([0.5], [0]), TypeError, "part 1: rows must be whole numbers, not of dtype flo"),
    "booleans": (([0], [True]), TypeError, "part 1: columns must be whole numbers, not of dtype b"),
    "strings": ((["a"], [0]), TypeError, "part 1: rows must be whole numbers"),
    "lengths": (([0, 1], [0], [1.0]), ValueError, "part 1 has 2 rows, 1 columns, 1 values"),
    "no pair": (([0, 1],), TypeError, "part 1 is no .rows, columns, values. but tuple"),
    "an array": (np.zeros(3), TypeError, "part 1 is no .rows, columns, values. but ndarray"),
    "numbers": ((0, 1, 2.0), TypeError, "part 1: rows must be a one-dimensional array"),
    "complex": (([0], [0], [1j]), TypeError, "part 1: cannot cast values from complex128 to flo"),
    "objects": (([0], [0], [None]), TypeError, "part 1: cannot store values of dtype object"),
}


@both_formats
@pytest.mark.parametrize("kind", WRONG)
def test_what_is_refused(tmp_path, kind, format):
    part, error, message = WRONG[kind]
    parts = [([0], [0], [1.0]), part]
    with pytest.raises(error, match=message):
        diskcsr.from_triplets(tmp_path / "t.h5", parts, (4, 3), format=format)
    assert left(tmp_path) == []


def test_what_cannot_be_asked_for(tmp_path):
    path, part = tmp_path / "t.h5", [([0], [0], [1.0])]
    for arguments, error, message in [
        ({"triplets": []}, ValueError, "no triplets, and no shape"),
        ({"shape": (2,)}, ValueError, "shape must be two numbers"),
        ({"shape": (2, -1)}, ValueError, "shape must be two numbers"),
        ({"shape": (2.5, 1)}, TypeError, "integer"),
        ({"shape": (2**40, 2**40)}, ValueError, "cannot be sorted"),
        ({"duplicates": "first"}, ValueError, "'sum', 'last', 'error', 'keep', not 'first'"),
        ({"format": "coo"}, ValueError, "'csr' or 'csc'"),
        ({"max_memory": 1000}, ValueError, "at least"),
        ({"sum_duplicates": True}, ValueError, "sum_duplicates=: of triplets, duplicates="),
        ({"sort_indices": False}, ValueError, "sort_indices=: triplets have no order"),
        ({"compression": "zip"}, ValueError, "compression must be one of"),
        ({"dtype": np.uint8}, TypeError, "from float64 to uint8, the one asked for"),
        ({"triplets": [([0], [2**31], [1])]}, ValueError, "is not less than 2147483648: give sh"),
        ({"file": tmp_path / "no" / "t.h5"}, FileNotFoundError, "no"),
    ]:
        with pytest.raises(error, match=message):
            diskcsr.from_triplets(**{"file": path, "triplets": part, **arguments})
    assert left(tmp_path) == []


@memories
def test_duplicates_that_are_errors(tmp_path, memory):
    n = 90_000
    rows, columns = np.arange(n) % 300, np.arange(n) // 300
    parts = [*in_parts((rows, columns, rows), 7_000)]
    memory = bytes_of(memory)
    path = tmp_path / "t.h5"
    with diskcsr.from_triplets(path, parts, duplicates="error", max_memory=memory) as A:
        assert A.nnz == n
    parts.append(([77], [5], [0]))
    with pytest.raises(ValueError, match="row 77, column 5 has more than one value"):
        diskcsr.from_triplets(tmp_path / "b.h5", parts, duplicates="error", max_memory=memory)
    assert left(tmp_path) == ["t.h5"]


def test_a_name_that_is_taken_is_refused_before_anything_is_taken_in(tmp_path):
    path, part = tmp_path / "t.h5", ([0], [1], [2])
    diskcsr.from_triplets(path, [part], name="a/b").close()
    taken = []

    def parts():
        taken.append(1)
        yield part

    with pytest.raises(ValueError, match="already has an object 'a/b'; pass overwrite=True"):
        diskcsr.from_triplets(path, parts(), name="a/b")
    with h5py.File(path, "r+") as file, pytest.raises(ValueError, match="already has an object"):
        diskcsr.from_triplets(file, parts(), name="a/b")
    assert taken == []
    diskcsr.from_triplets(path, parts(), (5, 5), name="a/b", overwrite=True).close()
    with h5py.File(path, "r+") as file:
        diskcsr.from_triplets(file, [part], name="c").close()
    assert [diskcsr.open(path, name).shape for name in ("a/b", "c")] == [(5, 5), (1, 2)]


def test_how_it_is_stored(tmp_path):
    arrays, told = drawn(70_000, (100, 100), "f4"), []
    with diskcsr.from_triplets(
        tmp_path / "t.h5",
        in_parts(arrays, 10_000),
        compression="gzip",
        chunks=2048,
        duplicates="keep",
        progress=lambda done, total: told.append((done, total)),
        max_memory=least_memory(),
    ) as A:
        assert_array_equal(A.toarray(), sp.coo_array((arrays[2], arrays[:2])).toarray())
    with h5py.File(tmp_path / "t.h5") as file:
        assert (file["X/data"].chunks, file["X/data"].compression) == ((2048,), "gzip")
    # 12 bytes a triplet are taken in, 8 are written.
    assert told == sorted(told)
    assert told[-1] == (70_000 * 20, None)


def failing(parts, problem):
    yield from parts
    raise problem


@pytest.mark.parametrize("problem", [RuntimeError("the source"), KeyboardInterrupt()])
def test_a_source_that_fails_leaves_nothing(tmp_path, problem):
    parts = [*in_parts(drawn(90_000, (50, 50), "f8"), 10_000)]
    with pytest.raises(type(problem)):
        diskcsr.from_triplets(tmp_path / "t.h5", failing(parts, problem), max_memory=least_memory())
    assert left(tmp_path) == []


def test_an_interrupt_comes_through_while_a_part_is_made(tmp_path):
    def parts():
        yield from in_parts(drawn(90_000, (50, 50), "f8"), 10_000)
        signal.raise_signal(signal.SIGINT)
        raise AssertionError("the interrupt was kept back")

    with pytest.raises(KeyboardInterrupt):
        diskcsr.from_triplets(tmp_path / "t.h5", parts(), max_memory=least_memory())
    assert left(tmp_path) == []


def test_a_full_disk(tmp_path, monkeypatch):
    def full(*args):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "pwrite", full)
    parts = in_parts(drawn(90_000, (50, 50), "f8"), 10_000)
    with pytest.raises(diskcsr.WriteError, match="max_memory could not be written") as caught:
        diskcsr.from_triplets(tmp_path / "t.h5", parts, max_memory=least_memory())
    assert (caught.value.errno, Path(caught.value.filename)) == (errno.ENOSPC, tmp_path)
    assert left(tmp_path) == []
