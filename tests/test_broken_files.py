"""Files on which HDF5 itself crashes or hangs: looked at first, or in a process that may end."""

import io
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import h5py
import numpy as np
import pytest
from filtered import FILTERS, count_matrix, create, overwrite, store
from test_index_damage import change

import diskcsr
from diskcsr import check
from diskcsr.errors import DiskCSRError
from diskcsr.machine.alive import alive, limit_silence, waiting
from diskcsr.machine.apart import Ended, run_apart
from diskcsr.storage.claims import headers
from diskcsr.storage.claims.peek import note_bytes, peek

#: The module: the package has a function of that name.
checking = sys.modules[check.__module__]

BROKEN = Path(__file__).parents[2] / "shared" / "broken"
ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}


@pytest.fixture
def broken(tmp_path):
    """Copy one of the files that were kept."""

    def copy(name):
        if not (BROKEN / name).exists():
            pytest.skip(f"there is no {BROKEN / name}")
        return Path(shutil.copy(BROKEN / name, tmp_path / name))

    return copy


def run(code, *args, **keywords):
    command = [sys.executable, "-c", code, *map(str, args)]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=60, env=ENVIRONMENT, **keywords
    )


OPEN_AND_READ = """
import io, resource, sys
import h5py
import diskcsr
resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))
path, way = sys.argv[1:]

def opened():
    if way == "File r+":
        return diskcsr.File(path, "r+")["X"]
    if way in ("h5py r", "h5py r+"):
        return diskcsr.open(h5py.File(path, way.split()[1])["X"])
    if way == "bytes":
        return diskcsr.open(io.BytesIO(open(path, "rb").read()))
    if way == "file object":
        return diskcsr.open(open(path, "rb"))
    return diskcsr.open(path, mode=way)

try:
    with opened() as A:
        print("read", A.to_memory().sum())
except diskcsr.DiskCSRError as problem:
    print(type(problem).__name__, problem)
# Not that of `resource`, which counts what the parent had when it forked.
(peak,) = [line for line in open("/proc/self/status") if line.startswith("VmHWM")]
print("MB", int(peak.split()[1]) >> 10)
"""


# ------------------------------------------------------------------------------------- strings


WAYS = ["r", "r+", "File r+", "h5py r", "h5py r+", "bytes", "file object"]


@pytest.mark.parametrize("name", ["attribute_claims_2gb.h5", "global_heap_loop.h5"])
@pytest.mark.parametrize("way", WAYS)
def test_strings_that_claim_what_is_not_there(broken, name, way):
    found = run(OPEN_AND_READ, broken(name), way).stdout.split("\n")
    assert found[0].startswith("FormatError")
    assert "attribute 'h5sparse_format': cannot be read: a string claims" in found[0]
    assert int(found[1].split()[1]) < 300


@pytest.mark.parametrize("name", ["attribute_claims_2gb.h5", "global_heap_loop.h5"])
def test_a_check_of_strings_that_claim_what_is_not_there(broken, name):
    report = check(broken(name))
    (problem,) = [p for p in report.problems if p.where == "/X"]
    assert (problem.severity, problem.kind) == ("error", "tags")
    assert "a string claims" in problem.what


def heaps(raw):
    at = -1
    while (at := raw.find(b"GCOL", at + 1)) >= 0:
        yield at


def texts(path, libver="earliest", many=0, userblock=0):
    stored(path, libver=libver, userblock_size=userblock)
    with h5py.File(path, "r+", libver=libver) as file:
        group = file["X"]
        group.attrs["encoding-type"] = "csr_matrix"
        group.attrs["encoding-version"] = "0.1.0"
        group.attrs["shape"] = group.attrs["h5sparse_shape"]
        group.attrs["names"] = ["one", "", "three" * 999]
        group.attrs["empty"] = ""
        for number in range(many):
            group.attrs[f"more{number}"] = "x" * number
            del group.attrs[f"more{number // 2}"]
            group.attrs[f"more{number // 2}"] = "y"
    return path


