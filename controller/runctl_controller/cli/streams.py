"""stdin, stdout and stderr, where whoever started the command has closed some of them."""

from __future__ import annotations

import os
import sys


def ensure() -> None:
    """Let each that is closed be /dev/null.

    Python has None in its place, which no caller expects; and the next file or socket that is opened would
    get its number, and whatever a library or a child prints there.
    """
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            opened = os.open(os.devnull, os.O_RDWR)  # gets the lowest number, and all below are taken
            os.set_inheritable(opened, True)
    if sys.stdin is None:
        sys.stdin = open(os.devnull)  # noqa: SIM115 - for as long as the process lives
    if sys.stdout is None:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - the same
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115 - the same
