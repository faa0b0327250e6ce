"""Meeting points with other libraries; none is imported before its user did."""

import sys
from contextvars import ContextVar

__all__ = ["register", "register_loaded", "sizing"]

#: Whether another library asks for arrays only to know how large they are.
sizing: ContextVar[bool] = ContextVar("sizing", default=False)

#: Our classes, and scipy's of which each is the twin on disk.
_classes: dict[type, type] = {}
_registered: set[str] = set()


def register(classes: dict[type, type]) -> None:
    """Be told, once, which classes to make known to other libraries, and their twins in scipy."""
    _classes.update(classes)


def register_loaded() -> None:
    """Make the classes known to the libraries that ask for it and are loaded by now."""
    if "anndata" in sys.modules and "anndata" not in _registered:
        from . import anndata

        _registered.add("anndata")
        anndata.register(_classes)
        anndata.size_without_loading(sizing)
