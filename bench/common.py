"""What the benchmark scripts share: the matrix, the check of answers, taking turns, the machine."""

import os
import platform
import resource
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import PackageNotFoundError, version
from itertools import pairwise
from pathlib import Path

import h5py
import numpy as np
from scipy.sparse import csr_array, issparse

import diskcsr

ROWS, COLUMNS, STORED_PER_ROW = 60_000, 28_000, 1500
REFERENCE, OWN, PEER = "scipy in memory", "diskcsr", "anndata"

# The matrix


def make_matrix(n_rows, n_columns, mean_stored, rng):
    """Return a random csr_array with the proportions of single-cell counts.

    Row lengths are lognormal around `mean_stored`; a few columns are in nearly every row and most
    in few. Column j is stored in row i with odds ``scale[i] * weight[j]``, the scale being what
    makes the row's expected length right. Columns come out sorted, without duplicates.
    """
    spread = 0.3
    stored = mean_stored * rng.lognormal(-(spread**2) / 2, spread, n_rows)
    weight = rng.lognormal(0, 2, n_columns).astype(np.float32)
    grid = np.geomspace(1e-8, 1e8, 400)
    expected = [np.sum(s * weight / (1 + s * weight)) for s in grid]
    scale = np.exp(np.interp(stored, expected, np.log(grid))).astype(np.float32)

    lengths, indices = [], []
    for first in range(0, n_rows, 64):  # 64 rows of odds stay in the processor's cache
        odds = scale[first : first + 64, None] * weight
        present = rng.random(odds.shape, np.float32) * (1 + odds) < odds
        lengths.append(np.count_nonzero(present, axis=1))
        indices.append((np.flatnonzero(present) % n_columns).astype(np.int32))
    indptr = np.concatenate([[0], np.cumsum(np.concatenate(lengths))])
    indices = np.concatenate(indices)
    counts = np.minimum(rng.zipf(2.2, 1 << 16), 1024).astype(np.float32)
    data = counts[rng.integers(0, 1 << 16, indices.size, np.uint16)]
    index_dtype = np.int32 if indptr[-1] < 2**31 else np.int64
    return csr_array((data, indices, indptr.astype(index_dtype)), (n_rows, n_columns))


# Taking turns


def check(system, operation, got, expected):
    """Raise SystemExit unless `got` holds exactly the values of scipy's `expected`."""
    if issparse(expected):
        parts = []
        for matrix in (got, expected):
            matrix = csr_array(matrix, copy=True)
            matrix.sort_indices()
            parts.append((matrix.shape, matrix.indptr, matrix.indices, matrix.data))
        same = issparse(got) and all(map(np.array_equal, *parts))
    else:
        same = np.shape(got) == np.shape(expected) and got == expected
    if not same or got.dtype != expected.dtype:
        raise SystemExit(f"{system}: wrong answer to {operation}: {got!r}, not {expected!r}")


