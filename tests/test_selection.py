"""``A[key]``: every key gives what numpy gives on the dense matrix, in scipy's types.

numpy's dense indexing says which values, plain scipy which type and exception, and scipy itself is
held to what numpy gives. Where it is known not to hold (`is_strided_on_csr`, `has_floats`,
`has_new_axis`), numpy decides.
"""

import contextlib
import itertools

import numpy as np
import pytest
import scipy
from conformance.stored import write_by_hand
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal
from scipy.sparse import (
    coo_array,
    csc_array,
    csc_matrix,
    csr_array,
    csr_matrix,
    dok_array,
    issparse,
    sparray,
)
from strategies import DTYPES, bad_keys, keys, matrices, outer_keys

import diskcsr
from diskcsr.axis import CSC, CSR
from diskcsr.keys.selection import Selection, normalize, outer

LAYOUTS = ("raw", "gzip")
OLD_SCIPY = tuple(map(int, scipy.__version__.split(".")[:2])) < (1, 16)


# ------------------------------------------------------------------------------------- oracles


def dense_key(part):
    """Return a key in terms numpy knows: sparse masks dense, a bool the number scipy takes it for,
    and nothing listed without a dtype."""
    if isinstance(part, tuple):
        return tuple(map(dense_key, part))
    if isinstance(part, bool):
        return int(part)
    if issparse(part):
        return part.toarray()
    if isinstance(part, np.ndarray) and part.size == 0 and part.dtype.kind == "f":
        return part.astype(int)
    return part


def parts_of(key):
    return [part for part in (key if isinstance(key, tuple) else (key,)) if part is not Ellipsis]


def is_strided_on_csr(plain, key):
    """scipy gh-25588: an index array beside a strided slice gives an error or wrong values."""
    parts = parts_of(key)
    if plain.format != "csr" or len(parts) != 2 or not isinstance(parts[1], slice):
        return False
    return parts[1].step not in (None, 1) and np.ndim(parts[0]) > 0


def has_floats(key):
    """scipy takes index arrays of floats and drops what is behind the point."""
    for part in parts_of(key):
        with contextlib.suppress(ValueError):  # a ragged list is no array
            array = np.asarray(part)
            if array.ndim and array.size and array.dtype.kind in "fc":
                return True
    return False


def has_new_axis(key):
    """scipy may put a new axis elsewhere than numpy: beside index arrays, before 1.16 always."""
    return any(part is None for part in parts_of(key))


def means_something_else(key):
    """Whether numpy alone takes a key: sparse numbers, a mask of no dimensions."""
    return any(
        (issparse(part) and part.dtype != bool)
        or (isinstance(part, np.ndarray | np.bool_) and part.shape == () and part.dtype == bool)
        for part in parts_of(key)
    )


def outcome(matrix, key):
    """Return ``matrix[key]`` and None, or None and the exception."""
    try:
        return matrix[key], None
    except Exception as problem:
        return None, problem


def check_key(disk, plain, key, dense=None):
    """Assert that ``disk[key]`` is what it should be, result or exception."""
    dense = plain.toarray() if dense is None else dense
    want, refused = outcome(plain, key)
    by_numpy, no_numpy = outcome(dense, dense_key(key))
    got, problem = outcome(disk, key)
    if means_something_else(key):
        by_numpy, no_numpy = None, refused
    elif has_floats(key):
        assert isinstance(no_numpy, IndexError)
        assert is_error(problem, refused), f"{key!r}: {problem!r}"
        return
    elif is_strided_on_csr(plain, key) and np.ndim(by_numpy) == 2:
        want, refused = type(plain)(by_numpy), None
    elif has_new_axis(key) and OLD_SCIPY:
        check_new_axis_by_numpy(got, problem, plain, want, refused, by_numpy)
        return
    elif has_new_axis(key) and isinstance(plain, sparray) and refused is None:
        want = want if want.shape == by_numpy.shape else want.reshape(by_numpy.shape)
    assert type(problem) is type(refused), f"{key!r}: {problem!r}, not {refused!r}"
    if refused is None:
        check_same(got, want)
        if no_numpy is None:
            flat = isinstance(plain, sparray)
            check_values(got, by_numpy if flat else by_numpy.reshape(got.shape))
    else:
        # Such a key means nothing to numpy either, or more than two dimensions; but numpy lets
        # pass what is out of range beside a list of none.
        assert no_numpy is not None or np.ndim(by_numpy) > 2 or by_numpy.size == 0


