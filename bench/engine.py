"""The read engine against anndata and scipy in memory, on compressed files, with limits beside.

    python bench/engine.py [--files NAME ...] [--operations NAME ...] [--scale S] [--json OUT]

The matrix is made here (60,000 x 28,000, about 90 million stored values, 720 MB). For each
kind of file diskcsr.write and h5py write the same arrays with the same filters and chunks, which
is timed; then diskcsr and anndata.io.sparse_dataset read the file that diskcsr wrote, and scipy
indexes the matrix in memory. Answers are compared before anything is timed, keys are fresh in each
repeat and the same for all, systems take turns. Files are in the page cache; one line is of random
rows with the page cache dropped, where the system permits that.

A part of the decoded chunks is kept between calls, as diskcsr does by default (64 MiB), so a time
may lie below its limit. Of raw files the first calls read, and map the pages they saw, which later
calls copy from: the first calls are therefore a line of their own.

Beside each time stands its limit: copying the result's bytes once with all threads (raw), or
decoding each touched chunk of both arrays once, at the speed the codec has on chunks of this very
file in as many threads, plus that copy. Writing is held against encoding all chunks so (compressed)
or one plain write of the bytes (raw).
"""

import ctypes
import gc
import mmap
import os
import statistics
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
    PEER,
    REFERENCE,
    ROWS,
    SCALE,
    SEED,
    STORED_PER_ROW,
    THREADS,
    Others,
    check,
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
    write_speed,
)

WRITE = "write"
FIRST = "first calls"
FIRST_CALLS = 16
COLD = "random rows, cold"


def random_rows(rng, n):
    return rng.choice(n, min(1024, n), replace=False)


def runs_of_rows(rng, n):
    starts = rng.choice(max(1, n - 64), min(16, max(1, n - 64)), replace=False)
    return np.minimum(starts[:, None] + np.arange(64), n - 1).reshape(-1)


