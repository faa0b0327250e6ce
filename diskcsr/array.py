"""DiskCSR and DiskCSC: scipy.sparse arrays whose contents stay in the file."""

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, Unpack, overload

import numpy as np
from scipy.sparse import csc_array, csc_matrix, csr_array, csr_matrix, issparse

from .axis import CSC, CSR
from .compute.statistics import stored_of
from .protocol.arithmetic import Arithmetic
from .protocol.batching import Batching
from .protocol.handle import open_array, use_classes
from .protocol.lazy import HasLazy, Lazy, common_columns, use_lazy_classes
from .protocol.multiplying import Multiplying
from .protocol.reducing import describe
from .protocol.whole import Whole
from .storage.write.keywords import Storage, StorageKeywords, takes_storage
from .writing.changing import Changing
from .writing.convert import Conversion, store

if TYPE_CHECKING:
    from scipy.sparse import coo_array, sparray, spmatrix

    from .machine.buffers import Buffers

__all__ = ["DiskCSC", "DiskCSCMatrix", "DiskCSR", "DiskCSRMatrix", "open", "write"]


#: Keys that give whole lines, in two dimensions.
_Lines: TypeAlias = slice | list[int] | list[bool] | np.ndarray


class _Sides(Conversion, Batching, Changing, Arithmetic, Multiplying, Whole, HasLazy):
    """All that arrays on disk do otherwise than scipy's, whichever class of scipy's they are."""


# Of mypy's errors: `_shape` is an attribute of scipy's classes, and a property of ours for it.
class DiskCSR(_Sides, csr_array):  # type: ignore[misc]
    """A `scipy.sparse.csr_array` whose contents stay in an HDF5 file.

    Parameters
    ----------
    file : path, h5py.File, h5py.Group or Python file object
        What to open.
    name : str, optional
        The group in it; needed only when there are several sparse matrices.
    mode : {"r", "r+", "c"}
        "r" refuses assignment; "r+" writes assignments and appended rows to the file; "c" is
        copy-on-write: changes stay in memory.
    format, shape, untrusted, storage_options : optional
        What the file leaves open, whether to be careful with it, and what a URL takes; see
        `diskcsr.open`.

    Raises
    ------
    FormatError
        When the group is no sparse matrix, or a CSC.
    CorruptFileError
        When its parts contradict each other.

    Notes
    -----
    Called with anything else than a file, it gives an in-memory `csr_array`: scipy builds results
    this way. `data`, `indices` and `indptr` are private copies or memory maps; from the moment one
    was handed out it, not the file, is what this handle shows. `release` returns to the file.

    Examples
    --------
    >>> import diskcsr, numpy as np, os, scipy.sparse as sp, tempfile
    >>> path = os.path.join(tempfile.mkdtemp(), "m.h5")
    >>> _ = diskcsr.write(path, sp.csr_array(np.eye(3)))
    >>> with diskcsr.DiskCSR(path) as A:
    ...     A[[2, 0]].toarray()
    array([[0., 0., 1.],
           [1., 0., 0.]])
    """

    _axis, _scipy_class = CSR, csr_array

    if TYPE_CHECKING:  # what its results are, which all classes here have code for in common

        @overload
        def __getitem__(self, key: int) -> "coo_array": ...
        @overload
        def __getitem__(self, key: _Lines | tuple[_Lines, slice]) -> csr_array: ...
        @overload
        def __getitem__(self, key: Any) -> Any: ...
        def __getitem__(self, key: Any) -> Any: ...

        @overload
        def __matmul__(self, other: np.ndarray | list[Any]) -> np.ndarray: ...
        @overload
        def __matmul__(self, other: "sparray | spmatrix") -> Any: ...
        def __matmul__(self, other: Any) -> Any: ...

        @property
        def T(self) -> "DiskCSC": ...
        def fetch(self, rows: Any, out: "Buffers | None" = None) -> csr_array: ...
        def iter_blocks(self, max_bytes: int = ...) -> Iterator[tuple[int, csr_array]]: ...
        def to_memory(self) -> csr_array: ...
        def copy(self) -> csr_array: ...


