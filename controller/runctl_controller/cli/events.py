"""``runctl events``: what happened."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from runctl_controller.client.events import Events
    from runctl_shared.messages.replies import EventView


@click.command()
@click.argument("run", metavar="[RUN]", required=False)
@click.option("--follow", "-f", is_flag=True, help="Go on with what happens from now on, until Ctrl-C.")
@click.option("--since", metavar="TIME", help="Only the last 90s, 2h30m, 7d of it.")
@click.option(
    "--limit", default=100, type=click.IntRange(0, 100_000), help="How many of the past, the newest.  [100]"
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document per line.")
def events(run: str | None, follow: bool, since: str | None, limit: int, as_json: bool) -> int:
    """Tell what happened, to all runs or to one, newest last."""
    from functools import partial

    from runctl_controller.client.client import checked_name
    from runctl_controller.client.embedded import is_running, reach
    from runctl_controller.client.events import Events
    from runctl_controller.settings.load import load
    from runctl_shared.clock import SystemClock

    begin = _begin(since, SystemClock().now())
    name = None if run is None else checked_name(run)
    settings = load()
    with reach(settings) as client:
        feed = Events(client, name, partial(is_running, settings))
        try:
            # Of one run, its name need not be said on every line.
            past = feed.past(max(1, limit), begin)
            for event in past if limit else []:
                _print(event, as_json, name is None)
            if limit and len(past) == limit and not as_json:
                click.echo(f"runctl: the newest {limit}; --limit shows more", err=True)
            if follow:
                _follow(feed, as_json, name is None)
        finally:
            feed.close()
    return 0


def _begin(since: str | None, now: float) -> float:
    from runctl_shared.errors import UsageError
    from runctl_shared.units import parse_duration

    if since is None:
        return 0.0
    try:
        return max(0.0, now - parse_duration(since))
    except UsageError as error:
        raise UsageError(f"--since: {error.what}", "Write it like 90s, 2h30m or 7d.") from None


def _follow(feed: Events, as_json: bool, named: bool) -> None:
    from runctl_controller.client.events import Troubled

    while True:
        event = feed.next()
        if isinstance(event, Troubled):
            click.echo(f"runctl: {event.text}", err=True)
        elif event is not None:
            _print(event, as_json, named)


def _print(event: EventView, as_json: bool, named: bool) -> None:
    import sys

    from runctl_controller.cli.output import clean, to_json_line
    from runctl_controller.cli.phases import moment

    story = event.story
    if as_json:
        fields = ("number", "at", "attempt", "kind", "text", "actor", "data")
        print(to_json_line({"run": event.run, "name": event.name} | {f: getattr(story, f) for f in fields}))
    else:
        actor = "" if story.actor in ("lifecycle", "agent") else f"  [{story.actor}]"
        attempt = f"#{story.attempt}" if story.attempt else ""
        who = f"{event.name} {attempt}".strip() if named else attempt
        print(clean(f"{moment(story.at)}  {who:<{16 if named else 3}}  {story.text}{actor}"))
    sys.stdout.flush()
