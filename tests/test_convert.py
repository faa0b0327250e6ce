"""Conversion from file to file: formats, joins, shuffles, streams, within a given memory."""

import inspect
import os
from dataclasses import fields
from typing import get_type_hints

import h5py
import numpy as np
import pytest
import scipy.sparse as sp
from numpy.testing import assert_array_equal

import diskcsr
from diskcsr.storage.write.keywords import Storage, StorageKeywords

PARTS = ("data", "indices", "indptr")
FORMATS = ("csr", "csc")
both_formats = pytest.mark.parametrize("format", FORMATS)
other = {"csr": "csc", "csc": "csr"}


def random(shape=(300, 90), dtype=np.float32, format="csr", seed=0):
    rng = np.random.default_rng(seed)
    dense = rng.integers(1, 9, shape) * (rng.random(shape) < 0.2)
    return sp.csr_array(dense.astype(dtype)).asformat(format)


def same(array, expected):
    got = array.to_memory()
    assert (got.format, got.shape, got.dtype) == (expected.format, expected.shape, expected.dtype)
    for part in PARTS:
        assert_array_equal(getattr(got, part), getattr(expected, part))


def least(n_minor):
    from diskcsr.streams.transpose import Memory

    return Memory.least(n_minor)


@pytest.fixture
def stored(tmp_path):
    opened = []

    def store(matrix, **options):
        opened.append(diskcsr.write(tmp_path / f"source{len(opened)}.h5", matrix, **options))
        return opened[-1]

    yield store
    for array in opened:
        array.close()


@both_formats
@pytest.mark.parametrize("dtype", "?bhifdgFDG")
@pytest.mark.parametrize("tight", [False, True])
def test_the_other_format(tmp_path, stored, format, dtype, tight):
    plain = random((3000, 200), dtype, format)
    A = stored(plain)
    memory = least(plain.shape[A._axis.minor]) if tight else None
    with A.save(tmp_path / "t.h5", format=other[format], max_memory=memory) as B:
        same(B, plain.asformat(other[format]))
    assert sorted(os.listdir(tmp_path)) == ["source0.h5", "t.h5"]


def test_a_column_larger_than_the_memory(tmp_path, stored):
    dense = np.zeros((120_000, 3), np.float64)
    dense[:, 1] = np.arange(1, 120_001)
    dense[::7, 2] = 5
    plain = sp.csr_array(dense)
    with stored(plain).save(tmp_path / "t.h5", format="csc", max_memory=least(3)) as B:
        same(B, plain.tocsc())


def test_duplicates_keep_their_order_or_are_summed(tmp_path, stored):
    indices, indptr = np.array([1, 0, 1, 1, 0]), np.array([0, 3, 5])
    with h5py.File(tmp_path / "d.h5", "w") as file:
        group = file.create_group("X")
        group.attrs["h5sparse_format"], group.attrs["h5sparse_shape"] = "csr", (2, 2)
        for name, values in zip(PARTS, (np.arange(1.0, 6), indices, indptr), strict=True):
            group[name] = values
    with diskcsr.open(tmp_path / "d.h5") as A, A.save(tmp_path / "t.h5", format="csc") as B:
        same(B, sp.csc_array(([2.0, 5, 1, 3, 4], [0, 1, 0, 0, 1], [0, 2, 5]), shape=(2, 2)))
    for format in FORMATS:
        path = tmp_path / f"{format}.h5"
        with diskcsr.convert(tmp_path / "d.h5", path, format=format, sum_duplicates=True) as B:
            assert B.nnz == 4
            assert_array_equal(B.toarray(), [[2, 4], [5, 4]])


@pytest.mark.parametrize("shape", [(0, 0), (0, 5), (5, 0), (4, 4)])
def test_nothing_stored(tmp_path, stored, shape):
    plain = sp.csr_array(shape)
    with stored(plain).save(tmp_path / "t.h5", format="csc") as B:
        same(B, plain.tocsc())


