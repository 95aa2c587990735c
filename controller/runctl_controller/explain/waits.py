"""What is so now, what ends the wait, and what the user can do: one table for each life-cycle."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from runctl_controller.core.limits import seconds_used, used_up
from runctl_controller.core.reasons import RULES
from runctl_controller.explain.said import Case, Part, Said, ended_by, times
from runctl_controller.explain.storing import mend, unstored
from runctl_shared.messages.replies import AttemptView, MachineView

Sentences = tuple[str, str]
"""What is so now, and what ends the wait."""

# -- runs ---------------------------------------------------------------------------------------


def _queued(case: Case) -> Sentences:
    return f"It is queued{case.since(case.run.since)}: no attempt is on record yet.", (
        "The controller plans the first attempt as soon as it has taken the request."
    )


def _waits(case: Case) -> Sentences:
    """Open, and no attempt is."""
    run, last = case.run, case.last
    if run.retry_at is None:
        return f"It is {run.state}{case.since(run.since)}, and no attempt is open.", (
            "The controller plans the next attempt."
        )
    rule = RULES.get(last.reason or "") if last is not None else None
    why = "" if rule is None or last is None else f", because attempt {last.attempt} ended: {rule.sentence}"
    row = f"; that was {times(run.fruitless)} in a row without progress" if run.fruitless > 1 else ""
    if rule is not None and rule.patience is not None and run.fruitless:
        row += f" (after {rule.patience} it waits for you instead)"
    return f"It waits before attempt {run.attempt + 1}{why}{row}.", (
        f"Attempt {run.attempt + 1} begins {case.until(run.retry_at)}."
    )


def _paused(case: Case) -> Sentences:
    why = f": {case.run.why}" if case.run.why else ""
    when = "resumes it with a greater time limit" if _over_limit(case) else "resumes it"
    return ended_by(f"It is paused{case.since(case.run.since)}{why}"), (
        f"Nothing is waited for: it goes on when somebody {when}."
    )


def _stuck(case: Case) -> Sentences:
    why = case.run.why or "its attempts end without progress"
    return ended_by(f"It is stuck{case.since(case.run.since)}: {why}"), (
        "Nothing is waited for but you: trying again by itself would not help."
    )


def _succeeded(case: Case) -> Sentences:
    return f"It has succeeded{case.at(case.run.ended_at)}.", "Nothing is waited for."


def _failed(case: Case) -> Sentences:
    why = case.run.why or "the training failed"
    spent = case.detail.spec.max_restarts
    granted = f"its {spent} granted restarts are used up" if spent else "no restart was granted"
    return ended_by(f"It has failed{case.at(case.run.ended_at)}: {why}; {granted}"), "Nothing is waited for."


def _cancelled(case: Case) -> Sentences:
    return (
        f"It was cancelled{case.at(case.run.ended_at)}; its checkpoints are kept.",
        "Nothing is waited for.",
    )


RUN: dict[str, Callable[[Case], Sentences]] = {
    "queued": _queued,
    "provisioning": _waits,
    "preparing": _waits,
    "training": _waits,
    "saving": _waits,
    "recovering": _waits,
    "paused": _paused,
    "stuck": _stuck,
    "succeeded": _succeeded,
    "failed": _failed,
    "cancelled": _cancelled,
}
"""For a run without an open attempt; while one is open, that one's sentences are told (ATTEMPT)."""

# -- attempts -----------------------------------------------------------------------------------


def _launching(case: Case, a: AttemptView) -> Sentences:
    machine = case.machine(a.attempt)
    asked = "" if machine is None or machine.asks < 2 else f", {times(machine.asks)} so far"
    trouble = "" if machine is None or not machine.trouble else f"; it said: {machine.trouble.rstrip('.')}"
    provider = "The provider" if machine is None else machine.provider
    return (
        f"{provider} is asked for a machine for attempt {a.attempt}{case.since(a.since)}{asked}{trouble}.",
        (f"It goes on when {provider} answers with a machine, or when the machine's agent reports."),
    )


def _booting(case: Case, a: AttemptView) -> Sentences:
    return f"The machine of attempt {a.attempt} boots{case.since(a.since)}: its agent has not reported.", (
        "It goes on when the agent reports; if it never does, the machine ends itself, and another is tried."
    )


def _staging(case: Case, a: AttemptView) -> Sentences:
    return (
        f"Attempt {a.attempt} makes ready{case.since(a.since)}: its agent fetches what the training needs.",
        "It goes on when the agent says that everything is there.",
    )


