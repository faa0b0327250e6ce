"""The libraries that decode and encode: found when first needed, and called with any bytes."""

from collections.abc import Callable
from types import ModuleType
from typing import Any

from ...errors import CorruptFileError
from ...loading import load

__all__ = ["call", "find", "library"]

#: Modules that were found, by the names that were asked for. What was not found is not in it: it
#: is looked for again, and what went wrong once has not gone wrong for ever.
_found: dict[tuple[str, ...], ModuleType] = {}


def find(*names: str) -> ModuleType | None:
    """Import and return the first of the modules that is installed and works, None without any."""
    found = _found.get(names)
    return _look_for(names) if found is None else found


def _look_for(names: tuple[str, ...]) -> ModuleType | None:
    lasting = True
    for name in names:
        try:
            module = load(name)
        except ModuleNotFoundError:
            continue  # not installed
        except MemoryError:
            raise
        except Exception:  # installed, but it cannot be imported, for now or because it is broken
            lasting = False
            continue
        if lasting:
            _found[names] = module
        return module
    return None


def library(name: str) -> ModuleType:
    """Return a module without which a filter cannot be dealt with.

    Raises
    ------
    ImportError
        When it cannot be imported, from what went wrong.
    """
    found = find(name)
    if found is not None:
        return found
    try:
        return load(name)
    except MemoryError:
        raise
    except Exception as problem:
        message = f"this filter needs {name.partition('.')[0]}, which cannot be imported"
        raise ImportError(f"{message}: {type(problem).__name__}: {problem}") from problem


def call(function: Callable[..., Any], *args: Any, errors: tuple[type[Exception], ...] = ()) -> Any:
    """Call a library with bytes that may be anything; its complaint becomes a CorruptFileError.

    Libraries complain with RuntimeError, ValueError, or one of `errors`. Whatever else is raised
    says nothing of the bytes: it is a fault of the library, or of this package.
    """
    complaints: tuple[type[Exception], ...] = (RuntimeError, ValueError, *errors)
    try:
        return function(*args)
    except complaints as error:
        raise CorruptFileError(f"{type(error).__name__}: {error}") from error
