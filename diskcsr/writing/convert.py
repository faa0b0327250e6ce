"""From any source to a file, within a given memory."""

from collections.abc import Iterable
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Unpack

import numpy as np
from scipy.sparse import issparse

from ..importing.imported import SourceOptions
from ..machine.options import require_memory
from ..machine.progress import reporting
from ..protocol.handle import contents_of, open_array
from ..protocol.reading import Reading
from ..storage.formats.opening import is_file_like
from ..storage.write.groups import write_stream
from ..storage.write.keywords import Storage, StorageKeywords, takes_storage
from .matrices import axis_for, blocks_of, check_apart, folder_of, imported, opened
from .streaming import Means, memory_of, nbytes_of, permuted, stream_blocks, stream_of
from .triplets import store_imported

if TYPE_CHECKING:
    from ..array import DiskCSC, DiskCSR

__all__ = ["Conversion", "convert", "store"]


def store(file: Any, matrix: Any, name: str, format: str | None, storage: Storage) -> None:
    """Store a matrix, wherever it is, or an iterable of blocks; see `diskcsr.write`."""
    if is_file_like(matrix):
        raise ValueError(
            f"cannot store {type(matrix).__name__} {matrix!r}: give a matrix; diskcsr.convert "
            "takes files"
        )
    blocks = blocks_of(matrix)
    if blocks is None:
        _store_matrix(file, matrix, name, format, storage)
        return
    storage.refuse(("max_memory",), "an iterable of blocks takes what its blocks take")
    with reporting(storage.progress, None) as advance:
        stream = stream_blocks(blocks, axis_for(None, format), storage.changes)
        write_stream(file, stream, name, storage, advance)


def _store_matrix(
    file: Any,
    matrix: Any,
    name: str,
    format: str | None,
    storage: Storage,
    order: np.ndarray | None = None,
) -> None:
    """Store one matrix anew, its rows perhaps in another order; see `convert`."""
    axis, shown = axis_for(matrix, format), contents_of(matrix)
    check_apart([matrix], file)
    turned = shown is not None and shown.axis is not axis
    straight = not turned and order is None
    plain = storage.max_memory is None and straight
    width = shown.n_minor if shown is not None and turned else 0
    memory = None if plain else memory_of(storage.max_memory, width)
    # Of a transposition each entry is counted, distributed and written; where some are dropped on
    # the way nobody knows how many.
    known = issparse(matrix) and (shown is None or shown.counts or straight)
    total = nbytes_of(matrix) * (3 if turned else 1) if known else None
    with reporting(storage.progress, total) as advance:
        means = Means(memory, folder_of(file), advance)
        if order is None:
            stream = stream_of(matrix, axis, means, **storage.changes)
        else:
            stream = permuted(matrix, axis, order, means, storage.changes)
        write_stream(file, stream, name, storage, advance)


