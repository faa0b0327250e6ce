"""Files of other kinds become what the library that owns each format reads of them."""

import bz2
import gzip
import io
import os
import sys

import h5py
import numpy as np
import pytest
import scipy.io
import scipy.sparse as sp
from numpy.testing import assert_array_equal

import diskcsr
from diskcsr.exporting.export import TARGETS
from diskcsr.importing import dense, imported, market, memory, npz, svmlight, tables
from diskcsr.importing.table import kinds
from diskcsr.storage.formats import others
from diskcsr.streams.triplets import least_memory

FORMATS = ("csr", "csc")
PACK = {".gz": gzip.compress, ".bz2": bz2.compress}
both_formats = pytest.mark.parametrize("format", FORMATS)


def random(shape=(60, 40), dtype=np.float64, seed=0, density=0.2):
    rng = np.random.default_rng(seed)
    values = rng.integers(1, 100, shape) * (rng.random(shape) < density)
    return sp.csr_array(values.astype(dtype))


def same(A, plain):
    assert (A.shape, A.dtype) == (plain.shape, plain.dtype)
    assert_array_equal(A.toarray(), plain.toarray())


@pytest.fixture
def convert(tmp_path):
    """Convert into a file of its own; nothing else may be made beside it."""
    opened = []

    def convert(source, **options):
        before = set(os.listdir(tmp_path))
        name = f"converted{len(opened)}.h5"
        opened.append(diskcsr.convert(source, tmp_path / name, **options))
        assert set(os.listdir(tmp_path)) - before == {name}
        return opened[-1]

    yield convert
    for array in opened:
        array.close()


def beside(A):
    """The datasets in the group of a matrix that are not its own; strings as strings."""
    with h5py.File(A.filename) as file:
        return {
            name: dset.asstr()[:].tolist() if dset.dtype.kind == "O" else dset[:].tolist()
            for name, dset in file["X"].items()
            if name not in ("data", "indices", "indptr")
        }


# ----------------------------------------------------------------------------- Matrix Market


