"""What the controller does not do because it does not know enough, and what it does not wait for for ever."""

from __future__ import annotations

import msgspec

from runctl_controller.core import effects, inputs
from runctl_controller.core.decide import decide
from runctl_controller.core.reasons import wait_before
from runctl_controller.core.tables import AttemptState, MachineState, RunState
from runctl_controller.providers.port import EndCause
from runctl_controller.providers.port import MachineState as Provided
from runctl_shared.messages import commands, events, requests
from runctl_testing.records import change_machine
from runctl_testing.sim.decisions import (
    NOTICE,
    REGISTERED,
    STARTED,
    WORLD,
    Controller,
    committed,
    ended,
    sent,
    wanted,
)


def _unheard_for_a_lease() -> Controller:
    c = Controller()
    c.train()
    c.hear(1, committed(10))
    c.give(inputs.WentSilent(at=c.at, agent=c.agent(1), heard_at=c.at))
    c.at += WORLD.lease + 5.0
    assert wanted(c.seen(1, Provided.RUNNING), effects.ReadCommits)
    return c


def test_an_unheard_agent_that_goes_on_committing_is_left_alone() -> None:
    c = _unheard_for_a_lease()
    decision = c.give(inputs.CommitsRead(at=c.at, attempt=1, newest="z: a newer one"))
    assert not wanted(decision, effects.Terminate)
    # From here on another whole lease must pass.
    c.at += WORLD.lease - 5.0
    assert not wanted(c.seen(1, Provided.RUNNING), effects.ReadCommits)


def test_a_checkpoint_that_is_gone_is_no_sign_of_life() -> None:
    """Fewer in the store than the agent had told of: that nobody has stored one since is all that it says."""
    c = _unheard_for_a_lease()
    assert wanted(c.give(inputs.CommitsRead(at=c.at, attempt=1, newest=None)), effects.Terminate)


def test_a_store_that_cannot_be_read_is_no_reason_to_end_a_machine() -> None:
    c = _unheard_for_a_lease()
    decision = c.give(inputs.CommitsRead(at=c.at, attempt=1, error="no answer"))
    assert not wanted(decision, effects.Terminate)
    assert wanted(decision, effects.SetTimer)


def test_an_agent_that_is_heard_while_the_store_is_read_is_left_alone() -> None:
    c = _unheard_for_a_lease()
    c.give(inputs.HeardAgain(at=c.at, agent=c.agent(1)))
    assert not wanted(c.give(inputs.CommitsRead(at=c.at, attempt=1, newest="m")), effects.Terminate)


def test_after_a_sleep_of_ours_silence_counts_anew() -> None:
    c = Controller()
    c.train()
    c.give(inputs.WentSilent(at=c.at, agent=c.agent(1), heard_at=c.at))
    c.at += 10 * WORLD.lease
    c.give(inputs.Woke(at=c.at))
    assert not wanted(c.seen(1, Provided.RUNNING), effects.ReadCommits)


def test_a_machine_whose_agent_never_registers_is_ended_and_counts_as_not_booted() -> None:
    c = Controller()
    said, began = c.launched(1), c.at
    while not wanted(said, effects.Terminate):
        (look,) = (t.at for t in wanted(said, effects.SetTimer) if t.key == "look:agent-test-1")
        assert look < began + 3 * WORLD.boot_limit
        c.at = look
        said = c.seen(1, Provided.RUNNING)
    assert c.at > began + 2 * WORLD.boot_limit
    c.seen(1, Provided.TERMINATED, cause=EndCause.ASKED, ended_at=c.at)
    c.give(inputs.EndRead(at=c.at, attempt=1))
    assert c.attempt(1).reason == "boot_failed"


def test_a_boot_is_not_judged_by_two_clocks_nor_by_one_that_jumps() -> None:
    """A controller whose clock is half an hour ahead of its provider's ends every machine while it boots."""
    c = Controller()
    c.launched(1)
    c.at += 1800.0
    assert not wanted(c.seen(1, Provided.RUNNING), effects.Terminate)
    c.give(inputs.Woke(at=c.at))
    assert not wanted(c.seen(1, Provided.PENDING, launched_at=c.at - 3600.0), effects.Terminate)
    assert c.attempt(1).open


def test_a_lost_final_record_is_waited_for_longer_and_longer_and_not_for_ever() -> None:
    c = Controller()
    c.train()
    c.seen(1, Provided.TERMINATED, cause=EndCause.INTERRUPTED, ended_at=c.at)
    waits = []
    while c.attempt(1).open:
        decision = c.give(inputs.EndRead(at=c.at, attempt=1, error="no answer"))
        waits += [t.at - c.at for t in wanted(decision, effects.SetTimer) if t.key == "end-record:1"]
        assert len(waits) < 100
    assert waits == [wait_before(n) for n in range(1, len(waits) + 1)]
    assert c.attempt(1).reason == "interrupted"


