"""Look at everything a stored matrix consists of, and list all that is wrong with it.

The arrays are read in blocks, by the readers that also serve an open array: what cannot be read
here cannot be read there. Nothing is changed; `diskcsr.storage.check.repair` acts on what is found.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import combinations

import h5py
import numpy as np

from ...axis import axis_of
from ...errors import CorruptFileError
from ...keys.widths import INT32_MAX
from ..claims.chunks import refuse_overlap, unwritten
from ..formats.conventions import Header
from ..formats.fields import dataset_or_none
from ..read.readers import H5Reader
from .problems import Scan, brief
from .stored import BLOCK, Stored, ignore, open_arrays, readable_blocks, row_blocks, signed
from .tags import find_header, is_tagged, usual_names

__all__ = ["is_sorted", "scan", "work_of"]


@dataclass(frozen=True)
class _Pointers:
    """What the row pointers are like: how many lead nowhere wrong, and what follows those."""

    total: int
    good: int
    last: int  # of the good ones
    torn: bool  # what follows is unwritten, or leads past the stored elements in good order
    fill: bool  # what follows is unwritten


def scan(group: h5py.Group, advance: Callable[[int], None] = ignore) -> Scan:
    """Look at all of a group that is, or should be, a sparse matrix; raises nothing.

    `advance` is told of bytes that were handled, of about as many as `work_of` says.
    """
    found = Scan(str(group.name))
    try:
        _scan(group, found, advance)
    except MemoryError as problem:
        what = f"was not looked at to the end: memory ran out: {problem}".removesuffix(": ")
        advice = "Try again with more memory; a damaged file can also claim more than it holds."
        found.add("error", "ended", what, advice=advice)
    except Exception as problem:  # HDF5 meets damage in a file with nearly any exception
        found.add("error", "unreadable", f"cannot be read: {problem}")
    return found


def work_of(group: h5py.Group, whole: bool = True) -> int:
    """Bytes that looking at a group reads; without `whole`, at the order of its indices alone."""
    try:
        unseen = Scan(str(group.name))
        arrays = open_arrays(group, usual_names(group, find_header(group, unseen)), unseen)
        if not whole:
            arrays.pop("data", None)
        sizes = {part: array.size * array.reader.dtype.itemsize for part, array in arrays.items()}
        compared = [part for part, array in arrays.items() if whole and _is_compared(array)]
    except Exception:  # who looks at it notes what is wrong
        return 0
    # The row pointers once more, for those of a block; and what is compared is read twice more.
    return sum(sizes.values()) + sizes.get("indptr", 0) + 2 * sum(map(sizes.__getitem__, compared))


def _scan(group: h5py.Group, found: Scan, advance: Callable[[int], None]) -> None:
    header = found.header = find_header(group, found)
    names = usual_names(group, header)
    arrays = open_arrays(group, names, found, advance)
    if "indptr" not in arrays:
        if names[2] not in group:
            found.add("error", "missing", f"there is no dataset {names[2]!r}", names[2])
        return
    counted = ("indices",) if header is not None and header.iso else ("data", "indices")
    sizes = [arrays[part].size for part in counted if part in arrays]
    elements = min(sizes, default=0)
    pointers = _scan_pointers(arrays["indptr"], elements, found)
    rows = pointers.good - 1 if pointers.good == pointers.total else None
    n_minor = None
    if header is not None:
        n_minor = axis_of(header.format).swap(header.shape)[1]
        rows = _scan_lengths(arrays, header, pointers, counted, found)
    if "indices" in arrays:
        _scan_indices(arrays["indices"], arrays["indptr"], rows, n_minor, found)
    if "data" in arrays:
        _scan_values(arrays["data"], found)
    for array in arrays.values():
        _compare(array, found)
    _scan_places(arrays, pointers, found)
    _scan_habits(group, arrays, header, n_minor, found)
    found.unsorted = found.unsorted and header is not None
    if found.unsorted:
        found.mark("unsorted")
    if not all(array.is_own(group) for array in arrays.values()):
        found.leave()  # mending them would change another matrix, or another file


# --------------------------------------------------------------------------------- row pointers


def _scan_pointers(array: Stored, elements: int, found: Scan) -> _Pointers:
    """Check that the row pointers begin with 0, do not decrease and end within the arrays."""
    good = last = before = seen = 0
    torn, fill = True, False
    for first, raw in readable_blocks(array, 0, array.size, found):
        values = signed(raw)
        down = values < np.concatenate([[before], values[:-1]])
        negative, beyond = values < 0, values > elements
        start = (first + np.arange(values.size) == 0) & (values != 0)
        for kind, wrong, what in (
            ("indptr-start", start, "must begin with 0"),
            ("indptr-negative", negative, "must not be negative"),
            ("indptr-decreases", down, "must not decrease"),
            ("indptr-beyond", beyond, f"points past the {elements} stored elements"),
        ):
            at = np.flatnonzero(wrong)
            found.add_all("error", kind, what, array.name, at, first, values)
        if good == first:  # all was well so far
            wrong = down | negative | beyond | start
            count = int(np.argmax(wrong)) if wrong.any() else values.size
            last = int(values[count - 1]) if count else last
            good += count
            values, down = values[count:], down[count:]
            fill = bool(values.size and values[0] == 0)
        if values.size:
            torn = torn and bool((values == 0).all() if fill else not down.any())
        before, seen = int(signed(raw[-1:])[0]), seen + raw.size
    torn = torn and good > 0 and seen == array.size
    return _Pointers(array.size, good, last, torn, fill)


def _scan_lengths(
    arrays: dict[str, Stored],
    header: Header,
    pointers: _Pointers,
    counted: tuple[str, ...],
    found: Scan,
) -> int | None:
    """Compare the lengths of the arrays and the shape; plan how to mend an unfinished append.

    Returns
    -------
    int or None
        How many rows there are to rely upon; None when the row pointers cannot be.
    """
    n_major = axis_of(header.format).swap(header.shape)[0]
    rows = pointers.good - 1
    sizes = {arrays[part].name: arrays[part].size for part in counted if part in arrays}
    if pointers.total != n_major + 1:
        what = f"has {pointers.total} entries where shape {header.shape} needs {n_major + 1}"
        found.add("error", "indptr-length", what, arrays["indptr"].name, value=pointers.total)
    if len(set(sizes.values())) > 1:
        what = " but ".join(f"{name!r} has {size}" for name, size in sizes.items())
        found.add("warning", "lengths", f"{what} elements")
    if pointers.good == pointers.total == n_major + 1:
        for name, size in sizes.items():
            if size > pointers.last:
                last = found.majors.removesuffix("s")
                what = f"{size - pointers.last} elements behind the end of the last {last}"
                found.add("warning", "slack", what, name, position=pointers.last, value=size)
    if rows >= 0 and {problem.kind for problem in found.problems} & set(_CLIPPED):
        found.clip = _plan_clip(arrays, header, pointers, rows, len(set(sizes.values())) > 1)
        if found.clip:
            found.mark(*_CLIPPED)
    return rows if found.clip or pointers.good == pointers.total else None


def _plan_clip(
    arrays: dict[str, Stored], header: Header, pointers: _Pointers, rows: int, uneven: bool
) -> tuple[int, int] | None:
    """Say how many rows and elements to keep, if clipping the rest surely is right.

    Rows that all three arrays hold are kept, also where the shape does not count them yet.
    """
    n_major = axis_of(header.format).swap(header.shape)[0]
    if not rows == n_major == pointers.total - 1:
        # An append that was interrupted leaves parts that disagree. Where all but one pointer
        # agree, it may as well be that pointer that is damaged.
        unfinished = pointers.total != n_major + 1 or uneven or pointers.fill
        if not (unfinished and pointers.torn and is_tagged(header)):
            return None
    for part, array in arrays.items():
        length = rows + 1 if part == "indptr" else pointers.last
        if array.size > length and not array.dset.chunks and not (header.iso and part == "data"):
            return None  # HDF5 shortens chunked datasets only
    return rows, pointers.last


#: What `_plan_clip` may mend.
_CLIPPED = ("slack", "lengths", "indptr-length", "indptr-beyond", "indptr-decreases")


# ---------------------------------------------------------------------------- indices and values


def _scan_indices(
    array: Stored, indptr: Stored, rows: int | None, n_minor: int | None, found: Scan
) -> None:
    """Check indices: in range, and within each row sorted and each there once."""
    if rows is None:
        for first, raw in readable_blocks(array, 0, array.size, found):
            _scan_range(signed(raw), n_minor, first, array.name, found)
        return
    end = 0
    for _, pointers in row_blocks(indptr, rows):
        lo, end = int(pointers[0]), int(pointers[-1])
        before = np.zeros(0, np.int64)  # of a row longer than a block, the last index so far
        for first, raw in readable_blocks(array, lo, end, found):
            values = signed(raw)
            _scan_range(values, n_minor, first, array.name, found)
            if raw.size == end - lo:
                _scan_order(values, pointers - lo, lo, array.name, found)
            elif pointers.size == 2:
                part = np.append(before, values)
                bounds = np.array([0, part.size])
                _scan_order(part, bounds, first - before.size, array.name, found)
                before = values[-1:]
    for _ in readable_blocks(array, end, array.size, found):
        pass  # of what no row holds, only whether it can be read


def is_sorted(
    group: h5py.Group, header: Header, advance: Callable[[int], None] = ignore
) -> bool | None:
    """Whether the indices of each row ascend; None where they cannot be read or have no rows."""
    found = Scan(str(group.name))
    names = (header.data or "", header.indices or "", header.indptr)
    arrays = open_arrays(group, names, found, advance)
    if "indices" not in arrays or "indptr" not in arrays:
        return None if header.indices else True
    rows = axis_of(header.format).swap(header.shape)[0]
    pointers = _scan_pointers(arrays["indptr"], arrays["indices"].size, found)
    if pointers.good > rows:
        _scan_indices(arrays["indices"], arrays["indptr"], rows, None, found)
    broken = any(problem.severity == "error" for problem in found.problems)
    return None if broken else not found.unsorted


def _scan_range(
    values: np.ndarray, n_minor: int | None, first: int, part: str, found: Scan
) -> None:
    if n_minor is not None:
        wrong = np.flatnonzero((values < 0) | (values >= n_minor))
        what = f"out of range for a minor axis of length {n_minor}"
        found.add_all("error", "range", what, part, wrong, first, values)


def _scan_order(
    values: np.ndarray, pointers: np.ndarray, base: int, part: str, found: Scan
) -> None:
    """Look for places where the indices of a row descend, and for indices stored twice."""
    inner = np.ones(max(values.size - 1, 0), bool)
    starts = pointers[(pointers > 0) & (pointers < values.size)]
    inner[starts - 1] = False
    down = np.flatnonzero((values[1:] < values[:-1]) & inner) + 1
    place = np.arange(values.size)
    ordered = values
    if down.size:
        found.unsorted = True
        what = f"indices are not sorted within {found.majors}"
        more = "warning", "unsorted", what, part
        found.add_all(*more, down, base, values)
        row = np.repeat(np.arange(pointers.size - 1), np.diff(pointers))
        place = np.lexsort((values, row))
        ordered = values[place]
    twice = np.sort(place[1:][(ordered[1:] == ordered[:-1]) & inner])
    what = f"the same index is stored more than once within {found.majors}"
    found.add_all("warning", "duplicates", what, part, twice, base, values)


def _scan_values(array: Stored, found: Scan) -> None:
    for first, values in readable_blocks(array, 0, array.size, found):
        if values.dtype.kind in "fc":
            wrong = np.flatnonzero(~np.isfinite(values))
            what = "values are not finite"
            found.add_all("note", "non-finite", what, array.name, wrong, first, values)


# ---------------------------------------------------------------------------------------- places


def _is_compared(array: Stored) -> bool:
    """Whether HDF5 can read an array that something else reads here."""
    return not isinstance(array.reader, H5Reader) and array.hdf5_decodes()


def _compare(array: Stored, found: Scan) -> None:
    """Compare what the array's reader reads with what HDF5 itself does, as other programs will."""
    if not _is_compared(array):
        return
    for lo in range(0, array.size, BLOCK):
        hi = min(lo + BLOCK, array.size)
        try:
            values = array.read(lo, hi)
        except MemoryError:
            raise
        except Exception:
            continue  # noted when it was looked at
        try:
            theirs = array.read_by_hdf5(lo, hi)
        except CorruptFileError as problem:
            what = f"HDF5 itself cannot read what diskcsr reads: {brief(problem, array.dset)}"
            found.add("error", "hdf5", what, array.name, position=lo)
            continue
        same = values.view(np.uint8) == theirs.view(np.uint8)
        wrong = np.flatnonzero(~same.reshape(-1, values.itemsize).all(1))
        what = "HDF5 itself reads something else than diskcsr"
        found.add_all("error", "hdf5", what, array.name, wrong, lo, values)


