"""Whether a command can be started here: found out before anything else is begun."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import PurePath

from runctl_shared.errors import UsageError
from runctl_shared.spec import CHECKPOINT_DIR_WORD

_PYTHON = re.compile(r"(python|pypy)[0-9.]*")
_INTERPRETERS = frozenset({"bash", "sh", "dash", "zsh", "perl", "ruby", "Rscript", "julia", "node"})
_TAKES_VALUE = frozenset({"-W", "-X", "--check-hash-based-pycs"})


def check_command(command: Sequence[str], path: str, folder: str) -> Iterator[UsageError]:
    """What is wrong with `command`, run in `folder` with this search `path`."""
    if not command or not command[0]:
        return
    program = command[0]
    if "/" in program:
        yield from _check_program(os.path.join(folder, program), program)
    elif shutil.which(program, path=path) is None:
        yield UsageError(
            f"There is no program {program!r} on the PATH.", "Install it, or give its full path."
        )
    script = script_of(command)
    if script is not None and script != program and CHECKPOINT_DIR_WORD not in script:
        yield from _check_readable(os.path.join(folder, script), script, folder)


def script_of(command: Sequence[str]) -> str | None:
    """The script that an interpreter is given, or the program itself when it is no interpreter; None when
    the code comes from elsewhere (-c, -m)."""
    base = PurePath(command[0]).name
    python = _PYTHON.fullmatch(base) is not None
    if not python and base not in _INTERPRETERS:
        return command[0]
    words = iter(command[1:])
    for word in words:
        if not word.startswith("-"):
            return word
        # A cluster such as -um or -Bc ends the interpreter's own options.
        if word == "-" or (not word.startswith("--") and ("c" in word or (python and "m" in word))):
            return None
        if not python:
            return None  # whose options take a value, only that interpreter knows
        if word in _TAKES_VALUE:
            next(words, None)
    return None


def stem_of(command: Sequence[str]) -> str:
    """What to call the run: after its script or module, else after its program."""
    words = [word for word in command if word]
    for before, word in pairwise(words):
        if before == "-m":
            return word.rsplit(".", 1)[-1]
    scripts = [word for word in words if word.endswith((".py", ".sh"))]
    return PurePath(scripts[0] if scripts else words[0]).stem if words else "run"


def _check_program(path: str, shown: str) -> Iterator[UsageError]:
    if os.path.isdir(path):
        yield UsageError(f"{shown!r} is a folder, not a program.", "Name a program after --.")
    elif not os.path.exists(path):
        yield UsageError(f"There is no program {shown!r}.", "Correct the path.")
    elif not os.access(path, os.X_OK):
        yield UsageError(
            f"{shown!r} may not be executed.",
            f"Run chmod +x on it, or put its interpreter in front: python {PurePath(shown).name}.",
        )


def _check_readable(path: str, shown: str, folder: str) -> Iterator[UsageError]:
    if os.path.isdir(path):
        if not os.path.exists(os.path.join(path, "__main__.py")):
            yield UsageError(f"The script {shown!r} is a folder.", "Name the script in it.")
    elif not os.path.exists(path):
        yield UsageError(f"There is no script {shown!r} in {folder}.", "Correct the path.")
    elif not os.access(path, os.R_OK):
        yield UsageError(f"The script {shown!r} cannot be read.", f"Mend its permissions: chmod u+r {shown}")
