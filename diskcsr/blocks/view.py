"""A matrix that is computed when it is read: some lines of what is stored, its values changed.

A view is in one normal form: whole lines are read, minor indices that are not wanted are dropped,
then the steps are done. A selection of a view becomes one of what it is a view of, and chooses from
the operands of the steps, so that views of views cost no more.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from typing import Any, NamedTuple, NoReturn

import numpy as np
from scipy.sparse import csr_array

from ..axis import Axis
from ..keys.keep import Keep
from ..keys.plan import Plan
from ..keys.selection import Selection
from ..keys.widths import index_dtype
from ..machine.buffers import Buffers
from ..machine.options import options, require_memory
from ..machine.threads import ordered_map
from .canonical import canonical
from .contents import Contents
from .steps import Step, as_array
from .walk import Block, blocks

__all__ = ["Part", "View", "view_of"]

#: Bytes of a block of those that a larger part is put together from.
_BYTES = 1 << 23


class Part(NamedTuple):
    """Lines of a view that are to be read together.

    Attributes
    ----------
    lines : range or (k,) int64 array
        Of the view.
    plan : Plan
        Of the lines that they come from.
    """

    lines: Any
    plan: Plan


@dataclass(frozen=True, eq=False)
class View:
    """What a lazy array shows.

    Attributes
    ----------
    base : Contents
        What it is a view of.
    majors : range or (k,) int64 array
        Which major lines of it, in order.
    minors : None or (k,) int64 array
        Which minor lines of it, in order; None for all.
    steps : tuple of Step
        What is done to the values, in this order; their operands are along lines of the view.
    """

    base: Contents
    majors: Any
    minors: np.ndarray | None
    steps: tuple[Step, ...]

    # ----------------------------------------------------------------------------- what it is

    @property
    def axis(self) -> Axis:
        """The orientation, as of what it is a view of."""
        return self.base.axis

    @property
    def n_major(self) -> int:
        """Length of the major axis."""
        return len(self.majors)

    @property
    def n_minor(self) -> int:
        """Length of the minor axis."""
        return self.base.n_minor if self.minors is None else int(self.minors.size)

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return self.axis.swap((self.n_major, self.n_minor))

    @property
    def dtype(self) -> np.dtype:
        """Of the values."""
        return self.steps[-1].dtype if self.steps else self.base.dtype

    @property
    def source(self) -> Any:
        """The stored matrix that it is a view of."""
        return self.base.source

    def is_as_stored(self) -> bool:
        """Whether all that is shown surely equals what the file holds: it is not looked at."""
        return False

    def check(self) -> None:
        """Check what it is a view of; see `Contents.check`."""
        self.base.check()

    @property
    def counts(self) -> bool:
        """Whether row pointers alone say how many elements each line has."""
        drops = any(step.drops for step in self.steps)
        return self.minors is None and not drops and not self.adds_up

    @property
    def adds_up(self) -> bool:
        """Whether elements of one place must be added up before the steps."""
        return not all(step.linear for step in self.steps)

    @cached_property
    def nnz(self) -> int:
        """Number of stored elements; unless row pointers say it, all is read for it, once."""
        if self.counts:
            return int(self.base.lengths(self.majors).sum())
        walk = blocks(self, max_bytes=_BYTES)
        return sum(int(block.indptr[-1]) for block in walk)

    @property
    def elements(self) -> int:
        """Number of stored elements that are read when all lines are."""
        return int(self.lengths().sum())

    def nnz_at_hand(self) -> int | None:
        """Return the number of stored elements; None where values would have to be read."""
        return self.nnz if self.counts or "nnz" in self.__dict__ else None

    def lengths(self, majors: Any = None) -> np.ndarray:
        """Return how many elements lines have, at the most."""
        lines = range(self.n_major) if majors is None else majors
        return self.base.lengths(_chosen(self.majors, lines))

    # ------------------------------------------------------------------- views of this view

    def select(self, majors: Any, minors: Any) -> "View":
        """Return the view of some of its lines.

        Parameters
        ----------
        majors, minors : range or (k,) int64 array
            In range.
        """
        steps = self.steps
        kept: Any = self.minors
        if not _is_all(majors, self.n_major):
            steps = tuple(step.chosen("major", majors) for step in steps)
        if not _is_all(minors, self.n_minor):
            steps = tuple(step.chosen("minor", minors) for step in steps)
            kept = _chosen(range(self.n_minor) if kept is None else kept, minors)
            kept = np.asarray(kept, dtype=np.int64)
        return View(self.base, _chosen(self.majors, majors), kept, steps)

    def transposed(self) -> "View":
        """Return the view of the transpose."""
        base = replace(self.base, axis=self.axis.transposed, shape=self.base.shape[::-1])
        return replace(self, base=base)

    def then(self, step: Step) -> "View":
        """Return the view with one more step."""
        return replace(self, steps=(*self.steps, step))

    # ---------------------------------------------------------------------------- whole lines

    def cuts(self, count: int) -> list[range]:
        """Cut the lines into at most `count` runs of about equal numbers of elements."""
        n = self.n_major
        if _is_all(self.majors, self.base.n_major):
            return self.base.cuts(count)
        ends = np.cumsum(self.lengths())
        if count < 2 or not n or not ends[-1]:
            return [range(n)] if n else []
        inner = np.searchsorted(ends, ends[-1] * np.arange(1, count) // count)
        edges = np.unique(np.concatenate(([0], inner, [n]))).tolist()
        return [range(a, b) for a, b in pairwise(edges)]

    def plans(self, majors: Any, max_bytes: int) -> Iterator[tuple[int, Part]]:
        """Plan the wanted lines in blocks of bounded size; see `Contents.plans`."""
        for first, plan in self.base.plans(_chosen(self.majors, majors), self._before(max_bytes)):
            yield first, Part(majors[first : first + plan.indptr.size - 1], plan)

    def _before(self, max_bytes: int) -> int:
        """Bytes that a block may have when it is read: it grows where values become wider."""
        own = self.base.dtype.itemsize
        widest = max([own, *(step.dtype.itemsize for step in self.steps)])
        return max(1, max_bytes * (own + 4) // (widest + 4))

    def block(
        self, first: int, part: Part, buffers: Buffers | None = None, only: str | None = None
    ) -> Block:
        """Read and compute the block of a plan, through `buffers` where given."""
        return self._computed(
            part.lines, self.base.block(first, part.plan, buffers, self._only(only))
        )

    def walk(
        self,
        majors: range,
        max_bytes: int,
        buffers: Buffers,
        only: str | None = None,
        straight: bool = False,
    ) -> Iterator[Block]:
        """Give whole lines, one block after the other; see `Contents.walk`.

        What is computed from them needs indices that were checked, whoever looks at them later.
        """
        theirs = _chosen(self.majors, majors)
        if isinstance(theirs, range) and theirs.step == 1:  # what is in memory is not copied
            shift = theirs.start - majors.start
            for block in self.base.walk(theirs, self._before(max_bytes), buffers, self._only(only)):
                lines = range(block.first - shift, block.last - shift)
                yield self._computed(lines, block._replace(first=lines.start))
            return
        for first, part in self.plans(majors, max_bytes):
            yield self.block(majors.start + first, part, buffers, only)

    def refuse(self, majors: range) -> NoReturn:
        """Say which minor index of some lines is out of range; none is that was computed."""
        raise AssertionError(f"lines {majors} were checked when they were read")

    def _only(self, only: str | None) -> str | None:
        """Which of the two arrays is enough to have what was asked for: as a rule, both."""
        return only if self.minors is None and not self.steps else None

    def _computed(self, lines: Any, block: Block) -> Block:
        """Do to a block of what is stored all that is to be done to it."""
        block = self._kept(block)
        if not self.steps:
            return block
        if self.adds_up:
            block = canonical(block)
        first, data, indices, indptr = block
        for step in self.steps:
            data = step(data, lines, indices, indptr)
            if step.drops and not data.all():
                stored = np.flatnonzero(data)
                data, indices = data[stored], indices[stored]
                indptr = np.searchsorted(stored, indptr).astype(indptr.dtype)
        return Block(first, data, indices, indptr)

    def plan(self, majors: Any) -> Any:
        """Plan the reads that give the wanted lines: what `read` takes."""
        return majors

    def read(
        self, majors: Any, buffers: Buffers | None = None
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Read and compute lines, block by block; see `Contents.read`."""
        plans = list(self.plans(majors, _BYTES))
        if len(plans) == 1:
            return tuple(self.block(*plans[0], buffers)[1:])  # type: ignore[return-value]
        data, indices, counts = [], [], [np.zeros(1, np.int64)]
        total = 0
        for block in ordered_map(lambda job: self.block(*job), plans, options.num_threads):
            data.append(block.data)
            indices.append(block.indices)
            counts.append(block.indptr[1:] + np.int64(total))
            total += block.data.size
            require_memory(
                total * (self.dtype.itemsize + 4),
                f"{self.base.source.where}: computing lines of a lazy array",
                "Walk it with iter_blocks(), write it to a file, select less, or raise the budget.",
            )
        index = index_dtype(total, self.n_minor)
        return (
            np.concatenate(data) if data else np.empty(0, self.dtype),
            (np.concatenate(indices) if indices else np.empty(0)).astype(index, copy=False),
            np.concatenate(counts).astype(index),
        )

    def element(self, major: int, minor: int) -> np.generic:
        """Return one element, computed; 0 where nothing is stored."""
        one = self.select(range(major, major + 1), range(minor, minor + 1))
        return one.read(range(1))[0].sum(dtype=self.dtype)

    def _kept(self, block: Block) -> Block:
        """Drop minor indices that are not wanted; put the others in order, as often as wanted."""
        if self.minors is None:
            return block
        keep, again = self._keep
        data, indices, indptr = keep(0, block.data, block.indices, block.indptr)
        if again is None:
            return Block(block.first, data, indices, indptr)
        shape = (indptr.size - 1, keep.n_minor)
        some = csr_array((data, indices, indptr), shape=shape, copy=False)[:, again]
        some.sort_indices()
        index = indices.dtype
        indices, indptr = (part.astype(index, copy=False) for part in (some.indices, some.indptr))
        return Block(block.first, np.asarray(some.data), indices, indptr)

    @cached_property
    def _keep(self) -> tuple[Keep, np.ndarray | None]:
        """What drops minor indices, and the order of those that are left unless they ascend."""
        assert self.minors is not None
        wanted, order = np.unique(self.minors, return_inverse=True)
        keep = Keep(Selection(range(0), wanted), self.base.n_minor)
        ascends = wanted.size == self.minors.size and bool((self.minors == wanted).all())
        return keep, None if ascends else order

    def __getstate__(self) -> dict[str, Any]:
        return {name: self.__dict__[name] for name in ("base", "majors", "minors", "steps")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)


def view_of(base: Contents) -> View:
    """Return the view of a matrix as it is."""
    return View(base, range(base.n_major), None, ())


def _is_all(lines: Any, length: int) -> bool:
    return isinstance(lines, range) and lines == range(length)


def _chosen(lines: Any, places: Any) -> Any:
    """Return some of the lines; `places` is a range or an array."""
    if isinstance(lines, range):
        start, step = lines.start, lines.step
        if isinstance(places, range):
            return range(
                start + step * places.start, start + step * places.stop, step * places.step
            )
        return start + step * places
    return lines[as_array(places)]
