"""What is wrong with a command line is told before anything is begun: all of it, each with its mend."""

from __future__ import annotations

import os
import stat
import sys
from pathlib import Path
from tempfile import gettempdir

import pytest

from runctl_controller.cli.command_check import check_command, script_of, stem_of
from runctl_controller.cli.environment import captured
from runctl_controller.cli.main import COMMANDS, main
from runctl_controller.cli.options import Asked
from runctl_controller.cli.spec import make_spec, secret_values
from runctl_controller.client.secrets import remove_secrets, secrets_file, write_secrets
from runctl_controller.settings.model import Settings
from runctl_shared.errors import RunctlError, StoreUnusable, UsageError
from runctl_shared.ids import is_name
from runctl_shared.spec import RunSpec

ENVIRON = {"PATH": os.defpath + ":" + os.path.dirname(sys.executable), "MY_TOKEN": "value"}


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder with a script in it, and settings of nobody."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "train.py").write_text("")
    for name in ("HOME", "XDG_CONFIG_HOME", "XDG_CACHE_HOME"):
        monkeypatch.setenv(name, str(tmp_path))
    monkeypatch.setenv("RUNCTL_STATE_DIR", str(tmp_path / "state"))


def spec(*command: str, **said: object) -> RunSpec:
    nothing: dict[str, object] = dict.fromkeys(Asked._fields)
    given = nothing | {"env": (), "secrets": (), "command": command or ("sh", "-c", "true")} | said
    return make_spec(Asked(**given), Settings(state_dir=f"{gettempdir()}/nowhere"), ENVIRON, "me", 1.0)  # type: ignore[arg-type]  # a test's own fields


def refused(*command: str, **said: object) -> str:
    with pytest.raises(UsageError) as error:
        spec(*command, **said)
    return f"{error.value.what}\n{error.value.mend}"


def test_a_run_as_it_is_asked_for(tmp_path: Path) -> None:
    made = spec(
        "python3", "train.py", "--name", "its own",
        name="cats", project="zoo", checkpoints="kept here", env=("A=b=c", "D="), secrets=("MY_TOKEN",),
        max_restarts=2, max_hours=1.5, grace="2m", signal="SIGUSR1", resume_arg="--resume {path}",
    )  # fmt: skip
    assert made.command == ("python3", "train.py", "--name", "its own")
    assert made.store == (tmp_path / "kept here").as_uri()
    assert made.env == {"PATH": ENVIRON["PATH"], "A": "b=c", "D": ""}
    assert (made.grace, made.max_seconds, made.max_restarts) == (120.0, 5400.0, 2)
    assert (made.signal, made.secrets, made.workdir) == ("SIGUSR1", ("MY_TOKEN",), str(tmp_path))
    assert not (tmp_path / "kept here").exists()
    assert "value" not in repr(made)


def test_how_long_it_may_stand_still() -> None:
    """A limit that is taken for another one, or for none at all."""
    assert spec(stall_after="30m").stall_after == 1800.0
    assert spec().stall_after is None
    assert "--stall-after: 'soon' is not a duration." in refused(stall_after="soon")
    assert "--stall-after is less than a second" in refused(stall_after="0s")


