"""Compiled kernels are kept where that is safe and possible; where it is not, one warning says so.

The children run as they would for a service account: folders that may not be written to are made
so by their mode, which root must first be deprived of overriding.
"""

import hashlib
import json
import os
import re
import resource
import shutil
import stat
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse as sp

import diskcsr
from diskcsr.kernels.kept import Folder, Store, usual_folders

pytestmark = pytest.mark.skipif(
    os.environ.get("NUMBA_DISABLE_JIT") == "1", reason="nothing is compiled"
)

STAMP = hashlib.sha256(b"source").digest()

PROGRAM = """
import hashlib, json, sys, warnings
import numpy as np, diskcsr
def fetch(path):
    "Fetch rows of a file: what most processes do first, and what takes longest to compile."
    with diskcsr.open(path, "X") as A:
        part = A[np.random.default_rng(0).integers(0, A.shape[0], size=40)]
    return hashlib.sha256(b"".join([part.data, part.indices, part.indptr])).hexdigest()
def look(path=None):
    "Call two small kernels, the second of which calls another; return what is wrong with them."
    from diskcsr.kernels import planes, rows
    found = [rows.first_bad_index(np.array([3, 9, 4], np.int32), 5)]
    out, four = np.zeros(8, np.uint8), np.array([4])
    data, whole = np.arange(8, dtype=np.uint8), [four * 0, four // 2, four * 0]
    planes.gather_4(data, 2, *whole, out.view(np.uint32))
    return [*found, *out.tolist()]
def counts():
    "Return how often numba found a kernel, and how often it compiled one."
    modules = [m for name, m in sys.modules.items() if name.startswith("diskcsr.kernels.")]
    kernels = {id(one): one for m in modules for one in vars(m).values() if hasattr(one, "stats")}
    found = [kernel.stats for kernel in kernels.values()]
    return [sum(sum(getattr(s, name).values()) for s in found)
            for name in ("cache_hits", "cache_misses")]
def report(work, path=None):
    "Print what came of some work done twice: results, warnings, and what numba counted."
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        results = [work(path), work(path)]
    told = [[w.category.__name__, str(w.message), w.filename] for w in caught]
    print(json.dumps([results, told, *counts()]))
"""
FETCH, LOOK = "report(fetch, sys.argv[1])", "report(look)"
#: Leaves the temporary folders of this machine out, which the tests are not to write to.
NOWHERE = "from diskcsr.kernels import kept\nkept.TEMPORARY = ()\n"
LOOKED = [1, 0, 2, 4, 6, 1, 3, 5, 7]


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    path = tmp_path_factory.mktemp("kept") / "m.h5"
    rng = np.random.default_rng(0)
    dense = rng.random((300, 40)) * (rng.random((300, 40)) < 0.2)
    diskcsr.write(path, sp.csr_array(dense)).close()
    return path


@pytest.fixture(scope="module")
def fetched(path):
    with diskcsr.open(path, "X") as A:
        part = A.to_memory()[np.random.default_rng(0).integers(0, 300, size=40)]
    return hashlib.sha256(b"".join([part.data, part.indices, part.indptr])).hexdigest()


@pytest.fixture
def place(tmp_path):
    """A folder with a copy of the package, site, an empty home, and a temporary folder, temp."""
    source = Path(diskcsr.__file__).parent
    shutil.copytree(source, tmp_path / "site/diskcsr", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "home").mkdir()
    (tmp_path / "temp").mkdir()
    yield tmp_path
    for folder in (tmp_path / "site/diskcsr/kernels", tmp_path / "home"):
        folder.chmod(0o755)


def read_only(*folders):
    for folder in folders:
        folder.chmod(0o555)


def deprived():
    """What to put before a command so that the modes of folders bind it, too."""
    if os.geteuid():
        return []
    if not shutil.which("setpriv"):
        pytest.skip("root may write to every folder, and setpriv is not there to change that")
    return ["setpriv", "--bounding-set=-dac_override,-dac_read_search"]


