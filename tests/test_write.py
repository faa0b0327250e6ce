"""What `diskcsr.write` leaves in a file: read back by h5py and scipy, AnnData and h5sparse."""

import mmap
import os
import stat

import h5py
import numpy as np
import pytest
import scipy.sparse as sp
from numpy.testing import assert_array_equal

import diskcsr
from diskcsr.storage.write import groups

PARTS = ("data", "indices", "indptr")
FORMATS = ("csr", "csc")
BUILD = {"csr": sp.csr_array, "csc": sp.csc_array}
both_formats = pytest.mark.parametrize("format", FORMATS)


def dense_matrix(shape=(30, 20), dtype=np.float64, seed=0):
    rng = np.random.default_rng(seed)
    return (rng.integers(1, 9, size=shape) * (rng.random(shape) < 0.2)).astype(dtype)


def read_by_hand(path, name="X"):
    """Read a group as its attributes say, with h5py and scipy alone."""
    with h5py.File(path, "r") as file:
        group = file[name]
        format, shape = group.attrs["h5sparse_format"], tuple(group.attrs["h5sparse_shape"])
        arrays = tuple(group[part][:] for part in PARTS)
    return BUILD[format](arrays, shape=shape)


def same(result, expected):
    assert result.format == expected.format
    assert result.dtype == expected.dtype
    assert result.shape == expected.shape
    for part in PARTS:
        assert_array_equal(getattr(result, part), getattr(expected, part))


def contents(path):
    """Every object and attribute of a file, for comparison."""
    found = {}

    def visit(name, thing):
        value = thing[()].tobytes() if isinstance(thing, h5py.Dataset) else None
        found[name] = value, sorted((key, str(value)) for key, value in thing.attrs.items())

    with h5py.File(path, "r") as file:
        file.visititems(visit)
    return found


@pytest.fixture
def path(tmp_path):
    return tmp_path / "m.h5"


# --------------------------------------------------------------------------- what can be written

SOURCES = {
    **{name: name for name in ("csr", "csc", "coo", "bsr", "dia", "dok", "lil")},
    "dense": None,
}


@pytest.mark.parametrize("flavour", ["array", "matrix"])
@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("format", [None, *FORMATS])
def test_every_scipy_format(path, source, flavour, format):
    dense = dense_matrix()
    cls = getattr(sp, f"{'csr' if source == 'dense' else source}_{flavour}")
    matrix = dense if source == "dense" else cls(dense)
    A = diskcsr.write(path, matrix, format=format)
    expected = BUILD[format or ("csc" if source == "csc" else "csr")](dense)
    same(read_by_hand(path), expected)
    assert type(A) is {"csr": diskcsr.DiskCSR, "csc": diskcsr.DiskCSC}[expected.format]
    assert (A.mode, A.name, A.shape) == ("r", "/X", (30, 20))
    same(A.to_memory(), expected)
    A.close()


def test_lists_and_masked_columns(path):
    diskcsr.write(path, [[1, 0], [0, 2]]).close()
    assert_array_equal(read_by_hand(path).toarray(), [[1, 0], [0, 2]])


@both_formats
@pytest.mark.parametrize("target", [None, *FORMATS])
@pytest.mark.parametrize("compression", [None, "gzip"])
def test_an_array_on_disk_is_copied(tmp_path, format, target, compression):
    plain = BUILD[format](dense_matrix())
    with diskcsr.write(tmp_path / "a.h5", plain, compression=compression) as A:
        diskcsr.write(tmp_path / "b.h5", A, format=target).close()
        diskcsr.write(tmp_path / "t.h5", A.T, format=target).close()
    same(read_by_hand(tmp_path / "b.h5"), plain.asformat(target or format))
    other = FORMATS[1 - FORMATS.index(format)]
    same(read_by_hand(tmp_path / "t.h5"), plain.T.asformat(target or other))


