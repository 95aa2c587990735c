"""What one seed plays: runs, what their trainings are like, what users do, and which faults there are."""

from __future__ import annotations

from random import Random
from typing import Literal

import msgspec

from runctl_shared.spec import RunSpec

Answer = Literal["save_and_exit", "save_and_fail", "save_and_go_on", "ignore", "die"]
Act = Literal["stop", "stop_resume", "cancel", "drill", "submit_again"]
Fault = Literal[
    "controller_crash", "takeover", "controller_sleeps", "clock_jump", "partition", "broker_down",
    "store_down", "agent_crash", "notice", "withdrawn", "rebalance", "kill", "save_now", "zombie_claims",
    "zombie_commits", "gpu_lost",
]  # fmt: skip

INSTALLATION = "inst-simulated"
HORIZON = 700.0
"""Seconds during which there may be faults. After that all is calm, and everything must come to its end."""


ALWAYS = 99
"""Hangs: a training that never gets beyond one step."""


class Plan(msgspec.Struct, kw_only=True):
    """One run. `length`: steps, one a second. `every`: seconds between checkpoints. `answer`: what the
    training does when it is asked to save. `crashes`: how often it fails by itself before it works;
    `resumes`: whether it goes on from what it is given. `hangs`: in how many attempts it makes no more step
    from some moment on, for `hang_seconds` or (None) for ever; ALWAYS: at the same step in each of them."""

    spec: RunSpec
    length: int
    every: float
    save_seconds: float
    answer: Answer
    crashes: int
    resumes: bool
    hangs: int = 0
    hang_seconds: float | None = None
    acts: list[tuple[float, Act]]


class Rates(msgspec.Struct, kw_only=True):
    """Chances, each per occasion, as long as there are faults."""

    lose: float = 0.0
    double: float = 0.0
    lose_command: float = 0.0
    double_command: float = 0.0
    crash_controller: float = 0.0
    crash_agent: float = 0.0
    slow: float = 0.0
    no_capacity: float = 0.0
    throttled: float = 0.0
    lost_answer: float = 0.0
    hidden: float = 0.0
    boot_fails: float = 0.0
    slow_end: float = 0.0
    late_word: float = 0.0


class Scenario(msgspec.Struct, kw_only=True):
    runs: list[Plan]
    rates: Rates
    faults: list[tuple[float, Fault]]
    forgets: bool


class Bias(msgspec.Struct, frozen=True, kw_only=True):
    """What a sabotage wants to see more of: these rates at least, these faults and acts always."""

    rates: dict[str, float] = {}
    faults: tuple[Fault, ...] = ()
    acts: tuple[Act, ...] = ()
    answers: tuple[Answer, ...] = ()
    max_seconds: float | None = None
    every: float | None = None
    hangs: int | None = None
    hang_seconds: float | None = None
    stall_after: float = 40.0


_RATES: dict[str, tuple[float, float]] = {  # chance to be there at all, highest rate
    "lose": (0.3, 0.1),
    "double": (0.4, 0.2),
    "lose_command": (0.25, 0.1),
    "double_command": (0.4, 0.2),
    "crash_controller": (0.35, 0.04),
    "crash_agent": (0.3, 0.03),
    "slow": (0.4, 0.3),
    "no_capacity": (0.2, 0.5),
    "throttled": (0.25, 0.3),
    "lost_answer": (0.3, 0.5),
    "hidden": (0.3, 0.7),
    "boot_fails": (0.15, 0.4),
    "slow_end": (0.3, 0.6),
    "late_word": (0.3, 0.6),
}
_FAULTS: tuple[Fault, ...] = (
    "controller_crash", "takeover", "controller_sleeps", "clock_jump", "partition", "broker_down",
    "store_down", "agent_crash", "notice", "notice", "notice", "withdrawn", "rebalance", "kill", "save_now",
    "zombie_claims", "zombie_commits", "gpu_lost",
)  # fmt: skip
_ACTS: tuple[Act, ...] = ("stop", "stop_resume", "cancel", "drill", "submit_again")
_ANSWERS: tuple[Answer, ...] = ("save_and_exit", "save_and_fail", "save_and_go_on", "ignore", "die")


def draw(rng: Random, bias: Bias) -> Scenario:
    count = 1 if rng.random() < 0.85 else 2
    kinds = rng.sample(_FAULTS, rng.randint(1, 5))
    faults = [(_moment(rng), rng.choice(kinds)) for _ in range(rng.randint(0, 6))]
    faults += [(_moment(rng), kind) for kind in bias.faults]
    return Scenario(
        runs=[_plan(rng, number, bias) for number in range(count)],
        rates=_rates(rng, bias),
        faults=sorted(faults),
        forgets=rng.random() < 0.15,
    )


def _moment(rng: Random) -> float:
    return rng.uniform(1.0, HORIZON * 0.7)


def _rates(rng: Random, bias: Bias) -> Rates:
    rates = Rates()
    for name, (present, most) in _RATES.items():
        if rng.random() < present:
            setattr(rates, name, rng.uniform(0.0, most))
    for name, least in bias.rates.items():
        setattr(rates, name, max(getattr(rates, name), least))
    return rates


def _plan(rng: Random, number: int, bias: Bias) -> Plan:
    grace = rng.choice((10.0, 20.0, 40.0))
    limited = rng.random() < 0.1
    most = bias.max_seconds if bias.max_seconds is not None else (rng.uniform(80, 400) if limited else None)
    spec = RunSpec(
        run=f"run-sim{number}",
        name=f"sim{number}",
        installation=INSTALLATION,
        command=("train",),
        workdir="/",
        store="memory://",
        grace=grace,
        max_restarts=rng.randint(0, 2),
        max_seconds=most,
        provider="sim",
    )
    acts = [(_moment(rng), rng.choice(_ACTS))] if rng.random() < 0.35 else []
    acts += [(_moment(rng), act) for act in bias.acts]
    hangs, hang_seconds, stall_after = _hangs(rng, bias)
    return Plan(
        spec=msgspec.structs.replace(spec, stall_after=stall_after),
        length=rng.randint(60, 360),
        every=bias.every or (rng.uniform(15.0, 70.0) if rng.random() < 0.9 else 1000.0),
        save_seconds=rng.uniform(0.5, grace * 0.8),
        answer=rng.choice(bias.answers or _ANSWERS),
        crashes=rng.choice((0, 0, 0, 0, 0, 1, 2, 4)),
        resumes=rng.random() < 0.93,
        hangs=hangs,
        hang_seconds=hang_seconds,
        acts=sorted(acts),
    )


def _hangs(rng: Random, bias: Bias) -> tuple[int, float | None, float | None]:
    """In how many attempts it hangs, for how long, and --stall-after: what hangs for ever must have that to
    come to an end."""
    if bias.hangs is not None:
        return bias.hangs, bias.hang_seconds, bias.stall_after
    dice = rng.random()
    limit = rng.choice((25.0, 60.0, 120.0))
    if dice < 0.08:
        return rng.choice((1, 1, 2, 4, ALWAYS)), None, limit
    if dice < 0.16:
        return rng.choice((1, 4)), rng.uniform(5.0, 200.0), rng.choice((None, limit))
    return 0, None, limit if dice < 0.3 else None
