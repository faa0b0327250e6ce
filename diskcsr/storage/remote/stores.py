"""Ranges of a file from whatever else fsspec knows: S3, Google's and Azure's stores, caches."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from ...errors import RemoteError, StaleFileError
from ...loading import load, load_extra
from .http import HttpStore
from .state import Answer, State, Transient

__all__ = ["Store", "store_of"]

#: What file systems call the state of a file, the best first.
_TAGS = ("ETag", "etag", "version_id", "generation", "content_md5", "md5Hash")
_TIMES = ("LastModified", "last_modified", "updated", "mtime", "modified", "created")


class Store:
    """One file of a file system of fsspec's; see `HttpStore`.

    One that knows no concurrent calls is asked for one range at a time.
    """

    #: Ranges come without a word on the state of the file: it has to be asked for.
    tells_state = False

    def __init__(self, fs: Any, path: str, shown: str, concurrent: bool) -> None:
        self._fs, self._path, self._shown = fs, path, shown
        self._concurrent, self._one_at_a_time = concurrent, asyncio.Lock()

    async def _call(self, name: str, *args: Any, **keywords: Any) -> Any:
        if self._concurrent:
            return await getattr(self._fs, f"_{name}")(*args, **keywords)
        async with self._one_at_a_time:
            return await asyncio.to_thread(getattr(self._fs, name), *args, **keywords)

    async def begin(self, nbytes: int) -> Answer:
        state = await self.look()
        end = min(nbytes, state.size)
        return Answer(await self.get(0, end, state) if end else b"", state)

    async def get(self, lo: int, hi: int, state: State) -> bytes:
        try:
            raw = await self._call("cat_file", self._path, start=lo, end=min(hi, state.size))
        except FileNotFoundError as problem:
            raise StaleFileError(f"{self._shown} is no longer there") from problem
        wanted = min(hi, state.size) - lo
        if len(raw) > wanted:
            raise RemoteError(f"{self._shown}, bytes {lo} to {hi}: {len(raw)} bytes were returned")
        if len(raw) < wanted:
            raise Transient(f"only {len(raw)} bytes came")
        return bytes(raw)

    async def _info_behind(self) -> Any:
        """Ask the file system behind a cache, which itself asks for a list of all files."""
        cached = load("fsspec.implementations.cached").CachingFileSystem
        try:
            if not issubclass(type(self._fs), cached):
                raise FileNotFoundError
            return await asyncio.to_thread(self._fs.fs.info, self._path)
        except FileNotFoundError:
            raise FileNotFoundError(2, "There is no such file", self._shown) from None

    async def look(self) -> State:
        if hasattr(self._fs, "invalidate_cache"):
            self._fs.invalidate_cache(self._path)
        try:
            info = await self._call("info", self._path)
        except FileNotFoundError:
            info = await self._info_behind()
        size = info.get("size")
        if not isinstance(size, int) or info.get("type", "file") != "file":
            raise RemoteError(f"{self._shown}: it is no file, or of unknown size")
        named = (info.get(key) for key in (*_TAGS, *_TIMES))
        return State(size, next((str(tag) for tag in named if tag is not None), None))


#: Makes the store of a file in the loop in which it is used.
Maker = Callable[[], Awaitable[HttpStore | Store]]


def store_of(url: str, options: dict[str, Any], shown: str) -> Maker:
    """Return what makes the store that a URL leads to.

    Raises
    ------
    ImportError
        When fsspec, or what it needs for such URLs, is not installed.
    ValueError
        When there is no such protocol.
    """
    work = f"{shown}: reading it"
    core = load_extra("fsspec.core", work, "diskcsr[remote]")
    try:
        fs, path = core.url_to_fs(url, **options)
    except ImportError as problem:
        raise ImportError(
            f"{work} takes more than is installed: {problem} (of http and https: "
            "pip install 'diskcsr[remote]'; else pip install s3fs, gcsfs, adlfs ...)"
        ) from problem
    asyn = load("fsspec.asyn")
    # By its class: a cache of fsspec's says of itself what the file system behind it would.
    concurrent = issubclass(type(fs), asyn.AsyncFileSystem)

    async def make() -> HttpStore | Store:
        if concurrent and "http" in fs.protocol:
            return HttpStore(fs, path, shown)
        return Store(fs, path, shown, concurrent)

    return make
