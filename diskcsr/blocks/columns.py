"""Columns of several matrices brought together by their names."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..errors import FormatError
from ..keys.widths import index_dtype
from ..storage.formats.names import read_names
from ..storage.read.source import Source

__all__ = ["Columns", "Naming", "joined_columns", "naming_of"]

#: The table of AnnData that columns are named in.
_VAR = "var"


@dataclass(frozen=True)
class Naming:
    """How the columns of each matrix are called, and what becomes of those that not all have.

    Attributes
    ----------
    given : str or list of (n,) object array
        Where names are stored in each file, or what they are.
    inner : bool
        Whether columns that one of them lacks are left out.
    """

    given: Any
    inner: bool

    def of(self, number: int, source: Source) -> np.ndarray:
        """Return the names of the columns of a matrix.

        Raises
        ------
        FormatError
            When there are not as many as columns, or one of them occurs twice.
        """
        if isinstance(self.given, str):
            names = read_names(source.group.file, self.given)
        else:
            names = self.given[number]
        columns = source.axis.swap(source.shape)[1]
        if names.size != columns:
            raise FormatError(
                f"{source.where} has {columns} columns and {names.size} names of them"
            )
        known = set(names.tolist())
        if len(known) < names.size:
            seen: set[Any] = set()
            twice = next(name for name in names.tolist() if name in seen or seen.add(name))  # type: ignore[func-returns-value]
            raise FormatError(
                f"{source.where}: two of its columns are called {twice!r}: which is which?"
            )
        return names


@dataclass(frozen=True)
class Columns:
    """The columns of all, and where those of each matrix are among them.

    Attributes
    ----------
    names : (n,) object array or None
        None where nobody asks.
    count : int
    common : int
        How many of them, the first, all matrices have.
    maps : tuple of (None or (k,) integer array)
        Which of them each column of a matrix is; None: those of the same number.
    """

    names: np.ndarray | None
    count: int
    common: int
    maps: tuple[np.ndarray | None, ...]

    def of_some(self, first: int, last: int) -> "Columns":
        """Return the same for some of the matrices."""
        return replace(self, names=None, maps=self.maps[first:last])


def naming_of(columns: Any, join: str | None, count: int) -> Naming | None:
    """Return what the keywords of `diskcsr.open` say of the columns of so many files."""
    if columns is None and join is None:
        return None
    if join not in (None, "inner", "outer"):
        raise ValueError(f"join must be 'inner' or 'outer', not {join!r}")
    if columns is None or isinstance(columns, str):
        return Naming(columns or _VAR, join != "outer")
    given = [np.asarray(names, dtype=object).reshape(-1) for names in columns]
    if len(given) != count:
        raise ValueError(f"columns= has the names of {len(given)} matrices, but there are {count}")
    return Naming(given, join != "outer")


def joined_columns(names: Sequence[np.ndarray], inner: bool) -> Columns:
    """Bring columns together.

    Parameters
    ----------
    names : sequence of (n,) object array
        Of each matrix, each name once.
    inner : bool
        Whether those that all have come first, in the order of the first matrix; else they come in
        the order in which they appear.

    Examples
    --------
    >>> both = [np.array(names, object) for names in (["b", "a"], ["c", "b"])]
    >>> joined_columns(both, False).names.tolist(), joined_columns(both, True).names.tolist()
    (['b', 'a', 'c'], ['b', 'a', 'c'])
    >>> joined_columns(both, True).common, joined_columns(both, True).maps
    (1, (None, array([2, 0], dtype=int32)))
    """
    common = set(names[0].tolist()).intersection(*(one.tolist() for one in names[1:]))
    place: dict[Any, int] = {}
    if inner:
        place.update((name, i) for i, name in enumerate(filter(common.__contains__, names[0])))
    for one in names:
        for name in one.tolist():
            place.setdefault(name, len(place))
    maps: list[np.ndarray | None] = []
    for number, one in enumerate(names):
        # As a rule many files have the same columns: one map of these is enough, in pickles, too.
        alike = next((i for i in range(number) if np.array_equal(names[i], one)), None)
        if alike is not None:
            maps.append(maps[alike])
            continue
        own = np.array([place[name] for name in one.tolist()], index_dtype(len(place)))
        maps.append(None if (own == np.arange(own.size)).all() else own)
    found = np.array([*place, None], dtype=object)[:-1]
    return Columns(found, len(place), len(common), tuple(maps))
