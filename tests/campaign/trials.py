"""Trials: what is done while calls fail, disks are full, signals come or the process is killed."""

import contextlib
import errno
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["draw_trial", "run"]

_WRITES = [
    "append", "append, gzip", "append of an iterable", "assign", "assign, gzip", "scale",
    "new group", "replace", "File, assignment", "File, dataset", "File, new", "write",
    "write an iterable", "convert", "convert, spilling", "concat", "concat, virtual",
]  # fmt: skip
_INTERRUPTS = [
    "raise before", "raise after", "signal before", "signal after", "SystemExit", "SIGTERM",
    "a thread", "any line",
]  # fmt: skip
_KILLED = [
    "assignment", "assignment, gzip", "in place, A *= 2", "append", "append, gzip",
    "append of an iterable", "append of an iterable, gzip", "replacing a matrix", "a new group",
    "a new file",
]  # fmt: skip
_ERRORS = ["EIO", "ENOSPC", "EDQUOT", "EMFILE", "ENOMEM", "EACCES", "EINTR"]


def draw_trial(rng: np.random.Generator, kind: str, reads: list[str]) -> dict[str, Any]:
    """Draw what is done, and what happens meanwhile."""
    if kind == "kills":
        return {"how": "kill", "name": str(rng.choice(_KILLED)), "seed": int(rng.integers(1 << 30))}
    if kind == "interrupts":
        fault = str(rng.choice(_INTERRUPTS))
        top = 3.6 if fault == "any line" else 2.3
        return {
            "how": "interrupt",
            "name": str(rng.choice(_WRITES)),
            "fault": fault,
            "n": int(10 ** rng.uniform(0, top)) - 1,
            # What raises again where a file is removed leaves it, but signals are kept back.
            "times": int(rng.choice([1, 1, 2])) if "signal" in fault else 1,
        }
    how = str(
        rng.choice(["disk full", "call fails", "call fails", "file size", "small disk", "read"])
    )
    return {
        "how": how,
        "name": str(rng.choice(reads if how == "read" else _WRITES)),
        "fault": how if how == "disk full" else str(rng.choice(_ERRORS)),
        "n": int(10 ** rng.uniform(0, 2)) - 1,
        "times": 1,
        "part": float(rng.random()),
    }


def run(case: Any, folder: Path) -> dict[str, Any]:
    """Do a trial; return ``{"found": what was found}`` or ``{"problem": what is wrong}``."""
    found = _WAYS[case.trial["how"]](case.trial, folder)
    return {"problem": found[1:]} if found.startswith("!") else {"found": found}


def _interrupt(trial: dict[str, Any], folder: Path) -> str:
    """The n-th call, or as that many are not made, one that is."""
    import interrupted

    operation, n = interrupted.KINDS[trial["name"]], trial["n"]
    source = folder / "source"
    source.mkdir()
    interrupted.prepare(source, operation)
    while True:
        place = Path(shutil.copytree(source, folder / "trial"))
        found = interrupted.in_child(
            lambda: interrupted.trial(operation, place, trial["fault"], n, trial["times"])  # noqa: B023
        )
        shutil.rmtree(place)
        if found != "not reached" or n == 0:
            return str(found)
        n //= 2


def _call_fails(trial: dict[str, Any], folder: Path) -> str:
    """The n-th system call that Python code makes fails."""
    import interrupted

    number = getattr(errno, trial["fault"])

    def fail() -> None:
        raise OSError(number, os.strerror(number))

    interrupted.ONLY[trial["fault"]] = interrupted.ONLY["call fails"]
    interrupted.FAULTS[trial["fault"]] = (fail, False, OSError)
    return _interrupt(trial, folder)


def _file_size(trial: dict[str, Any], folder: Path) -> str:
    """No file may grow beyond a part of what it has to become."""
    import interrupted

    operation = interrupted.KINDS[trial["name"]]
    interrupted.prepare(folder, operation)
    limit = int(trial["part"] * _size_of_result(operation, folder))

    @contextlib.contextmanager
    def limited() -> Iterator[None]:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)

    return str(interrupted.in_child(lambda: _refused(operation, folder, limited, f"{limit} bytes")))


