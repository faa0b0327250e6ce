"""Charts of a run, drawn by matplotlib: bars for the page, one overview for a file of its own."""

import base64
import io
import os
from collections.abc import Iterator
from importlib.util import find_spec
from itertools import cycle
from typing import Any

__all__ = ["chart_uri", "require_matplotlib", "save_overview"]

OWN, OTHER, REFERENCE, LIMIT = "#2b6cb0", "#a9bcd6", "#b00020", "#222222"
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
    """Return bars of one operation's medians as the URI of an image that holds itself.

    Parameters
    ----------
    results : list of dict
        Those with a time.
    texts : list of str
        What to write beside each bar.

    Returns
    -------
    str
        ``data:image/svg+xml;base64,...``
    """
    import matplotlib
    from matplotlib.figure import Figure

    lengths = [1000 * result["median"] for result in results]
    limits = [1000 * result["limit"] for result in results if result["limit"]]
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(9, 0.5 + 0.24 * len(results)), layout="constrained")
        axes = figure.add_subplot()
        colours = [OWN if result["peer"] == "diskcsr" else OTHER for result in results]
        bars = axes.barh(range(len(results)), lengths, color=colours, height=0.72)
        axes.bar_label(bars, texts, padding=3, fontsize=8)
        _scale(axes, min(lengths + limits) / 2, max(lengths) * 3)
        axes.set_yticks(range(len(results)), [result["system"] for result in results])
        axes.invert_yaxis()
        for result, length in zip(results, lengths, strict=True):
            if result["peer"] == "scipy":
                axes.axvline(length, color=REFERENCE, linestyle="--", linewidth=1)
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

    timed = [result for result in run["results"] if "over_scipy" in result]
    if not timed:
        raise ValueError("a figure compares with scipy, with which nothing was measured")
    operations = list(dict.fromkeys(result["operation"] for result in timed))
    systems = list(dict.fromkeys(result["system"] for result in timed))
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(8, 1 + 0.3 * len(operations)), layout="constrained")
        axes = figure.add_subplot()
        axes.axvline(1, color=REFERENCE, linestyle="--", linewidth=1)
        for system, marker in zip(systems, _markers(), strict=False):
            found = [result for result in timed if result["system"] == system]
            if found[0]["peer"] == "scipy":
                continue
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
        _scale(axes, min(*ratios, 0.5) / 1.5, max(ratios) * 1.5)
        axes.set_yticks(range(len(operations)), operations)
        axes.grid(axis="y", color="#e4e4e4", zorder=0)
        axes.invert_yaxis()
        axes.set_xlabel("time over that of scipy in memory (broken line)")
        figure.legend(loc="outside upper right", ncols=min(4, len(systems)), frameon=False)
        options: dict[str, Any] = {"dpi": 150}
        if os.fspath(path).lower().endswith(".svg"):
            options["metadata"] = {"Date": None}
        figure.savefig(path, **options)


def _markers() -> Iterator[str]:
    return cycle("os^Dvp<>hX*")
