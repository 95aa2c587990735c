"""An agent that means harm, at a real RabbitMQ: what the broker itself refuses.

Each agent has the login that the controller gave it, by token and by user. None of our own code is between it
and the broker: what is refused is refused by the permissions that were asked for.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import NamedTuple

import jwt
import pika
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from pika.adapters.blocking_connection import BlockingChannel
from pika.exceptions import (
    AMQPConnectionError,
    AMQPError,
    ChannelClosedByBroker,
    ProbableAccessDeniedError,
    ProbableAuthenticationError,
)

from runctl_controller.access.management import Management
from runctl_controller.access.port import AccessFailed, AccessRefused, Agents
from runctl_controller.access.tokens import Tokens
from runctl_controller.access.users import Users
from runctl_shared.bus.login import Login, with_login, without_login
from runctl_shared.bus.port import Address, BusRefused, Delivery, Stream
from runctl_shared.clock import FakeClock, SystemClock
from runctl_testing.buses import Inbox, command, event
from runctl_testing.confined import CONFINED, ConfinedBroker, Estate, make_keys
from runctl_testing.eventually import eventually

MINE, OTHER = "agent-mine1-1", "agent-other-1"
NOT_FOUND, REFUSED = 404, 403


@pytest.fixture(params=CONFINED, ids=[way.value for way in CONFINED])
def way(request: pytest.FixtureRequest) -> Agents:
    return Agents(request.param)


@pytest.fixture
def confined(estate: Estate, way: Agents) -> Estate:
    """Two agents are at the broker, each with its own login."""
    return _with_agents(estate, way)


@pytest.fixture(scope="module", params=CONFINED, ids=[way.value for way in CONFINED])
def guarded(
    request: pytest.FixtureRequest, confined_broker: ConfinedBroker, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Estate]:
    """The same, for all that is refused and leaves nothing."""
    with confined_broker.estate(tmp_path_factory.mktemp("state")) as made:
        yield _with_agents(made, Agents(request.param))


def _with_agents(estate: Estate, way: Agents) -> Estate:
    estate.controller(MINE, OTHER)
    access = estate.access(way)
    for agent in (MINE, OTHER):
        access.admit(agent, 600.0)
    return estate


@pytest.fixture
def channel(confined: Estate) -> BlockingChannel:
    return _channel(confined)


def _channel(estate: Estate) -> BlockingChannel:
    """Of the agent that means harm."""
    opened = estate.raw(estate.login(MINE)).channel()
    opened.confirm_delivery()
    return opened


def refused(channel: BlockingChannel, act: Callable[[BlockingChannel], object]) -> int:
    """The code with which the broker closed the channel."""
    with pytest.raises(ChannelClosedByBroker) as closed:
        act(channel)
    return int(closed.value.reply_code)


def publish(exchange: str, key: str, **properties: object) -> Callable[[BlockingChannel], object]:
    return lambda channel: channel.basic_publish(exchange, key, b"harm", pika.BasicProperties(**properties))


PUBLISHING = {
    "another's event": publish("runctl.events", f"agent.{OTHER}.ev.Staged"),
    "another's heartbeat": publish("runctl.events", f"agent.{OTHER}.hb"),
    "an agent whose name begins like ours": publish("runctl.events", f"agent.{MINE}1.ev.Staged"),
    "nobody's event": publish("runctl.events", "agent..ev.Staged"),
    "a key without an agent": publish("runctl.events", "everything"),
    "all agents at once": publish("runctl.events", "agent.*.ev.Staged"),
    "a command to another": publish("runctl.commands", OTHER),
    "a command to ourselves": publish("runctl.commands", MINE),
    "a request": publish("runctl.requests", ""),
    "the feed": publish("runctl.feed", "RunChanged"),
    "a dead letter": publish("runctl.dead", ""),
    "another's queue, by the default exchange": publish("", f"runctl.commands.{OTHER}"),
    "the controller's queue, by the default exchange": publish("", "runctl.events"),
    "a broker's own exchange": publish("amq.topic", f"agent.{MINE}.ev.Staged"),
    "a broker's own exchange for headers": publish("amq.headers", "", headers={"a": 1}),
    "the broker's log": publish("amq.rabbitmq.log", "error"),
    "an answer to somebody's request": publish("", "amq.rabbitmq.reply-to.g1h2AA"),
}


@pytest.mark.parametrize("act", PUBLISHING.values(), ids=PUBLISHING)
def test_it_cannot_publish(guarded: Estate, act: Callable[[BlockingChannel], object]) -> None:
    """A right too many: a key that is not confined, an exchange that is not named."""
    assert refused(_channel(guarded), act) == REFUSED


TAKING = {
    "read another's commands": lambda c: c.basic_get(f"runctl.commands.{OTHER}"),
    "consume another's commands": lambda c: c.basic_consume(f"runctl.commands.{OTHER}", print),
    "read everybody's events": lambda c: c.basic_get("runctl.events"),
    "read everybody's heartbeats": lambda c: c.basic_consume("runctl.heartbeats", print),
    "read requests": lambda c: c.basic_get("runctl.requests"),
    "read dead letters": lambda c: c.basic_get("runctl.dead"),
    "empty another's queue": lambda c: c.queue_purge(f"runctl.commands.{OTHER}"),
    "empty the controller's queue": lambda c: c.queue_purge("runctl.events"),
    "declare a queue": lambda c: c.queue_declare("mine"),
    "declare a queue of any name": lambda c: c.queue_declare("", exclusive=True),
    "declare its own queue anew": lambda c: c.queue_declare(f"runctl.commands.{MINE}", durable=True),
    "declare an exchange": lambda c: c.exchange_declare("mine", "topic"),
    "listen to another's events": lambda c: c.queue_bind(
        f"runctl.commands.{MINE}", "runctl.events", f"agent.{OTHER}.#"
    ),
    "listen to another's commands": lambda c: c.queue_bind(
        f"runctl.commands.{MINE}", "runctl.commands", OTHER
    ),
    "listen to the feed": lambda c: c.queue_bind(f"runctl.commands.{MINE}", "runctl.feed", "#"),
    "unbind the controller's queue": lambda c: c.queue_unbind(
        "runctl.events", "runctl.events", "agent.*.ev.#"
    ),
    "bind exchanges": lambda c: c.exchange_bind("runctl.feed", "runctl.events", "#"),
    "delete its own queue": lambda c: c.queue_delete(f"runctl.commands.{MINE}"),
    "delete another's queue": lambda c: c.queue_delete(f"runctl.commands.{OTHER}"),
    "delete the controller's queue": lambda c: c.queue_delete("runctl.events"),
    "delete an exchange": lambda c: c.exchange_delete("runctl.events"),
}


@pytest.mark.parametrize("act", TAKING.values(), ids=TAKING)
def test_it_cannot(guarded: Estate, act: Callable[[BlockingChannel], object]) -> None:
    """A right too many: what stands at the broker is the controller's alone."""
    before = guarded.queues()
    assert refused(_channel(guarded), act) == REFUSED
    assert guarded.queues() == before


