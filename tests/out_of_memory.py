"""Memory that runs out at every allocation of every operation.

Each trial is a process of its own, forked from one in which everything is loaded. In it the n-th
allocation of an operation is refused: of an array, by numpy's own allocator; of what is read, by
the system call; of a map, and of a thread. The process must live on; `MemoryError` must come out,
or the right result; nothing may stay loaded, open or locked; and the same must work when it is
tried again. What writes must leave the old state or the new one.

Run by itself it tries every allocation: ``python tests/out_of_memory.py [--kinds NAME ...]
[--step K] [--times N]``.
"""

import argparse
import contextlib
import ctypes
import errno
import fcntl
import gc
import mmap
import os
import pickle
import shutil
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import interrupted
import numpy as np
import scipy.sparse as sp
from interrupted import COLUMNS, OLD, descriptors, in_child
from numba import carray, cfunc, njit, types

import diskcsr

# --------------------------------------------------------------------------- what allocates

_pointer = ctypes.c_void_p
_void, _int = types.voidptr, types.intp


class _Handler(ctypes.Structure):
    """``PyDataMem_Handler`` of numpy (NEP 49), the functions of its allocator among its fields."""

    _fields_ = [
        ("name", ctypes.c_char * 127),
        ("version", ctypes.c_uint8),
        ("context", _pointer),
        *((name, _pointer) for name in ("malloc", "calloc", "realloc", "free")),
    ]


# Compiled, because numpy also frees while an exception is set, when no Python may run. Pointers
# travel as integers.
_malloc = types.ExternalFunction("malloc", _int(_int))
_calloc = types.ExternalFunction("calloc", _int(_int, _int))
_realloc = types.ExternalFunction("realloc", _int(_int, _int))
_free = types.ExternalFunction("free", types.void(_int))
#: What the context of the handler points to: whether it is on, how many allocations there were, of
#: which the first to refuse and the first not to, and how many were refused.
ON, COUNT, FIRST, END, FIRED = range(5)


def _refuses(state):
    """Count an allocation; return whether it is refused."""
    if not state[ON]:
        return False
    number = state[COUNT]
    state[COUNT] += 1
    if number < state[FIRST] or number >= state[END]:
        return False
    state[FIRED] += 1
    return True


_compiled = njit(_refuses)


@njit
def _refused(context):
    return _compiled(carray(context, 5, np.int64))


@cfunc(_int(_void, _int))
def _malloc_or_not(context, size):
    return 0 if _refused(context) else _malloc(size)


@cfunc(_int(_void, _int, _int))
def _calloc_or_not(context, count, size):
    return 0 if _refused(context) else _calloc(count, size)


@cfunc(_int(_void, _int, _int))
def _realloc_or_not(context, old, size):
    return 0 if _refused(context) else _realloc(old, size)


@cfunc(types.void(_void, _int, _int))
def _free_it(context, old, size):
    _free(old)


#: Kept for as long as the process lives, for arrays are freed through them.
_state = np.zeros(5, np.int64)
_handler = _Handler(
    b"shortage",
    1,
    _state.ctypes.data,
    _malloc_or_not.address,
    _calloc_or_not.address,
    _realloc_or_not.address,
    _free_it.address,
)
#: What else takes memory, and what it raises when there is none.
OTHERS: list[tuple[Any, str, Callable[[], Exception]]] = [
    (os, "pread", MemoryError),
    (os, "read", MemoryError),
    (mmap, "mmap", lambda: OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))),
    (threading.Thread, "start", lambda: RuntimeError("can't start new thread")),
]


class Shortage:
    """Refuses the n-th allocation of this thread, and so many after it."""

    def __init__(self, n: int, times: int = 1) -> None:
        _state[:] = 0, 0, n, n + times, 0

    @property
    def fired(self) -> int:
        """How many allocations were refused."""
        return int(_state[FIRED])

    @contextlib.contextmanager
    def active(self) -> Iterator[None]:
        """Count, and refuse, within a ``with`` block."""
        _set_handler(_handler)
        saved = [(owner, name, getattr(owner, name)) for owner, name, _ in OTHERS]
        for owner, name, problem in OTHERS:
            setattr(owner, name, self._wrapped(getattr(owner, name), problem))
        _state[ON] = 1
        try:
            yield
        finally:
            _state[ON] = 0
            for owner, name, real in saved:
                setattr(owner, name, real)

    def _wrapped(self, real: Any, problem: Callable[[], Exception]) -> Any:
        def call(*args: Any, **keywords: Any) -> Any:
            if _refuses(_state):
                raise problem()
            return real(*args, **keywords)

        return call


