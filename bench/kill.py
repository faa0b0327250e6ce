"""Kill writers at random moments, and see whether their files hold a state they should hold.

    python bench/kill.py [--kills 1000] [--seed N] [--json OUT]

A child process assigns to, appends to, replaces or writes matrices, call after call, until SIGKILL
ends it; the file is then opened, compared value by value with the states before and after the call
that was cut short, and written to by the next child. The kills are shared out among the kinds of
call. "rolled back" counts the kills in the middle of a transaction, which the next opening undid;
"between" those of an iterable of blocks after which some, a whole number, had been appended. The
exit status is 1 when a file held anything else.
"""

import sys
import time
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
from common import SEED, count, script
from kills import KINDS, kill

COLUMNS = ["kills", "rolled back", "before", "between", "after", "failures"]
ROUND = 25  # kills before a file is begun anew: states, and the time to compare them, grow


def row(name, found):
    print(f"{name:<32}" + "".join(f"{found[column]:>13,}" for column in COLUMNS), flush=True)


def run(args, folder):
    """Return {kind: counts}, and print them."""
    start, results = time.perf_counter(), {}
    print(" " * 32 + "".join(f"{column:>13}" for column in COLUMNS))
    for number, name in enumerate(KINDS):
        left = args.kills * (number + 1) // len(KINDS) - args.kills * number // len(KINDS)
        found = Counter()
        while found["kills"] < left:
            some = min(ROUND, left - found["kills"])
            found += kill(
                name, Path(folder, "killed"), some, f"{args.seed} {name} {found['kills']}"
            )
            if found["failures"]:
                break
        results[name] = {column: found[column] for column in COLUMNS}
        row(name, found)
    total = sum((Counter(found) for found in results.values()), Counter())
    row("all", total)
    print(f"{time.perf_counter() - start:.0f} s")
    return results | {"all": {column: total[column] for column in COLUMNS}}


OPTIONS = {"--kills": count(1000), "--seed": SEED}


if __name__ == "__main__":
    results = script(run, __doc__, "some MB", OPTIONS)
    sys.exit(1 if results["all"]["failures"] else 0)
