"""Scanpy on matrices that stay in their file: the answers are those it gives in memory.

The functions are those of ``bench/scanpy_table.py``, which measures what each reads and takes.
"""

import importlib.util
import json
import os
import subprocess
import sys
import warnings
from importlib.metadata import version
from pathlib import Path

import pytest
from packaging.version import Version

from diskcsr import DiskCSR, DiskCSRMatrix

with warnings.catch_warnings():  # of what Scanpy imports
    warnings.simplefilter("ignore")
    sc = pytest.importorskip("scanpy", reason="Scanpy is not installed")
    import matplotlib as mpl


def load_table():
    """Import the script with the functions, which imports what lies beside it."""
    path = Path(__file__).resolve().parent.parent / "bench" / "scanpy_table.py"
    spec = importlib.util.spec_from_file_location("bench_scanpy_table", path)
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(path.parent))
        spec.loader.exec_module(module)
    sys.modules.pop("common")
    return module


table = load_table()
# Scanpy's own, and those of what it uses.
pytestmark = pytest.mark.filterwarnings("ignore")
NEW = Version(version("scanpy")) >= Version("1.12")

#: What takes long to compile or to compute: the table alone has it.
SLOW = {
    "pp.normalize_total, pp.log1p",
    "pp.highly_variable_genes, batch_key",
    "experimental.pp.highly_variable_genes",
    "tl.rank_genes_groups, wilcoxon",
    "tl.rank_genes_groups, use_raw",
    "tl.dendrogram, no components",
    "tl.pca, pp.neighbors",
    "pp.regress_out",
    "pp.downsample_counts",
    "pl.dotplot",
}
FUNCTIONS = [name for name in table.FUNCTIONS if name not in SLOW]
#: What needs nothing but the rows or columns that it asks for, or blocks.
LOADS_NOTHING = {
    "pp.filter_cells",
    "pp.filter_genes",
    "adata[:, genes].copy()",
    "get.obs_df",
    "pp.sample",
    "pp.subsample",
    "pl.highest_expr_genes",
}
#: What Scanpy 1.11 does with a csr_array, and what Scanpy 1.12 does not do.
ARRAYS_BEFORE = {
    "pp.filter_cells",
    "pp.filter_genes",
    "adata[:, genes].copy()",
    "get.obs_df",
    "pp.pca",
    "pp.pca, not centred",
    "pp.sample",
    "pp.subsample",
}
ARRAYS_NEVER = {"pl.highest_expr_genes"}


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    mpl.use("agg")
    sc.settings.verbosity = 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return table.write_objects(tmp_path_factory.mktemp("scanpy"), 200, 150)


def work(paths, name, flavour):
    """Do what a function does on one flavour; return the answer, and the matrix it was given."""
    what, function = table.FUNCTIONS[name]
    adata = table.read_object(paths[what], flavour)
    X = adata.X
    return table.answer(function, sc, adata), X


@pytest.fixture(scope="module")
def in_memory(paths):
    """A function that gives the answer in memory, which is found once."""
    found = {}

    def in_memory(name):
        if name not in found:
            try:
                found[name], _ = work(paths, name, table.MEMORY)
            except (AttributeError, ImportError) as problem:
                pytest.skip(f"Scanpy does not do it here: {problem}")
        return found[name]

    return in_memory


def is_the_same(paths, name, flavour, expected):
    found, X = work(paths, name, flavour)
    assert type(X) is (DiskCSRMatrix if flavour == table.MATRIX else DiskCSR)
    # Names, shapes, dtypes, what is sparse and what is no floating-point number alike.
    assert not isinstance(table.difference(found, expected), str), table.difference(found, expected)
    if name in LOADS_NOTHING:
        assert not {"data", "indices", "indptr"} & set(vars(X))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_the_matrix_flavour_does_what_one_in_memory_does(paths, in_memory, name):
    is_the_same(paths, name, table.MATRIX, in_memory(name))


def raised(paths, name, flavour):
    """Return the class of what is raised; Scanpy's code may run into whatever there is."""
    try:
        work(paths, name, flavour)
    except Exception as problem:
        return type(problem)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_the_array_flavour_does_what_an_array_in_memory_does(paths, in_memory, name):
    expected = in_memory(name)
    if name not in ARRAYS_NEVER if NEW else name in ARRAYS_BEFORE:
        is_the_same(paths, name, table.ARRAY, expected)
        return
    assert raised(paths, name, table.ARRAY) is raised(paths, name, table.PLAIN) is not None


def test_what_is_no_flavour_of_the_same_is_seen():
    expected, other = {"X": table.np.ones(3)}, {"X": table.np.array([1, 1, 1.1])}
    assert table.difference(expected, expected) == 0
    assert table.difference({"X": table.np.array([1, 1, 1 + 1e-6])}, expected) < 2e-6
    assert table.difference(other, expected) == "a difference of 1.0e-01"
    assert table.difference({"Y": expected["X"]}, expected) == "one has X, Y"
    for wrong in (table.np.ones(3, "f4"), table.np.ones((3, 1)), table.np.array(["1", "1", "1"])):
        assert isinstance(table.difference({"X": wrong}, expected), str)


def test_the_table_is_printed(tmp_path):
    words = ["--cells=300", "--genes=200", "--functions", "get.obs_df", f"--folder={tmp_path}"]
    root = Path(table.__file__).parents[1]
    done = subprocess.run(
        [sys.executable, table.__file__, *words, "--json", tmp_path / "out.json"],
        env={**os.environ, "PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["out.json"]
    found = json.loads((tmp_path / "out.json").read_text())
    assert found["versions"]["scanpy"] == version("scanpy")
    lines = found["functions"]["get.obs_df"]
    assert list(lines) == [table.MEMORY, table.MATRIX, table.ARRAY]
    for flavour in (table.MATRIX, table.ARRAY):
        assert lines[flavour]["verdict"] == "same"
        assert 0 < lines[flavour]["read"] < 1e6
        assert lines[flavour]["loaded"] == 0
        assert lines[flavour]["peak"] >= 0
    assert "get.obs_df" in done.stdout
    assert done.stdout.count("same") == 2
