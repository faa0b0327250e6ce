"""What can be stored: matrices in memory and on disk, iterables of blocks, files of other kinds."""

import os
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from scipy.sparse import issparse

from ..axis import CSR, Axis, axis_of
from ..blocks.contents import Contents
from ..blocks.joined import places_of
from ..errors import FormatError
from ..importing.dense import imported_dense
from ..importing.imported import Imported, SourceOptions
from ..importing.memory import imported_from
from ..importing.table import find_kind
from ..protocol.handle import contents_of, open_array
from ..storage.formats.dense import is_dense
from ..storage.formats.opening import is_file_like, is_url
from ..storage.journal.names import check_ordinary
from ..storage.read.source import Source
from ..streams.stream import as_matrix

__all__ = [
    "axis_for",
    "blocks_of",
    "check_apart",
    "check_block",
    "folder_of",
    "imported",
    "in_memory",
    "opened",
]

#: Bytes of stored values and indices that are read at a time of a matrix on disk.
BLOCK_BYTES = 1 << 26


def axis_for(matrix: Any, format: str | None) -> Axis:
    """The format to write: what is asked for, else that of the matrix, else rows."""
    if format is not None:
        return axis_of(format)
    try:
        return axis_of(getattr(matrix, "format", ""))
    except ValueError:
        return CSR


def folder_of(file: Any) -> Path:
    """The folder of the file that is written, a path or an open group: where more may be made."""
    name = file.file.filename if hasattr(file, "file") else _checked_path(file)
    return Path(os.path.realpath(name)).parent


def _checked_path(file: Any) -> str:
    """The path of a file to write, when it can be one: Python says less of null bytes."""
    check_ordinary(file, new=True)
    return os.fsdecode(file)


# ------------------------------------------------------------------------------ files and matrices


@contextmanager
def opened(source: Any, name: str | None = None) -> Iterator[Any]:
    """Give what a source is: a matrix on disk, closed at the end if opened here, or in memory."""
    if not is_file_like(source):
        yield source
        return
    with open_array(source, name) as matrix:
        yield matrix


@contextmanager
def imported(source: Any, kind: str | None, reading: SourceOptions) -> Iterator[Imported | None]:
    """Give what a source brings that is no sparse matrix in HDF5, nor one that scipy compressed.

    Parameters
    ----------
    source : object
    kind : str or None
        What the user says it is.
    reading : SourceOptions

    Raises
    ------
    ValueError, TypeError
        When the user says of the source what cannot be said of it.
    """
    with ExitStack() as stack:
        found = _importer(source, kind, reading)
        yield None if found is None else stack.enter_context(found).told(reading)


def _importer(
    source: Any, kind: str | None, reading: SourceOptions
) -> AbstractContextManager[Imported] | None:
    if not is_file_like(source):
        if kind is not None or reading.fields or reading.labels:
            raise ValueError(
                "source_kind=, fields=, labels=: these are said of a path, not of "
                f"{type(source).__name__}"
            )
        found = imported_from(source)
        if found is None and set(reading.given) - {"source_name"}:
            raise ValueError(
                f"{', '.join(f'{name}=' for name in reading.given)}: a matrix has them already"
            )
        return None if found is None else nullcontext(found)
    if isinstance(source, str | bytes | os.PathLike) and not is_url(source):
        if not os.path.isdir(source):  # as those of 10x are
            check_ordinary(source)
        row = find_kind(Path(os.fsdecode(source)), kind, reading)
        if row is not None:
            return row.open(Path(os.fsdecode(source)), reading)
    if kind is None and _is_dense(source, reading.source_name):
        return imported_dense(source, reading.source_name)
    return None


def _is_dense(source: Any, name: str | None) -> bool:
    """Whether a file has no sparse matrix to take, but a dense one."""
    try:
        open_array(source, name).close()
    except FormatError:
        return is_dense(source, name)
    except (OSError, KeyError, ValueError):
        pass  # whoever opens it next says what is wrong
    return False


def check_apart(matrices: list[Any], file: Any) -> None:
    """Refuse to write into a file that is read meanwhile, by its path or as a matrix on disk."""
    path = None if hasattr(file, "file") else os.path.realpath(_checked_path(file))
    for matrix in matrices:
        shown = contents_of(matrix)
        sources = [matrix] if shown is None else [place for place, _ in places_of(shown.source)]
        for source in sources:
            if path is None or is_url(source) or not isinstance(source, str | bytes | os.PathLike):
                continue
            source = os.fsdecode(source)
            if os.path.realpath(source) == path:
                raise ValueError(
                    f"{source} is open for reading as a source: write to another file, and rename "
                    "it"
                )


# ------------------------------------------------------------------------------------------ blocks


