"""Columns of several files are brought together by their names."""

import pickle
import shutil

import h5py
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.sparse import csr_array, random_array

import diskcsr
from diskcsr import CorruptFileError, FormatError, StaleFileError

NAMES = [list("badc"), list("dxbay"), list("badc"), list("zdb")]
COMMON, UNION = list("bd"), list("badcxyz")
RNG = np.random.default_rng(0)
PLAIN = [
    csr_array(random_array((7 + i, len(names)), density=0.5, rng=RNG, dtype="f"))
    for i, names in enumerate(NAMES)
]


def name_columns(path, names):
    """Put names where AnnData has them."""
    with h5py.File(path, "r+") as file:
        var = file.require_group("var")
        var.attrs["_index"] = "symbols"
        if "symbols" in var:
            del var["symbols"]
        var.create_dataset("symbols", data=names, dtype=h5py.string_dtype())


@pytest.fixture(params=[None, "gzip"], ids=["raw", "gzip"])
def paths(tmp_path, request):
    paths = [tmp_path / f"{i}.h5ad" for i in range(len(NAMES))]
    for path, plain, names in zip(paths, PLAIN, NAMES, strict=True):
        diskcsr.write(path, plain, compression=request.param).close()
        name_columns(path, names)
    return paths


def together(wanted):
    """Return what numpy makes of it."""
    dense = np.zeros((sum(plain.shape[0] for plain in PLAIN), len(wanted)), np.float32)
    row = 0
    for plain, names in zip(PLAIN, NAMES, strict=True):
        for column, name in enumerate(names):
            if name in wanted:
                place = wanted.index(name)
                dense[row : row + plain.shape[0], place] = plain.toarray()[:, column]
        row += plain.shape[0]
    return dense


WORK = {
    "all": lambda A: A.toarray(),
    "rows": lambda A: A[[30, 2, 9, 9]].toarray(),
    "columns": lambda A: A[:, [1, 0]].toarray(),
    "an element": lambda A: np.array(A[8, 1]),
    "sums": lambda A: A.sum(0),
    "product": lambda A: A @ np.arange(1.0, A.shape[1] + 1),
    "transpose": lambda A: A.T.toarray(),
    "lazily": lambda A: (2 * A.lazy[5:, ::-1]).toarray(),
    "fetched": lambda A: A.fetch([3, 25]).toarray(),
    "batches": lambda A: np.concatenate([batch.toarray() for batch in A.batches(4)]),
    "blocks": lambda A: np.concatenate([block.toarray() for _, block in A.iter_blocks(64)]),
    "pickled": lambda A: pickle.loads(pickle.dumps(A)).toarray(),
    "indices in range": lambda A: np.array(A.indices.max() < A.shape[1]),
}


@pytest.mark.parametrize("work", WORK.values(), ids=WORK)
@pytest.mark.parametrize(("join", "names"), [("inner", COMMON), ("outer", UNION)])
def test_what_is_read(paths, join, names, work):
    with diskcsr.open(paths, "X", join=join) as A:
        assert A.column_names.tolist() == names
        dense = together(names)
        assert A.shape == dense.shape
        expected = work(csr_array(dense)) if work not in _OURS else _OURS[work](dense)
        got = work(A)
        assert got.dtype == np.asarray(expected).dtype
        assert_allclose(got, expected, 1e-6)


_OURS = {
    WORK["lazily"]: lambda dense: 2 * dense[5:, ::-1],
    WORK["fetched"]: lambda dense: dense[[3, 25]],
    WORK["batches"]: lambda dense: dense,
    WORK["blocks"]: lambda dense: dense,
}


def test_it_is_as_anndata_joins_them(paths):
    anndata = pytest.importorskip("anndata", reason="anndata is not installed")
    pandas = pytest.importorskip("pandas", reason="pandas is not installed")
    objects = [
        anndata.AnnData(
            plain.copy(),
            obs=pandas.DataFrame(index=[f"{i}-{row}" for row in range(plain.shape[0])]),
            var=pandas.DataFrame(index=names),
        )
        for i, (plain, names) in enumerate(zip(PLAIN, NAMES, strict=True))
    ]
    for join in ("inner", "outer"):
        theirs = anndata.concat(objects, join=join, fill_value=0)
        with diskcsr.open(paths, join=join) as A:
            assert sorted(A.column_names) == sorted(theirs.var_names)
            ours = theirs[:, list(A.column_names)].X
            assert_array_equal(A.toarray(), ours.toarray())


def test_where_names_come_from(paths, tmp_path):
    with h5py.File(paths[0], "r+") as file:
        del file["var"]
        file.create_dataset("genes", data=np.array(NAMES[0], "S"))
    with diskcsr.open(paths, "X", columns=NAMES) as A:
        assert A.column_names.tolist() == COMMON
        assert_array_equal(A.toarray(), together(COMMON))
    with diskcsr.open([paths[0], paths[0]], "X", columns="genes", join="outer") as A:
        assert A.column_names.tolist() == NAMES[0]
        assert type(A) is diskcsr.DiskCSR
    with diskcsr.open(paths[1:], columns="var/symbols", join="outer") as A:
        assert A.column_names.tolist() == list("dxbaycz")


