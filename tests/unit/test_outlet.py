"""Events reach the controller in order, again and again until it has acknowledged them, without a storm."""

from __future__ import annotations

from concurrent.futures import Future

import pytest

from runctl_agent.edges.outlet import LONGEST_PATIENCE, PATIENCE, RETRY, WINDOW, Outlet
from runctl_agent.spool.memory import MemorySpool
from runctl_shared.bus.port import Address, BusUnavailable, Stream
from runctl_shared.messages.events import Staged

AGENT = "agent-abcd1234-1"
NOW = 1000.0


class Wire:
    """The part of a bus that publishes: keeps what was sent, confirms when the test says so."""

    def __init__(self) -> None:
        self.sent: list[int] = []
        self.ids: list[str] = []
        self.unconfirmed: dict[int, Future[None]] = {}

    def publish(
        self, to: Address, body: bytes, *, message_id: str, expires: float | None = None
    ) -> Future[None]:
        assert (to, expires) == (Address(Stream.EVENTS, AGENT, "Staged"), None)
        sequence = int(body)
        self.sent.append(sequence)
        self.ids.append(message_id)
        self.unconfirmed[sequence] = Future()
        return self.unconfirmed[sequence]

    def taken(self) -> list[int]:
        sent, self.sent = self.sent, []
        return sent


class Agent:
    def __init__(self, spool: MemorySpool | None = None) -> None:
        self.spool = spool or MemorySpool(lambda body, sequence, at: b"%d" % sequence)
        self.wire = Wire()
        self.failed: list[int] = []
        self.outlet = Outlet(self.wire, self.spool, AGENT, self.failed.append)  # type: ignore[arg-type]  # all it needs of a bus

    def reports(self, count: int) -> None:
        self.spool.commit(b"", [Staged()] * count, 0.0)

    def pumped(self, at: float = NOW) -> list[int]:
        self.outlet.pump(at)
        return self.wire.taken()


@pytest.fixture
def agent() -> Agent:
    return Agent()


def test_with_nothing_to_send_it_wants_no_time(agent: Agent) -> None:
    assert agent.pumped() == []
    assert agent.outlet.due(NOW) is None


def test_each_event_once_in_order_under_an_id_that_stays_the_same(agent: Agent) -> None:
    agent.reports(3)
    assert agent.outlet.due(NOW) == NOW
    assert agent.pumped() == [1, 2, 3]
    assert agent.pumped() == []
    agent.reports(1)
    assert agent.pumped() == [4]
    assert agent.wire.ids == [f"{AGENT}-{n}" for n in (1, 2, 3, 4)]


def test_nothing_is_deleted_before_the_controller_has_acknowledged_it(agent: Agent) -> None:
    agent.reports(3)
    agent.pumped()
    for future in agent.wire.unconfirmed.values():
        future.set_result(None)  # the bus has them: that is not the controller's commit
    assert [p.sequence for p in agent.spool.pending()] == [1, 2, 3]
    agent.outlet.forget(2, NOW)
    assert [p.sequence for p in agent.spool.pending()] == [3]


def test_without_any_acknowledgement_everything_is_sent_again(agent: Agent) -> None:
    agent.reports(2)
    agent.pumped()
    due = agent.outlet.due(NOW)
    assert due == NOW + PATIENCE
    assert agent.pumped(due - 0.01) == []
    assert agent.pumped(due) == [1, 2]
    assert agent.outlet.due(due) == due + 2 * PATIENCE


def test_what_nobody_answers_is_repeated_less_and_less(agent: Agent) -> None:
    """The bus has confirmed it, and no controller runs."""
    agent.reports(2)
    agent.pumped()
    waits, now = [], NOW
    for _ in range(8):
        due = agent.outlet.due(now)
        assert due is not None
        waits.append(due - now)
        now = due
        assert agent.pumped(now) == [1, 2]
    assert waits == [20, 40, 80, 160, 320, LONGEST_PATIENCE, LONGEST_PATIENCE, LONGEST_PATIENCE]
    agent.outlet.forget(1, now)
    assert agent.outlet.due(now) == now + PATIENCE


def test_what_the_bus_lost_is_repeated_soon_however_long_nobody_answered(agent: Agent) -> None:
    agent.reports(1)
    agent.pumped()
    for at in (NOW + 20, NOW + 60, NOW + 140):
        assert agent.pumped(at) == [1]
    agent.outlet.again(0, NOW + 141, RETRY)
    assert agent.pumped(NOW + 141 + RETRY) == [1]


