"""Records of made-up runs, for tests of whatever stores or shows them."""

from __future__ import annotations

from typing import Any

import msgspec

from runctl_controller.core.model import Attempt, Interval, Machine, Record, Run
from runctl_controller.core.tables import RunState
from runctl_controller.providers.port import LaunchOrder, Offer
from runctl_shared.spec import RunSpec

OFFER = Offer(provider="local", kind="process", place="here", price=0.25, spot=True, notice=120.0)


def new_run(run: str, at: float = 0.0, *, name: str = "", project: str = "default", **fields: Any) -> Record:
    """A run that was just submitted."""
    spec = RunSpec(
        run=run,
        name=name or run,
        project=project,
        command=("python", "train.py", "--lr=½"),
        workdir="/work",
        env={"SEED": "1"},
        store="file:///checkpoints",
    )
    return Record(run=Run(spec=spec, created_at=at, **fields))


def with_attempt(record: Record, *intervals: tuple[str, float, float | None], **fields: Any) -> Record:
    """The record with one more attempt, on a machine of its own that was used like `intervals` (use, start,
    end)."""
    number = len(record.attempts) + 1
    agent = f"agent-{record.run.id.removeprefix('run-')}-{number}"
    order = LaunchOrder(
        token=f"inst-test.{agent}",
        machine=agent,
        offer=OFFER,
        boot=b'{"boot": "\xff\x00"}',
        secrets=("TOKEN",),
        hard_end=3600.0,
        boot_limit=60.0,
        tags={"runctl:run": record.run.id},
    )
    attempt = Attempt(number=number, agent=agent, **fields)
    machine = Machine(id=agent, attempt=number, order=order)
    new = tuple(
        Interval(machine=agent, attempt=number, use=use, start=start, end=end, price=OFFER.price)
        for use, start, end in intervals
    )
    return msgspec.structs.replace(
        record,
        run=msgspec.structs.replace(record.run, newest=number),
        attempts=(*record.attempts, attempt),
        machines=(*record.machines, machine),
        intervals=(*record.intervals, *new),
    )


def change_run(record: Record, **changes: Any) -> Record:
    return msgspec.structs.replace(record, run=msgspec.structs.replace(record.run, **changes))


def change_attempt(record: Record, number: int, **changes: Any) -> Record:
    attempts = tuple(
        msgspec.structs.replace(a, **changes) if a.number == number else a for a in record.attempts
    )
    return msgspec.structs.replace(record, attempts=attempts)


def change_machine(record: Record, number: int, **changes: Any) -> Record:
    machines = tuple(
        msgspec.structs.replace(m, **changes) if m.attempt == number else m for m in record.machines
    )
    return msgspec.structs.replace(record, machines=machines)


def finished(run: str, at: float = 0.0, **fields: Any) -> Record:
    """A run with nothing left to do."""
    return new_run(run, at, state=RunState.SUCCEEDED, ended_at=at + 1, **fields)
