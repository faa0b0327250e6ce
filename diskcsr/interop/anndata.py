"""AnnData: let ``write_h5ad`` store a DiskCSR, and ``sys.getsizeof`` not load it.

anndata looks writers up by the exact type of the element, so a subclass of csr_array needs entries
of its own. There is no public way to add them. Private names used here, found alike in anndata
0.11.4 and 0.12.19: ``anndata._io.specs.registry._REGISTRY`` with ``write`` (a dict keyed by
``(destination type, element type, modifiers)``) and ``write_specs`` (keyed by element type).

``AnnData.__sizeof__`` adds up ``nbytes`` of the three arrays of whatever is sparse. Asking for them
would hand them out, which loads a compressed matrix; there, too, is no public way around it.
"""

import warnings
from contextvars import ContextVar
from functools import wraps
from typing import Any

__all__ = ["register", "size_without_loading"]


def register(classes: dict[type, type]) -> None:
    """Give our types the writers of the scipy types they are; warn when anndata has changed."""
    try:
        from anndata._io.specs.registry import _REGISTRY as registry

        for ours, theirs in classes.items():
            for destination, element, modifiers in list(registry.write):
                if element is theirs:
                    key = (destination, ours, modifiers)
                    registry.write[key] = registry.write[destination, theirs, modifiers]
            if theirs in registry.write_specs:
                registry.write_specs[ours] = registry.write_specs[theirs]
    except (ImportError, AttributeError, TypeError, ValueError) as problem:
        warnings.warn(
            f"this version of anndata keeps its writers elsewhere ({problem!r}): write_h5ad will "
            "refuse a DiskCSR; use A.to_memory()",
            stacklevel=2,
        )


def size_without_loading(sizing: ContextVar[bool]) -> None:
    """Have `sizing` be true while an AnnData adds up the sizes of its arrays."""
    from anndata import AnnData

    ask = AnnData.__sizeof__

    @wraps(ask)
    def sizeof(self: Any, **how: Any) -> int:
        before = sizing.set(True)
        try:
            return ask(self, **how)
        finally:
            sizing.reset(before)

    AnnData.__sizeof__ = sizeof
