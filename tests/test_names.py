"""Names that are of no ordinary file, and files that HDF5 cannot open: errors that say which."""

import os
import re
import socket

import h5py
import numpy as np
import pytest
from filtered import count_matrix, store
from scipy.sparse import eye_array

import diskcsr
from diskcsr.storage.journal.rollback import journal_path

M = eye_array(3, format="csr")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Make an odd thing of each kind, and go there."""
    monkeypatch.chdir(tmp_path)
    for name in ("pipe.h5", "pipe.mtx", "pipe.npz"):
        os.mkfifo(name)
    with socket.socket(socket.AF_UNIX) as one:
        one.bind("socket.h5")
    os.mkdir("folder.h5")
    os.symlink("loop.h5", "loop.h5")
    os.symlink("/dev/zero", "device.h5")
    store("good.h5", count_matrix(), chunk=50)
    return tmp_path


READ = {
    "open": diskcsr.open,
    "DiskCSR": diskcsr.DiskCSR,
    "untrusted": lambda name: diskcsr.open(name, untrusted=True),
    "File": diskcsr.File,
    "info": diskcsr.info,
    "check": diskcsr.check,
    "convert": lambda name: diskcsr.convert(name, "new.h5"),
    "concat": lambda name: diskcsr.concat([name, M], "new.h5"),
}
CHANGE = {
    "open r+": lambda name: diskcsr.open(name, mode="r+"),
    "File r+": lambda name: diskcsr.File(name, "r+"),
    "File a": lambda name: diskcsr.File(name, "a"),
    "File w": lambda name: diskcsr.File(name, "w"),
    "repair": lambda name: diskcsr.check(name, repair=True),
    "write": lambda name: diskcsr.write(name, M),
    "overwrite": lambda name: diskcsr.write(name, M, overwrite=True),
    "convert": lambda name: diskcsr.convert(M, name),
    "concat": lambda name: diskcsr.concat([M, M], name),
}
ODD = {
    "pipe.h5": (OSError, "a named pipe, not an ordinary file: 'pipe.h5'"),
    "socket.h5": (OSError, "a socket, not an ordinary file: 'socket.h5'"),
    "device.h5": (OSError, "a device, not an ordinary file: 'device.h5'"),
    "folder.h5": (IsADirectoryError, "Is a directory: 'folder.h5'"),
    "loop.h5": (OSError, "Too many levels of symbolic links: 'loop.h5'"),
    "loop.h5/m.h5": (OSError, "Too many levels of symbolic links: 'loop.h5/m.h5'"),
    "good.h5/m.h5": (NotADirectoryError, "Not a directory: 'good.h5/m.h5'"),
    "x" * 300 + ".h5": (OSError, f"File name too long: '{'x' * 300}.h5'"),
    "": (FileNotFoundError, "No such file or directory: ''"),
    "a\0b.h5": (ValueError, "null byte"),
}


@pytest.mark.parametrize("way", [*READ, *(f"change: {way}" for way in CHANGE)])
@pytest.mark.parametrize("name", ODD)
def test_what_is_no_ordinary_file(folder, way, name):
    before = sorted(os.listdir())
    error, said = ODD[name]
    if name == "folder.h5" and way in ("convert", "concat"):  # some sources are folders
        error, said = diskcsr.FormatError, "folder.h5: a folder without matrix.mtx"
    call = READ[way] if way in READ else CHANGE[way.removeprefix("change: ")]
    with pytest.raises(error, match=re.escape(said)) as caught:
        call(name)
    assert type(caught.value) is error
    assert sorted(os.listdir()) == before


@pytest.mark.parametrize("name", ["pipe.mtx", "pipe.npz"])
def test_sources_of_other_kinds(folder, name):
    with pytest.raises(OSError, match=f"a named pipe, not an ordinary file: '{name}'"):
        diskcsr.convert(name, "new.h5")


@pytest.mark.parametrize("mode", ["x", "w-"])
@pytest.mark.parametrize("name", ["pipe.h5", "loop.h5", "folder.h5", "nowhere.h5"])
def test_a_new_file_takes_no_name_that_is_there(folder, mode, name):
    os.symlink("nothing", "nowhere.h5")
    with pytest.raises(FileExistsError, match=name):
        diskcsr.File(name, mode)
    assert not os.path.exists("nothing")


def test_links_are_followed(folder):
    os.symlink("good.h5", "link.h5")
    os.symlink("new.h5", "ahead.h5")
    with diskcsr.open("link.h5", mode="r+") as A:
        A.append(np.ones((1, A.shape[1]), A.dtype))
        assert os.path.exists("good.h5-journal")
    with diskcsr.open("good.h5") as A:
        assert A.shape[0] == count_matrix().shape[0] + 1
    diskcsr.write("ahead.h5", M).close()
    with diskcsr.File("ahead.h5", "w") as file:
        file["Y"] = M
    assert os.path.islink("link.h5")
    assert os.path.islink("ahead.h5")
    with diskcsr.open("new.h5", "Y") as A:
        assert A.shape == (3, 3)


# -------------------------------------------------------------------------------------- journals


@pytest.mark.parametrize("kind", ["pipe", "folder", "link", "link to nothing", "device"])
@pytest.mark.parametrize("mode", ["r", "r+"])
def test_a_journal_that_is_no_file(folder, kind, mode):
    journal = journal_path("good.h5")
    precious = folder / "precious"
    precious.write_bytes(b"precious" * 100)
    if kind == "pipe":
        os.mkfifo(journal)
    elif kind == "folder":
        os.mkdir(journal)
    else:
        os.symlink({"link": "precious", "device": "/dev/null"}.get(kind, "nothing"), journal)
    before = sorted(os.listdir())
    with pytest.raises(diskcsr.RollbackError, match=r"good\.h5-journal is a .*remove or rename it"):
        diskcsr.open("good.h5", mode=mode)
    assert precious.read_bytes() == b"precious" * 100
    assert sorted(os.listdir()) == before


# ------------------------------------------------------------------------------- what HDF5 says


@pytest.mark.parametrize("way", [way for way in READ if way != "check"] + ["change: write"])
def test_a_file_that_was_cut_off_is_named(folder, way):
    raw = (folder / "good.h5").read_bytes()
    (folder / "cut.h5").write_bytes(raw[:2000])
    call = READ[way] if way in READ else CHANGE[way.removeprefix("change: ")]
    with pytest.raises(OSError, match=r"cut\.h5: .*truncated file"):
        call("cut.h5")
    assert (folder / "cut.h5").read_bytes() == raw[:2000]


@pytest.mark.parametrize("damage", ["no HDF5 file", "cut off", "root"])
def test_overwriting_in_a_broken_file_loses_nothing(folder, damage):
    path = folder / "good.h5"
    raw = bytearray(path.read_bytes())
    if damage == "no HDF5 file":
        raw = bytearray(b"text" * 500)
    elif damage == "cut off":
        del raw[2000:]
    else:
        with h5py.File(path) as file:
            root = h5py.h5g.get_objinfo(file.id).objno[0]
        raw[root] ^= 0xFF
    path.write_bytes(raw)
    before = sorted(os.listdir())
    with pytest.raises((OSError, diskcsr.CorruptFileError), match=r"good\.h5"):
        diskcsr.write("good.h5", M, overwrite=True)
    assert path.read_bytes() == raw
    assert sorted(os.listdir()) == before


def test_a_broken_matrix_is_overwritten_and_what_is_beside_it_stays(folder):
    with h5py.File("good.h5", "r+") as file:
        del file["X/indices"]
        file["beside"] = np.arange(5)
    with pytest.raises(diskcsr.CorruptFileError, match="'indices' is missing"):
        diskcsr.open("good.h5", "X")
    with pytest.raises(ValueError, match="pass overwrite=True"):
        diskcsr.write("good.h5", M)
    with diskcsr.write("good.h5", M, overwrite=True) as A:
        assert (A.toarray() == np.eye(3)).all()
    with h5py.File("good.h5") as file:
        assert file["beside"][:].tolist() == [0, 1, 2, 3, 4]


def test_a_source_that_is_a_pipe(folder):
    size = count_matrix().nnz
    layout = h5py.VirtualLayout((size,), "f4")
    layout[:] = h5py.VirtualSource("pipe.h5", "X", (size,), "f4")
    with h5py.File("good.h5", "r+") as file:
        del file["X/data"]
        file["X"].create_virtual_dataset("data", layout)
    with (
        diskcsr.open("good.h5", "X") as A,
        pytest.raises(diskcsr.CorruptFileError, match="a named pipe, not an ordinary file"),
    ):
        A.to_memory()
