"""The rollback journal by itself: a killed writer's file goes back to its last commit, exactly."""

import contextlib
import fcntl
import os
import shutil
import struct
import subprocess
import sys
import zlib
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diskcsr import options
from diskcsr.errors import DiskCSRError, LockedFileError, RollbackError, WriteError
from diskcsr.storage.journal import saving
from diskcsr.storage.journal.fileobject import JournalFile
from diskcsr.storage.journal.records import HEAD, PAGE, RECORD, journal_path
from diskcsr.storage.journal.rollback import is_hot, settle


def some_bytes(n, seed=0):
    return np.random.default_rng(seed).bytes(n)


@pytest.fixture
def path(tmp_path):
    """A file of ten pages and a bit."""
    path = tmp_path / "data"
    path.write_bytes(some_bytes(10 * PAGE + 100))
    return path


@pytest.fixture
def old(path):
    return path.read_bytes()


def journal_of(path):
    return path.with_name(path.name + "-journal")


def kill(file):
    """Leave everything as a killed process does."""
    file._release()


def recorded(path):
    """Return (offset, length) of the records of a journal."""
    raw = journal_of(path).read_bytes()
    found, at = [], HEAD.size
    while at < len(raw):
        offset, length, _ = RECORD.unpack_from(raw, at)
        found.append((offset, length))
        at += RECORD.size + length
    return found


# ------------------------------------------------------------------------------ the file object


def test_it_is_a_file(path, old):
    file = JournalFile(path)
    assert repr(file) == str(path)
    assert file.seek(-100, os.SEEK_END) == 10 * PAGE
    assert file.read() == old[-100:]
    assert file.tell() == len(old)
    assert file.seek(5) == 5
    assert file.seek(5, os.SEEK_CUR) == 10
    buffer = bytearray(b"x" * 20)
    assert file.readinto(buffer) == 20
    assert (bytes(buffer), file.tell()) == (old[10:30], 30)
    assert file.write(memoryview(np.arange(3))) == 24
    assert file.tell() == 54
    file.commit()
    file.close()
    file.close()
    assert path.read_bytes() == old[:30] + np.arange(3).tobytes() + old[54:]


def test_reading_behind_the_end_gives_zeros(path, old):
    file = JournalFile(path)
    file.seek(len(old) - 3)
    buffer = bytearray(b"x" * 8)
    assert file.readinto(buffer) == 8
    assert bytes(buffer) == old[-3:] + bytes(5)
    file.close()


def test_what_cannot_be_opened(path, tmp_path):
    with pytest.raises(ValueError, match="'r\\+' or 'x', not 'w'"):
        JournalFile(path, "w")
    with pytest.raises(FileExistsError):
        JournalFile(path, "x")
    with pytest.raises(FileNotFoundError):
        JournalFile(tmp_path / "none")
    with pytest.raises(IsADirectoryError):
        JournalFile(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="not an ordinary file"):
        JournalFile(tmp_path / "pipe")
    assert sorted(os.listdir(tmp_path)) == ["data", "pipe"]


def test_a_closed_file_says_so(path):
    file = JournalFile(path)
    file.close()
    for use in (file.commit, file.roll_back, file.read, lambda: file.pwrite(b"x", 0)):
        with pytest.raises(OSError, match="closed"):
            use()


# -------------------------------------------------------------------------- what is in a journal


def test_the_journal_is_there_while_the_file_is_open(path):
    file = JournalFile(path)
    assert journal_of(path).exists()
    assert not file.hot
    assert not is_hot(path)
    file.write(b"new")
    assert file.hot
    assert is_hot(path)
    file.commit()
    assert not is_hot(path)
    file.close()
    assert not journal_of(path).exists()


