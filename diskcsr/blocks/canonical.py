"""Blocks as scipy's kernels want them: each line's indices ascending, none twice."""

import numpy as np
from scipy.sparse import csr_array

from .. import kernels
from .walk import Block

__all__ = ["canonical", "is_canonical"]

#: Up to this many elements are looked at by numpy, which needs no compiler.
FEW = 1 << 16


def is_canonical(block: Block) -> bool:
    """Whether the indices of each line ascend, and none occurs twice."""
    indices, indptr = block.indices, block.indptr
    if indices.size > FEW:
        return bool(kernels.reduce.is_canonical(indices, indptr))
    descends = indices[1:] <= indices[:-1]
    begins = indptr[1:-1]
    descends[begins[(begins > 0) & (begins < indices.size)] - 1] = False
    return not descends.any()


def canonical(block: Block) -> Block:
    """Sort the elements of each line by index, and add up those of one place: a `Transform`.

    Added up are they in the order and the type in which scipy does. A block that is canonical is
    returned as it is.
    """
    if is_canonical(block):
        return block
    # The width is of no concern here: no index is larger than itself.
    shape = (block.indptr.size - 1, int(block.indices.max()) + 1)
    arrays = (block.data.copy(), block.indices.copy(), block.indptr.copy())
    matrix = csr_array(arrays, shape=shape, copy=False)
    matrix.sum_duplicates()
    index = block.indices.dtype
    indices, indptr = (part.astype(index, copy=False) for part in (matrix.indices, matrix.indptr))
    return Block(block.first, np.asarray(matrix.data), indices, indptr)
