"""What an exporter is given, and what it says of itself."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..axis import Axis
from ..blocks.walk import Block

__all__ = ["Exported", "Target"]


@dataclass(frozen=True)
class Exported:
    """A matrix to be stored as a file of another kind.

    Attributes
    ----------
    matrix : sparse array
        On disk or in memory, compressed along `axis`.
    axis : Axis
    blocks : callable
        Walks over the matrix once: gives `Block` after `Block`, in order.
    count : callable
        Gives the number of stored values, which for some lazy arrays takes a walk of its own.
    row_names, column_names : (rows,) and (columns,) array of str, or None
    compression : str or None
        What the user asks for; None for the usual one of the kind.
    """

    matrix: Any
    axis: Axis
    blocks: Callable[[], Iterator[Block]]
    count: Callable[[], int]
    row_names: np.ndarray | None = None
    column_names: np.ndarray | None = None
    compression: str | None = None

    @property
    def shape(self) -> tuple[int, int]:
        return self.matrix.shape

    @property
    def dtype(self) -> np.dtype:
        return np.dtype(self.matrix.dtype)

    def triplets(self) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Yield rows, columns and values, a block at a time; rows and columns are int64."""
        for block in self.blocks():
            lines = np.arange(block.first, block.last, dtype=np.int64)
            majors = np.repeat(lines, np.diff(block.indptr))
            yield *self.axis.swap((majors, block.indices.astype(np.int64))), block.data


@dataclass(frozen=True)
class Target:
    """A kind of file that is written: a row of the table.

    Attributes
    ----------
    name : str
        What ``kind=`` and ``--to`` call it.
    about : str
        What help says of it.
    suffixes : tuple of str
        Of the names of its files.
    write : callable
        ``write(path, exported)`` makes a new file at `path`, whose name is not the final one.
    takes : tuple of str
        What it understands of `row_names`, `column_names` and `compression`.
    hdf5 : bool
        Whether `diskcsr.write` adds a matrix to such a file.
    """

    name: str
    about: str
    suffixes: tuple[str, ...]
    write: Callable[[Path, Exported], None]
    takes: tuple[str, ...] = ()
    hdf5: bool = False