def test_pages_are_saved_once_and_before_they_change(path, old):
    file = JournalFile(path)
    file.pwrite(b"a", PAGE + 1)
    file.pwrite(b"b", PAGE + 2)
    assert recorded(path) == [(PAGE, PAGE)]
    assert old[PAGE : 2 * PAGE] in journal_of(path).read_bytes()
    file.pwrite(bytes(3 * PAGE), 0)  # one of them is there already
    assert recorded(path) == [(PAGE, PAGE), (0, PAGE), (2 * PAGE, PAGE)]
    file.pwrite(bytes(10), len(old) - 5)  # the last page is not whole
    assert recorded(path)[3:] == [(10 * PAGE, 100)]
    kill(file)
    settle(path)
    assert path.read_bytes() == old


def test_new_bytes_are_not_saved(path, old):
    file = JournalFile(path)
    file.pwrite(some_bytes(1 << 20), len(old))
    file.pwrite(b"again", len(old) + 7)
    assert recorded(path) == []
    kill(file)
    settle(path)
    assert path.read_bytes() == old


def test_what_is_cut_off_is_saved(path, old):
    file = JournalFile(path)
    file.truncate(8 * PAGE + 5)
    assert recorded(path) == [(8 * PAGE, 2 * PAGE + 100)]
    file.pwrite(some_bytes(5 * PAGE, 1), 9 * PAGE)
    assert len(recorded(path)) == 1
    kill(file)
    settle(path)
    assert path.read_bytes() == old


def test_what_changes_nothing_is_no_transaction(path, old):
    file = JournalFile(path)
    file.pwrite(old[50:150], 50)
    file.truncate(len(old))
    assert not file.hot
    file.close()


def test_long_records_are_split(tmp_path):
    path = tmp_path / "long"
    old = some_bytes(6 << 20)
    path.write_bytes(old)
    file = JournalFile(path)
    file.pwrite(bytes(6 << 20), 0)
    assert recorded(path) == [(i << 20, 1 << 20) for i in range(6)]
    kill(file)
    settle(path)
    assert path.read_bytes() == old
    file = JournalFile(path)
    file.pwrite(bytes(6 << 20), 0)
    file.commit()
    assert journal_of(path).stat().st_size == HEAD.size  # it does not stay large
    file.close()


def test_one_call_saves_at_once(path, monkeypatch):
    """The records in one piece, and then the head that counts them."""
    file = JournalFile(path)
    written = []
    real = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda *call: written.append(call[::2]) or real(*call))
    file.pwrite(bytes(7 * PAGE), PAGE)
    journal = file._journal
    assert written == [(journal, HEAD.size), (journal, 0), (file._data, PAGE)]
    monkeypatch.undo()
    file.roll_back()
    file.close()


def test_records_of_an_earlier_transaction_are_not_taken(path, old):
    """They stay in the journal, behind those of the new one."""
    file = JournalFile(path)
    file.pwrite(bytes(4 * PAGE), 0)
    file.commit()
    committed = path.read_bytes()
    file.pwrite(b"tail", len(committed))
    kill(file)
    settle(path)
    assert path.read_bytes() == committed == bytes(4 * PAGE) + old[4 * PAGE :]


# -------------------------------------------------------------------------- commit and roll back


def test_roll_back(path, old):
    file = JournalFile(path)
    file.write(b"kept")
    file.commit()
    file.write(b"undone")
    file.truncate(100)
    file.roll_back()
    assert path.read_bytes() == b"kept" + old[4:]
    assert file.write(b"ignored") == 7
    file.truncate(5)
    file.seek(0)
    assert file.read(4) == b"kept"
    file.commit()
    file.close()
    assert path.read_bytes() == b"kept" + old[4:]
    assert not journal_of(path).exists()


@pytest.mark.parametrize("how", ["close", "drop"])
def test_what_was_not_committed_is_undone_by_the_next(path, old, how):
    file = JournalFile(path)
    file.write(b"half")
    if how == "close":
        file.close()
    del file
    assert path.read_bytes() != old
    assert is_hot(path)
    again = JournalFile(path)
    assert path.read_bytes() == old
    again.close()