class DiskCSC(_Sides, csc_array):  # type: ignore[misc]
    """A `scipy.sparse.csc_array` whose contents stay in an HDF5 file; see `DiskCSR`.

    Notes
    -----
    Columns lie together in its file, so `fetch`, `batches`, `iter_blocks` and `append` work on
    columns where those of a DiskCSR work on rows, and say so. Indexing and all else that scipy has
    means by rows and columns what it always does.
    """

    _axis, _scipy_class = CSC, csc_array

    if TYPE_CHECKING:  # what its results are, which all classes here have code for in common

        @overload
        def __getitem__(self, key: int) -> "coo_array": ...
        @overload
        def __getitem__(self, key: _Lines | tuple[_Lines, slice]) -> csc_array: ...
        @overload
        def __getitem__(self, key: Any) -> Any: ...
        def __getitem__(self, key: Any) -> Any: ...

        @overload
        def __matmul__(self, other: np.ndarray | list[Any]) -> np.ndarray: ...
        @overload
        def __matmul__(self, other: "sparray | spmatrix") -> Any: ...
        def __matmul__(self, other: Any) -> Any: ...

        @property
        def T(self) -> "DiskCSR": ...
        def fetch(self, rows: Any, out: "Buffers | None" = None) -> csc_array: ...
        def iter_blocks(self, max_bytes: int = ...) -> Iterator[tuple[int, csc_array]]: ...
        def to_memory(self) -> csc_array: ...
        def copy(self) -> csc_array: ...


def _is_number(other: Any) -> bool:
    return np.isscalar(other) or (isinstance(other, np.ndarray) and other.ndim == 0)


class _MatrixFlavour:
    """Of the older interface: methods that would go past the engine."""

    def __mul__(self, other: Any) -> Any:
        array: Any = self
        return array.multiply(other) if _is_number(other) else array.__matmul__(other)

    def __rmul__(self, other: Any) -> Any:
        array: Any = self
        if _is_number(other):
            return array.multiply(other)
        if not issparse(other) and np.asarray(other).dtype.kind not in "biufc":
            return NotImplemented
        return array.__rmatmul__(other)

    def getnnz(self, axis: Any = None) -> Any:
        """Count what is stored, as in scipy; no values are read, and of rows no indices."""
        return stored_of(self._contents(), self._scipy_class, axis)  # type: ignore[attr-defined]

    def getrow(self, i: int) -> Any:
        """Return row `i` as a (1, n) matrix; csr, as scipy gives it for csc too."""
        return self[i, :].tocsr()  # type: ignore[index]

    def getcol(self, j: int) -> Any:
        """Return column `j` as an (m, 1) matrix."""
        return self[:, j]  # type: ignore[index]


class DiskCSRMatrix(_MatrixFlavour, _Sides, csr_matrix):  # type: ignore[misc]
    """`DiskCSR` for code that still wants a `scipy.sparse.csr_matrix` (``*`` is ``@``)."""

    _axis, _scipy_class = CSR, csr_matrix


class DiskCSCMatrix(_MatrixFlavour, _Sides, csc_matrix):  # type: ignore[misc]
    """`DiskCSC` for code that still wants a `scipy.sparse.csc_matrix` (``*`` is ``@``)."""

    _axis, _scipy_class = CSC, csc_matrix


class LazyCSR(Lazy, DiskCSR):  # type: ignore[misc]
    """A `DiskCSR` that is computed when it is read: ``A.lazy``, or made of one."""


class LazyCSC(Lazy, DiskCSC):  # type: ignore[misc]
    """A `DiskCSC` that is computed when it is read: ``A.lazy``, or made of one."""


use_lazy_classes((LazyCSR, LazyCSC))


def _store(group: Any, matrix: Any, name: str, **storage: Unpack[StorageKeywords]) -> None:
    store(group, matrix, name, None, Storage.of(storage))


use_classes((DiskCSR, DiskCSC, DiskCSRMatrix, DiskCSCMatrix), _store, Storage.of, describe)