def is_error(problem, refused):
    """Whether something is an IndexError, or an exception as scipy's."""
    return isinstance(problem, IndexError | type(refused)) and problem is not None


def check_new_axis_by_numpy(got, problem, plain, by_scipy, refused, by_numpy):
    """Assert that a result is numpy's, whatever scipy makes of the key; scipy's type counts."""
    if by_numpy is None or np.ndim(by_numpy) > 2:
        assert is_error(problem, refused)
        return
    assert problem is None
    assert refused is not None or issparse(got) == issparse(by_scipy)
    check_values(got, by_numpy if isinstance(plain, sparray) else by_numpy.reshape(got.shape))


def check_values(got, want):
    """Assert that a result holds what numpy has, in its dtype and shape."""
    assert got.dtype == want.dtype
    assert got.shape == want.shape
    assert_array_equal(got.toarray() if issparse(got) else got, want)


def check_same(got, want):
    """Assert that two results are alike in type, format, shape, dtype and every entry."""
    assert type(got) is type(want)
    assert got.shape == want.shape
    assert got.dtype == want.dtype
    if issparse(want):
        assert got.format == want.format
        if got.format in ("csr", "csc"):
            got.check_format(full_check=True)
            assert got.indices.dtype == got.indptr.dtype
        assert_array_equal(got.toarray(), want.toarray())
    else:
        assert_array_equal(got, want)


# ---------------------------------------------------------------- every kind of key, every array


def unsorted_with_duplicates(build, dtype=np.float64):
    """A matrix of shape (4, 5) or (5, 4) with everything in it that scipy allows."""
    indptr = [0, 3, 3, 8, 9]
    indices = [4, 0, 2, 3, 1, 3, 0, 3, 2]
    data = np.array([1, 2, 3, 4, 5, 6, 0, 7, 8]).astype(dtype)
    shape = (4, 5) if "csr" in build.__name__ else (5, 4)
    return build((data, indices, indptr), shape=shape)


FLAVOURS = (csr_array, csc_array, csr_matrix, csc_matrix)


@pytest.fixture(
    scope="module",
    params=itertools.product(FLAVOURS, LAYOUTS),
    ids=lambda pair: f"{pair[0].__name__}-{pair[1]}",
)
def example_pair(request, tmp_path_factory):
    """One matrix, on disk and in memory, for each flavour and layout."""
    build, layout = request.param
    plain = unsorted_with_duplicates(build)
    path = tmp_path_factory.mktemp("selection") / "m.h5"
    write_by_hand(path, plain, layout)
    with diskcsr.open(path, spmatrix=not isinstance(plain, sparray)) as disk:
        yield disk, plain, plain.toarray()


def some_slices(n):
    """Slices of every kind; in all of them every range a slice of this axis can select."""
    edges = (None, 0, 1, 3, n, n + 2, -1, -2, -n, -n - 2)
    steps = (None, 1, 2, n + 1, -1, -2, -n - 1)
    chosen = {}
    for edge in itertools.product(edges, edges, steps):
        part = slice(*edge)
        chosen.setdefault((range(*part.indices(n)), part.step in (None, 1)), part)
    return list(chosen.values())


