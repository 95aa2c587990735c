"""The store in a database: what it refuses, several threads, a killed process."""

from __future__ import annotations

import itertools
import os
import signal
import sqlite3
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import msgspec
import pytest
from sqlalchemy import text

from runctl_controller.core.effects import (
    CALLS,
    Deposit,
    Effect,
    ForgetAgent,
    Interrupt,
    Launch,
    Look,
    ReadCommits,
    ReadEnd,
    SendCommand,
    Tell,
    Terminate,
)
from runctl_controller.core.model import Record
from runctl_controller.store.port import Transaction
from runctl_controller.store.sql.store import SqlStore
from runctl_shared.errors import StoreUnusable
from runctl_shared.messages import commands
from runctl_testing import forked
from runctl_testing.records import change_attempt, change_run, new_run, with_attempt

COMMANDS = [
    commands.StartTraining(),
    commands.SaveNow(),
    commands.StopTraining(save=False, grace=0.5, cause="lease"),
    commands.RenewLease(seconds=900.0),
    commands.AcknowledgeEvents(through=2**53),
    commands.ResendEvents(after=3),
    commands.FollowOutput(seconds=5.0, offset=7),
]
EFFECTS: list[Effect] = [
    Launch(machine="m-1"),
    Terminate(machine="m-1", actor="user:anna"),
    Interrupt(machine="m-1", notice=120.0, actor="user:anna"),
    Look(machine="m-1"),
    ReadEnd(attempt=3),
    ReadCommits(attempt=3),
    Deposit(),
    ForgetAgent(agent="a-1"),
    *(SendCommand(agent="a-1", attempt=2, id="cmd-1", body=body, expires=1.5) for body in COMMANDS),
    SendCommand(agent="a-1", attempt=2, id="cmd-1", body=COMMANDS[0]),
]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqlStore]:
    with closing(_open(tmp_path)) as store:
        yield store


def _open(folder: Path) -> SqlStore:
    return SqlStore(f"sqlite:///{folder}/state.db")


def test_every_effect_and_every_command_comes_back_as_it_was(store: SqlStore) -> None:
    assert {type(each) for each in EFFECTS} == set(CALLS), "an effect has no example here"
    assert {type(each) for each in COMMANDS} == set(commands.COMMANDS), "a command has no example here"
    with store.transaction() as tx:
        tx.queue("run-a", EFFECTS)
    with store.transaction() as tx:
        found = [item.effect for item in tx.outgoing()]
    assert found == EFFECTS
    bodies = [each.body for each in found if isinstance(each, SendCommand)]
    assert [type(body) for body in bodies[:-1]] == list(commands.COMMANDS)


# -- what it refuses ------------------------------------------------------------------------------

BASE = with_attempt(new_run("run-a"), ("boot", 1.0, None), permitted=True)


def _same_token(record: Record) -> Record:
    order = msgspec.structs.replace(record.machines[-1].order, token=BASE.machines[0].order.token)
    machine = msgspec.structs.replace(record.machines[-1], order=order)
    return msgspec.structs.replace(record, machines=(*record.machines[:-1], machine))


def _same_agent(record: Record) -> Record:
    return change_attempt(record, len(record.attempts), agent=BASE.attempts[0].agent)


def _paid_twice(record: Record) -> Record:
    return msgspec.structs.replace(record, intervals=(*record.intervals, record.intervals[-1]))


@pytest.mark.parametrize(
    "broken",
    [
        pytest.param(with_attempt(BASE, permitted=True), id="two machines train the same run"),
        pytest.param(_same_token(with_attempt(BASE)), id="two machines from the same order"),
        pytest.param(_same_agent(with_attempt(BASE)), id="two attempts of the same agent"),
        pytest.param(_same_agent(with_attempt(new_run("run-b"))), id="an agent of two runs"),
        pytest.param(_paid_twice(BASE), id="a machine that is paid for twice at a time"),
        pytest.param(with_attempt(new_run("run-b"), ("boot", 2.0, 1.0)), id="an end before its beginning"),
        pytest.param(
            msgspec.structs.replace(with_attempt(new_run("run-b")), attempts=()),
            id="a machine without attempt",
        ),
    ],
)
def test_what_would_break_a_promise_is_not_stored(store: SqlStore, broken: Record) -> None:
    with store.transaction() as tx:
        tx.save(BASE)

    def save() -> None:
        with store.transaction() as tx:
            tx.queue("run-a", [Look(machine="m")])
            tx.save(broken)

    with pytest.raises(StoreUnusable, match="would break a rule"):
        save()
    with store.transaction() as tx:
        assert tx.load("run-a") == BASE
        assert tx.load("run-b") is None
        assert not tx.outgoing()


