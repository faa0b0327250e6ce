"""What runs in a process of its own, which may crash or hang: one request after another.

``python -m campaign.child ROLE`` reads pickled requests from standard input and writes pickled
answers. The role "honest" imports nothing of the library.
"""

import contextlib
import ctypes
import faulthandler
import fcntl
import gc
import os
import pickle
import resource
import shutil
import signal
import sys
import tempfile
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from scipy.sparse import issparse
from trust_operations import Keys, make_keys

from . import honest
from .cases import Case
from .operations import EVERY, Place, Row
from .pool import Over
from .sources import Source, build

#: Address space beyond what a process has when it is warm.
_SPACE = 3 << 30
_LARGEST_FILE = 1 << 28
_LARGEST_DENSE = 10**7


def describe_error(problem: BaseException) -> dict[str, Any]:
    """Return an exception as plain data: its classes, its words, and where it came from."""
    frames = traceback.extract_tb(problem.__traceback__)
    ours = [f for f in frames if f"{os.sep}diskcsr{os.sep}" in f.filename]
    last = ours[-1] if ours else frames[-1] if frames else None
    return {
        "type": type(problem).__name__,
        "classes": [one.__name__ for one in type(problem).__mro__],
        "text": str(problem)[:2000],
        "where": f"{Path(last.filename).name}:{last.name}" if last else "",
        "trace": "".join(traceback.format_exception(problem))[-6000:],
    }


def _plain(result: Any) -> Any:
    """Return a result as an array; what would be too long says its shape."""
    if issparse(result):
        if np.prod([float(n) for n in result.shape]) > _LARGEST_DENSE:
            return "huge", result.shape
        return result.toarray()
    return np.asarray(result)


def _copy_of(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.iterdir() if path.is_file()}


