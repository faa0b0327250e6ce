"""Where a stored matrix is found: opened for the first time, and again by another process."""

import os
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..errors import ReadOnlyError, StaleFileError
from ..machine.interrupts import deferred
from ..storage.files.looking import consistently
from ..storage.files.transactions import close_file
from ..storage.formats.opening import open_group
from ..storage.read.source import Source, shared_source
from ..storage.read.untrusted import open_untrusted
from ..storage.remote.fileobject import remote_of, telling_cause
from ..storage.remote.urls import is_url, refuse_remote, shown_url

__all__ = ["Address", "check_mode", "open_source"]

_MODES = ("r", "r+", "c")


def open_source(
    file: Any,
    name: str | None,
    hints: dict[str, Any],
    mode: str = "r",
    untrusted: bool = False,
    storage_options: dict[str, Any] | None = None,
) -> Source:
    """Open the stored matrix that `file` holds.

    Parameters
    ----------
    file : path, URL, h5py.File, h5py.Group or Python file object
    name : str or None
    hints : dict
        What the user says of the matrix: "format" and "shape".
    mode : {"r", "r+", "c"}
    untrusted : bool
        Have another process look at all of it first. Signals are not kept back meanwhile.
    storage_options : dict, optional
        Of a URL.

    Raises
    ------
    Exception
        As `diskcsr.open` does; what was opened here is closed then.
    """
    check_mode(mode)
    if mode != "r" and is_url(file):
        raise ReadOnlyError(f"{shown_url(file)} is on a server: mode must be 'r', not {mode!r}")
    write = mode == "r+"
    if untrusted:
        return _sourced(*_looked_at(file, name, hints, write), **hints)

    def attempt() -> Source:
        return _sourced(*open_group(file, name, write, storage_options), **hints)

    if not write and not is_url(file) and isinstance(file, str | bytes | os.PathLike):
        return consistently(file, attempt, Source.close)
    with deferred():
        return attempt()


def check_mode(mode: str) -> None:
    """Raise `ValueError` unless arrays are opened in such a mode."""
    if mode not in _MODES:
        raise ValueError(f"mode must be one of {', '.join(map(repr, _MODES))}, not {mode!r}")


def _looked_at(file: Any, name: str | None, hints: dict[str, Any], write: bool) -> tuple:
    if is_url(file):
        refuse_remote(file, "untrusted=True")
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
        with telling_cause(None if owned is None else remote_of(owned)):
            return shared_source(group, owned, guard, **hints)
    except BaseException:
        if owned is not None:
            close_file(owned)
        raise


@dataclass(frozen=True)
class Address:
    """Where a stored matrix is to be found again, perhaps by another process, and what it was."""

    path: str = field(repr=False)  # of a URL there are parts that are not to be shown
    name: str
    hints: dict[str, Any]
    format: str
    shape: tuple[int, int]
    dtype: np.dtype
    state: tuple | None
    untrusted: bool
    storage_options: dict[str, Any] | None = field(default=None, repr=False)

    @classmethod
    def of(cls, source: Source) -> "Address | None":
        """Return the address of a matrix; None where it is in no file that can be named."""
        remote = source.remote
        path = source.path if remote is None else remote.url
        if path is None:
            return None
        return cls(
            path,
            source.name,
            source.hints,
            source.axis.format,
            source.shape,
            source.dtype,
            source.freshness.now(),
            source.guard is not None,
            None if remote is None else remote.storage_options,
        )

    def find(self) -> Source:
        """Open what is there now for reading."""
        return open_source(
            self.path,
            self.name,
            self.hints,
            untrusted=self.untrusted,
            storage_options=self.storage_options,
        )

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
