"""What the store in a database costs: it does not grow with the history. Counted, not timed."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest
from sqlalchemy import Connection, event

from runctl_controller.core.effects import Look, Tell
from runctl_controller.core.model import Record
from runctl_controller.core.tables import AttemptState, MachineState
from runctl_controller.store.port import Beat, Forgotten, Transaction
from runctl_controller.store.sql.store import SqlStore
from runctl_shared.messages.events import Heartbeat
from runctl_testing.records import change_attempt, change_machine, change_run, finished, new_run, with_attempt


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqlStore]:
    with closing(_open(tmp_path)) as store:
        yield store


def _open(folder: Path) -> SqlStore:
    return SqlStore(f"sqlite:///{folder}/state.db")


LEFT = Forgotten(run="run-5", name="n", project="p", created_at=1.0, removed_at=2.0, by="me")


class Watched:
    """The statements that a store carries out, with their rows of parameters."""

    def __init__(self, store: SqlStore) -> None:
        self._store = store
        self.seen: list[tuple[str, Any, bool]] = []

    @contextmanager
    def watching(self) -> Iterator[None]:
        def look(_c: object, _k: object, sql: str, parameters: Any, _x: object, many: bool) -> None:
            self.seen.append((sql, parameters, many))

        engine = self._store._db.engine
        event.listen(engine, "before_cursor_execute", look)
        try:
            yield
        finally:
            event.remove(engine, "before_cursor_execute", look)

    @property
    def writes(self) -> int:
        """How many rows were written, or were looked for to be removed."""
        return sum(
            len(rows) if many else 1
            for sql, rows, many in self.seen
            if not sql.startswith(("SELECT", "BEGIN"))
        )


def _reads(tx: Transaction) -> list[Callable[[], object]]:
    return [
        lambda: tx.runs(limit=20),
        lambda: tx.runs(limit=20, project="default"),
        lambda: tx.runs(limit=20, only_open=True),
        lambda: tx.runs(limit=20, project="default", only_open=True),
        lambda: tx.load("run-5"),
        lambda: tx.run_id("run-7"),
        lambda: tx.run_id("same"),
        lambda: tx.beginning("run-5", 5),
        lambda: tx.beginning("sa", 5),
        lambda: tx.run_of_agent("agent-5-1"),
        tx.busy,
        tx.outgoing,
        lambda: tx.outgoing(after=10),
        tx.next_timer,
        lambda: tx.take_due(0.0),
        lambda: tx.story("run-5", 10),
        lambda: tx.told_after(1, 10),
        lambda: tx.told_after(1, 10, "run-5"),
        lambda: tx.told_before(10**9, 10),
        lambda: tx.told_before(10**9, 10, "run-5"),
        tx.newest_told,
        tx.sums,
        lambda: tx.beats(["agent-5-1"]),
    ]


def _write(tx: Transaction, record: Record) -> None:
    """What an event of an agent brings about, at most."""
    run, newest = record.run.id, record.attempts[-1]
    changed = change_attempt(record, newest.number, events_through=newest.events_through + 1)
    tx.save(change_run(_use(changed), restarts=record.run.restarts + 1))
    tx.queue(run, [Look(machine="m")])
    tx.done(1)
    tx.set_timer(run, "look", 1e9)
    tx.cancel_timer(run, "look")
    tx.take_due(1.0)
    tx.tell(run, Tell(at=1.0, attempt=1, kind="k", text="t", actor="agent"))
    tx.save_beats([Beat(agent=newest.agent, at=1.0, body=Heartbeat(phase="training"))])


def _use(record: Record) -> Record:
    """The machine of the newest attempt is used for something else from now on."""
    *before, last = record.intervals
    closed = msgspec.structs.replace(last, end=last.start + 1.0)
    opened = msgspec.structs.replace(last, start=last.start + 1.0)
    return msgspec.structs.replace(record, intervals=(*before, closed, opened))


def test_nothing_is_found_by_searching_through_a_table(store: SqlStore) -> None:
    watched = Watched(store)
    record = with_attempt(new_run("run-5"), ("boot", 1.0, None))
    with watched.watching():
        store.take_over()
        with store.transaction() as tx:
            tx.save(record)
            tx.set_timer("run-5", "due", 0.5)
            _write(tx, record)
        with store.transaction() as tx:
            tx.remove(LEFT)
            tx.recall("run-5")
        for read in range(len(_reads(tx))):
            with store.transaction() as tx:
                _reads(tx)[read]()
    assert len(watched.seen) > 40
    with store._db.begin():
        for sql, rows, many in watched.seen:
            if not sql.startswith("BEGIN"):
                _check_plan(store._db, sql, rows[0] if many else rows)


def _check_plan(db: Connection, sql: str, parameters: Any) -> None:
    for *_, step in db.exec_driver_sql(f"EXPLAIN QUERY PLAN {sql}", parameters).all():
        assert "TEMP B-TREE" not in step, f"{sql}\nsorts: {step}"
        # To go along an index from its end is no search, if it ends soon: at the limit, or as the index holds
        # but the few runs that are not finished.
        along = "USING INDEX runs_by_age" in step and "LIMIT" in sql
        few = any(f"INDEX {name}" in step for name in ("runs_open", "runs_busy"))
        assert not step.startswith("SCAN") or along or few, f"{sql}\nsearches: {step}"


def test_nothing_is_more_work_among_thousands_of_finished_runs(tmp_path: Path) -> None:
    """A read that searches; a write that has every row of another table looked at for a reference to it."""
    few, many = (_work(tmp_path / str(count), count) for count in (100, 4000))
    for number, (before, after) in enumerate(zip(few, many, strict=True)):
        assert after <= 1.5 * before, f"number {number} takes {after} steps instead of {before}"


def _work(folder: Path, count: int) -> list[int]:
    """Steps of SQLite's machine for each of the reads, then for changing everything of a run."""
    folder.mkdir()
    with closing(_open(folder)) as store:
        with store.transaction() as tx:
            for number in range(count):
                _finish(tx, number)
            record = with_attempt(new_run("run-open", count), ("boot", 1.0, None))
            tx.save(record)
        steps = [_steps(store, partial(_read, number)) for number in range(len(_reads(tx)))]
        changed = change_run(change_attempt(record, 1, commands=7), restarts=1)
        changed = change_machine(changed, 1, provider_id="x")
        return [*steps, _steps(store, lambda tx: tx.save(changed))]


