"""DiskCSR and DiskCSC beyond indexing: what a scipy.sparse array has, the file, memory, changes."""

import copy
import hashlib
import inspect
import io
import pickle
import subprocess
import sys
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import h5py
import numpy as np
import pytest
import scipy.sparse as sp
from conformance.stored import write_by_hand
from numpy.testing import assert_array_equal

import diskcsr

LAYOUTS = ("raw", "gzip")
FORMATS = ("csr", "csc")
CLASSES = {"csr": diskcsr.DiskCSR, "csc": diskcsr.DiskCSC}
MATRICES = {"csr": diskcsr.DiskCSRMatrix, "csc": diskcsr.DiskCSCMatrix}
PARTS = ("data", "indices", "indptr")

both_formats = pytest.mark.parametrize("format", FORMATS)
both_layouts = pytest.mark.parametrize("layout", LAYOUTS)


def digest(path):
    """A hash of all bytes of a file."""
    return hashlib.blake2b(Path(path).read_bytes()).hexdigest()


def plain_matrix(format="csr", shape=(30, 20), dtype=np.float64, seed=0, density=0.2):
    """A canonical in-memory array of small integers."""
    rng = np.random.default_rng(seed)
    dense = rng.integers(1, 9, size=shape) * (rng.random(shape) < density)
    return sp.csr_array(dense.astype(dtype)).asformat(format)


def disorderly(format="csr"):
    """Unsorted indices, duplicates, a row without entries, an explicit zero."""
    arrays = (
        np.array([1.0, 2, 3, 4, 0, 6, 7]),
        np.array([3, 0, 3, 1, 2, 0, 0]),
        np.array([0, 3, 3, 5, 7]),
    )
    build = {"csr": sp.csr_array, "csc": sp.csc_array}[format]
    return build(arrays, shape=(4, 4))


def same(result, expected):
    """Assert that two sparse results are the same in type, dtype, shape, and all three arrays."""
    assert type(result) is type(expected)
    assert result.dtype == expected.dtype
    assert result.shape == expected.shape
    for part in PARTS:
        assert_array_equal(getattr(result, part), getattr(expected, part))


@pytest.fixture
def path(tmp_path):
    """A raw CSR file, checked not to have changed when the test is over."""
    path = tmp_path / "m.h5"
    write_by_hand(path, plain_matrix(), "raw")
    before = digest(path)
    yield path
    assert digest(path) == before


# ------------------------------------------------------------------------------------- what it is


@both_formats
@both_layouts
def test_it_is_a_scipy_array(store, format, layout):
    plain = plain_matrix(format)
    A = store(plain, layout=layout)
    assert type(A) is CLASSES[format]
    assert isinstance(A, type(plain))
    assert isinstance(A, sp.sparray)
    assert sp.issparse(A)
    assert not sp.isspmatrix(A)
    assert (A.shape, A.ndim, A.format, A.nnz) == ((30, 20), 2, format, plain.nnz)
    assert A.dtype == plain.dtype
    assert type(A.nnz) is int
    assert repr(A) == repr(plain)
    assert str(A) == str(plain)
    assert A.size == plain.size
    with pytest.raises(TypeError, match="ambiguous"):
        len(A)
    assert bool(A[:1, :1] is not None)


@both_formats
def test_everything_a_scipy_array_has_is_there(store, format):
    plain = plain_matrix(format)
    A = store(plain)
    missing = [n for n in dir(plain) if not n.startswith("_") and not hasattr(A, n)]
    assert missing == []


@pytest.mark.parametrize("method", ["toarray", "astype", "transpose", "copy", "tocsr", "tocsc"])
def test_overridden_methods_take_scipys_arguments(method):
    ours = inspect.signature(getattr(diskcsr.DiskCSR, method)).parameters
    theirs = inspect.signature(getattr(sp.csr_array, method)).parameters
    assert list(ours) == list(theirs)
    for name, parameter in theirs.items():
        assert ours[name].default == parameter.default, name


@both_formats
def test_attributes_of_the_file(store, format):
    A = store(plain_matrix(format))
    assert (A.name, A.mode, A.closed) == ("/X", "r", False)
    assert h5py.is_hdf5(A.filename)
    assert set(A.reader) == set(PARTS)
    assert "direct" in repr(A.reader)


@both_formats
def test_str_prints_as_many_entries_as_scipy(store, format):
    plain = plain_matrix(format, shape=(60, 60))
    assert str(store(plain)) == str(plain)


