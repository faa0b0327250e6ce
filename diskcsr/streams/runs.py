"""Sorting out of core what comes once, in any order: runs, and buckets cut across them.

Where entries come from a matrix on disk, `transpose` counts them first, and each has its bucket
when it is read again. What comes once cannot be counted before: so entries are sorted as they come,
in runs of a bounded size, which lie in memory or, when they become too many, in the spill file.
Once all are there, the keys are cut into buckets that fit into memory. A bucket is a part of each
run; its parts are read, sorted together and go on.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .. import kernels
from ..machine.threads import ordered_map
from .spill import Spill, as_moved, spill_file

__all__ = ["Entries", "Runs", "sort_entries"]

#: Keys in order, and their values.
Entries = tuple[np.ndarray, np.ndarray]

#: Of a run, every so many keys one stays in memory.
_SAMPLE = 2048
#: Bits that a pass of the sort looks at: more take fewer passes, but each leaves the cache.
_DIGIT = 11
#: More than any key.
_END = 1 << 62


def sort_entries(keys: np.ndarray, values: np.ndarray) -> Entries:
    """Sort entries by their keys, equal ones in the order they have; the given arrays are used."""
    varying, ordered = kernels.triplets.survey(keys)
    if ordered:
        return keys, values
    dtype = values.dtype
    values = as_moved(values)
    other = np.empty_like(keys), np.empty_like(values)
    shift = 0
    while varying >> shift:
        rest = varying >> shift
        shift += (rest & -rest).bit_length() - 1  # the lowest bit that differs
        width = min(_DIGIT, (varying >> shift).bit_length())
        kernels.triplets.sort_pass(keys, values, shift, width, *other)
        (keys, values), other = other, (keys, values)
        shift += width
    return keys, values.reshape(-1).view(dtype)


@dataclass(frozen=True)
class _Run:
    """Sorted entries, in memory or from a place of the spill file on."""

    size: int
    samples: np.ndarray
    entries: Entries | None
    offset: int = 0


class Runs:
    """Sorted runs, in the order in which they came.

    Parameters
    ----------
    dtype : numpy.dtype
        Of the values.
    held : int
        How many entries may stay in memory; when there are more, all go to a spill file.
    bucket : int
        How many entries a bucket may have at the most.
    folder : path
        Where the spill file may be made.
    stack : ExitStack
        Closes it.
    """

    def __init__(
        self, dtype: np.dtype, held: int, bucket: int, folder: Path, stack: ExitStack
    ) -> None:
        self._dtype, self._held, self._bucket = dtype, held, bucket
        self._folder, self._stack = folder, stack
        self._runs: list[_Run] = []
        self._file: Spill | None = None
        self._end = 0  # of the spill file, in bytes
        self.size = 0

    def add(self, entries: Entries) -> None:
        """Take the next sorted entries."""
        keys, _ = entries
        self.size += keys.size
        run = _Run(keys.size, keys[::_SAMPLE].copy(), entries)
        if self._file is None and self.size > self._held:
            self._file = self._stack.enter_context(spill_file(self._folder))
            for number, before in enumerate(self._runs):
                self._runs[number] = self._spilled(before, self._file)
        self._runs.append(run if self._file is None else self._spilled(run, self._file))

    def _spilled(self, run: _Run, file: Spill) -> _Run:
        assert run.entries is not None
        spilled = _Run(run.size, run.samples, None, self._end)
        for array in run.entries:
            file.write(array, self._end)
            self._end += array.nbytes
        return spilled

    @property
    def together(self) -> bool:
        """Whether all entries fit into memory together."""
        return self._file is None

    def buckets(self, finish: Callable[[Entries], Entries]) -> Iterator[Entries]:
        """Yield all entries in the order of their keys, equal ones as they came.

        Keys that are equal lie in one bucket, unless they alone are more than a bucket may have.
        Each bucket goes through `finish` on its way, in the thread that sorts it.
        """
        return ordered_map(lambda parts: finish(self._load(parts)), self._ranges(), ahead=1)

    def _ranges(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield where each bucket begins and ends in each run."""
        sizes = np.array([run.size for run in self._runs], np.int64)
        low, starts = 0, np.zeros_like(sizes)
        if self.together:
            yield starts, sizes
            return
        # Each sample stands for as many keys. That is a guess: what is too large is cut again.
        samples = np.sort(np.concatenate([run.samples for run in self._runs]))
        step = max(1, self._bucket * 3 // 4 // _SAMPLE)
        for high in [*np.unique(samples[step::step]).tolist(), _END]:
            ends = sizes if high == _END else self._locate(high)
            yield from self._cut(low, high, starts, ends)
            low, starts = high, ends

    def _cut(
        self, low: int, high: int, starts: np.ndarray, ends: np.ndarray
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Cut keys ``low <= key < high`` until each bucket has few enough."""
        size = int((ends - starts).sum())
        if size <= self._bucket:
            if size:
                yield starts, ends
        elif high - low == 1:
            yield from self._one_by_one(starts, ends)
        else:
            middle = (low + high) // 2
            mids = self._locate(middle)
            yield from self._cut(low, middle, starts, mids)
            yield from self._cut(middle, high, mids, ends)

    def _one_by_one(
        self, starts: np.ndarray, ends: np.ndarray
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """One key is more than a bucket may have: run after run, which keeps their order."""
        for number in np.flatnonzero(ends > starts).tolist():
            for begin in range(int(starts[number]), int(ends[number]), self._bucket):
                some_starts, some_ends = np.zeros_like(starts), np.zeros_like(ends)
                some_starts[number] = begin
                some_ends[number] = min(begin + self._bucket, int(ends[number]))
                yield some_starts, some_ends

    def _locate(self, key: int) -> np.ndarray:
        """Return how many keys of each run are less than `key`."""
        found = np.zeros(len(self._runs), np.int64)
        for number, run in enumerate(self._runs):
            after = int(np.searchsorted(run.samples, key))
            if after:
                begin = (after - 1) * _SAMPLE
                keys = np.empty(min(_SAMPLE, run.size - begin), np.int64)
                self._read(run, 0, begin, keys)
                found[number] = begin + np.searchsorted(keys, key)
        return found

    def _read(self, run: _Run, part: int, begin: int, out: np.ndarray) -> None:
        """Fill an array with the keys (0) or values (1) of a run from an entry on."""
        if run.entries is not None:
            out[:] = run.entries[part][begin : begin + out.size]
            return
        assert self._file is not None
        before = run.size * np.dtype(np.int64).itemsize if part else 0
        self._file.read(out, run.offset + before + begin * out.itemsize)

    def _load(self, parts: tuple[np.ndarray, np.ndarray]) -> Entries:
        """Read one bucket and sort it."""
        sizes = parts[1] - parts[0]
        keys, values = np.empty(sizes.sum(), np.int64), np.empty(sizes.sum(), self._dtype)
        at = 0
        for number in np.flatnonzero(sizes).tolist():
            begin, size = int(parts[0][number]), int(sizes[number])
            for part, array in enumerate((keys, values)):
                self._read(self._runs[number], part, begin, array[at : at + size])
            at += size
            if self.together:
                self._runs[number] = _Run(0, keys[:0], None)  # its memory is needed
        return sort_entries(keys, values)