@takes_storage
def convert(
    source: Any,
    file: Any,
    name: str = "X",
    *,
    source_name: str | None = None,
    source_kind: str | None = None,
    fields: Iterable[str | int] | None = None,
    labels: str | None = None,
    shape: tuple[int, int] | None = None,
    dtype: Any = None,
    duplicates: str | None = None,
    format: str | None = None,
    permute_rows: bool = False,
    rng: np.random.Generator | int | None = None,
    **storage: Unpack[StorageKeywords],
) -> "DiskCSR | DiskCSC":
    """Store a matrix anew: in the other format, otherwise compressed, or from a file of any kind.

    Nothing is loaded whole: what is no sparse matrix in HDF5 comes part by part, and is sorted as
    `diskcsr.from_triplets` does it.

    Parameters
    ----------
    source : DiskCSR, DiskCSC, sparse matrix, path, or h5py.Group
        What is stored.
    file, name, format
        Of what is written; see `diskcsr.write`.
    source_name : str, optional
        Group or dense dataset in the source file; needed only when there are several matrices.
    source_kind : str, optional
        What the source is, where neither its name nor its beginning tells:

        - "hdf5": a sparse matrix that `diskcsr.open` opens.
        - "dense": a dense dataset of an HDF5 file; the X of an h5ad or the matrix of a loom file
          (which is genes x cells, and turned round) without `source_name`. Zeros are dropped.
        - "mtx": Matrix Market, perhaps compressed.
        - "10x": a folder of 10x Genomics; stored are features x barcodes, and in the group of the
          matrix the datasets ``barcodes``, ``features``, ``feature_names``, ``feature_types``.
        - "csv": a text of fields, with their names above or without, perhaps compressed; "parquet":
          a Parquet file, or a folder of them. They take pyarrow.
        - "svmlight": rows that begin with a label; these are stored as the dataset ``labels`` of
          the group. It takes scikit-learn.
        - "npz": what `scipy.sparse.save_npz` wrote.
    fields : two or three names or numbers, optional
        The fields of a CSV or Parquet file that are row, column and value. Default: the first
        three. Without a value all are ones.
    labels : {"appearance", "sorted"}, optional
        Row and column of a CSV or Parquet file are no indices, but labels, which are numbered in
        the order in which they appear, or sorted (for which the file is read twice). They are kept
        in memory and stored as the datasets ``row_names`` and ``column_names`` of the group.
        Strings are labels anyway, whole numbers only when this is given.
    shape, dtype, duplicates : optional
        As in `diskcsr.from_triplets`, of what is no sparse matrix in HDF5.
    permute_rows : bool
        Store the rows in random order. They are fetched in buffers in the new order: a compressed
        source is decoded once a buffer.
    rng : numpy.random.Generator, int or None
        Where that order comes from: it is ``numpy.random.default_rng(rng).permutation(rows)``.
    **storage
        How it is stored, and within how much memory; see `diskcsr.write`.

    Returns
    -------
    DiskCSR or DiskCSC
        What was stored, mode "r".

    Raises
    ------
    ValueError
        When an argument is not understood, or `max_memory` is less than what is needed.
    FormatError
        When a source is damaged, or cannot be told.
    ImportError
        When a library is not installed that reads the source.

    Examples
    --------
    >>> import diskcsr, os, scipy.sparse as sp, tempfile
    >>> folder = tempfile.mkdtemp()
    >>> A = diskcsr.write(os.path.join(folder, "a.h5"), sp.eye_array(3, format="csr"))
    >>> diskcsr.convert(A, os.path.join(folder, "b.h5"), format="csc").format
    'csc'
    """
    how = Storage.of(storage)
    reading = SourceOptions(
        source_name, None if fields is None else tuple(fields), labels, shape, dtype, duplicates
    )
    with ExitStack() as stack:
        found = stack.enter_context(imported(source, source_kind, reading))
        if found is not None:
            if permute_rows or rng is not None:
                raise ValueError("permute_rows=: convert to HDF5 first, then permute the rows")
            check_apart([source], file)
            store_imported(file, found, name, format, how)
        else:
            matrix = stack.enter_context(opened(source, source_name))
            order = _order(matrix, permute_rows, rng)
            _store_matrix(file, matrix, name, format, how, order)
    return open_array(file, name)


def _order(matrix: Any, permute_rows: bool, rng: Any) -> np.ndarray | None:
    """Draw the order in which rows are stored; None when they stay as they are."""
    if permute_rows:
        rows = matrix.shape[0]
        require_memory(8 * rows, f"an order of {rows} rows", "Raise the budget.")
        return np.random.default_rng(rng).permutation(matrix.shape[0])
    if rng is not None:
        raise ValueError("rng= says how rows are permuted, which needs permute_rows=True")
    return None


class Conversion(Reading):
    """The part of a disk array that writes other files."""

    @takes_storage
    def save(
        self,
        file: Any,
        name: str = "X",
        *,
        format: str | None = None,
        permute_rows: bool = False,
        rng: np.random.Generator | int | None = None,
        **storage: Unpack[StorageKeywords],
    ) -> "DiskCSR | DiskCSC":
        """Store this matrix in another file, within bounded memory.

        Parameters
        ----------
        file, name, format
            Of what is written; see `diskcsr.write`. The default format is this one's.
        permute_rows, rng
            Store the rows in random order; see `diskcsr.convert`.
        **storage
            How it is stored, and within how much memory; see `diskcsr.write`.

        Returns
        -------
        DiskCSR or DiskCSC
            What was stored, mode "r".

        Raises
        ------
        ValueError
            When `file` is the one this matrix is read from, or an argument is not understood.

        Examples
        --------
        >>> A.save("columns.h5", format="csc", compression="gzip")  # doctest: +SKIP
        """
        return convert(
            self, file, name, format=format, permute_rows=permute_rows, rng=rng, **storage
        )
