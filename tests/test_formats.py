"""The on-disk conventions: recognised as their writers leave them, refused when they say nonsense.

Golden groups are built here with h5py, attribute for attribute as each writer does. The files in
memory have unique names: HDF5 refuses to create one twice.
"""

import itertools
import json
import math

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from scipy.sparse import csc_array, csr_array

import diskcsr
from diskcsr import ClosedFileError, CorruptFileError, FormatError
from diskcsr.storage.formats import detect as formats
from diskcsr.storage.formats.detect import FORMATS, Header, Hints
from diskcsr.storage.formats.tags import default_tags, stamp

PLAIN = ("data", "indices", "indptr")
DENSE = np.array([[1, 0, 2, 0], [0, 0, 0, 0], [0, 3, 0, 4]], dtype=np.float32)
BUILD = {"csr": csr_array, "csc": csc_array}
ROWS = {row.name: row for row in FORMATS}
_counter = itertools.count()


def memory_file() -> h5py.File:
    return h5py.File(f"formats-{next(_counter)}.h5", "w", driver="core", backing_store=False)


@pytest.fixture
def file():
    with memory_file() as opened:
        yield opened


def put(group, format, names=PLAIN, *, dense=DENSE, index=np.int32):
    """Write the three arrays of a small matrix."""
    matrix = BUILD[format](dense)
    group.create_dataset(names[0], data=matrix.data)
    group.create_dataset(names[1], data=matrix.indices.astype(index))
    group.create_dataset(names[2], data=matrix.indptr.astype(index))
    return group


# ---------------------------------------------------------------- groups as their writers make them


def h5sparse_group(parent, format):
    group = put(parent.create_group("m"), format)
    group.attrs["h5sparse_format"] = format
    group.attrs["h5sparse_shape"] = DENSE.shape
    return group


def anndata_group(parent, format):
    group = put(parent.create_group("m"), format)
    group.attrs["encoding-type"] = f"{format}_matrix"
    group.attrs["encoding-version"] = "0.1.0"
    group.attrs["shape"] = DENSE.shape
    return group


def descriptor(format="CSR", **changes):
    said = {
        "version": "0.1",
        "format": format,
        "shape": list(DENSE.shape),
        "number_of_stored_values": 4,
        "data_types": {
            "pointers_to_1": "int32",
            "indices_1": "int32",
            "values": "float32",
        },
    }
    said.update(changes)
    return {key: value for key, value in said.items() if value is not None}


BINSPARSE = ("values", "indices_1", "pointers_to_1")


def binsparse_group(parent, format, /, *, wrap=True, **changes):
    group = put(parent.create_group("m"), format, BINSPARSE)
    said = descriptor(**{"format": format.upper()} | changes)
    text = json.dumps({"binsparse": said, "author": "someone"} if wrap else said)
    group.attrs["binsparse"] = np.bytes_(text.encode()) if wrap else text
    return group


MATLAB = ("data", "ir", "jc")


def matlab_group(parent, format="csc"):
    group = put(parent.create_group("m"), "csc", MATLAB, index=np.uint64)
    group.attrs["MATLAB_sparse"] = np.uint64(DENSE.shape[0])
    group.attrs["MATLAB_class"] = np.bytes_(b"double")
    group.attrs["H5PATH"] = np.bytes_(b"/")
    return group


def h5io_group(parent, format):
    group = put(parent.create_group("m"), format)
    group.attrs["TITLE"] = f"{format}_matrix"
    shape = group.create_group("shape")
    shape.attrs["TITLE"] = "tuple"
    for axis in (0, 1):
        shape.create_dataset(f"idx_{axis}", data=[DENSE.shape[axis]])
    return group


def tenx_group(parent, format="csc"):
    group = put(parent.create_group("m"), "csc", index=np.int64)
    group.create_dataset(
        "shape", data=np.array(DENSE.shape, np.int32), chunks=(16384,), maxshape=(None,)
    )
    group.create_dataset("barcodes", data=np.array([b"AC-1"] * DENSE.shape[1]))
    group.attrs["TITLE"] = h5py.Empty("S1")
    return group


def untagged_group(parent, format):
    group = put(parent.create_group("m"), format)
    group.create_dataset("shape", data=DENSE.shape)
    group.attrs["TITLE"] = h5py.Empty("S1")
    group.attrs["CLASS"] = np.bytes_(b"GROUP")
    return group


GOLDEN = {
    "h5sparse": (h5sparse_group, PLAIN, ("csr", "csc")),
    "anndata": (anndata_group, PLAIN, ("csr", "csc")),
    "binsparse": (binsparse_group, BINSPARSE, ("csr", "csc")),
    "matlab": (matlab_group, MATLAB, ("csc",)),
    "h5io": (h5io_group, PLAIN, ("csr", "csc")),
    "10x": (tenx_group, PLAIN, ("csc",)),
    "untagged": (untagged_group, PLAIN, ("csr", "csc")),
}
every_golden = pytest.mark.parametrize(
    ("convention", "format"),
    [(name, format) for name in ROWS for format in GOLDEN[name][2]],
)


def both_tags(parent, format="csr"):
    group = h5sparse_group(parent, format)
    stamp(group, Header(format, DENSE.shape, *PLAIN, "x"), "both")
    return group


# -------------------------------------------------------------------------------- the table of rows


def test_every_row_has_a_golden_group_and_the_weak_ones_come_last():
    assert set(GOLDEN) == set(ROWS)
    tagged = [row.tagged for row in FORMATS]
    assert tagged == sorted(tagged, reverse=True)
    assert [row.name for row in FORMATS if not row.tagged] == ["10x", "untagged"]
    assert [row.name for row in FORMATS if row.stamp] == ["h5sparse", "anndata"]
    assert all(row.looks_for for row in FORMATS)


