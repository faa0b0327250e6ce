"""What is known of the elements stored in a line, or of a minor index, after one pass of the file.

How many there are, how many of them are zero, their sum, the least, the largest, and how they are
spread: what minima, maxima, counts, variances and `describe` are made of.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.sparse import csr_array

from .. import kernels
from ..blocks.canonical import canonical
from ..blocks.walk import Block, BlockSource, Transform, fold, require_in_range
from .sums import FEW, unsigned, widened

__all__ = ["Summary", "lines_of", "summarize"]


@dataclass
class Summary:
    """Of n lines or minor indices; with one element (1,) of a whole matrix.

    Attributes
    ----------
    counts : (n, 3) int64 array
        Stored elements; how many of them are zero, and how many NaN.
    sums : (n,) array
        int64 of all integers; what does not fit is cut off.
    extremes : (n, 2) array
        The least and the largest of them, but for NaN; where there are none, the other way round.
    spread : (n, 3) array
        One of them; the sum of what they differ from it, and of the squares of that.
    """

    counts: np.ndarray
    sums: np.ndarray
    extremes: np.ndarray
    spread: np.ndarray

    @classmethod
    def blank(cls, n: int, dtype: np.dtype) -> "Summary":
        """Return the summary of nothing; of values that `widened` gives."""
        total = np.dtype(np.int64) if dtype.kind in "biu" else np.result_type(dtype, np.float64)
        extremes = np.empty((n, 2), dtype)
        extremes[:] = _ends(dtype)
        spread = np.zeros((n, 3), np.result_type(dtype, np.float64))
        return cls(np.zeros((n, 3), np.int64), np.zeros(n, total), extremes, spread)

    @property
    def arrays(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """All of it, in the order of the kernels."""
        return self.counts, self.sums, self.extremes, self.spread

    @property
    def nbytes(self) -> int:
        """Bytes it takes."""
        return sum(array.nbytes for array in self.arrays)

    def join(self, other: "Summary") -> "Summary":
        """Take the elements that `other` knows of, which come after these, into this one."""
        with np.errstate(all="ignore"):
            new, there = self.counts[:, 0] == 0, other.counts[:, 0] > 0
            self.spread[:, 0] = np.where(new, other.spread[:, 0], self.spread[:, 0])
            apart = np.where(there, other.spread[:, 0] - self.spread[:, 0], 0)
            n, first, second = other.counts[:, 0], other.spread[:, 1], other.spread[:, 2]
            self.spread[:, 2] += second + n * _square(apart) + 2 * _product(apart, first)
            self.spread[:, 1] += first + n * apart
            self.sums += other.sums
            for end, ufunc in enumerate((np.minimum, np.maximum)):
                self.extremes[:, end] = ufunc(self.extremes[:, end], other.extremes[:, end])
        self.counts += other.counts
        return self

    def moments(self, n: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the mean of `n` elements, those that are not stored being zero, and the sum of
        the squares of what they differ from it.
        """
        # As precise as the values are: the quotients below are, too.
        stored = self.counts[:, 0].astype(self.spread.real.dtype)
        with np.errstate(all="ignore"):
            own = self.spread[:, 1] / np.maximum(stored, 1)
            squares = (self.spread[:, 2] - _product(own, self.spread[:, 1])).real
            mean = self.spread[:, 0] + own
            # With as many zeros as are missing (Chan, Golub and LeVeque).
            squares = np.maximum(squares, 0) + _square(mean).real * (stored * ((n - stored) / n))
            return mean * (stored / n), squares


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


def _by_numpy(block: Block, state: Summary) -> None:
    """Take each line of a block into the state, of any type of values."""
    here = np.flatnonzero(np.diff(block.indptr))
    if not here.size:
        return
    values, starts = block.data, block.indptr[here]
    lengths = block.indptr[here + 1] - starts
    nan = values != values
    found = Summary.blank(here.size, state.extremes.dtype)
    add: Any = np.add.reduceat
    found.counts[:, 0] = lengths
    found.counts[:, 1] = add(values == 0, starts, dtype=np.int64)
    found.counts[:, 2] = add(nan, starts, dtype=np.int64)
    with np.errstate(all="ignore"):
        found.sums[:] = add(values, starts, dtype=found.sums.dtype)
        for end, ufunc in enumerate((np.minimum, np.maximum)):
            known = np.where(nan, _ends(values.dtype)[end], values).astype(values.dtype)
            found.extremes[:, end] = ufunc.reduceat(known, starts)
        wide = values.astype(found.spread.dtype)
        found.spread[:, 0] = add(wide, starts) / lengths
        apart = wide - np.repeat(found.spread[:, 0], lengths)
        found.spread[:, 1] = add(apart, starts)
        found.spread[:, 2] = add(_square(apart), starts)
    before = Summary(*(array[here] for array in state.arrays)).join(found)
    for array, joined in zip(state.arrays, before.arrays, strict=True):
        array[here] = joined


def summarize(
    source: BlockSource,
    axis: int | None,
    end: Callable[[Summary], tuple[np.ndarray, ...]],
    progress: Any = None,
    *,
    through: Sequence[Transform] = (),
    dtype: np.dtype | None = None,
) -> tuple[np.ndarray, ...]:
    """Summarize a whole matrix, or what lies along an axis, once for each index of the other.

    Parameters
    ----------
    source : BlockSource
    axis : {0, 1, None}
    end : callable
        Makes of a summary what is wanted, an element or row of each array for each of its own; of
        lines some at a time, as soon as they were read.
    progress : optional
        As of `fold`.
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

    def take(block: Block, state: Summary) -> Summary:
        if few:
            turned = lines_of(block, source.n_minor) if axis == source.axis.major else block
            _by_numpy(turned, state)
        elif axis == source.axis.major:
            values = widened(block.data)
            found = kernels.reduce.summarize_at(values, unsigned(block.indices), *state.arrays)
            require_in_range(found)
        else:
            kernels.reduce.summarize_lines(widened(block.data), block.indptr, *state.arrays)
        return state

    def step(state: Any, block: Block) -> Any:
        if along:
            lines = take(block, Summary.blank(block.last - block.first, kept))
            return [*state, end(lines)]
        if axis is None:
            whole = block._replace(indptr=np.array([0, block.data.size]))
            return state.join(take(whole, Summary.blank(1, kept)))
        return take(block, state)

    start: Any = list if along else lambda: Summary.blank(n, kept)
    join: Any = list.__add__ if along else Summary.join
    size = Summary.blank(1, kept).nbytes * n
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
    parts = state or [end(Summary.blank(0, kept))]
    return tuple(np.concatenate(arrays) for arrays in zip(*parts, strict=True))
