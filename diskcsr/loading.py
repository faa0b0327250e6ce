"""Importing what is not needed at once, from whichever thread needs it first.

Python locks each module while it is imported. Two threads that begin in different modules of one
package can wait for each other there, and Python then gives one of them a module that is half
made: two codecs of numcodecs, first used at the same moment, ended in ``KeyError: 'numcodecs'``.
So what this package imports late is imported here, by one thread at a time. Nor may Ctrl-C end an
import: what is made in C is not made again, and stays half made as long as the process lives.
"""

import importlib
import os
import threading
from types import ModuleType

from .machine.interrupts import deferred

__all__ = ["load", "load_extra"]

# Reentrant: a module that is loaded here may itself load another.
_lock = threading.RLock()

if hasattr(os, "register_at_fork"):
    # A child is not forked while another thread imports: the module would stay locked in the child
    # by a thread that it does not have.
    os.register_at_fork(
        before=_lock.acquire, after_in_parent=_lock.release, after_in_child=_lock.release
    )


def load(name: str) -> ModuleType:
    """Import a module, its packages first.

    A package is complete before a module of it is asked for, so that a thread which imports the
    package on its own way is waited for, and neither fails.

    Raises
    ------
    Exception
        Whatever the import raises. Nothing is remembered of it: the next call tries again.
    """
    with _lock, deferred():
        parts = name.split(".")
        for length in range(1, len(parts)):
            importlib.import_module(".".join(parts[:length]))
        return importlib.import_module(name)


def load_extra(name: str, work: str, package: str, library: str | None = None) -> ModuleType:
    """Import a module that some work takes, and that need not be installed.

    Parameters
    ----------
    name : str
    work : str
        What takes it, as "PATH: reading it".
    package : str
        What to install.
    library : str, optional
        What people call it; default its package.

    Raises
    ------
    ImportError
        When it is not there: says what to install.
    """
    try:
        return load(name)
    except ImportError as problem:
        library = library or name.partition(".")[0]
        raise ImportError(
            f"{work} takes {library}, which is not installed: pip install {package!r}"
        ) from problem
