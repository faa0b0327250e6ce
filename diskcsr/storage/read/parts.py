"""Arrays that lie in parts, each read where it lies, by the reader that it has of its own."""

import resource
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ...keys.cutting import cut_plan
from ...keys.plan import Plan
from .readers import Reader, Wanted, scatter

__all__ = ["CastReader", "PartsReader", "descriptors_for_parts"]

#: Files of parts stay open. Of those that a process may have open, one in so many may be theirs.
_SHARE = 4


def descriptors_for_parts() -> int:
    """Return how many descriptors the files of parts may have."""
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0] // _SHARE


class PartsReader(Reader):
    """Reads an array that lies in parts: the base of the readers that do.

    Parameters
    ----------
    where : str
    dtype : numpy.dtype
    edges : (k + 1,) int64 array
        Part i has the elements ``edges[i]:edges[i + 1]``.

    Attributes
    ----------
    firsts : (k,) int64 array or None
        Which element of its own array the first of each part is; None: the first.
    """

    copies = True
    shares = True

    def __init__(self, where: str, dtype: np.dtype, edges: np.ndarray) -> None:
        super().__init__(where, dtype, int(edges[-1]), 0, "")
        self._edges = edges
        self.firsts: np.ndarray | None = None

    def part(self, number: int) -> Reader:
        """Return the reader of a part; of this one's dtype, and it `shares`."""
        raise NotImplementedError

    def split(self, wanted: Wanted, cuts: dict[Any, Any]) -> list[Wanted]:
        _, plan, out, limit = wanted
        firsts = b"" if self.firsts is None else self.firsts.tobytes()
        key = id(plan), self._edges.tobytes(), firsts
        cut = cuts.get(key)
        if cut is None:
            cut = cuts[key] = cut_plan(plan, self._edges, self.firsts)
        parts = []
        for number, own in cut:
            reader = self.part(number)
            parts += reader.split(Wanted(reader, own, out, limit), cuts)
        return parts

    def view(self, lo: int, hi: int) -> np.ndarray | None:
        first, last = self._edges.searchsorted([lo, max(lo, hi - 1)], side="right") - 1
        if first != last:
            return None
        begin = int(self._edges[first]) - (0 if self.firsts is None else int(self.firsts[first]))
        return self.part(int(first)).view(lo - begin, hi - begin)

    def checks_within(self, lo: int, hi: int) -> list[Callable[[], None]]:
        first, last = self._edges.searchsorted([lo, max(lo, hi - 1)], side="right") - 1
        own = [] if self.check_itself is None else [self.check_itself]
        for number in range(int(first), min(int(last) + 1, self._edges.size - 1)):
            begin = int(self._edges[number])
            own += self.part(number).checks_within(lo - begin, hi - begin)
        return own

    def edges_within(self, lo: int, hi: int) -> np.ndarray:
        first, last = self._edges.searchsorted([lo, hi], side="right")
        within = self._edges[first:last]
        return within[within < hi]

    def describe(self, readers: Sequence[Reader]) -> None:
        """Say what reads the parts, and how many bytes they take."""
        kinds = ", ".join(dict.fromkeys(reader.name for reader in readers))
        self.why = f"{len(readers)} parts, each read by itself: {kinds}"
        self.stored_bytes = sum({one.where: one.stored_bytes for one in readers}.values())


class CastReader(Reader):
    """Reads what another reader gives, and stores it as values of another type, or among others'.

    Takes memory for what it reads, a second time.

    Parameters
    ----------
    reader : Reader
    dtype : numpy.dtype
        Of the result.
    through : numpy.dtype, optional
        What the values are before they become those of `dtype`.
    owner : object, optional
        What must be there as long as this reader is.
    table : (n,) array, optional
        Values are places in it, and become what is there; n is their limit then.
    """

    shares = True

    def __init__(
        self,
        reader: Reader,
        dtype: np.dtype,
        through: np.dtype | None = None,
        owner: Any = None,
        table: np.ndarray | None = None,
    ) -> None:
        super().__init__(reader.where, dtype, reader.size, reader.stored_bytes, reader.why)
        self._inner, self._through, self._owner = reader, through or dtype, owner
        self._table = table
        self.name, self.copies = reader.name, reader.copies  # type: ignore[misc]
        self.check_unchanged = reader.check_unchanged

    def count_for(self, whole: Reader) -> None:
        self._inner.count_for(whole)

    def _gather(self, plan: Plan, out: np.ndarray, limit: int | None) -> None:
        counts = plan.piece_hi - plan.piece_lo
        at = counts.cumsum() - counts
        own = replace(plan, piece_dst=at)
        values = np.empty(plan.size, self._inner.dtype)
        if self._table is not None:
            limit = None if limit is None else self._table.size
        self._inner.gather(own, values, limit)
        if self._table is not None:
            values = self._table[values]
        values = values.astype(self._through, copy=False).astype(self.dtype, copy=False)
        scatter(values, 0, replace(plan, piece_lo=at, piece_hi=at + counts), out)
