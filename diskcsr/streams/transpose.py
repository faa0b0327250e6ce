"""Transposition out of core: rows to columns and back within a given memory.

A distribution sort (Knuth, TAOCP 3, 5.4.7, with a counting sort inside): how often each minor index
occurs is counted first; the minor axis is then cut into buckets whose entries fit into memory; the
entries are distributed to the buckets' places in one spill file, and each bucket is put in order
in memory and goes on. When all fits into one bucket, there is no spill file.
"""

import os
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from .. import kernels
from ..axis import Axis
from ..keys.plan import plan_batches
from ..keys.widths import index_dtype
from ..machine.interrupts import deferred
from ..machine.options import format_bytes, options
from ..machine.threads import ordered_map
from .stream import Portion, Stream

__all__ = ["Memory", "count_indices", "transpose"]

#: Blocks smaller than this cost more to plan than to read; larger ones leave the cache.
_LEAST_BLOCK, _LARGEST_BLOCK = 1 << 14, 1 << 23
#: Bytes that are read of a spill file at a time.
_SPILL_BLOCK = 1 << 22
#: Of buckets, one is written while the next is made, and a third is about to begin.
_BUCKETS = 3


@dataclass(frozen=True)
class Memory:
    """How the memory of a conversion is divided.

    Attributes
    ----------
    block : int
        Bytes of values and indices of one block.
    bucket : int
        Bytes of values and indices of one bucket.
    """

    block: int
    bucket: int

    @staticmethod
    def blocks() -> int:
        """How many blocks are in memory at a time: read ahead, being sorted, being written."""
        return options.num_threads + 12

    @classmethod
    def least(cls, n_minor: int = 0) -> int:
        """The least that a transposition can do with, in bytes."""
        return cls._fixed(n_minor) + cls.blocks() * _LEAST_BLOCK

    @staticmethod
    def _fixed(n_minor: int) -> int:
        return 28 * n_minor  # counts, places, and the bucket, of each minor index

    @classmethod
    def divide(cls, max_memory: int, n_minor: int = 0) -> "Memory":
        """Divide `max_memory`.

        Raises
        ------
        ValueError
            When it is too little.
        """
        least = cls.least(n_minor)
        if max_memory < least:
            raise ValueError(
                f"max_memory is {max_memory} bytes, but this takes at least {least} "
                f"({format_bytes(least)})"
            )
        left = max_memory - cls._fixed(n_minor)
        block = min(left // cls.blocks(), _LARGEST_BLOCK)
        buffers = 2 * min(_SPILL_BLOCK, left // 8)
        return cls(block, max((left - buffers) // _BUCKETS, 1))


def count_indices(indices: np.ndarray, counts: np.ndarray) -> None:
    """Add to ``counts[i]`` how often `i` occurs in `indices`, which must be in range."""
    kernels.transpose.count(indices, counts)


@dataclass(frozen=True)
class _Task:
    """What is transposed, and how its buckets are cut."""

    data: np.dtype  # of the values, as kernels move them: by size
    major: np.dtype
    minor: np.dtype
    counts: np.ndarray
    edges: list[tuple[int, int]]  # of the buckets, in minor indices
    starts: np.ndarray  # of the buckets, in entries


def transpose(
    matrix: Any,
    axis: Axis,
    read: Callable[[int], Iterable[tuple[int, Any]]],
    count: Callable[[np.ndarray, int], None],
    *,
    memory: Memory,
    folder: Path,
    advance: Callable[[int], None],
) -> Stream:
    """Stream a compressed matrix the other way: nothing is read before the first portion is.

    Parameters
    ----------
    matrix : object with shape, dtype and nnz
    axis : Axis
        Of `matrix`; the stream has the other one.
    read : callable
        ``read(max_bytes)`` walks it in blocks: (first major index, compressed block).
    count : callable
        ``count(counts, max_bytes)`` adds how often each minor index occurs to `counts`.
    memory : Memory
    folder : path
        Where a spill file may be made. It has no name: whatever happens, it does not stay.
    advance : callable
        Is told of the bytes handled: each entry's three times.

    Returns
    -------
    Stream
        Entries in order; duplicates as they followed each other.
    """
    n_major, n_minor = axis.swap(matrix.shape)
    dtype = np.dtype(matrix.dtype)

    def portions() -> Iterator[Portion]:
        counts = np.zeros(n_minor, np.int64)
        count(counts, memory.block)
        task = _plan(counts, n_major, dtype, memory.bucket)
        if len(task.edges) == 1:
            made = _at_once(task, read(memory.block), advance)
        else:
            made = _by_buckets(task, read(memory.block), folder, advance)
        for data, indices, lengths in made:
            yield data.reshape(-1).view(dtype), indices, lengths

    return Stream(axis.transposed, n_major, dtype, portions(), n_minor, int(matrix.nnz))


def _plan(counts: np.ndarray, n_major: int, dtype: np.dtype, bucket: int) -> _Task:
    major = index_dtype(n_major)
    most = max(1, bucket // (dtype.itemsize + major.itemsize))
    edges = list(plan_batches(counts, most)) or [(0, 0)]
    sizes = [int(counts[lo:hi].sum()) for lo, hi in edges]
    starts = np.cumsum([0, *sizes], dtype=np.int64)
    widest = max(hi - lo for lo, hi in edges)
    minor = np.dtype(np.uint16 if widest <= 1 << 16 else np.int64)
    return _Task(np.dtype(_MOVED[dtype.itemsize]), major, minor, counts, edges, starts)


#: Dtypes by size that kernels move values as, whatever they mean.
_MOVED: dict[int, Any] = {1: "u1", 2: "u2", 4: "u4", 8: "u8", 16: "c16", 32: ("c16", (2,))}


def _view(values: np.ndarray) -> np.ndarray:
    moved = np.dtype(_MOVED[values.itemsize])
    values = np.ascontiguousarray(values).view(moved.base)
    return values.reshape(-1, *moved.shape)


def _bytes(array: np.ndarray) -> memoryview:
    return array.reshape(-1).view(np.uint8).data


def _majors(first: int, block: Any, dtype: np.dtype) -> np.ndarray:
    lengths = np.diff(block.indptr)
    return np.repeat(np.arange(first, first + lengths.size, dtype=dtype), lengths)


def _places(counts: np.ndarray) -> np.ndarray:
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(counts[:-1])])[: counts.size]


def _at_once(
    task: _Task, blocks: Iterable[tuple[int, Any]], advance: Callable[[int], None]
) -> Iterator[Portion]:
    """Everything is one bucket."""
    size = int(task.starts[-1])
    data, indices = np.empty(size, task.data), np.empty(size, task.major)
    at = _places(task.counts)
    for first, block in blocks:
        majors = _majors(first, block, task.major)
        kernels.transpose.place(_view(block.data), majors, block.indices, at, data, indices)
        advance(block.data.nbytes + block.indices.nbytes)
    yield data, indices, task.counts


def _by_buckets(
    task: _Task,
    blocks: Iterable[tuple[int, Any]],
    folder: Path,
    advance: Callable[[int], None],
) -> Iterator[Portion]:
    with deferred():
        made = tempfile.TemporaryFile(  # noqa: SIM115
            dir=folder, prefix=".transpose-", buffering=0
        )
    with made as file:
        spill = _Spill(task, file)
        for nbytes in spill.fill(blocks):
            advance(nbytes)
        yield from spill.portions()


class _Spill:
    """The spill file: of each bucket its values, its major and its minor indices."""

    def __init__(self, task: _Task, file: BinaryIO) -> None:
        self._task, self._fd = task, file.fileno()
        self._parts = (task.data, task.major, task.minor)
        sizes = np.diff(task.starts)
        record = sum(part.itemsize for part in self._parts)
        # Where each part of each bucket begins in the file.
        offsets, end = [], task.starts[:-1] * record
        for part in self._parts:
            offsets.append(end)
            end = end + sizes * part.itemsize
        self._offsets = np.array(offsets)

    def fill(self, blocks: Iterable[tuple[int, Any]]) -> Iterator[int]:
        """Distribute all blocks; yield the bytes of each that was."""
        task = self._task
        n_minor = task.counts.size
        bucket_of = np.empty(n_minor, np.int32)
        for number, (lo, hi) in enumerate(task.edges):
            bucket_of[lo:hi] = number
        bucket_lo = np.array([lo for lo, _ in task.edges], np.int64)
        at = np.zeros(len(task.edges), np.int64)  # entries that each bucket has so far
        sort = partial(self._sort, bucket_of=bucket_of, bucket_lo=bucket_lo)
        for ptr, arrays, nbytes in ordered_map(sort, blocks, ahead=1):
            self._store(ptr, arrays, at)
            at += np.diff(ptr)
            yield nbytes

    def _sort(
        self, item: tuple[int, Any], bucket_of: np.ndarray, bucket_lo: np.ndarray
    ) -> tuple[np.ndarray, list[np.ndarray], int]:
        first, block = item
        arrays = [np.empty(block.nnz, part) for part in self._parts]
        data = _view(block.data)
        ptr = kernels.transpose.partition(
            data, block.indices, block.indptr, first, bucket_of, bucket_lo, *arrays
        )
        return ptr, arrays, block.data.nbytes + block.indices.nbytes

    def _store(self, ptr: np.ndarray, arrays: list[np.ndarray], at: np.ndarray) -> None:
        for bucket in np.flatnonzero(np.diff(ptr)).tolist():
            for offsets, dtype, array in zip(self._offsets, self._parts, arrays, strict=True):
                left = _bytes(array[ptr[bucket] : ptr[bucket + 1]])
                offset = int(offsets[bucket]) + int(at[bucket]) * dtype.itemsize
                while left:
                    done = os.pwrite(self._fd, left, offset)
                    left, offset = left[done:], offset + done

    def portions(self) -> Iterator[Portion]:
        """Read bucket after bucket, in order."""
        yield from (
            portion
            for made in ordered_map(self._bucket, range(len(self._task.edges)), ahead=1)
            for portion in made
        )

    def _bucket(self, bucket: int) -> Iterable[Portion]:
        task = self._task
        lo, hi = task.edges[bucket]
        size = int(task.starts[bucket + 1] - task.starts[bucket])
        counts = task.counts[lo:hi]
        if hi - lo == 1:
            return self._single(bucket, size)
        data, indices = np.empty(size, task.data), np.empty(size, task.major)
        at = _places(counts)
        for begin, end in self._steps(size):
            some = [self._read(part, bucket, begin, end) for part in range(3)]
            values, majors, minors = some
            kernels.transpose.place(values, majors, minors, at, data, indices)
        return [(data, indices, counts)]

    def _single(self, bucket: int, size: int) -> Iterator[Portion]:
        """The entries of one minor index are in order as they are, however many there are."""
        for begin, end in self._steps(size):
            lengths = np.array([size] if end == size else [], np.int64)
            data, majors = (self._read(part, bucket, begin, end) for part in range(2))
            yield data, majors, lengths

    def _steps(self, size: int) -> Iterator[tuple[int, int]]:
        step = max(1, _SPILL_BLOCK // sum(part.itemsize for part in self._parts))
        for begin in range(0, max(size, 1), step):
            yield begin, min(begin + step, size)

    def _read(self, part: int, bucket: int, begin: int, end: int) -> np.ndarray:
        dtype = self._parts[part]
        array = np.empty(end - begin, dtype)
        left = _bytes(array)
        offset = int(self._offsets[part, bucket]) + begin * dtype.itemsize
        while left:
            done = os.preadv(self._fd, [left], offset)
            if done <= 0:
                raise OSError("the spill file of a conversion was cut short")
            left, offset = left[done:], offset + done
        return array
