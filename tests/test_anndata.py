"""AnnData objects whose matrices stay in their file, and the files that are written of them."""

import gc
import pickle
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
import scipy.sparse as sp
from realfiles import ROOT

import diskcsr
from diskcsr import DiskCSC, DiskCSCMatrix, DiskCSR, DiskCSRMatrix

anndata = pytest.importorskip("anndata")
pandas = pytest.importorskip("pandas")
from diskcsr import interop  # noqa: E402
from diskcsr.interop.anndata import read_h5ad, write_h5ad  # noqa: E402

# anndata's own, of files of its earlier versions for the most part.
pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning",
    "ignore::FutureWarning",
    "ignore::PendingDeprecationWarning",
)
SHAPE = (40, 30)


def random(shape=SHAPE, seed=0, build=sp.csr_matrix):
    return build(sp.random_array(shape, density=0.2, rng=np.random.default_rng(seed)))


def example():
    """An object with a sparse matrix in each place that takes one."""
    adata = anndata.AnnData(
        X=random(),
        obs=pandas.DataFrame({"kind": ["a", "b"] * 20}, index=[f"c{i}" for i in range(40)]),
        var=pandas.DataFrame({"length": np.arange(30)}, index=[f"g{i}" for i in range(30)]),
        layers={"counts": random(seed=1, build=sp.csc_matrix), "dense": np.ones(SHAPE)},
        obsm={"sparse": random((40, 5), 2), "pca": np.ones((40, 3))},
        obsp={"distances": random((40, 40), 3)},
        varp={"genes": random((30, 30), 4)},
        uns={"title": "t", "matrix": random((3, 4), 5)},
    )
    adata.raw = adata.copy()
    return adata


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "m.h5ad"
    example().write_h5ad(path)
    return path


def on_disk(adata):
    """All that is sparse in an object."""
    parts = {"X": adata.X, "raw": adata.raw.X, "counts": adata.layers["counts"]}
    parts |= {"obsm": adata.obsm["sparse"], "obsp": adata.obsp["distances"]}
    return parts | {"varp": adata.varp["genes"], "uns": adata.uns["matrix"]}


def is_same(found, expected):
    assert list(found.obs_names) == list(expected.obs_names)
    assert list(found.var_names) == list(expected.var_names)
    pandas.testing.assert_frame_equal(found.obs, expected.obs, check_dtype=False)
    pandas.testing.assert_frame_equal(found.var, expected.var)
    for one, other in zip(on_disk(found).values(), on_disk(expected).values(), strict=True):
        assert one.shape == other.shape
        assert one.dtype == other.dtype
        assert one.format == other.format
        np.testing.assert_array_equal(one.toarray(), other.toarray())
    np.testing.assert_array_equal(found.obsm["pca"], expected.obsm["pca"])
    np.testing.assert_array_equal(found.layers["dense"], expected.layers["dense"])
    assert found.uns["title"] == "t"


@pytest.mark.parametrize("spmatrix", [True, False])
def test_matrices_stay_in_the_file(path, spmatrix):
    adata = read_h5ad(path, spmatrix=spmatrix)
    classes = (DiskCSRMatrix, DiskCSCMatrix) if spmatrix else (DiskCSR, DiskCSC)
    for name, matrix in on_disk(adata).items():
        assert type(matrix) is classes[name == "counts"]
        assert matrix.filename == str(path)
        assert not matrix._held()
    is_same(adata, anndata.read_h5ad(path))
    assert isinstance(adata.obs["kind"].dtype, pandas.CategoricalDtype)


def test_the_flavour_is_that_of_anndata(path):
    assert type(read_h5ad(path).X) is DiskCSRMatrix
    if hasattr(anndata.settings, "use_sparse_array_on_read"):
        with anndata.settings.override(use_sparse_array_on_read=True):
            assert type(read_h5ad(path).X) is DiskCSR


@pytest.mark.parametrize("spmatrix", [True, False])
def test_assignments_reach_the_file_where_it_was_opened_for_that(path, spmatrix):
    expected = anndata.read_h5ad(path)
    adata = read_h5ad(path, mode="r+", spmatrix=spmatrix)
    adata.X[0:2] = np.log1p(adata.X[0:2])
    adata.layers["counts"][:, [3]] = 2 * adata.layers["counts"][:, [3]]
    del adata
    gc.collect()
    with diskcsr.File(path, "r+"):  # nothing holds it any more
        pass
    expected.X[0:2] = np.log1p(expected.X[0:2])
    expected.layers["counts"][:, [3]] = 2 * expected.layers["counts"][:, [3]]
    is_same(anndata.read_h5ad(path), expected)