def one_of_each(n):
    """One key of each kind for an axis of length 4 or 5."""
    mask = np.arange(n) % 3 != 1
    return [
        0,
        -n,
        n - 1,
        np.int64(2),
        np.uint8(3),
        np.array(1),
        np.array(-2, np.int16),
        True,
        slice(None),
        slice(1, 3),
        slice(None, None, 2),
        slice(None, None, -1),
        slice(-2, None, -2),
        slice(3, 1),
        [],
        [2],
        [0, 1, 2],
        [3, 0, 3, -1],
        (1, -1),
        [np.int64(2), np.uint8(0)],
        np.array([], dtype=np.int64),
        np.array([], dtype=np.float64),
        np.array([2, 0], dtype=np.int8),
        np.array([1, 1, 0, 3], dtype=np.uint64),
        np.array([-1, -n], dtype=np.int16),
        np.arange(n)[::-2],
        np.arange(n, dtype=">i4"),
        mask,
        ~mask,
        np.zeros(n, bool),
        mask.tolist(),
        list(mask),
        coo_array(mask),
        csr_array(~mask),
        np.array([[0, 2], [-1, 1]]),
        [[1], [0]],
        np.zeros((0, 3), int),
    ]


def test_slices(example_pair):
    disk, plain, dense = example_pair
    for rows in some_slices(plain.shape[0]):
        check_key(disk, plain, rows, dense)
    for cols in some_slices(plain.shape[1]):
        check_key(disk, plain, (slice(None), cols), dense)


def test_one_key_alone(example_pair):
    disk, plain, dense = example_pair
    for part in one_of_each(plain.shape[0]):
        if not isinstance(part, tuple):
            check_key(disk, plain, part, dense)
        check_key(disk, plain, (part,), dense)
        check_key(disk, plain, (part, ...), dense)


def test_every_kind_of_row_with_every_kind_of_column(example_pair):
    disk, plain, dense = example_pair
    n_rows, n_cols = plain.shape
    for rows, cols in itertools.product(one_of_each(n_rows), one_of_each(n_cols)):
        check_key(disk, plain, (rows, cols), dense)


def test_every_element(example_pair):
    disk, plain, dense = example_pair
    m, n = plain.shape
    for i, j in itertools.product(range(-m - 1, m + 2), range(-n - 1, n + 2)):
        check_key(disk, plain, (i, j), dense)


def test_grids(example_pair):
    disk, plain, dense = example_pair
    lists = ([], [1], [2, 0], [3, 3, -1], [0, 1, 2, 3])
    for rows, cols in itertools.product(lists, lists):
        check_key(disk, plain, np.ix_(rows, cols), dense)
    mask = np.arange(plain.shape[0]) != 1
    check_key(disk, plain, np.ix_(mask, [2, 0]), dense)


def test_broadcasting_pairs(example_pair):
    disk, plain, dense = example_pair
    shapes = ((1,), (3,), (1, 1), (1, 3), (2, 1), (2, 3), (3, 1), (0,), (0, 1), (1, 0), (2,))
    for rows, cols in itertools.product(shapes, shapes):
        row = np.arange(np.prod(rows)).reshape(rows) * 3 % 4
        col = np.arange(np.prod(cols)).reshape(cols) * 2 % 4 - 4
        check_key(disk, plain, (row, col), dense)


def masks_of(plain):
    """Boolean masks of the whole matrix, dense, listed and sparse."""
    dense = plain.toarray() > 2
    yield from (dense, dense.tolist(), np.zeros_like(dense), np.ones_like(dense))
    yield from (build(dense) for build in (csr_array, csc_array, coo_array, csr_matrix, dok_array))
    yield plain > 2
    # A stored entry that is false.
    yield coo_array(([True, False, True], ([0, 1, 2], [0, 1, 3])), shape=plain.shape)


def test_masks_of_the_whole_matrix(example_pair):
    disk, plain, dense = example_pair
    with np.errstate(all="raise"):
        for mask in masks_of(plain):
            check_key(disk, plain, mask, dense)
            check_key(disk, plain, (mask,), dense)
            check_key(disk, plain, (mask, ...), dense)
            check_key(disk, plain, (None, mask), dense)
    for wrong in (dense[:-1] > 2, dense[:, :-1] > 2, dense.T > 2, csr_array(dense)):
        check_key(disk, plain, wrong, dense)


