"""From attempt to attempt: planning the next one, giving the permission to train, ending."""

from __future__ import annotations

import msgspec

from runctl_controller.core.effects import Launch as LaunchEffect
from runctl_controller.core.effects import Look, ReadEnd, Terminate
from runctl_controller.core.ledger import mark_lost
from runctl_controller.core.limits import seconds_used
from runctl_controller.core.model import Attempt, Cause, Machine, Wanted
from runctl_controller.core.reasons import RULES, Next, Rule, wait_before
from runctl_controller.core.tables import OPEN_RUN, AttemptState, MachineState, RunState
from runctl_controller.core.turn import Turn
from runctl_controller.providers.port import LaunchOrder
from runctl_shared import ids
from runctl_shared.messages.commands import RenewLease, StartTraining, StopTraining
from runctl_shared.messages.events import AttemptEnded
from runctl_shared.spec import Boot, Timing

# How long an interrupted machine may outlive the time that its provider named, before we end it ourselves:
# within the first billed hour an interruption by EC2 is free, one by us is not.
PROVIDER_GRACE = 180.0
_LOOKS_APART = 32
"""After so many looks their distance grows no more. (It is reckoned with powers: of thousands of looks at a
machine that is unheard for days they would be beyond all floats.)"""
LONGEST_TAKING = 900.0
"""Seconds to the named time for which a machine that trains no more is left to its provider. The agent alone
has told that time: one that named the next year would keep its machine, and be paid for."""
STOP_AGAIN = 30.0
"""Seconds beyond its grace after which an attempt that was asked to end is asked again."""
RUN_STATE_OF = {
    AttemptState.LAUNCHING: RunState.PROVISIONING,
    AttemptState.BOOTING: RunState.PROVISIONING,
    AttemptState.STAGING: RunState.PREPARING,
    AttemptState.READY: RunState.PREPARING,
    AttemptState.STARTING: RunState.PREPARING,
    AttemptState.TRAINING: RunState.TRAINING,
    AttemptState.SAVING: RunState.SAVING,
}
_OF_A_TRAINING = frozenset({"succeeded", "user_error", "out_of_memory"})
"""Reasons that only a training can have."""
_ORDER = [RunState.RECOVERING, RunState.PROVISIONING, RunState.PREPARING, RunState.TRAINING, RunState.SAVING]


def plan_attempt(turn: Turn, cause: Cause) -> None:
    """Put the next attempt and its machine on record and ask for the launch: intent before money."""
    run = turn.record.run
    life = time_left(turn)
    if life is not None and life <= 0:
        if turn.record.current is not None:
            return
        turn.run(RunState.PAUSED, wanted=Wanted.PAUSE, why="the time limit is reached", ended_at=turn.at)
        return
    number = run.newest + 1
    agent = ids.agent_id(run.id, number)
    attempt = Attempt(number=number, agent=agent, created_at=turn.at, cause=cause, since=turn.at)
    order = _order(turn, agent, number, life)
    machine = Machine(id=agent, attempt=number, order=order, asks=1, since=turn.at)
    turn.run(newest=number, retry_at=None)
    turn.add(attempt, machine)
    turn.tell(
        "attempt",
        f"attempt {number} is due: asking {machine.order.offer.provider} for a machine",
        attempt=number,
    )
    turn.do(LaunchEffect(machine=agent))
    follow_attempt(turn)


def _order(turn: Turn, agent: str, number: int, life: float | None) -> LaunchOrder:
    world, spec = turn.world, turn.record.run.spec
    hard_end = min(world.longest_life, life if life is not None else world.longest_life)
    timing = Timing(
        heartbeat=world.heartbeat,
        lease=world.lease,
        notice_poll=world.notice_poll,
        kill_margin=world.kill_margin,
    )
    boot = Boot(
        agent=agent,
        attempt=number,
        spec=spec,
        bus=world.bus,
        hard_end=hard_end,
        timing=timing,
        installation=world.installation,
    )
    offer = next(o for o in world.offers if o.provider == spec.provider)
    return LaunchOrder(
        token=f"{world.installation}.{agent}",
        machine=agent,
        offer=offer,
        boot=msgspec.json.encode(boot),
        secrets=spec.secrets,
        hard_end=hard_end,
        boot_limit=world.boot_limit,
        tags={
            "runctl:installation": world.installation,
            "runctl:run": spec.run,
            "runctl:attempt": str(number),
        },
    )


