"""What is particular to the embedded bus: its file, its doorbells, and what goes wrong with either.

Each test's docstring names the bug that it would catch. What every bus promises: tests/contract/test_bus*.py.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sqlite3
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from runctl_shared.bus.embedded import engine, session
from runctl_shared.bus.embedded.bus import EmbeddedBus
from runctl_shared.bus.embedded.store import FEED_LIMIT, VERSION
from runctl_shared.bus.port import Address, BusError, BusRefused, BusUnavailable, Delivery, Stream
from runctl_shared.clock import FakeClock, SystemClock
from runctl_testing.buses import (
    EVENTS,
    FEED,
    HEARTBEATS,
    PATIENCE,
    Buses,
    Inbox,
    command,
    event,
    numbers,
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


@contextlib.contextmanager
def opened(file: Path, clock: FakeClock | None = None) -> Iterator[EmbeddedBus]:
    """A connection that need not succeed."""
    bus = EmbeddedBus(str(file), clock=clock or SystemClock())
    try:
        yield bus
    finally:
        bus.close()


def rows(file: Path, query: str) -> list[tuple[object, ...]]:
    with contextlib.closing(sqlite3.connect(file)) as db:
        return db.execute(query).fetchall()


def publish(bus: EmbeddedBus, body: bytes = b"0") -> None:
    bus.publish(event("agent-a-1"), body, message_id="m-1").result(PATIENCE)


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
    controller = buses.controller()
    assert len(list(Path(f"{file}.d").iterdir())) == 1
    assert rows(file, "SELECT count(*) FROM links") == [(1,)]
    controller.publish(Address(Stream.FEED), b"0", message_id="m-1")
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


# ---------------------------------------------------------------- what goes wrong


def test_many_who_open_a_new_file_at_once_all_get_in(file: Path) -> None:
    """Two that make the tables at the same time; one that finds them half made."""
    barrier = threading.Barrier(8)

    def enter(n: int) -> None:
        barrier.wait(PATIENCE)
        with opened(file) as bus:
            bus.publish(event(f"agent-{n}-1"), b"0", message_id="m-1").result(PATIENCE)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(enter, range(8)))
    assert rows(file, "SELECT count(*) FROM messages") == [(8,)]


@pytest.mark.parametrize("wrong", ["damaged", "foreign", "newer", "no folder", "a file for a folder"])
def test_a_file_that_cannot_be_used_is_refused_and_used_once_it_can(file: Path, wrong: str) -> None:
    """A traceback out of SQLite, a foreign database written into, or a process that must be started again."""
    path = file
    if wrong == "damaged":
        file.write_bytes(b"no database, this" * 100)
    elif wrong == "foreign":
        with contextlib.closing(sqlite3.connect(file)) as db:
            db.execute("CREATE TABLE runs (id)")
    elif wrong == "newer":
        with opened(file) as bus:
            publish(bus)
        with contextlib.closing(sqlite3.connect(file)) as db:
            db.execute(f"PRAGMA user_version = {VERSION + 1}")
    else:
        path = file.parent / "folder" / "bus.db"
        if wrong == "a file for a folder":
            path.parent.write_text("")
    before = file.read_bytes() if file.exists() else None
    with opened(path) as bus:
        with pytest.raises(BusRefused, match=str(path)) as caught:
            publish(bus)
        assert caught.value.mend
        with pytest.raises(BusRefused):
            bus.declare_controller()
        inbox = Inbox()
        bus.subscribe(EVENTS, inbox)
        assert not bus.wait_connected(0)
        assert before is None or file.read_bytes() == before
        if before is not None:
            file.unlink()
        else:
            path.parent.unlink(missing_ok=True)
            path.parent.mkdir()
        assert bus.wait_connected(PATIENCE)
        publish(bus)
        assert inbox.bodies(1) == [b"0"]


def test_a_file_removed_under_our_feet_is_made_again(buses: Buses, file: Path) -> None:
    """Confirms for what is written into a file that no longer has a name; agents forgotten."""
    controller, inbox = buses.controller("agent-a-1"), Inbox()
    controller.subscribe(EVENTS, inbox)
    for part in file.parent.glob("bus.db*"):
        if part.is_file():
            part.unlink()
    agent = buses.connect()
    eventually(
        lambda: controller.publish(command("agent-a-1"), b"save", message_id="m-1").exception() is None
    )
    send(agent, event("agent-a-1"), b"0")
    assert inbox.bodies(1) == [b"0"]
    orders = Inbox()
    agent.subscribe(command("agent-a-1"), orders)
    assert orders.bodies(1) == [b"save"]


def test_a_full_disk_is_said_and_nothing_confirmed_is_lost(file: Path) -> None:
    """A confirm for what was rolled back, or a connection that stays broken when there is space again."""
    with opened(file) as bus:
        publish(bus)
        # As good as a full disk: SQLite itself refuses to grow the file, until it is opened anew.
        bus._engine.call(lambda s: s._db.execute("PRAGMA max_page_count = 1").fetchone())
        with pytest.raises(BusUnavailable, match="full"):
            publish(bus, bytes(100_000))
        eventually(lambda: bus.publish(event("agent-a-1"), b"1", message_id="m-1").exception() is None)
        inbox = Inbox()
        bus.subscribe(EVENTS, inbox)
        assert inbox.bodies(2) == [b"0", b"1"]


def test_a_locked_file_fails_what_is_published_and_keeps_what_is_settled(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An acknowledgement dropped because another process was slow: the message never comes again nor goes."""
    monkeypatch.setattr(session, "LOCK_PATIENCE", 0.05)
    with opened(file) as bus, contextlib.closing(sqlite3.connect(file, isolation_level=None)) as other:
        inbox = Inbox(hold=True)
        subscription = bus.subscribe(EVENTS, inbox)
        publish(bus)
        (delivery,) = inbox.wait(1)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(BusUnavailable, match="locked"):
            publish(bus)
        delivery.ack()
        with pytest.raises(BusUnavailable, match="locked"):
            bus.declare_controller()
        other.execute("ROLLBACK")
        eventually(lambda: rows(file, "SELECT * FROM messages") == [], PATIENCE)
        subscription.close()
        assert rows(file, "SELECT * FROM consumers") == []


