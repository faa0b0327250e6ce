"""What scipy's own tests need to be collected here."""

# Marks in scipy/sparse/tests/test_base.py that scipy's own configuration declares.
SCIPY_MARKS = ("slow", "xslow", "fail_slow", "thread_unsafe", "parallel_threads", "iterations")


def pytest_configure(config):
    """Declare scipy's marks: under --strict-markers its test modules would not import."""
    for mark in SCIPY_MARKS:
        config.addinivalue_line("markers", f"{mark}: used in scipy's own tests")
