"""Interrupts and refused writes at every system call of every operation that writes.

Each trial is a process of its own, forked from one in which everything is loaded. In it the n-th
system call of an operation is made to fail, to raise, or to be followed by a signal. The process
must live on, the exception must come out, the files must be in the state before or after, nothing
may be left behind, and the same operation must succeed when it is tried again.

Run by itself it tries every call: ``python tests/interrupted.py [--kinds NAME ...] [--step K]``.
"""

import argparse
import contextlib
import ctypes
import errno
import fcntl
import gc
import importlib.util
import os
import pickle
import shutil
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import scipy.sparse as sp

import diskcsr
from diskcsr.machine import interrupts
from diskcsr.machine.interrupts import deferred

ROWS, COLUMNS = 120, 40
#: Seconds a trial may take; most take some hundredths.
LONGEST = 60
#: Seconds after which such a signal comes again.
SOON = interrupts._SOON


def matrix(seed: int, rows: int = ROWS) -> sp.csr_array:
    """A matrix of whole numbers that `seed` settles."""
    rng = np.random.default_rng(seed)
    dense = rng.integers(1, 100, (rows, COLUMNS)) * (rng.random((rows, COLUMNS)) < 0.3)
    return sp.csr_array(dense.astype(np.float32))


OLD, MORE = matrix(0), matrix(1, 30)
#: Cut beforehand: scipy crashes when memory runs out where it slices.
BLOCKS = [MORE[i : i + 10] for i in range(0, 30, 10)]


# ------------------------------------------------------------------------------ what is done


@dataclass(frozen=True)
class Operation:
    """Something that writes.

    Attributes
    ----------
    run : callable
        ``run(folder)`` does it, on files that `prepare` made there.
    states : callable
        ``states(folder)`` reads everything by plain h5py and returns what there is.
    steps : callable
        What `states` may return: the first when nothing was done, the last when all was.
    """

    run: Callable[[Path], None]
    states: Callable[[Path], Any]
    steps: Callable[[], list[Any]]
    compression: str | None = None


def read(path: Path, name: str = "X") -> Any:
    """Read a matrix by plain h5py, as bytes to compare; None where there is none."""
    if not path.exists():
        return None
    with h5py.File(path, "r") as file:
        if name not in file:
            return None
        group = file[name]
        shape = tuple(int(n) for n in group.attrs["h5sparse_shape"])
        arrays = tuple(group[part][:] for part in ("data", "indices", "indptr"))
        assert len(arrays[0]) == len(arrays[1]) == arrays[2][-1]
        kind = sp.csr_array if group.attrs["h5sparse_format"] == "csr" else sp.csc_array
        return kind(arrays, shape=shape).toarray().tobytes(), shape


def dense(*blocks: Any) -> Any:
    whole = sp.vstack(blocks).toarray().astype(np.float32)
    return whole.tobytes(), whole.shape


def names(path: Path) -> list[str]:
    """What is in a file."""
    with h5py.File(path, "r") as file:
        return sorted(file)


def prepare(folder: Path, operation: Operation) -> None:
    """Make ``m.h5``, which is changed, and ``other.h5``, which is read."""
    how = {"compression": operation.compression, "chunks": 256}
    diskcsr.write(folder / "m.h5", OLD, **how).close()
    diskcsr.write(folder / "other.h5", MORE, **how).close()


def append(folder: Path) -> None:
    with diskcsr.open(folder / "m.h5", mode="r+") as A:
        A.append(MORE)


def append_blocks(folder: Path) -> None:
    with diskcsr.open(folder / "m.h5", mode="r+") as A:
        A.append(iter(BLOCKS))


def assign(folder: Path) -> None:
    with diskcsr.open(folder / "m.h5", mode="r+") as A:
        A[10:100] = -1 * OLD[10:100]


def scale(folder: Path) -> None:
    with diskcsr.open(folder / "m.h5", mode="r+") as A:
        A *= 2


def new_group(folder: Path) -> None:
    diskcsr.write(folder / "m.h5", MORE, name="a/Y", chunks=256).close()


def replace(folder: Path) -> None:
    diskcsr.write(folder / "m.h5", MORE, overwrite=True, chunks=256).close()


def file_items(folder: Path) -> None:
    with diskcsr.File(folder / "m.h5", "a") as file:
        file["X"] = MORE


