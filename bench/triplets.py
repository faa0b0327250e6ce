"""Triplets in random order to a file: how many a second, and within how much memory.

Each measurement is a process of its own; its peak memory is what the kernel says at its end
(VmHWM). Row, column and value are int32, int32 and float32; parts of a million of them are made as
they are asked for, which is measured alone first and counts as time of the conversion.
"CPU" is the processor time of all threads, in nanoseconds a triplet.
"""

import json
import subprocess
import sys
from pathlib import Path

from common import count, machine, script, versions

import diskcsr

#: Of a part. Rows and columns are powers of two, so that exchanging bits makes other triplets.
PART, ROWS, COLUMNS = 10**6, 1 << 20, 1 << 17

CHILD = """
import json, re, sys, time
sys.path[:0] = sys.argv[1:3]
import diskcsr
from triplets import parts
def held():
    status = open("/proc/self/status").read()
    return int(re.search(r"VmHWM:\\s+(\\d+)", status).group(1)) * 1024
target, n, max_memory, duplicates = sys.argv[3], *map(int, sys.argv[4:6]), sys.argv[6]
start = time.perf_counter()
for part in parts(n):
    pass
made, before = time.perf_counter() - start, held()
# Compiled before it is timed.
diskcsr.from_triplets(target + ".warm", parts(10**5), duplicates=duplicates).close()
start, used = time.perf_counter(), time.process_time()
A = diskcsr.from_triplets(target, parts(n), duplicates=duplicates, max_memory=max_memory)
seconds, used = time.perf_counter() - start, time.process_time() - used
found = {"seconds": seconds, "made": made, "cpu": used, "peak": held() - before}
print(json.dumps({**found, "stored": A.nnz, "sum": float(A[:1000].sum())}))
"""


def parts(n):
    """Yield `n` triplets in parts: no two parts are alike, and each is made in no time."""
    import numpy as np

    rng = np.random.default_rng(0)
    rows, columns = (rng.integers(0, top, PART).astype(np.int32) for top in (ROWS, COLUMNS))
    values = rng.integers(1, 6, PART).astype(np.float32)
    for number in range(-(-n // PART)):
        some = slice(0, min(PART, n - number * PART))
        bits = np.int32(number * 7919)
        yield rows[some] ^ bits % ROWS, columns[some] ^ bits % COLUMNS, values[some]


def measure(folder, n, max_memory, duplicates):
    """Store `n` triplets in a process of its own; return what it measured."""
    root, here = Path(diskcsr.__file__).resolve().parent.parent, Path(__file__).resolve().parent
    target = Path(folder) / "m.h5"
    command = [sys.executable, "-c", CHILD, root, here, target, n, max_memory, duplicates]
    result = subprocess.run(list(map(str, command)), check=True, stdout=subprocess.PIPE, text=True)
    for path in Path(folder).iterdir():
        path.unlink()
    return json.loads(result.stdout.splitlines()[-1])


def run(args, folder):
    """Print a line for each size and each way with duplicates."""
    largest, limit = int(args.largest), args.max_memory << 20
    print(f"{machine()}\n{versions()}\nwithin {args.max_memory} MiB")
    print(
        f"{'triplets':>14}{'duplicates':>12}{'seconds':>9}{'made in':>9}{'a second':>13}"
        f"{'CPU':>8}{'peak':>12}"
    )
    results = {}
    for n in (size for size in (10**5, 10**7, 10**8, 10**9) if size <= largest):
        sums = set()
        for duplicates in ("keep", "sum"):
            found = measure(folder, n, limit, duplicates)
            results[f"{n} {duplicates}"] = found
            sums.add(found["sum"])
            print(
                f"{n:>14,}{duplicates:>12}{found['seconds']:>9.2f}{found['made']:>9.2f}"
                f"{n / found['seconds']:>13,.0f}{found['cpu'] / n * 1e9:>5.0f} ns"
                f"{found['peak'] / 2**20:>8,.0f} MiB",
                flush=True,
            )
        assert results[f"{n} keep"]["stored"] == n
        assert len(sums) == 1, f"sums differ: {sums}"
    return results


OPTIONS = {
    "--largest": {"type": float, "default": 1e8, "help": "how many triplets, as 1e8 or 1e9"},
    "--max-memory": count(1024, "MiB"),
}


if __name__ == "__main__":
    script(run, __doc__, "40 GB for 1e9", OPTIONS)
