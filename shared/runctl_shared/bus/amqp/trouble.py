"""What went wrong at the broker, in our words: what the caller can do about it, and never a password."""

from __future__ import annotations

import re
import socket
import ssl

from pika import exceptions

from runctl_shared.bus.amqp.target import Target
from runctl_shared.bus.port import BusError, BusRefused, BusUnavailable

_RETRIED = "It is tried again by itself; check that the broker is running and that its URL is right."
_AGAIN = "Send it again."


def of_connection(error: BaseException | None, target: Target) -> BusError:
    """Why a connection could not be made, or was lost."""
    cause = _innermost(error)
    text = str(cause)
    where = f"The broker at {target.place}"
    if isinstance(cause, ssl.SSLError):
        return _tls(cause, where)
    if isinstance(cause, exceptions.ProbableAuthenticationError) and "(403)" in text:
        return BusRefused(
            f"{where} refuses the user {target.user!r}.",
            "Check the user name and the password in the broker's URL.",
        )
    if isinstance(cause, exceptions.ProbableAccessDeniedError) and "(530)" in text:
        return _vhost(text, where, target)
    if isinstance(cause, socket.gaierror):
        return BusUnavailable(f"The broker's host {target.host!r} is not known.", _RETRIED)
    if isinstance(cause, exceptions.ConnectionClosedByBroker):
        return BusUnavailable(f"{where} closed the connection ({cause.reply_code}).", _RETRIED)
    if isinstance(cause, exceptions.IncompatibleProtocolError):
        return BusUnavailable(
            f"{where} does not answer as RabbitMQ does.", "Check the port, and amqp:// against amqps://."
        )
    return BusUnavailable(f"{where} cannot be reached: {_reason(cause)}.", _RETRIED)


def of_channel(reason: BaseException, target: Target) -> BusError:
    """Why the broker closed a channel."""
    if not isinstance(reason, exceptions.ChannelClosedByBroker):
        return BusUnavailable(f"The link to the broker at {target.place} was lost.", _AGAIN)
    if reason.reply_code == 403:
        return BusRefused(
            f"The broker at {target.place} forbids this to the user {target.user!r}: {_named(reason)}.",
            "Give that user the permissions that runctl's guide to RabbitMQ lists.",
        )
    if reason.reply_code == 406:
        return BusRefused(
            f"The broker at {target.place} has something of that name with other settings: {_named(reason)}.",
            "Delete it there, or give the broker's URL another ?prefix=.",
        )
    if reason.reply_code == 404:
        return BusUnavailable(
            f"The broker at {target.place} has not been set up: {_named(reason)}.",
            "The controller does that when it starts; start it.",
        )
    return BusUnavailable(f"The broker at {target.place} closed the channel: {_named(reason)}.", _AGAIN)


def lost() -> BusUnavailable:
    """For a message that was sent and whose fate nobody knows."""
    return BusUnavailable("The link to the broker was lost before it confirmed the message.", _AGAIN)


def late(seconds: float) -> BusUnavailable:
    return BusUnavailable(f"The broker did not confirm the message within {seconds:.0f} s.", _AGAIN)


def rejected() -> BusUnavailable:
    return BusUnavailable(
        "The broker did not take the message: its queue is full.", "Start the controller, which empties it."
    )


def _innermost(error: BaseException | None) -> BaseException:
    """pika wraps what happened in what it was doing at the time."""
    while error is not None:
        inner = getattr(error, "exceptions", None) or (getattr(error, "exception", None),)
        if inner[-1] is None and error.args and isinstance(error.args[0], BaseException):
            inner = error.args[:1]
        if not isinstance(inner[-1], BaseException):
            return error
        error = inner[-1]
    return ConnectionError("the connection ended")


def _tls(cause: ssl.SSLError, where: str) -> BusError:
    if isinstance(cause, ssl.SSLCertVerificationError):
        return BusRefused(
            f"{where} shows a certificate that is not trusted: {cause.verify_message}.",
            "Name the authority that signed it with ?cafile= in the broker's URL.",
        )
    return BusUnavailable(
        f"{where} does not speak TLS with us: {cause.reason or 'handshake failed'}.",
        "Check the port, and amqp:// against amqps://.",
    )


def _vhost(text: str, where: str, target: Target) -> BusError:
    if "not found" in text:
        return BusRefused(
            f"{where} has no virtual host {target.vhost!r}.",
            "Create it there (rabbitmqctl add_vhost, set_permissions), or correct the broker's URL.",
        )
    if "refused" in text:
        return BusRefused(
            f"{where} does not let the user {target.user!r} into the virtual host {target.vhost!r}.",
            "Give that user permissions there (rabbitmqctl set_permissions), or correct the broker's URL.",
        )
    return BusUnavailable(f"{where} cannot open the virtual host {target.vhost!r} now.", _RETRIED)


def _named(reason: BaseException) -> str:
    """The broker's own words, without its code and without what could upset a terminal."""
    text = str(getattr(reason, "reply_text", reason))
    return re.sub(r"[^\x20-\x7e]", "?", text.partition(" - ")[2] or text)[:300]


def _reason(cause: BaseException) -> str:
    if isinstance(cause, TimeoutError | socket.timeout):
        return "no answer"
    if isinstance(cause, OSError) and cause.strerror:
        return cause.strerror.lower()
    if isinstance(cause, exceptions.AMQPHeartbeatTimeout):
        return "its heartbeat stopped"
    if isinstance(cause, exceptions.ConnectionBlockedTimeout):
        return "it takes no messages (out of memory or disk)"
    return "the connection was lost"


def unreachable(target: Target) -> BusUnavailable:
    return BusUnavailable(f"The broker at {target.place} has not answered yet.", _RETRIED)


def again(error: BusError) -> BusError:
    """The same error, to be raised once more: an exception raised twice drags its first story along."""
    return type(error)(error.what, error.mend)
