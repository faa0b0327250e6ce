"""Many stored matrices that are one, below each other or side by side; nothing of them is copied.

What is read goes to the parts' own readers. The files are opened when they are read, so that an
array of any number of them can be sent to another process at once.
"""

import os
import threading
import weakref
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NoReturn

import numpy as np

from ..axis import axis_of
from ..errors import ClosedFileError, FormatError, StaleFileError
from ..storage.formats.conventions import ARRAYS
from ..storage.formats.fields import MAX_LENGTH
from ..storage.read.arrays import WholeArrays
from ..storage.read.readers import Reader, Readers
from ..storage.read.source import Source
from ..storage.remote.urls import is_url, shown_url
from .address import Address, check_mode, open_source
from .columns import Columns, Naming, joined_columns, naming_of
from .parts import (
    Files,
    JoinedPointers,
    JoinedReader,
    Part,
    PointersReader,
    index_dtype_of,
    most_open,
)

__all__ = [
    "Joined",
    "JoinedAddress",
    "address_of",
    "lacks_columns",
    "names_of",
    "open_any",
    "parts_of",
    "places_of",
]


class Joined(Source):
    """Several stored matrices as one; for those who read it, a `Source` like any other.

    Parameters
    ----------
    parts : sequence of Part
        At least one, of one axis and as long along the minor one.
    sources : dict of int to Source
        Those that are open already; they are closed with this.
    columns : Columns, optional
        Where columns are brought together by their names.
    naming : Naming, optional
        Where these are found again.
    """

    def __init__(
        self,
        parts: Sequence[Part],
        sources: dict[int, Source],
        columns: Columns | None = None,
        naming: Naming | None = None,
    ) -> None:
        self.hints, self.guard = {"format": None, "shape": None}, None
        self.lock = threading.RLock()
        self._arrays = weakref.WeakValueDictionary()
        self._closed = self._adrift = False
        self.axis = axis_of(parts[0].address.format)
        self.naming = naming
        self._start(parts, sources, columns)

    def _start(
        self, parts: Sequence[Part], sources: dict[int, Source], columns: Columns | None
    ) -> None:
        """Show these parts from now on."""
        first = parts[0].address
        self.columns = columns
        self.files = Files(parts, sources)
        self.filename, self.name = first.path, first.name
        others = f" and {len(parts) - 1} more" if len(parts) > 1 else ""
        self.where = f"{parts[0].where}{others}"
        self.lines = np.cumsum([0, *(part.n_major for part in parts)], dtype=np.int64)
        edges = np.cumsum([0, *(part.nnz for part in parts)], dtype=np.int64)
        n_minor = self.axis.swap(first.shape)[1] if columns is None else columns.count
        self.shape = self.axis.swap((int(self.lines[-1]), n_minor))
        self.dtype = np.result_type(*(part.address.dtype for part in parts))
        self.elements = int(edges[-1])
        pointers: Any = JoinedPointers(self.where, self.files, self.lines, edges)
        self.pointers = pointers
        how: dict[str, tuple[Any, ...]] = {
            "data": (self.dtype,),
            "indices": (index_dtype_of(parts, n_minor), () if columns is None else columns.maps),
        }
        readers: dict[str, Any] = {
            name: JoinedReader(f"{self.where}, {name!r}", name, self.files, edges, *of_it)
            for name, of_it in how.items()
        }
        readers["indptr"] = PointersReader(f"{self.where}, 'indptr'", pointers, self.files)
        self._readers = readers
        self.arrays = WholeArrays(
            self.where, self.axis.swap(self.shape), self.dtype, pointers, readers.__getitem__
        )

    @property
    def parts(self) -> Sequence[Part]:
        """Where each is, and what it was when it was looked at."""
        return self.files.parts

    @property
    def path(self) -> str | None:
        """None: there are several; see `Joined.parts`."""
        return None

    @property
    def remote(self) -> None:  # type: ignore[override]
        """None: its files are on this machine."""
        return None

    @property
    def group(self) -> Any:
        """There is none."""
        self._has_no("group")

    @property
    def header(self) -> Any:  # type: ignore[override]
        """There is none."""
        self._has_no("header")

    def _has_no(self, what: str) -> NoReturn:
        raise ValueError(
            f"{self.where}: a matrix of {len(self.parts)} files has no {what} of its own; open "
            "the one that is wanted, or write the matrix to one file (save)"
        )

    def dataset(self, name: str) -> Any:
        """There is none."""
        self._has_no(f"dataset {name!r}")

    # ------------------------------------------------------------------------------ the files

    def check_open(self) -> None:
        if self._closed or self._adrift:
            raise _refusal(self.where, self._adrift)

    def close(self) -> None:
        """Close the files. Closing twice does nothing."""
        self._closed, self._adrift = True, False
        self.files.close(partial(_refusal, self.where, False))

    @property
    def closed(self) -> bool:
        """Whether the files are closed."""
        return self._closed

    def refresh(self) -> None:
        """Look at all files again, which others may have written to.

        Raises
        ------
        StaleFileError
            When one is no longer there, or no longer fits the others. It can be tried again.
        LockedFileError
            When other programs do not let one be read. It can be refreshed again later.
        """
        with self.lock:
            if not self._adrift:
                self.check_open()
            self._adrift = True
            self.files.close(partial(_refusal, self.where, True))
            try:
                openings = [part.address.find for part in self.parts]
                parts, sources, columns = _open_all(openings, self.naming)
                if axis_of(parts[0].address.format) is not self.axis:
                    _close_all(sources)
                    raise FormatError(f"they were {self.axis.format} matrices and are none now")
            except (KeyError, FormatError, FileNotFoundError) as problem:
                raise StaleFileError(f"{self.where}: {problem}") from problem
            self._start(parts, sources, columns)
            self._adrift = False
            self._have_forgotten()

    # ----------------------------------------------------------------------------- its readers

    def reader(self, name: str) -> Reader:
        self.check_open()
        return self._readers[name]

    def readers(self) -> Readers:
        """Return all three readers, having looked at all parts."""
        self.check_open()
        readers: dict[str, Any] = self._readers
        for name in ARRAYS:
            readers[name].look()
        return Readers(readers)

    def check_indices_there(self, nnz: int) -> None:
        """Check each part; see `Source.check_indices_there`."""
        for number, part in enumerate(self.parts):
            self.files.source(number).check_indices_there(part.nnz)

    # --------------------------------------------------------------------------- its addresses

    def address(self) -> "JoinedAddress":
        """Return where to find it again."""
        return JoinedAddress(tuple(self.parts), self.columns, self.naming)

    def of_lines(self, least: int, largest: int) -> "tuple[Joined, int]":
        """Return the matrix of those parts that lines are in, none open; and its first line."""
        first, last = (self.lines.searchsorted([least, largest], side="right") - 1).tolist()
        columns = None if self.columns is None else self.columns.of_some(first, last + 1)
        return Joined(self.parts[first : last + 1], {}, columns), int(self.lines[first])