def _set_handler(handler: _Handler) -> None:
    """Have numpy allocate the data of arrays of this thread by a handler from now on."""
    core = getattr(np, "_core", None) or np.core
    get = ctypes.pythonapi.PyCapsule_GetPointer
    get.restype, get.argtypes = _pointer, [ctypes.py_object, ctypes.c_char_p]
    table = get(core._multiarray_umath._ARRAY_API, None)
    new = ctypes.pythonapi.PyCapsule_New
    new.restype, new.argtypes = ctypes.py_object, [_pointer, ctypes.c_char_p, _pointer]
    # The place of PyDataMem_SetHandler in the table of numpy's C API, since 1.22.
    address = ctypes.cast(table, ctypes.POINTER(_pointer))[304]
    set_handler = ctypes.PYFUNCTYPE(ctypes.py_object, ctypes.py_object)(address)
    set_handler(new(ctypes.addressof(handler), b"mem_handler", None))


def place(problem: BaseException | None, n: int) -> str:
    """Where in the library an exception was raised."""
    found = "no exception"
    trace = problem.__traceback__ if problem else None
    while trace is not None:
        path = trace.tb_frame.f_code.co_filename
        if interrupted.OURS in path:
            found = f"{path.rpartition(interrupted.OURS)[2]}:{trace.tb_lineno}"
        trace = trace.tb_next
    return f"#{n}, {found}"


# ------------------------------------------------------------------------------ what is done

ROWS = np.array([7, 100, 7, 3, 55, 119, 0])
PICKED = np.array([3, 30, 8])
X, Y = np.arange(COLUMNS) + 1.0, np.arange(OLD.shape[0]) + 1.0


def walked(A: Any) -> Any:
    if not isinstance(A, diskcsr.DiskCSR | diskcsr.DiskCSC):
        return A
    blocks = [block for _, block in A.iter_blocks(max_bytes=2000)]
    return sp.vstack(blocks) if A.format == "csr" else sp.hstack(blocks)


def batched(A: Any) -> Any:
    if not isinstance(A, diskcsr.DiskCSR | diskcsr.DiskCSC):
        return A
    batches = [batch.copy() for batch in A.batches(50, shuffle=False)]
    return sp.vstack(batches) if A.format == "csr" else sp.hstack(batches)


def checked(A):
    """Check the file; that memory ran out is the only thing that may be wrong with it."""
    if not isinstance(A, diskcsr.DiskCSR | diskcsr.DiskCSC):
        return True
    found = diskcsr.check(A.group.file.filename, isolated=False)
    if [problem.kind for problem in found.problems] == ["ended"]:
        raise MemoryError
    return found.ok


#: What reads, given a matrix on disk or in memory.
READS: dict[str, Callable[[Any], Any]] = {
    "A[i, j]": lambda A: A[7, 3],
    "A[i]": lambda A: A[7],
    "A[2:50]": lambda A: A[2:50],
    "A[rows]": lambda A: A[ROWS],
    "A[:, columns]": lambda A: A[:, PICKED],
    "A[rows, columns]": lambda A: A[ROWS[:3], PICKED],
    "A[ix]": lambda A: A[np.ix_(ROWS, PICKED)],
    "A[mask]": lambda A: A[np.arange(A.shape[0]) % 3 == 0],
    "A[:]": lambda A: A[:],
    "iter_blocks": walked,
    "batches": batched,
    "to_memory": lambda A: A.to_memory() if hasattr(A, "to_memory") else A,
    "toarray": lambda A: A.toarray(),
    "tocsc": lambda A: A.tocsc(),
    "tocoo": lambda A: A.tocoo(),
    "A.T[rows]": lambda A: A.T[PICKED],
    "A @ x": lambda A: A @ X,
    "y @ A": lambda A: Y @ A,
    "A @ D": lambda A: A @ np.stack([X, -X], axis=1),
    "sum(0)": lambda A: A.sum(0),
    "sum(1)": lambda A: A.sum(1),
    "max(0)": lambda A: A.max(0),
    "mean": lambda A: A.mean(),
    "2 * A": lambda A: 2 * A,
    "A + A": lambda A: A + A,
    "A.multiply": lambda A: A.multiply(X),
    "A > 5": lambda A: A > 5,
    "abs": lambda A: abs(A),
    "vstack": lambda A: sp.vstack([A, A]),
    "pickle": lambda A: pickle.loads(pickle.dumps(A)),
    "repr": lambda A: len(repr(A)) > 10,
    "str": lambda A: len(str(A)) > 10,
    "check": checked,
}
#: Of which file: how it is stored, and which way.
FILES = {"raw": (None, "csr"), "gzip": ("gzip", "csr"), "csc, gzip": ("gzip", "csc")}


def prepare(folder: Path) -> None:
    """Make the files that are read."""
    for name, (compression, format) in FILES.items():
        matrix = OLD.asformat(format)
        diskcsr.write(folder / f"{name}.h5", matrix, compression=compression, chunks=256).close()


def plain(result: Any) -> np.ndarray:
    return result.toarray() if sp.issparse(result) else np.asarray(result)


# ------------------------------------------------------------------------------- a trial


