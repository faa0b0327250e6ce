"""Meeting points with other libraries; none is imported before its user did."""

import sys
from contextvars import ContextVar

from .blocks import BLOCKS
from .handed import HANDED

__all__ = ["HANDED", "register_loaded", "sizing"]

#: Whether another library asks for arrays only to know how large they are.
sizing: ContextVar[bool] = ContextVar("sizing", default=False)

_registered: set[str] = set()


def register_loaded() -> None:
    """Make the classes known to the libraries that ask for it and are loaded by now.

    It is called whenever an array is opened or made. What is loaded afterwards gets to know the
    classes with the next one.
    """
    if "anndata" in sys.modules and "anndata" not in _registered:
        from . import anndata

        _registered.add("anndata")
        anndata.register(HANDED.classes, HANDED.store)
        anndata.register_alike({block: block.__mro__[2] for block in BLOCKS.values()})
        anndata.size_without_loading(sizing)
    # The package itself may be imported by what never asks for its functions.
    if "fast_array_utils.stats" in sys.modules and "fast_array_utils" not in _registered:
        from . import fast_array_utils

        _registered.add("fast_array_utils")
        fast_array_utils.register(HANDED.classes, HANDED.describe)