def turn(names, repeat, repeats, peer_repeats):
    """Return who is timed in this repeat, in an order that rotates.

    anndata takes seconds for some operations: a few repeats, spread over the others'.
    """
    names = list(names)
    first = repeat % len(names)
    now = names[first:] + names[:first]
    spare = repeat % max(1, repeats // max(1, peer_repeats))
    return [name for name in now if not (spare and name.startswith(PEER))]


def machine():
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        cpu = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        cpu = platform.processor() or platform.machine()
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return {
        "cpu": cpu,
        "cores": os.cpu_count(),
        "memory_bytes": memory,
        "system": platform.platform(),
        "diskcsr_threads": diskcsr.options.num_threads,
    }


def versions(*more):
    """Return {package: version}; of `more` than the ones always needed, None where not there."""
    found = {"python": platform.python_version(), "diskcsr": diskcsr.__version__}
    for name in ("h5py", "numpy", "scipy", "numba", "anndata", *more):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    return found | {"hdf5": h5py.version.hdf5_version}


class Others:
    """How many cores everything else on the machine kept busy since this was made (Linux).

    Two threads have little over one where another process computes: without this number a slow
    run cannot be told from slow software.
    """

    def __init__(self):
        self.start = self._seconds()

    @staticmethod
    def _seconds():
        try:
            first = Path("/proc/stat").read_text().splitlines()[0]
        except OSError:
            return None
        user, nice, system, _, _, irq, soft, steal = map(int, first.split()[1:9])
        busy = (user + nice + system + irq + soft + steal) / os.sysconf("SC_CLK_TCK")
        return time.perf_counter(), busy - sum(os.times()[:4])

    def cores(self):
        now = self._seconds()
        if now is None:
            return None
        return max(0.0, (now[1] - self.start[1]) / (now[0] - self.start[0]))


def peak_memory():
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # Linux counts in KiB


# Limits: what the hardware and the codecs give when nothing else is done


def in_threads(function, parts):
    """Return the seconds that `function` takes for all parts, as many threads as diskcsr has."""
    with ThreadPoolExecutor(diskcsr.options.num_threads) as pool:
        list(pool.map(function, parts[: diskcsr.options.num_threads]))  # threads started, warm
        start = time.perf_counter()
        list(pool.map(function, parts))
        return time.perf_counter() - start


def memcpy_speed(nbytes=1 << 28):
    """Bytes a second that all threads together copy within memory: the best of seven."""
    threads = diskcsr.options.num_threads
    source, target = np.ones(nbytes, np.uint8), np.ones(nbytes, np.uint8)
    edges = np.linspace(0, nbytes, threads + 1).astype(int)
    parts = [slice(a, b) for a, b in pairwise(edges)]

    def copy(part):
        target[part] = source[part]

    return nbytes / min(in_threads(copy, parts) for _ in range(7))


def codec_speed(file, group="X", sample=48):
    """What the codec of a file does with its chunks when nothing else is to be done.

    The compressor's own functions are given stored chunks that are in memory already, in as many
    threads as diskcsr has.

    Returns
    -------
    decode, encode : float or None
        Bytes of decoded chunks a second, the best of three; None of a file without a compressor.
    """
    from diskcsr.storage.filters import DECODERS, ENCODERS, SHUFFLE, pipeline_of

    jobs = []
    with h5py.File(file) as f:
        for name in ("data", "indices"):
            dset = f[group][name]
            pipeline = pipeline_of(dset)
            codecs = [filter for filter in pipeline.filters if filter.id != SHUFFLE]
            if len(codecs) != 1:
                return None, None
            count = dset.id.get_num_chunks()
            for number in np.unique(np.linspace(0, count - 1, sample).astype(int)).tolist():
                raw = dset.id.read_direct_chunk((number * pipeline.chunk,))[1]
                jobs.append((np.frombuffer(raw, np.uint8), codecs[0], pipeline.nbytes))
    space = threading.local()

    def decode(job):
        raw, codec, nbytes = job
        if getattr(space, "memory", np.empty(0)).size != nbytes:
            space.memory = np.empty(nbytes, np.uint8)
        return DECODERS[codec.id](raw, codec.cd, space.memory)

    decoded = [(decode(job).copy(), job[1]) for job in jobs]
    for values, _ in decoded:
        values.flags.writeable = False

    def encode(job):
        ENCODERS[job[1].id](job[0], job[1].cd)

    nbytes = sum(values.nbytes for values, _ in decoded)
    return tuple(
        nbytes / min(in_threads(function, parts) for _ in range(3))
        for function, parts in ((decode, jobs), (encode, decoded))
    )


def write_speed(folder, nbytes=1 << 28):
    """Bytes a second that one write() after the other puts into a new file of `folder`."""
    block = np.ones(1 << 22, np.uint8).tobytes()
    path = Path(folder, "plain-write")
    best = float("inf")
    for _ in range(3):
        start = time.perf_counter()
        with path.open("wb", buffering=0) as file:
            for _ in range(nbytes // len(block)):
                file.write(block)
        best = min(best, time.perf_counter() - start)
        path.unlink()
    return nbytes / best


def print_busy(others):
    """Print, and return, how many cores other processes kept busy."""
    cores = others.cores()
    if cores is not None:
        print(f"other processes kept {cores:.2f} cores busy meanwhile")
    return cores


def read_through(file):
    """Read a file once, so that it is in the page cache."""
    with open(file, "rb") as stream:
        while stream.read(1 << 24):
            pass
