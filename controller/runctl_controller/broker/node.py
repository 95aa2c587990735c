"""A `rabbitmq-server` with its own name, ports, Erlang port mapper and folders, on 127.0.0.1 only."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO

import msgspec
import psutil

from runctl_controller.broker.server import Server, free_ports, speaks_amqp
from runctl_controller.providers.local.tree import end_all, members
from runctl_shared.errors import RunctlError

MARK = "BROKER_OF_RUNCTL"
"""The environment variable that marks a node's processes; its value is the node's folder. (Not RUNCTL_…:
those are settings.)"""
PATIENCE, PAUSE = 90.0, 0.1
"""Seconds that a node may take to start, and between two looks whether it answers."""
STOPPING = 60.0


class Identity(msgspec.Struct, frozen=True, kw_only=True):
    """What stays the same when a node is started again: its data belong to the name."""

    name: str
    port: int
    distribution_port: int
    mapper_port: int


def new_identity() -> Identity:
    """With ports that are free now."""
    port, distribution, mapper = free_ports(3)
    return Identity(
        name="runctl-" + secrets.token_hex(4),
        port=port,
        distribution_port=distribution,
        mapper_port=mapper,
    )


class Node:
    """Everything that it writes lies below `folder`. `settings`: further lines of rabbitmq.conf."""

    def __init__(
        self,
        server: Server,
        folder: Path,
        identity: Identity,
        plugins: Sequence[str] = (),
        settings: str = "",
    ) -> None:
        self._server, self.folder, self.identity = server, folder, identity
        self._plugins, self._settings = plugins, settings
        self._processes: list[subprocess.Popen[bytes]] = []
        self.exit_code: int | None = None
        """Of the node that this process started, once it has ended."""

    def prepare(self) -> None:
        """Write its configuration, which only its owner may read."""
        for name in ("data", "log", "home", "config"):
            (self.folder / name).mkdir(mode=0o700, parents=True, exist_ok=True)
        # An unknown key stops the boot, on 3.10 as on 4.x: only keys that both know.
        listener = f"listeners.tcp.1 = 127.0.0.1:{self.identity.port}\n"
        write_privately(self.folder / "rabbitmq.conf", listener + self._settings)
        write_privately(self.folder / "advanced.config", "[].\n")
        write_privately(self.folder / "plugins", f"[{','.join(self._plugins)}].\n")
        write_privately(self.folder / "env.conf", "")  # else the system node's own settings are read

    def start(self, given_up: Callable[[], bool] = lambda: False) -> None:
        """Start it; returns when it answers AMQP. Raises RunctlError, with the end of its log and nothing
        left running, when it does not, or when `given_up` says so before."""
        env = self._environment()
        mapper = shutil.which("epmd", path=env["PATH"])
        try:
            with (self.folder / "log" / "console.log").open("ab") as log:
                if mapper is not None:  # else the node starts a daemon of its own; `kill` finds that one too
                    port = str(self.identity.mapper_port)
                    self._spawn([mapper, "-port", port, "-address", "127.0.0.1"], env, log)
                node = self._spawn([str(self._server.script)], env, log)
            self._wait_for(node, given_up)
        except BaseException:
            self.kill()
            raise

    def _wait_for(self, node: subprocess.Popen[bytes], given_up: Callable[[], bool]) -> None:
        for _ in range(round(PATIENCE / PAUSE)):
            with contextlib.suppress(subprocess.TimeoutExpired):
                node.wait(PAUSE)
                raise RunctlError("The broker ended while it started.", self.end_of_log())
            if given_up():
                raise RunctlError("The broker was ended while it started.")
            if speaks_amqp(self.identity.port):
                return
        raise RunctlError(f"The broker did not answer within {PATIENCE:.0f} s.", self.end_of_log())

    def wait(self) -> None:
        """Until it ends, for whoever has started it."""
        self._processes[-1].wait()

    def stop(self) -> None:
        """Shut it down in order: its clients are told (320). Returns when it is gone."""
        shut_down(self.folder)
        self.kill()

    def kill(self) -> None:
        """SIGKILL it; returns when it is gone. Raises RunctlError when it cannot be killed."""
        kill(self.folder)
        for process in self._processes:
            self.exit_code = process.wait()
        self._processes.clear()

    def ctl(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Do as `rabbitmqctl` does with these words."""
        command = [str(self._server.script.with_name("rabbitmqctl")), "--quiet", *words]
        return subprocess.run(
            command, env=self._environment(), cwd=self.folder, capture_output=True, text=True, check=False
        )

    def end_of_log(self) -> str:
        """The last that it had to say."""
        logs = sorted((self.folder / "log").glob("*.log"), key=lambda path: path.stat().st_mtime)
        return "\n".join(
            line for path in logs for line in path.read_text(errors="replace").splitlines()[-15:]
        )

    def _spawn(self, command: list[str], env: dict[str, str], log: IO[bytes]) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            command,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd=self.folder,
            start_new_session=True,  # Ctrl-C is for whoever ends it in order
        )
        self._processes.append(process)
        return process

    def _environment(self) -> dict[str, str]:
        inherited = {
            name: text for name, text in os.environ.items() if not name.startswith(("RABBITMQ_", "ERL_"))
        }
        tree = self._server.tree
        folders = [str(folder) for folder in (tree / "usr/bin", tree / "usr/sbin") if folder.is_dir()]
        folder, identity = self.folder, self.identity
        return inherited | {
            MARK: str(folder),
            "PATH": os.pathsep.join([*folders, inherited.get("PATH", "/usr/bin:/bin")]),
            "HOME": str(folder / "home"),  # holds the Erlang cookie
            "ERL_EPMD_PORT": str(identity.mapper_port),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "ERL_CRASH_DUMP": str(folder / "log" / "erl_crash.dump"),
            "RABBITMQ_NODENAME": f"{identity.name}@localhost",
            "RABBITMQ_DIST_PORT": str(identity.distribution_port),
            "RABBITMQ_CONF_ENV_FILE": str(folder / "env.conf"),
            "RABBITMQ_CONFIG_FILE": str(folder / "rabbitmq.conf"),
            "RABBITMQ_ADVANCED_CONFIG_FILE": str(folder / "advanced.config"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "plugins"),
            "RABBITMQ_GENERATED_CONFIG_DIR": str(folder / "config"),
            "RABBITMQ_MNESIA_BASE": str(folder / "data"),
            "RABBITMQ_LOG_BASE": str(folder / "log"),
            "RABBITMQ_PID_FILE": str(folder / "pid"),
            # Schedulers that spin while idle would take the cores from whatever is tried.
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": (
                "-kernel inet_dist_use_interface {127,0,0,1} +sbwt none +sbwtdcpu none +sbwtdio none"
            ),
        }


