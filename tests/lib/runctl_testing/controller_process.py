"""A controller in a process of its own, with short intervals, over any bus."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import psutil

from runctl_controller.access.port import Agents
from runctl_controller.client.client import Client
from runctl_controller.providers.local.provider import AGENT_COMMAND, HOST_COMMAND, LocalProvider
from runctl_controller.rehearsal.drill import FINAL
from runctl_controller.service.config import ControllerConfig
from runctl_controller.service.main import Providers, serve
from runctl_shared.bus.connect import connect
from runctl_shared.bus.port import Bus
from runctl_shared.clock import Clock, SystemClock
from runctl_shared.draw import new_id
from runctl_shared.errors import NoController, RunctlError
from runctl_shared.messages.replies import CheckpointList, Done, LogPiece, RunDetail
from runctl_shared.messages.requests import ListCheckpoints, ReadLog, ShowRun, SubmitRun
from runctl_shared.spec import RunSpec
from runctl_testing.eventually import eventually

DOOM, DOOMED = "RUNCTL_TEST_DOOM", "runctl_testing.doomed_agent"
LIB = str(Path(__file__).parents[1])
TINY = Path(__file__).with_name("tiny_train.py")


class Ways(NamedTuple):
    """How others than agents reach the bus, where their way is not the agents'; and what a machine's command
    is preceded by, to be in a network of its own."""

    controller: str = ""
    client: str = ""
    machine: tuple[str, ...] = ()


class ControllerProcess:
    """A controller's process; what it logs lies in `path`."""

    def __init__(self, path: Path, *arguments: str, env: dict[str, str] | None = None) -> None:
        self._path = path
        with path.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "runctl_testing.controller_process", *arguments],
                env=os.environ | {"PYTHONPATH": LIB} | (env or {}),
                stdout=subprocess.PIPE,
                stderr=log,
                start_new_session=True,
            )

    @property
    def log(self) -> str:
        return self._path.read_text()

    def line(self) -> str:
        """The next thing that it says; empty when it has ended."""
        assert self.process.stdout is not None
        return self.process.stdout.readline().decode().strip()

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def kill(self) -> None:
        self.process.kill()
        self.wait()

    def stop(self) -> None:
        """End it, however it is."""
        self.signal(signal.SIGTERM)
        self.signal(signal.SIGCONT)
        self.wait()

    def wait(self) -> int:
        """Its exit code, once it has ended."""
        code = self.process.wait(60)
        if self.process.stdout is not None:
            self.process.stdout.close()
        return code


