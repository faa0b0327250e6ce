"""What it costs that a matrix lies in many files: one file, and its parts as one array.

    python bench/joined.py [--parts N] [--repeats N] [--threads N] [--scale S] [--json OUT]

The rows of one matrix are written to one file and, in order, to `--parts` files, which
``diskcsr.open([...])`` opens as one array and ``diskcsr.concat(virtual=True)`` joins. All are read
in turns, with the same rows, and so is the joined file by HDF5 alone, as every other program reads
it. Files are in the page cache.
"""

import statistics
import sys
import time
from itertools import pairwise
from pathlib import Path

import h5py
import numpy as np
from scipy.sparse import csr_array

import diskcsr

sys.path.insert(0, str(Path(__file__).resolve().parent))
from common import (
    COLUMNS,
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
    turn,
    versions,
)

LAYOUTS = {"raw": {}, "gzip": {"compression": "gzip"}}


def operations(n_rows, rng):
    """Return {operation: (what makes rows, what reads them, whether h5py alone can be asked)}."""
    ones = np.ones(COLUMNS, np.float32)
    return {
        "64 random rows": (lambda: rng.integers(0, n_rows, 64), _take, False),
        "1,024 random rows": (lambda: rng.integers(0, n_rows, 1024), _take, False),
        "1,024 rows side by side": (
            lambda: _run(int(rng.integers(0, n_rows)), n_rows),
            _take,
            True,
        ),
        "all": (lambda: slice(0, n_rows), _take, True),
        "an epoch, blocks of 32": (lambda: int(rng.integers(1 << 30)), _epoch, False),
        "sums of columns": (lambda: 0, lambda A, axis: A.sum(axis), False),
        "product with a vector": (lambda: ones, lambda A, x: A @ x, False),
    }


def _take(A, rows):
    return A[rows] if hasattr(A, "shape") else A(rows)


def _epoch(A, seed):
    """Go through all batches; return how many rows there were."""
    batches = A.batches(512, shuffle=True, rng=seed, block_size=32)
    return sum(batch.shape[0] for batch in batches)


def _run(first, n_rows):
    first = min(first, max(0, n_rows - 1024))
    return slice(first, min(first + 1024, n_rows))


def by_h5py(group):
    """Return what reads rows side by side as a few lines with h5py do."""
    indptr = group["indptr"][:]
    shape = group.attrs["h5sparse_shape"]

    def read(rows):
        lo, hi = indptr[rows.start], indptr[rows.stop]
        arrays = group["data"][lo:hi], group["indices"][lo:hi], indptr[rows.start : rows.stop + 1]
        shown = rows.stop - rows.start, shape[1]
        return csr_array((*arrays[:2], arrays[2] - lo), shape=shown)

    return read


def store(folder, X, parts, layout):
    """Write the matrix to one file and to several, and join those; return all paths."""
    one, joined = folder / f"{layout}.h5", folder / f"{layout}-joined.h5"
    diskcsr.write(one, X, **LAYOUTS[layout]).close()
    edges = np.linspace(0, X.shape[0], parts + 1).astype(int)
    files = []
    for number, (lo, hi) in enumerate(pairwise(edges)):
        files.append(folder / f"{layout}-{number}.h5")
        diskcsr.write(files[-1], X[lo:hi], **LAYOUTS[layout]).close()
    diskcsr.concat(files, joined, virtual=True).close()
    for file in (one, *files):
        read_through(file)
    return one, files, joined


def measure(X, one, files, joined, repeats, rng):
    """Return {operation: {who: median ms}}; the first repeat is not counted."""
    found = {}
    with (
        diskcsr.open(one) as A,
        diskcsr.open(files) as B,
        diskcsr.open(joined) as C,
        h5py.File(joined) as file,
    ):
        readers = {"one file": A, "listed": B, "joined": C, "joined, by h5py": by_h5py(file["X"])}
        for name, (make, read, by_hand) in operations(X.shape[0], rng).items():
            chosen = list(readers) if by_hand else list(readers)[:3]
            times = {who: [] for who in chosen}
            for repeat in range(-1, repeats):
                rows = make()
                for who in turn(chosen, repeat, repeats, repeats):
                    start = time.perf_counter()
                    got = read(readers[who], rows)
                    taken = time.perf_counter() - start
                    if repeat < 0:
                        _check(who, name, read, rows, got, X)
                    else:
                        times[who].append(1e3 * taken)
                    del got
            found[name] = {who: statistics.median(some) for who, some in times.items()}
    return found


def _check(who, name, read, rows, got, X):
    """Compare an answer with what scipy makes of the matrix in memory."""
    if read is _take:
        check(who, name, got, X[rows])
    elif read is _epoch:
        assert got == X.shape[0], (who, name)
    else:
        np.testing.assert_allclose(got, read(X, rows), rtol=1e-3, err_msg=f"{who}: {name}")


def run(args, folder):
    """Make the files in `folder`, measure, print, and return the results."""
    if args.threads:
        diskcsr.options.num_threads = args.threads
    about = {"machine": machine(), "versions": versions()}
    for value in about.values():
        print(", ".join(f"{key} {item}" for key, item in value.items()))
    rng = np.random.default_rng(args.seed)
    X = make_matrix(max(100, round(ROWS * args.scale)), COLUMNS, STORED_PER_ROW, rng)
    print(f"{X.shape[0]:,} x {X.shape[1]:,}, {X.nnz:,} stored values, {args.parts} parts, ", end="")
    print(f"{diskcsr.options.num_threads} threads, warm; ms, in brackets x one file")
    others, results = Others(), {}
    for layout in LAYOUTS:
        one, files, joined = store(Path(folder), X, args.parts, layout)
        results[layout] = measure(X, one, files, joined, args.repeats, rng)
        print(f"\n{layout:<28}{'one file':>10}{'listed':>18}{'joined':>18}{'joined, by h5py':>18}")
        for name, found in results[layout].items():
            base = found["one file"]
            cells = [f"{found[who]:.2f} ({found[who] / base:.2f})" for who in list(found)[1:]]
            print(f"    {name:<24}{base:>10.2f}" + "".join(f"{cell:>18}" for cell in cells))
    return about | {"results": results, "busy_with_others": print_busy(others)}


OPTIONS = {
    "--parts": count(14),
    "--repeats": count(15),
    "--threads": THREADS,
    "--scale": SCALE,
    "--seed": SEED,
}


if __name__ == "__main__":
    script(run, __doc__, "2.5 GB", OPTIONS)
