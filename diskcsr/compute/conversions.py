"""Whole matrices in other forms: what they take, and the dense one."""

from collections.abc import Callable
from typing import Any

import numpy as np

from ..blocks.contents import Contents
from ..keys.widths import index_dtype
from .elementwise import matrix_blocks
from .estimates import BLOCK_BYTES, Estimate, block_scratch, matrix_bytes

__all__ = ["require", "to_dense"]


# ------------------------------------------------------------------------------------- estimates


def _coordinates(shown: Contents) -> int:
    return shown.elements * (shown.dtype.itemsize + 2 * index_dtype(*shown.shape).itemsize)


def _lists(shown: Contents) -> int:
    # Measured: an element is two pointers and two Python numbers, a row two lists.
    return 80 * shown.elements + 150 * shown.shape[0]


def _dictionary(shown: Contents) -> int:
    # Measured: an element is an entry, a pair, and the three numbers.
    return 230 * shown.elements


def _blocks(shown: Contents, blocksize: tuple[int, int] | None = None) -> int:
    # Without a size scipy takes one of which seven in ten places are filled.
    places = 10 / 7 if blocksize is None else blocksize[0] * blocksize[1]
    places = min(shown.elements * places, shown.shape[0] * shown.shape[1])
    return int(places * shown.dtype.itemsize) + shown.elements * 4 + 4 * (shown.shape[0] + 1)


def _diagonals(shown: Contents) -> int:
    found = np.zeros(sum(shown.shape), np.bool_)
    for first, last, block in matrix_blocks(shown, shown.axis.array):
        lines = np.repeat(np.arange(first, last), np.diff(block.indptr))
        found[block.indices + shown.n_major - lines] = True
    return int(found.sum()) * shown.shape[1] * shown.dtype.itemsize


#: What methods of scipy give takes, from the matrix (and what the method is given).
_RESULTS: dict[str, Callable[..., int]] = {
    "tocsr": matrix_bytes,
    "tocsc": matrix_bytes,
    "tolil": _lists,
    "todok": _dictionary,
    "todia": _diagonals,
    "tobsr": _blocks,
    "reshape": matrix_bytes,
    "nonzero": lambda shown: shown.elements * 2 * index_dtype(*shown.shape).itemsize,
}
#: Those that pass through coordinates, and need arrays of that size besides.
_BY_COORDINATES = ("todia", "reshape", "nonzero")


def require(shown: Contents, name: str, *details: Any) -> None:
    """Refuse a conversion that does not fit the memory budget; see `Estimate.require`.

    Parameters
    ----------
    shown : Contents
    name : str
        The method of scipy that makes it, of the matrix loaded.
    *details
        What else its size depends on.
    """
    scratch = matrix_bytes(shown)
    if name in _BY_COORDINATES:
        scratch += 2 * _coordinates(shown)
    if name == "tobsr" and shown.axis.major == 1:
        scratch += matrix_bytes(shown)  # scipy takes rows of it first
    result = _RESULTS[name](shown, *details)
    Estimate(result, scratch).require(
        f"{shown.source.where}: the result of {name}", _instead(shown)
    )


def _instead(shown: Contents) -> str:
    return (
        f"Convert some {shown.axis.majors} at a time with iter_blocks(), or raise "
        "diskcsr.options.memory_budget."
    )


# ----------------------------------------------------------------------------------------- dense


def to_dense(shown: Contents, container: Any, order: Any, out: np.ndarray | None) -> np.ndarray:
    """Fill a dense array block by block; parameters as of scipy's `toarray`."""
    if out is None:
        nbytes = shown.shape[0] * shown.shape[1] * shown.dtype.itemsize
        what = f"{shown.source.where}: a dense array of shape {shown.shape}"
        Estimate(nbytes, block_scratch(shown)).require(what, _instead(shown))
        order = order or shown.axis.dense_order
        if 0 in shown.shape or order not in ("C", "F"):
            return container(shown.shape, dtype=shown.dtype).toarray(order=order)
        out = np.empty(shown.shape, shown.dtype, order)
    else:
        # scipy looks at `out`, and fills it with zeros.
        container(shown.shape, dtype=shown.dtype).toarray(order=order, out=out)
    lines_together = (out.flags.c_contiguous, out.flags.f_contiguous)
    straight = lines_together[shown.axis.major]
    step = max(1, BLOCK_BYTES // (max(1, shown.n_minor) * shown.dtype.itemsize))
    for first, last, block in matrix_blocks(shown, container):
        for begin in range(first, last, last - first if straight else step):
            end = last if straight else min(begin + step, last)
            place = shown.axis.swap((slice(begin, end), slice(None)))
            if straight:
                block.toarray(out=out[place])
            else:
                some = shown.axis.swap((slice(begin - first, end - first), slice(None)))
                out[place] = block[some].toarray()
    return out
