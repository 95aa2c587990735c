"""A run whose record was lost: what its checkpoint store tells of it, and how it is taken over. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from runctl_controller.core.keeping import ended_unknown
from runctl_controller.core.lifecycle import RUN_STATE_OF
from runctl_controller.core.model import Attempt, Interval, Machine, Record, Run, Wanted
from runctl_controller.core.tables import OPEN_RUN, AttemptState, MachineState, RunState
from runctl_controller.providers.port import LaunchOrder, Offer, Sighting
from runctl_shared.checkpoints.manifest import Claim, NameParts
from runctl_shared.ids import agent_id
from runctl_shared.messages.events import AttemptEnded
from runctl_shared.spec import RunSpec
from runctl_shared.units import format_duration

NEVER_TOLD = 1_000_000
"""Added to the number of commands: how many were sent since the record was kept is not known, and the id of
one must never come twice."""
_BEFORE_TRAINING = (
    AttemptState.LAUNCHING,
    AttemptState.BOOTING,
    AttemptState.STAGING,
    AttemptState.READY,
    AttemptState.STARTING,
)
FRESH = 900.0
"""Seconds for which a sign of life counts: the lease of a machine, as nobody can tell from here that it is
another one there."""
_IMPORTED = "imported; no machine of it is known to train"


class Traces(msgspec.Struct, frozen=True, kw_only=True):
    """What agents left in the run's store: claims and final records by attempt, names of manifests."""

    claims: Mapping[int, Claim] = {}
    ends: Mapping[int, AttemptEnded] = {}
    manifests: Sequence[NameParts] = ()

    @property
    def attempts(self) -> list[int]:
        """The numbers of those that left anything, in order."""
        return sorted({*self.claims, *self.ends, *(parts.attempt for parts in self.manifests)} - {0})


class Living(msgspec.Struct, frozen=True, kw_only=True):
    """A machine that a provider lists now, and what such a machine is offered for."""

    sighting: Sighting
    offer: Offer


# -- from what agents left ----------------------------------------------------------------------


def rebuilt(spec: RunSpec, traces: Traces) -> Record:
    """The run from what its agents left alone: without machines and ledger. An attempt that left no final
    record is open if no later one has claimed the run: it may be training."""
    attempts = tuple(_attempt(spec, number, traces) for number in traces.attempts)
    last = attempts[-1] if attempts else None
    run = Run(spec=spec, newest=last.number if last else 0, created_at=max(0.0, spec.created_at))
    changes = {"state": RunState.PAUSED, "wanted": Wanted.PAUSE, "why": _IMPORTED}
    if last is not None and last.open:
        changes = {"state": RunState.TRAINING}
    elif last is not None and last.reason == "succeeded":
        changes = {"state": RunState.SUCCEEDED}
    elif last is not None and last.reason in ("user_error", "out_of_memory"):
        changes = {"state": RunState.FAILED, "why": last.detail or _IMPORTED}
    run = msgspec.structs.replace(run, exit_code=last.exit_code if last else None, **changes)
    return Record(run=run, attempts=attempts)


def _attempt(spec: RunSpec, number: int, traces: Traces) -> Attempt:
    claim, end = traces.claims.get(number), traces.ends.get(number)
    own = [parts for parts in traces.manifests if parts.attempt == number]
    newest = max(own, default=None)
    began = None if claim is None else claim.claimed_at
    attempt = Attempt(
        number=number,
        agent=agent_id(spec.run, number),
        permitted=claim is not None,
        state=AttemptState.TRAINING,
        started_at=began,
        created_at=began or 0.0,
        resumed_from=None if claim is None else claim.parent,
        saved_step=None if newest is None else newest.step,
        newest=None if newest is None else newest.name,
        commits=len(own),
    )
    if end is None:
        later = any(other > number for other in traces.claims)
        return ended_unknown(attempt, None) if later or claim is None else attempt
    return msgspec.structs.replace(
        attempt,
        state=AttemptState.ENDED,
        reason=end.reason,
        detail=end.detail,
        exit_code=end.exit_code,
        signal=end.signal,
        last_step=end.last_step,
        saved_step=attempt.saved_step if end.saved_step is None else end.saved_step,
        lost_seconds=end.lost_seconds,
        lost_steps=end.lost_steps,
    )


