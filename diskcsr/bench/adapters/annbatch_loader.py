"""annbatch over its own sharded zarr store: minibatches only."""

from typing import Any

import numpy as np

from .base import Adapter

BUFFER = 4096  # rows fetched at once, as scDataset's 16 batches of 256


class Annbatch(Adapter):
    """annbatch.Loader through zarrs, over what annbatch.write_sharded writes."""

    title = "annbatch"
    needs = ("annbatch", "zarrs")
    brings = "diskcsr[bench-peers] with Python 3.12 or later"
    note = "compressed by blosc-lz4, its default"

    def __init__(self, path: str, name: str, where: dict[str, Any]) -> None:
        import zarr

        super().__init__(path, name, where)
        zarr.config.set({"codec_pipeline.path": "zarrs.ZarrsCodecPipeline"})
        self.group = zarr.open_group(path, mode="r")

    def minibatches(self, size: int, seed: int, block: int) -> Any:
        from annbatch import Loader
        from anndata.io import sparse_dataset

        loader = Loader(
            batch_size=size, chunk_size=block, preload_nchunks=max(size, BUFFER) // block,
            shuffle=True, rng=np.random.default_rng(seed), preload_to_gpu=False,
        )  # fmt: skip
        loader.add_dataset(sparse_dataset(self.group["X"]))
        return (batch["X"] for batch in loader)

    def close(self) -> None:
        self.group.store.close()

    @classmethod
    def write(cls, path: str, matrix: Any, storage: dict[str, Any]) -> None:
        import anndata
        import zarr
        from annbatch import write_sharded
        from scipy.sparse import csr_matrix

        write_sharded(zarr.open_group(path, mode="w"), anndata.AnnData(X=csr_matrix(matrix)))