@pytest.mark.parametrize("dtype", [*"?bBhHiIqQfdgFDG", "<f2", ">f8"])
def test_every_dtype(tmp_path, dtype):
    dense = np.array([[0, 1, 0], [3, 0, 5]]).astype(dtype)
    path = tmp_path / "m.h5"
    with h5py.File(path, "w") as file:
        group = file.create_group("X")
        group.attrs["h5sparse_format"] = "csr"
        group.attrs["h5sparse_shape"] = (2, 3)
        group["data"] = dense[dense != 0]
        group["indices"] = [1, 0, 2]
        group["indptr"] = [0, 1, 3]
    expected = np.dtype("f4") if dtype == "<f2" else np.dtype(dtype).newbyteorder("=")
    with diskcsr.open(path) as A:
        assert A.dtype == expected
        for result in (A.toarray(), A[:].toarray(), A[[1, 0]][[1, 0]].toarray()):
            assert result.dtype == expected
            assert_array_equal(result, dense)
        assert type(A[1, 0]) is np.dtype(expected.str).type
        assert A.data.dtype == expected
        assert type(A.data) is np.ndarray
        assert_array_equal(A.toarray(), dense)


# ------------------------------------------------------------------------ constructors, open, close


def test_constructor_opens_files(path):
    with diskcsr.DiskCSR(path, "X") as A, diskcsr.DiskCSR(str(path)) as B:
        assert type(A) is type(B) is diskcsr.DiskCSR
        same(A.to_memory(), plain_matrix())
    with h5py.File(path, "r") as file:
        same(diskcsr.DiskCSR(file["X"]).to_memory(), plain_matrix())
        same(diskcsr.DiskCSR(file, "X", mode="c").to_memory(), plain_matrix())


@pytest.mark.parametrize("flavour", ["array", "matrix"])
@both_formats
def test_constructor_with_arrays_gives_scipys_class(format, flavour):
    plain = plain_matrix(format)
    cls, theirs = CLASSES[format], type(plain)
    if flavour == "matrix":
        cls = MATRICES[format]
        theirs = {"csr": sp.csr_matrix, "csc": sp.csc_matrix}[format]
    arrays = plain.data, plain.indices, plain.indptr
    same(cls(arrays, shape=plain.shape), theirs(arrays, shape=plain.shape))
    same(cls(arrays, plain.shape), theirs(arrays, plain.shape))
    same(cls(arrays, plain.shape, np.float32), theirs(arrays, plain.shape, np.float32))
    same(cls(plain), theirs(plain))
    same(cls(plain, None, np.float32), theirs(plain, None, np.float32))
    same(cls(plain, dtype=np.int8, copy=True), theirs(plain, dtype=np.int8, copy=True))
    same(cls((3, 4)), theirs((3, 4)))
    same(cls(np.eye(3)), theirs(np.eye(3)))
    same(cls([[1, 0], [0, 2]]), theirs([[1, 0], [0, 2]]))


def test_the_other_orientation_is_refused_by_name(tmp_path):
    write_by_hand(tmp_path / "m.h5", plain_matrix("csc"), "raw")
    with pytest.raises(diskcsr.FormatError, match=r"m\.h5.*csc.*not a csr.*diskcsr\.open"):
        diskcsr.DiskCSR(tmp_path / "m.h5")
    assert isinstance(diskcsr.open(tmp_path / "m.h5"), diskcsr.DiskCSC)


@pytest.mark.parametrize("mode", ["w", "a", "", None])
def test_other_modes_are_refused(path, mode):
    for opener in (diskcsr.open, diskcsr.DiskCSR):
        with pytest.raises(ValueError, match="mode must be one of 'r', 'r\\+', 'c'"):
            opener(path, mode=mode)


def test_close(path):
    A = diskcsr.open(path)
    B = A.T
    data = A.data
    A.close()
    A.close()
    assert A.closed
    assert B.closed
    assert_array_equal(data, plain_matrix().data)  # what was handed out stays
    assert A.shape == (30, 20)
    for use in (lambda: A[0], lambda: B.toarray(), lambda: A.indices, lambda: A.to_memory()):
        with pytest.raises(diskcsr.ClosedFileError, match="closed"):
            use()
    with h5py.File(path, "r+"):  # nobody holds it any more
        pass


def test_with_closes_even_after_an_error(path):
    with pytest.raises(ZeroDivisionError), diskcsr.open(path) as A:
        _ = 1 / 0
    assert A.closed


def test_a_file_passed_in_open_stays_open(path):
    with h5py.File(path, "r") as file:
        with diskcsr.open(file, "X") as A:
            same(A[:], plain_matrix())
        assert A.closed
        assert file
        assert_array_equal(file["X/indptr"][:3], plain_matrix().indptr[:3])
        B = diskcsr.open(file["X"])
        assert B[0, 0] == plain_matrix()[0, 0]
    assert B.closed
    with pytest.raises(diskcsr.ClosedFileError):
        B[0, 0]


def test_an_array_that_is_dropped_closes_its_file(path):
    A = diskcsr.open(path)
    A[[3, 1, 2]].sum()
    del A
    with h5py.File(path, "r+"):
        pass


def test_bytesio(path):
    A = diskcsr.open(io.BytesIO(path.read_bytes()), "X")
    same(A[::-1], plain_matrix()[::-1])
    assert A.reader["data"].name == "h5py"


