"""Matrices with the statistics of real sets, made block by block from a seed.

Row lengths, popularity of columns and values follow published descriptions: 10x 1.3 M neurons and
PBMC 68k (Zheng et al. 2017), Tahoe-100M, MovieLens 32M (GroupLens), RCV1-v2 (Lewis et al. 2004,
scikit-learn's TF-IDF) and Criteo's display advertising logs, hashed and one-hot.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.sparse import csr_array

__all__ = ["WORKLOADS", "Workload", "odds_of", "present"]

BLOCK = 1024


@dataclass(frozen=True)
class Workload:
    """A kind of matrix.

    Attributes
    ----------
    title, columns, rows, full_rows
        What it is; its columns; rows by default, and of the real set.
    lengths : function of (rng, n)
        Expected stored values of n rows.
    spread : float
        Standard deviation of the logarithm of the columns' popularity.
    values : function of (rng, n)
        n stored values.
    dense : bool
        Rows that share many columns: entries are drawn column by column, else row by row.
    """

    title: str
    columns: int
    rows: int
    full_rows: int
    lengths: Callable[[np.random.Generator, int], np.ndarray]
    spread: float
    values: Callable[[np.random.Generator, int], np.ndarray]
    dense: bool = False

    def blocks(self, rows: int, seed: int = 0) -> Iterator[Any]:
        """Yield csr_arrays of up to 1024 rows; a block depends on the seed and its place alone."""
        weight = np.random.default_rng([seed, 0]).lognormal(0, self.spread, self.columns)
        weight = weight.astype(np.float32)
        for first in range(0, rows, BLOCK):
            rng = np.random.default_rng([seed, 1, first])
            stored = self.lengths(rng, min(BLOCK, rows - first))
            if self.dense:
                lengths, indices = present(odds_of(weight, stored), weight, rng)
            else:
                lengths, indices = _drawn(weight, stored, rng)
            indptr = np.concatenate([[0], np.cumsum(lengths)])
            values = self.values(rng, indices.size)
            yield csr_array((values, indices, indptr), (lengths.size, self.columns))


def odds_of(weight: np.ndarray, stored: np.ndarray) -> np.ndarray:
    """Return the factor of each row that makes its expected length `stored`."""
    grid = np.geomspace(1e-8, 1e8, 400)
    expected = [np.sum(s * weight / (1 + s * weight)) for s in grid]
    return np.exp(np.interp(stored, expected, np.log(grid))).astype(np.float32)


def present(
    scale: np.ndarray, weight: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Store column j in row i with odds ``scale[i] * weight[j]``; return lengths and columns."""
    lengths, indices = [], []
    for first in range(0, scale.size, 64):  # 64 rows of odds stay in the processor's cache
        odds = scale[first : first + 64, None] * weight
        found = rng.random(odds.shape, np.float32) * (1 + odds) < odds
        lengths.append(np.count_nonzero(found, axis=1))
        indices.append((np.flatnonzero(found) % weight.size).astype(np.int32))
    return np.concatenate(lengths), np.concatenate(indices)


def _drawn(
    weight: np.ndarray, stored: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Draw columns by popularity, row by row, without duplicates: for rows that are short.

    Duplicates are drawn anew, so lengths are exact.
    """
    edges = np.cumsum(weight, dtype=np.float64)
    lengths = np.clip(np.rint(stored).astype(np.int64), 1, weight.size // 4)
    owner = np.repeat(np.arange(lengths.size), lengths)
    keys = np.zeros(0, np.int64)
    missing = owner
    while missing.size:
        column = np.searchsorted(edges, rng.random(missing.size) * edges[-1], side="right")
        drawn = missing * weight.size + np.minimum(column, weight.size - 1)
        keys = np.unique(np.concatenate([keys, drawn]))
        held = np.bincount(keys // weight.size, minlength=lengths.size)
        missing = np.repeat(np.arange(lengths.size), lengths - held)
    return lengths, (keys % weight.size).astype(np.int32)


def _lognormal(mean: float, spread: float, low: float = 1, high: float = np.inf) -> Callable:
    def lengths(rng: np.random.Generator, n: int) -> np.ndarray:
        return np.clip(mean * rng.lognormal(-(spread**2) / 2, spread, n), low, high)

    return lengths


def _counts(*shares: float, tail: float = 2.5) -> Callable:
    """Counts: the shares of 1, 2, 3 ..., and what is left by a power law, cut off at 1024."""
    rest = np.arange(len(shares) + 1, 1025, dtype=float) ** -tail
    odds = np.concatenate([shares, rest * (1 - sum(shares)) / rest.sum()])
    edges = np.cumsum(odds)

    def values(rng: np.random.Generator, n: int) -> np.ndarray:
        table = np.searchsorted(edges, rng.random(1 << 16) * edges[-1], side="right") + 1
        return table.astype(np.float32)[rng.integers(0, table.size, n, np.uint16)]

    return values


def _ratings(rng: np.random.Generator, n: int) -> np.ndarray:
    return (rng.binomial(9, 0.67, n) + 1).astype(np.float32) / 2


def _tfidf(rng: np.random.Generator, n: int) -> np.ndarray:
    return rng.lognormal(-2.4, 0.6, n)


def _ones(rng: np.random.Generator, n: int) -> np.ndarray:
    return np.ones(n, np.float32)


def _thirty_nine(rng: np.random.Generator, n: int) -> np.ndarray:
    return np.full(n, 39.0)


#: By the name given to ``--workload``.
WORKLOADS = {
    "neurons": Workload(
        "10x 1.3 M neurons, counts", 27_998, 10_000, 1_306_127,
        _lognormal(2010, 0.29), 2.0, _counts(0.646, 0.168, 0.065, 0.032, 0.019), dense=True,
    ),
    "pbmc": Workload(
        "10x PBMC 68k, counts", 32_738, 30_000, 68_579,
        _lognormal(525, 0.35), 2.2, _counts(0.75, 0.13, 0.05), dense=True,
    ),
    "tahoe": Workload(
        "Tahoe-100M, counts", 62_710, 10_000, 100_600_000,
        _lognormal(1440, 0.45, 393, 5450), 2.2, _counts(0.65, 0.17, 0.065, 0.03), dense=True,
    ),
    "movielens": Workload(
        "MovieLens 32M, ratings", 87_585, 60_000, 200_948,
        _lognormal(159, 1.2, 20), 2.0, _ratings,
    ),
    "rcv1": Workload(
        "RCV1 TF-IDF", 47_236, 120_000, 804_414,
        _lognormal(76, 0.55), 2.0, _tfidf,
    ),
    "criteo": Workload(
        "Criteo, hashed one-hot", 1_000_000, 200_000, 45_840_617,
        _thirty_nine, 2.5, _ones,
    ),
}  # fmt: skip
