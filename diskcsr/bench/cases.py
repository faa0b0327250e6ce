"""The operations: what is asked, the right answer, and how the two are compared."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..axis import CSR
from .source import Matrix, digest, row_marks

__all__ = ["CASES", "GROUPS", "Case", "equal", "expected", "touched"]

BATCH = 256
SINGULAR_VALUES = 10


@dataclass(frozen=True)
class Case:
    """An operation.

    Attributes
    ----------
    title, method : str
        For people; of adapters.
    draw : function of (rng, shape)
        Draws a fresh key.
    calls : int
        How many calls a repeat makes; the time is that of one.
    block : int
        Of minibatches, how many neighbouring rows stay together.
    long : bool
        Whether it takes so long that it is measured only when asked for.
    """

    title: str
    method: str
    draw: Callable[[np.random.Generator, tuple[int, int]], Any]
    calls: int = 1
    block: int = 1
    long: bool = False


def _rows(rng: np.random.Generator, shape: tuple[int, int]) -> Any:
    return rng.choice(shape[0], min(1024, shape[0]), replace=False)


def _runs(rng: np.random.Generator, shape: tuple[int, int]) -> Any:
    starts = rng.integers(0, max(1, shape[0] - 63), min(16, shape[0]))
    return np.minimum(starts[:, None] + np.arange(64), max(0, shape[0] - 1)).reshape(-1)


def _mask(rng: np.random.Generator, shape: tuple[int, int]) -> Any:
    mask = np.zeros(shape[0], bool)
    mask[rng.choice(shape[0], min(shape[0], max(1, shape[0] // 50)), replace=False)] = True
    return mask


def _scalars(rng: np.random.Generator, shape: tuple[int, int]) -> Any:
    return np.stack([rng.integers(0, n, 4 if min(shape) else 0) for n in shape], 1)


def _columns(rng: np.random.Generator, shape: tuple[int, int]) -> Any:
    return rng.choice(shape[1], min(100, shape[1]), replace=False)


def _nothing(rng: np.random.Generator, shape: tuple[int, int]) -> Any:
    return None


def _vector(rng: np.random.Generator, shape: tuple[int, int]) -> Any:
    return rng.standard_normal(shape[1])


def _row_vector(rng: np.random.Generator, shape: tuple[int, int]) -> Any:
    return rng.standard_normal(shape[0])


def _dense(rng: np.random.Generator, shape: tuple[int, int]) -> Any:
    return rng.standard_normal((shape[1], 50))


def _singular(rng: np.random.Generator, shape: tuple[int, int]) -> Any:
    return max(0, min(SINGULAR_VALUES, min(shape) - 1))


def _seed(rng: np.random.Generator, shape: tuple[int, int]) -> Any:
    return int(rng.integers(1 << 30))


#: By the name given to ``--ops``.
CASES = {
    "rows": Case("1,024 random rows", "rows", _rows),
    "runs": Case("16 runs of 64 rows", "runs", _runs),
    "mask": Case("2 % boolean mask", "mask", _mask),
    "scalar": Case("one element", "scalar", _scalars, 4),
    "columns": Case("100 random columns", "columns", _columns),
    "load": Case("full load", "load", _nothing),
    "sums": Case("sums of rows and columns", "sums", _nothing),
    "matvec": Case("product with a vector", "matvec", _vector),
    "rmatvec": Case("product of the transpose with a vector", "rmatvec", _row_vector),
    "matmat": Case("product with 50 columns", "matvec", _dense),
    "gram": Case("A.T @ (A @ D), 50 columns", "gram", _dense),
    "describe": Case("mean, variance, least, largest of columns", "describe", _nothing),
    "svds": Case("10 largest singular values", "svds", _singular, long=True),
    "minibatches": Case("an epoch of batches of random rows", "minibatches", _seed),
    "blocks": Case("an epoch of batches of 64-row blocks", "minibatches", _seed, block=64),
    "write": Case("write", "write", _nothing),
}

#: Operations that are asked for by one name.
GROUPS = {
    "compute": ["sums", "describe", "matvec", "rmatvec", "matmat", "gram", "svds"],
    "all": list(CASES),
}


def run(case: Case, adapter: Any, key: Any, keep: bool = False) -> Any:
    """Do the operation; of minibatches return marks of the rows when they are kept."""
    method = getattr(adapter, case.method)
    if case.method == "scalar":
        return [method(int(i), int(j)) for i, j in key]
    if case.method == "minibatches":
        batches = method(BATCH, key, case.block)
        if keep:
            return np.concatenate([row_marks(batch) for batch in batches])
        return sum(batch.shape[0] for batch in batches)
    return method() if key is None else method(key)


def expected(case: Case, matrix: Matrix, key: Any) -> Any:
    """Return the right answer in the form `summary` gives."""
    if case.method in ("rows", "runs"):
        return digest(matrix.take(0, key), CSR)
    if case.method == "mask":
        return digest(matrix.take(0, np.flatnonzero(key)), CSR)
    if case.method == "columns":
        return digest(matrix.take(1, key), CSR)
    if case.method in ("load", "write"):
        return digest(matrix.blocks(), matrix.axis)
    if case.method == "scalar":
        return [matrix.take(0, np.array([i]))[[0], [j]].tolist()[0] for i, j in key.tolist()]
    if case.method in ("sums", "describe"):
        return [values.tolist() for values in getattr(matrix, case.method)()]
    if case.method == "matvec":
        return matrix.matvec(key).tolist()
    if case.method == "rmatvec":
        return matrix.rmatvec(key).tolist()
    if case.method == "gram":
        return matrix.rmatvec(matrix.matvec(key)).tolist()
    if case.method == "svds":
        return matrix.singular_values(key).tolist()
    marks = [row_marks(block) for _, block in matrix.blocks()]
    return np.sort(np.concatenate(marks)).tolist()


def equal(case: Case, got: Any, right: Any, matrix_axis: Any) -> bool:
    """Whether an answer is the right one: exactly, or of sums and products to rounding."""
    if case.method in ("rows", "runs", "mask", "columns"):
        return digest(got, CSR) == right
    if case.method in ("load", "write"):
        return digest(got, matrix_axis) == right
    if case.method == "minibatches":
        return np.sort(got).tolist() == right
    if case.method == "scalar":
        return [np.asarray(value).tolist() for value in got] == right
    several = case.method in ("sums", "describe")
    pairs = zip(got, right, strict=True) if several else [(got, right)]
    for answer, wanted in pairs:
        answer, wanted = np.asarray(answer).reshape(-1), np.asarray(wanted).reshape(-1)
        scale = float(np.abs(wanted).max(initial=0))
        if answer.shape != wanted.shape or not np.allclose(answer, wanted, 1e-4, 1e-5 * scale):
            return False
    return True


def touched(case: Case, matrix: Matrix, key: Any) -> int:
    """Bytes of stored values and indices that an answer cannot do without."""
    if case.method in ("rows", "runs", "mask", "scalar") and matrix.axis.major == 0:
        rows = np.flatnonzero(key) if case.method == "mask" else key
        rows = rows[:1, 0] if case.method == "scalar" else rows
        lengths = np.diff(matrix.indptr)[rows]
        return int(lengths.sum()) * matrix.entry_bytes
    if case.method == "columns" and matrix.axis.major == 0:
        return matrix.nnz * int(matrix.indices.dtype.itemsize)
    return matrix.nbytes
