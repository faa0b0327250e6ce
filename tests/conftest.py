"""What all tests share: how hypothesis runs, and matrices put into files."""

import signal

import pytest
from conformance.stored import write_by_hand
from hypothesis import HealthCheck, settings

import diskcsr

collect_ignore = ["campaign"]  # a program; test_campaign.py tests it

#: Files that take long, and show what does not depend on the versions of what is beneath: they are
#: left out where all others run a second time.
ONCE = {
    "test_bench", "test_bench_scripts", "test_beside", "test_campaign", "test_cli",
    "test_examples", "test_interrupts", "test_kills", "test_out_of_memory", "test_untrusted",
}  # fmt: skip


def pytest_configure():
    """Have Ctrl-C heard, also where this runs behind a shell that had it ignored."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items):
    """Mark what is in these files."""
    for item in items:
        if item.path.stem in ONCE:
            item.add_marker("once")


# No deadline: the first call of a kernel compiles it.
settings.register_profile(
    "diskcsr",
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
settings.register_profile("repeatable", settings.get_profile("diskcsr"), derandomize=True)
settings.load_profile("diskcsr")


@pytest.fixture
def store(tmp_path):
    """A function that stores a matrix in a file of its own and opens it.

    ``store(matrix, layout="raw", mode="r", spmatrix=False)`` writes a csr or csc matrix with plain
    h5py, exactly as it is; `layout` is "raw" or "gzip". ``store(matrix, by="diskcsr", **options)``
    uses `diskcsr.write`. What was opened is closed when the test ends.
    """
    opened = []

    def store(matrix, *, by="h5py", layout="raw", mode="r", spmatrix=False, **options):
        path = tmp_path / f"{len(opened)}.h5"
        if by == "h5py":
            write_by_hand(path, matrix, layout)
        else:
            diskcsr.write(path, matrix, **options).close()
        opened.append(diskcsr.open(path, "X", mode=mode, spmatrix=spmatrix))
        return opened[-1]

    yield store
    for array in opened:
        array.close()
