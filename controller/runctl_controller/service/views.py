"""What clients see of a run. Pure: records and heartbeats to replies."""

from __future__ import annotations

from collections.abc import Sequence

from runctl_controller.core.effects import Tell
from runctl_controller.core.ledger import dollars
from runctl_controller.core.model import Attempt, Interval, Machine, Record
from runctl_controller.store.port import Beat
from runctl_shared.messages.events import Heartbeat
from runctl_shared.messages.replies import (
    AttemptView,
    IntervalView,
    MachineView,
    RunDetail,
    RunView,
    StoryView,
)
from runctl_shared.units import LONGEST


def run_view(record: Record, beat: Beat | None, now: float) -> RunView:
    """The run in one line; `beat` is the newest heartbeat of its current attempt's agent."""
    run, spec = record.run, record.run.spec
    attempt = record.current or (record.attempts[-1] if record.attempts else None)
    live = beat.body if beat is not None and attempt is not None and beat.agent == attempt.agent else None
    open_ = attempt is not None and attempt.open
    # A save on the signal is often beyond the last step that was printed.
    told = (live.step if live else None, *((attempt.last_step, attempt.saved_step) if attempt else ()))
    steps = [step for step in told if step is not None]
    return RunView(
        run=run.id,
        name=spec.name,
        project=spec.project,
        state=run.state.value,
        why=run.why,
        attempt=attempt.number if attempt else 0,
        phase=live.phase if live is not None and open_ else (attempt.state.value if attempt else ""),
        step=max(steps, default=None),
        total_steps=live.total_steps if live else None,
        steps_per_second=live.steps_per_second if live and open_ else None,
        eta=eta(live) if open_ else None,
        epoch=live.epoch if live else None,
        loss=live.loss if live else None,
        saved_step=_saved_step(record),
        at_risk_seconds=at_risk(attempt, live, beat, now),
        unheard=open_ and attempt is not None and attempt.unheard_since is not None,
        dollars=dollars(record.intervals, now),
        created_at=run.created_at,
        ended_at=run.ended_at,
        exit_code=run.exit_code,
        since=run.since,
        wanted=run.wanted.value,
        restarts=run.restarts,
        fruitless=run.fruitless,
        retry_at=run.retry_at,
        stalled_seconds=live.stalled_seconds if live is not None and open_ else 0.0,
        gpus=live.gpus if live is not None and open_ else (),
    )


def eta(live: Heartbeat | None) -> float | None:
    """Seconds that the rest of the training takes at its present rate, as its last heartbeat told; None
    when that is not known, or when nothing goes on."""
    if live is None or live.step is None or live.total_steps is None or not live.steps_per_second:
        return None
    left = max(0, live.total_steps - live.step) / live.steps_per_second
    return left if 0 <= left <= LONGEST else None


def at_risk(attempt: Attempt | None, live: Heartbeat | None, beat: Beat | None, now: float) -> float:
    """Seconds of training since the newest verified checkpoint, as far as known here; for an attempt that
    has ended, what was lost. An agent that is not heard may be training: then it goes on growing.
    """
    if attempt is None:
        return 0.0
    if not attempt.open:
        return attempt.lost_seconds or 0.0
    since_commit = None if attempt.saved_at is None else max(0.0, now - attempt.saved_at)
    if live is None or beat is None or not live.at_risk_seconds:
        return 0.0 if live is not None or since_commit is None else since_commit
    told = live.at_risk_seconds + max(0.0, now - beat.at)
    return told if since_commit is None else min(told, since_commit)


def _saved_step(record: Record) -> int | None:
    """The step of the newest verified checkpoint of any attempt, as far as it was reported."""
    for attempt in reversed(record.attempts):
        if attempt.saved_step is not None:
            return attempt.saved_step
        if attempt.restored_step is not None:
            return attempt.restored_step
    return None


def run_detail(record: Record, beat: Beat | None, story: Sequence[Tell], now: float) -> RunDetail:
    return RunDetail(
        run=run_view(record, beat, now),
        spec=record.run.spec,
        attempts=tuple(_attempt(a) for a in record.attempts),
        machines=tuple(_machine(m) for m in record.machines),
        ledger=tuple(_interval(i) for i in record.intervals),
        story=tuple(story_view(item) for item in story),
    )


def _attempt(a: Attempt) -> AttemptView:
    return AttemptView(
        attempt=a.number,
        state=a.state.value,
        reason=a.reason,
        detail=a.detail,
        exit_code=a.exit_code,
        signal=a.signal,
        unheard=a.unheard_since is not None,
        started_at=a.started_at,
        ended_at=a.ended_at,
        resumed_from=a.resumed_from,
        restored_step=a.restored_step,
        first_step=a.first_step,
        last_step=a.last_step,
        saved_step=a.saved_step,
        lost_seconds=a.lost_seconds,
        lost_steps=a.lost_steps,
        cause=a.cause.value if a.cause is not None else "",
        created_at=a.created_at,
        since=a.since,
        permitted=a.permitted,
        stop_sent=a.stop_sent,
        stop_saves=a.stop_saves,
        unheard_since=a.unheard_since,
        noticed_at=a.noticed_at,
        deadline_at=a.deadline_at,
        end_reads=a.end_reads,
        store_error=a.store_error,
        commits=a.commits,
    )


def _machine(m: Machine) -> MachineView:
    return MachineView(
        machine=m.id,
        attempt=m.attempt,
        provider=m.order.offer.provider,
        provider_id=m.provider_id,
        state=m.state.value,
        cause=m.cause,
        launched_at=m.launched_at,
        ended_at=m.ended_at,
        since=m.since,
        asks=m.asks,
        looked_at=m.looked_at,
        absent_since=m.absent_since,
        trouble=m.trouble,
    )


def _interval(i: Interval) -> IntervalView:
    return IntervalView(
        machine=i.machine, attempt=i.attempt, use=i.use, start=i.start, end=i.end, price=i.price
    )


def story_view(item: Tell, number: int = 0) -> StoryView:
    return StoryView(
        at=item.at,
        attempt=item.attempt,
        kind=item.kind,
        text=item.text,
        actor=item.actor,
        data=item.data,
        number=number,
    )
