"""A whole run: make the matrix and the right answers, then one process for every cell."""

import json
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

import diskcsr

from ..machine.options import available_memory, format_bytes
from ..storage.files.files import open_to_read
from ..storage.formats.detect import detect
from ..storage.formats.opening import close_file, open_group
from .adapters import PEERS, load_adapter
from .cases import CASES, expected, touched
from .cells import Cell, take_turns
from .machine import Others, codec_speed, machine, memcpy_speed, versions, write_speed
from .measure import seed_of
from .source import Matrix, generate
from .workloads import WORKLOADS

__all__ = ["Settings", "load_own", "measure", "require_extras"]

LARGEST_PROBE = 1 << 28


@dataclass
class Settings:
    """What is to be measured; the command line's options by their names."""

    file: str | None = None
    name: str | None = None
    peers: list[str] = field(default_factory=lambda: ["scipy", "diskcsr", "h5py", "anndata"])
    ops: list[str] = field(default_factory=lambda: list(CASES))
    workload: str = "neurons"
    rows: int | None = None
    compression: str = "raw"
    chunks: int | None = None
    threads: int | None = None
    cold: bool = False
    repeat: int = 31
    timeout: float = 60.0
    seed: int = 0

    @property
    def storage(self) -> dict[str, Any]:
        """What adapters are told about how to store."""
        return {"compression": self.compression, "chunks": self.chunks}