# -- taking it over -----------------------------------------------------------------------------


def unfinished(record: Record) -> bool:
    """Whether somebody may still be looking after it."""
    return record.busy or record.run.state in OPEN_RUN


class Sign(msgspec.Struct, frozen=True, kw_only=True):
    """Something that was done to the run in its store: `what`, in words, and when (UTC seconds)."""

    what: str
    at: float


def sign_of_life(signs: Sequence[Sign], at: float) -> str:
    """Why somebody seems to look after an unfinished run at `at`, and until when that counts; "" when nothing
    is fresh. A moment in the future is as fresh as can be: clocks differ, and what is unknown is not safe."""
    newest = max(signs, key=lambda sign: sign.at, default=None)
    age = 0.0 if newest is None else max(0.0, at - newest.at)
    if newest is None or age >= FRESH:
        return ""
    left = format_duration(FRESH - age)
    return f"{newest.what} {age:.0f} s ago: its controller seems to live (without another sign, {left} more)"


def taken_over(record: Record, traces: Traces, living: Sequence[Living], at: float) -> Record:
    """The record of an unfinished run, as whoever looks after it from now on may believe it.

    A living machine is adopted with its attempt, and goes on. One that is not listed is asked about like any
    other: not to be listed is no proof. Without a living machine nothing is started by itself: a person
    resumes.
    """
    record = _with_later(record, traces)
    ours = {each.sighting.machine: each for each in living}
    known = {machine.id for machine in record.machines}
    strangers = {_number(name): each for name, each in ours.items() if name not in known}
    machines = [_machine(machine, ours.get(machine.id)) for machine in record.machines]
    machines += [_adopted(number, each) for number, each in sorted(strangers.items())]
    with_machine = {machine.id for machine in machines}
    attempts = []
    for attempt in _with_strangers(record, strangers):
        newer = _newer(attempt, traces, at)
        attempts.append(newer if newer.agent in with_machine else _without_machine(newer, at))
    new = [interval for n, each in strangers.items() for interval in _intervals(n, each, traces)]
    return Record(
        run=_run(record.run, attempts, set(ours), at),
        attempts=tuple(attempts),
        machines=tuple(machines),
        intervals=(*record.intervals, *new),
    )


def _with_later(record: Record, traces: Traces) -> Record:
    """With the attempts that began after the record was kept: no later one may have the number of one of
    them, nor its claim."""
    later = [_attempt(record.run.spec, n, traces) for n in traces.attempts if n > record.run.newest]
    return msgspec.structs.replace(record, attempts=(*record.attempts, *later))


def _number(machine: str) -> int:
    return int(machine.rsplit("-", 1)[1])


def _with_strangers(record: Record, strangers: Mapping[int, Living]) -> list[Attempt]:
    known = {attempt.number for attempt in record.attempts}
    # Its agent has registered at least: that is event 1, and nobody needs it any more.
    new = [
        Attempt(number=n, agent=each.sighting.machine, state=AttemptState.STAGING, events_through=1)
        for n, each in strangers.items()
        if n not in known
    ]
    return sorted([*record.attempts, *new], key=lambda attempt: attempt.number)