def test_an_array_on_disk_is_copied_block_by_block(tmp_path, monkeypatch):
    plain = sp.csr_array(dense_matrix((200, 50)))
    A = diskcsr.write(tmp_path / "a.h5", plain)
    sizes, iter_blocks = [], diskcsr.DiskCSR.iter_blocks

    def small(self, max_bytes):
        assert max_bytes == 1000  # a quarter of the budget
        for first, block in iter_blocks(self, max_bytes):
            sizes.append(block.nnz)
            yield first, block

    monkeypatch.setattr(diskcsr.DiskCSR, "iter_blocks", small)
    with diskcsr.options.set(memory_budget=4000):
        diskcsr.write(tmp_path / "b.h5", A).close()
    assert len(sizes) > 10
    same(read_by_hand(tmp_path / "b.h5"), plain)
    A.close()


def test_what_a_caller_changed_is_what_is_written(tmp_path):
    plain = sp.csr_array(dense_matrix())
    with diskcsr.write(tmp_path / "a.h5", plain) as A:
        A.data *= 2
        diskcsr.write(tmp_path / "b.h5", A).close()
    same(read_by_hand(tmp_path / "b.h5"), plain * 2)


@pytest.mark.parametrize("dtype", "?bBhHiIqQfdgFDG")
@pytest.mark.parametrize("compression", [None, "gzip", "lzf"])
def test_every_dtype(path, dtype, compression):
    dense = dense_matrix(dtype=dtype)
    with diskcsr.write(path, sp.csr_array(dense), compression=compression) as A:
        assert A.dtype == np.dtype(dtype)
        assert_array_equal(A.toarray(), dense)
    stored = read_by_hand(path)
    assert stored.dtype == np.dtype(dtype)
    assert_array_equal(stored.toarray(), dense)
    with h5py.File(path, "r") as file:
        assert file["X/data"].dtype.str.startswith(("<", "|"))


def test_big_endian_arrays(path):
    dense = dense_matrix(dtype=">f8")
    with diskcsr.write(path, dense) as A:
        assert A.dtype == np.float64
        assert A.dtype.isnative
        assert_array_equal(A.toarray(), dense)
    assert dense.dtype == ">f8"


@pytest.mark.parametrize("shape", [(0, 0), (0, 5), (5, 0), (3, 4), (1, 1)])
@both_formats
def test_nothing_stored(path, shape, format):
    for compression in (None, "gzip"):
        A = diskcsr.write(
            path, BUILD[format](shape, dtype=np.float32), compression=compression, overwrite=True
        )
        assert (A.shape, A.nnz, A.dtype) == (shape, 0, np.float32)
        A.close()
        same(read_by_hand(path), BUILD[format](shape, dtype=np.float32))
        with h5py.File(path, "r") as file:
            assert file["X/data"].maxshape == (None,)


@pytest.mark.parametrize(
    "matrix",
    [
        np.zeros((2, 2), np.float16),
        np.array([["a", "b"]]),
        np.array([[None, 1]]),
        np.zeros(3),
        np.zeros((2, 2, 2)),
        sp.coo_array(np.ones(3)),
        3.5,
        "text",
        np.array([["2020-01-01"]], "M8[D]"),
    ],
    ids=["float16", "str", "object", "1-D", "3-D", "1-D sparse", "number", "text", "dates"],
)
def test_what_is_refused_leaves_nothing(tmp_path, matrix):
    with pytest.raises((ValueError, TypeError)):
        diskcsr.write(tmp_path / "m.h5", matrix)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "arguments",
    [
        {"format": "coo"},
        {"chunks": 0},
        {"chunks": -5},
        {"chunks": 2.5},
        {"tags": "loom"},
        {"compression": "bogus"},
        {"compression_opts": 3},
        {"compression": "gzip", "compression_opts": 99},
        {"compression": "lzf", "compression_opts": 4},
    ],
    ids=str,
)
def test_arguments_that_are_not_understood(tmp_path, arguments):
    with pytest.raises((ValueError, TypeError)):
        diskcsr.write(tmp_path / "m.h5", sp.csr_array(np.eye(3)), **arguments)
    assert list(tmp_path.iterdir()) == []


