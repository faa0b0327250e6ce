"""One stored matrix: its header, its readers and its row pointers, checked before anyone uses them.

An array and its transpose share one `Source`; it knows major and minor only.
"""

import io
import os
import threading
import weakref
from collections.abc import Iterator, Mapping
from typing import Any

import h5py
import numpy as np

from ..axis import Axis, axis_of
from ..buffers import Buffers, take
from ..errors import (
    ClosedFileError,
    CorruptFileError,
    DiskCSRError,
    FormatError,
    StaleFileError,
)
from ..options import format_bytes, options, require_memory
from ..plan import Plan, plan_batches, plan_reads, plan_span
from ..threads import run_parts
from . import formats, maps
from .choose import choose_reader
from .chunks import refuse_overlap
from .descriptor import Descriptor
from .files import close_file, open_to_read, path_of
from .opening import open_group
from .pointers import RowPointers
from .readers import (
    ArrayReader,
    ConstantReader,
    DirectReader,
    Job,
    Reader,
    call,
    check_indices,
    native_dtype,
)

__all__ = ["ARRAYS", "Readers", "Source", "shared_source"]

ARRAYS = ("data", "indices", "indptr")

#: Rows whose pointers are looked at in one go when a whole matrix is walked.
_WALK = 1 << 20
#: scipy.sparse has no half floats; single ones hold their values exactly.
_WIDENED = {np.dtype(np.float16): np.dtype(np.float32)}


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


