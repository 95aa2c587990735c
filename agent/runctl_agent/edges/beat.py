"""Heartbeats: how it goes, at a steady pace, past the core."""

from __future__ import annotations

from runctl_agent.core.model import State
from runctl_agent.core.movement import since
from runctl_agent.core.phases import ALIVE
from runctl_agent.host_metrics import HostMetrics
from runctl_agent.progress.feed import ProgressFeed
from runctl_shared.messages.events import Gpu, Heartbeat


def heartbeat(
    state: State,
    feed: ProgressFeed,
    metrics: HostMetrics,
    pid: int | None,
    last_sequence: int,
    now: float,
    gpus: tuple[Gpu, ...] = (),
) -> Heartbeat:
    """The present state, as the controller and its clients see it. `now`: monotonic seconds."""
    sample = metrics.sample(pid)
    with feed.lock:
        tracker = feed.tracker
        step, epoch, loss = tracker.step, tracker.epoch, tracker.loss
        total, rate = tracker.total, tracker.rate(now)
    return Heartbeat(
        phase=state.phase.value,
        step=step,
        total_steps=total,
        steps_per_second=rate,
        epoch=epoch,
        loss=loss,
        saved_step=state.saved_step,
        at_risk_seconds=at_risk(state, now),
        cpu_percent=sample.cpu_percent,
        memory_percent=100.0 * sample.memory_used / max(1, sample.memory_total),
        disk_free=sample.disk_free,
        training_rss=sample.trainer_rss,
        lease_left=max(0.0, state.lease_until - now),
        last_sequence=last_sequence,
        gpus=gpus,
        stalled_seconds=_stalled(state, now),
    )


def _stalled(state: State, now: float) -> float:
    """Seconds without a sign of life, once it is told that the training has stalled."""
    began = since(state)
    return 0.0 if state.stalled_at is None or began is None else max(0.0, now - began)


def at_risk(state: State, now: float) -> float:
    """Seconds of training since the newest verified checkpoint was written."""
    if state.started_at is None or state.phase not in ALIVE:
        return 0.0
    since = state.saved_at if state.saved_at is not None else state.started_at
    return max(0.0, now - since)
