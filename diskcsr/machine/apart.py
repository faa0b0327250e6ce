"""Work on files that may crash or hang HDF5, done in a process that may end of it."""

import ctypes
import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Callable
from typing import Any

from ..errors import DiskCSRError
from .alive import limit_silence

__all__ = ["Ended", "run_apart"]

_PR_SET_PDEATHSIG = 1  # prctl(2)

#: What the process does at first: it is told where modules are.
_CHILD = f"""
import pickle, sys
sys.path[:] = pickle.load(sys.stdin.buffer)
from {__name__} import _serve
_serve(*pickle.load(sys.stdin.buffer))
"""


class Ended(Exception):
    """The process ended before its work did.

    Attributes
    ----------
    signal : str
        Name of the signal that ended it.
    silent : bool
        Whether it was ended because it made no progress.
    """

    def __init__(self, number: int) -> None:
        try:
            self.signal = signal.Signals(number).name
        except ValueError:
            self.signal = f"signal {number}"
        self.silent = number == signal.SIGALRM
        super().__init__(self.signal)


def run_apart(function: Callable[..., Any], *args: Any, silence: float) -> Any:
    """Call a function of a module in a process of its own, and return what it returns.

    The process ends with this one, and when it gives no sign of life for `silence` seconds.

    Raises
    ------
    Ended
        When a signal ended the process.
    Exception
        Whatever the function raises.
    """
    told = pickle.dumps(sys.path) + pickle.dumps((function, args, silence, os.getpid()))
    run = subprocess.run([sys.executable, "-c", _CHILD], input=told, capture_output=True)
    if run.returncode < 0:
        raise Ended(-run.returncode)
    if run.returncode:
        last = run.stderr.decode("utf-8", "replace").strip().rpartition("\n")[2]
        raise DiskCSRError(f"the process that was to look at files failed: {last}")
    returned, outcome = pickle.loads(run.stdout)
    if not returned:
        raise outcome
    return outcome


def _serve(function: Callable[..., Any], args: tuple, silence: float, parent: int) -> None:
    """Do in the process apart what `run_apart` was asked for."""
    if sys.platform == "linux":
        # By a signal, as HDF5 keeps Python from running. It is sent, too, when the thread ends that
        # started this process; but that one waits for it.
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        return  # it ended meanwhile
    limit_silence(silence)
    try:
        outcome = True, function(*args)
    except Exception as problem:
        outcome = False, problem
    limit_silence(0)
    sys.stdout.buffer.write(pickle.dumps(outcome))