def test_a_small_budget_is_enough(tmp_path, stored):
    plain = random((20_000, 60))
    A = stored(plain)
    with diskcsr.options.set(memory_budget=600_000):
        with pytest.raises(diskcsr.MemoryBudgetError):
            A.to_memory()
        A.save(tmp_path / "t.h5", format="csc").close()
        diskcsr.write(tmp_path / "w.h5", A, format="csc").close()
    for name in ("t.h5", "w.h5"):
        with diskcsr.open(tmp_path / name) as B:
            same(B, plain.tocsc())


def test_too_little_memory_is_refused(tmp_path, stored):
    with pytest.raises(ValueError, match=f"at least {least(90)}"):
        stored(random()).save(tmp_path / "t.h5", format="csc", max_memory=1000)
    assert not (tmp_path / "t.h5").exists()


@both_formats
@pytest.mark.parametrize("axis", [0, 1])
def test_concat_of_everything(tmp_path, stored, format, axis):
    parts = [random(dtype=np.int16), random(format="csc", seed=1), random(dtype="d", seed=2)]
    expected = (sp.vstack if axis == 0 else sp.hstack)([*parts, parts[1]], format=format)
    arrays = [stored(parts[0], compression="gzip"), stored(parts[1]), parts[2]]
    arrays.append((arrays[1].filename, "X"))
    with diskcsr.concat(arrays, tmp_path / "all.h5", axis=axis, format=format) as B:
        same(B, expected)
    assert sorted(os.listdir(tmp_path)) == ["all.h5", "source0.h5", "source1.h5"]


@both_formats
def test_virtual_concat_is_read_by_h5py_from_anywhere(tmp_path, stored, format, monkeypatch):
    parts = [random(format=format, seed=seed) for seed in range(3)]
    axis = 0 if format == "csr" else 1
    expected = (sp.vstack if axis == 0 else sp.hstack)(parts, format=format)
    arrays = [stored(part) for part in parts]
    diskcsr.concat(arrays, tmp_path / "all.h5", axis=axis, virtual=True).close()
    monkeypatch.chdir("/")
    with diskcsr.open(tmp_path / "all.h5") as B:
        same(B, expected)
    with h5py.File(tmp_path / "all.h5") as file:
        assert file["X/data"].is_virtual
        assert {source.file_name for source in file["X/data"].virtual_sources()} == {
            f"source{number}.h5" for number in range(3)
        }
        assert_array_equal(file["X/data"][:], expected.data)


def test_virtual_concat_says_why_not(tmp_path, stored):
    A, B, C = stored(random()), stored(random(format="csc")), stored(random(dtype="d"))
    for arrays, axis, why in [
        ([A, A], 1, "along axis 0 only"),
        ([A, B], 0, "stored as csc"),
        ([A, C], 0, "float64"),
        ([A, random()], 0, "not in a file"),
    ]:
        with pytest.raises(ValueError, match=why):
            diskcsr.concat(arrays, tmp_path / "all.h5", axis=axis, virtual=True)
    assert not (tmp_path / "all.h5").exists()


@pytest.mark.parametrize("source", FORMATS)
@pytest.mark.parametrize("target", FORMATS)
def test_permuted_rows(tmp_path, stored, source, target):
    plain = random(format=source)
    A = stored(plain)
    if (source, target) == ("csc", "csr"):
        with pytest.raises(ValueError, match="convert first"):
            diskcsr.convert(A, tmp_path / "s.h5", permute_rows=True, rng=3, format=target)
        return
    order = np.random.default_rng(3).permutation(300)
    how = dict(permute_rows=True, format=target, max_memory=least(90), overwrite=True)
    for rng in (3, np.random.default_rng(3)):
        with diskcsr.convert(A, tmp_path / "s.h5", rng=rng, **how) as B:
            same(B, plain.tocsr()[order].asformat(target))
    with pytest.raises(ValueError, match="permute_rows=True"):
        diskcsr.convert(A, tmp_path / "t.h5", rng=3)
    assert not (tmp_path / "t.h5").exists()


@both_formats
@pytest.mark.parametrize("compression", [None, "gzip"])
def test_blocks_of_which_nothing_is_known(tmp_path, format, compression):
    plain = random((9000, 100))
    blocks = [plain[i : i + 700] for i in range(0, 9000, 700)]
    blocks[2] = blocks[2].toarray()
    if format == "csc":
        blocks, plain = [block.T for block in blocks], plain.T
    path = tmp_path / "m.h5"
    with diskcsr.write(path, iter(blocks), format=format, compression=compression) as A:
        same(A, plain)


