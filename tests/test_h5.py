"""`diskcsr.File` and `Group`: all that h5py does, and sparse matrices among the members."""

import io
import pickle

import h5py
import numpy as np
import pytest
import scipy.sparse as sp
from scipy.sparse import csc_array, csr_array, random_array

import diskcsr
from diskcsr import DiskCSC, DiskCSR, File, Group

DENSE = np.array([[0, 1, 0], [0, 0, 2], [0, 0, 0], [3, 4, 0]], np.float32)
X = csr_array(DENSE)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "m.h5"


@pytest.fixture
def f(path):
    """A file with matrices, groups, links and a dense dataset, open for writing."""
    with File(path, "w") as f:
        f["X"] = X
        f.create_group("layers").create_dataset("T", data=csc_array(DENSE))
        f["layers/y"] = np.arange(3)
        f["soft"] = h5py.SoftLink("/X")
        f["hard"] = h5py.Group(f["X"].group.id)
        f["none"] = h5py.SoftLink("/nowhere")
        yield f


def same(found, dense=DENSE):
    assert isinstance(found, DiskCSR | DiskCSC)
    assert found.dtype == dense.dtype
    np.testing.assert_array_equal(found.toarray(), dense)
    return True


# ----------------------------------------------------------------------------------- as in h5py


def test_they_are_h5pys(f, path):
    assert isinstance(f, h5py.File)
    assert isinstance(f, Group)
    assert isinstance(f["layers"], h5py.Group)
    assert type(f["layers"]) is Group
    assert type(f["layers/y"]) is h5py.Dataset
    assert f.filename == str(path)
    assert f.mode == "r+"
    assert "m.h5" in repr(f)
    assert repr(f["layers"]) == '<HDF5 group "/layers" (2 members)>'


def test_every_way_to_a_matrix(f):
    assert type(f["X"]) is DiskCSR
    assert type(f["layers/T"]) is DiskCSC
    assert type(f["layers"]["T"]) is DiskCSC
    for found in (f["X"], f["soft"], f["hard"], f["/X"], f.get("X"), f[b"X"]):
        assert same(found)
    assert same(dict(f["layers"].items())["T"])
    assert [type(value) for value in f["layers"].values()] == [DiskCSC, h5py.Dataset]
    assert same(f[h5py.Group(f["X"].group.id).ref])


def test_get(f):
    assert f.get("nothing") is None
    assert f.get("nothing", 5) == 5
    assert f.get("none", 6) == 6
    assert f.get("X", getclass=True) is h5py.Group
    assert f.get("layers/y", getclass=True) is h5py.Dataset
    assert isinstance(f.get("soft", getlink=True), h5py.SoftLink)
    assert f.get("soft", getlink=True).path == "/X"
    assert f.get("soft", getclass=True, getlink=True) is h5py.SoftLink


def test_names(f):
    assert sorted(f) == ["X", "hard", "layers", "none", "soft"]
    assert len(f) == 5
    assert list(f.keys()) == list(f)
    assert "X" in f
    assert "layers/T" in f
    assert "nothing" not in f
    assert "X/data" in f
    with pytest.raises(KeyError):
        f["nothing"]
    with pytest.raises(KeyError):
        f["none"]


def test_visiting(f):
    del f["hard"], f["none"]
    names, found = [], {}
    f.visit(names.append)
    assert f.visititems(lambda name, item: found.update({name: item})) is None
    assert list(found) == names
    assert same(found["X"])
    assert type(found["layers"]) is Group
    assert type(found["layers/T"]) is DiskCSC
    assert type(found["layers/T/data"]) is h5py.Dataset
    assert f.visititems(lambda name, item: name if name.endswith("y") else None) == "layers/y"


def test_attributes(f):
    f.attrs["a"] = 1
    f["layers"].attrs["b"] = "two"
    f["X"].group.attrs["c"] = 3
    assert (f.attrs["a"], f["layers"].attrs["b"]) == (1, "two")
    assert f["X"].group.attrs["c"] == 3
    assert same(f["X"])