def test_without_that_mode_they_do_not(path):
    expected, adata = anndata.read_h5ad(path), read_h5ad(path)
    with pytest.raises(ValueError, match="open read-only"):
        adata.X[0:2] = np.log1p(adata.X[0:2])
    is_same(anndata.read_h5ad(path), expected)
    with pytest.raises(ValueError, match="mode must be"):
        read_h5ad(path, mode="a")


def test_x_of_another_format_takes_its_place(path):
    """A csr_matrix on disk becomes a csc_matrix; what lies beside it stays."""
    expected = anndata.read_h5ad(path)
    diskcsr.write(path, 2 * expected.X, "X", format="csc", overwrite=True).close()
    found = anndata.read_h5ad(path)
    assert found.X.format == "csc"
    np.testing.assert_array_equal(found.X.toarray(), 2 * expected.X.toarray())
    found.X = expected.X
    is_same(found, expected)
    assert read_h5ad(path).X.format == "csc"


def test_files_are_joined_on_disk(path, tmp_path):
    """By anndata's own function; one of the files is ours."""
    pytest.importorskip("dask", reason="anndata joins what lies in varp by dask")
    adata = read_h5ad(path)
    del adata.layers["counts"]  # it does not put rows of a csc_matrix below each other
    path = tmp_path / "theirs.h5ad"
    adata.to_memory().write_h5ad(path)
    write_h5ad(adata, tmp_path / "ours.h5ad")
    target = tmp_path / "both.h5ad"
    anndata.experimental.concat_on_disk([path, tmp_path / "ours.h5ad"], target, index_unique="-")
    X, expected = read_h5ad(target).X, example().X.toarray()
    assert isinstance(X, DiskCSRMatrix)
    np.testing.assert_array_equal(X.toarray(), np.vstack([expected, expected]))


def test_a_view_reads_what_it_shows(path):
    adata = read_h5ad(path)
    view = adata[[3, 1, 8], ["g5", "g2"]]
    expected = anndata.read_h5ad(path)[[3, 1, 8], ["g5", "g2"]]
    np.testing.assert_array_equal(view.X.toarray(), expected.X.toarray())
    np.testing.assert_array_equal(adata.obs_vector("g4"), anndata.read_h5ad(path).obs_vector("g4"))
    assert "40 × 30" in repr(adata)  # noqa: RUF001
    assert not adata.X._held()
    assert not adata.layers["counts"]._held()


def test_a_copy_is_in_memory(path):
    adata = read_h5ad(path)
    is_same(adata.copy(), adata)
    is_same(adata.to_memory(), adata)
    assert not adata.X._held()


@pytest.mark.parametrize("options", [{}, {"compression": "gzip"}, {"compression": "lzf"}])
@pytest.mark.parametrize("spmatrix", [True, False])
def test_written_block_by_block(path, tmp_path, options, spmatrix):
    adata = read_h5ad(path, spmatrix=spmatrix)
    target = tmp_path / "again.h5ad"
    adata.write_h5ad(target, **options)
    assert not any(matrix._held() for matrix in on_disk(adata).values())
    is_same(anndata.read_h5ad(target), anndata.read_h5ad(path))
    is_same(read_h5ad(target), adata)
    filters = diskcsr.info(target, "X")["matrices"][0]["arrays"]["data"]["filters"]
    used = [one["name"] for one in filters]
    assert used[-1:] == {"gzip": ["deflate"], "lzf": ["lzf"]}.get(options.get("compression"), [])


def test_options_of_anndata_that_we_do_not_have(path, tmp_path):
    adata = read_h5ad(path)
    adata.write_h5ad(tmp_path / "again.h5ad", compression="gzip", compression_opts=9)
    is_same(anndata.read_h5ad(tmp_path / "again.h5ad"), anndata.read_h5ad(path))


def test_the_file_that_is_read_is_not_written_over(path):
    adata = read_h5ad(path)
    before = path.read_bytes()
    with pytest.raises((OSError, ValueError)):
        adata.write_h5ad(path)
    assert path.read_bytes() == before
    is_same(read_h5ad(path), adata)


