"""How long it takes to begin: opening a file, and the first rows in a fresh process.

    python bench/opening.py [--repeats N] [--processes N] [--scale S] [--json OUT]

What comes after that, operation by operation, ``python -m diskcsr.bench`` measures. diskcsr.write
and anndata.AnnData.write_h5ad each write the same matrix uncompressed, and diskcsr once more with
gzip: with untrusted=True another process decodes all of that. Files are in the page cache,
kernels are compiled and on disk: the first process is not counted.
"""

import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import h5py
import numpy as np

import diskcsr

sys.path.insert(0, str(Path(__file__).resolve().parent))
from common import (
    COLUMNS,
    ROWS,
    SCALE,
    SEED,
    STORED_PER_ROW,
    Others,
    count,
    machine,
    make_matrix,
    print_busy,
    read_through,
    script,
    versions,
)

START_UP = """
import sys, time
t0 = time.perf_counter()
import numpy, h5py, scipy.sparse
t1 = time.perf_counter()
import diskcsr
t2 = time.perf_counter()
A = diskcsr.open(sys.argv[1], "X")
t3 = time.perf_counter()
rng = numpy.random.default_rng(int(sys.argv[2]))
keys = [rng.choice(A.shape[0], min(1024, A.shape[0]), replace=False) for _ in range(2)]
t4 = time.perf_counter()
A[keys[0]]
t5 = time.perf_counter()
A[keys[1]]
t6 = time.perf_counter()
print(t1 - t0, t2 - t1, t3 - t2, t5 - t4, t6 - t5)
"""
STEPS = [
    "import numpy, h5py, scipy.sparse",
    "import diskcsr",
    "diskcsr.open",
    "first 1,024 rows (loads the compiled kernels)",
    "next 1,024 rows",
]


def start_up(file, processes):
    """Return {step: median ms} over fresh processes."""
    root = str(Path(diskcsr.__file__).resolve().parent.parent)
    environment = {**os.environ, "PYTHONPATH": root}
    runs = []
    for seed in range(processes + 1):
        command = [sys.executable, "-P", "-c", START_UP, str(file), str(seed)]
        output = subprocess.run(
            command, env=environment, check=True, stdout=subprocess.PIPE, text=True
        )
        runs.append([1e3 * float(seconds) for seconds in output.stdout.split()])
    return dict(zip(STEPS, map(statistics.median, zip(*runs[1:], strict=True)), strict=True))


def opening(own, packed, theirs, repeats):
    """Return {what: median ms} of opening a file in a process where everything is imported."""
    from anndata.io import sparse_dataset

    def ours(file, **how):
        start = time.perf_counter()
        array = diskcsr.open(file, "X", **how)
        taken = time.perf_counter() - start
        array.close()
        return taken

    def peer(file):
        start = time.perf_counter()
        handle = h5py.File(file)
        sparse_dataset(handle["X"])
        taken = time.perf_counter() - start
        handle.close()
        return taken

    def careful(file):
        return ours(file, untrusted=True)

    return {
        name: 1e3 * statistics.median(function(file) for _ in range(repeats))
        for name, function, file in (
            ("diskcsr.open, its own file", ours, own),
            ("the same, untrusted=True", careful, own),
            ("diskcsr.open(untrusted=True), gzip", careful, packed),
            ("diskcsr.open, anndata's file", ours, theirs),
            ("h5py.File + sparse_dataset, anndata's file", peer, theirs),
        )
    }


def run(args, folder):
    """Make the files in `folder`, measure, print, and return the results."""
    from anndata import AnnData

    about = {"machine": machine(), "versions": versions()}
    for value in about.values():
        print(", ".join(f"{key} {item}" for key, item in value.items()))
    rng = np.random.default_rng(args.seed)
    X = make_matrix(max(100, round(ROWS * args.scale)), COLUMNS, STORED_PER_ROW, rng)
    print(f"{X.shape[0]:,} x {X.shape[1]:,}, {X.nnz:,} stored values ({X.data.dtype})")
    own, theirs = Path(folder, "diskcsr.h5"), Path(folder, "anndata.h5ad")
    packed = Path(folder, "gzip.h5")
    diskcsr.write(own, X, name="X").close()
    diskcsr.write(packed, X, name="X", compression="gzip").close()
    AnnData(X).write_h5ad(theirs)
    for file in own, packed, theirs:
        read_through(file)

    others = Others()
    found = {
        "opening_ms": opening(own, packed, theirs, args.repeats),
        "start_up_ms": start_up(own, args.processes),
    }
    for title, key in (
        (f"opening, everything imported (median of {args.repeats})", "opening_ms"),
        (f"a fresh process (median of {args.processes})", "start_up_ms"),
    ):
        print(f"\n{title}")
        for step, taken in found[key].items():
            print(f"    {step:<48}{taken:>9.2f} ms")
    return about | found | {"busy_with_others": print_busy(others)}


OPTIONS = {
    "--repeats": count(20, "of opening"),
    "--processes": count(5, "fresh ones for the start-up"),
    "--scale": SCALE,
    "--seed": SEED,
}


if __name__ == "__main__":
    script(run, __doc__, "1.5 GB", OPTIONS, needs=("anndata",))
