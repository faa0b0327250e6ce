"""Writes the files of this folder, each by a public function of the software it is named after.

    pip install anndata h5io h5sparse==0.1 binsparse "setuptools<81"
    python tests/golden/make.py [NAME ...]

A file is called after the package that wrote it and that package's version. They are kept, so that
reading what others wrote is tested where none of these packages is installed, and small: 30 kB at
the most. ``FILES`` says what each holds; `matrix` makes it again from nothing, so the tests need no
reader but diskcsr's. No package writes MATLAB's, 10x Genomics' or PyTables' kinds of sparse group:
``tests/test_formats.py`` makes those by hand.
"""

import sys
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy.sparse import csc_array, csr_array, csr_matrix

HERE = Path(__file__).resolve().parent
ROWS, COLUMNS = 30, 20


def matrix(name: str, format: str = "csr", dtype: str = "float32") -> Any:
    """Return a matrix by name: "counts", "empty" (no rows), "zero" or "unsorted".

    "counts" has rows without entries, and numbers from 1 to 9 elsewhere. "unsorted" is the same
    with the entries of each row in falling order, and the first of all entries stored twice.
    """
    build = {"csr": csr_array, "csc": csc_array}[format]
    if name in ("empty", "zero"):
        return build((0 if name == "empty" else 5, 7), dtype=dtype)
    i, j = np.indices((ROWS, COLUMNS))
    stored = ((7 * i + 13 * j) % 11 < 2) & (i % 6 != 4)
    found = build(np.where(stored, 1 + (i + 2 * j) % 9, 0).astype(dtype))
    return _unsorted(found) if name == "unsorted" else found


def _unsorted(found: Any) -> Any:
    lines = [range(lo, hi)[::-1] for lo, hi in zip(found.indptr, found.indptr[1:], strict=False)]
    order = [at for line in lines for at in line]
    order.insert(0, order[0])
    indptr = found.indptr.copy()
    indptr[1:] += 1
    return type(found)((found.data[order], found.indices[order], indptr), found.shape)


class Stored(NamedTuple):
    """What a group holds: the arguments of `matrix`, and the convention diskcsr finds it by."""

    convention: str
    matrix: str = "counts"
    format: str = "csr"
    dtype: str = "float32"

    @property
    def odd(self) -> bool:
        """Whether entries are out of order and one is stored twice, which `check` warns of."""
        return self.matrix == "unsorted"

    def expected(self) -> Any:
        return matrix(self.matrix, self.format, self.dtype)


#: By file (its package's version stands behind the name) and group.
FILES = {
    "anndata.h5ad": {"X": Stored("anndata")},
    "anndata_elements.h5": {
        "unsorted": Stored("anndata", "unsorted"),
        "columns": Stored("anndata", format="csc", dtype="int64"),
    },
    # In the file format of HDF5 1.10, which takes less room and which every h5py in use reads.
    "anndata_newer.h5": {
        "appended": Stored("anndata"),
        "gzip": Stored("anndata", format="csc", dtype="float64"),
        "lzf": Stored("anndata", dtype="int64"),
        "empty": Stored("anndata", "empty"),
        "zero": Stored("anndata", "zero"),
        "bool": Stored("anndata", dtype="bool"),
        "uint16": Stored("anndata", dtype="uint16"),
        "complex64": Stored("anndata", dtype="complex64"),
    },
    "h5io.h5": {
        "h5io/key_rows": Stored("h5io", dtype="float64"),
        "h5io/key_columns": Stored("h5io", format="csc", dtype="float64"),
    },
    "h5sparse.h5": {
        "rows": Stored("h5sparse", dtype="float64"),
        "columns": Stored("h5sparse", format="csc", dtype="float64"),
        "appended": Stored("h5sparse", dtype="float64"),
        "in/a/group": Stored("h5sparse", "unsorted"),
    },
    "binsparse.h5": {
        "rows": Stored("binsparse", dtype="float64"),
        "columns": Stored("binsparse", format="csc", dtype="int64"),
        "empty": Stored("binsparse", "empty"),
    },
}


def write_anndata(path: Path) -> None:
    import anndata

    anndata.AnnData(FILES["anndata.h5ad"]["X"].expected()).write_h5ad(path)


def write_anndata_elements(path: Path, newer: bool = False) -> None:
    import h5py
    from anndata.io import sparse_dataset, write_elem

    held = FILES["anndata_newer.h5" if newer else "anndata_elements.h5"]
    with h5py.File(path, "w", libver=("v110", "v110") if newer else None) as file:
        for name, stored in held.items():
            found = stored.expected()
            filters = {"compression": name, "shuffle": True} if name in ("gzip", "lzf") else {}
            if name == "appended":
                write_elem(file, name, found[:10])
                sparse_dataset(file[name]).append(found[10:])
            else:
                write_elem(file, name, found, dataset_kwargs=filters)


def write_h5io(path: Path) -> None:
    import h5io

    held = FILES["h5io.h5"]
    values = {name.removeprefix("h5io/key_"): stored.expected() for name, stored in held.items()}
    h5io.write_hdf5(path, values, overwrite=True)


def write_h5sparse(path: Path) -> None:
    import h5sparse
    from scipy.sparse import csc_matrix

    with h5sparse.File(path, "w") as file:
        for name, stored in FILES["h5sparse.h5"].items():
            build = {"csr": csr_matrix, "csc": csc_matrix}[stored.format]
            found = build(stored.expected())
            if name == "appended":
                file.create_dataset(name, data=found[:10], chunks=(16,), maxshape=(None,))
                file[name].append(found[10:])
            else:
                file.create_dataset(name, data=found)


def write_binsparse(path: Path) -> None:
    import h5py
    from binsparse import HDF5BinsparseContainer
    from binsparse.conversions.scipy import from_scipy

    with h5py.File(path, "w") as file:
        for name, stored in FILES["binsparse.h5"].items():
            tensor = from_scipy(stored.expected())
            tensor.serialize(HDF5BinsparseContainer(file.create_group(name)), alias=True)


WRITERS = {
    "anndata.h5ad": write_anndata,
    "anndata_elements.h5": write_anndata_elements,
    "anndata_newer.h5": partial(write_anndata_elements, newer=True),
    "h5io.h5": write_h5io,
    "h5sparse.h5": write_h5sparse,
    "binsparse.h5": write_binsparse,
}


def path_of(name: str, number: str) -> Path:
    """Return where the file called `name` lies that version `number` of its package wrote."""
    stem, _, ending = name.partition(".")
    return HERE / f"{stem}-{number}.{ending}"


def main(names: list[str]) -> None:
    for name in names or WRITERS:
        path = path_of(name, version(name.partition(".")[0].partition("_")[0]))
        for old in HERE.glob(path_of(name, "*").name):
            old.unlink()
        WRITERS[name](path)
        print(f"{path.name}: {path.stat().st_size:,} bytes")


if __name__ == "__main__":
    main(sys.argv[1:])
