"""A chunk index that lies: refused by whoever reads or writes, and never zeros without a word."""

import io
import os
import struct
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
import scipy.sparse as sp
from filtered import FILTERS, chunks_of, count_matrix, overwrite, store

import diskcsr
from diskcsr.storage.claims import chunks
from diskcsr.storage.claims.chunks import check_chunks, index_chunks, refuse_overlap, unwritten

N, CHUNK = 4096, 512
MATRIX = sp.csr_array((np.arange(1.0, N + 1), np.arange(N) % 7, np.arange(N + 1)), shape=(N, 7))
LAYOUTS = ["none", "gzip"]
PARTS = ("data", "indices", "indptr")
#: Of a chunk in a version 1 B-tree.
FIELDS = ["size", "mask", "first", "zero", "place"]

check = diskcsr.check


def write(path, layout="none", libver="earliest", matrix=MATRIX, chunk=CHUNK):
    return store(path, matrix, chunk=chunk, steps=FILTERS[layout], libver=libver)


# ------------------------------------------------------------- one version 1 B-tree at a time


def entries(path, name="X/data"):
    """Where in the file each chunk's key lies, and what it says."""
    raw, found = Path(path).read_bytes(), []
    for first, mask, place, size in chunks_of(path, name):
        key = struct.pack("<IIQQQ", size, mask, first, 0, place)
        assert raw.count(key) == 1
        found.append((raw.index(key), [size, mask, first, 0, place]))
    return found


def change(path, number, **what):
    at, said = entries(path)[number]
    for name, value in what.items():
        said[FIELDS.index(name)] = value
    overwrite(path, at, struct.pack("<IIQQQ", *said))


def outside(path):
    raw = path.read_bytes()
    size = chunks_of(path, "X/data")[2][3]
    old, new = (struct.pack("<IIQ", size, 0, first) for first in (1024, 9728))
    at = raw.index(old)
    overwrite(path, at, new)


def swapped(path):
    keys = entries(path)
    for (at, said), (_, other) in ((keys[2], keys[5]), (keys[5], keys[2])):
        overwrite(path, at, struct.pack("<IIQQQ", *said[:2], other[2], *said[3:]))


def shifted(path):
    """Each key of the first half as the next one has it: the last two are alike."""
    for number in range(1, 4):
        change(path, number, first=(number + 1) * CHUNK)


STRUCTURE = {
    "outside": outside,
    "just outside": lambda path: change(path, 7, first=N),
    "swapped": swapped,
    "duplicate": lambda path: change(path, 3, first=2 * CHUNK),
    "shifted": shifted,
    "misaligned": lambda path: change(path, 3, first=3 * CHUNK + 1),
    "nowhere": lambda path: change(path, 3, place=2**64 - 1),
}


def beside(path):
    """The third chunk where the second still is."""
    change(path, 2, place=entries(path)[1][1][4] + 8)


PLACES = {
    "overlapping": beside,
    "the same place": lambda path: change(path, 2, place=entries(path)[1][1][4]),
    "past the end": lambda path: change(path, 2, place=path.stat().st_size - 16),
    "far past the end": lambda path: change(path, 2, place=2**63 - 8),
    "superblock": lambda path: change(path, 2, place=8),
    "header": lambda path: change(path, 2, place=header_of(path) - 8),
    "no bytes": lambda path: change(path, 2, size=0),
    "bytes without end": lambda path: change(path, 2, size=2**32 - 1),
}


def header_of(path):
    with h5py.File(path) as file:
        return h5py.h5g.get_objinfo(file["X/data"].id).objno[0]


every_layout = pytest.mark.parametrize("layout", LAYOUTS)
every_structure = pytest.mark.parametrize("damage", STRUCTURE)
every_place = pytest.mark.parametrize("damage", PLACES)


def damaged(tmp_path, layout, damage):
    path = write(tmp_path / "m.h5", layout)
    {**STRUCTURE, **PLACES}[damage](path)
    return path


READ = {
    "sum": lambda A: A.sum(),
    "sum over rows": lambda A: A.sum(0),
    "product": lambda A: A @ np.ones(7),
    "all rows": lambda A: A[:],
    "some rows": lambda A: A[[3000, 1100, 5]],
    "element": lambda A: A[1030, 1030 % 7],
    "memory": lambda A: A.to_memory(),
    "held": lambda A: A.data,
    "batches": lambda A: list(A.batches(100)),
    "blocks": lambda A: list(A.iter_blocks()),
    "transpose": lambda A: A.T.tocsr(),
}


