"""Imports go down: a module knows only those below it. Libraries and formats have their place."""

import ast
from pathlib import Path

import pytest

import diskcsr

ROOT = Path(diskcsr.__file__).parent

#: From the bottom up. A module may import those of the lines before its own, not its neighbours.
LAYERS = [
    "errors axis kernels.rows kernels.codecs kernels.transpose kernels storage",
    "options",
    "threads buffers cache selection plan progress terminal",
    "filtering batches assignment",
    # What touches a file.
    "storage.rollback storage.alive storage.headers",
    "storage.journal storage.apart",
    "storage.files",
    "storage.chunks",
    "storage.sound",
    "storage.fields storage.codecs storage.descriptor",
    "storage.conventions storage.scaleoffset storage.readers",
    "storage.formats storage.filters storage.maps storage.problems",
    "storage.decode storage.encode storage.tags",
    "storage.choose storage.opening storage.pointers",
    "storage.source storage.streams",
    "storage.convert storage.write storage.scan",
    "storage.virtual storage.update storage.repair",
    "storage.check storage.describe",
    # What users hold.
    "interop",
    "handle",
    "reading changing",
    "conversion",
    "array",
    "interop.anndata h5",
    "",  # the package itself: public names only
    # The benchmark, above everything.
    "bench bench.workloads bench.machine bench.source bench.adapters bench.adapters.base",
    "bench.adapters.in_memory bench.adapters.plain_h5py bench.adapters.anndata_h5ad",
    "bench.adapters.mapped bench.adapters.disk bench.adapters.plain_zarr "
    "bench.adapters.h5sparse_rows bench.adapters.anndata_zarr bench.adapters.scdataset_loader "
    "bench.adapters.tiledb_soma bench.adapters.bpcells_dir bench.adapters.hdf5array_tatami "
    "bench.adapters.annbatch_loader",
    "bench.cases bench.cells bench.figures",
    "bench.measure bench.report",
    "bench.run",
    "bench.__main__",
    "__main__",
]
LEVEL = {name: level for level, line in enumerate(LAYERS) for name in (line.split() or [""])}
#: Imported upwards, each inside a function, when another library asks for us.
LAZY = {("interop", "interop.anndata")}


def name_of(path):
    """Name of a module inside the package; "" for the package itself."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {name_of(path): path for path in sorted(ROOT.rglob("*.py"))}
TREES = {name: ast.parse(path.read_text()) for name, path in MODULES.items()}
every_module = pytest.mark.parametrize("name", MODULES, ids=lambda name: name or "diskcsr")


def imports(name):
    """Yield (imported module as a full dotted name, whether inside a function)."""
    package = name if MODULES[name].name == "__init__.py" else name.rpartition(".")[0]
    above = ["diskcsr", *filter(None, package.split("."))]
    inside = {
        id(node)
        for function in ast.walk(TREES[name])
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef)
        for node in ast.walk(function)
    }
    for node in ast.walk(TREES[name]):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, id(node) in inside
        elif isinstance(node, ast.ImportFrom):
            base = above[: len(above) - node.level + 1] if node.level else []
            module = ".".join([*base, *filter(None, [node.module])])
            for alias in node.names:
                # ``from .storage import maps`` imports a module, ``from .axis import CSR`` a name.
                full = f"{module}.{alias.name}"
                is_module = full.removeprefix("diskcsr.") in MODULES and full.startswith("diskcsr.")
                yield full if is_module else module, id(node) in inside


def test_every_module_has_its_layer():
    assert set(MODULES) == set(LEVEL)


@every_module
def test_imports_go_down(name):
    for module, lazily in imports(name):
        if module.split(".")[0] != "diskcsr":
            continue
        other = module.removeprefix("diskcsr").lstrip(".")
        if (name, other) in LAZY:
            assert lazily, f"{name} must import {other} inside a function"
            continue
        assert LEVEL[other] < LEVEL[name], f"{name} imports {other}"


#: Which modules may import a library; those marked True only inside a function.
ALLOWED = {
    "numba": lambda name: name.startswith("kernels."),
    "h5py": lambda name: name.startswith(("storage.", "bench.adapters.")) or name == "h5",
    "anndata": lambda name: name == "interop.anndata" or name.startswith("bench.adapters."),
    "scipy": lambda name: not name.startswith("kernels"),
    "matplotlib": lambda name: name == "bench.figures",
    "rich": lambda name: name == "terminal",
    "tqdm": lambda name: name == "progress",
}


@every_module
def test_libraries_have_their_place(name):
    for module, _ in imports(name):
        allowed = ALLOWED.get(module.split(".")[0])
        assert allowed is None or allowed(name), f"{name} imports {module}"
        assert not module.startswith("scipy.sparse.linalg")


@every_module
def test_kernels_are_imported_when_they_are_needed(name):
    for module, lazily in imports(name):
        if module.startswith("diskcsr.kernels") and not name.startswith("kernels"):
            assert lazily, f"{name} imports {module} at once, and with it the compiler"


KNOW_FORMATS = {"axis", "storage.formats", "storage.conventions"}


@every_module
def test_rows_and_columns_are_told_apart_in_one_place(name):
    if name in KNOW_FORMATS:
        return
    for node in ast.walk(TREES[name]):
        if not isinstance(node, ast.Compare | ast.Dict | ast.MatchValue):
            continue
        constants = {part.value for part in ast.walk(node) if isinstance(part, ast.Constant)}
        found = constants & {"csr", "csc", "csr_matrix", "csc_matrix"}
        assert not found, f"{name}, line {node.lineno}, tells {found} apart"


def test_the_kernels_know_only_arrays():
    for name in MODULES:
        if name.startswith("kernels."):
            assert {module for module, _ in imports(name)} <= {"numba", "numpy", "ctypes", "os"}


def test_public_names_are_all_there():
    for name in diskcsr.__all__:
        assert getattr(diskcsr, name) is not None
    assert len(set(diskcsr.__all__)) == len(diskcsr.__all__)


def test_every_module_says_what_it_is_for():
    for name, tree in TREES.items():
        assert ast.get_docstring(tree), name
