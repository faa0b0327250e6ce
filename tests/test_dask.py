"""Arrays of Dask over files: what they give, what their tasks carry, who may die meanwhile."""

import errno
import os
import pickle
import signal
import subprocess
import sys
import time
import warnings

import h5py
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from parts import write_parts
from scipy.sparse import csc_array, csr_array, csr_matrix, issparse, random_array

import diskcsr
from diskcsr.interop.blocks import CSCBlock, CSRBlock
from diskcsr.storage.edit import virtual
from diskcsr.writing import parallel

dask = pytest.importorskip("dask", reason="Dask is not installed")
da = pytest.importorskip("dask.array", reason="Dask is not installed")

PLAIN = csr_array(random_array((120, 40), density=0.2, rng=np.random.default_rng(0), dtype="f"))
DENSE = PLAIN.toarray()
both_formats = pytest.mark.parametrize("format", ["csr", "csc"])


@pytest.fixture(autouse=True)
def _one_thread():
    with dask.config.set(scheduler="synchronous"):
        yield


@pytest.fixture(params=["file", "files"])
def disk(tmp_path, request):
    """A matrix in one file, and the same one in four."""
    if request.param == "file":
        diskcsr.write(tmp_path / "m.h5", PLAIN).close()
        opened = diskcsr.open(tmp_path / "m.h5")
    else:
        opened = diskcsr.open(write_parts(tmp_path, PLAIN, [7, 50, 50]))
    with opened as A:
        yield A


def dense(result):
    return np.asarray(result.toarray() if issparse(result) else result)


OPERATIONS = {
    "all": lambda D: D,
    "rows": lambda D: D[10:60],
    "some rows": lambda D: D[[5, 70, 3]],
    "a mask": lambda D: D[np.arange(120) % 3 == 0],
    "columns": lambda D: D[:, [3, 1]],
    "an element": lambda D: D[3, 4],
    "sum": lambda D: D.sum(),
    "sum of columns": lambda D: D.sum(axis=0),
    "sum of rows": lambda D: D.sum(axis=1, keepdims=True),
    "mean": lambda D: D.mean(axis=0),
    "variance": lambda D: D.var(axis=0),
    "largest": lambda D: D.max(axis=0),
    "least": lambda D: (-D).min(axis=1),
    "count": lambda D: (D != 0).sum(axis=0),
    "vector": lambda D: D @ np.arange(40.0),
    "matrix": lambda D: D @ np.ones((40, 3)),
    "from the left": lambda D: np.ones((2, 120)) @ D,
    "transpose": lambda D: D.T,
    "of the transpose": lambda D: D.T @ np.ones((120, 2)),
    "gram": lambda D: D.T @ D,
    "dot": lambda D: D.dot(np.ones((40, 3))),
    "by a number": lambda D: 2 * D,
    "by rows": lambda D: D * np.arange(40.0),
    "by columns": lambda D: D / np.arange(1.0, 121)[:, None],
    "log1p": lambda D: np.log1p(D),
    "abs": lambda D: abs(-D),
    "astype": lambda D: D.astype("f8"),
    "compared": lambda D: D > 0.5,
    "added": lambda D: D + D,
    "normalised": lambda D: np.log1p(D / D.sum(axis=1, keepdims=True) * 100).sum(axis=0),
}


@pytest.mark.parametrize("work", OPERATIONS.values(), ids=OPERATIONS)
def test_it_computes_as_a_dense_array_does(disk, work):
    D = disk.to_dask(chunks=25)
    assert D.chunks == ((25, 25, 25, 25, 20), (40,))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", da.PerformanceWarning)
        got, expected = work(D), np.asarray(work(DENSE))
    assert got.shape == expected.shape
    assert got.dtype == expected.dtype
    result = got.compute()
    assert_allclose(dense(result), expected, rtol=2e-4, atol=1e-6)


