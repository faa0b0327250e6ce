"""Arrays that lie in parts, each read where it lies, by the reader that it has of its own."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from ...keys.cutting import cut_plan
from .readers import Reader, Wanted

__all__ = ["PartsReader"]


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
        key = id(plan), self._edges.tobytes(), None if self.firsts is None else self.firsts.tobytes()
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

    def describe(self, readers: Sequence[Reader]) -> None:
        """Say what reads the parts, and how many bytes they take."""
        kinds = ", ".join(dict.fromkeys(reader.name for reader in readers))
        self.why = f"{len(readers)} parts, each read by itself: {kinds}"
        self.stored_bytes = sum({one.where: one.stored_bytes for one in readers}.values())
