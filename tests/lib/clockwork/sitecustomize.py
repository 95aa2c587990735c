"""Sets the clocks of Python processes wrong, while they run: for tests, which put this folder on PYTHONPATH.

`TEST_CLOCKS` names a folder with a file per kind of process: eight bytes, the seconds (a double) by which its
time of day is wrong. All of Python sees it, third parties included. (The clock of the machine cannot be set
by a test: others use it.)"""

from __future__ import annotations

import mmap
import os
import struct
import sys
import time

_KINDS = {"runctl_agent": "agent", "runctl_controller.providers.local.host": "host"}


def _install(folder: str) -> None:
    kind = next((kind for word, kind in _KINDS.items() if word in sys.orig_argv), "controller")
    with open(os.path.join(folder, kind), "rb") as file:
        wrong = mmap.mmap(file.fileno(), 8, access=mmap.ACCESS_READ)
    real = time.time  # noqa: TID251 - what is set wrong here

    def wrong_time() -> float:
        return real() + float(struct.unpack_from("d", wrong)[0])

    time.time = wrong_time  # noqa: TID251


if "TEST_CLOCKS" in os.environ:
    _install(os.environ["TEST_CLOCKS"])