def test_it_can_do_its_work(confined: Estate) -> None:
    """A right too few: no event, heartbeat or command would come through."""
    controller, agent = confined.bus(confined.url), confined.agent(MINE)
    events, beats, commands = Inbox(), Inbox(), Inbox()
    controller.subscribe(Address(Stream.EVENTS), events)
    controller.subscribe(Address(Stream.HEARTBEATS), beats)
    agent.subscribe(command(MINE), commands)
    agent.publish(event(MINE, "Staged"), b"event", message_id="m-1").result(60)
    agent.publish(Address(Stream.HEARTBEATS, MINE), b"beat", message_id="m-2")
    controller.publish(command(MINE), b"command", message_id="m-3").result(60)
    told = [(one.sender, one.body) for one in (*events.wait(1), *beats.wait(1))]
    assert told == [(MINE, b"event"), (MINE, b"beat")]
    assert commands.bodies(1) == [b"command"]


def test_a_client_and_the_controller_need_no_more_than_is_documented(confined: Estate) -> None:
    """A permission that deploy/rabbitmq forgets: a request, its answer, the feed, a dead letter."""
    controller, client = confined.bus(confined.url), confined.bus(confined.client_url)
    feed = Inbox()
    controller.subscribe(Address(Stream.REQUESTS), _answer)
    client.subscribe(Address(Stream.FEED), feed)
    assert client.request(b"question", timeout=60.0) == b"answer"

    def heard() -> bool:
        controller.publish(Address(Stream.FEED), b"news", message_id="")
        return bool(feed.bodies())

    eventually(heard, what="news on the feed")
    events = Inbox(hold=True)
    controller.subscribe(Address(Stream.EVENTS), events)
    confined.agent(MINE).publish(event(MINE), b"bad", message_id="m-1").result(60)
    events.wait(1)[0].dead_letter("bad")
    eventually(lambda: [one.reason for one in controller.dead_letters()] == ["bad"])
    controller.remove_agent(MINE)
    assert f"runctl.commands.{MINE}" not in confined.queues()