def file_dataset(folder: Path) -> None:
    with diskcsr.File(folder / "m.h5", "a") as file:
        file["y"] = np.arange(5000)


def file_new(folder: Path) -> None:
    with diskcsr.File(folder / "new.h5", "w") as file:
        file["X"] = MORE


def write_new(folder: Path) -> None:
    diskcsr.write(folder / "new.h5", MORE, chunks=64).close()


def write_blocks(folder: Path) -> None:
    diskcsr.write(folder / "new.h5", iter(BLOCKS), compression="gzip", chunks=64).close()


def turn(folder: Path) -> None:
    with diskcsr.open(folder / "other.h5") as A:
        diskcsr.convert(A, folder / "new.h5", format="csc", chunks=64).close()


def turn_by_spilling(folder: Path) -> None:
    from diskcsr.streams.transpose import Memory

    least = Memory.least(COLUMNS)
    with diskcsr.open(folder / "other.h5") as A:
        diskcsr.convert(A, folder / "new.h5", format="csc", max_memory=least, chunks=64).close()


def triplets(folder: Path) -> None:
    from diskcsr.streams.triplets import least_memory

    # In any order, and so often that they do not fit: there is a spill file.
    coo = MORE.tocoo()
    order = np.random.default_rng(0).permutation(least_memory() // 24) % coo.nnz
    arrays = coo.row[order], coo.col[order], coo.data[order]
    parts = ([array[i : i + 5000] for array in arrays] for i in range(0, order.size, 5000))
    diskcsr.from_triplets(
        folder / "new.h5", parts, duplicates="last", max_memory=least_memory(), chunks=64
    ).close()


def concat(folder: Path) -> None:
    parts = [folder / "m.h5", folder / "other.h5"]
    diskcsr.concat(parts, folder / "new.h5", chunks=64).close()


def concat_virtual(folder: Path) -> None:
    parts = [folder / "m.h5", folder / "other.h5"]
    diskcsr.concat(parts, folder / "new.h5", virtual=True).close()


def by_dask(folder: Path) -> None:
    import dask

    with diskcsr.open(folder / "other.h5") as A, dask.config.set(scheduler="synchronous"):
        diskcsr.from_dask(folder / "new.h5", A.to_dask(chunks=10)).close()


def by_dask_again(folder: Path) -> None:
    import dask
    import dask.array as da

    with dask.config.set(scheduler="synchronous"):
        for matrix, rows in ((OLD, 40), (MORE, 10)):
            blocks = da.from_array(matrix.toarray(), chunks=(rows, COLUMNS))
            diskcsr.from_dask(folder / "m.h5", blocks, overwrite=True).close()


def lazy(folder: Path) -> None:
    with diskcsr.open(folder / "other.h5") as A:
        diskcsr.write(folder / "new.h5", np.sqrt(A.lazy[::-1]), chunks=64).close()


def parts_joined(folder: Path) -> None:
    with diskcsr.open([folder / "m.h5", folder / "other.h5"]) as A:
        diskcsr.write(folder / "new.h5", A, chunks=64).close()


def changed(folder: Path) -> Any:
    return read(folder / "m.h5")


def made(folder: Path) -> Any:
    return read(folder / "new.h5")


def with_group(folder: Path) -> Any:
    return changed(folder), read(folder / "m.h5", "a/Y"), names(folder / "m.h5")


def with_dataset(folder: Path) -> Any:
    with h5py.File(folder / "m.h5", "r") as file:
        y = file["y"][:].tobytes() if "y" in file else None
    return changed(folder), y


def begun(folder: Path) -> Any:
    path = folder / "new.h5"
    return None if not path.exists() or not names(path) else made(folder)


def with_parts(path: Path) -> Any:
    """What is in a file, and in how many files its parts are, for each folder of such."""
    parts = path.with_name(f"{path.name}.parts")
    folders = list(parts.iterdir()) if parts.exists() else []
    return read(path), [len(list(folder.iterdir())) for folder in folders], parts.exists()


def there(folder: Path) -> bool:
    return (folder / "new.h5").exists()


APPENDED = [dense(OLD, MORE[:n]) for n in (0, 10, 20, 30)]
ASSIGNED = dense(OLD[:10], -1 * OLD[10:100], OLD[100:])
GROUPS = [(dense(OLD), None, ["X"]), (dense(OLD), dense(MORE), ["X", "a"])]
BY_DASK = [(None, [], False), (dense(MORE), [3], True)]
BY_DASK_AGAIN = [(dense(OLD), [], False), (dense(OLD), [3], True), (dense(MORE), [3], True)]
ROOTS = dense(np.sqrt(MORE)[::-1])
Y = [(dense(OLD), None), (dense(OLD), np.arange(5000).tobytes())]

KINDS: dict[str, Operation] = {
    "append": Operation(append, changed, lambda: [APPENDED[0], APPENDED[3]]),
    "append, gzip": Operation(append, changed, lambda: [APPENDED[0], APPENDED[3]], "gzip"),
    "append of an iterable": Operation(append_blocks, changed, lambda: APPENDED),
    "assign": Operation(assign, changed, lambda: [dense(OLD), ASSIGNED]),
    "assign, gzip": Operation(assign, changed, lambda: [dense(OLD), ASSIGNED], "gzip"),
    "scale": Operation(scale, changed, lambda: [dense(OLD), dense(2 * OLD)]),
    "new group": Operation(new_group, with_group, lambda: GROUPS),
    "replace": Operation(replace, changed, lambda: [dense(OLD), dense(MORE)]),
    "File, assignment": Operation(file_items, changed, lambda: [dense(OLD), dense(MORE)]),
    "File, dataset": Operation(file_dataset, with_dataset, lambda: Y),
    "File, new": Operation(file_new, begun, lambda: [None, dense(MORE)]),
    "write": Operation(write_new, made, lambda: [None, dense(MORE)]),
    "write an iterable": Operation(write_blocks, made, lambda: [None, dense(MORE)]),
    "convert": Operation(turn, made, lambda: [None, dense(MORE)]),
    "convert, spilling": Operation(turn_by_spilling, made, lambda: [None, dense(MORE)]),
    "from_triplets, spilling": Operation(triplets, made, lambda: [None, dense(MORE)]),
    "concat": Operation(concat, made, lambda: [None, dense(OLD, MORE)]),
    "write a lazy array": Operation(lazy, made, lambda: [None, ROOTS]),
    "write joined files": Operation(parts_joined, made, lambda: [None, dense(OLD, MORE)]),
    "concat, virtual": Operation(concat_virtual, there, lambda: [False, True]),
}
if importlib.util.find_spec("dask") is not None:
    KINDS |= {
        "from_dask": Operation(
            by_dask, lambda folder: with_parts(folder / "new.h5"), lambda: BY_DASK
        ),
        "from_dask, again": Operation(
            by_dask_again, lambda folder: with_parts(folder / "m.h5"), lambda: BY_DASK_AGAIN
        ),
    }


# ------------------------------------------------------------------------------ what happens


CALLS = {
    os: [
        *("open", "close", "pread", "preadv", "pwrite", "ftruncate", "fsync", "unlink", "replace"),
        *("link", "rename", "stat", "fstat", "fchmod"),
    ],
    fcntl: ["flock"],
}


def interrupt() -> None:
    raise KeyboardInterrupt


def send_signal() -> None:
    signal.raise_signal(signal.SIGINT)


def leave() -> None:
    """As a handler of SIGTERM does."""
    raise SystemExit(143)


def terminate() -> None:
    """As someone who ends a program in good order does."""
    signal.raise_signal(signal.SIGTERM)


def interrupt_thread() -> None:
    """Have this thread raise at its next step, as some servers end what takes too long."""
    kind = ctypes.py_object(KeyboardInterrupt)
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(threading.get_ident()), kind)


