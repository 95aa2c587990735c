"""``runctl logs``: what a run printed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from runctl_controller.cli.options import json_option

if TYPE_CHECKING:
    from collections.abc import Iterator

    from runctl_controller.cli.screen import Screen
    from runctl_controller.client.client import Client
    from runctl_controller.client.follow import Happened
    from runctl_controller.settings.model import Settings
    from runctl_shared.messages.replies import LogPiece, RunDetail


@click.command()
@click.argument("run", metavar="RUN")
@click.option("--follow", "-f", is_flag=True, help="Go on until the run ends.")
@click.option("--attempt", type=click.IntRange(1), metavar="N", help="Only that attempt's.")
@json_option
def logs(run: str, follow: bool, attempt: int | None, as_json: bool) -> int:
    """Print what a run printed, over all its attempts, with a line before each but the first.

    Without -f it prints what is stored: of a training that goes on, all but the last seconds.
    """
    from runctl_controller.cli.screen import standard
    from runctl_controller.client.client import checked_name
    from runctl_controller.client.embedded import reach
    from runctl_controller.settings.load import load
    from runctl_shared.errors import UsageError
    from runctl_shared.messages.replies import RunDetail
    from runctl_shared.messages.requests import ShowRun

    if follow and as_json:
        raise UsageError("--follow and --json cannot be combined.", "Leave one of them out.")
    settings = load()
    with reach(settings) as client:
        detail = client.ask(ShowRun(run=checked_name(run), story=0), RunDetail)
        numbers = _wanted(detail, attempt)
        if as_json:
            _print_json(client, detail, numbers)
            return 0
        screen = standard()
        last, offset = attempt or 0, 0
        for piece in _stored(client, detail, numbers):
            if piece.attempt != last:
                _mark(screen, detail, piece.attempt)
            screen.output(piece.data)
            last, offset = piece.attempt, piece.offset + len(piece.data)
        if follow and _goes_on(detail, attempt):
            _follow(client, settings, screen, detail, last, offset, only=attempt)
        elif attempt is not None and not offset:
            _nothing(detail, attempt)
        screen.close()
    return 0


def _wanted(detail: RunDetail, attempt: int | None) -> list[int]:
    """The attempts whose output is asked for. Raises NotFound for one that the run has not had."""
    from runctl_controller.cli.phases import count
    from runctl_shared.errors import NotFound

    numbers = [a.attempt for a in detail.attempts]
    if attempt is None:
        return numbers
    if attempt not in numbers:
        name = detail.run.name
        raise NotFound(
            f"{name} has no attempt {attempt}: it has had {count(len(numbers), 'attempt')}.",
            f"`runctl show {name}` lists them.",
        )
    return [attempt]


def _goes_on(detail: RunDetail, attempt: int | None) -> bool:
    """Whether more output may come: of the run, or of that attempt."""
    return attempt is None or any(a.attempt == attempt and a.state != "ended" for a in detail.attempts)


def _nothing(detail: RunDetail, number: int) -> None:
    """Raise NotFound, which says why there is no output of that attempt."""
    from runctl_shared.errors import NotFound

    attempt = next(a for a in detail.attempts if a.attempt == number)
    if attempt.state != "ended":
        why = f"It is {attempt.state} now; `runctl logs -f {detail.run.name}` waits for its output."
    elif attempt.started_at is None:
        why = f"It ended before the training started: {attempt.reason}."
    else:
        why = f"It trained, and ended without a word: {attempt.reason}."
    raise NotFound(f"Nothing that attempt {number} of {detail.run.name} printed is stored.", why)


def _stored(client: Client, detail: RunDetail, numbers: list[int]) -> Iterator[LogPiece]:
    """Everything that is stored, attempt by attempt."""
    from runctl_shared.messages.replies import LogPiece
    from runctl_shared.messages.requests import ReadLog

    for number in numbers:
        offset = 0
        while True:
            body = ReadLog(run=detail.run.run, attempt=number, offset=offset)
            piece = client.ask(body, LogPiece, 60.0)
            if not piece.data:
                break
            yield piece
            offset += len(piece.data)


def _mark(screen: Screen, detail: RunDetail, number: int) -> None:
    from runctl_controller.cli.phases import resumed_from

    if number < 2:
        return
    attempt = next((a for a in detail.attempts if a.attempt == number), None)
    how = "" if attempt is None or attempt.started_at is None else f", {resumed_from(attempt)}"
    screen.mark(f"--- attempt {number}{how} ---")


def _print_json(client: Client, detail: RunDetail, numbers: list[int]) -> None:
    from runctl_controller.cli.output import to_json

    output: dict[int, list[bytes]] = {}
    for piece in _stored(client, detail, numbers):
        output.setdefault(piece.attempt, []).append(piece.data)
    attempts = [{"attempt": number, "output": b"".join(pieces)} for number, pieces in output.items()]
    print(to_json({"run": detail.run.run, "name": detail.run.name, "attempts": attempts}))


def _follow(
    client: Client,
    settings: Settings,
    screen: Screen,
    detail: RunDetail,
    last: int,
    offset: int,
    only: int | None,
) -> None:
    """From `offset` of attempt `last` on, live, until the run ends, or attempt `only`."""
    from runctl_controller.cli.phases import end_line
    from runctl_controller.client.embedded import Restarter
    from runctl_controller.client.follow import Follower, Happened, Printed, Troubled
    from runctl_controller.client.output import OutputStream
    from runctl_shared.clock import SystemClock
    from runctl_shared.messages.replies import RunDetail as Detail
    from runctl_shared.messages.requests import ShowRun

    ensure = Restarter(settings, screen.say).ensure
    run = detail.run.run
    follower = Follower(client, SystemClock(), run, ensure, OutputStream(max(1, last), offset))
    try:
        while True:
            event = follower.next(60.0)
            if isinstance(event, Printed):
                if event.attempt != last:
                    detail = client.ask(ShowRun(run=run, story=0), Detail)
                    _mark(screen, detail, event.attempt)
                    last = event.attempt
                if event.missing:
                    screen.say(f"{event.missing} bytes of the output are lost here")
                screen.output(event.data)
            elif isinstance(event, Troubled):
                screen.say(event.text)
            elif isinstance(event, Happened) and only is not None and _ends(event, only):
                screen.say(event.story.text)
                return
            elif event is None and follower.detail is not None:
                screen.say(end_line(follower.detail))
                return
    finally:
        follower.close()


def _ends(event: Happened, attempt: int) -> bool:
    """Its output has all come before."""
    return event.story.kind == "ended" and event.story.attempt == attempt
