"""A filter is one row in one module: a new one is written, read and checked with nothing else."""

import ast
import inspect
import json
import os
import shutil
import subprocess
import sys
from dataclasses import FrozenInstanceError, replace
from pathlib import Path

import h5py
import numpy as np
import pytest
from filtered import count_matrix, hdf5plugin
from naive_codecs import decode_chunk, gather_chunk

import diskcsr
from diskcsr.storage.codecs import pipeline, table
from diskcsr.storage.codecs.codec import Filter, Pipeline
from diskcsr.storage.codecs.pipeline import pipeline_of, unsupported
from diskcsr.storage.codecs.table import CODECS, find_preset, preset_names, register
from diskcsr.storage.write import arrays as encode
from diskcsr.storage.write.arrays import ArrayWriter, create_array, create_like

#: A codec that nobody has: every byte is changed by the key that the client data hold, and one more
#: byte says which it was. It keeps its key to itself, so any element can be read alone.
TOY = '''
"""toy (40001): bytes that were changed by a key, behind the key."""

import numpy as np

from diskcsr.storage.codecs.codec import Codec, Preset
from diskcsr.storage.codecs.data import need


def decode(data, cd, dest):
    need(data.size > 0 and data[0] == cd[0], "the wrong key")
    need(data.size - 1 <= dest.size, "too long")
    dest[: data.size - 1] = data[1:] ^ np.uint8(cd[0])
    return dest[: data.size - 1]


def encode(data, cd):
    return np.append(np.uint8(cd[0]), data ^ np.uint8(cd[0]))


def gather(data, cd, count, lo, hi, at, out):
    need(data.size == 1 + count * out.itemsize and data[0] == cd[0], "the wrong key")
    for first, last, to in zip(lo, hi, at, strict=True):
        some = data[1 + first * out.itemsize : 1 + last * out.itemsize] ^ np.uint8(cd[0])
        out[to : to + last - first] = some.view(out.dtype)


CODEC = Codec(
    id=40001,
    name="toy",
    decode=decode,
    encode=encode,
    gather=gather,
    gathers=lambda cd, dtype: dtype.isnative,
    length_after=lambda cd, length: length + 1,
    parameters=2,
    refuse=lambda cd, pipeline, length: "toy with the key 13" if cd[0] == 13 else None,
    renew=lambda cd, dtype, chunk: (cd[0], dtype.itemsize),
    rounds=lambda values: "has no room for 99" if np.any(values == 99) else None,
    preset=Preset(
        name="toy",
        client_data=lambda dtype, chunk, level: (level, dtype.itemsize),
        level=7,
        levels=range(1, 256),
        stores=lambda dtype: dtype.kind != "c",
    ),
)
'''


@pytest.fixture
def toy():
    space = {}
    exec(TOY, space)
    codec = space["CODEC"]
    register(codec)
    yield codec
    del CODECS[codec.id]


def filters_of(path, name):
    with h5py.File(path) as file:
        return [(one.name, one.cd) for one in pipeline_of(file["X"][name]).filters]


def test_a_codec_from_one_object_is_written_read_and_checked(tmp_path, toy):
    matrix = count_matrix(200, 50)
    matrix.data[matrix.data == 99] = 1
    path = tmp_path / "m.h5"
    with diskcsr.write(path, matrix, compression="toy", chunks=100) as A:
        found = A.to_memory()
        assert found.dtype == matrix.dtype
        assert np.array_equal(found.toarray(), matrix.toarray())
        assert np.array_equal(A[[150, 3, 3]].toarray(), matrix[[150, 3, 3]].toarray())
        for name in ("data", "indices", "indptr"):
            assert A.reader[name].name == "decode"
            assert A.reader[name].why == "filtered by toy"
    assert filters_of(path, "data") == [("toy", (7, 4))]
    assert filters_of(path, "indptr") == [("toy", (7, 8))]
    assert diskcsr.check(path, isolated=False).ok
    # HDF5 knows nothing of it, and need not: chunks are decoded and encoded here.
    with diskcsr.open(path, mode="r+") as A:
        A[0:2] = 3 * A[0:2]
        A.append(matrix[:2])
    dense = np.concatenate([3 * matrix[:2].toarray(), matrix[2:].toarray(), matrix[:2].toarray()])
    with diskcsr.open(path) as A:
        assert np.array_equal(A.toarray(), dense)
    assert diskcsr.check(path, isolated=False).ok
    with h5py.File(path, "r+") as file:  # one byte of the file is another: it is noticed
        first = (0,)
        raw = bytearray(file["X/data"].id.read_direct_chunk(first)[1])
        raw[0] ^= 1
        file["X/data"].id.write_direct_chunk(first, bytes(raw))
    report = diskcsr.check(path, isolated=False)
    assert not report.ok
    assert "filter 40001 (toy) cannot be undone: the wrong key" in str(report)


