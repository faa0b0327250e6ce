"""The settings of the process, and the guard that keeps loads within the memory budget."""

import json
import os
import re
import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from scipy.sparse import csr_array

import diskcsr
from diskcsr import options as exported
from diskcsr.machine.options import (
    Options,
    _left_in_cgroups,
    _left_of_own_limits,
    available_memory,
    format_bytes,
    options,
    require_memory,
)

# ``diskcsr.options`` is the instance; this is where it comes from.
module = sys.modules["diskcsr.machine.options"]
ROOT = Path(diskcsr.__file__).resolve().parent.parent
GB = 10**9


def test_there_is_one_instance():
    assert diskcsr.options is exported is options
    assert isinstance(options, Options)


def test_defaults(monkeypatch):
    for name in ("DISKCSR_MEMORY_BUDGET", "DISKCSR_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    fresh = Options()
    assert fresh.memory_budget == 0.5
    assert fresh.memory_map is True
    assert fresh.map_bytes == 64 << 20
    assert fresh.num_threads == len(os.sched_getaffinity(0))
    threads = fresh.num_threads
    assert repr(fresh) == (
        "Options(memory_budget=0.5, memory_map=True, map_bytes=67108864, cache_bytes=67108864, "
        f"num_threads={threads}, lock_timeout=1.0, progress=None, "
        "untrusted_seconds=60.0, untrusted_bytes=1073741824, remote_connections=64, "
        "remote_latency=0.02, remote_bandwidth=100000000.0, remote_timeout=30.0, "
        "remote_retries=4)"
    )


@pytest.mark.parametrize(
    ("name", "bad"),
    [
        *(("remote_connections", bad) for bad in (0, 1.5, "4", None)),
        *(("remote_retries", bad) for bad in (-1, 2.5)),
        *(("remote_latency", bad) for bad in (-1, float("nan"), float("inf"), "fast")),
        *(("remote_bandwidth", bad) for bad in (0, float("inf"))),
        *(("remote_timeout", bad) for bad in (0, -3, None)),
    ],
)
def test_numbers_of_remote_files_that_make_no_sense(name, bad):
    before = getattr(options, name)
    with pytest.raises(ValueError, match=rf"{name} must be an? (integer|number) .* not {bad!r}"):
        setattr(options, name, bad)
    assert getattr(options, name) == before


def test_the_representation_shows_every_setting():
    settings = [name.removeprefix("_") for name in Options.__slots__]
    assert sorted(re.findall(r"(\w+)=", repr(options))) == sorted(settings)
    with options.set(memory_budget=10**9, memory_map=False, cache_bytes=0, num_threads=3):
        assert repr(options) == (
            "Options(memory_budget=1000000000, memory_map=False, map_bytes=67108864, "
            "cache_bytes=0, num_threads=3, lock_timeout=1.0, progress=None, "
            "untrusted_seconds=60.0, untrusted_bytes=1073741824, remote_connections=64, "
            "remote_latency=0.02, remote_bandwidth=100000000.0, remote_timeout=30.0, "
            "remote_retries=4)"
        )


def test_the_number_of_threads_is_one_truth():
    before = options.num_threads
    with options.set(num_threads=5):
        diskcsr.set_num_threads(3)
        assert options.num_threads == diskcsr.options.num_threads == 3
        options.num_threads = 2
        assert "num_threads=2" in repr(options)
    assert options.num_threads == before


# ------------------------------------------------------------------------------------ the budget


@pytest.mark.parametrize("value", [1, 10**12, np.int32(5), np.uint64(2**40)])
def test_a_budget_in_bytes(value):
    with options.set(memory_budget=value):
        assert options.memory_budget == options.memory_limit() == value
        assert type(options.memory_budget) is type(options.memory_limit()) is int


@pytest.mark.parametrize("value", [0.5, 1.0, 1e-9, np.float64(0.25), np.float32(0.25)])
def test_a_budget_that_is_a_fraction(value, monkeypatch):
    monkeypatch.setattr(module, "available_memory", lambda: 8 * GB)
    with options.set(memory_budget=value):
        assert options.memory_budget == value
        assert type(options.memory_budget) is float
        assert options.memory_limit() == int(float(value) * 8 * GB)
        assert type(options.memory_limit()) is int


@pytest.mark.parametrize(
    "value", [0, -1, 0.0, -0.5, 1.0001, 2.0, 1e9, np.nan, np.inf, np.float32(3), "0.5", None, 1j]
)
def test_budgets_that_are_refused(value):
    before = options.memory_budget
    with pytest.raises(ValueError, match=r"memory_budget.*fraction") as caught:
        options.memory_budget = value
    assert repr(value) in str(caught.value)
    with pytest.raises(ValueError, match="memory_budget"), options.set(memory_budget=value):
        pytest.fail("it was set")
    assert options.memory_budget == before


@pytest.mark.parametrize("value", [0, -3, 1.5, 2.0, "2", None, np.nan, np.inf])
def test_thread_numbers_that_are_refused(value):
    before = options.num_threads
    with pytest.raises(ValueError, match="num_threads must be a positive integer"):
        options.num_threads = value
    with pytest.raises(ValueError, match="num_threads must be a positive integer"):
        diskcsr.set_num_threads(value)
    assert options.num_threads == before


@pytest.mark.parametrize("value", [-1, -0.1, "1", None, np.nan, 1j])
def test_waiting_times_that_are_refused(value):
    with pytest.raises(ValueError, match="lock_timeout must be a number of seconds"):
        options.lock_timeout = value
    assert options.lock_timeout == 1.0


@pytest.mark.parametrize("value", [0, 2.5, np.float32(0.5), np.inf])
def test_waiting_times(value):
    with options.set(lock_timeout=value):
        assert options.lock_timeout == value
        assert type(options.lock_timeout) is float


def test_set_ends_with_its_block():
    before = options.memory_budget, options.num_threads, options.memory_map
    with options.set(memory_budget=7, num_threads=3, memory_map=False) as inside:
        assert inside is options
        assert (options.memory_budget, options.num_threads, options.memory_map) == (7, 3, False)
        with options.set(memory_budget=9):
            assert options.memory_budget == 9
        assert options.memory_budget == 7
    assert (options.memory_budget, options.num_threads, options.memory_map) == before
    with pytest.raises(ZeroDivisionError), options.set(memory_budget=7):
        raise ZeroDivisionError
    # When one of several is refused, none stays set.
    with (
        pytest.raises(ValueError, match="num_threads"),
        options.set(memory_budget=7, num_threads=0),
    ):
        pytest.fail("it was set")
    assert (options.memory_budget, options.num_threads, options.memory_map) == before


def test_a_misspelt_setting_is_refused():
    with pytest.raises(AttributeError, match="memory_buget"):
        options.memory_buget = 5
    with pytest.raises(AttributeError, match="memory_buget"), options.set(memory_buget=5):
        pytest.fail("it was set")


# ------------------------------------------------------------------------------------- the guard


def test_a_load_over_the_budget_is_refused():
    with options.set(memory_budget=1000):
        require_memory(1000, "a load", "Do something else.")
        with pytest.raises(MemoryError) as caught:
            require_memory(1001, "a load", "Do something else.")
    assert isinstance(caught.value, diskcsr.MemoryBudgetError)
    assert isinstance(caught.value, diskcsr.DiskCSRError)
    message = str(caught.value)
    for part in ("a load takes 1.0 kB (1001 bytes)", "(1000 bytes;", "memory_budget = 1000"):
        assert part in message
    assert message.endswith("Do something else.")


def test_the_guard_asks_anew_what_is_available(monkeypatch):
    available = [8 * GB]
    monkeypatch.setattr(module, "available_memory", lambda: available[0])
    monkeypatch.setattr(module, "_available", (-1.0, 0))
    with options.set(memory_budget=0.25):
        require_memory(2 * GB, "a load", "")
        with pytest.raises(diskcsr.MemoryBudgetError, match=r"2.0 GB \(2000000000 bytes; .*0.25\)"):
            require_memory(2 * GB + 1, "a load", "")
        available[0] = 4 * GB
        with pytest.raises(diskcsr.MemoryBudgetError, match=r"1.0 GB \(1000000000 bytes"):
            require_memory(2 * GB, "a load", "")
        require_memory(1000, "a load", "")
        # Of a small load too, though not at every call.
        available[0] = 1000
        time.sleep(module._RECHECK * 1.1)
        with pytest.raises(diskcsr.MemoryBudgetError, match=r"250 B \(250 bytes"):
            require_memory(1000, "a load", "")


def test_what_a_matrix_says_when_it_does_not_fit(store):
    matrix = csr_array(np.ones((100, 50)))
    disk = store(matrix)
    with options.set(memory_budget=20_000):
        assert disk[:5].sum() == 250
        read = disk.reader.bytes_read
        with pytest.raises(diskcsr.MemoryBudgetError) as caught:
            disk[:]
        assert disk.reader["data"].bytes_read + disk.reader["indices"].bytes_read <= read
    message = str(caught.value)
    # 5,000 values of 8 bytes and indices of 4, and the row pointers.
    assert any(f"({60_000 + 8 * n} bytes)" in message for n in (100, 101))
    for part in (disk.filename, "20.0 kB (20000 bytes", "iter_blocks()", "memory_budget"):
        assert part in message
    with options.set(memory_budget=70_000):
        assert disk[:].sum() == 5000


@pytest.mark.parametrize(
    ("n", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (1500.0, "1.5 kB"),
        (12_700_000, "12.7 MB"),
        (10**9, "1.0 GB"),
        (3 * 10**12, "3.0 TB"),
        (5 * 10**15, "5000.0 TB"),
    ],
)
def test_format_bytes(n, text):
    assert format_bytes(n) == text


# -------------------------------------------------------------------------------- the environment


def in_fresh_process(code, **environment):
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("DISKCSR_")}
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**inherited, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.mark.parametrize(
    ("variables", "printed"),
    [
        ({"DISKCSR_MEMORY_BUDGET": "123456", "DISKCSR_NUM_THREADS": "3"}, "123456 int 3"),
        ({"DISKCSR_MEMORY_BUDGET": " 0.25 "}, f"0.25 float {len(os.sched_getaffinity(0))}"),
        ({"DISKCSR_MEMORY_BUDGET": "1e-1", "DISKCSR_NUM_THREADS": "1"}, "0.1 float 1"),
        ({"DISKCSR_MEMORY_BUDGET": "", "DISKCSR_NUM_THREADS": "7"}, "0.5 float 7"),
    ],
)
def test_the_environment_sets_the_defaults(variables, printed):
    code = (
        "from diskcsr import options as o;"
        "print(o.memory_budget, type(o.memory_budget).__name__, o.num_threads)"
    )
    result = in_fresh_process(code, **variables)
    assert (result.stdout.strip(), result.stderr) == (printed, "")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("DISKCSR_MEMORY_BUDGET", "lots"),
        ("DISKCSR_MEMORY_BUDGET", "-1"),
        ("DISKCSR_MEMORY_BUDGET", "2.5"),
        ("DISKCSR_NUM_THREADS", "0"),
        ("DISKCSR_NUM_THREADS", "1.5"),
    ],
)
def test_an_environment_that_makes_no_sense_is_named(name, value, monkeypatch):
    monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=f"environment variable {name}='{value}'"):
        Options()


