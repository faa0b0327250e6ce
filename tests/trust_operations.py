"""What is done to untrusted files, and the judgement of what came out.

Run in the test's own process and, for files whose bytes were changed at random, in processes of
their own: ``python trust_operations.py judge`` reads file names from standard input and prints one
verdict each, ``python trust_operations.py index`` looks at damaged indexes alone, and ``python
trust_operations.py h5py`` only has h5py read them. So a crash ends that
process and nothing else, and it is known whose crash it is.
"""

import filecmp
import sys
import traceback
import warnings
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import h5py
import numpy as np
from scipy.sparse import csr_array, issparse
from slow_reader import Refused, Slow, Unreadable, read_slowly

#: A longer minor axis is legal, but its dense form is not for a test.
LONGEST = 10**5


@dataclass(frozen=True)
class Keys:
    """What the operations select; in range of a matrix of `shape`."""

    shape: tuple[int, int]
    i: int
    j: int
    rows: np.ndarray
    columns: np.ndarray
    mask: np.ndarray
    major: int = 0

    @property
    def lines(self) -> np.ndarray:
        """Rows of a CSR, columns of a CSC."""
        return (self.rows, self.columns)[self.major]


def make_keys(shape: tuple[int, int], seed: int, major: int = 0) -> Keys:
    """Choose keys; rows and columns come unordered, repeated, and from either end."""
    rng = np.random.default_rng(seed)
    rows, columns = (
        rng.integers(-n, n, size=5 if n else 0).astype(np.int64) for n in (shape[0], shape[1])
    )
    if 0 in shape:
        rows = columns = np.zeros(0, np.int64)
    i, j = (int(rng.integers(n)) if n else 0 for n in shape)
    return Keys(shape, i, j, rows, columns, rng.random(shape[0]) < 0.5, major)


def plain(result: Any) -> np.ndarray:
    return result.toarray() if issparse(result) else np.asarray(result)


@dataclass(frozen=True)
class Operation:
    """One thing a user does.

    Attributes
    ----------
    run : callable
        ``(matrix, keys) -> array``; also run on the dense matrix, which gives the right answer.
    rows, columns : callable or None
        ``keys -> row (column) numbers`` that are looked at; None for all.
    exact : bool
        Whether the result has the dtype of the values.
    """

    name: str
    run: Callable[[Any, Keys], Any]
    rows: Callable[[Keys], Any] | None = None
    columns: Callable[[Keys], Any] | None = None
    exact: bool = True

    def lines(self, slow: Slow, keys: Keys) -> list[int]:
        """Major indices that it cannot do without; none where nothing can be stored."""
        if 0 in slow.shape:
            return []
        chosen = (self.rows, self.columns)[slow.major]
        n = slow.shape[slow.major]
        some = range(n) if chosen is None else chosen(keys)
        return sorted({int(k) % n for k in some})


def _rebuilt(matrix: Any, keys: Keys) -> Any:
    if isinstance(matrix, np.ndarray):
        return matrix
    arrays = matrix.data, matrix.indices, matrix.indptr
    return matrix._scipy_class(arrays, shape=matrix.shape).toarray()


def _blocks(matrix: Any, keys: Keys) -> Any:
    if isinstance(matrix, np.ndarray):
        return matrix
    parts = [block.toarray() for _, block in matrix.iter_blocks(max_bytes=40)]
    axis = 0 if isinstance(matrix, csr_array) else 1
    return np.concatenate(parts, axis) if parts else np.zeros(matrix.shape, matrix.dtype)


def _nonzeros(matrix: Any, keys: Keys) -> Any:
    if isinstance(matrix, np.ndarray):
        return np.count_nonzero(matrix, axis=0)
    return matrix.count_nonzero(axis=0)


def _on_diagonal(keys: Keys) -> range:
    return range(min(keys.shape))


def _weights(n: int) -> np.ndarray:
    return np.arange(1, n + 1)


