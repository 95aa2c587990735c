"""The tests' broker where there is no `rabbitmq-server` but a Docker engine."""

from __future__ import annotations

import os
import socket
from urllib.parse import urlsplit

from testcontainers.core.container import DockerContainer

from runctl_testing.broker import speaks_amqp
from runctl_testing.eventually import eventually

_IMAGE = "rabbitmq:4-alpine"


def engine_answers() -> bool:
    """Whether a Docker engine listens here: where DOCKER_HOST says, else at the usual socket."""
    # Asked by hand: a client that finds none leaves sockets unclosed, and warnings are errors in our tests.
    engine = urlsplit(os.environ.get("DOCKER_HOST") or "unix:///var/run/docker.sock")
    family = socket.AF_UNIX if engine.scheme == "unix" else socket.AF_INET
    address = engine.path if engine.scheme == "unix" else (engine.hostname or "", engine.port or 2375)
    with socket.socket(family) as probe:
        probe.settimeout(5)
        try:
            probe.connect(address)
        except OSError:
            return False
    return True


class ContainerNode:
    """A broker in a container; its port on this machine is fixed, so that the URL survives a restart."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._container = DockerContainer(_IMAGE, hostname="runctl-tests").with_bind_ports(5672, port)
        self._created = False

    @property
    def url(self) -> str:
        return f"amqp://guest:guest@127.0.0.1:{self._port}/%2F"

    def start(self) -> None:
        if self._created:
            self._container.get_wrapped_container().start()
        else:
            self._container.start()
            self._created = True
        eventually(lambda: speaks_amqp(self._port), 120, 0.2, "the broker's container to answer")

    def settle(self) -> None:
        """Nothing to wait for: the store of RabbitMQ 4.2 and newer answers after it has written."""

    def kill(self) -> None:
        self._container.get_wrapped_container().kill()

    def stop(self) -> None:
        self._container.get_wrapped_container().stop(timeout=60)

    def wipe(self) -> None:
        self.close()
        self._created = False

    def ctl(self, *words: str) -> None:
        code, said = self._container.get_wrapped_container().exec_run(["rabbitmqctl", "--quiet", *words])
        assert code == 0, said.decode(errors="replace")

    def close(self) -> None:
        if self._created:
            self._container.stop(force=True)
