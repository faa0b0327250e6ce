"""The file object through which HDF5 reads a remote file: metadata, and what only HDF5 reads."""

import bisect
import contextlib
import gc
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np

from ...errors import FormatError, RemoteError
from ...loading import load
from ...machine.interrupts import protected
from ..claims.peek import note_bytes, noted
from .downloads import LONGEST
from .extents import plan_requests
from .state import HEAD, State

if TYPE_CHECKING:
    from .remote import Remote

__all__ = ["RemoteFile", "RemoteFreshness", "open_remote", "remote_of", "telling_cause"]

#: Blocks of what HDF5 reads that are kept, and bytes of what was brought before.
_KEPT, _KEPT_BROUGHT = 64, 64 << 20
_SIGNATURE = b"\x89HDF\r\n\x1a\n"
#: No offset in a file can be greater, though an address in a damaged file may be.
_LAST = (1 << 63) - 1


class RemoteFile:
    """A `Remote` as `h5py.File` takes one for a file; blocks that were read are kept.

    Attributes
    ----------
    remote : Remote
    problem : Exception or None
        What went wrong when HDF5 last wanted to read: it tells as damage what was none.
    """

    def __init__(self, remote: "Remote") -> None:
        self.remote = remote
        self.problem: Exception | None = None
        self._position = 0
        caching = load("fsspec.caching")
        #: What was brought, by its offset, and these offsets, ascending.
        self._brought: dict[int, bytes] = {}
        self._offsets: list[int] = []
        self._blocks = caching.BlockCache(HEAD, self._fetch, remote.size, _KEPT)

    @protected
    def __repr__(self) -> str:
        return self.remote.shown  # what h5py takes as the name of the file

    def _fetch(self, lo: int, hi: int) -> bytes:
        hi = min(hi, self.remote.size)
        if hi <= len(self.remote.head):
            return self.remote.head[lo:hi]
        with _without_collection():
            return self.remote.read(lo, hi)

    def bring(self, offsets: list[int], nbytes: int) -> None:
        """Read runs of bytes, all at once, that are looked at next, and keep them.

        An offset that cannot be is left to whoever looks there.

        Raises
        ------
        StaleFileError, RemoteError
            As `Remote.read` does.
        """
        last = self.remote.size - nbytes
        new = [
            at
            for at in dict.fromkeys(offsets)
            if len(self.remote.head) - nbytes < at <= last and at not in self._brought
        ]
        new = new[: _KEPT_BROUGHT // nbytes]
        if not new:
            return
        if (len(self._brought) + len(new)) * nbytes > _KEPT_BROUGHT:
            self._brought.clear()
        plan = plan_requests(np.array(new), np.full(len(new), nbytes), max_gap=0, longest=LONGEST)
        lo, hi = plan.lo.tolist(), plan.hi.tolist()
        answers = self.remote.wait(self.remote.begin(list(zip(lo, hi, strict=True))))
        for at, which in zip(new, plan.request.tolist(), strict=True):
            self._brought[at] = answers[which][at - lo[which] : at - lo[which] + nbytes]
        self._offsets = sorted(self._brought)

    def _found(self, lo: int, hi: int) -> bytes | None:
        """Return bytes that were brought before."""
        at = bisect.bisect_right(self._offsets, lo) - 1
        if at < 0:
            return None
        begin = self._offsets[at]
        some = self._brought.get(begin, b"")
        return some[lo - begin : hi - begin] if hi <= begin + len(some) else None

    def _bytes(self, lo: int, hi: int) -> bytes:
        found = self._found(lo, hi)
        if found is None:
            found = bytes(self._blocks._fetch(lo, hi)) if lo < hi else b""
        return found

    @protected
    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self.remote.size}[whence]
        self._position = base + offset
        return self._position

    @protected
    def tell(self) -> int:
        return self._position

    @protected
    def readinto(self, buffer: Any) -> int:
        """Fill all of `buffer`, with zeros behind the end of the file, as HDF5 wants it.

        Raises
        ------
        OSError
            When it cannot be read: of that HDF5 must know.
        """
        view = memoryview(buffer).cast("B")
        lo, hi = self._position, self._position + len(view)
        if hi > _LAST:
            raise OSError(f"{self!r}: nothing can be at offset {lo}")
        try:
            raw = self._bytes(lo, min(hi, self.remote.size))
        except Exception as problem:
            self.problem = problem
            raise
        view[: len(raw)] = raw
        view[len(raw) :] = bytes(len(view) - len(raw))
        self._position = hi
        return len(view)

    def read(self, size: int = -1) -> bytes:
        """Return bytes up to the end of the file."""
        left = max(0, self.remote.size - self._position)
        buffer = bytearray(left if size < 0 else min(size, left))
        self.readinto(buffer)
        return bytes(buffer)

    def check_unchanged(self) -> None:
        """Raise what kept HDF5 from reading, and `StaleFileError` when the file was changed."""
        problem, self.problem = self.problem, None
        if problem is not None:
            raise problem
        self.remote.check_unchanged()

    @protected
    def write(self, raw: Any) -> int:
        raise OSError(f"{self!r} is read-only")

    @protected
    def truncate(self, size: int | None = None) -> int:
        raise OSError(f"{self!r} is read-only")

    @protected
    def flush(self) -> None:
        """Do nothing: nothing is written."""


