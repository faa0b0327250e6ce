"""What a run found, as text, as JSON and as one HTML page that needs nothing else."""

import json
from html import escape
from typing import Any

from ..machine.options import format_bytes
from ..machine.terminal import print_table
from .figures import chart_uri

__all__ = ["about", "as_html", "as_json", "print_report", "summary"]

HEAD = ("system", "median ms", "spread ms", "x scipy", "peak", "read", "limit ms")
SHOWN = {
    "n/a": "n/a",
    "wrong": "WRONG",
    "failed": "failed",
    "memory": "out of memory",
    "timeout": "timeout",
}


def _ms(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    ms = seconds * 1000
    return f"{ms:,.0f}" if ms >= 100 else f"{ms:.3g}"


def _times(ratio: float | None) -> str:
    if ratio is None:
        return "-"
    return f"{ratio:.2f}" if ratio < 100 else f"{ratio:,.0f}"


def _row(result: dict[str, Any]) -> tuple[str, ...]:
    """Return the cells of one system's line."""
    if result["status"] != "ok":
        return (result["system"], SHOWN[result["status"]], "", "", "", "", _ms(result["limit"]))
    times = sorted(result["all"])
    return (
        result["system"],
        _ms(result["median"]),
        f"{_ms(times[0])} to {_ms(times[-1])}",
        _times(result.get("over_scipy")),
        format_bytes(result["peak"]),
        "-" if result["read"] is None else format_bytes(result["read"]),
        _ms(result["limit"]),
    )


def summary(run: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Return head and rows of operations times systems: medians, and ratios to scipy."""
    systems = list(dict.fromkeys(result["system"] for result in run["results"]))
    rows = []
    for operation, results in _operations(run).items():
        found = {result["system"]: result for result in results}
        rows.append([operation, *(_brief(found[system]) for system in systems)])
    return ["ms (x scipy)", *systems], rows


def _brief(result: dict[str, Any]) -> str:
    if result["status"] != "ok":
        return SHOWN[result["status"]]
    ratio = result.get("over_scipy")
    own = ratio is None or result["peer"] == "scipy"
    return _ms(result["median"]) + ("" if own else f" ({_times(ratio)})")


def _operations(run: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    groups: dict[str, list[dict[str, Any]]] = {}
    for result in run["results"]:
        groups.setdefault(result["operation"], []).append(result)
    return groups


def about(run: dict[str, Any]) -> list[str]:
    """Return lines on what was measured, and where."""
    matrix, machine, settings = run["matrix"], run["machine"], run["settings"]
    rows, columns = matrix["shape"]
    asked = any(result.get("cold") for result in run["results"])
    cache = "warm page cache"
    if settings["cold"]:
        cache = "files dropped from the page cache" if asked else "the page cache was not dropped"
    named = (f"{name} {number}" for name, number in run["versions"].items() if number)
    turns = "systems take turns" if run["in_turns"] else "one system after the other, to fit memory"
    busy = run["busy_with_others"]
    others = "" if busy is None else f"; other processes kept {busy:.2f} cores busy"
    took = f"{run['date']}, {run['seconds']:.0f} s"
    return [
        f"{matrix['what']}: {rows:,} x {columns:,} {matrix['format']}, {matrix['stored']:,} stored "
        f"values of {matrix['dtype']}, {format_bytes(matrix['bytes'])}",
        f"{machine['cpu']}, {machine['cores']} cores, {machine['diskcsr_threads']} threads, "
        f"{format_bytes(machine['memory_bytes'])}; {cache}",
        ", ".join(named),
        f"medians of fresh random keys, answers checked, a process each; {turns}{others}; {took}",
    ]


def _below(run: dict[str, Any]) -> list[str]:
    """Return lines on what the tables leave out."""
    lines = [f"{title}: {note}" for title, note in run["notes"].items()]
    lines += [f"{peer}: not installed; pip install {what}" for peer, what in run["missing"].items()]
    whys: dict[str, str] = {}
    for result in run["results"]:
        if result.get("why"):
            line = f"{SHOWN[result['status']]}: {result['why']}"
            whys.setdefault(f"{result['system']}: {line}", result["operation"])
    lines += [f"{operation}, {line}" for line, operation in whys.items()]
    if run["not_asked"]:
        lines.append(f"more systems: --peers {','.join(run['not_asked'])}, or --peers all")
    lines.append(
        "x scipy: time over that of scipy in memory; peak: memory above that of the idle process; "
        "read: bytes asked of files by one call; limit: what the compressor alone or a copy in "
        "memory takes for the stored values that are needed"
    )
    return lines


def print_report(run: dict[str, Any]) -> None:
    """Print the tables: one of all medians, then one for each operation with all there is."""
    print("\n".join(about(run)))
    print()
    print_table(*summary(run), numbers_from=1)
    for operation, results in _operations(run).items():
        print(f"\n{operation}")
        print_table(HEAD, [_row(result) for result in results], numbers_from=1)
    print()
    print("\n".join(_below(run)))


def as_json(run: dict[str, Any]) -> str:
    """Return everything as JSON; times are in seconds, sizes in bytes."""
    return json.dumps(run, indent=1)


_STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; max-width: 62em; margin: 2em auto; padding: 0 1em;
       color: #222; background: #fff }
h1 { font-size: 1.5em } h2 { font-size: 1.1em; margin: 1.8em 0 .3em }
p, li { margin: .2em 0; color: #555 }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums }
th, td { text-align: right; padding: .15em .6em; border-bottom: 1px solid #e4e4e4 }
th:first-child, td:first-child { text-align: left }
td.bad { color: #b00020; font-weight: bold }
img { display: block; width: 100%; height: auto; margin: .4em 0 }
"""


def _chart(operation: str, results: list[dict[str, Any]]) -> str:
    timed = [result for result in results if result["status"] == "ok"]
    if not timed:
        return ""
    uri = chart_uri(timed, [f"{_ms(result['median'])} ms" for result in timed])
    return f'<img alt="{escape(operation)}: median times" src="{uri}"/>'


def _table(head: Any, rows: list[Any], bad: list[bool]) -> str:
    """Return a table; the second cell of a bad row stands out."""
    lines = ["<table>", "<tr>" + "".join(f"<th>{escape(name)}</th>" for name in head) + "</tr>"]
    for row, wrong in zip(rows, bad, strict=True):
        cells = [f"<td>{escape(cell)}</td>" for cell in row]
        if wrong:
            cells[1] = cells[1].replace("<td>", '<td class="bad">')
        lines.append("<tr>" + "".join(cells) + "</tr>")
    return "\n".join([*lines, "</table>"])


def as_html(run: dict[str, Any]) -> str:
    """Return one page with tables and charts; it refers to nothing outside itself."""
    parts = [
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8"/>',
        f"<title>diskcsr bench</title>\n<style>{_STYLE}</style>\n</head>\n<body>",
        "<h1>diskcsr and its peers</h1>",
        *(f"<p>{escape(line)}</p>" for line in about(run)),
        "<p>Dots are medians on a logarithmic scale; the broken line is scipy in memory, the "
        "dotted one the limit.</p>",
    ]
    head, rows = summary(run)
    parts.append(_table(head, rows, [False] * len(rows)))
    for operation, results in _operations(run).items():
        bad = [result["status"] not in ("ok", "n/a") for result in results]
        table = _table(HEAD, [_row(result) for result in results], bad)
        parts += [f"<h2>{escape(operation)}</h2>", _chart(operation, results), table]
    parts += ["<h2>Notes</h2>", "<ul>", *(f"<li>{escape(line)}</li>" for line in _below(run))]
    return "\n".join([*parts, "</ul>", "</body>", "</html>", ""])
