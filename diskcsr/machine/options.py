"""Settings of the process: how much memory a load may take, how many threads read."""

import os
import resource
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from numbers import Integral, Real
from pathlib import Path, PurePosixPath
from typing import Any

from ..errors import MemoryBudgetError

__all__ = [
    "Options", "available_memory", "format_bytes", "memory_for", "options", "require_memory",
]  # fmt: skip

#: Bytes that work from file to file takes when nothing else is said.
_USUAL = 1 << 30

_UNLIMITED = 1 << 60  # cgroup files hold a number about this large for "no limit"


def _number(name: str, least: float, kind: Any = Real) -> Any:
    """Return a property of a number that is checked when it is set."""

    def get(self: Any) -> Any:
        return getattr(self, f"_{name}")

    def put(self: Any, value: Any) -> None:
        if not isinstance(value, kind) or not least <= value < _UNLIMITED:
            what = "an integer" if kind is Integral else "a number"
            raise ValueError(f"{name} must be {what} of at least {least}, not {value!r}")
        setattr(self, f"_{name}", value)

    return property(get, put)


class Options:
    """The settings; one instance is ``diskcsr.options``.

    Attributes
    ----------
    memory_budget : int or float
        The most bytes one load may take (an int), or a fraction of the memory available when it
        begins (a float in (0, 1]; default 0.5), of which limits of control groups and of the
        process leave less. A load over it raises `MemoryBudgetError` before anything is read. The
        environment variable ``DISKCSR_MEMORY_BUDGET`` sets the default.
    memory_map : bool
        Whether parts of an uncompressed file that were read before are then copied from a memory
        map, without a system call; default true. A file that another program shortens while it is
        being read from a map ends the process (SIGBUS); set this to False where that may happen.
    map_bytes : int
        The most bytes of such maps, of all files together, that count as memory of this process;
        default 64 MiB. What was read first stays mapped, the rest is read each time. More makes
        fetching the same rows again faster, 0 maps nothing.
    cache_bytes : int
        The most bytes of decoded chunks kept for the next call (`diskcsr.cache`); default 64 MiB,
        0 keeps none.
    num_threads : int
        Threads that read and decode, for the whole process; 1 does everything in the calling
        thread. Default: the cores this process may use, or ``DISKCSR_NUM_THREADS``.
        `diskcsr.set_num_threads` sets it, too.
    progress : None, bool or callable
        True shows a bar of each sum, product, statistic, elementwise result, conversion, selection
        of columns or load that goes over a whole matrix; a function is called with bytes done and
        bytes in all; default None.
    untrusted_seconds : float
        How long a file opened with ``untrusted=True`` may be looked at; default 60.
    untrusted_bytes : int
        The most memory that may take, beyond what a process needs to begin; default 1 GiB.
    lock_timeout : float
        Seconds that opening or refreshing waits for other programs which have the file locked or
        are changing it, before it raises `LockedFileError`; default 1, 0 does not wait.
    remote_connections : int
        Requests that a file on a server is asked at a time; default 64.
    remote_latency, remote_bandwidth : float
        Seconds until a server answers, and bytes a second that come then; default 0.02 and 1e8.
        Two parts of a file are read by one request where the bytes between them would come in
        ``remote_latency / remote_connections``, which is what a request costs.
    remote_timeout : float
        Seconds after which a request counts as failed; default 30. Long ones have a second more for
        each 64 KiB.
    remote_retries : int
        How often a request that failed is made again, with pauses that grow from 0.1 s; default 4.

    Examples
    --------
    >>> import diskcsr
    >>> with diskcsr.options.set(memory_budget=10**9):
    ...     diskcsr.options.memory_limit()
    1000000000
    """

    # A setting that does not exist cannot be set: a misspelt one would do nothing.
    __slots__ = (
        "_lock_timeout",
        "_memory_budget",
        "_num_threads",
        "_remote_bandwidth",
        "_remote_connections",
        "_remote_latency",
        "_remote_retries",
        "_remote_timeout",
        "cache_bytes",
        "map_bytes",
        "memory_map",
        "progress",
        "untrusted_bytes",
        "untrusted_seconds",
    )

    def __init__(self) -> None:
        budget = _from_environment("DISKCSR_MEMORY_BUDGET", self._checked_budget)
        self._memory_budget = budget or 0.5
        self.memory_map = True
        self.map_bytes = 64 << 20
        self.cache_bytes = 64 << 20
        self.progress: Any = None
        threads = _from_environment("DISKCSR_NUM_THREADS", self._checked_threads)
        self._num_threads = threads or _usable_cores()
        self._lock_timeout = 1.0
        self.untrusted_seconds = 60.0
        self.untrusted_bytes = 1 << 30
        self.remote_connections, self.remote_retries = 64, 4
        self.remote_latency, self.remote_bandwidth = 0.02, 1e8
        self.remote_timeout = 30.0

    remote_connections = _number("remote_connections", 1, Integral)
    remote_latency = _number("remote_latency", 0)
    remote_bandwidth = _number("remote_bandwidth", 1)
    remote_timeout = _number("remote_timeout", 0.001)
    remote_retries = _number("remote_retries", 0, Integral)

    @property
    def memory_budget(self) -> int | float:
        return self._memory_budget

    @memory_budget.setter
    def memory_budget(self, value: int | float) -> None:
        self._memory_budget = self._checked_budget(value)

    @property
    def num_threads(self) -> int:
        return self._num_threads

    @num_threads.setter
    def num_threads(self, value: int) -> None:
        self._num_threads = self._checked_threads(value)

    @property
    def lock_timeout(self) -> float:
        return self._lock_timeout

    @lock_timeout.setter
    def lock_timeout(self, value: float) -> None:
        if not isinstance(value, Real) or not float(value) >= 0:
            raise ValueError(f"lock_timeout must be a number of seconds, not {value!r}")
        self._lock_timeout = float(value)

    def memory_limit(self) -> int:
        """Return the budget in bytes as it stands now."""
        if isinstance(self._memory_budget, float):
            return int(self._memory_budget * available_memory())
        return self._memory_budget

    @contextmanager
    def set(self, **settings: Any) -> Iterator["Options"]:
        """Change settings for the length of a ``with`` block."""
        before = {name: getattr(self, name) for name in settings}
        try:
            for name, value in settings.items():
                setattr(self, name, value)
            yield self
        finally:
            for name, value in before.items():
                setattr(self, name, value)

    def __repr__(self) -> str:
        names = (
            "memory_budget",
            "memory_map",
            "map_bytes",
            "cache_bytes",
            "num_threads",
            "lock_timeout",
            "progress",
            "untrusted_seconds",
            "untrusted_bytes",
            "remote_connections",
            "remote_latency",
            "remote_bandwidth",
            "remote_timeout",
            "remote_retries",
        )
        return f"Options({', '.join(f'{name}={getattr(self, name)!r}' for name in names)})"

    @staticmethod
    def _checked_budget(value: Any) -> int | float:
        if isinstance(value, Integral):
            if int(value) > 0:
                return int(value)
        elif isinstance(value, Real) and 0 < float(value) <= 1:
            return float(value)
        raise ValueError(
            "memory_budget must be a positive integer (bytes) or a fraction in (0, 1] (a float), "
            f"not {value!r}"
        )

    @staticmethod
    def _checked_threads(value: Any) -> int:
        if isinstance(value, Integral) and int(value) > 0:
            return int(value)
        raise ValueError(f"num_threads must be a positive integer, not {value!r}")