def test_what_it_is(disk):
    D = disk.to_dask(chunks=(50, 70))
    assert D.chunks == ((50, 70), (40,))
    assert D.dtype == PLAIN.dtype
    assert type(D._meta) is CSRBlock
    whole = D.compute()
    assert isinstance(whole, csr_array)
    assert whole.has_sorted_indices
    assert_array_equal(whole.toarray(), DENSE)
    assert disk.to_dask(-1).numblocks == (1, 1)
    assert disk.to_dask().numblocks == (1, 1)
    with dask.config.set({"array.chunk-size": f"{PLAIN.nnz * 2} B"}):
        assert 4 <= disk.to_dask().numblocks[0] <= 6
    assert type(D.map_blocks(lambda block: block.tocsc(), dtype="f").compute()) is CSCBlock


@both_formats
def test_columns_are_blocks_of_a_csc(tmp_path, format):
    with diskcsr.write(tmp_path / "m.h5", PLAIN, format=format) as A:
        D = A.to_dask(chunks=16)
        assert D.numblocks == ((8, 1) if format == "csr" else (1, 3))
        assert_array_equal(D.compute().toarray(), DENSE)
        assert_allclose(D.sum(0).compute(), DENSE.sum(0), 1e-5)
        T = A.T.to_dask(chunks=16)
        assert_array_equal(T.compute().toarray(), DENSE.T)


def test_the_older_flavour(tmp_path):
    diskcsr.write(tmp_path / "m.h5", PLAIN).close()
    with diskcsr.open(tmp_path / "m.h5", spmatrix=True) as A:
        D = A.to_dask(chunks=25)
        assert type(D._meta) is csr_matrix
        whole = D.compute()
        assert type(whole) is csr_matrix
        assert_array_equal(whole.toarray(), DENSE)


def test_blocks_without_an_entry(tmp_path):
    plain = csr_array((np.array([-3.0]), (np.array([8]), np.array([1]))), shape=(12, 4))
    with diskcsr.write(tmp_path / "m.h5", plain) as A:
        D = A.to_dask(chunks=3)
        for axis in (None, 0, 1):
            assert_array_equal(D.max(axis).compute(), plain.toarray().max(axis))
            assert_array_equal(D.min(axis).compute(), plain.toarray().min(axis))
            assert_array_equal(D.sum(axis).compute(), plain.toarray().sum(axis))


def test_a_worker_that_is_sent_blocks_knows_them(tmp_path):
    program = (
        "import dask, pickle, sys\n"
        "block = pickle.load(sys.stdin.buffer)\n"
        "from dask.array import dispatch\n"
        "both = dispatch.concatenate_lookup.dispatch(type(block))([block, block], axis=0)\n"
        "print(type(both).__name__, both.shape, int(dispatch.numel_lookup(both, axis=0)[0]))\n"
    )
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, input=pickle.dumps(CSRBlock(PLAIN)), capture_output=True)
    assert done.stdout.decode().split() == ["CSRBlock", "(240,", "40)", "240"], done.stderr


# ------------------------------------------------------------------------------------------ tasks