def time_left(turn: Turn) -> float | None:
    """Seconds of the run's time limit that are not used up; None without a limit."""
    limit = turn.record.run.spec.max_seconds
    if limit is None:
        return None
    return limit - seconds_used(turn.record.intervals, turn.at)


def permit(turn: Turn) -> None:
    """Give the oldest open attempt the permission to train, once every attempt before it has ended."""
    attempt = turn.record.current
    run = turn.record.run
    if attempt is None or attempt.state is not AttemptState.READY or attempt.permitted:
        return
    if run.wanted is not Wanted.TRAIN or run.state not in OPEN_RUN:
        return
    attempt = turn.attempt(attempt.number, AttemptState.STARTING, permitted=True)
    turn.use(attempt.agent, "staging")
    turn.command(attempt, StartTraining())
    turn.tell("attempt", f"attempt {attempt.number} may train", attempt=attempt.number)
    follow_attempt(turn)


def follow_attempt(turn: Turn) -> None:
    """Bring the run's state in line with its current attempt."""
    run, attempt = turn.record.run, turn.record.current
    if run.state not in OPEN_RUN or attempt is None:
        return
    target = RUN_STATE_OF[attempt.state]
    if run.state is RunState.QUEUED:
        turn.run(RunState.PROVISIONING)
    # One step at a time along the table, so that the story tells every phase.
    while turn.record.run.state is not target:
        state = turn.record.run.state
        if target is RunState.TRAINING and state is RunState.SAVING:
            turn.run(RunState.TRAINING)
        elif _ORDER.index(state) < _ORDER.index(target):
            turn.run(_ORDER[_ORDER.index(state) + 1])
        else:
            turn.run(RunState.RECOVERING)


def end_attempt(turn: Turn, attempt: Attempt, report: AttemptEnded, actor: str = "agent") -> None:
    """The attempt has ended, on positive evidence. Decide what becomes of its machine and of the run."""
    if not attempt.open:
        return
    report = _credible(attempt, report)
    _account(turn, attempt, report)
    attempt = turn.attempt(
        attempt.number,
        AttemptState.ENDED,
        reason=report.reason,
        detail=report.detail,
        exit_code=report.exit_code,
        signal=report.signal,
        ended_at=turn.happened,
        last_step=attempt.last_step if report.last_step is None else report.last_step,
        saved_step=attempt.saved_step if report.saved_step is None else report.saved_step,
        lost_seconds=report.lost_seconds,
        lost_steps=report.lost_steps,
        unheard_since=None,
    )
    sentence = report.detail or RULES[report.reason].sentence
    turn.tell(
        "ended",
        f"attempt {attempt.number} ended: {report.reason} ({sentence})",
        attempt=attempt.number,
        actor=actor,
        reason=report.reason,
        exit_code=report.exit_code,
        lost_seconds=report.lost_seconds,
        lost_steps=report.lost_steps,
        exit_seconds=report.exit_seconds,
        storing_seconds=report.storing_seconds,
    )
    release_machine(turn, attempt)
    _after(turn, attempt)


def _account(turn: Turn, attempt: Attempt, report: AttemptEnded) -> None:
    """What the machine was used for at the end of the attempt, and for nothing."""
    if attempt.started_at is not None and report.storing_seconds > 0:
        # The training had ended by then, and what it left was being stored.
        ended = max(attempt.started_at, turn.happened - report.storing_seconds)
        turn.use(attempt.agent, "saving", since=ended)
    if report.reason != "succeeded" and attempt.started_at is not None:
        since = attempt.saved_at if attempt.saved_at is not None else attempt.started_at
        turn.record = msgspec.structs.replace(
            turn.record, intervals=mark_lost(turn.record.intervals, attempt.number, since)
        )


def _credible(attempt: Attempt, report: AttemptEnded) -> AttemptEnded:
    """Nothing was trained without the permission: an agent that says so is wrong, whatever it means."""
    if attempt.permitted or report.reason not in _OF_A_TRAINING:
        return report
    detail = f"the agent reported {report.reason} of a training that was never permitted"
    return msgspec.structs.replace(report, reason="agent_failed", detail=detail)


