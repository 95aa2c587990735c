"""``runctl``: each command is imported only when it is used, so that `--help` and `ls` stay quick."""

from __future__ import annotations

import importlib
import sys
from typing import Any

import click

COMMANDS = {
    "run": ("run", "Run a training that survives its machines."),
    "rehearse": ("rehearse", "Take the machine of a training away, and see whether it resumes."),
    "ls": ("look", "List runs."),
    "show": ("look", "Show a run: attempts, machines, money, story."),
    "explain": ("explain", "Tell why a run is in the state that it is in."),
    "events": ("events", "Tell what happened, to all runs or to one."),
    "logs": ("logs", "Print what a run printed, over all its attempts."),
    "checkpoints": ("look", "List the checkpoints of a run."),
    "stop": ("act", "Save, then end a run; it can be resumed."),
    "resume": ("act", "Go on with a run from its newest verified checkpoint."),
    "cancel": ("act", "End a run for good; its checkpoints are kept."),
    "rm": ("rm", "Forget finished runs; what they cost stays in the sums."),
    "import": ("imports", "Bring runs back out of a checkpoint store."),
    "interrupt": ("act", "Have the machine of a run taken away, with notice."),
    "init": ("init", "Write a settings file to begin with."),
    "controller": ("controller", "Start, stop or look at the controller."),
    "broker": ("broker", "Start a private RabbitMQ for trying things; stop it; look at it."),
    "config": ("config", "Show or check the settings."),
}
"""Name, module, and help: enough for `runctl --help` without importing any of them."""

EXIT_CODES = """\b
Exit codes:
  2 wrong usage   3 not found   4 refused by a guard   5 provider or store   6 no controller
  run: the training's own; 75 paused, resumable; 125 runctl itself failed
  rehearse: 0 only on a pass, 1 on a fail"""


class LazyGroup(click.Group):
    """Imports the module of a command when that command is used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"runctl_controller.cli.{COMMANDS[cmd_name][0]}")
        command = getattr(module, cmd_name, None) or getattr(module, f"{cmd_name}_")
        assert isinstance(command, click.Command)  # noqa: S101 - ours
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in COMMANDS:
            from difflib import get_close_matches

            close = get_close_matches(args[0], COMMANDS, 1)
            meant = f"Did you mean {close[0]!r}? " if close else ""
            raise click.UsageError(f"There is no command {args[0]!r}. {meant}`runctl --help` lists them.")
        return super().resolve_command(ctx, args)


def _version(ctx: click.Context, _: click.Parameter, wanted: bool) -> None:
    if wanted and not ctx.resilient_parsing:
        from runctl_controller import __version__

        click.echo(f"runctl {__version__}")
        ctx.exit()


@click.group(cls=LazyGroup, epilog=EXIT_CODES, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--version", is_flag=True, is_eager=True, expose_value=False, callback=_version, help="Print the version."
)
def cli() -> None:
    """Train on machines that can be taken away at any moment, and lose neither work, nor money, nor sleep."""


def main(argv: list[str] | None = None) -> Any:
    """The command's exit code; every failure is one clear sentence and its mend."""
    from runctl_controller.cli import streams
    from runctl_controller.cli.failures import guarded

    streams.ensure()
    return guarded(cli, sys.argv[1:] if argv is None else argv)


if __name__ == "__main__":
    sys.exit(main())
