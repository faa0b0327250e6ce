"""The command line: ``diskcsr info|check|convert|bench``, or ``python -m diskcsr``."""

import argparse
import json
import re
import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import diskcsr

from .errors import DiskCSRError, FormatError
from .exporting.export import TARGETS, target_of
from .importing.chosen import chosen_lines
from .importing.table import kinds
from .machine.options import format_bytes
from .machine.terminal import Parser, called_as, print_table, run_program
from .storage.check.check import check
from .storage.check.describe import info, info_apart

__all__ = ["main", "parse_size"]

_EPILOG = """\
examples:
  %(prog)s info cells.h5ad             what is inside, and how fast it reads
  %(prog)s check cells.h5ad            look for damage, in bounded memory
  %(prog)s convert a.mtx b.h5          from Matrix Market to HDF5
  %(prog)s bench cells.h5ad X          measure it on this machine

exit codes: 0 fine; 1 check found problems; 2 wrong usage, or a file cannot be opened
"""
_INFO = """\
examples:
  %(prog)s cells.h5ad             all sparse matrices in the file
  %(prog)s cells.h5ad layers/raw  one of them
  %(prog)s cells.h5ad --deep      also reads all indices: are they sorted?
  %(prog)s upload.h5 --untrusted  of a file that may be meant to do harm
  %(prog)s cells.h5ad --json      the same as JSON

"reader" says what serves an array: direct (straight from the file), decode (chunks decoded in
several threads), h5py (anything else, slower); a line below says why it is not a faster one.
"ratio" is bytes in memory over bytes on disk; "chunk" is in elements.
"""
_CHECK = """\
examples:
  %(prog)s cells.h5ad            list all problems; exit code 1 if there are any
  %(prog)s cells.h5ad X          of one matrix
  %(prog)s cells.h5ad --repair   mend what can be mended without guessing

A repair works on a copy that takes the file's place in the end: it needs room for one, and an
interrupted one changes nothing. It cuts off what lies behind the last row, cuts appends that were
not finished back to the last row that all three arrays hold, writes tags that are missing or
stale, and sorts indices.
"""
_CONVERT = """\
examples:
  %(prog)s matrix.mtx m.h5                         from Matrix Market
  %(prog)s filtered.h5 m.h5 --format csr           10x: by rows, not by columns
  %(prog)s m.h5 z.h5 --compression gzip --level 4  other compression
  %(prog)s cells.h5ad m.h5 --source-name layers/raw --max-memory 500MB
  %(prog)s m.h5 s.h5 --permute-rows --rng 0        rows in random order
  %(prog)s m.h5 s.h5 --rows keep.npy --columns genes.txt       some of it

  %(prog)s ratings.csv m.h5 --fields user,item,stars --labels sorted
  %(prog)s filtered_feature_bc_matrix/ m.h5        10x: a folder
  %(prog)s loom.loom m.h5                          dense, by blocks

  %(prog)s m.h5 m.mtx.gz                           HDF5 to Matrix Market
  %(prog)s m.h5 cells.h5ad --to h5ad               a whole file of AnnData

SRC is an HDF5 file of any known kind (h5ad, h5sparse, 10x, MATLAB v7.3, binsparse; dense ones,
too), or else what --from may say, which the name or the beginning of a file mostly tells.
DST is HDF5, unless its name, or --to, says otherwise.

--rows and --columns, of a sparse matrix in HDF5, take a:b or a:b:step as in Python, or a file: .npy
with a mask or with integers, or a text of whole numbers. Numbers begin at 0; their order is kept,
and so are repeats. Rows that are not chosen are not read, of a matrix by columns those columns. The
last hundred are --rows=-100:
"""
#: Seconds without progress after which a process that looks at a file is ended.
_SILENCE = 300.0
_UNITS = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}