def fail() -> None:
    raise OSError(errno.EIO, os.strerror(errno.EIO))


def refuse() -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


#: By name: what is done, whether after the call instead of before it, and what then comes out.
FAULTS: dict[str, tuple[Callable[[], None], bool, type[BaseException]]] = {
    "raise before": (interrupt, False, KeyboardInterrupt),
    "raise after": (interrupt, True, KeyboardInterrupt),
    "signal before": (send_signal, False, KeyboardInterrupt),
    "signal after": (send_signal, True, KeyboardInterrupt),
    "SystemExit": (leave, False, SystemExit),
    "SIGTERM": (terminate, True, SystemExit),
    "a thread": (interrupt_thread, True, KeyboardInterrupt),
    "any line": (send_signal, False, KeyboardInterrupt),
    "disk full": (refuse, False, OSError),
    "call fails": (fail, False, OSError),
}
#: What the code of the library has in its path.
OURS = f"{os.sep}diskcsr{os.sep}"
#: A full disk is a matter of these alone.
WRITING = {"pwrite", "ftruncate", "fsync"}
#: The calls that a fault is a matter of, where not of all.
ONLY = {
    "disk full": WRITING,
    # A file that cannot be removed is left, and what was closed is closed all the same.
    "call fails": {name for some in CALLS.values() for name in some} - {"unlink", "close"},
}


