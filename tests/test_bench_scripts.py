"""The scripts of bench/ at a tiny scale: they run, and notice a wrong answer."""

import importlib.util
import json
import math
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
from scipy.sparse import csr_array

import diskcsr

# What they measure, and not what they are for, depends on versions.
pytestmark = pytest.mark.once

BENCH = Path(__file__).resolve().parent.parent / "bench"


def load(script):
    """Import a script of bench/ as a module, without running it."""
    spec = importlib.util.spec_from_file_location(f"bench_{script}", BENCH / f"{script}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def common():
    return load("common")


def test_the_matrix_has_the_promised_proportions(common):
    X = common.make_matrix(200, 28_000, 1500, np.random.default_rng(3))
    assert X.shape == (200, 28_000)
    assert (X.data.dtype, X.indices.dtype) == (np.float32, np.int32)
    stored = np.diff(X.indptr)
    assert 1400 < stored.mean() < 1600
    assert 200 < stored.std() < 700
    popularity = np.sort(np.bincount(X.indices, minlength=28_000))
    assert popularity[-1] > 150
    assert popularity[14_000] < 20
    assert X.has_canonical_format
    assert X.data.min() >= 1
    again = common.make_matrix(200, 28_000, 1500, np.random.default_rng(3))
    assert np.array_equal(X.indices, again.indices)
    assert np.array_equal(X.data, again.data)


EXPECTED = csr_array(np.array([[0, 1, 2], [3, 0, 0]], np.float32))


@pytest.mark.parametrize(
    "wrong",
    [
        csr_array(np.array([[0, 1, 2], [4, 0, 0]], np.float32)),
        csr_array(np.array([[1, 0, 2], [3, 0, 0]], np.float32)),
        csr_array(np.array([[0, 1, 2], [3, 0, 0]], np.float64)),
        csr_array(np.array([[0, 1, 2, 0], [3, 0, 0, 0]], np.float32)),
        csr_array(np.array([[0, 1, 2]], np.float32)),
        EXPECTED.toarray(),
    ],
    ids=["value", "place", "dtype", "shape", "rows", "dense"],
)
def test_a_wrong_answer_stops_it(common, wrong):
    common.check("it", "rows", EXPECTED.copy(), EXPECTED)
    with pytest.raises(SystemExit, match="it: wrong answer to rows"):
        common.check("it", "rows", wrong, EXPECTED)


def test_a_wrong_scalar_stops_it(common):
    common.check("it", "one scalar", np.float32(2), EXPECTED[0, 2])
    for wrong in (np.float32(1), np.float64(2), EXPECTED[[0]]):
        with pytest.raises(SystemExit, match="wrong answer"):
            common.check("it", "one scalar", wrong, EXPECTED[0, 2])


def test_a_system_that_answers_wrongly_is_never_timed(common):
    engine = load("engine")
    X = common.make_matrix(100, 500, 50, np.random.default_rng(0))
    systems = {engine.REFERENCE: lambda key: X[key], engine.OWN: lambda key: 2 * X[key]}
    operation = next(iter(engine.OPERATIONS))
    with pytest.raises(SystemExit, match=f"diskcsr: wrong answer to {operation}"):
        engine.measure(systems, operation, X, np.random.default_rng(0), None, lambda key: 0)


def test_results_are_kept_and_the_folder_is_not(common, tmp_path, capsys):
    def run(args, folder):
        Path(folder, "matrix.h5").write_text("large")
        assert Path(folder).parent == tmp_path
        return {"rows": args.rows, "threads": args.threads}

    out = tmp_path / "out.json"
    options = {"--rows": common.count(7, "of a block"), "--threads": common.THREADS}
    arguments = [f"--folder={tmp_path}", f"--json={out}"]
    found = common.script(run, "First line.\n\nMore.", "1 GB", options, arguments)
    assert found == {"rows": 7, "threads": None} == json.loads(out.read_text())
    assert list(tmp_path.iterdir()) == [out]
    with pytest.raises(SystemExit) as stopped:
        common.script(run, "First line.\n\nMore.", "1 GB", options, ["--help"])
    assert stopped.value.code == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "First line." in said
    assert "More." not in said
    assert "of a block (default: 7)" in said
    assert "(needs 1 GB)" in said


#: Each script with what makes it small, and words of what it must print.
SMALL = {
    "engine": (
        "--scale=0.003 --repeats=2 --load-repeats=1 --peer-repeats=1 --write-repeats=1 --no-cold "
        "--files raw gzip+shuffle",
        ["gzip+shuffle: ", "full load", "write (against h5py)", "expected at full size"],
    ),
    "loader": (
        "--rows=400 --blocks 64 --files raw --repeats=1 --peer-rows=200",
        ["rows a second", "raw: "],
    ),
    "training": (
        "--rows=400 --blocks 64 --files raw --repeats=1 --peer-rows=200 --dense-rows=200",
        ["rows a second", "raw: ", "fresh process, diskcsr", "raw, block 64: "],
    ),
    "chunks": ("--scale=0.01 --repeats=1", ["65,536", "the default this supports"]),
    "codecs": ("--chunks=1 --repeats=1", ["gzip-4 + shuffle", "scaleoffset"]),
    "convert": ("--scale=0.002", ["CSR to CSC", "concatenation of 4 files", "ratio"]),
    "remote": (
        "--shape 300 400 --stored=50 --rows=20 --repeats=1 --latency=0.001",
        [
            "lower bound",
            "diskcsr, again and again",
            "h5py, blocks of 64 KiB",
            "gzip, chunks of 8,192",
        ],
    ),
    "products": (
        "--rows=300 --columns=3000 --selected=100 --rounds=1",
        ["ns a stored value", "60 f8", "Gram matrix of 100 columns", "BLAS"],
    ),
    "scale": (
        "--measured-rows=1e5 --measured-chunks=500",
        ["8.0 TB", "15,258,789", "row pointers, each file", "blocks of 64"],
    ),
    "workers": (
        "--cells=300 --columns=2000 --genes=100 --components=3 --chunk=64 --processes 1 2",
        ["diskcsr, one thread", "Dask, 1 process ", "Dask, 2 processes"],
    ),
    "triplets": ("--largest=1e5 --max-memory=4", ["within 4 MiB", "100,000        keep", "MiB"]),
}


#: What of the libraries each of these needs.
NEEDED = {"remote": ("aiohttp", "fsspec"), "workers": ("anndata", "distributed")}


@pytest.mark.parametrize("script", SMALL)
def test_the_other_scripts_run(script, tmp_path):
    for library in NEEDED.get(script, ("anndata",)):
        pytest.importorskip(library, reason=f"bench/{script}.py needs {library}")
    arguments, words = SMALL[script]
    folder = tempfile.mkdtemp()  # a short name: workers have sockets in it
    root = Path(diskcsr.__file__).resolve().parent.parent
    result = subprocess.run(
        [sys.executable, str(BENCH / f"{script}.py"), *arguments.split()],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(root), "TMPDIR": folder},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr
    for word in words:
        assert word in result.stdout
    assert list(tmp_path.iterdir()) == []
    os.rmdir(folder)  # what was written is removed


def run_script(name, folder, *arguments):
    """Run a script of bench/ in a folder; return what it printed and wrote as JSON."""
    result = subprocess.run(
        [sys.executable, str(BENCH / name), *arguments, "--json=out.json"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(Path(diskcsr.__file__).resolve().parent.parent)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout, json.loads((folder / "out.json").read_text())


def test_opening(tmp_path):
    pytest.importorskip("anndata")
    arguments = ["--scale=0.002", "--repeats=3", "--processes=1", f"--folder={tmp_path}"]
    stdout, results = run_script("opening.py", tmp_path, *arguments)
    assert [path.name for path in tmp_path.iterdir()] == ["out.json"]  # the matrices are removed
    assert results["machine"]["cores"] >= 1
    assert results["versions"]["diskcsr"] == diskcsr.__version__
    assert results["machine"]["cpu"] in stdout
    beginning = {**results["opening_ms"], **results["start_up_ms"]}
    assert len(beginning) == 10
    for step, taken in beginning.items():
        assert math.isfinite(taken)
        assert taken > 0
        assert f"    {step}" in stdout
    if sys.platform == "linux":
        assert 0 <= results["busy_with_others"] <= results["machine"]["cores"] + 0.5


def test_joined(tmp_path):
    arguments = ["--scale=0.002", "--repeats=2", "--parts=3", f"--folder={tmp_path}"]
    stdout, found = run_script("joined.py", tmp_path, *arguments)
    assert [path.name for path in tmp_path.iterdir()] == ["out.json"]
    assert list(found["results"]) == ["raw", "gzip"]
    for results in found["results"].values():
        assert list(map(len, results.values())) == [3, 3, 4, 4, 3, 3, 3]
        for name, times in results.items():
            assert name in stdout
            assert all(map(math.isfinite, times.values()))
            assert min(times.values()) > 0


def test_calls(tmp_path):
    stdout, found = run_script("calls.py", tmp_path, f"--folder={tmp_path}")
    assert [path.name for path in tmp_path.iterdir()] == ["out.json"]
    assert next(iter(found)) == "A[rows], raw"
    assert len(found) == 6
    for name, (calls, files, crossings) in found.items():
        assert name in stdout
        assert calls > crossings > files > 5


def test_calls_counts_what_it_says():
    counter = load("calls")
    here = Path(__file__).resolve()
    counter.ROOT = str(here)  # this file alone counts

    def inner():
        return len(sorted([2, 1], key=lambda number: number))

    assert counter.calls_of(lambda: inner()) == (4, 1, 0)


def test_fetch(tmp_path):
    arguments = ["--scale=0.003", "--repeats=2", f"--folder={tmp_path}"]
    stdout, results = run_script("fetch.py", tmp_path, *arguments)
    assert [path.name for path in tmp_path.iterdir()] == ["out.json"]
    fetch = load("fetch")
    assert list(results["fetches"]) == [fetch.ELEMENT, *fetch.SIZES]
    for name, found in results["fetches"].items():
        assert list(found) == [fetch.OWN, fetch.REFERENCE]
        assert all(math.isfinite(seconds) and seconds > 0 for seconds in found.values())
        assert f"    {name}" in stdout
    assert set(fetch.EXPECTED) <= set(results["fetches"])
    assert list(results["epochs"]) == ["first epoch", "later epoch", fetch.REFERENCE]
    assert all(rate > 0 for rate in results["epochs"].values())
    assert list(results["memory"]) == ["first four rows", "loop of fetches"]
    assert 0 < results["memory"]["first four rows"] < fetch.EXPECTED_FEW


def test_append(tmp_path):
    pytest.importorskip("anndata")
    arguments = ["--blocks=22", "--rows=5", "--scale=0.01", "--repeats=2", f"--folder={tmp_path}"]
    stdout, results = run_script("append.py", tmp_path, *arguments)
    systems = ["diskcsr, a call a block", "diskcsr, one iterable", "anndata"]
    for compression in ("raw", "gzip"):
        assert list(results[compression]) == systems
        for system, row in results[compression].items():
            assert row["append_s"] > 0
            assert row["random_rows_ms"] > 0
            assert row["file_bytes"] > 22 * 5 * 10
            assert row["chunks"]["indptr"] == (6 if system == "anndata" else 1024)
    assert len(results["journal"]) == 3
    for row in results["journal"].values():
        assert row["ratio"] > 0
    for system in systems:
        assert stdout.count(f"\n{system}") == 2


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_lazy(tmp_path):
    pytest.importorskip("sklearn")
    arguments = ["--cells", "300", "--columns=400", "--components=5", "--what", "all"]
    arguments += ["--compare", "1", "2", f"--folder={tmp_path}"]
    stdout, results = run_script("lazy.py", tmp_path, *arguments)
    assert [path.name for path in tmp_path.iterdir()] == ["out.json"]
    (kept,) = results.values()
    assert list(kept)[:2] == ["all genes, raw", "all genes, gzip"]
    for name in ("raw", "gzip"):
        answer = kept[f"all genes, {name}"]
        assert 0 <= answer["selection"] < answer["seconds"]
        assert answer["peak"] > 50
        assert answer["passes"] >= 3
        assert list(answer["parts"]) == ["read", "log counts", "product"]
        assert answer["error"] < 1e-4
    assert kept["all genes, raw"]["digest"] == kept["all genes, gzip"]["digest"]
    assert kept["all genes, scikit-learn, in memory"]["seconds"] > 0
    assert "the same bits with 1, 2 threads" in stdout
    assert "300 x 400, " in stdout


def test_kill(tmp_path):
    stdout, results = run_script("kill.py", tmp_path, "--kills=12", f"--folder={tmp_path}")
    everything = results.pop("all")
    assert everything["kills"] == 12
    assert everything["failures"] == 0
    assert everything["before"] + everything["between"] + everything["after"] == 12
    assert sum(row["kills"] for row in results.values()) == 12
    assert all(name in stdout for name in results)


def run_readme(*arguments):
    root = BENCH.parent
    return subprocess.run(
        [sys.executable, str(BENCH / "readme.py"), *arguments],
        env={**os.environ, "PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_the_readme_says_what_was_recorded():
    result = run_readme("--check")
    assert result.returncode == 0, result.stdout + result.stderr
    result = run_readme("nothing")
    assert result.returncode == 2
    assert "no record 'nothing'; there are neurons" in result.stderr


def test_records_say_where_they_come_from():
    records = sorted((BENCH / "results").glob("*.json"))
    assert {path.stem for path in records} >= {"neurons", "gzip", "loaders", "peers"}
    for path in records:
        run = json.loads(path.read_text(encoding="utf-8"))
        assert run["machine"]["cpu"]
        assert run["versions"]["diskcsr"]
        assert run["busy_with_others"] < 0.5, "recorded on a busy machine"
        assert not [r for r in run["results"] if r["status"] == "wrong"]
        assert run["seconds"] > 0
