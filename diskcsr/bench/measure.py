"""One cell of the table in a process of its own: JSON in, JSON out."""

import gc
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["drop_cached", "run_cell", "seed_of"]

LONGEST = 1.0  # seconds after which a cell that has two times stops


def run_cell(job: dict[str, Any], timeout: float) -> dict[str, Any]:
    """Measure in a fresh process; whatever happens there becomes a result.

    Returns
    -------
    dict
        With "status": "ok", "n/a", "memory", "wrong", "failed" or "timeout", and what belongs
        to it.
    """
    command = [sys.executable, "-m", "diskcsr.bench.measure"]
    try:
        done = subprocess.run(
            command, input=json.dumps(job), capture_output=True, text=True, timeout=timeout
        )
    except subprocess.TimeoutExpired:
        return {"status": "timeout", "why": f"no answer within {timeout:g} s"}
    try:
        return dict(json.loads(done.stdout))
    except ValueError:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        return {"status": "failed", "why": lines[-1][:300]}


def held(which: str) -> int:
    """Return a size of this process from Linux's status file; 0 elsewhere."""
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return 0
    found = re.search(which + r":\s+(\d+)", status)
    return int(found.group(1)) * 1024 if found else 0


def reset_peak() -> None:
    """Let VmHWM begin anew."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return


def read_so_far(adapter: Any) -> int | None:
    """Bytes read: the peer's own count, else what the process asked the system for."""
    own = adapter.bytes_read()
    if own is not None or not adapter.counts_reads:
        return own
    try:
        return int(Path("/proc/self/io").read_text().split()[1])
    except OSError:
        return None


def drop_cached(path: str) -> bool:
    """Drop files from the page cache; whether the system took the advice."""
    files = [p for p in Path(path).rglob("*") if p.is_file()] if os.path.isdir(path) else [path]
    try:
        for file in files:
            with open(file, "rb") as stream:
                os.fsync(stream.fileno())
                os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        return not any(_cached(file) for file in files)
    except (AttributeError, OSError):
        return False


def _cached(file: Any) -> bool:
    """Whether the first page can be had without waiting for the disk: preadv2 with RWF_NOWAIT."""
    with open(file, "rb") as stream:
        try:
            return os.preadv(stream.fileno(), [bytearray(1)], 0, os.RWF_NOWAIT) > 0
        except BlockingIOError:
            return False


class _Writing:
    """The write operation as an adapter: a new file each time."""

    counts_reads = False

    def __init__(self, cls: Any, job: dict[str, Any]) -> None:
        from .source import Matrix

        matrix = Matrix(job["where"])
        self.cls, self.job = cls, job
        try:
            self.matrix = matrix.load()
        except MemoryError:
            self.matrix = matrix.mapped()

    def write(self) -> None:
        self.cls.write(self.job["path"], self.matrix, self.job["storage"])

    def bytes_read(self) -> None:
        return None

    def close(self) -> None:
        pass

    def answer(self) -> Any:
        again = self.cls.reopened(self.job["path"], self.job["where"])
        try:
            return again.load() if again.load else None
        finally:
            again.close()


