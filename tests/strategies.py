"""Hypothesis strategies: small sparse matrices of every kind, and index keys of every kind."""

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.sparse import coo_array, csc_array, csc_matrix, csr_array, csr_matrix

__all__ = [
    "DTYPES",
    "axis_keys",
    "bad_keys",
    "indptrs",
    "keys",
    "major_indices",
    "matrices",
    "outer_keys",
]

#: Every type of values that scipy.sparse takes and a file tells apart.
DTYPES = tuple(np.dtype(code) for code in "?bBhHiIlLfdgFDG")

CLASSES = {
    ("csr", False): csr_array,
    ("csc", False): csc_array,
    ("csr", True): csr_matrix,
    ("csc", True): csc_matrix,
}


# ------------------------------------------------------------------------------------ matrices


@st.composite
def matrices(
    draw, *, formats=("csr", "csc"), dtypes=DTYPES, max_side=7, canonical=None, spmatrix=False
):
    """Draw a csr or csc matrix.

    Parameters
    ----------
    formats, dtypes : sequence
        What to choose from.
    max_side : int
        Most rows and columns; zero of either, and empty rows, occur.
    canonical : bool, optional
        True: indices sorted and unique; default: either way, with explicit zeros too.
    spmatrix : bool
        The older matrix flavour.
    """
    build = CLASSES[draw(st.sampled_from(formats)), spmatrix]
    dtype = draw(st.sampled_from(dtypes))
    n_major, n_minor = draw(st.integers(0, max_side)), draw(st.integers(0, max_side))
    if canonical is None:
        canonical = draw(st.booleans())
    minor = st.integers(0, max(n_minor - 1, 0))
    lists = st.lists(minor, max_size=n_minor if canonical else 2 * n_minor, unique=canonical)
    rows = [draw(lists) if n_minor else [] for _ in range(n_major)]
    indices = np.array([i for row in rows for i in (sorted(row) if canonical else row)], np.int32)
    indptr = np.cumsum([0, *(len(row) for row in rows)], dtype=np.int32)
    # So small that sums of duplicates stay in range of every dtype.
    small = st.integers(0, 3) if dtype.kind in "bu" else st.integers(-3, 3)
    data = np.array(draw(st.lists(small, min_size=indices.size, max_size=indices.size)), np.int8)
    data = data.astype(dtype)
    if dtype.kind == "c":
        data = (data - 2j * data[::-1]).astype(dtype)
    index = draw(st.sampled_from((np.int32, np.int64)))
    shape = (n_major, n_minor) if build in (csr_array, csr_matrix) else (n_minor, n_major)
    return build((data, indices.astype(index), indptr.astype(index)), shape=shape)


@st.composite
def indptrs(draw, max_rows=12, max_length=9):
    """Draw row pointers: an int64 array that begins with 0 and does not decrease."""
    lengths = draw(st.lists(st.integers(0, max_length), max_size=max_rows))
    return np.cumsum([0, *lengths], dtype=np.int64)


def major_indices(n, max_size=20):
    """Draw lists of row numbers below `n`, in any order and repeated, as an int64 array."""
    if n == 0:
        return st.just(np.zeros(0, np.int64))
    rows = st.lists(st.integers(0, n - 1), max_size=max_size)
    # A contiguous run hidden among them is what plans are made of.
    runs = st.tuples(st.integers(0, n - 1), st.integers(0, n)).map(
        lambda run: list(range(run[0], min(run[0] + run[1], n)))
    )
    parts = st.lists(rows | runs, max_size=3)
    return parts.map(lambda lists: np.array([i for part in lists for i in part], np.int64))


# ---------------------------------------------------------------------------------------- keys


def _integers(n):
    """One index of an axis of length `n` > 0, as all the types that count as an integer."""
    kinds = (int, np.int8, np.int32, np.int64, np.uint8, np.array)
    positive = st.builds(lambda kind, i: kind(i), st.sampled_from(kinds), st.integers(0, n - 1))
    negative = st.builds(
        lambda kind, i: kind(i),
        st.sampled_from((int, np.int16, np.int64, np.array)),
        st.integers(-n, -1),
    )
    return positive | negative


def _slices(n):
    edges = st.none() | st.integers(-n - 2, n + 2)
    steps = st.sampled_from((None, None, 1, -1, 2, -2, 3, -3, n + 1, -n - 1))
    return st.builds(slice, edges, edges, steps)


def index_arrays(n, shape):
    """Index arrays of a given shape; of every integer dtype, or nested lists."""
    size = int(np.prod(shape))
    if n == 0 and size:
        return st.nothing()
    values = st.lists(st.integers(-n, max(n - 1, 0)), min_size=size, max_size=size)
    dtypes = st.sampled_from("bhilqBHQ")

    def build(numbers, dtype):
        if dtype in "BHQ":
            numbers = [number % n for number in numbers]
        return np.array(numbers, dtype=dtype).reshape(shape)

    return st.builds(build, values, dtypes)