# --------------------------------------------------------------------------------- what is there


def test_available_memory():
    available = available_memory()
    assert type(available) is int
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert 1 << 26 < available <= total


def groups(tmp_path, lines, files):
    """Files as the kernel shows them: (what /proc/self/cgroup is, where the groups lie)."""
    own, root = tmp_path / "own", tmp_path / "cgroup"
    own.write_text("".join(f"{line}\n" for line in lines))
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{text}\n")
    return own, root


STAT = "anon 5\nfile 9000\ninactive_file 300\nactive_file 200\nslab 7"


@pytest.mark.parametrize(
    ("lines", "files", "left"),
    [
        pytest.param(["0::/"], {}, [], id="no limit anywhere"),
        pytest.param(
            ["0::/"], {"memory.max": "max", "memory.current": "5"}, [], id="v2, explicitly none"
        ),
        pytest.param(
            ["0::/"],
            {"memory.max": 5000, "memory.current": 2000, "memory.stat": STAT},
            [3500],
            id="v2, a container",
        ),
        pytest.param(
            ["0::/job/step/task"],
            {
                "job/step/task/memory.max": "max",
                "job/step/task/memory.current": 100,
                "job/step/memory.max": 900,
                "job/step/memory.current": 400,
                "job/memory.max": 600,
                "job/memory.current": 500,
                "other/memory.max": 1,
                "other/memory.current": 1,
            },
            [500, 100],
            id="v2, a batch job",
        ),
        pytest.param(
            ["0::/"], {"memory.max": 100, "memory.current": 300}, [0], id="v2, over its limit"
        ),
        pytest.param(
            ["2:cpu,cpuacct:/a", "4:memory:/docker/c0ffee", "0::/"],
            {
                "memory/memory.limit_in_bytes": 8000,
                "memory/memory.usage_in_bytes": 1000,
                "memory/memory.stat": "active_file 1\ntotal_active_file 20\ntotal_inactive_file 30",
            },
            [7050],
            id="v1, a container that sees its own group as the root",
        ),
        pytest.param(
            ["9:name=systemd:/", "4:memory:/job", "0::/"],
            {
                "memory/job/memory.limit_in_bytes": 70,
                "memory/job/memory.usage_in_bytes": 20,
                "memory/memory.limit_in_bytes": (1 << 63) - 4096,
                "memory/memory.usage_in_bytes": 1000,
            },
            [50],
            id="v1, a batch job",
        ),
        pytest.param(
            ["0::/"],
            {"memory.max": 50, "memory.current": 20, "memory.stat": "what is this"},
            [30],
            id="an unknown memory.stat",
        ),
    ],
)
def test_control_groups(tmp_path, lines, files, left):
    assert list(_left_in_cgroups(*groups(tmp_path, lines, files))) == left