@every_layout
@pytest.mark.parametrize("damage", [*STRUCTURE, *PLACES])
@pytest.mark.parametrize("mode", ["r", "c", "r+"])
def test_no_way_to_read_is_silent(tmp_path, layout, damage, mode):
    path = damaged(tmp_path, layout, damage)
    for name, read in READ.items():
        with diskcsr.open(path, mode=mode) as A:
            with pytest.raises(diskcsr.CorruptFileError, match=r"'data'|/data") as caught:
                read(A)
            assert str(path) in str(caught.value), name


@every_layout
@every_place
def test_what_lies_elsewhere_is_served(tmp_path, layout, damage):
    path = damaged(tmp_path, layout, damage)
    rows = [4000, 3500, 2000]  # of none of the first three chunks
    with diskcsr.open(path) as A:
        found = A[rows]
        assert found.dtype == np.float64
        assert np.array_equal(found.toarray(), MATRIX[rows].toarray())


@every_layout
@pytest.mark.parametrize("damage", [*STRUCTURE, *PLACES])
def test_nothing_is_written_to_what_is_damaged(tmp_path, layout, damage):
    path = damaged(tmp_path, layout, damage)
    before = path.read_bytes()
    rows = MATRIX[:2]
    for write_to in (
        lambda A: A.append(rows),
        lambda A: A.__setitem__((0, 0), 5),
        lambda A: A.__setitem__(slice(0, 2), 2 * rows),
        lambda A: A.__imul__(2),
    ):
        with diskcsr.open(path, mode="r+") as A, pytest.raises(diskcsr.CorruptFileError):
            write_to(A)
    with h5py.File(path, "r+") as file:
        A = diskcsr.DiskCSR(file["X"], mode="r+")
        with pytest.raises(diskcsr.CorruptFileError):
            A.append(rows)
    assert path.read_bytes() == before


@every_layout
@pytest.mark.parametrize("damage", ["outside", "swapped", "overlapping"])
def test_whatever_makes_hdf5_read_it(tmp_path, layout, damage):
    """A file object, and a link that leads to another file."""
    path = damaged(tmp_path, layout, damage)
    with h5py.File(io.BytesIO(path.read_bytes()), "r") as file:
        A = diskcsr.DiskCSR(file["X"])
        with pytest.raises(diskcsr.CorruptFileError):
            A.to_memory()
    with h5py.File(tmp_path / "link.h5", "w") as file:
        group = file.create_group("X")
        group.attrs["h5sparse_format"] = "csr"
        group.attrs["h5sparse_shape"] = MATRIX.shape
        for name in PARTS:
            group[name] = h5py.ExternalLink("m.h5", f"X/{name}")
    with diskcsr.open(tmp_path / "link.h5") as A:
        for read in (lambda: A.reader, lambda: A.to_memory()):
            with pytest.raises(diskcsr.CorruptFileError, match=f"{path}, dataset '/X/data'"):
                read()


@every_layout
@pytest.mark.parametrize("damage", [*STRUCTURE, *PLACES])
def test_check_says_so(tmp_path, layout, damage):
    path = damaged(tmp_path, layout, damage)
    before = path.read_bytes()
    for repair in (False, True):
        report = check(path, isolated=False, repair=repair)
        assert not report.ok
        found = [p for p in report.problems if p.where == "/X/data" and p.severity == "error"]
        assert found, str(report)
    assert path.read_bytes() == before


@every_layout
@every_structure
def test_copies_are_not_made_of_it(tmp_path, layout, damage):
    path = damaged(tmp_path, layout, damage)
    with diskcsr.open(path) as A:
        for copy in (
            lambda: diskcsr.write(tmp_path / "new.h5", A),
            lambda: diskcsr.convert(path, tmp_path / "new.h5", format="csc"),
            lambda: diskcsr.concat([A, A], tmp_path / "new.h5"),
        ):
            with pytest.raises(diskcsr.CorruptFileError):
                copy()
            assert not (tmp_path / "new.h5").exists()


# -------------------------------------------------------------------- trees of several nodes