def test_its_preset_has_levels_and_types(tmp_path, toy):
    matrix = count_matrix()
    matrix.data[0] = 1
    path = tmp_path / "m.h5"
    diskcsr.write(path, matrix, compression="toy", compression_opts=200, shuffle=True).close()
    assert filters_of(path, "data") == [("shuffle", (4,)), ("toy", (200, 4))]
    assert "toy" in preset_names()
    for wrong in (0, 256, "high"):
        with pytest.raises(ValueError, match="compression='toy' must be 1 to 255, not"):
            diskcsr.write(tmp_path / "n.h5", matrix, compression="toy", compression_opts=wrong)
    with pytest.raises(ValueError, match="compression='toy' cannot store values of dtype complex"):
        diskcsr.write(tmp_path / "n.h5", matrix.astype(complex), compression="toy")
    matrix.data[5] = 99
    with pytest.raises(ValueError, match="compression='toy' has no room for 99"):
        diskcsr.write(tmp_path / "n.h5", matrix, compression="toy")
    assert [child.name for child in tmp_path.iterdir()] == ["m.h5"]


def test_its_parameters_are_distrusted_and_renewed(toy):
    def reason(cd):
        return unsupported(Pipeline((Filter(40001, "toy", cd),), np.dtype("i4"), 8))

    assert reason((7, 4)) is None
    assert reason((7,)) == "toy has 1 parameters, not 2"
    assert reason((13, 4)) == "toy with the key 13"
    with h5py.File("m.h5", "w", driver="core", backing_store=False) as file:
        writer = create_array(file, "x", 10, np.dtype("i4"), 4, "toy", 9)
        writer.append(np.arange(10, dtype="i4"))
        writer.finish()
        like = create_like(file, "y", file["x"], 10, np.dtype("i8"), 5)
        assert [one.cd for one in pipeline_of(like).filters] == [(9, 8)]
        assert like.chunks == (5,)


def test_gathering_it_takes_what_decoding_gives(toy):
    of_toy = Pipeline((Filter(40001, "toy", (7, 4)),), np.dtype("i4"), 8)
    raw = pipeline.encode_chunk(np.arange(8, dtype="i4"), of_toy)
    assert decode_chunk(raw, 0, of_toy).tolist() == list(range(8))
    out = np.zeros(5, "i4")
    gather_chunk(raw, 0, of_toy, [6, 1], [8, 3], [0, 3], out)
    assert out.tolist() == [6, 7, 0, 1, 2]


SCRIPT = """
import json, sys
import numpy as np, scipy.sparse as sp
import diskcsr
matrix = sp.random_array((60, 30), density=0.2, format="csr", rng=0, dtype=np.float32)
with diskcsr.write(sys.argv[1], matrix, compression="toy", chunks=64) as A:
    same = bool((A.to_memory().toarray() == matrix.toarray()).all())
    why = A.reader["data"].why
report = diskcsr.check(sys.argv[1])  # in a process of its own
print(json.dumps([diskcsr.__file__, same, why, report.ok]))
"""


def test_adding_a_codec_touches_one_file(tmp_path):
    """In a copy of the package with a module more."""
    package = Path(diskcsr.__file__).parent
    copy = shutil.copytree(
        package, tmp_path / "diskcsr", ignore=shutil.ignore_patterns("__pycache__")
    )
    (copy / "storage" / "codecs" / "toy.py").write_text(TOY)
    environment = os.environ | {"PYTHONPATH": str(tmp_path), "NUMBA_DISABLE_JIT": "1"}
    result = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path / "m.h5")],
        capture_output=True,
        text=True,
        env=environment,
        cwd=tmp_path,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    file, *found = json.loads(result.stdout)
    assert Path(file).parent == copy
    assert found == [True, "filtered by toy", True]


# ------------------------------------------------------------------------------- the table


def test_every_module_of_a_codec_is_in_the_table():
    folder = Path(inspect.getfile(table)).parent
    with_row = [path for path in folder.glob("*.py") if "CODEC = Codec(" in path.read_text()]
    assert len(with_row) == len(CODECS)
    assert [codec.id for codec in CODECS.values()] == sorted(CODECS)
    assert all(id == codec.id for id, codec in CODECS.items())
    for path in with_row:
        assert CODECS_BY_NAME[path.stem].name == path.stem
        assert 5 < len(path.read_text().splitlines()) <= 115


CODECS_BY_NAME = {codec.name: codec for codec in CODECS.values()}


def test_rows_do_not_change():
    with pytest.raises(FrozenInstanceError):
        CODECS[1].name = "gzip"
    with pytest.raises(FrozenInstanceError):
        CODECS[1].preset.level = 9


