"""What goes wrong between us and RabbitMQ, done to a real one.

The checker is Jepsen's: whatever was confirmed must have been processed; doubles are allowed, losses are not.
Each test's docstring names the bug that it would catch.
"""

from __future__ import annotations

import datetime
import ipaddress
import logging
import secrets
import ssl
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing
from pathlib import Path
from types import TracebackType

import pika
import psutil
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from runctl_shared.bus.amqp import AmqpBus
from runctl_shared.bus.amqp.confirms import CONFIRM_DEADLINE, HOLD
from runctl_shared.bus.port import BusError, BusRefused, BusUnavailable, Delivery, RequestTimedOut
from runctl_shared.clock import FakeClock
from runctl_testing.broker import Broker
from runctl_testing.buses import EVENTS, FEED, PATIENCE, REQUESTS, Inbox, command, event, send
from runctl_testing.eventually import eventually
from runctl_testing.tcp_proxy import TcpProxy

pytestmark = pytest.mark.amqp


@pytest.fixture
def place(amqp_url: str) -> str:
    """The shared broker, with names of this test's own."""
    return f"{amqp_url}?prefix=f{secrets.token_hex(4)}"


@pytest.fixture
def connect() -> Iterator[Callable[..., AmqpBus]]:
    """AmqpBus(…), closed at the end of the test."""
    with ExitStack() as stack:

        def open_one(url: str, clock: FakeClock | None = None) -> AmqpBus:
            return stack.enter_context(closing(AmqpBus(url, clock=clock)))

        yield open_one


@pytest.fixture
def wire(place: str) -> Iterator[TcpProxy]:
    """A wire to the shared broker that can be cut."""
    with TcpProxy(place) as proxy:
        yield proxy


class Load:
    """Two agents that publish for as long as the block runs. Each keeps what is not confirmed and sends it
    again with the same id, as an agent's spool does."""

    def __init__(self, *buses: AmqpBus) -> None:
        self.confirmed: set[tuple[str, bytes]] = set()
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._publish, args=(bus, f"agent-{n}-1")) for n, bus in enumerate(buses)
        ]

    def wait_more(self, count: int) -> None:
        """Until `count` more have been confirmed than now."""
        goal = len(self.confirmed) + count
        eventually(lambda: len(self.confirmed) >= goal, PATIENCE, what=f"{goal} confirmed")

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
            sent = [bus.publish(event(agent), body, message_id=f"{agent}-{body!r}") for body in spool]
            kept = []
            for body, future in zip(spool, sent, strict=True):
                if future.exception(PATIENCE) is None:
                    self.confirmed.add((agent, body))
                else:
                    assert isinstance(future.exception(), BusUnavailable)
                    kept.append(body)
            spool = kept


def processed(inbox: Inbox) -> set[tuple[str, bytes]]:
    return {(delivery.sender, delivery.body) for delivery in inbox.wait(0)}


def nothing_confirmed_is_lost(load: Load, inbox: Inbox) -> None:
    eventually(
        lambda: not load.confirmed - processed(inbox),
        PATIENCE,
        what=f"all of {len(load.confirmed)} confirmed messages to be processed",
    )


def pass_time(clock: FakeClock, seconds: float, future: Future[None]) -> None:
    """Let `seconds` pass, again and again, until `future` is done: they count from when it was sent."""

    def passed() -> bool:
        clock.advance(seconds)
        return future.done()

    eventually(passed, PATIENCE)


class Hands:
    """Somebody who meddles with the broker behind our back."""

    def __init__(self, url: str) -> None:
        base, _, self.prefix = url.partition("?prefix=")
        self._connection = pika.BlockingConnection(pika.URLParameters(base))
        self.channel = self._connection.channel()

    def delete(self, *queues: str) -> None:
        for queue in queues:
            self.channel.queue_delete(f"{self.prefix}.{queue}")

    def __enter__(self) -> Hands:
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self._connection.close()


# ---------------------------------------------------------------- the broker goes and comes back


