"""Virtual datasets are put together here, part by part; what is not, is left to HDF5."""

import os
import resource
import shutil
import subprocess
import sys
from itertools import pairwise

import h5py
import numpy as np
import pytest
from filtered import FILTERS, count_matrix, store
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_array_equal
from scipy.sparse import csr_array
from test_index_damage import change

import diskcsr
from diskcsr import CorruptFileError, StaleFileError
from diskcsr.keys.cutting import cut_plan
from diskcsr.keys.plan import Plan, plan_reads
from diskcsr.storage.read.readers import ArrayReader
from diskcsr.storage.read.virtual import Part, VirtualReader

PLAIN = count_matrix()
LAYOUTS = ["none", "gzip", "mixed"]


def joined(folder, format, layout, count=3):
    """Store parts and join them without copying; return the path, and what it shows."""
    paths, plain = [], PLAIN.asformat(format)
    for number in range(count):
        filters = layout if layout != "mixed" else ("none", "gzip")[number % 2]
        path = folder / f"part{number}.h5"
        store(path, (number + 1) * plain, chunk=50, steps=FILTERS[filters])
        paths.append(path)
    arrays = [diskcsr.open(path) for path in paths]
    axis = 0 if format == "csr" else 1
    diskcsr.concat(arrays, folder / "all.h5", axis=axis, virtual=True).close()
    for array in arrays:
        array.close()
    dense = np.concatenate([(n + 1) * PLAIN.toarray() for n in range(count)], axis)
    return folder / "all.h5", dense


