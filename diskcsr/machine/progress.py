"""Telling how far a long call is: a callback, or a bar."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeAlias

__all__ = ["Progress", "reporting"]

#: What may be asked for: nothing, a bar, or a function of the bytes done and the bytes in all.
Progress: TypeAlias = bool | Callable[[int, int | None], object] | None


@contextmanager
def reporting(progress: Progress, total: int | None) -> Iterator[Callable[[int], None]]:
    """Give a function to be told of bytes that were handled.

    Parameters
    ----------
    progress : None, bool or callable
        True shows a bar (tqdm's). A callable is given ``(done, total)``, both in bytes.
    total : int or None
        Bytes in all; None where nobody knows.

    Raises
    ------
    ImportError
        When a bar is wanted and tqdm is not there.
    TypeError
        When `progress` is none of these.
    """
    if progress is None or progress is False:
        yield lambda nbytes: None
    elif progress is True:
        with _bar(total) as bar:
            yield bar.update
    elif callable(progress):
        done = 0

        def advance(nbytes: int) -> None:
            nonlocal done
            done += nbytes
            progress(done, total)

        yield advance
    else:
        raise TypeError(f"progress must be None, True or a function, not {progress!r}")


def _bar(total: int | None) -> Any:
    try:
        from tqdm.auto import tqdm
    except ImportError as problem:
        raise ImportError(
            "progress=True shows a bar with tqdm, which is not installed: pip install "
            "'diskcsr[progress]', or pass a function progress(done, total)"
        ) from problem
    return tqdm(total=total, unit="B", unit_scale=True)
