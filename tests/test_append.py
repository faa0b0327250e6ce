"""Append to stored matrices: scipy's vstack and hstack say what it gives."""

import importlib
import os
import shutil

import h5py
import numpy as np
import pytest
import realfiles
from filtered import FILTERS, count_matrix, create
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse import coo_array, csc_array, csr_array, csr_matrix, hstack, random_array, vstack
from strategies import matrices

import diskcsr
from diskcsr.errors import FormatError, ReadOnlyError
from diskcsr.storage.edit import update

FORMATS = pytest.mark.parametrize("format", ["csr", "csc"])
DENSE = np.array([[0, 1, 0], [0, 0, 2], [0, 0, 0], [3, 4, 0.0]])
ARRAYS = ("data", "indices", "indptr")


def stored(path, name="X"):
    """Read a matrix with h5py and scipy alone, and check that all that is said of it agrees."""
    with h5py.File(path, "r") as file:
        group = file[name]
        said = {str(group.attrs[key]) for key in ("h5sparse_format",) if key in group.attrs}
        said |= {group.attrs[key][:3] for key in ("encoding-type",) if key in group.attrs}
        shapes = {
            tuple(group.attrs[key]) for key in ("h5sparse_shape", "shape") if key in group.attrs
        }
        assert len(said) == len(shapes) == 1
        data, indices, indptr = (group[name][:] for name in ARRAYS)
        assert data.size == indices.size == indptr[-1]
        build = {"csr": csr_array, "csc": csc_array}[said.pop()]
        matrix = build((data, indices, indptr.astype(np.int64)), shape=shapes.pop())
        matrix.check_format(full_check=True)
        return matrix


def joined(format, parts):
    return (vstack if format == "csr" else hstack)(parts, format=format)


def check(path, expected):
    """Compare what diskcsr, and h5py with scipy, read from a file."""
    plain = stored(path)
    with diskcsr.open(path, "X") as A:
        for found in (A, plain):
            assert found.format == expected.format
            assert found.shape == expected.shape
            assert found.nnz == expected.nnz
            np.testing.assert_array_equal(found.toarray(), expected.toarray())


@pytest.fixture
def rewritten(monkeypatch):
    """The names of the datasets that were written anew."""
    names = []
    rewrite = update._rewrite

    def counting(group, name, *args):
        names.append(name)
        return rewrite(group, name, *args)

    monkeypatch.setattr(update, "_rewrite", counting)
    return names


@FORMATS
@pytest.mark.parametrize("kind", ["csr", "csc", "coo", "lil", "dok", "dia", "bsr", "dense", "list"])
def test_what_can_be_appended(store, format, kind):
    plain = csr_array(DENSE).asformat(format)
    A = store(plain, by="diskcsr", mode="r+", compression="gzip")
    more = 2 * plain[:2] if format == "csr" else 2 * plain[:, :2]
    given = {"dense": more.toarray, "list": more.toarray().tolist}.get(
        kind, lambda: more.asformat(kind)
    )()
    A.append(given)
    expected = joined(format, [plain, more])
    assert (A.shape, A.nnz) == (expected.shape, expected.nnz)
    np.testing.assert_array_equal(A.toarray(), expected.toarray())
    np.testing.assert_array_equal(A.T.toarray(), expected.toarray().T)
    A.close()
    check(A.filename, expected)


@FORMATS
def test_one_dimension_and_blocks(store, format):
    plain = csr_array(DENSE).asformat(format)
    A = store(plain, by="diskcsr", mode="r+")
    row = np.arange(A.shape[A._axis.minor], dtype=float)
    A.append(row)
    A.append(row.tolist())
    A.append(coo_array(row))
    A.append(iter([]))
    A.append(row for _ in range(3))
    column = row.reshape(A._axis.swap((1, -1)))
    A.append(iter([csr_array(column), csc_array(column), column, csr_matrix(column)]))
    expected = joined(format, [plain, *[csr_array(column)] * 10])
    A.close()
    check(A.filename, expected)


@FORMATS
@pytest.mark.parametrize("other", ["csr", "csc"])
def test_what_is_on_disk(store, format, other, monkeypatch):
    monkeypatch.setattr("diskcsr.writing.matrices.BLOCK_BYTES", 64)
    monkeypatch.setattr(update, "_COMMITTED", 10)
    plain = csr_array(count_matrix(20, 20).astype(float)).asformat(format)
    A = store(plain, by="diskcsr", mode="r+")
    A.append(store(plain.asformat(other)))
    A.append(A)
    square = A.shape[A._axis.major]
    assert square == 80
    np.testing.assert_array_equal(A.toarray(), joined(format, [plain] * 4).toarray())
    B = store(plain, by="diskcsr", mode="r+")
    B.append(B.T)
    A.close()
    B.close()
    check(A.filename, joined(format, [plain] * 4))
    check(B.filename, joined(format, [plain, plain.T]))