def _lists(n):
    if n == 0:
        return st.sampled_from(([], ()))
    numbers = st.integers(-n, n - 1)
    return st.lists(numbers, max_size=n + 3) | st.lists(numbers, max_size=3).map(tuple)


def _masks(n):
    dense = hnp.arrays(np.bool_, n)
    return dense | dense.map(lambda mask: mask.tolist()) | dense.map(lambda mask: coo_array(mask))


def axis_keys(n, *, scalars=True, nested_tuples=True):
    """Everything that selects along one axis of length `n`.

    Parameters
    ----------
    scalars : bool
        Whether integers occur, which drop the axis.
    nested_tuples : bool
        Whether index lists may be tuples; a tuple alone would be a key of several parts.
    """
    arrays = st.integers(0, n + 3).flatmap(lambda size: index_arrays(n, (size,)))
    lists = _lists(n) if nested_tuples else _lists(n).map(list)
    every = _slices(n) | arrays | lists | _masks(n)
    return every | _integers(n) if scalars and n else every


@st.composite
def _point_keys(draw, shape):
    """Two index arrays that numpy broadcasts together: points, or a grid as np.ix_ makes it."""
    shapes = draw(hnp.mutually_broadcastable_shapes(num_shapes=2, min_dims=1, max_dims=2))
    return tuple(
        draw(index_arrays(n, part)) for n, part in zip(shape, shapes.input_shapes, strict=True)
    )


def _grid_keys(shape):
    one = st.integers(0, 4)
    return st.tuples(*(one.flatmap(lambda size, n=n: index_arrays(n, (size,))) for n in shape)).map(
        lambda pair: np.ix_(*pair)
    )


def _masks_2d(shape):
    dense = hnp.arrays(np.bool_, shape)
    sparse = st.builds(
        lambda mask, build: build(mask), dense, st.sampled_from((csr_array, csc_matrix, coo_array))
    )
    lists = dense.map(lambda mask: mask.tolist()) if min(shape) else st.nothing()
    return dense | sparse | lists


@st.composite
def _with_extras(draw, parts):
    """A key with an ellipsis, new axes, or both put between its parts."""
    full = list(draw(parts))
    if draw(st.booleans()):
        full.insert(draw(st.integers(0, len(full))), Ellipsis)
    for _ in range(draw(st.integers(0, 2))):
        full.insert(draw(st.integers(0, len(full))), None)
    return tuple(full) if len(full) != 1 or draw(st.booleans()) else full[0]


def keys(shape):
    """Every kind of key for a matrix of `shape`; some lead to more dimensions than two."""
    rows, cols = (axis_keys(n) for n in shape)
    single = axis_keys(shape[0], nested_tuples=False)
    blocks = st.tuples(index_arrays(shape[0], (2, 2)), _integers(shape[1])) if shape[1] else rows
    return st.one_of(
        single,
        st.tuples(rows),
        st.tuples(rows, cols),
        _point_keys(shape),
        _grid_keys(shape),
        _masks_2d(shape),
        blocks,
        _with_extras(st.tuples(rows, cols) | st.tuples(rows) | st.just(())),
    )


def outer_keys(shape):
    """Keys of ``A.oindex``: anything along each axis."""
    rows, cols = (axis_keys(n) for n in shape)
    return st.tuples(rows, cols) | axis_keys(shape[0], nested_tuples=False)


def bad_keys(shape):
    """Keys that are wrong for a matrix of `shape`, most for every matrix."""
    out_of_range = st.sampled_from([i for n in shape for i in (n, n + 1, -n - 1, -n - 7)])
    wrong = st.one_of(
        out_of_range,
        out_of_range.map(lambda i: [0, i]),
        out_of_range.map(lambda i: np.array([[i]])),
        st.sampled_from((1.0, 1.5, "a", b"X", 1j, {}, object())),
        st.sampled_from(([0.5], ["a"], [None], [[0], [1, 2]], [[[0]]])),
        st.sampled_from((np.ones(9, bool), [True] * 9, np.ones((9, 9), bool))),
        st.just(csr_array(np.ones((9, 9), bool))),
        st.just(csr_array(np.ones(shape))),
        st.just(np.zeros((1, 1, 1), int)),
    )
    fine = st.just(slice(None)) | st.just(0)
    pairs = st.tuples(wrong, fine) | st.tuples(fine, wrong)
    too_many = st.sampled_from(
        (
            (0, 0, 0),
            (slice(None),) * 3,
            (Ellipsis, Ellipsis),
            (None, None, slice(None), slice(None)),
            ([0, 1], [0, 1, 2]),
            (np.zeros((2, 2), int), slice(None)),
            (slice(None), np.zeros((2, 2), int)),
        )
    )
    return wrong | pairs | too_many