def test_the_same_trouble_with_the_store_is_told_once() -> None:
    c = Controller()
    c.train()
    c.seen(1, Provided.TERMINATED, cause=EndCause.INTERRUPTED, ended_at=c.at)
    told = []
    for _ in range(3):
        decision = c.give(inputs.EndRead(at=c.at, attempt=1, error="no answer"))
        told += [t for t in wanted(decision, effects.Tell) if t.kind == "store"]
    assert len(told) == 1


def test_a_cancelled_run_does_not_wait_for_a_store_that_is_gone() -> None:
    c = Controller()
    c.train()
    c.request(requests.CancelRun(run="test", force=True))
    c.seen(1, Provided.TERMINATED, cause=EndCause.ASKED, ended_at=c.at)
    c.give(inputs.EndRead(at=c.at, attempt=1, error="no such folder"))
    assert c.state() is RunState.CANCELLED


def test_the_word_to_stop_is_said_again_until_it_is_obeyed() -> None:
    c = Controller()
    c.train()
    c.request(requests.CancelRun(run="test", force=True))
    for again in (c.timer("lease:agent-test-1"), c.give(inputs.Woke(at=c.at))):
        (stop,) = [e.body for e in wanted(again, effects.SendCommand)]
        assert isinstance(stop, commands.StopTraining)
        assert not stop.save
    c.hear(1, ended("stopped"))
    assert sent(c.timer("lease:agent-test-1")) == []


def test_stop_does_not_call_off_a_cancel() -> None:
    c = Controller()
    c.train()
    c.request(requests.CancelRun(run="test", force=True))
    c.request(requests.StopRun(run="test"))
    c.hear(1, ended("stopped"))
    assert c.state() is RunState.CANCELLED


def test_the_hard_end_of_a_machine_is_not_the_end_of_a_run_without_a_limit() -> None:
    c = Controller()
    c.train()
    c.hear(1, ended("time_limit"))
    assert c.state() is RunState.PROVISIONING
    limited = Controller(max_seconds=3600.0)
    limited.train()
    limited.hear(1, ended("time_limit"))
    assert limited.state() is RunState.PAUSED


def test_the_ledger_counts_by_when_things_happened_whatever_clock_the_agent_has() -> None:
    c = Controller()
    c.launched(1)
    skew = -500.0  # the agent's clock is behind ours

    def hear(
        body: events.Registered | events.Staged | events.TrainingStarted, happened: float, at: float
    ) -> None:
        number = c.attempt(1).events_through + 1
        given = inputs.Heard(at=at, agent=c.agent(1), sequence=number, body=body, sent=happened + skew)
        c.record = decide(c.record, given, WORLD).record

    hear(REGISTERED, 1010.0, 1010.0)
    # The broker was away for an hour: both come at once, and happened ten seconds apart.
    hear(events.Staged(), 1020.0, 4620.0)
    hear(STARTED, 1030.0, 4620.0)
    uses = [(i.use, i.start, i.end) for i in c.record.intervals]
    assert ("staging", 1010.0, 1020.0) in uses
    assert c.attempt(1).started_at == 1030.0
    assert uses[-1] == ("training", 1030.0, None)


def test_an_older_agent_is_not_sent_what_it_does_not_know() -> None:
    c = Controller()
    c.launched(1)
    old = msgspec.structs.replace(REGISTERED, capabilities=("StartTraining", "StopTraining"))
    decision = c.hear(1, old, events.Staged())
    assert sent(decision) == [commands.StartTraining]
    assert commands.RenewLease not in sent(c.timer("lease:agent-test-1"))
    assert c.attempt(1).state is AttemptState.STARTING
    assert c.machine(1).state is MachineState.RUNNING


def test_a_machine_is_looked_at_for_as_long_as_it_takes() -> None:
    """After a day and a half of looks the next one could not be reckoned, and there were no more."""
    c = Controller()
    c.train()
    c.give(inputs.WentSilent(at=c.at, agent=c.agent(1), heard_at=c.at))
    c.record = change_machine(c.record, 1, looks=5000)
    look = [e for e in wanted(c.seen(1, Provided.RUNNING), effects.SetTimer) if e.key.startswith("look:")]
    assert c.at < look[0].at <= c.at + WORLD.lease


def test_a_machine_is_not_left_to_a_provider_that_takes_it_next_year() -> None:
    """An agent that names such a time, and has its machine paid for until then."""
    for deadline, left in ((120.0, True), (3e7, False)):
        c = Controller()
        c.train()
        c.hear(1, msgspec.structs.replace(NOTICE, deadline=deadline))
        assert bool(wanted(c.hear(1, ended("interrupted")), effects.Terminate)) is not left
