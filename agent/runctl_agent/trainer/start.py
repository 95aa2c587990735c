"""Starts a training under a minder of its own, or says clearly why that is impossible."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from runctl_agent.trainer import minder as minder_module
from runctl_agent.trainer import record
from runctl_agent.trainer.process import OnExit, Trainer
from runctl_shared.clock import Clock
from runctl_shared.errors import RunctlError

_NOT_FOUND, _NOT_EXECUTABLE, _OURS = 127, 126, 125


class TrainerCannotStart(RunctlError):
    """The command cannot be run. `exit_code` is what a shell would exit with: 127 when it is not there, 126
    when it cannot be executed, and 125 when the fault is not the command's."""

    code = "cannot_start"

    def __init__(self, what: str, mend: str, exit_code: int) -> None:
        super().__init__(what, mend)
        self.exit_code = exit_code


def start(
    argv: Sequence[str],
    env: Mapping[str, str],
    cwd: Path,
    output: Path,
    state: Path,
    *,
    on_exit: OnExit,
    clock: Clock,
    stray_wait: float = 0.0,
) -> Trainer:
    """Run `argv` without a shell, in its own session, with exactly `env`, its output appended to `output`.

    Returns once the program runs and is on record in `state` (and in files beside it, see `record`), from
    where `adopt.adopt` takes it over if this agent dies. Raises TrainerCannotStart; then nothing runs, and
    `on_exit` is not called. `on_exit` and `stray_wait` are described in `process`.
    """
    words = [*argv, str(cwd), *env, *env.values()]
    if not argv or not argv[0]:
        raise TrainerCannotStart("There is no command to run.", "Put it after --.", _NOT_FOUND)
    if any("\0" in word for word in words):
        what = "The command or its environment holds a NUL byte."
        raise TrainerCannotStart(what, "Remove it.", _NOT_EXECUTABLE)
    state, output = Path(os.path.abspath(state)), Path(os.path.abspath(output))
    lock = _take_lock(state)
    try:
        record.forget(state)
        process = _run_minder(lock, output)
    except OSError as error:
        raise _no_files(error) from None
    finally:
        os.close(lock)  # the minder has it now
    answer = _order(process, _encode(state, cwd, argv, env))
    if answer != ["started"]:
        process.wait()
        record.forget(state)
        raise _explain(answer, argv[0], cwd, env.get("PATH", os.defpath))
    found = record.read_record(state)
    if found is None:
        raise TrainerCannotStart(f"The record {str(state)!r} vanished.", "Start the run again.", _OURS)
    return Trainer(
        state, found, on_exit=on_exit, clock=clock, marks=env, stray_wait=stray_wait, minder=process
    )


def _take_lock(state: Path) -> int:
    try:
        state.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        return record.take_lock(state)
    except BlockingIOError:
        raise TrainerCannotStart(
            "The training of this attempt is still running.", "Stop it before you start another.", _OURS
        ) from None
    except OSError as error:
        raise _no_files(error) from None


def _run_minder(lock: int, output: Path) -> subprocess.Popen[bytes]:
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    sink = os.open(output, flags, 0o600)
    try:
        return subprocess.Popen(
            [sys.executable, "-I", "-S", minder_module.__file__, str(lock)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=sink,
            start_new_session=True,
            pass_fds=(lock,),
        )
    finally:
        os.close(sink)


def _encode(state: Path, cwd: Path, argv: Sequence[str], env: Mapping[str, str]) -> bytes:
    pairs = [f"{name}={value}" for name, value in env.items()]
    words = [str(state), os.path.abspath(cwd), str(len(argv)), str(len(pairs)), *argv, *pairs]
    return b"".join(os.fsencode(word) + b"\0" for word in words)


def _order(process: subprocess.Popen[bytes], order: bytes) -> list[str]:
    """The minder's answer, in words; empty when it died instead."""
    if process.stdin is None or process.stdout is None:
        raise RuntimeError("started without pipes")
    with process.stdout:
        try:
            with process.stdin:
                process.stdin.write(order)
        except BrokenPipeError:
            return []
        return process.stdout.readline().decode("ascii", "replace").split()


def _no_files(error: OSError) -> TrainerCannotStart:
    return TrainerCannotStart(
        f"The agent cannot write {error.filename!r}: {error.strerror}.",
        "Make room on this machine, or move RUNCTL_STATE_DIR to a disk that can be written.",
        _OURS,
    )


def _explain(answer: list[str], program: str, cwd: Path, search: str) -> TrainerCannotStart:
    stage, number = (answer[1], int(answer[2])) if len(answer) == 3 else ("minder", 0)
    reason = os.strerror(number) if number else "for a reason unknown"
    if stage == "cwd":
        status = _NOT_FOUND if number in (errno.ENOENT, errno.ENOTDIR) else _NOT_EXECUTABLE
        return TrainerCannotStart(
            f"The working directory {str(cwd)!r} cannot be entered: {reason}.",
            "Start the run from a directory that exists on the machine that trains.",
            status,
        )
    if stage == "exec":
        by_name = "/" not in program
        if number == errno.EACCES and by_name and shutil.which(program, os.F_OK, search) is None:
            # A folder of the PATH that may not be entered; the program is in none that may.
            number = errno.ENOENT
        return _explain_exec(number, reason, program, cwd)
    return TrainerCannotStart(
        f"The agent could not start the command: {reason}.",
        "Look for a full disk or a limit on processes.",
        _OURS,
    )


def _explain_exec(number: int, reason: str, program: str, cwd: Path) -> TrainerCannotStart:
    path = cwd / program
    by_path = "/" in program
    if number in (errno.ENOENT, errno.ENOTDIR):
        if not by_path:
            what, mend = f"There is no program {program!r} on the PATH.", "Install it, or give its full path."
        elif path.exists():
            what = f"The interpreter named in the first line of {program!r} does not exist."
            mend = "Correct that line, or put the interpreter in front: bash script.sh."
        else:
            what, mend = f"There is no program {program!r} in {str(cwd)!r}.", "Correct the path."
        return TrainerCannotStart(what, mend, _NOT_FOUND)
    if by_path and path.is_dir():
        what, mend = f"{program!r} is a folder, not a program.", "Name a program."
    elif number == errno.EACCES:
        what = f"{program!r} may not be executed."
        mend = f"Run chmod +x on it, or put its interpreter in front: python {path.name}."
    elif number == errno.ENOEXEC:
        what = f"{program!r} is not a program: it has no #! line."
        mend = f"Put its interpreter in front: bash {path.name}."
    elif number == errno.E2BIG:
        what, mend = "The command line and its environment are too long.", "Move part of it into a file."
    else:
        what, mend = f"{program!r} cannot be executed: {reason}.", "Try it by hand on such a machine."
    return TrainerCannotStart(what, mend, _NOT_EXECUTABLE)
