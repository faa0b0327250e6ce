"""What can be wrong with a stored matrix, as plain data."""

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from ...axis import CSR, axis_of
from ..formats.conventions import Header

__all__ = ["Problem", "Scan", "brief"]


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong, or worth knowing.

    Attributes
    ----------
    severity : {"error", "warning", "note"}
        error: values cannot be read or trusted. warning: read right here, but other programs may
        fail or be slow. note: no defect.
    kind : str
        A short name for programs, as "indptr-decreases".
    where : str
        The group or dataset, or "/" for the file.
    what : str
        The problem, for people.
    position, value : optional
        Of the first such element (of chunks that cannot be decoded: the chunk's number).
    count : int
        How many there are.
    repairable : bool
        Whether ``repair=True`` mends it.
    advice : str
        What to do about it otherwise.
    """

    severity: str
    kind: str
    where: str
    what: str
    position: int | None = None
    value: Any = None
    count: int = 1
    repairable: bool = False
    advice: str = ""

    def __str__(self) -> str:
        at = "" if self.position is None else f" (at {self.position}"
        at += "" if not at or self.value is None else f": {self.value}"
        more = f", {self.count} in all" if self.count > 1 else ""
        tail = " [repairable]" if self.repairable else ""
        return f"{self.severity}: {self.where}: {self.what}{at}{more}{at and ')'}{tail}"


@dataclass
class Scan:
    """What was found in one group, and what would mend it.

    Attributes
    ----------
    name : str
        Of the group.
    header : Header or None
        What the matrix is; None when that cannot be told.
    clip : (int, int) or None
        Rows along the major axis and stored elements to keep.
    restamp, unsorted : bool
        Whether the tags have to be written anew, and the indices sorted.
    """

    name: str
    header: Header | None = None
    clip: tuple[int, int] | None = None
    restamp: bool = False
    unsorted: bool = False
    _found: dict[tuple[str, str], Problem] = field(default_factory=dict)

    @property
    def majors(self) -> str:
        """What the major axis counts: rows or columns."""
        return (axis_of(self.header.format) if self.header else CSR).majors

    @property
    def problems(self) -> list[Problem]:
        """All problems, the worst first."""
        order = ("error", "warning", "note")
        return sorted(self._found.values(), key=lambda problem: order.index(problem.severity))

    def add(self, severity: str, kind: str, what: str, part: str = "", **more: Any) -> None:
        """Note a problem; of each kind in each dataset the first is kept, and the number."""
        where = f"{self.name.rstrip('/')}/{part}" if part else self.name
        new = Problem(severity, kind, where, what, **more)
        old = self._found.setdefault((kind, where), new)
        if old is not new:
            self._found[kind, where] = replace(old, count=old.count + new.count)

    def add_all(
        self, severity: str, kind: str, what: str, part: str, at: np.ndarray, base: int, values: Any
    ) -> None:
        """Note a problem of all elements ``values[at]``, of which the first lies at `base`."""
        if at.size:
            first, value = int(at[0]), values[at[0]].item()
            value = value if isinstance(value, int) else str(value)
            more = {"position": base + first, "value": value, "count": int(at.size)}
            self.add(severity, kind, what, part, **more)

    def mark(self, *kinds: str, repairable: bool = True) -> None:
        """Say that these problems can be repaired, or that they cannot."""
        for key, problem in self._found.items():
            if problem.kind in kinds:
                self._found[key] = replace(problem, repairable=repairable)

    def leave(self) -> None:
        """Plan nothing: what is wrong cannot be mended here."""
        self.clip, self.restamp, self.unsorted = None, False, False
        self.mark(*(problem.kind for problem in self.problems), repairable=False)


def brief(problem: BaseException, thing: Any) -> str:
    """Return the message of an error without the file's name, which the report has once."""
    text = str(problem).removeprefix(f"{thing.file.filename}, ")
    return " ".join(text.split()) or type(problem).__name__