@pytest.mark.timeout(300)
@pytest.mark.parametrize("end", ["stop", "kill"])
def test_a_broker_that_restarts_under_load_loses_nothing(
    private_broker: Broker, connect: Callable[..., AmqpBus], end: str
) -> None:
    """A planned restart (320) taken for the end; confirms believed that were never given; consumers that are
    connected again but consume nothing."""
    controller = connect(private_broker.url)
    assert controller.wait_connected(PATIENCE)
    controller.declare_controller()
    inbox = Inbox()
    controller.subscribe(EVENTS, inbox)
    with Load(connect(private_broker.url), connect(private_broker.url)) as load:
        load.wait_more(500)
        private_broker.stop() if end == "stop" else private_broker.kill()
        private_broker.start()
        load.wait_more(500)
    nothing_confirmed_is_lost(load, inbox)


def test_a_broker_that_comes_late_is_found(place: str, connect: Callable[..., AmqpBus]) -> None:
    """An agent that gives up because it booted before its broker."""
    with TcpProxy(place) as nobody:
        absent = nobody.url
    bus = connect(absent)
    inbox = Inbox()
    bus.subscribe(EVENTS, inbox)  # returns: the link is down
    with pytest.raises(BusUnavailable, match="cannot be reached"):
        bus.declare_controller()
    with TcpProxy(place, nobody.port):
        assert bus.wait_connected(PATIENCE)
        send(bus, event("agent-a-1"), b"at last")
        assert inbox.bodies(1) == [b"at last"]
        bus.close()


# ---------------------------------------------------------------- the wire


@pytest.mark.parametrize("fault", ["cut", "reset"])
def test_a_wire_that_is_cut_again_and_again_loses_nothing(
    place: str, wire: TcpProxy, connect: Callable[..., AmqpBus], fault: str
) -> None:
    """Unconfirmed messages counted as sent, or acknowledgements that hit the next connection's deliveries."""
    controller = connect(wire.url)
    assert controller.wait_connected(PATIENCE)
    controller.declare_controller()
    inbox = Inbox()
    controller.subscribe(EVENTS, inbox)
    with Load(connect(wire.url), connect(wire.url)) as load:
        for _ in range(4):
            load.wait_more(200)
            wire.cut() if fault == "cut" else wire.reset()
        load.wait_more(200)
    nothing_confirmed_is_lost(load, inbox)


def test_what_is_under_way_when_the_wire_is_cut_fails(
    wire: TcpProxy, connect: Callable[..., AmqpBus]
) -> None:
    """A future that never ends, or ends well: the caller would delete what nobody has."""
    bus = connect(wire.url)
    assert bus.wait_connected(PATIENCE)
    bus.declare_controller()
    wire.freeze()
    under_way = bus.publish(event("agent-a-1"), b"?", message_id="m-1")
    written = threading.Event()
    bus.post(written.set)  # the bus works in order
    assert written.wait(PATIENCE)
    wire.reset()
    with pytest.raises(BusUnavailable, match="lost"):
        under_way.result(PATIENCE)
    held = bus.publish(event("agent-a-1"), b"!", message_id="m-2")
    wire.thaw()
    held.result(PATIENCE)


def test_a_silent_wire_is_noticed_and_replaced(wire: TcpProxy, connect: Callable[..., AmqpBus]) -> None:
    """A half-open connection that is waited on for ever."""
    bus = connect(f"{wire.url}&heartbeat=1")
    assert bus.wait_connected(PATIENCE)
    bus.declare_controller()
    wire.freeze()
    with pytest.raises(BusUnavailable):
        bus.publish(event("agent-a-1"), b"?", message_id="m-1").result(PATIENCE)
    wire.thaw()
    assert bus.wait_connected(PATIENCE)
    send(bus, event("agent-a-1"), b"!")


def test_a_broker_that_does_not_confirm_has_a_deadline(
    wire: TcpProxy, connect: Callable[..., AmqpBus]
) -> None:
    """A live connection whose broker is short of memory: without a deadline of our own, publishing hangs."""
    clock = FakeClock()
    bus = connect(wire.url, clock=clock)
    assert bus.wait_connected(PATIENCE)
    bus.declare_controller()
    wire.freeze()
    under_way = bus.publish(event("agent-a-1"), b"?", message_id="m-1")
    pass_time(clock, CONFIRM_DEADLINE, under_way)
    with pytest.raises(BusUnavailable, match="not confirm"):
        under_way.result(0)
    wire.thaw()
    send(bus, event("agent-a-1"), b"!")