def nodes(path):
    """Address, level and number of children of each node of the trees of chunks."""
    raw, found, at = path.read_bytes(), [], -1
    while (at := raw.find(b"TREE\1", at + 1)) >= 0:
        level, used = struct.unpack_from("<BH", raw, at + 5)
        found.append((at, level, used))
    return found


def deep(tmp_path, layout):
    """A tree of two levels for the values, and its root and first leaf."""
    matrix = sp.csr_array(MATRIX)
    path = write(tmp_path / "m.h5", layout, matrix=matrix, chunk=16)
    roots = [at for at, level, _ in nodes(path) if level]
    return path, roots[0]


def child_of(path, node, number):
    return struct.unpack_from("<Q", path.read_bytes(), node + 24 + 24 + 32 * number)[0]


@every_layout
def test_a_root_that_takes_itself_for_a_leaf(tmp_path, layout):
    """One bit: HDF5 reads nodes of the tree as values, and zeros for most others."""
    path, root = deep(tmp_path, layout)
    overwrite(path, root + 5, b"\0")
    for mode in ("r", "r+"):
        with diskcsr.open(path, mode=mode) as A, pytest.raises(diskcsr.CorruptFileError):
            A.to_memory()
    assert not check(path, isolated=False).ok


@every_layout
def test_a_key_inside_of_the_tree(tmp_path, layout):
    """HDF5 lists all chunks and finds some of them no more; the list is right."""
    path, root = deep(tmp_path, layout)
    at = root + 24 + 32 + 8
    (first,) = struct.unpack_from("<Q", path.read_bytes(), at)
    overwrite(path, at, struct.pack("<Q", first + 16))
    with h5py.File(path) as file:
        assert not np.array_equal(file["X/data"][:], MATRIX.data)
    with diskcsr.open(path) as A:
        assert np.array_equal(A.to_memory().data, MATRIX.data)
    with diskcsr.open(path, mode="r+") as A:
        with pytest.raises(diskcsr.CorruptFileError, match=f"element {first}, and does not find"):
            A.to_memory()
        with pytest.raises(diskcsr.CorruptFileError, match="does not find"):
            A.append(MATRIX[:1])
    with h5py.File(io.BytesIO(path.read_bytes()), "r") as file:
        A = diskcsr.DiskCSR(file["X"])
        with pytest.raises(diskcsr.CorruptFileError, match="does not find"):
            A.to_memory()
    (problem,) = [p for p in check(path, isolated=False).problems if p.severity == "error"]
    assert (problem.kind, problem.where, problem.position) == ("hdf5", "/X/data", first)
    assert problem.count == 16


def test_leaves_in_circles(tmp_path):
    """HDF5 that counts an index's bytes goes from leaf to leaf for ever."""
    path, root = deep(tmp_path, "none")
    leaf = child_of(path, root, 0)
    overwrite(path, leaf + 16, struct.pack("<Q", leaf))
    code = (
        "import diskcsr, sys\n"
        "with diskcsr.open(sys.argv[1]) as A:\n"
        "    print(A.to_memory().sum())\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", code, str(path)],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert float(run.stdout) == MATRIX.sum(), run.stderr


@every_layout
@pytest.mark.parametrize("back", ["to the root", "to a neighbour"])
def test_a_tree_that_leads_in_circles(tmp_path, layout, back):
    """From the root to the root, HDF5 runs out of stack."""
    path, root = deep(tmp_path, layout)
    place = root if back == "to the root" else child_of(path, root, 0)
    overwrite(path, root + 24 + 24 + 32, struct.pack("<Q", place))
    with diskcsr.open(path) as A, pytest.raises(diskcsr.CorruptFileError, match="in circles"):
        A.to_memory()
    (problem,) = [p for p in check(path, isolated=False).problems if p.where == "/X/data"]
    assert "in circles" in problem.what


@every_layout
def test_a_chunk_that_lies_in_the_index(tmp_path, layout):
    path, root = deep(tmp_path, layout)
    leaf = child_of(path, root, 1)
    at = leaf + 24 + 24 + 32 * 3
    overwrite(path, at, struct.pack("<Q", leaf + 8))
    (first,) = struct.unpack_from("<Q", path.read_bytes(), at - 16)
    with diskcsr.open(path) as A:
        with pytest.raises(diskcsr.CorruptFileError, match=f"chunk {first // 16}: .* something"):
            A[int(first)]
        assert np.array_equal(A[:100].data, MATRIX[:100].data)


