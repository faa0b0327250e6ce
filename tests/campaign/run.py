"""The program: cases one after the other, in as many jobs as asked for, until time is up."""

import argparse
import contextlib
import itertools
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from .cases import KINDS, Case, draw, kind_of, load
from .examine import Result, examine
from .judge import Finding
from .minimise import minimise
from .pool import Pool
from .records import Records

__all__ = ["campaign", "main"]


def _numbers(seed: int, kinds: list[str], records: Records, again: bool) -> Iterator[Case]:
    """Yield the cases that had findings, if wanted, and then those that were not done yet."""
    if again:
        for name in records.with_findings():
            of, number = map(int, name.split(":"))
            yield draw(of, number)
    for number in itertools.count():
        if kind_of(number) in kinds and f"{seed}:{number}" not in records.done:
            yield draw(seed, number)


class _Jobs:
    """Threads that take the next case, each with children of its own."""

    def __init__(self, cases: Iterator[Case], records: Records, deadline: float, most: int) -> None:
        self.cases, self.records, self.deadline, self.most = cases, records, deadline, most
        self.lock = threading.Lock()
        self.failed: BaseException | None = None

    def run(self, count: int) -> None:
        threads = [threading.Thread(target=self._work) for _ in range(count)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if self.failed is not None:
            raise self.failed

    def _next(self) -> Case | None:
        with self.lock:
            if self.failed or time.monotonic() >= self.deadline or self.most == 0:
                return None
            self.most -= 1
            return next(self.cases, None)

    def _work(self) -> None:
        with tempfile.TemporaryDirectory(prefix="campaign-") as folder:
            pool = Pool(Path(folder))
            try:
                while (case := self._next()) is not None:
                    self._do(case, pool)
            except BaseException as problem:
                self.failed = problem
            finally:
                pool.close()

    def _do(self, case: Case, pool: Pool) -> None:
        start = time.monotonic()
        try:
            result = examine(case, pool)
        except RuntimeError as problem:  # of the campaign itself
            finding = Finding("raw", "the campaign", str(problem).strip()[-80:], str(problem))
            result = Result(case, ["raw"], [finding])
        with self.lock:
            self.records.add(result, time.monotonic() - start)
        for finding in result.findings:
            print(f"{case.name} {case.kind}: {finding.operation}: {finding.signature}", flush=True)
            if self.records.wanted(finding):
                place = self.records.place(case, finding)
                small = result.case
                with contextlib.suppress(RuntimeError):
                    if time.monotonic() < self.deadline:
                        small = minimise(result.case, finding, pool)
                    examine(small, pool, keep=place)
                self.records.keep(place, small, finding)


def campaign(
    folder: Path,
    *,
    seed: int = 0,
    minutes: float = 5,
    kinds: list[str] | None = None,
    jobs: int = 1,
    resume: bool = False,
    again: bool = False,
    most: int = -1,
) -> Records:
    """Run for some minutes, or until `most` cases are done; return the records."""
    records = Records(folder, resume)
    deadline = time.monotonic() + 60 * minutes
    cases = _numbers(seed, kinds or KINDS, records, again)
    _Jobs(cases, records, deadline, most).run(jobs)
    return records


def _one(name: str) -> int:
    """Do one case again, and say all about it."""
    path = Path(name)
    case = load(path.read_text()) if path.exists() else draw(*map(int, name.split(":")))
    with tempfile.TemporaryDirectory(prefix="campaign-") as folder:
        pool = Pool(Path(folder))
        try:
            result = examine(case, pool)
        finally:
            pool.close()
    print(result.case.to_json())
    print(f"plain h5py: {result.honest}; outcomes: {result.outcomes}")
    for finding in result.findings:
        print(f"\n{finding.operation}: {finding.signature}\n{finding.text}")
    return int(bool(result.findings))


def main() -> int:
    """Run the campaign as asked on the command line; return 1 where something new was found."""
    parser = argparse.ArgumentParser("python -m tests.campaign", description=__doc__)
    parser.add_argument("--minutes", type=float, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kinds", nargs="*", choices=KINDS, default=KINDS)
    parser.add_argument("--case", help="one case again: SEED:NUMBER, or a case.json that was kept")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--store", type=Path, help="folder for what is found (default: a new one)")
    parser.add_argument("--resume", action="store_true", help="count what is done in the store")
    parser.add_argument("--again", action="store_true", help="first, cases that had findings")
    parser.add_argument("--cases", type=int, default=-1, help="at most so many")
    chosen = parser.parse_args()
    if chosen.case:
        return _one(chosen.case)
    store = chosen.store or Path(tempfile.mkdtemp(prefix="campaign-store-"))
    records = campaign(
        store,
        seed=chosen.seed,
        minutes=chosen.minutes,
        kinds=chosen.kinds,
        jobs=chosen.jobs,
        resume=chosen.resume or chosen.again,
        again=chosen.again,
        most=chosen.cases,
    )
    print(records.table())
    print(f"\nkept in {store}")
    return int(bool(records.news()))


if __name__ == "__main__":
    sys.exit(main())