def test_publishing_while_the_link_is_down_fails_after_a_short_wait(
    place: str, connect: Callable[..., AmqpBus]
) -> None:
    """A second outbox that grows in memory for as long as the broker is away."""
    with TcpProxy(place) as nobody:
        absent = nobody.url
    clock = FakeClock()
    bus = connect(absent, clock=clock)
    held = bus.publish(event("agent-a-1"), b"?", message_id="m-1")
    assert bus.publish(FEED, b"?", message_id="m-2").done()
    pass_time(clock, HOLD, held)
    with pytest.raises(BusUnavailable):
        held.result(0)


def test_settling_what_an_earlier_connection_brought_does_nothing(
    wire: TcpProxy, connect: Callable[..., AmqpBus]
) -> None:
    """Delivery tags start again at 1: an old acknowledgement would settle a message nobody has handled."""
    bus = connect(wire.url)
    assert bus.wait_connected(PATIENCE)
    bus.declare_controller()
    inbox = Inbox(hold=True)
    subscription = bus.subscribe(EVENTS, inbox)
    send(bus, event("agent-a-1"), b"0")
    (old,) = inbox.wait(1)
    wire.cut()
    inbox.wait(2)  # again, on the new connection, with the same tag
    old.ack()
    old.dead_letter("old")
    subscription.close()
    again = Inbox()
    bus.subscribe(EVENTS, again)
    assert again.bodies(1) == [b"0"]
    assert bus.dead_letters() == []


def test_a_question_whose_link_is_lost_is_answered_at_once(
    place: str, wire: TcpProxy, connect: Callable[..., AmqpBus]
) -> None:
    """A command line that sits out its whole timeout although nobody can answer any more."""
    controller, client = connect(place), connect(wire.url)
    assert controller.wait_connected(PATIENCE)
    controller.declare_controller()
    inbox = Inbox(hold=True)
    controller.subscribe(REQUESTS, inbox)
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(client.request, b"?", timeout=3600)
        inbox.wait(1)
        wire.cut()
        with pytest.raises(BusUnavailable, match="before the controller's answer"):
            asked.result(PATIENCE)
    inbox.wait(1)[0].reply(b"too late")  # harms nobody
    inbox.wait(1)[0].ack()
    with pytest.raises(RequestTimedOut):
        client.request(b"??", timeout=2)


def test_closing_on_a_silent_wire_leaves_no_thread_and_no_socket(
    wire: TcpProxy, connect: Callable[..., AmqpBus]
) -> None:
    """A farewell that waits for ever for its answer."""
    before = set(threading.enumerate())
    bus = connect(wire.url)
    assert bus.wait_connected(PATIENCE)
    bus.declare_controller()
    wire.freeze()
    unconfirmed = bus.publish(event("agent-a-1"), b"?", message_id="m-1")
    bus.close(timeout=0.5)
    with pytest.raises(BusUnavailable):
        unconfirmed.result(0)
    assert set(threading.enumerate()) <= before
    assert [one for one in psutil.Process().net_connections("tcp") if wire.port in one.raddr] == []


# ---------------------------------------------------------------- the broker refuses


