"""One stored matrix: what the file says of it, its readers and its row pointers.

All is checked before anyone uses it. An array and its transpose share one `Source`; it knows major
and minor only.
"""

import threading
import weakref
from typing import Any, Protocol

import h5py
import numpy as np

from ...axis import Axis, axis_of
from ...errors import (
    ClosedFileError,
    CorruptFileError,
    DiskCSRError,
    FormatError,
    LockedFileError,
    RemoteError,
    StaleFileError,
    raise_if_systems,
)
from ...keys.plan import plan_span
from ..claims.chunks import refuse_empty, refuse_overlap
from ..files.files import open_to_read
from ..files.freshness import Freshness
from ..files.looking import consistently
from ..files.transactions import close_file, read_anew_of
from ..formats.conventions import ARRAYS, Header
from ..formats.detect import detect
from ..formats.opening import open_group
from ..remote.fileobject import RemoteFreshness, open_remote, remote_of
from .arrays import WholeArrays
from .choose import choose_reader
from .descriptor import Descriptor
from .pointers import FilePointers
from .readers import (
    ConstantReader,
    Reader,
    Readers,
    native_dtype,
)
from .remote import RemoteDescriptor

__all__ = ["Source", "shared_source"]

#: scipy.sparse has no half floats; single ones hold their values exactly.
_WIDENED: dict[np.dtype, np.dtype] = {np.dtype(np.float16): np.dtype(np.float32)}


class Guard(Protocol):
    """What stands before a file that is not trusted; see `diskcsr.storage.read.untrusted`."""

    def open(self) -> h5py.File:
        """Look at the file, and then open it."""

    def check(self, fd: int) -> None:
        """Raise `StaleFileError` unless this is the file that was looked at."""