def test_what_is_written_is_of_one_type_of_index_in_memory(path, tmp_path):
    # anndata keeps what it finds; Scanpy and scikit-learn refuse row pointers of another type.
    read_h5ad(path).write_h5ad(tmp_path / "again.h5ad")
    lazily(path)[0].write_h5ad(tmp_path / "lazy.h5ad", compression="gzip")
    diskcsr.export(random(), tmp_path / "exported.h5ad")
    for name in ("again", "lazy", "exported"):
        X = anndata.read_h5ad(tmp_path / f"{name}.h5ad").X
        assert X.indptr.dtype == X.indices.dtype == np.int32


def test_several_are_joined(path, tmp_path):
    joined = anndata.concat([read_h5ad(path), read_h5ad(path)], index_unique="-")
    expected = anndata.concat([anndata.read_h5ad(path)] * 2, index_unique="-")
    np.testing.assert_array_equal(joined.X.toarray(), expected.X.toarray())


def test_pickled_it_is_small(path):
    adata = read_h5ad(path)
    again = pickle.loads(pickle.dumps(adata.X))
    np.testing.assert_array_equal(again.toarray(), adata.X.toarray())
    assert len(pickle.dumps(adata.X)) < 1000


def test_a_file_without_x(tmp_path):
    obs = pandas.DataFrame(index=["a", "b"])
    anndata.AnnData(obs=obs, layers={"only": random((2, 30))}).write_h5ad(tmp_path / "m.h5ad")
    adata = read_h5ad(tmp_path / "m.h5ad")
    assert adata.X is None
    assert type(adata.layers["only"]) is DiskCSRMatrix


@pytest.mark.skipif(not ROOT.is_dir(), reason="the sample files are not here")
@pytest.mark.parametrize("file", sorted(ROOT.glob("anndata/**/*.h5ad")), ids=lambda file: file.name)
def test_real_files(file):
    try:
        expected = anndata.read_h5ad(file)
    except Exception as problem:
        pytest.skip(f"anndata cannot read it: {problem!r}"[:200])
    adata = read_h5ad(file)
    assert adata.shape == expected.shape
    assert list(adata.layers) == list(expected.layers)
    if sp.issparse(expected.X):
        assert adata.X.filename == str(file)
        np.testing.assert_array_equal(adata.X.toarray(), expected.X.toarray())
    assert list(adata.obs_names) == list(expected.obs_names)
    assert sorted(adata.obs.columns) == sorted(expected.obs.columns)
    assert sorted(adata.uns) == sorted(expected.uns)
    if expected.raw is not None:
        assert adata.raw.shape == expected.raw.shape
        assert list(adata.raw.var_names) == list(expected.raw.var_names)


# -------------------------------------------------------------------------------- lazy arrays


def lazily(path, spmatrix=True):
    """An object of log counts of some cells and genes, which are not computed; and computed."""
    adata, expected = read_h5ad(path, spmatrix=spmatrix), anndata.read_h5ad(path)
    size = np.asarray(expected.X.sum(axis=1)).reshape(-1, 1)
    genes = np.arange(1, 30, 2)
    L = np.log1p(adata.X.lazy / size)[:, genes]
    C = adata.layers["counts"].lazy[:, genes] * 2
    parts = {"obs": adata.obs, "var": adata.var.iloc[genes]}
    lazy = anndata.AnnData(X=L, layers={"twice": C}, obsm={"lazy": L[:, :3]}, **parts)
    lazy.raw = lazy
    dense = np.log1p(expected.X.toarray() / size)[:, genes]
    return lazy, dense, expected.layers["counts"].toarray()[:, genes] * 2


def lazy_parts(lazy):
    return lazy.X, lazy.raw.X, lazy.layers["twice"], lazy.obsm["lazy"]


def is_computed(target, dense, twice):
    """Check what the file of a lazy object holds."""
    found = anndata.read_h5ad(target)
    assert found.X.format == found.raw.X.format == found.obsm["lazy"].format == "csr"
    assert found.layers["twice"].format == "csc"
    expected = (dense, dense, twice, dense[:, :3])
    for matrix, values in zip(lazy_parts(found), expected, strict=True):
        assert matrix.dtype == np.float64
        assert matrix.shape == values.shape
        np.testing.assert_allclose(matrix.toarray(), values, rtol=1e-15)
    assert list(found.var_names) == [f"g{i}" for i in range(1, 30, 2)]


