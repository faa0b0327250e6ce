"""HDF5's lock, which h5py holds whenever it calls HDF5, held for longer.

A private name of h5py is used, found alike in 3.10.0 and 3.16.0: ``h5py._objects.phil``. There is
no public way to keep other threads out of HDF5 between two calls.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from h5py._objects import phil

from ...machine.interrupts import deferred

__all__ = ["hdf5_locked"]


@contextmanager
def hdf5_locked() -> Iterator[None]:
    """Keep other threads out of HDF5, and signals back: one that came at the end would leave the
    lock taken for ever.
    """
    with deferred(), phil:
        yield
