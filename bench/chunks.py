"""Which chunk length to write by default: random rows, scans and file size, measured together.

    python bench/chunks.py [--scale S] [--repeats N] [--json OUT]

A matrix as in engine.py of about 20 million stored values is written with chunks of several
lengths, by every compression of the table. From each file are read: rows at random, of which there
are as many in proportion as 1,024 of 60,000; the same number of rows in runs of 64; and everything,
block by block. Lengths take turns, answers are compared with scipy's, files are in the page cache,
and no decoded chunks are kept between calls. The last table divides each measure by the best of its
column and averages (geometric mean) over everything. Of the lengths whose average lies within 3 %
of the least, the one with the fastest random rows is what the table supports: timings differ by
more than that from run to run, and random rows are what this library is for.
"""

import statistics
import sys
import time
from pathlib import Path

import numpy as np

import diskcsr

sys.path.insert(0, str(Path(__file__).resolve().parent))
from common import (
    COLUMNS,
    OWN,
    SCALE,
    SEED,
    STORED_PER_ROW,
    Others,
    check,
    count,
    machine,
    make_matrix,
    print_busy,
    read_through,
    script,
    some_of,
    turn,
    versions,
)

ROWS = 13_333
LENGTHS = [1 << 14, 1 << 15, 1 << 16, 1 << 17, 1 << 18]
CODECS = {"raw": "raw", "gzip": "gzip", "zstd": "zstd"}  # with shuffle, as diskcsr.write does
TIE = 1.03
MEASURES = ["random rows ms", "runs ms", "scan ms", "size MB"]


def random_rows(rng, n):
    return rng.choice(n, max(1, n * 1024 // 60_000), replace=False)


def runs(rng, n):
    count = max(1, n * 1024 // 60_000 // 64)
    starts = rng.choice(max(1, n - 64), count, replace=False)
    return np.minimum(starts[:, None] + np.arange(64), n - 1).reshape(-1)


def scan(A):
    return sum(block.nnz for _, block in A.iter_blocks())


def measure(arrays, X, rng, repeats):
    """Return {length: {measure: [ms]}}."""
    found = {length: {name: [] for name in MEASURES[:3]} for length in arrays}
    for A in arrays.values():
        rows = random_rows(rng, X.shape[0])
        check(OWN, "random rows", A[rows], X[rows])
        check(OWN, "everything", A.to_memory(), X)
        if scan(A) != X.nnz:
            raise SystemExit("a scan missed elements")
    for repeat in range(repeats):
        keys = random_rows(rng, X.shape[0]), runs(rng, X.shape[0])
        for length in turn(arrays, repeat, repeats, repeats):
            calls = [(rows, arrays[length]) for rows in keys] + [(None, arrays[length])]
            for name, (rows, A) in zip(MEASURES, calls, strict=False):
                start = time.perf_counter()
                if rows is None:
                    scan(A)
                else:
                    A[rows]
                found[length][name].append(1e3 * (time.perf_counter() - start))
    return found


def run_codec(codec, X, folder, rng, args):
    """Write and read the files of one compression; return {length: {measure: number}}."""
    arrays, sizes = {}, {}
    for length in args.lengths:
        path = Path(folder, f"{codec}-{length}.h5")
        arrays[length] = diskcsr.write(path, X, compression=CODECS[codec], chunks=length)
        read_through(path)
        sizes[length] = path.stat().st_size / 1e6
    found = measure(arrays, X, rng, args.repeats)
    for A in arrays.values():
        A.close()
    return {
        length: {name: statistics.median(values) for name, values in measures.items()}
        | {"size MB": sizes[length]}
        for length, measures in found.items()
    }


def print_summary(table, lengths):
    """Print each length's distance from the best, and return it."""
    distance = {}
    for length in lengths:
        logs = {
            name: np.mean(
                [
                    np.log(rows[length][name] / min(rows[other][name] for other in lengths))
                    for rows in table.values()
                ]
            )
            for name in MEASURES
        }
        distance[length] = {name: float(np.exp(value)) for name, value in logs.items()}
        three = [logs["random rows ms"], logs["scan ms"], logs["size MB"]]
        distance[length]["together"] = float(np.exp(np.mean(three)))
    print(
        "\ntimes the best of all lengths, averaged over compressions; together: random, scan, size"
    )
    print(f"{'chunk':>9}{'random rows':>16}{'runs':>12}{'scan':>12}{'size':>12}{'together':>12}")
    for length, row in distance.items():
        numbers = [row[name] for name in MEASURES]
        print(
            f"{length:>9,}{numbers[0]:>16.2f}"
            + "".join(f"{number:>12.2f}" for number in (*numbers[1:], row["together"]))
        )
    least = min(row["together"] for row in distance.values())
    near = [length for length, row in distance.items() if row["together"] <= TIE * least]
    best = min(near, key=lambda length: distance[length]["random rows ms"])
    print(f"the default this supports: {best:,} elements")
    return distance, best


def run(args, folder):
    rng = np.random.default_rng(args.seed)
    diskcsr.options.cache_bytes = 0
    about = {"machine": machine(), "versions": versions("deflate", "numcodecs")}
    for value in about.values():
        print(", ".join(f"{key} {item}" for key, item in value.items()))
    X = make_matrix(max(100, round(ROWS * args.scale)), COLUMNS, STORED_PER_ROW, rng)
    print(
        f"{X.shape[0]:,} x {X.shape[1]:,}, {X.nnz:,} stored values ({X.data.dtype}, "
        f"{X.indices.dtype}); {random_rows(rng, X.shape[0]).size} random rows, "
        f"{runs(rng, X.shape[0]).size} rows in runs of 64; medians of {args.repeats}"
    )
    print(f"\n{'':<8}{'chunk':>9}" + "".join(f"{name:>16}" for name in MEASURES))
    table, others = {}, Others()
    for codec in args.codecs:
        table[codec] = run_codec(codec, X, folder, rng, args)
        for length, row in table[codec].items():
            numbers = "".join(f"{row[name]:>16.2f}" for name in MEASURES)
            print(f"{codec:<8}{length:>9,}{numbers}", flush=True)
    distance, best = print_summary(table, args.lengths)
    busy = print_busy(others)
    found = {"table": table, "distance": distance, "supports": best, "busy_with_others": busy}
    return about | found


OPTIONS = {
    "--codecs": some_of(CODECS),
    "--lengths": {"nargs": "+", "type": int, "default": LENGTHS},
    "--repeats": count(15),
    "--scale": SCALE,
    "--seed": SEED,
}


if __name__ == "__main__":
    script(run, __doc__, "1 GB", OPTIONS)