@every_golden
def test_golden(file, convention, format):
    build, names, _ = GOLDEN[convention]
    group = build(file, format)
    assert formats.detect(group) == Header(format, DENSE.shape, *names, convention)
    assert [type(length) for length in formats.detect(group).shape] == [int, int]
    assert formats.is_sparse(group)
    assert formats.find(file) == ["/m"]


@every_golden
def test_only_its_own_row_recognises_a_group(file, convention, format):
    group = GOLDEN[convention][0](file, format)
    tagged = [row.name for row in FORMATS if row.tagged and row.recognise(group, Hints())]
    assert tagged == ([convention] if ROWS[convention].tagged else [])
    assert ROWS[convention].recognise(group, Hints()).convention == convention


@every_golden
def test_no_array_is_read(file, convention, format, monkeypatch):
    group = GOLDEN[convention][0](file, format)
    read = []
    original = h5py.Dataset.__getitem__

    def spy(self, *args, **kwargs):
        read.append(self.name.rpartition("/")[2])
        return original(self, *args, **kwargs)

    monkeypatch.setattr(h5py.Dataset, "__getitem__", spy)
    formats.detect(group)
    formats.find(file)
    formats.describe(file)
    assert set(read) <= {"shape", "idx_0", "idx_1"}


@every_golden
def test_the_format_argument_may_repeat_but_not_contradict(file, convention, format):
    group = GOLDEN[convention][0](file, format)
    other = {"csr": "csc", "csc": "csr"}[format]
    assert formats.detect(group, format=format) == formats.detect(group)
    with pytest.raises(FormatError, match=f"format='{other}' contradicts"):
        formats.detect(group, format=other)


@every_golden
def test_the_shape_argument_overrides(file, convention, format):
    group = GOLDEN[convention][0](file, format)
    header = formats.detect(group, shape=(np.int64(2), 3), format=format)
    assert (header.shape, header.format) == ((2, 3), format)
    assert type(header.shape[0]) is int


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"format": "coo"}, ValueError),
        ({"format": "CSR"}, ValueError),
        ({"shape": (-1, 2)}, ValueError),
        ({"shape": (2**63, 2)}, ValueError),
        ({"shape": (1, 2, 3)}, ValueError),
        ({"shape": (1.5, 2)}, TypeError),
        ({"shape": 3}, TypeError),
    ],
)
def test_bad_arguments(file, arguments, error):
    with pytest.raises(error):
        formats.detect(h5sparse_group(file, "csr"), **arguments)


# ------------------------------------------------------------------------------- spellings in files

TEXT_FORMS = {
    "str": lambda text: text,
    "fixed bytes": lambda text: np.bytes_(text.encode()),
    "fixed bytes, padded": lambda text: np.array(text.encode(), f"S{len(text) + 9}"),
    "array of bytes": lambda text: np.array([text.encode()]),
    "array of str": lambda text: np.array([text], dtype=h5py.string_dtype()),
    "matrix of one": lambda text: np.array([[text.encode()]]),
}


@pytest.mark.parametrize("form", TEXT_FORMS.values(), ids=TEXT_FORMS)
@pytest.mark.parametrize("convention", ["h5sparse", "anndata", "binsparse", "h5io"])
def test_forms_of_text(file, convention, form):
    group = GOLDEN[convention][0](file, "csc")
    expected = formats.detect(group)
    for name in ("h5sparse_format", "encoding-type", "encoding-version", "TITLE", "binsparse"):
        if name in group.attrs:
            text = group.attrs[name]
            group.attrs[name] = form(text if isinstance(text, str) else text.decode())
    assert formats.detect(group) == expected


@pytest.mark.parametrize("text", ["csc", "csc_matrix", "csc_array", "CSC"])
def test_spellings_of_a_format(file, text):
    group = h5sparse_group(file, "csc")
    group.attrs["h5sparse_format"] = text
    assert formats.detect(group).format == "csc"
    group = anndata_group(file.create_group("other"), "csc")
    group.attrs["encoding-type"] = text
    assert formats.detect(group).format == "csc"


SHAPE_FORMS = {
    "int32": np.array(DENSE.shape, "i4"),
    "big-endian": np.array(DENSE.shape, ">i8"),
    "uint8": np.array(DENSE.shape, "u1"),
    "float64": np.array(DENSE.shape, "f8"),
    "float16": np.array(DENSE.shape, "f2"),
    "one row": np.array([DENSE.shape]),
}


@pytest.mark.parametrize("shape", SHAPE_FORMS.values(), ids=SHAPE_FORMS)
def test_forms_of_a_shape(file, shape):
    group = h5sparse_group(file, "csr")
    group.attrs["h5sparse_shape"] = shape
    header = formats.detect(group)
    assert header.shape == DENSE.shape
    assert all(type(length) is int for length in header.shape)


BAD_SHAPES = {
    "negative": np.array([-1, 4]),
    "too large": np.array([2**63, 4], "u8"),
    "too large a float": np.array([1e19, 4]),
    "fraction": np.array([2.5, 4]),
    "nan": np.array([math.nan, 4]),
    "infinity": np.array([math.inf, 4]),
    "three": np.array([3, 4, 5]),
    "one": 3,
    "empty": np.zeros(0, int),
    "text": "3, 4",
    "bytes": np.array([b"3", b"4"]),
    "bools": np.array([True, True]),
    "complex": np.array([3, 4], "c16"),
    "record": np.array((3, 4), "i4,i4"),
    "long": np.arange(5000),
}


@pytest.mark.parametrize("shape", BAD_SHAPES.values(), ids=BAD_SHAPES)
def test_bad_shapes_are_refused_until_the_user_gives_one(file, shape):
    group = h5sparse_group(file, "csr")
    group.attrs["h5sparse_shape"] = shape
    with pytest.raises(FormatError, match=r"group '/m', attribute 'h5sparse_shape'") as caught:
        formats.detect(group)
    assert file.filename in str(caught.value)
    assert len(str(caught.value)) < 400
    assert formats.detect(group, shape=DENSE.shape).shape == DENSE.shape


