"""Check the sparse matrices of a file, and repair what can be repaired."""

import os
import sys
import uuid
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from typing import Any

import h5py

from ...errors import DiskCSRError
from ...machine.apart import Ended, run_apart
from ...machine.progress import Progress, heard, reporting, telling, to_the_end
from ..formats.detect import describe, find
from ..formats.fields import locate
from ..formats.others import not_hdf5
from ..journal.names import check_ordinary
from ..journal.records import journal_path
from ..journal.rollback import damage_of, is_hot, settle
from ..remote.urls import is_url, refuse_remote
from .problems import Problem, Scan
from .repair import repair_file
from .scan import scan, work_of

__all__ = ["Problem", "Report", "check", "look_at"]


@dataclass(frozen=True)
class Report:
    """What `check` found.

    Attributes
    ----------
    file : str
    matrices : list of str
        Names of the groups that were looked at.
    problems : list of Problem
        The worst of each matrix first. After a repair, those that are left.
    repaired : list of str
        What a repair did.
    """

    file: str
    matrices: list[str] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    repaired: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether there are neither errors nor warnings; notes do not count."""
        return all(problem.severity == "note" for problem in self.problems)

    def to_dict(self) -> dict[str, Any]:
        """Return all of it as plain data, for JSON."""
        return {**asdict(self), "ok": self.ok}

    def __str__(self) -> str:
        what = f"{len(self.matrices)} sparse {'matrix' if len(self.matrices) == 1 else 'matrices'}"
        lines = [f"{self.file}: {what}: {'ok' if self.ok else self._counts()}"]
        lines += [f"  repaired: {text}" for text in self.repaired]
        for problem in self.problems:
            lines.append(f"  {problem}")
            lines += [f"    {problem.advice}"] if problem.advice else []
        return "\n".join(lines)

    def _counts(self) -> str:
        """Say how many problems of each kind there are, as "1 error, 2 warnings"."""
        kinds = [problem.severity for problem in self.problems]
        counts = ((kind, kinds.count(kind)) for kind in ("error", "warning"))
        return ", ".join(f"{n} {kind}{'s' * (n > 1)}" for kind, n in counts if n)

    __repr__ = __str__


def check(
    file: Any,
    name: str | None = None,
    *,
    repair: bool = False,
    isolated: bool = True,
    time_limit: float = 300,
    progress: Progress = None,
) -> Report:
    """Look at everything in the sparse matrices of a file, in bounded memory.

    Tags and their agreement, lengths and types of the datasets, row pointers, indices (in range,
    sorted, each once), whether every chunk is where it can be, was ever written and can be decoded,
    and whether HDF5 itself reads the same. All problems are listed, not only the
    first. Nothing is raised for a broken file.

    Parameters
    ----------
    file : path or h5py.Group
    name : str, optional
        One group; without it, all sparse matrices in the file.
    repair : bool
        Mend what can be mended without guessing: elements behind the last row's end are cut off,
        an append that was not finished is cut back to the last row that all three arrays hold,
        tags that are missing or stale are written from those that are not, indices are sorted.
        It is done in a copy that replaces the file in the end, so the file is never half repaired.
    isolated : bool
        Look at a file, given by its path, and repair it in processes of their own: there is damage
        on which HDF5 itself crashes or never returns, which then is one more problem in the report.
        They end with this process. Costs the start of a process.
    time_limit : float
        Seconds without any progress after which such a process is ended. A whole check may well
        take longer.
    progress : bool or callable, optional
        As of `diskcsr.write`. With `repair` it comes to the end twice, before and after.

    Returns
    -------
    Report

    Raises
    ------
    FileNotFoundError, PermissionError, IsADirectoryError
        When there is no such file, or it may not be read.
    OSError
        When a repair cannot be made: no room for the copy, another program has the file open.
    TypeError
        When an open file is to be repaired; give its path.
    ValueError
        When the file is on a server.

    Examples
    --------
    >>> import diskcsr, numpy as np, os, scipy.sparse as sp, tempfile
    >>> from diskcsr.storage.check.check import check
    >>> path = os.path.join(tempfile.mkdtemp(), "m.h5")
    >>> _ = diskcsr.write(path, sp.csr_array(np.eye(3)))
    >>> check(path).ok
    True
    """
    if isinstance(file, h5py.Group):
        if repair:
            raise TypeError("repair=True needs the path of a file that is not open")
        # A subclass of h5py's may give anything for a name.
        return _report(h5py.Group(file.id), name, progress)[0]
    if is_url(file):
        refuse_remote(file, "check, which reads all of it,")
    path = os.fsdecode(os.fspath(file))
    check_ordinary(path)
    with open(path, "rb"):
        pass  # what cannot be opened at all is no matter of its contents
    if repair:
        settle(path)
    silence = time_limit if isolated and sys.executable else None
    report, scans = _look(path, name, silence, progress)
    if not repair or not any(found.clip or found.restamp or found.unsorted for found in scans):
        return report
    try:
        done, left = _repair(path, scans, silence)
    except (DiskCSRError, RuntimeError, ValueError, KeyError) as problem:
        failed = Problem("note", "not-repaired", "/", f"nothing was changed: {problem}")
        return Report(path, report.matrices, [*report.problems, failed])
    again = _look(path, name, silence, progress)[0] if done else report
    notes = [Problem("note", "not-repaired", group, why) for group, why in left.items()]
    return Report(path, again.matrices, again.problems + notes, done)


#: Signals that HDF5 does not bring about.
_FROM_OUTSIDE = {"SIGKILL", "SIGTERM", "SIGINT", "SIGHUP"}


def _look(
    path: str, name: str | None, silence: float | None, progress: Progress
) -> tuple[Report, list[Scan]]:
    """Do what `look_at` does; unless `silence` is None, in a process that HDF5 may crash."""
    if silence is None:
        return look_at(path, name, progress)
    try:
        with telling(progress, "checking") as tell:
            found: tuple[Report, list[Scan]] = run_apart(
                look_at, path, name, silence=silence, tell=tell
            )
    except Ended as end:
        if end.signal in _FROM_OUTSIDE:
            what = f"was not looked at to the end: {end.signal} ended the process that did it"
            advice = "The system sends SIGKILL where memory runs out."
            return Report(path, [], [Problem("error", "ended", "/", what, advice=advice)]), []
        advice = "Restore the file from a copy; do not open it in a process that matters."
        kind = "hang" if end.silent else "crash"
        what = f"is so damaged that the HDF5 library {_fate(end, silence)} while it is looked at"
        return Report(path, [], [Problem("error", kind, "/", what, advice=advice)]), []
    return found


def _repair(
    path: str, scans: list[Scan], silence: float | None
) -> tuple[list[str], dict[str, str]]:
    """Do what `repair_file` does; unless `silence` is None, in a process that HDF5 may crash."""
    real = os.path.realpath(path)
    copy = os.path.join(os.path.dirname(real), f".{os.path.basename(real)}.{uuid.uuid4().hex}")
    if silence is None:
        return repair_file(path, scans, copy)
    try:
        done: tuple[list[str], dict[str, str]] = run_apart(
            repair_file, path, scans, copy, silence=silence
        )
    except Ended as end:
        raise DiskCSRError(f"the HDF5 library {_fate(end, silence)} in a copy of it") from end
    finally:
        with suppress(FileNotFoundError):  # it is there when the process could not remove it
            os.unlink(copy)
    return done


def _fate(end: Ended, silence: float) -> str:
    """Say what became of the process that looked at a file."""
    if end.silent:
        return f"makes no progress ({end.signal} after {silence:g} s of silence)"
    return f"crashes ({end.signal})"


def look_at(path: str, name: str | None, progress: Progress = None) -> tuple[Report, list[Scan]]:
    """Look at the matrices of a file; return the report, and what a repair has to know."""
    try:
        file = h5py.File(path, "r")
    except MemoryError:
        raise
    except Exception as problem:  # of damage, HDF5 tells with nearly any exception
        text = " ".join(str(problem).split())
        what = f"cannot be opened: {text}" if h5py.is_hdf5(path) else not_hdf5(path)
        return Report(path, [], [Problem("error", "open", "/", what)]), []
    with file:
        report, scans = _report(file, name, progress)
    journal, damage = journal_path(path), damage_of(path)
    if damage is not None:
        report.problems.insert(0, Problem("error", "journal", "/", damage))
    elif is_hot(path):
        what = f"a write was interrupted, or is under way: {journal} holds what it overwrote"
        advice = "Opening the file with diskcsr undoes the write, when its process is dead."
        hot = Problem("warning", "journal", "/", what, repairable=True, advice=advice)
        report.problems.append(hot)
    elif os.path.exists(journal):
        what = f"a journal lies beside the file ({journal}): it is, or was, open for writing"
        report.problems.append(Problem("note", "journal", "/", what))
    return report, scans


def _report(root: h5py.Group, name: str | None, progress: Progress) -> tuple[Report, list[Scan]]:
    report = Report(root.file.filename)
    scans = []
    groups = _groups(root, name, report)
    work = list(map(work_of, groups)) if progress else [0] * len(groups)
    with reporting(progress, sum(work), "checking") as advance:
        for group, total in zip(groups, work, strict=True):
            with to_the_end(advance, total) as told, heard(told) as step:
                found = scan(group, step)
            if group.file.filename != root.file.filename:
                found.leave()  # a link led to another file, of which there is no copy
            scans.append(found)
            report.matrices.append(found.name)
            report.problems.extend(found.problems)
    return report, scans


def _groups(root: h5py.Group, name: str | None, report: Report) -> list[h5py.Group]:
    """Open the groups to look at; what cannot be opened is noted."""

    def note(kind: str, where: str, what: str) -> None:
        report.problems.append(Problem("error", kind, where, what))

    names = [name] if name is not None else []
    if name is None:
        try:
            names = find(root)
        except DiskCSRError as problem:
            note("tree", "/", str(problem).removeprefix(f"{locate(root)}: "))
        else:
            if not names:
                note("no-matrix", "/", f"no sparse matrix; it has {describe(root)}")
    groups = []
    for one in names:
        try:
            group = root[one]
        except MemoryError:
            raise
        except Exception as problem:
            what = f"no such object, or it cannot be opened: {problem}"
            note("open", one, f"{what}; the file has {describe(root)}")
            continue
        if isinstance(group, h5py.Group):
            groups.append(group)
        else:
            note("open", one, f"is {describe(group)}, not the group of a sparse matrix")
    return groups
