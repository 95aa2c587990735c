"""A wire between a client and a server that a test can cut, tear, slow down, or let fall silent."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Coroutine
from functools import partial
from urllib.parse import urlsplit, urlunsplit

_Link = tuple[asyncio.StreamWriter, asyncio.StreamWriter]


class _Way:
    """One of the two directions, of all wires. Touched on the loop's thread only."""

    def __init__(self) -> None:
        self.flowing = asyncio.Event()
        self.flowing.set()
        self.rate = 0
        self.tears_after = -1

    async def pass_on(self, data: bytes, writer: asyncio.StreamWriter) -> bool:
        """Write `data` as this way does it; True when the wire is to be torn now."""
        await self.flowing.wait()
        while data:
            piece = data[: max(1, self.rate // 10)] if self.rate else data
            tears = 0 <= self.tears_after <= len(piece)
            writer.write(piece[: self.tears_after] if tears else piece)
            await writer.drain()
            if tears:
                self.tears_after = -1
                return True
            if self.tears_after >= 0:
                self.tears_after -= len(piece)
            data = data[len(piece) :]
            if self.rate:
                await asyncio.sleep(len(piece) / self.rate)
        return False


class TcpProxy:
    """Listens on `host` and forwards to the server in `url`. Use as a context manager.

    `port` 0 takes a free one. With `tls`, the client's side of the wire is encrypted. Every method returns
    when it has taken effect on the wires that exist.
    """

    def __init__(
        self, url: str, port: int = 0, tls: ssl.SSLContext | None = None, host: str = "127.0.0.1"
    ) -> None:
        self._url = urlsplit(url)
        self._host, self._tls = host, tls
        self._loop = asyncio.new_event_loop()
        self._there, self._back = _Way(), _Way()
        self._links: set[_Link] = set()
        self._server = self._loop.run_until_complete(
            asyncio.start_server(self._serve, host, port, ssl=tls, backlog=1024)
        )
        self.port: int = self._server.sockets[0].getsockname()[1]
        self.accepted = 0
        """How many wires there have been."""
        self._thread = threading.Thread(target=self._loop.run_forever, name="tcp-proxy", daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        """The server's URL, by way of this wire."""
        credentials, _, _ = self._url.netloc.rpartition("@")
        return urlunsplit(self._url._replace(netloc=f"{credentials}@{self._host}:{self.port}"))

    @property
    def wires(self) -> int:
        return len(self._links)

    def cut(self) -> None:
        """Hang up on both sides in order (FIN)."""
        self._call(self._end_all)

    def reset(self) -> None:
        """Hang up on both sides at once (RST), with whatever was under way."""
        self._call(self._reset_all)

    def tear(self, after: int, *, back: bool = False) -> None:
        """Let `after` more bytes through to the server (with `back`: to the client), then reset."""
        self._call(lambda: setattr(self._back if back else self._there, "tears_after", after))

    @property
    def torn(self) -> bool:
        """Whether what was last asked of `tear` has happened."""
        return self._there.tears_after < 0 and self._back.tears_after < 0

    def freeze(self, *, there: bool = True, back: bool = True) -> None:
        """Swallow everything on the way `there` (to the server) and `back`, of new wires too; nobody is
        told."""
        for way in [self._there] * there + [self._back] * back:
            self._call(way.flowing.clear)

    def thaw(self) -> None:
        """Let it flow again, beginning with what was held back."""
        for way in (self._there, self._back):
            self._call(way.flowing.set)

    def trickle(self, rate: int) -> None:
        """So many bytes a second each way, on every wire; 0: as fast as it goes."""
        for way in (self._there, self._back):
            self._call(partial(setattr, way, "rate", rate))

    def shut(self) -> None:
        """Nobody is there any more: wires are cut, new ones refused."""
        self._await(self._shut())

    def reopen(self) -> None:
        """Where `shut` has closed."""
        self._await(self._reopen())

    def __enter__(self) -> TcpProxy:
        return self

    def __exit__(self, *_exc: object) -> None:
        self._await(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    def _await(self, work: Coroutine[None, None, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(10)

    # ---- on the loop's thread

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        try:
            far_reader, far_writer = await asyncio.open_connection(self._url.hostname, self._url.port)
        except OSError:
            writer.transport.abort()
            return
        link = (writer, far_writer)
        self._links.add(link)
        try:
            await asyncio.gather(
                self._pump(reader, far_writer, self._there), self._pump(far_reader, writer, self._back)
            )
        finally:
            self._links.discard(link)
            for end in link:
                end.transport.abort()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, way: _Way) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(1 << 16):
                if await way.pass_on(data, writer):
                    self._reset_all()
        with contextlib.suppress(OSError):
            writer.close()

    def _reset_all(self) -> None:
        self._end_all(struct.pack("ii", 1, 0))

    def _end_all(self, linger: bytes = b"") -> None:
        for link in self._links:
            for end in link:
                if linger:
                    end.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                    end.transport.abort()
                else:
                    end.close()

    async def _shut(self) -> None:
        self._server.close()
        self._end_all()

    async def _reopen(self) -> None:
        self._server = await asyncio.start_server(self._serve, self._host, self.port, ssl=self._tls)

    async def _close(self) -> None:
        self._server.close()
        for way in (self._there, self._back):
            way.rate = 0
            way.flowing.set()
        self._end_all()
        while others := asyncio.all_tasks() - {asyncio.current_task()}:
            await asyncio.wait(others)

    def _call(self, act: Callable[[], None]) -> None:
        done = threading.Event()

        def run() -> None:
            act()
            done.set()

        self._loop.call_soon_threadsafe(run)
        assert done.wait(10), "the proxy's thread hangs"
