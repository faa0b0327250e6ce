"""Minibatches of lines: sequential, random or shuffled by blocks, each line once an epoch."""

import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np

from ..axis import matrix_of
from ..machine.buffers import Buffers, as_whole
from ..machine.options import require_memory
from .contents import Contents

__all__ = ["Batches"]

#: Bytes of rows fetched at a time where the caller does not say.
BUFFER_BYTES = 64 << 20

#: What a copy in another process has of its own.
_OWN = {"_spare", "_lock"}


def _checked(rng: Any) -> np.random.Generator | int:
    """Return the generator or the number that orders are made from; another each time for None."""
    if isinstance(rng, np.random.Generator):
        return rng
    if rng is None:
        return int(np.random.SeedSequence().generate_state(1)[0])
    if isinstance(rng, int | np.integer) and rng >= 0:
        return int(rng)
    raise ValueError(
        f"rng must be a numpy.random.Generator, an integer of at least 0, or None, not {rng!r}"
    )


class Batches:
    """The minibatches of an array; made by ``A.batches``, where most parameters are described.

    Iterating goes through one epoch; iterating again goes through the next, in another order when
    shuffled. ``len`` is the number of batches.

    Parameters
    ----------
    contents : Contents
        What the array shows when the batches are made.
    rows : range, (k,) int64 array or None
        Major indices to go through; None for all.
    batch_size : int
    container : type
        scipy's class for a batch.

    Notes
    -----
    They can be pickled; a copy goes through the same epochs in the same order, from the one on
    that comes next.
    """

    def __init__(
        self,
        contents: Contents,
        rows: Any,
        batch_size: int,
        *,
        container: Any,
        shuffle: bool,
        rng: Any,
        block_size: int,
        buffer_size: int | None,
        drop_last: bool,
        return_rows: bool,
    ) -> None:
        if buffer_size is None:
            per_row = max(1, contents.nnz // max(1, contents.n_major))
            buffer_size = max(batch_size, BUFFER_BYTES // (per_row * (contents.dtype.itemsize + 4)))
        for name, value in (
            ("batch_size", batch_size),
            ("block_size", block_size),
            ("buffer_size", buffer_size),
        ):
            if int(value) != value or value < 1:
                majors = contents.axis.majors
                raise ValueError(f"{name} must be a positive number of {majors}, not {value!r}")
        self._contents, self._container = contents, container
        self._rows = range(contents.n_major) if rows is None else rows
        self.batch_size, self.block_size = int(batch_size), int(block_size)
        #: Rows fetched at a time: whole batches.
        self.buffer_size = max(1, int(buffer_size) // self.batch_size) * self.batch_size
        self.shuffle, self.drop_last, self.return_rows = shuffle, drop_last, return_rows
        #: A generator, which goes on from epoch to epoch, or the number they all begin from.
        self._rng = _checked(rng)
        #: Which epoch the next iteration goes through; the order depends on `rng` and on this.
        self.epoch = 0
        self._spare: list[Buffers] = []
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        return {name: self.__dict__[name] for name in self.__dict__ if name not in _OWN}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _spare=[], _lock=threading.Lock())

    def __len__(self) -> int:
        n = len(self._rows)
        return n // self.batch_size if self.drop_last else -(-n // self.batch_size)

    def __repr__(self) -> str:
        order = "in order"
        if self.shuffle:
            order = "shuffled" if self.block_size == 1 else f"shuffled, blocks of {self.block_size}"
        return (
            f"<Batches: {len(self)} of {self.batch_size} {self._contents.axis.majors}, {order}, "
            f"{self.buffer_size} fetched at a time>"
        )

    def __iter__(self) -> Iterator[Any]:
        epoch, self.epoch = self.epoch, self.epoch + 1
        return self._run(self._chosen(epoch))

    # ------------------------------------------------------------------------------ which rows

    def _random(self, epoch: int) -> np.random.Generator:
        if isinstance(self._rng, np.random.Generator):
            return self._rng
        return np.random.default_rng([self._rng, epoch])

    def _chosen(self, epoch: int) -> Iterator[Any]:
        """Give the rows of each buffer, in the order in which batches are cut from them."""
        n = len(self._rows)
        if self.drop_last:
            n -= n % self.batch_size
        if not self.shuffle:
            for first in range(0, n, self.buffer_size):
                yield self._rows[first : min(first + self.buffer_size, n)]
            return
        random = self._random(epoch)
        places = self._shuffled(random)[:n]
        rows = self._rows
        for first in range(0, n, self.buffer_size):
            some = places[first : first + self.buffer_size]
            if self.block_size > 1:
                some = random.permutation(some)
            yield rows.start + rows.step * some if isinstance(rows, range) else rows[some]

    def _shuffled(self, random: np.random.Generator) -> np.ndarray:
        """Shuffle places in `rows`, keeping blocks of consecutive ones together."""
        n, size = len(self._rows), self.block_size
        require_memory(8 * n, f"an order of {n} rows", "Take batches of fewer rows.")
        if size == 1:
            return random.permutation(n)
        blocks = random.permutation(-(-n // size))
        places = (blocks[:, None] * size + np.arange(size)).reshape(-1)
        return places[places < n]

    # ------------------------------------------------------------------------------- the reading

    def _run(self, chosen: Iterator[Any]) -> Iterator[Any]:
        """Yield batches; the next buffer is fetched while the batches of this one are used."""
        # A thread of its own: a task of the pool cannot spread its work over the pool.
        with ThreadPoolExecutor(1, thread_name_prefix="diskcsr-batches") as ahead:
            coming: Future | None = None
            try:
                coming = self._start(ahead, chosen)
                while coming is not None:
                    rows, arrays = coming.result()
                    coming = self._start(ahead, chosen)
                    yield from self._cut(rows, *arrays)
                    # These are the last references of our own to the buffer.
                    del rows, arrays
            finally:
                if coming is not None:
                    coming.cancel()

    def _start(self, ahead: ThreadPoolExecutor, chosen: Iterator[Any]) -> Future | None:
        rows = next(chosen, None)
        return None if rows is None else ahead.submit(self._load, rows)

    def _load(self, rows: Any) -> tuple[Any, tuple]:
        buffers = self._free_buffers()
        try:
            return rows, self._contents.read(self._contents.plan(rows), buffers)
        finally:
            with self._lock:
                # Memory that callers hold on to is theirs; keeping track of three is enough.
                self._spare = [*self._spare[-2:], buffers]

    def _free_buffers(self) -> Buffers:
        """Find memory that no batch the caller still has lies in, or take new.

        It is not in the list of spare memory until it was filled: of two epochs that run at the
        same time, only one may have it.
        """
        with self._lock:
            for i, buffers in enumerate(self._spare):
                if not buffers.in_use():
                    return self._spare.pop(i)
        return Buffers()

    def _cut(
        self, rows: Any, data: np.ndarray, indices: np.ndarray, indptr: np.ndarray
    ) -> Iterator[Any]:
        for first in range(0, len(rows), self.batch_size):
            last = min(first + self.batch_size, len(rows))
            begin, end = indptr[first], indptr[last]
            pointers = indptr[first : last + 1] - begin
            arrays = as_whole(data[begin:end]), as_whole(indices[begin:end]), pointers
            shape = self._contents.axis.swap((last - first, self._contents.n_minor))
            batch = matrix_of(self._container, arrays, shape)
            if self.return_rows:
                numbers = np.asarray(rows[first:last], dtype=np.int64)
                yield numbers, batch
            else:
                yield batch
