"""Everything that can be wrong with a file is found, and what can be mended is mended."""

import subprocess
import sys
from functools import partial
from pathlib import Path

import h5py
import numpy as np
import pytest
from conformance.stored import ARRAYS
from hypothesis import given
from hypothesis import strategies as st
from realfiles import GROUPS, NEGATIVE, ROOT
from scipy.sparse import csr_array
from strategies import matrices

import diskcsr
from diskcsr.errors import RollbackError
from diskcsr.storage.check import scan as scanning
from diskcsr.storage.check.check import Problem
from diskcsr.storage.check.check import check as check_apart
from diskcsr.storage.check.stored import Stored
from diskcsr.storage.journal.records import COLD

#: In this process: starting another one for every file takes too long.
check = partial(check_apart, isolated=False)

DENSE = np.array([[1, 0, 2, 0, 0], [0, 0, 0, 0, 0], [0, 3, 4, 0, 5], [0, 0, 0, 0, 6.0]])
DATA, INDICES, INDPTR = (getattr(csr_array(DENSE), name) for name in ARRAYS)


def store(path, matrix=None, *, chunked=True, tags="both", **storage):
    """Write DENSE, or another matrix as it is, in chunks of four elements."""
    matrix = csr_array(DENSE) if matrix is None else matrix
    with h5py.File(path, "w") as file:
        group = file.create_group("X")
        tag(group, matrix.format, matrix.shape, tags)
        for name in ARRAYS:
            how = {"chunks": (4,), "maxshape": (None,), **storage} if chunked else {}
            group.create_dataset(name, data=getattr(matrix, name), **how)
    return path


def tag(group, format, shape, tags="both"):
    if tags in ("both", "h5sparse"):
        group.attrs["h5sparse_format"] = format
        group.attrs["h5sparse_shape"] = np.array(shape)
    if tags in ("both", "anndata"):
        group.attrs["encoding-type"] = f"{format}_matrix"
        group.attrs["encoding-version"] = "0.1.0"
        group.attrs["shape"] = np.array(shape)


def extend(group, name, values):
    dset = group[name]
    dset.resize((dset.size + len(values),))
    dset[-len(values) :] = values


def put(name, at, value):
    def damage(group):
        group[name][at] = value

    return damage


def longer(**values):
    """An append of which only some parts got into the file."""

    def damage(group):
        for name, tail in values.items():
            if name == "shape":
                tag(group, "csr", tail)
            else:
                extend(group, name, tail)

    return damage


def shorter(name, length):
    def damage(group):
        group[name].resize((length,))

    return damage


def attribute(name, value):
    def damage(group):
        if value is None:
            del group.attrs[name]
        else:
            group.attrs[name] = value

    return damage


def replaced(name, values, **how):
    def damage(group):
        del group[name]
        group.create_dataset(name, data=values, **how)

    return damage


def of(report, kind, part=None):
    """The one problem of a kind."""
    where = "/X" if part is None else f"/X/{part}"
    (found,) = (p for p in report.problems if (p.kind, p.where) == (kind, where))
    return found


# -------------------------------------------------------------------------------- what is found

