"""Tiny files that claim a great deal: a clear error, or as much work as there is to do."""

import json
import os
import subprocess
import sys

import h5py
import numpy as np
import pytest

import diskcsr
from diskcsr import options
from diskcsr.storage.claims.chunks import refuse_empty

NAMES = {
    "binsparse": ("values", "indices_1", "pointers_to_1"),
    "matlab": ("data", "ir", "jc"),
}
COLUMNS = ("matlab", "10x")
FORMATS = ["h5sparse", "anndata", "binsparse", "matlab", "h5io", "10x", "untagged"]


def claim(path, convention, majors, minors, stored=0, chunk=1024):
    """Make a file of a few kB that claims a matrix of any size; nothing of its arrays is there."""
    shape = (minors, majors) if convention in COLUMNS else (majors, minors)
    data, indices, indptr = NAMES.get(convention, ("data", "indices", "indptr"))
    how = {"chunks": (chunk,), "maxshape": (None,)} if chunk else {}
    with h5py.File(path, "w") as file:
        group = file.create_group("X")
        group.create_dataset(data, (stored,), "f4", **how)
        group.create_dataset(indices, (stored,), "i8", **how)
        pointers = group.create_dataset(indptr, (majors + 1,), "i8", **how)
        if stored:
            pointers[majors] = stored
        _tag(group, convention, shape, stored)
    return path


def _tag(group, convention, shape, stored):
    numbers = np.array(shape, "i8")
    if convention == "h5sparse":
        group.attrs["h5sparse_format"], group.attrs["h5sparse_shape"] = "csr", numbers
    elif convention == "anndata":
        group.attrs["encoding-type"], group.attrs["shape"] = "csr_matrix", numbers
    elif convention == "matlab":
        group.attrs["MATLAB_sparse"] = np.uint64(shape[0])
    elif convention == "binsparse":
        types = {"values": "float32", "indices_1": "int64", "pointers_to_1": "int64"}
        said = {"version": "0.1", "format": "CSR", "shape": shape, "data_types": types}
        said["number_of_stored_values"] = stored
        group.attrs["binsparse"] = json.dumps({"binsparse": said})
    elif convention == "h5io":
        group.attrs["TITLE"] = "csr_matrix"
        group["shape/idx_0"], group["shape/idx_1"] = shape
    else:
        group["shape"] = numbers
        if convention == "10x":
            group["barcodes"] = np.zeros(1)


READ = {
    "iter_blocks": lambda A: sum(1 for _ in A.iter_blocks()),
    "to_memory": lambda A: A.to_memory(),
    "rows": lambda A: A.fetch([0, 1]),
    "the other side": lambda A: A[[0]] if A.format == "csc" else A[:, [0]],
    "batches": lambda A: next(iter(A.batches(4))),
    "shuffled": lambda A: next(iter(A.batches(4, shuffle=True, rng=0))),
    "T": lambda A: A.T[0],
    "sum": lambda A: A.sum(),
    "indptr": lambda A: A.indptr,
    "convert": lambda A: diskcsr.convert(A, "new.h5"),
    "turn": lambda A: diskcsr.convert(A, "new.h5", format={"csr": "csc", "csc": "csr"}[A.format]),
    "permute": lambda A: diskcsr.convert(A, "new.h5", permute_rows=True, rng=0),
    "concat": lambda A: diskcsr.concat([A, A], "new.h5"),
    "concat across": lambda A: diskcsr.concat([A, A], "new.h5", axis=1),
}
ERRORS = (diskcsr.CorruptFileError, diskcsr.MemoryBudgetError)
EMPTY = r"of the \d+ elements in use no more than \d+ were ever written"


@pytest.mark.parametrize("convention", FORMATS)
@pytest.mark.parametrize(("majors", "stored"), [(2**30, 0), (2**60, 0), (5, 2**40), (2**30, 2**40)])
def test_what_claims_a_great_deal_is_refused(tmp_path, monkeypatch, convention, majors, stored):
    monkeypatch.chdir(tmp_path)
    path = claim(tmp_path / "m.h5", convention, majors, 7, stored)
    assert path.stat().st_size < 100_000
    refused = set()
    with options.set(memory_budget=1 << 28):
        for way, call in READ.items():
            with diskcsr.open(path, "X") as A:
                try:
                    call(A)
                except ERRORS:
                    refused.add(way)
    assert refused >= {"iter_blocks", "to_memory", "convert", "turn", "permute", "concat"}
    assert "concat across" in refused
    # Of these a few row pointers that are there may be enough.
    assert set(READ) - refused <= {"rows", "batches", "shuffled", "indptr", "sum", "T"}
    assert os.listdir(tmp_path) == ["m.h5"]
    assert not diskcsr.check(path, isolated=False).ok


@pytest.mark.parametrize("convention", FORMATS)
def test_the_error_says_what_is_not_there(tmp_path, convention):
    path = claim(tmp_path / "m.h5", convention, 2**30, 7)
    with diskcsr.open(path, "X") as A, pytest.raises(diskcsr.CorruptFileError, match=EMPTY) as said:
        A.fetch([0])
    assert str(said.value).startswith(f"{path}, group '/X', dataset ")
    path = claim(tmp_path / "m.h5", convention, 5, 7, 2**40)
    with diskcsr.open(path, "X") as A, pytest.raises(diskcsr.CorruptFileError, match=EMPTY):
        diskcsr.convert(A, tmp_path / "new.h5")