def test_what_all_have_is_no_lazy_array(paths):
    with diskcsr.open([paths[0], paths[2]], join="inner") as A:
        assert type(A) is diskcsr.DiskCSR
        assert A.column_names.tolist() == NAMES[0]
        assert A.T.column_names is None
        assert A.lazy[:, [2, 0]].column_names.tolist() == ["d", "b"]
        assert (2 * A.lazy)[3:].column_names.tolist() == NAMES[0]
    with diskcsr.open(paths[0]) as A:
        assert A.column_names is None


def test_it_is_written_with_its_columns(paths, tmp_path):
    for join, names in (("inner", COMMON), ("outer", UNION)):
        with diskcsr.open(paths, join=join) as A:
            with A.save(tmp_path / f"{join}.h5") as B:
                assert_array_equal(B.toarray(), together(names))
            with pytest.raises(ValueError, match="is not in a file"):
                diskcsr.concat([A], tmp_path / "virtual.h5", virtual=True)


def test_what_is_refused(paths, tmp_path):
    with pytest.raises(FormatError, match=r"1\.h5ad.* has 5 columns, .* has 4; join= brings"):
        diskcsr.open(paths)
    with pytest.raises(ValueError, match="join must be 'inner' or 'outer', not 'left'"):
        diskcsr.open(paths, join="left")
    with pytest.raises(ValueError, match="said of a list of files"):
        diskcsr.open(paths[0], join="inner")
    with pytest.raises(ValueError, match="names of 1 matrices, but there are 4"):
        diskcsr.open(paths, columns=[NAMES[0]])
    with pytest.raises(FormatError, match="has 4 columns and 3 names"):
        diskcsr.open(paths[:1], columns=[list("abc")])
    with pytest.raises(FormatError, match="two of its columns are called 'a'"):
        diskcsr.open(paths[:1], columns=[list("abca")])
    with pytest.raises(KeyError, match="no object 'obs'"):
        diskcsr.open(paths, columns="obs")
    with pytest.raises(FormatError, match="holds no names: float32"):
        diskcsr.open(paths, columns="X/data")
    with pytest.raises(FormatError, match="is no table with an index"):
        diskcsr.open(paths, columns="X")
    with pytest.raises(ValueError, match="a lazy array: neither"):
        diskcsr.open(paths, join="inner", spmatrix=True)
    with pytest.raises(ValueError, match="a lazy array: neither"):
        diskcsr.open(paths, join="inner", mode="c")
    columns = tmp_path / "columns.h5"
    diskcsr.write(columns, PLAIN[0].tocsc()).close()
    with pytest.raises(FormatError, match="which keep rows together"):
        diskcsr.open([columns, columns], columns=[NAMES[0], NAMES[0]])


def test_a_bad_index_is_found_before_it_becomes_another(paths):
    with h5py.File(paths[1], "r+") as file:
        file["X/indices"][2] = 5  # of five columns; of all there are seven
    with diskcsr.open(paths, join="outer") as A:
        with pytest.raises(CorruptFileError, match=r"1\.h5ad.*index 5 is out of range.*length 5"):
            A.toarray()
        assert_array_equal(A[:7].toarray(), together(UNION)[:7])


def test_columns_that_were_renamed(paths):
    with diskcsr.open(paths, join="outer") as A:
        sent = pickle.dumps(A)
        copy = paths[1].with_suffix(".copy")
        shutil.copy(paths[1], copy)
        name_columns(copy, list("dxbaw"))
        paths[1].write_bytes(copy.read_bytes())
        with pytest.raises(StaleFileError, match=r"1\.h5ad"):
            A.toarray()
        A.refresh()
        assert A.column_names.tolist() == list("badcxwz")
        assert_array_equal(A.toarray(), together(UNION))
        with pytest.raises(StaleFileError, match=r"1\.h5ad.*other names now"):
            pickle.loads(sent)


def test_pickles_hold_a_map_of_columns_once(tmp_path):
    names = [f"gene number {i}" for i in range(3000)]
    orders = [names, names[::-1], names[::-1], names[::-1]]
    files = []
    for i in range(4):
        files.append(tmp_path / f"{i}.h5")
        diskcsr.write(files[-1], csr_array((2, 3000), dtype="f")).close()
    with diskcsr.open(files, columns=orders, join="outer") as A:
        assert A._source.columns.maps[1] is A._source.columns.maps[3]
        part, first = A._source.of_lines(4, 7)
        assert first == 4
        # Four bytes a column, once for both; no names.
        assert len(pickle.dumps(part.address())) < 4 * 3000 + 3000
