"""What is particular to the embedded bus: its file, its doorbells, and what goes wrong with either.

Each test's docstring names the bug that it would catch. What every bus promises: tests/contract/test_bus*.py.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sqlite3
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from runctl_shared.bus.embedded import engine
from runctl_shared.bus.embedded.store import FEED_LIMIT
from runctl_shared.bus.port import Address, BusError, Stream
from runctl_shared.clock import FakeClock
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
    opened,
    rows,
    send,
)
from runctl_testing.eventually import eventually


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "bus.db"


@pytest.fixture
def buses(file: Path) -> Iterator[Buses]:
    buses = Buses(f"sqlite://{file}")
    yield buses
    buses.close()


# ---------------------------------------------------------------- what lies on the disk


def test_nobody_else_may_read_or_ring(buses: Buses, file: Path) -> None:
    """Messages readable by every user of the machine."""
    before = os.umask(0)
    try:
        send(buses.controller(), event("agent-a-1"), b"0")
    finally:
        os.umask(before)
    parts = sorted([*file.parent.iterdir(), *Path(f"{file}.d").iterdir()])
    assert len(parts) == 5
    assert {part.name[:8]: part.stat().st_mode & 0o77 for part in parts} == {p.name[:8]: 0 for p in parts}


def test_what_waits_unread_is_not_stored_again(buses: Buses, file: Path) -> None:
    """A file that grows without bound while agents repeat themselves and no controller runs."""
    agent, other = buses.connect(), buses.connect()
    for _ in range(3):
        send(agent, event("agent-a-1"), b"0", b"1")
        send(other, event("agent-b-1"), b"0")  # the same id, and another sender
    assert rows(file, "SELECT sender, body FROM messages ORDER BY id") == [
        ("agent-a-1", b"0"),
        ("agent-a-1", b"1"),
        ("agent-b-1", b"0"),
    ]
    plan = rows(
        file,
        "EXPLAIN QUERY PLAN SELECT 1 FROM messages WHERE queue = 'events' AND owner IS NULL"
        " AND expires_at IS NULL AND sender = 'a' AND message_id = 'b'",
    )
    assert "USING INDEX waiting" in str(plan)


def test_what_somebody_has_read_is_stored_again(buses: Buses) -> None:
    """He may be about to acknowledge what he asks to be sent once more: it must not get lost in between."""
    agent, inbox = buses.controller(), Inbox(hold=True)
    agent.subscribe(EVENTS, inbox)
    send(agent, event("agent-a-1"), b"0")
    inbox.wait(1)
    send(agent, event("agent-a-1"), b"0")
    assert inbox.bodies(2) == [b"0", b"0"]


def test_a_file_of_before_gets_what_it_lacks(file: Path) -> None:
    """Minutes for each event, when thousands wait in a file that was made without the index."""
    with opened(file) as bus:
        send(bus, event("agent-a-1"), b"0")
    with contextlib.closing(sqlite3.connect(file)) as db:
        db.execute("DROP INDEX waiting")
    with opened(file) as bus:
        send(bus, event("agent-a-1"), b"0")
    assert rows(file, "SELECT count(*) FROM sqlite_master WHERE name = 'waiting'") == [(1,)]
    assert rows(file, "SELECT body FROM messages") == [(b"0",)]


def test_a_closed_bus_leaves_its_file_and_nothing_else(buses: Buses, file: Path) -> None:
    """Doorbells, locks, descriptors and names that pile up, one per command."""
    descriptors = os.listdir("/proc/self/fd")
    for _ in range(3):
        bus = buses.controller("agent-a-1")
        bus.subscribe(EVENTS, Inbox())
        bus.subscribe(FEED, Inbox())
        bus.close()
    assert sorted(path.name for path in file.parent.iterdir()) == ["bus.db", "bus.db.d"]
    assert list(Path(f"{file}.d").iterdir()) == []
    assert rows(file, "SELECT id FROM links UNION ALL SELECT id FROM consumers") == []
    assert len(os.listdir("/proc/self/fd")) == len(descriptors)


def test_what_a_killed_process_left_is_cleared_by_the_next(buses: Buses, file: Path) -> None:
    """Doorbells and listeners of the dead that stay for ever, and are written to for ever."""
    for _ in range(2):
        child = buses.child("hold", "feed", "")
        assert child.lines(1) == ["subscribed"]
        child.kill()
    os.mkfifo(f"{file}.d/link-0123456789abcdef")  # killed before its name was written down
    controller = buses.controller()
    assert len(list(Path(f"{file}.d").iterdir())) == 1
    assert rows(file, "SELECT count(*) FROM links") == [(1,)]
    controller.publish(Address(Stream.FEED), b"0", message_id="m-1")
    controller.declare_controller()
    assert rows(file, "SELECT * FROM messages") == []


def test_the_dead_are_found_though_nobody_has_to_do_with_them(
    buses: Buses, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What an agent held that was killed while nobody wrote to it: not free until somebody does."""
    monkeypatch.setattr(engine, "TICK", 0.05)
    controller = buses.controller("agent-a-1")
    controller.subscribe(EVENTS, Inbox())
    child = buses.child("hold", "commands", "agent-a-1")
    assert child.lines(1) == ["subscribed"]
    send(controller, command("agent-a-1"), b"save")
    assert child.lines(1) == ["save"]
    child.kill()
    eventually(lambda: rows(file, "SELECT body FROM messages WHERE owner IS NULL") == [(b"save",)], PATIENCE)
    assert len(list(Path(f"{file}.d").iterdir())) == 1