def _answer(request: Delivery) -> None:
    request.reply(b"answer")
    request.ack()


def test_a_client_can_neither_read_nor_speak_for_others(confined: Estate) -> None:
    """A documented permission that is too wide."""
    connection = confined.raw(Login("runctl-client", "runctl-client"))
    for act in (
        publish("runctl.events", f"agent.{MINE}.ev.Staged"),
        publish("runctl.commands", MINE),
        publish("runctl.feed", "x"),
        publish("", "runctl.events"),
        lambda c: c.basic_get("runctl.requests"),
        lambda c: c.basic_get(f"runctl.commands.{MINE}"),
        lambda c: c.queue_delete("runctl.events"),
    ):
        channel = connection.channel()
        channel.confirm_delivery()
        assert refused(channel, act) == REFUSED


def test_copies_to_others_come_under_its_own_name(confined: Estate, channel: BlockingChannel) -> None:
    """CC and BCC pass topic rights by before RabbitMQ 4.0.3: what they bring must not count as another's."""
    controller, events, beats = confined.bus(confined.url), Inbox(), Inbox()
    controller.subscribe(Address(Stream.EVENTS), events)
    controller.subscribe(Address(Stream.HEARTBEATS), beats)
    for header in ("CC", "BCC"):
        for key in (f"agent.{OTHER}.ev.AttemptEnded", f"agent.{OTHER}.hb"):
            try:
                publish("runctl.events", f"agent.{MINE}.ev.Staged", headers={header: [key]})(channel)
            except ChannelClosedByBroker:
                return  # refused, by 4.0.3 and newer
    assert {one.sender for one in events.wait(4)} == {MINE}
    assert {one.sender for one in beats.wait(2)} <= {MINE, ""}


def test_copies_reach_no_other_agent(confined: Estate, channel: BlockingChannel) -> None:
    """A copy by way of CC in another's command queue."""
    other = Inbox()
    confined.agent(OTHER).subscribe(command(OTHER), other)
    for key in (OTHER, f"runctl.commands.{OTHER}"):
        publish("runctl.events", f"agent.{MINE}.ev.Staged", headers={"CC": [key], "BCC": [key]})(channel)
    confined.bus(confined.url).publish(command(OTHER), b"true", message_id="m-1").result(60)
    assert other.bodies(1) == [b"true"]


@pytest.mark.parametrize("name", [OTHER, "guest", "runctl-controller"])
def test_it_cannot_claim_to_be_another_user(channel: BlockingChannel, name: str) -> None:
    """A user-id that the broker vouches for."""
    assert refused(channel, publish("runctl.events", f"agent.{MINE}.ev.Staged", user_id=name)) == 406


def test_a_look_at_anothers_queue_shows_numbers_at_most(channel: BlockingChannel) -> None:
    """RabbitMQ 3.10 lets anyone ask how many messages a queue holds. What is in them stays hidden."""
    try:
        shown = channel.queue_declare(f"runctl.commands.{OTHER}", passive=True)
    except ChannelClosedByBroker:
        return  # refused, by 4.2.6 and newer
    assert set(shown.method.__dict__) == {"queue", "message_count", "consumer_count"}


def test_a_message_over_the_limit_ends_its_senders_channel(channel: BlockingChannel) -> None:
    """A message that the broker and the controller would have to hold in memory whole."""
    key = f"agent.{MINE}.ev.Staged"
    act = lambda c: c.basic_publish("runctl.events", key, bytes(16 << 20))  # noqa: E731 -- one of many
    assert refused(channel, act) == 406


