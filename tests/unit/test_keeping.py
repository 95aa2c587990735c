"""The record as it lies in a checkpoint store: whole, without secrets, and not believed when it is forged."""

from __future__ import annotations

import inspect
import json
import random
import re
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import msgspec
import pytest

from runctl_controller.core import keeping, taking
from runctl_controller.core.decide import decide
from runctl_controller.core.effects import Deposit, Effect, ReadEnd, SendCommand
from runctl_controller.core.inputs import Heard, Imported, Input, Requested, World
from runctl_controller.core.keeping import Unsound, keep, read
from runctl_controller.core.model import Record, Wanted
from runctl_controller.core.tables import AttemptState, MachineState, RunState
from runctl_controller.core.taking import Living, Traces, rebuilt, taken_over
from runctl_controller.providers.port import MachineState as Provided
from runctl_controller.providers.port import Sighting
from runctl_shared.checkpoints.manifest import Claim, parse_name
from runctl_shared.messages import events
from runctl_shared.messages.commands import AcknowledgeEvents, ResendEvents
from runctl_shared.messages.requests import StopRun
from runctl_testing.records import OFFER, change_attempt, change_machine, change_run, new_run, with_attempt

RUN, OWNER = "run-a1b2", "inst-0001"
AGENT = "agent-a1b2-{}".format
WORLD = World(installation="inst-0002", bus="sqlite:///bus", offers=(OFFER,))


def record(*states: AttemptState, **run: Any) -> Record:
    """A run with attempts in these states, the machines of ended ones gone."""
    made = new_run(RUN, 1.0, state=RunState.TRAINING, **run)
    for number, state in enumerate(states, 1):
        over = state is AttemptState.ENDED
        uses = [("boot", 1.0, 2.0), ("training", 2.0, 9.5 if over else None)]
        made = with_attempt(
            made, *uses, state=state, reason="lost" if over else None, permitted=True, events_through=3
        )
        machine = MachineState.TERMINATED if over else MachineState.RUNNING
        made = change_machine(made, number, state=machine, provider_id=f"p-{number}", launched_at=1.0)
        order = msgspec.structs.replace(made.machines[-1].order, token=f"{OWNER}.{AGENT(number)}")
        made = change_machine(made, number, order=order)
    return made


WHOLE = record(AttemptState.ENDED, AttemptState.TRAINING, restarts=2, why="müde")
SPEC = WHOLE.run.spec


def test_what_is_kept_is_read_and_holds_no_way_to_the_bus() -> None:
    """A password in a store that others read; a field that is lost on the way."""
    secret = b"amqps://user:hunter2@broker/"
    order = msgspec.structs.replace(WHOLE.machines[0].order, boot=secret)
    data = keep(change_machine(WHOLE, 1, order=order), OWNER, 5.0)
    assert b"hunter2" not in data
    assert b"aHVudGVy" not in data
    found, kept = read(data, SPEC)
    bare = tuple(
        msgspec.structs.replace(m, order=msgspec.structs.replace(m.order, boot=b"")) for m in WHOLE.machines
    )
    assert found == msgspec.structs.replace(WHOLE, machines=bare)
    assert kept.installation == OWNER


def _set(*path: Any, to: Any) -> Callable[[dict[str, Any]], None]:
    def change(document: dict[str, Any]) -> None:
        place: Any = document["record"]
        for step in path[:-1]:
            place = place[step]
        place[path[-1]] = to

    return change


