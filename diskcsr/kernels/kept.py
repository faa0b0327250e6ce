"""Where compiled kernels are kept between processes, and whose files are believed.

What is kept is machine code that this process will run, so a folder counts only if whoever can
write to it could change this package, too, or is the user: the one that NUMBA_CACHE_DIR names,
``__pycache__`` beside the kernels, a folder in the user's cache and, with a warning, one among the
temporary files. The last two must belong to the user, with nobody else allowed to write, and are
checked by the descriptor through which they are used, so that they cannot be exchanged in between.

Each kernel has a file of its own for each signature, processor and version of the compiler, which
replaces the one before it whole. So processes that start at once, or compilers of two versions in
turn, cannot take the code of one for that of another, as they could with an index beside the code.
"""

import contextlib
import hashlib
import os
import secrets
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from ..errors import KernelCacheWarning

__all__ = ["Folder", "Store", "usual_folders"]

_STAMP = 32  # bytes of a SHA-256

#: Where a folder of the user's is made when nowhere else is; before them comes TMPDIR.
TEMPORARY = ("/tmp", "/var/tmp")


class Folder(NamedTuple):
    """A place for compiled kernels.

    Attributes
    ----------
    path : Path
        The folder; it is made when there is something to put into it.
    private : bool
        Whether it is made for the user alone, and believed only if it belongs to the user and
        nobody else may write to it.
    lasting : bool
        Whether what is put there can be expected to be found again; else the user is warned.
    chosen : bool
        Whether the user named it: as long as it can be written to, no other is looked at.
    """

    path: Path
    private: bool
    lasting: bool
    chosen: bool = False


def usual_folders(source: Path, chosen: str) -> list[Folder]:
    """Return the folders for the kernels of a source folder, the best first.

    Parameters
    ----------
    source : Path
        Where the kernels' source lies.
    chosen : str
        The folder that the user named (NUMBA_CACHE_DIR), or "".
    """
    # Two installations do not overwrite each other's kernels.
    name = f"diskcsr-kernels-{hashlib.sha256(os.fsencode(source)).hexdigest()[:16]}"
    folders = [Folder(Path(chosen).absolute() / name, False, True, True)] if chosen else []
    folders.append(Folder(source / "__pycache__", False, True))
    home = "~/Library/Caches" if sys.platform == "darwin" else "~/.cache"
    cache = Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser(home))
    if cache.is_absolute():  # an account without a home leaves the tilde where it is
        folders.append(Folder(cache / name, True, True))
    for temporary in dict.fromkeys((os.environ.get("TMPDIR", ""), *TEMPORARY)):
        if os.path.isabs(temporary):
            folders.append(Folder(Path(temporary) / f"{name}-{os.geteuid()}", True, False))
    return folders


