"""Fetches of every size from an uncompressed file, against scipy in memory, and what they keep.

    python bench/fetch.py [--scale S] [--repeats N] [--json OUT]

One element, 4, 64, 256 and 1,024 random rows of a matrix like a set of neurons (60,000 x 28,000,
about 90 million stored values, 720 MB); of 1,024 rows the first ten calls of a fresh handle are a
line of their own. Keys are fresh in each repeat, both take turns, answers are compared before. Then
epochs of random rows of a matrix like a plate of Tahoe-100M, the first and later ones, against a
loop over scipy; and, in processes of their own, how much resident memory a loop of fetches adds and
how much the first four rows do. Files are in the page cache.

Beside each figure stands what was aimed at (`EXPECTED`). How busy other processes kept the
processors is told at the end: threads that must wait for a processor make large fetches slow.
"""

import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

import diskcsr

sys.path.insert(0, str(Path(__file__).resolve().parent))
from common import (
    COLUMNS,
    OWN,
    REFERENCE,
    ROWS,
    SCALE,
    SEED,
    STORED_PER_ROW,
    THREADS,
    Others,
    check,
    count,
    machine,
    make_matrix,
    print_busy,
    read_through,
    script,
    versions,
)
from loader import BATCH, BUFFER, check_epoch, own_batches, rows_a_second, scipy_batches
from loader import COLUMNS as LOADER_COLUMNS
from loader import STORED_PER_ROW as LOADER_STORED_PER_ROW

ELEMENT, FIRST = "one element", "1,024 rows, first ten calls"
SIZES = {"4 rows": 4, "64 rows": 64, "256 rows": 256, FIRST: 1024, "1,024 rows, later": 1024}
FIRST_CALLS = 10
EPOCH_ROWS = 90_000

#: The most that a fetch may take, as a ratio of scipy's time.
EXPECTED = {
    ELEMENT: 2.5,
    "64 rows": 1.5,
    "256 rows": 1.5,
    FIRST: 1.2,
    "1,024 rows, later": 1.0,
}
#: The least rows a second of a first epoch, as a ratio of a later one and of scipy; the most bytes.
EXPECTED_EPOCH, EXPECTED_GROWTH, EXPECTED_FEW = 0.9, 128e6, 20e6


# Times of single fetches


def keys(name, shape, rng):
    """Yield fresh keys."""
    while True:
        if name == ELEMENT:
            yield int(rng.integers(shape[0])), int(rng.integers(shape[1]))
        else:
            yield rng.choice(shape[0], min(SIZES[name], shape[0]), replace=False)


def timed(array, key):
    start = time.perf_counter()
    array[key]
    return time.perf_counter() - start


def fetches(path, X, rng, repeats):
    """Return {name: {system: median seconds}}; both take turns in each repeat."""
    found = {}
    for name in (ELEMENT, *SIZES):
        own, theirs = [], []
        fresh = keys(name, X.shape, rng)
        calls = FIRST_CALLS if name == FIRST else 4 * repeats
        rounds = repeats if name == FIRST else 1
        for _ in range(rounds):
            with diskcsr.open(path, "X") as A:
                if name != FIRST:
                    key = next(fresh)
                    check(OWN, name, A[key], X[key])
                    for _ in range(FIRST_CALLS):
                        A[next(fresh)]
                for _ in range(calls):
                    own.append(timed(A, next(fresh)))
                    theirs.append(timed(X, next(fresh)))
        found[name] = {OWN: statistics.median(own), REFERENCE: statistics.median(theirs)}
    return found


# Epochs


def epochs(path, X, repeats):
    """Return the rows a second of the first epoch of a fresh handle, of later ones, of scipy."""
    first, later, theirs = [], [], []
    with diskcsr.open(path, "X") as A:
        check_epoch(OWN, own_batches(A, 1, 0), X)
    for repeat in range(repeats):
        with diskcsr.open(path, "X") as A:
            for rates in (first, later):
                rates.append(rows_a_second(own_batches(A, 1, repeat), X.shape[0]))
        theirs.append(rows_a_second(scipy_batches(X, 1, repeat), X.shape[0]))
    names = ("first epoch", "later epoch", REFERENCE)
    return dict(zip(names, map(statistics.median, (first, later, theirs)), strict=True))


