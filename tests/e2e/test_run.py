"""A run from end to end: the real controller, agent, machine and training, over both buses."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from runctl_shared.errors import ProviderFailed
from runctl_shared.messages.replies import Done, RunList
from runctl_shared.messages.requests import CancelRun, InterruptRun, ListRuns, ResumeRun, StopRun
from runctl_testing.broker import Broker
from runctl_testing.controller_process import House
from runctl_testing.tiny_train import expected


@pytest.fixture(params=["embedded", pytest.param("amqp", marks=pytest.mark.amqp)])
def house(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[House]:
    state = tmp_path / "state"
    if request.param == "amqp":
        prefix = f"e2e{os.getpid()}x{abs(hash(request.node.name)) % 10**8}"
        bus = f"{request.getfixturevalue('amqp_url')}?prefix={prefix}"
    else:
        bus = f"sqlite://{state / 'bus.db'}"
    made = House(state, bus)
    made.start()
    yield made
    made.stop()


def _processes(house: House, *words: str) -> list[psutil.Process]:
    """Processes whose command line holds every one of `words` and the state folder's machines."""
    found = []
    for process in psutil.process_iter(["cmdline", "environ"]):
        line = " ".join(process.info["cmdline"] or [])
        here = str(house.state) in line or str(house.state) in str(process.info["environ"] or {})
        if here and all(word in line for word in words) and process.status() != psutil.STATUS_ZOMBIE:
            found.append(process)
    return found


def _whole(house: House, run: str, steps: int) -> None:
    """The last line of the last attempt proves that every step was done once, from the right state."""
    detail = house.show(run)
    assert f"finished total={expected(steps)}" in house.log(run, len(detail.attempts))


def test_a_run_succeeds(house: House) -> None:
    run = house.submit("--steps", "30")
    detail = house.wait_final(run)
    assert (detail.run.state, detail.run.exit_code, len(detail.attempts)) == ("succeeded", 0, 1)
    _whole(house, run, 30)
    steps = [c.step for c in house.checkpoints(run).checkpoints if c.eligible]
    assert steps == [30, 20, 10]
    # Every second from launch to end is in the ledger, once.
    machine = detail.machines[0]
    assert machine.launched_at is not None
    ledger = sorted(detail.ledger, key=lambda i: i.start)
    assert ledger[0].start == machine.launched_at
    assert ledger[-1].end == machine.ended_at
    assert all(a.end == b.start for a, b in itertools.pairwise(ledger))


def test_an_interrupted_run_resumes_where_it_saved(house: House) -> None:
    run = house.submit("--steps", "150")
    house.wait_training(run, saved=10)
    house.client.ask(InterruptRun(run=run, notice=4.0), Done)
    detail = house.wait_final(run)
    first, second = detail.attempts
    assert (first.reason, second.reason, detail.run.state) == ("interrupted", "succeeded", "succeeded")
    # It saved on the signal, so nothing at all was lost.
    assert first.last_step == first.saved_step == second.restored_step
    assert second.first_step == (second.restored_step or 0) + 1
    assert next(m.cause for m in detail.machines) == "interrupted"
    _whole(house, run, 150)


def test_a_training_that_ignores_the_signal_is_ended_before_the_machine_goes(house: House) -> None:
    run = house.submit("--steps", "150", "--ignore-term")
    house.wait_training(run, saved=10)
    house.client.ask(InterruptRun(run=run, notice=3.0), Done)
    detail = house.wait_final(run)
    first, second = detail.attempts[:2]
    assert first.reason == "interrupted"
    assert first.lost_steps == (first.last_step or 0) - (first.saved_step or 0)
    assert second.restored_step == first.saved_step
    assert first.ended_at is not None
    assert second.started_at is not None
    assert first.ended_at <= second.started_at
    _whole(house, run, 150)


def test_the_agent_is_killed_and_the_training_does_not_notice(house: House) -> None:
    run = house.submit("--steps", "120")
    house.wait_training(run, saved=10)
    (training,) = _processes(house, "tiny_train.py")
    (agent,) = _processes(house, "runctl_agent", "--machine")
    agent.kill()
    detail = house.wait_final(run)
    assert (detail.run.state, len(detail.attempts)) == ("succeeded", 1)
    assert not training.is_running()
    _whole(house, run, 120)
    assert next(c.step for c in house.checkpoints(run).checkpoints) == 120


