"""A place of one's own at a real RabbitMQ, and the means to do harm there."""

from __future__ import annotations

import datetime
import ipaddress
import secrets
import ssl
import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import ExitStack, closing
from pathlib import Path

import pika
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from runctl_shared.bus.amqp import AmqpBus
from runctl_shared.bus.port import BusUnavailable
from runctl_shared.clock import FakeClock
from runctl_testing.buses import PATIENCE, Inbox, event
from runctl_testing.eventually import eventually
from runctl_testing.set_checker import verdict
from runctl_testing.tcp_proxy import TcpProxy

EXCHANGES = ("events", "commands", "requests", "feed", "dead")
QUEUES = ("events", "heartbeats", "requests", "dead")


class Lab:
    """Names at the broker that nobody else uses, connections that are closed and queues that are removed when
    the block ends, and somebody (`hands`) who meddles behind the bus's back."""

    def __init__(self, broker: str) -> None:
        self.prefix = f"lab{secrets.token_hex(4)}"
        self.url = f"{broker}?prefix={self.prefix}"
        self.agents: set[str] = set()
        self._broker = broker
        self._stack = ExitStack()

    def connect(self, url: str = "", clock: FakeClock | None = None) -> AmqpBus:
        """Not yet connected."""
        return self._stack.enter_context(closing(AmqpBus(url or self.url, clock=clock)))

    def controller(self, *agents: str, url: str = "", clock: FakeClock | None = None) -> AmqpBus:
        """Connected, with everything declared, the queues of `agents` too."""
        bus = self.connect(url, clock)
        assert bus.wait_connected(PATIENCE)
        bus.declare_controller()
        for agent in agents:
            bus.declare_agent(agent)
        self.agents.update(agents)
        return bus

    def wire(self, port: int = 0, tls: ssl.SSLContext | None = None, host: str = "127.0.0.1") -> TcpProxy:
        """A way to the broker that can be cut."""
        return self._stack.enter_context(TcpProxy(self.url, port, tls, host))

    def absent(self) -> TcpProxy:
        """A way to the broker that is not there any more."""
        with TcpProxy(self.url) as gone:
            return gone

    def hands(self, act: Callable[[pika.adapters.blocking_connection.BlockingChannel], object]) -> None:
        with closing(pika.BlockingConnection(pika.URLParameters(self._broker))) as connection:
            act(connection.channel())

    def delete(self, *queues: str) -> None:
        self.hands(lambda channel: [channel.queue_delete(f"{self.prefix}.{queue}") for queue in queues])

    def require(self, *queues: str) -> None:
        """Raises ChannelClosedByBroker unless all of them are there."""
        self.hands(
            lambda channel: [
                channel.queue_declare(f"{self.prefix}.{queue}", passive=True) for queue in queues
            ]
        )

    def stands(self, queue: str) -> bool:
        try:
            self.require(queue)
        except pika.exceptions.ChannelClosedByBroker:
            return False
        return True

    def delete_everything(self) -> None:
        self.delete(*QUEUES, *(f"commands.{agent}" for agent in self.agents))
        self.hands(lambda channel: [channel.exchange_delete(f"{self.prefix}.{name}") for name in EXCHANGES])

    def close(self) -> None:
        self._stack.close()
        self.delete_everything()


class Load:
    """Two agents that publish for as long as the block runs. Each keeps what is not confirmed and sends it
    again with the same id, as an agent's spool does."""

    def __init__(self, *buses: AmqpBus) -> None:
        self.attempted: set[tuple[str, bytes]] = set()
        self.confirmed: set[tuple[str, bytes]] = set()
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._publish, args=(bus, f"agent-{n}-1")) for n, bus in enumerate(buses)
        ]

    def wait_more(self, count: int) -> None:
        """Until `count` more have been confirmed than now."""
        goal = len(self.confirmed) + count
        eventually(lambda: len(self.confirmed) >= goal, PATIENCE, what=f"{goal} confirmed")

    def lost_nothing(self, inbox: Inbox) -> None:
        """Whatever was confirmed arrives in `inbox`, sooner or later, and nothing that was never sent."""

        def all_there() -> bool:
            arrived = [(one.sender, one.body) for one in inbox.wait(0)]
            found = verdict(self.attempted, self.confirmed, arrived)
            assert not found.unexpected, found.unexpected
            return not found.lost

        eventually(
            all_there, PATIENCE, what=f"all of {len(self.confirmed)} confirmed messages to be processed"
        )

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(PATIENCE)

    def _publish(self, bus: AmqpBus, agent: str) -> None:
        spool: list[bytes] = []
        count = 0
        while not self._stop.is_set():
            while len(spool) < 20:
                spool.append(b"%d" % count)
                count += 1
            self.attempted |= {(agent, body) for body in spool}
            sent = [bus.publish(event(agent), body, message_id=f"{agent}-{body!r}") for body in spool]
            kept = []
            for body, future in zip(spool, sent, strict=True):
                if future.exception(PATIENCE) is None:
                    self.confirmed.add((agent, body))
                else:
                    assert isinstance(future.exception(), BusUnavailable)
                    kept.append(body)
            spool = kept
            # As fast as it goes would only fill the queue with more than can be read again in time.
            self._stop.wait(0.05)


def pass_time(clock: FakeClock, seconds: float, future: Future[None]) -> None:
    """Let `seconds` pass, again and again, until `future` is done: they count from when it was sent."""

    def passed() -> bool:
        clock.advance(seconds)
        return future.done()

    eventually(passed, PATIENCE)


def self_signed(path: Path) -> ssl.SSLContext:
    """A server that calls itself 127.0.0.1, and only its own word for it, which lies at `path`."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "stranger")])
    address = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(datetime.datetime(2020, 1, 1))
        .not_valid_after(datetime.datetime(2099, 1, 1))
        .add_extension(address, critical=False)
        .sign(key, hashes.SHA256())
    )
    path.write_bytes(certificate.public_bytes(Encoding.PEM))
    private = path.with_suffix(".key")
    private.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path, private)
    return context
