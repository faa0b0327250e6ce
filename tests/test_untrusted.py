"""Files that may be meant to do harm: another process looks first, and this one lives on."""

import io
import os
import pickle
import signal
import time
from pathlib import Path

import h5py
import numpy as np
import pytest
from filtered import FILTERS, count_matrix, overwrite, store
from test_broken_files import BROKEN, run, virtual

import diskcsr
from diskcsr import options
from diskcsr.__main__ import main
from diskcsr.errors import DiskCSRError
from diskcsr.machine.apart import Ended, run_apart
from diskcsr.storage.check import describe
from diskcsr.storage.read import untrusted


def stored(path, steps=(), **how):
    matrix = count_matrix()
    store(path, matrix, chunk=50, steps=steps, **how)
    return matrix


def virtual_of_itself_by_number(path):
    """Store a virtual dataset whose numbered source is itself, which nobody but HDF5 finds out."""
    matrix = stored(path)
    size = matrix.nnz
    with h5py.File(path, "r+") as file:
        del file["X/data"]
        space = h5py.h5s.create_simple((size,), (h5py.h5s.UNLIMITED,))
        source = h5py.h5s.create_simple((size,), (size,))
        space.select_hyperslab((0,), (h5py.h5s.UNLIMITED,), (size,), (size,))
        properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        properties.set_virtual(space, b".", b"/X/data%b", source)
        h5py.h5d.create(file["X"].id, b"data0", h5py.h5t.NATIVE_FLOAT, space, properties)
        file["X/data"] = file["X/data0"]
    return path


# -------------------------------------------------------------------------------- what is sound


@pytest.mark.parametrize("name", [None, "X"])
@pytest.mark.parametrize("mode", ["r", "c"])
@pytest.mark.parametrize("filters", ["none", "gzip"])
def test_a_sound_file_is_opened(tmp_path, name, mode, filters):
    path = tmp_path / "m.h5"
    matrix = stored(path, FILTERS.get(filters, ()))
    with diskcsr.open(path, name, mode=mode, untrusted=True) as A:
        assert (A.mode, A.format, A.shape) == (mode, "csr", matrix.shape)
        assert np.array_equal(A.toarray(), matrix.toarray())
        assert np.array_equal(A.T[:, [2]].toarray(), matrix.T[:, [2]].toarray())
    assert os.listdir(tmp_path) == ["m.h5"]


def test_every_way_of_opening(tmp_path):
    path = tmp_path / "m.h5"
    matrix = stored(path)
    for A in (
        diskcsr.DiskCSR(path, untrusted=True),
        diskcsr.DiskCSR(str(path), "X", untrusted=True),
        diskcsr.open(os.fsencode(path), spmatrix=True, untrusted=True),
        diskcsr.open(path, shape=(3, matrix.shape[1]), untrusted=True),
    ):
        with A:
            assert np.array_equal(A[2].toarray().ravel(), matrix[[2]].toarray().ravel())
    with pytest.raises(diskcsr.FormatError, match="not a csc"):
        diskcsr.DiskCSC(path, untrusted=True)


def test_what_cannot_be_looked_at_first(tmp_path):
    path = tmp_path / "m.h5"
    stored(path)
    with pytest.raises(ValueError, match="untrusted=True is for reading"):
        diskcsr.open(path, mode="r+", untrusted=True)
    with pytest.raises(ValueError, match="mode must be one of"):
        diskcsr.open(path, mode="w", untrusted=True)
    with h5py.File(path) as file, pytest.raises(TypeError, match="path of a file, not File"):
        diskcsr.open(file, untrusted=True)
    with open(path, "rb") as file, pytest.raises(TypeError, match="not BufferedReader"):
        diskcsr.open(file, untrusted=True)