class Source:
    """A stored matrix.

    Parameters
    ----------
    group : h5py.Group
    owned : h5py.File or None
        Closed together with the source.
    format, shape : optional
        What the user says of the matrix; see `diskcsr.open`.
    guard : Guard, optional
        Opens the file whenever that has to be done again.

    Attributes
    ----------
    header : Header
        What the group says of itself.
    axis : Axis
    shape : (int, int)
    dtype : numpy.dtype
        Of the values in memory.
    pointers : FilePointers
        Where rows begin and end.
    arrays : WholeArrays
        The three arrays, each as a whole.
    elements : int
        Stored elements there are to point to.
    freshness : Freshness or RemoteFreshness
        Which state of the file is shown.
    remote : Remote or None
        The file, when a server has it.

    Raises
    ------
    FormatError, CorruptFileError
        From the attributes and the lengths and types of the datasets; no array is read.

    Notes
    -----
    Whole lines are read by `diskcsr.blocks.contents.Contents`, which knows what was handed out.
    """

    def __init__(
        self,
        group: h5py.Group,
        owned: h5py.File | None,
        *,
        format: str | None = None,
        shape: tuple[int, int] | None = None,
        guard: Guard | None = None,
    ) -> None:
        self.hints: dict[str, Any] = {"format": format, "shape": shape}
        self.guard = guard
        self.lock = threading.RLock()
        #: The arrays over this source, by id (they cannot be hashed).
        self._arrays: weakref.WeakValueDictionary[int, Any] = weakref.WeakValueDictionary()
        self._closed = False
        #: Arrays whose chunks were checked since the file was opened for writing: nobody but HDF5
        #: writes to it from then on.
        self._known: set[str] = set()
        #: Whether it was closed by a `refresh` that came to nothing, and may come to something.
        self._adrift = False
        self.filename: str = group.file.filename
        header = detect(group, format=format, shape=shape)
        self.axis: Axis = axis_of(header.format)
        self._begin(group, owned, header)

    def _begin(self, group: h5py.Group, owned: h5py.File | None, header: Header) -> None:
        """Start from the group as it is now."""
        file = group.file
        self.group, self._owned, self.header = group, owned, header
        self.shape = header.shape
        through = remote_of(file)
        self.freshness = Freshness(file) if through is None else RemoteFreshness(through)
        self.remote = None if through is None else through.remote
        self.name: str = group.name
        self.where = f"{self.filename}, group {self.name!r}"
        self._readers: dict[str, Reader] = {}
        self._descriptor: Descriptor | RemoteDescriptor | str | None = None
        self._check_lengths()

    def watch(self, array: Any) -> None:
        """Have ``array.release()`` called whenever the contents have changed."""
        self._arrays[id(array)] = array

    def _have_forgotten(self) -> None:
        for array in list(self._arrays.values()):
            array.release()

    def changed(self, header: Header | None = None) -> None:
        """Forget what was learned: the matrix was written to, and is now as `header` says."""
        with self.lock:
            self._begin(self.group, self._owned, header or self.header)
            self._have_forgotten()

    def refresh(self) -> None:
        """Look at the file again, which another handle or process may have written to.

        Raises
        ------
        StaleFileError
            When the group is gone, or now is a matrix of the other orientation. A file that was
            opened here is closed then.
        LockedFileError
            When other programs do not let it be read. It can be refreshed again later.
        """
        with self.lock:
            if self._adrift and self.remote is not None:
                self._reopen_remote()
                return
            if not self._adrift:
                self.check_open()
                if self.remote is not None and self._owned is not None:
                    self._reopen_remote()
                    return
                # HDF5 goes on showing what it has read; only a file opened anew is as it is now.
                mine = self._owned is not None or not self.freshness.is_current()
                if self.group.file.mode != "r" or self.path is None or not mine:
                    self._look_again(self.group, self._owned)
                    return
                self.close()
            try:
                consistently(self.path, self._open_anew, self._give_up)
            except LockedFileError:
                self._adrift = True
                raise
            self._adrift = False

    def _reopen_remote(self) -> None:
        """Do what `refresh` does of a file on a server."""
        self.close()
        try:
            self._open_anew()
        except RemoteError:
            self._adrift = True
            raise
        self._adrift = False

    def _open_anew(self) -> None:
        """Open the file again, and start from what is in it now."""
        if self.remote is not None:
            file = open_remote(self.remote.url, self.remote.storage_options)
        else:
            file = self.guard.open() if self.guard else open_to_read(self.path)
        try:
            try:
                group = open_group(file, self.name)[0]
            except (KeyError, FormatError) as problem:
                raise StaleFileError(f"{self.where} is no longer there: {problem}") from problem
            self._look_again(group, file)
        except BaseException:
            self._closed = True
            close_file(file)
            raise

    def _give_up(self, nothing: None = None) -> None:
        self.close()

    def _look_again(self, group: h5py.Group, owned: h5py.File | None) -> None:
        """Start again from a group that is the same matrix, perhaps with other contents."""
        self._known.clear()
        if group.name is None:
            raise StaleFileError(f"{self.where} is no longer there: it was deleted")
        header = detect(group, **self.hints)
        if axis_of(header.format) is not self.axis:
            raise StaleFileError(
                f"{self.where} was a {self.axis.format} matrix when it was opened and is "
                f"a {header.format} one now; open it again"
            )
        self._begin(group, owned, header)
        self._closed = False
        self._have_forgotten()

    # ------------------------------------------------------------------------------ the file

    @property
    def path(self) -> str | None:
        """The file's absolute path, or None when it is no ordinary file."""
        return self.freshness.path

    def check_open(self) -> None:
        """Raise `ClosedFileError` when the file is closed."""
        if self._adrift:
            raise StaleFileError(f"{self.where}: refresh() was not possible; try it again")
        if self._closed or not self.group:
            raise ClosedFileError(f"{self.where}: the file is closed")

    def close(self) -> None:
        """Close the descriptor, and the file if it was opened here. Closing twice does nothing."""
        with self.lock:
            self._closed = True
            self._adrift = False
            self._readers.clear()
            # Closed with its last reference: a thread may be reading through it just now.
            self._descriptor = "the file is closed"
            if self._owned is not None:
                close_file(self._owned)

    @property
    def closed(self) -> bool:
        """Whether the file is closed."""
        return self._closed or not self.group

    def dataset(self, name: str) -> h5py.Dataset | None:
        """Return the dataset of "data", "indices" or "indptr"; None when nothing is stored."""
        stored = getattr(self.header, name)
        return None if stored is None else self.group[stored]

    def _check_lengths(self) -> None:
        """Compare the lengths of the datasets with the shape: metadata only."""
        indptr = self.dataset("indptr")
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
        data, indices = self.dataset("data"), self.dataset("indices")
        #: Elements there are to point to: torn files may hold more of one array than of the other.
        self.elements: int = 0
        if data is not None and indices is not None:
            self.elements = indices.size if self.header.iso else min(indices.size, data.size)
        own = weakref.proxy(self)  # lest an array that nobody has keeps its file open
        self.pointers = FilePointers(
            self.where, n_major, self.elements, lambda: own.reader("indptr")
        )
        native: np.dtype = self.header.dtype or np.dtype(np.float64)
        if data is not None and self.header.dtype is None:
            native = native_dtype(data.dtype)
        self.dtype = _WIDENED.get(native, native)
        self.arrays = WholeArrays(
            self.where,
            self.axis.swap(self.shape),
            self.dtype,
            self.pointers,
            lambda name: own.reader(name),
        )

    # ----------------------------------------------------------------------------- its readers

    def reader(self, name: str) -> Reader:
        """Return the reader of "data", "indices" or "indptr", chosen on first use."""
        reader = self._readers.get(name)
        if reader is None:
            with self.lock:
                self.check_open()
                reader = self._readers.get(name) or self._chosen(name)
                self._readers[name] = reader
        return reader

    def _chosen(self, name: str) -> Reader:
        """Choose a reader, by what HDF5 says of a file that does not change meanwhile."""
        try:
            reader = self._choose(name)
        except (OSError, RuntimeError, ValueError, KeyError) as problem:
            self.freshness.check_unchanged()
            if isinstance(problem, DiskCSRError):
                raise
            raise_if_systems(problem, self.filename)
            raise CorruptFileError(
                f"{self.where}: HDF5 cannot say where {name!r} is stored: {problem}"
            ) from problem
        self.freshness.check_unchanged()
        return reader

    def check_indices_there(self, nnz: int) -> None:
        """Raise `CorruptFileError` where so many indices cannot ever have been written.

        Values may well be the fill value, as many as there are indices.
        """
        self.reader("indices")  # whose choice checks the index of its chunks
        dset = self.dataset("indices")
        if dset is not None:
            refuse_empty(dset, nnz, f"{self.where}, dataset {self.header.indices!r}")

    def _choose(self, name: str) -> Reader:
        dset = self.dataset(name)
        where = f"{self.where}, dataset {getattr(self.header, name)!r}"
        if dset is None:
            dtype = self.dtype if name == "data" else np.dtype(np.int32)
            return ConstantReader(where, np.zeros((), dtype), 0, "absent: nothing is stored")
        if self._descriptor is None:
            self._descriptor = self._open_descriptor()
        reader = choose_reader(dset, where, self._descriptor, name in self._known)
        if reader.check_unchanged is None:
            reader.check_unchanged = self.freshness.check_unchanged
        self._refuse_overlap(name, dset, reader)
        if name == "indptr":
            refuse_empty(dset, self.axis.swap(self.shape)[0] + 1, where)
        if self.group.file.mode != "r":
            self._known.add(name)
        if name == "data" and self.header.iso:
            value = np.empty(1, reader.dtype)
            reader.gather(plan_span(0, 1, np.array([0, 1])), value)
            return ConstantReader(where, value[0], self.elements, "one value stands for all")
        return reader

    def _refuse_overlap(self, name: str, dset: h5py.Dataset, reader: Reader) -> None:
        """Compare where an array lies with where those lie that are known already."""
        file = self.group.file.filename
        for other, known in self._readers.items():
            theirs = self.dataset(other)
            if reader.places is None or known.places is None or theirs is None:
                continue
            # Two names may well mean one dataset, and offsets in two files mean nothing.
            if dset != theirs and dset.file.filename == theirs.file.filename == file:
                refuse_overlap(reader.places, known.places, f"{self.where}: {name!r} and {other!r}")

    def _open_descriptor(self) -> Descriptor | RemoteDescriptor | str:
        file = self.group.file
        through = remote_of(file)
        if through is not None:
            return RemoteDescriptor(through)
        anew = read_anew_of(file)
        if file.driver != "sec2" and anew is None:
            return f"the file is opened by HDF5's driver {file.driver!r}"
        if file.mode != "r":
            return "the file is open for writing, and HDF5 may not have written everything yet"
        try:
            descriptor = Descriptor(file, anew)
        except OSError as problem:
            return f"the file cannot be opened directly: {problem}"
        if self.freshness.as_shown not in (None, descriptor.identity[2:]):
            descriptor.close()
            raise StaleFileError(f"{self.where} was changed after it was opened; refresh() follows")
        return descriptor

    def readers(self) -> Readers:
        """Return all three readers, choosing those not chosen yet."""
        return Readers({name: self.reader(name) for name in ARRAYS})


#: Matrices in files that may change, by file and object: all handles on one share its `Source`, and
#: so learn of a change that is made through another.
_changing: "weakref.WeakValueDictionary[tuple, Source]" = weakref.WeakValueDictionary()


def shared_source(
    group: h5py.Group, owned: h5py.File | None, guard: Guard | None = None, **hints: Any
) -> Source:
    """Return the `Source` of a group; the same one as long as a file is open for writing."""
    if group.file.mode == "r":
        try:
            return Source(group, owned, guard=guard, **hints)
        except (CorruptFileError, FormatError):
            Freshness(group.file).check_unchanged()  # what HDF5 shows may be older than the file
            raise
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
