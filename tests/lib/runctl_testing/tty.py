"""The command line on a terminal of its own, as a person sees it and types at it."""

from __future__ import annotations

import errno
import fcntl
import os
import pty
import select
import struct
import subprocess
import termios
import threading
from pathlib import Path

from runctl_testing.eventually import eventually
from runctl_testing.house import PATIENCE, CommandLine

CTRL_C = b"\x03"


def on_terminal(runctl: CommandLine, answers: dict[str, bytes], *arguments: str) -> tuple[int, str]:
    """`runctl` on a terminal of its own; once it shows a key of `answers`, that is typed. (code, shown)"""
    screen = OnTerminal(runctl.argv(*arguments), runctl.env | {"COLUMNS": "100"}, runctl.folder)
    for words, keys in answers.items():
        screen.until(words)
        screen.type(keys)
    return screen.close(), screen.shown


class OnTerminal:
    """`argv` on a terminal of `rows` × `columns`. What it shows is read as it comes."""

    def __init__(
        self, argv: list[str], env: dict[str, str], cwd: Path, rows: int = 24, columns: int = 100
    ) -> None:
        self._master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        self.process = subprocess.Popen(
            argv,
            env=env | {"TERM": "xterm"},
            cwd=cwd,
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
            preexec_fn=_take_terminal,
        )
        os.close(slave)
        self._shown = b""
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        while select.select([self._master], [], [], PATIENCE)[0]:
            try:
                data = os.read(self._master, 65536)
            except OSError as error:
                if error.errno == errno.EIO:  # the other end is closed
                    return
                raise
            self._shown += data

    @property
    def shown(self) -> str:
        return self._shown.decode(errors="replace")

    @property
    def picture(self) -> str:
        """What was drawn last."""
        return self.shown.rsplit("\x1b[H", 1)[-1].replace("\x1b[K", "").replace("\r\n", "\n")

    def until(self, words: str) -> None:
        eventually(lambda: words in self.shown, PATIENCE, 0.05, f"{words!r} on the screen")

    def type(self, keys: bytes) -> None:
        os.write(self._master, keys)

    def close(self) -> int:
        """Its exit code, once it has ended."""
        try:
            code = self.process.wait(PATIENCE)
            self._reader.join(PATIENCE)
            return code
        finally:
            if self.process.poll() is None:
                self.process.kill()
                self.process.wait()
            os.close(self._master)


def _take_terminal() -> None:
    """In the new session: stdin becomes the terminal from which Ctrl-C comes."""
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