def test_groups(f):
    deep = f.create_group("a/b")
    assert type(deep) is Group
    deep["X"] = 2 * X
    assert same(f["a/b/X"], 2 * DENSE)
    assert type(f.require_group("a")) is Group
    assert type(f.require_group("new")) is Group
    assert deep.parent == f["a"]
    assert type(deep.parent) is Group
    assert deep.file == f
    assert type(deep.file) is type(f.file) is File
    with pytest.raises(ValueError, match="already exists"):
        f.create_group("a")
    with pytest.raises(TypeError):
        f.require_group("layers/y")


def test_require_dataset(f):
    assert f.require_dataset("layers/y", (3,), int) == f["layers/y"]
    assert type(f.require_dataset("z", (2,), "f4")) is h5py.Dataset


def test_dense_data_is_h5pys(f):
    y = f.create_dataset("dense", data=DENSE, compression="gzip", chunks=(2, 3))
    assert type(y) is h5py.Dataset
    assert (y.compression, y.chunks) == ("gzip", (2, 3))
    assert type(f.create_dataset("empty", (5,), "i4")) is h5py.Dataset
    f["scalar"] = 3.5
    assert f["scalar"][()] == 3.5


def test_copying_and_renaming(f):
    f.copy("X", "copied")
    f.copy(f["layers"], f, "others")
    f.copy(f["X"], "from a handle")
    f.copy(f["X"], f["layers"], name="Z")
    f.copy(f["layers/y"], f["X"])
    f.move("X", "moved")
    assert same(f["copied"])
    assert same(f["moved"])
    assert same(f["others/T"])
    assert same(f["from a handle"])
    assert same(f["layers/Z"])
    np.testing.assert_array_equal(f["moved"].group["y"], np.arange(3))
    assert "X" not in f
    del f["moved"]
    assert "moved" not in f
    assert same(f["hard"])  # another name of the same group
    with pytest.raises(KeyError):
        del f["moved"]


def test_external_links(f, tmp_path):
    with File(tmp_path / "other.h5", "w") as other:
        other["Y"] = 3 * X
    f["outside"] = h5py.ExternalLink("other.h5", "/Y")
    f.flush()
    with File(f.filename.replace("m.h5", "linked.h5"), "w") as linking:
        linking["outside"] = h5py.ExternalLink("other.h5", "/Y")
    with File(tmp_path / "linked.h5") as linking:
        assert same(linking["outside"], 3 * DENSE)


def test_closing(path):
    with File(path, "w") as f:
        f["X"] = X
        A = f["X"]
        assert same(A)
    assert not f
    assert not (path.parent / "m.h5-journal").exists()
    f.close()
    for use in (lambda: f["X"], lambda: f.create_group("a"), lambda: f.__setitem__("Z", X)):
        with pytest.raises((ValueError, KeyError), match=r"(?i)\bnot a|identifier"):
            use()
    with pytest.raises(diskcsr.ClosedFileError):
        A[0]


@pytest.mark.parametrize("problem", [ValueError, KeyboardInterrupt])
def test_an_exception_in_the_block_closes_the_file(path, problem):
    def fail():
        with File(path, "w") as f:
            f["X"] = X
            opened.append(f)
            raise problem

    opened = []
    with pytest.raises(problem):
        fail()
    assert not opened[0]
    with File(path) as f:
        assert same(f["X"])


def test_modes(path, tmp_path):
    for mode in ("r", "r+"):
        with pytest.raises(FileNotFoundError):
            File(path, mode)
    with File(path, "x") as f:
        f["X"] = X
    for mode in ("x", "w-"):
        with pytest.raises(FileExistsError):
            File(path, mode)
    with pytest.raises(ValueError, match="mode"):
        File(path, "q")
    with File(path, "a") as f:
        assert list(f) == ["X"]
    with File(path) as f:
        assert f.mode == "r"
        assert f["X"].mode == "r"
        with pytest.raises(diskcsr.ReadOnlyError):
            f["X"][0, 1] = 5
        for change in (lambda: f.__setitem__("Z", X), lambda: f.create_dataset("Z", data=X)):
            with pytest.raises((ValueError, OSError, KeyError)):
                change()
        with pytest.raises(KeyError):
            del f["X"]
        assert same(f["X"])
    with File(path, "r+") as f:
        assert f["X"].mode == "r+"
    with File(path, "w") as f:
        assert list(f) == []
    (tmp_path / "text").write_text("no HDF5")
    for mode in ("r", "r+"):
        with pytest.raises(OSError, match="signature"):
            File(tmp_path / "text", mode)


