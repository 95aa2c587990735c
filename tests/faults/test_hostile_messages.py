"""An agent that means harm, with what the broker lets it publish: anything, under its own keys.

A real controller (loop, core, bus) over a real RabbitMQ. The hostile agent serves RUN, an honest one
OTHER_RUN. After each attack the honest one is heard, the link to the broker has not been lost once, and what
the controller holds is what it held.
"""

from __future__ import annotations

import contextlib
import datetime
import logging
import math
import struct
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import msgpack
import msgspec
import pika
import psutil
import pytest
from pika.adapters.blocking_connection import BlockingChannel
from pika.exceptions import AMQPConnectionError, AMQPError, ChannelClosedByBroker

from runctl_controller.access.port import Agents
from runctl_controller.core.model import Attempt, Record, Run
from runctl_shared.bus.port import MAX_BODY, Address, Stream
from runctl_shared.ids import agent_id
from runctl_shared.messages import commands, events, requests
from runctl_shared.messages.base import Body
from runctl_shared.messages.codec import decode, encode
from runctl_shared.messages.replies import OutputRelayed
from runctl_testing.buses import Inbox
from runctl_testing.confined import CONFINED, ConfinedBroker, Estate
from runctl_testing.eventually import eventually
from runctl_testing.office import RUN, Office

OTHER_RUN = "run-other123"
MINE, OTHER = agent_id(RUN, 1), agent_id(OTHER_RUN, 1)
EVENT, BEAT = f"agent.{MINE}.ev.Staged", f"agent.{MINE}.hb"
REGISTERED = events.Registered(protocol=1, version="1", capabilities=())


class Known(NamedTuple):
    """What an attack could change. Not when somebody was last looked at: a busy machine changes that."""

    run: Run
    attempts: list[Attempt]
    machines: list[tuple[str, str]]

    @classmethod
    def of(cls, record: Record) -> Known:
        heard = [
            msgspec.structs.replace(a, unheard_since=None, commands=0, lag=None, told_at=0.0)
            for a in record.attempts
        ]
        return cls(record.run, heard, [(m.id, m.state.value) for m in record.machines])


class Siege:
    """An office with two runs, and a way for the agent of the first to do its worst."""

    def __init__(self, office: Office, estate: Estate, way: Agents) -> None:
        self.office, self.estate, self.way = office, estate, way
        self._honest = 0
        for run, name in ((RUN, "one"), (OTHER_RUN, "two")):
            office.submitted(office.spec(run, name))
        eventually(lambda: len(office.provider.burning()) == 2)
        self.honest = estate.agent(OTHER)
        self.login = estate.login(MINE)  # kept: it is removed here with the machine
        self.reconnect()

    def reconnect(self) -> BlockingChannel:
        self.connection = self.estate.raw(self.login)
        self.channel = self.connection.channel()
        self.channel.confirm_delivery()
        return self.channel

    def send(
        self, body: bytes, key: str | bytes = EVENT, properties: pika.BasicProperties | None = None
    ) -> bool:
        """Whether the broker took it. It may end our link for it."""
        try:
            self.channel.basic_publish("runctl.events", key, body, properties)
        except AMQPError:
            self.reconnect()
            return False
        return True

    def say(self, body: Body, sequence: int, **envelope: Any) -> None:
        """An event of the hostile agent, well formed."""
        fields = {"id": f"x-{sequence}", "attempt": 1, "agent": MINE, "run": RUN} | envelope
        assert self.send(encode(body, sequence=sequence, **fields))

    def still_heard(self) -> Known:
        """The honest agent's next event is handled; what is known of the hostile one's run then."""
        self._honest += 1
        data = encode(events.Staged(), id=f"h-{self._honest}", sequence=self._honest, attempt=1, agent=OTHER)
        to = Address(Stream.EVENTS, OTHER, "Staged")
        self.honest.publish(to, data, message_id=f"h-{self._honest}").result(60)
        eventually(lambda: self.through(OTHER_RUN) == self._honest, 60, what="the honest agent to be heard")
        return Known.of(self.office.record(RUN))

    def through(self, run: str) -> int:
        """Up to which event its agent is heard."""
        return self.office.record(run).attempts[0].events_through

    def heard_through(self, sequence: int) -> None:
        """Wait until the hostile agent's event of that number is taken into account."""
        eventually(lambda: self.through(RUN) == sequence, 60, what=f"event {sequence} to be heard")

    def reasons(self) -> list[str]:
        return [letter.reason for letter in self.office.bus.dead_letters(1000)]


