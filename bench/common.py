"""What the benchmark scripts share: the matrix, answers checked, turns, the machine, options."""

import argparse
import json
import resource
import tempfile
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from scipy.sparse import csr_array, issparse

import diskcsr
from diskcsr.bench.machine import (
    Others,
    codec_speed,
    machine,
    memcpy_speed,
    versions,
    write_speed,
)
from diskcsr.bench.workloads import odds_of, present

__all__ = ["Others", "codec_speed", "machine", "memcpy_speed", "versions", "write_speed"]

ROWS, COLUMNS, STORED_PER_ROW = 60_000, 28_000, 1500
REFERENCE, OWN, PEER = "scipy in memory", "diskcsr", "anndata"

# The matrix


def make_matrix(n_rows, n_columns, mean_stored, rng):
    """Return a random csr_array with the proportions of single-cell counts.

    Row lengths are lognormal around `mean_stored`; a few columns are in nearly every row and most
    in few. Column j is stored in row i with odds ``scale[i] * weight[j]``, the scale being what
    makes the row's expected length right. Columns come out sorted, without duplicates.
    """
    spread = 0.3
    stored = mean_stored * rng.lognormal(-(spread**2) / 2, spread, n_rows)
    weight = rng.lognormal(0, 2, n_columns).astype(np.float32)
    lengths, indices = present(odds_of(weight, stored), weight, rng)
    indptr = np.concatenate([[0], np.cumsum(lengths)])
    counts = np.minimum(rng.zipf(2.2, 1 << 16), 1024).astype(np.float32)
    data = counts[rng.integers(0, 1 << 16, indices.size, np.uint16)]
    index_dtype = np.int32 if indptr[-1] < 2**31 else np.int64
    return csr_array((data, indices, indptr.astype(index_dtype)), (n_rows, n_columns))


# Taking turns


def check(system, operation, got, expected):
    """Raise SystemExit unless `got` holds exactly the values of scipy's `expected`."""
    if issparse(expected):
        parts = []
        for matrix in (got, expected):
            matrix = csr_array(matrix, copy=True)
            matrix.sort_indices()
            parts.append((matrix.shape, matrix.indptr, matrix.indices, matrix.data))
        same = issparse(got) and all(map(np.array_equal, *parts))
    else:
        same = np.shape(got) == np.shape(expected) and got == expected
    if not same or got.dtype != expected.dtype:
        raise SystemExit(f"{system}: wrong answer to {operation}: {got!r}, not {expected!r}")


def turn(names, repeat, repeats, peer_repeats):
    """Return who is timed in this repeat, in an order that rotates.

    anndata takes seconds for some operations: a few repeats, spread over the others'.
    """
    names = list(names)
    first = repeat % len(names)
    now = names[first:] + names[:first]
    spare = repeat % max(1, repeats // max(1, peer_repeats))
    return [name for name in now if not (spare and name.startswith(PEER))]


def peak_memory():
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # Linux counts in KiB


def print_busy(others):
    """Print, and return, how many cores other processes kept busy."""
    cores = others.cores()
    if cores is not None:
        print(f"other processes kept {cores:.2f} cores busy meanwhile")
    return cores


def read_through(file):
    """Read a file once, so that it is in the page cache."""
    with open(file, "rb") as stream:
        while stream.read(1 << 24):
            pass


# Being a script

#: Options that several scripts take, as keywords of `add_argument`.
SEED = {"type": int, "default": 0}
SCALE = {"type": float, "default": 1.0, "help": "of the number of rows"}
THREADS = {"type": int, "help": "of diskcsr (default: its own)"}


def count(default, what=""):
    """Return the keywords of an option that takes a whole number."""
    return {"type": int, "default": default, "help": f"{what} (default: %(default)s)".strip()}


def some_of(names):
    """Return the keywords of an option that takes some of `names`; default: all of them."""
    return {"nargs": "+", "choices": list(names), "default": list(names), "metavar": "NAME"}


def script(run, doc, room, options, argv=None, needs=()):
    """Parse the options, call ``run(args, folder)`` with a folder that is removed, keep results.

    Parameters
    ----------
    run : function of (args, folder)
        Measures, prints, and returns what is to be kept as JSON.
    doc : str
        Of the script; its first line says what it does.
    room : str
        What the folder must have room for.
    options : dict
        ``{"--name": keywords of add_argument}``.
    needs : tuple of str
        Modules that are imported later; without them nothing is begun.

    Returns
    -------
    dict
        What `run` returned.
    """
    parser = argparse.ArgumentParser(description=doc.partition("\n")[0])
    for name, keywords in options.items():
        parser.add_argument(name, **keywords)
    parser.add_argument("--folder", help=f"where to put the temporary folder (needs {room})")
    parser.add_argument("--json", metavar="OUT", help="write the results to this file as well")
    args = parser.parse_args(argv)
    missing = [name for name in needs if find_spec(name) is None]
    if missing:
        parser.error(f"{', '.join(missing)} not installed: pip install 'diskcsr[bench]'")
    if getattr(args, "threads", None) is not None:
        diskcsr.set_num_threads(args.threads)
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        results = run(args, folder)
    if args.json:
        Path(args.json).write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    return results