def test_tasks_carry_no_data(disk):
    lazy = np.log1p(disk.lazy[5:100][:, ::2] / 2)
    for array, most in ((disk, 1400), (lazy, 2600)):
        tasks = dict(array.to_dask(chunks=25).dask)
        assert max(len(pickle.dumps(task)) for task in tasks.values()) < most
        assert len(tasks) == -(-array.shape[0] // 25)


def test_a_task_of_many_files_names_those_that_it_reads(tmp_path):
    paths = write_parts(tmp_path, PLAIN, list(range(4, 120, 4)))
    with diskcsr.open(paths) as A:
        for array in (A, A.lazy * 2, A.lazy[100:3:-1]):
            D = array.to_dask(chunks=6)
            for i, task in enumerate(dict(D.dask).values()):
                sent = pickle.dumps(task)
                assert sent.count(b"part") < 10
                assert len(sent) < 2500
                function, piece, container = pickle.loads(sent)
                block = function(piece, container)
                rows = array[6 * i : 6 * i + 6]
                assert_array_equal(block.toarray(), rows.toarray())


def test_names_tell_matrices_apart(tmp_path):
    with diskcsr.write(tmp_path / "a.h5", PLAIN) as A, diskcsr.write(tmp_path / "b.h5", PLAIN) as B:
        arrays = [
            A.to_dask(), A.to_dask(50), B.to_dask(), A.T.to_dask(), A.lazy.to_dask(),
            (A.lazy * 2).to_dask(), (A.lazy * 3).to_dask(), A.lazy[3:].to_dask(),
            (A.lazy * np.arange(40)).to_dask(), (A.lazy * np.arange(1, 41)).to_dask(),
            diskcsr.open([tmp_path / "a.h5"]).to_dask(),
        ]  # fmt: skip
        assert len({D.name for D in arrays}) == len(arrays)
        assert A.to_dask().name == A.to_dask().name
        assert (A.lazy * 2).to_dask().name == (A.lazy * 2).to_dask().name
        before = A.to_dask().name
        with diskcsr.open(tmp_path / "a.h5", mode="r+") as again:
            again.append(PLAIN[:2])
        A.refresh()
        assert A.to_dask().name != before


def test_lazy_arrays_are_computed_in_the_tasks(disk):
    size = disk.sum(axis=1)
    lazy = np.log1p(disk.lazy / size[:, None] * 100)[:, [7, 3, 30]]
    D = lazy.to_dask(chunks=50)
    expected = np.log1p(DENSE / DENSE.sum(1)[:, None] * 100)[:, [7, 3, 30]]
    assert D.dtype == lazy.dtype
    assert_allclose(D.compute().toarray(), expected, 1e-4)
    assert_allclose(D[[100, 3]].sum(0).compute(), expected[[100, 3]].sum(0), 1e-4)


@pytest.mark.parametrize("join", ["inner", "outer"])
def test_columns_brought_together_by_their_names(tmp_path, join):
    paths = write_parts(tmp_path, PLAIN, [50])
    names = [list(range(40)), list(range(5, 45))]
    with diskcsr.open(paths, columns=names, join=join) as A:
        expected = A.toarray()
        assert expected.shape == (120, 35 if join == "inner" else 45)
        D = A.to_dask(chunks=20)
        for task in dict(D.dask).values():
            assert len(pickle.dumps(task)) < 2600
            load, piece, container = pickle.loads(pickle.dumps(task))
            rows = slice(piece.lines.start, piece.lines.stop)
            assert load(piece, container).shape == (rows.stop - rows.start, A.shape[1])
        assert_array_equal(D.compute().toarray(), expected)
        assert_allclose(D.sum(0).compute(), expected.sum(0), 1e-5)


def test_what_was_handed_out_is_refused(tmp_path):
    with diskcsr.write(tmp_path / "m.h5", PLAIN, compression="gzip") as A:
        A.data[0] = 7
        with pytest.raises(ValueError, match=r"m\.h5.*may have been changed; release\(\)"):
            A.to_dask()
        A.release()
        assert_array_equal(A.to_dask().compute().toarray(), DENSE)


def test_a_file_that_changed_is_named(tmp_path):
    A = diskcsr.write(tmp_path / "m.h5", PLAIN)
    tasks = pickle.dumps(list(dict(A.to_dask(50).dask).values()))
    A.close()
    diskcsr.write(tmp_path / "m.h5", PLAIN[:3], overwrite=True).close()
    with pytest.raises(diskcsr.StaleFileError, match=r"m\.h5"):
        pickle.loads(tasks)


# ------------------------------------------------------------------------------- from Dask to files


@pytest.mark.parametrize("virtual", [True, False])
@both_formats
def test_blocks_are_stored_and_joined(tmp_path, format, virtual):
    with diskcsr.write(tmp_path / "m.h5", PLAIN, format=format) as A:
        D = np.log1p(A.to_dask(chunks=16))
        path = tmp_path / "logs.h5"
        with diskcsr.from_dask(path, D, "layers/logs", virtual=virtual, compression="gzip") as B:
            assert type(B) is type(A)
            assert_allclose(B.toarray(), np.log1p(DENSE), 1e-6)
            assert B.reader["data"].name == ("virtual" if virtual else "decode")
        folder = tmp_path / "logs.h5.parts"
        assert folder.exists() == virtual
        if virtual:
            (parts,) = folder.iterdir()
            assert parts.name.startswith("layers-logs-")
            assert len(os.listdir(parts)) == D.npartitions
            # The two are moved together.
            (tmp_path / "elsewhere").mkdir()
            path.rename(tmp_path / "elsewhere" / "logs.h5")
            folder.rename(tmp_path / "elsewhere" / "logs.h5.parts")
            with diskcsr.open(tmp_path / "elsewhere" / "logs.h5") as B:
                assert_allclose(B.toarray(), np.log1p(DENSE), 1e-6)


def test_blocks_of_every_kind(tmp_path):
    blocks = da.from_array(DENSE, chunks=(50, 40))
    made = {
        "dense": da.from_array(DENSE, chunks=(50, 15)),
        "of unknown lengths": da.from_array(DENSE, chunks=(50, 40))[
            da.from_array(DENSE[:, 0] >= 0)
        ],
        "of another type": blocks.map_blocks(
            lambda block: csr_array(block.astype("f4")), dtype="f8"
        ),
        "without rows": da.from_array(DENSE, chunks=((120, 0), (40,))),
    }
    for name, D in made.items():
        with diskcsr.from_dask(tmp_path / f"{name}.h5", D) as B:
            assert B.dtype == D.dtype
            assert_allclose(B.toarray(), DENSE, err_msg=name)
    columns = da.from_array(DENSE, chunks=(120, 15)).map_blocks(csc_array, dtype="f")
    with diskcsr.from_dask(tmp_path / "csc.h5", columns, format="csc") as B:
        assert isinstance(B, csc_array)
        assert_array_equal(B.toarray(), DENSE)


def test_what_from_dask_refuses(tmp_path):
    D = da.from_array(DENSE, chunks=(50, 40))
    with pytest.raises(ValueError, match="an array of Dask of two dimensions"):
        diskcsr.from_dask(tmp_path / "m.h5", DENSE)
    with pytest.raises(ValueError, match="two dimensions"):
        diskcsr.from_dask(tmp_path / "m.h5", D[0])
    with pytest.raises(ValueError, match="max_memory=: blocks are stored by Dask's workers"):
        diskcsr.from_dask(tmp_path / "m.h5", D, max_memory=1)
    complex_blocks = D.map_blocks(lambda block: block * 1j, dtype="f")
    with pytest.raises(TypeError, match="cannot cast complex"):
        diskcsr.from_dask(tmp_path / "m.h5", complex_blocks)
    assert not (tmp_path / "m.h5").exists()
    assert os.listdir(tmp_path) == []
    diskcsr.from_dask(tmp_path / "m.h5", D).close()
    with pytest.raises(ValueError, match="overwrite=True"):
        diskcsr.from_dask(tmp_path / "m.h5", complex_blocks)


def test_what_is_replaced_is_there_until_all_of_the_new_is(tmp_path):
    """And what another name has is let be."""
    path, D = tmp_path / "m.h5", da.from_array(DENSE, chunks=(50, 40))
    others = {"X-2": 3, "a/b": 4, "a-b": 5, "a%b~1": 6}
    for name, factor in others.items():
        diskcsr.from_dask(path, factor * D, name).close()
    diskcsr.from_dask(path, D, "a-b", overwrite=True).close()
    others["a-b"] = 1
    diskcsr.from_dask(path, D).close()
    before = sorted(os.listdir(tmp_path / "m.h5.parts"))
    complex_blocks = D.map_blocks(lambda block: block * 1j, dtype="f")
    with pytest.raises(TypeError, match="cannot cast complex"):
        diskcsr.from_dask(path, complex_blocks, overwrite=True)
    assert sorted(os.listdir(tmp_path / "m.h5.parts")) == before
    with diskcsr.open(path, "X") as A:
        assert_array_equal(A.toarray(), DENSE)
    with diskcsr.from_dask(path, 2 * D, overwrite=True) as B:
        assert_array_equal(B.toarray(), 2 * DENSE)
    after = os.listdir(tmp_path / "m.h5.parts")
    assert len(after) == 5
    assert len({*after} & {*before}) == 4
    for name, factor in others.items():
        with diskcsr.open(path, name) as C:
            assert_array_equal(C.toarray(), factor * DENSE)
    # Copied into the file, they leave no parts.
    diskcsr.from_dask(path, 7 * D, virtual=False, overwrite=True).close()
    assert {*os.listdir(tmp_path / "m.h5.parts")} == {*before} & {*after}
    with diskcsr.open(path, "X") as A:
        assert_array_equal(A.toarray(), 7 * DENSE)


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("how", ["moved", "copied"])
def test_parts_that_something_else_refers_to_are_kept(tmp_path, monkeypatch, how, fails):
    def refused(*args, **keywords):
        raise OSError("no room")

    path, D = tmp_path / "m.h5", da.from_array(DENSE, chunks=(50, 40))
    diskcsr.from_dask(path, 2 * D).close()
    with h5py.File(path, "a") as file:
        file.move("X", "layers/Y") if how == "moved" else file.copy("X", "layers/Y")
    if fails:
        monkeypatch.setattr(parallel, "concat", refused)
        with pytest.raises(OSError, match="no room"):
            diskcsr.from_dask(path, D, overwrite=True)
    else:
        diskcsr.from_dask(path, D, overwrite=True).close()
    assert len(os.listdir(tmp_path / "m.h5.parts")) == 2 - fails
    with diskcsr.open(path, "layers/Y") as A:
        assert_array_equal(A.toarray(), 2 * DENSE)


@pytest.mark.parametrize("problem", [OSError(errno.EIO, "not read"), MemoryError("no room")])
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_file_that_is_not_read_for_once(tmp_path, monkeypatch, when, problem):
    """Which parts are replaced is asked before anything is computed; afterwards it is again."""

    def first(*args, **keywords):
        monkeypatch.setattr(virtual, "open_to_read", open_to_read)
        raise problem

    def fails_once(*args, **keywords):
        monkeypatch.setattr(virtual, "open_to_read", first)
        return concat(*args, **keywords)

    open_to_read, concat = virtual.open_to_read, parallel.concat
    path, D = tmp_path / "m.h5", da.from_array(DENSE, chunks=(50, 40))
    diskcsr.from_dask(path, D).close()
    if when == "before":
        monkeypatch.setattr(virtual, "open_to_read", first)
        with pytest.raises(type(problem), match=str(problem.args[-1])):
            diskcsr.from_dask(path, D.map_blocks(pytest.fail, meta=DENSE[:0]), overwrite=True)
    else:
        monkeypatch.setattr(parallel, "concat", fails_once)
        diskcsr.from_dask(path, 2 * D, overwrite=True).close()
    with diskcsr.open(path) as A:
        assert_array_equal(A.toarray(), DENSE * (1 if when == "before" else 2))
    assert len(os.listdir(tmp_path / "m.h5.parts")) == 1


def test_the_parts_of_who_writes_at_the_same_time_are_kept(tmp_path, monkeypatch):
    """Another one begins later, and its matrix is the last to be put in its place."""

    def before_another(*args, **keywords):
        monkeypatch.setattr(parallel, "concat", concat)
        made = concat(*args, **keywords)
        diskcsr.from_dask(path, 3 * D, overwrite=True).close()
        return made

    concat = parallel.concat
    path, D = tmp_path / "m.h5", da.from_array(DENSE, chunks=(50, 40))
    diskcsr.from_dask(path, 2 * D).close()
    monkeypatch.setattr(parallel, "concat", before_another)
    diskcsr.from_dask(path, D, overwrite=True).close()
    with diskcsr.open(path) as A:
        assert_array_equal(A.toarray(), 3 * DENSE)


@pytest.mark.parametrize("virtual", [True, False])
@pytest.mark.parametrize("place", [".", "..", "other.h5.parts", "absolute"])
def test_parts_that_lie_elsewhere_are_let_be(tmp_path, place, virtual):
    """Those of a matrix that was joined of files of the user's own."""
    folder = tmp_path / "data"
    folder.mkdir()
    sources = tmp_path / "elsewhere" if place == "absolute" else folder / place
    sources.mkdir(exist_ok=True)
    path, D = folder / "m.h5", da.from_array(DENSE, chunks=(50, 40))
    diskcsr.write(sources / "own.h5", PLAIN).close()
    diskcsr.from_dask(path, 2 * D, "Y").close()
    diskcsr.concat([sources / "own.h5"], path, virtual=True).close()
    with h5py.File(path, "a") as file:  # however it was written
        name = str(sources / "own.h5") if place == "absolute" else f"{place}/own.h5"
        del file["X/data"]
        layout = h5py.VirtualLayout((PLAIN.nnz,), "f4")
        layout[:] = h5py.VirtualSource(name, "/X/data", (PLAIN.nnz,), "f4")
        file.create_virtual_dataset("X/data", layout)
    diskcsr.from_dask(path, 3 * D, overwrite=True, virtual=virtual).close()
    assert (sources / "own.h5").exists()
    for name, factor in (("X", 3), ("Y", 2)):
        with diskcsr.open(path, name) as A:
            assert_array_equal(A.toarray(), factor * DENSE)


@pytest.mark.parametrize("name", ["100%.h5", "%%.h5", "x%05d.h5", "%b.h5", "é b.h5", "link/m.h5"])
def test_files_of_any_name(tmp_path, monkeypatch, name):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real", target_is_directory=True)
    monkeypatch.chdir(tmp_path)
    D = da.from_array(DENSE, chunks=(50, 40))
    for factor in (1, 2):
        with diskcsr.from_dask(name, factor * D, overwrite=True) as A:
            assert_array_equal(A.toarray(), factor * DENSE)
        assert len(os.listdir(f"{name}.parts")) == 1


def test_what_failed_leaves_no_parts_where_the_file_is_in_use(tmp_path):
    path, D = tmp_path / "m.h5", da.from_array(DENSE, chunks=(50, 40))
    diskcsr.write(path, PLAIN, name="Y").close()
    with diskcsr.open(path, "Y", mode="r+"), pytest.raises(TypeError, match="cannot cast"):
        diskcsr.from_dask(path, D.map_blocks(lambda block: block * 1j, dtype="f"))
    assert os.listdir(tmp_path) == ["m.h5"]


def test_a_matrix_without_entries_leaves_no_parts(tmp_path):
    empty = da.zeros((120, 40), chunks=(50, 40), dtype="f")
    with diskcsr.from_dask(tmp_path / "m.h5", empty) as A:
        assert A.nnz == 0
        assert_array_equal(A.toarray(), np.zeros((120, 40)))
    assert os.listdir(tmp_path) == ["m.h5"]


@pytest.mark.parametrize("name", ["a//b", "/a/b", "a/./b", "x" * 230])
def test_names_of_any_kind(tmp_path, name):
    path, D = tmp_path / "m.h5", da.from_array(DENSE, chunks=(50, 40))
    for factor in (1, 2, 3):
        with diskcsr.from_dask(path, factor * D, name, overwrite=True) as A:
            assert_array_equal(A.toarray(), factor * DENSE)
        assert len(os.listdir(tmp_path / "m.h5.parts")) == 1


def test_what_is_stored_stays_when_an_interrupt_comes_right_after(tmp_path, monkeypatch):
    def interrupted(*args, **keywords):
        concat(*args, **keywords)
        raise KeyboardInterrupt

    concat = parallel.concat
    path, D = tmp_path / "m.h5", da.from_array(DENSE, chunks=(50, 40))
    diskcsr.from_dask(path, 2 * D).close()
    monkeypatch.setattr(parallel, "concat", interrupted)
    with pytest.raises(KeyboardInterrupt):
        diskcsr.from_dask(path, D, overwrite=True)
    assert len(os.listdir(tmp_path / "m.h5.parts")) == 1
    with diskcsr.open(path) as A:
        assert_array_equal(A.toarray(), DENSE)


# ------------------------------------------------------------------------------ several processes


@pytest.fixture(scope="module")
def client():
    """Two processes, one cluster for all tests here."""
    distributed = pytest.importorskip("distributed", reason="distributed is not installed")
    with (
        dask.config.set({"distributed.scheduler.allowed-failures": 10}),
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, dashboard_address=None, processes=True
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        yield client


@pytest.mark.filterwarnings("default")
def test_several_processes_give_what_one_gives(client, disk, tmp_path):
    D = np.log1p(disk.lazy * 3).to_dask(chunks=11)
    work = [D, D.sum(0), D.mean(1), D @ np.ones((40, 2)), D.T @ D, D[[100, 5, 50]]]
    several = client.compute(work, sync=True)
    one = dask.compute(*work, scheduler="synchronous")
    for got, expected in zip(several, one, strict=True):
        assert type(got) is type(expected)
        assert_array_equal(dense(got), dense(expected))
    with dask.config.set(scheduler="distributed"), diskcsr.from_dask(tmp_path / "logs.h5", D) as B:
        assert_allclose(B.toarray(), np.log1p(DENSE * 3), 1e-6)


def _die_once(block, marker):
    """End the process, the first time that this is asked for."""
    time.sleep(0.05)
    try:
        os.close(os.open(marker, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return block
    os.kill(os.getpid(), signal.SIGKILL)
    return None


@pytest.mark.filterwarnings("default")
def test_a_worker_that_is_killed_in_the_middle(client, disk, tmp_path):
    marker = str(tmp_path / "died")
    D = disk.to_dask(chunks=5).map_blocks(_die_once, marker, dtype="f", meta=CSRBlock((0, 0)))
    with dask.config.set(scheduler="distributed"), diskcsr.from_dask(tmp_path / "again.h5", D) as B:
        assert os.path.exists(marker)
        assert_array_equal(B.toarray(), DENSE)
        (parts,) = (tmp_path / "again.h5.parts").iterdir()
        assert sorted(os.listdir(parts)) == [f"{number:06}.h5" for number in range(24)]
    os.unlink(marker)
    total = client.compute(D.sum(0), sync=True)
    assert os.path.exists(marker)
    assert_allclose(total, DENSE.sum(0), 1e-5)


# ----------------------------------------------------------------------------- AnnData and Scanpy


def test_anndata_writes_it(tmp_path, disk):
    anndata = pytest.importorskip("anndata", reason="anndata is not installed")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        adata = anndata.AnnData(np.log1p(disk.to_dask(chunks=25)))
        adata.write_h5ad(tmp_path / "a.h5ad")
        adata.X = adata.X.compute()
        adata.write_h5ad(tmp_path / "b.h5ad")
    for name in ("a.h5ad", "b.h5ad"):
        with diskcsr.open(tmp_path / name, "X") as B:
            assert_allclose(B.toarray(), np.log1p(DENSE), 1e-6)


def _prepared(X):
    import anndata
    import scanpy

    adata = anndata.AnnData(X)
    adata.var["mt"] = np.arange(adata.n_vars) < 10
    scanpy.pp.calculate_qc_metrics(adata, qc_vars=["mt"], percent_top=None, inplace=True)
    scanpy.pp.filter_genes(adata, min_cells=20)
    scanpy.pp.normalize_total(adata, target_sum=1e4)
    scanpy.pp.log1p(adata)
    scanpy.pp.highly_variable_genes(adata, n_top_genes=60)
    scanpy.pp.pca(adata, n_comps=4, svd_solver="covariance_eigh")
    return adata


@pytest.mark.filterwarnings("default")
def test_scanpy_prepares_it_on_several_processes(client, tmp_path):
    pytest.importorskip("scanpy", reason="scanpy is not installed")
    rng = np.random.default_rng(0)
    rates = rng.gamma(0.3, 1.5, (1, 200)) * rng.lognormal(0, 0.5, (400, 1))
    counts = csr_array(rng.poisson(rates).astype("f4"))
    expected = _prepared(counts.copy())
    with (
        diskcsr.open(write_parts(tmp_path, counts, [100, 260])) as A,
        dask.config.set(scheduler="distributed"),
    ):
        got = _prepared(A.to_dask(chunks=90))
        assert isinstance(got.X, da.Array)
        for frame in ("obs", "var"):
            theirs, ours = getattr(expected, frame), getattr(got, frame)
            assert list(ours.columns) == list(theirs.columns)
            for name in theirs.columns:
                values = np.asarray(ours[name]), np.asarray(theirs[name])
                if values[1].dtype.kind in "bif":
                    assert_allclose(*values, rtol=1e-4, atol=1e-6, err_msg=name)
        assert_allclose(dense(got.X.compute()), dense(expected.X), rtol=1e-5)
        theirs, ours = expected.obsm["X_pca"], np.asarray(got.obsm["X_pca"])
        assert_allclose(abs(ours), abs(theirs), atol=2e-3)
