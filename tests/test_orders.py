"""Which rows come in which batch: drawn, balanced, shared by ranks and workers, gone on with.

And what stands beside the rows: columns of the file, arrays, other matrices.
"""

import json
import multiprocessing
import pickle
import tracemalloc

import h5py
import numpy as np
import pytest
from filtered import FILTERS, count_matrix, store
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse import csc_array, csr_array, random_array

import diskcsr
from diskcsr.blocks.orders import Order, balanced, cumulated

ROWS = 103


@pytest.fixture
def matrix():
    return count_matrix(ROWS)


@pytest.fixture
def array(tmp_path, matrix):
    path = store(tmp_path / "m.h5", matrix, chunk=100, steps=FILTERS["shuffle+gzip"])
    with diskcsr.open(path) as opened:
        yield opened


def rows_of(batches):
    return [found[0].tolist() for found in batches]


def flat(batches):
    return [row for rows in rows_of(batches) for row in rows]


# ------------------------------------------------------------------------------ orders alone

orders = st.builds(
    lambda count, size, block, full, shuffle, drop, world: (
        [
            Order(count, size, block, full * size, shuffle, drop, rank, world)
            for rank in range(world)
        ]
    ),
    st.integers(0, 90),
    st.integers(1, 20),
    st.integers(1, 9),
    st.integers(1, 5),
    st.booleans(),
    st.booleans(),
    st.integers(1, 5),
)


def batches_of(order, **how):
    """The batches of an epoch, as lists of places."""
    size = order.batch_size
    return [
        np.asarray(some[i : i + size]).tolist()
        for some in order.buffers(3, 1, **how)
        for i in range(0, len(some), size)
    ]


@given(ranks=orders)
def test_ranks_share_all_rows_but_a_few(ranks):
    found = [batches_of(order) for order in ranks]
    assert len({len(batches) for batches in found}) == 1
    for order, batches in zip(ranks, found, strict=True):
        assert len(batches) == len(order)
        assert sum(map(len, batches)) == order.rows
        assert all(len(batch) == order.batch_size for batch in batches[:-1])
    all_of_them = [place for batches in found for batch in batches for place in batch]
    assert len(set(all_of_them)) == len(all_of_them)  # no place twice
    assert set(all_of_them) <= set(range(ranks[0].count))
    if not ranks[0].drop_last:
        assert ranks[0].count - len(all_of_them) < len(ranks)


