"""What a reader has threads do: jobs, and those among them that wait for what is far away."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias

__all__ = ["EndingJob", "Job", "ended_together"]

Job: TypeAlias = Callable[[], None]


@dataclass(frozen=True)
class EndingJob:
    """A job that waits, and can be told why it need not wait any more.

    Attributes
    ----------
    work : callable
        The job.
    end : callable
        Is told of an exception, which the job then ends with, too.
    """

    work: Job
    end: Callable[[BaseException], None]

    def __call__(self) -> None:
        self.work()


def ended_together(jobs: list[Job]) -> list[Job]:
    """Have those jobs that wait end when any of all does not come to its end."""
    ends = [job.end for job in jobs if isinstance(job, EndingJob)]
    if not ends:
        return jobs

    def run(job: Job) -> None:
        try:
            job()
        except BaseException as problem:
            for end in ends:
                end(problem)
            raise

    return [partial(run, job) for job in jobs]
