"""A RabbitMQ of the tests' own: started privately, killed and started again at will, gone at the end."""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import pika

from runctl_controller.broker.node import Node, new_identity, processes
from runctl_controller.broker.server import Server, find_server, free_ports, speaks_amqp
from runctl_shared.errors import NotFound, RunctlError
from runctl_testing.eventually import eventually

__all__ = ["Broker", "PrivateNode", "Unavailable", "free_ports", "new_broker", "new_node", "speaks_amqp"]


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


def new_node(folder: Path, plugins: Sequence[str], settings: str) -> PrivateNode:
    """As new_broker, with these plugins and these lines of rabbitmq.conf. Never a container."""
    server = _find_server()
    if server is None:
        raise Unavailable("no rabbitmq-server on this machine whose plugins could be switched on")
    return PrivateNode(server, folder, plugins, settings)


class PrivateNode:
    """The product's own way to a private node, with what tests do to one; guest may enter."""

    def __init__(self, server: Server, folder: Path, plugins: Sequence[str] = (), settings: str = "") -> None:
        self.folder = folder
        self._node = Node(server, folder, new_identity(), plugins, settings)
        self._node.prepare()

    @property
    def url(self) -> str:
        return f"amqp://guest:guest@127.0.0.1:{self.port}/%2F"

    @property
    def port(self) -> int:
        return self._node.identity.port

    def start(self) -> None:
        try:
            self._node.start()
        except RunctlError as error:
            raise AssertionError(str(error)) from None

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
        self._node.kill()

    def stop(self) -> None:
        self._node.stop()

    def wipe(self) -> None:
        assert not processes(self.folder), "the broker runs"
        shutil.rmtree(self.folder / "data")
        (self.folder / "data").mkdir()

    def ctl(self, *words: str) -> None:
        done = self._node.ctl(*words)
        assert done.returncode == 0, done.stdout + done.stderr

    def close(self) -> None:
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)


def _find_server() -> Server | None:
    try:
        return find_server()
    except NotFound:
        return None


def _container() -> Broker:
    from runctl_testing.broker_container import ContainerNode, engine_answers

    if not engine_answers():
        raise Unavailable(
            "no RabbitMQ for the tests: neither RUNCTL_TEST_AMQP_URL, nor a rabbitmq-server on this machine, "
            "nor a Docker engine. `make test` installs or unpacks one where the system is Debian."
        )
    make: Callable[[int], Broker] = ContainerNode
    return make(free_ports(1)[0])
