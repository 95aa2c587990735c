"""What every bus promises (runctl_shared/bus/port.py), held against both implementations.

Each test's docstring names the bug that it would catch.
"""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from runctl_testing.buses import EVENTS, FEED, PATIENCE, REQUESTS, Buses, Inbox, command, event, send, settled
from runctl_testing.eventually import eventually

from runctl_shared.bus.port import (
    DELIVERY_LIMIT,
    MAX_BODY,
    Address,
    Bus,
    BusError,
    Delivery,
    RequestTimedOut,
    Stream,
    Unroutable,
)

HEARTBEATS = Address(Stream.HEARTBEATS)


@pytest.fixture(params=["embedded", pytest.param("amqp", marks=pytest.mark.amqp)])
def buses(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Buses]:
    if request.param == "embedded":
        url = f"sqlite://{tmp_path}/bus.db"
    else:
        # The broker is shared: everything that this test declares carries a prefix of its own.
        url = f"{request.getfixturevalue('amqp_url')}?prefix=t{secrets.token_hex(4)}"
    buses = Buses(url)
    yield buses
    buses.close()


def numbers(count: int, start: int = 0) -> list[bytes]:
    return [b"%d" % n for n in range(start, start + count)]


# ---------------------------------------------------------------- what arrives, and how


def test_a_message_arrives_whole_and_says_where_it_came_from(buses: Buses) -> None:
    """Bodies decoded or truncated on the way; sender, topic or id taken from elsewhere than the routing."""
    inbox = Inbox()
    controller = buses.controller()
    controller.subscribe(EVENTS, inbox)
    body = bytes(range(256)) + b'{"agent": "agent-b-1"}'
    buses.connect().publish(event("agent-a-1", "saved"), body, message_id="m-1").result(PATIENCE)
    (delivery,) = inbox.wait(1)
    assert (delivery.body, delivery.sender, delivery.topic) == (body, "agent-a-1", "saved")
    assert (delivery.message_id, delivery.redelivered) == ("m-1", False)


def test_messages_of_each_sender_stay_in_order_among_many_senders(buses: Buses) -> None:
    """Order lost when batches of several connections meet in one queue, or by a window smaller than it."""
    inbox = Inbox()
    buses.controller().subscribe(EVENTS, inbox, prefetch=7)
    agents = [f"agent-{n}-1" for n in range(4)]
    links = [buses.connect() for _ in agents]
    with ThreadPoolExecutor(len(agents)) as pool:
        list(pool.map(lambda pair: send(pair[0], event(pair[1]), *numbers(100)), zip(links, agents, strict=True)))
    arrived = inbox.wait(400)
    for agent in agents:
        assert [d.body for d in arrived if d.sender == agent] == numbers(100)


def test_many_threads_share_one_connection_and_lose_nothing(buses: Buses) -> None:
    """A race between publishers of one bus object: messages lost, doubled, or swapped."""
    inbox = Inbox()
    buses.controller().subscribe(EVENTS, inbox)
    link = buses.connect()
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: send(link, event(f"agent-{n}-1"), *numbers(500)), range(8)))
    arrived = inbox.wait(4000)
    for n in range(8):
        assert [d.body for d in arrived if d.sender == f"agent-{n}-1"] == numbers(500)


def test_the_largest_body_passes_and_a_larger_one_is_refused(buses: Buses) -> None:
    """A limit that is off by one, or that is found out only by the broker."""
    inbox = Inbox()
    controller = buses.controller()
    controller.subscribe(EVENTS, inbox)
    with pytest.raises(ValueError, match="1048576"):
        controller.publish(event("agent-a-1"), bytes(MAX_BODY + 1), message_id="m-1")
    send(controller, event("agent-a-1"), bytes(MAX_BODY), b"")
    assert inbox.bodies(2) == [bytes(MAX_BODY), b""]


