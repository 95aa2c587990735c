"""The other commands from end to end, and what each says when it is asked for something impossible."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from runctl_testing.eventually import eventually
from runctl_testing.house import CommandLine, command_line, finished, steps_in


@pytest.fixture(scope="module")
def runctl(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CommandLine]:
    with command_line(tmp_path_factory.mktemp("cli")) as made:
        yield made


@pytest.fixture(scope="module")
def done(runctl: CommandLine) -> str:
    """The name of a run that has succeeded."""
    assert runctl("run", "--name", "done", *runctl.train("--steps", "20")).code == 0
    return "done"


def test_detach_follow_stop_resume(runctl: CommandLine) -> None:
    words = runctl.train("--steps", "150", "--step-time", "0.05")
    said = runctl("run", "--detach", "--name", "far", *words)
    assert (said.code, said.out) == (0, "far\n")
    follow = runctl.start("logs", "-f", "far")
    follow.until("step=20")
    assert runctl("stop", "far").code == 0
    seen = follow.wait()
    assert seen.code == 0
    assert "far is paused" in seen.err
    saved = runctl.show("far")["run"]["saved_step"]
    assert steps_in(seen.out) == list(range(1, saved + 1))
    assert runctl("stop", "far").out == "far is paused already.\n"
    assert runctl("resume", "far").code == 0
    again = runctl.start("logs", "--follow", "far").wait()
    assert again.code == 0
    assert f"\n--- attempt 2, resumed from step {saved} ---\n" in again.out
    assert steps_in(again.out) == list(range(1, 151))
    assert again.out.splitlines()[-1] == finished(150)
    runctl.until("far", "succeeded")


def test_the_output_of_one_attempt(runctl: CommandLine) -> None:
    """Another attempt's output, a mark among it, or silence where there is none."""
    source = (
        "import os, sys\nif os.environ['RUNCTL_ATTEMPT'] == '2': sys.exit(3)\n"
        "print('attempt', os.environ['RUNCTL_ATTEMPT'], flush=True)\n"
        "sys.exit(3 if os.environ['RUNCTL_ATTEMPT'] == '1' else 0)\n"
    )
    said = runctl("run", "--name", "thrice", "--max-restarts", "2", *runctl.script("thrice.py", source))
    assert said.code == 0
    for number in (1, 3):
        assert runctl("logs", "thri", "--attempt", str(number)).out == f"attempt {number}\n"
        assert runctl("logs", "-f", "thri", "--attempt", str(number)).out == f"attempt {number}\n"
    (only,) = runctl.json("logs", "thrice", "--attempt", "3")["attempts"]
    assert only == {"attempt": 3, "output": "attempt 3\n"}
    silent = runctl("logs", "thrice", "--attempt", "2")
    assert (silent.code, silent.out) == (3, "")
    assert "without a word: user_error" in silent.err
    missing = runctl("logs", "thrice", "--attempt", "4")
    assert (missing.code, missing.out) == (3, "")
    assert "thrice has no attempt 4: it has had 3 attempts." in missing.err


def test_every_document_is_json(runctl: CommandLine, done: str) -> None:
    assert done in [run["name"] for run in runctl.json("ls")["runs"]]
    assert done not in [run["name"] for run in runctl.json("ls", "--open")["runs"]]
    assert runctl.json("show", done)["attempts"][0]["reason"] == "succeeded"
    assert [c["step"] for c in runctl.json("checkpoints", done)["checkpoints"]] == [20, 10]
    assert runctl.json("logs", done)["attempts"][0]["output"].endswith(finished(20) + "\n")
    losses = runctl.json("show", done, "--loss")["points"]
    assert (losses[0]["step"], losses[0]["loss"]) == (1, 1.0)
    assert runctl("show", done, "--loss").out.startswith("attempt,step,time,epoch,loss\n1,1,")
    assert runctl.json("controller", "status")["embedded"] is True
    assert set(runctl.json("run", "--detach", "--name", "doc", *runctl.train("--steps", "2"))) == {
        "run", "name", "project", "store"
    }  # fmt: skip
    runctl.until("doc", "succeeded")


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["ls", "--nope"], 2),
        (["show", "nobody"], 3),
        (["stop", "done"], 4),
        (["rnu"], 2),
        (["run", "--", "python", "missing.py"], 2),
        (["logs", "done", "-f"], 2),
    ],
)
def test_every_failure_is_json(runctl: CommandLine, done: str, words: list[str], code: int) -> None:
    at = words.index("--") if "--" in words else len(words)
    said = runctl(*words[:at], "--json", *words[at:])
    assert said.code == code
    assert said.out == ""
    assert json.loads(said.err)["error"]["what"]


