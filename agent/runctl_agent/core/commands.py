"""Commands of the controller: each is carried out once, and only for this attempt."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from runctl_agent.core import ending
from runctl_agent.core.effects import Claim, Follow, Forget, SendAgain
from runctl_agent.core.inputs import CommandArrived
from runctl_agent.core.phases import Phase
from runctl_agent.core.turn import Turn
from runctl_shared.messages import commands, events
from runctl_shared.messages.base import Body

REMEMBERED = 200
"""How many ids of carried-out commands are kept: more than a controller ever has under way."""


def arrived(turn: Turn, given: CommandArrived) -> None:
    handler = _HANDLERS.get(type(given.body))
    if handler is None:
        turn.report(events.CommandNotSupported(command=given.id, kind=given.kind))
        return
    if given.attempt != turn.rules.attempt or given.id in turn.state.done:
        return
    if isinstance(given.body, ONCE):
        turn.change(done=(*turn.state.done, given.id)[-REMEMBERED:])
    handler(turn, given.body)


def _start(turn: Turn, body: commands.StartTraining) -> None:
    """The permission to train. It may come before staging is done."""
    turn.change(permitted=True)
    if turn.state.phase is Phase.READY:
        claim(turn)


def claim(turn: Turn) -> None:
    turn.change(Phase.CLAIMING)
    turn.do(Claim())


def _save(turn: Turn, body: commands.SaveNow) -> None:
    ending.ask_only(turn)


def _stop(turn: Turn, body: commands.StopTraining) -> None:
    ending.begin_end(turn, "stop", turn.at + (body.grace if body.save else 0.0))
    if not body.save:
        ending.kill(turn)


def _lease(turn: Turn, body: commands.RenewLease) -> None:
    turn.change(lease_until=max(turn.state.lease_until, turn.at + body.seconds), overslept=False)


def _acknowledge(turn: Turn, body: commands.AcknowledgeEvents) -> None:
    turn.do(Forget(through=body.through))


def _resend(turn: Turn, body: commands.ResendEvents) -> None:
    turn.do(SendAgain(after=body.after))


def _follow(turn: Turn, body: commands.FollowOutput) -> None:
    turn.do(Follow(seconds=body.seconds, offset=body.offset))


_HANDLERS: dict[type[Body], Callable[[Turn, Any], None]] = {
    commands.StartTraining: _start,
    commands.SaveNow: _save,
    commands.StopTraining: _stop,
    commands.RenewLease: _lease,
    commands.AcknowledgeEvents: _acknowledge,
    commands.ResendEvents: _resend,
    commands.FollowOutput: _follow,
}
ONCE = (commands.StartTraining, commands.SaveNow, commands.StopTraining)
"""Doing these twice would differ from doing them once; the others may be repeated freely."""
