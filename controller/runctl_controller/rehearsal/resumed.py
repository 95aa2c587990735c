"""Whether the command understood what it was to resume from."""

from __future__ import annotations

import re

from runctl_controller.rehearsal import advice
from runctl_controller.rehearsal.evidence import Evidence

_USAGE = re.compile(
    r"unrecogni[sz]ed (argument|option)|no such option|unknown (command[- ]line )?(flag|option|argument)"
    r"|unexpected (extra )?(argument|option)|got unexpected|expected (one|at least one) argument"
    r"|error: (argument|the following arguments)|arguments are not used|is not in struct"
    r"|lexernoviablealt|invalid option|\busage:",
    re.IGNORECASE,
)
"""How argparse, click, absl, getopt, Hydra and Hugging Face's parser refuse an argument."""
USAGE_ERROR = 2
"""The exit code of argparse, click and most programs for a command line that they do not understand."""


def not_understood(found: Evidence) -> bool:
    """Whether it failed right at the resume, in the way of a command line that was not understood."""
    after = found.after
    if after is None or found.spec.resume_arg is None or after.first_step is not None:
        return False
    if after.reason != "user_error":
        return False
    return after.exit_code == USAGE_ERROR or _USAGE.search(after.detail) is not None


def argument_tip(found: Evidence) -> str:
    """When it refused the argument."""
    return (
        f"The command does not take what --resume-arg adds to it ({found.spec.resume_arg!r}): write it as "
        "its --help says, or leave it out and resume from RUNCTL_RESUME_FROM."
    )


def began_again_tip(found: Evidence) -> str:
    """When it took no notice of what there was to resume from."""
    if found.spec.resume_arg is None:
        return advice.RESUME_ARGUMENT
    return (
        f"The command was given {found.spec.resume_arg!r} with the checkpoint's path, and began again all "
        "the same: have it load the model, the optimizer and the step from there."
    )
