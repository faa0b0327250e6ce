"""Minibatches of rows: A.batches against scDataset over anndata and a loop over scipy in memory.

    python bench/loader.py [--rows N] [--blocks 1 32 64 512] [--files raw gzip] [--json OUT]

The matrix resembles a plate of Tahoe-100M: 62,710 columns, about 1,440 stored values a row
(float32, int32 indices), 200,000 rows; 25,000 rows are drawn and repeated in random order, as
drawing all would take minutes and makes no difference to a chunk (45 rows). Batches of 4,096 rows
are cut from buffers of 16,384 that are filled by blocks of consecutive rows. The file is in the
page cache. "scipy" permutes the blocks, takes the buffer's rows by fancy index from the matrix in
memory, in shuffled order, and slices.

An epoch of every system is checked for holding every row once (by sums) before it is timed; of
scDataset some buffers are timed where an epoch would take minutes, and checked where it does not.
The limit of raw files is copying each row once, with all threads; of compressed ones, decoding
every chunk that a buffer touches once, at the codec's own speed in as many threads, plus that copy.
"""

import importlib.util
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
    OWN,
    REFERENCE,
    SEED,
    THREADS,
    Others,
    codec_speed,
    count,
    machine,
    make_matrix,
    memcpy_speed,
    print_busy,
    read_through,
    script,
    some_of,
    turn,
    versions,
)

COLUMNS, STORED_PER_ROW, DISTINCT = 62_710, 1440, 25_000
BATCH, BUFFER = 4096, 16_384
SCDATASET = "scDataset over anndata"
FILES = {"raw": {}, "gzip": {"compression": "gzip"}}

# Rows a second that the issue asks for, at full size on two cores: file, block size, least.
EXPECTED = [("raw", 1, 100_000), ("raw", 64, 300_000)]


# The systems: each a generator of batches of an epoch


