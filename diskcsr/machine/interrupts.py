"""Signals that arrive at a bad moment are kept until a good one.

Python runs the handler of a signal, and so raises `KeyboardInterrupt`, between any two bytecodes of
the main thread. Within a callback of HDF5, or half-way through a commit, that is the worst moment:
the exception would travel through C code that knows nothing of it, or leave a file open, a lock
taken, a change half undone. So there are two ways to keep it back:

- in a `deferred` block handlers only take note, and what was noted is handled at its end;
- in a function that is `protected` handlers only take note, and are called again a moment later.
  That is for functions that C code calls, at times which are not ours to choose.

Only handlers written in Python are concerned (SIGINT has one by default): all others act at once,
and what they do to the process the rollback journal copes with. Python runs handlers in the main
thread alone; in other threads all of this does nothing.
"""

import _signal  # type: ignore[import-not-found]
import _thread
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from types import CodeType, FrameType
from typing import Any, TypeVar

__all__ = ["allowing", "check", "deferred", "protected", "pulled", "stand_by", "stand_down"]

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])

#: Signals for which programs install handlers that raise.
_SIGNALS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGALRM, signal.SIGQUIT]
_SIGNALS += [signal.SIGUSR1, signal.SIGUSR2, signal.SIGVTALRM, signal.SIGPROF]
# Of schedulers, when time is up; and of PyTorch, when a process that loads data was killed.
_SIGNALS += [signal.SIGXCPU, signal.SIGCHLD]
#: Seconds until a signal that came within a protected function is handled, if it then can be.
_SOON = 0.002

# What `signal` calls, and makes members of enumerations of: that takes longer than all else here.
_handler_of, _install = _signal.getsignal, _signal.signal

#: How many `deferred` blocks are under way in the main thread, which alone looks at it.
_depth = 0
#: What `protected` functions are made of.
_code: set[CodeType] = set()
#: How many users of protected functions there are.
_standing_by = 0
#: Signals whose handlers may be exchanged: asking for all of them takes as long as all else.
_exchanged: set[signal.Signals] = set()
#: What arrived meanwhile, in order, each signal once, with the handler it was for. Not the frame it
#: came in: that would keep alive, and open, what the functions under way then let go of.
_noted: dict[int, Callable[..., Any]] = {}


class _Keeper:
    """Stands in for a handler of the user's."""

    def __init__(self, handler: Callable[[int, FrameType | None], Any]) -> None:
        self.handler = handler

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if _depth:
            _noted.setdefault(number, self.handler)
        elif _is_protected(frame):
            _noted.setdefault(number, self.handler)
            _thread.start_new_thread(_send_again, (number,))
        else:
            # It also comes here when it was left behind, as by a program that keeps what it finds
            # as the handler and puts it back later.
            _noted.pop(number, None)
            self.handler(number, frame)


def _is_protected(frame: FrameType | None) -> bool:
    while frame is not None:
        # Callbacks of weak references are called by the interpreter, which loses what they raise;
        # h5py has one for each of its objects.
        if frame.f_code in _code or frame.f_globals.get("__name__") == "weakref":
            return True
        frame = frame.f_back
    return False


def _send_again(number: int) -> None:
    time.sleep(_SOON)
    # A handler may have been taken away meanwhile: the signal was not for what stands there now.
    if _depth or not callable(_handler_of(number)):
        return
    if _noted.pop(number, None) is not None:
        # Of the system, so that it also ends what the main thread may wait for by now.
        main = threading.main_thread().ident
        assert main is not None
        signal.pthread_kill(main, number)


def protected(function: F) -> F:
    """Mark a function in which no handler of a signal may raise; see `stand_by`."""
    _code.add(function.__code__)
    return function


def stand_by() -> None:
    """Have handlers keep out of protected functions, until `stand_down` was called as often.

    Handlers that are installed later are seen to when the next `deferred` block begins.
    """
    global _standing_by
    _standing_by += 1
    if _in_main_thread():
        _exchange()


def stand_down() -> None:
    """Take `stand_by` back."""
    global _standing_by
    _standing_by -= 1
    if not _depth and _in_main_thread():
        _put_back()


def _exchange() -> None:
    for number in _SIGNALS:
        handler = _handler_of(number)
        if not callable(handler):
            continue
        # asyncio's does nothing: its loop is woken by the system, and would be so again.
        if getattr(handler, "__module__", None) == "asyncio.unix_events":
            continue
        _exchanged.add(number)
        if not isinstance(handler, _Keeper):
            _install(number, _Keeper(handler))


def _put_back() -> None:
    """Put the handlers back, unless protected functions are in use, and handle what was noted."""
    if _standing_by <= 0:
        for number in tuple(_exchanged):
            handler = _handler_of(number)
            if isinstance(handler, _Keeper):
                _install(number, handler.handler)
            _exchanged.discard(number)
    check()


def _in_main_thread() -> bool:
    return threading.get_ident() == threading.main_thread().ident


class deferred:
    """Keep signals back in a block, which must not run code of the user's.

    Blocks may be nested. When the outermost ends its signals are handled: what their handlers raise
    comes out of it, in the place of an exception that the block itself ended with.

    Examples
    --------
    >>> import signal
    >>> done = []
    >>> try:
    ...     with deferred():
    ...         signal.raise_signal(signal.SIGINT)
    ...         done.append("all of it")
    ... except KeyboardInterrupt:
    ...     done.append("interrupted")
    >>> done
    ['all of it', 'interrupted']
    """

    __slots__ = ("_around",)

    def __enter__(self) -> None:
        global _depth
        self._around = _depth if _in_main_thread() else None
        if self._around is not None:
            if not _depth:
                _exchange()
            _depth += 1

    def __exit__(self, *exc_info: object) -> None:
        global _depth
        if self._around is not None:
            _depth = self._around
            if not _depth:
                _put_back()


def allowing(function: Callable[..., T], *args: Any) -> T:
    """Call a function of the user's within a `deferred` block: signals are let through meanwhile.

    A function and not a block: the exchange at its end stands in a ``finally``, where an exception
    that a handler raises at any step of the call leads.
    """
    global _depth
    around = _depth if _in_main_thread() else 0
    if not around:
        return function(*args)
    try:
        _depth = 0
        _put_back()
        return function(*args)
    finally:
        _exchange()
        _depth = around


def check() -> None:
    """Handle the signals kept back so far: a good moment within a `deferred` block.

    When one handler raises, those of the others are called all the same. In a protected function
    none is called: what was noted comes again a moment later.
    """
    if _noted and _in_main_thread():
        if _is_protected(sys._getframe()):
            for number in tuple(_noted):
                _thread.start_new_thread(_send_again, (number,))
            return
        number = next(iter(_noted))
        handler = _noted.pop(number)
        try:
            handler(number, sys._getframe())
        finally:
            check()


def pulled(items: Iterable[T]) -> Iterator[T]:
    """Go through what the user gave; signals are let through while the next item is made."""
    iterator = allowing(iter, items)
    ended: Any = object()
    while True:
        item = allowing(next, iterator, ended)
        if item is ended:
            return
        yield item
        del item  # while the next is made, this one need not be kept


def _in_child() -> None:
    """In a forked child the thread that forked is the main one, and in no such block."""
    global _depth
    _noted.clear()  # signals to the parent
    if _depth:
        _depth = 0
        _put_back()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)
