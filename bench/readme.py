"""Record benchmark runs, and make README's tables and figure from the records.

    python bench/readme.py              write the tables and the figure from bench/results
    python bench/readme.py --check      say whether they are what the records say
    python bench/readme.py --measure    do the runs first (about ten minutes; all of them, or
                                        those that are named)

A record is what ``python -m diskcsr.bench --json`` writes, with the machine and the versions. The
other systems come with ``pip install "diskcsr[bench-peers]"``, all of them on Python 3.12.
"""

import argparse
import json
import re
import subprocess
import sys
from pathlib import Path

from diskcsr.bench.figures import save_overview
from diskcsr.bench.report import about, summary

HERE = Path(__file__).resolve().parent
README = HERE.parent / "README.rst"
FIGURE = HERE / "neurons.svg"

#: What is recorded: the arguments of ``python -m diskcsr.bench``.
RUNS = {
    "neurons": "--rows 45000 --peers scipy,diskcsr,memmap,h5py,anndata --timeout 300",
    "gzip": "--rows 20000 --compression gzip --peers scipy,diskcsr,h5py,anndata --timeout 600",
    "loaders": "--workload tahoe --rows 30000 --ops minibatches,blocks --timeout 300 "
    "--peers scipy,diskcsr,h5py,scdataset,annbatch",
    "peers": "--peers all --timeout 120",
}
#: Those that README shows; the others are for whoever looks into bench/results.
SHOWN = ("neurons", "gzip")


def record_of(name):
    return HERE / "results" / f"{name}.json"


def measure(names):
    for name in names:
        command = [sys.executable, "-m", "diskcsr.bench", *RUNS[name].split()]
        print("$ python -m diskcsr.bench", RUNS[name], flush=True)
        subprocess.run([*command, "--json", str(record_of(name))], check=True)


def table_of(run):
    """Return a run's medians as an RST table, under lines on what was measured where."""
    head, rows = summary(run)
    head = ["milliseconds (x scipy)", *head[1:]]
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    rule = "  ".join("=" * width for width in widths)
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in (head, *rows)
    ]
    return [*about(run), "", rule, lines[0], rule, *lines[1:], rule]


def filled(text):
    """Return README's text with what is between its marks made anew."""
    for name in SHOWN:
        run = json.loads(record_of(name).read_text(encoding="utf-8"))
        part = "\n".join(
            [f".. record: {name}", "", *table_of(run), "",
             f"``python -m diskcsr.bench {RUNS[name]}``", "", ".. end of record"]
        )  # fmt: skip
        pattern = rf"^\.\. record: {name}$.*?^\.\. end of record$"
        text, count = re.subn(
            pattern, lambda _, part=part: part, text, flags=re.DOTALL | re.MULTILINE
        )
        if count != 1:
            raise SystemExit(f"README.rst has {count} places for the record {name!r}, not one")
    return text


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--check", action="store_true", help="change nothing; exit code 1 if stale")
    parser.add_argument("--measure", action="store_true", help="record the runs first")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(RUNS)}")
    args = parser.parse_args(argv)
    for name in args.names:
        if name not in RUNS:
            parser.error(f"no record {name!r}; there are {', '.join(RUNS)}")
    if args.measure:
        measure(args.names or RUNS)
    text = README.read_text(encoding="utf-8")
    new = filled(text)
    if args.check:
        if new != text:
            print("README.rst is not what bench/results says: python bench/readme.py")
        return int(new != text)
    README.write_text(new, encoding="utf-8")
    save_overview(json.loads(record_of("neurons").read_text(encoding="utf-8")), FIGURE)
    return 0


if __name__ == "__main__":
    sys.exit(main())
