"""What came of an operation: right, refused as it should be, or a finding of some class."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from slow_reader import Slow
from trust_operations import LONGEST, Keys, plain
from trust_operations import compare as compare_exactly

from .cases import Case
from .honest import Truth
from .operations import EVERY, Row
from .sources import in_memory
from .structures import is_legal, leads_outside

__all__ = ["CLASSES", "Finding", "Judge", "how_opened"]

#: What a finding may be.
CLASSES = ("crash", "hang", "wrong", "raw", "refused", "leak")
#: Errors of the library that speak of a file.
_OF_FILES = {"FormatError", "CorruptFileError", "MemoryBudgetError"}
#: Those that speak of what was asked for.
_OF_CHANGES = {"StructureError", "ReadOnlyError", "WriteError"}
#: What the library, or scipy, says of keys and operands that do not fit a matrix.
_OF_ARGUMENTS = ("matmul: dimension mismatch", "dimension mismatch", "index ", "row index")
#: Operations that need not look at values and indices.
_BLIND = ("concat, virtual",)
#: Conventions that are only read.
_READ_ONLY = {"binsparse", "matlab", "h5io", "10x", "untagged"}


@dataclass(frozen=True)
class Finding:
    """What is wrong with one operation on one case.

    Attributes
    ----------
    kind : str
        One of `CLASSES`.
    operation : str
    what : str
        The type of an error and where it was raised, or how a process ended: findings that agree in
        kind and `what` are taken for the same fault.
    text : str
        All there is to say.
    """

    kind: str
    operation: str
    what: str
    text: str

    @property
    def signature(self) -> str:
        return f"{self.kind}: {self.what}"


def how_opened(row: Row, case: Case) -> str:
    """Say how HDF5 had the file: for a change, or in a mode."""
    return "change" if row.kind == "change" else f"mode {case.mode}"


class Judge:
    """Knows what plain h5py makes of a file, and whatever else is right.

    That is what it was before it was damaged, and what is left of it with that in the gaps.
    """

    def __init__(self, case: Case, truths: tuple[Truth, ...], keys: Keys) -> None:
        self.case, self.truths, self.truth, self.keys = case, truths, truths[0], keys
        self.legal = not case.damage or (case.kind == "structures" and is_legal(case.damage))

    def __call__(self, name: str, outcome: dict[str, Any]) -> list[Finding]:
        """Return what is wrong with an outcome; most often nothing."""
        row = EVERY[name]
        found = []
        if "error" in outcome:
            found += self._error(row, outcome["error"])
            found += self._after(row, outcome)
        else:
            problem = self._value(row, outcome)
            if problem:
                what = f"{name}, {self.case.kind}, {how_opened(row, self.case)}"
                found.append(Finding("wrong", name, what, problem))
        if outcome.get("left"):
            text = ", ".join(outcome["left"])
            found.append(Finding("leak", name, text.split("/")[0].split()[0], text))
        if outcome.get("unfinished"):
            found.append(Finding("leak", name, "out.h5", "out.h5 is there after an error"))
        return found

    def _sound(self, row: Row) -> bool:
        """Whether an operation has no reason to refuse the file."""
        inside = row.kind == "change" or self.case.mode == "r+"
        return self.legal and not (inside and leads_outside(self.case.damage or []))

    # ------------------------------------------------------------------------------------ errors

    def _error(self, row: Row, error: dict[str, Any]) -> list[Finding]:
        kind = self._class_of(row, error)
        what = f"{error['type']} at {error['where']}"
        if kind is None:
            return []
        return [Finding(kind, row.name, what, f"{error['text']}\n\n{error['trace']}")]

    def _class_of(self, row: Row, error: dict[str, Any]) -> str | None:
        """Return None for an error that is as it should be."""
        classes = set(error["classes"])
        if "DiskCSRError" in classes:
            if error["type"] in _OF_CHANGES:
                return None if row.kind in ("change", "make") else "refused"
            if error["type"] == "LockedFileError" and row.name == "pickle":
                # Children have HDF5 lock files always, and this one is open for writing.
                return None if self.case.mode == "r+" else "refused"
            if error["type"] not in _OF_FILES:
                return "refused"
            if row.kind == "change" and self.case.source.convention in _READ_ONLY:  # type: ignore[union-attr]
                return None
            return "refused" if self._sound(row) and not self._scipy_raises(row, classes) else None
        if "OSError" in classes:
            return None if not self.legal and "case.h5" in error["text"] else "raw"
        if "KeyError" in classes and self.truth[0] != "slow":
            # Of a `File`, h5py's own words are what is expected.
            return None if "no object" in error["text"] or row.name == "File" else "raw"
        if row.kind == "change" and error["where"] == "arrays.py:check_exact":
            return None  # damaged values are none that the filter keeps
        if row.name in _BLIND and error["where"] == "virtual.py:_checked":
            return None  # not every matrix can be joined so
        if error["text"].startswith(_OF_ARGUMENTS) and self.truth[0] != "slow":
            return None  # it is a matrix of another shape, about which nothing is known
        return None if self._scipy_raises(row, classes) else "raw"

    def _scipy_raises(self, row: Row, classes: set[str]) -> bool:
        """Whether scipy, in memory, raises an error of such a class itself."""
        for slow in self._read():
            if slow.broken or max(slow.shape) > LONGEST:
                continue
            try:
                if row.operation is not None:
                    row.operation.run(in_memory(slow), self.keys)
                elif row.kind == "change" and row.right is not None:
                    row.right(slow.dense(), self.keys).astype(slow.dtype, casting="same_kind")
            except Exception as problem:
                return type(problem).__name__ in classes
        return False

    def _after(self, row: Row, outcome: dict[str, Any]) -> list[Finding]:
        """A change that failed has changed nothing."""
        after = outcome.get("after")
        if after is None or self._same_truth(after, self.truth):
            return []
        if "put back to its last commit" in outcome["error"]["text"] and any(
            self._compare_made(row, after, slow) is None for slow in self._read()
        ):
            return []  # it was made and committed; what failed is HDF5's way to close the file
        if self.truth[0] in ("refused", "closed"):
            # Opened for writing, HDF5 2.0.0 mends the count of messages in an object's header on
            # its own, for which it refused the object before.
            return []
        text = f"after {outcome['error']['text']}: {after[0]} {str(after[1])[:2000]}"
        return [Finding("wrong", row.name, f"{row.name} failed and changed the file", text)]

    def _same_truth(self, a: Truth, b: Truth) -> bool:
        if a[0] != b[0]:
            return "slow" not in (a[0], b[0])
        return a[0] != "slow" or (a[1].shape == b[1].shape and str(a[1].lines) == str(b[1].lines))

    # ------------------------------------------------------------------------------------ values

    def _read(self) -> list[Slow]:
        """What was read, as it is now first."""
        return [truth[1] for truth in self.truths if truth[0] == "slow"]

    def _value(self, row: Row, outcome: dict[str, Any]) -> str | None:
        if self.truth[0] == "long" or outcome["value"] is False:
            return None  # nobody can say, or nothing was done
        candidates = self._read()
        problem: str | None = f"{outcome.get('value')!r} although {self.truth}"
        for slow in candidates:
            if max(slow.shape) > LONGEST:
                return None
            if row.kind in ("read", "look"):
                problem = self._compare(row, outcome["value"], slow)
            else:
                problem = self._compare_made(row, outcome.get("made"), slow)
            if problem is None:
                return None
        if row.right is None and row.operation is None:
            return None
        if row.kind == "look" and self.truth[0] != "slow":
            return problem if row.name.startswith("check") and outcome["value"][0] else None
        if self.truth[0] != "slow" and (row.kind == "change" or row.name in _BLIND):
            return None  # what was not looked at is as unreadable as it was
        first = candidates[0] if candidates else None
        return problem if first is None or problem is None else self._first(row, outcome, first)

    def _first(self, row: Row, outcome: dict[str, Any], slow: Slow) -> str | None:
        """Say how the outcome differs from what h5py reads of the damaged file."""
        if row.kind in ("read", "look"):
            return self._compare(row, outcome["value"], slow)
        return self._compare_made(row, outcome.get("made"), slow)

    def _compare(self, row: Row, value: Any, slow: Slow) -> str | None:
        if row.kind == "look":
            if row.right is None or row.right(value, slow):
                good = not (self.legal and row.name.startswith("check") and not value[0])
                return None if good or row.right is None else f"a sound file: {value}"
            return f"{value} of {slow}"
        if isinstance(value, tuple):
            return f"of shape {value[1]}, and not {slow.shape}"
        operation = row.operation
        assert operation is not None
        if operation.exact:
            return compare_exactly(operation, value, slow, self.keys)
        if not slow.whole(operation.lines(slow, self.keys)):
            if operation.name.startswith(("sum", "mean", "count")) and all(slow.pointed):
                return None  # to add up what is stored, nobody needs to know where it is
            return f"{value!r} from lines that contradict themselves"
        if slow.repeated and slow.dtype.kind == "b":
            return None  # stored twice it counts twice, or once where scipy has added it up
        try:
            expected = plain(operation.run(in_memory(slow), self.keys))
        except Exception as problem:
            return f"{value!r}, where scipy raises {problem!r}"
        return _close(value, expected)

    def _compare_made(self, row: Row, made: Truth | None, slow: Slow) -> str | None:
        if made is None or row.right is None:
            return None
        if row.name == "check --repair" and (slow.broken or made[0] != "slow"):
            return None
        if slow.broken and (row.name in _BLIND or (row.kind == "change" and row.group == "X")):
            return None  # what was not looked at is as broken as it was
        if slow.broken and row.name != "overwrite":
            return f"made {made} of lines that contradict themselves"
        if row.name in _BLIND and (made[0] != "slow" or self.case.kind == "filters"):
            return None  # HDF5 may read what was in its memory
        if row.name == "scale" and self.case.kind == "filters" and made[1].broken:
            return None  # nor need indices be read that HDF5 takes from its memory
        if made[0] != "slow" or made[1].broken:
            return f"made what h5py cannot read: {made}"
        expected = row.right(slow.dense(), self.keys)
        if slow.repeated and row.name in ("assign", "scale"):
            return None
        return _close(made[1].dense(), np.asarray(expected))


def _close(value: Any, expected: np.ndarray) -> str | None:
    value = np.asarray(value)
    if value.shape != expected.shape:
        return f"shape {value.shape}, not {expected.shape}"
    try:
        with np.errstate(all="ignore"):
            # Half and single precision; of a complex number, each of its parts.
            tolerance = 1e-3 if expected.real.dtype.itemsize <= 4 else 1e-9
            if np.allclose(value, expected, rtol=tolerance, equal_nan=True):
                return None
            scale = np.nanmax(np.abs(expected), initial=0)
            if not np.isfinite(scale) or scale > 1e30:  # sums of such depend on their order
                return None
    except TypeError:
        pass
    return f"{value!r}, not {expected!r}"
