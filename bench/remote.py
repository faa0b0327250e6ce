"""Random rows of a file on a server: time beside the lower bound, requests and bytes.

``python bench/remote.py`` stores a matrix, serves it by a process of its own at a latency and a
bandwidth, and fetches fresh random rows: the lower bound is one latency, and the touched bytes at
that bandwidth. Requests that go over a number of connections take as many
latencies as turns: that bound is told, too. Beside it h5py reads the same rows, sorted, over a file
of fsspec's with its block cache. Answers are compared with scipy's.
"""

import argparse
import contextlib
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import fsspec
import h5py
import numpy as np
from common import make_matrix
from scipy.sparse import csr_array

import diskcsr

SERVER = Path(__file__).with_name("webserver.py")
LAYOUTS = {
    "raw": {"compression": "raw"},
    "gzip, chunks of 65,536": {"compression": "gzip"},
    "gzip, chunks of 8,192": {"compression": "gzip", "chunks": 1 << 13},
}
#: Of fsspec's block cache: its own block size, and a smaller one.
BLOCKS = (5 << 20, 1 << 16)


@contextlib.contextmanager
def served(path, latency, bandwidth):
    """Serve a file; give its URL, and a function that returns requests and bytes since asked."""
    command = [sys.executable, str(SERVER), str(path), "--latency", str(latency)]
    server = subprocess.Popen(
        [*command, "--bandwidth", str(bandwidth)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )

    def counted():
        server.stdin.write("count\n")
        server.stdin.flush()
        return tuple(map(int, server.stdout.readline().split()))

    try:
        yield server.stdout.readline().strip(), counted
    finally:
        server.stdin.close()
        server.wait()


def touched(path, rows):
    """Bytes of the chunks that rows lie in; of uncompressed data those of the rows."""
    total = 0
    with h5py.File(path) as file:
        indptr = file["X/indptr"][:]
        for name in ("data", "indices"):
            dset = file[f"X/{name}"]
            if dset.compression is None:
                total += int((indptr[rows + 1] - indptr[rows]).sum()) * dset.dtype.itemsize
                continue
            chunk, stored = dset.chunks[0], {}
            dset.id.chunk_iter(lambda info, s=stored: s.update({info.chunk_offset[0]: info.size}))
            wanted = {
                number * chunk
                for row in rows.tolist()
                for number in range(indptr[row] // chunk, (indptr[row + 1] - 1) // chunk + 1)
            }
            total += sum(stored[first] for first in wanted)
    return total


def check(got, expected):
    got, expected = csr_array(got), csr_array(expected)
    if got.shape != expected.shape or (got != expected).nnz:
        raise SystemExit("a wrong answer")


def by_h5py(url, rows, block):
    """Fetch sorted rows with h5py over a file of fsspec's."""
    with (
        fsspec.open(url, block_size=block, cache_type="blockcache").open() as through,
        h5py.File(through, "r") as file,
    ):
        group = file["X"]
        indptr = group["indptr"][:]
        parts = [
            (
                group["data"][indptr[row] : indptr[row + 1]],
                group["indices"][indptr[row] : indptr[row + 1]],
            )
            for row in rows.tolist()
        ]
        shape = (rows.size, int(group.attrs["shape"][1]))
    lengths = np.append(0, np.cumsum([part.size for part, _ in parts]))
    data, indices = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    return csr_array((data, indices, lengths), shape)


def show(name, seconds, bound, requests, nbytes, wanted):
    print(
        f"{name:<26}{seconds:>9.3f} s {seconds / bound:>7.2f}  {requests:>8,} "
        f"{nbytes / 1e6:>9.1f} MB {nbytes / wanted:>6.2f}",
        flush=True,
    )


def measure(path, matrix, name, args, rng):
    bandwidth = args.gbit * 1e9 / 8
    diskcsr.options.remote_latency, diskcsr.options.remote_bandwidth = args.latency, bandwidth
    with served(path, args.latency, bandwidth) as (url, counted):
        begun = time.perf_counter()
        A = diskcsr.open(url, "X")
        _ = A.shape
        opened = time.perf_counter() - begun
        open_cost = counted()
        _ = A.indptr, A.reader
        index_cost = counted()
        runs = []
        for _ in range(args.repeats):
            rows = rng.choice(matrix.shape[0], args.rows, replace=False)
            diskcsr.cache.clear()
            begun = time.perf_counter()
            got = A.fetch(rows)
            seconds = time.perf_counter() - begun
            check(got, matrix[rows])
            wanted = touched(path, rows)
            runs.append((seconds, args.latency + wanted / bandwidth, *counted(), wanted))
        A.close()
        print(
            f"\n{name}: file {path.stat().st_size / 1e6:,.0f} MB; opened in {opened:.3f} s by "
            f"{open_cost[0]} requests ({open_cost[1]:,} bytes), row pointers and chunk indexes by "
            f"{index_cost[0]} more ({index_cost[1]:,})"
        )
        median = sorted(runs)[len(runs) // 2]
        bound = statistics.median(run[1] for run in runs)
        print(
            f"{'':<26}{'time':>11} {'/ bound':>7}  {'requests':>8} {'bytes':>12} {'/ touched':>6}"
        )
        print(f"{'lower bound':<26}{bound:>9.3f} s")
        turns = -(-median[2] // diskcsr.options.remote_connections) * args.latency
        both = turns + median[4] / bandwidth
        print(f"{'of so many connections':<26}{both:>9.3f} s {both / bound:>7.2f}")
        show("diskcsr, again and again", *median)
        rows = np.sort(rows)
        for block in () if args.no_peer else BLOCKS:
            begun = time.perf_counter()
            got = by_h5py(url, rows, block)
            seconds = time.perf_counter() - begun
            check(got, matrix[rows])
            wanted = touched(path, rows)
            label = f"h5py, blocks of {block >> 10} KiB"
            show(label, seconds, args.latency + wanted / bandwidth, *counted(), wanted)


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", type=int, nargs=2, default=(40_000, 20_000))
    parser.add_argument("--stored", type=int, default=1000, help="values a row")
    parser.add_argument("--rows", type=int, default=1024)
    parser.add_argument("--latency", type=float, default=0.02, help="seconds")
    parser.add_argument("--gbit", type=float, default=1.0, help="a second")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--no-peer", action="store_true")
    parser.add_argument("--layout", choices=LAYOUTS, action="append")
    args = parser.parse_args(argv)
    rng = np.random.default_rng(0)
    matrix = make_matrix(*args.shape, args.stored, rng)
    print(
        f"{args.rows:,} of {matrix.shape[0]:,} rows, {matrix.nnz:,} stored values of float32; "
        f"latency {args.latency * 1e3:g} ms, {args.gbit:g} Gbit/s, "
        f"{diskcsr.options.remote_connections} connections"
    )
    with tempfile.TemporaryDirectory() as folder:
        for name in args.layout or LAYOUTS:
            path = Path(folder, "m.h5")
            diskcsr.write(path, matrix, **LAYOUTS[name]).close()
            measure(path, matrix, name, args, rng)
            path.unlink()


if __name__ == "__main__":
    main()
