"""python -m diskcsr.bench as a process, at tiny sizes: its table, its files, its errors."""

import json
import math
import os
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from scipy.sparse import csc_array, csr_array

import diskcsr
from diskcsr.axis import CSR
from diskcsr.bench.cases import CASES
from diskcsr.bench.source import Matrix, digest, generate, row_marks
from diskcsr.bench.workloads import WORKLOADS

OPS = ["rows", "columns", "write"]
ROOT = Path(diskcsr.__file__).resolve().parent.parent

OWN = """
from diskcsr.bench.adapters.base import Adapter
from diskcsr.bench.adapters.in_memory import InMemory


class Liar(InMemory):
    title = "<liar> & co"

    def rows(self, rows):
        return 2 * super().rows(rows)

    def mask(self, mask):
        raise OSError("no <such> thing")

    columns = None


class Absent(Adapter):
    title = "absent"
    needs = ("a_module_that_nobody_has",)
    brings = "some-package"


class Slow(InMemory):
    title = "slow"

    def rows(self, rows):
        import time

        time.sleep(60)


class Crashing(InMemory):
    title = "crashing"

    def rows(self, rows):
        import os

        os._exit(7)


class Half(InMemory):
    title = "half"
    reads_files = False

    @classmethod
    def write(cls, path, matrix, storage):
        InMemory.write.__func__(cls, path, matrix[: matrix.shape[0] // 2], storage)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where the processes run: with a module that has adapters of its own."""
    folder = tmp_path_factory.mktemp("bench")
    (folder / "own.py").write_text(OWN)
    return folder


def run(folder, *args):
    env = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{folder}"}
    done = subprocess.run(
        [sys.executable, "-m", "diskcsr.bench", *map(str, args)],
        cwd=folder, env=env, capture_output=True, text=True, timeout=200,
    )  # fmt: skip
    return done.returncode, done.stdout, done.stderr


def cells(results):
    return {(result["peer"], result["op"]): result for result in results["results"]}


@pytest.fixture(scope="module")
def tiny(folder):
    """All operations of three systems on 60 rows: what was printed, and the JSON."""
    code, out, err = run(
        folder, "--rows=60", "--repeat=2", "--peers=scipy,diskcsr,h5py", "--compression=gzip",
        f"--ops={','.join(OPS)}", "--json=out.json", "--html=out.html",
    )  # fmt: skip
    assert (code, err) == (0, "")
    return out, json.loads((folder / "out.json").read_text())


def test_every_system_has_a_line_in_every_table(tiny):
    out, results = tiny
    lines = out.splitlines()
    systems = ["scipy in memory", "diskcsr", "h5py by hand"]
    for op in OPS:
        case = CASES[op]
        table = lines[lines.index(case.title) + 1 :][:4]
        head = table[0].split("  ")
        assert head[1] == "system"
        assert [line[2:].split("  ")[0] for line in table[1:]] == systems
        absent = op in ("columns", "sums")
        assert ("n/a" in table[3]) == absent
    assert results["machine"]["cpu"] in out
    assert f"diskcsr {diskcsr.__version__}" in out
    assert "60 x 27,998" in out


def test_json_holds_what_was_measured(tiny):
    _, results = tiny
    found = cells(results)
    assert list(found) == [(peer, op) for op in OPS for peer in ("scipy", "diskcsr", "h5py")]
    for (peer, op), result in found.items():
        if peer == "h5py" and op in ("columns", "sums"):
            assert result["status"] == "n/a"
            assert "median" not in result
            continue
        assert result["status"] == "ok"
        assert len(result["all"]) == 2
        assert result["median"] == pytest.approx(np.median(result["all"]))
        assert result["over_scipy"] == result["median"] / found["scipy", op]["median"]
        assert result["peak"] >= 0
        assert 0 < result["limit"] < 1
        assert math.isfinite(result["median"])
        if peer == "scipy" or op == "write":
            assert result["read"] is None
    matrix = results["matrix"]
    assert matrix["shape"] == [60, 27_998]
    assert matrix["bytes"] == 8 * matrix["stored"] > 60 * 8 * 1000
    assert results["versions"]["diskcsr"] == diskcsr.__version__
    assert results["speeds"]["decode"] > 1e6
    assert results["missing"] == {}
    assert found["diskcsr", "rows"]["read"] >= 0  # 0 when all chunks are in its cache
    assert found["h5py", "rows"]["read"] > 0


