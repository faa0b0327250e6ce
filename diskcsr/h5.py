"""`File` and `Group`: h5py's own, in which a group that holds a sparse matrix is a DiskCSR."""

import os
from collections.abc import Callable
from typing import Any

import h5py
import numpy as np
from scipy.sparse import issparse

from . import array
from .axis import axis_of
from .errors import FormatError
from .machine.interrupts import deferred
from .machine.options import require_memory
from .protocol.handle import Handle, contents_of
from .storage.claims.links import refuse_foreign
from .storage.files.files import open_to_read, open_to_write
from .storage.files.transactions import changing, close_file, flush_file, journal_of
from .storage.formats.detect import is_sparse
from .storage.write.keywords import Storage
from .writing.convert import store

__all__ = ["File", "Group"]

#: Keywords of `h5py.File` that settle how bytes get to the file: it is h5py's alone then.
_H5PYS_OWN = ("driver", "locking", "swmr")


class Group(h5py.Group):
    """An `h5py.Group` that also knows sparse matrices.

    Everything of h5py works. In addition, a group tagged as a sparse matrix comes back as
    `DiskCSR` or `DiskCSC`, by name and from ``values``, ``items``, ``get`` and ``visititems``; and
    a sparse array or matrix can be stored under a name. Changes made here are one transaction
    each; what is done by other methods of h5py is committed by ``flush`` and ``close``.

    Examples
    --------
    >>> import diskcsr, numpy as np, os, scipy.sparse as sp, tempfile
    >>> path = os.path.join(tempfile.mkdtemp(), "test.h5")
    >>> with diskcsr.File(path, "a") as f:
    ...     f["X"] = sp.csr_array([[0, 1, 0], [0, 0, 2]])
    ...     f["X"].append([[3, 4, 0]])
    ...     f["X"].shape
    (3, 3)
    """

    def __getitem__(self, name: Any) -> Any:
        with deferred():
            if isinstance(name, str | bytes):
                refuse_foreign(self, name)
            return _wrapped(super().__getitem__(name))

    def get(
        self, name: Any, default: Any = None, getclass: bool = False, getlink: bool = False
    ) -> Any:
        """Return an item as ``self[name]``, or `default`; as in h5py.

        That is the answer, too, to a link into another file that HDF5 does not find.
        """
        if getclass or getlink:
            return super().get(name, default, getclass=getclass, getlink=getlink)
        try:
            if isinstance(name, str | bytes):
                refuse_foreign(self, name)
        except FormatError:
            return default
        try:
            return self[name]
        except KeyError:
            return default

    def __setitem__(self, name: str, obj: Any) -> None:
        if not issparse(obj):
            with self._changing():
                super().__setitem__(name, obj)
            return
        # As an assignment to a variable: a matrix of this name is replaced. Other objects are not.
        overwrite = name in self and is_sparse(super().__getitem__(name))
        _store(self, name, obj, overwrite=overwrite)

    def __delitem__(self, name: str) -> None:
        with self._changing():
            super().__delitem__(name)

    def move(self, source: str, dest: str) -> None:
        """Rename an object; as in h5py."""
        with self._changing():
            super().move(source, dest)

    def copy(self, source: Any, dest: Any, name: str | None = None, **kwds: Any) -> None:
        """Copy an object; as in h5py, and either may be a DiskCSR or DiskCSC."""
        source, dest = (x.group if isinstance(x, Handle) else x for x in (source, dest))
        with changing(h5py.Group((dest if isinstance(dest, h5py.Group) else self).id)):
            super().copy(source, dest, name, **kwds)

    def create_dataset(
        self, name: Any, shape: Any = None, dtype: Any = None, data: Any = None, **kwds: Any
    ) -> Any:
        """Create a dataset, or a sparse matrix where `data` is one or `format` is given.

        Parameters
        ----------
        name : str
        shape, dtype : optional
            Of a sparse matrix: a shape it must have, a dtype its values are cast to.
        data : optional
            A sparse array or matrix of any scipy format, or a DiskCSR or DiskCSC, which is copied
            block by block. Anything else goes to h5py, unless `format` is given: then it is a
            dense array to be stored as a sparse matrix, and without `data` the matrix is empty, of
            `shape` (default (0, 0)) and `dtype` (default float64).
        **kwds
            Of a sparse matrix: `format`, as of `diskcsr.write`, or by the name that h5sparse has
            for it, `sparse_format`; the other keywords of `diskcsr.write`, `chunks` also as a tuple
            of one number; h5sparse's `indices_dtype` for `index_dtype`; and ``maxshape=(None,)``
            and ``indptr_dtype="int64"``, which are so anyway (row pointers are int32 in an AnnData
            file alone, where they fit). Of anything else: h5py's.

        Returns
        -------
        DiskCSR, DiskCSC or h5py.Dataset

        Raises
        ------
        ValueError
            When the name is taken and `overwrite` is not true, `shape` is not that of the matrix,
            or `format` and `sparse_format` differ.
        TypeError
            For a keyword of h5py that a sparse matrix cannot honour, as another `maxshape`: a
            matrix can always grow; or `fillvalue`: what is not stored is 0.

        Examples
        --------
        >>> import diskcsr, os, scipy.sparse as sp, tempfile
        >>> with diskcsr.File(os.path.join(tempfile.mkdtemp(), "test.h5"), "a") as f:
        ...     X = f.create_dataset("X", sparse_format="csr", dtype="f4")
        ...     X.append(sp.csr_array([[0, 1, 0], [0, 0, 2]]))
        ...     X.shape, X.dtype.name
        ((2, 3), 'float32')
        """
        # None is what h5py means by leaving a keyword out.
        given = {key: value for key, value in kwds.items() if value is not None}
        format = _format_of(given)
        if format is not None or issparse(data):
            shape = _two(shape)
        if not issparse(data):
            if format is None:
                with self._changing():
                    return super().create_dataset(name, shape, dtype, data, **kwds)
            data = _as_sparse(data, shape, dtype, format)
        if shape is not None and shape != data.shape:
            raise ValueError(f"shape={shape} given for a matrix of shape {data.shape}")
        data = data if dtype is None else data.astype(dtype)
        _store(self, name, data, format=format, **given)
        return self[name]

    def create_group(self, name: Any, *args: Any, **kwds: Any) -> "Group":
        """Create a group; as in h5py."""
        with self._changing():
            return Group(super().create_group(name, *args, **kwds).id)

    def require_group(self, name: str) -> Any:
        """Return a group, created if it does not exist; as in h5py."""
        return _wrapped(super().require_group(name)) if name in self else self.create_group(name)

    def visititems(self, func: Callable[[str, Any], Any]) -> Any:
        """Call ``func(name, object)`` for everything below; as in h5py.

        A sparse matrix is visited as such, and after it its three datasets.
        """
        return self.visit(lambda name: func(name, self[name]))

    def _changing(self) -> Any:
        """Keep signals back while h5py changes the file, and commit what it did."""
        return changing(h5py.Group(self.id))

    @property
    def file(self) -> Any:
        """The file that contains this group; as in h5py."""
        return File(super().file.id)

    @property
    def parent(self) -> Any:
        """The group that contains this one; as in h5py."""
        return _wrapped(super().parent)


