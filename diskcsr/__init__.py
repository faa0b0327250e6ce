"""Sparse matrices that stay on disk and behave as scipy.sparse arrays."""

from . import linalg
from .array import DiskCSC, DiskCSCMatrix, DiskCSR, DiskCSRMatrix, open, write
from .blocks.batches import Batches
from .errors import (
    ClosedFileError,
    CorruptFileError,
    DiskCSRError,
    FormatError,
    KernelCacheWarning,
    LockedFileError,
    MemoryBudgetError,
    ReadOnlyError,
    RemoteError,
    RollbackError,
    StaleFileError,
    StructureError,
    WriteError,
)
from .exporting.export import export
from .h5 import File, Group
from .machine.buffers import Buffers
from .machine.cache import cache
from .machine.options import options
from .machine.threads import set_num_threads
from .protocol.multiplying import gram_product
from .protocol.reducing import describe, norm
from .storage.check.check import Problem, Report, check
from .storage.check.describe import info
from .writing.concat import concat
from .writing.convert import convert
from .writing.parallel import from_dask
from .writing.triplets import from_triplets

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
    "from_triplets",
    "from_dask",
    "check",
    "info",
    "describe",
    "gram_product",
    "linalg",
    "norm",
    "Report",
    "Problem",
    "convert",
    "concat",
    "export",
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
    "RemoteError",
    "KernelCacheWarning",
]
