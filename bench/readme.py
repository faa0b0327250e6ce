"""Record benchmark runs, and make the tables and figures from the records.

    python bench/readme.py              write the tables into bench/README.rst, the figure into
                                        README.rst and bench/neurons.svg, from bench/results
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

from diskcsr.bench.figures import overview_as_text, save_overview
from diskcsr.bench.report import about, summary

HERE = Path(__file__).resolve().parent
FRONT, PAGE, FIGURE = HERE.parent / "README.rst", HERE / "README.rst", HERE / "neurons.svg"

#: What is recorded: the arguments of ``python -m diskcsr.bench``.
RUNS = {
    "neurons": "--rows 45000 --peers scipy,diskcsr,memmap,h5py,anndata --timeout 300",
    "gzip": "--rows 20000 --compression gzip --peers scipy,diskcsr,h5py,anndata --timeout 600",
    "loaders": "--workload tahoe --rows 30000 --ops minibatches,blocks --timeout 300 "
    "--peers scipy,diskcsr,h5py,scdataset,annbatch",
    "peers": "--peers all --timeout 120",
}
#: What a page shows between its marks: of which page, the mark, and of which records.
FIGURES, TABLES = ("neurons",), tuple(RUNS)


def record_of(name):
    return HERE / "results" / f"{name}.json"


def load(name):
    return json.loads(record_of(name).read_text(encoding="utf-8"))


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
    return [*(f"| {line}" for line in about(run)), "", rule, lines[0], rule, *lines[1:], rule]


def figure_of(run):
    """Return a run's ratios as a text figure, and what it says of rows in words.

    Text, because a package index shows no picture that is not on a server of its own.
    """
    rows, columns = run["matrix"]["shape"]
    return [
        *("::", "", *(f"    {line}".rstrip() for line in overview_as_text(run)), ""),
        f"{rows:,} x {columns:,}, {run['matrix']['stored']:,} stored values of "
        f"{run['matrix']['dtype']}; {run['machine']['cores']} cores. Rows cost "
        f"{span(run, 'diskcsr')} times what scipy's own",
        f"indexing takes in memory, with anndata {span(run, 'anndata')} times.",
    ]


def span(run, peer):
    """Return between which ratios to scipy a system fetches rows, as words."""
    ratios = [
        result["over_scipy"]
        for result in run["results"]
        if result["peer"] == peer and result["op"] in ("rows", "runs", "mask")
    ]
    return f"{min(ratios):.3g} to {max(ratios):.3g}"


def filled(text, mark, names, draw):
    """Return a page's text with what is between its marks made anew."""
    for name in names:
        part = "\n".join(
            [f".. {mark}: {name}", "", *draw(load(name)), "",
             f"``python -m diskcsr.bench {RUNS[name]}``", "", f".. end of {mark}"]
        )  # fmt: skip
        pattern = rf"^\.\. {mark}: {name}$.*?^\.\. end of {mark}$"
        text, count = re.subn(
            pattern, lambda _, part=part: part, text, flags=re.DOTALL | re.MULTILINE
        )
        if count != 1:
            raise SystemExit(f"a page has {count} places for the {mark} {name!r}, not one")
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
    stale = []
    for page, made in (
        (FRONT, lambda text: filled(text, "figure", FIGURES, figure_of)),
        (PAGE, lambda text: filled(text, "record", TABLES, table_of)),
    ):
        old = page.read_text(encoding="utf-8")
        new = made(old)
        if new != old:
            stale.append(page)
            if not args.check:
                page.write_text(new, encoding="utf-8")
    if args.check:
        for page in stale:
            print(f"{page.relative_to(HERE.parent)} is not what bench/results says: "
                  "python bench/readme.py")  # fmt: skip
        return int(bool(stale))
    save_overview(load("neurons"), FIGURE)
    return 0


if __name__ == "__main__":
    sys.exit(main())
