"""Compiled kernels: the only place that imports numba. Arrays in, arrays out.

Others say ``from .. import kernels``, which costs nothing, and ``kernels.rows.gather(...)``: the
first use of a module imports it, and with it the compiler.
"""

from typing import Any

from ..loading import load

_MODULES = ("fletcher32", "lzf", "planes", "reduce", "rows", "scaleoffset", "transpose")

#: Whether a part of the file was read before is kept for blocks of 64 kB, what a page fault on a
#: file maps at once. It stands here for those who need it without the compiler.
WINDOW_SHIFT = 16


def __getattr__(name: str) -> Any:
    """Import a module of kernels when it is first asked for."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return load(f"{__name__}.{name}")
