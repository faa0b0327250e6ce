"""What shows how far a long call is: a bar of rich's or of tqdm's, or lines of text."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any, TypeAlias

from .options import format_bytes

__all__ = ["Tell", "bar"]

#: A function of the bytes done and the bytes in all.
Tell: TypeAlias = Callable[[int, int | None], object]

#: Seconds between two pictures of a bar: people see no more.
_PICTURE = 0.1
#: Seconds until the first line where lines are kept, as in the log of a job: short calls need none.
_PATIENCE = 10.0


@contextmanager
def bar(what: str) -> Iterator[Tell]:
    """Show how far something is, on standard error, until the block ends.

    In a notebook by tqdm, on a terminal by rich or tqdm, whichever is installed, or else by a line
    that is written over. Elsewhere a line is printed now and then, and none in the first seconds.

    Parameters
    ----------
    what : str
        What is done, as "checking".
    """
    shown = _choose(what)
    try:
        yield shown.tell
    finally:
        shown.close()


def _choose(what: str) -> Any:
    if _in_notebook() and find_spec("tqdm") is not None:
        return _Tqdm(what)
    if sys.stderr is None or not sys.stderr.isatty():
        return _Lines(what)
    if find_spec("rich") is not None:
        return _Rich(what)
    return _Line(what) if find_spec("tqdm") is None else _Tqdm(what)


def _in_notebook() -> bool:
    """Whether cells of a notebook are what runs: the shell of IPython then has a kernel."""
    ipython = sys.modules.get("IPython")
    shell = None if ipython is None else ipython.get_ipython()
    return getattr(shell, "kernel", None) is not None


class _Rich:
    """A bar of rich's, which goes away at the end. It has no thread of its own here."""

    def __init__(self, what: str) -> None:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            DownloadColumn,
            Progress,
            TaskProgressColumn,
            TextColumn,
            TimeRemainingColumn,
        )

        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TaskProgressColumn(),
            DownloadColumn(),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            auto_refresh=False,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._task = self._bar.add_task(what, total=None)
        self._next = 0.0
        self._bar.start()

    def tell(self, done: int, total: int | None) -> None:
        self._bar.update(self._task, completed=done, total=total)
        if time.monotonic() >= self._next or done == total:
            self._bar.refresh()
            self._next = time.monotonic() + _PICTURE

    def close(self) -> None:
        self._bar.stop()


class _Tqdm:
    """A bar of tqdm's; that of notebooks in a notebook."""

    def __init__(self, what: str) -> None:
        from tqdm.auto import tqdm

        self._bar = tqdm(desc=what, unit="B", unit_scale=True)

    def tell(self, done: int, total: int | None) -> None:
        if total != self._bar.total:
            self._bar.total = total
            self._bar.refresh()
        self._bar.update(done - self._bar.n)

    def close(self) -> None:
        self._bar.close()


def _said(what: str, done: int, total: int | None) -> str:
    """Say how far something is.

    >>> _said("checking", 500, 2000), _said("writing", 500, None)
    ('checking: 25 % of 2.0 kB', 'writing: 500 B')
    """
    if total:
        return f"{what}: {100 * done // total} % of {format_bytes(total)}"
    return f"{what}: {format_bytes(done)}"


class _Line:
    """One line of a terminal that is written over, and removed at the end."""

    def __init__(self, what: str) -> None:
        self._what, self._next = what, 0.0

    def tell(self, done: int, total: int | None) -> None:
        if time.monotonic() >= self._next or done == total:
            self._print(_said(self._what, done, total)[:78])
            self._next = time.monotonic() + _PICTURE

    def close(self) -> None:
        self._print("")

    @staticmethod
    def _print(text: str) -> None:
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)


class _Lines:
    """Lines that stay, the fewer the longer it takes; a short call has none."""

    def __init__(self, what: str) -> None:
        self._what, self._last = what, ""
        self._began: float | None = None
        self._next = 0.0

    def tell(self, done: int, total: int | None) -> None:
        now = time.monotonic()
        if self._began is None:
            self._began, self._next = now, now + _PATIENCE
        # Who has seen how far it was wants to see that it came to its end, and nobody else.
        if not self._last if done == total else now < self._next:
            return
        said = _said(self._what, done, total)
        if said != self._last and sys.stderr is not None:
            print(said, file=sys.stderr, flush=True)
            self._last = said
        self._next = now + max(_PATIENCE, (now - self._began) / 10)

    def close(self) -> None:
        pass
