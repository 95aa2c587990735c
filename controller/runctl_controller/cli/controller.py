"""``runctl controller``: start, stop, status."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import click

from runctl_controller.cli.options import json_option

if TYPE_CHECKING:
    from collections.abc import Callable

    from runctl_controller.settings.model import Settings
    from runctl_shared.messages.replies import Status


@click.group()
def controller() -> None:
    """The controller: tracks runs, rents machines, keeps the ledger, resumes and terminates.

    Without a broker, the other commands start an embedded one by themselves when it is needed; it ends when
    nothing is left to do.
    """


@controller.command()
@click.option("--foreground", is_flag=True, help="Stay in the foreground, logging to stderr.")
@click.option("--embedded", is_flag=True, hidden=True)
@click.option("--ready-fd", type=int, default=None, hidden=True)
@json_option
def start(foreground: bool, embedded: bool, ready_fd: int | None, as_json: bool) -> int:
    """Start a controller that stays until it is stopped."""
    if foreground:
        return _foreground(embedded) if ready_fd is None else _background(embedded, ready_fd)
    from runctl_controller.cli.output import emit
    from runctl_controller.client.embedded import start as start_detached
    from runctl_controller.settings.load import load

    status = start_detached(load(), embedded=False)
    emit(status, as_json, lambda: click.echo(f"The controller runs (process {status.pid})."))
    return 0


def _foreground(embedded: bool) -> int:
    from runctl_controller.settings.load import load

    _serve(load(), embedded, lambda: None)
    return 0


def _background(embedded: bool, ready_fd: int) -> int:
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
            _serve(load(), embedded, lambda: tell("ok"))
        except RunctlError as error:
            # Two commands that start one at the same time both have one.
            there_already = embedded and isinstance(error, RefusedByGuard)
            tell("ok" if there_already else error.code, error.what, error.mend)
            raise
    return 0


def _serve(settings: Settings, embedded: bool, ready: Callable[[], None]) -> None:
    import logging

    from runctl_controller.service.main import serve
    from runctl_controller.settings.model import controller_config

    logging.basicConfig(
        level=settings.log_level.upper(),
        format="%(asctime)s %(levelname)s %(name)s %(message)s",
        force=True,
    )
    serve(controller_config(settings, embedded=embedded), ready)


@controller.command()
@click.option("--force", is_flag=True, help="Even if runs are not finished: nobody resumes them then.")
@json_option
def stop(force: bool, as_json: bool) -> int:
    """Stop the controller. Training goes on."""
    from runctl_controller.cli.output import emit
    from runctl_controller.client.client import Client
    from runctl_controller.client.embedded import is_running, wait_until_gone
    from runctl_controller.settings.load import load
    from runctl_shared.errors import RunctlError
    from runctl_shared.messages.replies import Done
    from runctl_shared.messages.requests import StopController

    settings = load()
    if not is_running(settings):
        emit(Done(note="no controller runs"), as_json, lambda: click.echo("No controller runs."))
        return 0
    with Client(settings.bus) as client:
        done = client.ask(StopController(force=force), Done)
    if settings.bus_url is None and not wait_until_gone(settings, 45.0):
        raise RunctlError("The controller is still ending.", "See controller.log in its state folder.")
    emit(done, as_json, lambda: click.echo("The controller has ended."))
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
