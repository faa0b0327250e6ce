"""Storing a matrix as a file of another kind."""

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from scipy.sparse import issparse

from ..blocks.walk import affordable
from ..errors import DiskCSRError, WriteError
from ..machine.interrupts import deferred
from ..machine.progress import Progress, reporting, to_the_end
from ..protocol.handle import contents_of
from ..streams.stream import Stream
from ..streams.transpose import Memory
from ..writing.matrices import axis_for, folder_of, opened
from ..writing.streaming import Means, nbytes_of, stream_of
from .annotated import H5AD, TENX, ZARR
from .exported import Exported, Target
from .market import MARKET
from .npz import NPZ
from .parquet import PARQUET

__all__ = ["TARGETS", "export", "target_of"]

TARGETS = (MARKET, NPZ, PARQUET, H5AD, ZARR, TENX)
#: Bytes of values and indices in memory at a time, for each thread.
_BLOCK = 1 << 24


def target_of(file: Any) -> Target | None:
    """Return the kind of file that a name is of; None for HDF5 of no special kind.

    >>> target_of("counts.mtx.gz").name
    'mtx'
    """
    name = os.fsdecode(file).lower()
    return next((one for one in TARGETS if name.endswith(one.suffixes or "\0")), None)


def export(
    source: Any,
    file: str | os.PathLike,
    *,
    kind: str | None = None,
    source_name: str | None = None,
    row_names: Any = None,
    column_names: Any = None,
    compression: str | None = None,
    overwrite: bool = False,
    progress: Progress = None,
) -> None:
    """Store a matrix as a file of another kind, block by block.

    Parameters
    ----------
    source : DiskCSR, DiskCSC, lazy array, sparse matrix, path, or h5py.Group
        What is stored. Of a file of another kind, `diskcsr.convert` makes HDF5 first.
    file : path
        A new file, of whose name the whole is seen only when it is complete.
    kind : str, optional
        What to write, where the name does not tell:

        - "mtx": Matrix Market, by scipy; compressed where the name ends in .gz or .bz2.
        - "npz": as `scipy.sparse.save_npz` writes it. The matrix is read twice.
        - "parquet": the columns row, column and value, by pyarrow (extra ``tables``).
        - "h5ad": an AnnData file with this as its X; all else is written by anndata.
        - "zarr": an AnnData store, a folder, by anndata and zarr.
        - "10x": HDF5 as Cell Ranger 3 writes it: features x barcodes, of a csc.
    source_name : str, optional
        Group in the source file; needed only when there are several matrices.
    row_names, column_names : (rows,) and (columns,) sequences of str, optional
        Of "h5ad", "zarr" and "10x". Default: numbers, from 0.
    compression : str, optional
        Of "npz": "deflate" (default none). Of "parquet": what pyarrow knows (default snappy). Of
        "h5ad" and "10x": as in `diskcsr.write` (default none and gzip).
    overwrite : bool
        Replace a file that is there; of "zarr", an AnnData store.
    progress : bool or callable, optional
        As in `diskcsr.write`.

    Raises
    ------
    ValueError
        When the kind cannot be told or an argument does not go with it.
    FileExistsError
        When there is such a file and `overwrite` is false.
    IsADirectoryError
        When there is a folder of that name that is no AnnData store in zarr, whatever `overwrite`.
    WriteError
        When the system refuses. What was there before stays, and nothing else is left.
    ImportError
        When a library is not installed that writes such files.

    See Also
    --------
    diskcsr.write, diskcsr.convert : Store HDF5.

    Notes
    -----
    Takes, besides the row pointers, the memory of a few blocks of 16 MiB; "h5ad", "zarr" and "10x"
    that of the names as well.

    Examples
    --------
    >>> import diskcsr, os, scipy.io, scipy.sparse as sp, tempfile
    >>> folder = tempfile.mkdtemp()
    >>> A = diskcsr.write(os.path.join(folder, "a.h5"), sp.eye_array(3, format="csr"))
    >>> diskcsr.export(A, os.path.join(folder, "a.mtx"))
    >>> scipy.io.mmread(os.path.join(folder, "a.mtx"), spmatrix=False).shape
    (3, 3)
    """
    if not os.path.isdir(file):  # as a zarr store that is to be replaced
        folder_of(file)  # which looks at the name: realpath() takes a circle of links for a file
    path = Path(os.path.realpath(os.fsdecode(file)))
    target = _target(path, kind)
    said = {"row_names": row_names, "column_names": column_names, "compression": compression}
    refused = [
        name for name, value in said.items() if value is not None and name not in target.takes
    ]
    if refused:
        raise ValueError(f"{'=, '.join(refused)}=: not for {target.name} ({target.about})")
    check_free = partial(_check_free, path, target, overwrite)
    check_free()
    with opened(source, source_name) as matrix, _draft(path, check_free) as draft:
        if not issparse(matrix):
            raise TypeError(f"export takes a matrix or a file, not {type(matrix).__name__}")
        names = (
            _checked(row_names, matrix.shape[0], "row_names"),
            _checked(column_names, matrix.shape[1], "column_names"),
        )
        shown = contents_of(matrix)
        known = shown is None or shown.counts  # where some are dropped, nobody knows how many
        total = target.walks * nbytes_of(matrix) if known else None
        with reporting(progress, total) as told, to_the_end(told, total) as advance:
            axis = axis_for(matrix, None)
            block = affordable(_BLOCK)
            means = Means(Memory(block, block), path.parent, advance)

            def stream(sort: bool = False) -> Stream:
                return stream_of(matrix, axis, means, sort=sort)

            target.write(draft, Exported(matrix, axis, stream, advance, *names, compression))