@given(ranks=orders, workers=st.integers(1, 4))
def test_workers_give_the_batches_of_one(ranks, workers):
    order = ranks[-1]
    alone = batches_of(order)
    shared = [batches_of(order, worker=w, workers=workers) for w in range(workers)]
    assert sorted(batch for batches in shared for batch in batches) == sorted(alone)
    if not order.mixed:  # in turns, they come in the very same order
        assert [shared[i % workers][i // workers] for i in range(len(alone))] == alone


@given(ranks=orders, workers=st.integers(1, 3), data=st.data())
def test_the_rest_of_an_epoch(ranks, workers, data):
    order = ranks[0]
    worker = data.draw(st.integers(0, workers - 1))
    whole = batches_of(order, worker=worker, workers=workers)
    first = data.draw(st.integers(0, len(whole)))
    assert batches_of(order, worker=worker, workers=workers, first=first) == whole[first:]


def test_other_epochs_and_seeds_have_other_orders():
    for block in (1, 4):
        order = Order(80, 8, block, 16, True, False)
        found = [
            [place for some in order.buffers(seed, epoch) for place in some.tolist()]
            for seed in (0, 1)
            for epoch in (0, 1)
        ]
        assert len({tuple(places) for places in found}) == 4


@pytest.mark.parametrize("block", [1, 7, "drawn"])
def test_memory_of_an_order(block):
    """As is said: 20 bytes a row while it is made, 8 afterwards."""
    n = 400_000
    odds = np.cumsum(np.ones(n)) if block == "drawn" else None
    order = Order(n, 1000, 1 if odds is not None else block, 10_000, True, False, odds=odds)
    tracemalloc.start()
    try:
        buffers = order.buffers(0, 0)
        next(buffers)
        held, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 20 * n
    assert held < 8 * n + 400_000


# ------------------------------------------------------------------------- weights and groups


def test_rows_are_drawn_by_weight(array):
    weights = np.zeros(ROWS)
    weights[[3, 50, 102]] = 1, 2, 5
    batches = array.batches(10, weights=weights, rng=0, return_rows=True)
    assert "drawn by weight" in repr(batches)
    assert len(batches) == 11
    drawn = np.array([flat(batches) for _ in range(100)])
    assert drawn.shape == (100, ROWS)
    counts = np.bincount(drawn.ravel(), minlength=ROWS) / drawn.size
    assert np.flatnonzero(counts).tolist() == [3, 50, 102]
    # 10,300 draws: four standard deviations are 0.02.
    np.testing.assert_allclose(counts[[3, 50, 102]], [1 / 8, 2 / 8, 5 / 8], atol=0.02)
    assert len({tuple(epoch) for epoch in drawn.tolist()}) == 100


def test_groups_come_equally_often(array, matrix):
    groups = np.array(["rare"] * 3 + ["common"] * 90 + [None] * 10, object)
    batches = array.batches(20, groups=groups, rng=1, return_rows=True)
    drawn = np.concatenate([flat(batches) for _ in range(100)])
    counts = np.bincount(drawn, minlength=ROWS) / drawn.size
    assert abs(counts[:3].sum() - 0.5) < 0.02
    np.testing.assert_allclose(counts[:3], 1 / 6, atol=0.02)
    assert counts[3:93].min() > 0
    assert counts[93:].max() == 0
    for rows, X in batches:
        assert np.array_equal(X.toarray(), matrix[rows].toarray())


def test_weights_within_groups():
    weights = balanced(np.array([5, 5, 7, 7]), np.array([1, 3, 0, 2]))
    assert weights.tolist() == [0.25, 0.75, 0, 1]
    nan = balanced(np.array([1.0, np.nan, 1.0]))
    assert nan.tolist() == [0.5, 0, 0.5]


def test_weights_of_chosen_rows(array):
    weights = np.arange(ROWS)
    for rows in (slice(20, 5, -3), slice(5, None, -1), [7, 8, 7], np.arange(ROWS) % 2 == 0):
        chosen = np.arange(ROWS)[rows]
        batches = array.batches(4, rows=rows, weights=weights, rng=0, return_rows=True)
        drawn = np.concatenate([flat(batches) for _ in range(60)])
        assert drawn.size == 60 * chosen.size
        assert set(drawn) <= set(chosen[chosen > 0].tolist())
        if chosen.size < 10:
            assert set(drawn) == set(chosen[chosen > 0].tolist())


@pytest.mark.parametrize("draw", [0.0, 1 - 2**-53])
def test_the_ends_of_what_can_be_drawn(draw, monkeypatch):
    """Rows without a weight are not met by rounding either."""
    sums = cumulated([0, 0.1, 0.2, 0, 0], range(5), "rows")

    class Fixed:
        def random(self, n):
            return np.full(n, draw)

    monkeypatch.setattr(np.random, "default_rng", lambda seed: Fixed())
    order = Order(5, 5, 1, 5, False, False, odds=sums)
    (places,) = order.buffers(0, 0)
    assert set(places.tolist()) == ({1} if draw == 0 else {2})


def test_ranks_draw_for_themselves(array):
    weights = np.ones(ROWS)
    found = [
        flat(array.batches(5, weights=weights, rng=0, rank=r, world_size=2, return_rows=True))
        for r in range(2)
    ]
    assert len(found[0]) == len(found[1]) == ROWS // 2
    assert found[0] != found[1]


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"weights": [1.0] * 5}, "weights has 5 entries, and the array 103 rows"),
        ({"weights": [[1.0]] * ROWS}, "one number a row expected"),
        ({"weights": [-1.0] + [1] * 102}, "row 0 has -1.0"),
        ({"weights": [1.0] * 102 + [np.nan]}, "row 102 has nan"),
        ({"weights": [1.0] * 102 + [np.inf]}, "row 102 has inf"),
        ({"weights": [0.0] * ROWS}, "add up to 0.0"),
        ({"weights": [1.0] + [0] * 102, "rows": [1, 2]}, "add up to 0.0"),
        ({"weights": [1.0] * ROWS, "block_size": 4}, "block_size must be 1"),
        ({"groups": ["a"]}, "groups has 1 entries"),
        ({"groups": [None] * ROWS}, "add up to 0.0"),
        ({"rank": 2, "world_size": 2}, "rank must be from 0 to 1"),
        ({"rank": -1}, "rank must be from 0 to 0"),
        ({"world_size": 0}, "world_size must be a positive number"),
        ({"world_size": 2, "shuffle": True}, "rng must be given"),
        ({"dtype": "U3"}, "dtype must be one that scipy has"),
        ({"dtype": np.float16}, "dtype must be one that scipy has"),
        ({"beside": {"y": [1, 2]}}, "beside 'y' has 2 entries"),
        ({"beside": {"y": 5}}, "beside 'y': an entry a row"),
        ({"beside": {"y": csr_array((4, 4))}}, "beside 'y' has 4 entries"),
    ],
)
def test_what_is_refused(array, how, message):
    with pytest.raises(ValueError, match=message):
        array.batches(4, **how)


