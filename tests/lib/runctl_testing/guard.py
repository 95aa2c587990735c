"""A process that outlives pytest by a moment, to leave nothing behind even when pytest is SIGKILLed.

As a program: `guard.py PARENT-PID NAME VALUE FOLDER` waits until its standard input ends or the parent is
gone, then kills every process whose environment says NAME=VALUE and removes FOLDER.
"""

from __future__ import annotations

import os
import select
import shutil
import signal
import subprocess
import sys
from pathlib import Path

from runctl_testing.leftovers import end_marked


class Guard:
    """Guards the processes marked `name=value` in their environment, and the folder they work in."""

    def __init__(self, name: str, value: str, folder: Path) -> None:
        # Without the mark, else it would end itself; in a session of its own, so that Ctrl-C spares it.
        env = {key: text for key, text in os.environ.items() if key != name}
        env["PYTHONPATH"] = str(Path(__file__).parents[1])
        command = [sys.executable, __file__, str(os.getpid()), name, value, str(folder)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, env=env, start_new_session=True)

    def close(self) -> None:
        """End and remove everything now; returns when that is done."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(timeout=60)


def main() -> None:
    parent, name, value, folder = int(sys.argv[1]), sys.argv[2], sys.argv[3], sys.argv[4]
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    _wait_for_the_end_of(parent)
    end_marked(name, value)
    _undo_what_root_may(parent)
    shutil.rmtree(folder, ignore_errors=True)


def _undo_what_root_may(parent: int) -> None:
    # Imported when it is needed: a guard costs every test process its memory.
    from runctl_testing import cgroups, netns, small_disk

    for module in (small_disk, cgroups, netns):
        module.remove_leftovers(parent)


def _wait_for_the_end_of(parent: int) -> None:
    poll = select.poll()
    poll.register(sys.stdin.fileno(), select.POLLIN | select.POLLHUP)
    # A forked child of pytest may hold the pipe open for longer than pytest lives.
    if sys.platform == "linux":
        try:
            poll.register(os.pidfd_open(parent), select.POLLIN)
        except ProcessLookupError:
            return
    poll.poll()


if __name__ == "__main__":
    main()