def test_a_huge_attribute_is_not_read():
    with h5py.File("huge.h5", "w", driver="core", backing_store=False, libver="latest") as file:
        group = h5sparse_group(file, "csr")
        del group.attrs["h5sparse_shape"]
        group.attrs["h5sparse_shape"] = np.zeros(3_000_000)
        with pytest.raises(FormatError, match=r"'h5sparse_shape': .* claims 24000000 bytes"):
            formats.detect(group)


def test_the_largest_shape_there_can_be(file):
    group = h5sparse_group(file, "csr")
    group.attrs["h5sparse_shape"] = np.array([2**63 - 1, 0], "u8")
    assert formats.detect(group).shape == (2**63 - 1, 0)


@pytest.mark.parametrize("value", [3, 2.5, np.array(["csr", "csr"], dtype=object), np.zeros(0)])
def test_a_format_tag_that_is_no_text(file, value):
    group = h5sparse_group(file, "csr")
    group.attrs["h5sparse_format"] = value
    with pytest.raises(FormatError, match="'h5sparse_format': text expected"):
        formats.detect(group)
    assert formats.is_sparse(group)  # opening it has to say so, not that there is nothing


def test_attributes_with_a_null_dataspace_count_as_absent(file):
    group = anndata_group(file, "csr")
    group.attrs["h5sparse_format"] = h5py.Empty("S1")
    group.attrs["h5sparse_shape"] = h5py.Empty("i8")
    group.attrs["MATLAB_sparse"] = h5py.Empty("u8")
    assert formats.detect(group).convention == "anndata"


# ----------------------------------------------------------------------------- h5sparse and AnnData


def test_both_tag_sets_agreeing(file):
    header = formats.detect(both_tags(file, "csc"))
    assert header == Header("csc", DENSE.shape, *PLAIN, "h5sparse+anndata")


def test_the_hybrid_that_appending_with_anndata_leaves(file):
    group = h5sparse_group(file, "csr")
    del group.attrs["h5sparse_shape"]
    group.attrs["shape"] = (7, 4)
    assert formats.detect(group) == Header("csr", (7, 4), *PLAIN, "h5sparse")


def test_anndata_with_the_shape_of_h5sparse(file):
    group = both_tags(file)
    del group.attrs["shape"]
    assert formats.detect(group).shape == DENSE.shape


def test_tags_in_conflict_on_the_format(file):
    group = both_tags(file, "csr")
    group.attrs["encoding-type"] = "csc_matrix"
    with pytest.raises(FormatError, match=r"h5sparse says csr but anndata says csc; pass format="):
        formats.detect(group)
    for format in ("csr", "csc"):
        assert formats.detect(group, format=format).format == format
    assert formats.find(file) == ["/m"]


@pytest.mark.parametrize("make", [both_tags, lambda file: h5sparse_group(file, "csr")])
def test_tags_in_conflict_on_the_shape(file, make):
    group = make(file)
    group.attrs["shape"] = (9, 4)
    with pytest.raises(
        FormatError, match=r"'h5sparse_shape' says \(3, 4\) but .*'shape' says \(9, 4\)"
    ):
        formats.detect(group)
    assert formats.detect(group, shape=(9, 4)).shape == (9, 4)


@pytest.mark.parametrize("name", ["h5sparse", "anndata"])
def test_a_missing_shape(file, name):
    group = GOLDEN[name][0](file, "csr")
    del group.attrs["h5sparse_shape" if name == "h5sparse" else "shape"]
    with pytest.raises(FormatError, match="pass shape="):
        formats.detect(group)
    assert formats.detect(group, shape=DENSE.shape).shape == DENSE.shape


@pytest.mark.parametrize("name", ["coo", "bsr", "dia", "lil", "dok"])
@pytest.mark.parametrize("ending", ["", "_matrix", "_array"])
def test_other_sparse_formats_are_refused_by_name(file, name, ending):
    for attribute, make in (("h5sparse_format", h5sparse_group), ("encoding-type", anndata_group)):
        group = make(file.create_group(attribute), "csr")
        group.attrs[attribute] = name + ending
        with pytest.raises(FormatError, match=f"{attribute}.*'{name}{ending}'.*csr and csc"):
            formats.detect(group)


