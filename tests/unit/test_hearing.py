"""Who was heard when: silence is told once, and what comes of strangers is not kept."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from runctl_controller.core import inputs
from runctl_controller.service.hearing import MISSED, Hearing
from runctl_controller.store.port import Beat
from runctl_shared.bus.port import Address, Stream
from runctl_shared.ids import agent_id
from runctl_shared.messages.codec import encode
from runctl_shared.messages.events import Heartbeat, Registered
from runctl_testing.eventually import eventually
from runctl_testing.office import RUN, Office

A, B = "agent-aaaa-1", "agent-bbbb-1"
LIMIT = 10.0 * MISSED


def beat(agent: str, step: int = 0) -> Beat:
    return Beat(agent=agent, at=1.7e9, body=Heartbeat(phase="training", step=step))


@pytest.fixture
def hearing() -> Hearing:
    made = Hearing(10.0)
    made.expect_of("run-aaaa", [A], 0.0)
    made.heard(A, 0.0)
    made.recorded(A, silent=False)
    return made


def silenced(hearing: Hearing, at: float) -> list[tuple[str, float]]:
    """Who has gone silent, which then is in the store."""
    gone = hearing.gone_silent(at)
    for agent, _ in gone:
        hearing.recorded(agent, silent=True)
    return gone


def test_silence_is_told_with_its_length_until_it_is_recorded(hearing: Hearing) -> None:
    """A transaction that fails must not hide a machine that died."""
    assert hearing.gone_silent(LIMIT) == []
    assert hearing.gone_silent(LIMIT + 1) == [(A, LIMIT + 1)]
    assert silenced(hearing, LIMIT + 2) == [(A, LIMIT + 2)]
    assert hearing.gone_silent(LIMIT + 100) == []


def test_whoever_is_heard_in_time_is_not_silent(hearing: Hearing) -> None:
    assert not hearing.heard(A, 30.0)
    assert hearing.gone_silent(30.0 + LIMIT) == []


def test_to_be_heard_again_is_told_until_it_is_recorded_and_silence_after_it_again(hearing: Hearing) -> None:
    """A transaction that fails must not leave one that lives on record as silent: it would be fenced."""
    silenced(hearing, 100.0)
    assert hearing.heard(A, 101.0, beat(A))
    assert hearing.heard(A, 101.0, beat(A))
    hearing.recorded(A, silent=False)
    assert not hearing.heard(A, 102.0)
    assert hearing.gone_silent(102.0 + LIMIT + 1) == [(A, LIMIT + 1)]


def test_after_a_start_the_first_word_counts_as_heard_again() -> None:
    """It may have been silent when an earlier controller ended: nobody else would take that back."""
    hearing = Hearing(10.0)
    hearing.expect_of("run-aaaa", [A], 0.0)
    assert hearing.heard(A, 1.0, beat(A))
    hearing.recorded(A, silent=False)
    assert not hearing.heard(A, 2.0, beat(A))


def test_an_agent_that_is_never_heard_becomes_silent_too() -> None:
    hearing = Hearing(10.0)
    hearing.expect_of("run-aaaa", [A], 5.0)
    assert hearing.gone_silent(5.0 + LIMIT + 1) == [(A, LIMIT + 1)]


def test_expecting_the_same_again_gives_no_more_time(hearing: Hearing) -> None:
    hearing.expect_of("run-aaaa", [A], LIMIT)
    assert hearing.gone_silent(LIMIT + 1) == [(A, LIMIT + 1)]


def test_of_one_that_is_not_expected_any_more_nothing_is_kept(hearing: Hearing) -> None:
    hearing.heard(A, 1.0, beat(A))
    hearing.expect_of("run-aaaa", [], 2.0)
    assert hearing.gone_silent(1000.0) == []
    assert hearing.newest(A) is None
    hearing.take_fresh()
    assert not hearing.heard(A, 3.0, beat(A))
    assert (hearing.newest(A), hearing.take_fresh()) == (None, [])


def test_strangers_leave_nothing_behind() -> None:
    hearing = Hearing(10.0)
    for number in range(50):
        assert not hearing.heard(f"agent-zzzz-{number}", 1.0, beat(f"agent-zzzz-{number}"))
    assert hearing.take_fresh() == []
    assert hearing.newest("agent-zzzz-1") is None
    assert hearing.gone_silent(1e6) == []


def test_runs_do_not_forget_each_others_agents(hearing: Hearing) -> None:
    hearing.expect_of("run-bbbb", [B], 0.0)
    hearing.expect_of("run-bbbb", [], 1.0)
    assert hearing.gone_silent(LIMIT + 1) == [(A, LIMIT + 1)]


def test_a_successor_is_expected_while_the_first_is_still_there(hearing: Hearing) -> None:
    hearing.expect_of("run-aaaa", [A, "agent-aaaa-2"], 20.0)
    assert [agent for agent, _ in silenced(hearing, LIMIT + 1)] == [A]
    hearing.expect_of("run-aaaa", ["agent-aaaa-2"], 50.0)
    assert [agent for agent, _ in hearing.gone_silent(20.0 + LIMIT + 1)] == ["agent-aaaa-2"]


def test_after_our_own_sleep_silence_counts_from_now(hearing: Hearing) -> None:
    hearing.give_time(1000.0)
    assert hearing.gone_silent(1000.0 + LIMIT) == []
    assert hearing.gone_silent(1001.0 + LIMIT) == [(A, LIMIT + 1)]


def test_only_the_newest_heartbeat_of_each_is_to_be_stored_and_once(hearing: Hearing) -> None:
    hearing.expect_of("run-bbbb", [B], 0.0)
    for step in (1, 2, 3):
        hearing.heard(A, float(step), beat(A, step))
    hearing.heard(B, 1.0, beat(B, 9))
    assert {b.agent: b.body.step for b in hearing.take_fresh()} == {A: 3, B: 9}
    assert hearing.take_fresh() == []
    newest = hearing.newest(A)
    assert newest is not None
    assert newest.body.step == 3


def test_a_living_agent_does_not_stay_silent_because_a_transaction_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a whole lease on record as silent, its machine would be ended under a training that goes on."""
    office, agent = Office(tmp_path), agent_id(RUN, 1)
    try:
        office.submitted()
        office.says(Registered(protocol=1, version="1", capabilities=()))
        engine, failed = office.loop._engine, list[inputs.Input]()
        real = engine.heard
        now = office.clock.now()
        _on(office, lambda: real(agent, inputs.WentSilent(at=now, agent=agent, heard_at=now)))
        _on(office, lambda: office.loop.hearing.recorded(agent, silent=True))

        def heard(name: str, given: inputs.Input) -> object:
            if isinstance(given, inputs.HeardAgain) and not failed:
                failed.append(given)
                raise OSError(5, "Input/output error")
            return real(name, given)

        monkeypatch.setattr(engine, "heard", heard)
        assert office.record().attempts[0].unheard_since is not None

        def beats_and_is_heard() -> bool:
            data = encode(Heartbeat(phase="training"), id="beat", run=RUN, attempt=1, agent=agent, sent=1.0)
            office.agents.publish(Address(Stream.HEARTBEATS, agent, "Heartbeat"), data, message_id="beat")
            return office.record().attempts[0].unheard_since is None

        eventually(beats_and_is_heard)
        assert failed
    finally:
        office.close()


def _on(office: Office, act: Callable[[], object]) -> None:
    """Have the controller's own thread do it."""
    done = list[object]()
    office.loop.put(lambda: done.append(act()))
    eventually(lambda: done)