# ------------------------------------------------------------------------------- what is on disk


@both_formats
def test_the_facts_that_peers_insist_on(path, format):
    plain = BUILD[format](dense_matrix())
    diskcsr.write(path, plain).close()
    with h5py.File(path, "r") as file:
        group = file["X"]
        attributes = {
            "h5sparse_format": format,
            "encoding-type": f"{format}_matrix",
            "encoding-version": "0.1.0",
        }
        for name, value in attributes.items():
            stored = group.attrs.get_id(name)
            assert stored.shape == ()
            info = h5py.check_string_dtype(stored.dtype)
            assert info.encoding == "utf-8"
            assert info.length is None  # variable
            assert group.attrs[name] == value
        for name in ("h5sparse_shape", "shape"):
            stored = group.attrs.get_id(name)
            assert (stored.shape, stored.dtype) == ((2,), np.dtype("<i8"))
            assert_array_equal(group.attrs[name], plain.shape)
        assert set(group.attrs) == {*attributes, "h5sparse_shape", "shape"}
        assert set(group) == set(PARTS)  # a dataset 'shape' would make it a 10x file to some
        data, indices, indptr = (group[part] for part in PARTS)
        for dset in (data, indices, indptr):
            assert dset.maxshape == (None,)
            assert dset.chunks is not None
            assert dset.compression is None
            assert dset.ndim == 1
        assert indices.dtype == np.dtype("<i4")
        assert indptr.dtype == np.dtype("<i8")
        assert data.dtype == np.dtype("<f8")
        assert len(data) == len(indices) == indptr[-1] == plain.nnz
        assert indptr[0] == 0


def test_wide_matrices_get_wide_indices(path):
    n = 2**31 + 5
    wide = sp.csr_array(([1.0, 2.0], [3, n - 1], [0, 1, 2]), shape=(2, n))
    with diskcsr.write(path, wide) as A:
        assert A[1, n - 1] == 2
        assert A[0].shape == (n,)
        assert_array_equal(A[:, [n - 1, 3]].toarray(), [[0, 1], [2, 0]])
    with h5py.File(path, "r") as file:
        assert file["X/indices"].dtype == np.dtype("<i8")
        assert_array_equal(file["X"].attrs["shape"], [2, n])


@pytest.mark.parametrize("format", [*FORMATS, None])
def test_indices_are_sorted_and_the_input_is_not(path, format):
    arrays = np.array([1.0, 2, 3, 4]), np.array([3, 0, 2, 1]), np.array([0, 2, 2, 4])
    matrix = sp.csr_array(tuple(array.copy() for array in arrays), shape=(3, 4))
    diskcsr.write(path, matrix, format=format).close()
    for part, before in zip(PARTS, arrays, strict=True):
        assert_array_equal(getattr(matrix, part), before)
    stored = read_by_hand(path)
    assert stored.has_sorted_indices
    assert_array_equal(stored.toarray(), matrix.toarray())
    if format != "csc":
        assert_array_equal(stored.indices, [0, 3, 1, 2])


def test_spare_room_behind_the_arrays_is_not_written(path):
    matrix = sp.csr_array((np.ones(9), np.zeros(9, int), [0, 1, 2]), shape=(2, 3))
    matrix.indptr = np.array([0, 1, 2])
    matrix.data, matrix.indices = np.arange(1.0, 10), np.arange(9) % 3  # longer than nnz
    diskcsr.write(path, matrix).close()
    with h5py.File(path, "r") as file:
        assert len(file["X/data"]) == len(file["X/indices"]) == 2
    assert_array_equal(read_by_hand(path).toarray(), [[1, 0, 0], [0, 2, 0]])


