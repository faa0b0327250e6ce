"""Files of other kinds that matrices are stored as, each read by the software that owns it."""

import errno
import gzip
import os
import subprocess
import sys

import h5py
import numpy as np
import pytest
import scipy.io
import scipy.sparse as sp

import diskcsr
from diskcsr.exporting import annotated, export

# anndata's own, of the zarr format that it writes.
pytestmark = pytest.mark.filterwarnings("ignore:Writing zarr v2 data:UserWarning")

DTYPES = ["f4", "f8", "i1", "u2", "i4", "i8", "u8", "?", "c8", "c16"]
KINDS = {"mtx": "m.mtx", "npz": "m.npz", "parquet": "m.parquet", "h5ad": "m.h5ad", "zarr": "m.zarr"}


def random(shape, dtype, build=sp.csr_array, seed=0):
    plain = sp.random_array(shape, density=0.3, rng=np.random.default_rng(seed), format="csr")
    plain.data = np.random.default_rng(seed).integers(1, 100, plain.nnz) / 7
    return build(plain.astype(dtype))


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    """Several blocks of a small matrix."""
    monkeypatch.setattr(export, "_BLOCK", 400)
    monkeypatch.setattr(annotated, "_CHUNK", 16)


def read_back(path, kind):
    """What the owner of a format finds in a file: a matrix, and the names of rows and columns."""
    if kind == "mtx":
        return scipy.io.mmread(path, spmatrix=False), None, None
    if kind == "npz":
        return sp.load_npz(path), None, None
    if kind == "parquet":
        parquet = pytest.importorskip("pyarrow.parquet", reason="the extra diskcsr[tables]")
        table = parquet.read_table(path)
        shape = tuple(map(int, table.schema.metadata[b"shape"].split(b",")))
        rows, columns, values = (table[name].to_numpy() for name in ("row", "column", "value"))
        return sp.coo_array((values, (rows, columns)), shape=shape), None, None
    anndata = pytest.importorskip("anndata")
    adata = anndata.read_h5ad(path) if kind == "h5ad" else anndata.read_zarr(path)
    return adata.X, list(adata.obs_names), list(adata.var_names)


def needs(kind):
    """Skip where the library is not there that writes files of a kind."""
    for name in {"parquet": ["pyarrow"], "h5ad": ["anndata"], "zarr": ["anndata", "zarr"]}.get(
        kind, []
    ):
        pytest.importorskip(name, reason=f"{kind} is written by {name}")


@pytest.mark.parametrize("build", [sp.csr_array, sp.csc_array, sp.csr_matrix])
@pytest.mark.parametrize("kind", KINDS)
def test_read_back_by_the_owner_of_the_format(tmp_path, kind, build):
    needs(kind)
    plain = random((23, 17), "f4", build)
    spmatrix = isinstance(plain, sp.spmatrix)
    diskcsr.write(tmp_path / "m.h5", plain).close()
    with diskcsr.open(tmp_path / "m.h5", spmatrix=spmatrix) as A:
        diskcsr.export(A, tmp_path / KINDS[kind])
    found, rows, columns = read_back(tmp_path / KINDS[kind], kind)
    assert found.shape == plain.shape
    assert found.dtype == (np.float64 if kind == "mtx" else np.float32)
    np.testing.assert_array_equal(found.toarray().astype("f4"), plain.toarray())
    if kind == "npz":
        assert type(found) is type(plain)
        for part in ("data", "indices", "indptr"):
            np.testing.assert_array_equal(getattr(found, part), getattr(plain, part))
            assert getattr(found, part).dtype == getattr(plain, part).dtype
    if rows is not None:
        assert found.format == plain.format
        assert rows == [str(i) for i in range(23)]
        assert columns == [str(i) for i in range(17)]
    assert sorted(os.listdir(tmp_path)) == sorted(["m.h5", KINDS[kind]])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", ["mtx", "npz"])
def test_every_dtype(tmp_path, kind, dtype):
    plain = random((9, 8), dtype)
    diskcsr.export(plain, tmp_path / KINDS[kind])
    found, _, _ = read_back(tmp_path / KINDS[kind], kind)
    # The text has as many digits as it takes to tell values of that dtype apart.
    np.testing.assert_array_equal(found.toarray().astype(dtype), plain.toarray())
    if kind == "npz":
        assert found.dtype == plain.dtype
    back = diskcsr.convert(tmp_path / KINDS[kind], tmp_path / "back.h5")
    np.testing.assert_array_equal(back.toarray(), found.toarray())