class Injector:
    """Has the n-th system call, and perhaps the ones after it, end as a fault has it."""

    def __init__(self, fault: str, n: int, times: int = 1) -> None:
        self.act, self.after, self.expected = FAULTS[fault]
        self.lines = fault == "any line"
        self.range = range(n, n + times)
        self.only = ONLY.get(fault)
        self.count, self.fired, self.where = 0, 0, ""

    @contextlib.contextmanager
    def active(self) -> Iterator[None]:
        if self.lines:
            sys.settrace(self._trace)
            try:
                yield
            finally:
                sys.settrace(None)
            return
        saved = [(m, name, getattr(m, name)) for m, some in CALLS.items() for name in some]
        thread = threading.get_ident()  # of whoever runs the operation
        for module, name, real in saved:
            setattr(module, name, self._wrapped(name, real, thread))
        try:
            yield
        finally:
            for module, name, real in saved:
                setattr(module, name, real)

    def _trace(self, frame: Any, event: str, argument: Any) -> Any:
        """Act before the n-th line of ours, counting the beginning of each function as one."""
        path = frame.f_code.co_filename
        if OURS not in path:
            return None
        number, self.count = self.count, self.count + 1
        if number in self.range:
            self.fired += 1
            self.where = self.where or f"{path.rpartition(OURS)[2]}:{frame.f_lineno}"
            self.act()
        return self._trace

    def _wrapped(self, name: str, real: Any, thread: int) -> Any:
        def call(*args: Any, **keywords: Any) -> Any:
            # Signals concern the main thread only, and what is raised in others is told by it.
            if threading.get_ident() != thread or (self.only and name not in self.only):
                return real(*args, **keywords)
            # Before what takes the result of `os.open` nothing but a signal can come, or what one
            # thread raises in another: then a descriptor is lost, as for Python's own.
            if name == "open" and self.after and self.act in (interrupt, interrupt_thread):
                return real(*args, **keywords)
            number, self.count = self.count, self.count + 1
            if number not in self.range:
                return real(*args, **keywords)
            self.fired += 1
            self.where = self.where or name
            # No step of Python lies between the call of `os.close` and what it does.
            if not self.after and name != "close":
                self.act()
                return real(*args, **keywords)
            try:
                result = real(*args, **keywords)
            except OSError:
                self.act()
                raise
            self.act()
            return result

        return call


# ------------------------------------------------------------------------------- a trial


def descriptors() -> Counter[str]:
    found: Counter[str] = Counter()
    for number in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            found[os.readlink(f"/proc/self/fd/{number}")] += 1
    return found


def trial(operation: Operation, folder: Path, fault: str, n: int, times: int = 1) -> str:
    """Do an operation with a fault in it; return "not reached" or what was found.

    Raises
    ------
    AssertionError
        When something is wrong afterwards.
    """
    before_fds, before_files = descriptors(), sorted(os.listdir(folder))
    injector = Injector(fault, n, times)
    problem: BaseException | None = None

    def run() -> None:
        nonlocal problem
        try:
            with injector.active():
                operation.run(folder)
            if injector.fired:
                time.sleep(
                    10 * SOON
                )  # a signal that came where nothing may be raised is sent again
        except BaseException as raised:
            problem = raised.with_traceback(None)
            problem.__cause__ = problem.__context__ = None

    if fault == "a thread":
        thread = threading.Thread(target=run)
        thread.start()
        thread.join()
    else:
        run()
    if not injector.fired:
        if problem is not None:
            raise problem
        return "not reached"
    gc.collect()
    if isinstance(problem, Exception):
        text = f"{type(problem).__name__}: {problem}"
        assert isinstance(problem, injector.expected), f"{injector.where}: raised {text}"
    found = judge(operation, folder, before_files, before_fds, f"{injector.where} #{n}")
    if injector.expected is not OSError:
        assert problem is not None, f"{injector.where} #{n}: the interrupt was swallowed"
        assert isinstance(problem, injector.expected), f"{injector.where} #{n}: {problem!r}"
    elif problem is None:
        assert found == "new", f"{injector.where} #{n}: no error, but {found}"
    return found


