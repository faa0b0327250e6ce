"""Kill writers at random moments, and see whether their files hold a state they should hold.

    python bench/kill.py [--kills 1000] [--seed N] [--json OUT]

A child process assigns to, appends to, replaces or writes matrices, call after call, until SIGKILL
ends it; the file is then opened, compared value by value with the states before and after the call
that was cut short, and written to by the next child. The kills are shared out among the kinds of
call. "rolled back" counts the kills in the middle of a transaction, which the next opening undid;
"between" those of an iterable of blocks after which some, a whole number, had been appended. The
exit status is 1 when a file held anything else.
"""

import argparse
import sys
import time
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
from common import run_in_folder
from kills import KINDS, kill

COLUMNS = ["kills", "rolled back", "before", "between", "after", "failures"]
ROUND = 25  # kills before a file is begun anew: states, and the time to compare them, grow


def row(name, found):
    print(f"{name:<32}" + "".join(f"{found[column]:>13,}" for column in COLUMNS), flush=True)


def run(kills, seed, folder):
    """Return {kind: counts}, and print them."""
    results = {}
    print(" " * 32 + "".join(f"{column:>13}" for column in COLUMNS))
    for number, name in enumerate(KINDS):
        left = kills * (number + 1) // len(KINDS) - kills * number // len(KINDS)
        found = Counter()
        while found["kills"] < left:
            some = min(ROUND, left - found["kills"])
            found += kill(name, Path(folder, "killed"), some, f"{seed} {name} {found['kills']}")
            if found["failures"]:
                break
        results[name] = {column: found[column] for column in COLUMNS}
        row(name, found)
    total = sum((Counter(found) for found in results.values()), Counter())
    row("all", total)
    return results | {"all": {column: total[column] for column in COLUMNS}}


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--kills", type=int, default=1000, help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", help="where to put the temporary folder")
    parser.add_argument("--json", metavar="OUT", help="write the results to this file as well")
    args = parser.parse_args(argv)
    start = time.perf_counter()
    results = run_in_folder(lambda args, folder: run(args.kills, args.seed, folder), args)
    print(f"{time.perf_counter() - start:.0f} s")
    return 1 if results["all"]["failures"] else 0


if __name__ == "__main__":
    sys.exit(main())
