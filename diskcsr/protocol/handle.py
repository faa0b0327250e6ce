"""A handle on a stored matrix: opening, closing, handing arrays out, pickling, refusing changes."""

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np

from .. import interop
from ..axis import Axis, matrix_of
from ..blocks.contents import Contents
from ..blocks.joined import open_any
from ..blocks.whole import load
from ..errors import FormatError
from ..keys.widths import index_dtype
from ..machine.buffers import Buffers
from ..machine.options import require_memory
from ..storage.formats.conventions import ARRAYS
from ..storage.formats.opening import is_file_like, open_group
from ..storage.read.readers import Readers
from ..storage.read.source import Source
from .display import to_html

if TYPE_CHECKING:
    from ..array import DiskCSC, DiskCSR

__all__ = ["Handle", "contents_of", "open_array", "use_classes"]


def use_classes(
    classes: Iterable[Any],
    store: Callable[..., None],
    check_storage: Callable[..., Any],
    describe: Callable[..., Any],
) -> None:
    """Be told, once, of the classes that arrays are of: one for each axis and flavour.

    And of what stores and describes an array, which other libraries are told of.
    """
    for one in classes:
        Handle._classes[one._axis, one._scipy_class is one._axis.matrix] = one
    interop.HANDED.classes.update({one: one._scipy_class for one in Handle._classes.values()})
    interop.HANDED.open_group, interop.HANDED.open_array = open_group, open_array
    interop.HANDED.store, interop.HANDED.check_storage = store, check_storage
    interop.HANDED.describe = describe


def contents_of(matrix: Any) -> Contents | None:
    """Return what a matrix on disk shows now; None when `matrix` is none."""
    return matrix._contents() if isinstance(matrix, Handle) else None


def open_array(
    file: Any,
    name: str | None = None,
    mode: str = "r",
    format: str | None = None,
    shape: tuple[int, int] | None = None,
    spmatrix: bool = False,
    untrusted: bool = False,
    storage_options: dict[str, Any] | None = None,
    **joining: Any,
) -> "DiskCSR | DiskCSC":
    """Open a stored matrix as the array that it is; see `diskcsr.open`."""
    hints = {"format": format, "shape": shape}
    source = open_any(file, name, hints, mode, untrusted, storage_options, **joining)
    return Handle._classes[source.axis, spmatrix]._over(source, mode, {})


class _StoredArray:
    """One of the three arrays: read or mapped when first asked for, then an ordinary attribute.

    A descriptor without ``__set__``: the array lands in the instance's ``__dict__``, where
    scipy's own classes keep it, so scipy's code and callers that assign to it work unchanged.
    """

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        if instance is None:
            return self
        if interop.sizing.get():
            return instance._stand_in(self._name)
        return instance._hand_out(self._name)


