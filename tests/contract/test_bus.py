"""What every bus promises (runctl_shared/bus/port.py), held against both kinds: delivery.

Each test's docstring names the bug that it would catch. The several streams: test_bus_streams.py.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from runctl_shared.bus.port import DELIVERY_LIMIT, MAX_BODY, Delivery
from runctl_testing.buses import EVENTS, PATIENCE, Buses, Inbox, command, event, numbers, send, settled
from runctl_testing.eventually import eventually

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
        list(
            pool.map(
                lambda pair: send(pair[0], event(pair[1]), *numbers(100)), zip(links, agents, strict=True)
            )
        )
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
    assert child.lines(1) == ["subscribed"]
    send(controller, command("agent-a-1"), b"save")
    assert child.lines(1) == ["save"]
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


def test_nothing_confirmed_is_lost_while_consumers_are_killed_one_after_another(buses: Buses) -> None:
    """A message acknowledged by the bus itself, or lost between two owners: confirmed but never handled."""
    controller = buses.controller()
    workers = []
    for _ in range(4):
        workers.append(buses.child("work", "events", ""))
        assert workers[-1].lines(1) == ["subscribed"]
    handled: set[str] = set()
    for phase, worker in enumerate(workers):
        bodies = numbers(100, start=100 * phase)
        futures = [controller.publish(event("agent-a-1"), body, message_id=body.decode()) for body in bodies]
        handled.update(worker.lines(50))
        handled.update(worker.kill())
        for future in futures:
            future.result(PATIENCE)
    inbox = Inbox()
    controller.subscribe(EVENTS, inbox)
    everything = {body.decode() for body in numbers(400)}
    eventually(lambda: handled | {body.decode() for body in inbox.bodies()} == everything, PATIENCE)


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
    assert dead.message_id == "m-" + b"\xffpoison".hex()


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


def test_settling_a_delivery_leaves_the_next_delivery_of_the_same_message_alone(buses: Buses) -> None:
    """A late second settlement that acknowledges what has meanwhile been handed out again."""
    controller, inbox, again = buses.controller(), Inbox(hold=True), Inbox()
    subscription = controller.subscribe(EVENTS, inbox)
    send(controller, event("agent-a-1"), b"0")
    (first,) = inbox.wait(1)
    first.requeue()
    inbox.wait(2)
    first.ack()
    settled(controller)
    subscription.close()
    controller.subscribe(EVENTS, again)
    assert again.bodies(1) == [b"0"]


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