@pytest.mark.parametrize("options", [{}, {"compression": "lzf"}])
@pytest.mark.parametrize("spmatrix", [True, False])
def test_lazy_arrays_are_computed_as_they_are_written(path, tmp_path, options, spmatrix):
    lazy, dense, twice = lazily(path, spmatrix)
    lazy.write_h5ad(tmp_path / "again.h5ad", **options)
    assert not any(matrix._held() for matrix in lazy_parts(lazy))
    is_computed(tmp_path / "again.h5ad", dense, twice)


def test_a_lazy_array_takes_the_place_of_x(path, tmp_path):
    adata, expected = read_h5ad(path), anndata.read_h5ad(path)
    adata.X = np.sqrt(adata.X.lazy)
    assert type(adata.X) is diskcsr.array.LazyCSR
    adata.write_h5ad(tmp_path / "again.h5ad")
    assert not adata.X._held()
    found = anndata.read_h5ad(tmp_path / "again.h5ad")
    np.testing.assert_array_equal(found.X.toarray(), np.sqrt(expected.X.toarray()))


def test_lazy_arrays_are_not_computed_to_know_their_size(path):
    lazy, _, _ = lazily(path)
    assert sys.getsizeof(lazy) > 0
    for matrix in lazy_parts(lazy):
        assert matrix.reader["data"].bytes_read == matrix.reader["indices"].bytes_read == 0
    assert not any(matrix._held() for matrix in lazy_parts(lazy))


def test_a_view_and_a_copy_of_lazy_arrays(path):
    lazy, dense, _ = lazily(path)
    part = lazy[[3, 1], ["g5", "g1"]].X
    np.testing.assert_allclose(part.toarray(), dense[[3, 1]][:, [2, 0]], rtol=1e-15)
    copy = lazy.copy().X
    assert type(copy) is sp.csr_array
    np.testing.assert_allclose(copy.toarray(), dense, rtol=1e-15)


@pytest.mark.filterwarnings("ignore:.*zarr:UserWarning")
@pytest.mark.parametrize("nbytes", [200, 1 << 26])
def test_writers_of_anndata_are_given_blocks(path, tmp_path, monkeypatch, nbytes):
    """A zarr store, and filters that are its own affair."""
    pytest.importorskip("zarr")
    hdf5plugin = pytest.importorskip("hdf5plugin")
    monkeypatch.setattr(interop.anndata, "_BLOCK_BYTES", nbytes)
    lazy, dense, twice = lazily(path)
    adata = read_h5ad(path)
    adata.obsm["by columns"] = adata.X.to_memory().tocsc()
    adata.layers["none"] = adata.X.lazy * 0
    lazy.write_zarr(tmp_path / "a.zarr")
    adata.write_zarr(tmp_path / "b.zarr")
    for matrix in [*lazy_parts(lazy), adata.X]:
        assert not matrix._held()
    found, plain = (anndata.read_zarr(tmp_path / name) for name in ("a.zarr", "b.zarr"))
    for matrix in (found.X, plain.X):
        assert isinstance(matrix, sp.csr_array | sp.csr_matrix)
        matrix.check_format()
    np.testing.assert_allclose(found.X.toarray(), dense, rtol=1e-15)
    np.testing.assert_allclose(found.layers["twice"].toarray(), twice, rtol=1e-15)
    np.testing.assert_array_equal(plain.X.toarray(), adata.X.toarray())
    assert plain.X.dtype == adata.X.dtype
    np.testing.assert_array_equal(plain.layers["none"].toarray(), 0 * adata.X.toarray())
    lazy.write_h5ad(tmp_path / "a.h5ad", compression="gzip", compression_opts=9)
    is_computed(tmp_path / "a.h5ad", *lazily(path)[1:])
    adata.write_h5ad(tmp_path / "b.h5ad", compression=hdf5plugin.FILTERS["zstd"])
    stored = anndata.read_h5ad(tmp_path / "b.h5ad").X
    np.testing.assert_array_equal(stored.toarray(), adata.X.toarray())


