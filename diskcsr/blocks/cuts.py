"""Cuts that are read elsewhere, perhaps by another process: where the lines are, and no data."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..axis import matrix_of
from ..keys.widths import index_dtype
from ..machine.threads import in_this_thread
from .contents import Contents
from .joined import Joined
from .steps import as_array
from .view import View

__all__ = ["Cut"]


@dataclass(frozen=True, eq=False)
class Cut:
    """A run of lines of what an array shows.

    Attributes
    ----------
    shown : Contents or View
    lines : range
        Of its major lines.

    Notes
    -----
    Its pickle holds where these lines are: of a matrix of many files, those that they are in.
    """

    shown: Any
    lines: range

    def load(self, container: Any) -> Any:
        """Read the lines, in this thread: whoever has many cuts reads several at a time.

        Parameters
        ----------
        container : type
            scipy's class of the result, or one of its kind.
        """
        with in_this_thread():
            arrays = self.shown.read(self.shown.plan(self.lines))
        shape = self.shown.axis.swap((len(self.lines), self.shown.n_minor))
        index = index_dtype(arrays[0].size, self.shown.n_minor)
        data, indices, indptr = arrays
        kept = data, indices.astype(index, copy=False), indptr.astype(index, copy=False)
        return matrix_of(container, kept, shape)

    def address(self) -> Any:
        """Return where the matrix is, for telling matrices apart; None when it is in no file."""
        return _base(self.shown).address()

    def __reduce__(self) -> Any:
        shown, lines = self.shown, self.lines
        if isinstance(shown, View):
            some = shown.select(lines, range(shown.n_minor))
            base, first = _narrowed(some.base, some.majors)
            return Cut, (
                replace(some, base=base, majors=_less(some.majors, first)),
                range(len(lines)),
            )
        base, first = _narrowed(shown, lines)
        return Cut, (base, _less(lines, first))


def _base(shown: Any) -> Contents:
    return shown.base if isinstance(shown, View) else shown


def _less(lines: Any, first: int) -> Any:
    if isinstance(lines, range):
        return range(lines.start - first, lines.stop - first, lines.step)
    return lines - first


def _narrowed(base: Contents, lines: Any) -> tuple[Contents, int]:
    """Return contents of no more files than lines need, and which line is their first."""
    source = base.source
    transposed = base.axis is not source.axis
    if not isinstance(source, Joined) or base.held or not len(lines) or transposed:
        return base, 0
    numbers = as_array(lines)
    few, first = source.of_lines(int(np.min(numbers)), int(np.max(numbers)))
    return Contents(few, {}, base.axis, few.shape), first