def test_its_login_opens_nothing_else_of_the_broker(confined: Estate) -> None:
    """Another virtual host, or the management API with all that it tells."""
    login = confined.login(MINE)
    confined.vhost = "/"
    with pytest.raises((ProbableAccessDeniedError, ProbableAuthenticationError, AMQPConnectionError)):
        confined.raw(login)
    host = confined.broker.management.rpartition("@")[2]
    with pytest.raises(AccessRefused):
        Management(f"http://{login.user}:{login.password}@{host}").get("users")


class Forgery(NamedTuple):
    """Changes to a good token: its claims, its header's algorithm, and the key that it is signed with."""

    claims: Mapping[str, object] = MappingProxyType({})
    algorithm: str = "RS256"
    key: str = "ours"


FORGERIES = {
    "expired": Forgery({"exp": 1_000_000_000}),
    "for another audience": Forgery({"aud": "rabbitmq"}),
    "signed by another": Forgery(key="another"),
    "not signed": Forgery(algorithm="none", key="none"),
    "signed with the public key as if it were a password": Forgery(algorithm="HS256", key="public"),
    "signed with a password": Forgery(algorithm="HS256", key="guess"),
    "by an algorithm that is not ours": Forgery(algorithm="RS512"),
    "all rights, signed by another": Forgery({"scope": ["runctl.write:*/*/*"]}, key="another"),
}


@pytest.mark.parametrize("forgery", FORGERIES.values(), ids=FORGERIES)
def test_a_forged_token_opens_nothing(estate: Estate, forgery: Forgery) -> None:
    """A broker that takes a token's word for how it is to be checked."""
    estate.controller(MINE)
    access = estate.access(Agents.TOKEN)
    access.admit(MINE, 600.0)
    good = estate.login(MINE).password
    claims = jwt.decode(good, options={"verify_signature": False}) | dict(forgery.claims)
    forged = _signed(estate, claims, forgery)
    with pytest.raises(AMQPConnectionError):
        estate.raw(Login(MINE, forged))
    estate.raw(Login(MINE, good))


def _signed(estate: Estate, claims: dict[str, object], forgery: Forgery) -> str:
    keys: dict[str, object] = {
        "ours": estate.broker.key.read_bytes(),
        "another": rsa.generate_private_key(public_exponent=65537, key_size=2048),
        "none": None,
        "guess": "guess" * 8,
        "public": estate.broker.public,
    }
    signing = jwt.PyJWS()
    if forgery.key == "public":
        signing._algorithms["HS256"] = _Careless(jwt.algorithms.HMACAlgorithm.SHA256)
    payload = json.dumps(claims).encode()
    return signing.encode(payload, keys[forgery.key], algorithm=forgery.algorithm, headers={"kid": "runctl"})  # type: ignore[arg-type]


class _Careless(jwt.algorithms.HMACAlgorithm):
    """The library refuses to sign with what looks like a public key. A forger does not."""

    def prepare_key(self, key: str | bytes) -> bytes:
        return key if isinstance(key, bytes) else key.encode()


def test_scopes_that_were_widened_break_the_signature(estate: Estate) -> None:
    """A token whose middle part is exchanged and whose signature is kept."""
    access = estate.access(Agents.TOKEN)
    access.admit(MINE, 600.0)
    head, claims, signature = estate.login(MINE).password.split(".")
    wide = json.loads(base64.urlsafe_b64decode(claims + "==")) | {"scope": ["runctl.read:*/*"]}
    middle = base64.urlsafe_b64encode(json.dumps(wide).encode()).rstrip(b"=").decode()
    with pytest.raises(AMQPConnectionError):
        estate.raw(Login(MINE, f"{head}.{middle}.{signature}"))


def test_a_token_whose_time_is_up_lets_nothing_through(estate: Estate) -> None:
    """A link that outlives its token: the broker must look again while it is up."""
    estate.controller(MINE)
    tokens = estate.access(Agents.TOKEN)
    assert isinstance(tokens, Tokens)
    now = SystemClock().now()
    past = Tokens(estate.url, estate.state, estate.broker.key, FakeClock(now=now - 3600.0 + 3.0))
    channel = estate.raw(past.login(MINE, 0.0)).channel()
    channel.confirm_delivery()
    act = publish("runctl.events", f"agent.{MINE}.ev.Staged")
    act(channel)

    def cut() -> bool:
        try:
            act(channel)
        except AMQPError:
            return True
        return False

    eventually(cut, 60, 0.2, "the broker to refuse an expired token on a link that is up")