def release_machine(turn: Turn, attempt: Attempt) -> None:
    """The machine is needed no longer: end it, or let the provider take it when that costs nothing."""
    machine = turn.record.machine(attempt.agent)
    if machine is None or machine.state is MachineState.TERMINATED:
        return
    turn.use(machine.id, "idle")
    due = None if attempt.deadline_at is None else max(0.0, attempt.deadline_at - turn.at)
    if attempt.reason == "interrupted" and due is not None and due <= LONGEST_TAKING:
        turn.after(f"overdue:{machine.id}", due + PROVIDER_GRACE)
        turn.after(f"look:{machine.id}", due + turn.world.look)
        return
    end_machine(turn, machine, "lifecycle")


def end_machine(turn: Turn, machine: Machine, actor: str) -> None:
    """Ask for the machine's end, and keep looking until the provider says that it is gone."""
    if machine.state is MachineState.TERMINATED:
        return
    turn.machine(machine.id, MachineState.UNCONFIRMED, asks=machine.asks + 1, looks=0)
    turn.do(Terminate(machine=machine.id, actor=actor))
    turn.after(f"look:{machine.id}", turn.world.look)


def end_late_machine(turn: Turn, attempt: Attempt) -> None:
    """An agent comes up whose machine was taken for none, because the provider refused it or did not list it:
    a controller that had slept through its replacement has launched it after all. It is not needed: end
    it."""
    machine = turn.record.machine(attempt.agent)
    if machine is None or machine.state is not MachineState.TERMINATED or machine.provider_id:
        return
    machine = turn.machine(machine.id, MachineState.UNCONFIRMED, ended_at=None, absent_since=None)
    turn.tell("late", f"machine {machine.id} was launched after all: it is ended", attempt=attempt.number)
    end_machine(turn, machine, "lifecycle")


def _after(turn: Turn, attempt: Attempt) -> None:
    """What the end of `attempt` means for the run (see reasons.RULES)."""
    run, current = turn.record.run, turn.record.current
    if current is not None and current.number < attempt.number:
        return  # it only stood by; the one that trains decides
    rule = _rule(turn, attempt)
    progress = attempt.commits > 0 or attempt.reason == "interrupted"
    turn.run(
        fruitless=0 if progress else run.fruitless + 1,
        stalls=_stalls(turn, attempt),
        exit_code=run.exit_code if attempt.exit_code is None else attempt.exit_code,
    )
    run = turn.record.run
    if run.state not in OPEN_RUN:
        return
    if rule.next is Next.FINISH:
        drop_open(turn)
        turn.run(RunState.SUCCEEDED, why="", ended_at=turn.at)
    elif run.wanted is Wanted.CANCEL:
        drop_open(turn)
        turn.run(RunState.CANCELLED, why="cancelled by the user", ended_at=turn.at)
    elif run.wanted is Wanted.PAUSE or rule.next is Next.PAUSE:
        drop_open(turn)
        turn.run(RunState.PAUSED, wanted=Wanted.PAUSE, why=rule.sentence, ended_at=turn.at)
    elif rule.next is Next.PERSON:
        drop_open(turn)
        turn.run(RunState.STUCK, why=attempt.detail or rule.sentence, ended_at=turn.at)
    elif rule.next is Next.RESTART:
        _restart(turn, attempt)
    elif rule.patience is not None and (tries := max(run.fruitless, run.stalls)) >= rule.patience:
        drop_open(turn)
        why = f"{rule.sentence}, {tries} times in a row: {attempt.detail}"
        turn.run(RunState.STUCK, why=why, ended_at=turn.at)
    else:
        _next_attempt(turn, 0.0 if rule.next is not Next.AFTER_WAIT and progress else _wait(turn, rule.next))


def _stalls(turn: Turn, attempt: Attempt) -> int:
    """How many attempts in a row stalled where they had begun, `attempt` included.

    One that stalled saves when it is asked to end. That it committed something is therefore no sign of
    progress; only a step beyond the one that it began from is.
    """
    further = attempt.saved_step is not None and attempt.saved_step > (attempt.restored_step or 0)
    return 0 if attempt.reason != "stalled" or further else turn.record.run.stalls + 1


