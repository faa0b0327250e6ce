"""The command line: ``diskcsr bench``, ``diskcsr-bench`` or ``python -m diskcsr.bench``."""

import argparse
import os
import re
import sys
from pathlib import Path
from typing import Any

from ..machine.terminal import Parser, called_as, print_table, run_program, say
from .adapters import PEERS, load_adapter
from .cases import CASES, GROUPS
from .figures import require_matplotlib, save_overview
from .report import as_html, as_json, print_report
from .run import Settings, load_own, measure, require_extras
from .workloads import WORKLOADS

__all__ = ["main"]

COMPRESSIONS = ("raw", "gzip", "lzf", "zstd")
_EPILOG = """\
examples:
  %(prog)s                          generated data, four systems, under two minutes
  %(prog)s cells.h5ad X             reading your own file; it is not changed
  %(prog)s --ops rows,columns --peers scipy,diskcsr,anndata
  %(prog)s cells.h5ad --ops compute sums and products of it, beside scipy in memory
  %(prog)s --workload criteo --rows 50000 --compression zstd --threads 4
  %(prog)s cells.h5ad --cold --json out.json --html out.html --figure out.png
  %(prog)s --peers diskcsr,mymodule:MyAdapter
      a system of your own: a subclass of diskcsr.bench.adapters.base.Adapter
  %(prog)s --list                   systems, operations and workloads there are

Every cell of the table is measured in a process of its own, after its answer was compared with the
right one. Each repeat asks for fresh random rows, and systems take turns, so that whatever else the
machine does meets all alike. Times are medians of the repeats; a cell stops early once it has two
times and took a second.

exit codes: 0 fine; 1 an answer was wrong; 2 wrong usage, or a file cannot be opened or written
"""


def _names(what: str, known: Any, groups: Any) -> Any:
    def parse(text: str) -> list[str]:
        given = [name.strip() for name in text.split(",") if name.strip()]
        names = [name for one in given for name in groups.get(one, [one])]
        for name in names:
            if name not in known and not (what == "peer" and ":" in name):
                raise argparse.ArgumentTypeError(
                    f"no {what} {name!r}; there are {', '.join(known)}"
                )
        if not names:
            raise argparse.ArgumentTypeError(f"no {what} given")
        return list(dict.fromkeys(names))

    return parse


def _count(text: str) -> int:
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"a whole number from 1 on, not {text!r}")
    return int(text)


def _parser(prog: str) -> Parser:
    usual = Settings()
    parser = Parser(
        prog=prog,
        description="Measure diskcsr and its peers on generated data, or reading a file.",
        epilog=_EPILOG,
    )
    add = parser.add_argument
    add("file", nargs="?", metavar="FILE", help="HDF5 file to read instead of generated data")
    add("name", nargs="?", metavar="NAME", help="its matrix; needed when there are several")
    add(
        "--peers",
        type=_names("peer", PEERS, {"all": list(PEERS)}),
        default=usual.peers,
        metavar="A,B",
        help=f"systems to compare, or all (default: {','.join(usual.peers)})",
    )
    add(
        "--ops",
        type=_names("operation", CASES, GROUPS),
        default=None,
        metavar="A,B",
        help="operations; compute: sums and products; all (default: all but svds, which takes "
        "long; of a file those that read)",
    )
    add(
        "--workload",
        choices=list(WORKLOADS),
        default=None,
        help=f"what the generated data is like (default: {usual.workload})",
    )
    add("--rows", type=_count, help="rows to generate; may exceed memory (default: see --list)")
    add(
        "--compression",
        choices=COMPRESSIONS,
        default=None,
        help="of generated files, in HDF5 (default: raw; zstd needs hdf5plugin for some)",
    )
    add("--chunks", type=_count, metavar="N", help="elements a chunk (default: each system's own)")
    add("--threads", type=_count, metavar="N", help="threads of diskcsr (default: all cores)")
    add("--cold", action="store_true", help="drop files from the page cache before each repeat")
    add(
        "--repeat",
        type=_count,
        default=usual.repeat,
        metavar="N",
        help="repeats of a cell (default: %(default)s)",
    )
    add(
        "--timeout",
        type=_count,
        default=int(usual.timeout),
        metavar="S",
        help="seconds for a cell with all it prepares (default: %(default)s)",
    )
    add("--json", metavar="OUT", help="write everything as JSON")
    add("--html", metavar="OUT", help="write a page with charts, one file (needs matplotlib)")
    add("--figure", metavar="OUT", help="draw all of it into a PNG or SVG file (needs matplotlib)")
    add("--quiet", action="store_true", help="do not say what is measured at the moment")
    add("--list", action="store_true", help="list systems, operations and workloads, and stop")
    return parser  # fmt: skip