class Source(RowPointers):
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
        self.hints: dict[str, Any] = {"format": format, "shape": shape}
        self.lock = threading.RLock()
        #: The arrays over this source, by id (they cannot be hashed).
        self._arrays: weakref.WeakValueDictionary[int, Any] = weakref.WeakValueDictionary()
        self._closed = False
        #: Arrays whose chunks were checked since the file was opened for writing: nobody but HDF5
        #: writes to it from then on.
        self._known: set[str] = set()
        #: What HDF5 reads through, when it is no file that HDF5 itself opened.
        self._stream: io.FileIO | None = None
        header = formats.detect(group, format=format, shape=shape)
        self.axis: Axis = axis_of(header.format)
        self._begin(group, owned, header)

    def _begin(self, group: h5py.Group, owned: h5py.File | None, header: formats.Header) -> None:
        """Start from the group as it is now."""
        self.group, self._owned, self.header = group, owned, header
        self.shape = header.shape
        if self._stream is None:
            self.filename: str = group.file.filename
        self.name: str = group.name
        self.where = f"{self.filename}, group {self.name!r}"
        self._readers: dict[str, Reader] = {}
        self._descriptor: Descriptor | str | None = None
        self._forget_pointers()
        self._state = self._state_as_opened()
        self._check_lengths()

    def _state_as_opened(self) -> tuple[int, int] | None:
        """State of the file when HDF5 began to read it, perhaps for another array."""
        now, path = self.file_state, self.path
        if now is None or path is None or self._stream or self.group.file.mode != "r":
            return now
        try:
            number = h5py.h5o.get_info(self.group.id).fileno
        except RuntimeError:  # damage; whoever reads what is damaged will say so
            return now
        if _first_seen.get(path, (0, now))[0] != number:
            _first_seen[path] = (number, now)
        return _first_seen[path][1]

    def watch(self, array: Any) -> None:
        """Have ``array.release()`` called whenever the contents have changed."""
        self._arrays[id(array)] = array

    def _have_forgotten(self) -> None:
        for array in list(self._arrays.values()):
            array.release()

    def changed(self, header: formats.Header | None = None) -> None:
        """Forget what was learned: the matrix was written to, and is now as `header` says."""
        with self.lock:
            self._begin(self.group, self._owned, header or self.header)
            self._have_forgotten()

    def refresh(self, new: bool = False) -> None:
        """Look at the file again, which another handle or process may have written to.

        Nobody has seen a `new` source yet: whatever is found in the file then is right.

        Raises
        ------
        StaleFileError
            When the group is gone, or now is a matrix of the other orientation. A file that was
            opened here is closed then.
        """
        with self.lock:
            self.check_open()
            self._known.clear()
            group, owned = self.group, self._owned
            if group.file.mode == "r" and self.path is not None:
                # HDF5 goes on showing what it has read; only a file opened anew is as it is now.
                if owned is not None or self.file_state != self._state:
                    group, owned = self._open_anew()
            elif group.name is None:
                raise StaleFileError(f"{self.where} is no longer there: it was deleted")
            try:
                header = formats.detect(group, **self.hints)
                if new:
                    self.axis = axis_of(header.format)
                if axis_of(header.format) is not self.axis:
                    raise StaleFileError(
                        f"{self.where} was a {self.axis.format} matrix when it was opened and is "
                        f"a {header.format} one now; open it again"
                    )
                self._begin(group, owned, header)
            except BaseException:
                if owned is not self._owned and owned is not None:
                    close_file(owned)
                raise
            self._closed = False
            self._have_forgotten()

    def catch_up(self) -> None:
        """Refresh a file just opened here, if HDF5 shows it as another array found it earlier."""
        if self._owned is not None and self.file_state != self._state:
            self.refresh(new=True)

    def _open_anew(self) -> tuple[h5py.Group, h5py.File]:
        """Open the file so that HDF5 reads all of it again."""
        path, now = self.path, self.file_state
        if self._owned is not None:
            self.close()
        file = open_to_read(self.filename)
        self._stream = None
        number = h5py.h5o.get_info(file.id).fileno
        alone = h5py.h5f.get_obj_count(file.id, h5py.h5f.OBJ_FILE) == 1
        if not alone and _first_seen.get(path or "") != (number, now):
            # Files that are open together share what HDF5 has read. Not so Python's file objects.
            close_file(file)
            self._stream = io.FileIO(self.filename)
            weakref.finalize(self, self._stream.close)
            file = h5py.File(self._stream, "r")
        try:
            return open_group(file, self.name)[0], file
        except (KeyError, FormatError) as problem:
            close_file(file)
            raise StaleFileError(f"{self.where} is no longer there: {problem}") from problem

    # ------------------------------------------------------------------------------ the file

    @property
    def path(self) -> str | None:
        """The file's absolute path, or None when it is no ordinary file."""
        path = self.filename if self._stream else path_of(self.group.file)
        return None if path is None else os.path.abspath(path)

    @property
    def file_state(self) -> tuple[int, int] | None:
        """Size and time of the last change of the file, or None when it is no ordinary one."""
        if self.path is None:
            return None
        try:
            now = os.stat(self.path)
        except OSError:  # it was opened, and then lost its name
            return None
        return now.st_size, now.st_mtime_ns

    def is_same(self, array: Any) -> bool:
        """Whether `array` is over this very source."""
        return getattr(array, "_source", None) is self

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
                close_file(self._owned)
            if self._stream is not None:
                self._stream.close()

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
        if self._stream is not None and self.file_state != self._state:
            raise StaleFileError(f"{self.where} was changed after it was opened; refresh() follows")
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
        if self._descriptor is None:
            self._descriptor = self._open_descriptor()
        reader = choose_reader(dset, where, self._descriptor, name in self._known)
        self._refuse_overlap(name, dset, reader)
        if self.group.file.mode != "r":
            self._known.add(name)
        if name == "data" and self.header.iso:
            value = np.empty(1, reader.dtype)
            reader.gather(plan_span(0, 1, np.array([0, 1])), value)
            return ConstantReader(where, value[0], self._stored, "one value stands for all")
        return reader

    def _refuse_overlap(self, name: str, dset: h5py.Dataset, reader: Reader) -> None:
        """Compare where an array lies with where those lie that are known already."""
        file = self.group.file.filename
        for other, known in self._readers.items():
            theirs = self._dataset(other)
            if reader.places is None or known.places is None or theirs is None:
                continue
            # Two names may well mean one dataset, and offsets in two files mean nothing.
            if dset != theirs and dset.file.filename == theirs.file.filename == file:
                refuse_overlap(reader.places, known.places, f"{self.where}: {name!r} and {other!r}")

    def _open_descriptor(self) -> Descriptor | str:
        file = self.group.file
        if file.driver != "sec2":
            return f"the file is opened by HDF5's driver {file.driver!r}"
        if file.mode != "r":
            return "the file is open for writing, and HDF5 may not have written everything yet"
        try:
            descriptor = Descriptor(file)
        except OSError as problem:
            return f"the file cannot be opened directly: {problem}"
        if self._state not in (None, descriptor.identity[2:]):
            descriptor.close()
            raise StaleFileError(f"{self.where} was changed after it was opened; refresh() follows")
        return descriptor

    def readers(self) -> Readers:
        """Return all three readers, choosing those not chosen yet."""
        return Readers({name: self.reader(name) for name in ARRAYS})

    def _serving(self, name: str, held: Mapping[str, np.ndarray]) -> Reader:
        """The reader of an array: the array itself once it was handed out."""
        if name in held:
            return ArrayReader(f"{self.where}, array {name!r} in memory", held[name])
        return self.reader(name)

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


#: By path of a file that is read: HDF5's number of it, as long as it is open, and its state then.
_first_seen: dict[str, tuple[int, tuple[int, int] | None]] = {}

#: Matrices in files that may change, by file and object: all handles on one share its `Source`, and
#: so learn of a change that is made through another.
_changing: "weakref.WeakValueDictionary[tuple, Source]" = weakref.WeakValueDictionary()


def shared_source(group: h5py.Group, owned: h5py.File | None, **hints: Any) -> Source:
    """Return the `Source` of a group; the same one as long as a file is open for writing."""
    if group.file.mode == "r":
        source = Source(group, owned, **hints)
        source.catch_up()
        return source
    try:
        info = h5py.h5o.get_info(group.id)
    except RuntimeError as problem:
        where = f"{group.file.filename}, group {group.name!r}"
        raise CorruptFileError(f"{where}: HDF5 cannot look at it: {problem}") from problem
    key = (info.fileno, info.addr, *hints.values())
    known = _changing.get(key)
    if known is not None and not known.closed and owned is None:
        return known
    source = Source(group, owned, **hints)
    if owned is None:
        _changing[key] = source
    return source


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
