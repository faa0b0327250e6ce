"""Every script of examples/ runs as a reader runs it, and what it prints is true.

So do its pages, which are doctests, and the README's lines.
"""

import doctest
import importlib.util
import os
import re
import subprocess
import sys
import sysconfig
import textwrap
from pathlib import Path

import numpy as np
import pytest
from scipy.sparse import csr_array, random_array

import diskcsr

ROOT = Path(__file__).resolve().parent.parent
README, EXAMPLES = ROOT / "README.rst", ROOT / "examples"
SCRIPTS, PAGES = sorted(EXAMPLES.glob("*.py")), sorted(EXAMPLES.glob("*.rst"))
# What a script is run with here, where its own defaults would take long.
ARGUMENTS = {"quickstart.py": ["--batch", "16"]}

READ = re.compile(r"^(.+?) +read +([\d,]+) of ([\d,]+) bytes \(([\d.]+)%\)$", re.MULTILINE)
SIMILAR = re.compile(r"^    (\d\.\d{3})  (\S+)$", re.MULTILINE)


# A line of the tour's memory profile: step, resident megabytes, what the step added.
RESIDENT = re.compile(r"^(.+?) +([\d.]+) MB resident, ([+-][\d.]+)$", re.MULTILINE)


def number(text):
    return int(text.replace(",", ""))


def run(script, *arguments, cwd):
    """Run `script` in a process of its own, in folder `cwd`, with the diskcsr under test."""
    root = Path(diskcsr.__file__).resolve().parent.parent
    environment = {**os.environ, "PYTHONPATH": str(root)}
    command = [sys.executable, str(EXAMPLES / script), *map(str, arguments)]
    return subprocess.run(
        command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=300
    )


def load(script):
    """Import the example `script` as a module, without running its main."""
    spec = importlib.util.spec_from_file_location(f"example_{Path(script).stem}", EXAMPLES / script)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def quickstart():
    return load("quickstart.py")


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """{script name: its CompletedProcess}, each script run once."""
    folder = tmp_path_factory.mktemp("examples")
    return {s.name: run(s.name, *ARGUMENTS.get(s.name, []), cwd=folder) for s in SCRIPTS}


def test_the_readmes_lines_run(tmp_path, monkeypatch, capsys):
    (code,) = re.findall(
        r"^\.\. code-block:: python\n\n((?:    .*\n|\n)+)",
        README.read_text(encoding="utf-8"),
        re.MULTILINE,
    )
    lines = [line for line in textwrap.dedent(code).splitlines() if line]
    assert len(lines) <= 10
    rng = np.random.default_rng(0)
    X = random_array((600, 300), density=0.1, format="csr", dtype=np.float32, rng=rng)
    diskcsr.write(tmp_path / "cells.h5ad", X, name="X", tags="anndata").close()
    monkeypatch.chdir(tmp_path)
    names = {}
    exec("\n".join(lines), names)
    assert capsys.readouterr().out == f"(600, 300) {X.nnz} float32\n"
    cells = np.random.default_rng(0).integers(600, size=1024)
    np.testing.assert_array_equal(names["batch"].toarray(), X[cells].toarray())
    np.testing.assert_array_equal(names["genes"].toarray(), X[:, [17, 4, 250]].toarray())
    assert abs(names["total"]) < 1e-3 * X.sum()  # every value came by once in either way
    names["A"].close()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_page_is_true(page, tmp_path, monkeypatch):
    """Its files lie in an empty folder; what differs is printed."""
    monkeypatch.chdir(tmp_path)
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    failed, tried = doctest.testfile(str(page), module_relative=False, optionflags=flags)
    assert failed == 0
    assert tried > 5


def test_the_readme_names_every_page_and_no_other():
    text = README.read_text(encoding="utf-8")
    _, _, listed = text.partition("\nRead on\n")
    listed, _, _ = listed.partition("\nLimits\n")
    named = set(re.findall(r"``(\w+\.(?:rst|py))``", listed))
    assert named == {path.name for path in [*PAGES, *SCRIPTS]}
    for path in re.findall(r"``((?:bench|examples)/[\w./]*)``", text):
        assert (ROOT / path).exists(), path


def test_there_is_a_quickstart():
    assert "quickstart.py" in [script.name for script in SCRIPTS]


@pytest.mark.parametrize("script", [script.name for script in SCRIPTS])
def test_example_runs(results, script):
    result = results[script]
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    assert result.stdout != ""


