"""Meeting points with other libraries; none is imported before its user did."""

import sys
from collections.abc import Iterable

__all__ = ["register", "register_loaded"]

_classes: list[type] = []
_registered: set[str] = set()


def register(classes: Iterable[type]) -> None:
    """Be told, once, which classes to make known to other libraries.

    Each has an attribute ``_memory``: scipy's class, of which it is the twin on disk.
    """
    _classes.extend(classes)


def register_loaded() -> None:
    """Make the classes known to the libraries that ask for it and are loaded by now."""
    if "anndata" in sys.modules and "anndata" not in _registered:
        from . import anndata

        _registered.add("anndata")
        anndata.register(_classes)