def test_one_that_cannot_be_stored_does_not_take_others_with_it(buses: Buses) -> None:
    """A batch thrown away, or the thread ended, for one text that is no Unicode."""
    bus = buses.connect()
    futures = [
        bus.publish(event("agent-a-1"), b"0", message_id=name) for name in ("m-1", "m-\udcff", "m-2", "m-\0")
    ]
    problems = [future.exception(PATIENCE) for future in futures]
    assert [type(problem) for problem in problems] == [type(None), UnicodeEncodeError, type(None), type(None)]


def test_a_handler_that_fails_or_waits_does_not_stop_the_bus(
    buses: Buses, caplog: pytest.LogCaptureFixture
) -> None:
    """A bug in one handler that silences all; a handler that waits for the thread it runs on."""
    bus, inbox = buses.controller(), Inbox()

    def handle(delivery: Delivery) -> None:
        if delivery.body == b"0":
            raise RuntimeError("a bug")
        if delivery.body == b"1":
            with pytest.raises(BusError, match="must not wait"):
                bus.declare_controller()
        inbox(delivery)

    bus.subscribe(EVENTS, handle)
    send(bus, event("agent-a-1"), *numbers(3))
    assert inbox.bodies(2) == numbers(2, start=1)
    assert "bus.handler_failed queue=events" in caplog.text


def test_a_handler_may_end_its_own_subscription(buses: Buses) -> None:
    """A deadlock of the thread with itself, or deliveries after the end."""
    bus, inbox, again = buses.controller(), Inbox(), Inbox()

    def handle(delivery: Delivery) -> None:
        placed.wait(PATIENCE)
        inbox(delivery)
        subscription.close()

    send(bus, event("agent-a-1"), *numbers(3))
    placed = threading.Event()
    subscription = bus.subscribe(EVENTS, handle)
    placed.set()
    inbox.wait(1)
    bus.subscribe(EVENTS, again)
    assert again.bodies(2) == numbers(2, start=1)
    assert inbox.bodies() == [b"0"]