def test_no_more_than_prefetch_are_unsettled(buses: Buses) -> None:
    """A consumer flooded with everything that is in the queue; a window that does not move on."""
    inbox = Inbox(hold=True)
    controller = buses.controller()
    send(controller, event("agent-a-1"), *numbers(10))
    controller.subscribe(EVENTS, inbox, prefetch=3)
    inbox.wait(3)
    settled(controller)
    assert inbox.bodies() == numbers(3)
    inbox.wait(3)[0].ack()
    inbox.wait(4)
    settled(controller)
    assert inbox.bodies() == numbers(4)


# ---------------------------------------------------------------- nothing confirmed is lost


def test_what_was_confirmed_outlives_its_publisher(buses: Buses) -> None:
    """A confirm given before the message is stored: the publisher is killed right after the last one."""
    inbox = Inbox()
    controller = buses.controller()
    child = buses.child("publish", "agent-a-1", "50")
    assert child.lines(50) == [str(n) for n in range(50)]
    child.kill()
    controller.subscribe(EVENTS, inbox)
    assert inbox.bodies(50) == numbers(50)


def test_unsettled_deliveries_of_a_killed_consumer_come_again(buses: Buses) -> None:
    """A death that nobody notices: its deliveries stay owned by a process that is gone."""
    controller = buses.controller()
    child = buses.child("hold", "events", "")
    assert child.lines(1) == ["subscribed"]
    send(controller, event("agent-a-1"), *numbers(20))
    assert len(child.lines(20)) == 20
    child.kill()
    inbox = Inbox()
    controller.subscribe(EVENTS, inbox)
    again = inbox.wait(20)
    assert [d.body for d in again] == numbers(20)
    assert all(d.redelivered for d in again)


def test_a_killed_agent_finds_its_commands_again(buses: Buses) -> None:
    """Commands bound to the connection instead of to the agent."""
    controller = buses.controller("agent-a-1")
    child = buses.child("hold", "commands", "agent-a-1")
    send(controller, command("agent-a-1"), b"save")
    assert child.lines(2) == ["subscribed", "save"]
    child.kill()
    inbox = Inbox()
    buses.connect().subscribe(command("agent-a-1"), inbox)
    assert inbox.bodies(1) == [b"save"]
    assert inbox.wait(1)[0].redelivered


def test_a_closed_subscription_gives_its_deliveries_back(buses: Buses) -> None:
    """Deliveries that stay with a connection which is alive but no longer listens."""
    first, second = Inbox(hold=True), Inbox()
    controller = buses.controller()
    subscription = controller.subscribe(EVENTS, first)
    send(controller, event("agent-a-1"), *numbers(3))
    first.wait(3)[0].ack()
    subscription.close()
    subscription.close()
    controller.subscribe(EVENTS, second)
    assert second.bodies(2) == numbers(2, start=1)


def test_close_flushes_what_was_published(buses: Buses) -> None:
    """Messages accepted a moment before `close` and then forgotten."""
    link = buses.connect()
    controller = buses.controller()
    futures = [link.publish(event("agent-a-1"), body, message_id=f"m-{body!r}") for body in numbers(200)]
    link.close(timeout=PATIENCE)
    for future in futures:
        future.result(0)
    inbox = Inbox()
    controller.subscribe(EVENTS, inbox)
    assert inbox.bodies(200) == numbers(200)


# ---------------------------------------------------------------- one consumer at a time


def test_one_consumer_is_active_and_the_next_takes_over_when_it_closes(buses: Buses) -> None:
    """Two controllers sharing out the events between them; a standby that never wakes up."""
    first, second = Inbox(), Inbox()
    active, standby, agent = buses.controller(), buses.controller(), buses.connect()
    active.subscribe(EVENTS, first)
    standby.subscribe(EVENTS, second)
    send(agent, event("agent-a-1"), *numbers(50))
    assert first.bodies(50) == numbers(50)
    settled(standby)
    assert second.bodies() == []
    active.close()
    send(agent, event("agent-a-1"), *numbers(10, start=50))
    assert second.bodies(10) == numbers(10, start=50)


