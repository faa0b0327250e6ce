"""Making what failed smaller: fewer steps, single bits, one operation, a simpler file."""

import dataclasses
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from .bits import apply, single_bits
from .cases import OF_FILES, Case
from .examine import examine
from .judge import Finding
from .pool import Pool
from .sources import build

__all__ = ["minimise", "original", "shorter"]

_ATTEMPTS, _SECONDS = 60, 90


def minimise(case: Case, finding: Finding, pool: Pool) -> Case:
    """Return the smallest case found that has the same finding, by its signature."""
    if case.kind not in OF_FILES:
        return case
    attempts, end = 0, time.monotonic() + _SECONDS

    def fails(smaller: Case) -> bool:
        nonlocal attempts
        attempts += 1
        if attempts > _ATTEMPTS or time.monotonic() > end:
            return False
        try:
            found = examine(smaller, pool).findings
        except (RuntimeError, AssertionError):
            return False
        return any(one.signature == finding.signature for one in found)

    for change in (_one_operation, _as_bits, _fewer_steps, _simpler_source):
        case = change(case, finding, fails)
    return case


def _one_operation(case: Case, finding: Finding, fails: Callable[[Case], bool]) -> Case:
    alone = case.replace(operations=[finding.operation], together=False)
    if fails(alone):
        reading = alone.replace(mode="r")
        return reading if case.mode != "r" and fails(reading) else alone
    names = shorter(case.operations, lambda some: fails(case.replace(operations=some)))
    return case.replace(operations=names)


def _fewer_steps(case: Case, finding: Finding, fails: Callable[[Case], bool]) -> Case:
    steps = shorter(case.damage or [], lambda some: fails(case.replace(damage=some)))
    return case.replace(damage=steps)


def shorter(items: list, fails: Callable[[list], bool]) -> list:
    """Return a part of a list that fails still: leave out halves, quarters, ..., single items."""
    size = max(len(items) // 2, 1)
    while size and items:
        at = 0
        while at < len(items) and len(items) > 1:
            rest = items[:at] + items[at + size :]
            if rest and fails(rest):
                items = rest
            else:
                at += size
        size //= 2
    return items


def _as_bits(case: Case, finding: Finding, fails: Callable[[Case], bool]) -> Case:
    """Of bytes: the same as flips of bits, where these are few."""
    if case.kind != "bytes" or case.damage is None:
        return case
    case = _fewer_steps(case, finding, fails)
    raw = original(case)
    flips = single_bits(raw, case.damage or [])
    if flips is None or apply(raw, flips) != apply(raw, case.damage or []):
        return case
    return case.replace(damage=flips) if fails(case.replace(damage=flips)) else case


def original(case: Case) -> bytes:
    """The sound file, which plain h5py writes without harm."""
    assert case.source is not None
    with tempfile.TemporaryDirectory() as folder:
        build(Path(folder, "original.h5"), case.source)
        return Path(folder, "original.h5").read_bytes()


def _simpler(case: Case) -> Iterator[Case]:
    source = case.source
    assert source is not None
    rows, columns = source.shape
    changes = [
        {"shape": (max(rows // 2, 1), columns)},
        {"shape": (rows, max(columns // 2, 1))},
        {"libver": "earliest"},
        {"dtype": "f4"},
        {"index": "i4"},
        {"pointer": "i8"},
        {"ordered": True},
        {"spare": 0},
        {"filter": "none"},
        {"chunk": 0},
        {"convention": "h5sparse"},
    ]
    for change in changes:
        smaller = dataclasses.replace(source, **change)
        if smaller != source:
            yield case.replace(source=smaller)


def _simpler_source(case: Case, finding: Finding, fails: Callable[[Case], bool]) -> Case:
    """Of structures and filters; bytes would lie elsewhere."""
    if case.kind == "bytes":
        return case
    again = True
    while again:
        again = False
        for smaller in _simpler(case):
            if fails(smaller):
                case, again = smaller, True
                break
    return case