# -------------------------------------------------------------------------------- into memory


@both_formats
@both_layouts
@pytest.mark.parametrize(
    "load",
    [
        lambda A: A.to_memory(),
        lambda A: A.copy(),
        copy.copy,
        copy.deepcopy,
        lambda A: A.asformat(A.format, copy=True),
        lambda A: A.astype(A.dtype),
        lambda A: A[:],
        lambda A: A + 0 * A,
    ],
    ids=["to_memory", "copy", "copy.copy", "deepcopy", "asformat", "astype", "slice", "sum"],
)
def test_copies_are_in_memory(store, format, layout, load):
    plain = plain_matrix(format)
    A = store(plain, layout=layout)
    loaded = load(A)
    A.close()
    assert type(loaded) is type(plain)
    assert_array_equal(loaded.toarray(), plain.toarray())
    loaded.data[:] = 0  # detached
    assert loaded.sum() == 0


@both_formats
@both_layouts
@pytest.mark.parametrize("order", [None, "C", "F"])
def test_toarray(store, format, layout, order):
    plain = plain_matrix(format)
    A = store(plain, layout=layout)
    result, expected = A.toarray(order=order), plain.toarray(order=order)
    assert_array_equal(result, expected)
    assert result.dtype == expected.dtype
    assert result.flags.c_contiguous == expected.flags.c_contiguous
    assert result.flags.f_contiguous == expected.flags.f_contiguous
    out = np.full(plain.shape, 7.0, order=order or "C")
    assert A.toarray(out=out) is out
    assert_array_equal(out, plain.toarray())


def test_toarray_refuses_what_scipy_refuses(store):
    A = store(plain_matrix())
    for arguments in (
        {"out": np.zeros((2, 2))},
        {"out": np.zeros((30, 20), np.float32)},
        {"out": np.zeros((30, 20)), "order": "C"},
        {"out": np.zeros((30, 40))[:, ::2]},
    ):
        with pytest.raises(ValueError) as theirs:  # noqa: PT011
            plain_matrix().toarray(**arguments)
        with pytest.raises(ValueError) as ours:  # noqa: PT011
            A.toarray(**arguments)
        assert str(ours.value) == str(theirs.value)


def test_toarray_adds_duplicates_up(store):
    for format in FORMATS:
        plain = disorderly(format)
        assert_array_equal(store(plain).toarray(), plain.toarray())


@both_formats
def test_conversions(store, format):
    plain = plain_matrix(format)
    A = store(plain)
    assert getattr(A, f"to{format}")() is A
    for name in ("csr", "csc", "coo", "dok", "lil", "dia", "bsr"):
        converted = A.asformat(name) if name != format else A.asformat(name, copy=True)
        expected = plain.asformat(name)
        assert type(converted) is type(expected)
        assert converted.dtype == expected.dtype
        assert_array_equal(converted.toarray(), plain.toarray())
    assert A.astype(A.dtype, copy=False) is A
    same(A.astype(np.float32), plain.astype(np.float32))
    same(A.astype("i2", copy=False), plain.astype("i2"))
    with pytest.raises(TypeError, match="Cannot cast"):
        A.astype(np.int8, casting="safe")


@both_formats
@both_layouts
@pytest.mark.parametrize("max_bytes", [1, 100, 1000, 1 << 26])
def test_iter_blocks(store, format, layout, max_bytes):
    plain = plain_matrix(format)
    A = store(plain, layout=layout)
    major = FORMATS.index(format)
    blocks = list(A.iter_blocks(max_bytes=max_bytes))
    at = 0
    for first, block in blocks:
        assert type(block) is type(plain)
        assert first == at
        at += block.shape[major]
        assert block.shape[1 - major] == plain.shape[1 - major]
        stored = block.data.nbytes + block.indices.nbytes
        assert stored <= max_bytes or block.shape[major] == 1
    assert at == plain.shape[major]
    stack = (sp.vstack, sp.hstack)[major]
    assert_array_equal(stack([block for _, block in blocks]).toarray(), plain.toarray())
    if max_bytes == 1 << 26:
        assert len(blocks) == 1


def test_iter_blocks_of_nothing(store):
    assert list(store(sp.csr_array((0, 5))).iter_blocks()) == []
    ((first, block),) = store(sp.csr_array((3, 5))).iter_blocks(max_bytes=1)
    assert first == 0
    assert block.shape == (3, 5)
    with pytest.raises(ValueError, match="max_bytes"):
        list(store(plain_matrix()).iter_blocks(max_bytes=0))