def test_who_was_removed_is_cut_off_at_once(estate: Estate) -> None:
    """A user that is gone, and whose link lives on."""
    estate.controller(MINE)
    access = estate.access(Agents.USER)
    access.admit(MINE, 600.0)
    login = estate.login(MINE)
    connection = estate.raw(login)
    access.revoke(MINE)
    eventually(lambda: not _lives(connection), 60, 0.1, "its connection to be cut")
    with pytest.raises(ProbableAuthenticationError):
        estate.raw(login)
    assert estate.users() == set()


def _lives(connection: pika.BlockingConnection) -> bool:
    try:
        connection.process_data_events(0.1)
    except AMQPError:
        return False
    return bool(connection.is_open)


def test_topic_rights_stand_before_any_permission(estate: Estate) -> None:
    """A moment in which a user has permissions and no topic rights: RabbitMQ then allows every key."""
    asked: list[str] = []

    class Listening(Management):
        def put(self, path: str, value: dict[str, object]) -> None:
            asked.append(path.partition("/")[0])
            super().put(path, value)

    api = Listening(estate.broker.management)
    Users(estate.url, estate.state, estate.installation, api).admit(MINE, 600.0)
    assert asked == ["users", "topic-permissions", "topic-permissions", "permissions"]
    found = api.get(f"topic-permissions/{estate.vhost}/{estate.login(MINE).user}")
    assert {one["exchange"] for one in found} == {"runctl.events", "runctl.feed"}


def test_what_a_crash_left_is_swept_and_nothing_else(estate: Estate) -> None:
    """Users of attempts that ended while no controller ran; and those of somebody else's installation."""
    estate.controller(OTHER)
    ours, theirs = estate.access(Agents.USER), estate.access(Agents.USER, f"{estate.installation}x")
    for access, agent in ((theirs, MINE), (ours, MINE), (ours, OTHER)):
        access.admit(agent, 600.0)
    ours.sweep(lambda agent: agent == OTHER)
    assert estate.users() == {OTHER}
    assert estate.agent(OTHER).wait_connected(60)
    assert estate.broker.api.get(f"users/runctl.{estate.installation}x.{MINE}") is not None
    theirs.sweep(lambda agent: False)
    ours.sweep(lambda agent: False)
    assert estate.users() == set()


def test_a_further_try_makes_the_same_login_again(confined: Estate, way: Agents) -> None:
    """A launch whose answer was lost is tried again: the machine that is up already must still get in."""
    first = confined.login(MINE)
    confined.access(way).admit(MINE, 600.0)
    second = confined.login(MINE)
    assert confined.raw(first).is_open
    assert confined.raw(second).is_open


def test_a_broker_without_the_public_key_is_told_at_the_start(estate: Estate) -> None:
    """Machines that are paid for and can never say a word."""
    key = estate.state / "other.pem"
    make_keys(key, estate.state / "other.pub.pem")
    access = Tokens(estate.url, estate.state, key, SystemClock())
    with pytest.raises(AccessRefused, match=r"does not accept the tokens .* public key"):
        access.check()


def test_an_api_that_refuses_or_is_away_is_told_with_its_mend(estate: Estate) -> None:
    """A traceback, or the password, in place of a sentence."""
    host = estate.broker.management.rpartition("@")[2]
    for url, kind, words in (
        (f"http://guest:hunter2@{host}", AccessRefused, "refuses the user 'guest'"),
        (f"http://runctl-client:runctl-client@{host}", AccessRefused, "administrator"),
        ("http://guest:hunter2@127.0.0.1:1", AccessFailed, "cannot be reached: connection refused"),
        (f"http://guest:hunter2@127.0.0.1:{estate.broker.node.port}", AccessFailed, "cannot be reached"),
    ):
        access = Users(estate.url, estate.state, "inst-any", Management(url))
        with pytest.raises(kind, match=words) as told:
            access.check()
        assert told.value.mend
        assert "hunter2" not in str(told.value)


def test_a_login_that_is_refused_is_told_to_the_agent(estate: Estate) -> None:
    """An agent that waits for ever without a word for a broker that has refused it."""
    with pytest.raises(BusRefused, match=MINE):
        estate.bus(with_login(without_login(estate.url), Login(MINE, "no.such.token")))
