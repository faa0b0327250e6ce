"""Fetching from one matrix with diskcsr, scipy in memory and anndata, side by side in one run.

    python bench/fetch.py [--json OUT] [--repeats N] [--scale S]

The matrix is made here: 60,000 x 28,000, about 90 million stored values (float32, int32 indices,
720 MB), row lengths and column popularity as in single-cell counts. diskcsr.write and
anndata.AnnData.write_h5ad each write it uncompressed to a temporary folder; diskcsr and anndata
then each read both files. Every system's answer to every operation is compared with scipy's before
anything is timed. In each repeat all systems get the same fresh random key, one after the other in
an order that rotates, so that whatever else the machine does meets all of them alike. Files are in
the page cache throughout: this measures software, not the disk.
"""

import argparse
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
    OWN,
    REFERENCE,
    ROWS,
    STORED_PER_ROW,
    Others,
    check,
    machine,
    make_matrix,
    peak_memory,
    run_in_folder,
    turn,
    versions,
)

PEER = "anndata, its own file"


# What is measured


def random_rows(rng, shape):
    return rng.choice(shape[0], min(1024, shape[0]), replace=False)


def random_mask(rng, shape):
    mask = np.zeros(shape[0], bool)
    mask[rng.choice(shape[0], max(1, shape[0] // 50), replace=False)] = True
    return mask


def random_scalar(rng, shape):
    return int(rng.integers(shape[0])), int(rng.integers(shape[1]))


def random_columns(rng, shape):
    return slice(None), rng.choice(shape[1], min(100, shape[1]), replace=False)


OPERATIONS = {
    "1,024 random rows": random_rows,
    "2 % boolean mask": random_mask,
    "one scalar": random_scalar,
    "100 random columns": random_columns,
}

# What issue and design ask for at full size: operation, against whom, at most this time ratio.
EXPECTED = [
    ("1,024 random rows", REFERENCE, 1.1),
    ("1,024 random rows", PEER, 1 / 10),
    ("one scalar", PEER, 1 / 1000),
]


def bytes_read(handle):
    """Return what diskcsr has read from the file so far; 0 for the other systems."""
    return handle.reader.bytes_read if hasattr(handle, "reader") else 0


def measure(systems, operation, rng, repeats, peer_repeats):
    """Time ``handle[key]`` for every system, the same keys for all; return one row per system."""
    draw, shape = OPERATIONS[operation], systems[REFERENCE].shape
    key = draw(rng, shape)
    for name, handle in systems.items():
        check(name, operation, handle[key], systems[REFERENCE][key])

    seconds = {name: [] for name in systems}
    read = dict.fromkeys(systems, 0)
    for repeat in range(repeats):
        key = draw(rng, shape)
        for name in turn(systems, repeat, repeats, peer_repeats):
            handle = systems[name]
            before = bytes_read(handle)
            start = time.perf_counter()
            result = handle[key]
            seconds[name].append(time.perf_counter() - start)
            read[name] += bytes_read(handle) - before
            del result
    median = {name: statistics.median(taken) for name, taken in seconds.items()}
    return [
        {
            "operation": operation,
            "system": name,
            "median_ms": median[name] * 1e3,
            "min_ms": min(taken) * 1e3,
            "max_ms": max(taken) * 1e3,
            "repeats": len(taken),
            "all_ms": [1e3 * second for second in taken],
            "time_over_scipy": median[name] / median[REFERENCE],
            "anndata_over_time": median[PEER] / median[name],
            "bytes_read": read[name] // len(taken) if hasattr(systems[name], "reader") else None,
        }
        for name, taken in seconds.items()
    ]


# The cost of beginning

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
    """Return {step: median ms} over fresh processes, the kernels already compiled on disk."""
    root = str(Path(diskcsr.__file__).resolve().parent.parent)
    environment = {**os.environ, "PYTHONPATH": root}
    runs = []
    for seed in range(processes + 1):
        command = [sys.executable, "-P", "-c", START_UP, str(file), str(seed)]
        output = subprocess.run(
            command, env=environment, check=True, stdout=subprocess.PIPE, text=True
        )
        runs.append([1e3 * float(seconds) for seconds in output.stdout.split()])
    # The first run may have compiled: not counted.
    return dict(zip(STEPS, map(statistics.median, zip(*runs[1:], strict=True)), strict=True))


def opening(own, theirs, repeats):
    """Return {what: median ms} of opening a file in a process where everything is imported."""
    from anndata.io import sparse_dataset

    def ours(file):
        start = time.perf_counter()
        array = diskcsr.open(file, "X")
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

    return {
        name: 1e3 * statistics.median(function(file) for _ in range(repeats))
        for name, function, file in (
            ("diskcsr.open, its own file", ours, own),
            ("diskcsr.open, anndata's file", ours, theirs),
            ("h5py.File + sparse_dataset, anndata's file", peer, theirs),
        )
    }


# Running it


def describe(file):
    """Return how the three datasets of X lie in `file`, and read it once so that it is cached."""
    with open(file, "rb") as stream:
        while stream.read(1 << 24):
            pass
    with h5py.File(file) as f:
        return {
            name: f"{dataset.dtype} {'contiguous' if dataset.chunks is None else dataset.chunks}"
            for name, dataset in sorted(f["X"].items())
        }


def print_table(rows):
    print(
        f"\n{'':32}{'median ms':>11}{'min':>10}{'max':>10}{'repeats':>9}"
        f"{'time/scipy':>12}{'anndata/time':>14}{'read/fetch':>14}"
    )
    operation = None
    for row in rows:
        if row["operation"] != operation:
            operation = row["operation"]
            print(operation)
        read = "" if row["bytes_read"] is None else f"{row['bytes_read']:,} B"
        print(
            f"    {row['system']:<28}{row['median_ms']:>11.3f}{row['min_ms']:>10.3f}"
            f"{row['max_ms']:>10.3f}{row['repeats']:>9}{row['time_over_scipy']:>12.3f}"
            f"{row['anndata_over_time']:>14.2f}{read:>14}"
        )


def print_expected(rows, scale):
    median = {(row["operation"], row["system"]): row["median_ms"] for row in rows}
    print("\nexpected at full size" + (f" (this run: {scale:g} of it)" if scale != 1 else ""))
    for operation, against, most in EXPECTED:
        ratio = median[operation, OWN] / median[operation, against]
        wanted = f"{most:g} x" if most > 1 else f"1/{1 / most:g} of"
        verdict = "met" if ratio <= most else "MISSED"
        measured = f"{ratio:.3f} x" if most > 1 else f"1/{1 / ratio:.1f}"
        print(f"    {operation}: at most {wanted} {against}: {measured}, {verdict}")


def run(args, folder):
    """Make the matrix and the files in `folder`, measure, print, and return the results."""
    from anndata import AnnData
    from anndata.io import sparse_dataset

    rng = np.random.default_rng(args.seed)
    start = time.perf_counter()
    X = make_matrix(max(100, round(ROWS * args.scale)), COLUMNS, STORED_PER_ROW, rng)
    about = {"machine": machine(), "versions": versions(), "cache": "warm page cache"}
    for value in about["machine"], about["versions"]:
        print(", ".join(f"{key} {item}" for key, item in value.items()))
    size = X.data.nbytes + X.indices.nbytes + X.indptr.nbytes
    about["matrix"] = {"shape": X.shape, "stored": X.nnz, "bytes": size, "seed": args.seed}
    print(
        f"{X.shape[0]:,} x {X.shape[1]:,}, {X.nnz:,} stored values ({X.data.dtype}, "
        f"{X.indices.dtype}), {size / 1e6:,.0f} MB; made in {time.perf_counter() - start:.0f} s, "
        f"peak memory {peak_memory() / 1e9:.1f} GB"
    )

    own, theirs = Path(folder, "diskcsr.h5"), Path(folder, "anndata.h5ad")
    diskcsr.write(own, X, name="X").close()
    AnnData(X).write_h5ad(theirs)
    about["files"] = {"diskcsr": describe(own), "anndata": describe(theirs)}
    for writer, layout in about["files"].items():
        print(f"written by {writer}: " + "; ".join(f"{key} {item}" for key, item in layout.items()))

    with (
        diskcsr.open(own, "X") as A,
        diskcsr.open(theirs, "X") as B,
        h5py.File(own) as f,
        h5py.File(theirs) as g,
    ):
        print(f"diskcsr reads them with {A.reader['data'].name} and {B.reader['data'].name}")
        print("uncompressed, warm page cache, fresh random keys each repeat, systems interleaved")
        systems = {
            REFERENCE: X,
            OWN: A,
            "diskcsr, anndata's file": B,
            PEER: sparse_dataset(g["X"]),
            "anndata, diskcsr's file": sparse_dataset(f["X"]),
        }
        results, others = [], Others()
        for operation in OPERATIONS:
            results += measure(systems, operation, rng, args.repeats, args.peer_repeats)
        about["busy_with_others"] = others.cores()
    print_table(results)
    if about["busy_with_others"] is not None:
        print(f"\nother processes kept {about['busy_with_others']:.2f} cores busy meanwhile")
    print_expected(results, args.scale)

    begin = {"opening_ms": opening(own, theirs, 20), "start_up_ms": start_up(own, args.processes)}
    for title, key in (
        ("opening, everything imported (median of 20)", "opening_ms"),
        (f"a fresh process (median of {args.processes})", "start_up_ms"),
    ):
        print(f"\n{title}")
        for step, taken in begin[key].items():
            print(f"    {step:<48}{taken:>9.2f} ms")
    return about | {"results": results} | begin


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--json", metavar="OUT", help="write the results to this file as well")
    parser.add_argument("--repeats", type=int, default=31, help="default: %(default)s")
    parser.add_argument(
        "--peer-repeats", type=int, default=5, help="of anndata's, at least (default: %(default)s)"
    )
    parser.add_argument("--processes", type=int, default=5, help="fresh ones for the start-up")
    parser.add_argument("--scale", type=float, default=1.0, help="of the number of rows")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, help="of diskcsr (default: its own)")
    parser.add_argument("--folder", help="where to put the temporary folder (needs 1.5 GB)")
    args = parser.parse_args(argv)
    if args.threads is not None:
        diskcsr.set_num_threads(args.threads)
    run_in_folder(run, args)
    return 0


if __name__ == "__main__":
    sys.exit(main())
