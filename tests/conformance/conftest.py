"""What scipy's own tests need to be collected here, and how many threads serve them."""

import pytest

import diskcsr

# Marks in scipy/sparse/tests/test_base.py that scipy's own configuration declares.
SCIPY_MARKS = ("slow", "xslow", "fail_slow", "thread_unsafe", "parallel_threads", "iterations")


def pytest_configure(config):
    """Declare scipy's marks: under --strict-markers its test modules would not import."""
    for mark in SCIPY_MARKS:
        config.addinivalue_line("markers", f"{mark}: used in scipy's own tests")


@pytest.fixture(scope="package", autouse=True)
def _one_thread():
    """Read in this thread: matrices as small as these cost more to hand over than to read.

    That the number of threads changes no answer is what tests/test_threads.py is about.
    """
    with diskcsr.options.set(num_threads=1):
        yield