class _Cell:
    """What one process measures: the answer is checked first, then times are taken."""

    def __init__(self, job: dict[str, Any]) -> None:
        from .adapters import load_adapter
        from .cases import CASES
        from .source import Matrix

        self.job, self.cls, self.case = job, load_adapter(job["peer"]), CASES[job["op"]]
        matrix = Matrix(job["where"])
        self.shape, self.axis = matrix.shape, matrix.axis
        matrix.close()
        self.rng = np.random.default_rng(seed_of(job["seed"], job["op"]))
        self.writing = self.case.method == "write"

    def lacks(self) -> bool:
        """Whether there is no such operation, of the peer or of such a matrix."""
        method = self.case.method
        if getattr(self.cls, method) is None:
            return True
        if method == "minibatches":
            return bool(self.axis.major)
        return method == "scalar" and not min(self.shape)

    def opened(self) -> Any:
        job = self.job
        return _Writing(self.cls, job) if self.writing else self.cls(
            job["path"], job["name"], job["where"]
        )  # fmt: skip

    def check(self) -> dict[str, Any] | None:
        """Compare the first answer with the right one; return the result if it is wrong."""
        from .cases import equal, run

        adapter = self.opened()
        got = run(self.case, adapter, self.case.draw(self.rng, self.shape), keep=True)
        got = adapter.answer() if self.writing else got
        adapter.close()
        if got is None and self.writing:
            return None  # the peer cannot load what it wrote; what it reads is checked one by one
        right = json.loads(Path(self.job["expected"]).read_text(), object_hook=_complex)
        if equal(self.case, got, right, self.axis):
            return None
        why = f"the answer to {self.case.title!r} is not the right one"
        return {"status": "wrong", "why": why}

    def times(self) -> dict[str, Any]:
        """Repeat the operation with fresh keys; memory is what it takes above the idle process."""
        seconds: list[float] = []
        read: list[int] = []
        give_back_memory()
        adapter = self.opened() if self.writing else None
        reset_peak()
        idle, cold, start = held("VmRSS"), bool(self.job["cold"]), time.perf_counter()
        while len(seconds) < self.job["repeat"]:
            if len(seconds) > 1 and time.perf_counter() - start > LONGEST:
                break
            if adapter is not None and self.job["cold"] and not self.writing:
                adapter.close()
                adapter = None
            if adapter is None:
                gc.collect()
                cold = cold and drop_cached(self.job["path"])
                adapter = self.opened()
            self._once(adapter, seconds, read)
        if adapter is not None:
            adapter.close()
        return {
            "status": "ok",
            "median": float(np.median(seconds)),
            "all": seconds,
            "peak": max(0, held("VmHWM") - idle),
            "read": int(np.median(read)) if read else None,
            "cold": cold and not self.writing,
        }

    def _once(self, adapter: Any, seconds: list[float], read: list[int]) -> None:
        from .cases import run

        key = self.case.draw(self.rng, self.shape)
        before = read_so_far(adapter)
        began = time.perf_counter()
        answer = run(self.case, adapter, key)
        seconds.append((time.perf_counter() - began) / self.case.calls)
        after = read_so_far(adapter)
        del answer
        if before is not None and after is not None:
            read.append((after - before) // self.case.calls)


def _complex(found: dict[str, Any]) -> complex:
    """Return a number that JSON has no form for."""
    return complex(*found["complex"])


def seed_of(seed: int, op: str) -> list[int]:
    """Return the seed of an operation's keys: the first of them is the one that is checked."""
    from .cases import CASES

    return [seed, list(CASES).index(op)]


def give_back_memory() -> None:
    """Hand freed memory back to the system, where the C library can (glibc)."""
    import ctypes

    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def _measure(job: dict[str, Any]) -> dict[str, Any]:
    import diskcsr

    if job["threads"]:
        diskcsr.set_num_threads(job["threads"])
    cell = _Cell(job)
    if cell.lacks():
        return {"status": "n/a"}
    return cell.check() or cell.times()


def main() -> None:
    """Read a job, print its result; what peers print goes to stderr."""
    answer = os.dup(1)
    os.dup2(2, 1)
    try:
        result = _measure(json.load(sys.stdin))
    except NotImplementedError as problem:
        result = {"status": "n/a", "why": str(problem)}
    except MemoryError as problem:
        result = {"status": "memory", "why": " ".join(str(problem).split())[:300]}
    except Exception as problem:
        text = " ".join(f"{type(problem).__name__}: {problem}".split())
        result = {"status": "failed", "why": text[:300]}
    with os.fdopen(answer, "w") as stream:
        json.dump(result, stream)


if __name__ == "__main__":
    main()
