"""Work on files that may crash or hang HDF5, done in a process that may end of it."""

import ctypes
import os
import pickle
import resource
import select
import signal
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..errors import DiskCSRError
from .alive import limit_silence, limit_time
from .bars import Tell

__all__ = ["Ended", "run_apart"]

_PR_SET_PDEATHSIG = 1  # prctl(2)
#: Seconds that a process may take to begin, on a machine that is busy.
_START = 60
#: What a process tells of its progress: bytes done and bytes in all, -1 where nobody knows. A pipe
#: takes as few bytes as these as a whole or not at all.
_TOLD = struct.Struct("<qq")
#: Seconds between two of these.
_PACE = 0.05

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
    tell: Tell | None = None,
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
    tell : callable, optional
        Is told, by this thread, of bytes done and bytes in all: the function gets something to
        tell as its keyword `progress`. Numbers alone come through, and those that are none are
        dropped: who sends them may be damaged.

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

    def order(pipe: int | None) -> bytes:
        work = function, args, limits, os.getpid(), pipe
        return pickle.dumps(sys.path) + pickle.dumps(work)

    command = [sys.executable, "-c", _CHILD]
    try:
        # It ends by itself; this is for what it does before it has set its timer.
        patience = 2 * seconds + _START if seconds else None
        if tell is None:
            run = subprocess.run(command, input=order(None), capture_output=True, timeout=patience)
        else:
            run = _listen(command, order, patience, tell)
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


def _listen(
    command: list[str], order: Callable[[int], bytes], patience: float | None, tell: Tell
) -> "subprocess.CompletedProcess[bytes]":
    """Do what `subprocess.run` does, and pass on meanwhile what the process tells.

    Another thread waits for the process, which this one started: it ends with its thread.
    """
    reading, writing = os.pipe()
    found: list[tuple[bytes, bytes] | BaseException] = []

    def wait(process: "subprocess.Popen[bytes]") -> None:
        try:
            found.append(process.communicate(order(writing), timeout=patience))
        except BaseException as problem:
            found.append(problem)
            process.kill()

    with open(reading, "rb", buffering=0) as pipe:
        try:
            process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                pass_fds=(writing,),
            )
        finally:
            os.close(writing)
        with process:
            waiting = threading.Thread(target=wait, args=(process,), daemon=True)
            try:
                waiting.start()
                _pass_on(pipe, waiting, tell)
                waiting.join()
            except BaseException:
                process.kill()
                raise
            finally:
                if waiting.ident is not None:
                    waiting.join()
    if isinstance(found[0], BaseException):
        raise found[0]
    return subprocess.CompletedProcess(command, process.returncode, *found[0])


def _pass_on(pipe: Any, waiting: threading.Thread, tell: Tell) -> None:
    """Tell what comes through a pipe until its other end is closed."""
    left, before = b"", 0
    ready = select.poll()  # select.select takes no descriptors above 1,023
    ready.register(pipe, select.POLLIN)
    while True:
        if not ready.poll(500):
            if not waiting.is_alive():
                return
            continue
        some = pipe.read(1 << 16)
        if not some:
            return
        left += some
        end = len(left) - len(left) % _TOLD.size
        if end:
            # Who sends faster than this reads is told of once.
            done, total = _TOLD.unpack(left[end - _TOLD.size : end])
            left = left[end:]
            if before <= done and (total == -1 or done <= total):
                before = done
                tell(done, None if total == -1 else total)


def _teller(pipe: int) -> Tell:
    """Give a function that sends numbers through a pipe, and waits for nobody to read them."""
    os.set_blocking(pipe, False)
    due = 0.0

    def tell(done: int, total: int | None) -> None:
        nonlocal due
        now = time.monotonic()
        if now < due and done != total:
            return
        due = now + _PACE
        with suppress(OSError):  # the pipe is full, or nobody is there any more
            os.write(pipe, _TOLD.pack(done, -1 if total is None else total))

    return tell


def _serve(
    function: Callable[..., Any],
    args: tuple,
    limits: tuple[float, float, int],
    parent: int,
    pipe: int | None,
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
    more = {} if pipe is None else {"progress": _teller(pipe)}
    try:
        outcome = True, function(*args, **more)
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
