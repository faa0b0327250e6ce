"""AnnData: objects whose matrices stay in their file, and files of such objects.

anndata looks writers up by the exact type of the element, so a subclass of csr_array needs entries
of its own. There is no public way to add them. Private names used here, found alike in anndata
0.11.4 to 0.13.4: ``anndata._io.specs.registry._REGISTRY`` with ``write`` (a dict keyed by
``(destination type, element type, modifiers)``) and ``write_specs`` (keyed by element type).

``AnnData.__sizeof__`` adds up ``nbytes`` of the three arrays of whatever is sparse. Asking for them
would hand them out, which loads a compressed matrix; there, too, is no public way around it.
"""

import os
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from contextvars import ContextVar
from functools import wraps
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from scipy.sparse import csc_matrix, csr_array, csr_matrix

from ..blocks.walk import affordable
from .handed import HANDED

if TYPE_CHECKING:
    from anndata import AnnData

__all__ = ["read_h5ad", "register", "register_alike", "size_without_loading", "write_h5ad"]

#: What an element is of which we open the matrix.
_SPARSE = ("csr_matrix", "csc_matrix")
#: How the matrices on disk of an object are stored that `write_h5ad` writes; None for others.
_storing: ContextVar[Mapping[str, Any] | None] = ContextVar("storing", default=None)
#: Bytes of a block that anndata itself stores.
_BLOCK_BYTES = 1 << 23
#: Elements of its chunks, in HDF5 and in zarr.
_CHUNK, _ZARR_CHUNK = 1 << 16, 1 << 17
#: Chunks of a shard: a block is about as long.
_SHARD = 16
#: What anndata, too, compresses with.
_SHARED = ("gzip", "lzf")


def read_h5ad(
    path: str | os.PathLike,
    *,
    spmatrix: bool | Literal["auto"] = "auto",
    mode: Literal["r", "r+"] = "r",
) -> "AnnData":
    """Read an AnnData file whose sparse matrices stay there.

    X, raw, layers, obsm, obsp, varm, varp and whatever is sparse in uns are `DiskCSR` and
    `DiskCSC`; all else is in memory. Nothing of a matrix is read but its row pointers.

    Parameters
    ----------
    path : path
        An h5ad of any version.
    spmatrix : bool or "auto"
        Whether the matrices are of scipy's older flavour. "auto": as `anndata.read_h5ad` has them,
        which is of the older one unless ``anndata.settings.use_sparse_array_on_read`` is set. With
        Scanpy 1.11 only that one works.
    mode : {"r", "r+"}
        As of `diskcsr.open`. "r+": what is assigned to elements of a matrix, or appended to one,
        reaches the file: ``adata.X[:2] = np.log1p(adata.X[:2])``. All else stays in memory.

    Returns
    -------
    AnnData

    Raises
    ------
    ValueError
        When `mode` is another, or "r+" and the file is of anndata 0.7 or before.
    ImportError
        When anndata is not installed.
    FormatError
        When a matrix in the file cannot be opened.

    Notes
    -----
    ``adata.copy()`` and ``adata.to_memory()`` load the matrices, under the memory budget. Views
    read what they show when it is asked for; ``adata.write_h5ad`` and ``adata.write_zarr`` store
    the matrices block by block. ``adata.X = other`` changes the object alone;
    ``diskcsr.write(path, other, "X", overwrite=True)`` puts another matrix in the file, of any
    format.

    Examples
    --------
    >>> from diskcsr.interop.anndata import read_h5ad
    >>> adata = read_h5ad("cells.h5ad")  # doctest: +SKIP
    >>> adata.X  # doctest: +SKIP
    <Compressed Sparse Row sparse matrix of dtype 'float32'
        with 1234567 stored elements and shape (2700, 32738)>
    """
    import anndata
    from anndata.experimental import read_dispatched

    if mode not in ("r", "r+"):
        raise ValueError(f'mode must be "r" or "r+", not {mode!r}')
    name = os.fsdecode(path)
    if spmatrix == "auto":
        spmatrix = not getattr(anndata.settings, "use_sparse_array_on_read", False)

    def opened(place: str) -> Any:
        if mode == "r+":  # one file for all: of two, one would find it locked by the other
            return HANDED.open_array(root[place], None, mode, spmatrix=spmatrix)
        return HANDED.open_array(name, place, spmatrix=spmatrix)

    def read(function: Callable[..., Any], place: str, element: Any, iospec: Any) -> Any:
        if iospec.encoding_type in _SPARSE or _is_old(element):
            return opened(element.name)
        if iospec.encoding_type in ("anndata", "raw") or place in ("", "/"):
            parts = (key for key in element if not key.startswith("raw."))
            found = {key: read_dispatched(element[key], read) for key in parts}
            # What has no X says so by nothing; raw is made of its parts by AnnData itself.
            return found if iospec.encoding_type == "raw" else anndata.AnnData(**found)
        return function(element)

    root, file = HANDED.open_group(name, "/", mode == "r+")
    keep = False
    try:
        if "encoding-type" in root.attrs:
            found = read_dispatched(root, read)
            keep = mode == "r+"
            return found
        places = ("X", "raw/X", "raw.X")
        sparse = [at for at in places if at in root and _is_sparse(root[at])]
    finally:
        if not keep:
            file.close()
    if mode == "r+":
        raise ValueError(f"{name} is of anndata 0.7 or before, which is read here and not changed")
    return _read_old(name, sparse, opened)