def blocks_of(given: Any) -> Iterator[Any] | None:
    """Return the blocks when `given` is an iterable of them; None when it is one matrix or row.

    Lists of numbers, and of such lists, are dense arrays. A list holds blocks when a matrix is in
    it, or rows of different lengths; any other iterable holds blocks, or the numbers of one row.

    Examples
    --------
    >>> blocks_of([[1, 0], [0, 2]]) is None, blocks_of(np.eye(2)) is None
    (True, True)
    >>> [block.shape for block in blocks_of([np.eye(2), np.ones((1, 2))])]
    [(2, 2), (1, 2)]
    """
    _refuse_triplets(given)
    one = issparse(given) or hasattr(given, "__array__") or isinstance(given, str | bytes | range)
    if one or not isinstance(given, Iterable):
        return None
    if isinstance(given, list | tuple):
        dimensions = {2 if issparse(item) else _dimensions(item) for item in given}
        ragged = dimensions == {1} and len({len(item) for item in given}) > 1
        return None if dimensions and not ragged and 2 not in dimensions else iter(given)
    items = iter(given)
    first = next(items, None)
    if first is None:
        return iter(())
    if not issparse(first) and np.ndim(first) == 0:
        return iter([np.array([first, *items])])
    return chain([first], items)


def _refuse_triplets(given: Any) -> None:
    """Refuse a tuple of two or three arrays of indices and values: it would be stored as rows."""
    if not isinstance(given, tuple) or len(given) not in (2, 3):
        return
    arrays = all(isinstance(part, np.ndarray) and part.ndim == 1 for part in given)
    if arrays and all(part.dtype.kind in "iu" for part in given[:2]):
        raise TypeError(
            "a tuple of arrays: (rows, columns, values) are for diskcsr.from_triplets, as "
            "[(rows, columns, values)], rows of numbers for numpy.array"
        )


def _dimensions(item: Any) -> int:
    try:
        return np.ndim(item)
    except ValueError:  # lists of different lengths
        return 2


def in_memory(
    blocks: Iterable[Any], axis: Axis, changing: Source | None = None
) -> Iterator[tuple[int, Any]]:
    """Yield the number and the contents of each block, as scipy's array in the format of `axis`.

    A one-dimensional block is one line. A matrix on disk comes in as many parts as it takes. A
    tuple of arrays is refused: as rows of a block, triplets would be stored as what they are not.

    Parameters
    ----------
    blocks : iterable
    axis : Axis
    changing : Source, optional
        What is written to meanwhile: a matrix over it is read before that, part by part.
    """
    for number, block in enumerate(blocks):
        shown = contents_of(block)
        if shown is not None and shown.axis is axis and shown.n_major:
            for part in _parts_on_disk(block, shown, changing):
                yield number, part
            continue
        if isinstance(block, tuple) and all(np.ndim(part) == 1 for part in block):
            raise TypeError(
                f"block {number} is a tuple of arrays: (rows, columns, values) are for "
                "diskcsr.from_triplets, rows of numbers for numpy.array"
            )
        if not issparse(block):
            block = np.asarray(block)
        if block.ndim == 1:
            block = block.reshape(axis.swap((1, -1)))
        yield number, as_matrix(block, axis)


def _parts_on_disk(array: Any, shown: Contents, changing: Source | None) -> Iterator[Any]:
    if shown.source is not changing:
        for _, block in array.iter_blocks(BLOCK_BYTES):
            yield block
        return
    per_line = max(1, shown.elements // max(1, shown.n_major)) * (shown.dtype.itemsize + 4)
    step = max(1, BLOCK_BYTES // per_line)
    for first in range(0, shown.n_major, step):
        yield array.fetch(slice(first, min(first + step, shown.n_major)))


def check_block(
    block: Any,
    what: str,
    axis: Axis,
    n_minor: int,
    dtype: np.dtype,
    others: str,
    grow: bool = False,
) -> None:
    """Check that a block goes with what is stored before it.

    Parameters
    ----------
    block : csr_array or csc_array
        In the format of `axis`.
    what, others : str
        How messages call the block, and what it has to go with.
    axis : Axis
    n_minor : int
    dtype : numpy.dtype
    grow : bool
        Whether another length of the minor axis is welcome.

    Raises
    ------
    ValueError
        When it has another length along the minor axis.
    TypeError
        When its values cannot be cast to `dtype` by numpy's "same_kind" rule.
    """
    width = axis.swap(block.shape)[1]
    if width != n_minor and not grow:
        minors = axis.transposed.majors
        raise ValueError(
            f"{what} has shape {block.shape}: {width} {minors}, where {others} has {n_minor}"
        )
    if not np.can_cast(block.dtype, dtype, "same_kind"):
        raise TypeError(
            f"{what}: cannot cast {block.dtype} to {dtype}, the dtype of {others}, according to "
            "the rule 'same_kind'"
        )