def _refusal(where: str, adrift: bool) -> Exception:
    """Say why nothing can be read."""
    if adrift:
        return StaleFileError(f"{where}: refresh() was not possible; try it again")
    return ClosedFileError(f"{where}: the files are closed")


@dataclass(frozen=True)
class JoinedAddress:
    """Where the parts of a matrix are to be found again, and what they were; see `Address`."""

    parts: tuple[Part, ...]
    columns: Columns | None
    naming: Naming | None

    def open(self) -> Joined:
        """Open the matrix; no file is opened that is in the state it was in.

        Raises
        ------
        StaleFileError
            When a part has another format, shape or dtype now.
        OSError
            When a part is not there any more.
        """
        parts, sources = list(self.parts), {}
        try:
            for number, part in enumerate(parts):
                found = os.stat(part.address.path)
                if (found.st_size, found.st_mtime_ns) != part.address.state:
                    sources[number] = part.address.open()
                    parts[number] = Part.of(sources[number])
                    self._check_names(number, sources[number])
        except BaseException:
            _close_all(sources)
            raise
        return Joined(parts, sources, self.columns, self.naming)

    def _check_names(self, number: int, source: Source) -> None:
        """Check that the columns of a part which changed still are what they were."""
        if self.columns is None or self.columns.names is None or self.naming is None:
            return
        table = self.columns.maps[number]
        names = self.naming.of(number, source)
        before = self.columns.names[: names.size] if table is None else self.columns.names[table]
        if not np.array_equal(names, before):
            raise StaleFileError(f"{source.where}: its columns have other names now; open it again")

    def is_unchanged(self, source: Source) -> bool:
        """Whether a matrix that was opened here shows the states that the files were in."""
        then = [part.address.state for part in self.parts]
        return isinstance(source, Joined) and [part.address.state for part in source.parts] == then


def address_of(source: Source) -> Address | JoinedAddress | None:
    """Return where a matrix is to be found again; None where it is in no ordinary file."""
    return source.address() if isinstance(source, Joined) else Address.of(source)


def parts_of(source: Source) -> list[Source]:
    """Return the stored matrices that a matrix consists of: as a rule, itself."""
    if not isinstance(source, Joined) or source.columns is not None:
        return [source]
    return [source.files.source(number) for number in range(len(source.parts))]


def places_of(source: Source) -> list[tuple[str, str]]:
    """Return the (path, group) of each of them; no file is opened."""
    if not isinstance(source, Joined):
        return [(source.path or source.filename, source.name)]
    return [(part.address.path, part.address.name) for part in source.parts]


