"""Where a stored matrix is found: opened for the first time, and again by another process."""

import os
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import StaleFileError
from ..machine.interrupts import deferred
from ..storage.files.looking import consistently
from ..storage.files.transactions import close_file
from ..storage.formats.opening import open_group
from ..storage.read.source import Source, shared_source
from ..storage.read.untrusted import open_untrusted

__all__ = ["Address", "open_source"]


def open_source(
    file: Any,
    name: str | None,
    hints: dict[str, Any],
    *,
    write: bool = False,
    untrusted: bool = False,
) -> Source:
    """Open the stored matrix that `file` holds.

    Parameters
    ----------
    file : path, h5py.File, h5py.Group or Python file object
    name : str or None
    hints : dict
        What the user says of the matrix: "format" and "shape".
    write : bool
        Open for writing.
    untrusted : bool
        Have another process look at all of it first. Signals are not kept back meanwhile.

    Raises
    ------
    Exception
        As `diskcsr.open` does; what was opened here is closed then.
    """
    if untrusted:
        return _sourced(*_looked_at(file, name, hints, write), **hints)

    def attempt() -> Source:
        return _sourced(*open_group(file, name, write), **hints)

    if not write and isinstance(file, str | bytes | os.PathLike):
        return consistently(file, attempt, Source.close)
    with deferred():
        return attempt()


def _looked_at(file: Any, name: str | None, hints: dict[str, Any], write: bool) -> tuple:
    if not isinstance(file, str | bytes | os.PathLike):
        raise TypeError(f"untrusted=True needs the path of a file, not {type(file).__name__}")
    if write:
        raise ValueError(
            "untrusted=True is for reading: to write, HDF5 uses parts of a file that reading does "
            "not touch. Convert the matrix to a file of your own"
        )
    return open_untrusted(os.fsdecode(file), name, hints)


def _sourced(group: Any, owned: Any, guard: Any = None, **hints: Any) -> Source:
    """Return the matrix in a group; `owned` is closed where there is none."""
    try:
        return shared_source(group, owned, guard, **hints)
    except BaseException:
        if owned is not None:
            close_file(owned)
        raise


@dataclass(frozen=True)
class Address:
    """Where a stored matrix is to be found again, perhaps by another process, and what it was."""

    path: str
    name: str
    hints: dict[str, Any]
    format: str
    shape: tuple[int, int]
    dtype: np.dtype
    state: tuple[int, int] | None
    untrusted: bool

    @classmethod
    def of(cls, source: Source) -> "Address | None":
        """Return the address of a matrix; None where it is in no ordinary file."""
        if source.path is None:
            return None
        return cls(
            source.path,
            source.name,
            source.hints,
            source.axis.format,
            source.shape,
            source.dtype,
            source.freshness.now(),
            source.guard is not None,
        )

    def find(self) -> Source:
        """Open what is there now for reading."""
        return open_source(self.path, self.name, self.hints, untrusted=self.untrusted)

    def is_unchanged(self, source: Source) -> bool:
        """Whether a matrix that was opened here is in the state that it was in."""
        return source.freshness.now() == self.state

    def open(self) -> Source:
        """Open the matrix for reading.

        Raises
        ------
        StaleFileError
            When it has another format, shape or dtype now.
        """
        source = self.find()
        found = (source.axis.format, source.shape, source.dtype)
        if found != (self.format, self.shape, self.dtype):
            source.close()
            raise StaleFileError(
                f"{source.where} was a {self.format} matrix of shape {self.shape} and dtype "
                f"{self.dtype} when it was pickled, and is a {found[0]} one of shape "
                f"{found[1]} and dtype {found[2]} now; open it again"
            )
        return source
