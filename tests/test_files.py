"""HDF5 files with a journal: transactions, killed writers, readers beside writers."""

import contextlib
import errno
import fcntl
import os
import pickle
import random
import shutil
import signal
import subprocess
import sys
import threading
import time

import h5py
import numpy as np
import pytest
import scipy.sparse as sp

import diskcsr
import diskcsr.storage.files.files as files
import diskcsr.storage.files.looking as looking
from diskcsr import options
from diskcsr.errors import DiskCSRError, LockedFileError, RollbackError, WriteError
from diskcsr.storage.files.files import open_to_read, open_to_write
from diskcsr.storage.files.transactions import (
    close_file,
    flush_file,
    journal_of,
    path_of,
    transaction,
)
from diskcsr.storage.journal.fileobject import JournalFile
from diskcsr.storage.journal.records import HEAD
from diskcsr.storage.journal.rollback import is_hot, settle

pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
LENGTH = 3000


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "m.h5"
    with h5py.File(path, "w") as file:
        fill(file)
    return path


def fill(file, libver=None):
    """State 0 of a file that `step` brings from one state to the next."""
    file.attrs["n"] = 0
    file.create_dataset("grown", (0,), maxshape=(None,), chunks=(500,), dtype="i8")
    for name, compression in (("raw", None), ("packed", "gzip")):
        values = np.zeros(LENGTH, "i8")
        file.create_dataset(name, data=values, chunks=(1000,), compression=compression)


def step(file):
    """Append, assign to raw and to compressed chunks, replace an attribute, make a group."""
    n = int(file.attrs["n"]) + 1
    grown = file["grown"]
    grown.resize((700 * n,))
    grown[-700:] = n
    random_numbers = np.random.default_rng(n).integers(0, 1 << 60, LENGTH)
    for name in ("raw", "packed"):
        file[name][:] = random_numbers
    file.create_group(f"groups/{n}")
    file.attrs["n"] = n


def state_of(path):
    """Return the number of the state a file is in, if it is in one, all of it."""
    with h5py.File(path, "r") as file:
        n = int(file.attrs["n"])
        assert np.array_equal(file["grown"], np.repeat(np.arange(1, n + 1), 700))
        random_numbers = np.random.default_rng(n).integers(0, 1 << 60, LENGTH) if n else 0
        for name in ("raw", "packed"):
            assert np.array_equal(file[name], np.zeros(LENGTH, "i8") + random_numbers)
        groups = sorted(map(int, file["groups"])) if "groups" in file else []
        assert groups == list(range(1, n + 1))
    return n


def journal_at(path):
    return path.with_name(path.name + "-journal")


