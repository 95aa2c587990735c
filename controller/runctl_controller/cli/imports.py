"""``runctl import``: runs out of a checkpoint store whose record was lost."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import click

from runctl_controller.cli.options import json_option

if TYPE_CHECKING:
    from collections.abc import Iterator

    from runctl_controller.client.client import Client
    from runctl_shared.messages.replies import ImportView

TIMEOUT = 300.0
_WORDS = {
    "imported": "imported",
    "adopted": "imported, and looked after",
    "known": "left alone",
    "held": "not imported",
    "damaged": "not imported",
}

_HELD = "if that installation is gone for good, add --take-over."
_TAKEN = "stop it where it is looked after, or wait; --take-over --force takes it all the same."


@click.command("import")
@click.argument("url", metavar="URL|DIR")
@click.option(
    "--take-over", is_flag=True, help="Also unfinished runs of another installation: its controller is gone."
)
@click.option("--force", is_flag=True, help="With --take-over: though they were just looked after.")
@json_option
def import_(url: str, take_over: bool, force: bool, as_json: bool) -> int:
    """Bring runs back whose record was lost, out of the store that holds their checkpoints.

    Attempts, reasons, money and checkpoints come back; a run that is on record is left alone. It may be
    repeated, and broken off. A run that is not finished is left to the installation that started it, for two
    controllers must never look after one run; once that one is gone for good, --take-over brings those
    too, with the machines of them that still live. A run of which the store shows that it was looked after
    in the last 15 minutes is left all the same, unless --force says that it is not so. No machine is
    started: `runctl resume` does that.
    """
    from runctl_controller.cli.output import clean, to_json
    from runctl_controller.client.embedded import reach
    from runctl_controller.settings.load import load
    from runctl_shared.checkpoints.open import store_folder
    from runctl_shared.errors import NotFound, UsageError

    if force and not take_over:
        raise UsageError("--force does nothing by itself.", "Give it with --take-over.")
    url = store_folder(url).as_uri()
    counts: Counter[str] = Counter()
    views = []
    with reach(load()) as client:
        for view in _imported(client, url, take_over, force):
            counts[view.outcome] += 1
            views.append(view)
            if not as_json:
                note = f": {view.note}" if view.note else ""
                who = f"{view.name} ({view.run})" if view.name else view.run
                said = clean(f"{who} {_WORDS.get(view.outcome, view.outcome)}{note}.")
                click.echo(said, err=view.outcome in ("held", "damaged"))
    if not views:
        raise NotFound(f"There is no run in {url}.", "Give the folder in which the runs' own folders lie.")
    if as_json:
        print(to_json({"url": url, "runs": views}))
    elif counts["held"]:
        click.echo(f"runctl: {_TAKEN if take_over else _HELD}", err=True)
    return 4 if counts["held"] else 5 if counts["damaged"] else 0


def _imported(client: Client, url: str, take_over: bool, force: bool) -> Iterator[ImportView]:
    from runctl_shared.messages.replies import ImportList
    from runctl_shared.messages.requests import ImportRuns

    after = ""
    while True:
        body = ImportRuns(url=url, after=after, take_over=take_over, force=force)
        found = client.ask(body, ImportList, TIMEOUT)
        yield from found.runs
        if not found.more:
            return
        after = found.through
