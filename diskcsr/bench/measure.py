"""The process of one cell: told a job, it checks an answer, then times one repeat a line.

What it is told and what it answers are lines of JSON. First comes the job; the answer has a
"status", of which "ready" asks for more. Every further line is one repeat, answered with its
"seconds". At the end of its input it says what memory it took.
"""

import gc
import json
import os
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["drop_cached", "seed_of"]


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
    """An operation of a peer: the answer is checked first, then times are taken."""

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
        self.adapter: Any = None
        self.cold, self.idle = bool(job["cold"]) and not self.writing, 0

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

    def begin(self) -> dict[str, Any]:
        """Compare the first answer with the right one; be ready to repeat it."""
        if self.lacks():
            return {"status": "n/a"}
        if not self._right():
            why = f"the answer to {self.case.title!r} is not the right one"
            return {"status": "wrong", "why": why}
        give_back_memory()
        if self.writing:
            self.adapter = self.opened()
        reset_peak()
        self.idle = held("VmRSS")
        return {"status": "ready"}

    def _right(self) -> bool:
        from .cases import equal, run

        adapter = self.opened()
        got = run(self.case, adapter, self.case.draw(self.rng, self.shape), keep=True)
        got = adapter.answer() if self.writing else got
        adapter.close()
        if got is None and self.writing:
            return True  # the peer cannot load what it wrote; what it reads is checked one by one
        right = json.loads(Path(self.job["expected"]).read_text(), object_hook=_complex)
        return equal(self.case, got, right, self.axis)

    def once(self) -> dict[str, Any]:
        """Do the operation with a fresh key; opening a file is not part of its time."""
        from .cases import run

        if self.adapter is None:
            self.cold = self.cold and drop_cached(self.job["path"])
            self.adapter = self.opened()
        key = self.case.draw(self.rng, self.shape)
        before = read_so_far(self.adapter)
        began = time.perf_counter()
        answer = run(self.case, self.adapter, key)
        seconds = (time.perf_counter() - began) / self.case.calls
        after = read_so_far(self.adapter)
        del answer
        if self.job["cold"] and not self.writing:
            self.adapter.close()  # a file that is mapped stays in the page cache
            self.adapter = None
            gc.collect()
        read = None
        if before is not None and after is not None:
            read = (after - before) // self.case.calls
        return {"seconds": seconds, "read": read}

    def end(self) -> dict[str, Any]:
        """Say what memory it took above that of the idle process."""
        if self.adapter is not None:
            self.adapter.close()
        return {"peak": max(0, held("VmHWM") - self.idle), "cold": self.cold}


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


def _serve(tell: Callable[[dict[str, Any]], None]) -> None:
    lines = iter(sys.stdin.readline, "")
    job = json.loads(next(lines))
    if job["threads"]:
        import diskcsr

        diskcsr.set_num_threads(job["threads"])
    cell = _Cell(job)
    tell(cell.begin())
    for _ in lines:
        tell(cell.once())
    tell(cell.end())


def main() -> None:
    """Read a job, answer on standard output; what peers print goes to stderr."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def tell(answer: dict[str, Any]) -> None:
        answers.write(json.dumps(answer) + "\n")
        answers.flush()

    try:
        _serve(tell)
    except NotImplementedError as problem:
        tell({"status": "n/a", "why": str(problem)})
    except MemoryError as problem:
        tell({"status": "memory", "why": " ".join(str(problem).split())[:300]})
    except Exception as problem:
        text = " ".join(f"{type(problem).__name__}: {problem}".split())
        tell({"status": "failed", "why": text[:300]})


if __name__ == "__main__":
    main()
