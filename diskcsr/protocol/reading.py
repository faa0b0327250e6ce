"""Reading: indexing, blocks, and whole rows."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from ..blocks.walk import Block, blocks
from ..breakeven import BLOCK_ELEMENTS
from ..interop.dask import to_dask
from ..keys.keep import Keep
from ..keys.selection import Selection, normalize, outer
from ..keys.widths import index_dtype
from ..machine.buffers import Buffers
from ..machine.options import options
from ..machine.progress import Progress
from .reducing import Reducing

if TYPE_CHECKING:
    import dask.array as da

__all__ = ["Reading"]


class _Outer:
    """``A.oindex``: each axis is selected on its own."""

    def __init__(self, array: "Reading") -> None:
        self._array = array

    def __getitem__(self, key: Any) -> Any:
        array = self._array
        return array._take(outer(key, array.shape, array._axis))


class Reading(Reducing):
    """The part of a disk array that reads: `normalize` the key, plan, have the source read."""

    # ------------------------------------------------------------------------------ indexing

    def __getitem__(self, key: Any) -> Any:
        return self._take(normalize(key, self._shape, self._axis))

    @property
    def oindex(self) -> _Outer:
        """Outer indexing: ``A.oindex[rows, cols]`` is ``A[numpy.ix_(rows, cols)]``.

        Each part may be an integer, a slice, a list of integers or a mask.
        """
        return _Outer(self)

    def __iter__(self) -> Iterator[Any]:
        if self._axis.keeps_rows:
            for _, block in self.iter_blocks():
                yield from block
        else:
            yield from super().__iter__()  # type: ignore[misc]

    def iter_blocks(self, max_bytes: int = 1 << 26) -> Iterator[tuple[int, Any]]:
        """Walk the whole matrix in storage order, a bounded block at a time.

        Parameters
        ----------
        max_bytes : int
            The most bytes of values and indices a block holds, unless one row (of a DiskCSC: one
            column) holds more.

        Yields
        ------
        first : int
            Row (of a DiskCSC: column) at which the block begins.
        block : csr_array or csc_array
            The rows from there on, in memory, with all columns (of a DiskCSC: columns, all rows).

        Examples
        --------
        >>> total = sum(block.sum() for _, block in A.iter_blocks())  # doctest: +SKIP
        """
        if max_bytes < 1:
            raise ValueError(f"max_bytes must be positive, not {max_bytes}")
        yield from self._blocks(Selection(range(self._n_major)), max_bytes)

    # ------------------------------------------------------------------------------ whole rows

    def fetch(self, rows: Any, out: Buffers | None = None) -> Any:
        """Fetch whole rows, of a DiskCSC whole columns, into memory that can be used again.

        Parameters
        ----------
        rows : (k,) integers, mask or slice
            Numbers of rows, of a DiskCSC of columns; in any order, with repeats and negatives.
        out : Buffers, optional
            Where the result's arrays are to lie. They are overwritten by the next fetch into it.

        Returns
        -------
        csr_array or csc_array
            ``A[rows]``, of a DiskCSC ``A[:, rows]``; always with two dimensions.

        Raises
        ------
        IndexError
            When there is no such row (of a DiskCSC: column), or this is no list of them.

        Notes
        -----
        Fetched is what lies together in the file. Rows of a DiskCSC do not: ``A[rows]`` reads all
        of it, and a file that `save` made in the other format gives rows at once.

        Examples
        --------
        >>> import diskcsr, numpy as np, os, scipy.sparse as sp, tempfile
        >>> dense, folder = np.arange(6).reshape(2, 3), tempfile.mkdtemp()
        >>> A = diskcsr.write(os.path.join(folder, "rows.h5"), sp.csr_array(dense))
        >>> A.fetch([1]).toarray()
        array([[3, 4, 5]])
        >>> B = diskcsr.write(os.path.join(folder, "columns.h5"), sp.csc_array(dense))
        >>> B.fetch([1]).toarray()
        array([[1],
               [4]])
        >>> buffers = diskcsr.Buffers()  # doctest: +SKIP
        >>> for rows in samples:  # doctest: +SKIP
        ...     step(A.fetch(rows, out=buffers))
        """
        return self._rows(self._major_rows(rows), out)

    def _major_rows(self, rows: Any) -> Any:
        """Validate a list of major indices: a range, or an int64 array."""
        key = self._axis.swap((rows, slice(None)))
        try:
            return outer(key, self._shape, self._axis).majors
        except IndexError:
            majors = self._axis.majors
            raise IndexError(
                f"{majors} are given by their numbers, a mask or a slice, and there are "
                f"{self._n_major} {majors}: not {rows!r}"
            ) from None

    def to_dask(self, chunks: Any = "auto") -> "da.Array":
        """Return this matrix as an array of Dask, whose tasks read it where they run.

        Parameters
        ----------
        chunks : int, sequence of int, -1 or "auto"
            Rows a block (of a DiskCSC: columns); of each block where it is a sequence; -1: one
            block. "auto": blocks of the size that Dask's setting ``array.chunk-size`` says, by the
            bytes that are stored.

        Returns
        -------
        dask.array.Array
            Of `CSRBlock` or `CSCBlock` (`diskcsr.interop.blocks`), a csr_array or csc_array that
            Dask can reduce and multiply; ``compute()`` gives one. Of the older flavour
            (``spmatrix=True``) of scipy's csr_matrix or csc_matrix, which Dask cannot reduce.

        Raises
        ------
        ImportError
            When Dask is not installed: ``pip install "diskcsr[dask]"``.
        ValueError
            When the matrix is in no ordinary file, or arrays of it were handed out (`release`).

        Notes
        -----
        A task carries the path, the name and the state of the file, and no data: some 500 bytes; of
        a lazy array what its rows are multiplied by, too. Workers must find the file under the same
        path. What ``A.lazy`` is to do is done in the tasks. A block takes its values and indices in
        memory, and with a lazy array as much again. Each task reads in its own thread; Dask runs
        several.

        Examples
        --------
        >>> D = A.to_dask(chunks=10_000)  # doctest: +SKIP
        >>> D.sum(axis=0).compute()  # doctest: +SKIP
        >>> np.log1p(A.lazy / size).to_dask().map_blocks(f).compute()  # doctest: +SKIP
        """
        return to_dask(self._contents(), self._scipy_class, chunks)

    def _blocks(
        self, selection: Selection, max_bytes: int, progress: Progress = None
    ) -> Iterator[tuple[int, Any]]:
        """Read what is stored of a selection block by block, the next ones while one is used."""
        contents = self._contents()
        keep = Keep(selection, contents.n_minor)

        def kept(block: Block) -> Block:
            return Block(block.first, *keep(*block))

        majors, through = selection.majors, [kept]
        walk = blocks(contents, majors, through=through, max_bytes=max_bytes, progress=progress)
        for first, *arrays in walk:
            yield first, self._in_memory((arrays[0], arrays[1], arrays[2]), keep.n_minor)

    def _take(self, selection: Selection) -> Any:
        if selection.element is not None:
            return self._contents().element(*selection.element)
        if selection.wanted is None:
            block = self._rows(selection.majors)
        else:
            block = self._filtered(selection)
        return block if selection.finish is None else selection.finish(block)

    def _filtered(self, selection: Selection) -> Any:
        """Some entries of some rows: rows are read in blocks, and what is not wanted is dropped."""
        counts, indices, data = [np.zeros(1, np.int64)], [], []
        total, n_major = 0, len(selection.majors)
        for _, block in self._blocks(selection, 8 * BLOCK_ELEMENTS, options.progress):
            counts.append(block.indptr[1:].astype(np.int64) + total)
            indices.append(block.indices)
            data.append(block.data)
            total += block.nnz
            self._require(total, n_major, "the selection")
        index = index_dtype(total)
        arrays = (
            np.concatenate(data) if data else np.empty(0, self.dtype),
            np.concatenate(indices) if indices else np.empty(0, index),
            np.concatenate(counts).astype(index),
        )
        return self._in_memory(arrays, len(selection.wanted))