def test_a_waiting_consumer_takes_over_when_the_active_one_is_killed(buses: Buses) -> None:
    """A standby that learns of the death only when something new is published."""
    controller = buses.controller()
    child = buses.child("hold", "events", "")
    assert child.lines(1) == ["subscribed"]
    inbox = Inbox()
    controller.subscribe(EVENTS, inbox)
    send(controller, event("agent-a-1"), *numbers(5))
    assert len(child.lines(5)) == 5
    assert inbox.bodies() == []
    child.kill()
    assert inbox.bodies(5) == numbers(5)


# ---------------------------------------------------------------- settling


def test_requeued_comes_again_until_the_limit_then_is_put_aside(buses: Buses) -> None:
    """Poison that goes round for ever, or is dropped without a trace."""
    controller = buses.controller()
    seen: list[bool] = []

    def refuse(delivery: Delivery) -> None:
        seen.append(delivery.redelivered)
        delivery.requeue()

    controller.subscribe(EVENTS, refuse)
    send(controller, event("agent-a-1"), b"poison")
    (dead,) = eventually(lambda: controller.dead_letters(), PATIENCE)
    assert (dead.body, dead.source, dead.reason) == (b"poison", "events", "delivery-limit")
    assert seen == [False] + [True] * (DELIVERY_LIMIT - 1)


def test_put_aside_with_a_reason_and_the_queue_goes_on(buses: Buses) -> None:
    """One malformed message that blocks all behind it, or whose reason and body cannot be looked up."""
    controller = buses.controller()
    inbox = Inbox()

    def handle(delivery: Delivery) -> None:
        if delivery.body == b"\xffpoison":
            delivery.dead_letter("malformed: no such kind – “x”")
        else:
            inbox(delivery)

    controller.subscribe(EVENTS, handle, prefetch=1)
    send(controller, event("agent-a-1"), b"0", b"\xffpoison", b"1")
    assert inbox.bodies(2) == numbers(2)
    (dead,) = eventually(lambda: controller.dead_letters(), PATIENCE)
    assert (dead.body, dead.source, dead.reason) == (b"\xffpoison", "events", "malformed: no such kind – “x”")
    assert dead.message_id == f"m-{b'\xffpoison'.hex()}"


def test_dead_letters_are_looked_at_oldest_first_and_stay(buses: Buses) -> None:
    """A look that consumes, ignores its limit, or shows the newest."""
    controller = buses.controller()
    controller.subscribe(EVENTS, lambda delivery: delivery.dead_letter("no"))
    send(controller, event("agent-a-1"), *numbers(5))
    eventually(lambda: len(controller.dead_letters()) == 5, PATIENCE)
    assert [d.body for d in controller.dead_letters(limit=3)] == numbers(3)
    assert [d.body for d in controller.dead_letters()] == numbers(5)


def test_settling_twice_counts_once(buses: Buses) -> None:
    """A second settlement that hits another message, raises, or brings the message back."""
    controller = buses.controller()
    inbox = Inbox(hold=True)
    subscription = controller.subscribe(EVENTS, inbox)
    send(controller, event("agent-a-1"), *numbers(2))
    first, second = inbox.wait(2)
    first.ack()
    first.requeue()
    first.dead_letter("twice")
    first.ack()
    settled(controller)
    assert len(inbox.wait(2)) == 2
    subscription.close()
    second.ack()  # too late: it is given back all the same
    again = Inbox()
    controller.subscribe(EVENTS, again)
    assert again.bodies(1) == [b"1"]
    settled(controller)
    assert again.bodies() == [b"1"]
    assert controller.dead_letters() == []


def test_settling_after_close_is_harmless(buses: Buses) -> None:
    """A handler thread that finishes after its connection, and crashes or loses the message."""
    controller, other = buses.controller(), buses.controller()
    inbox, again = Inbox(hold=True), Inbox()
    controller.subscribe(EVENTS, inbox)
    send(controller, event("agent-a-1"), *numbers(3))
    ack, requeue, aside = inbox.wait(3)
    controller.close()
    ack.ack()
    requeue.requeue()
    aside.dead_letter("too late")
    other.subscribe(EVENTS, again)
    assert again.bodies(3) == numbers(3)
    assert other.dead_letters() == []


# ---------------------------------------------------------------- commands