def test_no_control_groups(tmp_path):
    assert list(_left_in_cgroups(tmp_path / "none", tmp_path)) == []


# -------------------------------------------------------------------------------- own limits

UNDER_A_LIMIT = """
import json, resource, sys
import diskcsr
from diskcsr.machine.options import available_memory
which = getattr(resource, sys.argv[1])
use = [int(number) for number in open("/proc/self/statm").read().split()]
used = use[{"RLIMIT_AS": 0, "RLIMIT_DATA": 5}[sys.argv[1]]] * resource.getpagesize()
before = available_memory()
resource.setrlimit(which, (used + (200 << 20), resource.RLIM_INFINITY))
with diskcsr.open(sys.argv[2], "X") as A:
    seen = [before, available_memory(), diskcsr.options.memory_limit()]
    try:
        A.toarray()  # 128 MiB
    except diskcsr.MemoryBudgetError as problem:
        seen.append(str(problem))
    seen.append(A[5:6].sum())
print(json.dumps(seen))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux says what counts against a limit")
@pytest.mark.parametrize("which", ["RLIMIT_AS", "RLIMIT_DATA"])
def test_limits_of_the_process_count(tmp_path, which):
    path = tmp_path / "m.h5"
    matrix = csr_array((np.ones(3), ([0, 5, 9], [1, 2, 3])), shape=(1 << 14, 1 << 10))
    diskcsr.write(path, matrix).close()
    done = subprocess.run(
        [sys.executable, "-c", UNDER_A_LIMIT, which, str(path)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    before, left, budget, refused, total = json.loads(done.stdout)
    assert (150 << 20) < left <= (200 << 20) < before
    assert abs(budget - left / 2) < 10 << 20
    assert "134.2 MB" in refused
    assert total == 1


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("1000 300 100 5 0 400 0", [(5000 - 1000) * 4096, (500 - 400) * 4096]),
        ("6000 300 100 5 0 600 0", [0, 0]),
        ("not numbers", [5000 * 4096, 500 * 4096]),
        (None, [5000 * 4096, 500 * 4096]),
    ],
    ids=["some left", "over them", "an unknown file", "no file"],
)
def test_what_is_left_of_limits(tmp_path, monkeypatch, text, left):
    limits = {resource.RLIMIT_AS: 5000 * 4096, resource.RLIMIT_DATA: 500 * 4096}
    monkeypatch.setattr(resource, "getrlimit", lambda which: (limits[which], limits[which]))
    monkeypatch.setattr(resource, "getpagesize", lambda: 4096)
    if text is not None:
        (tmp_path / "statm").write_text(text)
    assert list(_left_of_own_limits(tmp_path / "statm")) == left


def test_no_limits(tmp_path, monkeypatch):
    none = resource.RLIM_INFINITY
    monkeypatch.setattr(resource, "getrlimit", lambda which: (none, none))
    assert list(_left_of_own_limits(Path("/proc/self/statm"))) == []