class Handle:
    """The part of a disk array that knows the file; it knows major and minor only."""

    # Not in ``__dict__``: scipy's matrices swap that for another when their shape is assigned to.
    __slots__ = ("_mode", "_shared", "_source")

    _axis: ClassVar[Axis]
    _scipy_class: ClassVar[Any]  # scipy's class of the same format and flavour
    #: The class for each axis and each of scipy's classes; see `use_classes`.
    _classes: ClassVar[dict[tuple[Axis, bool], Any]] = {}
    _shared: dict[str, np.ndarray]
    _source: Source
    _mode: str
    maxprint: int
    shape: tuple[int, int]

    data = _StoredArray()
    indices = _StoredArray()
    indptr = _StoredArray()

    # ------------------------------------------------------------------------------- opening

    def __new__(cls, file: Any, name: Any = None, *args: Any, **kwargs: Any) -> Any:
        # scipy builds every result with ``self.__class__(...)``. What does not name a file is
        # such a call, and gives scipy's own class: results are in memory.
        if not is_file_like(file):
            args = (name, *args) if args or name is not None else ()
            return cls._scipy_class(file, *args, **kwargs)
        return cls._open(file, name, *args, **kwargs)

    def __init__(self, file: Any, name: str | None = None, **kwargs: Any) -> None:
        pass  # all done in __new__; scipy's __init__ must not run

    @classmethod
    def _open(
        cls,
        file: Any,
        name: str | None = None,
        *,
        mode: str = "r",
        format: str | None = None,
        shape: tuple[int, int] | None = None,
        untrusted: bool = False,
        storage_options: dict[str, Any] | None = None,
    ) -> Any:
        hints = {"format": format, "shape": shape}
        source = open_any(file, name, hints, mode, untrusted, storage_options)
        if source.axis is not cls._axis:
            source.close()
            raise FormatError(
                f"{source.where} holds a {source.axis.format} matrix, not a {cls._axis.format} "
                "one; diskcsr.open() takes either"
            )
        return cls._over(source, mode, {})

    @classmethod
    def _over(cls, source: Source, mode: str, shared: dict[str, np.ndarray]) -> Any:
        self = object.__new__(cls)
        self._source, self._mode = source, mode
        #: Arrays handed out by this handle or its transpose.
        self._shared = shared
        self.maxprint = 50  # type: ignore[misc]  # scipy's default; str() reads it
        interop.register_loaded()
        source.watch(self)
        return self

    def close(self) -> None:
        """Close the file, unless it was passed in open; arrays handed out stay valid."""
        self._source.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    @property
    def closed(self) -> bool:
        """Whether the file is closed."""
        return self._source.closed

    @property
    def filename(self) -> str:
        """Name of the file, as it was opened; of several, the first."""
        return self._source.filename

    @property
    def name(self) -> str:
        """Name of the group in the file."""
        return self._source.name

    @property
    def mode(self) -> str:
        """ "r" (read-only), "r+" (changes are written) or "c" (changes stay in memory)."""
        return self._mode

    @property
    def reader(self) -> Readers:
        """Which reader serves each dataset and why, and what was read so far.

        Returns
        -------
        mapping
            Of "data", "indices" and "indptr" to readers with ``name``, ``why``, ``bytes_read``
            and ``stored_bytes``; the mapping itself has the totals of the last two.
        """
        return self._source.readers()

    @property
    def group(self) -> Any:
        """The h5py.Group that holds the matrix: its attributes and datasets."""
        return self._source.group

    def refresh(self) -> None:
        """Look at the file again: it may have been written to since it was opened.

        Arrays that were handed out are forgotten; shape and values are then those of the state that
        was committed last. Views of this array (`T`) follow.

        Raises
        ------
        StaleFileError
            When the group is gone, or is a matrix of the other orientation now. An array that
            opened the file is closed then.
        LockedFileError
            When for ``diskcsr.options.lock_timeout`` seconds another program had the file locked,
            or was changing it. Refresh again later; until then reading raises `StaleFileError`.

        Examples
        --------
        To follow a file that another process appends to, read what is new, and begin again when the
        file was changed while it was read:

        >>> while following:  # doctest: +SKIP
        ...     try:
        ...         A.refresh()
        ...         new = A[seen:]
        ...     except (diskcsr.LockedFileError, diskcsr.StaleFileError):
        ...         continue
        ...     seen += new.shape[0]
        """
        self._source.refresh()

    def _repr_html_(self) -> str:
        """Return what notebooks show: what it is, where it lies, what reads it; reads nothing."""
        return to_html(type(self).__name__, self._mode, self._contents())

    # --------------------------------------------------- what scipy asks before it asks for arrays

    @property
    def _shape(self) -> tuple[int, int]:
        # scipy keeps it in ``__dict__``, and puts it there when it reshapes; until then the file's.
        return self.__dict__.get("_shape") or self._file_shape

    @_shape.setter
    def _shape(self, shape: tuple[int, int]) -> None:
        self.__dict__["_shape"] = shape

    @property
    def dtype(self) -> np.dtype:
        """The values' dtype; float16 in the file is float32 here, as scipy has no half floats."""
        return self._contents().dtype

    @dtype.setter
    def dtype(self, value: Any) -> None:
        self.data = self.data.view(value)  # type: ignore[misc]

    @property
    def nnz(self) -> int:
        """Number of stored values, explicit zeros included."""
        return self._contents().nnz

    @property
    def _n_major(self) -> int:
        return self._axis.swap(self._shape)[0]

    @property
    def _n_minor(self) -> int:
        return self._axis.swap(self._shape)[1]

    # ------------------------------------------------------------------ views on the same file

    def transpose(self, axes: Any = None, copy: bool = False) -> Any:
        """Return the transpose over the same file: nothing is read unless `copy` is true."""
        if axes is not None:
            self._scipy_class((1, 1)).transpose(axes)  # scipy's own complaint about other axes
        if copy:
            return self.to_memory().transpose()
        flipped = self._twin()._over(self._source, self._mode, self._shared)
        if self._shape != self._file_shape:
            flipped._shape = self._shape[::-1]
        self._pass_on(flipped)
        return flipped

    T = property(transpose, doc="The transpose over the same file; nothing is read.")

    def conjugate(self, copy: bool = True) -> Any:
        """Return the complex conjugate, in memory; of real values, a handle that copies nothing."""
        if np.issubdtype(self.dtype, np.complexfloating):
            return self.to_memory().conjugate(copy=False)
        if not copy:
            return self
        if not self._contents().is_as_stored():
            return self.to_memory()  # of what callers made of it; the file is no longer the truth
        return self._over(self._source, self._mode, {})

    conj = conjugate

    def _twin(self) -> Any:
        return self._classes[self._axis.transposed, self._scipy_class is self._axis.matrix]

    def _pass_on(self, other: Any) -> None:
        """Give a handle over the same contents what was learned about them."""
        for name in (*ARRAYS, "_has_sorted_indices", "_has_canonical_format"):
            if name in self.__dict__:
                other.__dict__[name] = self.__dict__[name]

    # ----------------------------------------------------------------------- what it shows

    def _contents(self) -> Contents:
        """Return what this array shows now."""
        return Contents(self._source, self._held(), self._axis, self._shape)

    def _held(self) -> dict[str, np.ndarray]:
        """The arrays that were handed out: callers may have changed them, so they are the truth."""
        held = dict(self._shared) if self._shared else {}
        for name in ARRAYS:
            if name in self.__dict__:
                held[name] = self.__dict__[name]
        return held

    def _rows(self, majors: Any, buffers: Buffers | None = None) -> Any:
        """Read whole rows, in the order asked for."""
        contents = self._contents()
        return self._in_memory(contents.read(contents.plan(majors), buffers), contents.n_minor)

    def _in_memory(self, arrays: tuple[np.ndarray, np.ndarray, np.ndarray], n_minor: int) -> Any:
        """Make scipy's matrix of a block, which is sound: it need not be looked at again."""
        shape = self._axis.swap((arrays[2].size - 1, n_minor))
        return matrix_of(self._scipy_class, arrays, shape)

    def to_memory(self) -> Any:
        """Load the matrix.

        Returns
        -------
        csr_array or csc_array
            Detached from the file.

        Raises
        ------
        MemoryBudgetError
            When it does not fit ``diskcsr.options.memory_budget``; nothing was read.
        """
        contents = self._contents()
        return self._in_memory(load(contents), contents.n_minor)

    # -------------------------------------------------------------------- handing arrays out

    def _hand_out(self, name: str) -> np.ndarray:
        with self._source.lock:
            if name not in self.__dict__:
                if name not in self._shared:
                    self._source.check_open()
                    nnz, arrays = self._contents().nnz, self._source.arrays
                    # Changes of it would not reach the file, which mode "r+" promises.
                    writeable = self._mode != "r+"
                    try:
                        arrays.require_memory(nnz, self._held(), name)
                        self._shared[name] = arrays.make(name, nnz, writeable=writeable)
                    except MemoryError:
                        self._forget_loaded()
                        raise
                self.__dict__[name] = self._shared[name]
            return self.__dict__[name]

    def _stand_in(self, name: str) -> np.ndarray:
        """Return an array of the length and dtype of one of the three that takes no memory.

        Of what is computed nobody knows the length before: it is what is read for it.
        """
        shown, dtype = self._contents(), self.dtype
        found = shown.nnz_at_hand()
        nnz = shown.elements if found is None else found
        if name != "data":
            stored = self._source.reader("indices").dtype
            dtype = stored if stored == np.int64 else index_dtype(nnz, self._n_minor)
        size = self._n_major + 1 if name == "indptr" else nnz
        return np.broadcast_to(np.zeros((), dtype), size)

    def _forget_loaded(self) -> None:
        """Give back arrays that were loaded and not changed: what they were loaded for failed."""
        for name, array in self._held().items():
            if self._source.arrays.is_loaded_alike(name, array):
                self._shared.pop(name, None)
                self.__dict__.pop(name, None)

    def release(self) -> None:
        """Forget `data`, `indices` and `indptr` as handed out; the file is the truth again.

        Changes made to them are lost, as is anything kept of them in memory.
        """
        with self._source.lock:
            self._shared.clear()
            for name in (*ARRAYS, "_has_sorted_indices", "_has_canonical_format", "_shape"):
                self.__dict__.pop(name, None)

    @property
    def _file_shape(self) -> tuple[int, int]:
        """The shape as the file has it, seen from this side."""
        shape = self._source.shape
        return shape[::-1] if self._flipped else shape

    @property
    def _flipped(self) -> bool:
        """Whether this handle is the transpose of what the file says it holds."""
        return self._axis is not self._source.axis

    def _require(self, elements: int, rows: int, what: str) -> None:
        nbytes = elements * (self.dtype.itemsize + 4) + 8 * rows
        require_memory(
            nbytes,
            f"{self._source.where}: reading {what}",
            "Walk the matrix with iter_blocks(), select less, or raise the budget.",
        )

    def __reduce__(self) -> Any:
        address = self._contents().address()
        if address is None:
            whole = self.to_memory() if not self._held() else self
            arrays = (whole.data, whole.indices, whole.indptr)
            return self._scipy_class, (arrays, self._shape)
        flags = {
            name: self.__dict__[name]
            for name in ("_has_sorted_indices", "_has_canonical_format", "maxprint")
            if name in self.__dict__
        }
        stored_as = self._twin() if self._flipped else type(self)
        # One process at a time may write: the copy of an array that can reads.
        mode = "r" if self._mode == "r+" else self._mode
        return _reopen, (stored_as, address, mode, self._flipped, flags)


def _reopen(cls: Any, address: Any, mode: str, flipped: bool, flags: dict[str, Any]) -> Any:
    array = cls._over(address.open(), mode, {})
    array = array.transpose() if flipped else array
    if address.is_unchanged(array._source):
        array.__dict__.update(flags)
    return array