@both_formats
@pytest.mark.parametrize("spmatrix", [False, True])
def test_iteration_gives_rows_as_scipy_does(store, format, spmatrix):
    plain = plain_matrix(format)
    A = store(plain, spmatrix=spmatrix)
    if spmatrix:
        plain = {"csr": sp.csr_matrix, "csc": sp.csc_matrix}[format](plain)
    rows, expected = list(A), list(plain)
    assert len(rows) == len(expected) == 30
    for row, other in zip(rows, expected, strict=True):
        assert row.shape == other.shape
        assert row.format == other.format
        assert isinstance(row, type(other))
        assert_array_equal(row.toarray(), other.toarray())


# ------------------------------------------------------------------------- views on the same file


@both_formats
@both_layouts
def test_transpose(store, format, layout):
    plain = plain_matrix(format)
    A = store(plain, layout=layout)
    other = FORMATS[1 - FORMATS.index(format)]
    for B in (A.T, A.transpose(), A.transpose((1, 0)), np.transpose(A), A.T.conj()):
        assert type(B) is CLASSES[other]
        assert B.shape == (20, 30)
        assert B.nnz == plain.nnz
        assert_array_equal(B[3:17:2].toarray(), plain.T[3:17:2].toarray())
        assert B[4, 5] == plain[5, 4]
        same(B.to_memory(), plain.T)
        same(B.T.to_memory(), plain)
    assert type(A.T.T) is type(A)
    same(A.transpose(copy=True), plain.transpose())
    with pytest.raises(ValueError, match="axes"):
        A.transpose((0, 1))
    assert A.T.filename == A.filename
    assert A.T.name == A.name


def test_conjugate(store):
    real, complex_ = plain_matrix(), plain_matrix(dtype=complex)
    complex_.data += 1j
    A, C = store(real), store(complex_)
    assert A.conj(copy=False) is A
    assert type(A.conj()) is diskcsr.DiskCSR
    same(A.conj().to_memory(), real)
    same(C.conj(), complex_.conj())
    same(C.T.conj(), complex_.T.conj())
    same(np.conj(C), complex_.conj())
    A.data[0] = 100
    assert A.conj().data[0] == 100
    A.conj().data[0] = 5
    assert A.data[0] == 100


@both_layouts
def test_a_view_shares_what_was_handed_out(store, layout):
    A = store(plain_matrix(), layout=layout)
    B = A.T
    assert B.data is A.data
    B.indices, B.indptr  # noqa: B018
    assert A.indices is B.indices
    assert A.T.T.indptr is A.indptr
    A.data[0] = 77
    assert B.data[0] == 77
    first = plain_matrix().tocoo()
    assert B[first.col[0], first.row[0]] == 77
    assert A[:].data[0] == 77
    assert A.to_memory().data[0] == 77
    assert A.T[:].data[0] == 77


def test_other_handles_do_not_see_changes(path):
    with diskcsr.open(path) as A, diskcsr.open(path) as B:
        A.data[:] = -1
        assert_array_equal(B.data, plain_matrix().data)
        same(B[:], plain_matrix())


@both_layouts
def test_release_returns_to_the_file(store, layout):
    A = store(plain_matrix(), layout=layout, mode="c")
    A.data[:] = 0
    A.resize(5, 5)
    A.has_canonical_format  # noqa: B018
    assert A.shape == (5, 5)
    A.release()
    assert not set(PARTS) & set(A.__dict__)
    assert A.shape == (30, 20)
    same(A[:], plain_matrix())
    B = A.T
    B.data[:] = 0
    assert B.to_memory().data.sum() == 0
    B.release()
    same(B.to_memory(), plain_matrix().T)


def test_handed_out_arrays(store):
    for layout, maps in (("raw", True), ("gzip", False)):
        plain = plain_matrix()
        A = store(plain, layout=layout)
        for part in PARTS:
            array = getattr(A, part)
            assert type(array) is np.ndarray
            assert array.flags.writeable
            assert array.flags.aligned
            assert array.dtype == getattr(plain, part).dtype  # int32 where it fits, both
            assert getattr(A, part) is array
            assert_array_equal(array, getattr(plain, part))
        assert (A.data.base is not None) == maps
    matrices = [store(sp.csr_array((3, 4))), store(sp.csc_array((3, 0)))]
    for A in matrices:
        assert [getattr(A, part).size for part in PARTS] == [0, 0, A.indptr.size]
        assert A.indices.dtype == A.indptr.dtype


# ------------------------------------------------------------------------------------- pickling


def by_reference(array):
    """Pickle and load, and assert that no contents were in the pickle."""
    raw = pickle.dumps(array)
    assert len(raw) < 600
    return pickle.loads(raw)


@both_formats
@both_layouts
@pytest.mark.parametrize("mode", ["r", "c"])
@pytest.mark.parametrize("spmatrix", [False, True])
def test_an_untouched_array_is_pickled_by_reference(store, format, layout, mode, spmatrix):
    A = store(plain_matrix(format, (90, 90)), layout=layout, mode=mode, spmatrix=spmatrix)
    A[3].sum()
    A.maxprint = 7
    with by_reference(A) as B, by_reference(A.T) as C:
        assert type(B) is type(A)
        assert type(C) is type(A.T)
        assert (B.name, B.mode, B.maxprint) == (A.name, mode, 7)
        assert_array_equal(B.toarray(), A.toarray())
        assert_array_equal(C.toarray(), A.toarray().T)
        assert C.shape == A.T.shape


