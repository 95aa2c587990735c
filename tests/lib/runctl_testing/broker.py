"""A RabbitMQ of the tests' own: started privately, killed and started again at will, gone at the end."""

from __future__ import annotations

import contextlib
import os
import random
import secrets
import shutil
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import IO, Protocol

import pika

from runctl_testing.eventually import eventually
from runctl_testing.leftovers import end_marked

_MARK = "TEST_BROKER_OF_RUNCTL"
_DEBIANS = Path("/usr/lib/rabbitmq/bin/rabbitmq-server")
# Where deploy/dev/install_broker.py unpacks Debian's packages for users who are not root.
_UNPACKED = Path(__file__).resolve().parents[3] / ".venv" / "rabbitmq"


class Broker(Protocol):
    """A RabbitMQ that a test may ill-treat.

    Its URL and what is durable in it survive `stop` and, once settled, `kill`.
    """

    @property
    def url(self) -> str: ...

    def start(self) -> None:
        """Start it; returns when it answers AMQP. AssertionError with the end of its log if it does not."""
        ...

    def settle(self) -> None:
        """Return when every queue, exchange and binding declared so far has reached the disk.

        RabbitMQ 3.x answers a declaration up to two seconds earlier: a durable queue declared just before a
        kill is then gone, its confirmed messages with it.
        """
        ...

    def kill(self) -> None:
        """SIGKILL it; returns when it is gone."""
        ...

    def stop(self) -> None:
        """Shut it down in order: its clients are told (320). Returns when it is gone."""
        ...

    def wipe(self) -> None:
        """Remove everything that it has stored, while it is stopped: the next start is a first one."""
        ...

    def ctl(self, *words: str) -> None:
        """Do as `rabbitmqctl` does with these words. AssertionError with what it said if it fails."""
        ...

    def close(self) -> None:
        """End it for good and remove what it stored."""
        ...


class Unavailable(Exception):
    """No RabbitMQ can be started here; the text says what was looked for and how to get one."""


def new_broker(folder: Path) -> Broker:
    """A broker, not yet started, that keeps everything it writes under `folder`. Raises Unavailable."""
    server = _find_server()
    if server is not None:
        return PrivateNode(server, folder)
    return _container()