@pytest.mark.parametrize(
    ("storage", "found"),
    [
        ({}, (None, None, False)),
        ({"compression": "gzip"}, ("gzip", 4, None)),
        ({"compression": "gzip", "compression_opts": 7}, ("gzip", 7, None)),
        ({"compression": "gzip", "shuffle": True}, ("gzip", 4, True)),
        ({"compression": "gzip", "shuffle": False}, ("gzip", 4, False)),
        ({"compression": "lzf", "shuffle": True}, ("lzf", None, True)),
        ({"shuffle": True}, (None, None, True)),
    ],
    ids=str,
)
def test_filters(path, storage, found):
    plain = sp.csr_array(dense_matrix((60, 50)))
    diskcsr.write(path, plain, **storage).close()
    with h5py.File(path, "r") as file:
        for part in PARTS:
            dset = file["X"][part]
            assert (dset.compression, dset.compression_opts) == found[:2]
            if found[2] is not None:
                assert dset.shuffle == found[2]
    same(read_by_hand(path), plain)


@pytest.mark.parametrize("chunks", [1, 7, 64, 100_000])
@pytest.mark.parametrize("compression", [None, "gzip"])
def test_chunks(path, chunks, compression):
    plain = sp.csr_array(dense_matrix())
    diskcsr.write(path, plain, chunks=chunks, compression=compression).close()
    with h5py.File(path, "r") as file:
        assert [file["X"][part].chunks for part in PARTS] == [(chunks,)] * 3
    same(read_by_hand(path), plain)


def test_small_matrices_take_little_room(path):
    diskcsr.write(path, sp.csr_array(np.eye(3))).close()
    assert path.stat().st_size < 100_000


def test_written_at_once_it_lies_in_few_pieces(path):
    n = 500_000
    plain = sp.csr_array(
        (np.ones(n, np.float32), np.zeros(n, np.int32), np.arange(0, n + 1, 100)), shape=(5000, 4)
    )
    with diskcsr.write(path, plain) as A:
        for part in ("data", "indices"):
            assert A.reader[part].name == "direct"
            assert len(A.reader[part].extent_offset) <= 2


# -------------------------------------------------------------------------------------- read back


@both_formats
def test_anndata_reads_it(path, format):
    anndata = pytest.importorskip("anndata")
    plain = BUILD[format](dense_matrix())
    for storage in ({}, {"compression": "gzip"}):
        diskcsr.write(path, plain, overwrite=True, **storage).close()
        with h5py.File(path, "r") as file:
            element = anndata.io.read_elem(file["X"])
            assert element.format == format
            assert element.dtype == plain.dtype
            assert_array_equal(element.toarray(), plain.toarray())
            backed = anndata.io.sparse_dataset(file["X"])
            assert backed.format == format
            assert backed.shape == plain.shape
            assert_array_equal(backed[3:9].toarray(), plain[3:9].toarray())


def test_anndata_reads_a_whole_file_written_around_it(tmp_path):
    anndata = pytest.importorskip("anndata")
    path = tmp_path / "a.h5ad"
    plain = sp.csr_array(dense_matrix().astype(np.float32))
    anndata.AnnData(plain * 0).write_h5ad(path)
    diskcsr.write(path, plain, "X", overwrite=True).close()
    diskcsr.write(path, plain.T.tocsr().T, "layers/counts").close()
    loaded = anndata.read_h5ad(path)
    assert_array_equal(loaded.X.toarray(), plain.toarray())
    assert_array_equal(loaded.layers["counts"].toarray(), plain.toarray())
    with h5py.File(path, "r") as file:
        for name in ("X", "layers/counts"):
            assert set(file[name].attrs) == {"encoding-type", "encoding-version", "shape"}


