"""What all tests share: how hypothesis and several workers run, and matrices put into files."""

import pytest
from conformance.stored import write_by_hand
from hypothesis import HealthCheck, settings

import diskcsr

# No deadline: the first call of a kernel compiles it.
settings.register_profile(
    "diskcsr",
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
settings.load_profile("diskcsr")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Give the tests of a file to one worker of pytest-xdist: they share what fixtures make.

    Under ``-n 2 --dist loadgroup``, that is; a group of a test's own goes before.
    """
    for item in items:
        if item.get_closest_marker("xdist_group") is None:
            item.add_marker(pytest.mark.xdist_group(item.nodeid.partition("::")[0]))


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