def _target(path: Path, kind: str | None) -> Target:
    known = {target.name: target for target in TARGETS}
    if kind is not None and kind not in known:
        raise ValueError(f"kind= must be one of {', '.join(map(repr, known))}, not {kind!r}")
    target = known[kind] if kind is not None else target_of(path)
    if target is None:
        raise ValueError(
            f"{path}: its name does not tell what to write: kind= is one of "
            f"{', '.join(map(repr, known))}; diskcsr.write stores HDF5"
        )
    return target


def _check_free(path: Path, target: Target, overwrite: bool) -> None:
    """Raise `OSError` where there is something that is not to be replaced."""
    if path.is_dir() and not (target.is_one and target.is_one(path)):
        raise IsADirectoryError(f"{path} is a folder, and not {target.about}: it is not replaced")
    if path.exists() and not overwrite:
        raise FileExistsError(f"{path} is there: pass overwrite=True to replace it")


def _checked(names: Any, length: int, what: str) -> np.ndarray | None:
    if names is None:
        return None
    array = np.asarray(names)
    if array.dtype.kind == "O" and all(isinstance(name, str) for name in array):
        array = array.astype(str)
    if array.shape != (length,) or array.dtype.kind != "U":
        raise ValueError(
            f"{what} must be {length} strings, not {array.dtype} of shape {array.shape}"
        )
    return array


@contextmanager
def _draft(path: Path, check_free: Callable[[], None]) -> Iterator[Path]:
    """Give the path of a file to make, which takes the place of `path` when all went well.

    `check_free` says once more whether it may: something may have come there meanwhile.
    """
    folder = None
    try:
        with deferred():
            folder = Path(tempfile.mkdtemp(prefix=".export-", dir=path.parent))
        # The name says how some writers are to compress.
        draft = folder / path.name
        yield draft
        with deferred():
            check_free()
            _replace(draft, path, folder / ".old")
    except OSError as problem:
        if isinstance(problem, DiskCSRError | FileNotFoundError) or problem.errno is None:
            raise
        text = f"{problem.strerror}. What was written is removed, and nothing else was changed"
        raise WriteError(problem.errno, text, os.fspath(path)) from problem
    finally:
        # What was there stays even where it could not be put back.
        if folder is not None and not ((folder / ".old").exists() and not path.exists()):
            with deferred():
                shutil.rmtree(folder, ignore_errors=True)


def _replace(draft: Path, path: Path, old: Path) -> None:
    """Put a file or folder in the place of `path`; a folder that is there becomes `old`."""
    moved = path.is_dir()
    if moved:
        path.rename(old)
    try:
        os.replace(draft, path)
    except BaseException:
        if moved:
            old.rename(path)
        raise