class TestMarket:
    @pytest.fixture(autouse=True)
    def small_blocks(self, monkeypatch):
        monkeypatch.setattr(market, "_BLOCK", 100)

    @both_formats
    @pytest.mark.parametrize("suffix", [".mtx", ".mtx.gz", ".mtx.bz2"])
    @pytest.mark.parametrize("dtype", ["f8", "i8", "c16"])
    def test_coordinates(self, tmp_path, convert, format, suffix, dtype):
        plain, path = random(dtype=dtype), tmp_path / f"m{suffix}"
        stream = io.BytesIO()
        scipy.io.mmwrite(stream, plain.tocoo())
        path.write_bytes(PACK.get(path.suffix, bytes)(stream.getvalue()))
        A = convert(path, format=format)
        assert (A.format, A.nnz) == (format, plain.nnz)
        same(A, plain)

    @pytest.mark.parametrize(
        ("symmetry", "dtype"),
        [
            ("symmetric", "f8"),
            ("symmetric", "i8"),
            ("symmetric", "c16"),
            ("skew-symmetric", "f8"),
            ("skew-symmetric", "i8"),
            ("skew-symmetric", "c16"),
            ("hermitian", "c16"),
        ],
    )
    @pytest.mark.parametrize("layout", ["coordinate", "array"])
    def test_one_half_stands_for_both(self, tmp_path, convert, symmetry, dtype, layout):
        half = np.tril(random((20, 20), dtype).toarray(), -(symmetry == "skew-symmetric"))
        below = np.tril(half * (1 if dtype != "c16" else 1 + 2j), -1)
        other = {"symmetric": below.T, "skew-symmetric": -below.T, "hermitian": below.conj().T}
        whole = below + other[symmetry] + np.diag(np.diag(half))
        path = tmp_path / "m.mtx"
        given = sp.coo_array(whole) if layout == "coordinate" else whole
        scipy.io.mmwrite(path, given, symmetry=symmetry)
        assert f"{layout} " in path.read_text().splitlines()[0]
        assert symmetry in path.read_text().splitlines()[0]
        A = convert(path)
        assert_array_equal(A.toarray(), scipy.io.mmread(path) if layout == "array" else whole)
        assert_array_equal(A.toarray(), whole)
        assert A.nnz == np.count_nonzero(whole)

    def test_a_pattern_and_blanks_between(self, tmp_path, convert):
        path = tmp_path / "m.mtx"
        path.write_text(
            "%%MatrixMarket  matrix coordinate pattern general\n% a comment\n\n3 4 3\n"
            "1 1\n\n  2\t4 \r\n3    2"
        )
        A = convert(path)
        expected = np.zeros((3, 4))
        expected[[0, 1, 2], [0, 3, 1]] = 1
        assert_array_equal(A.toarray(), expected)
        assert A.dtype == np.float64

    def test_values_of_an_array_that_are_zero_are_dropped(self, tmp_path, convert):
        plain = random((30, 7))
        scipy.io.mmwrite(tmp_path / "m.mtx", plain.toarray())
        A = convert(tmp_path / "m.mtx")
        same(A, plain)
        assert A.nnz == plain.nnz

    def test_numbers_to_the_last_bit(self, tmp_path, convert):
        values = np.random.default_rng(0).random(500) * 10.0 ** np.arange(-250, 250)
        plain = sp.coo_array((values, (np.arange(500), np.zeros(500, int))))
        scipy.io.mmwrite(tmp_path / "m.mtx", plain, precision=17)
        assert_array_equal(convert(tmp_path / "m.mtx").data, values)

    def test_duplicates_and_dtype(self, tmp_path, convert):
        path = tmp_path / "m.mtx"
        path.write_text("%%MatrixMarket matrix coordinate real general\n2 2 2\n1 1 5\n1 1 3\n")
        assert convert(path).toarray()[0, 0] == 8
        A = convert(path, duplicates="last", dtype=np.float32)
        assert (A.dtype, A.toarray()[0, 0]) == (np.float32, 3)

    def test_the_beginning_tells_what_the_name_does_not(self, tmp_path, convert):
        scipy.io.mmwrite(tmp_path / "m.mtx", random().tocoo())
        os.rename(tmp_path / "m.mtx", tmp_path / "noname")
        same(convert(tmp_path / "noname"), random())
        same(convert(str(tmp_path / "noname").encode(), source_kind="mtx"), random())

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("%%MatrixMarket matrix coordinate real general\n2 2 2\n1 1 5\n", "promises 2 entr"),
            (
                "%%MatrixMarket matrix coordinate real general\n2 2 1\n1 1 5\n1 2 1\n",
                "but it has 2",
            ),
            ("%%MatrixMarket matrix coordinate real general\n2 2 1\n3 1 5\n", "after entry 0"),
            ("%%MatrixMarket matrix coordinate real general\n2 2 1\n1 x 5\n", "after entry 0"),
            ("%%MatrixMarket matrix coordinate real general\n2 2\n", "line of sizes is '2 2'"),
            ("%%MatrixMarket matrix coordinate real general\n% only\n", "no line of sizes"),
            ("%%MatrixMarket matrix coordinate real lower\n2 2 0\n", "says 'lower', where gen"),
            ("%%MatrixMarket matrix array real symmetric\n2 3\n", "symmetric matrix cannot be 2 x"),
            ("%%MatrixMarket matrix array real general\n2 2\n1\n2\n3\n", "promises 4 .* has 3"),
            ("%%MatrixMarket matrix array real general\n1 2\n1\n2\n3\n", "promises 2 .* has 3"),
            ("hello\n", "does not begin as"),
        ],
    )
    def test_what_is_damaged(self, tmp_path, text, message):
        (tmp_path / "m.mtx").write_text(text)
        with pytest.raises(diskcsr.FormatError, match=message):
            diskcsr.convert(tmp_path / "m.mtx", tmp_path / "out.h5")
        assert os.listdir(tmp_path) == ["m.mtx"]

    def test_within_little_memory(self, tmp_path, convert):
        plain = random((400, 300))
        scipy.io.mmwrite(tmp_path / "m.mtx", plain.tocoo())
        with diskcsr.options.set(memory_budget=least_memory()):
            A = convert(tmp_path / "m.mtx", max_memory=least_memory())
        same(A, plain)


def write_tenx(folder, plain, packed=True):
    folder.mkdir()
    end = ".gz" if packed else ""
    stream = io.BytesIO()
    scipy.io.mmwrite(stream, plain.tocoo())
    (folder / f"matrix.mtx{end}").write_bytes(PACK.get(end, bytes)(stream.getvalue()))
    opener = gzip.open if packed else open
    features = [f"ENSG{i}\tgene {i}\tGene Expression" for i in range(plain.shape[0])]
    barcodes = [f"ACGT-{i}" for i in range(plain.shape[1])]
    for name, lines in (("features" if packed else "genes", features), ("barcodes", barcodes)):
        with opener(folder / f"{name}.tsv{end}", "wt") as file:
            file.write("".join(line + "\n" for line in lines))
    return features, barcodes


@pytest.mark.parametrize("packed", [True, False])
def test_a_folder_of_10x(tmp_path, convert, packed):
    plain = random(dtype=np.int64)
    features, barcodes = write_tenx(tmp_path / "counts", plain, packed)
    A = convert(tmp_path / "counts")
    same(A, plain)
    assert A.format == "csc"
    assert beside(A) == {
        "barcodes": barcodes,
        "features": [line.split("\t")[0] for line in features],
        "feature_names": [line.split("\t")[1] for line in features],
        "feature_types": ["Gene Expression"] * 60,
    }
    assert diskcsr.check(A.filename).ok
    assert convert(tmp_path / "counts", format="csr", source_kind="10x").format == "csr"