def test_a_reply_to_nobody_takes_no_place(buses: Buses, file: Path) -> None:
    """Answers to clients that have gone, kept for ever."""
    controller, client, inbox = buses.controller(), buses.connect(), Inbox(hold=True)
    controller.subscribe(REQUESTS, inbox)
    with ThreadPoolExecutor(1) as pool:
        pool.submit(client.request, b"?", timeout=PATIENCE)
        (question,) = inbox.wait(1)
        client.close()
    question.reply(b"!")
    question.ack()
    controller.declare_controller()
    assert rows(file, "SELECT * FROM messages") == []


def test_unread_heartbeats_take_one_place_per_agent_and_grow_stale(file: Path) -> None:
    """A controller that is away for a night and finds a million heartbeats, or takes old ones for life."""
    clock = FakeClock()
    with opened(file, clock) as bus:
        for n in range(500):
            for agent in ("agent-a-1", "agent-b-1"):
                bus.publish(Address(Stream.HEARTBEATS, agent, "beat"), b"%d" % n, message_id="m-1")
        bus.declare_controller()
        assert rows(file, "SELECT sender, body FROM messages") == [
            ("agent-a-1", b"499"),
            ("agent-b-1", b"499"),
        ]
        clock.advance(3600)
        inbox = Inbox()
        bus.subscribe(HEARTBEATS, inbox)
        bus.publish(Address(Stream.HEARTBEATS, "agent-c-1", "beat"), b"new", message_id="m-1")
        assert inbox.bodies(1) == [b"new"]
        assert bus.dead_letters() == []


def test_a_slow_listener_loses_the_oldest(buses: Buses) -> None:
    """A browser left open on a sleeping screen that fills the disk, or that holds up those who are awake."""
    bus = buses.controller()
    slow, quick = Inbox(hold=True), Inbox()
    bus.subscribe(FEED, slow, prefetch=1)
    bus.subscribe(FEED, quick)
    count = FEED_LIMIT + 50
    for body in numbers(count):
        bus.publish(Address(Stream.FEED), body, message_id="m-1")
    assert quick.bodies(count) == numbers(count)
    for n in range(FEED_LIMIT + 1):
        slow.wait(n + 1)[n].ack()
    bus.declare_controller()
    assert slow.bodies() == [b"0", *numbers(FEED_LIMIT, start=50)]


# ---------------------------------------------------------------- doorbells


def test_bells_alone_suffice(buses: Buses, monkeypatch: pytest.MonkeyPatch) -> None:
    """A wake-up that is only ever made good by the slow look around."""
    monkeypatch.setattr(engine, "TICK", 1e6)
    first, second, inbox = buses.controller(), buses.controller(), Inbox()
    child = buses.child("hold", "events", "")
    assert child.lines(1) == ["subscribed"]
    first.subscribe(EVENTS, inbox)
    send(second, event("agent-a-1"), *numbers(20))
    assert len(child.lines(20)) == 20
    child.kill()
    assert inbox.bodies(20) == numbers(20)
    for n in range(20, 220):  # one by one: each finds the other asleep, or just falling asleep
        send(second, event("agent-a-1"), b"%d" % n)
    assert inbox.bodies(220) == numbers(220)


def test_a_child_of_the_dead_does_not_pass_for_it(buses: Buses) -> None:
    """A doorbell inherited by a forked process, which keeps a dead consumer alive for the others."""
    child = buses.child("fork", "events", "")
    subscribed, pid = child.lines(2)
    assert subscribed == "subscribed"
    try:
        controller, inbox = buses.controller(), Inbox()
        controller.subscribe(EVENTS, inbox)
        send(controller, event("agent-a-1"), b"0")
        assert child.lines(1) == ["0"]
        child.kill()
        assert inbox.bodies(1) == [b"0"]
    finally:
        os.kill(int(pid), signal.SIGKILL)


def test_a_forked_child_is_told_to_open_its_own(buses: Buses) -> None:
    """A child that waits for a thread it does not have."""
    bus = buses.connect()
    pid = os.fork()
    if not pid:
        with contextlib.suppress(BaseException):
            bus.close()
            try:
                bus.declare_controller()
            except BusError as error:
                os._exit(7 if "parent" in str(error) else 1)
        os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
    bus.declare_controller()


def test_a_doorbell_removed_by_hand_is_hung_up_again(
    buses: Buses, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A clean-up of old files that leaves the controller deaf until it is started again."""
    monkeypatch.setattr(engine, "TICK", 0.05)
    agent = buses.connect()
    controller, inbox = buses.controller(), Inbox(hold=True)
    controller.subscribe(EVENTS, inbox)
    send(agent, event("agent-a-1"), b"0")
    inbox.wait(1)
    for bell in Path(f"{file}.d").iterdir():
        bell.unlink()
    send(agent, event("agent-a-1"), b"1")
    eventually(lambda: set(inbox.bodies()) == {b"0", b"1"}, PATIENCE)
    send(agent, event("agent-a-1"), b"2")
    eventually(lambda: b"2" in inbox.bodies(), PATIENCE)


def test_whoever_was_taken_for_dead_settles_nothing(buses: Buses, file: Path) -> None:
    """A message acknowledged by one who no longer owns it, while another is still at work on it."""
    first, second = Inbox(hold=True), Inbox(hold=True)
    slow = buses.controller()
    slow.subscribe(EVENTS, first)
    send(slow, event("agent-a-1"), b"0")
    (late,) = first.wait(1)
    for bell in Path(f"{file}.d").iterdir():
        bell.unlink()
    other = buses.connect()
    other.subscribe(EVENTS, second)
    assert second.wait(1)[0].redelivered
    late.ack()
    slow.declare_controller()
    assert rows(file, "SELECT body FROM messages") == [(b"0",)]
