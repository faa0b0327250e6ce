"""What can be stored: which arguments are one matrix, which are blocks, and which blocks fit."""

import numpy as np
import pytest
from scipy.sparse import coo_array, csc_array, csc_matrix, csr_array, csr_matrix

import diskcsr
from diskcsr.axis import CSC, CSR
from diskcsr.writing.matrices import axis_for, blocks_of, check_block, in_memory

EYE = np.eye(2)


@pytest.mark.parametrize(
    "given",
    [
        EYE,
        [[1, 0], [0, 2]],
        ((1, 0), (0, 2)),
        [1, 2, 3],
        [np.ones(2), np.ones(2)],
        csr_array(EYE),
        coo_array(EYE),
        csc_matrix(EYE),
        np.float64(3),
        range(4),
        "name",
        b"name",
        5,
        None,
    ],
)
def test_one_matrix(given):
    assert blocks_of(given) is None


@pytest.mark.parametrize(
    ("given", "shapes"),
    [
        ([], []),
        ((), []),
        (iter(()), []),
        ([EYE], [(2, 2)]),
        ([csr_array(EYE), EYE, csr_matrix(EYE)], [(2, 2)] * 3),
        ([np.ones(2), np.ones(3)], [(2,), (3,)]),
        ([np.ones(2), EYE], [(2,), (2, 2)]),
        ((row for row in EYE), [(2,), (2,)]),
        (iter([csr_array(EYE)]), [(2, 2)]),
        (iter([1, 2, 3]), [(3,)]),
        (map(float, "123"), [(3,)]),
        ([[[1, 2]], [[3, 4], [5, 6]]], [(1, 2), (2, 2)]),
    ],
)
def test_blocks(given, shapes):
    assert [np.shape(block) for block in blocks_of(given)] == shapes


def test_the_first_block_is_not_lost_nor_asked_for_twice():
    asked = []

    def blocks():
        for i in range(3):
            asked.append(i)
            yield np.full((1, 2), i)

    found = blocks_of(blocks())
    assert asked == [0]
    assert [block[0, 0] for block in found] == [0, 1, 2]


@pytest.mark.parametrize("axis", [CSR, CSC], ids=["csr", "csc"])
def test_blocks_in_memory(axis, tmp_path):
    line = np.array([0.0, 5, 0])
    across = line.reshape(axis.swap((1, -1)))
    stored = csr_array(np.arange(9.0).reshape(3, 3))
    with diskcsr.write(tmp_path / "m.h5", stored) as disk:
        given = [line, line.tolist(), coo_array(line), across, csc_array(across), disk, disk.T]
        found = list(in_memory(given, axis))
    assert [number for number, _ in found] == list(range(7))
    for _, block in found:
        assert block.format == axis.format
        assert not hasattr(block, "filename")
    for _, block in found[:5]:
        assert np.array_equal(block.toarray(), across)
    assert np.array_equal(found[5][1].toarray(), stored.toarray())
    assert np.array_equal(found[6][1].toarray(), stored.toarray().T)


def test_a_matrix_on_disk_comes_in_parts(tmp_path, monkeypatch):
    monkeypatch.setattr("diskcsr.writing.matrices.BLOCK_BYTES", 100)
    plain = csr_array(np.arange(1.0, 401).reshape(40, 10))
    with diskcsr.write(tmp_path / "m.h5", plain) as disk:
        found = list(in_memory([plain[:1], disk], CSR))
        assert [number for number, _ in found] == [0] + [1] * 40
        assert np.array_equal(
            np.vstack([block.toarray() for _, block in found[1:]]), plain.toarray()
        )
        whole = list(in_memory([disk.T], CSR))
        assert [block.shape for _, block in whole] == [(10, 40)]


@pytest.mark.parametrize("wrong", [5, None, "abc", np.ones((1, 1, 3)), [["a", "b"]]])
def test_what_is_no_block(wrong):
    with pytest.raises(ValueError, match=r"cannot store|only matrices"):
        list(in_memory([wrong], CSR))


def test_blocks_that_do_not_fit():
    block = csr_array(np.ones((2, 3)))
    check_block(block, "it", CSR, 3, np.dtype("f4"), "the first")
    check_block(block, "it", CSR, 5, np.dtype("f4"), "the first", grow=True)
    check_block(csc_array(block), "it", CSC, 2, np.dtype("c8"), "the first")
    with pytest.raises(
        ValueError, match=r"it has shape \(2, 3\): 3 columns, where the first has 5"
    ):
        check_block(block, "it", CSR, 5, np.dtype("f4"), "the first")
    with pytest.raises(ValueError, match=r"it has shape \(2, 3\): 2 rows, where the first has 5"):
        check_block(csc_array(block), "it", CSC, 5, np.dtype("f4"), "the first")
    with pytest.raises(
        TypeError, match=r"it: cannot cast float64 to int32, the dtype of the first"
    ):
        check_block(block, "it", CSR, 3, np.dtype("i4"), "the first")


def test_the_format_to_write():
    assert axis_for(csc_array(EYE), None) is CSC
    assert axis_for(csc_array(EYE), "csr") is CSR
    assert axis_for(coo_array(EYE), None) is CSR
    assert axis_for(EYE, None) is CSR
    with pytest.raises(ValueError, match="format must be 'csr' or 'csc'"):
        axis_for(EYE, "coo")


def test_write_and_append_take_the_same_blocks(tmp_path):
    blocks = [csr_array(EYE), EYE, csc_array(2 * EYE), np.ones((1, 2))]
    expected = np.vstack([np.asarray(getattr(b, "toarray", lambda b=b: b)()) for b in blocks])
    with diskcsr.write(tmp_path / "w.h5", iter(blocks)) as written:
        assert np.array_equal(written.toarray(), expected)
    diskcsr.write(tmp_path / "a.h5", csr_array((0, 2))).close()
    with diskcsr.open(tmp_path / "a.h5", mode="r+") as appended:
        appended.append(iter(blocks))
        assert np.array_equal(appended.toarray(), expected)
        assert appended.dtype == written.dtype


@pytest.mark.parametrize(("format", "shape"), [("csr", (0, 3)), ("csc", (3, 0))])
def test_a_block_on_disk_without_lines_tells_the_number_of_columns(tmp_path, format, shape):
    empty = csr_array(shape, dtype="f4").asformat(format)
    with diskcsr.write(tmp_path / "m.h5", empty) as A:
        B = diskcsr.write(tmp_path / "n.h5", [A], format=format)
        assert (B.shape, B.format, B.dtype, B.nnz) == (shape, format, A.dtype, 0)
        B.close()
