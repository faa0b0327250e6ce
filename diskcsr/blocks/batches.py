"""Minibatches of lines: each line once an epoch, in order, shuffled or drawn; read ahead."""

from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from .beside import Lines, Part
from .orders import Order, checked_rng, cumulated

__all__ = ["Batches"]

#: Bytes of rows fetched at a time where the caller does not say.
BUFFER_BYTES = 64 << 20

#: What of an order must be the same for a place in an epoch to mean the same.
_SAME = ("count", "batch_size", "block_size", "buffer_size", "shuffle", "drop_last", "world_size")


@dataclass
class _Place:
    """Where an iteration stands: `batch` is the next one, of those of this worker.

    The seed is None where the epoch has not begun, and so none was drawn for it.
    """

    epoch: int
    seed: int | None = None
    batch: int = 0
    worker: int = 0
    workers: int = 1
    ended: bool = False


class Batches:
    """The minibatches of an array; made by ``A.batches``, where most parameters are described.

    Iterating goes through one epoch; iterating again goes through the next, in another order when
    shuffled. ``len`` is the number of batches.

    Parameters
    ----------
    lines : Lines
        The matrix: what the array shows when the batches are made.
    rows : range, (k,) int64 array or None
        Major indices to go through; None for all.
    batch_size : int
    beside : dict of Part or None
        What comes beside the rows of the matrix, by name.
    weights : (n,) array or None
        How often rows are drawn, of all rows of the array.

    Attributes
    ----------
    epoch : int
        Which epoch the next iteration goes through; it may be assigned to. The order depends on
        this and on `rng`.

    Notes
    -----
    They can be pickled; a copy goes through the same epochs in the same order, from the one on
    that comes next.
    """

    def __init__(
        self,
        lines: Lines,
        rows: Any,
        batch_size: int,
        *,
        shuffle: bool,
        rng: Any,
        block_size: int = 1,
        buffer_size: int | None = None,
        drop_last: bool = False,
        return_rows: bool = False,
        weights: np.ndarray | None = None,
        rank: int = 0,
        world_size: int = 1,
        beside: dict[str, Part] | None = None,
        state: Mapping[str, Any] | None = None,
    ) -> None:
        contents = lines.contents
        majors = contents.axis.majors
        if buffer_size is None:
            per_row = max(1, contents.elements // max(1, contents.n_major))
            buffer_size = max(batch_size, BUFFER_BYTES // (per_row * (contents.dtype.itemsize + 4)))
        sizes = {"batch_size": batch_size, "block_size": block_size, "buffer_size": buffer_size}
        for name, value in sizes.items():
            if int(value) != value or value < 1:
                raise ValueError(f"{name} must be a positive number of {majors}, not {value!r}")
        if weights is not None and block_size > 1:
            raise ValueError(
                f"block_size must be 1 where {majors} are drawn one by one, not {block_size}"
            )
        _check_rank(rank, world_size, rng, shuffle)
        lines.require_room(int(batch_size))
        self._lines, self._beside = lines, beside
        self._rows = range(contents.n_major) if rows is None else rows
        self.batch_size, self.block_size = int(batch_size), int(block_size)
        #: Rows fetched at a time: whole batches.
        self.buffer_size = max(1, int(buffer_size) // self.batch_size) * self.batch_size
        self.shuffle, self.drop_last, self.return_rows = shuffle, drop_last, return_rows
        self.rank, self.world_size = int(rank), int(world_size)
        #: A generator, from which each epoch takes a number, or the number they all begin from.
        self._rng = checked_rng(rng)
        self._order = Order(
            len(self._rows),
            self.batch_size,
            self.block_size,
            self.buffer_size,
            bool(shuffle),
            bool(drop_last),
            self.rank,
            self.world_size,
            None if weights is None else cumulated(weights, self._rows, majors),
        )
        self._epoch = 0
        #: Where the iteration stands that began last.
        self._place: _Place | None = None
        #: Where the next one begins, after `load_state`.
        self._next: _Place | None = None
        if state is not None:
            self.load_state(state)

    def __len__(self) -> int:
        return len(self._order)

    def __repr__(self) -> str:
        order = "in order"
        if self._order.odds is not None:
            order = "drawn by weight"
        elif self.shuffle:
            order = "shuffled" if self.block_size == 1 else f"shuffled, blocks of {self.block_size}"
        part = f"rank {self.rank} of {self.world_size}, " if self.world_size > 1 else ""
        return (
            f"<Batches: {len(self)} of {self.batch_size} {self._lines.contents.axis.majors}, "
            f"{part}{order}, {self.buffer_size} fetched at a time>"
        )

    @property
    def epoch(self) -> int:
        return self._epoch

    @epoch.setter
    def epoch(self, epoch: int) -> None:
        self._epoch, self._place, self._next = int(epoch), None, None

    def __iter__(self) -> Iterator[Any]:
        return self._begin(self._next or _Place(self._epoch))

    def share(self, epoch: int, worker: int, workers: int) -> Iterator[Any]:
        """Go through what one of several workers has of an epoch.

        All batches of the epoch come in turns, each from one worker; of blocks that are mixed in
        buffers (`shuffle` with a `block_size` above 1), all buffers do. The batches are those of
        one worker alone.

        Parameters
        ----------
        epoch : int
            The same in all workers. After `load_state`, the state's stands.
        worker, workers : int
            Which of how many.

        Yields
        ------
        As the batches themselves.
        """
        place = self._next or _Place(epoch)
        if place.batch == 0:
            place = _Place(place.epoch, place.seed, 0, worker, workers)
        if (place.worker, place.workers) != (worker, workers):
            raise ValueError(
                f"state: it is of worker {place.worker} of {place.workers}, and this is worker "
                f"{worker} of {workers}"
            )
        return self._begin(place)

    @property
    def goes_on_in(self) -> int | None:
        """The epoch that `load_state` asked for, until it is begun; else None."""
        return None if self._next is None else self._next.epoch

    def take(self, rows: Any) -> Any:
        """Return some rows as a batch of them would be, with what stands beside them.

        Parameters
        ----------
        rows : (k,) integers
            Numbers of rows of the array, in any order; those of `rows=` do not matter.

        Returns
        -------
        As the batches themselves.

        Raises
        ------
        IndexError
            When there is no such row.
        """
        given, n = np.asarray(rows), self._lines.contents.n_major
        whole = given.dtype.kind in "iu" and given.ndim == 1
        if given.size and not (whole and -n <= given.min() <= given.max() < n):
            raise IndexError(f"there are {n} {self._lines.contents.axis.majors}: not {rows!r}")
        rows = given.astype(np.int64)
        rows[rows < 0] += n
        loaded = [part.load(rows) for part in self._parts()]
        return self._cut(rows, loaded, 0, rows.size)

    def _parts(self) -> list[Part]:
        return [self._lines, *(self._beside or {}).values()]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_place": None}

    # ------------------------------------------------------------------------------ where it is

    def _coming(self) -> _Place:
        """Return where the batch is that comes next."""
        place = self._place
        if self._next is not None or place is None:
            return self._next or _Place(self._epoch)
        return _Place(self._epoch) if place.ended else place

    def state(self, *, at_end: bool = False) -> dict[str, Any]:
        """Return where the iteration stands that began last.

        Parameters
        ----------
        at_end : bool
            Whether an epoch that ended stays at its end. Otherwise what comes is the next.

        Returns
        -------
        dict
            Numbers and text alone, so that JSON holds it. ``A.batches(..., state=state)`` with the
            same arguments goes on with the batch that would have come next, and so does
            `load_state`. Batches that were yielded count as used.

        Examples
        --------
        >>> import diskcsr, numpy as np, os, scipy.sparse as sp, tempfile
        >>> path = os.path.join(tempfile.mkdtemp(), "m.h5")
        >>> A = diskcsr.write(path, sp.csr_array(np.eye(6)))
        >>> how = {"batch_size": 2, "shuffle": True, "rng": 0, "return_rows": True}
        >>> epoch = A.batches(**how)
        >>> orders = [rows.tolist() for rows, X in epoch]
        >>> for rows, X in A.batches(**how):
        ...     break
        >>> running = A.batches(**how)
        >>> _ = next(iter(running))
        >>> state = running.state()
        >>> state["epoch"], state["batch"]
        (0, 1)
        >>> [rows.tolist() for rows, X in A.batches(**how, state=state)] == orders[1:]
        True
        """
        place, rng = self._place if at_end and self._place else self._coming(), self._rng
        seed, generator = place.seed, None
        if isinstance(rng, np.random.Generator):
            generator = _to_json(rng.bit_generator.state)
        elif seed is None:
            seed = rng
        return {
            "epoch": place.epoch,
            "batch": place.batch,
            "seed": seed,
            "generator": generator,
            "worker": [place.worker, place.workers],
            "order": {name: getattr(self._order, name) for name in _SAME},
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Have the next iteration go on from where another one stood.

        Parameters
        ----------
        state : mapping
            What `state` returned of batches that were made with the same arguments. A generator
            that was given as `rng` is set to where that one's was.

        Raises
        ------
        ValueError
            When it is no such state, or the arguments were others.
        """
        try:
            order, (worker, workers) = state["order"], state["worker"]
            seed, generator = state["seed"], state["generator"]
            place = _Place(int(state["epoch"]), seed, int(state["batch"]), worker, workers)
        except (KeyError, TypeError, ValueError) as problem:
            raise ValueError(f"state: not one of batches: {problem!r}") from problem
        for name in _SAME:
            mine = getattr(self._order, name)
            if order.get(name) != mine:
                raise ValueError(f"state: {name} was {order.get(name)!r}, and is {mine!r}")
        rng = self._rng
        if isinstance(rng, np.random.Generator) != (generator is not None):
            raise ValueError("state: rng was a Generator in one of the two, and none in the other")
        if isinstance(rng, np.random.Generator):
            try:
                rng.bit_generator.state = generator
            except (ValueError, TypeError, KeyError) as problem:
                raise ValueError(f"state: rng was of another kind: {problem}") from problem
        else:
            self._rng = int(seed)
        self._epoch, self._next, self._place = place.epoch, place, None

    # ------------------------------------------------------------------------------- the reading

    def _begin(self, place: _Place) -> Iterator[Any]:
        if place.seed is None:
            rng = self._rng
            place.seed = int(rng.integers(1 << 63)) if isinstance(rng, np.random.Generator) else rng
        self._place, self._next, self._epoch = place, None, place.epoch + 1
        places = self._order.buffers(
            place.seed, place.epoch, place.batch, place.worker, place.workers
        )
        return self._run(place, map(self._rows_at, places))

    def _rows_at(self, places: Any) -> Any:
        rows = self._rows
        if isinstance(places, range):
            return rows[places.start : places.stop : places.step]
        return rows.start + rows.step * places if isinstance(rows, range) else rows[places]

    def _run(self, place: _Place, chosen: Iterator[Any]) -> Iterator[Any]:
        """Yield batches; the next buffer is fetched while the batches of this one are used."""
        parts = self._parts()

        def load(rows: Any) -> tuple[Any, list[Any]]:
            return rows, [part.load(rows) for part in parts]

        def start(ahead: ThreadPoolExecutor) -> Future | None:
            rows = next(chosen, None)
            return None if rows is None else ahead.submit(load, rows)

        # A thread of its own: a task of the pool cannot spread its work over the pool.
        with ThreadPoolExecutor(1, thread_name_prefix="diskcsr-batches") as ahead:
            coming: Future | None = None
            try:
                coming = start(ahead)
                while coming is not None:
                    rows, loaded = coming.result()
                    coming = start(ahead)
                    for first in range(0, len(rows), self.batch_size):
                        last = min(first + self.batch_size, len(rows))
                        place.batch += 1
                        yield self._cut(rows, loaded, first, last)
                    # These are the last references of our own to the buffer.
                    del rows, loaded
                place.ended = True
            finally:
                if coming is not None:
                    coming.cancel()

    def _cut(self, rows: Any, loaded: list[Any], first: int, last: int) -> Any:
        """Put a batch together: its rows' numbers, the rows, what stands beside them."""
        parts = zip(self._parts(), loaded, strict=True)
        cut = [part.cut(some, first, last) for part, some in parts]
        found: list[Any] = []
        if self.return_rows:
            found.append(np.asarray(rows[first:last], dtype=np.int64))
        found.append(cut[0])
        if self._beside is not None:
            found.append(dict(zip(self._beside, cut[1:], strict=True)))
        return found[0] if len(found) == 1 else tuple(found)


def _check_rank(rank: Any, world_size: Any, rng: Any, shuffle: bool) -> None:
    if int(world_size) != world_size or world_size < 1:
        raise ValueError(f"world_size must be a positive number of processes, not {world_size!r}")
    if int(rank) != rank or not 0 <= rank < world_size:
        raise ValueError(f"rank must be from 0 to {world_size - 1} (world_size - 1), not {rank!r}")
    if world_size > 1 and shuffle and rng is None:
        raise ValueError(
            "rng must be given where there are several ranks: each would have an order of its own, "
            "and rows would come twice or never"
        )


def _to_json(state: Any) -> Any:
    """Turn the state of a bit generator into what JSON holds: arrays into lists."""
    if isinstance(state, Mapping):
        return {name: _to_json(value) for name, value in state.items()}
    if isinstance(state, np.ndarray):
        return state.tolist()
    return state.item() if isinstance(state, np.generic) else state