@both_formats
def test_anndata_appends_to_it_and_we_read_that(path, format):
    anndata = pytest.importorskip("anndata")
    plain = BUILD[format](dense_matrix())
    diskcsr.write(path, plain).close()
    stack = sp.vstack if format == "csr" else sp.hstack
    with h5py.File(path, "r+") as file:
        anndata.io.sparse_dataset(file["X"]).append(plain)
        shapes = {
            name: tuple(file["X"].attrs[name])
            for name in ("h5sparse_shape", "shape")
            if name in file["X"].attrs
        }
    expected = stack([plain, plain])
    if len(set(shapes.values())) > 1:  # AnnData left its two tags in conflict: never guess
        with pytest.raises(diskcsr.FormatError, match="h5sparse_shape"):
            diskcsr.open(path)
        opened = diskcsr.open(path, shape=expected.shape)
    else:
        opened = diskcsr.open(path)
    with opened as A:
        assert_array_equal(A.toarray(), expected.toarray())


@both_formats
def test_h5sparse_reads_it(path, format):
    # What h5sparse 0.1 does when it opens a group: these two attributes, in this way.
    plain = BUILD[format](dense_matrix())
    diskcsr.write(path, plain).close()
    with h5py.File(path, "r") as file:
        group = file["X"]
        assert group.attrs.get("h5sparse_format") == format
        assert isinstance(group.attrs["h5sparse_format"], str)
        shape = tuple(group.attrs["h5sparse_shape"])
        assert shape == plain.shape
        matrix = BUILD[group.attrs["h5sparse_format"]](shape, dtype=group["data"].dtype)
        for part in PARTS:
            array = np.empty(group[part].shape, group[part].dtype)
            if array.size:
                group[part].read_direct(array)
            setattr(matrix, part, array)
    assert_array_equal(matrix.toarray(), plain.toarray())


@pytest.mark.parametrize(
    ("tags", "found"),
    [
        (None, {"h5sparse_format", "h5sparse_shape", "encoding-type", "encoding-version", "shape"}),
        (
            "both",
            {"h5sparse_format", "h5sparse_shape", "encoding-type", "encoding-version", "shape"},
        ),
        ("anndata", {"encoding-type", "encoding-version", "shape"}),
        ("h5sparse", {"h5sparse_format", "h5sparse_shape"}),
    ],
)
def test_tags(path, tags, found):
    plain = sp.csr_array(dense_matrix())
    with diskcsr.write(path, plain, tags=tags) as A:
        same(A[:], plain)
    with h5py.File(path, "r") as file:
        assert set(file["X"].attrs) == found


# ------------------------------------------------------------------------------------ the file


def test_names(path):
    plain = sp.csr_array(dense_matrix())
    for name in ("X", "layers/counts", "/a/b/c", "naïve"):
        with diskcsr.write(path, plain, name) as A:
            assert A.name == f"/{name.lstrip('/')}"
        same(read_by_hand(path, name), plain)
    with h5py.File(path, "r") as file:
        assert set(file) == {"X", "layers", "a", "naïve"}
        assert set(file["layers"]) == {"counts"}


def test_into_an_open_file_or_group(path):
    plain = sp.csr_array(dense_matrix())
    with h5py.File(path, "w") as file:
        A = diskcsr.write(file, plain, "one")
        same(A[:], plain)
        diskcsr.write(file.create_group("sub"), plain.tocsc(), "two")
        diskcsr.write(file["sub"], plain, "deep/three")
        assert file  # stays open
        with pytest.raises(ValueError, match="one"):
            diskcsr.write(file, plain, "one")
    for name in ("one", "sub/two", "sub/deep/three"):
        assert_array_equal(read_by_hand(path, name).toarray(), plain.toarray())


def test_an_existing_file_keeps_what_it_has(path):
    with h5py.File(path, "w") as file:
        file["dense"] = np.arange(10)
        file["dense"].attrs["unit"] = "m"
        file.create_group("empty").attrs["note"] = "keep"
    diskcsr.write(path, sp.csr_array(dense_matrix()), "first").close()
    before = contents(path)
    diskcsr.write(path, sp.csc_array(dense_matrix()), "second").close()
    after = contents(path)
    assert {name: after[name] for name in before} == before
    assert {name for name in after if name not in before} == {
        "second",
        *(f"second/{part}" for part in PARTS),
    }


