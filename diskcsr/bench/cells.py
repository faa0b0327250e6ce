"""A cell of the table as seen from outside: its process, asked for one repeat at a time."""

import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import Any

import numpy as np

__all__ = ["Cell", "take_turns"]

LONGEST = 1.0  # seconds of one cell's repeats after which it stops, once it has two of them
TURN = 5  # repeats in one turn, so that most find processor and threads awake, as in a loop


class Cell:
    """One operation of one peer in a fresh process; whatever happens there becomes a result.

    Parameters
    ----------
    job : dict
        What `diskcsr.bench.measure` is told.
    timeout : float
        Seconds that all of it may take, waiting for other cells not counted.

    Attributes
    ----------
    result : dict
        With "status": "ready" while it can be repeated, then "ok"; or "n/a", "memory", "wrong",
        "failed" or "timeout", and what belongs to it.
    """

    def __init__(self, job: dict[str, Any], timeout: float) -> None:
        self.result: dict[str, Any] = {}
        self._timeout = self._left = timeout
        self._all: list[float] = []
        self._read: list[int] = []
        self._errors = tempfile.TemporaryFile("w+", errors="replace")  # noqa: SIM115 - closed below
        self._process = subprocess.Popen(
            [sys.executable, "-m", "diskcsr.bench.measure"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors, text=True,
        )  # fmt: skip
        self._answers: SimpleQueue[str] = SimpleQueue()
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()
        self._tell(json.dumps(job))

    def _listen(self) -> None:
        stdout: Any = self._process.stdout
        with stdout:
            for line in stdout:
                self._answers.put(line)
        self._answers.put("")

    def _tell(self, line: str) -> None:
        stdin: Any = self._process.stdin
        with suppress(BrokenPipeError):  # it has ended, and will be found to have
            stdin.write(line + "\n")
            stdin.flush()

    def _answer(self) -> dict[str, Any]:
        began = time.monotonic()
        try:
            line = self._answers.get(timeout=max(0.0, self._left))
        except Empty:
            return {"status": "timeout", "why": f"no answer within {self._timeout:g} s"}
        self._left -= time.monotonic() - began
        try:
            return dict(json.loads(line))
        except ValueError:
            code = self._process.wait()
            self._errors.seek(0)
            lines = self._errors.read().strip().splitlines() or [f"exit code {code}"]
            return {"status": "failed", "why": lines[-1][:300]}

    @property
    def ready(self) -> bool:
        """Whether it can be asked for another repeat."""
        return self.result.get("status") == "ready"

    def wants(self, repeat: int) -> bool:
        """Whether there is a repeat to go, and it is worth its time."""
        count = len(self._all)
        return self.ready and count < repeat and (count < 2 or sum(self._all) < LONGEST)

    def begin(self) -> None:
        """Wait until its answer has been checked."""
        self.result = self._answer()

    def once(self) -> None:
        """Have the operation done once."""
        self._tell("again")
        answer = self._answer()
        if "status" in answer:
            self.result = answer
            return
        self._all.append(answer["seconds"])
        if answer["read"] is not None:
            self._read.append(answer["read"])

    def end(self) -> dict[str, Any]:
        """Let the process end; return the result."""
        if self.ready:
            stdin: Any = self._process.stdin
            stdin.close()
            answer = self._answer()
            self.result = answer if "status" in answer else {
                "status": "ok",
                "median": float(np.median(self._all)),
                "all": self._all,
                "read": int(np.median(self._read)) if self._read else None,
                **answer,
            }  # fmt: skip
        self.close()
        return self.result

    def close(self) -> None:
        """End the process, whatever it does."""
        self._process.kill()
        self._process.wait()
        self._listener.join(1)
        self._errors.close()
        stdin: Any = self._process.stdin
        with suppress(BrokenPipeError):  # of a line that was never read
            stdin.close()


def take_turns(cells: Sequence[Cell], repeat: int) -> None:
    """Have each cell measure `repeat` times, a few at a time, in an order that rotates.

    So whatever else the machine does meets all of them alike, and ratios hold where times do not.
    Only the checks before it, which nobody times, run side by side.
    """
    for cell in cells:
        cell.begin()
    for turn in range(-(-repeat // TURN)):
        first = turn % len(cells) if cells else 0
        for cell in (*cells[first:], *cells[:first]):
            for _ in range(TURN):
                if cell.wants(repeat):
                    cell.once()