class _Page(HTMLParser):
    """Checks that tags are closed in order, and collects what refers elsewhere."""

    def __init__(self):
        super().__init__()
        self.open, self.links, self.seen = [], [], []

    def handle_starttag(self, tag, attrs):
        self.open.append(tag)
        self.seen.append(tag)
        self.links += [value for name, value in attrs if name in ("src", "href", "xlink:href")]

    def handle_startendtag(self, tag, attrs):
        self.seen.append(tag)
        self.links += [value for name, value in attrs if name in ("src", "href", "xlink:href")]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def page_of(path):
    text = path.read_text(encoding="utf-8")
    page = _Page()
    page.feed(text)
    page.close()
    assert page.open == []
    assert page.links == []
    assert "url(" not in text
    assert "http" not in text
    return text, page.seen


def test_the_page_is_whole_and_alone(tiny, folder):
    text, tags = page_of(folder / "out.html")
    assert tags.count("table") == tags.count("svg") == len(OPS)
    assert tags.count("rect") == 8
    assert tags.count("line") == len(OPS)
    assert "script" not in tags
    assert all(CASES[op].title in text for op in OPS)


def test_the_page_renders(tiny, folder, tmp_path):
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        pytest.skip("chromium is not installed")
    done = subprocess.run(
        [chromium, "--headless", "--no-sandbox", "--disable-gpu", "--window-size=1000,3000",
         f"--user-data-dir={tmp_path / 'profile'}", f"--screenshot={tmp_path / 'page.png'}",
         (folder / "out.html").as_uri()],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    picture = (tmp_path / "page.png").read_bytes()
    assert picture[:4] == b"\x89PNG"
    assert len(picture) > 30_000  # an empty page of this size has less than 20 kB


def test_wrong_answers_failures_and_what_is_missing(folder):
    code, out, err = run(
        folder, "--rows=40", "--repeat=1", "--peers=own:Liar,own:Absent,own:Half",
        "--ops=rows,mask,columns,load", "--json=wrong.json", "--html=wrong.html",
    )  # fmt: skip
    assert (code, err) == (1, "")
    results = json.loads((folder / "wrong.json").read_text())
    found = cells(results)
    status = {op: found["own:Liar", op]["status"] for op in ("rows", "mask", "columns", "load")}
    assert status == {"rows": "wrong", "mask": "failed", "columns": "n/a", "load": "ok"}
    assert found["own:Liar", "mask"]["why"] == "OSError: no <such> thing"
    assert found["own:Half", "load"]["status"] == "wrong"
    assert results["missing"] == {"own:Absent": "some-package"}
    assert "own:Absent: not installed; pip install some-package" in out
    assert "WRONG" in out
    assert "over_scipy" not in found["own:Liar", "load"]
    text, _ = page_of(folder / "wrong.html")
    assert "&lt;liar&gt; &amp; co" in text
    assert "<liar>" not in text
    assert "no <such>" not in text


def test_what_hangs_or_dies_does_not_end_the_run(folder):
    code, out, err = run(
        folder, "--rows=20", "--repeat=1", "--peers=own:Slow,own:Crashing", "--ops=rows,load",
        "--timeout=8", "--json=slow.json",
    )  # fmt: skip
    assert (code, err) == (0, "")
    found = cells(json.loads((folder / "slow.json").read_text()))
    assert found["own:Slow", "rows"]["status"] == "timeout"
    assert found["own:Crashing", "rows"]["status"] == "failed"
    assert found["own:Crashing", "rows"]["why"] == "exit code 7"
    assert found["own:Crashing", "load"]["status"] == "ok"
    assert "timeout" in out


@pytest.mark.parametrize("form", [csr_array, csc_array])
def test_a_file_is_read_as_it_is(folder, form):
    rng = np.random.default_rng(5)
    dense = rng.random((50, 30)) * (rng.random((50, 30)) < 0.2)
    path = folder / f"{form.__name__}.h5"
    diskcsr.write(path, form(dense), "layers/raw", compression="gzip").close()
    before = path.read_bytes()
    code, out, err = run(
        folder, path, "--peers=diskcsr,h5py,memmap", "--repeat=1",
        "--ops=rows,load", "--json=file.json", "--cold",
    )  # fmt: skip
    assert (code, err) == (0, "")
    assert path.read_bytes() == before
    results = json.loads((folder / "file.json").read_text())
    assert results["matrix"]["name"] == "/layers/raw"
    assert results["matrix"]["shape"] == [50, 30]
    assert results["matrix"]["dtype"] == "float64"
    by_rows = form is csr_array
    found = {key: result["status"] for key, result in cells(results).items()}
    for peer in ("diskcsr", "h5py", "memmap"):
        assert found[peer, "load"] == "ok"
    assert found["diskcsr", "rows"] == "ok"
    assert found["h5py", "rows"] == ("ok" if by_rows else "n/a")
    assert "50 x 30" in out


def test_list(folder):
    code, out, err = run(folder, "--list")
    assert (code, err) == (0, "")
    words = {line.split()[0] for line in out.splitlines() if line.startswith("  ")}
    assert words >= {"scipy", "diskcsr", "anndata", *CASES, *WORKLOADS}
    own = next(line for line in out.splitlines() if line.startswith("  diskcsr "))
    assert own.endswith(" installed")


def test_help_teaches(folder):
    code, out, err = run(folder, "--help")
    assert (code, err) == (0, "")
    assert "examples:" in out
    assert "exit codes:" in out
    for option in ("peers", "ops", "workload", "rows", "compression", "chunks", "threads", "cold"):
        assert f"--{option}" in out


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--peers=nobody"], "no peer 'nobody'"),
        (["--peers=own:Nothing"], "no peer 'own:Nothing'"),
        (["--ops=dance"], "no operation 'dance'"),
        (["--rows=0"], "a whole number from 1 on"),
        (["--workload=none"], "invalid choice: 'none'"),
        (["missing.h5"], "missing.h5"),
        (["own.py"], "own.py' is not an HDF5 file"),
        (["missing.h5", "--rows=5"], "--rows is for generated data"),
        (["missing.h5", "--ops=write"], "write is not measured"),
        (["--json=nowhere/out.json"], "nowhere/out.json cannot be written"),
        (["--unknown"], "unrecognized arguments: --unknown"),
    ],
    ids=lambda value: None if isinstance(value, str) else value[-1],
)
def test_errors_are_one_line(folder, args, message):
    code, out, err = run(folder, *args)
    assert (code, out) == (2, "")
    assert err.startswith("diskcsr-bench: error: ")
    assert err.count("\n") == 1
    assert message in err


