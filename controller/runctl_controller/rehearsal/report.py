"""Judging a rehearsal from the run's own record. Pure: a RunDetail goes in, findings come out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from enum import StrEnum
from typing import Any

import msgspec

from runctl_controller.rehearsal import advice
from runctl_shared.messages.replies import AttemptView, RunDetail, StoryView


class Verdict(StrEnum):
    PASS = "pass"  # noqa: S105 - a verdict, no password
    WARNING = "pass, with a warning"
    FAIL = "fail"


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One interruption: what happened to attempt `attempt`, and what its successor made of it.

    Durations are seconds. `notice_seen_after`: from the notice being served to the agent knowing it;
    `signal_after`: from the notice being served to the signal. `save_took`: from the signal to the last write
    of the checkpoint. `seconds_lost`: work undone plus the time in which nothing trained.
    """

    attempt: int
    verdict: Verdict
    why: str
    advice: tuple[str, ...] = ()
    notice_seen_after: float | None = None
    signal_after: float | None = None
    save_took: float | None = None
    upload_took: float | None = None
    size: int | None = None
    step_saved: int | None = None
    step_restored: int | None = None
    first_step: int | None = None
    steps_lost: int | None = None
    seconds_lost: float | None = None


class Report(msgspec.Struct, frozen=True, kw_only=True):
    run: str
    name: str
    verdict: Verdict
    findings: tuple[Finding, ...]
    finished: bool
    exit_code: int | None = None


def judge(detail: RunDetail, wanted: int) -> Report:
    """The report on a run that was to be interrupted `wanted` times."""
    drilled = dict.fromkeys(item.attempt for item in detail.story if item.kind == "drill")
    findings = [_finding(detail, attempt) for attempt in drilled]
    if len(findings) < wanted:
        findings.append(_never_happened(detail))
    order = [Verdict.PASS, Verdict.WARNING, Verdict.FAIL]
    worst = max((f.verdict for f in findings), key=order.index)
    run = detail.run
    finished = run.state == "succeeded"
    return Report(
        run=run.run,
        name=run.name,
        verdict=worst,
        findings=tuple(findings),
        finished=finished,
        exit_code=run.exit_code,
    )


def successor(detail: RunDetail, number: int) -> AttemptView | None:
    """Which attempt went on after `number`: the first later one that trained (others may have failed before),
    or else the last."""
    later = [a for a in detail.attempts if a.attempt > number]
    trained = (a for a in later if a.started_at is not None)
    return next(trained, later[-1] if later else None)


def _never_happened(detail: RunDetail) -> Finding:
    why = f"the run {detail.run.state} before it could be interrupted"
    last = detail.attempts[-1] if detail.attempts else None
    if last is not None and last.detail:
        why += f" ({last.detail})"
    return Finding(
        attempt=last.attempt if last else 0, verdict=Verdict.FAIL, why=why, advice=(advice.INTERRUPT_EARLIER,)
    )


def _finding(detail: RunDetail, number: int) -> Finding:
    before = _attempt(detail, number)
    after = successor(detail, number)
    story = [item for item in detail.story if item.attempt == number]
    drill, notice = _last(story, "drill"), _last(story, "notice")
    asked = _last((s for s in story if s.data.get("cause") == "notice"), "save")
    saved = _last((s for s in story if s.data.get("trigger") == "notice"), "checkpoint")
    resumed = after.attempt if after is not None else None
    first = _last((s for s in detail.story if s.attempt == resumed), "first_step", "not_resumed")
    restored = after.restored_step if after is not None else None
    seen = None if drill is None or notice is None else max(0.0, notice.at - drill.at)
    signal_after = None
    if seen is not None and asked is not None:
        signal_after = seen + _number(asked.data, "seconds_after_cause")
    verdict, why, tips = _verdict(before, after, saved, first)
    return Finding(
        attempt=number,
        verdict=verdict,
        why=why,
        advice=tips,
        notice_seen_after=seen,
        signal_after=signal_after,
        save_took=None if saved is None else _number(saved.data, "save_seconds"),
        upload_took=None if saved is None else _number(saved.data, "upload_seconds"),
        size=None if saved is None else int(_number(saved.data, "size")),
        step_saved=before.saved_step if before is not None else None,
        step_restored=restored,
        first_step=after.first_step if after is not None else None,
        steps_lost=_steps_lost(before, after),
        seconds_lost=_seconds_lost(before, first),
    )


def _verdict(
    before: AttemptView | None, after: AttemptView | None, saved: StoryView | None, first: StoryView | None
) -> tuple[Verdict, str, tuple[str, ...]]:
    """The worst that is true, and what to do about it."""
    if before is None or before.ended_at is None:
        return Verdict.FAIL, "the interruption did not happen", ()
    if after is None:
        return Verdict.FAIL, f"no new attempt was made ({before.reason})", ()
    if after.resumed_from is None and before.saved_step is None and before.resumed_from is None:
        return Verdict.FAIL, "there was no checkpoint at all: everything was lost", (advice.SAVE_AT_ALL,)
    if after.first_step is None and after.reason in ("user_error", "out_of_memory"):
        return Verdict.FAIL, f"the training failed when it resumed: {after.detail}", (advice.LOADS,)
    if after.resumed_from is None:
        return Verdict.FAIL, f"nothing was restored ({after.detail or after.state})", ()
    if first is None or after.first_step is None:
        return Verdict.FAIL, "no step was reported after the resume: nothing proves it", (advice.PRINT_STEPS,)
    if first.kind == "not_resumed":
        why = f"it began again at step {after.first_step}, below the restored {after.restored_step}"
        return Verdict.FAIL, why, (advice.RESUME_ARGUMENT,)
    if after.restored_step is None:
        return (
            Verdict.FAIL,
            "the checkpoint's step is not known: nothing proves the resume",
            (advice.PRINT_STEPS,),
        )
    if before.signal == "SIGKILL":
        why = "it went on when it was asked to save, and was killed; the newest checkpoint resumed"
        return Verdict.WARNING, why, (advice.SAVE_ON_SIGNAL,)
    if saved is None:
        why = "it did not save when it was asked to; the newest periodic checkpoint resumed"
        return Verdict.WARNING, why, (advice.SAVE_ON_SIGNAL,)
    if saved.data.get("manifest") != after.resumed_from:
        why = f"it saved in time, but an older checkpoint was restored (step {after.restored_step})"
        return Verdict.WARNING, why, ()
    return Verdict.PASS, "it saved in time and resumed where it was", ()


def _steps_lost(before: AttemptView | None, after: AttemptView | None) -> int | None:
    """Steps that the successor had to do again; None where nobody knows at which step it went on."""
    if before is None or before.last_step is None or after is None:
        return None
    if after.restored_step is None and after.resumed_from is not None:
        return None
    return max(0, before.last_step - (after.restored_step or 0))


def _seconds_lost(before: AttemptView | None, first: StoryView | None) -> float | None:
    if before is None or before.ended_at is None or first is None:
        return None
    return max(0.0, first.at - before.ended_at) + (before.lost_seconds or 0.0)


def _attempt(detail: RunDetail, number: int) -> AttemptView | None:
    return next((a for a in detail.attempts if a.attempt == number), None)


def _last(story: Iterable[StoryView], *kinds: str) -> StoryView | None:
    found: Sequence[StoryView] = [item for item in story if item.kind in kinds]
    return found[-1] if found else None


def _number(data: dict[str, Any], key: str) -> float:
    value = data.get(key)
    return float(value) if isinstance(value, (int, float)) else 0.0