def _list() -> None:
    rows = []
    for peer in PEERS:
        cls = load_adapter(peer)
        missing = cls.missing()
        there = f"no: pip install {missing}" if missing else "yes"
        rows.append((peer, cls.title, there, cls.note))
    print_table(("--peers", "system", "installed", "note"), rows, numbers_from=4)
    print()
    ops = [(op, case.title) for op, case in CASES.items()]
    print_table(("--ops", "operation"), ops, numbers_from=2)
    print()
    sizes = [
        (name, load.title, f"{load.rows:,}", f"{load.full_rows:,}", f"{load.columns:,}")
        for name, load in WORKLOADS.items()
    ]
    print_table(("--workload", "like", "rows", "really", "columns"), sizes, numbers_from=2)


def _check_outputs(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Refuse early what could not be written in the end."""
    for out in filter(None, (args.json, args.html, args.figure)):
        folder = os.path.dirname(os.path.abspath(out))
        if not os.path.isdir(folder) or os.path.isdir(out):
            parser.error(f"{out} cannot be written")
        if args.file is not None and os.path.exists(out) and os.path.samefile(out, args.file):
            parser.error(f"{out} is the file that is measured")
    if args.html or args.figure:
        require_matplotlib()
    if args.figure and not args.figure.lower().endswith((".png", ".svg")):
        parser.error(f"--figure writes a .png or .svg file, not {args.figure}")
    if args.figure and "scipy" not in args.peers:
        parser.error("--figure compares with scipy: put it among --peers")


def _settings(parser: argparse.ArgumentParser, args: argparse.Namespace) -> Settings:
    """Check options against each other; return what is left to do."""
    if args.file is not None:
        for option in ("workload", "rows", "compression", "chunks"):
            if getattr(args, option) is not None:
                parser.error(f"--{option} is for generated data, not for a file")
        if args.ops and "write" in args.ops:
            parser.error("write is not measured on a file of yours")
    usual = [op for op, case in CASES.items() if not case.long]
    ops = args.ops or [op for op in usual if args.file is None or op != "write"]
    _check_outputs(parser, args)
    if any(":" in peer for peer in args.peers):
        sys.path.insert(0, os.getcwd())  # the installed program does not begin with it
    for peer in args.peers:
        load_own(peer)
    require_extras(args.peers, args.compression)
    given = {
        key: value
        for key, value in vars(args).items()
        if key not in ("json", "html", "figure", "list", "ops", "quiet") and value is not None
    }
    return Settings(**given, ops=ops)


def _run(parser: argparse.ArgumentParser, args: argparse.Namespace) -> int:
    if args.list:
        _list()
        return 0
    settings = _settings(parser, args)
    run = measure(settings, (lambda text: None) if args.quiet else say)
    if not args.quiet:
        say("")
    print_report(run)
    for out, form in ((args.json, as_json), (args.html, as_html)):
        if out:
            Path(out).write_text(form(run), encoding="utf-8")
    if args.figure:
        save_overview(run, args.figure)
    return int(any(result["status"] == "wrong" for result in run["results"]))


def main(argv: list[str] | None = None, prog: str | None = None) -> int:
    """Run the benchmark.

    Parameters
    ----------
    argv : list of str, optional
        Arguments; those of the process when None.
    prog : str, optional
        What it was called by, where another program calls it.

    Returns
    -------
    int
        The exit code: 0 fine, 1 an answer was wrong, 2 usage or a file that cannot be used.
    """
    parser = _parser(prog or called_as("diskcsr-bench", "diskcsr.bench"))
    if prog is None:
        parser.short = "diskcsr-bench"
    args = parser.parse_args(argv)
    return run_program(parser.short, lambda: _run(parser, args), _in_options)


def _in_options(text: str) -> str:
    """Say as a command what a message says in calls of Python."""
    return re.sub(r"\bdiskcsr\.convert\('([^']+)', '([^']+)'\)", r"diskcsr convert \1 \2", text)


if __name__ == "__main__":
    sys.exit(main())
