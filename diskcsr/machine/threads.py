"""The one pool of threads that read, check and filter."""

import os
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from functools import cache
from itertools import chain, islice
from typing import Any, Generic, TypeVar

from .interrupts import allowing, check, deferred
from .options import options

__all__ = ["in_this_thread", "ordered_map", "run_in_steps", "set_num_threads", "share"]

T = TypeVar("T")
R = TypeVar("R")

#: Seconds after which a thread that waits for others looks after signals.
_PATIENCE = 0.05

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
    before = getattr(_inside, "pool", False)
    _inside.pool = True
    try:
        return function(*args)
    finally:
        _inside.pool = before


def _do(waiting: list[Any]) -> None:
    """Do what waits, if no other thread has come first."""
    try:
        future, function, item = waiting.pop()
    except IndexError:
        return
    if future.set_running_or_notify_cancel():
        try:
            result = _enter(function, item)
        except BaseException as problem:
            future.set_exception(problem)
            del future  # else the traceback of an exception would keep the exception alive
        else:
            future.set_result(result)


def _submit(pool: ThreadPoolExecutor, function: Callable[[T], R], item: T) -> "Future[R]":
    future: Future[R] = Future()
    waiting = [(future, function, item)]
    try:
        pool.submit(_do, waiting)
    except RuntimeError:
        # The interpreter is ending and takes no new tasks; or the system gives no further thread,
        # and then another one of the pool's may find the task. Whoever comes first does it.
        _do(waiting)
    return future


def _serial() -> bool:
    return options.num_threads == 1 or getattr(_inside, "pool", False)


def _await(futures: "list[Future[Any]]") -> None:
    # In a frame of its own: a name for a future would keep alive what it raised.
    for future in futures:
        future.exception()


@contextmanager
def in_this_thread() -> Iterator[None]:
    """Have all that is done in the ``with`` block done by the thread that it runs in."""
    before = getattr(_inside, "pool", False)
    _inside.pool = True
    try:
        yield
    finally:
        _inside.pool = before


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
            _await(begun)
        try:
            while begun:
                begun.pop(0).result()
        finally:
            futures.clear()  # an exception would keep itself alive, and all that was worked on
            begun.clear()


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


def run_in_steps(
    work: Callable[[T], Generator[int, None, R]],
    items: Sequence[T],
    told: Callable[[int], None] | None = None,
) -> list[R]:
    """Work on items in all threads, this one among them, and see to signals between the steps.

    Parameters
    ----------
    work : callable
        Of an item; a generator that yields the size of each step, and returns the item's result.
    items : sequence
        Those that come first are begun first.
    told : callable, optional
        Is told of the sizes, in this thread; of the user's making, so signals are let through.

    Returns
    -------
    list
        The results, in order.

    Raises
    ------
    BaseException
        What a signal's handler or `told` raises; else that of the first item that failed. All
        other threads have then ended, within a step; work on earlier items is done all the same.
    """
    steps = _Steps(work, items, told)
    own = threading.get_ident()

    def watch() -> None:
        # Where the system gives no further thread, this one does what was meant for another.
        if threading.get_ident() == own:
            steps.watch()

    with deferred():
        others: list[Future[None]] = []
        if len(items) > 1 and not _serial():
            pool = _get_pool()
            _send_away()
            count = min(options.num_threads, len(items)) - 1
            others = [_submit(pool, steps.run, watch) for _ in range(count)]
        steps.run(steps.watch) if not others else _enter(steps.run, steps.watch)
        while wait(others, timeout=_PATIENCE).not_done:
            steps.attempt(steps.watch)
        steps.attempt(steps.watch)
    problem, steps.problem = steps.problem, None
    try:
        if problem is not None:
            raise problem
    finally:
        del problem  # what it was raised in would keep itself alive, and all that it worked on
    return steps.results


class _Steps(Generic[T, R]):
    """Items that several threads work on; each is a generator, whose steps are counted."""

    def __init__(
        self,
        work: Callable[[T], Generator[int, None, R]],
        items: Sequence[T],
        told: Callable[[int], None] | None,
    ) -> None:
        self._work, self._items, self._told = work, items, told
        self._lock = threading.Lock()
        self._next = self._done = 0
        #: Items from here on are not worth working on: that of the first failure.
        self._end = len(items)
        self.problem: BaseException | None = None
        self.results: list[Any] = [None] * len(items)

    def run(self, watch: Callable[[], None]) -> None:
        """Work on one item after the other until none is left; `watch` between any two steps."""
        while (number := self._take()) < self._end:
            steps = self._work(self._items[number])
            try:
                self.results[number] = self._through(number, steps, watch)
            except BaseException as problem:
                self._fail(number, problem)
            finally:
                steps.close()

    def _through(
        self, number: int, steps: Generator[int, None, R], watch: Callable[[], None]
    ) -> R | None:
        while number < self._end:
            try:
                size = next(steps)
            except StopIteration as ended:
                return ended.value
            with self._lock:
                self._done += size
            self.attempt(watch)
        return None

    def _take(self) -> int:
        with self._lock:
            self._next += 1
            return self._next - 1

    def _fail(self, number: int, problem: BaseException) -> None:
        with self._lock:
            if number < self._end:
                self._end, self.problem = number, problem

    def attempt(self, watch: Callable[[], None]) -> None:
        """Call `watch`; what it raises ends all."""
        try:
            watch()
        except BaseException as problem:
            self._fail(-1, problem)

    def watch(self) -> None:
        """Handle signals, and tell what was done since the last time."""
        check()
        if self._told is not None:
            with self._lock:
                done, self._done = self._done, 0
            if done:
                allowing(self._told, done)
