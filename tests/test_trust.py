"""Never trust a file: whatever it holds, the answer is right, or a clear error, never a crash."""

import ast
import os
import select
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from campaign.structures import (
    ODD_ARRAY_DTYPES,
    ODD_FORMATS,
    ODD_NUMBERS,
    ODD_SHAPES,
    set_entry,
)
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from trust_operations import check_file

import diskcsr

HERE = Path(__file__).parent
#: Multiplies the number of examples, to hunt for longer.
PATIENCE = int(os.environ.get("DISKCSR_TEST_PATIENCE", "1"))
SETTINGS: dict[str, Any] = {
    "deadline": None,
    "derandomize": PATIENCE == 1,
    "suppress_health_check": [HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
}

# ---------------------------------------------------------------- files that are wrong on purpose


@dataclass
class Draft:
    """A sparse group before it is written."""

    arrays: dict[str, Any]
    attributes: dict[str, Any]
    layout: dict[str, Any] = field(default_factory=dict)

    def write(self, path: Path) -> Path:
        with h5py.File(path, "w") as file:
            group = file.create_group("X")
            for name, value in self.attributes.items():
                group.attrs[name] = value
            for name, values in self.arrays.items():
                if isinstance(values, str):
                    group.create_group(name) if values == "group" else _dangle(group, name)
                    continue
                layout = self.layout if np.ndim(values) == 1 else {}
                group.create_dataset(name, data=values, **layout)
        return path


def _dangle(group: h5py.Group, name: str) -> None:
    group[name] = h5py.SoftLink("/nowhere")


LAYOUTS = [
    {},
    {"chunks": (3,), "maxshape": (None,)},
    {"chunks": (4,), "compression": "gzip", "shuffle": True},
]
DTYPES = ["f4", "f8", "f2", "i1", "u2", "i8", ">f8", ">i4", "?", "c8"]
INDEX_DTYPES = ["i4", "i8", "u4", ">i4", "i2", "u8", "u1"]
TAGS = [
    ("h5sparse_format", "h5sparse_shape", "{}"),
    ("encoding-type", "shape", "{}_matrix"),
    ("encoding-type", "h5sparse_shape", "{}_array"),
]


@st.composite
def drafts(draw):
    """A correct group: any shape up to 6 x 6, dtype, index dtype, layout, orientation and tags."""
    shape = draw(st.tuples(st.integers(0, 6), st.integers(0, 6)))
    format = draw(st.sampled_from(["csr", "csc"]))
    n_major, n_minor = shape if format == "csr" else shape[::-1]
    seed = draw(st.integers(0, 2**16))
    rng = np.random.default_rng(seed)
    counts = rng.integers(0, n_minor + 1, size=n_major)
    lines = [rng.permutation(n_minor)[:count] for count in counts]
    indices = np.concatenate([np.zeros(0, int), *lines])
    spare = draw(st.integers(0, 2))  # elements behind the last row, which nobody is to see
    indices = np.append(indices, np.zeros(spare, int))
    data = rng.integers(1, 9, size=indices.size).astype(draw(st.sampled_from(DTYPES)))
    tag, tagged_shape, text = draw(st.sampled_from(TAGS))
    attributes = {tag: text.format(format), tagged_shape: np.array(shape)}
    if draw(st.booleans()):
        attributes |= {"encoding-type": f"{format}_matrix", "shape": np.array(shape)}
    index_dtype = draw(st.sampled_from(INDEX_DTYPES))
    arrays = {
        "data": data,
        "indices": indices.astype(index_dtype),
        "indptr": np.append(0, np.cumsum(counts)).astype(draw(st.sampled_from(INDEX_DTYPES))),
    }
    return Draft(arrays, attributes, draw(st.sampled_from(LAYOUTS)))


@st.composite
def broken(draw):
    """A group, and up to three things wrong with it."""
    draft = draw(drafts())
    for _ in range(draw(st.integers(1, 3))):
        draw(st.sampled_from(MUTATIONS))(draw, draft)
    return draft


def _one_array(draw, draft, *names):
    name = draw(st.sampled_from(names))
    values = draft.arrays.get(name)
    return name, values if isinstance(values, np.ndarray) and values.ndim == 1 else None


def change_entry(draw, draft):
    name, values = _one_array(draw, draft, "indptr", "indptr", "indices")
    if values is not None:
        at, number = draw(st.integers(0, 40)), draw(st.sampled_from(ODD_NUMBERS))
        draft.arrays[name] = set_entry(values, at, number)


def exchange_entries(draw, draft):
    name, values = _one_array(draw, draft, "indptr", "indices")
    if values is not None and values.size > 1:
        order = draw(st.permutations(range(values.size)))
        draft.arrays[name] = values[list(order)]


def change_length(draw, draft):
    name, values = _one_array(draw, draft, "indptr", "indices", "data")
    if values is not None:
        draft.arrays[name] = np.resize(values, draw(st.integers(0, values.size + 3)))


def change_dtype(draw, draft):
    name, values = _one_array(draw, draft, "indptr", "indices", "data")
    if values is not None and values.dtype.kind in "iufb":
        draft.arrays[name] = values.astype(draw(st.sampled_from(ODD_ARRAY_DTYPES)))


def change_kind(draw, draft):
    name, values = _one_array(draw, draft, "indptr", "indices", "data")
    if values is None:
        return
    kind = draw(st.sampled_from(["absent", "group", "dangling", "2-D", "scalar"]))
    if kind == "absent":
        del draft.arrays[name]
    elif kind in ("group", "dangling"):
        draft.arrays[name] = kind
    else:
        draft.arrays[name] = values[None] if kind == "2-D" else np.float64(3)


def change_shape(draw, draft):
    name = draw(st.sampled_from(["h5sparse_shape", "shape"]))
    draft.attributes[name] = draw(st.sampled_from(ODD_SHAPES))


def change_format(draw, draft):
    name = draw(st.sampled_from(["h5sparse_format", "encoding-type"]))
    draft.attributes[name] = draw(st.sampled_from(ODD_FORMATS))


def drop_attribute(draw, draft):
    if draft.attributes:
        del draft.attributes[draw(st.sampled_from(sorted(draft.attributes)))]


MUTATIONS = [
    change_entry,
    change_entry,
    change_entry,
    exchange_entries,
    change_length,
    change_dtype,
    change_kind,
    change_shape,
    change_format,
    drop_attribute,
]


def _judged(draft: Draft, folder: Path, seed: int) -> str | None:
    path = folder / "m.h5"
    try:
        draft.write(path)
    except (TypeError, ValueError, UnicodeError, OSError):
        assume(False)  # h5py cannot write it
    return check_file(path, seed)


@settings(max_examples=50 * PATIENCE, **SETTINGS)
@given(drafts(), st.integers(0, 99))
def test_good_files_raise_no_alarm(tmp_path, draft, seed):
    assert _judged(draft, tmp_path, seed) is None


@settings(max_examples=250 * PATIENCE, **SETTINGS)
@given(broken(), st.integers(0, 99))
def test_the_right_answer_or_a_clear_error(tmp_path, draft, seed):
    assert _judged(draft, tmp_path, seed) is None


# ---------------------------------------------------------------------------- row pointers that lie


def _write(path: Path, **arrays: Any) -> Path:
    shape = arrays.pop("shape")
    attributes = {"h5sparse_format": "csr", "h5sparse_shape": np.array(shape)}
    layout = arrays.pop("layout", {})
    return Draft(arrays, attributes, layout).write(path)


@pytest.mark.parametrize("layout", LAYOUTS, ids=["contiguous", "chunked", "gzip"])
def test_rows_that_overlap_are_found_whoever_asks(tmp_path, layout):
    # Each pair of pointers asked for is fine by itself; together they cannot be.
    n = 6_000  # so many that reading all pointers for eight rows does not pay
    indptr = np.arange(0, 10 * n + 1, 10)
    indptr[1:15:2] = 150  # rows 0, 2, ... end there, all overlapping; rows 1, 3, ... run backwards
    path = _write(
        tmp_path / "m.h5",
        data=np.ones(10 * n),
        indices=np.zeros(10 * n, int),
        indptr=indptr,
        shape=(n, 3),
        layout=layout,
    )
    rows = np.arange(0, 16, 2)
    with diskcsr.open(path) as A, pytest.raises(diskcsr.CorruptFileError, match="indptr"):
        A[rows]
    with diskcsr.open(path) as A, pytest.raises(diskcsr.CorruptFileError, match="indptr"):
        A[rows[::-1]]


def test_messages_name_file_group_position_and_value(tmp_path):
    path = _write(
        tmp_path / "m.h5", data=[1.0] * 4, indices=[0, 1, 7, 1], indptr=[0, 2, 3, 4], shape=(3, 3)
    )
    with diskcsr.open(path) as A, pytest.raises(diskcsr.CorruptFileError) as caught:
        A[1]
    for part in (str(path), "'/X'", "'indices'", "7", "3"):
        assert part in str(caught.value)
    path = _write(
        tmp_path / "n.h5", data=[1.0] * 4, indices=[0, 1, 2, 1], indptr=[0, 3, 2, 4], shape=(3, 3)
    )
    with diskcsr.open(path) as A, pytest.raises(diskcsr.CorruptFileError) as caught:
        A[1]
    for part in (str(path), "'/X'", "'indptr'", "entry 2", "3"):
        assert part in str(caught.value)


@pytest.mark.parametrize("layout", ["contiguous", "chunked", "gzip"])
def test_a_dataset_that_claims_to_be_huge(tmp_path, layout):
    # Never written, so the file is small; no table of its chunks fits into memory.
    path = tmp_path / "m.h5"
    options = {"chunks": (1024,)} if layout != "contiguous" else {}
    if layout == "gzip":
        options["compression"] = "gzip"
    with h5py.File(path, "w") as file:
        group = file.create_group("X")
        group.attrs["h5sparse_format"] = "csr"
        group.attrs["h5sparse_shape"] = np.array([2, 3])
        group["indptr"] = np.array([0, 1, 2])
        for name in ("data", "indices"):
            group.create_dataset(name, shape=(2**50,), dtype="i4", **options)
    with diskcsr.open(path) as A:
        assert A.nnz == 2
        np.testing.assert_array_equal(A[1].toarray(), [0, 0, 0])  # the fill value
        np.testing.assert_array_equal(A[:].toarray(), np.zeros((2, 3)))


# ------------------------------------------------------------------------ bytes changed at random


class Worker:
    """A process that looks at files, started again when it died."""

    def __init__(self, role: str) -> None:
        self.role = role
        self.process: subprocess.Popen | None = None

    def __call__(self, path: Path, original: Path, seed: int = 0) -> str:
        """Return "ok", what is wrong with a file, or how the process ended."""
        process = self._running()
        assert process.stdin is not None
        assert process.stdout is not None
        with suppress(BrokenPipeError):
            process.stdin.write(f"{path} {original} {seed}\n")
            process.stdin.flush()
        # Of what keeps HDF5 itself busy for long, nothing is asked of us.
        seconds = 10 if self.role == "h5py" else 60
        ready, _, _ = select.select([process.stdout], [], [], seconds)
        if line := process.stdout.readline() if ready else "":
            return ast.literal_eval(line)
        self.close()
        return f"the process ended with code {process.returncode}" if ready else "no answer"

    def _running(self) -> subprocess.Popen:
        if self.process is None:
            self.process = subprocess.Popen(
                [sys.executable, str(HERE / "trust_operations.py"), self.role],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
                env={**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE.parent), *sys.path])},
            )
        return self.process

    def close(self) -> None:
        if self.process is not None:
            self.process.kill()
            with suppress(BrokenPipeError):
                self.process.communicate()
            self.process = None


