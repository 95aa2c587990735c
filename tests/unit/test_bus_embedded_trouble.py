"""What goes wrong with the file of the embedded bus, and with those who use it.

Each test's docstring names the bug that it would catch.
"""

from __future__ import annotations

import contextlib
import sqlite3
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from runctl_shared.bus.embedded import session
from runctl_shared.bus.embedded.bus import EmbeddedBus
from runctl_shared.bus.embedded.store import VERSION
from runctl_shared.bus.port import BusError, BusRefused, BusUnavailable, Delivery
from runctl_testing.buses import (
    EVENTS,
    PATIENCE,
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


def publish(bus: EmbeddedBus, body: bytes = b"0", id: str = "m-1") -> None:
    bus.publish(event("agent-a-1"), body, message_id=id).result(PATIENCE)


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
            db.execute(f"PRAGMA user_version = {VERSION}")
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
            publish(bus, bytes(100_000), "m-2")
        eventually(lambda: bus.publish(event("agent-a-1"), b"1", message_id="m-3").exception() is None)
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
