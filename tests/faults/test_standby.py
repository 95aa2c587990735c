"""A controller that stands still or dies, and one that takes over; the first wakes up again."""

from __future__ import annotations

import random
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from runctl_controller.service.stuck import holds_one
from runctl_shared.messages.replies import Done, Status
from runctl_shared.messages.requests import ControllerStatus, InterruptRun
from runctl_testing.aftermath import Witness
from runctl_testing.controller_process import ControllerProcess, House
from runctl_testing.eventually import eventually

TAKEOVER = 2.0
"""Seconds of silence after which a standby leads: few, but many times what a loaded machine needs."""


@pytest.fixture(params=["embedded", pytest.param("amqp", marks=pytest.mark.amqp)])
def house(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[House]:
    """A controller over each bus, started, that may not be silent for long."""
    state = tmp_path / "state"
    bus = f"sqlite://{state / 'bus.db'}"
    if request.param == "amqp":
        # The broker drops a consumer that it has not heard for two heartbeats; until then it stays the active
        # one.
        bus = f"{request.getfixturevalue('lab').url}&heartbeat=2"
    with House(state, bus, takeover=TAKEOVER) as made:
        yield made


def _standby(house: House) -> ControllerProcess:
    standby = house.stand_by()
    assert standby.line() == "standing by", standby.log
    return standby


def _status(house: House) -> Status:
    return eventually(lambda: house.client.ask(ControllerStatus(), Status), 60)


def _ended_by_itself(old: ControllerProcess, standby: ControllerProcess) -> None:
    """A controller that was replaced says so in a sentence and ends, having written nothing."""
    code = old.wait()
    if "standby.ends-stuck" in standby.log:
        assert code == -signal.SIGKILL  # it had been stopped in the midst of a transaction
        return
    assert code == 1
    assert old.log.count("has taken over and leads now") == 1, old.log
    assert "Traceback" not in old.log


def test_the_leader_is_stopped_and_wakes_up_when_another_one_leads(
    house: House, witness: Witness, dice: random.Random
) -> None:
    """A woken controller writes, answers or ends a machine; a run that nobody looks after while it is
    stopped."""
    standby = _standby(house)
    run = house.submit("--steps", "160", "--step-time", "0.05", env=witness.env)
    house.wait_training(run, saved=dice.choice((0, 10, 20)))
    witness.look(run)
    house.leader.signal(signal.SIGSTOP)
    assert standby.line() == "ready", standby.log
    wakes_early = dice.random() < 0.5
    if wakes_early:
        house.leader.signal(signal.SIGCONT)
        _ended_by_itself(house.leader, standby)
    house.wait_training(run)
    house.client.ask(InterruptRun(run=run, notice=2.0), Done)
    detail = house.wait_final(run)
    if not wakes_early:
        house.leader.signal(signal.SIGCONT)
        _ended_by_itself(house.leader, standby)
    assert detail.run.state == "succeeded"
    assert [a.reason for a in detail.attempts] == ["interrupted", "succeeded"]
    witness.check(run)
    assert _status(house).pid == standby.process.pid


def test_the_leader_is_stopped_in_the_midst_of_a_transaction(house: House, witness: Witness) -> None:
    """Its lock on the state keeps every other controller from leading, for ever: it must be ended."""
    standby = _standby(house)
    run = house.submit("--steps", "100", env=witness.env)
    house.wait_training(run)
    files = [house.state / "controller.db-shm"]

    def caught() -> bool:
        """Stop it wherever it is, and let it go on if that is not where we want it."""
        house.leader.signal(signal.SIGSTOP)
        eventually(lambda: psutil.Process(house.pid).status() == psutil.STATUS_STOPPED, 30, 0.0005)
        if holds_one(house.pid, files):
            return True
        house.leader.signal(signal.SIGCONT)
        return False

    eventually(caught, 60, 0.0005)
    assert standby.line() == "ready", standby.log
    assert house.leader.wait() == -signal.SIGKILL
    assert "standby.ends-stuck" in standby.log
    assert house.wait_final(run).run.state == "succeeded"
    witness.check(run)


def test_the_leader_is_killed_and_the_standby_leads_at_once(
    house: House, witness: Witness, dice: random.Random
) -> None:
    """A run that is lost, or begun anew, when its controller dies; two that lead."""
    standby = _standby(house)
    run = house.submit("--steps", "100", env=witness.env)
    house.wait_training(run, saved=dice.choice((0, 10, 30)))
    witness.look(run)
    house.kill()
    assert standby.line() == "ready", standby.log
    assert "standby.takes-over silent" not in standby.log  # a death is told by the kernel
    detail = house.wait_final(run)
    assert (detail.run.state, len(detail.attempts)) == ("succeeded", 1)
    witness.check(run)


def test_a_leader_that_is_only_slow_stays_the_leader(
    house: House, witness: Witness, dice: random.Random
) -> None:
    """A standby that is too quick: each hiccup would change the leader."""
    standby = _standby(house)
    run = house.submit("--steps", "100", env=witness.env)
    house.wait_training(run)
    for _ in range(3):
        house.leader.signal(signal.SIGSTOP)
        threading.Event().wait(dice.uniform(0.1, 0.2) * TAKEOVER)
        house.leader.signal(signal.SIGCONT)
    assert house.wait_final(run).run.state == "succeeded"
    witness.check(run)
    found = _status(house)
    assert (found.pid, found.epoch) == (house.pid, 1)
    assert found.standbys == (standby.process.pid,)


def test_of_two_that_are_started_at_once_one_leads_and_one_stands_by(
    house: House, dice: random.Random
) -> None:
    """Two leaders, or none, when nobody was first."""
    house.kill()
    both = [house.stand_by(), house.stand_by()]
    said = {each.line(): each for each in both}
    assert set(said) == {"ready", "standing by"}
    assert _status(house).pid == said["ready"].process.pid
    said["ready"].kill()
    assert said["standing by"].line() == "ready"
    assert _status(house).epoch == 3