def test_what_was_only_looked_at_is_pickled_by_reference(store):
    A = store(plain_matrix(shape=(90, 90)))
    A.data.sum(), A.indices.max()
    assert A.has_canonical_format
    with by_reference(A) as B:
        assert B.__dict__["_has_canonical_format"] is True
        assert not set(PARTS) & set(B.__dict__)
        same(B.to_memory(), plain_matrix(shape=(90, 90)))


def test_format_and_shape_given_by_the_user_go_with_the_pickle(tmp_path):
    plain = plain_matrix(shape=(20, 20))
    with h5py.File(tmp_path / "m.h5", "w") as file:
        for part in PARTS:
            file[f"X/{part}"] = getattr(plain, part)
    with diskcsr.open(tmp_path / "m.h5", "X", format="csc", shape=(20, 20)) as A:
        with by_reference(A) as B:
            same(B.to_memory(), A.to_memory())
        with by_reference(A.T) as B:
            same(B.to_memory(), plain)


@pytest.mark.parametrize(
    "touch",
    [
        lambda A: A.data.__setitem__(slice(None), 2 * A.data),
        lambda A: A.data.__setitem__(-1, 5),
        lambda A: setattr(A, "data", A.data + 1),
        lambda A: A.indices.__setitem__(0, A.indices[0]),
        lambda A: A.T.data.__setitem__(0, 9),
    ],
    ids=["data[:]", "data[-1]", "data=", "indices[0]", "through T"],
)
@both_formats
def test_a_changed_array_is_pickled_by_value(store, format, touch):
    A = store(plain_matrix(format, (90, 90)))
    touch(A)
    expected = A.to_memory()
    raw = pickle.dumps(A)
    A.close()
    B = pickle.loads(raw)
    same(B, expected)


def test_loaded_arrays_are_pickled_by_value(store):
    A = store(plain_matrix(), layout="gzip")
    A.data  # noqa: B018
    same(pickle.loads(pickle.dumps(A)), plain_matrix())
    same(pickle.loads(pickle.dumps(A.T)), plain_matrix().T)
    A.release()
    with by_reference(A) as B:
        assert type(B) is diskcsr.DiskCSR


def test_a_file_that_is_nowhere_is_pickled_by_value(path):
    same(pickle.loads(pickle.dumps(diskcsr.open(io.BytesIO(path.read_bytes())))), plain_matrix())
    with h5py.File("core", "w", driver="core", backing_store=False) as file:
        diskcsr.write(file, plain_matrix(), "X")
        same(pickle.loads(pickle.dumps(diskcsr.open(file))), plain_matrix())


def test_resized_is_pickled_by_value(store):
    A = store(plain_matrix(), mode="c")
    A.resize(10, 12)
    expected = plain_matrix()
    expected.resize(10, 12)
    assert_array_equal(pickle.loads(pickle.dumps(A)).toarray(), expected.toarray())


def test_pickles_cross_processes(path, tmp_path, monkeypatch):
    monkeypatch.chdir(path.parent)
    with diskcsr.open(path.name) as A:  # a relative name, loaded elsewhere
        (tmp_path / "pickle").write_bytes(pickle.dumps(A.T))
    program = "import pickle, sys; print(pickle.load(open(sys.argv[1], 'rb'))[3, 5:9].toarray())"
    answer = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "pickle")],
        capture_output=True,
        text=True,
        check=True,
        cwd="/",
        env={"PYTHONPATH": ":".join(filter(None, [str(_root()), *sys.path]))},
    ).stdout
    assert answer.strip() == str(plain_matrix().T[3, 5:9].toarray())


def _root():
    return Path(diskcsr.__file__).parents[1]


# --------------------------------------------------------------------------------- changes in place


def _assign(A):
    A[0, 0] = 1


def _assign_row(A):
    A[2] = 3


def _setdiag(A):
    A.setdiag(5)


def _resize(A):
    A.resize(4, 4)


@both_formats
@both_layouts
@pytest.mark.parametrize("change", [_assign, _assign_row, _setdiag, _resize])
def test_mode_r_refuses_assignments(store, format, layout, change):
    A = store(plain_matrix(format), layout=layout)
    before = digest(A.filename)
    for B in (A, A.T):
        with pytest.raises(diskcsr.ReadOnlyError, match=r"mode 'r'.*refused.*copy\(\).*mode='c'"):
            change(B)
    with pytest.raises(OSError, match="refused"):  # what h5py's users catch
        change(A)
    same(A[:], plain_matrix(format))
    assert A.shape == (30, 20)
    assert digest(A.filename) == before