@pytest.fixture(scope="module")
def judge():
    worker = Worker("judge")
    yield worker
    worker.close()


@pytest.fixture(scope="module")
def by_h5py():
    worker = Worker("h5py")
    yield worker
    worker.close()


def _small_file(path: Path, layout: str) -> bytes:
    rng = np.random.default_rng(1)
    counts = rng.integers(0, 5, size=6)
    indices = np.concatenate([np.sort(rng.permutation(5)[:count]) for count in counts])
    Draft(
        {
            "data": rng.integers(1, 100, size=indices.size, dtype=np.int32),
            "indices": indices.astype(np.int32),
            "indptr": np.append(0, np.cumsum(counts)),
        },
        {"h5sparse_format": "csr", "h5sparse_shape": np.array([6, 5])},
        LAYOUTS[["contiguous", "chunked", "gzip"].index(layout)],
    ).write(path)
    return path.read_bytes()


@pytest.mark.parametrize("layout", ["contiguous", "chunked", "gzip"])
def test_bytes_changed_at_random(tmp_path_factory, judge, by_h5py, layout):
    folder = tmp_path_factory.mktemp(layout)
    original, path = folder / "original.h5", folder / "m.h5"
    good = _small_file(original, layout)
    assert judge(original, original) == "ok"
    # Long runs of zeros are free space; what matters is where something is, and just behind it.
    filled = np.flatnonzero(np.frombuffer(good, np.uint8))
    places = np.unique(np.concatenate([filled, filled + 1])).tolist()
    changes = st.lists(
        st.tuples(st.sampled_from(places), st.integers(0, 255)), min_size=1, max_size=3
    )

    @settings(max_examples=60 * PATIENCE, **SETTINGS)
    @given(changes, st.integers(0, 99))
    def examine(some, seed):
        raw = bytearray(good)
        for place, byte in some:
            raw[min(place, len(raw) - 1)] = byte
        path.write_bytes(raw)
        # Some damage crashes HDF5 itself, before anybody could look at it.
        assume(by_h5py(path, original) == "ok")
        verdict = judge(path, original, seed)
        if verdict.startswith("the process ended"):
            # HDF5's own crash may hang on what lay in memory: look again, in new processes, too.
            for _ in range(5):
                assume(by_h5py(path, original) == "ok")
                by_h5py.close()
        assert verdict == "ok"

    examine()


def test_a_crash_is_noticed(tmp_path):
    # Of this test's own machinery: a dead process is a verdict, and the next file is judged.
    original = tmp_path / "m.h5"
    _small_file(original, "chunked")
    worker = Worker("judge")
    assert worker(original, original) == "ok"
    assert worker.process is not None
    worker.process.kill()
    worker.process.wait()
    assert worker(original, original) == "the process ended with code -9"
    assert worker(original, original) == "ok"
    worker.close()
