"""Taking a run off the record. What it cost stays, in one row for each run and one that sums them up."""

from __future__ import annotations

import msgspec
from sqlalchemy import Connection, bindparam, delete, select

from runctl_controller.core.model import Record
from runctl_controller.store.port import Forgotten, Sums
from runctl_controller.store.sql.sqlite import upsert
from runctl_controller.store.sql.tables import (
    attempts,
    beats,
    intervals,
    machines,
    meta,
    outbox,
    runs,
    story,
    timers,
)

_SUMS = "forgotten"
_OF = "forgotten:"
_RUN = bindparam("of_run", type_=runs.c.id.type)
_GET = select(meta.c.value).where(meta.c.name == bindparam("of_name"))
_PUT = upsert(meta, "name")
_DROP = delete(meta).where(meta.c.name == bindparam("of_name"))
_OF_RUN = [
    delete(table).where(table.c.run == _RUN) for table in (story, timers, intervals, machines, attempts)
]
_THE_RUN = delete(runs).where(runs.c.id == _RUN)
_BEATS = delete(beats).where(beats.c.agent == bindparam("of_agent"))
# By the keys: the outbox has no index of runs, and needs none.
_OUTGOING = select(outbox.c.id, outbox.c.run).where(outbox.c.id > 0).order_by(outbox.c.id)
_DONE = delete(outbox).where(outbox.c.id == bindparam("of_id"))


def remove(db: Connection, record: Record, left: Forgotten) -> None:
    key = {"of_run": left.run}
    for number, run in db.execute(_OUTGOING).all():
        if run == left.run:
            db.execute(_DONE, {"of_id": number})
    for attempt in record.attempts:
        db.execute(_BEATS, {"of_agent": attempt.agent})
    for statement in (*_OF_RUN, _THE_RUN):
        db.execute(statement, key)
    _put(db, _OF + left.run, left)
    _add(db, 1, left)


def recall(db: Connection, run: str) -> Forgotten | None:
    found = db.execute(_GET, {"of_name": _OF + run}).scalar()
    if found is None:
        return None
    left = msgspec.json.decode(found, type=Forgotten)
    db.execute(_DROP, {"of_name": _OF + run})
    _add(db, -1, left)
    return left


def sums(db: Connection) -> Sums:
    found = db.execute(_GET, {"of_name": _SUMS}).scalar()
    return Sums() if found is None else msgspec.json.decode(found, type=Sums)


def _add(db: Connection, count: int, left: Forgotten) -> None:
    known = sums(db)
    dollars = known.dollars + count * left.dollars
    _put(db, _SUMS, Sums(runs=known.runs + count, dollars=max(0.0, dollars)))


def _put(db: Connection, name: str, value: msgspec.Struct) -> None:
    db.execute(_PUT, {"name": name, "value": msgspec.json.encode(value).decode()})