@contextlib.contextmanager
def _without_collection() -> Iterator[None]:
    """Keep Python from collecting garbage while HDF5 waits for bytes.

    They come by fsspec's thread. Were garbage collected there, objects of h5py among it would wait
    for h5py's lock, which who waits for the bytes has; see the notes on Python file objects in
    h5py's manual. That lock also lets no second thread come here.
    """
    collected = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collected:
            gc.enable()


def open_remote(url: str, storage_options: dict[str, Any] | None = None) -> h5py.File:
    """Open an HDF5 file on a server for reading.

    Raises
    ------
    FormatError
        When it is no HDF5 file.
    FileNotFoundError, PermissionError, RemoteError, ImportError
        As `Remote` does.
    """
    from .remote import Remote  # and with it asyncio: to open a file at hand stays instant

    remote = Remote(url, storage_options)
    through = RemoteFile(remote)
    try:
        with telling_cause(through):
            file = h5py.File(through, "r")
    except RemoteError:
        raise
    except OSError as problem:
        if _SIGNATURE not in remote.head:
            raise FormatError(f"{remote.shown} is no HDF5 file") from problem
        raise OSError(f"{remote.shown}: {problem}") from problem
    note_bytes(file, through)
    return file


def remote_of(file: h5py.File) -> RemoteFile | None:
    """Return what a remote file is read through; None of any other file."""
    through = noted(file)
    return through if isinstance(through, RemoteFile) else None


class RemoteFreshness:
    """What is known of the state of a remote file; see `diskcsr.storage.files.freshness`.

    What was opened is shown as it was then, or not at all.
    """

    path: None = None

    def __init__(self, through: RemoteFile) -> None:
        self._through = through
        self.as_shown = through.remote.state
        self.check_unchanged = through.check_unchanged

    def now(self) -> State:
        """Return the state in which the file is shown."""
        return self.as_shown

    def is_current(self) -> bool:
        """Whether what HDF5 shows is what the server had when it was asked last."""
        return True


@contextlib.contextmanager
def telling_cause(through: RemoteFile | None) -> Iterator[None]:
    """Raise what kept HDF5 from reading in the block, whatever else was made of that.

    What HDF5 could not look at it may take for absent.
    """
    try:
        yield
    except Exception as problem:
        if through is not None and through.problem is not None:
            cause, through.problem = through.problem, None
            raise cause from problem
        raise
    if through is not None and through.problem is not None:
        cause, through.problem = through.problem, None
        raise cause
