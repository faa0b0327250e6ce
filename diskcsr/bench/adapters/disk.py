"""diskcsr."""

from pathlib import Path
from typing import Any

import numpy as np

import diskcsr

from .in_memory import Indexed


class Disk(Indexed):
    """diskcsr over an HDF5 file."""

    title = "diskcsr"
    reads_files = True
    counts_reads = False
    note = "peak memory counts the pages of the file that are mapped"

    def __init__(self, path: str, name: str, where: dict[str, Any]) -> None:
        super().__init__(path, name, where)
        self.X = diskcsr.open(path, name)

    def load(self) -> Any:
        return self.X.to_memory()

    def gram(self, dense: np.ndarray) -> Any:
        return diskcsr.gram_product(self.X, dense)

    def describe(self) -> Any:
        if 0 in self.X.shape:
            return []
        found = diskcsr.describe(self.X, 0, ddof=0)
        ends = [] if self.X.dtype.kind == "c" else [found.min, found.max]
        return [found.mean, found.variance, *(end.astype(np.float64) for end in ends)]

    def svds(self, k: int) -> Any:
        if k == 0 or self.X.dtype.kind == "c":
            return super().svds(k)
        return diskcsr.linalg.svds(self.X, k, rng=0)[1]

    def minibatches(self, size: int, seed: int, block: int) -> Any:
        return self.X.batches(size, shuffle=True, rng=seed, block_size=block)

    def bytes_read(self) -> int | None:
        return int(self.X.reader.bytes_read)

    def close(self) -> None:
        self.X.close()

    @classmethod
    def write(cls, path: str, matrix: Any, storage: dict[str, Any]) -> None:
        Path(path).unlink(missing_ok=True)  # a new file, as the others write one
        diskcsr.write(
            path, matrix, compression=storage.get("compression"), chunks=storage.get("chunks")
        ).close()
