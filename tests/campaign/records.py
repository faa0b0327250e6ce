"""What is kept: a line for each case that was done, a folder for each finding, and the table."""

import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

from .cases import KINDS, Case
from .examine import Result
from .judge import CLASSES, Finding
from .leftovers import is_known

__all__ = ["Records"]

#: Folders kept of findings that look alike.
_ALIKE = 3


class Records:
    """A folder: ``done.jsonl``, in which later lines about a case replace earlier ones."""

    def __init__(self, folder: Path, resume: bool) -> None:
        self.folder, self.path = folder, folder / "done.jsonl"
        folder.mkdir(parents=True, exist_ok=True)
        self.done: dict[str, dict[str, Any]] = {}
        if not resume:
            self.path.unlink(missing_ok=True)
            shutil.rmtree(folder / "findings", ignore_errors=True)
        elif self.path.exists():
            for line in self.path.read_text().splitlines():
                if line.endswith("}"):  # the last may have been cut short
                    said = json.loads(line)
                    self.done[said["case"]] = said

    def add(self, result: Result, seconds: float) -> None:
        """Count a case."""
        said = {
            "case": result.case.name,
            "kind": result.case.kind,
            "honest": result.honest,
            "outcomes": dict(Counter(result.outcomes)),
            "findings": [[one.kind, one.operation, one.what] for one in result.findings],
            "seconds": round(seconds, 2),
        }
        self.done[said["case"]] = said
        with self.path.open("a") as file:
            file.write(json.dumps(said) + "\n")

    def wanted(self, finding: Finding) -> bool:
        """Whether so few are kept that look like this one that it is worth making small."""
        return len(list(self._alike(finding).glob("*"))) < _ALIKE

    def _alike(self, finding: Finding) -> Path:
        name = "".join(c if c.isalnum() or c in " .,_-" else "_" for c in finding.signature)
        return self.folder / "findings" / name[:120]

    def place(self, case: Case, finding: Finding) -> Path:
        """Return a new folder for a finding."""
        operation = "".join(c if c.isalnum() else "_" for c in finding.operation)
        return self._alike(finding) / f"{case.seed}-{case.number}-{operation}"[:100]

    def keep(self, place: Path, case: Case, finding: Finding) -> None:
        """Write down a case that was made small, and how to see it again."""
        place.mkdir(parents=True, exist_ok=True)
        (place / "case.json").write_text(case.to_json())
        (place / "finding.txt").write_text(
            f"{finding.signature}\noperation: {finding.operation}\n\n"
            f"python -m tests.campaign --case {place / 'case.json'}\n\n{finding.text}\n"
        )

    def with_findings(self) -> list[str]:
        """Names of the cases that are to be tried again when code has changed."""
        return [name for name, said in self.done.items() if said["findings"]]

    # -------------------------------------------------------------------------------- the table

    def findings(self) -> Counter[tuple[str, str, str]]:
        """Count findings by class, operation and what is said."""
        return Counter(tuple(one) for said in self.done.values() for one in said["findings"])

    def news(self) -> list[str]:
        """Signatures that are not on the list of what is known."""
        found = {f"{kind}: {what}" for kind, _, what in self.findings()}
        return sorted(one for one in found if not is_known(one))

    def table(self) -> str:
        """Return cases and operations by kind, errors by class, and findings."""
        head = ["kind", "cases", "operations", "right", "errors", "also h5py", *CLASSES, "seconds"]
        lines, total = [head], Counter[str]()
        for kind in KINDS:
            row = self._row(kind)
            total += row
            lines.append([kind, *(str(row[name]) for name in head[1:])])
        lines.append(["all", *(str(total[name]) for name in head[1:])])
        widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
        text = [
            "  ".join(cell.ljust(w) if i == 0 else cell.rjust(w)
                      for i, (cell, w) in enumerate(zip(line, widths, strict=True)))
            for line in lines
        ]  # fmt: skip
        return "\n".join([*text, "", *self._notes()])

    def _row(self, kind: str) -> Counter[str]:
        row = Counter[str]()
        for said in self.done.values():
            if said["kind"] != kind:
                continue
            row["cases"] += 1
            row["seconds"] += round(said["seconds"])
            for outcome, count in said["outcomes"].items():
                row["operations"] += count
                if outcome not in CLASSES:
                    row[_column(outcome)] += count
            for found in said["findings"]:
                row[found[0]] += 1
        return row

    def _notes(self) -> list[str]:
        errors, honest, also = Counter[str](), Counter[str](), Counter[str]()
        for said in self.done.values():
            honest[said["honest"]] += 1
            for outcome, count in said["outcomes"].items():
                if _column(outcome) == "errors":
                    errors[outcome] += count
                elif _column(outcome) == "also h5py":
                    also[outcome.removeprefix("also h5py: ")] += count
        del honest[""]
        notes = [
            "errors: " + ", ".join(f"{name} {count}" for name, count in errors.most_common()),
            "also h5py: " + "; ".join(f"{name}: {count}" for name, count in also.most_common()),
            "files, by plain h5py: "
            + ", ".join(f"{n} {count}" for n, count in honest.most_common()),
        ]
        alike = Counter[tuple[str, str]]()
        for (kind, _, what), count in self.findings().items():
            alike[kind, what] += count
        for (kind, what), count in alike.most_common():
            known = "  (known)" if is_known(f"{kind}: {what}") else ""
            notes.append(f"{count:5} {kind}: {what}{known}")
        return notes


def _column(outcome: str) -> str:
    if outcome.startswith(("also h5py", "not made")):
        return "also h5py"
    if outcome.endswith("Error"):
        return "errors"
    return "right"