@FORMATS
def test_other_lengths(store, format):
    plain = csr_array(DENSE).asformat(format)
    A = store(plain, by="diskcsr", mode="r+")
    n = A.shape[A._axis.minor]
    long, short = np.ones((1, n + 2)), np.ones((2, n - 1))
    if format == "csc":
        long, short = long.T, short.T
    before = A.shape
    for wrong in (long, short):
        with pytest.raises(ValueError, match=rf"{n + 2}|{n - 1}") as refused:
            A.append(wrong)
        assert "grow=True" in str(refused.value)
        assert A.shape == before
    A.append(iter([short, long, short]), grow=True)
    blocks = [plain, csr_array(short), csr_array(long), csr_array(short)]
    for block in blocks:
        block.resize(A._axis.swap((block.shape[A._axis.major], n + 2)))
    A.close()
    check(A.filename, joined(format, blocks))


@pytest.mark.parametrize("index", ["u1", "i1", "i2", ">u2", "<i4"])
def test_indices_are_widened(tmp_path, index):
    plain = count_matrix(9, 100)
    path = by_hand(tmp_path, plain, indices=index)
    wide = csr_array((np.ones(3, "f4"), [5, 300, 70000], [0, 2, 3]), shape=(2, 70001))
    with diskcsr.open(path, mode="r+") as A:
        A.append(wide, grow=True)
    first = plain.copy()
    first.resize((9, 70001))
    check(path, vstack([first, wide], format="csr"))


def by_hand(tmp_path, plain, *, indices="<i4", indptr="<i8", steps=(), chunk=16, growing=True):
    """Store a csr matrix with stated types, filters and chunks."""
    path = tmp_path / "m.h5"
    with h5py.File(path, "w") as file:
        group = file.create_group("X")
        group.attrs["h5sparse_format"] = "csr"
        group.attrs["h5sparse_shape"] = plain.shape
        more = dict(chunk=chunk, steps=steps, growing=growing)
        create(group, "data", plain.data, **more)
        create(group, "indices", plain.indices, indices, **more)
        create(group, "indptr", plain.indptr, indptr, **more)
    return path


@pytest.mark.parametrize("pointer", ["u1", "<u2", ">i2", "<i4"])
def test_row_pointers_are_widened(tmp_path, pointer):
    plain = count_matrix(20, 30)
    assert plain.nnz < 255
    path = by_hand(tmp_path, plain, indptr=pointer)
    more = random_array((100, 30), density=0.9, format="csr", dtype="f4", rng=1)
    with diskcsr.open(path, mode="r+") as A:
        A.append(more)
        for _ in range(29):
            A.append(more)
    check(path, vstack([plain, *[more] * 30], format="csr"))
    with h5py.File(path, "r") as file:
        expected = np.dtype("<i4")
        assert file["X/indptr"].dtype == expected


def test_beyond_int32(tmp_path):
    largest = np.iinfo(np.int32).max
    with h5py.File(tmp_path / "m.h5", "w") as file:
        file["p"] = np.array([0, 5], np.int32)
        update._extend(file, "p", 2, [np.array([largest + 1])], largest + 1)
        assert file["p"].dtype == np.int64
        assert file["p"][:].tolist() == [0, 5, largest + 1]


def test_types(store):
    whole = store(csr_array(DENSE.astype(np.int16)), mode="r+")
    whole.append(np.ones((1, 3), np.int64))
    whole.append(np.ones((1, 3), bool))
    with pytest.raises(TypeError, match=r"float64.*int16.*same_kind"):
        whole.append(np.ones((1, 3)))
    assert whole.shape == (6, 3)
    assert whole.dtype == np.int16
    single = store(csr_array(DENSE.astype(np.float32)), mode="r+")
    single.append(np.ones((1, 3)))
    with pytest.raises(TypeError, match="complex"):
        single.append(np.ones((1, 3), complex))
    for wrong in ("abc", np.ones((1, 1, 3)), np.array([["a", "b", "c"]]), 5, None):
        with pytest.raises((TypeError, ValueError)):
            single.append(wrong)
    assert single.shape == (5, 3)
    for mode in ("r", "c"):
        with pytest.raises(ReadOnlyError, match="r\\+"):
            store(csr_array(DENSE), mode=mode).append(DENSE)