def run(code, path):
    return subprocess.run(
        [sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=False
    )


# -------------------------------------------------------------------------------- transactions


def test_a_transaction_is_committed_at_its_end(path):
    file = open_to_write(path)
    with transaction(file):
        step(file)
        file.flush()
        assert is_hot(path)
    assert not is_hot(path)
    with open_to_read(path) as reader:
        assert reader.attrs["n"] == 1
    file.close()
    assert state_of(path) == 1
    assert not journal_at(path).exists()


@pytest.mark.parametrize("problem", [ValueError, KeyboardInterrupt])
@pytest.mark.parametrize("flushed", [False, True])
def test_an_exception_undoes_all_of_it(path, problem, flushed):
    file = open_to_write(path)
    with transaction(file):
        step(file)
    before = path.read_bytes()
    with pytest.raises(problem), transaction(file["groups"]):  # noqa: PT012
        step(file)
        if flushed:
            file.flush()
        raise problem
    assert not file
    assert path.read_bytes() == before
    assert not journal_at(path).exists()
    assert state_of(path) == 1


def test_only_the_outermost_commits(path):
    file = open_to_write(path)
    with pytest.raises(ValueError, match="late"), transaction(file):  # noqa: PT012
        with transaction(file["/"]):
            step(file)
        h5py.File.flush(file)
        assert is_hot(path)
        raise ValueError("late")
    assert state_of(path) == 0
    with open_to_write(path) as file:
        with transaction(file), transaction(file):
            step(file)
        assert not is_hot(path)
    assert state_of(path) == 1


def test_what_came_before_is_not_undone(path):
    file = open_to_write(path)
    step(file)
    with pytest.raises(KeyError), transaction(file):  # noqa: PT012
        step(file)
        file["no such thing"]
    assert state_of(path) == 1


def test_a_file_without_a_journal_is_flushed(path):
    with h5py.File(path, "r+") as file:
        assert journal_of(file) is None
        with transaction(file):
            step(file)
        flush_file(file)
        close_file(file)
        assert not file
    assert state_of(path) == 1


def test_flush_and_close_commit_too(path):
    file = open_to_write(path)
    step(file)
    file.flush()
    assert not is_hot(path)
    step(file)
    with pytest.raises(ValueError, match="in the middle of a transaction"), transaction(file):
        file.close()
    assert state_of(path) == 2
    with open_to_write(path) as file:
        step(file)
    assert state_of(path) == 3


@pytest.mark.parametrize("how", ["another file object", "dropped"])
def test_closed_in_other_ways(path, how):
    file = open_to_write(path)
    step(file)
    item = file["grown"]
    del file
    assert journal_of(item).path == str(path)
    if how == "another file object":
        item.file.close()
    del item
    assert state_of(path) == 1
    assert not journal_at(path).exists()


def test_a_transaction_that_is_dropped_is_undone(path):
    file = open_to_write(path)
    context = transaction(file)
    context.__enter__()
    step(file)
    journal_of(file).depth = 1
    h5py.File.close(file)
    assert is_hot(path)
    del context, file
    settle(path)
    assert state_of(path) == 0


def test_threads_take_turns(path):
    file = open_to_write(path)
    problems = []

    def work():
        try:
            for _ in range(5):
                with transaction(file):
                    step(file)
        except BaseException as problem:
            problems.append(problem)

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    file.close()
    assert problems == []
    assert state_of(path) == 15


@pytest.mark.parametrize("libver", ["earliest", "latest"])
def test_a_disk_that_is_full(tmp_path, monkeypatch, libver):
    path = tmp_path / "m.h5"
    with open_to_write(path, "x", libver=libver) as file:
        fill(file)
    file = open_to_write(path, libver=libver)
    real, room = os.pwrite, 30

    def pwrite(descriptor, raw, offset):
        nonlocal room
        room -= 1
        if room < 0 and offset + len(raw) > LENGTH:
            raise OSError(28, "No space left on device")
        return real(descriptor, raw, offset)

    monkeypatch.setattr(os, "pwrite", pwrite)
    with pytest.raises(OSError, match="No space"), transaction(file):  # noqa: PT012
        for _ in range(50):
            step(file)
            file.flush()
    monkeypatch.undo()
    assert not file
    settle(path)
    assert state_of(path) == 0


def test_a_failing_close_is_undone(path, monkeypatch):
    file = open_to_write(path)
    step(file)

    def fail(*call):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", fail)
        with pytest.raises(OSError, match="No space"):
            file.close()
    settle(path)
    assert state_of(path) == 0


# ------------------------------------------------------------------------------ opening, names


def test_modes(path, tmp_path):
    new = tmp_path / "new.h5"
    with pytest.raises(FileNotFoundError):
        open_to_write(new, "r+")
    with pytest.raises(ValueError, match="mode must be"):
        open_to_write(new, "r")
    for mode in ("x", "w-", "a", "w"):
        with open_to_write(new, mode) as file:
            assert file.mode == "r+"
            assert journal_at(new).exists()
            assert h5py.File(new, "r", locking=False).close() is None  # a whole file already
            fill(file)
        assert state_of(new) == 0
        new.unlink()
    for mode in ("x", "w-"):
        with pytest.raises(FileExistsError):
            open_to_write(path, mode)
    with open_to_write(path, "a") as file:
        step(file)
    path.chmod(0o640)
    with open_to_write(path, "w", libver="latest") as file:
        assert list(file) == []
        with pytest.raises(LockedFileError):
            open_to_write(path, "w")
        assert journal_at(path).exists()
    assert path.stat().st_mode & 0o777 == 0o640
    assert os.listdir(tmp_path) == ["m.h5"]


def test_what_is_no_hdf5_file(tmp_path):
    path = tmp_path / "text"
    path.write_text("no HDF5 file")
    for use in (open_to_read, open_to_write):
        with pytest.raises(OSError, match="signature not found"):
            use(path)
    with pytest.raises(FileNotFoundError):
        open_to_read(tmp_path / "none")
    with pytest.raises(IsADirectoryError):
        open_to_read(tmp_path)
    assert os.listdir(tmp_path) == ["text"]


def test_names(tmp_path):
    path = tmp_path / "Größe.h5"
    with open_to_write(path, "x") as file:
        fill(file)
        for item in (file, file["/"], file["grown"], file["grown"].file):
            assert journal_of(item) is journal_of(file)
        assert path_of(file["grown"].file) == str(path)
        assert isinstance(journal_of(file), JournalFile)
        assert (file.driver, file.mode) == ("fileobj", "r+")
    assert journal_of(file) is None
    link = tmp_path / "link.h5"
    link.symlink_to(path)
    with h5py.File(link, "r") as file:
        assert path_of(file) == str(path)
        assert journal_of(file["grown"]) is None
    with h5py.File("nowhere", "w", driver="core", backing_store=False) as file:
        assert path_of(file) is None


@pytest.mark.parametrize("libver", ["earliest", "v110", "latest"])
def test_every_version_of_the_format(tmp_path, libver):
    """Later ones have a mark in the file while it is open for writing, which must not stay."""
    path = tmp_path / "m.h5"
    file = open_to_write(path, "x", libver=libver)
    fill(file)
    with transaction(file):
        step(file)
    journal_of(file)._release()  # killed
    with contextlib.suppress(Exception):
        h5py.File.close(file)
    settle(path)
    assert state_of(path) == 1


def test_cost_of_opening_and_closing(path, monkeypatch):
    """Nothing is written to the file, and nothing saved, when nothing is changed."""
    before = path.stat()
    with open_to_write(path) as file:
        assert file.attrs["n"] == 0
        file.flush()
        assert journal_at(path).stat().st_size == HEAD.size
    assert path.stat().st_mtime_ns == before.st_mtime_ns


# -------------------------------------------------------------------- readers and other writers


def test_a_reader_keeps_nobody_out(path):
    with open_to_read(path) as reader, open_to_read(path) as second, open_to_write(path) as file:
        step(file)
        assert reader.attrs["n"] == second.attrs["n"] == 0
        with open(path) as other, pytest.raises(BlockingIOError):
            fcntl.flock(other, fcntl.LOCK_SH | fcntl.LOCK_NB)  # what HDF5 tries
    with open_to_read(path) as reader, h5py.File(path, "r") as usual:
        assert reader.attrs["n"] == usual.attrs["n"] == 1


def test_h5py_keeps_writers_out_as_ever(path):
    with h5py.File(path, "r"), open_to_read(path), pytest.raises(LockedFileError):
        open_to_write(path)
    with h5py.File(path, "r+"), pytest.raises(LockedFileError):
        open_to_write(path)
    with h5py.File(path, "r+", locking=False), pytest.raises(LockedFileError, match="by h5py"):
        open_to_write(path)
    with h5py.File(path, "r", locking=False) as usual, open_to_read(path) as reader:
        assert usual == reader
    open_to_write(path).close()


def test_a_foreign_writer_keeps_readers_out(path):
    with open(path) as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with (
            options.set(lock_timeout=0.05),
            pytest.raises(LockedFileError, match=r"has it open for writing .*lock"),
        ):
            open_to_read(path)
        with pytest.raises(LockedFileError):
            open_to_write(path)


def test_a_reader_beside_a_writer(path, monkeypatch):
    monkeypatch.setattr(options, "lock_timeout", 0.05)
    with open_to_write(path) as file:
        with open_to_read(path) as reader:
            assert reader.attrs["n"] == 0
        with transaction(file):
            step(file)
            h5py.File.flush(file)
            with pytest.raises(LockedFileError, match="in the middle of changing"):
                open_to_read(path)
        with open_to_read(path) as reader:
            assert reader.attrs["n"] == 1


@pytest.mark.parametrize("whole", [True, False])
def test_a_transaction_while_a_reader_opens(path, monkeypatch, whole):
    """What is read while opening belongs to one state."""
    file = open_to_write(path)
    real, opened = files._open_unlocked, []

    def open_slowly(*call):
        opened.append(real(*call))
        if len(opened) == 1:
            step(file)
            h5py.File.flush(file)
            if whole:
                file.flush()
        return opened[-1]

    monkeypatch.setattr(files, "_open_unlocked", open_slowly)
    if not whole:  # seen by its journal alone, were the file's size and time the same
        monkeypatch.setattr(looking, "_state", lambda path: None)
        monkeypatch.setattr(looking, "settle", lambda path, deadline: opened and file.flush())
    with open_to_read(path) as reader:
        assert [bool(each) for each in opened] == [False, True]
        assert reader.attrs["n"] == 1
    file.close()


def test_a_foreign_reader_of_a_torn_file(path, monkeypatch):
    tear(path)
    with open(path) as other:
        fcntl.flock(other, fcntl.LOCK_SH)
        with pytest.raises(LockedFileError, match="must be undone"):
            open_to_read(path)
    with open_to_read(path) as reader:
        assert reader.attrs["n"] == 0


def tear(path):
    """Leave the file as a process killed within a transaction does."""

    def child():
        file = open_to_write(path)
        with transaction(file):
            step(file)
            h5py.File.flush(file)
            os.kill(os.getpid(), signal.SIGKILL)

    end_of_child(child)
    assert is_hot(path)


def end_of_child(work):
    """Run `work` in a forked child; return the status it ended with."""
    pid = os.fork()
    if pid == 0:
        with contextlib.suppress(BaseException):
            work()
            os._exit(0)
        os._exit(1)
    return os.waitpid(pid, 0)[1]


def test_two_processes(path):
    """What the other one has open is refused there, and readable."""
    with open_to_write(path) as file:
        step(file)
        file.flush()
        code = (
            "import sys; from diskcsr.storage.files.files import *\n"
            "try: open_to_write(sys.argv[1])\n"
            "except BlockingIOError as problem: print(type(problem).__name__)\n"
            "print(open_to_read(sys.argv[1]).attrs['n'])"
        )
        found = run(code, path)
        assert (found.stdout, found.stderr) == ("LockedFileError\n1\n", "")


def test_a_forked_child(path):
    """It can read; it cannot write; and it changes nothing when it ends."""
    file = open_to_write(path)
    step(file)
    file.flush()

    def child():
        assert file.attrs["n"] == 1
        assert file["packed"][5] == np.random.default_rng(1).integers(0, 1 << 60, LENGTH)[5]
        file["raw"][:] = 3
        with pytest.raises(DiskCSRError, match="can only read it"):
            file.flush()

    assert end_of_child(child) == 0
    assert journal_at(path).exists()
    step(file)
    file.close()
    assert state_of(path) == 2


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("step(file)", 1),
        ("step(file); sys.kept = file; del file", 1),
        ("step(file); sys.kept = [file['raw'], lambda: sys.kept]; del file", 1),
        ("d = file['grown']; step(file); del file", 1),
        ("c = transaction(file); c.__enter__(); step(file)", 0),
        ("c = transaction(file); c.__enter__(); step(file); h5py.File.flush(file)", 0),
        ("with transaction(file): step(file); sys.exit(0)", 0),
        ("file.close(); g = open_to_write(sys.argv[1]); step(g); os.fork()", 1),
    ],
)
def test_the_end_of_the_program(path, code, expected):
    found = run(
        f"import sys, os, h5py; sys.path.insert(0, {os.path.dirname(__file__)!r})\n"
        "from test_files import step\nfrom diskcsr.storage.files.files import *\n"
        "from diskcsr.storage.files.transactions import *\n"
        f"file = open_to_write(sys.argv[1])\n{code}",
        path,
    )
    assert (found.returncode, found.stderr) == (0, "")
    settle(path)
    assert state_of(path) == expected


