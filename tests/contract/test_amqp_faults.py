"""What goes wrong between us and RabbitMQ, done to a real one: the broker, the wire, what stood there.

The checker is Jepsen's: whatever was confirmed must have been processed; doubles are allowed, losses are not.
Each test's docstring names the bug that it would catch.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import psutil
import pytest

from runctl_shared.bus.amqp import AmqpBus
from runctl_shared.bus.amqp.confirms import CONFIRM_DEADLINE, HOLD
from runctl_shared.bus.port import BusError, BusUnavailable, RequestTimedOut
from runctl_shared.clock import FakeClock
from runctl_testing.amqp_lab import QUEUES, Lab, Load, pass_time
from runctl_testing.broker import Broker
from runctl_testing.buses import EVENTS, FEED, PATIENCE, REQUESTS, Inbox, command, event, send
from runctl_testing.eventually import eventually

pytestmark = pytest.mark.amqp


@pytest.fixture
def lab(amqp_url: str) -> Iterator[Lab]:
    lab = Lab(amqp_url)
    yield lab
    lab.close()


# ---------------------------------------------------------------- the broker goes and comes back


@pytest.mark.timeout(300)
@pytest.mark.parametrize("end", ["stop", "kill"])
def test_a_broker_that_restarts_under_load_loses_nothing(private_broker: Broker, end: str) -> None:
    """A planned restart (320) taken for the end; confirms believed that were never given; consumers that are
    connected again but consume nothing."""
    with closing(Lab(private_broker.url)) as lab:
        inbox = Inbox()
        lab.controller().subscribe(EVENTS, inbox)
        with Load(lab.connect(), lab.connect()) as load:
            load.wait_more(500)
            private_broker.stop() if end == "stop" else private_broker.kill()
            private_broker.start()
            load.wait_more(500)
        load.lost_nothing(inbox)


def test_a_broker_that_comes_late_is_found(lab: Lab) -> None:
    """An agent that gives up because it booted before its broker."""
    absent = lab.absent()
    bus = lab.connect(absent.url)
    inbox = Inbox()
    bus.subscribe(EVENTS, inbox)  # returns: the link is down
    with pytest.raises(BusUnavailable, match="cannot be reached"):
        bus.declare_controller()
    lab.wire(absent.port)
    assert bus.wait_connected(PATIENCE)
    send(bus, event("agent-a-1"), b"at last")
    assert inbox.bodies(1) == [b"at last"]


# ---------------------------------------------------------------- the wire


@pytest.mark.parametrize("fault", ["cut", "reset"])
def test_a_wire_that_is_cut_again_and_again_loses_nothing(lab: Lab, fault: str) -> None:
    """Unconfirmed messages counted as sent, or acknowledgements that hit the next connection's deliveries."""
    wire = lab.wire()
    controller = lab.controller(url=wire.url)
    inbox = Inbox()
    controller.subscribe(EVENTS, inbox)
    with Load(lab.connect(wire.url), lab.connect(wire.url)) as load:
        for _ in range(4):
            load.wait_more(200)
            wire.cut() if fault == "cut" else wire.reset()
        load.wait_more(200)
    load.lost_nothing(inbox)


def test_what_is_under_way_when_the_wire_is_cut_fails(lab: Lab) -> None:
    """A future that never ends, or ends well: the caller would delete what nobody has."""
    wire = lab.wire()
    bus = lab.controller(url=wire.url)
    wire.freeze()
    under_way = bus.publish(event("agent-a-1"), b"?", message_id="m-1")
    written = threading.Event()
    bus.post(written.set)  # the bus works in order
    assert written.wait(PATIENCE)
    wire.reset()
    with pytest.raises(BusUnavailable, match="lost"):
        under_way.result(PATIENCE)
    wire.thaw()
    assert bus.wait_connected(PATIENCE)
    send(bus, event("agent-a-1"), b"!")


def test_a_silent_wire_is_noticed_and_replaced(lab: Lab) -> None:
    """A half-open connection that is waited on for ever."""
    wire = lab.wire()
    bus = lab.controller(url=f"{wire.url}&heartbeat=1")
    wire.freeze()
    with pytest.raises(BusUnavailable):
        bus.publish(event("agent-a-1"), b"?", message_id="m-1").result(PATIENCE)
    wire.thaw()
    assert bus.wait_connected(PATIENCE)
    send(bus, event("agent-a-1"), b"!")


def test_a_broker_that_does_not_confirm_has_a_deadline(lab: Lab) -> None:
    """A live connection whose broker is short of memory: without a deadline of our own, publishing hangs."""
    wire, clock = lab.wire(), FakeClock()
    bus = lab.controller(url=wire.url, clock=clock)
    wire.freeze()
    under_way = bus.publish(event("agent-a-1"), b"?", message_id="m-1")
    pass_time(clock, CONFIRM_DEADLINE, under_way)
    with pytest.raises(BusUnavailable, match="not confirm"):
        under_way.result(0)
    wire.thaw()
    send(bus, event("agent-a-1"), b"!")


