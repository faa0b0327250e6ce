"""How kernels are compiled and kept: ``njit`` of numba, with a cache that cannot fail.

numba's own cache raises when it finds no folder to write to, when the disk is full, and when its
files are torn; and two processes that compile at once can leave an index that names the code of
one signature for another, which loads without complaint. This one leaves keeping to `kept.Store`.
A kernel can also take the functions of another for its own: see `_name_apart`.

What numba does not document is used in this module alone. Checked on numba 0.59.0 and 0.68.1:
``Dispatcher._cache`` and what is called on it, ``CompileResult._reduce`` and ``_rebuild``,
``library.has_dynamic_globals``, ``codegen().magic_tuple()``, ``target_context.refresh()``,
``FunctionIdentity._unique_ids``, and `numba.core.serialize.dumps`. Where a name is missing, kernels
are compiled in each process.
"""

import functools
import hashlib
import importlib.resources
import pickle
import secrets
import sys
from pathlib import Path

import numba

from .kept import Store, usual_folders

__all__ = ["njit"]


def njit(*, cache, **options):
    """Return numba's decorator ``njit``; what it compiles is kept if `cache` is true.

    Parameters
    ----------
    cache : bool
        Whether other processes shall find the compiled code.
    **options
        Those of `numba.njit`.
    """

    def decorate(function):
        kernel = numba.njit(**options)(function)
        # With NUMBA_DISABLE_JIT=1 it is the function itself.
        if cache and kernel is not function:
            kernel._cache = _Cache(function)
        return kernel

    return decorate


def _name_apart():
    """Name what numba compiles from now on unlike anything that any process compiles.

    A name in machine code ends in a number that numba counts in each process from 1. So two
    closures of one name and one signature, such as both sides of `numpy.searchsorted` in numba
    0.59, have one name if two processes compile them; and in a process that loads both kernels,
    the one loaded later calls the closure of the other, without complaint. A random number needs
    no count that a forked process would go on with.

    Returns
    -------
    bool
        Whether that could be done.
    """
    from numba.core.bytecode import FunctionIdentity

    if not hasattr(FunctionIdentity, "_unique_ids"):
        return False
    FunctionIdentity._unique_ids = iter(functools.partial(secrets.randbits, 62), None)
    return True


_NAMED_APART = _name_apart()


@functools.cache
def _store():
    """Return the store of this process's kernels."""
    # A kernel holds the code of those it calls, in other modules too: all sources count for all.
    here = importlib.resources.files(__package__)
    sources = [(file.name, file.read_bytes()) for file in here.iterdir() if file.name[-3:] == ".py"]
    stamp = hashlib.sha256(repr(sorted(sources)).encode()).digest()
    # Without sources, in a program frozen into one file, nothing tells old kernels from new ones.
    folders = usual_folders(Path(__file__).parent, numba.config.CACHE_DIR) if sources else []
    return Store(folders, stamp)


class _Cache:
    """What numba asks for the code of one kernel before it compiles, and hands the code to after.

    numba calls the methods with its compiler's lock held, so one thread at a time is in here.
    """

    def __init__(self, function):
        module = function.__module__.rpartition(".")[2]
        self._prefix = f"{module}.{function.__qualname__}"
        self._use = True

    @property
    def cache_path(self):
        return _store().path

    def load_overload(self, sig, target_context):
        """Return the kept code for a signature, or None."""
        found = None
        if self._use:
            # Whatever is wrong with what was kept, the kernel can be compiled.
            try:
                found = self._rebuilt(sig, target_context)
            except Exception:
                found = None
        if found is None:
            _store().prepare()
        return found

    def _rebuilt(self, sig, target_context):
        from numba.core.compiler import CompileResult

        target_context.refresh()
        payload = _store().load(self._name(sig, target_context))
        if payload is None:
            return None
        kept_sig, reduced = pickle.loads(payload)
        return CompileResult._rebuild(target_context, *reduced) if kept_sig == sig else None

    def save_overload(self, sig, data):
        """Keep the code that was compiled for a signature, if that can be done."""
        problem = None
        try:
            from numba.core.serialize import dumps

            if data.library.has_dynamic_globals:  # addresses in this process
                return
            if not _NAMED_APART:
                raise AttributeError("FunctionIdentity._unique_ids")
            name, payload = self._name(sig, data.target_context), dumps((sig, data._reduce()))
        # numba is another one than those above; the kernel has been compiled all the same.
        except Exception as failure:
            problem = failure
        if problem is None:
            _store().save(name, payload)
        else:
            _store().give_up(f"numba {numba.__version__}: {problem!r}")

    def flush(self):
        """Compile afresh from now on; numba's ``recompile()`` asks for it."""
        self._use = False

    def _name(self, sig, target_context):
        """Return the name of the file for a signature.

        Processor and versions are part of it, so that two which take turns find their own.
        """
        target = target_context.codegen().magic_tuple()
        key = repr((sig, target, numba.__version__, sys.version))
        return f"{self._prefix}-{hashlib.sha256(key.encode()).hexdigest()[:24]}.nbc"