class Store:
    """Compiled kernels on disk: read from all folders, written to the first that takes them.

    No method raises what the system says of a file: what cannot be read is compiled again, and what
    cannot be kept costs one `KernelCacheWarning` in the life of the process.

    Parameters
    ----------
    folders : list of Folder
        Where to look, and to write, in this order.
    stamp : bytes
        32 bytes that change with the source, which makes what was kept before worthless.
    """

    def __init__(self, folders: list[Folder], stamp: bytes) -> None:
        self._folders = folders
        self._stamp = stamp
        self._writing = 0  # which folder is written to; those before it refused
        self._ready = False  # whether it has been tried
        self._refusals: list[str] = []
        self._warned = False

    @property
    def path(self) -> str | None:
        """The folder that is written to, as far as is known; None when there is none."""
        return str(self._folders[self._writing].path) if self._writes() else None

    def load(self, name: str) -> bytes | None:
        """Return what was saved under a name, of this source; None if nothing was."""
        for folder in self._folders:
            with contextlib.suppress(OSError), _opened(folder) as descriptor:
                file = os.open(name, os.O_RDONLY | os.O_NOFOLLOW, dir_fd=descriptor)
                with open(file, "rb") as stream:
                    kept = stream.read()
                payload = kept[2 * _STAMP :]
                if kept[: 2 * _STAMP] == self._stamp + hashlib.sha256(payload).digest():
                    return payload
            if folder.chosen and not self._writing:
                break
        return None

    def prepare(self) -> None:
        """Find a folder that takes files, before something is compiled to be put there.

        Asked for at a moment when a warning that is turned into an exception does no harm.
        """
        if not self._ready:
            self._write(f"trial-{os.getpid()}-{secrets.token_hex(4)}", b"", keep=False)
            self._ready = True
        self._warn()

    def save(self, name: str, payload: bytes) -> None:
        """Keep something under a name, in the first folder that takes it."""
        self._write(name, self._stamp + hashlib.sha256(payload).digest() + payload, keep=True)
        self._warn()

    def give_up(self, why: object) -> None:
        """Keep nothing from now on."""
        self._writing = len(self._folders)
        self._refusals.append(str(why))
        self._warn()

    def _writes(self) -> bool:
        return self._writing < len(self._folders)

    def _write(self, name: str, content: bytes, *, keep: bool) -> None:
        while self._writes():
            folder = self._folders[self._writing]
            try:
                _make(folder)
                with _opened(folder) as descriptor:
                    _put(descriptor, name, content)
                    if not keep:
                        os.unlink(name, dir_fd=descriptor)
                return
            except OSError as problem:
                self._refusals.append(f"{folder.path}: {problem.strerror or problem}")
                self._writing += 1

    def _warn(self) -> None:
        """Say once that kernels are not kept where they last."""
        if self._warned or (self._writes() and self._folders[self._writing].lasting):
            return
        self._warned = True
        refusals = "; ".join(self._refusals) or "this package has no source files"
        kept = f"are kept in {self.path} alone" if self._writes() else "are not kept"
        warnings.warn(
            f"compiled kernels {kept}, so that other processes may have to compile them again; set "
            "the environment variable NUMBA_CACHE_DIR to a folder that can be written to "
            f"({refusals})",
            KernelCacheWarning,
            stacklevel=_level_of_caller(),
        )


def _make(folder: Folder) -> None:
    """Make a folder, unless it is there."""
    with contextlib.suppress(FileExistsError):
        folder.path.parent.mkdir(parents=True, exist_ok=True)
        folder.path.mkdir(mode=0o700 if folder.private else 0o777)


@contextlib.contextmanager
def _opened(folder: Folder) -> Iterator[int]:
    """Give a descriptor of a folder; an OSError if there is none, or it is not to be believed."""
    link = os.O_NOFOLLOW if folder.private else 0
    descriptor = os.open(folder.path, os.O_RDONLY | os.O_DIRECTORY | link)
    try:
        if folder.private:
            found = os.fstat(descriptor)
            if found.st_uid != os.geteuid():
                raise PermissionError("the folder belongs to another user")
            if found.st_mode & 0o022:
                raise PermissionError("others may write to the folder")
        yield descriptor
    finally:
        os.close(descriptor)


def _put(folder: int, name: str, content: bytes) -> None:
    """Write a file whole or not at all, in place of the one of that name."""
    draft = f"{name}.{os.getpid()}-{secrets.token_hex(4)}.tmp"
    file = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666, dir_fd=folder)
    try:
        with open(file, "wb") as stream:
            stream.write(content)
        os.replace(draft, name, src_dir_fd=folder, dst_dir_fd=folder)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(draft, dir_fd=folder)
        raise


def _level_of_caller() -> int:
    """Return how far up, for who calls this, the first code outside this package and numba is."""
    level, frame = 1, sys._getframe(1)
    own = (__name__.partition(".")[0], "numba")
    while frame.f_back and frame.f_globals.get("__name__", "").partition(".")[0] in own:
        level, frame = level + 1, frame.f_back
    return level
