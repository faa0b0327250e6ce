"""Assignment to stored matrices: numpy's dense arrays say what it gives."""

import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
import realfiles
from conformance.stored import write_by_hand
from filtered import FILTERS, count_matrix, create
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse import coo_array, csc_array, csr_array, csr_matrix, dok_array, eye_array
from strategies import keys, matrices

import diskcsr
from diskcsr.errors import FormatError, ReadOnlyError, StaleFileError, StructureError
from diskcsr.storage.edit import update

DENSE = np.array([[0, 1, 0, 5], [0, 0, 2, 6], [0, 0, 0, 0], [3, 4, 0, 7.0], [8, 0, 9, 0]])
ROWS = np.array([0, 3, 3])
HALF = DENSE != 0
FORMATS = pytest.mark.parametrize("format", ["csr", "csc"])


def stored_arrays(path):
    with h5py.File(path, "r") as file:
        return {name: file["X"][name][:] for name in ("data", "indices", "indptr")}


def positions(matrix):
    """Which elements are stored, explicit zeros too."""
    ones = matrix.__class__((np.ones(matrix.nnz), matrix.indices, matrix.indptr), matrix.shape)
    return ones.toarray() != 0


def naive(matrix, key, value):
    """Assign to a dense copy; None where that would change what is stored."""
    dense = matrix.toarray()
    new = dense.copy()
    with np.errstate(all="ignore"):
        new[key] = value
    return None if np.any((new != 0) & ~positions(matrix)) else new


# Key and right side; each keeps the structure of DENSE.
KEPT = {
    "element": ((0, 1), 9),
    "element to zero": ((0, 1), 0),
    "zero where nothing is stored": ((2, 2), 0),
    "negative element": ((-1, -2), 2.5),
    "numpy integer": ((np.int16(3), np.uint8(0)), np.float32(1.5)),
    "row": (3, np.array([1, 0, 0, 2.0])),
    "row of a list": (0, [0, 2, 0, 3]),
    "rows": (slice(0, 2), 2 * DENSE[0:2]),
    "rows, step": (slice(None, None, 2), -DENSE[::2]),
    "rows backwards": (slice(None, None, -1), 3 * DENSE[::-1]),
    "rows backwards, step": (slice(3, None, -2), 3 * DENSE[3::-2]),
    "no rows": (slice(2, 2), 5),
    "repeated rows": (ROWS, np.array([1, 2, 3])[:, None] * DENSE[ROWS]),
    "repeated rows, list": ([3, 0, 3], np.array([1, 2, 3])[:, None] * DENSE[[3, 0, 3]]),
    "row mask": (np.array([True, False, False, True, False]), 4 * DENSE[[0, 3]]),
    "mask": (HALF, 7),
    "mask, values": (HALF, np.arange(9.0)),
    "sparse mask": (csr_array(HALF), np.arange(9.0)),
    "column": ((slice(None), 3), [1, 2, 0, 3, 0]),
    "columns": ((slice(None), [3, 0, 3]), DENSE[:, [3, 0, 3]] * [1, 2, 3]),
    "column slice": ((slice(1, None), slice(None, None, -2)), -DENSE[1:, ::-2]),
    "points": (([0, 4, 0], [1, 2, 1]), [5, 6, 7]),
    "np.ix_": (np.ix_([3, 0], [1, 3]), [[1, 2], [3, 4]]),
    "ellipsis": ((Ellipsis, [1]), DENSE[:, [1]] * 2),
    "only an ellipsis": (Ellipsis, DENSE * 2),
    "broadcast row": ((slice(3, 4), slice(None)), [1, 2, 0, 3]),
    "broadcast column": ((slice(0, 2), slice(3, 4)), [[1], [2]]),
    "zeros": (slice(None), 0),
    "nan": ((0, 1), np.nan),
    "boolean": ((0, 1), True),
}


@FORMATS
@pytest.mark.parametrize("layout", ["raw", "gzip"])
@pytest.mark.parametrize("name", KEPT)
def test_as_numpy(store, name, format, layout):
    key, value = KEPT[name]
    plain = csr_array(DENSE).asformat(format)
    A = store(plain, layout=layout, mode="r+")
    expected = DENSE.copy()
    expected[key.toarray() if name == "sparse mask" else key] = value
    A[key] = value
    np.testing.assert_array_equal(A.toarray(), expected)
    A.close()
    stored = stored_arrays(A.filename)
    np.testing.assert_array_equal(stored["indices"], plain.indices)
    np.testing.assert_array_equal(stored["indptr"], plain.indptr)
    with diskcsr.open(A.filename) as again:
        np.testing.assert_array_equal(again.toarray(), expected)


