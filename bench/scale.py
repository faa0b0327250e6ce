"""A matrix of a billion rows, on paper: constants that are measured here, and what follows.

``python bench/scale.py`` measures, in less than a minute: what a stored value
takes compressed, what reading the index of a chunk takes, what row pointers cost in a file with so
many rows (its values are a hole in the file), what an order of rows takes, and what a task of a
scheduler costs where Dask is installed. Then it multiplies, for ``--rows`` and ``--values``.
"""

import argparse
import tempfile
import time
import tracemalloc
from importlib.util import find_spec
from pathlib import Path

import h5py
import numpy as np
from common import make_matrix

import diskcsr
from diskcsr.machine.options import format_bytes

#: Bytes of a stored value and its index, and of a row pointer.
STORED, POINTER = 8, 8
#: Elements of a chunk that `diskcsr.write` takes, and of longer ones.
CHUNKS = (1 << 16, 1 << 20)
#: Bytes of a block that a task works on.
BLOCK = 64 << 20


def timed(work):
    """Return how many seconds something takes."""
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def peak(work):
    """Return the most memory of Python's that something takes; it is slower meanwhile."""
    tracemalloc.start()
    work()
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return most


# ------------------------------------------------------------------------------------ constants


def compressed(folder):
    """Bytes of a stored value, index included, of gene counts as gzip leaves them."""
    matrix = make_matrix(4000, 20_000, 1000, np.random.default_rng(0))
    path = folder / "counts.h5"
    diskcsr.write(path, matrix, compression="gzip").close()
    return path.stat().st_size / matrix.nnz


