"""Inventory of the sample files by other software, and a reader that shares nothing with us.

The files lie in ``../shared/realfiles``, beside the repository; tests that need them skip when they
are not there. Formats and shapes are stated here, not detected: a matrix read with h5py and scipy
from this table is the reference.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from scipy.sparse import csc_array, csr_array

ROOT = Path(__file__).resolve().parents[2] / "shared" / "realfiles"

PLAIN = ("data", "indices", "indptr")
MATLAB = ("data", "ir", "jc")
BINSPARSE = ("values", "indices_1", "pointers_to_1")


@dataclass(frozen=True)
class Group:
    """One sparse matrix in a file."""

    file: str
    name: str
    format: str
    shape: tuple[int, int]
    convention: str
    names: tuple[str, str, str] = PLAIN

    def __str__(self) -> str:
        return f"{self.file}:{self.name}"

    @property
    def path(self) -> Path:
        return ROOT / self.file

    def read(self) -> Any:
        """Read the matrix into a plain csr_array or csc_array.

        Half floats come as float32, which scipy has; everything else in its own type, native.
        """
        with h5py.File(self.path, "r") as file:
            data, indices, indptr = (_read(file[self.name], name) for name in self.names)
        nnz = int(indptr[-1])
        if data.size == 1 and nnz > 1:  # binsparse iso: one value for all
            data = np.repeat(data, nnz)
        build = {"csr": csr_array, "csc": csc_array}[self.format]
        matrix = build((data, indices, indptr), shape=self.shape)
        assert matrix.nnz == nnz == data.size
        return matrix


def _read(group: h5py.Group, name: str) -> np.ndarray:
    if name not in group:  # MATLAB leaves out what would be empty
        return np.zeros(0)
    values = group[name][:]
    if values.dtype == np.float16:
        return values.astype(np.float32)
    values = values.astype(values.dtype.newbyteorder("="))
    if name in (PLAIN[1:] + MATLAB[1:] + BINSPARSE[1:]):
        return values.astype(np.int64)
    return values


def _groups(
    convention: str,
    file: str,
    matrices: dict[str, tuple[str, int, int]],
    names: tuple[str, str, str] = PLAIN,
) -> list[Group]:
    return [
        Group(file, name, format, (rows, columns), convention, names)
        for name, (format, rows, columns) in matrices.items()
    ]


_BINSPARSE_FILE = {"/csr": ("csr", 20, 12), "/csc": ("csc", 20, 12), "/iso": ("csr", 5, 5)}
_MINI = {
    "/X": ("csr", 3, 5),
    "/layers/transpose": ("csc", 3, 5),
    "/obsm/obs_mat": ("csc", 3, 2),
}
_MINI_INT64 = {"/layers/transpose": ("csc", 5, 6), "/obsm/obs_mat": ("csc", 5, 2)}
_V070 = {
    "/X": ("csr", 30, 20),
    "/layers/sparse": ("csr", 30, 20),
    "/obsm/sparse": ("csr", 30, 100),
    "/obsp/sparse": ("csr", 30, 30),
    "/raw/X": ("csr", 30, 40),
    "/raw/varm/sparse": ("csr", 40, 100),
    "/varm/sparse": ("csr", 20, 100),
    "/varp/sparse": ("csr", 20, 20),
}
_V050 = {
    "/raw.X": ("csr", 700, 765),
    "/uns/neighbors/connectivities": ("csr", 700, 700),
    "/uns/neighbors/distances": ("csr", 700, 700),
}
_ANNDATA_TYPES = ("float16", "int8", "int16", "int64", "uint8", "uint16", "uint64")
_ANNDATA = {
    "/allzero": ("csr", 5, 7),
    "/empty": ("csr", 0, 7),
    "/csr_matrix": ("csr", 55, 300),
    "/csr_array": ("csr", 50, 300),
    "/csc_matrix": ("csc", 50, 300),
    "/csc_array": ("csc", 50, 300),
    "/min_uint8": ("csr", 50, 100),
    **{f"/dt_{name}": ("csr", 50, 300) for name in _ANNDATA_TYPES},
    **{
        f"/{name}": ("csr", 50, 300)
        for name in ("bool", "complex", "gzip", "indptr64", "lzf_shuffle", "min_uint16")
    },
}
_H5IO = {
    "/h5io/key_csr": ("csr", 20, 12),
    "/h5io/key_csc": ("csc", 20, 12),
    "/h5io/key_csr_array": ("csr", 20, 12),
}
_H5SPARSE = {
    "/sparse/matrix": ("csr", 4, 3),
    "/sparse/csc": ("csc", 4, 3),
    "/appendable": ("csr", 6, 3),
    "/empty": ("csr", 0, 0),
}

#: Every sparse group of every file. The one of pytables_idiom.h5 has no tag, but its ``shape``
#: dataset and the length of indptr leave one reading only, so it, too, opens without hints.
GROUPS = [
    *_groups("h5sparse", "anndata/v0.5.0.h5ad", _V050),
    *_groups("anndata", "anndata/v0.7.0.h5ad", _V070),
    *_groups("h5sparse", "bpcells_tests/mini_mat.anndata-v0.6.22.h5ad", _MINI),
    *_groups("anndata", "bpcells_tests/mini_mat.anndata-v0.7.h5ad", _MINI),
    *_groups("anndata", "bpcells_tests/mini_mat_int_64.anndata-v0.12.6.h5ad", _MINI_INT64),
    *_groups("anndata", "bpcells_tests/mini_mat_int_64_neg.anndata-v0.12.6.h5ad", _MINI_INT64),
    *_groups("anndata", "generated/anndata_0.12.19.h5", _ANNDATA),
    *_groups("h5sparse", "generated/h5sparse_0.1.0.h5", _H5SPARSE),
    *_groups("h5io", "generated/h5io_0.2.5.h5", _H5IO),
    *_groups("untagged", "generated/pytables_idiom.h5", {"/m": ("csr", 20, 12)}),
    *_groups("binsparse", "generated/binsparse_wrapped_c_style.h5", _BINSPARSE_FILE, BINSPARSE),
    *_groups("binsparse", "generated/binsparse_flat_python_style.h5", _BINSPARSE_FILE, BINSPARSE),
    *_groups("matlab", "mat73/testfile1.mat", {"/data/sparse_": ("csc", 10, 8)}, MATLAB),
    *_groups("matlab", "mat73/testfile13.mat", {"/A": ("csc", 2, 3)}, MATLAB),
    *_groups(
        "10x",
        "tenx/v2_1.2.0_filtered_gene_bc_matrices.h5",
        {"/hg19_chr21": ("csc", 343, 12)},
    ),
    *_groups(
        "10x",
        "tenx/v3_3.0.0_filtered_feature_bc_matrix.h5",
        {"/matrix": ("csc", 507, 1107)},
    ),
    *_groups(
        "10x",
        "tenx/v3_visium_1.0.0_filtered_feature_bc_matrix.h5",
        {"/matrix": ("csc", 100, 100)},
    ),
]

#: Files without a sparse matrix, and words a message has to say about what they hold.
NEGATIVE = {
    "loom/test.loom": ("loom", "'matrix'", "(20, 200)"),
    "anndata/v0.11.4.h5ad": ("AnnData", "without X", "obs", "var"),
}