def test_commands_reach_their_agent_only(buses: Buses) -> None:
    """One agent's command in another's hands."""
    controller = buses.controller("agent-a-1", "agent-a-11")
    first, second = Inbox(), Inbox()
    buses.connect().subscribe(command("agent-a-1"), first)
    buses.connect().subscribe(command("agent-a-11"), second)
    for n in range(20):
        send(controller, command(f"agent-a-1{'1' * (n % 2)}"), b"%d" % n)
    assert first.bodies(10) == numbers(20)[::2]
    assert second.bodies(10) == numbers(20)[1::2]
    assert (first.wait(1)[0].topic, first.wait(1)[0].sender) == ("save", "")


def test_a_command_to_nobody_is_unroutable(buses: Buses) -> None:
    """A command that vanishes: to an agent never declared, or whose queue has been removed."""
    controller = buses.controller("agent-a-1")
    controller.remove_agent("agent-a-1")
    controller.remove_agent("agent-a-1")
    for agent in ("agent-a-1", "agent-b-1"):
        with pytest.raises(Unroutable):
            controller.publish(command(agent), b"save", message_id="m-1").result(PATIENCE)


def test_declaring_again_keeps_and_removing_discards(buses: Buses) -> None:
    """A restarted controller that empties the queues of living agents; old commands for a new machine."""
    controller = buses.controller("agent-a-1", "agent-b-1")
    for agent in ("agent-a-1", "agent-b-1"):
        send(controller, command(agent), b"old")
    again = buses.controller("agent-a-1")
    again.remove_agent("agent-b-1")
    again.declare_agent("agent-b-1")
    for agent in ("agent-a-1", "agent-b-1"):
        send(again, command(agent), b"new")
    kept, discarded = Inbox(), Inbox()
    again.subscribe(command("agent-a-1"), kept)
    again.subscribe(command("agent-b-1"), discarded)
    assert kept.bodies(2) == [b"old", b"new"]
    assert discarded.bodies(1) == [b"new"]


def test_an_expired_command_is_put_aside_and_not_delivered(buses: Buses) -> None:
    """An order carried out hours late, or one that expires without a trace."""
    controller = buses.controller("agent-a-1")
    controller.publish(command("agent-a-1"), b"stale", message_id="m-1", expires=0.05).result(PATIENCE)
    controller.publish(command("agent-a-1"), b"fresh", message_id="m-2", expires=3600).result(PATIENCE)
    (dead,) = eventually(lambda: controller.dead_letters(), PATIENCE)
    assert (dead.body, dead.source, dead.reason, dead.message_id) == (b"stale", "commands", "expired", "m-1")
    inbox = Inbox()
    controller.subscribe(command("agent-a-1"), inbox)
    assert inbox.bodies(1) == [b"fresh"]


# ---------------------------------------------------------------- heartbeats and the feed


def test_the_newest_heartbeat_of_every_agent_arrives(buses: Buses) -> None:
    """A bounded queue that keeps the oldest, or lets one agent push out the others."""
    controller, link = buses.controller(), buses.connect()
    for n in range(200):
        for agent in ("agent-a-1", "agent-b-1"):
            future = link.publish(Address(Stream.HEARTBEATS, agent, "beat"), b"%d" % n, message_id=f"m-{n}")
            assert future.done()
    newest: dict[str, bytes] = {}
    complete = threading.Event()

    def handle(delivery: Delivery) -> None:
        newest[delivery.sender] = delivery.body
        delivery.ack()
        if newest == {"agent-a-1": b"199", "agent-b-1": b"199"}:
            complete.set()

    controller.subscribe(HEARTBEATS, handle)
    assert complete.wait(PATIENCE), newest


