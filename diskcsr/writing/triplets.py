"""From triplets in any order to a matrix in a file."""

import operator
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Unpack

import numpy as np

from ..axis import axis_of
from ..importing.imported import Imported
from ..machine.options import memory_for
from ..machine.progress import reporting
from ..protocol.handle import open_array
from ..storage.write.groups import check_target, write_stream
from ..storage.write.keywords import Storage, StorageKeywords, takes_storage
from ..streams.triplets import Wanted, gathered, least_memory
from .matrices import folder_of

if TYPE_CHECKING:
    from ..array import DiskCSC, DiskCSR

__all__ = ["from_triplets", "store_imported"]


@takes_storage
def from_triplets(
    file: Any,
    triplets: Iterable[Any],
    shape: tuple[int, int] | None = None,
    *,
    name: str = "X",
    duplicates: str = "sum",
    format: str = "csr",
    dtype: Any = None,
    **storage: Unpack[StorageKeywords],
) -> "DiskCSR | DiskCSC":
    """Store a matrix that comes as (row, column, value) triplets, in any order.

    All that comes is sorted within `max_memory`: what does not fit goes to a file beside `file`,
    which has no name and is gone at the end, however that comes. It takes 8 bytes a triplet and
    those of the value.

    Parameters
    ----------
    file : path or h5py.Group
        As in `diskcsr.write`.
    triplets : iterable of (rows, columns, values)
        In parts of any size: of each part three one-dimensional arrays or lists of one length.
        Values may be left out: ``(rows, columns)`` stands for ones.
    shape : (int, int), optional
        Rows and columns. Without it both are learned: the largest index, and one more.
    name : str
        Name of the group.
    duplicates : {"sum", "last", "error", "keep"}
        What becomes of several values at one place: they are added up, the one that came last
        stays, they are refused, or all are stored, in the order in which they came.
    format : {"csr", "csc"}
        Which of them to write.
    dtype : dtype, optional
        Of the values. Default: that of the first part, float64 where that has no values.
    **storage
        How it is stored, and within how much memory; see `diskcsr.write`. Indices are always
        sorted.

    Returns
    -------
    DiskCSR or DiskCSC
        The stored matrix, mode "r".

    Raises
    ------
    ValueError
        When an index is negative or not less than the shape, arrays of a part differ in length,
        there are neither triplets nor a shape, there are duplicates and they are refused, the
        object exists and `overwrite` is false, or `max_memory` is less than what is needed.
    TypeError
        When a part is no such tuple, an index no whole number, or values cannot be cast to `dtype`
        by numpy's "same_kind" rule. Messages name the part, and the position in it.
    WriteError
        When the disk is full. Nothing is left over then, nor after any other error or Ctrl-C.

    See Also
    --------
    diskcsr.write : Takes matrices, in COO too, and blocks of whole rows one after the other.
    diskcsr.convert : Takes files of triplets: Matrix Market, CSV, Parquet.

    Examples
    --------
    >>> import diskcsr, os, tempfile
    >>> path = os.path.join(tempfile.mkdtemp(), "m.h5")
    >>> ratings = [([0, 2, 0], [1, 0, 1], [5.0, 3.0, 2.0]), ([1], [3], [4.0])]
    >>> diskcsr.from_triplets(path, ratings, duplicates="last").toarray()
    array([[0., 2., 0., 0.],
           [0., 0., 0., 4.],
           [3., 0., 0., 0.]])
    """
    store_triplets(file, triplets, shape, name, duplicates, format, dtype, Storage.of(storage))
    return open_array(file, name)


def store_triplets(
    file: Any,
    triplets: Iterable[Any],
    shape: tuple[int, int] | None,
    name: str,
    duplicates: str,
    format: str,
    dtype: Any,
    storage: Storage,
    at_least: Callable[[], tuple[int, int]] = lambda: (0, 0),
    beside: Callable[[], Mapping[str, np.ndarray]] = dict,
) -> None:
    """Store triplets; see `from_triplets`, and for the last two `Wanted` and `write_stream`."""
    storage.refuse(("sort_indices",), "triplets have no order to keep: indices are sorted")
    storage.refuse(("sum_duplicates",), "of triplets, duplicates= says what becomes of them")
    wanted = Wanted(
        axis_of(format),
        None if shape is None else tuple(map(operator.index, shape)),
        None if dtype is None else np.dtype(dtype),
        duplicates,
        memory_for(storage.max_memory, least_memory(), "sorting triplets"),
        folder_of(file),
        at_least,
    )
    wanted.check()
    check_target(file, name, storage)
    with (
        reporting(storage.progress, None) as advance,
        gathered(triplets, wanted, advance) as stream,
    ):
        write_stream(file, stream, name, storage, advance, beside)


def store_imported(
    file: Any, found: Imported, name: str, format: str | None, storage: Storage
) -> None:
    """Store what an importer gives: as it comes where it comes in lines, sorted otherwise."""
    format = format or found.format
    stream = None if found.stream is None else found.stream(axis_of(format), **storage.changes)
    if stream is not None:
        if storage.max_memory is not None:  # a block at a time is less, but not less than any
            memory_for(storage.max_memory, least_memory(), "storing a source")
        check_target(file, name, storage)
        with reporting(storage.progress, None) as advance:
            write_stream(file, stream, name, storage, advance, found.beside)
        return
    duplicates = "sum" if storage.sum_duplicates else found.duplicates
    store_triplets(
        file,
        found.triplets,
        found.shape,
        name,
        duplicates,
        format,
        found.dtype,
        replace(storage, sum_duplicates=False),
        found.at_least,
        found.beside,
    )