def test_a_folder_of_10x_that_does_not_fit_together(tmp_path):
    write_tenx(tmp_path / "counts", random())
    with gzip.open(tmp_path / "counts" / "barcodes.tsv.gz", "wt") as file:
        file.write("one\n")
    with pytest.raises(diskcsr.FormatError, match="has 1 lines, where the matrix has 40"):
        diskcsr.convert(tmp_path / "counts", tmp_path / "out.h5")
    os.unlink(tmp_path / "counts" / "barcodes.tsv.gz")
    with pytest.raises(diskcsr.FormatError, match=r"none of barcodes\.tsv\.gz, barcodes\.tsv"):
        diskcsr.convert(tmp_path / "counts", tmp_path / "out.h5")
    (tmp_path / "empty").mkdir()
    with pytest.raises(diskcsr.FormatError, match=r"a folder without matrix\.mtx"):
        diskcsr.convert(tmp_path / "empty", tmp_path / "out.h5")
    assert sorted(os.listdir(tmp_path)) == ["counts", "empty"]


# ----------------------------------------------------------------------------------- tables

USERS = ["eve", "bob", "eve", "ann", "bob"]
ITEMS = ["tea", "ale", "ale", "tea", "ale"]
STARS = [5, 4, 3, 2, 1]


class TestTables:
    @pytest.fixture(autouse=True)
    def small_blocks(self, monkeypatch):
        self.arrow = pytest.importorskip("pyarrow", reason="the extra diskcsr[tables]")
        monkeypatch.setattr(tables, "_BLOCK", 1 << 12)
        monkeypatch.setattr(tables, "_LINES", 100)

    def written(self, folder, kind, columns):
        """Write a table as CSV, TSV, compressed CSV or Parquet."""
        path, table = folder / f"t.{kind}", self.arrow.table(columns)
        if kind == "parquet":
            import pyarrow.parquet

            pyarrow.parquet.write_table(table, path)
            return path
        mark = "\t" if kind.startswith("tsv") else ","
        lines = [
            mark.join(columns),
            *map(mark.join, zip(*map(map_str, columns.values()), strict=True)),
        ]
        text = "".join(line + "\n" for line in lines)
        path.write_bytes(gzip.compress(text.encode()) if kind.endswith("gz") else text.encode())
        return path

    @both_formats
    @pytest.mark.parametrize("kind", ["csv", "tsv", "csv.gz", "parquet"])
    @pytest.mark.parametrize("dtype", ["i8", "f8"])
    def test_numbers_are_indices(self, tmp_path, convert, kind, dtype, format):
        plain = random((300, 50), dtype)
        coo = plain.tocoo()
        if dtype == "f8":
            plain.data += 0.5
        columns = {"row": coo.row, "column": coo.col, "value": plain.data}
        path = self.written(tmp_path, kind, columns)
        A = convert(path, format=format, shape=(300, 50))
        same(A, plain)
        assert (A.format, beside(A)) == (format, {})

    @pytest.mark.parametrize("kind", ["csv", "parquet"])
    @pytest.mark.parametrize("labels", [None, "appearance", "sorted"])
    def test_strings_are_numbered(self, tmp_path, convert, kind, labels):
        columns = {"when": [9] * 5, "item": ITEMS, "stars": STARS, "user": USERS}
        path = self.written(tmp_path, kind, columns)
        A = convert(path, fields=["user", "item", "stars"], labels=labels)
        assert A.dtype == np.int64
        if labels == "sorted":
            assert beside(A) == {"row_names": ["ann", "bob", "eve"], "column_names": ["ale", "tea"]}
            assert_array_equal(A.toarray(), [[0, 2], [5, 0], [3, 5]])
        else:
            assert beside(A) == {"row_names": ["eve", "bob", "ann"], "column_names": ["tea", "ale"]}
            assert_array_equal(A.toarray(), [[5, 3], [0, 5], [2, 0]])
        assert diskcsr.check(A.filename).ok

    @pytest.mark.parametrize("kind", ["csv", "parquet"])
    def test_many_labels_in_many_pieces(self, tmp_path, convert, kind):
        rng = np.random.default_rng(0)
        rows, columns = rng.integers(0, 400, 3000), rng.integers(0, 70, 3000)
        names = {"r": [f"u{i}" for i in rows], "c": columns + 1000, "v": np.ones(3000, np.int32)}
        path = self.written(tmp_path, kind, names)
        A = convert(path, labels="sorted", dtype=np.int32)
        labels = beside(A)
        assert labels["row_names"] == sorted({f"u{i}" for i in rows})
        assert labels["column_names"] == sorted({str(i + 1000) for i in columns})
        expected = np.zeros(A.shape, np.int32)
        for row, column in zip(names["r"], names["c"], strict=True):
            place = labels["row_names"].index(row), labels["column_names"].index(str(column))
            expected[place] += 1
        assert A.dtype == np.int32
        assert_array_equal(A.toarray(), expected)

    def test_no_values_no_names_and_other_marks(self, tmp_path, convert):
        (tmp_path / "a.csv").write_text("0;1\n2;0\n0;1\n")
        assert_array_equal(convert(tmp_path / "a.csv").toarray(), [[0, 2], [0, 0], [1, 0]])
        (tmp_path / "b.csv").write_text("0,1,7\n2,0,8\n")
        A = convert(tmp_path / "b.csv", fields=("1", 0, 2))
        assert_array_equal(A.toarray(), [[0, 0, 8], [7, 0, 0]])
        (tmp_path / "c.csv").write_text("007,a,1\n7,a,1\n")
        A = convert(tmp_path / "c.csv", labels="appearance", fields=(0, 2))
        assert A.shape == (1, 1)  # the first line is taken for names

    def test_labels_keep_their_zeros(self, tmp_path, convert):
        (tmp_path / "a.csv").write_text("user,item,stars\n007,1,1\n7,1,1\n")
        A = convert(tmp_path / "a.csv", labels="appearance")
        assert beside(A) == {"row_names": ["007", "7"], "column_names": ["1"]}

    def test_a_folder_of_parquet_files(self, tmp_path, convert):
        import pyarrow.parquet

        (tmp_path / "parts").mkdir()
        for number in range(3):
            table = self.arrow.table({"r": [number], "c": [1], "v": [number + 0.5]})
            pyarrow.parquet.write_table(table, tmp_path / "parts" / f"{number}.parquet")
        A = convert(tmp_path / "parts")
        assert_array_equal(A.toarray(), [[0, 0.5], [0, 1.5], [0, 2.5]])

    def test_dictionaries_and_missing_values(self, tmp_path, convert):
        coded = self.arrow.array(USERS).dictionary_encode()
        stars = self.arrow.array([1.0, None, 3.0, 4.0, 5.0])
        path = self.written(tmp_path, "parquet", {"u": coded, "i": ITEMS, "s": stars})
        A = convert(path, duplicates="last")
        assert_array_equal(A.toarray(), [[1, 3], [0, 5], [4, 0]])
        A = convert(path)
        assert np.isnan(A.toarray()[1, 1])

    @pytest.mark.parametrize(
        ("text", "options", "error", "message"),
        [
            ("r,c,v\n0,1,x\n", {}, ValueError, "values of type string are no numbers"),
            ("r,c,v\n0,1,\n1,1,2\n", {}, ValueError, "a value is missing among int64s"),
            ("r,c,v\n0,,1\n1,1,2\n", {}, ValueError, "missing in the field 'c'"),
            ("r,c,v\n0.5,1,1\n", {}, ValueError, "'r' holds fractions, no indices"),
            ("r,c,v\n0,-1,1\n", {}, ValueError, "part 0, position 0: column index -1 is neg"),
            ("r,c,v\n0,1,1\n", {"fields": ["r", "x"]}, ValueError, "no field 'x'; it has r, c, v"),
            ("r,c,v\n0,1,1\n", {"fields": ["r"]}, ValueError, "names two or three fields"),
            ("r,c,v\n0,1,1\n", {"fields": ["r", "r"]}, ValueError, "names one twice"),
            ("r,c,v\n0,1,1\n", {"labels": "random"}, ValueError, "labels must be 'appearance' or"),
            ("r,c,v\n" + "0,1,1\n" * 999 + "0,1,1.5\n", {}, ValueError, "dtype='float64'"),
            ("r,c,v\n" + "0,1,1\n" * 999 + "a,1,1\n", {}, ValueError, "labels='appearance'"),
            ("r,c,v\n0,1,1\n0,1\n", {}, ValueError, "Expected 3 columns"),
            ("", {}, ValueError, "fields= names two or three"),
            ("r,c,v\n", {}, ValueError, "no triplets, and no shape"),
        ],
    )
    def test_what_is_refused(self, tmp_path, text, options, error, message):
        (tmp_path / "t.csv").write_text(text)
        with pytest.raises(error, match=message):
            diskcsr.convert(tmp_path / "t.csv", tmp_path / "out.h5", **options)
        assert os.listdir(tmp_path) == ["t.csv"]

    def test_other_values_with_a_dtype(self, tmp_path, convert):
        (tmp_path / "t.csv").write_text("r,c,v\n" + "0,1,1\n" * 999 + "0,1,1.5\n")
        A = convert(tmp_path / "t.csv", dtype="float64")
        assert A.toarray().tolist() == [[0, 1000.5]]


