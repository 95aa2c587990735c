"""Trainings that print what no terminal, no line reader and no memory should have to take."""

from __future__ import annotations

import hashlib
import json
import random
import re
import subprocess
from pathlib import Path

from runctl_shared.checkpoints.directory import DirectoryStore
from runctl_shared.checkpoints.repository import RunRepository
from runctl_shared.messages.replies import Done, RunDetail
from runctl_shared.messages.requests import InterruptRun
from runctl_testing.eventually import eventually
from runctl_testing.house import command_line, finished
from runctl_testing.odd_train import ESCAPES, FLOOD
from runctl_testing.tty import on_terminal
from runctl_testing.ward import Ward

_HARMFUL = re.compile(
    # Any sequence but colours, erasing in the line and small moves; other control characters, C1 included.
    r"\x1b(?!\[[0-9;:]*[mKABCDG])|[\x00-\x07\x0b\x0c\x0e-\x1a\x1c-\x1f\x7f-\x9f]"
)

MOST_MEMORY = 80 << 20
"""Bytes of the agent's memory at its highest: it holds no output itself."""


def _stored(ward: Ward, run: str) -> bytes:
    repository = RunRepository(DirectoryStore(ward.house.state / "checkpoints"), run)
    return repository.logs.read_log(1, 0, 1 << 40)


def _printed(steps: int, between: bytes, newline: bytes = b"\n") -> bytes:
    """What the odd training prints, byte for byte, with `between` after each of its steps."""
    lines = (b"step=%d loss=%.4f" % (n, 1 / n) + newline + between for n in range(1, steps + 1))
    return b"".join(lines) + finished(steps).encode() + newline


def _succeeded(ward: Ward, run: str, wanted: bytes) -> RunDetail:
    detail = ward.end(run)
    stored = _stored(ward, run)
    assert len(stored) == len(wanted)
    assert hashlib.sha256(stored).digest() == hashlib.sha256(wanted).digest()
    return detail


def _highest_memory(ward: Ward, run: str) -> int:
    """The most that the agent ever had, in bytes, as it was shortly before its end."""
    agent, seen = ward.house.agent(run), [1]

    def gone() -> bool:
        try:
            found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{agent.pid}/status").read_text())
        except OSError:
            return True
        seen.append(int(found[1]) * 1024 if found else 0)
        return found is None

    eventually(gone, 100, 0.05, "the agent to end")
    return max(seen)


def test_a_hundred_megabytes(ward: Ward) -> None:
    """Output that is held in memory, is cut, or keeps the end from being told."""
    ward.enough()
    run = ward.start("--talk", "flood", "--steps", "20", "--step-time", "0.1")
    ward.house.wait_training(run)
    assert _highest_memory(ward, run) < MOST_MEMORY
    per_step = (b"x" * 99 + b"\n") * (FLOOD // 100 // 20)
    detail = _succeeded(ward, run, _printed(20, per_step))
    assert detail.run.saved_step == detail.attempts[0].last_step == 20


def test_no_newline_for_megabytes(ward: Ward) -> None:
    """A line that is waited for, and held, until it ends."""
    ward.enough()
    run = ward.start("--talk", "no-newline", "--steps", "40")
    ward.house.wait_training(run)
    assert _highest_memory(ward, run) < MOST_MEMORY
    _succeeded(ward, run, _printed(40, b"y" * 200_000, b""))


def test_an_output_that_is_closed(ward: Ward, dice: random.Random) -> None:
    """A training that is taken for dead, or for standing still, because it prints no more; steps of which
    nobody knows, told as none."""
    answer = dice.choice(["ignore", "exit-143", "fail"])
    run = ward.start("--talk", "closed", "--when-asked", answer)
    ward.until_saved(run, 20)
    ward.house.client.ask(InterruptRun(run=run, notice=1.5), Done)
    first, second = ward.interrupted(run)
    assert first.first_step == 1
    assert (first.last_step or 0) >= (first.saved_step or 0) >= 20
    asked = [line.value for line in ward.witness.diary() if line.kind == "asked"]
    if first.lost_steps is not None:
        assert first.lost_steps == (asked[0] if asked else 0) - (first.saved_step or 0) == 0
    assert second.restored_step == first.saved_step
    assert _stored(ward, run).endswith(b"step=5 loss=0.2000\n")


def test_what_it_prints_reaches_no_terminal_as_a_command(tmp_path: Path) -> None:
    """Titles, the clipboard, questions that the terminal answers, hidden text: from a training's output, from
    its last words in the story, and from what a program reads."""
    source = (
        "import os, sys\n"
        f"nasty = {ESCAPES!r}\n"
        "os.write(1, b'\\x1b[8mstep=3 loss=1.0\\n' + nasty + b'\\x1b\\n')\n"
        "sys.exit('Error: ' + nasty.decode('utf-8', 'surrogateescape').replace('\\n', ' '))\n"
    )
    with command_line(tmp_path) as runctl:
        code, shown = on_terminal(runctl, {}, "run", "--name", "nasty", *runctl.script("t.py", source))
        assert code == 1
        screens = {"run": shown}
        for words in (
            ["logs", "nasty"],
            ["logs", "-f", "nasty"],
            ["show", "nasty"],
            ["logs", "--json", "nasty"],
            ["show", "--json", "nasty"],
        ):
            screens[" ".join(words)] = on_terminal(runctl, {}, *words)[1]
        for command, text in screens.items():
            assert not (found := _HARMFUL.search(text)), (command, found, text)
        for command in ("run", "logs nasty", "logs -f nasty"):
            assert "step=3" in screens[command], command
            assert screens[command].rindex("\x1b[0m") > screens[command].rindex("\x1b[8m"), command
        assert "Error:" in screens["show nasty"]
        # What is piped, and what is stored, is what was printed.
        stored = json.loads(runctl("logs", "--json", "nasty").out)["attempts"][0]["output"]
        piped = subprocess.run(
            runctl.argv("logs", "nasty"), env=runctl.env, capture_output=True, check=True
        ).stdout
        assert piped.count(ESCAPES) == 1
        assert stored == piped.decode("utf-8", "replace")