@pytest.mark.parametrize("libver", ["earliest", "v108", "v110", "latest"])
@pytest.mark.parametrize("many", [0, 5, 400])
@pytest.mark.parametrize("userblock", [0, 512])
def test_sound_strings_raise_no_alarm(tmp_path, libver, many, userblock):
    path = texts(tmp_path / "m.h5", libver, many, userblock)
    with h5py.File(path) as file:
        names = [n for n in file["X"].attrs if "shape" not in n]
        assert len(names) == 5 + many
        assert [headers.check_strings(file["X"], name) for name in names] == [None] * len(names)
        assert headers.check_strings(file["X"], "absent") is None
    with diskcsr.open(path) as A:
        assert A.format == "csr"


@pytest.mark.parametrize("libver", ["earliest", "latest"])
@pytest.mark.parametrize("way", ["h5py", "diskcsr", "bytes"])
def test_strings_that_hdf5_has_not_written_yet_raise_no_alarm(tmp_path, libver, way):
    path = texts(tmp_path / "m.h5", libver)
    memory = io.BytesIO(path.read_bytes())
    if way == "diskcsr":
        file = diskcsr.File(path, "r+", libver=libver)
    else:
        file = h5py.File(path if way == "h5py" else memory, "r+", libver=libver)
        if way == "bytes":
            note_bytes(file, memory)
    with file:
        group = h5py.Group(file["X"].group.id if way == "diskcsr" else file["X"].id)
        for number in range(50):  # heaps fill, are let go, and others take their place
            for name in ("h5sparse_format", "names"):
                del group.attrs[name]
            group.attrs["h5sparse_format"] = "csr"
            group.attrs["names"] = ["one" * number, "two" * 40 * number]
            file.flush() if number == 20 else None
            for name in ("h5sparse_format", "names", "encoding-type"):
                assert headers.check_strings(group, name) is None
        assert diskcsr.open(group).format == "csr"


def test_what_only_hdf5_can_look_at_is_left_to_it(tmp_path):
    path = texts(tmp_path / "m.h5")
    with h5py.File(path, driver="core", backing_store=False) as file:
        assert peek(file) is None
        assert headers.check_strings(file["X"], "names") is None
    with h5py.File(io.BytesIO(path.read_bytes())) as file:
        assert peek(file) is None


@pytest.mark.parametrize("libver", ["earliest", "latest"])
@pytest.mark.parametrize("userblock", [0, 512])
@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("no heap", "where there is no heap"),
        ("long heap", "which reaches behind the file's end"),
        ("endless", "claims 0 bytes"),
        ("long record", "claims 1073741824 bytes"),
        ("other number", "which has no such record"),
        ("short record", "which has 1 bytes"),
    ],
)
def test_what_is_wrong_with_a_heap(tmp_path, libver, userblock, what, said):
    path = texts(tmp_path / "m.h5", libver, userblock=userblock)
    raw = path.read_bytes()
    record = next(at for at in heaps(raw)) + 16
    assert raw[record + 16 :].startswith(b"csr")  # h5sparse_format
    (free,) = [at for at in range(record, len(raw), 8) if _is_free(raw, at)][:1]
    changes = {
        "no heap": (record - 16, b"GCOM"),
        "long heap": (record - 8, (1 << 30).to_bytes(8, "little")),
        "endless": (free + 8, bytes(8)),
        "long record": (record + 8, (1 << 30).to_bytes(8, "little")),
        "other number": (record, b"\x77\0"),
        "short record": (record + 8, b"\1"),
    }
    overwrite(path, *changes[what])
    found = run(OPEN_AND_READ, path, "r").stdout
    assert found.startswith("FormatError")
    assert said in found


