"""`runctl run` from end to end: what it shows, what it exits with, and what it does when it is disturbed."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from runctl_testing.eventually import eventually
from runctl_testing.house import PATIENCE, CommandLine, command_line, finished, steps_in
from runctl_testing.tty import on_terminal


@pytest.fixture(scope="module")
def runctl(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CommandLine]:
    with command_line(tmp_path_factory.mktemp("cli")) as made:
        yield made


def test_success(runctl: CommandLine) -> None:
    """Stdout is the training's, byte for byte; stderr is ours."""
    said = runctl("run", "--name", "good", *runctl.train("--steps", "30"))
    assert said.code == 0
    assert steps_in(said.out) == list(range(1, 31))
    assert said.out.splitlines()[-1] == finished(30)
    assert all(line.startswith("runctl: ") for line in said.err.splitlines())
    assert "good succeeded (step 30)" in said.err
    assert "only while this computer is awake" in said.err
    # What is shown live and what is stored is the same.
    assert runctl("logs", "good").out == said.out


def test_the_training_fails(runctl: CommandLine) -> None:
    said = runctl("run", "--name", "bad", *runctl.train("--steps", "3", "--exit", "7"))
    assert said.code == 7
    assert "bad failed" in said.err
    assert "runctl resume bad" in said.err


def test_the_training_dies_by_a_signal(runctl: CommandLine) -> None:
    source = "import os, signal, resource\nresource.setrlimit(resource.RLIMIT_CORE, (0, 0))\n"
    said = runctl("run", *runctl.script("abort.py", f"{source}os.kill(os.getpid(), signal.SIGABRT)\n"))
    assert said.code == 128 + signal.SIGABRT


def test_restarts_after_its_own_errors(runctl: CommandLine) -> None:
    """The second attempt's output follows the first's, and the exit code is the last one's."""
    source = (
        "import os, sys\nprint('attempt', os.environ['RUNCTL_ATTEMPT'], flush=True)\n"
        "sys.exit(3 if os.environ['RUNCTL_ATTEMPT'] == '1' else 0)\n"
    )
    said = runctl("run", "--name", "twice", "--max-restarts", "1", *runctl.script("twice.py", source))
    assert (said.code, said.out) == (0, "attempt 1\nattempt 2\n")
    assert runctl("logs", "twice").out == "attempt 1\n--- attempt 2, from the beginning ---\nattempt 2\n"


def test_much_output_at_once(runctl: CommandLine) -> None:
    """More than one segment, printed faster than it can be followed, and no newline at the end."""
    source = "import sys\nfor n in range(300_000):\n    sys.stdout.write(f'{n:09d}\\n')\nprint(end='last')\n"
    said = runctl("run", "--name", "chatty", *runctl.script("chatty.py", source))
    wanted = "".join(f"{n:09d}\n" for n in range(300_000)) + "last"
    assert said.code == 0
    assert len(said.out) == len(wanted)
    assert hashlib.sha256(said.out.encode()).digest() == hashlib.sha256(wanted.encode()).digest()


def test_interrupted_while_attached(runctl: CommandLine) -> None:
    run = runctl.start("run", "--name", "moved", *runctl.train("--steps", "150", "--step-time", "0.05"))
    runctl.until_saved("moved", 10)
    assert runctl("interrupt", "moved", "--notice", "5s").code == 0
    said = run.wait()
    assert said.code == 0
    assert said.out.splitlines()[-1] == finished(150)
    # It saved when it was asked to: no step is lost, none is shown twice.
    steps = steps_in(said.out)
    assert steps == list(range(1, 151))
    for words in ("notice: interruption", "asked to save (SIGTERM)", "attempt 2: resumed", "2 attempts"):
        assert words in said.err
    log = runctl("logs", "moved").out
    assert "\n--- attempt 2, resumed from step " in log
    assert steps_in(log) == steps


