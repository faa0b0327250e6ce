"""Appending many small blocks of rows: diskcsr against anndata, what a journal costs, what results.

    python bench/append.py [--blocks 1000] [--rows 100] [--scale S] [--json OUT]

Blocks of 100 rows with the proportions of single-cell counts (28,000 columns, about 1,500 stored a
row, float32 and int32; twenty different ones, again and again) are appended to a matrix of one
such block: by diskcsr one call a block, and as an iterable in one call; by anndata's
``sparse_dataset(group).append``, one call a block. Then the file sizes and chunk lengths, and 1,024
random rows from each file, compared with scipy's answer and read by diskcsr. At last the same
appends, and some of a hundred blocks together, by diskcsr to a file with and without a journal, in
turns: what atomic writes cost.
"""

import statistics
import sys
import time
from pathlib import Path

import h5py
import numpy as np
from scipy.sparse import vstack

import diskcsr

sys.path.insert(0, str(Path(__file__).resolve().parent))
from common import (
    COLUMNS,
    OWN,
    PEER,
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
    versions,
)

DIFFERENT = 20
CALLS, ITERABLE = f"{OWN}, a call a block", f"{OWN}, one iterable"


# Who appends


def begin(path, block, compression):
    diskcsr.write(path, block, compression=compression).close()


def by_calls(path, blocks):
    with diskcsr.open(path, mode="r+") as A:
        for block in blocks:
            A.append(block)


def by_iterable(path, blocks):
    with diskcsr.open(path, mode="r+") as A:
        A.append(iter(blocks))


def without_journal(path, blocks):
    """Append as `by_calls` does, through a plain h5py file."""
    with h5py.File(path, "r+") as file, diskcsr.open(file, mode="r+") as A:
        for block in blocks:
            A.append(block)


def iterable_without_journal(path, blocks):
    with h5py.File(path, "r+") as file, diskcsr.open(file, mode="r+") as A:
        A.append(iter(blocks))


def by_anndata(path, blocks):
    from anndata.io import sparse_dataset

    with h5py.File(path, "r+") as file:
        for block in blocks:
            sparse_dataset(file["X"]).append(block)


def begin_anndata(path, block, compression):
    from anndata.io import write_elem

    keywords = {} if compression is None else {"compression": compression}
    with h5py.File(path, "w") as file:
        write_elem(file, "X", block, dataset_kwargs=keywords)


SYSTEMS = {
    CALLS: (begin, by_calls),
    ITERABLE: (begin, by_iterable),
    PEER: (begin_anndata, by_anndata),
}


# What is measured


def seconds(append, path, blocks):
    start = time.perf_counter()
    append(path, blocks)
    return time.perf_counter() - start


def random_rows_ms(path, X, rng, repeats):
    """Median milliseconds of diskcsr for 1,024 fresh random rows, the answer having been checked.

    `X` is what is repeated in the file.
    """
    times = []
    with diskcsr.open(path) as A:
        for repeat in range(repeats + 1):
            rows = rng.choice(A.shape[0], min(1024, A.shape[0]), replace=False)
            start = time.perf_counter()
            found = A[rows]
            times.append(1e3 * (time.perf_counter() - start))
            if not repeat:
                check(path.stem, "1,024 random rows", found, X[rows % X.shape[0]])
    return statistics.median(times[1:])