def map_str(values):
    return [str(value) for value in values]


def test_without_the_library_the_extra_is_named(tmp_path, monkeypatch):
    for module in ("pyarrow", "pyarrow.csv", "pyarrow.parquet", "sklearn.datasets", "sklearn"):
        monkeypatch.setitem(sys.modules, module, None)
    for name, extra in (("t.csv", "tables"), ("t.parquet", "tables"), ("t.svm", "svmlight")):
        (tmp_path / name).write_text("r,c,v\n")
        with pytest.raises(ImportError, match=rf"{name}: .*pip install 'diskcsr\[{extra}\]'"):
            diskcsr.convert(tmp_path / name, tmp_path / "out.h5")


# --------------------------------------------------------------------------------- svmlight


class TestSvmlight:
    @pytest.fixture(autouse=True)
    def small_blocks(self, monkeypatch):
        self.datasets = pytest.importorskip("sklearn.datasets", reason="diskcsr[svmlight]")
        monkeypatch.setattr(svmlight, "_BLOCK", 200)

    @both_formats
    @pytest.mark.parametrize("zero_based", [True, False])
    @pytest.mark.parametrize("packed", [True, False])
    def test_rows_and_labels(self, tmp_path, convert, format, zero_based, packed):
        plain, labels = random(), np.arange(60) % 3 - 1.0
        assert plain[:, [0]].nnz  # column zero is there
        stream = io.BytesIO()
        self.datasets.dump_svmlight_file(plain, labels, stream, zero_based=zero_based)
        path = tmp_path / ("d.svmlight.gz" if packed else "d.svmlight")
        path.write_bytes(gzip.compress(stream.getvalue()) if packed else stream.getvalue())
        A = convert(path, format=format)
        same(A, plain)
        assert beside(A) == {"labels": labels.tolist()}
        assert convert(path, dtype=np.float32).dtype == np.float32

    def test_rows_that_are_empty(self, tmp_path, convert):
        (tmp_path / "d.svm").write_text("1\n-1 2:5 # a comment\n# another\n1\n1\n")
        A = convert(tmp_path / "d.svm")
        assert_array_equal(A.toarray(), [[0, 0], [0, 5], [0, 0], [0, 0]])
        assert beside(A) == {"labels": [1, -1, 1, 1]}
        assert convert(tmp_path / "d.svm", shape=(4, 9)).shape == (4, 9)

    def test_what_is_damaged(self, tmp_path):
        (tmp_path / "d.svm").write_text("1 1:5\n1 1:x\n")
        with pytest.raises(diskcsr.FormatError, match="after row 0"):
            diskcsr.convert(tmp_path / "d.svm", tmp_path / "out.h5")
        assert os.listdir(tmp_path) == ["d.svm"]


