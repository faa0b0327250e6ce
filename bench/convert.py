"""CSR to CSC and concatenation from file to file, against scipy in memory and anndata on disk.

Each measurement is a process of its own; its peak memory is what the kernel says at its end
(VmHWM). The matrix is that of bench/engine.py.
"""

import json
import subprocess
import sys
from pathlib import Path

import anndata
import numpy as np
from common import (
    COLUMNS,
    ROWS,
    SCALE,
    STORED_PER_ROW,
    count,
    machine,
    make_matrix,
    read_through,
    script,
    versions,
)

import diskcsr

LIMIT, LARGEST_RATIO = 512 << 20, 3

CHILD = """
import json, re, sys, time
sys.path[:0] = [sys.argv[1]]
import diskcsr
def held():
    status = open("/proc/self/status").read()
    return int(re.search(r"VmHWM:\\s+(\\d+)", status).group(1)) * 1024
task, small, max_memory, target, *files = sys.argv[2:]
def to_csc(source, target):
    diskcsr.open(source, "X").save(target, format="csc", max_memory=int(max_memory)).close()
def in_memory(source, target):
    X = diskcsr.open(source, "X").to_memory()
    start = time.perf_counter()
    X.tocsc()
    return time.perf_counter() - start
def concat(files, target):
    diskcsr.concat(files, target, max_memory=int(max_memory)).close()
def peer(files, target):
    from anndata.experimental import concat_on_disk
    concat_on_disk(files, target)
call = {"to_csc": to_csc, "scipy": in_memory, "concat": concat, "anndata": peer}[task]
several = task in ("concat", "anndata")
if task != "scipy":  # compiled or imported before it is timed
    call([small, small] if several else small, target + ".warm.h5ad")
start = time.perf_counter()
own = call(files if several else files[0], target)
print(json.dumps({"seconds": own or time.perf_counter() - start, "peak": held()}))
"""


def child(task, small, target, files, max_memory):
    """Do one task in a process of its own; return the seconds and the peak of its memory."""
    root = str(Path(diskcsr.__file__).resolve().parent.parent)
    command = [sys.executable, "-W", "ignore", "-c", CHILD, root, task, small, max_memory, target]
    result = subprocess.run(
        [*map(str, command), *map(str, files)], check=True, stdout=subprocess.PIPE, text=True
    )
    return json.loads(result.stdout.splitlines()[-1])


def report(label, found):
    print(
        f"    {label:<32}{found['seconds']:>9.2f} s{found['peak'] / 2**20:>9,.0f} MiB", flush=True
    )


def check(path, expected, format):
    with diskcsr.open(path) as A:
        rows = np.linspace(0, expected.shape[0] - 1, 5).astype(int)
        same = A.format == format and A.nnz == expected.nnz
        if not same or (abs(A[rows].tocsr() - expected[rows])).sum():
            raise SystemExit(f"{path.name}: wrong answer")


def run(args, folder):
    folder = Path(folder)
    for value in (machine(), versions()):
        print(", ".join(f"{key} {item}" for key, item in value.items()))
    rng = np.random.default_rng(0)
    X = make_matrix(max(8, int(ROWS * args.scale)), COLUMNS, STORED_PER_ROW, rng)
    small, whole = folder / "small.h5ad", folder / "whole.h5"
    anndata.AnnData(X[:8]).write_h5ad(small)
    diskcsr.write(whole, X).close()
    edges = np.linspace(0, X.shape[0], 5).astype(int)
    files = [folder / f"part{number}.h5ad" for number in range(4)]
    for file, a, b in zip(files, edges, edges[1:], strict=False):
        anndata.AnnData(X[a:b]).write_h5ad(file)
    for file in (whole, *files):
        read_through(file)
    limit, results = args.max_memory << 20, {}

    print(f"CSR to CSC of {X.nnz:,} values, max_memory {args.max_memory} MiB; peak resident memory")
    for task, label in (("to_csc", "diskcsr, file to file"), ("scipy", "scipy, memory to memory")):
        results[task] = child(task, small, folder / "csc.h5", [whole], limit)
        report(label, results[task])
    check(folder / "csc.h5", X, "csc")
    ratio = results["to_csc"]["seconds"] / results["scipy"]["seconds"]
    met = "met" if ratio <= LARGEST_RATIO and results["to_csc"]["peak"] <= LIMIT else "MISSED"
    print(f"    ratio {ratio:.2f} (at most {LARGEST_RATIO}) within {LIMIT >> 20} MiB: {met}")

    print("concatenation of 4 files")
    for task, label in (("concat", "diskcsr"), ("anndata", "anndata concat_on_disk")):
        results[task] = child(task, small, folder / f"{task}.h5ad", files, limit)
        report(label, results[task])
    check(folder / "concat.h5ad", X, "csr")
    return results


OPTIONS = {"--scale": SCALE, "--max-memory": count(256, "MiB")}


if __name__ == "__main__":
    script(run, __doc__, "5 GB", OPTIONS)