def test_a_hint_as_a_drill(runctl: CommandLine) -> None:
    """A drill of another kind that takes the machine away, or is told to nobody."""
    words = runctl.train("--steps", "100000", "--step-time", "0.05", "--ignore-term")
    assert runctl("run", "--detach", "--name", "hinted", *words).code == 0
    runctl.until("hinted", "training")
    assert runctl("interrupt", "hinted", "--kind", "maybe").code == 2
    for more in ([], ["--withdraw"]):
        assert runctl("interrupt", "hinted", "--kind", "maintenance", "--notice", "1h", *more).code == 0
    runctl("interrupt", "hinted", "--kind", "rebalance")
    eventually(lambda: "notice: rebalance (rebalance)" in runctl("show", "hinted").out, what="the hint")
    detail = runctl.show("hinted")
    assert [a["reason"] for a in detail["attempts"]] == [None]
    assert runctl("cancel", "--yes", "hinted").code == 0


def test_a_signal_without_a_terminal_saves_and_stops(runctl: CommandLine) -> None:
    run = runctl.start("run", "--name", "asked", *runctl.train("--steps", "100000", "--step-time", "0.05"))
    run.until("step=12")
    run.signal(signal.SIGINT)
    said = run.wait()
    assert said.code == 75
    assert "go on with: runctl resume asked" in said.err
    detail = runctl.show("asked")
    assert detail["run"]["state"] == "paused"
    assert detail["run"]["saved_step"] == steps_in(said.out)[-1]


def test_a_second_signal_detaches(runctl: CommandLine) -> None:
    """The training ignores the first request: whoever is in a hurry gets his shell back."""
    words = runctl.train("--steps", "100000", "--step-time", "0.05", "--ignore-term")
    run = runctl.start("run", "--name", "deaf", *words)
    run.until("step=2")
    run.signal(signal.SIGTERM)
    run.until("is asked to save")
    run.signal(signal.SIGTERM)
    said = run.wait()
    assert said.code == 0
    assert "detached; deaf goes on" in said.err
    assert runctl("cancel", "--yes", "deaf").code == 0


def test_a_lost_terminal_detaches(runctl: CommandLine) -> None:
    run = runctl.start("run", "--name", "lost", *runctl.train("--steps", "100000", "--step-time", "0.05"))
    run.until("step=2")
    run.signal(signal.SIGHUP)
    assert run.wait().code == 129
    assert runctl.show("lost")["run"]["state"] == "training"
    assert runctl("cancel", "--yes", "lost").code == 0