def _is_free(raw, at):
    """Whether a record of a heap of 4096 bytes begins here that holds the rest of it."""
    number, size = raw[at : at + 2], int.from_bytes(raw[at + 8 : at + 16], "little")
    begin = raw.rfind(b"GCOL", 0, at)
    return number == b"\0\0" and 16 <= size < 4096 and at + size == begin + 4096


# ------------------------------------------------------------------------------------ superblock


@pytest.mark.parametrize("userblock", [0, 512, 2048])
def test_a_superblock_that_leads_to_another_driver(tmp_path, userblock):
    path = tmp_path / "m.h5"
    stored(path, libver="earliest", userblock_size=userblock)
    with diskcsr.open(path, mode="r+") as A:
        assert A.nnz
    overwrite(path, userblock + 48, b"\1\0\6\0\1\0\0\0")
    found = run(OPEN_AND_READ, path, "r+")
    assert found.returncode == 0
    assert found.stdout.startswith("CorruptFileError")
    assert "leads to records of another driver of HDF5, at 4295360513" in found.stdout
    assert os.listdir(tmp_path) == ["m.h5"]


@pytest.mark.parametrize("way", [way for way in WAYS if not way.startswith("h5py")])
def test_a_root_that_cannot_be_read(tmp_path, way):
    path = tmp_path / "m.h5"
    stored(path, libver="latest")
    with h5py.File(path) as file:
        root = h5py.h5g.get_objinfo(file.id).objno[0]
    raw = path.read_bytes()
    overwrite(path, root + 8, bytes([raw[root + 8] ^ 1]))
    found = run(OPEN_AND_READ, path, way)
    assert found.stdout.startswith(("CorruptFileError", "FormatError")), found
    assert os.listdir(tmp_path) == ["m.h5"]


# --------------------------------------------------------------------------------- fill values


def test_a_damaged_fill_value_that_nobody_needs(broken):
    path = broken("fill_value_message.h5")
    for mode in ("r", "r+"):
        assert run(OPEN_AND_READ, path, mode).stdout.startswith("read 300.0\n")
    report = check(path)
    assert {problem.kind for problem in report.problems} == {"hdf5"}


def with_fill_value(path, value):
    """Store values of which the third chunk was never written."""
    matrix = count_matrix(dtype="f8")
    store(path, matrix, chunk=50, steps=FILTERS["gzip"], libver="earliest")
    with h5py.File(path, "r+") as file:
        del file["X/data"]
        data = create(file["X"], "data", np.empty(0), chunk=50, steps=FILTERS["gzip"], fill=value)
        data.resize((matrix.nnz,))
        for lo in (0, 50, *range(150, matrix.nnz, 50)):
            data[lo : lo + 50] = matrix.data[lo : lo + 50]
    matrix.data[100:150] = value
    return matrix


def test_a_fill_value_is_asked_for_when_it_is_needed(tmp_path):
    value = 12345.678
    matrix = with_fill_value(tmp_path / "m.h5", value)
    with diskcsr.open(tmp_path / "m.h5") as A:
        assert A.reader["data"].name == "decode"
        assert np.array_equal(A.to_memory().data, matrix.data)


@pytest.mark.parametrize("bit", range(0, 32, 3))
def test_every_size_of_a_fill_value(tmp_path, bit):
    """The size is what stands before the value."""
    path, value = tmp_path / "m.h5", 12345.678
    matrix = with_fill_value(path, value)
    raw = path.read_bytes()
    places = [at for at in range(len(raw)) if raw.startswith(np.float64(value).tobytes(), at)]
    for at in places:
        size = int.from_bytes(raw[at - 4 : at], "little")
        if size == 8:
            overwrite(path, at - 4, (size ^ 1 << bit).to_bytes(4, "little"))
    if bit == 3:  # without a size it is the default, zero
        matrix.data[100:150] = 0
    found = run(OPEN_AND_READ, path, "r")
    assert found.returncode == 0, found
    assert found.stdout.startswith((f"read {matrix.sum()}", "CorruptFileError", "FormatError"))


