"""The command line, run as a process: help, output, exit codes, JSON."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tomllib
import tracemalloc
from pathlib import Path

import h5py
import numpy as np
import pytest
from realfiles import GROUPS, NEGATIVE, ROOT
from scipy.sparse import csr_array, load_npz

import diskcsr
from diskcsr import __main__ as cli
from diskcsr import info
from diskcsr.machine import bars
from diskcsr.storage.check.check import check

HERE = Path(diskcsr.__file__).parents[1]
real = pytest.mark.skipif(not ROOT.is_dir(), reason="the sample files are not here")


def run(*args, **kwargs):
    """Run the command line; return exit code, stdout, stderr."""
    command = [sys.executable, "-m", "diskcsr", *map(str, args)]
    done = subprocess.run(command, cwd=HERE, capture_output=True, text=True, timeout=120, **kwargs)
    assert "Traceback" not in done.stderr
    return done.returncode, done.stdout, done.stderr


@pytest.fixture
def path(tmp_path):
    """A file with one matrix that has nothing wrong."""
    path = tmp_path / "m.h5"
    matrix = csr_array(np.eye(40, 30, dtype=np.float32))
    diskcsr.write(path, matrix, compression="gzip").close()
    return path


# --------------------------------------------------------------------------------- help and usage


@pytest.mark.parametrize("command", ["", "info", "check", "convert"])
def test_help_teaches_with_examples(command):
    code, out, err = run(*filter(None, [command]), "--help")
    assert (code, err) == (0, "")
    assert "examples:" in out
    program = f"python -m diskcsr {command}".strip()
    assert out.startswith(f"usage: {program} ")
    lines = out.partition("examples:\n")[2].splitlines()
    assert lines[0].startswith(f"  {program} ")
    for line in lines:
        assert "diskcsr" not in line.lstrip() or "python -m diskcsr" in line or "see " in line


def test_version():
    assert run("--version")[:2] == (0, f"diskcsr {diskcsr.__version__}\n")


@pytest.mark.parametrize(
    "args",
    [(), ("bogus",), ("info",), ("convert", "a", "b", "--max-memory", "lots")],
    ids=" ".join,
)
def test_wrong_usage(args):
    code, out, err = run(*args)
    assert (code, out) == (2, "")
    (line,) = err.splitlines()
    assert line.startswith("diskcsr")
    assert ": error: " in line
    assert "see python -m diskcsr" in line


def test_the_console_scripts_are_these_programs():
    pyproject = Path(__file__).resolve().parent.parent / "pyproject.toml"
    project = tomllib.loads(pyproject.read_text())["project"]
    programs = {"diskcsr": "diskcsr.__main__:main", "diskcsr-bench": "diskcsr.bench.__main__:main"}
    assert project["scripts"] == programs


@pytest.mark.parametrize(
    ("text", "size"),
    [("500MB", 5 * 10**8), ("2GiB", 2 << 30), ("1.5k", 1500), ("77", 77), ("3 mib", 3 << 20)],
)
def test_sizes(text, size):
    assert cli.parse_size(text) == size


@pytest.mark.parametrize("text", ["", "MB", "-1", "0", "1xb", "5ib", "1e9"])
def test_what_is_no_size(text):
    with pytest.raises(cli.argparse.ArgumentTypeError, match="size"):
        cli.parse_size(text)


@pytest.mark.parametrize("command", ["info", "check"])
@pytest.mark.parametrize("what", ["nothing", "text", "folder", "name"])
def test_errors_take_one_line(path, command, what):
    wanted = path.with_name(what)
    if what == "text":
        wanted.write_text("no HDF5")
    if what == "folder":
        wanted.mkdir()
    args = (path, "Y") if what == "name" else (wanted,)
    code, out, err = run(command, *args)
    assert (code, out) == (2, "")
    (line,) = err.splitlines()
    assert line.startswith("diskcsr: error: ")
    assert str(args[-1]) in line


def test_an_interrupt_is_quiet(monkeypatch, path, capsys):
    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "info_apart", interrupted)
    assert cli.main(["info", str(path)]) == 130
    assert capsys.readouterr() == ("", "")


def test_a_reader_that_went_away_is_no_error(path):
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "diskcsr", "info", str(path)]
    done = subprocess.run(
        command, cwd=HERE, stdout=writing, stderr=subprocess.PIPE, timeout=60, check=False
    )
    os.close(writing)
    assert done.stderr == b""
    assert done.returncode == 141


# ------------------------------------------------------------------------------------------- info


def test_info_says_what_is_there(path):
    code, out, err = run("info", path)
    assert (code, err) == (0, "")
    assert "/X: csr (h5sparse+anndata), 40 x 30, 30 stored values of float32" in out
    assert "density 0.025, indices sorted" in out
    assert "deflate(" in out
    assert "  data, indices, indptr: read by decode: filtered by" in out


def test_info_as_json_is_what_the_table_says(path):
    facts = json.loads(run("info", path, "--json")[1])
    assert facts == json.loads(json.dumps(info(path)))
    (matrix,) = facts["matrices"]
    assert matrix["shape"] == [40, 30]
    assert matrix["nnz"] == 30
    assert matrix["sorted"] is True
    with diskcsr.open(path) as opened, h5py.File(path) as file:
        for part, array in matrix["arrays"].items():
            dset = file["X"][part]
            assert array["reader"] == opened.reader[part].name
            assert array["why"] == opened.reader[part].why
            assert array["dtype"] == str(dset.dtype)
            assert array["stored_bytes"] == dset.id.get_storage_size()
            assert array["memory_bytes"] == dset.size * dset.dtype.itemsize
            assert array["chunks"] == dset.chunks[0]
        assert matrix["arrays"]["data"]["filters"][-1]["name"] == "deflate"


def hints(path, **options):
    (matrix,) = info(path, **options)["matrices"]
    return " | ".join(matrix["hints"])


def test_hints(tmp_path, monkeypatch):
    path = tmp_path / "m.h5"
    matrix = csr_array(np.ones((30, 50)))

    def store(matrix, **storage):
        with h5py.File(path, "w") as file:
            group = file.create_group("X")
            group.attrs["h5sparse_format"] = matrix.format
            group.attrs["h5sparse_shape"] = matrix.shape
            for name in ("data", "indices", "indptr"):
                group.create_dataset(name, data=getattr(matrix, name), **storage)

    store(matrix, chunks=(1 << 16,), maxshape=(None,))
    assert hints(path) == ""
    store(matrix)
    assert "data, indices, indptr: of fixed length, cannot be appended to" in hints(path)
    store(matrix, chunks=(16,), maxshape=(None,), compression="gzip")
    assert "data: chunks of 16 elements are tiny; 65536 is the default" in hints(path)
    assert "indices: chunks of 16 elements are tiny" in hints(path)
    store(matrix, chunks=(16,), maxshape=(None,))
    assert "tiny" not in hints(path)  # side by side, they are read as one
    monkeypatch.setattr("diskcsr.storage.check.describe._MANY", 90)
    assert "data: chunks of 16 elements are tiny; 65536 is the default" in hints(path)
    with h5py.File(path, "w") as file:
        group = file.create_group("X")
        group.attrs["h5sparse_format"], group.attrs["h5sparse_shape"] = "csr", matrix.shape
        for name in ("data", "indices", "indptr"):
            values = getattr(matrix, name)
            dset = group.create_dataset(
                name, values.shape, values.dtype, chunks=(16,), maxshape=(None,)
            )
            for first in reversed(range(0, values.size, 16)):  # HDF5 makes room as it is written
                dset[first : first + 16] = values[first : first + 16]
    extents = info(path)["matrices"][0]["arrays"]["data"]["extents"]
    assert extents > 1
    assert f"data lies in {extents} extents: what computes with all of it loads it" in hints(path)
    diskcsr.convert(path, path.with_name("one.h5")).close()
    assert "extents" not in hints(path.with_name("one.h5"))
    store(matrix, chunks=(1 << 21,), maxshape=(None,), compression="gzip")
    assert "data: chunks of 2097152 elements are huge" in hints(path)
    monkeypatch.setattr("diskcsr.storage.codecs.libraries.find", lambda *names: None)
    assert "diskcsr[codecs]" in hints(path)
    store(matrix.tocsc(), maxshape=(None,))
    assert "columns are contiguous, rows are not" in hints(path)
    matrix.indices = matrix.indices[::-1].astype(np.int64)
    matrix.indptr = matrix.indptr.astype(np.int64)
    store(matrix, maxshape=(None,))
    assert "indices are int64 where int32 would do" in hints(path)
    assert "indices are not sorted within rows" in hints(path)
    monkeypatch.setattr("diskcsr.storage.check.describe._CHEAP", 10)
    assert "not sorted" not in hints(path)
    assert "not sorted" in hints(path, deep=True)
    layout = h5py.VirtualLayout((1500,), "f8")
    with h5py.File(path, "r+") as file:
        file["X"].move("data", "moved")
        layout[:1000] = h5py.VirtualSource(file["X/moved"])[:1000]
        file["X"].create_virtual_dataset("data", layout)
    assert "data is read through h5py, which is slow (virtual, and its parts overlap" in hints(path)


def test_row_pointers_are_not_called_tiny(tmp_path):
    path = tmp_path / "m.h5"
    matrix = csr_array((np.ones(2000), np.zeros(2000, np.int32), np.arange(2001)), shape=(2000, 1))
    with h5py.File(path, "w") as file:
        group = file.create_group("X")
        group.attrs["encoding-type"], group.attrs["encoding-version"] = "csr_matrix", "0.1.0"
        group.attrs["shape"] = matrix.shape
        for name in ("data", "indices", "indptr"):
            group.create_dataset(
                name, data=getattr(matrix, name), chunks=(20,), maxshape=(None,), compression="gzip"
            )
    assert "data: chunks of 20 elements are tiny" in hints(path)
    assert "indptr: chunks" not in hints(path)


def test_info_tells_how_far_it_is(path, monkeypatch):
    told = []
    diskcsr.info(path, progress=lambda *now: told.append(now))
    assert told == []  # nothing is read
    diskcsr.info(path, deep=True, progress=lambda *now: told.append(now))
    total = 30 * 4 + 2 * 41 * 8
    assert told[-1] == (total, total)
    assert told == sorted(told)


def test_info_in_python(path):
    facts = diskcsr.info(path, "X")
    assert (facts["file"], facts["bytes"], facts["instead"]) == (
        str(path),
        path.stat().st_size,
        None,
    )
    (matrix,) = facts["matrices"]
    assert (matrix["name"], matrix["format"], matrix["shape"]) == ("/X", "csr", [40, 30])
    assert (matrix["nnz"], matrix["sorted"], matrix["error"]) == (30, True, None)
    with pytest.raises(KeyError, match="no object 'Z'"):
        diskcsr.info(path, "Z")
    with pytest.raises(FileNotFoundError):
        diskcsr.info(path.with_name("nothing.h5"))


def test_info_of_what_cannot_be_opened(path):
    with h5py.File(path, "r+") as file:
        file["X"].attrs["shape"] = [1, 1]
        other = file.create_group("Y")
        for name in ("data", "indices", "indptr"):
            other[name] = np.zeros(4, np.int32)
    code, out, _ = run("info", path)
    assert code == 0
    assert "/X: cannot be opened: " in out
    assert "h5sparse_shape" in out
    assert "nothing says the shape of this matrix" in run("info", path, "Y")[1]


@real
@pytest.mark.parametrize("file", sorted({group.file for group in GROUPS}))
def test_info_on_real_files(file, capsys):
    assert cli.main(["info", str(ROOT / file)]) == 0
    out = capsys.readouterr().out
    facts = {matrix["name"]: matrix for matrix in info(ROOT / file)["matrices"]}
    groups = [group for group in GROUPS if group.file == file]
    assert set(facts) == {group.name for group in groups}
    for group in groups:
        matrix, expected = facts[group.name], group.read()
        rows, columns = group.shape
        assert f"{group.name}: {group.format} ({group.convention}), {rows:,} x {columns:,}" in out
        assert (matrix["nnz"], matrix["sorted"]) == (expected.nnz, expected.has_sorted_indices)
        assert matrix["dtype"] == str(expected.dtype)


@real
@pytest.mark.parametrize("file", NEGATIVE)
def test_info_on_real_files_without_a_matrix(file, capsys):
    assert cli.main(["info", str(ROOT / file)]) == 0
    out = capsys.readouterr().out
    assert "no sparse matrix; it has" in out
    for words in NEGATIVE[file]:
        assert words in out


def test_the_table_of_rich_has_the_same_cells(path, monkeypatch, capsys):
    pytest.importorskip("rich", reason="rich is not installed")
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(cli.sys.stdout, "isatty", lambda: True)
    cli.main(["info", str(path)])
    out = capsys.readouterr().out
    assert "│" in out
    for array in info(path)["matrices"][0]["arrays"].values():
        assert array["dtype"] in out
        assert str(array["size"]) in out


# ------------------------------------------------------------------------------------------ check


def test_check_of_a_file_that_is_fine(path):
    assert run("check", path) == (0, f"{path}: 1 sparse matrix: ok\n", "")


def test_check_and_repair(path):
    with h5py.File(path, "r+") as file:
        data = file["X/data"]
        data.resize((33,))
    code, out, err = run("check", path)
    assert (code, err) == (1, "")
    assert "warning: /X/data: 3 elements behind the end of the last row (at 30: 33)" in out
    code, out, _ = run("check", path, "--json")
    assert code == 1
    assert json.loads(out) == json.loads(json.dumps(check(path).to_dict()))
    code, out, _ = run("check", path, "X", "--repair")
    assert code == 0
    assert "repaired: /X/data: 33 entries cut to 30" in out
    assert run("check", path)[0] == 0


def test_what_is_left_after_a_repair_counts(path):
    with h5py.File(path, "r+") as file:
        file["X/indices"][3] = 99
    code, out, _ = run("check", path, "--repair", "--json")
    report = json.loads(out)
    assert code == 1
    assert report["ok"] is False
    assert report["repaired"] == []
    (problem,) = report["problems"]
    assert (problem["kind"], problem["position"], problem["value"]) == ("range", 3, 99)


# --------------------------------------------------------------------------------------- progress


@pytest.mark.parametrize("command", ["info --deep", "check", "check --repair", "convert"])
def test_commands_show_progress_unless_they_are_to_be_quiet(path, command, monkeypatch, capsys):
    what, *more = command.split()
    args = [what, str(path), *more]
    args += [str(path.with_name("t.h5"))] if what == "convert" else []
    assert cli.main(args) == 0
    assert capsys.readouterr().err == ""  # a short call needs none
    monkeypatch.setattr(bars, "_PATIENCE", 0.0)
    args += ["--overwrite"] if what == "convert" else []
    assert cli.main(args) == 0
    said = capsys.readouterr().err
    word = {"info": "reading", "check": "checking", "convert": "writing"}[what]
    assert {line.partition(":")[0] for line in said.splitlines()} == {word}
    assert f"{word}: 100 % of " in said
    assert cli.main([*args, "--quiet"]) == 0
    assert capsys.readouterr().err == ""


# ---------------------------------------------------------------------------------------- convert


def test_convert_passes_its_options_on(path, monkeypatch, capsys):
    calls = []

    def convert(source, file, **options):
        calls.append((source, file, options))
        return diskcsr.open(file, options["name"])

    monkeypatch.setattr(diskcsr, "convert", convert, raising=False)
    args = "--source-name a --name X --format csc --compression gzip --level 3 --chunks 100"
    args += " --keep-order --from csv --fields u,i,s --labels sorted --shape 3 4 --dtype f4"
    more = "--sum-duplicates --max-memory 2MiB --permute-rows --rng 7 --overwrite --quiet"
    more += " --duplicates last"
    assert cli.main(["convert", "src.mtx", str(path), *args.split(), *more.split()]) == 0
    assert "/X: csr" in capsys.readouterr().out
    options = {
        "source_name": "a",
        "source_kind": "csv",
        "fields": ["u", "i", "s"],
        "labels": "sorted",
        "shape": [3, 4],
        "dtype": "f4",
        "duplicates": "last",
        "name": "X",
        "format": "csc",
        "compression": "gzip",
        "compression_opts": 3,
        "chunks": 100,
        "sort_indices": False,
        "sum_duplicates": True,
        "max_memory": 2 << 20,
        "permute_rows": True,
        "rng": 7,
        "overwrite": True,
    }
    assert cli.main(["convert", "src.mtx", str(path), "--permute-rows", "--rng", "0"]) == 0
    assert calls == [
        ("src.mtx", str(path), options),
        (
            "src.mtx",
            str(path),
            {"name": "X", "permute_rows": True, "rng": 0, "progress": True},
        ),
    ]


def test_convert_as_a_process(path):
    target = path.with_name("t.h5")
    code, out, err = run("convert", path, target, "--format", "csc", "--name", "T")
    assert (code, err) == (0, "")
    assert "/T: csc" in out
    with diskcsr.open(target, "T") as matrix:
        np.testing.assert_array_equal(matrix.toarray(), np.eye(40, 30))
    code, out, _ = run("convert", path, target, "--name", "U", "--json")
    assert json.loads(out) == json.loads(json.dumps(info(target, "U")))
    code, _, err = run("convert", path, target, "--name", "T")
    assert (code, "pass --overwrite to replace it" in err) == (2, True)
    assert run("convert", path.with_name("nothing.h5"), target)[0] == 2


def test_convert_speaks_of_its_own_options(tmp_path):
    (tmp_path / "notes.txt").write_text("hello")
    (tmp_path / "m.mtx").write_text("%%MatrixMarket matrix coordinate real general\n2 2 0\n")
    for arguments, said in [
        (("notes.txt",), "(--from says of which"),
        (("m.mtx", "--fields", "a,b"), "--fields: not for mtx"),
        (("m.mtx", "--from", "excel"), "--from must be one of"),
        (("m.mtx", "--chunks", "0"), "a whole number from 1 on, not '0'"),
        (("m.mtx", "--permute-rows"), "--permute-rows: convert to HDF5 first"),
        (("m.mtx", "--max-memory", "1kB"), "--max-memory is 1000 bytes, but"),
        (("m.mtx", "--keep-order"), "--keep-order: triplets have no order"),
        (("m.mtx", "--rng", "3"), "--permute-rows: convert to HDF5 first"),
    ]:
        source, *more = arguments
        code, out, err = run("convert", tmp_path / source, tmp_path / "t.h5", *more)
        assert (code, out, said in err) == (2, "", True), err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m.mtx", "notes.txt"]


def test_messages_speak_of_the_command_line(tmp_path, path):
    (tmp_path / "r.csv").write_text("0,1,2\n")
    advice = f"diskcsr convert {tmp_path / 'r.csv'} r.h5 makes HDF5 of it"
    for arguments, said in [
        (("info", tmp_path / "r.csv"), advice),
        (("check", tmp_path / "r.csv"), advice),
        (("convert", path, tmp_path / "o.csv"), "choose another name, as 'o.h5'"),
        (("convert", path, tmp_path / "t.h5", "--rng", "3"), "which needs --permute-rows"),
        (("convert", path, path.with_name("m.mtx"), "--chunks", "7"), "--chunks: not for"),
        (("convert", path, tmp_path / "o", "--to", "x"), "--to must be one of"),
    ]:
        code, out, err = run(*arguments)
        assert (code, out, said in err) == (2, "", True), err
        assert "=True" not in err
        assert "diskcsr.convert" not in err
    assert sorted(file.name for file in tmp_path.iterdir()) == ["m.h5", "r.csv"]
    assert cli._in_options("diskcsr.convert('a b', 'new.h5', source_name='X') makes") == (
        "diskcsr convert 'a b' new.h5 --source-name X makes"
    )


def test_convert_of_a_table(tmp_path):
    pytest.importorskip("pyarrow", reason="the extra diskcsr[tables]")
    (tmp_path / "r.csv").write_text("stars,user,item\n5,eve,tea\n3,ann,ale\n")
    arguments = ["--fields", "user,item,stars", "--labels", "sorted", "--format", "csc", "--json"]
    code, out, err = run("convert", tmp_path / "r.csv", tmp_path / "r.h5", *arguments)
    assert (code, err) == (0, "")
    assert json.loads(out)["matrices"][0]["shape"] == [2, 2]
    with diskcsr.open(tmp_path / "r.h5") as A:
        np.testing.assert_array_equal(A.toarray(), [[3, 0], [0, 5]])


# ------------------------------------------------------------------------- some rows and columns


@pytest.fixture
def chosen(tmp_path, monkeypatch):
    """A folder with a matrix and files that choose from it; returns the matrix, dense."""
    monkeypatch.chdir(tmp_path)
    dense = np.random.default_rng(3).integers(0, 4, (60, 20)).astype(np.float32)
    diskcsr.write("m.h5", csr_array(dense), compression="gzip").close()
    np.save("mask.npy", dense[:, 0] > 1)
    np.save("rows.npy", np.array([7, 59, 7, 0], ">u2"))
    np.save("none.npy", np.zeros(0, np.int64))
    (tmp_path / "genes.txt").write_text("# the interesting ones\n5\n 4 19 # two\n\n5\n")
    return dense


@pytest.mark.parametrize(
    ("arguments", "rows", "columns"),
    [
        (["--rows", "mask.npy"], "mask", slice(None)),
        (["--rows", "rows.npy", "--columns", "genes.txt"], [7, 59, 7, 0], [5, 4, 19, 5]),
        (["--rows", "10:50:7"], slice(10, 50, 7), slice(None)),
        (["--rows=-5:", "--columns", "::-1"], slice(-5, None), slice(None, None, -1)),
        (["--columns", ":3", "--from", "hdf5", "--source-name", "X"], slice(None), slice(3)),
        (["--rows", "none.npy"], slice(0), slice(None)),
        (["--rows", "60:60"], slice(60, 60), slice(None)),
    ],
)
@pytest.mark.parametrize("format", [None, "csr", "csc"])
def test_convert_some_rows_and_columns(chosen, capsys, arguments, rows, columns, format):
    more = [] if format is None else ["--format", format]
    assert cli.main(["convert", "m.h5", "t.h5", *arguments, *more]) == 0
    assert capsys.readouterr().err == ""
    rows = chosen[:, 0] > 1 if isinstance(rows, str) else rows
    with diskcsr.open("t.h5") as A:
        assert A.format == (format or "csr")
        assert A.dtype == np.float32
        expected = chosen[rows][:, columns]
        assert A.shape == expected.shape
        assert A.nnz == np.count_nonzero(expected)
        np.testing.assert_array_equal(A.toarray(), expected)
    assert check("t.h5").ok


def test_convert_some_in_another_order(chosen):
    arguments = ["--rows", "mask.npy", "--columns", "2:9", "--permute-rows", "--rng", "5"]
    assert cli.main(["convert", "m.h5", "t.h5", *arguments]) == 0
    expected = chosen[chosen[:, 0] > 1, 2:9]
    order = np.random.default_rng(5).permutation(len(expected))
    with diskcsr.open("t.h5") as A:
        np.testing.assert_array_equal(A.toarray(), expected[order])


def test_convert_some_of_a_matrix_by_columns(chosen):
    diskcsr.convert("m.h5", "c.h5", format="csc").close()
    assert cli.main(["convert", "c.h5", "t.h5", "--rows", "mask.npy", "--columns", "9:2:-3"]) == 0
    with diskcsr.open("t.h5") as A:
        assert A.format == "csc"
        np.testing.assert_array_equal(A.toarray(), chosen[chosen[:, 0] > 1, 9:2:-3])


def write_wrong_choices():
    np.save("short.npy", np.ones(3, bool))
    np.save("below.npy", [5, -1])
    np.save("above.npy", np.array([5, 60], np.uint64))
    np.save("floats.npy", np.ones(60))
    np.save("flat.npy", np.ones((60, 1), bool))
    np.save("objects.npy", np.array([None]), allow_pickle=True)
    Path("cut.npy").write_bytes(Path("rows.npy").read_bytes()[:-3])
    Path("word.txt").write_text("1\n2 \xe4b\n", encoding="utf-8")
    Path("above.txt").write_text("1\n20\n")
    Path("below.txt").write_text("-3")
    Path("long.txt").write_text("9" * 5000)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--rows", "short.npy"], "short.npy: a mask of 3 values, where the matrix has 60 rows"),
        (["--columns", "mask.npy"], "a mask of 60 values, where the matrix has 20 columns"),
        (["--rows", "below.npy"], "below.npy, element 1: -1 is no number of one of the 60 rows"),
        (["--rows", "above.npy"], "element 1: 60 is no number of one of the 60 rows of the matrix"),
        (["--rows", "floats.npy"], "floats.npy: an array of shape (60,) and dtype float64, where"),
        (["--rows", "flat.npy"], "flat.npy: an array of shape (60, 1) and dtype bool, where"),
        (["--rows", "objects.npy"], "--rows objects.npy: "),
        (["--rows", "cut.npy"], "--rows cut.npy: "),
        (["--rows", "m.h5"], "--rows m.h5: neither a .npy file nor a text of numbers"),
        (["--rows", "missing.txt"], "missing.txt: No such file"),
        (["--rows", "."], ".: Is a directory"),
        (["--columns", "word.txt"], "word.txt, line 2: 'äb' is no whole number"),
        (["--columns", "above.txt"], "line 2: 20 is no number of one of the 20 columns of the"),
        (["--columns", "below.txt"], "below.txt, line 1: -3 is no number"),
        (["--columns", "long.txt"], "long.txt, line 1: 9999"),
        (["--rows", "5:61"], "--rows 5:61: 61 is beyond the 60 rows of the matrix"),
        (["--columns=-21:"], "--columns -21:: -21 is beyond the 20 columns of the matrix"),
        (["--rows", "1:5:0"], "--rows 1:5:0: the step must not be 0"),
        (["--rows", ":", "--from", "csv"], "m.h5: --from csv: --rows and --columns choose from"),
        (["--rows", ":", "--dtype", "f8"], "--dtype: a matrix has them already"),
    ],
)
def test_convert_refuses_wrong_choices(chosen, capsys, arguments, said):
    write_wrong_choices()
    before = sorted(os.listdir())
    assert cli.main(["convert", "m.h5", "t.h5", *arguments]) == 2
    out, err = capsys.readouterr()
    (line,) = err.splitlines()
    assert (out, line.startswith("diskcsr: error: ")) == ("", True)
    assert said in line
    assert sorted(os.listdir()) == before


def test_convert_chooses_only_from_sparse_matrices_in_hdf5(chosen, capsys):
    Path("m.mtx").write_text("%%MatrixMarket matrix coordinate real general\n2 2 0\n")
    assert cli.main(["convert", "m.mtx", "t.h5", "--rows", "0:1"]) == 2
    said = capsys.readouterr().err
    assert "'m.mtx' is not an HDF5 file but Matrix Market" in said
    assert "diskcsr convert m.mtx m.h5 makes HDF5 of it" in said
    assert "--rows and --columns choose from a sparse matrix in HDF5: convert to one first" in said
    assert cli.main(["convert", "m.h5", "m.h5", "--name", "Y", "--rows", "0:1"]) == 2
    assert "is open for reading as a source" in capsys.readouterr().err


@pytest.fixture
def wide(tmp_path, monkeypatch):
    """A file of 24 MB of values and indices, of which tests choose every other row and column."""
    monkeypatch.chdir(tmp_path)
    block = csr_array(np.arange(1, 1001, dtype=np.float32).reshape(1, -1).repeat(3000, axis=0))
    diskcsr.write("m.h5", block).close()
    return ["convert", "m.h5", "t.h5", "--rows", "::2", "--columns", "::2", "--max-memory", "4MB"]


@pytest.mark.parametrize("format", ["csr", "csc"])
def test_convert_some_in_bounded_memory(wide, format, monkeypatch):
    monkeypatch.setattr("diskcsr.storage.check.describe._CHEAP", 10)  # what it prints costs nothing
    with diskcsr.options.set(memory_budget=6 << 20, cache_bytes=1 << 20, num_threads=1):
        assert cli.main([*wide, "--format", format]) == 0  # what it imports and compiles
        tracemalloc.start()
        try:
            assert cli.main([*wide, "--format", format, "--overwrite"]) == 0
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    assert peak < 6 << 20  # of 24 MB, and more than 6 that are chosen
    with diskcsr.open("t.h5") as A:
        assert (A.shape, A.nnz, A.dtype) == ((1500, 500), 750_000, np.float32)
        np.testing.assert_array_equal(A.sum(axis=0), 1500.0 * np.arange(1, 1001, 2))


def test_convert_some_tells_how_far_it_is(wide, monkeypatch):
    told = []
    monkeypatch.setattr(cli, "_progress", lambda args: lambda *now: told.append(now))
    assert cli.main(wide) == 0
    assert told == sorted(told)
    assert len(told) > 4
    assert told[-1] == (1500 * 1000 * 8, 1500 * 1000 * 8)  # of what is read
    told.clear()
    assert cli.main([*wide, "--format", "csc", "--overwrite"]) == 0
    assert told == sorted(told)
    assert told[-1][1] is None


def test_an_interrupt_leaves_nothing_of_what_was_chosen(wide, monkeypatch, capsys):
    calls = []

    def interrupt(done, total):
        calls.append(done)
        if len(calls) == 2:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(cli, "_progress", lambda args: interrupt)
    assert cli.main(wide) == 130
    assert len(calls) == 2
    assert capsys.readouterr() == ("", "")
    assert os.listdir() == ["m.h5"]


def test_bench_is_passed_its_arguments(monkeypatch):
    from diskcsr.bench import __main__ as bench

    seen = []
    monkeypatch.setattr(bench, "main", lambda *given: seen.append(given) or 0)
    assert cli.main(["bench", "m.h5", "--json", "out"]) == 0
    assert seen == [(["m.h5", "--json", "out"], "diskcsr bench")]


def test_bench_as_a_command():
    code, out, err = run("bench", "--help")
    assert (code, err) == (0, "")
    assert "examples:" in out


# -------------------------------------------------------------------------------- console scripts


@pytest.mark.parametrize("program", ["diskcsr", "diskcsr-bench"])
def test_the_installed_program_runs(program):
    found = shutil.which(program, path=str(Path(sys.executable).parent))
    if found is None:
        pytest.skip(f"{program} is not installed beside this Python")

    def started(*args):
        return subprocess.run([found, *args], capture_output=True, text=True, timeout=120)

    helped = started("--help")
    assert (helped.returncode, helped.stderr) == (0, "")
    assert helped.stdout.startswith(f"usage: {program} ")
    assert f"\n  {program} " in helped.stdout
    assert "python -m" not in helped.stdout
    assert "exit codes:" in helped.stdout
    wrong = started("--no-such-option")
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert wrong.stderr.startswith(f"{program}: error: ")
    assert wrong.stderr.count("\n") == 1


# ------------------------------------------------------------------------- files of other kinds


def test_a_file_of_another_kind_is_written(path, tmp_path):
    target = tmp_path / "m.npz"
    assert run("convert", path, target) == (0, f"{target}: written\n", "")
    assert (load_npz(target).toarray() == np.eye(40, 30)).all()
    code, out, err = run("convert", path, target)
    assert (code, out) == (2, "")
    assert "pass --overwrite to replace it" in err
    assert run("convert", path, target, "--overwrite", "--compression", "deflate")[0] == 0
    assert (load_npz(target).toarray() == np.eye(40, 30)).all()


def test_what_cannot_be_said_of_another_kind(path, tmp_path):
    code, _, err = run("convert", path, tmp_path / "m.mtx", "--chunks", "9", "--keep-order")
    assert code == 2
    assert "--chunks, --keep-order: not for" in err
    code, _, err = run("convert", path, tmp_path / "m.out", "--to", "csv")
    assert code == 2
    assert "--to must be one of 'mtx'" in err
    assert os.listdir(tmp_path) == ["m.h5"]


def test_to_says_what_the_name_does_not(path, tmp_path):
    assert run("convert", path, tmp_path / "m.txt", "--to", "mtx")[0] == 0
    assert (tmp_path / "m.txt").read_bytes().startswith(b"%%MatrixMarket matrix coordinate real")