# ----------------------------------------------------------------------------------- scipy's


class TestNpz:
    @pytest.fixture(autouse=True)
    def small_blocks(self, monkeypatch):
        monkeypatch.setattr(npz, "_STEP", 50)

    @pytest.mark.parametrize("compressed", [True, False])
    @pytest.mark.parametrize("kind", ["csr", "csc", "coo", "bsr", "dia"])
    @pytest.mark.parametrize("format", [None, *FORMATS])
    def test_all_kinds(self, tmp_path, convert, kind, compressed, format):
        plain = random(dtype=np.float32)
        sp.save_npz(tmp_path / "m.npz", plain.asformat(kind), compressed=compressed)
        budget = 10**9 if kind in ("bsr", "dia") else least_memory()
        with diskcsr.options.set(memory_budget=budget):
            A = convert(tmp_path / "m.npz", format=format)
        same(A, plain)
        assert A.format == (format or (kind if kind in FORMATS else "csr"))

    def test_order_and_duplicates_as_they_are_asked_for(self, tmp_path, convert):
        plain = sp.csr_array(([1.0, 2, 3], [1, 0, 0], [0, 3]), shape=(1, 2))
        sp.save_npz(tmp_path / "m.npz", plain)
        assert convert(tmp_path / "m.npz").indices.tolist() == [0, 0, 1]
        assert convert(tmp_path / "m.npz", sort_indices=False).indices.tolist() == [1, 0, 0]
        for options in ({"sum_duplicates": True}, {"duplicates": "sum"}, {"format": "csc"}):
            A = convert(tmp_path / "m.npz", **options)
            assert A.toarray().tolist() == [[5, 1]]
        assert convert(tmp_path / "m.npz", sum_duplicates=True, format="csc").nnz == 2
        assert convert(tmp_path / "m.npz", duplicates="last").toarray().tolist() == [[3, 1]]

    def test_what_is_damaged(self, tmp_path):
        for arrays, message in [
            ({"a": np.zeros(3)}, "no sparse matrix, but holds a"),
            ({"format": b"csr", "shape": (2, 2), "data": np.ones(2)}, "'indptr' is missing"),
            (
                {"format": b"csr", "shape": (2, 2), "data": np.ones(1), "indices": [0, 1],
                 "indptr": [0, 1, 2]},
                "indptr does not go with",
            ),
            (
                {"format": b"csr", "shape": (2, 2), "data": np.ones(2), "indices": [0, 2],
                 "indptr": [0, 1, 2]},
                "an index is out of range",
            ),
        ]:  # fmt: skip
            np.savez(tmp_path / "m.npz", **arrays)
            with pytest.raises(diskcsr.FormatError, match=message):
                diskcsr.convert(tmp_path / "m.npz", tmp_path / "out.h5")
        (tmp_path / "m.npz").write_bytes(b"PK not a zip")
        with pytest.raises(diskcsr.FormatError, match=r"it is no \.npz"):
            diskcsr.convert(tmp_path / "m.npz", tmp_path / "out.h5")
        assert os.listdir(tmp_path) == ["m.npz"]


