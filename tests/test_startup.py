"""Importing and opening stay instant: what a fresh process loads, and that it compiles once."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse as sp

import diskcsr

ROOT = str(Path(diskcsr.__file__).parents[1])


def run(program, *arguments, **environment):
    """Run a program in a fresh process and return what it printed, from JSON."""
    path = os.pathsep.join([ROOT, *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(
        [sys.executable, "-c", program, *map(str, arguments)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": path, **environment},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    path = tmp_path_factory.mktemp("startup") / "m.h5"
    rng = np.random.default_rng(0)
    dense = rng.random((300, 40)) * (rng.random((300, 40)) < 0.2)
    diskcsr.write(path, sp.csr_array(dense)).close()
    return path


LOADED = "import json, sys; print(json.dumps(sorted(sys.modules)))"
HEAVY = {
    "numba",
    "asyncio",
    "fsspec",
    "llvmlite",
    "anndata",
    "pandas",
    "sklearn",
    "torch",
    "dask",
    "matplotlib",
}


def test_importing_loads_nothing_heavy():
    scipy_alone = set(run(f"import scipy.sparse\n{LOADED}"))
    ours = set(run(f"import diskcsr\n{LOADED}"))
    assert "h5py" in ours
    assert not HEAVY & {module.split(".")[0] for module in ours}
    more = {module for module in ours - scipy_alone if module.startswith("scipy.sparse.linalg")}
    assert more == set()
    assert not any(module.startswith("diskcsr.kernels.") for module in ours)


def test_kernels_are_imported_at_their_first_use():
    steps = run(
        "import json, sys\n"
        "from diskcsr import kernels\n"
        "seen = [sorted(m for m in ('numba', 'diskcsr.kernels.rows') if m in sys.modules)]\n"
        "kernels.rows.gather\n"
        "seen.append(sorted(m for m in ('numba', 'diskcsr.kernels.rows') if m in sys.modules))\n"
        "seen.append([name in vars(kernels) for name in ('rows', 'codecs', 'transpose')])\n"
        "print(json.dumps(seen))"
    )
    assert steps == [[], ["diskcsr.kernels.rows", "numba"], [True, False, False]]


def test_there_are_no_other_kernels():
    from diskcsr import kernels

    with pytest.raises(AttributeError, match=r"'diskcsr\.kernels' has no attribute 'row'"):
        kernels.row  # noqa: B018


@pytest.mark.parametrize(
    "use",
    [
        "A.shape, A.dtype, A.T, A.reader",
        "A.nnz, repr(A)",
        "A[5, 6], A[-1, -1], A.T[3, 4]",
        "A[7], A[3:9]",
        "A[[1, 5, 10, 13]], A[[7, 1, 7]], A.fetch([3, 250])",
        "A.to_memory()",
        "A.data, A.indices, A.indptr",
        "A @ __import__('numpy').ones(40), A.sum()",
        "__import__('pickle').loads(__import__('pickle').dumps(A)).shape",
    ],
)
def test_simple_use_needs_no_compiler(path, use):
    loaded = run(
        f"import sys, diskcsr\nA = diskcsr.open(sys.argv[1], 'X')\n{use}\nA.close()\n{LOADED}", path
    )
    assert not HEAVY & {module.split(".")[0] for module in loaded}


RESIDENT = """
import json, sys
import numpy, h5py, scipy.sparse, diskcsr
def resident():
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS"))
before = resident()
A = diskcsr.open(sys.argv[1], "X")
A[[1, 5, 10, 13]]
print(json.dumps(resident() - before))
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="Linux alone")
def test_a_few_rows_take_little_memory(path):
    assert 0 < run(RESIDENT, path) < 20e6


FETCH = """
import json, sys
import numpy as np, diskcsr
A = diskcsr.open(sys.argv[1], "X")
rows = np.random.default_rng(0).integers(0, 300, size=40)
A[rows], A[:, [3, 7]]
A[rows, rows % 40]
from diskcsr.kernels import ranges, rows
counts = {}
for name, kernel in [*vars(ranges).items(), *vars(rows).items()]:
    if hasattr(kernel, "stats"):
        stats = kernel.stats
        hits, misses = sum(stats.cache_hits.values()), sum(stats.cache_misses.values())
        if hits + misses:
            counts[name] = [hits, misses]
print(json.dumps(counts))
"""


@pytest.mark.skipif(os.environ.get("NUMBA_DISABLE_JIT") == "1", reason="nothing is compiled")
def test_kernels_are_compiled_once(path, tmp_path):
    cache = tmp_path / "cache"
    first = run(FETCH, path, NUMBA_CACHE_DIR=str(cache))
    assert {"plan_ranges", "gather", "gather_indices", "find_listed", "find_points"} <= set(first)
    assert all(misses for _, misses in first.values())
    kept = sorted(file.name for file in cache.rglob("*.nbc"))
    assert kept
    second = run(FETCH, path, NUMBA_CACHE_DIR=str(cache))
    # What a cached kernel calls comes with it, and is not asked for by itself.
    assert set(second) <= set(first)
    assert all(hits and not misses for hits, misses in second.values())
    assert sorted(file.name for file in cache.rglob("*.nbc")) == kept
