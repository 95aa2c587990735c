"""Following a run over a feed that drops what it likes: everything is told all the same, each thing once."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any, cast

import pytest

from runctl_controller.client.client import Client
from runctl_controller.client.follow import Event, Follower, Happened, Printed, Troubled, Woken
from runctl_controller.client.output import OutputStream
from runctl_shared.clock import FakeClock
from runctl_shared.errors import NoController, ProviderFailed
from runctl_shared.messages.base import Body, Envelope
from runctl_shared.messages.codec import Message
from runctl_shared.messages.replies import (
    AttemptView,
    Done,
    LogPiece,
    OutputRelayed,
    RunChanged,
    RunDetail,
    RunView,
    StoryView,
)
from runctl_shared.messages.requests import FollowRun, ReadLog, ShowRun
from runctl_shared.spec import RunSpec

RUN = "run-1111"
SPEC = RunSpec(run=RUN, name="cats", command=("x",), workdir="/", store="file:///s")


class World:
    """A run of some attempts as controller, store and agent know it, and a feed that a test can spoil.

    It stands in for `Client`. `stored[n]` is what the checkpoint store has of the output of attempt n.
    """

    def __init__(self, keep: Callable[[], bool] = lambda: True) -> None:
        self.keep = keep
        self.printed: dict[int, bytes] = {}
        self.stored: dict[int, bytes] = {}
        self.attempts: list[AttemptView] = []
        self.story: list[StoryView] = []
        self.state = "queued"
        self.asked: list[Body] = []
        self.dead = False
        self.store_fails = False
        self._hear: Callable[[Message[Any]], None] = lambda _message: None

    def listen(self, heard: Callable[[Message[Any]], None]) -> World:
        self._hear = heard
        return self

    def close(self) -> None:
        """As a subscription."""

    def ask(self, body: Body, kind: type[Any], timeout: float = 0.0) -> Body:
        if self.dead:
            raise NoController("No controller answers.")
        self.asked.append(body)
        if isinstance(body, ShowRun):
            return RunDetail(
                run=self.view(), spec=SPEC, attempts=tuple(self.attempts), machines=(), ledger=(),
                story=tuple(self.story),
            )  # fmt: skip
        if isinstance(body, ReadLog):
            if self.store_fails:
                raise ProviderFailed("The store is away.")
            whole = self.stored.get(body.attempt, b"")
            data = whole[body.offset : body.offset + 7]
            return LogPiece(attempt=body.attempt, offset=body.offset, data=data, size=len(whole))
        assert isinstance(body, FollowRun)
        attempt = self.attempts[-1].attempt if self.attempts else 0
        if body.offset is not None and self.state == "training":
            self.relay(attempt, body.offset, self.printed[attempt][body.offset :])
        return Done(run=RUN)

    def view(self) -> RunView:
        attempt = self.attempts[-1].attempt if self.attempts else 0
        return RunView(run=RUN, name="cats", project="p", state=self.state, attempt=attempt)

    def relay(self, attempt: int, offset: int, data: bytes) -> None:
        if data:
            self._feed(OutputRelayed(attempt=attempt, offset=offset, data=data))

    def happen(self, kind: str, attempt: int) -> None:
        item = StoryView(at=float(len(self.story)), attempt=attempt, kind=kind, text=kind, actor="agent")
        self.story.append(item)
        self._feed(RunChanged(story=item, view=self.view()))

    def _feed(self, body: Body) -> None:
        if self.keep():
            self._hear(Message(Envelope(kind=type(body).__name__, id="feed-1", run=RUN), body))

    # -- what the run does --------------------------------------------------------------------

    def begin(self) -> int:
        number = len(self.attempts) + 1
        self.state = "training"
        self.printed[number] = b""
        self.attempts.append(AttemptView(attempt=number, state="training", started_at=1.0))
        self.happen("training", number)
        return number

    def print(self, data: bytes) -> None:
        number = self.attempts[-1].attempt
        self.relay(number, len(self.printed[number]), data)
        self.printed[number] += data

    def end(self, state: str) -> None:
        number = self.attempts[-1].attempt
        self.stored.setdefault(number, self.printed[number])
        self.attempts[-1] = AttemptView(attempt=number, state="ended", reason="x", started_at=1.0)
        self.state = state
        self.happen("ended", number)


class Watching:
    """A follower, driven by hand, and what it told."""

    def __init__(self, world: World, ensure: Callable[[], bool] = lambda: False, **options: Any) -> None:
        self.clock = FakeClock()
        self.follower = Follower(cast("Client", world), self.clock, RUN, ensure, **options)
        self.events: list[Event] = []

    def look(self, seconds: float = 1.0) -> None:
        while (event := self.follower.next(0.0)) is not None:
            self.events.append(event)
        self.clock.advance(seconds)

    def to_the_end(self) -> None:
        for _ in range(100):
            self.look()
            if self.follower.detail is not None:
                return
        raise AssertionError("it never saw the end")

    def output(self, attempt: int) -> bytes:
        return b"".join(e.data for e in self.events if isinstance(e, Printed) and e.attempt == attempt)

    @property
    def kinds(self) -> list[str]:
        return [e.story.kind for e in self.events if isinstance(e, Happened)]


@pytest.mark.parametrize("loss", [0.0, 0.2, 0.7, 1.0])
def test_whatever_the_feed_loses_is_told_all_the_same(loss: float) -> None:
    for seed in range(60):
        rng = random.Random(seed)
        world = World(keep=lambda rng=rng: rng.random() >= loss)  # type: ignore[misc]  # binds this loop's rng
        watching = Watching(world)
        watching.look()
        for attempt in range(3):
            world.begin()
            for _ in range(rng.randrange(12)):
                world.print(bytes(rng.randrange(97, 123) for _ in range(rng.randrange(1, 9))))
                if rng.random() < 0.5:
                    watching.look(rng.random() * 3)
            world.end("succeeded" if attempt == 2 else "recovering")
        watching.to_the_end()
        assert [watching.output(n) for n in (1, 2, 3)] == [world.printed[n] for n in (1, 2, 3)], seed
        wanted = ["training", "ended"] * 3
        # What the feed dropped is told when it is found out: late, and only then.
        assert sorted(watching.kinds) == sorted(wanted)
        assert loss not in (0.0, 1.0) or watching.kinds == wanted
        order = [e.attempt for e in watching.events if isinstance(e, Printed)]
        assert order == sorted(order)


def test_output_of_an_attempt_comes_before_its_end_is_told() -> None:
    world = World()
    watching = Watching(world)
    watching.look()
    world.begin()
    world.keep = lambda: False
    world.print(b"lost on the way")
    world.keep = lambda: True
    world.end("succeeded")
    watching.to_the_end()
    told = [type(e).__name__ for e in watching.events if not isinstance(e, Woken)]
    last = max(i for i, e in enumerate(watching.events) if isinstance(e, Printed))
    ended = next(
        i for i, e in enumerate(watching.events) if isinstance(e, Happened) and e.story.kind == "ended"
    )
    assert last < ended, told


def test_what_is_lost_for_good_is_said() -> None:
    """A machine that was killed took the middle of its output with it."""
    world = World()
    watching = Watching(world)
    watching.look()
    world.begin()
    watching.look()
    world.print(b"first ")
    watching.look()
    world.keep = lambda: False
    world.print(b"12345")
    world.keep = lambda: True
    world.print(b" last")
    world.stored[1] = b"first "
    world.end("failed")
    watching.to_the_end()
    assert watching.output(1) == b"first  last"
    assert sum(e.missing for e in watching.events if isinstance(e, Printed)) == 5


def test_it_goes_on_where_somebody_else_stopped_reading() -> None:
    world = World()
    world.begin()
    world.print(b"read already, and new")
    watching = Watching(world, output=OutputStream(1, len(b"read already,")))
    watching.look()
    world.end("succeeded")
    watching.to_the_end()
    assert watching.output(1) == b" and new"


def test_a_store_that_is_away_is_told_and_not_fatal() -> None:
    world = World()
    watching = Watching(world)
    watching.look()
    world.begin()
    world.print(b"shown live")
    watching.look()
    world.store_fails = True
    world.end("succeeded")
    watching.to_the_end()
    assert watching.output(1) == b"shown live"
    assert any("The store is away" in e.text for e in watching.events if isinstance(e, Troubled))


def test_a_controller_behind_a_broker_is_waited_for() -> None:
    world = World()
    watching = Watching(world)
    world.begin()
    watching.look()
    world.dead = True
    for _ in range(30):
        watching.look()
    world.print(b"unheard")
    world.end("succeeded")
    world.dead = False
    watching.to_the_end()
    troubles = [e.text for e in watching.events if isinstance(e, Troubled)]
    assert troubles == [
        "no controller answers; the training goes on, waiting for one",
        "a controller answers again",
    ]
    assert watching.output(1) == b"unheard"


def test_an_embedded_controller_that_was_restarted_is_asked_what_happened() -> None:
    world = World()
    gone = [False]

    def ensure() -> bool:
        was, gone[0] = gone[0], False
        return was

    watching = Watching(world, ensure)
    watching.look()
    world.begin()
    watching.look()
    world.keep = lambda: False
    world.print(b"while it was away")
    gone[0] = True
    watching.look(6)
    world.keep = lambda: True
    watching.look()
    watching.look()
    assert watching.output(1) == b"while it was away"


def test_giving_up_goes_through() -> None:
    def ensure() -> bool:
        raise NoController("The controller has ended again.")

    with pytest.raises(NoController):
        Watching(World(), ensure).look()


def test_wake_is_seen_between_two_events() -> None:
    world = World()
    watching = Watching(world)
    watching.look()
    watching.follower.wake()
    watching.look()
    assert any(isinstance(e, Woken) for e in watching.events)


def test_other_runs_are_none_of_its_business() -> None:
    world = World()
    watching = Watching(world)
    world.begin()
    watching.look()
    before = len(watching.events)
    body = OutputRelayed(attempt=1, offset=0, data=b"of somebody else")
    world._hear(Message(Envelope(kind="OutputRelayed", id="feed-2", run="run-2222"), body))
    watching.look()
    assert len(watching.events) == before
