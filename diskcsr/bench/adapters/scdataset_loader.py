"""scDataset over anndata's handle: minibatches only."""

from typing import Any

from .anndata_h5ad import AnnDataH5ad


class _Rows:
    """anndata's handle, with the length that scDataset asks for."""

    def __init__(self, handle: Any) -> None:
        self.handle = handle

    def __len__(self) -> int:
        return int(self.handle.shape[0])

    def __getitem__(self, rows: Any) -> Any:
        return self.handle[rows]


class ScDataset(AnnDataH5ad):
    """scDataset, 16 batches a fetch (its default)."""

    title = "scDataset"
    needs = ("anndata", "scdataset")
    brings = "diskcsr[bench]"
    writes = False
    rows: Any = None
    runs: Any = None
    mask: Any = None
    scalar: Any = None
    columns: Any = None
    load: Any = None

    def minibatches(self, size: int, seed: int, block: int) -> Any:
        from scdataset import BlockShuffling, scDataset

        strategy = BlockShuffling(block_size=block)
        return scDataset(_Rows(self.X), strategy, batch_size=size, fetch_factor=16, seed=seed)
