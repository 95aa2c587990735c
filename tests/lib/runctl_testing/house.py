"""The command line as a user has it: real processes, a state folder of its own, and a check for leftovers."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import psutil

from runctl_testing.eventually import eventually
from runctl_testing.tiny_train import expected

PATIENCE = 90.0
TINY = Path(__file__).with_name("tiny_train.py")
FINAL = ("succeeded", "failed", "cancelled", "paused", "stuck")


class Said(NamedTuple):
    code: int
    out: str
    err: str


class Started:
    """A `runctl` that runs in the background."""

    def __init__(self, process: subprocess.Popen[bytes], out: Path, err: Path) -> None:
        self.process, self._out, self._err = process, out, err

    @property
    def out(self) -> str:
        return self._out.read_text()

    @property
    def err(self) -> str:
        return self._err.read_text()

    def until(self, word: str) -> None:
        """Until it has said `word` on stdout or stderr."""
        eventually(lambda: word in self.out or word in self.err, PATIENCE, what=f"{word!r} in its output")

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def wait(self) -> Said:
        code = self.process.wait(PATIENCE)
        return checked(Said(code, self.out, self.err))


class CommandLine:
    """`runctl` in the folder `folder`, with all that it keeps below `root`."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.state, self.folder = root / "state", root / "work"
        self.folder.mkdir(parents=True)
        self.env = {k: v for k, v in os.environ.items() if not k.startswith(("RUNCTL_", "XDG_"))} | {
            "RUNCTL_STATE_DIR": str(self.state),
            "RUNCTL_HEARTBEAT": "0.5s",
            "RUNCTL_NOTICE_POLL": "0.2s",
            "RUNCTL_GRACE": "20s",
            "HOME": str(root),
        }
        self._started: list[Started] = []

    def argv(self, *arguments: str) -> list[str]:
        return [sys.executable, "-P", "-m", "runctl_controller.cli.main", *arguments]

    def __call__(self, *arguments: str, **env: str) -> Said:
        """Run it to its end. Every failure that it tells must be told well: see `checked`."""
        done = subprocess.run(
            self.argv(*arguments),
            env=self.env | env,
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        return checked(Said(done.returncode, done.stdout, done.stderr))

    def json(self, *arguments: str) -> Any:
        at = arguments.index("--") if "--" in arguments else len(arguments)
        said = self(*arguments[:at], "--json", *arguments[at:])
        assert said.code == 0, said
        return json.loads(said.out)

    def start(self, *arguments: str, **env: str) -> Started:
        """Run it in the background."""
        name = f"started-{len(self._started)}"
        out, err = self.root / f"{name}.out", self.root / f"{name}.err"
        with out.open("wb") as stdout, err.open("wb") as stderr:
            process = subprocess.Popen(
                self.argv(*arguments),
                env=self.env | env,
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=stdout,
                stderr=stderr,
                start_new_session=True,
            )
        self._started.append(Started(process, out, err))
        return self._started[-1]

    def train(self, *arguments: str) -> tuple[str, ...]:
        """The words that run the tiny training."""
        return ("--", sys.executable, str(TINY), *arguments)

    def script(self, name: str, source: str) -> tuple[str, ...]:
        """Write a training of the test's own; the words that run it."""
        (self.folder / name).write_text(source)
        return ("--", sys.executable, name)

    def show(self, run: str) -> Any:
        return self.json("show", run)

    def until(self, run: str, state: str) -> Any:
        """The run as `show --json` has it, once it is in `state`."""
        eventually(lambda: self.show(run)["run"]["state"] == state, PATIENCE, 0.3, f"{run} {state}")
        return self.show(run)

    def until_saved(self, run: str, step: int) -> None:
        eventually(
            lambda: (self.show(run)["run"]["saved_step"] or 0) >= step, PATIENCE, 0.3, f"{run} saves {step}"
        )

    def controller(self) -> int:
        """Its process id."""
        pid = self.json("controller", "status")["pid"]
        assert isinstance(pid, int)
        return pid

    def close(self) -> None:
        """End everything, in good order; then nothing may be left."""
        for started in self._started:
            if started.process.poll() is None:
                started.signal(signal.SIGKILL)
                started.process.wait(PATIENCE)
        if self("controller", "status").code == 0:
            for run in self.json("ls", "--open")["runs"]:
                self("cancel", "--yes", run["run"])
            eventually(lambda: self.json("controller", "status")["machines"] == 0, PATIENCE, 0.3)
            assert self("controller", "stop").code == 0
        eventually(lambda: not self.processes(), PATIENCE, 0.2, "no process left")
        assert [path for path in self.root.rglob("*") if stat.S_ISFIFO(path.lstat().st_mode)] == []

    def processes(self) -> list[str]:
        """Living processes of this installation, found by what they were started with."""
        found = []
        for process in psutil.process_iter():
            try:
                if (
                    process.environ().get("RUNCTL_STATE_DIR") == str(self.state)
                    or str(self.state) in " ".join(process.cmdline())
                ) and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(f"{process.pid} {' '.join(process.cmdline())[:200]}")
            except psutil.Error:
                continue
        return found


def checked(said: Said) -> Said:
    """`said`, unless it shows what no user should see."""
    assert "Traceback" not in said.out + said.err, said
    assert "defect" not in said.err, said
    return said


def steps_in(text: str) -> list[int]:
    """The steps that the tiny training printed, in order."""
    return [
        int(line.split()[0].removeprefix("step=")) for line in text.splitlines() if line.startswith("step=")
    ]


def finished(steps: int) -> str:
    """The last line of an undisturbed tiny training."""
    return f"finished total={expected(steps)}"


@contextmanager
def command_line(root: Path) -> Iterator[CommandLine]:
    """A command line; at the end nothing of it may be left."""
    made = CommandLine(root)
    yield made
    made.close()