@pytest.mark.parametrize(("chunk", "growing"), [(0, False), (16, False), (16, True)])
def test_fixed_and_contiguous(tmp_path, chunk, growing):
    plain = count_matrix(20, 30)
    path = by_hand(tmp_path, plain, chunk=chunk, growing=growing)
    with diskcsr.open(path, mode="r+") as A:
        A.append(plain[:3])
        A.append(plain[3:])
    check(path, vstack([plain, plain], format="csr"))
    with h5py.File(path, "r") as file:
        for name in ARRAYS:
            assert file["X"][name].maxshape == (None,)


def test_slack_is_overwritten(tmp_path):
    plain = count_matrix(20, 30)
    path = by_hand(tmp_path, plain)
    with h5py.File(path, "r+") as file:
        for name in ("data", "indices"):
            file["X"][name].resize((plain.nnz + 50,))
            file["X"][name][plain.nnz :] = 99
    with diskcsr.open(path, mode="r+") as A:
        A.append(plain[:4])
    check(path, vstack([plain, plain[:4]], format="csr"))


@pytest.mark.parametrize("filters", FILTERS)
def test_filters_are_kept(tmp_path, filters):
    plain = count_matrix(60, 40, dtype="i4")
    path = by_hand(tmp_path, plain, steps=FILTERS[filters])

    def pipelines():
        with h5py.File(path, "r") as file:
            plists = [file["X"][name].id.get_create_plist() for name in ARRAYS]
            return [[p.get_filter(i)[0] for i in range(p.get_nfilters())] for p in plists]

    before = pipelines()
    parts = [plain[:7], plain[7:8], plain, *[plain] * 20]
    with diskcsr.open(path, mode="r+") as A:
        for part in parts:
            A.append(part)
    check(path, vstack([plain, *parts], format="csr"))
    assert pipelines() == before
    with h5py.File(path, "r") as file:
        assert file["X/data"].chunks[0] > 1000


@pytest.mark.parametrize("compression", [None, "gzip"])
def test_small_appends_leave_what_one_write_does(tmp_path, compression, rewritten):
    plain = random_array((2000, 300), density=0.05, format="csr", rng=0, dtype="f4")
    whole, grown = tmp_path / "whole.h5", tmp_path / "grown.h5"
    diskcsr.write(whole, plain, compression=compression).close()
    diskcsr.write(grown, plain[:4], compression=compression).close()
    with diskcsr.open(grown, mode="r+") as A:
        for first in range(4, 2000, 4):
            A.append(plain[first : first + 4])
    check(grown, plain)
    assert 0 < len(rewritten) <= 3 * 3
    with h5py.File(whole, "r") as one, h5py.File(grown, "r") as two:
        for name in ARRAYS:
            a, b = one["X"][name], two["X"][name]
            assert a.chunks[0] / 4 <= b.chunks[0] <= 4 * a.chunks[0]
            assert (a.compression, a.shuffle, a.dtype) == (b.compression, b.shuffle, b.dtype)
        # The last chunk grew, and was moved, with every append: a place it left may be empty.
        left = sum(max(two["X"][name].chunks[0] * 4, 0) for name in ("data", "indices"))
    left = left if compression else 0
    assert os.path.getsize(grown) <= 1.1 * os.path.getsize(whole) + (64 << 10) + left // 2


def test_many_blocks_are_few_transactions(store, monkeypatch):
    count = []
    transaction = update.transaction
    monkeypatch.setattr(update, "transaction", lambda group: count.append(1) or transaction(group))
    A = store(csr_array(DENSE), by="diskcsr", mode="r+")
    A.append(DENSE for _ in range(1000))
    assert A.shape == (4004, 3)
    assert len(count) == 1


def test_blocks_before_a_bad_one_stay(store):
    A = store(csr_array(DENSE), by="diskcsr", mode="r+")

    def blocks(bad):
        yield DENSE
        yield 2 * DENSE
        if isinstance(bad, Exception):
            raise bad
        yield bad
        yield DENSE

    outside = csr_array((3, 3))
    outside.indices, outside.data = np.array([7], np.int32), np.ones(1)
    outside.indptr = np.array([0, 1, 1, 1], np.int32)
    for bad in (np.ones((1, 5)), np.ones((1, 3), complex), OSError("no more"), outside):
        shape = A.shape
        with pytest.raises((TypeError, ValueError, OSError)):
            A.append(blocks(bad))
        assert A.shape == (shape[0] + 8, 3)
    A.close()
    check(A.filename, vstack([csr_array(DENSE), *[csr_array(DENSE), csr_array(2 * DENSE)] * 4]))


