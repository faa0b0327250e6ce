"""How straight the way of an operation is: calls of Python functions, files, crossings.

    python bench/calls.py [--json OUT]

Counted are calls of functions that this library defines, the files they lie in, and how often a
call leads from one of these files into another. One thread, the second time an operation is done:
what is imported or compiled at first use is no part of it. With PYTHONPATH at another checkout the
same is counted there.
"""

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np

import diskcsr

sys.path.insert(0, str(Path(__file__).resolve().parent))
from common import SEED, make_matrix, script, versions

ROOT = str(Path(diskcsr.__file__).resolve().parent)


def calls_of(work: Callable[[], object]) -> tuple[int, int, int]:
    """Count calls, files and crossings of one piece of work."""
    calls, crossings, files = 0, 0, set()

    def note(frame, event, _):
        nonlocal calls, crossings
        if event != "call" or not frame.f_code.co_filename.startswith(ROOT):
            return
        calls += 1
        files.add(frame.f_code.co_filename)
        caller = frame.f_back
        while caller is not None and not caller.f_code.co_filename.startswith(ROOT):
            caller = caller.f_back
        if caller is not None and caller.f_code.co_filename != frame.f_code.co_filename:
            crossings += 1

    sys.setprofile(note)
    try:
        work()
    finally:
        sys.setprofile(None)
    return calls, len(files), crossings


def operations(folder, rng):
    """Yield (name, function without arguments) of each operation."""
    X = make_matrix(1000, 2000, 100, rng)
    raw, packed, grown = (Path(folder, f"{name}.h5") for name in ("raw", "gzip", "grown"))
    diskcsr.write(raw, X).close()
    diskcsr.write(packed, X, compression="gzip").close()
    diskcsr.write(grown, X).close()
    A, B, C = diskcsr.open(raw), diskcsr.open(packed), diskcsr.open(grown, mode="r+")
    rows, columns = rng.choice(1000, 200, replace=False), rng.choice(2000, 50, replace=False)
    number = iter(range(100))
    yield "A[rows], raw", lambda: A[rows]
    yield "A[rows], gzip", lambda: B[rows]
    yield "A[:, columns]", lambda: A[:, columns]
    yield (
        "write(blocks)",
        lambda: diskcsr.write(Path(folder, f"{next(number)}.h5"), iter([X[:500], X[500:]])),
    )
    yield "A.append(block)", lambda: C.append(X[:10])
    yield "open", lambda: diskcsr.open(raw)


def run(args, folder):
    """Count, print, and return the results."""
    print(", ".join(f"{key} {item}" for key, item in versions().items()))
    diskcsr.set_num_threads(1)
    print(f"{'':<18}{'calls':>8}{'files':>8}{'crossings':>12}")
    found = {}
    for name, work in operations(folder, np.random.default_rng(args.seed)):
        work()
        found[name] = calls_of(work)
        print("{:<18}{:>8}{:>8}{:>12}".format(name, *found[name]))
    return found


if __name__ == "__main__":
    script(run, __doc__, "10 MB", {"--seed": SEED})
