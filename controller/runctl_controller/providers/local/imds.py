"""A strict EC2 instance metadata service (version 2) for a local machine.

`respond` is pure: request and state in, response out. Tokens carry their own expiry under a keyed hash, so
there is nothing to remember and nothing that grows; a new key expires them all.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import re
import secrets
import socket
import threading
from collections.abc import Mapping
from datetime import datetime, timezone
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import msgspec

from runctl_shared.clock import Clock

_TTL = "x-aws-ec2-metadata-token-ttl-seconds"
_TOKEN = "x-aws-ec2-metadata-token"  # noqa: S105 - the name of a header
_MAX_TTL = 21600
_VERSION = re.compile(r"/(latest|\d{4}-\d{2}-\d{2})/(.+?)/?")


class Metadata(msgspec.Struct, frozen=True, kw_only=True):
    """What the machine is and what awaits it. Times are UTC seconds; None: there is no such notice."""

    instance_id: str
    zone: str = "local"
    instance_type: str = "local"
    launched_at: float = 0.0
    taken_at: float | None = None
    rebalance_at: float | None = None
    maintenance: tuple[dict[str, str], ...] = ()
    lifecycle_state: str | None = "InService"


class Request(msgspec.Struct, frozen=True):
    """`path` without its query; `headers` by lower-case name."""

    method: str
    path: str
    headers: Mapping[str, str] = {}


class Response(msgspec.Struct, frozen=True):
    status: int
    body: bytes = b""
    headers: Mapping[str, str] = {}


class Faults(msgspec.Struct):
    """Failures on request. `failures` requests are answered with `status`; while `hang` is set, requests wait
    until it is unset or the server stops."""

    failures: int = 0
    status: int = 500
    hang: bool = False


def utc(seconds: float) -> str:
    """`seconds` since 1970 the way EC2 writes them, cut to whole seconds: never later than meant."""
    return datetime.fromtimestamp(int(seconds), timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")  # noqa: UP017


def respond(request: Request, metadata: Metadata, key: bytes, now: float) -> Response:
    """The answer of a service that insists on tokens. `now` is on the clock of the tokens' lifetimes."""
    if request.method == "PUT":
        return _put(request, key, now)
    if request.method not in ("GET", "HEAD") or request.path == "/latest/api/token":
        return Response(405, headers={"Allow": "OPTIONS, GET, HEAD, PUT"})
    if not _valid(request.headers.get(_TOKEN, ""), key, now):
        return Response(401)
    match = _VERSION.fullmatch(request.path)
    text = _leaf(match.group(2), metadata) if match else None
    if text is None:
        return Response(404)
    return Response(200, text.encode(), {"Content-Type": "text/plain"})


def _put(request: Request, key: bytes, now: float) -> Response:
    if request.path != "/latest/api/token":
        # Tokens are given at the one path only; EC2 forbids the ones with a version date.
        return Response(403 if request.path.endswith("/api/token") else 405)
    if "x-forwarded-for" in request.headers:
        return Response(403)
    ttl = request.headers.get(_TTL, "")
    if not re.fullmatch(r"[0-9]{1,9}", ttl) or not 1 <= int(ttl) <= _MAX_TTL:
        return Response(400)
    token = _sign(f"{now + int(ttl):.3f}", key)
    return Response(
        200, token.encode(), {"Content-Type": "text/plain", "X-Aws-Ec2-Metadata-Token-Ttl-Seconds": ttl}
    )


def _sign(expiry: str, key: bytes) -> str:
    return f"{expiry}-{hashlib.blake2b(expiry.encode(), key=key, digest_size=24).hexdigest()}"


def _valid(token: str, key: bytes, now: float) -> bool:
    expiry = token.rpartition("-")[0]
    # Compared as bytes: a header may hold anything, and compare_digest takes no str beyond ASCII.
    return hmac.compare_digest(token.encode(), _sign(expiry, key).encode()) and now < float(expiry)