def test_tables_are_plain_when_piped(runctl: CommandLine, done: str) -> None:
    for words in (["ls"], ["show", done], ["checkpoints", done], ["controller", "status"]):
        said = runctl(*words, FORCE_COLOR="1")
        assert said.code == 0
        assert "\x1b" not in said.out
        assert "─" not in said.out
    heading = runctl("ls").out.splitlines()[0].split()
    assert heading == ["NAME", "STATE", "ATT", "STEP", "LOSS", "SAVED", "AT", "RISK", "COST", "AGE"]


def test_projects_are_shown_when_there_are_several(runctl: CommandLine, done: str) -> None:
    words = runctl.train("--steps", "2")
    assert runctl("run", "--project", "other", "--name", "elsewhere", *words).code == 0
    assert runctl("ls").out.splitlines()[0].endswith("PROJECT")


def test_show_tells_everything(runctl: CommandLine, done: str) -> None:
    shown = runctl("show", done).out
    for words in ("done  succeeded", "1 to 20", "training started from the beginning", "USED FOR", "asked"):
        assert words in shown


def test_why_a_run_is_as_it_is(runctl: CommandLine) -> None:
    """Sentences that are not about this run, or a state that is explained without its evidence."""
    words = runctl.train("--steps", "100000", "--step-time", "0.05")
    assert runctl("run", "--detach", "--name", "asked", *words).code == 0
    runctl.until_saved("asked", 10)
    told = " ".join(runctl("explain", "aske").out.split())
    for said in (
        "Attempt 1 was launched at ",
        " because the run was asked for.",
        "Attempt 1 trains since",
        "Save and stop: runctl stop asked",
    ):
        assert said in told
    assert runctl("interrupt", "asked", "--notice", "4s").code == 0
    eventually(lambda: len(runctl.show("asked")["attempts"]) == 2, 60, 0.2)
    document = runctl.json("explain", "asked")
    assert "had attempt 1 interrupted (a drill): the notice at " in str(document)
    assert {s["part"] for s in document["sentences"]} == {"asked", "happened", "now", "next", "you"}
    assert runctl("stop", "asked").code == 0
    runctl.until("asked", "paused")
    told = " ".join(runctl("explain", "asked").out.split())
    assert "It is paused since" in told
    assert "runctl resume asked" in told


def test_runs_are_forgotten(runctl: CommandLine) -> None:
    """A run that is forgotten while it goes on, or with checkpoints that nobody meant."""
    for name in ("old-1", "old-2"):
        assert runctl("run", "--name", name, *runctl.train("--steps", "20")).code == 0
    words = runctl.train("--steps", "100000", "--step-time", "0.05")
    assert runctl("run", "--detach", "--name", "going", *words).code == 0
    ids = {run["name"]: run["run"] for run in runctl.json("ls")["runs"]}
    eventually(
        lambda: all(runctl.show(n)["machines"][0]["state"] == "terminated" for n in ("old-1", "old-2")),
        60,
        0.2,
    )
    said = runctl("rm", "old-1", "going", "nobody")
    assert (said.code, "2 runs were not forgotten" in said.err) == (4, True)
    assert "old-1 is forgotten; its checkpoints stay in file://" in said.out
    for told in ("only a finished run", "There is no run 'nobody'", "runctl cancel going"):
        assert told in said.err
    assert runctl("show", "old-1").code == 3
    assert (runctl.state / "checkpoints" / ids["old-1"] / "run.json").exists()
    asked = runctl("rm", "--checkpoints", "old-2")
    assert (asked.code, asked.out) == (4, "")
    assert "This would delete 2 checkpoints of old-2" in asked.err
    assert "--yes" in asked.err
    assert runctl.json("rm", "--checkpoints", "--yes", "old-2")["forgotten"][0]["run"] == ids["old-2"]
    assert not (runctl.state / "checkpoints" / ids["old-2"]).exists()
    assert runctl.json("ls")["forgotten"] == 2
    late = runctl("rm", "--checkpoints", "--yes", "old-1")
    assert (late.code, "`runctl import URL`" in late.err) == (3, True)
    store = runctl.state / "checkpoints"
    assert runctl("import", str(store)).code == 0
    assert runctl("rm", "--checkpoints", "--yes", "old-1").code == 0
    assert not (store / ids["old-1"]).exists()
    assert runctl("cancel", "--yes", "going").code == 0


_OF_A_RUN = (
    "show", "explain", "rm", "events", "logs", "stop", "resume", "cancel", "interrupt", "checkpoints",
)  # fmt: skip


@pytest.mark.parametrize("command", _OF_A_RUN)
@pytest.mark.parametrize("name", ["nobody", "No Such/../Run", "\x1b[31m", "x" * 500])
def test_an_unknown_run(runctl: CommandLine, command: str, name: str) -> None:
    said = runctl(command, name)
    assert (said.code, said.out) == (3, "")
    assert "There is no run" in said.err
    assert "\x1b" not in said.err
    assert len(said.err.splitlines()) == 2


def test_guards(runctl: CommandLine, done: str) -> None:
    for words in (["stop", done], ["resume", done], ["cancel", done], ["interrupt", done]):
        said = runctl(*words)
        assert (said.code, said.out) == (4, ""), words
        assert 1 <= len(said.err.splitlines()) <= 2


