"""What the user asked for, and what a machine is told at boot."""

from __future__ import annotations

import shlex

import msgspec

from runctl_shared.errors import UsageError
from runctl_shared.ids import is_name, is_run_id
from runctl_shared.units import LONGEST

_SIGNAL_NAMES = "HUP INT QUIT ABRT USR1 USR2 PIPE ALRM TERM CONT TSTP TTIN TTOU WINCH XCPU"
SIGNALS = frozenset("SIG" + name for name in _SIGNAL_NAMES.split())
"""Signals that may ask a training to save: those that a process can catch."""
CHECKPOINT_DIR_WORD = "{checkpoint_dir}"
"""In a command, replaced by the folder in which the training should save."""


class RunSpec(msgspec.Struct, frozen=True, kw_only=True):
    """A run: everything that stays the same over all its attempts. Holds names of secrets, never values.

    `command` is run in `workdir`, without a shell. `store` is the URL under which the run's checkpoints are
    kept. `resume_arg` is added to the command when there is something to resume ({path} is replaced).
    `signal` asks the training to save; `grace` is how many seconds it has to do so when there is no notice.
    `max_restarts` counts restarts after the training's own errors only. `stall_after`: end the attempt when
    the training has shown nothing for so long (None: only tell). Durations are seconds.
    """

    version: int = 1
    run: str
    name: str
    project: str = "default"
    requested_by: str = ""
    installation: str = ""
    command: tuple[str, ...]
    workdir: str
    env: dict[str, str] = {}
    secrets: tuple[str, ...] = ()
    store: str
    resume_arg: str | None = None
    signal: str = "SIGTERM"
    grace: float = 90.0
    max_restarts: int = 0
    max_seconds: float | None = None
    stall_after: float | None = None
    provider: str = "local"
    created_at: float = 0.0


class Timing(msgspec.Struct, frozen=True, kw_only=True):
    """Intervals of an agent, in seconds.

    `lease`: how long it may live without hearing from its controller or committing a checkpoint.
    `kill_margin`: how long before a named deadline it stops the training itself, so that two machines never
    train at once. `stall_notice`: how long a training may show nothing before that is told.
    """

    heartbeat: float = 10.0
    lease: float = 900.0
    notice_poll: float = 1.0
    kill_margin: float = 3.0
    stall_notice: float = 1800.0


class Boot(msgspec.Struct, frozen=True, kw_only=True):
    """The boot file of a machine (`boot.json`, mode 600): who it is and whom to call. No secrets: where the
    bus wants a login, it lies beside (`login.json`, see bus.login.Login).

    `hard_end` is the seconds from the machine's launch after which it ends, saving first; `installation`
    whose machine it is.
    """

    version: int = 1
    agent: str
    attempt: int
    spec: RunSpec
    bus: str
    hard_end: float
    timing: Timing = Timing()
    installation: str = ""


def check_spec(spec: RunSpec) -> list[UsageError]:
    """Everything that is wrong with `spec`, each with its mend; empty when it may run."""
    found: list[UsageError] = []

    def need(good: bool, what: str, mend: str) -> None:
        if not good:
            found.append(UsageError(what, mend))

    need(is_run_id(spec.run), f"{spec.run!r} is not a run id.", "Leave it out: one is made for you.")
    for label, value in (("run", spec.name), ("project", spec.project)):
        need(
            is_name(value),
            f"{value!r} cannot be the name of a {label}.",
            "Use 1 to 63 of a-z, 0-9, '.', '_' and '-', beginning and ending with a letter or digit.",
        )
    need(bool(spec.command) and all(spec.command[:1]), "There is no command to run.", "Put it after --.")
    need("\0" not in "".join(spec.command), "The command holds a NUL byte.", "Remove it.")
    need(
        spec.workdir.startswith("/") and "\0" not in spec.workdir,
        f"The working folder {spec.workdir!r} is not an absolute path.",
        "Give it from the root on: it is the machine that goes there.",
    )
    need(
        spec.signal in SIGNALS,
        f"{spec.signal!r} is not a signal that a training can catch.",
        "Use SIGTERM, SIGUSR1, SIGINT or another name from `kill -l`.",
    )
    need(
        0 <= spec.grace <= LONGEST,
        "The grace period is negative or without end.",
        "Use a duration such as 90s.",
    )
    need(spec.max_restarts >= 0, "The number of restarts is negative.", "Use 0 for none.")
    need(
        spec.max_seconds is None or spec.max_seconds > 0,
        "The time limit is not positive.",
        "Give hours, e.g. 12.",
    )
    need(
        spec.stall_after is None or 1.0 <= spec.stall_after <= LONGEST,
        "--stall-after is less than a second, or without end.",
        "Give a duration such as 30m; leave it out to be told only.",
    )
    for key in spec.env:
        good = bool(key) and "=" not in key and "\0" not in key + spec.env[key]
        need(good, f"{key!r} cannot name an environment variable.", "Write --env NAME=VALUE.")
    if spec.resume_arg is not None:
        found.extend(_check_resume_arg(spec.resume_arg))
    return found


def _check_resume_arg(text: str) -> list[UsageError]:
    mend = 'Write it like --resume-arg "--resume {path}".'
    try:
        words = shlex.split(text)
    except ValueError:
        return [UsageError(f"--resume-arg {text!r} has an unclosed quote.", mend)]
    if not any("{path}" in word for word in words):
        return [UsageError(f"--resume-arg {text!r} does not say where the path goes.", mend)]
    return []


def command_line(spec: RunSpec, checkpoint_dir: str, resume_from: str | None) -> list[str]:
    """The words to execute: the command with its place for the checkpoint folder filled in and, when there is
    something to resume, the resume argument. Plain replacement, word by word; no shell sees them."""
    words = [word.replace(CHECKPOINT_DIR_WORD, checkpoint_dir) for word in spec.command]
    if spec.resume_arg is not None and resume_from is not None:
        words += [word.replace("{path}", resume_from) for word in shlex.split(spec.resume_arg)]
    return words
