"""What lies in a run's checkpoint store, for clients: checkpoints, output, losses; and the end of it."""

from __future__ import annotations

from runctl_shared.checkpoints.manifest import ManifestDamaged
from runctl_shared.checkpoints.objects import ObjectMissing
from runctl_shared.checkpoints.open import open_store
from runctl_shared.checkpoints.repository import RunRepository
from runctl_shared.messages.fitting import fit
from runctl_shared.messages.replies import CheckpointList, CheckpointView, LogPiece, LossPoint, Series
from runctl_shared.spec import RunSpec

LARGEST_PIECE = 512 * 1024
"""Bytes of output in one reply: it must fit into a message."""
MOST_POINTS = 5000
"""Losses in one reply, for the same reason."""


def list_checkpoints(spec: RunSpec) -> CheckpointList:
    """Committed checkpoints, newest first; those that may be restored are marked."""
    repository = RunRepository(open_store(spec.store, create=False), spec.run)
    names = repository.manifests()
    if not names:
        return CheckpointList(checkpoints=(), store=spec.store)
    eligible = {parts.name for parts in repository.eligible()}
    views = []
    for parts in sorted(names, reverse=True):
        try:
            m = repository.read_manifest(parts.name)
        except (ManifestDamaged, ObjectMissing):  # the latter: removed since it was listed
            continue
        views.append(
            CheckpointView(
                manifest=parts.name,
                attempt=m.attempt,
                step=m.step,
                epoch=m.epoch,
                size=m.size,
                files=len(m.files),
                format=m.format,
                trigger=m.trigger,
                committed_at=m.committed_at,
                eligible=parts.name in eligible,
                where=f"{spec.store.rstrip('/')}/{spec.run}/data/{m.id}/{m.root}",
            )
        )
    return CheckpointList(checkpoints=tuple(views), store=spec.store)


def read_log(spec: RunSpec, attempt: int, offset: int, limit: int) -> LogPiece:
    """A piece of what `attempt` printed, as far as it has been stored."""
    logs = RunRepository(open_store(spec.store, create=False), spec.run).logs
    data = logs.read_log(attempt, offset, min(limit, LARGEST_PIECE)) if attempt else b""
    return LogPiece(
        attempt=attempt,
        offset=offset,
        data=data,
        size=logs.log_size(attempt) if attempt else 0,
        attempts=tuple(logs.log_attempts()),
    )


def remove_checkpoints(spec: RunSpec) -> None:
    """Delete everything that the run keeps in its store. Raises ObjectStoreError; asking again goes on."""
    RunRepository(open_store(spec.store, create=False), spec.run).remove()


def read_series(spec: RunSpec, attempt: int, limit: int) -> Series:
    """At most `limit` of the losses that `attempt` (0: any) has reported: evenly chosen, the last among
    them."""
    series = RunRepository(open_store(spec.store, create=False), spec.run).series
    attempts = [attempt] if attempt else series.attempts()
    points = [(number, point) for number in attempts for point in series.read(number)]
    some = max(1, min(limit, MOST_POINTS))
    every = -(-len(points) // some)
    chosen = points[::-1][:: max(1, every)][::-1]
    return Series(
        points=tuple(
            fit(LossPoint(attempt=number, step=p.step, time=p.time, epoch=p.epoch, loss=p.loss))
            for number, p in chosen
        ),
        stored=len(points),
    )