@pytest.mark.filterwarnings("ignore:.*zarr:UserWarning")
def test_chunks_do_not_depend_on_the_first_block(path, tmp_path, monkeypatch):
    zarr = pytest.importorskip("zarr")
    monkeypatch.setattr(interop.anndata, "_BLOCK_BYTES", 100)
    group = zarr.open_group(tmp_path / "a.zarr", mode="w")
    lines = sp.vstack([sp.csr_array((500, 30)), sp.csr_array(random((500, 30), seed=7))])
    with diskcsr.write(tmp_path / "m.h5", lines, format="csr") as A:
        anndata.io.write_elem(group, "X", A)
    assert group["X/data"].chunks == (1 << 17,)
    if getattr(anndata.settings, "auto_shard_zarr_v3", False):
        assert group["X/indices"].shards == (1 << 21,)
    np.testing.assert_array_equal(anndata.io.read_elem(group["X"]).toarray(), lines.toarray())


@pytest.mark.filterwarnings("ignore:.*zarr:UserWarning")
@pytest.mark.parametrize("kind", ["zarr", "h5"])
def test_what_was_not_written_to_the_end_is_not_there(path, tmp_path, monkeypatch, kind):
    zarr, hdf5plugin = pytest.importorskip("zarr"), pytest.importorskip("hdf5plugin")
    monkeypatch.setattr(interop.anndata, "_BLOCK_BYTES", 100)
    A, calls = read_h5ad(path).X, []

    def stopped(element, blocks):
        for number, block in enumerate(blocks):
            if number == 2:
                raise KeyboardInterrupt
            calls.append(1)
            append(element, [block])

    append = interop.anndata._append
    monkeypatch.setattr(interop.anndata, "_append", stopped)
    target = tmp_path / f"a.{kind}"
    group = zarr.open_group(target, mode="w") if kind == "zarr" else h5py.File(target, "w")
    how = {} if kind == "zarr" else {"compression": hdf5plugin.FILTERS["zstd"]}
    with pytest.raises(KeyboardInterrupt):
        anndata.io.write_elem(group, "X", A, dataset_kwargs=how)
    assert len(calls) == 2
    assert "X" not in group


@pytest.mark.filterwarnings("ignore:.*zarr:UserWarning")
def test_a_small_budget_is_enough_for_writers_of_anndata(tmp_path):
    zarr = pytest.importorskip("zarr")
    matrix = sp.random_array((20_000, 100), density=0.2, rng=np.random.default_rng(0), format="csr")
    group = zarr.open_group(tmp_path / "a.zarr", mode="w")
    A = diskcsr.write(tmp_path / "m.h5", matrix)  # 4.8 MB
    with diskcsr.options.set(memory_budget=1_000_000):
        anndata.io.write_elem(group, "X", A)
    assert (anndata.io.read_elem(group["X"]) != matrix).nnz == 0


# --------------------------------------------------------------------------- write_h5ad of our own


def filters_of(target, name="X"):
    filters = diskcsr.info(target, name)["matrices"][0]["arrays"]["data"]["filters"]
    return [one["name"] for one in filters]


def test_own_writer_of_lazy_arrays(path, tmp_path):
    lazy, dense, twice = lazily(path)
    target = tmp_path / "again.h5ad"
    write_h5ad(lazy, target, compression="gzip", compression_opts=9, shuffle=False)
    assert not any(matrix._held() for matrix in lazy_parts(lazy))
    is_computed(target, dense, twice)
    for name in ("X", "raw/X", "layers/twice", "obsm/lazy"):
        assert filters_of(target, name) == ["deflate"]
        with diskcsr.open(target, name) as A:
            assert A.group["data"].compression_opts == 9
            assert set(A.group.attrs) == {"encoding-type", "encoding-version", "shape"}


def test_own_writer_takes_what_diskcsr_compresses_with(path, tmp_path):
    pytest.importorskip("hdf5plugin")
    adata = read_h5ad(path)
    write_h5ad(adata, tmp_path / "again.h5ad", compression="zstd", chunks=100)
    assert filters_of(tmp_path / "again.h5ad") == ["shuffle", "zstd"]
    assert not any(matrix._held() for matrix in on_disk(adata).values())
    is_same(read_h5ad(tmp_path / "again.h5ad"), anndata.read_h5ad(path))


