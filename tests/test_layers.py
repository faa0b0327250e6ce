"""Imports go down: a room knows only those below it. Libraries and formats have their place.

``python tests/test_layers.py`` prints the rooms from the top down, which rooms each imports, and
the lines of its modules.
"""

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import diskcsr

ROOT = Path(diskcsr.__file__).parent

#: The rooms from the bottom up, and of the rooms above it in this table those that each imports.
#: A room is a package or, at the top of the tree, a module; inside a room modules may import one
#: another, as long as they go round in no circle.
ROOMS = {
    "errors": "",
    "axis": "",
    "breakeven": "",
    "machine": "errors",
    "loading": "machine",
    "kernels": "errors loading",
    "keys": "errors axis breakeven kernels",
    "streams": "errors axis kernels machine keys",
    # What touches a file.
    "storage": "",
    "storage.journal": "errors machine",
    "storage.files": "errors machine storage.journal",
    "storage.claims": "errors machine storage.journal storage.files",
    "storage.remote": "errors loading machine storage.claims",
    "storage.formats": "errors axis storage.files storage.claims storage.remote",
    "storage.codecs": "errors breakeven loading kernels",
    "storage.read": "errors axis breakeven kernels machine keys "
    "storage.files storage.claims storage.remote storage.formats storage.codecs",
    "storage.write": "errors machine keys streams "
    "storage.journal storage.files storage.claims storage.formats storage.codecs",
    # Whole lines of what an array shows; what edits and checks a file walks over them, too.
    "blocks": "errors axis kernels machine keys "
    "storage.files storage.remote storage.formats storage.read",
    "storage.edit": "errors axis breakeven keys "
    "storage.files storage.claims storage.formats storage.codecs storage.read storage.write "
    "blocks",
    "storage.check": "errors axis machine keys storage.journal storage.files storage.claims "
    "storage.remote storage.formats storage.codecs storage.read blocks",
    # Sums, products and statistics of all that there is.
    "compute": "axis loading kernels machine keys blocks",
    # Sources that are no sparse matrix in HDF5.
    "importing": "errors axis loading machine streams storage.formats",
    # What users hold.
    "interop": "loading machine blocks",
    "protocol": "errors axis breakeven machine keys "
    "storage.formats storage.read storage.check blocks compute interop",
    "writing": "errors axis machine keys streams storage.journal storage.formats storage.read "
    "storage.write blocks storage.edit importing interop protocol",
    "array": "axis storage.write compute protocol writing",
    "linalg": "compute protocol",
    "h5": "errors axis machine storage.files storage.claims storage.formats storage.write "
    "protocol writing array",
    "exporting": "errors axis loading machine keys streams storage.formats storage.write blocks "
    "importing protocol writing",
    # The package itself: public names only.
    "diskcsr": "errors machine storage.check blocks protocol writing exporting array linalg h5",
    # Above everything.
    "bench": "axis machine storage.files storage.formats storage.codecs diskcsr",
    "__main__": "errors importing machine storage.check exporting diskcsr bench",
}


def name_of(path):
    """Name of a module inside the package; "" for the package itself."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {name_of(path): path for path in sorted(ROOT.rglob("*.py"))}
TREES = {name: ast.parse(path.read_text()) for name, path in MODULES.items()}
every_module = pytest.mark.parametrize("name", MODULES, ids=lambda name: name or "diskcsr")


def room_of(name):
    """The room a module lies in: of those whose name its own begins with, the innermost."""
    if not name:
        return "diskcsr"
    return max((room for room in ROOMS if f"{name}.".startswith(f"{room}.")), key=len, default=None)


def running(tree):
    """Walk a tree, but for what stands there for type checkers alone and is never imported."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING":
            for other in node.orelse:
                yield other
                yield from running(other)
            continue
        yield node
        yield from running(node)


def imports(name, searched=None):
    """Yield what a module imports, as full dotted names; functions are looked into, too."""
    package = name if MODULES[name].name == "__init__.py" else name.rpartition(".")[0]
    above = ["diskcsr", *filter(None, package.split("."))]
    for node in searched or running(TREES[name]):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name
        elif isinstance(node, ast.ImportFrom):
            base = above[: len(above) - node.level + 1] if node.level else []
            module = ".".join([*base, *filter(None, [node.module])])
            for alias in node.names:
                # ``from .read import maps`` imports a module, ``from .axis import CSR`` a name.
                full = f"{module}.{alias.name}"
                is_module = full.removeprefix("diskcsr.") in MODULES and full.startswith("diskcsr.")
                yield full if is_module else module


def own_imports(name):
    """Yield the modules of this package that a module imports."""
    for module in imports(name):
        if module.split(".")[0] == "diskcsr":
            yield module.removeprefix("diskcsr").lstrip(".")


def test_every_module_lies_in_a_room():
    assert [name for name in MODULES if room_of(name) is None] == []
    assert {room_of(name) for name in MODULES} == set(ROOMS)


