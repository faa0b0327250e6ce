"""Ranges of a file from a web server that is not trusted: no answer is read further than asked for.

fsspec has the connections; what an answer claims is compared here with what was asked, before its
body is read: fsspec itself takes whatever comes, and reads all of it.
"""

import re
from typing import Any

from ...errors import RemoteError, StaleFileError
from .state import Answer, State, Transient

__all__ = ["HttpStore"]

_RANGE = re.compile(r"\s*bytes\s+(\d{1,18})-(\d{1,18})/(\d{1,18})\s*", re.IGNORECASE)
#: Answers after which the same question may be answered.
_LATER = (408, 425, 429)


class HttpStore:
    """One file on a web server.

    Parameters
    ----------
    fs : fsspec.implementations.http.HTTPFileSystem
    url : str
    shown : str
        How messages call it.
    """

    #: Every answer says of which state of the file it is.
    tells_state = True

    def __init__(self, fs: Any, url: str, shown: str) -> None:
        self._fs, self._url, self._shown = fs, url, shown

    async def begin(self, nbytes: int) -> Answer:
        """Read the first bytes, and learn how many there are."""
        return await self._get(0, nbytes, None)

    async def get(self, lo: int, hi: int, state: State) -> bytes:
        """Read bytes ``lo:hi`` of the file in this state.

        Raises
        ------
        StaleFileError
            When it is in another.
        RemoteError
            When the server does not answer the question.
        Transient
            When it may yet do so.
        """
        return (await self._get(lo, hi, state)).raw

    async def look(self) -> State:
        """Return the state that the file is in now."""
        return (await self._get(0, 1, None)).state

    async def _get(self, lo: int, hi: int, state: State | None) -> Answer:
        session = await self._fs.set_session()
        keywords = dict(self._fs.kwargs)
        headers = dict(keywords.pop("headers", None) or {})
        headers |= {"Range": f"bytes={lo}-{hi - 1}", "Accept-Encoding": "identity"}
        url = self._fs.encode_url(self._url)
        async with session.get(url, headers=headers, **keywords) as answer:
            found = self._state_of(answer, lo, hi, state is None)
            if state is not None and found != state:
                raise StaleFileError(f"{self._shown} was changed on the server after it was opened")
            wanted = min(hi, found.size) - lo
            raw = await answer.content.readexactly(wanted) if wanted > 0 else b""
            return Answer(raw, found)

    def _state_of(self, answer: Any, lo: int, hi: int, first: bool) -> State:
        """Check what an answer says of itself, and return the state of the file it is of."""
        status = answer.status
        if status in (404, 410) and not first:
            raise StaleFileError(f"{self._shown} is no longer there (status {status})")
        if status in (404, 410):
            raise FileNotFoundError(
                2, f"The server has no such file (status {status})", self._shown
            )
        if status in (401, 403):
            raise PermissionError(
                13, f"The server does not permit it (status {status})", self._shown
            )
        if status in _LATER or status >= 500:
            raise Transient(f"the server answered with status {status}")
        what = f"{self._shown}, bytes {lo} to {hi}"
        if status == 416:
            if not first:
                raise StaleFileError(f"{what}: the server says that the file ends before")
            return State(0, None)
        if status == 200:
            raise RemoteError(
                f"{what}: the server gives whole files only (it ignores the header Range); "
                "download the file, or let fsspec do so: 'simplecache::URL'"
            )
        found = _RANGE.fullmatch(answer.headers.get("Content-Range", ""))
        if status != 206 or found is None:
            raise RemoteError(
                f"{what}: the server answered with status {status} and Content-Range "
                f"{answer.headers.get('Content-Range')!r}"
            )
        begin, last, size = map(int, found.groups())
        if begin != lo or last + 1 != min(hi, size):
            raise RemoteError(
                f"{what}: the server answered with bytes {begin} to {last + 1} of {size}"
            )
        if answer.headers.get("Content-Encoding", "identity") != "identity":
            raise RemoteError(f"{what}: the server answered with bytes that are encoded")
        return State(size, answer.headers.get("ETag") or answer.headers.get("Last-Modified"))
