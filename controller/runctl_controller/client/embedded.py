"""The embedded controller: started on demand, detached, so that it outlives the command that needed it."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import msgspec

from runctl_controller.client.client import MEND, Client
from runctl_controller.service.config import STANDBYS, TAKEOVER
from runctl_controller.service.lock import holder, holders
from runctl_controller.settings.export import as_environment
from runctl_controller.settings.model import Settings
from runctl_shared.errors import NoController, StoreUnusable, from_code
from runctl_shared.messages.replies import Done, Status
from runctl_shared.messages.requests import ControllerStatus

START_TIMEOUT = 45.0
"""Seconds that a controller may take to start; more than it waits for a broker by itself."""


def reach(settings: Settings) -> Client:
    """A client of a controller that answers. With no broker configured, one is started if none runs.

    Raises NoController, and whatever kept a new one from starting.
    """
    if not is_running(settings):
        start(settings)
    return Client(settings.bus, mend=lambda: unanswered(settings))


def unanswered(settings: Settings) -> str:
    """What to do when no controller answers: wait, where one is known to stand by."""
    waiting = holders(Path(settings.state_dir) / STANDBYS)
    if not waiting:
        return MEND
    return f"Process {waiting[0]} stands by and takes over within about {TAKEOVER:.0f} s: try again then."


def is_running(settings: Settings) -> bool:
    """Whether a controller may be there to be asked: with a broker, only asking tells."""
    return settings.bus_url is not None or leader(settings) is not None


def leader(settings: Settings) -> int | None:
    """The process that leads here (0: it does not say), None when there is none, as far as this machine
    knows."""
    return holder(_lock(settings))


def _lock(settings: Settings) -> Path:
    return Path(settings.state_dir) / "controller.lock"


def start(settings: Settings, *, embedded: bool = True, standby: bool = False) -> Status | Done:
    """Start a controller in the background and wait until it answers, or (Done) stands by. If another command
    starts one at the same time, one of them is it. Raises what kept it from starting."""
    state = Path(settings.state_dir)
    try:
        state.mkdir(mode=0o700, parents=True, exist_ok=True)
        log = os.open(state / "controller.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    except OSError as error:
        raise StoreUnusable(
            f"The state folder {state} cannot be written to: {error.strerror}.",
            "Choose another with RUNCTL_STATE_DIR, or mend its permissions.",
        ) from error
    ready, report = os.pipe()
    try:
        # -P: a file of the user's in the current folder must not be taken for a module of ours.
        command = [sys.executable, "-P", "-m", "runctl_controller.cli.main", "controller", "start"]
        command += ["--foreground", "--ready-fd", str(report)]
        command += ["--embedded"] * embedded + ["--standby"] * standby
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            pass_fds=[report],
            start_new_session=True,
            cwd="/",
            # All of them: what a file of the current folder says must hold there as well.
            env=os.environ | as_environment(settings),
        )
    finally:
        os.close(report)
        os.close(log)
    # Should it end while we live, it must not stay a zombie.
    threading.Thread(target=process.wait, name="wait-controller", daemon=True).start()
    if _wait_for_report(ready) == "standby":
        # Whoever leads may be just what does not answer: it is not asked.
        ahead = leader(settings)
        return Done(
            note=f"Process {process.pid} stands by, and takes over when process {ahead} does not answer."
        )
    with Client(settings.bus) as client:
        return client.ask(ControllerStatus(), Status, START_TIMEOUT)


def _wait_for_report(ready: int) -> str:
    """The new process says `ok` or `standby`, or (in JSON) why it cannot be the controller."""
    import select

    with os.fdopen(ready, "rb") as pipe:
        if not select.select([pipe], [], [], START_TIMEOUT)[0]:
            raise NoController(
                "The controller did not start in time.", "See controller.log in its state folder."
            )
        said = pipe.read().decode(errors="replace").strip()
    if not said:
        raise NoController(
            "The controller ended while it started.", "See controller.log in its state folder."
        )
    code, what, mend = msgspec.json.decode(said, type=tuple[str, str, str])
    if code not in ("ok", "standby"):
        raise from_code(code, what, mend)
    return code


def wait_for_another(settings: Settings, before: int | None, timeout: float) -> bool:
    """Wait until process `before` leads no more in this state folder. Whether that was within `timeout`
    seconds."""
    pause = 0.05
    for _ in range(round(timeout / pause)):
        if leader(settings) != before:
            return True
        threading.Event().wait(pause)
    return False


class Restarter:
    """Starts an embedded controller that has vanished: once. `say` is told, in a sentence."""

    def __init__(self, settings: Settings, say: Callable[[str], None]) -> None:
        self._settings, self._say = settings, say
        self._used = False

    def ensure(self) -> bool:
        """Whether one had to be started. Raises NoController when it has vanished again, and what keeps a
        new one from starting."""
        if is_running(self._settings):
            return False
        if self._used:
            raise NoController(
                "The controller has ended again.",
                f"See {Path(self._settings.state_dir) / 'controller.log'}; any command starts it anew.",
            )
        self._used = True
        self._say("the controller is gone; starting another (the training has gone on meanwhile)")
        start(self._settings)
        return True