def _small_disk(trial: dict[str, Any], folder: Path) -> str:
    """A disk that gets full; another file takes what there is too much of."""
    import interrupted

    operation, place = interrupted.KINDS[trial["name"]], folder / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(place)]
    if sys.platform != "linux" or subprocess.run(mount, capture_output=True).returncode:
        return "no disk of its own"
    try:
        interrupted.prepare(place, operation)
        more = int(trial["part"] * _size_of_result(operation, place))
        filler = folder / "disk" / "filler"

        @contextlib.contextmanager
        def limited() -> Iterator[None]:
            status = os.statvfs(place)
            filler.write_bytes(bytes(max(status.f_bavail * status.f_bsize - more, 0)))
            try:
                yield
            finally:
                filler.unlink()

        return str(
            interrupted.in_child(lambda: _refused(operation, place, limited, f"{more} free"))
        )
    finally:
        subprocess.run(["umount", "-l", str(place)], capture_output=True)


def _size_of_result(operation: Any, folder: Path) -> int:
    """Return how large the largest file becomes."""
    place = Path(shutil.copytree(folder, folder.with_name(f"{folder.name} whole")))
    try:
        operation.run(place)
        return max(path.stat().st_size for path in place.iterdir())
    finally:
        shutil.rmtree(place)


def _refused(operation: Any, folder: Path, limited: Callable[[], Any], where: str) -> str:
    """Do an operation under a limit, and look at what it left; then do it without."""
    import gc

    import interrupted

    files, fds = sorted(os.listdir(folder)), interrupted.descriptors()
    problem: Exception | None = None
    with limited():
        try:
            operation.run(folder)
        except Exception as raised:
            problem = raised.with_traceback(None)
            problem.__cause__ = problem.__context__ = None
    gc.collect()
    assert problem is None or isinstance(problem, OSError), f"{where}: {problem!r}"
    found = interrupted.judge(operation, folder, files, fds, where)
    assert problem is not None or found == "new", f"{where}: no error, but {found}"
    if problem is not None and isinstance(problem, OSError):
        assert ".h5" in str(problem), f"{where}: no file is named by {problem!r}"
    return str(found)


def _read(trial: dict[str, Any], folder: Path) -> str:
    """A call fails while something is read; the next attempt is right."""
    import interrupted
    from trust_operations import compare, make_keys, plain

    from . import honest
    from .operations import ROWS
    from .sources import Source, build

    row, path = ROWS[trial["name"]], folder / "case.h5"
    source = Source(shape=(40, 30), chunk=0 if trial["part"] < 0.5 else 64, filter="none")
    source = source if trial["part"] < 0.75 else Source(shape=(40, 30), chunk=64, filter="gzip")
    build(path, source)
    slow = honest.truth_of(path, source.convention)[1]
    keys, number = make_keys(source.shape, trial["n"]), getattr(errno, trial["fault"])

    def fail() -> None:
        raise OSError(number, os.strerror(number))

    def work() -> str:
        import diskcsr

        injector = interrupted.Injector("disk full", trial["n"], trial["times"])
        injector.act, injector.only = fail, None
        before = interrupted.descriptors()
        with contextlib.ExitStack() as stack:
            try:
                with injector.active():
                    matrix = stack.enter_context(diskcsr.open(path, "X"))
                    plain(row.run(matrix, keys))
                found = "read"
            except OSError:
                found = "refused"
        with diskcsr.open(path, "X") as matrix:
            value = plain(row.run(matrix, keys))
        del stack, matrix
        assert row.operation is not None
        problem = compare(row.operation, value, slow, keys) if row.operation.exact else None
        assert problem is None, f"the second attempt: {problem}"
        left = interrupted.descriptors() - before
        assert not left, f"descriptors left: {left}"
        return found if injector.fired else "not reached"

    return str(interrupted.in_child(work))


def _kill(trial: dict[str, Any], folder: Path) -> str:
    """Three times while something is written."""
    import contextlib
    import io

    import kills

    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        found = kills.kill(trial["name"], folder / "killed", 3, trial["seed"])
    if found["failures"] or found["kills"] != 3:
        return f"!{dict(found)}: {said.getvalue()}"
    return "killed"


_WAYS: dict[str, Callable[[dict[str, Any], Path], str]] = {
    "kill": _kill,
    "interrupt": _interrupt,
    "disk full": _interrupt,
    "call fails": _call_fails,
    "file size": _file_size,
    "small disk": _small_disk,
    "read": _read,
}
