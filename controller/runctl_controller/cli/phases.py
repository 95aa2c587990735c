"""What happens to a run, in lines for people who watch it. Pure."""

from __future__ import annotations

from datetime import datetime

from runctl_shared.messages.replies import AttemptView, RunDetail, RunView, StoryView
from runctl_shared.units import format_bytes, format_duration

SELDOM = 60.0
"""Seconds between two lines about periodic checkpoints: the status line has the others."""
_AS_IT_IS = frozenset(
    {
        "attempt", "damaged", "not_resumed", "stop", "cancel", "resume", "drill", "drill_failed", "notice",
        "ended", "unheard", "heard", "fenced", "provider", "store", "checkpoint_failed", "not_supported",
        "gpu_fault", "stalled", "moves", "incomplete", "shared_file",
    }
)  # fmt: skip
_TOO_MUCH = (" may train", " is asked to end")


class Teller:
    """Remembers what it has told, so that it does not tell too much."""

    def __init__(self) -> None:
        self._periodic: tuple[int, float] = (0, 0.0)

    def line(self, story: StoryView) -> str | None:
        """What to tell about `story`, if anything."""
        if story.kind in _AS_IT_IS:
            return None if story.text.endswith(_TOO_MUCH) else story.text
        if story.kind == "registered":
            return f"attempt {story.attempt}: the machine is up"
        if story.kind == "training":
            return f"attempt {story.attempt}: {story.text}"
        if story.kind == "restored":
            return f"attempt {story.attempt}: {_saved('restored', story)}, verified"
        if story.kind == "first_step" and story.data.get("restored_step") is not None:
            return f"attempt {story.attempt}: resumed, {story.text}"
        if story.kind == "save":
            return f"the training is asked to save ({story.data.get('signal')})"
        if story.kind == "checkpoint":
            return self._checkpoint(story)
        if story.kind == "machine" and story.data.get("cause") not in ("asked", "itself"):
            return story.text
        return None

    def _checkpoint(self, story: StoryView) -> str | None:
        if story.data.get("trigger") == "periodic":
            attempt, at = self._periodic
            if attempt == story.attempt and story.at < at + SELDOM:
                return None
            self._periodic = (story.attempt, story.at)
        return _saved("saved", story)


def _saved(word: str, story: StoryView) -> str:
    step, size = story.data.get("step"), story.data.get("size")
    text = f"{word} step {step}" if step is not None else f"{word} a checkpoint"
    return f"{text} ({format_bytes(float(size))})" if isinstance(size, int) else text


def status_line(view: RunView, waited: float = 0.0) -> str:
    """The run now; `waited`: seconds since `view` came."""
    parts = [view.name, view.phase if view.state == "training" and view.phase else view.state]
    if view.attempt > 1:
        parts.append(f"attempt {view.attempt}")
    if view.step is not None:
        parts.append(step_of(view))
    if view.loss is not None:
        parts.append(f"loss {view.loss:.4g}")
    parts += pace(view)
    if view.saved_step is not None:
        parts.append(f"saved {view.saved_step}")
    risk = at_risk(view, waited)
    if risk:
        parts.append(f"at risk {risk}")
    if view.stalled_seconds:
        parts.append(f"nothing for {format_duration(view.stalled_seconds + waited)}")
    if view.unheard:
        parts.append("not heard")
    if view.dollars:
        parts.append(f"${view.dollars:.2f}")
    return " · ".join(parts)


def step_of(view: RunView) -> str:
    """Where it is, and of how many steps, if that is known. `view.step` is not None."""
    return f"step {view.step}" + ("" if view.total_steps is None else f"/{view.total_steps}")


def pace(view: RunView) -> list[str]:
    """How fast it goes and how long it will take, as far as that is known."""
    rate, facts = view.steps_per_second, []
    if rate:
        facts.append(f"{rate:.3g} steps/s" if rate >= 1 else f"{format_duration(1 / rate)} a step")
    if view.eta:
        facts.append(f"{format_duration(view.eta)} left")
    return facts


def at_risk(view: RunView, waited: float = 0.0) -> str:
    """Work that an end without a save would undo now; '' when there is none."""
    if view.state not in ("training", "saving", "recovering") or not view.at_risk_seconds:
        return ""
    text = format_duration(view.at_risk_seconds + waited)
    steps = None if view.step is None else max(0, view.step - (view.saved_step or 0))
    return text if steps is None else f"{text}, {count(steps, 'step')}"


def end_line(detail: RunDetail, told: str = "") -> str:
    """How the run ended, in one line; not again why, if that was just `told`."""
    run = detail.run
    words = [f"{run.name} {run.state}" if run.state != "paused" else f"{run.name} is paused"]
    if run.state == "stuck":
        words = [f"{run.name} is stuck and needs you"]
    if run.why and run.state != "succeeded" and run.why not in told:
        words.append(f": {run.why}")
    facts = []
    if run.step is not None:
        facts.append(f"step {run.step}")
    trained = [a for a in detail.attempts if a.started_at is not None]
    if len(trained) > 1:
        facts.append(f"{len(trained)} attempts")
    lost = sum(a.lost_seconds or 0.0 for a in detail.attempts)
    if lost >= 0.05:
        facts.append(f"{format_duration(lost)} of training lost")
    if run.dollars:
        facts.append(f"${run.dollars:.2f}")
    return "".join(words) + (f" ({', '.join(facts)})" if facts else "")


def how_to_go_on(run: RunView) -> str | None:
    """The command that goes on with a run that has stopped."""
    if run.state == "paused":
        return f"go on with: runctl resume {run.name}"
    if run.state in ("stuck", "failed"):
        return f"see why: runctl show {run.name}; then go on with: runctl resume {run.name}"
    return None


def resumed_from(attempt: AttemptView) -> str:
    """Where an attempt began."""
    if attempt.started_at is None:
        return "never trained"
    if attempt.resumed_from is None:
        return "from the beginning"
    return "resumed" if attempt.restored_step is None else f"resumed from step {attempt.restored_step}"


def moment(at: float) -> str:
    """A moment (UTC seconds) by the clock of whoever reads it."""
    try:
        return datetime.fromtimestamp(at).strftime("%Y-%m-%d %H:%M:%S")
    except (OverflowError, ValueError, OSError):  # a clock that was wrong beyond all years
        return "at no known time"


def count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