def run(place, program, *arguments, before=(), options=(), limits=None, **environment):
    """Run a program on the copy of the package; return what it printed, from JSON."""
    kept = {name: value for name, value in os.environ.items() if name != "NUMBA_CACHE_DIR"}
    kept.pop("XDG_CACHE_HOME", None)
    folders = {"PYTHONPATH": place / "site", "HOME": place / "home", "TMPDIR": place / "temp"}
    done = subprocess.run(
        [*before, *deprived(), sys.executable, *options, "-c", PROGRAM + program, *arguments],
        capture_output=True,
        text=True,
        env=kept | {name: str(value) for name, value in {**folders, **environment}.items()},
        preexec_fn=limits,
        cwd=place / "temp",
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def kernels_in(folder):
    return sorted(file for file in folder.rglob("*.nbc"))


# ------------------------------------------------------------------------------- where they go


def test_beside_the_source_where_that_can_be_written_to(place):
    results, told, hits, misses = run(place, LOOK)
    assert (results, told, hits) == ([LOOKED] * 2, [], 0)
    assert misses == 3
    assert len(kernels_in(place / "site/diskcsr/kernels/__pycache__")) == misses
    assert [*place.glob("home/.cache"), *place.glob("temp/*")] == []
    # Whoever may not write there, and has no home, is served by them all the same.
    read_only(place / "site/diskcsr/kernels/__pycache__", place / "home")
    results, told, hits, again = run(place, LOOK, TMPDIR="/nonexistent")
    assert (results, told, again) == ([LOOKED] * 2, [], 0)
    assert hits == 2


def test_in_the_home_of_a_user_of_a_shared_installation(place):
    read_only(place / "site/diskcsr/kernels")
    results, told, _, misses = run(place, LOOK)
    assert (results, told) == ([LOOKED] * 2, [])
    assert len(kernels_in(place / "home/.cache")) == misses
    (folder,) = (place / "home/.cache").iterdir()
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert run(place, LOOK)[3] == 0


def test_among_temporary_files_with_one_warning(place, path, fetched):
    read_only(place / "site/diskcsr/kernels", place / "home")
    results, told, _, misses = run(place, FETCH, path)
    assert results == [fetched] * 2
    ((category, message, told_of),) = told
    assert category == "KernelCacheWarning"
    assert "NUMBA_CACHE_DIR" in message
    assert str(place / "home/.cache") in message
    assert told_of == "<string>"
    (folder,) = (place / "temp").iterdir()
    assert str(folder) in message
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert len(kernels_in(folder)) == misses
    # Another process finds them there: it has nothing to warn of.
    results, told, _, misses = run(place, FETCH, path)
    assert (results, told, misses) == ([fetched] * 2, [], 0)


def test_nowhere_with_one_warning(place):
    read_only(place / "site/diskcsr/kernels", place / "home", place / "temp")
    results, told, hits, misses = run(place, NOWHERE + LOOK)
    assert (results, hits) == ([LOOKED] * 2, 0)
    assert misses == 3
    ((category, message, _),) = told
    assert category == "KernelCacheWarning"
    assert "are not kept" in message
    assert "NUMBA_CACHE_DIR" in message
    assert kernels_in(place) == []


def in_a_namespace(script):
    """What to put before a command so that it runs after `script`, with mounts of its own."""
    if os.geteuid() or not shutil.which("unshare"):
        pytest.skip("mounting takes root and unshare")
    before = ["unshare", "--mount", "sh", "-ec", f'{script}; exec "$@"', "sh"]
    if subprocess.run([*before, "true"], capture_output=True, check=False).returncode:
        pytest.skip("this system does not let its root mount")
    return before


def test_a_container_whose_root_file_system_is_read_only(place):
    parts = "/tmp /var/tmp"
    before = in_a_namespace(
        f"for part in {parts}; do mount --bind $part $part; mount -o remount,ro,bind $part; done"
    )
    if not place.is_relative_to("/tmp"):
        pytest.skip("the tests' folder is not among those that are made read-only")
    results, told, _, _ = run(place, LOOK, before=before)
    assert results == [LOOKED] * 2
    ((category, message, _),) = told
    assert category == "KernelCacheWarning"
    assert "are not kept" in message
    assert "Read-only file system" in message


def test_the_folder_that_the_user_names_comes_first(place):
    chosen = place / "chosen"
    results, told, _, misses = run(place, LOOK, NUMBA_CACHE_DIR=chosen)
    assert (results, told) == ([LOOKED] * 2, [])
    assert len(kernels_in(chosen)) == misses
    assert kernels_in(place / "site") == []


def test_the_warning_can_be_made_an_error(place, path, fetched):
    # The kernel is compiled when it is asked for again.
    read_only(place / "site/diskcsr/kernels", place / "home")
    program = """
try:
    fetch(sys.argv[1])
except diskcsr.KernelCacheWarning as problem:
    seen = str(problem)
print(json.dumps([seen, fetch(sys.argv[1])]))
"""
    message, result = run(place, program, path, options=["-W", "error"])
    assert "NUMBA_CACHE_DIR" in message
    assert result == fetched


def test_an_account_without_a_home(monkeypatch):
    monkeypatch.delenv("HOME")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("TMPDIR", "relative")
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)
    paths = [folder.path for folder in usual_folders(Path("/site/kernels"), "")]
    assert paths[0] == Path("/site/kernels/__pycache__")
    assert [path.parent for path in paths[1:]] == [Path("/tmp"), Path("/var/tmp")]


