"""Files written by other software: found, recognised and read as h5py and scipy alone read them."""

from pathlib import Path

import h5py
import numpy as np
import pytest
from realfiles import GROUPS, NEGATIVE, ROOT, Group
from scipy.sparse import csc_array, csr_array

import diskcsr
from diskcsr.storage.formats import detect as formats

pytestmark = pytest.mark.skipif(
    not ROOT.is_dir(), reason="the sample files (../shared/realfiles) are not here"
)

FILES = sorted({group.file for group in GROUPS})
SINGLE = [group for group in GROUPS if sum(other.file == group.file for other in GROUPS) == 1]
every_group = pytest.mark.parametrize("group", GROUPS, ids=str)


def groups_with_pointers(path: Path) -> set[str]:
    """Names of all groups that hold a dataset called as row pointers are in any convention."""
    found = set()

    def visit(name: str, thing: object) -> None:
        if isinstance(thing, h5py.Group) and {"indptr", "jc", "pointers_to_1"} & set(thing):
            found.add(f"/{name}")

    with h5py.File(path, "r") as file:
        file.visititems(visit)
    return found


def is_hdf5(path: Path) -> bool:
    return path.is_file() and bool(h5py.is_hdf5(path))


# ----------------------------------------------------------------------------- the inventory itself


def test_the_inventory_names_every_file():
    there = {str(path.relative_to(ROOT)) for path in ROOT.rglob("*") if is_hdf5(path)}
    assert there == set(FILES) | set(NEGATIVE)


@pytest.mark.parametrize("file", [*FILES, *NEGATIVE])
def test_the_inventory_names_every_group(file):
    assert groups_with_pointers(ROOT / file) == {g.name for g in GROUPS if g.file == file}


def test_the_independent_reader_reads_what_the_writers_say():
    mini = next(g for g in GROUPS if "v0.6.22" in g.file and g.name == "/X").read()
    np.testing.assert_array_equal(
        mini.toarray(), [[1, 2, 0, 3, 0], [0, 0, 2, 2, 1], [0, 0, 2, 0, 2]]
    )
    tenx = next(g for g in GROUPS if "v3_3.0.0" in g.file).read()
    assert not tenx.has_sorted_indices  # before sum(), which may sort
    assert tenx.sum() == 41549
    iso = next(g for g in GROUPS if g.name == "/iso").read()
    assert iso.nnz == 6
    assert set(iso.data) == {7}


# ---------------------------------------------------------------------------------------- detection


@every_group
def test_detect(group: Group):
    with h5py.File(group.path, "r") as file:
        header = formats.detect(file[group.name])
    assert (header.format, header.shape) == (group.format, group.shape)
    assert header.convention == group.convention
    assert header.indptr == group.names[2]
    absent = group.file == "mat73/testfile13.mat"
    assert (header.data, header.indices) == ((None, None) if absent else group.names[:2])
    assert header.iso == (group.name == "/iso")


@pytest.mark.parametrize("file", [*FILES, *NEGATIVE])
def test_find(file):
    with h5py.File(ROOT / file, "r") as opened:
        assert formats.find(opened) == sorted(g.name for g in GROUPS if g.file == file)


@pytest.mark.parametrize("file", NEGATIVE)
def test_describe_says_what_is_there_instead(file):
    with h5py.File(ROOT / file, "r") as opened:
        phrase = formats.describe(opened)
    for words in NEGATIVE[file]:
        assert words in phrase


# ------------------------------------------------------------------------------------------ reading


@every_group
def test_open(group: Group):
    expected = group.read()
    with diskcsr.open(group.path, group.name) as matrix:
        assert isinstance(matrix, {"csr": csr_array, "csc": csc_array}[group.format])
        assert matrix.format == group.format
        assert matrix.shape == group.shape
        assert all(type(length) is int for length in matrix.shape)
        assert matrix.dtype == expected.dtype
        assert matrix.nnz == expected.nnz
        loaded = matrix.to_memory()
    assert type(loaded) is type(expected)
    assert loaded.dtype == expected.dtype
    assert loaded.shape == expected.shape
    for part in ("indptr", "indices", "data"):
        np.testing.assert_array_equal(getattr(loaded, part), getattr(expected, part))


@every_group
def test_selections(group: Group):
    expected = group.read()
    dense = expected.toarray()
    rng = np.random.default_rng(group.shape[0])
    rows, columns = (
        rng.integers(-length, length, size=min(length, 9)) if length else np.zeros(0, int)
        for length in group.shape
    )
    keys = [
        np.s_[:],
        np.s_[rows],
        np.s_[:, columns],
        np.s_[1:-1:2, ::-1],
        np.s_[np.arange(group.shape[0]) % 3 == 1],
        np.ix_(rows, columns),
    ]
    with diskcsr.open(group.path, group.name) as matrix:
        for key in keys:
            selected = matrix[key]
            assert selected.dtype == expected.dtype
            assert selected.format == group.format
            np.testing.assert_array_equal(selected.toarray(), dense[key])
        if rows.size and columns.size:
            i, j = int(rows[0]), int(columns[0])
            assert matrix[i, j] == dense[i, j]
            np.testing.assert_array_equal(matrix[i].toarray(), dense[i])


@pytest.mark.parametrize("group", SINGLE, ids=str)
def test_a_matrix_that_is_alone_needs_no_name(group: Group):
    with diskcsr.open(group.path) as matrix:
        assert matrix.name == group.name
        assert matrix.shape == group.shape


@pytest.mark.parametrize("group", [GROUPS[0], *SINGLE], ids=str)
def test_open_from_other_handles(group: Group):
    dense = group.read().toarray()
    with h5py.File(group.path, "r") as file:
        np.testing.assert_array_equal(diskcsr.open(file, group.name).toarray(), dense)
        np.testing.assert_array_equal(diskcsr.open(file[group.name]).toarray(), dense)
    with open(group.path, "rb") as raw, diskcsr.open(raw, group.name) as matrix:
        np.testing.assert_array_equal(matrix.toarray(), dense)


def test_several_matrices_need_a_name():
    with pytest.raises(diskcsr.FormatError, match=r"connectivities.*distances"):
        diskcsr.open(ROOT / "anndata/v0.5.0.h5ad")


def test_the_untagged_file_needs_no_hint_and_takes_right_ones_only():
    (group,) = (g for g in GROUPS if g.convention == "untagged")
    with diskcsr.open(group.path, format="csr", shape=(20, 12)) as matrix:
        np.testing.assert_array_equal(matrix.toarray(), group.read().toarray())
    with pytest.raises(diskcsr.FormatError, match="'csc' contradicts the 21 entries"):
        diskcsr.open(group.path, format="csc")


@pytest.mark.parametrize("file", NEGATIVE)
def test_a_file_without_a_sparse_matrix_says_what_it_has(file):
    with pytest.raises(diskcsr.FormatError) as caught:
        diskcsr.open(ROOT / file)
    for words in (file, *NEGATIVE[file]):
        assert words in str(caught.value)


@pytest.mark.parametrize(
    ("file", "name"), [("loom/test.loom", "matrix"), ("loom/test.loom", "layers")]
)
def test_a_name_that_is_no_sparse_matrix(file, name):
    with pytest.raises(diskcsr.FormatError, match=f"{name}.*(dense|nothing)"):
        diskcsr.open(ROOT / file, name)