READS = {
    "all": lambda A: A[:],
    "rows": lambda A: A[[5, 1, 5, -1, 0]],
    "columns": lambda A: A[:, [3, 9, 3, -1]],
    "backwards": lambda A: A[::-7],
    "slice": lambda A: A[A.shape[0] // 3 - 2 : A.shape[0] // 3 + 2],
    "mask": lambda A: A[np.arange(A.shape[0]) % 3 == 0],
    "both": lambda A: A[2:40, ::5],
    "element": lambda A: A[-1, 3],
    "sum": lambda A: A.sum(0),
    "product": lambda A: A @ np.arange(A.shape[1], dtype=float),
    "arrays": lambda A: A.data[:],
}


@pytest.mark.parametrize("read", READS.values(), ids=READS)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("format", ["csr", "csc"])
def test_it_is_read_as_the_matrix_that_it_shows(tmp_path, format, layout, read):
    path, dense = joined(tmp_path, format, layout)
    whole = csr_array(dense.astype(PLAIN.dtype)).asformat(format)
    expected = read(whole)
    with diskcsr.open(path) as A:
        assert A.reader["data"].name == A.reader["indices"].name == "virtual"
        got = read(A)
        if hasattr(expected, "toarray"):
            assert type(got) is type(expected)
            got, expected = got.toarray(), expected.toarray()
        assert got.dtype == expected.dtype
        assert_array_equal(got, expected)
        assert A.reader.bytes_read > 0
        assert A.reader["data"].stored_bytes > 0


@pytest.mark.parametrize("format", ["csr", "csc"])
def test_it_is_read_as_hdf5_reads_it(tmp_path, format):
    path, _ = joined(tmp_path, format, "mixed", 5)
    with diskcsr.open(path) as A, h5py.File(path) as file:
        for name in ("data", "indices", "indptr"):
            assert_array_equal(getattr(A, name), file["X"][name][:])
    assert diskcsr.check(path, isolated=False).ok


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_parts_are_read_by_any_number_of_threads(tmp_path, threads):
    path, dense = joined(tmp_path, "csr", "mixed", 4)
    rows = np.random.default_rng(threads).integers(0, dense.shape[0], 300)
    with diskcsr.options.set(num_threads=threads), diskcsr.open(path) as A:
        assert_array_equal(A[rows].toarray(), dense[rows])


# ------------------------------------------------------------------------------------- its plans


@st.composite
def _cases(draw):
    """Parts of an array, each somewhere in one of its own, and spans to read."""
    sizes = draw(st.lists(st.integers(1, 9), min_size=1, max_size=5))
    before = draw(st.lists(st.integers(0, 3), min_size=len(sizes), max_size=len(sizes)))
    end = sum(sizes)
    # Rows, some of them asked for twice.
    edges = sorted({0, end, *draw(st.lists(st.integers(0, end), max_size=5))})
    rows = draw(st.lists(st.sampled_from(list(pairwise(edges))), max_size=8))
    return sizes, before, rows, draw(st.integers(0, 6))


@given(_cases())
def test_plans_are_cut_at_the_parts(case):
    sizes, before, spans, gap = case
    whole = np.arange(100, 100 + sum(sizes))
    parts, lo = [], 0
    for number, (size, first) in enumerate(zip(sizes, before, strict=True)):
        own = np.concatenate([np.full(first, -1), whole[lo : lo + size], [-2]])
        parts.append(Part(lo, lo + size, first, ArrayReader(f"part {number}", own)))
        lo += size
    starts = np.array([a for a, _ in spans], np.int64)
    stops = np.array([b for _, b in spans], np.int64)
    plan = plan_reads(starts, stops, max_gap=gap, max_range=7)
    out = np.full(plan.size, -9)
    edges = np.array([0, *(part.hi for part in parts)])
    cut = dict(cut_plan(plan, edges, np.array([part.first for part in parts])))
    assert list(cut) == sorted(cut)
    for number, part in enumerate(parts):
        if number not in cut:
            assert not any(a < part.hi and b > part.lo and a < b for a, b in spans)
            continue
        check_plan(cut[number], part)
        part.reader.gather(cut[number], out)
    expected = np.concatenate([whole[:0], *(whole[a:b] for a, b in spans)])
    assert_array_equal(out, expected)


def check_plan(plan: Plan, part: Part):
    """Be sure that a plan is one as readers take them, and of this part alone."""
    assert plan.size == (plan.piece_hi - plan.piece_lo).sum() > 0
    assert plan.range_ptr[0] == 0
    assert plan.range_ptr[-1] == plan.piece_lo.size
    assert (np.diff(plan.range_ptr) > 0).all()
    assert plan.range_lo[0] >= part.first
    assert plan.range_hi[-1] <= part.first + part.hi - part.lo
    for r, (a, b) in enumerate(zip(plan.range_ptr[:-1], plan.range_ptr[1:], strict=True)):
        assert plan.range_lo[r] == plan.piece_lo[a]
        assert plan.range_hi[r] == plan.piece_hi[b - 1] == plan.piece_hi[a:b].max()


# ------------------------------------------------------------------------- what is left to HDF5


def map_values(path, layout, source="part.h5"):
    """Make the values of a stored matrix virtual, by a function that fills a layout."""
    shutil.copy(path, path.parent / source)
    with h5py.File(path, "r+") as file:
        dset = file["X/data"]
        new = h5py.VirtualLayout(dset.shape, dset.dtype)
        layout(new, lambda: h5py.VirtualSource(source, "X/data", dset.shape, dset.dtype))
        del file["X/data"]
        file["X"].create_virtual_dataset("data", new)


def interleaved(new, source):
    n = new.shape[0]
    new[: n // 2 * 2 : 2] = source()[: n // 2]
    new[1 : n // 2 * 2 : 2] = source()[n // 2 : n // 2 * 2]


def overlapping(new, source):
    n = new.shape[0]
    new[: n // 2 + 3] = source()[: n // 2 + 3]
    new[n // 2 :] = source()[n // 2 :]


def with_a_gap(new, source):
    n = new.shape[0]
    new[: n // 2] = source()[: n // 2]
    new[n // 2 + 3 :] = source()[n // 2 + 3 :]


def backwards(new, source):
    n = new.shape[0]
    new[: n // 2] = source()[n - n // 2 :]
    new[n // 2 :] = source()[: n - n // 2]


@pytest.mark.parametrize(
    ("layout", "reader"),
    [
        (interleaved, "h5py"),
        (overlapping, "h5py"),
        (with_a_gap, "h5py"),
        (backwards, "virtual"),
    ],
    ids=lambda one: getattr(one, "__name__", None),
)
def test_mappings_of_every_kind(tmp_path, layout, reader):
    path = tmp_path / "m.h5"
    store(path, PLAIN, chunk=50)
    map_values(path, layout)
    with h5py.File(path) as file:
        expected = file["X/data"][:]
    with diskcsr.open(path) as A:
        assert A.reader["data"].name == reader
        assert A.reader["indices"].name == "direct"
        assert_array_equal(A[:].data, expected)
        assert_array_equal(A[[7, 3]].data, csr_array((expected, PLAIN.indices, PLAIN.indptr),
                                                     shape=PLAIN.shape)[[7, 3]].data)  # fmt: skip


def test_parts_of_another_type_are_left_to_hdf5(tmp_path):
    path = tmp_path / "m.h5"
    store(path, PLAIN, chunk=50)
    with h5py.File(tmp_path / "part.h5", "w") as file:
        file["values"] = PLAIN.data.astype("f8")
    with h5py.File(path, "r+") as file:
        new = h5py.VirtualLayout((PLAIN.nnz,), PLAIN.dtype)
        new[:] = h5py.VirtualSource("part.h5", "values", (PLAIN.nnz,), "f8")
        del file["X/data"]
        file["X"].create_virtual_dataset("data", new)
    with diskcsr.open(path) as A:
        assert A.reader["data"].name == "h5py"
        assert "its part 0 is of another type" in A.reader["data"].why
        assert_array_equal(A[:].data, PLAIN.data)


# ------------------------------------------------------------------------------ where parts lie


def test_parts_of_parts_and_of_the_file_itself(tmp_path):
    (tmp_path / "sub").mkdir()
    path, dense = joined(tmp_path / "sub", "csr", "mixed", 2)
    outer = tmp_path / "outer.h5"
    with h5py.File(path) as file, h5py.File(outer, "w") as new:
        for name in ("data", "indices"):
            size, dtype = file["X"][name].shape, file["X"][name].dtype
            new[f"inner/{name}"] = file["X"][name][:]
            layout = h5py.VirtualLayout((2 * size[0],), dtype)
            layout[: size[0]] = h5py.VirtualSource("sub/all.h5", f"X/{name}", size, dtype)
            layout[size[0] :] = h5py.VirtualSource(".", f"inner/{name}", size, dtype)
            new.create_virtual_dataset(f"X/{name}", layout)
        pointers = file["X/indptr"][:]
        new["X/indptr"] = np.append(pointers, pointers[1:] + pointers[-1])
        new["X"].attrs["h5sparse_format"] = "csr"
        new["X"].attrs["h5sparse_shape"] = (2 * dense.shape[0], dense.shape[1])
    with diskcsr.open(outer) as A:
        assert A.reader["data"].name == "virtual"
        assert A.reader["data"].why.startswith("2 parts, each read by itself: virtual, direct")
        assert_array_equal(A.toarray(), np.concatenate([dense, dense]))


def test_descriptors_are_closed_with_the_array(tmp_path):
    path, dense = joined(tmp_path, "csr", "mixed", 3)
    before = len(os.listdir("/proc/self/fd")) if os.path.exists("/proc/self/fd") else None
    with diskcsr.open(path) as A:
        assert_array_equal(A[[0, -1]].toarray(), dense[[0, -1]])
        del A
    if before is not None:
        assert len(os.listdir("/proc/self/fd")) == before


def test_a_part_that_is_changed_is_named(tmp_path):
    path, dense = joined(tmp_path, "csr", "mixed")
    with diskcsr.open(path) as A:
        assert_array_equal(A[[0, -1]].toarray(), dense[[0, -1]])
        with h5py.File(tmp_path / "part1.h5", "r+") as file:
            file["X/data"][:] = 7
        with pytest.raises(StaleFileError, match=r"part1\.h5, a part of .*all\.h5, was changed"):
            A[[0, PLAIN.shape[0], -1]]
        assert_array_equal(A[[0, -1]].toarray(), dense[[0, -1]])  # of parts as they were
        A.refresh()
        assert (A[[PLAIN.shape[0]]].data == 7).all()


def test_a_part_that_is_missing_is_named(tmp_path):
    path, _ = joined(tmp_path, "csr", "gzip")
    (tmp_path / "part2.h5").unlink()
    with diskcsr.open(path) as A, pytest.raises(CorruptFileError, match=r"part2\.h5"):
        A[0]


@pytest.mark.parametrize("layout", ["none", "gzip"])
@pytest.mark.parametrize("rows", [[0, 150], list(range(0, 300, 2))], ids=["few", "many"])
def test_a_bad_index_is_named_with_its_part(tmp_path, layout, rows):
    path, _ = joined(tmp_path, "csr", layout)
    with h5py.File(tmp_path / "part1.h5", "r+") as file:
        file["X/indices"][:] = 10**6
    rows = np.array(rows) % (3 * PLAIN.shape[0])
    rows[0] = PLAIN.shape[0] + 1
    with diskcsr.open(path) as A, pytest.raises(CorruptFileError, match=r"part1\.h5.*1000000"):
        A[rows]


def test_a_chunk_without_bytes_is_not_taken_for_what_lies_in_memory(tmp_path):
    path = tmp_path / "all.h5"
    plain = PLAIN.tocsr()
    store(tmp_path / "part.h5", plain, chunk=50, libver="earliest")
    with diskcsr.open(tmp_path / "part.h5") as A:
        diskcsr.concat([A, A], path, virtual=True).close()
    change(tmp_path / "part.h5", 2, size=0)
    with diskcsr.open(path) as A, pytest.raises(CorruptFileError, match=r"part\.h5"):
        A[:]


def test_the_reader_shows_what_it_is(tmp_path):
    path, _ = joined(tmp_path, "csr", "mixed")
    with diskcsr.open(path) as A:
        A[:]
        reader = A._contents().reader("data")
        assert isinstance(reader, VirtualReader)
        assert repr(reader).startswith("<virtual reader of ")
        assert "3 parts, each read by itself: direct, decode" in repr(A.reader)


def test_more_files_than_should_be_open_are_left_to_hdf5(tmp_path):
    path, dense = joined(tmp_path, "csr", "mixed", 5)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (160, hard))
    try:
        with diskcsr.open(path) as A:
            assert A.reader["data"].name == "virtual"
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    program = (
        "import resource, sys, diskcsr\n"
        "import diskcsr.storage.read.parts as parts\n"
        "parts._SHARE = 1000\n"
        "with diskcsr.open(sys.argv[1]) as A:\n"
        "    print(A.reader['data'].name, A.reader['data'].why, A.sum())\n"
    )
    code = "import resource\nresource.setrlimit(resource.RLIMIT_NOFILE, (1024, 1024))\n" + program
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("h5py virtual, and its 5 files are more than should be open")
    assert float(done.stdout.split()[-1]) == dense.sum()


def test_a_part_is_read_at_a_committed_state(tmp_path):
    # As the file itself is: what a process that died had begun is undone first.
    path, dense = joined(tmp_path, "csr", "mixed")
    program = (
        "import os, sys, diskcsr\n"
        "from diskcsr.storage.journal.journal import Journal\n"
        "Journal.commit = lambda self: os._exit(7) if self.hot else None\n"
        "A = diskcsr.open(sys.argv[1], mode='r+')\n"
        "A *= 3\n"
    )
    part = tmp_path / "part0.h5"
    done = subprocess.run([sys.executable, "-c", program, str(part)], check=False)
    assert done.returncode == 7
    assert (tmp_path / "part0.h5-journal").exists()
    with diskcsr.open(path) as A:
        assert_array_equal(A.toarray(), dense)
    assert not (tmp_path / "part0.h5-journal").exists()


def test_a_part_that_this_process_has_open(tmp_path):
    path, dense = joined(tmp_path, "csr", "mixed")
    with diskcsr.open(tmp_path / "part1.h5") as part:
        first = part[[0]].toarray()
        with diskcsr.open(path) as A:
            assert_array_equal(A.toarray(), dense)
            assert_array_equal(A[[PLAIN.shape[0]]].toarray(), first)


def test_sound_parts_whose_filter_hdf5_lacks_are_no_damage(tmp_path):
    plain = PLAIN.tocsr()
    try:
        diskcsr.write(tmp_path / "part.h5", plain, compression="zstd").close()
    except (ImportError, ValueError) as problem:
        pytest.skip(str(problem))
    with diskcsr.open(tmp_path / "part.h5") as A:
        diskcsr.concat([A, A], tmp_path / "all.h5", virtual=True).close()
    assert diskcsr.check(tmp_path / "all.h5").ok
