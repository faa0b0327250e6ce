"""Every exception and warning of diskcsr.

Each is ours and, at the same time, the builtin that callers of scipy, numpy and h5py already catch,
so ``except ValueError`` and ``except diskcsr.DiskCSRError`` both work.
"""

import io

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
    "KernelCacheWarning",
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


class KernelCacheWarning(UserWarning):
    """Compiled kernels are not kept where other processes find them; each compiles them again."""