@pytest.mark.parametrize("text", ["", "csrx", "matrix", "dense", "c" * 500, "c\udc80sr"])
def test_unknown_formats_are_refused_by_name(file, text):
    group = h5sparse_group(file, "csr")
    group.attrs["h5sparse_format"] = np.bytes_(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(FormatError, match="unsupported sparse format") as caught:
        formats.detect(group)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("kind", ["dict", "dataframe", "array", "anndata", 5, np.zeros(3)])
def test_other_encodings_are_no_sparse_groups(file, kind):
    group = file.create_group("g")
    group.attrs["encoding-type"] = kind
    assert not formats.is_sparse(group)
    with pytest.raises(FormatError, match="no sparse matrix"):
        formats.detect(group)


@pytest.mark.parametrize("version", ["0.2.0", "1", 1])
def test_other_encoding_versions_are_refused(file, version):
    group = anndata_group(file, "csr")
    group.attrs["encoding-version"] = version
    with pytest.raises(FormatError, match="encoding-version"):
        formats.detect(group)


@pytest.mark.parametrize("version", [None, ""])
def test_the_encoding_version_may_be_left_out(file, version):
    group = anndata_group(file, "csr")
    del group.attrs["encoding-version"]
    if version is not None:
        group.attrs["encoding-version"] = version
    assert formats.detect(group).convention == "anndata"


def test_tags_of_different_families_in_one_group(file):
    group = anndata_group(file, "csr")
    group.attrs["MATLAB_sparse"] = np.uint64(3)
    group.create_dataset("jc", data=np.zeros(5, "u8"))
    with pytest.raises(FormatError, match=r"conflict.*anndata says csr but matlab says csc"):
        formats.detect(group)
    with pytest.raises(FormatError, match=r"conflict on indices: anndata says indices but .* ir"):
        formats.detect(group, format="csr")


# ---------------------------------------------------------------------------------------- binsparse


@pytest.mark.parametrize("wrap", [True, False])
def test_binsparse_wrapped_and_flat(file, wrap):
    group = binsparse_group(file, "csc", wrap=wrap)
    assert formats.detect(group) == Header("csc", DENSE.shape, *BINSPARSE, "binsparse")


@pytest.mark.parametrize("changes", [{"version": None}, {"version": 0.1}, {"fill": False}])
def test_binsparse_variants_that_change_nothing(file, changes):
    assert formats.detect(binsparse_group(file, "csr", **changes)).format == "csr"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"version": "0.2"}, "version '0.2'"),
        ({"version": 1}, "version 1"),
        ({"format": "DCSR"}, "'DCSR'"),
        ({"format": "COO"}, "'COO'"),
        ({"format": {"level": "dense", "rank": 1}}, "dense"),
        ({"structure": "symmetric_lower"}, "'structure': 'symmetric_lower'"),
        ({"fill": True}, "'fill': True"),
        ({"swizzle": [1, 0]}, "'swizzle'"),
        ({"secret": 1}, "'secret': 1"),
        ({"shape": None}, "'shape'"),
        ({"shape": [3]}, "'shape'"),
        ({"shape": [3, -4]}, "-4"),
        ({"shape": [3, 2**63]}, "9223372036854775808"),
        ({"shape": [3, 2**200]}, "not the length"),
        ({"shape": [3, True]}, "True"),
        ({"shape": ["3", "4"]}, "'3'"),
        ({"shape": {"0": 3}}, "2 numbers"),
        ({"data_types": None}, "type of values None"),
        ({"data_types": 5}, "type of values None"),
    ],
)
def test_binsparse_refusals(file, changes, words):
    group = binsparse_group(file, "csr", **changes)
    with pytest.raises(FormatError, match="attribute 'binsparse'") as caught:
        formats.detect(group)
    assert words in str(caught.value)
    assert formats.is_sparse(group)


@pytest.mark.parametrize("missing", ["format"])
def test_binsparse_without_a_format(file, missing):
    group = binsparse_group(file, "csr")
    said = descriptor()
    del said[missing]
    group.attrs["binsparse"] = json.dumps(said)
    with pytest.raises(FormatError, match="unsupported format None"):
        formats.detect(group)


@pytest.mark.parametrize(
    "types",
    [
        {"values": "complex[float32]"},
        {"values": "iso[complex[float64]]"},
        {"values": "iso[int8"},
        {"values": "float16"},
        {"values": "string"},
        {"values": ["float32"]},
        {"values": None},
        {"indices_1": "float32"},
        {"pointers_to_1": "iso[int64]"},
        {"pointers_to_1": None},
    ],
)
def test_binsparse_types_are_refused_by_name(file, types):
    ((name, kind),) = types.items()
    group = binsparse_group(file, "csr", data_types=descriptor()["data_types"] | types)
    with pytest.raises(FormatError) as caught:
        formats.detect(group)
    assert f"unsupported type of {name} {kind!r}" in str(caught.value)


def test_binsparse_type_that_is_not_the_stored_one(file):
    group = binsparse_group(file, "csr", data_types=descriptor()["data_types"] | {"values": "int8"})
    with pytest.raises(FormatError, match="'values' has type float32, not int8"):
        formats.detect(group)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "1", '{"binsparse": 3}', "[" * 100_000, '{"shape": 1' + "0" * 9999]
)
def test_binsparse_that_is_no_descriptor(file, text):
    group = put(file.create_group("m"), "csr", BINSPARSE)
    group.attrs.create("binsparse", np.bytes_(text.encode()) if len(text) < 6e4 else text[:60_000])
    with pytest.raises(FormatError, match="attribute 'binsparse'") as caught:
        formats.detect(group)
    assert len(str(caught.value)) < 500


def test_binsparse_iso(file):
    group = binsparse_group(
        file, "csr", data_types=descriptor()["data_types"] | {"values": "iso[float32]"}
    )
    with pytest.raises(CorruptFileError, match=r"'values': one value expected \(iso\), found 4"):
        formats.detect(group)
    del group["values"]
    group.create_dataset("values", data=np.array([7], np.float32))
    header = formats.detect(group)
    assert header.iso
    assert (header.data, header.dtype) == ("values", None)


@pytest.mark.parametrize("stored", ["u1", "i1", "?"])
def test_binsparse_booleans(file, stored):
    group = binsparse_group(
        file, "csr", data_types=descriptor()["data_types"] | {"values": "bint8"}
    )
    with pytest.raises(FormatError, match="has type float32, not bool"):
        formats.detect(group)
    del group["values"]
    group.create_dataset("values", data=np.ones(4, stored))
    assert formats.detect(group).dtype == np.bool_


def test_binsparse_count_that_is_wrong(file):
    group = binsparse_group(file, "csr", number_of_stored_values=5)
    with pytest.raises(CorruptFileError, match="is 5, but dataset 'indices_1' has 4 entries"):
        formats.detect(group)
    del group["indices_1"]
    with pytest.raises(CorruptFileError, match="is 5, but dataset 'indices_1' is absent"):
        formats.detect(group)


@pytest.mark.parametrize("kind", ["uint8", "bint8", "iso[uint8]"])
@pytest.mark.parametrize("left", [(), ("values",), ("indices_1",)])
def test_binsparse_leaves_out_what_is_empty(file, kind, left):
    types = descriptor()["data_types"] | {"values": kind}
    group = binsparse_group(file, "csr", number_of_stored_values=0, data_types=types)
    for name in ("values", "indices_1"):
        del group[name]
        if name in left:
            size = 1 if name == "values" and "iso" in kind else 0
            group.create_dataset(name, data=np.zeros(size, "u1"))
    header = formats.detect(group)
    assert (header.data, header.indices, header.indptr) == (None, None, "pointers_to_1")
    assert header.dtype == (np.bool_ if kind == "bint8" else np.uint8)
    assert not header.iso


