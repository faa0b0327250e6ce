"""What an adapter is: how a peer stores a matrix and does the operations it has."""

from importlib.util import find_spec
from typing import Any, ClassVar

import numpy as np

__all__ = ["Adapter", "Subscripted", "h5_filters", "register_filters", "shuffled"]


class Adapter:
    """A peer. An operation is a method of its name; None where the peer has no such thing.

    Parameters
    ----------
    path : str
        What `write` made, or the user's file.
    name : str
        Group of the matrix.
    where : dict
        The original matrix, as `diskcsr.bench.source.Matrix` takes it.
    """

    title: ClassVar[str] = ""
    needs: ClassVar[tuple[str, ...]] = ()  # modules
    brings: ClassVar[str] = ""  # what to install: an extra
    reads_files: ClassVar[bool] = False  # the user's own file, as it is
    counts_reads: ClassVar[bool] = True  # whether what the system says was read means anything
    writes: ClassVar[bool] = True  # whether `write` is the peer's own, not only what it reads
    by_plugin: ClassVar[bool] = False  # whether filters of hdf5plugin compress for it
    note: ClassVar[str] = ""

    rows: Any = None  # (row numbers) -> sparse
    runs: Any = None
    mask: Any = None  # (boolean mask) -> sparse
    scalar: Any = None  # (i, j) -> scalar
    columns: Any = None  # (column numbers) -> sparse
    load: Any = None  # () -> sparse
    sums: Any = None  # () -> sums of rows, sums of columns
    matvec: Any = None  # (vector or dense matrix) -> the same
    rmatvec: Any = None  # (vector) -> vector: the transpose's product
    gram: Any = None  # (dense matrix) -> dense matrix: A.T @ (A @ dense)
    describe: Any = None  # () -> mean, variance, least, largest of columns; of complex ones two
    svds: Any = None  # (k) -> the k largest singular values, descending
    minibatches: Any = None  # (batch size, seed, rows a block) -> iterable of sparse
    write: Any = None  # classmethod (path, matrix, storage)

    def __init__(self, path: str, name: str, where: dict[str, Any]) -> None:
        self.path, self.name, self.where = path, name, where

    @classmethod
    def missing(cls) -> str:
        """Return what to install, or "" when everything is there."""
        there = all(find_spec(module) is not None for module in cls.needs)
        return "" if there else cls.brings or " ".join(cls.needs)

    @classmethod
    def reopened(cls, path: str, where: dict[str, Any]) -> "Adapter":
        """Open what `write` made, to see whether it is right."""
        return cls(path, "X", where)

    def bytes_read(self) -> int | None:
        """Bytes read so far, where the peer counts them itself."""
        return None

    def close(self) -> None:
        """Let go of files."""


class Subscripted(Adapter):
    """Whatever is read by subscripts as scipy's arrays are: `self.X`."""

    X: Any

    def rows(self, rows: np.ndarray) -> Any:
        return self.X[rows]

    runs = mask = rows

    def scalar(self, i: int, j: int) -> Any:
        return self.X[i, j]

    def columns(self, columns: np.ndarray) -> Any:
        return self.X[:, columns]


def shuffled(rows: int, seed: int, block: int) -> np.ndarray:
    """Return all row numbers in an order that keeps blocks of neighbours together."""
    firsts = np.arange(0, rows, block)
    order = np.random.default_rng(seed).permutation(firsts)[:, None] + np.arange(block)
    return order[order < rows]


def register_filters() -> None:
    """Let HDF5 read files with the filters of hdf5plugin, where that is installed."""
    if find_spec("hdf5plugin") is not None:
        import hdf5plugin  # noqa: F401 - importing it is what registers them


def h5_filters(storage: dict[str, Any]) -> dict[str, Any]:
    """Return h5py's keywords for the compression asked for."""
    name = storage.get("compression")
    if name in (None, "raw"):
        return {}
    if name in ("gzip", "lzf"):
        return {"compression": name, "shuffle": True}
    import hdf5plugin

    return {"shuffle": True} | dict(hdf5plugin.Zstd(clevel=3))
