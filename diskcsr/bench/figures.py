"""Charts of a run: dots on a logarithmic axis, for the page, for a file of its own, and as text.

Times are compared by their ratios, so the axis is logarithmic. Such an axis has no zero for a bar
to begin at, and the length of a bar would say nothing: hence dots.
"""

import base64
import io
import os
from collections.abc import Iterator
from importlib.util import find_spec
from itertools import cycle
from math import log
from typing import Any

__all__ = ["chart_uri", "overview_as_text", "require_matplotlib", "save_overview"]

OWN, OTHER, REFERENCE, LIMIT, GRID = "#2b6cb0", "#7d8ea6", "#b00020", "#222222", "#e4e4e4"
#: Text stays text, and the same run gives the same bytes.
STYLE: Any = {
    "font.size": 9,
    "font.family": "sans-serif",
    "svg.fonttype": "none",
    "svg.hashsalt": "diskcsr",
    "axes.spines.top": False,
    "axes.spines.right": False,
}


def require_matplotlib() -> None:
    """Say early that charts cannot be drawn.

    Raises
    ------
    ImportError
        Without matplotlib.
    """
    if find_spec("matplotlib") is None:
        raise ImportError(
            "charts are drawn by matplotlib, which is not installed: pip install 'diskcsr[bench]'"
        )


def _scale(axes: Any, least: float, most: float) -> None:
    """Have a logarithmic x axis with plain numbers at powers of ten."""
    axes.set_xscale("log")
    axes.set_xlim(least, most)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,g}")
    axes.xaxis.set_minor_formatter(lambda value, _: "")
    axes.tick_params(axis="y", length=0)


def chart_uri(results: list[dict[str, Any]], texts: list[str]) -> str:
    """Return one operation's medians, a dot for each system, as the URI of an image.

    Parameters
    ----------
    results : list of dict
        Those with a time.
    texts : list of str
        What to write beside each dot.

    Returns
    -------
    str
        ``data:image/svg+xml;base64,...``
    """
    import matplotlib
    from matplotlib.figure import Figure

    medians = [1000 * result["median"] for result in results]
    limits = [1000 * result["limit"] for result in results if result["limit"]]
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(9, 0.5 + 0.24 * len(results)), layout="constrained")
        axes = figure.add_subplot()
        colours = [OWN if result["peer"] == "diskcsr" else OTHER for result in results]
        axes.scatter(medians, range(len(results)), color=colours, s=48, zorder=3)
        for place, (median, text) in enumerate(zip(medians, texts, strict=True)):
            axes.annotate(
                text, (median, place), (7, 0), textcoords="offset points", va="center", fontsize=8
            )
        _scale(axes, min(medians + limits) / 2, max(medians) * 3)
        axes.set_yticks(range(len(results)), [result["system"] for result in results])
        axes.set_ylim(len(results) - 0.5, -0.5)
        axes.grid(axis="y", color=GRID, zorder=0)
        for result, median in zip(results, medians, strict=True):
            if result["peer"] == "scipy":
                axes.axvline(median, color=REFERENCE, linestyle="--", linewidth=1)
        if limits:
            axes.axvline(limits[0], color=LIMIT, linestyle=":", linewidth=1)
        axes.set_xlabel("ms")
        drawn = io.BytesIO()
        figure.savefig(drawn, format="svg", metadata={"Date": None}, transparent=True)
    return "data:image/svg+xml;base64," + base64.b64encode(drawn.getvalue()).decode("ascii")


