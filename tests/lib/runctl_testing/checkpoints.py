"""A run in a checkpoint store, and checkpoints to commit to it."""

from __future__ import annotations

from pathlib import Path

from runctl_shared.checkpoints.manifest import Manifest
from runctl_shared.checkpoints.objects import ObjectStore
from runctl_shared.checkpoints.repository import RunRepository
from runctl_shared.checkpoints.upload import Draft, LocalFile, ShouldStop, never, snapshot
from runctl_shared.clock import FakeClock
from runctl_shared.draw import new_id
from runctl_shared.spec import RunSpec

RUN = "run-abcd1234"
SPEC = RunSpec(run=RUN, name="digits", command=("true",), workdir="/", store="memory://")


def repository(store: ObjectStore, clock: FakeClock | None = None) -> RunRepository:
    """The repository of RUN in `store`, with its spec written."""
    made = RunRepository(store, RUN, clock=clock or FakeClock())
    made.write_spec(SPEC)
    return made


def contents(step: int) -> dict[str, bytes]:
    """What the files of the checkpoint of `step` hold, by path: a large one, small ones, an empty one."""
    folder = f"checkpoint-{step}"
    return {
        f"{folder}/model.bin": step.to_bytes(4, "big") * 300_000,
        f"{folder}/sub/optimizer.bin": b"adam" * step,
        f"{folder}/state.json": b"%d" % step,
        f"{folder}/empty": b"",
    }


def write(base: Path, step: int) -> tuple[LocalFile, ...]:
    """Write the checkpoint of `step` under `base`, as a training does."""
    for path, data in contents(step).items():
        (base / path).parent.mkdir(parents=True, exist_ok=True)
        (base / path).write_bytes(data)
    return snapshot(base, contents(step))


def draft(step: int, attempt: int = 1, sequence: int | None = None, checkpoint: str = "") -> Draft:
    """A draft of the checkpoint of `step`; its sequence is the step's if none is given."""
    return Draft(
        id=checkpoint or new_id("ck"),
        attempt=attempt,
        sequence=step if sequence is None else sequence,
        step=step,
        format="generic",
        root=f"checkpoint-{step}",
        single_file=False,
        written_at=1.0,
    )


def commit(
    repo: RunRepository, base: Path, step: int, attempt: int = 1, should_stop: ShouldStop = never
) -> Manifest:
    """Write the checkpoint of `step` under `base` and commit it."""
    return repo.commit(draft(step, attempt), base, write(base, step), should_stop)


def is_whole(folder: Path, step: int) -> bool:
    """Whether `folder` holds the checkpoint of `step`, every byte of it and nothing else."""
    base = folder.parent
    found = {str(path.relative_to(base)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    return found == contents(step)
