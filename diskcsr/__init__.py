"""Sparse matrices that stay on disk and behave as scipy.sparse arrays."""

from .array import DiskCSC, DiskCSCMatrix, DiskCSR, DiskCSRMatrix, open, write
from .batches import Batches
from .buffers import Buffers
from .cache import cache
from .errors import (
    ClosedFileError,
    CorruptFileError,
    DiskCSRError,
    FormatError,
    MemoryBudgetError,
    ReadOnlyError,
    StaleFileError,
)
from .options import options
from .threads import set_num_threads

__version__ = "0.1.0"

__all__ = [
    "DiskCSR",
    "DiskCSC",
    "DiskCSRMatrix",
    "DiskCSCMatrix",
    "Batches",
    "Buffers",
    "open",
    "write",
    "options",
    "cache",
    "set_num_threads",
    "DiskCSRError",
    "FormatError",
    "CorruptFileError",
    "StaleFileError",
    "ClosedFileError",
    "ReadOnlyError",
    "MemoryBudgetError",
]