HOSTILE: dict[str, Callable[[dict[str, Any]], None]] = {
    "another run's agent": _set("attempts", 0, "agent", to="agent-z9z9-1"),
    "attempts out of order": _set("attempts", 0, "number", to=2),
    "no such attempt": _set("run", "newest", to=7),
    "beyond all numbers": _set("attempts", 1, "number", to=10**30),
    "a negative count": _set("attempts", 0, "commands", to=-5),
    "a state that there is not": _set("run", "state", to="winning"),
    "two that train": _set("attempts", 0, "state", to="training"),
    "another run's machine": _set("machines", 0, "id", to="agent-z9z9-1"),
    "another machine's token": _set("machines", 0, "order", "token", to=f"{OWNER}.agent-z9z9-1"),
    "a token with a path": _set("machines", 0, "order", "token", to=f"../../x.{AGENT(1)}"),
    "a machine of a provider that there is not": _set("machines", 0, "order", "offer", "provider", to="x"),
    "one machine twice": lambda d: d["record"]["machines"].append(d["record"]["machines"][0]),
    "a negative price": _set("intervals", 0, "price", to=-1.0),
    "backwards": _set("intervals", 0, "end", to=0.5),
    "a machine paid for twice": _set("intervals", 1, "start", to=1.5),
    "an unknown use": _set("intervals", 0, "use", to="\x1b[2J"),
    "beyond all time": _set("intervals", 0, "start", to=-1e300),
    "no run": lambda d: d["record"].pop("run"),
    "a list": lambda d: d.update(record=[]),
    "nobody's": lambda d: d.update(installation="../.."),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_what_is_not_ours_is_not_believed(name: str) -> None:
    document = json.loads(keep(WHOLE, OWNER, 5.0))
    HOSTILE[name](document)
    with pytest.raises(Unsound):
        read(json.dumps(document).encode(), SPEC)


def test_what_a_later_version_adds_is_passed_over_however_deep_it_is() -> None:
    """One trap in a store that keeps all other runs from coming back. (From Python 3.12 on, more can be
    decoded than can be walked through.)"""
    data = keep(WHOLE, OWNER, 5.0)
    for depth in range(sys.getrecursionlimit()):
        deep = b'"later":' + b"[" * depth + b"]" * depth + b',"attempts":'
        with suppress(Unsound):
            assert read(data.replace(b'"attempts":', deep), SPEC)[0] == read(data, SPEC)[0]


def test_whatever_bytes_lie_there_nothing_else_is_raised() -> None:
    """A damaged record that ends the import of all others."""
    dice = random.Random(3)
    good = keep(WHOLE, OWNER, 5.0)
    for _ in range(3000):
        data = bytearray(good)
        for _ in range(dice.choice((1, 1, 2, 8))):
            at = dice.randrange(len(data))
            data[at : at + dice.choice((0, 1, 1, 5))] = bytes(
                dice.randrange(256) for _ in range(dice.choice((0, 1, 3)))
            )
        try:
            read(bytes(data), SPEC)
        except Unsound:
            continue
    for odd in (
        b"",
        b"[]",
        b"{}",
        b"[" * 100_000,
        b"\xff\xfe",
        b'{"installation":"inst-0001","at":1,"record":{}}',
    ):
        with pytest.raises(Unsound):
            read(odd, SPEC)


# -- when it is put there -------------------------------------------------------------------------


def effects(before: Record, given: Input) -> tuple[Effect, ...]:
    return decide(before, given, WORLD).effects


def heard(body: Any, sequence: int = 4, agent: str = AGENT(2)) -> Heard:
    return Heard(at=20.0, agent=agent, sequence=sequence, body=body)


def test_the_store_has_the_record_whenever_something_began_or_ended() -> None:
    assert Deposit() in effects(WHOLE, Requested(at=20.0, actor="me", body=StopRun(run=RUN)))
    assert Deposit() in effects(WHOLE, heard(events.AttemptEnded(reason="user_error")))
    saved = events.CheckpointCommitted(
        manifest="m", step=1, epoch=None, size=1, files=1, format="f", trigger="periodic", upload_seconds=1.0,
        written_at=1.0,
    )  # fmt: skip
    asked = events.SaveAsked(cause="request", signal="SIGTERM", pids=(1,), seconds_after_cause=0.0)
    for body in (saved, asked, events.FirstStepSeen(step=1, restored_step=None, seconds=1.0)):
        assert Deposit() not in effects(WHOLE, heard(body))


# -- from traces alone ----------------------------------------------------------------------------


def claim(number: int, parent: str | None = None) -> Claim:
    return Claim(run=RUN, attempt=number, agent=AGENT(number), parent=parent, claimed_at=number * 100.0)


def ended(reason: Any, **fields: Any) -> events.AttemptEnded:
    return events.AttemptEnded(reason=reason, **fields)


M1, M2 = (f"manifests/00001-00000{n}-00000000000{n}-ck-a{n}.json" for n in (1, 2))
NAMES = tuple(parts for name in (M1, M2) if (parts := parse_name(name)) is not None)


@pytest.mark.parametrize(
    ("end", "state", "wanted"),
    [
        (ended("succeeded", exit_code=0), RunState.SUCCEEDED, Wanted.TRAIN),
        (ended("user_error", exit_code=7), RunState.FAILED, Wanted.TRAIN),
        (ended("interrupted"), RunState.PAUSED, Wanted.PAUSE),
        (None, RunState.TRAINING, Wanted.TRAIN),
    ],
)
def test_without_a_record_the_agents_traces_tell(end: Any, state: RunState, wanted: Wanted) -> None:
    ends = {2: end} if end is not None else {}
    found = rebuilt(SPEC, Traces(claims={1: claim(1), 2: claim(2, M2)}, ends=ends, manifests=NAMES))
    assert (found.run.state, found.run.wanted, found.run.newest) == (state, wanted, 2)
    first, second = found.attempts
    # A later claim is proof that the first one had ended.
    assert (first.state, first.reason, first.saved_step, first.commits) == (AttemptState.ENDED, "lost", 2, 2)
    assert second.resumed_from == M2
    assert second.open == (end is None)
    assert taking.unfinished(found) == (end is None)


def test_a_run_that_never_began() -> None:
    found = rebuilt(SPEC, Traces())
    assert (found.run.state, found.attempts) == (RunState.PAUSED, ())


# -- taking over ----------------------------------------------------------------------------------


def living(number: int) -> Living:
    sighting = Sighting(
        token=f"{OWNER}.{AGENT(number)}", machine=AGENT(number), provider_id="p-9", state=Provided.RUNNING,
        launched_at=50.0,
    )  # fmt: skip
    return Living(sighting=sighting, offer=OFFER)


def test_a_living_machine_goes_on_with_its_attempt() -> None:
    taken = taken_over(WHOLE, Traces(claims={1: claim(1), 2: claim(2)}), [living(2)], 1000.0)
    assert (taken.run.state, taken.run.wanted) == (RunState.TRAINING, Wanted.TRAIN)
    second = taken.attempts[1]
    assert (second.open, second.permitted, second.adopted) == (True, True, True)
    assert second.commands >= taking.NEVER_TOLD
    assert taken.machines[1].launched_at == 50.0


def test_a_machine_that_was_resumed_after_the_record_was_kept_goes_on() -> None:
    """An adopted training that is asked to end because its record is of the time when it was paused."""
    before = change_run(record(AttemptState.ENDED), state=RunState.PAUSED, wanted=Wanted.PAUSE, why="by you")
    taken = taken_over(before, Traces(claims={2: claim(2)}), [living(2)], 100.0)
    assert (taken.run.state, taken.run.wanted, taken.run.why) == (RunState.TRAINING, Wanted.TRAIN, "")
    assert [(a.number, a.open) for a in taken.attempts] == [(1, False), (2, True)]
    assert [(m.id, m.state) for m in taken.machines][1:] == [(AGENT(2), MachineState.RUNNING)]


def test_without_a_living_machine_nothing_starts_by_itself() -> None:
    """A store that was made by somebody else must not make this computer run his command."""
    taken = taken_over(WHOLE, Traces(claims={2: claim(2)}), [], 1000.0)
    assert taken.run.wanted is Wanted.PAUSE
    decision = decide(taken, Imported(at=1000.0, actor="user:me", url="file:///x"), WORLD)
    gone = change_machine(decision.record, 2, state=MachineState.TERMINATED)
    over = decide(gone, heard(ended("interrupted")), WORLD)
    assert over.record.run.state is RunState.PAUSED
    assert len(over.record.attempts) == 2


def test_what_was_waited_for_is_not_waited_for_any_more() -> None:
    waiting = change_run(record(AttemptState.ENDED), state=RunState.RECOVERING, retry_at=2000.0)
    taken = taken_over(waiting, Traces(), [], 1000.0)
    assert (taken.run.state, taken.run.wanted, taken.run.retry_at) == (RunState.PAUSED, Wanted.PAUSE, None)


def test_a_claim_tells_more_than_a_record_that_is_older() -> None:
    """The permission was given after the record was kept: to give it again would be to train twice."""
    older = change_attempt(WHOLE, 2, state=AttemptState.STAGING, permitted=False)
    taken = taken_over(older, Traces(claims={2: claim(2)}), [living(2)], 1000.0)
    second = taken.attempts[1]
    assert (second.state, second.permitted, second.started_at) == (AttemptState.TRAINING, True, 200.0)
    # And a claim of attempt 3, which is not on record, ends attempt 2.
    taken = taken_over(older, Traces(claims={2: claim(2), 3: claim(3)}), [living(3)], 1000.0)
    assert [(a.number, a.open) for a in taken.attempts] == [(1, False), (2, False), (3, True)]
    assert taken.run.newest == 3
    assert taken.machines[2].provider_id == "p-9"
    assert [(i.use, i.start, i.end) for i in taken.intervals[-2:]] == [
        ("boot", 50.0, 300.0),
        ("training", 300.0, None),
    ]


def test_a_machine_that_may_never_have_been_is_looked_for_and_not_wanted() -> None:
    asked = change_machine(
        change_attempt(WHOLE, 2, state=AttemptState.LAUNCHING), 2, state=MachineState.LAUNCHING
    )
    taken = taken_over(asked, Traces(), [], 1000.0)
    assert taken.machines[1].state is MachineState.UNCONFIRMED


def test_an_attempt_whose_machine_is_gone_is_ended_by_its_last_record() -> None:
    """Nobody else would ever ask for it: the timer was lost with the state."""
    gone = change_machine(WHOLE, 2, state=MachineState.TERMINATED)
    taken = taken_over(gone, Traces(claims={2: claim(2)}), [], 1000.0)
    given = Imported(at=1000.0, actor="user:me", url="file:///x")
    assert ReadEnd(attempt=2) in effects(taken, given)


def test_events_that_nobody_has_any_more_do_not_block_those_that_follow() -> None:
    """An adopted agent was told to forget events 4 to 8; it has 9 and later, and 11 comes first."""
    taken = taken_over(WHOLE, Traces(claims={2: claim(2)}), [living(2)], 1000.0)
    decision = decide(taken, Imported(at=1000.0, actor="user:me", url="file:///x"), WORLD)
    asked = [e.body for e in decision.effects if isinstance(e, SendCommand)]
    assert ResendEvents(after=3) in asked
    step = events.FirstStepSeen(step=1, restored_step=None, seconds=1.0)
    now = decide(decision.record, heard(step, 11), WORLD)
    assert now.answer == ResendEvents(after=3)
    now = decide(now.record, heard(step, 12), WORLD)
    assert now.answer == ResendEvents(after=3)
    now = decide(now.record, heard(events.AttemptEnded(reason="succeeded"), 9), WORLD)
    assert now.answer == AcknowledgeEvents(through=9)
    assert now.record.run.state is RunState.SUCCEEDED
    # And from then on a gap is a gap.
    now = decide(now.record, heard(step, 12), WORLD)
    assert now.answer == ResendEvents(after=9)


def test_of_an_attempt_that_was_not_adopted_a_gap_stays_a_gap() -> None:
    step = events.FirstStepSeen(step=1, restored_step=None, seconds=1.0)
    first = decide(WHOLE, heard(step, 9), WORLD)
    assert decide(first.record, heard(step, 8), WORLD).answer == ResendEvents(after=3)


def test_the_uses_of_the_ledger_are_known() -> None:
    """A use that the ledger knows and an import would call forged."""
    from runctl_controller.core import agents, ledger, lifecycle, machines

    source = "".join(inspect.getsource(module) for module in (agents, ledger, lifecycle, machines))
    used = set(re.findall(r'turn\.use\([^,]+, "(\w+)"', source)) | set(re.findall(r'use="(\w+)"', source))
    assert used == keeping.USES
