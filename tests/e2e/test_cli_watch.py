"""`--watch`: drawn again when something happens, never a line too long, and a terminal left as it was."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

from runctl_controller.cli.watch import frame
from runctl_testing.eventually import eventually
from runctl_testing.house import PATIENCE, CommandLine, command_line
from runctl_testing.tty import CTRL_C, OnTerminal


@pytest.fixture(scope="module")
def runctl(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CommandLine]:
    with command_line(tmp_path_factory.mktemp("cli")) as made:
        yield made


def opened(runctl: CommandLine, *words: str, **size: int) -> OnTerminal:
    return OnTerminal(runctl.argv(*words), runctl.env, runctl.folder, **size)


def until(screen: OnTerminal, *words: str) -> None:
    eventually(lambda: all(w in screen.picture for w in words), PATIENCE, 0.05, f"{words} on the screen")


def test_runs_as_they_change_over_the_death_of_a_controller(runctl: CommandLine) -> None:
    """A picture that stands still; progress that nobody asked for; a terminal without its cursor."""
    screen = opened(runctl, "ls", "--watch")
    until(screen, "There are no runs.")
    runctl("run", "--detach", "--name", "seen", *runctl.train("--steps", "100000", "--step-time", "0.05"))
    until(screen, "seen", "training")
    runctl.until_saved("seen", 20)
    until(screen, " 20 ")
    os.kill(runctl.controller(), signal.SIGKILL)
    until(screen, "no controller runs; any other command starts one")
    assert runctl("stop", "seen").code == 0
    until(screen, "seen", "paused")
    screen.type(CTRL_C)
    assert screen.close() == 130
    after = screen.shown.split("\x1b[?1049l")[-1]
    assert screen.shown.count("\x1b[?25h") == 1
    assert "\x1b" not in after
    assert "paused" in after
    assert "Traceback" not in screen.shown


def test_one_run_on_a_small_terminal(runctl: CommandLine) -> None:
    """Lines that wrap or scroll would tear the picture."""
    runctl("run", "--detach", "--name", "small", *runctl.train("--steps", "100000", "--step-time", "0.05"))
    screen = opened(runctl, "show", "sma", "-w", rows=8, columns=40)
    until(screen, "small  training", "more lines")
    assert runctl("cancel", "--yes", "small").code == 0
    until(screen, "small  cancelled")
    lines = screen.picture.splitlines()
    assert len(lines) <= 8
    assert max(map(len, lines)) < 40 + len("\x1b[J")
    screen.process.send_signal(signal.SIGTERM)
    assert screen.close() == 128 + signal.SIGTERM
    assert screen.shown.count("\x1b[?25h") == 1


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["ls", "--watch"], "--watch needs a terminal."),
        (["show", "nobody", "--watch"], "--watch needs a terminal."),
        (["ls", "--watch", "--json"], "--watch and --json cannot be combined."),
    ],
)
def test_where_nothing_can_be_drawn(runctl: CommandLine, words: list[str], told: str) -> None:
    said = runctl(*words)
    assert (said.code, said.out) == (2, "")
    assert told in said.err
    assert "runctl events -f" in said.err


def test_an_unknown_run_leaves_the_terminal_alone(runctl: CommandLine) -> None:
    screen = opened(runctl, "show", "nobody", "--watch")
    assert screen.close() == 3
    assert "\x1b[?1049h" not in screen.shown


def test_a_frame_fits_its_terminal() -> None:
    text = "\n".join(f"line {n} " + "x" * 50 for n in range(10))
    assert frame(text, "", 20, 5) == [f"line {n} xxxxxxxxxxxx" for n in range(3)] + ["… 7 more lines"]
    assert frame(text, "trouble", 20, 5)[-2:] == ["… 8 more lines", "runctl: trouble"]
    assert len(frame(text, "", 80, 11)) == 10
    assert frame("", "trouble", 80, 1) == ["runctl: trouble"]