@FORMATS
@pytest.mark.parametrize("kind", ["csr", "csc", "coo", "lil", "dok", "dia", "bsr"])
def test_sparse_right_sides(store, format, kind):
    A = store(csr_array(DENSE).asformat(format), mode="r+")
    A[1:4] = csr_array(2 * DENSE[1:4]).asformat(kind)
    A[[4, 0]] = csr_matrix(3 * DENSE[[4, 0]]).asformat(kind)
    expected = DENSE * np.array([[3], [2], [2], [2], [3]])
    np.testing.assert_array_equal(A.toarray(), expected)


def test_more_sparse_right_sides(store):
    A = store(csr_array(DENSE), mode="r+")
    A[0] = coo_array(np.array([0, 8.0, 0, 9]))  # one dimension
    A[3] = csr_array([[1.0, 2, 0, 3]])
    A[4:5] = coo_array(([1.0, 2, 3], ([0, 0, 0], [0, 2, 2])), shape=(1, 4))  # duplicates add up
    A[:, 3] = dok_array(np.array([[1.0], [2], [0], [4], [0]]))
    expected = [[0, 8, 0, 1], [0, 0, 2, 2], [0, 0, 0, 0], [1, 2, 0, 4], [1, 0, 5, 0]]
    np.testing.assert_array_equal(A.toarray(), expected)
    A[[0, 3]] = csr_array([[0, 1.0, 0, 0]])  # repeated along the rows
    np.testing.assert_array_equal(A[[0, 3]].toarray(), [[0, 1, 0, 0], [0, 1, 0, 0]])
    with pytest.raises(ValueError, match=r"\(2, 3\)"):
        A[0:2] = csr_array((2, 3))
    with pytest.raises(ValueError, match=r"shape \(3,\)"):
        A[0:2] = np.ones(3)


@FORMATS
def test_what_is_on_disk_as_right_side(store, format):
    plain = csr_array(DENSE)
    A = store(plain.asformat(format), mode="r+")
    A[...] = store(csr_array(2 * DENSE))
    A[0:2] = 3 * A[0:2]
    A[:] = A  # the very array
    np.testing.assert_array_equal(A.toarray(), DENSE * np.array([[6], [6], [2], [2], [2]]))
    square = np.array([[1, 2.0], [3, 4]])
    B = store(csr_array(square).asformat(format), mode="r+")
    B[:] = B.T
    np.testing.assert_array_equal(B.toarray(), square.T)
    B.T[0, 1] = 9
    np.testing.assert_array_equal(B.toarray(), [[1, 3], [9, 4]])


@FORMATS
@pytest.mark.parametrize(
    ("key", "value", "first"),
    [
        ((0, 0), 1, (0, 0)),
        (slice(0, 2), 1, (0, 0)),
        ((slice(None), 0), [0, 0, 5, 1, 1], (2, 0)),
        ((slice(None), 1), [0, 0, 3, 1, 1], (2, 1)),
        (([0, 3, 2], [1, 0, 3]), [1, 2, 3], (2, 3)),
        ((2, 0), np.nan, (2, 0)),
        (slice(2, 3), csr_array(np.array([[0, 0, 0, 1.0]])), (2, 3)),
    ],
)
def test_refused(store, format, key, value, first):
    A = store(csr_array(DENSE).asformat(format))
    before = Path(A.filename).read_bytes()
    A.close()
    A = diskcsr.open(A.filename, mode="r+")
    with pytest.raises(StructureError) as refused:
        A[key] = value
    assert f"element {first} is not stored" in str(refused.value)
    assert A.filename in str(refused.value)
    assert isinstance(refused.value, ValueError)
    np.testing.assert_array_equal(A.toarray(), DENSE)
    A.close()
    assert Path(A.filename).read_bytes() == before