# -------------------------------------------------------------------------------------- ranks


@pytest.mark.parametrize("block_size", [1, 4])
@pytest.mark.parametrize("shuffle", [False, True])
def test_ranks_of_an_array(array, matrix, shuffle, block_size):
    how = {"shuffle": shuffle, "block_size": block_size, "rng": 5, "return_rows": True}
    parts = [array.batches(6, **how, rank=rank, world_size=4, buffer_size=12) for rank in range(4)]
    assert {len(part) for part in parts} == {5}
    assert "rank 3 of 4" in repr(parts[3])
    left_out = set()
    for _ in range(20):
        found = [list(part) for part in parts]
        rows = np.concatenate([rows for part in found for rows, _ in part])
        assert np.unique(rows).size == rows.size == 4 * (ROWS // 4)
        left_out |= set(range(ROWS)) - set(rows.tolist())
        for numbers, X in found[1]:
            assert np.array_equal(X.toarray(), matrix[numbers].toarray())
    assert left_out == {100, 101, 102} if not shuffle else len(left_out) > 10


# ------------------------------------------------------------------------------------- states

HOW = [
    {},
    {"shuffle": True},
    {"shuffle": True, "block_size": 4, "buffer_size": 20},
    {"shuffle": True, "block_size": 4, "buffer_size": 20, "drop_last": True},
    {"weights": np.arange(ROWS)},
    {"shuffle": True, "rank": 1, "world_size": 3},
]


@pytest.mark.parametrize("how", HOW, ids=str)
@pytest.mark.parametrize(
    "rng",
    [
        lambda: 7,
        lambda: np.random.default_rng(7),
        lambda: np.random.Generator(np.random.MT19937(7)),
        lambda: np.random.Generator(np.random.Philox(7)),
    ],
    ids=["int", "PCG64", "MT19937", "Philox"],
)
@pytest.mark.parametrize("at", [0, 1, 3, 5, 6])
def test_an_epoch_is_gone_on_with(array, how, rng, at):
    """From a state that went through JSON: the rest of this epoch, and the next two."""
    how = {"batch_size": 5, "return_rows": True, **how}
    whole = array.batches(**how, rng=rng())
    list(whole)
    running = iter(whole)
    for _ in range(at):
        next(running)
    state = json.loads(json.dumps(whole.state()))
    expected = [rows_of(running), rows_of(whole), rows_of(whole)]
    again = array.batches(**how, rng=rng(), state=state)
    assert [rows_of(again) for _ in range(3)] == expected
    assert again.epoch == 4


def test_without_rng_the_state_has_the_order(array):
    batches = array.batches(10, shuffle=True, return_rows=True)
    running = iter(batches)
    next(running)
    again = array.batches(10, shuffle=True, return_rows=True, state=batches.state())
    assert rows_of(again) == rows_of(running)
    assert rows_of(again) == rows_of(batches)


def test_the_state_of_what_was_not_begun_and_of_what_ended(array):
    batches = array.batches(10, rng=0)
    assert (batches.state()["epoch"], batches.state()["batch"]) == (0, 0)
    list(batches)
    assert (batches.state()["epoch"], batches.state()["batch"]) == (1, 0)
    running = iter(batches)
    [next(running) for _ in range(len(batches))]  # all that there are; it has not said so
    assert (batches.state()["epoch"], batches.state()["batch"]) == (1, 11)
    again = array.batches(10, rng=0, state=batches.state())
    assert (list(again), len(list(again))) == ([], 11)
    assert next(running, None) is None
    assert (batches.state()["epoch"], batches.state()["batch"]) == (2, 0)
    assert (batches.state(at_end=True)["epoch"], batches.state(at_end=True)["batch"]) == (1, 11)
    next(iter(batches))
    assert (batches.state()["epoch"], batches.state()["batch"]) == (2, 1)
    batches.epoch = 9  # another epoch is wanted
    assert (batches.state()["epoch"], batches.state()["batch"]) == (9, 0)
    again = array.batches(10, rng=0, state=batches.state())
    assert again.epoch == 9
    assert again.state() == batches.state()


def test_an_epoch_that_is_asked_for(array):
    how = {"batch_size": 10, "shuffle": True, "rng": 3, "return_rows": True}
    one, other = array.batches(**how), array.batches(**how)
    epochs = [flat(one) for _ in range(4)]
    other.epoch = 3
    assert flat(other) == epochs[3]
    assert other.epoch == 4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batch_size": 6}, "batch_size was 5, and is 6"),
        ({"shuffle": False}, "shuffle was True, and is False"),
        ({"rows": slice(50)}, "count was 103, and is 50"),
        ({"rng": np.random.default_rng(0)}, "rng was a Generator in one"),
        ({"state": {}}, "not one of batches"),
        ({"state": {"order": 1}}, "not one of batches"),
    ],
)
def test_a_state_of_other_batches(array, change, message):
    how = {"batch_size": 5, "shuffle": True, "rng": 0, "buffer_size": 30}
    state = array.batches(**how).state()
    with pytest.raises(ValueError, match=message):
        array.batches(**{**how, "state": state, **change})