# --------------------------------------------------------------------------------------- kills


def steps_until_killed(path, prepare=lambda: None):
    """In a child: take steps for ever; tell the pipe of each that is done."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        with contextlib.suppress(BaseException):
            file = open_to_write(path)
            prepare()
            while True:
                with transaction(file):
                    step(file)
                os.write(write, b".")
        os._exit(1)
    os.close(write)
    return pid, read


def done_when_dead(pid, read):
    """Return how many steps the child has done, once it is dead."""
    assert os.waitpid(pid, 0)[1] == signal.SIGKILL
    with os.fdopen(read, "rb") as pipe:
        return len(pipe.read())


def test_killed_at_random_moments(path):
    random_ = random.Random(5)
    states = [0]
    for _ in range(10):
        pid, read = steps_until_killed(path)
        time.sleep(random_.uniform(0.02, 0.12))
        os.kill(pid, signal.SIGKILL)
        done = done_when_dead(pid, read)
        settle(path)
        assert not journal_at(path).exists()
        states.append(state_of(path))
        assert states[-1] - states[-2] - done in (0, 1)
    assert states[-1] > 0


@pytest.mark.parametrize("whole", [True, False])
def test_killed_at_any_write(path, whole):
    """Before the n-th time something is written, or in the middle of it.

    A journal's header is within one page, which the system writes in one piece.
    """
    undone = 0
    for n in range(1, 60, 3):

        def prepare(n=n):
            real, left = os.pwrite, n

            def pwrite(descriptor, raw, offset):
                nonlocal left
                left -= 1
                if left == 0:
                    if not whole and len(raw) != HEAD.size:
                        real(descriptor, raw[: len(raw) // 2], offset)
                    os.kill(os.getpid(), signal.SIGKILL)
                return real(descriptor, raw, offset)

            os.pwrite = pwrite

        before = state_of(path)
        done = done_when_dead(*steps_until_killed(path, prepare))
        undone += is_hot(path)
        settle(path)
        assert state_of(path) - before - done in (0, 1)
    assert undone > 5


def test_killed_while_rolling_back(path, monkeypatch):
    tear(path)
    real, left = os.pwrite, 2

    def pwrite(descriptor, raw, offset):
        nonlocal left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(descriptor, raw, offset)

    monkeypatch.setattr(os, "pwrite", pwrite)
    assert end_of_child(lambda: settle(path)) == signal.SIGKILL
    monkeypatch.undo()
    assert is_hot(path)
    settle(path)
    assert state_of(path) == 0


def test_a_writer_undoes_too_what_was_left(path):
    tear(path)
    with open_to_write(path) as file:
        step(file)
    assert state_of(path) == 1


def test_errors_can_be_sent_to_other_processes():
    for kind in (LockedFileError, RollbackError):
        problem = pickle.loads(pickle.dumps(kind("m.h5: why")))
        assert (type(problem), str(problem)) == (kind, "m.h5: why")


# ------------------------------------------------------------------------ names that are taken


def test_a_name_taken_meanwhile_keeps_its_journal(tmp_path):
    """The file of that name may be in the middle of a transaction, which is not ours to forget."""
    path = tmp_path / "m.h5"
    code = (
        "import os, sys, numpy as np\n"
        "from diskcsr.storage.files.files import open_to_write\n"
        "from diskcsr.storage.files.transactions import transaction\n"
        "file = open_to_write(sys.argv[1], 'x')\n"
        "file['y'] = np.zeros(10_000)\n"
        "with transaction(file):\n"
        "    file['y'][...] = 1\n"
        "    print('hot', flush=True)\n"
        "    input()\n"
    )
    with contextlib.ExitStack() as stack:
        with pytest.raises(FileExistsError) as caught, files.new_file(path):  # noqa: PT012
            other = stack.enter_context(
                subprocess.Popen(
                    [sys.executable, "-c", code, str(path)],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                )
            )
            assert other.stdout.readline() == "hot\n"
        assert caught.value.filename == str(path)
        assert sorted(os.listdir(tmp_path)) == ["m.h5", "m.h5-journal"]
        other.kill()
    with open_to_read(path) as file:
        assert not file["y"][:].any(), "the transaction was not undone"


def test_the_journal_of_a_file_that_is_gone_is_in_nobodys_way(path):
    with open_to_write(path) as file:
        file["y"] = np.arange(5000)
        left = path.with_name("left")
        os.link(path.with_name("m.h5-journal"), left)
    path.unlink()
    left.rename(path.with_name("m.h5-journal"))
    with files.new_file(path) as file:
        file["y"] = 7
    assert os.listdir(path.parent) == ["m.h5"]
    with h5py.File(path, "r") as file:
        assert file["y"][()] == 7


def test_a_folder_that_vanishes_while_a_file_is_made(tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    with pytest.raises(WriteError) as caught, files.new_file(folder / "m.h5") as file:  # noqa: PT012
        file["y"] = 7
        shutil.rmtree(folder)
    assert caught.value.filename == str(folder / "m.h5")
    assert caught.value.errno == errno.ENOENT
    assert "nothing was left" in str(caught.value)


def test_a_folder_that_is_not_there_is_named_with_the_file(tmp_path):
    path = tmp_path / "folder" / "m.h5"
    with pytest.raises(FileNotFoundError) as caught:
        open_to_write(path, "x")
    assert caught.value.filename == str(path)
    with pytest.raises(FileNotFoundError) as caught, files.new_file(path):
        pass
    assert caught.value.filename == str(path)


@pytest.mark.parametrize("mode", ["x", "w", "new"])
@pytest.mark.parametrize("letter", ["a", "\u20ac"])
def test_a_long_name(tmp_path, mode, letter):
    length = 255 - len("-journal") - len(".h5")
    path = tmp_path / (letter * (length // len(letter.encode())) + ".h5")
    if mode == "w":
        path.touch()
    with files.new_file(path) if mode == "new" else open_to_write(path, mode) as file:
        file["y"] = 7
    assert os.listdir(tmp_path) == [path.name]


def test_writers_of_different_files_in_many_threads(tmp_path):
    failed = []

    def work(number):
        try:
            for _ in range(100):
                open_to_write(tmp_path / f"{number}.h5", "w").close()
        except BaseException as problem:
            failed.append(problem)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        with h5py.File(tmp_path / "plain.h5", "w"):
            pass
    for thread in threads:
        thread.join()
    assert failed == []


@pytest.mark.parametrize("how", ["open", "refresh", "pickle"])
def test_what_was_opened_is_closed_when_looking_again_fails(tmp_path, monkeypatch, how):
    path = tmp_path / "m.h5"
    diskcsr.write(path, sp.csr_array(np.eye(3))).close()
    with diskcsr.open(path) as A:
        stored = pickle.dumps(A)
        looks = {"open": lambda: diskcsr.open(path), "pickle": lambda: pickle.loads(stored)}
        if how == "refresh":
            os.utime(path)
        real, calls = looking.is_hot, []

        def is_hot(path):
            calls.append(path)
            if len(calls) > 1:
                raise InterruptedError(errno.EINTR, "a look is cut short", path)
            return real(path)

        before = len(os.listdir("/proc/self/fd"))
        monkeypatch.setattr(looking, "is_hot", is_hot)
        with pytest.raises(OSError, match="a look is cut short"):
            looks.get(how, A.refresh)()
        monkeypatch.undo()
        assert len(calls) == 2
        assert len(os.listdir("/proc/self/fd")) <= before
    with diskcsr.open(path) as A:
        assert np.array_equal(A.toarray(), np.eye(3))
