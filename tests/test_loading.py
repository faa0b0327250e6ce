"""What is imported late: by one thread at a time, tried again after a failure, never "corrupt".

Races are run in interpreters of their own, for what is imported once is imported for good.
"""

import json
import os
import subprocess
import sys
from importlib.util import find_spec

import numpy as np
import pytest

import diskcsr
from diskcsr import kernels, loading
from diskcsr.errors import CorruptFileError
from diskcsr.storage.codecs import libraries
from diskcsr.storage.codecs.codec import Filter, Pipeline
from diskcsr.storage.codecs.pipeline import encode_chunk, unsupported
from diskcsr.storage.codecs.table import CODECS

RUNS = 8


def in_a_child(code, *arguments, **environment):
    result = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        capture_output=True,
        text=True,
        env=os.environ | environment,
        timeout=120,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


# ------------------------------------------------------------------------------ many threads

FIRST_USE = """
import json, sys, threading
import numpy as np
from diskcsr.storage.codecs.codec import Filter, Pipeline
from diskcsr.storage.codecs.pipeline import (
    decode_whole, encode_chunk, gather_pieces, stages_of, unsupported)

sys.setswitchinterval(1e-6)
numbers = json.loads(sys.argv[1])
barrier, wrong = threading.Barrier(len(numbers)), []
values = np.arange(64, dtype="i4")

def work(number, cd):
    pipeline = Pipeline((Filter(number, str(number), tuple(cd)),), values.dtype, 64)
    barrier.wait()
    try:
        reason = unsupported(pipeline)
        assert reason is None, reason
        raw = encode_chunk(values, pipeline)
        found = decode_whole(raw, stages_of(pipeline, 0), pipeline, np.empty(64, "i4"))
        assert found.tolist() == values.tolist()
        some = np.array([3]), np.array([60]), np.array([0])
        gather_pieces(raw, stages_of(pipeline, 0), pipeline, *some, found)
        assert found[:57].tolist() == values[3:60].tolist()
    except BaseException as problem:
        wrong.append(f"{number}: {problem!r}")

def by_the_user(module, _):
    barrier.wait()
    try:
        __import__(module)
    except BaseException as problem:
        wrong.append(f"{module}: {problem!r}")

threads = [
    threading.Thread(target=work if isinstance(one, int) else by_the_user, args=(one, cd))
    for one, cd in numbers
]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(json.dumps(wrong))
"""
KERNELS = [[2, [4]], [3, []], [32000, []], [6, [2, 0, 64, 0, 4, 1, 0, 0]], [1, [4]]]
OF_NUMCODECS = [[32015, [3]], [32004, [0]], [32001, []]]


@pytest.mark.parametrize("run", range(RUNS))
def test_codecs_first_used_by_many_threads(run):
    codecs = KERNELS if find_spec("numcodecs") is None else OF_NUMCODECS + KERNELS
    order = np.random.default_rng(run).permutation(len(codecs))
    assert in_a_child(FIRST_USE, json.dumps([codecs[i] for i in order])) == []


@pytest.mark.skipif(find_spec("numcodecs") is None, reason="numcodecs is not installed")
@pytest.mark.parametrize("run", range(RUNS))
def test_the_caller_imports_the_same_package_at_that_moment(run):
    """Not through us, so no lock of ours keeps it away."""
    modules = [["numcodecs", 0], ["numcodecs.blosc", 0], ["numcodecs", 0]]
    threads = (modules[:1] + OF_NUMCODECS[:1] * 2, modules[::2] + OF_NUMCODECS)[run % 2]
    assert in_a_child(FIRST_USE, json.dumps(threads), NUMBA_DISABLE_JIT="1") == []