@pytest.mark.parametrize(
    ("old", "new", "what", "mend"),
    [
        ("guest:guest@", "guest:hunter2@", "refuses the user 'guest'", "password"),
        ("/%2F", "/nowhere", "no virtual host 'nowhere'", "rabbitmqctl add_vhost"),
    ],
)
def test_a_refusal_says_what_to_mend_and_never_the_password(
    amqp_url: str,
    connect: Callable[..., AmqpBus],
    caplog: pytest.LogCaptureFixture,
    old: str,
    new: str,
    what: str,
    mend: str,
) -> None:
    """ "Cannot connect", tried for ever, while the person who could mend it looks on."""
    caplog.set_level(logging.DEBUG)
    url = amqp_url.replace(old, new)
    assert url != amqp_url, "this test knows only the tests' own broker"
    bus = connect(url)
    uses: list[Callable[[], object]] = [
        lambda: bus.wait_connected(PATIENCE),
        lambda: bus.publish(event("agent-a-1"), b"", message_id="m").result(PATIENCE),
        lambda: bus.request(b"", timeout=PATIENCE),
        bus.declare_controller,
        bus.dead_letters,
    ]
    for use in uses:
        with pytest.raises(BusRefused, match=what) as caught:
            use()
        assert mend in caught.value.mend
        assert "hunter2" not in str(caught.value)
    bus.subscribe(EVENTS, Inbox())  # returns
    assert "hunter2" not in caplog.text
    assert "Traceback" not in caplog.text


def test_a_stranger_in_the_brokers_place_is_not_trusted(
    place: str, connect: Callable[..., AmqpBus], tmp_path: Path
) -> None:
    """TLS that does not verify: whoever sits in between reads everything and sends any command."""
    with TcpProxy(place, tls=self_signed(tmp_path / "ca.pem")) as stranger:
        url = stranger.url.replace("amqp://", "amqps://")
        with pytest.raises(BusRefused, match=r"certificate that is not trusted.*\?cafile="):
            connect(url).wait_connected(PATIENCE)
        trusting = connect(f"{url}&cafile={tmp_path}/ca.pem")
        assert trusting.wait_connected(PATIENCE)
        trusting.declare_controller()
        send(trusting, event("agent-a-1"), bytes(1 << 20))
        with pytest.raises(BusRefused, match="not valid for 'localhost'"):
            connect(f"{url}&cafile={tmp_path}/ca.pem".replace("127.0.0.1", "localhost")).wait_connected(
                PATIENCE
            )
        trusting.close()


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


def test_a_queue_with_other_settings_is_named(place: str, connect: Callable[..., AmqpBus]) -> None:
    """A controller that reconnects in a circle because of what an older version left at the broker."""
    bus = connect(place)
    assert bus.wait_connected(PATIENCE)
    with Hands(place) as hands:
        hands.channel.queue_declare(f"{hands.prefix}.requests", durable=True)
        with pytest.raises(BusRefused, match=r"requests'.*Delete it"):
            bus.declare_controller()
        assert bus.wait_connected(PATIENCE)
        hands.delete("requests")
        bus.declare_controller()


def test_before_the_controller_nothing_is_lost_silently(place: str, connect: Callable[..., AmqpBus]) -> None:
    """An agent that is first: its events vanish, or its link breaks and stays broken."""
    bus = connect(place)
    with pytest.raises(BusUnavailable, match="not been set up"):
        bus.publish(event("agent-a-1"), b"early", message_id="m-1").result(PATIENCE)
    with pytest.raises(BusUnavailable, match="not been set up"):
        bus.request(b"?", timeout=PATIENCE)
    with pytest.raises(BusUnavailable, match="not been set up"):
        bus.dead_letters()
    bus.declare_controller()
    inbox = Inbox()
    bus.subscribe(EVENTS, inbox)
    send(bus, event("agent-a-1"), b"again")
    assert inbox.bodies(1) == [b"again"]


# ---------------------------------------------------------------- what stood at the broker is gone


def test_a_deleted_queue_cancels_and_its_return_resumes(
    place: str, connect: Callable[..., AmqpBus], caplog: pytest.LogCaptureFixture
) -> None:
    """A consumer that is told of its end and does nothing: connected, and deaf."""
    controller, agent = connect(place), connect(place)
    assert controller.wait_connected(PATIENCE)
    controller.declare_controller()
    controller.declare_agent("agent-a-1")
    commands, feed = Inbox(), Inbox()
    agent.subscribe(command("agent-a-1"), commands)
    agent.subscribe(FEED, feed)
    controller.remove_agent("agent-a-1")
    eventually(lambda: "bus.cancelled stream=commands agent=agent-a-1" in caplog.text, PATIENCE)
    controller.declare_agent("agent-a-1")
    send(controller, command("agent-a-1"), b"save")
    assert commands.bodies(1) == [b"save"]
    controller.publish(FEED, b"news", message_id="m-1")  # its neighbour has not noticed
    assert feed.bodies(1) == [b"news"]


