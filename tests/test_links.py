"""Matrices with parts in other files: found where HDF5 finds them, refused where it would not.

Through a Python file object, as files are open for writing, HDF5 takes any other file for the same
one: it reads other numbers there, or crashes, and writes over what is its own.
"""

import io

import h5py
import numpy as np
import pytest
import scipy.sparse as sp

import diskcsr

MATRIX = sp.csr_array(3.0 * np.eye(4))
#: Where they are, and in the place of the same name in the file itself.
VALUES, OTHERS = np.array([5.0, 6.0, 7.0, 8.0]), np.array([1.0, 2.0, 3.0, 4.0])


def link(group):
    group["data"] = h5py.ExternalLink("values.h5", "/v")


def soft_link(group):
    group.file["to values"] = h5py.ExternalLink("values.h5", "/v")
    group["data"] = h5py.SoftLink("/X/again")
    group["again"] = h5py.SoftLink("/to values")


def virtual(group):
    layout = h5py.VirtualLayout((4,), "f8")
    layout[:2] = h5py.VirtualSource(".", "/v", (4,), "f8")[:2]
    layout[2:] = h5py.VirtualSource("values.h5", "/v", (4,), "f8")[2:]
    group.create_virtual_dataset("data", layout)


def virtual_of_virtual(group):
    layout = h5py.VirtualLayout((4,), "f8")
    layout[:] = h5py.VirtualSource("values.h5", "/v", (4,), "f8")
    group.create_virtual_dataset("inner", layout)
    layout[:] = h5py.VirtualSource(".", "/X/inner", (4,), "f8")
    group.create_virtual_dataset("data", layout)


ELSEWHERE = {one.__name__: one for one in (link, soft_link, virtual, virtual_of_virtual)}


@pytest.fixture
def make(tmp_path):
    def make(elsewhere):
        path = tmp_path / "m.h5"
        diskcsr.write(path, MATRIX).close()
        with h5py.File(tmp_path / "values.h5", "w") as file:
            file["v"] = VALUES
        with h5py.File(path, "r+") as file:
            file["v"] = OTHERS
            del file["X/data"]
            elsewhere(file["X"])
        return path

    return make


def expected(elsewhere):
    return np.append(OTHERS[:2], VALUES[2:]) if elsewhere is virtual else VALUES


@pytest.mark.parametrize("name", ELSEWHERE)
@pytest.mark.parametrize("mode", ["r", "c"])
def test_parts_in_other_files_are_read(make, name, mode):
    elsewhere = ELSEWHERE[name]
    with diskcsr.open(make(elsewhere), mode=mode) as A:
        for found in (A[:], A.to_memory(), A[[3, 0, 1, 2]][[1, 2, 3, 0]]):
            assert np.array_equal(found.data, expected(elsewhere))
        assert np.array_equal(A.data, expected(elsewhere))


READS = [lambda A: A[:], lambda A: A.to_memory(), lambda A: A.data, lambda A: A.sum(0)]


def use(file, mode, action):
    with diskcsr.open(file, "X", mode=mode) as A:
        action(A)


@pytest.mark.parametrize("name", ELSEWHERE)
@pytest.mark.parametrize("how", ["r+", "file object"])
def test_they_are_refused_where_hdf5_looks_in_the_wrong_file(make, name, how):
    path = make(ELSEWHERE[name])
    for read in READS:
        file, mode = (path, "r+") if how == "r+" else (io.BytesIO(path.read_bytes()), "r")
        with pytest.raises(diskcsr.FormatError, match="mode 'r' or 'c'"):
            use(file, mode, read)


def append(A):
    A.append(MATRIX)


def assign(A):
    A[:] = MATRIX


def scale(A):
    A *= 2


@pytest.mark.parametrize("name", ELSEWHERE)
@pytest.mark.parametrize("change", [append, assign, scale])
def test_they_are_not_written_to(make, name, change):
    path = make(ELSEWHERE[name])
    with pytest.raises(diskcsr.FormatError, match=r"mode 'r' or 'c'|virtual"):
        use(path, "r+", change)
    with diskcsr.open(path) as A:
        assert np.array_equal(A[:].data, expected(ELSEWHERE[name]))
        assert np.array_equal(A.indices, range(4))


