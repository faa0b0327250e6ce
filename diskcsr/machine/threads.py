"""The one pool of threads that read, check and filter."""

import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from functools import cache
from itertools import chain, islice
from typing import Any, TypeVar

from .interrupts import deferred
from .options import options

__all__ = ["ordered_map", "set_num_threads", "share"]

T = TypeVar("T")
R = TypeVar("R")

_lock = threading.Lock()
_pool: ThreadPoolExecutor | None = None
_made_for: tuple[int, int] | None = None  # (process, threads) of _pool
_inside = threading.local()
_workers: set[int] = set()  # the system's numbers of the pool's threads
_sent_away: dict[int, set[int]] = {}  # of those that may not run everywhere: where they might


def set_num_threads(n: int) -> None:
    """Set how many threads read and decode: the same as ``diskcsr.options.num_threads = n``.

    Parameters
    ----------
    n : int
        At least 1; 1 does everything in the calling thread.

    Raises
    ------
    ValueError
        When `n` is not a positive integer.
    """
    options.num_threads = n


def _forget_pool() -> None:
    """In a forked child: the threads did not come along, and the lock may be held by one."""
    global _pool, _lock, _made_for
    _pool, _made_for, _lock = None, None, threading.Lock()
    _workers.clear()
    _sent_away.clear()


os.register_at_fork(after_in_child=_forget_pool)


def _get_pool() -> ThreadPoolExecutor:
    global _pool, _made_for
    wanted = (os.getpid(), options.num_threads)
    with _lock:
        if _pool is None or _made_for != wanted:
            # The old pool is not shut down: another thread may be about to use it. Its workers
            # end when the last reference to it goes.
            _workers.clear()
            register = _workers.add
            _pool = ThreadPoolExecutor(
                wanted[1], "diskcsr", lambda: register(threading.get_native_id())
            )
            _made_for = wanted
        return _pool


@cache
def _current_cpu() -> Callable[[], int] | None:
    """Return the C library's function that tells the processor the caller runs on (Linux)."""
    import ctypes

    found: Any = getattr(ctypes.CDLL(None), "sched_getcpu", None)
    return found if hasattr(os, "sched_setaffinity") else None


def _send_away() -> None:
    """Have the pool's threads wake up on other processors than the one this thread runs on.

    In a virtual machine Linux takes a processor that idles for one that was taken away by the host,
    and after a pause of some milliseconds wakes a thread on the processor of the thread that wakes
    it: the two then share it while the others idle. Each thread comes back to where it may run as
    soon as it has begun (`_come_back`).
    """
    current_cpu = _current_cpu()
    if current_cpu is None:
        return
    allowed = os.sched_getaffinity(0)
    others = allowed - {current_cpu()}
    if others:
        for worker in tuple(_workers):
            _sent_away[worker] = allowed
            with suppress(OSError):  # it has ended
                os.sched_setaffinity(worker, others)


def _come_back() -> None:
    allowed = _sent_away.pop(threading.get_native_id(), None)
    if allowed:
        with suppress(OSError):  # none of them is there any more
            os.sched_setaffinity(0, allowed)


def _enter(function: Callable[..., R], *args: Any) -> R:
    _come_back()
    # A task that itself asks for the pool must not wait for a thread of it: see share.
    _inside.pool = True
    try:
        return function(*args)
    finally:
        _inside.pool = False


def _submit(pool: ThreadPoolExecutor, function: Callable[[T], R], item: T) -> "Future[R]":
    try:
        return pool.submit(_enter, function, item)
    except RuntimeError:
        # The interpreter is ending and takes no new tasks; a thread that still reads does it alone.
        done: Future[R] = Future()
        try:
            done.set_result(_enter(function, item))
        except BaseException as problem:
            done.set_exception(problem)
        return done


def _serial() -> bool:
    return options.num_threads == 1 or getattr(_inside, "pool", False)


def share(jobs: Iterable[Callable[[], Any]]) -> None:
    """Do all jobs, in this thread and in those of the pool, whichever has time for the next.

    A thread of the pool that is late finds nothing left to do, and nobody waits for it: on a
    computer that is busy otherwise it takes hardly longer than doing all of them here. Inside a
    task of the pool they all run in the calling thread.

    Raises
    ------
    BaseException
        What a job raises, once no other is under way; those not begun by then are left out.
    """
    left = deque(jobs)

    def work(_: None = None) -> None:
        while left:
            try:
                job = left.popleft()
            except IndexError:  # another thread was faster
                return
            try:
                job()
            except BaseException:
                left.clear()
                raise

    if len(left) < 2 or _serial():
        work()
        return
    # A signal must not end the wait, nor leave a lock of a future taken, which its thread needs.
    with deferred():
        pool = _get_pool()
        _send_away()
        helpers = min(options.num_threads, len(left)) - 1
        futures = [_submit(pool, work, None) for _ in range(helpers)]
        try:
            work()
        finally:
            # Even when a job failed, nobody may go on writing to the caller's arrays.
            begun = [future for future in futures if not future.cancel()]
            for future in begun:
                future.exception()
        for future in begun:
            future.result()


def ordered_map(function: Callable[[T], R], items: Iterable[T], ahead: int) -> Iterator[R]:
    """Yield ``function(item)`` in order, with at most `ahead` results computed in advance."""
    items = iter(items)
    first = list(islice(items, 2))
    if _serial() or len(first) < 2:  # one alone needs no other thread
        yield from map(function, chain(first, items))
        return
    items = chain(first, items)
    pending: deque[Any] = deque()
    try:
        for item in items:
            with deferred():
                pending.append(_submit(_get_pool(), function, item))
            if len(pending) > ahead:
                yield _next_result(pending)
        while pending:
            yield _next_result(pending)
    finally:
        # Stopped early: nothing may still be reading when the caller closes the file.
        with deferred():
            for future in pending:
                if not future.cancel():
                    future.exception()


def _next_result(pending: "deque[Future[R]]") -> R:
    # A signal must not leave a lock of the future taken, which its thread needs.
    with deferred():
        return pending.popleft().result()