# -------------------------------------------------------------------------- what may go wrong


def small_files():
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))


def test_a_limit_on_the_size_of_files(place):
    # The folder takes files, and then refuses the kernels.
    results, told, _, _ = run(place, NOWHERE + LOOK, limits=small_files)
    assert results == [LOOKED] * 2
    ((category, message, _),) = told
    assert category == "KernelCacheWarning"
    assert "are not kept" in message
    assert "File too large" in message
    assert [file for file in place.rglob("*") if "nbc" in file.name] == []


def test_a_full_disk(place):
    before = in_a_namespace(f"mount -t tmpfs -o size=8k none {place / 'home'}")
    read_only(place / "site/diskcsr/kernels", place / "temp")
    results, told, _, _ = run(place, NOWHERE + LOOK, before=before)
    assert results == [LOOKED] * 2
    ((category, message, _),) = told
    assert category == "KernelCacheWarning"
    assert "No space left on device" in message


def test_files_that_hold_something_else_are_compiled_again(place):
    folder = place / "site/diskcsr/kernels/__pycache__"
    run(place, LOOK)
    files = kernels_in(folder)
    for file in files:
        payload = b"not a pickle"
        file.write_bytes(file.read_bytes()[:32] + hashlib.sha256(payload).digest() + payload)
    results, told, hits, misses = run(place, LOOK)
    assert (results, told, hits, misses) == ([LOOKED] * 2, [], 0, 3)
    assert kernels_in(folder) == files
    assert run(place, LOOK)[2:] == [2, 0]


@pytest.mark.parametrize(
    "damage",
    [
        lambda kept: b"",
        lambda kept: kept[:-1],
        lambda kept: kept[:66] + bytes([kept[66] ^ 4]) + kept[67:],
        lambda kept: kept + b" ",
    ],
    ids=["empty", "cut off", "a flipped bit", "longer"],
)
def test_damaged_files_are_not_taken(tmp_path, damage):
    store = kept_in(tmp_path / "kept")
    file = tmp_path / "kept/k.nbc"
    file.write_bytes(damage(file.read_bytes()))
    assert store.load("k.nbc") is None
    store.save("k.nbc", b"code")
    assert store.load("k.nbc") == b"code"


def test_changed_source_is_compiled_again(place):
    run(place, LOOK)
    # A module that none of the kernels in use is in: they might still call it.
    with open(place / "site/diskcsr/kernels/transpose.py", "a") as source:
        source.write("# changed\n")
    results, told, hits, _ = run(place, LOOK)
    assert (results, told, hits) == ([LOOKED] * 2, [], 0)


def test_two_versions_of_numba_take_turns(place):
    other = "import numba\nnumba.__version__ = '0.0.1'\n"
    for turn in range(2):
        for version in ("", other):
            results, told, _, misses = run(place, version + LOOK)
            assert (results, told) == ([LOOKED] * 2, [])
            assert bool(misses) == (turn == 0)


@pytest.mark.parametrize(
    ("renamed", "said"),
    [
        (
            "from numba.core.compiler import CompileResult\ndel CompileResult._reduce\n",
            "has no attribute '_reduce'",
        ),
        (
            "from diskcsr.kernels import caching\ncaching._NAMED_APART = False\n",
            "_unique_ids",
        ),
    ],
    ids=["_reduce", "_unique_ids"],
)
def test_a_numba_without_the_names_that_are_used(place, renamed, said):
    results, told, _, _ = run(place, renamed + LOOK)
    assert results == [LOOKED] * 2
    ((category, message, _),) = told
    assert category == "KernelCacheWarning"
    assert said in message
    assert kernels_in(place) == []


#: Two kernels that call closures of one name and signature, made by one function.
CLOSURES = """
from pathlib import Path
from diskcsr.kernels.caching import njit
def adder(more):
    def add(value):  # recursive, because it must not be inlined
        return value + more if value < 2 else add(value - 1) + add(value - 2)
    add = njit(cache=False)(add)
    return add
def kernel(name, more):
    add = adder(more)
    def call(value):
        return add(value)
    call.__qualname__ = name
    return njit(cache=True)(call)
made = {"ten": kernel("ten", 10), "hundred": kernel("hundred", 100)}
print(json.dumps([[made[name](1) for name in sys.argv[1:]], *[
    sum(kernel.stats.cache_hits.values()) for kernel in made.values()]]))
"""


def test_kernels_of_two_processes_do_not_call_each_others_functions(place):
    # As each is the first that its process compiles, numba would count both closures alike.
    assert run(place, CLOSURES, "ten") == [[11], 0, 0]
    assert run(place, CLOSURES, "hundred") == [[101], 0, 0]
    assert run(place, CLOSURES, "ten", "hundred") == [[11, 101], 1, 1]
    assert run(place, CLOSURES, "hundred", "ten") == [[101, 11], 1, 1]


