"""What must hold after any fault, held against what the training itself wrote down.

    witness = Witness(house)
    run = house.submit(*arguments, env=witness.env)
    …                                   # do your worst
    house.wait_final(run)
    witness.check(run)                  # no checkpoint lost, one training at a time, the report true

Nothing here asks the code under test how it is: `tiny_train.py` writes the diary, outside all machines.
"""

from __future__ import annotations

import fcntl
import itertools
import os
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import psutil

from runctl_shared.checkpoints.directory import DirectoryStore
from runctl_shared.checkpoints.repository import RunRepository
from runctl_shared.messages.replies import AttemptView, RunDetail
from runctl_testing.controller_process import House
from runctl_testing.eventually import eventually
from runctl_testing.tiny_train import expected

ONCE = ("registered", "claimed", "restored", "training", "first_step", "not_resumed", "ended")
"""What an attempt's story tells once."""
OWN_WORD = ("succeeded", "user_error", "stopped", "out_of_memory", "stalled")
"""Reasons of which only the agent knows: then nothing of what it had to say may be missing."""


class Line(NamedTuple):
    attempt: int
    kind: str
    value: int


class Witness:
    """Remembers what was promised while a run was ill-treated."""

    def __init__(self, house: House, diary: Path | None = None) -> None:
        """`diary`: a file outside all machines; beside the house's state folder if it is not said."""
        self._house, self._diary = house, diary or house.state.parent / "diary"
        self._seen: dict[str, set[str]] = {}
        self._damaged: set[str] = set()

    @property
    def env(self) -> dict[str, str]:
        """For the training: `House.submit(..., env=witness.env)`."""
        return {"PATH": os.environ["PATH"], "TINY_DIARY": str(self._diary)}

    def diary(self) -> list[Line]:
        """What the training wrote so far; a line that a SIGKILL tore is left out."""
        lines = self._diary.read_text().splitlines(keepends=True) if self._diary.exists() else []
        words = [line.split() for line in lines if line.endswith("\n")]
        return [Line(int(attempt), kind, int(value)) for attempt, kind, value in words]

    def look(self, run: str) -> None:
        """Remember every checkpoint that is committed now: `check` wants it whole."""
        self._seen.setdefault(run, set()).update(p.name for p in self._repository(run).manifests())

    def except_damaged(self, manifest: str) -> None:
        """The test itself has damaged what is stored of it: `check` wants neither it nor the whole of it."""
        self._damaged.add(manifest)

    def check(self, run: str) -> RunDetail:
        """The run as the controller tells it, after everything that must hold has been seen to hold."""
        detail = self._house.show(run)
        self._nothing_lost(run, detail)
        self._one_at_a_time()
        self._report_is_true(run, detail)
        self._told_once(run, detail)
        self._ledger_is_whole(detail)
        self._nothing_runs()
        return detail

    def _repository(self, run: str) -> RunRepository:
        return RunRepository(DirectoryStore(self._house.state / "checkpoints"), run)

    def _nothing_lost(self, run: str, detail: RunDetail) -> None:
        repository = self._repository(run)
        stored = {parts.name for parts in repository.manifests()}
        told = {str(item.data["manifest"]) for item in detail.story if item.kind == "checkpoint"}
        promised = (told | self._seen.get(run, set())) - self._damaged
        assert promised <= stored, f"committed and gone: {sorted(promised - stored)}"
        for name in sorted(stored - self._damaged):
            assert repository.verify(repository.read_manifest(name)) == [], name

    def _one_at_a_time(self) -> None:
        diary = self.diary()
        assert not [line for line in diary if line.kind == "two"], "two trainings at once"
        began = [line.attempt for line in diary if line.kind == "began"]
        assert began == sorted(set(began)), f"attempts began in this order: {began}"
        order = [line.attempt for line in diary]
        assert order == sorted(order), "an older attempt trained after a newer one had begun"

    def _report_is_true(self, run: str, detail: RunDetail) -> None:
        for attempt in detail.attempts:
            own = [line for line in self.diary() if line.attempt == attempt.attempt]
            _attempt_is_true(attempt, own)
        finished = [line for line in self.diary() if line.kind == "finished"]
        if detail.run.state == "succeeded":
            assert len(finished) == 1, finished
            output = self._repository(run).logs.read_log(finished[0].attempt, 0, 1 << 40)
            assert f"finished total={expected(finished[0].value)}".encode() in output

    def _told_once(self, run: str, detail: RunDetail) -> None:
        """No event was lost, and none was taken for two."""
        stored = self._repository(run).manifests()
        for attempt in detail.attempts:
            told = [item for item in detail.story if item.attempt == attempt.attempt]
            kinds = Counter(item.kind for item in told if item.kind in ONCE)
            assert all(count == 1 for count in kinds.values()), (attempt, kinds)
            manifests = [str(item.data["manifest"]) for item in told if item.kind == "checkpoint"]
            assert len(manifests) == len(set(manifests)), manifests
            if attempt.reason in OWN_WORD and "training" in kinds:
                assert {"registered", "claimed", "ended"} <= set(kinds), (attempt, kinds)
                own = {parts.name for parts in stored if parts.attempt == attempt.attempt}
                assert own <= set(manifests), f"stored and not told: {sorted(own - set(manifests))}"

    def _ledger_is_whole(self, detail: RunDetail) -> None:
        for machine in detail.machines:
            if machine.launched_at is None:
                continue
            own = sorted((i for i in detail.ledger if i.machine == machine.machine), key=lambda i: i.start)
            assert own, f"{machine.machine} was rented and is not in the ledger"
            assert own[0].start == machine.launched_at
            assert own[-1].end == machine.ended_at
            assert all(a.end == b.start for a, b in itertools.pairwise(own)), own

    def _nothing_runs(self) -> None:
        """No agent, host or training of this house; only its controller may live."""
        eventually(lambda: not self.machines(), 30, 0.1, "every process of the machines to be gone")
        # What hides from its family, its session and its environment still has the diary open.
        eventually(self._diary_is_free, 30, 0.1, "whatever holds the diary to be gone")

    def _diary_is_free(self) -> bool:
        if not self._diary.exists():
            return True
        with self._diary.open() as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
        return True

    def machines(self) -> list[str]:
        """Living processes of the house's machines, found by what they were started with."""
        found = []
        below = str(self._house.state / "machines")
        for process in psutil.process_iter():
            try:
                words = " ".join(process.cmdline()) + " ".join(process.environ().values())
                if below in words and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(f"{process.pid} {' '.join(process.cmdline())[:160]}")
            except (psutil.Error, OSError):
                continue
        return found


def _attempt_is_true(told: AttemptView, own: list[Line]) -> None:
    """What is told of an attempt, against the training's own words."""
    steps = [line.value for line in own if line.kind == "step"]
    began = [line.value for line in own if line.kind == "began"]
    if told.last_step is not None:
        # What it saved before its first step of this attempt is a step as well: the one it began with.
        reached = steps[-1:] or [line.value for line in own if line.kind == "saved"][-1:]
        assert reached, told
        assert told.last_step <= reached[0], told
    if told.first_step is not None:
        assert told.first_step == steps[0], told
    if told.restored_step is not None and began:
        assert began == [told.restored_step], told
    if told.saved_step is not None:
        # What it starts from counts as saved; else it has written it itself.
        assert told.saved_step in {told.restored_step, *steps}, told
    if told.lost_steps is not None and told.last_step is not None:
        assert told.lost_steps == told.last_step - (told.saved_step or told.restored_step or 0), told
