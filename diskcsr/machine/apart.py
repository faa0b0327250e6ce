"""Work on files that may crash or hang HDF5, done in a process that may end of it."""

import ctypes
import os
import pickle
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..errors import DiskCSRError
from .alive import limit_silence, limit_time

__all__ = ["Ended", "run_apart"]

_PR_SET_PDEATHSIG = 1  # prctl(2)
#: Seconds that a process may take to begin, on a machine that is busy.
_START = 60

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
        Whether it was ended because it made no progress, or took too long.
    """

    def __init__(self, number: int) -> None:
        try:
            self.signal = signal.Signals(number).name
        except ValueError:
            self.signal = f"signal {number}"
        self.silent = number == signal.SIGALRM
        super().__init__(self.signal)


def run_apart(
    function: Callable[..., Any],
    *args: Any,
    silence: float = 0,
    seconds: float = 0,
    memory: int = 0,
) -> Any:
    """Call a function of a module in a process of its own, and return what it returns.

    The process ends with this one.

    Parameters
    ----------
    function : callable
    *args
        Its arguments.
    silence : float
        It is ended when it gives no sign of life for so many seconds; 0: however long.
    seconds : float
        It is ended after so many seconds, whatever it does; 0: never.
    memory : int
        Bytes it may ask the system for, beyond what it has when it begins; 0: as many as there are.

    Raises
    ------
    Ended
        When a signal ended the process.
    MemoryError
        When it needed more than `memory`.
    Exception
        Whatever the function raises.
    """
    limits = silence, seconds, memory
    told = pickle.dumps(sys.path) + pickle.dumps((function, args, limits, os.getpid()))
    command = [sys.executable, "-c", _CHILD]
    try:
        # It ends by itself; this is for what it does before it has set its timer.
        patience = 2 * seconds + _START if seconds else None
        run = subprocess.run(command, input=told, capture_output=True, timeout=patience)
    except subprocess.TimeoutExpired as problem:
        raise Ended(signal.SIGALRM) from problem
    if run.returncode < 0:
        raise Ended(-run.returncode)
    if run.returncode:
        last = run.stderr.decode("utf-8", "replace").strip().rpartition("\n")[2]
        raise DiskCSRError(f"the process that was to look at files failed: {last}")
    returned, outcome = pickle.loads(run.stdout)
    if not returned:
        raise outcome
    return outcome


def _serve(
    function: Callable[..., Any], args: tuple, limits: tuple[float, float, int], parent: int
) -> None:
    """Do in the process apart what `run_apart` was asked for."""
    if sys.platform == "linux":
        # By a signal, as HDF5 keeps Python from running. It is sent, too, when the thread ends that
        # started this process; but that one waits for it.
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        return  # it ended meanwhile
    silence, seconds, memory = limits
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    if memory:
        limit_memory(memory)
    limit_time(seconds) if seconds else limit_silence(silence)
    try:
        outcome = True, function(*args)
    except MemoryError:
        outcome = False, MemoryError()  # without the frames that hold what there was too much of
    except Exception as problem:
        outcome = False, problem
    limit_silence(0)
    sys.stdout.buffer.write(_packed(outcome))


def _packed(outcome: tuple[bool, Any]) -> bytes:
    """Pickle an outcome so that it can be read, whatever was raised."""
    packed = pickle.dumps(outcome)
    try:
        pickle.loads(packed)
    except TypeError:  # an exception that is not made of its message alone
        packed = pickle.dumps((False, DiskCSRError(f"{type(outcome[1]).__name__}: {outcome[1]}")))
    return packed


def limit_memory(nbytes: int) -> None:
    """Have the system refuse this process more than so many bytes beyond what it has now."""
    if sys.platform != "linux":
        return  # only there it is known what it has
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + nbytes
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    if hard == resource.RLIM_INFINITY or most < hard:
        resource.setrlimit(resource.RLIMIT_AS, (most, hard))
