"""Where the broker is and how to get in: the URL, read once."""

from __future__ import annotations

import re
import ssl
from dataclasses import dataclass, field
from urllib.parse import SplitResult, parse_qs, unquote, urlsplit

import pika

from runctl_shared.bus.amqp import headers
from runctl_shared.errors import UsageError

headers.install()

HEARTBEAT = 10
BLOCKED_TIMEOUT = 60.0
CONNECT_TIMEOUT = 10.0
HANDSHAKE_TIMEOUT = 20.0

# Heartbeats alone see a silent cut after 28 s; with these the kernel sees it in about 10.
TCP_OPTIONS = {"TCP_USER_TIMEOUT": 8000, "TCP_KEEPIDLE": 5, "TCP_KEEPINTVL": 2, "TCP_KEEPCNT": 3}

_OPTIONS = ("prefix", "heartbeat", "cafile", "certfile", "keyfile")
_PREFIX = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,39}")
_FORM = "amqps://USER:PASSWORD@HOST:PORT/VHOST"


@dataclass(frozen=True)
class Target:
    """A broker, a user and a place of one's own (`vhost`, `prefix`) at that broker."""

    host: str
    port: int
    vhost: str
    user: str
    password: str = field(repr=False)
    prefix: str
    heartbeat: int
    tls: ssl.SSLContext | None = field(repr=False)

    @property
    def place(self) -> str:
        """For people and logs: ``host:port``."""
        return f"{self.host}:{self.port}"

    def parameters(self, name: str) -> pika.ConnectionParameters:
        """What pika wants to know. `name` is shown in the broker's list of connections."""
        return pika.ConnectionParameters(
            host=self.host,
            port=self.port,
            virtual_host=self.vhost,
            credentials=pika.PlainCredentials(self.user, self.password),
            heartbeat=self.heartbeat,
            blocked_connection_timeout=BLOCKED_TIMEOUT,
            socket_timeout=CONNECT_TIMEOUT,
            stack_timeout=HANDSHAKE_TIMEOUT,
            connection_attempts=1,  # trying again is the link's business
            tcp_options=TCP_OPTIONS,
            ssl_options=pika.SSLOptions(self.tls, self.host) if self.tls else None,
            client_properties={"connection_name": name},
        )


def parse(url: str) -> Target:
    """Read ``amqp(s)://user:password@host:port/vhost?option=value``.

    Options: `prefix` (of every name at the broker, ``runctl``), `heartbeat` (seconds), and for amqps
    `cafile`, `certfile`, `keyfile`. Raises UsageError, which never shows the password.
    """
    parts, port = _split(url)
    if parts.scheme not in ("amqp", "amqps") or not parts.hostname:
        raise UsageError("The broker's URL is not of the form that RabbitMQ uses.", f"Write it as {_FORM}.")
    options = _options(parts)
    secure = parts.scheme == "amqps"
    if not secure and any(name in options for name in ("cafile", "certfile", "keyfile")):
        raise UsageError(
            "The broker's URL names certificates, but amqp:// is not encrypted.", "Write amqps:// instead."
        )
    return Target(
        host=parts.hostname,
        port=port or (5671 if secure else 5672),
        vhost=unquote(parts.path[1:]) or "/",
        user=unquote(parts.username or "guest"),
        password=unquote(parts.password or "guest"),
        prefix=options.get("prefix", "runctl"),
        heartbeat=_heartbeat(options.get("heartbeat", str(HEARTBEAT))),
        tls=_tls(options) if secure else None,
    )


def _split(url: str) -> tuple[SplitResult, int | None]:
    try:
        parts = urlsplit(url)
        return parts, parts.port
    except ValueError:
        # From None: the parser's own words quote the URL, password and all.
        raise UsageError("The broker's URL cannot be read.", f"Write it as {_FORM}.") from None


def _options(parts: SplitResult) -> dict[str, str]:
    options = {name: values[-1] for name, values in parse_qs(parts.query).items()}
    unknown = sorted(set(options) - set(_OPTIONS))
    if unknown:
        raise UsageError(
            f"The broker's URL has an option that is not known: {unknown[0][:40]!r}.",
            f"Known are: {', '.join(_OPTIONS)}.",
        )
    if not _PREFIX.fullmatch(options.get("prefix", "runctl")):
        raise UsageError(
            "The prefix in the broker's URL is not a plain word.", "Use letters, digits, - and _, at most 40."
        )
    return options


def _heartbeat(text: str) -> int:
    if text.isdecimal() and 1 <= int(text) <= 600:
        return int(text)
    raise UsageError("The heartbeat in the broker's URL is not a number of seconds.", "Use 1 to 600.")


def _tls(options: dict[str, str]) -> ssl.SSLContext:
    """Always verifying: an unverified broker could send any command."""
    try:
        context = ssl.create_default_context(cafile=options.get("cafile"))
        if "certfile" in options:
            context.load_cert_chain(options["certfile"], options.get("keyfile"))
    except (OSError, ssl.SSLError) as error:
        raise UsageError(
            f"A certificate named in the broker's URL cannot be used: {error.strerror or error}.",
            "Correct cafile, certfile or keyfile.",
        ) from error
    return context