class TestQuickstart:
    @pytest.fixture(autouse=True)
    def output(self, results):
        self.stdout = results["quickstart.py"].stdout
        self.reads = [
            (step, number(read), number(held), float(percent))
            for step, read, held, percent in READ.findall(self.stdout)
        ]

    def test_over_a_thousand_documents(self):
        documents, words, stored = re.match(
            r"([\d,]+) documents, ([\d,]+) words, ([\d,]+) stored values\n", self.stdout
        ).groups()
        assert number(documents) > 1000
        assert number(words) > 10_000
        assert number(stored) > number(words)

    def test_opening_reads_nothing(self):
        step, read, held, _ = self.reads[0]
        assert step == "opened as a DiskCSR"
        assert read == 0
        assert held > 8 * number(re.search(r"([\d,]+) stored values", self.stdout)[1])

    def test_the_pass_reads_the_file_once(self):
        step, read, held, _ = self.reads[1]
        assert step == "compared json/decoder.py with all"
        stored = number(re.search(r"([\d,]+) stored values", self.stdout)[1])
        assert 8 * stored <= read <= 1.1 * held

    def test_batches_read_less_than_the_file(self):
        batches = self.reads[2:]
        assert len(batches) == 3
        for step, read, held, percent in batches:
            rows, values = re.match(r"(\d+) random rows, ([\d,]+) values", step).groups()
            assert int(rows) == 16
            assert 8 * number(values) <= read < held / 4
            assert percent == pytest.approx(100 * read / held, abs=0.051)

    def test_the_same_file_throughout(self):
        assert len({held for _, _, held, _ in self.reads}) == 1

    def test_similar_modules(self):
        similar = SIMILAR.findall(self.stdout)
        cosines = [float(cosine) for cosine, _ in similar]
        modules = [module for _, module in similar]
        assert len(similar) == 5
        assert cosines == sorted(cosines, reverse=True)
        assert 0 < cosines[-1] <= cosines[0] < 1
        assert "json/decoder.py" not in modules
        assert "json/scanner.py" in modules
        for module in modules:
            assert Path(sysconfig.get_path("stdlib"), module).is_file()


class TestTour:
    @pytest.fixture(autouse=True)
    def output(self, results):
        self.stdout = results["h5sparse_tour.py"].stdout

    def shown(self, title):
        """The array printed below a title, or several of them."""
        found = []
        for text in self.stdout.split(f"\n{title}:\n" if title != "X" else "X:\n")[1:]:
            rows = re.match(r"\[\[.*?\]\]", text, re.DOTALL)[0]
            found.append([[float(x) for x in row.strip("[] ").split()] for row in rows.split("\n")])
        return found[0] if len(found) == 1 else found

    def test_small_matrices(self):
        first, last = self.shown("X")
        assert first == [[0, 1, 0], [0, 0, 2], [0, 0, 0], [3, 4, 0]]
        assert self.shown("X[:, 1:3]") == [[1, 0], [0, 2], [0, 0], [4, 0]]
        assert self.shown("rows of a mask") == [[0, 1, 0], [3, 4, 0]]
        assert self.shown("X[0, 1] = 9") == [[0, 9, 0], [0, 0, 2]]
        assert self.shown("X[0:2] doubled") == [[0, 18, 0], [0, 0, 4]]
        appended = [[0, 18, 0], [0, 0, 4], [0, 0, 0], [3, 4, 0], [0, 36, 0], [0, 0, 8]]
        assert self.shown("two rows appended") == appended
        assert self.shown("Y") == [[1, 0], [0, 1]]
        assert last == appended
        assert "\nX is a DiskCSR\nreplaced, it is a DiskCSC\n" in self.stdout
        assert "refused: element (2, 2) is not stored" in self.stdout

    def test_what_is_in_the_file(self):
        tags = dict(re.findall(r"^tag (\S+) = (.+)$", self.stdout, re.MULTILINE))
        assert tags == {
            "encoding-type": "csr_matrix",
            "encoding-version": "0.1.0",
            "h5sparse_format": "csr",
            "h5sparse_shape": "[6 3]",
            "shape": "[6 3]",
        }
        datasets = re.findall(r"^dataset (\w+): \((\d+),\) (\w+)$", self.stdout, re.MULTILINE)
        assert datasets == [
            ("data", "6", "float64"),
            ("indices", "6", "int32"),
            ("indptr", "7", "int64"),
        ]

    def test_a_file_of_anndata(self):
        pytest.importorskip("anndata")
        title = "log1p of two rows of AnnData's file"
        expected = np.array([[0, np.log(2), 0], [0, 0, np.log(3)], [0, 0, 0], [3, 4, 0]])
        np.testing.assert_allclose(self.shown(title), expected, rtol=1e-6)

    @pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
    def test_memory(self):
        """A hundred million ones, 1.2 GB: what they take in memory, and what the steps add."""
        steps = {step: float(added) for step, _, added in RESIDENT.findall(self.stdout)}
        assert list(steps) == [
            "10,000 x 10,000 ones",
            "written",
            "opened",
            "[1:5]",
            "[[1, 5, 10, 13]]",
            "[:]",
        ]
        assert steps["10,000 x 10,000 ones"] == pytest.approx(1200, abs=20)
        for step in ("written", "opened", "[1:5]", "[[1, 5, 10, 13]]"):
            assert abs(steps[step]) < 20
        # Some of it is the compiler, which is loaded when first there is enough to do for it.
        assert 1180 < steps["[:]"] < 1340


