"""The drill, as a user runs it: every verdict, its exit code, and nothing left behind."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from runctl_testing.house import CommandLine, Said, command_line


@pytest.fixture(scope="module")
def runctl(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CommandLine]:
    with command_line(tmp_path_factory.mktemp("rehearse")) as made:
        yield made


def _rehearse(runctl: CommandLine, *training: str, options: tuple[str, ...] = ()) -> Said:
    given = options or ("--at-step", "20", "--notice", "3s")
    return runctl("rehearse", *given, *runctl.train("--steps", "2000", *training))


def test_a_good_training_passes(runctl: CommandLine) -> None:
    said = _rehearse(runctl, options=("--json", "--at-step", "20", "--notice", "3s", "--times", "2"))
    assert said.code == 0, said
    report = json.loads(said.out)
    assert (report["verdict"], len(report["findings"])) == ("pass", 2)
    for finding in report["findings"]:
        assert finding["step_saved"] == finding["step_restored"] == finding["first_step"] - 1
        assert finding["steps_lost"] == 0
        assert finding["notice_seen_after"] <= finding["signal_after"]


def test_one_that_ignores_the_signal_passes_with_a_warning_and_the_loss_is_stated(
    runctl: CommandLine,
) -> None:
    said = _rehearse(runctl, "--ignore-term", options=("--json", "--at-step", "25", "--notice", "2s"))
    assert said.code == 0, said
    (finding,) = json.loads(said.out)["findings"]
    assert finding["verdict"] == "pass, with a warning"
    assert finding["step_restored"] % 10 == 0
    assert finding["advice"]
    assert finding["steps_lost"] is not None


def test_a_silent_restart_from_the_beginning_fails(runctl: CommandLine) -> None:
    said = _rehearse(runctl, "--forget")
    assert said.code == 1, said
    assert "below the restored" in said.out
    assert "RUNCTL_RESUME_FROM" in said.out


def test_one_that_never_saves_fails(runctl: CommandLine) -> None:
    said = _rehearse(runctl, "--ignore-term", "--save-every", "0")
    assert said.code == 1, said
    assert "no checkpoint at all" in said.out
    assert "RUNCTL_CHECKPOINT_DIR" in said.out


def test_one_that_ends_before_its_interruption_fails(runctl: CommandLine) -> None:
    said = runctl("rehearse", "--at-step", "500", *runctl.train("--steps", "5"))
    assert said.code == 1, said
    assert "before it could be interrupted" in said.out


def test_with_finish_the_training_goes_on_to_its_end(runctl: CommandLine) -> None:
    said = runctl(
        "rehearse", "--json", "--at-step", "20", "--notice", "3s", "--finish", *runctl.train("--steps", "200")
    )
    assert said.code == 0, said
    report = json.loads(said.out)
    assert (report["finished"], report["exit_code"]) == (True, 0)


@pytest.mark.parametrize(
    "options",
    [("--notice", "soon"), ("--times", "0"), ("--at-step", "-3"), ("--after", "1s", "--at-step", "1")],
)
def test_wrong_options_are_told_before_anything_begins(runctl: CommandLine, options: tuple[str, ...]) -> None:
    assert runctl("rehearse", *options, *runctl.train()).code == 2