#: damage, kind, dataset, position, value, severity, repairable
FOUND = {
    "indptr-start": (put("indptr", 0, 1), "indptr-start", "indptr", 0, 1, "error", False),
    "negative": (put("indptr", 1, -3), "indptr-negative", "indptr", 1, -3, "error", False),
    "decreases": (put("indptr", 2, 1), "indptr-decreases", "indptr", 2, 1, "error", False),
    "beyond": (put("indptr", 4, 9), "indptr-beyond", "indptr", 4, 9, "error", False),
    "range": (put("indices", 3, 5), "range", "indices", 3, 5, "error", False),
    "negative index": (put("indices", 2, -1), "range", "indices", 2, -1, "error", False),
    "unsorted": (put("indices", slice(2, 4), [2, 1]), "unsorted", "indices", 3, 1, "warning", True),
    "duplicate": (put("indices", 3, 1), "duplicates", "indices", 3, 1, "warning", False),
    "nan": (put("data", 4, np.nan), "non-finite", "data", 4, "nan", "note", False),
    "slack": (longer(data=[9.0, 9]), "slack", "data", 6, 8, "warning", True),
    "slack indices": (longer(indices=[99]), "slack", "indices", 6, 7, "warning", True),
    "torn": (longer(indptr=[6]), "indptr-length", "indptr", None, 6, "error", True),
    "unwritten": (longer(indptr=[0, 0]), "indptr-decreases", "indptr", 5, 0, "error", True),
    "short": (shorter("data", 5), "indptr-beyond", "indptr", 4, 6, "error", True),
    "missing": (
        lambda group: group.__delitem__("indptr"),
        "missing",
        "indptr",
        None,
        None,
        "error",
        False,
    ),
    "group": (
        lambda group: (group.__delitem__("indices"), group.create_group("indices")),
        *("dataset", "indices", None, None, "error", False),
    ),
    "dimensions": (
        replaced("data", np.ones((2, 3))),
        "dataset",
        "data",
        None,
        None,
        "error",
        False,
    ),
    "unsigned": (
        replaced("indices", INDICES.astype("u2")),
        "unsigned",
        "indices",
        None,
        "uint16",
        "note",
        False,
    ),
    "big-endian": (
        replaced("data", DATA.astype(">f8")),
        "big-endian",
        "data",
        None,
        ">f8",
        "note",
        False,
    ),
    "wide": (
        replaced("indices", INDICES.astype("i8")),
        "wide-indices",
        "indices",
        None,
        "int64",
        "note",
        False,
    ),
    "shape dataset": (
        lambda group: group.create_dataset("shape", data=[4, 5]),
        "shape-dataset",
        "shape",
        None,
        None,
        "warning",
        False,
    ),
    "version missing": (
        attribute("encoding-version", None),
        "tags-incomplete",
        None,
        None,
        None,
        "warning",
        True,
    ),
    "shape missing": (
        attribute("h5sparse_shape", None),
        "tags-incomplete",
        None,
        None,
        None,
        "warning",
        True,
    ),
    "stale shape": (attribute("h5sparse_shape", [3, 5]), "tags", None, None, None, "error", True),
    "two formats": (attribute("h5sparse_format", "csc"), "tags", None, None, None, "error", True),
    "bad format": (attribute("h5sparse_format", "coo"), "tags", None, None, None, "error", False),
    "two minors": (attribute("shape", [4, 6]), "tags", None, None, None, "error", False),
}


@pytest.mark.parametrize("case", FOUND)
def test_every_kind_of_problem_is_found(tmp_path, case):
    damage, kind, part, position, value, severity, repairable = FOUND[case]
    path = store(tmp_path / "m.h5")
    assert check(path).problems == []
    with h5py.File(path, "r+") as file:
        damage(file["X"])
    report = check(path)
    found = of(report, kind, part)
    assert (found.position, found.value) == (position, value)
    assert (found.severity, found.repairable) == (severity, repairable)
    assert report.ok == (severity == "note")
    assert report.matrices == ["/X"]
    assert found.what in repr(report)


def test_all_problems_are_listed_and_counted(tmp_path):
    path = store(tmp_path / "m.h5")
    with h5py.File(path, "r+") as file:
        file["X/indptr"][0] = 2
        file["X/indices"][[1, 4]] = 7, 8
        file["X/data"][:2] = np.inf, np.nan
        del file["X"].attrs["encoding-version"]
    report = check(path)
    kinds = ["indptr-start", "indptr-decreases", "range", "tags-incomplete", "non-finite"]
    assert {p.kind for p in report.problems} == set(kinds) - {"indptr-decreases"}
    assert of(report, "range", "indices").count == 2
    assert of(report, "non-finite", "data").count == 2
    assert [p.severity for p in report.problems] == ["error", "error", "warning", "note"]