def test_a_record_does_not_lose_attempts(store: SqlStore) -> None:
    with store.transaction() as tx:
        tx.save(BASE)
        with pytest.raises(ValueError, match="missing"):
            tx.save(msgspec.structs.replace(BASE, attempts=()))


@pytest.mark.parametrize(
    ("change", "read"),
    [
        ("UPDATE runs SET data = '{'", lambda tx: tx.load("run-a")),
        ("UPDATE runs SET spec = '[]'", lambda tx: tx.runs(limit=1)),
        ("UPDATE attempts SET state = 'flying'", lambda tx: tx.load("run-a")),
        ("UPDATE machines SET launch_order = '{}'", lambda tx: tx.load("run-a")),
        ("UPDATE outbox SET kind = 'Shout'", lambda tx: tx.outgoing()),
        ("UPDATE outbox SET data = '{}'", lambda tx: tx.outgoing()),
    ],
)
def test_a_row_that_means_nothing_is_one_sentence(
    store: SqlStore, change: str, read: Callable[[Transaction], object]
) -> None:
    with store.transaction() as tx:
        tx.save(BASE)
        tx.queue("run-a", [SendCommand(agent="a", attempt=1, id="c", body=commands.SaveNow())])
    with store._db.begin():
        store._db.execute(text(change))
    with store.transaction() as tx, pytest.raises(StoreUnusable, match="cannot be read") as caught:
        read(tx)
    assert caught.value.mend


# -- several threads, a killed process ------------------------------------------------------------


def test_threads_take_turns(store: SqlStore) -> None:
    with store.transaction() as tx:
        tx.save(new_run("run-a"))

    def count(_: int) -> None:
        with store.transaction() as tx:
            record = tx.load("run-a")
            assert record is not None
            tx.save(change_run(record, restarts=record.run.restarts + 1))

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(count, range(100)))
    with store.transaction() as tx:
        record = tx.load("run-a")
        assert record is not None
        assert record.run.restarts == 100


def test_a_transaction_within_a_transaction_is_a_mistake_and_not_a_deadlock(store: SqlStore) -> None:
    with store.transaction() as tx:
        with pytest.raises(RuntimeError, match="within"), store.transaction():
            pass
        tx.save(new_run("run-a"))
    with store.transaction() as tx:
        assert tx.load("run-a") is not None


def test_what_a_transaction_has_read_stays_true_until_it_has_written(store: SqlStore, tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "state.db", timeout=0, isolation_level=None)) as other:
        with store.transaction() as tx:
            assert not tx.busy()
            with pytest.raises(sqlite3.OperationalError, match="locked"):
                other.execute("BEGIN IMMEDIATE")
            tx.save(new_run("run-a"))
        other.execute("BEGIN IMMEDIATE")
        other.execute("ROLLBACK")


@pytest.mark.parametrize("commits", [1, 2, 7, 30])
def test_killed_at_any_moment_it_holds_what_it_said_it_holds(tmp_path: Path, commits: int) -> None:
    reading, writing = os.pipe()
    pid = forked.start(lambda: _commit_for_ever(tmp_path, writing))
    os.close(writing)
    with open(reading, "rb") as pipe:
        said = [pipe.readline() for _ in range(commits)]
        os.kill(pid, signal.SIGKILL)
        said += pipe.readlines()
    assert forked.wait(pid) == -signal.SIGKILL
    with closing(_open(tmp_path)) as store, store.transaction() as tx:
        held = len(tx.runs(limit=10**6))
        assert len(said) <= held <= len(said) + 1
        assert [item.run for item in tx.outgoing(limit=10**6)] == [f"run-{n}" for n in range(held)]
        for n in range(held + 1):
            assert (tx.load(f"run-{n}") is None) == (n == held)
            assert len(tx.story(f"run-{n}", 9)) == (n < held)


def _commit_for_ever(folder: Path, pipe: int) -> None:
    store = _open(folder)
    for number in itertools.count():
        run = f"run-{number}"
        with store.transaction() as tx:
            tx.queue(run, [Look(machine="m")])
            tx.save(with_attempt(new_run(run, float(number)), ("boot", 1.0, None)))
            tx.tell(run, Tell(at=1.0, attempt=1, kind="k", text="t", actor="agent"))
        os.write(pipe, b"%d\n" % number)
