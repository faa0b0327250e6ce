"""Compiled kernels: the only place that imports numba. Arrays in, arrays out.

Others say ``from .. import kernels``, which costs nothing, and ``kernels.rows.gather(...)``: the
first use of a module imports it, and with it the compiler.
"""

from typing import Any

from ..loading import load

_MODULES = frozenset(
    (
        "fletcher32",
        "lzf",
        "panels",
        "planes",
        "planning",
        "products",
        "ranges",
        "reduce",
        "rows",
        "scaleoffset",
        "transpose",
        "triplets",
    )
)

#: Whether a part of the file was read before is kept for blocks of 64 kB, what a page fault on a
#: file maps at once. It stands here for those who need it without the compiler.
WINDOW_SHIFT = 16
#: A page fault may also enter all of a huge page, 2 MB: so much is charged for the first block.
CHARGE_SHIFT = 21

#: Places in the `ledger` of the gather kernels, an int64 array of LEDGER entries: how many times
#: ``1 << CHARGE_SHIFT`` bytes may still be entered in the page table, how many bytes were read and
#: not copied from a map, and whether the disk may be waited for. Behind them is room for the vector
#: of preadv2(2).
MAY_ENTER, WAS_READ, MAY_WAIT, _VECTOR, LEDGER = 0, 1, 2, 3, 5


def __getattr__(name: str) -> Any:
    """Import a module of kernels when it is first asked for."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return load(f"{__name__}.{name}")
