"""diskcsr."""

from typing import Any

import diskcsr

from .in_memory import Indexed


class Disk(Indexed):
    """diskcsr over an HDF5 file; sums and products are what scipy's methods do with it."""

    title = "diskcsr"
    reads_files = True
    note = "bytes that sums and products read are not counted"

    def __init__(self, path: str, name: str, where: dict[str, Any]) -> None:
        super().__init__(path, name, where)
        self.X = diskcsr.open(path, name)

    def load(self) -> Any:
        return self.X.to_memory()

    def minibatches(self, size: int, seed: int) -> Any:
        return self.X.batches(size, shuffle=True, seed=seed)

    def bytes_read(self) -> int:
        return int(self.X.reader.bytes_read)

    def close(self) -> None:
        self.X.close()

    @classmethod
    def write(cls, path: str, matrix: Any, storage: dict[str, Any]) -> None:
        diskcsr.write(
            path,
            matrix,
            compression=storage.get("compression"),
            chunks=storage.get("chunks"),
            overwrite=True,
        ).close()