# ----------------------------------------------------------------------------- virtual datasets


def virtual(path, sources, size, name="data"):
    """Make the values of a stored matrix virtual: `sources` gives (file, dataset) of each part."""
    with h5py.File(path, "r+") as file:
        del file["X"][name]
        layout = h5py.VirtualLayout((size,), "f4")
        step = size // len(sources)
        for number, (where, dataset) in enumerate(sources):
            lo, hi = number * step, size if number + 1 == len(sources) else (number + 1) * step
            layout[lo:hi] = h5py.VirtualSource(where, dataset, (size,), "f4")[lo:hi]
        file["X"].create_virtual_dataset(name, layout)


def stored(path, **how):
    matrix = count_matrix()
    store(path, matrix, chunk=50, **how)
    return matrix


def test_a_virtual_dataset_of_itself(tmp_path, broken):
    path = tmp_path / "m.h5"
    matrix = stored(path)
    virtual(path, [(".", "X/data")], matrix.nnz)
    paths = [path, broken("virtual_of_itself.h5")]
    for path in paths:
        for mode in ("r", "r+"):
            found = run(OPEN_AND_READ, path, mode).stdout
            assert found.startswith("CorruptFileError")
            assert "is a source of itself" in found
        (problem,) = [p for p in check(path).problems if p.severity == "error"]
        assert problem.kind == "dataset"
        assert "is a source of itself" in problem.what


def test_virtual_datasets_in_circles(tmp_path):
    matrix = stored(tmp_path / "a.h5")
    for name in "abc":
        stored(tmp_path / f"{name}.h5")
    for name, other in ("ab", "bc", "ca"):
        virtual(tmp_path / f"{name}.h5", [(f"{other}.h5", "X/data")], matrix.nnz)
    found = run(OPEN_AND_READ, tmp_path / "a.h5", "r").stdout
    assert found.startswith("CorruptFileError")
    assert "is a source of itself" in found


def test_virtual_datasets_that_never_end(tmp_path):
    matrix = stored(tmp_path / "0.h5")
    for number in range(1, 40):
        shutil.copy(tmp_path / "0.h5", tmp_path / f"{number}.h5")
        virtual(tmp_path / f"{number}.h5", [(f"{number - 1}.h5", "X/data")], matrix.nnz)
    with diskcsr.open(tmp_path / "20.h5") as A:
        assert np.array_equal(A.to_memory().data, matrix.data)
    many = pytest.raises(diskcsr.CorruptFileError, match="more than 32 virtual datasets")
    with diskcsr.open(tmp_path / "39.h5") as A, many:
        A.to_memory()


def test_one_source_many_times_is_no_circle(tmp_path):
    path = tmp_path / "m.h5"
    matrix = stored(path)
    shutil.copy(path, tmp_path / "a 100%.h5")
    virtual(path, [("a 100%%.h5", "X/data"), ("a 100%%.h5", "/X/data")] * 3, matrix.nnz)
    with diskcsr.open(path) as A:
        assert np.array_equal(A.to_memory().data, matrix.data)


def test_numbered_sources_are_left_to_hdf5(tmp_path):
    path = tmp_path / "m.h5"
    matrix = stored(path)
    with h5py.File(path, "r+") as file:
        file["X/part0"] = file["X/data"][:]
        del file["X/data"]
        size = matrix.nnz
        space = h5py.h5s.create_simple((size,), (h5py.h5s.UNLIMITED,))
        source = h5py.h5s.create_simple((size,), (size,))
        space.select_hyperslab((0,), (h5py.h5s.UNLIMITED,), (size,), (size,))
        properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        properties.set_virtual(space, b".", b"/X/part%b", source)
        h5py.h5d.create(file["X"].id, b"data", h5py.h5t.NATIVE_FLOAT, space, properties)
    with diskcsr.open(path) as A:
        assert np.array_equal(A.to_memory().data, matrix.data)