def test_a_state_of_another_kind_of_generator(array):
    state = array.batches(5, rng=np.random.default_rng(0)).state()
    other = np.random.Generator(np.random.MT19937(0))
    with pytest.raises(ValueError, match="rng was of another kind"):
        array.batches(5, rng=other, state=state)


# ----------------------------------------------------------------------------- dtype and dense


@pytest.mark.parametrize("dtype", [np.float64, np.int32, np.uint8, bool])
def test_values_of_another_dtype(array, matrix, dtype):
    for i, X in enumerate(array.batches(20, dtype=dtype)):
        assert type(X) is csr_array
        assert X.dtype == dtype
        assert np.array_equal(X.toarray(), matrix[20 * i : 20 * i + 20].astype(dtype).toarray())


def test_complex_values_are_not_cut(tmp_path):
    A = diskcsr.write(tmp_path / "c.h5", csr_array(np.eye(3) * 1j))
    with pytest.raises(ValueError, match="complex values"):
        A.batches(2, dtype=float)
    (X,) = A.batches(3, dtype=np.complex64)
    assert X.dtype == np.complex64


def test_dense_batches(array, matrix, tmp_path):
    found = list(array.batches(50, dense=True, dtype=np.float32, return_rows=True))
    assert [X.shape for _, X in found] == [(50, matrix.shape[1])] * 2 + [(3, matrix.shape[1])]
    for rows, X in found:
        assert type(X) is np.ndarray
        assert X.dtype == np.float32
        assert np.array_equal(X, matrix[rows].toarray())
    B = diskcsr.write(tmp_path / "columns.h5", csc_array(matrix))
    (X,) = B.batches(B.shape[1], dense=True)
    assert np.array_equal(X, matrix.toarray())
    # What nobody has any more is used again; what is kept is not.
    batches = array.batches(10, dense=True)
    places = {X.ctypes.data for X in batches}
    assert len(places) <= 3
    kept = [X[:, ::2] for X in batches]
    for i, X in enumerate(kept):
        assert np.array_equal(X, matrix[10 * i : 10 * i + 10].toarray()[:, ::2])
    with (
        diskcsr.options.set(memory_budget=100),
        pytest.raises(diskcsr.MemoryBudgetError, match="three times a dense batch of 50 rows"),
    ):
        array.batches(50, dense=True)


# -------------------------------------------------------------------------------------- beside


