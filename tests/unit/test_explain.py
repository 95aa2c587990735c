"""Why a run is in its state: every state and every reason has its sentences, and they are true."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from runctl_controller.core.effects import Tell
from runctl_controller.core.model import Cause, Record
from runctl_controller.core.reasons import RULES, Next
from runctl_controller.core.tables import (
    ATTEMPTS,
    MACHINES,
    OPEN_RUN,
    RUNS,
    AttemptState,
    MachineState,
    RunState,
)
from runctl_controller.explain import history, waits
from runctl_controller.explain.said import Part, Said
from runctl_controller.explain.whole import explain
from runctl_controller.service.views import run_detail
from runctl_testing.records import change_attempt, change_machine, change_run, new_run, with_attempt

NOW = 10_000.0


def when(at: float) -> str:
    return f"T{at:.0f}"


def sentences(record: Record, *story: Tell) -> tuple[Said, ...]:
    return explain(run_detail(record, None, story, NOW), NOW, when)


def text(record: Record, *story: Tell, part: Part | None = None) -> str:
    return " ".join(s.text for s in sentences(record, *story) if part in (None, s.part))


def run(state: RunState = RunState.TRAINING, **fields: Any) -> Record:
    return new_run("run-a1b2", 1.0, name="digits", state=state, since=9_000.0, **fields)


def tell(kind: str, at: float, attempt: int = 1, actor: str = "provider", **data: object) -> Tell:
    return Tell(at=at, attempt=attempt, kind=kind, text="t", actor=actor, data=data)


def test_the_tables_have_a_row_for_everything() -> None:
    """A new state or reason without a sentence."""
    assert set(waits.RUN) == set(waits.YOU) == {state.value for state in RUNS.after}
    assert set(waits.ATTEMPT) == {state.value for state in ATTEMPTS.after}
    assert set(waits.MACHINE) == {state.value for state in MACHINES.after}
    assert set(history.EVIDENCE) == set(RULES)
    assert set(history.THEN) == set(Next)
    assert set(history.CAUSES) == {cause.value for cause in Cause}


def _records() -> Iterator[Record]:
    """Every state of a run with every state of its newest attempt and its machine, and every reason."""
    old: dict[str, Any] = {"state": AttemptState.ENDED, "ended_at": 8_000.0, "created_at": 10.0}
    for state, attempt, machine in itertools.product(RUNS.after, ATTEMPTS.after, MACHINES.after):
        for since in (None, 9_500.0):
            record = with_attempt(run(state), reason="lost", **old)
            record = with_attempt(record, state=attempt, since=since, unheard_since=since, noticed_at=since)
            record = change_machine(record, 2, state=machine, since=since, looked_at=since)
            yield with_attempt(record, state=AttemptState.BOOTING)
    for state, reason, cause in itertools.product(RUNS.after, RULES, (None, *Cause)):
        for started in (None, 5_000.0):
            record = with_attempt(run(state), reason=reason, started_at=started, **old)
            yield record
            yield with_attempt(record, state=AttemptState.STAGING, cause=cause, created_at=9_000.0)


def test_whatever_the_record_says_there_is_a_sentence_for_it() -> None:
    """A combination that crashes, says nothing, or says None."""
    count = 0
    for record in _records():
        said = sentences(record)
        assert {s.part for s in said} == set(Part), record.run.state
        for sentence in said:
            assert sentence.text.endswith((".", "?")), sentence
            for wrong in ("None", "  ", "{", "..", "( ", " ,", " ."):
                assert wrong not in sentence.text, sentence
        count += 1
    assert count > 2000


def test_an_interruption_and_who_waits_for_whom() -> None:
    """The replacement stands by: why it was launched, and why it does not train yet."""
    first = {"state": AttemptState.SAVING, "permitted": True, "started_at": 100.0, "created_at": 50.0}
    notice = {"noticed_at": 9_900.0, "deadline_at": 10_020.0, "since": 9_901.0}
    record = with_attempt(run(RunState.SAVING), cause=Cause.SUBMITTED, **first, **notice)
    record = with_attempt(
        record, state=AttemptState.READY, cause=Cause.NOTICE, created_at=9_900.0, since=9_950.0
    )
    record = change_machine(record, 1, state=MachineState.RUNNING, looked_at=9_988.0, launched_at=51.0)
    told = text(record, tell("notice", 9_900.0, deadline=120.0))
    for words in (
        "Attempt 1 was launched at T50 because the run was asked for.",
        "Attempt 2 was launched at T9900 because attempt 1 was interrupted: local's notice at T9900,"
        " for T10020.",
        "Attempt 1 saves since T9901 (for 1m 39s), because of the notice at T9900: its machine goes"
        " at T10020 (in 20s).",
        "Attempt 2 is ready since T9950 (for 50s) and not started yet, because attempt 1 has not ended; its"
        " machine was last asked about 12s ago (running)",
        "once attempt 1 has ended: by its own last record, or by the provider's word",
    ):
        assert words in told


def test_what_resumed_and_what_was_lost_is_said_with_its_proof() -> None:
    fields: dict[str, Any] = {"state": AttemptState.ENDED, "started_at": 100.0, "restored_step": 434}
    record = with_attempt(run(), reason="lost", resumed_from="m", first_step=435, lost_seconds=3.3, **fields)
    record = change_attempt(record, 1, lost_steps=12, saved_step=500, ended_at=900.0)
    record = change_machine(record, 1, state=MachineState.TERMINATED, cause="failed", ended_at=899.0)
    told = text(record, part=Part.HAPPENED)
    assert (
        "from step 434, restored and verified; its first step was 435, which proves that it resumed." in told
    )
    assert "the provider says that the machine is gone at T899 (failed)" in told
    assert "3.3s of work were lost, 12 steps (saved: step 500)." in told
    below = text(change_attempt(record, 1, first_step=1), part=Part.HAPPENED)
    assert "which is below: it did not resume." in below


def test_a_machine_that_is_only_not_listed_is_not_said_to_be_gone() -> None:
    """An imported run whose machine lives on another computer, told as the word of a provider."""
    record = with_attempt(run(), state=AttemptState.ENDED, reason="lost", created_at=50.0)
    record = change_machine(record, 1, state=MachineState.TERMINATED, absent_since=200.0, ended_at=200.0)
    told = text(record, tell("imported", 100.0, attempt=0), part=Part.HAPPENED)
    assert "this computer does not know its machine" in told
    assert "gone" not in told
    assert "does not list the machine any more since T200" in text(record, part=Part.HAPPENED)


@pytest.mark.parametrize("state", [RunState.PAUSED, RunState.STUCK, RunState.FAILED])
def test_no_resume_is_advised_that_would_be_refused(state: RunState) -> None:
    """A run at its time limit, with the advice to resume it as it is."""
    record = with_attempt(
        run(state), ("training", 1.0, 3601.0), state=AttemptState.ENDED, reason="time_limit"
    )
    more = "runctl resume --max-hours HOURS digits"
    assert more not in text(record, part=Part.YOU)
    spec = msgspec.structs.replace(record.run.spec, max_seconds=3600.0)
    told = text(change_run(record, spec=spec), part=Part.YOU)
    assert more in told
    assert "runctl resume digits" not in told


def test_silence_is_not_called_death() -> None:
    record = with_attempt(run(), state=AttemptState.TRAINING, started_at=100.0, unheard_since=9_940.0)
    record = change_machine(record, 1, state=MachineState.RUNNING, looked_at=9_990.0)
    told = text(record, part=Part.NOW)
    assert "has not been heard since T9940 (for 1m 00s)" in told
    assert "Silence is not death" in told
    assert "asked 10s ago: it is running" in told


def test_a_machine_that_is_not_confirmed_gone_is_named_with_what_it_may_cost() -> None:
    record = with_attempt(
        run(RunState.CANCELLED), state=AttemptState.ENDED, reason="stopped", ended_at=9_000.0
    )
    record = change_machine(
        record,
        1,
        state=MachineState.UNCONFIRMED,
        since=9_000.0,
        asks=4,
        looked_at=9_988.0,
        trouble="It throttles.",
    )
    told = text(record)
    assert (
        "was asked to end at T9000 (3 times), and local has not said that it is gone: last asked 12s ago"
        in told
    )
    assert "It throttles. Until then it may cost money." in told


def test_a_wait_says_until_when_and_why() -> None:
    record = with_attempt(
        run(RunState.RECOVERING, retry_at=10_040.0, fruitless=3), state=AttemptState.ENDED, reason="quota"
    )
    told = text(record)
    assert "It waits before attempt 2, because attempt 1 ended: the account's quota is used up" in told
    assert (
        "three times" in told
        or "3 times in a row without progress (after 20 it waits for you instead)" in told
    )
    assert "Attempt 2 begins at T10040 (in 40s)." in told


def test_who_did_it_is_named() -> None:
    ended = {"state": AttemptState.ENDED, "reason": "stopped", "ended_at": 900.0, "started_at": 10.0}
    record = with_attempt(run(RunState.TRAINING), **ended)
    record = with_attempt(record, state=AttemptState.BOOTING, cause=Cause.RESUMED, created_at=1_000.0)
    story = [tell("stop", 890.0, actor="user:jane"), tell("resume", 1_000.0, actor="user:joe")]
    told = text(record, *story)
    assert "ended at T900: stopped (stopped on request); jane asked for it at T890" in told
    assert "Attempt 2 was launched at T1000 because joe wanted it to go on." in told


def test_of_many_attempts_the_newest_are_told() -> None:
    record = run()
    for _ in range(40):
        record = with_attempt(record, state=AttemptState.ENDED, reason="lost", ended_at=5.0)
    told = text(record, part=Part.HAPPENED)
    assert "Attempts 1 to 28 are left out here" in told
    assert "Attempt 40 ended" in told
    assert "Attempt 28 ended" not in told


@pytest.mark.parametrize("state", sorted(RUNS.after))
def test_nobody_is_sent_to_a_command_that_would_be_refused(state: RunState) -> None:
    """Advice that a guard then refuses."""
    told = text(run(state), part=Part.YOU)
    assert ("runctl stop" in told) == (state in OPEN_RUN)
    assert ("runctl resume" in told) == (state in (RunState.PAUSED, RunState.STUCK, RunState.FAILED))


FULL = "last: There is no room left in the checkpoint folder /c: it is full. Make room, or use another."


def failed_to_store(at: float) -> Tell:
    return Tell(at=at, attempt=1, kind="checkpoint_failed", text=FULL, actor="agent", data={})


def test_checkpoints_that_cannot_be_stored_are_told_with_the_mend() -> None:
    """Only "no checkpoint is stored yet", while the store is full and an interruption would lose it all."""
    record = with_attempt(run(), state=AttemptState.TRAINING, started_at=100.0)
    story = (tell("checkpoint", 9_800.0), failed_to_store(9_900.0))
    now = text(record, *story, part=Part.NOW)
    assert "could not be stored at T9900: last: There is no room left in the checkpoint folder /c" in now
    you = text(record, *story, part=Part.YOU)
    assert "Make room, or use another: then the checkpoint is stored by itself" in you
    stored_since = (*story, tell("checkpoint", 9_950.0))
    assert "could not be stored" not in text(record, *stored_since)
    assert "Make room" not in text(record, *stored_since)


def test_work_that_was_lost_because_it_could_not_be_stored_has_that_cause() -> None:
    """An end that only says how much was lost."""
    ended: dict[str, Any] = {"state": AttemptState.ENDED, "reason": "interrupted", "started_at": 100.0}
    record = with_attempt(run(RunState.PAUSED), lost_seconds=3.3, **ended)
    told = text(record, failed_to_store(9_900.0), part=Part.HAPPENED)
    assert "of work were lost; its last checkpoint could not be stored at T9900: last: There is no" in told
    assert "Make room, or use another: else" in text(record, failed_to_store(9_900.0), part=Part.YOU)
    saved = with_attempt(run(RunState.PAUSED), lost_seconds=0.0, **ended)
    assert "could not be stored" not in text(saved, failed_to_store(9_900.0), part=Part.HAPPENED)


def _interrupted() -> Record:
    ended: dict[str, Any] = {"state": AttemptState.ENDED, "reason": "interrupted", "started_at": 100.0}
    record = with_attempt(run(), detail="the provider takes the machine", ended_at=9_910.0, **ended)
    return with_attempt(record, state=AttemptState.STAGING, cause=Cause.NOTICE, created_at=9_900.0)


def _drill(at: float, kind: str, withdraw: bool = False) -> Tell:
    return tell("drill", at, actor="user:root", notice=60.0, notice_kind=kind, withdraw=withdraw)


def test_a_drill_is_told_as_its_users_doing() -> None:
    """What a user did himself is called the provider's doing, or the other way round."""
    notice = tell("notice", 9_900.0, notice_kind="interruption", deadline=60.0)
    told = text(_interrupted(), _drill(9_899.0, "interruption"), notice, part=Part.HAPPENED)
    assert "root had attempt 1 interrupted (a drill): the notice at T9900, for T9960." in told
    assert "root had it interrupted (a drill): the notice came at T9900, for T9960" in told
    assert "the provider" not in told
    own = "the provider gave notice at T9900, for T9960"
    assert own in text(_interrupted(), notice)
    assert own in text(_interrupted(), notice, _drill(9_901.0, "interruption"))
    assert own in text(_interrupted(), _drill(9_800.0, "rebalance"), notice)
    taken_back = (_drill(9_700.0, "interruption"), _drill(9_800.0, "interruption", withdraw=True))
    assert own in text(_interrupted(), *taken_back, notice)


def test_hints_are_told_with_whose_they_are() -> None:
    """A notice that makes the training save, and that nobody finds in the explanation."""
    record = with_attempt(run(), state=AttemptState.TRAINING, started_at=100.0)
    hint = tell("notice", 9_900.0, notice_kind="rebalance", deadline=None)
    due = tell("notice", 9_950.0, notice_kind="maintenance", deadline=60.0)
    told = text(record, _drill(9_899.0, "rebalance"), hint, due, part=Part.HAPPENED)
    assert (
        "root had it told that its machine may be taken soon at T9900 (a drill): a rebalance notice" in told
    )
    assert "The provider told it of maintenance of its machine at T9950, for T10010: a maintenance" in told
