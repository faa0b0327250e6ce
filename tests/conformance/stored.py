"""Sparse matrices put into HDF5 files by plain h5py, and the files watched for changes."""

import hashlib
from pathlib import Path

import h5py
import numpy as np
import pytest

import diskcsr

ARRAYS = ("data", "indices", "indptr")

# The keywords each layout gives h5py's create_dataset. The chunked one has a few chunks however
# small the matrix, so that no row range is free of chunk boundaries.
LAYOUTS = {
    "raw": lambda values: {},
    "gzip": lambda values: {
        "chunks": (len(values) // 3 + 1,),
        "maxshape": (None,),
        "compression": "gzip",
        "shuffle": True,
    },
}

# The oldest versions run one layout, the quicker one: what differs between versions is scipy.
LAYOUT_MARKS = {"raw": [], "gzip": [pytest.mark.gzip_layout]}


def write_by_hand(path, plain, layout):
    """Write a csr or csc matrix to ``path:/X`` exactly as it is: unsorted, duplicates and all.

    ``diskcsr.write`` is not used: it puts entries in order, and what it got wrong it might also
    read wrong.
    """
    with h5py.File(path, "w") as file:
        group = file.create_group("X")
        group.attrs["h5sparse_format"] = plain.format
        group.attrs["h5sparse_shape"] = np.array(plain.shape, dtype=np.int64)
        for name in ARRAYS:
            values = getattr(plain, name)
            group.create_dataset(name, data=values, **LAYOUTS[layout](values))


def digest(*parts):
    """Return a hash of some bytes."""
    return hashlib.blake2b(b"\0".join(parts), digest_size=16).hexdigest()


class Library:
    """Files in one folder, each written once: equal matrices are opened from the same file.

    Parameters
    ----------
    folder : path
    layout : {"raw", "gzip"}
        A key of `LAYOUTS`.
    """

    def __init__(self, folder, layout):
        self.folder, self.layout = Path(folder), layout
        self._written = {}  # path: hash of its bytes

    def file_of(self, plain):
        """Return the path of a file that holds `plain`, written now or before."""
        arrays = [getattr(plain, name) for name in ARRAYS]
        what = [f"{array.dtype.str} {array.size}".encode() + array.tobytes() for array in arrays]
        name = digest(plain.format.encode(), repr(plain.shape).encode(), *what)
        path = self.folder / f"{name}.{self.layout}.h5"
        if path not in self._written:
            write_by_hand(path, plain, self.layout)
            self._written[path] = digest(path.read_bytes())
        return path

    def changed(self, paths):
        """Return those of `paths` whose bytes are not what was written, and forget them."""
        changed = [path for path in paths if digest(path.read_bytes()) != self._written[path]]
        for path in changed:
            del self._written[path]
        return changed


class Shelf:
    """The matrices one test has opened.

    Parameters
    ----------
    library : Library
        Where their files are.
    mode : {"r", "c"}
        What they are opened with.
    """

    def __init__(self, library, mode):
        self.library, self.mode = library, mode
        self._arrays, self._paths = [], set()

    def __len__(self):
        return len(self._arrays)

    def put(self, plain, *, spmatrix=False):
        """Write `plain`, a 2-D csr or csc matrix, to a file and return it opened from there."""
        path = self.library.file_of(plain)
        self._paths.add(path)
        array = diskcsr.open(path, "X", mode=self.mode, spmatrix=spmatrix)
        self._arrays.append(array)
        return array

    def close(self):
        """Close every array.

        Returns
        -------
        list of paths
            The files that are no longer what was written.
        """
        for array in self._arrays:
            array.close()
        return self.library.changed(self._paths)
