"""One case from beginning to end: made, read honestly, operated on, judged."""

import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trust_operations import Keys, make_keys

from .cases import OF_FILES, Case
from .honest import Truth
from .judge import Finding, Judge, how_opened
from .operations import EVERY
from .pool import Ended, Pool

__all__ = ["Result", "examine"]

#: Seconds of a processor that an operation, a trial, and a look by h5py may take; most take some
#: hundredths. Four times as long by the clock.
LIMIT, TRIAL, LOOK = 15.0, 120.0, 15.0


@dataclass
class Result:
    """What came of a case.

    Attributes
    ----------
    case : Case
        With its damage.
    outcomes : list of str
        Of each operation: "right", "refused: ...", the class of a finding, ...
    findings : list of Finding
    honest : str
        What plain h5py made of it: "slow", "refused", ..., "crash", "hang".
    """

    case: Case
    outcomes: list[str] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    honest: str = ""


@contextmanager
def _folder(pool: Pool) -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(dir=pool.folder))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def examine(case: Case, pool: Pool, keep: Path | None = None) -> Result:
    """Do a case; `keep` is a folder its files are copied to."""
    with _folder(pool) as folder:
        result = (
            _of_file(case, pool, folder) if case.kind in OF_FILES else _trial(case, pool, folder)
        )
        if keep is not None:
            shutil.copytree(folder, keep, dirs_exist_ok=True)
        return result


def _one(pool: Pool, role: str, what: str, *arguments: Any, limit: float) -> Any:
    (answer,) = list(pool[role].ask(what, *arguments, limit=limit))
    return answer


def _of_file(case: Case, pool: Pool, folder: Path) -> Result:
    try:
        case, before = _one(pool, "honest", "make", case, folder, limit=LOOK)
    except Ended as end:  # by h5py, when it was to write what lies
        return Result(case, [f"not made: {end.how}"], honest=end.how)
    assert case.source is not None
    path = folder / "case.h5"
    try:
        truth: Truth
        truth, mended = _one(pool, "honest", "read", path, case.source.convention, limit=LOOK)
    except Ended as end:
        truth = mended = end.how, end.signal
    slow = truth[1] if truth[0] == "slow" else None
    shape = case.source.shape if slow is None or max(slow.shape) > 10**5 else slow.shape
    major = int(case.source.format == "csc") if slow is None else slow.major
    keys = make_keys(shape, case.seed + case.number, major)
    judge = Judge(case, (truth, mended, before), keys)
    result = Result(case, honest=truth[0])
    for name, outcome in _outcomes(case, pool, folder, keys):
        if isinstance(outcome, Ended):
            _add_end(result, judge, name, outcome, pool, folder)
            continue
        found = judge(name, outcome)
        result.findings += found
        error = outcome.get("error")
        said = "right" if error is None else error["type"]
        result.outcomes.append(found[0].kind if found else said)
    return result


def _outcomes(case: Case, pool: Pool, folder: Path, keys: Keys) -> Iterator[tuple[str, Any]]:
    """Yield each operation's outcome; when one ends the process, the next begin in another."""
    left, hangs = list(case.operations), 0
    while left and hangs < 2:
        try:
            some = case.replace(operations=left)
            for outcome in pool["operate"].ask("operate", some, folder, keys, limit=LIMIT):
                yield left.pop(0), outcome
        except Ended as end:
            shutil.rmtree(folder / "scratch", ignore_errors=True)
            if not left:  # while it closed what all had used
                yield case.operations[-1], end
                return
            hangs += end.how == "hang"
            yield left.pop(0), end
            case = case.replace(together=False)


def _add_end(result: Result, judge: Judge, name: str, end: Ended, pool: Pool, folder: Path) -> None:
    """A crash or hang: of ours, or one that plain h5py has as well."""
    also = judge.truth[0] in ("crash", "hang")
    if not also and (EVERY[name].kind == "change" or result.case.mode == "r+"):
        also = _writing_ends(pool, folder)
    how = how_opened(EVERY[name], result.case)
    if also:
        result.outcomes.append(f"also h5py: {end.how}, {how}")
        return
    lines = [line for line in end.trace.splitlines() if "diskcsr" in line or "h5py" in line]
    where = lines[0].strip().rpartition("/")[2] if lines else "?"
    result.outcomes.append(end.how)
    text = f"{end.signal}; plain h5py: {judge.truth[0]}\n{end.trace}"
    result.findings.append(Finding(end.how, name, f"{end.signal} in {where}, {how}", text))


def _writing_ends(pool: Pool, folder: Path) -> bool:
    """Whether plain h5py crashes or hangs when it changes the file."""
    with _folder(pool) as copy:
        shutil.copytree(folder, copy, dirs_exist_ok=True)
        try:
            _one(pool, "honest", "probe", copy, limit=LOOK)
        except Ended:
            return True
    return False


def _trial(case: Case, pool: Pool, folder: Path) -> Result:
    name = f"{case.trial['how']}, {case.trial['name']}"
    try:
        answer = _one(pool, "trial", "trial", case, folder, limit=TRIAL)
    except Ended as end:
        text = f"{end.signal}\n{end.trace}"
        return Result(case, [end.how], [Finding(end.how, name, end.signal, text)])
    if "found" in answer:
        return Result(case, [answer["found"]])
    text = answer["problem"]
    kind = "hang" if text == "hang" else "crash" if text.startswith("SIG") else "wrong"
    if "left" in text.partition("\n")[0]:
        kind = "leak"
    if text.startswith("Traceback") or "raised" in text:
        kind = "raw"
    what = _words(text)
    return Result(case, [kind], [Finding(kind, name, what, text)])


def _words(text: str) -> str:
    """What is said, without the numbers and the names of files."""
    words = text.strip().splitlines()[-1].split()
    return " ".join(word for word in words if "/" not in word and not re.search(r"\d", word))[:80]
