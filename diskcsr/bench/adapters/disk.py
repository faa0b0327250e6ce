"""diskcsr."""

from pathlib import Path
from typing import Any

import diskcsr

from .in_memory import Indexed


class Disk(Indexed):
    """diskcsr over an HDF5 file; sums and products are what scipy's methods do with it."""

    title = "diskcsr"
    reads_files = True
    counts_reads = False
    note = "peak memory counts the pages of the file that are mapped"

    def __init__(self, path: str, name: str, where: dict[str, Any]) -> None:
        super().__init__(path, name, where)
        self.X = diskcsr.open(path, name)
        self.mapped = False  # scipy computes on the maps: nobody counts what that reads

    def load(self) -> Any:
        return self.X.to_memory()

    def sums(self) -> Any:
        self._from_file()
        return super().sums()

    def matvec(self, x: Any) -> Any:
        self._from_file()
        return super().matvec(x)

    def _from_file(self) -> None:
        """Let go of the arrays of the call before: each call maps or loads them anew."""
        self.X.release()
        self.mapped = True

    def minibatches(self, size: int, seed: int, block: int) -> Any:
        return self.X.batches(size, shuffle=True, rng=seed, block_size=block)

    def bytes_read(self) -> int | None:
        return None if self.mapped else int(self.X.reader.bytes_read)

    def close(self) -> None:
        self.X.close()

    @classmethod
    def write(cls, path: str, matrix: Any, storage: dict[str, Any]) -> None:
        Path(path).unlink(missing_ok=True)  # a new file, as the others write one
        diskcsr.write(
            path, matrix, compression=storage.get("compression"), chunks=storage.get("chunks")
        ).close()