def _finish(tx: Transaction, number: int) -> None:
    record = with_attempt(
        finished(f"run-{number}", float(number), name="same"), ("boot", 1.0, 2.0), state=AttemptState.ENDED
    )
    machine = msgspec.structs.replace(record.machines[0], state=MachineState.TERMINATED)
    tx.save(msgspec.structs.replace(record, machines=(machine,)))
    tx.tell(record.run.id, Tell(at=1.0, attempt=1, kind="k", text="t", actor="agent"))
    tx.save_beats([Beat(agent=machine.id, at=1.0, body=Heartbeat(phase="training"))])


def _read(number: int, tx: Transaction) -> None:
    _reads(tx)[number]()


def _steps(store: SqlStore, act: Callable[[Transaction], object]) -> int:
    raw: Any = store._db.connection.dbapi_connection
    counter = itertools.count()
    with store.transaction() as tx:
        raw.set_progress_handler(lambda: next(counter) and None, 1)
        try:
            act(tx)
        finally:
            raw.set_progress_handler(None, 1)
    return next(counter)


def test_an_event_writes_as_few_rows_late_as_early(store: SqlStore) -> None:
    watched, record, costs = Watched(store), new_run("run-a"), []
    for number in range(1, 31):
        record = with_attempt(
            record, *(("boot", float(i), i + 1.0) for i in range(5)), ("training", 9.0, None)
        )
        with store.transaction() as tx:
            tx.save(record)
        watched.seen.clear()
        with watched.watching(), store.transaction() as tx:
            loaded = tx.load("run-a")
            assert loaded is not None
            _write(tx, loaded)
            record = tx.load("run-a") or record
        costs.append(watched.writes)
        assert len(record.intervals) == 7 * number
    assert costs[0] == costs[-1] <= 12


def test_what_is_loaded_and_saved_again_is_not_written(store: SqlStore) -> None:
    with store.transaction() as tx:
        tx.save(with_attempt(new_run("run-a"), ("boot", 1.0, None)))
    watched = Watched(store)
    with watched.watching(), store.transaction() as tx:
        record = tx.load("run-a")
        assert record is not None
        tx.save(record)
        tx.save(msgspec.convert(msgspec.to_builtins(record), Record))
    assert watched.writes == 0
