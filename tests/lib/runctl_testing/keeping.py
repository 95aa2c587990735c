"""A keeper with a real repository, a folder in which a training saves, and a record of what it said."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import TypeVar

from runctl_agent.core import inputs
from runctl_agent.edges.keeper import Keeper
from runctl_agent.edges.place import Place
from runctl_agent.formats.base import FileStamp
from runctl_agent.watcher.model import Candidate, version_of
from runctl_shared.checkpoints.manifest import Manifest
from runctl_shared.checkpoints.memory import MemoryStore
from runctl_shared.checkpoints.objects import ObjectStore
from runctl_shared.checkpoints.repository import RunRepository
from runctl_shared.clock import SystemClock
from runctl_shared.spec import Boot
from runctl_testing.checkpoints import RUN, SPEC
from runctl_testing.eventually import eventually

I = TypeVar("I", bound=inputs.Input)  # noqa: E741  as short as what it stands for
EPOCH = 1_700_000_000.0


class Desk:
    """Attempt `attempt`'s keeper, over `store`. Every keeper that was started is closed by `close`."""

    def __init__(self, store: ObjectStore, folder: Path, attempt: int = 1, *, new: bool = True) -> None:
        self.clock = SystemClock()
        self.repository = RunRepository(store, RUN, clock=self.clock)
        if new:
            self.repository.write_spec(SPEC)
        self.place = Place(folder / f"machine-{attempt}")
        self.place.prepare()
        self.boot = Boot(agent=f"agent-abcd1234-{attempt}", attempt=attempt, spec=SPEC, bus="", hard_end=60.0)
        self.said: list[inputs.Input] = []
        self.committed: list[str] = []
        self.discarded: list[tuple[str, float]] = []
        self._keepers: list[Keeper] = []
        self.keeper = self.start()

    def start(self) -> Keeper:
        """Another keeper: the agent has started again."""
        self.keeper = Keeper(
            self.repository,
            self.place,
            self.boot,
            self.clock,
            self.said.append,
            self.committed.append,
            lambda version, wait: self.discarded.append((version, wait)),
            lambda wall: int(wall - EPOCH),
            lambda written_at: "periodic",
        )
        self._keepers.append(self.keeper)
        return self.keeper

    def close(self) -> None:
        for keeper in self._keepers:
            keeper.close(10.0)

    # -- the training -------------------------------------------------------------------------

    def saves(self, step: int, name: str = "", written_at: float | None = None) -> Candidate:
        """A file as of `step`, written `step` seconds after EPOCH, as the watcher hands it over."""
        name = name or f"step-{step}.bin"
        path = self.place.checkpoints / name
        path.write_bytes(f"weights of {step} ".encode() * 1000)
        wall = EPOCH + step if written_at is None else written_at
        os.utime(path, (wall, wall))
        return self.candidate(name, step)

    def candidate(self, name: str, step: int | None) -> Candidate:
        found = (self.place.checkpoints / name).stat()
        files = (FileStamp(name, found.st_size, found.st_mtime_ns, found.st_ino),)
        return Candidate(
            version=version_of(name, files),
            root_name=name,
            single_file=True,
            files=files,
            format="generic",
            signed=True,
            step=step,
            epoch=None,
            written_at=found.st_mtime_ns / 1e9,
        )

    # -- what is waited for -------------------------------------------------------------------

    def hears(self, kind: type[I], count: int = 1) -> I:
        """The newest input of `kind`, once there are so many."""

        def heard() -> list[I]:
            found = [item for item in self.said if isinstance(item, kind)]
            assert len(found) >= count, self.said
            return found

        return eventually(heard)[-1]

    def idle(self) -> None:
        """Everything that was asked for until now has been done."""
        before = sum(isinstance(item, inputs.Flushed) for item in self.said)
        self.keeper.flush(list)
        self.hears(inputs.Flushed, before + 1)

    def kinds(self) -> list[str]:
        return [type(item).__name__ for item in self.said]

    def stored(self) -> list[Manifest]:
        """What is committed, oldest first, each verified."""
        manifests = [self.repository.read_manifest(parts.name) for parts in self.repository.manifests()]
        for manifest in manifests:
            assert self.repository.verify(manifest) == []
        return manifests

    def steps(self) -> list[int | None]:
        return [manifest.step for manifest in self.stored()]


class Last:
    """What the watcher finds when it looks once more, as it sorts it: each version until it is committed."""

    def __init__(self, desk: Desk, *candidates: Candidate) -> None:
        self._desk, self.candidates = desk, list(candidates)

    def __call__(self) -> list[Candidate]:
        left = [c for c in self.candidates if c.version not in self._desk.committed]
        return sorted(left, key=lambda candidate: candidate.written_at)


class Door:
    """The next file that is stored waits before it until it is opened."""

    def __init__(self, memory: MemoryStore) -> None:
        self.reached, self.open = threading.Event(), threading.Event()
        real = memory.put_file

        def put_file(key: str, path: Path) -> tuple[int, str]:
            self.reached.set()
            assert self.open.wait(60)
            return real(key, path)

        memory.put_file = put_file  # type: ignore[method-assign]  # a slow store