class PrivateNode:
    """A `rabbitmq-server` with its own name, ports, Erlang port mapper and folders, on 127.0.0.1 only."""

    def __init__(self, server: Path, folder: Path) -> None:
        self._server = server
        self.folder = folder
        self._id = "runctl-" + secrets.token_hex(4)
        self._port, self._distribution_port, self._mapper_port = _free_ports(3)
        self._processes: list[subprocess.Popen[bytes]] = []
        for name in ("data", "log", "home", "config"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        # An unknown key stops the boot, on 3.10 as on 4.x: only keys that both know.
        (folder / "rabbitmq.conf").write_text(f"listeners.tcp.1 = 127.0.0.1:{self._port}\n")
        (folder / "advanced.config").write_text("[].\n")
        (folder / "plugins").write_text("[].\n")
        (folder / "env.conf").write_text("")  # else the system node's own settings are read

    @property
    def url(self) -> str:
        return f"amqp://guest:guest@127.0.0.1:{self._port}/%2F"

    def start(self) -> None:
        env = self._environment()
        mapper = shutil.which("epmd", path=env["PATH"])
        with (self.folder / "log" / "console.log").open("ab") as log:
            if mapper is not None:  # else the node starts a daemon of its own; `kill` finds that one too
                self._spawn([mapper, "-port", str(self._mapper_port), "-address", "127.0.0.1"], env, log)
            node = self._spawn([str(self._server)], env, log)
        try:
            eventually(
                lambda: speaks_amqp(self._port) or node.poll() is not None, 90, 0.1, "the broker to answer"
            )
            assert node.poll() is None, "the broker ended while it started"
        except AssertionError as error:
            self.kill()
            raise AssertionError(f"{error}\n{self._end_of_log()}") from None

    def settle(self) -> None:
        # The log on the disk is in order: once this name is in it, so is all that was declared before.
        name = "settled-" + secrets.token_hex(8)
        with pika.BlockingConnection(pika.URLParameters(self.url)) as connection:
            channel = connection.channel()
            channel.queue_declare(name, durable=True)
            eventually(lambda: self._stored(name.encode()), 60, 0.05, "the declarations to reach the disk")
            channel.queue_delete(name)

    def _stored(self, name: bytes) -> bool:
        tables = [
            path for path in (self.folder / "data").rglob("*") if path.suffix in (".LOG", ".DCL", ".DCD")
        ]
        return any(name in path.read_bytes() for path in tables if path.exists())

    def kill(self) -> None:
        outlived = end_marked(_MARK, self._id)
        for process in self._processes:
            process.wait()
        self._processes.clear()
        assert not outlived, f"processes of the broker that could not be killed: {outlived}"

    def stop(self) -> None:
        # SIGTERM is Erlang's `init:stop`, to the node alone: it ends its helpers itself.
        for process in self._processes[-1:]:
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=60)
        self.kill()

    def wipe(self) -> None:
        assert not self._processes, "the broker runs"
        shutil.rmtree(self.folder / "data")
        (self.folder / "data").mkdir()

    def ctl(self, *words: str) -> None:
        command = [str(self._server.with_name("rabbitmqctl")), "--quiet", *words]
        done = subprocess.run(
            command, env=self._environment(), cwd=self.folder, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr

    def close(self) -> None:
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _spawn(self, command: list[str], env: dict[str, str], log: IO[bytes]) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            command,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd=self.folder,
            start_new_session=True,
        )
        self._processes.append(process)
        return process

    def _environment(self) -> dict[str, str]:
        inherited = {
            name: text for name, text in os.environ.items() if not name.startswith(("RABBITMQ_", "ERL_"))
        }
        tree = _UNPACKED if self._server.is_relative_to(_UNPACKED) else Path("/")
        folders = [str(folder) for folder in (tree / "usr/bin", tree / "usr/sbin") if folder.is_dir()]
        folder = self.folder
        return inherited | {
            _MARK: self._id,
            "PATH": os.pathsep.join([*folders, inherited.get("PATH", "/usr/bin:/bin")]),
            "HOME": str(folder / "home"),  # holds the Erlang cookie
            "ERL_EPMD_PORT": str(self._mapper_port),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "ERL_CRASH_DUMP": str(folder / "log" / "erl_crash.dump"),
            "RABBITMQ_NODENAME": f"{self._id}@localhost",
            "RABBITMQ_DIST_PORT": str(self._distribution_port),
            "RABBITMQ_CONF_ENV_FILE": str(folder / "env.conf"),
            "RABBITMQ_CONFIG_FILE": str(folder / "rabbitmq.conf"),
            "RABBITMQ_ADVANCED_CONFIG_FILE": str(folder / "advanced.config"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "plugins"),
            "RABBITMQ_GENERATED_CONFIG_DIR": str(folder / "config"),
            "RABBITMQ_MNESIA_BASE": str(folder / "data"),
            "RABBITMQ_LOG_BASE": str(folder / "log"),
            "RABBITMQ_PID_FILE": str(folder / "pid"),
            # Schedulers that spin while idle would take the cores from the tests.
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": (
                "-kernel inet_dist_use_interface {127,0,0,1} +sbwt none +sbwtdcpu none +sbwtdio none"
            ),
        }

    def _end_of_log(self) -> str:
        logs = sorted((self.folder / "log").glob("*.log"), key=lambda path: path.stat().st_mtime)
        return "\n".join(
            line for path in logs for line in path.read_text(errors="replace").splitlines()[-15:]
        )


def _find_server() -> Path | None:
    # Debian's wrapper on the PATH becomes another user when root calls it; the real script does not.
    if _DEBIANS.exists():
        return _DEBIANS
    found = shutil.which("rabbitmq-server")
    if found:
        return Path(found)
    unpacked = _UNPACKED / "usr/lib/rabbitmq/bin/rabbitmq-server"
    return unpacked if (_UNPACKED / "complete").exists() else None


def _free_ports(count: int) -> list[int]:
    """Ports that are free now, below those that the system hands out to clients."""
    with contextlib.ExitStack() as stack:
        ports: list[int] = []
        while len(ports) < count:
            candidate = random.randrange(20000, 32000)
            probe = stack.enter_context(socket.socket())
            with contextlib.suppress(OSError):
                probe.bind(("127.0.0.1", candidate))
                ports.append(candidate)
        return ports


def speaks_amqp(port: int) -> bool:
    """Whether the port answers AMQP's greeting: `rabbitmq-diagnostics ping` succeeds seconds earlier."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
            connection.sendall(b"AMQP\x00\x00\x09\x01")
            return connection.recv(1) == b"\x01"  # a method frame: Connection.Start
    except OSError:
        return False


def _container() -> Broker:
    from runctl_testing.broker_container import ContainerNode, engine_answers

    if not engine_answers():
        raise Unavailable(
            "no RabbitMQ for the tests: neither RUNCTL_TEST_AMQP_URL, nor a rabbitmq-server on this machine, "
            "nor a Docker engine. `make test` installs or unpacks one where the system is Debian."
        )
    make: Callable[[int], Broker] = ContainerNode
    return make(_free_ports(1)[0])