@FORMATS
def test_nothing_and_next_to_nothing(tmp_path, format):
    path = tmp_path / "m.h5"
    build = {"csr": csr_array, "csc": csc_array}[format]
    empty = build((0, 3) if format == "csr" else (3, 0), dtype="f4")
    diskcsr.write(path, empty).close()
    with diskcsr.open(path, mode="r+") as A:
        A.append(empty)
        A.append(iter([empty, empty]))
        assert A.shape == empty.shape
        zeros = build((2, 3) if format == "csr" else (3, 2), dtype="f4")
        A.append(zeros)
        A.append(np.ones(3, "f4"))
        A.append(zeros)
        assert A.nnz == 3
    ones = build(np.ones((1, 3) if format == "csr" else (3, 1), "f4"))
    check(path, joined(format, [zeros, ones, zeros]))


def test_unsorted_and_duplicates(store):
    A = store(csr_array(DENSE), mode="r+")
    assert A.has_canonical_format
    more = csr_array((np.array([1.0, 2, 3]), np.array([2, 0, 2]), np.array([0, 3])), shape=(1, 3))
    A.append(more)
    np.testing.assert_array_equal(more.indices, [2, 0, 2])  # it is not ours to sort
    assert A.nnz == 7
    np.testing.assert_array_equal(A.indices[-3:], [0, 2, 2])
    assert A[4, 2] == 4
    np.testing.assert_array_equal(A.max(0).toarray(), [3, 4, 4])


@given(st.data())
def test_random_appends(tmp_path_factory, data):
    first = data.draw(matrices(max_side=4, dtypes=[np.dtype("d")]))
    format = first.format
    folder = tmp_path_factory.mktemp("append")
    path = folder / "m.h5"
    diskcsr.write(path, first, compression=data.draw(st.sampled_from((None, "gzip"))), chunks=3)
    parts = [first]
    with diskcsr.open(path, mode="r+") as A:
        for _ in range(data.draw(st.integers(0, 3))):
            part = data.draw(matrices(max_side=4, dtypes=[np.dtype(c) for c in "dfhb"]))
            part = part.asformat(format)
            A.append(part, grow=True)
            parts.append(part)
    swap = (lambda pair: pair) if format == "csr" else (lambda pair: pair[::-1])
    n_minor = max(swap(part.shape)[1] for part in parts)
    for part in parts:
        part.resize(swap((swap(part.shape)[0], n_minor)))
    check(path, joined(format, parts))
    shutil.rmtree(folder)


# -------------------------------------------------------------------------- others' conventions


@FORMATS
def test_anndata_reads_and_appends_in_turn(tmp_path, format):
    pytest.importorskip("anndata")
    anndata_io = importlib.import_module("anndata.io")
    path = tmp_path / "m.h5"
    plain = csr_array(DENSE).asformat(format)
    diskcsr.write(path, plain).close()
    with h5py.File(path, "r+") as file:  # leaves tags of both kinds, and one of the shapes
        anndata_io.sparse_dataset(file["X"]).append(plain)
    with diskcsr.open(path, mode="r+") as A:
        np.testing.assert_array_equal(A.toarray(), joined(format, [plain] * 2).toarray())
        A.append(2 * plain)
        A.append(3 * plain)
    expected = joined(format, [plain, plain, 2 * plain, 3 * plain])
    check(path, expected)
    with h5py.File(path, "r+") as file:
        theirs = anndata_io.sparse_dataset(file["X"])
        assert theirs.shape == expected.shape
        np.testing.assert_array_equal(theirs[:].toarray(), expected.toarray())


@pytest.mark.skipif(not realfiles.ROOT.is_dir(), reason="the sample files are not there")
@pytest.mark.parametrize("group", realfiles.GROUPS, ids=str)
def test_real_files(tmp_path, group):
    path = shutil.copy(group.path, tmp_path)
    plain = group.read()
    with diskcsr.open(path, group.name, mode="r+") as A:
        if group.convention not in ("h5sparse", "anndata"):
            with pytest.raises(FormatError, match="cannot"):
                A.append(plain)
            assert A.shape == group.shape
            return
        A.append(plain)
        A.append(A)
    expected = joined(group.format, [plain] * 4)
    with diskcsr.open(path, group.name) as A:
        assert A.shape == expected.shape
        assert A.nnz == expected.nnz
        np.testing.assert_array_equal(A.toarray(), expected.toarray())
    with h5py.File(path, "r") as file:
        assert ("h5sparse_format" in file[group.name].attrs) == (group.convention == "h5sparse")


def test_a_part_of_a_matrix_cannot_be_appended_to(tmp_path):
    path = tmp_path / "m.h5"
    diskcsr.write(path, csr_array(DENSE)).close()
    with (
        diskcsr.open(path, mode="r+", shape=(2, 3)) as A,
        pytest.raises(FormatError, match="shape= was given"),
    ):
        A.append(DENSE)
