"""A client of the EC2 instance metadata service, version 2 (session tokens) only."""

from __future__ import annotations

import contextlib
import http.client
import os
import re
from urllib.parse import urlsplit

from runctl_agent.notices.read_imds import Answer
from runctl_shared.clock import Clock
from runctl_shared.errors import UsageError

ENDPOINT_VARIABLE = "AWS_EC2_METADATA_SERVICE_ENDPOINT"
DEFAULT_ENDPOINT = "http://169.254.169.254"
TOKEN_PATH = "/latest/api/token"  # noqa: S105 - a path, not a token
TOKEN_SECONDS = 3600
RENEW_BEFORE = 300.0
"""Seconds before its end at which a token is renewed: time enough to try again many times."""

_HOST = re.compile(r"[A-Za-z0-9._:%-]+")
_MOST_BYTES = 64 * 1024


class ImdsFailed(Exception):
    """No answer that means anything: try again soon."""


class ImdsDisabled(ImdsFailed):
    """The service is there and is switched off for this machine (403)."""


def endpoint_from(environment: str | None = None) -> str:
    """The endpoint to use: the one given, else the environment's, else EC2's own address."""
    return environment or os.environ.get(ENDPOINT_VARIABLE) or DEFAULT_ENDPOINT


class ImdsClient:
    """GET by path, over one connection that is kept open. For one thread. No proxy is ever asked: the
    service answers by who calls, and a proxy would answer for itself."""

    def __init__(self, endpoint: str, clock: Clock, timeout: float = 1.5) -> None:
        """Raises UsageError when `endpoint` is not an http URL. `timeout`: seconds for each network step."""
        try:
            parts = urlsplit(endpoint)
            self._host, self._port = parts.hostname or "", parts.port or 80
        except ValueError:
            parts, self._host = urlsplit(""), ""
        if parts.scheme != "http" or not _HOST.fullmatch(self._host):
            raise UsageError(
                f"{endpoint!r} is not the address of a metadata service.",
                f"Unset {ENDPOINT_VARIABLE}, or give it as http://ADDRESS.",
            )
        self._prefix = parts.path.rstrip("/")
        self._clock = clock
        self._timeout = timeout
        self._connection: http.client.HTTPConnection | None = None
        self._token = ""
        self._token_ends = 0.0

    def get(self, path: str) -> Answer:
        """The service's answer for `path`, whatever its status except 401 and 403.

        Raises ImdsDisabled (403), ImdsFailed (no answer, no token, 401 with a fresh token).
        """
        token = self._current_token()
        answer, _ = self._exchange("GET", path, {"X-aws-ec2-metadata-token": token})
        if answer.status == 401:
            # Tokens die early when the service restarts: one more try, with a new one.
            self._token = ""
            token = self._current_token()
            answer, _ = self._exchange("GET", path, {"X-aws-ec2-metadata-token": token})
        if answer.status == 401:
            self._token = ""
            raise ImdsFailed("the service refuses its own fresh token (401)")
        if answer.status == 403:
            raise ImdsDisabled("the service is switched off (403)")
        return answer

    def close(self) -> None:
        """Close the connection. The client may be used again."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _current_token(self) -> str:
        left = self._token_ends - self._clock.monotonic()
        if self._token and left > RENEW_BEFORE:
            return self._token
        try:
            self._renew_token()
        except ImdsFailed:
            if not self._token or left <= 0:
                raise
            # The old one is still good, and is asked to be renewed again next time.
        return self._token

    def _renew_token(self) -> None:
        wanted = {"X-aws-ec2-metadata-token-ttl-seconds": str(TOKEN_SECONDS)}
        answer, granted = self._exchange("PUT", TOKEN_PATH, wanted)
        if answer.status == 403:
            raise ImdsDisabled("the service is switched off (403)")
        token = answer.body.decode("latin-1").strip()
        if answer.status != 200 or not token or not token.isprintable() or not token.isascii():
            raise ImdsFailed(f"no token (HTTP status {answer.status})")
        seconds = TOKEN_SECONDS
        with contextlib.suppress(TypeError, ValueError):
            seconds = int(granted or "")
        self._token = token
        self._token_ends = self._clock.monotonic() + seconds

    def _exchange(self, method: str, path: str, headers: dict[str, str]) -> tuple[Answer, str | None]:
        """One request; the answer and the lifetime of the token that it carries, if it does."""
        reused = self._connection is not None
        try:
            return self._send(method, path, headers)
        except (http.client.BadStatusLine, ConnectionError) as error:
            # A kept connection may have been closed from the other side since: that is no failure.
            if not reused:
                raise ImdsFailed(_reason(error)) from error
        except (http.client.HTTPException, OSError, ValueError) as error:
            raise ImdsFailed(_reason(error)) from error
        try:
            return self._send(method, path, headers)
        except (http.client.HTTPException, OSError, ValueError) as error:
            raise ImdsFailed(_reason(error)) from error

    def _send(self, method: str, path: str, headers: dict[str, str]) -> tuple[Answer, str | None]:
        connection = self._connection or http.client.HTTPConnection(
            self._host, self._port, timeout=self._timeout
        )
        self._connection = connection
        try:
            connection.request(method, self._prefix + path, headers=headers)
            response = connection.getresponse()
            body = response.read(_MOST_BYTES + 1)
            if len(body) > _MOST_BYTES:
                raise http.client.HTTPException("the answer is too long")
        except BaseException:
            self.close()
            raise
        if response.will_close:
            self.close()
        answer = Answer(response.status, body, response.getheader("Date"))
        return answer, response.getheader("X-aws-ec2-metadata-token-ttl-seconds")


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"[:200]
