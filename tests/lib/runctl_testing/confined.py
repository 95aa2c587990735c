"""A RabbitMQ as deploy/rabbitmq describes it, and agents at it that mean harm."""

from __future__ import annotations

import contextlib
import json
import secrets
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import pika
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from pika.adapters.blocking_connection import BlockingChannel

from runctl_controller.access.files import login_file, read_login
from runctl_controller.access.management import Management
from runctl_controller.access.open import open_access
from runctl_controller.access.port import Access, Agents
from runctl_controller.service.config import ControllerConfig
from runctl_shared.bus.amqp import AmqpBus
from runctl_shared.bus.login import Login, with_login, without_login
from runctl_shared.clock import SystemClock
from runctl_testing.broker import free_ports, new_node
from runctl_testing.controller_process import House, Ways

SETUP = Path(__file__).resolve().parents[3] / "deploy" / "rabbitmq"
PLUGINS = ("rabbitmq_auth_backend_oauth2", "rabbitmq_management")
PATIENCE = 60.0
CONFINED = (Agents.TOKEN, Agents.USER)


class ConfinedBroker:
    """Both ways of letting agents in are set up. The administrator is guest."""

    def __init__(self, folder: Path) -> None:
        """Raises Unavailable."""
        self._port = free_ports(1)[0]
        folder.mkdir(parents=True, exist_ok=True)
        self.key, public = folder / "agents.pem", folder / "agents.pub.pem"
        self.public = make_keys(self.key, public)
        settings = "\n".join((SETUP / f"{name}.conf").read_text() for name in ("rabbitmq", "tokens", "users"))
        settings = settings.replace("/etc/rabbitmq/runctl-agents.pub.pem", str(public))
        settings = settings.replace("management.tcp.port = 15672", f"management.tcp.port = {self._port}")
        self.node = new_node(folder / "node", PLUGINS, settings)
        # A channel asks once a minute whether what was allowed still is: too long for a test.
        (self.node.folder / "advanced.config").write_text("[{rabbit, [{channel_tick_interval, 500}]}].\n")
        self.management = f"http://guest:guest@127.0.0.1:{self._port}"

    @property
    def api(self) -> Management:
        return Management(self.management)

    def start(self) -> None:
        self.node.start()
        for name in ("runctl-controller", "runctl-client"):
            self.api.put(f"users/{name}", {"password": name, "tags": ""})

    def close(self) -> None:
        self.node.close()

    @contextmanager
    def estate(self, state: Path) -> Iterator[Estate]:
        """A virtual host of one's own, with the rights of deploy/rabbitmq/definitions.json; it is gone at
        the end, with all that stands in it."""
        vhost = f"v{secrets.token_hex(4)}"
        self.api.put(f"vhosts/{vhost}", {})
        for one in json.loads((SETUP / "definitions.json").read_text())["permissions"]:
            rights = {name: one[name] for name in ("configure", "write", "read")}
            self.api.put(f"permissions/{vhost}/{one['user']}", rights)
        made = Estate(self, vhost, state)
        try:
            with closing(made):
                yield made
        finally:
            self.api.delete(f"vhosts/{vhost}")


class Estate:
    """What is ours at the broker, who may enter, and what stands there."""

    def __init__(self, broker: ConfinedBroker, vhost: str, state: Path) -> None:
        self.broker, self.vhost, self.state = broker, vhost, state
        self.installation = f"inst-{vhost}"
        self.url = self.url_of("runctl-controller")
        self.client_url = self.url_of("runctl-client")
        self.admin_url = f"amqp://guest:guest@127.0.0.1:{broker.node.port}/{vhost}"
        broker.api.put(f"permissions/{vhost}/guest", {"configure": ".*", "write": ".*", "read": ".*"})
        self._stack = ExitStack()

    def url_of(self, user: str) -> str:
        return f"amqp://{user}:{user}@127.0.0.1:{self.broker.node.port}/{self.vhost}"

    def config(self, agents: Agents, **changes: Any) -> ControllerConfig:
        fields: dict[str, Any] = {
            "state_dir": self.state,
            "bus": self.url,
            "agents": agents,
            "token_key": self.broker.key,
            "management": self.broker.management,
        }
        return ControllerConfig(**(fields | changes))

    def house(self, agents: Agents, state: Path) -> House:
        """A controller with these logins for its agents, and a client with no more rights than it needs."""
        made = House(
            state,
            self.url,
            agents=agents.value,
            token_key=str(self.broker.key),
            management=self.broker.management,
        )
        made.ways = Ways(client=self.client_url)
        return made

    def access(self, agents: Agents, installation: str = "") -> Access:
        return open_access(self.config(agents), installation or self.installation, SystemClock())

    def controller(self, *agents: str) -> AmqpBus:
        """A connection of the controller's user that has declared everything."""
        bus = self.bus(self.url)
        bus.declare_controller()
        for agent in agents:
            bus.declare_agent(agent)
        return bus

    def bus(self, url: str) -> AmqpBus:
        bus = self._stack.enter_context(closing(AmqpBus(url, clock=SystemClock())))
        assert bus.wait_connected(PATIENCE)
        return bus

    def login(self, agent: str) -> Login:
        """The login that `agent` was given."""
        return read_login(login_file(self.state, agent))

    def agent(self, agent: str) -> AmqpBus:
        """The connection of an agent that behaves."""
        return self.bus(with_login(without_login(self.url), self.login(agent)))

    def raw(self, login: Login) -> pika.BlockingConnection:
        """The connection of one that does not. Raises what pika raises when it is not let in."""
        parameters = pika.ConnectionParameters(
            "127.0.0.1",
            self.broker.node.port,
            self.vhost,
            pika.PlainCredentials(login.user, login.password),
            blocked_connection_timeout=PATIENCE,
            heartbeat=0,  # nobody serves it while the test does something else
        )
        connection = pika.BlockingConnection(parameters)
        self._stack.callback(lambda: _close(connection))
        return connection

    def hands(self, act: Callable[[BlockingChannel], Any]) -> Any:
        """The administrator does something."""
        with closing(pika.BlockingConnection(pika.URLParameters(self.admin_url))) as connection:
            return act(connection.channel())

    def queues(self) -> set[str]:
        found = self.broker.api.get(f"queues/{self.vhost}?columns=name&disable_stats=true")
        return {one["name"] for one in found}

    def users_of(self, run: str) -> set[str]:
        """The users that were made for the agents of `run`, whatever they are called."""
        found = self.broker.api.get("users?columns=name")
        return {one["name"] for one in found if run.removeprefix("run-") in one["name"]}

    def users(self) -> set[str]:
        """The users of our own agents; by what follows the installation's name."""
        found = self.broker.api.get("users?columns=name")
        ours = f"runctl.{self.installation}."
        return {one["name"].removeprefix(ours) for one in found if one["name"].startswith(ours)}

    def connections(self) -> list[dict[str, Any]]:
        return [one for one in self.broker.api.get("connections") if one.get("vhost") == self.vhost]

    def close(self) -> None:
        self._stack.close()
        for agent in self.users():
            self.broker.api.delete(f"users/runctl.{self.installation}.{agent}")


def make_keys(private: Path, public: Path) -> bytes:
    """The public key."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    private.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    private.chmod(0o600)
    shown = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    public.write_bytes(shown)
    return shown


def _close(connection: pika.BlockingConnection) -> None:
    with contextlib.suppress(Exception):  # the broker may have done it for us
        connection.close()
