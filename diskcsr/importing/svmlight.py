"""svmlight's and libsvm's files: a line a row, its label first. Read by scikit-learn, by blocks."""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from ..loading import load_extra
from .imported import Imported, Kind, SourceOptions, byte_blocks, damaged, open_bytes

__all__ = ["SVMLIGHT"]

#: Bytes of text that are read at a time.
_BLOCK = 1 << 22


@contextmanager
def open_svmlight(path: Path, said: SourceOptions) -> Iterator[Imported]:
    """Open a file of labelled rows, compressed or not; `labels` are stored beside the matrix.

    Columns are counted from one, as libsvm does it, unless there is a column zero.
    """
    module = load_extra(
        "sklearn.datasets", f"{path}: reading it", "diskcsr[svmlight]", "scikit-learn"
    )
    parse: Any = module.load_svmlight_file
    dtype = np.dtype(np.float64 if said.dtype is None else said.dtype)
    labels: list[np.ndarray] = []

    def parts() -> Iterator[Any]:
        from_zero, rows = _counts_from_zero(path), 0
        with open_bytes(path) as file:
            for block in byte_blocks(file, _BLOCK):
                try:
                    # Widths differ between blocks; indices are taken as they stand.
                    part, some = parse(io.BytesIO(block), dtype=np.float64, zero_based=True)
                except ValueError as problem:
                    raise damaged(path, f"after row {rows}: {problem}") from problem
                labels.append(some)
                lines = np.repeat(np.arange(rows, rows + part.shape[0]), np.diff(part.indptr))
                yield lines, part.indices - (not from_zero), part.data.astype(dtype, copy=False)
                rows += part.shape[0]

    def beside() -> dict[str, np.ndarray]:
        return {"labels": np.concatenate(labels) if labels else np.empty(0)}

    # Rows without anything in them count, too.
    yield Imported(parts(), at_least=lambda: (sum(some.size for some in labels), 0), beside=beside)


def _counts_from_zero(path: Path) -> bool:
    """Whether there is an index zero anywhere."""
    with open_bytes(path) as file:
        return any(b" 0:" in block or b"\t0:" in block for block in byte_blocks(file, _BLOCK))


SVMLIGHT = Kind(
    "svmlight",
    "svmlight's and libsvm's labelled rows",
    open_svmlight,
)