@both_formats
@both_layouts
@pytest.mark.parametrize("change", [_assign, _assign_row, _setdiag, _resize])
def test_mode_c_changes_private_memory(store, format, layout, change):
    A, plain = store(plain_matrix(format), layout=layout, mode="c"), plain_matrix(format)
    before = digest(A.filename)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", sp.SparseEfficiencyWarning)
        change(A)
        change(plain)
    assert A.shape == plain.shape
    assert A.nnz == plain.nnz
    assert_array_equal(A.toarray(), plain.toarray())
    assert_array_equal(A[1:3].toarray(), plain[1:3].toarray())
    assert_array_equal(A.T.toarray(), plain.T.toarray())
    assert_array_equal((A @ A.T).toarray(), (plain @ plain.T).toarray())
    assert type(A) is CLASSES[format]
    with diskcsr.open(A.filename) as other:
        same(other[:], plain_matrix(format))
    assert digest(A.filename) == before


@both_formats
def test_operators_in_place(store, format):
    plain = plain_matrix(format)
    for operate in ("__imul__", "__itruediv__"):
        A = B = store(plain)
        before = digest(A.filename)
        if operate == "__imul__":
            B *= 2
            expected = plain * 2
        else:
            B /= 2
            expected = plain / 2
        same(B, expected)  # the name now stands for a result in memory
        same(A.to_memory(), plain)
        C = store(plain, mode="c")
        D = C
        if operate == "__imul__":
            D *= 2
        else:
            D /= 2
        assert D is C
        assert_array_equal(C.toarray(), expected.toarray())
        assert_array_equal(C[3].toarray(), expected[3].toarray())
        assert digest(A.filename) == before
    A = B = store(plain)
    B += plain
    same(B, plain + plain)
    same(A.to_memory(), plain)
    B -= plain
    assert_array_equal(B.toarray(), plain.toarray())


@both_formats
@both_layouts
@pytest.mark.parametrize("mode", ["r", "c"])
def test_changed_data_show_in_this_handle_and_nowhere_else(store, format, layout, mode):
    plain = plain_matrix(format)
    A = store(plain, layout=layout, mode=mode)
    before = digest(A.filename)
    A.data *= 2
    doubled = plain * 2
    same(A[:], doubled)
    same(A.to_memory(), doubled)
    assert_array_equal(A.toarray(), doubled.toarray())
    assert_array_equal(A[[4, 2, 2]].toarray(), doubled[[4, 2, 2]].toarray())
    assert_array_equal(A[:, [4, 2, 2]].toarray(), doubled[:, [4, 2, 2]].toarray())
    assert A.sum() == doubled.sum()
    assert_array_equal(A @ np.ones(20), doubled @ np.ones(20))
    assert [block.sum() for _, block in A.iter_blocks()] == [doubled.sum()]
    with diskcsr.open(A.filename) as other:
        same(other[:], plain)
    assert digest(A.filename) == before


def test_new_arrays_may_be_assigned(store):
    A = store(plain_matrix(), mode="r")
    A.data = A.data.astype(np.float32)
    assert A.dtype == np.float32
    assert A[:].dtype == np.float32
    other = sp.csr_array(np.eye(30, 20, 3))
    A.data, A.indices, A.indptr = other.data, other.indices, other.indptr
    assert A.nnz == other.nnz
    same(A[:], other)
    assert_array_equal(A[5:9].toarray(), other[5:9].toarray())
    assert_array_equal(A[[7, 2], [3, 5]], other.toarray()[[7, 2], [3, 5]])


@both_formats
@both_layouts
@pytest.mark.parametrize("mode", ["r", "c"])
@pytest.mark.parametrize(
    "use",
    [
        lambda A: A.sum(),
        lambda A: A.sum(axis=0),
        lambda A: A.max(),
        lambda A: A.max(axis=1).toarray(),
        lambda A: abs(A).toarray(),
        lambda A: A.argmax(axis=0),
        lambda A: A.count_nonzero(),
        lambda A: (A > 1).toarray(),
        lambda A: (A + A).toarray(),
        lambda A: A.multiply(A).toarray(),
        lambda A: (A @ A).toarray(),
        lambda A: A[[2, 0]].toarray(),
        lambda A: A[2, :].toarray(),
        lambda A: A[:, [0, 3]].toarray(),
        lambda A: A.tocoo().toarray(),
        lambda A: A.diagonal(),
        lambda A: A.T.toarray(),
        lambda A: sp.tril(A).toarray(),
    ],
    ids=lambda use: inspect.getsource(use).strip().removeprefix("lambda A: ")[:24],
)
def test_a_disorderly_file_gives_right_values(store, format, layout, mode, use):
    plain = disorderly(format)
    A = store(plain, layout=layout, mode=mode)
    before = digest(A.filename)
    expected = use(disorderly(format))
    for _ in range(2):
        assert_array_equal(use(A), expected)
    assert_array_equal(A.toarray(), plain.toarray())
    assert digest(A.filename) == before


