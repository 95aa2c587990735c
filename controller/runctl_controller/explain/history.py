"""How a run came to be as it is: attempt by attempt, each decision with its evidence."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator

from runctl_controller.core.keeping import UNKNOWN_END
from runctl_controller.core.reasons import RULES, Next
from runctl_controller.explain.notices import drilled_by, hints, named, newest_interruption
from runctl_controller.explain.said import Case, Part, Said, ended_by
from runctl_controller.explain.storing import why_lost
from runctl_shared.messages.replies import AttemptView, StoryView
from runctl_shared.units import format_duration

MOST = 12
"""Attempts that are told one by one: the newest."""

THEN: dict[Next, str] = {
    Next.FINISH: "that finishes the run",
    Next.RESTART: "it is tried again only as often as --max-restarts grants",
    Next.AT_ONCE: "another attempt follows at once",
    Next.ELSEWHERE: "another attempt follows at once, on another machine",
    Next.AFTER_WAIT: "another attempt follows after a wait",
    Next.PAUSE: "the run pauses",
    Next.PERSON: "trying again cannot help, so it waits for a person",
}
"""What follows from an end, by its rule."""


def asked(case: Case) -> Iterator[Said]:
    run, spec = case.run, case.detail.spec
    who = spec.requested_by or "Somebody"
    command = shlex.join(spec.command)
    yield Said(
        Part.ASKED,
        f"{who} asked for {run.name}{case.at(run.created_at)}: {command} (in {spec.workdir}).",
        run.created_at,
    )
    limit = "without a limit of time" if spec.max_seconds is None else _limit(spec.max_seconds)
    granted = {0: "no restart", 1: "1 restart"}.get(spec.max_restarts, f"{spec.max_restarts} restarts")
    yield Said(
        Part.ASKED,
        f"It is to train {limit}, with {granted} after errors of its own; checkpoints go to {spec.store}.",
    )


def _limit(seconds: float) -> str:
    return f"for at most {format_duration(seconds)}"


def happened(case: Case) -> Iterator[Said]:
    attempts = case.detail.attempts
    if len(attempts) > MOST:
        left = len(attempts) - MOST
        yield Said(Part.HAPPENED, f"Attempts 1 to {left} are left out here: `runctl show {case.name}`.")
    for attempt in attempts[-MOST:]:
        yield Said(Part.HAPPENED, _launched(case, attempt), attempt.created_at)
        if attempt.started_at is not None:
            yield Said(Part.HAPPENED, _began(case, attempt), attempt.started_at)
        yield from hints(case, attempt.attempt)
        if attempt.state == "ended":
            yield Said(Part.HAPPENED, _ended(case, attempt), attempt.ended_at)


# -- why it was launched ------------------------------------------------------------------------


def _submitted(case: Case, attempt: AttemptView) -> str:
    return "the run was asked for"


def _resumed(case: Case, attempt: AttemptView) -> str:
    item = _newest(case, "resume", before=attempt.created_at)
    who = "somebody" if item is None else item.actor.removeprefix("user:")
    return f"{who} wanted it to go on"


def _noticed(case: Case, attempt: AttemptView) -> str:
    before = attempt.attempt - 1
    item = newest_interruption(case, before, attempt.created_at)
    if item is None:
        return f"the machine of attempt {before} is to be taken"
    when = f"{case.at(item.at)}{named(case, item)}"
    if (user := drilled_by(case, item)) is not None:
        return f"{user} had attempt {before} interrupted (a drill): the notice{when}"
    provider = case.machine(before)
    whose = "the provider" if provider is None else provider.provider
    return f"attempt {before} was interrupted: {whose}'s notice{when}"


def _followed(case: Case, attempt: AttemptView) -> str:
    before = [a for a in case.detail.attempts if a.attempt < attempt.attempt and a.state == "ended"]
    if not before:
        return "the one before had ended"
    last = before[-1]
    rule = RULES.get(last.reason or "")
    what = f"attempt {last.attempt} had ended"
    return what if rule is None else f"{what} ({last.reason}): then {THEN[rule.next]}"


CAUSES: dict[str, Callable[[Case, AttemptView], str]] = {
    "submitted": _submitted,
    "resumed": _resumed,
    "notice": _noticed,
    "ended": _followed,
}


def _launched(case: Case, attempt: AttemptView) -> str:
    cause = attempt.cause or ("submitted" if attempt.attempt == 1 else "ended")
    why = CAUSES[cause](case, attempt) if cause in CAUSES else "the one before had ended"
    return f"Attempt {attempt.attempt} was launched{case.at(attempt.created_at)} because {why}."


# -- how it trained -----------------------------------------------------------------------------


def _began(case: Case, attempt: AttemptView) -> str:
    text = f"Its training started{case.at(attempt.started_at)}"
    if attempt.resumed_from is None:
        return f"{text} from the beginning."
    step = "a checkpoint" if attempt.restored_step is None else f"step {attempt.restored_step}"
    text += f" from {step}, restored and verified"
    if attempt.first_step is None or attempt.restored_step is None:
        return f"{text}; no step of it is known yet that would prove that it resumed."
    if attempt.first_step < attempt.restored_step:
        return f"{text}; but its first step was {attempt.first_step}, which is below: it did not resume."
    return f"{text}; its first step was {attempt.first_step}, which proves that it resumed."


# -- how it ended -------------------------------------------------------------------------------


def _exit(case: Case, attempt: AttemptView) -> str:
    if attempt.signal is not None:
        return f"the command was ended by {attempt.signal}"
    code = "an error" if attempt.exit_code is None else f"code {attempt.exit_code}"
    return f"the command exited with {code}"


def _notice(case: Case, attempt: AttemptView) -> str:
    item = newest_interruption(case, attempt.attempt)
    if item is None:
        return "its agent said so" if list(hints(case, attempt.attempt)) else _gone(case, attempt)
    when = f"{case.at(item.at)}{named(case, item)}"
    user = drilled_by(case, item)
    if user is not None:
        return f"{user} had it interrupted (a drill): the notice came{when}"
    return f"the provider gave notice{when}"


def _gone(case: Case, attempt: AttemptView) -> str:
    machine = case.machine(attempt.attempt)
    if machine is None and attempt.detail == UNKNOWN_END:
        return "this computer does not know its machine"
    if attempt.detail == UNKNOWN_END and machine is not None and machine.state != "terminated":
        return "only its store tells of it"
    if machine is None or machine.state != "terminated":
        return "its agent said so"
    if not machine.cause and machine.absent_since is not None:
        came = _newest(case, "imported")
        if came is not None and (attempt.created_at or 0.0) <= came.at:
            return "this computer does not know its machine"
        return f"the provider does not list the machine any more{case.since(machine.absent_since)}"
    cause = f" ({machine.cause})" if machine.cause else ""
    return f"the provider says that the machine is gone{case.at(machine.ended_at)}{cause}"


def _provider(case: Case, attempt: AttemptView) -> str:
    return "that was the provider's answer to the launch"


def _agent(case: Case, attempt: AttemptView) -> str:
    return "its agent reported it"


def _user(case: Case, attempt: AttemptView) -> str:
    asked = [item for kind in ("stop", "cancel") if (item := _newest(case, kind)) is not None]
    if not asked:
        return "it was asked to end"
    item = max(asked, key=lambda each: each.at)
    return f"{item.actor.removeprefix('user:')} asked for it{case.at(item.at)}"


def _other(case: Case, attempt: AttemptView) -> str:
    if attempt.started_at is None and not attempt.permitted:
        return "it had never got the permission to train, so nothing was lost by it"
    return _gone(case, attempt)


EVIDENCE: dict[str, Callable[[Case, AttemptView], str]] = {
    "succeeded": _exit,
    "user_error": _exit,
    "out_of_memory": _agent,
    "interrupted": _notice,
    "lost": _gone,
    "hardware_fault": _agent,
    "no_capacity": _provider,
    "quota": _provider,
    "refused": _provider,
    "boot_failed": _gone,
    "stage_failed": _agent,
    "store_failed": _agent,
    "agent_failed": _agent,
    "stalled": _agent,
    "stopped": _user,
    "over_budget": _agent,
    "time_limit": _agent,
    "replaced": _other,
}
"""By what it is known that an attempt ended for that reason."""


def _ended(case: Case, attempt: AttemptView) -> str:
    reason = attempt.reason or "lost"
    rule = RULES.get(reason)
    what = attempt.detail or ("" if rule is None else rule.sentence)
    if reason == "interrupted" and (item := newest_interruption(case, attempt.attempt)) is not None:
        what = what if drilled_by(case, item) is None else "its machine was to be taken"
    evidence = EVIDENCE[reason](case, attempt) if reason in EVIDENCE else "it is on record"
    text = f"Attempt {attempt.attempt} ended{case.at(attempt.ended_at)}: {reason} ({what.rstrip('.')})"
    return ended_by(f"{text}; {evidence}{_lost(case, attempt)}")


def _lost(case: Case, attempt: AttemptView) -> str:
    if attempt.started_at is None:
        return ""
    saved = "" if attempt.saved_step is None else f" (saved: step {attempt.saved_step})"
    if not attempt.lost_seconds:
        return f"; no work was lost{saved}"
    steps = "" if attempt.lost_steps is None else f", {attempt.lost_steps} steps"
    return (
        f"; {format_duration(attempt.lost_seconds)} of work were lost{steps}{saved}{why_lost(case, attempt)}"
    )


def _newest(
    case: Case, kind: str, attempt: int | None = None, before: float | None = None
) -> StoryView | None:
    """The newest item of that kind in the story, as far as the story is at hand."""
    for item in reversed(case.detail.story):
        late = before is not None and item.at > before
        if item.kind == kind and not late and attempt in (None, item.attempt):
            return item
    return None
