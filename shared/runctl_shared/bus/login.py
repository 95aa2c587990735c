"""An agent's own login to the bus: kept apart from the bus's URL, which goes into boot files and stores."""

from __future__ import annotations

from urllib.parse import quote, unquote, urlsplit, urlunsplit

import msgspec

from runctl_shared.errors import UsageError

_OF_THE_CALLER = ("certfile", "keyfile")


class Login(msgspec.Struct, frozen=True):
    """A user and the password or token. Never part of a message, a log, an argument list or a spec: it
    reaches the machine as secrets do, `login.json` (mode 600) beside the boot file."""

    user: str
    password: str

    def __repr__(self) -> str:
        return f"Login(user={self.user!r})"


def wants_login(url: str) -> bool:
    """Whether the bus at `url` lets nobody in by the URL alone."""
    return url.startswith(("amqp://", "amqps://")) and "@" not in urlsplit(url).netloc


def login_in(url: str) -> Login | None:
    """The login that `url` holds. RabbitMQ's own for a URL of a broker that holds none."""
    if not url.startswith(("amqp://", "amqps://")):
        return None
    parts = urlsplit(url)
    return Login(unquote(parts.username or "guest"), unquote(parts.password or "guest"))


def without_login(url: str) -> str:
    """`url` as anyone may read it: no user, no password, no client certificate."""
    if not url.startswith(("amqp://", "amqps://")):
        return url
    parts = urlsplit(url)
    options = [one for one in parts.query.split("&") if one.partition("=")[0] not in _OF_THE_CALLER]
    place = parts.netloc.rpartition("@")[2]
    return urlunsplit(parts._replace(netloc=place, query="&".join(options)))


def with_login(url: str, login: Login) -> str:
    """`url` as `login` uses it. Raises UsageError for a bus that has no logins."""
    if not url.startswith(("amqp://", "amqps://")):
        raise UsageError("A login is given for a bus that has none.", "This is a defect: report it.")
    parts = urlsplit(url)
    place = parts.netloc.rpartition("@")[2]
    user = f"{quote(login.user, safe='')}:{quote(login.password, safe='')}"
    return urlunsplit(parts._replace(netloc=f"{user}@{place}"))
