"""The broker's URL, and the names at the broker."""

from __future__ import annotations

import subprocess
import sys

import pytest

from runctl_shared.bus.amqp.names import Names, spoken
from runctl_shared.bus.amqp.target import parse
from runctl_shared.bus.port import Address, Stream
from runctl_shared.errors import UsageError


def test_everything_in_the_url_is_read() -> None:
    """Percent signs left in a password or a virtual host: the broker would refuse what is right."""
    target = parse("amqp://me%40x:p%2Fw@broker.example:5673/a%2Fb?prefix=lab&heartbeat=7")
    assert (target.user, target.password, target.vhost) == ("me@x", "p/w", "a/b")
    assert (target.host, target.port) == ("broker.example", 5673)
    assert (target.prefix, target.heartbeat, target.tls) == ("lab", 7, None)


@pytest.mark.parametrize("url", ["amqp://h", "amqp://h/", "amqp://h/%2F", "amqp://h/%2f?prefix=runctl"])
def test_what_is_left_out_has_rabbitmqs_defaults(url: str) -> None:
    """An empty virtual host, which no broker has."""
    target = parse(url)
    assert (target.user, target.password, target.vhost) == ("guest", "guest", "/")
    assert (target.port, target.prefix, target.heartbeat) == (5672, "runctl", 10)


def test_amqps_always_verifies() -> None:
    """Encryption with anybody: whoever answers in the broker's place could send commands."""
    target = parse("amqps://u:p@h")
    assert target.port == 5671
    assert target.tls is not None
    assert target.tls.check_hostname
    assert target.tls.verify_mode.name == "CERT_REQUIRED"


@pytest.mark.parametrize(
    "url",
    [
        "amqp://u:hunter2@h:port",
        "amqp://u:hunter2@[h",
        "amqp://u:hunter2@",
        "http://u:hunter2@h",
        "amqp://u:hunter2@h?colour=red",
        "amqp://u:hunter2@h?prefix=a.b",
        "amqp://u:hunter2@h?heartbeat=0",
        "amqp://u:hunter2@h?heartbeat=soon",
        "amqp://u:hunter2@h?cafile=/ca.pem",
        "amqps://u:hunter2@h?cafile=/nowhere/ca.pem",
        "amqps://u:hunter2@h?certfile=/dev/null",
    ],
)
def test_a_bad_url_is_one_sentence_and_its_mend_without_the_password(url: str) -> None:
    """A password in the message, in its cause, or in a repr that ends up in a log."""
    with pytest.raises(UsageError) as caught:
        parse(url)
    assert caught.value.mend
    assert "hunter2" not in f"{caught.value} {caught.value.__cause__!r}"


def test_the_password_is_not_shown() -> None:
    assert "hunter2" not in repr(parse("amqp://u:hunter2@h"))


@pytest.mark.parametrize(
    "to",
    [
        Address(Stream.EVENTS),
        Address(Stream.COMMANDS),
        Address(Stream.HEARTBEATS),
        Address(Stream.EVENTS, "a.b"),
        Address(Stream.EVENTS, "*"),
        Address(Stream.EVENTS, "a", "x.y"),
        Address(Stream.COMMANDS, "#"),
        Address(Stream.FEED, topic="x" * 101),
    ],
)
def test_what_is_no_address_is_refused(to: Address) -> None:
    """An agent's name that is a wildcard, or that speaks in another's name."""
    with pytest.raises(ValueError, match=r"agent|word"):
        Names().route(to)


@pytest.mark.parametrize(
    ("stream", "key", "who"),
    [
        (Stream.EVENTS, "agent.a-1.ev.saved", ("a-1", "saved")),
        (Stream.EVENTS, "agent.a-1.ev.", ("a-1", "")),
        (Stream.HEARTBEATS, "agent.a-1.hb", ("a-1", None)),
        (Stream.EVENTS, "agent.a-1.ev.x.y", ("", None)),
        (Stream.COMMANDS, "agent.a-1.hb", ("", None)),
    ],
)
def test_the_sender_is_who_the_key_says(stream: Stream, key: str, who: tuple[str, str | None]) -> None:
    """A sender read out of a key that nobody has checked."""
    assert spoken(stream, key) == who


def test_the_port_alone_does_not_cost_pika() -> None:
    """Every start of the command line pays for a broker that it may not use."""
    code = "import sys, runctl_shared.bus.port, runctl_shared.bus.connect; sys.exit('pika' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
