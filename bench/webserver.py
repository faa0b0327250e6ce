"""A web server of a few files: ranges of them, at a latency and over a line of a bandwidth.

It counts requests and bytes, and fails as it is told. All its answers share one line, as those to
one client do. For benchmarks it runs in a process of its own, for tests in a thread.

``python bench/webserver.py FILE [--latency SECONDS] [--bandwidth BYTES]`` prints its URL, and ends
with its standard input.
"""

import argparse
import asyncio
import contextlib
import email.utils
import hashlib
import re
import sys
import threading
from pathlib import Path

#: Bytes sent at a time.
SLICE = 1 << 16
_RANGE = re.compile(rb"bytes=(\d+)-(\d+)")


class WebServer:
    """Serves files by name from ``http://127.0.0.1:<port>/``.

    Parameters
    ----------
    files : dict of str to bytes or path
    latency : float
        Seconds before each answer.
    bandwidth : float, optional
        Bytes a second.
    fault : callable, optional
        Is told the number of a request, its first byte and the one past its last, and returns how
        to fail it, or None: a status as 500; "cut" (half of the bytes, then the end), "slow" (half
        of them, then nothing), "whole" (ranges are ignored), "other" (another range), "long" (more
        bytes than asked for), "endless" (as those, without an end), "vast" (a size that cannot be),
        "encoded" or "untold" (no Content-Range).

    Attributes
    ----------
    requests : list of (name, lo, hi)
        Those that were answered by bytes.
    """

    def __init__(self, files, latency=0.0, bandwidth=None, fault=None):
        self.files, self.latency, self.bandwidth, self.fault = files, latency, bandwidth, fault
        self.requests, self.asked = [], 0
        self.headers = []
        self.etags, self.tagged = {}, True
        self._free = 0.0
        self._writers, self._ending = set(), False

    @property
    def sent(self):
        """Bytes of files that were asked for and sent."""
        return sum(hi - lo for _, lo, hi in self.requests)

    def clear(self):
        """Forget what was counted."""
        self.requests, self.asked = [], 0

    def url(self, name):
        return f"http://127.0.0.1:{self.port}/{name}"

    # ------------------------------------------------------------------------------ in its loop

    async def _talk(self, reader, writer):
        self._writers.add(writer)
        try:
            while await self._answer(await reader.readuntil(b"\r\n\r\n"), writer):
                pass
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass  # the client has gone, or the server ends
        finally:
            self._writers.discard(writer)
            writer.transport.abort() if self._ending else writer.close()

    async def _answer(self, request, writer):
        """Answer one request; whether the connection stays open."""
        lines = request.split(b"\r\n")
        method, target = lines[0].split(b" ")[:2]
        name = target.decode().partition("?")[0].lstrip("/")
        headers = dict(line.lower().split(b": ", 1) for line in lines[1:] if b": " in line)
        self.headers.append(headers)
        number, self.asked = self.asked, self.asked + 1
        if self.latency:
            await asyncio.sleep(self.latency)
        if name not in self.files:
            return self._head(writer, 404, {"Content-Length": 0})
        contents = self.files[name]
        size = len(contents)
        asked = _RANGE.fullmatch(headers.get(b"range", b""))
        lo, hi = (int(asked[1]), min(int(asked[2]) + 1, size)) if asked else (0, size)
        fault = self.fault and self.fault(number, lo, hi)
        if isinstance(fault, int):
            return self._head(writer, fault, {"Content-Length": 0})
        if lo >= size:
            return self._head(writer, 416, {"Content-Length": 0})
        if fault == "whole":
            asked, lo, hi = None, 0, size
        self._head(writer, *self._told(name, lo, hi, bool(asked), fault))
        if method == b"HEAD":
            return True
        self.requests.append((name, lo, hi))
        return await self._body(writer, contents, lo, hi, fault)

    def _told(self, name, lo, hi, part, fault):
        """What stands before the bytes of an answer: its status and headers."""
        contents = self.files[name]
        told = {"Accept-Ranges": "bytes"}
        if self.tagged:
            told["ETag"] = self._etag(name, contents)
        if part and fault != "untold":
            shift = int(fault == "other")
            size = 10**17 if fault == "vast" else len(contents)
            told["Content-Range"] = f"bytes {lo + shift}-{hi - 1 + shift}/{size}"
        if fault == "encoded":
            told["Content-Encoding"] = "gzip"
        if fault in ("long", "endless"):
            told["Connection"] = "close"
        else:
            told["Content-Length"] = hi - lo
        return (206 if part else 200), told

    async def _body(self, writer, contents, lo, hi, fault):
        """Send the bytes of an answer; whether the connection stays open."""
        await self._send(writer, contents, lo, (lo + hi) // 2 if fault in ("cut", "slow") else hi)
        while fault in ("long", "endless"):
            await self._send(writer, b"more" * 1000, 0, 4000)
            if fault == "long":
                return False
        if fault == "slow":
            await asyncio.sleep(3600)
        return fault != "cut"

    def _etag(self, name, contents):
        known = self.etags.get(name)
        if known is None or known[0] is not contents:
            known = self.etags[name] = (contents, f'"{hashlib.sha1(contents).hexdigest()}"')
        return known[1]

    def _head(self, writer, status, headers):
        headers = {"Date": email.utils.formatdate(usegmt=True), **headers}
        lines = [f"HTTP/1.1 {status} X", *(f"{key}: {value}" for key, value in headers.items())]
        writer.write("\r\n".join([*lines, "", ""]).encode())
        return True

    async def _send(self, writer, contents, lo, hi):
        for begin in range(lo, hi, SLICE):
            some = contents[begin : min(begin + SLICE, hi)]
            if self.bandwidth:
                now = asyncio.get_running_loop().time()
                self._free = max(now, self._free) + len(some) / self.bandwidth
                # A pause of less than a millisecond takes longer than that.
                if self._free - now > 0.002:
                    await asyncio.sleep(self._free - now)
            writer.write(some)
            await writer.drain()

    async def serve(self, begun):
        """Serve until cancelled; call `begun` when that has begun."""
        server = await asyncio.start_server(self._talk, "127.0.0.1", 0, backlog=512)
        self.port = server.sockets[0].getsockname()[1]
        begun()
        async with server:
            await server.serve_forever()

    # --------------------------------------------------------------------------- in a thread

    def __enter__(self):
        begun = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._task = self._loop.create_task(self.serve(begun.set))

        def run():
            with contextlib.suppress(asyncio.CancelledError):
                self._loop.run_until_complete(self._task)

        self._thread = threading.Thread(target=run, daemon=True)
        self._thread.start()
        begun.wait()
        return self

    def __exit__(self, *exc_info):
        def end():
            self._ending = True
            for writer in self._writers:
                writer.transport.abort()
            for task in asyncio.all_tasks(self._loop):
                task.cancel()

        self._loop.call_soon_threadsafe(end)
        self._thread.join()
        self._loop.run_until_complete(self._ended(asyncio.all_tasks(self._loop)))
        self._loop.close()

    async def _ended(self, left):
        await asyncio.gather(*left, return_exceptions=True)
        await asyncio.sleep(0)  # in which connections are closed


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", type=Path)
    parser.add_argument("--latency", type=float, default=0.0)
    parser.add_argument("--bandwidth", type=float)
    args = parser.parse_args()
    import mmap

    with args.file.open("rb") as file:
        contents = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    server = WebServer({args.file.name: contents}, args.latency, args.bandwidth)
    with server:
        print(server.url(args.file.name), flush=True)
        for line in sys.stdin:
            if line.strip() == "count":
                print(len(server.requests), server.sent, flush=True)
                server.clear()


if __name__ == "__main__":
    main()