def judge(
    operation: Operation, folder: Path, files: list[str], fds: Counter[str], where: str
) -> str:
    """Look at what is left, do the operation again, and look at that."""
    left = descriptors() - fds
    assert not left, f"{where}: descriptors left: {left}"
    with deferred():
        pass  # puts back what a signal kept from being put back
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler, f"{where}: handler left"
    for path in sorted(folder.glob("*.h5")):
        with diskcsr.File(path, "r"):  # what was left to the next one to open it
            pass
    now = set(os.listdir(folder)) - set(files) - {"new.h5", "new.h5.parts", "m.h5.parts"}
    assert not now, f"{where}: files left: {now}"
    steps = operation.steps()
    state = operation.states(folder)
    assert state in steps, f"{where}: neither the old state nor the new one"
    place = steps.index(state)
    found = "old" if place == 0 else "new" if place == len(steps) - 1 else "between"
    for path in sorted(folder.glob("*.h5")):
        with open(path) as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    if found == "old":
        operation.run(folder)
        assert operation.states(folder) == steps[-1], f"{where}: the second attempt"
    return found


def in_child(work: Callable[[], Any]) -> Any:
    """Return what `work` returns in a forked child; a string that begins with "!" when it fails."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            os.close(reading)
            signal.signal(signal.SIGINT, signal.default_int_handler)
            signal.signal(signal.SIGTERM, lambda number, frame: leave())
            try:
                answer = work()
            except AssertionError as problem:
                answer = f"!{problem}"
            except BaseException:
                answer = "!" + traceback.format_exc()
            os.write(writing, pickle.dumps(answer)[:60_000])
            code = 0
        finally:
            os._exit(code)
    os.close(writing)
    killer = threading.Timer(LONGEST, os.kill, (pid, signal.SIGKILL))
    killer.start()
    with os.fdopen(reading, "rb") as pipe:
        raw = pipe.read()
    status = os.waitpid(pid, 0)[1]
    killer.cancel()
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        return "!hang" if number == signal.SIGKILL else f"!{signal.Signals(number).name}"
    return pickle.loads(raw) if raw else "!no answer"


def trials(
    name: str, fault: str, step: int = 1, first: int = 0, times: int = 1
) -> Iterator[tuple[int, str]]:
    """Yield (n, what was found) for the n-th call, every `step`-th, until there are no more."""
    operation = KINDS[name]
    with tempfile.TemporaryDirectory() as base:
        source = Path(base, "source")
        source.mkdir()
        prepare(source, operation)
        n = first
        while True:
            folder = Path(base, "trial")
            shutil.copytree(source, folder)
            found = in_child(lambda: trial(operation, folder, fault, n, times))  # noqa: B023
            shutil.rmtree(folder)
            if found == "not reached":
                return
            yield n, found
            n += step


def warm_up() -> None:
    """Load what the operations need, so that it is not loaded in each child anew."""
    with tempfile.TemporaryDirectory() as base, diskcsr.options.set(num_threads=1):
        for number, operation in enumerate(KINDS.values()):
            folder = Path(base, str(number))
            folder.mkdir()
            prepare(folder, operation)
            operation.run(folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--kinds", nargs="*", default=list(KINDS))
    parser.add_argument("--faults", nargs="*", default=list(FAULTS))
    parser.add_argument("--step", type=int, default=1)
    parser.add_argument("--times", type=int, default=1, help="calls in a row")
    chosen = parser.parse_args()
    warm_up()
    total: Counter[str] = Counter()
    began = time.monotonic()
    for name in chosen.kinds:
        for fault in chosen.faults:
            found: Counter[str] = Counter()
            for n, what in trials(name, fault, chosen.step, times=chosen.times):
                if what.startswith("!"):
                    print(f"{name}, {fault} #{n}: {what[1:]}", flush=True)
                    what = "FAILED"
                found[what] += 1
            total += found
            print(f"{name:24} {fault:14} {dict(found)}", flush=True)
    print(f"{total.total()} trials in {time.monotonic() - began:.0f} s: {dict(total)}")
    sys.exit(bool(total["FAILED"]))


if __name__ == "__main__":
    main()