def test_ids_and_names_are_taken_once():
    with pytest.raises(ValueError, match="filter 1 is deflate already"):
        register(CODECS[1])
    with pytest.raises(ValueError, match="compression='gzip' is taken already"):
        register(replace(CODECS[1], id=40002))
    with pytest.raises(ValueError, match="compression='raw' is taken already"):
        register(replace(CODECS[1], id=40002, preset=replace(CODECS[1].preset, name="raw")))
    assert 40002 not in CODECS


@pytest.mark.skipif(hdf5plugin is None, reason="needs hdf5plugin")
@pytest.mark.parametrize("codec", [codec for codec in CODECS.values() if codec.plugin])
def test_the_plugins_have_the_same_ids(codec):
    assert getattr(hdf5plugin, codec.plugin).filter_id == codec.id


def test_what_needs_a_plugin_is_what_hdf5_does_not_have():
    built_in = {id for id in CODECS if h5py.h5z.filter_avail(id)} if hdf5plugin is None else None
    assert {codec.id for codec in CODECS.values() if not codec.plugin} == {1, 2, 3, 5, 6, 32000}
    assert built_in is None or built_in <= {1, 2, 3, 5, 6, 32000}


@pytest.mark.parametrize("module", [pipeline, table], ids=lambda module: module.__name__)
def test_the_pipeline_knows_no_filter(module):
    tree = ast.parse(inspect.getsource(module))
    documents = {
        node.body[0].value
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.FunctionDef | ast.ClassDef) and ast.get_docstring(node)
    }
    words = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            words.add(node.id.lower())
        elif isinstance(node, ast.Attribute):
            words.add(node.attr.lower())
        elif isinstance(node, ast.ImportFrom):
            words.update(f"{node.module}".split("."), (alias.name for alias in node.names))
        elif isinstance(node, ast.Constant) and node not in documents:
            words.add(str(node.value))
    assert not words & {codec.name for codec in CODECS.values()}
    assert not words & {str(id) for id in CODECS if id > 3}


def test_a_preset_is_found_by_its_name():
    for name in preset_names()[2:]:
        codec, preset = find_preset(name)
        assert codec.preset is preset
        assert preset.name == name
        assert codec.encode is not None


# ------------------------------------------------------------------------------- the writer


@pytest.mark.parametrize("first", [0, 1, 63])
def test_blocks_are_encoded_where_they_lie(monkeypatch, first):
    """Of a block only what begins or ends inside a chunk is copied."""
    values = np.arange(6400 + 10, dtype=np.int64)
    whole = encode.encode_chunk
    inside = []

    def noting(chunk, of):
        inside.append(np.shares_memory(chunk, values))
        return whole(chunk, of)

    monkeypatch.setattr(encode, "encode_chunk", noting)
    with (
        h5py.File("m.h5", "w", driver="core", backing_store=False) as file,
        diskcsr.options.set(num_threads=1),
    ):
        writer = create_array(file, "x", first + values.size, values.dtype, 64, "gzip")
        writer.append(np.full(first, 5))
        writer.append(values)
        writer.finish()
        assert file["x"][:].tolist() == [5] * first + values.tolist()
    begun = 64 - first if first else 0
    whole_chunks, ended = divmod(values.size - begun, 64)
    assert inside == [False] * bool(begun) + [True] * whole_chunks + [False] * bool(ended)


@pytest.mark.parametrize("operation", ["write", "append", "assign", "scale"])
def test_values_are_tested_once(tmp_path, monkeypatch, operation):
    codec = CODECS[6]
    tested = []

    def counting(values):
        tested.append(values.size)
        return codec.rounds(values)

    matrix = count_matrix(300, 40)
    path = tmp_path / "m.h5"
    diskcsr.write(path, matrix, compression="scaleoffset", chunks=4096).close()
    monkeypatch.setitem(CODECS, 6, replace(codec, rounds=counting))
    if operation == "write":
        diskcsr.write(tmp_path / "n.h5", matrix, compression="scaleoffset", chunks=64).close()
        lengths = [matrix.nnz, matrix.nnz, matrix.shape[0] + 1]  # of all three arrays
        assert sum(tested) == sum(lengths)
        return
    with diskcsr.open(path, mode="r+") as A:
        if operation == "append":
            A.append(matrix)
        elif operation == "assign":
            A[:] = 2 * matrix
        else:
            A *= 2
    assert sum(tested) == matrix.nnz


def test_a_writer_tests_unless_its_caller_did():
    with h5py.File("m.h5", "w", driver="core", backing_store=False) as file:
        like = create_array(file, "x", 4, np.dtype("f4"), 4, "scaleoffset")
        with pytest.raises(ValueError, match="would round other values"):
            like.append(np.full(4, 0.5, "f4"))
        writer = ArrayWriter(file["x"], tested=True)
        writer.append(np.full(4, 3, "f4"))
        writer.finish()
        assert file["x"][:].tolist() == [3] * 4
