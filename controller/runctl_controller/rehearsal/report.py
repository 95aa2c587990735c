"""Judging a rehearsal from the run's own record. Pure: a RunDetail goes in, findings come out."""

from __future__ import annotations

from enum import StrEnum

import msgspec

from runctl_controller.rehearsal import advice, files, fits, interval, resumed
from runctl_controller.rehearsal.evidence import Evidence, gather, number
from runctl_controller.rehearsal.signalled import TIPS, Did, did, told
from runctl_shared.messages.replies import AttemptView, RunDetail, StoryView

DAY = 86400.0


class Verdict(StrEnum):
    PASS = "pass"  # noqa: S105 - a verdict, no password
    WARNING = "pass, with a warning"
    FAIL = "fail"


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One interruption: what happened to attempt `attempt`, and what its successor made of it.

    Durations are seconds. `notice_seen_after`: from the notice being served to the agent knowing it;
    `signal_after`: from the notice being served to the signal. `save_took`: from the signal to the last write
    of the checkpoint, `exit_took` to the training's end. `notice_needed`: from the notice being served to the
    checkpoint being stored, as measured or reckoned. `seconds_lost`: work undone plus the time in which
    nothing trained. `incomplete`: files that it left and that were never whole, with why.
    """

    attempt: int
    verdict: Verdict
    why: str
    advice: tuple[str, ...] = ()
    notice_seen_after: float | None = None
    signal_after: float | None = None
    save_took: float | None = None
    upload_took: float | None = None
    exit_took: float | None = None
    notice_needed: float | None = None
    size: int | None = None
    step_saved: int | None = None
    step_restored: int | None = None
    first_step: int | None = None
    steps_lost: int | None = None
    seconds_lost: float | None = None
    incomplete: tuple[str, ...] = ()


class Report(msgspec.Struct, frozen=True, kw_only=True):
    run: str
    name: str
    verdict: Verdict
    findings: tuple[Finding, ...]
    finished: bool
    exit_code: int | None = None
    advice: tuple[str, ...] = ()


def judge(detail: RunDetail, wanted: int, mtbf: float = DAY) -> Report:
    """The report on a run that was to be interrupted `wanted` times, and is interrupted every `mtbf` seconds
    in earnest."""
    drilled = dict.fromkeys(item.attempt for item in detail.story if item.kind == "drill")
    evidence = {attempt: gather(detail, attempt) for attempt in drilled}
    findings = [_finding(found, attempt) for attempt, found in evidence.items()]
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
        advice=interval.tips(interval.measured(detail, list(evidence.values())), mtbf),
    )


def _never_happened(detail: RunDetail) -> Finding:
    why = f"the run {detail.run.state} before it could be interrupted"
    last = detail.attempts[-1] if detail.attempts else None
    if last is not None and last.detail:
        why += f" ({last.detail})"
    return Finding(
        attempt=last.attempt if last else 0, verdict=Verdict.FAIL, why=why, advice=(advice.INTERRUPT_EARLIER,)
    )


def _finding(found: Evidence, attempt: int) -> Finding:
    before, after, saved = found.before, found.after, found.saved
    verdict, why, tips = _verdict(found)
    more = (*files.tips(found), *fits.tips(found))
    wanted = fits.need(found)
    return Finding(
        attempt=attempt,
        verdict=verdict,
        why=why,
        advice=tuple(dict.fromkeys((*tips, *more))),
        notice_seen_after=found.seen_after,
        signal_after=found.signal_after,
        save_took=None if saved is None else number(saved, "save_seconds"),
        upload_took=None if saved is None else number(saved, "upload_seconds"),
        exit_took=found.exit_took,
        notice_needed=None if wanted is None else wanted.total,
        size=None if saved is None else int(number(saved, "size")),
        step_saved=before.saved_step if before is not None else None,
        step_restored=after.restored_step if after is not None else None,
        first_step=after.first_step if after is not None else None,
        steps_lost=_steps_lost(before, after),
        seconds_lost=_seconds_lost(before, found.first),
        incomplete=files.incomplete(found),
    )


def _verdict(found: Evidence) -> tuple[Verdict, str, tuple[str, ...]]:
    """The worst that is true, and what to do about it."""
    before, after = found.before, found.after
    if before is None or before.ended_at is None:
        return Verdict.FAIL, "the interruption did not happen", ()
    if after is None:
        return Verdict.FAIL, f"no new attempt was made ({before.reason})", ()
    if after.resumed_from is None and before.saved_step is None and before.resumed_from is None:
        more = () if did(found) is Did.UNKNOWN else TIPS[did(found)]
        if found.incomplete:  # the rest is said of the files
            why = f"no checkpoint was ever complete ({files.listed(found)}): everything was lost"
            return Verdict.FAIL, why, more
        why = "there was no checkpoint at all: everything was lost"
        return Verdict.FAIL, why, (advice.SAVE_AT_ALL, *more)
    if resumed.not_understood(found):
        why = f"the command did not understand its resume argument: {after.detail}"
        return Verdict.FAIL, why, (resumed.argument_tip(found),)
    if after.first_step is None and after.reason in ("user_error", "out_of_memory"):
        return Verdict.FAIL, f"the training failed when it resumed: {after.detail}", (advice.LOADS,)
    if after.resumed_from is None:
        return Verdict.FAIL, f"nothing was restored ({after.detail or after.state})", ()
    return _proof(found, after) or _quality(found, after)


def _proof(found: Evidence, after: AttemptView) -> tuple[Verdict, str, tuple[str, ...]] | None:
    """Why nothing proves that it resumed; None when it is proven."""
    if found.first is None or after.first_step is None:
        return Verdict.FAIL, "no step was reported after the resume: nothing proves it", (advice.PRINT_STEPS,)
    if found.first.kind == "not_resumed":
        why = f"it began again at step {after.first_step}, below the restored {after.restored_step}"
        return Verdict.FAIL, why, (resumed.began_again_tip(found),)
    if after.restored_step is None:
        why = "the checkpoint's step is not known: nothing proves the resume"
        return Verdict.FAIL, why, (advice.PRINT_STEPS,)
    return None


def _quality(found: Evidence, after: AttemptView) -> tuple[Verdict, str, tuple[str, ...]]:
    """It resumed: what did it lose?"""
    what = did(found)
    if found.saved is None:
        return Verdict.WARNING, f"{told(found)}; the newest periodic checkpoint resumed", TIPS[what]
    if found.saved.data.get("manifest") != after.resumed_from:
        why = f"it saved in time, but an older checkpoint was restored (step {after.restored_step})"
        return Verdict.WARNING, why, TIPS[what]
    if what is Did.WENT_ON:
        return Verdict.WARNING, told(found), TIPS[what]
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