def random_mask(rng, n):
    mask = np.zeros(n, bool)
    mask[rng.choice(n, max(1, n // 50), replace=False)] = True
    return mask


def everything(rng, n):
    return None


OPERATIONS = {
    "random rows": ("1,024 random rows", random_rows),
    "runs": ("16 runs of 64 rows", runs_of_rows),
    "mask": ("2 % boolean mask", random_mask),
    "full load": ("full load", everything),
}

#: What h5py is told, and what diskcsr.write is told, to store the same.
FILES = {
    "raw": ({}, {}),
    "gzip": (
        {"compression": "gzip", "compression_opts": 4},
        {"compression": "gzip", "compression_opts": 4, "shuffle": False},
    ),
    "gzip+shuffle": (
        {"compression": "gzip", "compression_opts": 4, "shuffle": True},
        {"compression": "gzip", "compression_opts": 4},
    ),
    "lzf": ({"compression": "lzf"}, {"compression": "lzf", "shuffle": False}),
    "zstd": ({"shuffle": True, "plugin": "zstd"}, {"compression": "zstd"}),
    "blosc-lz4": ({"plugin": "blosc"}, {"compression": "blosc"}),
    "gzip+shuffle, h5py's chunks": (
        {"compression": "gzip", "compression_opts": 4, "shuffle": True, "chunks": True},
        None,
    ),
}
CHUNK = 65_536

# What the issue asks for at full size: file, operation, against whom, at most this time ratio.
EXPECTED = [
    ("raw", "random rows", REFERENCE, 1.1),
    ("gzip+shuffle", "random rows", PEER, 1 / 8),
    ("gzip+shuffle", "full load", PEER, 1 / 4),
    ("gzip", WRITE, "h5py", 1 / 4),
    ("gzip+shuffle", WRITE, "h5py", 1 / 4),
    ("raw", COLD, PEER, 1 / 3),
]


# Writing


def plugin_options(keywords):
    """Return h5py's keywords, those of a plugin filter filled in; None without hdf5plugin."""
    keywords = dict(keywords)
    plugin = keywords.pop("plugin", None)
    if plugin is None:
        return keywords
    try:
        import hdf5plugin
    except ImportError:
        return None
    if plugin == "zstd":
        return keywords | dict(hdf5plugin.Zstd(clevel=3))
    return keywords | dict(hdf5plugin.Blosc(cname="lz4", clevel=5, shuffle=1))


def write_with_h5py(path, X, keywords):
    """Write what diskcsr.write writes, as AnnData and others do: dataset by dataset."""
    chunks = keywords.get("chunks", CHUNK)
    with h5py.File(path, "w") as f:
        group = f.create_group("X")
        group.attrs.update({"encoding-type": "csr_matrix", "encoding-version": "0.1.0"})
        group.attrs["shape"] = X.shape
        for name in ("data", "indices", "indptr"):
            values = getattr(X, name)
            length = chunks if chunks is True else (min(chunks, values.size),)
            group.create_dataset(
                name, data=values, maxshape=(None,), **keywords | {"chunks": length}
            )


def time_writes(file, X, folder, repeats):
    """Write a file with diskcsr and with h5py, in turns; keep one.

    Returns
    -------
    path : Path
        What diskcsr wrote; what h5py wrote, where the layout is h5py's own.
    seconds : dict
        Of each repeat, by system.
    """
    theirs, ours = FILES[file]
    theirs = plugin_options(theirs)
    kept, other = Path(folder, "kept.h5"), Path(folder, "other.h5")

    def own(path):
        diskcsr.write(path, X, chunks=CHUNK, **ours).close()

    def h5(path):
        write_with_h5py(path, X, theirs)

    writers = {}
    if ours is not None:
        writers[OWN] = own, kept
    if theirs is not None:
        writers["h5py"] = h5, (kept if ours is None else other)
    seconds = {name: [] for name in writers}
    for repeat in range(repeats):
        for name in turn(writers, repeat, repeats, repeats):
            writer, path = writers[name]
            path.unlink(missing_ok=True)
            os.sync()  # what was written before must not be flushed on this one's time
            start = time.perf_counter()
            writer(path)
            seconds[name].append(time.perf_counter() - start)
    other.unlink(missing_ok=True)
    return kept, seconds


# Reading


def open_peer(path):
    """Return (h5py.File, anndata's handle), or None when anndata cannot decode the file."""
    from anndata.io import sparse_dataset

    f = h5py.File(path)
    filters = [
        f["X"][name].id.get_create_plist().get_filter(i)[0]
        for name in ("data", "indices")
        for i in range(f["X"][name].id.get_create_plist().get_nfilters())
    ]
    if not all(h5py.h5z.filter_avail(number) for number in filters):
        f.close()
        return None
    return f, sparse_dataset(f["X"])


def readers(X, A, B):
    """Return {system: function of a key}; None as key is the full load."""
    found = {
        REFERENCE: lambda key: X.copy() if key is None else X[key],
        OWN: lambda key: A.to_memory() if key is None else A[key],
    }
    if B is not None:
        found[PEER] = lambda key: B.to_memory() if key is None else B[key]
    return found


def touched_bytes(X, key, chunk):
    """Bytes of the decoded chunks, of both arrays, that the rows of `key` lie in."""
    size = X.data.itemsize + X.indices.itemsize
    if key is None:
        return -(-X.nnz // chunk) * chunk * size
    rows = np.flatnonzero(key) if key.dtype == bool else np.unique(key)
    starts, stops = X.indptr[rows].astype(np.int64), X.indptr[rows + 1].astype(np.int64)
    edge = np.zeros(-(-X.nnz // chunk) + 1, np.int64)
    some = stops > starts
    np.add.at(edge, starts[some] // chunk, 1)
    np.add.at(edge, (stops[some] - 1) // chunk + 1, -1)
    return int(np.count_nonzero(np.cumsum(edge)[:-1])) * chunk * size


def measure(systems, operation, X, rng, args, limit):
    """Time one operation on one file.

    Returns
    -------
    seconds : dict
        Of each repeat, by system.
    limit : float
        Mean limit, in seconds.
    first : dict
        As `seconds`: of the first calls after opening, where those were kept apart.
    """
    draw = OPERATIONS[operation][1]
    key = draw(rng, X.shape[0])
    expected = systems[REFERENCE](key)
    for name, function in systems.items():
        check(name, operation, function(key), expected)
    del expected
    if operation == "random rows":
        first = {OWN: [timed(systems[OWN], draw(rng, X.shape[0])) for _ in range(FIRST_CALLS)]}
    else:
        first = {}
    repeats = args.repeats if operation != "full load" else min(args.repeats, args.load_repeats)
    seconds, limits = {name: [] for name in systems}, []
    for repeat in range(repeats):
        key = draw(rng, X.shape[0])
        limits.append(limit(key))
        for name in turn(systems, repeat, repeats, args.peer_repeats):
            seconds[name].append(timed(systems[name], key))
    return seconds, statistics.mean(limits), first


def timed(function, key):
    """Return how long a call takes, in seconds."""
    start = time.perf_counter()
    function(key)
    return time.perf_counter() - start


def cached_share(path):
    """Which share of a file is in the page cache: mincore(2)."""
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as mapped:
        pages = np.zeros(-(-len(mapped) // mmap.PAGESIZE), np.uint8)
        address = np.frombuffer(mapped, np.uint8).ctypes.data
        mincore = ctypes.CDLL(None, use_errno=True).mincore
        mincore.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p]
        if mincore(address, len(mapped), pages.ctypes.data):
            raise OSError(ctypes.get_errno(), "mincore")
        return float((pages & 1).mean())


def drop_cached(path):
    """Drop a file from the page cache; whether that worked."""
    try:
        with open(path, "rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        return cached_share(path) < 0.02
    except (AttributeError, OSError):
        return False


def measure_cold(path, X, rng, args):
    """Time random rows right after the page cache was dropped; None where it cannot be."""

    def own(key):
        with diskcsr.open(path, "X") as A:
            if not drop_cached(path):
                return None
            start = time.perf_counter()
            A[key]
            return time.perf_counter() - start

    def peer(key):
        f, B = open_peer(path)
        with f:
            if not drop_cached(path):
                return None
            start = time.perf_counter()
            B[key]
            return time.perf_counter() - start

    systems = {OWN: own, PEER: peer}
    gc.collect()  # pages in a memory map that is still there stay cached
    seconds = {name: [] for name in systems}
    for repeat in range(max(2, args.peer_repeats)):
        key = random_rows(rng, X.shape[0])
        for name in turn(systems, repeat, 1, 1):
            seconds[name].append(systems[name](key))
    read_through(path)
    return None if None in seconds[OWN] + seconds[PEER] else seconds


# Running it


def show(results, file, title, seconds, limit, kind):
    """Print one line, and keep it."""
    median = {name: statistics.median(taken) for name, taken in seconds.items() if taken}
    own, scipy = median.get(OWN), median.get(REFERENCE)
    peer_name = "h5py" if kind == WRITE else PEER
    peer = median.get(peer_name)

    def ms(value):
        return "n/a" if value is None else f"{1e3 * value:,.1f}"

    def ratio(value, other):
        return "n/a" if value is None or other is None else f"{value / other:.2f}"

    print(
        f"    {title:<24}{ms(own):>10}{ms(scipy):>10}{ms(peer):>11}{ratio(own, scipy):>9}"
        f"{ratio(peer, own):>9}{ms(limit):>10}{ratio(own, limit):>9}"
        f"{'/'.join(str(len(taken)) for taken in seconds.values()):>11}",
        flush=True,
    )
    results.append(
        {
            "file": file,
            "operation": kind,
            "median_s": median,
            "all_s": seconds,
            "limit_s": limit,
        }
    )


def read_file(file, path, X, rng, args, speeds, codec, results):
    """Read one file with all systems, and print its lines; `codec` is its speed and chunk."""
    decode, chunk = codec
    with diskcsr.open(path, "X") as A:
        opened = open_peer(path)

        def limit(key):
            nnz = X.nnz if key is None else int(np.diff(X.indptr)[key].sum())
            copy = nnz * (X.data.itemsize + X.indices.itemsize) / speeds["memcpy"]
            return copy if decode is None else copy + touched_bytes(X, key, chunk) / decode

        systems = readers(X, A, opened and opened[1])
        for operation in args.operations:
            if operation in OPERATIONS:
                taken, least, first = measure(systems, operation, X, rng, args, limit)
                if first and decode is None:
                    show(results, file, "(its first calls)", first, least, FIRST)
                show(results, file, OPERATIONS[operation][0], taken, least, operation)
        if opened:
            opened[0].close()


def run_file(file, X, folder, rng, args, speeds, results):
    """Write one kind of file, read it with all systems, and print its part of the table."""
    path, seconds = time_writes(file, X, folder, args.write_repeats)
    nbytes = X.data.nbytes + X.indices.nbytes
    decode, encode = codec_speed(path)
    codec = ""
    if decode is not None:
        codec = f"; its codec alone decodes {decode / 1e9:.2f}, encodes {encode / 1e9:.2f} GB/s"
    read_through(path)
    with diskcsr.open(path, "X") as A, h5py.File(path) as f:
        chunk, by = f["X/data"].chunks[0], A.reader["data"].name
    size = path.stat().st_size
    print(f"{file}: {size / 1e6:,.0f} MB, chunks of {chunk:,}, reader {by!r}{codec}")
    read_file(file, path, X, rng, args, speeds, (decode, chunk), results)
    if WRITE in args.operations and OWN in seconds:
        least = nbytes / (speeds["write"] if encode is None else encode)
        show(results, file, "write (against h5py)", seconds, least, WRITE)
    if file == "raw" and args.cold and "random rows" in args.operations:
        cold = measure_cold(path, X, rng, args)
        if cold is None:
            print("    the page cache cannot be dropped here: no cold figures")
        else:
            show(results, file, "1,024 random rows, cold", cold, None, COLD)
    path.unlink()


def print_expected(results, scale):
    median = {(row["file"], row["operation"]): row["median_s"] for row in results}
    print("\nexpected at full size" + (f" (this run: {scale:g} of it)" if scale != 1 else ""))
    for file, operation, against, most in EXPECTED:
        found = median.get((file, operation), {})
        if against not in found or OWN not in found:
            continue
        ratio = found[OWN] / found[against]
        wanted = f"{most:g} x" if most > 1 else f"1/{1 / most:g} of"
        measured = f"{ratio:.3f} x" if most > 1 else f"1/{1 / ratio:.1f}"
        verdict = "met" if ratio <= most else "MISSED"
        print(f"    {file}, {operation}: at most {wanted} {against}: {measured}, {verdict}")


def run(args, folder):
    rng = np.random.default_rng(args.seed)
    X = make_matrix(max(100, round(ROWS * args.scale)), COLUMNS, STORED_PER_ROW, rng)
    packages = ("deflate", "numcodecs", "hdf5plugin")
    about = {"machine": machine(), "versions": versions(*packages)}
    for value in about.values():
        print(", ".join(f"{key} {item}" for key, item in value.items()))
    try:
        import hdf5plugin  # noqa: F401  (registers the filters that anndata needs)
    except ImportError:
        print("hdf5plugin is not installed: nothing to compare zstd and blosc with")
    nbytes = X.data.nbytes + X.indices.nbytes
    print(
        f"{X.shape[0]:,} x {X.shape[1]:,}, {X.nnz:,} stored values ({X.data.dtype}, "
        f"{X.indices.dtype}), {nbytes / 1e6:,.0f} MB"
    )
    speeds = {"memcpy": memcpy_speed(), "write": write_speed(folder)}
    print(
        f"limits: memcpy in {diskcsr.options.num_threads} threads {speeds['memcpy'] / 1e9:.1f} GB/s"
        f", plain write {speeds['write'] / 1e9:.2f} GB/s"
    )
    print(
        f"chunks of {CHUNK:,} elements, which is also the default: one table serves both. Medians, "
        "ms, warm page cache,\nfresh random keys each repeat, systems in turns. 'limit' is what "
        "memory and codec alone would take."
    )
    print(
        f"\n{'':28}{'diskcsr':>10}{'scipy':>10}{'anndata':>11}{'/scipy':>9}{'anndata/':>9}"
        f"{'limit':>10}{'/limit':>9}{'repeats':>11}"
    )
    results, others = [], Others()
    for file in args.files:
        run_file(file, X, folder, rng, args, speeds, results)
    print()
    about |= {
        "matrix": {"shape": X.shape, "stored": X.nnz, "bytes": nbytes, "seed": args.seed},
        "limits": speeds,
        "busy_with_others": print_busy(others),
        "results": results,
    }
    print_expected(results, args.scale)
    return about


OPTIONS = {
    "--files": some_of(FILES),
    "--operations": some_of([*OPERATIONS, WRITE]),
    "--repeats": count(31),
    "--load-repeats": count(5, "of full loads, at most"),
    "--peer-repeats": count(3, "of anndata's, at least"),
    "--write-repeats": count(3),
    "--no-cold": {"dest": "cold", "action": "store_false", "help": "leave out cold reads"},
    "--scale": SCALE,
    "--seed": SEED,
    "--threads": THREADS,
}


if __name__ == "__main__":
    script(run, __doc__, "2 GB", OPTIONS, needs=("anndata",))
