"""What is known of a file that a server has."""

from typing import NamedTuple

__all__ = ["HEAD", "Answer", "State", "Transient"]

#: Bytes read when a file is opened, and at a time of what HDF5 reads.
HEAD = 1 << 18


class State(NamedTuple):
    """Which contents a file has.

    Attributes
    ----------
    size : int
        Bytes.
    tag : str or None
        What the server calls this state: an ETag, or the time of the last change.
    """

    size: int
    tag: str | None


class Answer(NamedTuple):
    """Bytes, and the state of the file they are of."""

    raw: bytes
    state: State


class Transient(Exception):
    """The question was not answered this time, and may be if it is asked again."""
