"""Meeting points with other libraries; none is imported before its user did."""

import sys

__all__ = ["register_loaded"]

_registered: set[str] = set()


def register_loaded() -> None:
    """Make ourselves known to the libraries that ask for it and are loaded by now."""
    if "anndata" in sys.modules and "anndata" not in _registered:
        from . import anndata

        _registered.add("anndata")
        anndata.register()