def test_a_mask_that_is_on_disk(example_pair, store):
    disk, plain, dense = example_pair
    mask = (csr_array if plain.format == "csr" else csc_array)(dense > 2)
    for layout in LAYOUTS:
        on_disk = store(mask, layout=layout)
        assert isinstance(on_disk, diskcsr.DiskCSR | diskcsr.DiskCSC)
        check_key(disk, plain, on_disk, dense)
        assert_array_equal(disk[on_disk], dense[dense > 2].reshape(disk[on_disk].shape))
        check_key(disk, plain, on_disk.T, dense)  # the wrong shape


def test_ellipsis(example_pair):
    disk, plain, dense = example_pair
    parts = (0, -1, slice(None), slice(1, 3), [2, 0], np.array([True, False] * 5)[:4])
    for row in (..., (...,), (..., ...)):
        check_key(disk, plain, row, dense)
    for part in parts:
        for key in ((..., part), (part, ...), (..., part, ...)):
            check_key(disk, plain, key, dense)
        for other in (0, slice(None, None, 2), [1, 1]):
            for key in ((..., part, other), (part, ..., other), (part, other, ...)):
                check_key(disk, plain, key, dense)


def test_new_axes(example_pair):
    disk, plain, dense = example_pair
    parts = (0, -1, slice(None), slice(3, 0, -2), [2, 0, 2], [1], np.array([[0, 1], [1, 0]]))
    singles = [(part,) for part in parts]
    for full in [(), (...,), *singles, *itertools.product(parts, parts)]:
        for count in (1, 2, 3):
            for places in itertools.combinations_with_replacement(range(len(full) + 1), count):
                key = list(full)
                for place in reversed(places):
                    key.insert(place, None)
                check_key(disk, plain, tuple(key), dense)
    check_key(disk, plain, None, dense)


def test_keys_that_are_wrong(example_pair):
    disk, plain, dense = example_pair
    m, n = plain.shape
    wrong = [m, -m - 1, [0, m], [-m - 1], np.array([[m]]), 1.0, 1.5, np.float32(1), "a", b"X", 1j]
    wrong += [{}, object(), [0.5], ["a"], [None], [[0], [1, 2]], [[[0]]], np.zeros((1, 1, 1), int)]
    wrong += [np.ones(m + 1, bool), [True] * (m - 1), np.array(True), np.True_, False]
    wrong += [np.array([1.0, 2.0]), np.array(1.0), np.array(["a"]), np.array([1 + 0j])]
    wrong += [csr_array(np.eye(m)), csr_array(np.arange(m)), csr_matrix(np.ones((1, m), bool))]
    for part in wrong:
        for key in (part, (part,), (part, 0), (part, slice(None)), (part, [0])):
            check_key(disk, plain, key, dense)
        for key in ((0, part), (slice(None), part), ([0], part), (..., part), (None, part)):
            check_key(disk, plain, key, dense)
    for key in ((0, 0, 0), (slice(None),) * 3, (0, n), ([0, 1], [0, 1, 2]), (..., 0, 0, 0)):
        check_key(disk, plain, key, dense)
    assert disk[0, 0] == dense[0, 0]  # it is none the worse for it


def test_an_index_error_says_what_is_wrong(example_pair):
    disk, plain, _ = example_pair
    with pytest.raises(IndexError, match="out of range"):
        disk[plain.shape[0]]
    with pytest.raises(IndexError, match="single ellipsis"):
        disk[..., ...]
    with pytest.raises(IndexError, match=r"shape \(\d, \d\) with an array of float64 with shape"):
        disk[np.array([0.5])]


# ------------------------------------------------------------------- any matrix, any such key


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("drawn")


@contextlib.contextmanager
def on_disk(folder, plain, layout):
    """`plain`, written by h5py and opened."""
    path = folder / "drawn.h5"
    write_by_hand(path, plain, layout)
    with diskcsr.open(path, spmatrix=not isinstance(plain, sparray)) as disk:
        yield disk