@every_layout
def test_a_chunk_that_lies_in_the_index_of_another(tmp_path, layout):
    path = write(tmp_path / "m.h5", layout)
    (_, other, _) = (at for at, _, _ in nodes(path))
    change(path, 2, place=other + 8)
    with diskcsr.open(path) as A, pytest.raises(diskcsr.CorruptFileError, match="same bytes"):
        A[1024]


def test_a_list_without_end_is_stopped(tmp_path, monkeypatch):
    path = write(tmp_path / "m.h5")

    class Endless:
        """A dataset whose index HDF5 lists again and again."""

        def __init__(self, dset):
            self._dset = dset
            self.id = self
            self.calls = 0

        def __getattr__(self, name):
            dset = self.__dict__["_dset"]
            return getattr(dset if hasattr(dset, name) else dset.id, name)

        def chunk_iter(self, note):
            entries = []
            self._dset.id.chunk_iter(entries.append)
            while True:
                for entry in entries:
                    self.calls += 1
                    if note(entry) is not None:
                        return

    with h5py.File(path) as file:
        endless = Endless(file["X/data"])
        monkeypatch.setattr(chunks, "tree_nodes", lambda dset: {})
        with pytest.raises(diskcsr.CorruptFileError, match="more than the 8 chunks"):
            index_chunks(endless)
        assert endless.calls < 3000


# ------------------------------------------------------------------------------------ other indexes


@every_layout
@pytest.mark.parametrize("growing", [True, False])
def test_newer_indexes_have_checksums(tmp_path, layout, growing):
    path = tmp_path / "m.h5"
    with h5py.File(path, "w", libver="latest") as file:
        group = file.create_group("X")
        group.attrs["h5sparse_format"] = "csr"
        group.attrs["h5sparse_shape"] = MATRIX.shape
        for name in PARTS:
            values = getattr(MATRIX, name)
            group.create_dataset(
                name,
                data=values,
                chunks=(CHUNK,),
                maxshape=(None,) if growing else None,
                compression="gzip" if layout == "gzip" else None,
            )
    with diskcsr.open(path) as A:
        assert np.array_equal(A.to_memory().data, MATRIX.data)
    place = chunks_of(path, "X/data")[2][2]
    raw = path.read_bytes()
    overwrite(path, raw.index(struct.pack("<Q", place)), struct.pack("<Q", place + 8))
    for mode in ("r", "r+"):
        with diskcsr.open(path, mode=mode) as A, pytest.raises(diskcsr.CorruptFileError):
            A.to_memory()
    assert not check(path, isolated=False).ok


@pytest.mark.parametrize("libver", ["earliest", "v108", "v110", "latest"])
@pytest.mark.parametrize("growing", [True, False])
@pytest.mark.parametrize("early", [True, False])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_sound_index_is_accepted(tmp_path, libver, growing, early, layout):
    """Chunks written in any order, some never, and then cut off and added."""
    path = tmp_path / "d.h5"
    with h5py.File(path, "w", libver=libver) as file:
        properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        properties.set_chunk((8,))
        if early:
            properties.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
        if layout == "gzip":
            properties.set_deflate(1)
        space = h5py.h5s.create_simple((800,), (h5py.h5s.UNLIMITED if growing else 1600,))
        dset = h5py.Dataset(
            h5py.h5d.create(file.id, b"d", h5py.h5t.NATIVE_INT32, space, properties)
        )
        for chunk in np.random.default_rng(0).permutation(100)[:60]:
            dset[8 * chunk : 8 * chunk + 8] = chunk
        for size in (800, 397, 1600, 5):
            dset.resize((size,))
            expected = dset[:]
            check_chunks(dset)
            file.flush()
            index = index_chunks(dset)
            assert index.damage == {}
            missing = np.flatnonzero(index.offset < 0)
            assert unwritten(dset, size).tolist() == missing.tolist()
            assert not np.any([expected[8 * chunk : 8 * chunk + 8].any() for chunk in missing])


# ---------------------------------------------------------------------------------- never written


