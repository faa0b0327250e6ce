"""What the array classes hand over to be made known to other libraries."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

__all__ = ["HANDED", "Handed"]


@dataclass
class Handed:
    """Filled once, when the package is imported.

    Attributes
    ----------
    classes : dict
        Our classes, and scipy's of which each is the twin on disk.
    open_group : callable
        ``open_group(path, name)`` opens a file of HDF5; gives the group and the file.
    open_array : callable
        ``open_array(path, name, mode, spmatrix=...)`` opens a matrix.
    store : callable
        ``store(group, matrix, name, **storage)`` stores one, block by block.
    check_storage : callable
        ``check_storage(storage)`` raises what `store` would raise of the keywords alone.
    describe : callable
        ``describe(matrix, axis, ddof=...)`` is `diskcsr.describe`.
    """

    classes: dict[type, type]
    open_group: Callable[..., Any]
    open_array: Callable[..., Any]
    store: Callable[..., None]
    check_storage: Callable[..., Any]
    describe: Callable[..., Any]


def _nothing(*args: Any, **kwargs: Any) -> Any:
    raise RuntimeError("the classes of diskcsr are not made yet")


HANDED = Handed({}, _nothing, _nothing, _nothing, _nothing, _nothing)