def test_a_chunk_that_cannot_be_decoded_is_named_and_the_others_are_checked(tmp_path):
    path = store(tmp_path / "m.h5", compression="gzip", fletcher32=True)
    with h5py.File(path, "r+") as file:
        file["X/indices"][0] = 77
    with h5py.File(path) as file:
        info = file["X/indices"].id.get_chunk_info(1)
    raw = bytearray(path.read_bytes())
    raw[info.byte_offset + info.size - 6] ^= 0xFF
    path.write_bytes(raw)
    report = check(path)
    chunk = of(report, "chunk", "indices")
    assert (chunk.severity, chunk.position, chunk.count) == ("error", 1, 1)
    assert of(report, "range", "indices").value == 77
    assert not report.ok


def test_no_hdf5_file_no_file_and_no_matrix(tmp_path):
    (tmp_path / "text").write_text("no HDF5")
    report = check(tmp_path / "text")
    assert [p.kind for p in report.problems] == ["open"]
    with pytest.raises(FileNotFoundError):
        check(tmp_path / "nothing")
    path = store(tmp_path / "m.h5")
    assert [p.kind for p in check(path, "Y").problems] == ["open"]
    assert [p.kind for p in check(path, "X/data").problems] == ["open"]
    with h5py.File(path, "r+") as file:
        del file["X"]
    assert [p.kind for p in check(path).problems] == ["no-matrix"]


def test_a_journal_beside_the_file_is_noted(tmp_path):
    path = store(tmp_path / "m.h5")
    (tmp_path / "m.h5-journal").write_bytes(COLD)
    report = check(path)
    assert report.ok
    assert [p.kind for p in report.problems] == ["journal"]


def test_a_damaged_journal_is_an_error(tmp_path):
    path = store(tmp_path / "m.h5")
    (tmp_path / "m.h5-journal").write_bytes(b"x")
    (problem,) = check(path).problems
    assert (problem.severity, problem.kind, problem.repairable) == ("error", "journal", False)
    assert "m.h5-journal, is damaged: it ends within its head, after 1 bytes" in problem.what
    with pytest.raises(RollbackError, match="is damaged"):
        check(path, repair=True)
    assert (tmp_path / "m.h5-journal").read_bytes() == b"x"


def test_an_open_group_is_checked_but_not_repaired(tmp_path):
    with h5py.File(store(tmp_path / "m.h5"), "r+") as file:
        file["X/indices"][4] = 5
        assert [p.kind for p in check(file["X"]).problems] == ["range"]
        with pytest.raises(TypeError, match="path"):
            check(file, repair=True)


def test_a_length_alone_costs_no_time(tmp_path):
    path = store(tmp_path / "m.h5")
    with h5py.File(path, "r+") as file:
        for name in ("data", "indices"):
            file["X"][name].resize((1 << 50,))
    assert of(check(path), "unwritten", "data").severity == "error"


@given(matrix=matrices(), block=st.sampled_from([1, 2, 5, 100]))
def test_order_and_duplicates_are_those_that_scipy_sees(tmp_path_factory, matrix, block):
    path = store(tmp_path_factory.mktemp("m") / "m.h5", matrix)
    before = scanning.BLOCK
    scanning.BLOCK = block
    try:
        kinds = {p.kind for p in check(path).problems} - {"non-finite", "wide-indices"}
    finally:
        scanning.BLOCK = before
    assert ("unsorted" in kinds) == (not matrix.has_sorted_indices)
    if block > matrix.nnz or matrix.has_sorted_indices:
        copy = matrix.sorted_indices()
        rows = np.split(copy.indices, copy.indptr[1:-1])
        twice = any(np.unique(row).size < row.size for row in rows if copy.indptr.size > 1)
        assert ("duplicates" in kinds) == twice
    assert kinds <= {"unsorted", "duplicates"}