def test_the_feed_reaches_all_who_listen_now(buses: Buses) -> None:
    """Listeners that share the feed out between them, or are flooded with what was before them."""
    controller = buses.controller()
    first, second, late = Inbox(), Inbox(), Inbox()
    controller.publish(Address(Stream.FEED, topic="run"), b"before", message_id="m-0").result(0)
    settled(controller)
    buses.connect().subscribe(FEED, first)
    gone = buses.connect().subscribe(FEED, second)
    for n in range(20):
        controller.publish(Address(Stream.FEED, topic="run"), b"%d" % n, message_id=f"m-{n}")
    assert first.bodies(20) == numbers(20)
    assert second.bodies(20) == numbers(20)
    gone.close()
    buses.connect().subscribe(FEED, late)
    controller.publish(Address(Stream.FEED, topic="run"), b"20", message_id="m-20")
    assert late.bodies(1) == [b"20"]
    assert first.bodies(21) == numbers(21)
    assert second.bodies() == numbers(20)
    assert first.wait(1)[0].topic == "run"


# ---------------------------------------------------------------- request and reply


def test_concurrent_requests_get_their_own_replies(buses: Buses) -> None:
    """Replies given to whoever asks first: they are sent in the reverse order of the questions."""
    controller, client, other = buses.controller(), buses.connect(), buses.connect()
    inbox = Inbox(hold=True)
    controller.subscribe(REQUESTS, inbox)
    with ThreadPoolExecutor(8) as pool:
        asked = [
            pool.submit((client, other)[n % 2].request, b"q%d" % n, timeout=PATIENCE) for n in range(8)
        ]
        for question in reversed(inbox.wait(8)):
            question.reply(b"re: " + question.body)
            question.ack()
        assert [future.result() for future in asked] == [b"re: q%d" % n for n in range(8)]


def test_a_request_without_a_reply_times_out_and_a_late_reply_is_dropped(buses: Buses) -> None:
    """A client that hangs; the late answer to one question taken for the answer to the next."""
    controller, client = buses.controller(), buses.connect()
    inbox = Inbox(hold=True)
    controller.subscribe(REQUESTS, inbox)
    with pytest.raises(RequestTimedOut):
        client.request(b"slow", timeout=2)
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(client.request, b"quick", timeout=PATIENCE)
        for question in inbox.wait(2):
            question.reply(b"re: " + question.body)
            question.ack()
        assert asked.result() == b"re: quick"


def test_a_reply_to_a_client_that_has_gone_is_dropped(buses: Buses) -> None:
    """A client that went away and takes the controller's connection, or a queue for ever, with it."""
    controller, client = buses.controller(), buses.connect()
    inbox = Inbox(hold=True)
    controller.subscribe(REQUESTS, inbox)
    with pytest.raises(RequestTimedOut):
        client.request(b"?", timeout=2)
    client.close()
    inbox.wait(1)[0].reply(b"anybody there?")
    inbox.wait(1)[0].ack()
    settled(controller)
    assert controller.dead_letters() == []


# ---------------------------------------------------------------- the end


def test_close_leaves_no_thread_and_is_idempotent(buses: Buses) -> None:
    """Threads that outlive their connection, so that a process never ends."""
    buses.controller()
    before = set(threading.enumerate())
    link = buses.connect()
    link.subscribe(FEED, Inbox())
    send(link, event("agent-a-1"), b"0")
    link.close()
    link.close()
    assert set(threading.enumerate()) <= before


@pytest.mark.parametrize(
    "use",
    [
        pytest.param(lambda bus: bus.publish(event("agent-a-1"), b"", message_id="m"), id="publish"),
        pytest.param(lambda bus: bus.subscribe(EVENTS, Inbox()), id="subscribe"),
        pytest.param(lambda bus: bus.request(b"", timeout=1), id="request"),
        pytest.param(lambda bus: bus.declare_controller(), id="declare_controller"),
        pytest.param(lambda bus: bus.declare_agent("agent-a-1"), id="declare_agent"),
        pytest.param(lambda bus: bus.remove_agent("agent-a-1"), id="remove_agent"),
        pytest.param(lambda bus: bus.dead_letters(), id="dead_letters"),
        pytest.param(lambda bus: bus.wait_connected(1), id="wait_connected"),
    ],
)
def test_a_closed_bus_says_so(buses: Buses, use: Callable[[Bus], object]) -> None:
    """A message handed to a closed connection and silently forgotten."""
    link = buses.connect()
    link.close()
    with pytest.raises(BusError, match="closed"):
        use(link)