@pytest.fixture
def table(tmp_path, matrix):
    """An AnnData file; pandas and what it holds."""
    anndata = pytest.importorskip("anndata", reason="writes an h5ad")
    pandas = pytest.importorskip("pandas", reason="writes an h5ad")
    rng = np.random.default_rng(0)
    kinds = np.array(["T cell", "B cell", "NK"])[rng.integers(3, size=ROWS)]
    obs = {
        "kind": pandas.Categorical(kinds),
        "some": pandas.Categorical(np.where(np.arange(ROWS) % 3, kinds, None)),
        "year": pandas.Categorical(rng.integers(2000, 2003, ROWS)),
        "size": rng.random(ROWS).astype(np.float32),
        "good": rng.random(ROWS) < 0.5,
        "whole": pandas.array([1, None] + [2] * (ROWS - 2), dtype="Int64"),
    }
    names = [f"cell-{i}" for i in range(ROWS)]
    adata = anndata.AnnData(matrix, obs=pandas.DataFrame(obs, index=names))
    adata.layers["counts"] = 2 * matrix
    adata.obsm["pca"] = rng.random((ROWS, 4))
    adata.write_h5ad(tmp_path / "cells.h5ad")
    return tmp_path / "cells.h5ad", adata


def test_columns_and_layers_of_the_file(table, matrix):
    path, adata = table
    names = ["kind", "some", "year", "size", "good", "whole", "_index"]
    beside = {name: f"obs/{name}" for name in names}
    beside |= {"codes": "obs/kind/codes", "counts": "layers/counts", "pca": "obsm/pca"}
    with diskcsr.open(path, "X") as A:
        batches = A.batches(10, shuffle=True, rng=0, return_rows=True, beside=beside)
        for rows, X, more in pickle.loads(pickle.dumps(batches)):
            obs = adata.obs.iloc[rows]
            assert list(more) == list(beside)
            assert np.array_equal(X.toarray(), matrix[rows].toarray())
            assert type(more["counts"]) is csr_array
            assert np.array_equal(more["counts"].toarray(), 2 * matrix[rows].toarray())
            assert more["kind"].tolist() == obs["kind"].tolist()
            assert more["some"].tolist() == [
                None if value != value else value for value in obs["some"]
            ]
            assert more["year"].dtype == adata.obs["year"].cat.categories.dtype
            assert more["year"].tolist() == obs["year"].tolist()
            assert more["size"].dtype == np.float32
            assert more["size"].tolist() == obs["size"].tolist()
            assert more["good"].dtype == bool
            assert more["good"].tolist() == obs["good"].tolist()
            expected = obs["whole"].to_numpy(float, na_value=np.nan)
            np.testing.assert_array_equal(more["whole"], expected)
            assert more["_index"].tolist() == obs.index.tolist()
            assert np.array_equal(more["codes"], obs["kind"].cat.codes)
            assert np.array_equal(more["pca"], adata.obsm["pca"][rows])
        with pytest.raises(KeyError, match=r"no object 'obs/colour'; '/obs' has .*kind"):
            A.batches(10, beside={"colour": "obs/colour"})
        with pytest.raises(diskcsr.FormatError, match=r"'obs' .* is no column"):
            A.batches(10, beside={"colour": "obs"})
        with pytest.raises(ValueError, match=r"'var/_index' has .* there are 103 rows"):
            A.batches(10, beside={"gene": "var/_index"})


def test_groups_and_weights_in_the_file(table):
    path, adata = table
    with diskcsr.open(path, "X") as A:
        batches = A.batches(50, groups="obs/some", rng=0, return_rows=True)
        drawn = np.concatenate([flat(batches) for _ in range(100)])
        some = adata.obs["some"].iloc[drawn]
        assert not some.isna().any()
        counts = some.value_counts(normalize=True)
        np.testing.assert_allclose(counts, 1 / 3, atol=0.02)
        assert len(list(A.batches(50, weights="obs/size", rng=0))) == 3


