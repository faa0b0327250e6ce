"""The table of what is done to a file: one row for each operation of the public face."""

import contextlib
import fcntl
import io
import os
import pickle
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp
from slow_reader import Slow
from trust_operations import OPERATIONS, Keys, Operation

__all__ = ["EVERY", "FAULTY", "ROWS", "Place", "Row"]


@dataclass
class Place:
    """Where an operation works: on a file of its own, in a folder of its own."""

    path: Path
    keys: Keys
    mode: str = "r"

    @property
    def out(self) -> Path:
        """A new file, for what is made."""
        return self.path.with_name("out.h5")

    def open(self, mode: str | None = None) -> Any:
        import diskcsr

        return diskcsr.open(self.path, "X", mode=mode or self.mode)


@dataclass(frozen=True)
class Row:
    """One operation.

    Attributes
    ----------
    kind : {"read", "look", "change", "make"}
        "read" looks at a matrix that is open; "look" takes the path and makes up its own mind;
        "change" changes the file; "make" makes another one, ``out.h5``.
    run : callable
        Of "read" ``(matrix, keys) -> array``; of the others it takes a `Place`.
    operation : Operation or None
        Of "read": what it needs, and what is right.
    right : callable or None
        Of "look" ``(what was returned, slow) -> bool``; of the others ``(dense, keys) -> dense``,
        what is then in the file. None where there is nothing to compare.
    group : str
        Where in the file that is.
    anew : bool
        Whether that is written by the library, whatever convention was there.
    slow : bool
        Whether it starts processes of its own.
    """

    name: str
    kind: str
    run: Callable[..., Any]
    operation: Operation | None = None
    right: Callable[..., Any] | None = None
    group: str = "X"
    anew: bool = False
    slow: bool = field(default=False, compare=False)


# ------------------------------------------------------------------------------------- that read


def _dense(matrix: Any) -> bool:
    return isinstance(matrix, np.ndarray) or not hasattr(matrix, "reader")


