"""How wide the numbers of index arrays are: one rule for all that reads and writes them."""

import numpy as np

__all__ = ["INT32_MAX", "index_dtype"]

INT32_MAX = int(np.iinfo(np.int32).max)


def index_dtype(*largest: int) -> np.dtype:
    """Return int32 where that holds each of these numbers, else int64: what scipy does.

    >>> index_dtype(5, 2**31 - 1), index_dtype(5, 2**31)
    (dtype('int32'), dtype('int64'))
    """
    return np.dtype(np.int32 if max(largest) <= INT32_MAX else np.int64)
