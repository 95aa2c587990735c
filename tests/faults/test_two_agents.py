"""Two agents of different attempts at once on one store: the older is cut off and knows nothing of it."""

from __future__ import annotations

import random
import sys
from pathlib import Path

from runctl_agent.core.phases import Phase
from runctl_shared.checkpoints.directory import DirectoryStore
from runctl_shared.checkpoints.manifest import NameParts, parse_name
from runctl_shared.messages.commands import StartTraining, StopTraining
from runctl_testing import tiny_train
from runctl_testing.agents import Agent
from runctl_testing.controller_process import TINY
from runctl_testing.eventually import eventually

TRAINING = (sys.executable, str(TINY), "--steps", "100000", "--save-every", "5")


def test_the_older_goes_on_storing_and_changes_nothing(tmp_path: Path, dice: random.Random) -> None:
    """A resume from what a cut-off attempt stored, or checkpoints of two attempts that overwrite each other.

    No controller keeps the two apart here: the store alone does."""
    store = DirectoryStore(tmp_path / "store")
    agents = [Agent(tmp_path, TRAINING, attempt=attempt, store=store) for attempt in (1, 2)]
    old, new = agents
    try:
        old.trains()
        saved = dice.randrange(5, 30)
        eventually(lambda: (old.state.saved_step or 0) >= saved)
        new.start()
        new.command(StartTraining())
        eventually(lambda: new.state.saved_manifest)
        after = old.state.saved_manifest
        eventually(lambda: old.state.saved_manifest != after, what="the older one to store another")
        for agent in dice.sample(agents, 2):
            agent.command(StopTraining(save=True, grace=60.0), "cmd-stop")
        for agent in agents:
            agent.until(Phase.ENDED)
            eventually(lambda agent=agent: agent.state.recorded)  # type: ignore[misc]  # bound now
    finally:
        for agent in agents:
            agent.close()
    _lineage_is_the_newers(old, new)
    _everything_is_whole(new, tmp_path / "restored")


def _lineage_is_the_newers(old: Agent, new: Agent) -> None:
    claims = new.repository.claims()
    assert {claim.agent for claim in claims.values()} == {old.boot.agent, new.boot.agent}
    parent = _parts(claims[2].parent)
    stored, eligible = new.repository.manifests(), new.repository.eligible()
    assert eligible[0].attempt == parent.attempt + 1 == 2
    late = [parts for parts in stored if parts.attempt == 1 and parts.sequence > parent.sequence]
    assert late, "the older one stored nothing more: nothing was tried"
    assert sorted(eligible) == sorted(set(stored) - set(late))
    assert (new.state.restored_step, new.state.first_step) == (parent.step, (parent.step or 0) + 1)


def _everything_is_whole(agent: Agent, folder: Path) -> None:
    """Each is what its training had at that step, whoever stored something at the same time."""
    for parts in agent.repository.manifests():
        assert agent.repository.verify(agent.repository.read_manifest(parts.name)) == []
        restored = agent.repository.restore([parts], folder)
        assert restored is not None
        assert tiny_train.load(str(restored.path)) == (parts.step, tiny_train.expected(parts.step or 0))


def _parts(name: str | None) -> NameParts:
    parts = parse_name(name or "")
    assert parts is not None, name
    return parts
