"""The embedded controller: started on demand, detached, so that it outlives the command that needed it."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import msgspec

from runctl_controller.client.client import Client
from runctl_controller.service.lock import holder
from runctl_controller.settings.export import as_environment
from runctl_controller.settings.model import Settings
from runctl_shared.errors import NoController, StoreUnusable, from_code
from runctl_shared.messages.replies import Status
from runctl_shared.messages.requests import ControllerStatus

START_TIMEOUT = 45.0
"""Seconds that a controller may take to start; more than it waits for a broker by itself."""


def reach(settings: Settings) -> Client:
    """A client of a controller that answers. With no broker configured, one is started if none runs.

    Raises NoController, and whatever kept a new one from starting.
    """
    if not is_running(settings):
        start(settings)
    return Client(settings.bus)


def is_running(settings: Settings) -> bool:
    """Whether a controller may be there to be asked: with a broker, only asking tells."""
    return settings.bus_url is not None or holder(_lock(settings)) is not None


def _lock(settings: Settings) -> Path:
    return Path(settings.state_dir) / "controller.lock"


def start(settings: Settings, *, embedded: bool = True) -> Status:
    """Start a controller in the background and wait until it answers. If another command starts one at the
    same time, one of them is it. Raises what kept it from starting."""
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
        command += ["--foreground", "--ready-fd", str(report), *(["--embedded"] if embedded else [])]
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
    _wait_for_report(ready)
    with Client(settings.bus) as client:
        return client.ask(ControllerStatus(), Status, START_TIMEOUT)


def _wait_for_report(ready: int) -> None:
    """The new process says `ok`, or (in JSON) why it cannot be the controller."""
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
    if code != "ok":
        raise from_code(code, what, mend)


def wait_until_gone(settings: Settings, timeout: float) -> bool:
    """Wait for the controller of this state folder to end. Whether it did within `timeout` seconds."""
    pause = 0.05
    for _ in range(round(timeout / pause)):
        if holder(_lock(settings)) is None:
            return True
        threading.Event().wait(pause)
    return False


class Standby:
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