def _scan_places(arrays: dict[str, Stored], pointers: _Pointers, found: Scan) -> None:
    """Look for chunks that nobody ever wrote, and for bytes that two arrays claim."""
    for part, array in arrays.items():
        used = pointers.good if part == "indptr" else pointers.last
        missing = unwritten(array.dset, min(used, array.size))
        if missing.size:
            what = "chunks that hold stored elements were never written, and read as the fill value"
            advice = "Unless their writer left them out, they were lost: restore the file."
            more = {"position": int(missing[0]), "count": int(missing.size), "advice": advice}
            found.add("warning", "never-written", what, array.name, **more)
    for one, other in combinations(arrays.values(), 2):
        apart = one.dset == other.dset or one.dset.file.filename != other.dset.file.filename
        if not apart and one.reader.places and other.reader.places:
            try:
                names = f"{one.name!r} and {other.name!r}"
                refuse_overlap(one.reader.places, other.reader.places, names)
            except CorruptFileError as problem:
                found.add("error", "overlap", str(problem), one.name)


# ---------------------------------------------------------------------------------------- habits


def _scan_habits(
    group: h5py.Group,
    arrays: dict[str, Stored],
    header: Header | None,
    n_minor: int | None,
    found: Scan,
) -> None:
    """Note what is legal and yet keeps some programs from reading the matrix, or slows them."""
    if is_tagged(header) and dataset_or_none(group, "shape") is not None:
        what = "a dataset called 'shape': Bioconductor takes the group for a 10x matrix"
        found.add("warning", "shape-dataset", what, "shape", advice="Rename or delete it.")
    small = n_minor is not None and n_minor <= INT32_MAX
    for part, array in arrays.items():
        dset = array.dset
        for wrong, kind, what in (
            (part != "data" and dset.dtype.kind == "u", "unsigned", "unsigned integers"),
            (dset.dtype.byteorder == ">", "big-endian", "stored big-endian"),
            (
                part == "indices" and dset.dtype.itemsize == 8 and small,
                "wide-indices",
                f"{dset.dtype} where int32 would do",
            ),
        ):
            if wrong:
                found.add("note", kind, what, array.name, value=str(dset.dtype))