def test_blocks_that_do_not_fit_leave_nothing(tmp_path):
    def failing():
        yield random()
        raise RuntimeError("no more")

    for blocks, error, why in [
        (failing(), RuntimeError, "no more"),
        (iter([random(), random((3, 4))]), ValueError, "block 1"),
        (iter([random(dtype="i"), random(dtype="d")]), TypeError, "block 1"),
        (iter([]), ValueError, "no block"),
    ]:
        with pytest.raises(error, match=why):
            diskcsr.write(tmp_path / "m.h5", blocks)
        assert os.listdir(tmp_path) == []


def test_files_of_scipy(tmp_path):
    from scipy.io import mmwrite

    plain = random(dtype=np.float64)
    mmwrite(tmp_path / "m.mtx", plain)
    sp.save_npz(tmp_path / "m.npz", plain)
    for name in ("m.mtx", "m.npz"):
        with diskcsr.convert(tmp_path / name, tmp_path / f"{name}.h5") as A:
            same(A, plain)


def test_progress_reaches_the_end(tmp_path, stored):
    told = []
    stored(random()).save(
        tmp_path / "t.h5", format="csc", progress=lambda *now: told.append(now)
    ).close()
    assert told[-1][0] == told[-1][1]
    assert told == sorted(told)
    with pytest.raises(TypeError, match="progress"):
        diskcsr.write(tmp_path / "p.h5", random(), progress="yes")


def test_a_source_is_not_written_over(tmp_path, stored):
    A = stored(random())
    with pytest.raises(ValueError, match="another file"):
        A.save(A.filename, "Y", format="csc")


# --------------------------------------------------------------------------- the common keywords


def untidy(format):
    """A matrix with unsorted indices and an entry that is stored twice."""
    build = {"csr": sp.csr_array, "csc": sp.csc_array}[format]
    arrays = np.array([1.0, 2, 3, 4]), np.array([2, 0, 2, 1]), np.array([0, 3, 4])
    return build(arrays, shape=(2, 3) if format == "csr" else (3, 2))


def _write(matrix, path, **how):
    return diskcsr.write(path, matrix, **how)


def _write_blocks(matrix, path, **how):
    return diskcsr.write(path, iter([matrix]), format=matrix.format, **how)


def _save(matrix, path, **how):
    with diskcsr.write(path.with_name("s.h5"), matrix, sort_indices=False, overwrite=True) as A:
        return A.save(path, **how)


def _concat(matrix, path, **how):
    return diskcsr.concat([matrix], path, axis=0 if matrix.format == "csr" else 1, **how)


def _concat_beside(matrix, path, **how):
    return diskcsr.concat([matrix], path, axis=1 if matrix.format == "csr" else 0, **how)


def _create_dataset(matrix, path, **how):
    with diskcsr.File(path, "w") as file:
        file.create_dataset("X", data=matrix, **how)
    return diskcsr.open(path)


def _append(matrix, path, **how):
    diskcsr.write(path, matrix[:0] if matrix.format == "csr" else matrix[:, :0]).close()
    with diskcsr.open(path, mode="r+") as A:
        A.append(matrix, **how)
    return diskcsr.open(path)


def _convert(matrix, path, **how):
    return diskcsr.convert(matrix, path, **how)


WRITERS = [_write, _write_blocks, _convert, _save, _concat, _concat_beside, _create_dataset]


@both_formats
@pytest.mark.parametrize("writer", [*WRITERS, _append])
def test_order_and_duplicates_are_what_was_asked_for(tmp_path, format, writer):
    told, matrix = [], untidy(format)
    how = dict(progress=lambda *now: told.append(now))
    for number, (changes, indices, values) in enumerate(
        [
            ({}, [0, 2, 2, 1], [2, 4, 4]),
            ({"sort_indices": False}, [2, 0, 2, 1], [1, 2, 3, 4]),
            ({"sum_duplicates": True}, [0, 2, 1], [2, 4, 4]),
        ]
    ):
        with writer(matrix, tmp_path / f"{number}.h5", **changes, **how) as A:
            assert A.indices.tolist() == indices
            assert A.format == format
            if changes:
                assert A.data.tolist() == values
            assert_array_equal(A.toarray(), matrix.toarray())
        assert told
        told.clear()
    assert matrix.indices.tolist() == [2, 0, 2, 1]