@pytest.mark.parametrize("kind", ["mtx", "npz"])
def test_arrays_with_room_behind_their_values(tmp_path, kind):
    plain = random((9, 8), "f4")
    longer = [np.append(part, [1, 2]).astype(part.dtype) for part in (plain.data, plain.indices)]
    roomy = sp.csr_array((*longer, plain.indptr), shape=plain.shape)
    diskcsr.export(roomy, tmp_path / KINDS[kind])
    found, _, _ = read_back(tmp_path / KINDS[kind], kind)
    assert found.nnz == plain.nnz
    np.testing.assert_array_equal(found.toarray().astype("f4"), plain.toarray())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(0, 5), (5, 0), (3, 4)])
def test_nothing_stored(tmp_path, kind, shape):
    needs(kind)
    diskcsr.export(sp.csr_array(shape, dtype="f4"), tmp_path / KINDS[kind])
    found, _, _ = read_back(tmp_path / KINDS[kind], kind)
    assert found.shape == shape
    assert found.nnz == 0


@pytest.mark.parametrize("suffix", ["mtx", "mtx.gz", "mtx.bz2"])
def test_market_reads_back_the_same_bits(tmp_path, suffix):
    rng = np.random.default_rng(0)
    plain = sp.random_array((40, 30), density=0.5, rng=rng, format="csc")
    plain.data = rng.normal(size=plain.nnz) * 10.0 ** rng.integers(-300, 300, plain.nnz)
    diskcsr.export(plain, tmp_path / f"m.{suffix}")
    found = scipy.io.mmread(tmp_path / f"m.{suffix}", spmatrix=False).tocsc()
    np.testing.assert_array_equal(found.toarray(), plain.toarray())
    if suffix == "mtx.gz":
        with gzip.open(tmp_path / "m.mtx.gz") as file:
            assert file.read().count(b"%%MatrixMarket") == 1


@pytest.mark.parametrize("kind", KINDS)
def test_a_budget_far_below_the_matrix(tmp_path, kind, monkeypatch):
    needs(kind)
    monkeypatch.setattr(export, "_BLOCK", 1 << 24)
    plain = random((500, 400), "f8")
    A = diskcsr.write(tmp_path / "m.h5", plain)
    with diskcsr.options.set(memory_budget=100_000):  # of 720,000
        diskcsr.export(A, tmp_path / KINDS[kind])
    found, _, _ = read_back(tmp_path / KINDS[kind], kind)
    np.testing.assert_array_equal(found.toarray(), plain.toarray())


def test_npz_is_mapped_or_compressed(tmp_path):
    plain = random((50, 40), "f8")
    diskcsr.export(plain, tmp_path / "raw.npz")
    diskcsr.export(plain, tmp_path / "small.npz", compression="deflate")
    assert (tmp_path / "small.npz").stat().st_size < (tmp_path / "raw.npz").stat().st_size
    np.testing.assert_array_equal(sp.load_npz(tmp_path / "small.npz").toarray(), plain.toarray())


def test_lazy_arrays(tmp_path):
    plain = random((23, 17), "f8")
    A = diskcsr.write(tmp_path / "m.h5", plain)
    L = np.log1p(A.lazy[5:20][:, [3, 1, 8]])
    for kind in ("mtx", "npz"):
        diskcsr.export(L, tmp_path / KINDS[kind])
        found, _, _ = read_back(tmp_path / KINDS[kind], kind)
        np.testing.assert_array_equal(
            found.toarray(), np.log1p(plain[5:20][:, [3, 1, 8]].toarray())
        )


@pytest.mark.parametrize("kind", ["h5ad", "zarr"])
def test_names(tmp_path, kind):
    needs(kind)
    plain, rows, columns = random((3, 2), "i4"), ["x", "y", "ż"], ["é", "b"]
    diskcsr.export(plain, tmp_path / KINDS[kind], row_names=rows, column_names=np.array(columns))
    found, row_names, column_names = read_back(tmp_path / KINDS[kind], kind)
    assert (row_names, column_names) == (rows, columns)
    np.testing.assert_array_equal(found.toarray(), plain.toarray())
    with pytest.raises(ValueError, match="row_names must be 3 strings, not <U1 of shape"):
        diskcsr.export(plain, tmp_path / "other.h5ad", row_names=["a", "b"])
    with pytest.raises(ValueError, match="column_names must be 2 strings, not int64"):
        diskcsr.export(plain, tmp_path / "other.h5ad", column_names=[1, 2])
    assert os.listdir(tmp_path) == [KINDS[kind]]


