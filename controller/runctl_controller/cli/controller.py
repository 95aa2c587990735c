"""``runctl controller``: start, stop, status."""

from __future__ import annotations

import os
from collections.abc import Callable

import click


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
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def start(foreground: bool, embedded: bool, ready_fd: int | None, as_json: bool) -> int:
    """Start a controller that stays until it is stopped."""
    from runctl_controller.cli.output import emit
    from runctl_controller.settings.load import load

    settings = load()
    if foreground:
        return _serve(embedded, ready_fd)
    from runctl_controller.client.embedded import start as start_detached

    status = start_detached(settings, embedded=False)
    emit(status, as_json, lambda: click.echo(f"The controller runs (process {status.pid})."))
    return 0


def _serve(embedded: bool, ready_fd: int | None) -> int:
    from runctl_controller.service.main import serve
    from runctl_controller.settings.load import load
    from runctl_controller.settings.model import controller_config
    from runctl_shared.errors import RefusedByGuard, RunctlError

    settings = load()
    _log(settings.log_level)
    tell = _teller(ready_fd)
    try:
        serve(controller_config(settings, embedded=embedded), lambda: tell("ok"))
    except RunctlError as error:
        # Two commands that start one at the same time both have one.
        there_already = embedded and isinstance(error, RefusedByGuard)
        tell("running" if there_already else f"{error.code}\n{error.what}\n{error.mend}")
        raise
    return 0


def _teller(ready_fd: int | None) -> Callable[[str], None]:
    """Tells whoever started us how it went, once."""
    if ready_fd is None:
        return lambda text: None
    # No process that we start may hold the pipe open.
    os.set_inheritable(ready_fd, False)
    pipe = os.fdopen(ready_fd, "w")

    def tell(text: str) -> None:
        if not pipe.closed:
            pipe.write(text)
            pipe.close()

    return tell


def _log(level: str) -> None:
    import logging

    logging.basicConfig(
        level=level.upper(), format="%(asctime)s %(levelname)s %(name)s %(message)s", force=True
    )


@controller.command()
@click.option("--force", is_flag=True, help="Even if runs are not finished: nobody resumes them then.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
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
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
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


def _print_status(found: object) -> None:
    from runctl_shared.messages.replies import Status

    assert isinstance(found, Status)  # noqa: S101 - ours
    kind = "embedded" if found.embedded else "standing"
    click.echo(f"{kind} controller {found.version}, process {found.pid}, bus {found.bus}")
    click.echo(f"state in {found.state_dir}")
    click.echo(f"{found.unfinished} unfinished runs, {found.machines} machines")