def _ready(case: Case, a: AttemptView) -> Sentences:
    if case.run.wanted in ("pause", "cancel"):
        return f"Attempt {a.attempt} is ready and not started, because the run is to {case.run.wanted}.", (
            "Its machine is being ended."
        )
    return f"Attempt {a.attempt} is ready{case.since(a.since)} and gets the permission to train next.", (
        "It goes on at once."
    )


def _starting(case: Case, a: AttemptView) -> Sentences:
    return (
        f"Attempt {a.attempt} may train{case.since(a.since)}, for every attempt before it has ended:"
        " it claims the run, restores and starts.",
        "It goes on when the agent reports that the training runs; until then the permission is repeated.",
    )


def _training(case: Case, a: AttemptView) -> Sentences:
    run = case.run
    step = "" if run.step is None else f", at step {run.step}"
    saved = "no checkpoint is stored yet" if run.saved_step is None else f"step {run.saved_step} is stored"
    return f"Attempt {a.attempt} trains{case.since(a.started_at)}{step}; {saved}.", (
        "It goes on until the command exits, the machine is taken, or somebody stops it."
    )


def _saving(case: Case, a: AttemptView) -> Sentences:
    return f"Attempt {a.attempt} saves{case.since(a.since)}, {_why_saving(case, a)}.", (
        "It goes on when what the training saves is complete and stored, or when its time to do so is over."
    )


def _why_saving(case: Case, a: AttemptView) -> str:
    if a.stop_sent:
        return f"because the run is to {case.run.wanted or 'end'}"
    if a.noticed_at is not None:
        goes = "" if a.deadline_at is None else f": its machine goes {case.until(a.deadline_at)}"
        return f"because of the notice{case.at(a.noticed_at)}{goes}"
    return "because it was asked to"


def _over(case: Case, a: AttemptView) -> Sentences:
    return f"Attempt {a.attempt} has ended{case.at(a.ended_at)}.", "Nothing is waited for of it."


ATTEMPT: dict[str, Callable[[Case, AttemptView], Sentences]] = {
    "launching": _launching,
    "booting": _booting,
    "staging": _staging,
    "ready": _ready,
    "starting": _starting,
    "training": _training,
    "saving": _saving,
    "ended": _over,
}


def _standby(case: Case, a: AttemptView, before: AttemptView) -> str:
    """An attempt that waits for another's end."""
    text = f"Attempt {a.attempt} is {a.state}{case.since(a.since)} and not started yet, because attempt"
    text += f" {before.attempt} has not ended"
    machine = case.machine(before.attempt)
    if machine is not None and machine.looked_at is not None:
        text += f"; its machine was last asked about {case.ago(machine.looked_at)} ({machine.state})"
    return f"{text}: two machines never train the same run."


def _unheard(case: Case, a: AttemptView) -> Iterator[str]:
    if a.unheard_since is None and not a.unheard:
        return
    since = case.since(a.unheard_since)
    machine = case.machine(a.attempt)
    asked = ""
    if machine is not None and machine.looked_at is not None:
        asked = f" The provider was asked {case.ago(machine.looked_at)}: it is {machine.state}."
    yield (
        f"Its agent has not been heard{since}. Silence is not death: it may well train on, so nothing"
        f" replaces it yet.{asked}"
    )


def _last_words(case: Case, a: AttemptView) -> Iterator[str]:
    machine = case.machine(a.attempt)
    if machine is None or machine.state != "terminated":
        return
    read = f" {times(a.end_reads)} in vain: {a.store_error.rstrip('.')}" if a.end_reads else ""
    yield (
        f"Its machine is gone{case.at(machine.ended_at)}; what its agent recorded last is looked for in the"
        f" checkpoint store{read}."
    )


# -- machines -----------------------------------------------------------------------------------


def _asked_for(case: Case, m: MachineView) -> str:
    return (
        f"Machine {m.machine} is on record{case.since(m.since)}; {m.provider} has not answered with it yet."
    )


def _running(case: Case, m: MachineView) -> str:
    text = f"Machine {m.machine} runs{case.since(m.launched_at)}"
    attempt = next((a for a in case.detail.attempts if a.attempt == m.attempt), None)
    if attempt is None or attempt.state != "ended":
        return f"{text}."
    goes = "" if attempt.deadline_at is None else f" {case.until(attempt.deadline_at)}"
    return f"{text}, though attempt {m.attempt} has ended: {m.provider} takes it{goes}, else it is ended."


