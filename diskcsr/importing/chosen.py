"""Rows or columns as a command line names them: a range, or a file of numbers or of a mask."""

import re
from array import array
from pathlib import Path
from typing import NoReturn

import numpy as np
from numpy.lib.format import MAGIC_PREFIX

from ..machine.options import require_memory

__all__ = ["chosen_lines"]

_RANGE = re.compile(r"(-?\d+)?:(-?\d+)?(?::(-?\d+)?)?")
#: Bytes of a text that are looked at to see that it is one.
_BEGINNING = 4096
#: Digits of the longest number that is looked at: all lengths of matrices have fewer.
_DIGITS = 18


def chosen_lines(text: str, length: int, what: str) -> "slice | np.ndarray":
    """Return what ``--rows`` or ``--columns`` chooses, as an index for numpy and `A.lazy`.

    Parameters
    ----------
    text : str
        ``a:b`` or ``a:b:step`` as in Python, or the path of a file: of numpy's ``.npy`` with
        integers or a mask, or a text of whole numbers (one a line, or more; behind # is a comment).
        A file whose name looks like a range is ``./1:2``.
    length : int
        How many rows or columns there are.
    what : str
        "rows" or "columns", for messages.

    Returns
    -------
    slice or (k,) int64 array
        The numbers in their order, as often as they are given.

    Raises
    ------
    ValueError
        When a number does not lie within `length`, a mask has another length, or the file holds
        something else; it names the file, the place and the value.
    OSError
        When the file cannot be read.

    Examples
    --------
    >>> chosen_lines("10:-5", 100, "rows")
    slice(10, -5, None)
    """
    found = _RANGE.fullmatch(text)
    if found is not None:
        return _range(found, length, what)
    path = Path(text)
    with path.open("rb") as file:
        beginning = file.read(_BEGINNING)
    if beginning.startswith(MAGIC_PREFIX):
        return _from_numpy(path, length, what)
    if b"\0" in beginning:
        raise ValueError(f"--{what} {path}: neither a .npy file nor a text of numbers")
    return _from_text(path, length, what)


def _range(found: re.Match[str], length: int, what: str) -> slice:
    start, stop, step = (None if part is None else int(part) for part in found.groups())
    for bound in (start, stop):
        if bound is not None and not -length <= bound <= length:
            raise ValueError(
                f"--{what} {found[0]}: {bound} is beyond the {length} {what} of the matrix"
            )
    if step == 0:
        raise ValueError(f"--{what} {found[0]}: the step must not be 0")
    return slice(start, stop, step)


def _refuse_number(where: str, value: object, length: int, what: str) -> NoReturn:
    raise ValueError(
        f"--{what} {where}: {value} is no number of one of the {length} {what} of the matrix, "
        f"which are 0 to {length - 1}"
    )


def _from_numpy(path: Path, length: int, what: str) -> np.ndarray:
    try:
        given: np.ndarray = np.load(path, mmap_mode="r", allow_pickle=False)
    except ValueError as problem:  # numpy's own words do not name the file
        raise ValueError(f"--{what} {path}: {problem}") from None
    if given.ndim != 1 or given.dtype.kind not in "biu":
        raise ValueError(
            f"--{what} {path}: an array of shape {given.shape} and dtype {given.dtype}, where a "
            "mask or integers of one dimension are needed"
        )
    if given.dtype.kind == "b":
        if given.size != length:
            raise ValueError(
                f"--{what} {path}: a mask of {given.size} values, where the matrix has {length} "
                f"{what}"
            )
        return np.flatnonzero(given)
    require_memory(8 * given.size, f"--{what} {path}: {given.size} numbers", "Choose fewer.")
    outside = (given < 0) | (given >= length)
    if outside.any():
        at = int(outside.argmax())
        _refuse_number(f"{path}, element {at}", given[at], length, what)
    return np.array(given, dtype=np.int64)


def _from_text(path: Path, length: int, what: str) -> np.ndarray:
    numbers = array("q")
    with path.open("rb") as file:
        for at, line in enumerate(file, 1):
            for word in line.partition(b"#")[0].split():
                if not word.removeprefix(b"-").isdigit():
                    shown = word[:40].decode(errors="replace")
                    raise ValueError(f"--{what} {path}, line {at}: {shown!r} is no whole number")
                number = int(word) if len(word) <= _DIGITS else -1
                if not 0 <= number < length:
                    _refuse_number(f"{path}, line {at}", word[:40].decode("ascii"), length, what)
                numbers.append(number)
    return np.array(numbers, dtype=np.int64)
