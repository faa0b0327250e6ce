"""scipy.sparse over numpy.memmap of three flat files."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from scipy.sparse import csr_array

from .in_memory import Indexed


class Mapped(Indexed):
    """csr_array over memory maps; peak memory counts the mapped pages."""

    title = "scipy over np.memmap"
    counts_reads = False
    note = "peak memory counts the pages of the files that are mapped"

    def __init__(self, path: str, name: str, where: dict[str, Any]) -> None:
        super().__init__(path, name, where)
        folder = Path(path)
        meta = json.loads((folder / "meta.json").read_text())
        parts: list[Any] = [
            np.memmap(folder / part, dtype, "r") if (folder / part).stat().st_size else []
            for part, dtype in meta["parts"].items()
        ]
        self.X = csr_array(tuple(parts), tuple(meta["shape"]))

    @classmethod
    def write(cls, path: str, matrix: Any, storage: dict[str, Any]) -> None:
        folder, matrix = Path(path), csr_array(matrix)
        folder.mkdir(exist_ok=True)
        parts = {name: getattr(matrix, name) for name in ("data", "indices", "indptr")}
        for name, values in parts.items():
            values.tofile(folder / name)
        types = {name: values.dtype.str for name, values in parts.items()}
        (folder / "meta.json").write_text(json.dumps({"shape": matrix.shape, "parts": types}))