def test_it_never_wants_to_be_called_at_once_without_sending_anything(agent: Agent) -> None:
    """Else the agent's loop would spin."""
    agent.reports(WINDOW + 50)
    now = NOW
    for _ in range(20):
        due = agent.outlet.due(now)
        assert due is not None
        now = max(now, due)
        assert agent.pumped(now)


def test_an_acknowledgement_gives_more_time_for_the_rest(agent: Agent) -> None:
    agent.reports(3)
    agent.pumped()
    agent.outlet.forget(1, NOW + PATIENCE - 1)
    assert agent.pumped(NOW + PATIENCE) == []
    assert agent.pumped(NOW + 2 * PATIENCE - 1) == [2, 3]


def test_at_most_a_window_is_under_way(agent: Agent) -> None:
    agent.reports(WINDOW + 5)
    assert agent.pumped() == list(range(1, WINDOW + 1))
    assert agent.pumped() == []
    agent.outlet.forget(3, NOW)
    assert agent.pumped() == [WINDOW + 1, WINDOW + 2, WINDOW + 3]


def test_what_the_bus_did_not_confirm_is_sent_again_after_a_while_and_in_order(agent: Agent) -> None:
    agent.reports(3)
    agent.pumped()
    agent.wire.unconfirmed[2].set_exception(BusUnavailable("gone"))
    agent.wire.unconfirmed[1].set_result(None)
    assert agent.failed == [2]
    agent.outlet.again(1, NOW, RETRY)
    assert agent.pumped(NOW + RETRY - 0.01) == []
    assert agent.outlet.due(NOW) == NOW + RETRY
    assert agent.pumped(NOW + RETRY) == [2, 3]


def test_the_controller_can_ask_for_what_it_misses(agent: Agent) -> None:
    agent.reports(5)
    agent.pumped()
    agent.outlet.again(2, NOW)
    assert agent.pumped() == [3, 4, 5]


def test_what_was_acknowledged_is_never_sent_again(agent: Agent) -> None:
    agent.reports(5)
    agent.pumped()
    agent.outlet.forget(4, NOW)
    agent.outlet.again(0, NOW)
    assert agent.pumped() == [5]


def test_a_whole_window_of_requests_to_send_again_is_no_storm(agent: Agent) -> None:
    """One event is missing; each of those after it makes the controller ask."""
    agent.reports(WINDOW)
    agent.pumped()
    sent = 0
    for _ in range(WINDOW - 1):
        agent.outlet.again(0, NOW)
        sent += len(agent.pumped(NOW))
    assert sent == WINDOW
    assert agent.pumped(NOW + RETRY)  # but what is still missing does come
    agent.outlet.forget(WINDOW, NOW + RETRY)
    assert agent.outlet.due(NOW + RETRY) is None


def test_an_older_acknowledgement_that_comes_late_changes_nothing(agent: Agent) -> None:
    agent.reports(5)
    agent.pumped()
    agent.outlet.forget(4, NOW)
    agent.outlet.forget(2, NOW)
    agent.reports(1)
    assert agent.pumped() == [6]


def test_an_acknowledgement_of_what_was_never_said_leaves_later_events_alone(agent: Agent) -> None:
    agent.reports(2)
    agent.pumped()
    agent.outlet.forget(50, NOW)
    agent.reports(2)
    assert agent.pumped() == [3, 4]


def test_an_agent_that_starts_again_goes_on_with_a_whole_window(agent: Agent) -> None:
    agent.reports(WINDOW + 30)
    agent.pumped()
    agent.outlet.forget(WINDOW + 10, NOW)
    again = Agent(agent.spool)
    assert again.pumped() == list(range(WINDOW + 11, WINDOW + 31))
    again.reports(WINDOW)
    assert again.pumped() == list(range(WINDOW + 31, 2 * WINDOW + 11))


def test_an_agent_that_starts_again_with_nothing_left_sends_only_what_is_new(agent: Agent) -> None:
    agent.reports(3)
    agent.outlet.forget(3, NOW)
    again = Agent(agent.spool)
    assert again.outlet.due(NOW) is None
    again.reports(1)
    assert again.pumped() == [4]
