"""Telling how far a long call is: a callback, or a bar."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeAlias

from .bars import Tell, bar

__all__ = ["Progress", "heard", "reporting", "telling", "to_the_end"]

#: What may be asked for: nothing, a bar, or a function of the bytes done and the bytes in all.
Progress: TypeAlias = bool | Tell | None


@contextmanager
def telling(progress: Progress, what: str) -> Iterator[Tell | None]:
    """Give what is to be told of the bytes done and the bytes in all; None where nobody asks.

    Parameters
    ----------
    progress : None, bool or callable
        True shows a bar. A callable is what is given.
    what : str
        What is done, as "writing".

    Raises
    ------
    TypeError
        When `progress` is none of these.
    """
    if progress is None or progress is False:
        yield None
    elif progress is True:
        with bar(what) as tell:
            yield tell
    elif callable(progress):
        yield progress
    else:
        raise TypeError(f"progress must be None, True or a function, not {progress!r}")


@contextmanager
def reporting(
    progress: Progress, total: int | None, what: str = "writing"
) -> Iterator[Callable[[int], None]]:
    """Give a function to be told of bytes that were handled.

    Parameters
    ----------
    progress, what
        As of `telling`.
    total : int or None
        Bytes in all; None where nobody knows.

    Raises
    ------
    TypeError
        When `progress` is none of these.
    """
    with telling(progress, what) as tell:
        if tell is None:
            yield lambda nbytes: None
            return
        told, done = tell, 0
        if progress is True:
            told(0, total)

        def advance(nbytes: int) -> None:
            nonlocal done
            done += nbytes
            told(done, total)

        yield advance


@contextmanager
def to_the_end(
    advance: Callable[[int], None], total: int | None
) -> Iterator[Callable[[int], None]]:
    """Give an `advance` of a part of the work that comes to its end, and never beyond it.

    For work that is known only about: what cannot be read is given up, or read again. Where
    `total` is None it is `advance` itself.
    """
    if total is None:
        yield advance
        return
    done = 0

    def step(nbytes: int) -> None:
        nonlocal done
        nbytes = min(nbytes, total - done)
        done += nbytes
        if nbytes:
            advance(nbytes)

    yield step
    step(total - done)


class _Raised(BaseException):
    """Carries what a listener raised; no `Exception`, as that would be taken for damage."""

    def __init__(self, problem: Exception) -> None:
        super().__init__(problem)
        self.problem = problem


@contextmanager
def heard(advance: Callable[[int], None]) -> Iterator[Callable[[int], None]]:
    """Give an `advance` whose own exceptions end the block, whatever catches exceptions in it."""

    def step(nbytes: int) -> None:
        try:
            advance(nbytes)
        except Exception as problem:
            raise _Raised(problem) from problem

    try:
        yield step
    except _Raised as raised:
        raise raised.problem from None