def test_the_controller_is_killed_and_nothing_is_lost(house: House) -> None:
    run = house.submit("--steps", "120")
    house.wait_training(run, saved=10)
    house.kill()
    house.start()
    detail = house.wait_final(run)
    assert (detail.run.state, len(detail.attempts)) == ("succeeded", 1)
    _whole(house, run, 120)


def test_a_machine_that_vanishes_is_replaced(house: House) -> None:
    run = house.submit("--steps", "150")
    house.wait_training(run, saved=10)
    for words in (["local.host"], ["runctl_agent", "--machine"], ["minder.py"], ["tiny_train.py"]):
        for process in _processes(house, *words):
            process.kill()
    detail = house.wait_final(run)
    assert [a.reason for a in detail.attempts] == ["lost", "succeeded"]
    assert (detail.attempts[1].restored_step or 0) >= 10
    assert not _processes(house, "tiny_train.py")
    _whole(house, run, 150)


def test_stop_saves_and_resume_goes_on(house: House) -> None:
    run = house.submit("--steps", "150")
    house.wait_training(run, saved=10)
    house.client.ask(StopRun(run=run), Done)
    detail = house.wait_final(run)
    assert (detail.run.state, detail.attempts[0].reason) == ("paused", "stopped")
    assert detail.attempts[0].saved_step == detail.attempts[0].last_step
    house.client.ask(ResumeRun(run=run), Done)
    detail = house.wait_final(run)
    assert detail.run.state == "succeeded"
    assert detail.attempts[1].restored_step == detail.attempts[0].saved_step
    _whole(house, run, 150)


def test_cancel_ends_it_for_good_and_keeps_what_is_safe(house: House) -> None:
    run = house.submit("--steps", "10000", "--ignore-term")
    house.wait_training(run, saved=10)
    house.client.ask(CancelRun(run=run, force=True), Done)
    detail = house.wait_final(run)
    assert detail.run.state == "cancelled"
    assert not _processes(house, "tiny_train.py")
    assert len(house.checkpoints(run).checkpoints) >= 1


def test_a_training_that_fails_is_not_run_again_unasked(house: House) -> None:
    run = house.submit("--steps", "5", "--exit", "3")
    detail = house.wait_final(run)
    assert (detail.run.state, detail.run.exit_code, len(detail.attempts)) == ("failed", 3, 1)


def test_restarts_that_were_granted_are_used(house: House) -> None:
    run = house.submit("--steps", "5", "--exit", "3", max_restarts=1)
    detail = house.wait_final(run)
    assert (detail.run.state, len(detail.attempts)) == ("failed", 2)


def test_a_silent_restart_from_the_beginning_is_told(house: House) -> None:
    run = house.submit("--steps", "100", "--forget")
    house.wait_training(run, saved=20)
    house.client.ask(InterruptRun(run=run, notice=3.0), Done)
    detail = house.wait_final(run)
    assert "not_resumed" in [item.kind for item in detail.story]


def test_a_command_that_does_not_exist(house: House) -> None:
    run = house.submit(command=("no-such-program-anywhere",))
    detail = house.wait_final(run)
    assert (detail.run.state, detail.run.exit_code) == ("failed", 127)
    assert "no-such-program-anywhere" in detail.run.why


def test_a_store_that_cannot_be_used_is_refused_before_anything_is_on_record(
    house: House, tmp_path: Path
) -> None:
    in_the_way = tmp_path / "file"
    in_the_way.write_text("not a folder")
    with pytest.raises(ProviderFailed, match=str(in_the_way)):
        house.submit(store=f"file://{in_the_way}/checkpoints")
    assert house.client.ask(ListRuns(), RunList).runs == ()


@pytest.mark.amqp
def test_the_broker_is_killed_and_nothing_is_lost(private_broker: Broker, tmp_path: Path) -> None:
    house = House(tmp_path / "state", private_broker.url)
    house.start()
    try:
        run = house.submit("--steps", "200", "--step-time", "0.05")
        house.wait_training(run, saved=10)
        private_broker.settle()
        private_broker.kill()
        private_broker.start()
        detail = house.wait_final(run)
        assert (detail.run.state, len(detail.attempts)) == ("succeeded", 1)
        _whole(house, run, 200)
        told = [int(str(item.data["step"])) for item in detail.story if item.kind == "checkpoint"]
        assert told == sorted(set(told)) == list(range(10, 201, 10))
    finally:
        house.stop()