def parse_size(text: str) -> int:
    """Return the bytes that a size stands for.

    Examples
    --------
    >>> parse_size("500MB"), parse_size("2GiB"), parse_size("4096")
    (500000000, 2147483648, 4096)
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmgt]?)(i?)b?", text.strip(), re.IGNORECASE)
    if match is None or (match[3] and not match[2]):
        raise argparse.ArgumentTypeError(f"not a size: {text!r}; write 500MB or 2GiB")
    size = int(float(match[1]) * (1024 if match[3] else 1000) ** _UNITS[match[2].lower()])
    if size < 1:
        raise argparse.ArgumentTypeError(f"a size must be positive, not {text!r}")
    return size


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        called_as("diskcsr", "diskcsr"),
        description="Sparse matrices in HDF5 files: look at them, check and repair them, "
        "convert them, measure them.",
        epilog=_EPILOG,
    )
    parser.add_argument("--version", action="version", version=f"diskcsr {diskcsr.__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    def command(name: str, run: Callable[[Any], int], about: str, epilog: str) -> Any:
        sub = commands.add_parser(name, help=about, description=about, epilog=epilog)
        sub.set_defaults(run=run)
        if run is not _bench:  # which has its own
            sub.add_argument("--quiet", action="store_true", help="show no progress")
        return sub

    look = command("info", _info, "Say what is in a file and how it is read.", _INFO)
    look.add_argument("file", metavar="FILE")
    look.add_argument("name", metavar="NAME", nargs="?", help="one group (default: all)")
    look.add_argument("--deep", action="store_true", help="read all indices: are they sorted?")
    look.add_argument(
        "--untrusted",
        action="store_true",
        help="within limits of time and memory, and of no file that leads to others",
    )
    look.add_argument("--json", action="store_true", help="print JSON")
    tests = command("check", _check, "Look for damage in a file; repair it.", _CHECK)
    tests.add_argument("file", metavar="FILE")
    tests.add_argument("name", metavar="NAME", nargs="?", help="one group (default: all)")
    tests.add_argument("--repair", action="store_true", help="mend what can be mended")
    tests.add_argument("--json", action="store_true", help="print JSON")
    _add_convert(command("convert", _convert, "Store a matrix another way.", _CONVERT))
    about = "Measure reading, on generated data or on a file; see bench --help."
    command("bench", _bench, about, "").add_argument("rest", nargs=argparse.REMAINDER)
    return parser


def _count(text: str) -> int:
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"a whole number from 1 on, not {text!r}")
    return int(text)


def _listed(text: str) -> list[str]:
    return text.split(",")


def _add_convert(sub: argparse.ArgumentParser) -> None:
    add = sub.add_argument
    add("source", metavar="SRC")
    add("file", metavar="DST")
    add("--source-name", help="the matrix in SRC (default: the only one)")
    add("--name", default="X", help="its name in DST (default: X)")
    add("--from", dest="source_kind", metavar="KIND", help=f"what SRC is: {', '.join(kinds())}")
    targets = ", ".join(target.name for target in TARGETS)
    add("--to", dest="kind", metavar="KIND", help=f"what to write: {targets} (default: HDF5)")
    add("--fields", type=_listed, metavar="ROW,COLUMN[,VALUE]", help="of a table (default: first)")
    add("--labels", choices=("appearance", "sorted"), help="number the labels of a table")
    add("--shape", type=int, nargs=2, metavar=("ROWS", "COLUMNS"), help="default: it is learned")
    add("--dtype", help="of the values (default: as they come)")
    add("--duplicates", choices=("sum", "last", "error", "keep"), help="of one place in SRC")
    add("--format", choices=("csr", "csc"), help="default: as it is in SRC")
    add("--compression", help="as in diskcsr.write: gzip, zstd, lz4, ... (default: none)")
    add("--level", dest="compression_opts", type=int, metavar="N", help="of the compression")
    add("--chunks", type=_count, metavar="N", help="elements of a chunk (default: 65536)")
    add("--max-memory", type=parse_size, metavar="SIZE", help="as 500MB or 2GiB")
    add("--keep-order", action="store_true", help="leave indices within rows as they are ordered")
    add("--sum-duplicates", action="store_true", help="add up indices that are stored twice")
    add("--rows", metavar="WHICH", help="only these: a:b, or a file with a mask or numbers")
    add("--columns", metavar="WHICH", help="likewise")
    add("--permute-rows", action="store_true", help="put rows in random order")
    add("--rng", type=int, metavar="N", help="number that settles that order (default: another)")
    add("--overwrite", action="store_true", help="replace a matrix of that name in DST")
    add("--no-progress", dest="quiet", action="store_true", help=argparse.SUPPRESS)
    add("--json", action="store_true", help="print what was written as JSON")


# -------------------------------------------------------------------------------------- commands


def _info(args: Any) -> int:
    # Who looks at a file may not know it. The time to start a process is not noticed here.
    if args.untrusted or not sys.executable:
        how = {"deep": args.deep, "untrusted": args.untrusted, "progress": _progress(args)}
        facts = info(args.file, args.name, **how)
    else:
        facts = info_apart(args.file, args.name, args.deep, _SILENCE, _progress(args))
    if args.json:
        _print_json(facts)
        return 0
    print(f"{facts['file']}: {format_bytes(facts['bytes'])}")
    if facts["instead"] is not None:
        print(f"no sparse matrix; it has {facts['instead']}")
    for matrix in facts["matrices"]:
        print()
        _print_matrix(matrix)
    return 0


def _check(args: Any) -> int:
    report = check(args.file, args.name, repair=args.repair, progress=_progress(args))
    unopened = [problem for problem in report.problems if problem.kind == "open"]
    if unopened and not report.matrices and not args.json:
        where = "" if unopened[0].where == "/" else f" {unopened[0].where}:"
        raise DiskCSRError(f"{args.file}:{where} {unopened[0].what}")
    if args.json:
        _print_json(report.to_dict())
    else:
        print(report)
    return 2 if unopened and not report.matrices else int(not report.ok)


_CONVERT_KEYS = (
    "format",
    "compression",
    "compression_opts",
    "chunks",
    "max_memory",
    "sum_duplicates",
    "permute_rows",
    "rng",
    "overwrite",
    "source_name",
    "source_kind",
    "fields",
    "labels",
    "shape",
    "dtype",
    "duplicates",
    "name",
)


def _convert(args: Any) -> int:
    given = {key: getattr(args, key) for key in _CONVERT_KEYS}
    # What is not given is left to the defaults of `diskcsr.convert`; 0 is an `rng`.
    options = {
        key: value for key, value in given.items() if value is not None and value is not False
    }
    if args.keep_order:
        options["sort_indices"] = False
    if not args.quiet:
        options["progress"] = _progress(args)
    # To a file of AnnData, as to any HDF5, a matrix may be added.
    target = target_of(args.file)
    elsewhere = args.kind is not None or (target is not None and not target.hdf5)
    with _source(args) as source:
        if source is not args.source:
            options.pop("source_kind", None)
        if elsewhere:
            _export(source, args, options)
        else:
            diskcsr.convert(source, args.file, **options).close()
    if elsewhere:
        print(f"{args.file}: written")
        return 0
    facts = info(args.file, args.name)
    if args.json:
        _print_json(facts)
    else:
        _print_matrix(facts["matrices"][0])
    return 0


@contextmanager
def _source(args: Any) -> Iterator[Any]:
    """Give what is converted: the file by its name, or a lazy array of what is chosen of it."""
    if args.rows is None and args.columns is None:
        yield args.source
        return
    only = "--rows and --columns choose from a sparse matrix in HDF5: convert to one first"
    if args.source_kind not in (None, "hdf5"):
        raise ValueError(f"{args.source}: --from {args.source_kind}: {only}")
    try:
        matrix = diskcsr.open(args.source, args.source_name)
    except FormatError as problem:
        raise FormatError(f"{problem} ({only})") from None
    with matrix:
        chosen = matrix.lazy
        if args.rows is not None:
            chosen = chosen[chosen_lines(args.rows, matrix.shape[0], "rows")]
        if args.columns is not None:
            chosen = chosen[:, chosen_lines(args.columns, matrix.shape[1], "columns")]
        yield chosen


def _export(source: Any, args: Any, options: dict[str, Any]) -> None:
    """Write a file of another kind, of which less can be said."""
    takes = ("source_name", "compression", "overwrite", "progress")
    refused = [key for key in options if key not in takes and (key, options[key]) != ("name", "X")]
    if refused:
        named = ", ".join(f"{key}=" for key in refused)
        raise ValueError(f"{named}: not for a file that is no HDF5 of ours: {args.file}")
    given = {key: value for key, value in options.items() if key in takes}
    diskcsr.export(source, args.file, kind=args.kind, **given)


def _called(match: re.Match[str]) -> str:
    """Write a call of `diskcsr.convert` as a command."""
    source, file, more = match.groups()
    return f"diskcsr convert {shlex.quote(source)} {shlex.quote(file)} {more or ''}".rstrip()


#: What a message says in Python's words that is another word on the command line, or a call.
_WORDS: tuple[tuple[str, Any], ...] = (
    (r"\b([a-z_]+)=True\b", lambda match: f"--{match[1].replace('_', '-')}"),
    (r"\bshape=\(rows, columns\)", "--shape ROWS COLUMNS"),
    (r"\bsource_kind= ?", "--from "),
    (r"\bsort_indices=(False\b)?", "--keep-order"),
    (r"\bcompression_opts= ?", "--level "),
    (r"\bkind= ?", "--to "),
    (r"\bdiskcsr\.convert\('([^']+)', '([^']+)'(?:, (source_name='[^']+'))?\)", _called),
    (r"\bdiskcsr\.export\(A, '([^']+)'\)", r"diskcsr convert HDF5 \1"),
    (r"\bdiskcsr\.(convert|export) (makes|takes)\b", r"diskcsr convert \2"),
    (r"^max_memory is", "--max-memory is"),
    (r"\bdiskcsr\.options\.memory_budget\b", "DISKCSR_MEMORY_BUDGET"),
)


def _in_options(text: str) -> str:
    """Say in options of the command line what a message says in keywords.

    >>> _in_options("pass overwrite=True to replace it, or labels='sorted'")
    'pass --overwrite to replace it, or --labels sorted'
    >>> _in_options("diskcsr.convert('r.csv', 'r.h5') makes HDF5 of it; fields= names others")
    'diskcsr convert r.csv r.h5 makes HDF5 of it; --fields names others'
    """
    for pattern, words in _WORDS:
        text = re.sub(pattern, words, text)

    def option(match: re.Match[str]) -> str:
        return " ".join(filter(None, [f"--{match[1].replace('_', '-')}", match[2]]))

    text = re.sub(rf"\b({'|'.join(_CONVERT_KEYS)})=(?:'([^']+)')?", option, text)
    return re.sub(r"(--(?:from|to|level)) (?=[,:;.)]|$)", r"\1", text)


def _progress(args: Any) -> bool | None:
    """What to ask for: it is shown on standard error, and there alone."""
    return None if args.quiet else True


def _bench(args: Any) -> int:
    from .bench.__main__ import main as bench  # most calls have no need for it

    return bench(args.rest, f"{called_as('diskcsr', 'diskcsr')} bench")


# -------------------------------------------------------------------------------------- printing


def _print_json(facts: dict[str, Any]) -> None:
    print(json.dumps(facts, indent=2, default=str))


_COLUMNS = (
    "array", "dataset", "dtype", "reader", "filters", "elements", "chunk", "on disk", "in memory",
    "ratio",
)  # fmt: skip


def _print_matrix(matrix: dict[str, Any]) -> None:
    if matrix["error"] is not None:
        print(f"{matrix['name']}: cannot be opened: {matrix['error']}")
        return
    order = {True: "sorted", False: "not sorted", None: "order not looked at (--deep)"}
    rows, columns = matrix["shape"]
    print(
        f"{matrix['name']}: {matrix['format']} ({matrix['convention']}), {rows:,} x {columns:,}, "
        f"{matrix['nnz']:,} stored values of {matrix['dtype']}, density {matrix['density']:.3g}, "
        f"indices {order[matrix['sorted']]}"
    )
    arrays = matrix["arrays"]
    print_table(_COLUMNS, [_row(part, array) for part, array in arrays.items()], numbers_from=5)
    total = format_bytes(matrix["stored_bytes"]), format_bytes(matrix["memory_bytes"])
    ratio = "" if matrix["ratio"] is None else f" ({matrix['ratio']:.2f} times as much)"
    print(f"  {total[0]} on disk, {total[1]} in memory{ratio}")
    whys: dict[str, list[str]] = {}
    for part, array in arrays.items():
        whys.setdefault(f"read by {array['reader']}: {array['why']}", []).append(part)
    for why, parts in whys.items():
        print(f"  {', '.join(parts)}: {why}")
    for hint in matrix["hints"]:
        print(f"  hint: {hint}")


def _row(part: str, array: dict[str, Any]) -> tuple[str, ...]:
    filters = [
        f"{one['name']}({','.join(map(str, one['options']))})" if one["options"] else one["name"]
        for one in array["filters"]
    ]
    return (
        part,
        array["dataset"] or "(absent)",
        array["dtype"],
        array["reader"],
        " ".join(filters) or "none",
        f"{array['size']:,}",
        f"{array['chunks']:,}" if array["chunks"] else "contiguous",
        format_bytes(array["stored_bytes"]),
        format_bytes(array["memory_bytes"]),
        "" if array["ratio"] is None else f"{array['ratio']:.2f}",
    )


def main(argv: list[str] | None = None) -> int:
    """Run the command line.

    Parameters
    ----------
    argv : list of str, optional
        Arguments; those of the process when None.

    Returns
    -------
    int
        The exit code: 0 fine, 1 problems found, 2 usage or a file that cannot be opened.
    """
    argv = sys.argv[1:] if argv is None else argv
    if argv[:1] == ["bench"]:  # argparse would take the options for its own
        return _bench(argparse.Namespace(rest=argv[1:]))
    args = _parser().parse_args(argv)
    return run_program("diskcsr", lambda: int(args.run(args)), _in_options)


if __name__ == "__main__":
    sys.exit(main())
