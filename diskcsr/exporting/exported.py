"""What an exporter is given, and what it says of itself."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from ..axis import Axis
from ..keys.widths import index_dtype
from ..streams.stream import Portion, Stream

__all__ = ["Exported", "Target"]


@dataclass(frozen=True)
class Exported:
    """A matrix to be stored as a file of another kind.

    Attributes
    ----------
    matrix : sparse array
        On disk or in memory.
    axis : Axis
        What it is streamed along.
    stream : callable
        Gives a new `Stream` of it, of whole lines; ``stream(sort=True)`` with these in order.
    advance : callable
        Is told of the bytes of values and indices handled.
    row_names, column_names : (rows,) and (columns,) array of str, or None
    compression : str or None
        What the user asks for; None for the usual one of the kind.
    """

    matrix: Any
    axis: Axis
    stream: Callable[..., Stream]
    advance: Callable[[int], None]
    row_names: np.ndarray | None = None
    column_names: np.ndarray | None = None
    compression: str | None = None

    @property
    def shape(self) -> tuple[int, int]:
        return self.matrix.shape

    @property
    def dtype(self) -> np.dtype:
        return np.dtype(self.matrix.dtype)

    @cached_property
    def count(self) -> int:
        """Stored values; of some lazy arrays it takes a walk to know."""
        nnz = self.stream().nnz
        return sum(values.size for values, _, _ in self.portions()) if nnz is None else nnz

    @property
    def index(self) -> np.dtype:
        """What indices and pointers are stored as."""
        return index_dtype(self.count, *self.shape)

    def portions(self) -> Iterator[Portion]:
        """Walk over the matrix once: yield values, minor indices and lengths of whole lines."""
        for portion in self.stream().portions:
            yield portion
            self.advance(portion[0].nbytes + portion[1].nbytes)

    def triplets(self) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Yield rows, columns and values, a block at a time; rows and columns are int64."""
        first = 0
        for values, minors, lengths in self.portions():
            last = first + lengths.size
            majors = np.repeat(np.arange(first, last, dtype=np.int64), lengths)
            yield *self.axis.swap((majors, minors.astype(np.int64))), values
            first = last


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
    walks : int
        How often it goes over the matrix.
    is_one : callable or None
        Of a kind whose files are folders: ``is_one(path)`` says whether a folder is such.
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
    walks: int = 1
    is_one: Callable[[Path], bool] | None = None