@pytest.mark.parametrize("kept", [1, 1 << 26])
@pytest.mark.parametrize("layout", ["raw", "gzip"])
def test_nothing_is_written_when_the_last_block_is_refused(store, layout, kept, monkeypatch):
    monkeypatch.setattr(update, "BLOCK_ELEMENTS", 8)
    monkeypatch.setattr(update, "_KEPT_CHANGES", kept)
    plain = count_matrix(60, 12, 0.4)
    A = store(plain, layout=layout)
    path = Path(A.filename)
    A.close()
    before = path.read_bytes()
    value = 2 * plain.toarray()
    last = np.argwhere(value == 0)[-1]
    value[tuple(last)] = 1
    with diskcsr.open(path, mode="r+") as A, pytest.raises(StructureError) as refused:
        A[:] = value
    assert f"element {tuple(last.tolist())} is not stored" in str(refused.value)
    assert path.read_bytes() == before
    value[tuple(last)] = 0
    with diskcsr.open(path, mode="r+") as A:
        A[:] = value
        A[::-3] = 3 * plain[::-3]
    value[::-3] *= 1.5
    with diskcsr.open(path) as A:
        np.testing.assert_array_equal(A.toarray(), value)


@FORMATS
def test_unsorted_and_duplicate_entries(store, format):
    build = {"csr": csr_array, "csc": csc_array}[format]
    data, indices = np.array([1.0, 2, 3, 4, 5]), np.array([2, 0, 2, 1, 0])
    plain = build((data, indices, [0, 3, 5, 5]), shape=(3, 3))
    A = store(plain.copy(), mode="r+")
    position = (0, 2) if format == "csr" else (2, 0)
    A[position] = 7
    assert A[position] == 7
    expected = plain.toarray()
    expected[position] = 7
    np.testing.assert_array_equal(A.toarray(), expected)
    np.testing.assert_array_equal(A.indices, indices)
    assert A.nnz == 5
    A[:] = 2 * expected
    np.testing.assert_array_equal(A.toarray(), 2 * expected)
    np.testing.assert_array_equal(A.sum(0), 2 * expected.sum(0))
    np.testing.assert_array_equal(abs(A).toarray(), 2 * expected)
    A.close()
    np.testing.assert_array_equal(stored_arrays(A.filename)["indices"], indices)


def test_types(store):
    A = store(csr_array(DENSE.astype(np.int16)), mode="r+")
    A[0, 1] = 2.9
    A[0, 3] = 70000
    assert A.dtype == np.int16
    assert (A[0, 1], A[0, 3]) == (2, np.array(70000).astype(np.int16))
    for wrong in (1j, np.array([1j]), csr_array(np.array([[1j]]))):
        with pytest.raises(TypeError, match="complex"):
            A[0:1, 1:2] = wrong
    for wrong in ("a", None, object(), [[1], [2, 3]]):
        with pytest.raises((TypeError, ValueError)):
            A[0, 1] = wrong
    B = store(csr_array(DENSE.astype(complex)), mode="r+")
    B[0, 1] = 1 + 2j
    assert B[0, 1] == 1 + 2j
    C = store(csr_array(DENSE > 0), mode="r+")
    C[0, 1] = 5
    assert C[0, 1] == np.True_
    for key in ((9, 0), (0, 9), "a", (0, 0, 0), None, (0, None)):
        with pytest.raises(IndexError):
            A[key] = 1


@given(st.data())
def test_random_assignments(tmp_path_factory, data):
    plain = data.draw(matrices(dtypes=[np.dtype(code) for code in "hdfF"], max_side=5))
    key = data.draw(keys(plain.shape))
    try:
        shape = plain.toarray()[getattr(key, "toarray", lambda: key)()].shape
    except (IndexError, AttributeError, ValueError):
        return
    try:
        plain[key]
    except IndexError:
        return  # numpy lets an empty mask of any length pass where there is nothing, scipy does not
    dense_key = key.toarray() if hasattr(key, "toarray") else key
    parts = dense_key if isinstance(dense_key, tuple) else (dense_key,)
    if any(part is None for part in parts) or any(hasattr(part, "toarray") for part in parts):
        return
    small = st.sampled_from((0, 0, 1, 2))
    value = data.draw(small)
    if data.draw(st.booleans()):
        # Mostly what is there, times something, so that the structure often allows it.
        value = plain.toarray()[dense_key] * np.asarray(data.draw(st.sampled_from((1, 2, 3))))
        assert value.shape == shape
    folder = tmp_path_factory.mktemp("random")
    path = folder / "m.h5"
    write_by_hand(path, plain, data.draw(st.sampled_from(("raw", "gzip"))))
    expected = naive(plain, dense_key, value)
    with diskcsr.open(path, "X", mode="r+") as A:
        if expected is None:
            with pytest.raises(StructureError):
                A[key] = value
            expected = plain.toarray()
        else:
            A[key] = value
        np.testing.assert_array_equal(A.toarray(), expected)
        np.testing.assert_array_equal(A.indices, plain.indices)
    shutil.rmtree(folder)