def test_the_reader_goes_away(runctl: CommandLine) -> None:
    words = runctl.argv("run", "--name", "headed", *runctl.train("--steps", "100000", "--step-time", "0.05"))
    process = subprocess.Popen(
        words, env=runctl.env, cwd=runctl.folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "step=1 loss=1.0000\n"
    process.stdout.close()
    assert process.stderr is not None
    said = process.stderr.read()
    process.stderr.close()
    assert process.wait(PATIENCE) == 141
    assert "nobody reads our output any more: detached; headed goes on" in said
    assert "Traceback" not in said
    assert runctl("cancel", "--yes", "headed").code == 0


def test_cancelled_while_attached(runctl: CommandLine) -> None:
    run = runctl.start("run", "--name", "gone", *runctl.train("--steps", "100000", "--step-time", "0.05"))
    run.until("step=2")
    refused = runctl("cancel", "gone")
    assert refused.code == 4
    assert "is training" in refused.err
    assert "runctl stop gone" in refused.err
    assert runctl("cancel", "--yes", "gone").code == 0
    said = run.wait()
    assert said.code == 128 + signal.SIGKILL
    assert "gone cancelled" in said.err
    assert runctl("resume", "gone").code == 4


def test_json_keeps_stdout_for_the_document(runctl: CommandLine) -> None:
    said = runctl("run", "--json", "--name", "doc", *runctl.train("--steps", "5"))
    assert said.code == 0
    assert json.loads(said.out)["run"]["state"] == "succeeded"
    assert finished(5) in said.err


def test_a_secret_reaches_the_training_and_nothing_else(runctl: CommandLine) -> None:
    source = (
        "import hashlib, os, time, pathlib\n"
        "print(hashlib.sha256(os.environ['MY_TOKEN'].encode()).hexdigest(), flush=True)\n"
        "while not pathlib.Path('open-sesame').exists(): time.sleep(0.05)\n"
    )
    value = "correct-horse-battery-staple"
    words = runctl.script("secret.py", source)
    run = runctl.start("run", "--name", "hush", "--secret", "MY_TOKEN", *words, MY_TOKEN=value)
    run.until(hashlib.sha256(value.encode()).hexdigest())
    (file,) = (runctl.state / "secrets").iterdir()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
    (runctl.folder / "open-sesame").touch()
    assert run.wait().code == 0
    eventually(lambda: not list((runctl.state / "secrets").iterdir()), PATIENCE, what="its file is removed")
    eventually(lambda: runctl.json("controller", "status")["machines"] == 0, PATIENCE, what="no machine")
    kept = [
        path for path in runctl.state.rglob("*") if path.is_file() and value.encode() in path.read_bytes()
    ]
    assert kept == []
    assert value not in runctl("show", "hush").out


def test_the_controller_is_killed_while_attached(runctl: CommandLine) -> None:
    run = runctl.start("run", "--name", "orphan", *runctl.train("--steps", "200", "--step-time", "0.05"))
    run.until("step=5")
    os.kill(runctl.controller(), signal.SIGKILL)
    said = run.wait()
    assert said.code == 0
    assert said.err.count("the controller is gone; starting another") == 1
    assert steps_in(said.out) == list(range(1, 201))


def test_the_environment_of_the_training(runctl: CommandLine) -> None:
    source = (
        "import os\nfor n in ('PYTHONHASHSEED', 'OMP_NUM_THREADS', 'MINE'): print(n, os.environ.get(n))\n"
    )
    words = runctl.script("env.py", source)
    said = runctl(
        "run",
        "--env",
        "MINE=a=b",
        "--env",
        "OMP_NUM_THREADS=3",
        *words,
        PYTHONHASHSEED="5",
        OMP_NUM_THREADS="1",
    )
    assert said.out == "PYTHONHASHSEED 5\nOMP_NUM_THREADS 3\nMINE a=b\n"


def test_ctrl_c_on_a_terminal_asks(runctl: CommandLine) -> None:
    answers = {"step=40 ": b"\x03", "[c]ontinue": b"s\n"}
    words = runctl.train("--steps", "100000", "--step-time", "0.05")
    code, shown = on_terminal(runctl, answers, "run", "--name", "seen", *words)
    assert code == 75
    assert "seen is paused" in shown
    # The status line was there, and was wiped away before anything else was written.
    statuses = shown.split("seen · ")[1:]
    assert any(status.startswith("training · step") for status in statuses)
    assert all("\r\x1b[K" in status.split("\n", 1)[0] for status in statuses)


def test_ctrl_c_twice_detaches(runctl: CommandLine) -> None:
    answers = {"step=5 ": b"\x03", "[c]ontinue": b"\x03"}
    words = runctl.train("--steps", "100000", "--step-time", "0.05")
    code, shown = on_terminal(runctl, answers, "run", "--name", "left", *words)
    assert code == 0
    assert "detached; left goes on" in shown
    assert runctl.show("left")["run"]["state"] == "training"
    assert runctl("cancel", "--yes", "left").code == 0


def test_a_terminal_is_not_taken_over_by_output(runctl: CommandLine) -> None:
    source = r"print('\x1b]0;owned\x07\x1b]52;c;aGk=\x07\x1b[31mred\x1b[0m \x1b[2Jend')" + "\n"
    code, shown = on_terminal(runctl, {}, "run", "--name", "odd", *runctl.script("odd.py", source))
    assert code == 0
    assert "\x1b[31mred\x1b[0m end" in shown
    assert "\x1b]" not in shown
    assert "\x1b[2J" not in shown


def test_cancel_asks_on_a_terminal(runctl: CommandLine) -> None:
    words = runctl.train("--steps", "100000", "--step-time", "0.05")
    assert runctl("run", "--detach", "--name", "doubt", *words).code == 0
    runctl.until("doubt", "training")
    assert on_terminal(runctl, {"[y/N]": b"n\n"}, "cancel", "doubt")[0] == 1
    assert runctl.show("doubt")["run"]["state"] == "training"
    assert on_terminal(runctl, {"[y/N]": b"y\n"}, "cancel", "doubt")[0] == 0
    runctl.until("doubt", "cancelled")


def test_nothing_is_written_where_the_user_works(runctl: CommandLine, tmp_path: Path) -> None:
    done = subprocess.run(
        runctl.argv("run", *runctl.train("--steps", "2")),
        env=runctl.env,
        cwd=tmp_path,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 0
    assert list(tmp_path.iterdir()) == []
