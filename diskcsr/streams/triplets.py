"""A stream of triplets, in any order, becomes a stream of lines: within a given memory."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from .. import kernels
from ..axis import Axis
from ..keys.widths import index_dtype
from ..machine.options import options
from ..machine.threads import ordered_map
from .runs import Entries, Runs, sort_entries
from .stream import Portion, Stream

__all__ = ["Wanted", "gathered", "least_memory"]

#: Bits of a key at the most, and of those that are a minor index's where the shape is not known.
_KEY_BITS, _MINOR_BITS = 62, 31
#: Triplets that are converted, checked and packed at a time: they stay in the cache.
_STEP = 1 << 16
#: Entries that are sorted together, unless all fit into memory: arrays of them are taken from the
#: heap again and again, where the system would have to clear new pages for larger ones.
_LARGEST = 1 << 21


def least_memory() -> int:
    """The least that sorting triplets can do with, in bytes."""
    return (options.num_threads + 2) << 18


@dataclass(frozen=True)
class Wanted:
    """What triplets are to become.

    Attributes
    ----------
    axis : Axis
    shape : (int, int) or None
        Rows and columns; None learns them.
    dtype : numpy.dtype or None
        None takes that of the first values.
    duplicates : {"sum", "last", "error", "keep"}
    max_memory : int
        In bytes, at least `least_memory`.
    folder : path
        Where a spill file may be made.
    at_least : callable
        Gives rows and columns that a learned shape has at least; asked when all triplets went by.
    """

    axis: Axis
    shape: tuple[int, ...] | None
    dtype: np.dtype | None
    duplicates: str
    max_memory: int
    folder: Path
    at_least: Callable[[], tuple[int, int]] = lambda: (0, 0)

    def check(self) -> None:
        """Raise `ValueError` when shape or duplicates cannot be."""
        if self.duplicates not in (*_COMBINE, "keep"):
            known = ", ".join(map(repr, (*_COMBINE, "keep")))
            raise ValueError(f"duplicates must be one of {known}, not {self.duplicates!r}")
        if self.shape is None:
            return
        if len(self.shape) != 2 or min(self.shape) < 0:
            raise ValueError(f"shape must be two numbers, rows and columns, not {self.shape!r}")
        if sum(max(n - 1, 0).bit_length() for n in self.shape) > _KEY_BITS:
            raise ValueError(
                f"shape {self.shape} has more than 2**{_KEY_BITS} places, which cannot be sorted"
            )


@contextmanager
def gathered(
    triplets: Iterable[Any], wanted: Wanted, advance: Callable[[int], None]
) -> Iterator[Stream]:
    """Take all triplets in, and give the stream of lines that they make.

    Parameters
    ----------
    triplets : iterable
        Of (rows, columns, values) or (rows, columns), arrays of one length.
    wanted : Wanted
    advance : callable
        Is told of the bytes of the triplets taken in.

    Raises
    ------
    ValueError, TypeError
        When a part is not understood, an index is out of range, values cannot be cast, or there is
        nothing and no shape. Each names the part and the position in it. When the stream is gone
        through: when a place has two values, and that is an error.
    """
    with ExitStack() as stack:
        intake = _Intake(wanted)
        runs: Runs | None = None
        blocks = intake.blocks(triplets)
        for entries in ordered_map(_in_order, blocks, ahead=options.num_threads):
            if runs is None:
                held, bucket = intake.memory(5), min(intake.memory(8), _LARGEST)
                runs = Runs(intake.dtype, held, bucket, wanted.folder, stack)
            runs.add(entries)
            advance(sum(array.nbytes for array in entries))
            del entries
        yield _stream(runs, intake, wanted)


def _in_order(entries: Entries) -> Entries:
    return sort_entries(*entries)


class _Intake:
    """Checks triplets as they come and packs them into blocks of keys and values."""

    def __init__(self, wanted: Wanted) -> None:
        self._wanted, self._axis = wanted, wanted.axis
        self._dtype = wanted.dtype
        if wanted.shape is None:
            self.bits = _MINOR_BITS
            self._limits = 1 << _KEY_BITS - _MINOR_BITS, 1 << _MINOR_BITS
        else:
            self._limits = wanted.axis.swap(wanted.shape)
            self.bits = max(self._limits[1] - 1, 0).bit_length()
        self._largest = [-1, -1]  # major, minor

    @property
    def dtype(self) -> np.dtype:
        """Of the values, as far as is known: where there are none, they would be float64."""
        return np.dtype(np.float64) if self._dtype is None else self._dtype

    @property
    def shape(self) -> tuple[int, int]:
        """Of the matrix: (major, minor)."""
        if self._wanted.shape is not None:
            return self._axis.swap(self._wanted.shape)
        least = self._axis.swap(self._wanted.at_least())
        if max(self._largest) < 0 and not any(least):
            raise ValueError("there are no triplets, and no shape: give shape=(rows, columns)")
        return max(self._largest[0] + 1, least[0]), max(self._largest[1] + 1, least[1])

    def place(self, key: int) -> tuple[int, int]:
        """Row and column of a key."""
        return self._axis.swap((key >> self.bits, key & (1 << self.bits) - 1))

    def memory(self, part: int) -> int:
        """How many entries take that part of the memory."""
        return max(1, self._wanted.max_memory // (part * (8 + self.dtype.itemsize)))

    def blocks(self, triplets: Iterable[Any]) -> Iterator[Entries]:
        """Yield blocks of entries in the order in which they come."""
        keys, values, filled = np.empty(0, np.int64), np.empty(0), 0
        for number, part in enumerate(triplets):
            majors, minors, given = self._taken(number, part)
            begin = 0
            while begin < majors.size:
                if filled == keys.size:
                    if filled:
                        yield keys, values
                    # Being sorted a block takes twice its size, and there is one a worker.
                    size = min(self.memory(4 * (2 * options.num_threads + 4)), _LARGEST)
                    keys, values, filled = np.empty(size, np.int64), np.empty(size, self.dtype), 0
                count = min(_STEP, majors.size - begin, keys.size - filled)
                some, place = slice(begin, begin + count), slice(filled, filled + count)
                self._pack(number, begin, majors[some], minors[some], keys[place])
                values[place] = 1 if given is None else given[some]
                begin, filled = begin + count, filled + count
            del part, majors, minors, given  # while the next is made, these need not be kept
        if filled:
            yield keys[:filled], values[:filled]

    def _taken(self, number: int, part: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        """Take a part apart: major indices, minor indices, and values where there are some."""
        if not isinstance(part, tuple | list) or len(part) not in (2, 3):
            raise TypeError(
                f"part {number} is no (rows, columns, values) but {type(part).__name__}: give an "
                "iterable of such tuples, a list with one of them if that is all there is"
            )
        rows, columns, *rest = part
        given = None if not rest or rest[0] is None else np.asarray(rest[0])
        pair = np.asarray(rows), np.asarray(columns)
        arrays = {"rows": pair[0], "columns": pair[1]}
        arrays |= {} if given is None else {"values": given}
        for name, array in arrays.items():
            if array.ndim != 1:
                raise TypeError(f"part {number}: {name} must be a one-dimensional array")
        if len({array.size for array in arrays.values()}) > 1:
            lengths = ", ".join(f"{array.size} {name}" for name, array in arrays.items())
            raise ValueError(f"part {number} has {lengths}: they must be as many")
        self._check_dtypes(number, arrays)
        majors, minors = self._axis.swap(pair)
        return majors, minors, given

    def _check_dtypes(self, number: int, arrays: dict[str, np.ndarray]) -> None:
        for name in ("rows", "columns"):
            dtype = arrays[name].dtype
            if dtype.kind not in "iu" and arrays[name].size:
                raise TypeError(
                    f"part {number}: {name} must be whole numbers, not of dtype {dtype} (the "
                    f"first is {arrays[name][0]!r})"
                )
        values = arrays.get("values")
        if values is None:
            self._dtype = self.dtype  # ones
            return
        if values.dtype.kind not in "biufc":
            raise TypeError(f"part {number}: cannot store values of dtype {values.dtype}")
        if self._dtype is None:
            self._dtype = values.dtype.newbyteorder("=")
        if not np.can_cast(values.dtype, self._dtype, "same_kind"):
            given = self._wanted.dtype is not None
            what = "the one asked for" if given else "that of the first part; give dtype="
            raise TypeError(
                f"part {number}: cannot cast values from {values.dtype} to {self._dtype}, {what}, "
                "according to the rule 'same_kind'"
            )

    def _pack(
        self, number: int, begin: int, majors: np.ndarray, minors: np.ndarray, keys: np.ndarray
    ) -> None:
        pair = [_as_indices(array) for array in (majors, minors)]
        at, *largest = kernels.triplets.pack(*pair, *self._limits, self.bits, keys)
        if at < 0:
            self._largest = [max(both) for both in zip(self._largest, largest, strict=True)]
            return
        where = f"part {number}, position {begin + at}"
        for axis in range(2):  # rows are looked at first, as they are given first
            array, limit = (self._axis.swap(both)[axis] for both in (pair, self._limits))
            # As it was given: what is too large for int64 is negative by now.
            value = int(self._axis.swap((majors, minors))[axis][at])
            if 0 <= int(array[at]) < limit:
                continue
            name = f"{where}: {('row', 'column')[axis]} index {value}"
            if value < 0:
                raise ValueError(f"{name} is negative")
            if self._wanted.shape is None:
                raise ValueError(f"{name} is not less than {limit}: give shape=(rows, columns)")
            raise ValueError(f"{name} is out of range: the shape is {self._wanted.shape}")


def _as_indices(array: np.ndarray) -> np.ndarray:
    """As one of the two dtypes that kernels are compiled for; what int64 cannot hold is negative.

    Whoever gave none, an empty list for example, gave floats.
    """
    small = array.dtype.itemsize < 4 or array.dtype == np.int32
    return np.ascontiguousarray(array, np.int32 if small else np.int64)


# -------------------------------------------------------------------------------- out it comes


def _stream(runs: Runs | None, intake: _Intake, wanted: Wanted) -> Stream:
    """Stream the lines that sorted runs make."""
    n_major, n_minor = intake.shape
    lines = _Lines(intake.bits, index_dtype(n_minor), n_major, max(1 << 10, intake.memory(32)))
    if runs is None:
        return Stream(wanted.axis, n_minor, intake.dtype, lines.of([]), n_major, 0)
    if wanted.duplicates == "keep":
        buckets: Iterable[Entries] = runs.buckets(lambda entries: entries)
        nnz: int | None = runs.size
    else:
        combine = partial(_COMBINE[wanted.duplicates], intake)
        buckets = _joined(runs.buckets(combine), combine)
        nnz = runs.size if wanted.duplicates == "error" else None
        if runs.together:  # what stays of them is then known before anything is written
            buckets = list(buckets)
            nnz = sum(keys.size for keys, _ in buckets)
    return Stream(wanted.axis, n_minor, intake.dtype, lines.of(buckets), n_major, nnz)


def _joined(buckets: Iterator[Entries], combine: Callable[[Entries], Entries]) -> Iterator[Entries]:
    """Combine what is equal across buckets: the last entry of each waits for the next."""
    held: Entries | None = None
    for keys, values in buckets:
        if held is not None and held[0][0] == keys[0]:
            pair = np.append(held[0], keys[:1]), np.append(held[1], values[:1])
            values[:1] = combine(pair)[1]
        elif held is not None:
            yield held
        held = keys[-1:], values[-1:]
        yield keys[:-1], values[:-1]
    if held is not None:
        yield held


def _fresh(keys: np.ndarray) -> np.ndarray | None:
    """Where each key stands first; None when none comes twice."""
    repeated = keys[1:] == keys[:-1]
    return np.flatnonzero(np.append(True, ~repeated)) if repeated.any() else None


def _sum(intake: _Intake, entries: Entries) -> Entries:
    keys, values = entries
    fresh = _fresh(keys)
    if fresh is None:
        return entries
    return keys[fresh], np.add.reduceat(values, fresh, dtype=values.dtype)


def _last(intake: _Intake, entries: Entries) -> Entries:
    keys, values = entries
    fresh = _fresh(keys)
    return entries if fresh is None else (keys[fresh], values[np.append(fresh[1:], keys.size) - 1])


def _refuse(intake: _Intake, entries: Entries) -> Entries:
    keys, _ = entries
    fresh = _fresh(keys)
    if fresh is None:
        return entries
    repeated = np.append(fresh[1:], keys.size) - fresh > 1
    place = intake.place(int(keys[fresh[int(np.argmax(repeated))]]))
    raise ValueError(
        f"row {place[0]}, column {place[1]} has more than one value: duplicates= says what becomes "
        "of them"
    )


_COMBINE: dict[str, Callable[[_Intake, Entries], Entries]] = {
    "sum": _sum,
    "last": _last,
    "error": _refuse,
}


class _Lines:
    """Makes portions of entries in order.

    Parameters
    ----------
    bits : int
        Of a minor index in a key.
    index : numpy.dtype
        Of minor indices.
    n_major : int
    step : int
        For how many lines lengths are given at a time.
    """

    def __init__(self, bits: int, index: np.dtype, n_major: int, step: int) -> None:
        self._bits, self._index, self._n_major, self._step = bits, index, n_major, step
        self._line = 0  # the one under way
        self._begun = 0  # entries of it that went out before

    def of(self, buckets: Iterable[Entries]) -> Iterator[Portion]:
        """Yield the portions of all buckets, and the lengths of the empty lines behind them."""
        dtype = np.dtype(np.uint8)
        for keys, values in buckets:
            dtype = values.dtype
            begin = 0
            while begin < keys.size:
                # Lines before this one end here, unless the keys end first.
                stop = min(self._line + self._step, self._n_major)
                end = int(np.searchsorted(keys, stop << self._bits))
                yield self._portion(keys[begin:end], values[begin:end], stop, end == keys.size)
                begin = end
        none = np.empty(0, dtype), np.empty(0, self._index)
        while self._line < self._n_major:
            lengths = np.zeros(min(self._step, self._n_major - self._line), np.int64)
            lengths[0], self._begun = self._begun, 0
            self._line += lengths.size
            yield *none, lengths

    def _portion(self, keys: np.ndarray, values: np.ndarray, stop: int, last: bool) -> Portion:
        """Make a portion of keys up to line `stop`, which is begun unless these are the last."""
        if last and keys.size:
            stop = int(keys[-1]) >> self._bits
        minors, lengths = (
            np.empty(keys.size, self._index),
            np.zeros(stop - self._line + 1, np.int64),
        )
        kernels.triplets.unpack(keys, self._bits, self._line, minors, lengths)
        lengths[0] += self._begun
        self._line, self._begun = stop, int(lengths[-1])
        return values, minors, lengths[:-1]