def test_tour_without_anndata(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "anndata", None)
    load("h5sparse_tour.py").a_file_of_anndata(tmp_path / "cells.h5ad")
    assert capsys.readouterr().out == "anndata is not installed: its file is left out\n"
    assert list(tmp_path.iterdir()) == []


def test_quickstart_unknown_module(tmp_path):
    result = run("quickstart.py", "--module", "json/decode.py", cwd=tmp_path)
    assert result.returncode == 2
    assert result.stdout == ""
    assert len(result.stderr.splitlines()) == 1
    assert "'json/decode.py'" in result.stderr
    assert "json/decoder.py" in result.stderr


def test_quickstart_keeps_the_file_asked_for(quickstart, tmp_path, monkeypatch, capsys):
    (tmp_path / "library").mkdir()
    for name, text in {"a": "one two two", "b": "two three", "c": "four"}.items():
        (tmp_path / "library" / f"{name}.py").write_text(text)
    monkeypatch.setattr(sysconfig, "get_path", lambda scheme: tmp_path / "library")
    for _ in range(2):  # a second run replaces the matrix
        assert quickstart.main(["--module", "a.py", "--file", str(tmp_path / "kept.h5")]) == 0
    similar = [module for _, module in SIMILAR.findall(capsys.readouterr().out)]
    assert similar == ["b.py", "c.py"] * 2
    with diskcsr.open(tmp_path / "kept.h5") as A:
        assert A.shape == (3, 4)
        assert A.dtype == np.float32


def test_quickstart_adds_installed_packages(quickstart, tmp_path, monkeypatch):
    """A standard library without its tests, or in a zip, still gives enough documents."""
    folders = {"stdlib": tmp_path / "lib", "purelib": tmp_path / "lib" / "site-packages"}
    (folders["purelib"] / "package").mkdir(parents=True)
    (folders["stdlib"] / "a.py").write_text("import os")
    (folders["stdlib"] / "latin.py").write_bytes(b"\xe9t\xe9")
    for name in "xyz":
        (folders["purelib"] / "package" / f"{name}.py").write_text("import sys")
    monkeypatch.setattr(sysconfig, "get_path", folders.get)
    assert list(quickstart.read_modules()) == [
        "a.py",
        *(f"package/{name}.py" for name in "xyz"),
    ]
    monkeypatch.setattr(quickstart, "ENOUGH", 2)
    assert list(quickstart.read_modules()) == ["a.py", "package/x.py", "package/y.py"]
    monkeypatch.setattr(quickstart, "ENOUGH", 0)
    assert quickstart.read_modules() == {"a.py": {"import": 1, "os": 1}}


def test_quickstart_weights(quickstart):
    X = quickstart.tf_idf([{"a": 1, "b": 3}, {}, {"b": 1, "c": 2, "a": 1}])
    assert isinstance(X, csr_array)
    assert X.dtype == np.float32
    idf = {"a": np.log(4 / 2), "b": np.log(4 / 2), "c": np.log(4 / 1)}
    expected = np.array(
        [
            [idf["a"], (1 + np.log(3)) * idf["b"], 0],
            [0, 0, 0],
            [idf["a"], idf["b"], (1 + np.log(2)) * idf["c"]],
        ]
    )
    expected[[0, 2]] /= np.linalg.norm(expected[[0, 2]], axis=1, keepdims=True)
    np.testing.assert_allclose(X.toarray(), expected, rtol=1e-6)
    assert X.has_sorted_indices


def test_quickstart_similarities(quickstart, tmp_path):
    rng = np.random.default_rng(5)
    dense = rng.random((300, 40), np.float32) * (rng.random((300, 40)) < 0.3)
    dense[7] = 0
    lengths = np.linalg.norm(dense, axis=1, keepdims=True)
    dense = np.divide(dense, lengths, where=lengths > 0, out=dense)
    with diskcsr.write(tmp_path / "m.h5", csr_array(dense)) as A:
        for row in (0, 7, 299):
            cosines = quickstart.similarities(A, row)
            assert cosines.dtype == np.float32
            np.testing.assert_allclose(cosines, dense @ dense[row], rtol=1e-5, atol=1e-6)
