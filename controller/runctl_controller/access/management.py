"""RabbitMQ's management API, as far as users need it: four verbs over plain HTTP."""

from __future__ import annotations

import base64
import http.client
import json
import ssl
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from runctl_controller.access.port import AccessFailed, AccessRefused
from runctl_shared.errors import UsageError

TIMEOUT = 5.0
_MOST_BYTES = 64 << 20
_FORM = "https://USER:PASSWORD@HOST:15671"
_AGAIN = (
    "It is tried again; check that the plugin rabbitmq_management is on, and RUNCTL_BUS_MANAGEMENT right."
)


class Management:
    """`url`: ``http(s)://user:password@host:port/path``, for https with ``?cafile=`` where the authority is
    one's own. Raises UsageError for a URL that cannot be used, and never shows the password."""

    def __init__(self, url: str) -> None:
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError:
            raise UsageError("The management API's URL cannot be read.", f"Write it as {_FORM}.") from None
        options = {name: values[-1] for name, values in parse_qs(parts.query).items()}
        if parts.scheme not in ("http", "https") or not parts.hostname or set(options) - {"cafile"}:
            raise UsageError("The management API's URL is not of the right form.", f"Write it as {_FORM}.")
        if not parts.username or parts.password is None:
            raise UsageError(
                "The management API's URL names no user or no password.", f"Write it as {_FORM}."
            )
        self.user = unquote(parts.username)
        self._host = parts.hostname
        self._tls = _tls(options.get("cafile")) if parts.scheme == "https" else None
        self._port = port or (15671 if self._tls else 15672)
        self._base = f"{parts.path.rstrip('/')}/api/"
        login = f"{self.user}:{unquote(parts.password)}".encode()
        self._headers = {
            "Authorization": "Basic " + base64.b64encode(login).decode(),
            "Content-Type": "application/json",
        }

    def get(self, path: str) -> Any:
        """What stands there; None when nothing does. Raises AccessFailed, as all of these do."""
        status, body = self._ask("GET", path)
        if status == 404:
            return None
        self._require(status, (200,))
        try:
            return json.loads(body)
        except ValueError:
            raise AccessFailed(f"{self._where} does not answer as RabbitMQ does.", _AGAIN) from None

    def put(self, path: str, value: dict[str, Any]) -> None:
        """Make it, or make it be like that."""
        status, _ = self._ask("PUT", path, json.dumps(value).encode())
        self._require(status, (200, 201, 204))

    def delete(self, path: str) -> None:
        """Remove it, if it is there."""
        status, _ = self._ask("DELETE", path)
        self._require(status, (200, 204, 404))

    @property
    def _where(self) -> str:
        return f"The broker's management API at {self._host}:{self._port}"

    def _ask(self, verb: str, path: str, body: bytes | None = None) -> tuple[int, bytes]:
        connection = self._connection()
        try:
            connection.request(verb, self._base + path, body, self._headers)
            answer = connection.getresponse()
            return answer.status, answer.read(_MOST_BYTES)
        except (OSError, http.client.HTTPException) as error:
            raise AccessFailed(f"{self._where} cannot be reached: {_reason(error)}.", _AGAIN) from error
        finally:
            connection.close()

    def _connection(self) -> http.client.HTTPConnection:
        if self._tls is not None:
            return http.client.HTTPSConnection(self._host, self._port, timeout=TIMEOUT, context=self._tls)
        return http.client.HTTPConnection(self._host, self._port, timeout=TIMEOUT)

    def _require(self, status: int, good: tuple[int, ...]) -> None:
        if status in good:
            return
        if status == 401:
            raise AccessRefused(
                f"{self._where} refuses the user {self.user!r}.",
                "Correct it in RUNCTL_BUS_MANAGEMENT; that user needs the tag `administrator`.",
            )
        if status == 403:
            raise AccessRefused(
                f"{self._where} forbids this to the user {self.user!r}.",
                "Give that user the tag `administrator`.",
            )
        raise AccessFailed(f"{self._where} answered with status {status}.", _AGAIN)


def _tls(cafile: str | None) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=cafile)
    except (OSError, ssl.SSLError) as error:
        raise UsageError(
            f"The certificate in the management API's URL cannot be used: {error.strerror or error}.",
            "Correct cafile.",
        ) from error


def _reason(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return "no answer"
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted ({error.verify_message})"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    return "it does not speak HTTP as expected"
