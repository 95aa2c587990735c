"""Where settings may come from: files, environment, folders. Quick to load; reads no file."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import PurePath

import msgspec

from runctl_shared.errors import UsageError

PREFIX = "RUNCTL_"
PROJECT_FILE = ".runctl.toml"
FLAG, ENVIRONMENT = "flag", "environment"
"""Where a value comes from, when not from a file."""
_NOT_SETTINGS = frozenset(
    {
        "RUNCTL_RUN",
        "RUNCTL_ATTEMPT",
        "RUNCTL_CHECKPOINT_DIR",
        "RUNCTL_RESUME_FROM",
        "RUNCTL_MACHINE",
        "RUNCTL_MACHINE_DIR",
        "RUNCTL_DEBUG",
    }
)
"""What agents export into trainings and machines carry: runctl may be used inside of one."""
_NOT_SETTINGS_EITHER = ("RUNCTL_TEST_", "RUNCTL_SIM")


class Places(msgspec.Struct, frozen=True, kw_only=True):
    """`project_file`: the nearest .runctl.toml, None when there is none. `stamps`: every file that was looked
    for, and what tells one content from the next, None for an absent one. `variables`: the RUNCTL_ ones that
    are meant as settings, known or not."""

    cwd: str
    user_file: str
    project_file: str | None
    state_dir: str
    cache_dir: str
    stamps: tuple[tuple[str, tuple[int, ...] | None], ...]
    variables: dict[str, str]


def find(environ: Mapping[str, str]) -> Places:
    """The places of this process, now. Raises UsageError without a working directory or a home."""
    try:
        cwd = os.getcwd()
    except OSError:
        raise UsageError(
            "The working directory does not exist any more.", "Change to one that does: cd ~"
        ) from None
    user_file = _home(environ, "XDG_CONFIG_HOME", ".config", "config.toml")
    stamps = [(user_file, stamp(user_file))]
    project_file = None
    for folder in (PurePath(cwd), *PurePath(cwd).parents):
        candidate = str(folder / PROJECT_FILE)
        stamps.append((candidate, stamp(candidate)))
        if stamps[-1][1] is not None:
            project_file = candidate
            break
    return Places(
        cwd=cwd,
        user_file=user_file,
        project_file=project_file,
        state_dir=_home(environ, "XDG_STATE_HOME", ".local/state"),
        cache_dir=_home(environ, "XDG_CACHE_HOME", ".cache"),
        stamps=tuple(stamps),
        variables={name: text for name, text in sorted(environ.items()) if is_setting(name)},
    )


def stamp(path: str) -> tuple[int, ...] | None:
    """What changes whenever the file does; None when nothing can be found there."""
    try:
        found = os.stat(path)
    except (OSError, ValueError):
        return None
    return (found.st_mtime_ns, found.st_ctime_ns, found.st_size, found.st_ino, found.st_dev, found.st_mode)


def _home(environ: Mapping[str, str], variable: str, usual: str, *rest: str) -> str:
    base = environ.get(variable, "")
    if not os.path.isabs(base):  # the XDG specification: a relative one counts as not set
        home = os.path.expanduser("~")
        if not os.path.isabs(home):
            raise UsageError("Your home folder is unknown.", "Set HOME to its absolute path.")
        base = os.path.join(home, usual)
    return os.path.join(base, "runctl", *rest)


def is_setting(name: str) -> bool:
    """Whether an environment variable of that name is meant as a setting, known or not."""
    return name.startswith(PREFIX) and name not in _NOT_SETTINGS and not name.startswith(_NOT_SETTINGS_EITHER)
