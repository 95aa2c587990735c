"""The record as it lies in the run's checkpoint store, and when to put it there. Pure.

It holds no secret: what a machine is booted with (the bus's URL) stays out of it. What comes out of a store
may be damaged or forged, so it is believed only when it could be one of ours.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import msgspec

from runctl_controller.core.model import Attempt, Interval, Machine, Record
from runctl_controller.core.tables import AttemptState
from runctl_shared.ids import agent_id, is_id
from runctl_shared.spec import RunSpec

USES = frozenset({"boot", "staging", "waiting", "training", "saving", "lost", "idle"})
MOST_ATTEMPTS = 10_000
UNKNOWN_END = "its end is not on record"
_LATEST = 1e12
_GREATEST = 2**53
_ALTERNATING = (AttemptState.TRAINING, AttemptState.SAVING)


class Unsound(Exception):
    """This is no record of ours; the sentence says why."""


class Kept(msgspec.Struct, frozen=True, kw_only=True):
    """`installation`: whose record it is; `at`: when it was put there (UTC seconds); `record`: all of it but
    the run's spec, which lies beside it."""

    version: int = 1
    installation: str
    at: float
    record: dict[str, Any]


def keep(record: Record, installation: str, at: float) -> bytes:
    machines = tuple(_without_boot(machine) for machine in record.machines)
    plain = msgspec.to_builtins(msgspec.structs.replace(record, machines=machines))
    del plain["run"]["spec"]
    return msgspec.json.encode(Kept(installation=installation, at=at, record=plain))


def _without_boot(machine: Machine) -> Machine:
    return msgspec.structs.replace(machine, order=msgspec.structs.replace(machine.order, boot=b""))


def read(data: bytes, spec: RunSpec) -> tuple[Record, Kept]:
    """The record of the run of `spec`, and as what it was kept. Raises Unsound."""
    try:
        kept = msgspec.json.decode(data, type=Kept)
        plain = kept.record
        plain["run"]["spec"] = msgspec.to_builtins(spec)
        record = msgspec.convert(plain, Record)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, KeyError, TypeError) as error:
        raise Unsound(f"it cannot be read ({str(error)[:200]})") from error
    known = msgspec.to_builtins(record)
    for problem in itertools.chain(_numbers(known), _attempts(record), _machines(record), _ledger(record)):
        raise Unsound(problem)
    if not is_id(kept.installation):
        raise Unsound("it names no installation")
    return record, kept


def changed(old: Record, new: Record) -> bool:
    """Whether a store that has `old` should have `new`: anything of it was begun, or is over. Not for each
    save of a training, nor for what is only counted on."""
    return old is not new and _milestones(old) != _milestones(new)


def _milestones(record: Record) -> object:
    run = record.run
    attempts = [(a.number, a.permitted, _coarse(a.state)) for a in record.attempts]
    machines = [(m.id, m.state, m.provider_id) for m in record.machines]
    # The state of an open run follows from its attempts.
    return run.wanted, run.why, run.ended_at, attempts, machines


def _coarse(state: AttemptState) -> AttemptState:
    return AttemptState.TRAINING if state in _ALTERNATING else state


def ended_unknown(attempt: Attempt, at: float | None) -> Attempt:
    """The attempt, over in a way that is not on record."""
    return msgspec.structs.replace(
        attempt, state=AttemptState.ENDED, reason="lost", detail=UNKNOWN_END, ended_at=at
    )


# -- whether it could be one of ours ------------------------------------------------------------


def _numbers(value: object) -> Iterator[str]:
    """What is beyond every clock, counter and database."""
    if isinstance(value, dict):
        for item in value.values():
            yield from _numbers(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _numbers(item)
    elif isinstance(value, float) and not abs(value) <= _LATEST:
        yield "a moment of it is beyond all time"
    elif isinstance(value, int) and abs(value) > _GREATEST:
        yield "a number of it is beyond all counting"


def _attempts(record: Record) -> Iterator[str]:
    run, attempts = record.run, record.attempts
    if len(attempts) > MOST_ATTEMPTS:
        yield f"it has more than {MOST_ATTEMPTS} attempts"
    numbers = [a.number for a in attempts]
    if numbers != sorted(set(numbers)) or [0, *numbers][-1] != run.newest or [1, *numbers][-1] > 99_999:
        yield "its attempts are not in order"
    for attempt in attempts:
        if attempt.number < 1 or attempt.agent != agent_id(run.id, attempt.number):
            yield f"attempt {attempt.number} has another run's agent"
        if min(attempt.events_through, attempt.commands, attempt.commits) < 0:
            yield f"attempt {attempt.number} counts wrong"
    if sum(a.permitted and a.open for a in attempts) > 1:
        yield "two attempts of it may train"


def _machines(record: Record) -> Iterator[str]:
    numbers = {a.number: a.agent for a in record.attempts}
    if len({m.id for m in record.machines}) != len(record.machines):
        yield "two machines of it are one"
    for machine in record.machines:
        order = machine.order
        installation, _, named = order.token.partition(".")
        if numbers.get(machine.attempt) != machine.id or order.machine != machine.id:
            yield f"the machine {machine.id[:100]!r} is not its own"
        if order.offer.provider != record.run.spec.provider:
            yield f"the machine {machine.id[:100]!r} is of another provider"
        if not is_id(installation) or named != machine.id:
            yield f"the token of {machine.id[:100]!r} is not its own"


def _ledger(record: Record) -> Iterator[str]:
    attempt_of = {m.id: m.attempt for m in record.machines}
    by_machine: dict[str, list[Interval]] = {}
    for interval in record.intervals:
        if attempt_of.get(interval.machine) != interval.attempt or interval.use not in USES:
            yield "its ledger tells of something else"
        if interval.price < 0 or (interval.end is not None and interval.end < interval.start):
            yield "its ledger counts backwards"
        by_machine.setdefault(interval.machine, []).append(interval)
    for own in by_machine.values():
        own.sort(key=lambda each: each.start)
        if any(a.end is None or a.end > b.start for a, b in itertools.pairwise(own)):
            yield "its ledger counts a machine twice"
