"""Readers beside a writer: whatever they read is a state that was committed.

    python tests/beside.py [--seconds 60] [--kind KIND ...]

A process changes a matrix as fast as it can, while two others read it: one opens it anew each time,
one keeps it open, refreshes and fetches. Each state follows from its number, so that a mixture of
two is seen. Counted is how each attempt ended: "consistent", or with the errors that are promised,
"Locked" and "Stale"; anything else is "corrupt" or "raw", and the exit status 1.
"""

import argparse
import contextlib
import multiprocessing
import sys
import tempfile
import time
import traceback
from collections import Counter

import h5py
import numpy as np
from kills import BLOCK, Append, Assign, matrix, number_of

import diskcsr
from diskcsr.errors import CorruptFileError, LockedFileError, StaleFileError

#: The most blocks of rows a matrix gets that is appended to, before it is begun anew.
MOST = 40


class Growing(Append):
    """Blocks are appended; when there are many, an empty matrix takes the place of that one."""

    #: Seconds between two changes.
    pause = 0.0

    def changes(self):
        """Change the matrix at each step."""
        with diskcsr.File(self.path, "r+") as file:
            while True:
                self.change(file)
                yield

    def change(self, file):
        with diskcsr.open(file, "X", mode="r+") as A:
            blocks = A.shape[0] // BLOCK
            if blocks < MOST:
                self.call(A, blocks)
                return
        diskcsr.write(file, matrix(0, BLOCK)[:0], overwrite=True, compression=self.compression)

    @staticmethod
    def judge(found):
        """Be sure that this is a committed state."""
        blocks, rest = divmod(found.shape[0], BLOCK)
        assert rest == 0, found.shape
        for n in range(blocks):
            assert number_of(found[n * BLOCK : (n + 1) * BLOCK], BLOCK) == n


class Following(Growing):
    """As a program appends that now and then has something to append."""

    pause = 0.02


class Reopening(Growing):
    """The file is opened for each change, and closed."""

    def changes(self):
        while True:
            with contextlib.suppress(LockedFileError), diskcsr.File(self.path, "r+") as file:
                self.change(file)
            yield


class ByH5py(Growing):
    """Another program opens the file for each change; HDF5's lock keeps readers out meanwhile."""

    pause = 0.005

    def changes(self):
        while True:
            with contextlib.suppress(BlockingIOError), h5py.File(self.path, "r+") as file:
                self.change(file)
            yield


class Assigning(Assign):
    """All values change where they are: the length of the file stays."""

    rows = 200
    pause = 0.0

    def changes(self):
        with diskcsr.open(self.path, mode="r+") as A:
            for n in range(10**9):
                self.call(A, n)
                yield

    @staticmethod
    def judge(found):
        number_of(found)


KINDS = {
    "append": Growing,
    "append, gzip": lambda folder: Growing(folder, "gzip"),
    "append now and then": Following,
    "append, opened each time": Reopening,
    "append by h5py": ByH5py,
    "assign": Assigning,
    "assign, gzip": lambda folder: Assigning(folder, "gzip"),
}


def opening(path, judge):
    """Open, read all and close."""

    def attempt():
        with diskcsr.open(path) as A:
            judge(A.to_memory())

    return attempt


def following(path, judge):
    """Refresh an array that stays open, and read it in two ways."""
    A = None

    def attempt():
        nonlocal A
        A = diskcsr.open(path) if A is None else A
        A.refresh()
        first = A[:BLOCK]
        found = A.fetch(np.arange(A.shape[0]))
        assert (first != found[:BLOCK]).nnz == 0, "two states of one array"
        judge(found)

    return attempt


READERS = {"opening": opening, "following": following}


def read(attempt, until):
    """Read until a time; return how the attempts ended, and what went wrong."""
    found, wrong = Counter(), []
    while time.monotonic() < until:
        found["attempts"] += 1
        try:
            attempt()
            found["consistent"] += 1
        except LockedFileError:
            found["Locked"] += 1
        except StaleFileError:
            found["Stale"] += 1
        except Exception as problem:
            found["corrupt" if isinstance(problem, CorruptFileError) else "raw"] += 1
            wrong.append(traceback.format_exc())
    return found, wrong


def _change(kind, stop, results):
    changes, done = kind.changes(), 0
    while not stop.is_set():
        next(changes)
        done += 1
        time.sleep(kind.pause)
    changes.close()
    results.put(("changes", done))


def _read(kind, name, until, results):
    results.put((name, *read(READERS[name](kind.path, kind.judge), until)))


def beside(name, folder, seconds):
    """Change and read for some seconds.

    Returns
    -------
    changes : int
        How many the writer made.
    found : {reader: Counter}
    wrong : list of str
        Tracebacks of what must not happen.
    """
    fork = multiprocessing.get_context("fork")
    kind = KINDS[name](folder)
    kind.start()
    next(kind.changes())  # what is needed is loaded here, and not in each child
    for reader in READERS.values():
        reader(kind.path, kind.judge)()
    stop, results = fork.Event(), fork.Queue()
    until = time.monotonic() + seconds
    readers = [fork.Process(target=_read, args=(kind, r, until, results)) for r in READERS]
    writer = fork.Process(target=_change, args=(kind, stop, results))
    for process in (writer, *readers):
        process.start()
    found, wrong = {}, []
    for _ in READERS:
        reader, counts, problems = results.get(timeout=seconds + 60)
        found[reader] = counts
        wrong += problems
    stop.set()
    _, changes = results.get(timeout=60)
    for process in (writer, *readers):
        process.join(60)
        assert process.exitcode == 0
    return changes, found, wrong


COLUMNS = ["attempts", "consistent", "Locked", "Stale", "corrupt", "raw"]


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=60, help="for each kind")
    parser.add_argument("--kind", nargs="*", choices=list(KINDS), default=list(KINDS))
    args = parser.parse_args()
    bad = False
    print(f"{'':<40}" + "".join(f"{column:>12}" for column in COLUMNS))
    for name in args.kind:
        with tempfile.TemporaryDirectory() as folder:
            changes, found, wrong = beside(name, folder, args.seconds)
        print(f"{name}: {changes:,} changes")
        for reader, counts in found.items():
            row = "".join(f"{counts[column]:>12,}" for column in COLUMNS)
            print(f"    {reader:<36}{row}", flush=True)
        for text in wrong[:3]:
            print(text)
        bad |= bool(wrong)
    sys.exit(bad)


if __name__ == "__main__":
    main()
