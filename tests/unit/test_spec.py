"""What may be asked for, and what the machine then executes."""

from __future__ import annotations

import math
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runctl_shared.errors import UsageError
from runctl_shared.messages.codec import decode, encode
from runctl_shared.messages.commands import StopTraining
from runctl_shared.spec import SIGNALS, RunSpec, check_spec, command_line

GOOD = RunSpec(
    run="run-abcd1234",
    name="digits",
    command=("python", "train.py"),
    workdir="/work",
    store="file:///checkpoints",
)


def problems(**changes: Any) -> list[UsageError]:
    return check_spec(msgspec.structs.replace(GOOD, **changes))


def test_a_good_one_has_no_problems() -> None:
    assert problems() == []
    assert problems(resume_arg="--resume {path}", max_seconds=1.0, grace=0.0, max_restarts=0) == []


@pytest.mark.parametrize(
    ("changes", "about"),
    [
        ({"run": "abcd"}, "run id"),
        ({"run": "run-abcd-2"}, "run id"),
        ({"run": "../../etc"}, "run id"),
        ({"name": "Digits!"}, "name of a run"),
        ({"project": ""}, "name of a project"),
        ({"command": ()}, "no command"),
        ({"command": ("",)}, "no command"),
        ({"command": ("python", "a\0b")}, "NUL"),
        ({"workdir": "work"}, "working folder"),
        ({"workdir": "/a\0b"}, "working folder"),
        ({"signal": "SIGKILL"}, "signal"),
        ({"signal": "TERM"}, "signal"),
        ({"grace": -1.0}, "grace"),
        ({"grace": math.nan}, "grace"),
        ({"grace": math.inf}, "grace"),
        ({"max_restarts": -1}, "restarts"),
        ({"max_seconds": 0.0}, "time limit"),
        ({"max_seconds": math.nan}, "time limit"),
        ({"env": {"A=B": "1"}}, "environment"),
        ({"env": {"": "1"}}, "environment"),
        ({"env": {"A": "1\0"}}, "environment"),
        ({"resume_arg": "--resume"}, "where the path goes"),
        ({"resume_arg": "--resume '{path}"}, "unclosed quote"),
    ],
)
def test_each_problem_is_named_with_its_mend(changes: dict[str, Any], about: str) -> None:
    (problem,) = problems(**changes)
    assert about in problem.what
    assert problem.mend


def test_all_problems_are_told_at_once() -> None:
    assert len(problems(name="!", project="!", command=(), grace=-1.0, signal="SIGKILL")) == 5


@given(st.floats())
def test_a_grace_that_is_allowed_can_be_sent_to_the_agent(grace: float) -> None:
    """Else the command to stop would be refused by the machine that must end."""
    if not problems(grace=grace):
        assert decode(encode(StopTraining(grace=grace), id="x")).body.grace == grace


def test_every_signal_is_one_of_this_system() -> None:
    import signal

    assert all(hasattr(signal, name) for name in SIGNALS)
    assert {"SIGKILL", "SIGSTOP", "SIGCHLD"}.isdisjoint(SIGNALS)


class TestCommandLine:
    def line(self, resume: str | None = None, **changes: Any) -> list[str]:
        return command_line(msgspec.structs.replace(GOOD, **changes), "/ck pt", resume)

    def test_words_stay_words(self) -> None:
        command = ("sh", "-c", "echo $HOME; rm -rf *", "")
        assert self.line(command=command) == list(command)

    def test_the_checkpoint_folder_is_filled_in_without_splitting(self) -> None:
        assert self.line(command=("t", "--out={checkpoint_dir}/x")) == ["t", "--out=/ck pt/x"]

    def test_braces_that_are_not_ours_are_left_alone(self) -> None:
        assert self.line(command=("t", "{0}", "{path}", "%s")) == ["t", "{0}", "{path}", "%s"]

    def test_the_resume_argument_comes_only_when_there_is_something_to_resume(self) -> None:
        assert self.line(None, resume_arg="--resume {path}") == ["python", "train.py"]
        assert self.line("/a b", resume_arg=None) == ["python", "train.py"]
        assert self.line("/a b", resume_arg="--resume {path}")[2:] == ["--resume", "/a b"]

    def test_a_path_is_never_split_or_expanded(self) -> None:
        path = "/a 'b\" $(x) {path} {checkpoint_dir}"
        assert self.line(path, resume_arg="--from={path} --strict")[2:] == [f"--from={path}", "--strict"]
