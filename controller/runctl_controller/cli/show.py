"""How `runctl show` prints a run."""

from __future__ import annotations

import shlex
from collections import defaultdict

from runctl_controller.cli.output import clean, table
from runctl_controller.cli.phases import at_risk, count, how_to_go_on, pace, resumed_from, step_of
from runctl_shared.messages.events import Gpu
from runctl_shared.messages.replies import AttemptView, RunDetail
from runctl_shared.units import format_bytes, format_duration


def print_run(detail: RunDetail, now: float) -> None:
    """Everything about a run, the most important first."""
    _head(detail, now)
    if detail.attempts:
        print("\nAttempts")
        _attempts(detail, now)
    if detail.machines:
        print("\nMachines")
        _machines(detail, now)
    if detail.ledger:
        print("\nMoney and time")
        _ledger(detail, now)
    if detail.story:
        print("\nStory")
        _story(detail)
    more = how_to_go_on(detail.run)
    if more is not None and detail.run.state == "paused":
        print(f"\nGo on with: runctl resume {clean(detail.run.name)}")
    elif more is not None:
        name = clean(detail.run.name)
        print(f"\nSee what it printed: runctl logs {name}\nGo on with: runctl resume {name}")


def _head(detail: RunDetail, now: float) -> None:
    run, spec = detail.run, detail.spec
    state = run.state + (f": {run.why}" if run.why else "")
    if run.unheard:
        state += " (its agent is not heard; the training may well go on)"
    if run.stalled_seconds:
        state += f" (no step, output or checkpoint for {format_duration(run.stalled_seconds)})"
    facts = [] if run.step is None else [step_of(run)]
    facts += [] if run.loss is None else [f"loss {run.loss:.4g}"]
    facts += pace(run)
    facts += [] if run.saved_step is None else [f"saved step {run.saved_step}"]
    risk = at_risk(run)
    facts += [f"at risk {risk}"] if risk else []
    ended = run.ended_at if run.ended_at is not None else now
    stalls = (
        ""
        if spec.stall_after is None
        else f"; ended if it shows nothing for {format_duration(spec.stall_after)}"
    )
    limit = "" if spec.max_seconds is None else f", at most {format_duration(spec.max_seconds)} of training"
    rows = [
        ("", f"{run.name}  {state}"),
        ("progress", ", ".join(facts) or "none reported"),
        ("command", shlex.join(spec.command)),
        ("folder", spec.workdir),
        ("store", spec.store),
        ("run", f"{run.run}, project {run.project}, by {spec.requested_by or 'unknown'}"),
        ("asked", f"{format_duration(max(0.0, now - run.created_at))} ago, took "
                  f"{format_duration(max(0.0, ended - run.created_at))}{limit}"),
        ("saving", f"{spec.signal}, {format_duration(spec.grace)} to save; "
                   f"{count(spec.max_restarts, 'restart')} after its own errors{stalls}"),
    ]  # fmt: skip
    rows += [("gpu", _gpu(gpu)) for gpu in run.gpus]
    if spec.secrets:
        rows.append(("secrets", ", ".join(spec.secrets)))
    for label, text in rows:
        print(f"{label:<9} {clean(text)}" if label else clean(text))


def _gpu(gpu: Gpu) -> str:
    facts = [gpu.name or "unknown"]
    facts += [] if gpu.busy_percent is None else [f"busy {gpu.busy_percent:.0f} %"]
    if gpu.memory_used is not None and gpu.memory_total:
        facts.append(f"{format_bytes(gpu.memory_used)} of {format_bytes(gpu.memory_total)}")
    facts += [] if gpu.celsius is None else [f"{gpu.celsius:.0f} °C"]
    facts += [] if gpu.watts is None else [f"{gpu.watts:.0f} W"]
    facts += [f"slowed by {gpu.slowed_by}"] if gpu.slowed_by else []
    facts += [f"{gpu.ecc_errors} uncorrectable memory errors"] if gpu.ecc_errors else []
    return f"{gpu.index}: " + ", ".join(facts)


def _attempts(detail: RunDetail, now: float) -> None:
    rows = [
        [
            str(a.attempt),
            a.state if a.state != "ended" else (a.reason or "ended"),
            resumed_from(a),
            _steps(a),
            _whole(a.saved_step),
            _lost(a),
            _took(a, now),
            a.detail if a.reason not in (None, "succeeded") else "",
        ]
        for a in detail.attempts
    ]
    table(["ATT", "STATE", "BEGAN", "STEPS", "SAVED", "LOST", "TRAINED", "WHY"], rows, right=(0, 4))


def _steps(a: AttemptView) -> str:
    return "-" if a.first_step is None else f"{a.first_step} to {_whole(a.last_step)}"


def _lost(a: AttemptView) -> str:
    if not a.lost_seconds:
        return "-" if a.lost_seconds is None else "nothing"
    return format_duration(a.lost_seconds) + (
        f", {count(a.lost_steps, 'step')}" if a.lost_steps is not None else ""
    )


def _took(a: AttemptView, now: float) -> str:
    if a.started_at is None:
        return "-"
    return format_duration(max(0.0, (now if a.ended_at is None else a.ended_at) - a.started_at))


def _whole(value: int | None) -> str:
    return "-" if value is None else str(value)


def _machines(detail: RunDetail, now: float) -> None:
    rows = []
    for m in detail.machines:
        up = "-"
        if m.launched_at is not None:
            up = format_duration(max(0.0, (now if m.ended_at is None else m.ended_at) - m.launched_at))
        rows.append([m.machine, str(m.attempt), m.provider, m.state, m.cause or "-", up])
    table(["MACHINE", "ATT", "PROVIDER", "STATE", "ENDED BY", "UP"], rows, right=(1, 5))


def _ledger(detail: RunDetail, now: float) -> None:
    seconds: dict[str, float] = defaultdict(float)
    dollars: dict[str, float] = defaultdict(float)
    for item in detail.ledger:
        took = max(0.0, (now if item.end is None else item.end) - item.start)
        seconds[item.use] += took
        dollars[item.use] += took / 3600.0 * item.price
    rows = [[use, format_duration(seconds[use]), f"${dollars[use]:.4f}"] for use in seconds]
    rows.append(["all", format_duration(sum(seconds.values())), f"${sum(dollars.values()):.4f}"])
    table(["USED FOR", "TIME", "COST"], rows, right=(1, 2))


def _story(detail: RunDetail) -> None:
    for item in detail.story:
        after = max(0.0, item.at - detail.run.created_at)
        actor = "" if item.actor in ("lifecycle", "agent") else f"  [{item.actor}]"
        print(clean(f"  +{format_duration(after):<8} {item.text}{actor}"))