def test_tenx(tmp_path):
    plain = random((20, 12), "i4", sp.csc_array)
    names = {
        "row_names": [f"g{i}" for i in range(20)],
        "column_names": [f"c{i}" for i in range(12)],
    }
    diskcsr.export(plain, tmp_path / "m.h5", kind="10x", **names)
    with h5py.File(tmp_path / "m.h5") as file:
        group = file["matrix"]
        assert list(group["shape"][:]) == [20, 12]
        assert [name.decode() for name in group["barcodes"]] == names["column_names"]
        for name in ("id", "name"):
            assert [one.decode() for one in group["features"][name]] == names["row_names"]
        assert set(group["features"]) == {"id", "name", "feature_type", "genome", "_all_tag_keys"}
        arrays = (group[part][:] for part in ("data", "indices", "indptr"))
        found = sp.csc_array(tuple(arrays), shape=(20, 12))
    np.testing.assert_array_equal(found.toarray(), plain.toarray())
    np.testing.assert_array_equal(diskcsr.open(tmp_path / "m.h5").toarray(), plain.toarray())
    with pytest.raises(ValueError, match="of a csr of cells x genes"):
        diskcsr.export(plain.tocsr(), tmp_path / "other.h5", kind="10x")


def test_read_back_by_scanpy(tmp_path):
    scanpy = pytest.importorskip("scanpy", reason="scanpy is not installed")
    plain = random((20, 12), "i4", sp.csc_array)
    diskcsr.export(plain, tmp_path / "m.h5", kind="10x")
    adata = scanpy.read_10x_h5(tmp_path / "m.h5")
    np.testing.assert_array_equal(adata.X.toarray(), plain.toarray().T)


def test_what_is_refused(tmp_path):
    plain = random((3, 4), "f4")
    with pytest.raises(ValueError, match="its name does not tell what to write"):
        diskcsr.export(plain, tmp_path / "m.h5")
    with pytest.raises(ValueError, match="kind= must be one of 'mtx', 'npz'"):
        diskcsr.export(plain, tmp_path / "m.npz", kind="csv")
    with pytest.raises(ValueError, match="row_names=: not for mtx"):
        diskcsr.export(plain, tmp_path / "m.mtx", row_names=["a", "b", "c"])
    with pytest.raises(ValueError, match="npz knows 'deflate'"):
        diskcsr.export(plain, tmp_path / "m.npz", compression="gzip")
    with pytest.raises(TypeError, match="takes a matrix or a file, not ndarray"):
        diskcsr.export(plain.toarray(), tmp_path / "m.npz")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("kind", ["npz", "zarr"])
def test_what_is_there_is_replaced_when_asked(tmp_path, kind):
    needs(kind)
    path = tmp_path / KINDS[kind]
    diskcsr.export(random((3, 4), "f4"), path)
    with pytest.raises(FileExistsError, match="overwrite=True"):
        diskcsr.export(random((5, 4), "f4"), path)
    assert read_back(path, kind)[0].shape == (3, 4)
    diskcsr.export(random((5, 4), "f4"), path, overwrite=True)
    assert read_back(path, kind)[0].shape == (5, 4)
    assert os.listdir(tmp_path) == [KINDS[kind]]


@pytest.mark.parametrize("kind", KINDS)
def test_a_folder_of_other_things_is_never_replaced(tmp_path, kind):
    needs(kind)
    path = tmp_path / KINDS[kind]
    path.mkdir()
    (path / "thesis.txt").write_text("all of it")
    with pytest.raises(IsADirectoryError, match="is a folder, and not"):
        diskcsr.export(random((3, 4), "f4"), path, overwrite=True)
    assert os.listdir(path) == ["thesis.txt"]


@pytest.mark.parametrize("inside", ["{}", '{"node_type": "array"}', "no JSON"])
def test_no_other_folder_of_zarr_is_replaced(tmp_path, inside):
    needs("zarr")
    path = tmp_path / "m.zarr"
    path.mkdir()
    (path / "zarr.json").write_text(inside)
    with pytest.raises(IsADirectoryError, match="is a folder, and not"):
        diskcsr.export(random((3, 4), "f4"), path, overwrite=True)
    assert (path / "zarr.json").read_text() == inside


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("folder", [True, False])
def test_what_comes_meanwhile_is_not_replaced(tmp_path, kind, folder):
    needs(kind)
    path = tmp_path / KINDS[kind]
    A = diskcsr.write(tmp_path / "m.h5", random((40, 30), "f4"))

    def come(done, total):
        if folder:
            path.mkdir(exist_ok=True)
            (path / "thesis.txt").write_text("all of it")
        else:
            path.write_text("all of it")

    with pytest.raises(IsADirectoryError if folder else FileExistsError):
        diskcsr.export(A, path, progress=come)
    assert (path / "thesis.txt" if folder else path).read_text() == "all of it"
    assert sorted(os.listdir(tmp_path)) == sorted(["m.h5", KINDS[kind]])


def test_a_store_that_cannot_be_replaced_stays(tmp_path, monkeypatch):
    needs("zarr")
    path = tmp_path / "m.zarr"
    diskcsr.export(random((3, 4), "f4"), path)

    def refuse(source, target):
        if os.fspath(target) == os.fspath(path):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return replace(source, target)

    replace = os.replace
    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(diskcsr.WriteError):
        diskcsr.export(random((5, 4), "f4"), path, overwrite=True)
    monkeypatch.undo()
    assert read_back(path, "zarr")[0].shape == (3, 4)
    assert os.listdir(tmp_path) == ["m.zarr"]