def test_a_new_file(tmp_path):
    path = tmp_path / "new"
    file = JournalFile(path, "x")
    file.write(b"abc")
    file.commit()
    file.write(b"def")
    kill(file)
    settle(path)
    assert path.read_bytes() == b"abc"


def test_the_journal_of_a_file_that_is_gone(path, old):
    file = JournalFile(path)
    file.write(b"half")
    kill(file)
    gone = path.rename(path.with_name("gone"))
    settle(path)
    assert is_hot(path)  # the file may come back
    gone.rename(path)
    settle(path)
    assert path.read_bytes() == old


def test_durable_waits_for_the_disk_in_order(path, old, monkeypatch):
    calls = []
    file = JournalFile(path, durable=True)
    names = {file._data: "data", file._journal: "journal"}

    def note(name, real):
        def noted(descriptor, *rest):
            calls.append(f"{name} {names.get(descriptor, 'folder')}")
            return real(descriptor, *rest)

        monkeypatch.setattr(os, name, noted)

    note("pwrite", os.pwrite)
    note("fsync", os.fsync)
    file.write(b"new")
    saved = ["pwrite journal", "fsync journal"]  # the records; and the head that counts them
    assert calls == [*saved, *saved, "pwrite data"]
    calls.clear()
    file.pwrite(b"behind the end", 11 * PAGE)
    assert calls == ["pwrite data"]
    calls.clear()
    file.commit()
    assert calls == ["fsync data", "pwrite journal", "fsync journal"]
    calls.clear()
    file.close()
    assert calls == ["fsync folder"]


# ------------------------------------------------------------------------------- things go wrong


class Full:
    """`os.pwrite` of a disk that has room for so many bytes more."""

    def __init__(self, monkeypatch, room):
        self.room, self.real = room, os.pwrite
        monkeypatch.setattr(os, "pwrite", self)

    def __call__(self, descriptor, raw, offset):
        n = min(self.room, len(raw))
        self.room -= n
        if n == 0:
            raise OSError(28, "No space left on device")
        return self.real(descriptor, raw[:n], offset)


@pytest.mark.parametrize("room", [0, 30, HEAD.size, 2 * PAGE, 5 * PAGE, 9 * PAGE])
@pytest.mark.parametrize("direct", [True, False])
def test_a_full_disk_loses_nothing(path, old, monkeypatch, room, direct):
    """To HDF5 it looks as if it were written: the commit fails."""
    file = JournalFile(path)
    full = Full(monkeypatch, room)
    new = some_bytes(5 * PAGE, 3)
    if direct:
        with pytest.raises(OSError, match="No space"):
            file.pwrite(new, PAGE)
    else:
        file.seek(PAGE)
        assert file.write(new) == len(new)
        file.seek(0)
        assert file.read(8 * PAGE)[PAGE:] == new + old[6 * PAGE : 8 * PAGE]
    full.room = 1 << 30
    file.pwrite(bytes(PAGE), 0)
    with pytest.raises(OSError, match="No space"):
        file.commit()
    assert path.read_bytes() != old
    file.roll_back()
    file.seek(0)
    assert file.read() == old
    file.close()
    assert path.read_bytes() == old


def test_a_journal_is_not_used_on_another_file(path):
    file = JournalFile(path)
    file.pwrite(b"half", 3 * PAGE)
    kill(file)
    other = some_bytes(12 * PAGE, 7)
    path.write_bytes(other)
    for use in (settle, JournalFile):
        with pytest.raises(RollbackError, match="does not belong to this file"):
            use(path)
    path.write_bytes(other[:100])
    with pytest.raises(RollbackError, match="does not belong"):
        settle(path)
    assert path.read_bytes() == other[:100]


def test_a_copy_of_both_is_rolled_back(path, old, tmp_path):
    file = JournalFile(path)
    file.pwrite(b"half", 3 * PAGE)
    copy = tmp_path / "copy"
    shutil.copy(path, copy)
    shutil.copy(journal_of(path), journal_of(copy))
    settle(copy)
    assert copy.read_bytes() == old
    file.commit()
    file.close()
    assert path.read_bytes()[3 * PAGE :].startswith(b"half")


