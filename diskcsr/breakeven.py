"""Sizes at which one way of doing something begins to be faster than another, as measured.

Each has its one name and its one place here; `bench/fetch.py` shows what they are worth. They
change how an answer is found, never what it is.
"""

__all__ = [
    "BLOCK_ELEMENTS",
    "FEW_PIECES",
    "KEPT_BYTES",
    "LONG_RANGE",
    "SHARED_BYTES",
]

#: Up to this many pieces are planned, read, copied and checked from Python: a kernel costs about as
#: much to call, and the first one imports the compiler (0.16 s, 110 MB).
FEW_PIECES = 8

#: Bytes up to which a thread keeps the memory that it decodes in, from one call to the next.
KEPT_BYTES = 8 << 20

#: Bytes a range, on average, from which on a plan is read and not copied from a map.
LONG_RANGE = 1 << 19

#: Bytes from which on plain copies are shared with another thread: the hand-over takes as long as
#: copying about half of them (0.17 ms where that was measured first).
SHARED_BYTES = 2 << 20

#: Stored elements of a block when a matrix is walked: a few MB, so that several fit any cache.
BLOCK_ELEMENTS = 1 << 20