def test_columns_of_a_lazy_array(table, matrix):
    """Those of the rows that it has."""
    path, adata = table
    some = np.array([5, 100, 7, 7, 0])
    beside = {"kind": "obs/kind", "counts": "layers/counts", "place": np.arange(5)}
    with diskcsr.open(path, "X") as A:
        L = A.lazy[some] * 3
        batches = L.batches(2, shuffle=True, rng=0, beside=beside, groups=None)
        again = pickle.loads(pickle.dumps(batches))
        for batch in (batches, again):
            for X, more in batch:
                rows = some[more["place"]]
                assert np.array_equal(X.toarray(), 3 * matrix[rows].toarray())
                assert np.array_equal(more["counts"].toarray(), 2 * matrix[rows].toarray())
                assert more["kind"].tolist() == adata.obs["kind"].iloc[rows].tolist()
        assert len(list(L.batches(2, groups="obs/kind", weights="obs/size", rng=0))) == 3
        with pytest.raises(ValueError, match="has 103 entries, and the array 5 rows"):
            L.batches(2, beside={"y": np.arange(ROWS)})
        turned = A.T.batches(50, return_rows=True, beside={"kind": "obs/kind"})
        for rows, _, more in turned:
            assert more["kind"].tolist() == adata.obs["kind"].iloc[rows].tolist()


def test_rows_that_are_taken(array, matrix):
    batches = array.batches(7, beside={"y": np.arange(ROWS)}, return_rows=True, rows=[1])
    rows, X, more = batches.take([5, -1, 5])
    assert rows.tolist() == more["y"].tolist() == [5, ROWS - 1, 5]
    assert np.array_equal(X.toarray(), matrix[rows].toarray())
    assert batches.take([])[1].shape == (0, 40)
    for wrong in ([ROWS], [-ROWS - 1], [True] * ROWS, [0.5], [[1]], ["a"]):
        with pytest.raises(IndexError, match="there are 103 rows"):
            batches.take(wrong)


def test_a_pickle_has_names_and_not_the_columns(table):
    path, _ = table
    with diskcsr.open(path, "X") as A:
        beside = {"kind": "obs/kind", "pca": "obsm/pca", "counts": "layers/counts"}
        assert len(pickle.dumps(A.batches(10, beside=beside))) < 3000
    with diskcsr.open(path, "X", mode="c") as A:
        A.data[:] = 1  # the matrix is pickled by its values now, and so are columns
        again = pickle.loads(pickle.dumps(A.batches(ROWS, beside={"kind": "obs/kind"})))
    ((X, more),) = again
    assert set(X.data) == {1}
    assert set(more["kind"]) == {"T cell", "B cell", "NK"}


def test_columns_of_older_files(tmp_path, matrix):
    """anndata 0.7: codes are the column, and an attribute leads to the categories."""
    path = store(tmp_path / "m.h5", matrix)
    with h5py.File(path, "r+") as file:
        codes = np.arange(ROWS, dtype=np.int8) % 2
        column = file.create_dataset("obs/kind", data=codes)
        file["obs/__categories/kind"] = ["a", "b"]
        column.attrs["categories"] = file["obs/__categories/kind"].ref
    with diskcsr.open(path, "X") as A:
        ((_, more),) = A.batches(ROWS, beside={"kind": "obs/kind"})
    assert more["kind"].tolist() == [["a", "b"][code] for code in codes]


def test_damaged_columns(tmp_path, matrix):
    path = store(tmp_path / "m.h5", matrix)
    with h5py.File(path, "r+") as file:
        file["obs/a/codes"] = np.full(ROWS, 2, np.int8)
        file["obs/a/categories"] = ["x", "y"]
        file["obs/b/values"], file["obs/b/mask"] = np.arange(ROWS), np.zeros(5, bool)
        file["obs/c"] = h5py.SoftLink("/obs/nowhere")
        file["obs/d"] = 5
        file["obs/e"] = np.zeros(ROWS, [("x", int)])
    with diskcsr.open(path, "X") as A:
        for name, error, message in [
            ("a", diskcsr.CorruptFileError, "codes from 2 to 2, and there are 2"),
            ("b", diskcsr.CorruptFileError, "a mask of shape"),
            ("c", (diskcsr.CorruptFileError, KeyError), "c"),
            ("d", diskcsr.FormatError, "an entry a row expected"),
            ("e", diskcsr.FormatError, "numbers or text expected"),
        ]:
            with pytest.raises(error, match=message):
                A.batches(10, beside={"y": f"obs/{name}"})