@pytest.mark.parametrize("there", ["matrix", "dataset", "group"])
def test_a_name_that_is_taken(path, there):
    plain = sp.csr_array(dense_matrix())
    with h5py.File(path, "w") as file:
        if there == "dataset":
            file["X"] = np.arange(3)
        elif there == "group":
            file.create_group("X/inside")
        else:
            diskcsr.write(file, plain * 7)
    before = contents(path)
    with pytest.raises(ValueError, match=r"m\.h5.*'X'.*overwrite=True"):
        diskcsr.write(path, plain)
    assert contents(path) == before
    with diskcsr.write(path, plain.tocsc(), overwrite=True) as A:
        same(A[:], plain.tocsc())
    with h5py.File(path, "r") as file:
        assert set(file) == {"X"}
        assert set(file["X"]) == set(PARTS)


class Torn(Exception):
    """Raised in the middle of a write."""


def torn(shape=(30, 20)):
    """A matrix that cannot be read to its end: what is written of it is half of it."""

    class Matrix(sp.csr_array):
        @property
        def has_sorted_indices(self):
            raise Torn

    return Matrix(dense_matrix(shape))


def test_a_failure_leaves_no_file(tmp_path):
    with pytest.raises(Torn):
        diskcsr.write(tmp_path / "m.h5", torn())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["X", "layers/counts"])
@pytest.mark.parametrize("overwrite", [False, True])
def test_a_failure_leaves_an_existing_file_as_it_was(path, name, overwrite):
    plain = sp.csr_array(dense_matrix())
    diskcsr.write(path, plain, "other").close()
    if overwrite:
        diskcsr.write(path, plain * 3, name).close()
    before = contents(path)
    with pytest.raises(Torn):
        diskcsr.write(path, torn(), name, overwrite=overwrite)
    assert contents(path) == before
    assert os.listdir(path.parent) == [path.name]
    diskcsr.write(path, plain, name, overwrite=overwrite).close()
    same(read_by_hand(path, name), plain)


def test_a_failure_leaves_an_open_group_as_it_was(path):
    with h5py.File(path, "w") as file:
        file["sub/dense"] = [1, 2]
        with pytest.raises(Torn):
            diskcsr.write(file["sub"], torn())
        assert set(file["sub"]) == {"dense"}


def test_a_directory_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError):
        diskcsr.write(tmp_path / "nowhere" / "m.h5", np.eye(3))


def test_a_file_that_is_no_hdf5_file_is_left_alone(path):
    path.write_text("precious")
    with pytest.raises(OSError):  # noqa: PT011
        diskcsr.write(path, np.eye(3), overwrite=True)
    assert path.read_text() == "precious"
    assert os.listdir(path.parent) == [path.name]


@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002])
def test_permissions_are_those_of_any_new_file(tmp_path, mask):
    before = os.umask(mask)
    try:
        diskcsr.write(tmp_path / "m.h5", np.eye(3)).close()
        (tmp_path / "other").touch()
        assert os.umask(mask) == mask  # and the umask itself is as it was
    finally:
        os.umask(before)
    modes = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("m.h5", "other")]
    assert modes[0] == modes[1] == 0o666 & ~mask


def test_permissions_of_an_existing_file_stay(path):
    diskcsr.write(path, np.eye(3)).close()
    path.chmod(0o640)
    diskcsr.write(path, np.eye(3), "Y").close()
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


@pytest.mark.parametrize("kind", [str, os.fsencode, lambda path: path])
def test_paths_of_every_kind(path, kind):
    with diskcsr.write(kind(path), np.eye(3)) as A:
        assert A[1, 1] == 1
    with diskcsr.open(kind(path)) as A:
        assert A.shape == (3, 3)


