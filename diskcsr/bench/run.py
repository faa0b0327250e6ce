"""A whole run: make the matrix and the right answers, then one process for every cell."""

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

import diskcsr

from ..storage.files import open_to_read
from ..storage.formats import detect
from ..storage.opening import close_file, open_group
from .adapters import load_adapter
from .cases import CASES, expected, touched
from .machine import codec_speed, machine, memcpy_speed, versions, write_speed
from .measure import run_cell, seed_of
from .source import Matrix, generate
from .workloads import WORKLOADS

__all__ = ["Settings", "load_own", "measure"]

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
    repeat: int = 7
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
        if not possible or (op == "minibatches" and self.matrix.axis.major):
            return
        key = case.draw(rng, self.matrix.shape)
        self.limits[op] = touched(case, self.matrix, key)
        answer = expected(case, self.matrix, key)
        (self.folder / f"{op}.json").write_text(json.dumps(answer, default=_plain))

    def cell(self, peer: str, op: str, path: str, name: str) -> dict[str, Any]:
        """Measure one operation of one peer."""
        self.say(f"{CASES[op].title}: {peer}")
        settings = self.settings
        job = {
            "peer": peer,
            "op": op,
            "path": path,
            "name": name,
            "where": self.where,
            "storage": settings.storage,
            "expected": str(self.folder / f"{op}.json"),
            "seed": settings.seed,
            "repeat": settings.repeat if op in settings.ops else 1,
            "threads": settings.threads,
            "cold": settings.cold,
        }
        return run_cell(job, settings.timeout)

    def peer(self, peer: str, cls: Any) -> None:
        """Measure all operations of a peer: it writes first what it reads then."""
        ops = self.settings.ops
        if self.settings.file is not None and cls.reads_files:
            path, name = self.where["file"], self.where["group"]
            written: dict[str, Any] = {"status": "n/a"}
        else:
            path, name = str(self.folder / f"of-{len(self.results)}"), "X"
            written = self.cell(peer, "write", path, name)
        for op in ops:
            if op == "write":
                result = written if cls.writes or _broken(written) else {"status": "n/a"}
            elif _broken(written):
                result = {"status": written["status"], "why": f"writing: {written['why']}"}
            else:
                result = self.cell(peer, op, path, name)
            self.results.append({"op": op, "peer": peer, "system": cls.title or peer, **result})
        self._remove(path)

    def _remove(self, path: str) -> None:
        if not path.startswith(str(self.folder)):
            return
        if os.path.isdir(path):
            shutil.rmtree(path, ignore_errors=True)
        elif os.path.exists(path):
            os.unlink(path)

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


def _broken(written: dict[str, Any]) -> bool:
    return "why" in written


def _plain(value: Any) -> Any:
    """Give complex numbers, which JSON has no form for, the one that the cells read."""
    if isinstance(value, complex):
        return {"complex": [value.real, value.imag]}
    raise TypeError(f"{type(value).__name__} cannot be compared")


def _finish(run: _Run, speeds: dict[str, float | None]) -> None:
    """Add ratios and limits to the results, and put operations together."""
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
    if settings.threads:
        diskcsr.set_num_threads(settings.threads)
    classes = {peer: load_adapter(peer) for peer in settings.peers}
    missing = {peer: cls.missing() for peer, cls in classes.items() if cls.missing()}
    with TemporaryDirectory(prefix="diskcsr-bench-") as folder:
        run = _Run(settings, Path(folder), say)
        try:
            for op in dict.fromkeys([*settings.ops, "write"]):
                say(f"the right answer: {CASES[op].title}")
                run.expect(op)
            for peer, cls in classes.items():
                if peer not in missing:
                    run.peer(peer, cls)
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
            "machine": machine(),
            "versions": versions(*(m for c in classes.values() for m in c.needs)),
            "speeds": speeds,
            "notes": {cls.title: cls.note for cls in classes.values() if cls.note},
            "missing": missing,
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