def test_columns_of_a_file_that_is_not_trusted(tmp_path, matrix):
    path = store(tmp_path / "m.h5", matrix)
    with h5py.File(path, "r+") as file:
        file["obs/y"] = np.arange(ROWS)
    with (
        diskcsr.open(path, "X", untrusted=True) as A,
        pytest.raises(ValueError, match="'obs/y' was not looked at"),
    ):
        A.batches(10, beside={"y": "obs/y"})


def test_arrays_and_matrices_beside(array, matrix, tmp_path):
    other = random_array((ROWS, 7), density=0.3, rng=np.random.default_rng(0))
    with diskcsr.write(tmp_path / "other.h5", other.tocsr()) as B:
        beside = {
            "label": list(range(ROWS)),
            "disk": B,
            "lazy": B.lazy * 2,
            "memory": other,
            "image": np.arange(ROWS * 6).reshape(ROWS, 2, 3),
        }
        how = {"shuffle": True, "block_size": 3, "buffer_size": 30, "rows": slice(None, None, 2)}
        count = 0
        for dense in (False, True):
            for X, more in array.batches(8, **how, rng=0, beside=beside, dense=dense):
                rows = more["label"]
                count += rows.size
                parts = {"disk": other.tocsr(), "lazy": 2 * other.tocsr(), "memory": other.tocsr()}
                for name, whole in {"X": matrix, **parts}.items():
                    found = X if name == "X" else more[name]
                    assert type(found) is (np.ndarray if dense else csr_array)
                    found = found if dense else found.toarray()
                    assert np.array_equal(found, whole[rows].toarray())
                assert np.array_equal(more["image"], beside["image"][rows])
        assert count == 2 * 52
        with pytest.raises(ValueError, match="save it with format='csr'"):
            array.batches(8, beside={"turned": B.T})


def test_beside_the_columns_of_a_csc(tmp_path, matrix):
    A = diskcsr.write(tmp_path / "columns.h5", csc_array(matrix))
    n = A.shape[1]
    for columns, X, more in A.batches(
        7, shuffle=True, rng=0, return_rows=True, beside={"gene": np.arange(n), "same": matrix}
    ):
        assert type(X) is type(more["same"]) is csc_array
        assert np.array_equal(more["gene"], columns)
        assert np.array_equal(more["same"].toarray(), matrix.toarray()[:, columns])


def test_kept_parts_are_never_overwritten(array, matrix):
    kept = list(array.batches(5, buffer_size=10, beside={"twice": array, "y": np.arange(ROWS)}))
    for X, more in kept:
        assert np.array_equal(X.toarray(), matrix[more["y"]].toarray())
        assert np.array_equal(more["twice"].toarray(), X.toarray())


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded")
def test_a_process_forked_while_memory_is_taken(array, matrix):
    """What a thread of the parent held when it was forked, the child does not wait for."""
    batches = array.batches(20, dense=True)
    list(batches)

    def child(answer):
        answer.put(sum(float(X.sum()) for X in batches))

    context = multiprocessing.get_context("fork")
    answer = context.SimpleQueue()
    with batches._lines._spare._lock, batches._lines._dense._lock:
        process = context.Process(target=child, args=(answer,))
        process.start()
        process.join(30)
    try:
        assert process.exitcode == 0
        assert answer.get() == pytest.approx(matrix.sum())
    finally:
        process.kill()


def test_memory_with_a_matrix_beside_and_weights(tmp_path):
    matrix = count_matrix(400, 1000, 0.5)
    path = store(tmp_path / "m.h5", matrix, chunk=4096, steps=FILTERS["shuffle+gzip"])
    buffer_bytes = matrix.nnz * 8 // 40
    with diskcsr.open(path) as A, diskcsr.options.set(cache_bytes=0):
        batches = A.batches(5, buffer_size=10, weights=np.ones(400), rng=0, beside={"again": A})
        list(zip(batches, range(20), strict=False))  # kernels are compiled now
        tracemalloc.start()
        try:
            for _ in range(2):
                for _ in batches:
                    pass
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    assert peak < 2 * 4 * buffer_bytes * diskcsr.Buffers.SLACK + 300_000
    assert peak < matrix.nnz * 8 / 2
