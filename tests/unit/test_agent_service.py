"""The agent's loop with everything it drives: it must outlive whatever fails around it."""

from __future__ import annotations

import sqlite3
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import msgspec
import pytest

from runctl_agent.core import effects, inputs
from runctl_agent.core.phases import Phase
from runctl_agent.edges.training import Training
from runctl_agent.hands import _METHODS, Hands
from runctl_agent.watcher.model import Candidate
from runctl_shared.bus.port import Address, BusRefused, Stream
from runctl_shared.messages import commands
from runctl_shared.messages.codec import decode, encode
from runctl_shared.messages.events import FirstStepSeen
from runctl_testing.agents import Agent
from runctl_testing.eventually import eventually
from runctl_testing.watching import npz

TRAINING = """
import os, signal, sys, time
def asked(number, frame):
    open("asked", "w").close()
    sys.exit(0)
signal.signal(signal.SIGTERM, asked)
print("step 1", flush=True)
while True:
    if os.path.exists("save"):
        os.rename("save", os.path.join(sys.argv[1], "model.bin"))
    time.sleep(0.02)
"""
SAVES = (sys.executable, "-c", TRAINING, "{checkpoint_dir}")


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[Agent]:
    agent = Agent(tmp_path, SAVES)
    yield agent
    agent.close()


def saves(agent: Agent) -> None:
    (agent.folder / "save").write_bytes(b"weights")
    eventually(lambda: agent.repository.manifests())


def test_on_a_full_disk_the_training_is_asked_to_save_all_the_same(agent: Agent) -> None:
    agent.trains()
    agent.spool.full = True
    agent.notice()
    eventually((agent.folder / "asked").exists)
    agent.until(Phase.ENDED)
    before = agent.told()
    assert before[-1] == "TrainingStarted"
    agent.spool.full = False
    eventually(lambda: agent.told()[-1] == "AttemptEnded")
    new = [kind for kind in agent.told()[len(before) :] if kind != "FirstStepSeen"]
    assert new == ["NoticeReceived", "SaveAsked", "AttemptEnded"]
    assert agent.disk.state == msgspec.msgpack.encode(agent.state)


def test_a_command_is_acknowledged_when_the_disk_has_it_unless_it_may_be_repeated(agent: Agent) -> None:
    agent.start()
    agent.until(Phase.READY)
    agent.spool.full = True
    send(agent, commands.StartTraining(), "cmd-1")
    agent.until(Phase.TRAINING)
    send(agent, commands.RenewLease(seconds=1e6), "cmd-2")
    eventually(lambda: agent.state.lease_until > 9e5)
    eventually(lambda: waiting(agent) == ["cmd-1"])
    agent.spool.full = False
    eventually(lambda: waiting(agent) == [])


def send(agent: Agent, body: commands.StartTraining | commands.RenewLease, id: str) -> None:
    name = agent.boot.agent
    data = encode(body, id=id, run=agent.boot.spec.run, attempt=1, agent=name, sent=0.0)
    agent.bus.publish(Address(Stream.COMMANDS, name, type(body).__name__), data, message_id=id).result(60)


def waiting(agent: Agent) -> list[str]:
    """The ids of the commands that nobody has acknowledged."""
    with closing(sqlite3.connect(agent.folder / "bus.db")) as db:
        found = db.execute("SELECT message_id FROM messages WHERE queue GLOB 'commands.*'")
        return [id for (id,) in found]


def test_an_effect_that_fails_ends_nothing(agent: Agent, monkeypatch: pytest.MonkeyPatch) -> None:
    agent.trains()
    failed = threading.Event()

    def follow(*args: object) -> None:
        failed.set()
        raise RuntimeError("a mistake")

    monkeypatch.setattr(agent.service._follower, "follow", follow)
    agent.command(commands.FollowOutput(seconds=1.0), "cmd-2")
    assert failed.wait(60)
    agent.notice()
    eventually((agent.folder / "asked").exists)


