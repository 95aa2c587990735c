"""What every bus promises (runctl_shared/bus/port.py), held against both kinds: the several streams.

Each test's docstring names the bug that it would catch. Delivery in general: test_bus.py.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from runctl_shared.bus.port import Address, Bus, BusError, Delivery, RequestTimedOut, Stream, Unroutable
from runctl_testing.buses import (
    EVENTS,
    FEED,
    HEARTBEATS,
    PATIENCE,
    REQUESTS,
    Buses,
    Inbox,
    command,
    event,
    numbers,
    send,
    settled,
)
from runctl_testing.eventually import eventually

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
        asked = [pool.submit((client, other)[n % 2].request, b"q%d" % n, timeout=PATIENCE) for n in range(8)]
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


def test_a_client_that_closes_stops_waiting_and_its_reply_is_dropped(buses: Buses) -> None:
    """A thread that waits for what can no longer come; a reply to nobody that breaks the controller."""
    controller, client = buses.controller(), buses.connect()
    inbox = Inbox(hold=True)
    controller.subscribe(REQUESTS, inbox)
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(client.request, b"?", timeout=PATIENCE * 10)
        (question,) = inbox.wait(1)
        client.close()
        assert isinstance(asked.exception(), BusError)
    question.reply(b"anybody there?")
    question.ack()
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
