"""Extents of a remote file on their way: asked for ahead, some at a time, and given out in turn."""

import threading
from concurrent.futures import CancelledError, Future
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ...machine.options import options
from .extents import Requests, plan_requests, waves

if TYPE_CHECKING:
    from .remote import Remote

__all__ = ["LONGEST", "Download"]

#: Bytes of the longest request: longer stretches come over several connections.
LONGEST = 4 << 20
#: Bytes that are asked for together, and that may be on their way or here and not used yet.
_WAVE, _AHEAD = 4 << 20, 32 << 20


@dataclass
class _Wave:
    """Some extents that are asked for together."""

    requests: Requests
    future: "Future[list[bytes]]"
    nbytes: int
    left: int  # extents not given out yet


class Download:
    """Reads extents of a remote file, those that are used soon before they are asked for.

    Parameters
    ----------
    remote : Remote
    offset, nbytes : (e,) int64 array
        The extents, in the order in which they are used.

    Notes
    -----
    Peak memory: 32 MiB beside what is given out, and what is asked for together: 4 MiB, or an
    extent that is longer; however much is read in all.
    """

    def __init__(self, remote: "Remote", offset: np.ndarray, nbytes: np.ndarray) -> None:
        self._remote = remote
        self._offset, self._sizes = offset, nbytes
        self._edges = waves(nbytes, _WAVE)
        self._lock = threading.Lock()
        self._under_way: dict[int, _Wave] = {}
        self._begun = 0  # waves
        #: What ended it.
        self._problem: BaseException | None = None
        # Requests cost their share of the latency: the others go on meanwhile.
        seconds = options.remote_latency / options.remote_connections
        self._max_gap = int(options.remote_bandwidth * seconds)
        with self._lock:
            self._ask_ahead()

    def _ask_ahead(self, wanted: int = 0) -> None:
        """Begin waves up to `wanted`, and beyond as far as there is room."""
        while self._begun + 1 < self._edges.size:
            held = sum(wave.nbytes for wave in self._under_way.values())
            if self._begun > wanted and held >= _AHEAD:
                return
            some = slice(self._edges[self._begun], self._edges[self._begun + 1])
            plan = plan_requests(
                self._offset[some], self._sizes[some], max_gap=self._max_gap, longest=LONGEST
            )
            ranges = list(zip(plan.lo.tolist(), plan.hi.tolist(), strict=True))
            future = self._remote.begin(ranges)
            nbytes = int((plan.hi - plan.lo).sum())
            self._under_way[self._begun] = _Wave(plan, future, nbytes, some.stop - some.start)
            self._begun += 1

    def read(self, extent: int) -> memoryview:
        """Return the bytes of an extent, each of them once.

        Raises
        ------
        StaleFileError, RemoteError
            As `Remote.read` does.
        """
        number = int(np.searchsorted(self._edges, extent, side="right")) - 1
        with self._lock:
            self._ask_ahead(number)
            wave = self._under_way[number]
        try:
            answers = self._remote.wait(wave.future)
        except BaseException as problem:
            self.cancel(problem)
            if isinstance(problem, CancelledError) and self._problem is not None:
                raise self._problem from None  # by another thread, which found out why
            raise
        which = int(wave.requests.request[extent - self._edges[number]])
        at = int(self._offset[extent] - wave.requests.lo[which])
        with self._lock:
            wave.left -= 1
            if not wave.left:
                self._under_way.pop(number, None)
                self._ask_ahead()
        return memoryview(answers[which])[at : at + int(self._sizes[extent])]

    def __del__(self) -> None:
        self.cancel()  # what nobody waits for any more, as when what came first was damaged

    def cancel(self, problem: BaseException | None = None) -> None:
        """Ask for nothing more; who still waits is told of the first `problem` there was."""
        with self._lock:
            self._problem = self._problem or problem
            for wave in self._under_way.values():
                wave.future.cancel()