def test_a_name_that_is_taken(runctl: CommandLine) -> None:
    words = runctl.train("--steps", "100000", "--step-time", "0.05")
    assert runctl("run", "--detach", "--name", "mine", *words).code == 0
    said = runctl("run", "--name", "mine", "--secret", "HOME", *words)
    assert said.code == 4
    assert "'mine' is still" in said.err
    assert "--name" in said.err
    assert list(runctl.state.glob("secrets/*")) == []
    runctl.until("mine", "training")
    # A controller that somebody needs is not simply stopped.
    refused = runctl("controller", "stop")
    assert refused.code == 4
    assert "mine" in refused.err
    assert runctl("controller", "stop", "--force").code == 0
    assert runctl("controller", "status").code == 6
    # The training has gone on; the next command starts a controller that knows of it.
    runctl.until("mine", "training")
    assert runctl("cancel", "--yes", "mine").code == 0


def test_a_standing_controller(runctl: CommandLine) -> None:
    if runctl("controller", "status").code == 0:
        assert runctl("controller", "stop", "--force").code == 0
    assert runctl("controller", "start").code == 0
    assert runctl.json("controller", "status")["embedded"] is False
    again = runctl("controller", "start")
    assert again.code == 4
    assert "running already" in again.err
    assert runctl("controller", "stop").out == "The controller has ended.\n"
    assert runctl("controller", "stop").out == "No controller runs.\n"


def test_a_standby_waits_its_turn_and_is_told_of(runctl: CommandLine) -> None:
    """A standby that refuses to start, that nobody sees, or that is forgotten when the first one stops."""
    runctl("controller", "stop", "--force")
    assert runctl("controller", "start", "--standby").out.startswith("The controller runs")
    first = runctl.json("controller", "status")
    assert (first["standbys"], "nobody stands by" in runctl("controller", "status").out) == ([], True)
    said = runctl("controller", "start", "--standby").out
    assert "stands by" in said
    assert f"process {first['pid']}" in said
    (second,) = runctl.json("controller", "status")["standbys"]
    assert f"process {second}" in runctl("controller", "status").out
    assert f"process {second} leads now" in runctl("controller", "stop").out
    now = runctl.json("controller", "status")
    assert (now["pid"], now["epoch"], now["standbys"]) == (second, first["epoch"] + 1, [])
    assert now["leads_since"] >= first["leads_since"]
    assert runctl("controller", "stop").out == "The controller has ended.\n"


def test_many_commands_at_once_share_one_controller(runctl: CommandLine) -> None:
    runctl("controller", "stop", "--force")
    started = [runctl.start("ls", "--json") for _ in range(6)]
    assert [s.wait().code for s in started] == [0] * 6
    pids = {runctl.controller() for _ in range(2)}
    assert len(pids) == 1


def test_no_controller_where_a_broker_is_configured(runctl: CommandLine, tmp_path: Path) -> None:
    """Whoever has set up a broker has a controller elsewhere: none is started here."""
    said = runctl("ls", RUNCTL_BUS_URL=f"sqlite://{tmp_path}/bus.db", RUNCTL_STATE_DIR=str(tmp_path / "s"))
    assert said.code == 6
    assert "runctl controller start" in said.err
    assert not (tmp_path / "s").exists()


def test_a_damaged_state_file(tmp_path: Path) -> None:
    with command_line(tmp_path) as runctl:
        assert runctl("ls").code == 0
        assert runctl("controller", "stop").code == 0
        database = runctl.state / "controller.db"
        for extra in runctl.state.glob("controller.db-*"):
            extra.unlink()
        whole = database.read_bytes()
        database.write_bytes(b"not a database at all" * 500)
        said = runctl("ls")
        assert said.code == 125
        assert 1 <= len(said.err.splitlines()) <= 2
        assert str(database) in said.err
        database.write_bytes(whole)
        assert runctl("ls").code == 0


def test_a_state_folder_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with command_line(tmp_path / "cli") as runctl:
        said = runctl("ls", RUNCTL_STATE_DIR=str(tmp_path / "file" / "state"))
        assert said.code == 125
        assert "RUNCTL_STATE_DIR" in said.err
        assert len(said.err.splitlines()) == 2


def test_an_embedded_controller_ends_by_itself(tmp_path: Path) -> None:
    with command_line(tmp_path) as runctl:
        runctl.env["RUNCTL_IDLE"] = "0.2s"
        assert runctl("run", "--name", "brief", *runctl.train("--steps", "3")).code == 0
        eventually(lambda: not runctl.processes(), 60, 0.1, "everything has ended by itself")
        # And it is there again for whoever asks; long enough to be stopped in order.
        del runctl.env["RUNCTL_IDLE"]
        assert runctl.show("brief")["run"]["state"] == "succeeded"
