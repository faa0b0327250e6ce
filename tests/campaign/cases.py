"""What a case is, and how case number k of a seed is drawn: always the same one."""

import dataclasses
import json
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from . import filters, sources, structures
from .operations import ROWS
from .sources import Source
from .trials import draw_trial

__all__ = ["KINDS", "Case", "draw", "kind_of", "load"]

#: Of sixteen cases in a row; those of processes that are forked, killed and looked at take longest.
_TURNS = [
    "bytes", "structures", "filters", "bytes", "structures", "faults", "bytes", "filters",
    "structures", "bytes", "interrupts", "filters", "bytes", "structures", "filters", "kills",
]  # fmt: skip
KINDS = list(dict.fromkeys(_TURNS))
#: Kinds that are a damaged file, and those that are a trial.
OF_FILES = ("bytes", "structures", "filters")
#: Operations on a file, of the whole table.
_OPERATIONS = 14
_MODES = ("r", "r", "r", "r", "r", "r", "c", "r+")


@dataclass(frozen=True)
class Case:
    """One case: all there is to know to do it again.

    Attributes
    ----------
    kind : str
        One of `KINDS`.
    seed, number : int
    source : Source or None
        The sound file that is damaged.
    damage : list or None
        Steps, each a list of plain values: what is done to that file. None, of bytes, until the
        file is there to choose from.
    operations : list of str
    mode : str
        In which matrices are opened.
    together : bool
        Whether all operations that read use one handle.
    trial : dict
        Of kinds that are no file: what is done, and what happens meanwhile.
    """

    kind: str
    seed: int
    number: int
    source: Source | None = None
    damage: list[list[Any]] | None = None
    operations: list[str] = field(default_factory=list)
    mode: str = "r"
    together: bool = False
    trial: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return f"{self.seed}:{self.number}"

    def replace(self, **changes: Any) -> "Case":
        return dataclasses.replace(self, **changes)

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self), indent=1)


def load(text: str) -> Case:
    """Return the case that `Case.to_json` wrote."""
    said = json.loads(text)
    if said["source"] is not None:
        said["source"] = Source(**{**said["source"], "shape": tuple(said["source"]["shape"])})
    return Case(**said)


def kind_of(number: int) -> str:
    return _TURNS[number % len(_TURNS)]


def draw(seed: int, number: int) -> Case:
    """Draw case `number` of `seed`."""
    kind = kind_of(number)
    rng = np.random.default_rng([seed, number])
    if kind not in OF_FILES:
        rows = [row.name for row in ROWS.values() if row.kind == "read"]
        return Case(kind, seed, number, trial=draw_trial(rng, kind, rows))
    source = sources.draw(rng, filtered=kind == "filters")
    damage = {"structures": structures.draw, "filters": filters.draw}.get(kind)
    return Case(
        kind,
        seed,
        number,
        source,
        None if damage is None else damage(rng, source),
        _some(rng),
        str(rng.choice(_MODES)),
        bool(rng.integers(4) == 0),
    )


def _some(rng: np.random.Generator) -> list[str]:
    """Choose operations; those that take a process of their own now and then only."""
    names = [row.name for row in ROWS.values() if not row.slow or rng.integers(12) == 0]
    count = min(_OPERATIONS, len(names))
    return [str(name) for name in rng.choice(names, count, replace=False)]
