"""Matrix Market files, written block by block.

scipy's writer (which is fast_matrix_market) writes a matrix as a whole, to any stream. It writes
each block here, and the block's header is left out, so that numbers are printed by the library that
knows how: with as many digits as it takes to read the same values back.
"""

import bz2
import gzip
import io
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from scipy.sparse import coo_array

from ..loading import load
from .exported import Exported, Target

__all__ = ["MARKET"]


def write_market(path: Path, exported: Exported) -> None:
    """Write a file of coordinates; compressed where the name ends in .gz or .bz2."""
    rows, columns = exported.shape
    with _open(path) as file:
        head = _lines(exported, coo_array((1, 1), dtype=_printed(exported.dtype)))[0]
        file.write(head + f"%\n{rows} {columns} {exported.count()}\n".encode())
        for row, column, values in exported.triplets():
            values = values.astype(_printed(values.dtype), copy=False)
            part = coo_array((values, (row, column)), shape=exported.shape)
            file.write(_lines(exported, part)[1])


def _open(path: Path) -> BinaryIO:
    openers: dict[str, Any] = {".gz": gzip.open, ".bz2": bz2.open}
    return openers.get(path.suffix, open)(path, "wb")


def _printed(dtype: np.dtype) -> np.dtype:
    """The dtype that values are printed as: there is no word for truth values in such a file."""
    return np.dtype(np.int8) if dtype.kind == "b" else dtype


def _lines(exported: Exported, part: coo_array) -> tuple[bytes, bytes]:
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


MARKET = Target("mtx", "Matrix Market", (".mtx", ".mtx.gz", ".mtx.bz2"), write_market)
