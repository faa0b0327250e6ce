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
ARGUMENTS = {
    "quickstart.py": ["--batch", "16"],
    "atlas.py": ["--cells", "1500", "--genes", "500", "--components", "10"],
    "tfidf.py": ["--topics", "20"],
    "ratings.py": ["--users", "1500", "--items", "300", "--ratings", "90000"],
}

#: What a page is about, where that need not be installed.
NEEDS = {"training.rst": "torch"}

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
    if page.name in NEEDS:
        pytest.importorskip(NEEDS[page.name], reason=f"{page.name} is about it")
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
        assert 1180 < steps["[:]"] < 1400


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


class TestAtlas:
    @pytest.fixture(autouse=True)
    def output(self, results):
        self.stdout = results["atlas.py"].stdout

    def test_each_step_has_a_time_and_a_peak(self):
        steps = re.findall(r"^(\S.*?) +[\d.]+ s   peak +(\d+) MiB", self.stdout, re.MULTILINE)
        assert [title for title, _ in steps][:4] == [
            "1,500 cells made",
            "cells and genes described",
            "log counts described",
            "10 principal components",
        ]
        peaks = [int(peak) for _, peak in steps]
        assert peaks == sorted(peaks)
        assert 0 < peaks[-1] < 1000

    def test_dying_cells_are_dropped(self):
        kept = number(re.search(r"kept: ([\d,]+) of 1,500 cells", self.stdout)[1])
        assert 1350 < kept < 1480

    def test_kinds_are_told_apart(self):
        assert float(re.search(r"([\d.]+)% of the cells lie nearest", self.stdout)[1]) > 99
        share = float(re.search(r"([\d.]+)% of the variance", self.stdout)[1])
        assert 10 < share < 100

    def test_scanpy_is_said_to_be_missing_or_is_used(self):
        missing = importlib.util.find_spec("scanpy") is None
        assert ("scanpy is not installed" in self.stdout) == missing
        assert (" clusters\n" in self.stdout) == (not missing)


def test_an_atlas_made_is_one_for_anndata(tmp_path, monkeypatch, capsys):
    atlas = load("atlas.py")
    monkeypatch.setattr(atlas, "GENES", 400)
    monkeypatch.setattr(atlas, "cluster", lambda scores: print(scores.shape))
    kinds = atlas.make_atlas(tmp_path / "a.h5ad", 700)
    assert set(kinds) == set(range(atlas.KINDS))
    atlas.main([str(tmp_path / "a.h5ad"), "--genes", "50", "--components", "4"])
    shape = re.search(r"\((\d+), 4\)", capsys.readouterr().out)
    assert 600 < int(shape[1]) < 700
    anndata = pytest.importorskip("anndata")
    read = anndata.read_h5ad(tmp_path / "a.h5ad")
    assert (read.shape, read.X.dtype, read.X.format) == ((700, 400), np.float32, "csr")
    assert list(read.var_names[[0, 399]]) == ["MT-0", "GENE399"]
    assert read.obs_names[699] == "cell699"


def test_normalised_dispersion_is_highest_where_genes_vary_most():
    rng = np.random.default_rng(0)
    mean = rng.random(400) + 0.1
    variance = mean * rng.uniform(0.9, 1.1, 400)
    variance[[7, 311]] *= 5
    score = load("atlas.py").normalised_dispersion(mean, variance)
    assert set(np.argsort(-score)[:2]) == {7, 311}
    assert np.isfinite(load("atlas.py").normalised_dispersion(np.zeros(9), np.zeros(9))).all()


def test_tfidf(results):
    stdout = results["tfidf.py"].stdout
    documents = number(re.search(r"^([\d,]+) documents, ", stdout, re.MULTILINE)[1])
    assert documents > 1000
    assert f"{documents} x " in stdout
    values = [float(value) for value in re.search(r"from ([\d.]+) to ([\d.]+)", stdout).groups()]
    assert values[0] > values[1] > 0
    similar = SIMILAR.findall(stdout)
    assert len(similar) == 5
    assert {"json/encoder.py", "json/__init__.py"} & {module for _, module in similar}