@pytest.mark.parametrize("gone", ["file", "dataset", "group instead"])
def test_a_source_that_is_gone_is_not_read_as_zeros(tmp_path, gone):
    path = tmp_path / "m.h5"
    matrix = stored(path)
    shutil.copy(path, tmp_path / "source.h5")
    virtual(path, [("source.h5", "X/data")], matrix.nnz)
    if gone == "file":
        (tmp_path / "source.h5").unlink()
    else:
        with h5py.File(tmp_path / "source.h5", "r+") as file:
            del file["X/data"]
            if gone == "group instead":
                file.create_group("X/data")
    with h5py.File(path) as file:
        assert gone == "group instead" or not file["X/data"][:].any()
    with diskcsr.open(path) as A, pytest.raises(diskcsr.CorruptFileError, match=r"source\.h5"):
        A.to_memory()
    assert not check(path, isolated=False).ok


def test_a_source_that_lost_a_chunk_is_not_read_as_zeros(tmp_path):
    path = tmp_path / "m.h5"
    matrix = stored(path, libver="earliest")
    shutil.copy(path, tmp_path / "source.h5")
    change(tmp_path / "source.h5", 2, first=4000)
    virtual(path, [("source.h5", "X/data")], matrix.nnz)
    with diskcsr.open(path) as A, pytest.raises(diskcsr.CorruptFileError, match=r"source\.h5"):
        A.to_memory()


# ---------------------------------------------------------------------------- a process that ends


@pytest.mark.parametrize("ask", [lambda A: A.sum(1), lambda A: A.mean(1), lambda A: A.sum()])
def test_values_are_not_believed_without_their_indices(tmp_path, ask):
    path = tmp_path / "m.h5"
    matrix = stored(path)
    with h5py.File(path, "r+") as file:
        del file["X/indices"]
        layout = h5py.VirtualLayout((matrix.nnz,), "i4")
        layout[:] = h5py.VirtualSource(".", "X/indices", (matrix.nnz,), "i4")
        file["X"].create_virtual_dataset("indices", layout)
    with diskcsr.open(path) as A, pytest.raises(diskcsr.CorruptFileError, match="source of itself"):
        ask(A)


def test_damaged_parts_are_not_joined(tmp_path):
    # Whoever reads the result takes for a chunk without bytes what lies in memory.
    path = tmp_path / "part.h5"
    stored(path, libver="earliest")
    change(path, 2, size=0)
    with (
        diskcsr.open(path) as A,
        pytest.raises(diskcsr.CorruptFileError, match=r"part\.h5.*its elements are"),
    ):
        diskcsr.concat([A, A], tmp_path / "all.h5", virtual=True)
    assert not (tmp_path / "all.h5").exists()


def test_a_process_apart_returns_and_raises(tmp_path):
    assert run_apart(os.getpid, silence=60) != os.getpid()
    with pytest.raises(FileNotFoundError, match="nothing there"):
        run_apart(os.stat, "/nothing there", silence=60)
    with pytest.raises(DiskCSRError, match="failed"):
        run_apart(os._exit, 3, silence=60)


def test_what_ended_a_process_is_told():
    with pytest.raises(Ended, match="SIGABRT") as caught:
        run_apart(os.abort, silence=60)
    assert not caught.value.silent
    start = time.monotonic()
    with pytest.raises(Ended, match="SIGALRM") as caught:
        run_apart(time.sleep, 60, silence=1)
    assert caught.value.silent
    assert time.monotonic() - start < 30
    assert Ended(100).signal == "signal 100"


def take_steps(count, seconds):
    """Do something that takes long, and tell of each step."""
    for _ in range(count):
        alive()
        time.sleep(seconds)
    with waiting():
        time.sleep(4 * seconds)
    return count


