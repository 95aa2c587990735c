"""``runctl rehearse``: take the machine of a training away, and see whether it resumes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from runctl_controller.cli.options import COMMAND_CONTEXT, Asked, json_option, run_options

if TYPE_CHECKING:
    from runctl_controller.rehearsal.drill import Plan
    from runctl_controller.rehearsal.report import Report


@click.command(context_settings=COMMAND_CONTEXT)
@click.option("--notice", default="120s", metavar="TIME", help="Warning that the machine gets.  [120s]")
@click.option("--after", metavar="TIME", help="Train for so long before it.  [20s]")
@click.option("--at-step", type=click.IntRange(1), metavar="N", help="Or: train for so many steps before it.")
@click.option("--times", type=click.IntRange(1, 100), default=1, metavar="N", help="How often.  [1]")
@click.option(
    "--mtbf", default="24h", metavar="TIME", help="Time between interruptions, for the advice.  [24h]"
)
@click.option("--finish", is_flag=True, help="Let the training go on to its end afterwards.")
@json_option
@run_options
def rehearse(
    notice: str,
    after: str | None,
    at_step: int | None,
    times: int,
    mtbf: str,
    finish: bool,
    as_json: bool,
    **said: Any,
) -> int:
    """Start a training, interrupt it as a provider would, and judge what came of it.

    The machine is a process tree on this computer with a disk of its own. It gets a real notice, is killed
    when the notice runs out, and is replaced. Afterwards the run is cancelled (its checkpoints are kept), or
    goes on to its end with --finish. Exit code 0 only on a pass, 1 on a fail.
    """
    from runctl_controller.cli.output import emit
    from runctl_controller.rehearsal.drill import Plan
    from runctl_controller.rehearsal.report import Verdict
    from runctl_controller.rehearsal.show import show
    from runctl_shared.errors import UsageError
    from runctl_shared.units import parse_duration

    if parse_duration(mtbf) <= 0:
        raise UsageError("--mtbf is not positive.", "Give a duration such as 6h.")
    if after is not None and at_step is not None:
        raise UsageError("--after and --at-step exclude each other.", "Give one of them.")
    plan = Plan(
        notice=parse_duration(notice),
        after=parse_duration(after or "20s"),
        at_step=at_step,
        times=times,
        finish=finish,
        mtbf=parse_duration(mtbf),
    )
    report = _drill(Asked(**said), plan)
    emit(report, as_json, lambda: show(report))
    return 1 if report.verdict is Verdict.FAIL or (finish and not report.finished) else 0


def _drill(asked: Asked, plan: Plan) -> Report:
    import os

    from runctl_controller.cli.output import clean
    from runctl_controller.cli.spec import make_spec, secret_values
    from runctl_controller.client.client import user_name
    from runctl_controller.client.embedded import reach
    from runctl_controller.client.secrets import remove_secrets, write_secrets
    from runctl_controller.rehearsal.drill import Drill
    from runctl_controller.settings.load import load
    from runctl_shared.clock import SystemClock

    def say(text: str) -> None:
        click.echo(f"runctl: {clean(text)}", err=True)  # stdout is the report's

    settings, clock = load(), SystemClock()
    spec = make_spec(asked, settings, os.environ, user_name(), clock.now())
    write_secrets(settings.state_dir, spec.run, secret_values(spec, os.environ))
    try:
        with reach(settings) as client:
            return Drill(client, spec, plan, clock, say).run()
    finally:
        remove_secrets(settings.state_dir, spec.run)