def test_an_effect_that_fails_takes_none_of_the_others_with_it(
    agent: Agent, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent.trains()
    monkeypatch.setattr(agent.service._keeper, "write_end", lambda record: 1 // 0)
    agent.command(commands.StopTraining(save=False), "cmd-2")
    agent.until(Phase.ENDED)
    agent.command(commands.AcknowledgeEvents(through=99), "cmd-3")
    eventually(lambda: agent.state.drained)


def test_an_input_that_cannot_be_decided_ends_nothing(agent: Agent) -> None:
    agent.trains()
    agent.service.tell(inputs.Input(at=0.0))  # of a kind that nobody knows
    agent.notice()
    eventually((agent.folder / "asked").exists)


def test_a_spool_that_cannot_be_read_is_no_busy_loop_and_no_end(
    agent: Agent, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent.trains()
    turns: list[None] = []
    wait = agent.service._wait

    def counted() -> float:
        turns.append(None)
        return wait()

    def unreadable(*args: object) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(agent.service, "_wait", counted)
    with monkeypatch.context() as patch:
        patch.setattr(agent.spool, "pending", unreadable)
        patch.setattr(type(agent.spool), "empty", property(unreadable))
        threading.Event().wait(1.5)
        assert len(turns) < 20
        agent.notice()
        eventually((agent.folder / "asked").exists)
    agent.until(Phase.ENDED)


def test_while_a_notice_stands_the_newest_is_stored_first(agent: Agent) -> None:
    agent.trains()
    hurries = agent.service._keeper._committer._hurry
    agent.notice()
    eventually(hurries.is_set)
    agent.service.tell(inputs.NoticeGone(at=agent.clock.monotonic(), id="interruption-terminate"))
    eventually(lambda: not hurries.is_set())


def test_a_boot_is_done_when_it_is_stored_and_the_commands_can_come(agent: Agent) -> None:
    agent.spool.full = True
    agent.start()
    agent.until(Phase.READY)
    assert not agent.place.started.exists()
    agent.spool.full = False
    eventually(agent.place.started.exists)


def test_an_agent_that_cannot_hear_is_not_up(agent: Agent, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object) -> None:
        raise BusRefused("no")

    monkeypatch.setattr(agent.bus, "subscribe", refuse)
    with pytest.raises(BusRefused):
        agent.service.run(commands.SaveNow())
    assert not agent.place.started.exists()


class TestAgain:
    """The agent has died, and is started again."""

    def test_a_training_that_it_was_just_starting_is_watched(self, tmp_path: Path) -> None:
        agent = Agent(tmp_path, SAVES, Phase.STARTING)
        training = Training(agent.place, agent.boot, agent.clock, lambda code, signal: None)
        training.start(None)
        try:
            agent.start()
            agent.until(Phase.TRAINING)
            saves(agent)
            eventually(lambda: agent.state.saved_manifest)
            eventually(lambda: agent.state.first_step == 1)
        finally:
            agent.close()

    def test_one_that_ended_meanwhile_is_read_to_its_end(self, tmp_path: Path) -> None:
        agent = Agent(tmp_path, ("sh", "-c", "echo step 1; echo step 7"), Phase.STARTING)
        over = threading.Event()
        training = Training(agent.place, agent.boot, agent.clock, lambda code, signal: over.set())
        training.start(None)
        assert over.wait(60)
        agent.start()
        agent.until(Phase.ENDED)
        assert (agent.state.last_step, agent.state.exit_code) == (7, 0)
        agent.close()

    def test_after_its_last_word_it_stores_no_checkpoint(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        first = Agent(tmp_path, SAVES)
        first.trains()
        first.command(commands.StopTraining(save=False), "cmd-2")
        first.until(Phase.ENDED)
        first.close()
        (first.place.checkpoints / "late.npz").write_bytes(npz(1))
        again = Agent(tmp_path, SAVES, disk=first.disk)
        handed_over, add = threading.Event(), again.service._keeper.add

        def heard(candidate: Candidate) -> None:
            add(candidate)
            handed_over.set()

        monkeypatch.setattr(again.service._keeper, "add", heard)
        again.start()
        assert handed_over.wait(60)
        eventually(lambda: again.state.recorded)
        again.command(commands.AcknowledgeEvents(through=99), "cmd-3")
        again.ends()
        assert again.repository.manifests() == []


def test_the_first_step_is_the_first_also_when_a_heartbeat_is_due_at_that_moment(agent: Agent) -> None:
    """A successor reads all that was printed at once: a heartbeat must not take the last for the first."""
    service = agent.service
    service._feed.chunk(0, b"".join(b"step %d\n" % step for step in range(1, 58)))
    service._beat(agent.clock.monotonic())
    service._inbox.get_nowait()()
    assert (agent.state.first_step, agent.state.last_step) == (1, 57)
    assert [decode(item.data).body for item in agent.spool.pending()] == [
        FirstStepSeen(step=1, restored_step=None, seconds=0.0)
    ]


def test_what_cannot_start_is_told_whatever_it_is(agent: Agent, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agent.service._training, "start", lambda path: 1 // 0)
    agent.start()
    agent.command(commands.StartTraining())
    agent.until(Phase.ENDED)
    assert agent.state.exit_code == 125


def test_every_effect_has_a_method() -> None:
    assert set(_METHODS) | {effects.Report} == set(effects.Effect.__subclasses__())
    assert all(method.__qualname__.startswith(Hands.__name__) for method in _METHODS.values())


def test_the_first_step_is_the_first_however_late_it_is_told(tmp_path: Path) -> None:
    """The proof of a resume: a heartbeat between the first step's being read and its being told tells a later
    one as the first, and a restart from the beginning passes for a resume."""
    silent = "import signal; print('up', flush=True); signal.pause()"
    with closing(Agent(tmp_path, (sys.executable, "-c", silent))) as agent:
        agent.trains()
        service = agent.service

        def a_moment_of_the_loop() -> None:
            # Meanwhile, the tail's thread reads all of this at once.
            service._feed.chunk(0, b"".join(b"step=%d\n" % step for step in range(1, 15)))
            service._beat(0.0)

        service._inbox.put(a_moment_of_the_loop)
        assert eventually(lambda: agent.state.first_step) == 1
        service._inbox.put(lambda: service._beat(0.0))
        eventually(lambda: agent.state.last_step == 14)