# -------------------------------------------------------------------------------------- repairs

#: damage and the rows that are then there: the four of DENSE, or one that was appended, too.
APPENDED = np.vstack([DENSE, [1, 0, 0, 0, 0]])
REPAIRED = {
    "slack": (longer(data=[9.0] * 7, indices=[99] * 5), 4),
    "torn data": (longer(data=[9.0, 9]), 4),
    "shape not counted up": (longer(data=[1.0], indices=[0], indptr=[7]), 5),
    "and slack": (longer(data=[1.0, 8, 9], indices=[0], indptr=[7]), 5),
    "torn indptr": (longer(data=[1.0], indices=[0], shape=(5, 5)), 4),
    "torn fill": (longer(indptr=[0, 0], shape=(6, 5)), 4),
    "torn values": (longer(indices=[1, 2], indptr=[7, 8], shape=(6, 5)), 4),
    "short data": (shorter("data", 5), 3),
    "short both": (
        lambda group: (shorter("data", 3)(group), shorter("indices", 5)(group)),
        2,
    ),
    "unsorted": (
        lambda group: (
            put("indices", slice(2, 5), [4, 1, 2])(group),
            put("data", slice(2, 5), [5.0, 3, 4])(group),
        ),
        4,
    ),
    "version": (attribute("encoding-version", None), 4),
    "h5sparse shape": (attribute("h5sparse_shape", None), 4),
    "anndata shape": (attribute("shape", None), 4),
    "stale h5sparse shape": (attribute("h5sparse_shape", [3, 5]), 4),
    "stale shape": (attribute("shape", [9, 5]), 4),
    "format": (attribute("h5sparse_format", "csc"), 4),
}


@pytest.mark.parametrize("storage", [{}, {"compression": "gzip", "shuffle": True}], ids=str)
@pytest.mark.parametrize("case", REPAIRED)
def test_repairs(tmp_path, case, storage):
    damage, rows = REPAIRED[case]
    path = store(tmp_path / "m.h5", **storage)
    with h5py.File(path, "r+") as file:
        damage(file["X"])
        file.attrs["kept"] = "as it is"
    before = check(path)
    assert not before.ok
    report = check(path, repair=True)
    assert report.problems == []
    assert report.repaired
    assert check(path).problems == []
    assert [child.name for child in tmp_path.iterdir()] == ["m.h5"]
    with diskcsr.open(path) as matrix:
        np.testing.assert_array_equal(matrix.toarray(), APPENDED[:rows])
        assert matrix.to_memory().has_sorted_indices
    with h5py.File(path) as file:
        assert file.attrs["kept"] == "as it is"
        assert {file["X"][name].size for name in ("data", "indices")} == {[*INDPTR, 7][rows]}
        for name in ("h5sparse_shape", "shape"):
            np.testing.assert_array_equal(file["X"].attrs[name], [rows, 5])


@given(matrix=matrices())
def test_sorting_keeps_every_value(tmp_path_factory, matrix):
    path = store(tmp_path_factory.mktemp("m") / "m.h5", matrix)
    expected = matrix.copy().toarray() if matrix.nnz else np.zeros(matrix.shape)
    report = check(path, repair=True)
    assert "unsorted" not in {p.kind for p in report.problems}
    with h5py.File(path) as file:
        parts = [file["X"][name][:] for name in ARRAYS]
    again = type(matrix)(tuple(parts), shape=matrix.shape)
    assert again.has_sorted_indices
    assert parts[0].dtype == matrix.data.dtype
    assert again.nnz == matrix.nnz
    np.testing.assert_array_equal(again.toarray(), expected)


UNREPAIRABLE = [case for case, facts in FOUND.items() if not facts[-1]]