@pytest.mark.parametrize("filters", FILTERS)
def test_filters(tmp_path, filters):
    plain = count_matrix(dtype="i4")
    path = tmp_path / "m.h5"
    with h5py.File(path, "w") as file:
        group = file.create_group("X")
        group.attrs["h5sparse_format"] = "csr"
        group.attrs["h5sparse_shape"] = plain.shape
        for name in ("data", "indices", "indptr"):
            create(group, name, getattr(plain, name), steps=FILTERS[filters])
    with diskcsr.open(path, mode="r+") as A:
        A[5:40:3] = 2 * plain[5:40:3]
        A[[1, 59]] = 3 * plain[[1, 59]]
    expected = plain.toarray()
    expected[5:40:3] *= 2
    expected[[1, 59]] *= 3
    with diskcsr.open(path) as A:
        np.testing.assert_array_equal(A.toarray(), expected)
    with h5py.File(path, "r") as file:
        assert file["X/data"].id.get_create_plist().get_nfilters() == len(FILTERS[filters])
        np.testing.assert_array_equal(file["X/indices"][:], plain.indices)


@pytest.mark.parametrize("dtype", ["<f4", ">f4", ">i2", "<i8", "u1"])
@pytest.mark.parametrize("chunk", [0, 16])
def test_layouts(tmp_path, dtype, chunk):
    plain = count_matrix(dtype="i4")
    path = tmp_path / "m.h5"
    with h5py.File(path, "w") as file:
        group = file.create_group("X")
        group.attrs["h5sparse_format"] = "csr"
        group.attrs["h5sparse_shape"] = plain.shape
        create(group, "data", plain.data, dtype, chunk=chunk, growing=bool(chunk))
        create(group, "indices", plain.indices, ">i4", chunk=chunk, growing=bool(chunk))
        create(group, "indptr", plain.indptr, ">i8", chunk=chunk, growing=bool(chunk))
    with diskcsr.open(path, mode="r+") as A:
        A[::2] = 2 * A[::2]
    expected = plain.toarray()
    expected[::2] *= 2
    with diskcsr.open(path) as A:
        np.testing.assert_array_equal(A.toarray(), expected.astype(np.dtype(dtype)))
    with h5py.File(path, "r") as file:
        assert file["X/data"].dtype == np.dtype(dtype)


def test_values_that_a_filter_would_round(store):
    plain = csr_array(DENSE)
    A = store(plain, by="diskcsr", compression="scaleoffset", mode="r+")

    def append_half():
        A.append(iter([DENSE, DENSE / 2]))

    for change in (
        lambda: A.__setitem__((0, 1), 0.5),
        lambda: A.__setitem__((0, 1), np.nan),
        lambda: A.__imul__(0.3),
        lambda: A.__itruediv__(2),
    ):
        with pytest.raises(ValueError, match="would round"):
            change()
        np.testing.assert_array_equal(A.toarray(), DENSE)
    with pytest.raises(ValueError, match="would round"):
        append_half()
    A *= 2
    A[0, 1] = 7
    expected = 2 * np.vstack([DENSE, DENSE])
    expected[0, 1] = 7
    np.testing.assert_array_equal(A.toarray(), expected)


def _writable(group):
    return "iso" not in group.name


@pytest.mark.skipif(not realfiles.ROOT.is_dir(), reason="the sample files are not there")
@pytest.mark.parametrize("group", [g for g in realfiles.GROUPS if _writable(g)], ids=str)
def test_real_files(tmp_path, group):
    path = shutil.copy(group.path, tmp_path)
    plain = group.read()
    if not plain.nnz:
        pytest.skip("nothing is stored")
    before = plain.toarray()
    row = int(plain.tocoo().coords[0][0])
    with diskcsr.open(path, group.name, mode="r+") as A:
        A[row] = 0
        A[row] = before[row]
        A[[row, -1]] = A[[row, -1]]
        A[row] = before[row] * 0
    before[row] = 0
    with diskcsr.open(path, group.name) as A:
        np.testing.assert_array_equal(A.toarray(), before)
        assert A.nnz == plain.nnz
        np.testing.assert_array_equal(A.indices, plain.indices)


@pytest.mark.skipif(not realfiles.ROOT.is_dir(), reason="the sample files are not there")
def test_one_value_for_all_is_refused(tmp_path):
    group = next(g for g in realfiles.GROUPS if g.name == "/iso")
    path = shutil.copy(group.path, tmp_path)
    with diskcsr.open(path, group.name, mode="r+") as A:
        for change in (lambda: A.__setitem__(0, 0), lambda: A.__imul__(2)):
            with pytest.raises(diskcsr.FormatError, match="one value stands for all"):
                change()
    np.testing.assert_array_equal(group.read().toarray(), diskcsr.open(path, "/iso").toarray())


