"""From what was said on the command line to a run: everything is checked before anything is begun."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator, Mapping, MutableMapping
from pathlib import Path

from runctl_controller.cli.command_check import check_command, stem_of
from runctl_controller.cli.environment import captured
from runctl_controller.cli.options import Asked
from runctl_controller.settings.model import Settings
from runctl_shared.checkpoints.open import store_folder
from runctl_shared.draw import new_id
from runctl_shared.errors import RunctlError, UsageError
from runctl_shared.spec import RunSpec, check_spec
from runctl_shared.units import parse_duration

_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_MOST_BYTES = 512 * 1024
"""Of command and environment together: a run must fit into a message, and into a command line."""
_LONGEST_GRACE = 86_400.0


def make_spec(
    asked: Asked, settings: Settings, environ: Mapping[str, str], requested_by: str, now: float
) -> RunSpec:
    """The run that was asked for, under a fresh id. Raises one UsageError that lists all that is wrong."""
    wrong: list[RunctlError] = []
    folder = _folder(wrong)
    env = captured(environ) | _env(asked, wrong)
    hours = settings.max_hours if asked.max_hours is None else asked.max_hours
    spec = RunSpec(
        run=new_id("run"),
        name=_name(asked),
        project=settings.project if asked.project is None else asked.project,
        requested_by=requested_by,
        command=asked.command,
        workdir=folder,
        env=env,
        secrets=asked.secrets,
        store=_store(asked, settings, wrong),
        resume_arg=settings.resume_arg if asked.resume_arg is None else asked.resume_arg,
        signal=settings.signal if asked.signal is None else asked.signal,
        grace=_grace(asked, settings, wrong),
        max_restarts=settings.max_restarts if asked.max_restarts is None else asked.max_restarts,
        max_seconds=None if hours is None else hours * 3600.0,
        stall_after=_stall_after(asked, wrong),
        provider=settings.provider,
        created_at=now,
    )
    wrong += [*check_spec(spec), *_check_limits(spec), *_check_secrets(asked, environ), *_check_text(spec)]
    wrong += check_command(spec.command, env.get("PATH", os.defpath), folder)
    refuse(wrong)
    return spec


def refuse(wrong: list[RunctlError]) -> None:
    """Raise what is wrong: the one error itself, or several as one. Nothing wrong: return."""
    wrong = list({error.what: error for error in wrong}.values())
    if len(wrong) == 1:
        raise wrong[0]
    if wrong:
        lines = [f"  {error.what} {error.mend}" for error in wrong]
        raise UsageError("\n".join([f"{len(wrong)} things are wrong:", *lines]))


def secret_values(spec: RunSpec, environ: MutableMapping[str, str]) -> dict[str, str]:
    """The run's secrets out of `environ`: taken away there, so that no process that is started from here (a
    controller, say, and with it other people's trainings) has them too."""
    return {name: environ.pop(name) for name in dict.fromkeys(spec.secrets)}


def _folder(wrong: list[RunctlError]) -> str:
    try:
        return os.getcwd()
    except OSError:
        wrong.append(UsageError("The current folder does not exist any more.", "Change to another one."))
        return "/"


def _name(asked: Asked) -> str:
    """A name is taken as it is; without one, the script's is made into one that will do."""
    if asked.name is not None:
        return asked.name
    stem = re.sub(r"[^a-z0-9._-]+", "-", stem_of(asked.command).lower()).strip("._-")[:50].rstrip("._-")
    return new_id(stem or "run", 4)


def _env(asked: Asked, wrong: list[RunctlError]) -> dict[str, str]:
    env = {}
    for item in asked.env:
        name, equals, value = item.partition("=")
        if not equals or not _VARIABLE.fullmatch(name):
            wrong.append(
                UsageError(f"--env {item!r} is not of the form NAME=VALUE.", "Write --env NAME=VALUE.")
            )
        elif name.startswith("RUNCTL_"):
            wrong.append(UsageError(f"--env {name}: names with RUNCTL_ are runctl's own.", "Choose another."))
        else:
            env[name] = value
    return env


def _grace(asked: Asked, settings: Settings, wrong: list[RunctlError]) -> float:
    if asked.grace is None:
        return settings.grace
    try:
        return parse_duration(asked.grace)
    except UsageError as error:
        wrong.append(UsageError(f"--grace: {error.what}", error.mend))
        return settings.grace


def _stall_after(asked: Asked, wrong: list[RunctlError]) -> float | None:
    if asked.stall_after is None:
        return None
    try:
        return parse_duration(asked.stall_after)
    except UsageError as error:
        wrong.append(UsageError(f"--stall-after: {error.what}", error.mend))
        return None


def _check_limits(spec: RunSpec) -> Iterator[UsageError]:
    if spec.grace > _LONGEST_GRACE:
        yield UsageError("--grace is longer than a day.", "Give a duration such as 90s or 10m.")
    if spec.max_seconds == math.inf:
        yield UsageError("The time limit is no number of hours.", "Give hours, e.g. --max-hours 12.")


def _check_secrets(asked: Asked, environ: Mapping[str, str]) -> Iterator[UsageError]:
    given = {item.partition("=")[0] for item in asked.env}
    for name in asked.secrets:
        if not _VARIABLE.fullmatch(name):
            yield UsageError(
                "--secret takes the name of a variable of your environment, not a value.",
                "Write --secret NAME, after: export NAME=…",
            )
        elif name.startswith("RUNCTL_"):
            yield UsageError(f"--secret {name}: names with RUNCTL_ are runctl's own.", "Choose another.")
        elif name in given:
            yield UsageError(f"{name} is given both by --env and by --secret.", "Use one of them.")
        elif name not in environ:
            yield UsageError(
                f"The secret {name} is not in your environment.", f"Set it first: export {name}=…"
            )


def _check_text(spec: RunSpec) -> Iterator[UsageError]:
    """What cannot be carried by a message."""
    words = [*spec.command, spec.workdir, spec.resume_arg or "", *spec.env, *spec.env.values()]
    try:
        size = sum(len(word.encode()) for word in words)
    except UnicodeEncodeError:
        yield UsageError(
            "The command, its folder or its environment is not text in UTF-8.", "Rename what has odd bytes."
        )
        return
    if size > _MOST_BYTES:
        yield UsageError("The command and its environment are too long.", "Move part of it into a file.")


def _store(asked: Asked, settings: Settings, wrong: list[RunctlError]) -> str:
    """The URL of the checkpoint store. Its folder must be there or makeable; nothing is made yet."""
    url = settings.store if asked.checkpoints is None else asked.checkpoints
    try:
        folder = store_folder(url)
    except UsageError as error:
        wrong.append(error)
        return url
    wrong += _check_folder(folder)
    try:
        return folder.as_uri()
    except UnicodeEncodeError:
        return url


def _check_folder(folder: Path) -> Iterator[UsageError]:
    there = folder
    while not os.path.lexists(there) and there != there.parent:
        there = there.parent
    what = f"The checkpoint folder {folder} cannot be written to"
    mend = "Name another with --checkpoints, or mend its permissions."
    if not there.is_dir():
        yield UsageError(f"{what}: {there} is not a folder.", mend)
    elif os.statvfs(there).f_flag & os.ST_RDONLY:
        yield UsageError(f"{what}: {there} lies on a read-only file system.", mend)
    elif not os.access(there, os.W_OK | os.X_OK):
        yield UsageError(f"{what}: no permission to write in {there}.", mend)
