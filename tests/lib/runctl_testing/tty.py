"""The command line on a terminal of its own."""

from __future__ import annotations

import errno
import fcntl
import os
import pty
import select
import subprocess
import termios

from runctl_testing.house import PATIENCE, CommandLine


def on_terminal(runctl: CommandLine, answers: dict[str, bytes], *arguments: str) -> tuple[int, str]:
    """`runctl` on a terminal of its own; once it shows a key of `answers`, that is typed. (code, shown)"""
    master, slave = pty.openpty()
    process = subprocess.Popen(
        runctl.argv(*arguments),
        env=runctl.env | {"TERM": "xterm", "COLUMNS": "100"},
        cwd=runctl.folder,
        stdin=slave,
        stdout=slave,
        stderr=slave,
        start_new_session=True,
        preexec_fn=_take_terminal,
    )
    os.close(slave)
    shown = b""
    try:
        while select.select([master], [], [], PATIENCE)[0]:
            try:
                data = os.read(master, 65536)
            except OSError as error:
                if error.errno == errno.EIO:  # the other end is closed
                    break
                raise
            shown += data
            for words in [w for w in answers if w.encode() in shown]:
                os.write(master, answers.pop(words))
        return process.wait(PATIENCE), shown.decode()
    finally:
        os.close(master)
        if process.poll() is None:
            process.kill()
            process.wait()


def _take_terminal() -> None:
    """In the new session: stdin becomes the terminal from which Ctrl-C comes."""
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
