"""python -m diskcsr.bench as a process, at tiny sizes: its table, its files, its errors."""

import base64
import json
import math
import os
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from scipy.sparse import csc_array, csr_array

import diskcsr
from diskcsr.axis import CSR
from diskcsr.bench import __main__ as bench
from diskcsr.bench import run as running
from diskcsr.bench.__main__ import _names
from diskcsr.bench.adapters import PEERS as ADAPTERS
from diskcsr.bench.adapters import load_adapter
from diskcsr.bench.adapters.disk import Disk
from diskcsr.bench.cases import CASES, GROUPS, equal, expected
from diskcsr.bench.cases import run as run_case
from diskcsr.bench.figures import overview_as_text, save_overview
from diskcsr.bench.source import Matrix, digest, generate, row_marks
from diskcsr.bench.workloads import WORKLOADS
from diskcsr.machine import terminal

# The command needs nothing of the oldest versions that the library does not.
pytestmark = pytest.mark.once

OPS = ["rows", "columns", "write"]
SVG = "{http://www.w3.org/2000/svg}"
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
    # Where standard error is no terminal it says now and then what is measured.
    done = subprocess.run(
        [sys.executable, "-m", "diskcsr.bench", "--quiet", *map(str, args)],
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
        f"--ops={','.join(OPS)}", "--json=out.json", "--html=out.html", "--figure=out.svg",
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
    # And all of them in the first table.
    summary = lines[lines.index("") + 1 :][: len(OPS) + 1]
    assert summary[0].split()[:3] == ["ms", "(x", "scipy)"]
    assert [line[2:].split("  ")[0] for line in summary[1:]] == [CASES[op].title for op in OPS]
    assert summary[2].split()[-1] == "n/a"


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
    assert results["in_turns"] is True
    assert set(results["not_asked"]) >= {"anndata", "memmap", "annbatch"}
    if sys.platform == "linux":
        assert 0 <= results["busy_with_others"] <= results["machine"]["cores"] + 0.5
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
    """Parse a page; return its text, its tags, and the pictures it holds."""
    text = path.read_text(encoding="utf-8")
    page = _Page()
    page.feed(text)
    page.close()
    assert page.open == []
    assert "url(" not in text
    assert "http" not in text
    head = "data:image/svg+xml;base64,"
    assert all(link.startswith(head) for link in page.links)
    pictures = [base64.b64decode(link.removeprefix(head)) for link in page.links]
    return text, page.seen, [ElementTree.fromstring(picture) for picture in pictures]


def words_of(picture):
    """All text in a picture; what it refers to lies in itself."""
    for node in picture.iter():
        for name, value in node.attrib.items():
            assert not name.endswith("href") or value.startswith("#")
    return [node.text for node in picture.iter(f"{SVG}text")]


def test_the_page_is_whole_and_alone(tiny, folder):
    _, results = tiny
    text, tags, pictures = page_of(folder / "out.html")
    assert tags.count("table") == len(OPS) + 1
    assert "script" not in tags
    assert all(CASES[op].title in text for op in OPS)
    assert len(pictures) == len(OPS)
    for op, picture in zip(OPS, pictures, strict=True):
        words = words_of(picture)
        there = [r for r in results["results"] if r["op"] == op and r["status"] == "ok"]
        assert [r["system"] for r in there] == [
            w for w in words if "ms" not in w and not w[0].isdigit()
        ]
        assert sum(word.endswith(" ms") for word in words) == len(there)
        # Dots, no bars: a logarithmic axis has no zero for a bar to begin at.
        assert len(picture.findall(f".//{SVG}g[@id='PathCollection_1']//{SVG}use")) == len(there)


def test_the_figure_has_every_operation_and_system(tiny, folder):
    words = words_of(ElementTree.parse(folder / "out.svg").getroot())
    assert {CASES[op].title for op in OPS} <= set(words)
    assert {"diskcsr", "h5py by hand"} <= set(words)
    assert "scipy in memory" not in words  # it is the line


def compared(peer, operation, ratio):
    return {"system": f"{peer} it", "peer": peer, "operation": operation, "over_scipy": ratio}


def test_the_figure_as_text():
    results = [
        *(compared(peer, "rows", ratio) for peer, ratio in (("scipy", 1), ("a", 100), ("b", 0.01))),
        *(compared(peer, "one", ratio) for peer, ratio in (("scipy", 1), ("a", 10), ("b", 10.1))),
        *(compared(peer, "load", ratio) for peer, ratio in (("scipy", 1), ("a", 1))),
        {"system": "b it", "peer": "b", "operation": "load", "status": "n/a"},
        compared("scipy", "sums", 1),
    ]
    assert overview_as_text({"results": results}, width=33) == [
        "rows  b               |               a",
        "one                   |       *",
        "load                  a",
        "sums                  |",
        "      0.01    0.1     1       10      100",
        "",
        "a a it, b b it; | scipy in memory",
    ]
    with pytest.raises(ValueError, match="compares with scipy"):
        overview_as_text({"results": results[-2:-1]})


def test_systems_of_one_name_have_letters_of_their_own():
    names = [("scipy", 1), ("aa", 2), ("ab", 3), ("a", 4)]
    results = [compared(peer, "rows", ratio) for peer, ratio in names]
    *_, meaning = overview_as_text({"results": results})
    assert meaning == "a aa it, b ab it, i a it; | scipy in memory"


def test_a_figure_as_png(tiny, tmp_path):
    save_overview(tiny[1], tmp_path / "out.png")
    assert (tmp_path / "out.png").read_bytes()[:4] == b"\x89PNG"
    without = {"results": [r for r in tiny[1]["results"] if "over_scipy" not in r]}
    with pytest.raises(ValueError, match="compares with scipy"):
        save_overview(without, tmp_path / "none.png")


@pytest.fixture
def browser(tmp_path):
    """Headless Chromium, driven by its own driver; both from the distribution."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    driver = shutil.which("chromedriver")
    if chromium is None or driver is None:
        pytest.skip("chromium and chromium-driver are not installed")
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in (
        "headless", "no-sandbox", "disable-gpu", "disable-dev-shm-usage", "no-first-run",
        "disable-background-networking", "disable-component-update", "disable-sync",
        f"user-data-dir={tmp_path / 'profile'}", "window-size=1000,2000",
    ):  # fmt: skip
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    service = webdriver.ChromeService(executable_path=driver)
    browser = webdriver.Chrome(options=options, service=service)
    yield browser
    browser.quit()


def test_the_page_in_a_browser(tiny, folder, browser):
    browser.get((folder / "out.html").as_uri())
    assert browser.title == "diskcsr bench"
    assert [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []
    pictures = browser.execute_script(
        "return [...document.images].map(i => [i.complete, i.naturalWidth, i.clientWidth])"
    )
    assert len(pictures) == len(OPS)
    for complete, natural, shown in pictures:
        assert complete
        assert natural > 100
        assert 500 < shown < 1000
    loaded = browser.execute_script(
        "return performance.getEntriesByType('resource').map(entry => entry.name)"
    )
    assert all(name.startswith("data:") for name in loaded)
    assert browser.execute_script("return document.body.scrollWidth <= window.innerWidth")
    cells = browser.execute_script(
        "return [...document.querySelectorAll('table')[0].rows].map(r => r.innerText)"
    )
    assert [cell.split("\t")[0] for cell in cells[1:]] == [CASES[op].title for op in OPS]


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
    text, tags, _ = page_of(folder / "wrong.html")
    assert tags.count("img") == 1  # of what was measured alone
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
    for line in out.splitlines():
        if line.split()[:1] == ["diskcsr"]:
            assert line.split()[2] == "yes"


def test_help_teaches(folder):
    code, out, err = run(folder, "--help")
    assert (code, err) == (0, "")
    assert "examples:" in out
    assert "exit codes:" in out
    options = (
        "peers ops workload rows compression chunks threads cold repeat json html figure list quiet"
    )
    for option in options.split():
        assert f"--{option}" in out


def test_the_examples_name_the_program_that_was_asked(folder):
    for program in ("diskcsr.bench", "diskcsr bench"):
        command = [sys.executable, "-m", *program.split(), "--help"]
        out = subprocess.run(command, capture_output=True, text=True, timeout=200).stdout
        assert out.startswith(f"usage: python -m {program} ")
        examples = out.partition("examples:\n")[2].partition("\n\n")[0].splitlines()
        assert len(examples) > 6
        for line in examples:
            assert line.startswith((f"  python -m {program}", "      "))


def test_it_says_now_and_then_what_is_measured(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(terminal, "_PATIENCE", 0.0)
    settings = ["--rows=20", "--repeat=1", "--peers=diskcsr", "--ops=load"]
    assert bench.main(settings) == 0
    said = capsys.readouterr().err.splitlines()
    assert said[0] == "generating 20 rows of neurons"
    assert CASES["load"].title in said
    assert bench.main([*settings, "--quiet"]) == 0
    assert capsys.readouterr().err == ""


def test_what_is_not_installed_is_known_before_anything_is_generated(monkeypatch, capsys, folder):
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setattr(bench, "measure", lambda *args: pytest.fail("it began"))
    monkeypatch.setattr(running, "find_spec", lambda name: None)
    assert bench.main(["--compression=zstd", "--peers=diskcsr,h5py,anndata"]) == 2
    said = capsys.readouterr().err
    assert "h5py, anndata: zstd is stored by hdf5plugin, which is not installed" in said
    assert "diskcsr[bench]" in said
    assert bench.main(["--peers=own:Absent"]) == 2
    assert "own:Absent needs some-package" in capsys.readouterr().err


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
        (["--figure=out.pdf"], "--figure writes a .png or .svg file, not out.pdf"),
        (["--figure=out.png", "--peers=diskcsr"], "--figure compares with scipy"),
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


# ----------------------------------------------------------------------------------------- systems


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A matrix of counts on disk, and its answers."""
    return generate(tmp_path_factory.mktemp("small") / "m", WORKLOADS["pbmc"].blocks(300, 1))


@pytest.mark.filterwarnings("ignore")  # those of other libraries are theirs
@pytest.mark.parametrize("op", [op for op in CASES if op != "write"])
@pytest.mark.parametrize("peer", list(ADAPTERS))
def test_a_peer_gives_the_right_answer_or_has_no_such_operation(peer, op, small, tmp_path):
    cls = load_adapter(peer)
    if cls.missing():
        pytest.skip(f"{peer} is not installed; {cls.missing()} brings it")
    case, matrix = CASES[op], Matrix(small)
    if getattr(cls, case.method) is None:
        return
    path = str(tmp_path / "stored")
    cls.write(path, matrix.load(), {"compression": "raw", "chunks": None})
    key = case.draw(np.random.default_rng(0), matrix.shape)
    adapter = cls(path, "X", small)
    try:
        got = run_case(case, adapter, key, keep=True)
        read = adapter.bytes_read()
    finally:
        adapter.close()
    right = json.loads(json.dumps(expected(case, matrix, key)))
    assert equal(case, got, right, matrix.axis)
    assert read is None or read >= 0


def test_what_is_missing_is_brought_by_an_extra():
    for peer in ADAPTERS:
        cls = load_adapter(peer)
        assert cls.title
        assert bool(cls.needs) == cls.brings.startswith("diskcsr[")


# --------------------------------------------------------------------------------------- workloads


#: Of the real sets: mean stored values a row, their median (None where nobody says), the share of
#: values that are 1 and the mean value. Sources: the module's docstring.
REAL = {
    "neurons": (2010, 1927, 0.646, 2.42),
    "pbmc": (525, None, 0.75, None),
    "tahoe": (1440, None, None, None),
    "movielens": (159, None, None, None),
    "rcv1": (76, None, None, None),
    "criteo": (39, 39, 1.0, 1.0),
}


@pytest.mark.parametrize("name", list(WORKLOADS))
def test_workloads_have_the_statistics_of_real_sets(name):
    workload = WORKLOADS[name]
    blocks = list(workload.blocks(3000, 0))
    lengths = np.concatenate([np.diff(block.indptr) for block in blocks])
    values = np.concatenate([block.data for block in blocks])
    mean, median, ones, value = REAL[name]
    assert lengths.mean() == pytest.approx(mean, rel=0.08)
    assert median is None or np.median(lengths) == pytest.approx(median, rel=0.08)
    assert ones is None or (values == 1).mean() == pytest.approx(ones, abs=0.03)
    assert value is None or values.mean() == pytest.approx(value, rel=0.08)
    assert all(block.has_canonical_format for block in blocks)
    assert {block.shape[1] for block in blocks} == {workload.columns}


def test_values_of_neurons_are_distributed_as_in_the_real_set():
    values = WORKLOADS["neurons"].values(np.random.default_rng(0), 1 << 20)
    shares = [(values == count).mean() for count in (1, 2, 3, 4, 5)]
    assert shares == pytest.approx([0.646, 0.168, 0.065, 0.032, 0.019], abs=0.01)
    assert (values > 15).mean() == pytest.approx(0.017, abs=0.004)


def test_a_workload_is_made_block_by_block_from_its_seed():
    first, second, _ = WORKLOADS["movielens"].blocks(2100, 5)
    assert [first.shape[0], second.shape[0]] == [1024, 1024]
    again = next(iter(WORKLOADS["movielens"].blocks(5000, 5)))
    assert digest(first, CSR) == digest(again, CSR)
    other = next(iter(WORKLOADS["movielens"].blocks(1024, 6)))
    assert digest(first, CSR) != digest(other, CSR)


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
    y = np.arange(dense.shape[0], dtype=float)
    np.testing.assert_allclose(matrix.rmatvec(y), dense.T @ y)
    wide = np.arange(dense.shape[1] * 3, dtype=float).reshape(-1, 3)
    np.testing.assert_allclose(matrix.rmatvec(matrix.matvec(wide)), dense.T @ (dense @ wide))
    np.testing.assert_allclose(matrix.sums()[0], dense.sum(1), rtol=1e-5)
    np.testing.assert_allclose(matrix.sums()[1], dense.sum(0), rtol=1e-5)


@pytest.mark.parametrize("make", [csr_array, csc_array])
@pytest.mark.parametrize("dtype", [np.float32, np.int32, np.complex128, bool])
def test_statistics_and_singular_values_are_those_of_numpy(tmp_path, monkeypatch, make, dtype):
    rng = np.random.default_rng(0)
    dense = (rng.integers(-3, 9, (40, 30)) * (rng.random((40, 30)) < 0.4)).astype(dtype)
    if dtype is np.complex128:
        dense[3] *= 1j
    diskcsr.write(tmp_path / "m.h5", make(dense)).close()
    where = {"file": str(tmp_path / "m.h5"), "group": "X"}
    monkeypatch.setattr("diskcsr.bench.source.BLOCK_BYTES", 1000)
    matrix, disk = Matrix(where), Disk(where["file"], "X", where)
    plain = dense.astype(np.result_type(dtype, np.float64))
    wanted = [plain.mean(0), plain.var(0)]
    if dtype is not np.complex128:
        wanted += [plain.min(0), plain.max(0)]
    for case, key, right in (
        (CASES["describe"], None, wanted),
        (CASES["svds"], 10, np.linalg.svd(plain, compute_uv=False)[:10]),
        (CASES["svds"], 0, []),
    ):
        right = [part.tolist() for part in right]
        assert equal(case, expected(case, matrix, key), right, matrix.axis)
        assert equal(case, run_case(case, disk, key), right, matrix.axis)
        assert key == 0 or not equal(case, run_case(case, disk, key), right[::-1], matrix.axis)
    disk.close()
    matrix.close()


def test_a_matrix_without_rows_has_no_statistics(tmp_path):
    diskcsr.write(tmp_path / "m.h5", csr_array((0, 4))).close()
    where = {"file": str(tmp_path / "m.h5"), "group": "X"}
    matrix, disk = Matrix(where), Disk(where["file"], "X", where)
    for op in ("describe", "svds"):
        case = CASES[op]
        key = case.draw(np.random.default_rng(0), matrix.shape)
        assert list(run_case(case, disk, key)) == expected(case, matrix, key) == []
    disk.close()
    matrix.close()


def test_operations_are_asked_for_by_the_name_of_a_group(folder):
    parse = _names("operation", CASES, GROUPS)
    assert parse("rows, compute") == ["rows", *GROUPS["compute"]]
    assert parse("all,rows") == list(CASES)
    assert set(GROUPS["compute"]) < set(CASES)
