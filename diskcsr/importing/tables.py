"""Tables of triplets, one a line: CSV, TSV and Parquet, read by pyarrow part by part."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import FormatError
from ..loading import load_extra
from .imported import Imported, Kind, SourceOptions, damaged

if TYPE_CHECKING:
    import pyarrow

__all__ = ["CSV", "PARQUET"]

#: Bytes of text, and lines of a Parquet file, that are read at a time.
_BLOCK, _LINES = 1 << 24, 1 << 20
_DELIMITERS = "\t,;|"
_LABELS = ("appearance", "sorted")
#: What the labels of rows and of columns are stored as, beside the matrix.
_BESIDE = ("row_names", "column_names")


def _pyarrow(module: str, path: Path) -> Any:
    return load_extra(module, f"{path}: reading it", "diskcsr[tables]")


@contextmanager
def open_csv(path: Path, said: SourceOptions) -> Iterator[Imported]:
    """Open a text of fields, with a line of names above or without, compressed or not."""
    csv, arrow = _pyarrow("pyarrow.csv", path), _pyarrow("pyarrow", path)
    with arrow.input_stream(path, compression="detect") as file:
        first = file.read(1 << 16).decode("utf-8", "replace").splitlines()[:1]
    line = first[0] if first else ""
    delimiter = max(_DELIMITERS, key=line.count)
    fields = [field.strip('"') for field in line.split(delimiter)]
    named = not fields or not all(map(_is_number, fields))
    names = fields if named else [f"f{i}" for i in range(len(fields))]
    chosen = _chosen(path, names, said)

    def batches() -> Iterator[Any]:
        # Labels are what is written; numbers might lose leading zeros on the way.
        types = dict.fromkeys(chosen[:2], arrow.string()) if said.labels else {}
        if said.dtype is not None and len(chosen) == 3:
            types[chosen[2]] = arrow.from_numpy_dtype(np.dtype(said.dtype))
        # Opened anew each time: for sorted labels it is gone through twice.
        with (
            arrow.input_stream(path, compression="detect") as file,
            csv.open_csv(
                file,
                csv.ReadOptions(
                    block_size=_BLOCK, column_names=None if named else names, use_threads=True
                ),
                csv.ParseOptions(delimiter=delimiter),
                csv.ConvertOptions(column_types=types, include_columns=chosen),
            ) as reader,
        ):
            yield from reader

    yield _imported(path, arrow, batches if line else lambda: iter(()), chosen, said)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


@contextmanager
def open_parquet(path: Path, said: SourceOptions) -> Iterator[Imported]:
    """Open a Parquet file, or a folder of them, which are read in the order of their names."""
    parquet, arrow = _pyarrow("pyarrow.parquet", path), _pyarrow("pyarrow", path)
    files = sorted(path.glob("*.parquet")) if path.is_dir() else [path]
    try:
        with parquet.ParquetFile(files[0]) as file:
            chosen = _chosen(path, file.schema_arrow.names, said)
    except arrow.ArrowInvalid as problem:
        raise damaged(files[0], problem) from problem

    def batches() -> Iterator[Any]:
        for one in files:
            with parquet.ParquetFile(one) as file:
                yield from file.iter_batches(_LINES, columns=chosen)

    yield _imported(path, arrow, batches, chosen, said)


def _chosen(path: Path, names: list[str], said: SourceOptions) -> list[str]:
    """Names of the fields for row, column and value; without the last there are two."""
    wanted = names[:3] if said.fields is None else list(said.fields)
    if len(wanted) not in (2, 3):
        raise ValueError(
            f"{path}: fields= names two or three fields, for row, column and value, not {wanted}; "
            f"it has {', '.join(names)}"
        )
    chosen = []
    for field in wanted:
        number = isinstance(field, int) or (str(field).isdecimal() and field not in names)
        if number and int(field) < len(names):
            field = names[int(field)]
        if field not in names:
            raise ValueError(f"{path}: there is no field {field!r}; it has {', '.join(names)}")
        chosen.append(field)
    if len(set(chosen)) < len(chosen):
        raise ValueError(f"{path}: fields= names one twice: {chosen}")
    return chosen


def _imported(
    path: Path,
    arrow: Any,
    batches: Callable[[], Iterable[Any]],
    chosen: list[str],
    said: SourceOptions,
) -> Imported:
    if said.labels not in (None, *_LABELS):
        raise ValueError(f"labels must be 'appearance' or 'sorted', not {said.labels!r}")
    indices = [_Indices(path, arrow, name, said.labels) for name in chosen[:2]]

    def told(items: Iterable[Any]) -> Iterator[Any]:
        try:
            yield from items
        except (arrow.ArrowInvalid, arrow.ArrowKeyError) as problem:
            hint = "Labels instead of numbers: labels='appearance'; other values: dtype='float64'"
            raise FormatError(f"{path}: {problem}. {hint}") from problem

    def parts() -> Iterator[Any]:
        if said.labels == "sorted":
            for batch in told(batches()):
                for number, one in enumerate(indices):
                    one.of(batch.column(number))
            for one in indices:
                one.sort()
        for batch in told(batches()):
            pair = [one.of(batch.column(number)) for number, one in enumerate(indices)]
            yield (*pair, *(_values(path, column) for column in batch.columns[2:]))

    def beside() -> dict[str, np.ndarray]:
        named = zip(_BESIDE, indices, strict=True)
        return {name: one.labels() for name, one in named if one.labelled}

    # What is not there (no line at all) has no numbers, and no labels.
    return Imported(chain(parts()), beside=beside)


def _values(path: Path, column: "pyarrow.Array") -> np.ndarray:
    kind = str(column.type)
    if column.null_count and not kind.startswith(("float", "double", "halffloat")):
        raise damaged(path, f"a value is missing among {kind}s")
    if not kind.startswith(("int", "uint", "float", "double", "halffloat", "bool")):
        raise damaged(path, f"values of type {kind} are no numbers; fields= names others")
    return column.to_numpy(zero_copy_only=False)  # of floats, what is missing is NaN


class _Indices:
    """Makes indices of what stands in a field: numbers are indices, strings are numbered.

    Attributes
    ----------
    labelled : bool
        Whether they are.
    """

    def __init__(self, path: Path, arrow: Any, field: str, labels: str | None) -> None:
        self._path, self._arrow, self._field = path, arrow, field
        self._numbers: dict[str, int] = {}
        self.labelled = labels is not None

    def of(self, column: "pyarrow.Array") -> np.ndarray:
        """The indices of a part of the field."""
        if column.null_count:
            raise damaged(self._path, f"a value is missing in the field {self._field!r}")
        kind = str(column.type)
        if kind.startswith(("int", "uint")) and not self.labelled:
            return column.to_numpy()
        if kind.startswith(("float", "double", "halffloat")):
            raise damaged(self._path, f"the field {self._field!r} holds fractions, no indices")
        self.labelled = True
        if kind.startswith("dictionary"):
            column = column.cast(column.type.value_type)
        coded = column.cast(self._arrow.string()).dictionary_encode()
        numbers = self._numbers
        known = [numbers.setdefault(text, len(numbers)) for text in coded.dictionary.to_pylist()]
        return np.array(known, np.int64)[coded.indices.to_numpy()]

    def sort(self) -> None:
        """Number what was seen anew, in the order of the strings."""
        self._numbers = {text: number for number, text in enumerate(sorted(self._numbers))}

    def labels(self) -> np.ndarray:
        """The strings, in the order of their numbers."""
        return np.array(list(self._numbers), dtype=object)


CSV = Kind(
    "csv",
    "a text of fields: row, column, value",
    open_csv,
    takes=("fields", "labels"),
)
PARQUET = Kind(
    "parquet",
    "a Parquet file of such fields, or a folder of them",
    open_parquet,
    takes=("fields", "labels"),
)
