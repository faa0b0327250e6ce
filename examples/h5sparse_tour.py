"""A tour: sparse matrices as members of an HDF5 file, beside dense ones.

Stores a small matrix, reads parts of it, changes values, appends rows; does the same to a file that
AnnData wrote; and at the end prints how much memory writing and reading a large matrix takes, each
in a process of its own.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import h5py
import numpy as np
from scipy.sparse import csr_array, random_array

import diskcsr

MATRIX = csr_array([[0, 1, 0], [0, 0, 2], [0, 0, 0], [3, 4, 0]], dtype=np.float64)


def show(title, value):
    print(f"{title}:\n{value.toarray() if hasattr(value, 'toarray') else value}")


def matrices_in_a_file(path):
    with diskcsr.File(path, "a") as f:
        f.create_dataset("X", data=MATRIX)
        show("X", f["X"])
        show("X[:, 1:3]", f["X"][:, 1:3])
        show("rows of a mask", f["X"][np.array([True, False, False, True])])

        # Values of stored entries change; which entries are stored does not.
        f["X"][0, 1] = 9
        show("X[0, 1] = 9", f["X"][0:2])
        f["X"][0:2] = 2 * f["X"][0:2]
        show("X[0:2] doubled", f["X"][0:2])
        try:
            f["X"][2, 2] = 1
        except diskcsr.StructureError as problem:
            print(f"refused: {str(problem).partition(': ')[2]}")

        f["X"].append(2 * f["X"][0:2])
        show("two rows appended", f["X"])

        f.create_dataset("Y", data=np.eye(2))  # dense in, an ordinary dataset out
        show("Y", f["Y"][:])

    # Any HDF5 reader sees a group with three datasets.
    with h5py.File(path) as f:
        for tag, value in sorted(f["X"].attrs.items()):
            print(f"tag {tag} = {value}")
        for name, dset in f["X"].items():
            print(f"dataset {name}: {dset.shape} {dset.dtype}")


def a_file_of_anndata(path):
    try:
        from anndata import AnnData
    except ImportError:
        print("anndata is not installed: its file is left out")
        return
    AnnData(csr_array(MATRIX, dtype=np.float32)).write_h5ad(path)
    with diskcsr.File(path, "r+") as f:
        f["X"][0:2] = np.log1p(f["X"][0:2])
        show("log1p of two rows of AnnData's file", f["X"])


def another_orientation(path):
    with diskcsr.File(path, "r+") as f:
        print(f"X is a {type(f['X']).__name__}")
        f["X"] = f["X"].tocsc()
        print(f"replaced, it is a {type(f['X']).__name__}")
        show("X", f["X"])


class Memory:
    """Prints the resident memory of this process, and what a step added."""

    def __init__(self):
        self.before = self.resident()

    @staticmethod
    def resident():
        pages = int(Path("/proc/self/statm").read_text().split()[1])  # Linux
        return pages * os.sysconf("SC_PAGE_SIZE") / 1e6

    def show(self, step):
        now = self.resident()
        print(f"{step:<28}{now:>9.1f} MB resident, {now - self.before:+.1f}", flush=True)
        self.before = now


def warm_up(folder):
    """Do everything once on a tiny matrix: code that is loaded is not what is measured."""
    path = Path(folder, "tiny.h5")
    with diskcsr.write(path, random_array((100, 100), density=0.1, format="csr")) as A:
        for key in (slice(1, 5), [1, 5, 10, 13], slice(None)):
            A[key]
    path.unlink()


def write_ones(folder, n):
    """Write an n x n matrix of ones, all of them stored."""
    warm_up(folder)
    memory = Memory()
    indices = np.tile(np.arange(n, dtype=np.int32), n)
    indptr = np.arange(0, n * n + 1, n, dtype=np.int32)
    ones = csr_array((np.ones(n * n), indices, indptr), (n, n))
    memory.show(f"{n:,} x {n:,} ones")
    diskcsr.write(Path(folder, "ones.h5"), ones).close()
    memory.show("written")


def read_ones(folder, n):
    """Read that matrix, from four rows to all of it."""
    warm_up(folder)
    memory = Memory()
    with diskcsr.open(Path(folder, "ones.h5")) as A:
        memory.show("opened")
        for title, key in {
            "[1:5]": slice(1, 5),
            "[[1, 5, 10, 13]]": [1, 5, 10, 13],
            "[:]": slice(None),
        }.items():
            part = A[key]
            memory.show(title)
            assert part.sum() == n * part.shape[0]


def main(folder=None, n=10_000):
    with tempfile.TemporaryDirectory(dir=folder) as folder:
        matrices_in_a_file(Path(folder, "test.h5"))
        a_file_of_anndata(Path(folder, "cells.h5ad"))
        another_orientation(Path(folder, "test.h5"))
        for step in ("write", "read"):  # each in a fresh process
            sys.stdout.flush()
            subprocess.run([sys.executable, __file__, step, folder, str(n)], check=True)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        step, folder, n = sys.argv[1:]
        {"write": write_ones, "read": read_ones}[step](folder, int(n))
    else:
        main()