def test_what_the_other_process_raises_is_raised(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nothing\.h5"):
        diskcsr.open(tmp_path / "nothing.h5", untrusted=True)
    path = tmp_path / "m.h5"
    stored(path)
    with pytest.raises(KeyError, match="no object 'Y'"):
        diskcsr.open(path, "Y", untrusted=True)
    with pytest.raises(diskcsr.FormatError, match=r"m\.h5.*format='csc' contradicts"):
        diskcsr.open(path, format="csc", untrusted=True)


# -------------------------------------------------------------------------------- what is damaged


def test_damage_of_what_is_compressed_is_found_before_it_is_opened(tmp_path):
    path = tmp_path / "m.h5"
    stored(path, FILTERS["gzip"])
    with h5py.File(path) as file:
        place = file["X/data"].id.get_chunk_info(1)
    overwrite(path, place.byte_offset + place.size // 2, b"\xff" * 8)
    diskcsr.open(path).close()
    with pytest.raises(diskcsr.CorruptFileError, match=r"m\.h5.*'data'"):
        diskcsr.open(path, untrusted=True)


@pytest.mark.parametrize(
    "name", ["attribute_claims_2gb.h5", "global_heap_loop.h5", "virtual_of_itself.h5"]
)
def test_files_that_once_crashed(name):
    if not (BROKEN / name).exists():
        pytest.skip(f"there is no {BROKEN / name}")
    with pytest.raises((diskcsr.CorruptFileError, diskcsr.FormatError), match=name):
        diskcsr.open(BROKEN / name, untrusted=True)


OPEN_PLAINLY = "import diskcsr, sys; diskcsr.open(sys.argv[1]).to_memory()"


def test_a_crash_of_hdf5_ends_the_other_process_alone(tmp_path):
    path = virtual_of_itself_by_number(tmp_path / "m.h5")
    if run(OPEN_PLAINLY, path).returncode != -signal.SIGSEGV:
        pytest.skip("this HDF5 does not crash on it")
    with pytest.raises(diskcsr.CorruptFileError, match=r"m\.h5: it crashes .*\(SIGSEGV\)"):
        diskcsr.open(path, untrusted=True)


def sleep(*args):
    time.sleep(600)


def crash(*args):
    os.kill(os.getpid(), signal.SIGBUS)


def take_memory(*args):
    return len(b"\1" * (1 << 29))


def end(*args):
    os.kill(os.getpid(), signal.SIGTERM)


def killed(*args):
    os.kill(os.getpid(), signal.SIGKILL)


def leave(*args):
    os._exit(3)


@pytest.mark.parametrize(
    ("instead", "error", "said"),
    [
        (sleep, diskcsr.CorruptFileError, r"takes more than 1\.5 s .*untrusted_seconds; SIGALRM"),
        (crash, diskcsr.CorruptFileError, r"crashes the HDF5 library \(SIGBUS\)"),
        (killed, diskcsr.CorruptFileError, "SIGKILL ended the process .* memory runs out"),
        (take_memory, diskcsr.CorruptFileError, r"more than 104\.9 MB of memory .*untrusted_bytes"),
        (end, DiskCSRError, "SIGTERM ended the process that looked"),
        (leave, DiskCSRError, "failed"),
    ],
)
@pytest.mark.parametrize("way", ["open", "info"])
def test_what_ended_the_other_process_is_told(tmp_path, monkeypatch, instead, error, said, way):
    path = tmp_path / "m.h5"
    stored(path)
    monkeypatch.setattr(untrusted, "_look", instead)
    monkeypatch.setattr(describe, "_facts", instead)
    seconds = 1.5 if instead is sleep else 60
    with options.set(untrusted_seconds=seconds, untrusted_bytes=100 << 20):
        with pytest.raises(error, match=said) as caught:
            {"open": diskcsr.open, "info": diskcsr.info}[way](path, untrusted=True)
        assert type(caught.value) is error
        assert instead is leave or str(caught.value).startswith(f"{path}: ")


def take_steps(*args):
    from diskcsr.machine.alive import alive, waiting

    for _ in range(100):
        alive()
        with waiting():
            time.sleep(0.1)


def test_signs_of_life_do_not_prolong_a_time():
    start = time.monotonic()
    with pytest.raises(Ended, match="SIGALRM"):
        run_apart(take_steps, seconds=1)
    assert time.monotonic() - start < 60
    assert run_apart(os.getpid, seconds=60, memory=1 << 30) != os.getpid()


class TwoArguments(Exception):
    def __init__(self, one, two):
        super().__init__(f"{one}{two}")


def raise_what_cannot_be_unpickled():
    raise TwoArguments(1, 2)


def test_an_exception_that_cannot_be_sent_is_told_in_words():
    with pytest.raises(DiskCSRError, match="TwoArguments: 12"):
        run_apart(raise_what_cannot_be_unpickled)


def test_no_interpreter_to_start(tmp_path, monkeypatch):
    stored(tmp_path / "m.h5")
    monkeypatch.setattr("sys.executable", "")
    with pytest.raises(DiskCSRError, match=r"m\.h5: this Python cannot start"):
        diskcsr.open(tmp_path / "m.h5", untrusted=True)


# --------------------------------------------------------------------- files that lead to others


def lead_away(path, how):
    """Have a file lead to a sound one beside it."""
    matrix = stored(path)
    other = path.with_name("other.h5")
    stored(other)
    with h5py.File(path, "r+") as file:
        if how == "link":
            del file["X/data"]
            file["X/data"] = h5py.ExternalLink("other.h5", "X/data")
        elif how == "group":
            del file["X"]
            file["X"] = h5py.ExternalLink("other.h5", "X")
        elif how == "link behind a name":
            file["deep/away"] = h5py.ExternalLink("other.h5", "X/data")
            del file["X/data"]
            file["X/data"] = h5py.SoftLink("/deep/away")
        elif how == "external":
            del file["X/data"]
            raw = path.with_name("raw")
            raw.write_bytes(matrix.data.tobytes())
            file["X"].create_dataset("data", matrix.data.shape, "f4", external=str(raw))
    if how == "virtual":
        virtual(path, [("other.h5", "X/data")], matrix.nnz)
    return matrix


@pytest.mark.parametrize("how", ["link", "group", "link behind a name", "external", "virtual"])
def test_a_file_that_leads_to_others_is_refused(tmp_path, how):
    path = tmp_path / "m.h5"
    matrix = lead_away(path, how)
    with diskcsr.open(path, "X") as A:
        assert np.array_equal(A.toarray(), matrix.toarray())
    for name in (None, "X"):
        with pytest.raises(diskcsr.FormatError, match=r"m\.h5: /.* another file"):
            diskcsr.open(path, name, untrusted=True)
    with pytest.raises(diskcsr.FormatError, match=r"m\.h5: /.* another file"):
        diskcsr.info(path, untrusted=True)


def test_a_file_may_lead_to_itself(tmp_path):
    path = tmp_path / "m.h5"
    matrix = stored(path)
    with h5py.File(path, "r+") as file:
        file["values"] = file["X/data"]
    virtual(path, [(".", "values")], matrix.nnz)
    with h5py.File(path, "r+") as file:
        file["Y"] = h5py.SoftLink("/X")
    with diskcsr.open(path, "Y", untrusted=True) as A:
        assert np.array_equal(A.toarray(), matrix.toarray())


# ------------------------------------------------------------------------- when it is opened anew


def test_a_file_that_was_exchanged_after_the_look(tmp_path, monkeypatch):
    path = tmp_path / "m.h5"
    stored(path)
    stored(tmp_path / "other.h5")
    look = untrusted.call_apart

    def exchange(*args, **limits):
        found = look(*args, **limits)
        os.replace(tmp_path / "other.h5", path)
        return found

    monkeypatch.setattr(untrusted, "call_apart", exchange)
    with pytest.raises(diskcsr.StaleFileError, match=r"m\.h5 was changed while it was looked at"):
        diskcsr.open(path, untrusted=True)


def test_refresh_looks_again(tmp_path, monkeypatch):
    path = tmp_path / "m.h5"
    matrix = stored(path)
    with diskcsr.open(path, untrusted=True) as A:
        stored(tmp_path / "new.h5")
        with diskcsr.open(tmp_path / "new.h5", mode="r+") as B:
            B.append(np.ones((1, matrix.shape[1]), "f4"))
        os.replace(tmp_path / "new.h5", path)
        A.refresh()
        assert A.shape[0] == matrix.shape[0] + 1
        monkeypatch.setattr(untrusted, "_look", crash)
        with pytest.raises(diskcsr.CorruptFileError, match="SIGBUS"):
            A.refresh()


def test_a_pickle_looks_again(tmp_path, monkeypatch):
    path = tmp_path / "m.h5"
    matrix = stored(path)
    with diskcsr.open(path, untrusted=True) as A:
        packed = pickle.dumps(A)
    with pickle.loads(packed) as B:
        assert np.array_equal(B.toarray(), matrix.toarray())
        assert pickle.dumps(B) == packed
    monkeypatch.setattr(untrusted, "_look", crash)
    with pytest.raises(diskcsr.CorruptFileError, match="SIGBUS"):
        pickle.loads(packed)


# ---------------------------------------------------------------------------------------- info


def test_info_says_the_same(tmp_path):
    path = tmp_path / "m.h5"
    stored(path, FILTERS["gzip"])
    assert diskcsr.info(path, untrusted=True) == diskcsr.info(path)
    with pytest.raises(FileNotFoundError):
        diskcsr.info(tmp_path / "nothing.h5", untrusted=True)


@pytest.mark.parametrize("flags", [[], ["--untrusted"]])
def test_the_command_line_looks_in_another_process(tmp_path, monkeypatch, capsys, flags):
    path = tmp_path / "m.h5"
    stored(path)
    assert main(["info", str(path), *flags]) == 0
    assert "/X: csr" in capsys.readouterr().out
    monkeypatch.setattr(describe, "_facts", crash)
    assert main(["info", str(path), *flags]) == 2
    assert capsys.readouterr().err == (
        f"diskcsr: error: {path}: it crashes the HDF5 library (SIGBUS)\n"
    )


def test_the_command_line_follows_links_unless_told_otherwise(tmp_path, capsys):
    path = tmp_path / "m.h5"
    lead_away(path, "link")
    assert main(["info", str(path), "X"]) == 0
    assert main(["info", str(path), "X", "--untrusted"]) == 2
    assert "link to another file" in capsys.readouterr().err
    assert Path(path).exists()


# -------------------------------------------------------------------- what remains: examples/trust

OPEN_BY_CORE = """
import h5py, sys, diskcsr
diskcsr.open(h5py.File(sys.argv[1], driver="core")["X"])
"""
OPEN_BY_FILE_OBJECT = """
import h5py, sys, diskcsr
diskcsr.open(h5py.File(open(sys.argv[1], "rb"))["X"])
"""
READ_AN_ATTRIBUTE = """
import h5py, sys, diskcsr
h5py.Group(h5py.h5o.open(diskcsr.File(sys.argv[1]).id, b"X")).attrs["h5sparse_format"]
"""


def endless_strings(path, table):
    """Make the heap of strings of a file go round in circles; `table`: have many attributes."""
    stored(path, libver="latest" if table else "earliest")
    with h5py.File(path, "r+", libver="latest" if table else "earliest") as file:
        for number in range(20 * table):
            file["X"].attrs[f"more{number:02}"] = "x"
        del file["X"].attrs["h5sparse_format"]
        file["X"].attrs["h5sparse_format"] = "csr"
    raw = path.read_bytes()
    for heap in _places(raw, b"GCOL"):
        at = heap + 16
        while int.from_bytes(raw[at : at + 2], "little"):
            length = int.from_bytes(raw[at + 8 : at + 16], "little")
            at += 16 + length + -length % 8
        overwrite(path, at + 8, bytes(8))
    return path


def _places(raw, part):
    return [at for at in range(len(raw)) if raw.startswith(part, at)]


def _flipped(part, bit):
    return (int.from_bytes(part, "little") ^ 1 << bit).to_bytes(len(part), "little")


def hangs(code, path):
    return run(f"import signal; signal.alarm(10)\n{code}", path).returncode == -signal.SIGALRM


def test_a_table_of_attributes_is_left_to_hdf5_unless_the_file_is_untrusted(tmp_path):
    path = endless_strings(tmp_path / "m.h5", table=True)
    if not hangs(OPEN_PLAINLY, path):
        pytest.skip("this HDF5 does not hang on it")
    with options.set(untrusted_seconds=3), pytest.raises(diskcsr.CorruptFileError, match="3 s"):
        diskcsr.open(path, untrusted=True)


@pytest.mark.parametrize("code", [OPEN_BY_CORE, OPEN_BY_FILE_OBJECT, READ_AN_ATTRIBUTE])
def test_what_only_hdf5_has_the_bytes_of_is_left_to_it(tmp_path, code):
    path = endless_strings(tmp_path / "m.h5", table=False)
    if not hangs(code, path):
        pytest.skip("this HDF5 does not hang on it")
    for file in (path, io.BytesIO(path.read_bytes())):
        with pytest.raises(diskcsr.FormatError, match="a string claims"):
            diskcsr.open(file)


@pytest.mark.parametrize("how", ["contiguous", "chunked", "gzip"])
def test_an_address_that_leads_to_other_bytes_is_read_as_hdf5_reads_it(tmp_path, how):
    """Of the bits of an address, some lead to where nothing is that is known."""
    path, matrix = tmp_path / "m.h5", count_matrix()
    keywords = {
        "contiguous": {},
        "chunked": {"chunks": (50,)},
        "gzip": {"chunks": (50,), "compression": "gzip"},
    }
    with h5py.File(path, "w", libver="earliest") as file:
        group = file.create_group("X")
        group.create_dataset("room", data=np.arange(4000.0))  # bytes that nobody looks at
        for name in ("data", "indices", "indptr"):
            group.create_dataset(name, data=getattr(matrix, name), **keywords[how])
        group.attrs["h5sparse_format"], group.attrs["h5sparse_shape"] = "csr", matrix.shape
        data = group["data"].id
        address = data.get_chunk_info(1).byte_offset if keywords[how] else data.get_offset()
    raw = path.read_bytes()
    silent = 0
    for at in _places(raw, address.to_bytes(8, "little")):
        for bit in range(64):
            path.write_bytes(raw[:at] + _flipped(raw[at : at + 8], bit) + raw[at + 8 :])
            try:
                with diskcsr.open(path) as A:
                    read = A.to_memory()
            except (diskcsr.CorruptFileError, OSError):
                continue
            with h5py.File(path) as file:
                assert file["X/data"][: read.nnz].tobytes() == read.data.tobytes()
            silent += read.data.tobytes() != matrix.data.tobytes()
    assert bool(silent) == (how != "gzip")
