"""Matrices as scipy saves them: ``.npz``, written array after array.

Such a file is a zip archive of numpy's files, of which one can be written at a time. So the matrix
is gone over twice: for its indices, and for its values.
"""

import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy
from scipy.sparse import sparray

from ..storage.formats.others import SUFFIXES
from .exported import Exported, Target

__all__ = ["NPZ"]

_COMPRESSIONS = {None: zipfile.ZIP_STORED, "deflate": zipfile.ZIP_DEFLATED}


def write_npz(path: Path, exported: Exported) -> None:
    """Write what `scipy.sparse.load_npz` reads."""
    if exported.compression not in _COMPRESSIONS:
        raise ValueError(f"compression={exported.compression!r}: an .npz knows 'deflate'")
    count, index = exported.count, exported.index
    small: dict[str, Any] = {
        "format": exported.axis.format.encode("ascii"),
        "shape": np.array(exported.shape, dtype=np.int64),
    }
    if isinstance(exported.matrix, sparray):
        small["_is_array"] = True
    lengths = [np.zeros(1, np.int64)]

    def indices() -> Iterable[np.ndarray]:
        for _, minors, some in exported.portions():
            lengths.append(some)
            yield minors.astype(index, copy=False)

    compression = _COMPRESSIONS[exported.compression]
    with zipfile.ZipFile(path, "w", compression, allowZip64=True) as archive:

        def add(name: str, dtype: Any, shape: tuple[int, ...], parts: Iterable[np.ndarray]) -> None:
            header = {"descr": npy.dtype_to_descr(np.dtype(dtype)), "shape": shape}
            with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                npy.write_array_header_1_0(file, header | {"fortran_order": False})
                for part in parts:
                    file.write(np.ascontiguousarray(part).data.cast("B") if part.size else b"")

        add("indices", index, (count,), indices())
        indptr = np.concatenate(lengths).cumsum()
        add("indptr", index, indptr.shape, [indptr.astype(index, copy=False)])
        for name, value in small.items():
            array = np.asarray(value)
            add(name, array.dtype, array.shape, [array.reshape(-1)])
        add("data", exported.dtype, (count,), (values for values, _, _ in exported.portions()))


NPZ = Target(
    "npz",
    "as scipy.sparse.save_npz writes it",
    SUFFIXES["npz"],
    write_npz,
    ("compression",),
    walks=2,
)