def _from_environment(name: str, checked: Callable[[Any], Any]) -> Any:
    """Return the checked number that an environment variable holds; None when it has none."""
    text = os.environ.get(name, "").strip()
    if not text:
        return None
    try:
        return checked(int(text) if text.lstrip("+-").isdecimal() else float(text))
    except ValueError as problem:
        raise ValueError(f"environment variable {name}={text!r}: {problem}") from None


def _usable_cores() -> int:
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on macOS
        return os.cpu_count() or 1


def _read_int(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None


#: Of the two versions of control groups: where the groups lie, which files hold the limit and the
#: use, and what the pages of files that the kernel would drop are called in memory.stat. Source:
#: the kernel's documents cgroup-v2 (memory.*) and cgroup-v1/memory.
_CGROUPS = {
    "": ("", "memory.max", "memory.current", ("active_file", "inactive_file")),
    "memory": (
        "memory",
        "memory.limit_in_bytes",
        "memory.usage_in_bytes",
        ("total_active_file", "total_inactive_file"),
    ),
}


def _left_in_cgroups(own: Path, root: Path) -> Iterator[int]:
    """Yield what each control group of this process with a memory limit has left of it, in bytes.

    Parameters
    ----------
    own : Path
        The file that names the groups: /proc/self/cgroup, a line of ``number:controllers:path``
        each.
    root : Path
        Where the groups are mounted. In a container that may be the container's own group.
    """
    try:
        lines = own.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        for controller in set(controllers.split(",")) & set(_CGROUPS):
            folder, limit_file, used_file, droppable = _CGROUPS[controller]
            # A limit on any group around ours is a limit on us.
            for level in (PurePosixPath(path), *PurePosixPath(path).parents):
                group = root / folder / str(level).lstrip("/")
                limit, used = _read_int(group / limit_file), _read_int(group / used_file)
                if limit is not None and used is not None and limit < _UNLIMITED:
                    yield max(limit - used + _sum_of(group / "memory.stat", droppable), 0)


def _sum_of(stat: Path, names: tuple[str, ...]) -> int:
    """Add up the named entries of a file of ``name number`` lines."""
    try:
        entries = dict(line.split() for line in stat.read_text().splitlines())
        return sum(int(entries.get(name, 0)) for name in names)
    except (OSError, ValueError):
        return 0


def _left_of_own_limits(use: Path) -> Iterator[int]:
    """Yield what this process has left of its limits on address space and on data, in bytes.

    Parameters
    ----------
    use : Path
        The file that says what it uses, in pages: /proc/self/statm. Where there is none, as on
        macOS, a limit counts whole.
    """
    try:
        pages = [int(number) for number in use.read_text().split()]
    except (OSError, ValueError):
        pages = [0] * 6
    # Which number of the file counts against which limit: size, and data with the stack (proc(5)).
    for limited, field in ((resource.RLIMIT_AS, 0), (resource.RLIMIT_DATA, 5)):
        limit, _ = resource.getrlimit(limited)
        if limit != resource.RLIM_INFINITY:
            yield max(limit - pages[field] * resource.getpagesize(), 0)


def available_memory() -> int:
    """Return the bytes this process could still take without swapping.

    The least of what the kernel says is available (proc(5)), what is left of the limits of the
    control groups (containers, batch systems), and what is left of the process's own limits
    (``ulimit -v``, ``ulimit -d``). In control groups, as in the kernel's own figure, what is in use
    only to keep parts of files that were read counts as available.
    """
    candidates = []
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                candidates.append(int(line.split()[1]) * 1024)
    except OSError:
        pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        candidates.append(pages // 2)
    candidates += _left_in_cgroups(Path("/proc/self/cgroup"), Path("/sys/fs/cgroup"))
    candidates += _left_of_own_limits(Path("/proc/self/statm"))
    return min(candidates)


def format_bytes(n: int | float) -> str:
    """Return a byte count for people.

    >>> format_bytes(999), format_bytes(12_700_000)
    ('999 B', '12.7 MB')
    """
    for unit in ("B", "kB", "MB", "GB"):
        if n < 1000:
            return f"{n:.0f} {unit}" if unit == "B" else f"{n:.1f} {unit}"
        n /= 1000
    return f"{n:.1f} TB"


options = Options()

_RECHECK = 0.2  # seconds for which an answer of the kernel is believed
_available = (-1.0, 0)  # when it was asked, and what it said


def _surely_fits(nbytes: int) -> bool:
    """Whether a load is so small that the available memory need not be asked for again.

    Asking takes as long as fetching a hundred rows.
    """
    global _available
    now = time.monotonic()
    if now - _available[0] > _RECHECK:
        _available = (now, available_memory())
    return nbytes < options.memory_budget * _available[1] / 16


def require_memory(nbytes: int, what: str, instead: str) -> None:
    """Refuse a load that does not fit the budget.

    Parameters
    ----------
    nbytes : int
        Bytes it would take.
    what : str
        What is loaded, for the message.
    instead : str
        What to do instead, for the message.

    Raises
    ------
    MemoryBudgetError
        A `MemoryError`; nothing was read.
    """
    if isinstance(options.memory_budget, float) and _surely_fits(nbytes):
        return
    limit = options.memory_limit()
    if nbytes > limit:
        raise MemoryBudgetError(
            f"{what} takes {format_bytes(nbytes)} ({nbytes} bytes), over the memory budget of "
            f"{format_bytes(limit)} ({limit} bytes; diskcsr.options.memory_budget = "
            f"{options.memory_budget}). {instead}"
        )


def memory_for(max_memory: int | None, least: int, what: str) -> int:
    """Return the bytes that work from file to file may take.

    Parameters
    ----------
    max_memory : int or None
        What the user said. None: 1 GiB, or the budget where that is less.
    least : int
        What it takes at least.
    what : str
        How messages call it.

    Raises
    ------
    ValueError
        When `max_memory` is too little.
    MemoryBudgetError
        When the budget is.
    """
    if max_memory is None:
        require_memory(least, what, "Raise the budget.")
        return max(least, min(options.memory_limit(), _USUAL))
    if max_memory < least:
        raise ValueError(
            f"max_memory is {max_memory} bytes, but {what} takes at least {least} "
            f"({format_bytes(least)})"
        )
    return int(max_memory)