def test_recompiling_does_not_take_what_was_kept(place):
    run(place, LOOK)
    program = """
from diskcsr.kernels import rows
look()
before = counts()
rows.first_bad_index.recompile()
print(json.dumps([before[1], counts()[1], rows.first_bad_index.stats.cache_path]))
"""
    before, after, folder = run(place, program)
    assert (before, after) == (0, 1)
    assert Path(folder) == place / "site/diskcsr/kernels/__pycache__"


TOGETHER = """
import os
from diskcsr.kernels import rows
ours, theirs = os.pipe()
ready, go = os.pipe()
children = []
for _ in range(20):
    child = os.fork()
    if not child:
        try:
            os.close(go)
            os.read(ready, 1)  # until all are there
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                answer = json.dumps(look())
        except BaseException as problem:
            answer = repr(problem)
        os.write(theirs, answer.encode() + b"\\n")
        os._exit(0)
    children.append(child)
os.close(theirs), os.close(go)
answers = os.fdopen(ours).read().splitlines()
print(json.dumps([answers, [os.waitpid(child, 0)[1] for child in children]]))
"""


def test_twenty_processes_at_once_on_an_empty_cache(place):
    answers, codes = run(place, TOGETHER)
    assert [json.loads(answer) for answer in answers] == [LOOKED] * 20
    assert codes == [0] * 20
    folder = place / "site/diskcsr/kernels/__pycache__"
    assert [file for file in folder.iterdir() if file.suffix == ".tmp"] == []
    results, _, hits, misses = run(place, LOOK)
    assert results == [LOOKED] * 2
    assert (hits, misses) == (2, 0)


# ----------------------------------------------------------------------------- whom to believe


def kept_in(folder, private=True):
    """A store with one folder, in which something was kept."""
    store = Store([Folder(folder, private, True)], STAMP)
    store.save("k.nbc", b"code")
    assert store.load("k.nbc") == b"code"
    return store


def refusal(store):
    """The warning with which a store refuses to keep something; nothing is read from it, either."""
    assert store.load("k.nbc") is None
    with pytest.warns(diskcsr.KernelCacheWarning) as caught:
        store.save("k.nbc", b"other")
    assert len(caught) == 1
    # It is not said again.
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        store.save("k.nbc", b"other")
        store.prepare()
    assert store.load("k.nbc") is None
    assert store.path is None
    return str(caught[0].message)


def test_a_folder_of_another_user_is_not_believed(tmp_path):
    if os.geteuid():
        pytest.skip("only root can give a folder away")
    store = kept_in(tmp_path / "kept")
    os.chown(tmp_path / "kept", 12345, -1)
    assert "belongs to another user" in refusal(store)


@pytest.mark.parametrize("mode", [0o770, 0o702, 0o777])
def test_a_folder_that_others_may_write_to_is_not_believed(tmp_path, mode):
    store = kept_in(tmp_path / "kept")
    (tmp_path / "kept").chmod(mode)
    assert "others may write" in refusal(store)


def test_a_link_to_a_folder_is_not_followed(tmp_path):
    kept_in(tmp_path / "kept")
    (tmp_path / "link").symlink_to(tmp_path / "kept")
    store = Store([Folder(tmp_path / "link", True, True)], STAMP)
    assert re.search("Not a directory|symbolic links", refusal(store))


def test_a_link_to_a_file_is_not_followed(tmp_path):
    store = kept_in(tmp_path / "kept")
    (tmp_path / "kept/k.nbc").rename(tmp_path / "elsewhere")
    (tmp_path / "kept/k.nbc").symlink_to(tmp_path / "elsewhere")
    assert store.load("k.nbc") is None
    # It is replaced, and what it led to is left alone.
    before = (tmp_path / "elsewhere").read_bytes()
    store.save("k.nbc", b"new")
    assert store.load("k.nbc") == b"new"
    assert (tmp_path / "elsewhere").read_bytes() == before


def test_the_next_folder_takes_what_the_first_refuses(tmp_path):
    (tmp_path / "first").write_text("a file where the folder should be")
    folders = [Folder(tmp_path / "first", True, True), Folder(tmp_path / "second", True, True)]
    store = Store(folders, STAMP)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        store.prepare()
        store.save("k.nbc", b"code")
    assert store.path == str(tmp_path / "second")
    assert os.listdir(tmp_path / "second") == ["k.nbc"]
    assert store.load("k.nbc") == b"code"


def test_what_another_source_kept_is_not_taken(tmp_path):
    kept_in(tmp_path / "kept")
    other = Store([Folder(tmp_path / "kept", True, True)], hashlib.sha256(b"other").digest())
    assert other.load("k.nbc") is None
