"""What is known of the elements stored in a line, or of a minor index, after one pass of the file.

How many there are, how many of them are zero, their sum, the least, the largest, and how they are
spread: what minima, maxima, counts, variances and `describe` are made of.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from scipy.sparse import csr_array

from .. import kernels
from ..blocks.canonical import canonical
from ..blocks.walk import Block, BlockSource, Transform, fold, require_in_range
from .sums import FEW, unsigned, widened

__all__ = ["Spread", "Summary", "lines_of", "summarize"]


@dataclass
class Spread:
    """How the elements of n lines or minor indices lie about their mean; of a matrix, n is 1.

    Attributes
    ----------
    spread : (n, 4) array
        How many are stored; one of them; the sum of what they differ from that one, and of the
        squares of that.
    """

    spread: np.ndarray

    @classmethod
    def blank(cls, n: int, dtype: np.dtype) -> Self:
        """Return what is known of nothing; of values that `widened` gives."""
        return cls(np.zeros((n, 4), np.result_type(dtype, np.float64)))

    @property
    def arrays(self) -> tuple[np.ndarray, ...]:
        """All of it, in the order of the kernels."""
        return (self.spread,)

    @property
    def nbytes(self) -> int:
        """Bytes it takes."""
        return sum(array.nbytes for array in self.arrays)

    @property
    def stored(self) -> np.ndarray:
        """How many elements are stored, as integers."""
        return self.spread[:, 0].real.astype(np.int64)

    def take_lines(self, values: np.ndarray, indptr: np.ndarray) -> None:
        """Take in the values of each line, which are as `widened` gives them."""
        kernels.reduce.spread_lines(values, indptr, *self.arrays)

    def take_at(self, values: np.ndarray, indices: np.ndarray) -> int:
        """Take each value in at its index; return what the kernel says of these."""
        return kernels.reduce.spread_at(values, indices, *self.arrays)

    def set_runs(self, values: np.ndarray, starts: np.ndarray, lengths: np.ndarray) -> None:
        """Be of these runs of values alone, of any type; none is empty."""
        add: Any = np.add.reduceat
        wide = values.astype(self.spread.dtype)
        self.spread[:, 0] = lengths
        self.spread[:, 1] = add(wide, starts) / lengths
        apart = wide - np.repeat(self.spread[:, 1], lengths)
        self.spread[:, 2] = add(apart, starts)
        self.spread[:, 3] = add(_square(apart), starts)

    def join(self, other: Self) -> Self:
        """Take the elements that `other` knows of, which come after these, into this one."""
        with np.errstate(all="ignore"):
            n, shift, first, second = other.spread.T
            self.spread[:, 1] = np.where(self.spread[:, 0] == 0, shift, self.spread[:, 1])
            apart = np.where(n != 0, shift - self.spread[:, 1], 0)
            self.spread[:, 3] += second + n * _square(apart) + 2 * _product(apart, first)
            self.spread[:, 2] += first + n * apart
            self.spread[:, 0] += n
        return self

    def moments(self, n: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the mean of `n` elements, those that are not stored being zero, and the sum of
        the squares of what they differ from it.
        """
        # As precise as the values are: the quotients below are, too.
        stored = self.spread[:, 0].real
        with np.errstate(all="ignore"):
            own = self.spread[:, 2] / np.maximum(stored, 1)
            squares = (self.spread[:, 3] - _product(own, self.spread[:, 2])).real
            mean = self.spread[:, 1] + own
            # With as many zeros as are missing (Chan, Golub and LeVeque).
            squares = np.maximum(squares, 0) + _square(mean).real * (stored * ((n - stored) / n))
            return mean * (stored / n), squares


@dataclass
class Summary(Spread):
    """All that is known of n lines or minor indices.

    Attributes
    ----------
    counts : (n, 2) int64 array
        How many of the stored elements are zero, and how many NaN.
    sums : (n,) array
        int64 of all integers; what does not fit is cut off.
    extremes : (n, 2) array
        The least and the largest of them, but for NaN; where there are none, the other way round.
    """

    counts: np.ndarray
    sums: np.ndarray
    extremes: np.ndarray

    @classmethod
    def blank(cls, n: int, dtype: np.dtype) -> Self:
        """Return the summary of nothing; of values that `widened` gives."""
        total = np.dtype(np.int64) if dtype.kind in "biu" else np.result_type(dtype, np.float64)
        extremes = np.empty((n, 2), dtype)
        extremes[:] = _ends(dtype)
        spread = Spread.blank(n, dtype).spread
        return cls(spread, np.zeros((n, 2), np.int64), np.zeros(n, total), extremes)

    @property
    def arrays(self) -> tuple[np.ndarray, ...]:
        """All of it, in the order of the kernels."""
        return self.spread, self.counts, self.sums, self.extremes

    def take_lines(self, values: np.ndarray, indptr: np.ndarray) -> None:
        """Take in the values of each line, which are as `widened` gives them."""
        kernels.reduce.summarize_lines(values, indptr, *self.arrays)

    def take_at(self, values: np.ndarray, indices: np.ndarray) -> int:
        """Take each value in at its index; return what the kernel says of these."""
        return kernels.reduce.summarize_at(values, indices, *self.arrays)

    def set_runs(self, values: np.ndarray, starts: np.ndarray, lengths: np.ndarray) -> None:
        """Be of these runs of values alone, of any type; none is empty."""
        super().set_runs(values, starts, lengths)
        add: Any = np.add.reduceat
        nan = values != values
        self.counts[:, 0] = add(values == 0, starts, dtype=np.int64)
        self.counts[:, 1] = add(nan, starts, dtype=np.int64)
        self.sums[:] = add(values, starts, dtype=self.sums.dtype)
        for end, ufunc in enumerate((np.minimum, np.maximum)):
            known = np.where(nan, _ends(values.dtype)[end], values).astype(values.dtype)
            self.extremes[:, end] = ufunc.reduceat(known, starts)

    def join(self, other: Self) -> Self:
        """Take the elements that `other` knows of, which come after these, into this one."""
        super().join(other)
        self.counts += other.counts
        with np.errstate(all="ignore"):
            self.sums += other.sums
            for end, ufunc in enumerate((np.minimum, np.maximum)):
                self.extremes[:, end] = ufunc(self.extremes[:, end], other.extremes[:, end])
        return self


