"""The embedded controller: started on demand, detached, so that it outlives the command that needed it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from runctl_controller.client.client import Client
from runctl_controller.service.lock import holder
from runctl_controller.settings.model import Settings
from runctl_shared.errors import NoController, RunctlError, StoreUnusable
from runctl_shared.messages.replies import Status
from runctl_shared.messages.requests import ControllerStatus

START_TIMEOUT = 30.0
"""Seconds that a controller may take to start."""


def reach(settings: Settings) -> Client:
    """A client of a controller that answers. With no broker configured, one is started if none runs.

    Raises NoController, and whatever kept a new one from starting.
    """
    if settings.bus_url is None and holder(Path(settings.state_dir) / "controller.lock") is None:
        start(settings)
    return Client(settings.bus)


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
        environment = os.environ | {"RUNCTL_STATE_DIR": str(state)}
        subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            pass_fds=[report],
            start_new_session=True,
            cwd="/",
            env=environment,
        )
    finally:
        os.close(report)
        os.close(log)
    _wait_for_report(ready)
    with Client(settings.bus) as client:
        return client.ask(ControllerStatus(), Status, START_TIMEOUT)


def _wait_for_report(ready: int) -> None:
    """The new process writes `ok`, or the sentence that says why it cannot be the controller."""
    import select

    with os.fdopen(ready, "rb") as pipe:
        if not select.select([pipe], [], [], START_TIMEOUT)[0]:
            raise NoController(
                "The controller did not start in time.", "See controller.log in its state folder."
            )
        said = pipe.read().decode(errors="replace").strip()
    if said in ("ok", "running"):
        return
    if not said:
        raise NoController(
            "The controller ended while it started.", "See controller.log in its state folder."
        )
    what, _, mend = said.partition("\n")
    raise RunctlError(what, mend)


def is_running(settings: Settings) -> bool:
    """Whether a controller may be there to be asked: with a broker, only asking tells."""
    return settings.bus_url is not None or holder(Path(settings.state_dir) / "controller.lock") is not None
