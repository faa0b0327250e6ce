"""What a result takes in memory, known before it is begun."""

from dataclasses import dataclass

import numpy as np

from ..blocks.contents import Contents
from ..keys.widths import index_dtype
from ..machine.options import format_bytes, require_memory

__all__ = ["BLOCK_BYTES", "Estimate", "block_scratch", "compressed_bytes", "matrix_bytes"]

#: Bytes of values and indices of one block, where results are made block by block.
BLOCK_BYTES = 1 << 23


@dataclass(frozen=True)
class Estimate:
    """The most bytes that a result takes, and those taken besides while it is made."""

    result: int
    scratch: int

    def require(self, what: str, instead: str) -> None:
        """Refuse what does not fit the memory budget.

        Parameters
        ----------
        what : str
            What is made, for the message.
        instead : str
            What to do instead, for the message.

        Raises
        ------
        MemoryBudgetError
            A `MemoryError`; nothing was read.
        """
        parts = f"result {format_bytes(self.result)}, scratch {format_bytes(self.scratch)}"
        require_memory(self.result + self.scratch, f"{what} ({parts})", instead)


def compressed_bytes(elements: int, n_major: int, n_minor: int, dtype: np.dtype) -> int:
    """Return what the three arrays of a matrix in memory take."""
    index = index_dtype(elements, n_minor).itemsize
    return elements * (dtype.itemsize + index) + (n_major + 1) * index


def matrix_bytes(shown: Contents) -> int:
    """Return what the three arrays of a stored matrix take once they are in memory."""
    return compressed_bytes(shown.elements, shown.n_major, shown.n_minor, shown.dtype)


def block_scratch(shown: Contents) -> int:
    """Return what is taken by the blocks on their way into a result: a few, or all there is."""
    return min(4 * BLOCK_BYTES, matrix_bytes(shown))
