"""A file on a server: its bytes by concurrent requests, repeated where they fail."""

import asyncio
import os
import random
import threading
from collections.abc import Coroutine, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as StillWaiting
from typing import Any, TypeVar

from ...errors import DiskCSRError, RemoteError, StaleFileError
from ...loading import load
from ...machine.interrupts import check
from ...machine.options import options
from .http import HttpStore
from .state import HEAD, Answer, Transient
from .stores import Store, store_of
from .urls import shown_url

__all__ = ["Remote"]

T = TypeVar("T")

#: Seconds before a request is repeated, at first; twice as many each time.
_PAUSE = 0.1
#: Bytes a second below which a server counts as not answering.
_SLOWEST = 1 << 16
#: Seconds after which who waits looks after signals.
_PATIENCE = 0.05


#: Held while what belongs to a process is made.
_starting = threading.Lock()


def _after_fork() -> None:
    """In a forked child: a thread of the parent may have held the lock."""
    global _starting
    _starting = threading.Lock()


os.register_at_fork(after_in_child=_after_fork)


class Remote:
    """A file on a server, in the state that it was in when it was opened.

    Parameters
    ----------
    url : str
    storage_options : dict, optional
        What fsspec's file system takes.

    Attributes
    ----------
    shown : str
        The URL as messages and reprs show it.
    head : bytes
        How it begins.
    state : State
    requests, bytes_read : int
        Answered, since it was opened.

    Raises
    ------
    FileNotFoundError, PermissionError
        As the server says.
    RemoteError
        When it does not answer, or gives no parts of files.
    ImportError
        When fsspec, or what it needs, is not installed.
    """

    def __init__(self, url: str, storage_options: dict[str, Any] | None = None) -> None:
        self.url, self.storage_options = url, dict(storage_options or {})
        self.shown = shown_url(url)
        self._process: int | None = None
        self.requests = self.bytes_read = 0
        #: How many requests had been answered when the state was looked at.
        self._looked_after = 0
        answer: Answer = self._run(self._repeated(lambda store: store.begin(HEAD), 0, HEAD))
        self.head, self.state = answer
        self._looked_after = self.requests
        assert self._store is not None
        self._tells_state = self._store.tells_state

    @property
    def size(self) -> int:
        """Bytes of the file."""
        return self.state.size

    @property
    def identity(self) -> tuple:
        """Which file this is, in which state: a key for what was learned from it."""
        return (self.url, *self.state)

    def begin(self, ranges: Sequence[tuple[int, int]]) -> "Future[list[bytes]]":
        """Ask for ranges ``lo:hi`` of bytes, all at once; `wait` gives them."""
        return self._submit(self._all(ranges))

    def read(self, lo: int, hi: int) -> bytes:
        """Read one range of bytes.

        Raises
        ------
        StaleFileError
            When the file was changed since it was opened.
        RemoteError
            When the server does not give these bytes, however often it is asked.
        """
        return self.wait(self.begin([(lo, hi)]))[0]

    def wait(self, future: "Future[T]") -> T:
        """Return what was asked for, when it has come; signals are seen to meanwhile."""
        try:
            while True:
                try:
                    return future.result(_PATIENCE)
                except StillWaiting:
                    if future.done():
                        return future.result()
                    check()
        except BaseException:
            future.cancel()
            raise

    def check_unchanged(self) -> None:
        """Raise `StaleFileError` when the file was changed since it was opened.

        Where every answer says which state of the file it is of, this was seen to by then.
        """
        requests = self.requests
        if self._tells_state or requests == self._looked_after:
            return
        try:
            now = self._run(self._repeated(lambda store: store.look(), 0, 0))
        except FileNotFoundError as problem:
            raise StaleFileError(f"{self.shown} is no longer there") from problem
        if now != self.state:
            raise StaleFileError(f"{self.shown} was changed on the server after it was opened")
        self._looked_after = max(self._looked_after, requests)

    # ------------------------------------------------------------------------ in fsspec's loop

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        return self.wait(self._submit(work))

    def _submit(self, work: Coroutine[Any, Any, T]) -> "Future[T]":
        with _starting:
            if self._process != os.getpid():
                # Neither connections nor the thread of fsspec's loop come along with a fork.
                try:
                    self._make = store_of(self.url, self.storage_options, self.shown)
                except BaseException:
                    work.close()
                    raise
                self._store: HttpStore | Store | None = None
                self._places: tuple[int, asyncio.Semaphore] | None = None
                self._process = os.getpid()
        return asyncio.run_coroutine_threadsafe(work, load("fsspec.asyn").get_loop())

    async def _all(self, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        tasks = [asyncio.ensure_future(self._range(lo, hi)) for lo, hi in ranges]
        try:
            return list(await asyncio.gather(*tasks))
        except BaseException:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)  # each gives its connection back
            raise

    async def _range(self, lo: int, hi: int) -> bytes:
        raw: bytes = await self._repeated(lambda store: store.get(lo, hi, self.state), lo, hi)
        self.bytes_read += len(raw)
        return raw

    async def _repeated(self, ask: Any, lo: int, hi: int) -> Any:
        """Ask until there is an answer; say which bytes it was about when there is none."""
        if self._store is None:
            self._store = await self._make()
        seconds = options.remote_timeout + (hi - lo) / _SLOWEST
        most = 1 + options.remote_retries
        for attempt in range(most):
            try:
                async with self._place():
                    answer = await asyncio.wait_for(ask(self._store), seconds)
            except (DiskCSRError, FileNotFoundError, PermissionError):
                raise
            except Exception as problem:
                why = str(problem) or type(problem).__name__
                if isinstance(problem, TimeoutError):
                    why = f"no answer within {seconds:g} s"
                what = f"{self.shown}, bytes {lo} to {hi}: {why}"
                if not _may_pass(problem):
                    raise RemoteError(what) from problem
                if attempt + 1 == most:
                    raise RemoteError(f"{what}; it was asked for {most} times") from problem
            else:
                self.requests += 1
                return answer
            await asyncio.sleep(_PAUSE * 2**attempt * (0.5 + random.random()))
        raise AssertionError("not reached")

    def _place(self) -> asyncio.Semaphore:
        """Return what lets so many requests through at a time as there may be connections."""
        wanted = options.remote_connections
        if self._places is None or self._places[0] != wanted:
            self._places = (wanted, asyncio.Semaphore(wanted))
        return self._places[1]


def _may_pass(problem: Exception) -> bool:
    """Whether a failure is the network's, or the server's of this moment."""
    if isinstance(problem, Transient | OSError | EOFError | asyncio.IncompleteReadError):
        return True
    return any(one.__name__ == "ClientError" for one in type(problem).__mro__)  # aiohttp's
