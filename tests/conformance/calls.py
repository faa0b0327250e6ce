"""Calls of other people's functions: what one is, and the matrices they are made with.

The calls stand in ``calls_sklearn.py``, ``calls_scipy.py`` and ``calls_others.py``, one row each:
``Call(name, function of the matrices, ...)``. ``test_consumers.py`` makes each with plain scipy
matrices and with the same ones on disk, and compares everything that came of it.
"""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy import sparse


@dataclass(frozen=True)
class Call:
    """One call of a consumer.

    Parameters
    ----------
    name : str
        Id of the test.
    run : callable
        Takes as many matrices as `matrices` has names.
    matrices : tuple of str
        Keys of `MATRICES`.
    needs : str
        Module without which the row is skipped.
    rtol : float
        Relative tolerance of floats: wider where an algorithm iterates until it is close enough.
    raises : exception class, or dict of them by name of a scipy class or format
        What plain matrices are refused with: ours must be refused alike.
    inplace : bool
        The consumer changes its argument: done in both modes, and the same change is expected.
    handles : bool
        The result may be on disk too, though scipy's is a new matrix: nothing is to be read for it.
    """

    name: str
    run: Callable
    matrices: tuple = ("counts",)
    needs: str = "scipy"
    rtol: float = 1e-12
    raises: Any = None
    inplace: bool = False
    handles: bool = False

    def __str__(self):
        return self.name

    def refusal(self, kind):
        """Return what matrices of scipy's class `kind` are refused with, or None."""
        if isinstance(self.raises, dict):
            return self.raises.get(kind, self.raises.get(kind[:3]))
        return self.raises


def _random(rows, columns, density, seed):
    rng = np.random.default_rng(seed)
    values = rng.integers(1, 9, (rows, columns)).astype(np.float64)
    return np.where(rng.random((rows, columns)) < density, values, 0)


def _definite():
    half = _random(40, 40, 0.1, 3)
    return half @ half.T + 40 * np.eye(40)


def _scrambled(plain):
    """Put the entries of each row (of a csc: column) in falling order, the last as two halves."""
    ends = plain.indptr[1:-1]
    indices = [np.r_[row[::-1], row[-1:]] for row in np.split(plain.indices, ends)]
    data = [np.r_[row[-1:] / 2, row[-2::-1], row[-1:] / 2] for row in np.split(plain.data, ends)]
    indptr = np.cumsum([0, *map(len, indices)]).astype(plain.indptr.dtype)
    arrays = np.concatenate(data), np.concatenate(indices), indptr
    return type(plain)(arrays, shape=plain.shape)


def make(name, kind):
    """Return matrix `name` of `MATRICES` as an object of scipy's class `kind`."""
    plain = getattr(sparse, kind)(MATRICES[name]())
    return _scrambled(plain) if name == "unsorted" else plain


#: The matrices of the calls, dense.
MATRICES = {
    "counts": lambda: _random(60, 40, 0.2, 0),
    "more": lambda: _random(60, 40, 0.3, 1),
    "float32": lambda: (_random(60, 40, 0.2, 0) / 3).astype(np.float32),
    "integers": lambda: (_random(60, 40, 0.2, 4) - _random(60, 40, 0.1, 9)).astype(np.int64),
    "unsorted": lambda: _random(60, 40, 0.2, 0),
    "definite": _definite,
    "lower": lambda: np.tril(_definite()),
    "graph": lambda: np.triu(_random(30, 30, 0.1, 5), 1).astype(np.int32),
    "empty": lambda: np.zeros((5, 7)),
}

# What the calls use beside the matrices, which have 60 rows and 40 columns.
ROWS = np.array([7, 3, 3, -1, 59, 0])
MASK = np.random.default_rng(6).random(60) < 0.3
LABELS = np.arange(60) % 3
TARGET = np.linspace(-1, 1, 60) ** 2
VECTOR = np.linspace(0.5, 2, 40)
WIDE, TALL = np.random.default_rng(7).random((60, 4)), np.random.default_rng(8).random((40, 4))

# Arguments of `Call` that several share.
LOOSE = {"rtol": 1e-6}
TWO = {"matrices": ("counts", "more")}
GRAPH = {"matrices": ("graph",)}
SYMMETRIC = {"matrices": ("definite",)} | LOOSE


def saved(save, load):
    """Make a call: write the matrix with one function, read it with another."""

    def run(matrix):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "file"
            save(path, matrix)
            return load(path)

    return run