def _rule(turn: Turn, attempt: Attempt) -> Rule:
    """The rule of the attempt's reason. A hard end without a limit of the user's is only the end of
    that machine."""
    reason = attempt.reason or "lost"
    if reason == "time_limit" and turn.record.run.spec.max_seconds is None:
        reason = "replaced"
    return RULES[reason]


def _wait(turn: Turn, kind: Next) -> float:
    tries = turn.record.run.fruitless
    return wait_before(tries) if kind is Next.AFTER_WAIT or tries > 1 else 0.0


def _restart(turn: Turn, attempt: Attempt) -> None:
    """The training failed by itself: try again only if the user granted it."""
    run = turn.record.run
    if run.restarts >= run.spec.max_restarts:
        drop_open(turn)
        turn.run(RunState.FAILED, why=attempt.detail or RULES["user_error"].sentence, ended_at=turn.at)
        return
    turn.run(restarts=run.restarts + 1)
    _next_attempt(turn, wait_before(run.restarts + 1))


def _next_attempt(turn: Turn, wait: float) -> None:
    """Have a next attempt: the one that is being prepared already, a new one now, or one after `wait`."""
    if turn.record.current is not None:
        turn.run(RunState.RECOVERING)
        permit(turn)
        follow_attempt(turn)
        return
    turn.run(RunState.RECOVERING)
    if wait > 0:
        turn.after("retry", wait)
        turn.run(retry_at=turn.at + wait)
        turn.tell("attempt", f"the next attempt begins in {wait:.0f} s")
    else:
        plan_attempt(turn, Cause.ENDED)


def drop_open(turn: Turn) -> None:
    """End attempts that never got the permission to train: no force is needed for those."""
    for attempt in turn.record.attempts:
        if attempt.open and not attempt.permitted:
            ended = turn.attempt(
                attempt.number, AttemptState.ENDED, reason="replaced", detail="not needed", ended_at=turn.at
            )
            release_machine(turn, ended)


def stop_attempts(turn: Turn, *, save: bool, actor: str) -> None:
    """The user wants no more training: ask the one that trains to end, drop the others."""
    drop_open(turn)
    attempt = turn.record.current
    if attempt is None:
        return
    attempt = turn.attempt(attempt.number, stop_sent=True, stop_saves=save)
    _send_stop(turn, attempt)
    turn.tell("stop", f"attempt {attempt.number} is asked to end", attempt=attempt.number, actor=actor)


def _send_stop(turn: Turn, attempt: Attempt) -> None:
    grace = turn.record.run.spec.grace if attempt.stop_saves else 0.0
    turn.command(attempt, StopTraining(save=attempt.stop_saves, grace=grace))
    turn.after(f"lease:{attempt.agent}", min(turn.world.lease / 3, STOP_AGAIN + grace))


def renew_lease(turn: Turn, attempt: Attempt) -> None:
    """Let the machine live on; and do it again in time. One that is to end is told so again: a broker that
    lost its disk may have lost the word."""
    if attempt.open and attempt.stop_sent:
        _send_stop(turn, attempt)
    elif attempt.open:
        turn.command(attempt, RenewLease(seconds=turn.world.lease), expires=turn.world.lease)
        if attempt.state is AttemptState.STARTING:
            # A broker that lost its disk may have lost the permission; twice does no harm.
            turn.command(turn.attempt(attempt.number), StartTraining())
        turn.after(f"lease:{attempt.agent}", turn.world.lease / 3)


def look_again(turn: Turn, machine: Machine, most: float = 60.0) -> None:
    """Look at the machine again: soon at first, more and more seldom."""
    turn.machine(machine.id, looks=machine.looks + 1)
    turn.after(f"look:{machine.id}", _look_wait(turn, machine.looks, most))


def looked_for(turn: Turn, machine: Machine) -> float:
    """Seconds over which it was looked at again and again, by our own clock, and not while we were away."""
    return sum(_look_wait(turn, number) for number in range(machine.looks))


def _look_wait(turn: Turn, number: int, most: float = 60.0) -> float:
    return min(most, turn.world.look * 1.6 ** min(number, _LOOKS_APART))


def ask_for_end_record(turn: Turn, attempt: Attempt) -> None:
    """The machine is gone and the attempt has not reported its end: its final record may lie in the store."""
    turn.do(ReadEnd(attempt=attempt.number))


def look_now(turn: Turn, machine: Machine) -> None:
    turn.do(Look(machine=machine.id))
