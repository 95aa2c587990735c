"""What RabbitMQ refuses, and what we refuse: wrong passwords, strangers, ill will, our own handlers.

Each test's docstring names the bug that it would catch.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pika
import pytest

from runctl_shared.bus.port import MAX_BODY, BusError, BusRefused, BusUnavailable, Delivery
from runctl_testing.amqp_lab import Lab, self_signed
from runctl_testing.buses import EVENTS, FEED, PATIENCE, REQUESTS, Inbox, command, event, send, settled
from runctl_testing.eventually import eventually

pytestmark = pytest.mark.amqp


@pytest.fixture
def lab(amqp_url: str) -> Iterator[Lab]:
    lab = Lab(amqp_url)
    yield lab
    lab.close()


# ---------------------------------------------------------------- the broker refuses


@pytest.mark.parametrize(
    ("old", "new", "what", "mend"),
    [
        ("guest:guest@", "guest:hunter2@", "refuses the user 'guest'", "password"),
        ("/%2F", "/nowhere", "no virtual host 'nowhere'", "rabbitmqctl add_vhost"),
    ],
)
def test_a_refusal_says_what_to_mend_and_never_the_password(
    lab: Lab, caplog: pytest.LogCaptureFixture, old: str, new: str, what: str, mend: str
) -> None:
    """ "Cannot connect", tried for ever, while the person who could mend it looks on."""
    caplog.set_level(logging.DEBUG)
    assert old in lab.url, "this test knows only the tests' own broker"
    bus = lab.connect(lab.url.replace(old, new))
    uses: list[Callable[[], object]] = [
        lambda: bus.wait_connected(PATIENCE),
        lambda: bus.publish(event("agent-a-1"), b"", message_id="m").result(PATIENCE),
        lambda: bus.request(b"", timeout=PATIENCE),
        bus.declare_controller,
        bus.dead_letters,
    ]
    for use in uses:
        with pytest.raises(BusRefused, match=what) as caught:
            use()
        assert mend in caught.value.mend
        assert "hunter2" not in str(caught.value)
    bus.subscribe(EVENTS, Inbox())  # returns
    assert "hunter2" not in caplog.text
    assert "Traceback" not in caplog.text


def test_a_stranger_in_the_brokers_place_is_not_trusted(lab: Lab, tmp_path: Path) -> None:
    """TLS that does not verify: whoever sits in between reads everything and sends any command."""
    authority = tmp_path / "ca.pem"
    url = lab.wire(tls=self_signed(authority)).url.replace("amqp://", "amqps://")
    with pytest.raises(BusRefused, match=r"certificate that is not trusted.*\?cafile="):
        lab.connect(url).wait_connected(PATIENCE)
    with pytest.raises(BusRefused, match="not valid for 'localhost'"):
        lab.connect(f"{url}&cafile={authority}".replace("127.0.0.1", "localhost")).wait_connected(PATIENCE)
    trusted = lab.controller(url=f"{url}&cafile={authority}")
    send(trusted, event("agent-a-1"), bytes(MAX_BODY))


def test_a_queue_with_other_settings_is_named(lab: Lab) -> None:
    """A controller that reconnects in a circle because of what an older version left at the broker."""
    bus = lab.connect()
    assert bus.wait_connected(PATIENCE)
    lab.hands(lambda channel: channel.queue_declare(f"{lab.prefix}.requests", durable=True))
    with pytest.raises(BusRefused, match=r"requests'.*Delete it"):
        bus.declare_controller()
    assert bus.wait_connected(PATIENCE)
    lab.delete("requests")
    bus.declare_controller()


def test_before_the_controller_nothing_is_lost_silently(lab: Lab) -> None:
    """An agent that is first: its events vanish, or its link breaks and stays broken."""
    bus = lab.connect()
    assert bus.wait_connected(PATIENCE)
    with pytest.raises(BusUnavailable, match="not been set up"):
        bus.publish(event("agent-a-1"), b"early", message_id="m-1").result(PATIENCE)
    with pytest.raises(BusUnavailable, match="not been set up"):
        bus.request(b"?", timeout=PATIENCE)
    with pytest.raises(BusUnavailable, match="not been set up"):
        bus.dead_letters()
    bus.declare_controller()
    inbox = Inbox()
    bus.subscribe(EVENTS, inbox)
    send(bus, event("agent-a-1"), b"again")
    assert inbox.bodies(1) == [b"again"]


# ---------------------------------------------------------------- others mean ill


def test_a_reply_goes_to_the_asker_and_nowhere_else(lab: Lab) -> None:
    """A client that names another agent's queue as its reply address: the controller may write to all."""
    controller = lab.controller("agent-a-1")
    inbox, commands = Inbox(hold=True), Inbox()
    controller.subscribe(REQUESTS, inbox)
    controller.subscribe(command("agent-a-1"), commands)
    forged = pika.BasicProperties(reply_to=f"{lab.prefix}.commands.agent-a-1", correlation_id="x")
    lab.hands(lambda channel: channel.basic_publish(f"{lab.prefix}.requests", "", b"?", forged))
    inbox.wait(1)[0].reply(b"obey")
    inbox.wait(1)[0].ack()
    settled(controller)
    assert commands.bodies() == []


