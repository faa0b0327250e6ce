"""Matrix Market files, written block by block.

scipy's writer (which is fast_matrix_market) writes a matrix as a whole, to any stream. It writes
each block here, and the block's header is left out, so that numbers are printed by the library that
knows how: with as many digits as it takes to read the same values back.
"""

import io
from pathlib import Path

import numpy as np
from scipy.sparse import coo_array

from ..importing.imported import open_bytes
from ..loading import load
from ..storage.formats.others import SUFFIXES
from .exported import Exported, Target

__all__ = ["MARKET"]


def write_market(path: Path, exported: Exported) -> None:
    """Write a file of coordinates; compressed where the name ends in .gz or .bz2."""
    rows, columns = exported.shape
    with open_bytes(path, "wb") as file:
        head = _by_scipy(coo_array((1, 1), dtype=_printed(exported.dtype)))[0]
        file.write(head + f"%\n{rows} {columns} {exported.count}\n".encode())
        for row, column, values in exported.triplets():
            values = values.astype(_printed(values.dtype), copy=False)
            part = coo_array((values, (row, column)), shape=exported.shape)
            file.write(_by_scipy(part)[1])


def _printed(dtype: np.dtype) -> np.dtype:
    """The dtype that values are printed as: there is no word for truth values in such a file."""
    return np.dtype(np.int8) if dtype.kind == "b" else dtype


def _by_scipy(part: coo_array) -> tuple[bytes, bytes]:
    """The first line of the file that scipy writes of a matrix, and those of its entries."""
    text = io.BytesIO()
    load("scipy.io").mmwrite(text, part, symmetry="general")
    written = text.getbuffer()
    first = bytes(written[:200]).index(b"\n") + 1
    begin = first
    while written[begin : begin + 1] == b"%":
        begin = _next(written, begin)
    return bytes(written[:first]), bytes(written[_next(written, begin) :])


def _next(text: memoryview, begin: int) -> int:
    """Where the next line begins."""
    return begin + bytes(text[begin : begin + 200]).index(b"\n") + 1


MARKET = Target("mtx", "Matrix Market", SUFFIXES["mtx"], write_market)
