"""HDF5's filters, undone and applied outside HDF5: one module each.

HDF5 runs filters under its global lock, one chunk at a time. What is here takes the bytes of a
chunk as they lie in the file and touches nothing else, so any number of threads may run it. Layouts
come from the sources of the filters (HDF5, h5py, and the registered plugins); kernels, and with
them numba, and libraries are imported when first used.

To add a codec, add a module to this package in which `CODEC` is the `codec.Codec` that says all
there is to know. Nothing else changes: the modules are found here, `pipeline` runs whatever is in
the `table`, and reading, writing, checking and reporting ask the rows.
"""

import importlib
import pkgutil

from .codec import Codec
from .table import register


def _find_codecs() -> list[Codec]:
    names = [f"{__name__}.{found.name}" for found in pkgutil.iter_modules(__path__)]
    modules = [importlib.import_module(name) for name in names]
    codecs = [module.CODEC for module in modules if hasattr(module, "CODEC")]
    return sorted(codecs, key=lambda codec: codec.id)


for _codec in _find_codecs():
    register(_codec)
