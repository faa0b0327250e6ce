"""Objects of a file that lie: attributes, datasets, types, links, places where values are kept.

Each kind of step is a row of `MUTATIONS`. A legal one leaves the matrix what it was, in a form that
HDF5 allows: then nothing but the right answer will do.
"""

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from .sources import Source

__all__ = ["MUTATIONS", "apply", "draw", "is_legal", "leads_outside"]

ODD_NUMBERS = [
    -1, 0, 1, 2, 5, 7, 40, 127, 2**15, 2**31 - 1, 2**31, 2**32, 2**40, 2**63 - 1, -(2**63),
]  # fmt: skip
ODD_ARRAY_DTYPES = ["f8", "S3", "i1", "u8", "f2", "?", "c16"]
ODD_SHAPES = [
    [3, 3],
    [2, 2, 2],
    [-1, 4],
    [3.0, 4.0],
    [2.5, 3],
    [np.nan, 3],
    [4, 10**9],
    [2**62, 3],
    [4, 2**62],
    ["3", "4"],
    3,
    "3, 4",
    np.array([4, 2**63], "u8"),
]
ODD_FORMATS = [
    "csr",
    "csc",
    b"csr",
    np.array([b"csc"]),
    "coo",
    "",
    3,
    [1.5, 2],
    "csr_array",
    "\udcff",
]
#: What a header of any convention may be overwritten with.
_ODD_VALUES = [*ODD_SHAPES, *ODD_FORMATS, h5py.Empty("S1"), "{}", '{"format": "CSR"}', "x" * 60_000]
_HEADERS = {
    "h5sparse": ["h5sparse_format", "h5sparse_shape"],
    "anndata": ["encoding-type", "encoding-version", "shape"],
    "both": ["h5sparse_format", "h5sparse_shape", "encoding-type", "shape"],
    "binsparse": ["binsparse"],
    "matlab": ["MATLAB_sparse", "MATLAB_class"],
    "h5io": ["TITLE"],
    "10x": ["TITLE", "h5sparse_format"],
    "untagged": ["shape", "encoding-type"],
}
_TYPES: dict[str, Any] = {
    "text": h5py.string_dtype(),
    "lists": h5py.vlen_dtype(np.int32),
    "names": h5py.enum_dtype({"A": 0, "B": 1}, "u1"),
    "compound": np.dtype([("first", "f4"), ("second", "f4")]),  # no complex numbers
    "other compound": np.dtype([("a", "i4"), ("b", "i4", (2,))]),
    "pairs": np.dtype(("i4", (2,))),
    "references": h5py.ref_dtype,
    "opaque": np.dtype("V7"),
}


def set_entry(values: np.ndarray, at: int, number: int) -> np.ndarray:
    """Set an entry of an integer array, wrapping around as its dtype does."""
    values = values.copy()
    if values.dtype.kind in "iu" and values.size:
        bits = 8 * values.dtype.itemsize
        number %= 2**bits
        if values.dtype.kind == "i" and number >= 2 ** (bits - 1):
            number -= 2**bits
        values[at % values.size] = number
    return values


@dataclass(frozen=True)
class Mutation:
    """One kind of step: its arguments are drawn, and applied to the group ``X`` of an open file."""

    arguments: Callable[[np.random.Generator, Source], list[Any]]
    apply: Callable[..., None]
    legal: bool = False


def draw(rng: np.random.Generator, source: Source) -> list[list[Any]]:
    """Draw one to three steps, each ``[name, argument, ...]``."""
    names = list(MUTATIONS)
    steps = []
    for _ in range(int(rng.choice([1, 1, 2, 3]))):
        name = names[int(rng.integers(len(names)))]
        steps.append([name, *MUTATIONS[name].arguments(rng, source)])
    return steps


def is_legal(damage: list[list[Any]]) -> bool:
    """Whether the file is to be read as if nothing had been done to it.

    Two steps may spoil each other, so of several this is not said.
    """
    return len(damage) == 1 and MUTATIONS[damage[0][0]].legal


