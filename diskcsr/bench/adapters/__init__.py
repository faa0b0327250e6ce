"""The systems that are compared, one class a file, imported by name."""

from importlib import import_module
from typing import Any

__all__ = ["PEERS", "load_adapter"]

#: Name for ``--peers`` to module; a name with a colon is "module:Class" of the user's own.
PEERS = {
    "scipy": "in_memory:InMemory",
    "diskcsr": "disk:Disk",
    "memmap": "mapped:Mapped",
    "h5py": "plain_h5py:PlainH5py",
    "anndata": "anndata_h5ad:AnnDataH5ad",
    "anndata-zarr": "anndata_zarr:AnnDataZarr",
    "zarr": "plain_zarr:PlainZarr",
    "h5sparse": "h5sparse_rows:H5Sparse",
    "scdataset": "scdataset_loader:ScDataset",
    "annbatch": "annbatch_loader:Annbatch",
    "tiledbsoma": "tiledb_soma:TileDBSoma",
    "bpcells": "bpcells_dir:BPCells",
    "hdf5array": "hdf5array_tatami:Hdf5Array",
}


def load_adapter(name: str) -> Any:
    """Return the adapter class of a peer, or of the user's own ``module:Class``."""
    if ":" not in name and name not in PEERS:
        raise ValueError(f"no peer {name!r}; there are {', '.join(PEERS)}, and module:Class")
    module, _, cls = PEERS.get(name, name).partition(":")
    return getattr(import_module(f"{__name__}.{module}" if name in PEERS else module), cls)
