"""A writer that is killed again and again, and what must be in its file then.

Shared by test_kills.py and bench/kill.py. All that a file holds follows from one number, its state:
what is found after a kill is compared with that, value by value.
"""

import contextlib
import os
import random
import shutil
import signal
import time
from collections import Counter
from pathlib import Path

import h5py
import numpy as np
from scipy.sparse import csr_array

import diskcsr
from diskcsr.storage.edit import update
from diskcsr.storage.journal.rollback import is_hot

COLUMNS, PER_ROW = 300, 30
BLOCK = 50  # rows of what is appended
CALLS = 7  # blocks of an iterable


def matrix(n, rows=200):
    """A csr_array whose first value is `n`, as all others follow from it."""
    indices = (np.arange(PER_ROW) * 10 + np.arange(rows)[:, None] % 10).reshape(-1)
    data = (np.arange(indices.size) * 31 + n).astype(np.float32)
    indptr = np.arange(0, indices.size + 1, PER_ROW, dtype=np.int32)
    return csr_array((data, indices.astype(np.int32), indptr), (rows, COLUMNS))


def number_of(found, rows=200):
    """Return the `n` of a matrix, and be sure that it is that matrix."""
    n = int(found.data[0])
    expected = matrix(n, rows)
    assert found.shape == expected.shape
    for name in ("indptr", "indices", "data"):
        assert np.array_equal(getattr(found, name), getattr(expected, name)), name
    return n


class Kind:
    """What is done: `start` makes state 0, each `call` is a step, `state` tells how far it got."""

    #: States that one call may go through.
    steps = 1
    rows = 200

    def __init__(self, folder, compression=None):
        self.folder, self.path = Path(folder), Path(folder, "m.h5")
        self.compression = compression

    def start(self):
        X = matrix(0, self.rows)
        diskcsr.write(self.path, X, compression=self.compression, chunks=1000).close()

    def caller(self):
        """Open what is written to; return the function that brings state n to the next."""
        A = diskcsr.open(self.path, mode="r+")
        return lambda n: self.call(A, n)

    def state(self):
        with diskcsr.open(self.path) as A:
            return number_of(A.to_memory(), self.rows)


class Assign(Kind):
    rows = 1500

    def call(self, A, n):
        A[:] = matrix(n + 1, self.rows)


class Scale(Kind):
    """In place: all values are 1 + n after n products."""

    def start(self):
        ones = matrix(0)
        ones.data[:] = 1
        diskcsr.write(self.path, ones.astype(np.float64), compression=self.compression).close()

    def call(self, A, n):
        A *= (n + 2) / (n + 1)

    def state(self):
        with diskcsr.open(self.path) as A:
            data = A.to_memory().data
        assert data.size
        assert np.all(data == data[0])
        return round(data[0]) - 1


class Append(Kind):
    def start(self):
        X = matrix(0, BLOCK)[:0]
        diskcsr.write(self.path, X, compression=self.compression).close()

    def call(self, A, n):
        A.append(matrix(n, BLOCK))

    def state(self):
        with diskcsr.open(self.path) as A:
            found = A.to_memory()
        blocks, rest = divmod(found.shape[0], BLOCK)
        assert rest == 0
        for n in range(blocks):
            assert number_of(found[n * BLOCK : (n + 1) * BLOCK], BLOCK) == n
        return blocks


class AppendBlocks(Append):
    """An iterable of blocks, in several transactions: a whole number of them is there."""

    steps = CALLS

    def call(self, A, n):
        update._COMMITTED = 3 * BLOCK * PER_ROW
        A.append(matrix(n + i, BLOCK) for i in range(CALLS))


class Replace(Kind):
    """A matrix takes the place of another, now csr, now csc."""

    def caller(self):
        file = diskcsr.File(self.path, "r+")

        def call(n):
            X = matrix(n + 1)
            file["X"] = X.tocsc() if n % 2 else X

        return call

    def state(self):
        with h5py.File(self.path) as file:
            assert list(file) == ["X"]
        with diskcsr.open(self.path) as A:
            found = A.to_memory().tocsr()
        found.sort_indices()
        return number_of(found)


class NewGroup(Kind):
    def start(self):
        h5py.File(self.path, "w").close()

    def caller(self):
        return lambda n: diskcsr.write(self.path, matrix(n), f"m{n}").close()

    def state(self):
        with diskcsr.File(self.path) as file:
            names = set(file)
            for n in range(len(names)):
                assert number_of(file[f"m{n}"].to_memory()) == n
        return len(names)


class NewFile(Kind):
    """Files of their own: each is whole, or not there."""

    def start(self):
        pass

    def caller(self):
        return lambda n: diskcsr.write(self.folder / f"{n}.h5", matrix(n)).close()

    def state(self):
        names = sorted(self.folder.glob("[0-9]*.h5"))
        for name in names:
            with diskcsr.open(name) as A:
                assert number_of(A.to_memory()) == int(name.stem)
        for left in self.folder.glob(".*.h5.*"):  # what a killed process was at, under its own name
            left.unlink()
        return len(names)


KINDS = {
    "assignment": Assign,
    "assignment, gzip": lambda folder: Assign(folder, "gzip"),
    "in place, A *= 2": Scale,
    "append": Append,
    "append, gzip": lambda folder: Append(folder, "gzip"),
    "append of an iterable": AppendBlocks,
    "append of an iterable, gzip": lambda folder: AppendBlocks(folder, "gzip"),
    "replacing a matrix": Replace,
    "a new group": NewGroup,
    "a new file": NewFile,
}


def killed_after(kind, begin, seconds):
    """Call and call again in a child, until it is killed; return how many calls came to an end."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        with contextlib.suppress(BaseException):
            call = kind.caller()
            os.write(write, b".")
            for n in range(10**6):
                call(begin + n * kind.steps)
                os.write(write, b".")
        os._exit(1)
    os.close(write)
    with os.fdopen(read, "rb", buffering=0) as pipe:
        ready = len(pipe.read(1))
        time.sleep(seconds)
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        status = os.waitpid(pid, 0)[1]
        calls = len(pipe.readall())
    assert (ready, status) == (1, signal.SIGKILL), "the writer failed by itself"
    return calls


def kill(name, folder, kills, seed, longest=0.04):
    """Kill a writer that many times.

    Returns
    -------
    Counter
        "kills"; of these "rolled back"; found in the state "before" the call that was cut short,
        "after" it, or (of an iterable) "between": after some blocks; and "failures": neither.
    """
    shutil.rmtree(folder, ignore_errors=True)
    Path(folder).mkdir()
    kind = KINDS[name](folder)
    kind.start()
    kind.caller()(0)  # what the calls need is loaded here, and not in each child anew
    random_, found, begin = random.Random(seed), Counter(), kind.steps
    for _ in range(kills):
        calls = killed_after(kind, begin, random_.uniform(0, longest))
        found["kills"] += 1
        found["rolled back"] += is_hot(kind.path)
        whole = begin + calls * kind.steps
        try:
            begin = kind.state()
            ahead = begin - whole
            assert 0 <= ahead <= kind.steps, f"state {begin} after {whole} and a part"
        except Exception as problem:
            found["failures"] += 1
            print(f"{name}, kill {found['kills']}: {type(problem).__name__}: {problem}", flush=True)
            return found
        found["before" if ahead == 0 else "after" if ahead == kind.steps else "between"] += 1
    return found
