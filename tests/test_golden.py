"""Files that other software wrote (golden/make.py says how) are found, recognised and read."""

import h5py
import numpy as np
import pytest
from golden.make import FILES, HERE, path_of

import diskcsr
from diskcsr.storage.formats import detect as formats

GROUPS = [
    pytest.param(file, group, stored, id=f"{file}-{group}")
    for file, groups in FILES.items()
    for group, stored in groups.items()
]
every_group = pytest.mark.parametrize(("file", "group", "stored"), GROUPS)


def find(file):
    """Return the path of the kept file called `file`, whichever version wrote it."""
    (path,) = HERE.glob(path_of(file, "*").name)
    return path


@pytest.mark.parametrize("file", FILES)
def test_what_is_in_the_file(file):
    path = find(file)
    assert path.stat().st_size < 30_000
    with h5py.File(path) as opened:
        assert formats.find(opened) == sorted(f"/{group}" for group in FILES[file])


def test_no_file_without_its_writer():
    kept = {path.name for path in HERE.iterdir() if path.suffix in (".h5", ".h5ad")}
    assert kept == {find(file).name for file in FILES}


@every_group
def test_recognised(file, group, stored):
    expected = stored.expected()
    with h5py.File(find(file)) as opened:
        header = formats.detect(opened[group])
    assert header.convention == stored.convention
    assert (header.format, header.shape) == (stored.format, expected.shape)


@every_group
def test_read(file, group, stored):
    expected = stored.expected()
    with diskcsr.open(find(file), group) as matrix:
        assert isinstance(matrix, {"csr": diskcsr.DiskCSR, "csc": diskcsr.DiskCSC}[stored.format])
        assert matrix.shape == expected.shape
        assert matrix.dtype == expected.dtype
        assert matrix.nnz == expected.nnz
        loaded = matrix.to_memory()
    assert loaded.format == stored.format
    assert loaded.dtype == expected.dtype
    for part in ("indptr", "indices", "data"):  # as stored: unsorted, twice
        np.testing.assert_array_equal(getattr(loaded, part), getattr(expected, part))


@every_group
def test_selected(file, group, stored):
    dense = stored.expected().toarray()
    rows, columns = (np.arange(0, length, 3)[::-1] for length in dense.shape)
    with diskcsr.open(find(file), group) as matrix:
        for key in (
            np.s_[:],
            np.s_[rows],
            np.s_[:, columns],
            np.s_[1:-1:2, ::-1],
            np.arange(dense.shape[0]) % 3 == 1,
            np.ix_(rows, columns),
        ):
            selected = matrix[key]
            assert selected.dtype == dense.dtype
            np.testing.assert_array_equal(selected.toarray(), dense[key])
        if rows.size:
            assert matrix[rows[0], 5] == dense[rows[0], 5]


@pytest.mark.parametrize("file", FILES)
def test_sound(file):
    report = diskcsr.check(find(file))
    assert [problem for problem in report.problems if problem.severity == "error"] == []
    unsorted = {f"/{group}/indices" for group, stored in FILES[file].items() if stored.odd}
    assert {problem.where for problem in report.problems} == unsorted
    assert sorted(report.matrices) == sorted(f"/{group}" for group in FILES[file])


def test_a_matrix_that_is_alone_needs_no_name():
    with diskcsr.open(find("anndata.h5ad")) as matrix:
        assert matrix.name == "/X"
