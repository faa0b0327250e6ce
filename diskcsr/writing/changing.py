"""Changes in place: refused (mode "r"), kept in memory ("c"), or written to the file ("r+")."""

import operator
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from scipy.sparse import issparse

from ..errors import ReadOnlyError
from ..keys.assignment import parse_change
from ..machine.progress import Progress, reporting
from ..protocol.handle import Handle, contents_of
from ..storage.edit.update import append_blocks, assign, scale
from ..storage.formats.conventions import ARRAYS
from ..streams.stream import tidied
from .matrices import blocks_of, check_block, in_memory

__all__ = ["Changing"]


class Changing(Handle):
    """The part of a disk array that changes it, as its mode has it."""

    def _refuse(self, what: str) -> None:
        if self._mode == "r":
            raise ReadOnlyError(
                f"{self._source.where} is open read-only (mode 'r'): {what} is refused. Work on "
                "A.copy(), or open with mode='c' to change it in memory only"
            )

    def __setitem__(self, key: Any, value: Any) -> None:
        self._refuse("assignment")
        if self._mode != "r+":
            super().__setitem__(key, value)  # type: ignore[misc]
            return
        self._source.check_open()
        shown = contents_of(value)
        if shown is not None and shown.source is self._source:
            value = value.to_memory()
        assign(self._source, parse_change(key, value, self.shape, self._axis, self._source.dtype))

    def setdiag(self, values: Any, k: int = 0) -> None:
        """Set diagonal values, as scipy does; refused in mode "r", of stored ones in "r+"."""
        self._refuse("setdiag")
        if self._mode != "r+":
            super().setdiag(values, k)  # type: ignore[misc]
            return
        rows, columns = self.shape
        first = (-min(k, 0), max(k, 0))
        length = min(rows - first[0], columns - first[1])
        if length <= 0:
            raise ValueError("k exceeds array dimensions")
        values = np.asarray(values)
        if values.ndim:
            length = min(length, values.size)
            values = values[:length]
        along = np.arange(length)
        self[along + first[0], along + first[1]] = values

    def resize(self, *shape: Any) -> None:
        """Resize in place, as scipy does; refused in modes "r" and "r+"."""
        if self._mode == "r+":
            raise ReadOnlyError(
                f"{self._source.where}: resize is refused in mode 'r+': append() adds "
                f"{self._axis.majors}"
            )
        self._refuse("resize")
        super().resize(*shape)  # type: ignore[misc]

    def __imul__(self, other: Any) -> Any:
        return self._scale(other, operator.imul, "__imul__")

    def __itruediv__(self, other: Any) -> Any:
        return self._scale(other, operator.itruediv, "__itruediv__")

    def _scale(self, other: Any, operation: Any, name: str) -> Any:
        # NotImplemented makes Python rebind the name to the in-memory result of ``A * other``.
        if self._mode == "r":
            return NotImplemented
        if self._mode == "c":
            return getattr(super(), name)(other)
        if np.ndim(other) or issparse(other):
            return NotImplemented
        scale(self._source, operation, other)
        return self

    def append(
        self,
        rows: Any,
        *,
        grow: bool = False,
        sort_indices: bool = True,
        sum_duplicates: bool = False,
        progress: Progress = None,
    ) -> None:
        """Append rows, to a DiskCSC columns, in mode "r+".

        Parameters
        ----------
        rows : sparse array or matrix, DiskCSR or DiskCSC, dense array, or an iterable of these
            Rows with all columns, for a DiskCSC columns with all rows. A one-dimensional array is
            one row (or column). Blocks are appended as they come; a process that
            dies meanwhile leaves a whole number of them.
        grow : bool
            Accept rows (columns) longer than those there are: the matrix gets as many columns
            (rows) as the longest has. Shorter ones are accepted, too. One of shape (0, 0) takes
            the length of the first block anyway.
        sort_indices, sum_duplicates, progress
            As of `diskcsr.write`. Its other keywords are what the file has settled.

        Raises
        ------
        ReadOnlyError
            In modes "r" and "c".
        ValueError
            When rows have another number of columns than the matrix, or for a DiskCSC columns
            another number of rows.
        TypeError
            When values cannot be cast to the stored dtype by numpy's "same_kind" rule.
        FormatError
            When the matrix is stored in a convention that is only read (10x, MATLAB, ...).

        Notes
        -----
        A block is checked before any of it is written; what was appended before a wrong block
        stays. Row pointers too narrow for the new length are widened, and short chunks of a
        dataset that began small are joined, so that the file stays as fast to read as one that
        was written at once. With a path or a `diskcsr.File` each append is atomic.

        Examples
        --------
        >>> import diskcsr, numpy as np, os, scipy.sparse as sp, tempfile
        >>> path = os.path.join(tempfile.mkdtemp(), "m.h5")
        >>> diskcsr.write(path, sp.csr_array(np.eye(3))).close()
        >>> with diskcsr.open(path, mode="r+") as A:
        ...     A.append(2 * A[:2])
        ...     A.shape, A.nnz
        ((5, 3), 5)

        To a DiskCSC, a column:

        >>> diskcsr.write(path, sp.csc_array(np.eye(3)), "columns").close()
        >>> with diskcsr.open(path, "columns", mode="r+") as B:
        ...     B.append([7, 8, 9])
        ...     B.shape, B[:, [3]].toarray().tolist()
        ((3, 4), [[7.0], [8.0], [9.0]])
        """
        if self._mode != "r+":
            raise ReadOnlyError(
                f"{self._source.where} is open with mode {self._mode!r}: append needs mode 'r+'"
            )
        total = None
        if issparse(rows):
            total = int(rows.nnz) * (self.dtype.itemsize + 4)
        changes = {"sort": sort_indices, "sum_duplicates": sum_duplicates}
        with reporting(progress, total, "appending") as advance:
            append_blocks(self._source, self._checked_blocks(rows, grow, changes, advance))

    def _checked_blocks(
        self, rows: Any, grow: bool, changes: dict[str, bool], advance: Callable[[int], None]
    ) -> Iterator[Any]:
        """Yield what is to be appended as blocks of this orientation, each of them checked.

        `advance` is told of a block's bytes when the next one is asked for: it is written then.
        """
        axis, dtype = self._axis, self._source.dtype
        blocks = blocks_of(rows)
        numbered = in_memory([rows] if blocks is None else blocks, axis, self._source)
        n_minor = None if self.shape == (0, 0) else self._n_minor
        for number, block in numbered:
            what = f"{self._source.where}: block {number} of what is appended"
            others = "the matrix" if grow else "the matrix (grow=True accepts others)"
            if n_minor is None:
                n_minor = axis.swap(block.shape)[1]
            check_block(block, what, axis, n_minor, dtype, others, grow)
            block = axis.array(block)
            # Whoever made it may have put anything into it, and what is stored stays.
            block.check_format(full_check=True)
            yield tidied(block, **changes)
            advance(block.nnz * (dtype.itemsize + 4))

    @contextmanager
    def _private(self) -> Iterator[None]:
        """Let scipy's code change the arrays in place: those handed out in "r+" are read-only."""
        names = [name for name in ARRAYS if not getattr(self, name).flags.writeable]
        for name in names:
            # Not in `_shared`: these are no longer what the file holds.
            self.__dict__[name] = getattr(self, name).copy()
        yield
        for name in names:
            self.__dict__[name].flags.writeable = False

    def sum_duplicates(self) -> None:
        """Add up duplicate entries, in private memory: the file stays as it is.

        scipy calls this on self before sums, maxima and the like. Nothing is done, and nothing
        copied, when there are none.
        """
        if not self.has_canonical_format:  # type: ignore[attr-defined]
            self._require(self.nnz, self._n_major, "the whole matrix, to add up its duplicates,")
            with self._private():
                super().sum_duplicates()  # type: ignore[misc]

    def sort_indices(self) -> None:
        """Sort the indices of each row, in private memory: the file stays as it is."""
        if not self.has_sorted_indices:  # type: ignore[attr-defined]
            self._require(self.nnz, self._n_major, "the whole matrix, to sort its indices,")
            with self._private():
                super().sort_indices()  # type: ignore[misc]

    def eliminate_zeros(self) -> None:
        """Drop stored zeros, in private memory: the file stays as it is."""
        self._require(self.nnz, self._n_major, "the whole matrix, to drop its stored zeros,")
        with self._private():
            super().eliminate_zeros()  # type: ignore[misc]
