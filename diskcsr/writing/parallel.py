"""Matrices that are computed in many places: each block is stored where it is computed."""

import os
import re
import shutil
import uuid
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

import numpy as np
from scipy.sparse import issparse

from ..axis import Axis
from ..interop.dask import blocks_along, work_on
from ..machine.interrupts import deferred
from ..storage.edit.virtual import sources_of
from ..storage.journal.records import journal_path
from ..storage.write.groups import check_target
from ..storage.write.keywords import Storage, StorageKeywords, takes_storage
from .concat import concat
from .convert import store
from .matrices import axis_for

if TYPE_CHECKING:
    from ..array import DiskCSC, DiskCSR

__all__ = ["from_dask"]

#: What folders of parts are called.
_OURS = re.compile(r"[\w.-]*-[0-9a-f]{32}", re.ASCII)


@takes_storage
def from_dask(
    file: str | os.PathLike,
    darray: Any,
    name: str = "X",
    *,
    format: str | None = None,
    virtual: bool = True,
    **storage: Unpack[StorageKeywords],
) -> "DiskCSR | DiskCSC":
    """Store an array of Dask: each block in a file of its own, by whichever worker computes it.

    Parameters
    ----------
    file : path
        Where the matrix is to be found; workers must see it under the same path.
    darray : dask.array.Array
        Of two dimensions; of blocks of any of scipy's formats, or dense ones. Blocks that hold a
        part of a row (of a "csc": of a column) are put together first.
    name : str
        Name of the group.
    format : {"csr", "csc"}, optional
        Default: that of the blocks, or "csr" where these are dense.
    virtual : bool
        True: the files of the blocks stay, in a folder of their own in ``<file>.parts``, and `file`
        refers to them (`diskcsr.concat`): nothing is copied, and the two are moved together. False:
        they are copied together to `file` by this process, and removed.
    **storage
        How it is stored; see `diskcsr.write`.

    Returns
    -------
    DiskCSR or DiskCSC
        What was stored, mode "r".

    Raises
    ------
    ImportError
        When Dask is not installed.
    ValueError
        When `darray` has not two dimensions, a keyword has no meaning here, or there is an object
        `name` in `file` and `overwrite` is false; nothing is computed then.
    TypeError
        When a block's values cannot be cast to the dtype of `darray`.

    Notes
    -----
    A worker holds a block, and what storing it takes (`diskcsr.write`). A task that is done again
    because its worker died writes its file again, under a temporary name that then becomes its own:
    no half of one is ever read. When a block fails the new folder is removed, and `file` is what it
    was. Of what is replaced the parts go when all of the new is there, unless something else in
    `file` refers to them.

    Examples
    --------
    >>> diskcsr.from_dask("logs.h5", np.log1p(A.to_dask()))  # doctest: +SKIP
    """
    if getattr(darray, "ndim", None) != 2 or not hasattr(darray, "dask"):
        raise ValueError(f"an array of Dask of two dimensions is stored, not {darray!r}")
    how = Storage.of(storage)
    how.refuse(("max_memory", "progress"), "blocks are stored by Dask's workers")
    axis = axis_for(getattr(darray, "_meta", None), format)
    check_target(file, name, how)
    parts = Path(f"{os.path.realpath(os.fsdecode(file))}.parts")
    called, number = re.sub(r"[^\w.-]", "-", name.strip("/"), flags=re.ASCII)[:40], uuid.uuid4().hex
    folder = parts / (f"{called}-{number}" if virtual else f".{number}")
    replaced = _folders_of(file, name, parts) if how.overwrite else set()
    # Compressed once: where the parts are copied together, by who does that.
    of_parts = replace(how, tags=None, overwrite=False) if virtual else Storage()
    work = partial(_store_part, str(folder), axis, darray.dtype, of_parts)
    asked: set[str] = set()
    try:
        folder.mkdir(parents=True)
        paths = work_on(blocks_along(darray, axis.major), work)
        keywords = {"tags": how.tags, "overwrite": how.overwrite} if virtual else storage
        # From here on the file may refer to the new folder, or no more to those that are replaced.
        asked = replaced | {folder.name} if virtual else replaced
        return concat(
            paths, file, name, axis=axis.major, format=axis.format, virtual=virtual, **keywords
        )
    finally:
        with deferred():
            clean = partial(_clean, file, parts, asked, None if folder.name in asked else folder)
            try:
                done = clean()
            except BaseException:
                clean()
                raise
            if not done:  # what fails once may not do so again
                clean()


def _clean(file: str | os.PathLike, parts: Path, candidates: set[str], unused: Path | None) -> bool:
    """Remove a folder, and those of parts that nothing in a file refers to; say whether all are.

    An interrupt may have come before or after the file was changed, and matrices may have been
    copied or given other names by others, so the file is asked. What it does not tell is kept.
    """
    try:
        sources = sources_of(file) if candidates else set()
    except (OSError, MemoryError):
        sources = None
    # A name is in no other path: each has a number of its own.
    used = None if sources is None else {part for path in sources for part in path.parts}
    folders = [] if used is None else [parts / name for name in candidates - used]
    folders += [] if unused is None else [unused]
    for one in folders:
        shutil.rmtree(one, ignore_errors=True)
    with suppress(OSError):  # other matrices have theirs beside it
        parts.rmdir()
    return used is not None and not any(map(os.path.lexists, folders))


def _folders_of(file: str | os.PathLike, name: str, parts: Path) -> set[str]:
    """Return which folders of parts, made here, a matrix refers to; none of a damaged file."""
    found = set()
    for path in sources_of(file, name) or ():
        folder = Path(os.path.normpath(parts.parent / path)).parent
        if folder.parent == parts and _OURS.fullmatch(folder.name):
            found.add(folder.name)
    return found


def _store_part(
    folder: str, axis: Axis, dtype: np.dtype, storage: Storage, block: Any, number: int
) -> str:
    """Store a block, where it was computed; return its path."""
    matrix = block if issparse(block) else np.asarray(block)
    if matrix.dtype != dtype:
        if not np.can_cast(matrix.dtype, dtype, "same_kind"):
            raise TypeError(
                f"block {number}: cannot cast {matrix.dtype} to {dtype}, the dtype of the array of "
                "Dask, according to the rule 'same_kind'"
            )
        matrix = matrix.astype(dtype)
    final = os.path.join(folder, f"{number:06}.h5")
    draft = f"{final}.{uuid.uuid4().hex}"
    try:
        store(draft, matrix, "X", axis.format, storage)
        os.replace(draft, final)
    finally:
        # A journal that is needed no more stays where the system did not let it be looked at.
        for left in (draft, journal_path(draft)):
            if os.path.exists(left):
                os.unlink(left)
    return final