@given(data=st.data(), layout=st.sampled_from(LAYOUTS), spmatrix=st.booleans())
@settings(max_examples=200)
def test_any_key_of_any_matrix(folder, data, layout, spmatrix):
    plain = data.draw(matrices(spmatrix=spmatrix))
    with on_disk(folder, plain, layout) as disk:
        for key in data.draw(st.lists(keys(plain.shape), min_size=1, max_size=4)):
            check_key(disk, plain, key)


@given(data=st.data(), layout=st.sampled_from(LAYOUTS), spmatrix=st.booleans())
def test_any_wrong_key_of_any_matrix(folder, data, layout, spmatrix):
    plain = data.draw(matrices(dtypes=[np.dtype("f")], spmatrix=spmatrix))
    with on_disk(folder, plain, layout) as disk:
        for key in data.draw(st.lists(bad_keys(plain.shape), min_size=1, max_size=4)):
            check_key(disk, plain, key)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_dtype(store, dtype, layout):
    for build in (csr_array, csc_array):
        plain = unsorted_with_duplicates(build, dtype)
        disk = store(plain, layout=layout)
        assert disk.dtype == dtype
        for key in (0, slice(1, 3), [2, 0, 2], ([0, 2], [1, 3]), (2, 3), plain.toarray() != 0):
            check_key(disk, plain, key)
        for key in ([], slice(0, 0), (slice(3, 3), 0), ([], []), ([], slice(1)), plain != plain):
            check_key(disk, plain, key)
            assert disk[key].dtype == dtype


@pytest.mark.parametrize("shape", [(0, 0), (0, 3), (3, 0), (1, 1)])
@pytest.mark.parametrize("build", FLAVOURS)
def test_matrices_without_rows_columns_or_entries(store, build, shape):
    plain = build(shape, dtype=np.float32)
    disk = store(plain, spmatrix=not isinstance(plain, sparray))
    everything = (slice(None), slice(None, None, -1), slice(0, 1), [], [0], [-1], 0, ..., None)
    for key in itertools.product(everything, everything):
        check_key(disk, plain, key)
    for key in everything:
        check_key(disk, plain, key)
    for mask in (np.ones(shape, bool), np.zeros(shape, bool), plain != 0):
        check_key(disk, plain, mask)
    check_key(disk, plain, np.ones(shape[0], bool))


# --------------------------------------------------------------------- where scipy itself is wrong


@pytest.mark.parametrize("layout", LAYOUTS)
def test_scipy_gh_25588(store, layout):
    plain = csr_array(np.arange(1, 31).reshape(5, 6))
    disk = store(plain, layout=layout)
    dense = plain.toarray()
    for rows in ([0, 1], [3], [], [4, 0, 0, -1], np.array([2, 1]), dense[:, 0] > 7, [0, 1, 2]):
        for cols in (
            slice(None, None, 2),
            slice(5, None, -3),
            slice(None, None, 6),
            slice(0, 0, 2),
        ):
            for got, want in (
                (disk[rows, cols], dense[rows, cols]),
                (disk.T[cols, rows], dense.T[cols, rows]),
            ):
                assert type(got) in (csr_array, csc_array)
                check_values(got, want)


def test_new_axes_go_where_numpy_puts_them(store):
    dense = np.arange(20).reshape(4, 5)
    for build in (csr_array, csc_array):
        disk = store(build(dense))
        points = ([2, 0, 1], [4, 4, 0])
        for key in (
            (0, None),  # scipy before 1.16 puts it last
            (None, 0),
            (None, slice(None), 1),
            (0, slice(None, None, 2), None),
            (None, *points),  # all scipys put this one last
            (None, dense > 7),
            (*points, None),
            (points[0], None, points[1]),
            (None, [3, 1, 3], 2),
            (0, None, [3, 1, 3]),
            (None, 0, [3, 1, 3]),
            (None, ..., 0, 0, None),
        ):
            check_values(disk[key], dense[key])


def test_an_ellipsis_beside_a_mask_of_the_whole_matrix(store):
    dense = np.arange(20).reshape(4, 5)
    disk = store(csr_array(dense))
    mask = dense % 3 == 1
    for key in ((mask, ...), (..., mask), (csr_array(mask), ...), (..., mask.tolist())):
        check_values(disk[key], dense[mask])
    with pytest.raises(IndexError, match="single ellipsis"):
        disk[..., mask, ...]


