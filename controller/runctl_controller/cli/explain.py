"""``runctl explain``: why a run is in the state that it is in."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from runctl_controller.cli.options import json_option

if TYPE_CHECKING:
    from collections.abc import Sequence

    from runctl_controller.explain.said import Said
    from runctl_shared.messages.replies import RunDetail

_HEADINGS = {
    "asked": "What was asked",
    "happened": "What happened",
    "now": "Now",
    "next": "What ends the wait",
    "you": "What you can do",
}


@click.command()
@click.argument("run", metavar="RUN")
@json_option
def explain(run: str, as_json: bool) -> int:
    """Tell why a run is in the state that it is in: the evidence, in order, in sentences."""
    from runctl_controller.cli.output import emit
    from runctl_controller.cli.phases import moment
    from runctl_controller.client.client import checked_name
    from runctl_controller.client.embedded import reach
    from runctl_controller.explain.whole import explain as explained
    from runctl_controller.settings.load import load
    from runctl_shared.clock import SystemClock
    from runctl_shared.messages.replies import RunDetail
    from runctl_shared.messages.requests import ShowRun

    with reach(load()) as client:
        detail = client.ask(ShowRun(run=checked_name(run), story=1000), RunDetail)
    now = SystemClock().now()
    today = moment(now)[:11]
    said = explained(detail, now, lambda at: moment(at).removeprefix(today))
    emit(_document(detail, said), as_json, lambda: _print(detail, said))
    return 0


def _document(detail: RunDetail, said: Sequence[Said]) -> dict[str, object]:
    return {
        "run": detail.run.run,
        "name": detail.run.name,
        "state": detail.run.state,
        "sentences": [{"part": s.part.value, "at": s.at, "text": s.text} for s in said],
    }


def _print(detail: RunDetail, said: Sequence[Said]) -> None:
    import textwrap

    from runctl_controller.cli.output import clean
    from runctl_controller.cli.screen import columns

    click.echo(clean(f"{detail.run.name}  {detail.run.state}"))
    part = ""
    for sentence in said:
        if sentence.part != part:
            part = sentence.part.value
            click.echo(f"\n{_HEADINGS[part]}")
        lines = textwrap.wrap(
            clean(sentence.text), columns() - 4, break_long_words=False, break_on_hyphens=False
        )
        click.echo("\n".join(f"{'  ' if number == 0 else '    '}{line}" for number, line in enumerate(lines)))
