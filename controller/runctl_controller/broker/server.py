"""Where a `rabbitmq-server` is found, and what it needs of the machine."""

from __future__ import annotations

import contextlib
import random
import shutil
import socket
import sys
from pathlib import Path
from typing import NamedTuple

from runctl_shared.errors import NotFound

DEBIANS = Path("/usr/lib/rabbitmq/bin/rabbitmq-server")


class Server(NamedTuple):
    """`tree`: the root that its packages were unpacked under, with Erlang beside it."""

    script: Path
    tree: Path = Path("/")


def find_server(prefix: Path | None = None) -> Server:
    """The `rabbitmq-server` of this machine, or the one below the virtual environment `prefix` (this one),
    where deploy/dev/install_broker.py unpacks Debian's packages for users who are not root.

    Raises NotFound, which says how to get one.
    """
    # Debian's wrapper on the PATH becomes another user when root calls it; the real script does not.
    if DEBIANS.exists():
        return Server(DEBIANS)
    found = shutil.which("rabbitmq-server")
    if found:
        return Server(Path(found))
    tree = (prefix or Path(sys.prefix)) / "rabbitmq"
    if (tree / "complete").exists():
        return Server(tree / DEBIANS.relative_to("/"), tree)
    raise NotFound(
        "There is no RabbitMQ on this computer.",
        "On Debian and Ubuntu: apt-get install rabbitmq-server. Or take a container: docker run --rm -p "
        "127.0.0.1:5672:5672 rabbitmq:4, then export RUNCTL_BUS_URL=amqp://guest:guest@127.0.0.1/%2F",
    )


def free_ports(count: int) -> list[int]:
    """Ports that are free now, below those that the system hands out to clients."""
    with contextlib.ExitStack() as stack:
        ports: list[int] = []
        while len(ports) < count:
            candidate = random.randrange(20000, 32000)  # noqa: S311 - which one is no secret
            probe = stack.enter_context(socket.socket())
            with contextlib.suppress(OSError):
                probe.bind(("127.0.0.1", candidate))
                ports.append(candidate)
        return ports


def is_free(port: int) -> bool:
    """Whether a server may take this port of 127.0.0.1 now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as servers do
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def speaks_amqp(port: int) -> bool:
    """Whether the port answers AMQP's greeting: `rabbitmq-diagnostics ping` succeeds seconds earlier."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
            connection.sendall(b"AMQP\x00\x00\x09\x01")
            return connection.recv(1) == b"\x01"  # a method frame: Connection.Start
    except OSError:
        return False
