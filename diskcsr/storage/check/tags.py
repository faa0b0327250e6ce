"""The tags of a group that may be damaged: what they say, and which of two that differ is right."""

import h5py

from ...axis import CSC, CSR
from ...errors import DiskCSRError
from ..formats.conventions import ARRAYS, SHAPE_TAGS, WRITTEN, Header
from ..formats.detect import detect
from ..formats.fields import dataset_or_none, lengths, read_attribute
from ..formats.tags import tags_of
from .problems import Scan, brief

__all__ = ["find_header", "is_tagged", "usual_names"]

#: Names of indptr in any convention, with those of the other two, for groups without valid tags.
_NAMES = (ARRAYS, ("values", "indices_1", "pointers_to_1"), ("data", "ir", "jc"))


def find_header(group: h5py.Group, found: Scan) -> Header | None:
    """Say what the matrix is; where tags contradict one another, what only one of them allows."""
    try:
        header = detect(group)
    except DiskCSRError as problem:
        settled = _settle(group)
        found.restamp = settled is not None
        found.add(
            "error",
            "tags",
            brief(problem, group),
            repairable=found.restamp,
            advice="" if settled else "Open it with format= and shape=, and write it anew.",
        )
        return settled
    missing = [
        name
        for convention in header.convention.split("+")
        if convention in WRITTEN
        for name in WRITTEN[convention].tags
        if name not in group.attrs
    ]
    if missing:
        found.restamp = True
        what = f"attribute {' and '.join(map(repr, missing))} missing beside the other tags"
        found.add("warning", "tags-incomplete", what, repairable=True)
    return header


def _settle(group: h5py.Group) -> Header | None:
    """Return the one reading of contradicting tags that the length of indptr allows, if one."""
    indptr = dataset_or_none(group, "indptr")
    shapes = []
    for name in SHAPE_TAGS:
        try:
            value = read_attribute(group, name)
            shapes += [] if value is None else [lengths(value, 2, name)]
        except DiskCSRError:
            continue
    fitting = []
    for axis in (CSR, CSC):
        for shape in dict.fromkeys(shapes):
            try:
                header = detect(group, format=axis.format, shape=shape)
            except DiskCSRError:
                continue
            if is_tagged(header) and indptr is not None and shape[axis.major] + 1 == indptr.size:
                fitting.append(header)
    return fitting[0] if len(fitting) == 1 else None


def usual_names(group: h5py.Group, header: Header | None) -> tuple[str, str, str]:
    """Names of the datasets; where the header lacks them, those that are usual with its indptr."""
    pointers = [names for names in _NAMES if names[2] in group]
    if header is not None:
        pointers = [names for names in _NAMES if names[2] == header.indptr]
    return pointers[0] if pointers else ARRAYS


def is_tagged(header: Header | None) -> bool:
    """Whether the tags are of the conventions that are written, too."""
    return header is not None and tags_of(header) is not None