def _unconfirmed(case: Case, m: MachineView) -> str:
    asked = f" ({times(m.asks - 1)})" if m.asks > 2 else ""
    text = f"Machine {m.machine} was asked to end{case.at(m.since)}{asked}"
    text += f", and {m.provider} has not said that it is gone"
    if m.looked_at is not None:
        text += f": last asked {case.ago(m.looked_at)}"
    if m.absent_since is not None:
        text += f"; it is no longer listed{case.since(m.absent_since)}, which has to last to be believed"
    if m.trouble:
        text += f"; {m.trouble.rstrip('.')}"
    return f"{text}. Until then it may cost money."


def _terminated(case: Case, m: MachineView) -> str:
    cause = f" ({m.cause})" if m.cause else ""
    return f"Machine {m.machine} is gone{case.at(m.ended_at)}{cause}, {m.provider} says."


MACHINE: dict[str, Callable[[Case, MachineView], str]] = {
    "launching": _asked_for,
    "running": _running,
    "unconfirmed": _unconfirmed,
    "terminated": _terminated,
}

# -- all of it ----------------------------------------------------------------------------------


def now_and_next(case: Case) -> Iterator[Said]:
    current, run = case.current, case.run
    closed = run.state in ("paused", "stuck", "succeeded", "failed", "cancelled")
    if current is None or closed:
        told, ends = RUN[run.state](case) if run.state in RUN else _waits(case)
        yield Said(Part.NOW, told, run.since)
    else:
        row = ATTEMPT.get(current.state, _over)
        told, ends = row(case, current)
        yield Said(Part.NOW, told, current.since)
    yield from unstored(case)
    for text in _besides(case, current):
        yield Said(Part.NOW, text)
    yield Said(Part.NEXT, ends)
    if current is not None and any(a.state != "ended" and a is not current for a in case.detail.attempts):
        yield Said(
            Part.NEXT,
            f"The next attempt gets the permission once attempt {current.attempt} has ended: by its own last"
            " record, or by the provider's word that its machine is gone.",
        )
    if any(m.state == "unconfirmed" for m in case.detail.machines):
        yield Said(
            Part.NEXT, "The machine that is not confirmed gone is asked about again, ever more seldom."
        )


def _besides(case: Case, current: AttemptView | None) -> Iterator[str]:
    if current is not None:
        yield from _unheard(case, current)
        yield from _last_words(case, current)
        for attempt in case.detail.attempts:
            if attempt.state != "ended" and attempt.attempt > current.attempt:
                yield _standby(case, attempt, current)
    for machine in case.detail.machines:
        if machine.state != "terminated":
            yield MACHINE.get(machine.state, _running)(case, machine)


# -- what the user can do -----------------------------------------------------------------------

_GOING = (
    "Watch it: runctl logs -f {name}.",
    "Save and stop: runctl stop {name}; end it: runctl cancel {name}.",
)
_WAITING = ("Stop it: runctl stop {name}; end it for good: runctl cancel {name}.",)
_MORE = "runctl resume --max-hours HOURS {name}"
_AGAIN = "Go on from the newest verified checkpoint: runctl resume {name}."

YOU: dict[str, tuple[str, ...]] = {
    "queued": _WAITING,
    "provisioning": _WAITING,
    "preparing": _WAITING,
    "training": _GOING,
    "saving": _GOING,
    "recovering": _WAITING,
    "paused": (_AGAIN,),
    "stuck": (
        "See what it printed: runctl logs {name}.",
        "Mend what is named above, then: runctl resume {name}.",
    ),
    "succeeded": ("Its checkpoints: runctl checkpoints {name}.",),
    "failed": ("See what it printed: runctl logs {name}.", _AGAIN),
    "cancelled": ("Its checkpoints: runctl checkpoints {name}.",),
}


def _over_limit(case: Case) -> str:
    return used_up(case.detail.spec, seconds_used(case.detail.ledger, case.now))


def you(case: Case) -> Iterator[Said]:
    if case.run.wanted in ("pause", "cancel") and case.current is not None:
        yield Said(Part.YOU, "Nothing: it was asked to end, and does so.")
        return
    yield from mend(case)
    over = _over_limit(case)
    for text in YOU.get(case.run.state, ()):
        if over and "runctl resume" in text:
            text = f"It {over}: to go on, give it more, in hours since its beginning: {_MORE}."
        yield Said(Part.YOU, text.format(name=case.name))
