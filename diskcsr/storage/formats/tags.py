"""The tags of a matrix that is written: which of them, and what becomes of those that are there.

What each convention's tags are called and hold is said in its row of `FORMATS`.
"""

import h5py

from ...errors import FormatError
from .conventions import ARRAYS, WRITTEN, Header
from .fields import locate, read_text

__all__ = ["TAGS", "check_tags", "default_tags", "stamp", "tags_of", "tags_there"]

#: What ``tags=`` may be, and the conventions that each stands for.
TAGS = {"both": tuple(WRITTEN), **{name: (name,) for name in sorted(WRITTEN)}}


def check_tags(tags: str) -> str:
    """Return `tags` when it is one of `TAGS`.

    Raises
    ------
    ValueError
        When it is none of them.
    """
    if tags not in TAGS:
        raise ValueError(f"tags must be one of {', '.join(map(repr, TAGS))}, not {tags!r}")
    return tags


def tags_of(header: Header) -> str | None:
    """Return which tags keep a matrix in the conventions it has; None when it is only read."""
    names = set(header.convention.split("+"))
    return next((tags for tags, all_of in TAGS.items() if set(all_of) == names), None)


def tags_there(group: h5py.Group) -> str:
    """Return which tags a group has, perhaps not all of them; AnnData's when it has none."""
    h5sparse, anndata = WRITTEN["h5sparse"].tags, WRITTEN["anndata"].tags
    if h5sparse[0] not in group.attrs:
        return "anndata"
    return "both" if set(anndata) & set(group.attrs) else "h5sparse"


def stamp(group: h5py.Group, header: Header, tags: str) -> None:
    """Write the tags of a matrix; those of the other convention are removed, lest they go stale.

    Text is written as a scalar of variable-length UTF-8, shapes as two int64: what AnnData,
    h5sparse, HDF5Array and BPCells all read.

    Parameters
    ----------
    group : h5py.Group
        Open for writing; its datasets are called data, indices and indptr.
    header : Header
    tags : {"both", "anndata", "h5sparse"}

    Raises
    ------
    ValueError
        When `tags` is none of these.
    FormatError
        When the datasets have other names, which no reader of these tags would find.
    """
    check_tags(tags)
    if (header.data, header.indices, header.indptr) != ARRAYS:
        raise FormatError(
            f"{locate(group)}: the tags are for datasets named {', '.join(ARRAYS)}, not "
            f"{header.data}, {header.indices}, {header.indptr}"
        )
    for row in WRITTEN.values():
        write = row.stamp if row.name in TAGS[tags] else None
        if write is not None:
            write(group, header)
            continue
        for name in row.tags:
            if name in group.attrs:
                del group.attrs[name]


def default_tags(group: h5py.Group) -> str:
    """Return the tags to write in a group: "anndata" inside an AnnData object, else "both".

    Some readers of AnnData files take `h5sparse_format` anywhere for a file of before 2020, and
    look for tables that newer ones do not have.
    """
    while True:
        if read_text(group, "encoding-type", lenient=True) == "anndata":
            return "anndata"
        if group == group.parent:
            return "anndata" if "obs" in group and "var" in group else "both"
        group = group.parent