def write_h5ad(
    adata: "AnnData", path: str | os.PathLike, *, overwrite: bool = False, **storage: Any
) -> None:
    """Write an AnnData file; matrices on disk and lazy ones are computed and stored by blocks.

    ``adata.write_h5ad`` does so, too. This one takes all that `diskcsr.write` knows of compression,
    and the file is there when it is complete, or not at all.

    Parameters
    ----------
    adata : AnnData
    path : path
        A new file. It may be the one that `adata` was read from; read it again then.
    overwrite : bool
        Replace a file that is there.
    **storage
        Keywords of `diskcsr.write`, but for `tags`: how the matrices on disk are stored. Of what is
        in memory, `compression` and `compression_opts` are used where they are anndata's, too:
        "gzip" and "lzf".

    Raises
    ------
    FileExistsError
        When there is such a file and `overwrite` is false.
    ValueError, TypeError
        When a keyword is not understood.

    Examples
    --------
    >>> import numpy as np
    >>> from diskcsr.interop.anndata import read_h5ad, write_h5ad
    >>> adata = read_h5ad("counts.h5ad")  # doctest: +SKIP
    >>> size = np.asarray(adata.X.sum(axis=1)).reshape(-1, 1)  # doctest: +SKIP
    >>> adata.X = np.log1p(adata.X.lazy / (size / 1e4))  # doctest: +SKIP
    >>> write_h5ad(adata, "logs.h5ad", compression="zstd")  # doctest: +SKIP
    """
    if "tags" in storage:
        raise TypeError("tags=: an AnnData file has those of AnnData alone")
    HANDED.check_storage(storage)
    target = Path(os.path.realpath(os.fsdecode(path)))
    if target.exists() and not overwrite:
        raise FileExistsError(f"{target} is there: pass overwrite=True to replace it")
    shared = {}
    if storage.get("compression") in _SHARED:
        names = ("compression", "compression_opts")
        shared = {name: storage[name] for name in names if storage.get(name) is not None}
    folder = tempfile.mkdtemp(prefix=".write-", dir=target.parent)
    before = _storing.set(storage)
    backed = adata.filename if adata.isbacked else None
    try:
        draft = Path(folder, target.name)
        adata.write_h5ad(draft, **shared)
        if target.exists():
            if not overwrite:  # it came while this one was written
                raise FileExistsError(f"{target} is there: pass overwrite=True to replace it")
            shutil.copymode(target, draft)
        os.replace(draft, target)
        backed = target if backed is not None else None
    finally:
        if backed is not None:  # anndata has gone on to the draft
            adata.file.filename = backed
        _storing.reset(before)
        shutil.rmtree(folder, ignore_errors=True)


def _read_old(name: str, sparse: list[str], opened: Callable[[str], Any]) -> "AnnData":
    """Read a file of anndata 0.7 or before, which says less of what it holds.

    anndata itself reads it, but for X; the sparse layers of such files, which had few, are loaded.
    In `sparse` is which X there is, of the object and of its raw.
    """
    import anndata

    old = anndata.read_h5ad(name, backed="r")
    try:
        parts = {part: getattr(old, part) for part in ("obs", "var", "uns")}
        for part in ("obsm", "varm", "layers", "obsp", "varp"):
            # In anndata 0.13 one of the layers, that of no name, is X.
            parts[part] = {key: v for key, v in getattr(old, part).items() if key is not None}
        if old.raw is not None:
            at = next((at for at in sparse if at != "X"), None)
            X = old.raw.X if at is None else opened(at)
            parts["raw"] = {"X": X, "var": old.raw.var, "varm": dict(old.raw.varm)}
        if "X" in sparse:
            parts["X"] = opened("X")
        else:
            parts["X"] = None if old.X is None else np.asarray(old.X)
        return anndata.AnnData(**parts)
    finally:
        old.file.close()


def _is_sparse(element: Any) -> bool:
    return element.attrs.get("encoding-type") in _SPARSE or _is_old(element)


def _is_old(element: Any) -> bool:
    """Whether an element is a sparse matrix as anndata 0.6 and before wrote it."""
    return "h5sparse_format" in getattr(element, "attrs", ())