@overload
def open(
    file: Any,
    name: str | None = None,
    *,
    mode: str = "r",
    format: str | None = None,
    shape: tuple[int, int] | None = None,
    spmatrix: Literal[False] = False,
    untrusted: bool = False,
    storage_options: dict[str, Any] | None = None,
    columns: Any = None,
    join: Literal["inner", "outer"] | None = None,
) -> DiskCSR | DiskCSC: ...
@overload
def open(
    file: Any,
    name: str | None = None,
    *,
    mode: str = "r",
    format: str | None = None,
    shape: tuple[int, int] | None = None,
    spmatrix: Literal[True],
    untrusted: bool = False,
    storage_options: dict[str, Any] | None = None,
    columns: Any = None,
    join: Literal["inner", "outer"] | None = None,
) -> DiskCSRMatrix | DiskCSCMatrix: ...
def open(
    file: Any,
    name: str | None = None,
    *,
    mode: str = "r",
    format: str | None = None,
    shape: tuple[int, int] | None = None,
    spmatrix: bool = False,
    untrusted: bool = False,
    storage_options: dict[str, Any] | None = None,
    columns: Any = None,
    join: Literal["inner", "outer"] | None = None,
) -> DiskCSR | DiskCSC | DiskCSRMatrix | DiskCSCMatrix:
    """Open a stored sparse matrix, or several as one; nothing but attributes is read.

    Parameters
    ----------
    file : path, URL, h5py.File, h5py.Group, Python file object, or list of paths
        What to open. A file passed in open stays open when the array is closed. A URL as
        "https://host/cells.h5ad" or "s3://bucket/cells.h5ad" is read by fsspec (extra "remote"),
        in mode "r". The matrices of a list are one array, rows below rows (of CSC: columns beside
        columns); nothing is copied, and the array is for reading. An item may be (path, name).
    name : str, optional
        The group, as ``"X"`` or ``"layers/counts"``. Without it the only sparse matrix in `file`.
    mode : {"r", "r+", "c"}
        "r": assignment is refused. "r+": assignments to stored values and appended rows are
        written to the file. "c": copy-on-write, changes stay in memory.
    format : {"csr", "csc"}, optional
        Which it is, where the file does not say.
    shape : (int, int), optional
        Rows and columns, where the file does not say, or to read only the first rows (of a CSC:
        columns) of a file that an interrupted writer left.
    spmatrix : bool
        Return the older matrix flavour, for code that refuses `scipy.sparse.csr_array`.
    untrusted : bool
        Whether the file may be meant to do harm, as one that was uploaded. There is damage on which
        HDF5 crashes, never returns or takes all memory; so a process with limits
        (`diskcsr.options.untrusted_seconds`, `untrusted_bytes`) opens and reads it first, and again
        whenever it is opened anew: by `refresh`, and for a pickle. Files that lead to others are
        refused. It must be a path, and `mode` not "r+". Costs the start of a process, and that all
        that is compressed is decoded once.
    storage_options : dict, optional
        Of a URL: what fsspec's file system for it takes, as ``{"anon": True}`` of "s3://".
    columns : str or list of sequences of str, optional
        Of a list of files with different columns: what these are called. A dataset of names in
        each file, the group of a table of AnnData ("var", which is the default), or the names
        themselves, for each file.
    join : {"inner", "outer"}, optional
        Which columns there are: "inner", the default where `columns` is given, those that all files
        have, in the order of the first; "outer" all, in the order in which they appear.
        ``A.column_names`` tells them. With "inner" the array is a lazy one (``A.lazy``) where
        columns are left out.

    Returns
    -------
    DiskCSR or DiskCSC
        Whichever the file holds; with `spmatrix` DiskCSRMatrix or DiskCSCMatrix.

    Raises
    ------
    FormatError
        A `ValueError`: there is no sparse matrix, or several, or its tags contradict each other.
    CorruptFileError
        A `ValueError`: its parts do not fit together; or looking at an `untrusted` file crashed
        that process, or exceeded its limits.
    OSError
        The file cannot be opened.
    KeyError
        There is no object `name`.
    LockedFileError
        An `OSError`: for ``diskcsr.options.lock_timeout`` seconds another program had the file
        locked, or was changing it.
    StaleFileError
        An `OSError`: `file` was passed in open, and was changed since.
    RemoteError
        An `OSError`: the server does not give the parts of the file that are asked for.

    See Also
    --------
    diskcsr.write

    Notes
    -----
    A file may be read while another process changes it with this package: what is opened is one
    committed state, and what is read later belongs to the same one, or raises `StaleFileError`;
    ``A.refresh()`` goes on to the present state. Arrays that were handed out (``A.data``) and are
    memory maps of an uncompressed file are not looked after so. Programs that write by HDF5 alone
    keep readers out by its lock (`LockedFileError`); where its locks are turned off, or do not
    work, nothing is promised beside such a writer.

    Of a list of files one row pointer each is read at once. They must be of one format, and without
    `join` of one width; the dtype is what `numpy.result_type` gives. Where they differ, reading a
    part of another type takes its share of the result once more, and so does bringing columns
    together. No more files are open than an eighth of those that may be (``ulimit -n``): the others
    are opened when they are read. A pickle holds their paths, and a file that changed or is
    missing is named (`StaleFileError`, `FileNotFoundError`).

    Read are: h5sparse, AnnData (all versions), binsparse 0.1, MATLAB v7.3, h5io, 10x Genomics v2
    and v3, and untagged groups of three arrays, where `format` and `shape` may be needed.
    """
    how = (mode, format, shape, spmatrix, untrusted, storage_options)
    array = open_array(file, name, *how, columns=columns, join=join)
    return common_columns(array)


