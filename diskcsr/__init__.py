"""Sparse matrices that stay on disk and behave as scipy.sparse arrays."""

from .array import DiskCSC, DiskCSCMatrix, DiskCSR, DiskCSRMatrix, open, write
from .batches import Batches
from .buffers import Buffers
from .cache import cache
from .conversion import concat, convert
from .errors import (
    ClosedFileError,
    CorruptFileError,
    DiskCSRError,
    FormatError,
    LockedFileError,
    MemoryBudgetError,
    ReadOnlyError,
    RollbackError,
    StaleFileError,
    StructureError,
    WriteError,
)
from .h5 import File, Group
from .options import options
from .storage.check import Problem, Report, check
from .threads import set_num_threads

__version__ = "0.1.0"

__all__ = [
    "DiskCSR",
    "DiskCSC",
    "DiskCSRMatrix",
    "DiskCSCMatrix",
    "File",
    "Group",
    "Batches",
    "Buffers",
    "open",
    "write",
    "check",
    "Report",
    "Problem",
    "convert",
    "concat",
    "options",
    "cache",
    "set_num_threads",
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
]
