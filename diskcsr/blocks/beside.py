"""What a batch is made of: lines of matrices, and values that stand beside the rows.

Each is loaded for the rows of a whole buffer, and then cut into batches.
"""

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from ..axis import VALUES, matrix_of
from ..errors import FormatError
from ..machine.buffers import Spare, as_whole, take
from ..machine.options import require_memory
from ..storage.formats.columns import Column, read_column

__all__ = ["Lines", "Part", "Stored", "Values"]


class Part(Protocol):
    """A part of each batch."""

    def load(self, rows: Any) -> Any:
        """Load what belongs to a buffer of rows: a range, or a (k,) int64 array."""

    def cut(self, loaded: Any, first: int, last: int) -> Any:
        """Return the part of one batch, rows ``first:last`` of the buffer."""


class Lines:
    """Whole lines of a matrix.

    Parameters
    ----------
    contents : Contents
        What the matrix shows.
    container : type
        scipy's class for a batch.
    dtype : dtype, optional
        What values are cast to; default none.
    dense : bool
        Whether batches are dense arrays.
    """

    def __init__(
        self, contents: Any, container: Any, dtype: Any = None, dense: bool = False
    ) -> None:
        self.contents, self.container, self.dense = contents, container, dense
        self.dtype = contents.dtype if dtype is None else np.dtype(dtype)
        if self.dtype.char not in VALUES:
            raise ValueError(f"dtype must be one that scipy has sparse arrays of, not {self.dtype}")
        if contents.dtype.kind == "c" and self.dtype.kind != "c":
            raise ValueError(f"complex values ({contents.dtype}) are no {self.dtype}: dtype=")
        self._spare, self._dense = Spare(), Spare()

    def require_room(self, rows: int) -> None:
        """Raise `MemoryBudgetError` when a dense batch of so many lines does not fit."""
        if self.dense:
            nbytes = Spare.MOST * rows * self.contents.n_minor * self.dtype.itemsize
            require_memory(
                nbytes, f"three times a dense batch of {rows} rows", "Take fewer rows a batch."
            )

    def load(self, rows: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Read the lines of a buffer, into memory that no batch lies in any more."""
        with self._spare.taken() as buffers:
            data, *pointers = self.contents.read(self.contents.plan(rows), buffers)
            if data.dtype != self.dtype:
                cast = take(buffers, "cast", data.size, self.dtype)
                np.copyto(cast, data, casting="unsafe")
                data = cast
            return (data, *pointers)

    def cut(self, loaded: Any, first: int, last: int) -> Any:
        """Return a batch as scipy's array, or a dense one."""
        data, indices, indptr = loaded
        begin, end = indptr[first], indptr[last]
        pointers = indptr[first : last + 1] - begin
        arrays = as_whole(data[begin:end]), as_whole(indices[begin:end]), pointers
        axis = self.contents.axis
        shape = axis.swap((last - first, self.contents.n_minor))
        batch = matrix_of(self.container, arrays, shape)
        if not self.dense:
            return batch
        # Pages that are new to the process would take longer than all else.
        with self._dense.taken() as buffers:
            out = buffers.take("dense", shape[0] * shape[1], self.dtype)
            return np.asarray(batch.toarray(out=out.reshape(shape, order=axis.dense_order)))


@dataclass(eq=False)
class Values:
    """An array in memory, of which each row has one entry.

    Attributes
    ----------
    array : (n, ...) array, or anything else that is indexed with arrays of numbers
    """

    array: Any

    def load(self, rows: Any) -> Any:
        """Take the entries of a buffer."""
        return self.array[np.asarray(rows)]

    def cut(self, loaded: Any, first: int, last: int) -> Any:
        """Return those of one batch."""
        return loaded[first:last]


class Stored:
    """A column that lies in the file of the matrix; it is read once, when it is made.

    Parameters
    ----------
    contents : Contents or View
        What the matrix shows; of a view of some of its lines, those of the column.
    name : str
        Name of the column in the file.

    Notes
    -----
    A pickle has its name where the matrix is pickled by its path, and the values otherwise.
    """

    def __init__(self, contents: Any, name: str) -> None:
        self._contents, self.name = getattr(contents, "base", contents), name
        self._majors = getattr(contents, "majors", None)
        self._column: Column | None = self._read()

    def _read(self) -> Column:
        source = self._contents.source
        if getattr(source, "guard", None) is not None:
            raise ValueError(
                f"{source.where} was opened with untrusted=True, and {self.name!r} was not looked "
                "at: pass an array of its values"
            )
        group = getattr(source, "group", None)
        if group is None:
            raise FormatError(f"{source.where}: there is no file that {self.name!r} could be in")
        source.check_open()
        column = read_column(group.file, self.name)
        source.freshness.check_unchanged()
        n, majors = self._contents.n_major, self._contents.axis.majors
        if len(column) != n:
            raise ValueError(
                f"{source.filename}: {self.name!r} has {len(column)} entries, and there are {n} "
                f"{majors}"
            )
        return column if self._majors is None else column.chosen(np.asarray(self._majors))

    @property
    def column(self) -> Column:
        """The column; read again in a copy."""
        if self._column is None:
            self._column = self._read()
        return self._column

    def __getstate__(self) -> dict[str, Any]:
        by_path = self._contents.address() is not None
        return {**self.__dict__, "_column": None} if by_path else self.__dict__

    def load(self, rows: Any) -> np.ndarray:
        """Take the entries of a buffer, decoded."""
        return self.column[np.asarray(rows)]

    def cut(self, loaded: np.ndarray, first: int, last: int) -> np.ndarray:
        """Return those of one batch."""
        return loaded[first:last]