# ------------------------------------------------------------------------------- the right answers


def test_digests_tell_matrices_apart():
    dense = np.arange(12.0).reshape(3, 4) % 5
    X = csr_array(dense)
    same = [csc_array(dense), csr_array((X.data, X.indices.astype(np.int64), X.indptr), X.shape)]
    assert all(digest(other, CSR) == digest(X, CSR) for other in same)
    assert digest([(0, X[:1]), (1, X[1:])], CSR) == digest(X, CSR)
    others = [X[:, ::-1], X[:2], 2 * X, X.astype(np.float32), dense]
    assert all(digest(other, CSR) != digest(X, CSR) for other in others)


@pytest.mark.parametrize("dtype", [np.float32, np.int64, np.complex128, bool])
def test_marks_of_rows_depend_on_their_values(dtype):
    dense = np.array([[0, 1, 2], [0, 0, 0], [3, 0, 1], [0, 1, 2]], dtype)
    marks = row_marks(csr_array(dense))
    assert marks.dtype == np.uint64
    assert marks[0] == marks[3]
    assert len(set(marks.tolist())) == 3
    assert row_marks(csr_array(dense)[[2, 0]]).tolist() == marks[[2, 0]].tolist()
    if dtype is np.complex128:
        assert row_marks(csr_array(dense * 1j))[0] != marks[0]
        assert row_marks(csr_array(dense + 1j * (dense != 0)))[0] != marks[0]


@pytest.mark.parametrize("name", list(WORKLOADS))
def test_right_answers_are_those_of_dense_numpy(tmp_path, name):
    workload = WORKLOADS[name]
    where = generate(tmp_path / "m", workload.blocks(12, 3))
    matrix = Matrix(where)
    dense = matrix.load().toarray()
    assert dense.shape == (12, workload.columns)
    rows, columns = np.array([7, 0, 7]), np.array([5, 1])
    np.testing.assert_array_equal(matrix.take(0, rows).toarray(), dense[rows])
    np.testing.assert_array_equal(matrix.take(1, columns).toarray(), dense[:, columns])
    x = np.random.default_rng(0).random(workload.columns)
    np.testing.assert_allclose(matrix.matvec(x), dense @ x)
    np.testing.assert_allclose(matrix.sums()[0], dense.sum(1), rtol=1e-5)
    np.testing.assert_allclose(matrix.sums()[1], dense.sum(0), rtol=1e-5)