def test_index_arrays_of_floats_are_refused(store):
    disk = store(csr_array(np.eye(4)))
    for part in ([0.5], np.array([1.0, 2.0]), np.array([[1.0]]), [1 + 0j]):
        for key in (part, (part, 0), (0, part), (slice(None), part), ([0], part)):
            with pytest.raises(IndexError):
                disk[key]
    assert disk[np.array([])].shape == (0, 4)  # numpy refuses this one; scipy, and so we, do not


# ------------------------------------------------------------------------------------- oindex


def outer_by_numpy(dense, rows, cols):
    """``dense[np.ix_(rows, cols)]``, where numbers drop their axis and slices may stand."""
    rows, cols = (
        list(part) if isinstance(part, tuple) else dense_key(part) for part in (rows, cols)
    )
    return dense[:, cols][rows]


def check_outer(disk, plain, rows, cols):
    dense = plain.toarray()
    got = disk.oindex[rows, cols]
    want = outer_by_numpy(dense, rows, cols)
    check_values(got, want if isinstance(plain, sparray) else want.reshape(got.shape))
    if want.ndim == 2:
        assert type(got) is type(plain)


def test_outer_indexing(example_pair):
    disk, plain, dense = example_pair
    m, n = plain.shape
    for rows, cols in itertools.product(one_of_each(m), one_of_each(n)):
        if max(np.ndim(dense_key(rows)), np.ndim(dense_key(cols))) > 1:
            with pytest.raises(IndexError, match="one dimension"):
                disk.oindex[rows, cols]
        else:
            check_outer(disk, plain, rows, cols)
    lists = ([], [1], [2, 0], [3, 3, -1])
    for rows, cols in itertools.product([*lists, np.arange(m) > 1], [*lists, np.arange(n) != 2]):
        got = disk.oindex[rows, cols]
        assert type(got) is type(plain)
        check_values(got, dense[np.ix_(rows, cols)])
    check_values(disk.oindex[[2, 0]], dense[[2, 0]])
    check_values(disk.oindex[..., [2, 0]], dense[:, [2, 0]])
    check_values(disk.oindex[...], dense)


@given(data=st.data(), layout=st.sampled_from(LAYOUTS))
def test_outer_indexing_of_any_matrix(folder, data, layout):
    plain = data.draw(matrices())
    with on_disk(folder, plain, layout) as disk:
        for key in data.draw(st.lists(outer_keys(plain.shape), min_size=1, max_size=4)):
            rows, cols = key if isinstance(key, tuple) else (key, slice(None))
            check_outer(disk, plain, rows, cols)


def test_outer_indexing_that_is_wrong(example_pair):
    disk, plain, _ = example_pair
    m, n = plain.shape
    for key in (
        m,
        (0, n),
        ([0, m], 0),
        ([0], [-n - 1]),
        (0, 0, 0),
        (None, 0),
        (..., ...),
        (np.ones(m + 1, bool), 0),
        np.ones((m, n), bool),
        (1.5, 0),
        ([0.5], 0),
        ("a", 0),
        ([[0, 1]], [0]),
        ([0], [[0, 1]]),
    ):
        with pytest.raises(IndexError, match="oindex"):
            disk.oindex[key]


# ------------------------------------------------------------------ a Selection and what is read


def carry_out(selection, dense, axis):
    """Do what a Selection says with nothing but a dense matrix."""
    major_first = dense if axis.major == 0 else dense.T
    block = major_first[np.asarray(selection.majors, dtype=np.int64)]
    if selection.points is not None:
        asked = np.zeros(block.shape, bool)
        ptr, minor = selection.points
        for i in range(block.shape[0]):
            asked[i, minor[ptr[i] : ptr[i + 1]]] = True
        block = np.where(asked, block, 0)  # no other entry may be needed
    if selection.wanted is not None:
        block = block[:, np.asarray(selection.wanted, dtype=np.int64)]
    result = axis.array(block if axis.major == 0 else block.T)
    return result if selection.finish is None else selection.finish(result)


