"""``runctl rm``: forgetting finished runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from runctl_controller.cli.options import json_option

if TYPE_CHECKING:
    from runctl_controller.client.client import Client
    from runctl_shared.errors import RunctlError
    from runctl_shared.messages.replies import Done

_FORGOTTEN = (
    "If it was forgotten and its checkpoints are still there: `runctl import URL` (where they lie), then"
    " `runctl rm --checkpoints` again."
)


@click.command()
@click.argument("runs", metavar="RUN...", nargs=-1, required=True)
@click.option("--checkpoints", is_flag=True, help="Delete their checkpoints and output, too: for ever.")
@click.option("--yes", is_flag=True, help="Do not ask before checkpoints are deleted.")
@json_option
def rm(runs: tuple[str, ...], checkpoints: bool, yes: bool, as_json: bool) -> int:
    """Forget finished runs: they are listed no more. What they cost stays in the sums.

    Their checkpoints stay where they are, unless --checkpoints deletes them; `runctl import` brings a run
    back whose checkpoints are kept.
    """
    from runctl_controller.cli.output import clean, to_json
    from runctl_controller.client.client import checked_name
    from runctl_controller.client.embedded import reach
    from runctl_controller.settings.load import load
    from runctl_shared.errors import NotFound, RunctlError

    done: list[Done] = []
    failed: list[RunctlError] = []
    with reach(load()) as client:
        for run in dict.fromkeys(runs):
            try:
                name = checked_name(run)
                if checkpoints and not yes and not _confirmed(client, name, as_json):
                    continue
                done.append(_remove(client, name, checkpoints))
            except NotFound as error:
                failed.append(NotFound(error.what, f"{error.mend} {_FORGOTTEN}") if checkpoints else error)
                continue
            except RunctlError as error:
                failed.append(error)
                continue
            if not as_json:
                click.echo(clean(f"{done[-1].note}."))
    if as_json and done:
        print(to_json({"forgotten": [{"run": each.run, "note": each.note} for each in done]}))
    return _refuse(failed) if failed else 0


def _remove(client: Client, run: str, checkpoints: bool) -> Done:
    from runctl_shared.messages.replies import Done
    from runctl_shared.messages.requests import RemoveRun

    # To delete much takes long; the controller goes on with it though nobody waits.
    return client.ask(RemoveRun(run=run, checkpoints=checkpoints), Done, 600.0 if checkpoints else 10.0)


def _confirmed(client: Client, run: str, as_json: bool) -> bool:
    """Whether the user wants their deletion. Raises RefusedByGuard where nobody can be asked."""
    import sys

    from runctl_controller.cli.phases import count
    from runctl_shared.errors import RefusedByGuard
    from runctl_shared.messages.replies import CheckpointList
    from runctl_shared.messages.requests import ListCheckpoints
    from runctl_shared.units import format_bytes

    found = client.ask(ListCheckpoints(run=run), CheckpointList, 60.0)
    size = format_bytes(sum(c.size for c in found.checkpoints))
    what = f"{count(len(found.checkpoints), 'checkpoint')} of {run} ({size}) in {found.store}"
    if as_json or not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise RefusedByGuard(f"This would delete {what}, for ever.", "Add --yes if that is meant.")
    return click.confirm(f"runctl: delete {what}, for ever?", err=True)


def _refuse(failed: list[RunctlError]) -> int:
    """Raise the one error, or all of them as one."""
    if len(failed) == 1:
        raise failed[0]
    from runctl_shared.errors import RunctlError

    lines = "\n".join(f"  {error.what} {error.mend}" for error in failed)
    several = RunctlError(f"{len(failed)} runs were not forgotten:\n{lines}")
    several.code, several.exit_code = failed[0].code, failed[0].exit_code
    raise several