@takes_storage
def write(
    file: str | os.PathLike | Any,
    matrix: Any,
    name: str = "X",
    *,
    format: str | None = None,
    **storage: Unpack[StorageKeywords],
) -> DiskCSR | DiskCSC:
    """Store a sparse matrix and open what was stored.

    Parameters
    ----------
    file : path or h5py.Group
        A new file is made under a temporary name and renamed when complete; to an existing file
        the group is added.
    matrix : sparse array or matrix, dense 2-D array, DiskCSR or DiskCSC, or iterable of blocks
        Any scipy format. An array on disk is copied block by block. Of an iterable of sparse or
        dense blocks of rows (for "csc": of columns) the first tells the width and the dtype: they
        come one below the other, in COO too. Triplets that belong anywhere in the matrix are for
        `diskcsr.from_triplets`.
    name : str
        Name of the group.
    format : {"csr", "csc"}, optional
        Default: as `matrix`, or "csr" where that is neither.
    compression : {"raw", "gzip", "lzf", "scaleoffset", "zstd", "lz4", "blosc"}, optional
        Default: none ("raw"), which is fastest to read. "gzip" and "scaleoffset" (whole numbers
        only; any element can be read alone) are read everywhere, "lzf" by every h5py, the rest
        where hdf5plugin is installed. Chunks are compressed in several threads.
    compression_opts : int, optional
        Level of gzip (default 4), zstd (3) or blosc (5).
    shuffle : bool, optional
        Whether HDF5's byte shuffle comes before gzip, lzf, zstd or lz4; default true.
    chunks : int, optional
        Elements a chunk; default 65,536, fewer for small matrices.
    tags : {"both", "anndata", "h5sparse"}, optional
        Which convention's attributes to write. Default both, in an AnnData file its own alone.
    index_dtype : {"int32", "int64"}, optional
        Of the indices in the file, and so of ``A.indices``; results have those that scipy would
        choose. Default: int32 where that holds them, whatever `matrix` has: it
        takes half the space, and some consumers refuse int64.
    overwrite : bool
        Replace an object of this name.
    max_memory : int, optional
        Bytes this may take beyond what the process has, for a matrix on disk; default 1 GiB, or the
        memory budget where that is less. Refused of an iterable, which takes what its blocks take.
    sort_indices : bool
        False keeps the indices of each row in the order they have, where the format stays.
    sum_duplicates : bool
        Add up entries of the same place.
    progress : bool or callable, optional
        True shows a bar: in notebooks by tqdm, on a terminal by rich or tqdm where one of them is
        installed, elsewhere lines now and then. A function is called with bytes done and bytes in
        all.

    Returns
    -------
    DiskCSR or DiskCSC
        The stored matrix, mode "r".

    Raises
    ------
    ValueError
        When the object exists and `overwrite` is false, an argument is not understood, or
        `max_memory` is less than what is needed.
    TypeError
        When a block's values cannot be cast to the dtype of the first block, or for a keyword that
        is none of these.

    See Also
    --------
    diskcsr.from_triplets : Takes (rows, columns, values) in any order.

    Notes
    -----
    `compression` and all that follows are the keywords of everything that writes a matrix:
    `diskcsr.convert`, `diskcsr.concat`, ``A.save`` and ``File.create_dataset`` take them, too.

    Examples
    --------
    >>> import diskcsr, os, scipy.sparse as sp, tempfile
    >>> path = os.path.join(tempfile.mkdtemp(), "m.h5")
    >>> A = diskcsr.write(path, sp.random_array((5, 4), density=0.5, format="coo"))
    >>> A.format, A.shape, A.nnz
    ('csr', (5, 4), 10)
    """
    store(file, matrix, name, format, Storage.of(storage))
    return open_array(file, name)
