"""A whole matrix in memory."""

from typing import Any

import numpy as np

from ..keys.widths import index_dtype
from ..machine.options import options
from .contents import Contents
from .walk import affordable, blocks

__all__ = ["load"]

#: Bytes that are read at a time where somebody is told how far it is.
_BLOCK = 1 << 24


def load(shown: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Load all lines of a `Contents` or a `View`, under the memory guard, as its ``read`` does.

    It is done at once, and so without a copy, unless ``diskcsr.options.progress`` is to be told. Of
    a `View` nothing is told: to know how much there will be would take computing it once more.
    """
    if not options.progress or not isinstance(shown, Contents):
        return shown.read(shown.plan(range(shown.n_major)))
    nnz, n_minor = shown.nnz, shown.n_minor
    shown.require_room(nnz, shown.n_major)
    index = index_dtype(nnz, n_minor)
    data, indices = np.empty(nnz, shown.dtype), np.empty(nnz, index)
    indptr = np.zeros(shown.n_major + 1, index)
    walk = blocks(shown, max_bytes=affordable(_BLOCK), progress=options.progress)
    for block in walk:
        at = indptr[block.first]
        indptr[block.first + 1 : block.last + 1] = at + block.indptr[1:]
        stop = indptr[block.last]
        data[at:stop], indices[at:stop] = block.data, block.indices
    return data, indices, indptr
