"""The door for all that goes over a matrix: its blocks in order, or a fold over them in any order.

A fold cuts the matrix, not the threads: each cut has a state of its own, into which its blocks go
in order, and the states are joined in order. So no number of threads changes a bit of an answer.
"""

from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from functools import reduce
from typing import Any, NamedTuple, NoReturn, Protocol, TypeVar

import numpy as np

from ..axis import Axis
from ..machine.buffers import Buffers
from ..machine.options import options
from ..machine.progress import Progress, reporting, to_the_end
from ..machine.threads import ordered_map, run_in_steps

__all__ = [
    "STATES",
    "BadIndex",
    "Block",
    "BlockSource",
    "Transform",
    "affordable",
    "blocks",
    "fold",
    "require_in_range",
    "room_for_states",
]

S = TypeVar("S")

#: Bytes that the states of all cuts of a fold may take together, beside a state that takes more.
STATES = 1 << 27


class Block(NamedTuple):
    """Whole lines in memory.

    Attributes
    ----------
    first : int
        Place of its first line among those that are walked over: of a fold, its major index.
    data, indices, indptr : array
        As `scipy.sparse.csr_array` has them, ``indptr[0]`` being 0.
    """

    first: int
    data: np.ndarray
    indices: np.ndarray
    indptr: np.ndarray

    @property
    def last(self) -> int:
        """Place behind its last line."""
        return self.first + self.indptr.size - 1

    @property
    def nbytes(self) -> int:
        """Bytes of its values and indices."""
        return self.data.nbytes + self.indices.nbytes


class BadIndex(Exception):
    """A step came to a minor index that is out of range: its source knows what to say of it."""


def require_in_range(found: int) -> None:
    """Raise `BadIndex` for what a kernel returned, unless that is -1."""
    if found >= 0:
        raise BadIndex


class Transform(Protocol):
    """What becomes of a block on its way: a function of whole lines.

    It may run in several threads at once, and must leave the arrays of its block as they are.
    """

    def __call__(self, block: Block) -> Block:
        """Return the block that results, of the same lines."""


class BlockSource(Protocol):
    """What has whole lines to give; `diskcsr.blocks.contents.Contents` is one."""

    @property
    def axis(self) -> Axis: ...
    @property
    def shape(self) -> tuple[int, int]: ...
    @property
    def dtype(self) -> np.dtype: ...
    @property
    def n_major(self) -> int: ...
    @property
    def n_minor(self) -> int: ...
    @property
    def nnz(self) -> int: ...
    @property
    def elements(self) -> int:
        """Stored elements that are read when all lines are; of these more may be shown, or less."""

    def cuts(self, count: int) -> list[range]:
        """Cut the lines into at most `count` runs of about equal numbers of elements.

        They depend on the matrix and on `count` alone.
        """

    def plans(self, majors: Any, max_bytes: int) -> Iterator[tuple[int, Any]]:
        """Plan blocks of at most `max_bytes`, or of one line: the place of each, and its plan."""

    def block(
        self, first: int, plan: Any, buffers: Buffers | None = None, only: str | None = None
    ) -> Block:
        """Read a block that was planned, into `buffers` where given; in any thread."""

    def walk(
        self,
        majors: range,
        max_bytes: int,
        buffers: Buffers,
        only: str | None = None,
        straight: bool = False,
    ) -> Iterator[Block]:
        """Give the blocks of `majors` one after the other, each in the memory of the last.

        When `straight`, indices need not have been checked, and blocks may be larger where they
        take no memory.
        """

    def check(self) -> None:
        """Raise what can be found wrong before a line is read."""

    def refuse(self, majors: range) -> NoReturn:
        """Say which minor index of some lines is out of range: one of them is, or was."""


def blocks(
    source: BlockSource,
    majors: Any = None,
    *,
    through: Sequence[Transform] = (),
    max_bytes: int,
    only: str | None = None,
    progress: Progress = None,
) -> Iterator[Block]:
    """Walk over lines in order; the next blocks are read while one is used.

    Parameters
    ----------
    source : BlockSource
    majors : range or (k,) int64 array, optional
        Major indices, in range; default all.
    through : sequence of Transform
        What becomes of each block, in this order.
    max_bytes : int
        The most bytes of values and indices a block holds, unless one line holds more.
    only : {"data", "indices"}, optional
        Read only the one; the other is empty.
    progress : None, bool or callable, optional
        Told of the bytes done and in all, when these are all lines: fewer take no time.

    Yields
    ------
    Block
        In memory of its own.
    """
    n_major = source.n_major
    majors = range(n_major) if majors is None else majors
    item = source.dtype.itemsize + 4

    def read(planned: tuple[int, Any]) -> tuple[int, Block]:
        block = source.block(*planned, only=only)
        return max(block.data.size, block.indices.size) * item, _changed(block, through)

    walk = ordered_map(read, source.plans(majors, max_bytes), ahead=options.num_threads)
    if not progress or len(majors) < n_major:
        for _, block in walk:
            yield block
        return
    total = source.elements * item
    with reporting(progress, total, "reading") as told, to_the_end(told, total) as advance:
        for nbytes, block in walk:
            yield block
            advance(nbytes)