OPERATIONS = [
    Operation("A[i, j]", lambda A, k: A[k.i, k.j], lambda k: [k.i], lambda k: [k.j]),
    Operation("A[i]", lambda A, k: A[k.i], lambda k: [k.i]),
    Operation("A[rows]", lambda A, k: A[k.rows], lambda k: k.rows),
    Operation("A[:, columns]", lambda A, k: A[:, k.columns], None, lambda k: k.columns),
    Operation(
        "A[rows, columns]", lambda A, k: A[k.rows, k.columns], lambda k: k.rows, lambda k: k.columns
    ),
    Operation(
        "A[ix]",
        lambda A, k: A[np.ix_(k.rows, k.columns)],
        lambda k: k.rows,
        lambda k: k.columns,
    ),
    Operation("A[mask]", lambda A, k: A[k.mask], lambda k: np.flatnonzero(k.mask)),
    Operation("A[1::2]", lambda A, k: A[1::2], lambda k: range(1, k.shape[0], 2)),
    Operation("A[:]", lambda A, k: A[:]),
    Operation("iter_blocks", _blocks),
    Operation("toarray", lambda A, k: A if isinstance(A, np.ndarray) else A.toarray()),
    Operation("T", lambda A, k: A.T),
    Operation("tocsc", lambda A, k: A if isinstance(A, np.ndarray) else A.tocsc()),
    Operation("arrays", _rebuilt),
    Operation("A @ x", lambda A, k: A @ _weights(k.shape[1]), exact=False),
    Operation("x @ A", lambda A, k: _weights(k.shape[0]) @ A, exact=False),
    Operation("A @ D", lambda A, k: A @ np.eye(k.shape[1], 3), exact=False),
    Operation("A.T @ D", lambda A, k: A.T @ np.eye(k.shape[0], 3), exact=False),
    Operation("2 * A", lambda A, k: 2 * A, exact=False),
    Operation("tocoo", lambda A, k: A if isinstance(A, np.ndarray) else A.tocoo()),
    Operation("sum", lambda A, k: A.sum(), exact=False),
    Operation("sum(0)", lambda A, k: A.sum(axis=0), exact=False),
    Operation("sum(1)", lambda A, k: A.sum(axis=1), exact=False),
    Operation("max", lambda A, k: A.max()),
    Operation("max(0)", lambda A, k: A.max(axis=0)),
    Operation("min(1)", lambda A, k: A.min(axis=1)),
    Operation("count_nonzero", _nonzeros, exact=False),
    Operation("diagonal", lambda A, k: A.diagonal(), _on_diagonal, _on_diagonal),
]
_SCALARS = ("A[i, j]", "A[i]", "max", "max(0)", "min(1)")
_SUMS = ("A @ x", "x @ A", "A @ D", "A.T @ D", "2 * A", "sum", "sum(0)", "sum(1)")


def judge(operation: Operation, outcome: Any, slow: Slow, keys: Keys) -> str | None:
    """Return what is wrong with the outcome of an operation; None when it is right.

    `outcome` is an array, or the exception that was raised.
    """
    import diskcsr

    if isinstance(outcome, BaseException):
        if slow.may_fail and isinstance(outcome, diskcsr.CorruptFileError | diskcsr.FormatError):
            return None
        trace = "".join(traceback.format_exception(outcome))
        return (
            f"{operation.name} raised on {'a broken' if slow.may_fail else 'a good'} file: {trace}"
        )
    return compare(operation, outcome, slow, keys)


def compare(operation: Operation, outcome: Any, slow: Slow, keys: Keys) -> str | None:
    """Return what is wrong with the array that an operation gave; None when it is right."""
    lines = operation.lines(slow, keys)
    if not slow.whole(lines):
        if operation.name.startswith("sum") and all(slow.pointed):
            # To add up what is stored, nobody needs to know where it is.
            return None if outcome.sum() == sum(slow.totals) else f"{operation.name}: {outcome!r}"
        return f"{operation.name} gave {outcome!r} from lines that contradict themselves"
    expected = plain(operation.run(slow.dense(lines), keys))
    if outcome.shape != expected.shape:
        return f"{operation.name} has shape {outcome.shape}, not {expected.shape}"
    if not np.array_equal(outcome, expected, equal_nan=slow.dtype.kind in "fc"):
        return f"{operation.name} gave {outcome!r}, not {expected!r}"
    if operation.exact and outcome.dtype != slow.dtype:
        return f"{operation.name} has dtype {outcome.dtype}, not {slow.dtype}"
    return None