def _newer(attempt: Attempt, traces: Traces, at: float) -> Attempt:
    """What the claims tell that the record does not know yet."""
    if not attempt.open:
        return attempt
    if any(number > attempt.number for number in traces.claims):
        return ended_unknown(attempt, at)  # a later one was permitted: only after this one had ended
    claim = traces.claims.get(attempt.number)
    if claim is not None and claim.agent == attempt.agent:
        trains = attempt.state in _BEFORE_TRAINING
        attempt = msgspec.structs.replace(
            attempt,
            permitted=True,
            state=AttemptState.TRAINING if trains else attempt.state,
            started_at=claim.claimed_at if trains else attempt.started_at,
            resumed_from=claim.parent,
        )
    return msgspec.structs.replace(
        attempt,
        commands=attempt.commands + NEVER_TOLD,
        events_through=max(1, attempt.events_through),
        unheard_since=at,
        lag=None,
        adopted=True,
        gap_at=None,
    )


def _without_machine(attempt: Attempt, at: float) -> Attempt:
    """Nothing can be asked about it; should it live, the next claim cuts it off."""
    return ended_unknown(attempt, at) if attempt.open else attempt


def _machine(machine: Machine, living: Living | None) -> Machine:
    if living is not None and machine.state is not MachineState.TERMINATED:
        seen = living.sighting
        state = MachineState.RUNNING if machine.state is MachineState.LAUNCHING else machine.state
        launched = machine.launched_at if seen.launched_at is None else seen.launched_at
        return msgspec.structs.replace(
            machine, state=state, provider_id=seen.provider_id, launched_at=launched, absent_since=None
        )
    if machine.state is MachineState.LAUNCHING:
        # Whether there is one is not known, and it is not wanted any more.
        return msgspec.structs.replace(machine, state=MachineState.UNCONFIRMED)
    return machine


def _adopted(number: int, living: Living) -> Machine:
    """A machine that is not on record: it was launched after the record was kept."""
    seen = living.sighting
    order = LaunchOrder(
        token=seen.token,
        machine=seen.machine,
        offer=living.offer,
        boot=b"",
        hard_end=0.0,
        boot_limit=0.0,
        tags={},
    )
    return Machine(
        id=seen.machine,
        attempt=number,
        order=order,
        state=MachineState.RUNNING,
        provider_id=seen.provider_id,
        asks=1,
        launched_at=seen.launched_at,
    )


def _intervals(number: int, living: Living, traces: Traces) -> list[Interval]:
    """It is paid for since it was launched, and has trained since it claimed."""
    seen, price = living.sighting, living.offer.price
    if seen.launched_at is None:
        return []
    claim = traces.claims.get(number)
    boot = Interval(machine=seen.machine, attempt=number, use="boot", start=seen.launched_at, price=price)
    if claim is None or claim.claimed_at <= seen.launched_at:
        return [boot]
    trains = msgspec.structs.replace(boot, use="training", start=claim.claimed_at)
    return [msgspec.structs.replace(boot, end=claim.claimed_at), trains]


def _run(run: Run, attempts: Sequence[Attempt], living: set[str], at: float) -> Run:
    newest = max((attempt.number for attempt in attempts), default=0)
    run = msgspec.structs.replace(run, newest=max(run.newest, newest), retry_at=None)
    current = next((attempt for attempt in attempts if attempt.open), None)
    if current is None:
        if run.state not in OPEN_RUN:
            return run
        cancel = run.wanted is Wanted.CANCEL
        return msgspec.structs.replace(
            run,
            state=RunState.CANCELLED if cancel else RunState.PAUSED,
            wanted=run.wanted if cancel else Wanted.PAUSE,
            why=_IMPORTED,
            ended_at=at,
            since=at,
        )
    goes_on = any(attempt.open and attempt.agent in living for attempt in attempts)
    wanted = Wanted.PAUSE if run.wanted is Wanted.TRAIN and not goes_on else run.wanted
    if goes_on and run.state not in OPEN_RUN:  # it had been resumed since its record was kept
        wanted, run = Wanted.TRAIN, msgspec.structs.replace(run, why="")
    state = RUN_STATE_OF[current.state]
    return msgspec.structs.replace(run, state=state, wanted=wanted, ended_at=None, since=at)
