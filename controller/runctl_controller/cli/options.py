"""Options that several commands have, and what `run` and `rehearse` were asked for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])

json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
COMMAND_CONTEXT = {"allow_interspersed_args": False}
"""For commands that end in somebody else's command line: what follows its first word is not ours."""


class Asked(NamedTuple):
    """What was said on the command line, unchecked; None where it was not said."""

    name: str | None
    project: str | None
    checkpoints: str | None
    env: tuple[str, ...]
    secrets: tuple[str, ...]
    max_restarts: int | None
    max_hours: float | None
    grace: str | None
    signal: str | None
    resume_arg: str | None
    stall_after: str | None
    command: tuple[str, ...]


_RUN = (
    click.option("--name", help="Name of the run. Default: the script's, and four random characters."),
    click.option("--project", help="Project that it belongs to."),
    click.option(
        "--checkpoints",
        metavar="DIR|URL",
        help="Where its checkpoints are kept. Default: in the state folder.",
    ),
    click.option(
        "--env", "-e", multiple=True, metavar="K=V", help="Environment of the training; repeatable."
    ),
    click.option(
        "--secret",
        "secrets",
        multiple=True,
        metavar="NAME",
        help="Pass this variable of your environment as a secret; repeatable.",
    ),
    click.option(
        "--max-restarts",
        type=click.IntRange(0, 1_000_000),
        help="Restarts after the training's own errors.  [0]",
    ),
    click.option("--max-hours", type=float, help="Hours of training, over all attempts."),
    click.option("--grace", metavar="TIME", help="Time to save when asked to stop.  [90s]"),
    click.option("--signal", metavar="SIGNAL", help="Signal that asks the training to save.  [SIGTERM]"),
    click.option(
        "--resume-arg",
        metavar="TEXT",
        help='Added to the command when there is something to resume: "--resume {path}".',
    ),
    click.option(
        "--stall-after",
        metavar="TIME",
        help="End an attempt that shows nothing for so long, and try once more elsewhere; a second one in a"
        " row that gets no further makes the run stuck (progress resets the count).  [only told, after 30m]",
    ),
    click.argument("command", nargs=-1, type=click.UNPROCESSED, metavar="-- COMMAND..."),
)


def run_options(function: F) -> F:
    """The options that say what to run. The function gets them as keywords, as `Asked` takes them."""
    for option in reversed(_RUN):
        function = option(function)
    return function