@pytest.mark.parametrize("layout", ["contiguous", "chunked", "virtual", "half virtual"])
def test_every_layout_of_what_is_not_there(tmp_path, layout):
    path, rows = tmp_path / "m.h5", 2**30
    claim(path, "h5sparse", rows, 5, chunk=1024 if layout == "chunked" else None)
    if "virtual" in layout:
        with h5py.File(path, "r+") as file:
            file["short"] = np.zeros(1000, "i8")
            del file["X/indptr"]
            virtual = h5py.VirtualLayout((rows + 1,), "i8")
            if layout == "half virtual":
                virtual[:1000] = h5py.VirtualSource(".", "short", (1000,), "i8")
            file["X"].create_virtual_dataset("indptr", virtual)
    with diskcsr.open(path) as A, pytest.raises(diskcsr.CorruptFileError, match=EMPTY):
        A[0]
    with diskcsr.open(path, mode="r+") as A, pytest.raises(diskcsr.CorruptFileError, match=EMPTY):
        A[0]


def test_what_is_short_or_really_there_is_not_refused(tmp_path):
    path = claim(tmp_path / "m.h5", "h5sparse", 10**6, 5)
    with diskcsr.open(path) as A:
        assert A.sum() == 0
        assert A[[999_999]].nnz == 0
    with h5py.File(tmp_path / "long.h5", "w") as file:
        long = file.create_dataset("a", ((1 << 26) + 5000,), "i8", chunks=(4096,))
        long[:5000] = 1
        refuse_empty(long, long.size, "here")  # so the rest is just short enough
        longer = file.create_dataset("b", ((1 << 26) + 5000,), "i8", chunks=(4096,))
        longer[0] = 1
        with pytest.raises(diskcsr.CorruptFileError, match="here: of the 67113864 elements"):
            refuse_empty(longer, longer.size, "here")


@pytest.mark.parametrize("format", ["csr", "csc"])
@pytest.mark.parametrize("stored", [7, 0])
def test_row_pointers_that_end_in_nothing_are_not_believed(tmp_path, format, stored):
    # As where their last chunk was lost: that nothing is stored is an answer to many questions.
    shape = (8, 1) if format == "csr" else (1, 8)
    with h5py.File(tmp_path / "m.h5", "w") as file:
        group = file.create_group("X")
        group.attrs["h5sparse_format"], group.attrs["h5sparse_shape"] = format, shape
        group["data"], group["indices"] = np.ones(stored), np.zeros(stored, np.int32)
        group["indptr"] = np.array([0, 1, 1, 2, 3, 0, 0, 0, 0])
    for ask in (
        lambda A: A @ A.T,
        lambda A: A.T @ A,
        lambda A: A.argmax(),
        lambda A: A.nnz,
        lambda A: A.sum(),
        lambda A: str(A),
        lambda A: A.to_memory(),
    ):
        with (
            diskcsr.open(tmp_path / "m.h5") as A,
            pytest.raises(diskcsr.CorruptFileError, match="'indptr' must"),
        ):
            ask(A)


def test_a_minor_axis_costs_nothing_until_it_is_laid_out(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = claim(tmp_path / "m.h5", "h5sparse", 5, 2**62)
    with diskcsr.open(path) as A:
        assert A.to_memory().shape == A[:5].shape == (5, 2**62)
        assert diskcsr.convert(A, "new.h5").shape == (5, 2**62)
        assert A.T[[0]].shape == (1, 5)
        with pytest.raises(diskcsr.MemoryBudgetError):
            diskcsr.convert(A, "turned.h5", format="csc")
        with pytest.raises(ValueError, match="joined along axis 1 they have more than 92233720"):
            diskcsr.concat([A, A], "joined.h5", axis=1)
    assert sorted(os.listdir()) == ["m.h5", "new.h5"]


def test_an_order_of_rows_is_asked_for_like_any_memory(tmp_path):
    path = claim(tmp_path / "m.h5", "h5sparse", 10**6, 5)
    with diskcsr.open(path) as A, options.set(memory_budget=1 << 20):
        with pytest.raises(diskcsr.MemoryBudgetError, match="an order of 1000000 rows"):
            next(iter(A.batches(4, shuffle=True)))
        with pytest.raises(diskcsr.MemoryBudgetError, match="an order of 1000000 rows"):
            diskcsr.convert(A, tmp_path / "new.h5", permute_rows=True)


def test_the_command_line_converts_no_lies(tmp_path):
    path = claim(tmp_path / "m.h5", "h5sparse", 2**30, 5)
    command = [sys.executable, "-m", "diskcsr", "convert", str(path), str(tmp_path / "new.h5")]
    root = os.path.dirname(os.path.dirname(diskcsr.__file__))
    environment = {**os.environ, "PYTHONPATH": root}
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment)
    assert done.returncode == 2
    assert "were ever written" in done.stderr
    assert os.listdir(tmp_path) == ["m.h5"]
