"""What a run found, as text, as JSON and as one HTML page that needs nothing else."""

import json
from html import escape
from typing import Any

from ..options import format_bytes

__all__ = ["as_html", "as_json", "as_text"]

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


def _row(result: dict[str, Any]) -> tuple[str, ...]:
    """Return the cells of one system's line."""
    if result["status"] != "ok":
        return (result["system"], SHOWN[result["status"]], "", "", "", "", _ms(result["limit"]))
    times = sorted(result["all"])
    ratio = result.get("over_scipy")
    return (
        result["system"],
        _ms(result["median"]),
        f"{_ms(times[0])} to {_ms(times[-1])}",
        "-" if ratio is None else f"{ratio:.2f}" if ratio < 100 else f"{ratio:,.0f}",
        format_bytes(result["peak"]),
        "-" if result["read"] is None else format_bytes(result["read"]),
        _ms(result["limit"]),
    )


def _operations(run: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    groups: dict[str, list[dict[str, Any]]] = {}
    for result in run["results"]:
        groups.setdefault(result["operation"], []).append(result)
    return groups


def _about(run: dict[str, Any]) -> list[str]:
    """Return lines on what was measured, and where."""
    matrix, machine, settings = run["matrix"], run["machine"], run["settings"]
    rows, columns = matrix["shape"]
    asked = any(result.get("cold") for result in run["results"])
    cache = "warm page cache"
    if settings["cold"]:
        cache = "files dropped from the page cache" if asked else "the page cache was not dropped"
    named = (f"{name} {number}" for name, number in run["versions"].items() if number)
    return [
        f"{matrix['what']}: {rows:,} x {columns:,} {matrix['format']}, {matrix['stored']:,} stored "
        f"values of {matrix['dtype']}, {format_bytes(matrix['bytes'])}",
        f"{machine['cpu']}, {machine['cores']} cores, {machine['diskcsr_threads']} threads, "
        f"{format_bytes(machine['memory_bytes'])}; {cache}",
        ", ".join(named),
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
    lines.append(
        "x scipy: time over that of scipy in memory; peak: memory above that of the idle process; "
        "read: bytes asked of files by one call; limit: what the compressor alone or a copy in "
        "memory takes for the stored values that are needed"
    )
    return lines


def as_text(run: dict[str, Any]) -> str:
    """Return the tables as plain text, one for each operation."""
    lines = _about(run)
    rows = [_row(result) for result in run["results"]]
    widths = [max(map(len, column)) for column in zip(HEAD, *rows, strict=True)]
    for operation, results in _operations(run).items():
        lines += ["", operation]
        for row in (HEAD, *map(_row, results)):
            cells = [cell.rjust(width) for cell, width in zip(row, widths, strict=True)]
            cells[0] = row[0].ljust(widths[0])
            lines.append("  " + "  ".join(cells).rstrip())
    return "\n".join([*lines, "", *_below(run)])


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
svg { display: block; width: 100%; height: auto; margin: .4em 0 }
text { font-size: 12px; fill: #222 }
.bar { fill: #8aa4c8 } .own { fill: #2b6cb0 } .line { stroke: #b00020; stroke-dasharray: 4 3 }
"""
WIDTH, LEFT, RIGHT, HIGH = 900, 170, 90, 22


def _chart(results: list[dict[str, Any]]) -> str:
    """Return bars of the medians, with a line where scipy's ends."""
    timed = [result for result in results if result["status"] == "ok"]
    if not timed:
        return ""
    longest = max(result["median"] for result in timed)
    scale = (WIDTH - LEFT - RIGHT) / longest if longest else 0.0
    high = HIGH * len(timed) + 4
    parts = [f'<svg viewBox="0 0 {WIDTH} {high}" role="img" aria-label="median times">']
    for number, result in enumerate(timed):
        y, length = HIGH * number + 2, max(1.0, result["median"] * scale)
        kind = "bar own" if result["peer"] == "diskcsr" else "bar"
        parts += [
            f'<text x="{LEFT - 8}" y="{y + 14}" text-anchor="end">',
            f"{escape(result['system'])}</text>",
            f'<rect class="{kind}" x="{LEFT}" y="{y}" width="{length:.1f}" height="{HIGH - 4}"/>',
            f'<text x="{LEFT + length + 6:.1f}" y="{y + 14}">{_ms(result["median"])} ms</text>',
        ]
        if result["peer"] == "scipy":
            x = f"{LEFT + length:.1f}"
            parts.append(f'<line class="line" x1="{x}" x2="{x}" y1="0" y2="{high}"/>')
    return "\n".join([*parts, "</svg>"])


def _table(results: list[dict[str, Any]]) -> str:
    lines = ["<table>", "<tr>" + "".join(f"<th>{escape(name)}</th>" for name in HEAD) + "</tr>"]
    for result in results:
        bad = result["status"] not in ("ok", "n/a")
        cells = [f"<td>{escape(cell)}</td>" for cell in _row(result)]
        if bad:
            cells[1] = cells[1].replace("<td>", '<td class="bad">')
        lines.append("<tr>" + "".join(cells) + "</tr>")
    return "\n".join([*lines, "</table>"])


def as_html(run: dict[str, Any]) -> str:
    """Return one page with tables and charts; it refers to nothing outside itself."""
    parts = [
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8"/>',
        f"<title>diskcsr bench</title>\n<style>{_STYLE}</style>\n</head>\n<body>",
        "<h1>diskcsr and its peers</h1>",
        *(f"<p>{escape(line)}</p>" for line in _about(run)),
        "<p>Bars are medians; the broken line is scipy in memory.</p>",
    ]
    for operation, results in _operations(run).items():
        parts += [f"<h2>{escape(operation)}</h2>", _chart(results), _table(results)]
    parts += ["<h2>Notes</h2>", "<ul>", *(f"<li>{escape(line)}</li>" for line in _below(run))]
    return "\n".join([*parts, "</ul>", "</body>", "</html>", ""])