def test_tfidf_of_documents_that_are_made(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(EXAMPLES)
    tfidf = load("tfidf.py")
    documents = [{"a": 1, "b": 3}, {"c": 4}]
    vocabulary = {"a": 0, "b": 1, "c": 2}
    blocks = tfidf.mixed(documents, vocabulary, 5, np.random.default_rng(0), block=3)
    with diskcsr.write(tmp_path / "m.h5", blocks) as A:
        dense = A.toarray()
    np.testing.assert_array_equal(dense[:2], [[1, 3, 0], [0, 0, 4]])
    assert dense.shape == (7, 3)
    for row in dense[2:]:
        assert row[0] + row[2] / 4 == 3
        assert row[1] == 3 * row[0]


def test_tfidf_weighs_as_the_quickstart_does(quickstart, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(EXAMPLES)
    tfidf = load("tfidf.py")
    documents = [{"a": 1, "b": 3}, {}, {"b": 1, "c": 2, "a": 1}]
    vocabulary = {"a": 0, "b": 1, "c": 2}
    with diskcsr.write(tmp_path / "m.h5", tfidf.counted(documents, vocabulary, block=2)) as A:
        np.testing.assert_array_equal(A.toarray(), [[1, 3, 0], [0, 0, 0], [1, 1, 2]])
        weights = tfidf.tf_idf(A)
        assert weights.dtype == np.float32
        idf = np.log(4 / np.array([3, 3, 2])) + 1
        expected = idf * [[1, 1 + np.log(3), 0], [0, 0, 0], [1, 1, 1 + np.log(2)]]
        expected[[0, 2]] /= np.linalg.norm(expected[[0, 2]], axis=1, keepdims=True)
        np.testing.assert_allclose(weights.toarray(), expected, rtol=1e-6)


ERROR = re.compile(r"^    (.+?) +([\d.]+) stars$", re.MULTILINE)


def test_ratings(results):
    stdout = results["ratings.py"].stdout
    assert re.search(r"^1,500 users, 300 items, ", stdout, re.MULTILINE)
    assert stdout.count("   peak ") == 5
    errors = {name: float(error) for name, error in ERROR.findall(stdout)}
    assert list(errors) == ["the mean", "means of users and items", "means and SVD"]
    plain, means, svd = errors.values()
    assert plain > means > svd > 0.4  # of which 0.4 is what they were made with by chance


def test_ratings_of_a_file(tmp_path, monkeypatch, capsys):
    monkeypatch.syspath_prepend(EXAMPLES)
    pytest.importorskip("pyarrow", reason="the extra diskcsr[tables]")
    ratings = load("ratings.py")
    rng = np.random.default_rng(0)
    lines = ["stars,who,film"]
    for users, items, stars in ratings.made(200, 50, 5000, rng):
        lines += [f"{z},user{x},film{y}" for x, y, z in zip(users, items, stars, strict=True)]
    (tmp_path / "r.csv").write_text("\n".join(lines))
    ratings.main([str(tmp_path / "r.csv"), "--fields", "who,film,stars"])
    out = capsys.readouterr().out
    assert "\n200 users, 50 items, " in out
    assert len(ERROR.findall(out)) == 3


def test_ratings_less_their_means(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(EXAMPLES)
    ratings = load("ratings.py")
    dense = np.array([[4.0, 0, 2], [0, 0, 0], [5, 1, 0]])
    with diskcsr.write(tmp_path / "m.h5", csr_array(dense)) as A:
        mean, of_user, of_item = ratings.means(A, weight=0.5)
        assert mean == 3.0
        np.testing.assert_allclose(of_item, [3 / 2.5, -2 / 1.5, -1 / 1.5])
        left = [6 - 6 - of_item[[0, 2]].sum(), 0, 6 - 6 - of_item[:2].sum()]
        np.testing.assert_allclose(of_user, np.array(left) / [2.5, 0.5, 2.5], atol=1e-12)
        (block,) = ratings.without(A, mean, of_user, of_item)
    expected = np.where(dense, dense - mean - of_user[:, None] - of_item, 0)
    np.testing.assert_allclose(block.toarray(), expected, rtol=1e-6)
    assert block.dtype == np.float32