@both_formats
@pytest.mark.parametrize("method", ["sum_duplicates", "sort_indices", "eliminate_zeros"])
def test_tidying_up(store, format, method):
    plain = disorderly(format)
    A = store(disorderly(format))
    view = A.T
    before = digest(A.filename)
    assert (A.has_sorted_indices, A.has_canonical_format) == (0, 0) == (False, False)
    getattr(A, method)()
    getattr(plain, method)()
    assert A.nnz == plain.nnz
    for part in PARTS:
        assert_array_equal(getattr(A, part), getattr(plain, part))
    assert A.has_sorted_indices == plain.has_sorted_indices
    assert A.has_canonical_format == plain.has_canonical_format
    assert_array_equal(A[2:].toarray(), plain[2:].toarray())
    assert_array_equal(view.toarray(), plain.toarray().T)
    assert_array_equal(pickle.loads(pickle.dumps(A)).toarray(), plain.toarray())
    assert digest(A.filename) == before


def test_nothing_is_copied_when_there_is_nothing_to_tidy(store):
    A = store(plain_matrix(shape=(90, 90)))
    data = A.data
    A.sum_duplicates()
    A.sort_indices()
    assert A.data is data
    with by_reference(A) as B:
        same(B[:], plain_matrix(shape=(90, 90)))


# -------------------------------------------------------------------------------- the memory guard

BUDGET = 20_000


