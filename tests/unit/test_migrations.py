"""Every earlier state is brought to the newest schema, and loses nothing.

A new migration needs a file `states/schema-N.sql`, where N is the schema that it makes: what
`PYTHONPATH=tests/lib python tests/unit/test_migrations.py` prints. Files of earlier schemas stay as they are.
"""

from __future__ import annotations

import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import msgspec
import pytest
from sqlalchemy import Connection, inspect, text

from runctl_controller.core.effects import SendCommand, Tell
from runctl_controller.core.model import Record
from runctl_controller.core.tables import AttemptState, MachineState, RunState
from runctl_controller.store.port import Beat, DueTimer, Outgoing
from runctl_controller.store.sql import sqlite, tables
from runctl_controller.store.sql.migrations import MIGRATIONS, migrate, schema_of
from runctl_controller.store.sql.store import SqlStore
from runctl_shared.errors import StoreUnusable
from runctl_shared.messages.commands import RenewLease
from runctl_shared.messages.events import Heartbeat
from runctl_testing.records import change_attempt, change_machine, change_run, new_run, with_attempt

STATES = Path(__file__).parent / "states"
SCHEMAS = range(1, len(MIGRATIONS) + 1)


def _spelled_out(record: Record) -> Record:
    """With everything in it that has a default which may change: what was stored stays what it was."""
    spec = msgspec.structs.replace(
        record.run.spec, signal="SIGUSR1", grace=30.0, max_restarts=5, provider="local", project="past"
    )
    return change_run(record, spec=spec)


# What every file of states/ holds. What a later version adds has its default there.
RECORD = with_attempt(
    change_machine(
        with_attempt(
            _spelled_out(new_run("run-past", 5.0, state=RunState.TRAINING, fruitless=1)),
            ("boot", 1.0, 2.0),
            ("training", 2.0, 9.5),
            permitted=True,
            state=AttemptState.ENDED,
            reason="interrupted",
        ),
        1,
        state=MachineState.TERMINATED,
        provider_id="p-1",
    ),
    ("training", 9.0, None),
)
TOLD = Tell(at=1.5, attempt=2, kind="run", text="queued → training", actor="user:anna", data={"step": 7})
COMMAND = SendCommand(agent="agent-past-2", attempt=2, id="cmd-1", body=RenewLease(seconds=900.0))
BEAT = Beat(agent="agent-past-2", at=3.0, body=Heartbeat(phase="training", loss=float("inf")))


def _write(store: SqlStore) -> None:
    with store.transaction() as tx:
        tx.save(RECORD)
        tx.tell("run-past", TOLD)
        tx.queue("run-past", [COMMAND])
        tx.set_timer("run-past", "look", 12.5)
        tx.save_beats([BEAT])
    store.take_over()
    store.installation()


def _restore(schema: int, path: Path) -> None:
    with closing(sqlite3.connect(path)) as db:
        db.executescript((STATES / f"schema-{schema}.sql").read_text())


@pytest.mark.parametrize("schema", SCHEMAS)
def test_a_state_of_every_schema_is_understood(tmp_path: Path, schema: int) -> None:
    path = tmp_path / "state.db"
    _restore(schema, path)
    with closing(SqlStore(f"sqlite:///{path}")) as store:
        with store.transaction() as tx:
            assert tx.load("run-past") == RECORD
            assert list(tx.busy()) == ["run-past"]
            assert list(tx.story("run-past", 9)) == [TOLD]
            assert list(tx.outgoing()) == [Outgoing(id=1, run="run-past", effect=COMMAND)]
            assert list(tx.beats([BEAT.agent])) == [BEAT]
            assert list(tx.take_due(99.0)) == [DueTimer(run="run-past", key="look", at=12.5)]
            tx.save(change_attempt(RECORD, 2, state=AttemptState.STAGING))
        assert store.installation() == "inst-000000000000"
        assert store.take_over().epoch == 2


@pytest.mark.parametrize("schema", SCHEMAS)
def test_an_old_state_becomes_what_a_new_one_is(tmp_path: Path, schema: int) -> None:
    """Also: nobody has changed a migration after it was released."""
    _restore(schema, tmp_path / "old.db")
    shapes = []
    for path in (tmp_path / "old.db", tmp_path / "new.db"):
        SqlStore(f"sqlite:///{path}").close()
        with closing(sqlite3.connect(path)) as db:
            shapes.append(
                db.execute("SELECT type, name, tbl_name, sql FROM sqlite_master ORDER BY 2").fetchall()
            )
    assert shapes[0] == shapes[1]


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Connection]:
    path = tmp_path / "state.db"
    SqlStore(f"sqlite:///{path}").close()
    with sqlite.engine(path).connect() as connection:
        yield connection


def test_queries_name_the_columns_that_there_are(database: Connection) -> None:
    there = inspect(database)
    named = {table.name: [column.name for column in table.c] for table in tables.ALL}
    assert named == {
        name: [column["name"] for column in there.get_columns(name)] for name in there.get_table_names()
    }


def _add_table(connection: Connection) -> None:
    connection.execute(text("CREATE TABLE added (id INTEGER)"))
    connection.execute(text("DELETE FROM leadership"))


def _fail(connection: Connection) -> None:
    _add_table(connection)
    raise ZeroDivisionError


def _state(connection: Connection) -> tuple[int, bool, bool]:
    with connection.begin():
        epoch = connection.execute(text("SELECT epoch FROM leadership")).scalar()
        return schema_of(connection), inspect(connection).has_table("added"), epoch is not None


def test_a_migration_happens_once_and_wholly_or_not_at_all(database: Connection) -> None:
    newest = len(MIGRATIONS)
    with pytest.raises(ZeroDivisionError):
        migrate(database, [*MIGRATIONS, _fail])
    assert _state(database) == (newest, False, True)
    for _ in range(2):
        migrate(database, [*MIGRATIONS, _add_table])
        assert _state(database) == (newest + 1, True, False)


def test_a_newer_schema_is_not_touched(database: Connection) -> None:
    newest = len(MIGRATIONS)
    migrate(database, [*MIGRATIONS, _add_table])
    with pytest.raises(StoreUnusable, match=f"schema {newest + 1}, this one knows {newest}"):
        migrate(database)
    assert _state(database) == (newest + 1, True, False)


def _print_state() -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "state.db"
        with closing(SqlStore(f"sqlite:///{path}")) as store:
            _write(store)
        with closing(sqlite3.connect(path)) as db:
            db.execute("UPDATE meta SET value = 'inst-000000000000' WHERE name = 'installation'")
            print("\n".join(db.iterdump()))


if __name__ == "__main__":
    _print_state()
