"""Dask: arrays of blocks that are read where they are computed.

Tasks hold where lines are, and no data. Dask 2025.1 and 2026.8 do all that is tested of them. How
blocks of csr_array are put together it is told here where it does not know.
"""

import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.sparse import hstack, vstack

from ..blocks.cuts import Cut
from ..loading import load_extra
from . import register_loaded
from .blocks import BLOCKS

if TYPE_CHECKING:
    import dask.array as da

__all__ = ["blocks_along", "to_dask", "work_on"]

#: Dask has no blocks larger than this unless it is told to.
_SIZE = "array.chunk-size"
_registered = False


def _dask(name: str, work: str) -> Any:
    return load_extra(name, work, "diskcsr[dask]", "Dask")


def to_dask(shown: Any, container: Any, chunks: Any) -> "da.Array":
    """Return what an array shows as an array of Dask; see ``A.to_dask``.

    Parameters
    ----------
    shown : Contents or View
    container : type
        scipy's class of the array.
    chunks : object
        As of ``A.to_dask``.
    """
    array = _dask("dask.array", "to_dask()")
    from dask.base import tokenize
    from dask.highlevelgraph import HighLevelGraph

    address = Cut(shown, range(0)).address()
    if address is None:
        raise ValueError(
            f"{shown.source.where}: tasks find the matrix by its path, but it is in no ordinary "
            "file, or arrays of it were handed out and may have been changed; release() forgets "
            "these, diskcsr.write stores what they hold"
        )
    _register()
    register_loaded()
    axis = shown.axis
    if chunks == "auto":
        chunks = _auto(shown)
    along = tuple(chunks) if isinstance(chunks, tuple | list) else chunks
    sizes = array.core.normalize_chunks(axis.swap((along, -1)), shown.shape, dtype=shown.dtype)
    blocks = BLOCKS[axis.format] if container is axis.array else container
    ends = np.cumsum([0, *sizes[axis.major]]).tolist()
    name = f"diskcsr-{tokenize(address, _told(shown), sizes, blocks.__name__)}"
    tasks = {
        (name, *axis.swap((number, 0))): (_load, Cut(shown, range(lo, hi)), blocks)
        for number, (lo, hi) in enumerate(pairwise(ends))
    }
    graph = HighLevelGraph.from_collections(name, tasks, dependencies=[])
    return array.Array(graph, name, sizes, meta=blocks((0, 0), dtype=shown.dtype))


def _load(cut: Cut, container: Any) -> Any:
    _register()
    return cut.load(container)


def _auto(shown: Any) -> int:
    """Return how many lines a block of the size that Dask is set to has, on average."""
    from dask import config
    from dask.utils import parse_bytes

    nbytes = max(1, shown.elements * (shown.dtype.itemsize + 4) + 8 * shown.n_major)
    return max(1, min(shown.n_major, shown.n_major * parse_bytes(config.get(_SIZE)) // nbytes))


def _told(shown: Any) -> Any:
    """Return what a lazy array does, for telling it apart."""
    if not hasattr(shown, "steps"):
        return shown.shape
    steps = [(str(s), s.function, s.operand, s.along, s.first, str(s.dtype)) for s in shown.steps]
    return shown.shape, shown.majors, shown.minors, steps


def _register() -> None:
    """Tell Dask how to put our blocks together, and how many elements one has."""
    global _registered
    if _registered:
        return
    from dask.array import dispatch

    def concatenate(arrays: Sequence[Any], axis: int = 0) -> Any:
        stack = vstack if axis == 0 else hstack
        formats = {block.format for block in arrays}
        return stack(arrays, format=formats.pop() if len(formats) == 1 else None)

    def of_blocks(arrays: Sequence[Any], axis: int = 0) -> Any:
        whole = concatenate(arrays, axis)
        return BLOCKS[whole.format](whole)

    def numel(block: Any, axis: Any = None, keepdims: bool = False, **others: Any) -> Any:
        alike = np.broadcast_to(np.zeros(()), block.shape)
        return dispatch.numel_lookup(alike, axis=axis, keepdims=keepdims)

    def tensordot(a: Any, b: Any, axes: Any) -> Any:
        (of_a,), (of_b,) = axes
        return (a if of_a == 1 else a.T) @ (b if of_b == 0 else b.T)

    for one in BLOCKS.values():
        dispatch.concatenate_lookup.register(one, of_blocks)
        dispatch.tensordot_lookup.register(one, tensordot)
        dispatch.numel_lookup.register(one, numel)
        scipys = one.__mro__[2]
        try:
            known = dispatch.concatenate_lookup.dispatch(scipys)
        except TypeError:
            known = None
        if known in (None, np.concatenate, dispatch.concatenate_lookup.dispatch(object)):
            dispatch.concatenate_lookup.register(scipys, concatenate)
    _registered = True


if "dask" in sys.modules:
    # A worker may be sent blocks, which imports this package, before it reads any of its own.
    with suppress(ImportError):  # of a Dask without arrays
        _register()


# ---------------------------------------------------------------------------- from Dask to files


def blocks_along(darray: Any, axis: int) -> Any:
    """Return an array of Dask of which each block holds whole lines along an axis."""
    return darray.rechunk({1 - axis: -1}) if darray.numblocks[1 - axis] > 1 else darray


def work_on(darray: Any, work: Callable[[Any, int], Any]) -> list[Any]:
    """Compute ``work(block, number)`` of each block where the block is, and gather the results."""
    dask = _dask("dask", "from_dask()")
    blocks = darray.to_delayed().reshape(-1)
    return list(dask.compute(*(dask.delayed(work)(block, i) for i, block in enumerate(blocks))))