@pytest.fixture
def wide():
    """40,000 stored values of 8 bytes: many times the budget."""
    n = 40_000
    rng = np.random.default_rng(0)
    indices = np.sort(rng.integers(0, 50, size=(n // 20, 20)), axis=1).ravel()
    arrays = np.ones(n), indices.astype(np.int32), np.arange(0, n + 1, 20, dtype=np.int32)
    return sp.csr_array(arrays, shape=(n // 20, 50))


REFUSED = {
    "to_memory": lambda A: A.to_memory(),
    "copy": lambda A: A.copy(),
    "A[:]": lambda A: A[:],
    "toarray": lambda A: A.toarray(),
    "A[mask]": lambda A: A[np.ones(2000, bool)],
    "A[rows]": lambda A: A[np.arange(2000)[::-1]],
    "A[:, mask]": lambda A: A[:, np.ones(50, bool)],
    "sum_duplicates": lambda A: A.sum_duplicates(),
    "eliminate_zeros": lambda A: A.eliminate_zeros(),
    "sort_indices": lambda A: (setattr(A, "has_sorted_indices", False), A.sort_indices()),
    "astype": lambda A: A.astype(np.float32),
}


@both_layouts
@pytest.mark.parametrize("what", REFUSED)
def test_loads_over_the_budget_are_refused(store, wide, layout, what):
    A = store(wide, layout=layout)
    with (
        diskcsr.options.set(memory_budget=BUDGET),
        pytest.raises(diskcsr.MemoryBudgetError) as caught,
    ):
        REFUSED[what](A)
    assert isinstance(caught.value, MemoryError)
    message = str(caught.value)
    assert A.filename in message
    assert f"{BUDGET} bytes" in message
    assert "iter_blocks" in message or "some rows at a time" in message
    assert "memory_budget" in message
    assert "private" not in message


def test_a_refusal_says_what_was_to_be_done(store, wide):
    A = store(wide)
    with diskcsr.options.set(memory_budget=BUDGET):
        for use, what in [
            ("eliminate_zeros", "reading the whole matrix, to drop its stored zeros, takes 4"),
            ("sum_duplicates", "reading the whole matrix, to add up its duplicates, takes 4"),
        ]:
            with pytest.raises(diskcsr.MemoryBudgetError, match=what):
                getattr(A, use)()


@pytest.mark.parametrize("part", ["data", "indices"])
def test_compressed_arrays_over_the_budget(store, wide, part):
    A = store(wide, layout="gzip")
    with diskcsr.options.set(memory_budget=BUDGET):
        with pytest.raises(diskcsr.MemoryBudgetError, match=r"iter_blocks") as caught:
            getattr(A, part)
        # With the others: what is done with one of the arrays is done with all.
        size = wide.nnz * (8 + 4) + 8 * (wide.shape[0] + 1)
        assert f"({size} bytes)" in str(caught.value)
        assert repr(part) in str(caught.value)
        assert_array_equal(A @ np.ones(50), wide @ np.ones(50))
        assert A.T[0, 3] == wide[3, 0]
    assert_array_equal(getattr(A, part), getattr(wide, part))


def test_maps_need_no_budget(store, wide):
    A = store(wide)
    with diskcsr.options.set(memory_budget=BUDGET):
        assert_array_equal(A.data, wide.data)
        assert_array_equal(A.indices, wide.indices)
        assert_array_equal(A @ np.ones(50), wide @ np.ones(50))


@both_layouts
def test_what_fits_is_not_refused(store, wide, layout):
    A = store(wide, layout=layout)
    with diskcsr.options.set(memory_budget=BUDGET):
        assert A[3, 4] == wide[3, 4]
        assert_array_equal(A[[7, 3, 1]].toarray(), wide[[7, 3, 1]].toarray())
        assert sum(block.nnz for _, block in A.iter_blocks(max_bytes=BUDGET // 2)) == wide.nnz
    with diskcsr.options.set(memory_budget=10 * wide.nnz * 12):
        same(A.to_memory(), wide)


# --------------------------------------------------------------------------------- older interface


@both_formats
@both_layouts
def test_spmatrix_flavour(store, format, layout):
    plain = {"csr": sp.csr_matrix, "csc": sp.csc_matrix}[format](plain_matrix(format, (20, 20)))
    A = store(plain, layout=layout, spmatrix=True)
    assert type(A) is MATRICES[format]
    assert isinstance(A, sp.spmatrix)
    assert sp.isspmatrix(A)
    assert repr(A) == repr(plain)
    assert type(A.T) is MATRICES[FORMATS[1 - FORMATS.index(format)]]
    same(A[:], plain)
    same(A * A, plain * plain)  # the matrix product
    assert_array_equal(A * np.ones(20), plain * np.ones(20))
    for ours, theirs in [
        (A.getrow(3), plain.getrow(3)),
        (A.getcol(-1), plain.getcol(-1)),
        (A[4], plain[4]),
        (A[:, 4], plain[:, 4]),
        (A.getH(), plain.getH()),
        (A**2, plain**2),
    ]:
        assert isinstance(ours, type(theirs))
        assert ours.shape == theirs.shape
        assert_array_equal(ours.toarray(), theirs.toarray())
    for ours, theirs in [(A.todense(), plain.todense()), (A.sum(0), plain.sum(0))]:
        assert type(ours) is type(theirs) is np.matrix
        assert_array_equal(ours, theirs)
    assert A.getnnz() == plain.getnnz()
    assert_array_equal(A.getnnz(axis=0), plain.getnnz(axis=0))
    assert A.get_shape() == plain.get_shape()
    assert A.getformat() == format
    assert type(A.to_memory()) is type(plain)
    assert all(type(block) is type(plain) for _, block in A.iter_blocks())


# --------------------------------------------------------------------------------------- threads


@both_layouts
def test_many_threads_read_one_array(store, layout):
    plain = plain_matrix(shape=(400, 50))
    A = store(plain, layout=layout)
    dense = plain.toarray()

    def read(seed):
        rng = np.random.default_rng(seed)
        for _ in range(15):
            rows = rng.integers(0, 400, size=20)
            assert_array_equal(A[rows].toarray(), dense[rows])
            i, j = rng.integers(0, 50, size=2)
            assert A[i, j] == dense[i, j]
            assert_array_equal(A[:, [j]].toarray(), dense[:, [j]])
        return True

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(read, range(8)))


@both_layouts
@pytest.mark.parametrize("part", PARTS)
def test_a_race_for_an_array_has_one_winner(store, layout, part):
    A = store(plain_matrix(shape=(400, 50)), layout=layout)
    views = [A, A.T] * 4
    barrier = threading.Barrier(len(views))

    def get(view):
        barrier.wait()
        return getattr(view, part)

    with ThreadPoolExecutor(len(views)) as pool:
        arrays = list(pool.map(get, views))
    assert len({id(array) for array in arrays}) == 1


def test_handing_out_while_others_read(store):
    plain = plain_matrix(shape=(400, 50))
    dense = plain.toarray()
    for _ in range(5):
        A = store(plain)
        barrier = threading.Barrier(4)

        def work(number, A=A, barrier=barrier):
            barrier.wait()
            if number == 0:
                return A.indptr, A.indices, A.data
            for k in range(20):
                rows = np.array([k, 399 - k, 2 * k])
                assert_array_equal(A[rows].toarray(), dense[rows])
            return None

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(work, range(4)))


def test_half_floats_of_which_there_are_none(tmp_path):
    # The dtype is known from one array, while the other is missing.
    with h5py.File(tmp_path / "m.h5", "w") as file:
        group = file.create_group("X")
        group.attrs["h5sparse_format"], group.attrs["h5sparse_shape"] = "csr", (2, 3)
        group["data"], group["indptr"] = np.zeros(0, "f2"), np.zeros(3, np.int64)
    with diskcsr.open(tmp_path / "m.h5") as A:
        assert A.dtype == A[:].dtype == A.data.dtype == np.float32
        assert (A > 0).dtype == np.bool_
        assert A.tocoo().dtype == A.multiply(A).dtype == np.float32