# ---------------------------------------------------------------------------------- MATLAB and h5io


def test_matlab_matrix_without_entries(file):
    group = matlab_group(file)
    del group["data"], group["ir"]
    assert formats.detect(group) == Header("csc", DENSE.shape, None, None, "jc", "matlab")


@pytest.mark.parametrize("rows", [np.array([3], "u8"), 3.0, np.int32(3)])
def test_matlab_row_numbers(file, rows):
    group = matlab_group(file)
    group.attrs["MATLAB_sparse"] = rows
    assert formats.detect(group).shape == DENSE.shape


@pytest.mark.parametrize("rows", [-1, 2.5, "3", [3, 4], True, 2**63])
def test_matlab_row_numbers_that_are_none(file, rows):
    group = matlab_group(file)
    group.attrs["MATLAB_sparse"] = np.uint64(rows) if rows == 2**63 else rows
    with pytest.raises(FormatError, match="MATLAB_sparse"):
        formats.detect(group)


def test_matlab_without_column_pointers(file):
    group = matlab_group(file)
    del group["jc"]
    with pytest.raises(CorruptFileError, match="'jc' is missing"):
        formats.detect(group)
    group.create_dataset("jc", data=np.zeros(0, "u8"))
    with pytest.raises(CorruptFileError, match="'jc' is missing or empty"):
        formats.detect(group)


def test_matlab_logical_matrix(file):
    group = matlab_group(file)
    group.attrs["MATLAB_class"] = np.bytes_(b"logical")
    assert formats.detect(group).dtype == np.bool_


def test_matlab_complex_matrix(file):
    group = matlab_group(file)
    del group["data"]
    group.create_dataset("data", data=np.zeros(4, [("real", "f8"), ("imag", "f8")]))
    assert formats.detect(group).data == "data"


@pytest.mark.parametrize("convention", ["matlab", "binsparse"])
def test_booleans_stored_as_bytes_are_read_as_booleans(tmp_path, convention):
    path = tmp_path / "logical.h5"
    with h5py.File(path, "w") as file:
        group = GOLDEN[convention][0](file, "csc")
        name = formats.detect(group).data
        del group[name]
        group.create_dataset(name, data=np.ones(4, "u1"))
        group.attrs["MATLAB_class"] = np.bytes_(b"logical")
        if convention == "binsparse":
            types = descriptor()["data_types"] | {"values": "bint8"}
            group.attrs["binsparse"] = json.dumps(descriptor("CSC", data_types=types))
    with diskcsr.open(path) as matrix:
        assert matrix.dtype == np.bool_
        for loaded in (matrix.to_memory(), matrix[:]):
            assert loaded.dtype == np.bool_
            np.testing.assert_array_equal(loaded.toarray(), DENSE != 0)
        assert matrix.data.dtype == np.bool_


def test_h5io_needs_its_group_shape(file):
    group = h5io_group(file, "csr")
    del group["shape"]["idx_1"]
    with pytest.raises(FormatError, match=r"'/m/shape'.*idx_0.*idx_1.*pass shape="):
        formats.detect(group)
    del group["shape"]
    with pytest.raises(FormatError, match="pass format= and shape="):  # now it has no mark at all
        formats.detect(group)


def test_h5io_other_formats(file):
    group = h5io_group(file, "csr")
    group.attrs["TITLE"] = "coo_matrix"
    with pytest.raises(FormatError, match="'TITLE': unsupported sparse format 'coo_matrix'"):
        formats.detect(group)


# --------------------------------------------------------------------------------- 10x and untagged


def test_square_10x_matrix_is_csc_by_convention(file):
    group = put(file.create_group("m"), "csc", dense=np.eye(3))
    group.create_dataset("shape", data=(3, 3))
    with pytest.raises(FormatError, match="fits csr and csc"):
        formats.detect(group)
    group.create_dataset("barcodes", data=[b"A", b"B", b"C"])
    assert formats.detect(group) == Header("csc", (3, 3), *PLAIN, "10x")


def test_barcodes_beside_rows_are_no_10x_matrix(file):
    group = untagged_group(file, "csr")
    group.create_dataset("barcodes", data=[b"A"] * 4)
    assert formats.detect(group) == Header("csr", DENSE.shape, *PLAIN, "untagged")


@pytest.mark.parametrize("damage", ["text", "three", "negative", "chunk", "null"])
@pytest.mark.parametrize("make", [tenx_group, untagged_group])
def test_bad_shape_datasets(file, make, damage):
    group = make(file, "csc")
    del group["shape"]
    if damage == "chunk":
        group.create_dataset("shape", (2,), "i8", chunks=(1 << 24,), maxshape=(None,))
    else:
        values = {
            "text": [b"3", b"4"],
            "three": [1, 2, 3],
            "negative": [-3, 4],
            "null": h5py.Empty("i8"),
        }
        group.create_dataset("shape", data=values[damage])
    with pytest.raises((FormatError, CorruptFileError), match=r"group '/m', dataset 'shape'"):
        formats.detect(group)
    assert not formats.is_sparse(group)
    assert formats.detect(group, shape=DENSE.shape, format="csc").shape == DENSE.shape


def test_untagged_without_a_shape(file):
    group = put(file.create_group("m"), "csr")
    with pytest.raises(FormatError, match="pass format= and shape="):
        formats.detect(group)
    with pytest.raises(FormatError, match=r"pass shape=$"):
        formats.detect(group, format="csr")
    assert formats.detect(group, shape=DENSE.shape).format == "csr"  # indptr has 4 entries
    assert formats.detect(group, shape=(5, 3)).format == "csc"
    with pytest.raises(FormatError, match=r"4 entries, which fits csr and csc .* pass format="):
        formats.detect(group, shape=(3, 3))
    with pytest.raises(FormatError, match=r"4 entries, which fits neither .* pass format="):
        formats.detect(group, shape=(8, 9))
    assert formats.detect(group, shape=(2, 9), format="csr").shape == (2, 9)
    assert formats.find(file) == []
    assert formats.describe(file).startswith("data, indices and indptr in '/m'")