def test_scaling_and_diagonals(store):
    plain = csr_array(np.array([[1, 2.0], [3, 4]]))
    A = store(plain, layout="gzip", mode="r+")
    B = A
    A *= 2
    A /= 4
    assert A is B
    A.setdiag([7, 8])
    A.setdiag(9, k=-1)
    A.setdiag([5, 6, 7], k=1)
    np.testing.assert_array_equal(A.toarray(), [[7, 5], [9, 8]])
    with pytest.raises(ValueError, match="exceeds"):
        A.setdiag(1, k=5)
    with pytest.raises(ReadOnlyError, match="resize"):
        A.resize((1, 1))
    A.close()
    with diskcsr.open(A.filename) as again:
        np.testing.assert_array_equal(again.toarray(), [[7, 5], [9, 8]])
    integers = store(csr_array(np.array([[1, 2], [3, 4]])), mode="r+")
    with pytest.raises(TypeError):
        integers /= 2
    np.testing.assert_array_equal(integers.toarray(), [[1, 2], [3, 4]])
    with pytest.raises(StructureError):
        store(csr_array(DENSE), mode="r+").setdiag(1)


def test_other_modes(store):
    A = store(csr_array(DENSE))
    with pytest.raises(ReadOnlyError):
        A[0, 1] = 9
    B = A
    B *= 2
    assert B is not A
    assert isinstance(B, csr_array)
    C = store(csr_array(DENSE), mode="c")
    C[0, 1] = 9
    assert C[0, 1] == 9
    for array in (A, C):
        with diskcsr.open(array.filename) as again:
            np.testing.assert_array_equal(again.toarray(), DENSE)


# ------------------------------------------------------------------------ views on what changes


def test_views_follow(tmp_path):
    path = tmp_path / "m.h5"
    with diskcsr.File(path, "w") as f:
        f["X"] = csr_array(DENSE)
        A, B = f["X"], f["X"]
        T, other = A.T, diskcsr.open(h5py.File.__getitem__(f, "X"), mode="r+")
        views = (A, B, other)
        for array in (*views, T):
            assert not array.data.flags.writeable
            assert array.has_canonical_format
        handed_out = A.data
        A[0, 1] = 9
        assert handed_out[0] == 1
        for array in views:
            assert array.data[0] == 9
            assert array[0, 1] == 9
        assert T.data[0] == 9
        assert T[1, 0] == 9
        T[1, 0] = 10
        assert A.data[0] == 10
        B.append(csr_array((np.ones(2), [1, 1], [0, 2]), shape=(1, 4)))
        for array in views:
            assert array.shape == (6, 4)
            assert not array.has_canonical_format
            assert array.data.size == array.nnz == 11
            assert array[5, 1] == 2
            assert array.sum() == A.toarray().sum()
        assert T.shape == (4, 6)
        assert T.toarray()[1, 5] == 2
        with pytest.raises(ValueError, match="read-only"):
            A.data[0] = 1


def test_copies_by_pickle(store):
    A = store(csr_array(DENSE), mode="r+")
    assert A.has_canonical_format
    first = pickle.dumps(A)
    copy = pickle.loads(first)
    assert copy.mode == "r"
    assert copy.__dict__["_has_canonical_format"]
    np.testing.assert_array_equal(copy.toarray(), DENSE)
    copy.close()
    A.append(csr_array((np.ones(2), [1, 1], [0, 2]), shape=(1, 4)))
    with pytest.raises(StaleFileError, match=r"\(5, 4\)"):
        pickle.loads(first)
    second = pickle.dumps(A.T)
    A[0, 1] = 9
    A.close()
    copy = pickle.loads(second)
    assert copy.shape == (4, 6)
    assert not copy.has_canonical_format
    assert copy[1, 0] == 9
    copy.close()


def test_replaced_and_deleted(tmp_path):
    with diskcsr.File(tmp_path / "m.h5", "w") as f:
        f["X"] = csr_array(DENSE)
        A = f["X"]
        f["X"] = csc_array(2 * DENSE)
        for change in (A.refresh, lambda: A.__setitem__((0, 1), 9), lambda: A.append(DENSE)):
            with pytest.raises(StaleFileError, match="no longer there"):
                change()
        np.testing.assert_array_equal(f["X"].toarray(), 2 * DENSE)
        B = f["X"]
        f.move("X", "Y")
        B[0, 1] = 9
        assert f["Y"][0, 1] == 9