def _leaf(path: str, metadata: Metadata) -> str | None:
    taken = None if metadata.taken_at is None else utc(metadata.taken_at)
    if path == "dynamic/instance-identity/document":
        return _identity(metadata)
    spot_action = None if taken is None else _json({"action": "terminate", "time": taken})
    rebalance = None if metadata.rebalance_at is None else _json({"noticeTime": utc(metadata.rebalance_at)})
    return {
        "meta-data/instance-id": metadata.instance_id,
        "meta-data/instance-type": metadata.instance_type,
        "meta-data/instance-life-cycle": "spot",
        "meta-data/placement/availability-zone": metadata.zone,
        "meta-data/spot/instance-action": spot_action,
        "meta-data/spot/termination-time": taken,
        "meta-data/events/recommendations/rebalance": rebalance,
        "meta-data/events/maintenance/scheduled": _json(metadata.maintenance),
        "meta-data/autoscaling/target-lifecycle-state": metadata.lifecycle_state,
    }.get(path)


def _identity(metadata: Metadata) -> str:
    return _json(
        {
            "instanceId": metadata.instance_id,
            "instanceType": metadata.instance_type,
            "availabilityZone": metadata.zone,
            "region": metadata.zone,
            "pendingTime": utc(metadata.launched_at),
            "privateIp": "127.0.0.1",
            "version": "2017-09-30",
        }
    )


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()


class MetadataServer:
    """Serves `metadata` on a port of the loopback interface from threads of its own until `stop`.

    `metadata` may be replaced at any time; a request sees the one or the other, never a mixture. Raises
    OSError when no port can be had.
    """

    def __init__(self, metadata: Metadata, clock: Clock) -> None:
        self.metadata = metadata
        self.faults = Faults()
        self._clock = clock
        self._key = secrets.token_bytes(32)
        self._changed = threading.Condition()
        self._stopped = False
        self._http = _Http(("127.0.0.1", 0), _Handler)
        self._http.owner = self
        self._thread = threading.Thread(target=self._serve, name="imds", daemon=True)

    @property
    def endpoint(self) -> str:
        """The URL to put into AWS_EC2_METADATA_SERVICE_ENDPOINT."""
        return f"http://127.0.0.1:{self._http.server_address[1]}"

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Close the port and let hanging requests go. Safe to call again."""
        with self._changed:
            first, self._stopped = not self._stopped, True
            self._changed.notify_all()
        if first and self._thread.is_alive():
            with contextlib.suppress(OSError):  # one connection more, so that it looks up
                socket.create_connection(("127.0.0.1", self._http.server_address[1]), timeout=1).close()
            self._thread.join(timeout=1)
        self._http.server_close()

    def expire_tokens(self) -> None:
        """Make every token given so far invalid."""
        self._key = secrets.token_bytes(32)

    def fail(self, failures: int = 0, status: int = 500, hang: bool = False) -> None:
        """Set the faults; without arguments, end them."""
        with self._changed:
            self.faults = Faults(failures, status, hang)
            self._changed.notify_all()

    def _serve(self) -> None:
        while not self._stopped:  # not serve_forever: that one wakes up again and again to see whether it may
            self._http.handle_request()

    def answer(self, request: Request) -> Response | None:
        """The response to `request`; None when the connection is to be dropped without one."""
        with self._changed:
            self._changed.wait_for(lambda: self._stopped or not self.faults.hang)
            if self._stopped:
                return None
            if self.faults.failures > 0:
                self.faults.failures -= 1
                return Response(self.faults.status)
        return respond(request, self.metadata, self._key, self._clock.monotonic())


class _Http(ThreadingHTTPServer):
    owner: MetadataServer
    daemon_threads = True
    block_on_close = False  # a client that keeps its connection open must not keep a dead machine

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is no news."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 60.0
    server: _Http

    def __getattr__(self, name: str) -> Any:
        if name.startswith("do_"):  # also the methods that nobody has thought of: they are answered 405
            return self._do
        raise AttributeError(name)

    def _do(self) -> None:
        headers = {name.lower(): value for name, value in self.headers.items()}
        response = self.server.owner.answer(Request(self.command, self.path.partition("?")[0], headers))
        if response is None or headers.get("content-length", "0") != "0" or "transfer-encoding" in headers:
            self.close_connection = True  # bodies are never read: what follows would not be a request
        if response is None:
            return
        self.send_response(response.status)
        for name, value in response.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(response.body)))
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(response.body)

    def setup(self) -> None:
        super().setup()
        self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def version_string(self) -> str:
        return "EC2ws"

    def log_message(self, format: str, *args: Any) -> None:
        """Quiet: one line a second for each machine would tell nobody anything."""