def test_a_relative_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with diskcsr.write("m.h5", np.eye(3)) as A:
        assert A.filename == "m.h5"
    assert os.listdir() == ["m.h5"]


@pytest.mark.parametrize("source", ["whole", "file"])
def test_unfiltered_arrays_lie_in_one_piece_each_and_are_mapped(tmp_path, source):
    rng = np.random.default_rng(0)
    dense = rng.random((400, 300)) * (rng.random((400, 300)) < 0.2)
    matrix = sp.csr_array(dense)
    chunks = 32  # some 750 of them in each array, and HDF5's records of them in many nodes
    path = tmp_path / "m.h5"
    diskcsr.write(path, matrix, chunks=chunks).close()
    if source == "file":
        other = tmp_path / "other.h5"
        with diskcsr.open(path) as opened:
            diskcsr.write(other, opened, chunks=chunks).close()
        path = other
    with diskcsr.open(path) as A:
        for part in ("data", "indices", "indptr"):
            offset = A._source.reader(part).contiguous_offset()
            assert offset is not None
            assert offset % 4096 > 64  # a page's beginning is copied at a third of the speed
        assert isinstance(A.data.base.obj, mmap.mmap)
        assert isinstance(A.indices.base.obj, mmap.mmap)
        assert_array_equal(A.toarray(), dense)
    with h5py.File(path) as file:
        stored = sum(dset.id.get_storage_size() for dset in file["X"].values())
        assert file["X/data"].chunks == (chunks,)
        assert_array_equal(file["X/data"][:], matrix.data)
    assert path.stat().st_size - stored < 64 * 4 * (matrix.nnz // chunks)


@both_formats
@pytest.mark.parametrize("asked", [None, "int32", np.int64])
def test_indices_have_the_width_that_was_asked_for(tmp_path, format, asked):
    plain = BUILD[format](dense_matrix())
    plain.indices, plain.indptr = plain.indices.astype("i8"), plain.indptr.astype("i8")
    stored = np.dtype(asked or "int32")
    calls = {
        "write": lambda path: diskcsr.write(path, plain, index_dtype=asked),
        "blocks": lambda path: diskcsr.write(path, [plain], format=format, index_dtype=asked),
        "triplets": lambda path: diskcsr.from_triplets(
            path, [(*plain.tocoo().coords, plain.data)], plain.shape, format=format,
            index_dtype=asked,
        ),
        "save": lambda path: diskcsr.open(tmp_path / "write.h5").save(path, index_dtype=asked),
        "turned": lambda path: diskcsr.convert(
            plain.asformat("csr" if format == "csc" else "csc"), path, format=format,
            index_dtype=asked,
        ),
        "joined": lambda path: diskcsr.concat([plain], path, index_dtype=asked),
    }  # fmt: skip
    for name, call in calls.items():
        with call(tmp_path / f"{name}.h5") as A:
            assert A.group["indices"].dtype == stored, name
            assert A.group["indptr"].dtype == np.int64
            # As scipy has them of arrays that are made with these.
            assert (A.indices.dtype, A.indptr.dtype) == (stored, stored)
            assert_array_equal(A.toarray(), plain.toarray())
            assert A[2:5].indices.dtype == np.int32  # what is read takes no more than it needs
    with diskcsr.open(tmp_path / "write.h5", mode="r+") as A:
        A.append(plain)
        assert A.group["indices"].dtype == stored


def test_what_no_width_of_indices_is(tmp_path):
    wide = sp.csr_array((np.ones(1), ([0], [2**31])), shape=(1, 2**31 + 1))
    for matrix, asked, error, message in [
        (wide, "int32", ValueError, "index_dtype='int32' does not hold indices up to 2147483648"),
        (wide, "uint32", ValueError, "index_dtype must be int32 or int64, not 'uint32'"),
        (wide, "wide", ValueError, "index_dtype must be int32 or int64, not 'wide'"),
    ]:
        with pytest.raises(error, match=message):
            diskcsr.write(tmp_path / "m.h5", matrix, index_dtype=asked)
    assert os.listdir(tmp_path) == []
    with diskcsr.write(tmp_path / "m.h5", wide) as A:
        assert A.indices.dtype == np.int64


# ------------------------------------------------------------------- row pointers in AnnData files


@pytest.mark.parametrize("format", BUILD)
@pytest.mark.parametrize("known", [True, False], ids=["a matrix", "blocks"])
def test_row_pointers_are_like_indices_where_anndata_reads_them(path, format, known):
    # anndata keeps the types that it finds, and Scanpy and scikit-learn refuse unlike ones.
    plain = BUILD[format](dense_matrix())
    blocks = (plain[:3], plain[3:]) if format == "csr" else (plain[:, :3], plain[:, 3:])
    source = plain if known else iter(blocks)
    diskcsr.write(path, source, format=format, tags="anndata").close()
    with h5py.File(path, "r") as file:
        data, indices, indptr = (file["X"][part] for part in PARTS)
        assert indptr.dtype == indices.dtype == np.dtype("<i4")
        assert len(data) == len(indices) == indptr[-1] == plain.nnz
        assert_array_equal(indptr[:], plain.indptr)
    with diskcsr.open(path, mode="r+") as A:
        A.append(blocks[0])
        assert A.group["indptr"].dtype == np.dtype("<i4")
        assert A.nnz == plain.nnz + blocks[0].nnz


def written_pointers(parts, index, length, nnz):
    """Write row pointers; return the dtype and the length that were created, and what was."""
    created, written = [], []

    class Writer:
        append, finish = written.append, lambda self: None

    def create(dtype, length):
        created.append((dtype, length))
        return Writer()

    pointers = groups._RowPointers(create, np.dtype(index), length, nnz)
    for part in parts:
        pointers.append(np.array(part, np.int64))
    pointers.finish()
    ((dtype, length),) = created
    assert {part.dtype for part in written} == {dtype}
    return dtype, length, np.concatenate(written).tolist()


def test_row_pointers_that_the_wanted_type_cannot_tell():
    few, many = [[3, 100], [], [127]], [[3, 100], [128], [130]]
    assert written_pointers(few, "i1", None, None) == (np.int8, 4, [0, 3, 100, 127])
    assert written_pointers(few, "i1", 4, 127) == (np.int8, 4, [0, 3, 100, 127])
    assert written_pointers(many, "i1", None, None) == (np.int64, None, [0, 3, 100, 128, 130])
    assert written_pointers(many, "i1", 5, 130) == (np.int64, 5, [0, 3, 100, 128, 130])
    assert written_pointers(few, "i8", None, None) == (np.int64, None, [0, 3, 100, 127])


def test_row_pointers_wait_in_so_much_memory(monkeypatch):
    monkeypatch.setattr(groups, "_WAITING", 300)
    ones = [[1], [2], [3]]
    assert written_pointers(ones[:2], "i4", None, None) == (np.int32, 3, [0, 1, 2])
    assert written_pointers(ones, "i4", None, None) == (np.int64, None, [0, 1, 2, 3])


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("", "must not be empty"),
        ("d/x", "'d' is no group, so there cannot be an object 'd/x'"),
        ("/d/x/y", "'/d' is no group"),
        ("g/d/x", "'g/d' is no group"),
    ],
)
def test_names_under_which_there_can_be_no_matrix(tmp_path, name, message):
    path = tmp_path / "m.h5"
    with h5py.File(path, "w") as file:
        file["d"] = file["g/d"] = 1
    before = path.read_bytes()
    with pytest.raises(ValueError, match=message):
        diskcsr.write(path, sp.eye_array(3, format="csr"), name)
    assert path.read_bytes() == before
    diskcsr.write(path, sp.eye_array(3, format="csr"), "/g/new/X").close()
    with diskcsr.open(path, "g/new/X") as A:
        assert A.nnz == 3
