"""Signs of life of a process that looks at untrusted files: when they stay away, it ends.

HDF5 may go round in circles in a damaged file, where no Python code runs and no lock is let go. The
kernel's own timer ends such a process; every step forward winds it up again.
"""

import signal
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["alive", "limit_silence", "limit_time", "waiting"]

_limit = 0.0


def limit_silence(seconds: float) -> None:
    """Have this process end by SIGALRM that many seconds after the last sign of life; 0: never."""
    global _limit
    _limit = seconds
    if seconds:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)  # no Python code could run by then
    signal.setitimer(signal.ITIMER_REAL, seconds)


def limit_time(seconds: float) -> None:
    """Have this process end by SIGALRM after so many seconds, whatever it does meanwhile."""
    limit_silence(seconds)
    global _limit
    _limit = 0.0  # signs of life then wind nothing up


def alive() -> None:
    """Say that there is progress; nothing happens where nobody asked for signs of life."""
    if _limit:
        signal.setitimer(signal.ITIMER_REAL, _limit)


@contextmanager
def waiting() -> Iterator[None]:
    """Expect no sign of life while the block runs, which is sure to end."""
    if _limit:
        signal.setitimer(signal.ITIMER_REAL, 0)
    yield
    alive()
