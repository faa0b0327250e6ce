"""Child processes that are kept, asked, given up when they hang, and replaced when they end."""

import contextlib
import os
import pickle
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from . import TESTS

__all__ = ["Child", "Ended", "Pool"]

#: Seconds a child has to become ready: it imports and compiles.
_START = 300
#: Requests after which a child is replaced all the same.
_OLD = 3000


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


class Child:
    """One process of a role, started when first asked."""

    def __init__(self, role: str, folder: Path) -> None:
        self.role, self.errors = role, folder / f"{role}.err"
        self.process: subprocess.Popen | None = None
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
        assert process.stdin is not None
        process.stdin.write(pickle.dumps((what, arguments)))
        process.stdin.flush()
        while (answer := self._answer(limit)) is not None:
            if isinstance(answer, dict) and "failed" in answer:
                raise RuntimeError(answer["failed"]["trace"] or answer["failed"]["text"])
            yield answer

    def _running(self) -> subprocess.Popen:
        if self.process is None:
            paths = [str(TESTS.parent), str(TESTS), *sys.path]
            environment = {
                **os.environ,
                "PYTHONPATH": os.pathsep.join(dict.fromkeys(p for p in paths if p)),
                "DISKCSR_NUM_THREADS": "2",
                "HDF5_USE_FILE_LOCKING": "TRUE",
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
            assert self._answer(_START) == "ready"
        return self.process

    def _answer(self, limit: float) -> Any:
        head = self._bytes(8, time.monotonic() + limit)
        body = self._bytes(int.from_bytes(head, "little"), time.monotonic() + 60)
        return pickle.loads(body)

    def _bytes(self, count: int, deadline: float) -> bytes:
        assert self.process is not None
        assert self.process.stdout is not None
        out, fd = b"", self.process.stdout.fileno()
        while len(out) < count:
            ready, _, _ = select.select([fd], [], [], max(deadline - time.monotonic(), 0))
            if not ready:
                raise self._ended(hung=True)
            part = os.read(fd, count - len(out))
            if not part:
                raise self._ended(hung=False)
            out += part
        return out

    def _ended(self, hung: bool) -> Ended:
        assert self.process is not None
        if hung:
            self.process.send_signal(signal.SIGABRT)  # has it say where it is
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(5)
            self.process.kill()
        code = self.process.wait()
        trace = self.errors.read_text(errors="replace")[-4000:]
        self.close()
        name = signal.Signals(-code).name if code < 0 else f"exit {code}"
        return Ended("hang" if hung else "crash", name, trace)

    def close(self) -> None:
        """End the process, if there is one."""
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