class House:
    """A controller, its state folder, and a client of it. `settings`: as ControllerConfig names them, where
    intervals are not to be short, or more is to be said."""

    def __init__(self, state: Path, bus: str, **settings: float | str) -> None:
        self.state, self.bus = state, bus
        short: dict[str, float | str] = {"heartbeat": 0.5, "lease": 60.0, "notice_poll": 0.2}
        self._settings = short | settings
        self.ways = Ways()
        self.env: dict[str, str] = {}
        """What its processes find in their environment besides."""
        self.clock: Clock = SystemClock()
        """Of the client."""
        self._leader: ControllerProcess | None = None
        self._standbys: list[ControllerProcess] = []
        self._client: Client | None = None

    @property
    def client(self) -> Client:
        if self._client is None:
            self._client = Client(self.ways.client or self.bus, self.clock)
        return self._client

    def __enter__(self) -> House:
        """Start it; whatever comes, `stop` it at the end of the block."""
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_exc: object) -> None:
        self.stop()

    def start(self) -> None:
        self._leader = self._spawn("controller.log")
        said = self._leader.line()
        assert said == "ready", f"{said}: {self._leader.log[-3000:]}"

    def stand_by(self) -> ControllerProcess:
        """One more controller, which waits for its turn. It says "standing by", and "ready" when it leads."""
        self._standbys.append(self._spawn(f"standby-{len(self._standbys) + 1}.log", "standby"))
        return self._standbys[-1]

    def _spawn(self, log: str, *how: str) -> ControllerProcess:
        self.state.mkdir(parents=True, exist_ok=True)
        config = str(self.state), self.bus, json.dumps(self._settings), json.dumps(self.ways)
        return ControllerProcess(self.state / log, *config, *how, env=self.env)

    @property
    def leader(self) -> ControllerProcess:
        """The controller that was started (whoever leads by now)."""
        assert self._leader is not None
        return self._leader

    def kill(self) -> None:
        """SIGKILL the controller, as a power cut would."""
        self.leader.kill()
        self._leader = None

    def stop(self) -> None:
        for process in (self._leader, *self._standbys):
            if process is not None:
                process.stop()
        self._leader = None
        if self._client is not None:
            self._client.close()

    def submit(self, *arguments: str, **changes: Any) -> str:
        """Start the tiny training; its run's id."""
        run = new_id("run")
        fields: dict[str, Any] = {
            "run": run,
            "name": run,
            "command": (sys.executable, str(TINY), *arguments),
            "workdir": str(self.state),
            "store": f"file://{self.state / 'checkpoints'}",
            "env": {"PATH": os.environ["PATH"]},
            "grace": 5.0,
        }
        self.client.ask(SubmitRun(spec=RunSpec(**(fields | changes))), Done)
        return run

    def show(self, run: str) -> RunDetail:
        return self.client.ask(ShowRun(run=run, story=2000), RunDetail)

    def checkpoints(self, run: str) -> CheckpointList:
        return self.client.ask(ListCheckpoints(run=run), CheckpointList)

    def log(self, run: str, attempt: int) -> str:
        return self.client.ask(ReadLog(run=run, attempt=attempt), LogPiece).data.decode()

    @property
    def pid(self) -> int:
        """The controller's process."""
        return self.leader.process.pid

    def agent(self, run: str, attempt: int = 1) -> psutil.Process:
        """The agent of that attempt."""
        (found,) = self.find(run, "runctl_agent", "--machine", attempt=attempt)
        return found

    def training(self, run: str, attempt: int = 1) -> psutil.Process:
        """The tiny training of that attempt."""
        (found,) = self.find(run, "tiny_train.py", attempt=attempt)
        return found

    def find(self, run: str, *words: str, attempt: int = 1) -> list[psutil.Process]:
        """The living processes with these words in their command lines on the machine of that attempt."""
        found = []
        folder = str(self.state / f"machines/machines/agent-{run.removeprefix('run-')}-{attempt}")
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error, OSError):
                line = " ".join(process.cmdline())
                if not all(word in line for word in words):
                    continue
                here = folder in line or any(folder in value for value in process.environ().values())
                if here and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
        return found

    def wait(self, run: str, wanted: Callable[[RunDetail], Any], what: str) -> RunDetail:
        """The run once `wanted` holds of it."""

        def holds() -> bool:
            try:
                return bool(wanted(self.show(run)))
            except NoController:
                return False  # its bus may be away; that is what some tests are about

        eventually(holds, timeout=60, what=what)
        return self.show(run)

    def wait_final(self, run: str) -> RunDetail:
        """The run once it has ended and no machine of it is left."""
        return self.wait(
            run,
            lambda d: d.run.state in FINAL and all(m.state == "terminated" for m in d.machines),
            "the run to end",
        )

    def wait_training(self, run: str, attempt: int = 1, saved: int = 0) -> RunDetail:
        """The run once that attempt trains and has a checkpoint of at least step `saved`."""

        def trains(d: RunDetail) -> bool:
            found = [a for a in d.attempts if a.attempt == attempt and a.state == "training"]
            return bool(found) and (not saved or (found[0].saved_step or 0) >= saved)

        return self.wait(run, trains, f"attempt {attempt} to train")


def main() -> None:
    state, bus, settings, of_ways, *how = sys.argv[1:]
    ways = Ways(*json.loads(of_ways))
    fields = json.loads(settings)
    for name, kind in (("agents", Agents), ("token_key", Path)):
        if name in fields:
            fields[name] = kind(fields[name])
    config = ControllerConfig(state_dir=Path(state), bus=bus, standby="standby" in how, **fields)

    def say(word: str) -> None:
        print(word, flush=True)

    try:
        serve(
            config,
            partial(say, "ready"),
            partial(_machines, ways),
            standing_by=partial(say, "standing by"),
            connect=partial(_connect, ways.controller),
        )
    except RunctlError as error:
        sys.exit(f"runctl: {error}")


def _machines(ways: Ways, config: ControllerConfig, clock: Clock) -> Providers:
    doomed = (sys.executable, "-P", "-m", DOOMED)
    return {
        "local": LocalProvider(
            config.machines,
            clock,
            agent_command=doomed if DOOM in os.environ else AGENT_COMMAND,
            host_command=(*ways.machine, *HOST_COMMAND),
        )
    }


def _connect(own: str, url: str, *, clock: Clock, name: str) -> Bus:
    return connect(own or url, clock=clock, name=name)


if __name__ == "__main__":
    import logging

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    main()