def test_settings_are_used_where_nothing_is_said() -> None:
    settings = Settings(
        state_dir=f"{gettempdir()}/s",
        project="p",
        max_restarts=4,
        max_hours=2.0,
        grace=7.0,
        signal="SIGINT",
        resume_arg="{path}",
    )
    nothing: dict[str, object] = dict.fromkeys(Asked._fields)
    asked = Asked(**(nothing | {"env": (), "secrets": (), "command": ("sh", "-c", ":")}))  # type: ignore[arg-type]  # a test's own fields
    made = make_spec(asked, settings, ENVIRON, "me", 1.0)
    assert (made.project, made.max_restarts, made.max_seconds) == ("p", 4, 7200.0)
    assert (made.grace, made.signal, made.resume_arg, made.store) == (
        7.0,
        "SIGINT",
        "{path}",
        f"file://{gettempdir()}/s/checkpoints",
    )


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ({"name": "Cats!"}, "'Cats!' cannot be the name of a run"),
        ({"name": "a/../b"}, "cannot be the name of a run"),
        ({"name": "\x1b[31m"}, "cannot be the name of a run"),
        ({"name": ""}, "'' cannot be the name of a run"),
        ({"project": "no good"}, "cannot be the name of a project"),
        ({"checkpoints": "gs://bucket/x"}, "gs://"),
        ({"checkpoints": "ftp://host/x"}, "ftp:// URLs"),
        ({"checkpoints": "file://otherhost/x"}, "another machine"),
        ({"checkpoints": "train.py/below"}, "is not a folder"),
        ({"checkpoints": "train.py"}, "is not a folder"),
        ({"env": ("NOEQUALS",)}, "--env 'NOEQUALS'"),
        ({"env": ("1A=b",)}, "--env '1A=b'"),
        ({"env": ("RUNCTL_RUN=x",)}, "runctl's own"),
        ({"secrets": ("MISSING",)}, "The secret MISSING is not in your environment"),
        ({"secrets": ("MY_TOKEN",), "env": ("MY_TOKEN=x",)}, "both by --env and by --secret"),
        ({"secrets": ("RUNCTL_BUS_URL",)}, "runctl's own"),
        ({"grace": "soon"}, "--grace: 'soon'"),
        ({"grace": "30d"}, "longer than a day"),
        ({"signal": "SIGKILL"}, "'SIGKILL' is not a signal"),
        ({"max_restarts": -1}, "negative"),
        ({"max_hours": 0.0}, "time limit"),
        ({"max_hours": float("nan")}, "time limit"),
        ({"max_hours": float("inf")}, "time limit"),
        ({"resume_arg": "--resume"}, "does not say where the path goes"),
        ({"resume_arg": "'"}, "unclosed quote"),
        ({"env": ("A=" + "x" * 600_000,)}, "too long"),
    ],
)
def test_each_thing_that_is_wrong(said: dict[str, object], words: str) -> None:
    text = refused(**said)
    assert words in text
    assert text.count("\n") == 1  # one sentence, one mend
    assert text.splitlines()[1]


def test_a_secret_given_by_its_value_is_not_repeated() -> None:
    text = refused(secrets=("MY_KEY=hunter2!",))
    assert "not a value" in text
    assert "hunter2" not in text


def test_everything_that_is_wrong_is_told_at_once() -> None:
    text = refused("python3", "missing.py", name="No", grace="x", env=("Q",), secrets=("NOT_THERE",))
    for words in ("5 things are wrong", "missing.py", "'No'", "--grace", "--env 'Q'", "NOT_THERE"):
        assert words in text


def test_odd_bytes_are_refused_and_not_mangled() -> None:
    assert "UTF-8" in refused("sh", "-c", os.fsdecode(b"echo \xff"))


def test_an_unreadable_script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Root may read everything: what the system says to others is put in its place.
    real = os.access
    hidden = str(tmp_path / "train.py")
    monkeypatch.setattr(os, "access", lambda path, mode: path != hidden and real(path, mode))
    assert "'train.py' cannot be read" in refused("python3", "train.py")


def test_a_checkpoint_folder_without_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != tmp_path and real(path, mode))
    assert f"no permission to write in {tmp_path}" in refused(checkpoints="new/folder")


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (["no-such-program"], "no program 'no-such-program' on the PATH"),
        (["./missing"], "no program './missing'"),
        (["./train.py"], "may not be executed"),
        (["/"], "is a folder"),
        (["python3", "missing.py", "train.py"], "no script 'missing.py'"),
        (["python3", "-u", "-X", "dev", "missing.py"], "no script 'missing.py'"),
        (["python3", "."], "The script '.' is a folder"),
        (["sh", "missing.sh"], "no script 'missing.sh'"),
    ],
)
def test_commands_that_cannot_start(command: list[str], words: str, tmp_path: Path) -> None:
    (error,) = check_command(command, ENVIRON["PATH"], str(tmp_path))
    assert words in error.what
    assert error.mend


@pytest.mark.parametrize(
    "command",
    [
        ["python3", "train.py", "missing.py"],
        ["python3", "-c", "pass"],
        ["python3", "-um", "pkg.train"],
        ["python3", "-"],
        ["sh", "-euc", "true"],
        ["sh"],
        ["env", "python3", "whatever.py"],
        ["python3", "{checkpoint_dir}/made-later.py"],
    ],
)
def test_commands_that_may_start(command: list[str], tmp_path: Path) -> None:
    assert list(check_command(command, ENVIRON["PATH"], str(tmp_path))) == []


@pytest.mark.parametrize(
    ("command", "stem"),
    [
        (["python", "examples/Digits Train.py"], "Digits Train"),
        (["torchrun", "--nproc", "2", "train.py"], "train"),
        (["python", "-m", "pkg.sub.fit"], "fit"),
        (["./run.sh"], "run"),
        (["/usr/bin/env"], "env"),
        ([], "run"),
    ],
)
def test_a_run_is_called_after_its_script(command: list[str], stem: str) -> None:
    assert stem_of(command) == stem


