"""A wire between a client and a server that a test can cut, reset, or let fall silent."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import struct
import threading
from collections.abc import Callable
from urllib.parse import urlsplit, urlunsplit

_Link = tuple[asyncio.StreamWriter, asyncio.StreamWriter]


class TcpProxy:
    """Listens on 127.0.0.1 and forwards to the server in `url`. Use as a context manager.

    `port` 0 takes a free one. With `tls`, the client's side of the wire is encrypted. Every method returns
    when it has taken effect on the wires that exist.
    """

    def __init__(self, url: str, port: int = 0, tls: ssl.SSLContext | None = None) -> None:
        self._url = urlsplit(url)
        self._loop = asyncio.new_event_loop()
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._links: set[_Link] = set()
        self._server = self._loop.run_until_complete(
            asyncio.start_server(self._serve, "127.0.0.1", port, ssl=tls)
        )
        self.port: int = self._server.sockets[0].getsockname()[1]
        self._thread = threading.Thread(target=self._loop.run_forever, name="tcp-proxy", daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        """The server's URL, by way of this wire."""
        credentials, _, _ = self._url.netloc.rpartition("@")
        return urlunsplit(self._url._replace(netloc=f"{credentials}@127.0.0.1:{self.port}"))

    @property
    def wires(self) -> int:
        return len(self._links)

    def cut(self) -> None:
        """Hang up on both sides in order (FIN)."""
        self._call(self._end_all)

    def reset(self) -> None:
        """Hang up on both sides at once (RST), with whatever was under way."""
        self._call(lambda: self._end_all(struct.pack("ii", 1, 0)))

    def freeze(self) -> None:
        """Swallow everything in both directions, new wires included; nobody is told."""
        self._call(self._flowing.clear)

    def thaw(self) -> None:
        """Let it flow again, beginning with what was held back."""
        self._call(self._flowing.set)

    def __enter__(self) -> TcpProxy:
        return self

    def __exit__(self, *_exc: object) -> None:
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    # ---- on the loop's thread

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            far_reader, far_writer = await asyncio.open_connection(self._url.hostname, self._url.port)
        except OSError:
            writer.transport.abort()
            return
        link = (writer, far_writer)
        self._links.add(link)
        try:
            await asyncio.gather(self._pump(reader, far_writer), self._pump(far_reader, writer))
        finally:
            self._links.discard(link)
            for end in link:
                end.transport.abort()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(1 << 16):
                await self._flowing.wait()
                writer.write(data)
                await writer.drain()
        with contextlib.suppress(OSError):
            writer.close()

    def _end_all(self, linger: bytes = b"") -> None:
        for link in self._links:
            for end in link:
                if linger:
                    end.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                    end.transport.abort()
                else:
                    end.close()

    async def _close(self) -> None:
        self._server.close()
        self._flowing.set()
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
