"""Links and sources that lead to other files, where HDF5 cannot follow them.

HDF5 opens another file as it opened this one. Where it reads and writes this one through a Python
file object, as all that are open for writing here are, it takes that same object for the other
file: it finds other numbers there without a word, and writes over its own.
"""

import h5py

from ...errors import CorruptFileError, FormatError, raise_if_systems

__all__ = ["refuse_foreign", "stays_inside"]

#: Links by name that may lead on to one another, as HDF5 has it.
_DEEPEST = 16


def stays_inside(file: h5py.File) -> bool:
    """Whether HDF5 takes whatever other file it is sent to for this one."""
    return bool(file.driver == "fileobj")


def refuse_foreign(group: h5py.Group, name: str | bytes) -> None:
    """Refuse a name that leads out of a file that HDF5 cannot leave.

    Raises
    ------
    FormatError
        When there is an external link on the way.
    CorruptFileError
        When HDF5 cannot tell, for the groups on the way are damaged.
    """
    if not stays_inside(group.file):
        return
    path = name.encode("utf-8", "surrogateescape") if isinstance(name, str) else name
    try:
        link = _external(group.id, path, 0)
    except (OSError, RuntimeError) as problem:
        raise_if_systems(problem, group.file.filename)
        raise CorruptFileError(
            f"{group.file.filename}, group {group.name!r}: HDF5 cannot look for {name!r}: {problem}"
        ) from problem
    if link is not None:
        raise FormatError(
            f"{group.file.filename}, group {group.name!r}: {name!r} is a link into another file, "
            f"{link!r}, which HDF5 does not find while this one is open for writing or behind a "
            "Python file object; open it by its path with mode 'r' or 'c'"
        )


def _external(where: h5py.h5g.GroupID, path: bytes, depth: int) -> str | None:
    """Return the file that a path leads to, where there is an external link on it."""
    if path.startswith(b"/"):
        where = h5py.h5g.open(where, b"/")
    parts = [part for part in path.split(b"/") if part not in (b"", b".")]
    for number, part in enumerate(parts):
        if not where.links.exists(part):
            return None  # whoever opens it says so
        kind = where.links.get_info(part).type
        if kind == h5py.h5l.TYPE_EXTERNAL:
            return str(where.links.get_val(part)[0].decode("utf-8", "replace"))
        if kind == h5py.h5l.TYPE_SOFT:
            rest = b"/".join([where.links.get_val(part), *parts[number + 1 :]])
            return _external(where, rest, depth + 1) if depth < _DEEPEST else None
        if number + 1 < len(parts):
            found = h5py.h5o.open(where, part)
            if not isinstance(found, h5py.h5g.GroupID):
                return None
            where = found
    return None
