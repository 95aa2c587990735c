"""The training's output on stdout, our own lines on stderr, and a line of status on a terminal."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import BinaryIO, TextIO

from runctl_controller.cli.output import clean
from runctl_controller.cli.terminal import Sanitizer

_ERASE = "\r\x1b[K"


class Screen:
    """`out` gets bytes as they are, unless it is a terminal; `err` gets lines that begin with ``runctl:``."""

    def __init__(
        self,
        out: BinaryIO,
        err: TextIO,
        *,
        out_is_terminal: bool,
        err_is_terminal: bool,
        width: Callable[[], int] = lambda: 80,
    ) -> None:
        self._out, self._err = out, err
        self._sanitizer = Sanitizer() if out_is_terminal else None
        self._shared = out_is_terminal and err_is_terminal
        self._live = err_is_terminal
        self._width = width
        self._line_begun = False
        self._status = ""
        self._shown = False

    def output(self, data: bytes) -> None:
        if self._sanitizer is not None:
            data = self._sanitizer.feed(data)
        if not data:
            return
        self._hide()
        self._out.write(data)
        self._out.flush()
        self._line_begun = not data.endswith(b"\n")
        self._show()

    def mark(self, text: str) -> None:
        """A line of ours among the output, beginning a line of its own."""
        self.output((b"\n" if self._line_begun else b"") + clean(text).encode() + b"\n")

    def say(self, text: str) -> None:
        """A line of ours."""
        self._hide()
        self._end_line()
        self._err.write(f"runctl: {clean(text)}\n")
        self._err.flush()
        self._show()

    def status(self, text: str) -> None:
        """What the status line says from now on; nothing where nobody looks."""
        if text != self._status:
            self._hide()
            self._status = text
            self._show()

    def ask(self, question: str) -> str:
        """The answer from the keyboard, '' at its end. Ctrl-C goes through."""
        self._hide()
        self._end_line()
        self._err.write(f"runctl: {question} ")
        self._err.flush()
        try:
            return sys.stdin.readline()
        except KeyboardInterrupt:
            self._err.write("\n")
            raise

    def close(self) -> None:
        self.status("")
        if self._sanitizer is not None:
            self._out.write(self._sanitizer.end())
            self._out.flush()
        self._end_line()

    def _end_line(self) -> None:
        """On a terminal that shows both, ours begins on a line of its own, in no colour of the training's."""
        if self._sanitizer is not None and (plain := self._sanitizer.plain()):
            self._out.write(plain)
            self._out.flush()
        if self._shared and self._line_begun:
            self._err.write("\n")
            self._err.flush()
            self._line_begun = False

    def _hide(self) -> None:
        if self._shown:
            self._err.write(_ERASE)
            self._err.flush()
            self._shown = False

    def _show(self) -> None:
        # Not into a line that the training has begun: its own progress bar is there.
        if self._live and self._status and not self._shown and not (self._shared and self._line_begun):
            self._err.write(clean(self._status)[: self._width() - 1])
            self._err.flush()
            self._shown = True


def standard(to_stderr: bool = False) -> Screen:
    """The screen of this process. `to_stderr`: stdout is for something else."""
    out: BinaryIO = (sys.stderr if to_stderr else sys.stdout).buffer
    return Screen(
        out,
        sys.stderr,
        out_is_terminal=(sys.stderr if to_stderr else sys.stdout).isatty(),
        err_is_terminal=sys.stderr.isatty(),
        width=_width,
    )


def _width() -> int:
    """Columns now; a terminal that does not know (0) is taken for an ordinary one."""
    return max(20, os.get_terminal_size(2).columns or 80)


def columns() -> int:
    """Columns for sentences on stdout: the terminal's, if it is one and not too wide to be read."""
    if not sys.stdout.isatty():
        return 100
    return max(40, min(110, os.get_terminal_size(1).columns or 80))