def register(classes: dict[type, type], store: Callable[..., None]) -> None:
    """Give our types writers; warn when anndata has changed."""
    with _telling_moved("a DiskCSR; use A.to_memory()"):

        def writer(destination: type, usual: Callable[..., None]) -> Callable[..., None]:
            in_hdf5 = destination.__module__.startswith("h5py.")
            usual = _by_appending(usual, _CHUNK if in_hdf5 else _ZARR_CHUNK)
            return _by_blocks(usual, store) if in_hdf5 else usual

        for ours, theirs in classes.items():
            _write_as(theirs, ours, writer)


def register_alike(classes: dict[type, type]) -> None:
    """Have some types written as others are, and arrays of Dask of which they are the blocks."""
    with _telling_moved("what A.to_dask() gives"):
        from anndata.compat import DaskArray

        for ours, theirs in classes.items():
            # anndata before 0.13 has those of Dask written whose blocks are matrices alone.
            older = csr_matrix if issubclass(theirs, csr_array) else csc_matrix
            _write_as(theirs, ours)
            for of_blocks in (older, theirs):
                _write_as((DaskArray, of_blocks), (DaskArray, ours))


@contextmanager
def _telling_moved(what: str) -> Iterator[None]:
    """Warn, instead of raising, when anndata keeps its writers elsewhere."""
    try:
        yield
    except (ImportError, AttributeError, TypeError, ValueError) as problem:
        warnings.warn(
            f"this version of anndata keeps its writers elsewhere ({problem!r}): write_h5ad will "
            f"refuse {what}",
            stacklevel=4,
        )


def _write_as(
    known: Any, ours: Any, writer: Callable[..., Any] = lambda destination, usual: usual
) -> None:
    """Have what is of our type written as what is of a known one, by what `writer` makes of it."""
    from anndata._io.specs.registry import _REGISTRY as registry

    for destination, element, modifiers in list(registry.write):
        if element == known:
            usual = registry.write[destination, known, modifiers]
            registry.write[destination, ours, modifiers] = writer(destination, usual)
    if known in registry.write_specs:
        registry.write_specs[ours] = registry.write_specs[known]


def _by_appending(usual: Callable[..., None], chunk: int) -> Callable[..., None]:
    """A writer that has anndata store one block and append the others, wherever it stores them."""

    def write(group: Any, name: str, element: Any, *args: Any, **kwargs: Any) -> None:
        blocks = (block for _, block in element.iter_blocks(affordable(_BLOCK_BYTES)))
        with closing(blocks):
            first, second = next(blocks, None), next(blocks, None)
            if second is None:  # or none at all, without rows
                usual(group, name, element.to_memory() if first is None else first, *args, **kwargs)
                return
            # Appending makes neither pointers wider nor chunks and shards, which would be as long
            # as the first block.
            how = {"chunks": (chunk,), **(kwargs.pop("dataset_kwargs", None) or {})}
            how["indptr_dtype"] = np.dtype(np.int64)
            if "shards" not in how and _shards(group):
                how["shards"] = (_SHARD * how["chunks"][0],)
            try:
                usual(group, name, first, *args, dataset_kwargs=how, **kwargs)
                _append(group[name], chain([second], blocks))
            except BaseException:  # what is there would be taken for all of it
                with suppress(Exception):
                    del group[name]
                raise

    return write


def _shards(group: Any) -> bool:
    """Whether anndata would put chunks of this group together to shards."""
    from anndata import settings

    of_zarr = getattr(getattr(group, "metadata", None), "zarr_format", None)
    return of_zarr == 3 and bool(getattr(settings, "auto_shard_zarr_v3", False))


def _append(element: Any, blocks: Iterable[Any]) -> None:
    from anndata.io import sparse_dataset

    stored = sparse_dataset(element)
    for block in blocks:
        stored.append(block)


def _by_blocks(usual: Callable[..., None], store: Callable[..., None]) -> Callable[..., None]:
    """A writer that stores a matrix block by block, where what is asked for can be had that way."""

    def write(group: Any, name: str, element: Any, *args: Any, **kwargs: Any) -> None:
        storing = _storing.get()
        if storing is not None:
            store(group, element, name, **{**storing, "tags": "anndata", "overwrite": True})
            return
        asked = dict(kwargs.get("dataset_kwargs") or {})
        known = {key: asked.pop(key) for key in ("compression", "compression_opts") if key in asked}
        if asked or known.get("compression") not in (None, *_SHARED):
            usual(group, name, element, *args, **kwargs)
            return
        if not known.get("compression"):
            known = {}
        store(group, element, name, tags="anndata", overwrite=True, **known)

    return write


def size_without_loading(sizing: ContextVar[bool]) -> None:
    """Have `sizing` be true while an AnnData adds up the sizes of its arrays."""
    from anndata import AnnData

    ask = AnnData.__sizeof__

    @wraps(ask)
    def sizeof(self: Any, **how: Any) -> int:
        before = sizing.set(True)
        try:
            return ask(self, **how)
        finally:
            sizing.reset(before)

    AnnData.__sizeof__ = sizeof
