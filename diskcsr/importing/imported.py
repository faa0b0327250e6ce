"""What an importer gives, and what it may be told."""

import bz2
import gzip
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np

from ..errors import FormatError
from ..streams.stream import Stream

__all__ = [
    "Imported", "Kind", "SourceOptions", "byte_blocks", "damaged", "in_blocks_of_lines",
    "open_bytes",
]  # fmt: skip


@dataclass(frozen=True)
class SourceOptions:
    """What a user may say of a source; see `diskcsr.convert`."""

    source_name: str | None = None
    fields: tuple[Any, ...] | None = None
    labels: str | None = None
    shape: tuple[int, int] | None = None
    dtype: Any = None
    duplicates: str | None = None

    @property
    def given(self) -> list[str]:
        """What was said."""
        return [one.name for one in fields(self) if getattr(self, one.name) is not None]


@dataclass(frozen=True)
class Imported:
    """A matrix that is not one yet.

    Attributes
    ----------
    triplets : iterable
        Parts of (rows, columns, values), or (rows, columns); gone through once.
    shape : (int, int) or None
        None where only the triplets tell.
    dtype : dtype or None
        None where the first values tell.
    format : str
        The one to write when the user asks for none.
    duplicates : str
        What becomes of them when the user does not say.
    stream : callable or None
        ``stream(axis, **changes)`` gives whole lines in order, where that is possible without
        sorting, else None; `changes` as of `diskcsr.streams.stream.tidied`.
    at_least : callable
        Gives the least shape, where the triplets alone would tell; asked as `beside` is.
    beside : callable
        Gives the datasets to store with the matrix; asked when all triplets, or lines, went by.
    """

    triplets: Iterable[Any]
    shape: tuple[int, int] | None = None
    dtype: Any = None
    format: str = "csr"
    duplicates: str = "sum"
    stream: Callable[..., Stream | None] | None = None
    at_least: Callable[[], tuple[int, int]] = lambda: (0, 0)
    beside: Callable[[], dict[str, np.ndarray]] = field(default=dict)

    def told(self, said: SourceOptions) -> "Imported":
        """This with what the user says instead of what the source does."""
        changes: dict[str, Any] = {
            name: getattr(said, name)
            for name in ("shape", "dtype", "duplicates")
            if getattr(said, name) is not None
        }
        # Lines as they are stored have the shape, the dtype and the duplicates that they have.
        return replace(self, **changes, stream=None) if changes else self


@dataclass(frozen=True)
class Kind:
    """A kind of source: a row of the table.

    Attributes
    ----------
    name : str
        What ``source_kind=`` and ``--from`` call it; by it `storage.formats.others` has what its
        files are called, and how they begin.
    about : str
        What help says of it.
    open : callable
        ``open(path, said)``, a context manager, gives an `Imported`.
    takes : tuple of str
        What of `SourceOptions` it understands, besides shape, dtype and duplicates.
    """

    name: str
    about: str
    open: Callable[[Path, SourceOptions], AbstractContextManager[Imported]]
    takes: tuple[str, ...] = ()


#: For each of `diskcsr.storage.formats.others.COMPRESSED`.
_OPENERS: dict[str, Callable[..., Any]] = {".gz": gzip.open, ".bz2": bz2.open}


def open_bytes(path: Path, mode: Literal["rb", "wb"] = "rb") -> BinaryIO:
    """Open a file for bytes, which are compressed where its name ends in .gz or .bz2."""
    opened: BinaryIO = _OPENERS.get(path.suffix, open)(path, mode)
    return opened


def byte_blocks(file: BinaryIO, size: int, left: bytes = b"") -> Iterator[bytes]:
    """Read a text in blocks of whole lines of about `size` bytes; `left` was read of it before."""
    while some := file.read(size):
        end = some.rfind(b"\n") + 1
        if end:
            yield left + some[:end]
            left = some[end:]
        else:
            left += some
    if left.strip():
        yield left + b"\n"


def in_blocks_of_lines(indptr: np.ndarray, most: int) -> Iterator[tuple[int, int]]:
    """Cut lines into runs of at most `most` elements, at least a line each."""
    first = 0
    while first < indptr.size - 1:
        last = int(np.searchsorted(indptr, indptr[first] + most, side="right")) - 1
        last = min(max(last, first + 1), indptr.size - 1)
        yield first, last
        first = last


def damaged(path: Path, problem: object) -> FormatError:
    """The error of a file that cannot be read as what it is taken for."""
    return FormatError(f"{path}: {problem}")