#: Steps, and their last arguments.
_OUTSIDE = {("moved", 2), ("virtual, sound", 1)}
#: How h5py refuses.
_REFUSALS = (TypeError, ValueError, OSError, KeyError, AttributeError, RuntimeError, MemoryError)
#: Elements that a step takes into memory.
_MOST = 10**6


def leads_outside(damage: list[list[Any]]) -> bool:
    """Whether parts are in another file, where HDF5 finds them in one that is only read."""
    return any((name, rest[-1]) in _OUTSIDE for name, *rest in damage if rest)


def apply(path: Path, source: Source, damage: list[list[Any]]) -> None:
    """Change a file. What h5py refuses to write is left as it is."""
    for name, *arguments in damage:
        file = h5py.File(path, "r+", libver=source.libver)
        with file, contextlib.suppress(*_REFUSALS):
            MUTATIONS[name].apply(file["X"], *arguments)


# -------------------------------------------------------------------------------------- arguments


def _array(rng: np.random.Generator, source: Source) -> list[Any]:
    return [source.names[int(rng.integers(3))]]


def _integers(rng: np.random.Generator, source: Source) -> list[Any]:
    return [source.names[int(rng.choice([1, 2, 2]))]]


def _below(*counts: int) -> Callable[[np.random.Generator, Source], list[Any]]:
    return lambda rng, source: [int(rng.integers(n)) for n in counts]


def _with_array(*counts: int) -> Callable[[np.random.Generator, Source], list[Any]]:
    return lambda rng, source: _array(rng, source) + _below(*counts)(rng, source)


def _attribute(rng: np.random.Generator, source: Source) -> list[Any]:
    return [str(rng.choice(_HEADERS[source.convention])), int(rng.integers(len(_ODD_VALUES)))]


# ------------------------------------------------------------------------------------- what it does


def _values(group: h5py.Group, name: str) -> np.ndarray:
    if group[name].size > _MOST:
        raise ValueError(f"{name} is too long")
    return np.asarray(group[name][()])


def _store(group: h5py.Group, name: str, values: Any, **how: Any) -> None:
    """Put other values in a dataset's place, chunked as it was."""
    old = group[name]
    if isinstance(old, h5py.Dataset) and old.chunks and np.ndim(values) == 1:
        how = {"chunks": old.chunks, "maxshape": (None,), **how}
    del group[name]
    group.create_dataset(name, data=values, **how)


def _set_attribute(group: h5py.Group, name: str, which: int) -> None:
    group.attrs[name] = _ODD_VALUES[which]


def _drop_attribute(group: h5py.Group, name: str, which: int) -> None:
    del group.attrs[name]


def _entry(group: h5py.Group, name: str, at: int, which: int) -> None:
    values = _values(group, name)
    group[name][...] = set_entry(values, at, ODD_NUMBERS[which])


def _exchange(group: h5py.Group, name: str, seed: int) -> None:
    values = _values(group, name)
    group[name][...] = np.random.default_rng(seed).permutation(values)


def _length(group: h5py.Group, name: str, less: int) -> None:
    values = _values(group, name)
    _store(group, name, np.resize(values, max(values.size + 3 - less, 0)))


def _claim(group: h5py.Group, name: str, power: int) -> None:
    """Claim elements that nobody wrote."""
    dtype = group[name].dtype
    del group[name]
    how = {"chunks": (1024,), "maxshape": (None,)} if power % 2 else {}
    group.create_dataset(name, shape=(2 ** (20 + power),), dtype=dtype, **how)


def _type(group: h5py.Group, name: str, which: int) -> None:
    values = _values(group, name)
    kinds = [*ODD_ARRAY_DTYPES, *_TYPES]
    kind = kinds[which % len(kinds)]
    if kind in ODD_ARRAY_DTYPES:
        _store(group, name, values.astype(kind))
        return
    del group[name]
    group.create_dataset(name, shape=values.shape, dtype=_TYPES[kind])


