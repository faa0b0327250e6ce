"""Threads of BLAS, which is not ours to set up."""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from ..loading import load
from ..machine.interrupts import deferred

__all__ = ["one_blas_thread"]

_lock = threading.Lock()
#: How many blocks are under way, in whichever threads, and what takes their limit back.
_users, _limit = 0, None


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """Have BLAS work in one thread, where threadpoolctl is installed; scikit-learn brings it.

    Of matrices of some hundred columns more threads gain little, and OpenBLAS's wait for each other
    by spinning: beside one other busy process they take many times as long. The limit is that of
    the process: the last of several threads that are in such a block takes it back.
    """
    global _users, _limit
    entered = False
    try:
        with deferred(), _lock:  # signals are handled at its end
            entered, _users = True, _users + 1
            if _users == 1:
                _limit = _limited()
        yield
    finally:
        with deferred(), _lock:
            _users = max(0, _users - entered)
            if not _users and _limit is not None:
                with suppress(Exception):
                    _limit.restore_original_limits()
                _limit = None


def _limited() -> Any:
    """Set the limit; None where there is nothing to do it with, which costs nothing but time."""
    try:
        return load("threadpoolctl").ThreadpoolController().limit(limits=1, user_api="blas")
    except Exception:
        return None


def _in_child() -> None:
    """In a forked child of these threads the one that forked goes on, at most."""
    global _lock, _users, _limit
    _lock, _users = threading.Lock(), 0
    if _limit is not None:
        with suppress(Exception):
            _limit.restore_original_limits()
        _limit = None


os.register_at_fork(after_in_child=_in_child)
