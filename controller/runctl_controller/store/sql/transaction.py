"""One transaction on the database."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from sqlalchemy import (
    BindParameter,
    ColumnClause,
    Connection,
    RowMapping,
    Select,
    bindparam,
    delete,
    func,
    insert,
    literal_column,
    select,
    update,
)

from runctl_controller.core.effects import Effect, Tell
from runctl_controller.core.model import Record, Run
from runctl_controller.store.port import Beat, DueTimer, Forgotten, Outgoing, Sums, Told
from runctl_controller.store.sql import coding, forgetting, saving
from runctl_controller.store.sql.sqlite import upsert
from runctl_controller.store.sql.tables import (
    attempts,
    beats,
    intervals,
    machines,
    outbox,
    runs,
    story,
    timers,
)

_RUN: BindParameter[str] = bindparam("of_run")
_NAME: BindParameter[str] = bindparam("name")
_AFTER: BindParameter[int] = bindparam("after")
_LIMIT: BindParameter[int] = bindparam("limit")
_NEWEST_FIRST = (runs.c.created_at.desc(), runs.c.id.desc())
# Spelled out: whether a condition with a parameter finds a partial index is up to the database.
_YES: ColumnClause[int] = literal_column("1")

_LOAD_RUN = select(runs).where(runs.c.id == _RUN)
_LOAD_ATTEMPTS = select(attempts).where(attempts.c.run == _RUN).order_by(attempts.c.number)
_LOAD_MACHINES = select(machines).where(machines.c.run == _RUN).order_by(machines.c.position)
_LOAD_INTERVALS = select(intervals).where(intervals.c.run == _RUN).order_by(intervals.c.position)
_IS_RUN = select(runs.c.id).where(runs.c.id == _NAME)
_BY_NAME = select(runs.c.id).where(runs.c.name == _NAME).order_by(*_NEWEST_FIRST).limit(1)
# Beyond everything that begins so: no name or id holds this character.
_LAST = "\x7f"
_IDS_LIKE = select(runs.c.id).where(runs.c.id >= _NAME, runs.c.id < bindparam("end")).order_by(runs.c.id)
_NEXT_NAME = (
    select(runs.c.name)
    .where(runs.c.name > _NAME, runs.c.name < bindparam("end"))
    .order_by(runs.c.name)
    .limit(1)
)
_OF_AGENT = select(attempts.c.run).where(attempts.c.agent == bindparam("of_agent"))
_BUSY = select(runs.c.id).where(runs.c.is_busy == _YES).order_by(runs.c.created_at, runs.c.id)
_OUTGOING = select(outbox).where(outbox.c.id > _AFTER).order_by(outbox.c.id).limit(_LIMIT)
_DONE = delete(outbox).where(outbox.c.id == bindparam("of_id"))
_SET_TIMER = upsert(timers, "run", "key")
_CANCEL_TIMER = delete(timers).where(timers.c.run == _RUN, timers.c.key == bindparam("of_key"))
_DUE = (
    select(timers)
    .where(timers.c.at <= bindparam("now"))
    .order_by(timers.c.at, timers.c.run, timers.c.key)
    .limit(bindparam("limit"))
)
_SHIFT_TIMERS = update(timers).values(at=timers.c.at + bindparam("seconds"))
_NEXT_TIMER = select(func.min(timers.c.at))
_STORY = select(story).where(story.c.run == _RUN).order_by(story.c.id.desc()).limit(_LIMIT)
_NUMBER: BindParameter[int] = bindparam("number")
_TOLD = select(story, runs.c.name).select_from(story.outerjoin(runs, runs.c.id == story.c.run)).limit(_LIMIT)
_TOLD_AFTER = _TOLD.where(story.c.id > _NUMBER).order_by(story.c.id)
_TOLD_BEFORE = _TOLD.where(story.c.id < _NUMBER).order_by(story.c.id.desc())
_OF_RUN = story.c.run == _RUN
_NEWEST_TOLD = select(func.max(story.c.id))
_TELL = insert(story).returning(story.c.id)
_SAVE_BEATS = upsert(beats, "agent")
_BEAT = select(beats).where(beats.c.agent == bindparam("of_agent"))


class SqlTransaction:
    """See Transaction. Valid as long as the block that it was made for."""

    def __init__(self, db: Connection) -> None:
        self._db = db
        self._records: dict[str, Record | None] = {}  # as they are stored now

    def load(self, run: str) -> Record | None:
        if run not in self._records:
            self._records[run] = self._load(run)
        return self._records[run]

    def _load(self, run: str) -> Record | None:
        key = {"of_run": run}
        found = self._db.execute(_LOAD_RUN, key).mappings().first()
        if found is None:
            return None
        return Record(
            run=coding.run_of(found),
            attempts=tuple(map(coding.attempt_of, self._db.execute(_LOAD_ATTEMPTS, key).mappings())),
            machines=tuple(map(coding.machine_of, self._db.execute(_LOAD_MACHINES, key).mappings())),
            intervals=tuple(map(coding.interval_of, self._db.execute(_LOAD_INTERVALS, key).mappings())),
        )

    def save(self, record: Record) -> None:
        run = record.run.id
        saving.save(self._db, self.load(run), record)
        self._records[run] = record

    def remove(self, left: Forgotten) -> None:
        record = self.load(left.run)
        if record is None:
            raise LookupError(f"{left.run} is not on record")
        forgetting.remove(self._db, record, left)
        self._records[left.run] = None

    def recall(self, run: str) -> Forgotten | None:
        return forgetting.recall(self._db, run)

    def sums(self) -> Sums:
        return forgetting.sums(self._db)

    def run_id(self, name_or_id: str) -> str | None:
        key = {"name": name_or_id}
        found: str | None = self._db.execute(_IS_RUN, key).scalar()
        return found if found is not None else self._db.execute(_BY_NAME, key).scalar()

    def beginning(self, start: str, limit: int) -> Sequence[str]:
        key = {"name": start, "end": start + _LAST}
        ids = self._db.execute(_IDS_LIKE.limit(_LIMIT), {**key, "limit": limit}).scalars().all()
        # From name to name: thousands of runs may share one.
        exact: str | None = self._db.execute(_BY_NAME, {"name": start}).scalar()
        newest = [] if exact is None else [exact]
        while len(newest) < limit:
            name = self._db.execute(_NEXT_NAME, key).scalar()
            if name is None:
                break
            newest.append(self._db.execute(_BY_NAME, {"name": name}).scalar_one())
            key["name"] = name
        return [*ids, *newest]

    def run_of_agent(self, agent: str) -> str | None:
        found: str | None = self._db.execute(_OF_AGENT, {"of_agent": agent}).scalar()
        return found

    def runs(self, *, limit: int, project: str | None = None, only_open: bool = False) -> Sequence[Run]:
        query = select(runs).order_by(*_NEWEST_FIRST).limit(_LIMIT)
        if project is not None:
            query = query.where(runs.c.project == project)
        if only_open:
            query = query.where(runs.c.is_open == _YES)
        return [coding.run_of(row) for row in self._db.execute(query, {"limit": limit}).mappings()]

    def busy(self) -> Sequence[str]:
        return self._db.execute(_BUSY).scalars().all()

    def queue(self, run: str, effects: Iterable[Effect]) -> None:
        # One by one: their order is the order of their numbers.
        for effect in effects:
            self._db.execute(insert(outbox), coding.effect_row(run, effect))

    def outgoing(self, after: int = 0, limit: int = 1000) -> Sequence[Outgoing]:
        rows = self._db.execute(_OUTGOING, {"after": after, "limit": limit}).mappings()
        return [coding.outgoing_of(row) for row in rows]

    def done(self, outgoing: int) -> None:
        self._db.execute(_DONE, {"of_id": outgoing})

    def set_timer(self, run: str, key: str, at: float) -> None:
        self._db.execute(_SET_TIMER, {"run": run, "key": key, "at": at})

    def cancel_timer(self, run: str, key: str) -> None:
        self._db.execute(_CANCEL_TIMER, {"of_run": run, "of_key": key})

    def take_due(self, now: float, limit: int = 1000) -> Sequence[DueTimer]:
        due = [_timer(row) for row in self._db.execute(_DUE, {"now": now, "limit": limit}).mappings()]
        for timer in due:
            self.cancel_timer(timer.run, timer.key)
        return due

    def shift_timers(self, seconds: float) -> None:
        self._db.execute(_SHIFT_TIMERS, {"seconds": seconds})

    def next_timer(self) -> float | None:
        found: float | None = self._db.execute(_NEXT_TIMER).scalar()
        return found

    def tell(self, run: str, item: Tell) -> int:
        number: int = self._db.execute(_TELL, coding.tell_row(run, item)).scalar_one()
        return number

    def told_after(self, number: int, limit: int, run: str | None = None) -> Sequence[Told]:
        return self._told(_TOLD_AFTER, number, limit, run)

    def told_before(self, number: int, limit: int, run: str | None = None) -> Sequence[Told]:
        return self._told(_TOLD_BEFORE, number, limit, run)

    def _told(self, query: Select[Any], number: int, limit: int, run: str | None) -> list[Told]:
        key: dict[str, object] = {"number": number, "limit": limit}
        if run is not None:
            query, key["of_run"] = query.where(_OF_RUN), run
        rows = self._db.execute(query, key).mappings()
        return [
            Told(number=row["id"], run=row["run"], name=row["name"] or "", item=coding.tell_of(row))
            for row in rows
        ]

    def newest_told(self) -> int:
        found: int | None = self._db.execute(_NEWEST_TOLD).scalar()
        return found or 0

    def story(self, run: str, limit: int) -> Sequence[Tell]:
        rows = self._db.execute(_STORY, {"of_run": run, "limit": limit}).mappings().all()
        return [coding.tell_of(row) for row in reversed(rows)]

    def save_beats(self, beats: Iterable[Beat]) -> None:
        rows = [coding.beat_row(beat) for beat in beats]
        if rows:
            self._db.execute(_SAVE_BEATS, rows)

    def beats(self, agents: Iterable[str]) -> Sequence[Beat]:
        # One by one: whoever asks, asks for few, and there is no limit to how many there may be.
        found = (self._db.execute(_BEAT, {"of_agent": agent}).mappings().first() for agent in agents)
        return [coding.beat_of(row) for row in found if row is not None]


def _timer(row: RowMapping) -> DueTimer:
    return DueTimer(run=row["run"], key=row["key"], at=row["at"])