def _object(group: h5py.Group, name: str, which: int) -> None:
    """Put something else in a dataset's place."""
    values = _values(group, name)
    del group[name]
    things: list[Callable[[], Any]] = [
        lambda: None,
        lambda: group.create_group(name),
        lambda: group.__setitem__(name, h5py.SoftLink("/nowhere")),
        lambda: group.__setitem__(name, h5py.SoftLink(f"/X/{name}")),
        lambda: group.__setitem__(name, h5py.ExternalLink("missing.h5", "/X")),
        lambda: group.__setitem__(name, h5py.ExternalLink("case.h5", f"/X/{name}")),
        lambda: group.create_dataset(name, data=values[None]),
        lambda: group.create_dataset(name, data=np.float64(3)),
        lambda: group.create_dataset(name, data=h5py.Empty("f4")),
        lambda: group.__setitem__(name, np.dtype("f4")),
        lambda: group.__setitem__(name, group),
    ]
    things[which]()


def _same(group: h5py.Group, name: str, which: int) -> None:
    """Make one array another one as well."""
    others = [key for key in group if isinstance(group[key], h5py.Dataset)]
    if not others:  # an earlier step took them away
        return
    target = group[others[which % len(others)]]
    del group[name]
    group[name] = target


def _virtual(group: h5py.Group, name: str, which: int) -> None:
    """Make an array a virtual dataset: of itself, of nothing, of too little, of another file."""
    values = _values(group, name)
    sources = [
        (".", f"/X/{name}", values.size),
        ("missing.h5", "/X/data", values.size),
        (".", "/nowhere", values.size),
        (".", f"/X/{name} old", max(values.size - 3, 1)),
        (".", f"/X/{name} old", values.size + 9),
    ]
    _make_virtual(group, name, values, *sources[which])


def _make_virtual(group: Any, name: str, values: Any, file: str, path: str, size: int) -> None:
    layout = h5py.VirtualLayout(values.shape, values.dtype)
    length = min(size, values.size)
    layout[:length] = h5py.VirtualSource(file, path, (size,), values.dtype)[:length]
    group.move(name, f"{name} old")
    group.create_virtual_dataset(name, layout)


def _sound_virtual(group: h5py.Group, name: str, which: int) -> None:
    values = _values(group, name)
    if not values.size:
        return
    if which:
        other = Path(group.file.filename).parent / "other.h5"
        with h5py.File(other, "w") as file:
            file[f"X/{name} old"] = values
    _make_virtual(group, name, values, "other.h5" if which else ".", f"/X/{name} old", values.size)