def test_own_writer_replaces_the_file_that_was_read(path):
    expected = anndata.read_h5ad(path)
    adata = read_h5ad(path)
    with pytest.raises(FileExistsError, match="overwrite=True"):
        write_h5ad(adata, path)
    write_h5ad(adata, path, overwrite=True, compression="lzf")
    assert filters_of(path)[-1] == "lzf"
    is_same(read_h5ad(path), expected)
    assert [one.name for one in path.parent.iterdir()] == [path.name]


def test_own_writer_leaves_nothing_of_what_fails(path, tmp_path):
    before = path.read_bytes()
    adata = read_h5ad(path)
    with pytest.raises(ValueError, match="compression"):
        write_h5ad(adata, path, overwrite=True, compression="none such")
    with pytest.raises(TypeError, match="tags="):
        write_h5ad(adata, tmp_path / "new.h5ad", tags="both")
    with pytest.raises(TypeError, match="no_such"):
        write_h5ad(adata, tmp_path / "new.h5ad", no_such=1)
    assert path.read_bytes() == before
    assert [one.name for one in tmp_path.iterdir()] == [path.name]
    adata.write_h5ad(tmp_path / "new.h5ad")  # what was said once is forgotten
    is_same(read_h5ad(tmp_path / "new.h5ad"), adata)


MEMORY = r"""
import re, sys, anndata, diskcsr, numpy, pandas
from diskcsr.interop.anndata import read_h5ad
source, target = sys.argv[1:]
def peak():
    return int(re.search(r"VmHWM:\s+(\d+)", open("/proc/self/status").read())[1])
anndata.AnnData(numpy.ones((3, 3))).write_h5ad(target)  # all is imported
adata = read_h5ad(source)
diskcsr.options.num_threads = 1  # each holds some blocks of 64 MiB
before = peak()
adata.write_h5ad(target, compression="lzf")
print(adata.X.nnz * 12 >> 10, peak() - before)
"""


@pytest.mark.alone
def test_writing_takes_the_memory_of_blocks(tmp_path):
    source = tmp_path / "m.h5ad"
    block = sp.random_array((2000, 5000), density=0.1, rng=np.random.default_rng(0), format="csr")
    obs, var = (pandas.DataFrame(index=np.arange(n).astype(str)) for n in (90_000, 5000))
    anndata.AnnData(obs=obs, var=var).write_h5ad(source)
    diskcsr.write(source, (block for _ in range(45)), "X").close()
    words = [sys.executable, "-W", "ignore", "-c", MEMORY, source, tmp_path / "again.h5ad"]
    run = subprocess.run(words, capture_output=True, text=True, check=True)
    size, peak = map(int, run.stdout.split())
    assert size > 500_000
    assert peak < 320_000, f"{peak} kB for a matrix of {size} kB"


def test_an_object_that_anndata_has_backed_is_left_as_it_was(tmp_path):
    path, target = tmp_path / "m.h5ad", tmp_path / "again.h5ad"
    example().write_h5ad(path)
    backed = anndata.read_h5ad(path, backed="r")
    expected = backed.X[:].toarray()
    write_h5ad(backed, target)
    assert Path(backed.filename) == target  # as after its own write_h5ad
    np.testing.assert_array_equal(backed.X[:].toarray(), expected)
    np.testing.assert_array_equal(anndata.read_h5ad(target).X.toarray(), expected)
    backed.file.close()


@pytest.mark.parametrize(
    ("keywords", "problem"),
    [
        ({"compresion": "zstd"}, TypeError),
        ({"compression": "nonsense"}, ValueError),
        ({"chunks": -1}, ValueError),
        ({"tags": "both"}, TypeError),
    ],
    ids=str,
)
def test_keywords_are_looked_at_whatever_there_is_to_write(tmp_path, keywords, problem):
    target = tmp_path / "m.h5ad"
    with pytest.raises(problem):
        write_h5ad(example(), target, **keywords)
    assert list(tmp_path.iterdir()) == []


def test_permissions_of_a_file_that_is_replaced_stay(tmp_path):
    target = tmp_path / "m.h5ad"
    write_h5ad(example(), target)
    target.chmod(0o640)
    write_h5ad(example(), target, overwrite=True)
    assert target.stat().st_mode & 0o777 == 0o640
    with pytest.raises(FileExistsError, match="overwrite=True"):
        write_h5ad(example(), target)