@pytest.fixture(scope="module", params=CONFINED, ids=[way.value for way in CONFINED])
def siege(
    request: pytest.FixtureRequest, confined_broker: ConfinedBroker, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Siege]:
    with confined_broker.estate(tmp_path_factory.mktemp("siege")) as estate:
        # Nobody in here has a heart that beats, and nothing but an attack shall change what is known.
        access = estate.access(Agents(request.param))
        office = Office(estate.state, estate.url, access, patience=1000.0)
        try:
            yield Siege(office, estate, Agents(request.param))
        finally:
            office.close()


@pytest.fixture(autouse=True)
def unshaken(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Whatever is sent, no link is lost and nothing breaks."""
    caplog.set_level(logging.INFO)
    yield
    told = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    shaken = ("bus.down", "bus.broke", "bus.task_broke", "bus.handler_broke", "input.failed", "outbox.failed")
    assert [line for line in told if line.startswith(shaken)] == []


# -- what lies around a message -----------------------------------------------------------------


class Raw(pika.BasicProperties):  # type: ignore[misc]  # pika has no types
    """Properties written by hand: flags and the bytes that follow them."""

    def __init__(self, flags: int, content: bytes) -> None:
        super().__init__()
        self._raw = struct.pack(">H", flags) + content

    def encode(self) -> list[bytes]:
        return [self._raw]


HEADERS, MESSAGE_ID, REPLY_TO, TYPE, TIMESTAMP = 1 << 13, 1 << 7, 1 << 9, 1 << 5, 1 << 6


def table(content: bytes, key: bytes = b"a") -> bytes:
    entries = bytes([len(key)]) + key + content
    return struct.pack(">I", len(entries)) + entries


def nested(kind: bytes, depth: int) -> bytes:
    """Lists in lists, or tables in tables. (Of many more RabbitMQ 3.10 itself takes seconds for each.)"""
    key = b"\x01a" if kind == b"F" else b""
    layer = len(key) + 1 + 4
    return (
        b"".join(
            kind + struct.pack(">I", layer * below + len(key) + 1) + key for below in reversed(range(depth))
        )
        + b"V"
    )


def short(text: bytes) -> bytes:
    return bytes([len(text)]) + text


POISONS = {
    "a time beyond the calendar": Raw(HEADERS, table(b"T" + b"\x7f" * 8)),
    "a time before all time": Raw(HEADERS, table(b"T" + b"\xff" * 8)),
    "a float that is no number": Raw(HEADERS, table(b"f" + struct.pack(">f", math.nan))),
    "a float without end": Raw(HEADERS, table(b"f" + struct.pack(">f", math.inf))),
    "a double without end": Raw(HEADERS, table(b"d" + struct.pack(">d", -math.inf))),
    "a field of no known type": Raw(HEADERS, table(b"Z1234")),
    "a decimal of 255 places": Raw(HEADERS, table(b"D\xff\x7f\xff\xff\xff")),
    "lists in lists": Raw(HEADERS, table(nested(b"A", 3000))),
    "tables in tables": Raw(HEADERS, table(nested(b"F", 3000))),
    "a table longer than its frame": Raw(HEADERS, struct.pack(">I", 2**31) + b"\x01aV"),
    "a key that is not text": Raw(HEADERS, table(b"V", key=b"\xff\xfe")),
    "an id that is not text": Raw(MESSAGE_ID, short(b"\xff\xfe\x00")),
    "an id that moves the cursor": Raw(MESSAGE_ID, short(b"\x1b[2J\n\r")),
    "a type that is not text": Raw(TYPE, short(b"\xff")),
    "a type that is a path": Raw(TYPE, short(b"../../etc")),
    "an answer's address that is not text": Raw(REPLY_TO, short(b"\xff")),
    "the end of time": Raw(TIMESTAMP, b"\xff" * 8),
    "a forged mark of the broker": pika.BasicProperties(headers={"x-death": [5, {"queue": 7}]}),
    "a mark of the broker that is no list": pika.BasicProperties(headers={"x-death": "x", "x-delay": 5}),
    "a mark of ours": pika.BasicProperties(headers={"x-runctl-reason": "ok", "x-runctl-source": "feed"}),
    "a time of its own": pika.BasicProperties(headers={"at": datetime.datetime.max}),
    "an end that is no number": pika.BasicProperties(expiration="soon"),
    "an end in the past": pika.BasicProperties(expiration="-1"),
    "copies to nobody": pika.BasicProperties(headers={"CC": 5, "BCC": [{}]}),
    "a route": pika.BasicProperties(headers={"CC": ["#", "*.*", "agent.*.ev.#"]}),
    "a mode that is none": pika.BasicProperties(delivery_mode=255, priority=255),
    "an answer to be sent to the commands": pika.BasicProperties(reply_to=f"runctl.commands.{OTHER}"),
}


@pytest.mark.parametrize("properties", POISONS.values(), ids=POISONS)
def test_properties_that_are_poison(siege: Siege, properties: pika.BasicProperties) -> None:
    """A message at whose mere sight the controller's link breaks: handed out again, it breaks it for ever."""
    before = siege.still_heard()
    for key in (EVENT, BEAT):
        siege.send(b"harm", key, properties)
    assert siege.still_heard() == before
    assert isinstance(siege.reasons(), list)


@pytest.mark.parametrize("kind", [b"\xff\xfe", b"a\x1b[2Jb\n", b"x" * 200, b"a.b.c", b"..", b"#"])
def test_keys_that_are_poison(siege: Siege, kind: bytes) -> None:
    """A routing key that is not text, or that means something to whoever prints or splits it."""
    before = siege.still_heard()
    for start in ("ev.", ""):
        siege.send(b"harm", f"agent.{MINE}.{start}".encode() + kind)
    assert siege.still_heard() == before


# -- bodies -------------------------------------------------------------------------------------


def message(kind: str, body: dict[str, Any], **envelope: Any) -> bytes:
    return bytes(msgpack.packb({"v": 1, "kind": kind, "id": "x", "body": body} | envelope))


PICKLE = (
    b"\x80\x04\x95\x1e\0\0\0\0\0\0\0\x8c\x02os\x94\x8c\x06system\x94\x93\x94\x8c\x04true\x94\x85\x94R\x94."
)
RESTORED = {"manifest": "m", "step": 1, "size": 1, "seconds": 1.0}
BODIES: dict[str, bytes] = {
    "nothing": b"",
    "one byte that is none": b"\xc1",
    "nil": b"\xc0",
    "a list": b"\x90",
    "lists in lists": b"\x91" * (MAX_BODY - 1) + b"\xc0",
    "maps in maps": b"\x81\xa1a" * 300_000 + b"\xc0",
    "a length that is a lie": b"\xdd\xff\xff\xff\xff",
    "lies in lies": (b"\xdd" + struct.pack(">I", 50_000)) * 512,
    "text that is not Unicode": msgpack.packb({"v": 1, "kind": b"\xff", "id": "x"}),
    "over our limit and under the broker's": b"\x00" * (MAX_BODY + 1),
    "many megabytes": b"\x00" * (16 << 20),
    "another version": message("Staged", {}, v=99, sequence=1),
    "a hundred thousand names": message("Staged", dict.fromkeys(map(str, range(99_999)))),
    "pickle": PICKLE,
    "a number below zero": message("Staged", {}, sequence=-1),
    "a number beyond all": message("Staged", {}, sequence=2**53 + 1),
    "capabilities without end": message(
        "Registered", {"protocol": 1, "version": "1", "capabilities": [""] * 900_000}, sequence=1
    ),
    "damage without end": message("CheckpointRestored", RESTORED | {"damaged": [""] * 900_000}, sequence=1),
    "processes without end": message(
        "SaveAsked",
        {"cause": "stop", "signal": "TERM", "pids": [1] * 900_000, "seconds_after_cause": 0.0},
        sequence=1,
    ),
    "an exit code that no process has": message(
        "AttemptEnded", {"reason": "user_error", "exit_code": 2**63}, sequence=1
    ),
}


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
def test_bodies_that_are_poison(siege: Siege, body: bytes) -> None:
    """A message that is handed out for ever, ends the loop, or changes what is known of the run."""
    before = siege.still_heard()
    for key in (EVENT, BEAT):
        siege.send(body, key)
    assert siege.still_heard() == before


def test_what_is_malformed_lies_with_the_dead_and_says_why(siege: Siege) -> None:
    """A malformed message that vanishes: nobody would learn that an agent sends such."""
    siege.send(b"\xc1")
    eventually(lambda: "malformed: not msgpack: FormatError" in siege.reasons())


def test_a_message_without_end(siege: Siege) -> None:
    """One that announces more than it sends holds up its own channel only, and goes with its link."""
    before = siege.still_heard()
    connection = siege.estate.raw(siege.login)
    channel = connection.channel()
    wire = connection._impl._transport
    number = channel.channel_number
    publish = pika.frame.Method(number, pika.spec.Basic.Publish(exchange="runctl.events", routing_key=EVENT))
    head = pika.frame.Header(number, 2**40, pika.BasicProperties())
    wire.write(publish.marshal() + head.marshal())
    for _ in range(64):
        wire.write(pika.frame.Body(number, bytes(64 << 10)).marshal())
        connection.process_data_events(0)
    assert siege.still_heard() == before
    with contextlib.suppress(AMQPError):  # a farewell in the middle of a message is one more offence
        connection.close()
    assert siege.still_heard() == before


# -- numbers, names and times -------------------------------------------------------------------


@pytest.mark.parametrize("sequence", [2, 1000, 2**31, 2**53])
def test_a_gap_is_never_filled_with_what_lies_beyond_it(siege: Siege, sequence: int) -> None:
    """Events that are skipped, or memory that is set aside for those in between."""
    before = siege.still_heard()
    siege.say(events.AttemptEnded(reason="succeeded"), sequence + siege.through(RUN))
    assert siege.still_heard() == before


@pytest.mark.parametrize(
    "claims",
    [
        {"agent": OTHER},
        {"run": OTHER_RUN},
        {"agent": OTHER, "run": OTHER_RUN, "attempt": 1},
        {"attempt": 2},
        {"attempt": 99_999},
        {"agent": "../../etc", "run": "; rm -rf /"},
        {"actor": "user:root"},
    ],
    ids=str,
)
def test_a_body_that_claims_to_be_anothers(siege: Siege, claims: dict[str, Any]) -> None:
    """An event that is taken for whose it says it is. It is its sender's, by the routing key."""
    other = Known.of(siege.office.record(OTHER_RUN))
    through = siege.through(RUN)
    siege.say(events.CommandNotSupported(command="c", kind="k"), through + 1, **claims)
    siege.heard_through(through + 1)
    assert Known.of(siege.office.record(OTHER_RUN)) == other


@pytest.mark.parametrize(
    "body",
    [
        commands.AcknowledgeEvents(through=2**53),
        commands.ResendEvents(after=0),
        commands.StartTraining(),
        commands.RenewLease(seconds=1e9),
        requests.StopRun(run=OTHER_RUN),
        requests.CancelRun(run=OTHER_RUN),
    ],
    ids=lambda body: type(body).__name__,
)
def test_a_command_or_request_that_comes_as_an_event(siege: Siege, body: Body) -> None:
    """A spoofed acknowledgement, permission or request: none is an event, and none is acted on."""
    before = [(r.run, r.attempts[0].state) for r in map(siege.office.record, (RUN, OTHER_RUN))]
    through = siege.through(RUN)
    siege.say(body, through + 1)
    siege.send(encode(body, id="x", agent=OTHER, run=OTHER_RUN), BEAT)
    siege.heard_through(through + 1)
    siege.still_heard()
    assert [(r.run, r.attempts[0].state) for r in map(siege.office.record, (RUN, OTHER_RUN))] == before


def test_output_is_shown_as_its_senders_attempt(siege: Siege) -> None:
    """Output that an agent claims for another attempt of its run."""
    feed = Inbox()
    siege.estate.bus(siege.estate.client_url).subscribe(Address(Stream.FEED), feed)
    siege.office.loop.put(lambda: siege.office.loop.feed.follow(RUN, 60.0))
    siege.say(events.OutputSeen(offset=0, data=b"forged"), 0, attempt=7)

    def shown() -> list[int]:
        bodies = [decode(body).body for body in feed.bodies()]
        return [body.attempt for body in bodies if isinstance(body, OutputRelayed)]

    eventually(shown, what="the output on the feed")
    assert shown() == [1]


def test_times_that_are_made_up_date_nothing_out_of_the_attempt(siege: Siege) -> None:
    """An event dated to the end of time, or before its attempt: the ledger counts by these."""
    began = siege.office.record(RUN).attempts[0].created_at
    for sent in (1e12, 1e-9, 1e12, 5.0):
        through = siege.through(RUN)
        siege.say(events.CommandNotSupported(command="c", kind="k"), through + 1, sent=sent)
        siege.heard_through(through + 1)
        attempt = siege.office.record(RUN).attempts[0]
        assert began <= attempt.told_at <= siege.office.clock.now()


def test_every_event_again_changes_nothing(siege: Siege) -> None:
    """A replay: what was heard is acknowledged, once more, and that is all."""
    record = siege.still_heard()
    for sequence in range(1, siege.through(RUN) + 1):
        siege.say(events.AttemptEnded(reason="succeeded"), sequence)
    assert siege.still_heard() == record


# -- floods -------------------------------------------------------------------------------------


def flood(siege: Siege, count: int, body: Callable[[int], bytes], key: str) -> None:
    """As fast as the broker takes it, without waiting for its word."""
    connection = siege.estate.raw(siege.login)
    channel = connection.channel()
    for number in range(count):
        channel.basic_publish("runctl.events", key, body(number))
        if number == count // 2:
            siege.still_heard()  # in the thick of it
    connection.close()


FLOODS: dict[str, tuple[str, Callable[[int], bytes]]] = {
    "of what is malformed": (EVENT, lambda n: b"\xc1" * 2000),
    "of old events": (EVENT, lambda n: encode(events.Staged(), id=f"f-{n}", sequence=1)),
    "of events beyond a gap": (EVENT, lambda n: encode(events.Staged(), id=f"f-{n}", sequence=10**6 + n)),
    "of kinds that nobody knows": (EVENT, lambda n: message(f"K{n}", {})),
    "of heartbeats": (BEAT, lambda n: encode(events.Heartbeat(phase="x" * 200), id=f"f-{n}")),
    "of names that nobody knows": (BEAT, lambda n: message("Heartbeat", {"phase": "p", f"{n}": 0})),
}


@pytest.mark.parametrize("what", FLOODS)
def test_a_flood(siege: Siege, what: str) -> None:
    """Memory without end, an inbox that grows, an honest agent that is not heard any more."""
    key, body = FLOODS[what]
    before = siege.still_heard()
    memory = psutil.Process().memory_info().rss
    flood(siege, 5000, body, key)
    after = siege.still_heard()
    assert (after.run, after.attempts[0].state) == (before.run, before.attempts[0].state)
    assert siege.office.loop._inbox.qsize() <= 700  # what the three subscriptions prefetch
    assert len(siege.office.loop.counts) <= 1000
    assert psutil.Process().memory_info().rss - memory < 64 << 20


def test_dead_letters_are_bounded_at_the_broker(siege: Siege) -> None:
    """A flood of malformed messages that fills the broker's disk."""
    found = siege.estate.broker.api.get(f"queues/{siege.estate.vhost}/runctl.dead")
    assert found["arguments"]["x-max-length"] == 10_000
    assert found["arguments"]["x-max-length-bytes"] == 1 << 30


# -- after its end ------------------------------------------------------------------------------


def test_what_an_ended_attempt_still_says_moves_nothing(siege: Siege) -> None:
    """Attempt 1 has ended, its login may be gone or not: a claim, a notice, an end that it says next."""
    office = siege.office
    siege.say(events.AttemptEnded(reason="interrupted"), siege.through(RUN) + 1)
    eventually(lambda: len(office.record(RUN).attempts) == 2)
    state = office.record(RUN).attempts[1]
    for body in (
        REGISTERED,
        events.Claimed(parent=None),
        events.NoticeReceived(notice="n", kind="interruption", action="terminate", deadline=5.0, source="x"),
        events.TrainingStarted(pid=1, resumed_from=None, restored_step=None),
        events.AttemptEnded(reason="succeeded"),
        events.AttemptEnded(reason="user_error", exit_code=1),
    ):
        through = siege.through(RUN)
        try:
            siege.say(body, through + 1, attempt=2, agent=agent_id(RUN, 2))
        except AMQPConnectionError:
            assert siege.way is Agents.USER  # its machine is gone, and with it its user
            break
        siege.heard_through(through + 1)
    known = siege.still_heard()
    assert (known.attempts[1].permitted, known.attempts[1].number) == (state.permitted, 2)
    assert known.attempts[0].reason == "interrupted"
    assert len(known.attempts) == 2
    _opens_nothing_of(siege, agent_id(RUN, 2))


def _opens_nothing_of(siege: Siege, newer: str) -> None:
    """Neither its command queue nor its keys are those of the attempt before."""
    eventually(lambda: f"runctl.commands.{newer}" in siege.estate.queues())
    acts: tuple[Callable[[BlockingChannel], object], ...] = (
        lambda c: c.basic_get(f"runctl.commands.{newer}"),
        lambda c: c.basic_publish("runctl.events", f"agent.{newer}.ev.Staged", b"harm"),
    )
    for act in acts:
        with pytest.raises((ChannelClosedByBroker, AMQPConnectionError)):
            act(siege.reconnect())