@pytest.mark.parametrize("kind", ["dense", "npz", "mtx"])
def test_less_memory_than_any_source_takes_is_refused(tmp_path, kind):
    """Whether it is sorted or comes in lines; nothing is made then."""
    path = tmp_path / f"source.{kind}"
    if kind == "dense":
        with h5py.File(path, "w") as file:
            file["X"] = np.eye(4)
    elif kind == "npz":
        sp.save_npz(path, random(), compressed=True)
    else:
        scipy.io.mmwrite(path, random())
    with pytest.raises(ValueError, match=f"max_memory is 1000 bytes, but .* {least_memory()} "):
        diskcsr.convert(path, tmp_path / "out.h5", max_memory=1000)
    assert os.listdir(tmp_path) == [path.name]
    diskcsr.convert(path, tmp_path / "out.h5", max_memory=least_memory()).close()


@both_formats
@pytest.mark.parametrize("kind", ["coo", "dok", "lil"])
@pytest.mark.parametrize("flavour", ["array", "matrix"])
def test_matrices_in_memory(convert, monkeypatch, kind, format, flavour):
    monkeypatch.setattr(memory, "_STEP", 70)
    plain = random(dtype=np.float32)
    given = getattr(sp, f"{kind}_{flavour}")(plain)
    A = convert(given, format=format, max_memory=least_memory())
    same(A, plain)
    assert A.format == format


def test_duplicates_of_a_coo(convert):
    given = sp.coo_array(([1, 2, 3], ([0, 0, 1], [1, 1, 0])), shape=(2, 3))
    assert convert(given).toarray().tolist() == [[0, 3, 0], [3, 0, 0]]
    assert convert(given, duplicates="last").toarray().tolist() == [[0, 2, 0], [3, 0, 0]]
    assert convert(given, duplicates="keep").nnz == 3


# ------------------------------------------------------------------------------------- dense


def with_holes(shape, dtype=np.float32):
    plain = random(shape, np.int8).toarray().astype(dtype)
    if np.dtype(dtype).kind == "f":
        plain[3, 4], plain[5, 6] = np.nan, -0.0
    return plain


class TestDense:
    @both_formats
    @pytest.mark.parametrize("chunks", [None, (7, 5), (1, 40), (60, 1), (60, 40)])
    @pytest.mark.parametrize("block", [256, 3000, 1 << 20])
    @pytest.mark.parametrize("turned", [False, True])
    def test_blockwise(self, tmp_path, convert, monkeypatch, format, chunks, block, turned):
        monkeypatch.setattr(dense, "_BLOCK", block)
        plain = with_holes((60, 40))
        with h5py.File(tmp_path / "d.h5", "w") as file:
            file.create_dataset("matrix" if turned else "X", data=plain, chunks=chunks)
            if turned:
                file.create_group("row_attrs")
                file.create_group("col_attrs")
        A = convert(tmp_path / "d.h5", format=format)
        expected = plain.T if turned else plain
        assert (A.shape, A.dtype, A.format) == (expected.shape, np.float32, format)
        assert_array_equal(A.toarray(), expected)
        assert A.nnz == np.count_nonzero(plain)  # NaN counts, and zeros do not
        assert A.has_canonical_format

    @pytest.mark.parametrize("dtype", ["?", "i1", ">i2", "u8", "f2", ">f8", "c16"])
    def test_every_dtype(self, tmp_path, convert, dtype):
        plain = with_holes((60, 40), dtype)
        with h5py.File(tmp_path / "d.h5", "w") as file:
            file["a/b"] = plain
        A = convert(tmp_path / "d.h5", source_name="a/b")
        assert_array_equal(A.toarray(), plain)
        B = convert(tmp_path / "d.h5", source_name="a/b", source_kind="dense", dtype="c16")
        assert B.dtype == np.complex128
        assert_array_equal(B.toarray(), plain)

    def test_an_h5ad_whose_x_is_dense(self, tmp_path, convert):
        anndata = pytest.importorskip("anndata")
        plain = with_holes((60, 40))
        anndata.AnnData(plain).write_h5ad(tmp_path / "d.h5ad")
        A = convert(tmp_path / "d.h5ad")
        assert_array_equal(A.toarray(), plain)
        with h5py.File(tmp_path / "d.h5ad") as file:
            assert_array_equal(convert(file).toarray(), plain)
            assert_array_equal(convert(file["/"], source_name="X").toarray(), plain)

    def test_open_says_which_call_turns_it(self, tmp_path, convert):
        with h5py.File(tmp_path / "d.h5", "w") as file:
            file["X"] = np.eye(3)
            file["layers/raw"] = np.eye(2)
        for name in (None, "X", "layers/raw"):
            with pytest.raises(diskcsr.FormatError) as caught:
                diskcsr.open(tmp_path / "d.h5", name)
            call = f"{str(tmp_path / 'd.h5')!r}, 'new.h5', source_name={name or 'X'!r}"
            end = f"; diskcsr.convert({call}) makes a sparse one of it"
            assert str(caught.value).endswith(end)
        assert convert(tmp_path / "d.h5", source_name="layers/raw").shape == (2, 2)
        assert convert(tmp_path / "d.h5", source_name="X").shape == (3, 3)
        diskcsr.write(tmp_path / "d.h5", sp.eye_array(5), name="S").close()
        # A sparse one is taken before a dense one.
        assert convert(tmp_path / "d.h5").shape == (5, 5)
        assert convert(tmp_path / "d.h5", source_kind="dense").shape == (3, 3)

    def test_into_the_file_that_it_is_in(self, tmp_path):
        path = tmp_path / "d.h5"
        with h5py.File(path, "w") as file:
            file["X"] = np.eye(4)
        with pytest.raises(ValueError, match=r"d\.h5 is open for reading as a source"):
            diskcsr.convert(path, str(path), "S")
        with h5py.File(path, "r+") as file:
            assert list(file) == ["X"]
            with diskcsr.convert(file, file, "S") as A:
                assert_array_equal(A.toarray(), np.eye(4))
        with diskcsr.open(path) as A:
            assert A.nnz == 4

    def test_what_is_no_dense_matrix(self, tmp_path):
        with h5py.File(tmp_path / "d.h5", "w") as file:
            file["a"], file["b"], file["c"] = np.eye(2), np.eye(2), np.arange(3)
            file["s"] = np.array([[b"x"]])
        for name, message in [
            (None, "it has a, b; give a name"),
            ("c", "'c' is no dense matrix"),
            ("s", "'s' is no dense matrix"),
            ("no", "'no' is no dense matrix of numbers: it has nothing"),
        ]:
            with pytest.raises(diskcsr.FormatError, match=message):
                diskcsr.convert(
                    tmp_path / "d.h5", tmp_path / "out.h5", source_name=name, source_kind="dense"
                )
        assert os.listdir(tmp_path) == ["d.h5"]