@pytest.mark.parametrize("kind", ["core", "file object", "libver", "bytes"])
def test_other_ways_to_open(path, kind):
    file, keywords = {
        "core": (path, {"driver": "core", "backing_store": False}),
        "file object": (io.BytesIO(), {}),
        "libver": (path, {"libver": "latest"}),
        "bytes": (str(path).encode(), {}),
    }[kind]
    with File(file, "w", **keywords) as f:
        assert (path.parent / "m.h5-journal").exists() == (kind in ("libver", "bytes"))
        f["X"] = X
        f["X"].append(X[:1])
        f["X"][0, 1] = 7
        expected = np.vstack([DENSE, DENSE[:1]])
        expected[0, 1] = 7
        assert same(f["X"], expected)


def test_durable(path):
    with File(path, "w", durable=True, userblock_size=512) as f:
        f["X"] = X
        assert f.userblock_size == 512
    with File(path, libver="latest") as f:
        assert same(f["X"])
    for file, keywords in ((path, {"driver": "core"}), (io.BytesIO(), {})):
        with pytest.raises(ValueError, match="durable=True needs a path"):
            File(file, "a", durable=True, **keywords)


# ------------------------------------------------------------------------------------ sparse in


@pytest.mark.parametrize("format", ["csr", "csc", "coo", "bsr", "dia", "dok", "lil"])
@pytest.mark.parametrize("flavour", [sp.csr_array, sp.csr_matrix])
def test_every_format(f, format, flavour):
    matrix = flavour(DENSE).asformat(format)
    f["a"] = matrix
    b = f.create_dataset("b", data=matrix, compression="gzip", chunks=(2,))
    expected = DiskCSC if format == "csc" else DiskCSR
    assert type(f["a"]) is type(b) is expected
    assert same(f["a"])
    assert same(b)
    assert f["b/data"].compression == "gzip"
    assert f["b/data"].chunks == (2,)


def test_keywords(f):
    A = f.create_dataset("a/b", X.shape, "f8", X, format="csc", tags="h5sparse", maxshape=None)
    assert type(A) is DiskCSC
    assert same(A, DENSE.astype("f8"))
    assert sorted(A.group.attrs) == ["h5sparse_format", "h5sparse_shape"]
    assert f.create_dataset("c", data=X, chunks=True).shape == X.shape


def test_a_session_of_h5sparse(f):
    plain = sp.csr_matrix(DENSE)
    A = f.create_dataset("sparse/matrix", data=plain)
    assert same(f.create_dataset("copy", data=A))
    B = f.create_dataset("grows", data=plain, chunks=(100000,), maxshape=(None,))
    B.append(plain[:2])
    assert f["grows/data"].chunks == (100000,)
    assert same(f["grows"], np.vstack([DENSE, DENSE[:2]]))
    C = f.create_dataset("turned", data=plain, sparse_format="csc")
    assert type(C) is DiskCSC
    assert same(C)
    assert same(f.create_dataset("dense in", data=DENSE, sparse_format="csr"))
    D = f.create_dataset("wide", data=plain, indices_dtype=np.int64, indptr_dtype=np.int64)
    assert f["wide/indices"].dtype == f["wide/indptr"].dtype == D.indices.dtype == np.int64
    assert same(D)


