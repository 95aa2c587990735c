"""``runctl controller``: start, stop, status."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, NamedTuple

import click

from runctl_controller.cli.options import json_option

if TYPE_CHECKING:
    from collections.abc import Callable

    from runctl_controller.settings.model import Settings
    from runctl_shared.messages.replies import Done, Status


@click.group()
def controller() -> None:
    """The controller: tracks runs, rents machines, keeps the ledger, resumes and terminates.

    Without a broker, the other commands start an embedded one by themselves when it is needed; it ends when
    nothing is left to do.
    """


@controller.command()
@click.option("--foreground", is_flag=True, help="Stay in the foreground, logging to stderr.")
@click.option(
    "--standby",
    is_flag=True,
    help="If one runs, wait, and take over when it ends or does not answer any more.",
)
@click.option("--embedded", is_flag=True, hidden=True)
@click.option("--ready-fd", type=int, default=None, hidden=True)
@json_option
def start(foreground: bool, standby: bool, embedded: bool, ready_fd: int | None, as_json: bool) -> int:
    """Start a controller that stays until it is stopped."""
    if foreground:
        how = _How(embedded=embedded, standby=standby)
        return _foreground(how) if ready_fd is None else _background(how, ready_fd)
    from runctl_controller.cli.output import emit
    from runctl_controller.client.embedded import start as start_detached
    from runctl_controller.settings.load import load

    found = start_detached(load(), embedded=False, standby=standby)
    emit(found, as_json, lambda: click.echo(_started(found)))
    return 0


class _How(NamedTuple):
    embedded: bool
    standby: bool


def _started(found: Status | Done) -> str:
    from runctl_shared.messages.replies import Done

    return found.note if isinstance(found, Done) else f"The controller runs (process {found.pid})."


def _foreground(how: _How) -> int:
    from runctl_controller.settings.load import load

    _serve(load(), how, lambda: None, lambda: None)
    return 0


def _background(how: _How, ready_fd: int) -> int:
    """Started by `client.embedded.start`, which is told by a pipe how it went."""
    import msgspec

    from runctl_controller.settings.load import load
    from runctl_shared.errors import RefusedByGuard, RunctlError

    os.set_inheritable(ready_fd, False)  # no process that we start may hold the pipe open
    with os.fdopen(ready_fd, "wb") as pipe:

        def tell(code: str, what: str = "", mend: str = "") -> None:
            if not pipe.closed:
                pipe.write(msgspec.json.encode((code, what, mend)))
                pipe.close()

        try:
            _serve(load(), how, lambda: tell("ok"), lambda: tell("standby"))
        except RunctlError as error:
            # Two commands that start one at the same time both have one.
            there_already = how.embedded and isinstance(error, RefusedByGuard)
            tell("ok" if there_already else error.code, error.what, error.mend)
            raise
    return 0


def _serve(settings: Settings, how: _How, ready: Callable[[], None], standing_by: Callable[[], None]) -> None:
    import logging

    from runctl_controller.service.main import serve
    from runctl_controller.settings.model import controller_config

    logging.basicConfig(
        level=settings.log_level.upper(),
        format="%(asctime)s %(levelname)s %(name)s %(message)s",
        force=True,
    )
    config = controller_config(settings, embedded=how.embedded, standby=how.standby)
    serve(config, ready, standing_by=standing_by)


@controller.command()
@click.option("--force", is_flag=True, help="Even if runs are not finished: nobody resumes them then.")
@json_option
def stop(force: bool, as_json: bool) -> int:
    """Stop the controller that leads. Training goes on; one that stands by takes over."""
    from runctl_controller.cli.output import emit
    from runctl_controller.client.client import Client
    from runctl_controller.client.embedded import is_running, leader, wait_for_another
    from runctl_controller.settings.load import load
    from runctl_shared.errors import RunctlError
    from runctl_shared.messages.replies import Done
    from runctl_shared.messages.requests import StopController

    settings = load()
    if not is_running(settings):
        emit(Done(note="no controller runs"), as_json, lambda: click.echo("No controller runs."))
        return 0
    before = leader(settings)
    with Client(settings.bus) as client:
        done = client.ask(StopController(force=force), Done)
    if settings.bus_url is None and not wait_for_another(settings, before, 45.0):
        raise RunctlError("The controller is still ending.", "See controller.log in its state folder.")
    now = leader(settings) if settings.bus_url is None else None
    said = (
        "The controller has ended." if now is None else f"The controller has ended; process {now} leads now."
    )
    emit(done, as_json, lambda: click.echo(said))
    return 0


@controller.command()
@json_option
def status(as_json: bool) -> int:
    """Show the controller; exit code 6 when there is none."""
    from runctl_controller.cli.output import emit
    from runctl_controller.client.client import Client
    from runctl_controller.client.embedded import is_running
    from runctl_controller.settings.load import load
    from runctl_shared.errors import NoController
    from runctl_shared.messages.replies import Status
    from runctl_shared.messages.requests import ControllerStatus

    settings = load()
    if not is_running(settings):
        raise NoController("No controller runs.", "The next `runctl run` starts one.")
    with Client(settings.bus) as client:
        found = client.ask(ControllerStatus(), Status)
    emit(found, as_json, lambda: _print_status(found))
    return 0


def _print_status(found: Status) -> None:
    from runctl_controller.cli.output import clean

    kind = "embedded: ends by itself when nothing is left to do" if found.embedded else "standing"
    click.echo(clean(f"runctl {found.version}, process {found.pid} ({kind})"))
    click.echo(clean(f"bus    {found.bus}"))
    click.echo(clean(f"state  {found.state_dir}"))
    click.echo(f"runs   {found.unfinished} not finished, {found.machines} machines")
    from datetime import UTC, datetime

    since = datetime.fromtimestamp(found.leads_since, UTC)
    click.echo(f"leads  since {since:%Y-%m-%d %H:%M:%S} UTC, epoch {found.epoch}")
    waiting = ", ".join(f"process {each}" for each in found.standbys)
    if waiting:
        waiting += f" (taking over after {found.takeover:.0f} s of silence)"
    click.echo(f"behind {waiting or 'nobody stands by'}")
