"""Triplets in Parquet files, by pyarrow."""

from pathlib import Path

from ..loading import load_extra
from ..storage.formats.others import SUFFIXES
from .exported import Exported, Target

__all__ = ["PARQUET"]


def write_parquet(path: Path, exported: Exported) -> None:
    """Write the columns row, column and value, in the order in which the matrix is stored."""
    pyarrow, parquet = (
        load_extra(name, f"writing {path}", "diskcsr[tables]")
        for name in ("pyarrow", "pyarrow.parquet")
    )
    if exported.dtype.kind == "c":
        raise TypeError(f"Parquet has no {exported.dtype}: store real and imaginary part apart")
    value = pyarrow.from_numpy_dtype(exported.dtype)
    fields = [("row", pyarrow.int64()), ("column", pyarrow.int64()), ("value", value)]
    schema = pyarrow.schema(fields, {"shape": ",".join(map(str, exported.shape))})
    compression = exported.compression or "snappy"
    with parquet.ParquetWriter(path, schema, compression=compression) as writer:
        for triplets in exported.triplets():
            writer.write_table(pyarrow.table(list(map(pyarrow.array, triplets)), schema=schema))


PARQUET = Target(
    "parquet", "Parquet: row, column, value", SUFFIXES["parquet"], write_parquet, ("compression",)
)