class _Run:
    """One run in a folder that is removed afterwards."""

    def __init__(self, settings: Settings, folder: Path, say: Callable[[str], None]) -> None:
        self.settings, self.folder, self.say = settings, folder, say
        self.name = "X"
        self.where = self._source()
        self.matrix = Matrix(self.where)
        self.results: list[dict[str, Any]] = []
        self.limits: dict[str, int] = {}
        #: Of each peer that is there, its class, and what it reads: a path and a group's name.
        self.peers: dict[str, tuple[Any, str, str]] = {}
        self.unwritten: dict[str, dict[str, Any]] = {}
        self.in_turns = True

    def _source(self) -> dict[str, Any]:
        settings = self.settings
        if settings.file is not None:
            group, file = open_group(settings.file, settings.name)
            self.name = str(group.name)
            if file is not None:
                close_file(file)
            return {"file": os.path.abspath(settings.file), "group": self.name}
        workload = WORKLOADS[settings.workload]
        rows = workload.rows if settings.rows is None else settings.rows
        self.say(f"generating {rows} rows of {settings.workload}")
        return generate(self.folder / "matrix", workload.blocks(rows, settings.seed))

    def expect(self, op: str) -> None:
        """Write the right answer of an operation into a file that its cells compare with."""
        case = CASES[op]
        rng = np.random.default_rng(seed_of(self.settings.seed, op))
        possible = op != "scalar" or min(self.matrix.shape)
        if not possible or (case.method == "minibatches" and self.matrix.axis.major):
            return
        key = case.draw(rng, self.matrix.shape)
        self.limits[op] = touched(case, self.matrix, key)
        answer = expected(case, self.matrix, key)
        (self.folder / f"{op}.json").write_text(json.dumps(answer, default=_plain))

    def add(self, classes: dict[str, Any]) -> None:
        """Give each peer its place; the user's own file is read where it is."""
        for number, (peer, cls) in enumerate(classes.items()):
            path, name = str(self.folder / f"of-{number}"), "X"
            if self._reads_own(cls):
                path, name = self.where["file"], self.where["group"]
            self.peers[peer] = (cls, path, name)
        self._require_disk(sum(not self._reads_own(cls) for cls in classes.values()))

    def _reads_own(self, cls: Any) -> bool:
        return self.settings.file is not None and cls.reads_files

    def _require_disk(self, copies: int) -> None:
        needed, free = copies * self.matrix.nbytes, shutil.disk_usage(self.folder).free
        if needed > free:
            raise OSError(
                f"{copies} systems store the matrix, which may take {format_bytes(needed)}; "
                f"{self.folder.parent} has {format_bytes(free)} left. Set TMPDIR to another "
                "folder, or ask for fewer rows or systems"
            )

    def operation(self, op: str) -> None:
        """Measure one operation of all peers."""
        self.say(CASES[op].title)
        asked = {peer: self._job(peer, op) for peer in self.peers if self._measures(peer, op)}
        found = self._measured(list(asked.values()))
        for (peer, (cls, _, _)), result in zip(
            self.peers.items(), self._results(op, asked, found), strict=True
        ):
            if op in self.settings.ops:
                line = {"op": op, "peer": peer, "system": cls.title or peer, **result}
                self.results.append(line)

    def _measures(self, peer: str, op: str) -> bool:
        """Whether there is a process to start: not for a peer that has nothing to read."""
        return not self._reads_own(self.peers[peer][0]) if op == "write" else (
            peer not in self.unwritten
        )  # fmt: skip

    def _results(self, op: str, asked: Any, found: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Put what was measured beside what was not."""
        measured = dict(zip(asked, found, strict=True))
        if op == "write":
            self.unwritten = {peer: one for peer, one in measured.items() if "why" in one}
        results = []
        for peer, (cls, _, _) in self.peers.items():
            result = measured.get(peer, {"status": "n/a"})
            if op == "write" and not cls.writes and peer not in self.unwritten:
                result = {"status": "n/a"}
            elif op != "write" and peer in self.unwritten:
                wrong = self.unwritten[peer]
                result = {"status": wrong["status"], "why": f"writing: {wrong['why']}"}
            results.append(result)
        return results

    def _job(self, peer: str, op: str) -> dict[str, Any]:
        settings, (_, path, name) = self.settings, self.peers[peer]
        return {
            "peer": peer,
            "op": op,
            "path": path,
            "name": name,
            "where": self.where,
            "storage": settings.storage,
            "expected": str(self.folder / f"{op}.json"),
            "seed": settings.seed,
            "threads": settings.threads,
            "cold": settings.cold,
        }

    def _measured(self, jobs: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Measure cells in turns, or, where memory is short, one after the other."""
        repeat = self.settings.repeat if jobs and jobs[0]["op"] in self.settings.ops else 1
        self.in_turns &= 3 * len(jobs) * self.matrix.nbytes < available_memory()
        groups = [jobs] if self.in_turns else [[job] for job in jobs]
        return [result for group in groups for result in self._together(group, repeat)]

    def _together(self, jobs: list[dict[str, Any]], repeat: int) -> list[dict[str, Any]]:
        cells: list[Cell] = []
        try:
            for job in jobs:
                cells.append(Cell(job, self.settings.timeout))
            take_turns(cells, repeat)
            return [cell.end() for cell in cells]
        finally:
            for cell in cells:
                cell.close()

    def speeds(self) -> dict[str, float | None]:
        """Bytes a second that memory, the compressor and the disk give without any library."""
        size = min(LARGEST_PROBE, max(1 << 22, self.matrix.nbytes))
        found: dict[str, float | None] = {"memcpy": memcpy_speed(size), "decode": None}
        found |= {"encode": None, "write": None}
        if self.settings.file is not None:
            with open_to_read(self.settings.file) as file:
                header = detect(file[self.name])
            parts = [part for part in (header.data, header.indices) if part]
            if parts and self.matrix.nnz:
                decode = codec_speed(self.settings.file, self.name, names=tuple(parts))[0]
                found["decode"] = decode
            return found
        found["write"] = write_speed(self.folder, size)
        if self.settings.compression != "raw" and self.matrix.nnz:
            part = self.matrix.block(0, min(self.matrix.shape[0], 2048))
            path, storage = self.folder / "probe.h5", self.settings.storage
            diskcsr.write(path, part, **storage).close()
            found["decode"], found["encode"] = codec_speed(path)
            path.unlink()
        return found


def _plain(value: Any) -> Any:
    """Give complex numbers, which JSON has no form for, the one that the cells read."""
    if isinstance(value, complex):
        return {"complex": [value.real, value.imag]}
    raise TypeError(f"{type(value).__name__} cannot be compared")


def _finish(run: _Run, speeds: dict[str, float | None]) -> None:
    """Add ratios and limits to the results, in the order asked for."""
    scipy = {r["op"]: r["median"] for r in run.results if r["peer"] == "scipy" and "median" in r}
    for result in run.results:
        op = result["op"]
        result["operation"] = CASES[op].title
        names = ("encode", "write") if op == "write" else ("decode", "memcpy")
        known = [speed for name in names if (speed := speeds[name]) is not None]
        result["limit"] = run.limits[op] / min(known) if known and op in run.limits else None
        if "median" in result and op in scipy:
            result["over_scipy"] = result["median"] / scipy[op]
    run.results.sort(key=lambda result: run.settings.ops.index(result["op"]))


def measure(settings: Settings, say: Callable[[str], None]) -> dict[str, Any]:
    """Do a whole run.

    Parameters
    ----------
    settings : Settings
        What is measured.
    say : function of str
        Told what is done at the moment.

    Returns
    -------
    dict
        What `diskcsr.bench.report` prints; it can be written as JSON. Times are in seconds.
    """
    began = time.monotonic()
    if settings.threads:
        diskcsr.set_num_threads(settings.threads)
    classes = {peer: load_adapter(peer) for peer in settings.peers}
    missing = {peer: cls.missing() for peer, cls in classes.items() if cls.missing()}
    there = {peer: cls for peer, cls in classes.items() if peer not in missing}
    with TemporaryDirectory(prefix="diskcsr-bench-") as folder:
        run = _Run(settings, Path(folder), say)
        try:
            run.add(there)
            ops = dict.fromkeys(["write", *settings.ops])  # what is read is written first
            for op in ops:
                say(f"the right answer: {CASES[op].title}")
                run.expect(op)
            others = Others()
            for op in ops:
                run.operation(op)
            busy = others.cores()
            say("limits")
            speeds = run.speeds()
        finally:
            run.matrix.close()
        _finish(run, speeds)
        matrix = run.matrix
        what = WORKLOADS[settings.workload].title if settings.file is None else settings.file
        return {
            "matrix": {
                "what": what,
                "name": run.name,
                "format": matrix.axis.format,
                "shape": [int(n) for n in matrix.shape],
                "stored": matrix.nnz,
                "dtype": str(matrix.dtype),
                "bytes": matrix.nbytes,
            },
            "settings": {key: value for key, value in vars(settings).items() if value is not None},
            "date": time.strftime("%Y-%m-%d"),
            "seconds": time.monotonic() - began,
            "machine": machine(),
            "busy_with_others": busy,
            "in_turns": run.in_turns,
            "versions": versions(*(m for c in classes.values() for m in c.needs)),
            "speeds": speeds,
            "notes": {cls.title: cls.note for cls in there.values() if cls.note},
            "missing": missing,
            "not_asked": [peer for peer in PEERS if peer not in classes],
            "results": run.results,
        }


def load_own(peer: str) -> None:
    """See whether a peer can be loaded at all, before anything is generated.

    Raises
    ------
    ValueError
        When there is no such peer, or its module or class cannot be found.
    """
    try:
        load_adapter(peer)
    except (ImportError, AttributeError) as problem:
        raise ValueError(f"no peer {peer!r}: {problem}") from problem


def require_extras(peers: list[str], compression: str | None) -> None:
    """See what is not installed before anything is generated.

    Raises
    ------
    ImportError
        When no peer is there, or one that is lacks what it compresses by.
    """
    classes = {peer: load_adapter(peer) for peer in peers}
    missing = {peer: what for peer, cls in classes.items() if (what := cls.missing())}
    if len(missing) == len(peers):
        raise ImportError("; ".join(f"{peer} needs {what}" for peer, what in missing.items()))
    plugin = find_spec("hdf5plugin") is not None
    if compression != "zstd" or plugin:
        return
    lacking = [peer for peer in peers if peer not in missing and classes[peer].by_plugin]
    if lacking:
        raise ImportError(
            f"{', '.join(lacking)}: zstd is stored by hdf5plugin, which is not installed: pip "
            "install 'diskcsr[bench]', or leave out these systems"
        )