def _square(values: np.ndarray) -> Any:
    return _product(values, values)


def _product(one: np.ndarray, other: np.ndarray) -> Any:
    """Return what takes the place of the product where numbers may be complex."""
    return (one * np.conj(other)).real if one.dtype.kind == "c" else one * other


def _ends(dtype: np.dtype) -> tuple[Any, Any]:
    """Return what is no more extreme than any value: for the least, and for the largest."""
    if dtype.kind == "b":
        return True, False
    if dtype.kind in "iu":
        return np.iinfo(dtype).max, np.iinfo(dtype).min
    most = complex(np.inf, np.inf) if dtype.kind == "c" else np.inf
    return most, -most


def lines_of(block: Block, n_minor: int) -> Block:
    """Turn a block round: its lines are those of each minor index."""
    arrays = block.data, block.indices, block.indptr
    turned = csr_array(arrays, shape=(block.indptr.size - 1, n_minor)).tocsc()
    return Block(0, turned.data, turned.indices, turned.indptr)


def _by_numpy(block: Block, state: Spread, kept: np.dtype) -> None:
    """Take each line of a block into the state, of any type of values."""
    here = np.flatnonzero(np.diff(block.indptr))
    if not here.size:
        return
    starts = block.indptr[here]
    found = state.blank(here.size, kept)
    with np.errstate(all="ignore"):
        found.set_runs(block.data, starts, block.indptr[here + 1] - starts)
    before = type(state)(*(array[here] for array in state.arrays)).join(found)
    for array, joined in zip(state.arrays, before.arrays, strict=True):
        array[here] = joined


def summarize(
    source: BlockSource,
    axis: int | None,
    end: Callable[[Any], tuple[np.ndarray, ...]],
    progress: Any = None,
    *,
    of: type[Spread] = Summary,
    through: Sequence[Transform] = (),
    dtype: np.dtype | None = None,
) -> tuple[np.ndarray, ...]:
    """Summarize a whole matrix, or what lies along an axis, once for each index of the other.

    Parameters
    ----------
    source : BlockSource
    axis : {0, 1, None}
    end : callable
        Makes of an `of` what is wanted, an element or row of each array for each of its own; of
        lines some at a time, as soon as they were read.
    progress : optional
        As of `fold`.
    of : {Summary, Spread}
        How much is wanted: with less to keep of each value, a pass is faster.
    through : sequence of Transform
        What becomes of a block whose entries of one place were added up.
    dtype : dtype, optional
        Of the values then; default that of the source.

    Returns
    -------
    tuple of arrays
        Those of `end`.
    """
    along = axis == source.axis.minor
    n = {None: 1, source.axis.major: source.n_minor}.get(axis, 0)
    # All the kernels know unsigned integers that are no wider than signed ones.
    own = source.dtype if dtype is None else dtype
    few = source.elements <= FEW or own.char in "FDgGLQ"
    kept = own if few else widened(np.empty(0, own)).dtype

    def take(block: Block, state: Spread) -> Spread:
        if few:
            turned = lines_of(block, source.n_minor) if axis == source.axis.major else block
            _by_numpy(turned, state, kept)
        elif axis == source.axis.major:
            require_in_range(state.take_at(widened(block.data), unsigned(block.indices)))
        else:
            state.take_lines(widened(block.data), block.indptr)
        return state

    def step(state: Any, block: Block) -> Any:
        if along:
            lines = take(block, of.blank(block.last - block.first, kept))
            return [*state, end(lines)]
        if axis is None:
            whole = block._replace(indptr=np.array([0, block.data.size]))
            return state.join(take(whole, of.blank(1, kept)))
        return take(block, state)

    start: Any = list if along else lambda: of.blank(n, kept)
    join: Any = list.__add__ if along else of.join
    size = of.blank(1, kept).nbytes * n
    state = fold(
        source,
        start,
        step,
        join,
        through=[canonical, *through],
        state_bytes=size,
        progress=progress,
    )
    if not along:
        return end(state)
    parts = state or [end(of.blank(0, kept))]
    return tuple(np.concatenate(arrays) for arrays in zip(*parts, strict=True))
