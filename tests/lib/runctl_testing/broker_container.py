"""The tests' broker where there is no `rabbitmq-server` but a Docker engine."""

from __future__ import annotations

from testcontainers.core.container import DockerContainer
from testcontainers.core.docker_client import DockerClient

from runctl_testing.broker import speaks_amqp
from runctl_testing.eventually import eventually

_IMAGE = "rabbitmq:4-alpine"


def engine_answers() -> bool:
    """Whether a Docker engine answers here."""
    try:
        return bool(DockerClient().client.ping())
    except Exception:  # whatever it raises, the answer is no
        return False


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

    def kill(self) -> None:
        self._container.get_wrapped_container().kill()

    def stop(self) -> None:
        self._container.get_wrapped_container().stop(timeout=60)

    def close(self) -> None:
        if self._created:
            self._container.stop(force=True)