def test_untagged_with_the_shape_in_an_attribute(file):
    group = put(file.create_group("m"), "csc")
    group.attrs["shape"] = DENSE.shape
    assert formats.detect(group) == Header("csc", DENSE.shape, *PLAIN, "untagged")


def test_untagged_first_rows_only(file):
    group = untagged_group(file, "csr")
    assert formats.detect(group, shape=(2, 4)).format == "csr"


# ------------------------------------------------------------------------------------- the datasets


@pytest.mark.parametrize(
    "dtype",
    [
        *("?", "i1", "u2", "i4", "u8", ">i4", ">f4", "f2", "f4", "f8", "g", "c8", "c16", ">c16"),
        [("real", "f4"), ("imag", "f4")],
        [("real", ">f8"), ("imag", ">f8")],
    ],
)
def test_types_of_data(file, dtype):
    group = h5sparse_group(file, "csr")
    del group["data"]
    group.create_dataset("data", (4,), dtype)
    assert formats.detect(group).data == "data"


ENUM = h5py.enum_dtype({"A": 0, "B": 1}, basetype="i4")


@pytest.mark.parametrize(
    "dtype",
    [
        "S3",
        h5py.string_dtype(),
        h5py.ref_dtype,
        h5py.regionref_dtype,
        h5py.vlen_dtype(np.int32),
        ENUM,
        "V8",
        [("real", "f4"), ("imag", "f8")],
        [("real", "f2"), ("imag", "f2")],
        [("real", "i4"), ("imag", "i4")],
        [("x", "f4"), ("y", "f4")],
        [("real", "f4")],
        ("f4", (2,)),
    ],
    ids=str,
)
def test_types_that_data_cannot_have(file, dtype):
    group = h5sparse_group(file, "csr")
    del group["data"]
    group.create_dataset("data", (4,), dtype)
    with pytest.raises((FormatError, CorruptFileError), match=r"dataset 'data'"):
        formats.detect(group)


@pytest.mark.parametrize("name", ["indices", "indptr"])
@pytest.mark.parametrize("dtype", ["i1", "u1", "i2", ">u2", "u4", ">i8", "u8"])
def test_types_of_indices(file, name, dtype):
    group = h5sparse_group(file, "csr")
    del group[name]
    group.create_dataset(name, (4,), dtype)
    assert formats.detect(group).convention == "h5sparse"


@pytest.mark.parametrize("name", ["indices", "indptr"])
@pytest.mark.parametrize("dtype", ["f4", "?", "c8", "S2", ENUM], ids=str)
def test_types_that_indices_cannot_have(file, name, dtype):
    group = h5sparse_group(file, "csr")
    del group[name]
    group.create_dataset(name, (4,), dtype)
    with pytest.raises(FormatError, match=rf"group '/m', dataset '{name}': integers expected"):
        formats.detect(group)


def replace_by_nothing(group, name):
    del group[name]


def replace_by_records(group, name):
    del group[name]
    group.create_dataset(name, (4,), [("r", "i4"), ("i", "f4")])


def replace_by_group(group, name):
    del group[name]
    group.create_group(name)


def replace_by_type(group, name):
    del group[name]
    group[name] = np.dtype("i4")


def replace_by_scalar(group, name):
    del group[name]
    group[name] = 3


def replace_by_table(group, name):
    del group[name]
    group[name] = np.zeros((2, 2), "i4")


def replace_by_null(group, name):
    del group[name]
    group[name] = h5py.Empty("i4")


def replace_by_soft_link(group, name):
    del group[name]
    group[name] = h5py.SoftLink("/nowhere/at/all")


def replace_by_loop(group, name):
    del group[name]
    group[name] = h5py.SoftLink(f"/m/{name}")


def replace_by_external_link(group, name):
    del group[name]
    group[name] = h5py.ExternalLink("there-is-no-such-file.h5", "/x")


DAMAGE = [value for name, value in sorted(globals().items()) if name.startswith("replace_by_")]


@pytest.mark.parametrize("damage", DAMAGE)
@every_golden
def test_damaged_parts(file, convention, format, damage):
    build, names, _ = GOLDEN[convention]
    for position, name in enumerate(names):
        group = build(file, format)
        damage(group, name)
        with pytest.raises((FormatError, CorruptFileError)) as caught:
            formats.detect(group)
        message = str(caught.value)
        assert file.filename in message
        assert "'/m'" in message
        if ROWS[convention].tagged:
            assert repr(name) in message
            assert formats.is_sparse(group)
        assert isinstance(formats.find(file), list), position
        assert formats.describe(file)
        del file["m"]


def test_nothing_stored_and_nothing_there(file):
    group = h5sparse_group(file, "csr")
    del group["data"], group["indices"]
    header = formats.detect(group)
    assert (header.data, header.indices, header.indptr) == (None, None, "indptr")
    group.create_dataset("data", (0,), ">i2")
    header = formats.detect(group)
    assert (header.data, header.indices, header.dtype) == (None, None, np.dtype("i2"))


def test_a_dataset_is_no_group(file):
    file["X"] = DENSE
    with pytest.raises(FormatError, match=r"dense dataset 'X' \(3, 4\)"):
        formats.detect(file["X"])
    assert not formats.is_sparse(file["X"])


def test_a_closed_file():
    with memory_file() as file:
        group = h5sparse_group(file, "csr")
    with pytest.raises(ClosedFileError):
        formats.detect(group)
    with pytest.raises(ClosedFileError):
        formats.find(group)
    assert not formats.is_sparse(group)


def test_the_message_lists_what_was_looked_for(file):
    file.create_group("a/b")
    with pytest.raises(FormatError) as caught:
        formats.detect(file["a"])
    message = str(caught.value)
    assert f"{file.filename}, group '/a'" in message
    assert "it has b" in message
    for row in FORMATS:
        assert f"{row.name}: {row.looks_for}" in message


