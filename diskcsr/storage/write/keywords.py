"""How a matrix is stored: the keywords that everything that writes has in common."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any, TypedDict, TypeVar

import numpy as np

from ...keys.widths import index_dtype
from ...machine.progress import Progress
from ..codecs.table import find_preset
from ..formats.tags import check_tags

__all__ = ["Storage", "StorageKeywords", "takes_storage"]

#: What indices may be stored as.
_INDEX = (np.dtype(np.int32), np.dtype(np.int64))

F = TypeVar("F", bound=Callable[..., Any])


class StorageKeywords(TypedDict, total=False):
    """The fields of `Storage`, for those who check types or complete names before anything runs."""

    compression: str | None
    compression_opts: int | None
    shuffle: bool | None
    chunks: int | None
    tags: str | None
    index_dtype: Any
    overwrite: bool
    max_memory: int | None
    sort_indices: bool
    sum_duplicates: bool
    progress: Progress


@dataclass(frozen=True)
class Storage:
    """How a matrix is stored; see `diskcsr.write`, which describes each of them."""

    compression: str | None = None
    compression_opts: int | None = None
    shuffle: bool | None = None
    chunks: int | None = None
    tags: str | None = None
    index_dtype: Any = None
    overwrite: bool = False
    max_memory: int | None = None
    sort_indices: bool = True
    sum_duplicates: bool = False
    progress: Progress = None

    def __post_init__(self) -> None:
        if self.tags is not None:
            check_tags(self.tags)
        if self.chunks is not None and (int(self.chunks) != self.chunks or self.chunks < 1):
            raise ValueError(f"chunks must be a positive number of elements, not {self.chunks!r}")
        if self.index_dtype is not None and not _is_index(self.index_dtype):
            raise ValueError(f"index_dtype must be int32 or int64, not {self.index_dtype!r}")

    @classmethod
    def of(cls, keywords: Mapping[str, Any]) -> "Storage":
        """Take what a caller passed on.

        Raises
        ------
        TypeError
            When there is a keyword among them that is none of these.
        ValueError
            When the value of one is none that it may have.
        """
        known = [field.name for field in fields(cls)]
        unknown = sorted(set(keywords) - set(known))
        if unknown:
            raise TypeError(
                f"a sparse matrix is stored with the keywords {', '.join(known)}, not "
                f"{', '.join(unknown)}"
            )
        found = cls(**keywords)
        find_preset(found.compression)
        return found

    def indices_as(self, n_minor: int) -> np.dtype:
        """What indices along an axis of this length are stored as."""
        least = index_dtype(n_minor)
        if self.index_dtype is None:
            return least
        wanted = np.dtype(self.index_dtype)
        if wanted.itemsize < least.itemsize:
            raise ValueError(
                f"index_dtype={wanted.name!r} does not hold indices up to {n_minor - 1}"
            )
        return wanted

    @property
    def changes(self) -> dict[str, bool]:
        """What becomes of the entries of a row on their way to the file; see `tidied`."""
        return {"sort": self.sort_indices, "sum_duplicates": self.sum_duplicates}

    def refuse(self, names: tuple[str, ...], why: str) -> None:
        """Raise `ValueError` when one of these keywords was given, which a call cannot honour."""
        given = [
            field.name
            for field in fields(self)
            if field.name in names and getattr(self, field.name) != field.default
        ]
        if given:
            raise ValueError(f"{', '.join(f'{name}=' for name in given)}: {why}")


def takes_storage(function: F) -> F:
    """Show the fields of `Storage` in the signature of a function in place of its ``**storage``.

    What reads signatures while a program runs, as ``help`` and the completion of notebooks do, then
    sees them; type checkers see them by `StorageKeywords`.
    """
    signature = inspect.signature(function)
    own = [one for one in signature.parameters.values() if one.kind is not one.VAR_KEYWORD]
    shared = [
        inspect.Parameter(
            field.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=field.default,
            annotation=field.type,
        )
        for field in fields(Storage)
    ]
    parameters = [*own, *shared]
    vars(function)["__signature__"] = signature.replace(parameters=parameters)
    return function


def _is_index(dtype: Any) -> bool:
    try:
        return np.dtype(dtype) in _INDEX
    except TypeError:
        return False
