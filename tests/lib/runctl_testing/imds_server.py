"""The EC2 metadata service as a real HTTP server of this process, well and badly behaved."""

from __future__ import annotations

import json
import threading
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

SERVED_AT = 1_505_722_800.0
"""2017-09-18T08:20:00Z: what the server's Date header says unless told otherwise."""

DATE = formatdate(SERVED_AT, usegmt=True)


def maintenance(state: str = "active", start: str = "18 Sep 2017 10:20:00 GMT") -> bytes:
    """What the service serves for one scheduled event, which is in this `state`."""
    event = {
        "NotBefore": start,
        "NotAfter": "18 Sep 2017 12:20:00 GMT",
        "Code": "system-reboot",
        "Description": "scheduled reboot",
        "EventId": "instance-event-0d59937288b749b32",
        "State": state,
    }
    return json.dumps([event]).encode()


class ImdsServer:
    """A metadata service. Change its fields to change what it does; `seen` records what was asked of it."""

    def __init__(self) -> None:
        self.answers: dict[str, tuple[int, bytes]] = {}
        self.token_status = 200
        self.lifetime = "3600"
        self.tokens: list[str] = []
        self.date: str | None = DATE
        self.hang_up = 0
        self.close_after = False
        self.seen: list[tuple[str, str]] = []
        self.headers: list[dict[str, str]] = []
        self.connections = 0
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def asked(self, method: str, path: str) -> int:
        return self.seen.count((method, path))

    def _answer(self, method: str, path: str, token: str | None) -> tuple[int, bytes]:
        if path == "/latest/api/token":
            if method != "PUT":
                return 405, b""
            if self.token_status == 200:
                self.tokens.append(f"token-{len(self.tokens)}")
                return 200, self.tokens[-1].encode()
            return self.token_status, b""
        if not self.tokens or token != self.tokens[-1]:
            return 401, b""
        return self.answers.get(path, (404, b"not found"))

    def _handler(imds) -> type[BaseHTTPRequestHandler]:
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True  # else each small answer waits 40 ms for an acknowledgement

            def setup(self) -> None:
                imds.connections += 1
                super().setup()

            def do_GET(self) -> None:
                imds.seen.append((self.command, self.path))
                imds.headers.append({key.lower(): value for key, value in self.headers.items()})
                if imds.hang_up > 0:
                    imds.hang_up -= 1
                    self.close_connection = True
                    return
                token = self.headers.get("X-aws-ec2-metadata-token")
                status, body = imds._answer(self.command, self.path, token)
                self.send_response_only(status)
                if imds.date is not None:
                    self.send_header("Date", imds.date)
                self.send_header("X-aws-ec2-metadata-token-ttl-seconds", imds.lifetime)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)
                # Without saying so: this is how a kept connection dies.
                self.close_connection = imds.close_after

            do_PUT = do_GET

            def log_message(self, format: str, *args: object) -> None:
                pass

        return Handler