def test_links_lead_to_the_one_journal(path, old, tmp_path):
    link = tmp_path / "link"
    link.symlink_to(path)
    file = JournalFile(link)
    assert journal_path(link) == str(journal_of(path))
    file.write(b"half")
    kill(file)
    settle(link)
    assert path.read_bytes() == old


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become someone else")
def test_who_may_not_write_is_told_who_may(path):
    file = JournalFile(path)
    file.write(b"half")
    kill(file)
    for each in (path, journal_of(path)):
        each.chmod(0o644)
    with someone_else(path), pytest.raises(RollbackError, match="who may write to the file"):
        settle(path)
    assert is_hot(path)


@contextlib.contextmanager
def someone_else(path):
    """Be a user who may read the folder of a file, and not write to it."""
    levels = 4 if "PYTEST_XDIST_WORKER" in os.environ else 3  # a worker has a folder of its own
    for folder in path.parents[:levels]:
        folder.chmod(0o755)
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become someone else")
def test_a_folder_that_may_not_be_written_to(path, old):
    path.chmod(0o666)
    with someone_else(path), pytest.raises(WriteError) as caught:
        JournalFile(path)
    assert (caught.value.errno, caught.value.filename) == (13, str(path))
    assert "its journal cannot be opened for writing, nothing was changed" in str(caught.value)
    assert path.read_bytes() == old


def test_the_journal_is_as_private_as_the_file(path):
    path.chmod(0o600)
    file = JournalFile(path)
    assert journal_of(path).stat().st_mode & 0o777 == 0o600
    file.close()


# ---------------------------------------------------------------------------- locks, processes


def test_one_writer_only(path):
    file = JournalFile(path)
    with pytest.raises(LockedFileError, match="open elsewhere"):
        JournalFile(path)
    with pytest.raises(BlockingIOError), open(path) as other:
        fcntl.flock(other, fcntl.LOCK_SH | fcntl.LOCK_NB)
    file.close()
    JournalFile(path).close()


def test_one_writer_only_without_the_locks_of_hdf5(path, monkeypatch):
    monkeypatch.setenv("HDF5_USE_FILE_LOCKING", "FALSE")
    with open(path) as other:
        fcntl.flock(other, fcntl.LOCK_SH)
        file = JournalFile(path)  # as HDF5 would not care
        with pytest.raises(LockedFileError, match="open elsewhere"):
            JournalFile(path)
        file.close()


def test_a_file_system_without_locks(path, monkeypatch):
    def refuse(descriptor, operation):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(fcntl, "flock", refuse)
    file = JournalFile(path)
    file.write(b"new")
    file.commit()
    file.close()
    assert path.read_bytes().startswith(b"new")


def test_a_reader_waits_for_a_transaction_and_not_forever(path, monkeypatch):
    monkeypatch.setattr(options, "lock_timeout", 0.05)
    file = JournalFile(path)
    settle(path)
    file.write(b"half")
    with pytest.raises(LockedFileError, match="in the middle of changing"):
        settle(path)
    file.commit()
    settle(path)
    assert journal_of(path).exists()
    file.close()


def test_a_cold_journal_that_was_left_is_removed(path, old):
    file = JournalFile(path)
    kill(file)
    settle(path)
    assert not journal_of(path).exists()
    assert path.read_bytes() == old


