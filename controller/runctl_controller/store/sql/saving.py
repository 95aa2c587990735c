"""Writing a record: only what changed since it was loaded, so that an event costs a few rows however long the
history is. What is on record is never removed; but an interval may be, when it turns out to have no length.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

from sqlalchemy import Connection, bindparam, delete, insert, update

from runctl_controller.core.model import Record
from runctl_controller.store.sql import coding
from runctl_controller.store.sql.tables import attempts, intervals, machines, runs

T = TypeVar("T")
# Names of parameters must differ from those of the columns that are set.
_UPDATE_RUN = update(runs).where(runs.c.id == bindparam("of_run"))
_UPDATE_ATTEMPT = update(attempts).where(
    attempts.c.run == bindparam("of_run"), attempts.c.number == bindparam("of_number")
)
_UPDATE_MACHINE = update(machines).where(machines.c.id == bindparam("of_machine"))
_DELETE_INTERVAL = delete(intervals).where(
    intervals.c.run == bindparam("of_run"), intervals.c.position == bindparam("of_position")
)


def save(db: Connection, old: Record | None, new: Record) -> None:
    """Make `new` out of `old`, which is what is stored."""
    _save_run(db, old, new)
    known = old or Record(run=new.run)
    if len(new.attempts) < len(known.attempts) or len(new.machines) < len(known.machines):
        raise ValueError(f"{new.run.id}: an attempt or a machine is missing in what is to be saved")
    _save_attempts(db, known, new)
    _save_machines(db, known, new)
    _save_intervals(db, known, new)


def _save_run(db: Connection, old: Record | None, new: Record) -> None:
    if old is None:
        db.execute(insert(runs), coding.run_row(new))
    elif old.run != new.run or old.busy != new.busy:
        db.execute(_UPDATE_RUN, {"of_run": old.run.id, **_besides(coding.run_row(new), "id")})


def _save_attempts(db: Connection, old: Record, new: Record) -> None:
    for position, attempt in _changed(old.attempts, new.attempts):
        row = coding.attempt_row(new.run.id, attempt)
        if position < len(old.attempts):
            keys = {"of_run": new.run.id, "of_number": old.attempts[position].number}
            db.execute(_UPDATE_ATTEMPT, {**keys, **_besides(row, "run", "number")})
        else:
            db.execute(insert(attempts), row)


def _save_machines(db: Connection, old: Record, new: Record) -> None:
    for position, machine in _changed(old.machines, new.machines):
        row = coding.machine_row(new.run.id, position, machine)
        if position < len(old.machines):
            keys = {"of_machine": old.machines[position].id}
            db.execute(_UPDATE_MACHINE, {**keys, **_besides(row, "id")})
        else:
            db.execute(insert(machines), row)


def _save_intervals(db: Connection, old: Record, new: Record) -> None:
    changed = list(_changed(old.intervals, new.intervals))
    gone = [position for position, _ in changed if position < len(old.intervals)]
    gone += range(len(new.intervals), len(old.intervals))
    # All out before any goes in: on the way a machine must not have two open ones.
    if gone:
        db.execute(_DELETE_INTERVAL, [{"of_run": new.run.id, "of_position": each} for each in gone])
    if changed:
        rows = [coding.interval_row(new.run.id, position, interval) for position, interval in changed]
        db.execute(insert(intervals), rows)


def _besides(row: dict[str, Any], *keys: str) -> dict[str, Any]:
    """The row without these columns. To set a key, even to what it is, has SQLite look through every table
    that refers to it."""
    return {name: value for name, value in row.items() if name not in keys}


def _changed(old: Sequence[T], new: Sequence[T]) -> Iterator[tuple[int, T]]:
    """Items of `new` that differ from those of `old` in the same place. Most are the very same objects."""
    for position, item in enumerate(new):
        if position >= len(old) or (item is not old[position] and item != old[position]):
            yield position, item