def attempt(work: Callable[[], Any], n: int) -> tuple[Any, BaseException | None, str]:
    """Return a result, or the exception that came out, and where it was raised."""
    try:
        return work(), None, place(None, n)
    except BaseException as problem:
        where = place(problem, n)
        problem.__cause__ = problem.__context__ = None
        return None, problem.with_traceback(None), where


def refused_rightly(problem: BaseException | None, where: str) -> None:
    """A shortage of memory is said to be one."""
    assert problem is None or isinstance(problem, MemoryError), f"{where}: raised {problem!r}"


def read_trial(kind: str, file: str, folder: Path, n: int, times: int) -> str:
    """Read with a shortage in it; return what came of it, or "not reached"."""
    path, operation = folder / f"{file}.h5", READS[kind]
    expected = plain(operation(OLD.asformat(FILES[file][1])))
    shortage = Shortage(n, times)
    before = descriptors()
    with diskcsr.open(path) as A:
        with shortage.active():
            result, problem, at = attempt(partial(operation, A), n)
        if not shortage.fired:
            return "not reached"
        where = f"{kind}, {file}, {at}"
        refused_rightly(problem, where)
        if problem is None:
            np.testing.assert_array_equal(plain(result), expected, where)
        else:
            held = sorted({"data", "indices", "indptr"} & A.__dict__.keys())
            assert not held, f"{where}: {held} stayed loaded"
        del result
        np.testing.assert_array_equal(plain(operation(A)), expected, f"{where}: again")
        with open(path) as other:
            fcntl.flock(other, fcntl.LOCK_SH | fcntl.LOCK_NB)
    del A  # and with it the maps that it handed out
    gc.collect()
    left = descriptors() - before
    assert not left, f"{where}: descriptors left: {left}"
    with open(path) as other:
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return "result" if problem is None else "MemoryError"


def write_trial(kind: str, folder: Path, n: int, times: int) -> str:
    """Write with a shortage in it; return the state that came of it, or "not reached"."""
    operation, shortage = interrupted.KINDS[kind], Shortage(n, times)
    fds, files = descriptors(), sorted(os.listdir(folder))
    with shortage.active():
        _, problem, at = attempt(lambda: operation.run(folder), n)
    if not shortage.fired:
        return "not reached"
    where = f"{kind}, {at}"
    refused_rightly(problem, where)
    gc.collect()
    found = interrupted.judge(operation, folder, files, fds, where)
    assert problem is not None or found == "new", f"{where}: no error, but {found}"
    return found


def trials(kind: str, file: str, *, step: int, first: int = 0, times: int = 1) -> Iterator[str]:
    """Yield what came of refusing the n-th allocation, every `step`-th; "!" before what is wrong.

    `file` is one of `FILES` for what reads, "" for what writes.
    """
    with tempfile.TemporaryDirectory() as base:
        source = Path(base, "source")
        source.mkdir()
        if file:
            prepare(source)
        else:
            interrupted.prepare(source, interrupted.KINDS[kind])
        n = first
        while True:
            folder = source
            if not file:
                folder = Path(base, "trial")
                shutil.copytree(source, folder)
            if file:
                found = in_child(lambda: read_trial(kind, file, source, n, times))  # noqa: B023
            else:
                found = in_child(lambda: write_trial(kind, folder, n, times))  # noqa: B023
                shutil.rmtree(folder)
            if found == "not reached":
                return
            yield found
            n += step


def all_kinds() -> list[tuple[str, str]]:
    """What is tried, with the file that it is tried on."""
    reads = [(kind, file) for kind in READS for file in FILES]
    return reads + [(kind, "") for kind in interrupted.KINDS]


def warm_up() -> None:
    """Load and compile what the operations need, so that no trial has to."""
    interrupted.warm_up()
    with tempfile.TemporaryDirectory() as base:
        prepare(Path(base))
        for file in FILES:
            with diskcsr.open(Path(base, f"{file}.h5")) as A:
                for operation in READS.values():
                    operation(A)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--kinds", nargs="*", default=[*READS, *interrupted.KINDS])
    parser.add_argument("--step", type=int, default=1)
    parser.add_argument("--times", type=int, default=1, help="allocations in a row")
    chosen = parser.parse_args()
    diskcsr.options.num_threads = 1
    warm_up()
    total: Counter[str] = Counter()
    began = time.monotonic()
    for kind, file in all_kinds():
        if kind not in chosen.kinds:
            continue
        found: Counter[str] = Counter()
        for what in trials(kind, file, step=chosen.step, times=chosen.times):
            if what.startswith("!"):
                print(f"{kind}, {file}: {what[1:]}", flush=True)
                what = "FAILED"
            found[what] += 1
        total += found
        print(f"{kind:24} {file:12} {dict(found)}", flush=True)
    print(f"{total.total()} trials in {time.monotonic() - began:.0f} s: {dict(total)}")
    sys.exit(bool(total["FAILED"]))


if __name__ == "__main__":
    main()