def applies(operation: Operation, slow: Slow, keys: Keys) -> bool:
    if 0 in slow.shape and operation.name in _SCALARS:
        return False
    # As dense, a boolean entry that is stored twice counts once; in a sum, twice.
    return not (slow.repeated and slow.dtype.kind == "b" and operation.name in _SUMS)


def _attempt(operation: Operation, matrix: Any, keys: Keys) -> Any:
    try:
        return plain(operation.run(matrix, keys))
    except Exception as problem:
        return problem


def _judge_nnz(path: Any, slow: Slow, **how: Any) -> str | None:
    import diskcsr

    with diskcsr.open(path, "X", **how) as matrix:
        try:
            nnz = matrix.nnz
        except diskcsr.CorruptFileError as problem:
            return None if slow.may_fail else f"nnz raised {problem}"
    if slow.lines and not slow.pointed[-1]:
        return f"nnz is {nnz}, from row pointers that contradict themselves"
    return None if not slow.lines or nnz == slow.nnz else f"nnz is {nnz}, not {slow.nnz}"


def check_file(path: Any, seed: int, original: Any = None) -> str | None:
    """Do all operations on a file; return what is wrong with the outcome, None when nothing is.

    `original` is the file before it was changed. What that one holds is right, too: HDF5 cannot
    read some arrays that are there (it asks for a valid level of compression), and reads what lies
    in its memory for others (a chunk of which the index says that it takes no bytes).
    """
    import diskcsr

    try:
        slow = _read(path)
    except Unreadable as problem:
        return _check_refused(path, problem, None if original is None else _read(original))
    except Refused as refusal:
        return _check_refused(path, refusal, None)
    except Exception as problem:  # HDF5 itself cannot open it
        return _check_refused(path, problem, None, OSError, KeyError)
    slow.damaged = original is not None and not filecmp.cmp(path, original, shallow=False)
    keys = make_keys(slow.shape, seed)
    if verdict := _judge_nnz(path, slow):
        return verdict
    if max(slow.shape) > LONGEST:
        return _check_entry(path, slow, keys)
    chosen = [op for op in OPERATIONS if applies(op, slow, keys)]
    with diskcsr.options.set(memory_budget=1 << 26):
        verdict = _check_handles(path, chosen, slow, keys)
        if verdict and original is not None and (before := _read(original)).shape == slow.shape:
            before.damaged = slow.damaged
            return verdict if _check_handles(path, chosen, before, keys) else None
        return verdict


def _check_entry(path: Any, slow: Slow, keys: Keys) -> str | None:
    """One entry, of a matrix that is too long to be made dense."""
    import diskcsr

    if 0 in slow.shape:
        return None
    entry = (keys.i, keys.j)
    line = slow.lines[entry[slow.major]]
    with diskcsr.open(path, "X") as matrix:
        try:
            value = matrix[entry]
        except diskcsr.CorruptFileError as problem:
            return None if slow.may_fail else f"A{list(entry)} raised {problem}"
    if line is None:
        return f"A{list(entry)} gave {value} from a line that contradicts itself"
    expected = sum(stored for j, stored in line if j == entry[1 - slow.major])
    return None if value == expected else f"A{list(entry)} is {value}, not {expected}"


def _check_handles(path: Any, chosen: list, slow: Slow, keys: Keys) -> str | None:
    """Each operation on a handle of its own, then all on one, in that order or the other."""
    import diskcsr

    for operation in chosen:
        with diskcsr.open(path, "X") as matrix:
            outcome = _attempt(operation, matrix, keys)
        if verdict := judge(operation, outcome, slow, keys):
            return verdict
    with diskcsr.open(path, "X") as matrix:
        for operation in chosen if keys.i % 2 else chosen[::-1]:
            outcome = _attempt(operation, matrix, keys)
            if verdict := judge(operation, outcome, slow, keys):
                return f"after others on the same handle: {verdict}"
    return None


