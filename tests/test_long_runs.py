"""The programs for long runs and large files, in short: leaks show in some seconds, too."""

import contextlib
import errno
import os
import resource

import huge
import long_runs
import pytest
import scipy.sparse as sp

import diskcsr

pytestmark = pytest.mark.skipif(
    not long_runs.Path("/proc/self/statm").exists(), reason="counts what Linux shows of a process"
)
COUNTS = {"fetches": 2000, "openings": 60, "changes": 20}


@pytest.mark.alone
@pytest.mark.parametrize("file", long_runs.FILES)
@pytest.mark.parametrize("name", long_runs.WORK)
def test_nothing_grows(name, file, capsys):
    long_runs.run(name, file, COUNTS[name], reports=2)
    assert "descriptors" in capsys.readouterr().out


def test_a_leak_is_seen(monkeypatch):
    kept = []

    def leaking(path, count, rng):
        for number in range(count):
            kept.append(open(path, "rb"))  # noqa: SIM115
            yield number + 1

    monkeypatch.setitem(long_runs.WORK, "leaking", leaking)
    try:
        with pytest.raises(AssertionError, match="descriptors grew"):
            long_runs.run("leaking", "raw", 20)
    finally:
        for file in kept:
            file.close()


def test_the_large_file_in_small(tmp_path, capsys):
    compared = huge.run(tmp_path, 1_500_000, "gzip")
    assert compared > 3 * 10**6
    assert "turn into columns" in capsys.readouterr().out


# ------------------------------------------------------------------------ no more descriptors


@contextlib.contextmanager
def few_descriptors(spare):
    """Leave this process so many descriptors to open, within a ``with`` block."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    taken = []
    resource.setrlimit(
        resource.RLIMIT_NOFILE, (max(map(int, os.listdir("/proc/self/fd"))) + 20, before[1])
    )
    try:
        with contextlib.suppress(OSError):
            while True:
                taken.append(os.open(os.devnull, os.O_RDONLY))
        for _ in range(spare):
            os.close(taken.pop())
        yield
    finally:
        for one in taken:
            os.close(one)
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def read(path):
    with diskcsr.open(path) as A:
        return A[[1, 5, 3]].sum()


def load(path):
    with diskcsr.open(path) as A:
        return A.data.sum()


def assign(path):
    with diskcsr.open(path, mode="r+") as A:
        A[1:2] = sp.csr_array(long_runs.prepared())[[1]]


def write(path):
    diskcsr.write(path.with_name("new.h5"), sp.eye_array(9, format="csr"), overwrite=True).close()


def turn(path):
    diskcsr.convert(path, path.with_name("new.h5"), format="csc", overwrite=True).close()


@pytest.mark.parametrize("compression", [None, "gzip"])
@pytest.mark.parametrize("work", [read, load, assign, write, turn])
def test_a_process_out_of_descriptors_is_told_which_file(work, compression, tmp_path):
    path = tmp_path / "m.h5"
    diskcsr.write(path, sp.csr_array(long_runs.prepared()), compression=compression).close()
    expected = work(path)  # what is imported and compiled late takes descriptors, too
    before = long_runs.Held.now().descriptors
    for spare in range(8):
        problem = result = None
        with few_descriptors(spare):
            try:
                result = work(path)
            except OSError as raised:
                problem = raised.with_traceback(None)
        if problem is None:
            assert result == expected
            break
        assert problem.errno == errno.EMFILE
        assert "m.h5" in str(problem) or "new.h5" in str(problem)
        assert work(path) == expected
    assert 0 < spare < 7
    assert long_runs.Held.now().descriptors <= before
