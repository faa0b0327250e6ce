"""scipy's own tests of csr and csc, with the matrix under test on disk.

The classes of the installed ``scipy.sparse.tests.test_base`` run unchanged, except that what their
``spcreator`` makes, and what their ``csr_container`` and ``csc_container`` make, is written to a
file of its own and opened by diskcsr. Each test is judged against plain scipy in the same run: one
that fails or skips there may do the same here. In mode "c" nothing else is excused; in mode "r"
``exceptions.txt`` lists what is, and all that it lists must fail, for the reason given.
"""

import fnmatch
import functools
import os
import tempfile
from collections import Counter
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import pytest
import scipy
from packaging.specifiers import SpecifierSet
from scipy import sparse

import diskcsr

from .stored import LAYOUT_MARKS, LAYOUTS, Library, Shelf

test_base = pytest.importorskip(
    "scipy.sparse.tests.test_base", reason="this scipy is installed without its tests"
)

# scipy's tests may warn as they like; what diskcsr's own modules warn about is still an error.
pytestmark = pytest.mark.filterwarnings("ignore", "error:::diskcsr")

CANONICAL = ("TestCSR", "TestCSC")
NON_CANONICAL = ("TestCSRNonCanonical", "TestCSCNonCanonical")  # unsorted, duplicates, zeros

# (mode, flavour in scipy's class names, layout, scipy classes). Of the three, every pair of two
# occurs; the other four combinations would repeat what these cover, file by file:
#   "c", array, raw       assigning to maps: "c", Matrix, raw; an array's results: "r", array, raw
#   "c", Matrix, gzip     assigning to loaded arrays: "c", array, gzip; a matrix: the others
#   "r", array, gzip      reading: "c", array, gzip, which reads alike; refusing: "r", array, raw
#   "r", Matrix, raw      reading: "c", Matrix, raw; refusing: "r", Matrix, gzip
# Entries out of order matter to what is read, in either layout, and to what may then be done in
# either mode, not to the combination of the two, and not to the flavour.
RUNS = [
    ("c", "", "gzip", CANONICAL + NON_CANONICAL),
    ("c", "Matrix", "raw", CANONICAL),
    ("r", "", "raw", CANONICAL + NON_CANONICAL),
    ("r", "Matrix", "gzip", CANONICAL),
]

# Thousands of small files are made: in memory where the system has a place for that.
QUICK = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None

# By test class: tests run, and files opened in them.
ran, opened = Counter(), Counter()


@pytest.fixture(scope="module")
def libraries():
    """One `Library` for each layout."""
    with tempfile.TemporaryDirectory(prefix="diskcsr-conformance-", dir=QUICK) as folder:
        yield {layout: Library(folder, layout) for layout in LAYOUTS}


class OnDisk:
    """Puts the matrices of scipy's test class, the next one in the MRO, on disk.

    The scipy class has already run its ``init_class``, on plain matrices: ``is_array_test`` and
    the dense twins are its own, and only what is made of them here is opened from a file.
    """

    mode: str
    layout: str

    @pytest.fixture(autouse=True)
    def _shelf(self, libraries):
        shelf = self.shelf = Shelf(libraries[self.layout], self.mode)
        yield
        ran[type(self).__name__] += 1
        opened[type(self).__name__] += len(shelf)
        vars(self).clear()  # pytest keeps the instance, which would keep every array of the run
        assert not shelf.close(), "the test changed these files"

    def _on_disk(self, plain):
        """Return `plain` opened from a file; a 1-D array, which no file holds, as it is."""
        if plain.ndim == 1:
            return plain
        array = self.shelf.put(plain, spmatrix=not isinstance(plain, sparse.sparray))
        array.maxprint = plain.maxprint  # not part of what a file holds
        return array

    def spcreator(self, *args, **kwargs):
        return self._on_disk(super().spcreator(*args, **kwargs))

    def csr_container(self, *args, **kwargs):
        return self._on_disk(super().csr_container(*args, **kwargs))

    def csc_container(self, *args, **kwargs):
        return self._on_disk(super().csc_container(*args, **kwargs))

    # scipy makes these once for the whole class. Here every test has its own, opened when it is
    # first asked for: an array that an earlier test used may no longer read its file.
    @cached_property
    def datsp(self):
        return self._on_disk(super().datsp)

    @cached_property
    def datsp_dtypes(self):
        return _OpenedWhenUsed(super().datsp_dtypes, self._on_disk)


