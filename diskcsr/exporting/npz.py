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

from .exported import Exported, Target

__all__ = ["NPZ"]

_COMPRESSIONS = {None: zipfile.ZIP_STORED, "deflate": zipfile.ZIP_DEFLATED}


def write_npz(path: Path, exported: Exported) -> None:
    """Write what `scipy.sparse.load_npz` reads."""
    if exported.compression not in _COMPRESSIONS:
        raise ValueError(f"compression={exported.compression!r}: an .npz knows 'deflate'")
    count, dtype = exported.count(), exported.dtype
    n_major = exported.axis.swap(exported.shape)[0]
    index = np.int32 if max(count, *exported.shape) < 2**31 else np.int64
    small: dict[str, Any] = {
        "format": exported.axis.format.encode("ascii"),
        "shape": np.array(exported.shape, dtype=np.int64),
    }
    if isinstance(exported.matrix, sparray):
        small["_is_array"] = True
    indptr = np.zeros(n_major + 1, dtype=np.int64)

    def indices() -> Iterable[np.ndarray]:
        for block in exported.blocks():
            indptr[block.first + 1 : block.last + 1] = indptr[block.first] + block.indptr[1:]
            yield block.indices.astype(index, copy=False)

    compression = _COMPRESSIONS[exported.compression]
    with zipfile.ZipFile(path, "w", compression, allowZip64=True) as archive:

        def add(name: str, dtype: Any, shape: tuple[int, ...], parts: Iterable[np.ndarray]) -> None:
            header = {"descr": npy.dtype_to_descr(np.dtype(dtype)), "shape": shape}
            with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                npy.write_array_header_1_0(file, header | {"fortran_order": False})
                for part in parts:
                    file.write(np.ascontiguousarray(part).data.cast("B") if part.size else b"")

        add("indices", index, (count,), indices())
        add("indptr", index, indptr.shape, [indptr.astype(index, copy=False)])
        for name, value in small.items():
            array = np.asarray(value)
            add(name, array.dtype, array.shape, [array.reshape(-1)])
        add("data", dtype, (count,), (block.data for block in exported.blocks()))


NPZ = Target("npz", "as scipy.sparse.save_npz writes it", (".npz",), write_npz, ("compression",))
