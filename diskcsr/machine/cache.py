"""Decoded chunks, kept for the next call: one cache for all arrays of the process."""

import itertools
import os
import threading
from collections import OrderedDict
from typing import Any, NamedTuple

import numpy as np

from .options import format_bytes, options

__all__ = ["CacheInfo", "ChunkCache", "cache"]


class CacheInfo(NamedTuple):
    """What a `ChunkCache` holds and how it did.

    Attributes
    ----------
    hits, misses : int
        Chunks found, and not found, since the last `ChunkCache.clear`.
    chunks, nbytes : int
        Chunks held, and the bytes they take.
    max_bytes : int
        The most bytes it may hold: ``diskcsr.options.cache_bytes``.
    """

    hits: int
    misses: int
    chunks: int
    nbytes: int
    max_bytes: int


class _Entry(NamedTuple):
    chunk: np.ndarray
    call: int  # the last that used it


class ChunkCache:
    """Decoded chunks within a budget of bytes; safe to use from any thread.

    Only chunks of compressed data come here, and only those of which a part was wanted: whole
    ones are decoded straight to their place. ``diskcsr.cache`` is the one of this process;
    ``diskcsr.options.cache_bytes`` sizes it, 0 turns it off.

    Notes
    -----
    The chunk used longest ago makes room, but not if one of the last calls used it: random rows
    touch the chunks of a file in the same order call after call, and when these exceed the budget,
    replacing the oldest would always drop the one needed next. So a part stays, and is found.

    Examples
    --------
    >>> import diskcsr
    >>> diskcsr.cache.clear()
    >>> diskcsr.cache.info().chunks
    0
    """

    #: Calls for which a chunk that was used is not replaced.
    RECENT = 16

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._entries: OrderedDict[tuple, _Entry] = OrderedDict()
        self._calls = itertools.count()
        self._nbytes = self._hits = self._misses = 0

    def new_call(self) -> int:
        """Number the calls that use the cache: `get` and `put` want theirs."""
        if self._nbytes > options.cache_bytes:  # the budget was lowered
            with self._lock:
                self._shrink()
        return next(self._calls)

    def get(self, key: tuple, call: int) -> np.ndarray | None:
        """Return the chunk of this key, read-only, or None."""
        with self._lock:
            entry = self._entries.get(key)
            if entry is None:
                self._misses += 1
                return None
            self._hits += 1
            self._entries[key] = _Entry(entry.chunk, call)
            self._entries.move_to_end(key)
            return entry.chunk

    def holds(self, key: tuple, call: int) -> bool:
        """Whether a chunk is there; from now on it is in use, and it does not count as found."""
        with self._lock:
            entry = self._entries.get(key)
            if entry is not None:
                self._entries[key] = _Entry(entry.chunk, call)
            return entry is not None

    def admits(self, nbytes: int, call: int) -> bool:
        """Whether a chunk of this size would be kept; a few of them have to fit."""
        if not 0 < nbytes <= options.cache_bytes // 4:
            return False
        with self._lock:
            if self._nbytes + nbytes <= options.cache_bytes:
                return True
            oldest = next(iter(self._entries.values()))
            return oldest.call < call - self.RECENT

    def put(self, key: tuple, chunk: np.ndarray, call: int) -> None:
        """Keep a chunk, if it is admitted, and drop old ones to make room."""
        chunk.flags.writeable = False
        if not self.admits(chunk.nbytes, call):
            return
        with self._lock:
            if key in self._entries:
                return  # another thread was faster
            self._entries[key] = _Entry(chunk, call)
            self._nbytes += chunk.nbytes
            self._shrink()

    def _shrink(self) -> None:
        while self._entries and self._nbytes > options.cache_bytes:
            _, dropped = self._entries.popitem(last=False)
            self._nbytes -= dropped.chunk.nbytes

    def clear(self) -> None:
        """Empty the cache and set its counters to 0."""
        with self._lock:
            self._entries.clear()
            self._nbytes = self._hits = self._misses = 0

    def info(self) -> CacheInfo:
        """Return what it holds and how it did."""
        with self._lock:
            self._shrink()  # the budget may have been lowered
            return CacheInfo(
                self._hits, self._misses, len(self._entries), self._nbytes, options.cache_bytes
            )

    def __repr__(self) -> str:
        info = self.info()
        return (
            f"<ChunkCache: {info.chunks} chunks, {format_bytes(info.nbytes)} of "
            f"{format_bytes(info.max_bytes)}, {info.hits} hits, {info.misses} misses>"
        )

    def _after_fork(self, *_: Any) -> None:
        """In a forked child: a thread of the parent may have held the lock, in mid-change."""
        self._lock = threading.Lock()
        self._nbytes = sum(entry.chunk.nbytes for entry in self._entries.values())


cache = ChunkCache()
os.register_at_fork(after_in_child=cache._after_fork)