def _external(group: h5py.Group, name: str, which: int) -> None:
    """Keep an array in a file of its own: missing, short, a device, or further on than it goes."""
    values = _values(group, name)
    place = Path(group.file.filename).parent / "values.bin"
    place.write_bytes(values.tobytes()[: values.nbytes // 2])
    segments = [
        ("missing.bin", 0, h5py.h5f.UNLIMITED),
        (str(place), 0, h5py.h5f.UNLIMITED),
        ("/dev/zero", 0, h5py.h5f.UNLIMITED),
        (str(place), 1 << 40, h5py.h5f.UNLIMITED),
        (str(place.parent), 0, h5py.h5f.UNLIMITED),
    ]
    del group[name]
    group.create_dataset(
        name, shape=values.shape, dtype=values.dtype, external=[segments[which % len(segments)]]
    )


def _sound_external(group: h5py.Group, name: str) -> None:
    values = _values(group, name)
    place = Path(group.file.filename).parent / "values.bin"
    place.write_bytes(b"?" * 5 + values.tobytes())
    if not values.size:
        return
    del group[name]
    group.create_dataset(
        name,
        shape=values.shape,
        dtype=values.dtype,
        external=[(str(place), 5, h5py.h5f.UNLIMITED)],
    )


def _moved(group: h5py.Group, name: str, how: int) -> None:
    """Keep an array elsewhere, behind a link."""
    place = f"/elsewhere {name}"
    group.move(name, place)
    if how == 2:
        with h5py.File(Path(group.file.filename).parent / "other.h5", "w") as other:
            group.file.copy(place, other, place)
    links = [
        lambda: group[place],
        lambda: h5py.SoftLink(place),
        lambda: h5py.ExternalLink("other.h5", place),
    ]
    group[name] = links[how]()


def _compact(group: h5py.Group, name: str) -> None:
    values = _values(group, name)
    if not values.size or values.nbytes > 60_000:
        return
    properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    properties.set_layout(h5py.h5d.COMPACT)
    stored = group[name].id.get_type()
    del group[name]
    space = h5py.h5s.create_simple(values.shape)
    where = h5py.h5d.create(group.id, name.encode(), stored, space, properties)
    h5py.Dataset(where)[...] = values


def _company(group: h5py.Group, which: int) -> None:
    """Add what is no business of a matrix."""
    if which == 0:
        for number in range(60):
            group.attrs[f"note {number}"] = "x" * number * 20
    elif which == 1:
        group["itself"] = group
        group["nowhere"] = h5py.SoftLink("/nowhere")
    elif which == 2:
        group.attrs["names"] = np.array(["a", "b" * 999], dtype=h5py.string_dtype())
        group.attrs["place"] = group.ref
    else:
        for number in range(30):
            group.create_group(f"part {number}/deeper")


def _unwritten(group: h5py.Group, name: str, which: int) -> None:
    """Leave a chunk out that was never written."""
    values = _values(group, name)
    chunk = 5
    old = group[name].dtype
    del group[name]
    dset = group.create_dataset(name, shape=values.shape, dtype=old, chunks=(chunk,))
    for lo in range(0, values.size, chunk):
        if lo // chunk != which:
            dset[lo : lo + chunk] = values[lo : lo + chunk]


def _fixed(group: h5py.Group, name: str) -> None:
    values = _values(group, name)
    if values.size:
        dtype = group[name].dtype
        del group[name]
        group.create_dataset(name, data=values, dtype=dtype, chunks=(min(5, values.size),))


MUTATIONS: dict[str, Mutation] = {
    "attribute": Mutation(_attribute, _set_attribute),
    "no attribute": Mutation(_attribute, _drop_attribute),
    "entry": Mutation(
        lambda rng, source: _integers(rng, source) + _below(64, len(ODD_NUMBERS))(rng, source),
        _entry,
    ),
    "pointer": Mutation(
        lambda rng, source: [source.names[2], *_below(64, len(ODD_NUMBERS))(rng, source)], _entry
    ),
    "order": Mutation(
        lambda rng, source: [*_integers(rng, source), int(rng.integers(99))], _exchange
    ),
    "length": Mutation(_with_array(12), _length),
    "claim": Mutation(_with_array(33), _claim),
    "type": Mutation(_with_array(len(ODD_ARRAY_DTYPES) + len(_TYPES)), _type),
    "object": Mutation(_with_array(11), _object),
    "same": Mutation(_with_array(3), _same),
    "virtual": Mutation(_with_array(5), _virtual),
    "external": Mutation(_with_array(5), _external),
    "unwritten": Mutation(_with_array(4), _unwritten),
    "virtual, sound": Mutation(_with_array(2), _sound_virtual, legal=True),
    "external, sound": Mutation(_array, _sound_external, legal=True),
    "moved": Mutation(_with_array(3), _moved, legal=True),
    "compact": Mutation(_array, _compact, legal=True),
    "company": Mutation(_below(4), _company, legal=True),
    "fixed": Mutation(_array, _fixed, legal=True),
}