class File(Group, h5py.File):
    """An `h5py.File` that also knows sparse matrices; see `Group`.

    Parameters
    ----------
    name : path, Python file object or anything else h5py.File takes
    mode : {"r", "r+", "a", "w", "w-", "x"}
        As in h5py.
    durable : bool
        Whether a change also survives a loss of power: each is then written through to the disk
        before the next begins. Without, it survives the death of the process.
    **kwds
        Passed on to h5py. A file opened with `driver`, `locking` or `swmr`, or one that is no path,
        has no journal.

    Raises
    ------
    OSError
        When the file cannot be opened, or is being written by somebody else.
    ValueError
        When a mode is not one of these, or `durable` is asked for of a file without a journal.

    Notes
    -----
    A file opened for writing has a rollback journal beside it, ``<name>-journal``: when the process
    dies, the next opening restores the state after the last completed change.

    Mode "w" is h5py's: an empty file takes the place of what was there as soon as it is open,
    whatever becomes of what is written then. ``diskcsr.write(..., overwrite=True)`` replaces one
    matrix, and the old one is there until the new one is complete.

    Examples
    --------
    >>> import diskcsr, numpy as np, os, scipy.sparse as sp, tempfile
    >>> path = os.path.join(tempfile.mkdtemp(), "test.h5")
    >>> with diskcsr.File(path, "w") as f:
    ...     X = f.create_dataset("X", data=sp.csr_array(np.eye(3)), compression="gzip")
    ...     y = f.create_dataset("y", data=np.arange(3))
    ...     sorted(f), type(f["X"]).__name__, type(f["y"]).__name__
    (['X', 'y'], 'DiskCSR', 'Dataset')
    """

    def __init__(self, name: Any, mode: str = "r", *, durable: bool = False, **kwds: Any) -> None:
        is_path = isinstance(name, str | bytes | os.PathLike)
        if not is_path or any(kwds.get(key) is not None for key in _H5PYS_OWN):
            if durable:
                raise ValueError("durable=True needs a path, and none of " + ", ".join(_H5PYS_OWN))
            super().__init__(name, mode, **kwds)
        elif mode == "r":
            super().__init__(open_to_read(os.fspath(name), **kwds).id)
        else:
            super().__init__(open_to_write(os.fspath(name), mode, durable=durable, **kwds).id)

    @property
    def filename(self) -> str:
        """The file's name, as it was opened."""
        journal = journal_of(self)
        return super().filename if journal is None else str(journal.path)

    def flush(self) -> None:
        """Write everything to the file, and complete what was changed so far."""
        flush_file(h5py.File(self.id))

    def close(self) -> None:
        """Write everything and close the file; twice does nothing."""
        if self.id.valid:
            close_file(h5py.File(self.id))

    def __exit__(self, *exc_info: Any) -> None:
        self.close()


