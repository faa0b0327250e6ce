"""Child processes that are kept, asked, given up when they hang, and replaced when they end."""

import os
import pickle
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import TESTS

__all__ = ["Child", "Ended", "Over", "Pool"]

#: Seconds a child has to become ready: it imports and compiles.
_START = 300
#: Requests after which a child is replaced all the same.
_OLD = 3000


#: What nobody wrote is never the same by chance, where glibc can see to it; and that h5py alone
#: writes behind the end of its memory is seen at once.
_MEMORY = (
    {"GLIBC_TUNABLES": "glibc.malloc.perturb=165"},
    {
        "GLIBC_TUNABLES": "glibc.malloc.perturb=90:glibc.malloc.check=3",
        "LD_PRELOAD": "libc_malloc_debug.so.0",
    },
)


class Ended(Exception):
    """A child ended, or was ended, before it answered.

    Attributes
    ----------
    how : str
        "crash" or "hang".
    signal : str
        What ended it.
    trace : str
        Where it was, as far as Python knows.
    """

    def __init__(self, how: str, signal: str, trace: str) -> None:
        self.how, self.signal, self.trace = how, signal, trace
        super().__init__(f"{how} ({signal})")


@dataclass(frozen=True)
class Over:
    """Sent in place of an answer: the worker ended, of a signal, and there is another."""

    signal: str
    successor: int


class Child:
    """One process of a role, started when first asked.

    It is warm, and forks the one that does the work: when that ends there is another at once.
    """

    def __init__(self, role: str, folder: Path) -> None:
        self.role, self.errors = role, folder / f"{role}.err"
        self.process: subprocess.Popen | None = None
        self.worker = 0
        self.asked = 0

    def ask(self, what: str, *arguments: Any, limit: float) -> Iterator[Any]:
        """Yield the answers; each may take `limit` seconds.

        Raises
        ------
        Ended
            When it crashed or hung.
        RuntimeError
            When the campaign's own code failed in it.
        """
        if self.asked >= _OLD:
            self.close()
        process = self._running()
        self.asked += 1
        begin = self.errors.stat().st_size
        assert process.stdin is not None
        process.stdin.write(pickle.dumps((what, arguments)))
        process.stdin.flush()
        whole = False
        try:
            while (answer := self._answer(limit, begin)) is not None:
                if isinstance(answer, dict) and "failed" in answer:
                    whole = True
                    raise RuntimeError(answer["failed"]["trace"] or answer["failed"]["text"])
                yield answer
            whole = True
        except Ended:
            whole = True
            raise
        finally:
            if not whole:  # what is still to come would be taken for answers to something else
                self.close()

    def _running(self) -> subprocess.Popen:
        if self.process is None:
            paths = [str(TESTS.parent), str(TESTS), *sys.path]
            environment = {
                **os.environ,
                "PYTHONPATH": os.pathsep.join(dict.fromkeys(p for p in paths if p)),
                "DISKCSR_NUM_THREADS": "2",
                "HDF5_USE_FILE_LOCKING": "TRUE",
                **_MEMORY[self.role == "honest"],
            }
            with self.errors.open("wb") as errors:
                self.process = subprocess.Popen(
                    [sys.executable, "-m", "campaign.child", self.role],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=errors,
                    env=environment,
                )
            self.asked = 0
            self.worker = self._message(_START)
        return self.process

    def _answer(self, limit: float, begin: int) -> Any:
        """Return an answer of the worker; raise `Ended` when it gives none."""
        try:
            answer = self._message_in_time(limit)
        except TimeoutError:
            hung = True
            os.kill(self.worker, signal.SIGABRT)  # has it say where it is
            try:
                answer = self._message(5)
            except TimeoutError:
                os.kill(self.worker, signal.SIGKILL)
                answer = self._message(60)
        else:
            hung = False
        if not isinstance(answer, Over):
            return answer
        self.worker = answer.successor
        with self.errors.open(errors="replace") as file:
            file.seek(begin)
            trace = file.read(6000)
        raise Ended("hang" if hung else "crash", answer.signal, trace)

    def _message_in_time(self, limit: float) -> Any:
        """Wait for a message while the worker has not had `limit` seconds of a processor.

        On a busy machine that takes a while; but it need not work at all to hang.
        """
        begin, end = self._seconds_worked(), time.monotonic() + 4 * limit
        while True:
            left = limit - (self._seconds_worked() - begin)
            try:
                return self._message(min(max(left, 0.5), max(end - time.monotonic(), 0)))
            except TimeoutError:
                if left <= 0 or time.monotonic() >= end:
                    raise

    def _seconds_worked(self) -> float:
        try:
            text = Path(f"/proc/{self.worker}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            return 0.0
        return sum(map(int, text[11:13])) / os.sysconf("SC_CLK_TCK")

    def _message(self, limit: float) -> Any:
        deadline = time.monotonic() + limit
        head = self._bytes(8, deadline)
        return pickle.loads(self._bytes(int.from_bytes(head, "little"), deadline + 60))

    def _bytes(self, count: int, deadline: float) -> bytes:
        assert self.process is not None
        assert self.process.stdout is not None
        out, fd = b"", self.process.stdout.fileno()
        while len(out) < count:
            ready, _, _ = select.select([fd], [], [], max(deadline - time.monotonic(), 0))
            if not ready:
                raise TimeoutError(self.role)
            part = os.read(fd, count - len(out))
            if not part:
                text = self.errors.read_text(errors="replace")[-4000:]
                self.close()
                raise RuntimeError(f"the process of the {self.role} ended: {text}")
            out += part
        return out

    def close(self) -> None:
        """End the process, if there is one, and with it its worker."""
        if self.process is not None:
            self.process.kill()
            self.process.communicate()
            self.process = None


class Pool:
    """The children of one job, one of each role."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._children: dict[str, Child] = {}

    def __getitem__(self, role: str) -> Child:
        if role not in self._children:
            self._children[role] = Child(role, self.folder)
        return self._children[role]

    def close(self) -> None:
        for child in self._children.values():
            child.close()