def test_what_is_too_large_is_put_aside_unread(lab: Lab) -> None:
    """A message of a hundred megabytes handed to a controller that counts on one."""
    controller = lab.controller()
    inbox = Inbox()
    controller.subscribe(EVENTS, inbox)
    lab.hands(
        lambda channel: channel.basic_publish(f"{lab.prefix}.events", "agent.a.ev.x", bytes(MAX_BODY + 1))
    )
    send(controller, event("agent-a-1"), b"next")
    assert inbox.bodies(1) == [b"next"]
    (dead,) = eventually(controller.dead_letters, PATIENCE)
    assert (dead.source, dead.reason) == ("events", "rejected")


def test_a_forged_mark_does_not_decide_where_a_dead_letter_came_from(lab: Lab) -> None:
    """An agent that writes our own headers, and so pins its poison on somebody else."""
    controller = lab.controller()
    controller.subscribe(EVENTS, lambda delivery: delivery.requeue())
    forged = pika.BasicProperties(headers={"x-runctl-source": "commands", "x-runctl-reason": "not me"})
    lab.hands(lambda channel: channel.basic_publish(f"{lab.prefix}.events", "agent.a.ev.x", b"!", forged))
    (dead,) = eventually(controller.dead_letters, PATIENCE)
    assert (dead.source, dead.reason) == ("events", "delivery-limit")


# ---------------------------------------------------------------- and ourselves


def test_a_handler_that_raises_costs_its_message_and_not_the_link(lab: Lab) -> None:
    """One bad message ends the thread that everything depends on."""
    bus = lab.controller()
    inbox = Inbox()

    def handle(delivery: Delivery) -> None:
        if delivery.body == b"bad":
            raise KeyError("bad")
        inbox(delivery)

    bus.subscribe(EVENTS, handle)
    send(bus, event("agent-a-1"), b"bad", b"good")
    assert inbox.bodies(1) == [b"good"]
    (dead,) = eventually(bus.dead_letters, PATIENCE)
    assert (dead.body, dead.reason) == (b"bad", "delivery-limit")


def test_a_handler_that_would_wait_for_its_own_thread_is_told(lab: Lab) -> None:
    """A deadlock: the thread that must bring the answer waits for it."""
    bus = lab.controller()
    told: list[BusError] = []
    done = threading.Event()

    def handle(delivery: Delivery) -> None:
        delivery.ack()
        uses: list[Callable[[], object]] = [
            lambda: bus.request(b"", timeout=1),
            bus.declare_controller,
            bus.dead_letters,
        ]
        for use in uses:
            try:
                use()
            except BusError as error:
                told.append(error)
        bus.subscribe(FEED, Inbox()).close()  # these do not wait
        done.set()

    bus.subscribe(EVENTS, handle)
    send(bus, event("agent-a-1"), b"")
    assert done.wait(PATIENCE)
    assert ["must not wait" in error.what for error in told] == [True] * 3