@pytest.mark.parametrize("kind", KINDS)
def test_an_interrupt_leaves_what_was_there(tmp_path, kind, monkeypatch):
    needs(kind)
    path = tmp_path / KINDS[kind]
    diskcsr.export(random((5, 4), "f4"), path)
    A = diskcsr.write(tmp_path / "m.h5", random((40, 30), "f4"))

    def stop(done, total):
        raise KeyboardInterrupt

    if kind != "h5ad":  # whose matrix `write` stores
        with pytest.raises(KeyboardInterrupt):
            diskcsr.export(A, path, overwrite=True, progress=stop)
        assert sorted(os.listdir(tmp_path)) == sorted(["m.h5", KINDS[kind]])
    assert read_back(path, kind)[0].shape == (5, 4)


FULL = """
import resource, signal, sys, diskcsr
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
source, target = sys.argv[1:]
diskcsr.open(source).close()
resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
try:
    diskcsr.export(source, target)
except diskcsr.WriteError as problem:
    assert isinstance(problem, OSError)
    print(problem.filename, problem)
"""


@pytest.mark.parametrize("kind", ["mtx", "npz", "parquet"])
def test_a_limit_of_the_system(tmp_path, kind):
    needs(kind)
    plain = sp.random_array((200, 300), density=0.3, rng=np.random.default_rng(0))
    diskcsr.write(tmp_path / "m.h5", plain).close()
    target = tmp_path / KINDS[kind]
    words = [sys.executable, "-c", FULL, tmp_path / "m.h5", target]
    run = subprocess.run(words, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert run.stdout.startswith(str(target))
    assert "nothing else was changed" in run.stdout
    assert os.listdir(tmp_path) == ["m.h5"]


MEMORY = r"""
import re, sys, diskcsr, numpy, scipy.io, scipy.sparse
source, target = sys.argv[1:]
def peak():
    return int(re.search(r"VmHWM:\s+(\d+)", open("/proc/self/status").read())[1])
diskcsr.export(scipy.sparse.eye_array(50, format="csr"), target)  # all is imported
with diskcsr.open(source) as A:
    before = peak()
    diskcsr.export(A, target, overwrite=True)
    print(A.nnz * 12 >> 10, peak() - before)
"""


@pytest.mark.alone
@pytest.mark.parametrize("kind", ["npz", "parquet"])
def test_memory_does_not_grow_with_the_matrix(tmp_path, kind):
    needs(kind)
    rng = np.random.default_rng(0)
    block = sp.random_array((2000, 5000), density=0.1, rng=rng, format="csr")
    diskcsr.write(tmp_path / "m.h5", (block for _ in range(30))).close()
    words = [sys.executable, "-c", MEMORY, tmp_path / "m.h5", tmp_path / KINDS[kind]]
    run = subprocess.run(words, capture_output=True, text=True, check=True)
    size, peak = map(int, run.stdout.split())
    assert size > 350_000
    assert peak < 250_000, f"{peak} kB for a matrix of {size} kB"


def test_a_circle_of_links_is_no_place_for_a_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    os.symlink("b", "a")
    os.symlink("a", "b")
    plain = random((5, 4), "f4")
    for name in ("a", "a/m.mtx"):
        for overwrite in (False, True):
            with pytest.raises(OSError, match="links") as caught:
                diskcsr.export(plain, name, kind="mtx", overwrite=overwrite)
            assert (caught.value.errno, caught.value.filename) == (errno.ELOOP, name)
    with pytest.raises(OSError, match="links") as caught:
        diskcsr.export("a", "m.mtx")
    assert (caught.value.errno, caught.value.filename) == (errno.ELOOP, "a")
    assert sorted(os.listdir()) == ["a", "b"]
    assert os.path.islink("a")


@pytest.mark.parametrize("kind", KINDS)
def test_progress_comes_to_its_end(tmp_path, kind):
    needs(kind)
    told = []
    plain = random((40, 30), "f4")
    with diskcsr.write(tmp_path / "a.h5", plain) as A:
        for matrix in (plain, A):
            told.clear()
            path = tmp_path / KINDS[kind]
            diskcsr.export(matrix, path, overwrite=True, progress=lambda *now: told.append(now))
            total = (2 if kind == "npz" else 1) * plain.nnz * 8
            assert told == sorted(told)
            assert told[-1] == (total, total)
            assert len(told) > 2 or matrix is plain  # which is one block
        told.clear()
        where = {"overwrite": True, "progress": lambda *now: told.append(now)}
        diskcsr.export(A.lazy > 1, path, **where)  # nobody knows how many there are
        assert {total for _, total in told} == {None}