def shuffled_blocks(n, block, rng):
    """Row numbers, blocks of consecutive ones kept together."""
    blocks = rng.permutation(-(-n // block))
    rows = (blocks[:, None] * block + np.arange(block)).reshape(-1)
    return rows[rows < n]


def scipy_batches(X, block, seed):
    rng = np.random.default_rng(seed)
    rows = shuffled_blocks(X.shape[0], block, rng)
    for first in range(0, rows.size, BUFFER):
        buffer = X[rng.permutation(rows[first : first + BUFFER])]
        for start in range(0, buffer.shape[0], BATCH):
            yield buffer[start : start + BATCH]


def own_batches(A, block, seed):
    yield from A.batches(BATCH, shuffle=True, rng=seed, block_size=block, buffer_size=BUFFER)


class _Rows:
    """anndata's handle, with the length that scDataset asks for."""

    def __init__(self, handle):
        self.handle = handle

    def __len__(self):
        return self.handle.shape[0]

    def __getitem__(self, rows):
        return self.handle[rows]


def scdataset_batches(handle, block, seed):
    from scdataset import BlockShuffling, scDataset

    yield from scDataset(
        _Rows(handle),
        BlockShuffling(block_size=block),
        batch_size=BATCH,
        fetch_factor=BUFFER // BATCH,
        seed=seed,
    )


def check_epoch(system, batches, X):
    """Raise SystemExit unless the batches hold every row of `X` once, in some order."""
    rows = stored = 0
    total, places = 0.0, 0
    sizes = []
    for batch in batches:
        rows += batch.shape[0]
        stored += batch.nnz
        total += batch.data.sum(dtype=np.float64)
        places += int(batch.indices.sum(dtype=np.int64))
        sizes.append(np.diff(batch.indptr))
    wanted = (*X.shape[:1], X.nnz, X.data.sum(dtype=np.float64), X.indices.sum(dtype=np.int64))
    found = np.sort(np.concatenate(sizes))
    same = np.array_equal(found, np.sort(np.diff(X.indptr)))
    if (rows, stored, total, places) != wanted or not same:
        raise SystemExit(f"{system}: an epoch gave {(rows, stored, total, places)}, not {wanted}")


def rows_a_second(batches, most):
    """Consume batches, as many rows as `most` at least, and return the rows a second."""
    rows, start = 0, time.perf_counter()
    for batch in batches:
        rows += batch.shape[0]
        if rows >= most:
            break
    return rows / (time.perf_counter() - start)


# Limits and memory


def limit_of(X, block, decode, memcpy, chunk):
    """Rows a second if nothing took time but copying each row, and decoding touched chunks."""
    size = X.data.itemsize + X.indices.itemsize
    copying = X.nnz * size / memcpy
    if decode is None:
        return X.shape[0] / copying
    rows = shuffled_blocks(X.shape[0], block, np.random.default_rng(0))
    chunks = 0
    for first in range(0, rows.size, BUFFER):
        some = rows[first : first + BUFFER]
        edge = np.zeros(-(-X.nnz // chunk) + 1, np.int64)
        np.add.at(edge, X.indptr[some].astype(np.int64) // chunk, 1)
        np.add.at(edge, (X.indptr[some + 1].astype(np.int64) - 1) // chunk + 1, -1)
        chunks += np.count_nonzero(np.cumsum(edge)[:-1])
    return X.shape[0] / (copying + chunks * chunk * size / decode)


MEMORY = """
import re, sys
sys.path[:0] = sys.argv[1:3]
import loader, diskcsr
def held(which):
    status = open("/proc/self/status").read()
    return int(re.search(which + r":\\s+(\\d+)", status).group(1)) * 1024
if sys.argv[4] == "diskcsr":
    A = diskcsr.open(sys.argv[3], "X")
    batches = loader.own_batches
else:
    import h5py, scdataset
    from anndata.io import sparse_dataset
    A = sparse_dataset(h5py.File(sys.argv[3])["X"])
    batches = loader.scdataset_batches
before, peaks, rows = held("RssAnon"), [], 0
for batch in batches(A, int(sys.argv[5]), 0):
    rows += batch.shape[0]
    peaks.append(held("RssAnon"))
    if rows >= int(sys.argv[6]):
        break
half = len(peaks) // 2 or 1
print(before, max(peaks[:half]), max(peaks[half:] or peaks), held("VmHWM"))
"""


def memory(file, system, block, most):
    """Return what a fresh process holds before, in the first and second half, and its peak RSS.

    The first three are anonymous memory: pages of a mapped file count in the RSS as well, but are
    the page cache's, which takes them back when it needs them.
    """
    here = Path(__file__).resolve().parent
    root = Path(diskcsr.__file__).resolve().parent.parent
    arguments = map(str, (root, here, file, system, block, most))
    command = [sys.executable, "-c", MEMORY, *arguments]
    result = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    names = ("before", "first_half", "second_half", "peak_rss")
    return dict(zip(names, map(int, result.stdout.split()), strict=True))


# Running it


def measure(systems, X, block, args):
    """Return {system: [rows a second]}, systems in turns."""
    found = {name: [] for name in systems}
    for repeat in range(args.repeats):
        for name in turn(systems, repeat, args.repeats, args.repeats):
            if name == SCDATASET and repeat:
                continue  # once: it takes longer than all else together
            most = args.peer_rows if name == SCDATASET else X.shape[0]
            found[name].append(rows_a_second(systems[name](block, repeat), most))
    return found


def run_file(file, X, folder, args, memcpy, results):
    path = Path(folder, f"{file}.h5")
    diskcsr.write(path, X, **FILES[file]).close()
    read_through(path)
    decode = codec_speed(path)[0]
    with diskcsr.open(path, "X") as A, h5py.File(path) as f:
        chunk = f["X/data"].chunks[0]
        systems = {
            REFERENCE: lambda block, seed: scipy_batches(X, block, seed),
            OWN: lambda block, seed: own_batches(A, block, seed),
        }
        for name, batches in systems.items():
            check_epoch(name, batches(max(args.blocks), 1), X)
        if args.scdataset:
            from anndata.io import sparse_dataset

            handle = sparse_dataset(f["X"])
            systems[SCDATASET] = lambda block, seed: scdataset_batches(handle, block, seed)
            if args.peer_rows >= X.shape[0]:
                check_epoch(SCDATASET, systems[SCDATASET](max(args.blocks), 1), X)
        by = A.reader["data"].name
        codec = f", its codec alone decodes {decode / 1e9:.2f} GB/s" if decode else ""
        print(f"{file}: {path.stat().st_size / 1e6:,.0f} MB, reader {by!r}{codec}")
        for block in args.blocks:
            found = measure(systems, X, block, args)
            limit = limit_of(X, block, decode, memcpy, chunk)
            rate = {name: statistics.median(values) for name, values in found.items()}
            peer = rate.get(SCDATASET)
            print(
                f"    {block:<10}{rate[OWN]:>12,.0f}{rate[REFERENCE]:>12,.0f}"
                f"{'n/a' if peer is None else f'{peer:,.0f}':>12}"
                f"{rate[OWN] / rate[REFERENCE]:>10.2f}"
                f"{'n/a' if peer is None else f'{rate[OWN] / peer:.1f}':>12}"
                f"{limit:>12,.0f}{rate[OWN] / limit:>10.2f}",
                flush=True,
            )
            results.append(
                {"file": file, "block": block, "rate": rate, "all": found, "limit": limit}
            )
    print("    memory in MB: before, most in the first and second half (anonymous); peak RSS")
    for name in systems:
        if name != REFERENCE:
            most = args.peer_rows if name == SCDATASET else X.shape[0]
            held = memory(path, name, 64, most)
            numbers = " ".join(f"{value / 1e6:>10,.0f}" for value in held.values())
            print(f"    {name:<26}{numbers}", flush=True)
            results.append({"file": file, "system": name, "memory": held})
    path.unlink()


def print_expected(results, rows):
    rate = {(row["file"], row["block"]): row["rate"][OWN] for row in results if "block" in row}
    print(f"\nexpected on 2 cores, of 200,000 rows (this run: {rows:,})")
    for file, block, least in EXPECTED:
        if (file, block) in rate:
            verdict = "met" if rate[file, block] >= least else "MISSED"
            found = f"{rate[file, block]:,.0f}"
            print(f"    {file}, block {block}: at least {least:,} rows/s: {found}, {verdict}")


def run(args, folder):
    rng = np.random.default_rng(args.seed)
    about = {"machine": machine(), "versions": versions("deflate", "numcodecs", "scDataset")}
    for value in about.values():
        print(", ".join(f"{key} {item}" for key, item in value.items()))
    X = make_matrix(min(args.rows, DISTINCT), COLUMNS, STORED_PER_ROW, rng)
    if args.rows > DISTINCT:
        X = X[rng.integers(0, DISTINCT, args.rows)]
    nbytes = X.data.nbytes + X.indices.nbytes
    memcpy = memcpy_speed()
    print(
        f"{X.shape[0]:,} x {X.shape[1]:,}, {X.nnz / X.shape[0]:,.0f} stored a row ({X.data.dtype}, "
        f"{X.indices.dtype}), {nbytes / 1e6:,.0f} MB; batches of {BATCH:,} from buffers of "
        f"{BUFFER:,} rows; warm page cache"
    )
    print(f"memcpy in {diskcsr.options.num_threads} threads: {memcpy / 1e9:.1f} GB/s")
    args.scdataset = importlib.util.find_spec("scdataset") is not None
    if not args.scdataset:
        print("scDataset is not installed (PyPI: scDataset): left out")
    print(
        f"rows a second:\n{'    block':<14}{'diskcsr':>12}{'scipy':>12}{'scDataset':>12}"
        f"{'/scipy':>10}{'/scDataset':>12}{'limit':>12}{'of limit':>10}"
    )
    results, others = [], Others()
    for file in args.files:
        run_file(file, X, folder, args, memcpy, results)
    about |= {"busy_with_others": print_busy(others), "memcpy": memcpy, "results": results}
    print_expected(results, X.shape[0])
    return about


OPTIONS = {
    "--rows": count(200_000),
    "--blocks": {"type": int, "nargs": "+", "default": [1, 32, 64, 512]},
    "--files": some_of(FILES),
    "--repeats": count(5, "epochs"),
    "--peer-rows": count(2 * BUFFER, "of scDataset"),
    "--seed": SEED,
    "--threads": THREADS,
}


if __name__ == "__main__":
    script(run, __doc__, "2.5 GB", OPTIONS)