def names_of(shown: Any) -> np.ndarray | None:
    """Return the names of the columns that contents or a view show; None where there are none."""
    source, view = shown.source, shown if hasattr(shown, "minors") else None
    base = shown if view is None else view.base
    columns = source.columns if isinstance(source, Joined) else None
    if columns is None or columns.names is None or base.axis is not source.axis:
        return None
    names = columns.names if view is None or view.minors is None else columns.names[view.minors]
    return names if names.size == shown.n_minor else None


def lacks_columns(source: Source) -> int | None:
    """Return how many columns all matrices have, where others are to be left out."""
    if not isinstance(source, Joined) or source.columns is None or source.naming is None:
        return None
    few = source.naming.inner and source.columns.common < source.columns.count
    return source.columns.common if few else None


def open_any(
    file: Any,
    name: str | None,
    hints: dict[str, Any],
    mode: str,
    untrusted: bool,
    storage_options: dict[str, Any] | None = None,
    *,
    columns: Any = None,
    join: str | None = None,
) -> Source:
    """Open the matrix that a file holds, or that a list of files holds together."""
    if not isinstance(file, list | tuple):
        if columns is not None or join is not None:
            raise ValueError("columns=, join=: these are said of a list of files")
        return open_source(file, name, hints, mode, untrusted, storage_options)
    check_mode(mode)
    if mode == "r+":
        raise ValueError("mode 'r+' changes one file: several are opened with 'r' or 'c'")
    if storage_options is not None:
        raise ValueError("storage_options= is said of a URL, and not of a list of files")
    naming = naming_of(columns, join, len(file))
    return open_joined(file, name, hints, naming, untrusted=untrusted)


def open_joined(
    files: Iterable[Any],
    name: str | None,
    hints: dict[str, Any],
    naming: Naming | None = None,
    *,
    untrusted: bool = False,
) -> Joined:
    """Open the matrices in several files as one.

    Parameters
    ----------
    files : iterable of path or (path, name)
    name : str or None
        Of the matrix in those files that are given by their path alone.
    hints, untrusted
        See `open_source`.

    Raises
    ------
    ValueError
        When there is none.
    FormatError
        When they do not fit together.
    Exception
        As of `open_source`, of each.
    """
    places = [_place(given, name) for given in files]
    if not places:
        raise ValueError("there is nothing to open: give at least one file")
    if hints["shape"] is not None:
        raise ValueError("shape= is said of one file: several have one each")
    opening = partial(open_source, untrusted=untrusted)
    openings = [partial(opening, *place, dict(hints)) for place in places]
    return Joined(*_open_all(openings, naming), naming)


def _place(given: Any, name: str | None) -> tuple[str, str | None]:
    path, own = given if isinstance(given, tuple) and len(given) == 2 else (given, name)
    if not isinstance(path, str | bytes | os.PathLike) or not isinstance(own, str | None):
        raise TypeError(
            f"several files are given by their paths, or as (path, name): not {given!r}"
        )
    path = os.fsdecode(path)
    if is_url(path):
        raise ValueError(f"{shown_url(path)} is on a server: several files are on this machine")
    return path, own


def _open_all(
    openings: Sequence[Callable[[], Source]], naming: Naming | None
) -> tuple[list[Part], dict[int, Source], Columns | None]:
    """Open all, keep as many of them open as may be, and check that they fit together."""
    parts: list[Part] = []
    names: list[np.ndarray] = []
    sources: dict[int, Source] = {}
    try:
        for number, opening in enumerate(openings):
            sources[number] = opening()
            parts.append(Part.of(sources[number]))
            _check_fit(parts, naming)
            if naming is not None:
                names.append(naming.of(number, sources[number]))
            if number >= most_open():
                sources.pop(number).close()
    except BaseException:
        _close_all(sources)
        raise
    return parts, sources, joined_columns(names, naming.inner) if naming else None


def _close_all(sources: dict[int, Source]) -> None:
    for source in sources.values():
        source.close()


def _check_fit(parts: list[Part], naming: Naming | None) -> None:
    """Check that the last part fits the first."""
    first, last = parts[0], parts[-1]
    axis = axis_of(first.address.format)
    if last.address.format != first.address.format:
        raise FormatError(
            f"{last.where} holds a {last.address.format} matrix, {first.where} a "
            f"{first.address.format} one: convert one of them"
        )
    minors, of_first = (axis.swap(part.address.shape)[1] for part in (last, first))
    if naming is not None:
        if not axis.keeps_rows:
            raise FormatError(
                f"{last.where} holds a {axis.format} matrix: columns are brought together by their "
                "names of matrices that are below each other, which keep rows together"
            )
    elif minors != of_first:
        what = axis.transposed.majors
        by_name = "; join= brings columns together by their names" if axis.keeps_rows else ""
        raise FormatError(
            f"{last.where} has {minors} {what}, {first.where} has {of_first}{by_name}"
        )
    if sum(part.n_major for part in parts) > MAX_LENGTH:
        raise FormatError(f"together they have more than {MAX_LENGTH} {axis.majors}")