def in_child(work):
    """Return what `work` returns, a few bytes, in a forked child."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        with contextlib.suppress(BaseException):
            os.write(write, work())
        os._exit(0)
    os.close(write)
    os.waitpid(pid, 0)
    with os.fdopen(read, "rb") as pipe:
        return pipe.read()


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_a_forked_child_reads_and_writes_not(path, old):
    file = JournalFile(path)
    file.write(b"half")

    def child():
        file.seek(0)
        found = [file.read(4)]
        file.write(b"child")
        file.truncate(0)
        for use in (lambda: file.pwrite(b"child", 0), file.commit, file.roll_back):
            try:
                use()
            except DiskCSRError as problem:
                found.append(b"can only read" in str(problem).encode() and b"refused")
        file.close()
        return b" ".join(found)

    assert in_child(child) == b"half refused refused refused"
    assert is_hot(path)
    file.commit()
    assert in_child(lambda: file.__del__() or b"done") == b"done"
    assert journal_of(path).exists()
    file.close()
    assert path.read_bytes() == b"half" + old[4:]


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_a_forked_child_does_not_hold_the_lock(path, old):
    """Else nobody could undo the transaction of its parent, once that was killed."""
    file = JournalFile(path)
    file.write(b"half")
    wait, go = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(go)
        os.read(wait, 1)
        os._exit(0)
    kill(file)
    settle(path)
    os.close(go)
    os.close(wait)
    os.waitpid(pid, 0)
    assert path.read_bytes() == old


def test_the_end_of_the_program(path, old):
    code = (
        "import sys; from diskcsr.storage.journal.fileobject import JournalFile\n"
        "file = JournalFile(sys.argv[1]); file.write(b'half')"
    )
    found = subprocess.run(
        [sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=False
    )
    assert (found.returncode, found.stderr) == (0, "")
    assert is_hot(path)
    settle(path)
    assert path.read_bytes() == old


# -------------------------------------------------------------------------------------- damage


@pytest.fixture
def hot(path, old):
    """What a killed writer left: its file, half changed, and its journal of two records."""
    file = JournalFile(path)
    file.pwrite(b"new", PAGE + 1)
    file.truncate(10 * PAGE)
    kill(file)
    found = path.read_bytes(), journal_of(path).read_bytes()
    assert recorded(path) == [(PAGE, PAGE), (10 * PAGE, 100)]
    return found


def outcome(path, data, journal, use=settle):
    """Return what is in the file after `use`, or the message of the refusal, which changes none."""
    path.write_bytes(data)
    journal_of(path).write_bytes(journal)
    try:
        use(path)
    except RollbackError as problem:
        assert (path.read_bytes(), journal_of(path).read_bytes()) == (data, journal)
        return str(problem)
    return path.read_bytes()


def is_refusal(found, path):
    """Whether it says which files it is about, and nothing that could lose what they hold."""
    wanted = (str(path), str(journal_of(path)), "is damaged", "copy them before you try anything")
    return isinstance(found, str) and all(text in found for text in wanted)


def flipped(raw, bit):
    damaged = bytearray(raw)
    damaged[bit // 8] ^= 1 << bit % 8
    return bytes(damaged)


#: Most of the bytes saved in the first record of `hot`: one is as good as another.
_SAVED = range(HEAD.size + RECORD.size + 1, HEAD.size + RECORD.size + PAGE - 1)
ALIKE = set(_SAVED) - set(_SAVED[::97])


def test_every_bit_of_a_hot_journal(path, hot, old):
    data, journal = hot
    assert outcome(path, data, journal) == old
    for bit in range(8 * len(journal)):
        if bit // 8 not in ALIKE:
            assert is_refusal(outcome(path, data, flipped(journal, bit)), path), bit


def test_every_length_of_a_hot_journal(path, hot, old):
    data, journal = hot
    for length in range(len(journal)):
        if length not in ALIKE:
            assert is_refusal(outcome(path, data, journal[:length]), path), length
    assert outcome(path, data, journal + b"what was not counted yet") == old


@given(st.data())
def test_any_damage(tmp_path_factory, choice):
    """The state before, or a refusal that changes nothing: never what is half changed."""
    path = tmp_path_factory.mktemp("damaged") / "data"
    old = some_bytes(3 * PAGE)
    path.write_bytes(old)
    file = JournalFile(path)
    for i in range(choice.draw(st.integers(1, 3))):
        file.pwrite(b"new", i * PAGE)
    kill(file)
    data, journal = path.read_bytes(), bytearray(journal_of(path).read_bytes())
    start = choice.draw(st.integers(0, len(journal) - 1))
    raw = choice.draw(st.binary(min_size=1, max_size=200).filter(any))
    if choice.draw(st.booleans()):  # other bytes, or some that are missing or too many
        raw = bytes(a ^ b for a, b in zip(journal[start:], raw, strict=False))
        journal[start : start + len(raw)] = raw
    else:
        journal[start : start + choice.draw(st.integers(0, 300))] = raw
    found = outcome(path, data, bytes(journal))
    assert found == old or is_refusal(found, path)
    shutil.rmtree(path.parent)


def test_a_refusal_says_what_is_known(path, hot, old):
    data, journal = hot
    second = HEAD.size + RECORD.size + PAGE
    found = outcome(path, data, flipped(journal, 8 * (second + RECORD.size)), JournalFile)
    assert "its record 2 is not as it was written; it says that the file had 41060 bytes" in found
    assert "there are 2 records of what it overwrote, of which the first 1 are whole" in found
    found = outcome(path, data, flipped(journal, 8 * HEAD.size - 1), JournalFile)
    assert "its head does not match its checksum; it says that the file had 41060 bytes" in found
    assert "2 records of what it overwrote, of which the first 2 are whole, if that can" in found
    found = outcome(path, data, journal[:30], JournalFile)
    assert "it ends within its head, after 30 bytes. Nothing was changed now" in found
    found = outcome(path, data, journal[:8] + b"\x07" + journal[9:], JournalFile)
    assert "or is of version 7, which only a later version of diskcsr reads" in found


def test_records_do_not_change_places(path, old):
    """Both would be whole, if they did not know their number."""
    file = JournalFile(path)
    file.pwrite(b"new", 0)
    file.pwrite(b"new", PAGE)
    kill(file)
    data, journal = path.read_bytes(), journal_of(path).read_bytes()
    middle = HEAD.size + RECORD.size + PAGE
    swapped = journal[: HEAD.size] + journal[middle:] + journal[HEAD.size : middle]
    assert is_refusal(outcome(path, data, swapped), path)


def test_a_cold_journal_of_which_a_bit_flipped(path, old):
    file = JournalFile(path)
    kill(file)
    assert is_refusal(outcome(path, old, flipped(journal_of(path).read_bytes(), 70)), path)


def test_a_journal_of_the_first_version(path, old):
    """As version 0.1.0 wrote it: records were not counted, the first that is not whole ends it."""
    samples = b"".join(
        zlib.crc32(old[len(old) * i // 8 :][:512]).to_bytes(4, "little") for i in range(8)
    )
    header = struct.pack("<8sIIQQ32s", b"dcsr-jnl", 1, PAGE, len(old), 77, samples)
    header += zlib.crc32(header).to_bytes(4, "little")
    saved = old[PAGE : 2 * PAGE]
    checksum = zlib.crc32(saved, zlib.crc32(struct.pack("<QQI", 77, PAGE, PAGE)))
    record = struct.pack("<QII", PAGE, PAGE, checksum) + saved
    data = old[:PAGE] + bytes(PAGE) + old[2 * PAGE :] + b"behind the end"
    assert outcome(path, data, header + record) == old
    assert outcome(path, data, header + record + record[:100]) == old
    assert outcome(path, old + b"behind the end", header) == old
    assert outcome(path, old, bytes(len(header)) + record) == old
    for bit in range(8 * len(header)):
        assert is_refusal(outcome(path, data, flipped(header + record, bit)), path), bit


def test_a_refused_journal_stays_and_can_be_put_right(path, hot, old):
    data, journal = hot
    damaged = flipped(journal, 100)
    for use in (settle, JournalFile, settle):
        assert is_refusal(outcome(path, data, damaged, use), path)
    assert outcome(path, data, journal, lambda path: JournalFile(path).close()) == old
    assert not journal_of(path).exists()


@pytest.mark.parametrize("first", [True, False])
def test_a_header_that_cannot_be_written(path, old, monkeypatch, first):
    """What it would have counted is not changed, and the one before holds."""
    file = JournalFile(path)
    if not first:
        file.pwrite(b"new", 0)
    real, broken = os.pwrite, []

    def half(descriptor, raw, offset):
        if descriptor == file._journal and offset == 0 and not broken:
            broken.append(real(descriptor, raw[:50], offset))
            raise OSError(5, "Input/output error")
        return real(descriptor, raw, offset)

    monkeypatch.setattr(os, "pwrite", half)
    with pytest.raises(OSError, match="Input/output"):
        file.pwrite(b"new", PAGE)
    assert broken == [50]
    kill(file)
    assert is_hot(path) == (not first)
    settle(path)
    assert path.read_bytes() == old


# --------------------------------------------------------------------------------- any sequence

steps = st.one_of(
    st.tuples(st.just("write"), st.integers(0, 40_000), st.integers(1, 20_000)),
    st.tuples(st.just("truncate"), st.integers(0, 40_000), st.just(0)),
    st.tuples(st.just("commit"), st.just(0), st.just(0)),
)


@pytest.mark.parametrize("piece", [saving.AT_ONCE, PAGE])
@settings(max_examples=150)
@given(
    size=st.integers(0, 30_000),
    sequence=st.lists(steps, max_size=12),
    cut=st.floats(0, 1),
)
def test_killed_anywhere(tmp_path_factory, piece, size, sequence, cut):
    """Whatever was done, what was committed last is there, byte for byte.

    The writer is stopped after the last step, and in the middle of the write to the journal that
    belongs to it: when the data has not been touched.
    """
    folder = tmp_path_factory.mktemp("killed")
    with mock.patch.object(saving, "AT_ONCE", piece):
        play(folder, size, sequence, cut)
    shutil.rmtree(folder)


def play(folder, size, sequence, cut):
    path = folder / "data"
    committed = now = some_bytes(size)
    path.write_bytes(committed)
    file = JournalFile(path)
    for i, (step, offset, length) in enumerate(sequence):
        before = path.read_bytes(), journal_of(path).read_bytes()
        with noting_writes(file._journal) as written:
            if step == "write":
                raw = some_bytes(length, i)
                file.pwrite(raw, offset)
                now = now[:offset].ljust(offset, b"\0") + raw + now[offset + length :]
            elif step == "truncate":
                file.truncate(offset)
                now = now[:offset].ljust(offset, b"\0")
            else:
                file.commit()
                committed = now
        assert path.read_bytes() == now
        check(folder / "after", now, journal_of(path).read_bytes(), committed)
        if step != "commit":
            check(folder / "torn", before[0], torn(before[1], written, cut), committed)
    kill(file)
    settle(path)
    assert path.read_bytes() == committed


@contextlib.contextmanager
def noting_writes(descriptor):
    """Note what is written to a file: (offset, bytes)."""
    written, real = [], os.pwrite

    def noted(where, raw, offset):
        if where == descriptor:
            written.append((offset, bytes(raw)))
        return real(where, raw, offset)

    with mock.patch.object(os, "pwrite", noted):
        yield written


def torn(journal, written, cut):
    """Return what is in a journal after a part of what was written to it; a header is one piece."""
    journal, left = bytearray(journal), int(cut * sum(len(raw) for _, raw in written))
    for offset, raw in written:
        if left < len(raw):
            raw = raw[: left if offset else 0]
        journal[offset : offset + len(raw)] = raw
        left -= len(raw)
        if left < 0:
            break
    return bytes(journal)


def check(path, data, journal, committed):
    path.write_bytes(data)
    journal_of(path).write_bytes(journal)
    settle(path)
    assert path.read_bytes() == committed
    assert not journal_of(path).exists()