def compare(blocks, folder, rng, compression, repeats):
    """Append by every system; return {system: measures}, and print them."""
    X = vstack(blocks[:DIFFERENT], format="csr")
    found = {}
    print(f"\ncompression {compression or 'none'}")
    titles = ("append s", "blocks/s", "file MB", "data chunk", "indptr chunk", "1,024 rows ms")
    print(" " * 28 + "".join(f"{title:>14}" for title in titles))
    for number, (system, (make, append)) in enumerate(SYSTEMS.items()):
        path = Path(folder, f"{number}.h5")
        make(path, blocks[0], compression)
        taken = seconds(append, path, blocks[1:])
        read_through(path)
        with h5py.File(path) as file:
            chunks = {name: file["X"][name].chunks[0] for name in ("data", "indices", "indptr")}
        found[system] = {
            "append_s": taken,
            "file_bytes": path.stat().st_size,
            "chunks": chunks,
            "random_rows_ms": random_rows_ms(path, X, rng, 5 * repeats),
        }
        print(
            f"{system:<28}{taken:>14.2f}{(len(blocks) - 1) / taken:>14,.0f}"
            f"{path.stat().st_size / 1e6:>14,.1f}{chunks['data']:>14,}{chunks['indptr']:>14,}"
            f"{found[system]['random_rows_ms']:>14.2f}",
            flush=True,
        )
        path.unlink()
    return found


def journal_cost(blocks, folder, repeats):
    """Median seconds of appends with and without a journal, and the median of their ratios."""
    hundred = vstack([blocks[i % len(blocks)] for i in range(100)], format="csr")
    large = [hundred] * max(1, len(blocks) // 100)
    cases = {
        "blocks, a call each": (by_calls, without_journal, blocks[1:]),
        "blocks, one iterable": (by_iterable, iterable_without_journal, blocks[1:]),
        "100 blocks together a call": (by_calls, without_journal, large),
    }
    found = {}
    print(
        f"\n{'what a journal costs':<28}"
        + "".join(f"{t:>14}" for t in ("with s", "without s", "ratio"))
    )
    for case, (journaled, plain, some) in cases.items():
        times = {journaled: [], plain: []}
        for repeat in range(repeats):
            for append in (journaled, plain) if repeat % 2 else (plain, journaled):
                path = Path(folder, "journal.h5")
                begin(path, blocks[0], None)
                times[append].append(seconds(append, path, some))
                path.unlink()
        ratio = statistics.median(a / b for a, b in zip(*times.values(), strict=True))
        with_, without = (statistics.median(values) for values in times.values())
        found[case] = {"with_s": with_, "without_s": without, "ratio": ratio}
        print(f"{case:<28}{with_:>14.2f}{without:>14.2f}{ratio:>14.2f}", flush=True)
    return found


def run(args, folder):
    rng = np.random.default_rng(args.seed)
    about = {"machine": machine(), "versions": versions()}
    for value in about.values():
        print(", ".join(f"{key} {item}" for key, item in value.items()))
    columns = max(100, round(COLUMNS * args.scale))
    stored = min(columns // 2, max(10, round(STORED_PER_ROW * args.scale)))
    X = make_matrix(DIFFERENT * args.rows, columns, stored, rng)
    different = [X[i * args.rows : (i + 1) * args.rows] for i in range(DIFFERENT)]
    blocks = [different[i % DIFFERENT] for i in range(args.blocks)]
    total = sum(block.nnz for block in blocks)
    print(
        f"{args.blocks:,} blocks of {args.rows} rows, {columns:,} columns, {total:,} stored values "
        f"({X.data.dtype}, {X.indices.dtype})"
    )
    by_calls(_tiny(folder, different[0]), different[:1])  # kernels and imports are not measured
    others, found = Others(), {}
    for compression in (None, "gzip"):
        found[compression or "raw"] = compare(blocks, folder, rng, compression, args.repeats)
    found["journal"] = journal_cost(blocks, folder, args.repeats)
    return about | found | {"busy_with_others": print_busy(others)}


def _tiny(folder, block):
    path = Path(folder, "tiny.h5")
    begin(path, block, None)
    return path


OPTIONS = {
    "--blocks": count(1000),
    "--rows": count(100, "of a block"),
    "--repeats": count(3),
    "--scale": SCALE | {"help": "of columns and stored values"},
    "--seed": SEED,
}


if __name__ == "__main__":
    script(run, __doc__, "3 GB", OPTIONS, needs=("anndata",))
