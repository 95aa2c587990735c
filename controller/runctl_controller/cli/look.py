"""``runctl ls``, ``show``, ``checkpoints``: looking at runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from runctl_controller.cli.options import json_option

if TYPE_CHECKING:
    from runctl_controller.settings.model import Settings
    from runctl_shared.messages.replies import CheckpointList, RunList
    from runctl_shared.messages.requests import ListRuns, ShowRun


_watch = click.option("--watch", "-w", is_flag=True, help="Draw it again as things happen, until Ctrl-C.")


@click.command()
@click.option("--open", "only_open", is_flag=True, help="Only runs that have not ended.")
@click.option("--limit", default=50, type=click.IntRange(1, 1000), help="How many, newest first.  [50]")
@_watch
@json_option
def ls(only_open: bool, limit: int, watch: bool, as_json: bool) -> int:
    """List runs, newest first."""
    from runctl_controller.cli.output import emit
    from runctl_controller.client.embedded import reach
    from runctl_controller.settings.load import load
    from runctl_shared.clock import SystemClock
    from runctl_shared.messages.replies import RunList
    from runctl_shared.messages.requests import ListRuns

    settings = load()
    body = ListRuns(all=not only_open, limit=limit)
    if watch:
        return _watch_runs(settings, body, as_json)
    with reach(settings) as client:
        found = client.ask(body, RunList)
    emit(found, as_json, lambda: _print_runs(found, only_open, SystemClock().now()))
    if len(found.runs) == limit and not as_json:
        click.echo(f"runctl: the newest {limit}; --limit shows more", err=True)
    return 0


def _watch_runs(settings: Settings, body: ListRuns, as_json: bool) -> int:
    from functools import partial

    from runctl_controller.cli.watch import Picture, check, watch
    from runctl_controller.client.embedded import is_running, reach
    from runctl_controller.client.follow import FINAL
    from runctl_shared.messages.replies import RunList

    check(as_json)
    with reach(settings) as client:

        def look() -> Picture:
            found = client.ask(body, RunList)
            going = [run.run for run in found.runs if run.state not in FINAL]
            return Picture(partial(_print_runs, found, not body.all), going)

        return watch(client, look, partial(is_running, settings))


def _print_runs(found: RunList, only_open: bool, now: float) -> None:
    from runctl_controller.cli.phases import count

    _print_table(found, only_open, now)
    if found.forgotten_dollars >= 0.005:
        runs = count(found.forgotten, "forgotten run")
        click.echo(f"Not listed: {runs}, ${found.forgotten_dollars:.2f}")


def _print_table(found: RunList, only_open: bool, now: float) -> None:
    from runctl_controller.cli.output import table
    from runctl_controller.cli.phases import at_risk
    from runctl_shared.units import format_duration

    if not found.runs and only_open:
        click.echo("No run is open.")
        return
    if not found.runs:
        click.echo("There are no runs. Start one: runctl run -- python train.py")
        return
    projects = len({run.project for run in found.runs}) > 1
    headings = ["NAME", "STATE", "ATT", "STEP", "LOSS", "SAVED", "AT RISK", "COST", "AGE"]
    rows = [
        [
            run.name,
            run.state + (" (unheard)" if run.unheard else ""),
            str(run.attempt),
            "-" if run.step is None else str(run.step),
            "-" if run.loss is None else f"{run.loss:.4g}",
            "-" if run.saved_step is None else str(run.saved_step),
            at_risk(run) or "-",
            f"${run.dollars:.2f}",
            format_duration(max(0.0, now - run.created_at)),
            *([run.project] if projects else []),
        ]
        for run in found.runs
    ]
    table([*headings, *(["PROJECT"] if projects else [])], rows, right=(2, 3, 4, 5, 7, 8))


@click.command()
@click.argument("run", metavar="RUN")
@click.option("--story", default=25, type=click.IntRange(0, 5000), help="How much of its story.  [25]")
@click.option("--loss", is_flag=True, help="How its loss went, as CSV.")
@_watch
@json_option
def show(run: str, story: int, loss: bool, watch: bool, as_json: bool) -> int:
    """Show a run: attempts, machines, money, story."""
    from runctl_controller.cli.output import emit
    from runctl_controller.client.client import checked_name
    from runctl_controller.client.embedded import reach
    from runctl_controller.settings.load import load
    from runctl_shared.clock import SystemClock
    from runctl_shared.messages.replies import RunDetail
    from runctl_shared.messages.requests import ShowRun

    if loss:
        return _show_losses(run, as_json)
    settings = load()
    body = ShowRun(run=checked_name(run), story=story)
    if watch:
        return _watch_run(settings, body, as_json)
    with reach(settings) as client:
        found = client.ask(body, RunDetail)

    def print_it() -> None:
        from runctl_controller.cli.show import print_run

        print_run(found, SystemClock().now())

    emit(found, as_json, print_it)
    return 0


def _watch_run(settings: Settings, body: ShowRun, as_json: bool) -> int:
    from functools import partial

    from runctl_controller.cli.show import print_run
    from runctl_controller.cli.watch import Picture, check, watch
    from runctl_controller.client.embedded import is_running, reach
    from runctl_controller.client.follow import FINAL
    from runctl_shared.messages.replies import RunDetail
    from runctl_shared.messages.requests import ShowRun

    check(as_json)
    with reach(settings) as client:
        run = client.ask(body, RunDetail).run.run

        def look() -> Picture:
            found = client.ask(ShowRun(run=run, story=body.story), RunDetail)
            return Picture(partial(print_run, found), [] if found.run.state in FINAL else [run], only=run)

        return watch(client, look, partial(is_running, settings))


def _show_losses(run: str, as_json: bool) -> int:
    from runctl_controller.cli.output import emit
    from runctl_controller.client.client import checked_name
    from runctl_controller.client.embedded import reach
    from runctl_controller.settings.load import load
    from runctl_shared.messages.replies import Series
    from runctl_shared.messages.requests import ReadSeries

    with reach(load()) as client:
        found = client.ask(ReadSeries(run=checked_name(run)), Series, 60.0)

    def print_it() -> None:
        click.echo("attempt,step,time,epoch,loss")
        for p in found.points:
            step, epoch = ("" if value is None else value for value in (p.step, p.epoch))
            click.echo(f"{p.attempt},{step},{p.time:.3f},{epoch},{p.loss}")
        if found.stored > len(found.points):
            click.echo(f"runctl: {len(found.points)} of {found.stored}, evenly chosen", err=True)

    emit(found, as_json, print_it)
    return 0


@click.command()
@click.argument("run", metavar="RUN")
@json_option
def checkpoints(run: str, as_json: bool) -> int:
    """List the committed checkpoints of a run, newest first."""
    from runctl_controller.cli.output import emit
    from runctl_controller.client.client import checked_name
    from runctl_controller.client.embedded import reach
    from runctl_controller.settings.load import load
    from runctl_shared.clock import SystemClock
    from runctl_shared.messages.replies import CheckpointList
    from runctl_shared.messages.requests import ListCheckpoints

    with reach(load()) as client:
        found = client.ask(ListCheckpoints(run=checked_name(run)), CheckpointList, 60.0)
    emit(found, as_json, lambda: _print_checkpoints(found, SystemClock().now()))
    return 0


def _print_checkpoints(found: CheckpointList, now: float) -> None:
    from runctl_controller.cli.output import table
    from runctl_shared.units import format_bytes, format_duration

    if not found.checkpoints:
        click.echo(f"There is no committed checkpoint in {found.store}.")
        return
    rows = [
        [
            "-" if c.step is None else str(c.step),
            str(c.attempt),
            format_bytes(c.size),
            str(c.files),
            c.format,
            c.trigger,
            format_duration(max(0.0, now - c.committed_at)),
            "yes" if c.eligible else "no, cut off",
            c.where,
        ]
        for c in found.checkpoints
    ]
    headings = ["STEP", "ATT", "SIZE", "FILES", "FORMAT", "SAVED", "AGE", "RESTORABLE", "WHERE"]
    table(headings, rows, right=(0, 1, 2, 3, 6))