def _read(path: Any) -> Slow:
    with h5py.File(path, "r") as file:
        return read_slowly(file["X"])


def _check_refused(
    path: Any, refusal: Exception, original: Slow | None, *allowed: type
) -> str | None:
    """A file that is no sparse matrix must be refused when opened, or at the latest when read."""
    import diskcsr

    ours = (diskcsr.CorruptFileError, diskcsr.FormatError, *allowed)
    try:
        with diskcsr.open(path, "X") as matrix:
            read = matrix[:].toarray()
            rebuilt = _rebuilt(matrix, None)
    except ours:
        return None
    except Exception as problem:
        return f"refused ({refusal!r}) with {''.join(traceback.format_exception(problem))}"
    if original is not None and np.array_equal(read, original.dense()):
        return None if np.array_equal(read, rebuilt) else f"{read!r} and {rebuilt!r}"
    return f"{read!r} was read although {refusal!r}"


def _arrays_of(matrix: Any) -> list[np.ndarray]:
    return [np.array(part) for part in (matrix.data, matrix.indices, matrix.indptr)]


def _read_by_h5reader(path: Any) -> list[np.ndarray]:
    import diskcsr

    with open(path, "rb") as raw, h5py.File(raw, "r") as file:
        return _arrays_of(diskcsr.open(file, "X").to_memory())


def _read_directly(path: Any, how: Callable[[Any], Any]) -> list[np.ndarray]:
    import diskcsr

    with diskcsr.open(path, "X") as matrix:
        return _arrays_of(how(matrix))


def check_index(path: Any, original: Any) -> str | None:
    """Read a file whose chunk index was damaged in every way there is; None when all is well.

    The values are those of the original, or an error says that they cannot be had. An index may
    have lost a chunk without a trace: then `check` must say that nobody wrote it.
    """
    import diskcsr
    from diskcsr import check

    expected = _read_directly(original, lambda matrix: matrix.to_memory())
    for read in (
        lambda: _read_directly(path, lambda matrix: matrix.to_memory()),
        lambda: _read_directly(path, lambda matrix: matrix),
        lambda: _read_directly(path, lambda matrix: matrix[np.arange(matrix.shape[0])]),
        lambda: _read_by_h5reader(path),
    ):
        try:
            found = read()
        except (diskcsr.DiskCSRError, OSError):
            continue
        pairs = zip(found, expected, strict=True)
        if all(a.dtype == b.dtype and np.array_equal(a, b) for a, b in pairs):
            continue
        report = check(path, isolated=False)
        if "never-written" not in {problem.kind for problem in report.problems}:
            return f"{found} was read, and not {expected}; {report}"
    return None


def read_by_h5py(path: Any) -> None:
    """Have HDF5 look at all that there is in a file, whatever comes of it."""
    with suppress(Exception):
        _read(path)
    with suppress(Exception), h5py.File(path, "r") as file:
        file.visititems(lambda name, found: None)
        for found in [file, *file.values(), *file["X"].values()]:
            with suppress(Exception):
                dict(found.attrs)
                found.id.get_create_plist()
                found.id.get_storage_size()
                found.id.get_offset()
                found.id.chunk_iter(lambda info: None)


def main(role: str) -> None:
    """Read lines "path original seed" and print, for each, ``ok`` or what is wrong."""
    warnings.simplefilter("ignore")  # of numpy and scipy, about the numbers found
    for line in sys.stdin:
        path, original, seed = line.split()
        verdict: str | None = None
        try:
            if role == "judge":
                verdict = check_file(path, int(seed), original)
            elif role == "index":
                verdict = check_index(path, original)
            else:
                read_by_h5py(path)
        except BaseException:
            verdict = traceback.format_exc()
        print(repr(verdict or "ok"), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