@pytest.mark.parametrize("writer", WRITERS)
def test_all_that_write_take_the_same_keywords(tmp_path, writer):
    how = dict(compression="gzip", compression_opts=1, shuffle=False, chunks=7, tags="anndata")
    memory = {} if writer is _write_blocks else {"max_memory": 10**8}
    for _ in range(2):
        with writer(untidy("csr"), tmp_path / "m.h5", overwrite=True, **memory, **how) as A:
            dset = A.group["data"]
            assert (dset.compression, dset.compression_opts, dset.shuffle) == ("gzip", 1, False)
            assert dset.chunks == (7,)
            assert sorted(A.group.attrs) == ["encoding-type", "encoding-version", "shape"]
    with pytest.raises(ValueError, match="'best'"):
        writer(untidy("csr"), tmp_path / "n.h5", compression="best")
    for name in ("fillvalue", "seed", "maxshape"):
        with pytest.raises(TypeError, match=f"not {name}"):
            writer(untidy("csr"), tmp_path / "n.h5", **{name: 3})
    assert {*os.listdir(tmp_path)} <= {"m.h5", "n.h5", "s.h5"}


def test_what_cannot_be_honoured_is_refused(tmp_path, stored):
    with pytest.raises(ValueError, match="max_memory=: an iterable"):
        diskcsr.write(tmp_path / "m.h5", iter([random()]), max_memory=10**9)
    A = stored(random())
    for how in ({"compression": "gzip"}, {"max_memory": 10**9}, {"sum_duplicates": True}):
        with pytest.raises(ValueError, match=f"{next(iter(how))}=: virtual"):
            diskcsr.concat([A, A], tmp_path / "m.h5", virtual=True, **how)
    assert not (tmp_path / "m.h5").exists()
    with diskcsr.open(A.filename, mode="r+") as B:
        with pytest.raises(TypeError, match="'compression'"):
            B.append(random(), compression="gzip")
        assert B.shape == A.shape


@pytest.mark.parametrize(
    "call", [diskcsr.write, diskcsr.convert, diskcsr.concat, diskcsr.DiskCSR.save]
)
def test_signatures_show_the_keywords(call):
    parameters = inspect.signature(call).parameters
    names = [field.name for field in fields(Storage)]
    assert [*parameters][-len(names) :] == names
    for field in fields(Storage):
        assert parameters[field.name].kind is inspect.Parameter.KEYWORD_ONLY
        assert parameters[field.name].default is field.default
    assert "storage" not in parameters


def test_the_keywords_are_those_of_the_checked_types():
    assert get_type_hints(StorageKeywords) == get_type_hints(Storage)


def test_each_keyword_is_documented_once():
    for name in get_type_hints(Storage):
        documented = [
            call
            for call in (diskcsr.write, diskcsr.convert, diskcsr.concat, diskcsr.DiskCSR.save)
            if f"\n    {name} : " in inspect.getdoc(call).replace("\n", "\n    ")
        ]
        assert documented == [diskcsr.write]


def test_what_is_joined_in_an_anndata_file_has_pointers_of_the_type_of_its_indices(tmp_path):
    for name in ("a", "b"):
        diskcsr.write(tmp_path / f"{name}.h5", sp.eye_array(4, format="csr")).close()
    parts = [tmp_path / "a.h5", tmp_path / "b.h5"]
    diskcsr.concat(parts, tmp_path / "alone.h5", virtual=True, tags="anndata").close()
    diskcsr.concat(parts, tmp_path / "both.h5", virtual=True).close()
    for name, dtype in (("alone", "i4"), ("both", "i8")):
        with h5py.File(tmp_path / f"{name}.h5") as file:
            assert file["X/indptr"].dtype == dtype
            assert file["X/indices"].dtype == "i4"
        with diskcsr.open(tmp_path / f"{name}.h5") as A:
            assert_array_equal(A.toarray(), np.vstack([np.eye(4), np.eye(4)]))
