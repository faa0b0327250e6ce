"""What notebooks show of an array: all that is known without reading, and nothing unescaped."""

import re
from html import unescape
from xml.etree import ElementTree

import h5py
import numpy as np
import pytest
import scipy.sparse as sp

import diskcsr

MATRIX = sp.random_array((50, 40), density=0.1, format="csr", rng=np.random.default_rng(0))
HELD = "memory: it was handed out"


def shown(A):
    """The tables of an array: the facts by name, and the rows of its three arrays by name."""
    html = A._repr_html_()
    tree = ElementTree.fromstring(html)  # well-formed, so that nothing in it is markup by accident
    tables = [
        [["".join(cell.itertext()) for cell in row] for row in table]
        for table in tree.findall("table")
    ]
    arrays = {row[0]: row[1:] for row in tables[1][1:]} if len(tables) == 2 else {}
    return tree.find("strong").text, dict(tables[0]), arrays


@pytest.fixture(params=["csr", "csc"])
def path(tmp_path, request):
    path = tmp_path / "m.h5"
    diskcsr.write(path, MATRIX, format=request.param, compression="gzip").close()
    return path


def test_what_is_shown(path):
    with diskcsr.open(path) as A:
        title, facts, arrays = shown(A)
        stored = A.reader.stored_bytes
        assert A.reader.bytes_read == 0
    assert title == type(A).__name__
    memory = 200 * 12 + 8 * (51 if A.format == "csr" else 41)
    disk = diskcsr.machine.options.format_bytes(stored)
    assert facts == {
        "shape": "50 x 40",
        "dtype": "float64",
        "format": A.format,
        "stored values": "200 (length of the datasets)",
        "density": "0.1",
        "file": str(path),
        "group": "/X",
        "convention": "h5sparse+anndata",
        "mode": "r",
        "size": f"{disk} on disk, {diskcsr.machine.options.format_bytes(memory)} in memory",
    }
    assert list(arrays) == ["data", "indices", "indptr"]
    assert arrays["data"][:3] == ["float64", "decode", "shuffle, deflate"]
    assert arrays["indices"][0] == "int32"
    assert arrays["indptr"][4] == f"{memory - 2400} B"


def test_what_is_known_by_now(path):
    with diskcsr.open(path, mode="c") as A:
        assert A.nnz == 200
        assert shown(A)[1]["stored values"] == "200"
        A.indptr, A.data  # noqa: B018
        read = A.reader.bytes_read
        _, facts, arrays = shown(A)
        assert A.reader.bytes_read == read
        assert facts["mode"] == "c"
        assert [arrays[part][1] for part in arrays] == [HELD, "decode", HELD]
        assert shown(A.T)[1]["shape"] == "40 x 50"
        assert "transpose of the " + A.format in shown(A.T)[1]["format"]


def test_a_closed_array(path):
    A = diskcsr.open(path)
    A.close()
    _, facts, arrays = shown(A)
    assert arrays == {}
    assert (facts["shape"], facts["group"]) == ("50 x 40", "/X")
    assert facts["open"] == "no: the file is closed"
    assert "size" not in facts
    with h5py.File(path) as file:
        A = diskcsr.open(file)
    assert shown(A)[1]["open"] == "no: the file is closed"


def test_everything_is_escaped(tmp_path):
    path, name = tmp_path / 'a <b> & "c".h5', "<script>alert('x')</script>".replace("/", "\\")
    with diskcsr.write(path, MATRIX, name) as A:
        html = A._repr_html_()
        facts = shown(A)[1]
    assert "<script>" not in html
    assert not re.search(r"&(?!(amp|lt|gt|quot|#x27);)", html)
    assert str(path) in unescape(html)
    assert (facts["file"], facts["group"]) == (str(path), f"/{name}")


def test_arrays_that_cannot_be_looked_at(path, monkeypatch):
    def damaged(source, part):
        raise diskcsr.CorruptFileError(f"{part} is <damaged>")

    monkeypatch.setattr("diskcsr.protocol.display.array_facts", damaged)
    with diskcsr.open(path) as A:
        _, facts, arrays = shown(A)
    assert arrays == {part: [f"{part} is <damaged>"] for part in ("data", "indices", "indptr")}
    assert "size" not in facts


@pytest.mark.parametrize("shape", [(0, 5), (5, 0), (0, 0), (3, 3)])
def test_of_nothing(tmp_path, shape):
    with diskcsr.write(tmp_path / "m.h5", sp.csr_array(shape)) as A:
        facts = shown(A)[1]
    assert facts["density"] == "0"
    assert facts["stored values"].split()[0] == "0"


def test_print_and_repr_stay_scipys(path):
    with diskcsr.open(path) as A:
        plain = A.to_memory()
        assert (repr(A), str(A)) == (repr(plain), str(plain))
