"""Every exception and warning of diskcsr.

Each is ours and, at the same time, the builtin that callers of scipy, numpy and h5py already catch,
so ``except ValueError`` and ``except diskcsr.DiskCSRError`` both work.
"""

import errno
import io
from typing import Any

__all__ = [
    "DiskCSRError",
    "FormatError",
    "CorruptFileError",
    "StaleFileError",
    "ClosedFileError",
    "ReadOnlyError",
    "StructureError",
    "LockedFileError",
    "RollbackError",
    "WriteError",
    "MemoryBudgetError",
    "RemoteError",
    "KernelCacheWarning",
    "raise_if_systems",
]


class DiskCSRError(Exception):
    """Base class of all errors raised by diskcsr itself."""


class FormatError(DiskCSRError, ValueError):
    """The group or file is not a sparse matrix we can read, or says two different things."""


class CorruptFileError(DiskCSRError, ValueError):
    """The stored arrays contradict each other; reading on could give wrong numbers."""


class StaleFileError(DiskCSRError, OSError):
    """The file was changed by someone else after it was opened here."""


class ClosedFileError(DiskCSRError, ValueError):
    """The array was closed, or the h5py file it belongs to was."""


class ReadOnlyError(DiskCSRError, io.UnsupportedOperation):
    """An in-place change of an array opened read-only (an ``OSError`` and a ``ValueError``)."""


class StructureError(DiskCSRError, ValueError):
    """An assignment to a stored matrix would change which of its entries are stored."""


class LockedFileError(DiskCSRError, BlockingIOError):
    """The file is open elsewhere, or being changed just now."""


class RollbackError(DiskCSRError, OSError):
    """An interrupted write must be undone before the file can be read, and that is impossible."""


class WriteError(DiskCSRError, OSError):
    """The system refused a write: the disk is full, a limit reached. Nothing is half written."""


class MemoryBudgetError(DiskCSRError, MemoryError):
    """A load that would not fit the memory budget was refused before it began."""


class RemoteError(DiskCSRError, OSError):
    """A server did not give the bytes of a file that it was asked for."""


class KernelCacheWarning(UserWarning):
    """Compiled kernels are not kept where other processes find them; each compiles them again."""


#: What says nothing of a file's contents. Others come of numbers in it: offsets that cannot be.
_SYSTEMS = (
    errno.EIO, errno.ENOMEM, errno.EMFILE, errno.ENFILE, errno.EACCES, errno.EPERM, errno.EINTR,
    errno.ENOLCK, errno.ESTALE, errno.ENOSPC, errno.EDQUOT,
)  # fmt: skip


def raise_if_systems(problem: BaseException, file: Any) -> None:
    """Raise, with the name of the file, what the system refused: the file is not to blame for it.

    Of damage HDF5 tells with errors of nearly any kind, so these are told apart by their numbers.
    """
    if isinstance(problem, DiskCSRError) or not isinstance(problem, OSError):
        return
    if problem.errno in _SYSTEMS:
        if problem.filename is not None or str(file) in str(problem):
            raise problem
        raise OSError(problem.errno, problem.strerror or str(problem), str(file)) from problem