def test_a_process_that_makes_progress_may_take_long():
    assert run_apart(take_steps, 8, 0.3, silence=0.9) == 8


def test_signs_of_life_cost_nothing_where_nobody_waits_for_them():
    assert signal.getitimer(signal.ITIMER_REAL) == (0, 0)
    alive()
    with waiting():
        pass
    assert signal.getitimer(signal.ITIMER_REAL) == (0, 0)
    limit_silence(0)
    assert signal.getitimer(signal.ITIMER_REAL) == (0, 0)


WAIT_FOR_ANOTHER = """
import sys
from test_broken_files import sleep_at
from diskcsr.machine.apart import run_apart
run_apart(sleep_at, sys.argv[1], silence=500)
"""


def sleep_at(place):
    Path(f"{place}.new").write_text(str(os.getpid()))
    os.rename(f"{place}.new", place)
    time.sleep(600)


def is_running(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child of it")
def test_a_process_ends_with_its_parent(tmp_path):
    place = tmp_path / "number"
    parent = subprocess.Popen([sys.executable, "-c", WAIT_FOR_ANOTHER, place], env=ENVIRONMENT)
    try:
        deadline = time.monotonic() + 60
        while not place.exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        child = int(place.read_text())
        assert is_running(child)
    finally:
        parent.kill()
        parent.wait()
    deadline = time.monotonic() + 20
    while is_running(child) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not is_running(child)


# -------------------------------------------------------------------------------------- the check


@pytest.mark.parametrize("repair", [False, True])
def test_a_check_without_end(tmp_path, monkeypatch, repair):
    path = tmp_path / "m.h5"
    stored(path)
    before = path.read_bytes()
    monkeypatch.setattr(checking, "look_at", sleep_long)
    (problem,) = check(path, repair=repair, time_limit=1).problems
    assert (problem.severity, problem.kind) == ("error", "hang")
    assert "makes no progress (SIGALRM after 1 s of silence)" in problem.what
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["m.h5"]


def sleep_long(*args):
    time.sleep(600)


def test_a_check_that_crashes(tmp_path, monkeypatch):
    stored(tmp_path / "m.h5")
    monkeypatch.setattr(checking, "look_at", crash)
    (problem,) = check(tmp_path / "m.h5").problems
    assert (problem.severity, problem.kind) == ("error", "crash")
    assert "crashes (SIGSEGV)" in problem.what


def crash(*args):
    os.kill(os.getpid(), signal.SIGSEGV)


def test_a_check_that_the_system_ends(tmp_path, monkeypatch):
    stored(tmp_path / "m.h5")

    def ended(*args, **keywords):
        raise Ended(signal.SIGKILL)

    monkeypatch.setattr(checking, "run_apart", ended)
    (problem,) = check(tmp_path / "m.h5").problems
    assert problem.kind == "ended"
    assert "SIGKILL" in problem.what
    assert "HDF5" not in problem.what


def test_a_repair_that_crashes_leaves_the_file_and_no_copy(tmp_path, monkeypatch):
    path = tmp_path / "m.h5"
    stored(path)
    with h5py.File(path, "r+") as file:  # elements behind the last row: to be cut off
        for name in ("data", "indices"):
            file["X"][name].resize((file["X"][name].size + 3,))
            file["X"][name][-3:] = 1
    before = path.read_bytes()
    real = checking.run_apart

    def crash_later(function, *args, **keywords):
        if function is checking.repair_file:
            Path(args[2]).write_bytes(b"half")
            raise Ended(signal.SIGSEGV)
        return real(function, *args, **keywords)

    monkeypatch.setattr(checking, "run_apart", crash_later)
    report = check(path, repair=True)
    (problem,) = [p for p in report.problems if p.kind == "not-repaired"]
    assert "crashes (SIGSEGV)" in problem.what
    assert report.repaired == []
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["m.h5"]
    monkeypatch.undo()
    assert check(path, repair=True).repaired