@pytest.mark.parametrize("keyword", ["format", "sparse_format"])
@pytest.mark.parametrize(("format", "kind"), [("csr", DiskCSR), ("csc", DiskCSC)])
def test_a_matrix_that_begins_empty(f, keyword, format, kind):
    A = f.create_dataset("empty/matrix", **{keyword: format})
    assert type(A) is kind
    assert (A.shape, A.nnz, A.dtype) == ((0, 0), 0, np.float64)
    assert f["empty/matrix/indptr"].dtype == np.int64
    A.append([DENSE, DENSE])
    expected = np.vstack([DENSE, DENSE]) if kind is DiskCSR else np.hstack([DENSE, DENSE])
    assert same(f["empty/matrix"], expected.astype(np.float64))
    with pytest.raises(ValueError, match="grow=True"):
        f["empty/matrix"].append(np.ones((1, 9)) if kind is DiskCSR else np.ones((9, 1)))
    B = f.create_dataset("shaped", (5, 3), "i2", compression="gzip", **{keyword: format})
    assert type(B) is kind
    assert (B.shape, B.nnz, B.dtype) == ((5, 3), 0, np.int16)
    with pytest.raises(ValueError, match="where the matrix"):
        f.create_dataset("wrong", **{keyword: format}).append([np.ones((2, 3)), np.ones((4, 5))])


def test_a_matrix_is_replaced_where_that_is_asked_for(f):
    with pytest.raises(ValueError, match="already has an object"):
        f.create_dataset("X", data=2 * X, max_memory=10**8)
    A = f.create_dataset("X", data=2 * X, overwrite=True, sum_duplicates=True)
    assert type(A) is DiskCSR
    assert same(A, 2 * DENSE)


@pytest.mark.parametrize(
    ("keywords", "problem", "message"),
    [
        (dict(shape=(3, 4)), ValueError, "shape"),
        (dict(scale=5), TypeError, "not scale"),
        (dict(maxshape=(None, None)), TypeError, "not maxshape"),
        (dict(fillvalue=0, track_times=True), TypeError, "not fillvalue, track_times"),
        (dict(chunks=(2, 2)), ValueError, "one dimension, not 2"),
        (dict(chunks=0), ValueError, "chunks"),
        (dict(compression="best"), ValueError, "'best'"),
        (dict(compression="gzip", compression_opts=11), ValueError, "11"),
        (dict(format="coo"), ValueError, "coo"),
        (dict(data=None, format="coo"), ValueError, "coo"),
        (dict(data=None, sparse_format="coo"), ValueError, "coo"),
        (dict(format="csr", sparse_format="csc"), ValueError, "are one keyword"),
        (dict(indptr_dtype="i4"), TypeError, "not indptr_dtype"),
        (dict(indices_dtype="u4"), ValueError, "index_dtype must be int32 or int64"),
        (dict(data=DENSE, shape=(3, 4), sparse_format="csr"), ValueError, "shape"),
        (dict(data=np.ones(3, "M8[s]"), sparse_format="csr"), (TypeError, ValueError), "."),
        (dict(tags="none"), ValueError, "'none'"),
        (dict(compression="scaleoffset", data=X * 0.5), ValueError, "whole numbers"),
    ],
)
def test_an_error_leaves_nothing_behind(f, keywords, problem, message):
    before = sorted(f)
    with pytest.raises(problem, match=message):
        f.create_dataset("new/Z", **{"data": X} | keywords)
    assert sorted(f) == before
    f["Z"] = X  # still usable
    assert same(f["Z"])


def test_an_array_on_disk_is_streamed(tmp_path, monkeypatch):
    big = random_array((4000, 500), density=0.1, format="csr", rng=np.random.default_rng(1))
    with File(tmp_path / "a.h5", "w") as f, File(tmp_path / "b.h5", "w") as g:
        f["X"] = big
        monkeypatch.setattr(diskcsr.options, "memory_budget", 1_000_000)
        with pytest.raises(diskcsr.MemoryBudgetError):
            f["X"].to_memory()
        real = DiskCSR.iter_blocks
        monkeypatch.setattr(DiskCSR, "iter_blocks", lambda self, size: real(self, 200_000))
        g["X"] = f["X"]
        f["copy"] = f["X"]
        monkeypatch.undo()
        for A in (g["X"], f["copy"]):
            assert (abs(A.to_memory() - big)).nnz == 0