# -------------------------------------------------------------------------------- find and describe


def test_find_walks_everything_once(file):
    for name in ("z", "a/b/c", "a/d"):
        h5sparse_group(file.create_group(name), "csr")
    file["a/loop"] = file["a"]
    file["a/root"] = file
    file["soft"] = h5py.SoftLink("/a")
    file["broken"] = h5py.SoftLink("/nowhere")
    file["external"] = h5py.ExternalLink("there-is-no-such-file.h5", "/x")
    file["type"] = np.dtype("f4")
    file["data"] = DENSE
    found = formats.find(file)
    assert len(found) == 3
    assert [file[name] for name in found] == sorted(
        (file["a/b/c/m"], file["a/d/m"], file["z/m"]), key=lambda group: found.index(group.name)
    )
    assert formats.find(file["a/b"]) == ["/a/b/c/m"]
    assert formats.find(file["z/m"]) == ["/z/m"]
    assert formats.find(file.create_group("empty")) == []


def test_find_sees_the_root(file):
    put(file, "csr")
    file.attrs["h5sparse_format"] = "csr"
    file.attrs["h5sparse_shape"] = DENSE.shape
    assert formats.find(file) == ["/"]


def test_find_names_tagged_groups_that_cannot_be_read(file):
    group = h5sparse_group(file, "csr")
    group.attrs["h5sparse_format"] = "coo"
    assert formats.find(file) == ["/m"]


def test_find_in_a_deep_tree(file):
    group = file
    for _ in range(1500):  # deeper than Python's stack
        group = group.create_group("g")
    h5sparse_group(group, "csr")
    assert formats.find(file) == ["/g" * 1500 + "/m"]


def test_find_leaves_names_that_are_no_utf8(file):
    h5sparse_group(h5py.Group(h5py.h5g.create(file.id, b"\xff\xfe")), "csr")
    h5sparse_group(file, "csr")
    assert formats.find(file) == ["/m"]


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda file: None, "nothing in it"),
        (lambda file: file.create_dataset("X", data=DENSE), "dense dataset 'X' (3, 4)"),
        (lambda file: h5sparse_group(file, "csr"), "a sparse matrix in '/m': give that name"),
        (lambda file: [file.create_group(f"g{i}") for i in range(3)], "g0, g1, g2"),
        (lambda file: [file.create_group(f"g{i:02}") for i in range(30)], "g10, g11, ..."),
        (lambda file: file.create_dataset("matrix", data=DENSE), "matrix"),
    ],
)
def test_describe(file, make, words):
    make(file)
    assert formats.describe(file).endswith(words)


def test_describe_what_is_no_hdf5_object():
    assert "cannot be listed" in formats.describe(None)


# -------------------------------------------------------------------------------------------- stamp


def raw_type(group, name):
    """HDF5's own type and dataspace of an attribute."""
    attribute = h5py.h5a.open(group.id, name.encode())
    return attribute.get_type(), attribute.get_space()


TAGS = {
    "both": {"h5sparse_format", "h5sparse_shape", "encoding-type", "encoding-version", "shape"},
    "h5sparse": {"h5sparse_format", "h5sparse_shape"},
    "anndata": {"encoding-type", "encoding-version", "shape"},
}


@pytest.mark.parametrize("tags", TAGS)
@pytest.mark.parametrize("format", ["csr", "csc"])
def test_stamp(file, format, tags):
    group = put(file.create_group("m"), format)
    stamp(group, Header(format, DENSE.shape, *PLAIN, "new"), tags)
    assert set(group.attrs) == TAGS[tags]
    for name in TAGS[tags] - {"h5sparse_shape", "shape"}:
        kind, space = raw_type(group, name)
        assert isinstance(kind, h5py.h5t.TypeStringID)
        assert kind.is_variable_str()
        assert kind.get_cset() == h5py.h5t.CSET_UTF8
        assert space.get_simple_extent_type() == h5py.h5s.SCALAR
        assert isinstance(group.attrs[name], str)
    for name in TAGS[tags] & {"h5sparse_shape", "shape"}:
        kind, space = raw_type(group, name)
        assert kind.equal(h5py.h5t.STD_I64LE)
        assert space.get_simple_extent_dims() == (2,)
        np.testing.assert_array_equal(group.attrs[name], DENSE.shape)
    # h5sparse compares and builds with exactly these two
    if "h5sparse_format" in group.attrs:
        assert group.attrs["h5sparse_format"] == format
    if "encoding-type" in group.attrs:
        assert group.attrs["encoding-type"] == f"{format}_matrix"
        assert group.attrs["encoding-version"] == "0.1.0"
    convention = {"both": "h5sparse+anndata"}.get(tags, tags)
    assert formats.detect(group) == Header(format, DENSE.shape, *PLAIN, convention)


@pytest.mark.parametrize("tags", TAGS)
def test_stamping_again_leaves_nothing_stale(file, tags):
    group = both_tags(file, "csc")
    group.attrs["mine"] = "kept"
    stamp(group, Header("csc", (8, 4), *PLAIN, "x"), tags)
    assert set(group.attrs) == TAGS[tags] | {"mine"}
    assert formats.detect(group).shape == (8, 4)


def test_stamp_refuses(file):
    group = matlab_group(file)
    with pytest.raises(FormatError, match="data, ir, jc"):
        stamp(group, formats.detect(group), "both")
    with pytest.raises(ValueError, match="'both', 'anndata', 'h5sparse', not 'all'"):
        stamp(group, Header("csr", DENSE.shape, *PLAIN, "x"), "all")
    assert "h5sparse_format" not in group.attrs