def check_selection(selection, shape, axis):
    """Assert what the reading side relies on."""
    assert isinstance(selection, Selection)
    n_major, n_minor = axis.swap(shape)
    stored, wanted = selection.majors, selection.wanted
    for part, length in ((stored, n_major), (wanted, n_minor)):
        assert part is None or isinstance(part, range) or part.dtype == np.int64
        assert part is None or all(0 <= i < length for i in part)
    if wanted is not None:
        assert all(np.diff(np.asarray(wanted)) > 0)
        # Rows are filtered as they are read: none may come twice.
        assert len(set(stored)) == len(stored)
    if selection.points is not None:
        ptr, minor = selection.points
        assert ptr.dtype == minor.dtype == np.int64
        assert (ptr[0], ptr[-1], ptr.size) == (0, minor.size, len(stored) + 1)
        assert all(np.all(np.diff(minor[a:b]) >= 0) for a, b in itertools.pairwise(ptr))


@given(data=st.data(), axis=st.sampled_from((CSR, CSC)), shape=st.tuples(*[st.integers(0, 5)] * 2))
@settings(max_examples=200)
def test_a_selection_is_all_that_is_needed(data, axis, shape):
    dense = np.arange(1, 1 + shape[0] * shape[1]).reshape(shape)
    plain = axis.array(dense)
    key = data.draw(keys(shape))
    try:
        selection = normalize(key, shape, axis)
    except (IndexError, ValueError) as problem:
        with pytest.raises(type(problem)):
            plain[key]
        return
    check_selection(selection, shape, axis)
    got = carry_out(selection, dense, axis)
    check_values(got, dense[dense_key(key)])


@given(data=st.data(), axis=st.sampled_from((CSR, CSC)), shape=st.tuples(*[st.integers(0, 5)] * 2))
def test_an_outer_selection_is_all_that_is_needed(data, axis, shape):
    dense = np.arange(1, 1 + shape[0] * shape[1]).reshape(shape)
    key = data.draw(outer_keys(shape))
    selection = outer(key, shape, axis)
    check_selection(selection, shape, axis)
    rows, cols = key if isinstance(key, tuple) else (key, slice(None))
    check_values(carry_out(selection, dense, axis), outer_by_numpy(dense, rows, cols))


@pytest.mark.parametrize("build", [csr_array, csc_array])
def test_no_more_is_read_than_the_rows_that_count(store, build):
    # 40 rows of 5,000 elements: further apart than what is read across gaps.
    dense = np.ones((40, 5000), np.float32)
    major = dense if build is csr_array else dense.T
    disk = store(build(major), by="diskcsr")
    swap = (lambda a, b: (a, b)) if build is csr_array else (lambda a, b: (b, a))
    mask = np.zeros(major.shape, bool)
    mask[swap([5, 25], [0, 4999])] = True
    every = slice(None)
    for key, rows in (
        (swap(7, 3), 1),
        (swap(-1, every), 1),
        (swap(7, slice(2, 9, 3)), 1),
        (swap([3, 9, 3, 3], every), 2),
        (swap(slice(None, None, 10), every), 4),
        (swap(slice(30, None, -10), [0, 1]), 4),
        (swap(slice(5, 8), 0), 3),
        (swap([30, 10, 30], [1, 2, 1]), 2),
        (swap(np.array([[30], [10]]), np.array([[1, 2, 1]])), 2),
        (swap([0, 39], slice(None, None, -2)), 2),
        (swap([], every), 0),
        (swap(slice(3, 3), every), 0),
        (swap(np.zeros(40, bool), every), 0),
        (swap(every, 17), 40),
        (mask, 2),
    ):
        before = {name: disk.reader[name].bytes_read for name in ("indices", "data")}
        disk[key]
        read = {name: disk.reader[name].bytes_read - before[name] for name in before}
        assert read["indices"] == rows * 5000 * 4, key
        assert read["data"] <= rows * 5000 * 4, key  # of one value nothing else need be read
