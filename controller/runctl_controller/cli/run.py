"""``runctl run``: start a training, and stay with it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from runctl_controller.cli.options import COMMAND_CONTEXT, Asked, json_option, run_options

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from runctl_controller.cli.screen import Screen
    from runctl_controller.client.client import Client
    from runctl_controller.settings.model import Settings
    from runctl_shared.messages.replies import Done
    from runctl_shared.spec import RunSpec

_EPILOG = """\b
The training finds the folder for its checkpoints in RUNCTL_CHECKPOINT_DIR
(or in the command, as {checkpoint_dir}) and, when there is something to
resume, its path in RUNCTL_RESUME_FROM. Of your environment it gets what
programs need to start (PATH, HOME, VIRTUAL_ENV, CONDA_PREFIX, LD_LIBRARY_PATH,
LANG, LC_*, PYTHON*, CUDA_*, NVIDIA_*, NCCL_*, OMP_*, TORCH_*, JAX_*, TF_*,
proxies, ...) but nothing that looks like a secret: --secret passes those.
\b
Ctrl-C asks whether to save and stop, detach, or go on watching; a second
one detaches. Without a terminal, SIGINT and SIGTERM save and stop. A lost
terminal (SIGHUP) detaches.
\b
Exit code: the training's own (128 + n for signal n); 75 paused, resumable;
125 runctl itself failed once the run had begun; before that 2 to 6."""


@click.command(context_settings=COMMAND_CONTEXT, epilog=_EPILOG)
@click.option("--detach", "-d", is_flag=True, help="Print the run's name, and return.")
@json_option
@run_options
def run(detach: bool, as_json: bool, **options: Any) -> int:
    """Run a training that survives its machines.

    Its output goes to stdout, what happens to it to stderr. With --json both go to stderr, and stdout gets
    the run as it is at the end.
    """
    import os
    from functools import partial

    from runctl_controller.cli.screen import standard
    from runctl_controller.cli.spec import make_spec, secret_values
    from runctl_controller.client.client import user_name
    from runctl_controller.client.embedded import reach
    from runctl_controller.settings.load import load
    from runctl_shared.clock import SystemClock

    settings = load()
    spec = make_spec(Asked(**options), settings, os.environ, user_name(), SystemClock().now())
    secrets = secret_values(spec, os.environ)
    screen = standard(to_stderr=as_json)
    with reach(settings) as client:
        submit = partial(_submit, client, settings, spec, secrets)
        if detach:
            submit()
            _tell_detached(spec, as_json, screen)
            return 0
        return _attached(client, settings, spec, submit, screen, as_json)


def _submit(client: Client, settings: Settings, spec: RunSpec, secrets: Mapping[str, str]) -> None:
    """Put the run on record. Raises what it is refused with; then no secret is left behind."""
    from runctl_controller.client.secrets import remove_secrets, write_secrets
    from runctl_shared.errors import NoController
    from runctl_shared.messages.replies import Done
    from runctl_shared.messages.requests import SubmitRun

    def ask() -> Done:
        return client.ask(SubmitRun(spec=spec), Done)

    write_secrets(settings.state_dir, spec.run, secrets)
    try:
        try:
            ask()
        except NoController:
            ask()  # the same run: whether the first one was heard does not matter
    except BaseException:
        remove_secrets(settings.state_dir, spec.run)
        raise


def _tell_detached(spec: RunSpec, as_json: bool, screen: Screen) -> None:
    from runctl_controller.cli.output import emit

    document = {"run": spec.run, "name": spec.name, "project": spec.project, "store": spec.store}
    emit(document, as_json, lambda: click.echo(spec.name))
    if not as_json:
        screen.say(f"look: runctl logs -f {spec.name}; end: runctl stop {spec.name}")


def _attached(
    client: Client,
    settings: Settings,
    spec: RunSpec,
    submit: Callable[[], None],
    screen: Screen,
    as_json: bool,
) -> int:
    from runctl_controller.cli.attach import Attached
    from runctl_controller.cli.exits import OURS
    from runctl_controller.cli.output import to_json
    from runctl_controller.cli.signals import noted
    from runctl_controller.client.embedded import Restarter
    from runctl_controller.client.follow import Follower
    from runctl_shared.clock import SystemClock
    from runctl_shared.errors import RunctlError

    clock = SystemClock()
    follower = Follower(client, clock, spec.run, Restarter(settings, screen.say).ensure)
    try:
        with noted(follower.wake) as signals:
            submit()
            screen.say(_welcome(settings, spec))
            try:
                code = Attached(client, follower, screen, clock, spec.name).watch(signals)
            except BrokenPipeError:
                screen.say(f"nobody reads our output any more: detached; {spec.name} goes on")
                raise
            except RunctlError as error:
                # The training may go on, and its exit code is not known: never one that could be its own.
                raise _ours(error, spec.name, OURS) from error
            finally:
                screen.close()
    finally:
        follower.close()
    if as_json and follower.detail is not None:
        print(to_json(follower.detail))
    return code


def _welcome(settings: Settings, spec: RunSpec) -> str:
    awake = "; it resumes only while this computer is awake" if settings.bus_url is None else ""
    return f"{spec.name}: checkpoints in {spec.store}{awake}"


def _ours(error: Exception, name: str, code: int) -> Exception:
    from runctl_shared.errors import RunctlError

    what = getattr(error, "what", str(error))
    ours = RunctlError(what, f"{name} may go on all the same: runctl show {name}")
    ours.exit_code = code
    return ours
