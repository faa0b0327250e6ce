"""A matrix cut into several files, each written by plain h5py."""

from itertools import pairwise

import numpy as np
from conformance.stored import write_by_hand

__all__ = ["write_parts"]


def write_parts(folder, plain, edges, layouts=("raw", "gzip")):
    """Write runs of lines of a csr or csc matrix to files of their own; return their paths.

    Parameters
    ----------
    folder : path
    plain : csr or csc matrix
        Its entries are stored in the order that they have.
    edges : sequence of int
        Where along the compressed axis it is cut; parts may be empty.
    layouts : sequence of str
        Of `conformance.stored.LAYOUTS`; the parts take them in turns.
    """
    paths = []
    n_major = plain.indptr.size - 1
    n_minor = plain.shape[1 if plain.format == "csr" else 0]
    for number, (lo, hi) in enumerate(pairwise([0, *edges, n_major])):
        begin, end = plain.indptr[lo], plain.indptr[hi]
        arrays = plain.data[begin:end], plain.indices[begin:end], plain.indptr[lo : hi + 1] - begin
        shape = (hi - lo, n_minor) if plain.format == "csr" else (n_minor, hi - lo)
        part = type(plain)(tuple(map(np.array, arrays)), shape=shape, dtype=plain.dtype)
        paths.append(folder / f"part{number}.h5")
        write_by_hand(paths[-1], part, layouts[number % len(layouts)])
    return paths