def _batches(matrix: Any, keys: Keys) -> Any:
    if _dense(matrix) or not matrix.shape[keys.major]:
        return matrix[:]
    parts = list(matrix.batches(3 + matrix.shape[keys.major] // 50))
    return sp.vstack(parts) if keys.major == 0 else sp.hstack(parts)


def _shuffled(matrix: Any, keys: Keys) -> Any:
    if _dense(matrix) or not matrix.shape[keys.major]:
        return matrix[:]
    size = 2 + matrix.shape[keys.major] // 50
    pairs = list(matrix.batches(size, shuffle=True, rng=keys.i, return_rows=True))
    order = np.argsort(np.concatenate([rows for rows, _ in pairs]))
    parts = [block for _, block in pairs]
    if keys.major == 0:
        return sp.vstack(parts, format="csr")[order]
    return sp.hstack(parts, format="csc")[:, order]


def _fetch(matrix: Any, keys: Keys) -> Any:
    if not _dense(matrix):
        return matrix.fetch(keys.lines)
    return matrix[keys.rows] if keys.major == 0 else matrix[:, keys.columns]


def _fetch_twice(matrix: Any, keys: Keys) -> Any:
    import diskcsr

    if _dense(matrix):
        return _fetch(matrix, keys)
    buffers = diskcsr.Buffers()
    matrix.fetch(keys.lines[::-1], out=buffers)
    return matrix.fetch(keys.lines, out=buffers)


def _refreshed(matrix: Any, keys: Keys) -> Any:
    if not _dense(matrix):
        matrix.refresh()
    return matrix[:]


def _pickled(matrix: Any, keys: Keys) -> Any:
    if _dense(matrix):
        return matrix[:]
    other = pickle.loads(pickle.dumps(matrix))
    found = other[:]
    if not _dense(other):  # what was handed out goes by value
        other.close()
    return found


def _rows_of(matrix: Any, keys: Keys) -> Any:
    if _dense(matrix) or not matrix.shape[0]:
        return matrix[:]
    return np.array([row.toarray() for row in matrix])


def _shown(matrix: Any, keys: Keys) -> Any:
    """What notebooks and consoles ask for."""
    if not _dense(matrix):
        for text in (repr(matrix), matrix._repr_html_(), repr(matrix.reader)):
            assert isinstance(text, str)
    return np.array([matrix.shape])


def _counted(matrix: Any, keys: Keys) -> Any:
    return matrix.nnz


def _weights(n: int, columns: int = 2) -> np.ndarray:
    return np.arange(1.0, n * columns + 1).reshape(n, columns)


def _reading(name: str, run: Callable[[Any, Keys], Any], **how: Any) -> Row:
    return Row(name, "read", run, Operation(name, run, **how))


def _some(k: Keys) -> Any:
    return k.rows


def _crossed(k: Keys) -> Any:
    """The rows, and the columns, that the diagonal goes through."""
    return range(min(k.shape))


def _others(k: Keys) -> Any:
    return k.columns


_READING = [
    *[Row(one.name, "read", one.run, one) for one in OPERATIONS],
    _reading("fetch", _fetch, rows=_some, columns=_others),
    _reading("fetch, out=", _fetch_twice, rows=_some, columns=_others),
    _reading("batches", _batches),
    _reading("batches, shuffled", _shuffled),
    _reading("iteration", _rows_of),
    _reading("refresh", _refreshed),
    _reading("pickle", _pickled),
    _reading("oindex", lambda A, k: A[np.ix_(k.rows, k.columns)] if _dense(A) else
             A.oindex[k.rows, k.columns], rows=_some, columns=_others),
    _reading("A[::-1]", lambda A, k: A[::-1]),
    _reading("A[:, j]", lambda A, k: A[:, k.j], columns=lambda k: [k.j]),
    _reading("A[:, mask]", lambda A, k: A[:, np.arange(k.shape[1]) % 2 == 0],
             columns=lambda k: range(0, k.shape[1], 2)),
    _reading("A[rows][:, columns]", lambda A, k: A[k.rows][:, k.columns], rows=_some),
    _reading("to_memory", lambda A, k: A[:] if _dense(A) else A.to_memory()),
    _reading("copy", lambda A, k: A.copy()),
    _reading("astype", lambda A, k: A.astype(np.complex128), exact=False),
    _reading("abs", lambda A, k: abs(A), exact=False),
    _reading("2 * A", lambda A, k: 2 * A, exact=False),
    _reading("A + A", lambda A, k: A + A, exact=False),
    _reading("multiply", lambda A, k: A.multiply(A), exact=False),
    _reading("A > 0", lambda A, k: A > 0, exact=False),
    _reading("sum(1)", lambda A, k: A.sum(axis=1), exact=False),
    _reading("mean(0)", lambda A, k: A.mean(axis=0), exact=False),
    _reading("max(1)", lambda A, k: A.max(axis=1), exact=False),
    _reading("min", lambda A, k: A.min(), exact=False),
    _reading("argmax", lambda A, k: A.argmax(axis=0), exact=False),
    _reading("count_nonzero", lambda A, k: A.count_nonzero(), exact=False),
    _reading("diagonal", lambda A, k: A.diagonal(), exact=False, rows=_crossed, columns=_crossed),
    _reading("A @ D", lambda A, k: A @ _weights(k.shape[1]), exact=False),
    _reading("A.T @ D", lambda A, k: A.T @ _weights(k.shape[0]), exact=False),
    _reading("A @ A.T", lambda A, k: A @ A.T, exact=False),
    _reading("tocoo", lambda A, k: A.tocoo(), exact=False),
    _reading("str", lambda A, k: np.array([len(str(A)) > 0]), exact=False),
]  # fmt: skip


# -------------------------------------------------------------------------------------- that look


def _info(place: Place) -> Any:
    import diskcsr

    for matrix in diskcsr.info(place.path)["matrices"]:
        if matrix["name"] == "/X":
            return matrix["error"], matrix.get("shape"), matrix.get("nnz")
    return "none", None, None


def _info_right(found: Any, slow: Slow) -> bool:
    error, shape, nnz = found
    return bool(error) or (tuple(shape) == slow.shape and (nnz == slow.nnz or slow.broken))


def _check(place: Place, **how: Any) -> Any:
    import diskcsr

    report = diskcsr.check(place.path, "X", **how)
    kinds = sorted({problem.kind for problem in report.problems})
    assert "crash" not in kinds or how.get("isolated", True), report
    errors = [problem for problem in report.problems if problem.severity == "error"]
    return not errors, kinds, str(report)


def _check_right(found: Any, slow: Slow) -> bool:
    ok, _, _ = found
    return not (ok and slow.broken)


def _command(*words: str) -> Callable[[Place], Any]:
    def run(place: Place) -> Any:
        from diskcsr.__main__ import main

        names = {"FILE": str(place.path), "OUT": str(place.out)}
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            code = main([names.get(word, word) for word in words])
        assert code in (0, 1, 2), code
        return code

    return run


# --------------------------------------------------------------------- that change, and that make


def more_lines(matrix: Any, major: int) -> Any:
    """Two lines to append: one entry, and none."""
    n = matrix.shape[1 - major]
    count = min(n, 1)
    arrays = np.ones(count, matrix.dtype), np.zeros(count, np.int64), np.array([0, count, count])
    if major == 0:
        return sp.csr_array(arrays, shape=(2, n))
    return sp.csc_array(arrays, shape=(n, 2))


def _append(place: Place) -> None:
    with place.open("r+") as A:
        A.append(more_lines(A, place.keys.major))


def _append_blocks(place: Place) -> None:
    with place.open("r+") as A:
        more = more_lines(A, place.keys.major)
        A.append(iter([more, more]))


def _appended(times: int) -> Callable[[np.ndarray, Keys], np.ndarray]:
    def right(dense: np.ndarray, keys: Keys) -> np.ndarray:
        more = more_lines(dense, keys.major).toarray()
        return np.concatenate([dense] + [more] * times, keys.major)

    return right


def _assign(place: Place) -> None:
    with place.open("r+") as A:
        some = A[:]
        some.data = some.data * some.data
        A[:] = some


def _scale(place: Place) -> None:
    with place.open("r+") as A:
        A *= 2


def _use_file(place: Place) -> bool:
    import diskcsr

    with diskcsr.File(place.path, "r+") as file:
        there = sp.issparse(found := file["X"])
        if there:
            file["Y"] = found[:]
        file["y"] = np.arange(5)
        for name in file:
            assert name in file
    return there


def _write_beside(place: Place) -> None:
    import diskcsr

    with place.open("r") as A:
        whole = A.to_memory()
    diskcsr.write(place.path, whole, "Y", chunks=16).close()


def _replace(place: Place) -> None:
    import diskcsr

    diskcsr.write(place.path, sp.eye_array(3, format="csr"), "X", overwrite=True).close()


def _repair(place: Place) -> Any:
    import diskcsr

    return diskcsr.check(place.path, "X", repair=True).ok


def _save(place: Place) -> None:
    with place.open("r") as A:
        A.save(place.out, chunks=16).close()


def _save_turned(place: Place) -> None:
    with place.open("r") as A:
        A.save(place.out, format=("csc", "csr")[place.keys.major], compression="gzip").close()


def _convert(**how: Any) -> Callable[[Place], None]:
    def run(place: Place) -> None:
        import diskcsr

        if how.get("max_memory"):
            from diskcsr.streams.transpose import Memory

            least = Memory.least(min(max(place.keys.shape), 10**6))
            diskcsr.convert(place.path, place.out, source_name="X", format="csc", max_memory=least)
            return
        diskcsr.convert(place.path, place.out, source_name="X", **how).close()

    return run


def _concat(**how: Any) -> Callable[[Place], None]:
    def run(place: Place) -> None:
        import diskcsr

        diskcsr.concat([(place.path, "X"), (place.path, "X")], place.out, **how).close()

    return run


def _virtually(place: Place) -> None:
    _concat(virtual=True, axis=place.keys.major)(place)


def _write_out(place: Place) -> None:
    import diskcsr

    with place.open("r") as A:
        diskcsr.write(place.out, A, compression="zstd").close()


def _write_blocks(place: Place) -> None:
    import diskcsr

    with place.open("r") as A:
        most = 100 + 20 * max(A.shape)
        blocks = (block for _, block in A.iter_blocks(max_bytes=most)) if 0 not in A.shape else [A]
        diskcsr.write(place.out, blocks, format=("csr", "csc")[place.keys.major]).close()


def _same(dense: np.ndarray, keys: Keys) -> np.ndarray:
    return dense


_OTHERS = [
    Row("info", "look", _info, right=_info_right),
    Row("check", "look", lambda place: _check(place, isolated=False), right=_check_right),
    Row("check, apart", "look", _check, right=_check_right, slow=True),
    Row("diskcsr info", "look", _command("info", "FILE", "--deep")),
    Row("diskcsr check", "look", _command("check", "FILE", "--json"), slow=True),
    Row("diskcsr convert", "make", _command("convert", "FILE", "OUT", "--name", "X", "--json")),
    Row("diskcsr bench", "look", _command("bench", "FILE", "X", "--list"), slow=True),
    Row("append", "change", _append, right=_appended(1)),
    Row("append blocks", "change", _append_blocks, right=_appended(2)),
    Row("assign", "change", _assign, right=lambda dense, keys: dense * dense),
    Row("scale", "change", _scale, right=lambda dense, keys: dense * 2),
    Row("File", "change", _use_file, right=_same, group="Y"),
    Row("write a group", "change", _write_beside, right=_same, group="Y"),
    Row("overwrite", "change", _replace, right=lambda dense, keys: np.eye(3), anew=True),
    Row("check --repair", "change", _repair, right=_same, slow=True),
    Row("save", "make", _save, right=_same),
    Row("save, turned", "make", _save_turned, right=_same),
    Row("write", "make", _write_out, right=_same),
    Row("write blocks", "make", _write_blocks, right=_same),
    Row("convert", "make", _convert(), right=_same),
    Row("convert, csc", "make", _convert(format="csc"), right=_same),
    Row("convert, spilling", "make", _convert(max_memory=True), right=_same),
    Row("concat", "make", _concat(), right=lambda dense, keys: np.concatenate([dense, dense])),
    Row(
        "concat, axis=1",
        "make",
        _concat(axis=1),
        right=lambda dense, keys: np.concatenate([dense, dense], 1),
    ),
    Row(
        "concat, virtual",
        "make",
        _virtually,
        right=lambda dense, keys: np.concatenate([dense, dense], keys.major),
    ),
]

#: What is drawn from.
ROWS = {row.name: row for row in [*_READING, *_OTHERS]}


# ----------------------------------------------------------- that are wrong, so that this is seen


def _crash(matrix: Any, keys: Keys) -> Any:
    os.kill(os.getpid(), signal.SIGSEGV)


def _hang(matrix: Any, keys: Keys) -> Any:
    time.sleep(600)


def _raise(matrix: Any, keys: Keys) -> Any:
    raise AssertionError("of ours")


def _refuse(matrix: Any, keys: Keys) -> Any:
    import diskcsr

    raise diskcsr.CorruptFileError("nothing is wrong")


_open_files: list[int] = []


def _leak(matrix: Any, keys: Keys) -> Any:
    _open_files.append(os.open(matrix.filename, os.O_RDONLY))
    fcntl.flock(_open_files[-1], fcntl.LOCK_SH)
    return matrix[:]


def _faulty(name: str, run: Callable[[Any, Keys], Any]) -> Row:
    """An operation that is right on a matrix in memory."""
    return _reading(name, lambda A, k: A[:] if _dense(A) else run(A, k))


def _spoil(place: Place) -> None:
    place.path.write_bytes(place.path.read_bytes()[:-100])
    raise ValueError("half done")


#: Never drawn: what the tests of the campaign have it find.
FAULTY = {
    row.name: row
    for row in [
        _faulty("wrong", lambda A, k: 3 * A[:]),
        _faulty("wrong dtype", lambda A, k: A[:].astype("c8")),
        _faulty("crash", _crash),
        _faulty("hang", _hang),
        _faulty("raw", _raise),
        _faulty("refused", _refuse),
        _faulty("leak", _leak),
        Row("spoilt", "change", _spoil, right=_same),
    ]
}
EVERY = {**ROWS, **FAULTY}