# ----------------------------------------------------------------------- what holds for all


def test_what_cannot_be_said(tmp_path):
    scipy.io.mmwrite(tmp_path / "m.mtx", random().tocoo())
    diskcsr.write(tmp_path / "m.h5", random()).close()
    market, stored = tmp_path / "m.mtx", tmp_path / "m.h5"
    for source, options, message in [
        (market, {"source_kind": "excel"}, "source_kind= must be one of 'mtx', '10x', 'csv'"),
        (market, {"fields": ["a", "b"]}, "fields=: not for mtx"),
        (market, {"labels": "sorted", "source_name": "X"}, "source_name=, labels=: not for mtx"),
        (market, {"permute_rows": True}, "permute_rows=: convert to HDF5 first"),
        (market, {"duplicates": "first"}, "duplicates must be one of"),
        (market, {"sort_indices": False}, "sort_indices=: triplets have no order"),
        (market, {"shape": (3, 3)}, "is out of range: the shape is"),
        (stored, {"dtype": "f4"}, "dtype=: not for a sparse matrix in HDF5"),
        (stored, {"source_kind": "mtx"}, "does not begin as a Matrix Market"),
        (random(), {"source_kind": "mtx"}, "said of a path, not of csr_array"),
        (random(), {"dtype": "f4"}, "dtype=: a matrix has them already"),
    ]:
        with pytest.raises(ValueError, match=message):
            diskcsr.convert(source, tmp_path / "out.h5", **options)
    assert sorted(os.listdir(tmp_path)) == ["m.h5", "m.mtx"]


def test_a_file_of_no_kind_says_what_is_known(tmp_path):
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(diskcsr.FormatError, match=r"not an HDF5 file.*source_kind="):
        diskcsr.convert(tmp_path / "notes.txt", tmp_path / "out.h5")
    with pytest.raises(FileNotFoundError):
        diskcsr.convert(tmp_path / "missing.mtx", tmp_path / "out.h5")