OPENING = """
import json, sys, threading
import diskcsr

sys.setswitchinterval(1e-6)
paths = sys.argv[1:]
barrier, found = threading.Barrier(len(paths)), {}

def work(path):
    barrier.wait()
    try:
        with diskcsr.open(path) as A:
            block = A[[5, 1, 5]]
            found[path] = [A.reader["data"].name, float(block.sum())]
    except BaseException as problem:
        found[path] = repr(problem)

threads = [threading.Thread(target=work, args=(path,)) for path in paths]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(json.dumps([found[path] for path in paths]))
"""


def test_files_first_opened_by_many_threads(tmp_path):
    """Each is decoded here, not left to h5py for the life of its handle."""
    from filtered import count_matrix

    presets = ["gzip", "lzf", "scaleoffset"]
    presets += [] if find_spec("numcodecs") is None else ["zstd", "lz4", "blosc"]
    matrix = count_matrix()
    expected = ["decode", float(matrix[[5, 1, 5]].sum())]
    paths = [tmp_path / f"{preset}.h5" for preset in presets]
    for path, preset in zip(paths, presets, strict=True):
        diskcsr.write(path, matrix, compression=preset, chunks=64).close()
    for _ in range(3):
        assert in_a_child(OPENING, *paths) == [expected] * len(paths)


