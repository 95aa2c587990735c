"""``runctl stop``, ``resume``, ``cancel``, ``interrupt``: what is done to a run."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from runctl_controller.cli.options import json_option

if TYPE_CHECKING:
    from runctl_shared.messages.base import Body
    from runctl_shared.messages.events import NoticeKind

_run = click.argument("run", metavar="RUN")


@click.command()
@_run
@json_option
def stop(run: str, as_json: bool) -> int:
    """Save, then end a run; it can be resumed."""
    from runctl_shared.messages.requests import StopRun

    return _act(StopRun(run=_known(run)), as_json)


@click.command()
@_run
@click.option("--max-hours", type=float, help="A new time limit: hours of training since its beginning.")
@json_option
def resume(run: str, max_hours: float | None, as_json: bool) -> int:
    """Go on with a run from its newest verified checkpoint."""
    from runctl_shared.errors import UsageError
    from runctl_shared.messages.requests import ResumeRun

    if max_hours is not None and not 0 < max_hours < 1e6:
        raise UsageError("The time limit is no number of hours.", "Give hours, e.g. --max-hours 12.")
    seconds = None if max_hours is None else max_hours * 3600.0
    return _act(ResumeRun(run=_known(run), max_seconds=seconds), as_json)


@click.command()
@_run
@click.option("--yes", is_flag=True, help="Also while it trains: what is not saved is lost.")
@json_option
def cancel(run: str, yes: bool, as_json: bool) -> int:
    """End a run for good; its checkpoints are kept.

    While it trains you are asked; without a terminal it is refused, unless --yes is given.
    """
    import sys

    from runctl_shared.errors import RefusedByGuard
    from runctl_shared.messages.requests import CancelRun

    name = _known(run)
    try:
        return _act(CancelRun(run=name, force=yes), as_json)
    except RefusedByGuard as refused:
        if as_json or "--yes" not in refused.mend or not (sys.stdin.isatty() and sys.stderr.isatty()):
            raise
        from runctl_controller.cli.output import clean

        click.echo(f"runctl: {clean(refused.what)}", err=True)
    if not click.confirm("runctl: cancel it all the same?", err=True):
        return 1
    return _act(CancelRun(run=name, force=True), as_json)


@click.command()
@_run
@click.option("--notice", default="30s", metavar="TIME", help="Notice that its machine gets.  [30s]")
@click.option(
    "--kind",
    type=click.Choice(["interruption", "rebalance", "maintenance"]),
    default="interruption",
    help="What it is told. After the other two the machine stays, but the training is asked to save (SIGTERM,"
    " or --signal); one that exits on that goes on on a new machine.  [interruption]",
)
@click.option("--withdraw", is_flag=True, help="Take a notice of that kind back.")
@json_option
def interrupt(run: str, notice: str, kind: NoticeKind, withdraw: bool, as_json: bool) -> int:
    """Have the machine of a run taken away, with notice: a drill. It resumes on another one."""
    from runctl_shared.errors import UsageError
    from runctl_shared.messages.requests import InterruptRun
    from runctl_shared.units import parse_duration

    try:
        seconds = parse_duration(notice)
    except UsageError as error:
        raise UsageError(f"--notice: {error.what}", error.mend) from None
    if seconds > 86_400:
        raise UsageError("--notice is longer than a day.", "Give a duration such as 30s or 2m.")
    return _act(InterruptRun(run=_known(run), notice=seconds, kind=kind, withdraw=withdraw), as_json)


def _known(run: str) -> str:
    from runctl_controller.client.client import checked_name

    return checked_name(run)


def _act(body: Body, as_json: bool) -> int:
    from runctl_controller.cli.output import clean, emit
    from runctl_controller.client.embedded import reach
    from runctl_controller.settings.load import load
    from runctl_shared.messages.replies import Done

    with reach(load()) as client:
        done = client.ask(body, Done)
    emit(done, as_json, lambda: click.echo(clean(f"{done.note}.")))
    return 0