class _OpenedWhenUsed(dict):
    """``{dtype: plain matrix}`` as ``{dtype: opened matrix}``."""

    def __init__(self, plain, on_disk):
        super().__init__()
        self._plain, self._on_disk = plain, on_disk

    def __missing__(self, dtype):
        self[dtype] = array = self._on_disk(self._plain[dtype])
        return array


Skipped = pytest.skip.Exception
NOT_PASSED = (Exception, Skipped, pytest.fail.Exception, pytest.xfail.Exception)


def outcome(function, *args, **kwargs):
    """Call a test and return what it raised, or None."""
    try:
        function(*args, **kwargs)
    except NOT_PASSED as error:
        return error
    return None


def judged(scipy_class, name):
    """Return test `name` of `scipy_class` for use in a subclass, judged against plain scipy.

    A failure that `scipy_class` shares is an expected one. A skip must be a skip there too: parts
    of scipy's suite turn an ``IndexError`` or ``AttributeError`` into a skip.
    """
    method = getattr(scipy_class, name)

    @functools.wraps(method)
    def test(self, *args, **kwargs):
        here = outcome(method, self, *args, **kwargs)
        if here is None:
            return
        plain = outcome(method, scipy_class(), *args, **kwargs)
        if isinstance(here, Skipped) != isinstance(plain, Skipped):
            pytest.fail(f"on disk: {here!r}; plain scipy: {plain!r}")
        if plain is not None and not isinstance(plain, Skipped):
            pytest.xfail(f"plain scipy fails too: {plain!r}")
        raise here

    return test


class Excuse(NamedTuple):
    """One line of exceptions.txt."""

    pattern: str  # of "scipy class::test"
    error: type
    scipy: SpecifierSet
    reason: str

    def covers(self, test_id):
        """Whether it is about the test, in the installed scipy."""
        return fnmatch.fnmatchcase(test_id, self.pattern) and self.is_current()

    def is_current(self):
        """Whether it is about the installed scipy."""
        return self.scipy.contains(scipy.__version__, prereleases=True)


def read_excuses(path):
    """Parse exceptions.txt, whose head says what a line holds."""
    lines = path.read_text(encoding="utf-8").splitlines()
    fields = [line.split(maxsplit=3) for line in lines if line and not line.startswith("#")]
    return [
        Excuse(pattern, getattr(diskcsr, error), SpecifierSet(versions), reason)
        for pattern, error, versions, reason in fields
    ]


EXCUSES = read_excuses(Path(__file__).parent / "exceptions.txt")


def names_of_tests(scipy_class):
    return [name for name in dir(scipy_class) if name.startswith("test_")]


def on_disk(scipy_name, *, mode, layout):
    """Return a subclass of scipy's test class `scipy_name` whose matrices are on disk."""
    scipy_class = getattr(test_base, scipy_name)
    suite_name = f"{scipy_name}_{mode}_{layout}"
    members = {"mode": mode, "layout": layout, "__module__": __name__}
    members["pytestmark"] = LAYOUT_MARKS[layout]
    for name in names_of_tests(scipy_class):
        members[name] = judged(scipy_class, name)
        for excuse in EXCUSES if mode == "r" else ():
            if excuse.covers(f"{scipy_name}::{name}"):
                refused = pytest.mark.xfail(raises=excuse.error, reason=excuse.reason, strict=True)
                members[name] = refused(members[name])
    return type(suite_name, (OnDisk, scipy_class), members)


SUITES = [
    on_disk(scipy_name + flavour, mode=mode, layout=layout)
    for mode, flavour, layout, scipy_names in RUNS
    for scipy_name in scipy_names
]
globals().update({suite.__name__: suite for suite in SUITES})  # where pytest finds them


# ---------------------------------------------------------------------- is the harness itself right


@pytest.mark.parametrize(
    "suite",
    [pytest.param(suite, id=suite.__name__, marks=LAYOUT_MARKS[suite.layout]) for suite in SUITES],
)
def test_suite_is_scipys_and_ran_on_disk(suite):
    scipy_class = suite.__mro__[2]
    flavour = sparse.spmatrix if "Matrix" in scipy_class.__name__ else sparse.sparray
    assert suite.is_array_test is (flavour is sparse.sparray)
    # Whole: every mix-in of scipy's is in, and none in the form that expects a failure.
    assert len(names_of_tests(suite)) == len(names_of_tests(scipy_class)) > 150
    for part in ("_TestGetSet", "_TestSlicing", "_TestFancyIndexing", "_TestMinMax"):
        assert issubclass(suite, getattr(test_base, part))

    if ran[suite.__name__] < 0.9 * len(names_of_tests(suite)):
        pytest.skip("the suite was not run, or not whole")
    assert opened[suite.__name__] > 1000