@pytest.mark.parametrize("case", UNREPAIRABLE)
def test_what_cannot_be_repaired_is_left_as_it_is(tmp_path, case):
    path = store(tmp_path / "m.h5")
    with h5py.File(path, "r+") as file:
        FOUND[case][0](file["X"])
    raw, before = path.read_bytes(), check(path)
    report = check(path, repair=True)
    assert path.read_bytes() == raw
    assert report.repaired == []
    assert [p for p in report.problems if p.kind != "not-repaired"] == before.problems


def test_nothing_is_repaired_beside_an_error_that_is_left(tmp_path):
    path = store(tmp_path / "m.h5")
    with h5py.File(path, "r+") as file:
        file["X/indices"][3] = 5
        extend(file["X"], "data", [1.0])
    raw = path.read_bytes()
    report = check(path, repair=True)
    assert path.read_bytes() == raw
    assert {p.kind for p in report.problems} >= {"range", "slack", "not-repaired"}


def test_contiguous_slack_is_told_not_mended(tmp_path):
    path = store(tmp_path / "m.h5", chunked=False)
    with h5py.File(path, "r+") as file:
        replaced("data", np.append(DATA, 1))(file["X"])
    raw = path.read_bytes()
    report = check(path, repair=True)
    assert of(report, "slack", "data").repairable is False
    assert path.read_bytes() == raw


@pytest.mark.parametrize("way", ["hard", "external", "virtual"])
def test_arrays_that_others_use_too_are_not_changed(tmp_path, way):
    path, other = store(tmp_path / "m.h5"), store(tmp_path / "other.h5")
    with h5py.File(path, "r+") as file, h5py.File(other, "r+") as source:
        source["X/indices"][2:4] = file["X/indices"][2:4] = [2, 1]
        if way == "hard":
            file["Y"] = file["X/indices"]
        else:
            del file["X/indices"]
        if way == "external":
            file["X/indices"] = h5py.ExternalLink("other.h5", "X/indices")
        elif way == "virtual":
            layout = h5py.VirtualLayout((6,), "i4")
            layout[:] = h5py.VirtualSource("other.h5", "X/indices", (6,))
            file["X"].create_virtual_dataset("indices", layout)
    raw = path.read_bytes(), other.read_bytes()
    report = check(path, "X", repair=True)
    assert [(p.kind, p.repairable) for p in report.problems] == [("unsorted", False)]
    assert (path.read_bytes(), other.read_bytes()) == raw


