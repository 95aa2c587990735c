"""``runctl broker``: a RabbitMQ of one's own, for trying things."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from runctl_controller.cli.options import json_option

if TYPE_CHECKING:
    import threading

    from runctl_controller.broker.dev import DevBroker, View
    from runctl_controller.broker.node import Node
    from runctl_controller.cli.signals import Noted


@click.group()
def broker() -> None:
    """A private RabbitMQ for trying things; runs need none on one computer.

    It listens on this computer only, needs no root, and keeps what it writes in the state folder.
    """


@broker.command()
@click.option("--detach", is_flag=True, help="Leave it running in the background.")
@json_option
def dev(detach: bool, as_json: bool) -> int:
    """Start it: until Ctrl-C, or with --detach until `runctl broker stop`.

    Prints the line that makes a shell use it; the rest goes to stderr.
    """
    made = _own()
    if detach:
        click.echo("runctl: the broker is starting (some seconds)", err=True)
        made.start()
        _show(made.status(), as_json)
        return 0
    return _foreground(made, as_json)


def _foreground(made: DevBroker, as_json: bool) -> int:
    import threading

    from runctl_controller.cli.signals import noted

    over = threading.Event()
    with noted(over.set) as signals:
        click.echo("runctl: the broker is starting (some seconds); Ctrl-C ends it", err=True)
        node = None
        try:
            node = made.start(over.is_set)
            _show(made.status(), as_json)
            threading.Thread(target=_watch, args=(node, over), name="wait", daemon=True).start()
            over.wait()
        except Exception:
            if signals.take() is None:
                raise
            return 130
        finally:
            _end(node)
        return _told(signals, node)


def _watch(node: Node, over: threading.Event) -> None:
    node.wait()
    over.set()


def _end(node: Node | None) -> None:
    if node is not None:
        node.stop()


def _told(signals: Noted, node: Node) -> int:
    from runctl_shared.errors import RunctlError

    if signals.take() is None and node.exit_code:
        raise RunctlError("The broker has ended by itself.", node.end_of_log())
    click.echo("runctl: the broker has ended", err=True)
    return 0


@broker.command()
@json_option
def status(as_json: bool) -> int:
    """Show it; exit code 3 when there is none."""
    _show(_own().status(), as_json)
    return 0


@broker.command()
@json_option
def stop(as_json: bool) -> int:
    """End it. What is durable in it is there again at the next start."""
    from runctl_controller.cli.output import emit

    stopped = _own().stop()
    said = "The broker has ended." if stopped else "No private broker runs."
    emit({"stopped": stopped}, as_json, lambda: click.echo(said))
    return 0


def _own() -> DevBroker:
    from pathlib import Path

    from runctl_controller.broker.dev import DevBroker
    from runctl_controller.settings.load import load

    return DevBroker(Path(load().state_dir).absolute())


def _show(view: View, as_json: bool) -> None:
    import sys

    from runctl_controller.cli.output import emit

    emit(view, as_json, lambda: click.echo(f"export RUNCTL_BUS_URL={view.url}"))
    sys.stdout.flush()
    if not as_json:
        click.echo(
            f"runctl: the broker answers; what it keeps is in {view.folder}\n"
            "runctl: next, in a shell with the line above: `runctl controller start`, then `runctl run …`",
            err=True,
        )