# Memory, in processes of their own

MEMORY = """
import sys
import h5py, numpy, scipy.sparse, diskcsr
def resident():
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS"))
before = resident()
A = diskcsr.open(sys.argv[1], "X")
A[[1, 5, 10, 13]]
few = resident() - before
rng = numpy.random.default_rng(0)
n = min(1024, A.shape[0])
A[rng.choice(A.shape[0], n, replace=False)]  # the compiled kernels are there
before = resident()
for _ in range(int(sys.argv[2])):
    A[rng.choice(A.shape[0], n, replace=False)]
print(few, resident() - before)
"""


def memory(path, calls):
    """Return the bytes that the first four rows add, and then a loop of fetches of 1,024."""
    root = str(Path(diskcsr.__file__).resolve().parent.parent)
    result = subprocess.run(
        [sys.executable, "-P", "-c", MEMORY, str(path), str(calls)],
        env={**os.environ, "PYTHONPATH": root},
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    few, growth = map(int, result.stdout.split())
    return {"first four rows": few, "loop of fetches": growth}


# Running it


def line(name, values, ratio, limit):
    met = "" if limit is None else f"{limit:>8.4g}  {'met' if ratio <= limit else 'MISSED'}"
    print(f"    {name:<30}{values}{ratio:>8.2f}{met}", flush=True)


def run(args, folder):
    """Make the files in `folder`, measure, print, and return the results."""
    about = {"machine": machine(), "versions": versions()}
    for value in about.values():
        print(", ".join(f"{key} {item}" for key, item in value.items()))
    rng = np.random.default_rng(args.seed)
    path, others = Path(folder, "rows.h5"), Others()
    results = {}

    X = make_matrix(max(100, round(ROWS * args.scale)), COLUMNS, STORED_PER_ROW, rng)
    diskcsr.write(path, X, name="X").close()
    read_through(path)
    print(f"{X.shape[0]:,} x {X.shape[1]:,}, {X.nnz:,} stored, {path.stat().st_size / 1e6:,.0f} MB")
    print(f"\n    {'microseconds':<30}{OWN:>12}{REFERENCE:>18}{'ratio':>8}{'at most':>8}")
    results["fetches"] = fetches(path, X, rng, args.repeats)
    for name, found in results["fetches"].items():
        own, theirs = found[OWN], found[REFERENCE]
        line(name, f"{own * 1e6:>12,.0f}{theirs * 1e6:>18,.0f}", own / theirs, EXPECTED.get(name))
    results["memory"] = memory(path, args.repeats * 6)
    del X

    X = make_matrix(
        max(100, round(EPOCH_ROWS * args.scale)), LOADER_COLUMNS, LOADER_STORED_PER_ROW, rng
    )
    diskcsr.write(path, X, name="X", overwrite=True).close()
    read_through(path)
    rates = results["epochs"] = epochs(path, X, max(1, args.repeats // 3))
    print(
        f"\nepochs of {X.shape[0]:,} random rows, {(X.data.nbytes + X.indices.nbytes) / 1e6:,.0f} "
        f"MB, batches of {BATCH:,} from buffers of {BUFFER:,}: rows a second"
    )
    for name, rate in rates.items():
        print(f"    {name:<30}{rate:>12,.0f}")
    for name in ("later epoch", REFERENCE):
        ratio = rates["first epoch"] / rates[name]
        met = "met" if ratio >= EXPECTED_EPOCH else "MISSED"
        print(f"    first / {name:<22}{ratio:>12.2f}  at least {EXPECTED_EPOCH}  {met}")

    print("\nresident memory added, MB")
    for (name, nbytes), limit in zip(
        results["memory"].items(), (EXPECTED_FEW, EXPECTED_GROWTH), strict=True
    ):
        met = "met" if nbytes <= limit else "MISSED"
        print(f"    {name:<30}{nbytes / 1e6:>12.1f}  at most {limit / 1e6:,.0f}  {met}")
    return about | results | {"busy_with_others": print_busy(others)}


OPTIONS = {
    "--repeats": count(15, "of single fetches; a quarter of the calls"),
    "--scale": SCALE,
    "--seed": SEED,
    "--threads": THREADS,
}


if __name__ == "__main__":
    script(run, __doc__, "1.1 GB", OPTIONS)
