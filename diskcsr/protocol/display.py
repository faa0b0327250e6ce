"""How an array shows itself: in a notebook without being read, as text by its first and last."""

from html import escape
from typing import Any

import numpy as np
from scipy.sparse import coo_array

from ..blocks.contents import Contents
from ..blocks.joined import Joined
from ..errors import DiskCSRError
from ..machine.options import format_bytes
from ..storage.check.describe import array_facts
from ..storage.formats.conventions import ARRAYS
from ..storage.read.source import Source

__all__ = ["to_html", "to_text"]

#: Lines whose pointers are read at a time, to print elements of them.
_SOME = 1 << 16
_COLUMNS = ("array", "dtype", "read by", "filters", "on disk", "in memory")
#: What HDF5 and h5py raise of a file that changed or is damaged; of the latter nearly anything.
_UNKNOWN = (DiskCSRError, KeyError, OSError, RuntimeError, TypeError, ValueError)


def to_html(title: str, mode: str, contents: Contents) -> str:
    """Describe an array as two tables of HTML: what it is, and how its three arrays are stored.

    Parameters
    ----------
    title : str
        Name of its class.
    mode : str
    contents : Contents
        What it shows. Of a closed file there is less to tell.
    """
    source = contents.source
    arrays = [] if source.closed else [_array(contents, part) for part in ARRAYS]
    facts = _facts(mode, contents)
    if source.closed:
        facts["open"] = "no: the file is closed"
    elif all("error" not in array for array in arrays):
        sizes = (sum(array[key] for array in arrays) for key in ("stored", "memory"))
        facts["size"] = "{} on disk, {} in memory".format(*map(format_bytes, sizes))
    tables = [_table([(f"<th>{escape(key)}</th>", _cell(facts[key])) for key in facts])]
    if arrays:
        header = [f"<th>{escape(name)}</th>" for name in _COLUMNS]
        tables.append(_table([header, *map(_row, arrays)]))
    return f"<div><strong>{escape(title)}</strong>{''.join(tables)}</div>"


def _facts(mode: str, contents: Contents) -> dict[str, str]:
    source = contents.source
    rows, columns = contents.shape
    turned = contents.axis is not source.axis
    known = contents.nnz_at_hand()
    count = source.elements if known is None else known
    return {
        "shape": f"{rows:,} x {columns:,}",
        "dtype": str(contents.dtype),
        "format": contents.axis.format
        + (f", the transpose of the {source.axis.format} that is stored" if turned else ""),
        # Row pointers say how many there are; in all but torn files the datasets are that long.
        "stored values": f"{count:,}" + (" (length of the datasets)" if known is None else ""),
        "density": f"{count / (rows * columns):.3g}" if rows and columns else "0",
        **_place(source),
        "mode": mode,
    }


def _place(source: Source) -> dict[str, str]:
    """Say where a matrix is stored."""
    if isinstance(source, Joined):
        return {"files": f"{len(source.parts)}: {source.where}"}
    found = source.filename, source.name, source.header.convention
    return dict(zip(("file", "group", "convention"), found, strict=True))


def _array(contents: Contents, part: str) -> dict[str, Any]:
    """Collect what is shown of one of the three arrays: the one a caller holds, or the file's."""
    held = contents.held.get(part)
    try:
        facts = array_facts(contents.source, part)
    except _UNKNOWN as problem:
        return {"part": part, "error": str(problem)}
    names = [one["name"] for one in facts["filters"]]
    return {
        "part": part,
        "dtype": str(facts["dtype"] if held is None else held.dtype),
        "reader": facts["reader"] if held is None else "memory: it was handed out",
        "why": facts["why"],
        "filters": ", ".join(names) or "none",
        "stored": facts["stored_bytes"],
        "memory": facts["memory_bytes"] if held is None else held.nbytes,
    }


def _row(array: dict[str, Any]) -> list[str]:
    if "error" in array:
        return [_cell(array["part"]), f'<td colspan="5">{escape(array["error"])}</td>']
    reader = f'<td title="{escape(array["why"])}">{escape(array["reader"])}</td>'
    sizes = (_cell(format_bytes(array[key])) for key in ("stored", "memory"))
    return [_cell(array["part"]), _cell(array["dtype"]), reader, _cell(array["filters"]), *sizes]


def _cell(text: str) -> str:
    return f"<td>{escape(text)}</td>"


def _table(rows: Any) -> str:
    return "<table>" + "".join(f"<tr>{''.join(row)}</tr>" for row in rows) + "</table>"


def to_text(header: str, shown: Contents, most: int) -> str:
    """Return what scipy prints of a matrix, from the elements that are printed alone.

    Parameters
    ----------
    header : str
        The matrix in a line: its ``repr``.
    shown : Contents
    most : int
        How many elements are printed; of more, the first half and the last.
    """
    nnz = shown.nnz
    if nnz == 0:
        return header
    # One more than is printed, so that scipy leaves it out and says so.
    last = max(nnz - (most - most // 2), most // 2 + 1)
    spans = [(0, nnz)] if nnz <= most else [(0, most // 2 + 1), (last, nnz)]
    data, minors, majors = (
        np.concatenate([get(shown, *span) for span in spans]) for get in (_data, _minors, _majors)
    )
    coords = shown.axis.swap((majors, minors.astype(np.int64)))
    few = coo_array((data.astype(shown.dtype), coords), shape=shown.shape)
    few.maxprint = most
    return header + str(few).removeprefix(repr(few))


def _data(shown: Contents, lo: int, hi: int) -> np.ndarray:
    return shown.part("data", lo, hi)


def _minors(shown: Contents, lo: int, hi: int) -> np.ndarray:
    return shown.part("indices", lo, hi)


def _majors(shown: Contents, lo: int, hi: int) -> np.ndarray:
    """Return the line that each of the stored elements ``lo:hi`` lies in."""
    found = []
    first, last = _line_at(shown, lo), _line_at(shown, hi - 1) + 1
    for begin in range(first, last, _SOME):
        lines = range(begin, min(begin + _SOME, last))
        starts, stops = shown.spans(lines)
        counts = np.minimum(stops, hi) - np.maximum(starts, lo)
        found.append(np.repeat(np.array(lines), np.maximum(counts, 0)))
    return np.concatenate(found)


def _line_at(shown: Contents, element: int) -> int:
    """Find the line of an element, by halving: the row pointers of a few lines are read."""
    low, high = 0, shown.n_major
    while high - low > 1:
        middle = (low + high) // 2
        starts, _ = shown.spans(range(middle, middle + 1))
        low, high = (middle, high) if starts[0] <= element else (low, middle)
    return low