def affordable(max_bytes: int, limit: int | None = None) -> int:
    """Return the size of blocks to be walked over: less where the memory budget is very small.

    `limit` is ``options.memory_limit()`` for who has asked already, which takes a while.
    """
    return max(1, min(max_bytes, (options.memory_limit() if limit is None else limit) // 4))


def room_for_states(limit: int | None = None) -> int:
    """Return what all states of a fold may take: less where the memory budget is very small.

    Then there are fewer cuts, and sums are added up in another order. `limit` as of `affordable`.
    """
    return min(STATES, (options.memory_limit() if limit is None else limit) // 2)


def _changed(block: Block, through: Sequence[Transform]) -> Block:
    for transform in through:
        block = transform(block)
    return block


def fold(
    source: BlockSource,
    start: Callable[[], S],
    step: Callable[[S, Block], S],
    join: Callable[[S, S], S],
    *,
    through: Sequence[Transform] = (),
    max_bytes: int = 1 << 22,
    cuts: int = 16,
    state_bytes: int = 0,
    only: str | None = None,
    straight: bool = False,
    progress: Progress = None,
) -> S:
    """Put all blocks of a matrix together to one state, several cuts of it at a time.

    Parameters
    ----------
    source : BlockSource
    start : callable
        ``start() -> state``, of a cut.
    step : callable
        ``step(state, block) -> state``: puts a block of the cut into its state; blocks come in
        order. It may change the state that it is given, but not the block, whose memory is used
        again for the next one, or is the file's own. It is called in several threads, for different
        states, and sees no signals.
    join : callable
        ``join(left, right) -> state``, of neighbouring cuts; it may change both.
    through : sequence of Transform
        What becomes of each block before, in this order.
    max_bytes : int
        The most bytes of values and indices a block holds, unless one line holds more; it should
        fit a core's cache.
    cuts : int
        The most cuts.
    state_bytes : int
        Bytes a state takes: there are the fewer cuts, the larger it is, so that all states
        together take no more than 128 MiB (`STATES`), nor half of the memory budget, or one state
        if that takes more.
    only : {"data", "indices"}, optional
        Read only the one; the other is empty.
    straight : bool
        Whether `step` goes over a block once, makes nothing of its size, and raises `BadIndex`
        when it comes to a minor index out of range. What lies in the file as it is in memory is
        then looked at there and nowhere else. Not so where there is something in `through`.
    progress : None, bool or callable, optional
        Told of the bytes done and in all; default ``diskcsr.options.progress``.

    Returns
    -------
    state
        The same to the last bit, whatever the number of threads, and whatever the memory budget,
        unless that is less than 256 MiB and states are large.

    Raises
    ------
    CorruptFileError
        When a line cannot be read; of several, for the first.
    KeyboardInterrupt
        Within a block of the signal; no thread works on.

    Notes
    -----
    Nothing is handed out and nothing is kept. Besides the states, each thread takes about twice
    `max_bytes`, as much more as a line that does not fit needs, and what is decoded at a time.
    """
    if only == "data":
        source.check()  # nobody looks at the indices, without which there are no elements
    item = source.dtype.itemsize + 4
    nbytes = source.elements * item
    limit = options.memory_limit()
    count = min(cuts, room_for_states(limit) // max(1, state_bytes), -(-nbytes // max_bytes))
    runs = source.cuts(max(1, count))
    max_bytes = affordable(max_bytes, limit)
    spare: deque[Buffers] = deque()
    straight = straight and not through

    def work(run: range) -> Generator[int, None, S]:
        state = start()
        # One cut alone is read ahead, by other threads: they have nothing else to do.
        some: Iterator[Block] = blocks(source, run, max_bytes=max_bytes, only=only)
        buffers = None
        if len(runs) > 1:
            buffers = spare.pop() if spare else Buffers()
            some = source.walk(run, max_bytes, buffers, only, straight)
        for block in some:
            done = max(block.data.size, block.indices.size) * item
            if buffers is None:
                block = block._replace(first=run.start + block.first)
            try:
                state = step(state, _changed(block, through))
            except BadIndex:
                source.refuse(range(block.first, block.last))
            yield done
        if buffers is not None:
            spare.append(buffers)
        return state

    progress = options.progress if progress is None else progress
    with reporting(progress, nbytes, "computing") as advance:
        states = run_in_steps(work, runs, advance if progress else None)
    return reduce(join, states) if states else start()
