"""Which rows come in which batch of an epoch: numbers alone, nothing is read.

An order depends on what it was made of, on a seed and on the epoch. So every process that knows
these knows the batches of all others, and of any epoch from any place on.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..machine.options import require_memory

__all__ = ["Order", "balanced", "checked_rng", "cumulated"]


def checked_rng(rng: Any) -> np.random.Generator | int:
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


def balanced(groups: Any, weights: np.ndarray | None = None) -> np.ndarray:
    """Return weights with which every group is drawn equally often.

    Parameters
    ----------
    groups : (n,) array
        The group of each row, numbers or text. NaN and None belong to no group.
    weights : (n,) array, optional
        How often rows are drawn within their group; default equally.

    Returns
    -------
    (n,) float64 array
        They add up to 1 in each group; 0 for a row without one.

    Examples
    --------
    >>> balanced(np.array(["a", "b", "b", None], object)).tolist()
    [1.0, 0.5, 0.5, 0.0]
    """
    groups = np.asarray(groups)
    known = ~_missing(groups)
    names, codes = np.unique(groups[known], return_inverse=True)
    own = np.ones(codes.size) if weights is None else np.asarray(weights, np.float64)[known]
    totals = np.bincount(codes, own, names.size)
    result = np.zeros(groups.size)
    result[known] = np.divide(own, totals[codes], out=np.zeros(codes.size), where=own > 0)
    return result


def _missing(groups: np.ndarray) -> np.ndarray:
    """Say which rows have no group: what is not equal to itself, and None."""
    if groups.dtype.kind == "O":
        return np.array([group is None or group != group for group in groups], bool)
    return groups != groups


def cumulated(weights: Any, rows: Any, majors: str) -> np.ndarray:
    """Return the sums of the weights of some rows up to each of them.

    Parameters
    ----------
    weights : (n,) array
        Of all rows.
    rows : range or (k,) int64 array
        Those that are gone through.
    majors : str
        What messages call the rows.

    Returns
    -------
    (k,) float64 array

    Raises
    ------
    ValueError
        When a weight is negative, infinite or NaN, or all of these rows have weight 0.
    """
    weights = np.asarray(weights, np.float64)
    wrong = np.flatnonzero(~((weights >= 0) & (weights < np.inf)))
    if wrong.size:
        at = int(wrong[0])
        raise ValueError(
            f"weights must be finite and at least 0: {majors[:-1]} {at} has {weights[at]}"
        )
    sums = np.cumsum(weights[_slice(rows) if isinstance(rows, range) else rows])
    if len(rows) and not 0 < sums[-1] < np.inf:
        raise ValueError(f"weights of {len(rows)} {majors} add up to {sums[-1]}: none can be drawn")
    return sums


def _slice(rows: range) -> slice:
    stop = rows.stop if rows.stop >= 0 else None
    return slice(rows.start, stop, rows.step) if len(rows) else slice(0, 0)


@dataclass(frozen=True)
class Order:
    """Places of rows, in the order and the batches in which an epoch goes through them.

    Attributes
    ----------
    count : int
        Rows there are; places are numbers below it.
    batch_size, block_size, buffer_size : int
        As of ``A.batches``; `buffer_size` is a multiple of `batch_size`.
    shuffle, drop_last : bool
    rank, world_size : int
        Which of how many processes this is for.
    odds : (count,) float64 array or None
        Sums of weights, where rows are drawn by weight.

    Notes
    -----
    Each rank has ``count // world_size`` rows, one run of the whole order. What is left over, fewer
    rows than there are ranks, is left out: of a shuffled order other ones in each epoch.
    """

    count: int
    batch_size: int
    block_size: int
    buffer_size: int
    shuffle: bool
    drop_last: bool
    rank: int = 0
    world_size: int = 1
    odds: np.ndarray | None = None

    @property
    def rows(self) -> int:
        """Rows of this rank in an epoch."""
        rows = self.count // self.world_size
        return rows - rows % self.batch_size if self.drop_last else rows

    def __len__(self) -> int:
        return -(-self.rows // self.batch_size)

    @property
    def mixed(self) -> bool:
        """Whether rows are shuffled within their buffer, which then belongs to one worker."""
        return self.shuffle and self.block_size > 1 and self.odds is None

    def buffers(
        self, seed: int, epoch: int, first: int = 0, worker: int = 0, workers: int = 1
    ) -> Iterator[Any]:
        """Yield the places of each buffer, in the order in which batches are cut from them.

        Parameters
        ----------
        seed, epoch : int
        first : int
            Batches to leave out at the beginning.
        worker, workers : int
            Which of how many workers this is for. All batches come in turns, each from one worker;
            where rows are mixed in buffers, all buffers do.

        Yields
        ------
        range or (k,) int64 array
        """
        size, full = self.batch_size, self.buffer_size // self.batch_size
        order = self._order(seed, epoch)
        if not self.mixed:
            own = range(worker, len(self), workers)[first:]
            for start in range(0, len(own), full):
                yield _joined(order, own[start : start + full], size, self.rows)
            return
        for number in range(worker, -(-self.rows // self.buffer_size), workers):
            if first >= full:
                first -= full
                continue
            start = number * self.buffer_size
            random = np.random.default_rng([seed, epoch, self.rank + 1, number + 1])
            some = random.permutation(order[start : start + self.buffer_size])[first * size :]
            first = 0
            if some.size:
                yield some

    def _order(self, seed: int, epoch: int) -> Any:
        """Return the places of this rank."""
        n, first = self.rows, self.rank * (self.count // self.world_size)
        if self.odds is None and not self.shuffle:
            return range(first, first + n)
        # While it is made there are two numbers of 8 bytes for each row, and a bit more.
        require_memory(20 * self.count, f"an order of {self.count} rows", "Take fewer rows.")
        if self.odds is not None:  # no rank needs to know what another draws
            return self._drawn(np.random.default_rng([seed, epoch, self.rank + 1]), self.odds)
        random, size = np.random.default_rng([seed, epoch]), self.block_size
        if size == 1:
            return random.permutation(self.count)[first : first + n]
        blocks = random.permutation(-(-self.count // size))
        places = (blocks[:, None] * size + np.arange(size)).reshape(-1)
        if self.count % size:  # one block is not full
            places = places[places < self.count]
        return places[first : first + n]

    def _drawn(self, random: np.random.Generator, odds: np.ndarray) -> np.ndarray:
        """Draw places by the sums of their weights."""
        if not self.rows:
            return np.empty(0, np.int64)
        drawn = random.random(self.rows)
        drawn *= odds[-1]
        places = np.searchsorted(odds, drawn, "right")
        # Rounding alone can meet the whole sum: beyond the last row that has a weight.
        return np.minimum(places, np.searchsorted(odds, odds[-1]), out=places)


def _joined(order: Any, numbers: range, size: int, rows: int) -> Any:
    """Return the places of the numbered batches, one after the other."""
    if numbers.step == 1 or len(numbers) == 1:
        return order[numbers.start * size : min((numbers[-1] + 1) * size, rows)]
    parts = (order[number * size : min((number + 1) * size, rows)] for number in numbers)
    return np.concatenate([np.asarray(part, np.int64) for part in parts])