@pytest.mark.parametrize("tags", ["both", "anndata"])
@pytest.mark.parametrize("format", ["csr", "csc"])
def test_anndata_reads_what_is_stamped(file, format, tags):
    anndata_io = pytest.importorskip("anndata.io")
    group = put(file.create_group("m"), format)
    stamp(group, Header(format, DENSE.shape, *PLAIN, "new"), tags)
    loaded = anndata_io.read_elem(group)
    assert loaded.format == format
    assert loaded.dtype == DENSE.dtype
    np.testing.assert_array_equal(loaded.toarray(), DENSE)
    backed = anndata_io.sparse_dataset(group)
    assert (backed.format, tuple(backed.shape)) == (format, DENSE.shape)
    np.testing.assert_array_equal(backed.to_memory().toarray(), DENSE)


@pytest.mark.parametrize("format", ["csr", "csc"])
def test_what_anndata_writes_is_recognised(file, format):
    anndata_io = pytest.importorskip("anndata.io")
    anndata_io.write_elem(file, "m", BUILD[format](DENSE))
    assert formats.detect(file["m"]) == Header(format, DENSE.shape, *PLAIN, "anndata")


def test_default_tags(file):
    group = file.create_group("a/b")
    assert default_tags(group) == default_tags(file) == "both"
    file.create_group("obs")
    assert default_tags(group) == "both"
    file.create_dataset("var", data=[1])
    assert default_tags(group) == default_tags(file) == "anndata"


@pytest.mark.parametrize("place", ["/", "/mod/rna"])
def test_default_tags_inside_an_anndata_object(file, place):
    file.require_group(place).attrs["encoding-type"] = "anndata"
    group = file.require_group("/mod/rna/layers")
    assert default_tags(group) == "anndata"
    file["/mod/rna"].attrs["encoding-type"] = 5
    assert default_tags(group) == ("anndata" if place == "/" else "both")


# ------------------------------------------------------------------------------------ anything else

NAMES = [
    "h5sparse_format",
    "h5sparse_shape",
    "encoding-type",
    "encoding-version",
    "shape",
    "binsparse",
    "MATLAB_sparse",
    "MATLAB_class",
    "TITLE",
]
texts = st.sampled_from(
    [
        "csr",
        "csc",
        "csr_matrix",
        "csc_array",
        "coo",
        "0.1.0",
        "logical",
        "",
        json.dumps(descriptor()),
    ]
) | st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=5)
numbers = st.sampled_from([0, 3, 4, -1, 2**31, 2**63 - 1]) | st.integers(-(2**63), 2**63 - 1)
attribute_values = st.one_of(
    texts,
    texts.map(lambda text: np.bytes_(text.encode())),
    texts.map(lambda text: np.array([text], dtype=h5py.string_dtype())),
    st.binary(max_size=4).map(np.void).filter(lambda value: value.itemsize > 0),
    numbers,
    st.tuples(numbers, numbers).map(np.array),
    st.just(np.array([3, 4])),
    st.tuples(st.floats(), st.floats()).map(np.array),
    st.floats(),
    st.booleans(),
    st.complex_numbers(),
    st.lists(numbers, max_size=4).map(lambda values: np.array(values, dtype="i8")),
    st.sampled_from(["i4", "f8", "S3"]).map(h5py.Empty),
    st.just(np.array((1, 2.0), dtype="i4,f8")),
    st.just(np.zeros((2, 2))),
    st.just(np.array([2**63, 1], "u8")),
)
json_values = st.recursive(
    st.none() | st.booleans() | numbers | st.floats() | texts,
    lambda children: st.lists(children, max_size=3) | st.dictionaries(texts, children, max_size=3),
    max_leaves=6,
)
descriptors = st.dictionaries(
    st.sampled_from([*descriptor(), "fill", "structure", "binsparse"]), json_values, max_size=3
).map(lambda changes: json.dumps(descriptor() | changes))
parts = st.sampled_from([None, *DAMAGE])
relaxed = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def check_any_group(group, format=None, shape=None):
    """The law: an answer of the right kind, or one of two errors that say where."""
    header = problem = None
    try:
        header = formats.detect(group, format=format, shape=shape)
    except (FormatError, CorruptFileError) as raised:
        problem = raised
    if header is None:
        assert group.file.filename in str(problem)
    else:
        assert header.format in ("csr", "csc")
        assert all(type(length) is int and 0 <= length < 2**63 for length in header.shape)
        assert isinstance(group[header.indptr], h5py.Dataset)
        assert (header.data is None) == (header.indices is None)
        if shape is not None:
            assert header.shape == shape
        if format is not None:
            assert header.format == format
        assert set(header.convention.split("+")) <= set(ROWS)
    assert isinstance(formats.is_sparse(group), bool)
    assert formats.find(group.file) in ([], [group.name])
    assert isinstance(formats.describe(group), str)
    assert default_tags(group) in ("both", "anndata")


@relaxed
@given(
    convention=st.sampled_from(sorted(GOLDEN)),
    attributes=st.dictionaries(st.sampled_from(NAMES), attribute_values, max_size=4),
    damage=st.tuples(st.sampled_from([0, 1, 2]), parts),
    format=st.sampled_from([None, None, "csr", "csc"]),
    shape=st.sampled_from([None, None, (3, 4), (0, 0)]),
)
@example("h5sparse", {"h5sparse_shape": np.array([math.nan, 1])}, (0, None), None, None)
@example("untagged", {"shape": np.array([9, 9])}, (0, None), None, None)
def test_any_attributes(convention, attributes, damage, format, shape):
    build, names, _ = GOLDEN[convention]
    with memory_file() as file:
        group = build(file, "csc")
        for name, value in attributes.items():
            group.attrs[name] = value
        position, spoil = damage
        if spoil is not None:
            spoil(group, names[position])
        check_any_group(group, format, shape)


@relaxed
@given(text=descriptors | texts, names=st.sets(st.sampled_from(BINSPARSE)))
def test_any_descriptor(text, names):
    with memory_file() as file:
        group = binsparse_group(file, "csr")
        group.attrs["binsparse"] = text
        for name in names:
            del group[name]
        check_any_group(group)