def test_publishing_while_the_link_is_down_fails_after_a_short_wait(lab: Lab) -> None:
    """A second outbox that grows in memory for as long as the broker is away."""
    clock = FakeClock()
    bus = lab.connect(lab.absent().url, clock)
    held = bus.publish(event("agent-a-1"), b"?", message_id="m-1")
    assert bus.publish(FEED, b"?", message_id="m-2").done()
    pass_time(clock, HOLD, held)
    with pytest.raises(BusUnavailable):
        held.result(0)


def test_settling_what_an_earlier_connection_brought_does_nothing(lab: Lab) -> None:
    """Delivery tags start again at 1: an old acknowledgement would settle a message nobody has handled."""
    wire = lab.wire()
    bus = lab.controller(url=wire.url)
    inbox = Inbox(hold=True)
    subscription = bus.subscribe(EVENTS, inbox)
    send(bus, event("agent-a-1"), b"0", b"1")
    old, aside = inbox.wait(2)
    wire.cut()
    inbox.wait(4)  # again, on the new connection, with the same tags
    old.ack()
    aside.dead_letter("old")
    subscription.close()
    again = Inbox()
    bus.subscribe(EVENTS, again)
    assert again.bodies(2) == [b"0", b"1"]
    assert bus.dead_letters() == []


def test_a_question_whose_link_is_lost_is_answered_at_once(lab: Lab) -> None:
    """A command line that sits out its whole timeout although nobody can answer any more."""
    wire = lab.wire()
    controller, client = lab.controller(), lab.connect(wire.url)
    inbox = Inbox(hold=True)
    controller.subscribe(REQUESTS, inbox)
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(client.request, b"?", timeout=3600)
        inbox.wait(1)
        wire.cut()
        with pytest.raises(BusUnavailable, match="before the controller's answer"):
            asked.result(PATIENCE)
    inbox.wait(1)[0].reply(b"too late")  # harms nobody
    inbox.wait(1)[0].ack()
    with pytest.raises(RequestTimedOut):
        client.request(b"??", timeout=2)


@pytest.mark.parametrize("when", ["open", "opening"])
def test_closing_on_a_silent_wire_leaves_no_thread_and_no_socket(lab: Lab, when: str) -> None:
    """A farewell, or a handshake, that waits for ever for its answer."""
    wire = lab.wire()
    before = set(threading.enumerate())
    if when == "opening":
        wire.freeze()
        bus = lab.connect(wire.url)
        eventually(lambda: wire.wires == 1, PATIENCE)
    else:
        bus = lab.controller(url=wire.url)
        wire.freeze()
    unconfirmed = bus.publish(event("agent-a-1"), b"?", message_id="m-1")
    bus.close(timeout=0.5)
    with pytest.raises(BusUnavailable):
        unconfirmed.result(0)
    assert set(threading.enumerate()) <= before
    assert [one for one in psutil.Process().net_connections("tcp") if wire.port in one.raddr] == []


# ---------------------------------------------------------------- what stood at the broker is gone


def test_a_deleted_queue_cancels_and_its_return_resumes(lab: Lab, caplog: pytest.LogCaptureFixture) -> None:
    """A consumer that is told of its end and does nothing: connected, and deaf."""
    controller, agent = lab.controller("agent-a-1"), lab.connect()
    commands, feed = Inbox(), Inbox()
    agent.subscribe(command("agent-a-1"), commands)
    agent.subscribe(FEED, feed)
    controller.remove_agent("agent-a-1")
    eventually(lambda: "bus.cancelled stream=commands agent=agent-a-1" in caplog.text, PATIENCE)
    controller.declare_agent("agent-a-1")
    send(controller, command("agent-a-1"), b"save")
    assert commands.bodies(1) == [b"save"]
    controller.publish(FEED, b"news", message_id="m-1")  # its neighbour has not noticed
    assert feed.bodies(1) == [b"news"]


def test_events_that_no_queue_takes_are_not_confirmed(lab: Lab) -> None:
    """RabbitMQ confirms what it throws away: without a queue, every event would be confirmed and lost."""
    bus = lab.controller()
    lab.delete("events")
    with pytest.raises(BusUnavailable, match="Nothing takes messages"):
        bus.publish(event("agent-a-1"), b"?", message_id="m-1").result(PATIENCE)


def test_everything_is_built_again_on_reconnect(lab: Lab) -> None:
    """A broker replaced by an empty one: an agent's queue left out, or an ended agent's made again."""
    wire = lab.wire()
    controller = lab.controller("agent-a-1", "agent-b-1", "agent-c-1", url=wire.url)
    controller.remove_agent("agent-b-1")
    events = Inbox()
    controller.subscribe(EVENTS, events)
    lab.delete_everything()
    wire.cut()
    eventually(lambda: takes_commands(controller, "agent-a-1"), PATIENCE)
    lab.require(*QUEUES, "commands.agent-a-1", "commands.agent-c-1")
    assert takes_commands(controller, "agent-c-1")
    assert not takes_commands(controller, "agent-b-1")
    send(controller, event("agent-a-1"), b"saved")
    assert events.bodies(1) == [b"saved"]


def takes_commands(controller: AmqpBus, agent: str) -> bool:
    try:
        controller.publish(command(agent), b"?", message_id="m").result(PATIENCE)
    except BusError:
        return False
    return True