def test_a_matrix_replaces_a_matrix_only(f):
    A = f["X"]
    B = f["layers/T"]
    f["layers/T"] = 5 * B
    f["X"] = csc_array(2 * DENSE)
    assert type(f["X"]) is DiskCSC
    assert same(f["X"], 2 * DENSE)
    assert same(f["hard"])  # the group that was replaced has another name
    f["X"] = f["X"]  # itself
    assert same(f["X"], 2 * DENSE)
    for name in ("layers", "layers/y"):
        with pytest.raises(ValueError, match="already has an object"):
            f[name] = X
    with pytest.raises(ValueError, match="already has an object"):
        f.create_dataset("X", data=X)
    np.testing.assert_array_equal(f["layers/y"][:], np.arange(3))
    assert same(f["layers/T"], 5 * DENSE)
    assert same(f["X"], 2 * DENSE)
    assert same(A)  # of the group that is named "hard" now
    f["more"] = np.ones(10_000)
    f.flush()
    assert same(B)  # which keeps what has no name any more


def test_changes_reach_the_file(path):
    with File(path, "w") as f:
        f["X"] = X
        f["X"][3] = [6, 8, 0]
        f["X"].append([[0, 0, 5]])
    with File(path) as f:
        assert same(f["X"], np.vstack([DENSE[:3], [[6, 8, 0], [0, 0, 5]]]).astype("f4"))


def test_two_handles_of_one_group(f):
    A, B = f["X"], f["X"]
    A[0, 1] = 9
    A.append(X[:1])
    assert A.shape == B.shape == f["X"].shape == (5, 3)
    assert B[0, 1] == 9
    B[4, 1] = 8
    assert A[4, 1] == 8


def test_pickling(path):
    with File(path, "w") as f:
        f["X"] = X
    with File(path) as f:
        with pickle.loads(pickle.dumps(f["X"])) as A:
            assert same(A)
            assert A.mode == "r"
        with pytest.raises(TypeError, match="h5py objects cannot be pickled"):
            pickle.dumps(f)


def test_a_file_that_is_opened_anew_is_gone_at_once(path):
    with h5py.File(path, "w") as f:
        f["old"] = 1
    with pytest.raises(ZeroDivisionError), File(path, "w") as f:
        raise ZeroDivisionError
    assert "old" not in path.read_bytes().decode("latin-1")


def test_a_second_writer_is_refused(f, path):
    with pytest.raises(diskcsr.LockedFileError):
        File(path, "r+")
    with pytest.raises(OSError, match=r"lock|open"):
        h5py.File(path, "r+")
    f["again"] = X
    assert same(f["again"])


def test_what_others_wrote(path):
    with h5py.File(path, "w") as file:
        diskcsr.write(file, X, "X").close()
        file.create_group("empty")
    with File(path, "r+") as f:
        assert same(f["X"])
        assert type(f["empty"]) is Group


@pytest.mark.parametrize(
    ("keywords", "problem"),
    [
        (
            {"indices_dtype": "i8", "index_dtype": "i4"},
            "index_dtype=i4 and indices_dtype=i8 differ",
        ),
        ({"shape": 5}, "a sparse matrix has two dimensions; shape=5 has 1"),
        ({"shape": (2, 3, 4)}, r"two dimensions; shape=\(2, 3, 4\) has 3"),
        ({"index_dtype": "nonsense"}, "index_dtype must be int32 or int64, not 'nonsense'"),
    ],
    ids=str,
)
def test_keywords_that_contradict_each_other(path, keywords, problem):
    with File(path, "w") as f, pytest.raises(ValueError, match=problem):
        f.create_dataset("a", format="csr", **keywords)


def test_a_dense_dataset_is_not_loaded_over_the_budget(path):
    with File(path, "w") as f:
        f.create_dataset("dense", data=np.eye(100))
        with (
            diskcsr.options.set(memory_budget=10_000),
            pytest.raises(diskcsr.MemoryBudgetError, match="convert goes over it"),
        ):
            f.create_dataset("a", data=h5py.Group(f.id)["dense"], format="csr")
        assert "a" not in f
        f.create_dataset("a", data=h5py.Group(f.id)["dense"], format="csr")
        assert same(f["a"], np.eye(100))