@pytest.mark.parametrize("script", ["Übung.py", "---.py", "a" * 200 + ".py", "x.y.z-.py"])
def test_a_made_up_name_is_a_good_one(script: str, tmp_path: Path) -> None:
    (tmp_path / script).write_text("")
    names = {spec("python3", script).name for _ in range(20)}
    assert all(is_name(name) for name in names)
    assert len(names) > 15


def test_the_script_behind_an_interpreters_options() -> None:
    assert script_of(["python3.11", "-OO", "-W", "error", "a.py", "b.py"]) == "a.py"
    assert script_of(["/opt/python", "-c", "print('c.py')"]) is None
    assert script_of(["torchrun", "a.py"]) == "torchrun"


def test_no_secret_is_captured() -> None:
    environ = {
        "PATH": "/bin", "LC_ALL": "C", "CUDA_VISIBLE_DEVICES": "0", "OMP_NUM_THREADS": "4",
        "HTTP_PROXY": "http://proxy:3128", "PYTHON_KEYRING_BACKEND": "x",
        "HF_TOKEN": "s", "NVIDIA_API_KEY": "s", "TF_PASSWORD": "s", "AWS_PROFILE": "s", "WANDB_API_KEY": "s",
        "HTTPS_PROXY": "http://me:s@proxy", "RANDOM": "s",
    }  # fmt: skip
    kept = captured(environ)
    assert set(kept) == {
        "PATH", "LC_ALL", "CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS", "HTTP_PROXY", "PYTHON_KEYRING_BACKEND",
    }  # fmt: skip


def test_secrets_lie_in_one_file_that_is_nobody_elses(tmp_path: Path) -> None:
    environ = {"A": "1", "OTHER": "2"}
    made = RunSpec(
        run="run-1111", name="x", command=("x",), workdir="/", store="file:///s", secrets=("A", "A")
    )
    values = secret_values(made, environ)
    assert (values, environ) == ({"A": "1"}, {"OTHER": "2"})
    old = os.umask(0)
    try:
        write_secrets(str(tmp_path), "run-1111", values)
    finally:
        os.umask(old)
    path = secrets_file(str(tmp_path), "run-1111")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    with pytest.raises(StoreUnusable):
        write_secrets(str(tmp_path), "run-1111", values)
    remove_secrets(str(tmp_path), "run-1111")
    remove_secrets(str(tmp_path), "run-1111")
    write_secrets(str(tmp_path), "run-2222", {})
    assert list(path.parent.iterdir()) == []


# -- through the front door --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--nope"], "--nope"),
        (["rnu"], "Did you mean 'run'?"),
        (["controller", "nope"], "nope"),
        (["ls", "extra"], "extra"),
        (["ls", "--limit", "0"], "--limit"),
        (["show"], "RUN"),
        (["interrupt", "x", "--notice", "soon"], "--notice: 'soon'"),
        (["interrupt", "x", "--notice", "30d"], "longer than a day"),
        (["run"], "no command"),
        (["run", "--"], "no command"),
        (["run", "--nmae", "x", "--", "sh"], "--name"),
        (["run", "--max-restarts", "many", "--", "sh"], "--max-restarts"),
        (["run", "--", "python3", "missing.py"], "missing.py"),
    ],
)
def test_usage_errors(
    words: list[str], says: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main(words) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert says in err
    assert err.startswith("runctl: ")
    assert 1 <= len(err.splitlines()) <= 2
    assert not (tmp_path / "state").exists()  # no controller was started for that


def test_help_names_every_command_and_the_exit_codes(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    for word in [*COMMANDS, "2 wrong usage", "6 no controller", "75 paused"]:
        assert word in text


@pytest.mark.parametrize("command", list(COMMANDS))
def test_every_command_has_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command, "--help"]) == 0
    assert f"Usage: runctl {command}" in capsys.readouterr().out


def test_a_defect_is_no_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError("of mine")

    monkeypatch.setattr("runctl_controller.settings.load.load", broken)
    assert main(["ls"]) == 125
    err = capsys.readouterr().err
    assert "ZeroDivisionError: of mine" in err
    assert "RUNCTL_DEBUG" in err
    assert "Traceback" not in err


def test_an_error_is_cleaned(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def refuses() -> None:
        raise RunctlError("bad \x1b]0;owned\x07 thing", "mend\rit")

    monkeypatch.setattr("runctl_controller.settings.load.load", refuses)
    assert main(["ls"]) == 125
    assert not set("\x1b\x07\r") & set(capsys.readouterr().err)