@pytest.mark.parametrize("name", ["r.csv", "r.TSV.gz", "r.mtx", "r.npz", "r.parquet", "r.svm"])
def test_what_opens_hdf5_says_which_call_takes_other_files(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    with open(name, "w") as file:
        file.write("0 1:2\n")
    call = f"diskcsr.convert({name!r}, 'r.h5') makes HDF5 of it"
    for use in (diskcsr.open, diskcsr.info, diskcsr.DiskCSR, lambda f: diskcsr.export(f, "x.mtx")):
        with pytest.raises(
            diskcsr.FormatError, match=r"is not an HDF5 file but .*, by its name"
        ) as c:
            use(name)
        assert call in str(c.value)
    (problem,) = diskcsr.check(name).problems
    assert (problem.severity, problem.kind, problem.where) == ("error", "open", "/")
    assert call in problem.what


def test_the_beginning_of_a_file_tells_too(tmp_path):
    (tmp_path / "m.txt").write_text("%%MatrixMarket matrix coordinate real general\n1 2 0\n")
    with pytest.raises(diskcsr.FormatError, match=r"Matrix Market, by how it begins: diskcsr\.co"):
        diskcsr.open(tmp_path / "m.txt")
    with diskcsr.convert(tmp_path / "m.txt", tmp_path / "m.h5") as A:
        assert A.shape == (1, 2)
    with pytest.raises(diskcsr.FormatError, match=r"BytesIO.* is not an HDF5 file; diskcsr.conv"):
        diskcsr.open(io.BytesIO(b"%%MatrixMarket"))


WRITERS = {
    "write": lambda file: diskcsr.write(file, random()),
    "convert": lambda file: diskcsr.convert(random(), file),
    "concat": lambda file: diskcsr.concat([random()], file),
    "virtual": lambda file: diskcsr.concat(["m.h5"], file, virtual=True),
    "from_triplets": lambda file: diskcsr.from_triplets(file, [([0], [1])]),
    "save": lambda file: diskcsr.open("m.h5").save(file),
}


@pytest.mark.parametrize("write", WRITERS)
@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("o.mtx", r"Matrix Market, .*: diskcsr\.export\(A, 'o\.mtx'\) writes that; .* as 'o\.h5'"),
        ("o.Npz", r"npz, .*: diskcsr\.export\(A, 'o\.Npz'\) writes that"),
        ("o.parquet", r"Parquet, .*: diskcsr\.export\(A, 'o\.parquet'\) writes that"),
        ("o.zarr", r"zarr, .*: diskcsr\.export\(A, 'o\.zarr'\) writes that"),
        ("o.csv.gz", r"CSV, .* HDF5: choose another name, as 'o\.h5'"),
        ("o.svm", r"svmlight, .* HDF5: choose another name, as 'o\.h5'"),
    ],
)
def test_hdf5_is_not_written_under_another_kinds_name(tmp_path, monkeypatch, write, name, said):
    monkeypatch.chdir(tmp_path)
    diskcsr.write("m.h5", random()).close()
    with pytest.raises(ValueError, match=said):
        WRITERS[write](name)
    assert os.listdir() == ["m.h5"]
    with open(name, "w") as file:
        file.write("of somebody")
    with pytest.raises(ValueError, match=said):
        WRITERS[write](name)
    with open(name) as file:
        assert file.read() == "of somebody"


def test_a_file_that_is_hdf5_keeps_its_name(tmp_path):
    plain = random()
    diskcsr.write(tmp_path / "m.h5", plain).close()
    os.rename(tmp_path / "m.h5", tmp_path / "m.npz")
    with diskcsr.write(tmp_path / "m.npz", plain, "Y") as A:
        same(A, plain)


def test_compressed_names_are_those_that_are_decompressed():
    assert set(others.COMPRESSED) == set(imported._OPENERS)
    assert set(others._READ) == set(others.SUFFIXES) - {"zarr"} <= set(kinds())
    for target in TARGETS:
        assert target.hdf5 or target.suffixes == others.SUFFIXES[target.name]


def test_parts_of_other_kinds_are_joined(tmp_path):
    plain = random()
    scipy.io.mmwrite(tmp_path / "m.mtx", plain.tocoo())
    sp.save_npz(tmp_path / "m.npz", plain)
    parts = [tmp_path / "m.mtx", tmp_path / "m.npz", plain.tocoo()]
    with diskcsr.concat(parts, tmp_path / "all.h5") as A:
        same(A, sp.vstack([plain, plain, plain], format="csr"))
    assert sorted(os.listdir(tmp_path)) == ["all.h5", "m.mtx", "m.npz"]


@pytest.mark.parametrize("wrap", [list, iter])
def test_write_points_to_what_takes_triplets(tmp_path, wrap):
    part = np.array([0, 1]), np.array([1, 0]), np.array([2, 3])
    with pytest.raises(TypeError, match=r"block 0 is a tuple of arrays.*diskcsr\.from_triplets"):
        diskcsr.write(tmp_path / "m.h5", wrap([part, part]))
    assert os.listdir(tmp_path) == []
    with pytest.raises(TypeError, match=r"a tuple of arrays.*diskcsr\.from_triplets"):
        diskcsr.write(tmp_path / "m.h5", part)
    assert os.listdir(tmp_path) == []
    assert "diskcsr.from_triplets" in diskcsr.write.__doc__
    rows = np.array([0.0, 1]), np.array([1.0, 0])
    with diskcsr.write(tmp_path / "m.h5", rows) as A:  # rows of numbers, as in numpy
        assert_array_equal(A.toarray(), [[0, 1], [1, 0]])