def seconds_a_chunk(folder, count):
    """Seconds to learn where a chunk lies, and bytes that is kept in: of a file with many."""
    path = folder / "chunks.h5"
    matrix = make_matrix(2000, 4000, count * 64 // 2000, np.random.default_rng(0))
    diskcsr.write(path, matrix, compression="lzf", chunks=64).close()
    with diskcsr.open(path) as A:
        chunks = -(-A.nnz // 64)
        seconds = timed(lambda: (A.reader["data"], A.reader["indices"]))
    with diskcsr.open(path) as A:
        most = peak(lambda: A.reader["data"])
    return seconds / (2 * chunks), most / chunks, chunks


def hollow(path, rows, a_row):
    """Make a file with real row pointers; its values are a hole, and so take no disk."""
    early = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    early.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    early.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    with h5py.File(path, "w") as file:
        group = file.create_group("X")
        group.attrs["h5sparse_format"], group.attrs["h5sparse_shape"] = "csr", (rows, 60_000)
        for name, kind in (("data", h5py.h5t.NATIVE_FLOAT), ("indices", h5py.h5t.NATIVE_INT32)):
            space = h5py.h5s.create_simple((rows * a_row,))
            h5py.h5d.create(group.id, name.encode(), kind, space, early)
        pointers = group.create_dataset("indptr", (rows + 1,), "i8")
        for first in range(0, rows + 1, 1 << 22):
            last = min(first + (1 << 22), rows + 1)
            pointers[first:last] = np.arange(first, last) * a_row
    return path


def row_pointers(folder, rows, a_row):
    """What random rows of a file with so many cost while the row pointers are not read whole."""
    path = hollow(folder / "hollow.h5", rows, a_row)
    rng = np.random.default_rng(0)
    few = rng.integers(rows, size=1024)
    with diskcsr.open(path) as A:
        A.fetch(few)  # compiles
    with diskcsr.open(path) as A:
        opened = timed(lambda: A.shape)
        first = timed(lambda: A.fetch(few))
        read = A.reader["indptr"].bytes_read
        whole = timed(lambda: A.indptr)
        later = timed(lambda: A.fetch(rng.integers(rows, size=1024)))
    with diskcsr.open(path) as A:
        most = peak(lambda: A.fetch(few))
    path.unlink()
    return opened, first, read, most, whole, later


def order(rows):
    """Seconds and bytes a row that a shuffled order of rows takes."""
    rng = np.random.default_rng(0)
    seconds = timed(lambda: rng.permutation(rows))
    return seconds / rows, peak(lambda: rng.permutation(rows)) / rows


def seconds_a_task(count=1000):
    """What a task costs that does nothing, of Dask's scheduler in one process and of workers."""
    if find_spec("distributed") is None:
        return None
    import dask
    from distributed import Client, LocalCluster

    def run(get):
        tasks = [dask.delayed(abs)(number) for number in range(count)]
        begun = time.perf_counter()
        get(*tasks)
        return (time.perf_counter() - begun) / count

    threads = run(lambda *tasks: dask.compute(*tasks, scheduler="threads"))
    with (
        tempfile.TemporaryDirectory() as folder,
        dask.config.set(temporary_directory=folder),
        LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=None) as cluster,
        Client(cluster),
    ):
        run(dask.compute)
        return threads, run(dask.compute)


# --------------------------------------------------------------------------------- a simulation


def simulate(extents, nbytes, latency, bandwidth, connections):
    """Seconds until so many extents have come: each waits its turn, and then shares the line."""
    free = np.zeros(min(connections, extents))
    line = 0.0
    for _ in range(extents):
        at = int(free.argmin())
        line = max(line, free[at] + latency) + nbytes / bandwidth
        free[at] = line
    return line


def epochs(rows, a_row, latency=0.02, bandwidth=125e6, connections=64):
    """Rows a second, and hours an epoch, of buffers of 16,384 rows from a server, by block size."""
    for block in (1, 16, 64, 512):
        extents = 2 * 16_384 // block
        seconds = simulate(extents, block * a_row * 4, latency, bandwidth, connections)
        a_second = 16_384 / seconds
        yield block, a_second, rows / a_second / 3600


# -------------------------------------------------------------------------------------- on paper


def show(name, value, source=""):
    print(f"    {name:<52}{value:>16}  {source}".rstrip(), flush=True)


def size(nbytes):
    return format_bytes(nbytes)


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=float, default=1e9)
    parser.add_argument("--values", type=float, default=1e12)
    parser.add_argument("--measured-rows", type=float, default=1e7, help="of the file with a hole")
    parser.add_argument("--measured-chunks", type=int, default=10_000)
    parser.add_argument("--parts", type=int, default=1000, help="files")
    parser.add_argument("--columns", type=int, default=60_000)
    args = parser.parse_args(argv)
    rows, values, measured = args.rows, args.values, int(args.measured_rows)
    print("Measured", flush=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        gzip = compressed(folder)
        show("a stored value of counts, gzip", f"{gzip:.2f} B", "4,000 x 20,000, index included")
        a_chunk, kept, chunks = seconds_a_chunk(folder, args.measured_chunks)
        show("place of a chunk, learned", f"{a_chunk * 1e6:.2f} us", f"{chunks:,} chunks an array")
        show("place of a chunk, at the peak", f"{kept:.0f} B")
        opened, first, read, most, whole, later = row_pointers(folder, measured, 10)
        show(f"open a file of {measured:,} rows", f"{opened * 1e3:.1f} ms")
        show(
            "first 1,024 random rows of it", f"{first * 1e3:.1f} ms", f"{read:,} B of pointers read"
        )
        show("memory of that, at the peak", size(most))
        show("all row pointers, on demand", f"{whole:.2f} s", size(POINTER * measured))
        show("1,024 random rows then", f"{later * 1e3:.1f} ms")
    seconds_a_row, bytes_a_row = order(measured)
    show("a shuffled order, a row", f"{bytes_a_row:.1f} B", f"{seconds_a_row * 1e9:.1f} ns")
    task = seconds_a_task()
    if task:
        show("a task, threads of one process", f"{task[0] * 1e6:.0f} us", "Dask, does nothing")
        show("a task, a worker process", f"{task[1] * 1e6:.0f} us", "Dask, does nothing")

    print(f"\nOn paper: {rows:,.0f} rows, {values:,.0f} values of float32, indices of int32")
    show("file, uncompressed", size(STORED * values + POINTER * rows))
    show("file, gzip", size(gzip * values + POINTER * rows))
    show(f"each of {args.parts:,} files, uncompressed", size(STORED * values / args.parts))
    show("row pointers", size(POINTER * rows))
    show("row pointers, each file", size(POINTER * rows / args.parts))
    show("rows fetched one by one until all are read", f"{POINTER * rows / 4096:,.0f}")
    for chunk in CHUNKS:
        count = values / chunk
        show(f"chunks of {chunk:,}, an array", f"{count:,.0f}")
        show("  their places: time, both arrays", f"{2 * count * a_chunk:,.0f} s")
        show("  their places: memory, both arrays", size(2 * count * kept))
        show("  their places, each file", f"{2 * count * a_chunk / args.parts:,.2f} s")
    show("a shuffled order of all rows", size(bytes_a_row * rows), f"{seconds_a_row * rows:,.0f} s")
    show("a shuffled order of blocks of 64, were it that", size(bytes_a_row * rows / 64))
    tasks = STORED * values / BLOCK
    show(f"tasks a pass, blocks of {BLOCK >> 20} MiB", f"{tasks:,.0f}")
    if task:
        show("  their cost to the scheduler", f"{tasks * task[1]:,.0f} s")
        show("  of one task a file", f"{args.parts * task[1]:,.2f} s")
    partial = 8 * args.columns
    show(f"column sums ({args.columns:,} columns): a state", size(partial))
    show("  sent, a state a block", size(tasks * partial))
    show("  sent, a state a file", size(args.parts * partial))
    for gbit in (1, 10, 100):
        seconds = STORED * values / (gbit * 1e9 / 8)
        show(f"a pass over a line of {gbit} Gbit/s", f"{seconds / 3600:,.1f} h", "uncompressed")

    print(
        "\nSimulated: buffers of 16,384 random rows from a server, 20 ms, 1 Gbit/s, 64 connections"
    )
    for block, a_second, hours in epochs(rows, values / rows):
        show(
            f"blocks of {block}", f"{a_second:,.0f} rows/s", f"{hours:,.0f} h an epoch, one reader"
        )


if __name__ == "__main__":
    main()