def test_events_that_no_queue_takes_are_not_confirmed(place: str, connect: Callable[..., AmqpBus]) -> None:
    """RabbitMQ confirms what it throws away: without a queue, every event would be confirmed and lost."""
    bus = connect(place)
    assert bus.wait_connected(PATIENCE)
    bus.declare_controller()
    with Hands(place) as hands:
        hands.delete("events")
    with pytest.raises(BusUnavailable, match="Nothing takes messages"):
        bus.publish(event("agent-a-1"), b"?", message_id="m-1").result(PATIENCE)


def test_everything_is_built_again_on_reconnect(
    place: str, wire: TcpProxy, connect: Callable[..., AmqpBus]
) -> None:
    """A broker replaced by an empty one: an agent's queue left out, or an ended agent's made again."""
    controller = connect(wire.url)
    assert controller.wait_connected(PATIENCE)
    controller.declare_controller()
    for agent in ("agent-a-1", "agent-b-1", "agent-c-1"):
        controller.declare_agent(agent)
    controller.remove_agent("agent-b-1")
    events = Inbox()
    controller.subscribe(EVENTS, events)
    with Hands(place) as hands:
        names = ("events", "heartbeats", "requests", "dead", "commands.agent-a-1", "commands.agent-c-1")
        hands.delete(*names)
        for exchange in ("events", "commands", "requests", "feed", "dead"):
            hands.channel.exchange_delete(f"{hands.prefix}.{exchange}")
        wire.cut()
        eventually(lambda: works(controller, "agent-a-1"), PATIENCE)
        for name in names:
            hands.channel.queue_declare(f"{hands.prefix}.{name}", passive=True)
    send(controller, command("agent-c-1"), b"save")
    assert not works(controller, "agent-b-1")
    send(controller, event("agent-a-1"), b"saved")
    assert events.bodies(1) == [b"saved"]


def works(controller: AmqpBus, agent: str) -> bool:
    try:
        controller.publish(command(agent), b"?", message_id="m").result(PATIENCE)
    except BusError:
        return False
    return True


# ---------------------------------------------------------------- and ourselves


def test_a_handler_that_raises_costs_its_message_and_not_the_link(
    place: str, connect: Callable[..., AmqpBus]
) -> None:
    """One bad message ends the thread that everything depends on."""
    bus = connect(place)
    assert bus.wait_connected(PATIENCE)
    bus.declare_controller()
    inbox = Inbox()

    def handle(delivery: Delivery) -> None:
        if delivery.body == b"bad":
            raise KeyError("bad")
        inbox(delivery)

    bus.subscribe(EVENTS, handle)
    send(bus, event("agent-a-1"), b"bad", b"good")
    assert inbox.bodies(1) == [b"good"]
    (dead,) = eventually(bus.dead_letters, PATIENCE)
    assert (dead.body, dead.reason) == (b"bad", "delivery-limit")


def test_a_handler_that_would_wait_for_its_own_thread_is_told(
    place: str, connect: Callable[..., AmqpBus]
) -> None:
    """A deadlock: the thread that must bring the answer waits for it."""
    bus = connect(place)
    assert bus.wait_connected(PATIENCE)
    bus.declare_controller()
    told: list[BusError] = []
    done = threading.Event()

    def handle(delivery: Delivery) -> None:
        delivery.ack()
        uses: list[Callable[[], object]] = [
            lambda: bus.request(b"", timeout=1),
            bus.declare_controller,
            bus.dead_letters,
        ]
        for use in uses:
            try:
                use()
            except BusError as error:
                told.append(error)
        bus.subscribe(FEED, Inbox()).close()  # these do not wait
        done.set()

    bus.subscribe(EVENTS, handle)
    send(bus, event("agent-a-1"), b"")
    assert done.wait(PATIENCE)
    assert ["must not wait" in error.what for error in told] == [True] * 3