@pytest.mark.parametrize("step", ["_clip", "_check_better", "os.replace"])
def test_a_repair_that_fails_changes_nothing(tmp_path, monkeypatch, step):
    path = store(tmp_path / "m.h5")
    with h5py.File(path, "r+") as file:
        extend(file["X"], "data", [1.0])
    raw = path.read_bytes()

    def fail(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(f"diskcsr.storage.check.repair.{step}", fail)
    with pytest.raises(KeyboardInterrupt):
        check(path, repair=True)
    assert path.read_bytes() == raw
    assert [child.name for child in tmp_path.iterdir()] == ["m.h5"]


def test_a_file_that_is_open_elsewhere_is_not_repaired(tmp_path):
    path = store(tmp_path / "m.h5")
    with h5py.File(path, "r+") as file:
        extend(file["X"], "data", [1.0])
    with h5py.File(path, "r"), pytest.raises(BlockingIOError):
        check(path, repair=True)
    assert not check(path).ok


# ----------------------------------------------------------------------------------- real files


@pytest.mark.skipif(not ROOT.is_dir(), reason="the sample files are not here")
@pytest.mark.parametrize("file", sorted({group.file for group in GROUPS}))
def test_real_files_have_no_errors(file):
    report = check(ROOT / file)
    assert report.matrices == sorted(group.name for group in GROUPS if group.file == file)
    unsorted = {
        group.name for group in GROUPS if group.file == file and not group.read().has_sorted_indices
    }
    problems = [p for p in report.problems if p.severity != "note"]
    assert {p.kind for p in problems} <= {"unsorted"}
    assert {p.where.rpartition("/")[0] for p in problems} == unsorted
    assert report.ok == (not unsorted)


@pytest.mark.skipif(not ROOT.is_dir(), reason="the sample files are not here")
@pytest.mark.parametrize("file", NEGATIVE)
def test_real_files_without_a_matrix(file):
    (problem,) = check(ROOT / file).problems
    assert isinstance(problem, Problem)
    assert problem.kind == "no-matrix"
    for words in NEGATIVE[file]:
        assert words in problem.what


# --------------------------------------------------------------------------------------- damage

_FLIP = """
import random, sys
from pathlib import Path
import diskcsr
from diskcsr.storage.check.check import check
from diskcsr.storage.formats import detect as formats

source, work, first, last = sys.argv[1:]
raw = Path(source).read_bytes()
print(first)
for seed in range(int(first), int(last)):
    chance = random.Random(seed)
    damaged = bytearray(raw)
    for _ in range(chance.choice((1, 1, 2, 8))):
        at = chance.randrange(len(raw))
        damaged[at] = chance.choice((0, 255, damaged[at] ^ 1 << chance.randrange(8)))
    if chance.random() < 0.1:
        del damaged[chance.randrange(len(damaged)):]
    # A name of its own: chunks that were decoded are remembered by file.
    path = Path(work, f"{seed}.h5")
    path.write_bytes(damaged)
    print(seed, flush=True)
    report = check(path, isolated=False)
    repr(report)
    if report.ok:
        for name in report.matrices:
            try:
                with diskcsr.open(path, name) as matrix:
                    matrix.to_memory(), matrix.indices
            except Exception as problem:
                sys.exit(f"seed {seed}: ok, but reading {name} raises {problem!r}")
    path.unlink()
print("done")
"""


@pytest.mark.parametrize("storage", [{}, {"compression": "gzip", "fletcher32": True}], ids=str)
def test_damaged_bytes_never_crash_it_and_are_never_ok_when_reading_fails(tmp_path, storage):
    path = store(tmp_path / "m.h5", **storage)
    first, last = 0, 120
    root = Path(diskcsr.__file__).parents[1]
    while True:
        command = [sys.executable, "-c", _FLIP, path, tmp_path, str(first), str(last)]
        run = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=120)
        said = run.stdout.split()[-1]
        if said == "done":
            break
        assert run.returncode < 0, run.stderr[-2000:]
        # Damage on which HDF5 itself crashes: a check apart survives it and says so.
        (problem,) = check_apart(tmp_path / f"{said}.h5").problems
        assert problem.kind == "crash"
        first = int(said) + 1
    assert run.returncode == 0


def test_a_check_apart_finds_and_repairs_the_same(tmp_path):
    path = store(tmp_path / "m.h5")
    with h5py.File(path, "r+") as file:
        extend(file["X"], "data", [1.0])
    assert check_apart(path) == check(path)
    assert check_apart(path, repair=True).problems == []
    assert check(path).problems == []


@pytest.mark.parametrize("number", range(6))
@pytest.mark.parametrize("layout", ["raw", "gzip"])
def test_memory_that_runs_out_is_no_damage(tmp_path, monkeypatch, layout, number):
    path = tmp_path / "m.h5"
    compression = None if layout == "raw" else layout
    diskcsr.write(path, csr_array(np.eye(50)), compression=compression).close()
    real, calls = Stored.read, []

    def read(array, lo, hi):
        calls.append(lo)
        if len(calls) > number:
            raise MemoryError("no room for it")
        return real(array, lo, hi)

    monkeypatch.setattr(Stored, "read", read)
    report = check(path)
    assert len(calls) == number + 1
    (problem,) = report.problems
    assert (problem.severity, problem.kind, problem.where) == ("error", "ended", "/X")
    assert "memory ran out: no room for it" in problem.what
    assert not report.ok
    monkeypatch.undo()
    assert check(path).ok
