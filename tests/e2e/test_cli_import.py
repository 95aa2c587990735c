"""`runctl import`: the state is lost, the runs are not, and a machine that still trains is no stranger."""

from __future__ import annotations

import shutil
import signal
from pathlib import Path

import psutil

from runctl_testing.eventually import eventually
from runctl_testing.house import CommandLine, command_line, finished, steps_in


def lose_the_record(runctl: CommandLine) -> None:
    """The controller dies, and its database with it; machines and bus are as they were."""
    psutil.Process(runctl.controller()).send_signal(signal.SIGKILL)
    eventually(lambda: runctl("controller", "status").code == 6, 60, 0.1)
    for path in runctl.state.glob("controller.db*"):
        path.unlink()


def test_runs_come_back_after_the_state_folder_is_gone(tmp_path: Path) -> None:
    """An attempt, a reason, money or a checkpoint that does not come back; or twice, when asked again."""
    with command_line(tmp_path / "cli") as runctl:
        kept = tmp_path / "kept"
        words = ("--checkpoints", str(kept))
        assert runctl("run", "--name", "good", *words, *runctl.train("--steps", "20")).code == 0
        bad = runctl.train("--steps", "3", "--exit", "7")
        assert runctl("run", "--name", "bad", *words, *bad).code == 7
        long = runctl.train("--steps", "60", "--step-time", "0.05")
        assert runctl("run", "--detach", "--name", "half", *words, *long).code == 0
        runctl.until_saved("half", 10)
        assert runctl("stop", "half").code == 0
        runctl.until("half", "paused")
        names = ("good", "bad", "half")
        eventually(
            lambda: all(m["state"] == "terminated" for n in names for m in runctl.show(n)["machines"]),
            60,
            0.2,
        )
        before = {name: runctl.show(name) for name in names}
        assert runctl("controller", "stop").code == 0
        shutil.rmtree(runctl.state)
        assert runctl.json("ls")["runs"] == []
        said = runctl("import", str(kept))
        assert (said.code, len(said.out.splitlines()), said.err) == (0, 3, "")
        for name, old in before.items():
            new = runctl.show(name)
            assert new["attempts"] == old["attempts"]
            assert new["machines"] == old["machines"]
            assert new["ledger"] == old["ledger"]
            assert new["spec"] == old["spec"]
            # The last step and loss were a heartbeat's; all else is as it was.
            known = new["run"].keys() - {"step", "loss", "epoch"}
            assert {key: new["run"][key] for key in known} == {key: old["run"][key] for key in known}
            assert "the record was found in" in new["story"][-1]["text"]
        again = runctl("import", str(kept))
        assert again.code == 0
        assert again.out.count("left alone: it is on record already.") == 3
        assert len(runctl.json("ls")["runs"]) == 3
        assert runctl("resume", "half").code == 0
        log = runctl.start("logs", "-f", "half").wait()
        assert steps_in(log.out) == list(range(1, 61))
        assert log.out.splitlines()[-1] == finished(60)


def test_a_living_machine_is_adopted_not_doubled(tmp_path: Path) -> None:
    """A second training beside the one that goes on, or one that nobody looks after any more."""
    with command_line(tmp_path / "cli") as runctl:
        kept = tmp_path / "kept"
        words = ("--checkpoints", kept.as_uri(), *runctl.train("--steps", "250", "--step-time", "0.05"))
        assert runctl("run", "--detach", "--name", "alive", *words).code == 0
        runctl.until_saved("alive", 20)
        old = runctl.show("alive")
        lose_the_record(runctl)
        refused = runctl("import", str(kept))
        assert refused.code == 4
        assert "has not finished it, and may still look after it" in refused.err
        assert "--take-over" in refused.err
        assert runctl.json("ls")["runs"] == []
        fresh = runctl("import", "--take-over", str(kept))
        assert fresh.code == 4
        assert "its controller seems to live" in fresh.err
        assert "--force" in fresh.err
        assert runctl.json("ls")["runs"] == []
        said = runctl("import", "--take-over", "--force", str(kept))
        assert said.code == 0
        assert "imported, and looked after: its machine agent-" in said.out
        done = runctl.until("alive", "succeeded")
        assert [a["attempt"] for a in done["attempts"]] == [1]
        assert done["attempts"][0]["reason"] == "succeeded"
        assert done["attempts"][0]["started_at"] == old["attempts"][0]["started_at"]
        assert [m["machine"] for m in done["machines"]] == [old["machines"][0]["machine"]]
        assert done["machines"][0]["launched_at"] == old["machines"][0]["launched_at"]
        assert steps_in(runctl("logs", "alive").out) == list(range(1, 251))
        eventually(lambda: runctl.show("alive")["machines"][0]["state"] == "terminated", 60, 0.2)
        shown = runctl.show("alive")
        covered = sum(i["end"] - i["start"] for i in shown["ledger"])
        (machine,) = shown["machines"]
        assert abs(covered - (machine["ended_at"] - machine["launched_at"])) < 0.001
