"""What is measured on: the machine, the versions, and the speeds that nothing can beat."""

import os
import platform
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import PackageNotFoundError, version
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

import diskcsr
from diskcsr.storage.files.files import open_to_read
from diskcsr.storage.files.transactions import hdf5_version

__all__ = [
    "Others",
    "codec_speed",
    "in_threads",
    "machine",
    "memcpy_speed",
    "versions",
    "write_speed",
]


def machine() -> dict[str, Any]:
    """Describe the processor, the memory and the system."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        cpu = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        cpu = platform.processor() or platform.machine()
    return {
        "cpu": cpu,
        "cores": os.cpu_count(),
        "memory_bytes": os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
        "system": platform.platform(),
        "diskcsr_threads": diskcsr.options.num_threads,
    }


class Others:
    """How many cores everything else on the machine kept busy since this was made (Linux).

    Two threads have little over one where another process computes: without this number a slow
    run cannot be told from slow software.
    """

    def __init__(self) -> None:
        self.start = self._seconds()

    @staticmethod
    def _seconds() -> tuple[float, float] | None:
        try:
            first = Path("/proc/stat").read_text().splitlines()[0]
        except OSError:
            return None
        user, nice, system, _, _, irq, soft, steal = map(int, first.split()[1:9])
        busy = (user + nice + system + irq + soft + steal) / os.sysconf("SC_CLK_TCK")
        return time.perf_counter(), busy - sum(os.times()[:4])

    def cores(self) -> float | None:
        """Return the number; None where the system does not tell."""
        now = self._seconds()
        if now is None or self.start is None:
            return None
        return max(0.0, (now[1] - self.start[1]) / (now[0] - self.start[0]))


def versions(*more: str) -> dict[str, str | None]:
    """Return {package: version}; of `more` than the ones always needed, None where not there."""
    found: dict[str, str | None] = {
        "python": platform.python_version(),
        "diskcsr": diskcsr.__version__,
    }
    for name in ("h5py", "numpy", "scipy", "numba", "anndata", *more):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    return found | {"hdf5": hdf5_version()}


def in_threads(function: Callable[[Any], Any], parts: list) -> float:
    """Return the seconds that `function` takes for all parts, as many threads as diskcsr has."""
    with ThreadPoolExecutor(diskcsr.options.num_threads) as pool:
        list(pool.map(function, parts[: diskcsr.options.num_threads]))  # threads started, warm
        start = time.perf_counter()
        list(pool.map(function, parts))
        return time.perf_counter() - start


def memcpy_speed(nbytes: int = 1 << 28) -> float:
    """Bytes a second that all threads together copy within memory: the best of seven."""
    threads = diskcsr.options.num_threads
    source, target = np.ones(nbytes, np.uint8), np.ones(nbytes, np.uint8)
    edges = np.linspace(0, nbytes, threads + 1).astype(int)
    parts = [slice(a, b) for a, b in pairwise(edges)]

    def copy(part: slice) -> None:
        target[part] = source[part]

    return nbytes / min(in_threads(copy, parts) for _ in range(7))


def _stored_chunks(group: Any, names: tuple[str, ...], sample: int) -> list | None:
    """Return (stored chunk, codec, client data, decoded bytes) of a sample.

    None where there is not one codec, or where it is not both decoded and encoded here.
    """
    from diskcsr.storage.codecs.pipeline import pipeline_of
    from diskcsr.storage.codecs.shuffle import CODEC as SHUFFLE
    from diskcsr.storage.codecs.table import CODECS

    jobs = []
    for name in names:
        dset = group[name]
        pipeline = pipeline_of(dset)
        filters = [filter for filter in pipeline.filters if filter.id != SHUFFLE.id]
        codec = CODECS.get(filters[0].id) if len(filters) == 1 else None
        if codec is None or codec.decode is None or codec.encode is None:
            return None
        count = dset.id.get_num_chunks()
        for number in np.unique(np.linspace(0, count - 1, sample).astype(int)).tolist():
            raw = dset.id.read_direct_chunk((number * pipeline.chunk,))[1]
            jobs.append((np.frombuffer(raw, np.uint8), codec, filters[0].cd, pipeline.nbytes))
    return jobs


def codec_speed(
    file: Any, group: str = "X", sample: int = 48, names: tuple[str, ...] = ("data", "indices")
) -> tuple[float | None, float | None]:
    """What the codec of a file does with its chunks when nothing else is to be done.

    The compressor's own functions are given stored chunks that are in memory already, in as many
    threads as diskcsr has.

    Returns
    -------
    decode, encode : float or None
        Bytes of decoded chunks a second, the best of three; None of a file without a compressor.
    """
    with open_to_read(file) as f:
        jobs = _stored_chunks(f[group], names, sample)
    if jobs is None:
        return None, None
    space = threading.local()

    def decode(job: tuple) -> np.ndarray:
        raw, codec, cd, nbytes = job
        if getattr(space, "memory", np.empty(0)).size != nbytes:
            space.memory = np.empty(nbytes, np.uint8)
        return codec.decode(raw, cd, space.memory)

    decoded = [(decode(job).copy(), *job[1:3]) for job in jobs]
    for values, *_ in decoded:
        values.flags.writeable = False

    def encode(job: tuple) -> None:
        values, codec, cd = job
        codec.encode(values, cd)

    nbytes = sum(values.nbytes for values, *_ in decoded)
    speeds = [
        nbytes / min(in_threads(function, parts) for _ in range(3))
        for function, parts in ((decode, jobs), (encode, decoded))
    ]
    return speeds[0], speeds[1]


def write_speed(folder: Any, nbytes: int = 1 << 28) -> float:
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