FORKING = """
import json, os, signal, sys, threading, time
sys.path.insert(0, sys.argv[1])
from diskcsr import loading

begun = threading.Event()
sys.modules["told"] = begun
thread = threading.Thread(target=loading.load, args=("slow",))
thread.start()
begun.wait()
child = os.fork()
if child == 0:
    signal.alarm(20)  # a child that waits for a thread it does not have is ended
    os._exit(7 if loading.load("slow").value == 3 else 1)
_, status = os.waitpid(child, 0)
thread.join()
print(json.dumps(os.waitstatus_to_exitcode(status)))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_a_child_forked_while_a_thread_imports(tmp_path):
    (tmp_path / "slow.py").write_text(
        "import sys, time\nsys.modules['told'].set()\ntime.sleep(0.5)\nvalue = 3\n"
    )
    assert in_a_child(FORKING, tmp_path) == 7


# ---------------------------------------------------------------------------- what goes wrong


@pytest.fixture
def package(tmp_path, monkeypatch):
    """The name of a package with modules that cannot be imported twice, and then can."""
    folder = tmp_path / "halfway"
    folder.mkdir()
    (folder / "__init__.py").write_text("attempts = []\n")
    body = "from . import attempts\nattempts.append(0)\nif len(attempts) < 3:\n    {}\nvalue = 5\n"
    (folder / "key.py").write_text(body.format("raise KeyError('halfway')"))
    (folder / "half.py").write_text(body.format("raise ImportError('partially initialized')"))
    (folder / "memory.py").write_text(body.format("raise MemoryError"))
    monkeypatch.syspath_prepend(tmp_path)
    yield "halfway"
    for name in [name for name in sys.modules if name.partition(".")[0] == "halfway"]:
        del sys.modules[name]
    for names in [names for names in libraries._found if "halfway" in str(names)]:
        del libraries._found[names]


@pytest.mark.parametrize("module", ["key", "half"])
def test_a_failure_is_not_remembered(package, module):
    name = f"{package}.{module}"
    assert libraries.find(name) is None
    with pytest.raises(ImportError, match="this filter needs halfway, which cannot be imported"):
        libraries.library("halfway.never")
    sys.modules[package].attempts.clear()  # it is looked for, and then imported to say what it is
    with pytest.raises(ImportError, match=r"needs halfway, .*(KeyError|partially)"):
        libraries.library(name)
    assert libraries.library(name).value == 5
    assert libraries.find(name).value == 5


def test_what_serves_meanwhile_is_not_kept_either(package):
    names = (f"{package}.half", "zlib")
    assert libraries.find(*names).__name__ == "zlib"
    assert libraries.find(*names).__name__ == "zlib"
    assert libraries.find(*names).__name__ == f"{package}.half"
    # What is not installed does not come back by itself: its place is kept by what there is.
    assert libraries.find("halfway_never", "zlib").__name__ == "zlib"
    assert libraries._found[("halfway_never", "zlib")].__name__ == "zlib"
    assert libraries.find("halfway_never") is None


def test_memory_that_is_short_is_no_missing_library(package):
    with pytest.raises(MemoryError):
        libraries.find(f"{package}.memory")
    with pytest.raises(MemoryError):
        libraries.library(f"{package}.memory")
    assert libraries.library(f"{package}.memory").value == 5


def test_a_codec_whose_library_failed_once_works_later(package, monkeypatch):
    monkeypatch.setitem(CODECS, 1, CODECS[1].__class__(
        id=1, name="deflate", decode=CODECS[1].decode, encode=CODECS[1].encode,
        libraries=(f"{package}.key",), extra="codecs",
    ))  # fmt: skip
    pipeline = Pipeline((Filter(1, "deflate", (4,)),), np.dtype("i4"), 8)
    assert unsupported(pipeline) == "deflate needs the 'codecs' extra"
    assert unsupported(pipeline) == "deflate needs the 'codecs' extra"
    assert unsupported(pipeline) is None


@pytest.mark.parametrize(
    "bug", [KeyError("numcodecs"), TypeError("bug"), ImportError("half"), AttributeError("bug"),
            IndexError("bug"), ZeroDivisionError("bug"), MemoryError()], ids=repr
)  # fmt: skip
def test_our_own_faults_are_not_called_corrupt(bug):
    def fails(*args):
        raise bug

    with pytest.raises(type(bug)) as caught:
        libraries.call(fails, b"bytes")
    assert caught.value is bug


class Complaint(Exception):
    pass


@pytest.mark.parametrize("kind", [RuntimeError, ValueError, Complaint])
def test_what_libraries_say_of_bytes_is(kind):
    def fails(*args):
        raise kind("bad bytes")

    with pytest.raises(CorruptFileError, match=f"{kind.__name__}: bad bytes") as caught:
        libraries.call(fails, b"bytes", errors=(Complaint,))
    assert isinstance(caught.value.__cause__, kind)


def test_a_fault_in_a_decoder_is_raised_as_it_is(monkeypatch, tmp_path):
    from filtered import count_matrix

    def broken(data, cd, dest):
        raise KeyError("numcodecs")

    path = tmp_path / "m.h5"
    diskcsr.write(path, count_matrix(), compression="lzf", chunks=64).close()
    row = CODECS[32000]
    with diskcsr.open(path) as A:
        monkeypatch.setitem(CODECS, 32000, row.__class__(id=32000, name="lzf", decode=broken))
        with pytest.raises(KeyError, match="numcodecs"):
            A[[5]]
        monkeypatch.setitem(CODECS, 32000, row)
        assert A[[5]].nnz == count_matrix()[[5]].nnz  # and the array lives on


def test_kernels_are_attributes_of_their_package():
    assert kernels.lzf.__name__ == "diskcsr.kernels.lzf"
    with pytest.raises(AttributeError, match="has no attribute 'zip'"):
        kernels.zip  # noqa: B018
    assert loading.load("os.path") is os.path
    pipeline = Pipeline((Filter(32000, "lzf", ()),), np.dtype("i4"), 8)
    assert isinstance(encode_chunk(np.zeros(8, "i4"), pipeline), bytes)


INTERRUPTED = """
import json, sys
from diskcsr import loading
sys.path.insert(0, sys.argv[1])
told = []
for _ in range(2):
    try:
        told.append(loading.load("slow").done)
    except KeyboardInterrupt:
        told.append("interrupted")
print(json.dumps(told))
"""


def test_an_import_comes_to_its_end_before_an_interrupt_does(tmp_path):
    lines = ["import os, signal", "os.kill(os.getpid(), signal.SIGINT)", "done = 1"]
    (tmp_path / "slow.py").write_text(
        "\n".join(lines) + "\nassert 'count' not in vars(os)\nos.count = 1\n"
    )
    assert in_a_child(INTERRUPTED, tmp_path) == ["interrupted", 1]