class Operating:
    """Runs the operations of one case, in order, and looks at what each leaves behind."""

    def __init__(self, case: Case, folder: Path, keys: Keys) -> None:
        self.case, self.folder, self.keys = case, folder, keys
        self.files, self.path = _copy_of(folder), folder / "case.h5"
        self.shared: Any = None

    def __call__(self, name: str) -> dict[str, Any]:
        row = EVERY[name]
        own = row.kind in ("change", "make") or self.case.mode == "r+"
        place = Place(self.path, self.keys, self.case.mode)
        if own:
            scratch = self.folder / "scratch"
            scratch.mkdir()
            for path, raw in self.files.items():
                (scratch / path.name).write_bytes(raw)
            place.path = scratch / "case.h5"
        before = descriptors(self.folder)
        outcome = self._attempt(row, place, not own)
        if not (self.shared is not None and not own):
            outcome["left"] = self._left(place, before, row)
        if own:
            shutil.rmtree(scratch)
        for path, raw in self.files.items():
            if own and path.read_bytes() != raw:  # values that lie outside, changed in place
                path.write_bytes(raw)
        return outcome

    def _attempt(self, row: Row, place: Place, may_share: bool) -> dict[str, Any]:
        try:
            if row.kind == "read":
                with self._handle(place, may_share) as matrix:
                    return {"value": _plain(row.run(matrix, place.keys))}
            value = row.run(place)
        except Exception as problem:
            outcome: dict[str, Any] = {"error": describe_error(problem)}
            # HDF5 may read what was in its memory: the bytes tell better whether all is as it was.
            if row.kind == "change" and place.path.read_bytes() != self.files[self.path]:
                outcome["after"] = self._truth(place.path, "X")
            if row.kind == "make" and place.out.exists():
                outcome["unfinished"] = True
            return outcome
        if row.kind == "change":
            return {"value": value, "made": self._truth(place.path, row.group, row.anew)}
        if row.kind == "make" and row.right is not None:
            return {"value": value, "made": honest.truth_of(place.out, "both", row.group)}
        return {"value": value}

    @contextlib.contextmanager
    def _handle(self, place: Place, may_share: bool) -> Iterator[Any]:
        if not (self.case.together and may_share):
            with place.open() as matrix:
                yield matrix
            return
        if self.shared is None:
            self.shared = place.open()
        yield self.shared

    def _truth(self, path: Path, group: str, anew: bool = False) -> honest.Truth:
        assert self.case.source is not None
        convention = "both" if anew or group != "X" else self.case.source.convention
        return honest.truth_of(path, convention, group)

    def _left(self, place: Place, before: Counter[str], row: Row) -> list[str]:
        gc.collect()
        left = [f"descriptor {name}" for name in descriptors(self.folder) - before]
        with contextlib.suppress(FileNotFoundError), place.path.open("rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                left.append("lock")
        expected = {path.name for path in self.files} | {"scratch", "out.h5"}
        return left + [
            f"file {name}" for name in os.listdir(place.path.parent) if name not in expected
        ]

    def close(self) -> None:
        if self.shared is not None:
            self.shared.close()


def descriptors(folder: Path) -> Counter[str]:
    """Count the open descriptors of files in a folder."""
    found: Counter[str] = Counter()
    for number in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            name = os.readlink(f"/proc/self/fd/{number}")
            if name.startswith(str(folder)):
                found[name] += 1
    return found


# ------------------------------------------------------------------------------------- requests


def _make(case: Case, folder: Path) -> Iterator[Any]:
    yield honest.make(case, folder)


def _read(path: Path, convention: str) -> Iterator[Any]:
    yield honest.read(path, convention), honest.mended(path, convention)


def _probe(folder: Path) -> Iterator[Any]:
    try:
        yield honest.write_probe(folder / "case.h5")
    except Exception as problem:
        yield repr(problem)


def _operate(case: Case, folder: Path, keys: Keys) -> Iterator[Any]:
    work = Operating(case, folder, keys)
    try:
        for name in case.operations:
            yield work(name)
    finally:
        work.close()


def _trial(case: Case, folder: Path) -> Iterator[Any]:
    from . import trials

    yield trials.run(case, folder)


REQUESTS: dict[str, Callable[..., Iterator[Any]]] = {
    "make": _make,
    "read": _read,
    "probe": _probe,
    "operate": _operate,
    "trial": _trial,
}


# ------------------------------------------------------------------------------------- the process


def _warm_up(role: str) -> None:
    """Load what requests need, so that no time limit has to allow for it."""
    if role == "honest":
        with contextlib.suppress(ImportError):
            import hdf5plugin  # noqa: F401
        return
    import diskcsr

    diskcsr.options.memory_budget = 1 << 28
    if role == "trial":
        import interrupted

        interrupted.warm_up()
        return
    with tempfile.TemporaryDirectory() as base, diskcsr.options.set(num_threads=1):
        folder = Path(base)
        for chunk in (0, 16):
            source = Source(chunk=chunk, filter="gzip" if chunk else "none")
            build(folder / "case.h5", source)
            case = Case("bytes", 0, 0, source, [], ["A[rows]", "A[:, j]", "append", "save, turned"])
            for outcome in _operate(case, folder, make_keys(source.shape, 0)):
                assert "value" in outcome, outcome["error"]["trace"]


def _size() -> int:
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


def _die_with(parent: int) -> None:
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    if os.getppid() != parent:
        os._exit(0)


def main(role: str) -> None:
    """Fork the worker that serves requests, and another one whenever that ends."""
    _die_with(os.getppid())
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # libraries print there
    faulthandler.enable()
    warnings.simplefilter("ignore")  # of numpy and scipy, about the numbers found
    np.seterr(all="ignore")
    _warm_up(role)
    gc.collect()
    gc.freeze()
    ended = ""
    while True:
        parent, pid = os.getpid(), os.fork()
        if pid == 0:
            _die_with(parent)
            _serve(role, answers)
            os._exit(0)
        _send(answers, Over(ended, pid) if ended else pid)
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        if code == 0:
            return
        ended = signal.Signals(-code).name if code < 0 else f"exit {code}"


def _serve(role: str, answers: Any) -> None:
    """Answer requests until standard input ends."""
    if role != "trial":
        resource.setrlimit(resource.RLIMIT_AS, (_size() + _SPACE,) * 2)
        resource.setrlimit(resource.RLIMIT_FSIZE, (_LARGEST_FILE,) * 2)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    while True:
        try:
            what, arguments = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        try:
            for answer in REQUESTS[what](*arguments):
                _send(answers, answer)
            _send(answers, None)
        except Exception as problem:
            _send(answers, {"failed": describe_error(problem)})


def _send(stream: Any, answer: Any) -> None:
    try:
        raw = pickle.dumps(answer)
    except MemoryError:
        raw = pickle.dumps({"failed": {"type": "MemoryError", "text": "the answer", "trace": ""}})
    stream.write(len(raw).to_bytes(8, "little") + raw)
    stream.flush()


if __name__ == "__main__":
    # As a module of its own name, which is what is said in answers.
    from campaign.child import main as serve

    serve(sys.argv[1])
