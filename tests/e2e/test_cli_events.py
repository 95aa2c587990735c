"""`runctl events`: everything that happened, once, in order, whatever becomes of the controller meanwhile."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from runctl_testing.eventually import eventually
from runctl_testing.house import CommandLine, Started, command_line


@pytest.fixture(scope="module")
def runctl(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CommandLine]:
    with command_line(tmp_path_factory.mktemp("cli")) as made:
        yield made


def lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def numbers(started: Started) -> list[int]:
    return [event["number"] for event in lines(started.out[: started.out.rfind("\n") + 1])]


def test_a_listener_hears_everything_once_over_the_death_of_a_controller(runctl: CommandLine) -> None:
    """Events lost with the controller, told again by the next one, or never heard because it was deaf."""
    everything = runctl.start("events", "-f", "--json")
    assert runctl("run", "--name", "first", *runctl.train("--steps", "5")).code == 0
    runctl("run", "--detach", "--name", "second", *runctl.train("--steps", "100000", "--step-time", "0.05"))
    runctl.until("second", "training")
    one = runctl.start("events", "-f", "seco", "--json")
    one.until('"training"')
    os.kill(runctl.controller(), signal.SIGKILL)
    assert runctl("stop", "second").code == 0
    runctl.until("second", "paused")
    whole = lines(runctl("events", "--json", "--limit", "100000").out)
    wanted = [event["number"] for event in whole]
    assert wanted == list(range(1, len(wanted) + 1))
    eventually(lambda: numbers(everything) == wanted, 60, 0.2, "every event, once")
    of_second = [event["number"] for event in whole if event["name"] == "second"]
    eventually(lambda: numbers(one) == of_second, 60, 0.2, "every event of the one run, once")
    for started in (everything, one):
        started.signal(signal.SIGINT)
        assert started.wait().code == 130


def test_for_people(runctl: CommandLine) -> None:
    assert runctl("run", "--name", "plain", *runctl.train("--steps", "3")).code == 0
    said = runctl("events", "plain")
    assert said.code == 0
    told = said.out.splitlines()
    assert "plain was submitted" in told[0]
    assert "preparing → training" in said.out
    few = runctl("events", "--limit", "2")
    assert len(few.out.splitlines()) == 2
    assert "the newest 2; --limit shows more" in few.err
    assert " plain #1 " in runctl("events", "--limit", "1000").out
    eventually(lambda: runctl.json("controller", "status")["machines"] == 0, 60, what="all to have happened")
    assert runctl("events", "--since", "0s").out == ""
    # Its machine may have gone meanwhile.
    assert runctl("events", "plain", "--since", "1h").out.splitlines()[: len(told)] == told


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (["events", "nobody"], 3, "There is no run 'nobody'"),
        (["events", "--since", "yesterday"], 2, "--since: 'yesterday' is not a duration."),
        (["events", "a", "b"], 2, "unexpected extra argument"),
    ],
)
def test_what_cannot_be_told(runctl: CommandLine, words: list[str], code: int, told: str) -> None:
    said = runctl(*words)
    assert (said.code, said.out) == (code, "")
    assert told in said.err


def test_hostile_words_reach_no_terminal(runctl: CommandLine, tmp_path: Path) -> None:
    """A file's name that the training chose is told, without what would take the terminal over."""
    source = (
        "import os, time, pathlib\n"
        "folder = pathlib.Path(os.environ['RUNCTL_CHECKPOINT_DIR'])\n"
        "(folder / 'a\x1b[2Jb.npz').write_bytes(b'not a zip')\n"
        "time.sleep(4)\n"
    )
    runctl("run", "--name", "nasty", *runctl.script("nasty.py", source))
    assert "\x1b" not in runctl("events", "nasty").out