@pytest.mark.parametrize("mode", ["r", "c"])
@pytest.mark.parametrize("name", ["csr_array", "csc_array", "csr_matrix", "csc_matrix"])
def test_what_the_suite_is_given_is_a_disk_array(tmp_path, mode, name):
    plain = getattr(sparse, name)([[0, 1.5], [2, 0]])
    kind = {
        "csr_array": diskcsr.DiskCSR,
        "csc_array": diskcsr.DiskCSC,
        "csr_matrix": diskcsr.DiskCSRMatrix,
        "csc_matrix": diskcsr.DiskCSCMatrix,
    }[name]
    library = Library(tmp_path, "gzip")
    shelf = Shelf(library, mode)
    array = shelf.put(plain, spmatrix="matrix" in name)
    assert type(array) is kind
    assert isinstance(array, type(plain))
    assert array.mode == mode
    assert not {"data", "indices", "indptr"} & set(vars(array))  # all of it still in the file
    assert array.toarray().tolist() == [[0, 1.5], [2, 0]]
    assert shelf.put(plain, spmatrix="matrix" in name) is not array
    assert len(list(tmp_path.iterdir())) == 1
    assert shelf.close() == []
    assert array.closed


def test_a_change_of_a_file_is_noticed(tmp_path):
    library = Library(tmp_path, "raw")
    shelf = Shelf(library, "r")
    plain = sparse.csr_array([[0, 1.5], [2, 0]])
    shelf.put(plain)
    path = library.file_of(plain)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    assert shelf.close() == [path]
    assert library.file_of(plain) == path  # written anew
    assert library.changed([path]) == []


def test_unsorted_and_duplicate_entries_reach_the_file(tmp_path):
    plain = sparse.csr_array(([1, 2, 3, 4], [2, 0, 2, 1], [0, 3, 4]), shape=(2, 3))
    other = sparse.csr_array(([2, 1, 3, 4], [0, 2, 2, 1], [0, 3, 4]), shape=(2, 3))
    shelf = Shelf(Library(tmp_path, "raw"), "c")
    array = shelf.put(plain)
    assert array.indices.tolist() == [2, 0, 2, 1]
    assert array.data.tolist() == [1, 2, 3, 4]
    assert array.indptr.tolist() == [0, 3, 4]
    assert shelf.put(other).indices.tolist() == [0, 2, 2, 1]


class _Imitation:
    """A test class as scipy has them; `works` is false where its matrix is broken."""

    works = True

    def test_right(self):
        pass

    def test_wrong_on_disk(self):
        assert self.works

    def test_wrong_everywhere(self):
        raise ZeroDivisionError

    def test_skipped_on_disk(self):
        if not self.works:
            pytest.skip("feature not implemented")

    def test_skipped_in_plain(self):
        if self.works:
            pytest.skip("feature not implemented")
        raise IndexError

    def test_skipped_everywhere(self):
        pytest.skip("not for this dtype")


class _BrokenImitation(_Imitation):
    works = False


@pytest.mark.parametrize(
    ("name", "verdict"),
    [
        ("test_right", type(None)),
        ("test_wrong_on_disk", AssertionError),
        ("test_wrong_everywhere", pytest.xfail.Exception),
        ("test_skipped_on_disk", pytest.fail.Exception),
        ("test_skipped_in_plain", pytest.fail.Exception),
        ("test_skipped_everywhere", Skipped),
    ],
)
def test_verdicts(name, verdict):
    test = judged(_Imitation, name)
    assert test.__name__ == name
    assert type(outcome(test, _BrokenImitation())) is verdict


@pytest.mark.parametrize("excuse", EXCUSES, ids=lambda excuse: f"{excuse.pattern}{excuse.scipy}")
def test_exceptions_are_of_real_tests_and_given_once(excuse):
    if not excuse.is_current():
        pytest.skip(f"about scipy {excuse.scipy}")
    ids = {
        f"{name}::{test}"
        for name in CANONICAL + NON_CANONICAL
        for test in names_of_tests(getattr(test_base, name))
    }
    covered = {test_id for test_id in ids if excuse.covers(test_id)}
    assert covered
    others = [other for other in EXCUSES if other is not excuse]
    assert not [
        (test_id, other) for test_id in covered for other in others if other.covers(test_id)
    ]
    assert issubclass(excuse.error, diskcsr.DiskCSRError)
    assert len(excuse.reason) > 10