def test_what_is_in_the_same_file_is_no_matter(make):
    def within(group):
        layout = h5py.VirtualLayout((4,), "f8")
        layout[:] = h5py.VirtualSource(".", "/v", (4,), "f8")
        group.create_virtual_dataset("data", layout)
        indices = group["indices"][:]
        del group["indices"]
        group.file["elsewhere/indices"] = indices
        group["indices"] = h5py.SoftLink("/elsewhere/indices")

    with diskcsr.open(make(within), mode="r+") as A:
        assert np.array_equal(A[:].data, OTHERS)
        assert np.array_equal(A[:].indices, range(4))


def test_what_concat_joined_virtually_is_not_opened_for_writing(tmp_path):
    for name in "ab":
        diskcsr.write(tmp_path / f"{name}.h5", MATRIX).close()
    parts = [tmp_path / "a.h5", tmp_path / "b.h5"]
    path = tmp_path / "ab.h5"
    diskcsr.concat(parts, path, virtual=True).close()
    with diskcsr.open(path) as A:
        assert np.array_equal(A.toarray(), np.vstack([MATRIX.toarray()] * 2))
    with diskcsr.open(path, mode="r+") as A, pytest.raises(diskcsr.FormatError, match="other file"):
        A[:]


def test_a_matrix_in_another_file(tmp_path):
    diskcsr.write(tmp_path / "m.h5", MATRIX).close()
    path = tmp_path / "links.h5"
    with h5py.File(path, "w") as file:
        file["X"] = h5py.ExternalLink("m.h5", "/X")
        file["Y"] = h5py.SoftLink("/X")
        file["g/Z"] = h5py.SoftLink("../X")
    with diskcsr.open(path, "X") as A:
        assert np.array_equal(A.toarray(), MATRIX.toarray())
    for name in ("X", "Y", "/X"):
        with pytest.raises(diskcsr.FormatError, match=r"into another file, 'm\.h5'"):
            diskcsr.open(path, name, mode="r+")
    with diskcsr.File(path, "r") as file:
        assert np.array_equal(file["X"].toarray(), MATRIX.toarray())
    with diskcsr.File(path, "r+") as file:
        with pytest.raises(diskcsr.FormatError, match="into another file"):
            file["X"]
        assert file.get("X", 7) == 7
        assert next(iter(file.values())) is None
        with pytest.raises(KeyError):
            file["nothing"]


def test_groups_that_are_damaged_are_said_to_be(tmp_path):
    path = tmp_path / "m.h5"
    diskcsr.write(path, sp.eye_array(3, format="csr"), name="A/X").close()
    raw = path.read_bytes()
    assert raw.count(b"SNOD") == 3
    last = raw.rindex(b"SNOD")
    for at in (raw.index(b"SNOD"), last):
        path.write_bytes(raw[:at] + b"DONS" + raw[at + 4 :])
        with diskcsr.File(path, "r+") as file, pytest.raises(diskcsr.CorruptFileError) as caught:
            file["A/X"]
        assert str(caught.value).startswith(f"{path}, group '/': HDF5 cannot look for 'A/X': ")


@pytest.mark.parametrize("overwrite", [False, True])
def test_nothing_is_written_into_a_group_that_is_damaged(tmp_path, overwrite):
    path = tmp_path / "m.h5"
    diskcsr.write(path, sp.eye_array(3, format="csr"), name="A/X").close()
    raw = path.read_bytes()
    at = raw.index(b"SNOD")
    path.write_bytes(raw[:at] + b"DONS" + raw[at + 4 :])
    damaged = path.read_bytes()
    for name in ("A/X", "B"):
        with pytest.raises(diskcsr.CorruptFileError, match=r"m\.h5, '/': HDF5 cannot change it"):
            diskcsr.write(path, sp.eye_array(3, format="csr"), name, overwrite=overwrite)
        assert path.read_bytes() == damaged
    assert [one.name for one in tmp_path.iterdir()] == ["m.h5"]