def test_the_table_names_rooms_above_alone():
    known = []
    for room, below in ROOMS.items():
        assert set(below.split()) <= set(known), room
        known.append(room)


@every_module
def test_a_module_imports_the_rooms_that_the_table_names(name):
    room = room_of(name)
    allowed = {room, *ROOMS[room].split()}
    found = {room_of(other) for other in own_imports(name)}
    assert found <= allowed, f"{name} imports {sorted(found - allowed)}"


def test_no_room_is_allowed_what_it_does_not_use():
    for room, below in ROOMS.items():
        used = {
            room_of(other)
            for name in MODULES
            if room_of(name) == room
            for other in own_imports(name)
        }
        assert set(below.split()) <= used, room


def test_modules_go_round_in_no_circle():
    # Of the package itself only ``__main__`` and the benchmark know; it is left out.
    graph = {
        name: {other for other in own_imports(name) if other != name and other}
        for name in MODULES
        if name
    }
    assert list(TopologicalSorter(graph).static_order())


#: Which modules may import a library.
ALLOWED = {
    "numba": lambda name: name.startswith("kernels."),
    "h5py": lambda name: name.startswith(("storage.", "bench.adapters.")) or name == "h5",
    "dask": lambda name: name == "interop.dask",
    "anndata": lambda name: name == "interop.anndata" or name.startswith("bench.adapters."),
    "fast_array_utils": lambda name: name == "interop.fast_array_utils",
    "scipy": lambda name: not name.startswith("kernels"),
    "matplotlib": lambda name: name == "bench.figures",
    "rich": lambda name: name in ("machine.terminal", "machine.bars"),
    "pyarrow": lambda name: name == "importing.tables" or name.startswith("bench.adapters."),
    "sklearn": lambda name: name in ("importing.svmlight", "linalg.estimator"),
    "torch": lambda name: name == "interop.torch",
    "tqdm": lambda name: name == "machine.bars",
}


@every_module
def test_libraries_have_their_place(name):
    for module in imports(name):
        allowed = ALLOWED.get(module.split(".")[0])
        assert allowed is None or allowed(name), f"{name} imports {module}"
        # ARPACK and more come with it: only what measures them has it, when it is asked for.
        assert not module.startswith("scipy.sparse.linalg") or room_of(name) == "bench"


@every_module
def test_kernels_are_imported_when_they_are_needed(name):
    # ``from .. import kernels`` loads none of them; naming one in an import would.
    if room_of(name) != "kernels":
        found = {module for module in imports(name) if module.startswith("diskcsr.kernels.")}
        assert not found, f"{name} imports {found}, and with it the compiler"


KNOW_FORMATS = {"axis", "storage.formats.detect", "storage.formats.conventions"}


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


#: What stands beside the kernels: how they are compiled, and where they are kept.
BESIDE = {"caching", "kept"}
KERNELS = [
    name for name in MODULES if name.startswith("kernels.") and name.split(".")[1] not in BESIDE
]


@pytest.mark.parametrize("name", KERNELS)
def test_the_kernels_know_only_arrays(name):
    known = {"numba", "numpy", "ctypes", "os", "diskcsr.kernels", "diskcsr.kernels.caching"}
    known |= {"diskcsr.kernels.planning"}
    if name == "kernels.panels":  # numba has vectors of the processor by LLVM alone
        known |= {"llvmlite", "numba.extending", "diskcsr.kernels.products"}
    assert {*imports(name)} <= known


@pytest.mark.parametrize("name", KERNELS)
def test_one_module_decides_how_kernels_are_compiled(name):
    taken = {
        alias.name
        for node in ast.walk(TREES[name])
        if isinstance(node, ast.ImportFrom) and node.module == "numba"
        for alias in node.names
    }
    assert taken <= {"config", "types"}, f"{name}: njit is that of diskcsr.kernels.caching"


def test_public_names_are_all_there():
    for name in diskcsr.__all__:
        assert getattr(diskcsr, name) is not None
    assert len(set(diskcsr.__all__)) == len(diskcsr.__all__)


def test_every_module_says_what_it_is_for():
    for name, tree in TREES.items():
        assert ast.get_docstring(tree), name


#: Lines beyond which a module holds more than one idea.
LONGEST = 450


def lines_of(name):
    return len(MODULES[name].read_text().splitlines())


def test_a_module_is_not_too_long_to_read():
    assert {name: lines_of(name) for name in MODULES if lines_of(name) > LONGEST} == {}


def rooms_as_text():
    """Yield the lines of the table: each room with those it imports, and below it its modules."""
    for room in reversed(ROOMS):
        names = [name for name in MODULES if room_of(name) == room]
        used = {room_of(other) for name in names for other in own_imports(name)} - {room}
        arrows = ", ".join(below for below in reversed(ROOMS) if below in used)
        yield f"{room} -> {arrows}" if arrows else room
        for name in names:
            if MODULES[name].name != "__init__.py":
                yield f"  {lines_of(name):>4} {name.removeprefix(f'{room}.')}"


if __name__ == "__main__":
    print("\n".join(rooms_as_text()))