def save_overview(run: dict[str, Any], path: Any) -> None:
    """Draw all operations of a run as ratios to scipy in memory, into a PNG or SVG file.

    Parameters
    ----------
    run : dict
        What `diskcsr.bench.run.measure` returns, with scipy among the peers.
    path : path
        Its ending says which kind of file.

    Raises
    ------
    ValueError
        When no operation was measured with scipy.
    """
    import matplotlib
    from matplotlib.figure import Figure

    timed, operations, systems = _compared(run)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(8, 1 + 0.3 * len(operations)), layout="constrained")
        axes = figure.add_subplot()
        axes.axvline(1, color=REFERENCE, linestyle="--", linewidth=1)
        for system, marker in zip(systems, _markers(), strict=False):
            found = [result for result in timed if result["system"] == system]
            own = found[0]["peer"] == "diskcsr"
            axes.scatter(
                [result["over_scipy"] for result in found],
                [operations.index(result["operation"]) for result in found],
                label=system,
                marker=marker,
                s=64 if own else 36,
                color=OWN if own else "none",
                edgecolors=OWN if own else "#555555",
                zorder=3 if own else 2,
            )
        ratios = [result["over_scipy"] for result in timed]
        _scale(axes, min([*ratios, 0.5]) / 1.5, max([*ratios, 2]) * 1.5)
        axes.set_yticks(range(len(operations)), operations)
        axes.grid(axis="y", color=GRID, zorder=0)
        axes.invert_yaxis()
        axes.set_xlabel("time over that of scipy in memory (broken line)")
        figure.legend(loc="outside upper right", ncols=min(4, len(systems)), frameon=False)
        options: dict[str, Any] = {"dpi": 150}
        if os.fspath(path).lower().endswith(".svg"):
            options["metadata"] = {"Date": None}
        figure.savefig(path, **options)


def overview_as_text(run: dict[str, Any], width: int = 56) -> list[str]:
    """Return the same dots as lines of text, which show wherever text does.

    Parameters
    ----------
    run : dict
        What `diskcsr.bench.run.measure` returns, with scipy among the peers.
    width : int
        Of the axis, in characters.

    Returns
    -------
    list of str
        A line for each operation, in which each system has its letter (``*`` where two letters
        fall together), the axis, and what the letters mean.

    Raises
    ------
    ValueError
        When no operation was measured with scipy.
    """
    timed, operations, systems = _compared(run)
    ratios = [result["over_scipy"] for result in timed]
    least, most = min([*ratios, 0.5]), max([*ratios, 2])

    def place(ratio: float) -> int:
        return round((width - 1) * log(ratio / least) / log(most / least))

    letters = _letters(systems)
    head = max(map(len, operations))
    lines = []
    for operation in operations:
        cells = [" "] * width
        cells[place(1)] = "|"
        for result in timed:
            if result["operation"] == operation:
                at = place(result["over_scipy"])
                cells[at] = letters[result["system"]] if cells[at] in " |" else "*"
        lines.append(f"{operation:<{head}}  {''.join(cells)}".rstrip())
    axis, end = "", -1
    for power in range(-3, 7):
        at, label = place(10.0**power), f"{10.0**power:,g}"
        if end < at <= width - 1:
            axis = axis.ljust(at) + label
            end = len(axis)
    meaning = ", ".join(f"{letter} {system}" for system, letter in letters.items())
    return [*lines, f"{'':<{head}}  {axis}", "", f"{meaning}; | scipy in memory"]


def _letters(systems: list[str]) -> dict[str, str]:
    """Give every system the first of its letters that no other has."""
    letters: dict[str, str] = {}
    for system in systems:
        free = (c for c in system if c.isalpha() and c not in letters.values())
        letters[system] = next(free, "?")
    return letters


def _compared(run: dict[str, Any]) -> tuple[list[dict[str, Any]], list[str], list[str]]:
    """Return the other systems' ratios to scipy's time, their operations and their systems."""
    timed = [result for result in run["results"] if "over_scipy" in result]
    if not timed:
        raise ValueError("a figure compares with scipy, with which nothing was measured")
    operations = list(dict.fromkeys(result["operation"] for result in timed))
    others = [result for result in timed if result["peer"] != "scipy"]
    systems = list(dict.fromkeys(result["system"] for result in others))
    return others, operations, systems


def _markers() -> Iterator[str]:
    return cycle("os^Dvp<>hX*")