WRITE = """
import sys, numpy as np, diskcsr
with diskcsr.open(sys.argv[1], mode="r+") as A:
    A[0, 1] = 9
    A.append(np.ones((2, 4)))
"""


def in_another_process(program, *arguments):
    subprocess.run([sys.executable, "-c", program, *map(str, arguments)], check=True)


@pytest.mark.parametrize("compression", [None, "gzip", "lzf"])
def test_refresh_a_reader(tmp_path, compression):
    path = tmp_path / "m.h5"
    diskcsr.write(path, csr_array(DENSE), compression=compression).close()
    expected = np.vstack([DENSE, np.ones((2, 4))])
    expected[0, 1] = 9
    with (
        diskcsr.open(path) as A,
        diskcsr.open(path) as B,
        h5py.File(path, "r") as file,
        diskcsr.open(file, "X") as C,
    ):
        T = A.T
        for array in (A, B, C, T):
            array[1]
            assert array.data[0] == 1 or compression
        in_another_process(WRITE, path)
        for array in (A, B, C):
            array.release()
            with pytest.raises(StaleFileError):
                array.toarray()
        for array in (A, B, C):
            array.refresh()
            np.testing.assert_array_equal(array.toarray(), expected)
            assert array.nnz == 17
        np.testing.assert_array_equal(T.toarray(), expected.T)


def test_refresh_again_and_again(tmp_path):
    path = tmp_path / "m.h5"
    diskcsr.write(path, csr_array(DENSE)).close()
    with diskcsr.open(path) as A, diskcsr.open(path) as B, diskcsr.open(path) as C:
        for rows in (7, 9, 11):
            in_another_process(WRITE, path)
            for array in (A, B, C):
                with pytest.raises(StaleFileError):
                    array[0]
                array.refresh()
                assert array.shape == array.toarray().shape == (rows, 4)
                assert array.filename == str(path)
                assert pickle.loads(pickle.dumps(array)).shape == (rows, 4)
        dropped = diskcsr.open(path)
        dropped.refresh()
        del dropped


def test_refresh_when_the_matrix_is_another(tmp_path):
    path = tmp_path / "m.h5"
    diskcsr.write(path, csr_array(DENSE)).close()
    with diskcsr.open(path, "X") as A:
        diskcsr.write(path, csc_array(DENSE), "X", overwrite=True).close()
        with pytest.raises(StaleFileError, match="is a csc one now"):
            A.refresh()
    with diskcsr.open(path, "X") as A:
        with diskcsr.File(path, "r+") as f:
            del f["X"]
        with pytest.raises(StaleFileError, match="no longer there"):
            A.refresh()


def test_what_h5py_wrote_is_seen_after_refresh(tmp_path):
    path = tmp_path / "m.h5"
    diskcsr.write(path, csr_array(DENSE)).close()
    with h5py.File(path, "r+") as file, diskcsr.open(file, "X", mode="r+") as A:
        assert A.data[0] == 1
        file["X/data"][0] = 42
        A.refresh()
        assert A.data[0] == A[0, 1] == 42
    assert A.closed


def test_identity_keeps_explicit_zeros(store):
    A = store(eye_array(4, format="csr"), mode="r+")
    A[:] = 0 * A[:]
    assert A.nnz == 4
    A[2, 2] = 5
    np.testing.assert_array_equal(A.toarray(), np.diag([0, 0, 5.0, 0]))


@pytest.mark.parametrize("twin", ["indices", "indptr"])
def test_an_array_that_is_another_one_as_well_is_not_written_to(tmp_path, twin):
    path = tmp_path / "m.h5"
    with h5py.File(path, "w") as file:
        group = file.create_group("X")
        group.attrs["h5sparse_format"], group.attrs["h5sparse_shape"] = "csr", (2, 2)
        group["indices"], group["indptr"] = np.array([0, 1]), np.array([0, 1, 2])
        group["data"] = group[twin]  # a hard link
    before = path.read_bytes()
    with diskcsr.open(path, mode="r+") as A:
        for change in (
            lambda A: A.__setitem__((0, 0), 3),
            lambda A: A.__imul__(2),
            lambda A: A.append(csr_array(np.eye(2))),
        ):
            with pytest.raises(FormatError, match=f"'data' .* one dataset with '{twin}'"):
                change(A)
    assert path.read_bytes() == before