def processes(folder: Path) -> list[psutil.Process]:
    """All that lives of the node of this folder, whoever has started it."""
    return members(str(folder), name=MARK)


def shut_down(folder: Path) -> None:
    """Have the node of this folder end in order, and wait for it, but not for ever."""
    # SIGTERM is Erlang's `init:stop`, to the node alone: it ends its helpers itself.
    nodes = [process for process in processes(folder) if _name(process).startswith("beam")]
    for process in nodes:
        with contextlib.suppress(psutil.Error):
            process.terminate()
    psutil.wait_procs(nodes, timeout=STOPPING)


def kill(folder: Path) -> None:
    """SIGKILL all of it; returns when it is gone. Raises RunctlError when it cannot be killed."""
    if not end_all(lambda: processes(folder), rounds=20):
        left = ", ".join(str(process.pid) for process in processes(folder))
        raise RunctlError(f"Processes of the broker cannot be killed: {left}.", "End them yourself.")


def write_privately(path: Path, text: str) -> None:
    """Whole or not at all, readable by its owner only."""
    temporary = path.with_name(f".{path.name}.new")
    temporary.unlink(missing_ok=True)
    with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
    os.replace(temporary, path)


def _name(process: psutil.Process) -> str:
    try:
        return str(process.name())
    except psutil.Error:
        return ""
