"""One stored matrix: its header, its readers and its row pointers, checked before anyone uses them.

An array and its transpose share one `Source`; it knows major and minor only.
"""

import io
import os
import threading
from collections.abc import Iterator, Mapping
from typing import Any, cast

import h5py
import numpy as np

from ..axis import Axis, axis_of
from ..buffers import Buffers, take
from ..errors import ClosedFileError, CorruptFileError, DiskCSRError, FormatError
from ..options import format_bytes, options, require_memory
from ..plan import Plan, plan_batches, plan_reads, plan_span
from ..threads import run_parts
from . import formats, maps
from .choose import choose_reader
from .descriptor import Descriptor
from .readers import (
    ArrayReader,
    ConstantReader,
    DirectReader,
    H5Reader,
    Job,
    Reader,
    call,
    check_indices,
    native_dtype,
)

__all__ = ["ARRAYS", "Readers", "Source", "is_file_like", "open_group"]

ARRAYS = ("data", "indices", "indptr")

#: Scattered row pointers are read one by one, a page of the file each, until reading all of them
#: would not have touched more.
_PAGE = 4096
#: Rows whose pointers are looked at in one go when a whole matrix is walked.
_WALK = 1 << 20
#: scipy.sparse has no half floats; single ones hold their values exactly.
_WIDENED = {np.dtype(np.float16): np.dtype(np.float32)}


def is_file_like(candidate: Any) -> bool:
    """Whether something names or is a file or group, and not the contents of a matrix."""
    return isinstance(candidate, str | bytes | os.PathLike | h5py.Group) or (
        hasattr(candidate, "read") and hasattr(candidate, "seek")
    )


def open_group(file: Any, name: str | None) -> tuple[h5py.Group, h5py.File | None]:
    """Open what `file` is and find the group of the matrix in it.

    Returns
    -------
    group : h5py.Group
    owned : h5py.File or None
        The file, when it was opened here and is ours to close.

    Raises
    ------
    FormatError
        When the file is no HDF5 file, or holds no sparse matrix, or several and `name` is None.
    OSError
        When it cannot be opened.
    KeyError
        When there is no object `name`.
    """
    if isinstance(file, h5py.Group):
        return _find(file, name), None
    if isinstance(file, bytes):
        file = os.fsdecode(file)
    try:
        owned = h5py.File(file if hasattr(file, "read") else os.fspath(file), "r")
    except OSError as problem:
        if isinstance(problem, FileNotFoundError | PermissionError | IsADirectoryError):
            raise
        if not _is_hdf5(file):
            raise FormatError(f"{file!r} is not an HDF5 file") from problem
        raise
    try:
        return _find(owned, name), owned
    except BaseException:
        owned.close()
        raise


def _is_hdf5(file: Any) -> bool:
    if isinstance(file, io.IOBase) or hasattr(file, "read"):
        return False
    return bool(h5py.is_hdf5(os.fspath(file)))


def _find(group: h5py.Group, name: str | None) -> h5py.Group:
    where = group.file.filename
    if name is None:
        names = formats.find(group)
        if len(names) == 1:
            return group[names[0]]
        if formats.is_sparse(group):
            return group
        if not names:
            raise FormatError(
                f"{where}: no sparse matrix found in {group.name!r}; it has "
                f"{formats.describe(group)}"
            )
        raise FormatError(f"{where}: several sparse matrices: {', '.join(names)}; give a name")
    try:
        found = group[name]
    except (KeyError, ValueError, RuntimeError, OSError) as problem:
        there = ", ".join(formats.find(group)) or formats.describe(group)
        raise KeyError(
            f"{where}: no object {name!r} in {group.name!r}; it has {there}"
        ) from problem
    if not isinstance(found, h5py.Group):
        kind = "a dense dataset" if isinstance(found, h5py.Dataset) else "no group"
        raise FormatError(f"{where}: {name!r} is {kind}, not the group of a sparse matrix")
    return found


class Readers(Mapping[str, Reader]):
    """Which reader serves each dataset of an array, and why; what was read so far.

    A mapping of "data", "indices", "indptr" to readers.
    """

    def __init__(self, readers: dict[str, Reader]) -> None:
        self._readers = readers

    def __getitem__(self, name: str) -> Reader:
        return self._readers[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._readers)

    def __len__(self) -> int:
        return len(self._readers)

    @property
    def bytes_read(self) -> int:
        """Bytes of elements read from the file since it was opened."""
        return sum(reader.bytes_read for reader in self.values())

    @property
    def stored_bytes(self) -> int:
        """Bytes the datasets take in the file."""
        return sum(reader.stored_bytes for reader in self.values())

    def __repr__(self) -> str:
        return "\n".join(
            f"{name:8}{reader.name:9}{format_bytes(reader.bytes_read)} read of "
            f"{format_bytes(reader.stored_bytes)} stored; {reader.why}"
            for name, reader in self.items()
        )