@every_layout
def test_chunks_that_nobody_wrote(tmp_path, layout):
    path = write(tmp_path / "m.h5", layout)
    with h5py.File(path, "r+") as file:
        del file["X/data"]
        how = {"compression": "gzip"} if layout == "gzip" else {}
        data = file["X"].create_dataset(
            "data", (N + 2 * CHUNK,), "f8", chunks=(CHUNK,), maxshape=(None,), **how
        )
        data[:CHUNK] = 1
        data[3 * CHUNK : N] = 1
    expected = np.ones(N)
    expected[CHUNK : 3 * CHUNK] = 0
    with diskcsr.open(path) as A:  # as HDF5 does
        assert np.array_equal(A.to_memory().data, expected)
    report = check(path, isolated=False)
    (problem,) = [p for p in report.problems if p.kind == "never-written"]
    assert (problem.severity, problem.where) == ("warning", "/X/data")
    assert (problem.position, problem.count) == (1, 2)  # and not those behind the last element
    assert not report.ok


def test_a_contiguous_array_that_nobody_wrote(tmp_path):
    path = write(tmp_path / "m.h5")
    with h5py.File(path, "r+") as file:
        del file["X/data"]
        file["X"].create_dataset("data", (N,), "f8")
    (problem,) = [p for p in check(path, isolated=False).problems if p.kind == "never-written"]
    assert (problem.where, problem.position, problem.count) == ("/X/data", 0, 1)


# ------------------------------------------------------------------------- arrays that overlap


@pytest.mark.parametrize("mode", ["r", "r+"])
def test_two_arrays_that_claim_the_same_bytes(tmp_path, mode):
    path = write(tmp_path / "m.h5")
    change(path, 2, place=chunks_of(path, "X/indices")[4][2] + 8)
    with diskcsr.open(path, mode=mode) as A, pytest.raises(diskcsr.CorruptFileError, match="same"):
        A[:10]
    report = check(path, isolated=False)
    (problem,) = [p for p in report.problems if p.severity == "error"]
    assert problem.kind == "overlap"
    assert "'data' and 'indices'" in problem.what


def test_two_names_of_one_dataset_are_no_damage(tmp_path):
    path = write(tmp_path / "m.h5")
    with h5py.File(path, "r+") as file:
        del file["X/data"]
        file["X/data"] = file["X/indices"]
    with diskcsr.open(path) as A:
        assert np.array_equal(A.to_memory().data, MATRIX.indices)
    assert not [p for p in check(path, isolated=False).problems if p.severity == "error"]


def test_overlaps_are_found_in_any_order():
    one = np.array([100, 300]), np.array([50, 50])
    refuse_overlap(one, (np.array([350, 150]), np.array([10, 150])), "a and b")
    for offset, nbytes in ((349, 10), (90, 11), (0, 1000), (310, 5)):
        with pytest.raises(diskcsr.CorruptFileError, match="a and b claim the same bytes"):
            refuse_overlap(one, (np.array([offset]), np.array([nbytes])), "a and b")


# ---------------------------------------------------------------------- one bit, anywhere in it


def _regions(raw, layout):
    """Where the indexes of a file lie: the nodes of version 1, the blocks of the newer ones.

    Of unfiltered chunks not their addresses: what lies in the free space of a file, and in its
    other structures, may well be values.
    """
    at = -1
    while (at := raw.find(b"TREE\1", at + 1)) >= 0:
        (used,) = struct.unpack_from("<H", raw, at + 6)
        for place in range(24 + 32 * used + 24):
            if layout != "none" or place < 24 or (place - 24) % 32 < 24:
                yield at + place
    for signature in (b"EAHD", b"EAIB", b"FAHD", b"FADB", b"OHDR"):
        at = -1
        while (at := raw.find(signature, at + 1)) >= 0:
            yield from range(at, at + 120)


@every_layout
@pytest.mark.parametrize("libver", ["earliest", "latest"])
def test_single_bits(tmp_path, libver, layout):
    """The right answer or an error of ours; zeros only where `check` says what is missing."""
    from test_trust import Worker

    original, path = tmp_path / "original.h5", tmp_path / "m.h5"
    write(original, layout, libver, count_matrix(40, 40), chunk=50)
    good = original.read_bytes()
    places = np.array(list(_regions(good, layout)))
    rng = np.random.default_rng(5)
    judge = Worker("index")
    try:
        assert judge(original, original) == "ok"
        for at, bit in zip(rng.choice(places, 250), rng.integers(8, size=250), strict=True):
            raw = bytearray(good)
            raw[at] ^= 1 << bit
            path.write_bytes(raw)
            assert judge(path, original) == "ok", f"bit {bit} of byte {at}"
    finally:
        judge.close()
