"""The three arrays of a stored matrix as wholes, to hand out: mapped where the file allows."""

import weakref
from collections.abc import Callable, Mapping
from typing import TypeGuard

import numpy as np

from ...errors import DiskCSRError
from ...keys.plan import plan_span
from ...keys.widths import index_dtype
from ...machine.options import require_memory
from ..formats.conventions import ARRAYS
from . import maps
from .direct import DirectReader
from .pointers import FilePointers
from .readers import Reader, check_indices

__all__ = ["INSTEAD", "WholeArrays"]

#: What to do instead of a load that does not fit the memory budget.
INSTEAD = "Select less, walk the matrix with iter_blocks(), or raise diskcsr.options.memory_budget."
#: Elements that are compared at a time.
_COMPARED = 1 << 16


class WholeArrays:
    """Makes the arrays that are handed out, and knows again those that it made.

    They are private memory either way: writing to one never reaches the file.

    Parameters
    ----------
    where : str
        How messages call the matrix.
    lengths : (int, int)
        Of its major and its minor axis.
    dtype : numpy.dtype
        Of the values in memory.
    pointers : FilePointers
    reader : callable
        Gives the reader of an array by its name.
    """

    def __init__(
        self,
        where: str,
        lengths: tuple[int, int],
        dtype: np.dtype,
        pointers: FilePointers,
        reader: Callable[[str], Reader],
    ) -> None:
        self._where, self._dtype, self._pointers = where, dtype, pointers
        self._n_major, self._n_minor = lengths
        self._reader = reader
        #: The arrays made of the file, by name, and whether they may be written to.
        self._made: dict[str, list[tuple[weakref.ref, bool]]] = {}

    def make(self, name: str, nnz: int, *, writeable: bool) -> np.ndarray:
        """Return a whole array to hand out: mapped where the file allows, else loaded.

        Parameters
        ----------
        name : {"data", "indices", "indptr"}
        nnz : int
            How many elements there are.
        writeable : bool
            Whether the array may be written to.

        Raises
        ------
        MemoryBudgetError
            When it has to be loaded and does not fit.
        CorruptFileError
            When it is not what the kernels of scipy can be trusted with.
        """
        dtype = self._dtype_of(name, nnz)
        if name == "indptr":
            # scipy copies `indices` on every call when the two index arrays differ in dtype.
            array = self._pointers.whole().astype(dtype)
        else:
            array = self._load(name, nnz, dtype)
        array.flags.writeable = writeable
        known = [one for one in self._made.get(name, ()) if one[0]() is not None]
        self._made[name] = [*known, (weakref.ref(array), writeable)]
        return array

    def require_memory(self, nnz: int, held: Mapping[str, np.ndarray], name: str) -> None:
        """Refuse to load an array when it and the rest of the matrix do not fit together.

        What scipy does with one of the arrays it does with all: better none is loaded than two.

        Parameters
        ----------
        nnz : int
            How many elements there are.
        held : mapping
            The arrays that are in memory already.
        name : str
            The array that is asked for.

        Raises
        ------
        MemoryBudgetError
            Nothing was loaded.
        """
        missing = {part: self._bytes_to_load(part, nnz) for part in ARRAYS if part not in held}
        if missing.get(name) and name != "indptr":
            what = f"{self._where}: loading {name!r} and what belongs to it"
            require_memory(sum(missing.values()), what, INSTEAD)

    def _bytes_to_load(self, name: str, nnz: int) -> int:
        if name == "indptr":
            return 8 * (self._n_major + 1)
        dtype, reader = self._dtype_of(name, nnz), self._reader(name)
        if _can_map(reader, dtype) and reader.contiguous_offset() is not None:
            return 0
        converted = 0 if reader.dtype == dtype else dtype.itemsize
        return nnz * (reader.dtype.itemsize + converted)

    def _dtype_of(self, name: str, nnz: int) -> np.dtype:
        """Return the dtype that an array has when it is handed out."""
        if name == "data":
            return self._dtype
        small = self._reader("indices").dtype != np.int64
        return index_dtype(nnz, self._n_minor) if small else np.dtype(np.int64)

    def _load(self, name: str, size: int, dtype: np.dtype) -> np.ndarray:
        reader = self._reader(name)
        array = maps.map_private(reader, size) if _can_map(reader, dtype) else None
        if array is None:
            what = f"{self._where}: loading {name!r}"
            require_memory(self._bytes_to_load(name, size), what, INSTEAD)
            array = np.empty(size, reader.dtype)
            reader.gather(plan_span(0, size, np.array([0, size])), array)
        if name == "indices":
            # Before any conversion: a larger type's index could wrap to one that is in range.
            _check_all(array, self._n_minor, reader.where)
        return array.astype(dtype, copy=False)

    # -------------------------------------------------------------------- those that were made

    def is_loaded_alike(self, name: str, array: np.ndarray) -> bool:
        """Whether an array was loaded by `make` and still is, bit for bit, what the file holds.

        The file is read again, a little at a time. What cannot be read counts as different.
        """
        made = any(one() is array for one, _ in self._made.get(name, ()))
        if not made or name == "indptr" or maps.is_map(array):
            return False
        try:
            for lo in range(0, array.size, _COMPARED):
                some = array[lo : lo + _COMPARED]
                read = np.empty(some.size, self._reader(name).dtype)
                span = plan_span(lo, lo + some.size, np.array([0, some.size]))
                self._reader(name).gather(span, read)
                if read.astype(array.dtype).tobytes() != some.tobytes():
                    return False
        except (DiskCSRError, MemoryError, OSError):
            return False
        return True

    def is_as_stored(self, name: str, array: np.ndarray) -> bool:
        """Whether an array surely is what `make` made of the file, and was not written to since.

        Row pointers are never a map; there are few enough to compare.
        """
        writeable = [writeable for made, writeable in self._made.get(name, ()) if made() is array]
        return bool(writeable) and (
            not (writeable[0] or array.flags.writeable)
            or maps.is_untouched(array)
            or (name == "indptr" and self._pointers.are_surely(array))
        )


def _can_map(reader: Reader, dtype: np.dtype) -> TypeGuard[DirectReader]:
    return isinstance(reader, DirectReader) and reader.dtype == dtype and dtype != np.bool_


def _check_all(indices: np.ndarray, limit: int, where: str) -> None:
    step = 1 << 18  # checked while it is in the cache
    for first in range(0, indices.size, step):
        check_indices(indices[first : first + step], limit, where)