class Source:
    """A stored matrix.

    Parameters
    ----------
    group : h5py.Group
    owned : h5py.File or None
        Closed together with the source.
    format, shape : optional
        What the user says of the matrix; see `diskcsr.open`.

    Raises
    ------
    FormatError, CorruptFileError
        From the attributes and the lengths and types of the datasets; no array is read.
    """

    def __init__(
        self,
        group: h5py.Group,
        owned: h5py.File | None,
        *,
        format: str | None = None,
        shape: tuple[int, int] | None = None,
    ) -> None:
        self.group, self._owned = group, owned
        self.hints = {"format": format, "shape": shape}
        self.header = formats.detect(group, format=format, shape=shape)
        self.axis: Axis = axis_of(self.header.format)
        self.shape = self.header.shape
        self.filename: str = group.file.filename
        self.name: str = group.name
        self.where = f"{self.filename}, group {self.name!r}"
        self.lock = threading.RLock()
        self._readers: dict[str, Reader] = {}
        self._descriptor: Descriptor | str | None = None
        self._indptr: np.ndarray | None = None
        self._pointers_read = 0
        self._closed = False
        self._check_lengths()

    # ------------------------------------------------------------------------------ the file

    @property
    def path(self) -> str | None:
        """The file's absolute path, or None when it is no ordinary file."""
        if self.group.file.driver in ("fileobj", "core"):
            return None
        return os.path.abspath(self.filename)

    def check_open(self) -> None:
        """Raise `ClosedFileError` when the file is closed."""
        if self._closed or not self.group:
            raise ClosedFileError(f"{self.where}: the file is closed")

    def close(self) -> None:
        """Close the descriptor, and the file if it was opened here. Closing twice does nothing."""
        with self.lock:
            self._closed = True
            self._readers.clear()
            # Closed with its last reference: a thread may be reading through it just now.
            self._descriptor = "the file is closed"
            if self._owned is not None:
                self._owned.close()

    @property
    def closed(self) -> bool:
        return self._closed or not self.group

    def _dataset(self, name: str) -> h5py.Dataset | None:
        stored = getattr(self.header, name)
        return None if stored is None else self.group[stored]

    def _check_lengths(self) -> None:
        """Compare the lengths of the datasets with the shape: metadata only."""
        indptr = self._dataset("indptr")
        n_major = self.axis.swap(self.shape)[0]
        if indptr is None or indptr.size != n_major + 1:
            length = 0 if indptr is None else indptr.size
            given = self.hints["shape"] is not None and length > n_major + 1
            if not given:
                more = (
                    "; pass shape= to read only the first of them" if length > n_major + 1 else ""
                )
                raise CorruptFileError(
                    f"{self.where}: 'indptr' has {length} entries where a {self.header.format} "
                    f"matrix of shape {self.shape} needs {n_major + 1}{more}"
                )
        data, indices = self._dataset("data"), self._dataset("indices")
        #: Elements there are to point to: torn files may hold more of one array than of the other.
        self._stored = 0
        if data is not None and indices is not None:
            self._stored = indices.size if self.header.iso else min(indices.size, data.size)
        self.dtype = self.header.dtype or np.dtype(np.float64)
        if data is not None and self.header.dtype is None:
            native = native_dtype(data.dtype)
            self.dtype = _WIDENED.get(native, native)

    # ----------------------------------------------------------------------------- its readers

    def reader(self, name: str) -> Reader:
        """Return the reader of "data", "indices" or "indptr", chosen on first use."""
        reader = self._readers.get(name)
        if reader is None:
            with self.lock:
                self.check_open()
                try:
                    reader = self._readers.get(name) or self._choose(name)
                except (OSError, RuntimeError, ValueError, KeyError) as problem:
                    if isinstance(problem, DiskCSRError):
                        raise
                    raise CorruptFileError(
                        f"{self.where}: HDF5 cannot say where {name!r} is stored: {problem}"
                    ) from problem
                self._readers[name] = reader
        return reader

    def _choose(self, name: str) -> Reader:
        dset = self._dataset(name)
        where = f"{self.where}, dataset {getattr(self.header, name)!r}"
        if dset is None:
            dtype = self.dtype if name == "data" else np.dtype(np.int32)
            return ConstantReader(where, np.zeros((), dtype), 0, "absent: nothing is stored")
        if name == "data" and self.header.iso:
            one = H5Reader(dset, where, "")
            value = np.empty(1, one.dtype)
            one.gather(plan_span(0, 1, np.array([0, 1])), value)
            return ConstantReader(where, value[0], self._stored, "one value stands for all")
        if self._descriptor is None:
            self._descriptor = self._open_descriptor()
        return choose_reader(dset, where, self._descriptor)

    def _open_descriptor(self) -> Descriptor | str:
        file = self.group.file
        if file.driver != "sec2":
            return f"the file is opened by HDF5's driver {file.driver!r}"
        if file.mode != "r":
            return "the file is open for writing, and HDF5 may not have written everything yet"
        try:
            return Descriptor(file)
        except OSError as problem:
            return f"the file cannot be opened directly: {problem}"

    def readers(self) -> Readers:
        """Return all three readers, choosing those not chosen yet."""
        return Readers({name: self.reader(name) for name in ARRAYS})

    def _serving(self, name: str, held: Mapping[str, np.ndarray]) -> Reader:
        """The reader of an array: the array itself once it was handed out."""
        if name in held:
            return ArrayReader(f"{self.where}, array {name!r} in memory", held[name])
        return self.reader(name)

    # ------------------------------------------------------------------------ the row pointers

    def _all_pointers(self) -> np.ndarray:
        """Read and check the whole of indptr; int64. Kept from then on."""
        if self._indptr is None:
            n_major = self.axis.swap(self.shape)[0]
            require_memory(
                8 * (n_major + 1), f"{self.where}: indptr", "Select fewer rows at a time."
            )
            pointers = self._read_array("indptr", n_major + 1).astype(np.int64, copy=False)
            self._check_pointers(pointers, "all")
            self._indptr = pointers
        return self._indptr

    def has_pointers(self, array: np.ndarray) -> bool:
        """Whether these surely are the row pointers that the file holds."""
        return self._indptr is not None and np.array_equal(array, self._indptr)

    def _check_pointers(self, pointers: np.ndarray, first: Any) -> None:
        """Check consecutive row pointers; `first` is the major index of the first, or "all"."""
        start = 0 if first == "all" else first
        problem = at = None
        down = np.flatnonzero(pointers[1:] < pointers[:-1])
        if start == 0 and pointers[0] != 0:
            problem, at = "must begin with 0", 0
        elif down.size:
            at = int(down[0]) + 1
            problem = f"must not decrease (from {pointers[at - 1]})"
        elif pointers[0] < 0 or pointers[-1] > self._stored:
            at = 0 if pointers[0] < 0 else int(np.argmax(pointers > self._stored))
            problem = f"must lie in [0, {self._stored}], the stored elements"
        if problem:
            raise CorruptFileError(
                f"{self.where}: 'indptr' {problem}; entry {start + cast(int, at)} is "
                f"{pointers[cast(int, at)]}"
            )

    def _held_pointers(self, held: Mapping[str, np.ndarray]) -> np.ndarray | None:
        """The row pointers that are in memory already, whoever holds them; else None."""
        if "indptr" not in held:
            return self._indptr
        return held["indptr"]

    def spans(self, stored: Any, held: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """Return where the stored elements of each wanted row begin and end.

        Parameters
        ----------
        stored : range or (k,) int64 array
            Major indices, in range.
        held : mapping
            Arrays that were handed out.

        Returns
        -------
        starts, stops : (k,) int64 array
        """
        pointers = self._held_pointers(held)
        if isinstance(stored, range) and stored.step == 1:
            if pointers is None:
                pointers = self._some_pointers(stored.start, stored.stop)
            else:
                pointers = pointers[stored.start : stored.stop + 1].astype(np.int64, copy=False)
            return pointers[:-1], pointers[1:]
        rows = np.asarray(stored, dtype=np.int64)
        if pointers is None and self._worth_all(rows.size):
            pointers = self._all_pointers()
        if pointers is not None:
            return (
                pointers[rows].astype(np.int64, copy=False),
                pointers[rows + 1].astype(np.int64, copy=False),
            )
        return self._scattered_pointers(rows)

    def _worth_all(self, wanted: int) -> bool:
        self._pointers_read += wanted
        return self._pointers_read * _PAGE >= 8 * self.axis.swap(self.shape)[0]

    def _some_pointers(self, first: int, last: int) -> np.ndarray:
        """Read and check the pointers of rows ``first:last``."""
        if last <= first:
            return np.zeros(1, np.int64)
        reader = self.reader("indptr")
        raw = np.empty(last - first + 1, reader.dtype)
        reader.gather(plan_span(first, last + 1, np.array([0, raw.size])), raw)
        pointers = raw.astype(np.int64, copy=False)
        self._check_pointers(pointers, first)
        if first == 0 and last == self.axis.swap(self.shape)[0]:
            self._indptr = pointers
        return pointers

    def _scattered_pointers(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Read the two pointers of each row alone."""
        reader = self.reader("indptr")
        raw = np.empty(2 * rows.size, reader.dtype)
        reader.gather(plan_reads(rows, rows + 2), raw)
        starts, stops = raw.astype(np.int64, copy=False).reshape(-1, 2).T.copy()
        for bad in np.flatnonzero((starts > stops) | (starts < 0) | (stops > self._stored))[:1]:
            self._check_pointers(np.array([starts[bad], stops[bad]]), int(rows[bad]))
        for first in np.flatnonzero(rows == 0)[:1]:
            self._check_pointers(np.array([starts[first], stops[first]]), 0)
        # Each pair may be fine and yet reach into another row: the kernels count on it not to.
        order = np.argsort(rows, kind="stable")
        row, end, begin = rows[order], stops[order[:-1]], starts[order[1:]]
        for at in np.flatnonzero((begin < end) & (row[1:] > row[:-1]))[:1]:
            raise CorruptFileError(
                f"{self.where}: 'indptr' must not decrease; entry {row[at] + 1} is {end[at]}, but "
                f"entry {row[at + 1]} is {begin[at]}"
            )
        return starts, stops

    def nnz(self, n_major: int, held: Mapping[str, np.ndarray]) -> int:
        """Return the number of stored elements of the first `n_major` rows."""
        pointers = self._held_pointers(held)
        if pointers is not None:
            return int(pointers[n_major])
        if n_major == 0:
            return 0
        with self.lock:
            if self._last_pointer is None:
                self._last_pointer = int(self._some_pointers(n_major - 1, n_major)[-1])
        return self._last_pointer

    _last_pointer: int | None = None

    # --------------------------------------------------------------------------------- reading

    def plan(self, stored: Any, held: Mapping[str, np.ndarray]) -> Plan:
        """Plan the reads that give the wanted rows."""
        starts, stops = self.spans(stored, held)
        if isinstance(stored, range) and (stored.step == 1 or len(stored) == 1) and starts.size:
            indptr = np.append(starts, stops[-1]) - starts[0]
            return plan_span(int(starts[0]), int(stops[-1]), indptr)
        return plan_reads(starts, stops)

    def read(
        self,
        plan: Plan,
        n_minor: int,
        held: Mapping[str, np.ndarray],
        buffers: Buffers | None = None,
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Carry out a plan, into `buffers` where given.

        Returns
        -------
        data, indices, indptr : array
            A compressed block: the values in `self.dtype`; both index arrays int32 where that
            holds every index and the number of elements, else int64.

        Raises
        ------
        CorruptFileError
            When an index is out of range or the file cannot be read.
        MemoryBudgetError
            When the block does not fit the memory budget; nothing was read.
        """
        self.check_open()
        nbytes = plan.size * (self.dtype.itemsize + 4) + 8 * plan.indptr.size
        require_memory(nbytes, f"{self.where}: reading {plan.indptr.size - 1} rows", _INSTEAD)
        index = np.dtype(np.int32 if max(plan.size, n_minor) <= _INT32_MAX else np.int64)
        data, data_jobs, data_reader = self._start("data", plan, held, None, buffers)
        indices, jobs, _ = self._start("indices", plan, held, n_minor, buffers)
        run_parts(call, data_jobs + jobs)
        data_reader.finish(data)
        return (
            _converted(data, self._value_dtype(held), "own data", buffers),
            _converted(indices, index, "own indices", buffers),
            _converted(plan.indptr, index, "indptr", buffers),
        )

    def _start(
        self,
        name: str,
        plan: Plan,
        held: Mapping[str, np.ndarray],
        limit: int | None,
        buffers: Buffers | None,
    ) -> tuple[np.ndarray, list[Job], Reader]:
        reader = self._serving(name, held)
        self._check_span(plan, reader)
        out = take(buffers, name, plan.size, reader.dtype)
        return out, reader.jobs(plan, out, limit, options.num_threads), reader

    def _value_dtype(self, held: Mapping[str, np.ndarray]) -> np.dtype:
        return held["data"].dtype if "data" in held else self.dtype

    def _check_span(self, plan: Plan, reader: Reader) -> None:
        """No plan reaches past the end of an array, whoever made its row pointers."""
        if plan.range_hi.size and (plan.range_hi[-1] > reader.size or plan.range_lo[0] < 0):
            raise CorruptFileError(
                f"{reader.where}: row pointers ask for elements {plan.range_lo[0]} to "
                f"{plan.range_hi[-1]}, but it holds {reader.size}"
            )

    def element(
        self, major: int, minor: int, n_minor: int, held: Mapping[str, np.ndarray]
    ) -> np.generic:
        """Return one element: duplicates added up, 0 where nothing is stored.

        The indices of its row are read, and of the values those that are wanted. The result is
        that of reading the row and indexing it, without the matrix in between.
        """
        starts, stops = self.spans(range(major, major + 1), held)
        row = self._part("indices", int(starts[0]), int(stops[0]), n_minor, held)
        dtype = self._value_dtype(held)
        found = np.flatnonzero(row == minor)
        if found.size == 0:
            return dtype.type(0)
        first, last = int(starts[0] + found[0]), int(starts[0] + found[-1]) + 1
        values = self._part("data", first, last, None, held)
        return values[found - found[0]].astype(dtype).sum(dtype=dtype)

    def _part(
        self, name: str, lo: int, hi: int, limit: int | None, held: Mapping[str, np.ndarray]
    ) -> np.ndarray:
        """Read elements ``lo:hi`` of "data" or "indices"."""
        self.check_open()
        plan = plan_span(lo, hi, np.array([0, hi - lo]))
        values, jobs, reader = self._start(name, plan, held, limit, None)
        run_parts(call, jobs)
        reader.finish(values)
        return values

    def walk(
        self, stored: Any, held: Mapping[str, np.ndarray], max_elements: int
    ) -> Iterator[tuple[int, int, Plan]]:
        """Plan the wanted rows in blocks of bounded size.

        Yields
        ------
        first, last : int
            The block's place in `stored`.
        plan : Plan
        """
        for begin in range(0, len(stored), _WALK):
            some = stored[begin : begin + _WALK]
            starts, stops = self.spans(some, held)
            for first, last in plan_batches(stops - starts, max_elements):
                yield begin + first, begin + last, self.plan(some[first:last], held)

    # --------------------------------------------------------------------------- whole arrays

    def _read_array(self, name: str, size: int) -> np.ndarray:
        """Read the first `size` elements of a dataset, in its own native dtype."""
        self.check_open()
        reader = self.reader(name)
        out = np.empty(size, reader.dtype)
        reader.gather(plan_span(0, size, np.array([0, size])), out)
        return out

    def whole(self, name: str, held: Mapping[str, np.ndarray]) -> np.ndarray:
        """Return a whole array to hand out: mapped where the file allows, else loaded.

        It is private memory either way: writing to it never reaches the file.

        Raises
        ------
        MemoryBudgetError
            When it has to be loaded and does not fit.
        CorruptFileError
            When it is not what the kernels of scipy can be trusted with.
        """
        self.check_open()
        n_major, n_minor = self.axis.swap(self.shape)
        nnz = self.nnz(n_major, held)
        reader = self.reader(name)
        small = max(nnz, n_minor) <= _INT32_MAX and self.reader("indices").dtype != np.int64
        index = np.dtype(np.int32 if small else np.int64)
        if name == "indptr":
            # scipy copies `indices` on every call when the two index arrays differ in dtype.
            return self._all_pointers().astype(index)
        dtype = self.dtype if name == "data" else index
        array = None
        if isinstance(reader, DirectReader) and reader.dtype == dtype and dtype != np.bool_:
            array = maps.map_private(reader, nnz)
        if array is None:
            what = f"{self.where}: loading {name!r}"
            converted = 0 if reader.dtype == dtype else dtype.itemsize
            require_memory(nnz * (reader.dtype.itemsize + converted), what, _INSTEAD)
            array = self._read_array(name, nnz)
        if name == "indices":
            # Before any conversion: a larger type's index could wrap to one that is in range.
            self._check_all(array, n_minor, reader.where)
        return array.astype(dtype, copy=False)

    @staticmethod
    def _check_all(indices: np.ndarray, limit: int, where: str) -> None:
        step = 1 << 18  # checked while it is in the cache
        for first in range(0, indices.size, step):
            check_indices(indices[first : first + step], limit, where)


def _converted(
    array: np.ndarray, dtype: np.dtype, name: str, buffers: Buffers | None
) -> np.ndarray:
    if array.dtype == dtype:
        return array
    out = take(buffers, name, array.size, dtype)
    np.copyto(out, array, casting="unsafe")
    return out


_INT32_MAX = np.iinfo(np.int32).max
_INSTEAD = (
    "Select rows, walk the matrix with iter_blocks(), or raise diskcsr.options.memory_budget."
)