def _wrapped(found: Any) -> Any:
    """Give h5py's groups our class, and matrices theirs."""
    if not isinstance(found, h5py.Group):
        return found
    if is_sparse(found):
        return array.open(h5py.Group(found.id), mode="r" if found.file.mode == "r" else "r+")
    return Group(found.id)


def _format_of(given: dict[str, Any]) -> str | None:
    """Take the format, by either of its names, from the keywords that were given."""
    named = [given.pop(key) for key in ("format", "sparse_format") if key in given]
    if len(set(named)) > 1:
        raise ValueError(f"format={named[0]!r} and sparse_format={named[1]!r} are one keyword")
    return named[0] if named else None


def _two(shape: Any) -> tuple[int, ...] | None:
    """Return the shape of a matrix as a tuple."""
    if shape is None:
        return None
    found = tuple(np.atleast_1d(shape).tolist())
    if len(found) != 2:
        raise ValueError(f"a sparse matrix has two dimensions; shape={shape} has {len(found)}")
    return found


def _as_sparse(data: Any, shape: Any, dtype: Any, format: str) -> Any:
    """Make a sparse matrix of what is none: of a dense array, or of nothing an empty one."""
    if data is None:
        shape = (0, 0) if shape is None else tuple(shape)
        return axis_of(format).array(shape, dtype=np.dtype(dtype or np.float64))
    if isinstance(data, h5py.Dataset):
        what = f"{data.file.filename}, dataset {data.name!r}"
        require_memory(data.size * data.dtype.itemsize, what, "diskcsr.convert goes over it.")
    return axis_of(format).array(np.asarray(data))


def _store(group: h5py.Group, name: str, matrix: Any, **kwds: Any) -> None:
    if kwds.get("maxshape") == (None,):
        del kwds["maxshape"]  # of the three arrays, which can grow anyway
    if "indptr_dtype" in kwds and np.dtype(kwds["indptr_dtype"]) == np.int64:
        del kwds["indptr_dtype"]
    if "indices_dtype" in kwds:
        theirs = kwds.pop("indices_dtype")
        if np.dtype(kwds.setdefault("index_dtype", theirs)) != np.dtype(theirs):
            raise ValueError(f"index_dtype={kwds['index_dtype']} and indices_dtype={theirs} differ")
    chunks = kwds.get("chunks")
    if isinstance(chunks, tuple):
        if len(chunks) != 1:
            raise ValueError(f"the arrays of a sparse matrix have one dimension, not {len(chunks)}")
        kwds["chunks"] = chunks[0]
    elif chunks is True:
        del kwds["chunks"]
    shown = contents_of(matrix)
    if shown is not None:
        shown.source.check_open()
    format = kwds.pop("format", None)
    store(h5py.Group(group.id), matrix, name, format, Storage.of(kwds))
